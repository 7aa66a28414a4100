"""What an engine once got wrong about time and the past, kept right.

Each test makes the order of events that did the damage happen for certain: by a clock that it
moves, or by doing one thing from inside another.
"""

from __future__ import annotations

import asyncio
import threading
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.clock import ManualClock
from nt_memory.codec import encode
from nt_memory.entries import STATE, Write, WriteOp
from nt_memory.errors import InvalidTimeError, StaleFenceError, TrimmedError

BEFORE_THE_CALENDAR = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))
DAMAGE_S = 5.0  # only a failure waits so long


# --- times ------------------------------------------------------------------------------------


def test_a_time_before_the_calendar_harms_nobody_else(live):
    """A known_at that is before year 1 in UTC is refused; writers beside it and reopening work."""

    async def body(memory):
        async with asyncio.timeout(DAMAGE_S):
            results = await asyncio.gather(
                *(memory.put("x", f"k{n}", n) for n in range(10)),
                memory.put("a", "bad", 1, known_at=BEFORE_THE_CALENDAR),
                *(memory.put("y", f"k{n}", n) for n in range(10)),
                return_exceptions=True,
            )
            assert isinstance(results.pop(10), InvalidTimeError)
            assert sorted(results) == list(range(results[0], results[0] + 20))
            await memory.put("a", "good", 2)
            with pytest.raises(InvalidTimeError):
                await memory.get("a", "good", as_of=BEFORE_THE_CALENDAR)

    async def again(memory):
        assert await memory.get_many([("x", "k9"), ("y", "k9"), ("a", "good")]) == [9, 9, 2]
        assert await memory.get("a", "bad") is None

    live(body)
    live(again)


def test_an_entry_before_the_calendar_is_refused_when_it_is_applied(live):
    """Also an entry that no call checked cannot bring in a time that cannot be shown."""

    async def body(memory):
        revision = memory.revision
        write = Write((WriteOp(STATE, "a", "bad", encode(1), known_at=-(10**17)),))
        async with asyncio.timeout(DAMAGE_S):
            with pytest.raises(InvalidTimeError):
                await memory._engine.submit(write)
            assert memory.revision == revision
            assert await memory.put("a", "good", 2) == revision + 1

    async def again(memory):
        assert [record.key async for record in memory.scan("a")] == ["good"]

    live(body)
    live(again)


@pytest.fixture
def set_back(store, clock, run):
    """`set_back(before, after)`: run both, with the clock set back by an hour between them."""

    def run_both(before, after):
        async def main():
            config = MemoryConfig(storage_path=store)
            async with MemorySystem.open(config, clock=clock) as memory:
                found = await before(memory)
            earlier = ManualClock(clock.now() - timedelta(hours=1))
            async with MemorySystem.open(config, clock=earlier) as memory:
                await after(memory, earlier, found)

        run(main())

    return run_both


def test_a_clock_set_back_hides_nothing_new(set_back):
    """What is written after the clock was set back is found at once, and now is not the past."""

    async def before(memory):
        await memory.put("a", "old", 1)

    async def after(memory, _clock, _):
        await memory.observe("a", [1.0, 2.0], {"v": 2}, key="new")
        (hit,) = await memory.search_similar("a", [1.0, 2.0])
        assert (hit.key, hit.data) == ("new", {"v": 2})
        for key in ("old", "new"):
            now = await memory.get("a", key, as_of=memory.timeline.now)
            assert now is not None
            assert now == await memory.get("a", key)
        assert [record.key async for record in memory.scan("a")] == ["new", "old"]

    set_back(before, after)


def test_a_clock_set_back_lets_time_pass(set_back, collect):
    """A ttl and a lease that begin after the clock was set back take as long as they say."""

    async def before(memory):
        await memory.put("a", "old", 1)
        return await memory.acquire_lock("kept", lease=30.0)

    async def after(memory, clock, old):
        with pytest.raises(StaleFenceError):
            await memory.put("a", "x", 1, fence=old.fence)
        changes = memory.watch("a")
        await memory.put("a", "short", 1, ttl=10)
        token = await memory.acquire_lock("r", lease=1.0, holder="one")
        clock.advance(0.5)
        await memory.put("a", "held", 1, fence=token)
        clock.advance(10.5)
        assert await memory.get("a", "short") is None
        told = [(change.kind, change.key) for change in await collect(changes, 3)]
        assert told == [("put", "short"), ("put", "held"), ("expire", "short")]
        with pytest.raises(StaleFenceError):
            await memory.put("a", "x", 1, fence=token)
        await memory.acquire_lock("r", timeout=0, holder="two")

    set_back(before, after)


