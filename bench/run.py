"""Measure nt-memory and write the figures to bench/results/: `python bench/run.py --help`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

from _harness import Options, Row, leave_rows, machine, run_section, table, write_results
from _mix import mix
from _reopen import reopen
from _search import search
from _state import cold_reads, messages, reads, writes

# In this order: reopen opens what search left when it was killed.
SECTIONS = {
    "reads": reads,
    "cold_reads": cold_reads,
    "writes": writes,
    "mix": mix,
    "messages": messages,
    "search": search,
    "reopen": reopen,
}
RESULTS = Path(__file__).with_name("results")


def main() -> int:
    """Run every section, each in its own process, and print and write the table."""
    arguments = _parser().parse_args()
    if arguments.section:
        return _one_section(*arguments.section)
    if arguments.only and "reopen" in arguments.only and "search" not in arguments.only:
        sys.exit("reopen needs search, which fills the store and crashes")
    with tempfile.TemporaryDirectory(dir=arguments.workdir, prefix="nt-bench-") as workdir:
        options = Options(workdir, arguments.n, arguments.dim, arguments.queries, arguments.seconds)
        where = machine(workdir)
        rows: list[Row] = []
        failed = []
        for name in arguments.only or SECTIONS:
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                rows += run_section(name, options, Path(__file__))
            except RuntimeError as error:
                failed.append(str(error))
        print(table(rows, where))
        if arguments.only:
            print("not written: --only measures a part", file=sys.stderr)
        else:
            command = f"make bench BENCH_ARGS='--n {options.n} --name {arguments.name}'"
            written = write_results(rows, where, options, RESULTS, arguments.name, command)
            for path in written:
                print(path, file=sys.stderr)
    for failure in failed:
        print(failure, file=sys.stderr)
    return 1 if failed else 0


def _one_section(name: str, request: str) -> int:
    options = Options(**json.loads(request))
    leave_rows(name, options, asyncio.run(_measured(name, options)))
    return 0


async def _measured(name: str, options: Options) -> list[Row]:
    rows = await SECTIONS[name](options)
    if name == "search":
        leave_rows(name, options, rows)
        os.kill(os.getpid(), signal.SIGKILL)
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100_000, help="vectors to search (100,000)")
    parser.add_argument("--dim", type=int, default=384, help="their dimension (384)")
    parser.add_argument("--queries", type=int, default=500, help="searches timed (500)")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of timed mixes (5)")
    parser.add_argument("--name", default="bench", help="results/<date>-<name>.json and .md")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="measure these; write nothing")
    parser.add_argument("--workdir", help="where the stores go; put it on the disk to measure")
    parser.add_argument("--section", nargs=2, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
