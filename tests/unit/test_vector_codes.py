"""How the rows of a graph become bytes, and what faiss makes of them."""

from __future__ import annotations

import io

import faiss
import numpy as np
import pytest

from nt_memory.tiers.vectors.codes import Codes, code_width
from nt_memory.tiers.vectors.index import Graph


def unit(count, dim, seed, *, around=None):
    rows = np.random.default_rng(seed).standard_normal((count, dim), np.float32)
    if around is not None:
        rows = rows * 0.3 + around
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def as_bytes(codes, rows):
    """As faiss writes them: whole parts."""
    return codes.written(rows).astype(np.uint8).astype(np.int64)


@pytest.mark.parametrize("dim", [1, 15, 16, 17, 100])
def test_distances_of_codes_are_those_of_rows(dim):
    """But for the step, which is one for all values, and rounding, which is half a step a value."""
    rows, others = unit(200, dim, 1), unit(200, dim, 2)
    codes = Codes.of(rows)
    assert codes.written(rows).shape == (200, code_width(dim))
    near = np.linalg.norm(as_bytes(codes, rows) - as_bytes(codes, others), axis=1) / codes.scale
    far = np.linalg.norm(rows - others, axis=1)
    assert abs(near - far).max() <= 1.001 * np.sqrt(dim) / codes.scale
    assert 1 / codes.scale < 8 / 255 / np.sqrt(dim) * 1.5


def test_where_rows_lie_does_not_matter():
    """Embeddings that have much in common are written as finely as others: middles cancel."""
    around = np.zeros(384, np.float32)
    around[::7] = 3.0
    rows = unit(500, 384, 1, around=around)
    codes = Codes.of(rows)
    written = as_bytes(codes, rows)
    assert (written.min(), written.max()) > (0, 200)
    near = np.linalg.norm(written[1:] - written[0], axis=1)
    best = np.argsort(np.linalg.norm(rows[1:] - rows[0], axis=1))[:10]
    assert set(best) <= set(np.argsort(near)[:16])


def test_what_is_out_of_range_is_clipped_and_never_wraps():
    """Rows that drift stay at the end that they drifted to."""
    narrow = unit(300, 384, 1)
    codes = Codes.of(narrow)
    row = np.zeros((1, 384), np.float32)
    row[0, :2] = 1.0, -1.0
    assert as_bytes(codes, row)[0, :2].tolist() == [255, 0]
    assert codes.written(row * 1e6).max() < 256
    assert codes.written(row * 1e6).min() == 0


def test_they_are_kept_with_the_graph():
    """What is read back writes the same codes; what was cut short is none."""
    codes = Codes.of(unit(100, 20, 1))
    again = Codes.from_kept(codes.kept, 20)
    assert again is not None
    assert again.kept == codes.kept
    assert (again.written(unit(9, 20, 2)) == codes.written(unit(9, 20, 2))).all()
    assert Codes.from_kept(codes.kept[:-1], 20) is None
    assert Codes.from_kept(codes.kept, 40) is None
    assert Codes.from_kept(Codes.unknown(20).kept, 20) is None


SIMD = faiss.SIMDConfig
UNITS = ["NONE", "AVX2", "AVX512", "AVX512_SPR", "AVX512_VPOPCNT", "ARM_NEON", "ARM_SVE"]
UNITS = [
    name for name in UNITS if SIMD.is_simd_level_available(getattr(faiss, f"SIMDLevel_{name}"))
]


@pytest.fixture(params=UNITS)
def vector_units(request):
    """faiss as on a processor with these vector units, of those that this one has."""
    before = SIMD.get_level()
    SIMD.set_level(getattr(faiss, f"SIMDLevel_{request.param}"))
    yield
    SIMD.set_level(before)


