"""A distillation that was killed goes on where it was, and ends as if nobody had killed it."""

import asyncio
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from nt_memory import MemoryConfig, MemorySystem, Trajectory
from nt_memory.clock import ManualClock
from nt_memory.errors import ConflictError
from nt_memory.reasoningbank import ReasoningBank
from nt_memory.system.drafts import MAX_REQUESTS, DraftFiles
from nt_memory.testing.backing import MemoryBacking

DAY = timedelta(days=1)
AGENTS = ["a", "b", "c"]


class KilledError(Exception):
    """What ends a distillation in the middle."""


class World:
    """A bank whose clusterings are counted, and days of forecasts of three agents."""

    def __init__(self):
        self.clock = ManualClock()
        self.backing = MemoryBacking(self.clock)
        self.clusterings = 0
        self.days = 0
        self.bank = self.new_bank()

    def halves(self, vectors, k, seed):
        del k, seed
        self.clusterings += 1
        return vectors[:2], (vectors[:, 0] > 0).astype(np.int64)

    def new_bank(self):
        bank = ReasoningBank(self.backing, kmeans=self.halves)
        self.backing.followers[:] = [bank.follow]
        return bank

    async def live(self, days):
        rng = np.random.default_rng(self.days)
        start = self.clock.now()
        self.clock.advance((days + 2) * 86_400)
        built = []
        for day in range(days):
            at = start + day * DAY
            for agent in AGENTS:
                trend = float(rng.normal())
                one = Trajectory(agent, id=f"{agent}/{self.days + day}")
                one.add_observation(None, [trend, 1.0, 3.0], at=at)
                one.add_action("f", None, 0.0, baseline=0.0, at=at)
                built.append(one.add_outcome(float(rng.normal()) + (trend > 0), at=at + DAY))
        await self.bank.track_many(built)
        self.days += days

    async def begin(self, *, look=True):
        """Define, live and distil, and be killed when two of three sets are done."""
        await self.bank.define("f", target="return", unit="sd", horizon=1, looks=2)
        await self.live(300)

        def kill(done, of):
            if (done, of) == (2, 3):
                raise KilledError

        with pytest.raises(KilledError):
            await self.bank.distill(AGENTS, look=look, request_id="r", progress=kill)
        self.bank = self.new_bank()


def spelled(patterns):
    """All of a pattern's numbers."""
    return [repr(one.to_doc()) for one in patterns]


@pytest.mark.parametrize("look", [False, True])
def test_a_killed_distillation_goes_on_and_ends_as_it_would_have(look):
    """What was worked out is not worked out again, and what came meanwhile changes nothing."""

    async def body():
        world, other = World(), World()
        await other.bank.define("f", target="return", unit="sd", horizon=1, looks=2)
        await other.live(300)
        whole = await other.bank.distill(AGENTS, look=look)
        await world.begin(look=look)
        assert world.clusterings == 2
        assert await world.bank.patterns("a") == []  # nothing of it is stored before it is done
        await world.live(30)
        resumed = await world.bank.distill(AGENTS, look=look, request_id="r")
        assert world.clusterings == 3
        assert spelled(resumed) == spelled(whole)
        assert not look or any(one.is_promoted for one in resumed)
        assert world.backing.kept_drafts["r"].kept == {}
        again = await world.bank.distill(AGENTS, look=look, request_id="r")
        assert (world.clusterings, spelled(again)) == (3, spelled(whole))

    asyncio.run(body())


@pytest.mark.parametrize("other", ["agents", "look", "as_of", "damaged"])
def test_what_belongs_to_something_else_is_not_gone_on_with(other):
    """Other arguments or another moment begin anew; what is damaged is found again."""

    async def body():
        world = World()
        await world.begin()
        await world.live(30)
        kept = world.backing.kept_drafts["r"].kept
        names = [name for name in kept if name != "plan"]
        asked = {"agents": AGENTS, "look": True}
        if other == "agents":
            asked["agents"] = AGENTS[:2]
        elif other == "look":
            asked["look"] = False
        elif other == "as_of":
            asked["as_of"] = world.clock.now()
        else:
            kept[names[0]], kept[names[1]] = kept[names[1]], b"\x93\x01"
        agents = asked.pop("agents")
        found = await world.bank.distill(agents, request_id="r", **asked)
        assert world.clusterings == 2 + len(agents)
        expected = 300 if other == "damaged" else 330
        assert sum(one.n for one in found if one.agent == "a") == expected

    asyncio.run(body())


