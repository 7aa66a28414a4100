"""What every memory does, whether one process keeps it or a cluster: the same program, but for its URL."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nt_memory import Approved, MemorySystem, Pending, Policy, Proposal, Rejected, Trajectory, Vote
from nt_memory.clock import turn
from nt_memory.errors import (
    ClosedError,
    ConfigMismatchError,
    ConflictError,
    DimensionError,
    InvalidInputError,
    LockTimeoutError,
    LookAheadError,
    NoResponderError,
    PermissionDeniedError,
    QuotaError,
    StaleFenceError,
    VoteChangedError,
)
from nt_memory.system.importing import import_store

if TYPE_CHECKING:
    from pathlib import Path

    Memories = Any


async def test_state_outlives_a_reopen(memories: Memories) -> None:
    """What was acknowledged is there after closing and opening again, at the same revisions."""
    async with memories.open() as memory:
        first = await memory.put("agent_1", "position", {"AAPL": 10})
        second = await memory.put("agent_1", "position", {"AAPL": 25})
        gone = await memory.put("agent_1", "gone", 1)
        assert first < second < gone
        await memory.delete("agent_1", "gone")
        revision = memory.revision
    async with memories.open() as memory:
        assert memory.revision >= revision
        record = await memory.get_record("agent_1", "position")
        assert (record.value, record.revision) == ({"AAPL": 25}, second)
        assert await memory.get("agent_1", "gone") is None
        assert await memory.get("agent_1", "position", as_of=first) == {"AAPL": 10}
        assert [r.revision async for r in memory.history("agent_1", "position")] == [second, first]
        assert [r.key async for r in memory.scan("agent_1")] == ["position"]


async def test_refusals_change_nothing(memories: Memories) -> None:
    """A refused write says why, and leaves state and revision as they were; also after a reopen."""
    async with memories.open() as memory:
        revision = await memory.put("agent_1", "k", 1)
        before = memory.revision
        with pytest.raises(ConflictError) as conflict:
            await memory.put("agent_1", "k", 2, expect=0)
        assert conflict.value.current == revision
        async with memory.lock("book", timeout=20.0) as token:
            held = memory.revision
            await memory.put("agent_1", "k", 3, fence=token)
        with pytest.raises(StaleFenceError):
            await memory.put("agent_1", "k", 4, fence=token)
        assert await memory.get("agent_1", "k") == 3
        assert memory.revision > held > before
        after = memory.revision
    async with memories.open() as memory:
        assert await memory.get("agent_1", "k") == 3
        assert memory.revision >= after


async def test_a_request_acts_once(memories: Memories) -> None:
    """A repeated request id gives the first result and changes nothing, also after a reopen."""
    async with memories.open() as memory:
        first = await memory.put("agent_1", "k", 1, request_id="r1")
        await memory.put("agent_1", "k", 2)
        assert await memory.put("agent_1", "k", 1, request_id="r1") == first
        assert await memory.get("agent_1", "k") == 2
    async with memories.open() as memory:
        assert await memory.put("agent_1", "k", 1, request_id="r1") == first
        assert await memory.get("agent_1", "k") == 2


async def move(memory: Any) -> None:
    """A transaction of which one half cannot be."""
    async with memory.transaction() as tx:
        tx.put("agent_1", "position", 5)
        tx.put("agent_1", "cash", 6, expect=1_000_000)


async def test_transactions_are_one_revision(memories: Memories) -> None:
    """All or nothing, at one revision."""
    async with memories.open() as memory:
        async with memory.transaction() as tx:
            tx.put("agent_1", "position", 1)
            tx.put("agent_1", "cash", 2)
        records = [await memory.get_record("agent_1", key) for key in ("position", "cash")]
        assert records[0].revision == records[1].revision
        with pytest.raises(ConflictError):
            await move(memory)
        assert await memory.get("agent_1", "position") == 1


async def test_watch_misses_nothing(memories: Memories) -> None:
    """A watcher gets every change in order, from the call on; `tail` has them from the beginning."""
    async with memories.open() as memory:
        watcher = memory.watch("agent_1", "p/")
        for i in range(20):
            await memory.put("agent_1", f"p/{i % 3}", i)
        await memory.delete("agent_1", "p/0")
        async with asyncio.timeout(10.0):
            seen = [await anext(watcher) for _ in range(21)]
        assert [change.record.value for change in seen[:20]] == list(range(20))
        assert seen[20].kind == "delete"
        assert [c.revision for c in seen] == sorted({c.revision for c in seen})
        entries = []
        async for entry in memory.tail():
            entries.append(entry)
            if entry.revision == memory.revision:
                break
        revisions = [entry.revision for entry in entries]
        assert revisions == list(range(1, memory.revision + 1))


async def test_expiry(memories: Memories) -> None:
    """A value with a ttl goes by itself, and watchers hear of it."""
    async with memories.open() as memory:
        watcher = memory.watch("agent_1")
        pin = memory.pin("agent_1", "k")
        await memory.put("agent_1", "k", 1, ttl=0.3)
        async with asyncio.timeout(10.0):
            assert [(await anext(watcher)).kind for _ in range(2)] == ["put", "expire"]
        assert await memory.get("agent_1", "k") is None
        assert pin.value is None


async def test_pins_are_live(memories: Memories) -> None:
    """A pin shows the newest value, without a read."""
    async with memories.open() as memory:
        await memory.put("agent_1", "k", 1)
        await memory.get("agent_1", "k")
        pin = memory.pin("agent_1", "k")
        await memory.put("agent_1", "k", 2)
        assert pin.value == 2
        pin.release()


async def test_search(memories: Memories) -> None:
    """Observations are found at once, also after a reopen; a wrong dimension changes nothing."""
    rng = np.random.default_rng(7)
    vectors = rng.normal(size=(300, 16)).astype(np.float32)
    async with memories.open() as memory:
        keys = await memory.observe_many("agent_1", vectors, [{"n": i} for i in range(300)])
        key = await memory.observe("agent_1", vectors[3], {"n": -1}, tags=["crash"])
        hits = await memory.search_similar("agent_1", vectors[7], top_k=3)
        assert hits[0].key == keys[7]
        assert [
            h.key for h in await memory.search_similar("agent_1", vectors[3], tags=["crash"])
        ] == [key]
        with pytest.raises(DimensionError):
            await memory.observe("agent_1", [1.0, 2.0])
        revision = memory.revision
    async with memories.open() as memory:
        assert memory.revision >= revision
        hits = await memory.search_similar("agent_1", vectors[7], top_k=1, exact=True)
        assert hits[0].key == keys[7]
        assert hits[0].data == {"n": 7}


async def test_trajectories(memories: Memories) -> None:
    """A trajectory is tracked, judged, and there after a reopen."""
    async with memories.open() as memory:
        await memory.bank.define(
            "forecast", target="vol", unit="log vol", horizon=timedelta(microseconds=1)
        )
        trajectory = Trajectory("agent_1")
        trajectory.add_observation({"vol": 0.2}, embedding=[0.1, 0.2, 0.3])
        trajectory.add_action("forecast", {"h": 5}, predicted_outcome=1.0)
        await memory.track_trajectory(trajectory)
        verdict = await memory.record_outcome(trajectory.id, 1.01)
        assert verdict is not None
    async with memories.open() as memory:
        found = await memory.bank.trajectory(trajectory.id)
        assert found.id == trajectory.id


async def test_locks(memories: Memories) -> None:
    """A lock has one holder, its number grows, and who waits gets it when it is given back."""
    async with memories.open() as memory:
        first = await memory.acquire_lock("book", holder="a")
        with pytest.raises(LockTimeoutError):
            await memory.acquire_lock("book", timeout=0.2, holder="b")
        waiting = asyncio.ensure_future(memory.acquire_lock("book", timeout=20.0, holder="b"))
        await turn()
        await memory.release_lock(first)
        second = await waiting
        assert second.fence > first.fence
        await memory.release_lock(second)


async def test_leases_run_out(memories: Memories) -> None:
    """Without a release a lock is free again when its lease is over, and its fence is stale."""
    async with memories.open() as memory:
        first = await memory.acquire_lock("book", lease=0.4, holder="a")
        second = await memory.acquire_lock("book", timeout=20.0, holder="b")
        assert second.fence > first.fence
        with pytest.raises(StaleFenceError):
            await memory.put("agent_1", "k", 1, fence=first)
        await memory.put("agent_1", "k", 2, fence=second)
        await memory.release_lock(second)


async def test_consensus(memories: Memories) -> None:
    """A proposal is decided once; a changed vote is refused; the decision is there after a reopen."""
    async with memories.open() as memory:
        for voter in ("a", "b", "c"):
            await memory.consensus.register_agent(voter)
        wanted = await memory.consensus.submit_proposal(Proposal("a", {"buy": 1}, quorum="2/3"))
        refused = await memory.consensus.submit_proposal(Proposal("a", {"buy": 2}, quorum="2/3"))
        assert isinstance(await memory.consensus.vote(Vote(wanted, "a", approve=True)), Pending)
        with pytest.raises(VoteChangedError):
            await memory.consensus.vote(Vote(wanted, "a", approve=False))
        assert await memory.consensus.vote(Vote(wanted, "b", approve=True)) == Approved()
        await memory.consensus.vote(Vote(refused, "a", approve=False))
        assert await memory.consensus.vote(Vote(refused, "b", approve=False)) == Rejected()
        assert await memory.consensus.wait(wanted, 20.0) == Approved()
    async with memories.open() as memory:
        assert await memory.consensus.get_result(wanted) == Approved()
        assert await memory.consensus.get_result(refused) == Rejected()


async def test_elections(memories: Memories) -> None:
    """One candidate leads at a time."""
    async with (
        memories.open() as memory,
        memory.elections.campaign("desk", candidate="a") as first,
    ):
        term = await anext(first)
        assert memory.elections.leader("desk").candidate == "a"
        async with memory.elections.campaign("desk", candidate="b") as second:
            waiting = asyncio.ensure_future(anext(second))
            await term.resign()
            later = await waiting
            assert later.fence > term.fence


async def test_policies_and_quotas(memories: Memories) -> None:
    """An agent's rights and share are kept wherever it calls from, also after a reopen."""
    async with memories.open() as memory:
        await memory.set_policy("agent_1", Policy(write=("agent_1/**",), read=("agent_1/**",)))
        await memory.set_quota("agent_2", max_keys=1)
        mine = memory.as_agent("agent_1")
        await mine.put("agent_1", "k", 1)
        with pytest.raises(PermissionDeniedError):
            await mine.put("agent_2", "k", 1)
        await memory.put("agent_2", "k", 1)
        with pytest.raises(QuotaError):
            await memory.put("agent_2", "l", 1)
    async with memories.open() as memory:
        with pytest.raises(PermissionDeniedError):
            await memory.as_agent("agent_1").put("agent_2", "k", 2)
        assert await memory.get("agent_2", "k") == 1


