"""The coordination API, one promise a test: messages, locks, votes."""

from __future__ import annotations

import asyncio
import contextlib
from fractions import Fraction

import pytest

from nt_memory import Approved, Pending, Proposal, Rejected, Vote
from nt_memory.errors import (
    BufferOverflowError,
    InvalidInputError,
    InvalidNameError,
    InvalidTimeError,
    LockLostError,
    LockTimeoutError,
    NotRegisteredError,
    ProposalError,
    ProposalTimeoutError,
    ReceiverClosedError,
    ReceiveTimeoutError,
    ReentrantLockError,
    UnknownProposalError,
    VoteChangedError,
)

# --- messages ---------------------------------------------------------------------------------


def test_publish_reaches_a_subscriber(live):
    """What is published under a matching topic is received, read-only."""

    async def body(memory):
        rx = await memory.subscribe("agent_1/*")
        await memory.publish("agent_1/signal", {"buy": ["AAPL"]})
        message = await rx.recv()
        assert message == {"buy": ["AAPL"]}
        with pytest.raises(TypeError):
            message["buy"].append("MSFT")
        await rx.close()

    live(body)


@pytest.mark.parametrize(
    ("pattern", "received"),
    [
        ("a/x", ["a/x"]),
        ("a/*", ["a/x", "a/y"]),
        ("*/x", ["a/x", "b/x"]),
        ("a/**", ["a/x", "a/y", "a/x/1", "a/x/1/2"]),
        ("a/*/1", ["a/x/1"]),
        ("a/*/**", ["a/x/1", "a/x/1/2"]),
        ("*", ["a"]),
        ("**", ["a", "a/x", "a/y", "a/x/1", "a/x/1/2", "b/x"]),
    ],
)
def test_wildcards(live, pattern, received):
    """`*` matches one topic level, `**` the rest."""
    topics = ["a", "a/x", "a/y", "a/x/1", "a/x/1/2", "b/x"]

    async def body(memory):
        rx = await memory.subscribe(pattern)
        for topic in topics:
            await memory.publish(topic, topic)
        await memory.flush()
        assert [await rx.recv() for _ in received] == received
        with pytest.raises(ReceiveTimeoutError):
            await rx.recv(timeout=0)

    live(body)


def test_every_subscriber_gets_every_message_in_order(live):
    """One publisher's messages arrive in the order they were published."""

    async def body(memory):
        receivers = [await memory.subscribe("t") for _ in range(3)]
        for n in range(100):
            await memory.publish("t", n)
        for rx in receivers:
            assert [await rx.recv() for _ in range(100)] == list(range(100))

    live(body)


def test_messages_before_the_subscription_are_not_received(live):
    """Pub/sub is ephemeral."""

    async def body(memory):
        await memory.publish("t", "early")
        rx = await memory.subscribe("t")
        await memory.publish("t", "late")
        assert await rx.recv() == "late"

    live(body)


def test_recv_times_out(live, drive):
    """`timeout` seconds without a message raise ReceiveTimeoutError, a TimeoutError; nothing is lost."""

    async def body(memory):
        rx = await memory.subscribe("t")
        with pytest.raises(ReceiveTimeoutError) as caught:
            await drive(rx.recv(timeout=1.0))
        assert isinstance(caught.value, TimeoutError)
        await memory.publish("t", 1)
        assert await rx.recv(timeout=1.0) == 1

    live(body)


def test_recv_waits_for_a_message(live):
    """A waiting reader is woken by the message."""

    async def body(memory):
        rx = await memory.subscribe("t")
        waiting = asyncio.ensure_future(rx.recv())
        await memory.put("a", "k", 1)
        assert not waiting.done()
        await memory.publish("t", 1)
        assert await waiting == 1

    live(body)


def test_a_receiver_iterates_until_closed(live):
    """`async for` yields messages and ends when the subscription is closed."""

    async def body(memory):
        rx = await memory.subscribe("t")
        for n in range(3):
            await memory.publish("t", n)
        got = []
        async for message in rx:
            got.append(message)
            if message == 2:
                await rx.close()
        assert got == [0, 1, 2]

    live(body)


