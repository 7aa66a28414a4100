"""Rows compared by faiss where they lie, float16 values or codes. `index` has the rest of what faiss is asked.

Relied on, of faiss 1.15: `scan_codes` compares a row's score with the worst of a heap that the caller gives it, replaces
it by a better one, releases the GIL, and numbers rows `list << 32 | place`.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from nt_memory.tiers.vectors.library import faiss

if TYPE_CHECKING:
    from numpy.typing import NDArray

_thread = threading.local()
_PLACE = 0xFFFFFFFF


class _Scan:
    """One query, compared with rows of any number of arrays; the best of all are kept. One thread."""

    def __init__(self, kind: int, metric: int, query: NDArray[np.float32], k: int) -> None:
        self._k = k
        self._query = query  # the scanner points to it
        worst = -np.inf if metric == faiss.METRIC_INNER_PRODUCT else np.inf
        self._scores = np.full(k, worst, np.float32)
        self._rows = np.full(k, -1, np.int64)
        self._scanner = _scanner(kind, metric, len(query))
        self._scanner.set_query(faiss.swig_ptr(query))

    def _take(self, number: int, rows: NDArray[np.uint8]) -> None:
        if not len(rows):
            return
        self._scanner.set_list(number, 0.0)
        scores, places = faiss.swig_ptr(self._scores), faiss.swig_ptr(self._rows)
        self._scanner.scan_codes(len(rows), faiss.swig_ptr(rows), None, scores, places, self._k)


class HalfScan(_Scan):
    """One query, compared with float16 rows of any number of arrays; the best of all are kept. One thread.

    A bound for all arrays is found sooner than one for each, and less is kept on the way: at 20 x 50,000 rows
    of 16 values the best 300 of all take 1.65 ms, where the best 43 of each took 1.9.

    Args:
        query: Shape (dim,).
        k: How many rows to keep; the best ones.
    """

    def __init__(self, query: NDArray[np.float32], k: int) -> None:
        wide = np.zeros(half_width(len(query)), np.float32)
        wide[: len(query)] = query
        super().__init__(faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, wide, k)

    def take(self, number: int, rows: NDArray[np.float16]) -> None:
        """Compare with rows, shape (n, `half_width(dim)`), contiguous; they go by `number` in `found`.

        Scores are of rows as they are stored, and off by no more than a sum of float32 products.
        """
        self._take(number, rows.view(np.uint8))

    def found(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], float]:
        """Numbers of arrays, places in them and scores of what was kept; and what all others score at most."""
        is_full = bool((self._rows >= 0).all())
        some = slice(None) if is_full else self._rows >= 0
        rows, scores = self._rows[some], self._scores[some]
        least = float(scores.min()) if is_full else -np.inf
        return rows >> 32, rows & _PLACE, scores, least


class CodeScan(_Scan):
    """One query, compared with codes of one byte a value; the nearest by Euclidean distance are kept. One thread.

    Args:
        query: As `Codes.written` says, shape (width,).
        k: How many rows to keep.
    """

    def __init__(self, query: NDArray[np.float32], k: int) -> None:
        super().__init__(faiss.ScalarQuantizer.QT_8bit_direct, faiss.METRIC_L2, query, k)

    def take(self, number: int, rows: NDArray[np.uint8]) -> None:
        """Compare with rows, shape (n, width), contiguous; they go by `number` in `found`."""
        self._take(number, rows)

    def found(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Numbers of arrays, places in them, and squared distances of what was kept, nearest first."""
        order = np.lexsort((self._rows, self._scores))
        order = order[self._rows[order] >= 0]
        rows = self._rows[order]
        return rows >> 32, rows & _PLACE, self._scores[order]


def half_width(dim: int) -> int:
    """Values in a row for `HalfScan`: up to a multiple of 8, which faiss compares four times as fast."""
    return -(-dim // 8) * 8


def _scanner(kind: int, metric: int, width: int) -> Any:
    # One a thread, kind and width, for good: faiss hands it over without a way to give it back.
    kept = cast("dict[Any, tuple[Any, Any]]", _thread.__dict__.setdefault("scanners", {}))
    if (kind, width) not in kept:
        quantizer = faiss.ScalarQuantizer(width, kind)
        numbers_rows_itself, by_residual = True, False
        scanner = quantizer.select_InvertedListScanner(
            metric, None, numbers_rows_itself, None, by_residual
        )
        kept[kind, width] = (scanner, quantizer)
    return kept[kind, width][0]


def widen(half: NDArray[np.float16]) -> NDArray[np.float32]:
    """Float32 copy of contiguous float16 rows (n, dim). Exact; twice as fast as `astype`."""
    rows, dim = half.shape
    wide = np.empty((rows, dim), np.float32)
    if rows:
        quantizer = faiss.ScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16)
        codes = np.ascontiguousarray(half).view(np.uint8)
        use_threads(1)
        quantizer.decode_c(faiss.swig_ptr(codes), faiss.swig_ptr(wide), rows)
    return wide


def use_threads(count: int) -> None:
    """What faiss does on this thread from now on takes so many threads, where it takes any."""
    if getattr(_thread, "count", None) != count:
        faiss.omp_set_num_threads(count)
        _thread.count = count
