"""The parts of a partition's index: graphs over runs of rows, each searched on its own.

A sealed part never changes, so nobody waits for it. A growing one is added to while it may be
searched, which its gate keeps apart.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.tiers.vectors.gate import Gate
from nt_memory.tiers.vectors.probe import probe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nt_memory.tiers.vectors.index import Graph
    from nt_memory.tiers.vectors.probe import Probed
    from nt_memory.tiers.vectors.snapshots import Content
    from nt_memory.tiers.vectors.visibility import View, Visible

_UNBOUNDED = 2**62
_NONE = np.empty(0, np.int64)


class Ended:
    """Which rows of a graph have an end, kept up with the columns at the cost of what is new.

    Args:
        first: Number of the first row covered.
        stop: Of the first that is not.
        numbers: Which rows are in the graph; None: all, in order.
    """

    def __init__(self, first: int, stop: int, numbers: NDArray[np.int32] | None = None) -> None:
        self._first = first
        self._stop = stop
        self._numbers = numbers
        self._lock = threading.Lock()
        self._found = np.empty(64, np.int64)
        self._count = 0
        self._seen = 0

    def upto(self, view: View) -> NDArray[np.int64]:
        """The graph's numbers of at least those rows that have an end in `view`; each once."""
        with self._lock:
            if view.ended_rows > self._seen:
                self._take(view.ended[self._seen : view.ended_rows])
                self._seen = view.ended_rows
            return self._found[: self._count]

    def _take(self, rows: NDArray[np.int64]) -> None:
        rows = rows[(rows >= self._first) & (rows < self._stop)] - self._first
        if self._numbers is not None and len(self._numbers):
            at = np.minimum(np.searchsorted(self._numbers, rows), len(self._numbers) - 1)
            rows = at[self._numbers[at] == rows]
        count = self._count + len(rows)
        if count > len(self._found):
            # What was handed out before stays as it was.
            grown = np.empty(2 * count, np.int64)
            grown[: self._count] = self._found[: self._count]
            self._found = grown
        self._found[self._count : count] = rows
        self._count = count


class _Bounds(NamedTuple):
    """By when rows were hidden: as of a moment past both, they all are."""

    moved_ends: int
    until_us: int
    until_revision: int


class Sealed:
    """Rows [first, stop) through a graph that does not change any more.

    Args:
        first: Number of the first row.
        stop: Of the first that is not covered.
        graph: In memory or mapped.
        content: Which of the rows are in it, and what else is known.
        is_saved: There is a snapshot of it.
    """

    def __init__(
        self, first: int, stop: int, graph: Graph, content: Content, *, is_saved: bool
    ) -> None:
        self.first = first
        self.stop = stop
        self.graph = graph
        self.content = content
        self.is_saved = is_saved
        self._ended = Ended(first, stop, content.numbers)
        self._left_out = _complement(content.numbers, stop - first)
        self._bounds = _Bounds(-1, 0, 0)

    @property
    def held_bytes(self) -> int:
        """Anonymous bytes held."""
        numbers = self.content.numbers
        return self.graph.held_bytes + (self.stop - self.first) * 4 * (numbers is not None)

    def numbers(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The partition's numbers of the graph's `rows`."""
        numbers = self.content.numbers
        return (rows if numbers is None else numbers[rows]) + np.int64(self.first)

    def find(
        self, reach: Visible, queries: NDArray[np.float32], k: int, effort: int = 0
    ) -> Probed | None:
        """As `probe`, by the partition's numbers of rows; None if `reach` ends before them."""
        numbers = self.content.numbers
        inside = reach.within(self.first, self.stop, self._ended.upto(reach.view), numbers)
        if not inside.prefix:
            return None
        found = probe(self.graph, inside, queries, k, effort)
        return found._replace(rows=[self.numbers(rows) for rows in found.rows])

    def left_out(self, reach: Visible) -> NDArray[np.int64]:
        """Rows that had ended before the graph was made, and are visible as of `reach` all the same.

        Cost: O(1) as of now, O(rows left out) as of a time before they ended.
        """
        rows = self._left_out
        if rows is None or not len(rows):
            return _NONE
        bounds = self._bounds
        if bounds.moved_ends != reach.view.moved_ends:
            self._bounds = bounds = _bounds(reach.view, rows + np.int64(self.first))
        if reach.time_us >= bounds.until_us and reach.revision >= bounds.until_revision:
            return _NONE
        at = rows + np.int64(self.first)
        at = at[: np.searchsorted(at, reach.prefix)]
        if reach.mask is not None:
            at = at[reach.mask[at]]
        return at[~reach.is_hidden(at)]

    def ended_share(self, view: View, horizon_us: int) -> float:
        """Which share of the graph's rows has ended by a time. O(rows)."""
        if not self.graph.rows:
            return 0.0
        until = view.until_us[self.first : self.stop]
        if self.content.numbers is not None:
            until = until[self.content.numbers[: np.searchsorted(self.content.numbers, len(until))]]
        return int(np.count_nonzero(until <= horizon_us)) / self.graph.rows


class Growing:
    """Rows from `first` on through a graph that is added to, with the gate held alone.

    Args:
        first: Number of the first row.
        graph: Holds `rows` rows from it on.
        ended: Of rows from `first` on; shared with the graph this one was cloned from.
    """

    def __init__(self, first: int, graph: Graph, ended: Ended | None = None) -> None:
        self.first = first
        self.graph = graph
        self.gate: Gate = Gate()
        self.ended: Ended = ended or Ended(first, _UNBOUNDED)

    @property
    def stop(self) -> int:
        """Number of the first row past the graph."""
        return self.first + self.graph.rows

    def find(
        self, reach: Visible, queries: NDArray[np.float32], k: int
    ) -> tuple[Probed | None, int]:
        """As `Sealed.find`, and where the graph that was asked ended."""
        with self.gate.shared():
            stop = self.stop
            inside = reach.within(self.first, stop, self.ended.upto(reach.view))
            if not inside.prefix:
                return None, stop
            found = probe(self.graph, inside, queries, k)
        return found._replace(rows=[rows + self.first for rows in found.rows]), stop


def _complement(numbers: NDArray[np.int32] | None, count: int) -> NDArray[np.int32] | None:
    if numbers is None:
        return None
    is_left_out = np.ones(count, np.bool_)
    is_left_out[numbers] = False
    return np.flatnonzero(is_left_out).astype(np.int32)


def _bounds(view: View, rows: NDArray[np.int64]) -> _Bounds:
    # Rows that a follower has not read yet cannot be visible; it will have read them once they are.
    known = rows[rows < view.rows]
    if not len(known):
        return _Bounds(-1, -_UNBOUNDED, -1)
    latest = int(view.until_us[known].max())
    moved_ends = view.moved_ends if len(known) == len(rows) else -1
    return _Bounds(moved_ends, latest, int(view.until_revision[known].max()))
