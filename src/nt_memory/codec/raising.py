"""What msgpack holds back to values, read-only, trusting nothing."""

from __future__ import annotations

import math
import struct
import sys
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import numpy as np

from nt_memory.codec.wire import (
    ARRAY,
    BLOB,
    BYTES_SCALAR,
    DATETIME,
    DECIMAL,
    DTYPE,
    INT,
    MAP,
    MARKERS,
    MAX_DEPTH,
    NAIVE,
    NAMED_ZONE,
    OFFSET,
    SCALAR,
    STR,
    TEXT_SCALAR,
    TIME,
    TUPLE,
    UTC_ZONE,
    UUID_,
    ZERO,
    ZONE,
    shorten,
)
from nt_memory.errors import CodecError
from nt_memory.frozen import FrozenDict, FrozenList

if TYPE_CHECKING:
    from collections.abc import Callable
    from mmap import mmap


class PartOfFile:
    """Bytes of a mapped file that an array is to lie over.

    Args:
        map: The map, read-only.
        offset: Where they begin.
        size: How many they are.
    """

    __slots__ = ("_size", "map", "offset")

    def __init__(self, map: mmap, offset: int, size: int) -> None:  # noqa: A002
        self.map: mmap = map
        self.offset: int = offset
        self._size = size

    def __len__(self) -> int:
        return self._size


class Parts(Protocol):
    """The parts of a value that lie outside its body."""

    def bytes_at(self, place: int) -> bytes:
        """One of them, as `bytes` of its own."""
        ...

    def part_at(self, place: int) -> PartOfFile:
        """One of them, where it lies."""
        ...


