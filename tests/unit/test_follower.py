"""A second instance with `read_only=True` follows the same files, in this process or another.

These tests run on the system clock, because that is what a follower polls by. They wait for what
must come through `wait_for` and watchers, under deadlines that only a failure reaches.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from nt_memory import ManualClock, MemorySystem
from nt_memory.clock import turn
from nt_memory.errors import NtMemoryError, ReadOnlyError


@asynccontextmanager
async def pair(store):
    """A writer and a follower of one store."""
    async with (
        MemorySystem.open(store) as writer,
        MemorySystem.open(store, read_only=True) as follower,
    ):
        yield writer, follower


def test_a_follower_sees_what_is_written(store, run):
    """Puts, deletes and transactions, in the order of the writer, none skipped."""

    async def body():
        async with pair(store) as (writer, follower):
            for n in range(30):
                revision = await writer.put("a", "k", n)
                await follower.wait_for(revision)
                assert await follower.get("a", "k") == n
                record = await follower.get_record("a", "k")
                assert record == await writer.get_record("a", "k")
            async with writer.transaction() as tx:
                tx.put("a", "x", 1)
                tx.delete("a", "k")
            await follower.wait_for(writer.revision)
            assert await follower.get_many([("a", "x"), ("a", "k")]) == [1, None]

    run(body())


def test_a_follower_starts_with_what_is_there(store, run):
    """State, history and searches of before it was opened."""

    async def body():
        async with MemorySystem.open(store) as writer:
            await writer.put("a", "k", 1)
            await writer.put("a", "k", 2)
            await writer.observe("a", [1.0, 0.0], "seen", key="obs")
            async with MemorySystem.open(store, read_only=True) as follower:
                assert follower.revision == writer.revision
                assert await follower.get("a", "k") == 2
                assert [r.value async for r in follower.history("a", "k")] == [2, 1]
                assert [r.key async for r in follower.scan("a")] == ["k", "obs"]
                (hit,) = await follower.search_similar("a", [1.0, 0.0])
                assert (hit.key, hit.data) == ("obs", "seen")

    run(body())


def test_a_follower_of_a_closed_store(store, run):
    """Nobody needs to be writing."""

    async def body():
        async with MemorySystem.open(store) as writer:
            await writer.put("a", "k", 1)
        async with MemorySystem.open(store, read_only=True) as follower:
            assert await follower.get("a", "k") == 1

    run(body())


def test_pins_of_a_follower_follow(store, run):
    """Value and record swap together, through puts, a delete and an expiry."""

    async def body():
        async with pair(store) as (writer, follower):
            pin = follower.pin("a", "k")
            assert pin.value is None
            for n in range(10):
                revision = await writer.put("a", "k", n)
                await follower.wait_for(revision)
                assert (pin.value, pin.record.revision) == (n, revision)
            revision = await writer.delete("a", "k")
            await follower.wait_for(revision)
            assert (pin.value, pin.record) == (None, None)
            await writer.put("a", "k", 1, ttl=0.05)
            watcher = follower.watch("a", after=revision)
            kinds = [(await anext(watcher)).kind for _ in range(2)]
            assert kinds == ["put", "expire"]
            assert pin.value is None

    run(body())


def test_peek_of_a_follower_is_never_stale(store, run):
    """What became hot there is refreshed by what it follows."""

    async def body():
        async with pair(store) as (writer, follower):
            for n in range(20):
                await follower.wait_for(await writer.put("a", "k", n))
                assert await follower.get("a", "k") == n
                assert follower.peek("a", "k") == n

    run(body())


def test_a_watcher_of_a_follower_misses_nothing(store, run):
    """Bursts included: every change once, in order."""

    async def body():
        async with pair(store) as (writer, follower):
            watcher = follower.watch("a")
            await asyncio.gather(*(writer.put("a", f"k{n}", n) for n in range(500)))
            changes = [await anext(watcher) for _ in range(500)]
            assert [change.record.value for change in changes] == list(range(500))
            revisions = [change.revision for change in changes]
            assert revisions == sorted(revisions)

    run(body())


def test_a_follower_searches_what_it_follows(store, run):
    """New, replaced and deleted observations, a new agent and its partition included."""
    rows = np.random.default_rng(5).normal(size=(60, 8))

    async def body():
        async with pair(store) as (writer, follower):
            await writer.observe_many("a", rows[:30], keys=[f"k{n:02}" for n in range(30)])
            await follower.wait_for(writer.revision)
            query = rows[7]
            expected = await writer.search_similar("a", query, top_k=40)
            assert await follower.search_similar("a", query, top_k=40) == expected
            await writer.observe_many("a", rows[30:], keys=[f"k{n:02}" for n in range(30, 60)])
            await writer.observe("a", rows[0], "replaced", key="k05")
            await writer.delete("a", "k07")
            await writer.observe("new", rows[1, :3], "other", key="o")
            await follower.wait_for(writer.revision)
            expected = await writer.search_similar("a", query, top_k=99)
            assert len(expected) == 59
            assert await follower.search_similar("a", query, top_k=99) == expected
            assert len(await follower.search_similar("new", rows[1, :3])) == 1

    run(body())


def test_a_follower_searches_by_tag(store, run):
    """Also for tags that came while it followed."""

    async def body():
        async with pair(store) as (writer, follower):
            await writer.observe("a", [1.0, 0.0], key="k1", tags=("t",))
            await follower.wait_for(writer.revision)
            hits = await follower.search_similar("a", [1.0, 0.0], tags=["t"])
            assert [hit.key for hit in hits] == ["k1"]
            await writer.observe("a", [1.0, 0.0], key="k2", tags=("t",))
            await follower.wait_for(writer.revision)
            hits = await follower.search_similar("a", [1.0, 0.0], tags=["t"])
            assert [hit.key for hit in hits] == ["k1", "k2"]

    run(body())


def test_a_follower_of_a_backtest_shares_its_now(store, run):
    """`advance` reaches it, and its reads are as of then."""
    from datetime import UTC, datetime, timedelta

    from nt_memory import MemoryConfig

    day = datetime(2020, 3, 2, tzinfo=UTC)

    async def body():
        config = MemoryConfig(storage_path=store, timeline="backtest")
        async with (
            MemorySystem.open(config) as writer,
            MemorySystem.open(config, read_only=True) as follower,
        ):
            await writer.timeline.advance(day)
            await writer.put("a", "k", 1, ttl=86_400)
            await follower.wait_for(writer.revision)
            assert follower.timeline.now == day
            assert await follower.get("a", "k") == 1
            await follower.wait_for(await writer.timeline.advance(day + timedelta(days=2)))
            assert follower.timeline.now == day + timedelta(days=2)
            assert await follower.get("a", "k") is None

    run(body())


def test_a_follower_reports_the_same_decision(store, run):
    """Proposals, votes and results are visible there."""
    from nt_memory import Approved, Proposal, Vote

    async def body():
        async with pair(store) as (writer, follower):
            await writer.consensus.register_agent("a")
            proposal = await writer.consensus.submit_proposal(Proposal("a", {"x": 1}))
            await writer.consensus.vote(Vote(proposal, "a", approve=True))
            await follower.wait_for(writer.revision)
            assert await follower.consensus.get_result(proposal) == Approved()
            expected = await writer.consensus.get_proposal(proposal)
            assert await follower.consensus.get_proposal(proposal) == expected

    run(body())


def test_a_follower_cannot_write(store, run):
    """ReadOnlyError, and the writer is not disturbed."""

    async def body():
        async with pair(store) as (writer, follower):
            before = writer.revision
            with pytest.raises(ReadOnlyError):
                await follower.put("a", "k", 1)
            with pytest.raises(ReadOnlyError):
                await follower.observe("a", [1.0])
            with pytest.raises(ReadOnlyError):
                await follower.acquire_lock("book")
            assert writer.revision == before
            await writer.put("a", "k", 2)

    run(body())


def test_several_followers(store, run):
    """Each at its own pace; closing one leaves the others and the writer alone."""

    async def body():
        async with pair(store) as (writer, follower):
            other = await MemorySystem.open(store, read_only=True)
            await other.wait_for(await writer.put("a", "k", 1))
            await other.close()
            revision = await writer.put("a", "k", 2)
            await follower.wait_for(revision)
            assert await follower.get("a", "k") == 2

    run(body())


FOLLOWER = """
import asyncio, sys
from nt_memory import MemorySystem
async def main():
    async with MemorySystem.open(sys.argv[1], read_only=True) as memory:
        pin = memory.pin("a", "k")
        watcher = memory.watch("a")
        print("open", flush=True)
        async for change in watcher:
            print(change.kind, change.key, change.revision, pin.value, flush=True)
            if change.key == "end":
                return