def test_a_closed_receiver_says_so(live):
    """`recv` after close raises, a waiting one is woken, and nothing reaches it any more."""

    async def body(memory):
        rx = await memory.subscribe("t")
        waiting = asyncio.ensure_future(rx.recv())
        await memory.put("a", "k", 1)
        await rx.close()
        with pytest.raises(ReceiverClosedError):
            await waiting
        await memory.publish("t", 1)
        with pytest.raises(ReceiverClosedError):
            await rx.recv()
        assert memory.stats().subscribers == 0

    live(body)


def test_closing_the_memory_closes_receivers(live):
    """A reader that waits is told."""

    async def body(memory):
        rx = await memory.subscribe("t")
        waiting = asyncio.ensure_future(rx.recv())
        await memory.put("a", "k", 1)
        await memory.close()
        with pytest.raises(ReceiverClosedError):
            await waiting

    live(body)


def test_drop_oldest_keeps_the_newest(live):
    """A full buffer forgets its oldest message and counts it."""

    async def body(memory):
        rx = await memory.subscribe("t", buffer=3)
        for n in range(10):
            await memory.publish("t", n)
        assert rx.dropped == 7
        assert [await rx.recv() for _ in range(3)] == [7, 8, 9]

    live(body)


def test_overflow_error_tells_the_reader(live):
    """With `overflow="error"` what fitted is read, then the loss is raised, then it goes on."""

    async def body(memory):
        rx = await memory.subscribe("t", buffer=2, overflow="error")
        for n in range(5):
            await memory.publish("t", n)
        assert [await rx.recv(), await rx.recv()] == [0, 1]
        with pytest.raises(BufferOverflowError):
            await rx.recv()
        await memory.publish("t", "after")
        assert await rx.recv() == "after"
        assert rx.dropped == 3

    live(body)


def test_a_reader_that_stops_costs_nobody_else(live):
    """A full buffer of one subscriber loses nothing of another's."""

    async def body(memory):
        stopped = await memory.subscribe("t", buffer=1)
        reader = await memory.subscribe("t", buffer=5000)
        for n in range(3000):
            await memory.publish("t", n)
        assert [await reader.recv() for _ in range(3000)] == list(range(3000))
        assert stopped.dropped == 2999

    live(body)


def test_messages_are_copies(live):
    """Changing an object after publishing it changes no message."""

    async def body(memory):
        rx = await memory.subscribe("t")
        message = {"qty": [1]}
        await memory.publish("t", message)
        message["qty"].append(2)
        assert await rx.recv() == {"qty": [1]}

    live(body)


def test_malformed_topics_and_options_are_refused(live):
    """Wildcards in a topic, empty levels, `**` before the end, unknown policies, empty buffers."""

    async def body(memory):
        for topic in ("", "a//b", "a/*", "a/**", "a\nb", "x" * 300):
            with pytest.raises(InvalidNameError):
                await memory.publish(topic, 1)
        for pattern in ("", "a//b", "a/**/b", "\x00", "x" * 300):
            with pytest.raises(InvalidNameError):
                await memory.subscribe(pattern)
        for options in ({"buffer": 0}, {"buffer": -1}, {"overflow": "block"}):
            with pytest.raises(InvalidInputError):
                await memory.subscribe("t", **options)
        await memory.subscribe("t")
        with pytest.raises(InvalidInputError):
            await memory.publish("t", object())

    live(body)


# --- locks ------------------------------------------------------------------------------------


def test_a_free_lock_is_granted(live):
    """With a token that names it."""

    async def body(memory):
        token = await memory.acquire_lock("book", holder="trader")
        assert (token.resource, token.holder) == ("book", "trader")
        assert not token.lost.is_set()
        assert memory.stats().locks == 1
        await memory.release_lock(token)
        assert memory.stats().locks == 0

    live(body)


def test_a_held_lock_times_out(live, drive):
    """After `timeout` seconds LockTimeoutError, a TimeoutError; the holder keeps the lock."""

    async def body(memory):
        token = await memory.acquire_lock("book", lease=1e6, holder="first")
        with pytest.raises(LockTimeoutError, match="first") as caught:
            await drive(memory.acquire_lock("book", 1.0, holder="second"))
        assert isinstance(caught.value, TimeoutError)
        await memory.renew_lock(token)

    live(body)


def test_timeout_zero_tries_once(live):
    """Without any time passing."""

    async def body(memory):
        token = await memory.acquire_lock("book", 0, holder="first")
        with pytest.raises(LockTimeoutError):
            await memory.acquire_lock("book", 0, holder="second")
        await memory.release_lock(token)
        await memory.acquire_lock("book", 0, holder="second")

    live(body)


