"""Scans of many partitions at once, by half the bytes.

One question to 20 partitions of 50,000 x 14 values reads 56 MB of float32 columns, which takes as long as memory
does to give them, and a million scores have then to be looked through. As float16 the same rows are 32 MB, and a
loop that keeps the best on the way has no scores to look through afterwards. All partitions share what is kept,
or two threads keep some each for half of the rows. Whether that was enough is known afterwards: what was not
kept scores no more than the worst that was. If that might still be among the best, that half is scanned as before. So
nothing that belongs to the result is ever missing.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.tiers.vectors.helping import ALONE
from nt_memory.tiers.vectors.index import HalfScan, half_width
from nt_memory.tiers.vectors.ranking import Piece, reach

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from nt_memory.tiers.vectors.helping import Helper
    from nt_memory.tiers.vectors.ranking import Segment

MIN_ROWS = 1 << 14
"""A smaller partition is compared in the time that asking takes."""

MIN_PARTITIONS = 4
"""Of fewer, each has so many of the best that keeping them costs what reading less saves."""

WORTH_HELP_ROWS = 1 << 18
"""Of so many rows a second thread takes half: it takes 60 us to hand them over, and 200 to compare them."""


class Packed:
    """The first rows of a partition as float16, extended at the end. Thread-safe.

    An array handed out never changes: new rows go to where nobody was shown any yet.

    Args:
        dim: Values in a row.
        read: Gives rows [first, stop), shape (stop - first, dim).
    """

    def __init__(self, dim: int, read: Callable[[int, int], NDArray[np.float16]]) -> None:
        self._dim = dim
        self._read = read
        self._lock = threading.Lock()
        self._rows = np.empty((0, half_width(dim)), np.float16)
        self._stop = 0

    @property
    def held_bytes(self) -> int:
        """Bytes held."""
        return self._rows.nbytes

    def clear(self) -> None:
        """Forget everything; the next `window` reads it again."""
        with self._lock:
            self._rows = np.empty((0, self._rows.shape[1]), np.float16)
            self._stop = 0

    def window(self, stop: int) -> NDArray[np.float16]:
        """The first `stop` rows, shape (stop, `half_width(dim)`), zeros at the end of each.

        Cost: reads rows that are not held yet; doubles its room when full, amortised O(new rows).
        """
        with self._lock:
            if self._stop < stop:
                self._extend(stop)
            return self._rows[:stop]

    def _extend(self, stop: int) -> None:
        fresh = self._read(self._stop, stop)
        if stop > len(self._rows):
            # The first fill is exact: most partitions are filled once and grow slowly.
            room = max(stop, 2 * self._stop)
            grown = np.zeros((room, self._rows.shape[1]), np.float16)
            grown[: self._stop] = self._rows[: self._stop]
            self._rows = grown
        self._rows[self._stop : stop, : self._dim] = fresh
        self._stop = stop


class _Half(NamedTuple):
    """What one thread kept of the segments that it compared.

    Attributes:
        segments: Those.
        place: Which segment each row is of, shape (c,).
        row: Its number, shape (c,).
        score: Its score, shape (c,).
        least: What all other rows score at most.
    """

    segments: list[Segment]
    place: NDArray[np.int64]
    row: NDArray[np.int64]
    score: NDArray[np.float32]
    least: float


def narrow(
    segments: Sequence[Segment],
    queries: NDArray[np.float32],
    k: int,
    helper: Helper = ALONE,
) -> tuple[list[Piece], Sequence[Segment]]:
    """Rows that may be among the best `k`, and the segments that have still to be scanned beside them.

    Args:
        segments: What would be scanned.
        queries: Shape (m, dim); for more than one, everything has still to be scanned.
        k: Wanted rows.
        helper: Compares half of them, where that is worth it.
    """
    packed = [one for one in segments if one.packed is not None and one.size >= MIN_ROWS]
    if len(queries) != 1 or len(packed) < MIN_PARTITIONS:
        return [], segments
    kept = _enough(packed, k)
    if 8 * kept > sum(one.size for one in packed):
        return [], segments
    found = _compare(packed, queries[0], kept, helper)
    leading = np.concatenate([one.score for one in found])
    if len(leading) < k:
        return [], segments
    bound = np.float32(reach(leading, queries[0], k))
    pieces: list[Piece] = []
    rest = [one for one in segments if one.packed is None or one.size < MIN_ROWS]
    for half in found:
        if half.least >= bound:
            rest += half.segments
        else:
            pieces += _pieces(half, half.score >= bound, queries.shape[1])
    return pieces, rest


def is_narrowed(sizes: Sequence[int], queries: int) -> bool:
    """Whether a scan of partitions with so many rows each is one that `narrow` does, by two threads if need be."""
    return queries == 1 and sum(size >= MIN_ROWS for size in sizes) >= MIN_PARTITIONS


def _enough(segments: Sequence[Segment], k: int) -> int:
    """How many rows to keep, so that those that may be returned and might be among the best `k` are among them.

    Scores are known to a thousandth, so that half as many again may be as good as the last. Of those that masks
    hide, as many are kept as should lie among them, by five standard deviations.
    """
    rows = sum(one.size for one in segments)
    allowed = sum(
        one.size if one.mask is None else int(np.count_nonzero(one.mask)) for one in segments
    )
    share = max(allowed, 1) / rows
    return int((1.5 * k + 5.0 * (k * (1.0 - share)) ** 0.5) / share) + 32


def _compare(
    segments: Sequence[Segment], query: NDArray[np.float32], k: int, helper: Helper
) -> list[_Half]:
    """The best `k` of all rows, or of each of two halves of them."""
    ends = np.cumsum([one.size for one in segments])
    if ends[-1] < WORTH_HELP_ROWS:
        return [_half(list(segments), query, k)]
    cut = int(np.argmin(np.abs(2 * ends - ends[-1]))) + 1
    mine, other = list(segments[:cut]), list(segments[cut:])
    return list(helper.both(lambda: _half(mine, query, k), lambda: _half(other, query, k)))


def _half(segments: list[Segment], query: NDArray[np.float32], k: int) -> _Half:
    scan = HalfScan(query, k)
    for place, segment in enumerate(segments):
        scan.take(place, _window(segment))
    return _allowed(_Half(segments, *scan.found()))


def _allowed(half: _Half) -> _Half:
    """Without the rows that may not be returned; by segment."""
    order = np.argsort(half.place, kind="stable")
    place, row, score = half.place[order], half.row[order], half.score[order]
    passes = np.ones(len(row), np.bool_)
    cuts = np.searchsorted(place, np.arange(len(half.segments) + 1)).tolist()
    for segment, start, stop in zip(half.segments, cuts, cuts[1:], strict=False):
        if segment.mask is not None and start < stop:
            passes[start:stop] = segment.mask[row[start:stop]]
    return half._replace(place=place[passes], row=row[passes], score=score[passes])


def _pieces(half: _Half, which: NDArray[np.bool_], dim: int) -> list[Piece]:
    """Those of its rows that `which` marks, by segment."""
    place, row = half.place[which], half.row[which]
    cuts = np.searchsorted(place, np.arange(len(half.segments) + 1)).tolist()
    return [
        Piece(
            segment.place, row[start:stop], _window(segment).take(row[start:stop], axis=0)[:, :dim]
        )
        for segment, start, stop in zip(half.segments, cuts, cuts[1:], strict=False)
        if start < stop
    ]


def _window(segment: Segment) -> NDArray[np.float16]:
    assert segment.packed is not None  # noqa: S101 - the caller has looked
    return segment.packed.window(segment.size)
