"""What searches of a live partition see: an immutable value, exchanged as a whole."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.tiers.vectors.growth import Found, Gap
from nt_memory.tiers.vectors.helping import ALONE
from nt_memory.tiers.vectors.probe import search_ns
from nt_memory.tiers.vectors.together import efforts
from nt_memory.tiers.vectors.tuning import NEIGHBOURS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from nt_memory.tiers.vectors.helping import Helper
    from nt_memory.tiers.vectors.probe import Probed
    from nt_memory.tiers.vectors.sealed import Growing, Sealed
    from nt_memory.tiers.vectors.visibility import Visible

# Waking another thread and hearing from it takes 60 us on an idle machine.
_WORTH_HELP_NS = 200_000.0


class State(NamedTuple):
    """The graphs of a partition.

    Attributes:
        sealed: In order of their rows, not overlapping; gaps only after damage.
        growing: Past all of them; None: not begun.
        together: How widely to search each sealed graph where all are; see `together`.
    """

    sealed: tuple[Sealed, ...] = ()
    growing: Growing | None = None
    together: tuple[int, ...] = ()

    @classmethod
    def of(cls, sealed: Iterable[Sealed], growing: Growing | None = None) -> State:
        """With what is known of these graphs together."""
        parts = tuple(sealed)
        return cls(parts, growing, efforts(parts))

    @property
    def stop(self) -> int:
        """Number of the first row past all graphs."""
        if self.growing is not None:
            return self.growing.stop
        return self.sealed[-1].stop if self.sealed else 0

    @property
    def rows(self) -> int:
        """Rows that need not be scanned now."""
        sealed = sum(part.stop - part.first for part in self.sealed)
        return sealed + (0 if self.growing is None else self.growing.graph.rows)

    def find(
        self, reach: Visible, queries: NDArray[np.float32], k: int, helper: Helper = ALONE
    ) -> Found:
        """As `Chain.find`."""
        gaps: list[Gap] = []
        at = 0
        parts = [part for part in self.sealed if part.first < reach.prefix]
        found = self._probed(parts, reach, queries, k, helper)
        for part in parts:
            if at < part.first:
                gaps.append(Gap(at, part.first))
            left_out = part.left_out(reach)
            if len(left_out):
                gaps.append(Gap(part.first, part.stop, left_out))
            at = part.stop
        if self.growing is not None and self.growing.first < reach.prefix:
            if at < self.growing.first:
                gaps.append(Gap(at, self.growing.first))
            newest, at = self.growing.find(reach, queries, k)
            found.append(newest)
        if at < reach.prefix:
            gaps.append(Gap(at, reach.prefix))
        asked = [one for one in found if one is not None]
        rows = [_nearest(asked, number, k) for number in range(len(queries))]
        return Found(rows, gaps, [(one.how, one.width) for one in asked])

    def _probed(
        self,
        parts: Sequence[Sealed],
        reach: Visible,
        queries: NDArray[np.float32],
        k: int,
        helper: Helper,
    ) -> list[Probed | None]:
        """What each of `parts` says; by two threads, if that is worth it."""
        if len(parts) == 1:
            return [parts[0].find(reach, queries, k, parts[0].graph.effort)]
        is_whole = bool(parts) and reach.mask is None and reach.prefix >= parts[-1].stop
        chosen = [part.graph.effort for part in parts]
        if self.together and is_whole and len(parts) == len(self.sealed) and k <= NEIGHBOURS:
            chosen = list(self.together)

        def ask(these: range) -> list[Probed | None]:
            return [parts[i].find(reach, queries, k, chosen[i]) for i in these]

        costs = [search_ns(effort, queries.shape[1]) * len(queries) for effort in chosen]
        cut = _cut(costs)
        first, rest = range(cut), range(cut, len(parts))
        if min(sum(costs[:cut]), sum(costs[cut:])) < _WORTH_HELP_NS:
            return ask(range(len(parts)))
        mine, others = helper.both(lambda: ask(first), lambda: ask(rest))
        return mine + others


def _cut(costs: Sequence[float]) -> int:
    """Where to cut a row of costs in two, so that the greater half is least."""
    half, sums = sum(costs), list(itertools.accumulate(costs, initial=0.0))
    return min(range(len(sums)), key=lambda at: max(sums[at], half - sums[at]))


def _nearest(asked: Sequence[Probed], query: int, k: int) -> list[NDArray[np.int64]]:
    """Of what all graphs gave for a query, what may be among its best: as much as a single graph would have given.

    Codes that a graph's values do not fit into make its rows seem nearer than they are. So that they do not drive out
    those of another, the first `k` of each stay.
    """
    rows = [one.rows[query] for one in asked if len(one.rows[query])]
    distances = [one.distances[query] for one in asked if one.distances is not None]
    if len(rows) < 2 or len(distances) < len(asked):
        return rows
    most, near = max(map(len, rows)), np.concatenate(distances)
    is_near = near <= np.partition(near, most - 1)[most - 1]
    at = 0
    for some in rows:
        is_near[at : at + min(k, len(some))] = True
        at += len(some)
    return [np.concatenate(rows)[is_near]]
