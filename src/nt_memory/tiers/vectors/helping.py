"""A second thread for one search, where nobody else searches and there is a processor to spare.

Several graphs of one partition are searched one after the other otherwise, and each takes as long as the
only one of a smaller partition would. With several searches under way the processors have enough to do.
What is found does not depend on who did it.

Whether there is a processor to spare only shows afterwards. A helper that has not begun when it should be done,
or is waited for half as long again as the other part took, is left alone for the next search; if it is late
then too, for the next two, and so on up to 64. So on a busy machine searches take as long as without it.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from nt_memory.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable

_CLOCK = SystemClock()
_LONGEST_PAUSE = 64
_Mine = TypeVar("_Mine")
_Other = TypeVar("_Other")


class Helper:
    """The thread of one tier; begun when it is first of use. Any thread.

    Args:
        processors: There are so many; with one, nothing is handed over.
        now_ns: Monotonic time.
    """

    def __init__(
        self,
        processors: int | None = None,
        now_ns: Callable[[], int] = _CLOCK.monotonic_ns,
    ) -> None:
        self.helped: int = 0
        """How often the other thread did its part."""
        self._processors = processors or _processors()
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._searches = 0
        self._is_closed = False
        self._now_ns = now_ns
        self._pause = 0  # so many searches are left to go by
        self._next_pause = 1

    def begin_search(self) -> None:
        """A search is under way; until `end_search`."""
        with self._lock:
            self._searches += 1

    def end_search(self) -> None:
        """It is over, whatever came of it."""
        with self._lock:
            self._searches -= 1

    def both(self, mine: Callable[[], _Mine], other: Callable[[], _Other]) -> tuple[_Mine, _Other]:
        """Call both; the other one on the helper's thread, if it is free and gets to it in time.

        What either raises comes through.

        Cost: 60 us on an idle machine. On a busy one nobody waits for a thread that has not begun.
        """
        pool = self._free()
        try:
            future = None if pool is None else pool.submit(other)
        except RuntimeError:  # closed since
            future = None
        if future is None:
            return mine(), other()
        begun = self._now_ns()
        try:
            first = mine()
        except BaseException:
            future.cancel()
            raise
        done = self._now_ns()
        if future.cancel():
            self._was(late=True)
            return first, other()
        second = future.result()
        self.helped += 1
        self._was(late=2 * (self._now_ns() - done) > done - begun)
        return first, second

    def close(self) -> None:
        """Let the thread end. Idempotent; what is asked for later is done by whoever asks."""
        with self._lock:
            self._is_closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()

    def _was(self, *, late: bool) -> None:
        """It helped, or would have."""
        with self._lock:
            self._pause = self._next_pause if late else 0
            self._next_pause = min(2 * self._next_pause, _LONGEST_PAUSE) if late else 1

    def _free(self) -> ThreadPoolExecutor | None:
        with self._lock:
            if self._is_closed or self._searches > 1 or self._processors < 2:
                return None
            if self._pause:
                self._pause -= 1
                return None
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, "nt-memory-search")
            return self._pool


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not everywhere
        return os.cpu_count() or 1


ALONE = Helper(1)
"""Hands nothing over."""
