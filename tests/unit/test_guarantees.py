"""The guarantees, 2 to 10, each with tests that fail without it.

Guarantee 1, durability, is judged with `kill -9` in tests/stress; time travel on both timelines and
every sequence of calls in tests/property/test_state_machine.py.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import errno
import json
import os
import pickle
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest

from nt_memory import (
    Approved,
    AsOf,
    CacheConfig,
    MemoryConfig,
    MemorySystem,
    Pending,
    Proposal,
    Rejected,
    Vote,
    thaw,
)
from nt_memory.errors import (
    InvalidInputError,
    LockLostError,
    LookAheadError,
    NtMemoryError,
    ProposalError,
    StaleFenceError,
    StorageFullError,
)

DAY = timedelta(days=1)
BIG, WIDE = 8_600, 256  # rows and dimension past which a partition is searched by its graph
DAY_1 = datetime(2020, 3, 2, 21, tzinfo=UTC)


def clustered(count, dim, seed):
    """Vectors in 40 clusters, as embeddings are; shape (count, dim)."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(40, dim))
    rows = centres[rng.integers(40, size=count)] + 0.4 * rng.normal(size=(count, dim))
    return rows.astype(np.float32)


async def indexed(memory):
    """Wait until the background indexer has nothing left to do."""
    async with asyncio.timeout(25):
        while memory.stats().l2_pending:
            await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=0.01)


# --- 2. One order -----------------------------------------------------------------------------


def test_2_revisions_have_no_gap_and_no_double(live, collect):
    """Sixteen writers at once: every revision belongs to one entry, and callers know which."""

    async def body(memory):
        start = memory.revision

        async def write(writer):
            return [await memory.put(f"w{writer}", "k", n) for n in range(20)]

        revisions = [r for each in await asyncio.gather(*map(write, range(16))) for r in each]
        assert sorted(revisions) == list(range(start + 1, start + 321))
        entries = await collect(memory.tail(after=start), 320)
        assert [entry.revision for entry in entries] == sorted(revisions)

    live(body)


def test_2_all_watchers_see_the_same_changes_in_the_same_order(live, collect):
    """From the start, from the middle, early or late: none twice, none missing."""

    async def body(memory):
        early = memory.watch("a")
        writers = [
            asyncio.ensure_future(memory.put("a", f"k{n % 7}", n, ttl=n % 3 or None))
            for n in range(200)
        ]
        await asyncio.wait(writers[:50])
        middle = memory.watch("a")
        start = memory.revision
        await asyncio.wait(writers)
        seen = await collect(early, 200)
        assert [change.revision for change in seen] == sorted({c.revision for c in seen})
        again = await collect(memory.watch("a", after=0), 200)
        assert again == seen
        rest = [change for change in seen if change.revision > start]
        assert await collect(middle, len(rest)) == rest

    live(body)


def test_2_no_read_mixes_two_revisions(live):
    """While money moves between two keys, every kind of read sees the same total."""

    async def body(memory):
        await memory.put("a", "cash", 100)
        await memory.put("a", "stock", 0)
        cash, stock = memory.pin("a", "cash"), memory.pin("a", "stock")
        pair = [("a", "cash"), ("a", "stock")]

        async def move():
            for n in range(1, 60):
                async with memory.transaction() as tx:
                    tx.put("a", "cash", 100 - n)
                    tx.put("a", "stock", n)

        async def read():
            seen = set()
            while not moving.done():
                assert cash.value + stock.value == 100
                assert cash.record.revision == stock.record.revision or stock.value == 0
                peeked = memory.peek("a", "cash"), memory.peek("a", "stock")
                assert None in peeked or sum(peeked) == 100
                assert sum(await memory.get_many(pair)) == 100
                assert sum([r.value async for r in memory.scan("a")]) == 100
                as_of = memory.revision
                values = [await memory.get(*name, as_of=as_of) for name in pair]
                assert sum(values) == 100
                seen.add(stock.value)
            return seen

        moving = asyncio.ensure_future(move())
        seen = await asyncio.gather(read(), read())
        await moving
        assert max(map(len, seen)) > 1, "the reads must run between the writes"

    live(body)


def test_2_an_iteration_stays_at_its_revision(live):
    """A scan or history that was begun does not show what is written while it goes on."""

    async def body(memory):
        for n in range(600):
            await asyncio.gather(memory.put("a", f"k{n:03}", "old"))
        scan = memory.scan("a")
        first = await anext(scan)
        await asyncio.gather(*(memory.put("a", f"k{n:03}", "new") for n in range(0, 600, 2)))
        await memory.put("a", "k0005", "inserted")
        await memory.delete("a", "k599")
        rest = [record async for record in scan]
        assert [record.key for record in [first, *rest]] == [f"k{n:03}" for n in range(600)]
        assert {record.value for record in [first, *rest]} == {"old"}

    live(body, durability="relaxed")


