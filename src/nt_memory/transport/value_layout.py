"""How a value file is laid out, written and verified; `docs/reference/format.md` has the bytes.

Header, body, and the parts at multiples of 64, which is where processors and numpy want them; behind
that content a CRC-32 of every MiB of it, the content's digest and length, and a CRC-32 of those.

Two checksums because they answer two questions. The digest names the content, so it has to be one
that nobody collides with, and BLAKE2b takes a second a gigabyte. Whether the bytes are still those
that were written is asked whenever a file is mapped for the first time, and CRC-32 says it four
times as fast; in pieces, so that neither writing nor verifying needs more than one of them in
memory, and so that damage has a place. The end binds the pieces to the digest, and the reference
in the journal says how long the file is: its own length is never trusted.
"""

from __future__ import annotations

import os
import struct
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

from nt_memory.codec.filed import DIGEST_BYTES, Reference, pieces
from nt_memory.errors import CorruptionError, FormatVersionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from nt_memory.codec import Draft
    from nt_memory.transport.files import FileSystem

MAGIC: Final = b"NTMVALF\0"
VALUE_VERSION: Final = 1
CHUNK_BYTES: Final = 1 << 20
ALIGNMENT: Final = 64
MAX_VALUE_PARTS: Final = 1 << 20
_HEAD: Final = struct.Struct("<8sIIQ")
_LENGTH: Final = struct.Struct("<Q")
_CRC: Final = struct.Struct("<I")
_END: Final = struct.Struct(f"<{DIGEST_BYTES}sQ")
_END_BYTES: Final = _END.size + _CRC.size


class Contents(NamedTuple):
    """Where the pieces of a value file are, as `(offset, length)`."""

    body: tuple[int, int]
    parts: list[tuple[int, int]]


