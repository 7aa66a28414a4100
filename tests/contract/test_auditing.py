"""Nodes prove to each other that they agree; one that does not stops, and says since which entry."""

from __future__ import annotations

import asyncio
import logging
import shutil
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nt_memory import MemoryConfig, MemorySystem, Proposal, Vote
from nt_memory.clock import SystemClock
from nt_memory.codec import encode
from nt_memory.entries import Write
from nt_memory.errors import CorruptionError, NtMemoryError
from nt_memory.system import auditing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nats_server import NatsServer


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes state and judge more often than a swarm needs."""
    for name, value in (("STATE_S", 0.05), ("SETTLE_S", 0.3), ("LOOK_S", 0.05)):
        monkeypatch.setattr(auditing, name, value)


@pytest.fixture
def opened(nats_server: NatsServer, swarm: str, tmp_path: Path) -> Callable[..., Any]:
    """Opens nodes of one swarm."""

    def node(name: str, **settings: Any) -> Any:
        return MemorySystem.open(
            MemoryConfig(url=nats_server.url, swarm=swarm, storage_path=tmp_path / name, **settings)
        )

    return node


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what has to come."""
    while not holds():
        await SystemClock().sleep(0.01)


def goes_astray(memory: Any, key: str) -> None:
    """From now on this node's replica takes a write to `key` for another."""
    replica = memory._engine.opened.replica
    right = replica._handlers[Write]

    def wrong(step: Any) -> Any:
        write = step.entry.body
        if write.ops[0].key != key:
            return right(step)
        ops = (type(write.ops[0])(**{**_fields(write.ops[0]), "value": encode("wrong")}),)
        body = type(write)(**{**_fields(write), "ops": ops})
        entry = type(step.entry)(**{**_fields(step.entry), "body": body})
        return right(step._replace(entry=entry))

    replica._handlers[Write] = wrong


def _fields(struct: Any) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


