"""Loops that end early, forks, other threads and other instances: the store survives them all."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import nt_memory
from nt_memory import MemoryConfig, MemorySystem
from nt_memory.clock import turn
from nt_memory.errors import ClosedError, StoreInUseError, WrongLoopError
from nt_memory.system import opened, writing
from nt_memory.system.at_rest import read_state
from nt_memory.system.verifying import verify
from nt_memory.testing.faults import FaultyFileSystem
from nt_memory.transport import segment_writer, submissions

WAIT_S = 20.0


def read_back(store, key="k"):
    async def body():
        async with MemorySystem.open(store) as memory:
            return await memory.get("a", key)

    return asyncio.run(body())


def is_clean(store):
    state = read_state(store / "views")
    return state is not None and state.digests != {}


# --- a loop that ends early -------------------------------------------------------------------


def test_a_memory_that_nobody_closed_is_closed_when_the_run_ends(store):
    """Cleanly: the views are vouched for, and the directory is free."""

    async def body():
        memory = await MemorySystem.open(store)
        await memory.put("a", "k", 1)

    asyncio.run(body())
    assert is_clean(store)
    assert read_back(store) == 1


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_a_close_that_nobody_waited_for_is_finished(store, turns):
    """The run cancels the task that closes, begun or not; it closes all the same."""

    async def body():
        memory = await MemorySystem.open(store)
        await memory.put("a", "k", 1)
        closing = asyncio.create_task(memory.close())
        for _ in range(turns):
            await turn()
        return closing

    asyncio.run(body())
    assert is_clean(store)
    assert read_back(store) == 1


def test_a_loop_closed_by_hand_does_not_keep_the_directory(store):
    """The next open of this process finds what was left, writes it out and takes over."""
    loop = asyncio.new_event_loop()
    memory = loop.run_until_complete(MemorySystem.open(store)._open())
    loop.run_until_complete(memory.put("a", "k", 1))
    submitted = loop.create_task(memory.put("a", "late", 2))
    loop.run_until_complete(turn())  # it is submitted, and nobody waits
    loop.close()
    assert read_back(store) == 1
    assert read_back(store, "late") == 2
    assert memory._engine.is_closed
    assert verify(store).is_ok
    submitted._log_destroy_pending = False


def test_a_loop_closed_far_behind_does_not_keep_the_directory(store, monkeypatch):
    """The journal's thread, which waits for the loop to follow, does not wait for ever."""
    monkeypatch.setattr(submissions, "BATCH_ENTRIES", 1)
    monkeypatch.setattr(writing, "MAX_BEHIND", 2)
    loop = asyncio.new_event_loop()
    memory = loop.run_until_complete(MemorySystem.open(store)._open())

    async def submit():
        tasks = [asyncio.ensure_future(memory.put("a", f"{n}", n)) for n in range(20)]
        await turn()  # all are submitted
        return tasks

    tasks = loop.run_until_complete(submit())
    pause = threading.Event()
    while memory._engine.writing._behind._value or memory._engine.journal.pending_bytes == 0:
        pause.wait(0.001)  # the loop stands still, so the thread runs ahead of it until it waits
    for task in tasks:
        task._log_destroy_pending = False
    del tasks
    loop.close()

    async def body():
        async with MemorySystem.open(store) as memory:
            return [record.value async for record in memory.scan("a")]

    found = asyncio.run(body())
    # In whatever order the keys are, what is there is a beginning of what was submitted.
    assert sorted(found) == list(range(len(found)))
    assert len(found) >= 2
    assert verify(store).is_ok


def test_an_open_loop_that_rests_keeps_the_directory(store):
    """A loop that is not running may run again: its memory is nobody else's to close."""
    loop = asyncio.new_event_loop()
    memory = loop.run_until_complete(MemorySystem.open(store)._open())
    with pytest.raises(StoreInUseError):
        read_back(store)
    loop.run_until_complete(memory.put("a", "k", 1))
    loop.run_until_complete(memory.close())
    loop.close()
    assert read_back(store) == 1


