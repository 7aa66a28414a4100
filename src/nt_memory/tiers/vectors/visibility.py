"""When a row of a partition is visible: a look at its columns, and pure functions over it.

A row is visible at (time, revision) if it was recorded by then (`revision <= r`), known by then
(`from_us <= t`), and not yet ended: `until_us > t`, or it was ended by an entry after `r`. Rows are
numbered in the order of their revisions, so "recorded by r" is always a prefix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

NEVER = 2**63 - 1


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
