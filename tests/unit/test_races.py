"""Promotions that race writes, clocks that jump, an fsync that fails: seen through the public API."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from nt_memory import MemorySystem
from nt_memory.errors import StaleFenceError, StorageError
from nt_memory.system import lookups
from nt_memory.system.verifying import verify
from nt_memory.testing.faults import FaultyFileSystem
from nt_memory.transport import segment_writer

# --- promotion --------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["put", "delete", "transaction", "nothing"])
def test_a_promotion_never_overtakes_a_newer_write(store, run, monkeypatch, change):
    """A large value is decoded off the loop; what became visible meanwhile is not hidden by it."""
    may_go, is_decoding = threading.Event(), threading.Event()
    real = lookups.to_record

    def slowly(stored, *rest):
        is_decoding.set()
        assert may_go.wait(20)
        return real(stored, *rest)

    async def body():
        async with MemorySystem.open(store) as memory:
            old = os.urandom(256_000)  # cannot be compressed, so it is decoded off the loop
            await memory.put("a", "k", old)
            memory._engine.hot.clear()
            monkeypatch.setattr(lookups, "to_record", slowly)
            reading = asyncio.ensure_future(memory.get("a", "k"))
            assert await asyncio.to_thread(is_decoding.wait, 20)
            monkeypatch.setattr(lookups, "to_record", real)
            if change == "put":
                await memory.put("a", "k", "new")
            elif change == "delete":
                await memory.delete("a", "k")
            elif change == "transaction":
                async with memory.transaction() as tx:
                    tx.put("a", "k", "new")
                    tx.put("a", "l", "new")
            may_go.set()
            assert await reading == old, "it was current when it was asked for"
            wanted = {"put": "new", "transaction": "new", "delete": None, "nothing": old}[change]
            assert memory.peek("a", "k") == wanted
            assert await memory.get("a", "k") == wanted

    run(body())


# --- clocks -----------------------------------------------------------------------------------


@pytest.fixture
def wall(monkeypatch):
    """`wall(seconds)`: the operating system's wall clock jumps; monotonic time does not."""
    real, moved = time.time_ns, [0]
    monkeypatch.setattr(time, "time_ns", lambda: real() + moved[0])

    def jump(seconds):
        moved[0] += int(seconds * 1e9)

    jump.now = lambda: datetime.fromtimestamp(time.time_ns() / 1e9, UTC)
    return jump


async def put_until_refused(memory, token):
    while True:
        await memory.put("a", "k", 2, fence=token)


@pytest.mark.parametrize("seconds", [-3600.0, -1.0, 1.0, 3600.0])
def test_a_jump_of_the_wall_clock_moves_nothing(store, run, wall, seconds):
    """A lease is neither frozen nor lost, a ttl neither early nor endless; `stats` tells of it."""

    async def body():
        async with MemorySystem.open(store) as memory:
            token = await memory.acquire_lock("r", lease=20.0)
            await memory.put("a", "mortal", 1, ttl=20.0)
            before = memory.timeline.now
            wall(seconds)
            assert abs((memory.timeline.now - before).total_seconds()) < 0.5
            assert memory.stats().clock_jump_s == pytest.approx(seconds, abs=0.5)
            assert not token.lost.is_set()
            assert 10.0 < token.lost.left_s <= 20.0
            await memory.put("a", "k", 1, fence=token)
            assert await memory.get("a", "mortal") == 1
            await memory.renew_lock(token)
            short = await memory.acquire_lock("s", lease=0.05)
            assert await short.lost.wait()
            # The holder is told early, the lease ends by entry time: soon, whatever the wall says.
            with pytest.raises(StaleFenceError):
                await asyncio.wait_for(put_until_refused(memory, short), 10.0)
            await memory.release_lock(token)

    run(body())


def test_now_is_no_future_after_a_jump_back(store, run, wall):
    """A writer that stamps what it knows with the wall clock goes on, also across a reopening."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await memory.put("a", "k", 1, known_at=wall.now())
            wall(-3600.0)
            revision = await memory.put("a", "k", 2, known_at=wall.now())
            # It says that it was known an hour before the other: history, not the present.
            assert await memory.get("a", "k") == 1
            assert (await memory.get_record("a", "k", as_of=wall.now())).revision == revision
        async with MemorySystem.open(store) as memory:
            await memory.put("a", "l", 3, known_at=wall.now())
            assert await memory.get("a", "l") == 3
            await memory.put("a", "k", 4)
            assert await memory.get("a", "k") == 4
        wall(7200.0)
        async with MemorySystem.open(store) as memory:
            await memory.put("a", "k", 5, known_at=wall.now() - timedelta(seconds=1))
            assert await memory.get("a", "k") == 5

    run(body())


# --- fsync ------------------------------------------------------------------------------------


def test_a_failed_fsync_stops_the_store_for_good(store, run, monkeypatch):
    """The put that met it and all later ones fail, even once the disk works again; reads go on;
    nothing acknowledged is lost, and what failed is not there after a reopen.
    """
    files = FaultyFileSystem()
    monkeypatch.setattr(segment_writer, "OsFileSystem", lambda: files)

    async def body():
        memory = await MemorySystem.open(store)
        await memory.put("a", "k", 1)
        files.sync_error = errno.EIO
        with pytest.raises(StorageError):
            await memory.put("a", "k", 2)
        files.sync_error = None
        for _ in range(2):
            with pytest.raises(StorageError):
                await memory.put("a", "k", 3)
        with pytest.raises(StorageError):
            await memory.flush()
        memory._engine.hot.clear()
        assert await memory.get("a", "k") == 1
        assert [record.value async for record in memory.scan("a")] == [1]
        await memory.close()
        assert verify(store).is_ok
        async with MemorySystem.open(store) as memory:
            assert await memory.get("a", "k") == 1
            await memory.put("a", "k", 4)

    run(body())
