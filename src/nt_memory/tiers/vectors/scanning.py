"""Exact scans: which rows could be among the best of a query.

Scans compare float32 scores, which depend on how the linear algebra happens to sum, and keep every row
that could be among the best k given the largest error such a sum can have. `ranking` scores those again.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.tiers.vectors.ranking import Piece
from nt_memory.tiers.vectors.scanners import widen

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from nt_memory.tiers.vectors.packed import Packed

_CHUNK_VALUES = 1 << 20
_PRODUCT_VALUES = 1 << 18
_BLOCK_SCORES = 1 << 22
# Scores of one query that stay in a core's own cache until they have been looked through.
_GROUP_SCORES = 1 << 16
# Below this many scores one partition of all is cheaper than looking at a sample first.
_SMALL = 8192
_SAMPLE = 4096
_LENGTH_ERROR = 2.0**-11
_UNIT = float(np.finfo(np.float32).eps)


class Segment(NamedTuple):
    """Rows of one partition to scan. Exactly one of `columns` and `raw` is given.

    Attributes:
        place: Which of the search's partitions.
        first: Number of the first row; unused with `rows`.
        size: How many rows.
        columns: Float32, shape (dim, size).
        raw: Float16, shape (size, dim).
        mask: Rows that may be returned, shape (size,); None: all.
        rows: Row numbers, shape (size,), where they are not consecutive.
        packed: The same rows as float16, if they are the first of their partition and it has them.
    """

    place: int
    first: int
    size: int
    columns: NDArray[np.float32] | None
    raw: NDArray[np.float16] | None
    mask: NDArray[np.bool_] | None
    rows: NDArray[np.int64] | None = None
    packed: Packed | None = None

    def numbers(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row numbers of the segment's positions `at`."""
        return at + self.first if self.rows is None else self.rows[at]

    def vectors(self, at: NDArray[np.int64]) -> NDArray[np.float16] | NDArray[np.float32]:
        """The vectors at positions `at`, shape (len(at), dim)."""
        if self.columns is not None:
            return self.columns.T[at]
        assert self.raw is not None  # noqa: S101 - one of the two is given
        return self.raw[at]


class _Scratch(threading.local):
    """Buffers of one thread, kept between searches so that scans allocate nothing large."""

    scores: NDArray[np.float32] = np.empty(0, np.float32)
    mask: NDArray[np.bool_] = np.empty(0, np.bool_)


_scratch = _Scratch()


