"""The workload on every peer, one after another, each in a process of its own.

    make bench-peers                                  all of them, at most eight minutes
    make bench-peers PEERS_ARGS="--n 50000 --peers mem0 Redis"

Run by this Python; the peers run by the one that `--python` names, in which nt-memory is not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from nt_memory.apps.bench.machine import PACKAGES, machine
from peers.adapters import OURS, PLACES
from peers.running import Runner
from peers.tables import write
from peers.workload import Sizes, prepare

RESULTS = Path(__file__).parents[1] / "results"


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m peers", description=__doc__)
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="of the peers")
    parser.add_argument(
        "--n", type=int, default=Sizes.rows, help="situations that are there before"
    )
    parser.add_argument("--dim", type=int, default=Sizes.dim)
    parser.add_argument(
        "--limit", type=float, default=Sizes.limit_s, help="seconds for each kind of call"
    )
    parser.add_argument(
        "--budget", type=float, default=90.0, help="seconds for each process of a peer"
    )
    parser.add_argument("--peers", nargs="+", choices=list(PLACES), default=list(PLACES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    sizes = replace(Sizes(), rows=asked.n, dim=asked.dim, limit_s=asked.limit)
    command, text = f"make bench-peers PEERS_ARGS='--n {asked.n}'", ""
    with tempfile.TemporaryDirectory(prefix="nt-peers-") as made:
        work = Path(made)
        where = machine(work, PACKAGES)
        prepare(work / "workload", sizes)
        found = {}
        for name in asked.peers:
            print(f"{name} ...", flush=True)
            python = Path(sys.executable) if name == OURS else asked.python.absolute()
            runner = Runner(name, python, work / "workload", work / "peers", asked.budget)
            found[name] = runner.run()
            print(f"  {found[name]['seconds']:.0f} s", flush=True)
            # After each: a run that is stopped leaves what it had found.
            text = write(asked.out, command, where, sizes, found)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
