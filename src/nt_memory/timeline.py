"""What "now" is for the agents, and how a point in time is named.

On a live timeline now is the clock's. On a backtest timeline it is whatever the last `advance`
entry said, the same for every process of the swarm; nothing beyond it can be read or written.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, tzinfo
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from numpy import datetime64

from nt_memory.clock import to_datetime, to_us
from nt_memory.errors import (
    InvalidInputError,
    InvalidTimeError,
    LookAheadError,
    TimelineError,
)
from nt_memory.records import AsOf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nt_memory.clock import Clock

AsOfLike = datetime | int | AsOf


class Moment(NamedTuple):
    """A resolved point in time: what was known by `time_us` and recorded by `revision`."""

    time_us: int
    revision: int


class Timeline:
    """The agents' now. Owned by the replica's follower; everyone else reads it.

    Args:
        clock: Source of now on a live timeline.
        is_backtest: Whether now moves only by `advance` entries.
    """

    def __init__(self, clock: Clock, *, is_backtest: bool) -> None:
        self._clock = clock
        self.is_backtest = is_backtest
        self._backtest_now_us: int | None = None

    @property
    def has_started(self) -> bool:
        """False only for a backtest that was never advanced."""
        return not self.is_backtest or self._backtest_now_us is not None

    def now_us(self) -> int:
        """The agents' now.

        Raises:
            TimelineError: a backtest that was never advanced.
        """
        if not self.is_backtest:
            return self._clock.now_us()
        if self._backtest_now_us is None:
            raise TimelineError(
                "the backtest timeline has not started: call memory.timeline.advance(t) first"
            )
        return self._backtest_now_us

    def now(self) -> datetime:
        """The agents' now as an aware datetime. Raises like `now_us`."""
        return to_datetime(self.now_us())

    def follow(self, now_us: int) -> None:
        """An `advance` entry became visible."""
        self._backtest_now_us = now_us

    def resolve(
        self, as_of: AsOfLike | None, *, visible: int, time_at: Callable[[int], int]
    ) -> Moment:
        """Turn an `as_of` argument into a moment.

        Args:
            as_of: None for now; a time; a revision; or both clocks.
            visible: The revision visible here.
            time_at: Timeline now right after a revision, microseconds.

        Raises:
            LookAheadError: it lies past a backtest's now.
            InvalidTimeError: a naive time.
            InvalidInputError: neither a time, a revision nor an `AsOf`; or a revision not visible.
        """
        if as_of is None:
            return Moment(self.now_us(), visible)
        if isinstance(as_of, AsOf):
            self._check_revision(as_of.revision, visible)
            return Moment(self._check_time(to_us(as_of.time)), as_of.revision)
        if isinstance(as_of, datetime):
            return Moment(self._check_time(to_us(as_of)), visible)
        self._check_revision(as_of, visible)
        return Moment(time_at(as_of), as_of)

    def _check_time(self, time_us: int) -> int:
        if self.is_backtest and time_us > self.now_us():
            raise LookAheadError(
                f"as_of {to_datetime(time_us)} lies past the backtest's now, {self.now()}"
            )
        return time_us

    @staticmethod
    def _check_revision(revision: int, visible: int) -> None:
        if isinstance(revision, bool) or not isinstance(revision, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(
                f"as_of must be a time, a revision or AsOf, not {type(revision).__name__}"
            )
        if not 0 <= revision <= visible:
            raise InvalidInputError(f"revision {revision} is not visible here: 0 to {visible} are")


def session_close(
    dates: Iterable[date | datetime64 | str], tz: str | tzinfo, at: time | str = "16:00"
) -> list[datetime]:
    """When each session closes: naive exchange dates as aware times, in UTC.

    Args:
        dates: Exchange dates: `date`, naive `datetime` at midnight, ISO text or numpy dates, an
            array of them included.
        tz: Time zone of the exchange, such as "America/New_York"; daylight saving is observed.
        at: Its closing time on the clock there, a `time` or "HH:MM".

    Raises:
        InvalidTimeError: a date that is none, an unknown zone or a malformed time.
    """
    try:
        zone = ZoneInfo(tz) if isinstance(tz, str) else tz
        clock_time = time.fromisoformat(at) if isinstance(at, str) else at
        return [datetime.combine(_to_date(day), clock_time, zone).astimezone(UTC) for day in dates]
    except (ValueError, TypeError, OverflowError, ZoneInfoNotFoundError) as error:
        raise InvalidTimeError(f"session_close: {error}") from None


def _to_date(day: object) -> date:
    if isinstance(day, str):
        return date.fromisoformat(day)
    if isinstance(day, datetime64):
        found = day.astype("datetime64[D]").item()
        if not isinstance(found, date):
            raise TypeError(f"{day!r} is not a date")
        return found
    if isinstance(day, datetime):
        if day.tzinfo is not None or day.time() != time():
            raise ValueError(f"{day!r} is a time, not a session's date")
        return day.date()
    if isinstance(day, date):
        return day
    raise TypeError(f"{day!r} is not a date")
