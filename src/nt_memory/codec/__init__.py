"""Values to bytes and back: every supported type returns as the type it was, read-only.

Layout: version byte, flags byte, CRC-32 (little endian) of those two bytes and the body, body. The
body is one msgpack object, zstd-compressed when the flag says so. What msgpack knows is spelled in
msgpack; the rest is an extension (big int, datetime, Decimal, UUID, numpy scalar) or an array whose
first element is an empty extension, the marker (tuple, dict with keys other than str, ndarray). A
marker is not a value, so no list can be mistaken for one of these, and decoding is a single pass.

Encoding walks the value in Python only where it must: a flat dict goes to msgspec after two set
tests on its types.
"""

from __future__ import annotations

import struct
import threading
import zlib
from typing import Any, Final

import msgspec
import zstandard

from nt_memory.codec.filed import FILED, Draft, is_filed, stored_bytes
from nt_memory.codec.lowering import Lowering, RefusedError, is_flat, is_flat_and_small
from nt_memory.codec.raising import UNREADABLE, Parts, decode_msgpack, freeze, insert
from nt_memory.codec.wire import (
    FILE_FROM_BYTES,
    FLAT,
    MAX_DEPTH,
    MAX_PARTS_BYTES,
    MAX_VALUE_BYTES,
    shorten,
    too_large,
)
from nt_memory.errors import CodecError, CorruptionError, ValueTooLargeError
from nt_memory.frozen import FrozenDict, FrozenList, thaw

__all__ = [
    "FILE_FROM_BYTES",
    "MAX_DEPTH",
    "MAX_PARTS_BYTES",
    "MAX_VALUE_BYTES",
    "Draft",
    "FrozenDict",
    "FrozenList",
    "Parts",
    "check",
    "compress",
    "decode",
    "decode_with",
    "draft",
    "encode",
    "is_filed",
    "stored_bytes",
    "thaw",
]

_VERSION: Final = 1
_ZSTD: Final = 1
_COMPRESS_FROM: Final = 512
_COPY_UP_TO: Final = 4096
_HEADER: Final = struct.Struct("<BBI")
_CRC_SEED: Final = {flags: zlib.crc32(bytes((_VERSION, flags))) for flags in (0, _ZSTD)}

_encode_msgpack = msgspec.msgpack.Encoder().encode
_crc32 = zlib.crc32


class _Zstd(threading.local):
    """Compressors may not be shared between threads."""

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=1).compress
        self.decompress = zstandard.ZstdDecompressor().decompress


_zstd = _Zstd()


def encode(value: Any, *, compress: bool = True) -> bytes:
    """Bytes of a value.

    Supported, as exactly these types: None, bool, int of any size, float, str, bytes, list, tuple,
    dict with keys of any hashable supported type, datetime (naive, UTC, fixed offset or ZoneInfo),
    Decimal, UUID, numpy arrays and scalars of bool, number, time, bytes and str types. Dataclasses
    and msgspec Structs are stored as dicts of their fields. Arrays come back in C order.

    Args:
        value: Any of these, at most `MAX_DEPTH` containers deep; not modified, and copied.
        compress: Use zstd for bodies of 512 bytes and more if that makes them smaller.

    Raises:
        CodecError: a part has another type (the message names the part, and what to pass instead),
            contains itself, or lies too deep.
        ValueTooLargeError: the body would exceed `MAX_VALUE_BYTES`.

    Cost: about 2 us for ten flat fields.
    """
    try:
        body = _encode_msgpack(value if is_flat(value) else Lowering().lower(value))
    except OverflowError:
        # A flat dict held an int beyond 64 bits.
        body = _encode_msgpack(Lowering().lower(value))
    except (UnicodeEncodeError, RefusedError) as error:
        raise _explained(error) from None
    plain = _sealed(body)
    return _compress(plain) if compress else plain


def draft(value: Any) -> bytes | Draft:
    """Bytes of a value, not compressed; or what goes into its file if it takes too many.

    As `encode`, except that arrays and `bytes` within a large value may have `MAX_PARTS_BYTES`
    together, and are not copied: the draft refers to them.

    Returns:
        The bytes, at most `FILE_FROM_BYTES`; or a draft. A draft without parts may be small enough
        once it is compressed.

    Raises:
        As `encode`.
    """
    lowering: Lowering | None = None
    try:
        if is_flat_and_small(value):
            try:
                body = _encode_msgpack(value)
            except OverflowError:
                body = _encode_msgpack(Lowering().lower(value))
        else:
            lowering = Lowering(lifts=True)
            body = _encode_msgpack(lowering.lower(value))
            if lowering.parts and lowering.parts_bytes + len(body) <= FILE_FROM_BYTES:
                lowering = None
                body = _encode_msgpack(Lowering().lower(value))
    except (UnicodeEncodeError, RefusedError) as error:
        raise _explained(error) from None
    plain = _sealed(body)
    if lowering is not None and lowering.parts:
        return Draft(plain, lowering.parts)
    return plain if len(body) <= FILE_FROM_BYTES else Draft(plain, [])


