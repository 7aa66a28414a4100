"""What an engine once got wrong, kept right: opening, closing, and following what was written.

Each test makes the order of events that did the damage happen for certain: by a clock that it
moves, by an event that a thread waits for, or by doing one thing from inside another.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import nt_memory
from nt_memory import MemoryConfig, MemorySystem
from nt_memory.clock import turn
from nt_memory.entries import STATE
from nt_memory.errors import ClosedError, StorageError, StoreInUseError
from nt_memory.system import choosing as choosing_module
from nt_memory.system import engine as engine_module
from nt_memory.system import opening
from nt_memory.system.repairing import repair
from nt_memory.system.verifying import verify
from nt_memory.testing.faults import FaultyFileSystem
from nt_memory.tiers.layout import name_of
from nt_memory.transport.local import LocalJournal

DAMAGE_S = 5.0  # only a failure waits so long


# --- opening and closing ----------------------------------------------------------------------


async def reopen(store, clock):
    """Open as soon as the directory is free; the deadline of the test is that of the wait."""
    while True:
        try:
            return await MemorySystem.open(store, clock=clock)
        except StoreInUseError:
            continue


def test_a_cancelled_close_can_be_finished(store, clock, run, monkeypatch):
    """Cancelled half way, a close goes on; closing again waits for it and frees the directory."""
    closing, may_close = threading.Event(), threading.Event()
    close = LocalJournal.close

    def close_when_told(journal):
        closing.set()
        may_close.wait(DAMAGE_S)
        close(journal)

    async def main():
        memory = await MemorySystem.open(store, clock=clock)
        await memory.put("a", "k", 1)
        with monkeypatch.context() as patch:
            patch.setattr(LocalJournal, "close", close_when_told)
            task = asyncio.create_task(memory.close())
            await asyncio.to_thread(closing.wait, DAMAGE_S)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(ClosedError):
                await memory.put("a", "k", 2)
            may_close.set()
            await memory.close()
        async with MemorySystem.open(store, clock=clock) as again:
            assert await again.get("a", "k") == 1

    run(main())


def test_a_cancelled_open_gives_the_directory_back(store, clock, run, monkeypatch):
    """Cancelled while a thread opens the files, an open leaves nothing behind that holds them."""
    entered, may_open, has_opened = threading.Event(), threading.Event(), threading.Event()
    open_store = choosing_module.open_store

    def open_when_told(*args, **options):
        entered.set()
        may_open.wait(DAMAGE_S)
        opened = open_store(*args, **options)
        has_opened.set()
        return opened

    async def main():
        with monkeypatch.context() as patch:
            patch.setattr(choosing_module, "open_store", open_when_told)
            task = asyncio.create_task(MemorySystem.open(store, clock=clock)._open())
            await asyncio.to_thread(entered.wait, DAMAGE_S)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            may_open.set()
            await asyncio.to_thread(has_opened.wait, DAMAGE_S)
        async with asyncio.timeout(DAMAGE_S):
            memory = await reopen(store, clock)
        await memory.put("a", "k", 1)
        await memory.close()

    run(main())


def test_an_index_that_cannot_be_saved_does_not_keep_the_directory(store, clock, run, monkeypatch):
    """The indexes only save time at the next open: a full disk at close costs nothing else."""

    def save():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def main():
        memory = await MemorySystem.open(store, clock=clock)
        await memory.observe("a", [1.0, 0.0], "seen", key="k")
        monkeypatch.setattr(memory._engine.vectors, "save", save)
        await memory.close()
        async with MemorySystem.open(store, clock=clock) as again:
            (hit,) = await again.search_similar("a", [1.0, 0.0])
            assert hit.data == "seen"

    run(main())


def test_a_journal_that_failed_unnoticed_vouches_for_nothing(store, live, monkeypatch):
    """Views may hold what the journal could not keep, so such a close does not call them clean."""
    files = FaultyFileSystem()
    journal = functools.partial(LocalJournal, files=files)
    monkeypatch.setattr(opening, "LocalJournal", journal)

    def is_clean():
        return json.loads((store / "views" / "STATE").read_bytes())["clean"]

    async def fail(memory):
        await memory.flush()
        files.sync_error = errno.EIO
        await memory.put("a", "k", 1)
        await asyncio.to_thread(memory._engine.journal._thread.join, DAMAGE_S)
        assert memory._engine.journal.failure is not None

    async def nothing(memory):
        await memory.flush()

    live(nothing, durability="relaxed")
    assert is_clean()
    live(fail, durability="relaxed")
    assert not is_clean()


def test_a_rebuild_takes_the_journal_in_bounded_batches(store, live, monkeypatch):
    """Rebuilding the views of large values holds about 8 MiB of them at a time."""
    values = np.random.default_rng(4).bytes(1_000_000)
    batches = []
    apply = opening.apply_frames

    def note(replica, batch):
        batches.append([len(frame.payload) for frame in batch])
        apply(replica, batch)

    async def fill(memory):
        await asyncio.gather(*(memory.put("a", f"k{n}", values[n:]) for n in range(40)))

    async def check(memory):
        for n in range(40):
            assert await memory.get("a", f"k{n}") == values[n:]

    settings = {"durability": "relaxed", "enable_compression": False}
    live(fill, **settings)
    shutil.rmtree(store / "views")
    monkeypatch.setattr(opening, "apply_frames", note)
    live(check, **settings)
    assert sum(map(sum, batches)) > 40 * 999_000
    assert max(sum(batch[:-1]) for batch in batches) < 8 << 20


# --- following --------------------------------------------------------------------------------


def test_whoever_cannot_follow_is_told_and_stops(live, monkeypatch):
    """A write that is stored but not shown fails its caller and all later ones; it is not lost."""

    def fail(*_):
        raise RuntimeError("no")

    async def body(memory):
        await memory.put("a", "before", 0)
        async with asyncio.timeout(DAMAGE_S):
            with monkeypatch.context() as patch:
                patch.setattr(engine_module, "move_records", fail)
                with pytest.raises(StorageError, match="reopen"):
                    await memory.put("a", "k", 1)
            for _ in range(2):
                with pytest.raises(StorageError, match="reopen"):
                    await memory.put("a", "k", 2)
            with pytest.raises(StorageError):
                await memory.acquire_lock("r")

    async def again(memory):
        assert await memory.get_many([("a", "before"), ("a", "k")]) == [0, 1]
        await memory.put("a", "k", 3)

    live(body)
    live(again)


def test_whoever_cannot_follow_shows_no_older_value(live, monkeypatch):
    """Where a write could not be made visible, what it replaced is not shown as the present."""

    def fail(*_):
        raise RuntimeError("no")

    async def read(memory):
        try:
            return await memory.get("a", "k")
        except StorageError:
            return "refused"

    async def body(memory):
        await memory.put("a", "k", "old")
        assert await memory.get("a", "k") == "old"
        monkeypatch.setattr(engine_module, "move_records", fail)
        with pytest.raises(StorageError):
            await memory.put("a", "k", "new")
        assert await read(memory) in {"new", "refused"}
        assert memory.peek("a", "k") in {"new", None}

    live(body)


def test_whoever_cannot_follow_does_not_go_on_with_the_next(live, monkeypatch):
    """After a write that could not be followed a search is right or refused, never wrong."""
    move_vectors = engine_module.move_vectors
    rows = np.eye(200)
    is_first = True

    def fail_once(*args):
        nonlocal is_first
        if is_first:
            is_first = False
            raise RuntimeError("no")
        move_vectors(*args)

    async def body(memory):
        await memory.observe("a", rows[0], key="k000")
        monkeypatch.setattr(engine_module, "move_vectors", fail_once)
        results = await asyncio.gather(
            *(memory.observe("a", rows[n], key=f"k{n:03}") for n in range(1, 200)),
            return_exceptions=True,
        )
        assert isinstance(results[0], StorageError)
        for n in range(1, 200):
            if isinstance(results[n - 1], StorageError):
                continue
            with contextlib.suppress(StorageError):
                (hit,) = await memory.search_similar("a", rows[n], 1)
                assert hit.key == results[n - 1]

    live(body)


def test_a_sync_of_a_follower_shows_all_that_was_acknowledged(store, clock, run):
    """Without waiting for the next look at the files, which here never comes."""

    async def main():
        async with (
            MemorySystem.open(store, clock=clock) as writer,
            MemorySystem.open(store, clock=clock, read_only=True) as follower,
        ):
            await follower.get("a", "k")
            for n in range(5):
                revision = await writer.put("a", "k", n)
                await writer.observe("a", [1.0, n], n, key="seen")
                await follower.sync()
                assert follower.revision == revision + 1
                assert await follower.get("a", "k") == n
                (hit,) = await follower.search_similar("a", [1.0, n])
                assert hit.data == n

    run(main())


REBUILD = """
import asyncio, shutil, sys
from nt_memory import MemorySystem

