import copy
import dataclasses
import enum
import json
import pickle
import struct
import threading
import zlib
from collections import Counter, OrderedDict, defaultdict, namedtuple
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import partial
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pytest
import zstandard

from nt_memory import codec
from nt_memory.codec import MAX_DEPTH, MAX_VALUE_BYTES, compress, decode, encode, lowering, thaw
from nt_memory.codec.filed import Reference, write_reference
from nt_memory.errors import CodecError, CorruptionError, ValueTooLargeError
from nt_memory.frozen import FrozenDict, FrozenList, resident_bytes

NEW_YORK = ZoneInfo("America/New_York")
Point = namedtuple("Point", "x y")


class Pair(tuple):
    __slots__ = ()


class Odd(tzinfo):
    pass


class Side(enum.IntEnum):
    BUY = 1


@dataclasses.dataclass
class Order:
    symbol: str
    fills: list[int]


class Quote(msgspec.Struct, rename="camel", tag="q"):
    bid_price: Decimal
    ask_price: Decimal


def same(a, b):
    """Equal, of the same types, all the way down; frozen containers count as plain ones."""
    plain = {FrozenDict: dict, FrozenList: list}
    kind_a, kind_b = (plain.get(type(x), type(x)) for x in (a, b))
    if kind_a is not kind_b:
        return False
    if kind_a is dict:
        return len(a) == len(b) and all(
            same(x, y)
            for pair in zip(a.items(), b.items(), strict=True)
            for x, y in zip(*pair, strict=True)
        )
    if kind_a in {list, tuple}:
        return len(a) == len(b) and all(map(same, a, b))
    if kind_a is np.ndarray:
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if kind_a is datetime:
        return (a.replace(tzinfo=None), a.tzinfo, a.tzname(), a.fold) == (
            b.replace(tzinfo=None),
            b.tzinfo,
            b.tzname(),
            b.fold,
        )
    return repr(a) == repr(b)


def framed(body: bytes, *, flags: int = 0, version: int = 1) -> bytes:
    head = bytes((version, flags))
    return head + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + body


SUPPORTED = [
    None,
    True,
    0,
    -1,
    2**63 - 1,
    2**64 - 1,
    2**64,
    -(2**63) - 1,
    -(10**400),
    0.1,
    -0.0,
    float("nan"),
    float("-inf"),
    "",
    "Zürich\0",
    b"\x00\xff",
    [],
    (),
    {},
    [1, [2, (3,)], {"a": ({},)}],
    ((), ((),)),
    {1: "int", "1": "str", (1, (2,)): "tuple", None: 0, 1.5: 0, b"k": 0, Decimal(3): 1},
    {UUID(int=5): 0, datetime(2024, 1, 1, tzinfo=UTC): 1, 2**70: 2, np.int64(4): 3},
    {"big": 2**64},
    datetime(2024, 1, 2, 3, 4, 5, 678901),  # noqa: DTZ001
    datetime.min,  # noqa: DTZ901
    datetime.max,  # noqa: DTZ901
    datetime(2024, 1, 2, tzinfo=UTC),
    datetime(2024, 1, 2, tzinfo=timezone(timedelta(hours=5, minutes=30, microseconds=1))),
    datetime(2024, 1, 2, tzinfo=timezone(timedelta(hours=-5), "EST")),
    datetime(2024, 1, 2, tzinfo=timezone(timedelta(0), "Z")),
    datetime(2024, 11, 3, 1, 30, fold=1, tzinfo=NEW_YORK),
    datetime(2024, 11, 3, 1, 30, tzinfo=NEW_YORK),
    datetime(2024, 1, 2, tzinfo=ZoneInfo("UTC")),
    Decimal("1.10"),
    Decimal("-0E+3"),
    Decimal("sNaN12"),
    Decimal("-Infinity"),
    Decimal("1E+999999"),
    UUID(int=2**128 - 1),
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.arange(6).reshape(2, 3).T,
    np.arange(10)[::3],
    np.array(3.5),
    np.zeros((0, 4), ">i2"),
    np.array(["a", "bcd"]),
    np.array("abc"),
    np.array([["a", "bcd"], ["", "é"]]),
    np.array(["é", "bcd"], ">U3"),
    np.array(["\U0010ffff"]),
    np.array([b"a", b"bcd"]),
    np.array([True, False]),
    np.array(["2024-01-02", "NaT"], "datetime64[ns]"),
    np.array([1 + 2j]),
    np.float16(0.1),
    np.float64(0.1),
    np.int8(-3),
    np.bool_(True),
    np.str_("x\0"),
    np.bytes_(b"x\0"),
    np.datetime64("2024-01-02T03", "h"),
    np.timedelta64(5, "ms"),
    np.complex64(1j),
]


