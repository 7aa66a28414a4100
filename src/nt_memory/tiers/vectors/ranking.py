"""From candidates to ranked rows: final scores, one list a query.

A row is scored in float64, by itself: a product of a float16 and a float32 is exact there, and the sum
runs over one row in one order, so a row's score depends on nothing but the row and the query. Rounding to
float16 changes a row's length too; the score is divided by the length of the row as stored, or rows would
be ranked by their rounding where all are similar.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_CHUNK_VALUES = 1 << 20


class Candidates(NamedTuple):
    """Rows found for one query, best first; ties by partition and row. All shape (c,).

    Attributes:
        partition: Partition ids.
        row: Row numbers.
        score: Cosine similarities in [-1, 1].
        is_ambiguous: Rows that ended in time, but by an entry after the search's revision.
    """

    partition: NDArray[np.int64]
    row: NDArray[np.int64]
    score: NDArray[np.float64]
    is_ambiguous: NDArray[np.bool_]


class Piece(NamedTuple):
    """Rows of one partition that may be among the best for one query.

    Attributes:
        place: Which of the search's partitions.
        rows: Row numbers, shape (c,), each once.
        vectors: Their vectors, shape (c, dim).
    """

    place: int
    rows: NDArray[np.int64]
    vectors: NDArray[np.float16] | NDArray[np.float32]


def rank(
    pieces: Sequence[Piece], query: NDArray[np.float32], k: int, ids: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The best `k` rows and exact ties with the last: places, rows and scores, best first.

    Args:
        pieces: Rows to choose from, each once.
        query: Shape (dim,).
        k: Wanted rows.
        ids: Partition id of each place, for breaking ties.
    """
    if len(pieces) == 1:
        return _rank_one(pieces[0], query, k)
    sizes = [len(piece.rows) for piece in pieces]
    count = sum(sizes)
    places = np.repeat(np.array([piece.place for piece in pieces], np.int64), sizes)
    rows = np.concatenate([np.empty(0, np.int64), *(piece.rows for piece in pieces)])
    scores = np.empty(count, np.float64)
    ends = itertools.accumulate(sizes)
    if count * len(query) <= _CHUNK_VALUES:
        # Together, as a call for each of many pieces takes longer than what it does.
        wide = np.empty((count, len(query)), np.float64)
        for piece, end in zip(pieces, ends, strict=True):
            wide[end - len(piece.rows) : end] = piece.vectors
        _cosines(wide, query.astype(np.float64), scores)
    else:
        for piece, end in zip(pieces, ends, strict=True):
            _cosines_in_steps(piece.vectors, query, scores[end - len(piece.rows) : end])
    order = _leading(np.lexsort((rows, ids[places], -scores)), scores, k)
    return places[order], rows[order], scores[order]


def _rank_one(
    piece: Piece, query: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The same of one piece, as most searches have: half of the calls."""
    place, rows, vectors = piece
    scores = np.empty(len(rows), np.float64)
    _cosines_in_steps(vectors, query, scores)
    order = _leading(np.lexsort((rows, -scores)), scores, k)
    return np.full(len(order), place, np.int64), rows[order], scores[order]


def _leading(order: NDArray[np.int64], scores: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """The first `k` of an order by scores, and exact ties with the last."""
    if len(order) <= k:
        return order
    ranked = scores[order]
    is_among: NDArray[np.bool_] = ranked >= ranked[k - 1]
    return order[is_among]


def _cosines_in_steps(
    vectors: NDArray[np.float16 | np.float32],
    query: NDArray[np.float32],
    out: NDArray[np.float64],
) -> None:
    """As `_cosines`, of many rows as stored."""
    wide = query.astype(np.float64)
    step = max(1, _CHUNK_VALUES // len(query))
    for at in range(0, len(vectors), step):
        # In C order: how numpy sums a row depends on how it lies in memory.
        part = vectors[at : at + step].astype(np.float64, order="C")
        _cosines(part, wide, out[at : at + step])


def _cosines(
    vectors: NDArray[np.float64], query: NDArray[np.float64], out: NDArray[np.float64]
) -> None:
    """Final scores, shape (n,), of rows, shape (n, dim), in C order; each depends on its row alone."""
    # `einsum` multiplies and sums in one pass, and unlike BLAS (`vecdot`) it does so in the same order on
    # every processor.
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    np.divide(np.einsum("ij,j->i", vectors, query), lengths, out=out)
    np.minimum(out, 1.0, out=out)  # `clip` takes three times as long to begin
    np.maximum(out, -1.0, out=out)
