"""The steps of a compaction: what has to be true before each, and what it leaves when it is not."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.errors import CorruptionError, StorageError
from nt_memory.system import compactor, renumbering
from nt_memory.system.compactor import Compactor
from nt_memory.system.verifying import verify
from nt_memory.testing.faults import FaultyFileSystem
from nt_memory.tiers.cold import ColdTier
from nt_memory.transport import local, segment_writer


async def contents(memory):
    return {record.key: record.value async for record in memory.scan("a")}


def names(store, part):
    """Of the files of one part of the store."""
    return sorted(path.name for path in (store / part).iterdir())


def before(monkeypatch, owner, name, action):
    """Have `action` run whenever a step begins, on its thread."""
    real = getattr(owner, name)

    def step(*args, **options):
        action(*args)
        return real(*args, **options)

    monkeypatch.setattr(owner, name, step)


def from_elsewhere(memory, count=1):
    """An action that puts `count` entries and waits for them; for threads other than the loop's."""
    loop = asyncio.get_running_loop()

    async def put():
        await asyncio.gather(*(memory.put("a", f"later{n}", n) for n in range(count)))

    return lambda *_: asyncio.run_coroutine_threadsafe(put(), loop).result(10)


async def observe_and_replace(memory):
    """Observations of which most are dead, so that their rows are numbered anew."""
    for version in range(4):
        vectors = np.random.default_rng(version).normal(size=(12, 4))
        await memory.observe_many("a", vectors, keys=[f"o{n}" for n in range(12)])


@pytest.fixture
def renumbered(monkeypatch):
    """A configuration under which a compaction numbers the rows of small partitions anew."""
    monkeypatch.setattr(renumbering, "MIN_DEAD_ROWS", 8)
    return lambda store: MemoryConfig(storage_path=store, history=0)


def test_a_base_holds_only_what_the_journal_has_on_disk(store, run, monkeypatch):
    """With relaxed durability too, for which an fsync has to be asked for."""
    monkeypatch.setattr(local, "RELAXED_SYNC_NS", 10**18)
    files = FaultyFileSystem()
    monkeypatch.setattr(segment_writer, "OsFileSystem", lambda: files)
    unsynced = []

    async def body():
        config = MemoryConfig(storage_path=store, durability="relaxed")
        async with MemorySystem.open(config) as memory:
            writer = memory._engine.journal._writer
            # The new segment makes durable what is before it; this comes after.
            before(monkeypatch, Compactor, "prepare", from_elsewhere(memory))
            before(monkeypatch, Compactor, "prepare", lambda _: unsynced.append("begun"))
            before(
                monkeypatch,
                compactor,
                "save_base",
                lambda *_: unsynced.append(writer.has_unsynced),
            )
            await memory.compact()

    run(body())
    assert unsynced == ["begun", False]


def test_views_that_would_say_something_else_are_not_put_in_place(store, run, monkeypatch):
    """That the base and the journal lead to where the views are is looked at before they go."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await memory.put("a", "k", 1)
            with monkeypatch.context() as patched:
                before(patched, Compactor, "_approach", from_elsewhere(memory))
                patched.setattr(Compactor, "_catch_up", lambda *_: None)
                with pytest.raises(CorruptionError, match="the journal leads to entry"):
                    await memory.compact()
            assert not (store / "views.new").exists()
            assert await contents(memory) == {"k": 1, "later0": 0}
            assert (await anext(memory.tail())).revision == 1
            await memory.compact()
            await memory.put("a", "k", 2)
            assert await contents(memory) == {"k": 2, "later0": 0}
        assert verify(store).is_ok

    run(body())


def test_writers_wait_for_the_exchange_only(store, run, monkeypatch):
    """It alone runs on the journal's thread, and finds no more left to do than was said."""
    left, threads = [], []

    async def body():
        async with MemorySystem.open(store) as memory:
            await memory.put("a", "k", 1)
            journal = memory._engine.journal
            for step in ("prepare", "swap", "clean_up"):
                before(
                    monkeypatch,
                    Compactor,
                    step,
                    lambda _, step=step: threads.append((step, threading.current_thread())),
                )
            before(
                monkeypatch,
                Compactor,
                "_replay_into",
                from_elsewhere(memory, 3 * compactor._LAST_ENTRIES),
            )
            before(
                monkeypatch,
                Compactor,
                "swap",
                lambda compactor: left.append(journal.last_sequence - compactor._replica.sequence),
            )
            await memory.compact()
            of_journal = [step for step, thread in threads if thread is journal._thread]
            assert of_journal == ["swap"]
            assert threading.current_thread() not in {thread for _, thread in threads}
            assert len(await contents(memory)) == 1 + 3 * compactor._LAST_ENTRIES

    run(body())
    assert len(left) == 1
    assert 0 <= left[0] <= compactor._LAST_ENTRIES


