"""Scans of many partitions at once, by half the bytes.

One question to 20 partitions of 50,000 x 14 values reads 56 MB of float32 columns, which takes as long as memory
does to give them, and a million scores have then to be looked through. As float16 the same rows are 32 MB, and a
loop that keeps the best on the way has no scores to look through afterwards. All partitions share what is kept,
or two threads keep some each of the rows they compared. Whether that was enough is known afterwards: what was not
kept scores no more than the worst that was. If that might still be among the best, everything is scanned as before. So
nothing that belongs to the result is ever missing.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.tiers.vectors.helping import ALONE
from nt_memory.tiers.vectors.ranking import Piece
from nt_memory.tiers.vectors.scanners import HalfScan, half_width
from nt_memory.tiers.vectors.scanning import reach

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from nt_memory.tiers.vectors.helping import Helper
    from nt_memory.tiers.vectors.scanning import Segment

MIN_ROWS = 1 << 14
"""A smaller partition is compared in the time that asking takes."""

MIN_PARTITIONS = 4
"""Of fewer, each has so many of the best that keeping them costs what reading less saves."""

WORTH_HELP_ROWS = 1 << 18
"""Of so many rows a second thread takes some: it takes 60 us to come, and they 400 to be compared."""

PART_ROWS = 1 << 16
"""Rows compared at a stretch: about 100 us."""


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


class _Part(NamedTuple):
    """Rows of one segment that one thread compares at a stretch.

    Attributes:
        place: Which segment.
        first: Its first of them.
        rows: Those, shape (n, `half_width(dim)`).
    """

    place: int
    first: int
    rows: NDArray[np.float16]


class _Kept(NamedTuple):
    """Rows that were kept, by segment.

    Attributes:
        place: Which segment each row is of, shape (c,), ascending.
        row: Its number, shape (c,).
        score: Its score, shape (c,).
    """

    place: NDArray[np.int64]
    row: NDArray[np.int64]
    score: NDArray[np.float32]

    def by_segment(self, segments: Sequence[Segment]) -> Iterator[tuple[Segment, slice]]:
        """Each segment of which any were kept, and where they are."""
        cuts = np.searchsorted(self.place, np.arange(len(segments) + 1)).tolist()
        for segment, start, stop in zip(segments, cuts, cuts[1:], strict=False):
            if start < stop:
                yield segment, slice(start, stop)

    def only(self, which: NDArray[np.bool_]) -> _Kept:
        """Those that `which` marks."""
        return _Kept(self.place[which], self.row[which], self.score[which])


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
    found, least = _compare(packed, queries[0], kept, helper)
    found = found.only(_allowed(packed, found))
    if len(found.row) < k:
        return [], segments
    bound = np.float32(reach(found.score, queries[0], k))
    if least >= bound:
        return [], segments
    found = found.only(found.score >= bound)
    dim = queries.shape[1]
    pieces = [
        Piece(one.place, found.row[at], _window(one).take(found.row[at], axis=0)[:, :dim])
        for one, at in found.by_segment(packed)
    ]
    return pieces, [one for one in segments if one.packed is None or one.size < MIN_ROWS]


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
) -> tuple[_Kept, float]:
    """The best `k` of the rows that each of one or two threads compared, and what all others score at most.

    Who has time for it takes the next part, so that a helper that comes late does less, and nobody waits for
    longer than a part takes. Which rows are kept beside the best `k` of all depends on that; nothing else does.
    """
    parts = list(_parts(segments))
    left = deque(enumerate(parts))

    def work() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], float]:
        scan = HalfScan(query, k)
        while left:
            try:
                number, part = left.popleft()
            except IndexError:  # the other one was quicker
                break
            scan.take(number, part.rows)
        return scan.found()

    is_worth_help = sum(one.size for one in segments) >= WORTH_HELP_ROWS
    done = helper.both(work, work) if is_worth_help else (work(),)
    numbers, rows, scores = (np.concatenate([one[column] for one in done]) for column in range(3))
    place = np.array([part.place for part in parts], np.int64)[numbers]
    first = np.array([part.first for part in parts], np.int64)[numbers]
    order = np.argsort(place, kind="stable")
    kept = _Kept(place[order], (first + rows)[order], scores[order])
    return kept, max(one[3] for one in done)


def _parts(segments: Sequence[Segment]) -> Iterator[_Part]:
    for place, segment in enumerate(segments):
        rows = _window(segment)
        for first in range(0, segment.size, PART_ROWS):
            yield _Part(place, first, rows[first : first + PART_ROWS])


def _allowed(segments: Sequence[Segment], kept: _Kept) -> NDArray[np.bool_]:
    """Which of the kept rows may be returned."""
    passes = np.ones(len(kept.row), np.bool_)
    for segment, at in kept.by_segment(segments):
        if segment.mask is not None:
            passes[at] = segment.mask[kept.row[at]]
    return passes


def _window(segment: Segment) -> NDArray[np.float16]:
    assert segment.packed is not None  # noqa: S101 - the caller has looked
    return segment.packed.window(segment.size)
