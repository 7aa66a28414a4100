"""Raw float16 rows, one append-only file a partition.

The rows are the durable form of the vectors as the tier sees them; graphs and float32 copies are
rebuilt from them. A file is a 64-byte header (magic, format version, dimension) and then row after
row, little-endian. How many rows count is not the file's knowledge but its user's: rows past the
count are leftovers of writes that were never accepted, and are overwritten.

Beside it lies a file of checksums, a CRC-32 for each row (`.sums`, u32 little-endian, no header). A
row in the page cache has nothing else to be checked against after its writer was killed.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

import numpy as np

from nt_memory.errors import (
    CorruptionError,
    DimensionError,
    FormatVersionError,
    ReadOnlyError,
    StorageError,
    StorageFullError,
)
from nt_memory.tiers.vectors.pages import enter_later

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAGIC = b"NTMVECT\n"
_VERSION = 1
_HEADER = struct.Struct("<8sII48x")
_ROW_TYPE = np.dtype("<f2")
_SUM_TYPE = np.dtype("<u4")
# One process may hold thousands of partitions; descriptors are fewer than that, two for each.
_MAX_OPEN = 48
_CHECK_ROWS = 4096
_FEW_BYTES = 1 << 16
_FRESH_SHARE = 8


class _Open(NamedTuple):
    """Descriptors of a partition's rows and of their checksums."""

    rows: int
    sums: int
    dim: int

    def close(self) -> None:
        os.close(self.rows)
        os.close(self.sums)


