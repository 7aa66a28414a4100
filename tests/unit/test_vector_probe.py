"""Which way a graph is asked for what passes a filter, and that none of them misses much."""

from __future__ import annotations

import numpy as np
import pytest

from nt_memory.tiers.vectors import NEVER
from nt_memory.tiers.vectors.columns import Columns
from nt_memory.tiers.vectors.index import Graph
from nt_memory.tiers.vectors.probe import probe
from nt_memory.tiers.vectors.visibility import visible

ROWS, DIM, K = 12_000, 32, 10


@pytest.fixture(scope="module")
def rows():
    """Sixty clusters, so that a search from one does not come by most of the others."""
    random = np.random.default_rng(1)
    centres = random.standard_normal((60, DIM), np.float32)
    rows = centres[random.integers(0, 60, ROWS + 40)]
    rows += 0.3 * random.standard_normal(rows.shape, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def graph(rows):
    graph = Graph(DIM, seed=7)
    graph.add(rows[:ROWS])
    graph.effort = 64
    return graph


def reach_of(mask):
    columns = Columns()
    ones = np.ones(ROWS, np.int64)
    columns.append(ones, ones * NEVER, None, ones)
    return visible(columns.view, 10, 10, mask)


def recall(rows, found, query, mask):
    scores = rows[:ROWS] @ query
    nearest = np.argsort(np.where(mask, -scores, np.inf))[:K]
    assert mask[found].all()
    best = found[np.argsort(-scores[found])[:K]]
    return len(set(best) & set(nearest)) / K


@pytest.mark.parametrize("is_arranged", [False, True])
@pytest.mark.parametrize("share", [0.6, 0.3, 0.1, 0.03])
@pytest.mark.parametrize("where", ["far", "near", "anywhere"])
def test_a_filter_costs_no_recall(graph, rows, where, share, is_arranged):
    """What passes may follow the data, and lie far from the query."""
    graph = graph.arrange() if is_arranged else graph
    found = []
    for query in rows[ROWS:]:
        order = rows[:ROWS] @ query
        if where == "anywhere":
            order = np.random.default_rng(3).random(ROWS)
        count = int(share * ROWS)
        some = np.argsort(order if where == "far" else -order)[:count]
        mask = np.zeros(ROWS, np.bool_)
        mask[some] = True
        (nearest,) = probe(graph, reach_of(mask), query[np.newaxis], K).rows
        assert len(nearest) >= K
        found.append(recall(rows, nearest, query, mask))
    assert np.mean(found) >= 0.97
    assert np.min(found) >= 0.7


def test_codes_are_compared_where_that_is_not_much_dearer(graph, rows, monkeypatch):
    """Since they miss nothing, where a wide search may."""
    query = rows[ROWS:][:1]
    mask = np.random.default_rng(3).random(ROWS) < 0.3
    monkeypatch.setattr("nt_memory.tiers.vectors.probe._SURER", 1e-3)
    assert probe(graph, reach_of(mask), query, K).how == "graph"
    monkeypatch.setattr("nt_memory.tiers.vectors.probe._SURER", 1e9)
    by_codes = probe(graph, reach_of(mask), query, K)
    assert by_codes.how == "codes"
    assert recall(rows, by_codes.rows[0], query[0], mask) == 1.0


def test_a_search_that_finds_few_is_followed_by_another_way(graph, rows):
    """Fewer than half of what is ranked beyond the wanted are the fringe of what a search has reached."""
    query = rows[ROWS:][:1]
    near = np.argsort(-(rows[:ROWS] @ query[0]))
    mask = np.zeros(ROWS, np.bool_)
    mask[near[:14]] = True
    mask[near[-3_000:]] = True
    found = probe(graph, reach_of(mask), query, K)
    assert found.how == "codes"
    assert recall(rows, found.rows[0], query[0], mask) == 1.0


def test_where_searches_have_to_be_wide_codes_are_compared():
    """Vectors that are even in all directions: the graph misses much of them, the codes nothing, and as soon."""
    rows = np.random.default_rng(5).standard_normal((ROWS + 40, 96), np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    graph = Graph(96, seed=7)
    graph.breadth = 40
    graph.add(rows[:ROWS])
    everything = np.ones(ROWS, np.bool_)
    found = {}
    for effort in (64, 768):
        asked = [
            probe(graph, reach_of(None), query[np.newaxis], K, effort) for query in rows[ROWS:]
        ]
        assert {one.how for one in asked} == {"graph" if effort == 64 else "codes"}
        found[effort] = np.mean(
            [
                recall(rows, one.rows[0], query, everything)
                for one, query in zip(asked, rows[ROWS:], strict=True)
            ]
        )
    assert found[64] < 0.9
    assert found[768] > 0.999


@pytest.mark.parametrize("passing", [400, 150, 60, 12])
def test_of_few_rows_no_more_are_scored_than_worthwhile(passing):
    """All of a small graph, or the few that pass: those nearest by their codes are enough, and cost less."""
    random = np.random.default_rng(2)
    wide = random.standard_normal((401, 384), np.float32)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    small = Graph(384, seed=7)
    small.add(wide[:400])
    columns, ones = Columns(), np.ones(400, np.int64)
    columns.append(ones, ones * NEVER, None, ones)
    mask = None
    if passing < 400:
        mask = np.zeros(400, np.bool_)
        mask[random.choice(400, passing, replace=False)] = True
    asked = probe(small, visible(columns.view, 10, 10, mask), wide[400:], K)
    (found,) = asked.rows
    passes = np.ones(400, np.bool_) if mask is None else mask
    nearest = np.argsort(np.where(passes, -wide[:400] @ wide[400], np.inf))[:K]
    assert set(nearest) <= set(found)
    assert passes[found].all()
    assert (asked.how, len(found)) == (("rows", passing) if passing < 100 else ("codes", 26))