def test_different_resources_are_different_locks(live):
    """One does not wait for the other."""

    async def body(memory):
        await memory.acquire_lock("book", 0, holder="x")
        await memory.acquire_lock("cash", 0, holder="y")
        assert memory.stats().locks >= 0

    live(body)


async def _queue(memory, names, **options):
    """Tasks that wait for the lock "book", queued in this order."""
    tasks = []
    for name in names:
        queued = memory.revision + 1
        tasks.append(
            asyncio.ensure_future(memory.acquire_lock("book", 1e6, holder=name, **options))
        )
        await memory.wait_for(queued)
    return tasks


def test_waiters_are_served_first_come_first_served(live):
    """Release grants the next in line, which is woken by it."""

    async def body(memory):
        token = await memory.acquire_lock("book", holder="0")
        tasks = await _queue(memory, ["1", "2", "3"])
        for n, task in enumerate(tasks):
            assert not any(waiter.done() for waiter in tasks[n:])
            await memory.release_lock(token)
            token = await asyncio.wait_for(task, 10)
            assert token.holder == str(n + 1)

    live(body)


def test_fences_grow_with_each_grant(live):
    """Each grant of a lock has a greater number than the one before."""

    async def body(memory):
        fences = []
        for _ in range(5):
            token = await memory.acquire_lock("book")
            fences.append(token.fence)
            await memory.release_lock(token)
        assert fences == sorted(set(fences))

    live(body)


def test_fences_grow_across_reopening(live):
    """A store that is opened again does not start over."""

    async def body(memory):
        token = await memory.acquire_lock("book")
        return token.fence

    assert live(body) < live(body)


def test_re_entrance_is_told_apart_from_contention(live):
    """The same task asking again gets ReentrantLockError at once, not a timeout."""

    async def body(memory):
        await memory.acquire_lock("book")
        with pytest.raises(ReentrantLockError):
            await memory.acquire_lock("book", 60.0)

    live(body)


def test_two_tasks_are_two_holders(live):
    """The default holder is session and task, so another task contends."""

    async def body(memory):
        await memory.acquire_lock("book")

        async def other():
            await memory.acquire_lock("book", 0)

        with pytest.raises(LockTimeoutError):
            await asyncio.create_task(other())

    live(body)


def test_a_timed_out_waiter_leaves_the_queue(live, drive):
    """It gets no grant later, and does not stand in the way of the next."""

    async def body(memory):
        token = await memory.acquire_lock("book", lease=1e6, holder="0")
        with pytest.raises(LockTimeoutError):
            await drive(memory.acquire_lock("book", 1.0, holder="gives up"))
        await memory.release_lock(token)
        token = await memory.acquire_lock("book", 0, holder="next")
        assert token.holder == "next"

    live(body)


def test_a_cancelled_waiter_leaves_the_queue(live):
    """Cancellation withdraws too."""

    async def body(memory):
        token = await memory.acquire_lock("book", holder="0")
        first, second = await _queue(memory, ["cancelled", "next"])
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await memory.release_lock(token)
        assert (await asyncio.wait_for(second, 10)).holder == "next"

    live(body)


def test_a_lease_that_ran_out_moves_the_queue(live, drive):
    """When a holder dies the next waiter is granted without anyone's help."""

    async def body(memory):
        token = await memory.acquire_lock("book", lease=5.0, holder="dies")
        (task,) = await _queue(memory, ["next"], lease=1e6)
        granted = await drive(task)
        assert granted.holder == "next"
        assert granted.fence > token.fence
        assert token.lost.is_set()

    live(body)


def test_a_lease_that_ran_out_frees_the_lock(live, clock):
    """A newcomer finds it free, to the microsecond."""

    async def body(memory):
        await memory.acquire_lock("book", lease=5.0, holder="dies")
        clock.advance(4.999999)
        with pytest.raises(LockTimeoutError):
            await memory.acquire_lock("book", 0, holder="early")
        clock.advance(0.000001)
        await memory.acquire_lock("book", 0, holder="next")

    live(body)