@pytest.mark.parametrize("value", SUPPORTED, ids=range(len(SUPPORTED)))
def test_every_supported_type_comes_back_as_it_was(value):
    """What `get` returns equals what was put, and has its types, alone or inside a container."""
    assert same(decode(encode(value)), value)
    assert same(decode(encode({"k": [value, (value,)]})), {"k": [value, (value,)]})
    assert same(decode(encode(decode(encode([value])))), [value])


def test_dataclasses_and_structs_are_stored_as_maps_of_their_fields():
    """A dataclass or Struct becomes a dict by field name, whatever its wire name or tag."""
    order = Order("AAPL", [1, 2])
    assert decode(encode(order)) == {"symbol": "AAPL", "fills": [1, 2]}
    nested = Order("AAPL", [order, (order, {"k": order})])
    plain = {"symbol": "AAPL", "fills": [1, 2]}
    assert decode(encode(nested)) == {"symbol": "AAPL", "fills": [plain, (plain, {"k": plain})]}
    quote = Quote(Decimal("1.1"), Decimal("1.2"))
    assert decode(encode([quote])) == [{"bid_price": Decimal("1.1"), "ask_price": Decimal("1.2")}]


FRAME = pd.DataFrame({"a": [1]})
REFUSED = [
    (Point(1, 2), r"pass value\._asdict\(\)$"),
    (Pair((1, 2)), r"pass tuple\(value\)$"),
    (Side.BUY, r"value\.value"),
    (OrderedDict(a=1), r"dict\(value\)"),
    (defaultdict(int), r"dict\(value\)"),
    (Counter("a"), r"dict\(value\)"),
    (FRAME, r"pass value\.to_numpy\(\) or value\.to_dict\(\)$"),
    (FRAME["a"], "to_numpy"),
    (pl.DataFrame({"a": [1]}), "to_numpy"),
    (pl.Series([1]), "to_numpy"),
    (pd.Timestamp("2024-01-02", tz="UTC"), "to_pydatetime"),
    ({1, 2}, "a list"),
    (date(2024, 1, 2), "a datetime"),
    (timedelta(1), "total_seconds"),
    (bytearray(b"x"), r"bytes\(value\)"),
    (memoryview(b"x"), r"bytes\(value\)"),
    (1j, "complex128"),
    (np.array([object()]), "tolist"),
    (np.array([(1, 2.0)], "i4,f8"), "tolist"),
    (np.ma.array([1], mask=[True]), "array"),
    (np.longdouble(1), "item"),
    (object(), r"pass a dict of its parts, a dataclass or a msgspec\.Struct$"),
    (print, "dataclass"),
    (Order, "dataclass"),
    ("\ud800", "Unicode"),
    (["\ud800", {}], "Unicode"),
    (np.str_("\ud800"), "Unicode"),
    (datetime(2024, 1, 2, tzinfo=Odd()), "tzinfo"),
]


@pytest.mark.parametrize(("value", "advice"), REFUSED, ids=range(len(REFUSED)))
def test_other_types_are_refused_with_what_to_pass_instead(value, advice):
    """An unencodable value gets an error that says what to do, at top level and inside."""
    for wrapped in (value, [value], {"a": (value,)}):
        with pytest.raises(CodecError, match=advice):
            encode(wrapped)


