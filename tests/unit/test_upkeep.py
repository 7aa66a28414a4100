"""A store that drops old versions compacts itself; one that keeps them is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from datetime import timedelta

import pytest

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.clock import turn
from nt_memory.codec import FILE_FROM_BYTES
from nt_memory.errors import InvalidInputError, QuotaError, StorageFullError, TrimmedError
from nt_memory.system import upkeep
from nt_memory.system.background import TICK_S
from nt_memory.system.compactor import Compactor
from nt_memory.system.verifying import verify

BOUND = 64 << 10
RESERVED_BYTES = 1 << 20
"""What a segment may take ahead of what is written to it."""


@pytest.fixture
def opened(store, clock, run):
    """`opened(body, **settings)`: run `await body(memory)` on a store with a small bound."""

    def open_and_run(body, **settings):
        async def main():
            config = MemoryConfig(
                storage_path=store, **{"compact_at_bytes": BOUND, "history": 3} | settings
            )
            async with MemorySystem.open(config, clock=clock) as memory:
                await body(memory)

        run(main())

    return open_and_run


def disk_bytes(memory):
    """All that the store takes."""
    return memory._engine.opened.directory.disk_bytes()


async def update(memory, clock, count, value=None, step=timedelta(microseconds=1)):
    """New positions, a step apart, in one entry. With the default step no tick comes by itself."""
    start = clock.now()
    clock.advance((step * count).total_seconds())
    async with memory.transaction() as tx:
        for n in range(count):
            tx.put("a", "position", {"AAPL": n, "x": value}, known_at=start + step * (n + 1))


async def look(memory, clock):
    """The store looks, and what it then began has ended."""
    memory._engine.maintenance.upkeep.look()
    await memory._engine.maintenance.upkeep.settle()


async def grow(memory, clock, bytes_=2 * BOUND):
    """More journal than the bound."""
    start = memory.stats().journal_bytes
    while memory.stats().journal_bytes < start + bytes_:
        await update(memory, clock, 200)


async def stay_bounded(memory, clock, rounds):
    """Update, and see how large the store gets, in the first half and in the second."""
    sizes = []
    for _ in range(rounds):
        await update(memory, clock, 400, step=timedelta(seconds=1))
        for _ in range(2):
            clock.advance(TICK_S)
            await memory.flush()
            await turn()
        await memory._engine.maintenance.upkeep.settle()
        sizes.append(disk_bytes(memory))
    assert memory.stats().compactions >= rounds // 8
    assert memory.stats().compaction_failure == ""
    half = rounds // 2
    assert max(sizes[half:]) <= max(sizes[:half]) * 1.1
    assert max(sizes) < RESERVED_BYTES + 16 * BOUND


def test_a_position_stays_bounded_with_history(opened, clock, store):
    """Journal, views and base together, without anybody calling `compact`."""

    async def body(memory):
        await stay_bounded(memory, clock, 40)
        assert (await memory.get("a", "position"))["AAPL"] == 399
        assert len([record async for record in memory.history("a", "position")]) == 4

    opened(body)
    assert verify(store).damage == []


def test_a_position_stays_bounded_with_retention(opened, clock, store):
    """By age: what was superseded an hour ago goes, and later versions can be read as of then."""

    async def body(memory):
        await memory.set_retention("a", max_age=timedelta(hours=1))
        await stay_bounded(memory, clock, 40)
        versions = [record async for record in memory.history("a", "position")]
        assert 3600 <= len(versions) <= 3600 + 40 * 400 // 4
        then = clock.now() - timedelta(minutes=30)
        assert await memory.get("a", "position", as_of=then) is not None
        with pytest.raises(TrimmedError):
            await memory.get("a", "position", as_of=clock.now() - timedelta(hours=4))

    opened(body, history=None)
    assert verify(store).damage == []


@pytest.mark.parametrize(
    "settings",
    [{"history": None}, {"compact_at_bytes": None}, {"timeline": "backtest"}],
    ids=["keeps everything", "told not to", "backtest"],
)
def test_other_stores_are_left_alone(opened, clock, settings):
    """One that keeps everything, one that is told not to, and a backtest whatever it drops."""

    async def body(memory):
        if memory.timeline.is_backtest:
            await memory.timeline.advance(clock.now() + timedelta(days=1))
        await memory.set_retention("b")  # limits nothing
        await grow(memory, clock)
        await look(memory, clock)
        assert memory.stats().compactions == 0
        assert memory.stats().journal_bytes > BOUND
        assert (await anext(memory.tail())).revision == 1

    opened(body, **settings)


def test_it_waits_for_a_multiple_of_the_base(opened, clock):
    """So that a large store is not copied for a little change."""

    async def body(memory):
        for n in range(40):
            await memory.put("a", f"k{n}", os.urandom(4000))
        await grow(memory, clock)
        await look(memory, clock)
        assert memory.stats().compactions == 1
        base = upkeep.base_bytes(memory._engine.opened.directory)
        assert base > 2 * BOUND
        for _ in range(3):
            await grow(memory, clock, bytes_=base)
            await look(memory, clock)
            assert memory.stats().compactions == 1
        await grow(memory, clock, bytes_=2 * base)
        await look(memory, clock)
        assert memory.stats().compactions == 2

    opened(body)


def test_a_store_that_was_closed_is_looked_at_again(opened, clock):
    """How far the journal has grown is read off the disk, not remembered."""

    async def body(memory):
        await grow(memory, clock)

    opened(body)

    async def later(memory):
        assert memory.stats().journal_bytes > BOUND
        await look(memory, clock)
        assert memory.stats().compactions == 1
        assert memory.stats().journal_bytes < BOUND

    opened(later)


def test_open_views_and_feeds_are_respected(opened, clock):
    """A view reads what it may ask for, and a watch misses nothing, across it."""

    async def body(memory):
        await memory.set_retention("a", max_versions=0)
        await update(memory, clock, 1, "first")
        then = clock.now()
        view = memory.at(then)
        watch = memory.watch("a")
        await grow(memory, clock)
        await look(memory, clock)
        assert memory.stats().compactions == 1
        assert (await view.get("a", "position"))["x"] == "first"
        seen = [await anext(watch) for _ in range(200)]
        assert [change.record.value["AAPL"] for change in seen] == list(range(200))
        # Held back for the feed, the old journal is no reason to compact again.
        await look(memory, clock)
        assert memory.stats().compactions == 1

    opened(body, history=None)


def test_a_failure_is_told_and_tried_again(opened, clock, monkeypatch, caplog):
    """In `stats` and in the log; after a minute, and then after longer; until one succeeds."""

    async def body(memory):
        tries = []
        prepare = Compactor.prepare

        def fail(compactor):
            tries.append(clock.now())
            if len(tries) < 3:
                raise StorageFullError("no space left")
            prepare(compactor)

        monkeypatch.setattr(Compactor, "prepare", fail)
        await grow(memory, clock)
        await look(memory, clock)
        assert memory.stats().compaction_failure == "StorageFullError: no space left"
        assert "no space left" in caplog.text
        await look(memory, clock)
        assert len(tries) == 1
        clock.advance(upkeep.RETRY_S)
        await look(memory, clock)
        assert len(tries) == 2
        clock.advance(upkeep.RETRY_S)
        await look(memory, clock)
        assert len(tries) == 2
        await memory.put("a", "still", "written")
        clock.advance(upkeep.RETRY_S)
        await look(memory, clock)
        assert len(tries) == 3
        assert memory.stats().compaction_failure == ""
        assert memory.stats().compactions == 1

    opened(body)


def test_one_that_failed_half_way_is_finished(opened, clock, monkeypatch):
    """Its base was written: the journal behind that is short, and the one before it still goes."""

    async def body(memory):
        swap = Compactor.swap
        fails = iter([True])

        def fail(compactor):
            if next(fails, False):
                compactor._discard()
                raise StorageFullError("no space left")
            swap(compactor)

        monkeypatch.setattr(Compactor, "swap", fail)
        await grow(memory, clock)
        await look(memory, clock)
        assert memory.stats().compactions == 0
        assert memory.stats().journal_bytes > BOUND
        clock.advance(upkeep.RETRY_S)
        await look(memory, clock)
        assert memory.stats().compactions == 1
        assert memory.stats().journal_bytes < BOUND

    opened(body)


def test_what_is_written_meanwhile_counts(opened, clock, store):
    """A segment that reaches behind the base is not taken for one before it."""

    async def body(memory):
        for n in range(3):
            await grow(memory, clock)
            loop = asyncio.get_running_loop()
            begin = memory._engine.journal.begin_segment

            def write_after(begin=begin, loop=loop):
                begin()
                asyncio.run_coroutine_threadsafe(memory.put("a", "k", 1), loop).result(9)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(memory._engine.journal, "begin_segment", write_after)
                await look(memory, clock)
            assert memory.stats().compactions == n + 1
            assert memory.stats().journal_bytes < BOUND

    opened(body)


def test_it_never_runs_beside_another(opened, clock, monkeypatch):
    """A compaction that was called for is joined or waited for, and none begins at closing."""

    async def body(memory):
        running = []
        most = []
        prepare = Compactor.prepare

        def count(compactor):
            running.append(compactor)
            most.append(len(running))
            try:
                prepare(compactor)
            finally:
                running.remove(compactor)

        monkeypatch.setattr(Compactor, "prepare", count)
        await grow(memory, clock)
        called = asyncio.ensure_future(memory.compact())
        await asyncio.gather(called, look(memory, clock), update(memory, clock, 50))
        await grow(memory, clock)
        closing = asyncio.ensure_future(memory.close())
        with contextlib.suppress(Exception):
            memory._engine.maintenance.upkeep.look()
        await closing
        assert set(most) == {1}

    opened(body)


async def count_files(memory, clock):
    """The store looks as often as it takes it to count its value files."""
    memory._engine.maintenance.upkeep._looks = upkeep.LOOKS_A_COUNT - 1
    await look(memory, clock)


def files_of(store):
    """The value files."""
    return [path for path in (store / "values").rglob("*") if path.is_file()]


def test_value_files_stay_bounded(opened, clock, store):
    """Values in files are nothing to the journal: what overwrites left is counted by itself."""

    async def body(memory):
        for n in range(30):
            await memory.put("a", "model", os.urandom(FILE_FROM_BYTES + 1000))
            if n % 5 == 4:
                await count_files(memory, clock)
        assert memory.stats().journal_bytes < BOUND
        assert memory.stats().compactions >= 2
        assert len(files_of(store)) <= 20
        assert len(await memory.get("a", "model")) > FILE_FROM_BYTES

    opened(body, history=1)
    assert verify(store).damage == []


def test_what_refused_writes_left_is_swept(opened, clock, store):
    """Also in a store that keeps everything: a value is filed before its quota is judged."""

    async def body(memory):
        await memory.set_quota("a", max_bytes=FILE_FROM_BYTES * 2)
        await memory.put("a", "model", os.urandom(FILE_FROM_BYTES + 1000))
        (kept,) = files_of(store)
        for _ in range(4):
            with pytest.raises(QuotaError):
                await memory.put("a", "model", os.urandom(FILE_FROM_BYTES + 1000))
            with pytest.raises(QuotaError):
                await memory.observe_many("a", [[1.0]], [os.urandom(FILE_FROM_BYTES + 1000)])
        assert len(files_of(store)) == 9
        await count_files(memory, clock)
        assert files_of(store) == [kept]
        assert memory.stats().compactions == 0

    opened(body, history=None)


def test_held_files_are_no_reason_to_try_again(opened, clock, store):
    """While a feed still asks for them they stay, and the store is not compacted every minute."""

    async def body(memory):
        feed = memory.tail()
        for _ in range(4):
            await memory.put("a", "model", os.urandom(FILE_FROM_BYTES + 1000))
        for _ in range(3):
            await count_files(memory, clock)
        assert memory.stats().compactions == 1
        assert len(files_of(store)) == 4
        assert (await anext(feed)).revision == 1

    opened(body, history=0)


def test_value_files_are_counted_now_and_then(opened, clock, monkeypatch):
    """About once a minute, not at every look: it reads a directory."""

    async def body(memory):
        counts = []
        real = upkeep.Upkeep._sweep_files

        async def count(self, bound):
            counts.append(bound)
            await real(self, bound)

        monkeypatch.setattr(upkeep.Upkeep, "_sweep_files", count)
        for _ in range(2 * upkeep.LOOKS_A_COUNT):
            await look(memory, clock)
        assert counts == [BOUND] * 2

    opened(body)


def test_nothing_is_begun_beside_a_sweep(opened, clock, monkeypatch):
    """It may take longer than it is to the next look, and closing waits for all that was begun."""

    async def body(memory):
        begun, may_end = [], asyncio.Event()
        real = upkeep.Upkeep._sweep_files

        async def sweep_slowly(self, bound):
            begun.append(bound)
            await may_end.wait()
            await real(self, bound)

        monkeypatch.setattr(upkeep.Upkeep, "_sweep_files", sweep_slowly)
        for _ in range(3):
            memory._engine.maintenance.upkeep._looks = upkeep.LOOKS_A_COUNT - 1
            memory._engine.maintenance.upkeep.look()
            await turn()
        assert begun == [BOUND]
        may_end.set()
        await count_files(memory, clock)
        assert begun == [BOUND]
        await count_files(memory, clock)
        assert begun == [BOUND] * 2

    opened(body)


async def leave_unused(memory, count):
    """Value files of writes that were refused."""
    await memory.set_quota("b", max_bytes=0)
    for _ in range(count):
        with pytest.raises(QuotaError):
            await memory.put("b", "model", os.urandom(FILE_FROM_BYTES + 1000))


def test_few_unused_files_are_left_beside_many_that_are_kept(opened, clock, store):
    """As much again as is kept: sweeping reads all that is referred to."""

    async def body(memory):
        for n in range(3):
            await memory.put("a", f"model{n}", os.urandom(FILE_FROM_BYTES + 1000))
        await leave_unused(memory, 2)
        await count_files(memory, clock)
        assert len(files_of(store)) == 5
        await leave_unused(memory, 2)
        await count_files(memory, clock)
        assert len(files_of(store)) == 3

    opened(body, history=None)


def test_few_unused_files_are_left_below_the_bound(opened, clock, store):
    """Also where hardly any is kept."""

    async def body(memory):
        await leave_unused(memory, 3)
        await count_files(memory, clock)
        assert len(files_of(store)) == 3
        await leave_unused(memory, 2)
        await count_files(memory, clock)
        assert files_of(store) == []

    opened(body, history=None, compact_at_bytes=4 * FILE_FROM_BYTES)


def test_a_sweep_makes_the_next_one_no_earlier(opened, clock, store):
    """What plain values take is counted as kept before and after it alike."""

    async def body(memory):
        for n in range(3):
            await memory.put("a", f"k{n}", os.urandom(700_000))
        await leave_unused(memory, 5)
        await count_files(memory, clock)
        assert files_of(store) == []
        await leave_unused(memory, 3)
        await count_files(memory, clock)
        assert len(files_of(store)) == 3

    opened(body, history=None)


def test_the_wait_after_failures_has_an_end(opened, clock, monkeypatch):
    """Twice as long after each, an hour at most; after one that succeeded it begins anew."""

    async def body(memory):
        tries, is_full = [], True
        prepare = Compactor.prepare

        def try_once(compactor):
            tries.append(clock.now())
            if is_full:
                raise StorageFullError("no space left")
            prepare(compactor)

        async def wait_for_another():
            count, waited = len(tries), 0.0
            while len(tries) == count:
                clock.advance(upkeep.RETRY_S)
                waited += upkeep.RETRY_S
                await look(memory, clock)
            return waited

        monkeypatch.setattr(Compactor, "prepare", try_once)
        await grow(memory, clock)
        await look(memory, clock)
        waits = [await wait_for_another() for _ in range(9)]
        assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
        is_full = False
        await wait_for_another()
        assert memory.stats().compaction_failure == ""
        is_full = True
        await grow(memory, clock)
        await look(memory, clock)
        assert await wait_for_another() == upkeep.RETRY_S

    opened(body)


@pytest.mark.parametrize("where", ["look", "compaction"])
def test_an_error_of_the_system_is_a_failure_too(opened, clock, monkeypatch, where):
    """Wherever it comes up: it is told, and ends nothing but the try."""

    async def body(memory):
        def fail(*_):
            raise PermissionError(errno.EACCES, "not any more")

        await grow(memory, clock)
        with monkeypatch.context() as patched:
            if where == "look":
                patched.setattr(upkeep, "list_bases", fail)
            else:
                patched.setattr(Compactor, "prepare", fail)
            await look(memory, clock)
            assert "PermissionError" in memory.stats().compaction_failure
            await look(memory, clock)
        clock.advance(upkeep.RETRY_S)
        await look(memory, clock)
        assert memory.stats().compaction_failure == ""
        assert memory.stats().compactions == 1

    opened(body)


def test_a_little_is_no_reason_however_small_the_base(opened, clock):
    """Nor is the old journal that a feed holds back, with it."""

    async def body(memory):
        feed = memory.tail()
        await grow(memory, clock)
        await look(memory, clock)
        await update(memory, clock, 200)
        journal, directory = memory._engine.journal, memory._engine.opened.directory
        grown = upkeep.grown_bytes(directory, journal)
        assert upkeep.GROWTH * upkeep.base_bytes(directory) < grown < BOUND < journal.size_bytes
        await look(memory, clock)
        assert memory.stats().compactions == 1
        assert (await anext(feed)).revision == 1

    opened(body)


def test_a_base_that_could_not_be_deleted_counts_for_nothing(opened, clock, store):
    """How large the base is, and what of the journal lies behind it, is said by the newest."""

    async def body(memory):
        feed = memory.tail()
        await grow(memory, clock)
        await look(memory, clock)
        assert memory.stats().compactions == 1
        journal, directory = memory._engine.journal, memory._engine.opened.directory
        size = upkeep.base_bytes(directory)
        (store / "base" / f"{1:020d}.base").write_bytes(bytes(10 * BOUND))
        assert upkeep.base_bytes(directory) == size > 0
        assert journal.size_bytes > BOUND, "the feed holds it back"
        assert upkeep.grown_bytes(directory, journal) < 1000
        assert (await anext(feed)).revision == 1

    opened(body)


def test_closing_is_no_failure(opened, clock, monkeypatch, caplog):
    """One that is begun while the memory closes is not, and nothing is said of it."""

    async def body(memory):
        await grow(memory, clock)
        started = asyncio.Event()
        real = memory._engine.maintenance.compact

        async def compact_late():
            started.set()
            while not memory._engine.maintenance._is_over:
                await turn()
            await real()

        monkeypatch.setattr(memory._engine.maintenance, "compact", compact_late)
        memory._engine.maintenance.upkeep.look()
        await started.wait()
        await memory.close()
        assert memory._engine.maintenance.upkeep.failure == ""
        assert memory._engine.maintenance.upkeep._running.done()
        assert caplog.text == ""

    opened(body)


def test_the_bound_is_checked():
    """It is a number of bytes, or none."""
    for wrong in (0, -1):
        with pytest.raises(InvalidInputError):
            MemoryConfig(compact_at_bytes=wrong)
    assert MemoryConfig.from_env({"NT_MEMORY_COMPACT_AT_BYTES": ""}).compact_at_bytes is None
    assert MemoryConfig.from_env({"NT_MEMORY_COMPACT_AT_BYTES": "9"}).compact_at_bytes == 9
