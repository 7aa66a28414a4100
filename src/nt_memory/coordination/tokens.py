"""What a holder holds: the token of a grant, and the signal that it is over."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from nt_memory.coordination.lock_rules import MAX_LEASE_US
from nt_memory.coordination.waiting import wait_done
from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from nt_memory.clock import Clock
    from nt_memory.coordination.lock_states import LockState

_MAX_SECONDS = MAX_LEASE_US // 1_000_000


class LockInfo(NamedTuple):
    """A look at one lock.

    Attributes:
        resource: Its name.
        holder: Who holds it; empty if nobody.
        fence: Fence of the present grant, 0 if nobody holds it.
        lease_left: Seconds until that lease ends; 0.0 if nobody holds it.
        waiters: Who waits, in order.
    """

    resource: str
    holder: str = ""
    fence: int = 0
    lease_left: float = 0.0
    waiters: tuple[str, ...] = ()


class LossSignal:
    """Tells that a lease is over. Used like an `asyncio.Event` that only the lock can set."""

    def __init__(self, clock: Clock, deadline_ns: int) -> None:
        self._clock = clock
        self._deadline_ns = deadline_ns
        self._is_lost = False
        self._is_over = False
        self._wake: asyncio.Future[None] | None = None

    def is_set(self) -> bool:
        """Whether the lease must be taken as lost. Reads the clock: needs no turn of the loop."""
        if not self._is_over and self._clock.monotonic_ns() >= self._deadline_ns:
            self.end(is_lost=True)
        return self._is_lost

    async def wait(self) -> bool:
        """Wait until the lock is no longer held.

        Returns:
            True if it was lost, False if it was released in time.
        """
        while not self.is_set() and not self._is_over:
            if self._wake is None:
                self._wake = asyncio.get_running_loop().create_future()
            left_ns = self._deadline_ns - self._clock.monotonic_ns()
            await wait_done(self._wake, self._clock, left_ns / 1e9)
        return self._is_lost

    @property
    def left_s(self) -> float:
        """Seconds until it sets itself; 0.0 once the lock is no longer held."""
        if self._is_over:
            return 0.0
        return max(0.0, (self._deadline_ns - self._clock.monotonic_ns()) / 1e9)

    def extend(self, deadline_ns: int) -> bool:
        """Move the deadline; False if it is too late. For the lock calls only."""
        if self.is_set() or self._is_over:
            return False
        self._deadline_ns = max(self._deadline_ns, deadline_ns)
        return True

    def end(self, *, is_lost: bool) -> None:
        """The lock is no longer held; for the lock calls only."""
        if self._is_over:
            return
        self._is_over = True
        self._is_lost = is_lost
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def __repr__(self) -> str:  # type: ignore[explicit-override]  # typing.override is 3.12
        state = "set" if self.is_set() else "over" if self._is_over else f"{self.left_s:.3f} s left"
        return f"<LossSignal {state}>"


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class LockToken:
    """Proof of one grant. Pass it as `fence` with the writes that the lock protects.

    Attributes:
        resource: The lock's name.
        holder: Who holds it.
        fence: Number of the grant; grows with every grant of this lock.
        lease: Seconds a renewal extends it by.
        lost: Set once the lease must be taken as over; see `LossSignal`.
    """

    resource: str
    holder: str
    fence: int
    lease: float
    lost: LossSignal


def info_of(state: LockState, now_us: int) -> LockInfo:
    """What a lock's state says at an entry time."""
    waiters = tuple(waiter.holder for waiter in state.waiters)
    grant = state.grant
    if grant is None or grant.lease_until <= now_us:
        return LockInfo(state.resource, waiters=waiters)
    left_s = (grant.lease_until - now_us) / 1_000_000
    return LockInfo(state.resource, grant.holder, grant.fence, left_s, waiters)


def describe_holder(holder: str, lease_left_s: float) -> str:
    """Who is in the way, for messages."""
    if not holder:
        return "nobody holds it at the moment"
    return f"held by {holder!r}, lease left {lease_left_s:.3f} s"


def to_lease_us(seconds: float, what: str, *, minimum: int) -> int:
    """Microseconds of a wait or a lease.

    Raises:
        InvalidInputError: it is no number, or out of range.
    """
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not is_number or not math.isfinite(seconds) or not 0 <= seconds <= _MAX_SECONDS:
        raise InvalidInputError(
            f"{what} must be seconds between 0 and {_MAX_SECONDS}, not {seconds!r}"
        )
    us = round(seconds * 1_000_000)
    if us < minimum:
        raise InvalidInputError(f"{what} must be at least a microsecond, not {seconds!r}")
    return us
