"""Consensus calls over an in-memory replica: what a caller passes and gets."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import pytest

from nt_memory.clock import ManualClock
from nt_memory.coordination.consensus import Consensus
from nt_memory.coordination.proposals import (
    Approved,
    Pending,
    Proposal,
    Rejected,
    Vote,
    read_quorum,
    read_weight,
)
from nt_memory.errors import (
    ClosedError,
    InvalidInputError,
    InvalidNameError,
    InvalidTimeError,
    NotRegisteredError,
    ProposalError,
    ProposalTimeoutError,
    UnknownProposalError,
)
from nt_memory.testing.submitter import FakeReplica


class World:
    """A clock, a replica and the consensus calls over it."""

    def __init__(self, *, repeat: bool = False) -> None:
        self.clock = ManualClock()
        self.replica = FakeReplica(self.clock, repeat=repeat)
        self.consensus = Consensus(
            self.replica.submit,
            self.replica,
            self.clock,
            msgspec.msgpack.encode,
            msgspec.msgpack.decode,
        )
        self.replica.follow_ballots = self.consensus.follow

    async def idle(self) -> None:
        for _ in range(30):
            await self.clock.sleep(0)

    async def register(self, **weights: Any) -> None:
        for agent, weight in weights.items():
            await self.consensus.register_agent(agent, weight)


@pytest.fixture(params=[False, True], ids=["once", "repeated"])
def world(request: pytest.FixtureRequest) -> World:
    """Every promise holds too if the journal gets every entry twice."""
    return World(repeat=request.param)


def test_two_of_three_approve(world: World) -> None:
    """The example of the API: register, propose, vote, read the result."""

    async def main() -> None:
        await world.register(a=1.0, b=1.0, c=1.0)
        name = await world.consensus.submit_proposal(Proposal("a", {"target": 0.5}))
        assert await world.consensus.vote(Vote(name, "a", approve=True)) == Pending(1 / 3, 1)
        assert await world.consensus.get_result(name) == Pending(1 / 3, 1)
        assert await world.consensus.vote(Vote(name, "b", approve=True)) == Approved()
        assert await world.consensus.vote(Vote(name, "c", approve=False)) == Approved()
        assert await world.consensus.get_result(name) == Approved()

    asyncio.run(main())


def test_record_shows_everything_that_bears_on_the_decision(world: World) -> None:
    """Electorate, weights, quorum, every vote and both times."""

    async def main() -> None:
        await world.register(a=0.1, b="1/3")
        deadline = world.clock.now() + timedelta(hours=1)
        start = world.clock.now()
        await world.consensus.submit_proposal(Proposal("a", [1], 0.67, deadline, id="p"))
        world.clock.advance(5)
        await world.consensus.vote(Vote("p", "b", approve=False, weight=Fraction(1, 3)))
        record = await world.consensus.get_proposal("p")
        assert record is not None
        assert record.electorate == {"a": Fraction(1, 10), "b": Fraction(1, 3)}
        assert (record.quorum, record.deadline, record.data) == (Fraction(2, 3), deadline, [1])
        assert (record.result, record.submitted_at) == (Rejected(), start)
        assert record.decided_at == start + timedelta(seconds=5)
        [cast] = record.votes
        assert (cast.voter, cast.approve, cast.weight) == ("b", False, Fraction(1, 3))
        assert cast.at == record.decided_at

    asyncio.run(main())


def test_wait_is_woken_by_the_deciding_vote(world: World) -> None:
    """Several may wait; a decided proposal needs no waiting."""

    async def main() -> None:
        await world.register(a=1)
        await world.consensus.submit_proposal(Proposal("a", None, id="p"))
        waiting = [asyncio.create_task(world.consensus.wait("p", 5.0)) for _ in range(3)]
        await world.idle()
        await world.consensus.vote(Vote("p", "a", approve=True))
        assert await asyncio.gather(*waiting) == [Approved()] * 3
        assert await world.consensus.wait("p", 0) == Approved()
        assert world.consensus._waiting == {}

    asyncio.run(main())


def test_wait_times_out_and_leaves_the_proposal_open(world: World) -> None:
    """The error says how far it is."""

    async def main() -> None:
        await world.register(a=1, b=1)
        await world.consensus.submit_proposal(Proposal("a", None, quorum=1.0, id="p"))
        await world.consensus.vote(Vote("p", "a", approve=True))
        waiting = asyncio.create_task(world.consensus.wait("p", 5.0))
        await world.idle()
        world.clock.advance(5)
        with pytest.raises(ProposalTimeoutError, match=r"50\.0% approve, 1 more"):
            await waiting
        assert await world.consensus.vote(Vote("p", "b", approve=True)) == Approved()

    asyncio.run(main())


def test_deadline_decides_for_those_who_wait(world: World) -> None:
    """The tick after the deadline rejects."""

    async def main() -> None:
        await world.register(a=1)
        deadline = world.clock.now() + timedelta(seconds=10)
        await world.consensus.submit_proposal(Proposal("a", None, deadline=deadline, id="p"))
        waiting = asyncio.create_task(world.consensus.wait("p"))
        await world.idle()
        world.clock.advance(10)
        world.replica.tick()
        assert await waiting == Rejected()

    asyncio.run(main())


def test_given_weights_are_the_electorate(world: World) -> None:
    """Registered agents that they do not name cannot vote."""

    async def main() -> None:
        await world.register(z=1)
        weights = {"a": 0.5, "b": Decimal("0.25"), "c": 0}
        await world.consensus.submit_proposal(Proposal("risk", None, weights=weights, id="p"))
        with pytest.raises(NotRegisteredError):
            await world.consensus.vote(Vote("p", "z", approve=True))
        assert await world.consensus.vote(Vote("p", "c", approve=True)) == Pending(0.0, 1)
        with pytest.raises(ProposalError):
            await world.consensus.vote(Vote("p", "a", approve=True, weight=0.51))
        assert await world.consensus.vote(Vote("p", "a", approve=True, weight=0.5)) == Approved()

    asyncio.run(main())


def test_same_id_twice(world: World) -> None:
    """Identical content is harmless, other content refused; empty ids are made up."""

    async def main() -> None:
        await world.register(a=1)
        proposal = Proposal("a", {"x": 1}, id="p")
        assert await world.consensus.submit_proposal(proposal) == "p"
        assert await world.consensus.submit_proposal(proposal) == "p"
        with pytest.raises(ProposalError, match="another"):
            await world.consensus.submit_proposal(Proposal("a", {"x": 2}, id="p"))
        other = await world.consensus.submit_proposal(Proposal("a", {"x": 2}))
        assert other not in {"", "p"}
        listed = await world.consensus.list_proposals()
        assert [record.id for record in listed] == ["p", other]

    asyncio.run(main())


def test_cleanup_forgets_old_decisions_only(world: World) -> None:
    """By age of the decision; open ones stay."""

    async def main() -> None:
        await world.register(a=1)
        for name in ("old", "new", "open"):
            await world.consensus.submit_proposal(Proposal("a", None, id=name))
        await world.consensus.vote(Vote("old", "a", approve=True))
        world.clock.advance(60)
        await world.consensus.vote(Vote("new", "a", approve=True))
        assert await world.consensus.cleanup_old(timedelta(seconds=60)) == 1
        assert await world.consensus.get_proposal("old") is None
        with pytest.raises(UnknownProposalError):
            await world.consensus.get_result("old")
        assert {r.id for r in await world.consensus.list_proposals()} == {"new", "open"}
        assert await world.consensus.cleanup_old(0) == 1

    asyncio.run(main())


def test_close_wakes_waiters(world: World) -> None:
    """They get the reason."""

    async def main() -> None:
        await world.register(a=1)
        await world.consensus.submit_proposal(Proposal("a", None, id="p"))
        waiting = asyncio.create_task(world.consensus.wait("p"))
        await world.idle()
        world.consensus.close(ClosedError("the memory was closed"))
        with pytest.raises(ClosedError):
            await waiting
        with pytest.raises(ClosedError):
            await world.consensus.vote(Vote("p", "a", approve=True))

    asyncio.run(main())


@pytest.mark.parametrize(
    ("quorum", "meant"),
    [
        ("2/3", Fraction(2, 3)),
        (Fraction(3, 5), Fraction(3, 5)),
        (0.66, Fraction(2, 3)),
        (0.67, Fraction(2, 3)),
        (0.33, Fraction(1, 3)),
        (0.34, Fraction(1, 3)),
        (0.8, Fraction(4, 5)),
        (0.665, Fraction(133, 200)),
        ("0.67", Fraction(67, 100)),
        (1, Fraction(1)),
        (Decimal("0.5"), Fraction(1, 2)),
    ],
)
def test_quorum_is_read_as_meant(quorum: Any, meant: Fraction) -> None:
    """Two-digit floats of thirds are thirds; everything else is taken at its word."""
    assert read_quorum(quorum) == meant


@pytest.mark.parametrize(
    "quorum", [0, 0.0, -0.5, 1.0001, float("nan"), float("inf"), "2/0", "most", True, None, "1e-3"]
)
def test_bad_quorums_are_refused(quorum: Any) -> None:
    """Outside (0, 1], or no number."""
    with pytest.raises(InvalidInputError):
        read_quorum(quorum)


def test_float_weights_count_as_they_print() -> None:
    """0.1 is a tenth, not the binary fraction beside it."""
    assert read_weight(0.1) == Fraction(1, 10)
    assert read_weight(1e-300) == Fraction(1, 10**300)
    assert read_weight(10**400) == 10**400


@pytest.mark.parametrize(
    "weight",
    [-1, -0.5, float("nan"), Decimal("NaN"), Decimal("1e999999999"), "1e999999999", True, 10**4000],
)
def test_bad_weights_are_refused(weight: Any) -> None:
    """Negative, not finite, or too big to be counted exactly; quickly, too."""
    with pytest.raises(InvalidInputError):
        read_weight(weight)


@pytest.mark.parametrize(
    ("proposal", "error"),
    [
        (Proposal("a b", None), InvalidNameError),
        (Proposal("a", None, id="\n"), InvalidNameError),
        (Proposal("a", None, quorum=2), InvalidInputError),
        (Proposal("a", None, weights={"a": -1}), InvalidInputError),
        (Proposal("a", None, deadline=datetime(2030, 1, 1)), InvalidTimeError),  # noqa: DTZ001
    ],
)
def test_malformed_proposals_send_nothing(proposal: Proposal, error: type[Exception]) -> None:
    """A clear error, and no entry."""
    world = World()
    with pytest.raises(error):
        asyncio.run(world.consensus.submit_proposal(proposal))
    assert world.replica.history == []


def test_electorate_without_weight_is_refused_and_nothing_changes() -> None:
    """Nothing could ever be decided."""
    world = World()

    async def main() -> None:
        with pytest.raises(ProposalError, match="no weight"):
            await world.consensus.submit_proposal(Proposal("a", None, weights={"a": 0.0}, id="p"))
        assert await world.consensus.get_proposal("p") is None

    asyncio.run(main())
