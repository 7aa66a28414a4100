"""Files that spare the rebuilding of a graph: atomic, checksummed, versioned, never trusted.

A header (fixed size, with a checksum of its own) says what the file holds: dimension, rows covered,
the parameters and library version it was built with, a digest of the rows it was built from, and
the lengths and checksum of what follows. Whatever does not match exactly is treated as missing.

A file never changes: another takes its place by a rename. So it may be mapped, and what was mapped
stays as it was when the file is replaced or removed.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import msgspec
import numpy as np

from nt_memory.tiers.vectors.pages import Blocks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

_MAGIC = b"NTMGRPH\n"
_VERSION = 4
_PARAMETERS_BYTES = 64
# magic, version, dim, first, stop, seed, parameters, rows' digest, lengths of extra, numbers and
# payload, crc of the three
_HEADER = struct.Struct("<8sIIQQQ64sIQQQI")
_CHECK = struct.Struct("<I")
_START = _HEADER.size + _CHECK.size
_CHUNK = 1 << 20
_NUMBER_TYPE = np.dtype("<i4")


class Description(NamedTuple):
    """What a snapshot must be to be used.

    Attributes:
        dim: Values in a row.
        first: It covers the rows from this one on,
        stop: and before this one.
        seed: What its generator was seeded with.
        parameters: Everything else the graph depends on, at most 64 bytes.
        digest: Checksum of some of the rows it was built from.
    """

    dim: int
    first: int
    stop: int
    seed: int
    parameters: str
    digest: int


class Content(NamedTuple):
    """What goes with a graph.

    Attributes:
        numbers: Which of the rows covered are in the graph, as offsets from the first, ascending;
            None: all, in order.
        extra: Whatever else was found out about it: plain values that msgpack can write.
    """

    numbers: NDArray[np.int32] | None = None
    extra: dict[str, Any] = {}  # noqa: RUF012 - replaced as a whole, never changed


class Snapshot(NamedTuple):
    """A good snapshot.

    Attributes:
        description: What it was made of.
        content: What goes with the graph.
        payload: Where in the file the graph begins.
        size: Bytes of the graph.
    """

    description: Description
    content: Content
    payload: int
    size: int


class _Lengths(NamedTuple):
    extra: int
    numbers: int
    payload: int
    crc: int

    @property
    def total(self) -> int:
        return self.extra + self.numbers + self.payload


def write_snapshot(
    path: Path,
    description: Description,
    dump: Callable[[Callable[[bytes], None]], None],
    content: Content = Content(),  # noqa: B008 - an immutable value
) -> int:
    """Replace the snapshot at `path`, atomically: readers find the old one, the new one or none.

    Args:
        path: Its file.
        description: Goes into the header.
        dump: Is given `write(chunk)` and calls it with the graph, piece by piece.
        content: What goes with the graph.

    Returns:
        Bytes written.

    Raises:
        OSError: it could not be written; the old one stays.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    extra = msgspec.msgpack.encode(content.extra) if content.extra else b""
    numbers = b"" if content.numbers is None else content.numbers.astype(_NUMBER_TYPE).tobytes()
    try:
        with partial.open("wb") as file:
            length = crc = 0
            blocks = Blocks(file.write)

            def write(chunk: bytes) -> None:
                nonlocal length, crc
                blocks.write(chunk)
                length += len(chunk)
                crc = zlib.crc32(chunk, crc)

            blocks.write(bytes(_START))  # the header's place
            write(extra)
            write(numbers)
            before = length
            dump(write)
            blocks.finish()
            file.seek(0)
            lengths = _Lengths(len(extra), len(numbers), length - before, crc)
            file.write(_pack(description, lengths))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    _sync_directory(path.parent)
    return _START + length


def read_snapshot(file: BinaryIO, *, is_verified: bool = False) -> Snapshot | None:
    """What there is in a file; None if it is no good snapshot.

    Args:
        file: At its start.
        is_verified: Its checksum was seen to be right, and it is the same file still.

    Cost: reads the file once to verify it, about 1 GB/s; a few pages where that was done before.
    """
    try:
        return _read(file, is_verified=is_verified)
    except (OSError, msgspec.DecodeError):
        return None


def is_snapshot_whole(path: Path) -> bool:
    """Whether there is a good snapshot at `path`. Cost: as `read_snapshot`."""
    try:
        with path.open("rb") as file:
            return read_snapshot(file) is not None
    except OSError:
        return False


def _pack(description: Description, lengths: _Lengths) -> bytes:
    parameters = description.parameters.encode()
    if len(parameters) > _PARAMETERS_BYTES:
        raise ValueError(f"more than {_PARAMETERS_BYTES} bytes: {description.parameters}")
    header = _HEADER.pack(
        _MAGIC,
        _VERSION,
        description.dim,
        description.first,
        description.stop,
        description.seed,
        parameters,
        description.digest,
        *lengths,
    )
    return header + _CHECK.pack(zlib.crc32(header))


def _read(file: BinaryIO, *, is_verified: bool) -> Snapshot | None:
    start = file.read(_START)
    if len(start) < _START:
        return None
    header = start[: _HEADER.size]
    if zlib.crc32(header) != _CHECK.unpack(start[_HEADER.size :])[0]:
        return None
    magic, version, dim, first, stop, seed, parameters, digest, *rest = _HEADER.unpack(header)
    if magic != _MAGIC or version != _VERSION:
        return None
    lengths = _Lengths(*rest)
    if os.fstat(file.fileno()).st_size != _START + lengths.total:
        return None
    if not is_verified and _checksum(file) != lengths.crc:
        return None
    file.seek(_START)
    extra = file.read(lengths.extra)
    numbers = np.frombuffer(file.read(lengths.numbers), _NUMBER_TYPE)
    payload = _START + lengths.extra + lengths.numbers
    name = parameters.rstrip(b"\0").decode("ascii", "replace")
    return Snapshot(
        Description(dim, first, stop, seed, name, digest),
        Content(
            numbers.astype(np.int32) if lengths.numbers else None,
            msgspec.msgpack.decode(extra, type=dict[str, Any]) if extra else {},
        ),
        payload,
        lengths.payload,
    )


def _checksum(file: BinaryIO) -> int:
    found = 0
    while chunk := file.read(_CHUNK):
        found = zlib.crc32(chunk, found)
    return found


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
