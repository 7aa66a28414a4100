"""Which rows of a graph lie beside each other in memory.

A search visits a thousand rows, each next to those before it in the graph and anywhere in memory, and waits for most of
them. Rows in the order in which a walk over the links meets them lie near those that lead to them: of a million rows of
384 values a search then takes 0.5 to 0.6 of the time, and a row is added to such a graph in 0.7 to 0.85 of it.

Source: Coleman et al. 2022, "Graph Reordering for Cache-Efficient Near Neighbor Search"; the order by breadth first is
that of Cuthill & McKee 1969 without its degrees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Building gains less than searching, so it takes more rows before they are arranged for those to come.
_LARGER = 8
_SCATTERED_SHARE = 8
_AT_ONCE = 1 << 13


class Links(NamedTuple):
    """Who leads to whom: the arrays of an HNSW graph. Its rows are called nodes here, by where they lie.

    Attributes:
        levels: On how many levels each node is, shape (n,).
        starts: Where the links of each node begin, and where the last ones end, shape (n + 1,).
        targets: Nodes, level by level from the lowest; -1: no link.
        width: Links of a node on the lowest level.
        entry: Where searches begin.
    """

    levels: NDArray[np.int32]
    starts: NDArray[np.uint64]
    targets: NDArray[np.int32]
    width: int
    entry: int


def is_due(before: int, after: int, least: int) -> bool:
    """Whether a graph that grew from so many rows to so many is worth arranging for those to come: it has doubled.

    Args:
        before: Rows it had.
        after: Rows it has.
        least: See `Tuning.arrange`.
    """
    return after >= least * _LARGER and before.bit_length() != after.bit_length()


def is_scattered(rows: int, arranged: int, least: int) -> bool:
    """Whether so much has come to a graph since it was arranged, at so many rows, that it is worth doing anew."""
    return rows >= least and (rows - arranged) * _SCATTERED_SHARE > rows


def near_order(links: Links) -> NDArray[np.int32]:
    """All nodes in the order in which a walk from the entry meets them, nearest first; shape (n,).

    What no link leads to comes last. The same links give the same order.

    Cost: 1 to 2 us a node, and 9 bytes of it.
    """
    count = len(links.levels)
    order = np.empty(count, np.int32)
    is_met = np.zeros(count, np.bool_)
    place = np.empty(count, np.int32)
    met = looked_from = 0
    fresh = np.array([links.entry], np.int64)
    while met < count:
        order[met : met + len(fresh)] = fresh
        is_met[fresh] = True
        met += len(fresh)
        if looked_from == met:
            fresh = np.flatnonzero(~is_met)
            continue
        part = order[looked_from : min(met, looked_from + _AT_ONCE)]
        looked_from += len(part)
        starts = links.starts[part].astype(np.int64)
        found = links.targets[starts[:, np.newaxis] + np.arange(links.width)].ravel()
        found = found[found >= 0]
        found = found[~is_met[found]]
        # Of those that were met twice the first counts: the last to be written, going backwards.
        numbers = np.arange(len(found), dtype=np.int32)
        place[found[::-1]] = numbers[::-1]
        fresh = found[place[found] == numbers].astype(np.int64)
    return order


def arrange(links: Links, order: NDArray[np.int32], into: Links) -> int:
    """Write the links of nodes in another order; where searches begin then.

    Args:
        links: As they are.
        order: Which node comes where, shape (n,).
        into: Arrays of the same shapes, to be filled.
    """
    count = len(order)
    moved = np.full(count + 1, -1, np.int32)  # the last: no link leads nowhere
    moved[order] = np.arange(count, dtype=np.int32)
    np.take(links.levels, order, out=into.levels)
    starts = links.starts.astype(np.int64)
    sizes = (starts[1:] - starts[:-1])[order]
    into.starts[0] = 0
    np.cumsum(sizes, out=into.starts[1:])
    for first in range(0, count, _AT_ONCE):
        part = order[first : first + _AT_ONCE]
        lengths = sizes[first : first + _AT_ONCE]
        begin, end = int(into.starts[first]), int(into.starts[first + len(part)])
        shift = starts[part] - into.starts[first : first + len(part)].astype(np.int64)
        at = np.repeat(shift, lengths) + np.arange(begin, end)
        into.targets[begin:end] = moved[links.targets[at]]
    return int(moved[links.entry])


class Arrangement(NamedTuple):
    """Which row of a graph lies where, once it was arranged; rows that came later lie in their order.

    Attributes:
        rows: The row of each node, and -1 at the end, shape (n + 1,): so the node -1, none, is the row -1.
        arranged: How many there were when it was arranged.
    """

    rows: NDArray[np.int32]
    arranged: int

    @classmethod
    def of(cls, rows: NDArray[np.int32], arranged: int) -> Arrangement:
        """Of the row of each node, shape (n,)."""
        return cls(np.append(rows, np.int32(-1)), arranged)

    def grown(self, count: int) -> Arrangement:
        """With the rows that were added, up to so many."""
        before = len(self.rows) - 1
        more = np.arange(before, count, dtype=np.int32)
        return Arrangement.of(np.concatenate([self.rows[:-1], more]), self.arranged)

    def arranged_as(self, order: NDArray[np.int32]) -> Arrangement:
        """With the nodes in another order."""
        return Arrangement.of(self.rows[order], len(order))

    def places(self) -> NDArray[np.int32]:
        """Where each row lies, shape (n,). O(n)."""
        count = len(self.rows) - 1
        places = np.empty(count, np.int32)
        places[self.rows[:-1]] = np.arange(count, dtype=np.int32)
        return places
