"""Several graphs of one partition: how widely each is searched, and by whom."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from nt_memory.tiers.vectors import NEVER, Tuning, VectorFiles, state
from nt_memory.tiers.vectors.chain import Chain
from nt_memory.tiers.vectors.columns import Columns
from nt_memory.tiers.vectors.growth import Outcome, Pace
from nt_memory.tiers.vectors.helping import Helper
from nt_memory.tiers.vectors.index import Graph
from nt_memory.tiers.vectors.saved import EFFORT_KEY, Saved
from nt_memory.tiers.vectors.sealed import Sealed
from nt_memory.tiers.vectors.snapshots import Content
from nt_memory.tiers.vectors.source import Source
from nt_memory.tiers.vectors.together import TOGETHER_KEY, efforts, tune_together
from nt_memory.tiers.vectors.tuning import EFFORTS
from nt_memory.tiers.vectors.visibility import visible

DIM = 160
ROWS = 4_000
HALF = ROWS // 2
TIMEOUT_S = 20.0
LEAST = EFFORTS[0]


def unit(rows: int, seed: int, dim: int = DIM) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, dim), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Without any structure: what graphs find hardest."""
    return unit(ROWS, 1)


@pytest.fixture(scope="module")
def graphs(vectors: np.ndarray) -> list[Graph]:
    """Two, over half of the rows each."""
    made = []
    for first in (0, HALF):
        graph = Graph(DIM, seed=7)
        graph.add(vectors[first : first + HALF])
        made.append(graph)
    return made


def parts_of(graphs: list[Graph], effort: int) -> list[Sealed]:
    parts = []
    for first, graph in zip((0, HALF), graphs, strict=True):
        graph.effort = effort
        parts.append(Sealed(first, first + HALF, graph, Content(), is_saved=True))
    return parts


def share_found(parts: list[Sealed], chosen: list[int], vectors: np.ndarray) -> float:
    """Of the ten nearest of all to new vectors, how many searches of all graphs find."""
    hits = 0
    queries = unit(200, 5)
    for query in queries:
        nearest = set(np.argsort(-(vectors @ query))[:10].tolist())
        for part, effort in zip(parts, chosen, strict=True):
            rows = part.graph.search(query[np.newaxis], 42, effort=effort).rows[0]
            hits += len(nearest & set(part.numbers(rows).tolist()))
    return hits / (10 * len(queries))


def test_graphs_that_are_searched_together_need_less(
    graphs: list[Graph], vectors: np.ndarray
) -> None:
    """Each is searched more narrowly than it would be alone, and together they find what was asked for."""
    parts = parts_of(graphs, 512)
    chosen = tune_together(parts, lambda rows: vectors[rows], target=0.9)
    assert chosen is not None
    assert set(chosen) < set(EFFORTS)
    assert max(chosen) < 512
    assert share_found(parts, chosen, vectors) > 0.85
    wider = tune_together(parts, lambda rows: vectors[rows], target=0.97)
    assert wider is not None
    assert min(wider) > max(chosen)


def test_what_they_miss_anyway_is_not_made_up_for(graphs: list[Graph], vectors: np.ndarray) -> None:
    """A target out of reach does not widen anything, and nothing is lost to it either."""
    parts = parts_of(graphs, 96)
    chosen = tune_together(parts, lambda rows: vectors[rows], target=1.1)
    assert chosen is not None
    assert max(chosen) <= 96
    lost = share_found(parts, [96, 96], vectors) - share_found(parts, chosen, vectors)
    assert lost < 0.02


def test_measuring_together_can_be_stopped(graphs: list[Graph], vectors: np.ndarray) -> None:
    """Whoever closes does not wait for it."""
    asked = 0

    def go_on() -> bool:
        nonlocal asked
        asked += 1
        return asked < 5

    assert tune_together(parts_of(graphs, 128), lambda rows: vectors[rows], go_on=go_on) is None
    assert asked == 5


def test_what_was_measured_counts_while_all_of_it_is_there(graphs: list[Graph]) -> None:
    """It is void once a graph is gone, holds when another came, and never widens a search."""
    one, two = parts_of(graphs, 128)
    three = Sealed(ROWS, ROWS + HALF, graphs[0], Content(), is_saved=True)
    assert efforts([one, two]) == ()
    two.content = Content(None, {TOGETHER_KEY: [[0, HALF, 96], [HALF, ROWS, 512]]})
    assert efforts([one, two]) == (96, 128)
    assert efforts([one, two, three]) == (96, 128, 128)
    assert efforts([two, three]) == ()
    assert efforts([]) == ()


# --- a partition of two graphs --------------------------------------------------------------------

SMALL = 16


@contextmanager
def searching(helper: Helper) -> Iterator[None]:
    helper.begin_search()
    try:
        yield
    finally:
        helper.end_search()


