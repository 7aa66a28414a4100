"""Float32 copies of a run of rows: what is handed out, however they lie in memory."""

from __future__ import annotations

import numpy as np
import pytest

from nt_memory.tiers.vectors.dense import Dense
from nt_memory.tiers.vectors.scanning import Segment, scan

FEW, MANY = 14, 96


def rows_of(dim: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((900, dim)).astype("<f2")


@pytest.mark.parametrize("dim", [FEW, MANY])
def test_windows_are_the_rows_asked_for_and_never_change(dim: int) -> None:
    """They move on, grow, and now and then begin anew further back."""
    rows, read = rows_of(dim), []

    def reader(first: int, stop: int) -> np.ndarray:
        read.append(stop - first)
        return rows[first:stop]

    dense, shown = Dense(dim, reader), []
    for first, stop in [(0, 40), (0, 90), (30, 200), (200, 200), (200, 700), (650, 900), (10, 50)]:
        window = dense.window(first, stop)
        assert window.shape == (dim, stop - first)
        shown.append((window, first, stop))
    for window, first, stop in shown:
        assert np.array_equal(window.T, rows[first:stop])
    assert sum(read) == 900 + 40, "a row is read once, until its run is given up"
    assert dense.held_bytes >= 40 * dim * 4
    dense.clear()
    assert dense.held_bytes == 0


def test_few_values_lie_by_columns_and_many_by_rows() -> None:
    """Products of the one take half the time, and rows of the other are read in one piece."""
    by_columns, by_rows = (
        Dense(dim, lambda first, stop, dim=dim: rows_of(dim)[first:stop]).window(0, 300)
        for dim in (FEW, MANY)
    )
    assert by_columns.strides[1] == by_rows.strides[0] == 4


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [3, 300, 900])
@pytest.mark.parametrize("dim", [FEW, MANY])
def test_scans_find_the_same_however_rows_lie(dim: int, size: int, masked: bool) -> None:
    """The best of a query, with their numbers and vectors; a few more may be among them."""
    rows = rows_of(dim).astype(np.float32)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("<f2")[:size]
    dense = Dense(dim, lambda first, stop: rows[first:stop])
    query = rows[:1].astype(np.float32)
    mask = np.arange(size) % 3 != 1 if masked else None
    segment = Segment(4, 1_000, size, dense.window(0, size), None, mask)
    scores = (rows.astype(np.float64) @ query[0]).astype(np.float32)
    if mask is not None:
        scores[~mask] = -2
    passing = size if mask is None else int(mask.sum())
    wanted = np.argsort(-scores)[: min(10, passing)] + 1_000
    ((piece,),) = scan([segment], query, 10)
    assert piece.place == 4
    assert set(wanted.tolist()) <= set(piece.rows.tolist())
    assert len(piece.rows) <= len(wanted) + 5
    assert np.array_equal(piece.vectors, rows[piece.rows - 1_000])
