"""Retention: old versions go, nobody is told something else for them, and what is in use stays."""

from __future__ import annotations

import asyncio
import shutil
from datetime import timedelta

import pytest

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.entries import Sweep
from nt_memory.errors import InvalidInputError, InvalidNameError, InvalidTimeError, TrimmedError
from nt_memory.records import Retention
from nt_memory.system.governing import SWEEP_LIMIT, sweep_all
from nt_memory.system.verifying import verify


async def versions(memory, key, agent="a"):
    return [record.value async for record in memory.history(agent, key)]


async def sweep(memory):
    return await sweep_all(memory._engine)


async def put_hourly(memory, clock, count, key="k", agent="a"):
    times = []
    for n in range(count):
        await memory.put(agent, key, n)
        times.append(clock.now())
        clock.advance(3600)
    return times


def test_old_versions_go_and_are_said_to_be_gone(live, clock, run):
    """Two hours back everything is readable; before that nothing is, and never wrongly."""

    async def body(memory):
        times = await put_hourly(memory, clock, 10)
        await memory.set_retention("a", max_age=timedelta(hours=2))
        # At hour 10, 7 was superseded at 8, exactly two hours ago.
        assert await sweep(memory) == 8
        assert await versions(memory, "k") == [9, 8]
        for n in (8, 9):
            assert await memory.get("a", "k", as_of=times[n]) == n
        for n in range(8):
            with pytest.raises(TrimmedError):
                await memory.get("a", "k", as_of=times[n])
            with pytest.raises(TrimmedError):
                await memory.at(times[n]).get("a", "k")
        assert await sweep(memory) == 0

    live(body)


def test_a_sweep_ends_however_fast_others_write(live, clock, run, monkeypatch):
    """What is superseded while it runs is left for the next one, or a compaction would never be."""

    async def body(memory):
        for n in range(300):
            await memory.put("a", "k", n)
        await memory.set_retention("a", max_versions=0)
        real, sweeps = memory._engine.submit, []

        async def submit(entry, *others):
            swept = await real(entry, *others)
            if isinstance(entry, Sweep):
                sweeps.append(entry.limit)
                await asyncio.gather(*(memory.put("a", "k", n) for n in range(1000)))
            return swept

        monkeypatch.setattr(memory._engine, "submit", submit)
        assert await sweep(memory) == 299
        assert sweeps == [SWEEP_LIMIT, 2002]
        assert await sweep(memory) == 2000
        assert sweeps == [SWEEP_LIMIT, 2002] * 2
        assert len(await versions(memory, "k")) == 2001

    live(body)


def test_the_number_of_versions_is_bounded(live, clock, run):
    """`max_versions` superseded ones stay behind the current one."""

    async def body(memory):
        times = await put_hourly(memory, clock, 10)
        await memory.set_retention("a", max_versions=3)
        assert await sweep(memory) == 6
        assert await versions(memory, "k") == [9, 8, 7, 6]
        assert await memory.get("a", "k", as_of=times[6]) == 6
        with pytest.raises(TrimmedError):
            await memory.get("a", "k", as_of=times[5])
        await memory.set_retention("a", max_versions=0)
        assert await sweep(memory) == 3
        assert await versions(memory, "k") == [9]

    live(body)


def test_the_current_value_stays(live, clock, run):
    """However old it is."""

    async def body(memory):
        await memory.put("a", "k", 1)
        await memory.set_retention("a", max_age=1, max_versions=0)
        clock.advance(10**6)
        assert await sweep(memory) == 0
        assert await memory.get("a", "k") == 1

    live(body)


