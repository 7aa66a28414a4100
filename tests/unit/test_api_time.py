"""Time and the system as a whole, one promise a test: at, timeline, stats, tail, snapshot, config."""

from __future__ import annotations

import asyncio
import inspect
from datetime import UTC, datetime, timedelta

import pytest

from nt_memory import (
    AsOf,
    CacheConfig,
    ManualClock,
    MemoryConfig,
    MemoryStats,
    MemorySystem,
    ReasoningBank,
)
from nt_memory.errors import (
    ConfigMismatchError,
    DisconnectedError,
    ForeignStoreError,
    InvalidInputError,
    InvalidTimeError,
    LookAheadError,
    TimelineError,
    UnsupportedError,
)
from nt_memory.system import MemoryView

DAY = timedelta(days=1)
DAY_1 = datetime(2020, 3, 2, 21, tzinfo=UTC)


# --- memory.at --------------------------------------------------------------------------------


def test_a_view_answers_as_of_then(live, clock, collect):
    """get, get_record, scan and search_similar of `memory.at(t)` know nothing later."""

    async def body(memory):
        await memory.put("a", "k", 1)
        await memory.observe("a", [1.0, 0.0], "old", key="obs")
        then, revision = clock.now(), memory.revision
        clock.advance(60)
        await memory.put("a", "k", 2)
        await memory.put("a", "later", 1)
        await memory.observe("a", [1.0, 0.0], "new", key="obs2")
        for as_of in (then, revision, AsOf(then, revision)):
            view = memory.at(as_of)
            assert await view.get("a", "k") == 1
            assert await view.get("a", "later", "default") == "default"
            assert (await view.get_record("a", "k")).value == 1
            assert await view.get_record("a", "later") is None
            assert [r.key for r in await collect(view.scan("a", "k"))] == ["k"]
            assert [r.key for r in await collect(view.scan("a"))] == ["k", "obs"]
            assert [r.key for r in await collect(view.scan("a", after="k"))] == ["obs"]
            hits = await view.search_similar("a", [1.0, 0.0])
            assert [hit.data for hit in hits] == ["old"]

    live(body)


def test_a_view_is_asked_as_the_memory_is():
    """Each of its calls takes what the memory's or the bank's takes, but for `as_of`."""
    calls = [name for name in vars(MemoryView) if not name.startswith("_")]
    assert len(calls) > 7
    for name in calls:
        whole = getattr(MemorySystem, name, None) or getattr(ReasoningBank, name)
        wanted = {k: v for k, v in inspect.signature(whole).parameters.items() if k != "as_of"}
        given = inspect.signature(getattr(MemoryView, name)).parameters
        assert list(given.values()) == list(wanted.values()), name


def test_a_view_as_of_a_revision_does_not_move(live, later):
    """What is recorded after the view was made does not show, late writes included."""

    async def body(memory):
        await memory.put("a", "k", "early", known_at=later(-60))
        view = memory.at(memory.revision)
        await memory.put("a", "k", "later", known_at=later(-30))
        assert await view.get("a", "k") == "early"

    live(body)


def test_a_view_is_read_only(live, clock):
    """It has no way to write."""

    async def body(memory):
        view = memory.at(clock.now())
        for name in ("put", "delete", "observe", "transaction", "acquire_lock"):
            assert not hasattr(view, name)

    live(body)


def test_a_view_refuses_naive_times_and_unborn_revisions(live):
    """As `as_of` does everywhere."""

    async def body(memory):
        with pytest.raises(InvalidTimeError):
            await memory.at(datetime(2024, 1, 1)).get("a", "k")  # noqa: DTZ001
        with pytest.raises(InvalidInputError):
            await memory.at(memory.revision + 1).get("a", "k")

    live(body)


# --- the backtest timeline --------------------------------------------------------------------


def test_a_backtest_starts_with_its_first_advance(backtest):
    """Before it there is no now: reads and writes raise TimelineError and change nothing."""

    async def body(memory):
        before = memory.revision
        with pytest.raises(TimelineError):
            await memory.put("a", "k", 1)
        with pytest.raises(TimelineError):
            await memory.get("a", "k")
        with pytest.raises(TimelineError):
            await memory.observe("a", [1.0, 0.0])
        assert memory.revision == before
        await memory.timeline.advance(DAY_1)
        await memory.put("a", "k", 1)
        record = await memory.get_record("a", "k")
        assert record.known_at == DAY_1

    backtest(body)