async def main():
    for part in sys.argv[2:]:
        shutil.rmtree(sys.argv[1] + "/" + part)
    async with MemorySystem.open(sys.argv[1]) as memory:
        await memory.put("a", "hot", "new")
        await memory.put("a", "cold", "new")

asyncio.run(main())
"""


def test_a_follower_goes_on_when_the_writer_has_rebuilt_its_views(store, clock, run):
    """From the same journal they say the same, so nothing it holds is stale."""
    environment = {**os.environ, "PYTHONPATH": str(Path(nt_memory.__file__).parents[1])}

    async def main():
        async with MemorySystem.open(store, clock=clock) as writer:
            for key in ("hot", "cold"):
                await writer.put("a", key, "old")
            await writer.observe("a", [1.0, 0.0], "old", key="seen")
        async with MemorySystem.open(store, clock=clock, read_only=True) as follower:
            assert await follower.get("a", "hot") == "old"
            pin = follower.pin("a", "hot")
            command = [sys.executable, "-c", REBUILD, str(store), "views"]
            await asyncio.to_thread(subprocess.run, command, check=True, env=environment)
            clock.advance(1)
            await follower.wait_for(follower.revision + 3)
            assert pin.value == await follower.get("a", "hot") == "new"
            assert await follower.get("a", "cold") == "new"
            (hit,) = await follower.search_similar("a", [1.0, 0.0])
            assert (hit.key, hit.data) == ("seen", "old")

    run(main())


@pytest.fixture
def outdated(store, clock, run):
    """`outdated(check)`: run it on a follower whose store was replaced by one of another history.

    The writer is another process, because LMDB can be open only once in each.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(nt_memory.__file__).parents[1])}

    def run_outdated(check):
        async def main():
            async with MemorySystem.open(store, clock=clock) as writer:
                for key in ("hot", "cold"):
                    await writer.put("a", key, "old")
                await writer.observe("a", [1.0, 0.0], "old", key="seen")
            async with MemorySystem.open(store, clock=clock, read_only=True) as follower:
                assert await follower.get("a", "hot") == "old"
                command = [sys.executable, "-c", REBUILD, str(store), "journal", "views"]
                await asyncio.to_thread(subprocess.run, command, check=True, env=environment)
                clock.advance(1)  # lets the follower look
                with pytest.raises(StorageError, match="rebuilt"):
                    await follower.wait_for(follower.revision + 1)
                await check(follower)

        run(main())

    return run_outdated