def test_a_refusal_names_the_part():
    """The message leads to the part that cannot be stored."""
    with pytest.raises(CodecError, match=r"value\['orders'\]\[1\]\['side'\] is a .*Side"):
        encode({"orders": [1, {"side": Side.BUY}]})


def test_values_that_contain_themselves_are_refused():
    """A cycle ends in an error, not in an endless walk; a part used twice is no cycle."""
    loop: list = []
    loop += [loop, loop]
    with pytest.raises(CodecError, match="contains itself"):
        encode(loop)
    ring: dict = {}
    ring["x"] = ({"y": ring},)
    with pytest.raises(CodecError, match="contains itself"):
        encode(ring)
    order = Order("AAPL", [])
    order.fills.append(order)
    with pytest.raises(CodecError, match="contains itself"):
        encode(order)
    order.symbol = order
    with pytest.raises(CodecError, match=r"value\['symbol'\] contains itself"):
        encode(order)
    part = [[1]]
    assert decode(encode([part, part])) == [[[1]], [[1]]]


def nested(depth, wrap, value="core"):
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.mark.parametrize(
    "wrap", [lambda v: [v], lambda v: (v,), lambda v: {"k": v}, lambda v: {1: v}], ids=range(4)
)
def test_depth_is_bounded_in_both_directions(wrap):
    """100 containers deep works, 101 is refused, and so are bytes that claim more."""
    assert same(decode(encode(nested(MAX_DEPTH, wrap))), nested(MAX_DEPTH, wrap))
    with pytest.raises(CodecError, match="deeper than 100"):
        encode(nested(MAX_DEPTH + 1, wrap))
    array = np.arange(3)
    assert same(decode(encode(nested(MAX_DEPTH, wrap, array))), nested(MAX_DEPTH, wrap, array))


def test_fifty_megabytes_work_and_more_than_the_limit_is_refused():
    """A 50 MB value is stored; one beyond 64 MiB is refused before it is copied."""
    big = np.zeros(50_000_000, np.uint8)
    assert decode(encode(big)).nbytes == 50_000_000
    for oversized in (bytes(MAX_VALUE_BYTES), np.zeros(MAX_VALUE_BYTES + 1, np.uint8)):
        with pytest.raises(ValueTooLargeError, match="at most 67108864"):
            encode(oversized)


def test_a_small_value_that_would_unfold_without_end_is_refused(monkeypatch):
    """Reusing parts cannot make encoding run out of memory: the size counts every use."""
    monkeypatch.setattr(lowering, "MAX_VALUE_BYTES", 10_000)
    bomb: list = ["x"]
    for _ in range(60):
        bomb = [bomb] * 2
    with pytest.raises(ValueTooLargeError):
        encode(bomb)


@pytest.mark.parametrize(
    ("value", "count"),
    [([None] * 12, 12), ([[5] * 5, (5,) * 5], 12), ({"a": [(), ()]}, 3), ({1: [(), ()]}, 4)],
    ids=range(4),
)
def test_the_items_of_a_value_are_counted_exactly(monkeypatch, value, count):
    """As many items as a value may have bytes are not refused for their number, one more is."""
    monkeypatch.setattr(lowering, "MAX_VALUE_BYTES", count)
    assert encode(value)
    monkeypatch.setattr(lowering, "MAX_VALUE_BYTES", count - 1)
    with pytest.raises(ValueTooLargeError, match=f"at least {count} bytes"):
        encode(value)


