"""When each row of a partition is known, and when it ended: four int64 columns with one writer.

The owner's thread appends and ends rows while others read. Readers take one `View`: its `rows` and
summaries never change, and rows past `rows` are not looked at. What does change in place is the end
of a row that was open, or that expires later; such a change belongs to a revision after every
running search's, which therefore must not notice. The writer stores `until_revision` first and
`until_us` second, readers load them the other way round, so whichever mix is seen, the row still
counts as not ended at an earlier revision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nt_memory.errors import InvalidInputError
from nt_memory.tiers.vectors.visibility import NEVER, View

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SMALLEST = 64
_PAST_TIMES = 4
"""For so many times the rows known by then are kept, where that is no prefix."""

_NOTHING = np.empty(0, np.int64)


class Columns:
    """The columns of one partition, written by one thread. Readers take `view`."""

    def __init__(self) -> None:
        empty = _NOTHING
        self._past: dict[int, NDArray[np.bool_]] = {}
        self.view: View = View(
            rows=0,
            from_us=empty,
            until_us=empty,
            until_revision=empty,
            revision=empty,
            ended=empty,
            ended_rows=0,
            last_revision=-1,
            max_from=-NEVER,
            min_until=NEVER,
            is_from_sorted=True,
        )

    @property
    def held_bytes(self) -> int:
        """Bytes of all columns."""
        view = self.view
        past = sum(mask.nbytes for mask in self._past.copy().values())
        return 4 * view.from_us.nbytes + view.ended.nbytes + past

    def known_by(self, view: View, time_us: int) -> NDArray[np.bool_]:
        """Rows of a view that are known by a time, and perhaps later ones. Any thread.

        Since when a row is known never changes, so what was found for a time is kept for those who
        go on asking as of it, and made longer when there are more rows.

        Cost: 0.6 ms a million rows for a new time.
        """
        mask = self._past.get(time_us)
        if mask is None or len(mask) < view.rows:
            known = 0 if mask is None else len(mask)
            longer = np.empty(view.rows, np.bool_)
            if mask is not None:
                longer[:known] = mask
            np.less_equal(view.from_us[known : view.rows], time_us, out=longer[known:])
            past = self._past.copy()
            past.pop(time_us, None)
            past[time_us] = mask = longer
            while len(past) > _PAST_TIMES:
                past.pop(next(iter(past)))
            self._past = past  # as a whole: others may be reading the one before
        return mask

    def append(
        self,
        from_us: NDArray[np.int64],
        until_us: NDArray[np.int64],
        until_revision: NDArray[np.int64] | None,
        revision: NDArray[np.int64],
    ) -> None:
        """Add rows, in the order of their revisions; all arrays shape (n,).

        `until_revision` None says: a row that has an end was born with it.

        Raises:
            InvalidInputError: the lengths differ, or revisions decrease.

        Cost: amortised O(n); the columns double when they are full.
        """
        count = len(revision)
        if not len(from_us) == len(until_us) == count:
            raise InvalidInputError("columns of one append must have one length")
        if count == 1:
            ended_by = revision if until_revision is None else until_revision
            self._append_one(
                *(int(column[0]) for column in (from_us, until_us, ended_by, revision))
            )
        if count < 2:
            return
        view = self.view
        if revision[0] < view.last_revision or not _is_sorted(revision):
            raise InvalidInputError("rows must be appended in the order of their revisions")
        first, rows = view.rows, view.rows + count
        low, high = int(until_us.min()), int(from_us.max())
        until_revision = revision if until_revision is None else until_revision
        ended, ended_rows = view.ended, view.ended_rows
        if low == NEVER:
            until_revision = until_us
        else:
            is_open = until_us == NEVER
            until_revision = np.where(is_open, NEVER, until_revision)
            closed = np.flatnonzero(~is_open) + first
            ended_rows += len(closed)
            ended = _fit(ended, view.ended_rows, ended_rows)
            ended[view.ended_rows : ended_rows] = closed
        grown = [_fit(column, first, rows) for column in view[1:5]]
        added = (from_us, until_us, until_revision, revision)
        for column, values in zip(grown, added, strict=True):
            column[first:rows] = values
        self.view = View(
            rows=rows,
            from_us=grown[0],
            until_us=grown[1],
            until_revision=grown[2],
            revision=grown[3],
            ended=ended,
            ended_rows=ended_rows,
            last_revision=int(revision[-1]),
            max_from=max(view.max_from, high),
            min_until=min(view.min_until, low),
            is_from_sorted=view.is_from_sorted
            and bool(from_us[0] >= view.max_from)
            and _is_sorted(from_us),
            moved_ends=view.moved_ends,
        )

    def _append_one(self, from_us: int, until_us: int, until_revision: int, revision: int) -> None:
        """`append` of one row, as `observe` makes them, with a tenth of its numpy calls."""
        view = self.view
        if revision < view.last_revision:
            raise InvalidInputError("rows must be appended in the order of their revisions")
        row, ended, ended_rows = view.rows, view.ended, view.ended_rows
        if until_us == NEVER:
            until_revision = NEVER
        else:
            ended = _fit(ended, ended_rows, ended_rows + 1)
            ended[ended_rows] = row
            ended_rows += 1
        grown = [_fit(column, row, row + 1) for column in view[1:5]]
        added = (from_us, until_us, until_revision, revision)
        for column, value in zip(grown, added, strict=True):
            column[row] = value
        self.view = View(
            row + 1,
            grown[0],
            grown[1],
            grown[2],
            grown[3],
            ended,
            ended_rows,
            revision,
            max(view.max_from, from_us),
            min(view.min_until, until_us),
            view.is_from_sorted and from_us >= view.max_from,
        )

    def end(self, row: int, until_us: int, until_revision: int) -> None:
        """Say when and by which entry a row ended. O(1) amortised.

        Raises:
            InvalidInputError: there is no such row.
        """
        view = self.view
        if not 0 <= row < view.rows:
            raise InvalidInputError(f"row {row} of {view.rows} cannot end")
        was_open = view.until_us[row] == NEVER
        view.until_revision[row] = until_revision  # first, see the module's note
        view.until_us[row] = until_us
        ended, count = view.ended, view.ended_rows
        if was_open:
            ended = _fit(ended, count, count + 1)
            ended[count] = row
            count += 1
        self.view = view._replace(
            ended=ended,
            ended_rows=count,
            min_until=min(view.min_until, until_us),
            moved_ends=view.moved_ends + (not was_open),
        )

    def end_all(
        self,
        rows: NDArray[np.int64],
        until_us: NDArray[np.int64],
        until_revision: NDArray[np.int64],
    ) -> None:
        """`end` of many, in order; of one that is there twice the last counts. O(len(rows)).

        Raises:
            InvalidInputError: there is no such row; none has ended.
        """
        view = self.view
        if not len(rows):
            return
        if not 0 <= rows.min() <= rows.max() < view.rows:
            raise InvalidInputError(f"rows up to {rows.max()} of {view.rows} cannot end")
        # Not `np.unique`, which imports a module of 10 ms when it is first called.
        opened = np.array(sorted(set(rows[view.until_us[rows] == NEVER].tolist())), np.int64)
        view.until_revision[rows] = until_revision  # first, see the module's note
        view.until_us[rows] = until_us
        count = view.ended_rows + len(opened)
        ended = _fit(view.ended, view.ended_rows, count)
        ended[view.ended_rows : count] = opened
        self.view = view._replace(
            ended=ended,
            ended_rows=count,
            min_until=min(view.min_until, int(until_us.min())),
            moved_ends=view.moved_ends + len(rows) - len(opened),
        )


def _is_sorted(values: NDArray[np.int64]) -> bool:
    return len(values) == 1 or not bool(np.any(values[1:] < values[:-1]))


def _fit(column: NDArray[np.int64], used: int, needed: int) -> NDArray[np.int64]:
    """`column`, or a copy of its first `used` values with twice the room."""
    if needed <= len(column):
        return column
    grown = np.empty(max(needed, 2 * len(column), _SMALLEST), np.int64)
    grown[:used] = column[:used]
    return grown
