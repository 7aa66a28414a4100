"""What a look around needs: who is there, the vector of an observation, what the environment names."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from nt_memory import MemoryConfig, MemorySystem, Policy, Proposal, Trajectory, Vote
from nt_memory.apps.cli.voting import _until_decided
from nt_memory.clock import turn
from nt_memory.config import names_swarm_settings
from nt_memory.errors import (
    ConfigMismatchError,
    InvalidNameError,
    NoStoreError,
    PermissionDeniedError,
    UnknownProposalError,
)
from nt_memory.system.memory import Opening


def test_agents_lists_who_has_stored_something(live):
    """Every agent once, by name, whether it has keys or decisions, also if they were deleted."""

    async def body(memory):
        assert await memory.agents() == []
        for agent in ("b", "a", "a.1", "a-1", "Z", "b2"):
            await memory.put(agent, "x", 1)
            await memory.put(agent, "x/y", 1)
        await memory.delete("b2", "x")
        await memory.track_trajectory(Trajectory("judge", id="t").add_action("look", {}))
        assert await memory.agents() == ["Z", "a", "a-1", "a.1", "b", "b2", "judge"]
        # Names only: an agent that may read nothing else still sees who is there.
        await memory.set_policy("a", Policy())
        assert len(await memory.as_agent("a").agents()) == 7

    live(body)


def test_the_embedding_of_an_observation_finds_it(live):
    """Of length 1, as of any moment, None where there is none; searching with it finds it first."""

    async def body(memory):
        await memory.observe("a", [3.0, 4.0], key="one")
        first = memory.revision
        await memory.observe("a", [0.0, 2.0], key="one")
        await memory.observe("a", [1.0, 0.0], key="two")
        await memory.put("a", "plain", 1)
        now, was = (
            await memory.get_embedding("a", "one"),
            await memory.get_embedding("a", "one", as_of=first),
        )
        assert now.dtype == np.float32
        assert np.allclose(now, [0.0, 1.0], atol=1e-3)
        assert np.allclose(was, [0.6, 0.8], atol=1e-3)
        assert (await memory.search_similar("a", now, 1))[0].key == "one"
        for agent, key in (("a", "plain"), ("a", "none"), ("b", "one")):
            assert await memory.get_embedding(agent, key) is None
        await memory.delete("a", "one")
        assert await memory.get_embedding("a", "one") is None
        with pytest.raises(InvalidNameError):
            await memory.get_embedding("a", "..")
        await memory.set_policy("c", Policy(read=("c/**",)))
        with pytest.raises(PermissionDeniedError):
            await memory.as_agent("c").get_embedding("a", "two")

    live(body)


def test_the_embedding_is_the_new_one_after_reembedding(live):
    """Of whatever dimension that is, also for what was there before."""

    async def body(memory):
        await memory.observe("a", [1.0, 0.0], {"n": 1}, key="one")
        before = memory.revision

        def embed(records):
            return [[0.0, 0.0, float(record.value["n"])] for record in records]

        await memory.reembed("a", embed)
        for as_of in (None, before):
            found = await memory.get_embedding("a", "one", as_of=as_of)
            assert np.allclose(found, [0.0, 0.0, 1.0], atol=1e-3)

    live(body)


def test_a_decision_is_waited_for_by_a_follower(run, store):
    """`proposals --decided`: what waits is woken by the vote that another instance casts."""

    async def body():
        async with MemorySystem.open(store) as writer:
            await writer.consensus.submit_proposal(
                Proposal("a", None, id="p", weights={"a": 1}, quorum=1)
            )
            async with MemorySystem.open(store, read_only=True) as follower:
                waiting = asyncio.ensure_future(_until_decided(follower, "p", None))
                await turn()
                assert not waiting.done()
                await writer.put("a", "other", 1)
                await follower.wait_for(writer.revision)
                assert not waiting.done()
                await writer.consensus.vote(Vote("p", "a", True))
                await waiting
                with pytest.raises(UnknownProposalError):
                    await _until_decided(follower, "q", None)

    run(body())


def test_a_missing_store_has_an_error_of_its_own(run, tmp_path):
    """So that it can be told from a disk that fails."""

    async def body():
        with pytest.raises(NoStoreError, match="there is no store here"):
            await MemorySystem.open(tmp_path / "nowhere", read_only=True)

    run(body())


def test_settings_of_the_swarm_are_adopted_unless_they_are_named(run, tmp_path):
    """A configuration that only says where a store is opens it as it was made."""
    config = MemoryConfig(
        storage_path=tmp_path / "m", timeline="backtest", swarm="paper", history=3
    )

    async def body():
        async with MemorySystem.open(config):
            pass
        plain = MemoryConfig(storage_path=tmp_path / "m")
        opening = Opening(plain, clock=None, read_only=False, adopt_settings=True)
        async with opening as memory:
            assert memory.timeline.is_backtest
        with pytest.raises(ConfigMismatchError):
            await MemorySystem.open(plain)

    run(body())
    assert not names_swarm_settings({"NT_MEMORY_AGENT": "a", "PATH": "/bin"})
    for name in ("SWARM", "TIMELINE", "HISTORY"):
        assert names_swarm_settings({f"NT_MEMORY_{name}": "live"})
