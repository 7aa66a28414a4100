"""The chain of graphs of a live partition: growing, sealing, saving, merging, and what is left out."""

from __future__ import annotations

import os
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nt_memory.tiers.vectors import NEVER, Tuning, VectorFiles, VectorTier, breadth, partition_of
from nt_memory.tiers.vectors import snapshots as snapshot_files
from nt_memory.tiers.vectors.backlog import Backlog
from nt_memory.tiers.vectors.chain import Chain
from nt_memory.tiers.vectors.columns import Columns
from nt_memory.tiers.vectors.growth import Outcome, Pace
from nt_memory.tiers.vectors.index import Graph
from nt_memory.tiers.vectors.merging import Plan, Shape, plan
from nt_memory.tiers.vectors.partition import Partition, Placement
from nt_memory.tiers.vectors.saved import Saved
from nt_memory.tiers.vectors.snapshots import (
    Content,
    Description,
    is_snapshot_whole,
    read_snapshot,
    write_snapshot,
)
from nt_memory.tiers.vectors.source import Source
from nt_memory.tiers.vectors.visibility import visible

DIM = 16
TUNING = Tuning(scan_values=DIM * 64, batch=32, seed=5, arrange=32, publish=16, seal=128)
PACE = Pace(64, 1, 1)
TIMEOUT_S = 20.0


