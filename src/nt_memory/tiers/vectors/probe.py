"""Asking a graph: how wide to search, and when a scan of the codes is cheaper.

HNSW visits rows that do not pass a filter only to get to others, and a filter that follows the data
leaves the search on the wrong side of it: with a selector in the search, recall fell to 0.48 where 2 %
passed at random (1M x 384), and further where what passes lies far from the query. So no filter ever
goes into the search. It is made wide enough that enough of what it finds passes, which holds the
recall of a search without a filter whatever the filter is; how many passed says how wide, near this
very query, it has to be. Such a search misses most far from the query, where a filter that follows the data
may have left all there is. So as soon as comparing the codes of every row that passes does not cost much
more than the next search, that is done instead, and it misses nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.tiers.vectors.index import EFFORT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nt_memory.tiers.vectors.index import Graph
    from nt_memory.tiers.vectors.visibility import Visible

# Codes are coarse: more rows than wanted are fetched, and ranked again by their float16 values. Six more did
# at 1M x 384; where embeddings have drifted out of the range that the codes were made for, it takes more.
_SPARE = 16
# So few are wanted of most searches: where all rows may be returned, there is nothing to weigh up.
_FEW = 64
# So few rows are scored directly; more of them, and comparing their codes first takes less: at 384 values 100 us, while
# 250 scored rows take 200.
_GATHER = 256
_GATHERED_VALUES = 40_000
# The first search is so much wider than the share that passes asks for.
_MARGIN = 1.25
# Nanoseconds on one core, measured at 1M x 384: a wider search, which sorts what it has met by going through it; a
# row that does not pass, and one that is compared.
_WIDER_NS = 400.0
_WIDER_VALUE_NS = 1.5
_WIDER_SQUARE_NS = 0.3
_ROW_NS = 0.3
_CODE_NS = 20.0
_CODE_VALUE_NS = 0.35
# The same of rows that lie one after the other.
_NEXT_NS = 2.0
_NEXT_VALUE_NS = 0.035
# What scans of codes find is told apart from what they leave out by two standard deviations of what codes blur; else they
# keep more, as where what passes lies far from the query, where many rows are about as near.
_BLUR = 2 * 0.82
_WIDEN = 4
_WIDEST = 1024
# A scan may cost so much more than a wide search, which misses most where it is widest.
_SURER = 3.0


class Probed(NamedTuple):
    """What a graph gave, and how.

    Attributes:
        rows: For each query the rows that may be among its best, roughly best first.
        how: "graph": by searching it; "codes": for some query by a scan of the codes; "rows": all
            rows that pass were taken.
        width: Most rows a search was asked for; 0 if there was none.
        passing: So many of the graph's rows pass, at least.
        distances: As `Near.distances`, of the rows of each query, if all rows pass.
    """

    rows: list[NDArray[np.int64]]
    how: str
    width: int
    passing: int
    distances: NDArray[np.float32] | None = None


def probe(
    graph: Graph, reach: Visible, queries: NDArray[np.float32], k: int, effort: int = 0
) -> Probed:
    """Visible rows of the graph near each query, at least `k` if so many are visible.

    Args:
        graph: Rows [0, graph.rows); those past `reach.prefix` are not returned.
        reach: What may be returned.
        queries: Shape (m, dim).
        k: Wanted rows.
        effort: Breadth of the search; 0: what the graph needs by itself.

    Cost: that of a search, or of a scan where that is not much more, for each query; see `is_search_cheaper`.
    """
    effort = effort or graph.effort
    filtered = _Filtered(graph, reach, k)
    if filtered.is_whole and filtered.passing > filtered.wanted and k <= _FEW:
        whole = _of_all(filtered, queries, effort)
        if whole is not None:
            return whole
    few = max(k, min(_GATHER, _GATHERED_VALUES // graph.dim))
    if filtered.passing <= few and filtered.count() <= few:
        return Probed([filtered.all_rows()] * len(queries), "rows", 0, filtered.passing)
    width = filtered.first_width()
    found: list[NDArray[np.int64] | None] = [None] * len(queries)
    open_queries = list(range(len(queries)))
    widest = 0
    while open_queries and filtered.is_search_cheaper(width):
        widest = width
        raw = graph.search(queries[open_queries], width, effort=max(effort, width)).rows
        least = width
        for number, rows in zip(open_queries, raw, strict=True):
            kept = filtered.keep(rows)
            if len(kept) >= filtered.enough:
                found[number] = kept[: filtered.wanted]
            least = min(least, len(kept))
        open_queries = [number for number in open_queries if found[number] is None]
        width = filtered.next_width(width, least)
    for number in open_queries:
        found[number] = filtered.scan(queries[number : number + 1])
    how = "codes" if open_queries else "graph"
    return Probed([rows for rows in found if rows is not None], how, widest, filtered.passing)


def search_ns(effort: int, dim: int) -> float:
    """About what a search of a breadth takes, in nanoseconds on one core."""
    return effort * (_WIDER_NS + _WIDER_VALUE_NS * dim + _WIDER_SQUARE_NS * effort)


class _Filtered:
    """A graph's rows that one search may return, and what it costs to find the nearest of them."""

    def __init__(self, graph: Graph, reach: Visible, k: int) -> None:
        self.graph = graph
        self._reach = reach
        self._rows = graph.rows
        self._stop = min(graph.rows, reach.prefix)
        self._mask: NDArray[np.bool_] | None = None
        self._passing_rows: NDArray[np.int64] | None = None
        self._k = k
        self.is_whole = reach.mask is None and not reach.most_hidden and self._stop == self._rows
        if reach.mask is None:
            self.passing = max(0, self._stop - reach.most_hidden)
        else:
            self.passing = self.count()

    @property
    def wanted(self) -> int:
        """Rows to be ranked by their float16 values."""
        return min(self._k + max(_SPARE, self._k // 4), self._rows)

    @property
    def enough(self) -> int:
        """As few that pass will do, if there are so many: half of what is ranked beyond what the caller wants."""
        return min((self._k + self.wanted) // 2, max(self._k, self.passing))

    def count(self) -> int:
        """How many rows pass; from now on that is known exactly."""
        self.passing = int(np.count_nonzero(self._full_mask()))
        return self.passing

    def all_rows(self) -> NDArray[np.int64]:
        """All rows that pass."""
        if self._passing_rows is None:
            self._passing_rows = np.flatnonzero(self._full_mask())
        return self._passing_rows

    def first_width(self) -> int:
        """How wide to search if what passes is spread evenly."""
        if self.passing >= self._rows:
            return self.wanted
        return min(self._rows, int(_MARGIN * self.wanted * self._rows / max(1, self.passing)) + 1)

    def next_width(self, width: int, kept: int) -> int:
        """How wide to search after one of `width` found `kept` that pass."""
        wider = int(_MARGIN * width * self.wanted / max(1, kept))
        return min(self._rows, max(2 * width, wider))

    def is_search_cheaper(self, width: int) -> bool:
        """Whether a search so wide costs so much less than a scan of the codes of all that pass, which misses nothing."""
        dim = self.graph.dim
        scan_ns = self._rows * _ROW_NS + self.passing * (_CODE_NS + _CODE_VALUE_NS * dim)
        return search_ns(width, dim) * _SURER <= scan_ns and width < self._rows

    def keep(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of `rows` that pass, in their order; -1 stands for none."""
        kept = np.compress((rows >= 0) & (rows < self._stop), rows)
        if self._mask is not None:
            kept = np.compress(self._mask[kept], kept)
        elif self._reach.most_hidden:
            kept = np.compress(~self._reach.is_hidden(kept), kept)
        return kept

    def scan(self, query: NDArray[np.float32]) -> NDArray[np.int64]:
        """The nearest by their codes, of all that pass; `query` has shape (1, dim)."""
        if self.passing >= self._rows:
            rows: NDArray[np.int64] = self.graph.scan(query, self.wanted).rows[0]
            return np.compress(rows >= 0, rows)
        some, width = self.all_rows(), self.wanted
        while True:
            rows, distances = self.graph.nearest(query[0], width, some)
            if len(rows) < width or width >= _WIDEST or not self._is_blurred(distances):
                return rows
            width *= _WIDEN

    def _is_blurred(self, distances: NDArray[np.float32]) -> bool:
        """Whether rows that were left out may be nearer than some of the wanted, but for what codes blur.

        A value and its code differ by less than one, so what two rows differ by in a dimension is off by 0.41, the
        root of the mean of squares, and the square of their distance by 0.82 times the distance.
        """
        last, least = float(distances[-1]), float(distances[self._k - 1])
        return last - least < _BLUR * math.sqrt(least)

    def _full_mask(self) -> NDArray[np.bool_]:
        if self._mask is None:
            mask = self._reach.full_mask()
            self._mask = np.ones(self._stop, np.bool_) if mask is None else mask[: self._stop]
        return self._mask


def _of_all(filtered: _Filtered, queries: NDArray[np.float32], effort: int) -> Probed | None:
    """As `probe`, where all rows pass; None if the graph gave too few."""
    graph, wanted = filtered.graph, filtered.wanted
    if _is_better_scanned(graph, effort):
        nearest, how, width = graph.scan(queries, wanted), "codes", 0
    else:
        nearest = graph.search(queries, wanted, effort=max(effort, wanted))
        how, width = "graph", wanted
    if int(nearest.rows[:, -1].min()) < 0:
        return None
    return Probed(list(nearest.rows), how, width, filtered.passing, nearest.distances)


def _is_better_scanned(graph: Graph, effort: int) -> bool:
    """Whether comparing all codes, which misses nothing, costs no more than a search.

    Of a search that has to be wide, and misses much all the same: not much more.
    """
    scan_ns = graph.rows * (_NEXT_NS + _NEXT_VALUE_NS * graph.dim)
    surer = _SURER if effort > EFFORT else 1.0
    return search_ns(effort, graph.dim) * surer > scan_ns
