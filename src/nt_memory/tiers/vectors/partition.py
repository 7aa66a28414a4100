"""One partition: its columns, its float32 copies, and its index.

Rows that the index covers are found through graphs, the rest by a scan; both or either may be all of
it. `head` holds the first rows for scans while they are few, `tail` those past the graphs.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.tiers.vectors.batches import Batches
from nt_memory.tiers.vectors.chain import Chain
from nt_memory.tiers.vectors.columns import Columns
from nt_memory.tiers.vectors.dense import Dense
from nt_memory.tiers.vectors.growth import Outcome, Tuning
from nt_memory.tiers.vectors.helping import ALONE
from nt_memory.tiers.vectors.index import PARAMETERS
from nt_memory.tiers.vectors.packed import Packed
from nt_memory.tiers.vectors.ranking import Piece
from nt_memory.tiers.vectors.saved import Saved
from nt_memory.tiers.vectors.scanning import Segment
from nt_memory.tiers.vectors.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from nt_memory.tiers.vectors.files import VectorFiles
    from nt_memory.tiers.vectors.growth import Gap, Pace
    from nt_memory.tiers.vectors.helping import Helper
    from nt_memory.tiers.vectors.visibility import Visible

# A gather costs more a row than reading on; below one row in eight it pays.
_GATHER_SHARE = 8
_MAX_GATHER_VALUES = 1 << 23
# A tail is kept as float32 up to so many times what is worth a graph: for a while, as it is worked
# off, and scanning 8,000 rows of 384 values takes 0.6 ms so, from the mapped float16 rows 4.3 ms.
_LONGER_TAIL = 4
# So many steps of the indexer without a search, and nobody is searching.
_CALM_STEPS = 8
# What a search scans past the graphs without anybody noticing: 0.2 ms.
_QUICK_TAIL_VALUES = 1 << 20
# Past an eighth of newly ended rows it is worth asking whether graphs should be made without them.
_ENDED_SHARE = 8


class Placement(NamedTuple):
    """What all partitions of a tier share."""

    files: VectorFiles
    directory: Path
    tuning: Tuning
    is_deterministic: bool
    read_only: bool
    max_bytes: int
    helper: Helper = ALONE


class Partition:
    """Columns are written by one thread; everything else may be called from any.

    Args:
        number: Of its files: its id, unless its rows were embedded anew.
        dim: Values in a row.
        placement: Where it lives and how.
    """

    def __init__(self, number: int, dim: int, placement: Placement) -> None:
        self.number = number
        self.dim = dim
        self.columns: Columns = Columns()
        self.last_searched = 0
        self._placement = placement
        self._source = Source(placement.files, number, dim)
        self._head = Dense(dim, self._source.read)
        self._tail = Dense(dim, self._source.newest)
        self._packed = Packed(dim, self._source.read)
        self._searches_seen = 0
        self._calm_steps = _CALM_STEPS
        self._may_hold_up = False
        self._ends = 0
        tuning = placement.tuning
        mode = f"batch={tuning.batch}" if placement.is_deterministic else "live"
        saved = Saved(
            placement.directory,
            self._source,
            tuning.seed,
            f"{PARAMETERS};{mode}",
            read_only=placement.read_only,
        )
        self.index: Batches | Chain = (
            Batches(self._source, self.columns, saved, tuning)
            if placement.is_deterministic
            else Chain(
                self._source, self.columns, saved, tuning, placement.max_bytes, placement.helper
            )
        )

    # --- sizes --------------------------------------------------------------------------------

    @property
    def held_bytes(self) -> int:
        """Anonymous memory held: columns, float32 copies and graphs."""
        copies = self._head.held_bytes + self._tail.held_bytes + self._packed.held_bytes
        return self.columns.held_bytes + copies + self.index.held_bytes

    @property
    def is_loaded(self) -> bool:
        """Whether anything but the columns is at hand."""
        return self.index.is_loaded or self._head.held_bytes > 0

    @property
    def is_large(self) -> bool:
        """Whether it has so many rows that they are searched through a graph."""
        return self._is_large(self.columns.view.rows)

    @property
    def graph_rows(self) -> int:
        """Rows that graphs cover."""
        return self.index.rows

    @property
    def pending(self) -> int:
        """Rows that wait for a graph, though the partition is big enough for one."""
        rows = self.columns.view.rows
        return max(0, rows - self.index.rows) if self._is_large(rows) else 0

    @property
    def is_settled(self) -> bool:
        """Whether a search that has been announced neither loads, builds nor waits, nor scans much.

        Announced is one by which `last_searched` was changed before this is asked.
        """
        is_at_hand = self.index.is_loaded if self.is_large else self.is_loaded
        if not is_at_hand or self._may_hold_up:
            return False
        pending = self.pending
        if self._placement.is_deterministic:
            return not pending
        return pending * self.dim <= _QUICK_TAIL_VALUES

    # --- searching ----------------------------------------------------------------------------

    def segment(self, place: int, reach: Visible, first: int = 0) -> Segment | None:
        """Visible rows from `first` on, to be scanned; None if there are none.

        Cost: O(new rows) where float32 copies are kept, else a mapping of the rows.
        """
        stop = reach.prefix
        if first >= stop:
            return None
        mask = reach.full_mask(first)
        if not self._is_large(stop):
            columns = self._head.window(0, stop)[:, first:]
            packed = None if first else self._packed
            return Segment(place, first, stop - first, columns, None, mask, packed=packed)
        if first and not self._is_large((stop - first) // _LONGER_TAIL):
            columns = self._tail.window(first, stop)
        else:
            return self._raw_segment(place, first, stop, mask)
        return Segment(place, first, stop - first, columns, None, mask)

    def find(
        self,
        place: int,
        reach: Visible,
        queries: NDArray[np.float32],
        k: int,
        note: Callable[[tuple[str, int]], object] = lambda _: None,
    ) -> tuple[list[list[Piece]], list[Segment]]:
        """The graphs' rows for each query, a piece a graph, and what is left to scan beside them.

        Without pieces (a small partition, or no graph yet) the segments are everything visible.
        `note` is told how the graphs are searched: of several, the one that was searched most widely.
        """
        if not self._is_large(reach.prefix):
            whole = self.segment(place, reach)
            return [], [] if whole is None else [whole]
        found = self.index.find(reach, queries, k)
        if found.notes:
            note(max(found.notes, key=itemgetter(1)))
        segments = [self._gap(place, reach, gap) for gap in found.gaps]
        pieces = [
            [Piece(place, rows, self._source.take(rows)) for rows in parts] for parts in found.rows
        ]
        return pieces, [segment for segment in segments if segment is not None]

    def _gap(self, place: int, reach: Visible, gap: Gap) -> Segment | None:
        if gap.rows is None and gap.stop == reach.prefix:
            return self.segment(place, reach, gap.first)
        stop = min(gap.stop, reach.prefix)
        if gap.rows is None:
            mask = reach.full_mask(gap.first)
            mask = None if mask is None else mask[: stop - gap.first]
        else:
            mask = np.zeros(stop - gap.first, np.bool_)
            mask[gap.rows - gap.first] = True
        return self._raw_segment(place, gap.first, stop, mask)

    def _raw_segment(
        self, place: int, first: int, stop: int, mask: NDArray[np.bool_] | None
    ) -> Segment:
        raw = self._source.mapped(stop)[first:]
        if mask is None:
            return Segment(place, first, stop - first, None, raw, None)
        passing = int(np.count_nonzero(mask))
        if passing * _GATHER_SHARE > len(mask) or passing * self.dim > _MAX_GATHER_VALUES:
            return Segment(place, first, stop - first, None, raw, mask)
        rows = np.flatnonzero(mask)
        return Segment(place, 0, passing, None, raw[rows], None, rows + first)

    # --- indexing -----------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Rows that the indexer should bring into a graph.

        It starts at half the size that makes a graph useful, to be ready then.
        """
        rows = self.columns.view.rows
        return self.index.waiting(rows) if self._is_large(2 * rows) else 0

    @property
    def waiting_bytes(self) -> int:
        """Bytes, as float32, that searches scan because graphs have not got to them yet."""
        return 4 * self.dim * self.waiting if self.is_large else 0

    def advance(self, pace: Pace) -> Outcome:
        """One step of bringing rows into a graph.

        Raises:
            StorageError: rows cannot be read.
            OSError: a snapshot could not be written.
        """
        rows = self.columns.view.rows
        is_searched = self._look_for_searches()
        if not self._is_large(2 * rows):
            return Outcome.DONE
        try:
            if not is_searched:
                # First said, then looked again: whoever announced a search since has been seen, or
                # sees this.
                self._may_hold_up = True
                is_searched = self.last_searched != self._searches_seen
            outcome = self.index.advance(rows, pace, is_searched=is_searched)
        finally:
            self._may_hold_up = False
        if outcome is Outcome.DONE:
            if self._is_large(self.index.rows):
                self._head.clear()
                self._packed.clear()
            if not is_searched:
                self.index.settle()
        return outcome

    def _look_for_searches(self) -> bool:
        """Whether somebody may be searching, going by the last few steps."""
        if self.last_searched != self._searches_seen:
            self._searches_seen, self._calm_steps = self.last_searched, 0
        else:
            self._calm_steps += 1
        return self._calm_steps < _CALM_STEPS

    def end(self, row: int, until_us: int, until_revision: int) -> None:
        """A row was superseded or deleted. O(1).

        Raises:
            InvalidInputError: there is no such row.
        """
        self.columns.end(row, until_us, until_revision)
        self._ended(1)

    def end_all(
        self,
        rows: NDArray[np.int64],
        until_us: NDArray[np.int64],
        until_revision: NDArray[np.int64],
    ) -> None:
        """`end` of many rows, in order.

        Raises:
            InvalidInputError: there is no such row.
        """
        self.columns.end_all(rows, until_us, until_revision)
        self._ended(len(rows))

    def adopt(self, columns: Columns) -> None:
        """Go on with the columns of another partition, which had other vectors in the same rows."""
        self.columns = columns
        self.index.columns = columns

    def _ended(self, count: int) -> None:
        self._ends += count
        if self._ends * _ENDED_SHARE > self.index.rows > 0:
            self._ends = 0
            self.index.is_untidy = not self._placement.is_deterministic

    def load(self) -> bool:
        """Have the index at hand; whether it was not. Cost: reads or maps snapshots."""
        return self.index.load()

    def unload(self) -> None:
        """Drop everything but the columns; what is not saved is saved first.

        Raises:
            OSError: a snapshot could not be written; nothing was dropped.
        """
        self.index.unload()
        self._head.clear()
        self._tail.clear()
        self._packed.clear()

    def save(self) -> int:
        """Write snapshots of what changed; how many. Followers never write.

        Raises:
            OSError: one could not be written; an older one stays.
        """
        return self.index.save()

    def detach(self) -> None:
        """Another has taken its place: searches that hold it go on, but nothing is built or saved."""
        self.index.is_detached = True

    def _is_large(self, rows: int) -> bool:
        return rows * self.dim > self._placement.tuning.scan_values
