"""Values as JSON and back, exactly: what an export is written in.

JSON's own types stand for themselves. Everything else is an object whose first key starts with `$`
and names the type: `{"$decimal": "1.10"}`. A dict that would look like one is written as pairs,
`{"$dict": [[key, value], ...]}`, and so is a dict with keys other than str.
"""

from __future__ import annotations

import base64
import binascii
import math
from datetime import datetime, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np

from nt_memory.codec.raising import UNREADABLE
from nt_memory.codec.wire import DTYPE, ZONE, shorten
from nt_memory.errors import CodecError
from nt_memory.frozen import FrozenDict, FrozenList

if TYPE_CHECKING:
    from collections.abc import Callable

_AS_THEY_ARE: Final = frozenset({type(None), bool, str})
_ITSELF: Final = frozenset({type(None), bool, str, int, float})
_TAG: Final = "$"
_DECIMAL_BITS: Final = 1024


def to_plain(value: Any) -> Any:
    """What `json.dumps` takes for a value that `decode` returned; `from_plain` gives it back.

    Raises:
        CodecError: a part is of no type that the codec returns.

    Cost: about 2 us for ten flat fields.
    """
    kind = type(value)
    if kind in _AS_THEY_ARE:
        return value
    if kind is int:
        return value if -(1 << 63) <= value < 1 << 64 else _plain_int(value)
    if kind is float:
        return value if math.isfinite(value) else {"$float": str(value)}
    write = _WRITE.get(kind) or (_plain_scalar if isinstance(value, np.generic) else None)
    if write is None:
        raise CodecError(f"{shorten(value)} is nothing that a store returns")
    return write(value)


def from_plain(plain: Any) -> Any:
    """The value that `to_plain` was given; containers are plain, arrays may be read-only.

    Args:
        plain: What a JSON parser returned; nothing about it is trusted.

    Raises:
        CodecError: it is no value's JSON form.
    """
    try:
        return _value(plain)
    except CodecError:
        raise
    except (*UNREADABLE, AttributeError, binascii.Error) as error:
        raise CodecError(f"not the JSON form of a value: {error}") from None


def _value(plain: Any) -> Any:
    kind = type(plain)
    if kind in _ITSELF:
        return plain
    if kind is list:
        return [_value(item) for item in plain]
    if kind is not dict:
        raise CodecError(f"not the JSON form of a value: {shorten(plain)}")
    for tag in plain:
        if tag[:1] != _TAG:
            break
        read = _READ.get(tag)
        if read is None:
            raise CodecError(f"not the JSON form of a value: {shorten(tag)}")
        return read(plain)
    return {key: _value(item) for key, item in plain.items()}


def _plain_dict(value: dict[Any, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, item in value.items():
        if type(key) is not str or (not plain and key[:1] == _TAG):
            pairs = [[to_plain(key), to_plain(item)] for key, item in value.items()]
            return {"$dict": pairs}
        plain[key] = to_plain(item)
    return plain


def _plain_list(value: list[Any]) -> list[Any]:
    return [to_plain(item) for item in value]


def _plain_int(value: int) -> dict[str, Any]:
    # Python refuses to spell very long ones in decimal, since that takes quadratic time.
    return {"$int": str(value) if value.bit_length() < _DECIMAL_BITS else hex(value)}


def _plain_datetime(value: datetime) -> dict[str, Any]:
    plain: dict[str, Any] = {"$datetime": value.isoformat()}
    zone = value.tzinfo
    if isinstance(zone, ZoneInfo):
        plain["zone"] = zone.key
    elif isinstance(zone, timezone):
        label = zone.tzname(None)
        if label != timezone(zone.utcoffset(None)).tzname(None):
            plain["name"] = label
    if value.fold:
        plain["fold"] = 1
    return plain


def _plain_array(value: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {"$ndarray": _text(value.tobytes()), "dtype": value.dtype.str, "shape": [*value.shape]}


def _plain_scalar(value: Any) -> dict[str, Any]:
    if type(value) is np.str_:
        return {"$scalar": str(value), "dtype": "str"}
    if type(value) is np.bytes_:
        return {"$scalar": _text(bytes(value)), "dtype": "bytes"}
    return {"$scalar": _text(value.tobytes()), "dtype": value.dtype.str}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _read_datetime(plain: dict[str, Any]) -> datetime:
    moment = datetime.fromisoformat(plain["$datetime"]).replace(fold=plain.get("fold", 0))
    zone, name = plain.get("zone"), plain.get("name")
    if zone is not None:
        if not ZONE.fullmatch(zone):
            raise CodecError(f"time zone {shorten(zone)}")
        try:
            # The offset in the text is for the eye: what counts is the wall time in the zone.
            return moment.replace(tzinfo=ZoneInfo(zone))
        except (LookupError, OSError, ValueError):
            raise CodecError(
                f"time zone {shorten(zone)} is not known on this machine: pip install tzdata"
            ) from None
    offset = moment.utcoffset()
    if offset is None or name is None:
        return moment
    return moment.replace(tzinfo=timezone(offset, name))


def _read_array(plain: dict[str, Any]) -> np.ndarray[Any, Any]:
    data = _bytes(plain["$ndarray"])
    return np.ndarray(tuple(plain["shape"]), _dtype(plain["dtype"]), data)


def _read_scalar(plain: dict[str, Any]) -> Any:
    if plain["dtype"] == "str":
        return np.str_(plain["$scalar"])
    data = _bytes(plain["$scalar"])
    if plain["dtype"] == "bytes":
        return np.bytes_(data)
    (scalar,) = np.frombuffer(data, _dtype(plain["dtype"]))
    return scalar


def _dtype(name: str) -> np.dtype[Any]:
    if not DTYPE.fullmatch(name):
        raise CodecError(f"dtype {shorten(name)}")
    return np.dtype(name)


def _read_dict(plain: dict[str, Any]) -> dict[Any, Any]:
    return {_value(key): _value(item) for key, item in plain["$dict"]}


_WRITE: Final[dict[type, Callable[[Any], Any]]] = {
    dict: _plain_dict,
    FrozenDict: _plain_dict,
    list: _plain_list,
    FrozenList: _plain_list,
    tuple: lambda value: {"$tuple": [to_plain(item) for item in value]},
    bytes: lambda value: {"$bytes": _text(value)},
    datetime: _plain_datetime,
    Decimal: lambda value: {"$decimal": str(value)},
    UUID: lambda value: {"$uuid": str(value)},
    np.ndarray: _plain_array,
}
_READ: Final[dict[str, Callable[[dict[str, Any]], Any]]] = {
    "$int": lambda plain: int(plain["$int"], 0),
    "$float": lambda plain: float(plain["$float"]),
    "$tuple": lambda plain: tuple(_value(item) for item in plain["$tuple"]),
    "$dict": _read_dict,
    "$bytes": lambda plain: _bytes(plain["$bytes"]),
    "$datetime": _read_datetime,
    "$decimal": lambda plain: Decimal(plain["$decimal"]),
    "$uuid": lambda plain: UUID(plain["$uuid"]),
    "$ndarray": _read_array,
    "$scalar": _read_scalar,
}
