"""How wide a graph has to be searched is measured on the graph."""

from __future__ import annotations

import numpy as np
import pytest

from nt_memory.tiers.vectors.index import Graph
from nt_memory.tiers.vectors.tuning import EFFORTS, least, new_vectors, tune


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


def test_no_breadth_is_spent_on_what_it_hardly_helps(graph, rows):
    """A target that cannot be reached gives the least breadth that twice as much adds little to."""
    chosen = tune(graph, lambda some: rows[some], target=1.1)
    assert chosen < EFFORTS[-1]
    queries = new_vectors(graph, lambda some: rows[some], 256)

    def gained(effort):
        return share_found(graph, queries, 2 * effort) - share_found(graph, queries, effort)

    assert gained(chosen) < 0.01
    narrower = chosen // 2
    while narrower >= EFFORTS[0]:
        assert gained(narrower) >= 0.01
        narrower //= 2


def test_the_breadth_is_found_to_a_step():
    """Of efforts a step apart the first that finds enough is chosen, with few looks at the graph."""
    for wanted in EFFORTS:
        looks = []

        def share(effort, wanted=wanted, looks=looks):
            looks.append(effort)
            return 0.98 if effort >= wanted else 0.5 + effort / 2e3

        assert least(share, 0.98) == wanted
        assert len(looks) <= 9


def test_queries_are_as_hard_as_new_vectors():
    """What is asked for is missed as often as new vectors are; the rows themselves hardly ever are."""
    random = np.random.default_rng(3)
    centres = random.standard_normal((60, 384), np.float32)
    vectors = centres[random.integers(0, 60, 12_300)]
    vectors += 0.7 * random.standard_normal(vectors.shape, np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kept, new = vectors[:12_000], vectors[12_000:]
    graph = Graph(384, seed=7)
    for first in range(0, 12_000, 2_000):
        graph.add(kept[first : first + 2_000])
    made = new_vectors(graph, lambda some: kept[some], 300)
    assert np.allclose(np.linalg.norm(made, axis=1), 1.0, atol=1e-5)
    of_made, of_new, of_rows = (
        1 - share_found(graph, queries, 16) for queries in (made, new, kept[::40])
    )
    assert of_new / 2 < of_made < 2 * of_new
    assert of_rows < of_new / 3


def test_a_graph_of_few_rows_is_measured_too():
    """One row, or rows that are all the same, give the least breadth and no error."""
    row = np.full((1, 8), 8**-0.5, np.float32)
    for count in (1, 2, 50):
        rows = np.repeat(row, count, axis=0)
        graph = Graph(8, seed=7)
        graph.add(rows)
        assert tune(graph, lambda some, rows=rows: rows[some], target=0.0) == EFFORTS[0]


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
