"""Measure storage beside the bare disk and beside others: `python bench/storage.py --help`.

What others are measured comes with `pip install -c constraints.txt -e '.[bench]'`; one that is
missing is skipped, and the table says so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from _durable import durable
from _harness import Options, Row, leave_rows, machine, run_section, table, write_results
from _history import history
from _hot import hot
from _paced import disk, paced

SECTIONS = {
    "durable": durable,
    "history": history,
    "hot": hot,
    "paced": paced,
    "disk": disk,
}
RESULTS = Path(__file__).with_name("results")


def main() -> int:
    """Run every section, each in its own process, and print and write the table."""
    arguments = _parser().parse_args()
    if arguments.section:
        name, request = arguments.section
        options = Options(**json.loads(request))
        leave_rows(name, options, asyncio.run(SECTIONS[name](options)))
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.workdir, prefix="nt-storage-") as workdir:
        options = Options(
            workdir,
            seconds=arguments.seconds,
            versions=arguments.versions,
            pace_s=arguments.pace_seconds,
        )
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
            asked = (
                f"--seconds {options.seconds:g} --versions {options.versions} "
                f"--pace-seconds {options.pace_s:g} --name {arguments.name}"
            )
            command = f"make bench-storage STORAGE_ARGS='{asked}'"
            written = write_results(rows, where, options, RESULTS, arguments.name, command)
            for path in written:
                print(path, file=sys.stderr)
    for failure in failed:
        print(failure, file=sys.stderr)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="of puts by each store and number of writers (5)"
    )
    parser.add_argument("--versions", type=int, default=1_000_000, help="of history (1,000,000)")
    parser.add_argument("--pace-seconds", type=float, default=60.0, help="of 10,000 puts/s (60)")
    parser.add_argument("--name", default="storage", help="results/<date>-<name>.json and .md")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="measure these; write nothing")
    parser.add_argument("--workdir", help="where the stores go; put it on the disk to measure")
    parser.add_argument("--section", nargs=2, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
