"""Disks that fill up, fail, stall or lose their power, on demand."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

from nt_memory.transport.files import OsFileSystem

if TYPE_CHECKING:
    from pathlib import Path


class FaultyFileSystem:
    """A `FileSystem` over real files that misbehaves as told. Thread-safe enough for tests.

    Attributes:
        space: Bytes that can still be appended; None: no end. An append that needs more writes what
            fits and raises ENOSPC, as a real disk does.
        free: Bytes that the file system says are free; None: what it really says.
        sync_error: errno of every later `sync`; None: it works.
        truncate_error: errno of every later `truncate`; None: it works.
        append_error: errno of every later `append`, which writes nothing; None: it works.
        start_error: errno of every later `start_sync`; None: it works.
        syncs: How often `sync` succeeded.
        starts: First byte and size of what each `start_sync` was asked to write, in order.
    """

    def __init__(self) -> None:
        self._files = OsFileSystem()
        self._may_sync = threading.Event()
        self._may_sync.set()
        self._is_stalled = threading.Event()
        self._may_append = threading.Event()
        self._may_append.set()
        self.space: int | None = None
        self.free: int | None = None
        self.append_error: int | None = None
        self.sync_error: int | None = None
        self.truncate_error: int | None = None
        self.start_error: int | None = None
        self.syncs: int = 0
        self.starts: list[tuple[int, int]] = []

    def append(self, fd: int, data: bytes) -> None:
        """Write at the end, once it may and as far as there is space."""
        if not self._may_append.is_set():
            self._is_stalled.set()
            self._may_append.wait()
        _raise_if(self.append_error)
        if self.space is None:
            self._files.append(fd, data)
            return
        fitting = data[: self.space]
        self._files.append(fd, fitting)
        self.space -= len(fitting)
        if len(fitting) < len(data):
            _raise_if(errno.ENOSPC)

    def reserve(self, fd: int, size: int) -> None:
        """Make the file longer, if it can."""
        _raise_if(errno.ENOSPC if self.space is not None else self.append_error)
        self._files.reserve(fd, size)

    def start_sync(self, fd: int, start: int, size: int) -> None:
        """Begin to write, which promises nothing, if it can."""
        _raise_if(self.start_error)
        self.starts.append((start, size))
        self._files.start_sync(fd, start, size)

    def sync(self, fd: int) -> None:
        """Sync the file, once it may and if it can."""
        if not self._may_sync.is_set():
            self._is_stalled.set()
            self._may_sync.wait()
        _raise_if(self.sync_error)
        self._files.sync(fd)
        self.syncs += 1

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file, if it can."""
        _raise_if(self.truncate_error)
        self._files.truncate(fd, size)

    def free_bytes(self, fd: int) -> int:
        """What is left, of `free` if that is set."""
        return self._files.free_bytes(fd) if self.free is None else self.free

    def stall_sync(self) -> None:
        """Let every later `sync` hang until `resume_sync`."""
        self._is_stalled.clear()
        self._may_sync.clear()

    def stall_append(self) -> None:
        """Let every later `append` hang until `resume_append`."""
        self._is_stalled.clear()
        self._may_append.clear()

    def resume_append(self) -> None:
        """Let hanging and later appends go on."""
        self._may_append.set()

    def wait_stalled(self, timeout: float = 10.0) -> bool:
        """Wait until a call hangs; False if none did in `timeout` seconds."""
        return self._is_stalled.wait(timeout)

    def resume_sync(self) -> None:
        """Let hanging and later syncs go on."""
        self._may_sync.set()


class VolatileFileSystem(FaultyFileSystem):
    """A disk that knows what a power loss would leave of each file: what was synced of it.

    Names, as directories are made durable at once by who makes them, are taken to survive.
    """

    def __init__(self) -> None:
        super().__init__()
        self._guard = threading.Lock()
        self._written: dict[int, int] = {}
        self._synced: dict[int, int] = {}

    def append(self, fd: int, data: bytes) -> None:  # type: ignore[explicit-override]
        """Write at the end; it is not durable yet."""
        with self._guard:
            super().append(fd, data)
            self._written[os.fstat(fd).st_ino] = os.lseek(fd, 0, os.SEEK_CUR)

    def sync(self, fd: int) -> None:  # type: ignore[explicit-override]
        """Make durable what was written before this call."""
        inode = os.fstat(fd).st_ino
        with self._guard:
            end = self._written.get(inode, os.fstat(fd).st_size)
        super().sync(fd)
        with self._guard:
            self._synced[inode] = end

    def truncate(self, fd: int, size: int) -> None:  # type: ignore[explicit-override]
        """Cut the file; what was durable behind that is gone too."""
        with self._guard:
            super().truncate(fd, size)
            inode = os.fstat(fd).st_ino
            for ends in (self._written, self._synced):
                if inode in ends:
                    ends[inode] = min(size, ends[inode])

    def image(self, directory: Path, *, kept: float = 0.0) -> dict[str, bytes]:
        """What the files of a directory would hold if the power failed now.

        Args:
            directory: Whose files.
            kept: Share of what was not synced that has reached the disk all the same, in order.
        """
        with self._guard:
            return {path.name: self._left_of(path, kept) for path in sorted(directory.iterdir())}

    def _left_of(self, path: Path, kept: float) -> bytes:
        inode = path.stat().st_ino
        data = path.read_bytes()
        synced = self._synced.get(inode, 0)
        end = synced + int((self._written.get(inode, synced) - synced) * kept)
        # What was reserved ahead reads as zeros.
        return data[:end] + bytes(len(data) - end)


def _raise_if(number: int | None) -> None:
    if number is not None:
        raise OSError(number, os.strerror(number))
