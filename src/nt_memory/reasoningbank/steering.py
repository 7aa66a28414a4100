"""What judged forecasts of a group of agents teach the next one, without folding all of them again."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nt_memory.reasoningbank.columns import SHOWN, counted
from nt_memory.reasoningbank.conformal import AdaptiveAlpha, AdaptiveBias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nt_memory.reasoningbank.columns import Lane, Table
    from nt_memory.timeline import Moment

MAX_STEPS = 256
"""Outcomes taken in one by one; beyond that the rebuild is faster."""
_EARLY = -(2**62)


class Steer(NamedTuple):
    """How to correct what was recalled.

    Attributes:
        alpha: Miss rate to aim the interval at.
        bias: What to add to the centre and both ends.
    """

    alpha: AdaptiveAlpha
    bias: AdaptiveBias

    def after(self, issued: int, missed: int, errors: Sequence[float]) -> Steer:
        """State after one moment of knowing.

        Args:
            issued: Its outcomes that had an interval.
            missed: How many of those missed.
            errors: Outcome minus forecast, where there was a forecast.
        """
        alpha, bias = self
        if issued:
            alpha = alpha.after(missed / issued)
        if errors:
            # fsum, because the order in which one moment's outcomes were written must not matter.
            bias = bias.after(math.fsum(errors) / len(errors))
        return Steer(alpha, bias)


class _Open:
    """The latest moment of knowing: more of its outcomes may come."""

    __slots__ = ("errors", "issued", "known", "missed")

    def __init__(self, known: int = _EARLY) -> None:
        self.known = known
        self.issued = 0
        self.missed = 0
        self.errors: list[float] = []


def steer_at(
    table: Table, lanes: Sequence[Lane], moment: Moment, start: Steer
) -> tuple[Steer, _Open]:
    """State before the latest moment of knowing that a moment shows, and that moment.

    Cost: about 5 microseconds a moment of knowing.
    """
    entries, view = counted(table, lanes, moment)
    order = np.argsort(view.known[entries], kind="stable")
    entries = entries[order]
    value, known = view.value[entries], view.known[entries]
    entry = table.entry
    is_issued, is_missed = _intervals(entry, entries, value, 1.0 - start.alpha.target)
    error = value - entry["predicted"][entries]
    # Only what the bank said itself teaches it: an agent's own forecast is not its mistake.
    useful = (is_issued | np.isfinite(error)) & (entry["arm"][entries] == SHOWN)
    known, error = known[useful], error[useful]
    issued, missed = is_issued[useful], is_missed[useful]
    starts = np.flatnonzero(np.diff(known, prepend=_EARLY)).tolist()
    latest = _Open()
    state = start
    for first, last in itertools.pairwise([*starts, len(error)]):
        state = state.after(latest.issued, latest.missed, latest.errors)
        latest = _Open(int(known[first]))
        latest.issued = int(np.count_nonzero(issued[first:last]))
        latest.missed = int(np.count_nonzero(missed[first:last]))
        errors = error[first:last]
        latest.errors = errors[np.isfinite(errors)].tolist()
    return state, latest


def _intervals(
    entry: NDArray[Any], entries: NDArray[np.int64], value: NDArray[np.float64], level: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    low, high = entry["low"][entries], entry["high"][entries]
    is_issued = np.isfinite(low) & (np.abs(entry["level"][entries] - level) < 1e-9)
    return is_issued, is_issued & ((value < low) | (value > high))


class Steering:
    """The state of some lanes at one level.

    Args:
        table: The action type's memories.
        lanes: Whose forecasts teach.
        start: State before any forecast was judged.
    """

    def __init__(self, table: Table, lanes: Sequence[Lane], start: Steer) -> None:
        self._table = table
        self._lanes = lanes
        self._numbers = frozenset(lane.number for lane in lanes)
        self._start = start
        self._epoch = -1
        self._position = 0
        self._state = start
        self._open = _Open()

    def at(self, moment: Moment) -> Steer:
        """State from the forecasts whose outcome counts at a moment.

        Cost: 2 microseconds an outcome since the last call for the present, else `steer_at`.
        """
        if not self._table.is_present(moment):
            state, latest = steer_at(self._table, self._lanes, moment, self._start)
            return state.after(latest.issued, latest.missed, latest.errors)
        if not self._advance():
            self._state, self._open = steer_at(self._table, self._lanes, moment, self._start)
            self._epoch, self._position = self._table.epoch, self._table.log.size
        latest = self._open
        return self._state.after(latest.issued, latest.missed, latest.errors)

    def _advance(self) -> bool:
        """Take in new outcomes; False if they do not simply follow the ones before."""
        if self._epoch != self._table.epoch:
            return False
        news = self._table.log.array[self._position :]
        if len(news) > MAX_STEPS:
            return False
        self._position += len(news)
        return all(self._step(version) for version in news)

    def _step(self, version: Any) -> bool:
        record = self._table.entry[version["entry"]]
        if int(record["lane"]) not in self._numbers or record["arm"] != SHOWN:
            return True
        level = 1.0 - self._start.alpha.target
        is_issued = not math.isnan(record["low"]) and abs(float(record["level"]) - level) < 1e-9
        error = float(version["value"] - record["predicted"])
        if not is_issued and math.isnan(error):
            return True
        known = int(version["known"])
        latest = self._open
        if known < latest.known:
            return False
        if known > latest.known:
            self._state = self._state.after(latest.issued, latest.missed, latest.errors)
            latest = self._open = _Open(known)
        is_covered = bool(record["low"] <= version["value"] <= record["high"])
        latest.issued += int(is_issued)
        latest.missed += int(is_issued and not is_covered)
        if not math.isnan(error):
            latest.errors.append(error)
        return True
