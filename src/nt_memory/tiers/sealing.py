"""A checksum on every row of the views.

LMDB has none of its own. A row's value is stored behind a CRC-32 of its table, its key and itself, so
a byte that flipped in either is found when the row is read, and a row that ended up under another
key or in another table is not taken for one that belongs there.

Of a row over 8 KiB only both ends are covered, which hold everything but the middle of the encoded
value; that has a checksum of its own, verified when it is decoded.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING
from zlib import crc32

from nt_memory.errors import CorruptionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_CRC = struct.Struct("<I")
_BYTES = _CRC.size
_WHOLE_BYTES = 8 << 10
_HEAD_BYTES = 64
_TAIL_BYTES = 4 << 10


def seal(table: bytes, key: bytes, value: bytes) -> bytes:
    """What is stored under `key` for `value`."""
    return _CRC.pack(_checksum(table, key, value)) + value


def seal_rows(table: bytes, rows: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Keys, and what is stored under them for their values."""
    start, pack = crc32(table), _CRC.pack
    for key, value in rows:
        if len(value) <= _WHOLE_BYTES:
            yield key, pack(crc32(value, crc32(key, start))) + value
        else:
            yield key, seal(table, key, value)


def unseal(table: bytes, key: bytes, stored: bytes) -> bytes:
    """The value in `stored`.

    Raises:
        CorruptionError: its checksum is wrong; the message names table and key.
    """
    value = stored[_BYTES:]
    if len(stored) < _BYTES or _CRC.unpack_from(stored)[0] != _checksum(table, key, value):
        raise CorruptionError(f"views: {table.decode()}: row {key!r} fails its checksum")
    return value


def unseal_rows(table: bytes, rows: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Keys, and the values in what is stored under them.

    Raises:
        CorruptionError: as `unseal`, when the row comes.
    """
    start, unpack = crc32(table), _CRC.unpack_from
    for key, stored in rows:
        value = stored[_BYTES:]
        if _BYTES <= len(stored) <= _WHOLE_BYTES and unpack(stored)[0] == crc32(
            value, crc32(key, start)
        ):
            yield key, value
        else:
            yield key, unseal(table, key, stored)


def is_covered(stored: bytes) -> bool:
    """Whether the checksum of a row covers all of it."""
    return len(stored) - _BYTES <= _WHOLE_BYTES


def _checksum(table: bytes, key: bytes, value: bytes) -> int:
    start = crc32(key, crc32(table))
    if len(value) <= _WHOLE_BYTES or table != b"versions":
        return crc32(value, start)
    return crc32(value[-_TAIL_BYTES:], crc32(value[:_HEAD_BYTES], start))
