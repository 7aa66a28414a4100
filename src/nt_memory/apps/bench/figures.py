"""What is made of measurements: percentiles, recall, and a duration one can read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

K = 10
BLOCK = 20_000
WARM_UP = 50
MIN_SAMPLES = 20


def percentiles(samples: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """p50, p95, p99 and the count, in the unit of the samples."""
    p50, p95, p99 = np.percentile(np.asarray(samples, dtype=np.float64), [50, 95, 99])
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "n": len(samples)}


def duration(seconds: float) -> str:
    """A duration with three digits and a readable unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def megabytes(size: float | None) -> str:
    """Bytes as whole megabytes of 10^6; a dash where they could not be read."""
    return "–" if size is None else f"{size / 1e6:,.0f} MB"


def recall(found: Iterable[Iterable[int]], truth: Iterable[Iterable[int]]) -> float:
    """Mean share of the true neighbours that were found, 0 to 1.

    Args:
        found: For each query, the row numbers that were returned; what comes twice counts once.
        truth: For each query, the row numbers of its true neighbours, as many as there can be. A
            query without any counts as found.
    """
    shares: list[float] = []
    for mine, best in zip(found, truth, strict=True):
        true = {int(row) for row in best}
        shares.append(len(true.intersection(map(int, mine))) / len(true) if true else 1.0)
    return float(np.mean(shares))


def true_neighbours(
    vectors: Floats, queries: Floats, k: int, rows: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """The `k` rows of greatest inner product with each query, best first, by exact scan.

    Args:
        vectors: Shape (n, dim), may be a memory map; read in blocks.
        queries: Shape (m, dim).
        k: How many.
        rows: Ascending row numbers to choose from; None for all.

    Returns:
        Row numbers, shape (m, min(k, candidates)); ties by row.
    Cost: m * n * dim multiplications; 80 MB of scores for 1,000 queries.
    """
    count = len(vectors) if rows is None else len(rows)
    best = np.empty((len(queries), 0), np.float32)
    where = np.empty((len(queries), 0), np.int64)
    for first in range(0, count, BLOCK):
        stop = min(count, first + BLOCK)
        chosen = np.arange(first, stop) if rows is None else rows[first:stop]
        block = vectors[first:stop] if rows is None else vectors[chosen]
        scores = queries @ np.asarray(block, np.float32).T
        kept = min(k, stop - first)
        top = np.argpartition(-scores, kept - 1, axis=1)[:, :kept]
        best = np.hstack([best, np.take_along_axis(scores, top, axis=1)])
        where = np.hstack([where, chosen[top]])
        order = np.lexsort((where, -best), axis=1)[:, :k]
        best = np.take_along_axis(best, order, axis=1)
        where = np.take_along_axis(where, order, axis=1)
    return where


def timed_calls(
    search: Callable[[Floats], Sequence[int]], queries: Floats, limit_s: float
) -> tuple[list[float], list[Sequence[int]]]:
    """Time one search after another, warm.

    Args:
        search: Answers one query with row numbers.
        queries: Shape (m, dim).
        limit_s: Stop after so long, but not before `MIN_SAMPLES` were timed.

    Returns:
        Seconds of each search, and what it found; fewer than m when the time ran out.
    """
    begun = time.perf_counter()
    for query in queries[:WARM_UP]:
        search(query)
        if time.perf_counter() - begun > limit_s / 4:
            break
    samples: list[float] = []
    found: list[Sequence[int]] = []
    begun = time.perf_counter()
    for query in queries:
        start = time.perf_counter()
        rows = search(query)
        end = time.perf_counter()
        samples.append(end - start)
        found.append(rows)
        if end - begun > limit_s and len(samples) >= MIN_SAMPLES:
            break
    return samples, found


def point(
    samples: Sequence[float], found: Sequence[Sequence[int]], truth: NDArray[np.int64]
) -> dict[str, Any]:
    """Percentiles and recall of the searches that were made, the first `len(found)` queries."""
    return percentiles(samples) | {"recall": recall(found, truth[: len(found)])}


def fitted_exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The exponent b of cost = a · size^b, by least squares of the logarithms.

    Args:
        sizes: At least two, all above 0, not all the same.
        costs: One for each, above 0.
    """
    slope, _ = np.polyfit(np.log(np.asarray(sizes, float)), np.log(np.asarray(costs, float)), 1)
    return float(slope)
