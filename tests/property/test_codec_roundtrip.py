import contextlib
import struct
import tempfile
import zlib
from datetime import UTC, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nt_memory import codec
from nt_memory.codec import compress, decode, encode, lowering, thaw
from nt_memory.errors import CodecError
from nt_memory.frozen import FrozenDict, FrozenList
from nt_memory.transport import values

ZONES = st.sampled_from(
    [
        *(UTC, ZoneInfo("America/New_York"), ZoneInfo("Asia/Tokyo")),
        *(timezone(timedelta(minutes=m)) for m in (-330, 1, 840)),
        timezone(timedelta(hours=1), "CET"),
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text()
    | st.binary()
    | st.datetimes()
    | st.datetimes(timezones=ZONES)
    | st.decimals()
    | st.uuids()
)
ARRAYS = hnp.arrays(
    hnp.boolean_dtypes()
    | hnp.integer_dtypes(endianness="?")
    | hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64))
    | hnp.complex_number_dtypes(sizes=(64, 128))
    | hnp.datetime64_dtypes()
    | hnp.unicode_string_dtypes(max_len=5)
    | hnp.byte_string_dtypes(max_len=5),
    hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
)
# A signalling NaN cannot be hashed.
HASHABLE = SCALARS.filter(lambda s: not (isinstance(s, Decimal) and s.is_snan()))
KEYS = HASHABLE | st.tuples(HASHABLE, HASHABLE)
VALUES = st.recursive(
    SCALARS | ARRAYS,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(st.text(max_size=5), inner, max_size=5)
        | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)


def shape_of(value):
    """A comparable picture of a value: types and contents, NaN equal to itself."""
    if isinstance(value, dict):
        return dict, [(shape_of(k), shape_of(v)) for k, v in value.items()]
    if isinstance(value, list | tuple):
        kind = list if isinstance(value, list) else tuple
        return kind, [shape_of(item) for item in value]
    if isinstance(value, np.ndarray):
        return np.ndarray, value.dtype, value.shape, value.tobytes()
    if hasattr(value, "tzinfo"):
        return type(value), value.replace(tzinfo=None), repr(value.tzinfo), value.fold
    if isinstance(value, float):
        return float, struct.pack("<d", value)
    return type(value), repr(value)


def assert_read_only(value):
    assert type(value) not in {dict, list}
    if isinstance(value, FrozenDict):
        for item in value.values():
            assert_read_only(item)
    elif isinstance(value, FrozenList | tuple):
        for item in value:
            assert_read_only(item)
    elif isinstance(value, np.ndarray):
        assert not value.flags.writeable


@settings(max_examples=120, deadline=None)
@given(VALUES)
def test_any_supported_value_round_trips_read_only(value):
    """Decoding returns what was encoded, of the same types, read-only throughout; again too."""
    data = encode(value)
    decoded = decode(data)
    assert shape_of(decoded) == shape_of(value)
    assert_read_only(decoded)
    assert encode(decoded) == data
    assert shape_of(thaw(decoded)) == shape_of(value)
    assert encode(thaw(decoded)) == data
    assert compress(encode(value, compress=False)) == data


@settings(max_examples=120, deadline=None)
@given(VALUES, st.booleans())
def test_any_supported_value_round_trips_through_a_file(value, compresses):
    """What a value file gives back is what the codec gives back, whatever lies outside its body."""
    with (
        tempfile.TemporaryDirectory() as place,
        limit_of(lowering, "PART_FROM_BYTES", 1),
        limit_of(codec, "FILE_FROM_BYTES", 0),
        limit_of(values, "FILE_FROM_BYTES", 0),
    ):
        large = codec.draft(value)
        assert isinstance(large, codec.Draft)
        files = values.ValueFiles(Path(place))
        options = {"is_stopped": lambda: False, "on_read": lambda: None}
        data = files.write(large, compresses=compresses, **options)
        found = files.load(data, "a/k")
        assert shape_of(found) == shape_of(value)
        assert_read_only(found)
        assert shape_of(thaw(found)) == shape_of(value)
        assert values.ValueFiles(Path(place)).write(large, compresses=compresses, **options) == data


@contextlib.contextmanager
def limit_of(module, name, number):
    """Another limit, so that small values are treated like large ones."""
    was = getattr(module, name)
    setattr(module, name, number)
    try:
        yield
    finally:
        setattr(module, name, was)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([0, 1]))
def test_arbitrary_bytes_only_ever_raise_codec_error(body, flags):
    """Any body under a valid checksum decodes to something or raises CodecError."""
    head = bytes((1, flags))
    with contextlib.suppress(CodecError):
        assert_read_only(
            decode(head + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + body)
        )


@settings(max_examples=120, deadline=None)
@given(VALUES, st.data())
def test_mutated_encodings_only_ever_raise_codec_error(value, data):
    """An encoding damaged by somebody who also fixes the checksum cannot do worse than refuse."""
    body = bytearray(encode(value, compress=False)[6:])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    head = bytes((1, 0))
    with contextlib.suppress(CodecError):
        repr(decode(head + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + bytes(body)))
