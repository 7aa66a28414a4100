"""Columns of a partition: which rows a search as of a moment may return."""

from __future__ import annotations

import numpy as np

from nt_memory.tiers.vectors.columns import Columns
from nt_memory.tiers.vectors.visibility import NEVER, visible


def append(columns, from_us):
    """Rows known since these times, in force for ever."""
    first = columns.view.rows
    columns.append(
        np.array(from_us, np.int64),
        np.full(len(from_us), NEVER),
        None,
        np.arange(first, first + len(from_us)),
    )


def test_rows_known_by_a_time_are_the_same_however_often_they_are_asked_for():
    """Where times are no order the answer is kept, grows with the rows, and is never another's."""
    random = np.random.default_rng(4)
    columns = Columns()
    views = []
    for _ in range(12):
        append(columns, random.integers(0, 100, int(random.integers(1, 40))))
        views.append(columns.view)
        for time_us in (50, 10, 50, *random.integers(0, 100, 6).tolist()):
            for view in (columns.view, views[int(random.integers(len(views)))]):
                reach = visible(view, time_us, view.rows, known_by=columns.known_by)
                wanted = np.flatnonzero(view.from_us[: view.rows] <= time_us)
                mask = reach.full_mask()
                found = np.arange(reach.prefix) if mask is None else np.flatnonzero(mask)
                assert found.tolist() == wanted.tolist()
                assert reach.passing() == len(wanted)


def test_what_is_kept_of_the_past_is_bounded_and_counted():
    """A few times, a byte a row; an ordered partition keeps nothing, for it has prefixes."""
    columns, ordered = Columns(), Columns()
    append(columns, [30, 10, 20] * 1000)
    append(ordered, range(3000))
    before = columns.held_bytes, ordered.held_bytes
    for time_us in range(29):
        visible(columns.view, time_us, 3000, known_by=columns.known_by)
        visible(ordered.view, time_us, 3000, known_by=ordered.known_by)
    assert (columns.held_bytes, ordered.held_bytes) == (before[0] + 4 * 3000, before[1])
