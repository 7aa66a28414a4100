"""What "now" is for the agents, and how a point in time is named.

On a live timeline now is the clock's. On a backtest timeline it is whatever the last `advance`
entry said, the same for every process of the swarm; nothing beyond it can be read or written.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from nt_memory.clock import to_datetime, to_us
from nt_memory.errors import InvalidInputError, LookAheadError, TimelineError
from nt_memory.records import AsOf

if TYPE_CHECKING:
    from collections.abc import Callable

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
        if isinstance(as_of, bool) or not isinstance(as_of, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(
                f"as_of must be a time, a revision or AsOf, not {type(as_of).__name__}"
            )
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
        if not 0 <= revision <= visible:
            raise InvalidInputError(f"revision {revision} is not visible here: 0 to {visible} are")
