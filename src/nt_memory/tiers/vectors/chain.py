"""The index of a live partition: a chain of sealed graphs, one that grows, and the rest unindexed.

faiss cannot search a graph while it is added to. What searches ask must therefore stand still, or
they wait. So there are two ways to grow:

- While nobody searches the partition, its growing graph is added to in place, in holds, by all
  threads. The first search may have to wait for one hold.
- Once somebody does, the next rows go into a copy, which then takes the graph's place. Copying the
  graph costs as much as adding some thirty rows to it, so it is done for `publish` rows at a time,
  and only up to a size: then the graph is sealed and another begun. Searches wait for nothing.

Rows past the graphs are scanned. Sealed graphs are saved, and served from the mapped file from then
on; in the background they are merged (`merging`). Everything searches need is in one immutable
`State`, exchanged as a whole.

Who changes the state or adds to the growing graph holds `_change`. Sealed graphs are measured, written
and built without it (`tidying`).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from nt_memory.tiers.vectors import breadth, locality
from nt_memory.tiers.vectors.growth import Outcome
from nt_memory.tiers.vectors.helping import ALONE
from nt_memory.tiers.vectors.index import Graph
from nt_memory.tiers.vectors.scanners import widen
from nt_memory.tiers.vectors.sealed import Growing, Sealed
from nt_memory.tiers.vectors.sizing import most_rows, row_bytes
from nt_memory.tiers.vectors.snapshots import Content
from nt_memory.tiers.vectors.state import State
from nt_memory.tiers.vectors.tidying import Tidying
from nt_memory.tiers.vectors.tuning import scaled

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nt_memory.tiers.vectors.columns import Columns
    from nt_memory.tiers.vectors.growth import Found, Pace, Tuning
    from nt_memory.tiers.vectors.helping import Helper
    from nt_memory.tiers.vectors.saved import Saved
    from nt_memory.tiers.vectors.source import Source
    from nt_memory.tiers.vectors.visibility import Visible

# What is copied to publish some rows; 64 MiB take about 20 ms.
_CLONE_BYTES = 64 << 20
_LARGEST_SHARE = 8
# A graph so much smaller than what is scanned anyway is not worth a file.
_WORTH_SAVING = 4
# Rows that are published together if so many wait.
_MOST_PUBLISHED = 4
_FIRST_ROWS = 1024


class Chain:
    """Graphs of one live partition. Any thread, but for `tidy`.

    Args:
        source: Its rows.
        columns: When they are visible.
        saved: Its snapshots.
        tuning: How graphs grow.
        max_bytes: Of memory for all partitions; no graph is made that takes nearly all of it.
        helper: For searches of several graphs.
    """

    def __init__(
        self,
        source: Source,
        columns: Columns,
        saved: Saved,
        tuning: Tuning,
        max_bytes: int,
        helper: Helper = ALONE,
    ) -> None:
        self.is_detached = False
        """Another has taken the partition's place: nothing is built or saved any more."""
        self.is_untidy: bool = False
        """There may be something for `tidy` to do."""
        self.loads: int = 0
        self.merges = 0
        self.source = source
        self.columns = columns
        self.saved = saved
        self.tuning = tuning
        self._helper = helper
        self.row_bytes: int = row_bytes(source.dim)
        self.most_rows: int = most_rows(source.dim, max_bytes, tuning.seal)
        self._change = threading.Lock()
        self._state: State | None = None
        self._rows = 0
        self._saved_stop = 0
        self._tidying = Tidying(self)

    # --- sizes --------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """Rows in graphs, as far as is known of one that is not loaded."""
        state = self._state
        return self._rows if state is None else state.rows

    @property
    def held_bytes(self) -> int:
        """Anonymous bytes of graphs, also of one in the making."""
        state, held = self._state, self._tidying.held_bytes
        if state is None:
            return held
        held += sum(part.held_bytes for part in state.sealed)
        return held + (0 if state.growing is None else state.growing.graph.held_bytes)

    @property
    def mapped_bytes(self) -> int:
        """Bytes of the files that graphs are served from."""
        state = self._state
        return 0 if state is None else sum(part.graph.mapped_bytes for part in state.sealed)

    @property
    def graphs(self) -> int:
        """How many a search asks."""
        state = self._state
        return 0 if state is None else len(state.sealed) + (state.growing is not None)

    @property
    def is_loaded(self) -> bool:
        """Whether searches need not load it first."""
        return self._state is not None

    @property
    def unsaved_rows(self) -> int:
        """Rows in graphs that have no snapshot."""
        state = self._state
        if state is None:
            return 0
        unsaved = sum(part.stop - part.first for part in state.sealed if not part.is_saved)
        growing = state.growing
        if growing is not None:
            unsaved += growing.stop - max(growing.first, self._saved_stop)
        return unsaved

    @property
    def written_bytes(self) -> int:
        """Bytes of snapshots written."""
        return self.saved.written_bytes

    def waiting(self, target: int) -> int:
        """Rows before `target` and past all graphs."""
        state = self._state
        return max(0, target - (self._rows if state is None else state.stop))

    # --- searching ----------------------------------------------------------------------------

    def find(self, reach: Visible, queries: NDArray[np.float32], k: int) -> Found:
        """Rows near each query by all graphs that reach it, and what they do not cover."""
        state = self._state
        while state is None:
            self.load()
            state = self._state
        return state.find(reach, queries, k, self._helper)

    def load(self) -> bool:
        """Map the saved graphs; whether that was necessary.

        Cost: reads files that this process did not read or write before, to verify them.
        """
        with self._change:
            is_new = self._state is None
            self._loaded()
        return is_new

    def unload(self) -> None:
        """Drop all graphs; what is not saved is saved first.

        Raises:
            OSError: a snapshot could not be written; nothing was dropped.
        """
        with self._change:
            self._save()
            if self._state is not None:
                self._rows = self._state.stop
                if self._state.growing is not None:
                    self._rows = max(self._state.growing.first, self._saved_stop)
                self._state = None

    def save(self) -> int:
        """Write snapshots of all graphs that changed; how many. Searches go on, indexing waits.

        Raises:
            OSError: one could not be written; older ones stay.
        """
        with self._change:
            return self._save()

    # --- growing ------------------------------------------------------------------------------

    def advance(self, target: int, pace: Pace, *, is_searched: bool) -> Outcome:
        """Bring some of the rows before `target` into the growing graph.

        Args:
            target: Past the last row that should be in it.
            pace: How.
            is_searched: Somebody may be searching this partition.

        Raises:
            StorageError: rows cannot be read.
            OSError: a snapshot could not be written.
        """
        with self._change:
            if self.is_detached:
                return Outcome.DONE
            state = self._loaded()
            waiting = target - state.stop
            if waiting <= 0:
                return Outcome.DONE
            growing = state.growing
            most = self._limit(state) if is_searched else self.most_rows
            if growing is not None and growing.graph.rows >= most:
                self._seal()
                return Outcome.MORE
            if not is_searched:
                self._grow(growing, target, pace)
            elif waiting >= self.tuning.publish or pace.is_final:
                self._publish(growing, min(waiting, _MOST_PUBLISHED * self.tuning.publish), pace)
            else:
                return Outcome.LATER
            return Outcome.MORE if self._loaded().stop < target else Outcome.DONE

    def settle(self) -> None:
        """Nothing is left to add for now: a growing graph that is big enough is sealed."""
        with self._change:
            state = self._state
            growing = None if state is None else state.growing
            if state is not None and growing is not None:
                is_big = growing.graph.rows >= self._limit(state)
                if is_big:
                    self._seal()

    def _grow(self, growing: Growing | None, target: int, pace: Pace) -> None:
        """Add one hold in place."""
        growing = growing or self._begin()
        first = growing.stop
        hold = pace.hold if growing.graph.rows else max(pace.hold, self._first_rows())
        stop = min(target, first + hold, growing.first + self.most_rows)
        vectors = self.source.wide(first, stop)
        before = growing.graph.rows
        growing.graph.breadth = breadth.begun(growing.graph, is_lasting=True)
        with growing.gate.exclusive():
            growing.graph.add(vectors, threads=pace.threads)
        self._look(growing.graph, growing.first, before, pace)
        rows = growing.graph.rows
        if locality.is_due(before, rows, self.tuning.arrange) and 2 * rows <= self.most_rows:
            growing = Growing(growing.first, growing.graph.arrange(), growing.ended)
        self._state = self._loaded()._replace(growing=growing)
        # A long load is saved now and then; in doublings, so that no row is written often.
        if growing.graph.rows >= max(2 * self.tuning.seal, 2 * (self._saved_stop - growing.first)):
            self._save_growing(growing)

    def _publish(self, growing: Growing | None, count: int, pace: Pace) -> None:
        """Put a copy with some more rows in the growing graph's place."""
        growing = growing or self._begin()
        graph = growing.graph.clone() if growing.graph.rows else growing.graph
        # What waits is scanned by every search: much of it costs them more than a processor.
        is_behind = count > self.tuning.publish * _MOST_PUBLISHED // 2
        threads = pace.most_threads if is_behind else pace.threads
        before, state = graph.rows, self._loaded()
        # What has another graph on its left will be merged into that, if there is room.
        is_lasting = not state.sealed or state.sealed[-1].graph.rows + before > self.most_rows
        graph.breadth = breadth.begun(graph, is_lasting=is_lasting)
        graph.add(self.source.wide(growing.stop, growing.stop + count), threads=threads)
        self._look(graph, growing.first, before, pace)
        if state.sealed:
            measured = max(state.sealed, key=lambda part: part.graph.rows).graph
            graph.effort = scaled(measured.effort, measured.rows, graph.rows)
        grown = Growing(growing.first, graph, growing.ended)
        self._state = state._replace(growing=grown)

    def _begin(self) -> Growing:
        self._saved_stop = first = self._loaded().stop
        return Growing(first, Graph(self.source.dim, self.tuning.seed))

    def _look(self, graph: Graph, first: int, before: int, pace: Pace) -> None:
        """See to it that the next rows are added as widely as these need."""
        if breadth.is_due(before, graph.rows):
            stop = first + graph.rows
            graph.breadth = breadth.chosen(
                graph,
                lambda at: widen(self.source.mapped(stop)[at + first]),
                pace.go_on,
                pace.threads,
            )

    def _first_rows(self) -> int:
        # The first rows set the range of the codes, so they should be some.
        return min(_FIRST_ROWS, max(1, self.tuning.scan_values // self.source.dim // 2))

    def _limit(self, state: State) -> int:
        largest = max((part.graph.rows for part in state.sealed), default=0)
        cloned = max(self.tuning.seal, _CLONE_BYTES // self.row_bytes)
        return min(max(self.tuning.seal, largest // _LARGEST_SHARE), cloned, self.most_rows)

    def _seal(self) -> None:
        state = self._loaded()
        growing = state.growing
        assert growing is not None  # noqa: S101 - the callers looked
        is_saved = self._saved_stop == growing.stop
        part = Sealed(growing.first, growing.stop, growing.graph, Content(), is_saved=is_saved)
        self._state = State.of((*state.sealed, part))
        self.is_untidy = True

    def tidy(self, pace: Pace) -> Outcome:
        """One step of saving, mapping and merging sealed graphs; see `Tidying.step`. One thread."""
        return self._tidying.step(pace)

    # --- for `tidying` ------------------------------------------------------------------------

    @property
    def state(self) -> State | None:
        """What searches see now; None: not loaded."""
        return self._state

    def replace(self, part: Sealed) -> None:
        """Put a sealed graph in the place of all that it covers, and remove their files.

        If the chain was unloaded meanwhile, loading it finds the file.
        """
        with self._change:
            self.saved.accept(self.saved.path(part.first, part.stop))
            state = self._state
            if state is None or self.is_detached:
                return
            if state.growing is not None and part.stop > state.growing.first:
                return  # loaded anew meanwhile, and some file was gone
            sealed = [
                other
                for other in state.sealed
                if other.stop <= part.first or other.first >= part.stop
            ]
            parts = sorted([*sealed, part], key=lambda each: each.first)
            self._state = State.of(parts, state.growing)
            self._sweep()

    # --- inside; the caller holds `_change` ---------------------------------------------------

    def _loaded(self) -> State:
        state = self._state
        if state is None:
            state = self._state = State.of(self.saved.chain(self.columns.view.rows))
            self._saved_stop = state.stop
            self.loads += 1
            self.is_untidy = True
        return state

    def _save(self) -> int:
        state = self._state
        if state is None or self.saved.read_only or self.is_detached:
            return 0
        count = 0
        for part in state.sealed:
            if not part.is_saved:
                path = self.saved.path(part.first, part.stop)
                self.saved.write(path, part.first, part.stop, part.graph, part.content)
                self.saved.accept(path)
                part.is_saved = True
                count += 1
        if count:
            self._sweep()
        growing = state.growing
        if growing is not None and growing.stop > max(self._saved_stop, growing.first):
            values = growing.graph.rows * self.source.dim
            if not growing.first or values * _WORTH_SAVING >= self.tuning.scan_values:
                self._save_growing(growing)
                count += 1
        return count

    def _save_growing(self, growing: Growing) -> None:
        if self.saved.read_only:
            return
        first, stop = growing.first, growing.stop
        path = self.saved.path(first, stop)
        self.saved.write(path, first, stop, growing.graph)
        self.saved.accept(path)
        self._saved_stop = stop
        self._sweep()

    def _sweep(self) -> None:
        """Remove files of graphs that others have taken the place of."""
        state = self._loaded()
        wanted = {(part.first, part.stop) for part in state.sealed}
        if state.growing is not None:
            wanted.add((state.growing.first, self._saved_stop))
        self.saved.keep(wanted)