def test_2_everything_moves_to_a_revision_together(live, collect):
    """When a put has returned, get, peek, pin, watch, wait_for and search agree on it."""

    async def body(memory):
        pin, watcher = memory.pin("a", "k"), memory.watch("a")
        await memory.get("a", "k")
        for n in range(30):
            revision = await memory.put("a", "k", n)
            assert memory.revision == revision
            assert pin.record.revision == revision
            assert memory.peek("a", "k") == n
            assert (await memory.get_record("a", "k")).revision == revision
            (change,) = await collect(watcher, 1)
            assert (change.revision, change.record.value) == (revision, n)
            await asyncio.wait_for(memory.wait_for(revision), 1)

    live(body)


# --- 3. Read your writes ----------------------------------------------------------------------


def test_3_every_tier_has_what_was_just_written(live):
    """State and vectors, single and bulk, by 20 writers at once, each right after its write."""
    rows = np.random.default_rng(1).normal(size=(20, 25, 12))

    async def body(memory):
        async def write(writer):
            agent = f"w{writer}"
            for n in range(12):
                revision = await memory.put(agent, "k", n)
                assert await memory.get(agent, "k") == n
                assert (await memory.get_many([(agent, "k")])) == [n]
                assert await memory.get(agent, "k", as_of=revision) == n
                assert [r.value async for r in memory.scan(agent, "k")] == [n]
                assert (await anext(memory.history(agent, "k"))).value == n
                row = rows[writer, n]
                key = await memory.observe(agent, row, n)
                (hit,) = await memory.search_similar(agent, row, top_k=1)
                assert (hit.key, hit.data) == (key, n)
                await memory.delete(agent, key)
                hits = await memory.search_similar(agent, row, top_k=50)
                assert key not in [hit.key for hit in hits]
            keys = await memory.observe_many(agent, rows[writer, 12:])
            for key, row in zip(keys, rows[writer, 12:], strict=True):
                (hit,) = await memory.search_similar(agent, row, top_k=1)
                assert hit.key == key

        await asyncio.gather(*map(write, range(20)))

    live(body)


def test_3_a_big_index_has_what_was_just_written(live):
    """Also past the size at which a partition is searched by its graph."""
    rows = clustered(BIG, WIDE, seed=2)

    async def body(memory):
        await memory.observe_many("a", rows[:-20])
        await indexed(memory)
        for row in rows[-20:]:
            key = await memory.observe("a", row)
            (hit,) = await memory.search_similar("a", row, top_k=1)
            assert hit.key == key

    live(body, durability="relaxed")


# --- 4. Values cannot be changed behind your back ---------------------------------------------


@dataclasses.dataclass
class Order:
    """A dataclass is stored as a map."""

    symbol: str
    qty: int


class Fill(msgspec.Struct):
    """And so is a msgspec Struct."""

    price: float
    qty: int


SUPPORTED = {
    "none": None,
    "true": True,
    "zero": 0,
    "negative": -1,
    "big int": 10**40,
    "negative big int": -(2**200),
    "float": 0.1,
    "minus zero": -0.0,
    "infinity": float("inf"),
    "text": "naïve ☃ \x00",
    "bytes": b"\x00\xff",
    "list": [1, [2, [3]]],
    "tuple": (1, (2, [3])),
    "dict": {"a": 1, "b": {"c": [True, None]}},
    "int keys": {1: "a", (1, 2): "b", None: "c"},
    "empty": [[], {}, (), "", b""],
    "utc": datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    "naive datetime": datetime(2024, 1, 2, 3, 4, 5),  # noqa: DTZ001
    "offset": datetime(2024, 1, 2, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    "zone": datetime(2024, 7, 2, 9, 30, tzinfo=ZoneInfo("America/New_York")),
    "fold": datetime(2024, 11, 3, 1, 30, fold=1, tzinfo=ZoneInfo("America/New_York")),
    "decimal": Decimal("1.10"),
    "nan decimal": Decimal("Infinity"),
    "uuid": UUID(int=7),
}


@pytest.mark.parametrize("value", SUPPORTED.values(), ids=SUPPORTED.keys())
def test_4_every_type_comes_back_as_it_was(live, value):
    """By get from L1, from L3 after reopening, by record, pin, history, scan and search."""

    async def write(memory):
        await memory.put("a", "k", value)
        await memory.observe("a", [1.0, 0.0], value, key="obs")
        await check(memory)

    async def check(memory):
        pin = memory.pin("a", "k")
        (hit,) = await memory.search_similar("a", [1.0, 0.0])
        for found in (
            pin.value,
            await memory.get("a", "k"),
            (await memory.get_record("a", "k")).value,
            (await anext(memory.history("a", "k"))).value,
            (await anext(memory.scan("a", "k"))).value,
            hit.data,
        ):
            assert found == value
            assert isinstance(found, type(value))
            assert type(thaw(found)) is type(value)
            if isinstance(value, datetime):
                assert (found.tzinfo, found.fold) == (value.tzinfo, value.fold)
            assert repr(thaw(found)) == repr(value)

    live(write)
    live(check)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4),
        np.arange(6, dtype=np.int8),
        np.array([], dtype=np.float32),
        np.array([[True, False]]),
        np.array(["2024-01-01", "NaT"], dtype="datetime64[D]"),
        np.asfortranarray(np.arange(6, dtype=np.float16).reshape(2, 3)),
        np.array(3.5),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_4_arrays_come_back_read_only(live, array):
    """Same dtype, shape and contents; over bytes that cannot be written."""

    async def body(memory):
        await memory.put("a", "k", {"x": array})
        found = (await memory.get("a", "k"))["x"]
        assert isinstance(found, np.ndarray)
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found, array)
        assert not found.flags.writeable
        with pytest.raises(ValueError, match=r"read-only|writeable|WRITEABLE"):
            found[...] = array
        with pytest.raises(ValueError, match=r"writeable|WRITEABLE"):
            found.flags.writeable = True
        loose = thaw(found)
        loose[...] = array
        assert loose.flags.writeable

    live(body)