def unit(rows: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("<f2")


class Store:
    """A partition's rows and a chain over them, driven by hand; `open` as after a restart."""

    def __init__(self, path: Path, **options) -> None:
        self.path = path
        self.options = {"read_only": False, "max_bytes": 1 << 30} | options
        self.files = VectorFiles(path / "rows")
        self.columns = Columns()
        self.vectors = np.empty((0, DIM), "<f2")
        (path / "graphs").mkdir(exist_ok=True)
        self.open()

    def open(self) -> None:
        source = Source(self.files, 1, DIM)
        read_only = self.options["read_only"]
        saved = Saved(self.path / "graphs", source, 5, "test", read_only=read_only)
        self.chain = Chain(source, self.columns, saved, TUNING, self.options["max_bytes"])

    def append(self, vectors: np.ndarray, at: int = 1) -> None:
        first, count = len(self.vectors), len(vectors)
        self.files.write(1, DIM, first, vectors.tobytes())
        self.vectors = np.concatenate([self.vectors, vectors])
        revision = np.full(count, at)
        self.columns.append(np.full(count, at), np.full(count, NEVER), None, revision)

    def end(self, rows: np.ndarray, at: int) -> None:
        for row in rows.tolist():
            self.columns.end(row, at, at)

    def index(self, *, is_searched: bool) -> None:
        rows = self.columns.view.rows
        while self.chain.advance(rows, PACE, is_searched=is_searched) is Outcome.MORE:
            pass

    def tidy(self) -> None:
        while self.chain.tidy(PACE) is Outcome.MORE:
            pass

    def sealed(self, rows: int, seed: int, at: int = 1) -> None:
        """Append rows and seal them."""
        self.append(unit(rows, seed), at)
        self.index(is_searched=False)
        with self.chain._change:
            self.chain._seal()

    def parts(self) -> list[tuple[int, int]]:
        self.chain.load()
        state = self.chain.state
        assert state is not None
        return [(part.first, part.stop) for part in state.sealed]

    def names(self) -> list[str]:
        return sorted(path.name for path in (self.path / "graphs").iterdir())

    def recall(self, at: int = 100, queries: int = 20, k: int = 5) -> float:
        """Of the graphs and the scan of what they leave, against everything visible."""
        reach = visible(self.columns.view, at, at)
        mask = reach.full_mask()
        seen = np.arange(reach.prefix) if mask is None else np.flatnonzero(mask)
        asked = unit(queries, 99).astype("f4")
        found = self.chain.find(reach, asked, k)
        shared = 0
        for query, parts in zip(asked, found.rows, strict=True):
            rows = [row for part in parts for row in part.tolist()]
            assert len(rows) == len(set(rows))
            for gap in found.gaps:
                rows += range(gap.first, gap.stop) if gap.rows is None else gap.rows.tolist()
            assert len(rows) == len(set(rows))
            assert set(rows) & set(seen.tolist()) <= set(seen.tolist())
            best = seen[np.argsort(-(self.vectors[seen].astype("f4") @ query))[:k]]
            shared += len(set(best.tolist()) & set(rows))
        return shared / (queries * min(k, len(seen)))


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """How many rows were added to graphs."""
    counts: Counter = Counter()
    add = Graph.add

    def counting(self: Graph, vectors: np.ndarray, *, threads: int = 1) -> None:
        counts["rows"] += len(vectors)
        add(self, vectors, threads=threads)

    monkeypatch.setattr(Graph, "add", counting)
    return counts


# --- growing --------------------------------------------------------------------------------------


def test_searches_do_not_wait_for_adds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While rows are being added to a partition that is searched, searches come back."""
    store = Store(tmp_path)
    store.append(unit(100))
    store.index(is_searched=True)
    store.append(unit(40, 1))
    add, is_adding, may_end = Graph.add, threading.Event(), threading.Event()

    def slow(self: Graph, vectors: np.ndarray, *, threads: int = 1) -> None:
        is_adding.set()
        assert may_end.wait(TIMEOUT_S)
        add(self, vectors, threads=threads)

    monkeypatch.setattr(Graph, "add", slow)
    indexing = threading.Thread(target=store.index, kwargs={"is_searched": True})
    indexing.start()
    assert is_adding.wait(TIMEOUT_S)
    found = store.chain.find(visible(store.columns.view, 9, 9), unit(1).astype("f4"), 5)
    assert [(gap.first, gap.stop) for gap in found.gaps] == [(100, 140)]
    may_end.set()
    indexing.join()
    assert store.chain.rows == 140
    assert store.recall() == 1.0


@pytest.fixture
def partition(tmp_path: Path) -> Partition:
    """A live partition with 300 rows, driven by hand."""
    placement = Placement(
        VectorFiles(tmp_path / "rows"), tmp_path, TUNING, False, False, max_bytes=1 << 30
    )
    partition = Partition(1, DIM, placement)
    append(partition, 300)
    return partition


def append(partition: Partition, count: int) -> None:
    first = partition.columns.view.rows
    files = partition._placement.files
    files.write(1, DIM, first, unit(count, first).tobytes())
    ones = np.ones(count, np.int64)
    partition.columns.append(ones, ones * NEVER, None, ones)


class Adding:
    """Steps of a partition on a thread, stopped in the midst of adding."""

    def __init__(self, partition: Partition, monkeypatch: pytest.MonkeyPatch) -> None:
        self._is_adding, self._may_end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=partition.advance, args=(PACE,))
        add = Graph.add

        def slow(graph: Graph, vectors: np.ndarray, *, threads: int = 1) -> None:
            self._is_adding.set()
            assert self._may_end.wait(TIMEOUT_S)
            add(graph, vectors, threads=threads)

        monkeypatch.setattr(Graph, "add", slow)

    def __enter__(self) -> None:
        self._thread.start()
        assert self._is_adding.wait(TIMEOUT_S)

    def __exit__(self, *_: object) -> None:
        self._may_end.set()
        self._thread.join()


def test_a_search_that_would_wait_for_an_add_is_told(
    partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a graph grows in place, because nobody searched, a first search would have to wait."""
    partition.advance(PACE)
    with Adding(partition, monkeypatch):
        partition.last_searched += 1
        assert partition.index.is_loaded
        assert not partition.is_settled
    assert partition.is_settled


def test_a_search_that_would_not_wait_for_an_add_is_told(
    partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a copy of a graph grows, because somebody searches, searches are answered at once."""
    while partition.advance(PACE) is Outcome.MORE:
        pass
    append(partition, 40)
    partition.last_searched += 1
    with Adding(partition, monkeypatch):
        assert partition.pending == 40
        assert partition.is_settled


def test_a_search_that_would_scan_much_or_load_is_told(
    partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that wait for a graph are scanned, and a graph that was unloaded is read: not at once."""
    while partition.advance(PACE) is Outcome.MORE:
        pass
    assert partition.is_settled
    monkeypatch.setattr("nt_memory.tiers.vectors.partition._QUICK_TAIL_VALUES", 40 * DIM)
    append(partition, 40)
    assert partition.is_settled
    append(partition, 1)
    assert not partition.is_settled
    while partition.advance(PACE) is Outcome.MORE:
        pass
    partition.unload()
    assert not partition.is_settled
    partition._head.window(0, 40)  # copies of rows are no graph
    assert not partition.is_settled


def test_a_search_announced_at_the_last_moment_is_not_held_up(
    partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked whether a search would wait, and was told no, does not wait."""
    partition.advance(PACE)
    look, answers = partition._look_for_searches, []

    def announced_after() -> bool:
        is_searched = look()
        partition.last_searched += 1
        answers.append((is_searched, partition.is_settled))
        return is_searched

    monkeypatch.setattr(partition, "_look_for_searches", announced_after)
    monkeypatch.setattr("nt_memory.tiers.vectors.partition._QUICK_TAIL_VALUES", 1 << 20)
    with Adding(partition, monkeypatch):
        assert answers == [(False, True)]
        growing = partition.index.state.growing
        assert not growing.gate._is_writing


def test_few_rows_are_left_for_later_while_searched(tmp_path: Path) -> None:
    """A copy is not made for less than `publish` rows, unless nothing may be left."""
    store = Store(tmp_path)
    store.append(unit(100))
    store.index(is_searched=True)
    store.append(unit(TUNING.publish - 1, 1))
    rows = store.columns.view.rows
    assert store.chain.advance(rows, PACE, is_searched=True) is Outcome.LATER
    assert store.chain.rows == 100
    final = PACE._replace(is_final=True)
    assert store.chain.advance(rows, final, is_searched=True) is Outcome.DONE
    assert store.chain.rows == rows


def test_a_graph_is_sealed_while_searched_and_grows_freely_while_not(tmp_path: Path) -> None:
    """Only searches limit the size of the graph that grows."""
    store = Store(tmp_path)
    store.append(unit(600))
    store.index(is_searched=False)
    assert store.parts() == []
    assert store.chain.rows == 600
    store.append(unit(40, 1))
    store.index(is_searched=True)
    assert store.parts() == [(0, 600)]
    store.append(unit(200, 2))
    store.index(is_searched=True)
    assert store.parts()[:1] == [(0, 600)]
    assert len(store.parts()) == 2
    assert store.recall() == 1.0


def test_no_graph_outgrows_the_memory(tmp_path: Path) -> None:
    """Growing and merging stop where a graph would take nearly all the memory there is."""
    store = Store(tmp_path, max_bytes=(DIM + 160) * 400)
    for seed in range(6):
        store.append(unit(200, seed))
        store.index(is_searched=False)
    store.tidy()
    assert max(stop - first for first, stop in store.parts()) <= 350
    assert store.recall() == 1.0


# --- saving ---------------------------------------------------------------------------------------


def test_sealed_graphs_are_served_from_their_files(tmp_path: Path) -> None:
    """Once saved they take no memory of the process but for the order of their rows, also after a restart."""
    store = Store(tmp_path)
    order = 4 * (300 + 1)
    store.sealed(300, 1)
    assert store.chain.held_bytes > order
    store.tidy()
    assert store.chain.held_bytes == order
    assert store.chain.mapped_bytes > 300 * DIM
    assert store.names() == ["1-0-300.hnsw"]
    assert store.recall() == 1.0
    store.open()
    assert store.recall() == 1.0
    assert (store.chain.held_bytes, store.chain.rows, store.chain.loads) == (order, 300, 1)


def test_a_file_is_verified_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unloading and searching again maps it again, without reading it; another file is read."""
    read: list[str] = []
    checksum = snapshot_files._checksum

    def counting(file) -> int:
        read.append(Path(file.name).name)
        return checksum(file)

    monkeypatch.setattr(snapshot_files, "_checksum", counting)
    store = Store(tmp_path)
    store.sealed(300, 1)
    store.tidy()
    for _ in range(3):
        store.chain.unload()
        assert store.recall() == 1.0
    assert read == []
    store.open()
    for _ in range(3):
        store.recall()
        store.chain.unload()
    assert read == ["1-0-300.hnsw"]
    path = tmp_path / "graphs" / "1-0-300.hnsw"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)
    store.append(unit(1, 2))
    store.index(is_searched=True)
    assert read == ["1-0-300.hnsw"] * 2
    assert store.recall() == 1.0


def test_a_mapped_graph_outlives_its_file(tmp_path: Path) -> None:
    """A search that runs while others take its graph's place reads what it began with."""
    store = Store(tmp_path)
    store.sealed(300, 1)
    store.tidy()
    state = store.chain.state
    assert state is not None
    reach = visible(store.columns.view, 9, 9)
    query = unit(1, 9).astype("f4")
    before = state.find(reach, query, 5)
    for path in (tmp_path / "graphs").iterdir():
        path.unlink()
    store.chain.unload()
    after = state.find(reach, query, 5)
    assert [rows.tolist() for rows in after.rows[0]] == [rows.tolist() for rows in before.rows[0]]


def test_a_long_load_is_saved_now_and_then(tmp_path: Path) -> None:
    """In doublings, so that a crash costs at most half of it, and no row is written often."""
    store = Store(tmp_path)
    store.append(unit(4000))
    store.index(is_searched=False)
    assert len(store.names()) == 1
    store.open()
    assert store.parts()[0][1] >= 2000
    size = (tmp_path / "graphs" / store.names()[0]).stat().st_size
    assert store.chain.saved.written_bytes == 0
    store = Store(tmp_path / "graphs")
    store.append(unit(4000))
    store.index(is_searched=False)
    assert store.chain.written_bytes <= 2.2 * size


@pytest.mark.parametrize("kind", ["gone", "flipped", "foreign"])
def test_only_the_rows_of_a_bad_file_are_added_again(
    tmp_path: Path, added: Counter, kind: str
) -> None:
    """Whatever happened to a file, it costs the time of its rows, and no results."""
    store = Store(tmp_path, max_bytes=(DIM + 160) * 1200)
    for seed, rows in enumerate((1000, 900, 1000)):
        store.sealed(rows, seed)
        store.tidy()
    parts = store.parts()
    assert parts == [(0, 1000), (1000, 1900), (1900, 2900)]
    path = tmp_path / "graphs" / "1-1000-1900.hnsw"
    if kind == "gone":
        path.unlink()
    elif kind == "flipped":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 16
        path.write_bytes(data)
    else:
        path.write_bytes((tmp_path / "graphs" / "1-0-1000.hnsw").read_bytes())
    store.open()
    assert store.parts() == [(0, 1000), (1900, 2900)]
    assert store.recall() == 1.0
    added.clear()
    store.index(is_searched=True)
    store.tidy()
    assert added["rows"] == 900
    assert store.parts() == parts
    assert store.recall() == 1.0


def test_how_widely_rows_are_linked_follows_the_rows_and_outlives_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph is looked at as it doubles; what was chosen is kept with it, in a merge as well."""
    looked: list[int] = []
    first = 0

    def chosen(graph: Graph, read, go_on, threads) -> int:
        assert threads == PACE.threads
        ends = np.array([0, graph.rows - 1])
        assert np.array_equal(read(ends), store.vectors[ends + first])
        assert go_on()
        looked.append(graph.rows)
        return 112

    monkeypatch.setattr(breadth, "FIRST_LOOK", 128)
    monkeypatch.setattr(breadth, "chosen", chosen)
    store = Store(tmp_path)
    store.append(unit(600))
    store.index(is_searched=False)
    assert looked == [128, 256, 512]
    with store.chain._change:
        store.chain._seal()
    store.tidy()
    store.open()
    assert store.chain.saved.load(store.chain.saved.path(0, 600), 600).breadth == 112
    first = 600
    store.sealed(450, 1)
    assert looked[3:] == [128, 256]
    first = 0
    store.tidy()
    assert store.parts() == [(0, 1050)]
    assert looked[5:] == [1048]  # the step that went past 1,024
    assert store.chain.saved.load(store.chain.saved.path(0, 1050), 1050).breadth == 112


def test_leftovers_of_a_crash_are_swept(tmp_path: Path) -> None:
    """Between saving what was merged and removing what it was made of, either may be found."""
    store = Store(tmp_path)
    store.sealed(300, 1)
    store.sealed(200, 2)
    store.chain.save()
    graphs = tmp_path / "graphs"
    old = {path.name: path.read_bytes() for path in graphs.iterdir()}
    assert sorted(old) == ["1-0-300.hnsw", "1-300-500.hnsw"]
    store.tidy()
    assert store.names() == ["1-0-500.hnsw"]
    for name, data in old.items():
        (graphs / name).write_bytes(data)
    store.open()
    assert store.parts() == [(0, 500)]
    assert store.names() == ["1-0-500.hnsw"]
    for name, data in old.items():
        (graphs / name).write_bytes(data)
    os.truncate(graphs / "1-0-500.hnsw", 1000)
    store.open()
    assert store.parts() == [(0, 300), (300, 500)]
    assert store.names() == sorted(old)


def test_a_follower_uses_and_keeps_the_writers_files(tmp_path: Path) -> None:
    """It may know fewer rows than they cover; what it adds itself stays in memory."""
    store = Store(tmp_path)
    store.sealed(300, 1)
    store.tidy()
    follower = Store.__new__(Store)
    follower.path, follower.files = store.path, VectorFiles(tmp_path / "rows", read_only=True)
    follower.options = {"read_only": True, "max_bytes": 1 << 30}
    follower.columns, follower.vectors = Columns(), store.vectors
    follower.columns.append(np.full(250, 1), np.full(250, NEVER), None, np.full(250, 1))
    (tmp_path / "graphs" / "1-0-100.hnsw").write_bytes(b"being swept by the writer")
    follower.open()
    assert follower.recall() == 1.0
    store.append(unit(400, 2))
    follower.vectors = store.vectors
    follower.columns.append(np.full(450, 1), np.full(450, NEVER), None, np.full(450, 1))
    follower.index(is_searched=False)
    follower.chain.settle()
    follower.tidy()
    assert follower.chain.rows == 700
    assert follower.chain.save() == 0
    assert store.names() == ["1-0-100.hnsw", "1-0-300.hnsw"]
    assert follower.recall() == 1.0


def test_snapshots_carry_what_goes_with_a_graph(tmp_path: Path) -> None:
    """Numbers and extra values come back; a flipped bit anywhere is noticed."""
    path = tmp_path / "3-10-40.hnsw"
    description = Description(DIM, 10, 40, 7, "parameters", 12345)
    content = Content(np.array([0, 3, 29], np.int32), {"effort": 96})
    size = write_snapshot(path, description, lambda write: write(b"graph" * 99), content)
    assert size == path.stat().st_size
    with path.open("rb") as file:
        found = read_snapshot(file)
        assert found is not None
        file.seek(found.payload)
        assert file.read() == b"graph" * 99
    assert found.description == description
    assert found.content.extra == content.extra
    assert np.array_equal(found.content.numbers, content.numbers)
    data = path.read_bytes()
    for at in range(0, len(data), 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ 64]) + data[at + 1 :])
        assert not is_snapshot_whole(path)
    assert partition_of(path) == 3
    assert partition_of(tmp_path / "4294967295.hnsw") == 2**32 - 1
    assert partition_of(tmp_path / "3-10-40.hnsw.1.2.tmp") is None
    assert partition_of(tmp_path / "3.f16") is None


# --- merging --------------------------------------------------------------------------------------


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=300))
@example(sizes=[2**power for power in range(12)])
def test_graphs_stay_few_and_rows_are_moved_seldom(sizes: list[int]) -> None:
    """Whatever the sizes of what is sealed: some graphs, and a bounded number of moves a row."""
    shapes: list[Shape] = []
    moves: list[int] = []
    stop = 0
    for rows in sizes:
        shapes.append(Shape(stop, stop + rows, rows, 0.0))
        moves += [0] * rows
        stop += rows
        for _ in range(50):
            chosen = plan(shapes, 1 << 40)
            if chosen is None:
                break
            inside = [s for s in shapes if chosen.first <= s.first and s.stop <= chosen.stop]
            assert len(inside) > 1
            assert chosen.is_extended
            for row in range(inside[0].stop, chosen.stop):
                moves[row] += 1
            merged = Shape(chosen.first, chosen.stop, chosen.stop - chosen.first, 0.0)
            shapes = [s for s in shapes if s not in inside]
            shapes = sorted([*shapes, merged])
        else:
            pytest.fail("never done")
        assert len(shapes) <= 7
    assert max(moves) <= 12
    assert sum(moves) <= 5 * len(moves)


def test_what_is_planned() -> None:
    """Gaps first; then a graph with what is worth an eighth of it; then what has died."""
    assert plan([], 1000) is None
    assert plan([Shape(0, 800, 800, 0.0)], 1000) is None
    assert plan([Shape(50, 800, 750, 0.0)], 1000) == Plan(0, 50, is_extended=False)
    gap = [Shape(0, 10, 10, 0.0), Shape(900, 910, 10, 0.0)]
    assert plan(gap, 500) == Plan(10, 510, is_extended=False)
    worth = [Shape(0, 800, 800, 0.0), Shape(800, 900, 100, 0.0)]
    assert plan(worth, 1000) == Plan(0, 900, is_extended=True)
    assert plan(worth, 850) is None
    assert plan([worth[0], Shape(800, 899, 99, 0.0)], 1000) is None
    assert plan([Shape(0, 50, 50, 0.0), Shape(50, 900, 850, 0.0)], 1000) is None
    dying = [Shape(0, 800, 800, 0.3), worth[1]]
    assert plan(dying, 1000) == Plan(0, 900, is_extended=False)
    assert plan([Shape(0, 800, 800, 0.21)], 1000) == Plan(0, 800, is_extended=False)
    assert plan([Shape(0, 800, 1, 1.0)], 1000) is None


def test_what_will_be_merged_again_is_not_lasting() -> None:
    """A graph that has room on its left is added to that one soon; the first, and one behind a full one, stay."""
    shapes = [Shape(0, 800, 800, 0.0), Shape(800, 812, 12, 0.0), Shape(812, 820, 8, 0.0)]
    assert plan(shapes, 1000) == Plan(800, 820, is_extended=True, is_lasting=False)
    assert plan(shapes, 819) == Plan(800, 820, is_extended=True, is_lasting=True)
    assert plan(shapes[1:], 1000) == Plan(0, 800, is_extended=False, is_lasting=True)
    gap = [Shape(0, 10, 10, 0.0), Shape(20, 30, 10, 0.0)]
    assert plan(gap, 500) == Plan(10, 20, is_extended=False, is_lasting=False)


def test_ingest_under_search_moves_each_row_a_few_times(tmp_path: Path, added: Counter) -> None:
    """Thousands of rows, a few at a time, searched all along: few graphs, few bytes, all found."""
    store = Store(tmp_path)
    for step in range(120):
        store.append(unit(40, step))
        store.index(is_searched=True)
        if step % 3 == 0:
            store.tidy()
    store.tidy()
    assert store.recall() == 1.0
    assert len(store.parts()) <= 4
    assert added["rows"] <= 4 * 4800
    size = sum(path.stat().st_size for path in (tmp_path / "graphs").iterdir())
    assert store.chain.written_bytes <= 12 * size


def test_a_merge_that_was_overtaken_by_an_unload_is_found(tmp_path: Path) -> None:
    """What was built while the partition was unloaded is used from the next load on."""
    store = Store(tmp_path)
    store.sealed(300, 1)
    store.sealed(200, 2)
    while store.chain.merges == 0:
        assert store.chain.tidy(PACE) is Outcome.MORE
        if store.chain._tidying.held_bytes:
            store.chain.unload()
    assert store.parts() == [(0, 500)]
    assert store.recall() == 1.0


def test_a_file_that_was_just_written_is_not_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The indexer may save and sweep between the writing of a merge and its use."""
    store = Store(tmp_path)
    store.sealed(300, 1)
    store.sealed(200, 2)
    store.append(unit(100, 3))
    store.index(is_searched=True)
    write = Saved.write

    def interrupted(self: Saved, path: Path, *args, **options) -> None:
        write(self, path, *args, **options)
        if path.name == "1-0-500.hnsw":
            store.chain.save()

    monkeypatch.setattr(Saved, "write", interrupted)
    store.tidy()
    assert store.parts() == [(0, 500)]
    assert store.names() == ["1-0-500.hnsw", "1-500-600.hnsw"]
    store.open()
    assert store.recall() == 1.0
    assert store.chain.rows == 600


# --- rows that ended ------------------------------------------------------------------------------


def test_ended_rows_are_left_out_and_found_as_of_then(tmp_path: Path, added: Counter) -> None:
    """Past a fifth, the graph is made anew without them; a search of the past scans them."""
    store = Store(tmp_path)
    store.sealed(500, 1)
    store.tidy()
    dead = np.arange(0, 500, 4)
    store.end(dead, at=20)
    added.clear()
    store.tidy()
    assert added["rows"] == 0  # nothing is known of a time at which they had ended
    store.append(unit(1, 7), at=20)
    store.tidy()
    assert added["rows"] == 500 - len(dead)
    state = store.chain.state
    assert state is not None
    assert state.sealed[0].graph.rows == 375
    for _ in range(2):
        assert store.recall(at=100) == 1.0
        assert store.recall(at=19) == 1.0
        then = store.chain.find(visible(store.columns.view, 19, 100), unit(1).astype("f4"), 5)
        assert then.gaps[0].rows is not None
        assert then.gaps[0].rows.tolist() == dead.tolist()
        before = store.chain.find(visible(store.columns.view, 100, 19), unit(1).astype("f4"), 5)
        assert before.gaps[0].rows is not None
        now = store.chain.find(visible(store.columns.view, 100, 100), unit(1).astype("f4"), 5)
        assert all(gap.rows is None for gap in now.gaps)
        store.open()
    assert store.recall(at=100) == 1.0
    store.columns.end(8, 90, 21)  # its end was put off
    later = store.chain.find(visible(store.columns.view, 50, 100), unit(1).astype("f4"), 5)
    assert later.gaps[0].rows is not None
    assert later.gaps[0].rows.tolist() == [8]
    both = np.array([16, 499])
    store.columns.end_all(both, np.full(2, 90), np.full(2, 22))
    later = store.chain.find(visible(store.columns.view, 50, 100), unit(1).astype("f4"), 5)
    assert later.gaps[0].rows is not None
    assert later.gaps[0].rows.tolist() == [8, 16]


def test_graphs_without_dead_rows_are_extended(tmp_path: Path) -> None:
    """What is merged onto a graph that leaves rows out leaves its own out too."""
    store = Store(tmp_path)
    store.sealed(400, 1)
    store.sealed(200, 2)
    store.end(np.arange(400, 500), at=2)
    store.append(unit(1, 9), at=2)
    store.tidy()
    state = store.chain.state
    assert state is not None
    assert [(part.stop, part.graph.rows) for part in state.sealed] == [(600, 500)]
    assert store.recall(at=100) == store.recall(at=1) == 1.0
    store.end(np.arange(0, 400, 3), at=5)
    store.sealed(300, 2, at=5)
    store.append(unit(1, 3), at=6)
    store.tidy()
    store.end(np.arange(500, 620), at=7)
    store.index(is_searched=True)
    store.append(unit(200, 4), at=8)
    store.index(is_searched=True)
    store.tidy()
    assert store.recall(at=100) == 1.0
    for at in (1, 4, 5, 6, 7):
        assert store.recall(at=at) == 1.0
    store.open()
    assert store.recall(at=100) == store.recall(at=4) == 1.0


def test_a_partition_of_which_everything_ended(tmp_path: Path) -> None:
    """A graph is never empty, and nothing of it is found."""
    store = Store(tmp_path)
    store.sealed(300, 1)
    store.end(np.arange(300), at=5)
    store.append(unit(10, 2), at=6)
    store.tidy()
    assert store.recall(at=10) == store.recall(at=4) == 1.0
    store.open()
    assert store.parts() == [(0, 300)]
    assert store.recall(at=10) == store.recall(at=4) == 1.0


def test_ends_are_those_of_the_columns_it_goes_on_with(tmp_path: Path) -> None:
    """A graph that was built for vectors of old rows hides, and leaves out, what had ended of them."""
    files = VectorFiles(tmp_path / "rows")
    tier = VectorTier(
        files, tmp_path / "graphs", max_bytes=1 << 30, is_deterministic=False, tuning=TUNING
    )
    old, new = unit(400), unit(400, 1)
    files.write(1, DIM, 0, old.tobytes())
    files.write(2, DIM, 0, new.tobytes())
    times = {"from_us": np.full(400, 1), "until_us": np.full(400, NEVER)}
    tier.append(1, DIM, revision=np.full(400, 1), **times)
    dead = np.arange(0, 400, 3)
    tier.end_all(1, dead, np.full(len(dead), 5), np.full(len(dead), 2))
    tier.grow(2, DIM, 400)
    assert tier.wait_indexed(TIMEOUT_S)
    assert tier.is_grown(2)
    tier.reembed(1, DIM, 2)
    query = new[3].astype("f4")[None]
    for exact in (False, True):
        found = tier.search([1], query, 5, time_us=9, revision=9, exact=exact)[0]
        assert not set(found.row.tolist()) & set(dead.tolist())
        assert tier.search([1], query, 1, time_us=4, revision=9, exact=exact)[0].row.tolist() == [3]
    partition = tier._partitions[1]
    assert partition.index.columns is partition.columns
    assert partition.columns.view.ended_rows == len(dead)
    assert tier.wait_indexed(TIMEOUT_S)
    assert tier.stats.failures == 0
    tier.close()


# --- writers wait ---------------------------------------------------------------------------------


class Crowded:
    """Stands for a partition: so many rows in graphs, so many bytes waiting."""

    def __init__(self, number: int = 1) -> None:
        self.number, self.graph_rows, self.waiting_bytes = number, 0, 2000


def test_writers_are_let_in_as_rows_are_indexed() -> None:
    """In order, each once as many rows are in graphs as it brings; all when there is room."""
    backlog, partition, admitted = Backlog(1000), Crowded(), []
    assert not backlog.has_room(partition)
    for rows in (100, 50, 1):
        backlog.wait(partition, rows, lambda rows=rows: admitted.append(rows))
    backlog.progress(partition, is_over=False)
    partition.graph_rows = 99
    backlog.progress(partition, is_over=False)
    assert admitted == []
    partition.graph_rows = 149
    backlog.progress(partition, is_over=False)
    assert admitted == [100]
    partition.graph_rows = 150
    backlog.progress(partition, is_over=False)
    assert admitted == [100, 50]
    partition.waiting_bytes = 1000
    assert backlog.has_room(partition)
    backlog.progress(partition, is_over=False)
    assert admitted == [100, 50, 1]


def test_nobody_waits_for_what_does_not_come() -> None:
    """The indexer gave up, the partition is gone, the tier was closed: writers are let in."""
    backlog, admitted = Backlog(1000), []
    for number in (1, 2, 3):
        backlog.wait(Crowded(number), 1, lambda number=number: admitted.append(number))
    backlog.progress(Crowded(1), is_over=True)
    backlog.forget(2)
    assert admitted == [1, 2]
    backlog.close()
    backlog.wait(Crowded(4), 1, lambda: admitted.append(4))
    assert admitted == [1, 2, 3, 4]


def test_a_failing_indexer_lets_writers_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a partition whose graphs cannot be built goes on at once."""
    files = VectorFiles(tmp_path / "rows")
    tier = VectorTier(
        files, tmp_path / "graphs", max_bytes=4000, is_deterministic=False, tuning=TUNING
    )

    def refuse(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Graph, "add", refuse)
    files.write(1, DIM, 0, unit(300).tobytes())
    tier.append(
        1,
        DIM,
        from_us=np.full(300, 1),
        until_us=np.full(300, NEVER),
        revision=np.full(300, 1),
    )
    assert not tier.has_room(1)
    assert tier.has_room(2)
    is_admitted = threading.Event()
    tier.wait_for_room(1, 10, is_admitted.set)
    assert is_admitted.wait(TIMEOUT_S)
    assert tier.stats.failures > 0
    assert isinstance(tier._partitions[1], Partition)
    tier.close()
