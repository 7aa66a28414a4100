"""Lock handles over an in-memory replica: what a caller sees under timeouts, cancellation, loss."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from nt_memory.clock import ManualClock
from nt_memory.coordination.locks import Locks
from nt_memory.entries import Acquire, Release, Renew, Withdraw
from nt_memory.entries.requests import own_id
from nt_memory.errors import (
    ClosedError,
    InvalidInputError,
    InvalidNameError,
    LockLostError,
    LockTimeoutError,
    ReentrantLockError,
    StorageFullError,
)
from nt_memory.testing.submitter import FakeReplica

if TYPE_CHECKING:
    from collections.abc import Coroutine


class World:
    """A clock, a replica and the lock calls over it."""

    def __init__(self, *, repeat: bool = False) -> None:
        self.clock = ManualClock()
        self.replica = FakeReplica(self.clock, repeat=repeat)
        self.locks = Locks(self.replica.submit, self.replica.read_lock, self.clock, "s1")
        self.replica.follow_locks = self.locks.follow

    async def idle(self) -> None:
        """Let everything run that can run without time passing."""
        for _ in range(30):
            await self.clock.sleep(0)

    async def start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine)
        await self.idle()
        return task

    async def advance(self, seconds: float) -> None:
        # Whatever sleeps must have gone to sleep before time passes it by.
        await self.idle()
        self.clock.advance(seconds)
        await self.idle()

    def sent(self, kind: type) -> int:
        return sum(isinstance(body, kind) for body in self.replica.history)


@pytest.fixture(params=[False, True], ids=["once", "repeated"])
def world(request: pytest.FixtureRequest) -> World:
    """Every promise holds too if the journal gets every entry twice."""
    return World(repeat=request.param)


def test_acquire_and_release(world: World) -> None:
    """A free lock is granted; given back, it is free again; a token is not lost by that."""

    async def main() -> None:
        token = await world.locks.acquire("r", holder="ann")
        assert (token.resource, token.holder, token.fence, token.lease) == ("r", "ann", 1, 30.0)
        assert world.locks.inspect("r").holder == "ann"
        assert world.locks.inspect("r").lease_left == 30.0
        assert world.locks.held == 1
        await world.locks.release(token)
        assert world.locks.inspect("r").holder == ""
        assert world.locks.held == 0
        await world.advance(100)
        assert not token.lost.is_set()
        assert await token.lost.wait() is False

    asyncio.run(main())


def test_waiter_is_woken_by_the_release(world: World) -> None:
    """No polling and no passing of time lies between a release and the next holder."""

    async def main() -> None:
        first = await world.locks.acquire("r", holder="ann")
        waiting = await world.start(world.locks.acquire("r", holder="bob"))
        assert world.locks.inspect("r").waiters == ("bob",)
        await world.locks.release(first)
        second = await waiting
        assert second.fence > first.fence

    asyncio.run(main())


def test_waiters_are_served_in_order(world: World) -> None:
    """Twenty tasks get the lock in the order they asked, one at a time."""

    async def main() -> None:
        order: list[int] = []
        inside = 0

        async def work(n: int) -> None:
            nonlocal inside
            async with world.locks.lock("r", timeout=100):
                inside += 1
                assert inside == 1
                order.append(n)
                await world.idle()
                inside -= 1

        tasks = [await world.start(work(n)) for n in range(20)]
        await asyncio.gather(*tasks)
        assert order == list(range(20))

    asyncio.run(main())


def test_timeout_names_the_holder_and_leaves_the_queue(world: World) -> None:
    """The message says who is in the way; whoever gave up is not granted later."""

    async def main() -> None:
        first = await world.locks.acquire("r", holder="ann")
        waiting = await world.start(world.locks.acquire("r", 2.0, holder="bob"))
        await world.advance(2.0)
        with pytest.raises(LockTimeoutError, match=r"'ann', lease left 28\.000 s"):
            await waiting
        await world.locks.release(first)
        assert world.locks.inspect("r") == ("r", "", 0, 0.0, ())

    asyncio.run(main())


def test_zero_timeout_tries_once(world: World) -> None:
    """It neither waits nor queues."""

    async def main() -> None:
        await world.locks.acquire("r", holder="ann")
        with pytest.raises(LockTimeoutError, match="'ann'"):
            await world.locks.acquire("r", timeout=0, holder="bob")
        assert world.locks.inspect("r").waiters == ()
        assert world.sent(Withdraw) == 0
        assert (await world.locks.acquire("other", timeout=0, holder="bob")).fence > 0

    asyncio.run(main())


def test_timeout_that_crossed_the_grant_gives_it_back(world: World) -> None:
    """The grant is on its way when time is up: the lock goes to the next in line."""

    async def main() -> None:
        first = await world.locks.acquire("r", holder="ann")
        late = await world.start(world.locks.acquire("r", 1.0, holder="bob"))
        third = await world.start(world.locks.acquire("r", 50.0, holder="cyd"))
        world.replica.is_holding = True
        releasing = await world.start(world.locks.release(first))
        await world.advance(1.0)
        assert world.replica.held == 2, "the release, and then bob's withdrawal"
        world.replica.is_holding = False
        world.replica.apply_all()
        with pytest.raises(LockTimeoutError):
            await late
        await releasing
        assert (await third).holder == "cyd"

    asyncio.run(main())


@pytest.mark.parametrize("moment", ["sending", "queued", "granted"])
def test_cancelled_acquire_leaves_nothing_behind(world: World, moment: str) -> None:
    """Cancelled before its entry is applied, while queued, or when the grant won the race."""

    async def main() -> None:
        first = await world.locks.acquire("r", holder="ann")
        world.replica.is_holding = moment == "sending"
        doomed = await world.start(world.locks.acquire("r", 50.0, holder="bob"))
        if moment == "granted":
            done = asyncio.ensure_future(world.locks.release(first))
            while world.locks.inspect("r").holder != "bob":
                await world.clock.sleep(0)
            doomed.cancel()
            await done
        else:
            doomed.cancel()
            await world.idle()
        world.replica.is_holding = False
        world.replica.apply_all()
        await world.locks.settle()
        with pytest.raises(asyncio.CancelledError):
            await doomed
        if moment != "granted":
            assert world.locks.inspect("r")[1:] == ("ann", first.fence, 30.0, ())
            await world.locks.release(first)
        assert world.locks.inspect("r").holder == ""

    asyncio.run(main())


def test_cancelled_caller_may_ask_again_at_once(world: World) -> None:
    """Its withdrawal goes first, so it is not taken for re-entrant."""

    async def main() -> None:
        first = await world.locks.acquire("r", holder="ann")

        async def ask_twice() -> str:
            try:
                async with asyncio.timeout(None) as scope:
                    asyncio.get_running_loop().call_soon(scope.reschedule, 0)
                    await world.locks.acquire("r", 50.0, holder="bob")
            except TimeoutError:
                return (await world.locks.acquire("r", 50.0, holder="bob")).holder
            raise AssertionError

        asking = await world.start(ask_twice())
        await world.locks.release(first)
        assert await asking == "bob"

    asyncio.run(main())


def test_same_task_is_refused_and_another_waits(world: World) -> None:
    """By default the holder is the session and the task: re-entrancy is not contention."""

    async def main() -> None:
        token = await world.locks.acquire("r")
        assert token.holder.startswith("s1/")
        with pytest.raises(ReentrantLockError):
            await world.locks.acquire("r")
        other = await world.start(world.locks.acquire("r"))
        await world.locks.release(token)
        assert (await other).holder != token.holder

    asyncio.run(main())


def test_lost_is_counted_from_before_the_acquire_was_sent(world: World) -> None:
    """A slow journal shortens what the holder may rely on, and never lengthens it."""

    async def main() -> None:
        world.replica.is_holding = True
        acquiring = await world.start(world.locks.acquire("r", lease=10.0))
        await world.advance(4.0)
        world.replica.apply_all()
        token = await acquiring
        assert world.locks.inspect("r").lease_left == 10.0
        assert token.lost.left_s == 6.0
        await world.advance(5.999)
        assert not token.lost.is_set()
        await world.advance(0.001)
        assert token.lost.is_set()

    asyncio.run(main())


def test_wait_in_line_does_not_shorten_the_lease(world: World) -> None:
    """A lease counts from its grant, also for one who waited longer than it lasts."""

    async def main() -> None:
        first = await world.locks.acquire("r", lease=100.0, holder="ann")
        waiting = await world.start(world.locks.acquire("r", 50.0, lease=10.0, holder="bob"))
        await world.advance(20.0)
        await world.locks.release(first)
        token = await waiting
        assert token.lost.left_s == 10.0

    asyncio.run(main())


def test_dead_holder_is_replaced_when_its_lease_ends(world: World) -> None:
    """A tick after the lease moves the queue, tells the old holder and raises the fence."""

    async def main() -> None:
        first = await world.locks.acquire("r", lease=10.0, holder="ann")
        waiting = await world.start(world.locks.acquire("r", 60.0, holder="bob"))
        telling = await world.start(first.lost.wait())
        await world.advance(10.0)
        assert await telling is True
        world.replica.tick()
        second = await waiting
        assert second.fence > first.fence
        for call in (world.locks.renew, world.locks.release):
            with pytest.raises(LockLostError):
                await call(first)
        assert world.locks.inspect("r").holder == "bob"

    asyncio.run(main())


def test_renewal_extends_and_does_not_resurrect(world: World) -> None:
    """In time it moves the end; once `lost` is set it stays set."""

    async def main() -> None:
        token = await world.locks.acquire("r", lease=10.0)
        await world.advance(9.0)
        await world.locks.renew(token)
        assert token.lost.left_s == 10.0
        await world.advance(10.0)
        with pytest.raises(LockLostError):
            await world.locks.renew(token)
        assert token.lost.is_set()

    asyncio.run(main())


def test_renewal_that_comes_through_too_late_is_given_back(world: World) -> None:
    """Ordered in time, seen too late: the body was told, so the lock is not kept either."""

    async def main() -> None:
        token = await world.locks.acquire("r", lease=10.0)
        await world.advance(5.0)
        done = asyncio.Event()
        plain = world.replica.submit

        async def slow(body: Any, request_id: str | None = None) -> Any:
            result = await plain(body, request_id)
            if isinstance(body, Renew):
                await done.wait()
            return result

        world.locks._submit = slow
        renewing = await world.start(world.locks.renew(token))
        await world.advance(5.0)
        assert token.lost.is_set()
        done.set()
        with pytest.raises(LockLostError):
            await renewing
        await world.locks.settle()
        assert token.lost.is_set()
        assert world.locks.inspect("r").holder == ""

    asyncio.run(main())


def test_scope_renews_at_a_third_of_the_lease_and_stops_at_its_end(world: World) -> None:
    """The block may take longer than the lease; after it nothing is sent any more."""

    async def main() -> None:
        async with world.locks.lock("r", lease=9.0) as token:
            for _ in range(20):
                await world.advance(3.0)
                assert not token.lost.is_set()
            assert world.sent(Renew) >= 20
        assert world.locks.inspect("r").holder == ""
        before = len(world.replica.history)
        await world.idle()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await world.advance(100.0)
        assert len(world.replica.history) == before

    asyncio.run(main())


def test_scope_tells_a_block_that_lost_its_lock(world: World) -> None:
    """By default the block goes on, told by `token.lost`, and leaving it raises nothing."""

    async def main() -> None:
        async with world.locks.lock("r", lease=9.0) as token:
            world.clock.advance(10.0)
            assert token.lost.is_set(), "at once: it needs no turn of the loop"
            await world.idle()
        assert token.lost.is_set()

    asyncio.run(main())


def test_scope_cancels_a_block_that_lost_its_lock_if_asked(world: World) -> None:
    """The cancellation comes out as LockLostError, and the task is not left cancelled."""

    async def main() -> None:
        async def hold() -> str:
            with pytest.raises(LockLostError):
                async with world.locks.lock("r", lease=9.0, cancel_on_loss=True):
                    await asyncio.get_running_loop().create_future()
            await world.clock.sleep(0)
            return "went on"

        holding = await world.start(hold())
        await world.advance(10.0)
        assert await holding == "went on"
        assert holding.cancelling() == 0

    asyncio.run(main())


def test_scope_lets_an_outer_cancellation_through(world: World) -> None:
    """What cancels the task from outside is no lost lock; the lock is given back all the same."""

    async def main() -> None:
        async def hold() -> None:
            async with world.locks.lock("r", lease=9.0, cancel_on_loss=True):
                await asyncio.get_running_loop().create_future()

        holding = await world.start(hold())
        holding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await holding
        await world.locks.settle()
        assert world.locks.inspect("r").holder == ""

    asyncio.run(main())


def test_scope_gives_the_lock_back_when_the_block_raises(world: World) -> None:
    """The block's own error comes out."""

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with world.locks.lock("r"):
                _ = 1 / 0
        assert world.locks.inspect("r").holder == ""

    asyncio.run(main())