def test_4_records_of_other_shapes_come_back_as_maps(live):
    """Dataclasses and msgspec Structs."""

    async def body(memory):
        await memory.put("a", "k", [Order("AAPL", 10), Fill(1.5, 10)])
        found = await memory.get("a", "k")
        assert found == [{"symbol": "AAPL", "qty": 10}, {"price": 1.5, "qty": 10}]

    live(body)


def _mutations(value):
    """Every ordinary way to change a dict and a list."""
    d, items = value, value["list"]
    return [
        lambda: d.__setitem__("x", 1),
        lambda: d.__delitem__("list"),
        d.clear,
        d.popitem,
        lambda: d.pop("list"),
        lambda: d.setdefault("x", 1),
        lambda: d.update(x=1),
        lambda: d.__ior__({"x": 1}),
        lambda: items.__setitem__(0, 9),
        lambda: items.__delitem__(0),
        lambda: items.append(9),
        lambda: items.extend([9]),
        lambda: items.insert(0, 9),
        lambda: items.__iadd__([9]),
        lambda: items.__imul__(2),
        items.pop,
        lambda: items.remove(1),
        items.clear,
        items.sort,
        items.reverse,
    ]


def test_4_nothing_that_is_returned_can_be_changed(live):
    """get, peek, pin, record, scan, history, watch, search and messages."""
    value = {"list": [1, 2], "dict": {"x": 1}}

    async def body(memory):
        watcher, rx = memory.watch("a"), await memory.subscribe("t")
        await memory.put("a", "k", value)
        await memory.observe("a", [1.0], value)
        await memory.publish("t", value)
        returned = [
            await memory.get("a", "k"),
            memory.peek("a", "k"),
            memory.pin("a", "k").value,
            (await memory.get_record("a", "k")).value,
            (await anext(memory.scan("a", "k"))).value,
            (await anext(memory.history("a", "k"))).value,
            (await anext(watcher)).record.value,
            (await memory.search_similar("a", [1.0]))[0].data,
            await rx.recv(),
            (await memory.get_many([("a", "k")]))[0],
        ]
        for found in returned:
            assert found == value
            for mutate in _mutations(found):
                with pytest.raises(TypeError):
                    mutate()
            with pytest.raises(TypeError):
                found["dict"]["x"] = 2
            assert found == value
        assert await memory.get("a", "k") == value

    live(body)


def test_4_read_only_values_still_work_as_what_they_are(live):
    """json.dumps, ==, isinstance, iteration; copy, deepcopy, pickle and thaw give plain values."""
    value = {"list": [1, {"x": [2]}], "text": "t", "tuple": [1.5]}

    async def body(memory):
        await memory.put("a", "k", value)
        found = await memory.get("a", "k")
        assert json.dumps(found) == json.dumps(value)
        assert found == value
        assert value == found
        assert isinstance(found, dict)
        assert isinstance(found["list"], list)
        assert [*found] == [*value]
        assert found["list"] + [1] == [*value["list"], 1]
        assert {**found, "x": 1} == {**value, "x": 1}
        for plain in (copy.deepcopy(found), thaw(found), pickle.loads(pickle.dumps(found))):  # noqa: S301
            assert plain == value
            assert type(plain) is dict
            assert type(plain["list"]) is list
            assert type(plain["list"][1]) is dict
            plain["list"][1]["x"].append(3)
            plain["new"] = 1
        shallow = copy.copy(found)
        assert type(shallow) is dict
        shallow["new"] = 1
        assert await memory.get("a", "k") == value

    live(body)


