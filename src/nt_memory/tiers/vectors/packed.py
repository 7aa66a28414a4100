"""Scans of many partitions at once, by half the bytes.

One question to 20 partitions of 50,000 x 14 values reads 56 MB of float32 columns, which takes as long as memory
does to give them. As float16 the same rows are 32 MB, and a loop that keeps the best few on the way has
no scores to look through afterwards. But it gets slow where it has to keep many, so each partition is asked
for about as many as it should have among the best of all. Whether that was enough is known afterwards:
what was not returned scores no more than the last row that was. A partition whose last row might still be
among the best is scanned as before. So nothing that belongs to the result is ever missing.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from nt_memory.tiers.vectors.index import Halves
from nt_memory.tiers.vectors.ranking import Piece, reach

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from nt_memory.tiers.vectors.ranking import Segment

MIN_ROWS = 1 << 14
"""A smaller partition is compared in the time that asking takes."""

MIN_PARTITIONS = 4
"""Of fewer, each has so many of the best that keeping them costs what reading less saves."""


class Packed:
    """The first rows of a partition as float16, extended at the end. Thread-safe.

    Args:
        dim: Values in a row.
        read: Gives rows [first, stop), shape (stop - first, dim).
    """

    def __init__(self, dim: int, read: Callable[[int, int], NDArray[np.float16]]) -> None:
        self._dim = dim
        self._read = read
        self._lock = threading.Lock()
        self._halves = Halves(dim)

    @property
    def held_bytes(self) -> int:
        """Bytes held."""
        return self._halves.held_bytes

    def clear(self) -> None:
        """Forget everything; the next `best` reads it again."""
        with self._lock:
            self._halves = Halves(self._dim)

    def best(
        self, query: NDArray[np.float32], k: int, stop: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and rows of the best `k` of at least the first `stop` rows, best first; k <= stop.

        Cost: about 1.8 ns a row of 14 values; reads rows that are not held yet.
        """
        with self._lock:
            if self._halves.rows < stop:
                self._halves.add(self._read(self._halves.rows, stop))
            return self._halves.best(query, k)


def narrow(
    segments: Sequence[Segment], queries: NDArray[np.float32], k: int
) -> tuple[list[Piece], Sequence[Segment]]:
    """Rows that may be among the best `k`, and the segments that have still to be scanned beside them.

    Args:
        segments: What would be scanned.
        queries: Shape (m, dim); for more than one, everything has still to be scanned.
        k: Wanted rows.
    """
    packed = [one for one in segments if one.packed is not None and one.size >= MIN_ROWS]
    if len(queries) != 1 or len(packed) < MIN_PARTITIONS:
        return [], segments
    rows = sum(one.size for one in packed)
    asked = [_enough(k * one.size / rows) for one in packed]
    if any(8 * wanted > one.size for one, wanted in zip(packed, asked, strict=True)):
        return [], segments
    found = [_best(one, queries[0], wanted) for one, wanted in zip(packed, asked, strict=True)]
    leading = np.concatenate([scores for scores, _, _ in found])
    if len(leading) < k:
        return [], segments
    bound = np.float32(reach(leading, queries[0], k))
    pieces: list[Piece] = []
    rest = [one for one in segments if one.packed is None or one.size < MIN_ROWS]
    for segment, (scores, numbers, last) in zip(packed, found, strict=True):
        if last >= bound:
            rest.append(segment)
            continue
        # Best first, so those to keep come first.
        count = int(np.count_nonzero(scores >= bound))
        if count:
            pieces.append(_piece(segment, numbers[:count]))
    return pieces, rest


def _enough(share: float) -> int:
    """How many rows to ask for, of which `share` are expected: five standard deviations more."""
    return int(share + 5.0 * share**0.5) + 8


def _best(
    segment: Segment, query: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], float]:
    """Scores and rows of those that may be returned, and what all others score at most."""
    assert segment.packed is not None  # noqa: S101 - the caller has looked
    scores, rows = segment.packed.best(query, k, segment.size)
    last = float(scores[-1])
    passes = rows < segment.size
    if segment.mask is not None:
        passes[passes] = segment.mask[rows[passes]]
    return scores[passes], rows[passes], last


def _piece(segment: Segment, rows: NDArray[np.int64]) -> Piece:
    assert segment.columns is not None  # noqa: S101 - who has `packed` has these
    return Piece(segment.place, rows, segment.columns.take(rows, axis=1).T)
