"""Servers of peers: on loopback, on a free port, children of the peer's process."""

from __future__ import annotations

import atexit
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any

from peers.peer import MissingError

if TYPE_CHECKING:
    from pathlib import Path

HOST = "127.0.0.1"
START_S = 20.0
STOP_S = 20.0


def program(name: str, brought_by: str, *places: str) -> str:
    """Where a program is.

    Raises:
        MissingError: it is nowhere; says what brings it.
    """
    for path in (None, *places):
        found = shutil.which(name, path=path)
        if found:
            return found
    raise MissingError(f"no {name} here: {brought_by}")


def free_port() -> int:
    """A port that nobody listened at a moment ago."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A process that is started now, and has to take connections at a port soon."""

    def __init__(self, command: list[str], log: Path, port: int, user: str | None = None) -> None:
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, user=user, group=user
            )
        atexit.register(self.stop)  # also when the peer fails before it closes
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection((HOST, port), timeout=1.0).close()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    said = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
                    raise RuntimeError(f"{command[0]} did not start: it said {said[-1]}") from None
                time.sleep(0.02)
            else:
                return

    def stop(self, number: int = 15) -> None:
        """End it, and wait until it has."""
        atexit.unregister(self.stop)
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def said(command: list[str], **options: Any) -> str:
    """What a program prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=True, **options)
    return done.stdout.strip()
