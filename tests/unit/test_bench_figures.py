"""What the benchmarks compute from what they see: truth, recall, data sets, bars, tables."""

from __future__ import annotations

import json
from pathlib import Path

import faiss
import numpy as np
import pytest

from nt_memory.apps.bench import bars, corpus, datasets, figures, generators, jobs, report
from nt_memory.apps.bench.contenders import CONTENDERS
from nt_memory.apps.bench.contenders.contender import BATCH
from nt_memory.apps.bench.contenders.indexes import FaissAlike
from nt_memory.apps.bench.figures import K
from nt_memory.apps.bench.filtering import SHARES, Plan, passing
from nt_memory.apps.bench.ingesting import _bars as ingest_bars
from nt_memory.apps.bench.jobs import _chosen
from nt_memory.apps.bench.machine import memory_of
from nt_memory.apps.bench.options import BenchOptions
from nt_memory.apps.bench.ownsearch import near
from nt_memory.errors import InvalidInputError
from nt_memory.tiers.vectors.breadth import FIRST_LOOK, NARROW, begun
from nt_memory.tiers.vectors.index import Graph
from nt_memory.transport.files import disk_bytes

GENERATORS = [
    generators.clustered_blocks,
    generators.subspace_blocks,
    generators.gaussian_blocks,
]


def test_truth_is_a_full_sort_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocked scan gives what sorting all scores gives, ties by row, with and without a choice."""
    draw = np.random.default_rng(1)
    vectors = draw.integers(-2, 3, (157, 6)).astype(np.float32)  # full of ties
    queries = draw.integers(-2, 3, (9, 6)).astype(np.float32)
    for rows in (None, np.flatnonzero(draw.random(157) < 0.2), np.array([3, 99])):
        kept = np.arange(157) if rows is None else rows
        scores = queries @ vectors[kept].T
        wanted = kept[np.argsort(-scores, axis=1, kind="stable")[:, :10]]
        for block in (7, 20_000):
            monkeypatch.setattr(figures, "BLOCK", block)
            found = figures.true_neighbours(vectors, queries, 10, rows)
            ranked = np.take_along_axis(queries @ vectors.T, found, axis=1)
            best = np.take_along_axis(queries @ vectors.T, wanted, axis=1)
            assert found.shape == wanted.shape
            assert np.array_equal(ranked, best)
            assert set(found.ravel()) <= set(kept)


def test_recall_counts_each_neighbour_once() -> None:
    """A row that is returned twice is one hit; order does not matter; no neighbours is no miss."""
    assert figures.recall([[1, 1, 2]], [[1, 2, 3, 4]]) == 0.5
    assert figures.recall([[4, 3], [9]], [[3, 4], [8]]) == 0.5
    assert figures.recall([[], [1]], [[], [1]]) == 1.0
    with pytest.raises(ValueError, match="zip"):
        figures.recall([[1]], [[1], [2]])


def test_an_exponent_is_that_of_the_power_that_made_the_costs() -> None:
    """Costs of a · n^b give b whatever a is; what does not grow gives 0."""
    sizes = [1e4, 1e5, 3e6]
    assert figures.fitted_exponent(sizes, [3e-6 * n**0.5 for n in sizes]) == pytest.approx(0.5)
    assert figures.fitted_exponent(sizes, [7.0] * 3) == pytest.approx(0.0, abs=1e-9)
    assert figures.fitted_exponent([1, 10, 100], [8, 4, 2]) < 0


@pytest.mark.parametrize("blocks", GENERATORS)
def test_made_up_vectors_are_unit_and_repeatable(
    blocks: generators.Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same seed gives the same unit float32 rows, another seed others, in blocks of any number."""
    monkeypatch.setattr(generators, "BLOCK", 64)
    one = generators.made(blocks, 150, 16, 3)
    assert (one.shape, one.dtype) == ((150, 16), np.float32)
    assert np.allclose(np.linalg.norm(one, axis=1), 1.0, atol=1e-6)
    assert np.array_equal(one, generators.made(blocks, 150, 16, 3))
    assert not np.array_equal(one, generators.made(blocks, 150, 16, 4))


def test_clusters_are_what_is_stated() -> None:
    """Within a cluster the cosine is about 0.67; queries come from all clusters, not the first few."""
    rows = generators.made(generators.clustered_blocks, 20_000, 256, 5)
    first = rows @ rows[0]
    mates = np.sort(first)[-600:-1]
    assert abs(float(np.median(mates)) - 0.67) < 0.05
    queries = np.concatenate(list(generators.clustered_blocks(400, 256, 6, 20_000)))
    centres = np.random.default_rng(0).standard_normal((20, 256), np.float32)
    assert set((queries @ centres.T).argmax(axis=1).tolist()) == set(range(20))


