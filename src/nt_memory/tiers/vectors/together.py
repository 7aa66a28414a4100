"""How wide each of several graphs has to be searched, for what they find together.

Of the ten nearest in a partition each of its graphs holds only some, and those are the nearest of its own:
they are found more easily than its own ten are, which it is measured by alone. So when a graph is saved,
those beside it are examined with it: some rows of each, the nearest of all other rows, and how many of them
searches find that are narrower by so many steps, the same for each.

What comes out is kept with the graph that was saved last, and counts for searches of all these graphs: now, for
no more neighbours than were asked for here, and without a filter, which might leave one graph alone. Graphs
that came later take some of the nearest away, which makes the others easier; one that is gone makes it void.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nt_memory.tiers.vectors.tuning import EFFORTS, NEIGHBOURS, TARGET, sample

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from nt_memory.tiers.vectors.sealed import Sealed

    Floats = NDArray[np.float32]
    Rows = NDArray[np.int64]

TOGETHER_KEY = "together"
"""Of `Content.extra`: `[first, stop, effort]` of each graph that was examined."""
_QUERIES = 256
_FEWEST = 16  # of the rows of a small graph


class _Member(NamedTuple):
    """A graph, and its rows among the nearest to each query."""

    part: Sealed
    nearest: list[set[int]]

    def hits(self, queries: Floats, effort: int) -> int:
        """How many of them searches of a breadth find."""
        found = self.part.graph.search(queries, NEIGHBOURS + 1, effort=effort).rows
        return sum(
            len(near.intersection(row))
            for near, row in zip(self.nearest, found.tolist(), strict=True)
        )


def tune_together(
    parts: Sequence[Sealed],
    read: Callable[[Rows], Floats],
    *,
    target: float = TARGET,
    go_on: Callable[[], bool] = lambda: True,
) -> list[int] | None:
    """A breadth for each of several graphs; never wider than its own.

    Args:
        parts: The graphs, measured; nothing may be added to them meanwhile.
        read: The vectors of given rows of the partition, shape (n, dim).
        target: Share of the ten nearest of all to be found. If their own breadths find less: as much as those.
        go_on: Asked between two searches; False: stop, and return None.

    Cost: a scan of all codes for each of 256 queries, about 15 s at 3M x 384, and some searches each.
    """
    rows = _queries(parts)
    queries = read(rows)
    members = _members(parts, read, rows, queries, go_on)
    if members is None:
        return None
    nearest = sum(len(near) for member in members for near in member.nearest)
    own = [_narrower(part.graph.effort, 0) for part in parts]

    def share(steps: int) -> float:
        narrowed = [_narrower(effort, steps) for effort in own]
        hits = (one.hits(queries, effort) for one, effort in zip(members, narrowed, strict=True))
        return sum(hits) / nearest

    enough = min(target, share(0))
    low, high = 0, len(EFFORTS)  # as many steps are fine, so many too many
    while high - low > 1:
        if not go_on():
            return None
        middle = (low + high) // 2
        if share(middle) >= enough:
            low = middle
        else:
            high = middle
    return [_narrower(effort, low) for effort in own]


def efforts(parts: Sequence[Sealed]) -> tuple[int, ...]:
    """How wide to search each of a partition's graphs, if all are; empty: each as it needs alone."""
    present = {(part.first, part.stop): at for at, part in enumerate(parts)}
    best: list[tuple[int, int]] = []
    for part in parts:
        found = _found(part.content.extra.get(TOGETHER_KEY), present)
        if len(found) > len(best):
            best = found
    if not best:
        return ()
    chosen = [part.graph.effort for part in parts]
    for at, effort in best:
        chosen[at] = min(chosen[at], effort)
    return tuple(chosen)


def _found(kept: Any, present: dict[tuple[int, int], int]) -> list[tuple[int, int]]:
    """Which graphs were examined, by their places, and what came out; empty if one is gone."""
    found: list[tuple[int, int]] = []
    for first, stop, effort in kept or ():
        at = present.get((first, stop))
        if at is None:
            return []
        found.append((at, effort))
    return found


def _queries(parts: Sequence[Sealed]) -> Rows:
    """The partition's numbers of some rows of all graphs, of each by its share."""
    rows = sum(part.graph.rows for part in parts)
    chosen = [
        part.numbers(sample(part.graph.rows, max(_FEWEST, _QUERIES * part.graph.rows // rows)))
        for part in parts
    ]
    return np.concatenate(chosen)


def _members(
    parts: Sequence[Sealed],
    read: Callable[[Rows], Floats],
    rows: Rows,
    queries: Floats,
    go_on: Callable[[], bool],
) -> list[_Member] | None:
    members = [_Member(part, []) for part in parts]
    for row, query in zip(rows, queries, strict=True):
        if not go_on():
            return None
        found = [part.graph.scan(query[np.newaxis], NEIGHBOURS + 1).rows[0] for part in parts]
        found = [
            some[(some >= 0) & (part.numbers(some) != row)]
            for part, some in zip(parts, found, strict=True)
        ]
        # The codes of two graphs are not spelled alike, so their rows are compared by their vectors.
        numbers = [part.numbers(some) for part, some in zip(parts, found, strict=True)]
        scores = read(np.concatenate(numbers)) @ query
        places = np.repeat(np.arange(len(parts)), [len(some) for some in found])
        best = np.argsort(-scores, kind="stable")[:NEIGHBOURS]
        of_all, places = np.concatenate(found)[best], places[best]
        for at, member in enumerate(members):
            member.nearest.append(set(of_all[places == at].tolist()))
    return members


def _narrower(effort: int, steps: int) -> int:
    """The greatest of `EFFORTS` that is no greater, and so many steps down from there."""
    at = int(np.searchsorted(EFFORTS, effort, "right")) - 1
    return EFFORTS[at - steps] if at >= steps else min(effort, EFFORTS[0])