FORMAT = [
    (5, 5),
    ([5, -5, 2**64 - 1, -(2**63)], [5, -5, 2**64 - 1, -(2**63)]),
    ({"a": [b"x", None, True, 2.5]}, {"a": [b"x", None, True, 2.5]}),
    (2**64, (4, b"\0" * 8 + b"\1")),
    (-(2**63) - 1, (4, b"\xff" * 7 + b"\x7f\xff")),
    (2**71 - 1, (4, b"\xff" * 8 + b"\x7f")),
    (2**71, (4, b"\0" * 8 + b"\x80\0")),
    (datetime.min, (5, struct.pack("<qBB", 0, 0, 0))),  # noqa: DTZ901
    (
        datetime(1, 1, 1, 0, 0, 1, 7, fold=1, tzinfo=UTC),
        (5, struct.pack("<qBB", 1_000_007, 1, 1)),
    ),
    (
        datetime(1, 1, 1, tzinfo=timezone(timedelta(seconds=-60))),
        (5, struct.pack("<qBB", 0, 0, 2) + msgspec.msgpack.encode((-60_000_000, None))),
    ),
    (
        datetime(1, 1, 1, tzinfo=timezone(timedelta(seconds=60), "desk")),
        (5, struct.pack("<qBB", 0, 0, 2) + msgspec.msgpack.encode((60_000_000, "desk"))),
    ),
    (datetime(1, 1, 1, tzinfo=NEW_YORK), (5, struct.pack("<qBB", 0, 0, 3) + b"America/New_York")),
    (Decimal("1.10"), (6, b"1.10")),
    (UUID(int=7), (7, bytes(15) + b"\x07")),
    (np.int16(-2), (8, b"<i2\0\xfe\xff")),
    (np.str_("x"), (8, b"|U0\0x")),
    (np.bytes_(b"x"), (8, b"|S0\0x")),
    ((1, "x"), [(1, b""), 1, "x"]),
    ({1: "x", "y": ()}, [(2, b""), 1, "x", "y", [(1, b"")]]),
    (np.array([[1], [2]], "<i2"), [(3, b""), "<i2", [2, 1], b"\1\0\2\0"]),
]


def spelled_out(form):
    """`form` with extensions where it has pairs of code and bytes."""
    if isinstance(form, tuple):
        return msgspec.msgpack.Ext(*form)
    if isinstance(form, list):
        return [spelled_out(item) for item in form]
    return form


@pytest.mark.parametrize(("value", "form"), FORMAT, ids=range(len(FORMAT)))
def test_each_type_is_spelled_as_the_format_says(value, form):
    """Stores of years ago hold these bytes, and equal values have equal ones."""
    assert encode(value, compress=False) == framed(msgspec.msgpack.encode(spelled_out(form)))


def test_a_body_may_have_as_many_bytes_as_the_limit_says(monkeypatch):
    """In both directions, compressed and not; one byte more is refused in both."""
    monkeypatch.setattr(codec, "MAX_VALUE_BYTES", 1000)
    fits, over = "x" * 997, "x" * 998  # and three bytes that say how long it is
    for compresses in (False, True):
        assert decode(encode(fits, compress=compresses)) == fits
        with pytest.raises(ValueTooLargeError):
            encode(over, compress=compresses)
    monkeypatch.setattr(codec, "MAX_VALUE_BYTES", 2000)
    compressed = encode(over)
    monkeypatch.setattr(codec, "MAX_VALUE_BYTES", 1000)
    with pytest.raises(ValueTooLargeError, match="declares 1001 bytes"):
        decode(compressed)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (write_reference(Reference(bytes(32), 5)), "is kept in a file"),
        (framed(b"\x01", version=2), "format 2, flags 0; it reads format 1"),
        (framed(b"\x01", version=2, flags=2), "format 2, flags 2; it reads format 1"),
        (framed(b"\x01", flags=4), "format 1, flags 4; it reads format 1"),
    ],
    ids=range(4),
)
def test_a_refusal_to_read_says_why(data, said):
    """What is elsewhere, and what a newer version wrote, are told apart."""
    with pytest.raises(CodecError, match=said):
        decode(data)


MUTATIONS = [
    lambda d: d["map"].__setitem__("x", 1),
    lambda d: d["map"].__delitem__("a"),
    lambda d: d["map"].__ior__({"x": 1}),
    lambda d: d["map"].update(x=1),
    lambda d: d["map"].setdefault("x", 1),
    lambda d: d["map"].pop("a"),
    lambda d: d["map"].popitem(),
    lambda d: d["map"].clear(),
    lambda d: d["list"].__setitem__(0, 9),
    lambda d: d["list"].__setitem__(slice(0), [9]),
    lambda d: d["list"].__delitem__(0),
    lambda d: d["list"].__iadd__([9]),
    lambda d: d["list"].__imul__(2),
    lambda d: d["list"].append(9),
    lambda d: d["list"].extend([9]),
    lambda d: d["list"].insert(0, 9),
    lambda d: d["list"].pop(),
    lambda d: d["list"].remove(2),
    lambda d: d["list"].clear(),
    lambda d: d["list"].sort(),
    lambda d: d["list"].reverse(),
]
VALUE = {"map": {"a": 1}, "list": [2, 1], "nested": ({"b": [1]},), "array": np.arange(3.0)}