def test_renew_extends_the_lease(live, clock):
    """To `lease` seconds from the renewal."""

    async def body(memory):
        token = await memory.acquire_lock("book", lease=5.0, holder="a")
        for _ in range(5):
            clock.advance(4)
            await memory.renew_lock(token)
        assert not token.lost.is_set()
        with pytest.raises(LockTimeoutError):
            await memory.acquire_lock("book", 0, holder="b")

    live(body)


def test_renewing_or_releasing_what_was_lost_says_so(live, clock):
    """A stale token raises LockLostError, and does not disturb the new holder."""

    async def body(memory):
        stale = await memory.acquire_lock("book", lease=5.0, holder="a")
        clock.advance(6)
        token = await memory.acquire_lock("book", 0, holder="b")
        with pytest.raises(LockLostError):
            await memory.renew_lock(stale)
        with pytest.raises(LockLostError):
            await memory.release_lock(stale)
        await memory.put("x", "k", 1, fence=token)
        await memory.renew_lock(token)

    live(body)


def test_releasing_twice_is_a_stale_token(live):
    """The second release raises; it must not free somebody else's lock."""

    async def body(memory):
        token = await memory.acquire_lock("book")
        await memory.release_lock(token)
        with pytest.raises(LockLostError):
            await memory.release_lock(token)

    live(body)


def test_lost_is_set_by_local_time(live, clock):
    """Without any entry or message, once the lease must be over."""

    async def body(memory):
        token = await memory.acquire_lock("book", lease=5.0)
        clock.advance(4.9)
        assert not token.lost.is_set()
        clock.advance(0.2)
        assert token.lost.is_set()

    live(body)


def test_lost_can_be_awaited(live, drive):
    """A task can wait for the loss."""

    async def body(memory):
        token = await memory.acquire_lock("book", lease=5.0)
        await drive(token.lost.wait())
        assert token.lost.is_set()

    live(body)


def test_the_block_form_holds_and_releases(live):
    """`async with memory.lock(…) as token` holds the lock for the block, errors included."""

    async def body(memory):
        async with memory.lock("book", holder="a") as token:
            assert token.resource == "book"
            with pytest.raises(LockTimeoutError):
                await memory.acquire_lock("book", 0, holder="b")
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(memory.lock("book", timeout=0, holder="b"))
        with pytest.raises(ZeroDivisionError):
            async with memory.lock("book", timeout=0, holder="c"):
                raise ZeroDivisionError
        await memory.acquire_lock("book", 0, holder="d")

    live(body)


def test_the_block_form_renews_by_itself(live, clock):
    """A block ten times as long as the lease keeps the lock."""

    async def body(memory):
        async with memory.lock("book", lease=3.0, holder="a") as token:
            for _ in range(30):
                renewed = memory.revision + 1
                for _ in range(5):  # let it go to sleep until the next renewal is due
                    await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=0)
                clock.advance(1.0)
                await memory.wait_for(renewed)
            assert not token.lost.is_set()
            await memory.put("x", "k", 1, fence=token)
            with pytest.raises(LockTimeoutError):
                await memory.acquire_lock("book", 0, holder="b")

    live(body)


def test_opening_a_store_frees_the_locks_of_earlier_sessions(live):
    """Nobody is left who could release them."""

    async def first(memory):
        await memory.acquire_lock("book", lease=3600.0, holder="a")

    async def second(memory):
        await memory.acquire_lock("book", 0, holder="b")

    live(first)
    live(second)


def test_only_one_of_many_holds_a_lock(live):
    """Twenty tasks, one counter, no update lost."""

    async def body(memory):
        await memory.put("x", "n", 0)

        async def add():
            async with memory.lock("n", timeout=60) as token:
                value = await memory.get("x", "n")
                await memory.put("x", "n", value + 1, fence=token)

        await asyncio.gather(*(add() for _ in range(20)))
        assert await memory.get("x", "n") == 20

    live(body)


@pytest.mark.parametrize(
    "bad",
    [
        {"resource": ""},
        {"resource": "x" * 129},
        {"resource": "a\nb"},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"lease": 0},
        {"lease": -1},
        {"lease": float("inf")},
        {"holder": "\x00"},
    ],
)
def test_malformed_lock_arguments_are_refused(live, bad):
    """And nothing is held afterwards."""

    async def body(memory):
        before = memory.revision
        with pytest.raises(InvalidInputError):
            await memory.acquire_lock(**{"resource": "book", **bad})
        assert memory.revision == before
        assert memory.stats().locks == 0

    live(body)


