"""How wide a graph has to be searched is measured on the graph."""

from __future__ import annotations

import numpy as np
import pytest

from nt_memory.tiers.vectors.index import Graph
from nt_memory.tiers.vectors.tuning import EFFORTS, tune


@pytest.fixture(scope="module")
def rows():
    """Vectors without any structure: what a graph finds hardest."""
    rows = np.random.default_rng(1).standard_normal((8_000, 160), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def graph(rows):
    graph = Graph(160, seed=7)
    graph.add(rows)
    return graph


def share_found(graph, queries, effort):
    """Of the ten nearest by their codes, how many a search so wide finds."""
    nearest, found = graph.scan(queries, 10), graph.search(queries, 10, effort=effort)
    return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(nearest, found, strict=True)])


def test_the_least_that_finds_enough_is_chosen(graph, rows):
    """More is asked for where more is wanted, and new queries find about as much as was asked."""
    chosen = [tune(graph, lambda some: rows[some], target=target) for target in (0.5, 0.9, 0.99)]
    assert chosen == sorted(chosen)
    assert chosen[0] == EFFORTS[0] < chosen[2]
    queries = np.random.default_rng(2).standard_normal((200, 160), np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    assert share_found(graph, queries, chosen[2]) > 0.95
    narrower = EFFORTS[EFFORTS.index(chosen[2]) - 1]
    assert share_found(graph, queries, narrower) < 0.99


def test_the_most_is_taken_where_nothing_is_enough(graph, rows):
    """A target that cannot be reached gives the widest search there is."""
    assert tune(graph, lambda some: rows[some], target=1.1) == EFFORTS[-1]


def test_it_can_be_stopped(graph, rows):
    """Whoever closes does not wait for it."""
    asked = 0

    def go_on():
        nonlocal asked
        asked += 1
        return asked < 5

    assert tune(graph, lambda some: rows[some], go_on=go_on) is None
    assert asked == 5


def test_it_says_the_same_again(graph, rows):
    """Nothing about it is left to chance."""
    assert len({tune(graph, lambda some: rows[some]) for _ in range(3)}) == 1