class _Fresh(NamedTuple):
    """Rows of a partition past those that are mapped, from number `first` on."""

    first: int
    rows: NDArray[np.float16]


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
        self._open: OrderedDict[int, _Open] = OrderedDict()
        self._unsynced: set[int] = set()
        self._maps: dict[int, NDArray[np.float16]] = {}
        self._fresh: dict[int, _Fresh] = {}
        if not read_only:
            self._directory.mkdir(parents=True, exist_ok=True)
            # Whoever wrote them may not have synced them, and a clean close vouches for all rows.
            found = (path.stem for path in self._directory.glob("*.f16"))
            self._unsynced.update(int(stem) for stem in found if stem.isdecimal())

    def path(self, partition: int) -> Path:
        """Where a partition's rows lie."""
        return self._directory / f"{partition}.f16"

    def _sums_path(self, partition: int) -> Path:
        return self._directory / f"{partition}.sums"

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
        sums = _sums(vectors, 2 * dim)
        try:
            with self._lock:
                file = self._opened(partition, dim)
                _write_all(file.rows, vectors, _HEADER.size + first_row * dim * 2)
                _write_all(file.sums, sums, first_row * _SUM_TYPE.itemsize)
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
            return self._mapped(partition, dim, count)[:count]

    def take(self, partition: int, dim: int, numbers: NDArray[np.int64]) -> NDArray[np.float16]:
        """Copies of single rows, which may be new ones: shape (len(numbers), dim).

        Of a longer mapping every page has to be found anew, 1 us each. So while rows come in, the mapping of
        those that were there before stays, and the new ones are mapped beside it until they are an eighth.

        Errors are those of `rows`.
        """
        count = int(numbers.max()) + 1 if len(numbers) else 0
        if not count:
            return np.empty((0, dim), _ROW_TYPE)
        with self._lock:
            mapped, fresh = self._maps.get(partition), None
            if mapped is None or (count - len(mapped)) * _FRESH_SHARE > len(mapped):
                mapped = self._mapped(partition, dim, count)
            elif count > len(mapped):
                fresh = self._fresh.get(partition)
                if fresh is None or fresh.first + len(fresh.rows) < count:
                    first = len(mapped)
                    fresh = _Fresh(first, self._map(partition, dim, count, first))
                    self._fresh[partition] = fresh
        if fresh is None:
            return mapped.take(numbers, axis=0)
        if int(numbers.min()) >= fresh.first:
            return fresh.rows.take(numbers - fresh.first, axis=0)
        is_fresh = numbers >= fresh.first
        taken = np.empty((len(numbers), dim), _ROW_TYPE)
        taken[~is_fresh] = mapped.take(numbers[~is_fresh], axis=0)
        taken[is_fresh] = fresh.rows.take(numbers[is_fresh] - fresh.first, axis=0)
        return taken

    def read(self, partition: int, dim: int, first: int, stop: int) -> NDArray[np.float16]:
        """A copy of rows `first` to `stop`, without mapping them: shape (stop - first, dim).

        Raises:
            CorruptionError: the file is missing, foreign or ends before `stop`.
            DimensionError: it holds rows of another dimension.
        """
        path = self.path(partition)
        offset, length = _HEADER.size + first * dim * 2, (stop - first) * dim * 2
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _check_header(os.pread(descriptor, _HEADER.size, 0), dim, path)
                data = _read_all(descriptor, length, offset)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _storage_error(error, path) from error
        if len(data) < length:
            raise CorruptionError(f"{path} ends before row {stop}")
        return np.frombuffer(data, _ROW_TYPE).reshape(-1, dim)

    def newest(self, partition: int, dim: int, first: int, stop: int) -> NDArray[np.float16]:
        """As `read`; of a few rows of a file that is being written it costs 5 us instead of 30.

        Who holds the file open has checked it: every search asks for the rows since the last one.
        """
        offset, length = _HEADER.size + first * dim * 2, (stop - first) * dim * 2
        data = b""
        if length <= _FEW_BYTES:
            with self._lock:
                file = self._open.get(partition)
                if file is not None and file.dim == dim:
                    data = os.pread(file.rows, length, offset)
        if len(data) < length:
            return self.read(partition, dim, first, stop)
        return np.frombuffer(data, _ROW_TYPE).reshape(-1, dim)

    def check(self, partition: int, dim: int, count: int) -> None:
        """Compare the first `count` rows with the checksums that were written with them.

        Raises:
            CorruptionError: one differs, or has no checksum; or as `read`.
            DimensionError: the file holds rows of another dimension.

        Cost: reads them all; about 1.2 us a row of 64 values, measured on a busy machine.
        """
        if not count:
            return  # there need be no file then
        try:
            sums = self._sums_path(partition).read_bytes()
        except OSError as error:
            raise _storage_error(error, self._sums_path(partition)) from error
        if len(sums) < count * _SUM_TYPE.itemsize:
            raise CorruptionError(f"{self._sums_path(partition)} ends before row {count}")
        for first in range(0, count, _CHECK_ROWS):
            stop = min(first + _CHECK_ROWS, count)
            found = _sums(self.read(partition, dim, first, stop).tobytes(), 2 * dim)
            said = sums[first * _SUM_TYPE.itemsize : stop * _SUM_TYPE.itemsize]
            if found != said:
                pair = (np.frombuffer(found, _SUM_TYPE), np.frombuffer(said, _SUM_TYPE))
                row = first + int(np.flatnonzero(pair[0] != pair[1])[0])
                raise CorruptionError(f"{self.path(partition)}: row {row} fails its checksum")

    def forget(self, partition: int) -> None:
        """Let go of a partition's files, which somebody else removes. Arrays handed out stay valid."""
        with self._lock:
            file = self._open.pop(partition, None)
            if file is not None:
                file.close()
            self._maps.pop(partition, None)
            self._fresh.pop(partition, None)
            self._unsynced.discard(partition)

    def remove(self, partition: int) -> None:
        """Remove a partition's files, if there are any. Arrays handed out stay valid.

        Nobody may write to them meanwhile; a read that comes later raises `CorruptionError`.

        Raises:
            StorageError: it could not be removed.
        """
        self.forget(partition)
        for path in (self.path(partition), self._sums_path(partition)):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise _storage_error(error, path) from error

    def sync(self) -> None:
        """Force to disk whatever was written, by an earlier writer too: its files and their names.

        Not the checksums: who lost them in a power loss has the rows made anew.

        Raises:
            StorageError: a sync failed; what it covered may be lost.

        Cost: an fsync a file written since the last sync; the first one syncs every file.
        """
        with self._lock:
            if not self._unsynced:
                return
            for partition in sorted(self._unsynced):
                try:
                    file = self._open.get(partition)
                    if file is not None:
                        os.fsync(file.rows)
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
            while self._open:
                self._open.popitem()[1].close()
            self._maps.clear()
            self._fresh.clear()

    def _opened(self, partition: int, dim: int) -> _Open:
        file = self._open.get(partition)
        if file is not None:
            self._open.move_to_end(partition)
            return file
        path = self.path(partition)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            header = os.pread(descriptor, _HEADER.size, 0)
            if len(header) < _HEADER.size:  # new, or torn while it was being made
                _write_all(descriptor, _HEADER.pack(_MAGIC, _VERSION, dim), 0)
            else:
                _check_header(header, dim, path)
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
            file = _Open(descriptor, os.open(self._sums_path(partition), flags, 0o644), dim)
        except BaseException:
            os.close(descriptor)
            raise
        if len(self._open) >= _MAX_OPEN:
            self._open.popitem(last=False)[1].close()
        self._open[partition] = file
        return file

    def _mapped(self, partition: int, dim: int, count: int) -> NDArray[np.float16]:
        """At least the first `count` rows. The caller holds the lock."""
        mapped = self._maps.get(partition)
        if mapped is None or len(mapped) < count:
            mapped = self._maps[partition] = self._map(partition, dim, count)
            self._fresh.pop(partition, None)
        return mapped

    def _map(self, partition: int, dim: int, count: int, first: int = 0) -> NDArray[np.float16]:
        """All whole rows from `first` on, at least up to `count`."""
        path = self.path(partition)
        try:
            with path.open("rb") as file:
                _check_header(file.read(_HEADER.size), dim, path)
                size = os.fstat(file.fileno()).st_size
                whole = (size - _HEADER.size) // (2 * dim)
                if whole < count:
                    raise CorruptionError(f"{path} holds {whole} rows, {count} were accepted")
                # As a plain array: a memmap takes 10 us more each time it is indexed.
                offset, shape = _HEADER.size + first * dim * 2, (whole - first, dim)
                rows = np.memmap(file, _ROW_TYPE, "r", offset, shape).view(np.ndarray)
                enter_later(rows, path)
                return rows
        except OSError as error:
            raise _storage_error(error, path) from error


def _sums(rows: bytes, row_bytes: int) -> bytes:
    """A checksum of each row."""
    sums = [crc32(row) for (row,) in struct.iter_unpack(f"{row_bytes}s", rows)]
    return struct.pack(f"<{len(sums)}I", *sums)


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