def test_writers_as_fast_as_it_do_not_keep_it_from_ending(store, run, monkeypatch):
    """Where as much comes as is caught up with meanwhile, writers wait for a turn now and then."""
    rounds, turns = [], []

    async def body():
        async with MemorySystem.open(store) as memory:
            journal = memory._engine.journal
            real = Compactor._catch_up
            come = {count: from_elsewhere(memory, count) for count in (512, 1024)}

            def catch_up(compactor, replica, most=None):
                left = compactor._left(replica)
                real(compactor, replica, most)
                if threading.current_thread() is journal._thread:
                    turns.append(left - compactor._left(replica))
                else:
                    rounds.append(left)
                    come[left]()

            monkeypatch.setattr(Compactor, "_catch_up", catch_up)
            before(monkeypatch, Compactor, "_replay_into", come[1024])
            await memory.compact()
            assert len(await contents(memory)) == 1024

    run(body())
    assert rounds == [1024, 512]  # and not for ever
    assert turns == [512, 512, 0]  # the last is the exchange


def test_nothing_is_deleted_before_the_new_base_is_there_for_good(
    store, run, monkeypatch, renumbered
):
    """A base that was renamed must have its name on disk first; where it cannot, all stays."""

    def fail(_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def body():
        async with MemorySystem.open(renumbered(store)) as memory:
            await memory.put("a", "k", 1)
            await memory.compact()
            await observe_and_replace(memory)
            before_it = {part: names(store, part) for part in ("base", "journal", "vectors")}
            with monkeypatch.context() as patched:
                patched.setattr(compactor, "sync_directory", fail)
                with pytest.raises(StorageError, match="syncing"):
                    await memory.compact()
            for part, files in before_it.items():
                assert set(files) <= set(names(store, part)), part
            found = [hit.key for hit in await memory.search_similar("a", [1.0, 0, 0, 0], 20)]
            assert sorted(found) == sorted(f"o{n}" for n in range(12))
            await memory.compact()
        assert verify(store).damage == []

    run(body())


def test_a_feed_that_wants_the_last_entry_of_a_segment_gets_it(store, clock, run):
    """The segments before it go, and no other."""

    async def body():
        async with MemorySystem.open(store, clock=clock) as memory:
            await memory.put("a", "k", 1)
            await asyncio.to_thread(memory._engine.journal.begin_segment)
            await memory.put("a", "k", 2)
            feed = memory.tail(after=memory.revision)
            revision = await memory.put("a", "k", 3)
            segments = names(store, "journal")
            await memory.compact()
            assert names(store, "journal")[:-1] == segments[1:]
            await memory.put("a", "k", 4)
            assert [(await anext(feed)).revision for _ in range(2)] == [revision, revision + 1]

    run(body())


def test_views_that_cannot_be_exchanged_stay_in_their_place(store, run, monkeypatch):
    """The old ones had made room already: they come back, and the next compaction succeeds."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await memory.put("a", "k", 1)
            cold = memory._engine.opened.cold
            move = ColdTier.move

            def move_old_only(tier, directory):
                if tier is not cold:
                    raise StorageError("renaming failed")
                move(tier, directory)

            with monkeypatch.context() as patched:
                patched.setattr(ColdTier, "move", move_old_only)
                with pytest.raises(StorageError, match="renaming"):
                    await memory.compact()
            assert memory._engine.opened.cold is cold
            assert cold.is_in_place
            assert sorted(path.name for path in store.glob("views*")) == ["views"]
            await memory.put("a", "k", 2)
            await memory.compact()
            assert not cold.is_in_place
            assert await contents(memory) == {"k": 2}
        assert verify(store).is_ok

    run(body())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_was_replaced_is_not_held_open(store, run, renumbered):
    """A file that was deleted takes its space until it is closed."""

    def deleted():
        found = []
        for link in Path("/proc/self/fd").iterdir():
            with suppress(OSError):  # the one that lists them
                found.append(str(link.readlink()))
        return [name for name in found if name.startswith(str(store)) and "(deleted)" in name]

    async def body():
        async with MemorySystem.open(renumbered(store)) as memory:
            for _ in range(3):
                await observe_and_replace(memory)
                assert await memory.search_similar("a", [1.0, 0, 0, 0])
                await memory.compact()
                assert deleted() == []

    run(body())
