"""One partition: its columns, its float32 copies, its graph, and what guards them.

Rows [0, graph.rows) are found through the graph, the rest by a scan; both or either may be all of
it. `head` holds the first rows for scans while they are few, `tail` those past the graph.

Order of locks: `_loading`, then the gate. The gate guards the graph: searches share it, whoever adds
to the graph, replaces or drops it holds it alone.
"""

from __future__ import annotations

import threading
import zlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.errors import StorageError
from nt_memory.tiers.vectors.columns import Columns
from nt_memory.tiers.vectors.dense import Dense
from nt_memory.tiers.vectors.gate import Gate
from nt_memory.tiers.vectors.index import PARAMETERS, Graph, widen
from nt_memory.tiers.vectors.probe import probe
from nt_memory.tiers.vectors.ranking import Piece, Segment
from nt_memory.tiers.vectors.snapshots import Description, open_snapshot, write_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from nt_memory.tiers.vectors.columns import View, Visible
    from nt_memory.tiers.vectors.files import VectorFiles

_DIGEST_ROWS = 64
# A gather costs more a row than reading on; below one row in eight it pays.
_GATHER_SHARE = 8
_MAX_GATHER_VALUES = 1 << 23


class Tuning(NamedTuple):
    """Where approximation starts. Part of what a backtest's answers depend on.

    Attributes:
        scan_values: Up to so many values (rows x dim) are scanned exactly, always.
        batch: Rows a deterministic graph grows by.
        seed: Of the graph's generator.
    """

    scan_values: int = 1 << 21
    batch: int = 256
    seed: int = 7


