"""How long searches took lately, and how many there are: whether the next may run on the event loop.

Handing work to another thread and coming back takes 40 us on an idle machine, and milliseconds on one
with more to do than cores, so a search that is over sooner than the loop would miss it stays.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable

    from nt_memory.clock import Clock

_FORGET = 0.95
"""A slow search counts less with each quicker one after it: 5 ms are forgotten after 60."""

_MAX_KINDS = 1024


class _Times(NamedTuple):
    """How long searches of a kind took, nanoseconds.

    Attributes:
        slowest: The slowest of late.
        usual: The slowest of late that did not stand alone: the one before or after it was as slow.
        last: The last.
        is_only: There was no other.
    """

    slowest: float
    usual: float
    last: float
    is_only: bool = False


class Pace:
    """Times of searches by kind. Any thread.

    Args:
        clock: For durations.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._times: dict[Hashable, _Times] = {}
        self._under_way = 0

    @contextmanager
    def searching(self) -> Generator[Callable[[], int], None, None]:
        """Count a search while it lasts. The loop's thread only.

        Yields:
            How many others are under way.
        """
        self._under_way += 1
        try:
            yield lambda: self._under_way - 1
        finally:
            self._under_way -= 1

    def now_ns(self) -> int:
        """For `took`."""
        return self._clock.monotonic_ns()

    def is_within(self, kind: Hashable, limit_ns: float) -> bool:
        """Whether searches of a kind took no longer than that; False of those never seen."""
        times = self._times.get(kind)
        return times is not None and times.slowest <= limit_ns

    def is_usually_within(self, kind: Hashable, limit_ns: float) -> bool:
        """The same, whatever a single one took: it may have been another process that took the time."""
        times = self._times.get(kind)
        return times is not None and times.usual <= limit_ns

    def took(self, kind: Hashable, start_ns: int) -> None:
        """A search of a kind that began then is over."""
        spent = float(self._clock.monotonic_ns() - start_ns)
        before = self._times.get(kind)
        if before is None:
            self._times[kind] = _Times(spent, spent, spent, is_only=True)
        else:
            both = min(spent, before.last)
            # The first often has files to map and pages to find: it stands alone like any other.
            usual = both if before.is_only else max(both, _FORGET * before.usual)
            self._times[kind] = _Times(max(spent, _FORGET * before.slowest), usual, spent)
        if len(self._times) > _MAX_KINDS:
            self._times = {}