# --- votes ------------------------------------------------------------------------------------


async def _electorate(memory, **weights):
    for agent, weight in weights.items():
        await memory.consensus.register_agent(agent, weight)


async def _propose(memory, **options):
    options = {"proposer": "a", "data": {"de-risk": True}, **options}
    return await memory.consensus.submit_proposal(Proposal(**options))


def test_two_thirds_approve(live):
    """Pending until the approving weight reaches the quorum, then Approved."""

    async def body(memory):
        await _electorate(memory, a=1.0, b=1.0, c=1.0)
        proposal = await _propose(memory)
        consensus = memory.consensus
        assert await consensus.get_result(proposal) == Pending(0.0, 2)
        assert await consensus.vote(Vote(proposal, "a", approve=True)) == Pending(1 / 3, 1)
        assert await consensus.vote(Vote(proposal, "b", approve=True)) == Approved()
        assert await consensus.get_result(proposal) == Approved()

    live(body)


def test_rejected_once_the_quorum_is_out_of_reach(live):
    """Two of three against two thirds."""

    async def body(memory):
        await _electorate(memory, a=1.0, b=1.0, c=1.0)
        proposal = await _propose(memory)
        consensus = memory.consensus
        assert isinstance(await consensus.vote(Vote(proposal, "a", approve=False)), Pending)
        assert await consensus.vote(Vote(proposal, "b", approve=False)) == Rejected()

    live(body)


def test_weights_count(live):
    """A voter's weight, not the number of voters, decides."""

    async def body(memory):
        await _electorate(memory, a=5.0, b=1.0, c=1.0)
        proposal = await _propose(memory)
        assert await memory.consensus.vote(Vote(proposal, "a", approve=True)) == Approved()

    live(body)


def test_register_defaults_to_weight_one(live):
    """And registering again replaces the weight in later proposals."""

    async def body(memory):
        await memory.consensus.register_agent("a")
        await memory.consensus.register_agent("b")
        first = await _propose(memory)
        await memory.consensus.register_agent("a", 10)
        record = await memory.consensus.get_proposal(first)
        assert dict(record.electorate) == {"a": 1, "b": 1}
        second = await _propose(memory)
        record = await memory.consensus.get_proposal(second)
        assert dict(record.electorate) == {"a": 10, "b": 1}

    live(body)


@pytest.mark.parametrize(
    ("quorum", "share"),
    [
        ("2/3", Fraction(2, 3)),
        (0.66, Fraction(2, 3)),
        (0.67, Fraction(2, 3)),
        (0.33, Fraction(1, 3)),
        (0.34, Fraction(1, 3)),
        (0.5, Fraction(1, 2)),
        (0.65, Fraction(13, 20)),
        (0.1, Fraction(1, 10)),
        (Fraction(5, 7), Fraction(5, 7)),
        ("1/2", Fraction(1, 2)),
        (1, Fraction(1)),
        (1.0, Fraction(1)),
    ],
)
def test_how_a_quorum_is_read(live, quorum, share):
    """Text, Fraction or float; 0.66 and 0.67 are two thirds, 0.33 and 0.34 one third."""

    async def body(memory):
        await _electorate(memory, a=1)
        proposal = await _propose(memory, quorum=quorum)
        assert (await memory.consensus.get_proposal(proposal)).quorum == share

    live(body)


def test_the_tally_is_exact(live):
    """Ten weights of 0.1 are one, not 0.9999…: a quorum of 1 is reached by the last of them."""

    async def body(memory):
        voters = [f"v{n}" for n in range(10)]
        await _electorate(memory, **dict.fromkeys(voters, 0.1))
        proposal = await _propose(memory, proposer="v0", quorum=1)
        for voter in voters[:-1]:
            result = await memory.consensus.vote(Vote(proposal, voter, approve=True))
            assert isinstance(result, Pending)
        result = await memory.consensus.vote(Vote(proposal, voters[-1], approve=True))
        assert result == Approved()

    live(body)


