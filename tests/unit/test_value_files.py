"""Large values: each in a file of its own, streamed in, mapped out, and never half there."""

from __future__ import annotations

import asyncio
import copy
import errno
import gc
import pickle
import threading
from datetime import UTC, datetime
from decimal import Decimal
from mmap import mmap

import numpy as np
import pytest

from nt_memory import ManualClock, MemoryConfig, MemorySystem, thaw
from nt_memory.clock import turn
from nt_memory.codec import FILE_FROM_BYTES, MAX_PARTS_BYTES, Draft, draft, is_filed, stored_bytes
from nt_memory.codec.filed import Reference, read_reference, write_reference
from nt_memory.entries import Write, WriteOp
from nt_memory.errors import (
    ClosedError,
    CodecError,
    ConflictError,
    CorruptionError,
    FormatVersionError,
    InvalidInputError,
    InvalidNameError,
    ReadOnlyError,
    StorageError,
    StorageFullError,
    TrimmedError,
    ValueTooLargeError,
)
from nt_memory.testing.faults import FaultyFileSystem
from nt_memory.transport import value_layout
from nt_memory.transport.value_layout import CHUNK_BYTES
from nt_memory.transport.values import ValueFiles

COUNT = 1 << 18  # of float64: 2 MiB


def weights(seed=0, count=COUNT):
    """An array that is kept in a file, and does not compress."""
    return np.random.default_rng(seed).normal(size=count)


def files(store):
    """Names in the directory of value files."""
    return sorted(path.name for path in (store / "values").iterdir())


def stored(memory, agent, key):
    """The encoded value as the views hold it."""
    return memory._engine.snapshot.current(f"s{agent}\0{key}\0".encode())[2].value


def on_faulty_disk(attempt):
    """Call `attempt` with a memory whose value files go to a disk that fails on demand."""

    async def body(memory):
        disk = memory._engine.values.files = FaultyFileSystem()
        try:
            await attempt(memory, disk)
        finally:
            disk.resume_append()
            disk.resume_sync()

    return body


async def stalled(disk):
    """Wait until a write hangs."""
    assert await asyncio.to_thread(disk.wait_stalled)


def assert_same(found, wanted):
    """Equal in type and content, and read-only throughout."""
    if isinstance(wanted, np.ndarray):
        assert type(found) is np.ndarray
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        assert found.tobytes() == wanted.tobytes()
        assert not found.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            found.flags.writeable = True
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key, item in wanted.items():
            assert_same(found[key], item)
    elif isinstance(wanted, list | tuple):
        assert isinstance(found, type(wanted))
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
    else:
        assert type(found) is type(wanted)
        assert found == wanted


# --- round trips ------------------------------------------------------------------------------

