"""Every value and every row survives its readable form, through JSON, exactly."""

import json
import sys
from pathlib import Path

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from nt_memory.codec import decode, encode
from nt_memory.codec.plain import from_plain, to_plain
from nt_memory.errors import CodecError
from nt_memory.system.exportlines import parse_row, row_line
from nt_memory.system.spelled_values import spell_value, unspell_value
from nt_memory.system.spelling import spell, unspell
from nt_memory.tiers.layout import (
    Version,
    encode_row,
    expiry_key,
    name_of,
    version_key,
)

sys.path.insert(0, str(Path(__file__).parent))
from test_codec_roundtrip import VALUES, shape_of

# What looks like a tag, but is a user's own.
TRICKY = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(
        st.sampled_from(["$", "$bytes", "$dict", "$tuple", "zone", "a", ""]), inner, max_size=3
    ),
    max_leaves=6,
)
TIMES = st.integers(-62135596800_000000, 253402300799_999999)
REVISIONS = st.integers(1, (1 << 63) - 1)
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1)
SPACES = st.sampled_from("stadopx")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "$int",
                    "$tuple",
                    "$dict",
                    "$ndarray",
                    "$scalar",
                    "$datetime",
                    "$decimal",
                    "$uuid",
                    "$float",
                    "$bytes",
                    "zone",
                    "dtype",
                    "shape",
                    "x",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(VALUES | TRICKY)
def test_a_value_survives_json(value):
    """With the JSON of the standard library as well as ours."""
    stored = decode(encode(value))
    text = json.dumps(to_plain(stored), allow_nan=False)
    for parsed in (json.loads(text), msgspec.json.decode(msgspec.json.encode(to_plain(stored)))):
        back = decode(encode(from_plain(parsed)))
        assert shape_of(back) == shape_of(stored) or _has_nan(stored)


def _has_nan(value):
    # A NaN's payload has no JSON form; such a value is carried as its bytes, see below.
    return "nan" in repr(value).lower()


@given(VALUES | TRICKY, st.booleans())
def test_stored_bytes_survive(value, compress):
    """Whatever is in them, NaN payloads included."""
    data = encode(value, compress=compress)
    spelled = msgspec.json.decode(msgspec.json.encode(spell_value(data)))
    assert unspell_value(spelled) == data


@given(st.binary())
def test_bytes_that_are_no_value_survive(data):
    """As they are."""
    assert unspell_value(msgspec.json.decode(msgspec.json.encode(spell_value(data)))) == data


@given(JSON)
def test_other_json_is_refused_or_read(plain):
    """Never anything but a CodecError, and what is read is what it says."""
    try:
        value = from_plain(plain)
    except CodecError:
        return
    try:
        encode(value)
    except CodecError:
        return


@given(
    SPACES,
    NAMES,
    NAMES,
    TIMES,
    REVISIONS,
    st.builds(
        Version,
        value=st.none() | VALUES.map(encode) | st.binary(),
        recorded_at=TIMES,
        expires_at=st.none() | TIMES,
        actor=NAMES,
        partition=st.integers(-1, 1 << 31),
        row=st.integers(-1, 1 << 31),
        tags=st.lists(st.text(max_size=3), max_size=3).map(tuple),
        is_trimmed_before=st.booleans(),
    ),
)
def test_a_version_survives(space, agent, key, known_at, revision, version):
    """Key and row, byte for byte, through a line of an export."""
    name = name_of(space, agent, key)
    row = version_key(name, known_at, revision), encode_row(version)
    spelled, embedding = parse_row(row_line(spell("versions", *row)))
    assert embedding is None
    assert unspell(spelled) == row
    expiry = expiry_key(known_at, name, known_at, revision), b""
    spelled, _ = parse_row(row_line(spell("expiries", *expiry)))
    assert unspell(spelled) == expiry


@given(
    st.sampled_from(["meta", "requests", "locks", "electorate", "proposals", "some later table"]),
    st.text(min_size=1).map(str.encode) | st.binary(min_size=1),
    st.binary()
    | st.lists(st.none() | st.text() | st.binary() | st.integers(0, 9)).map(msgspec.msgpack.encode)
    | st.integers().map(lambda number: str(number).encode()),
)
@example("proposals", b"0", msgspec.msgpack.encode([0] * 18))
def test_any_row_survives(table, key, value):
    """Of tables that are known, and of those that are not."""
    spelled, _ = parse_row(row_line(spell(table, key, value)))
    assert unspell(spelled) == (key, value)