def size_of(body_bytes: int, part_bytes: Iterable[int]) -> int:
    """Bytes of the file of a body and parts of these lengths."""
    lengths = list(part_bytes)
    contents = _places(body_bytes, lengths)
    offset, length = contents.parts[-1] if lengths else contents.body
    content = offset + length
    return content + _CRC.size * -(-content // CHUNK_BYTES) + _END_BYTES


def write_value(
    files: FileSystem,
    fd: int,
    body: bytes,
    draft: Draft,
    *,
    is_stopped: Callable[[], bool],
    on_read: Callable[[], None],
) -> Reference | None:
    """Write a value file; durable when it returns.

    Args:
        files: How files are changed.
        fd: An empty file, opened for appending.
        body: The draft's body, as it is to be stored.
        draft: Has the parts.
        is_stopped: Whether to give up; asked before every piece.
        on_read: Called once nothing of the draft will be read any more.

    Returns:
        What refers to it, once the file is named accordingly; None if it was given up.

    Raises:
        OSError: it could not be written.

    Cost: about a second a gigabyte, and the disk's time; holds 2 MiB.
    """
    digest = blake2b(digest_size=DIGEST_BYTES)
    checksums = bytearray()
    content = 0
    for chunk in _chunks(_stream(body, draft)):
        if is_stopped():
            return None
        # What is hashed is what is written, whatever becomes of the memory it was copied from.
        digest.update(chunk)
        checksums += _CRC.pack(crc32(chunk, content // CHUNK_BYTES))
        files.append(fd, chunk)
        content += len(chunk)
    on_read()
    end = bytes(checksums) + _END.pack(digest.digest(), content)
    files.append(fd, end + _CRC.pack(crc32(end)))
    files.sync(fd)
    return Reference(digest.digest(), content + len(end) + _CRC.size)


def check_value(fd: int, path: Path, reference: Reference, *, by_digest: bool = False) -> None:
    """Read all of a value file, and find that it is what was written.

    Args:
        fd: The file.
        path: Its name, for messages.
        reference: What it should be.
        by_digest: Compute the digest too, which no accident and no forgery survives.

    Raises:
        CorruptionError: it is not; the message says where.
        FormatVersionError: a newer version wrote it.

    Cost: 0.25 s a gigabyte from memory, 1.2 s with the digest; holds 1 MiB.
    """
    found = os.fstat(fd).st_size
    if found != reference.size:
        raise CorruptionError(f"{path}: has {found} bytes instead of {reference.size}")
    checksums, content = _read_end(fd, path, reference)
    digest = blake2b(digest_size=DIGEST_BYTES)
    buffer = memoryview(bytearray(min(CHUNK_BYTES, content)))
    for number, start in enumerate(range(0, content, CHUNK_BYTES)):
        stop = min(start + CHUNK_BYTES, content)
        chunk = buffer[: stop - start]
        _read_into(fd, chunk, start, path)
        (wanted,) = _CRC.unpack_from(checksums, number * _CRC.size)
        if crc32(chunk, number) != wanted:
            raise CorruptionError(f"{path}: bytes {start} to {stop} fail their checksum")
        if by_digest:
            digest.update(chunk)
    if by_digest and digest.digest() != reference.digest:
        raise CorruptionError(f"{path}: is not what it is named after")


def read_contents(fd: int, path: Path) -> Contents:
    """Where what a verified value file holds is in it.

    Raises:
        CorruptionError: it is no value file.
        FormatVersionError: a newer version wrote it.
    """
    head = os.pread(fd, _HEAD.size, 0)
    if len(head) < _HEAD.size or head[: len(MAGIC)] != MAGIC:
        raise CorruptionError(f"{path}: not a value file")
    _, version, count, body_bytes = _HEAD.unpack(head)
    if version != VALUE_VERSION:
        raise FormatVersionError(
            f"{path}: value file of format {version}; this version reads {VALUE_VERSION}"
        )
    lengths = os.pread(fd, count * _LENGTH.size, _HEAD.size)
    if count > MAX_VALUE_PARTS or len(lengths) != count * _LENGTH.size:
        raise CorruptionError(f"{path}: not a value file")
    return _places(body_bytes, [length for (length,) in _LENGTH.iter_unpack(lengths)])


def _places(body_bytes: int, lengths: list[int]) -> Contents:
    offset = _HEAD.size + len(lengths) * _LENGTH.size
    body = (offset, body_bytes)
    offset += body_bytes
    parts: list[tuple[int, int]] = []
    for length in lengths:
        offset += -offset % ALIGNMENT
        parts.append((offset, length))
        offset += length
    return Contents(body, parts)


def _stream(body: bytes, draft: Draft) -> Iterator[bytes | memoryview]:
    lengths = [part.nbytes if not isinstance(part, bytes) else len(part) for part in draft.parts]
    yield _HEAD.pack(MAGIC, VALUE_VERSION, len(lengths), len(body))
    yield b"".join(map(_LENGTH.pack, lengths))
    yield from pieces(body, CHUNK_BYTES)
    end = sum(_places(len(body), lengths).body)
    for part, (offset, length) in zip(draft.parts, _places(len(body), lengths).parts, strict=True):
        yield bytes(offset - end)
        yield from pieces(part, CHUNK_BYTES)
        end = offset + length


def _chunks(stream: Iterator[bytes | memoryview]) -> Iterator[bytes]:
    """What comes, in memory of its own, `CHUNK_BYTES` at a time."""
    held: list[bytes | memoryview] = []
    size = 0
    for piece in stream:
        rest = memoryview(piece)
        while size + len(rest) >= CHUNK_BYTES:
            fitting = CHUNK_BYTES - size
            yield b"".join([*held, rest[:fitting]])
            rest = rest[fitting:]
            held, size = [], 0
        if len(rest):
            held.append(rest)
            size += len(rest)
    if size:
        yield b"".join(held)


def _read_end(fd: int, path: Path, reference: Reference) -> tuple[bytes, int]:
    """The checksums of the chunks, and how long the content is."""
    end = os.pread(fd, _END_BYTES, reference.size - _END_BYTES)
    if len(end) != _END_BYTES:
        raise CorruptionError(f"{path}: its end is missing")
    digest, content = _END.unpack_from(end)
    table_bytes = _CRC.size * -(-content // CHUNK_BYTES)
    if content + table_bytes + _END_BYTES != reference.size:
        raise CorruptionError(f"{path}: its end is damaged")
    table = os.pread(fd, table_bytes, content)
    (wanted,) = _CRC.unpack_from(end, _END.size)
    if len(table) != table_bytes or crc32(end[: _END.size], crc32(table)) != wanted:
        raise CorruptionError(f"{path}: its end fails its checksum")
    if digest != reference.digest:
        raise CorruptionError(f"{path}: holds another value, {digest.hex()}")
    return table, content


def _read_into(fd: int, chunk: memoryview, offset: int, path: Path) -> None:
    while len(chunk):
        count = os.preadv(fd, [chunk], offset)
        if not count:
            raise CorruptionError(f"{path}: ends at {offset}")
        chunk, offset = chunk[count:], offset + count
