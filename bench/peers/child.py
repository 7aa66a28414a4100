"""The process of one peer: `python -m peers.child PEER TASK WORKLOAD DIRECTORY [ACKNOWLEDGED...]`.

It writes what it finds as lines of JSON to `found.jsonl` in its directory while it goes; in the task "write"
it tells what was acknowledged on standard output.
"""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from pathlib import Path
from typing import Any

from peers import durability, lookahead, phases
from peers.adapters import adapter
from peers.peer import MissingError
from peers.workload import Workload


async def _task(
    name: str, task: str, workload: Workload, directory: Path, acked: list[int]
) -> None:
    def report(**found: Any) -> None:
        with (directory / "found.jsonl").open("a") as file:
            file.write(json.dumps(found) + "\n")

    try:
        peer = adapter(name)(directory / "store", workload)
        peer.directory.mkdir(parents=True, exist_ok=True)
        if task == "phases":
            await phases.run(peer, report)
            # The one that watches reads this process' memory, and says when it has.
            print("measured", flush=True)
            sys.stdin.readline()
            await phases.awaited(peer.close())
        elif task == "write":
            await durability.write(peer)
        elif task == "count":
            await durability.count(peer, *acked, report)
        else:
            await lookahead.look(peer, report)
    except (MissingError, ImportError) as error:
        report(missing=str(error))
    except Exception as error:  # noqa: BLE001 - whatever a peer raises is its row of the table
        traceback.print_exc()
        report(error=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        sys.exit(1)
    report(is_done=True)


if __name__ == "__main__":
    asked, what, prepared, own, *counts = sys.argv[1:]
    asyncio.run(_task(asked, what, Workload(Path(prepared)), Path(own), [int(n) for n in counts]))
