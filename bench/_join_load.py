"""What `bench/join.py` loads: observations that any process makes again from their numbers, in no memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

AGENT = "bench"
AT_ONCE = 5_000
HIDDEN = 32
CENTRES = 1_000


def key_of(number: int) -> str:
    """Key of an observation."""
    return f"o/{number:08d}"


def block_of(first: int, size: int, dim: int) -> np.ndarray:
    """Unit float32 vectors of few hidden dimensions, shape (size, dim); as `subspace_blocks`, by block."""
    shared = np.random.default_rng(7)
    centres = shared.standard_normal((CENTRES, HIDDEN), dtype=np.float32)
    spread = shared.standard_normal((HIDDEN, dim), dtype=np.float32) / np.float32(HIDDEN**0.5)
    random = np.random.default_rng([7, first])
    hidden = centres[random.integers(0, CENTRES, size)]
    hidden += np.float32(0.5) * random.standard_normal(hidden.shape, dtype=np.float32)
    found = hidden @ spread
    found += np.float32(0.1) * random.standard_normal(found.shape, dtype=np.float32)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def vectors(n: int, dim: int) -> Iterator[tuple[int, np.ndarray]]:
    """All of them in blocks, each with the number of its first."""
    for first in range(0, n, AT_ONCE):
        yield first, block_of(first, min(AT_ONCE, n - first), dim)


def query_of(n: int, dim: int, count: int) -> Iterator[tuple[int, np.ndarray]]:
    """Some observations from all over, and their vectors."""
    chosen = np.unique(np.linspace(0, n - 1, count, dtype=np.int64))
    for first in np.unique(chosen // AT_ONCE) * AT_ONCE:
        block = block_of(int(first), min(AT_ONCE, n - int(first)), dim)
        for number in chosen[(chosen >= first) & (chosen < first + len(block))]:
            yield int(number), block[number - first].copy()  # a view would keep the block
