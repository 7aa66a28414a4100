"""The process of one job: `python -m nt_memory.apps.bench.child job.json`; see `processes`."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nt_memory.apps.bench.loading import MissingError

if TYPE_CHECKING:
    from collections.abc import Callable

    Job = Callable[..., None]


class Report:
    """Where a job says what it found; each line is on its way to the file before the next step.

    Args:
        path: Lines of JSON are appended to it.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def __call__(self, **figures: Any) -> None:
        """Add figures; a name that was used before is replaced."""
        self._file.write(json.dumps(figures) + "\n")
        self._file.flush()

    def phase(self, name: str) -> None:
        """Say what is being done now, for whoever finds this process too slow."""
        self(phase=name)


def end_with_parent() -> None:
    """End this process, and what it started, when the one that started it is gone.

    The parent holds the other end of standard input and never writes; the end of it is the parent's.
    """
    # Not by `sys.stdin`, whose lock would be held when the interpreter ends.
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def main(request: str) -> int:
    """Do what the request says; 0 if it was done."""
    asked = json.loads(Path(request).read_text())
    report = Report(Path(asked["found"]))
    name, _, function = asked["job"].partition(":")
    try:
        # Only now, so that the imports of one job are not in the memory of another.
        job: Job = getattr(importlib.import_module(name), function)
        job(report, Path(request).parent, **asked["options"])
    except MissingError as error:
        report(error=str(error))
        return 1
    except Exception as error:  # noqa: BLE001 - whatever a contender raises is its row of the table
        traceback.print_exc()
        first = (str(error).strip().splitlines() or [""])[0]
        report(error=f"{type(error).__name__}: {first}")
        return 1
    report(is_done=True)
    return 0


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    sys.exit(main(sys.argv[1]))
