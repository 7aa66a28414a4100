"""Compaction: the base moves forward, nothing that is kept is lost, and nobody has to stop."""

from __future__ import annotations

import asyncio
import re
import shutil
from datetime import timedelta

import numpy as np
import pytest

from nt_memory import ManualClock, MemoryConfig, MemorySystem, Proposal, Vote
from nt_memory.clock import turn
from nt_memory.errors import (
    CorruptionError,
    InvalidInputError,
    ReadOnlyError,
    StorageFullError,
    TrimmedError,
)
from nt_memory.system import compactor
from nt_memory.system.baseline import save_base
from nt_memory.system.compactor import Compactor
from nt_memory.system.holds import MAX_HOLD_S
from nt_memory.system.verifying import verify
from nt_memory.transport.basefile import list_bases


def segments(store):
    """Names of the journal's segments."""
    return sorted(path.name for path in (store / "journal").iterdir())


async def everything(memory, agents=("a", "b")):
    """All that state can say: every version of every key, and the present."""
    found = {}
    for agent in agents:
        async for record in memory.scan(agent):
            found[agent, record.key] = [
                (old.value, old.revision, old.known_at, old.recorded_at, old.expires_at, old.actor)
                async for old in memory.history(agent, record.key)
            ]
    return found


async def exhaust(feed):
    async for _ in feed:
        pass


async def fill(memory, rounds=5):
    """Some of everything a store can hold."""
    for n in range(rounds):
        for agent in ("a", "b"):
            await asyncio.gather(*(memory.put(agent, f"k{i}", [n, i]) for i in range(20)))
    await memory.put("a", "brief", "x", ttl=1000.0)
    await memory.put("a", "gone", 1)
    await memory.delete("a", "gone")
    await memory.put("a", "big", "x" * 5000)
    vectors = np.random.default_rng(1).normal(size=(300, 8)).astype(np.float32)
    await memory.observe_many("a", vectors, [{"n": n} for n in range(300)])
    return vectors


def lose_views(store):
    """What the base and the journal do not hold is gone."""
    shutil.rmtree(store / "views")
    shutil.rmtree(store / "vectors")


def test_the_store_shrinks_and_keeps_everything(store, run):
    """The journal goes, the base has all of it, whether the views are there or not."""

    async def body():
        async with MemorySystem.open(store) as memory:
            vectors = await fill(memory)
            for _ in range(300):
                await memory.put("b", "k1", "y" * 500)
            before = await everything(memory)
            size = memory.stats().journal_bytes
            done = await memory.compact()
            assert done.revision == memory.revision
            assert memory.stats().journal_bytes < size / 100
            assert len(segments(store)) == 1
            assert await everything(memory) == before
        lose_views(store)
        async with MemorySystem.open(store) as memory:
            assert await everything(memory) == before
            (hit,) = await memory.search_similar("a", vectors[7], 1)
            assert hit.data == {"n": 7}
            assert await memory.get("a", "gone") is None

    run(body())


def test_dropped_versions_give_their_space_back(store, run):
    """The views are a new file without holes."""

    async def body():
        config = MemoryConfig(storage_path=store, history=0, enable_compression=False)
        async with MemorySystem.open(config) as memory:
            for n in range(400):
                await memory.put("a", f"k{n}", "z" * 4000)
            for n in range(400):
                await memory.put("a", f"k{n}", 1)
            size = memory.stats().l3_bytes
            done = await memory.compact()
            assert memory.stats().l3_bytes < size / 4
            assert done.freed_bytes > 1_000_000
            assert await memory.get("a", "k7") == 1

    run(body())