def test_a_disk_too_full_to_vouch_closes_all_the_same(store, run, monkeypatch):
    """Closing raises nothing, and the next open is told to look for itself."""

    def write_state(views, digests=None):
        if digests is not None:
            raise OSError(28, "No space left on device")
        real(views)

    real = opened.write_state

    async def body():
        memory = await MemorySystem.open(store)
        await memory.put("a", "k", 1)
        monkeypatch.setattr(opened, "write_state", write_state)
        await memory.close()
        monkeypatch.undo()
        assert not is_clean(store)

    run(body())
    assert read_back(store) == 1


# --- forks ------------------------------------------------------------------------------------

FORKING = """
import asyncio, gc, os, sys
from nt_memory import MemorySystem
from nt_memory.errors import WrongLoopError

async def in_child(memory, watch):
    calls = [
        lambda: memory.put("a", "k", "child"),
        lambda: memory.get("a", "cold"),
        lambda: memory.delete("a", "k"),
        lambda: memory.flush(),
        lambda: memory.search_similar("a", [1.0, 2.0]),
        lambda: memory.acquire_lock("r"),
        lambda: anext(watch),
    ]
    for call in calls:
        try:
            await call()
        except WrongLoopError:
            continue
        os._exit(3)
    for _ in range(2):
        await memory.close()
    del memory, watch
    gc.collect()
    os._exit(0)

async def main():
    async with MemorySystem.open(sys.argv[1]) as memory:
        await memory.put("a", "k", 1)
        await memory.observe("a", [1.0, 2.0])
        watch = memory.watch("a")
        child = os.fork()
        if child == 0:
            try:
                await in_child(memory, watch)
            finally:
                os._exit(4)
        assert os.waitpid(child, 0)[1] == 0
        await memory.put("a", "k", 2)
        assert (await anext(watch)).record.value == 2
        assert len(await memory.search_similar("a", [1.0, 2.0])) == 1
        from nt_memory.system.at_rest import read_state
        state = read_state(memory._engine.opened.directory.views)
        assert not state.digests, "the child has vouched for views that its parent goes on writing"
    print("done")
asyncio.run(main())
"""


