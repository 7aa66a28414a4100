"""The directory of local servers: what is in it, who holds it, and how to stop whoever does.

servers.json       names and ports, chosen once
route.password     which servers show each other
keys/system.nk     seed by which the servers are asked about themselves
keys/operator.nk   seed of whoever may do anything within the swarm
keys/<agent>.nk    seeds of agents
<name>/            a server's configuration, log and streams
LOCK               held by every server that runs, so that the directory is in use for as long as
                   one of them lives, even if whoever started them has died
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nt_memory.errors import ForeignStoreError, StoreInUseError, StorePermissionError
from nt_memory.transport.files import sync_directory
from nt_memory.transport.nats.servers.process import STOP_S

if TYPE_CHECKING:
    from nt_memory.clock import Clock

_FORMAT = "nt-memory servers"
_FILE = "servers.json"
_LOCK = "LOCK"
_LOOK_EVERY_S = 0.05


class ServersDirectory:
    """A directory of servers.

    Args:
        path: Where; made by `claim`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path = Path(path)
        self.keys: Path = self.path / "keys"
        self._lock_fd = -1

    @property
    def lock_fd(self) -> int:
        """The lock, for servers to hold too."""
        return self._lock_fd

    def exists(self) -> bool:
        """Whether servers were ever started here."""
        return (self.path / _FILE).exists()

    def read(self) -> dict[str, Any] | None:
        """What was chosen when it was made; None if nothing was.

        Raises:
            ForeignStoreError: it is not a directory, or holds something else.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ForeignStoreError(f"{self.path} is not a directory")
        try:
            found = json.loads((self.path / _FILE).read_text())
        except FileNotFoundError:
            if self.path.is_dir() and any(
                entry.name not in {_LOCK, "keys"} for entry in self.path.iterdir()
            ):
                raise ForeignStoreError(f"{self.path} holds something else than servers") from None
            return None
        except ValueError:
            found = None
        if not isinstance(found, dict) or found.get("format") != _FORMAT:
            raise ForeignStoreError(f"{self.path / _FILE} was not written by nt-memory")
        return found

    def write(self, chosen: dict[str, Any]) -> None:
        """Keep what was chosen, durably."""
        write_private(self.path / _FILE, json.dumps({"format": _FORMAT, **chosen}, indent=1) + "\n")

    def claim(self) -> None:
        """Make the directory if it is missing, and hold it.

        Raises:
            StoreInUseError: servers run in it, or are being started; `pid` says one of them.
            ForeignStoreError: as `read`.
            StorePermissionError: this user may not write there.
        """
        self.read()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except PermissionError as error:
            raise StorePermissionError(f"{self.path} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            holders = self.holders()
            pid = holders[0] if holders else None
            raise StoreInUseError(
                f"{self.path} is in use by process {pid if pid is not None else 'unknown'} on "
                f"{socket.gethostname()}",
                pid=pid,
                host=socket.gethostname(),
            ) from None
        self._lock_fd = fd
        self.note([], owner=os.getpid())

    def note(self, servers: list[int], *, owner: int | None = None) -> None:
        """Write down who holds the directory: servers, and who stops them when asked to, if anybody."""
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, json.dumps({"owner": owner, "servers": servers}).encode(), 0)

    def let_go(self) -> None:
        """Hold it no more; servers that run still do. Idempotent."""
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)  # not LOCK_UN, which would take it from the servers too

    def is_held(self) -> bool:
        """Whether some process holds the directory."""
        try:
            fd = os.open(self.path / _LOCK, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def holders(self) -> list[int]:
        """Pids of those that were written down and hold the directory, the owner before servers."""
        try:
            found = json.loads((self.path / _LOCK).read_text())
            pids = [found["owner"], *found["servers"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []
        return [pid for pid in pids if isinstance(pid, int) and _has_open(pid, self.path / _LOCK)]

    async def stop_holders(self, clock: Clock, within_s: float = 2 * STOP_S) -> list[int]:
        """End whoever holds the directory, kindly at first; their pids.

        An owner stops its servers itself. Numbers of processes that have ended, and may be others'
        by now, are told apart by what a process has open.

        Raises:
            StoreInUseError: it is still held after `within_s`; `pid` says by whom.
        """
        told: set[int] = set()
        end_ns = clock.monotonic_ns() + int(within_s * 1e9)
        while self.is_held():
            holders = self.holders()
            if clock.monotonic_ns() > end_ns:
                pid = holders[0] if holders else None
                raise StoreInUseError(f"{self.path} is still held by process {pid}", pid=pid)
            asked = holders[:1] if holders and holders[0] == self._owner() else holders
            for pid in asked:
                if pid not in told:
                    told.add(pid)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)
            await clock.sleep(_LOOK_EVERY_S)
        return sorted(told)

    def _owner(self) -> int | None:
        try:
            owner = json.loads((self.path / _LOCK).read_text())["owner"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return owner if isinstance(owner, int) else None


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, durably. Whoever reads it meanwhile finds the old or the new.

    A server that finds its configuration empty takes the defaults: all addresses, and nobody asked for a key.
    """
    new = path.with_name(f"{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(fd)
    new.replace(path)
    sync_directory(path.parent)


def _has_open(pid: int, path: Path) -> bool:
    """Whether a process has a file open; where the system does not say, whether it lives."""
    opened = Path(f"/proc/{pid}/fd")
    if not Path("/proc/self/fd").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True
    wanted = str(path.resolve())
    with contextlib.suppress(OSError):
        for each in opened.iterdir():
            with contextlib.suppress(OSError):
                if str(each.readlink()) == wanted:
                    return True
    return False
