"""A command that runs while this process holds a lock.

Signals: SIGTERM and SIGHUP are passed on to the command. Ctrl-C reaches it by itself where the
terminal sends it to the whole foreground group; otherwise SIGINT is passed on too. Either way this
process waits for the command to end, so that the lock is never given back under it; then it ends as
the command did. A command that goes on although its lock was lost meets SIGKILL after a while.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

from nt_memory.apps.cli.exits import SIGNALLED, Exit
from nt_memory.apps.cli.printing import note
from nt_memory.apps.cli.running import opened, run

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Sequence

    from nt_memory import LockToken

GRACE_S = 10.0
"""How long a command may go on after its lock was lost, once it was told to end."""
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
_STOPS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def run_locked(
    name: str,
    command: Sequence[str],
    *,
    timeout: float,
    lease: float,
    holder: str,
    store: str | None,
    acting: str | None,
) -> int:
    """Run a command under a lock.

    Returns:
        Its exit code; 128 and its number if a signal ended it; 126 or 127 if it cannot be run.

    Raises:
        LockTimeoutError: the lock was not granted in time.
        StoreInUseError: another process writes the store all that time.
        NtMemoryError: whatever opening the store raises.
    """
    code = int(Exit.FAILED)

    async def locked() -> None:
        nonlocal code
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        async with opened(store, writes=True, acting=acting, wait=timeout) as memory:
            left = max(deadline - loop.time(), 0.0)
            scope = memory.lock(name, timeout=left, lease=lease, holder=holder or _who())
            async with scope as token:
                code = await _command(name, command, token)

    run(locked())
    return code


async def _command(name: str, command: Sequence[str], token: LockToken) -> int:
    child = _Child()
    loop = asyncio.get_running_loop()
    # Before it is started: a signal that came in between would end this process, and the lock with
    # it, but not the command.
    for number in _STOPS:
        loop.add_signal_handler(number, child.pass_on, number)
    try:
        environment = {**os.environ, "NT_LOCK_NAME": name, "NT_LOCK_FENCE": str(token.fence)}
        try:
            child.start(await asyncio.create_subprocess_exec(*command, env=environment))
        except FileNotFoundError:
            note(f"nt-memory: {command[0]}: no such command")
            return _NOT_FOUND
        except OSError as error:
            note(f"nt-memory: {command[0]}: {error.strerror}")
            return _NOT_EXECUTABLE
        return await _end(name, child, token)
    finally:
        for number in _STOPS:
            loop.remove_signal_handler(number)


async def _end(name: str, child: _Child, token: LockToken) -> int:
    """Wait for the command; if the lock is lost first, end it."""
    ended = asyncio.ensure_future(child.wait())
    lost = asyncio.ensure_future(token.lost.wait())
    try:
        await asyncio.wait((ended, lost), return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            code = ended.result()
            return code if code >= 0 else SIGNALLED - code
        note(f"nt-memory: lock {name!r} was lost; the command is told to end")
        child.send(signal.SIGTERM)
        done, _ = await asyncio.wait((ended,), timeout=GRACE_S)
        if not done:
            child.send(signal.SIGKILL)
            await ended
        return Exit.LOST
    finally:
        lost.cancel()


class _Child:
    """The command: signals that come before it has started reach it once it has."""

    def __init__(self) -> None:
        self._process: Process | None = None
        self._early: list[int] = []

    def start(self, process: Process) -> None:
        """It runs now."""
        self._process = process
        for number in self._early:
            self.send(number)

    async def wait(self) -> int:
        """Its exit code, negative if a signal ended it."""
        assert self._process is not None  # noqa: S101 - it was started
        return await self._process.wait()

    def pass_on(self, number: int) -> None:
        """This process got a signal."""
        if number == signal.SIGINT and _is_in_foreground():
            return  # the terminal has sent it to the command as well
        self.send(number)

    def send(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self._process is None:
            self._early.append(number)
        elif self._process.returncode is None:
            self._process.send_signal(number)


def _is_in_foreground() -> bool:
    """Whether a terminal's Ctrl-C goes to this process and what it has started."""
    try:
        return sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}:{os.getpid()}"[:128]
