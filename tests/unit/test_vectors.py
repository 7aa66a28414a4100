"""The vector tier: rows on disk, visibility, exactness, determinism, snapshots, threads."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from nt_memory.errors import (
    ClosedError,
    CorruptionError,
    DimensionError,
    EmbeddingError,
    InvalidInputError,
    ReadOnlyError,
    StorageFullError,
)
from nt_memory.tiers.vectors import NEVER, Tuning, VectorFiles, VectorTier, kmeans, scanning
from nt_memory.tiers.vectors.batches import Batches
from nt_memory.tiers.vectors.growth import Outcome, Pace
from nt_memory.tiers.vectors.scanning import Segment, preselect
from nt_memory.tiers.vectors.snapshots import Description, write_snapshot

DIM = 16
SMALL = Tuning(scan_values=DIM * 100, batch=32, seed=5, arrange=16)


def unit(rows: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("<f2")


def open_tier(path: Path, **options) -> tuple[VectorFiles, VectorTier]:
    read_only = options.get("read_only", False)
    files = VectorFiles(path / "rows", read_only=read_only)
    options = {"max_bytes": 1 << 30, "is_deterministic": True, "tuning": SMALL} | options
    return files, VectorTier(files, path / "graphs", **options)


def columns(count: int, *, at: int = 1, revision: int = 1) -> dict[str, np.ndarray]:
    return {
        "from_us": np.full(count, at),
        "until_us": np.full(count, NEVER),
        "revision": np.full(count, revision),
    }


def fill(files: VectorFiles, tier: VectorTier, vectors: np.ndarray, first: int = 0, **at) -> None:
    files.write(1, vectors.shape[1], first, vectors.tobytes())
    tier.append(1, vectors.shape[1], **columns(len(vectors), **at))


def hits(tier: VectorTier, query: np.ndarray, k: int = 10, **options) -> list[tuple[int, float]]:
    moment = {"time_us": 100, "revision": 100} | options
    found = tier.search([1], query.astype("f4")[None], k, **moment)[0]
    return list(zip(found.row.tolist(), found.score.tolist(), strict=True))


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


# --- files ------------------------------------------------------------------------------------


def test_rows_written_are_rows_read(tmp_path: Path) -> None:
    """Rows come back as written, mapped or copied, while the file grows, and after a reopen."""
    files, vectors = VectorFiles(tmp_path), unit(50)
    files.write(3, DIM, 0, vectors[:20].tobytes())
    assert np.array_equal(files.rows(3, DIM, 20), vectors[:20])
    files.write(3, DIM, 20, vectors[20:].tobytes())
    files.write(3, DIM, 20, vectors[20:].tobytes())
    files.sync()
    mapped = files.rows(3, DIM, 50)
    files.close()
    assert np.array_equal(mapped, vectors)
    assert not mapped.flags.writeable
    assert np.array_equal(VectorFiles(tmp_path, read_only=True).read(3, DIM, 10, 50), vectors[10:])


def test_the_newest_rows_are_read_by_whoever_writes_them(tmp_path: Path) -> None:
    """Few rows or many, of a file held open or not: what was written, or an error if it is short."""
    files, vectors = VectorFiles(tmp_path), unit(4000)
    files.write(3, DIM, 0, vectors[:90].tobytes())
    assert np.array_equal(files.newest(3, DIM, 88, 90), vectors[88:90])
    files.write(3, DIM, 90, vectors[90:].tobytes())
    assert np.array_equal(files.newest(3, DIM, 0, 4000), vectors)
    for reader in (files, VectorFiles(tmp_path, read_only=True)):
        assert np.array_equal(reader.newest(3, DIM, 3990, 4000), vectors[3990:])
        with pytest.raises(CorruptionError, match="ends before row 4001"):
            reader.newest(3, DIM, 3999, 4001)
        with pytest.raises(DimensionError):
            reader.newest(3, 2 * DIM, 0, 1)
    files.close()


def test_single_rows_are_read_while_more_come(tmp_path: Path) -> None:
    """Old and new ones, in any order; the mapping of the old ones stays until the new ones are many."""
    files, vectors = VectorFiles(tmp_path), unit(1000)
    random = np.random.default_rng(8)
    mappings = set()
    for count in range(400, 1000, 13):
        first = 0 if count == 400 else count - 13
        files.write(3, DIM, first, vectors[first:count].tobytes())
        for numbers in (
            random.integers(0, count, 30),
            random.integers(0, 300, 5),
            np.array([count - 1]),
            np.array([count - 1, 0, count - 2, 1]),
            np.empty(0, np.int64),
        ):
            taken = files.take(3, DIM, numbers)
            assert taken.dtype == np.float16
            assert np.array_equal(taken, vectors[numbers])
        mappings.add(id(files._maps[3]))
        mapped = len(files._maps[3])
        assert (count - mapped) * 8 <= mapped
    assert 4 <= len(mappings) <= 12
    assert np.array_equal(files.rows(3, DIM, 990), vectors[:990])
    files.remove(3)
    with pytest.raises(CorruptionError):
        files.take(3, DIM, np.array([1]))


def test_rows_that_are_not_there_are_not_made_up(tmp_path: Path) -> None:
    """Of a file that is shorter than what was accepted nothing past its end is read."""
    files, vectors = VectorFiles(tmp_path), unit(200)
    files.write(3, DIM, 0, vectors.tobytes())
    assert np.array_equal(files.take(3, DIM, np.array([199])), vectors[199:])
    for number in (200, 210, 300):
        with pytest.raises(CorruptionError, match="200 rows"):
            files.take(3, DIM, np.array([3, number]))


def test_more_partitions_than_descriptors(tmp_path: Path) -> None:
    """Hundreds of partitions are written and synced with a bounded number of open files."""
    files, before = VectorFiles(tmp_path), open_files()
    for partition in range(200):
        files.write(partition, DIM, 0, unit(1, partition).tobytes())
    assert open_files() < before + 100
    files.sync()
    assert np.array_equal(files.read(7, DIM, 0, 1), unit(1, 7))
    files.close()


@pytest.mark.parametrize("damage", ["missing", "short", "foreign"])
def test_damaged_rows_are_named(tmp_path: Path, damage: str) -> None:
    """A missing, truncated or foreign row file is an error that names it, never zeros."""
    files = VectorFiles(tmp_path)
    files.write(1, DIM, 0, unit(10).tobytes())
    path = files.path(1)
    if damage == "missing":
        path.unlink()
    elif damage == "short":
        os.truncate(path, 100)
    else:
        path.write_bytes(b"x" * 500)
    for read in (lambda: files.rows(1, DIM, 10), lambda: files.read(1, DIM, 0, 10)):
        with pytest.raises(CorruptionError, match=r"1\.f16"):
            read()
    files.close()


def test_a_sync_covers_what_earlier_writers_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first sync of a writer forces files it only found, and their names; the next, nothing."""
    synced: list[str] = []
    fsync = os.fsync

    def spy(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    path = tmp_path / "rows"
    VectorFiles(path).sync()
    assert synced == []
    killed = VectorFiles(path)
    for partition in (1, 2):
        killed.write(partition, DIM, 0, unit(1).tobytes())
    killed.close()
    (path / "notes.f16").touch()
    VectorFiles(path, read_only=True).sync()
    assert synced == []
    files = VectorFiles(path)
    files.write(2, DIM, 1, unit(1).tobytes())
    files.write(3, DIM, 0, unit(1).tobytes())
    files.sync()
    assert sorted(synced[:-1]) == ["1.f16", "2.f16", "3.f16"]
    assert synced[-1] == "rows"
    synced.clear()
    files.sync()
    assert synced == []
    files.close()


def test_rows_of_another_dimension_are_refused(tmp_path: Path) -> None:
    """A file knows its dimension: writing or reading another is a DimensionError."""
    files = VectorFiles(tmp_path)
    files.write(1, DIM, 0, unit(2).tobytes())
    with pytest.raises(DimensionError):
        files.write(1, DIM, 2, b"odd")
    with pytest.raises(DimensionError):
        VectorFiles(tmp_path).write(1, 8, 0, unit(1, dim=8).tobytes())
    with pytest.raises(DimensionError):
        files.rows(1, 8, 1)
    with pytest.raises(ReadOnlyError):
        VectorFiles(tmp_path, read_only=True).write(1, DIM, 0, b"")
    files.close()


def test_a_full_disk_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC becomes StorageFullError, which can be retried."""

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(StorageFullError):
        VectorFiles(tmp_path).write(1, DIM, 0, unit(1).tobytes())


# --- visibility and exactness -------------------------------------------------------------------


def test_appended_rows_are_found_at_once(tmp_path: Path) -> None:
    """A row is searchable when `append` returns, also beside a graph."""
    files, tier = open_tier(tmp_path)
    vectors = unit(400)
    for first in range(0, 400, 7):
        fill(files, tier, vectors[first : first + 7], first)
        row = min(first + 6, 399)
        assert hits(tier, vectors[row], 1)[0][0] == row
    tier.close()


def test_visibility_goes_by_both_clocks(tmp_path: Path) -> None:
    """Rows show from `from_us` and `revision` on, until `until_us` ended by `until_revision`."""
    files, tier = open_tier(tmp_path)
    vectors = unit(2)
    fill(files, tier, vectors[:1], at=10, revision=5)
    fill(files, tier, vectors[1:], 1, at=4, revision=6)  # a late one: known earlier, recorded later
    tier.end(1, 0, 20, 8)

    def seen(time_us: int, revision: int) -> list[int]:
        return sorted(row for row, _ in hits(tier, vectors[0], time_us=time_us, revision=revision))

    assert seen(9, 8) == [1]
    assert seen(10, 5) == [0]
    assert seen(19, 8) == [0, 1]
    assert seen(20, 8) == [1]
    assert seen(20, 7) == [0, 1]
    assert seen(3, 100) == []
    tier.close()


def test_ends_by_later_entries_are_marked_ambiguous(tmp_path: Path) -> None:
    """A row ended in time but by a later entry is returned, and flagged for the caller to check."""
    files, tier = open_tier(tmp_path)
    fill(files, tier, unit(3), at=1, revision=1)
    tier.end(1, 1, 5, 9)
    found = tier.search([1], unit(1).astype("f4"), 5, time_us=7, revision=8)[0]
    assert dict(zip(found.row.tolist(), found.is_ambiguous.tolist(), strict=True)) == {
        0: False,
        1: True,
        2: False,
    }
    tier.close()


def test_rows_that_expire_are_hidden_by_their_own_entry(tmp_path: Path) -> None:
    """A row appended with an end needs no further entry to end."""
    files, tier = open_tier(tmp_path)
    files.write(1, DIM, 0, unit(1).tobytes())
    born = {"from_us": np.array([1]), "until_us": np.array([50]), "revision": np.array([3])}
    tier.append(1, DIM, **born)
    assert len(hits(tier, unit(1)[0], time_us=49, revision=3)) == 1
    assert hits(tier, unit(1)[0], time_us=50, revision=3) == []
    tier.close()


def test_a_rows_score_depends_on_the_row_and_the_query_only(tmp_path: Path) -> None:
    """Same row, same query: the same bits, whatever else is searched, and by whichever path."""
    files, tier = open_tier(tmp_path)
    vectors = unit(500)
    fill(files, tier, vectors)
    query = vectors[9]
    everything = dict(hits(tier, query, 500, exact=True))
    assert len(everything) == 500
    for row, score in hits(tier, query, 7):
        assert score == everything[row]
    only = np.zeros(500, bool)
    only[123] = True
    assert hits(tier, query, 3, allow={1: only}) == [(123, everything[123])]
    tier.close()


@pytest.mark.parametrize("scan_values", [DIM, 1 << 20])
def test_scores_are_cosines_whatever_rounding_did_to_a_rows_length(
    tmp_path: Path, scan_values: int
) -> None:
    """Of rows that are all alike, exact search ranks by the angle, not by the rounded length."""
    random = np.random.default_rng(6)
    raw = random.standard_normal((10_000, DIM)) + 80 * (np.arange(DIM) == 2)
    raw /= np.linalg.norm(raw, axis=1, keepdims=True)
    vectors = raw.astype("<f2")
    files, tier = open_tier(tmp_path, tuning=SMALL._replace(scan_values=scan_values))
    fill(files, tier, vectors)
    stored = vectors.astype(float)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    shared = 0
    for row in range(20):
        query = raw[row].astype("f4")
        scores = np.clip(stored @ query.astype(float), -1, 1)
        found = hits(tier, query, exact=True)
        assert [score for _, score in found[:10]] == pytest.approx(np.sort(scores)[:-11:-1], 1e-12)
        assert [score for _, score in found] == pytest.approx([scores[r] for r, _ in found], 1e-12)
        shared += len({r for r, _ in found} & set(np.argsort(-(raw @ query))[:10].tolist()))
    assert shared >= 180
    tier.close()


def test_exact_ties_with_the_last_are_all_returned(tmp_path: Path) -> None:
    """Twins at the k-th place come back together, in row order."""
    files, tier = open_tier(tmp_path)
    vectors = unit(40)
    vectors[[3, 8, 30]] = vectors[20]
    fill(files, tier, vectors)
    assert [row for row, _ in hits(tier, vectors[20], 2)] == [3, 8, 20, 30]
    tier.close()


def test_allow_masks_cut_partitions_and_rows(tmp_path: Path) -> None:
    """Rows past a mask's end and partitions without a mask are not allowed."""
    files, tier = open_tier(tmp_path)
    vectors = unit(30)
    fill(files, tier, vectors)
    assert len(hits(tier, vectors[0], 30, allow={1: np.ones(12, bool)})) == 12
    assert hits(tier, vectors[0], 30, allow={2: np.ones(30, bool)}) == []
    assert hits(tier, vectors[0], 30, allow={1: np.ones(99, bool)}) == hits(tier, vectors[0], 30)
    tier.close()


def test_bad_input_changes_nothing(tmp_path: Path) -> None:
    """Each malformed call gets its own error and leaves the tier as it was."""
    files, tier = open_tier(tmp_path)
    fill(files, tier, unit(5), at=1, revision=4)
    with pytest.raises(DimensionError):
        tier.search([1], unit(1, dim=8).astype("f4"), 3, time_us=9, revision=9)
    with pytest.raises(EmbeddingError):
        tier.search([1], np.full((1, DIM), np.nan, "f4"), 3, time_us=9, revision=9)
    with pytest.raises(InvalidInputError):
        tier.search([1], unit(1).astype("f4"), 0, time_us=9, revision=9)
    with pytest.raises(DimensionError):
        tier.append(1, 8, **columns(1, revision=5))
    with pytest.raises(InvalidInputError, match="order"):
        tier.append(1, DIM, **columns(1, revision=3))
    with pytest.raises(InvalidInputError):
        tier.end(1, 5, 1, 1)
    with pytest.raises(InvalidInputError):
        tier.end(7, 0, 1, 1)
    with pytest.raises(InvalidInputError, match="attached"):
        tier.attach(1, DIM, until_revision=np.full(1, NEVER), **columns(1))
    assert tier.stats.rows == len(hits(tier, unit(1)[0])) == 5
    assert tier.search([99], unit(1).astype("f4"), 3, time_us=9, revision=9)[0].row.size == 0
    tier.close()
    with pytest.raises(ClosedError):
        hits(tier, unit(1)[0])


@pytest.mark.parametrize("share", [None, 1.0, 0.5, 0.001])
def test_preselection_keeps_the_best(share: float | None) -> None:
    """Whatever the distribution, no score within the error of the k-th is lost, few more kept."""
    random = np.random.default_rng(4)
    shapes = [random.standard_normal(60_000), np.sort(random.random(60_000)), np.zeros(60_000)]
    for shape in shapes:
        scores = (shape / 10).astype("f4")
        mask = None if share is None else random.random(60_000) < share
        kept = preselect(scores, mask, 50, 1e-6)
        inside = scores if mask is None else scores[mask]
        kth = np.sort(inside)[-min(50, len(inside))]
        expected = scores >= kth - 2e-6 if mask is None else (scores >= kth - 2e-6) & mask
        assert np.array_equal(kept, np.flatnonzero(expected))


@pytest.mark.parametrize("group", [1, 700, 1 << 16])
@pytest.mark.parametrize("k", [1, 40, 10_000])
def test_a_scan_in_pieces_finds_what_a_scan_of_all_at_once_finds(
    monkeypatch: pytest.MonkeyPatch, group: int, k: int
) -> None:
    """Whatever is looked through together, the rows are those that one look at all scores keeps."""
    monkeypatch.setattr(scanning, "_GROUP_SCORES", group)
    draw = np.random.default_rng(5)
    segments = []
    for place, size in enumerate((300, 0, 5, 900, 400)):
        rows = unit(size, place, 6).astype(np.float16)
        mask = draw.random(size) < 0.7 if place % 2 else None
        columns = np.ascontiguousarray(rows.astype(np.float32).T)
        segments.append(Segment(place, 0, size, columns, None, mask))
    queries = unit(3, 9, 6).astype(np.float32)
    masks = [np.ones(one.size, bool) if one.mask is None else one.mask for one in segments]
    found = scanning.scan(segments, queries, k)
    for query, pieces in zip(queries, found, strict=True):
        scores = np.concatenate([query @ one.columns for one in segments])
        error = scanning._largest_error(query)
        kept = preselect(scores, np.concatenate(masks), k, error)
        owner = np.repeat(np.arange(5), [one.size for one in segments])
        first = np.cumsum([0, *(one.size for one in segments)])
        expected = {(int(owner[at]), int(at - first[owner[at]])) for at in kept}
        assert {(one.place, int(row)) for one in pieces for row in one.rows} == expected
        for piece in pieces:
            assert np.array_equal(piece.vectors, segments[piece.place].columns[:, piece.rows].T)


# --- graphs, snapshots and determinism ------------------------------------------------------------


def grown(path: Path, steps: list[int], **options) -> tuple[VectorFiles, VectorTier]:
    """A tier that got 2,000 rows in the given steps."""
    files, tier = open_tier(path, **options)
    vectors, first = unit(2000), 0
    for step in steps:
        fill(files, tier, vectors[first : first + step], first)
        first += step
    return files, tier


def graph_bytes(tier: VectorTier) -> bytes:
    chunks: list[bytes] = []
    index = tier._partitions[1].index
    assert isinstance(index, Batches)
    graph = index._graph
    assert graph is not None
    graph.dump(chunks.append)
    return b"".join(chunks)


def test_a_backtests_graph_depends_on_the_rows_only(tmp_path: Path) -> None:
    """One bulk load, many appends with searches and unloads between: the same bytes and answers."""
    _, bulk = grown(tmp_path / "a", [2000])
    files, slow = open_tier(tmp_path / "b")
    vectors = unit(2000)
    for first in range(0, 2000, 125):
        fill(files, slow, vectors[first : first + 125], first)
        if first % 500 == 0:
            hits(slow, vectors[0])
            slow.unload(1)
    queries = unit(20, 9)
    assert [hits(slow, query) for query in queries] == [hits(bulk, query) for query in queries]
    assert bulk.stats.graph_rows == slow.stats.graph_rows == 2000 // 32 * 32
    assert graph_bytes(bulk) == graph_bytes(slow)
    bulk.close()
    slow.close()


def test_recall_holds_while_embeddings_drift(tmp_path: Path) -> None:
    """The graph learns its codes from the first rows; those that come later keep the recall."""
    random = np.random.default_rng(2)
    early, late = random.standard_normal((2, 32))
    age = np.linspace(0, 1, 4000)[:, None]
    vectors = random.standard_normal((4000, 32)) + 6 * ((1 - age) * early + age * late)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("<f2")
    files, tier = open_tier(tmp_path, tuning=SMALL)
    fill(files, tier, vectors)
    queries = random.standard_normal((60, 32)) + 6 * late
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    shared = 0
    for query in queries:
        best = {row for row, _ in hits(tier, query, exact=True)}
        shared += len(best & {row for row, _ in hits(tier, query)})
    assert tier.stats.graph_rows == 4000
    assert shared >= 0.9 * 600
    tier.close()


def test_partitions_are_exchanged(tmp_path: Path) -> None:
    """Searches find the new one at once; nothing is built or saved for the old one any more."""
    files, tier = open_tier(tmp_path, is_deterministic=False)
    vectors = unit(1000)
    fill(files, tier, vectors)
    assert tier.wait_indexed(20)
    old = tier._partitions[1]
    assert old.graph_rows == 1000
    assert (tier.ended_rows(1), tier.is_indexed(1), tier.is_indexed(7)) == (0, True, False)
    files.write(7, DIM, 0, vectors[500:].tobytes())
    prepared = tier.prepare(7, DIM)
    prepared.columns.append(np.full(500, 1), np.full(500, NEVER), None, np.full(500, 1))
    moment = {"time_us": 100, "revision": 100}
    query = vectors[700].astype("f4")[None]
    assert len(tier.search([7], query, 5, **moment)[0].row) == 0
    tier.exchange([1], {7: prepared})
    assert len(tier.search([1], query, 5, **moment)[0].row) == 0
    assert tier.search([7], query, 1, **moment)[0].row.tolist() == [200]
    assert tier.wait_indexed(20)
    assert (tier.stats.partitions, tier.stats.rows, tier.stats.graph_rows) == (1, 500, 500)
    assert old.advance(Pace(64, 1, 1)) is Outcome.DONE
    assert not old.save()
    assert tier.save() == 1
    assert [path.name for path in (tmp_path / "graphs").iterdir()] == ["7-0-500.hnsw"]
    tier.close()


def test_removed_files_are_gone_and_what_was_read_stays(tmp_path: Path) -> None:
    """Descriptors and mappings go with them; the next writer of that number begins anew."""
    files, vectors = VectorFiles(tmp_path), unit(50)
    files.write(3, DIM, 0, vectors.tobytes())
    mapped = files.rows(3, DIM, 50)
    before = open_files()
    files.remove(3)
    files.remove(3)
    assert open_files() < before
    assert list(tmp_path.iterdir()) == []
    assert np.array_equal(mapped, vectors)
    files.sync()
    with pytest.raises(CorruptionError, match="missing"):
        files.rows(3, DIM, 50)
    files.write(3, 2 * DIM, 0, vectors.tobytes())
    files.check(3, 2 * DIM, 25)
    files.check(4, DIM, 0)
    files.close()


def reattach(path: Path, rows: int = 2000, **options) -> tuple[VectorFiles, VectorTier]:
    files, tier = open_tier(path, **options)
    tier.attach(1, DIM, until_revision=np.full(rows, NEVER), **columns(rows))
    return files, tier


def test_snapshots_are_loaded_and_carried_on(tmp_path: Path) -> None:
    """After a reopen the saved graph is used, not built again, and is the same."""
    _, tier = grown(tmp_path, [2000])
    answers = hits(tier, unit(1, 9)[0])
    whole = graph_bytes(tier)
    assert tier.save() == 1
    assert tier.save() == 0
    tier.close()
    _, again = reattach(tmp_path)
    partition = again._partitions[1]
    partition.load()
    assert partition.graph_rows == 2000 // 32 * 32
    assert hits(again, unit(1, 9)[0]) == answers
    assert graph_bytes(again) == whole
    again.close()


@pytest.mark.parametrize(
    "damage", ["flip", "cut", "empty", "header", "rows", "ahead", "parameters", "junk"]
)
def test_a_bad_snapshot_costs_time_never_results(tmp_path: Path, damage: str) -> None:
    """A damaged, foreign, stale or too-new snapshot is ignored and the graph built again."""
    files, tier = grown(tmp_path, [2000])
    answers = hits(tier, unit(1, 9)[0])
    tier.save()
    tier.close()
    path = tmp_path / "graphs" / "1.hnsw"
    data = bytearray(path.read_bytes())
    rows, options = 2000, {}
    if damage in {"flip", "header"}:
        data[len(data) // 2 if damage == "flip" else 20] ^= 4
        path.write_bytes(data)
    elif damage == "rows":  # other vectors under the same numbers
        files.write(1, DIM, 0, unit(2000, 1).tobytes())
        answers = None
    elif damage == "ahead":
        rows, answers = 1000, None
    elif damage == "parameters":
        options, answers = {"is_deterministic": False}, None
    else:
        kept = {"cut": data[:-9], "empty": b"", "junk": b"junk" * 99}[damage]
        path.write_bytes(kept)
    _, again = reattach(tmp_path, rows, **options)
    saved = again._partitions[1].index._saved if not options else None
    assert saved is None or saved.load(saved.path(), rows) is None
    found = hits(again, unit(1, 9)[0])
    if answers is not None:
        assert found == answers
    assert {row for row, _ in found} == {row for row, _ in hits(again, unit(1, 9)[0], exact=True)}
    again.close()


def test_a_failed_save_keeps_the_old_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When writing fails the old file stays, no partial file is left, and nothing is dropped."""
    files, tier = grown(tmp_path, [1000])
    hits(tier, unit(1)[0])
    tier.save()
    old = (tmp_path / "graphs" / "1.hnsw").read_bytes()
    fill(files, tier, unit(500, 2), 1000)
    before = hits(tier, unit(1, 2)[0])

    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="no space"):
        tier.unload(1)
    assert [path.name for path in (tmp_path / "graphs").iterdir()] == ["1.hnsw"]
    assert (tmp_path / "graphs" / "1.hnsw").read_bytes() == old
    assert tier.stats.graph_rows > 1000
    assert hits(tier, unit(1, 2)[0]) == before
    tier.close()


def test_pressure_unloads_what_was_searched_longest_ago(tmp_path: Path) -> None:
    """Under pressure the least recently searched partition goes first, and comes back on demand."""
    files, tier = open_tier(tmp_path)
    for partition in (1, 2, 3):
        files.write(partition, DIM, 0, unit(90, partition).tobytes())
        tier.append(partition, DIM, **columns(90))
    query = unit(1).astype("f4")
    moment = {"time_us": 9, "revision": 9}
    for partition in (2, 1, 3):
        tier.search([partition], query, 3, **moment)
    assert tier.wait_indexed(10)
    held = tier.stats.bytes
    assert tier.pressure(held - 1) < held
    loaded = {number for number, part in tier._partitions.items() if part.is_loaded}
    assert loaded == {1, 3}
    before = tier.stats
    assert len(tier.search([2], query, 3, **moment)[0].row) == 3
    after = tier.stats
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 0)
    assert before.unloads == 1
    tier.close()


def test_a_follower_writes_nothing(tmp_path: Path) -> None:
    """A read-only tier uses the writer's snapshot, follows its rows, and leaves no file."""
    files, writer = grown(tmp_path, [1000])
    hits(writer, unit(1)[0])
    writer.save()
    fill(files, writer, unit(500, 3), 1000)
    listing = sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*"))
    _, follower = reattach(tmp_path, 990, read_only=True)
    assert len(hits(follower, unit(1)[0], 2000, exact=True)) == 990
    follower.append(1, DIM, **columns(510))
    assert hits(follower, unit(1)[0]) == hits(writer, unit(1)[0])
    assert follower.stats.loads == 1
    assert follower._partitions[1].index.unsaved_rows > 0
    assert follower.save() == 0
    follower.unload(1)
    assert sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*")) == listing
    follower.close()
    writer.close()


def test_the_indexer_takes_over_in_the_background(tmp_path: Path) -> None:
    """In live use every row of a large partition ends up in the graph without any search."""
    _, tier = grown(tmp_path, [300, 700, 1000], is_deterministic=False)
    assert tier.wait_indexed(30)
    stats = tier.stats
    assert (stats.rows, stats.graph_rows, stats.pending, stats.failures) == (2000, 2000, 0, 0)
    tier.close()


def test_searches_during_ingest_see_their_own_moment(tmp_path: Path) -> None:
    """While rows are appended and ended, a search at revision r sees r's rows, no more, no fewer."""
    files, tier = open_tier(tmp_path, is_deterministic=False)
    vectors = unit(1500)
    fill(files, tier, vectors[:50], revision=1)
    problems: list[object] = []
    newest, is_done = [1], threading.Event()

    def watch() -> None:
        while not is_done.is_set():
            revision = newest[0]
            found = hits(tier, vectors[3], 2000, time_us=5, revision=revision, exact=True)
            # Revision r has 50 r rows, of which r - 1 have ended.
            if len(found) != 50 * revision - (revision - 1):
                problems.append((revision, len(found)))

    threads = [threading.Thread(target=watch) for _ in range(2)]
    for thread in threads:
        thread.start()
    for revision in range(2, 31):
        first = (revision - 1) * 50
        fill(files, tier, vectors[first : first + 50], first, revision=revision)
        tier.end(1, first - 1, 2, revision)
        newest[0] = revision
    is_done.set()
    for thread in threads:
        thread.join()
    assert not problems
    tier.close()


def test_an_open_tier_does_not_hold_up_the_exit_of_the_interpreter() -> None:
    """A program that forgets to close ends by itself, with its own exit code, indexer at work."""
    program = """
import tempfile, numpy as np
from nt_memory.tiers.vectors import NEVER, VectorFiles, VectorTier
path = tempfile.mkdtemp()
files = VectorFiles(path)
tier = VectorTier(files, path, max_bytes=1 << 30, is_deterministic=False)
n, dim = 300_000, 64
vectors = np.random.default_rng(0).standard_normal((n, dim))
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
files.write(1, dim, 0, vectors.astype("<f2").tobytes())
tier.append(1, dim, from_us=np.zeros(n, "i8"), until_us=np.full(n, NEVER), revision=np.ones(n, "i8"))
raise SystemExit(3)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        timeout=30,
        capture_output=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (3, b"")


def test_kmeans_is_repeatable() -> None:
    """The same rows and seed give the same clusters, and no more clusters than rows."""
    rows = unit(600).astype("f4")
    centroids, assignment = kmeans(rows, 7, seed=1)
    again, same = kmeans(rows, 7, seed=1)
    assert np.array_equal(centroids, again)
    assert np.array_equal(assignment, same)
    assert centroids.shape == (7, DIM)
    assert np.bincount(assignment).sum() == 600
    nearest = ((rows[:, None] - centroids) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == assignment).mean() > 0.999
    assert kmeans(rows[:3], 7, seed=1)[0].shape == (3, DIM)


def test_parameters_that_would_be_cut_off_are_refused(tmp_path: Path) -> None:
    """A snapshot whose header cannot say what it was made with would never be used again."""
    description = Description(4, 0, 10, 7, "x" * 65, 1)
    with pytest.raises(ValueError, match="more than 64 bytes"):
        write_snapshot(tmp_path / "a", description, lambda write: write(b"graph"))
    assert list(tmp_path.iterdir()) == []
