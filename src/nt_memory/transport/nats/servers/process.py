"""One server's process: started, signalled, and ended by its pid."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING

from nt_memory.clock import SystemClock
from nt_memory.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from nt_memory.clock import Clock

STOP_S = 15.0
"""A server that stops writes out what its streams have; on a busy disk that takes seconds."""

_LOOK_EVERY_S = 0.02
_LOG_TAIL_BYTES = 4096


class ServerProcess:
    """A server that can be started again after it has ended.

    It is of a session of its own, so that Ctrl-C in a terminal reaches only whoever started it, who
    stops all servers in order.

    Args:
        program: `nats-server`.
        configuration: Its file.
        log: What it says is added to.
        held: Open files that it keeps open for as long as it lives.
        clock: For waiting.
    """

    def __init__(
        self,
        program: Path,
        configuration: Path,
        log: Path,
        *,
        held: tuple[int, ...] = (),
        clock: Clock | None = None,
    ) -> None:
        self._command = [str(program), "-c", str(configuration)]
        self._before: list[str] = []
        self._log = log
        self._held = held
        self._clock = clock or SystemClock()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process, which runs.

        Raises:
            StorageError: it does not.
        """
        if self._process is None or self._process.poll() is not None:
            raise StorageError(f"{self._command[0]} does not run{self.last_words()}")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has been started and has not ended; a paused one runs."""
        return self._process is not None and self._process.poll() is None

    def run_by(self, before: Sequence[str]) -> None:
        """Have what stands before its command start it from now on, and become it, with the same pid."""
        self._before = list(before)

    def start(self) -> None:
        """Start it; returns before it takes connections. Nothing if it runs."""
        if self.is_running:
            return
        fd = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(fd, "wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - a program that was looked up by name
                [*self._before, *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=self._held,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        """Send it a signal.

        Raises:
            StorageError: it does not run.
        """
        os.kill(self.pid, number)

    async def stop(self, within_s: float = STOP_S) -> None:
        """End it, kindly at first. Idempotent; a paused one is woken."""
        for number in (signal.SIGTERM, signal.SIGCONT):
            with contextlib.suppress(StorageError):  # it has ended by itself, or by the first
                self.send(number)
        if not await self._ended(within_s):
            await self.kill()

    async def kill(self) -> None:
        """End it at once, as a crash would. Idempotent."""
        with contextlib.suppress(StorageError):
            self.send(signal.SIGKILL)
            await self._ended(STOP_S)

    def last_words(self) -> str:
        """What it said last, to go behind an error; empty if it has said nothing."""
        try:
            with self._log.open("rb") as log:
                log.seek(max(0, self._log.stat().st_size - _LOG_TAIL_BYTES))
                lines = log.read().decode(errors="replace").strip().splitlines()
        except OSError:
            return ""
        fatal = [line for line in lines if "[FTL]" in line or line.startswith("nats-server:")]
        said = (fatal or lines or [""])[-1].strip()
        return f": it said {said!r}" if said else ""

    async def _ended(self, within_s: float) -> bool:
        end_ns = self._clock.monotonic_ns() + int(within_s * 1e9)
        while self.is_running:
            if self._clock.monotonic_ns() > end_ns:
                return False
            await self._clock.sleep(_LOOK_EVERY_S)
        return True
