"""How widely rows are linked follows how hard they are to find, and is kept with the graph."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from nt_memory.tiers.vectors import breadth
from nt_memory.tiers.vectors.index import Graph
from nt_memory.tiers.vectors.tuning import examination

LOOK = 1 << 11


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Looks begin early, and ask for what is hard to find in so few rows."""
    monkeypatch.setattr(breadth, "FIRST_LOOK", LOOK)
    monkeypatch.setattr(breadth, "_EFFORT", 24)


def graph_of(rows, built_with=breadth.WIDE):
    graph = Graph(rows.shape[1], seed=7)
    graph.breadth = built_with
    graph.add(rows)
    return graph


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def hard():
    """No structure: the nearest are hardly nearer than others."""
    return unit(np.random.default_rng(1).standard_normal((2 * LOOK, 160)))


@pytest.fixture(scope="module")
def easy():
    """Few hidden dimensions."""
    random = np.random.default_rng(2)
    return unit(random.standard_normal((2 * LOOK, 4)) @ random.standard_normal((4, 160)))


def yes():
    return True


def test_looks_are_due_as_rows_double():
    """The first is at some thousand rows; two graphs of one size are not looked at twice."""
    sizes = range(0, 20 * LOOK, LOOK // 2)
    due = [after for before, after in itertools.pairwise(sizes) if breadth.is_due(before, after)]
    assert due == [LOOK, 2 * LOOK, 4 * LOOK, 8 * LOOK, 16 * LOOK]
    assert breadth.is_due(LOOK - 1, LOOK)
    assert breadth.is_due(100, 5 * LOOK)
    assert not breadth.is_due(LOOK, 2 * LOOK - 1)


def test_the_first_rows_are_linked_widely(easy):
    """Whatever they are like: there is no look at them; but for those that are added to a larger graph soon."""
    graph = Graph(easy.shape[1], seed=7)
    assert breadth.begun(graph, is_lasting=True) == breadth.WIDE
    assert breadth.begun(graph, is_lasting=False) == breadth.NARROW
    graph.add(easy[: LOOK - 1])
    assert breadth.begun(graph, is_lasting=True) == breadth.WIDE
    assert breadth.begun(graph, is_lasting=False) == breadth.NARROW


@pytest.mark.parametrize("is_lasting", [True, False])
def test_what_a_look_chose_goes_on_to_hold(easy, is_lasting):
    """Past the first look a graph keeps its breadth; an old one, of which none is known, is widened."""
    for level in (breadth.WIDE, breadth.NARROW, 80):
        assert breadth.begun(graph_of(easy[:LOOK], level), is_lasting=is_lasting) == level
    assert breadth.begun(graph_of(easy[:LOOK], 0), is_lasting=is_lasting) == breadth.WIDE


@pytest.mark.parametrize("now", [breadth.WIDE, breadth.NARROW, 80])
def test_rows_that_are_found_easily_are_linked_narrowly(easy, now):
    """At every look, however widely rows were linked before."""
    assert breadth.chosen(graph_of(easy, now), lambda at: easy[at], yes) == breadth.NARROW


@pytest.mark.parametrize("now", [breadth.WIDE, breadth.NARROW, 80])
def test_rows_that_are_missed_are_linked_widely(hard, now):
    """At every look, however widely rows were linked before."""
    graph = graph_of(hard, now)
    exam = examination(graph, lambda at: hard[at], 64, yes)
    assert exam.share(graph, breadth._EFFORT) < breadth._ENOUGH
    assert breadth.chosen(graph, lambda at: hard[at], yes) == breadth.WIDE


@pytest.mark.parametrize("now", [breadth.WIDE, breadth.NARROW, 80])
def test_a_look_that_is_cut_short_changes_nothing(hard, now):
    """Whoever is told to stop leaves things as they are."""
    assert breadth.chosen(graph_of(hard, now), lambda at: hard[at], lambda: False) == now


def test_it_is_what_rows_are_added_with(hard):
    """The number reaches the library: wider costs more links looked at, and finds more."""
    shares = []
    for level in (8, breadth.WIDE):
        graph = graph_of(hard, level)
        exam = examination(graph, lambda at: hard[at], 64, yes)
        shares.append(exam.share(graph, 32))
        assert graph._index.hnsw.efConstruction == level
        assert graph.clone().breadth == level
    assert shares[0] < shares[1]