class _Blob:
    """`bytes` that were left out of the body, put in again."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class _Mark:
    """A marker as decoded: first element of an array that stands for something else."""

    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        self.code = code


_MARKS: Final = {code: _Mark(code) for code in MARKERS}
_CONTAINERS: Final = frozenset({dict, list, _Mark})


def insert(value: Any, parts: Parts) -> None:
    """Put into `value`, as `decode_msgpack` gave it, the parts that were left out of it.

    How deep it is, is judged by `freeze`; of what is far too deep Python makes a RecursionError.

    Args:
        value: A dict or list of what msgpack can hold; changed in place.
        parts: What was left out.

    Raises:
        One of `UNREADABLE`: no value is encoded like this.
    """
    items: Any = value.values() if type(value) is dict else value
    if type(value) is list and value and type(value[0]) is _Mark:
        code = value[0].code
        if code == BLOB:
            value[1] = _Blob(parts.bytes_at(value[1]))
        elif code == ARRAY and type(value[3]) is int:
            value[3] = parts.part_at(value[3])
        items = value[1:]
    for item in items:
        if type(item) is dict or type(item) is list:
            insert(item, parts)


def freeze(value: Any, depth: int) -> Any:
    """`value`, as `decode_msgpack` gave it, with its containers read-only and markers resolved.

    Args:
        value: Anything msgpack can hold.
        depth: How many containers it lies in.

    Raises:
        CodecError, or one of `UNREADABLE`: no value is encoded like this.
    """
    kind = type(value)
    if kind not in _CONTAINERS:
        return value
    if kind is _Mark or (depth == MAX_DEPTH and not _is_leaf(value)):
        raise CodecError("not an encoded value: too deep, or a marker out of place")
    if kind is dict:
        if not STR.issuperset(map(type, value)):
            raise CodecError("not an encoded value: a map key that is not str")
        if _CONTAINERS.isdisjoint(map(type, value.values())):
            return FrozenDict(value)
        return FrozenDict({key: freeze(item, depth + 1) for key, item in value.items()})
    if value and type(value[0]) is _Mark:
        return _RAISE[value[0].code](value, depth + 1)
    if _CONTAINERS.isdisjoint(map(type, value)):
        return FrozenList(value)
    return FrozenList([freeze(item, depth + 1) for item in value])


def _is_leaf(value: Any) -> bool:
    """Whether it stands for an array or `bytes`: spelled as a list, it contains no values."""
    is_marked = type(value) is list and bool(value) and type(value[0]) is _Mark
    return is_marked and value[0].code in {ARRAY, BLOB}


def _raise_tuple(parts: list[Any], depth: int) -> tuple[Any, ...]:
    return tuple([freeze(item, depth) for item in parts[1:]])


def _raise_map(parts: list[Any], depth: int) -> FrozenDict:
    items = [freeze(item, depth) for item in parts[1:]]
    frozen = FrozenDict(zip(items[::2], items[1::2], strict=True))
    if 2 * len(frozen) != len(items):
        raise CodecError("not an encoded value: a dict with a key twice")
    return frozen


def _raise_array(parts: list[Any], _: int) -> np.ndarray[Any, Any]:
    _mark, name, shape, data = parts
    dtype = _dtype(name)
    is_buffer = type(data) is bytes or isinstance(data, PartOfFile)
    if not is_buffer or math.prod(shape) * dtype.itemsize != len(data):
        raise CodecError("not an encoded value: array data does not fit its shape")
    array: np.ndarray[Any, Any]
    if isinstance(data, PartOfFile):
        array = np.ndarray(tuple(shape), dtype, data.map, data.offset)
        array.flags.writeable = False
    else:
        array = np.ndarray(tuple(shape), dtype, data)
    # Bytes that no numpy operation would have produced must not reach one.
    if dtype.kind == "b" and array.size and int(array.view(np.uint8).max()) > 1:
        raise CodecError("not an encoded value: bool array")
    if dtype.kind == "U" and array.size:
        points = array.reshape(-1).view(np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if int(points.max()) > sys.maxunicode:
            raise CodecError("not an encoded value: text array")
    return array


def _raise_blob(parts: list[Any], _: int) -> bytes:
    _mark, blob = parts
    if type(blob) is not _Blob:
        raise CodecError("not an encoded value: a part that is not there")
    data: bytes = blob.data
    return data


_RAISE: Final[dict[int, Callable[[list[Any], int], Any]]] = {
    TUPLE: _raise_tuple,
    MAP: _raise_map,
    ARRAY: _raise_array,
    BLOB: _raise_blob,
}


def _dtype(name: str) -> np.dtype[Any]:
    if not DTYPE.fullmatch(name):
        raise CodecError(f"not an encoded value: dtype {shorten(name)}")
    return np.dtype(name)


def _raise_ext(code: int, data: memoryview) -> Any:
    mark = _MARKS.get(code)
    if mark is not None and not data:
        return mark
    read = _READ.get(code)
    if read is None:
        raise CodecError(f"not an encoded value: extension {code}")
    return read(bytes(data))


def _read_decimal(data: bytes) -> Decimal:
    value = Decimal(data.decode())
    if str(value).encode() != data:
        raise CodecError("not an encoded value: Decimal")
    return value


def _read_datetime(data: bytes) -> datetime:
    wall_us, fold, kind = TIME.unpack_from(data)
    name = data[TIME.size :]
    zone: tzinfo | None = None
    if kind == UTC_ZONE:
        zone = UTC
    elif kind == OFFSET:
        zone = _read_offset(name)
    elif kind == NAMED_ZONE:
        zone = _zone(name.decode())
    elif kind != NAIVE:
        raise CodecError(f"not an encoded value: time zone of kind {kind}")
    return (ZERO + timedelta(microseconds=wall_us)).replace(tzinfo=zone, fold=fold)


def _read_offset(data: bytes) -> timezone:
    offset_us, label = msgspec.msgpack.decode(data, type=tuple[int, str | None])
    offset = timedelta(microseconds=offset_us)
    return timezone(offset) if label is None else timezone(offset, label)


def _zone(key: str) -> ZoneInfo:
    if not ZONE.fullmatch(key):
        raise CodecError(f"not an encoded value: time zone {shorten(key)}")
    try:
        return ZoneInfo(key)
    except (LookupError, OSError, ValueError):
        raise CodecError(
            f"time zone {shorten(key)} is not known on this machine: pip install tzdata"
        ) from None


def _read_scalar(data: bytes) -> Any:
    name, _, raw = data.partition(b"\0")
    if name == TEXT_SCALAR:
        return np.str_(raw.decode())
    if name == BYTES_SCALAR:
        return np.bytes_(raw)
    return _raise_array([None, name.decode(), (), raw], 0)[()]


_READ: Final[dict[int, Callable[[bytes], Any]]] = {
    INT: lambda data: int.from_bytes(data, "little", signed=True),
    DATETIME: _read_datetime,
    DECIMAL: _read_decimal,
    UUID_: lambda data: UUID(bytes=data),
    SCALAR: _read_scalar,
}
UNREADABLE: Final = (
    msgspec.DecodeError,
    struct.error,
    ArithmeticError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
decode_msgpack: Callable[[bytes | memoryview], Any] = msgspec.msgpack.Decoder(
    ext_hook=_raise_ext
).decode
