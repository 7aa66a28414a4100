"""How wide a graph has to be searched: measured on the graph, not assumed.

The breadth (efSearch) that finds 98 of 100 neighbours is 64 for one model's embeddings and several
hundred for another's. So a graph that has grown is searched for some queries, once exactly and then
with one breadth after the other, and keeps the least that found enough.

Its own rows would be too easy to ask for: a search for one follows the path on which it was put in. At
1M x 384 in a thousand clusters a breadth of 128 found 0.99 of the neighbours of rows, and 0.92 of those
of new vectors. So queries are drawn where the rows are: from a row and its neighbours, weighted so that
the sum of the weights and that of their squares are 1. Of rows that are normally distributed around
there, such a sum is one more (same mean, same covariance), and hardly nearer to any of them than
another would be.

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

TARGET = 0.99
"""Share of the nearest that a search of the exam has to find. By the vectors themselves it is up to two in a
hundred less: 0.966 where 0.985 was asked for, of 200,000 clustered rows."""

# fmt: off
EFFORTS = (
    64, 72, 80, 88, 96, 104, 112, 120, 128, 144, 160, 176, 192, 208, 224, 240,
    256, 288, 320, 352, 384, 416, 448, 480, 512, 576, 640, 704, 768,
)
# fmt: on
_COARSE = (64, 128, 256, 512, 768)
_WORTH_DOUBLING = 0.01
"""What twice the breadth has to add to the share. Some rows no search finds: no breadth makes up for that."""
_QUERIES = 256
"""What is missed comes by the query: of 160 that share is known to 1.1 in a hundred, of 256 to 0.9."""
NEIGHBOURS = 10
"""How many neighbours a search is tuned for."""
_MIXED = 256  # with ten, and still with 64, queries were found more easily than new vectors
_SEED = 7


class Exam(NamedTuple):
    """Queries to a graph, and what they should find.

    Attributes:
        queries: Shape (m, dim).
        nearest: For each the rows whose codes are nearest.
    """

    queries: Floats
    nearest: list[set[int]]

    def share(self, graph: Graph, effort: int) -> float:
        """Which share of the nearest searches of a breadth find."""
        found = graph.search(self.queries, NEIGHBOURS, effort=effort)
        hits = sum(len(near & _rows(row)) for near, row in zip(self.nearest, found, strict=True))
        return hits / sum(map(len, self.nearest))


def examination(
    graph: Graph,
    read: Callable[[NDArray[np.int64]], Floats],
    count: int,
    go_on: Callable[[], bool],
) -> Exam | None:
    """`count` queries to a graph; None: `go_on` said no.

    Cost: a scan of all codes for each, 19 ms at 1M x 384.
    """
    queries = new_vectors(graph, read, count)
    nearest: list[set[int]] = []
    for query in queries:
        if not go_on():
            return None
        nearest.append(_rows(graph.scan(query[np.newaxis], NEIGHBOURS)[0]))
    return Exam(queries, nearest)


def tune(
    graph: Graph,
    read: Callable[[NDArray[np.int64]], Floats],
    *,
    target: float = TARGET,
    go_on: Callable[[], bool] = lambda: True,
) -> int | None:
    """The least of `EFFORTS` whose searches find `target` of the ten nearest.

    Where none does: the least that one twice as wide adds little to.

    Args:
        graph: Nothing may be added to it meanwhile.
        read: The vectors of given rows, shape (n, dim).
        target: Share to be found.
        go_on: Asked between two searches; False: stop, and return None.

    Cost: a scan of all codes for each of 256 queries, about 5 s at 1M x 384, and half a dozen searches each.
    """
    exam = examination(graph, read, _QUERIES, go_on)
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


def new_vectors(graph: Graph, read: Callable[[NDArray[np.int64]], Floats], count: int) -> Floats:
    """Unit vectors that lie as the rows of a graph do, but are none of them: shape (m, dim).

    Args:
        graph: Whose rows; at least one.
        read: As in `tune`.
        count: Wanted; less than that of a graph with fewer rows.
    """
    sample = np.unique(np.linspace(0, graph.rows - 1, count).astype(np.int64))
    around = graph.search(read(sample), _MIXED, effort=2 * _MIXED)
    random = np.random.default_rng(_SEED)
    made = np.empty((len(sample), graph.dim), np.float32)
    for number, row, near in zip(range(len(sample)), sample, around, strict=True):
        rows = np.union1d(near[near >= 0], [row])
        np.matmul(_weights(len(rows), random), read(rows), out=made[number])
    lengths: Floats = np.linalg.norm(made, axis=1, keepdims=True)
    made /= np.maximum(lengths, np.finfo(np.float32).tiny)
    return made


def _weights(count: int, random: np.random.Generator) -> Floats:
    """Numbers whose sum and whose squares' sum is 1, drawn evenly."""
    if count < 2:
        return np.ones(count, np.float32)
    drawn = random.standard_normal(count)
    drawn -= drawn.mean()
    drawn *= np.sqrt(1 - 1 / count) / np.linalg.norm(drawn)
    return (drawn + 1 / count).astype(np.float32)


def _rows(found: NDArray[np.int64]) -> set[int]:
    return {row for row in found.tolist() if row >= 0}
