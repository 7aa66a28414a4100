"""Standard errors that survive dependence.

Overlapping labels of many stocks on one day repeat each other: 40,000 five-day forecasts of 20
stocks are worth about 1,850 independent ones. Values are therefore summed by day first, which takes
in any dependence within a day, and the variance of the daily sums takes in the days before (Newey &
West 1987, Bartlett weights).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.reasoningbank.definition import DAY_US

if TYPE_CHECKING:
    from numpy.typing import NDArray

Z95 = 1.959963984540054


class Mean(NamedTuple):
    """A mean and how far to trust it.

    Attributes:
        value: The mean; NaN if there are no values.
        standard_error: Of the mean; infinite where fewer than two days speak.
        n: Values.
        n_effective: Independent values that would give this standard error, in [1, n].
    """

    value: float
    standard_error: float
    n: int
    n_effective: float

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.value - Z95 * self.standard_error

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.value + Z95 * self.standard_error


def choose_lag(days: int, horizon_days: int) -> int:
    """Lags to take in: twice the overlap of the labels, or the usual rule if that is more.

    Source: Newey & West 1994 for `floor(4 (days / 100)^(2/9))`. Doubling the overlap makes up for
    Bartlett weights, which count the last overlapping lags too little.
    """
    usual = math.floor(4.0 * (max(days, 1) / 100.0) ** (2.0 / 9.0))
    return int(max(0, min(max(2 * horizon_days, usual), days - 1)))


def daily_mean(values: NDArray[np.float64], at_us: NDArray[np.int64], horizon_days: int) -> Mean:
    """Mean of `values` with a day-summed, autocorrelation-robust standard error.

    Args:
        values: Shape (n,), finite, in an order that does not depend on chance.
        at_us: When each was predicted, microseconds, shape (n,).
        horizon_days: Over how many days labels overlap.

    Source: Newey & West 1987 on daily sums; days without values do not count as days.
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
    error = math.sqrt(max(long_run_variance(sums, choose_lag(days, horizon_days)), 0.0)) / n
    spread = float(np.sum(apart * apart) / n)
    # Equal values differ from their mean by rounding, which says nothing about dependence.
    if spread <= 1e-24 * mean * mean:
        return Mean(mean, 0.0, n, float(days))
    effective = spread / (error * error) if error > 0.0 else float(n)
    return Mean(mean, error, n, min(max(effective, 1.0), float(n)))


def long_run_variance(sums: NDArray[np.float64], lag: int) -> float:
    """Variance of the total of centred daily sums; never negative.

    Args:
        sums: Shape (days,), at least two.
        lag: Days back that are taken in.
    """
    days = len(sums)
    total = float(np.sum(sums * sums))
    for back in range(1, lag + 1):
        weight = 1.0 - back / (lag + 1.0)
        total += 2.0 * weight * float(np.sum(sums[back:] * sums[:-back]))
    return total * days / (days - 1)