def test_what_lies_before_the_base_is_trimmed(store, run):
    """The order of entries before it is gone; the versions are not."""

    async def body():
        clock = ManualClock()
        async with MemorySystem.open(store, clock=clock) as memory:
            first = await memory.put("a", "k", 1)
            then = clock.now()
            clock.advance(10)
            await memory.put("a", "k", 2)
            done = await memory.compact()
            assert done.oldest_revision > first
            with pytest.raises(TrimmedError) as trimmed:
                await memory.get("a", "k", as_of=first)
            assert trimmed.value.oldest == done.oldest_revision
            with pytest.raises(TrimmedError):
                await anext(memory.tail())
            with pytest.raises(TrimmedError):
                await anext(memory.watch("a", after=first - 1))
            assert await memory.get("a", "k", as_of=then) == 1
            assert await memory.get("a", "k", as_of=done.revision) == 2
            watch = memory.watch("a")
            revision = await memory.put("a", "k", 3)
            assert (await anext(watch)).revision == revision
        lose_views(store)
        async with MemorySystem.open(store, clock=clock) as memory:
            assert await memory.get("a", "k", as_of=then) == 1
            assert await memory.get("a", "k", as_of=done.revision) == 2
            with pytest.raises(TrimmedError):
                await memory.get("a", "k", as_of=first)
            assert (await anext(memory.tail(after=done.revision))).revision == revision
            with pytest.raises(TrimmedError):
                await anext(memory.tail(after=done.revision - 1))

    run(body())


def test_an_open_feed_holds_back_what_it_has_not_read(store, run):
    """For ten minutes; one that was forgotten longer does not."""

    async def body():
        clock = ManualClock()
        async with MemorySystem.open(store, clock=clock) as memory:
            tail, watch = memory.tail(), memory.watch("a", after=0)
            for n in range(50):
                await memory.put("a", "k", n)
            last = memory.revision
            await memory.compact()
            assert [(await anext(tail)).revision for _ in range(last)] == list(range(1, last + 1))
            assert [(await anext(watch)).record.value for _ in range(50)] == list(range(50))
            forgotten = memory.tail()
            clock.advance(MAX_HOLD_S - 1)
            await memory.compact()
            assert (await anext(forgotten)).revision == 1
            clock.advance(MAX_HOLD_S + 1)
            await memory.compact()  # it has moved since the last one looked
            clock.advance(MAX_HOLD_S + 1)
            await memory.compact()
            with pytest.raises(TrimmedError):
                await exhaust(forgotten)

    run(body())


