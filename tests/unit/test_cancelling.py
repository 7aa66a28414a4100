"""Calls that are cancelled in mid-await leave nothing behind: no waiter, no lock, no queued byte."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest

from nt_memory import MemorySystem
from nt_memory.clock import turn
from nt_memory.system.verifying import verify

ROUND = 100


async def storm(memory, seed, count):
    """Start calls of every kind that waits, and cancel all of them within a few turns of the loop.

    Returns:
        How many were cancelled while they waited.
    """
    rng = random.Random(seed)  # noqa: S311
    rx = await memory.subscribe("t/*")
    kinds = [
        lambda n: memory.put("a", f"k{n % 50}", n),
        lambda n: memory.put("a", f"big{n % 5}", bytes(100_000)),
        lambda n: memory.get_record("a", f"k{n % 50}"),
        lambda n: memory.observe("a", np.ones(4) * (n + 1), n, key=f"o{n % 50}"),
        lambda _: memory.search_similar("a", np.ones(4), 5, exact=True),
        lambda n: grab(memory, f"r{n % 3}"),
        lambda n: hold(memory, f"r{n % 3}"),
        lambda n: transact(memory, n),
        lambda _: memory.wait_for(10**9),
        lambda _: rx.recv(),
        lambda _: rx.recv(timeout=60.0),
        lambda _: anext(memory.watch("nobody")),
        lambda _: memory.flush(),
    ]
    cancelled = 0
    for first in range(0, count, ROUND):
        numbers = range(first, min(count, first + ROUND))
        tasks = [asyncio.ensure_future(kinds[n % len(kinds)](n)) for n in numbers]
        while pending := [task for task in tasks if not task.done()]:
            for task in rng.sample(pending, min(len(pending), rng.randrange(1, 60))):
                task.cancel()
            for _ in range(rng.randrange(3)):
                await turn()
        cancelled += sum(task.cancelled() for task in tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()
    await rx.close()
    return cancelled


async def grab(memory, resource):
    token = await memory.acquire_lock(resource, timeout=60.0)
    await memory.release_lock(token)


async def hold(memory, resource):
    async with memory.lock(resource, timeout=60.0):
        await memory.wait_for(10**9)


async def transact(memory, n):
    async with memory.transaction() as tx:
        tx.put("a", "left", n)
        tx.put("a", "right", n)


async def judge(memory):
    """Nothing is left of the storm, and everything works."""
    await memory._locks.settle()
    await memory.flush()
    engine = memory._engine
    stats = memory.stats()
    assert (stats.pending_bytes, stats.subscribers, stats.lag) == (0, 0, 0)
    assert not engine.visible
    assert not memory._locks._line
    assert not memory._locks._errands
    assert not engine.journal._submissions._queue
    assert engine.writing._turn.locked() is False
    # Of what was granted to callers who never heard of it, nothing may be held.
    for n in range(3):
        assert memory._locks.inspect(f"r{n}").waiters == ()
        token = await memory.acquire_lock(f"r{n}", timeout=0.0)
        await memory.release_lock(token)
    assert memory.stats().locks == 0
    left, right = await memory.get_many([("a", "left"), ("a", "right")])
    assert left == right
    revision = await memory.put("a", "after", 1)
    await memory.wait_for(revision)
    assert await memory.get("a", "after") == 1


@pytest.mark.parametrize("seed", range(2))
def test_cancelled_calls_leave_nothing_behind(store, run, seed):
    """A thousand calls of every kind, cancelled in mid-await: no waiter is stuck, no byte queued,
    no lock held, no half of a transaction there.
    """

    async def body():
        async with MemorySystem.open(store) as memory:
            assert await storm(memory, seed, 1_000) > 300
            await judge(memory)
            # Those that wait, and were not cancelled, are this test's own.
            assert len(asyncio.all_tasks()) <= 5, asyncio.all_tasks()

    run(body())
    assert verify(store).is_ok


def test_a_wait_that_is_cancelled_is_forgotten_at_once(store, clock, run):
    """However long nothing new becomes visible, cancelled waits do not pile up."""

    async def body():
        async with MemorySystem.open(store, clock=clock) as memory:
            tasks = [asyncio.ensure_future(memory.wait_for(10**9)) for _ in range(50)]
            await turn()
            assert len(memory._engine.visible) == 50
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            assert not memory._engine.visible

    run(body())


def test_a_flush_that_is_cancelled_disturbs_nobody(store, clock, run):
    """The turn of the loop that it waited for passes without an error."""
    errors = []

    async def body():
        asyncio.get_running_loop().set_exception_handler(lambda _, what: errors.append(what))
        async with MemorySystem.open(store, clock=clock) as memory:
            draining = asyncio.ensure_future(memory._engine.drain())
            await turn()
            draining.cancel()
            await asyncio.wait([draining])
            await turn()

    run(body())
    assert errors == []


@pytest.mark.parametrize("feed", ["watch", "tail"])
def test_whoever_stops_waiting_for_a_change_gets_it_the_next_time(store, clock, run, feed):
    """Large values are read off the loop, which is time enough to lose patience in."""
    large = np.random.default_rng(3).bytes(2 << 20)

    async def body():
        async with MemorySystem.open(store, clock=clock) as memory:
            before = memory.stats().revision
            written = [await memory.put("a", "k", large[n:]) for n in range(3)]
            if feed == "watch":
                items = memory.watch("a", after=before)
            else:
                items = memory.tail(after=before)
            seen = []
            for _ in written:
                impatient = asyncio.ensure_future(anext(items))
                await turn()
                assert not impatient.done()
                impatient.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await impatient
                seen.append((await anext(items)).revision)
            assert seen == written
            assert items.revision == written[-1]

    run(body())