def test_scope_survives_a_renewal_that_failed_once() -> None:
    """A full disk in the middle of a lease costs nothing if the next renewal goes through."""
    world = World()

    async def main() -> None:
        plain = world.replica.submit
        failures = 1

        async def flaky(body: Any, request_id: str | None = None) -> Any:
            nonlocal failures
            if isinstance(body, Renew) and failures:
                failures -= 1
                raise StorageFullError("no space")
            return await plain(body, request_id)

        world.locks._submit = flaky
        async with world.locks.lock("r", lease=9.0) as token:
            for _ in range(6):
                await world.advance(3.0)
            assert not token.lost.is_set()

    asyncio.run(main())


def test_cancelled_release_goes_through(world: World) -> None:
    """Cancelling the caller does not leave the lock held until its lease ends."""

    async def main() -> None:
        token = await world.locks.acquire("r")
        world.replica.is_holding = True
        releasing = await world.start(world.locks.release(token))
        releasing.cancel()
        await world.idle()
        world.replica.is_holding = False
        world.replica.apply_all()
        await world.locks.settle()
        assert world.locks.inspect("r").holder == ""
        assert world.sent(Release) == 1
        await world.advance(100)
        assert not token.lost.is_set(), "it was released, not lost"

    asyncio.run(main())


def test_close_wakes_waiters_and_marks_tokens(world: World) -> None:
    """Nobody waits for a memory that is gone, or believes to hold its lock."""

    async def main() -> None:
        token = await world.locks.acquire("r", holder="ann")
        waiting = await world.start(world.locks.acquire("r", 50.0, holder="bob"))
        world.locks.close(ClosedError("the memory was closed"))
        with pytest.raises(ClosedError):
            await waiting
        with pytest.raises(ClosedError):
            await world.locks.acquire("r")
        assert token.lost.is_set()
        await world.locks.settle()

    asyncio.run(main())