def test_writers_and_readers_go_on(store, run):  # noqa: C901
    """Whatever is written while it runs is there, and reads never see a step back."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            done = asyncio.Event()
            acknowledged = {}

            async def write(name):
                n = 0
                while not done.is_set() or n < 20:
                    await memory.put("w", name, n)
                    acknowledged[name] = n
                    assert await memory.get("w", name) == n
                    n += 1

            async def read():
                seen = 0
                while not done.is_set():
                    record = await memory.get_record("w", "w0")
                    if record is not None:
                        assert record.value >= seen
                        seen = record.value
                    await turn()

            async with asyncio.TaskGroup() as group:
                for n in range(5):
                    group.create_task(write(f"w{n}"))
                group.create_task(read())
                for _ in range(5):
                    await memory.compact()
                done.set()
            assert len(list_bases(store / "base")) == 1
        lose_views(store)
        async with MemorySystem.open(store) as memory:
            assert {name: await memory.get("w", name) for name in acknowledged} == acknowledged

    run(body())


def test_a_base_has_the_same_bytes_live_and_replayed(store, tmp_path, run):
    """Taken live at a revision, or after a fresh replay up to it."""

    async def body():
        async with MemorySystem.open(MemoryConfig(storage_path=store, history=3)) as memory:
            await fill(memory)
            await memory.put("a", "late", 1, known_at=memory.timeline.now - timedelta(days=1))
            await memory.put("a", "once", 1, request_id="r1")
            await memory.acquire_lock("desk")
            await memory.consensus.register_agent("a")
            await memory.consensus.submit_proposal(Proposal("a", {"buy": 1}))
            await memory.snapshot(tmp_path / "copy")
            opened = memory._engine.opened
            snapshot = opened.cold.snapshot()
            save_base(tmp_path / "live", snapshot, opened.files)
            snapshot.close()

    run(body())
    opened = _replayed(tmp_path / "copy")
    try:
        snapshot = opened.cold.snapshot()
        save_base(tmp_path / "fresh", snapshot, opened.files)
        snapshot.close()
    finally:
        opened.abandon()
    (live,) = (tmp_path / "live").iterdir()
    (fresh,) = (tmp_path / "fresh").iterdir()
    assert live.name == fresh.name
    assert live.read_bytes() == fresh.read_bytes()


def _replayed(path):
    from nt_memory.clock import StoreClock, SystemClock
    from nt_memory.system.opening import open_store

    config = MemoryConfig(storage_path=path, history=3)
    return open_store(config, StoreClock(SystemClock()), read_only=False)


def test_coordination_and_requests_outlive_the_views(store, run):
    """Locks, ballots, the electorate and remembered requests are part of the base."""

    async def body():
        async with MemorySystem.open(store) as memory:
            token = await memory.acquire_lock("desk")
            await memory.consensus.register_agent("a")
            await memory.consensus.register_agent("b", weight=2)
            proposal = await memory.consensus.submit_proposal(Proposal("a", {"buy": 1}))
            await memory.consensus.vote(Vote(proposal, "a", approve=True))
            revision = await memory.put("a", "once", 1, request_id="r1")
            await memory.compact()
            assert await memory.put("a", "k", 1, fence=token) > revision
            assert await memory.put("a", "once", 2, request_id="r1") == revision
        lose_views(store)
        async with MemorySystem.open(store) as memory:
            assert await memory.put("a", "once", 2, request_id="r1") == revision
            assert (await memory.acquire_lock("desk")).fence > token.fence
            kept = await memory.consensus.get_proposal(proposal)
            assert kept is not None
            decided = await memory.consensus.vote(Vote(proposal, "b", approve=True))
            assert type(decided).__name__ == "Approved"

    run(body())


def test_a_follower_goes_on_over_a_compaction(store, run):
    """It notices that the views were exchanged, and misses nothing."""

    async def body():
        async with (
            MemorySystem.open(store) as writer,
            MemorySystem.open(store, read_only=True) as follower,
        ):
            watch = follower.watch("a")
            pin = follower.pin("a", "k")
            for n in range(20):
                await writer.put("a", "k", n)
                # The writer does not know of feeds elsewhere: they must not lag behind the base.
                assert (await anext(watch)).record.value == n
                if n % 5 == 4:
                    await writer.compact()
            assert pin.value == 19
            with pytest.raises(ReadOnlyError):
                await follower.compact()

    run(body())


def test_a_failed_compaction_changes_nothing(store, run, monkeypatch):
    """Whatever step fails, the store goes on as before, and the next one succeeds."""

    def fail(*_, **__):
        raise StorageFullError("no space left")

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            before = await everything(memory)
            for step in ("save_base", "build_views", "catch_up"):
                with monkeypatch.context() as patched:
                    patched.setattr(compactor, step, fail)
                    with pytest.raises(StorageFullError):
                        await memory.compact()
                assert await everything(memory) == before
                await memory.put("b", "after", step)
                assert not (store / "views.new").exists()
                before = await everything(memory)
            await memory.compact()
            assert await everything(memory) == before

    run(body())


@pytest.mark.parametrize("step", ["prepare", "swap", "clean_up"])
def test_a_cancelled_caller_does_not_stop_it(store, run, monkeypatch, step):
    """The compaction goes on by itself, and close waits for it."""

    async def body():
        memory = await MemorySystem.open(store)
        await fill(memory)
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        original = getattr(Compactor, step)

        def cancel_then(self):
            loop.call_soon_threadsafe(waiting.cancel)
            original(self)

        monkeypatch.setattr(Compactor, step, cancel_then)
        waiting = asyncio.ensure_future(memory.compact())
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert task is not None
        before = await everything(memory)
        await memory.close()
        assert len(list_bases(store / "base")) == 1
        assert len(segments(store)) == 1
        async with MemorySystem.open(store) as memory:
            assert await everything(memory) == before

    run(body())


def test_a_crash_between_the_two_renames(store, run):
    """No views at all: they are rebuilt from the base that was just written."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            await memory.compact()
            await memory.put("a", "k1", "last")
            before = await everything(memory)
        (store / "views").rename(store / "views.old")
        shutil.copytree(store / "views.old", store / "views.new")
        (store / "base" / "00000000000000000001.new").write_bytes(b"half a base")
        async with MemorySystem.open(store) as memory:
            assert await everything(memory) == before
        assert sorted(path.name for path in store.iterdir() if "views" in path.name) == ["views"]
        assert len(list((store / "base").iterdir())) == 1

    run(body())


