"""Standard errors that survive dependence.

Overlapping labels of many stocks on one day repeat each other: 40,000 five-day forecasts of 20
stocks are worth about 1,850 independent ones. Values are therefore summed by day first, which takes
in any dependence within a day, and the variance of the daily sums takes in the days before. That
variance is an estimate from a few separate stretches of days, so intervals are Student's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.reasoningbank.definition import DAY_US

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Z95 = 1.959963984540054


class Mean(NamedTuple):
    """A mean and how far to trust it.

    Attributes:
        value: The mean; NaN if there are no values.
        standard_error: Of the mean; infinite where fewer than two days speak.
        n: Values.
        n_effective: Independent values that would give this standard error, in [1, n].
        freedom: Degrees of freedom of the standard error; infinite where it is known.
    """

    value: float
    standard_error: float
    n: int
    n_effective: float
    freedom: float = math.inf

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.value - student_95(self.freedom) * self.standard_error

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.value + student_95(self.freedom) * self.standard_error

    @property
    def p_above_zero(self) -> float:
        """Chance of so large a mean if the true one were zero; 1 where nothing can be said."""
        if not (math.isfinite(self.value) and 0.0 < self.standard_error < math.inf):
            return 1.0
        t = np.array([self.value / self.standard_error])
        return float(student_tails(t, np.array([self.freedom]))[0])


def choose_lag(days: int, horizon_days: int) -> int:
    """Lags to take in: twice the overlap of the labels, or the usual rule if that is more.

    Source: Newey & West 1994 for `floor(4 (days / 100)^(2/9))`. Up to the overlap lags count in full,
        see `long_run_variances`.
    """
    usual = math.floor(4.0 * (max(days, 1) / 100.0) ** (2.0 / 9.0))
    return int(max(0, min(max(2 * horizon_days, usual), days - 1)))


def daily_mean(values: Floats, at_us: NDArray[np.int64], horizon_days: int) -> Mean:
    """Mean of `values` with a day-summed, autocorrelation-robust standard error.

    Args:
        values: Shape (n,), finite, in an order that does not depend on chance.
        at_us: When each was predicted, microseconds, shape (n,).
        horizon_days: Over how many days labels overlap.

    Source: Newey & West 1987's idea on daily sums, with `long_run_variances`; days without values do not count as days. The error is
        itself an estimate from few stretches of days: see `freedom_of`.
    """
    n = len(values)
    if n == 0:
        return Mean(math.nan, math.inf, 0, 0.0)
    mean = float(np.sum(values) / n)
    apart = values - mean
    _, day = np.unique(at_us // DAY_US, return_inverse=True)
    sums = np.bincount(day, weights=apart).astype(np.float64)
    days = len(sums)
    if days < 2:
        return Mean(mean, math.inf, n, 1.0)
    lag = choose_lag(days, horizon_days)
    freedom, shrinkage = freedom_of(np.array([days / (lag + 1.0)]))
    variance = long_run_variances(sums[:, None], lag)[0] / shrinkage[0]
    error = math.sqrt(variance) / n
    spread = float(np.sum(apart * apart) / n)
    # Equal values differ from their mean by rounding, which says nothing about dependence.
    if spread <= 1e-24 * mean * mean:
        return Mean(mean, 0.0, n, float(days))
    effective = spread / (error * error) if error > 0.0 else float(n)
    return Mean(mean, error, n, min(max(effective, 1.0), float(n)), float(freedom[0]))


def long_run_variances(sums: Floats, lag: int) -> Floats:
    """Variance of the total of centred daily sums, one a column; never negative.

    Lags up to half of `lag` count in full, later ones less and less. Bartlett weights, which fall from
    the first lag on, miss a sixth of the variance of labels that overlap by five days.

    Args:
        sums: Shape (days, k), at least two days; days in order.
        lag: Days back that are taken in.

    Source: Politis & Romano 1995's trapezoid, as twice a Bartlett window less one of half its width
        (the zero lugsail of Vats & Flegal 2022). Such an estimate may be negative; it is not let
        below half of Bartlett's. (Not below all of it, intervals covered 95.8 % instead of 95.)
    Cost: a few passes over `sums`, whatever the lag.
    """
    days, _ = sums.shape
    wide = _bartlett(sums, lag + 1)
    total: Floats = np.maximum(2.0 * wide - _bartlett(sums, (lag + 1) // 2 or 1), 0.5 * wide)
    total *= days / (days - 1.0)
    return total


def _bartlett(sums: Floats, width: int) -> Floats:
    """Weighted sum of autocovariances, lag l weighing 1 - l / width.

    It equals the mean square of the sums of all windows of that width, those that hang over the ends
    included (Meketon & Schmeiser 1984), which a cumulative sum gives.
    """
    days, columns = sums.shape
    upto = np.zeros((days + 2 * width - 1, columns))
    np.cumsum(sums, axis=0, out=upto[width : width + days])
    upto[width + days :] = upto[width + days - 1]
    windows = upto[width:] - upto[:-width]
    total: Floats = np.einsum("dk,dk->k", windows, windows) / width
    return total


def freedom_of(stretches: Floats) -> tuple[Floats, Floats]:
    """Degrees of freedom of a long-run variance, and by how much centring shrinks it.

    Args:
        stretches: Windows of lag + 1 days that fit side by side into the days that speak.

    Returns:
        Degrees of freedom, at least 1, and the factor in (0, 1] to divide the variance by.

    Source: for a window k of width b = 1 / stretches of all days, an estimate's relative variance is
        2 b times the integral of k^2, 4/3 for the trapezoid (Andrews 1991), so 3 / (4 b) degrees of
        freedom; centring takes b - b^2 / 3 away from a Bartlett window (Kiefer & Vogelsang 2005), so
        3 b / 2 - 7 b^2 / 12 from the trapezoid.
    """
    b = 1.0 / np.maximum(stretches, 2.0)
    freedom: Floats = np.maximum(0.75 / b, 1.0)
    shrinkage: Floats = 1.0 - 1.5 * b + 7.0 / 12.0 * b * b
    return freedom, shrinkage


def student_tails(t: Floats, freedom: Floats) -> Floats:
    """Upper tail of Student's distribution.

    Source: Wallace 1959's transformation to a normal variable; at a tail of 1e-4 it is 4 % too large at
        10 degrees of freedom and 0.4 % at 30.
    """
    many = np.minimum(freedom, 1e12)
    bent = np.sqrt(many * np.log1p(t * t / many)) * (8.0 * many + 1.0) / (8.0 * many + 3.0)
    z = np.sign(t) * bent
    tails: Floats = np.array([0.5 * math.erfc(one / math.sqrt(2.0)) for one in z.ravel().tolist()])
    return tails.reshape(z.shape)


def student_95(freedom: float) -> float:
    """Half width of a 95 % interval in standard errors; 1.96 with infinite degrees of freedom.

    Source: `student_tails`, turned around.
    """
    if math.isinf(freedom):
        return Z95
    stretched = Z95 * (8.0 * freedom + 3.0) / (8.0 * freedom + 1.0)
    return math.sqrt(freedom * math.expm1(stretched * stretched / freedom))
