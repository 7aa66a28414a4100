"""Stored values as people read them, and back; see `spelling`."""

from __future__ import annotations

import base64
import struct
from typing import Any, Final

import msgspec

from nt_memory.codec import compress, decode, encode, is_filed
from nt_memory.codec.filed import Reference, read_reference, write_reference
from nt_memory.codec.plain import from_plain, to_plain
from nt_memory.errors import InvalidInputError, NtMemoryError

Row = dict[str, Any]
_UNCOMPRESSED, _FIELDS, _BYTES, _FILE = "uncompressed", "fields", "bytes", "file"
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.decode
UNREADABLE: Final = (
    NtMemoryError,
    msgspec.MsgspecError,
    struct.error,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What reading something malformed may end in."""


def spell_value(data: bytes, doc: type[msgspec.Struct] | None = None) -> Row:
    """A stored value as `value`, and as `encoding` how it is stored unless that is as usual.

    Of a value in a file only the file is named.
    """
    if is_filed(data):
        name, size = read_reference(data).name, read_reference(data).size
        return {"value": {"file": name, "bytes": size}, "encoding": _FILE}
    try:
        value = decode(data)
        plain = to_plain(value)
        back = from_plain(plain)
        again = encode(back, compress=False)
        if again == data:
            usual = compress(again) == data
            return {"value": plain} if usual else {"value": plain, "encoding": _UNCOMPRESSED}
        # Another version of zstd may compress differently; what counts is what was compressed.
        is_compressed = data[1] and data[:2] == compress(again)[:2]
        if is_compressed and encode(value, compress=False) == again:
            return {"value": plain}
    except UNREADABLE:
        pass
    fields = spell_fields(data, doc)
    if fields is not None:
        return {"value": fields, "encoding": _FIELDS}
    return {"value": to_text(data), "encoding": _BYTES}


def unspell_value(row: Row, doc: type[msgspec.Struct] | None = None) -> bytes:
    """The stored bytes of a value."""
    encoding = row.get("encoding")
    if encoding == _BYTES:
        return to_data(row["value"])
    if encoding == _FILE:
        file = row["value"]
        return write_reference(Reference(bytes.fromhex(file["file"]), int(file["bytes"])))
    if encoding == _FIELDS:
        return unspell_fields(row["value"], doc)
    if encoding not in {None, _UNCOMPRESSED}:
        raise InvalidInputError(f"unknown encoding {encoding!r}")
    return encode(from_plain(row["value"]), compress=encoding is None)


def spell_fields(data: bytes, doc: type[msgspec.Struct] | None) -> Any:
    """What msgpack says, in words and with the names of its fields if they are known; or None."""
    try:
        parts = _unpack(data)
        names = _names(doc)
        if type(parts) is list and _fewest(doc) <= len(parts) <= len(names):
            names = names[: len(parts)]
            plain: Any = {name: to_plain(part) for name, part in zip(names, parts, strict=True)}
        else:
            plain = to_plain(parts)
        return plain if unspell_fields(plain, doc) == data else None
    except UNREADABLE:
        return None


def unspell_fields(plain: Any, doc: type[msgspec.Struct] | None) -> bytes:
    """The inverse of `spell_fields`."""
    names = _names(doc)
    # What was written before a document got its last fields has only the first ones.
    if names and type(plain) is dict and len(plain) >= _fewest(doc):
        names = names[: len(plain)]
        if tuple(plain) == names:
            return _pack([from_plain(plain[name]) for name in names])
    return _pack(from_plain(plain))


def _names(doc: type[msgspec.Struct] | None) -> tuple[str, ...]:
    if doc is None:
        return ()
    tag = ("command",) if doc.__struct_config__.tag else ()
    return (*tag, *doc.__struct_fields__)


def _fewest(doc: type[msgspec.Struct] | None) -> int:
    """How many fields a document has at least: a shorter array is something else."""
    return 1 if doc is None else max(1, len(_names(doc)) - len(doc.__struct_defaults__))


def to_text(data: bytes) -> str:
    """Bytes as base64."""
    return base64.b64encode(data).decode()


def to_data(text: str) -> bytes:
    """The bytes in base64."""
    return base64.b64decode(text, validate=True)