@pytest.mark.usefixtures("vector_units")
@pytest.mark.parametrize("dim", [5, 16, 24, 40, 271, 384])
def test_faiss_compares_codes_as_integers(dim):
    """On any processor its distances are exact sums, of graphs and scans, before and after saving; middles and step
    come along."""
    rows, queries = unit(600, dim, 1), unit(20, dim, 2)
    graph = Graph(dim, 7)
    graph.add(rows)
    codes = graph._codes
    assert codes is not None
    apart = as_bytes(codes, queries)[:, None, :] - as_bytes(codes, rows)[None, :, :]
    exact = (apart**2).sum(axis=2)
    kept = bytearray()
    graph.dump(kept.extend)
    loaded = Graph.load(io.BytesIO(bytes(kept)), dim, 7)
    mapped = Graph.map(np.frombuffer(bytes(kept), np.uint8), dim, 7)
    assert loaded is not None
    assert mapped is not None
    for one in (graph, graph.clone(), loaded, mapped):
        distances, found = one._index.storage.search(codes.written(queries), 10)
        assert (distances == np.sort(exact, axis=1)[:, :10]).all()
        assert (np.take_along_axis(exact, found, axis=1) == distances).all()
        searched = one.search(queries, 10, effort=600).rows
        assert (np.take_along_axis(exact, searched, axis=1) == distances).all()
    assert loaded._codes is not None
    assert loaded._codes.kept == codes.kept


@pytest.mark.usefixtures("vector_units")
@pytest.mark.parametrize("dim", [5, 16, 40, 384])
def test_some_rows_are_compared_as_all_are(dim, monkeypatch):
    """The nearest of some rows are the first of all that are among them, whatever is gathered at a time."""
    rows, queries = unit(700, dim, 1), unit(9, dim, 2)
    plain = Graph(dim, 7)
    plain.add(rows)
    some = np.sort(np.random.default_rng(3).choice(700, 90, replace=False))
    for gathered in (1 << 20, 64 * code_width(dim), 1):
        monkeypatch.setattr("nt_memory.tiers.vectors.index._GATHERED_BYTES", gathered)
        for graph in (plain, plain.arrange()):
            for query in queries:
                found, near = graph.nearest(query, 12, some)
                codes = plain._codes
                apart = as_bytes(codes, rows[some]) - as_bytes(codes, query[np.newaxis])
                distances = dict(zip(some.tolist(), (apart**2).sum(axis=1).tolist(), strict=True))
                assert [distances[row] for row in found] == near.tolist()
                assert near.tolist() == sorted(distances.values())[:12]
                assert len(set(found.tolist())) == 12
            assert set(graph.nearest(queries[0], 200, some)[0]) == set(some)
            assert not len(graph.nearest(queries[0], 3, some[:0])[0])
    assert not len(Graph(dim, 7).nearest(queries[0], 3, some[:0])[0])


def test_a_graph_without_rows_is_saved_and_begun():
    """There are no codes yet: the first rows say how they are written, also after loading."""
    kept = bytearray()
    Graph(12, 7).dump(kept.extend)
    graph = Graph.load(io.BytesIO(bytes(kept)), 12, 7)
    assert graph is not None
    assert (graph.search(unit(2, 12, 1), 3, effort=40).rows == -1).all()
    graph.add(unit(50, 12, 2))
    assert (graph.search(unit(50, 12, 2), 1, effort=40).rows[:, 0] == np.arange(50)).mean() > 0.9


@pytest.mark.parametrize("cut", [0, 7, 60, 200])
def test_what_cannot_be_read_is_none(cut):
    """Cut short anywhere, or of rows of another dimension."""
    graph = Graph(12, 7)
    graph.add(unit(50, 12, 1))
    kept = bytearray()
    graph.dump(kept.extend)
    short = bytes(kept[:cut])
    assert Graph.load(io.BytesIO(short), 12, 7) is None
    assert Graph.map(np.frombuffer(short, np.uint8), 12, 7) is None
    assert Graph.load(io.BytesIO(bytes(kept)), 40, 7) is None
