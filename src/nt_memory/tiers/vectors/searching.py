"""One search over several partitions: what each of them may return, found, and ranked together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.errors import DimensionError, EmbeddingError, InvalidInputError
from nt_memory.tiers.vectors.packed import narrow
from nt_memory.tiers.vectors.ranking import Candidates, Piece, rank
from nt_memory.tiers.vectors.scanning import Segment, scan
from nt_memory.tiers.vectors.steps import Step, step_of
from nt_memory.tiers.vectors.visibility import visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from nt_memory.tiers.vectors.helping import Helper
    from nt_memory.tiers.vectors.partition import Partition
    from nt_memory.tiers.vectors.upkeep import Upkeep
    from nt_memory.tiers.vectors.visibility import Visible


class Asked(NamedTuple):
    """What a search is for; see `VectorTier.search`."""

    queries: NDArray[np.float32]
    k: int
    time_us: int
    revision: int
    exact: bool


class _Searched(NamedTuple):
    """A partition under the number it goes by, and what of it may be returned."""

    number: int
    partition: Partition
    reach: Visible


class Searching:
    """Searches of a tier's partitions, and how often they were loaded. Any thread.

    Args:
        partitions: The tier's, by id; may change while a search runs.
        upkeep: Is told what is searched.
        helper: Compares half of many rows, and is told how many searches there are.
    """

    def __init__(self, partitions: Mapping[int, Partition], upkeep: Upkeep, helper: Helper) -> None:
        self._helper = helper
        self._partitions = partitions
        self._upkeep = upkeep
        self._stamp = 0
        self.hits: int = 0
        self.misses: int = 0

    def search(
        self,
        partitions: Sequence[int],
        asked: Asked,
        allow: Mapping[int, NDArray[np.bool_]] | None,
        steps: list[Step] | None,
    ) -> list[Candidates]:
        """As `VectorTier.search`."""
        queries = _checked(asked.queries, asked.k)
        if queries is not asked.queries:
            asked = asked._replace(queries=queries)
        self._upkeep.searched()
        searched = self._reached(partitions, asked, allow)
        self._helper.begin_search()
        try:
            found = self._collect(searched, asked, steps)
        finally:
            self._helper.end_search()
        ids = np.array([one.number for one in searched], np.int64)
        reaches = [one.reach for one in searched]
        return [
            _candidates(*rank(pieces, query, asked.k, ids), ids, reaches)
            for pieces, query in zip(found, asked.queries, strict=True)
        ]

    def _reached(
        self,
        partitions: Sequence[int],
        asked: Asked,
        allow: Mapping[int, NDArray[np.bool_]] | None,
    ) -> list[_Searched]:
        """The partitions that have anything to return."""
        searched: list[_Searched] = []
        for number in dict.fromkeys(partitions):
            partition = self._partitions.get(number)
            mask = None if allow is None else allow.get(number)
            if partition is None or (allow is not None and mask is None):
                continue
            if partition.dim != asked.queries.shape[1]:
                raise DimensionError(
                    f"partition {number} holds vectors of {partition.dim} values",
                    expected=partition.dim,
                    got=asked.queries.shape[1],
                )
            columns = partition.columns
            reach = visible(columns.view, asked.time_us, asked.revision, mask, columns.known_by)
            if reach.prefix:
                searched.append(_Searched(number, partition, reach))
        return searched

    def _collect(
        self, searched: Sequence[_Searched], asked: Asked, steps: list[Step] | None
    ) -> list[list[Piece]]:
        """For each query the rows that may be among its best."""
        queries, k = asked.queries, asked.k
        pieces: list[list[Piece]] = [[] for _ in queries]
        segments: list[Segment] = []
        missed: list[Partition] = []
        for place, (number, partition, reach) in enumerate(searched):
            if not self._touch(partition):
                missed.append(partition)
            notes = [("scan", 0)]
            if asked.exact:
                whole = partition.segment(place, reach)
                by_graph, rest = list[list[Piece]](), [] if whole is None else [whole]
            else:
                by_graph, rest = partition.find(place, reach, queries, k, notes.append)
            if steps is not None:
                steps.append(step_of(number, reach, *notes[-1]))
            for found, more in zip(pieces, by_graph, strict=False):
                found.extend(more)
            segments += rest
        first, left = narrow(segments, queries, k, self._helper)
        scanned = scan(left, queries, k)
        for partition in missed:  # only now that what it holds is known
            self._upkeep.look_at(partition)
        return [mine + first + more for mine, more in zip(pieces, scanned, strict=True)]

    def is_settled(self, partition: Partition) -> bool:
        """Announce a search of a partition; whether it would be answered at once."""
        self._announce(partition)
        return partition.is_settled

    def _announce(self, partition: Partition) -> None:
        self._stamp += 1
        partition.last_searched = self._stamp

    def _touch(self, partition: Partition) -> bool:
        """Announce a search of a partition; whether it was at hand."""
        self._announce(partition)
        is_hit = partition.is_loaded
        self.hits += is_hit
        self.misses += not is_hit
        return is_hit


def _checked(queries: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    if k < 1:
        raise InvalidInputError(f"k must be at least 1, not {k}")
    queries = np.ascontiguousarray(queries, np.float32)
    # The sum is finite if all are, short of what no unit vector comes near; and one pass instead of two.
    is_finite = math.isfinite(queries.sum()) or np.isfinite(queries).all()
    if queries.ndim != 2 or not is_finite:
        raise EmbeddingError(f"queries must be finite, shape (m, dim), not {queries.shape}")
    return queries


def _candidates(
    places: NDArray[np.int64],
    rows: NDArray[np.int64],
    scores: NDArray[np.float64],
    ids: NDArray[np.int64],
    reaches: Sequence[Visible],
) -> Candidates:
    is_ambiguous = np.zeros(len(rows), np.bool_)
    for place, reach in enumerate(reaches):
        if reach.time_us >= reach.view.min_until:
            at = np.flatnonzero(places == place)
            is_ambiguous[at] = reach.is_ambiguous(rows[at])
    return Candidates(ids[places], rows, scores, is_ambiguous)