@pytest.mark.parametrize("name", ["clustered", "subspace", "gaussian", "market"])
def test_a_data_set_holds_its_queries_back(name: str, tmp_path: Path) -> None:
    """Vectors and queries are unit rows of the size asked for, disjoint, and the truth is theirs."""
    made = datasets.prepare(name, tmp_path, 1_200, 24, queries=50, seed=3, cache=tmp_path)
    vectors, queries = made.vectors, made.queries
    assert (made.rows, len(queries)) == (1_200, 50)
    assert vectors.shape == (1_200, 11 if name == "market" else 24)
    assert vectors.dtype == queries.dtype == np.float32
    for part in (vectors, queries):
        assert np.allclose(np.linalg.norm(part, axis=1), 1.0, atol=1e-5)
    stored = {row.tobytes() for row in np.asarray(vectors)}
    assert not stored & {row.tobytes() for row in queries}
    best = np.argmax(queries @ vectors.T, axis=1)
    assert np.array_equal(made.truth[:, 0], best)
    assert datasets.Dataset.from_json(made.to_json()) == made


def test_market_windows_keep_their_order_and_their_number(tmp_path: Path) -> None:
    """All 160,000 situations are there but those held back, and no more than there are."""
    made = datasets.prepare("market", tmp_path, 10**6, 2, queries=40, seed=3, cache=tmp_path)
    assert 155_000 < made.rows < 170_000
    assert made.dim == 11


def test_fresh_vectors_are_near_stored_ones_and_new() -> None:
    """What comes in during a search is distributed like the store, but nothing of it is stored."""
    stored = generators.made(generators.gaussian_blocks, 500, 64, 1)
    fresh = near(stored, 90, 2)
    closest = (fresh @ stored.T).max(axis=1)
    assert fresh.shape == (90, 64)
    assert np.all((closest > 0.95) & (closest < 0.9999))


def test_sentences_are_language_and_come_once(tmp_path: Path) -> None:
    """Docstrings give sentences; code, fields, headings, fragments and repeats give none."""
    good = "The journal is the truth and every tier is a view of it."
    other = "A lease that ran out gives its lock to the next one in the queue."
    (tmp_path / "a.py").write_text(
        f'"""{good} {other}\n\n>>> call(1). The result of this call is shown to whoever asked for it.\n\n'
        f':param x: Some words that are long enough to be one sentence here.\n"""\n'
    )
    (tmp_path / "b.py").write_text(
        f'def f():\n    """{good}\n\n    Too short.\n\n    X = Y(1) + Z[2] * 3 - 4 / 5 ** 6 < 7 | 8.\n    """\n'
    )
    (tmp_path / "broken.py").write_text("def (:\n")
    found, is_all = corpus.sentences([tmp_path], 1, 100)
    assert (sorted(found), is_all) == (sorted([good, other]), True)
    assert corpus.sentences([tmp_path], 1, 100)[0] == found
    some, is_all = corpus.sentences([tmp_path], 1, 1)
    assert (len(some), is_all) == (1, False)


def test_filters_pass_what_they_say(tmp_path: Path) -> None:
    """The tags, data and times of each row agree with the rows that each filter is said to pass."""
    made = datasets.prepare("clustered", tmp_path, 2_000, 16, queries=40, seed=3, cache=tmp_path)
    plan = Plan.of(made)
    tags = [set(plan.tags(i)) for i in range(made.rows)]
    for number, share in enumerate(SHARES):
        for kind in ("tag, random", "tag, correlated"):
            how, rows = plan.filter(kind, number)
            (tag,) = how["tags"]
            assert rows.tolist() == [i for i in range(made.rows) if tag in tags[i]]
            assert len(rows) == passing(share, made.rows)
        how, rows = plan.filter("where", number)
        below = how["where"]["value"]
        assert rows.tolist() == [i for i in range(made.rows) if plan.data(i)["u"] < below]
        assert len(plan.filter("as-of", number)[1]) == passing(share, made.rows)
    close = plan.filter("tag, correlated", SHARES.index(0.01))[1]
    scores = np.asarray(made.vectors)[close] @ np.asarray(made.vectors).T
    nearest = [set(np.argsort(-row, kind="stable")[: len(close)].tolist()) for row in scores]
    assert set(close.tolist()) in nearest  # of one of them, these are the nearest


STEPS = (16, 32, 64, 128)


