"""Entries are folded while the disk writes them, and seen only when it has."""

from __future__ import annotations

import asyncio
import errno

import pytest

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.clock import turn
from nt_memory.errors import ConflictError, CorruptionError, StorageError, StorageFullError
from nt_memory.replica.quotas import Quotas
from nt_memory.system import writing
from nt_memory.system.verifying import verify
from nt_memory.testing.faults import FaultyFileSystem
from nt_memory.transport import segment_writer


@pytest.fixture
def files(monkeypatch):
    files = FaultyFileSystem()
    monkeypatch.setattr(segment_writer, "OsFileSystem", lambda: files)
    return files


async def contents(memory):
    return {record.key: record.value async for record in memory.scan("a")}


def test_nothing_shows_before_it_is_durable(store, run, files):
    """Neither in what can be read here, nor in the views."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await memory.put("a", "before", 1)
            revision = memory.revision
            files.stall_sync()
            put = asyncio.ensure_future(memory.put("a", "k", 2))
            assert await asyncio.to_thread(files.wait_stalled)
            try:
                assert memory._engine.writing._prepared is not None
                assert await contents(memory) == {"before": 1}
                fresh = memory._engine.opened.cold.snapshot()
                assert fresh.number(b"revision") == revision
                fresh.close()
                assert not put.done()
            finally:
                files.resume_sync()
            assert await put == revision + 1
            assert await contents(memory) == {"before": 1, "k": 2}

    run(body())


def test_what_an_fsync_failed_to_keep_was_never_there(store, run, files):
    """It is told to nobody, seen by nobody, and not found by the next open."""

    async def body():
        memory = await MemorySystem.open(store)
        await memory.put("a", "before", 1)
        files.sync_error = errno.EIO
        with pytest.raises(StorageError):
            await memory.put("a", "k", 2)
        assert memory._engine.writing._prepared is None
        memory._engine.opened.cold.begin().close()  # nothing is left open
        assert await contents(memory) == {"before": 1}
        with pytest.raises(StorageError):
            await memory.put("a", "k", 3)
        files.sync_error = None
        await memory.close()
        async with MemorySystem.open(store) as memory:
            assert await contents(memory) == {"before": 1}
            await memory.put("a", "after", 4)
        assert verify(store).is_ok

    run(body())


def fail_for_a_moment(monkeypatch, owner, name, error):
    """The next two calls raise `error`, and do nothing; how many are still to fail."""
    real, left = getattr(owner, name), [error, error]

    def fail(*args):
        if left:
            raise left.pop()
        return real(*args)

    monkeypatch.setattr(owner, name, fail)
    return left


@pytest.mark.parametrize("where", ["begin", "fold", "commit"])
def test_views_that_are_full_for_a_moment_take_it_later(store, run, monkeypatch, where):
    """Noticed before the entry is durable, and before or after some of it was folded, or after that."""

    async def body():
        async with MemorySystem.open(store) as memory:
            cold = memory._engine.opened.cold
            owner, name = (Quotas, "save") if where == "fold" else (cold, where)
            full = StorageFullError("no space left for the views")
            left = fail_for_a_moment(monkeypatch, owner, name, full)
            first = memory.revision
            await memory.observe("a", [1.0, 0.0], 0, key="k")
            assert not left
            assert memory.revision == first + 1
            await memory.observe("a", [0.0, 1.0], 1, key="k")
            assert await memory.put("a", "plain", 2) == first + 3
            assert [one.value async for one in memory.history("a", "k")] == [1, 0]
            assert [hit.data for hit in await memory.search_similar("a", [1.0, 0.0])] == [1]
        assert verify(store).is_ok

    run(body())


@pytest.mark.parametrize("error", [CorruptionError("a row"), OSError(errno.EIO, "of some kind")])
def test_what_fails_only_while_it_is_prepared_fails_nobody(store, run, monkeypatch, error):
    """Whatever it was: once the entry is durable it is folded as if nothing had been tried."""

    async def body():
        async with MemorySystem.open(store) as memory:
            left = fail_for_a_moment(monkeypatch, Quotas, "save", error)
            left.pop()
            revision = memory.revision
            await memory.observe("a", [1.0, 0.0], 1, key="k")
            assert not left
            await memory.observe("a", [0.0, 1.0], 2, key="l")
            assert await memory.put("a", "plain", 3) == revision + 3
        assert verify(store).is_ok

    run(body())


@pytest.mark.parametrize("is_kept", [True, False])
def test_callers_are_told_in_the_order_of_their_entries(store, run, files, is_kept):
    """Those that were accepted and those that were refused, and all of them when the disk fails."""

    async def body():
        memory = await MemorySystem.open(store)
        told = []
        files.stall_sync()
        puts = [asyncio.ensure_future(memory.put("a", "first", 0))]
        assert await asyncio.to_thread(files.wait_stalled)
        for n in range(6):
            puts.append(asyncio.ensure_future(memory.put("a", "k", n, expect=7 if n % 2 else None)))
            await turn()
        for n, put in enumerate(puts):
            put.add_done_callback(lambda _, n=n: told.append(n))
        files.sync_error = None if is_kept else errno.EIO
        files.resume_sync()
        results = await asyncio.gather(*puts, return_exceptions=True)
        assert told == list(range(7))
        refused = ConflictError if is_kept else StorageError
        kinds = [int if is_kept and n in {0, 1, 3, 5} else refused for n in range(7)]
        assert all(isinstance(result, kind) for result, kind in zip(results, kinds, strict=True))
        files.sync_error = None
        await memory.close()

    run(body())


@pytest.mark.parametrize("is_kept", [True, False])
def test_rules_hold_when_they_are_durable(store, run, files, is_kept):
    """What the swarm agreed on is told when everybody will find it, and not if nobody will."""

    async def body():
        memory = await MemorySystem.open(store)
        files.stall_sync()
        rule = asyncio.ensure_future(memory.set_retention("a", max_versions=3))
        assert await asyncio.to_thread(files.wait_stalled)
        try:
            assert memory._engine.writing._prepared is not None
            assert memory.retention("a").max_versions is None
        finally:
            files.sync_error = None if is_kept else errno.EIO
            files.resume_sync()
        await asyncio.wait([rule])
        assert (rule.exception() is None) == is_kept
        assert memory.retention("a").max_versions == (3 if is_kept else None)
        files.sync_error = None
        await memory.close()

    run(body())


def test_relaxed_keeps_its_bound_while_the_views_are_full(store, clock, run, files, monkeypatch):
    """What was acknowledged is on disk 50 ms later, however long the next entry cannot be applied."""
    monkeypatch.setattr(writing, "FULL_RETRY_S", 1e9)

    async def body():
        config = MemoryConfig(storage_path=store, durability="relaxed")
        async with MemorySystem.open(config, clock=clock) as memory:
            await memory.put("a", "k", 1)
            await memory.flush()
            cold = memory._engine.opened.cold
            full = StorageFullError("no space left for the views")
            fail_for_a_moment(monkeypatch, cold, "commit", full).pop()
            held = asyncio.ensure_future(memory.put("a", "k", 2))
            while memory._engine.writing.fullness is None:
                await asyncio.wait([held], timeout=0.001)
            syncs = files.syncs
            clock.advance(0.06)
            while files.syncs == syncs:
                await asyncio.wait([held], timeout=0.001)
            assert not held.done()
        assert await held
        async with MemorySystem.open(config, clock=clock) as memory:
            assert await contents(memory) == {"k": 2}

    run(body())
