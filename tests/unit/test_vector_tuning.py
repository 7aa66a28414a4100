"""How wide a graph has to be searched is measured on the graph."""

from __future__ import annotations

import numpy as np
import pytest

from nt_memory.tiers.vectors.index import Graph
from nt_memory.tiers.vectors.tuning import EFFORTS, examination, least, sample, tune


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
    nearest, found = graph.scan(queries, 10).rows, graph.search(queries, 10, effort=effort).rows
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
    exam = examination(graph, lambda some: rows[some], 256, lambda: True)

    def gained(effort):
        return exam.share(graph, 2 * effort) - exam.share(graph, effort)

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


@pytest.mark.parametrize("breadth", [40, 112])
def test_new_vectors_are_missed_at_most_thrice_as_often(breadth):
    """So what the exam asks of rows, 0.98, keeps what is promised of new vectors, 0.95, with some to spare."""
    random = np.random.default_rng(3)
    centres = random.standard_normal((60, 384), np.float32)
    vectors = centres[random.integers(0, 60, 12_300)]
    vectors += 0.7 * random.standard_normal(vectors.shape, np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kept, new = vectors[:12_000], vectors[12_000:]
    graph = Graph(384, seed=7)
    graph.breadth = breadth
    for first in range(0, 12_000, 2_000):
        graph.add(kept[first : first + 2_000])
    exam = examination(graph, lambda some: kept[some], 600, lambda: True)
    chosen = least(lambda effort: exam.share(graph, effort), 0.98)
    assert share_found(graph, new, chosen) > 0.95
    narrow = 12
    assert 1 - share_found(graph, new, narrow) > 1 - exam.share(graph, narrow) > 0


def test_rows_are_asked_for_their_neighbours_alone(graph, rows):
    """A row is among its own nearest, and finding it again says nothing: it is left out."""
    exam = examination(graph, lambda some: rows[some], 50, lambda: True)
    assert exam.rows.tolist() == sample(8_000, 50).tolist()
    assert np.array_equal(exam.queries, rows[exam.rows])
    for row, nearest in zip(exam.rows.tolist(), exam.nearest, strict=True):
        assert row not in nearest
        assert len(nearest) == 10
        best = np.argsort(-(rows @ rows[row]))[1:4]
        assert set(best.tolist()) <= nearest | {row}


def test_a_sample_is_even():
    """Each row once, the first and the last among them; all, if there are no more."""
    assert sample(10, 4).tolist() == [0, 3, 6, 9]
    assert sample(3, 8).tolist() == [0, 1, 2]
    assert sample(1, 8).tolist() == [0]


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


def test_more_is_asked_of_small_graphs(graph, rows, monkeypatch):
    """Their searches are narrow, and miss more of what is new; it costs little to ask."""

    def chosen(**how):
        return tune(graph, lambda some: rows[some], **how)

    assert chosen() == chosen(target=0.995) > chosen(target=0.98)
    monkeypatch.setattr("nt_memory.tiers.vectors.tuning._SMALL", len(rows))
    assert chosen() == chosen(target=0.98)