def test_4_what_was_passed_is_copied(live):
    """Changing it while the put is in flight, or after, changes nothing stored."""

    async def body(memory):
        value = {"list": [1], "array": np.zeros(3)}
        embedding = np.array([1.0, 0.0])
        putting = asyncio.ensure_future(memory.put("a", "k", value))
        observing = asyncio.ensure_future(memory.observe("a", embedding, value, key="obs"))
        started = asyncio.ensure_future(memory.put("b", "k", 1))
        await asyncio.wait({started})
        value["list"].append(2)
        value["array"][:] = 7
        embedding[:] = [0.0, 1.0]
        await asyncio.gather(putting, observing)
        found = await memory.get("a", "k")
        assert found["list"] == [1]
        assert found["array"].tolist() == [0, 0, 0]
        (hit,) = await memory.search_similar("a", [1.0, 0.0])
        assert hit.score == pytest.approx(1.0)
        assert hit.data["list"] == [1]

    live(body)


def test_4_what_was_put_may_be_a_returned_value(live):
    """A read-only value can be stored again, as it is and inside another."""

    async def body(memory):
        await memory.put("a", "k", {"x": [1]})
        found = await memory.get("a", "k")
        await memory.put("a", "again", found)
        await memory.put("a", "inside", [found])
        assert await memory.get_many([("a", "again"), ("a", "inside")]) == [
            {"x": [1]},
            [{"x": [1]}],
        ]

    live(body)


# --- 5. No look-ahead -------------------------------------------------------------------------


async def _answers(memory, as_of, query):
    """What can be asked as of a moment, in state and similarity."""
    records = [record async for record in memory.scan("a", as_of=as_of)]
    hits = await memory.search_similar("a", query, top_k=20, as_of=as_of, exact=True)
    tagged = await memory.search_similar("a", query, as_of=as_of, tags=["even"], exact=True)
    filtered = await memory.search_similar("a", query, as_of=as_of, where={"n": 3}, exact=True)
    view = memory.at(as_of)
    return (
        records,
        hits,
        tagged,
        filtered,
        await view.get("a", "k"),
        await view.get_record("a", "k"),
    )


async def _write_some(memory, n, embedding):
    """Puts, observations and deletes, some under used keys, some with an end of life."""
    await memory.put("a", "k", n, ttl=150 if n % 4 == 0 else None)
    await memory.put("a", f"k{n % 5}", n)
    await memory.observe(
        "a",
        embedding,
        {"n": n % 5},
        key=f"obs{n % 60}",
        tags=["even"] * (1 - n % 2),
        ttl=400 if n % 7 == 0 else None,
    )
    if n % 9 == 0:
        await memory.delete("a", f"obs{n % 50}")


@pytest.mark.parametrize("timeline", ["live", "backtest"])
def test_5_the_future_does_not_change_the_past(live, clock, timeline):
    """Answers as of a moment are the same before and after a great deal more was written."""
    rows = np.random.default_rng(4).normal(size=(400, 8))

    async def tick(memory):
        clock.advance(60)
        if timeline == "backtest":
            await memory.timeline.advance(clock.now())

    async def body(memory):
        asked = []
        for n in range(80):
            await tick(memory)
            await _write_some(memory, n, rows[n])
            if n % 10 == 5:
                moments = (clock.now(), memory.revision, AsOf(clock.now(), memory.revision))
                query = rows[n] + 1
                asked += [(m, query, await _answers(memory, m, query)) for m in moments]
        for as_of, query, answer in asked:
            assert await _answers(memory, as_of, query) == answer

    live(body, timeline=timeline, durability="relaxed")


def test_5_late_knowledge_shows_only_to_those_who_may_know_it(live, later):
    """As of (time, revision) even late writes change nothing; as of the time alone they do."""

    async def body(memory):
        await memory.put("a", "k", "first", known_at=later(-100))
        await memory.observe("a", [1.0, 0.0], "first", key="obs", known_at=later(-100))
        moment = AsOf(later(-50), memory.revision)
        before = await _answers(memory, moment, [1.0, 0.0])
        await memory.put("a", "k", "late", known_at=later(-80))
        await memory.observe("a", [0.9, 0.1], "late", key="obs2", known_at=later(-80))
        await memory.delete("a", "obs", known_at=later(-70))
        assert await _answers(memory, moment, [1.0, 0.0]) == before
        assert await memory.get("a", "k", as_of=moment.time) == "late"
        hits = await memory.search_similar("a", [1.0, 0.0], as_of=moment.time)
        assert [hit.data for hit in hits] == ["late"]

    live(body)


def test_5_a_backtest_cannot_see_past_now_in_any_call(backtest):
    """All that takes a time refuses a later one, whatever is stored."""

    async def body(memory):
        await memory.timeline.advance(DAY_1)
        await memory.observe("a", [1.0, 0.0])
        future = DAY_1 + timedelta(microseconds=1)
        reads = [
            lambda: memory.get("a", "k", as_of=future),
            lambda: memory.get_record("a", "k", as_of=future),
            lambda: anext(memory.scan("a", as_of=future), None),
            lambda: memory.search_similar("a", [1.0, 0.0], as_of=future),
            lambda: memory.at(future).get("a", "k"),
            lambda: memory.bank.patterns("a", as_of=future),
            lambda: memory.bank.advise("a", [1.0, 0.0], as_of=future),
        ]
        for read in reads:
            with pytest.raises(LookAheadError):
                await read()

    backtest(body)


