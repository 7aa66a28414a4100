"""Which patterns hold more than chance would: tests against shifted outcomes, and promotion by them.

A pattern claims that what came in its situations differs from what came in all others. With overlapping
labels, and many stocks moved by one market, thousands of situations may carry a few dozen independent
facts, so the claim is judged by three things together:

- *The statistic*: the difference of the two means over a standard error from day-summed influences with
  autocorrelation taken in. What moves a whole day moves both sides of the difference and cancels as far
  as both sides were there that day.
- *Circular shifts*: the day x ticker panel of outcomes is moved along the days, round and round, while
  the situations stay. Any link between a situation and what came of it is cut, what days, tickers and
  neighbouring days have in common is kept. The statistic is computed for each shift. If its spread over
  the shifts is wider than its error claims, the error was too small, and the statistic is divided by it. Nor
  is the error less than what the difference itself spreads over the shifts: of a few days on which nothing
  happened the variance is nothing, which says more of the days than of the situation.
- *Student's tail*, with as many degrees of freedom as there are separate stretches of days.

The p-value is not the rank among the shifts, because neighbouring shifts say the same: a panel of 1,000
days has perhaps 100 different ones, and no rank among 100 could pass a correction for 64 patterns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.reasoningbank.definition import DAY_US
from nt_memory.reasoningbank.dependence import (
    choose_lag,
    freedom_of,
    long_run_variances,
    student_tails,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

SHIFTS = 64
MIN_SHIFTS = 16
CELLS = 100_000_000
"""Days x clusters x shifts to go through at most; fewer shifts are made of more days, down to 16."""
MIN_STRETCHES = 12
Q = 0.1
"""Share of false promotions that is tolerated over all looks at an action type."""


class ClusterEffects(NamedTuple):
    """One test a cluster; all shape (k,), by cluster.

    Attributes:
        effect: Mean in the cluster minus mean outside; NaN where there is nothing to compare.
        error: Its standard error, shifts taken into account; infinite where it cannot be said.
        p_value: Two-sided; NaN where too few separate stretches of days speak to test at all.
        stretches: Separate stretches of days with situations of the cluster.
    """

    effect: Floats
    error: Floats
    p_value: Floats
    stretches: Ints


class Panel:
    """Values by day, and by rank within the day: what is shifted.

    The rank stands for the ticker: who tracks the same tickers each day in the same order gets the panel
    of tickers. A day with another number of values is stretched over, rank for rank.

    Args:
        values: Shape (n,), finite, in the agreed order.
        at_us: When each situation was, microseconds, shape (n,).
    """

    def __init__(self, values: Floats, at_us: Ints) -> None:
        numbers = at_us // DAY_US
        self.order: Ints = np.argsort(numbers, kind="stable")
        _, day, size = np.unique(numbers[self.order], return_inverse=True, return_counts=True)
        self.day: Ints = day
        self.size: Ints = size
        self.start: Ints = np.concatenate(([0], np.cumsum(self.size)))[:-1]
        self.rank: Ints = np.arange(len(values)) - self.start[self.day]
        self.values: Floats = values[self.order]

    @property
    def days(self) -> int:
        """Days with values."""
        return len(self.size)

    def shifted(self, by: int) -> Floats:
        """The values, those of `by` days later in place of each day's; by day and rank."""
        other = (self.day + by) % self.days
        there = self.start[other] + self.rank * self.size[other] // self.size[self.day]
        moved: Floats = self.values[there]
        return moved


