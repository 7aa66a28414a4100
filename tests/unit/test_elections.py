"""Leader election: one leader, growing terms, and what a candidate is told."""

from __future__ import annotations

import asyncio

import pytest

from nt_memory.errors import (
    ClosedError,
    InvalidInputError,
    InvalidNameError,
    LockLostError,
    ReentrantLockError,
    StaleFenceError,
)


async def settle(memory):
    """Let what was submitted, and whatever follows from it, become visible."""
    for _ in range(5):
        await memory.flush()
        await asyncio.sleep(0)  # noqa: TID251 - a turn of the loop, no time


def stand(memory, name, terms, leave, **options):
    """Campaign until `leave` is set; notes each term in `terms`."""

    async def campaign():
        async for term in memory.elections.campaign("c", candidate=name, **options):
            terms.append((name, term.fence))
            await leave.wait()
            return

    return asyncio.ensure_future(campaign())


def test_one_leads_and_the_others_follow_in_turn(live):
    """Candidates lead one after another, in order of arrival, in terms that grow."""

    async def body(memory):
        terms, leave = [], [asyncio.Event() for _ in range(4)]
        tasks = []
        for number in range(4):
            tasks.append(stand(memory, f"n{number}", terms, leave[number]))
            await settle(memory)
        for number in range(4):
            await settle(memory)
            assert [name for name, _ in terms] == [f"n{n}" for n in range(number + 1)]
            leader = memory.elections.leader("c")
            assert (leader.candidate, leader.term) == terms[-1]
            leave[number].set()
            await tasks[number]
        fences = [fence for _, fence in terms]
        assert fences == sorted(set(fences))
        await settle(memory)
        assert memory.elections.leader("c") is None

    live(body)


async def leave_by_break(campaign, began):
    async for _ in campaign:
        began.set()
        break


async def leave_by_error(campaign, began):
    async for _ in campaign:
        began.set()
        raise RuntimeError("no")


async def stay(campaign, began):
    async for _ in campaign:
        began.set()
        await asyncio.Event().wait()


async def leave_by_block(campaign, began):
    async with campaign:
        await anext(campaign)
        began.set()


@pytest.mark.parametrize("way", [leave_by_break, leave_by_error, stay, leave_by_block])
def test_a_loop_that_is_left_resigns(live, way):
    """However a candidate's loop ends, the next in line leads without waiting for a lease."""

    async def body(memory):
        began = asyncio.Event()
        leading = asyncio.ensure_future(way(memory.elections.campaign("c", lease=600.0), began))
        await began.wait()
        if way is stay:
            leading.cancel()
        await asyncio.wait({leading})
        assert leading.cancelled() == (way is stay)
        if not leading.cancelled():
            assert isinstance(leading.exception(), RuntimeError) == (way is leave_by_error)
        del leading  # and with it the traceback, which holds what the loop held
        async for term in memory.elections.campaign("c", candidate="next"):
            assert memory.elections.leader("c").candidate == "next"
            assert memory.elections.leader("c").term == term.fence
            break

    live(body)


def test_a_body_that_ends_gives_others_a_turn_and_stands_again(live):
    """Where the block ends the term does; the candidate then stands behind who waits."""

    async def body(memory):
        terms, leave = [], asyncio.Event()
        campaign = memory.elections.campaign("c", candidate="first")
        first = await anext(campaign)
        other = stand(memory, "other", terms, leave)
        await settle(memory)
        again = asyncio.ensure_future(anext(campaign))
        await settle(memory)
        assert [name for name, _ in terms] == ["other"]
        assert first.lost.is_set() is False, "given up is not lost"
        leave.set()
        await other
        second = await again
        assert second.fence > terms[0][1] > first.fence
        await campaign.close()

    live(body)


@pytest.mark.parametrize("has_led", [False, True])
def test_a_wait_that_is_given_up_leaves_the_line_and_not_the_campaign(live, has_led):
    """A timeout around the wait for a term: nobody waits for a turn of theirs, and asked again they stand."""

    async def body(memory):
        campaign = memory.elections.campaign("c", candidate="patient")
        if has_led:
            await anext(campaign)
        leave = asyncio.Event()
        terms = []
        other = stand(memory, "other", terms, leave)
        await settle(memory)
        waiting = asyncio.ensure_future(anext(campaign))
        await settle(memory)
        assert [name for name, _ in terms] == ["other"]
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        leave.set()
        await other
        await settle(memory)
        assert memory.elections.leader("c") is None
        later = await anext(campaign)
        assert later.fence > terms[0][1]
        assert memory.elections.leader("c").candidate == "patient"
        await campaign.close()
        with pytest.raises(StopAsyncIteration):
            await anext(campaign)

    live(body)


def test_a_leader_that_lost_its_term_is_told_and_stands_again(live, drive):
    """`term.lost` is set, its fenced writes are refused, and the loop wins a later term."""

    async def body(memory):
        campaign = memory.elections.campaign("c", candidate="ann", lease=600.0)
        term = await anext(campaign)
        await memory.put("c", "plan", 1, fence=term)
        assert await memory.force_release("election/c", reason="hangs")
        assert term.lost.is_set()
        with pytest.raises(StaleFenceError):
            await memory.put("c", "plan", 2, fence=term)
        with pytest.raises(LockLostError):
            await term.resign()
        later = await anext(campaign)
        assert later.fence > term.fence
        await memory.put("c", "plan", 3, fence=later)
        await campaign.close()

    live(body)