async def test_backtest(memories: Memories) -> None:
    """On a backtest timeline nothing past now is read or written, and now is the swarm's."""
    start = datetime(2020, 1, 2, tzinfo=UTC)
    async with memories.open(timeline="backtest") as memory:
        await memory.timeline.advance(start)
        await memory.put("agent_1", "k", 1)
        with pytest.raises(LookAheadError):
            await memory.get("agent_1", "k", as_of=start + timedelta(days=1))
        with pytest.raises(LookAheadError):
            await memory.put("agent_1", "k", 2, known_at=start + timedelta(days=1))
    async with memories.open(timeline="backtest") as memory:
        assert memory.timeline.now == start
        assert await memory.get("agent_1", "k", as_of=start) == 1


async def test_other_settings_are_refused(memories: Memories) -> None:
    """What belongs to the swarm was set when it was made; a node configured otherwise is refused."""
    async with memories.open(history=5):
        pass
    with pytest.raises(ConfigMismatchError, match="history"):
        await memories.open(history=7)
    with pytest.raises(ConfigMismatchError, match="timeline"):
        await memories.open(history=5, timeline="backtest")
    async with memories.open(history=5) as memory:
        assert await memory.get("agent_1", "k") is None


async def test_large_values(memories: Memories) -> None:
    """Values of any size come back as they were, also after a reopen."""
    rng = np.random.default_rng(3)
    values = {f"v{size}": rng.bytes(size) for size in (300_000, 600_000, 1_000_000, 2_500_000)}
    array = rng.normal(size=(1000, 400))
    async with memories.open() as memory:
        for key, value in values.items():
            await memory.put("agent_1", key, value)
        await memory.put("agent_1", "array", array)
        async with memory.transaction() as tx:  # one entry, of more than any message holds
            for number in range(4):
                tx.put("agent_1", f"t{number}", values["v600000"])
    async with memories.open() as memory:
        for key, value in values.items():
            assert await memory.get("agent_1", key) == value
        assert np.array_equal(await memory.get("agent_1", "array"), array)
        assert await memory.get("agent_1", "t3") == values["v600000"]