W = weights()
SHAPES = {
    "array": W,
    "two-dimensional": W.reshape(512, 512),
    "fortran": np.asfortranarray(W.reshape(512, 512)),
    "every other": weights(count=2 * COUNT)[::2],
    "backwards": W[::-1],
    "transposed view": W.reshape(64, 64, 64).transpose(2, 0, 1),
    "broadcast": np.broadcast_to(np.arange(8.0), (COUNT // 8, 8)),
    "big-endian": W.astype(">f8"),
    "big-endian, strided": weights(count=2 * COUNT).astype(">f8")[::2],
    "bool": weights(count=5 * COUNT) > 0,
    "complex": W + 1j,
    "times": (np.arange(COUNT)).astype("M8[us]"),
    "text": np.array(["é", "weiß"] * (COUNT // 4)),
    "text, big-endian": np.array(["é", "weiß"] * (COUNT // 4)).astype(">U4"),
    "byte text": np.array([b"ab", b"c"] * COUNT),
    "bytes": W.tobytes(),
    "many small": [weights(n, 100) for n in range(2000)],
    "list of bytes": [W[n * 16384 : (n + 1) * 16384].tobytes() for n in range(16)],
    "strings": [f"{n} {x}" for n, x in enumerate(weights(count=100_000))],
    "model": {
        "layers": [{"w": W.reshape(512, 512), "b": np.zeros(512)}, {"w": W[::2], "b": W[:3]}],
        "tokens": W.tobytes(),
        "small": b"abc",
        "scalar": np.array(1.5),
        "empty": np.zeros((0, 3)),
        "when": datetime(2024, 1, 2, tzinfo=UTC),
        "price": Decimal("1.10"),
        ("a", 1): (W, None),
        W.tobytes(): "a long key",
    },
    "shared": [W, W],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_large_values_come_back_as_they_were(live, store, shape):
    """Any shape of a large value is the same value when it is read, and after a reopen."""
    value = SHAPES[shape]

    async def write(memory):
        await memory.put("a", "k", value)
        assert is_filed(stored(memory, "a", "k"))
        assert_same(await memory.get("a", "k"), value)

    async def read(memory):
        assert_same(await memory.get("a", "k"), value)

    live(write)
    assert len(files(store)) == 1
    live(read)


def test_arrays_are_maps_of_the_file(live):
    """Reading weights costs no memory of one's own: arrays lie over the file, aligned; two reads
    share one map."""

    async def body(memory):
        await memory.put("a", "k", {"x": b"1" * 70_000, "w": W, "v": weights(1)})
        found = await memory.get("a", "k")
        assert type(found["w"].base) is mmap
        assert found["v"].base is found["w"].base
        assert found["v"].ctypes.data % 64 == 0
        again = await memory.get("a", "k", as_of=memory.revision)
        assert again["w"].base is found["w"].base

    live(body)


def _pickled(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301


def test_copies_of_mapped_values_are_plain(live):
    """`thaw`, copy, deepcopy and pickle give values that can be changed, and change nothing."""

    async def body(memory):
        await memory.put("a", "k", {"w": W})
        found = await memory.get("a", "k")
        for copied in (thaw(found), copy.deepcopy(found), _pickled(found)):
            assert type(copied) is dict
            copied["w"][0] = 1e9
        changed = copy.copy(found["w"])
        changed[0] = 1e9
        assert_same(found, {"w": W})

    live(body)


def test_what_is_not_large_stays_where_it_was(live, store):
    """Up to 1 MiB nothing is filed, and neither is text that compresses to that."""

    async def body(memory):
        overhead = len(draft(b"x" * 70_000)) - 70_000
        await memory.put("a", "k", bytes(FILE_FROM_BYTES - overhead + 6))
        await memory.put("a", "arrays", [weights(count=10_000)] * 13)
        await memory.put("a", "text", ["the same again"] * 200_000)
        assert files(store) == []
        assert (await memory.get("a", "text"))[-1] == "the same again"
        await memory.put("a", "k", bytes(FILE_FROM_BYTES - overhead + 7))
        assert len(files(store)) == 1

    live(body)


def test_text_is_filed_uncompressed_where_compression_is_off(live, store):
    """Without compression the same text is large."""

    async def body(memory):
        await memory.put("a", "text", ["the same again"] * 200_000)
        assert len(files(store)) == 1
        assert len(await memory.get("a", "text")) == 200_000

    live(body, enable_compression=False)


def test_more_than_a_gibibyte_is_refused(live, store):
    """What is too large is refused before any of it is read, and changes nothing."""

    async def body(memory):
        half = np.zeros(MAX_PARTS_BYTES // 2 + 1, np.uint8)
        with pytest.raises(ValueTooLargeError, match=str(MAX_PARTS_BYTES)):
            await memory.put("a", "k", [half, half])
        with pytest.raises(ValueTooLargeError):
            await memory.put("a", "k", "x" * ((64 << 20) + 1))
        assert memory.revision == 2
        assert half.flags.writeable

    live(body)
    assert files(store) == []


def test_a_value_is_stored_once(live, store):
    """Values of the same content share one file, whoever puts them."""

    async def body(memory):
        await memory.put("a", "k", {"w": W})
        await asyncio.gather(*(memory.put("b", f"k{n}", {"w": W.copy()}) for n in range(3)))
        assert len(files(store)) == 1
        assert (stored(memory, "b", "k2")) == stored(memory, "a", "k")

    live(body)


def test_stored_bytes_counts_the_file(live, store):
    """`stored_bytes` and `stats` say what a value takes, its file included."""

    async def body(memory):
        await memory.put("a", "small", 1)
        assert stored_bytes(stored(memory, "a", "small")) == len(stored(memory, "a", "small"))
        await memory.put("a", "k", W)
        (name,) = files(store)
        size = (store / "values" / name).stat().st_size
        assert stored_bytes(stored(memory, "a", "k")) == size + 46
        assert W.nbytes < size < W.nbytes + 1000
        assert memory.stats().value_bytes == size
        await memory.put("a", "k", weights(1))
        assert memory.stats().value_bytes == 2 * size

    live(body)


def test_maps_are_not_charged_to_the_hot_tier(live):
    """Pages of a mapped file are the operating system's; bytes that were copied count."""

    async def body(memory):
        await memory.put("a", "k", weights(count=4 << 20))
        await memory.get("a", "k")
        assert memory.peek("a", "k") is not None
        assert memory.stats().l1.bytes < 2 << 20
        await memory.put("a", "blob", weights(count=1 << 20).tobytes())
        await memory.get("a", "blob")
        assert memory.stats().l1.bytes > 8 << 20

    live(body)


# --- every way to write and to read -----------------------------------------------------------


def test_every_read_shows_large_values(live, collect):
    """get_many, scan, history, as_of, at, watch, tail, pins and a follower show large values."""

    async def body(memory):
        first = await memory.put("a", "k", W)
        pin = memory.pin("a", "k")
        changes, feed = memory.watch("a"), memory.tail(memory.revision)
        await memory.put("a", "k", weights(1))
        await memory.put("a", "other", 1)
        assert_same(pin.value, weights(1))
        found = await memory.get_many([("a", "k"), ("a", "other"), ("a", "none")])
        assert_same(found[0], weights(1))
        assert found[1:] == [1, None]
        assert_same(await memory.get("a", "k", as_of=first), W)
        assert_same((await memory.at(first).get_record("a", "k")).value, W)
        records = await collect(memory.scan("a"))
        assert_same(records[0].value, weights(1))
        old = await collect(memory.history("a", "k"))
        assert_same([record.value for record in old], [weights(1), W])
        (change,) = await collect(changes, 1)
        assert_same(change.record.value, weights(1))
        (entry,) = await collect(feed, 1)
        assert_same(entry.changes[0].record.value, weights(1))
        config = MemoryConfig(storage_path=memory._engine.config.storage_path)
        async with MemorySystem.open(config, read_only=True) as follower:
            assert_same(await follower.get("a", "k"), weights(1))
            await memory.put("a", "k", W)
            await follower.wait_for(memory.revision)
            assert_same(await follower.get("a", "k"), W)
            assert follower.stats().value_bytes == memory.stats().value_bytes

    live(body)


def test_a_follower_that_was_stopped_does_not_call_it_damage(live, store, collect):
    """What the writer dropped and swept since a follower looked last is read as it is now, or said
    to be no longer kept; and real damage is still damage."""

    async def body(memory):
        first = await memory.put("a", "k", weights(0))
        await memory.put("a", "other", 1)
        config = MemoryConfig(storage_path=store, history=0)
        # Its clock stands still, so it does not follow by itself.
        behind = [
            await MemorySystem.open(config, clock=ManualClock(), read_only=True) for _ in range(4)
        ]
        records = behind[2].history("a", "k")
        await memory.put("a", "k", weights(1))
        await memory.compact()
        assert len(files(store)) == 1
        assert behind[0].revision < memory.revision
        assert_same(await behind[0].get("a", "k"), weights(1))
        found = await behind[1].get_many([("a", "other"), ("a", "k")])
        assert found[0] == 1
        assert_same(found[1], weights(1))
        with pytest.raises(TrimmedError, match="no longer kept"):
            await collect(records)
        with pytest.raises(TrimmedError):
            await behind[3].get("a", "k", as_of=first)
        (name,) = files(store)
        (store / "values" / name).unlink()
        fresh = await MemorySystem.open(config, read_only=True)
        with pytest.raises(CorruptionError, match="missing"):
            await fresh.get("a", "k")
        for follower in (*behind, fresh):
            await follower.close()

    live(body, history=0)


def test_a_transaction_takes_large_values(live):
    """All of a transaction happens or nothing; its arrays cannot be changed until it is over."""

    async def body(memory):
        first, second = W.copy(), weights(1)
        async with memory.transaction() as tx:
            tx.put("a", "one", first)
            tx.put("a", "two", second)
            tx.put("a", "small", 1)
            with pytest.raises(ValueError, match="read-only"):
                first[0] = 1.0
        first[0] = 1.0
        assert_same(await memory.get("a", "one"), W)
        assert_same(await memory.get("a", "two"), weights(1))
        assert (await memory.get_record("a", "one")).revision == tx.revision
        tx = memory.transaction()
        await tx.__aenter__()
        tx.put("a", "one", second)
        await tx.__aexit__(KeyError, KeyError(), None)
        second[0] = 1.0
        assert_same(await memory.get("a", "one"), W)

    live(body)


def test_observations_carry_large_data(live):
    """Data of `observe` and `observe_many` may be large, and searches return it."""

    async def body(memory):
        await memory.observe("a", [1.0, 0.0], {"w": W}, key="one")
        data = [weights(1), 7, {"v": weights(2)}]
        await memory.observe_many("a", np.eye(2)[[1, 1, 1]], data, keys=["x", "y", "z"])
        assert all(one.flags.writeable for one in (data[0], data[2]["v"]))
        (hit,) = await memory.search_similar("a", [1.0, 0.0], 1)
        assert_same(hit.data, {"w": W})
        hits = await memory.search_similar("a", [0.0, 1.0], 3)
        assert [hit.key for hit in hits] == ["x", "y", "z"]
        assert_same([hit.data for hit in hits], data)

    live(body)


# --- the caller's array -----------------------------------------------------------------------


def test_an_array_cannot_be_changed_while_it_is_read(live, later):
    """Assigning to an array that is being stored, or to what it is a view of, raises instead of
    storing half of each; when the puts are over all is as before."""

    async def attempt(memory, disk):
        whole = weights(count=2 * COUNT)
        half = whole[COUNT:]
        wanted = half.copy()
        disk.stall_append()
        puts = [asyncio.ensure_future(memory.put("a", f"k{n}", half)) for n in range(2)]
        puts.append(asyncio.ensure_future(memory.put("a", "whole", whole)))
        await stalled(disk)
        for array in (half, whole):
            with pytest.raises(ValueError, match="read-only"):
                array[-1] = 1.0
        disk.resume_append()
        await asyncio.gather(*puts)
        half[-1] = whole[0] = 1.0
        assert_same(await memory.get("a", "k0"), wanted)
        assert_same(await memory.get("a", "k1"), wanted)

    live(on_faulty_disk(attempt))


def test_what_an_array_is_a_view_of_cannot_be_changed_either(live):
    """The memory of a view belongs to another array; it is kept still too, and let go again."""

    async def attempt(memory, disk):
        whole = weights(count=2 * COUNT)
        disk.stall_append()
        put = asyncio.ensure_future(memory.put("a", "k", whole[COUNT:][::-1]))
        await stalled(disk)
        with pytest.raises(ValueError, match="read-only"):
            whole[-1] = 1.0
        disk.resume_append()
        await put
        whole[-1] = 1.0
        assert (await memory.get("a", "k"))[0] != 1.0

    live(on_faulty_disk(attempt))


def test_an_array_that_was_read_only_stays_so(live):
    """A put gives back exactly what it took."""

    async def body(memory):
        array = weights()
        array.flags.writeable = False
        await memory.put("a", "k", array)
        assert not array.flags.writeable

    live(body)


def test_content_and_digest_belong_together_whatever_changes_the_memory(live, clock, store):
    """Memory that something else than numpy changes in mid-put is stored as some state of each
    piece, and the file still is what its name says."""

    async def attempt(memory, disk):
        memory_of_others = bytearray(4 * CHUNK_BYTES)
        disk.stall_append()
        put = asyncio.ensure_future(memory.put("a", "k", np.frombuffer(memory_of_others, np.uint8)))
        await stalled(disk)
        memory_of_others[:] = b"\1" * len(memory_of_others)
        disk.resume_append()
        await put
        found = await memory.get("a", "k")
        # The first piece had been read when it was changed, the last had not.
        assert (found[0], found[-1]) == (0, 1)
        reference = read_reference(stored(memory, "a", "k"))
        with (store / "values" / reference.name).open("rb") as file:
            value_layout.check_value(file.fileno(), store, reference, by_digest=True)

    live(on_faulty_disk(attempt))


def test_a_cancelled_put_leaves_nothing(live, store):
    """Cancelled in mid-stream, the array is writeable at once and no file remains."""

    async def attempt(memory, disk):
        array = weights()
        disk.stall_append()
        put = asyncio.ensure_future(memory.put("a", "k", array))
        await stalled(disk)
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
        array[0] = 1.0
        disk.resume_append()
        await _quiet(memory)
        assert files(store) == []
        assert await memory.get("a", "k") is None

    live(on_faulty_disk(attempt))


def test_a_cancelled_put_that_was_published_is_swept(live, store):
    """Cancelled after its file appeared, the file is an orphan like any other."""

    async def body(memory):
        values = memory._engine.values
        write, written, may_return = values.write, threading.Event(), threading.Event()

        def slow(*args, **options):
            data = write(*args, **options)
            written.set()
            assert may_return.wait(10)
            return data

        values.write = slow
        put = asyncio.ensure_future(memory.put("a", "k", W))
        await asyncio.to_thread(written.wait)
        put.cancel()
        with pytest.raises(asyncio.CancelledError):
            await put
        assert len(files(store)) == 1
        may_return.set()
        await _quiet(memory)
        await memory.compact()
        assert files(store) == []

    live(body)


async def _quiet(memory):
    """Wait until no value is being written any more."""
    while memory._engine.filing._under_way:
        await turn()


def test_closing_in_mid_put_ends_it(live, store):
    """A memory that is closed waits for nobody's gigabyte: the put fails, and leaves nothing."""

    async def attempt(memory, disk):
        disk.stall_append()
        put = asyncio.ensure_future(memory.put("a", "k", W))
        await stalled(disk)
        closing = asyncio.ensure_future(memory.close())
        await turn()
        disk.resume_append()
        await closing
        with pytest.raises(ClosedError):
            await put

    live(on_faulty_disk(attempt))
    assert files(store) == []


# --- refusals ---------------------------------------------------------------------------------


def test_bad_arguments_are_refused_before_anything_is_written(live, store):
    """A malformed name or time costs no gigabyte of writing, nor does a follower's put."""

    async def body(memory):
        with pytest.raises(InvalidNameError):
            await memory.put("a", "", W)
        with pytest.raises(InvalidNameError):
            await memory.put("no/agent", "k", W)
        with pytest.raises(CodecError, match=r"\[1\]"):
            await memory.put("a", "k", [W, object()])
        async with MemorySystem.open(store, read_only=True) as follower:
            with pytest.raises(ReadOnlyError):
                await follower.put("a", "k", W)
        assert W.flags.writeable
        assert files(store) == []

    live(body)


def test_a_refused_put_leaves_a_file_to_the_next_compaction(live, store):
    """A conflict is found out when the file is there already; nothing refers to it."""

    async def body(memory):
        await memory.put("a", "k", 1)
        with pytest.raises(ConflictError):
            await memory.put("a", "k", W, expect=0)
        assert await memory.get("a", "k") == 1
        result = await memory.compact()
        assert files(store) == []
        assert result.freed_bytes > W.nbytes // 2

    live(body)


@pytest.mark.parametrize("fault", ["free", "space", "sync", "append"])
def test_a_disk_that_fails_refuses_the_put_and_keeps_nothing(live, store, fault):
    """Full before or in the middle, or broken: the put fails, nothing is left, the rest goes on."""

    async def attempt(memory, disk):
        wanted = StorageFullError if fault in {"free", "space"} else StorageError
        if fault == "free":
            disk.free = W.nbytes
        elif fault == "space":
            disk.space = CHUNK_BYTES + 10
        elif fault == "sync":
            disk.sync_error = errno.EIO
        else:
            disk.append_error = errno.EIO
        with pytest.raises(wanted):
            await memory.put("a", "k", W)
        assert W.flags.writeable
        assert files(store) == []
        await memory.put("a", "small", 1)
        disk.free = disk.space = disk.sync_error = disk.append_error = None
        await memory.put("a", "k", W)
        assert_same(await memory.get("a", "k"), W)

    live(on_faulty_disk(attempt))


# --- damage -----------------------------------------------------------------------------------


def write_one(live, store, value=None):
    """A store with one large value; its file and reference."""
    found = {}

    async def body(memory):
        await memory.put("a", "k", {"x": b"y" * 70_001, "w": W} if value is None else value)
        await memory.put("a", "small", 1)
        found["data"] = stored(memory, "a", "k")

    live(body)
    (name,) = files(store)
    return store / "values" / name, found["data"]


def refuse(live, match):
    """Reading the value raises, names file and key, and nothing else is affected."""

    async def body(memory):
        for _ in range(2):
            with pytest.raises(CorruptionError, match=match) as caught:
                await memory.get("a", "k")
            assert "a/k" in str(caught.value)
            assert "values/" in str(caught.value)
        assert await memory.get("a", "small") == 1

    live(body)


def test_any_flipped_bit_of_a_file_is_found(tmp_path):
    """Header, table, body, padding, parts, checksums and end: no byte of a file can change."""
    values = ValueFiles(tmp_path)
    array = weights(count=COUNT + 3)
    data = write_value(values, {"x": b"y" * 70_001, "w": array})
    path = values.path(read_reference(data).digest)
    whole = path.read_bytes()
    rng = np.random.default_rng(5)
    places = [*range(120), *range(len(whole) - 60, len(whole)), *rng.integers(0, len(whole), 150)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(CorruptionError, match=path.name):
            ValueFiles(tmp_path).load(data, "a/k")
    path.write_bytes(whole)
    assert_same(ValueFiles(tmp_path).load(data, "a/k")["w"], array)


def write_value(values, value):
    """A reference to a value, written by `values` and unpinned."""
    large = draft(value)
    assert isinstance(large, Draft)
    data = values.write(large, compresses=False, is_stopped=lambda: False, on_read=lambda: None)
    values.unpin(read_reference(data).digest)
    return data


@pytest.mark.parametrize("kept", [0, 1, 100, CHUNK_BYTES, -1])
def test_a_truncated_file_is_found(live, store, kept):
    """A file that is too short says so, wherever it was cut."""
    path, _ = write_one(live, store)
    path.write_bytes(path.read_bytes()[:kept])
    refuse(live, "bytes instead of")


def test_a_file_that_grew_is_found(live, store):
    """And so is one that is too long."""
    path, _ = write_one(live, store)
    path.write_bytes(path.read_bytes() + bytes(64))
    refuse(live, "bytes instead of")


def test_a_missing_file_is_said(live, store):
    """A value without its file raises, and does not look like no value."""
    path, _ = write_one(live, store)
    path.unlink()
    refuse(live, "missing")


def test_another_file_under_its_name_is_found(live, store):
    """A whole file of another value, of the same size, is not taken for it."""
    path, _ = write_one(live, store, W)

    async def body(memory):
        await memory.put("a", "other", weights(1))

    live(body)
    (other,) = set(files(store)) - {path.name}
    path.write_bytes((store / "values" / other).read_bytes())
    refuse(live, "another value")


def test_damage_after_the_first_read_is_found_by_the_next(live, store):
    """A file is verified again when it was written to, even in the same process."""

    async def body(memory):
        await memory.put("a", "k", W)
        await memory.put("a", "k", 1)
        (name,) = files(store)
        path = store / "values" / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.unlink()
        path.write_bytes(data)
        with pytest.raises(CorruptionError, match="fail their checksum"):
            await memory.get("a", "k", as_of=memory.revision - 1)

    live(body)


def test_putting_a_value_again_heals_its_damaged_file(live, store):
    """A put never relies on a file that is not whole: it is written anew."""
    path, _ = write_one(live, store, W)
    path.write_bytes(bytes(path.stat().st_size))
    refuse(live, "damaged")

    async def body(memory):
        await memory.put("a", "again", W)
        assert_same(await memory.get("a", "again"), W)
        assert_same(await memory.get("a", "k"), W)

    live(body)


def test_a_newer_file_is_refused_as_such(tmp_path, monkeypatch):
    """A file of a later format is not called damaged."""
    monkeypatch.setattr(value_layout, "VALUE_VERSION", 2)
    data = write_value(ValueFiles(tmp_path), W)
    monkeypatch.undo()
    with pytest.raises(FormatVersionError, match="format 2"):
        ValueFiles(tmp_path).load(data, "a/k")


def test_a_damaged_reference_is_found():
    """A reference has a checksum, and only a reference is one."""
    data = write_reference(Reference(bytes(32), 1000))
    assert read_reference(data) == Reference(bytes(32), 1000)
    for place in range(2, len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 4
        with pytest.raises(CorruptionError):
            read_reference(bytes(damaged))
    for malformed in (data[:-1], data + b"x", b"\1\0" + data[2:], b""):
        with pytest.raises(CodecError):
            read_reference(malformed)


def test_a_malformed_reference_is_refused_by_every_replica(live):
    """An entry that refers to a file in a damaged way is rejected, and the store goes on."""

    async def body(memory):
        data = bytearray(write_reference(Reference(bytes(32), 1000)))
        data[-1] ^= 1
        with pytest.raises(InvalidInputError, match="checksum"):
            await memory._engine.submit(Write((WriteOp("s", "a", "k", bytes(data)),)))
        await memory.put("a", "k", 1)
        assert await memory.get("a", "k") == 1

    live(body)


# --- orphans ----------------------------------------------------------------------------------


def test_leftovers_of_a_crash_go(live, store):
    """What was being written at a crash goes at the next open, an orphan with the next compaction,
    and what does not belong to the store is left alone."""
    path, _ = write_one(live, store, W)
    orphan = path.with_name("0" * 64)
    orphan.write_bytes(b"x" * 5000)
    path.with_name("abc.new").write_bytes(b"x")
    path.with_name("README").write_bytes(b"x")

    async def body(memory):
        assert files(store) == sorted(["README", orphan.name, path.name])
        await memory.compact()
        assert files(store) == sorted(["README", path.name])
        assert_same(await memory.get("a", "k"), W)

    live(body)


def test_history_keeps_its_files_and_retention_lets_them_go(live, store, collect):
    """A superseded value keeps its file as long as its version is kept."""

    async def body(memory):
        for n in range(3):
            await memory.put("a", "k", weights(n))
        await memory.compact()
        assert len(files(store)) == 3
        old = await collect(memory.history("a", "k"))
        assert_same([record.value for record in old], [weights(n) for n in (2, 1, 0)])
        await memory.set_retention("a", max_versions=1)
        held = old[-1].value
        result = await memory.compact()
        assert len(files(store)) == 2
        assert result.freed_bytes > weights().nbytes // 2
        # An open map survives its file.
        assert_same(held, weights(0))
        assert_same(await memory.get("a", "k"), weights(2))

    live(body)


def test_a_feed_keeps_what_it_may_still_read(live, store, collect):
    """What `history` dropped is still reported to a watch from the journal, with its value."""

    async def body(memory):
        changes = memory.watch("a")
        for n in range(3):
            await memory.put("a", "k", weights(n))
        await memory.compact()
        found = await collect(changes, 3)
        assert_same([change.record.value for change in found], [weights(n) for n in range(3)])
        del changes
        gc.collect()
        await memory.put("a", "other", 1)
        await memory.compact()
        assert len(files(store)) == 1

    live(body, history=0)


def test_a_put_in_flight_is_not_swept(live, store):
    """A compaction that runs while a value is between file and entry leaves its file alone."""

    async def body(memory):
        submit, reached, go_on = memory._engine.submit, asyncio.Event(), asyncio.Event()

        async def late(body, request_id=None):
            if getattr(body, "ops", None) and is_filed(body.ops[0].value):
                reached.set()
                await go_on.wait()
            return await submit(body, request_id)

        memory._engine.submit = late
        put = asyncio.ensure_future(memory.put("a", "k", W))
        await reached.wait()
        await memory.compact()
        assert len(files(store)) == 1
        go_on.set()
        await put
        assert_same(await memory.get("a", "k"), W)

    live(body)


def test_pinning_and_sweeping_exclude_each_other(tmp_path):
    """Whatever is pinned at any moment of a sweep survives it, and can be swept by the next."""
    values = ValueFiles(tmp_path)
    first, second, third = (
        read_reference(write_value(values, weights(n))).digest for n in range(3)
    )
    values.pin(first)
    values.begin_sweep()
    values.unpin(first)
    values.pin(second)
    values.unpin(second)
    assert values.sweep([first, second, third]) == 1
    assert set(values.digests()) == {first, second}
    values.end_sweep()
    assert values.sweep([first]) == 0  # there is no sweep under way
    values.begin_sweep()
    with values.hold():
        assert values.sweep([first, second]) == 0
    assert values.sweep([first, second]) == 2
    # The same value put again is there again.
    write_value(values, weights(0))
    assert set(values.digests()) == {first}


def test_the_same_value_put_while_its_orphan_is_swept_is_kept(live, store):
    """A sweep that has found a file to be unwanted does not take it from a put that comes then."""

    async def body(memory):
        with pytest.raises(ConflictError):
            await memory.put("a", "k", W, expect=5)
        values = memory._engine.values
        sweep, puts = values.sweep, []

        def sweep_late(unwanted):
            unwanted = list(unwanted)
            assert len(unwanted) == 1
            done = asyncio.run_coroutine_threadsafe(memory.put("a", "k", W), loop)
            puts.append(done.result(10))
            return sweep(unwanted)

        loop = asyncio.get_running_loop()
        values.sweep = sweep_late
        await memory.compact()
        assert puts == [memory.revision]
        assert len(files(store)) == 1
        memory._engine.hot.clear()
        assert_same(await memory.get("a", "k"), W)

    live(body)