def measure_clusters(
    values: Floats, at_us: Ints, cluster: Ints, horizon_days: int, shifts: int = SHIFTS
) -> ClusterEffects:
    """Test for each cluster whether its values differ from all others.

    Args:
        values: What came, best as a difference to what was to be expected; shape (n,), finite.
        at_us: When each situation was, microseconds, shape (n,).
        cluster: Which cluster each is in, from 0, shape (n,).
        horizon_days: Over how many days values overlap.
        shifts: Shifts to compare with.

    Cost: about 30 nanoseconds a value and shift, and 40 a day, cluster and shift.
    Source: circular shifts as in Politis & Romano 1992's circular blocks, here of the whole panel at
        once; the statistic is Newey & West 1987's. Departure: shifts calibrate the spread of the
        statistic, its tail is Student's.
    """
    panel = Panel(values, at_us)
    k = int(cluster.max()) + 1 if len(cluster) else 0
    nothing = np.full(k, np.nan)
    lag = choose_lag(panel.days, horizon_days)
    groups = _Groups(panel, cluster[panel.order], k, lag)
    if k < 2 or panel.days < 2 * (lag + 1):
        return ClusterEffects(nothing, np.full(k, np.inf), nothing, groups.stretches)
    effect, error = groups.compare(panel.values)
    most = max(MIN_SHIFTS, min(shifts, CELLS // (panel.days * k)))
    lags = np.linspace(lag + 1, panel.days - lag - 1, most).astype(np.int64)
    chosen = np.unique(lags).tolist()
    squares, spread = np.zeros(k), np.zeros(k)
    for by in chosen:
        at_shift, its_error = groups.compare(panel.shifted(by))
        squares += studentised(at_shift, its_error) ** 2
        spread += at_shift**2
    error = calibrated(error, squares / len(chosen), spread / len(chosen), groups.freedom)
    return ClusterEffects(effect, error, groups.p_values(effect, error), groups.stretches)


def studentised(effect: Floats, error: Floats) -> Floats:
    """Effects in units of their errors; 0 where there is no error."""
    t: Floats = np.where(error > 0.0, effect / np.maximum(error, 1e-300), 0.0)
    return t


def calibrated(error: Floats, squares: Floats, spread: Floats, freedom: Floats) -> Floats:
    """Errors of effects, as far as shifts show that they are too small; never less than they were.

    A cluster's own values are a poor measure of how far chance could have taken them where they are few and
    labels are lopsided: with one label of five a 1 and the others 0, p-values of 1e-6 by the own error alone came
    a hundred times as often as they should. What shifts take into the cluster's days has the spread of all values.

    Args:
        error: From the values that each cluster has.
        squares: Mean over the shifts of the studentised effect's square.
        spread: Mean over the shifts of the effect's square.
        freedom: Degrees of freedom of `error`.
    """
    usual = np.where(freedom > 2.0, freedom / np.maximum(freedom - 2.0, 0.5), 3.0)
    widened: Floats = np.maximum(error * np.sqrt(np.maximum(squares / usual, 1.0)), np.sqrt(spread))
    return widened


def day_means(values: Floats, at_us: Ints) -> Floats:
    """Mean of each day that has values, in order."""
    _, day, size = np.unique(at_us // DAY_US, return_inverse=True, return_counts=True)
    means: Floats = np.bincount(day, weights=values) / size
    return means


class _Groups:
    """Who is in which cluster on which day; fixed while values are shifted."""

    def __init__(self, panel: Panel, cluster: Ints, k: int, lag: int) -> None:
        self._panel, self._k, self._lag = panel, k, lag
        self._cell = panel.day * k + cluster
        counts = np.bincount(self._cell, minlength=panel.days * k).reshape(panel.days, k)
        self._inside = counts.astype(np.float64)
        self._outside = panel.size[:, None] - self._inside
        self._n = np.maximum(self._inside.sum(axis=0), 1.0)
        self._rest = np.maximum(self._outside.sum(axis=0), 1.0)
        window = np.arange(panel.days) // (lag + 1)
        starts = np.flatnonzero(np.diff(window, prepend=-1))
        self.stretches: Ints = (np.add.reduceat(counts, starts, axis=0) > 0).sum(axis=0)
        self.freedom, self._shrinkage = freedom_of(self.stretches.astype(np.float64))

    def p_values(self, effect: Floats, error: Floats) -> Floats:
        """Two-sided, shape of `effect`; NaN where there is too little to test."""
        is_testable = (self.stretches >= MIN_STRETCHES) & (error > 0.0) & np.isfinite(error)
        t = np.where(is_testable, np.abs(effect) / np.where(is_testable, error, 1.0), 0.0)
        tails = student_tails(t, np.broadcast_to(self.freedom, t.shape))
        p: Floats = np.where(is_testable, np.minimum(2.0 * tails, 1.0), np.nan)
        return p

    def compare(self, values: Floats) -> tuple[Floats, Floats]:
        """Difference of each cluster's mean to the others', and its standard error."""
        days, k = self._panel.days, self._k
        inside = np.bincount(self._cell, weights=values, minlength=days * k).reshape(days, k)
        whole = np.add.reduceat(values, self._panel.start)
        outside = whole[:, None] - inside
        mean = inside.sum(axis=0) / self._n
        rest = outside.sum(axis=0) / self._rest
        influence = (inside - self._inside * mean) / self._n
        influence -= (outside - self._outside * rest) / self._rest
        variance = long_run_variances(influence, self._lag) / self._shrinkage
        return mean - rest, np.sqrt(variance)


def promoted(p_values: Sequence[float] | Floats, q: float, looks: int) -> NDArray[np.bool_]:
    """Which of some p-values, all tested at one look, are promoted.

    Args:
        p_values: Shape (m,); NaN: not tested, which counts for nothing.
        q: Share of false promotions to tolerate over all looks, in (0, 1).
        looks: Looks declared in advance, >= 1.

    Source: Benjamini & Hochberg 1995, at q / looks: the shares of all looks add up to at most q.
    """
    p = np.asarray(p_values, dtype=np.float64)
    found = np.zeros(len(p), np.bool_)
    tested = np.flatnonzero(np.isfinite(p))
    m = len(tested)
    if not m:
        return found
    ordered = np.sort(p[tested])
    passing = np.flatnonzero(ordered <= q / looks * np.arange(1, m + 1) / m)
    if len(passing):
        found[tested] = p[tested] <= ordered[passing[-1]]
    return found
