"""The few file operations the store is built on, and what their errors mean.

The journal writes through `FileSystem`, so that tests can make a disk fill up or fail
(`nt_memory.testing.faults`); everything else about files is ordinary.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from nt_memory.errors import StorageError, StorageFullError, StorePermissionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BLOCK_BYTES = 512  # of st_blocks, whatever the file system's own are
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_sync_data = getattr(os, "fdatasync", os.fsync)
_allocate: Callable[[int, int, int], None] | None = getattr(os, "posix_fallocate", None)
_advise: Callable[[int, int, int, int], None] | None = getattr(os, "posix_fadvise", None)
# macOS acknowledges an fsync before the drive has written; this one waits for the drive.
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)


class FileSystem(Protocol):
    """How the journal changes its files. Any method may raise OSError."""

    def append(self, fd: int, data: bytes) -> None:
        """Write all of `data` behind what was appended last; after an error some may be there."""
        ...

    def reserve(self, fd: int, size: int) -> None:
        """Make the file `size` bytes long, zeros behind what it has, where that can be done.

        Writing into a file is then one I/O, where making it longer takes two: the file system has
        to write down its new length as well.
        """
        ...

    def sync(self, fd: int) -> None:
        """Return once everything written to the file would survive a power loss."""
        ...

    def start_sync(self, fd: int, start: int, size: int) -> None:
        """Begin to write a part of the file to the disk, without waiting, where that can be done."""
        ...

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file to `size` bytes, and append there from now on."""
        ...

    def free_bytes(self, fd: int) -> int:
        """What this user may still write to the file system that the file is on."""
        ...


class OsFileSystem:
    """The operating system's files. `append` writes where the descriptor is."""

    def append(self, fd: int, data: bytes) -> None:
        """See `FileSystem.append`."""
        written = os.write(fd, data)
        rest = memoryview(data)[written:]
        while rest:
            rest = rest[os.write(fd, rest) :]

    def sync(self, fd: int) -> None:
        """See `FileSystem.sync`."""
        if _FULL_SYNC is not None:
            fcntl.fcntl(fd, _FULL_SYNC)
        else:
            _sync_data(fd)

    def reserve(self, fd: int, size: int) -> None:
        """See `FileSystem.reserve`."""
        if _allocate is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        _allocate(fd, 0, size)

    def start_sync(self, fd: int, start: int, size: int) -> None:
        """See `FileSystem.start_sync`."""
        # Linux writes out what is said to be needed no more; it drops whole pages only, and only
        # those that are on disk already.
        if _advise is not None:
            _advise(fd, start, size, os.POSIX_FADV_DONTNEED)

    def truncate(self, fd: int, size: int) -> None:
        """See `FileSystem.truncate`."""
        os.ftruncate(fd, size)
        os.lseek(fd, size, os.SEEK_SET)

    def free_bytes(self, fd: int) -> int:
        """See `FileSystem.free_bytes`."""
        found = os.fstatvfs(fd)
        return found.f_bavail * found.f_frsize


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power loss.

    Raises:
        OSError: the operating system failed to.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    """Make the content of a file survive a power loss.

    Raises:
        OSError: the operating system failed to.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        OsFileSystem().sync(fd)
    finally:
        os.close(fd)


def below(directory: str | os.PathLike[str]) -> Iterator[tuple[Path, os.stat_result]]:
    """Path and status of all that is below a directory; links are not followed.

    What goes meanwhile, as when views are exchanged, is passed over, and so is what may not be looked at.
    """
    for place, directories, files in os.walk(directory):
        for name in (*directories, *files):
            path = Path(place, name)
            try:
                status = path.lstat()
            except OSError:
                continue
            yield path, status


def disk_bytes(directory: str | os.PathLike[str]) -> int:
    """What is below a directory takes of the disk; of sparse files what they use.

    Cost: a system call a file.
    """
    return sum(status.st_blocks * _BLOCK_BYTES for _, status in below(directory))


def to_storage_error(error: OSError, doing: str) -> StorageError:
    """The store's word for an operating system error.

    Args:
        error: What happened.
        doing: What was tried, for the message: "writing <path>".
    """
    message = f"{doing}: {os.strerror(error.errno) if error.errno else error}"
    if error.errno in _FULL:
        return StorageFullError(message)
    if error.errno in _DENIED:
        return StorePermissionError(message)
    return StorageError(message)
