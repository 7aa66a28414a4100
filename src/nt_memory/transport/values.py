"""Value files: large values, each in an immutable file that is named by the digest of its content.

A file is complete and durable before the entry that refers to it is handed to the journal, so no
entry ever refers to what is not there. The other way round nothing is promised: a crash, a refusal
or a cancellation between the two leaves a file that nothing refers to, and `sweep` removes it.

A sweep must not take a file that is just being referred to. So whoever puts a value *pins* its
file until the entry has been decided, whoever reads one until it is mapped, and everything that was
pinned at any moment since a sweep began is spared by it. Pinning and deleting exclude each other;
after pinning a file it is either there and stays, or it is not and has to be written.

An open map survives the deletion of its file, so what was read stays readable.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from mmap import ACCESS_READ, mmap
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from nt_memory.codec import FILE_FROM_BYTES, Draft, compress, decode_with
from nt_memory.codec.filed import DIGEST_BYTES, Reference, read_reference, write_reference
from nt_memory.codec.raising import PartOfFile
from nt_memory.errors import CorruptionError, StorageError, StorageFullError
from nt_memory.transport.files import OsFileSystem, sync_directory, to_storage_error
from nt_memory.transport.segment_writer import RESERVE_BYTES
from nt_memory.transport.value_layout import (
    Contents,
    check_value,
    read_contents,
    size_of,
    write_value,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from pathlib import Path

    from nt_memory.transport.files import FileSystem

_NEW = ".new"
_Identity = tuple[int, int, int]


class ValueFiles:
    """The value files of one store. Callable from any thread.

    Args:
        directory: Where they are; a follower's may be missing.
        files: How files are changed.
    """

    def __init__(self, directory: Path, *, files: FileSystem | None = None) -> None:
        self.directory = directory
        self.files: FileSystem = OsFileSystem() if files is None else files
        self._lock = threading.Lock()
        self._pins: Counter[bytes] = Counter()
        self._holds = 0
        self._spared: set[bytes] | None = None
        self._verified: dict[bytes, _Identity] = {}
        self._maps: WeakValueDictionary[tuple[bytes, int], mmap] = WeakValueDictionary()
        self._bytes: int | None = None

    def path(self, digest: bytes) -> Path:
        """Where the file of a digest is, or would be."""
        return self.directory / digest.hex()

    # --- writing ------------------------------------------------------------------------------

    def write(
        self,
        draft: Draft,
        *,
        compresses: bool,
        is_stopped: Callable[[], bool],
        on_read: Callable[[], None],
    ) -> bytes | None:
        """Make a draft durable. Blocks: call it off the event loop.

        Args:
            draft: What to write.
            compresses: Use zstd for the body if that makes it smaller.
            is_stopped: Whether to give up; asked now and then.
            on_read: Called once nothing of the draft will be read any more.

        Returns:
            The encoded value to store: a reference to the file, which is pinned and has to be
            unpinned; or, if there are no parts and the body was compressed to `FILE_FROM_BYTES` or
            less, that itself. None if it was given up.

        Raises:
            StorageFullError: no space is left; nothing is left behind.
            StorageError: it could not be written.
        """
        body = compress(draft.body) if compresses else draft.body
        if not draft.parts and len(body) <= FILE_FROM_BYTES:
            on_read()
            return body
        new = self.directory / (secrets.token_hex(16) + _NEW)
        try:
            fd = os.open(
                new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o666
            )
            try:
                self._check_space(fd, body, draft)
                reference = write_value(
                    self.files, fd, body, draft, is_stopped=is_stopped, on_read=on_read
                )
            finally:
                os.close(fd)
            if reference is None or is_stopped():
                return None
            self._publish(new, reference)
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise to_storage_error(error, f"writing {new}") from error
        finally:
            with suppress(OSError):
                new.unlink()
        return write_reference(reference)

    def _check_space(self, fd: int, body: bytes, draft: Draft) -> None:
        # Refused before it is written, and with what the journal needs to go on left over.
        wanted = size_of(
            len(body), [len(p) if isinstance(p, bytes) else p.nbytes for p in draft.parts]
        )
        free = self.files.free_bytes(fd)
        if free < wanted + RESERVE_BYTES:
            raise StorageFullError(
                f"{self.directory}: a value of {wanted} bytes does not fit: {free} bytes are free, "
                f"of which {RESERVE_BYTES} are kept for the journal"
            )

    def _publish(self, new: Path, reference: Reference) -> None:
        """Name a file by its digest, unless there is such a file already; it is pinned."""
        self.pin(reference.digest)
        try:
            if not self._is_whole(reference):
                path = self.path(reference.digest)
                new.rename(path)  # also over one that was damaged
                self._remember(reference, path.stat())
            # Not only after a rename: whoever made the file that is there may not have come so far.
            sync_directory(self.directory)
        except BaseException:
            self.unpin(reference.digest)
            raise

    def _is_whole(self, reference: Reference) -> bool:
        try:
            with self._open(reference):
                return True
        except CorruptionError:
            return False

    # --- reading ------------------------------------------------------------------------------

    def load(self, data: bytes, whose: str) -> Any:
        """The value that a reference stands for, read-only.

        Args:
            data: The reference.
            whose: Whose value it is, for messages.

        Raises:
            CorruptionError: the file is missing or damaged; the message names it and `whose`.
            FormatVersionError: a newer version wrote it.

        Cost: the first time in this process the file is verified, 0.25 s a gigabyte and the disk's
            time; after that it is mapped in microseconds, but `bytes` are copied out of it.
        """
        reference = read_reference(data)
        try:
            with self._open(reference) as fd:
                path = self.path(reference.digest)
                contents = read_contents(fd, path)
                parts = _MappedParts(fd, self._map(reference, fd), contents)
                return decode_with(parts.body(), parts)
        except CorruptionError as error:
            raise CorruptionError(f"{error}; it is the value of {whose}") from error
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise to_storage_error(error, f"mapping {self.path(reference.digest)}") from error

    @contextmanager
    def _open(self, reference: Reference) -> Generator[int]:
        """A file, verified.

        Raises:
            CorruptionError: it is missing or damaged.
        """
        path = self.path(reference.digest)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise CorruptionError(f"{path}: the value file is missing") from None
        except OSError as error:
            raise to_storage_error(error, f"reading {path}") from error
        try:
            found = os.fstat(fd)
            if self._verified.get(reference.digest) != _identity(found):
                try:
                    check_value(fd, path, reference)
                except OSError as error:
                    raise CorruptionError(f"{path}: cannot be read: {error}") from error
                self._remember(reference, found)
            yield fd
        finally:
            os.close(fd)

    def _map(self, reference: Reference, fd: int) -> mmap:
        # A damaged file may have been replaced by a whole one of the same name.
        place = reference.digest, os.fstat(fd).st_ino
        with self._lock:
            found = self._maps.get(place)
            if found is None:
                found = self._maps[place] = mmap(fd, reference.size, access=ACCESS_READ)
            return found

    def _remember(self, reference: Reference, found: os.stat_result) -> None:
        with self._lock:
            self._verified[reference.digest] = _identity(found)
            self._bytes = None

    # --- what must stay -----------------------------------------------------------------------

    def pin(self, digest: bytes) -> None:
        """From now on no sweep removes the file of a digest."""
        with self._lock:
            self._pins[digest] += 1
            if self._spared is not None:
                self._spared.add(digest)

    def unpin(self, digest: bytes) -> None:
        """The opposite of `pin`. A sweep that is under way spares the file all the same."""
        with self._lock:
            self._pins[digest] -= 1
            if not self._pins[digest]:
                del self._pins[digest]

    @contextmanager
    def keep(self, data: Iterable[bytes]) -> Generator[None]:
        """Pin the files of some references."""
        digests = [read_reference(one).digest for one in data]
        for digest in digests:
            self.pin(digest)
        try:
            yield
        finally:
            for digest in digests:
                self.unpin(digest)

    @contextmanager
    def hold(self) -> Generator[None]:
        """Keep all files: sweeps that fall into it remove nothing."""
        with self._lock:
            self._holds += 1
        try:
            yield
        finally:
            with self._lock:
                self._holds -= 1

    # --- sweeping -----------------------------------------------------------------------------

    def begin_sweep(self) -> None:
        """What is pinned now or later is spared by the `sweep` to come. One at a time."""
        with self._lock:
            self._spared = set(self._pins)

    def end_sweep(self) -> None:
        """Idempotent."""
        with self._lock:
            self._spared = None

    def digests(self) -> dict[bytes, int]:
        """The files that there are: their sizes by digest.

        Raises:
            StorageError: the directory cannot be read.
        """
        found: dict[bytes, int] = {}
        try:
            with os.scandir(self.directory) as entries:
                for entry in entries:
                    digest = parse_name(entry.name)
                    if digest is not None:
                        found[digest] = entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise to_storage_error(error, f"reading {self.directory}") from error
        return found

    def sweep(self, unwanted: Iterable[bytes]) -> int:
        """Remove the files of digests, unless they were pinned since `begin_sweep`.

        Returns:
            How many.

        Raises:
            StorageError: one could not be removed.
        """
        removed = 0
        for digest in unwanted:
            path = self.path(digest)
            with self._lock:
                if self._holds or self._spared is None or digest in self._spared:
                    continue
                try:
                    path.unlink()
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise to_storage_error(error, f"deleting {path}") from error
                self._verified.pop(digest, None)
                self._bytes = None
                removed += 1
        if removed:
            sync_directory(self.directory)
        return removed

    def size_bytes(self, *, is_writer: bool) -> int:
        """Bytes of all files. Cost: for the writer microseconds, unless they changed; else a scan."""
        found = self._bytes if is_writer else None
        if found is None:
            found = self._bytes = sum(self.digests().values())
        return found


class _MappedParts:
    """The parts of an open value file; see `codec.Parts`."""

    def __init__(self, fd: int, map: mmap, contents: Contents) -> None:  # noqa: A002
        self._fd = fd
        self._map = map
        self._contents = contents

    def body(self) -> bytes:
        """The encoded value without its parts."""
        return _read(self._fd, *self._contents.body)

    def bytes_at(self, place: int) -> bytes:
        """See `codec.Parts`."""
        return _read(self._fd, *self._contents.parts[place])

    def part_at(self, place: int) -> PartOfFile:
        """See `codec.Parts`."""
        return PartOfFile(self._map, *self._contents.parts[place])


def parse_name(name: str) -> bytes | None:
    """The digest that a file is named by; None if it is another file."""
    if len(name) != 2 * DIGEST_BYTES or not set(name) <= set("0123456789abcdef"):
        return None
    return bytes.fromhex(name)


def _read(fd: int, offset: int, size: int) -> bytes:
    data = os.pread(fd, size, offset)  # in one go, so that there is no second copy of it
    while len(data) < size:
        more = os.pread(fd, size - len(data), offset + len(data))
        if not more:
            raise CorruptionError("a value file ends too early")
        data += more
    return data


def _identity(found: os.stat_result) -> _Identity:
    return found.st_ino, found.st_size, found.st_mtime_ns
