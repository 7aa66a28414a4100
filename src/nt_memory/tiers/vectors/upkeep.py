"""What goes on behind searches: indexing, merging, memory given back, writers let in."""

from __future__ import annotations

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
# Adding up what all partitions hold costs microseconds for each, so it is not done at every step.
_STEPS_A_LOOK = 16


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
        held = list(self._partitions.copy().values())
        total = sum(partition.held_bytes for partition in held)
        total += sum(partition.held_bytes for partition in self._growing.copy().values())
        if total <= max_bytes:
            return total
        held.sort(key=lambda partition: (partition is current, partition.last_searched))
        for partition in held:
            if total <= max_bytes:
                break
            if partition.is_loaded:
                before = partition.held_bytes
                self.unload(partition)
                total -= before - partition.held_bytes
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
        self._look_at_memory(partition, is_due=outcome is Outcome.DONE)
        return outcome

    def _tidy(self, partition: Partition, pace: Pace) -> Outcome:
        partition.index.is_untidy = False
        outcome = partition.index.tidy(pace)
        self._look_at_memory(partition, is_due=outcome is Outcome.DONE)
        return outcome

    def _look_at_memory(self, partition: Partition, *, is_due: bool) -> None:
        self._steps += 1
        if is_due or self._steps % _STEPS_A_LOOK == 0:
            self.pressure(self._max_bytes, partition)
