"""How long the results of requests are remembered, and what that leaves behind."""

from __future__ import annotations

import msgspec
import pytest

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.coordination.lock_states import LockReply
from nt_memory.entries import Acquire
from nt_memory.entries.requests import given_id, is_own, own_id, part_id
from nt_memory.errors import LockLostError
from nt_memory.replica.requests import OWN_MEMORY_US, REQUEST_MEMORY_US

DAY_S = REQUEST_MEMORY_US / 1e6
OWN_S = OWN_MEMORY_US / 1e6


def rows(memory):
    """Results that are remembered, and places among those to be removed."""
    snapshot = memory._engine.snapshot
    return tuple(sum(1 for _ in snapshot.items(table)) for table in (b"requests", b"request_times"))


def test_a_request_is_remembered_for_a_day_and_not_longer(live, clock):
    """To the microsecond of entry time, also if nothing else was asked meanwhile; then it acts again,
    and that is remembered for a day of its own.
    """

    async def body(memory):
        first = await memory.put("a", "k", 1, request_id="nightly")
        clock.advance(DAY_S - 1e-6)
        assert await memory.put("a", "k", 2, request_id="nightly") == first
        clock.advance(1e-6)
        second = await memory.put("a", "k", 3, request_id="nightly")
        assert second > first
        assert await memory.get("a", "k") == 3
        # What removes old rows must not take the new result along.
        for n in range(3):
            await memory.put("a", f"other{n}", n, request_id=f"other{n}")
        clock.advance(DAY_S - 1e-6)
        assert await memory.put("a", "k", 4, request_id="nightly") == second
        assert await memory.get("a", "k") == 3

    live(body)


def test_what_was_forgotten_may_be_another_kind_of_call(live, clock):
    """A forgotten id is as good as new, for any call."""

    async def body(memory):
        await memory.put("a", "k", 1, request_id="x")
        clock.advance(DAY_S)
        assert await memory.consensus.register_agent("a", request_id="x") == memory.revision

    live(body)


def test_it_is_remembered_across_reopening_and_compaction(live, clock):
    """The base keeps the results, each for what is left of its day."""

    async def first(memory):
        token = await memory.acquire_lock("r", lease=10.0, request_id="lock")
        await memory.release_lock(token, request_id="release")
        return await memory.put("a", "k", 1, request_id="put")

    async def again(memory):
        assert await memory.put("a", "k", 2, request_id="put") == revision
        with pytest.raises(LockLostError):
            await memory.acquire_lock("r", request_id="lock")
        await memory.compact()
        assert await memory.put("a", "k", 2, request_id="put") == revision

    async def late(memory):
        assert await memory.put("a", "k", 3, request_id="put") > revision

    revision = live(first)
    clock.advance(DAY_S / 2)
    live(again)
    clock.advance(DAY_S / 2)
    live(late)


def test_locks_without_an_id_leave_few_rows(live, clock):
    """Their results are kept as long as they can be repeated on their way in: 10 minutes, not a day."""

    async def body(memory):
        await memory.put("a", "k", 1, request_id="mine")
        for _ in range(200):
            async with memory.lock("r"):
                clock.advance(OWN_S / 100)
            assert len(set(rows(memory))) == 1
        requests, _ = rows(memory)
        assert requests <= 105
        # Removing them early did not take what was asked for a day along.
        assert await memory.put("a", "k", 2, request_id="mine") == 2 + 1
        assert await memory.get("a", "k") == 1

    live(body)


def test_a_repeated_entry_of_the_memory_s_own_acts_once(live, clock):
    """Until its ten minutes are over, an acquire that comes twice is not granted a second time."""

    async def body(memory):
        engine = memory._engine
        command = Acquire("r", "t1", "ann", engine.session, 5_000_000, 0)
        first = await engine.submit(command, own_id("t1"))
        await memory.force_release("r")
        clock.advance(OWN_S - 1e-6)
        assert msgspec.convert(await engine.submit(command, own_id("t1")), LockReply) == first
        assert memory.inspect_lock("r").holder == ""
        clock.advance(1e-6)
        await engine.submit(command, own_id("t1"))
        assert memory.inspect_lock("r").holder == "ann"

    live(body)


def test_the_journal_does_not_tell_ids_of_the_memory_s_own(live, collect):
    """`tail` shows what callers gave, and nothing that names somebody's place in line."""

    async def body(memory):
        await memory.release_lock(await memory.acquire_lock("r"))
        await memory.release_lock(await memory.acquire_lock("r", request_id="x"))
        await memory.force_release("r")
        await memory.put("a", "k", 1, request_id="y")
        found = [entry.request_id async for entry in _upto(memory)]
        assert found.count("y") == 1
        assert not [one for one in found if one is not None and memory._engine.session in one]

    live(body)


async def _upto(memory):
    last = memory.revision
    async for entry in memory.tail():
        yield entry
        if entry.revision == last:
            return


@pytest.mark.parametrize("name", ["x", "x/1", "0"])
def test_ids_cannot_be_mistaken_for_each_other(name):
    """What a caller gives, parts of it and the memory's own are told apart, and read back."""
    spelled = [name, part_id(name, 1), part_id(name, 11), part_id(f"{name}1", 1), own_id(name)]
    assert len(set(spelled)) == len(spelled)
    assert [given_id(one) for one in spelled] == [name, name, name, f"{name}1", None]
    assert [is_own(one) for one in spelled] == [False] * 4 + [True]
    assert part_id(name, 0) == name
    assert given_id(None) is None


def test_times_before_1970_and_a_day_are_no_trouble(store, run):
    """A store whose clock stands at the beginning of time remembers too."""
    from datetime import UTC, datetime

    from nt_memory.clock import ManualClock

    async def main():
        clock = ManualClock(datetime(1970, 1, 1, tzinfo=UTC))
        async with MemorySystem.open(MemoryConfig(storage_path=store), clock=clock) as memory:
            async with memory.lock("r"):
                revision = await memory.put("a", "k", 1, request_id="x")
            assert await memory.put("a", "k", 2, request_id="x") == revision

    run(main())
