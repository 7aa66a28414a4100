"""Scans that read float16 rows first find, to the last bit, what scanning everything finds."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nt_memory.tiers.vectors import NEVER, Tuning, VectorFiles, VectorTier, packed, searching
from nt_memory.tiers.vectors.scanners import HalfScan, half_width

DIM = 14
SIZES = (700, 300, 500, 40, 900, 650)
"""Rows of each partition; the fourth is too small to be asked first."""


@pytest.fixture(params=["by one", "by two"])
def tier(tmp_path, monkeypatch, request):
    """Six partitions, and thresholds so low that five of them are asked first; by two threads, or by one."""
    monkeypatch.setattr(packed, "MIN_ROWS", 64)
    monkeypatch.setattr(packed, "PART_ROWS", 130)
    monkeypatch.setattr(packed, "WORTH_HELP_ROWS", 1 if request.param == "by two" else 1 << 18)
    files = VectorFiles(tmp_path / "rows", read_only=False)
    tuning = Tuning(scan_values=DIM * 10_000, batch=32, seed=5)
    tier = VectorTier(
        files, tmp_path / "graphs", max_bytes=1 << 30, is_deterministic=True, tuning=tuning
    )
    yield World(files, tier)
    tier.close()
    files.close()


class World:
    """A tier and what it was given."""

    def __init__(self, files: VectorFiles, tier: VectorTier) -> None:
        self.files = files
        self.tier = tier
        self.rows = dict.fromkeys(range(len(SIZES)), 0)

    def append(self, partition: int, vectors: np.ndarray) -> None:
        unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("<f2")
        first = self.rows[partition]
        at = np.arange(first, first + len(unit))
        self.files.write(partition, DIM, first, unit.tobytes())
        self.tier.append(
            partition, DIM, from_us=at, until_us=np.full(len(unit), NEVER), revision=at
        )
        self.rows[partition] += len(unit)

    def fill(self, rng: np.random.Generator) -> None:
        for partition, size in enumerate(SIZES):
            self.append(partition, rng.normal(size=(size, DIM)) + 3.0)

    def ask(self, query: np.ndarray, k: int, **how) -> list[bytes]:
        """What a search finds, by its bits."""
        unit = (query / np.linalg.norm(query)).astype("f4")
        how = {"time_us": 10_000, "revision": 10_000} | how
        (found,) = self.tier.search(range(len(SIZES)), unit[None], k, **how)
        assert len(found.row)
        return [column.tobytes() for column in found]


def whole(segments, queries, k, helper):
    """In place of `narrow`: scan everything."""
    del queries, k, helper
    return [], segments


@pytest.fixture
def compare(monkeypatch):
    """`compare(world, ...)`: a search finds the same with `narrow` and without.

    It returns how many rows of each partition were left, and whether those were kept or have to be scanned.
    """

    def both(world, query, k, **how):
        left = {}

        def watched(segments, queries, wanted, helper):
            pieces, rest = packed.narrow(segments, queries, wanted, helper)
            left.update({one.place: (len(one.rows), "kept") for one in pieces})
            left.update({one.place: (one.size, "scanned") for one in rest})
            return pieces, rest

        monkeypatch.setattr(searching, "narrow", watched)
        narrowed = world.ask(query, k, **how)
        monkeypatch.setattr(searching, "narrow", whole)
        assert narrowed == world.ask(query, k, **how)
        return left

    return both


@pytest.mark.parametrize("k", [1, 10, 40])
def test_fewer_rows_are_scanned_and_the_same_are_found(tier, compare, k):
    """Now and in the past, with masks and ends and new rows, exact or not; and most rows are left out."""
    rng = np.random.default_rng(k)
    tier.fill(rng)
    shares = []
    for number in range(60):
        how = {"exact": bool(number % 2)}
        if number % 3 == 0:
            moment = int(rng.integers(250, 900))
            how |= {"time_us": moment, "revision": moment}
        if number % 4 == 0:
            how["allow"] = {
                one: rng.random(rows) < 0.8 for one, rows in tier.rows.items() if one != number % 5
            }
        left = compare(tier, rng.normal(size=DIM) + 3.0, k, **how)
        shares.append(sum(rows for rows, _ in left.values()) / sum(tier.rows.values()))
        tier.append(number % 6, rng.normal(size=(3, DIM)) + 3.0)
        tier.tier.end(number % 6, number, 5, 9_000 + number)
    assert np.median(shares) < 0.25


def test_a_partition_may_have_all_of_the_best(tier, compare):
    """Who has how many of them does not matter: nothing has to be scanned a second time."""
    rng = np.random.default_rng(5)
    tier.fill(rng)
    here = rng.normal(size=DIM) + 3.0
    tier.append(2, here + 0.5 * rng.normal(size=(200, DIM)))
    left = compare(tier, here, 40)
    assert left[2][0] >= 40
    assert {place for place, (_, how) in left.items() if how == "scanned"} == {3}


def test_where_masks_hide_most_rows_more_are_kept(tier, compare):
    """What may not be returned takes the place of what may; nothing has to be scanned a second time for it."""
    rng = np.random.default_rng(9)
    tier.fill(rng)
    allow = {one: rng.random(rows) < 0.2 for one, rows in tier.rows.items()}
    for _ in range(20):
        left = compare(tier, rng.normal(size=DIM) + 3.0, 10, allow=allow)
        assert {place for place, (_, how) in left.items() if how == "scanned"} == {3}


def test_where_the_nearest_may_not_be_returned_everything_is_scanned(tier, compare):
    """Masks that hide just what is nearest: what was kept does not prove anything, and is not relied on."""
    rng = np.random.default_rng(10)
    tier.fill(rng)
    here = rng.normal(size=DIM) + 3.0
    allow = {one: np.ones(rows, np.bool_) for one, rows in tier.rows.items()}
    for partition in (0, 1, 4, 5):
        tier.append(partition, here + 0.001 * rng.normal(size=(100, DIM)))
        allow[partition] = np.append(allow[partition], np.zeros(100, np.bool_))
    left = compare(tier, here, 10, allow=allow)
    assert "scanned" in {how for place, (_, how) in left.items() if place != 3}


def test_rows_that_tie_with_the_last_are_all_found(tier, compare):
    """The same situation in every partition, more often than rows are wanted, or asked for."""
    rng = np.random.default_rng(6)
    tier.fill(rng)
    here = rng.normal(size=DIM) + 3.0
    for partition, count in enumerate((4, 3, 90, 2, 1, 3)):
        tier.append(partition, np.tile(here, (count, 1)))
    assert compare(tier, here, 10)[2] == (590, "scanned")  # the 90 alone are more than are kept
    found = tier.ask(here, 10)
    assert len(found[1]) == 8 * 103


def test_threads_that_ask_at_once_read_each_row_once():
    """Whoever comes first reads what is missing, and the others wait for it: rows keep their numbers."""
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(400, DIM)).astype("<f2")
    inside = []

    def read(first, stop):
        inside.append((first, stop))
        assert len(inside) == 1, "two threads read at once"
        threading.Event().wait(0.005)  # lets the others come; nothing depends on it
        inside.clear()
        return rows[first:stop]

    asked = packed.Packed(DIM, read)
    together = threading.Barrier(4)

    def ask(stop):
        together.wait()
        return asked.window(stop)

    with ThreadPoolExecutor(4) as pool:
        for stop in (100, 200, 400):
            for one in [pool.submit(ask, stop) for _ in range(4)]:
                assert np.array_equal(one.result()[:, :DIM], rows[:stop])
                assert not one.result()[:, DIM:].any()
    assert asked.held_bytes == 400 * 16 * 2


def test_rows_handed_out_stay_as_they_are_when_more_come():
    """A search that is under way is not disturbed by the next one's new rows, nor by what is given up."""
    rows = np.random.default_rng(11).normal(size=(400, DIM)).astype("<f2")
    asked = packed.Packed(DIM, lambda first, stop: rows[first:stop])
    early = [asked.window(stop) for stop in (100, 130, 150)]
    asked.window(400)
    asked.clear()
    for one in early:
        assert np.array_equal(one[:, :DIM], rows[: len(one)])
    assert np.array_equal(asked.window(120)[:, :DIM], rows[:120])