def test_keys_that_are_gone_go_as_a_whole(live, clock, run):
    """Deleted or run out longer ago than the age; asking for when they were there says so."""

    async def body(memory):
        await memory.put("a", "deleted", 1)
        await memory.put("a", "brief", 1, ttl=60)
        await memory.put("a", "stays", 1)
        then = clock.now()
        clock.advance(120)
        await memory.delete("a", "deleted")
        deleted_at = clock.now()
        await memory.set_retention("a", max_age=3600)
        clock.advance(3550)
        assert await sweep(memory) == 1  # `brief` ran out at 60
        clock.advance(101)
        assert await sweep(memory) == 2
        assert [record.key async for record in memory.scan("a")] == ["stays"]
        assert await versions(memory, "deleted") == []
        for as_of in (then, deleted_at - timedelta(seconds=1)):
            for key in ("deleted", "brief", "never"):
                with pytest.raises(TrimmedError):
                    await memory.get("a", key, as_of=as_of)
            with pytest.raises(TrimmedError):
                memory.scan("a", as_of=as_of)
            assert await memory.get("a", "stays", as_of=as_of) == 1
        assert await memory.get("a", "deleted", as_of=deleted_at) is None
        assert await memory.get("b", "never", as_of=then) is None
        assert await memory.put("a", "deleted", 2, expect=0)

    live(body)


def test_observations_go_too(live, clock, run):
    """A search of the past that would need one says so; one of the present never finds it."""

    async def body(memory):
        await memory.observe("a", [1.0, 0.0], "old", key="k")
        then = clock.now()
        clock.advance(60)
        await memory.observe("a", [0.0, 1.0], "new", key="k")
        await memory.observe("a", [1.0, 0.1], "brief", key="b", ttl=60)
        clock.advance(3600)
        await memory.set_retention("a", max_age=60)
        assert await sweep(memory) == 2
        (hit,) = await memory.search_similar("a", [1.0, 0.0])
        assert (hit.key, hit.data) == ("k", "new")
        with pytest.raises(TrimmedError):
            await memory.search_similar("a", [1.0, 0.0], as_of=then)

    live(body)


def test_rules_are_per_agent_with_one_for_the_rest(live, clock, run):
    """An agent's own rule counts, also one that keeps everything."""

    async def body(memory):
        for agent in ("a", "b", "c"):
            await put_hourly(memory, clock, 5, agent=agent)
        await memory.set_retention(None, max_versions=1)
        await memory.set_retention("b", max_versions=2)
        await memory.set_retention("c")
        await sweep(memory)
        assert [len(await versions(memory, "k", agent)) for agent in "abc"] == [2, 3, 5]
        assert memory.retention("a").max_versions == 1
        assert memory.retention("c").max_versions is None
        await memory.set_retention(None)
        assert memory.retention("a").max_versions is None
        assert memory.retention("b").max_versions == 2

    live(body)


def test_an_open_view_holds_back_what_it_may_ask_for(live, clock, run):
    """And lets it go when it is dropped, or after ten minutes."""

    async def body(memory):
        times = await put_hourly(memory, clock, 10)
        await memory.set_retention("a", max_versions=0)
        view = memory.at(times[4])
        assert await sweep(memory) == 4
        assert await view.get("a", "k") == 4
        clock.advance(601)
        assert await sweep(memory) == 5
        with pytest.raises(TrimmedError):
            await view.get("a", "k")

    live(body)


def test_late_versions_are_kept_as_others(live, clock, run):
    """By when they were in force, not by when they were recorded."""

    async def body(memory):
        start = clock.now()
        clock.advance(7200)
        await memory.put("a", "k", "now")
        await memory.put("a", "k", "late", known_at=start + timedelta(seconds=3600))
        await memory.put("a", "k", "later", known_at=start)
        await memory.set_retention("a", max_age=1800)
        assert await sweep(memory) == 1
        assert await versions(memory, "k") == ["now", "late"]
        with pytest.raises(TrimmedError):
            await memory.get("a", "k", as_of=start)

    live(body)