async def test_many_writers(memories: Memories) -> None:
    """Writers that overlap are all told, in the order of their calls."""
    async with memories.open() as memory:
        revisions = await asyncio.gather(*(memory.put("agent_1", f"k{i}", i) for i in range(1000)))
        assert revisions == sorted(revisions)
        assert len(set(revisions)) == 1000
        await memory.flush()
        await memory.sync()
        await memory.wait_for(revisions[-1])
        stats = memory.stats()
        assert (stats.lag, stats.pending_bytes) == (0, 0)


async def test_messages(memories: Memories) -> None:
    """Messages reach who is subscribed, in order; a request that nobody takes says so."""
    async with memories.open() as memory:
        rx = await memory.subscribe("desk/*")
        for i in range(50):
            await memory.publish("desk/a", i)
        assert [await rx.recv(timeout=20.0) for _ in range(50)] == list(range(50))
        with pytest.raises(NoResponderError):
            await memory.request("nobody", 1, timeout=20.0)

        async def answer() -> None:
            message = await rx.recv_message(timeout=20.0)
            await memory.reply(message, message.value + 1)

        answering = asyncio.ensure_future(answer())
        assert await memory.request("desk/a", 41, timeout=20.0) == 42
        await answering
        await rx.close()


async def test_export_and_import(memories: Memories, tmp_path: Path) -> None:
    """What is exported has the same rows wherever it is exported from, and can be imported anywhere."""
    async with memories.open() as memory:
        revision = await memory.put("agent_1", "k", {"x": 1})
        await memory.observe("agent_1", [0.1, 0.2], {"n": 1})
        await memory.export(tmp_path / "out.jsonl.zst")
        await memory.snapshot(tmp_path / "copy")
    await asyncio.to_thread(import_store, tmp_path / "out.jsonl.zst", tmp_path / "imported")
    for made in ("copy", "imported"):
        async with MemorySystem.open(tmp_path / made) as memory:
            assert (await memory.get_record("agent_1", "k")).revision == revision
            assert (await memory.search_similar("agent_1", [0.1, 0.2]))[0].data == {"n": 1}
            assert await memory.put("agent_1", "k", 2) > revision


async def test_compaction(memories: Memories) -> None:
    """A compacted store answers as before, goes on, and reopens."""
    async with memories.open() as memory:
        for i in range(50):
            await memory.put("agent_1", "k", i)
        await memory.compact()
        assert await memory.get("agent_1", "k") == 49
        await memory.put("agent_1", "k", 50)
    async with memories.open() as memory:
        assert await memory.get("agent_1", "k") == 50
        await memory.put("agent_1", "k", 51)
        assert await memory.get("agent_1", "k") == 51


async def test_closed(memories: Memories) -> None:
    """After `close` calls say so; closing twice is harmless."""
    memory = await memories.open()
    await memory.close()
    await memory.close()
    with pytest.raises(ClosedError):
        await memory.put("agent_1", "k", 1)


async def test_unencodable_is_refused(memories: Memories) -> None:
    """What cannot be stored raises before anything is sent."""
    async with memories.open() as memory:
        with pytest.raises(InvalidInputError):
            await memory.put("agent_1", "k", object())
        assert await memory.get("agent_1", "k") is None