def scan(segments: Sequence[Segment], queries: NDArray[np.float32], k: int) -> list[list[Piece]]:
    """For each query the rows of `segments` that may be among its best `k`, and few others.

    Args:
        segments: What to scan; together they count as one set of rows.
        queries: Shape (m, dim).
        k: Wanted rows.

    Cost: one matrix product a segment. Scores are looked through as they come, some segments at a time,
    while they are in the processor's cache, and against what was found so far: at 20 x 50,000 x 14 one
    query takes half of what it took with all scores in one array. They are held for as many queries
    at a time as fit 16 MiB, at least one.
    """
    if not segments:
        return [[] for _ in queries]
    if len(segments) == 1 and 0 < segments[0].size <= _SMALL and len(queries) == 1:
        return [_scan_few(segments[0], queries, k)]
    best = [_Best(k, _largest_error(query)) for query in queries]
    groups = list(_groups(segments))
    for group in groups:
        total = group.starts[-1]
        block = max(1, _BLOCK_SCORES // total)
        mask = _joined_mask(group.segments, total)
        for at in range(0, len(queries), block):
            part = queries[at : at + block]
            if _scratch.scores.size < len(part) * total:
                _scratch.scores = np.empty(len(part) * total, np.float32)
            scores = _scratch.scores[: len(part) * total].reshape(len(part), total)
            for segment, start in zip(group.segments, group.starts, strict=False):
                _score(segment, part, scores[:, start : start + segment.size])
            for one, row in zip(best[at : at + block], scores, strict=True):
                one.take(row, mask)
    return [
        [piece for group, at in zip(groups, one.rest(), strict=True) for piece in group.pieces(at)]
        for one in best
    ]


def _scan_few(segment: Segment, queries: NDArray[np.float32], k: int) -> list[Piece]:
    """As `scan`, of the few rows that lie past a graph, for one query: half of what it takes to get ready."""
    scores = np.empty((1, segment.size), np.float32)
    _score(segment, queries, scores)
    kept = preselect(scores[0], segment.mask, k, _largest_error(queries[0]))
    return [Piece(segment.place, segment.numbers(kept), segment.vectors(kept))] if len(kept) else []


class _Group(NamedTuple):
    """Segments whose scores are looked through together.

    Attributes:
        segments: In order.
        starts: Where the scores of each begin, and where the last ends.
    """

    segments: list[Segment]
    starts: list[int]

    def pieces(self, best: NDArray[np.int64]) -> list[Piece]:
        """The rows at some positions, ascending, by segment."""
        cuts = np.searchsorted(best, self.starts).tolist()
        found: list[Piece] = []
        for index, segment in enumerate(self.segments):
            if cuts[index] < cuts[index + 1]:
                at = best[cuts[index] : cuts[index + 1]] - self.starts[index]
                found.append(Piece(segment.place, segment.numbers(at), segment.vectors(at)))
        return found


def _groups(segments: Sequence[Segment]) -> Iterator[_Group]:
    """Segments that are not empty, as many together as have a cache's worth of scores."""
    some: list[Segment] = []
    starts = [0]
    for segment in segments:
        if not segment.size:
            continue
        if some and starts[-1] + segment.size > _GROUP_SCORES:
            yield _Group(some, starts)
            some, starts = [], [0]
        some.append(segment)
        starts.append(starts[-1] + segment.size)
    if some:
        yield _Group(some, starts)


class _Best:
    """The rows that may be among one query's best, as groups of scores come in.

    Args:
        k: Wanted.
        error: Largest error of a score.
    """

    def __init__(self, k: int, error: float) -> None:
        self._k = k
        self._error = error
        self._bound = -np.inf
        self._found: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
        self._leading = np.empty(0, np.float32)
        self._fresh = 0
        self._seen = 0

    def take(self, scores: NDArray[np.float32], mask: NDArray[np.bool_] | None) -> None:
        """Look through the next group's scores, which may be overwritten afterwards."""
        if self._bound == -np.inf:
            kept = preselect(scores, mask, self._k, self._error)
        else:
            kept = _at_least(scores, mask, self._bound)
        self._found.append((kept, scores[kept]))
        self._fresh += len(kept)
        # A bound that is a little low lets some more through; finding it costs a partition.
        if self._fresh >= max(self._k // 4, 1):
            self._tighten()

    def rest(self) -> list[NDArray[np.int64]]:
        """Positions, ascending, that were not beaten meanwhile, by group."""
        self._tighten()
        return [kept[scores >= np.float32(self._bound)] for kept, scores in self._found]

    def _tighten(self) -> None:
        news = [scores for _, scores in self._found[self._seen :]]
        self._seen = len(self._found)
        self._fresh = 0
        leading = np.concatenate([self._leading, *news])
        if len(leading) >= self._k:
            self._bound = _bound(leading, self._k, self._error)
            leading = leading[leading >= np.float32(self._bound)]
        self._leading = leading


def preselect(
    scores: NDArray[np.float32], mask: NDArray[np.bool_] | None, k: int, error: float
) -> NDArray[np.int64]:
    """Ascending positions, where `mask` holds, of all scores that may belong to the best `k`.

    Args:
        scores: Shape (n,), each off by at most `error`.
        mask: Shape (n,), or None for all.
        k: Wanted, >= 1. All positions are returned if no more pass.
        error: Largest error of a score. True scores above 1 count as 1, so they tie.

    Cost: two passes and a partition of a sample, if the sample is a fair one.
    """
    if len(scores) > _SMALL:
        guess = _guess(scores, mask, k)
        if guess is not None:
            kept = _at_least(scores, mask, guess)
            if len(kept) >= k:
                bound = _bound(scores[kept], k, error)
                if bound < guess:
                    kept = _at_least(scores, mask, bound)
                return kept[scores[kept] >= bound]
    if mask is None and len(scores) > k:
        return np.flatnonzero(scores >= _bound(scores, k, error))
    kept = np.arange(len(scores)) if mask is None else np.flatnonzero(mask)
    if len(kept) <= k:
        return kept
    inside = scores[kept]
    return kept[inside >= _bound(inside, k, error)]


def _largest_error(query: NDArray[np.float32]) -> float:
    # Any order of summing d products is off by at most about d * eps * |row| * |query| (Higham
    # 2002, section 3.1); rows are unit vectors rounded to float16. Twice that, to be plain. Scans
    # take rows as stored: rounding values by at most 2**-11 changes the length by no more.
    length = math.sqrt(np.vdot(query, query))
    return 2.0 * (len(query) + 4) * _UNIT * (1.0 + length) + _LENGTH_ERROR * length


def _bound(scores: NDArray[np.float32], k: int, error: float) -> float:
    last = len(scores) - k
    kth = float(np.partition(scores, last)[last])
    return min(kth, 1.0) - 2.0 * error


def _guess(scores: NDArray[np.float32], mask: NDArray[np.bool_] | None, k: int) -> float | None:
    """A score that somewhat more than `k` rows reach, going by a sample; None if it says little."""
    step = -(-len(scores) // _SAMPLE)
    sample = scores[::step] if mask is None else scores[::step][mask[::step]]
    wanted = k / step
    above = int(wanted + 3.0 * wanted**0.5) + 3
    if above >= len(sample):
        return None
    last = len(sample) - above
    return float(np.partition(sample, last)[last])


def _at_least(
    scores: NDArray[np.float32], mask: NDArray[np.bool_] | None, bound: float
) -> NDArray[np.int64]:
    reached = scores >= np.float32(bound)
    if mask is not None:
        np.logical_and(reached, mask, out=reached)
    return np.flatnonzero(reached)


def _joined_mask(segments: Sequence[Segment], total: int) -> NDArray[np.bool_] | None:
    if all(segment.mask is None for segment in segments):
        return None
    if len(segments) == 1:
        return segments[0].mask
    if _scratch.mask.size < total:
        _scratch.mask = np.empty(total, np.bool_)
    mask = _scratch.mask[:total]
    at = 0
    for segment in segments:
        mask[at : at + segment.size] = True if segment.mask is None else segment.mask
        at += segment.size
    return mask


def _score(segment: Segment, queries: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    if segment.columns is not None:
        _multiply(queries, segment.columns, out)
        return
    assert segment.raw is not None  # noqa: S101 - one of the two is given
    step = max(1, _CHUNK_VALUES // queries.shape[1])
    for at in range(0, segment.size, step):
        chunk = widen(segment.raw[at : at + step])
        _multiply(queries, chunk.T, out[:, at : at + step])


def _multiply(
    queries: NDArray[np.float32], columns: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """`out = queries @ columns`, in pieces that the linear algebra does on this thread.

    Larger ones wake OpenBLAS's threads. With the cores busy, waiting for those took 20 ms where one
    thread needs 0.2 ms, and products of two matrices 16 ms instead of 0.3 ms.
    """
    step = max(1, _PRODUCT_VALUES // len(columns))
    for at in range(0, columns.shape[1], step):
        part = columns[:, at : at + step]
        for query, scores in zip(queries, out, strict=True):
            np.matmul(query, part, out=scores[at : at + step])


def reach(scores: NDArray[np.float32], query: NDArray[np.float32], k: int) -> float:
    """What a row that is among the best `k` of all scores at least, going by those of some, n >= k."""
    return _bound(scores, k, _largest_error(query))