def test_5_a_replayed_backtest_answers_byte_for_byte_alike(tmp_path, clock, run):
    """Approximate search over a graph included, whether reopened in between or not."""
    rows = clustered(BIG + 1200, WIDE, seed=6)

    async def replay(path, reopen_at):
        answers = []
        config = MemoryConfig(storage_path=path, timeline="backtest", durability="relaxed")
        memory = await MemorySystem.open(config, clock=clock)
        blocks = [rows[:7000], *np.array_split(rows[7000:], 8)]
        for day, block in enumerate(blocks):
            await memory.timeline.advance(DAY_1 + day * DAY)
            keys = [f"k{day}-{n}" for n in range(len(block))]
            await memory.observe_many("a", block, keys=keys)
            if day in reopen_at:
                await memory.close()
                memory = await MemorySystem.open(config, clock=clock)
            for query in block[:5] + 0.3:
                hits = await memory.search_similar("a", query)
                answers.append([(hit.key, hit.score.hex()) for hit in hits])
        await memory.close()
        return answers

    first = run(replay(tmp_path / "1", ()))
    assert run(replay(tmp_path / "2", (5, 7))) == first


# --- 6. Exact filters -------------------------------------------------------------------------


def _best(rows, query, passes, k):
    """Row numbers of the k best of those that pass, by an exact scan of float16 unit rows."""
    halves = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    stored = halves.astype(np.float64)
    scores = stored @ (query / np.linalg.norm(query)) / np.linalg.norm(stored, axis=1)
    numbers = np.flatnonzero(passes)
    return numbers[np.argsort(-scores[numbers], kind="stable")][:k]


@pytest.mark.parametrize("exact", [True, False])
def test_6_filters_cost_no_hits(live, clock, exact):
    """Tags, where and as-of, from half of the rows down to one in 500, alone and together."""
    count = BIG
    rng = np.random.default_rng(8)
    rows = clustered(count, WIDE, seed=8)
    residue = np.arange(count)
    start = clock.now() - timedelta(seconds=count)
    tags = [[f"m{m}" for m in (2, 10, 50, 500) if n % m == 0] for n in range(count)]

    async def body(memory):
        await memory.observe_many(
            "a",
            rows,
            [{"n": n % 10} for n in range(count)],
            keys=[f"{n:05}" for n in range(count)],
            tags=tags,
            known_at=[start + timedelta(seconds=n) for n in range(count)],
        )

        if not exact:
            await indexed(memory)

        async def recall(passes, **filters):
            found = wanted = 0
            for query in rows[rng.integers(count, size=6)] + rng.normal(size=(6, WIDE)) / 10:
                best = {f"{n:05}" for n in _best(rows, query, passes, 10)}
                hits = await memory.search_similar("a", query, exact=exact, **filters)
                assert len(hits) == min(10, int(passes.sum())), "never fewer"
                assert all(passes[int(hit.key)] for hit in hits), "never others"
                scores = [hit.score for hit in hits]
                assert scores == sorted(scores, reverse=True)
                found += len(best & {hit.key for hit in hits})
                wanted += len(best)
            return found / wanted

        bar = 1.0 if exact else 0.95
        for m in (2, 10, 50, 500):
            assert await recall(residue % m == 0, tags=[f"m{m}"]) >= bar
        assert await recall(residue % 10 == 3, where={"n": 3}) >= bar
        for n in (3, 50, 1000, 8000):
            as_of = start + timedelta(seconds=n)
            assert await recall(residue <= n, as_of=as_of) >= bar
        both = (residue % 50 == 0) & (residue <= 6000)
        assert await recall(both, tags=["m50"], as_of=start + timedelta(seconds=6000)) >= bar
        assert await recall(np.ones(count, dtype=bool)) >= bar

    live(body, durability="relaxed")


def test_6_superseded_and_deleted_rows_cost_no_hits(live):
    """The best candidates being gone, the next best come, and as many as there are."""
    rows = np.random.default_rng(9).normal(size=(500, 8))

    async def body(memory):
        await memory.observe_many("a", rows, keys=[f"{n:03}" for n in range(500)])
        query = rows[0]
        gone = [f"{n:03}" for n in _best(rows, query, np.ones(500, dtype=bool), 100)]
        for key in gone:
            await memory.delete("a", key)
        passes = np.array([f"{n:03}" not in gone for n in range(500)])
        best = [f"{n:03}" for n in _best(rows, query, passes, 10)]
        hits = await memory.search_similar("a", query)
        assert [hit.key for hit in hits] == best
        assert len(await memory.search_similar("a", query, top_k=500)) == 400

    live(body, durability="relaxed")


