"""Works on damaged stores in forks of itself, each of which may be stopped by what it meets.

Requests come as JSON, one a line; the answer to one is how its fork ended. What a fork found is in
the file that the request names. Importing everything once, and forking, makes a case a hundred
times cheaper than a new interpreter would.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import damage_store

import nt_memory.tiers.vectors  # noqa: F401 - imported before the first fork
from nt_memory.errors import NtMemoryError
from nt_memory.system.repairing import repair
from nt_memory.system.verifying import verify

LIMIT_S = 120
"""Nothing here takes so long, even on a machine with more to do than it can: what does, hangs."""


def work(request: dict[str, Any]) -> None:
    """Do what a request asks, and write down what came of it."""
    store, out = Path(request["store"]), Path(request["out"])
    with out.open("w") as file:
        match request["call"]:
            case "build":
                made = damage_store.build(
                    store,
                    Path(request["unclean"]),
                    seed=request["seed"],
                    with_graph=request["with_graph"],
                )
                json.dump(asyncio.run(made), file)
            case "answers":
                asyncio.run(damage_store.answers(store, request["plan"], file))
            case "verify":
                json.dump(_result(lambda: verify(store)), file)
            case "repair":
                json.dump(_result(lambda: repair(store)), file)


def _result(call: Any) -> dict[str, Any]:
    try:
        return dataclasses.asdict(call())
    except NtMemoryError as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    except Exception as error:  # noqa: BLE001 - the parent judges it
        return {"crash": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Serve until stdin ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.alarm(LIMIT_S)
            code = 1
            try:
                work(json.loads(line))
                code = 0
            except BaseException as error:  # noqa: BLE001 - reported, and the fork must not go on
                sys.stderr.write(f"{line[:200]}: {error!r}\n")
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