def test_views_older_than_the_base_are_rebuilt(store, run, tmp_path):
    """Such as those of a backup, put back beside a newer journal."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
        shutil.copytree(store / "views", tmp_path / "views")
        async with MemorySystem.open(store) as memory:
            await memory.put("a", "k1", "new")
            await memory.compact()
            before = await everything(memory)
        shutil.rmtree(store / "views")
        shutil.copytree(tmp_path / "views", store / "views")
        async with MemorySystem.open(store) as memory:
            assert await everything(memory) == before

    run(body())


def test_a_damaged_base_is_named(store, run):
    """When the views are gone too, nothing is made up for it."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            await memory.compact()
        lose_views(store)
        (path,) = (store / "base").iterdir()
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(CorruptionError, match=rf"{path.name}.*block \d+"):
            await MemorySystem.open(store)

    run(body())


def test_damaged_views_do_not_become_the_base(store, run):
    """A row that is missing from a table is noticed before the journal is dropped."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            size = memory.stats().journal_bytes
            files = memory._engine.opened.files
            with files.path(0).open("r+b") as file:
                file.truncate(100)
            with pytest.raises(CorruptionError):
                await memory.compact()
            assert memory.stats().journal_bytes >= size
            assert not list((store / "base").iterdir())

    run(body())


def test_a_damaged_large_value_does_not_become_the_base(store, run):
    """Of a large row the views cover the ends; what lies between is noticed before the journal goes."""
    value = np.random.default_rng(1).bytes(40_000)

    async def body():
        async with MemorySystem.open(store) as memory:
            await memory.put("a", "large", value)
            path = store / "views" / "data.mdb"
            data = path.read_bytes()
            with path.open("r+b") as file:
                for at in (place.start() for place in re.finditer(re.escape(value[:64]), data)):
                    file.seek(at + 20_000)
                    file.write(b"damaged!")
            with pytest.raises(CorruptionError):
                await memory.compact()
            assert not list((store / "base").iterdir())
        assert any("versions" in damage or "value" in damage for damage in verify(store).damage)
        lose_views(store)
        async with MemorySystem.open(store) as memory:
            assert await memory.get("a", "large") == value

    run(body())


def test_compacting_twice_at_once_is_one_compaction(store, run):
    """Whoever comes second waits for the one that runs."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            first, second = await asyncio.gather(memory.compact(), memory.compact())
            assert first is second

    run(body())


def test_relaxed_durability_never_lets_the_base_run_ahead(store, run):
    """The base covers only what the journal has on disk."""

    async def body():
        config = MemoryConfig(storage_path=store, durability="relaxed")
        async with MemorySystem.open(config) as memory:
            await fill(memory)
            await memory.compact()
            await memory.put("a", "k1", "last")
        lose_views(store)
        async with MemorySystem.open(config) as memory:
            assert await memory.get("a", "k1") == "last"

    run(body())


def test_a_backtest_compacts_too(store, run):
    """Its now is part of the base."""

    async def body():
        config = MemoryConfig(storage_path=store, timeline="backtest")
        start = ManualClock().now()
        async with MemorySystem.open(config) as memory:
            await memory.compact()  # before it was ever advanced
            await memory.timeline.advance(start)
            await memory.put("a", "k", 1)
            await memory.timeline.advance(start + timedelta(days=1))
            await memory.compact()
        lose_views(store)
        async with MemorySystem.open(config) as memory:
            assert memory.timeline.now == start + timedelta(days=1)
            assert await memory.get("a", "k", as_of=start) == 1
            with pytest.raises(InvalidInputError):
                memory.at(10_000)

    run(body())


def test_the_journal_goes_also_while_others_write(store, run):
    """What is written while it begins does not keep the older segments, which nobody asks for."""

    async def body():
        async with MemorySystem.open(store) as memory:
            for n in range(20):
                await memory.put("a", "k", n)
            engine, loop = memory._engine, asyncio.get_running_loop()
            begin = engine.journal.begin_segment

            def write_first():
                asyncio.run_coroutine_threadsafe(memory.put("a", "k", "meanwhile"), loop).result(9)
                begin()

            engine.journal.begin_segment = write_first
            done = await memory.compact()
            assert done.oldest_revision == memory.revision + 1
            (segment,) = segments(store)
            assert int(segment.removesuffix(".log")) == engine.sequence + 1

    run(body())