def test_a_follower_of_views_that_were_replaced_says_so(outdated):
    """Once the writer has rebuilt the views, what a follower holds is stale: it refuses to read."""

    async def check(follower):
        for call in (
            lambda: follower.get("a", "cold"),
            lambda: follower.get_many([("a", "hot")]),
            lambda: follower.search_similar("a", [1.0, 0.0]),
            follower.sync,
            lambda: follower.wait_for(follower.revision + 1),
        ):
            with pytest.raises(StorageError):
                await call()

    outdated(check)


def test_a_follower_of_views_that_were_replaced_forgets_what_was_hot(outdated):
    """A value it read before is as stale as any other."""

    async def check(follower):
        assert follower.peek("a", "hot") is None
        with pytest.raises(StorageError):
            await follower.get("a", "hot")

    outdated(check)


# --- writers who wait for room ------------------------------------------------------------------


@contextlib.asynccontextmanager
async def full_queue(memory):
    """Within it the journal writes nothing, and one entry fills its queue."""
    journal = memory._engine.journal
    journal._submissions._max_bytes = 1
    holding, may_go_on = threading.Event(), threading.Event()

    def hold():
        holding.set()
        may_go_on.wait(DAMAGE_S)

    held = asyncio.ensure_future(asyncio.to_thread(journal.perform, hold))
    await asyncio.to_thread(holding.wait, DAMAGE_S)
    try:
        yield journal
    finally:
        may_go_on.set()
        await held