TUNING = Tuning(scan_values=SMALL * 64, batch=32, seed=5, arrange=32, publish=16, seal=128)
PACE = Pace(64, 1, 1)


class Store:
    """A chain over rows, of which no graph may take more than 256."""

    def __init__(self, path: Path, helper: Helper | None = None) -> None:
        self.path = path
        self.columns = Columns()
        self.files = VectorFiles(path / "rows")
        (path / "graphs").mkdir(exist_ok=True)
        self.helper = helper or Helper(2)
        self.open()

    def open(self) -> None:
        """As after a restart."""
        source = Source(self.files, 1, SMALL)
        saved = Saved(self.path / "graphs", source, 5, "test", read_only=False)
        self.chain = Chain(source, self.columns, saved, TUNING, 1, self.helper)

    def seal(self, rows: int, pace: Pace = PACE) -> None:
        """Append rows, as a graph of their own."""
        first = self.columns.view.rows
        self.files.write(1, SMALL, first, unit(rows, first, SMALL).astype("<f2").tobytes())
        ones = np.ones(rows, np.int64)
        self.columns.append(ones * (first + 1), ones * NEVER, None, ones)
        while self.chain.advance(first + rows, PACE, is_searched=False) is Outcome.MORE:
            pass
        with self.chain._change:
            self.chain._seal()
        while self.chain.tidy(pace) is Outcome.MORE and pace.go_on():
            pass

    def graphs(self) -> tuple[Sealed, ...]:
        self.chain.load()
        state = self.chain.state
        assert state is not None
        return state.sealed


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How widely graphs were asked to be searched."""
    found: list[int] = []
    find = Sealed.find

    def noting(self: Sealed, *asked) -> object:
        found.append(asked[-1])
        return find(self, *asked)

    monkeypatch.setattr(Sealed, "find", noting)
    return found


def test_graphs_are_measured_together_when_the_second_is_saved(tmp_path: Path) -> None:
    """What comes out is kept with it, and known after a restart."""
    store = Store(tmp_path)
    store.seal(200)
    assert TOGETHER_KEY not in store.graphs()[0].content.extra
    store.seal(180)
    for _ in range(2):
        one, two = store.graphs()
        assert one.graph.mapped_bytes
        assert two.content.extra[TOGETHER_KEY] == [[0, 200, LEAST], [200, 380, LEAST]]
        assert store.chain.state is not None
        assert store.chain.state.together == (LEAST, LEAST)
        store.open()


def test_a_small_graph_does_not_have_large_ones_measured_again(tmp_path: Path) -> None:
    """What is known of the large ones goes on to hold."""
    store = Store(tmp_path)
    store.seal(250)
    store.seal(240)
    store.seal(130)
    one, two, three = store.graphs()
    assert two.content.extra[TOGETHER_KEY] == [[0, 250, LEAST], [250, 490, LEAST]]
    assert TOGETHER_KEY not in three.content.extra
    assert store.chain.state is not None
    assert store.chain.state.together == (LEAST, LEAST, three.graph.effort)
    assert one.graph.effort == LEAST


def test_only_searches_of_all_of_it_are_narrower(tmp_path: Path, asked: list[int]) -> None:
    """As of a time at which one graph was all there was, behind a filter, or for more neighbours, each
    is searched as it needs alone."""
    store = Store(tmp_path)
    store.seal(200)
    store.seal(180)
    one, two = store.graphs()
    one.graph.effort = two.graph.effort = 150
    two.content = two.content._replace(
        extra=two.content.extra | {TOGETHER_KEY: [[0, 200, 100], [200, 380, 101]]}
    )
    store.chain._state = state.State.of((one, two))
    query = unit(1, 77, SMALL)
    view = store.columns.view

    def efforts_of(k: int = 10, time_us: int = 1_000, allow: np.ndarray | None = None) -> list[int]:
        asked.clear()
        store.chain.find(visible(view, time_us, 1, allow), query, k)
        return asked.copy()

    assert efforts_of() == [100, 101]
    assert efforts_of(k=11) == [150, 150]
    assert efforts_of(time_us=1) == [150]
    assert efforts_of(allow=np.arange(380) % 8 > 0) == [150, 150]


def test_a_measurement_that_was_stopped_is_made_up_for(tmp_path: Path) -> None:
    """A graph that was saved while the tier closed is not taken for measured."""
    store = Store(tmp_path)
    asked = 0

    def go_on() -> bool:
        nonlocal asked
        asked += 1
        return asked < 3

    store.seal(200, PACE._replace(go_on=go_on))
    assert EFFORT_KEY not in store.graphs()[0].content.extra
    store.open()
    store.chain.load()
    while store.chain.tidy(PACE) is Outcome.MORE:
        pass
    assert store.graphs()[0].content.extra[EFFORT_KEY] == EFFORTS[0]


# --- the second thread ----------------------------------------------------------------------------


def test_a_helper_finds_what_one_thread_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows in the same order, whoever searched which graph."""
    store = Store(tmp_path)
    for rows in (200, 180, 190):
        store.seal(rows)
    queries = unit(9, 3, SMALL)
    reach = visible(store.columns.view, 1_000, 1)
    store.chain.find(reach, queries[:1], 5)
    assert store.helper.helped == 0  # so little is not worth it
    monkeypatch.setattr(state, "_WORTH_HELP_NS", float("inf"))
    alone = store.chain.find(reach, queries, 5)
    monkeypatch.setattr(state, "_WORTH_HELP_NS", 0.0)
    helped = False
    for _ in range(1_000):  # a helper that does not get to it in time leaves it to whoever asks
        found = store.chain.find(reach, queries, 5)
        assert found.notes == alone.notes
        for mine, other in zip(found.rows, alone.rows, strict=True):
            assert [rows.tolist() for rows in mine] == [rows.tolist() for rows in other]
        helped = helped or store.helper.helped > 0
        if helped:
            break
    assert helped
    store.helper.close()