def test_many_versions_take_many_sweeps(live, clock, run):
    """Each is bounded; together they do it all, over keys and agents."""

    async def body(memory):
        for n in range(1500):
            async with memory.transaction() as tx:
                tx.put("a", "k", n)
                tx.put("b", f"k{n % 700}", n)
        await memory.set_retention(None, max_versions=1)
        before = memory.revision
        assert await sweep(memory) == 1498 + 100
        # A sweep looks at a name, and at what it drops, 96 in all.
        assert (700 + 1598) // 96 <= memory.revision - before <= (701 + 1598) // 96 + 2
        assert await versions(memory, "k") == [1499, 1498]
        assert await versions(memory, "k5", "b") == [1405, 705]

    live(body)


def test_rules_and_what_they_dropped_outlive_the_views(store, clock, run):
    """Replayed from the journal, or loaded from a base, everything is as it was."""

    async def body():
        async with MemorySystem.open(store, clock=clock) as memory:
            times = await put_hourly(memory, clock, 6)
            await memory.put("a", "gone", 1)
            await memory.delete("a", "gone")
            clock.advance(10_000)
            await memory.set_retention("a", max_age=5_000)
            await sweep(memory)
            kept = await versions(memory, "k")
        assert verify(store).damage == []
        for path in ("views", "vectors"):
            shutil.rmtree(store / path)
        for _ in range(2):
            async with MemorySystem.open(store, clock=clock) as memory:
                assert await versions(memory, "k") == kept
                assert memory.retention("a").max_age == timedelta(seconds=5_000)
                with pytest.raises(TrimmedError):
                    await memory.get("a", "never", as_of=times[0])
                await memory.compact()

    run(body())


def test_a_follower_says_which_rules_hold_now(store, clock, run):
    """Those that were made and taken back since it was opened too."""

    async def body():
        async with (
            MemorySystem.open(store, clock=clock) as writer,
            MemorySystem.open(store, clock=clock, read_only=True) as follower,
        ):
            for rule in ({"max_versions": 2}, {"max_age": 60}, {}):
                for agent in (None, "a"):
                    await writer.set_retention(agent, **rule)
                    await follower.sync()
                    assert follower.retention("a") == writer.retention("a")
                    assert follower.retention("b") == writer.retention("b")
            assert follower.retention("a") == Retention()

    run(body())


def test_compaction_sweeps_first(live, clock, run):
    """On a backtest timeline it is what drops versions; on a live one it does so at once."""

    async def body(memory):
        await put_hourly(memory, clock, 10)
        await memory.set_retention("a", max_versions=2)
        done = await memory.compact()
        assert done.dropped_versions == 7

    live(body)


def test_a_backtest_keeps_by_its_own_time(store, clock, run):
    """Wall time passes without dropping anything."""

    async def body():
        config = MemoryConfig(storage_path=store, timeline="backtest")
        start = clock.now()
        async with MemorySystem.open(config, clock=clock) as memory:
            await memory.timeline.advance(start)
            for n in range(5):
                await memory.put("a", "k", n)
                await memory.timeline.advance(start + timedelta(days=n + 1))
            await memory.set_retention("a", max_age=timedelta(days=2))
            clock.advance(10**7)
            assert len(await versions(memory, "k")) == 5
            assert (await memory.compact()).dropped_versions == 3

    run(body())


def test_sweeps_come_by_themselves(store, clock, run):
    """About once a minute on a live timeline."""

    async def body():
        async with MemorySystem.open(store, clock=clock) as memory:
            await put_hourly(memory, clock, 10)
            await memory.set_retention("a", max_versions=0)
            watch = memory.wait_for(memory.revision + 1)
            for _ in range(400):
                clock.advance(0.2)
                await memory.flush()
            await watch
            assert await versions(memory, "k") == [9]

    run(body())


def test_malformed_rules_are_refused(live, run):
    """And change nothing."""

    async def body(memory):
        revision = memory.revision
        with pytest.raises(InvalidNameError):
            await memory.set_retention("a/b", max_versions=1)
        for number in (-1, True):
            with pytest.raises(InvalidInputError):
                await memory.set_retention("a", max_versions=number)
        for age in (0, -1, float("nan"), "1"):
            with pytest.raises(InvalidTimeError):
                await memory.set_retention("a", max_age=age)
        assert memory.revision == revision

    live(body)