def test_now_moves_by_advance_only(backtest, clock):
    """The wall clock is recorded, and otherwise means nothing."""

    async def body(memory):
        await memory.timeline.advance(DAY_1)
        clock.advance(1e6)
        await memory.put("a", "k", 1)
        record = await memory.get_record("a", "k")
        assert (record.known_at, record.recorded_at) == (DAY_1, clock.now())
        await memory.timeline.advance(DAY_1 + DAY)
        assert memory.timeline.now == DAY_1 + DAY

    backtest(body)


def test_time_does_not_run_backwards(backtest):
    """Advancing to an earlier time raises TimelineError."""

    async def body(memory):
        await memory.timeline.advance(DAY_1)
        with pytest.raises(TimelineError):
            await memory.timeline.advance(DAY_1 - timedelta(microseconds=1))
        with pytest.raises(InvalidTimeError):
            await memory.timeline.advance(DAY_1.replace(tzinfo=None))
        assert memory.timeline.now == DAY_1

    backtest(body)


def test_a_live_timeline_moves_by_itself(live, clock):
    """It cannot be advanced."""

    async def body(memory):
        before = memory.revision
        with pytest.raises(TimelineError):
            await memory.timeline.advance(clock.now() + DAY)
        assert memory.revision == before
        assert memory.timeline.now == clock.now()

    live(body)


def test_writing_past_now_is_look_ahead(backtest):
    """In state and similarity, single, bulk and transaction; nothing is written."""

    async def body(memory):
        await memory.timeline.advance(DAY_1)
        future = DAY_1 + timedelta(microseconds=1)
        await memory.put("a", "k", 1)
        before = memory.revision

        async def transact():
            async with memory.transaction() as tx:
                tx.put("a", "x", 1)
                tx.put("a", "y", 1, known_at=future)

        with pytest.raises(LookAheadError):
            await memory.put("a", "k", 2, known_at=future)
        with pytest.raises(LookAheadError):
            await memory.delete("a", "k", known_at=future)
        with pytest.raises(LookAheadError):
            await memory.observe("a", [1.0], known_at=future)
        with pytest.raises(LookAheadError):
            await memory.observe_many("a", [[1.0], [2.0]], known_at=[DAY_1, future])
        with pytest.raises(LookAheadError):
            await transact()
        assert memory.revision == before
        assert await memory.get_many([("a", "k"), ("a", "x"), ("a", "y")]) == [1, None, None]

    backtest(body)


def test_reading_past_now_is_look_ahead(backtest, collect):
    """In every call that takes `as_of`."""

    async def body(memory):
        await memory.timeline.advance(DAY_1)
        await memory.observe("a", [1.0, 0.0])
        future = DAY_1 + timedelta(microseconds=1)

        async def scan(as_of):
            await collect(memory.scan("a", as_of=as_of))

        async def view(as_of):
            await memory.at(as_of).get("a", "k")

        async def search(as_of):
            await memory.search_similar("a", [1.0, 0.0], as_of=as_of)

        for as_of in (future, AsOf(future, memory.revision)):
            with pytest.raises(LookAheadError):
                await memory.get("a", "k", as_of=as_of)
            with pytest.raises(LookAheadError):
                await memory.get_record("a", "k", as_of=as_of)
            for call in (scan, view, search):
                with pytest.raises(LookAheadError):
                    await call(as_of)
        assert len(await memory.search_similar("a", [1.0, 0.0], as_of=DAY_1)) == 1

    backtest(body)


def test_ttl_runs_on_the_timeline(backtest, clock, collect):
    """A week of backtest expires a five-day value; a year of wall clock does not."""

    async def body(memory):
        await memory.timeline.advance(DAY_1)
        watcher = memory.watch("a")
        pin = memory.pin("a", "k")
        await memory.put("a", "k", 1, ttl=5 * 86_400)
        clock.advance(365 * 86_400)
        assert await memory.get("a", "k") == 1
        await memory.timeline.advance(DAY_1 + 4 * DAY)
        assert await memory.get("a", "k") == 1
        await memory.timeline.advance(DAY_1 + 5 * DAY)
        assert await memory.get("a", "k") is None
        assert pin.value is None
        changes = await collect(watcher, 2)
        assert [change.kind for change in changes] == ["put", "expire"]
        assert await memory.get("a", "k", as_of=DAY_1 + 4 * DAY) == 1

    backtest(body)


