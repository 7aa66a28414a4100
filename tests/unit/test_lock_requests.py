"""Locks asked for twice under one request id, and locks that an operator takes away."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest

from nt_memory.clock import ManualClock
from nt_memory.coordination.locks import Locks
from nt_memory.entries import Acquire, ForceRelease, Withdraw
from nt_memory.errors import (
    InvalidInputError,
    InvalidNameError,
    LockLostError,
    LockTimeoutError,
    StaleFenceError,
)
from nt_memory.testing.submitter import FakeReplica

if TYPE_CHECKING:
    from collections.abc import Coroutine


class World:
    """A clock, a replica and the lock calls of two sessions over it."""

    def __init__(self, *, repeat: bool = False) -> None:
        self.clock = ManualClock()
        self.replica = FakeReplica(self.clock, repeat=repeat)
        self.locks, self.others = (
            Locks(self.replica.submit, self.replica.read_lock, self.clock, session)
            for session in ("s1", "s2")
        )
        self.replica.follow_locks = self._follow

    def _follow(self, events: Any) -> None:
        self.locks.follow(events)
        self.others.follow(events)

    async def idle(self) -> None:
        for _ in range(30):
            await self.clock.sleep(0)

    async def start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine)
        await self.idle()
        return task

    async def advance(self, seconds: float) -> None:
        await self.idle()
        self.clock.advance(seconds)
        await self.idle()

    def sent(self, kind: type) -> int:
        return sum(isinstance(body, kind) for body in self.replica.history)


@pytest.fixture(params=[False, True], ids=["once", "repeated"])
def world(request: pytest.FixtureRequest) -> World:
    """Every promise holds too if the journal gets every entry twice."""
    return World(repeat=request.param)


# --- requests ---------------------------------------------------------------------------------


def test_a_repeated_acquire_is_the_first_one(world: World) -> None:
    """The same token while it is at hand; and, once that is gone, the same grant: never a second."""

    async def main() -> None:
        token = await world.locks.acquire("r", request_id="x")
        assert await world.locks.acquire("r", request_id="x") is token
        fence = token.fence
        del token
        gc.collect()
        again = await world.locks.acquire("r", request_id="x")
        assert again.fence == fence
        assert world.locks.inspect("r").fence == fence
        await world.locks.release(again)
        assert world.locks.inspect("r").holder == ""

    asyncio.run(main())


def test_a_repeated_acquire_knows_how_long_its_lease_runs(world: World) -> None:
    """What is remembered is the first lease; `lost` is set no later than the lease really ends."""

    async def main() -> None:
        token = await world.locks.acquire("r", lease=10.0, request_id="x")
        del token
        gc.collect()
        await world.advance(8.0)
        again = await world.locks.acquire("r", lease=3.0, request_id="x")
        left_s = world.locks.inspect("r").lease_left
        # The first renewal may be repeated late, and is then longer than this one.
        assert left_s >= 3.0 - 1e-6
        assert again.lost.left_s <= left_s
        await world.advance(left_s)
        assert again.lost.is_set()

    asyncio.run(main())


@pytest.mark.parametrize("end", ["released", "ran out"])
def test_a_repeated_acquire_does_not_resurrect(world: World, end: str) -> None:
    """Once the first grant is over, the same request is refused, also while somebody else holds it."""

    async def main() -> None:
        token = await world.locks.acquire("r", lease=5.0, request_id="x")
        if end == "released":
            await world.locks.release(token)
        else:
            await world.advance(6.0)
        with pytest.raises(LockLostError):
            await world.locks.acquire("r", request_id="x")
        other = await world.others.acquire("r")
        with pytest.raises(LockLostError):
            await world.locks.acquire("r", request_id="x")
        assert world.locks.inspect("r").fence == other.fence
        assert not other.lost.is_set()

    asyncio.run(main())


def test_a_request_repeated_in_line_keeps_its_place(world: World) -> None:
    """Two calls of one request wait in one place, ahead of who came later, and both get the grant."""

    async def main() -> None:
        holder = await world.others.acquire("r", lease=100.0)
        first = await world.start(world.locks.acquire("r", 50.0, request_id="x"))
        later = await world.start(world.others.acquire("r", 50.0))
        second = await world.start(world.locks.acquire("r", 50.0, request_id="x"))
        assert len(world.locks.inspect("r").waiters) == 2
        first.cancel()
        await world.idle()
        assert len(world.locks.inspect("r").waiters) == 2, "the repeated call still waits there"
        third = await world.start(world.locks.acquire("r", 50.0, request_id="x"))
        await world.others.release(holder)
        await world.idle()
        assert (await second).fence == (await third).fence == world.locks.inspect("r").fence
        assert not later.done()
        later.cancel()
        await world.idle()

    asyncio.run(main())


def test_the_last_of_a_request_to_leave_withdraws_it(world: World) -> None:
    """When all calls of a request are cancelled, its place is gone, and repeating it says so."""

    async def main() -> None:
        holder = await world.others.acquire("r", lease=100.0)
        calls = [
            await world.start(world.locks.acquire("r", 50.0, request_id="x")) for _ in range(2)
        ]
        for call in calls:
            call.cancel()
        await world.idle()
        assert world.locks.inspect("r").waiters == ()
        assert world.sent(Withdraw) >= 1
        await world.others.release(holder)
        with pytest.raises(LockLostError, match="made before"):
            await world.locks.acquire("r", request_id="x")

    asyncio.run(main())


def test_a_refused_request_may_be_made_again(world: World) -> None:
    """A try that did not get the lock leaves no memory of the id."""

    async def main() -> None:
        holder = await world.others.acquire("r")
        with pytest.raises(LockTimeoutError):
            await world.locks.acquire("r", 0.0, request_id="x")
        await world.others.release(holder)
        token = await world.locks.acquire("r", 0.0, request_id="x")
        assert world.locks.inspect("r").fence == token.fence

    asyncio.run(main())


def test_a_repeated_release_is_no_error(world: World) -> None:
    """Under one request id giving back twice is giving back once; without one it is a stale token."""

    async def main() -> None:
        token = await world.locks.acquire("r")
        for _ in range(2):
            await world.locks.release(token, request_id="x")
        with pytest.raises(LockLostError):
            await world.locks.release(token)

    asyncio.run(main())


def test_one_id_for_two_locks_is_two_requests(world: World) -> None:
    """An id says nothing about other resources."""

    async def main() -> None:
        one = await world.locks.acquire("a", request_id="x")
        two = await world.locks.acquire("b", request_id="x")
        assert (one.resource, two.resource) == ("a", "b")
        assert world.locks.inspect("b").fence == two.fence

    asyncio.run(main())


# --- forced release ---------------------------------------------------------------------------


def test_an_operator_takes_a_lock_away(world: World) -> None:
    """The holder is told, cannot renew or release it, and the next in line has it."""

    async def main() -> None:
        token = await world.locks.acquire("r", holder="stuck", lease=1000.0)
        next_in_line = await world.start(world.others.acquire("r", 50.0, holder="next"))
        assert await world.others.force_release("r", reason="agent hangs")
        assert token.lost.is_set()
        assert (await next_in_line).fence > token.fence
        assert world.locks.inspect("r").holder == "next"
        for late in (world.locks.renew, world.locks.release):
            with pytest.raises(LockLostError):
                await late(token)
        assert not (await next_in_line).lost.is_set()

    asyncio.run(main())


def test_only_the_grant_that_was_looked_at_is_taken(world: World) -> None:
    """With a fence, a lock that has changed hands since stays with its new holder."""

    async def main() -> None:
        old = await world.locks.acquire("r")
        seen = world.others.inspect("r").fence
        await world.locks.release(old)
        new = await world.locks.acquire("r")
        assert not await world.others.force_release("r", fence=seen)
        assert not new.lost.is_set()
        assert await world.others.force_release("r", fence=new.fence)
        assert new.lost.is_set()
        assert not await world.others.force_release("r"), "nobody holds it any more"

    asyncio.run(main())


def test_a_block_that_lost_its_lock_to_an_operator_is_cancelled_if_asked(world: World) -> None:
    """`cancel_on_loss` covers this loss like every other."""

    async def main() -> None:
        async def block() -> None:
            async with world.locks.lock("r", lease=9.0, cancel_on_loss=True):
                await asyncio.Event().wait()

        body = await world.start(block())
        assert await world.others.force_release("r")
        await world.idle()
        with pytest.raises(LockLostError, match="was lost, and the block was cancelled"):
            await body

    asyncio.run(main())


def test_a_forced_release_acts_once(world: World) -> None:
    """Repeated under its id, it does not take the lock from whoever got it next."""

    async def main() -> None:
        await world.locks.acquire("r")
        assert await world.others.force_release("r", request_id="x")
        new = await world.locks.acquire("r", holder="new")
        assert await world.others.force_release("r", request_id="x")
        assert not new.lost.is_set()
        assert world.locks.inspect("r").holder == "new"

    asyncio.run(main())


@pytest.mark.parametrize("reason", ["x" * 257, "two\nlines"])
def test_malformed_forced_releases_change_nothing(world: World, reason: str) -> None:
    """A reason is one short line; a resource is a name."""

    async def main() -> None:
        token = await world.locks.acquire("r")
        with pytest.raises(InvalidInputError):
            await world.locks.force_release("r", reason=reason)
        with pytest.raises(InvalidNameError):
            await world.locks.force_release("")
        assert not token.lost.is_set()
        assert world.locks.inspect("r").fence == token.fence

    asyncio.run(main())
    assert world.sent(Acquire) >= 1
    assert world.sent(ForceRelease) >= 1


# --- through the whole memory ----------------------------------------------------------------


def test_a_forced_release_is_told_by_the_journal_and_its_fence_is_stale(live, collect):
    """Who took which lock and why is in `tail`; the old holder's fenced writes are refused."""

    async def body(memory):
        token = await memory.acquire_lock("rebalance", lease=600.0)
        before = memory.revision
        assert memory.inspect_lock("rebalance").lease_left == pytest.approx(600.0)
        assert await memory.as_agent("ops").force_release("rebalance", reason="hangs since 9:30")
        with pytest.raises(StaleFenceError):
            await memory.put("a", "position", 1, fence=token)
        with pytest.raises(StaleFenceError):
            await memory.delete("a", "position", fence=token)
        with pytest.raises(StaleFenceError):
            await memory.observe("a", [1.0, 0.0], fence=token)
        async with memory.lock("rebalance") as later:
            await memory.put("a", "position", 2, fence=later)
        (entry,) = await collect(memory.tail(before), 1)
        assert (entry.kind, entry.actor) == ("force_release", "ops")
        assert entry.detail == {
            "resource": "rebalance",
            "fence": None,
            "reason": "hangs since 9:30",
        }

    live(body)


