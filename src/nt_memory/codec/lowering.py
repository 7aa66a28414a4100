"""Supported values to what msgpack can spell."""

from __future__ import annotations

import dataclasses
import enum
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
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
    FLAT,
    INT,
    MAP,
    MARKERS,
    MAX_DEPTH,
    MAX_PARTS_BYTES,
    MAX_VALUE_BYTES,
    MICROSECOND,
    NAIVE,
    NAMED_ZONE,
    NATIVE,
    OFFSET,
    PART_FROM_BYTES,
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
    too_large,
)
from nt_memory.frozen import FrozenDict, FrozenList

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_encode_msgpack = msgspec.msgpack.Encoder().encode
_LIFTING_NATIVE: Final = NATIVE - {bytes}
_FLAT_TEXT: Final = FLAT - {bytes}


class RefusedError(Exception):
    """A part of a value cannot be encoded; `steps` lead to it, innermost first."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.steps: list[object] = []


def is_flat(value: Any) -> bool:
    """Whether msgpack spells it as it is, unless an int in it exceeds 64 bits."""
    kind = type(value)
    if kind is dict or kind is FrozenDict:
        return STR.issuperset(map(type, value)) and FLAT.issuperset(map(type, value.values()))
    return kind in FLAT


def is_flat_and_small(value: Any) -> bool:
    """Whether it is flat, and no `bytes` in it might have to be left out of the body.

    Cost: as `is_flat` where there are no `bytes` in it.
    """
    kind = type(value)
    if kind is dict or kind is FrozenDict:
        if not STR.issuperset(map(type, value)):
            return False
        items = value.values()
        if _FLAT_TEXT.issuperset(map(type, items)):
            return True
        return FLAT.issuperset(map(type, items)) and _are_small(items)
    return kind in _FLAT_TEXT or (kind is bytes and len(value) < PART_FROM_BYTES)


def _are_small(items: Iterable[Any]) -> bool:
    return all(len(item) < PART_FROM_BYTES for item in items if type(item) is bytes)


class Lowering:
    """One walk over a value, turning it into what msgpack can spell.

    Args:
        lifts: Leave large arrays and `bytes` out, each replaced by its place in `parts`.

    Attributes:
        parts: What was left out, as it was found; nothing is copied.
        parts_bytes: Bytes of all of them.
    """

    def __init__(self, *, lifts: bool = False) -> None:
        self._ancestors: set[int] = set()
        self._items = 0
        self._native = _LIFTING_NATIVE if lifts else NATIVE
        self._lifts = lifts
        self.parts: list[bytes | np.ndarray[Any, Any]] = []
        self.parts_bytes: int = 0

    def lower(self, value: Any) -> Any:
        """What to hand to msgpack for `value`.

        Raises:
            RefusedError: a part has no supported type, contains itself or lies too deep.
            ValueTooLargeError: it would take more than `MAX_VALUE_BYTES`.
        """
        kind = type(value)
        if kind in self._native:
            return value
        if kind is bytes:
            return self.lower_bytes(value)
        method = _LOWER.get(kind)
        if method is not None:
            return method(self, value)
        if isinstance(value, np.generic):
            return _lower_scalar(value)
        fields = _fields(value)
        if fields is None:
            raise RefusedError(_advice(value))
        return self.lower_dict(dict(fields), identity=id(value))

    def lower_int(self, value: int) -> Any:
        """As it is, or as two's complement beyond 64 bits."""
        if -(1 << 63) <= value < 1 << 64:
            return value
        size = value.bit_length() // 8 + 1
        return _ext(INT, value.to_bytes(size, "little", signed=True))

    def lower_list(self, value: list[Any]) -> list[Any]:
        """As it is where nothing in it needs a look."""
        if NATIVE.issuperset(map(type, value)) and (not self._lifts or _are_small(value)):
            self._enter(len(value), id(value))
            self._ancestors.remove(id(value))
            return value
        return self._lower_all(value, id(value), enumerate(value))

    def lower_tuple(self, value: tuple[Any, ...]) -> list[Any]:
        """Marker and items."""
        return [_MARK[TUPLE], *self._lower_all(value, id(value), enumerate(value))]

    def lower_dict(self, value: dict[Any, Any], identity: int | None = None) -> Any:
        """A msgpack map, or marker, key, item, key, item for keys that are not all str."""
        identity = identity or id(value)
        lowered = self._lower_all(value, identity, value.items())
        if STR.issuperset(map(type, value)):
            return dict(zip(value, lowered, strict=True))
        keys = self._lower_all(value, identity, enumerate(value))
        pairs: list[Any] = [_MARK[MAP]]
        for key, item in zip(keys, lowered, strict=True):
            pairs += key, item
        return pairs

    def lower_array(self, value: np.ndarray[Any, Any]) -> list[Any]:
        """Marker, dtype, shape and data in C order."""
        if not DTYPE.fullmatch(value.dtype.str):
            raise RefusedError(
                f"is an array of {value.dtype}, which has no fixed bytes: "
                "use a numeric, bool, datetime64 or fixed-width text dtype, or pass value.tolist()"
            )
        if self._lifts and value.nbytes >= PART_FROM_BYTES:
            return [_MARK[ARRAY], value.dtype.str, value.shape, self._lift(value, value.nbytes)]
        if value.nbytes > MAX_VALUE_BYTES:
            raise too_large(value.nbytes)
        return [_MARK[ARRAY], value.dtype.str, value.shape, value.tobytes()]

    def lower_bytes(self, value: bytes) -> Any:
        """As they are, or marker and place."""
        if self._lifts and len(value) >= PART_FROM_BYTES:
            return [_MARK[BLOB], self._lift(value, len(value))]
        return value

    def _lift(self, part: bytes | np.ndarray[Any, Any], size: int) -> int:
        self.parts.append(part)
        self.parts_bytes += size
        if self.parts_bytes > MAX_PARTS_BYTES:
            raise too_large(self.parts_bytes, MAX_PARTS_BYTES)
        return len(self.parts) - 1

    def _lower_all(
        self, container: Any, identity: int, items: Iterable[tuple[object, Any]]
    ) -> list[Any]:
        self._enter(len(container), identity)
        lowered: list[Any] = []
        step: object = None
        try:
            for step, item in items:  # noqa: B007
                lowered.append(self.lower(item))
        except RefusedError as refused:
            refused.steps.append(step)
            raise
        self._ancestors.remove(identity)
        return lowered

    def _enter(self, items: int, identity: int) -> None:
        if identity in self._ancestors:
            raise RefusedError("contains itself")
        if len(self._ancestors) == MAX_DEPTH:
            raise RefusedError(f"lies deeper than {MAX_DEPTH} containers")
        # Every item takes a byte at least, so a value too big by reuse of its parts ends here.
        self._items += items
        if self._items > MAX_VALUE_BYTES:
            raise too_large(self._items)
        self._ancestors.add(identity)