asyncio.run(main())
"""


def test_a_follower_in_another_process(store, run):
    """It is told every change, and its pin has moved by then."""
    import nt_memory

    source = str(Path(nt_memory.__file__).parent.parent)

    async def body():
        async with MemorySystem.open(store) as writer:
            await writer.put("a", "before", 0)
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                FOLLOWER,
                str(store),
                env={**os.environ, "PYTHONPATH": source},
                stdout=asyncio.subprocess.PIPE,
            )
            assert (await child.stdout.readline()).decode() == "open\n"
            for n in range(5):
                revision = await writer.put("a", "k", n)
                assert (await child.stdout.readline()).decode() == f"put k {revision} {n}\n"
            revision = await writer.delete("a", "k")
            assert (await child.stdout.readline()).decode() == f"delete k {revision} None\n"
            await writer.put("a", "end", 0)
            await child.stdout.readline()
            assert await child.wait() == 0

    run(body())


WRITER = """
import asyncio, os, sys
from nt_memory import MemorySystem
async def main():
    async with MemorySystem.open(sys.argv[1]) as memory:
        print(await memory.put("a", "k", int(sys.argv[2])), flush=True)
        sys.stdin.readline()
        os._exit(9)
asyncio.run(main())
"""


def test_a_follower_outlives_its_writer(store, run):
    """The writer dies without closing; another takes over; the follower goes on."""
    import nt_memory

    source = str(Path(nt_memory.__file__).parent.parent)

    async def start(number):
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            WRITER,
            str(store),
            str(number),
            env={**os.environ, "PYTHONPATH": source},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return child, int(await child.stdout.readline())

    async def end(child):
        child.stdin.write(b"\n")
        await child.stdin.drain()
        assert await child.wait() == 9

    async def body():
        child, revision = await start(1)
        async with MemorySystem.open(store, read_only=True) as follower:
            assert follower.revision >= revision
            await end(child)
            assert await follower.get("a", "k") == 1
            child, revision = await start(2)
            await follower.wait_for(revision)
            assert await follower.get("a", "k") == 2
            await end(child)

    run(body())


def test_a_follower_of_nothing(store, run):
    """There must be a store to follow."""

    async def body():
        with pytest.raises(NtMemoryError):
            await MemorySystem.open(store, read_only=True)

    run(body())


def test_a_follower_that_was_held_up_goes_on_after_a_compaction(store, run):
    """It reads the views that were replaced to their end, and then the new ones."""

    async def body():
        clock = ManualClock()
        async with (
            MemorySystem.open(store) as writer,
            MemorySystem.open(store, clock=clock, read_only=True) as follower,
        ):
            pin = follower.pin("a", "k")
            for n in range(50):
                await writer.put("a", "k", n)
            await writer.observe("a", [1.0, 2.0], "seen", key="o")
            await writer.compact()
            for n in range(50, 100):
                await writer.put("a", "k", n)
            waiting = asyncio.ensure_future(follower.wait_for(writer.revision))
            while not waiting.done():  # until now its clock stood still, and so did it
                clock.advance(1.0)
                await turn()
            await waiting
            assert pin.value == 99
            assert await follower.get("a", "k") == 99
            (hit,) = await follower.search_similar("a", [1.0, 2.0], 1)
            assert hit.data == "seen"

    run(body())