async def test_the_node_that_differs_stops(
    opened: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Of three nodes the one whose replica took an entry otherwise stops, naming that entry; the others
    go on. What it has is not used again: it opens with a new replica, like the others'.
    """
    async with AsyncExitStack() as stack:
        one, other = [await stack.enter_async_context(opened(name)) for name in ("a", "b")]
        bad = await opened("c")
        for i in range(30):
            await one.put("agent_1", f"before/{i}", i)
        await bad.sync()
        goes_astray(bad, "planted")
        await one.put("agent_1", "planted", "right")
        place = one._engine.opened.replica.ledger.ring.last
        for i in range(30):
            await one.put("agent_1", f"after/{i}", i)
        with caplog.at_level(logging.WARNING, "nt_memory"):
            await until(lambda: bad._engine.writing.failure is not None)
            await until(
                lambda: "is in the minority" in caplog.text
            )  # the others look at times of their own
        with pytest.raises(CorruptionError) as stopped:
            await bad.get("agent_1", "planted")
        assert f"the first entry that they took otherwise is {place} (write of nobody" in str(
            stopped.value
        )
        assert "differs from that of 2 other nodes" in str(stopped.value)
        root = bad._engine.opened.directory.path
        await bad.close()
        assert str(place) in (root / auditing.DIVERGED).read_text()
        async with opened("c") as again:
            assert again._engine.opened.directory.path == root.parent / "1"
            assert await again.get("agent_1", "planted") == "right"
        for memory in (one, other):
            await memory.sync()
            assert await memory.get("agent_1", "planted") == "right"
            await memory.put("agent_1", "goes", "on")


async def test_of_two_both_stop(opened: Callable[..., Any]) -> None:
    """Where nobody can tell which is wrong, neither answers any more."""
    one, other = await opened("a"), await opened("b")
    await one.put("agent_1", "k", 1)
    await other.sync()
    goes_astray(other, "planted")
    await one.put("agent_1", "planted", "right")
    await until(lambda: None not in (one._engine.writing.failure, other._engine.writing.failure))
    for memory in (one, other):
        with pytest.raises(CorruptionError, match="first entry that they took otherwise"):
            await memory.put("agent_1", "k", 2)
        await memory.close()


async def test_nodes_that_agree_never_stop(opened: Callable[..., Any], tmp_path: Path) -> None:
    """Under everything that a replica's rows may differ by and mean the same, nodes agree: one that
    compacts, with rows numbered anew; one that began with a snapshot; one that was opened again, and
    one whose views were made anew; with history, retention, expiries, locks, ballots and refusals.
    """
    rng = np.random.default_rng(3)
    async with AsyncExitStack() as stack:
        one, other = [
            await stack.enter_async_context(opened(name, history=3)) for name in ("a", "b")
        ]

        async def work(seed: int) -> None:
            for i in range(40):
                await one.put("agent_1", f"k/{i % 7}", {"i": i, "seed": seed})
                await other.put("agent_2", f"t/{i % 5}", i, ttl=0.05)
                keys = [f"v/{n}" for n in range(8)]
                vectors = rng.normal(size=(8, 4)).astype(np.float32)
                await other.observe_many("agent_1", vectors, [{}] * 8, keys=keys)
                if i % 9 == 0:
                    await one.delete("agent_1", f"k/{i % 7}")
                if i % 10 == 0:
                    with pytest.raises(NtMemoryError):
                        await one.put("agent_1", "k/0", 1, expect=10**9)
            async with one.lock("book"), other.lock("desk"):
                pass
            for voter in ("agent_1", "agent_2"):
                await one.consensus.register_agent(voter)
            made = await one.consensus.submit_proposal(Proposal("agent_1", {"n": seed}))
            await other.consensus.vote(Vote(made, "agent_1", approve=True))

        await work(1)
        await other.compact()
        await one.share_snapshot()
        joined = await stack.enter_async_context(opened("c", history=3))
        await work(2)
        async with opened("d", history=3) as again:
            await again.sync()
        views = again._engine.opened.directory.views
        shutil.rmtree(views)
        again = await stack.enter_async_context(opened("d", history=3))
        await joined.compact()
        await work(3)
        nodes = (one, other, joined, again)
        for memory in nodes:
            await memory.sync()
        await SystemClock().sleep(
            1.0
        )  # several rounds; nothing has to happen, so nothing is awaited
        ends = {
            (m._engine.opened.replica.sequence, m._engine.opened.replica.ledger.digest)
            for m in nodes
            if await m.sync() is None
        }
        # Ticks come between; what each has at the sequence that all have is the same.
        common = min(sequence for sequence, _ in ends)
        rings = [m._engine.opened.replica.ledger.ring for m in nodes]
        assert len({found.at(common) for found in rings}) == 1
        assert rings[0].at(common) is not None
        for memory in nodes:
            assert memory._engine.writing.failure is None
            assert await memory.get("agent_1", "k/2") is not None


async def test_a_copy_goes_its_own_way(opened: Callable[..., Any], tmp_path: Path) -> None:
    """A copy of a node's replica that is opened by itself has nobody to agree with, and keeps no digest."""
    async with opened("a") as one:
        await one.put("agent_1", "k", 1)
        assert one._engine.opened.replica.ledger.digest is not None
        await one.snapshot(tmp_path / "copy")
    async with MemorySystem.open(tmp_path / "copy") as copy:
        assert copy._engine.opened.replica.ledger.digest is None
        await copy.put("agent_1", "k", 2)
        await copy.compact()


async def test_a_statement_that_is_none_stops_nobody(opened: Callable[..., Any]) -> None:
    """Rubbish under the statements' subjects, and statements of another swarm's stream, are dropped."""
    async with opened("a") as one, opened("b") as other:
        await one.put("agent_1", "k", 1)
        link = one._engine.journal.link
        subject = link.subjects.statement("mallory")
        good = b"\xb4\x01" + b"\x94\xa5other\xa1s\x01\xc4\x08" + b"\1" * 8
        for data in (b"", b"{}", b"\xb4\x01", b"\xb4\x01\x94", good, good[:-1]):

            async def say(data: bytes = data) -> None:
                await link.client.publish(subject, data)
                await link.check()

            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(say(), link.loop))
        await SystemClock().sleep(0.5)
        await other.sync()
        assert await other.put("agent_1", "k", 2)
