"""The index of a deterministic partition: one graph, grown in batches, in step with the journal.

On a backtest timeline an approximate answer depends on the rows alone. So a search first brings the
graph to the last whole batch of the rows recorded by its revision, on one thread, whoever else may
have begun; and since within a batch rows are added in an order of faiss's own, no other batches will
do. Saving in mid-build and going on gives the same bytes as never having saved.

Order of locks: `_loading`, then the gate. The gate guards the graph: searches share it, whoever adds
to the graph, replaces or drops it holds it alone.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from nt_memory.tiers.vectors import locality
from nt_memory.tiers.vectors.gate import Gate
from nt_memory.tiers.vectors.growth import Found, Gap, Outcome
from nt_memory.tiers.vectors.index import Graph
from nt_memory.tiers.vectors.probe import probe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nt_memory.tiers.vectors.columns import Columns
    from nt_memory.tiers.vectors.growth import Pace, Tuning
    from nt_memory.tiers.vectors.saved import Saved
    from nt_memory.tiers.vectors.source import Source
    from nt_memory.tiers.vectors.visibility import Visible


class Batches:
    """The graph of one deterministic partition. Any thread.

    Args:
        source: Its rows.
        columns: When they are visible.
        saved: Its snapshot.
        tuning: How the graph grows.
    """

    def __init__(self, source: Source, columns: Columns, saved: Saved, tuning: Tuning) -> None:
        self.is_detached = False
        """Another has taken the partition's place: nothing is built or saved any more."""
        self.is_parked: bool = False
        """Unloaded to save memory: it is left alone until it is searched again."""
        self.is_untidy = False
        self.loads: int = 0
        self.merges = 0
        self._source = source
        self.columns = columns
        self._saved = saved
        self._tuning = tuning
        self._gate = Gate()
        self._loading = threading.Lock()
        self._graph: Graph | None = None
        self._saved_rows = 0

    # --- sizes --------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """Rows in the graph that is in memory."""
        graph = self._graph
        return 0 if graph is None else graph.rows

    @property
    def held_bytes(self) -> int:
        """Anonymous bytes of the graph."""
        graph = self._graph
        return 0 if graph is None else graph.held_bytes

    @property
    def mapped_bytes(self) -> int:
        """None: the graph grows in memory."""
        return 0

    @property
    def graphs(self) -> int:
        """How many a search asks."""
        return 0 if self._graph is None else 1

    @property
    def is_loaded(self) -> bool:
        """Whether searches need not load it first."""
        return self._graph is not None

    @property
    def unsaved_rows(self) -> int:
        """Rows the graph has grown by since its snapshot."""
        return max(0, self.rows - self._saved_rows)

    @property
    def written_bytes(self) -> int:
        """Bytes of snapshots written."""
        return self._saved.written_bytes

    def waiting(self, target: int) -> int:
        """Rows before `target` that are to be added in the background.

        The graph is left one batch short: a search adds what it needs itself, and no search may meet
        rows that came after it.
        """
        return 0 if self.is_parked else max(0, self._background(target) - self.rows)

    # --- searching ----------------------------------------------------------------------------

    def find(self, reach: Visible, queries: NDArray[np.float32], k: int) -> Found:
        """Rows near each query, and what the graph does not cover."""
        while True:
            self.load()
            self._catch_up(reach.recorded)
            with self._gate.shared():
                graph = self._graph
                if graph is None:  # unloaded meanwhile
                    continue
                if not graph.rows:
                    return Found([[] for _ in queries], [Gap(0, reach.prefix)], [])
                probed = probe(graph, reach, queries, k)
                is_short = graph.rows < reach.prefix
                return Found(
                    [[rows] for rows in probed.rows],
                    [Gap(graph.rows, reach.prefix)] if is_short else [],
                    [(probed.how, probed.width)],
                )

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
            graph = self._saved.load(self._saved.path(), self.columns.view.rows)
            self._saved_rows = 0 if graph is None else graph.rows
            with self._gate.exclusive():
                self._graph = graph or Graph(self._source.dim, self._tuning.seed)
            self.loads += 1
            return True

    def unload(self) -> None:
        """Drop the graph; it is saved first if it grew.

        Raises:
            OSError: the snapshot could not be written; nothing was dropped.
        """
        with self._loading:
            self.save()
            self.is_parked = True
            with self._gate.exclusive():
                self._graph = None

    def save(self) -> int:
        """Write a snapshot if the graph grew since the last; how many were written.

        Searches go on meanwhile, indexing waits. Followers never write.

        Raises:
            OSError: it could not be written; an older one stays.
        """
        if self._saved.read_only or self.is_detached:
            return 0
        with self._gate.shared():
            graph = self._graph
            if graph is None or graph.rows == self._saved_rows:
                return 0
            self._saved.write(self._saved.path(), 0, graph.rows, graph)
            self._saved.accept(self._saved.path())
            self._saved_rows = graph.rows
        return 1

    # --- growing ------------------------------------------------------------------------------

    def advance(self, target: int, pace: Pace, *, is_searched: bool) -> Outcome:
        """Add one batch, if the background should.

        Raises:
            StorageError: rows cannot be read.
        """
        if not self.waiting(target) or self.is_detached:
            return Outcome.DONE
        self._load()
        self._add(self._background(target))
        return Outcome.MORE if self.waiting(target) else Outcome.DONE

    def settle(self) -> None:
        """Nothing is left to add for now: save the graph if it grew by enough.

        Raises:
            OSError: the snapshot could not be written.
        """
        if self.unsaved_rows > max(20_000, self.rows // 8):
            self.save()

    def tidy(self, pace: Pace) -> Outcome:
        """There is never anything to tidy: one graph, and what it grew from is part of its bytes."""
        return Outcome.DONE

    # --- inside -------------------------------------------------------------------------------

    def _background(self, target: int) -> int:
        settled = self._whole_batches(target) - self._tuning.batch
        return settled if settled >= self._first_batch() else 0

    def _first_batch(self) -> int:
        # The first batch sets the range of the codes: several batches of rows, if that still
        # leaves every graph that is used at all a whole number of batches.
        tuning = self._tuning
        batches = tuning.scan_values // self._source.dim // tuning.batch
        return tuning.batch * max(1, min(4, batches))

    def _whole_batches(self, rows: int) -> int:
        whole = rows - rows % self._tuning.batch
        return whole if whole >= self._first_batch() else 0

    def _catch_up(self, recorded: int) -> None:
        needed = self._whole_batches(recorded)
        while self._graph is not None and self._graph.rows < needed:
            self._add(needed)

    def _add(self, limit: int) -> None:
        """Add the next batch; nothing if that would go past `limit`."""
        with self._gate.exclusive():
            graph = self._graph
            if graph is None:
                return
            first = graph.rows
            stop = first + (self._tuning.batch if first else self._first_batch())
            if stop <= limit:
                graph.add(self._source.wide(first, stop), threads=1)
                if locality.is_due(first, graph.rows, self._tuning.arrange):
                    self._graph = graph.arrange()
