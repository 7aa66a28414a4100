"""Bodies of value files, and the parts that lie outside of them: written, read, trusted in nothing."""

from __future__ import annotations

import os
import struct
import zlib
from decimal import Decimal
from mmap import ACCESS_READ, mmap
from typing import Any

import msgspec
import numpy as np
import pytest

from nt_memory.codec import (
    FILE_FROM_BYTES,
    MAX_DEPTH,
    Draft,
    FrozenDict,
    FrozenList,
    check,
    decode,
    decode_with,
    draft,
    encode,
    lowering,
)
from nt_memory.codec.filed import Reference, read_reference, write_reference
from nt_memory.errors import CodecError, CorruptionError, ValueTooLargeError
from nt_memory.transport.value_layout import read_contents
from nt_memory.transport.values import ValueFiles, _MappedParts

PART = 64 << 10
MARK = {code: msgspec.msgpack.Ext(code, b"") for code in (1, 2, 3, 9)}
NUMBERS = np.arange(PART // 2, dtype="<u4")  # 128 KiB
BLOB = NUMBERS.tobytes()
FILLER = bytes(FILE_FROM_BYTES)
pack = msgspec.msgpack.encode


def framed(body: bytes, *, version: int = 1, flags: int = 0) -> bytes:
    """A body under a header that fits it."""
    head = bytes((version, flags))
    return head + struct.pack("<I", zlib.crc32(head + body)) + body


def spelled(data: bytes) -> Any:
    """What msgpack itself makes of an encoded value."""
    return msgspec.msgpack.decode(data[6:])


@pytest.fixture
def kept(tmp_path):
    """`kept(draft)`: what is read of it once it was written to a value file."""
    values = ValueFiles(tmp_path)

    def keep(large: Draft) -> Any:
        data = values.write(large, compresses=False, is_stopped=lambda: False, on_read=lambda: None)
        assert data is not None
        values.unpin(read_reference(data).digest)
        return values.load(data, "a/k")

    return keep


def nested(depth: int, core: Any) -> Any:
    for _ in range(depth):
        core = [core]
    return core


def test_large_parts_lie_outside_the_body_and_are_not_copied() -> None:
    """The body says where they were by their numbers, as the file format has it; small ones stay."""
    matrix = NUMBERS.reshape(256, 128)
    value = {"w": matrix, "b": BLOB, "small": b"x", "few": np.arange(2, dtype="<u2"), "f": FILLER}
    large = draft(value)
    assert isinstance(large, Draft)
    assert [part is own for part, own in zip(large.parts, (matrix, BLOB, FILLER), strict=True)] == [
        True
    ] * 3
    assert spelled(large.body) == {
        "w": [MARK[3], "<u4", [256, 128], 0],
        "b": [MARK[9], 1],
        "small": b"x",
        "few": [MARK[3], "<u2", [2], b"\0\0\1\0"],
        "f": [MARK[9], 2],
    }


def test_parts_come_back_wherever_they_lay(kept) -> None:
    """In dicts, lists and tuples, under keys of any type and as keys, beside what is no part."""
    value = {
        "w": NUMBERS,
        "list": [1, BLOB, [NUMBERS.astype("<f4"), {}], {"deep": (BLOB, b"small", None)}],
        "tuple": (NUMBERS.reshape(64, -1), "text", [Decimal(1)]),
        "map": {7: NUMBERS, BLOB: "a long key", (1, 2): [BLOB]},
        "small": {"array": np.arange(3), "empty": [], "of": {"a": 1}},
        "filler": FILLER,
    }
    large = draft(value)
    assert isinstance(large, Draft)
    assert len(large.parts) == 9
    found = kept(large)
    assert type(found) is FrozenDict
    assert list(found) == list(value)
    np.testing.assert_array_equal(found["w"], NUMBERS)
    assert type(found["w"].base) is mmap
    assert not found["w"].flags.writeable
    one, blob, (floats, nothing), deep = found["list"]
    assert (one, blob, nothing, deep) == (1, BLOB, {}, {"deep": (BLOB, b"small", None)})
    assert (type(found["list"]), type(blob), type(deep)) == (FrozenList, bytes, FrozenDict)
    np.testing.assert_array_equal(floats, NUMBERS.astype("<f4"))
    assert floats.dtype == np.dtype("<f4")
    matrix, *rest = found["tuple"]
    np.testing.assert_array_equal(matrix, NUMBERS.reshape(64, -1))
    assert rest == ["text", [Decimal(1)]]
    assert list(found["map"]) == [7, BLOB, (1, 2)]
    np.testing.assert_array_equal(found["map"][7], NUMBERS)
    assert found["map"][BLOB] == "a long key"
    assert found["map"][1, 2] == [BLOB]
    np.testing.assert_array_equal(found["small"]["array"], np.arange(3))
    assert {key: found["small"][key] for key in ("empty", "of")} == {"empty": [], "of": {"a": 1}}
    assert found["filler"] == FILLER


@pytest.mark.parametrize(
    "value", [NUMBERS.repeat(9), FILLER * 2, [FILLER, 3], (FILLER, b""), {"x": FILLER}]
)
def test_a_part_may_be_all_there_is(kept, value) -> None:
    """An array, `bytes`, or one of them in a container."""
    large = draft(value)
    assert isinstance(large, Draft)
    assert len(large.parts) == 1
    found = kept(large)
    assert np.array_equal(found, value) if isinstance(value, np.ndarray) else found == value


@pytest.mark.parametrize(
    "wrap",
    [lambda part: [part], lambda part: {"k": part}, lambda part: part],
    ids=["list", "dict", "bare"],
)
def test_parts_have_64_kib_and_more(wrap) -> None:
    """The bound is exact, for arrays and for `bytes`, in flat dicts and out of them."""
    for size, count in ((PART, 1), (PART - 1, 0)):
        for part in (bytes(size), np.zeros(size, np.uint8)):
            large = draft([wrap(part), FILLER])
            assert isinstance(large, Draft)
            assert len(large.parts) == 1 + count
        many = draft({str(n): bytes(size) for n in range(17)})
        assert isinstance(many, Draft)
        assert len(many.parts) == 17 * count


def test_a_value_is_drafted_from_one_byte_over_1_mib() -> None:
    """Up to there it is stored as it always was, whether it has parts or not."""
    head = len(pack("x" * FILE_FROM_BYTES)) - FILE_FROM_BYTES
    text = "x" * (FILE_FROM_BYTES - head)
    assert draft(text) == encode(text, compress=False)
    over = draft(text + "x")
    assert isinstance(over, Draft)
    assert (over.body, over.parts) == (encode(text + "x", compress=False), [])
    place = len(pack([[MARK[9], 0]]))
    blobs = [bytes(FILE_FROM_BYTES - place)]
    assert draft(blobs) == encode(blobs, compress=False)
    over = draft([bytes(FILE_FROM_BYTES - place + 1)])
    assert isinstance(over, Draft)
    assert len(over.parts) == 1


def test_all_parts_together_have_a_bound(monkeypatch) -> None:
    """What takes more than a file may hold is refused, and what takes just as much is not."""
    monkeypatch.setattr(lowering, "MAX_PARTS_BYTES", 2 * FILE_FROM_BYTES)
    whole = draft([FILLER, np.zeros(FILE_FROM_BYTES, np.uint8)])
    assert isinstance(whole, Draft)
    assert len(whole.parts) == 2
    with pytest.raises(ValueTooLargeError, match=f"at most {2 * FILE_FROM_BYTES} "):
        draft([FILLER, FILLER, bytes(PART)])


def test_arrays_and_parts_lie_as_deep_as_anything(kept) -> None:
    """What is no container may lie in 100 of them: what was accepted can be read."""
    found = decode(encode(nested(MAX_DEPTH, np.arange(3))))
    large = draft(nested(MAX_DEPTH, FILLER + b"x"))
    assert isinstance(large, Draft)
    blob = kept(large)
    large = draft(nested(MAX_DEPTH, NUMBERS.repeat(9)))
    assert isinstance(large, Draft)
    array = kept(large)
    for _ in range(MAX_DEPTH):
        (found,), (blob,), (array,) = found, blob, array
    np.testing.assert_array_equal(found, np.arange(3))
    assert blob == FILLER + b"x"
    np.testing.assert_array_equal(array, NUMBERS.repeat(9))


WRAPS = {
    "list": lambda core: [core],
    "dict": lambda core: {"k": core},
    "tuple": lambda core: [MARK[1], core],
    "map": lambda core: [MARK[2], 1, core],
}


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("core", WRAPS)
def test_what_lies_deeper_than_values_may_is_refused(kept, wrap, core) -> None:
    """No encoder wrote it; a container in 100 others is one too many, wherever it is kept."""
    form = WRAPS[core]([MARK[3], "|u1", [1], b"x"])
    for _ in range(MAX_DEPTH - 1):
        form = WRAPS[wrap](form)
    body = framed(pack(form))
    decode(body)
    kept(Draft(body, [BLOB]))
    body = framed(pack(WRAPS[wrap](form)))
    with pytest.raises(CodecError, match="too deep"):
        decode(body)
    with pytest.raises(CodecError, match="too deep"):
        kept(Draft(body, [BLOB]))


HOSTILE = {
    "no such part": [MARK[9], 2],
    "a part by name": [MARK[9], "0"],
    "a part without its number": [MARK[9]],
    "a part and more": [MARK[9], 0, 1],
    "an array of no such part": [MARK[3], "<u4", [1], 2],
    "an array of a part that is larger": [MARK[3], "<u4", [2], 1],
    "an array of a part that is smaller": [MARK[3], "<u4", [1 << 20], 1],
    "an array of a part by name": [MARK[3], "<u4", [PART // 2], "1"],
    "an array of a part, of objects": [MARK[3], "|O", [PART // 4], 1],
    "an array of a part, of bools": [MARK[3], "|b1", [2 * PART], 1],
    "an array of a part, of text": [MARK[3], "<U1", [PART // 2], 2],
    "an array of a part without shape": [MARK[3], "<u4"],
    "a marker": MARK[9],
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("wrap", [lambda form: form, lambda form: {"k": [form]}], ids=["", "in"])
def test_hostile_bodies_raise_codec_error(kept, name, wrap) -> None:
    """A file whose checksums are right, and which no encoder wrote, is no value."""
    beyond = np.full(PART // 2, 0x110000, "<u4")
    parts = [BLOB, NUMBERS, beyond][: 3 if "text" in name else 2]
    with pytest.raises(CodecError):
        kept(Draft(framed(pack(wrap(HOSTILE[name]))), parts))


def test_a_part_without_a_file_is_no_value() -> None:
    """A body that was taken out of its file is refused, not read with a hole in it."""
    for form in ([MARK[9], 0], [MARK[3], "<u4", [1], 0], [MARK[9], b"x"]):
        with pytest.raises(CodecError):
            decode(framed(pack({"k": form})))


def test_damage_is_not_mistaken_for_a_foreign_body(tmp_path) -> None:
    """A file that is cut off while it is read is damaged: who learns that can have it healed."""
    values = ValueFiles(tmp_path)
    large = draft([FILLER, 1])
    assert isinstance(large, Draft)
    data = values.write(large, compresses=False, is_stopped=lambda: False, on_read=lambda: None)
    assert data is not None
    path = values.path(read_reference(data).digest)
    with path.open("rb") as file:
        contents = read_contents(file.fileno(), path)
        view = mmap(file.fileno(), 0, access=ACCESS_READ)
        parts = _MappedParts(file.fileno(), view, contents)
        assert decode_with(large.body, parts) == [FILLER, 1]
        os.truncate(path, contents.parts[0][0])
        with pytest.raises(CorruptionError, match="ends too early"):
            decode_with(large.body, parts)


@pytest.mark.parametrize("value", [None, 5, "text", {"a": 1}, [1], (), Decimal(1)], ids=repr)
def test_a_body_that_needs_no_parts_is_its_value(kept, value) -> None:
    """A body is encoded like any other value."""
    found = kept(Draft(encode(value), [BLOB]))
    assert found == value
    assert type(found) is type(decode(encode(value)))


def test_a_check_tells_damage_without_decoding() -> None:
    """Every flipped bit behind the two first bytes is one; what a newer version wrote is none."""
    for data in (encode({"a": 1}), encode("abc" * 300)):
        check(data)
        for bit in range(16, len(data) * 8):
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            with pytest.raises(CorruptionError, match="checksum"):
                check(bytes(damaged))
    for short in (b"", encode(None)[:6], framed(b"")):
        with pytest.raises(CorruptionError):
            check(short)
    check(framed(b"\xc1"))  # nothing was decoded
    check(b"\x02\x00damaged, or not: who knows")
    check(b"\x01\x04damaged, or not: who knows")
    check(write_reference(Reference(bytes(32), 5)))
