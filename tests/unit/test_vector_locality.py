"""Which rows of a graph lie beside each other, and that it makes no difference to what is found."""

from __future__ import annotations

import io
from pathlib import Path

import faiss
import numpy as np
import pytest

from nt_memory.tiers.vectors import NEVER, Tuning, VectorFiles
from nt_memory.tiers.vectors import index as graphs
from nt_memory.tiers.vectors.chain import Chain
from nt_memory.tiers.vectors.columns import Columns
from nt_memory.tiers.vectors.growth import Outcome, Pace
from nt_memory.tiers.vectors.index import Graph
from nt_memory.tiers.vectors.locality import Links, is_due, is_scattered, near_order
from nt_memory.tiers.vectors.saved import Saved
from nt_memory.tiers.vectors.source import Source

DIM = 24
ROWS = 1_500


def unit(count, seed=0):
    rows = np.random.default_rng(seed).standard_normal((count, DIM), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def grown(rows, graph=None):
    graph = Graph(DIM, 7) if graph is None else graph
    for first in range(0, len(rows), 250):
        graph.add(rows[first : first + 250])
    return graph


def dumped(graph):
    chunks = []
    graph.dump(chunks.append)
    return b"".join(chunks)


def links_of(graph):
    return graphs._links(graph._index)


def chained(targets, entry=0):
    """Links on one level, as many a node as the longest list has."""
    width = max(map(len, targets))
    flat = [node for some in targets for node in [*some, *[-1] * (width - len(some))]]
    count = len(targets)
    starts = (np.arange(count + 1) * width).astype(np.uint64)
    return Links(np.ones(count, np.int32), starts, np.array(flat, np.int32), width, entry)


def test_nodes_come_as_a_walk_meets_them():
    """From the entry on, each one's links in order, each node once; what nothing leads to comes last."""
    links = chained([[3, 3, 5], [0], [1, 4], [5, 2], [0, 2], [3]], entry=3)
    assert near_order(links).tolist() == [3, 5, 2, 1, 4, 0]
    apart = chained([[1], [0], [4], [2], [2]])
    assert near_order(apart).tolist() == [0, 1, 2, 3, 4]


def test_a_walk_goes_step_by_step_through_many_nodes(monkeypatch: pytest.MonkeyPatch):
    """In pieces of any size the order is that of a queue."""
    graph = grown(unit(ROWS))
    links = links_of(graph)
    table = links.targets[links.starts[:-1].astype(int)[:, None] + np.arange(links.width)]
    queue, met = [links.entry], {links.entry}
    for node in queue:
        for other in table[node].tolist():
            if other >= 0 and other not in met:
                met.add(other)
                queue.append(other)
    queue += [node for node in range(ROWS) if node not in met]
    for pieces in (1 << 13, 100, 7):
        monkeypatch.setattr("nt_memory.tiers.vectors.locality._AT_ONCE", pieces)
        assert near_order(links).tolist() == queue


@pytest.mark.parametrize("pieces", [1 << 13, 100])
def test_a_copy_is_what_faiss_makes_of_that_order(monkeypatch: pytest.MonkeyPatch, pieces):
    """Byte by byte: codes, levels, links and where searches begin."""
    monkeypatch.setattr("nt_memory.tiers.vectors.locality._AT_ONCE", pieces)
    monkeypatch.setattr(graphs, "_AT_ONCE", pieces)
    graph = grown(unit(ROWS))
    order = near_order(links_of(graph))
    theirs = faiss.clone_index(graph._index)
    theirs.permute_entries(order.astype(np.int64))
    ours = graph.arrange()._index
    theirs.hnsw.efConstruction = ours.hnsw.efConstruction
    written = [faiss.serialize_index(index).tobytes() for index in (theirs, ours)]
    assert written[0] == written[1]


def test_nothing_else_is_found():
    """Whether a graph was arranged, mapped or added to since: rows go by their own numbers."""
    rows, queries = unit(ROWS), unit(200, 1)
    some = np.flatnonzero(np.random.default_rng(2).random(ROWS - 100) < 0.1)
    plain = grown(rows)
    arranged = plain.arrange()
    assert (plain.arranged, arranged.arranged) == (0, ROWS)
    for graph in (arranged, Graph.load(io.BytesIO(dumped(arranged)), DIM, 7)):
        assert (
            graph.scan(queries, 10).rows == plain.scan(queries, 10).rows
        ).mean() > 0.99  # codes tie
        assert (
            graph.search(queries, 10, effort=400).rows == plain.search(queries, 10, effort=400).rows
        ).mean() > 0.99  # codes tie
        for query in queries[:50]:
            found, others = graph.nearest(query, 10, some), plain.nearest(query, 10, some)
            assert [part.tolist() for part in found] == [part.tolist() for part in others]
        # Nothing stands in for rows that are asked for and not there.
        assert (graph.search(queries, ROWS + 5, effort=ROWS).rows[:, -1] == -1).all()


def test_an_arranged_graph_is_added_to_and_arranged_again():
    rows = unit(2 * ROWS)
    graph = grown(rows[:ROWS]).arrange()
    grown(rows[ROWS:], graph)
    assert (graph.rows, graph.arranged) == (2 * ROWS, ROWS)
    again = Graph.map(np.frombuffer(dumped(graph), np.uint8), DIM, 7).arrange()
    assert (again.rows, again.arranged) == (2 * ROWS, 2 * ROWS)
    for one in (graph, again):
        assert (one.search(rows, 1, effort=64).rows[:, 0] == np.arange(2 * ROWS)).mean() > 0.99
    copy = again.clone()
    copy.add(unit(5, 9))
    assert (again.rows, copy.rows) == (2 * ROWS, 2 * ROWS + 5)
    assert copy.search(unit(5, 9), 1, effort=64).rows[:, 0].tolist() == list(
        range(2 * ROWS, 2 * ROWS + 5)
    )
    assert again.search(rows[:50], 3, effort=64).rows.max() < 2 * ROWS
    last = np.arange(2 * ROWS - 40, 2 * ROWS)
    assert again.nearest(rows[-1], 1, last)[0] == [2 * ROWS - 1]
    again.add(unit(5, 10))
    assert again.nearest(unit(5, 10)[2], 1, np.arange(again.rows))[0] == [2 * ROWS + 2]


def test_what_a_copy_holds_is_counted():
    graph = grown(unit(ROWS))
    arranged = graph.arrange()
    assert arranged.held_bytes == graph.held_bytes + 4 * (ROWS + 1)
    mapped = Graph.map(np.frombuffer(dumped(arranged), np.uint8), DIM, 7)
    assert mapped.held_bytes == 4 * (ROWS + 1)


@pytest.mark.parametrize("where", ["shorter", "longer", "absurd", "cut"])
def test_an_order_that_does_not_fit_is_refused(where):
    data = dumped(grown(unit(ROWS)).arrange())
    at = 4 * (1 + 32)
    assert int.from_bytes(data[at + 8 : at + 16], "little") == ROWS
    if where == "cut":
        bad = data[: at + 10]
    elif where == "absurd":
        bad = data[: at + 8] + (2**63).to_bytes(8, "little") + data[at + 16 :]
    elif where == "longer":
        bad = (
            data[: at + 8]
            + (ROWS + 1).to_bytes(8, "little")
            + data[at + 16 : at + 20]
            + data[at + 16 :]
        )
    else:
        bad = data[: at + 8] + (ROWS - 1).to_bytes(8, "little") + data[at + 20 :]
    assert Graph.load(io.BytesIO(bad), DIM, 7) is None
    assert Graph.map(np.frombuffer(bad, np.uint8), DIM, 7) is None


def test_when_a_graph_is_arranged():
    """For what is to come: whenever it has doubled; for searches: once an eighth has come since."""
    assert [is_due(before, before + 1, 100) for before in (400, 511, 800, 1023)] == [
        False,
        False,
        False,
        True,
    ]
    assert not is_due(300, 799, 100)
    assert is_due(300, 800, 100)
    assert not is_scattered(99, 0, 100)
    assert is_scattered(100, 0, 100)
    assert not is_scattered(800, 700, 100)
    assert is_scattered(801, 700, 100)


@pytest.mark.parametrize("room", [10_000, 1_500, 0])
def test_graphs_of_a_partition_lie_arranged_whatever_there_is_room_for(tmp_path: Path, room):
    """With room for two of them in memory, with room for one only, and with room for none: then as they are."""
    tuning = Tuning(scan_values=DIM * 10, seed=5, arrange=64, publish=16, seal=700)
    files = VectorFiles(tmp_path / "rows")
    (tmp_path / "graphs").mkdir()
    rows = unit(1_000).astype("<f2")
    files.write(1, DIM, 0, rows.tobytes())
    columns = Columns()
    ones = np.ones(len(rows), np.int64)
    columns.append(ones, ones * NEVER, None, ones)
    source = Source(files, 1, DIM)
    saved = Saved(tmp_path / "graphs", source, 5, "test", read_only=False)
    chain = Chain(source, columns, saved, tuning, 1 << 30)
    pace = Pace(100, 1, 1)
    made: list[tuple[bool, int]] = []
    arrange = Graph.arrange

    def noted(graph: Graph) -> Graph:
        made.append((graph.mapped_bytes > 0, graph.rows))
        return arrange(graph)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Graph, "arrange", noted)
        chain.most_rows = max(room, 1_000)
        while chain.advance(1_000, pace, is_searched=False) is Outcome.MORE:
            pass
        chain.most_rows = room
        chain.settle()
        while chain.tidy(pace) is Outcome.MORE:
            pass
    assert chain.state is not None
    (part,) = chain.state.sealed
    assert part.graph.mapped_bytes
    assert (made, part.graph.arranged) == {
        10_000: ([(False, 600), (False, 1_000)], 1_000),
        1_500: ([(False, 600), (True, 1_000)], 1_000),
        0: ([], 0),
    }[room]
