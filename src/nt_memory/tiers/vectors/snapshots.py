"""Files that spare the rebuilding of a graph: atomic, checksummed, versioned, never trusted.

A header (fixed size, with a checksum of its own) says what the payload is: dimension, rows covered,
the parameters and library version it was built with, a digest of the rows it was built from, and
the payload's length and checksum. Whatever does not match exactly is treated as missing.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_MAGIC = b"NTMGRPH\n"
_VERSION = 1
# magic, version, dim, rows, seed, parameters, rows' digest, payload length, payload crc
_HEADER = struct.Struct("<8sIIQQ64sIQI")
_CHECK = struct.Struct("<I")
_START = _HEADER.size + _CHECK.size
_CHUNK = 1 << 20


class Description(NamedTuple):
    """What a snapshot must be to be used.

    Attributes:
        dim: Values in a row.
        rows: Rows [0, rows) are in the graph.
        seed: What its generator was seeded with.
        parameters: Everything else the graph depends on, at most 64 bytes.
        digest: Checksum of some of the rows it was built from.
    """

    dim: int
    rows: int
    seed: int
    parameters: str
    digest: int


def write_snapshot(
    path: Path, description: Description, dump: Callable[[Callable[[bytes], None]], None]
) -> None:
    """Replace the snapshot at `path`, atomically: readers find the old one, the new one or none.

    Args:
        path: Its file.
        description: Goes into the header.
        dump: Is given `write(chunk)` and calls it with the payload, piece by piece.

    Raises:
        OSError: it could not be written; the old one stays.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with partial.open("wb") as file:
            length = crc = 0

            def write(chunk: bytes) -> None:
                nonlocal length, crc
                file.write(chunk)
                length += len(chunk)
                crc = zlib.crc32(chunk, crc)

            file.seek(_START)
            dump(write)
            file.seek(0)
            file.write(_pack(description, length, crc))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    _sync_directory(path.parent)


def open_snapshot(path: Path) -> tuple[Description, BinaryIO] | None:
    """A verified snapshot and its file, positioned at the payload; None if there is no good one.

    Cost: reads the file once to verify it, about 1 GB/s. The caller closes the file.
    """
    try:
        file = path.open("rb")
    except OSError:
        return None
    try:
        description = _verify(file)
    except OSError:
        description = None
    if description is None:
        file.close()
        return None
    return description, file


def is_snapshot_whole(path: Path) -> bool:
    """Whether there is a good snapshot at `path`. Cost: as `open_snapshot`."""
    found = open_snapshot(path)
    if found is None:
        return False
    found[1].close()
    return True


def _pack(description: Description, length: int, crc: int) -> bytes:
    header = _HEADER.pack(
        _MAGIC,
        _VERSION,
        description.dim,
        description.rows,
        description.seed,
        description.parameters.encode(),
        description.digest,
        length,
        crc,
    )
    return header + _CHECK.pack(zlib.crc32(header))


def _verify(file: BinaryIO) -> Description | None:
    start = file.read(_START)
    if len(start) < _START:
        return None
    header = start[: _HEADER.size]
    if zlib.crc32(header) != _CHECK.unpack(start[_HEADER.size :])[0]:
        return None
    magic, version, dim, rows, seed, parameters, digest, length, crc = _HEADER.unpack(header)
    if magic != _MAGIC or version != _VERSION:
        return None
    found = total = 0
    while chunk := file.read(_CHUNK):
        found = zlib.crc32(chunk, found)
        total += len(chunk)
    if (found, total) != (crc, length):
        return None
    file.seek(_START)
    return Description(dim, rows, seed, parameters.rstrip(b"\0").decode("ascii", "replace"), digest)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
