"""What goes on behind searches: indexing, merging, memory given back, writers let in."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from nt_memory.tiers.vectors.backlog import Backlog
from nt_memory.tiers.vectors.growth import Outcome
from nt_memory.tiers.vectors.indexer import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from nt_memory.tiers.vectors.growth import Pace
    from nt_memory.tiers.vectors.partition import Partition

# Of the memory, what one partition's float32 vectors past its graphs would take, and at most: 43,000
# rows of 384 values take some 25 ms to scan.
_BACKLOG_SHARE = 4
_MOST_BACKLOG = 64 << 20
# Adding up what all partitions hold takes a microsecond for each: so many of them a step, or one search of a thousand
# agents in turn takes that for every one of them.
_COUNTED_A_STEP = 16
# Of the memory, what is given back at least once it is full: else each search that fills it counts all.
_GIVEN_BACK_SHARE = 16


class Upkeep:
    """Two threads and what they do to the partitions of a tier.

    Args:
        partitions: The tier's, by id; looked at, not changed.
        growing: Those that nobody searches yet; what they hold counts, and is not given back.
        max_bytes: Above it the least recently searched partitions are unloaded.
        threads: Threads that build a graph while nobody searches.
        publish: Rows that are worth a step (`Tuning.publish`).
    """

    def __init__(
        self,
        partitions: dict[int, Partition],
        growing: dict[int, Partition],
        *,
        max_bytes: int,
        threads: int,
        publish: int,
    ) -> None:
        self.unloads: int = 0
        self.backlog: Backlog = Backlog(min(max_bytes // _BACKLOG_SHARE, _MOST_BACKLOG))
        self._partitions = partitions
        self._growing = growing
        self._max_bytes = max_bytes
        self._publish = publish
        self._count = threading.Lock()
        self._held: dict[int, int] = {}
        self._total = 0
        self._most = max_bytes
        self._steps = 0
        self._indexer = Worker("nt-memory-indexer", self._index, threads=threads, nice=5)
        self._merger = Worker("nt-memory-merger", self._tidy, threads=threads, nice=10)

    @property
    def failures(self) -> int:
        """Steps that failed."""
        return self._indexer.failures + self._merger.failures

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being done or about to be."""
        return self._indexer.is_idle and self._merger.is_idle

    def searched(self) -> None:
        """Somebody searches: whatever takes the processor should be modest for a while."""
        self._indexer.searches += 1
        self._merger.searches += 1

    def look_at(self, partition: Partition) -> None:
        """Have a partition's graphs brought up to date. Thread-safe; microseconds."""
        self._indexer.submit(partition)

    def grew(self, partition: Partition) -> None:
        """A partition has more rows. Microseconds."""
        waiting = partition.waiting
        if waiting and (waiting >= self._publish or not self._can_wait(partition)):
            self._indexer.submit(partition)

    def ended(self, partition: Partition) -> None:
        """A row of a partition ended. O(1)."""
        if partition.index.is_untidy:
            self._merger.submit(partition)

    def wait_for_room(self, partition: Partition, rows: int, callback: Callable[[], None]) -> None:
        """As `Backlog.wait`."""
        self.backlog.wait(partition, rows, callback)
        self._indexer.submit(partition)

    def unload(self, partition: Partition) -> None:
        """Drop what a partition holds; see `Partition.unload`."""
        partition.unload()
        self.unloads += 1

    def pressure(self, max_bytes: int, current: Partition | None = None) -> int:
        """Unload the least recently searched partitions until at most `max_bytes` are held.

        Args:
            max_bytes: What may be held.
            current: Being worked on, so it goes last.

        Returns:
            Bytes still held.

        Raises:
            OSError: a snapshot could not be written.
        """
        total = self._counted()
        if total <= max_bytes:
            return total
        held = list(self._partitions.copy().values())
        held.sort(key=lambda partition: (partition is current, partition.last_searched))
        for partition in held:
            if total <= max_bytes:
                break
            if partition.is_loaded:
                self.unload(partition)
                total = self._noted(partition)
        return total

    def wait_idle(self, timeout_s: float | None) -> bool:
        """Block until nothing is left to do; False if either thread took too long."""
        while self._indexer.wait_idle(timeout_s) and self._merger.wait_idle(timeout_s):
            if self._indexer.is_idle:
                return True
        return False

    def close(self) -> None:
        """Stop after the steps that are being done; writers are let in. Idempotent."""
        self._indexer.close()
        self._merger.close()
        self.backlog.close()

    def _can_wait(self, partition: Partition) -> bool:
        """A few rows are not worth a step: searches are about, or graphs would have to be loaded."""
        if self._indexer.is_left_for_later(partition):
            return True
        return partition.graph_rows > 0 and not partition.index.is_loaded

    def _index(self, partition: Partition, pace: Pace) -> Outcome:
        is_over = True
        try:
            outcome = partition.advance(pace)
            is_over = outcome is not Outcome.MORE
        finally:
            self.backlog.progress(partition, is_over=is_over)
        if partition.index.is_untidy:
            self._merger.submit(partition)
        self._look_at_memory(partition)
        return outcome

    def _tidy(self, partition: Partition, pace: Pace) -> Outcome:
        partition.index.is_untidy = False
        outcome = partition.index.tidy(pace)
        self._look_at_memory(partition)
        return outcome

    def _look_at_memory(self, partition: Partition) -> None:
        """Give memory back if too much is held, going by what partitions held when they were last worked on.

        That leaves out columns that grew since, and is put right by counting all of them now and then.
        """
        self._steps += 1
        is_full = self._noted(partition) > self._most
        if not is_full and self._steps * _COUNTED_A_STEP < len(self._partitions):
            return
        self._steps = 0
        self._most, spare = self._max_bytes, self._max_bytes // _GIVEN_BACK_SHARE
        if self._counted() > self._max_bytes:
            left = self.pressure(self._max_bytes - spare, partition)
            # Where columns alone are as many, that is not asked for again until there is more to give back.
            self._most = max(self._max_bytes, left + spare)

    def _noted(self, partition: Partition) -> int:
        """What all hold, after a look at one. O(1)."""
        held = partition.held_bytes
        with self._count:
            self._total += held - self._held.get(partition.number, 0)
            self._held[partition.number] = held
            return self._total

    def _counted(self) -> int:
        """What all hold. O(partitions)."""
        every = [*self._partitions.copy().values(), *self._growing.copy().values()]
        held = {partition.number: partition.held_bytes for partition in every}
        with self._count:
            self._held, self._total = held, sum(held.values())
            return self._total