async def started(coroutines):
    """Tasks of them, each begun and now waiting for something."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    for _ in range(3):
        await turn()
    return tasks


def test_writers_find_room_in_the_order_they_came(store, clock, run):
    """However full the queue is, no writer is overtaken, and one at a time asks to be woken."""

    async def main():
        async with MemorySystem.open(store, clock=clock) as memory:
            async with full_queue(memory) as journal:
                tasks = await started(memory.put("a", f"k{i}", i) for i in range(40))
                assert len(journal._submissions._awaiting_space) == 1
                tasks += await started([memory.put("a", "late", 0)])
                assert not any(task.done() for task in tasks)
            revisions = await asyncio.gather(*tasks)
            assert revisions == list(range(revisions[0], revisions[0] + 41))

    run(main())


def test_a_writer_who_gives_up_waiting_lets_the_next_one_in(store, clock, run):
    """Cancelled while it waits for room, first in line or not, a put never happens; others do."""

    async def main():
        async with MemorySystem.open(store, clock=clock) as memory:
            async with full_queue(memory):
                tasks = await started(memory.put("a", f"k{i}", i) for i in range(5))
                for gone in (1, 3):  # the first who waits, and one in the middle
                    tasks[gone].cancel()
                await turn()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [isinstance(one, asyncio.CancelledError) for one in results] == [
                False, True, False, True, False,
            ]  # fmt: skip
            assert [await memory.get("a", f"k{i}") for i in range(5)] == [0, None, 2, None, 4]

    run(main())


def test_writers_who_wait_for_room_are_told_when_the_memory_closes(store, clock, run):
    """Closing ends the wait of everyone in line; none waits for ever, none is half there."""

    async def main():
        memory = await MemorySystem.open(store, clock=clock)
        async with full_queue(memory):
            tasks = await started(memory.put("a", f"k{i}", i) for i in range(5))
            (closing,) = await started([memory.close()])
            await asyncio.wait(tasks[1:])
        await closing
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[0], int)
        assert all(isinstance(one, ClosedError) for one in results[1:])

    run(main())


def test_damage_met_while_writing_stops_the_memory(store, run):
    """It is no refusal: half of an entry would stay, and a replay would accept the whole of it."""

    async def write(memory, value, *keys):
        async with memory.transaction() as tx:
            for key in keys:
                tx.put("a", key, value)

    async def body():
        config = MemoryConfig(storage_path=store, history=0)
        memory = await MemorySystem.open(config)
        try:
            for key in ("k", "other"):
                await memory.put("a", key, 1)
            used = memory.usage("a")
            cold = memory._engine.opened.cold
            batch = cold.begin()
            name = name_of(STATE, "a", "k")
            (damaged,) = batch.version_keys(name)
            sealed = batch.txn.get(damaged, db=batch._tables[b"versions"])
            batch.txn.put(damaged, sealed[:-1] + b"!", db=batch._tables[b"versions"])
            cold.commit(batch)
            # The version is read when `history` drops it: the entry has written much by then.
            await write(memory, 2, "other")
            with pytest.raises(StorageError, match="fails its checksum"):
                await write(memory, 3, "other", "k")
            assert await memory.get("a", "other") == 2
            assert memory.usage("a") == used
            with pytest.raises(StorageError):
                await memory.put("a", "other", 4)
        finally:
            await memory.close()
        assert not verify(store).is_ok
        repair(store)
        async with MemorySystem.open(config) as memory:
            # Durable before it met the damage, so it happened.
            assert await memory.get_many([("a", "k"), ("a", "other")]) == [3, 3]
        assert verify(store).is_ok

    run(body())