# --- 7. Fenced --------------------------------------------------------------------------------


def test_7_a_write_is_judged_by_its_own_entry_time(live, clock):
    """The holder has noticed nothing, nobody else has asked, and still the lease is over."""

    async def body(memory):
        token = await memory.acquire_lock("book", lease=10.0)
        clock.advance(9.999999)
        await memory.put("a", "k", "in time", fence=token)
        clock.advance(0.000001)
        for write in (
            lambda: memory.put("a", "k", "late", fence=token),
            lambda: memory.delete("a", "k", fence=token),
            lambda: memory.observe("a", [1.0], fence=token),
        ):
            with pytest.raises(StaleFenceError):
                await write()
        assert await memory.get("a", "k") == "in time"

    live(body)


def test_7_a_write_sent_before_the_loss_is_refused_if_it_comes_after(live):
    """What counts is the order of entries: release first, then the write that was under way."""

    async def body(memory):
        token = await memory.acquire_lock("book")
        release = asyncio.ensure_future(memory.release_lock(token))
        take = asyncio.ensure_future(memory.acquire_lock("book", 30.0, holder="next"))
        writes = [
            asyncio.ensure_future(memory.put("a", f"k{n}", n, fence=token)) for n in range(20)
        ]
        done = await asyncio.gather(*writes, return_exceptions=True)
        await release
        following = await take
        accepted = [result for result in done if isinstance(result, int)]
        assert all(revision < following.fence for revision in accepted)
        assert all(isinstance(result, (int, StaleFenceError)) for result in done)
        with pytest.raises(StaleFenceError):
            await memory.put("a", "k", 1, fence=token)
        await memory.put("a", "k", 2, fence=following)

    live(body)


def test_7_only_the_current_grant_counts(live, clock):
    """Of several grants of one lock the newest fence alone is accepted, token or number."""

    async def body(memory):
        tokens = []
        for n in range(3):
            tokens.append(await memory.acquire_lock("book", 0, lease=5.0, holder=str(n)))
            clock.advance(6 if n < 2 else 0)
        fences = [token.fence for token in tokens]
        assert fences == sorted(set(fences))
        for fence in (*tokens[:2], *fences[:2], fences[2] + 1, 0):
            with pytest.raises(NtMemoryError):
                await memory.put("a", "k", 1, fence=fence)
        assert await memory.get("a", "k") is None
        await memory.put("a", "k", 1, fence=tokens[2])
        await memory.put("a", "k", 2, fence=fences[2])

    live(body)


def test_7_a_fence_of_an_earlier_session_is_stale(live):
    """Opening the store ended the lock, so its fence is refused."""

    async def first(memory):
        return (await memory.acquire_lock("book", lease=3600.0)).fence

    fence = live(first)

    async def second(memory):
        with pytest.raises(StaleFenceError):
            await memory.put("a", "k", 1, fence=fence)

    live(second)


def test_7_a_renewed_lease_keeps_its_fence(live, clock):
    """Renewal extends the grant; the number stays, and stays accepted."""

    async def body(memory):
        token = await memory.acquire_lock("book", lease=10.0)
        fence = token.fence
        for _ in range(4):
            clock.advance(8)
            await memory.renew_lock(token)
            await memory.put("a", "k", 1, fence=token)
        assert token.fence == fence

    live(body)


# --- 8. One decision --------------------------------------------------------------------------


def test_8_racing_votes_decide_once(live):
    """Thirty votes at once, half of each kind: one decision, reported alike by every answer."""

    async def body(memory):
        consensus = memory.consensus
        voters = [f"v{n}" for n in range(30)]
        for voter in voters:
            await consensus.register_agent(voter)
        proposal = await consensus.submit_proposal(Proposal("v0", {}, quorum="1/2"))
        waiters = [asyncio.ensure_future(consensus.wait(proposal)) for _ in range(5)]
        answers = await asyncio.gather(
            *(consensus.vote(Vote(proposal, v, approve=n % 2 == 0)) for n, v in enumerate(voters))
        )
        decisions = [answer for answer in answers if not isinstance(answer, Pending)]
        assert decisions
        assert len(set(decisions)) == 1
        assert await asyncio.gather(*waiters) == decisions[:1] * 5
        assert await consensus.get_result(proposal) == decisions[0]
        # No answer goes back to pending once decided.
        kinds = [isinstance(answer, Pending) for answer in answers]
        assert kinds == sorted(kinds, reverse=True)

    live(body)


