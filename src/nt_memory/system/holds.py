"""What open reads still need, so that compaction does not take it from under them.

A view, a scan or a feed holds back what it may yet ask for, as long as it is referred to and for at
most `MAX_HOLD_S`: one that was forgotten must not keep a store from shrinking. After that a read
that needs what is gone says so with `TrimmedError`.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Protocol

from nt_memory.timeline import Moment

if TYPE_CHECKING:
    from nt_memory.clock import Clock

MAX_HOLD_S = 600.0


class Feed(Protocol):
    """Reads the log of accepted entries, after `revision`."""

    @property
    def revision(self) -> int:
        """What it has read so far."""
        ...


class Holds:
    """The open reads of one instance. Belongs to its event loop.

    Args:
        clock: Tells how long each has been open.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._reads: weakref.WeakKeyDictionary[object, tuple[int, Moment]] = (
            weakref.WeakKeyDictionary()
        )
        self._feeds: weakref.WeakKeyDictionary[Feed, tuple[int, int]] = weakref.WeakKeyDictionary()

    def add_read(self, reader: object, moment: Moment) -> None:
        """`reader` may ask for what was in force at `moment`."""
        self._reads[reader] = self._clock.monotonic_ns(), moment

    def add_feed(self, feed: Feed) -> None:
        """`feed` may ask for every entry after its revision."""
        self._feeds[feed] = self._clock.monotonic_ns(), feed.revision

    def moment(self) -> Moment | None:
        """No read asks for anything before this; None: there is no read."""
        moments = [moment for since, moment in self._reads.values() if self._counts(since)]
        if not moments:
            return None
        return Moment(
            min(moment.time_us for moment in moments), min(moment.revision for moment in moments)
        )

    def revision(self) -> int | None:
        """No feed asks for this entry or one before it; None: there is no feed."""
        oldest: int | None = None
        for feed, (since, seen) in list(self._feeds.items()):
            if feed.revision != seen:
                # It has moved since it was looked at, so somebody is reading it.
                self.add_feed(feed)
            elif not self._counts(since):
                continue
            oldest = feed.revision if oldest is None else min(oldest, feed.revision)
        return oldest

    def _counts(self, since_ns: int) -> bool:
        return self._clock.monotonic_ns() - since_ns < MAX_HOLD_S * 1e9
