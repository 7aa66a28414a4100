"""When each row of a partition is visible: four int64 columns and pure functions over them.

A row is visible at (time, revision) if it was recorded by then (`revision <= r`), known by then
(`from_us <= t`), and not yet ended: `until_us > t`, or it was ended by an entry after `r`. Rows are
numbered in the order of their revisions, so "recorded by r" is always a prefix.

The owner's thread appends and ends rows while others read. Readers take one `View`: its `rows` and
summaries never change, and rows past `rows` are not looked at. What does change in place is the end
of a row that was open, or that expires later; such a change belongs to a revision after every
running search's, which therefore must not notice. The writer stores `until_revision` first and
`until_us` second, readers load them the other way round, so whichever mix is seen, the row still
counts as not ended at an earlier revision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

NEVER = 2**63 - 1
_SMALLEST = 64
_PAST_TIMES = 4
"""For so many times the rows known by then are kept, where that is no prefix."""


class View(NamedTuple):
    """A partition's columns as of one moment of its owner's thread.

    Attributes:
        rows: Rows there are; the arrays may be longer.
        from_us: Since when each row is known.
        until_us: When it ended on the timeline, or `NEVER`.
        until_revision: By which entry, or `NEVER`.
        revision: Which entry recorded it; never decreases.
        ended: Numbers of the rows that have an end, each once.
        ended_rows: How many of them there are; the array may be longer.
        last_revision: Greatest `revision`, -1 without rows.
        max_from: Greatest `from_us`.
        min_until: A lower bound of `until_us`.
        is_from_sorted: Whether `from_us` never decreases: then "known by t" is a prefix too.
        moved_ends: How often a row that had an end was given another.
    """

    rows: int
    from_us: NDArray[np.int64]
    until_us: NDArray[np.int64]
    until_revision: NDArray[np.int64]
    revision: NDArray[np.int64]
    ended: NDArray[np.int64]
    ended_rows: int
    last_revision: int
    max_from: int
    min_until: int
    is_from_sorted: bool
    moved_ends: int = 0


class Visible(NamedTuple):
    """The rows one search may return: those below `prefix` where `mask` holds and not hidden.

    Attributes:
        view: The columns.
        time_us: Known and not ended by then.
        revision: Recorded by then; ends by later entries do not count.
        recorded: Rows recorded by `revision`.
        prefix: Rows to look at, `<= recorded`.
        mask: Shape (prefix,), or None for all; it says nothing of ended rows.
        most_hidden: At most so many rows of the prefix are hidden because they ended.
        numbers: If given, row i here is row `numbers[i]` of the columns; ascending. `prefix`, `mask`
            and `view.ended` then go by i, the columns by `numbers[i]`.
    """

    view: View
    time_us: int
    revision: int
    recorded: int
    prefix: int
    mask: NDArray[np.bool_] | None
    most_hidden: int
    numbers: NDArray[np.int32] | None = None

    def within(
        self,
        first: int,
        stop: int,
        ended: NDArray[np.int64],
        numbers: NDArray[np.int32] | None = None,
    ) -> Visible:
        """The same for rows [first, stop) alone, counted from 0; or for some of them.

        Args:
            first: Becomes row 0.
            stop: Rows from it on are left out.
            ended: At least those rows of the result that have an end, as the result counts them.
            numbers: Which rows are kept, as offsets from `first`, ascending; None: all.

        Cost: O(1), and a gather of the mask where there are `numbers`.
        """
        view = self.view
        recorded = min(max(self.recorded - first, 0), stop - first)
        prefix = min(max(self.prefix - first, 0), stop - first)
        mask = None if self.mask is None else self.mask[first : first + prefix]
        if numbers is not None:
            recorded = int(np.searchsorted(numbers, recorded))
            prefix = int(np.searchsorted(numbers, prefix))
            mask = None if mask is None else mask[numbers[:prefix]]
        view = view._replace(
            rows=stop - first if numbers is None else len(numbers),
            from_us=view.from_us[first:stop],
            until_us=view.until_us[first:stop],
            until_revision=view.until_revision[first:stop],
            revision=view.revision[first:stop],
            ended=ended,
            ended_rows=len(ended),
        )
        most_hidden = 0 if self.time_us < view.min_until else min(prefix, len(ended))
        return Visible(
            view, self.time_us, self.revision, recorded, prefix, mask, most_hidden, numbers
        )

    def full_mask(self, first: int = 0) -> NDArray[np.bool_] | None:
        """Everything in one mask over rows [first, prefix), or None if all of them are visible.

        Cost: O(1) if nothing ended, else O(prefix - first).
        """
        mask = None if self.mask is None else self.mask[first:]
        if not self.most_hidden or first >= self.prefix:
            return mask
        hidden = self._hidden(first)
        if not len(hidden):
            return mask
        mask = np.ones(self.prefix - first, np.bool_) if mask is None else mask.copy()
        mask[hidden] = False
        return mask

    def rows(self) -> NDArray[np.int64]:
        """Their numbers, ascending. O(prefix)."""
        mask = self.full_mask()
        return np.arange(self.prefix) if mask is None else np.flatnonzero(mask)

    def passing(self) -> int:
        """How many rows these are. Cost: as `full_mask`."""
        mask = self.full_mask()
        return self.prefix if mask is None else int(np.count_nonzero(mask))

    def is_hidden(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of `rows` ended by the time and revision."""
        at = rows if self.numbers is None else self.numbers[rows]
        is_past = self.view.until_us[at] <= self.time_us
        return is_past & (self.view.until_revision[at] <= self.revision)

    def is_ambiguous(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of `rows` ended in time, but by an entry after the revision.

        At that revision an earlier end may have been in force, which the columns no longer hold.
        """
        if self.time_us < self.view.min_until:
            return np.zeros(len(rows), np.bool_)
        at = rows if self.numbers is None else self.numbers[rows]
        is_past = self.view.until_us[at] <= self.time_us
        return is_past & (self.view.until_revision[at] > self.revision)

    def _hidden(self, first: int) -> NDArray[np.int64]:
        view, prefix = self.view, self.prefix
        if view.ended_rows * 4 > prefix - first:
            at = slice(first, prefix) if self.numbers is None else self.numbers[first:prefix]
            is_past = view.until_us[at] <= self.time_us
            return np.flatnonzero(is_past & (view.until_revision[at] <= self.revision))
        rows = view.ended[: view.ended_rows]
        rows = rows[(rows >= first) & (rows < prefix)]
        return rows[self.is_hidden(rows)] - first


_NOTHING = np.empty(0, np.int64)


def _known_by(view: View, time_us: int) -> NDArray[np.bool_]:
    return view.from_us[: view.rows] <= time_us


def visible(
    view: View,
    time_us: int,
    revision: int,
    allow: NDArray[np.bool_] | None = None,
    known_by: Callable[[View, int], NDArray[np.bool_]] = _known_by,
) -> Visible:
    """Rows visible at (`time_us`, `revision`) and allowed.

    Args:
        view: The columns.
        time_us: Known and not ended by then.
        revision: Recorded by then.
        allow: A mask over rows; rows past its end are not allowed. None allows all.
        known_by: Which rows are known by a time, for at least the rows of the view.

    Cost: O(1) for now; O(log rows) for the past where times are sorted, O(rows) where not.
    """
    recorded = view.rows
    if revision < view.last_revision:
        recorded = int(np.searchsorted(view.revision[:recorded], revision, "right"))
    prefix = recorded if allow is None else min(recorded, len(allow))
    mask: NDArray[np.bool_] | None = None
    if time_us < view.max_from:
        if view.is_from_sorted:
            prefix = int(np.searchsorted(view.from_us[:prefix], time_us, "right"))
        else:
            mask = known_by(view, time_us)[:prefix]
    if allow is not None:
        mask = allow[:prefix] if mask is None else mask & allow[:prefix]
    most_hidden = 0 if time_us < view.min_until else min(prefix, view.ended_rows)
    return Visible(view, time_us, revision, recorded, prefix, mask, most_hidden)


class Columns:
    """The columns of one partition, written by one thread. Readers take `view`."""

    def __init__(self) -> None:
        empty = _NOTHING
        self._past: dict[int, NDArray[np.bool_]] = {}
        self.view = View(
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