def test_8_a_decision_is_for_ever(live, clock):
    """Later votes, deadline, changed weights and reopening leave it as it was decided."""

    async def first(memory):
        consensus = memory.consensus
        for voter in ("a", "b", "c"):
            await consensus.register_agent(voter)
        deadline = clock.now() + timedelta(hours=1)
        await consensus.submit_proposal(Proposal("a", 1, quorum="1/3", deadline=deadline, id="p"))
        assert await consensus.vote(Vote("p", "a", approve=True)) == Approved()
        decided = await consensus.get_proposal("p")
        clock.advance(60)
        await consensus.register_agent("a", 0)
        assert await consensus.vote(Vote("p", "b", approve=False)) == Approved()
        assert await consensus.vote(Vote("p", "c", approve=False)) == Approved()
        clock.advance(7200)
        await consensus.register_agent("d")
        assert await consensus.get_result("p") == Approved()
        return decided

    async def second(memory):
        assert await memory.consensus.get_result("p") == Approved()
        assert await memory.consensus.get_proposal("p") == decided
        assert await memory.consensus.wait("p", 0) == Approved()

    decided = live(first)
    live(second)


def test_8_a_deadline_and_a_vote_cannot_both_win(live, clock):
    """A vote entered at or after the deadline finds it rejected."""

    async def body(memory):
        consensus = memory.consensus
        await consensus.register_agent("a")
        for name, seconds, expected in (
            ("in time", 59.999999, Approved()),
            ("late", 60, Rejected()),
        ):
            deadline = clock.now() + timedelta(seconds=60)
            await consensus.submit_proposal(Proposal("a", 1, deadline=deadline, id=name))
            clock.advance(seconds)
            assert await consensus.vote(Vote(name, "a", approve=True)) == expected
            clock.advance(120)
            await memory.put("x", "k", 1)
            assert await consensus.get_result(name) == expected

    live(body)


def test_8_a_rebuilt_store_reports_the_same_decisions(live, store):
    """Replaying the journal decides as it was decided."""
    import shutil

    async def first(memory):
        consensus = memory.consensus
        for n, voter in enumerate("abcde"):
            await consensus.register_agent(voter, n + 1)
        for n in range(8):
            await consensus.submit_proposal(Proposal("a", n, id=f"p{n}"))
            for m, voter in enumerate("abcde"):
                if (n + m) % 4:
                    await consensus.vote(Vote(f"p{n}", voter, approve=(n * m) % 3 != 1))
        return await consensus.list_proposals()

    async def second(memory):
        return await memory.consensus.list_proposals()

    before = live(first)
    shutil.rmtree(store / "views")
    assert live(second) == before
    assert {type(record.result) for record in before} >= {Approved, Rejected}


# --- 9. Isolated ------------------------------------------------------------------------------

NEIGHBOURS = ("a", "ab", "a.b", "a-b", "a_b", "A", "a.", "b")


def test_9_similar_names_share_nothing(live, collect):
    """State, scan, history, watch, pin and search of each agent are its own."""

    async def body(memory):
        watchers = {agent: memory.watch(agent) for agent in NEIGHBOURS}
        pins = {agent: memory.pin(agent, "k") for agent in NEIGHBOURS}
        for n, agent in enumerate(NEIGHBOURS):
            await memory.put(agent, "k", agent)
            await memory.put(agent, "k/k", agent)
            await memory.observe(agent, [1.0] * (n + 1), agent, key="obs", tags=("t",))
        for n, agent in enumerate(NEIGHBOURS):
            assert await memory.get(agent, "k") == agent
            assert pins[agent].value == agent
            records = await collect(memory.scan(agent))
            assert [(record.agent, record.key) for record in records] == [
                (agent, "k"),
                (agent, "k/k"),
                (agent, "obs"),
            ]
            assert [r.value for r in await collect(memory.history(agent, "k"))] == [agent]
            changes = await collect(watchers[agent], 3)
            assert {change.agent for change in changes} == {agent}
            for filters in ({}, {"tags": ["t"]}):
                hits = await memory.search_similar(agent, [1.0] * (n + 1), **filters)
                assert [hit.data for hit in hits] == [agent]
        await memory.delete("a", "k")
        for agent in NEIGHBOURS[1:]:
            assert await memory.get(agent, "k") == agent

    live(body)


@pytest.mark.parametrize("name", ["*", "a*", "**", "%", "a?", "[a]", ".*", "a/b", "a\x00k"])
def test_9_no_name_is_a_pattern(live, name):
    """What looks like a wildcard is refused as an agent, and is itself as a key or prefix."""

    async def body(memory):
        await memory.put("a", "k", 1)
        await memory.put("ab", "k", 1)
        for read in (
            lambda: memory.get(name, "k"),
            lambda: memory.search_similar(name, [1.0]),
            lambda: memory.search_similar(["a", name], [1.0]),
        ):
            with pytest.raises(InvalidInputError):
                await read()
        with pytest.raises(InvalidInputError):
            memory.watch(name)
        if "\x00" not in name:
            assert await memory.get("a", name) is None
            assert [record async for record in memory.scan("a", name)] == []

    live(body)