def test_the_past_of_a_backtest_can_be_filled_in(backtest):
    """Late writes at or before now are accepted, and become history."""

    async def body(memory):
        await memory.timeline.advance(DAY_1)
        await memory.put("a", "k", "old", known_at=DAY_1 - 100 * DAY)
        assert await memory.get("a", "k") == "old"
        assert await memory.get("a", "k", as_of=DAY_1 - 101 * DAY) is None

    backtest(body)


def test_a_revision_of_a_backtest_is_read_at_its_own_now(backtest):
    """`as_of=revision` judges expiry by the timeline of then."""

    async def body(memory):
        await memory.timeline.advance(DAY_1)
        revision = await memory.put("a", "k", 1, ttl=86_400)
        moved = await memory.timeline.advance(DAY_1 + 2 * DAY)
        assert await memory.get("a", "k", as_of=revision) == 1
        assert await memory.get("a", "k", as_of=moved) is None

    backtest(body)


def test_a_backtest_keeps_its_now_across_reopening(backtest):
    """`advance` is an entry like any other."""

    async def first(memory):
        await memory.timeline.advance(DAY_1)
        await memory.put("a", "k", 1)

    async def second(memory):
        assert memory.timeline.now == DAY_1
        assert await memory.get("a", "k") == 1

    backtest(first)
    backtest(second)


def test_advance_is_seen_in_the_tail(backtest, collect):
    """Every process of the swarm can follow it."""

    async def body(memory):
        revision = await memory.timeline.advance(DAY_1)
        entries = await collect(memory.tail(after=revision - 1), 1)
        assert (entries[0].revision, entries[0].kind) == (revision, "advance")

    backtest(body)


def test_the_same_entries_give_the_same_answers(tmp_path, clock, run):
    """Two backtests fed alike answer searches byte for byte alike."""
    import numpy as np

    rows = np.random.default_rng(3).normal(size=(3000, 24)).astype(np.float32)

    async def replay(path, batch):
        config = MemoryConfig(storage_path=path, timeline="backtest")
        async with MemorySystem.open(config, clock=clock) as memory:
            await memory.timeline.advance(DAY_1)
            answers = []
            for first in range(0, len(rows), batch):
                chunk = rows[first : first + batch]
                names = [f"k{n}" for n in range(first, first + len(chunk))]
                await memory.observe_many("a", chunk, keys=names)
                if (first + batch) % 1000 == 0:
                    for query in rows[:5] + 0.1:
                        hits = await memory.search_similar("a", query, as_of=DAY_1)
                        answers.append([(hit.key, hit.score) for hit in hits])
            return answers

    assert run(replay(tmp_path / "one", 500)) == run(replay(tmp_path / "two", 250))


# --- stats, tail, flush, sync -----------------------------------------------------------------


def test_stats_count_what_happens(live):
    """Revision, L1 hits and misses, vectors, messages, subscribers, bytes on disk."""

    async def body(memory):
        await memory.put("a", "k", 1)
        await memory.get("a", "k")
        await memory.get("a", "none")
        await memory.observe("a", [1.0, 0.0])
        rx = await memory.subscribe("t")
        await memory.publish("t", 1)
        stats = memory.stats()
        assert isinstance(stats, MemoryStats)
        assert stats.revision == memory.revision
        assert stats.l1.entries >= 1
        assert stats.l1.hits >= 1
        assert stats.l1.misses >= 1
        assert stats.l2.entries == 1
        assert (stats.subscribers, stats.messages) == (1, 1)
        assert stats.lag == 0
        assert stats.journal_bytes > 0
        assert stats.l3_bytes > 0
        await rx.close()

    live(body)


