"""Entries are folded while the disk writes them, and seen only when it has."""

from __future__ import annotations

import asyncio
import errno

import pytest

from nt_memory import MemorySystem
from nt_memory.errors import StorageError, StorageFullError
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


@pytest.mark.parametrize("when", ["prepare", "commit"])
def test_views_that_are_full_for_a_moment_take_it_later(store, run, monkeypatch, when):
    """Whether that is noticed before the entry is durable or after."""

    async def body():
        async with MemorySystem.open(store) as memory:
            cold = memory._engine.opened.cold
            name = "begin" if when == "prepare" else "commit"
            real, failures = getattr(cold, name), 2

            def fail_for_a_moment(*args):
                nonlocal failures
                if failures:
                    failures -= 1
                    raise StorageFullError("no space left for the views")
                return real(*args)

            monkeypatch.setattr(cold, name, fail_for_a_moment)
            revisions = [await memory.put("a", "k", n) for n in range(3)]
            assert failures == 0
            assert revisions == [revisions[0], revisions[0] + 1, revisions[0] + 2]
            assert [one.value async for one in memory.history("a", "k")] == [2, 1, 0]
        assert verify(store).is_ok

    run(body())