def _lower_datetime(value: datetime) -> msgspec.msgpack.Ext:
    zone = value.tzinfo
    name = b""
    if zone is None:
        kind = NAIVE
    elif zone is UTC:
        kind = UTC_ZONE
    elif type(zone) is timezone:
        kind = OFFSET
        label = zone.tzname(None)
        offset = zone.utcoffset(None)
        # A name given by hand is kept; the one derived from the offset is derived again.
        is_derived = label == timezone(offset).tzname(None)
        name = _encode_msgpack((offset // MICROSECOND, None if is_derived else label))
    elif type(zone) is ZoneInfo and zone.key and ZONE.fullmatch(zone.key):
        kind = NAMED_ZONE
        name = zone.key.encode()
    else:
        raise RefusedError(
            f"has tzinfo {shorten(zone)}: use datetime.UTC, a fixed datetime.timezone "
            "or a zoneinfo.ZoneInfo with a key"
        )
    wall_us = (value.replace(tzinfo=None) - ZERO) // MICROSECOND
    return _ext(DATETIME, TIME.pack(wall_us, value.fold, kind) + name)


def _lower_scalar(value: Any) -> msgspec.msgpack.Ext:
    kind = type(value)
    if kind is np.str_:
        return _ext(SCALAR, TEXT_SCALAR + b"\0" + value.encode())
    if kind is np.bytes_:
        return _ext(SCALAR, BYTES_SCALAR + b"\0" + bytes(value))
    dtype = value.dtype.str
    if not DTYPE.fullmatch(dtype):
        raise RefusedError(f"is a numpy {kind.__name__}: pass value.item()")
    return _ext(SCALAR, dtype.encode() + b"\0" + value.tobytes())


def _fields(value: Any) -> list[tuple[str, Any]] | None:
    """Name and value of each field of a dataclass or Struct; None if it is neither."""
    if isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
    elif dataclasses.is_dataclass(value) and not isinstance(value, (*_BUILTINS, type)):
        names = tuple(field.name for field in dataclasses.fields(value))
    else:
        return None
    try:
        return [(name, getattr(value, name)) for name in names]
    except AttributeError as error:
        raise RefusedError(f"lacks a field: {error}") from None


_BUILTINS: Final = (dict, list, tuple, str, bytes, int, float, datetime, Decimal, UUID, enum.Enum)
# First match wins.
_ADVICE: Final[tuple[tuple[Any, str], ...]] = (
    (enum.Enum, "value.value or value.name"),
    (datetime, "a plain datetime (of a pandas Timestamp: value.to_pydatetime())"),
    (date, "a datetime, or value.isoformat()"),
    (time, "value.isoformat()"),
    (timedelta, "value.total_seconds()"),
    (dict, "dict(value)"),
    (list, "list(value)"),
    (str, "str(value)"),
    (int, "int(value)"),
    (float, "float(value)"),
    ((set, frozenset), "a list, for example sorted(value)"),
    ((bytes, bytearray, memoryview), "bytes(value)"),
    (complex, "numpy.complex128(value)"),
    (np.ndarray, "a plain array, numpy.array(value)"),
)


def _advice(value: Any) -> str:
    kind = type(value)
    what = f"is a {kind.__module__}.{kind.__qualname__}, which cannot be stored: pass "
    if isinstance(value, tuple):
        return what + ("value._asdict()" if hasattr(kind, "_fields") else "tuple(value)")
    for known, instead in _ADVICE:
        if isinstance(value, known):
            return what + instead
    if kind.__module__.partition(".")[0] in {"pandas", "polars"}:
        return what + "value.to_numpy() or value.to_dict()"
    return what + "a dict of its parts, a dataclass or a msgspec.Struct"


_ext = msgspec.msgpack.Ext
_MARK: Final = {code: _ext(code, b"") for code in MARKERS}
_LOWER: Final[dict[type, Callable[[Lowering, Any], Any]]] = {
    int: Lowering.lower_int,
    list: Lowering.lower_list,
    FrozenList: Lowering.lower_list,
    tuple: Lowering.lower_tuple,
    dict: Lowering.lower_dict,
    FrozenDict: Lowering.lower_dict,
    np.ndarray: Lowering.lower_array,
    datetime: lambda _, value: _lower_datetime(value),
    Decimal: lambda _, value: _ext(DECIMAL, str(value).encode()),
    UUID: lambda _, value: _ext(UUID_, value.bytes),
}
