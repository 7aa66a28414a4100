"""Waiting in line for a lock: from the acquire that is sent to its grant, or its withdrawal.

A waiter is woken by the entry that grants it. Whoever leaves, by a timeout or cancellation, has a
withdrawal sent that goes through without it, and that gives back a grant which won the race.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from nt_memory.coordination.lock_states import LockReply, granted_event
from nt_memory.coordination.tokens import LockToken, LossSignal, describe_holder, info_of
from nt_memory.coordination.waiting import wait_done
from nt_memory.entries import Acquire, Renew, Withdraw
from nt_memory.entries.requests import own_id
from nt_memory.errors import (
    ClosedError,
    InvalidInputError,
    LockLostError,
    LockTimeoutError,
    NtMemoryError,
    PermissionDeniedError,
    ReentrantLockError,
    again,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nt_memory.clock import Clock
    from nt_memory.coordination.errands import Errands
    from nt_memory.coordination.lock_states import LockEvent, LockState
    from nt_memory.entries import Body

    Submit = Callable[[Body, str | None], Awaitable[Any]]


REQUESTED = "request-"
"""How the ticket of an acquire begins that was given a request id."""


class Line:
    """The calls of one memory that wait for locks.

    Args:
        submit: As of `Locks`.
        read: As of `Locks`.
        clock: As of `Locks`.
        errands: Takes the withdrawals.
    """

    def __init__(
        self,
        submit: Submit,
        read: Callable[[str], LockState | None],
        clock: Clock,
        errands: Errands,
    ) -> None:
        self._submit = submit
        self._read = read
        self._clock = clock
        self._errands = errands
        # By ticket. Several calls wait under one if a request is repeated while it still waits.
        self._waiting: dict[str, list[asyncio.Future[LockEvent | None]]] = {}
        self._closed: NtMemoryError | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def tell(self, event: LockEvent) -> None:
        """A place was granted, refused or withdrawn."""
        for waiter in self._waiting.get(event.ticket, ()):
            if not waiter.done():
                waiter.set_result(event)

    def close(self, error: NtMemoryError) -> None:
        """Make everybody who waits raise `error`."""
        self._closed = error
        for waiters in self._waiting.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def join(self, command: Acquire, timeout: float, sent_ns: int) -> LockToken:
        """Send an acquire, and wait for its grant.

        Args:
            command: The acquire.
            timeout: Seconds to wait at most.
            sent_ns: Monotonic time from before it was sent; the lease is counted from it.

        Raises:
            As `Locks.acquire`. Then the place, or the grant that won the race, is given back.
        """
        resource, ticket = command.resource, command.ticket
        # Registered before it is sent: the granting entry may become visible before the reply.
        waiter: asyncio.Future[LockEvent | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(ticket, []).append(waiter)
        try:
            return await self._acquire(command, timeout, sent_ns, waiter)
        except (LockTimeoutError, ReentrantLockError, InvalidInputError, PermissionDeniedError):
            raise
        except BaseException:
            # A repeated request shares its place: it is for the last that waits to leave it.
            if len(self._waiting[ticket]) == 1:
                self._errands.run(resource, self._submit(Withdraw(resource, ticket), None))
            raise
        finally:
            waiters = self._waiting[ticket]
            waiters.remove(waiter)
            if not waiters:
                del self._waiting[ticket]
            waiter.cancel()

    async def _acquire(
        self,
        command: Acquire,
        timeout: float,
        sent_ns: int,
        waiter: asyncio.Future[LockEvent | None],
    ) -> LockToken:
        is_requested = command.ticket.startswith(REQUESTED)
        # The ticket is the request id too: a duplicate that comes after the release would
        # otherwise be a grant that nobody knows of.
        request = command.ticket if is_requested else own_id(command.ticket)
        reply = msgspec.convert(await self._submit(command, request), LockReply)
        fence, lease_until = reply.fence, reply.lease_until
        if reply.kind != "granted":
            self._rejoin(command, waiter)
            left_s = timeout - (self._clock.monotonic_ns() - sent_ns) / 1e9
            if not await wait_done(waiter, self._clock, left_s):
                await self._time_out(command, timeout)
            event = waiter.result()
            if event is None:
                raise again(self._closed or ClosedError("the memory was closed"))
            if event.kind != "granted":
                raise LockTimeoutError(
                    f"lock {command.resource!r} was not granted within {timeout} s: "
                    f"{self._describe(command.resource)}"
                )
            fence, lease_until = event.fence, event.lease_until
        if is_requested:
            # The reply may be a remembered one: whether its lease still runs, and how long, is
            # known by renewing it.
            sent_ns = self._clock.monotonic_ns()
            renew = Renew(command.resource, fence, command.lease_us)
            reply = msgspec.convert(await self._submit(renew, None), LockReply)
            lease_until = reply.lease_until
        # Entry times differ from local times by the clocks' offset, so only their difference is
        # used: the lease ends `lease_until - entered_at` after the acquire was ordered, which was
        # not before it was sent.
        deadline_ns = sent_ns + (lease_until - reply.entered_at) * 1000
        lost = LossSignal(self._clock, deadline_ns)
        lease = command.lease_us / 1_000_000
        token = LockToken(command.resource, command.holder, fence, lease, lost)
        if lost.is_set():
            raise LockLostError(
                f"lock {command.resource!r} was granted, but its lease of {lease} s ran out first"
            )
        return token

    def _rejoin(self, command: Acquire, waiter: asyncio.Future[LockEvent | None]) -> None:
        """A remembered reply says what was: see what has become of the place in the queue."""
        state = self._read(command.resource)
        grant = None if state is None else state.grant
        if waiter.done() or state is None:
            is_there = waiter.done()
        elif grant is not None and grant.ticket == command.ticket:
            is_there = True
            waiter.set_result(granted_event(command.resource, grant))
        else:
            is_there = any(one.ticket == command.ticket for one in state.waiters)
        if not is_there:
            raise LockLostError(
                f"lock {command.resource!r}: this request was made before, and its place in line or "
                "its grant is over"
            )

    async def _time_out(self, command: Acquire, timeout: float) -> None:
        withdraw = Withdraw(command.resource, command.ticket)
        errand = self._errands.run(command.resource, self._submit(withdraw, None))
        reply = msgspec.convert(await asyncio.shield(errand), LockReply)
        who = describe_holder(reply.holder, (reply.lease_until - reply.entered_at) / 1_000_000)
        raise LockTimeoutError(
            f"lock {command.resource!r} was not granted within {timeout} s: {who}"
        )

    def _describe(self, resource: str) -> str:
        state = self._read(resource)
        if state is None:
            return describe_holder("", 0.0)
        info = info_of(state, self._clock.now_us())
        return describe_holder(info.holder, info.lease_left)