def test_9_one_agents_load_fails_nobody(live):
    """Far more than the budget from one agent: another's values, pins and vectors still answer."""
    rows = np.random.default_rng(10).normal(size=(4000, 64)).astype(np.float32)

    async def body(memory):
        await memory.put("quiet", "k", {"x": 1})
        keys = await memory.observe_many("quiet", rows[:50])
        pin = memory.pin("quiet", "k")
        for first in range(0, 4000, 500):
            await memory.observe_many("loud", rows[first : first + 500])
            await asyncio.gather(
                *(memory.put("loud", f"k{n}", "x" * 3000) for n in range(first, first + 50))
            )
        assert pin.value == {"x": 1}
        assert await memory.get("quiet", "k") == {"x": 1}
        (hit,) = await memory.search_similar("quiet", rows[7], top_k=1)
        assert hit.key == keys[7]
        (hit,) = await memory.search_similar("loud", rows[3999], top_k=1)
        assert hit.score == pytest.approx(1.0, abs=1e-3)
        assert memory.stats().l1.bytes <= 1 << 20

    live(
        body,
        durability="relaxed",
        max_memory_bytes=1 << 20,
        cache_config=CacheConfig(max_entries=20),
    )


def test_9_dimensions_of_one_agent_bind_no_other(live):
    """Each agent's partition has its own."""

    async def body(memory):
        for dim in (1, 2, 3, 1000):
            agent = f"d{dim}"
            await memory.observe(agent, np.ones(dim))
            assert len(await memory.search_similar(agent, np.ones(dim))) == 1

    live(body)


# --- 10. Bad input (the long list is in test_api_bad_input.py) ---------------------------------


def test_10_one_callers_mistake_fails_nobody_else(live):
    """Good and bad writes in one batch: each bad one fails alone, each good one is there."""

    async def body(memory):
        await memory.put("a", "taken", 0)
        calls = []
        for n in range(40):
            calls += [
                memory.put("a", f"good{n}", n),
                memory.put("a", "taken", n, expect=0),
                memory.put("a", "fenced", n, fence=10**6),
            ]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, int) for result in results[::3])
        assert not any(isinstance(result, int) for result in results[1::3] + results[2::3])
        revisions = results[::3]
        assert revisions == list(range(revisions[0], revisions[0] + 40)), "no revision was spent"
        for n in range(40):
            assert await memory.get("a", f"good{n}") == n
        assert await memory.get_many([("a", "taken"), ("a", "fenced")]) == [0, None]

    live(body)


def test_10_stale_tokens_and_unknown_names_say_so(live):
    """Locks and ballots refuse what is stale, and are as they were."""

    async def body(memory):
        token = await memory.acquire_lock("book")
        await memory.release_lock(token)
        await memory.consensus.register_agent("a")
        before = memory.revision
        for call, error in (
            (lambda: memory.release_lock(token), LockLostError),
            (lambda: memory.renew_lock(token), LockLostError),
            (lambda: memory.put("a", "k", 1, fence=token), StaleFenceError),
            (lambda: memory.consensus.vote(Vote("none", "a", approve=True)), ProposalError),
            (lambda: memory.consensus.submit_proposal(Proposal("stranger", 1)), ProposalError),
        ):
            with pytest.raises(error, match=r".{10,}"):
                await call()
        assert memory.revision == before

    live(body)


def test_10_a_full_disk_loses_nothing_and_passes(live, monkeypatch):
    """StorageFullError, retryable, for what does not fit; what was there stays; later writes work."""
    is_full = False
    writes = {name: getattr(os, name) for name in ("write", "writev", "pwrite", "pwritev")}

    def refusing(name):
        def write(descriptor, *arguments):
            if is_full and os.path.realpath(f"/proc/self/fd/{descriptor}").endswith(".log"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return writes[name](descriptor, *arguments)

        return write

    for name in writes:
        monkeypatch.setattr(os, name, refusing(name))

    async def body(memory):
        nonlocal is_full
        await memory.put("a", "k", "before")
        before = memory.revision
        is_full = True
        with pytest.raises(StorageFullError) as caught:
            await memory.put("a", "k", "does not fit")
        assert caught.value.retryable
        assert memory.revision == before
        assert await memory.get("a", "k") == "before"
        is_full = False
        await memory.put("a", "k", "after")
        assert await memory.get("a", "k") == "after"

    live(body)
    assert live(lambda memory: memory.get("a", "k")) == "after"


def test_10_a_date_is_no_time_and_says_so(live):
    """A plain date, as a common mistake, is refused rather than read as midnight somewhere."""

    async def body(memory):
        with pytest.raises(InvalidInputError):
            await memory.put("a", "k", 1, known_at=date(2024, 1, 1))
        with pytest.raises(InvalidInputError):
            await memory.get("a", "k", as_of=date(2024, 1, 1))

    live(body)
