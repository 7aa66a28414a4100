"""Who waits because graphs are behind: writers, once searches would have too much to scan.

Rows that no graph covers yet are scanned by every search. They take no memory to speak of (beyond
some megabytes they are read from the mapped file), but time, and writers are faster than graphs are
built. So past a budget a partition takes rows only as fast as it gets them into graphs: a writer is
let in once as many rows as it brings have been indexed since, first come, first served.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from nt_memory.tiers.vectors.partition import Partition


class _Waiter(NamedTuple):
    graph_rows: int
    callback: Callable[[], None]


class Backlog:
    """Thread-safe.

    Args:
        max_bytes: A partition's budget, as float32 vectors that wait for a graph.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._waiters: dict[int, deque[_Waiter]] = {}
        self._is_closed = False

    def has_room(self, partition: Partition) -> bool:
        """Whether writers need not wait. Microseconds."""
        return partition.waiting_bytes <= self._max_bytes

    def wait(self, partition: Partition, rows: int, callback: Callable[[], None]) -> None:
        """Have `callback` called once, on some thread, when `rows` may be written.

        The indexer has to be told of the partition after that.
        """
        with self._lock:
            if not self._is_closed:
                queue = self._waiters.setdefault(partition.number, deque())
                reached = queue[-1].graph_rows if queue else partition.graph_rows
                queue.append(_Waiter(reached + rows, callback))
                return
        callback()

    def progress(self, partition: Partition, *, is_over: bool) -> None:
        """The indexer did something for a partition; or it can do no more, and nobody should wait."""
        if partition.number not in self._waiters:
            return
        admitted: list[_Waiter] = []
        with self._lock:
            queue = self._waiters.get(partition.number, deque())
            is_free = is_over or self.has_room(partition)
            while queue and (is_free or queue[0].graph_rows <= partition.graph_rows):
                admitted.append(queue.popleft())
            if not queue:
                self._waiters.pop(partition.number, None)
        for waiter in admitted:
            waiter.callback()

    def forget(self, number: int) -> None:
        """A partition is gone: whoever waits for it is let in, and finds out."""
        with self._lock:
            queue = self._waiters.pop(number, deque())
        for waiter in queue:
            waiter.callback()

    def close(self) -> None:
        """Let everybody in."""
        with self._lock:
            self._is_closed = True
            numbers = list(self._waiters)
        for number in numbers:
            self.forget(number)
