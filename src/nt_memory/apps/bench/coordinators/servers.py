"""Servers of a run: on loopback, on a free port, in a directory of their own, ended by their pid."""

from __future__ import annotations

import atexit
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from nt_memory.apps.bench.loading import MissingError
from nt_memory.clock import SystemClock

HOST = "127.0.0.1"
START_S = 10.0
STOP_S = 5.0
_LOOK_EVERY_S = 0.02
_now = time.perf_counter


def program(name: str, brought_by: str) -> str:
    """Where a program is: on PATH, or beside this Python.

    Raises:
        MissingError: it is nowhere; says what brings it.
    """
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        raise MissingError(f"no {name} on PATH: {brought_by}")
    return found


def free_port() -> int:
    """A port that nobody listened at a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A process that is started now and ended by `stop`.

    It also ends with whoever started it: at exit, and by being of the same process group.

    Args:
        command: What to run.
        directory: Where it runs; `server.log` there has what it said.
        user: In whose name, if this process may choose.
    """

    def __init__(self, command: list[str], directory: Path, *, user: str | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._log = directory / "server.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - a program that was looked up by name
                command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=user,
            )
        atexit.register(self.stop)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    async def listening(self, port: int) -> None:
        """Wait until it takes connections.

        Raises:
            RuntimeError: it ended, or did not within `START_S`.
        """
        clock, deadline = SystemClock(), _now() + START_S
        while self._process.poll() is None and _now() < deadline:
            try:
                socket.create_connection((HOST, port), timeout=1.0).close()
            except OSError:
                await clock.sleep(_LOOK_EVERY_S)
            else:
                return
        self.stop()
        said = self._log.read_text(errors="replace").strip().splitlines() or ["nothing"]
        raise RuntimeError(f"{self._process.args!r} did not start: it said {said[-1]}")

    def stop(self) -> None:
        """End it, kindly at first. Idempotent."""
        atexit.unregister(self.stop)
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
