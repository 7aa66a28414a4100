"""The directory of an embedded store: made, recognised, and held by one writer at a time."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import socket
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nt_memory.clock import to_datetime
from nt_memory.errors import (
    ForeignStoreError,
    FormatVersionError,
    NoStoreError,
    StorageError,
    StoreInUseError,
)
from nt_memory.transport.files import disk_bytes, sync_directory, to_storage_error

if TYPE_CHECKING:
    from nt_memory.clock import Clock

STORE_FORMAT = "nt-memory"
STORE_VERSION = 1

_FORMAT = "FORMAT"
_FORMAT_NEW = "FORMAT.new"
_LOCK = "LOCK"
_PARTS = ("journal", "base", "views", "vectors", "values")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@functools.cache
def boot_id() -> str:
    """What names this boot of the machine: equal in all its processes, and in no other boot.

    Where the system does not say, every process gets one of its own; that errs on the safe side,
    because views written under another boot are rebuilt.
    """
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return os.urandom(16).hex()


class Holder(NamedTuple):
    """A process that writes a store."""

    pid: int | None
    host: str


class StoreDirectory:
    """A claim on a store's directory, until `close`.

    A writer makes the directory when it is missing and holds it exclusively: `flock` on `LOCK`,
    which the operating system drops when the process dies, however it dies. A reader takes no lock.
    A fork does not inherit the claim.

    Args:
        path: The directory; parents are made too.
        clock: Source of the creation time.
        read_only: Only look: the store must exist, and may be held by a writer.
        must_exist: Do not make a store where there is none.

    Attributes:
        path: The directory.
        journal: Where the journal's segments are.
        bases: Where the base is that the journal goes on from.
        views: Where the views are.
        vectors: Where the vector files are.
        values: Where the value files are.

    Raises:
        ForeignStoreError: the path is not a directory, or one that holds something else.
        StorePermissionError: this user may not read it, or not write it as a writer must.
        FormatVersionError: a newer version made the store.
        StoreInUseError: another process, or another instance in this one, holds it; the message,
            `pid` and `host` say which.
        NoStoreError: there is no store (`read_only`, `must_exist`).
        StorageError: a file operation failed; `StorageFullError` likewise.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clock: Clock,
        read_only: bool = False,
        must_exist: bool = False,
    ) -> None:
        self.path: Path = Path(path)
        self.journal: Path = self.path / "journal"
        self.bases: Path = self.path / "base"
        self.views: Path = self.path / "views"
        self.vectors: Path = self.path / "vectors"
        self.values: Path = self.path / "values"
        self._lock_fd = -1
        try:
            if read_only or must_exist:
                self._look()
            if not read_only:
                self._claim(clock)
        except OSError as error:
            self.close()
            if isinstance(error, StorageError):
                raise
            raise to_storage_error(error, f"opening the store {self.path}") from error
        except BaseException:
            self.close()
            raise

    @property
    def is_claimed(self) -> bool:
        """Whether this instance may write."""
        return self._lock_fd >= 0

    def is_held_elsewhere(self) -> bool:
        """Whether a process other than this one seems to write here. For readers; asks no lock."""
        holder = self.writer()
        return holder is not None and holder.pid != os.getpid()

    def writer(self) -> Holder | None:
        """Which process seems to write here. For readers; asks no lock, and so may be mistaken."""
        try:
            found = _parse_object((self.path / _LOCK).read_bytes())
        except OSError:
            return None
        if not found:
            return None
        holder = Holder(found.get("pid"), str(found.get("host", "")))
        try:
            os.kill(int(found["pid"]), 0)
        except ProcessLookupError:
            return holder if holder.host != socket.gethostname() else None
        except (OSError, KeyError, TypeError, ValueError):
            return holder  # another user's, or not to be told
        return holder

    def disk_bytes(self) -> int:
        """What the store takes of the disk. Cost: a system call a file."""
        return disk_bytes(self.path)

    def close(self) -> None:
        """Give the directory back. Idempotent."""
        fd, self._lock_fd = self._lock_fd, -1
        if fd < 0:
            return
        _held.discard(self)
        with contextlib.suppress(OSError):
            # So that whoever comes next cannot read our name as the holder's.
            os.ftruncate(fd, 0)
        # Closing alone would not do while a fork has not yet closed its copy.
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)

    def forget(self) -> None:
        """In a fork: drop the inherited descriptor without giving the directory back."""
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)

    def _look(self) -> None:
        self._refuse_non_directory()
        if not self.path.exists():
            raise NoStoreError(f"{self.path}: there is no store here")
        if not self._check_format():
            self._refuse_foreign()
            raise NoStoreError(f"{self.path}: there is no store here")

    def _claim(self, clock: Clock) -> None:
        self._refuse_non_directory()
        self.path.mkdir(parents=True, exist_ok=True)
        # Both before the lock, so that a directory that is not ours is left without a trace.
        if not self._check_format():
            self._refuse_foreign()
        self._lock()
        _held.add(self)
        if not self._check_format():
            write_format(self.path, clock)
        for part in _PARTS:
            (self.path / part).mkdir(exist_ok=True)
        sync_directory(self.path)
        sync_directory(self.path.absolute().parent)

    def _refuse_non_directory(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise ForeignStoreError(f"{self.path}: not a directory")

    def _refuse_foreign(self) -> None:
        others = {entry.name for entry in self.path.iterdir()} - {_LOCK, _FORMAT_NEW}
        # FORMAT is the first thing a writer makes; one may have done so since we looked.
        if others and not (self.path / _FORMAT).exists():
            raise ForeignStoreError(
                f"{self.path}: not empty, and not a store: it holds {min(others)!r}"
            )

    def _check_format(self) -> bool:
        """Whether there is a store, of a format this version reads."""
        path = self.path / _FORMAT
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return False
        found = _parse_object(text)
        version = found.get("version")
        if found.get("format") != STORE_FORMAT or type(version) is not int:
            raise ForeignStoreError(f"{path}: not the format file of a store, or damaged")
        if version < 1:
            raise ForeignStoreError(f"{path}: there is no store format {version}; it is damaged")
        if version > STORE_VERSION:
            raise FormatVersionError(
                f"{path}: store format {version}; this version reads {STORE_VERSION}"
            )
        return True

    def _lock(self) -> None:
        fd = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _parse_object(os.pread(fd, 4096, 0))
            os.close(fd)
            pid, host = holder.get("pid"), holder.get("host")
            named = f"process {pid} on {host}" if holder else "another process"
            raise StoreInUseError(f"{self.path}: in use by {named}", pid=pid, host=host) from None
        except OSError:
            os.close(fd)
            raise
        self._lock_fd = fd
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)


def write_format(path: Path, clock: Clock) -> None:
    """Make a directory a store: write its `FORMAT`, which appears whole and durable.

    Raises:
        OSError: it could not be written.
    """
    created = to_datetime(clock.now_us()).isoformat()
    text = json.dumps({"format": STORE_FORMAT, "version": STORE_VERSION, "created": created})
    new = path / _FORMAT_NEW
    with new.open("w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    new.rename(path / _FORMAT)
    sync_directory(path)


def _parse_object(text: bytes) -> dict[str, Any]:
    """The JSON object in `text`; empty if there is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


_held: weakref.WeakSet[StoreDirectory] = weakref.WeakSet()


def _forget_in_fork() -> None:
    # A fork's copy of the descriptor would keep the directory locked after this process died.
    for directory in list(_held):
        directory.forget()
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_fork)
