"""Several graphs asked together: few rows are left to be ranked, and none that belongs to the result is lost."""

from __future__ import annotations

import numpy as np
import pytest

from nt_memory.tiers.vectors import NEVER
from nt_memory.tiers.vectors.columns import Columns
from nt_memory.tiers.vectors.index import Graph
from nt_memory.tiers.vectors.sealed import Growing, Sealed
from nt_memory.tiers.vectors.snapshots import Content
from nt_memory.tiers.vectors.state import State
from nt_memory.tiers.vectors.visibility import visible

K, WANTED = 10, 26


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def even(seed: int, count: int, dim: int = 48) -> np.ndarray:
    """Rows around forty centres, the same for every seed."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(1).standard_normal((40, dim))
    return unit(centres[random.integers(0, 40, count)] + 0.5 * random.standard_normal((count, dim)))


def drifted(seed: int, count: int) -> np.ndarray:
    """Rows with some great values, where `even` ones have none that is half as great."""
    rows = even(seed, count, 192)
    rows[:, :3] = np.random.default_rng(seed).uniform(0.3, 1.2, (count, 3))
    return unit(rows)


def graph_of(*batches: np.ndarray, effort: int = 128) -> Graph:
    graph = Graph(batches[0].shape[1], seed=7)
    for batch in batches:
        graph.add(batch)
    graph.effort = effort
    return graph


def state_of(graphs: list[Graph], *, grows: bool = False) -> State:
    parts, first = [], 0
    for graph in graphs:
        parts.append(Sealed(first, first + graph.rows, graph, Content(), is_saved=True))
        first += graph.rows
    if not grows:
        return State.of(parts)
    last = parts.pop()
    return State.of(parts, Growing(last.first, last.graph))


def reach_of(rows: int, mask: np.ndarray | None = None):
    columns = Columns()
    ones = np.ones(rows, np.int64)
    columns.append(ones, ones * NEVER, None, ones)
    return visible(columns.view, 10, 10, mask)


def recall(rows: np.ndarray, found: list[np.ndarray], query: np.ndarray) -> float:
    """Which share of the ten nearest is among what was found."""
    given = np.concatenate(found)
    assert len(set(given.tolist())) == len(given)
    return len(set(np.argsort(-(rows @ query))[:K].tolist()) & set(given.tolist())) / K


@pytest.mark.parametrize("grows", [False, True])
@pytest.mark.parametrize(("how", "effort"), [("graph", 16), ("codes", 128)])
def test_several_graphs_leave_hardly_more_rows_than_one(how: str, effort: int, grows: bool) -> None:
    """And as good ones: the nearest by their codes of all, whichever graph they are in."""
    batches = [even(seed, 3_000) for seed in range(2, 6)]
    rows, queries = np.concatenate(batches), even(9, 60)
    graphs = [graph_of(batch, effort=effort) for batch in batches]
    found = state_of(graphs, grows=grows).find(reach_of(len(rows)), queries, K)
    assert [how for how, _ in found.notes] == [how] * 4
    for given in found.rows:
        assert WANTED <= sum(map(len, given)) <= WANTED + 3 * K
        assert len(given) == 1
    assert np.mean([recall(rows, *one) for one in zip(found.rows, queries, strict=True)]) > 0.98


def test_one_graph_has_what_is_near() -> None:
    """All that is wanted may be in one of them, and then it is all there."""
    near, far = even(2, 2_000), -even(3, 2_000)
    found = state_of([graph_of(far), graph_of(near)]).find(reach_of(4_000), even(9, 60), K)
    for given in found.rows:
        (mine,) = given
        assert (mine >= 2_000).sum() == WANTED
        assert (mine < 2_000).sum() == K


def test_what_the_codes_of_one_graph_do_not_reach_drives_nothing_out() -> None:
    """Its rows seem nearer than they are: clipped, their greatest values are all alike."""
    batches = [even(2, 400, 192), drifted(3, 2_000)], [drifted(4, 2_000)]
    rows, queries = np.concatenate([row for part in batches for row in part]), drifted(9, 200)
    state = state_of([graph_of(*part) for part in batches])
    clipped, reached = (part.graph.search(queries, K, effort=128) for part in state.sealed)
    assert clipped.distances.mean() < 0.9 * reached.distances.mean()
    reach = reach_of(len(rows))
    asked = [part.find(reach, queries, K) for part in state.sealed]
    alone = [[one.rows[number] for one in asked if one] for number in range(len(queries))]
    together = state.find(reach, queries, K).rows
    had, kept = (
        np.mean([recall(rows, *one) for one in zip(found, queries, strict=True)])
        for found in (alone, together)
    )
    assert kept >= had - 0.015
    assert had > 0.98


def test_with_a_filter_each_graph_gives_its_own() -> None:
    """Its searches go as wide as what passes asks for, and give no distances."""
    batches = [even(seed, 1_500) for seed in (2, 3)]
    rows, queries = np.concatenate(batches), even(9, 30)
    mask = np.random.default_rng(3).random(len(rows)) < 0.5
    state = state_of([graph_of(batch) for batch in batches])
    found = state.find(reach_of(len(rows), mask), queries, K)
    rows = np.where(mask[:, np.newaxis], rows, -queries.mean(axis=0))
    for given, query in zip(found.rows, queries, strict=True):
        assert len(given) == 2
        assert mask[np.concatenate(given)].all()
        assert recall(rows, given, query) >= 0.8