def test_session_end_frees_and_tells(world: World) -> None:
    """When another session starts, the grant of this one is over."""

    async def main() -> None:
        token = await world.locks.acquire("r")
        waiting = await world.start(world.locks.acquire("r", 50.0, holder="bob"))
        world.replica.start_session("s2")
        assert token.lost.is_set()
        with pytest.raises(LockTimeoutError):
            await waiting

    asyncio.run(main())


def test_duplicate_acquire_after_the_release_grants_nothing() -> None:
    """The ticket is the request id, so a late repeat is answered, not granted."""
    world = World()

    async def main() -> None:
        token = await world.locks.acquire("r")
        sent = next(body for body in world.replica.history if isinstance(body, Acquire))
        await world.locks.release(token)
        await world.replica.submit(sent, own_id(sent.ticket))
        assert world.locks.inspect("r").holder == ""

    asyncio.run(main())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"resource": ""}, InvalidNameError),
        ({"resource": "x" * 129}, InvalidNameError),
        ({"timeout": -1}, InvalidInputError),
        ({"timeout": float("nan")}, InvalidInputError),
        ({"timeout": float("inf")}, InvalidInputError),
        ({"lease": 0}, InvalidInputError),
        ({"lease": 1e-9}, InvalidInputError),
        ({"lease": "30"}, InvalidInputError),
        ({"lease": True}, InvalidInputError),
        ({"holder": "a\nb"}, InvalidNameError),
    ],
)
def test_malformed_arguments_send_nothing(
    arguments: dict[str, Any], error: type[Exception]
) -> None:
    """A clear error, and no entry."""
    world = World()
    with pytest.raises(error):
        asyncio.run(world.locks.acquire(**{"resource": "r"} | arguments))
    assert world.replica.history == []
