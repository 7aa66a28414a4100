"""How long searches took lately, and how many there are: whether the next may run on the event loop.

Handing work to another thread and coming back takes 40 us on an idle machine, and milliseconds on one
with more to do than cores, so a search that is over sooner than the loop would miss it stays.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable

    from nt_memory.clock import Clock

_FORGET = 0.95
"""A slow search counts less with each quicker one after it: 5 ms are forgotten after 60."""

_MAX_KINDS = 1024


class Pace:
    """Times of searches by kind. Any thread.

    Args:
        clock: For durations.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._took_ns: dict[Hashable, float] = {}
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
        took = self._took_ns.get(kind)
        return took is not None and took <= limit_ns

    def took(self, kind: Hashable, start_ns: int) -> None:
        """A search of a kind that began then is over."""
        spent = self._clock.monotonic_ns() - start_ns
        self._took_ns[kind] = max(spent, _FORGET * self._took_ns.get(kind, 0.0))
        if len(self._took_ns) > _MAX_KINDS:
            self._took_ns = {}