def test_l1_evictions_are_counted(live):
    """The cache keeps to `max_entries`; what was evicted is still readable."""

    async def body(memory):
        for n in range(50):
            await memory.put("a", f"k{n}", n)
            await memory.get("a", f"k{n}")
        stats = memory.stats()
        assert stats.l1.entries <= 10
        assert stats.l1.evictions >= 40
        assert await memory.get_many([("a", f"k{n}") for n in range(50)]) == list(range(50))

    live(body, cache_config=CacheConfig(max_entries=10))


def test_tail_is_every_entry_in_order(live, collect):
    """From a revision on, without gaps, with who, when, what and the changed keys."""

    async def body(memory):
        start = memory.revision
        put = await memory.put("a", "k", 1, request_id="r-1")
        await memory.delete("a", "k")
        token = await memory.acquire_lock("book")
        await memory.release_lock(token)
        count = memory.revision - start
        entries = await collect(memory.tail(after=start), count)
        assert [entry.revision for entry in entries] == list(range(start + 1, start + count + 1))
        first = entries[0]
        assert (first.revision, first.actor, first.request_id) == (put, "me", "r-1")
        assert [(change.kind, change.key) for change in first.changes] == [("put", "k")]
        assert first.changes[0].record.value == 1
        assert [change.kind for change in entries[1].changes] == ["delete"]
        assert [entry.kind for entry in entries[2:]] == ["acquire", "release"]

    live(body, agent="me")


def test_tail_begins_with_the_first_entry(live, collect):
    """`after=0` is everything, and goes on into the present."""

    async def body(memory):
        tail = memory.tail()
        entries = await collect(tail, memory.revision)
        assert entries[0].revision == 1
        waiting = asyncio.ensure_future(collect(tail, 1))
        revision = await memory.put("a", "k", 1)
        (entry,) = await waiting
        assert entry.revision == revision

    live(body)


def test_flush_and_sync_return(live):
    """After them everything written before is durable and visible."""

    async def body(memory):
        pending = [asyncio.ensure_future(memory.put("a", f"k{n}", n)) for n in range(50)]
        await asyncio.wait(pending)
        await memory.flush()
        await memory.sync()
        assert memory.stats().pending_bytes == 0
        assert await memory.get("a", "k49") == 49

    live(body)


# --- snapshot ---------------------------------------------------------------------------------


def test_a_snapshot_is_a_store(live, tmp_path, clock, run):
    """It opens by itself and holds everything of before the call, while the original goes on."""
    target = tmp_path / "copy"

    async def body(memory):
        await memory.put("a", "k", {"x": 1})
        await memory.observe("a", [1.0, 0.0], "seen", key="obs")
        revision = memory.revision
        await memory.snapshot(target)
        await memory.put("a", "k", "after")
        return revision

    revision = live(body)

    async def check():
        async with MemorySystem.open(target, clock=clock) as memory:
            assert memory.revision >= revision
            assert await memory.get("a", "k") == {"x": 1}
            (hit,) = await memory.search_similar("a", [1.0, 0.0])
            assert hit.data == "seen"
            await memory.put("a", "k", "goes on")

    run(check())
    assert live(lambda memory: memory.get("a", "k")) == "after"


def test_a_snapshot_does_not_overwrite(live, tmp_path):
    """A directory with something in it is refused and left as it is."""
    target = tmp_path / "full"
    target.mkdir()
    (target / "mine.txt").write_text("mine")

    async def body(memory):
        with pytest.raises(ForeignStoreError):
            await memory.snapshot(target)

    live(body)
    assert [path.name for path in target.iterdir()] == ["mine.txt"]


# --- configuration ----------------------------------------------------------------------------


def test_configuration_defaults():
    """As documented."""
    config = MemoryConfig()
    assert config.storage_path == "./data/memory"
    assert config.cache_config == CacheConfig(max_entries=100_000, ttl=3600.0, track_access=True)
    assert config.agentdb_url is None
    assert config.enable_compression is True
    assert config.max_memory_bytes == 1 << 30
    assert config.url is None
    assert (config.swarm, config.agent) == ("default", "")
    assert (config.durability, config.timeline) == ("commit", "live")
    assert config.history is None
    assert config.max_map_bytes == 1 << 40


