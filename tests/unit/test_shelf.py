"""Patterns laid out for questions."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from nt_memory.reasoningbank.shelf import NEAREST, Shelf


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 500])
def test_the_nearest_patterns_are_those_of_a_full_sort(count):
    """Nearest first, and of those equally near the first laid out, however many there are or tie."""
    rng = np.random.default_rng(count)
    for values in (3, 1_000_000):
        middles = rng.integers(values, size=(count, 2)).astype(np.float64)
        shelf = Shelf([], list(range(count)), middles, [], np.empty((0, 2)))
        for query in np.array([[1.0, 0.0], [-1.0, 2.0], [0.0, 0.0]]):
            scores = np.sum(middles * query, axis=1)
            ordered = sorted(range(count), key=lambda one: (-scores[one], one))
            assert shelf.nearest(SimpleNamespace(query=query)) == tuple(ordered[:NEAREST])
