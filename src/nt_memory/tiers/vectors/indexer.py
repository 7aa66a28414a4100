"""The background thread that moves rows into graphs.

It lives only while there is work and a little longer, is not a daemon (a daemon thread inside faiss
can abort the interpreter at exit), and looks between two holds whether it was told to stop or the
main thread has ended; so nothing waits for it longer than one hold.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from nt_memory.tiers.vectors.partition import Partition

# Rows a hold. With searches about, a hold is what one of them may have to wait for.
_SHORTEST_HOLD = 2
_LONGEST_HOLD = 512
_LINGER_S = 0.5


class Indexer:
    """Works off partitions in turn, a hold each.

    Args:
        on_idle: Called on the indexer's thread for each partition that needs nothing more.
    """

    def __init__(self, on_idle: Callable[[Partition], None]) -> None:
        self.searches = 0
        """Bumped by searches: while it moves, holds stay short."""
        self.failures = 0
        self._on_idle = on_idle
        self._turn = threading.Condition(threading.Lock())
        self._waiting: dict[int, Partition] = {}
        self._is_busy = False
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def submit(self, partition: Partition) -> None:
        """Have a partition looked at. Thread-safe; microseconds, unless the thread must start."""
        if partition.number in self._waiting:
            return
        with self._turn:
            if self._is_closed:
                return
            self._waiting[partition.number] = partition
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="nt-memory-indexer")
                thread.start()
                self._thread = thread
            else:
                self._turn.notify_all()

    def wait_idle(self, timeout_s: float | None) -> bool:
        """Block until nothing waits and nothing is being done, or closed; False on timeout."""
        with self._turn:
            return self._turn.wait_for(
                lambda: self._is_closed or not (self._waiting or self._is_busy), timeout_s
            )

    def close(self) -> None:
        """Stop after the current hold and wait for that. Idempotent."""
        with self._turn:
            self._is_closed = True
            self._waiting.clear()
            self._turn.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        hold, seen = _LONGEST_HOLD, self.searches
        while (partition := self._next()) is not None:
            if self.searches != seen:
                hold, seen = _SHORTEST_HOLD, self.searches
            else:
                hold = min(2 * hold, _LONGEST_HOLD)
            self._work(partition, hold)

    def _next(self) -> Partition | None:
        """The next partition, or None: closed, at interpreter exit, or idle for a while."""
        with self._turn:
            self._is_busy = False
            if not self._waiting:
                self._turn.notify_all()
                self._turn.wait_for(lambda: self._waiting or self._is_closed, _LINGER_S)
            if self._is_closed or not self._waiting or not threading.main_thread().is_alive():
                self._thread = None
                self._turn.notify_all()
                return None
            self._is_busy = True
            return self._waiting.pop(next(iter(self._waiting)))

    def _work(self, partition: Partition, hold: int) -> None:
        try:
            if partition.advance(hold):
                with self._turn:
                    if not self._is_closed:
                        self._waiting[partition.number] = partition
            else:
                self._on_idle(partition)
        except Exception:  # noqa: BLE001 - whatever happens here must cost time, never results
            self.failures += 1
