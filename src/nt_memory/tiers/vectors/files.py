"""Raw float16 rows, one append-only file a partition.

The rows are the durable form of the vectors as the tier sees them; graphs and float32 copies are
rebuilt from them. A file is a 64-byte header (magic, format version, dimension) and then row after
row, little-endian. How many rows count is not the file's knowledge but its user's: rows past the
count are leftovers of writes that were never accepted, and are overwritten.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nt_memory.errors import (
    CorruptionError,
    DimensionError,
    FormatVersionError,
    ReadOnlyError,
    StorageError,
    StorageFullError,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAGIC = b"NTMVECT\n"
_VERSION = 1
_HEADER = struct.Struct("<8sII48x")
_ROW_TYPE = np.dtype("<f2")
# One process may hold thousands of partitions; descriptors are fewer than that.
_MAX_DESCRIPTORS = 64


class VectorFiles:
    """Written by one thread, read by any; `read_only` for followers in other processes.

    Args:
        directory: Where the files lie; made if missing, unless `read_only`.
        read_only: Refuse every write.
    """

    def __init__(self, directory: Path | str, *, read_only: bool = False) -> None:
        self._directory = Path(directory)
        self._read_only = read_only
        self._lock = threading.Lock()
        self._descriptors: OrderedDict[int, int] = OrderedDict()
        self._unsynced: set[int] = set()
        self._maps: dict[int, NDArray[np.float16]] = {}
        if not read_only:
            self._directory.mkdir(parents=True, exist_ok=True)
            # Whoever wrote them may not have synced them, and a clean close vouches for all rows.
            found = (path.stem for path in self._directory.glob("*.f16"))
            self._unsynced.update(int(stem) for stem in found if stem.isdecimal())

    def path(self, partition: int) -> Path:
        """Where a partition's rows lie."""
        return self._directory / f"{partition}.f16"

    def write(self, partition: int, dim: int, first_row: int, vectors: bytes) -> None:
        """Write whole rows at `first_row`. Repeating a write changes nothing.

        Args:
            partition: Which file.
            dim: Values in a row.
            first_row: Number of the first row written.
            vectors: Little-endian float16 rows, a multiple of `2 * dim` bytes.

        Raises:
            DimensionError: not whole rows, or the file holds rows of another dimension.
            ReadOnlyError: opened `read_only`.
            StorageFullError: no space is left.
            StorageError: the operating system refused.
        """
        if self._read_only:
            raise ReadOnlyError("these vector files are open read-only")
        if len(vectors) % (2 * dim):
            raise DimensionError(
                f"{len(vectors)} bytes are not rows of {dim} float16 values", expected=dim
            )
        try:
            with self._lock:
                descriptor = self._descriptor(partition, dim)
                _write_all(descriptor, vectors, _HEADER.size + first_row * dim * 2)
                self._unsynced.add(partition)
        except OSError as error:
            raise _storage_error(error, self.path(partition)) from error

    def rows(self, partition: int, dim: int, count: int) -> NDArray[np.float16]:
        """The first `count` rows, mapped read-only: shape (count, dim).

        Mapped pages belong to the page cache, not to this process; a longer mapping replaces the
        old one when the file has grown past it.

        Raises:
            CorruptionError: the file is missing, foreign or holds fewer rows.
            DimensionError: it holds rows of another dimension.
        """
        if count == 0:
            return np.empty((0, dim), _ROW_TYPE)
        with self._lock:
            mapped = self._maps.get(partition)
            if mapped is None or len(mapped) < count:
                mapped = self._maps[partition] = self._map(partition, dim, count)
        return mapped[:count]

    def read(self, partition: int, dim: int, first: int, stop: int) -> NDArray[np.float16]:
        """A copy of rows `first` to `stop`, without mapping them: shape (stop - first, dim).

        Raises:
            CorruptionError: the file is missing, foreign or ends before `stop`.
            DimensionError: it holds rows of another dimension.
        """
        path = self.path(partition)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _check_header(os.pread(descriptor, _HEADER.size, 0), dim, path)
                offset, length = _HEADER.size + first * dim * 2, (stop - first) * dim * 2
                data = _read_all(descriptor, length, offset)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _storage_error(error, path) from error
        if len(data) < length:
            raise CorruptionError(f"{path} ends before row {stop}")
        return np.frombuffer(data, _ROW_TYPE).reshape(-1, dim)

    def sync(self) -> None:
        """Force to disk whatever was written, by an earlier writer too: its files and their names.

        Raises:
            StorageError: a sync failed; what it covered may be lost.

        Cost: an fsync a file written since the last sync; the first one syncs every file.
        """
        with self._lock:
            if not self._unsynced:
                return
            for partition in sorted(self._unsynced):
                try:
                    descriptor = self._descriptors.get(partition)
                    if descriptor is not None:
                        os.fsync(descriptor)
                    else:
                        _sync_path(self.path(partition))
                except OSError as error:
                    raise _storage_error(error, self.path(partition)) from error
            try:
                _sync_path(self._directory)
            except OSError as error:
                raise _storage_error(error, self._directory) from error
            self._unsynced.clear()

    def close(self) -> None:
        """Let go of files and mappings; arrays handed out stay valid. Idempotent; no sync."""
        with self._lock:
            while self._descriptors:
                os.close(self._descriptors.popitem()[1])
            self._maps.clear()

    def _descriptor(self, partition: int, dim: int) -> int:
        descriptor = self._descriptors.get(partition)
        if descriptor is not None:
            self._descriptors.move_to_end(partition)
            return descriptor
        path = self.path(partition)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            header = os.pread(descriptor, _HEADER.size, 0)
            if len(header) < _HEADER.size:  # new, or torn while it was being made
                _write_all(descriptor, _HEADER.pack(_MAGIC, _VERSION, dim), 0)
            else:
                _check_header(header, dim, path)
        except BaseException:
            os.close(descriptor)
            raise
        if len(self._descriptors) >= _MAX_DESCRIPTORS:
            os.close(self._descriptors.popitem(last=False)[1])
        self._descriptors[partition] = descriptor
        return descriptor

    def _map(self, partition: int, dim: int, count: int) -> NDArray[np.float16]:
        path = self.path(partition)
        try:
            with path.open("rb") as file:
                _check_header(file.read(_HEADER.size), dim, path)
                size = os.fstat(file.fileno()).st_size
                whole = (size - _HEADER.size) // (2 * dim)
                if whole < count:
                    raise CorruptionError(f"{path} holds {whole} rows, {count} were accepted")
                return np.memmap(file, _ROW_TYPE, "r", _HEADER.size, (whole, dim))
        except OSError as error:
            raise _storage_error(error, path) from error


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _read_all(descriptor: int, length: int, offset: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    if len(data) == length:
        return data
    parts = [data]
    while data and sum(map(len, parts)) < length:  # one pread returns 2 GiB at most
        done = sum(map(len, parts))
        data = os.pread(descriptor, length - done, offset + done)
        parts.append(data)
    return b"".join(parts)


def _check_header(header: bytes, dim: int, path: Path) -> None:
    if len(header) < _HEADER.size:
        raise CorruptionError(f"{path} has no whole header")
    magic, version, found = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise CorruptionError(f"{path} is not a file of vector rows")
    if version != _VERSION:
        raise FormatVersionError(f"{path} has format {version}; this version reads {_VERSION}")
    if found != dim:
        raise DimensionError(f"{path} holds rows of {found} values", expected=found, got=dim)


def _storage_error(error: OSError, path: Path) -> StorageError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFullError(f"no space left for {path}")
    if error.errno == errno.ENOENT:
        return CorruptionError(f"{path} is missing")
    return StorageError(f"{path}: {error}")


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