def test_the_journal_tells_lock_entries_without_what_would_give_them_away(live, collect):
    """`tail` names resource and holder, and never the ticket that could withdraw somebody's place."""

    async def body(memory):
        before = memory.revision
        await memory.release_lock(await memory.acquire_lock("r", holder="ann"))
        await memory.consensus.register_agent("ann", 2)
        acquired, released, registered = await collect(memory.tail(before), 3)
        assert acquired.detail == {
            "resource": "r",
            "holder": "ann",
            "lease_us": 30_000_000,
            "wait_us": 1_000_000,
        }
        assert released.detail["fence"] == acquired.revision
        assert registered.detail == {"agent": "ann", "weight": "2/1"}

    live(body)


def test_all_locks_can_be_listed(live, clock):
    """Held or waited for, by name; what ran out or was given back is not listed as held."""

    async def body(memory):
        assert memory.list_locks() == []
        b = await memory.acquire_lock("b", holder="ann", lease=5.0)
        a = await memory.acquire_lock("a", holder="bob")
        waiting = asyncio.ensure_future(memory.acquire_lock("a", 60.0, holder="cyd"))
        while not memory.inspect_lock("a").waiters:
            await memory.flush()
        listed = memory.list_locks()
        assert [(i.resource, i.holder, i.fence, i.waiters) for i in listed] == [
            ("a", "bob", a.fence, ("cyd",)),
            ("b", "ann", b.fence, ()),
        ]
        clock.advance(6.0)
        assert [i.resource for i in memory.list_locks()] == ["a"]
        waiting.cancel()

    live(body)


