"""Which graphs of a partition are made into one, and the making, off to the side.

Many graphs cost every search a part each, one graph for everything would have to be copied for every
row. In between, as in log-structured merge trees (O'Neil et al. 1996; size-tiered as in Cassandra):
what has come together on the right of a graph is added to a copy of it once it is worth an eighth
of it. So of n rows there are few graphs, and a row is added to about as many as there are sizes
between the smallest and the largest, each eight times the next: two or three.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.tiers.vectors import breadth, locality
from nt_memory.tiers.vectors.index import Graph
from nt_memory.tiers.vectors.scanners import widen
from nt_memory.tiers.vectors.sealed import Sealed
from nt_memory.tiers.vectors.snapshots import Content

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nt_memory.tiers.vectors.growth import Tuning
    from nt_memory.tiers.vectors.source import Source
    from nt_memory.tiers.vectors.visibility import View

_TIER = 8
_MANY = 6
_DEAD_SHARE = 0.2
# Leaving rows out makes a map of numbers necessary, four bytes a row; below this it does not pay.
_WORTH_LEAVING_OUT = 0.05


class Shape(NamedTuple):
    """What planning needs to know of a sealed graph.

    Attributes:
        first: Number of the first row covered.
        stop: Of the first that is not.
        rows: How many are in the graph.
        dead_share: Which share of those has ended.
    """

    first: int
    stop: int
    rows: int
    dead_share: float


class Plan(NamedTuple):
    """A graph to be made over rows [first, stop), in the place of all that lie between.

    Attributes:
        first: Number of the first row.
        stop: Of the first that is not covered.
        is_extended: The graph that begins at `first` is copied and added to; else all is new.
        is_lasting: It will not be merged into the one on its left: there is none, or no room in it.
    """

    first: int
    stop: int
    is_extended: bool
    is_lasting: bool = True


def plan(shapes: Sequence[Shape], most_rows: int) -> Plan | None:
    """What to do next, or None: gaps are filled first, then graphs merged, then dead rows dropped.

    Args:
        shapes: The sealed graphs, in order.
        most_rows: No graph may get more rows.
    """
    chosen = _gap(shapes, most_rows) or _merge(shapes, most_rows) or _cleaning(shapes)
    if chosen is None:
        return None
    left = [shape.rows for shape in shapes if shape.stop <= chosen.first]
    has_room = bool(left) and left[-1] + chosen.stop - chosen.first <= most_rows
    return chosen._replace(is_lasting=not has_room)


def _gap(shapes: Sequence[Shape], most_rows: int) -> Plan | None:
    at = 0
    for shape in shapes:
        if at < shape.first:
            return Plan(at, min(shape.first, at + most_rows), is_extended=False)
        at = shape.stop
    return None


def _merge(shapes: Sequence[Shape], most_rows: int) -> Plan | None:
    after = 0
    chosen: int | None = None
    for at in range(len(shapes) - 1, -1, -1):
        rows = shapes[at].rows
        if 0 < after <= rows <= _TIER * after and rows + after <= most_rows:
            chosen = at
        after += rows
    if chosen is not None:
        return _extension(shapes[chosen], shapes[-1].stop)
    if len(shapes) > _MANY:
        pairs = [
            (right.rows, left, right)
            for left, right in itertools.pairwise(shapes)
            if right.rows and left.rows + right.rows <= most_rows
        ]
        if pairs:
            _, left, right = min(pairs)
            return _extension(left, right.stop)
    return None


def _extension(left: Shape, stop: int) -> Plan:
    return Plan(left.first, stop, is_extended=left.dead_share <= _DEAD_SHARE)


def _cleaning(shapes: Sequence[Shape]) -> Plan | None:
    for shape in shapes:
        if shape.dead_share > _DEAD_SHARE and shape.rows > 1:
            return Plan(shape.first, shape.stop, is_extended=False)
    return None


class Build:
    """A graph in the making. One thread.

    Args:
        source: The rows.
        tuning: How graphs grow.
        chosen: What it is to cover.
        base: A private copy to be added to, and the rows it holds; None: begin.
        view: The columns.
        horizon_us: Rows that had ended by then are left out, if they are many.
        most_rows: No graph may get more; one half as large may be copied on the way.
    """

    def __init__(
        self,
        source: Source,
        tuning: Tuning,
        chosen: Plan,
        base: tuple[Graph, Sealed] | None,
        view: View,
        *,
        horizon_us: int,
        most_rows: int,
    ) -> None:
        self.plan = chosen
        self._source = source
        self._arrange = tuning.arrange
        self._most_rows = most_rows
        self._graph = Graph(source.dim, tuning.seed) if base is None else base[0]
        self._graph.breadth = breadth.begun(self._graph, is_lasting=chosen.is_lasting)
        self._numbers = None if base is None else base[1].content.numbers
        at = chosen.first if base is None else base[1].stop
        self._rows = _living(view, at, chosen.stop, horizon_us)
        if self._rows is not None and not len(self._rows) and base is None:
            self._rows = np.array([chosen.stop - 1], np.int64)  # a graph is never empty
        if self._rows is not None or self._numbers is not None:
            before = self._numbers
            if before is None:
                before = np.arange(at - chosen.first, dtype=np.int32)
            more = np.arange(at, chosen.stop) if self._rows is None else self._rows
            self._numbers = np.concatenate([before, (more - chosen.first).astype(np.int32)])
        self._at = at
        self._done = 0

    @property
    def held_bytes(self) -> int:
        """Anonymous bytes held."""
        return self._graph.held_bytes

    def step(self, hold: int, threads: int) -> bool:
        """Add about `hold` rows; whether there are more.

        Raises:
            StorageError: the rows cannot be read.
        """
        rows = self._rows
        if rows is None:
            first, stop = self._at, min(self._at + hold, self.plan.stop)
            vectors = self._source.wide(first, stop) if first < stop else None
            self._at = stop
            is_over = stop == self.plan.stop
        else:
            part = rows[self._done : self._done + hold]
            vectors = widen(self._gather(part)) if len(part) else None
            self._done += len(part)
            is_over = self._done == len(rows)
        if vectors is not None:
            before = self._graph.rows
            self._graph.add(vectors, threads=threads)
            if breadth.is_due(before, self._graph.rows):
                self._graph.breadth = breadth.chosen(
                    self._graph, self._vectors, lambda: True, threads
                )
            after = self._graph.rows
            if locality.is_due(before, after, self._arrange) and 2 * after <= self._most_rows:
                self._graph = self._graph.arrange()
        return not is_over

    def finish(self) -> Sealed:
        """The graph over the whole run, in memory."""
        content = Content(self._numbers)
        return Sealed(self.plan.first, self.plan.stop, self._graph, content, is_saved=False)

    def _vectors(self, at: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of some of the graph's rows."""
        numbers = self._numbers
        rows = (at if numbers is None else numbers[at]) + np.int64(self.plan.first)
        return widen(self._source.mapped(self.plan.stop)[rows])

    def _gather(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        first, stop = int(rows[0]), int(rows[-1]) + 1
        if stop - first > 8 * len(rows):
            return self._source.mapped(stop)[rows]
        return self._source.read(first, stop)[rows - first]


def _living(view: View, first: int, stop: int, horizon_us: int) -> NDArray[np.int64] | None:
    """Rows of [first, stop) that had not ended by a time; None: (nearly) all."""
    is_dead = view.until_us[first : min(stop, view.rows)] <= horizon_us
    if np.count_nonzero(is_dead) <= _WORTH_LEAVING_OUT * (stop - first):
        return None
    return np.flatnonzero(~is_dead) + first
