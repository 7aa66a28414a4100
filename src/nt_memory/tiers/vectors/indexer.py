"""Background threads: one moves rows into graphs, one saves and merges graphs.

A thread lives only while there is work and a little longer, is not a daemon (a daemon thread inside
faiss can abort the interpreter at exit), and looks between two steps whether it was told to stop or
the main thread has ended; so nothing waits for it longer than one step.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from nt_memory.tiers.vectors.growth import Outcome, Pace

if TYPE_CHECKING:
    from collections.abc import Callable

    from nt_memory.tiers.vectors.partition import Partition

# Rows a step. The first search of a partition that is being loaded waits for one, 0.2 s at 1M rows; by
# two threads 256 rows at a time took 1.4 times as long a row, since each add begins with one row alone.
_HOLD = 2048
_LINGER_S = 0.5
# So many steps without a search anywhere, and all threads may build.
_CALM_STEPS = 8
# A partition is worked on for so many steps before the next has a turn: half-built graphs are few.
_STRETCH = 64


class Worker:
    """Works off partitions, a step at a time, on a thread of its own.

    Args:
        name: Of the thread.
        step: Does a step; whatever it raises costs time, never results.
        threads: Threads for a step while nobody searches, else one.
        nice: By how much searches, and everybody else, go before it where the processors are few.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[Partition, Pace], Outcome],
        *,
        threads: int,
        nice: int,
    ) -> None:
        self.searches = 0
        """Bumped by searches."""
        self.failures: int = 0
        self._name = name
        self._step = step
        self._threads = threads
        self._nice = nice
        self._turn = threading.Condition(threading.Lock())
        self._waiting: dict[int, Partition] = {}
        self._later: dict[int, Partition] = {}
        self._askers = 0
        self._is_busy = False
        self._is_closed = False
        self._thread: threading.Thread | None = None
        self._seen = 0
        self._calm_steps = _CALM_STEPS

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being done or about to be; what is left for later may wait."""
        return self._is_closed or not (self._waiting or self._is_busy)

    def submit(self, partition: Partition) -> None:
        """Have a partition looked at. Thread-safe; microseconds, unless the thread must start."""
        if partition.number in self._waiting:
            return
        with self._turn:
            if self._is_closed:
                return
            self._later.pop(partition.number, None)
            self._waiting[partition.number] = partition
            self._wake()

    def is_left_for_later(self, partition: Partition) -> bool:
        """Whether a step of it said that there was too little to do. Any thread, no lock."""
        return partition.number in self._later

    def wait_idle(self, timeout_s: float | None) -> bool:
        """Block until nothing is left to do, or closed; False on timeout."""
        with self._turn:
            self._askers += 1
            if self._later:
                self._wake()
            try:
                return self._turn.wait_for(
                    lambda: self._is_closed or not (self._waiting or self._is_busy or self._later),
                    timeout_s,
                )
            finally:
                self._askers -= 1

    def close(self) -> None:
        """Stop after the current step and wait for that. Idempotent."""
        with self._turn:
            self._is_closed = True
            self._waiting.clear()
            self._later.clear()
            self._turn.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _wake(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=self._name)
            thread.start()
            self._thread = thread
        else:
            self._turn.notify_all()

    def _run(self) -> None:
        if sys.platform == "linux":  # where it is a matter of threads
            with suppress(OSError):
                thread = threading.get_native_id()
                nice = os.getpriority(os.PRIO_PROCESS, thread) + self._nice
                os.setpriority(os.PRIO_PROCESS, thread, min(nice, 19))
        while (found := self._next()) is not None:
            self._work(*found)

    def _next(self) -> tuple[Partition, bool] | None:
        """The next partition and whether to leave no remainder; None: nothing to do, or no time."""
        with self._turn:
            self._is_busy = False
            if not self._waiting:
                self._turn.notify_all()
                self._turn.wait_for(self._has_reason, _LINGER_S)
            is_final = not self._waiting and (self._askers > 0 or self.searches == self._seen)
            source = self._later if is_final else self._waiting
            if self._is_closed or not source or not threading.main_thread().is_alive():
                self._thread = None
                self._turn.notify_all()
                return None
            self._is_busy = True
            return source.pop(next(iter(source))), is_final

    def _has_reason(self) -> bool:
        return bool(self._waiting or self._is_closed or (self._later and self._askers))

    def _work(self, partition: Partition, is_final: bool) -> None:  # noqa: FBT001 - a pair from `_next`
        outcome = Outcome.MORE
        for _ in range(_STRETCH):
            if outcome is not Outcome.MORE or not self._may_go_on():
                break
            try:
                outcome = self._step(partition, self._pace(is_final))
            except Exception:  # noqa: BLE001 - whatever happens here must cost time, never results
                self.failures += 1
                return
        with self._turn:
            if self._is_closed or outcome is Outcome.DONE:
                return
            place = self._waiting if outcome is Outcome.MORE else self._later
            place[partition.number] = partition

    def _may_go_on(self) -> bool:
        return not self._is_closed and threading.main_thread().is_alive()

    def _pace(self, is_final: bool) -> Pace:  # noqa: FBT001 - as `_work`
        if self.searches != self._seen:
            self._seen, self._calm_steps = self.searches, 0
        else:
            self._calm_steps += 1
        threads = self._threads if self._calm_steps >= _CALM_STEPS else 1
        return Pace(_HOLD, threads, self._threads, is_final, self._may_go_on)
