"""The only reader of time.

Times are whole microseconds since the Unix epoch, UTC, as int. Public calls take and return aware
`datetime`; `to_us` and `to_datetime` convert.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

from nt_memory.errors import InvalidTimeError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)
EARLIEST_US = (datetime.min.replace(tzinfo=UTC) - EPOCH) // _US
LATEST_US = (datetime.max.replace(tzinfo=UTC) - EPOCH) // _US
"""Every time that is kept lies between these, so that it can be shown as a `datetime`."""


def to_us(moment: datetime) -> int:
    """Whole microseconds since the epoch of an aware time.

    Raises:
        InvalidTimeError: it is not a datetime, a naive one, or outside the years 1 to 9999 in UTC.
    """
    if not isinstance(moment, datetime):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidTimeError(f"a time must be an aware datetime, not {type(moment).__name__}")
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise InvalidTimeError(f"{moment!r} is naive: give it a time zone, such as datetime.UTC")
    try:
        us = (moment - EPOCH) // _US
    except OverflowError:
        us = LATEST_US + 1
    if not EARLIEST_US <= us <= LATEST_US:
        raise InvalidTimeError(f"{moment!r} lies outside the years 1 to 9999, UTC")
    return us


def to_datetime(us: int) -> datetime:
    """The aware UTC time of `us` microseconds since the epoch."""
    return EPOCH + timedelta(microseconds=us)


async def turn() -> None:
    """Let the event loop run what is ready; takes no time."""
    await asyncio.sleep(0)


class Clock(Protocol):
    """Where a memory takes its time from."""

    def now_us(self) -> int:
        """Wall time in microseconds; never runs backwards within one instance."""
        ...

    def jump_us(self) -> int:
        """How far the operating system's wall clock has moved away from `now_us`."""
        ...

    def monotonic_ns(self) -> int:
        """Monotonic nanoseconds, for durations."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait at least `seconds` of this clock's time."""
        ...


class SystemClock:
    """Wall clock at creation plus monotonic time since, so that clock jumps change nothing."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def now_us(self) -> int:
        """See `Clock.now_us`."""
        return (time.monotonic_ns() + self._offset_ns) // 1000

    def jump_us(self) -> int:
        """See `Clock.jump_us`."""
        return time.time_ns() // 1000 - self.now_us()

    def monotonic_ns(self) -> int:
        """See `Clock.monotonic_ns`."""
        return time.monotonic_ns()

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        await asyncio.sleep(seconds)


class StoreClock:
    """A clock that goes on from a store's last entry, where the clock below it is behind that.

    Without it a wall clock that was set back between two openings would leave entry time standing
    still while readers use the earlier time: nothing would expire, and what was just written would
    lie in the readers' future.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead_us = 0

    def align(self, now_us: int) -> None:
        """Say `now_us` now: whoever gives entries their time has another clock than this node."""
        self._ahead_us = now_us - self._clock.now_us()

    def start_after(self, last_us: int) -> None:
        """Never say less than `last_us` from now on."""
        self._ahead_us = max(self._ahead_us, last_us - self._clock.now_us())

    def now_us(self) -> int:
        """See `Clock.now_us`."""
        return self._clock.now_us() + self._ahead_us

    def jump_us(self) -> int:
        """See `Clock.jump_us`."""
        return self._clock.jump_us() - self._ahead_us

    def monotonic_ns(self) -> int:
        """See `Clock.monotonic_ns`."""
        return self._clock.monotonic_ns()

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        await self._clock.sleep(seconds)


class ManualClock:
    """A clock that stands still until it is told to move; sleepers wake when their time comes.

    Args:
        start: The first now, an aware time.
    """

    def __init__(self, start: datetime = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)) -> None:
        self._now_us = to_us(start)
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._ticket = itertools.count()

    def now_us(self) -> int:
        """See `Clock.now_us`."""
        return self._now_us

    def jump_us(self) -> int:
        """Always 0."""
        return 0

    def monotonic_ns(self) -> int:
        """See `Clock.monotonic_ns`."""
        return self._now_us * 1000

    def now(self) -> datetime:
        """The current time as an aware datetime."""
        return to_datetime(self._now_us)

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        due = self._now_us + round(seconds * 1_000_000)
        heapq.heappush(self._sleepers, (due, next(self._ticket), wake))
        await wake

    def advance(self, seconds: float) -> None:
        """Move time forward and wake every sleeper whose time has come, in order."""
        self._now_us += round(seconds * 1_000_000)
        while self._sleepers and self._sleepers[0][0] <= self._now_us:
            _, _, wake = heapq.heappop(self._sleepers)
            if not wake.done():
                wake.get_loop().call_soon_threadsafe(_wake, wake)


def _wake(wake: asyncio.Future[None]) -> None:
    if not wake.done():
        wake.set_result(None)