class Ladder:
    """A contender whose recall is what a table says."""

    def __init__(self, recalls: tuple[float, ...]) -> None:
        self._recalls = dict(zip(STEPS, recalls, strict=True))
        self._ef = 0

    def set_ef(self, ef: int) -> None:
        self._ef = ef

    def search(self, _query: object) -> list[int]:
        return list(range(round(1000 * self._recalls[self._ef])))


@pytest.mark.parametrize(
    ("recalls", "chosen"),
    [
        ((0.90, 0.96, 0.98, 0.995), {32: 0.95, 128: 0.99}),
        ((0.995, 0.996, 0.997, 0.998), {16: 0.99}),
        ((0.90, 0.970, 0.971, 0.971), {32: 0.95}),
        ((0.50, 0.60, 0.70, 0.80), {128: 0.95}),
    ],
)
def test_a_peer_is_searched_no_broader_than_its_target_needs(
    recalls: tuple[float, ...], chosen: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The least breadth that reaches a target; where none does, the least that gains all there is."""
    monkeypatch.setattr(jobs, "LADDER", STEPS)
    truth = np.arange(1000)[None]
    found = _chosen(Ladder(recalls), np.zeros((1, 2), np.float32), truth, [0.95, 0.99], 10.0)
    assert found == chosen


def _results(**changes: object) -> dict[str, dict[str, dict[str, object]]]:
    took = {"p50": 4e-4, "p95": 9e-4, "p99": 1e-3, "n": 100, "recall": 0.97}
    ours = {
        "points": [took],
        "filtered": took | {"rows": 20_000},
        "before": {"anonymous": 0, "mapped": 0},
        "memory": {"anonymous": 9e8, "mapped": 0},
        "took": {"indexed_s": 100.0, "durable_s": 50.0},
        "growing": took | {"rate": 1500.0, "checked": 50, "missed": 1, "unseen": 0},
    }
    again = {
        "before": {"anonymous": 0, "mapped": 0},
        "memory": {"anonymous": 8e8, "mapped": 0},
        "opened_s": 1.0,
        "answered_s": 2.0,
        "settled_s": 3.0,
        "disk": 3e9,
        "rows": 1_000_000,
    }
    return {
        "nt-memory": {"build": ours | changes, "reopen": again},
        "numpy": {"build": {"points": [{"p50": 0.07}]}},
        "faiss": {"build": {"build_s": 70.0}},
    }


def _judged(rows: int, **changes: object) -> dict[str, bool | None]:
    made = datasets.Dataset("", "clustered", "", rows, 384, 7)
    found = bars.bars_of(made, _results(**changes))
    return {row.what.split(",")[0].split(" (")[0]: row.is_met for row in found}


def test_every_bar_is_judged_at_a_million() -> None:
    """Figures just inside meet all eight bars; those that grow with the store are left open below."""
    whole = _judged(1_000_000)
    assert len(whole) == 8
    assert set(whole.values()) == {True}
    small = _judged(10_000)
    assert list(small.values()).count(None) == 5


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({"points": [{"p50": 4e-4, "p95": 9e-4, "recall": 0.94}]}, "search"),
        ({"memory": {"anonymous": 1.1e9, "mapped": 0}}, "resident anonymous memory"),
        ({"took": {"indexed_s": 120.0, "durable_s": 50.0}}, "bulk ingest"),
        (
            {"growing": {"p95": 9e-4, "rate": 1500.0, "checked": 9, "missed": 0, "unseen": 1}},
            "ingest",
        ),
        (
            {"growing": {"p95": 9e-4, "rate": 900.0, "checked": 9, "missed": 0, "unseen": 0}},
            "ingest",
        ),
        (
            {"growing": {"p95": 9e-4, "rate": 1500.0, "checked": 0, "missed": 0, "unseen": 0}},
            "ingest",
        ),
        ({"filtered": {"p50": 1e-3, "p95": 9e-3, "recall": 0.99, "rows": 20_000}}, "the same"),
    ],
)
def test_a_figure_past_its_bar_is_not_met(changes: dict[str, object], broken: str) -> None:
    """Each promise fails by its own figure, and the others stand."""
    made = datasets.Dataset("", "clustered", "", 1_000_000, 384, 7)
    found = bars.bars_of(made, _results(**changes))
    failed = [row.what for row in found if not row.is_met]
    assert len(failed) == 1
    assert failed[0].startswith(broken)


def test_bars_are_empty_when_the_memory_did_not_finish() -> None:
    """A run that failed promises nothing, and does not crash the table."""
    made = datasets.Dataset("", "clustered", "", 1_000_000, 384, 7)
    assert bars.bars_of(made, {"nt-memory": {"build": {"failure": "x"}}}) == []
    assert ingest_bars([{"faiss": {}, "nt-memory": {}}], 1_000) == []


def test_findings_are_written_as_they_are_shown(tmp_path: Path) -> None:
    """The Markdown holds every cell, columns aligned; the JSON holds every figure and each verdict."""
    where = {
        "date": "2026-01-02T03:04:05+00:00", "cpu": "c", "cores": 2, "memory_gib": 1.0, "system": "s",
        "python": "3", "versions": {"numpy": "2"}, "commit": "abc", "environment": {}, "fdatasync_us": 1,
    }  # fmt: skip
    table = report.Table("T", ["a", "bb"], [["1", "2"], ["333", "4"]], ["said"])
    rows = [report.Row("w", "m", "b", "a", is_met) for is_met in (True, False, None)]
    found = report.Findings("n", "do it", where, [table], rows, {"x": 1})
    as_json, as_text = found.write(tmp_path / "new")
    text = as_text.read_text()
    assert as_text.name == "2026-01-02-n.md"
    assert "| a   | bb |\n|-----|----|\n| 1   | 2  |\n| 333 | 4  |" in text
    assert "- said" in text
    assert [line.split("|")[5].strip() for line in text.splitlines() if line.startswith("| w ")] == [
        "yes", "**no**", "",
    ]  # fmt: skip
    document = json.loads(as_json.read_text())
    assert (document["x"], document["command"]) == (1, "do it")
    assert [row["is_met"] for row in document["bars"]] == [True, False, None]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"n": (999,)}, "at least 1,000"),
        ({"n": ()}, "at least 1,000"),
        ({"dim": 1}, "--dim"),
        ({"data": "mine"}, "--data must be one of clustered"),
        ({"peers": ("faiss", "oracle")}, "no such peer: oracle"),
        ({"queries": 10}, "--queries"),
        ({"recalls": (1.5,)}, "--recall"),
        ({"recalls": ()}, "--recall"),
        ({"budget_s": 0.0}, "--budget"),
        ({"budget_s": float("nan")}, "--budget"),
        ({"seconds": -1.0}, "--seconds"),
        ({"repeats": 0}, "--repeats"),
        ({"threads": -1}, "--threads"),
        ({"seed": -1}, "--seed"),
        ({"workdir": Path("/nowhere/at/all")}, "--workdir"),
    ],
)
def test_what_cannot_be_measured_is_refused(asked: dict[str, object], message: str) -> None:
    """Malformed options raise before anything is measured, and name the option."""
    with pytest.raises(InvalidInputError, match=message):
        BenchOptions(**asked)


def test_memory_and_disk_are_read_from_the_system(tmp_path: Path) -> None:
    """Memory that is filled counts as anonymous; a process that is gone has none; disk counts blocks."""
    before = memory_of()
    if before is None:
        pytest.skip("no /proc here")
    held = np.ones(64 << 20, np.uint8)
    after = memory_of()
    assert after is not None
    assert after["anonymous"] - before["anonymous"] > 50 << 20
    assert held.any()
    assert memory_of(2**22 + 1) is None
    (tmp_path / "a").write_bytes(bytes(range(256)) * 64)
    assert disk_bytes(tmp_path) >= 16_384


def test_the_peer_built_as_we_build_is(tmp_path: Path) -> None:
    """Raw faiss beside ours writes the same codes, and links them as widely, or the comparison says nothing."""
    rows = np.random.default_rng(1).standard_normal((BATCH, 24), np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    graph = Graph(24, seed=7)
    graph.breadth = begun(graph, is_lasting=True)
    graph.add(rows)
    peer = FaissAlike(tmp_path, 24, 1)
    peer.build(rows)
    peer.set_ef(64)
    assert CONTENDERS["faiss-same"] is FaissAlike
    assert FaissAlike.construction == {0: graph.breadth, FIRST_LOOK: NARROW}
    assert peer._index.hnsw.prune_headroom == graph._index.hnsw.prune_headroom
    assert peer._index.metric_type == graph._index.metric_type
    codes = [
        faiss.vector_to_array(faiss.downcast_index(one._index.storage).codes)
        for one in (graph, peer)
    ]
    assert (codes[0] == codes[1]).all()
    found = [peer.search(row) for row in rows[:50]]
    ours = graph.search(rows[:50], K, effort=64).rows.tolist()  # levels are drawn by other seeds
    assert sum(len(set(a) & set(b)) for a, b in zip(found, ours, strict=True)) > 0.95 * 50 * K
    peer.save()
    again = FaissAlike(tmp_path, 24, 1)
    again.open()
    again.set_ef(64)
    assert [again.search(row) for row in rows[:50]] == found