class Placement(NamedTuple):
    """What all partitions of a tier share."""

    files: VectorFiles
    directory: Path
    tuning: Tuning
    is_deterministic: bool
    read_only: bool
    threads: int


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
        self.columns = Columns()
        self.is_parked = False
        """Unloaded to save memory: the indexer leaves it alone until it is searched again."""
        self.is_detached = False
        """Another has taken its place: searches that hold it go on, but nothing is built or saved."""
        self.last_searched = 0
        self.loads = 0
        self._placement = placement
        self._head = Dense(dim, self._read)
        self._tail = Dense(dim, self._read)
        self._gate = Gate()
        self._loading = threading.Lock()
        self._graph: Graph | None = None
        self._saved_rows = 0
        mode = f"batch={placement.tuning.batch}" if placement.is_deterministic else "live"
        self._parameters = f"{PARAMETERS};{mode}"

    # --- sizes --------------------------------------------------------------------------------

    @property
    def held_bytes(self) -> int:
        """Anonymous memory held: columns, float32 copies and graph."""
        graph = self._graph
        held = self.columns.held_bytes + self._head.held_bytes + self._tail.held_bytes
        return held if graph is None else held + graph.held_bytes

    @property
    def is_loaded(self) -> bool:
        """Whether anything but the columns is in memory."""
        return self._graph is not None or self._head.held_bytes > 0

    @property
    def is_large(self) -> bool:
        """Whether it has so many rows that they are searched through a graph."""
        return self._is_large(self.columns.view.rows)

    @property
    def graph_rows(self) -> int:
        """Rows in the graph that is in memory."""
        graph = self._graph
        return 0 if graph is None else graph.rows

    @property
    def pending(self) -> int:
        """Rows that wait for the graph, though the partition is big enough for one."""
        rows = self.columns.view.rows
        return max(0, rows - self.graph_rows) if self._is_large(rows) else 0

    @property
    def unsaved_rows(self) -> int:
        """Rows the graph has grown by since its snapshot."""
        return max(0, self.graph_rows - self._saved_rows)

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
        elif first and not self._is_large(stop - first):
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
    ) -> tuple[list[Piece], Segment | None]:
        """The graph's rows for each query, and what is left to scan beside them.

        Without pieces (a small partition, or no graph yet) the segment is everything visible. `note`
        is told how the graph is searched.
        """
        if not self._is_large(reach.prefix):
            return [], self.segment(place, reach)
        while True:
            self.load()
            if self._placement.is_deterministic:
                self._catch_up(reach.recorded)
            with self._gate.shared():
                graph = self._graph
                if graph is None:  # unloaded meanwhile
                    continue
                if not graph.rows:
                    return [], self.segment(place, reach)
                found = probe(graph, reach, queries, k)
                note((found.how, found.width))
                rest = self.segment(place, reach, graph.rows)
                raw = self._rows(min(graph.rows, reach.prefix))
                return [Piece(place, rows, raw[rows]) for rows in found.rows], rest

    # --- indexing -----------------------------------------------------------------------------

    @property
    def target(self) -> int:
        """Rows the indexer should bring the graph to.

        It starts at half the size that makes a graph useful, to be ready then. A deterministic
        graph is left one batch short: a search adds what it needs itself, and no search may meet
        rows that came after it.
        """
        rows = self.columns.view.rows
        if self.is_parked or self.is_detached or not self._is_large(2 * rows):
            return 0
        if not self._placement.is_deterministic:
            return rows
        settled = self._whole_batches(rows) - self._placement.tuning.batch
        return settled if settled >= self._first_batch() else 0

    def advance(self, hold: int) -> bool:
        """Add at most about `hold` rows to the graph; whether there is more to do."""
        if self.graph_rows >= self.target:
            return False
        self._load()
        self._add(self.target, hold)
        if self.graph_rows < self.target:
            return True
        if self._is_large(self.graph_rows):
            self._head.clear()
        return False

    def load(self) -> bool:
        """Have a graph in memory: the snapshot's, or an empty one; whether there was none before.

        Cost: reads the snapshot twice, about 1 s for 1M x 384.
        """
        self.is_parked = False
        return self._load()

    def _load(self) -> bool:
        if self._graph is not None:
            return False
        with self._loading:
            if self._graph is not None:
                return False
            graph = self._read_snapshot()
            self._saved_rows = 0 if graph is None else graph.rows
            with self._gate.exclusive():
                self._graph = graph or Graph(self.dim, self._placement.tuning.seed)
            self.loads += 1
            return True

    def unload(self) -> None:
        """Drop everything but the columns; the graph is saved first if it grew.

        Raises:
            OSError: the snapshot could not be written; nothing was dropped.
        """
        with self._loading:
            self.save()
            self.is_parked = True
            with self._gate.exclusive():
                self._graph = None
        self._head.clear()
        self._tail.clear()

    def save(self) -> bool:
        """Write a snapshot if the graph grew since the last; whether one was written.

        Searches go on meanwhile, indexing waits. Followers never write.

        Raises:
            OSError: it could not be written; an older one stays.
        """
        if self._placement.read_only or self.is_detached:
            return False
        with self._gate.shared():
            graph = self._graph
            if graph is None or graph.rows == self._saved_rows:
                return False
            description = self._description(graph.rows)
            write_snapshot(self._snapshot_path(), description, graph.dump)
            self._saved_rows = graph.rows
        return True

    # --- inside -------------------------------------------------------------------------------

    def _is_large(self, rows: int) -> bool:
        return rows * self.dim > self._placement.tuning.scan_values

    def _first_batch(self) -> int:
        # The first batch sets the range of the codes: several batches of rows, if that still
        # leaves every graph that is used at all a whole number of batches.
        tuning = self._placement.tuning
        return tuning.batch * max(1, min(4, tuning.scan_values // self.dim // tuning.batch))

    def _whole_batches(self, rows: int) -> int:
        whole = rows - rows % self._placement.tuning.batch
        return whole if whole >= self._first_batch() else 0

    def _catch_up(self, recorded: int) -> None:
        needed = self._whole_batches(recorded)
        while self._graph is not None and self._graph.rows < needed:
            self._add(needed, 0)

    def _add(self, limit: int, hold: int) -> None:
        """Add the next rows: one batch if deterministic, else `hold`; never past `limit`."""
        if self._placement.is_deterministic:
            hold, threads = self._placement.tuning.batch, 1
        else:
            threads = self._placement.threads
        with self._gate.exclusive():
            graph = self._graph
            if graph is None:
                return
            first = graph.rows
            stop = first + (hold if first else max(hold, self._first_batch()))
            if self._placement.is_deterministic and stop > limit:
                return
            stop = min(stop, limit)
            if first < stop:
                graph.add(widen(self._read(first, stop)), threads=threads)

    def _read(self, first: int, stop: int) -> NDArray[np.float16]:
        return self._placement.files.read(self.number, self.dim, first, stop)

    def _rows(self, count: int) -> NDArray[np.float16]:
        return self._placement.files.rows(self.number, self.dim, count)

    def _raw_segment(
        self, place: int, first: int, stop: int, mask: NDArray[np.bool_] | None
    ) -> Segment:
        raw = self._rows(stop)[first:]
        if mask is None:
            return Segment(place, first, stop - first, None, raw, None)
        passing = int(np.count_nonzero(mask))
        if passing * _GATHER_SHARE > len(mask) or passing * self.dim > _MAX_GATHER_VALUES:
            return Segment(place, first, stop - first, None, raw, mask)
        rows = np.flatnonzero(mask)
        return Segment(place, 0, passing, None, raw[rows], None, rows + first)

    def _snapshot_path(self) -> Path:
        return self._placement.directory / f"{self.number}.hnsw"

    def _description(self, rows: int) -> Description:
        sample = np.unique(np.linspace(0, rows - 1, _DIGEST_ROWS).astype(np.int64))
        digest = zlib.crc32(self._rows(rows)[sample].tobytes())
        seed = self._placement.tuning.seed
        return Description(self.dim, rows, seed, self._parameters, digest)

    def _read_snapshot(self) -> Graph | None:
        opened = open_snapshot(self._snapshot_path())
        if opened is None:
            return None
        description, file = opened
        with file:
            if not self._is_usable(description, self.columns.view):
                return None
            graph = Graph.load(file, self.dim, self._placement.tuning.seed)
        return graph if graph is not None and graph.rows == description.rows else None

    def _is_usable(self, found: Description, view: View) -> bool:
        # A writer whose snapshot is ahead of its rows has lost some, and others will take their
        # numbers. A follower's snapshot may well be ahead: its writer was faster.
        if found.rows == 0 or (found.rows > view.rows and not self._placement.read_only):
            return False
        try:
            return found == self._description(found.rows)
        except StorageError:
            return False
