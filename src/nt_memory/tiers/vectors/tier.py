"""L2: similarity search over all partitions, exact where it is cheap, a graph where it is not.

Three threads matter. The owner's (the event loop) appends and ends rows, which costs microseconds and
makes them searchable at once. The indexer moves rows into graphs; the merger saves graphs and makes
one of several. Both are started when there is work and gone when there is none. Searches run on any
thread, a lone one of several graphs with a second to help it, and see the rows as of the time and
revision they were given, whatever the others are doing.

In live use graphs grow in the background (`chain`), and what they have not reached is scanned.
In a backtest a search first brings the graph to the last whole batch of the rows recorded by its
revision: its answer depends on the rows alone, not on timing, saving or reopening. Only a search as
of an earlier revision may meet a graph that has moved on; it keeps the recall bar, and `exact=True`
identity.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nt_memory.errors import ClosedError, DimensionError, InvalidInputError
from nt_memory.tiers.vectors.counters import VectorStats, count
from nt_memory.tiers.vectors.growth import Tuning
from nt_memory.tiers.vectors.helping import Helper
from nt_memory.tiers.vectors.packed import is_narrowed
from nt_memory.tiers.vectors.partition import Partition, Placement
from nt_memory.tiers.vectors.replacing import ReplacingCalls
from nt_memory.tiers.vectors.searching import Asked, Searching
from nt_memory.tiers.vectors.upkeep import Upkeep
from nt_memory.tiers.vectors.visibility import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from nt_memory.tiers.vectors.files import VectorFiles
    from nt_memory.tiers.vectors.ranking import Candidates
    from nt_memory.tiers.vectors.steps import Step


class VectorTier(ReplacingCalls):
    """Searchable vectors of all partitions.

    Args:
        files: The rows.
        directory: Where snapshots of graphs lie; made if missing, unless `read_only`.
        max_bytes: Above it the least recently searched partitions are unloaded.
        is_deterministic: On a backtest timeline: answers depend on the rows alone.
        read_only: Follow another process: write nothing.
        threads: Threads that build a graph while nobody searches; one where deterministic.
        tuning: Where approximation starts.
    """

    def __init__(
        self,
        files: VectorFiles,
        directory: Path | str,
        *,
        max_bytes: int,
        is_deterministic: bool,
        read_only: bool = False,
        threads: int = 1,
        tuning: Tuning = Tuning(),  # noqa: B008 - an immutable value
    ) -> None:
        directory = Path(directory)
        if not read_only:
            directory.mkdir(parents=True, exist_ok=True)
            for leftover in directory.glob("*.hnsw.*.tmp"):
                leftover.unlink(missing_ok=True)
        self._helper = Helper()
        self._placement = Placement(
            files, directory, tuning, is_deterministic, read_only, max_bytes, self._helper
        )
        self._partitions: dict[int, Partition] = {}
        self._growing: dict[int, Partition] = {}
        self._upkeep = Upkeep(
            self._partitions,
            self._growing,
            max_bytes=max_bytes,
            threads=max(1, threads),
            publish=tuning.publish,
        )
        self._searching = Searching(self._partitions, self._upkeep, self._helper)
        self._is_closed = False

    # --- the owner's thread -------------------------------------------------------------------

    def attach(
        self,
        partition: int,
        dim: int,
        *,
        file: int | None = None,
        from_us: NDArray[np.int64],
        until_us: NDArray[np.int64],
        until_revision: NDArray[np.int64],
        revision: NDArray[np.int64],
    ) -> None:
        """Take over a partition's rows at open; its graph is loaded or built in the background.

        Args:
            partition: Its id; not attached yet.
            dim: Values in a row.
            file: Number of the file its rows are in; None: its id.
            from_us: Since when each row is known, shape (n,).
            until_us: When it ended, or `NEVER`.
            until_revision: By which entry; ignored where it never ended.
            revision: Which entry recorded it; never decreases.

        Raises:
            InvalidInputError: it is attached already, or the columns do not fit together.
        """
        if partition in self._partitions:
            raise InvalidInputError(f"partition {partition} is attached already")
        number = partition if file is None else file
        self._partitions[partition] = Partition(number, dim, self._placement)
        self._extend(partition, dim, from_us, until_us, until_revision, revision)

    def ended_rows(self, partition: int) -> int:
        """How many rows of a partition have an end; 0 if it is not attached. Any thread."""
        found = self._partitions.get(partition)
        return 0 if found is None else found.columns.view.ended_rows

    def is_indexed(self, partition: int) -> bool:
        """Whether a partition is big enough to be searched through a graph. Any thread."""
        found = self._partitions.get(partition)
        return found is not None and found.is_large

    def is_scanned_by_two(self, partitions: Iterable[int], queries: int) -> bool:
        """Whether so many queries to these are a scan that takes a second thread by itself. Any thread."""
        found = [self._partitions.get(number) for number in partitions]
        if any(one is not None and one.is_large for one in found):
            return False
        return is_narrowed([one.columns.view.rows for one in found if one is not None], queries)

    def is_settled(self, partitions: Iterable[int]) -> bool:
        """Whether a search of these, made at once, neither loads anything nor waits. Any thread."""
        found = [self._partitions.get(number) for number in partitions]
        return all(one is None or self._searching.is_settled(one) for one in found)

    def append(
        self,
        partition: int,
        dim: int,
        *,
        from_us: NDArray[np.int64],
        until_us: NDArray[np.int64],
        revision: NDArray[np.int64],
    ) -> None:
        """Add the partition's next rows, searchable on return; a new partition is attached.

        The vectors are in the file already. A row that has an end (`until_us` below `NEVER`) has it
        by its own entry.

        Raises:
            DimensionError: the partition holds rows of another dimension.
            InvalidInputError: the lengths differ, or revisions decrease.

        Cost: a few microseconds, and amortised O(n).
        """
        self._extend(partition, dim, from_us, until_us, None, revision)

    def end(self, partition: int, row: int, until_us: int, until_revision: int) -> None:
        """A row was superseded or deleted. O(1).

        Raises:
            InvalidInputError: there is no such row.
        """
        found = self._partitions.get(partition)
        if found is None:
            raise InvalidInputError(f"partition {partition} is not attached")
        found.end(row, until_us, until_revision)
        self._upkeep.ended(found)

    def has_room(self, partition: int) -> bool:
        """Whether a partition's graphs are so near its rows that writers need not wait. O(1)."""
        found = self._partitions.get(partition)
        return found is None or self._upkeep.backlog.has_room(found)

    def wait_for_room(self, partition: int, rows: int, callback: Callable[[], None]) -> None:
        """Have `callback` called, on some thread, once so many rows were brought into graphs.

        It is called once, sooner or later: also when there is room again, when graphs cannot be
        built, when the partition is gone, and when the tier is closed.
        """
        found = self._partitions.get(partition)
        if found is None:
            callback()
        else:
            self._upkeep.wait_for_room(found, rows, callback)

    def end_all(
        self,
        partition: int,
        rows: NDArray[np.int64],
        until_us: NDArray[np.int64],
        until_revision: NDArray[np.int64],
    ) -> None:
        """`end` of many rows of one partition, in order.

        Raises:
            InvalidInputError: there is no such row.
        """
        found = self._partitions.get(partition)
        if found is None:
            raise InvalidInputError(f"partition {partition} is not attached")
        found.end_all(rows, until_us, until_revision)
        self._upkeep.ended(found)

    # --- any thread ---------------------------------------------------------------------------

    def search(  # noqa: PLR0913 - each says what a row must be
        self,
        partitions: Sequence[int],
        queries: NDArray[np.float32],
        k: int,
        *,
        time_us: int,
        revision: int,
        allow: Mapping[int, NDArray[np.bool_]] | None = None,
        exact: bool = False,
        steps: list[Step] | None = None,
    ) -> list[Candidates]:
        """The best `k` visible rows of all given partitions together, for each query.

        Args:
            partitions: Ids; unknown ones are empty, repeated ones count once.
            queries: Shape (m, dim), unit vectors.
            k: Wanted rows, >= 1. More are returned if they tie exactly with the last, fewer only if
                fewer are visible.
            time_us: Rows known, and not ended, by then.
            revision: Rows recorded by then; ends by later entries do not count. Whatever entry it
                names has been applied here.
            allow: Masks over rows by partition; rows past a mask's end, and partitions without
                one, are not allowed. None allows everything.
            exact: Scan everything, however long it takes.
            steps: Where to say how each partition was searched.

        Returns:
            One `Candidates` a query.

        Raises:
            DimensionError: queries and a partition differ in dimension.
            EmbeddingError: queries are not a finite (m, dim) array.
            InvalidInputError: `k` is less than 1.
            ClosedError: the tier was closed.

        Cost: partitions below the exact threshold: one scan of all (20 x 8,000 x 14: under 1 ms);
        above: a graph search each, plus a scan of what waits for the indexer.
        """
        if self._is_closed:
            raise ClosedError("the vector tier was closed")
        asked = Asked(queries, k, time_us, revision, exact=exact)
        return self._searching.search(partitions, asked, allow, steps)

    def dim_of(self, partition: int) -> int | None:
        """How many values the rows of a partition have; None if it is not known here."""
        found = self._partitions.get(partition)
        return None if found is None else found.dim

    def rows_at(
        self, partition: int, time_us: int, revision: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Rows that a search as of then may return, ascending, and which are ambiguous. O(rows)."""
        found = self._partitions.get(partition)
        if found is None:
            return np.empty(0, np.int64), np.empty(0, np.bool_)
        reach = visible(found.columns.view, time_us, revision)
        rows = reach.rows()
        return rows, reach.is_ambiguous(rows)

    @property
    def stats(self) -> VectorStats:
        """Counters now; O(partitions)."""
        return count(
            list(self._partitions.values()),
            list(self._growing.values()),
            hits=self._searching.hits,
            misses=self._searching.misses,
            unloads=self._upkeep.unloads,
            failures=self._upkeep.failures,
            is_idle=self._upkeep.is_idle,
        )

    def unload(self, partition: int) -> None:
        """Drop a partition's graphs (saved first) and copies until it is searched again.

        Blocks for the writing of a snapshot. Unknown partitions are ignored.

        Raises:
            OSError: the snapshot could not be written; nothing was dropped.
        """
        found = self._partitions.get(partition)
        if found is not None and found.is_loaded:
            self._upkeep.unload(found)

    def pressure(self, max_bytes: int) -> int:
        """Unload the least recently searched partitions until at most `max_bytes` are held.

        Columns stay, 32 bytes a row. Blocks like `unload`.

        Returns:
            Bytes still held.

        Raises:
            OSError: a snapshot could not be written.
        """
        return self._upkeep.pressure(max_bytes)

    def save(self) -> int:
        """Write a snapshot of every graph that changed since its last one; how many were written.

        Searches go on meanwhile.

        Raises:
            OSError: one could not be written; older ones stay.
        """
        return sum(partition.save() for partition in list(self._partitions.values()))

    def wait_indexed(self, timeout_s: float | None = None) -> bool:
        """Block until every row is in a graph that should be, and nothing is being merged.

        Args:
            timeout_s: For either thread.

        Returns:
            False if that took too long.
        """
        return self._upkeep.wait_idle(timeout_s)

    def close(self) -> None:
        """Stop the threads after the step they are in; searches raise from now on. Idempotent.

        Saves nothing: call `save` before.
        """
        self._is_closed = True
        self._upkeep.close()
        self._helper.close()

    # --- inside -------------------------------------------------------------------------------

    def _extend(
        self,
        number: int,
        dim: int,
        from_us: NDArray[np.int64],
        until_us: NDArray[np.int64],
        until_revision: NDArray[np.int64] | None,
        revision: NDArray[np.int64],
    ) -> None:
        partition = self._partitions.get(number)
        if partition is None:
            partition = Partition(number, dim, self._placement)
        elif partition.dim != dim:
            raise DimensionError(
                f"partition {number} holds vectors of {partition.dim} values",
                expected=partition.dim,
                got=dim,
            )
        partition.columns.append(from_us, until_us, until_revision, revision)
        self._partitions[number] = partition
        self._upkeep.grew(partition)
