"""How far off a predictor usually is, without going through all of its forecasts for every verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nt_memory.reasoningbank.columns import counted
from nt_memory.reasoningbank.growing import Growing
from nt_memory.reasoningbank.verdict import HALF_NORMAL, MIN_ERRORS, error_scale

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nt_memory.reasoningbank.columns import Lane, Table
    from nt_memory.timeline import Moment

    Ints = NDArray[np.int64]


def scale_before(table: Table, lane: Lane, definition: int, moment: Moment, known: int) -> float:
    """Error scale from a lane's forecasts under one definition, as a moment shows them.

    What `ErrorHistory.before` must agree with to the last bit; it goes through all of them.

    Args:
        table: The action type's memories.
        lane: Whose.
        definition: Revision of the definition that judges them.
        moment: Which outcomes count.
        known: Only outcomes known strictly before this, microseconds.
    """
    entries, view = counted(table, (lane,), moment)
    entries = entries[table.entry["definition"][entries] == definition]
    error = table.entry["predicted"][entries] - view.value[entries]
    return error_scale(error, view.known[entries], known)


class ErrorHistory:
    """Sums of a lane's errors under one definition, in the order in which they became known.

    They hold for the present and go on as the table's log does. When an outcome is revised or
    forgotten, which the table's epoch tells, or one comes that was known before the last one here,
    the sums are made anew.

    Args:
        table: The action type's memories.
        lane: Whose.
        definition: Revision of the definition that judges them.
    """

    def __init__(self, table: Table, lane: Lane, definition: int) -> None:
        self._table = table
        self._lane = lane
        self._definition = definition
        self._epoch = -1
        self._position = 0
        self._start()

    def _start(self) -> None:
        self._known = Growing(np.int64)
        self._total = Growing(np.float64)
        self._last = (-(2**62), -1)

    def before(self, moment: Moment, known: int) -> float:
        """Error scale from outcomes that a moment shows, known strictly before `known`.

        Cost: a search, and what came since the last call; if the moment is not the present, or an
            outcome came out of order, a pass over the lane: about 20 nanoseconds a forecast.
        """
        table = self._table
        if not table.is_present(moment):
            return scale_before(table, self._lane, self._definition, moment, known)
        self._catch_up(moment)
        count = int(self._known.array.searchsorted(known))
        if count < MIN_ERRORS:
            return float("nan")
        return HALF_NORMAL * float(self._total.array[count - 1]) / count

    def _catch_up(self, moment: Moment) -> None:
        table = self._table
        is_same = self._epoch == table.epoch
        if is_same and self._position == table.log.size:
            return
        news = table.log.array["entry"][self._position :] if is_same else np.zeros(0, np.int64)
        self._epoch, self._position = table.epoch, table.log.size
        if not (
            is_same and self._take(news[table.entry["lane"][news] == self._lane.number], moment)
        ):
            self._start()
            self._take(counted(table, (self._lane,), moment)[0], moment)

    def _take(self, entries: Ints, moment: Moment) -> bool:
        """Add entries' errors; False if one belongs before those that are here."""
        table, view = self._table, self._table.view(moment)
        entries = entries[table.entry["definition"][entries] == self._definition]
        size = np.abs(table.entry["predicted"][entries] - view.value[entries])
        is_there = np.isfinite(size)
        entries, size = entries[is_there], size[is_there]
        if not len(entries):
            return True
        known = view.known[entries]
        order = np.lexsort((entries, known))
        entries, known, size = entries[order], known[order], size[order]
        if (int(known[0]), int(entries[0])) < self._last:
            return False
        if self._total.size:
            size[0] += self._total.array[-1]
        self._known.extend(known)
        self._total.extend(np.cumsum(size))
        self._last = (int(known[-1]), int(entries[-1]))
        return True