@pytest.mark.parametrize("mutate", MUTATIONS, ids=range(len(MUTATIONS)))
def test_a_decoded_container_cannot_be_changed(mutate):
    """Every mutator of dict and list raises, says how to get a copy, and changes nothing."""
    value = decode(encode(VALUE))
    with pytest.raises(TypeError, match="thaw"):
        mutate(value)
    assert same(value, VALUE)


def test_all_mutators_of_dict_and_list_are_covered():
    """A mutator added by a later Python does not slip through."""
    reading = {"copy", "count", "fromkeys", "get", "index", "items", "keys", "values"}
    special = {"__setitem__", "__delitem__", "__ior__", "__iadd__", "__imul__"}
    for frozen, plain in ((FrozenDict, dict), (FrozenList, list)):
        public = {name for name in dir(plain) if not name.startswith("__")} - reading
        for name in public | (special & set(dir(plain))):
            assert getattr(frozen, name) is not getattr(plain, name), name


def test_a_decoded_array_cannot_be_made_writable():
    """Arrays lie over immutable bytes: neither they nor their views or bases can be written."""
    array = decode(encode(np.arange(6.0).reshape(2, 3)))
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1
    for view in (array, array.T, array[1:], array.reshape(-1)):
        with pytest.raises(ValueError, match="WRITEABLE"):
            view.setflags(write=True)
    assert type(array.base) is bytes


def test_what_was_encoded_is_copied():
    """Changing the original after `encode` does not reach the stored bytes."""
    array = np.zeros(3)
    original = {"a": [1], "array": array}
    data = encode(original)
    original["a"].append(2)
    array[0] = 9
    assert same(decode(data), {"a": [1], "array": np.zeros(3)})


def assert_plain(value):
    assert type(value) in {dict, list, tuple, int, np.ndarray}
    if isinstance(value, dict):
        for item in value.values():
            assert_plain(item)
    elif isinstance(value, list | tuple):
        for item in value:
            assert_plain(item)
    elif isinstance(value, np.ndarray):
        value[0] = 7


def through_pickle(value, protocol):
    return pickle.loads(pickle.dumps(value, protocol))  # noqa: S301


@pytest.mark.parametrize(
    "make",
    [thaw, copy.deepcopy, *(partial(through_pickle, protocol=p) for p in range(6))],
    ids=["thaw", "deepcopy", *(f"pickle{p}" for p in range(6))],
)
def test_deep_copies_are_plain_and_may_be_changed(make):
    """`thaw`, deepcopy and pickle give plain dicts and lists and writable arrays, all the way."""
    value = decode(encode(VALUE))
    made = make(value)
    assert same(made, VALUE)
    assert_plain(made)
    made["map"]["x"] = 1
    assert same(value, VALUE)


def test_copies_and_derived_containers_are_plain():
    """`copy.copy`, slices, unions and sums of frozen containers may be changed."""
    value = decode(encode({"d": {"a": 1}, "l": [1, 2]}))
    for made in (copy.copy(value["d"]), value["d"].copy(), value["d"] | {"b": 1}, {**value["d"]}):
        assert type(made) is dict
    frozen = value["l"]
    for made in (copy.copy(frozen), frozen.copy(), frozen[:], frozen + [3], frozen * 2):  # noqa: RUF005
        assert type(made) is list


