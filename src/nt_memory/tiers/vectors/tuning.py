"""How wide a graph has to be searched: measured on the graph, not assumed.

The breadth (efSearch) that finds 98 of 100 neighbours is 64 for one model's embeddings and several
hundred for another's. So a graph that has grown is searched for some queries, once exactly and then
with one breadth after the other, and keeps the least that found enough.

It is asked for some of its own rows, and for their neighbours, themselves left out. New vectors are not found on
a path of their own and are missed more often: 1.0 to 1.6 times among a million rows of 384 values in three graphs,
which differed in how the rows lay and how widely they were linked, and up to five times among 30,000 to 100,000, whose
searches are narrow. That is why more is asked for than is promised, and of smaller graphs, where it costs little, more
still. Vectors mixed from rows, which would be new ones, are no better a measure: the worse a graph was linked, the more
easily they were found (0.987 where new vectors found 0.952).

Neighbours are compared by the 8-bit codes on both sides: what the graph misses is measured, not what
the codes blur, which the final scores mend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nt_memory.tiers.vectors.index import Graph

    Floats = NDArray[np.float32]

TARGET = 0.98
"""Share of the nearest that a search of the exam has to find, for what is promised of new vectors: 0.95."""
_SMALL_TARGET = 0.995
_SMALL = 1 << 18
"""Graphs of fewer rows have to find the greater share."""

# fmt: off
EFFORTS = (
    40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 128, 144, 160, 176, 192, 208, 224, 240,
    256, 288, 320, 352, 384, 416, 448, 480, 512, 576, 640, 704, 768,
)
# fmt: on
_COARSE = (40, 64, 128, 256, 512, 768)
_WORTH_DOUBLING = 0.01
"""What twice the breadth has to add to the share. Some rows no search finds: no breadth makes up for that."""
_QUERIES = 256
"""What is missed comes by the query: of 160 that share is known to 1.1 in a hundred, of 256 to 0.9."""
_AT_ONCE = 16
NEIGHBOURS = 10
"""How many neighbours a search is tuned for."""


class Exam(NamedTuple):
    """Some rows of a graph, and what else searches for them should find.

    Attributes:
        rows: Shape (m,).
        queries: Their vectors, shape (m, dim).
        nearest: For each the other rows whose codes are nearest.
    """

    rows: NDArray[np.int64]
    queries: Floats
    nearest: list[set[int]]

    def share(self, graph: Graph, effort: int) -> float:
        """Which share of the nearest searches of a breadth find."""
        found = graph.search(self.queries, NEIGHBOURS + 1, effort=effort).rows
        hits = sum(len(near & _rows(row)) for near, row in zip(self.nearest, found, strict=True))
        return hits / max(1, sum(map(len, self.nearest)))


def examination(
    graph: Graph,
    read: Callable[[NDArray[np.int64]], Floats],
    count: int,
    go_on: Callable[[], bool],
    threads: int = 1,
) -> Exam | None:
    """`count` queries to a graph, or as many as it has rows; None: `go_on` said no.

    Cost: a scan of all codes for each, 19 ms at 1M x 384.
    """
    rows = sample(graph.rows, count)
    queries = read(rows)
    nearest: list[set[int]] = []
    for first in range(0, len(rows), _AT_ONCE):
        if not go_on():
            return None
        part = slice(first, first + _AT_ONCE)
        found = graph.scan(queries[part], NEIGHBOURS + 1, threads=threads).rows
        for row, near in zip(rows[part].tolist(), found.tolist(), strict=True):
            nearest.append({*[one for one in near if one not in (row, -1)][:NEIGHBOURS]})
    return Exam(rows, queries, nearest)


def sample(rows: int, count: int) -> NDArray[np.int64]:
    """Up to `count` of so many rows, evenly spread, each once."""
    return np.unique(np.linspace(0, rows - 1, count).astype(np.int64))


def tune(
    graph: Graph,
    read: Callable[[NDArray[np.int64]], Floats],
    *,
    target: float | None = None,
    go_on: Callable[[], bool] = lambda: True,
    threads: int = 1,
) -> int | None:
    """The least of `EFFORTS` whose searches find `target` of the ten nearest.

    Where none does: the least that one twice as wide adds little to.

    Args:
        graph: Nothing may be added to it meanwhile.
        read: The vectors of given rows, shape (n, dim).
        target: Share to be found; None: what is asked of a graph of so many rows.
        go_on: Asked now and then; False: stop, and return None.
        threads: For the scans.

    Cost: a scan of all codes for each of 256 queries, about 5 s at 1M x 384, and half a dozen searches each.
    """
    if target is None:
        target = TARGET if graph.rows >= _SMALL else _SMALL_TARGET
    exam = examination(graph, read, _QUERIES, go_on, threads)
    if exam is None:
        return None
    return least(lambda effort: exam.share(graph, effort), target, go_on)


def least(
    share: Callable[[int], float], target: float, go_on: Callable[[], bool] = lambda: True
) -> int | None:
    """The least of `EFFORTS` for which `share` reaches `target`; if none: the least worth its cost.

    It is looked for between two of which one is twice the other, by halving: shares grow with the
    breadth, but for single queries.

    Args:
        share: What is found with a breadth.
        target: What should be.
        go_on: Asked before each; False: stop, and return None.
    """
    last, before = -1, 0.0
    for effort in _COARSE:
        if not go_on():
            return None
        at, now = EFFORTS.index(effort), share(effort)
        if now >= target:
            return _halved(share, target, last, at, go_on)
        if last >= 0 and now - before < _WORTH_DOUBLING:
            return EFFORTS[last]
        last, before = at, now
    return EFFORTS[-1]


def _halved(
    share: Callable[[int], float],
    target: float,
    low: int,
    high: int,
    go_on: Callable[[], bool],
) -> int | None:
    """As `least`, among those past number `low`, too narrow or -1, up to `high`, which is enough."""
    if low < 0:
        return EFFORTS[high]
    while high - low > 1:
        if not go_on():
            return None
        middle = (low + high) // 2
        if share(EFFORTS[middle]) >= target:
            high = middle
        else:
            low = middle
    return EFFORTS[high]


def scaled(effort: int, rows: int, wanted: int) -> int:
    """A breadth for a graph of `wanted` rows that was not measured, going by that of a larger one.

    A guess for a graph that will be measured before it is large: the square root of how much smaller
    it is, but no less than the least of `EFFORTS`. What it holds is a small share of what is found.

    Args:
        effort: That of the graph which was measured.
        rows: How many rows that has.
        wanted: How many the other has.
    """
    share = min(1.0, wanted / max(1, rows))
    return min(effort, max(EFFORTS[0], int(effort * share**0.5)))


def _rows(found: NDArray[np.int64]) -> set[int]:
    return {row for row in found.tolist() if row >= 0}
