"""How wide a graph has to be searched: measured on its own rows, not assumed.

The breadth (efSearch) that finds 99 of 100 neighbours is 64 for one model's embeddings and several
hundred for another's. So a graph that has grown is asked for the neighbours of some of its rows, once
exactly and then with one breadth after the other, and keeps the least that found enough.

Neighbours are compared by the 8-bit codes on both sides: what the graph misses is measured, not what
the codes blur, which the final scores mend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nt_memory.tiers.vectors.index import Graph

TARGET = 0.99
"""Share of the nearest that a search has to find. New queries are harder than rows of the graph."""

EFFORTS = (64, 96, 128, 192, 256, 384, 512, 768)
_QUERIES = 96
_NEIGHBOURS = 10


def tune(
    graph: Graph,
    read: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    *,
    target: float = TARGET,
    go_on: Callable[[], bool] = lambda: True,
) -> int | None:
    """The least of `EFFORTS` whose searches find `target` of the ten nearest, else the greatest.

    Args:
        graph: Nothing may be added to it meanwhile.
        read: The vectors of given rows, shape (n, dim).
        target: Share to be found.
        go_on: Asked between two searches; False: stop, and return None.

    Cost: a scan of all codes for each of 96 rows, about 2 s at 1M x 384, and a few searches each.
    """
    rows = graph.rows
    sample = np.unique(np.linspace(0, rows - 1, _QUERIES).astype(np.int64))
    queries = read(sample)
    nearest: list[set[int]] = []
    for number, query in zip(sample.tolist(), queries, strict=True):
        if not go_on():
            return None
        found = graph.scan(query[np.newaxis], _NEIGHBOURS + 1)[0]
        nearest.append(_without(found, number))
    wanted = sum(map(len, nearest))
    for effort in EFFORTS:
        if not go_on():
            return None
        found = graph.search(queries, _NEIGHBOURS + 1, effort=effort)
        hits = sum(
            len(near & _without(row, number))
            for near, row, number in zip(nearest, found, sample.tolist(), strict=True)
        )
        if hits >= target * wanted:
            return effort
    return EFFORTS[-1]


def _without(found: NDArray[np.int64], number: int) -> set[int]:
    """The first of `found` but for the row itself."""
    others = [row for row in found.tolist() if row not in (number, -1)]
    return set(others[:_NEIGHBOURS])