def test_frozen_containers_act_like_plain_ones():
    """`json.dumps`, ==, isinstance, repr and unhashability are those of dict and list."""
    plain = {"a": [1, {"b": None}], "c": "d"}
    value = decode(encode(plain))
    assert isinstance(value, dict)
    assert isinstance(value["a"], list)
    assert value == plain
    assert plain == value
    assert json.dumps(value) == json.dumps(plain)
    assert json.dumps(value, indent=1) == json.dumps(plain, indent=1)
    assert repr(value) == repr(plain)
    for container in (value, value["a"]):
        with pytest.raises(TypeError, match="unhashable"):
            hash(container)


def test_compression_only_where_it_makes_smaller():
    """Bodies of 512 bytes and more are compressed when that helps, and only then."""
    text = {"t": "abc" * 500}
    assert len(encode(text)) < 100
    assert len(encode(text, compress=False)) > 1500
    noise = np.random.default_rng(7).bytes(600)
    assert encode(noise) == encode(noise, compress=False)
    assert encode("a" * 400) == encode("a" * 400, compress=False)
    for size, is_compressed in ((508, False), (509, True)):  # three bytes say how long it is
        assert encode("a" * size)[1] == is_compressed
    for digit in "0123456789abcdef":
        assert len(compress(encode(digit * 1000, compress=False))) < 100
    for value in (text, noise, "a" * 400, None):
        assert compress(encode(value, compress=False)) == encode(value)
        assert compress(encode(value)) == encode(value)
        assert decode(encode(value)) == decode(encode(value, compress=False)) == value


def test_every_flipped_bit_is_noticed():
    """A changed bit anywhere raises CodecError or CorruptionError; never a wrong value."""
    for value in ({"a": 1, "b": "two"}, "abc" * 300):
        data = encode(value)
        for bit in range(len(data) * 8):
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            expected = CodecError if bit < 16 else CorruptionError
            with pytest.raises((expected, CorruptionError)):
                decode(bytes(damaged))


def ext(code, payload):
    return msgspec.msgpack.encode(msgspec.msgpack.Ext(code, payload))