def test_votes_and_registrations_act_once_under_an_id(live):
    """Repeated, they return the first result; made-up proposal ids are made up once."""
    from nt_memory import Proposal, Vote

    async def body(memory):
        consensus = memory.consensus
        one = await consensus.register_agent("a", 1, request_id="reg")
        assert await consensus.register_agent("a", 5, request_id="reg") == one
        await consensus.register_agent("b", 1)
        proposal = Proposal("a", {"buy": "AAPL"}, quorum=1.0)
        ids = {await consensus.submit_proposal(proposal, request_id="p") for _ in range(3)}
        assert len(ids) == 1
        (proposal_id,) = ids
        assert len(await consensus.list_proposals()) == 1
        record = await consensus.get_proposal(proposal_id)
        assert record.electorate == {"a": 1, "b": 1}
        vote = Vote(proposal_id, "a", approve=True)
        first = await consensus.vote(vote, request_id="v")
        await consensus.vote(Vote(proposal_id, "b", approve=True))
        assert await consensus.vote(vote, request_id="v") == first
        assert len((await consensus.get_proposal(proposal_id)).votes) == 2
        assert await consensus.cleanup_old(0, request_id="c") == 1
        assert await consensus.cleanup_old(0, request_id="c") == 1
        with pytest.raises(InvalidNameError):
            await consensus.vote(vote, request_id="")

    live(body)


def test_an_id_of_another_kind_of_call_is_refused(live):
    """Its result would mean nothing there; nothing is changed, and the first call can be repeated."""
    from nt_memory import Proposal, Vote

    async def body(memory):
        await memory.consensus.register_agent("a")
        proposal_id = await memory.consensus.submit_proposal(Proposal("a", 1))
        revision = await memory.put("a", "k", 1, request_id="x")
        vote = Vote(proposal_id, "a", approve=True)
        for call in (
            memory.consensus.vote(vote, request_id="x"),
            memory.consensus.register_agent("b", request_id="x"),
            memory.force_release("r", request_id="x"),
            memory.set_quota("a", max_keys=1, request_id="x"),
        ):
            with pytest.raises(InvalidInputError, match="another kind of request: write"):
                await call
        assert (await memory.consensus.get_proposal(proposal_id)).votes == ()
        assert await memory.put("a", "k", 2, request_id="x") == revision
        assert await memory.delete("a", "k", request_id="x") == revision, "both are writes"

    live(body)