def test_a_repeated_vote_is_harmless_a_changed_one_raises(live):
    """One vote a voter."""

    async def body(memory):
        await _electorate(memory, a=1, b=1, c=1)
        proposal = await _propose(memory)
        consensus = memory.consensus
        first = await consensus.vote(Vote(proposal, "a", approve=True))
        assert await consensus.vote(Vote(proposal, "a", approve=True)) == first
        with pytest.raises(VoteChangedError):
            await consensus.vote(Vote(proposal, "a", approve=False))
        record = await consensus.get_proposal(proposal)
        assert [(vote.voter, vote.approve) for vote in record.votes] == [("a", True)]

    live(body)


def test_votes_after_the_decision_change_nothing(live):
    """They return the decision."""

    async def body(memory):
        await _electorate(memory, a=1, b=1, c=1)
        proposal = await _propose(memory, quorum="1/3")
        consensus = memory.consensus
        assert await consensus.vote(Vote(proposal, "a", approve=True)) == Approved()
        for voter in ("b", "c"):
            assert await consensus.vote(Vote(proposal, voter, approve=False)) == Approved()
        assert await consensus.get_result(proposal) == Approved()

    live(body)


def test_the_electorate_is_fixed_at_submit(live):
    """Who registers later has no vote in it."""

    async def body(memory):
        await _electorate(memory, a=1, b=1)
        proposal = await _propose(memory)
        await _electorate(memory, late=100)
        with pytest.raises(NotRegisteredError):
            await memory.consensus.vote(Vote(proposal, "late", approve=True))
        assert await memory.consensus.get_result(proposal) == Pending(0.0, 2)

    live(body)


def test_a_wrong_weight_is_refused(live):
    """A vote may state its weight, and must then state the registered one."""

    async def body(memory):
        await _electorate(memory, a=2, b=1)
        proposal = await _propose(memory, quorum=1)
        with pytest.raises(ProposalError):
            await memory.consensus.vote(Vote(proposal, "a", approve=True, weight=3))
        result = await memory.consensus.vote(Vote(proposal, "a", approve=True, weight=2))
        assert result == Pending(2 / 3, 1)

    live(body)


def test_a_proposal_may_name_its_own_electorate(live):
    """`weights` instead of the registered agents."""

    async def body(memory):
        await _electorate(memory, a=1)
        proposal = await _propose(memory, weights={"x": 2, "y": 1})
        with pytest.raises(NotRegisteredError):
            await memory.consensus.vote(Vote(proposal, "a", approve=True))
        assert await memory.consensus.vote(Vote(proposal, "x", approve=True)) == Approved()

    live(body)


def test_a_deadline_rejects(live, clock, later, drive):
    """Once the deadline has passed, without anyone's help; a waiter is told."""

    async def body(memory):
        await _electorate(memory, a=1, b=1)
        deadline = later(60)
        proposal = await _propose(memory, deadline=deadline)
        result = await drive(memory.consensus.wait(proposal, 1e9), step=5.0)
        assert result == Rejected()
        assert (await memory.consensus.get_proposal(proposal)).decided_at >= deadline

    live(body)


def test_a_deadline_must_lie_ahead(live, later):
    """A past or naive deadline is refused."""

    async def body(memory):
        await _electorate(memory, a=1)
        with pytest.raises(InvalidTimeError):
            await _propose(memory, deadline=later(-1))
        with pytest.raises(InvalidTimeError):
            await _propose(memory, deadline=later(60).replace(tzinfo=None))
        assert await memory.consensus.list_proposals() == []

    live(body)


def test_deadlines_run_on_the_timeline(backtest, clock, later):
    """In a backtest the wall clock does not decide, `advance` does."""

    async def body(memory):
        start = clock.now()
        await memory.timeline.advance(start)
        await _electorate(memory, a=1)
        proposal = await _propose(memory, deadline=later(60))
        clock.advance(3600)
        assert isinstance(await memory.consensus.get_result(proposal), Pending)
        await memory.timeline.advance(later(-3600 + 60))
        assert await memory.consensus.get_result(proposal) == Rejected()

    backtest(body)


def test_wait_returns_the_decision(live, drive):
    """At once if decided; else when it is; ProposalTimeoutError if it is not in time."""

    async def body(memory):
        await _electorate(memory, a=1, b=1)
        proposal = await _propose(memory, quorum="1/2")
        with pytest.raises(ProposalTimeoutError):
            await drive(memory.consensus.wait(proposal, 1.0))
        waiting = asyncio.ensure_future(memory.consensus.wait(proposal, 1e6))
        await memory.put("x", "k", 1)
        assert not waiting.done()
        await memory.consensus.vote(Vote(proposal, "a", approve=True))
        assert await asyncio.wait_for(waiting, 10) == Approved()
        assert await memory.consensus.wait(proposal, 0) == Approved()

    live(body)


