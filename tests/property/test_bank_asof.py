"""Canaries: an outcome that was not known, or not recorded, at the moment asked is never used."""

import asyncio
import math
from datetime import timedelta

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nt_memory.clock import ManualClock, to_us
from nt_memory.reasoningbank import ReasoningBank, Trajectory
from nt_memory.records import AsOf
from nt_memory.testing.backing import MemoryBacking

CANARY = 1e9
AGENTS = ("a", "b", "c")

steps = st.lists(
    st.tuples(
        st.sampled_from(
            ("track", "track", "outcome", "outcome", "late", "revise", "forget", "wait")
        ),
        st.integers(0, 200),
    ),
    min_size=10,
    max_size=60,
)


class World:
    """A history, and beside it the plain list of what was known when."""

    def __init__(self):
        self.clock = ManualClock()
        self.backing = MemoryBacking(self.clock)
        self.bank = self.new_bank()
        self.rng = np.random.default_rng(3)
        self.tracked = []
        self.versions = {}  # id -> [(known_us, revision, value)]
        self.forgotten = {}  # id -> (known_us, revision)

    def new_bank(self):
        bank = ReasoningBank(self.backing, kmeans=self.backing.kmeans)
        self.backing.followers[:] = [bank.follow]
        return bank

    async def step(self, kind, number):
        if kind == "wait":
            self.clock.advance(number)
        elif kind == "track":
            name = f"t{len(self.tracked)}"
            agent = AGENTS[number % 3]
            embedding = self.rng.normal(size=3)
            built = Trajectory(agent, id=name).add_observation(None, embedding)
            built.add_action("x", None, 0.0, predicted_interval=(-1.0, 1.0), baseline=0.0)
            await self.bank.track_trajectory(built)
            self.tracked.append((name, agent, to_us(self.clock.now())))
        elif self.tracked:
            name, _, at = self.tracked[number % len(self.tracked)]
            if name not in self.forgotten:
                await self.change(kind, name, at)
        self.clock.advance(1)

    async def change(self, kind, name, at):
        versions = self.versions.setdefault(name, [])
        if kind == "forget":
            revision = await self.bank.forget([name])
            self.forgotten[name] = (to_us(self.clock.now()), revision)
            return
        known = self.clock.now()
        if kind == "late":
            known -= timedelta(microseconds=(to_us(known) - at) // 2)
        if versions and (kind != "revise" or to_us(known) < versions[-1][0]):
            return
        value = float(len(self.tracked) + len(versions))
        before = versions[-1][1] if versions else None
        verdict = await self.bank.record_outcome(name, value, known_at=known, revision_of=before)
        versions.append((to_us(known), verdict.revision, value))

    def counting(self, agents, time_us, revision):
        """Reference: what an honest memory may recall."""
        found = {}
        for name, agent, _ in self.tracked:
            gone = self.forgotten.get(name, (math.inf, math.inf))
            shown = [v for v in self.versions.get(name, ()) if v[0] <= time_us and v[1] <= revision]
            if agent in agents and shown and not (gone[0] <= time_us and gone[1] <= revision):
                found[name] = max(shown)[2]
        return found


async def check(world, bank, agents, as_of, time_us, revision):
    expected = world.counting(agents, time_us, revision)
    advice = await bank.advise(agents, [1.0, 0.5, 0.2], action_type="x", as_of=as_of, k=1000)
    assert advice.known == len(expected)
    if not advice.is_abstaining:
        used = {memory.ref.trajectory_id: memory.outcome for memory in advice.memories()}
        assert used == expected
        assert {ref.agent for ref in advice.receipt.memories} <= set(agents)
    return advice


@settings(max_examples=60, deadline=None)
@given(steps, st.integers(0, 10**6), st.integers(0, 10**6))
def test_only_what_was_known_and_recorded_then_is_ever_recalled(history, place, other):
    """Advice at any moment uses exactly what both clocks allow; late, revised, forgotten included."""

    async def body():
        world = World()
        await world.bank.define("x", target="x", unit="1", horizon=1)
        start = to_us(world.clock.now())
        for _ in range(12):
            await world.step("track", place)
        for number in range(12):
            await world.step("outcome", number)
        for kind, number in history:
            await world.step(kind, number)
            if number % 7 == 0:
                now = to_us(world.clock.now())
                await check(world, world.bank, AGENTS[:2], None, now, world.backing.revision)
        end, last = to_us(world.clock.now()), world.backing.revision
        revision = 1 + place % last
        time_us = start + other % (end - start + 1)
        at = world.clock.now() - timedelta(microseconds=end - time_us)
        agents = AGENTS[: 1 + place % 3]
        await check(world, world.bank, agents, at, time_us, last)
        seen = await check(world, world.bank, agents, AsOf(at, revision), time_us, revision)
        fresh = world.new_bank()
        again = await check(world, fresh, agents, AsOf(at, revision), time_us, revision)
        assert again.to_dict() == seen.to_dict()
        now = await world.bank.advise(agents, [1.0, 0.5, 0.2], action_type="x")
        assert (
            await fresh.advise(agents, [1.0, 0.5, 0.2], action_type="x")
        ).to_dict() == now.to_dict()

    asyncio.run(body())


async def plant(world, kind, name, at):
    known = world.clock.now()
    if kind == "late":
        known -= timedelta(microseconds=(to_us(known) - at) // 3)
    versions = world.versions.get(name)
    if name in world.forgotten or (versions and to_us(known) < versions[-1][0]):
        return
    before = versions[-1][1] if versions else None
    await world.bank.record_outcome(name, CANARY, known_at=known, revision_of=before)


@settings(max_examples=25, deadline=None)
@given(steps, st.sampled_from(("outcome", "revise", "late")))
def test_canaries_planted_afterwards_change_nothing(history, kind):
    """Outcomes recorded after a revision never change one bit of the advice as of that revision."""

    async def body():
        world = World()
        await world.bank.define("x", target="x", unit="1", horizon=1)
        for number in range(24):
            await world.step("track", number)
        for number in range(14):
            await world.step("outcome", number)
        for step in history:
            await world.step(*step)
        then = AsOf(world.clock.now(), world.backing.revision)

        async def ask():
            advice = await world.bank.advise(
                AGENTS, [1.0, 0.2, 0.1], action_type="x", as_of=then, baseline=0.5
            )
            return advice.to_dict(), advice.receipt.memories

        before = await ask()
        for name, _, at in world.tracked:
            await plant(world, kind, name, at)
        assert await ask() == before

    asyncio.run(body())
