"""Writers of observations wait once the index is far behind."""

from __future__ import annotations

import asyncio
import functools
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.clock import turn
from nt_memory.entries import ObserveMany
from nt_memory.errors import ClosedError
from nt_memory.replica import partition_name
from nt_memory.system import engine
from nt_memory.system.admitting import paced
from nt_memory.tiers.vectors import Tuning, VectorTier
from nt_memory.tiers.vectors.index import Graph

DIM = 16
TIMEOUT_S = 20.0


@pytest.fixture
def slow_index(monkeypatch):
    """Graphs grow only while `go_on` is set, and the budget is 100 rows."""
    tuning = Tuning(scan_values=DIM * 20)
    tuned = functools.partial(VectorTier, tuning=tuning, max_bytes=4 * 100 * 4 * DIM)

    def small(*args, max_bytes, **options):
        assert max_bytes > 0
        return tuned(*args, **options)

    monkeypatch.setattr(engine, "VectorTier", small)
    go_on = threading.Event()
    add = Graph.add

    def slow(self, vectors, *, threads=1):
        assert go_on.wait(TIMEOUT_S)
        add(self, vectors, threads=threads)

    monkeypatch.setattr(Graph, "add", slow)
    yield go_on
    go_on.set()


def vectors(rows, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, DIM)).astype("f4")


async def some_turns():
    for _ in range(50):
        await turn()


def test_observers_wait_and_go_on(tmp_path, run, slow_index):
    """Past the budget an observation is not written until the index has got on; others are."""

    async def body():
        config = MemoryConfig(storage_path=tmp_path / "store")
        async with MemorySystem.open(config) as memory:
            await memory.observe_many("a", vectors(150))
            waiting = [
                asyncio.create_task(memory.observe("a", vectors(1, 1)[0], key="late")),
                asyncio.create_task(memory.observe_many("a", vectors(5, 2))),
            ]
            await some_turns()
            await memory.observe("b", vectors(1)[0], key="other")
            await memory.put("a", "key", 1)
            assert not any(task.done() for task in waiting)
            stats = memory.stats()
            assert stats.l2.entries == 151
            assert stats.l2.pending == stats.l2_pending == 150
            slow_index.set()
            await asyncio.gather(*waiting)
            hits = await memory.search_similar("a", vectors(1, 1)[0], 1)
            assert [hit.key for hit in hits] == ["late"]
            assert memory.stats().l2.entries == 157

    run(body())


def test_waiting_can_be_cancelled_and_ends_with_the_store(tmp_path, run, slow_index):
    """A cancelled observation is not written; closing lets go of those that wait."""

    async def body():
        config = MemoryConfig(storage_path=tmp_path / "store")
        memory = await MemorySystem.open(config)
        await memory.observe_many("a", vectors(150))
        given_up = asyncio.create_task(memory.observe("a", vectors(1, 1)[0], key="late"))
        waiting = asyncio.create_task(memory.observe("a", vectors(1, 2)[0], key="later"))
        await some_turns()
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        closing = asyncio.create_task(memory.close())
        await some_turns()
        slow_index.set()
        await closing
        with pytest.raises(ClosedError):
            await waiting
        async with MemorySystem.open(config) as again:
            assert again.stats().l2.entries == 150

    run(body())


class Turnstile:
    """Stands for an engine whose index has no room when it is first asked, and has it after that."""

    def __init__(self):
        self.rows = SimpleNamespace(partitions={partition_name("a", ""): 7})
        self.vectors = self
        self.answers = iter([False])
        self.waiting = []
        self.submitted = []

    def has_room(self, partition):
        assert partition == 7
        return next(self.answers, True)

    def wait_for_room(self, partition, rows, callback):
        assert partition == 7
        self.waiting.append((rows, callback))

    async def submit(self, entry):
        self.submitted.append(entry)


def test_the_chunks_of_one_call_stay_in_order(run):
    """One for which there is room does not overtake one that was told to wait."""

    async def body():
        engine = Turnstile()
        submit = paced(engine, None)
        entries = [
            ObserveMany("a", (f"k{number}",) * 5, (b"",) * 5, b"", None, (), ())
            for number in (1, 2)
        ]
        tasks = [asyncio.create_task(submit((0, entry))) for entry in entries]
        await some_turns()
        assert engine.submitted == []
        [(rows, callback)] = engine.waiting
        assert rows == 5
        await asyncio.to_thread(callback)
        await asyncio.gather(*tasks)
        assert engine.submitted == entries

    run(body())