def test_get_and_list_proposals(live):
    """With data, votes and result; oldest first; an unknown id is None."""

    async def body(memory):
        await _electorate(memory, a=1, b=1)
        first = await _propose(memory, data={"n": [1]})
        second = await _propose(memory, data={"n": [2]}, id="second")
        assert second == "second"
        records = await memory.consensus.list_proposals()
        assert [record.id for record in records] == [first, second]
        record = await memory.consensus.get_proposal(first)
        assert (record.proposer, record.data) == ("a", {"n": [1]})
        assert await memory.consensus.get_proposal("none") is None

    live(body)


def test_unknown_proposals_are_errors(live):
    """For voting, asking and waiting."""

    async def body(memory):
        await _electorate(memory, a=1)
        with pytest.raises(UnknownProposalError):
            await memory.consensus.vote(Vote("none", "a", approve=True))
        with pytest.raises(UnknownProposalError):
            await memory.consensus.get_result("none")
        with pytest.raises(UnknownProposalError):
            await memory.consensus.wait("none", 1)

    live(body)


def test_a_proposal_id_is_used_once(live):
    """The same proposal again is harmless, another one under its id is refused."""

    async def body(memory):
        await _electorate(memory, a=1, b=1)
        await _propose(memory, data=1, id="p")
        assert await _propose(memory, data=1, id="p") == "p"
        with pytest.raises(ProposalError):
            await _propose(memory, data=2, id="p")
        assert len(await memory.consensus.list_proposals()) == 1

    live(body)


def test_cleanup_forgets_old_decisions_only(live, clock):
    """Decided at least `max_age` ago; undecided ones stay."""

    async def body(memory):
        await _electorate(memory, a=1, b=1)
        old = await _propose(memory, quorum="1/2")
        await memory.consensus.vote(Vote(old, "a", approve=True))
        still_open = await _propose(memory)
        clock.advance(3600)
        recent = await _propose(memory, quorum="1/2")
        await memory.consensus.vote(Vote(recent, "a", approve=True))
        clock.advance(60)
        assert await memory.consensus.cleanup_old(1800) == 1
        records = await memory.consensus.list_proposals()
        assert [record.id for record in records] == [still_open, recent]

    live(body)


def test_proposals_and_voters_survive_reopening(live):
    """A vote may come a session later."""

    async def first(memory):
        await _electorate(memory, a=1, b=1, c=1)
        await _propose(memory, id="p")
        await memory.consensus.vote(Vote("p", "a", approve=True))

    async def second(memory):
        assert await memory.consensus.get_result("p") == Pending(1 / 3, 1)
        assert await memory.consensus.vote(Vote("p", "c", approve=True)) == Approved()

    live(first)
    live(second)


@pytest.mark.parametrize(
    "bad",
    [
        {"quorum": 0},
        {"quorum": 1.01},
        {"quorum": "-1/3"},
        {"quorum": "two thirds"},
        {"quorum": float("nan")},
        {"proposer": "../a"},
        {"data": object()},
        {"weights": {"a": -1}},
        {"weights": {"a": float("inf")}},
        {"weights": {"a/b": 1}},
        {"id": "\n"},
    ],
)
def test_malformed_proposals_are_refused(live, bad):
    """With an error that is an InvalidInputError, and nothing proposed."""

    async def body(memory):
        await _electorate(memory, a=1)
        with pytest.raises(InvalidInputError):
            await _propose(memory, **bad)
        assert await memory.consensus.list_proposals() == []

    live(body)


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), "x", True])
def test_malformed_weights_are_refused(live, weight):
    """A weight is a finite number, zero or more."""

    async def body(memory):
        with pytest.raises(InvalidInputError):
            await memory.consensus.register_agent("a", weight)

    live(body)


def test_an_electorate_without_weight_cannot_decide(live):
    """No voters, or only voters of weight zero: refused at submit."""

    async def body(memory):
        with pytest.raises(ProposalError):
            await _propose(memory)
        await _electorate(memory, a=0)
        with pytest.raises(ProposalError):
            await _propose(memory)

    live(body)