def test_a_fork_is_refused_and_harms_nothing(store):
    """A child's calls raise `WrongLoopError`; it may close, collect and exit: the parent goes on,
    and closes a store that is whole.
    """
    done = subprocess.run(
        [sys.executable, "-c", FORKING, str(store)],
        env={**os.environ, "PYTHONPATH": str(Path(nt_memory.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    assert is_clean(store)
    assert verify(store).is_ok
    assert read_back(store) == 2


# --- other threads ----------------------------------------------------------------------------

ARGUMENTS = {
    "embed": list,
    "agent": "a",
    "key": "cold",
    "value": 1,
    "pairs": [("a", "cold")],
    "embedding": np.ones(2),
    "query_embedding": np.ones(2),
    "query_embeddings": np.ones((1, 2)),
    "embeddings": np.ones((1, 2)),
    "revision": 1,
    "as_of": 1,
    "topic": "t",
    "message": 1,
    "pattern": "t",
    "resource": "r",
    "snapshot_id": "none",
    "path": "nowhere",
    "policy": None,
    "trajectory": nt_memory.Trajectory("a"),
    "trajectories": [nt_memory.Trajectory("a")],
    "trajectory_id": "t",
    "trajectory_ids": ["t"],
    "values": [1.0],
}
# What touches nothing that the loop changes, or is refused later for what it leads to.
HARMLESS = {"open", "open_sync", "close", "peek", "transaction", "revision"}
CALLS = sorted(
    name for name in dir(MemorySystem) if not name.startswith("_") and name not in HARMLESS
)


@pytest.mark.parametrize("name", CALLS)
def test_every_call_from_another_thread_is_refused(store, run, name):
    """It raises `WrongLoopError`, also from a loop of that thread's own, and nothing has changed."""

    def work(memory, token):
        call = getattr(memory, name)
        wanted = inspect.signature(call).parameters.values()
        given = {
            parameter.name: {**ARGUMENTS, "token": token}[parameter.name]
            for parameter in wanted
            if parameter.default is parameter.empty
        }

        async def do():
            found = call(**given)
            if inspect.isawaitable(found):
                await found
            elif hasattr(found, "__anext__"):
                await anext(found)
            elif hasattr(found, "__aenter__"):
                async with found:
                    pass

        with pytest.raises(WrongLoopError):
            asyncio.run(do())

    async def body():
        async with MemorySystem.open(store) as memory:
            await memory.put("a", "cold", 1)
            memory._engine.hot.clear()
            token = await memory.acquire_lock("held")
            before = memory.revision
            await asyncio.to_thread(work, memory, token)
            await memory.flush()
            assert memory.revision == before

    run(body())


def test_what_is_hot_may_be_read_from_anywhere(store, run):
    """A hit in L1 checks nothing, which keeps it below half a microsecond, and needs to check
    nothing: it hands out one immutable record that was current. A miss is refused.
    """

    async def body():
        async with MemorySystem.open(store) as memory:
            await memory.put("a", "k", 1)

            def work():
                assert memory.peek("a", "k") == asyncio.run(memory.get("a", "k")) == 1
                assert memory.peek("a", "cold", "miss") == "miss"
                with pytest.raises(WrongLoopError):
                    asyncio.run(memory.get("a", "cold"))

            await asyncio.to_thread(work)
        assert memory.peek("a", "k", "closed") == "closed"
        with pytest.raises(ClosedError):
            await memory.get("a", "k")

    run(body())


def test_a_transaction_of_another_thread_is_refused(store, run):
    """It can be built anywhere, and committed only where the memory lives."""

    async def body():
        async with MemorySystem.open(store) as memory:

            async def elsewhere():
                async with memory.transaction() as tx:
                    tx.put("a", "k", 1)

            def work():
                with pytest.raises(WrongLoopError):
                    asyncio.run(elsewhere())

            await asyncio.to_thread(work)
            assert await memory.get("a", "k") is None

    run(body())


# --- other instances --------------------------------------------------------------------------


def test_a_reader_may_be_there_before_the_writer(store, run):
    """In one process too: the writer opens beside it, and the reader follows."""

    async def body():
        async with MemorySystem.open(store) as writer:
            await writer.put("a", "k", 1)
        async with MemorySystem.open(store, read_only=True) as reader:
            assert await reader.get("a", "k") == 1
            async with MemorySystem.open(store) as writer:
                revision = await writer.put("a", "k", 2)
                await reader.wait_for(revision)
                assert await reader.get("a", "k") == 2
                await writer.compact()
                revision = await writer.put("a", "k", 3)
                await reader.wait_for(revision)
                assert await reader.get("a", "k") == 3
            assert await reader.get("a", "k") == 3
        assert verify(store).is_ok

    run(body())


# --- "relaxed" beside a loop that stands still -------------------------------------------------


def test_relaxed_keeps_its_bound_while_the_loop_stands_still(store, run, monkeypatch):
    """What was acknowledged goes to disk in time, although nobody follows the batches behind it."""
    files = FaultyFileSystem()
    monkeypatch.setattr(segment_writer, "OsFileSystem", lambda: files)
    monkeypatch.setattr(writing, "MAX_BEHIND", 1)
    monkeypatch.setattr(submissions, "BATCH_ENTRIES", 1)

    async def body():
        config = MemoryConfig(storage_path=store, durability="relaxed")
        async with MemorySystem.open(config) as memory:
            await memory.flush()
            tasks = [asyncio.ensure_future(memory.put("a", f"{n}", n)) for n in range(4)]
            await turn()  # all are submitted
            writer = memory._engine.journal._writer
            pause = threading.Event()
            for _ in range(int(WAIT_S * 1000)):
                # The loop does nothing but this: the journal's thread is stuck in its delivery.
                if writer.next_sequence > memory._engine.sequence + 2 and not writer.has_unsynced:
                    break
                pause.wait(0.001)
            else:
                raise AssertionError("it is still not on disk")
            await asyncio.gather(*tasks)

    run(body())