def _explained(error: UnicodeEncodeError | RefusedError) -> CodecError:
    if not isinstance(error, RefusedError):
        return CodecError(f"a str in the value is not valid Unicode: {error}")
    path = "".join(f"[{shorten(step)}]" for step in reversed(error.steps))
    return CodecError(f"value{path} {error.reason}")


def _sealed(body: bytes) -> bytes:
    if len(body) > MAX_VALUE_BYTES:
        raise too_large(len(body))
    return _HEADER.pack(_VERSION, 0, _crc32(body, _CRC_SEED[0])) + body


def compress(data: bytes) -> bytes:
    """`data`, which `encode` made without compressing, as it would have made it with.

    For values whose compression takes so long that it should leave the event loop: this part is
    thread-safe and releases the GIL.
    """
    if data[1] & _ZSTD or len(data) < _HEADER.size + _COMPRESS_FROM:
        return data
    smaller = _zstd.compress(memoryview(data)[_HEADER.size :])
    if len(smaller) >= len(data) - _HEADER.size:
        return data
    return _HEADER.pack(_VERSION, _ZSTD, _crc32(smaller, _CRC_SEED[_ZSTD])) + smaller


# `encode` has an argument of that name.
_compress = compress


def decode(data: bytes) -> Any:
    """The value in `data`, read-only: `FrozenDict`, `FrozenList`, arrays over immutable bytes.

    Never runs anything found in `data`, and allocates for at most `MAX_VALUE_BYTES` of body.

    Raises:
        CorruptionError: the checksum does not match.
        CodecError: it is not an encoded value, or a newer version wrote it.

    Cost: about 3 us for ten flat fields.
    """
    value = _read(data)
    try:
        return value if type(value) in FLAT else freeze(value, 0)
    except CodecError:
        raise
    except UNREADABLE as error:
        raise CodecError(f"not an encoded value: {error}") from None


def check(data: bytes) -> None:
    """Nothing, if an encoded value is as it was made; without decoding it.

    Raises:
        CorruptionError: the checksum does not match.
    """
    if len(data) > _HEADER.size:
        version, flags, checksum = _HEADER.unpack_from(data)
        if version != _VERSION or flags not in _CRC_SEED:
            return  # of a newer version, or a reference to a file
        if _crc32(memoryview(data)[_HEADER.size :], _CRC_SEED[flags]) == checksum:
            return
    raise CorruptionError("a stored value fails its checksum")


def decode_with(body: bytes, parts: Parts) -> Any:
    """The value in the body of a value file, and its parts; errors as of `decode`.

    Arrays among the parts lie over the file, the rest is copied out of it.
    """
    value = _read(body)
    try:
        if type(value) in FLAT:
            return value
        if type(value) is dict or type(value) is list:
            insert(value, parts)
        return freeze(value, 0)
    except (CodecError, CorruptionError):
        raise
    except UNREADABLE as error:
        raise CodecError(f"not an encoded value: {error}") from None


def _read(data: bytes) -> Any:
    """What msgpack makes of an encoded value."""
    if len(data) <= _HEADER.size:
        raise CodecError(f"not an encoded value: {len(data)} bytes")
    version, flags, checksum = _HEADER.unpack_from(data)
    if version != _VERSION or flags not in _CRC_SEED:
        if version == _VERSION and flags == FILED:
            raise CodecError("the value is kept in a file, which whoever reads it does not know")
        raise CodecError(
            f"not a value this version reads: format {version}, flags {flags}; "
            f"it reads format {_VERSION}"
        )
    # A view costs 0.3 us to make, which is more than copying little.
    body: Any = data if len(data) <= _COPY_UP_TO else memoryview(data)
    body = body[_HEADER.size :]
    if _crc32(body, _CRC_SEED[flags]) != checksum:
        raise CorruptionError("a stored value fails its checksum")
    try:
        if flags:
            body = _decompress(body)
        return decode_msgpack(body)
    except CodecError:
        raise
    except (zstandard.ZstdError, *UNREADABLE) as error:
        raise CodecError(f"not an encoded value: {error}") from None


def _decompress(body: Any) -> bytes:
    size = zstandard.get_frame_parameters(body).content_size
    # The declared size is what gets allocated; libzstd refuses a frame that holds more.
    if size > MAX_VALUE_BYTES:
        raise ValueTooLargeError(f"compressed value declares {size} bytes")
    return _zstd.decompress(body, allow_extra_data=False)