@pytest.mark.parametrize("dim", [3, 8, 14, 33])
def test_the_best_of_several_arrays_are_kept(dim):
    """Exactly the best, with their arrays and places; and all others score at most what is said."""
    rng = np.random.default_rng(dim)
    arrays = [np.zeros((size, half_width(dim)), "<f2") for size in (40, 0, 1, 300)]
    for one in arrays:
        one[:, :dim] = rng.normal(size=(len(one), dim))
    query = rng.normal(size=dim).astype("f4")
    every = [one[:, :dim].astype("f8") @ query.astype("f8") for one in arrays]
    for k in (1, 7, 341, 1_000):
        scan = HalfScan(query, k)
        for number, one in enumerate(arrays):
            scan.take(number, one)
        numbers, places, scores, least = scan.found()
        ordered = np.sort(np.concatenate(every))[::-1]
        exact = [every[number][place] for number, place in zip(numbers, places, strict=True)]
        assert len(set(zip(numbers.tolist(), places.tolist(), strict=True))) == min(k, 341)
        assert np.allclose(np.sort(exact)[::-1], ordered[:k])
        assert np.allclose(scores, exact, atol=1e-4)
        assert least == (scores.min() if k <= 341 else -np.inf)


def test_what_is_held_is_counted_and_given_up(tier):
    """Rows as float16 count among a tier's memory, and are dropped with the rest."""
    rng = np.random.default_rng(8)
    tier.fill(rng)
    partition = tier.tier._searching._partitions[0]
    assert partition._packed.held_bytes == 0
    tier.ask(rng.normal(size=DIM) + 3.0, 5)
    assert partition._packed.held_bytes == SIZES[0] * 16 * 2
    assert partition.held_bytes >= partition._packed.held_bytes
    partition.unload()
    assert partition._packed.held_bytes == 0