def test_more_expiries_than_one_tick_takes_are_all_told(live, clock, collect):
    """However many values run out at once, one passing of time is enough to tell of all."""
    count = 5_000

    async def body(memory):
        async with memory.transaction() as tx:
            for n in range(count):
                tx.put("a", f"k{n}", n, ttl=1)
        changes = memory.watch("a")
        clock.advance(2)
        told = await collect(changes, count)
        assert {change.kind for change in told} == {"expire"}
        assert len({change.key for change in told}) == count

    live(body)


# --- history ----------------------------------------------------------------------------------


@pytest.mark.parametrize("history", [0, 1])
def test_a_best_hit_that_is_replaced_all_the_time_is_found(live, monkeypatch, history):
    """A search does not miss an observation because it is replaced, and dropped, meanwhile."""
    rows = np.random.default_rng(3).normal(size=(500, 512))  # enough to be searched by a thread

    async def body(memory):
        loop = asyncio.get_running_loop()
        vectors = memory._engine.vectors
        search = vectors.search
        replaced = 0

        async def replace():
            for _ in range(history + 1):
                await memory.observe("v", rows[7], 7, key="k007")

        def search_and_replace(*args, **options):
            nonlocal replaced
            found = search(*args, **options)
            if threading.current_thread() is not threading.main_thread():
                asyncio.run_coroutine_threadsafe(replace(), loop).result(DAMAGE_S)
                replaced += 1
            return found

        await memory.observe_many("v", rows, keys=[f"k{n:03}" for n in range(500)])
        monkeypatch.setattr(vectors, "search", search_and_replace)
        # Quick ones stay on the loop, where nothing can come between.
        for asked in ("is_within", "is_usually_within"):
            monkeypatch.setattr(memory._engine.pace, asked, lambda *_: False)
        for number in range(1, 6):
            (hit,) = await memory.search_similar("v", rows[7], 1)
            assert hit.key == "k007"
            assert replaced >= number

    live(body, history=history)


@pytest.mark.parametrize("history", [0, 1])
def test_a_dropped_past_is_said_to_be_dropped(live, clock, history):
    """Reads and searches as of what `history` dropped say so, rather than that nothing was there."""

    async def body(memory):
        await memory.observe("a", [1.0, 0.0], "first", key="k")
        revision, time = memory.revision, clock.now()
        for n in range(history + 1):
            clock.advance(1)
            await memory.observe("a", [1.0, 0.0], n, key="k")
        for as_of in (revision, time):
            with pytest.raises(TrimmedError):
                await memory.get("a", "k", as_of=as_of)
            with pytest.raises(TrimmedError):
                await memory.search_similar("a", [1.0, 0.0], as_of=as_of)
        (hit,) = await memory.search_similar("a", [1.0, 0.0])
        assert hit.data == history

    live(body, history=history)


@pytest.mark.parametrize("history", [0, 1])
def test_a_scan_survives_the_drop_of_what_it_shows(live, history):
    """A scan shows the moment of its call to the end, also where puts drop those versions."""

    async def replace(memory, value):
        async with memory.transaction() as tx:
            for n in range(600):
                tx.put("a", f"k{n:03}", value)

    async def body(memory):
        await replace(memory, "then")
        seen = []
        async for record in memory.scan("a"):
            if len(seen) in {0, 100, 300}:
                await replace(memory, len(seen))
            seen.append(record.value)
        assert seen == ["then"] * 600

    live(body, history=history)


@pytest.mark.parametrize("history", [0, 1, 3])
def test_as_many_versions_are_kept_as_history_says(live, later, history):
    """Behind the current version remain `history` older ones, in whatever order they came."""

    async def body(memory):
        for n in range(1, 8):
            await memory.put("a", "k", n)
            values = [record.value async for record in memory.history("a", "k")]
            assert values == list(range(n, max(0, n - history - 1), -1))
        for n in range(1, 8):
            await memory.put("a", "late", n, known_at=later(-n))
            values = [record.value async for record in memory.history("a", "late")]
            assert values == list(range(1, min(n, history + 1) + 1))

    live(body, history=history)