MARK = {code: msgspec.msgpack.Ext(code, b"") for code in (1, 2, 3)}
pack = msgspec.msgpack.encode
bomb_frame = zstandard.ZstdCompressor().compress(bytes(MAX_VALUE_BYTES + 1))
HOSTILE = {
    "reserved": b"\xc1",
    "trailing": b"\x01\x02",
    "list longer than data": b"\xdd\xff\xff\xff\xff",
    "map longer than data": b"\xdf\xff\xff\xff\xff",
    "bytes longer than data": b"\xc6\xff\xff\xff\xff",
    "deep": b"\x91" * 200 + b"\xc0",
    "very deep": b"\x91" * 200_000 + b"\xc0",
    "deep maps": b"\x81\xa1a" * 5000 + b"\xc0",
    "bad utf-8": b"\xa1\xff",
    "unknown extension": ext(99, b"x"),
    "bare marker": ext(1, b""),
    "marker in the middle": pack([1, MARK[1]]),
    "marker in a map": pack({"a": MARK[1]}),
    "two markers": pack([MARK[1], MARK[1]]),
    "marker with data": ext(1, b"x"),
    "int key in a plain map": b"\x81\x01\x02",
    "list key in a plain map": b"\x81\x91\x01\x02",
    "odd map": pack([MARK[2], 1]),
    "unhashable key": pack([MARK[2], [1], 1]),
    "key twice": pack([MARK[2], 1, 1, 1, 2]),
    "short array": pack([MARK[3], "<f8", [3], b"12345678"]),
    "array without data": pack([MARK[3], "<f8", [3]]),
    "array of objects": pack([MARK[3], "|O", [1], bytes(8)]),
    "array of records": pack([MARK[3], "i4,f8", [1], bytes(12)]),
    "array of nothing": pack([MARK[3], "<U0", [2**40], b""]),
    "array of a negative shape": pack([MARK[3], "<f8", [-1, -1], bytes(8)]),
    "array of a huge empty shape": pack([MARK[3], "<f8", [0, 2**62], b""]),
    "array of a float shape": pack([MARK[3], "<f8", [1.0], bytes(8)]),
    "array of 65 dimensions": pack([MARK[3], "<f8", [1] * 65, bytes(8)]),
    "array with a shape of str": pack([MARK[3], "<f8", "ab", bytes(8)]),
    "array of a bad unit": pack([MARK[3], "<m8[zz]", [1], bytes(8)]),
    "array of bools that are neither": pack([MARK[3], "|b1", [1], b"\x02"]),
    "array of code points that are none": pack([MARK[3], "<U1", [1], b"\xff" * 4]),
    "array whose dtype is no text": pack([MARK[3], 5, [1], bytes(8)]),
    "decimal": ext(6, b"1.2.3"),
    "decimal padded": ext(6, b" 1"),
    "decimal bad utf-8": ext(6, b"\xff"),
    "decimal huge exponent": ext(6, b"1E+99999999999999999999"),
    "uuid": ext(7, b"short"),
    "datetime short": ext(5, b""),
    "datetime out of range": ext(5, struct.pack("<qBB", -1, 0, 0)),
    "datetime far out of range": ext(5, struct.pack("<qBB", 2**63 - 1, 0, 0)),
    "datetime fold": ext(5, struct.pack("<qBB", 0, 2, 0)),
    "datetime kind": ext(5, struct.pack("<qBB", 0, 0, 9)),
    "datetime offset": ext(5, struct.pack("<qBB", 0, 0, 2) + pack((10**15, None))),
    "datetime offset, a fraction": ext(5, struct.pack("<qBB", 0, 0, 2) + pack((1.5, None))),
    "datetime offset type": ext(5, struct.pack("<qBB", 0, 0, 2) + pack("x")),
    "zone path": ext(5, struct.pack("<qBB", 0, 0, 3) + b"../../etc/passwd"),
    "zone absolute": ext(5, struct.pack("<qBB", 0, 0, 3) + b"/etc/passwd"),
    "zone directory": ext(5, struct.pack("<qBB", 0, 0, 3) + b"America"),
    "zone unknown": ext(5, struct.pack("<qBB", 0, 0, 3) + b"Mars/Base"),
    "zone module": ext(5, struct.pack("<qBB", 0, 0, 3) + b"__init__.py"),
    "scalar": ext(8, b"<f8\0abc"),
    "scalar dtype": ext(8, b"|O\0" + bytes(8)),
    "scalar without dtype": ext(8, b""),
    "timestamp out of range": b"\xc7\x0c\xff" + b"\xff" * 12,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_raise_codec_error(name):
    """Bytes with a valid checksum that no encoder wrote raise CodecError, whatever they claim."""
    with pytest.raises(CodecError):
        decode(framed(HOSTILE[name]))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x00",
        encode(1)[:6],
        framed(b"\x01", version=2),
        framed(b"\x01", flags=2),
        framed(b"\x01", flags=1),
        framed(bomb_frame, flags=1),
        framed(bomb_frame[:40], flags=1),
        framed(zstandard.ZstdCompressor(write_content_size=False).compress(b"\x01"), flags=1),
        framed(zstandard.ZstdCompressor().compress(b"\x01") + b"junk", flags=1),
        # A frame header that declares 2**62 bytes and has none.
        framed(b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**62), flags=1),
    ],
    ids=range(11),
)
def test_foreign_and_truncated_frames_raise_codec_error(data):
    """Bytes of another version, cut short, or declaring more than may be stored are refused."""
    with pytest.raises(CodecError):
        decode(data)


def test_threads_may_encode_and_decode_at_once():
    """Compressors are not shared: values from several threads come back unmixed."""
    wrong = []

    def work(number):
        value = {"n": number, "text": f"{number}" * 2000}
        wrong.extend(1 for _ in range(100) if decode(encode(value)) != value)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_resident_bytes_counts_array_data_and_nested_values():
    """The size L1 counts covers what decoding allocated, not only the outer container."""
    assert resident_bytes(decode(encode(np.zeros(10_000)))) >= 80_000
    assert resident_bytes(decode(encode({"a": ["x" * 500, "y" * 500]}))) > 1000