@pytest.mark.parametrize(
    "other",
    [{"timeline": "backtest"}, {"history": 3}, {"swarm": "other"}],
)
def test_what_belongs_to_the_swarm_is_fixed(live, other):
    """Timeline, history and swarm are set when the store is made; other settings are refused."""

    async def body(memory):
        return memory.revision

    live(body)
    with pytest.raises(ConfigMismatchError):
        live(body, **other)
    live(body)


def test_what_belongs_to_the_node_may_change(live):
    """Cache sizes, durability, compression and who writes."""

    async def write(memory):
        await memory.put("a", "k", "x" * 2000)

    async def read(memory):
        return await memory.get("a", "k")

    live(write)
    settings = {
        "cache_config": CacheConfig(max_entries=7),
        "durability": "relaxed",
        "enable_compression": False,
        "agent": "other",
        "max_memory_bytes": 1 << 26,
    }
    assert live(read, **settings) == "x" * 2000


def test_compression_saves_space_and_changes_nothing(tmp_path, clock, run):
    """What repeats itself takes a fraction of the room, and reads back the same."""
    value = {"prices": [101.5] * 20_000}

    async def size(path, is_on):
        config = MemoryConfig(storage_path=path, enable_compression=is_on)
        async with MemorySystem.open(config, clock=clock) as memory:
            await memory.put("a", "k", value)
            assert (await memory.get_record("a", "k")).value == value
            return memory.stats().journal_bytes

    assert run(size(tmp_path / "on", True)) < run(size(tmp_path / "off", False)) / 10


def test_a_path_takes_over_the_settings_of_its_store(backtest, store, clock, run):
    """Opening by path needs no knowledge of the timeline a store was made with."""

    async def body(memory):
        await memory.timeline.advance(DAY_1)

    backtest(body)

    async def check():
        async with MemorySystem.open(store, clock=clock) as memory:
            assert memory.timeline.now == DAY_1

    run(check())


def test_targets_that_cannot_be_opened_are_refused(tmp_path, run, monkeypatch):
    """A cluster nobody answers for, or a backtest on an AgentDB server, is refused; nothing is made on disk."""

    async def body(target):
        async with MemorySystem.open(target):
            pass

    monkeypatch.setattr("nt_memory.transport.nats.link.CONNECT_S", 0.2)
    with pytest.raises(DisconnectedError, match="no server could be reached"):
        run(body(MemoryConfig(storage_path=tmp_path / "s", url="nats://127.0.0.1:9")))
    config = MemoryConfig(
        storage_path=tmp_path / "s", agentdb_url="http://127.0.0.1:1", timeline="backtest"
    )
    with pytest.raises(UnsupportedError):
        run(body(config))
    assert list(tmp_path.iterdir()) == []


def test_clock_jumps_show_in_stats(store, run):
    """The wall clock moving away from the memory's is reported in seconds."""
    from nt_memory.clock import ManualClock

    class JumpedClock(ManualClock):
        def jump_us(self):
            return 2_500_000

    async def body():
        async with MemorySystem.open(store, clock=JumpedClock()) as memory:
            assert memory.stats().clock_jump_s == 2.5

    run(body())


def test_two_clocks_cost_no_walk_over_what_came_later(store, run):
    """An early revision at a late time is found at once, however many versions lie between."""
    clock = ManualClock(datetime(2024, 1, 2, tzinfo=UTC))

    async def body():
        async with MemorySystem.open(store, clock=clock) as memory:
            revisions = []
            for n in range(400):
                clock.advance(1)
                revisions.append(await memory.put("a", "k", n))
            late = await memory.put("a", "k", "late", known_at=clock.now() - timedelta(seconds=300))
            snapshot, decoded = memory._engine.snapshot, []
            decode = snapshot._decode
            snapshot._decode = lambda key: decoded.append(key) or decode(key)
            now = clock.now()
            for n in (0, 1, 7, 200, 398, 399):
                decoded.clear()
                assert await memory.get("a", "k", as_of=AsOf(now, revisions[n])) == n
                assert len(decoded) < 8
            assert await memory.get("a", "k", as_of=AsOf(now, late)) == 399
            before = AsOf(now, revisions[0] - 1)
            assert await memory.get("a", "k", as_of=before) is None
            then = now - timedelta(seconds=299, microseconds=1)
            assert await memory.get("a", "k", as_of=AsOf(then, late)) == "late"

    run(body())