def test_a_row_of_costs_is_cut_where_the_greater_part_is_least() -> None:
    """Nothing is handed over of one graph, and a large one is not put together with others."""
    assert state._cut([]) == 0
    assert sorted({state._cut([5.0]), 0, 1}) == [0, 1]
    assert state._cut([1.0, 1.0, 2.0]) == 2
    assert state._cut([9.0, 1.0, 2.0, 3.0]) == 1


def test_what_another_thread_does_is_done_beside_one_s_own() -> None:
    """Each waits for the other here: done one after the other, they would not end."""
    helper = Helper(2)
    mine, other = threading.Event(), threading.Event()

    def first() -> str:
        mine.set()
        assert other.wait(TIMEOUT_S)
        return threading.current_thread().name

    def second() -> str:
        other.set()
        assert mine.wait(TIMEOUT_S)
        return threading.current_thread().name

    with searching(helper):
        here, there = helper.both(first, second)
    assert here == threading.current_thread().name
    assert there != here
    assert helper.helped == 1
    helper.close()


def test_nobody_waits_for_a_helper_that_is_held_up() -> None:
    """What it has not begun is done by whoever asked."""
    helper = Helper(2)
    begun, may_end = threading.Event(), threading.Event()
    pool = helper._free()
    assert pool is not None
    pool.submit(lambda: (begun.set(), may_end.wait(TIMEOUT_S)))
    assert begun.wait(TIMEOUT_S)
    try:
        thread = threading.get_ident()
        assert helper.both(threading.get_ident, threading.get_ident) == (thread, thread)
        assert helper.helped == 0
        assert helper._pause == 1
    finally:
        may_end.set()
        helper.close()


def test_a_helper_that_comes_late_is_left_alone_for_longer_and_longer() -> None:
    """Waited for half as long again as one's own part took: not asked again at once. In time: it is."""
    times: list[int] = []
    helper = Helper(2, lambda: times.pop(0))

    def was_asked(*readings: int) -> bool:
        times[:] = readings
        before = helper.helped
        helper.both(lambda: begun.wait(TIMEOUT_S), begun.set)
        begun.clear()
        return helper.helped > before

    begun = threading.Event()
    late, in_time = (0, 100, 151), (0, 100, 150)
    assert was_asked(*in_time)
    assert was_asked(*late)
    for pause in (1, 2, 4):
        for _ in range(pause):
            begun.set()
            assert not was_asked()
        if pause < 4:
            assert was_asked(*late)
    assert was_asked(*in_time)
    assert was_asked(*late)
    begun.set()
    assert not was_asked()
    assert was_asked(*in_time)
    helper.close()


@pytest.mark.parametrize("why", ["one processor", "two searches", "closed"])
def test_there_is_no_helper_where_it_would_be_in_the_way(why: str) -> None:
    """One processor, another search under way, or a tier that was closed: all is done by who asks."""
    helper = Helper(1 if why == "one processor" else 2)
    thread = threading.get_ident()
    if why == "closed":
        helper.close()
        helper.close()
    with searching(helper):
        if why == "two searches":
            with searching(helper):
                found = helper.both(threading.get_ident, threading.get_ident)
        else:
            found = helper.both(threading.get_ident, threading.get_ident)
    assert found == (thread, thread)
    assert helper._pool is None


def test_errors_of_either_thread_come_through() -> None:
    """A search fails as it would have on one thread."""
    helper = Helper(2)

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        helper.both(fail, lambda: None)
    with pytest.raises(ZeroDivisionError):
        helper.both(lambda: None, fail)
    helper.close()
