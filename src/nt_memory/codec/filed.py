"""Values that are kept in files of their own: what is stored instead, and what goes into the file.

A value of more than `FILE_FROM_BYTES` is stored as a reference: the usual header with a flag, then
digest and size of its file. What the file holds is the encoded value without its large arrays and
`bytes`, the *body*, and those as they lie in memory, the *parts*. A body is encoded like any other
value, so a large value without large parts is nothing but a body. How a file is laid out and where
it is kept is not the codec's business.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from nt_memory.errors import CodecError, CorruptionError

if TYPE_CHECKING:
    from collections.abc import Iterator

FILED: Final = 2
"""Flag of a reference."""
DIGEST_BYTES: Final = 32
_REFERENCE: Final = struct.Struct(f"<BBI{DIGEST_BYTES}sQ")
_START: Final = bytes((1, FILED))
REFERENCE_BYTES: Final = _REFERENCE.size
REFERENCE_START: Final = bytes((0xC4, REFERENCE_BYTES)) + _START
"""How msgpack begins a reference; what does not contain it contains none."""


class Reference(NamedTuple):
    """Which file holds a value.

    Attributes:
        digest: Of what the file holds; also its name.
        size: Bytes of the file.
    """

    digest: bytes
    size: int

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.digest.hex()


class Draft:
    """A value on its way into a file: nothing large in it was copied.

    Args:
        body: Encoded value without its large parts; not compressed.
        parts: The parts, by their places.
    """

    __slots__ = ("body", "parts")

    def __init__(self, body: bytes, parts: list[bytes | np.ndarray[Any, Any]]) -> None:
        self.body: bytes = body
        self.parts: list[bytes | np.ndarray[Any, Any]] = parts

    @property
    def arrays(self) -> list[np.ndarray[Any, Any]]:
        """The parts that their owner might change."""
        return [part for part in self.parts if isinstance(part, np.ndarray)]


def is_filed(data: bytes) -> bool:
    """Whether an encoded value is a reference to a file."""
    return data[:2] == _START


def stored_bytes(data: bytes) -> int:
    """Bytes that an encoded value takes, those of its file included.

    Raises:
        CodecError, CorruptionError: it is a malformed reference.
    """
    return len(data) + read_reference(data).size if is_filed(data) else len(data)


def write_reference(reference: Reference) -> bytes:
    """The encoded value that stands for a file."""
    rest = _REFERENCE.pack(*_START, 0, *reference)[6:]
    return _REFERENCE.pack(*_START, zlib.crc32(rest, zlib.crc32(_START)), *reference)


def read_reference(data: bytes) -> Reference:
    """Which file an encoded value stands for.

    Raises:
        CodecError: it stands for none.
        CorruptionError: the checksum does not match.
    """
    if len(data) != REFERENCE_BYTES or not is_filed(data):
        raise CodecError("not a reference to a value file")
    _, _, checksum, digest, size = _REFERENCE.unpack(data)
    if zlib.crc32(data[6:], zlib.crc32(_START)) != checksum:
        raise CorruptionError("a reference to a value file fails its checksum")
    return Reference(digest, size)


def pieces(part: bytes | np.ndarray[Any, Any], size: int) -> Iterator[bytes | memoryview]:
    """The bytes of a part in C order, in pieces of at most about `size`; none of them outlives it.

    Cost: nothing is copied, except of an array that does not lie in C order: a piece at a time.
    """
    if not isinstance(part, np.ndarray):
        view = memoryview(part)
    elif part.flags.c_contiguous:
        # Neither times nor every byte order have a buffer of their own.
        view = part.reshape(-1).view(np.uint8).data
    else:
        count = max(1, size // part.itemsize)
        for first in range(0, part.size, count):
            yield part.flat[first : first + count].tobytes()
        return
    for start in range(0, len(view), size):
        yield view[start : start + size]