def test_a_term_outlasts_its_lease_by_renewing_it(live, clock):
    """A leader whose loop runs keeps its term for many leases; nobody else wins meanwhile."""

    async def body(memory):
        campaign = memory.elections.campaign("c", lease=9.0, candidate="ann")
        term = await anext(campaign)
        for _ in range(10):
            clock.advance(3.0)
            await settle(memory)
        assert not term.lost.is_set()
        assert memory.elections.leader("c").term == term.fence
        await campaign.close()

    live(body)


def test_work_is_cut_short_when_the_term_is_lost(live):
    """`term.run` cancels what it runs, waits for it, and says which of the two it was."""

    async def body(memory):
        ended = []

        async def work():
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(True)

        async def begins():
            ended.append("begun")

        async def quick():
            return "done"

        async def fails():
            raise RuntimeError("bad plan")

        async for term in memory.elections.campaign("c"):
            assert await term.run(quick())
            with pytest.raises(RuntimeError, match="bad plan"):
                await term.run(fails())
            working = asyncio.ensure_future(term.run(work()))
            await settle(memory)
            assert not working.done()
            await memory.force_release("election/c")
            assert await working is False
            assert ended == [True]
            assert await term.run(begins()) is False
            break
        async for term in memory.elections.campaign("c"):
            await term.resign()
            assert await term.run(begins()) is False
            break
        assert ended == [True], "a term that is over begins nothing"

    live(body)


def test_cancelling_the_one_who_runs_cancels_the_work(live):
    """A cancelled `run` leaves nothing running and raises the cancellation."""

    async def body(memory):
        ended = []

        async def work():
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(True)

        async for term in memory.elections.campaign("c"):
            working = asyncio.ensure_future(term.run(work()))
            await settle(memory)
            working.cancel()
            with pytest.raises(asyncio.CancelledError):
                await working
            assert ended == [True]
            break

    live(body)


def test_resigning_hands_over_at_once(live):
    """After `resign` the next leads, and the one who resigned is not told of a loss."""

    async def body(memory):
        terms, leave = [], asyncio.Event()
        campaign = memory.elections.campaign("c", candidate="ann")
        term = await anext(campaign)
        other = stand(memory, "bob", terms, leave)
        await settle(memory)
        await term.resign()
        await settle(memory)
        assert memory.elections.leader("c").candidate == "bob"
        assert not term.lost.is_set()
        leave.set()
        await other
        await campaign.close()

    live(body)


def test_a_cancelled_candidate_leaves_the_line(live):
    """Who stops standing is not elected later."""

    async def body(memory):
        campaign = memory.elections.campaign("c", candidate="ann")
        await anext(campaign)
        other = stand(memory, "bob", [], asyncio.Event())
        await settle(memory)
        assert memory.inspect_lock("election/c").waiters == ("bob",)
        other.cancel()
        await settle(memory)
        assert memory.inspect_lock("election/c").waiters == ()
        await campaign.close()
        assert memory.elections.leader("c") is None

    live(body)


def test_closing_the_memory_ends_campaigns(store, clock, run):
    """Who waits to be elected gets the reason; a leader's term is lost, and its loop ends quietly."""
    from nt_memory import MemorySystem

    async def body():
        async with MemorySystem.open(store, clock=clock) as memory:
            campaign = memory.elections.campaign("c", candidate="ann")
            term = await anext(campaign)
            waiting = asyncio.ensure_future(anext(memory.elections.campaign("c", candidate="bob")))
            await settle(memory)
        with pytest.raises(ClosedError, match="the memory was closed"):
            await waiting
        assert term.lost.is_set()
        await campaign.close()
        with pytest.raises(ClosedError):
            await anext(memory.elections.campaign("c"))

    run(body())


def test_the_same_candidate_does_not_stand_twice(live):
    """It would wait for itself."""

    async def body(memory):
        campaign = memory.elections.campaign("c", candidate="ann")
        await anext(campaign)
        with pytest.raises(ReentrantLockError):
            await anext(memory.elections.campaign("c", candidate="ann"))
        await campaign.close()

    live(body)


def test_malformed_campaigns_are_refused(live):
    """Names when asked, leases when the loop begins; nobody stands."""

    async def body(memory):
        for name in ("", "x" * 125, "a\nb"):
            with pytest.raises(InvalidNameError):
                memory.elections.campaign(name)
            with pytest.raises(InvalidNameError):
                memory.elections.leader(name)
        for lease in (0.0, -1.0, float("nan")):
            with pytest.raises(InvalidInputError):
                await anext(memory.elections.campaign("c", lease=lease))
        assert memory.list_locks() == []

    live(body)


def test_plain_code_stands_too(store):
    """Without await the loop gives one term at a time, and leaving the block resigns."""
    from nt_memory import MemorySystem

    with MemorySystem.open_sync(store) as memory:
        with memory.elections.campaign("c", candidate="ann") as terms:
            first = next(terms)
            assert memory.elections.leader("c").term == first.fence
            memory.put("c", "plan", 1, fence=first)
            second = next(terms)
            assert second.fence > first.fence
            with pytest.raises(StaleFenceError):
                memory.put("c", "plan", 2, fence=first)
        assert memory.elections.leader("c") is None