def test_a_look_that_lost_to_another_begins_anew():
    """The look taken meanwhile is refused to the old moment; the next attempt is of a new one."""

    async def body():
        world = World()
        await world.begin()
        await world.bank.distill("a", look=True)
        with pytest.raises(ConflictError):
            await world.bank.distill(AGENTS, look=True, request_id="r")
        found = await world.bank.distill(AGENTS, look=True, request_id="r")
        assert len({one.as_of_us for one in found if one.p_value is not None}) == 1

    asyncio.run(body())


def test_files_of_a_store_are_gone_on_with_after_it_was_reopened(tmp_path):
    """Drafts lie beside the store until the work is done, and then nowhere."""

    async def body():
        start = datetime(2020, 1, 1, tzinfo=UTC)
        config = MemoryConfig(storage_path=tmp_path / "m", timeline="backtest")
        rng = np.random.default_rng(1)
        built = []
        for day, agent in np.ndindex(60, 2):
            at = start + day * DAY
            one = Trajectory(AGENTS[agent], id=f"{agent}/{day}")
            one.add_observation(None, rng.normal(size=3) + 2.0, at=at)
            one.add_action("f", None, 0.0, baseline=0.0, at=at)
            built.append(one.add_outcome(float(rng.normal()), at=at + DAY))

        def kill(done, of):
            if done == 1:
                raise KilledError(of)

        async with MemorySystem.open(config) as memory:
            await memory.timeline.advance(start + 100 * DAY)
            await memory.bank.define("f", target="t", unit="1", horizon=1)
            await memory.track_many(built)
            with pytest.raises(KilledError):
                await memory.bank.distill(AGENTS[:2], request_id="r", progress=kill)
        assert len(list((tmp_path / "m" / "drafts").glob("*/set-*"))) == 1
        async with MemorySystem.open(config) as memory:
            await memory.put("a", "k", 1)
            resumed = await memory.bank.distill(AGENTS[:2], request_id="r")
            assert {one.agent for one in resumed} == {"a", "b"}
            # As of the moment of the first call, before the put.
            assert all(
                int(one.id.split("-")[1].split("/")[0]) < memory.revision - 1 for one in resumed
            )
        assert not (tmp_path / "m" / "drafts").exists()

    asyncio.run(body())


def test_draft_files_are_whole_or_nothing(tmp_path):
    """What is missing, cut off or changed was never saved; requests do not see each other's."""
    drafts = DraftFiles(tmp_path / "d", "r")
    assert drafts.load("x") is None
    drafts.save("x", b"one")
    drafts.save("x", b"two")
    assert drafts.load("x") == b"two"
    assert DraftFiles(tmp_path / "d", "s").load("x") is None
    (path,) = (tmp_path / "d").glob("*/x")
    for damage in (path.read_bytes()[:-1], b"", path.read_bytes().replace(b"two", b"six")):
        path.write_bytes(damage)
        assert drafts.load("x") is None
    for number in range(MAX_REQUESTS + 3):
        DraftFiles(tmp_path / "d", f"r{number}").save("x", b"y")
    assert len(list((tmp_path / "d").iterdir())) == MAX_REQUESTS
    (tmp_path / "file").write_text("")
    DraftFiles(tmp_path / "file", "r").save("x", b"")  # nowhere to keep it: no error
    for one in (drafts, *(DraftFiles(tmp_path / "d", f"r{n}") for n in range(MAX_REQUESTS + 3))):
        one.clear()
    assert not (tmp_path / "d").exists()
