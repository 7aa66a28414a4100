"""Vectors that are made up, each distribution stated: blocks of unit float32 rows.

How well a graph finds neighbours, and how fast, depends on how the vectors lie. No conclusion should
rest on one distribution, least of all on a made-up one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Blocks = Callable[[int, int, int, int], Iterator[Floats]]

BLOCK = 50_000
ROWS_A_CENTRE = 1_000
HIDDEN = 32  # dimensions that `subspace` really has


def clustered_blocks(count: int, dim: int, seed: int, rows: int) -> Iterator[Floats]:
    """Unit vectors around 1 centre in 1,000 rows, as observations of regimes would be.

    Centres are standard normal in all dimensions; a vector is a centre drawn evenly plus 0.7 of
    standard normal noise, normalised: cosine about 0.82 to its centre, 0.67 within a cluster.

    Args:
        count: How many vectors.
        dim: Their dimension.
        seed: Of the draws; the centres are the same for every seed.
        rows: Size of the whole set, which says how many centres there are (at least 8).
    """
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal(
        (max(8, rows // ROWS_A_CENTRE), dim), np.float32
    )
    for size in _sizes(count):
        part = centres[random.integers(0, len(centres), size)]
        part += np.float32(0.7) * random.standard_normal(part.shape, np.float32)
        yield _normalised(part)


def subspace_blocks(count: int, dim: int, seed: int, rows: int) -> Iterator[Floats]:
    """Unit vectors of few hidden dimensions, as embeddings tend to lie.

    sqrt(rows) clusters in 32 hidden dimensions, spread over all `dim`, and a little noise on top:
    harder for a graph than `clustered_blocks`, because neighbours of different clusters mix.

    Args:
        count: How many vectors.
        dim: Their dimension.
        seed: Of everything, the centres included.
        rows: Size of the whole set, which says how many centres there are (at least 8).
    """
    random = np.random.default_rng(seed)
    centres = random.standard_normal((max(8, int(rows**0.5)), HIDDEN), dtype=np.float32)
    spread = random.standard_normal((HIDDEN, dim), dtype=np.float32) / np.float32(HIDDEN**0.5)
    for size in _sizes(count):
        hidden = centres[random.integers(0, len(centres), size)]
        hidden += np.float32(0.5) * random.standard_normal(hidden.shape, dtype=np.float32)
        part = np.empty((size, dim), np.float32)
        np.matmul(hidden, spread, out=part)
        part += np.float32(0.1) * random.standard_normal(part.shape, dtype=np.float32)
        yield _normalised(part)


def gaussian_blocks(count: int, dim: int, seed: int, rows: int) -> Iterator[Floats]:
    """Unit vectors evenly in all directions: the worst case, where neighbours are hardly nearer.

    Args:
        count: How many vectors.
        dim: Their dimension.
        seed: Of the draws.
        rows: Not needed here.
    """
    random = np.random.default_rng(seed)
    for size in _sizes(count):
        yield _normalised(random.standard_normal((size, dim), np.float32))


def made(blocks: Blocks, rows: int, dim: int, seed: int) -> Floats:
    """All `rows` vectors of a generator at once, shape (rows, dim)."""
    return np.concatenate(list(blocks(rows, dim, seed, rows)))


def _sizes(count: int) -> Iterator[int]:
    for first in range(0, count, BLOCK):
        yield min(BLOCK, count - first)


def _normalised(part: Floats) -> Floats:
    part /= np.linalg.norm(part, axis=1, keepdims=True)
    return part
