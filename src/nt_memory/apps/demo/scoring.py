"""How good a forecast of log volatility was, and how sure that is.

Arrays have shape (n_days, n_tickers); NaN marks a missing forecast or outcome and is left out. When
methods are compared, leave out the same places for all of them (`compared_on`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from nt_memory.apps.demo.target import HORIZON
from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Mask = NDArray[np.bool_]

NEWEY_WEST_LAG = 10
Z_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy of one method.

    Attributes:
        mae: Mean absolute error of log volatility.
        rmse: Root mean squared error of log volatility.
        r2: 1 - squared errors over squared deviations of the outcomes from their mean.
        qlike: Mean of v / f - log(v / f) - 1 for variances v and bias-corrected forecasts f of it.
        n: Forecasts judged.
    """

    mae: float
    rmse: float
    r2: float
    qlike: float
    n: int


@dataclass(frozen=True, slots=True)
class Ratio:
    """Mean loss over mean loss, with a 95 % interval; below 1 the first method is better."""

    value: float
    low: float
    high: float


def compared_on(actual: Floats, forecasts: Iterable[Floats]) -> Mask:
    """Places where the outcome and every forecast is known."""
    is_known = np.isfinite(actual)
    for predicted in forecasts:
        is_known &= np.isfinite(predicted)
    return is_known


def score(predicted: Floats, actual: Floats, correction: Floats | None = None) -> Score:
    """Accuracy over all places where both are known.

    Args:
        predicted: Forecasts of log volatility.
        actual: Outcomes.
        correction: What each day's variance forecast is multiplied with for QLIKE, shape (n_days,), as
            from `variance_corrections`; None for none.

    Raises:
        InvalidInputError: nothing to judge.
    """
    is_known = compared_on(actual, [predicted])
    n = int(np.count_nonzero(is_known))
    if n == 0:
        raise InvalidInputError("no forecast has a known outcome")
    factor = np.ones(actual.shape[0]) if correction is None else correction
    log_factor = np.broadcast_to(np.log(factor)[:, None], actual.shape)[is_known]
    happened = actual[is_known]
    errors = happened - predicted[is_known]
    log_ratio = 2.0 * errors - log_factor
    squared = float(np.sum(errors**2))
    spread = float(np.sum((happened - np.mean(happened)) ** 2))
    return Score(
        mae=float(np.mean(np.abs(errors))),
        rmse=math.sqrt(squared / n),
        r2=1.0 - squared / spread if spread > 0.0 else math.nan,
        qlike=float(np.mean(np.exp(log_ratio) - log_ratio - 1.0)),
        n=n,
    )


@dataclass(frozen=True, slots=True)
class VarianceCorrection:
    """What exp(2 * forecast) must be multiplied with to be right on average, learned as it goes.

    The exponential of a log-volatility forecast underestimates the variance (Jensen), by a factor that
    depends on the forecast's error. The factor that minimises QLIKE is the mean of v / f so far; before
    anything is known it is 1.
    """

    total: float = 0.0
    count: int = 0

    @property
    def factor(self) -> float:
        """The factor to use now."""
        return self.total / self.count if self.count else 1.0

    def after(self, errors: Iterable[float]) -> VarianceCorrection:
        """State after outcomes became known; `errors` are outcome minus forecast, NaN is skipped."""
        ratios = [math.exp(2.0 * error) for error in errors if not math.isnan(error)]
        return replace(self, total=self.total + math.fsum(ratios), count=self.count + len(ratios))


def variance_corrections(predicted: Floats, actual: Floats) -> Floats:
    """The factor of `VarianceCorrection` in use on each day, shape (n_days,).

    Day t's factor has learned from the forecasts up to day t - 5, whose outcomes are known by then.
    """
    state = VarianceCorrection()
    factors = np.ones(predicted.shape[0])
    for day in range(HORIZON, predicted.shape[0]):
        past = day - HORIZON
        state = state.after((actual[past] - predicted[past]).tolist())
        factors[day] = state.factor
    return factors


def coverage(low: Floats, high: Floats, actual: Floats) -> float:
    """Share of known outcomes within [low, high]; NaN if there is none."""
    is_known = compared_on(actual, [low, high])
    is_inside = (actual >= low) & (actual <= high)
    return float(np.mean(is_inside[is_known])) if np.any(is_known) else math.nan


def coverage_by_year(
    dates: Sequence[date], low: Floats, high: Floats, actual: Floats
) -> dict[int, float]:
    """`coverage` of the days of each calendar year that has known outcomes."""
    years = np.array([day.year for day in dates])
    found = {
        int(year): coverage(low[years == year], high[years == year], actual[years == year])
        for year in np.unique(years)
    }
    return {year: share for year, share in found.items() if not math.isnan(share)}


def interval_score(low: Floats, high: Floats, actual: Floats, level: float) -> float:
    """Mean interval score; lower is better.

    Width, plus 2 / (1 - level) times the distance by which an outcome fell outside.

    Source: Gneiting & Raftery 2007, equation 43.
    """
    is_known = compared_on(actual, [low, high])
    below = np.maximum(low - actual, 0.0)
    above = np.maximum(actual - high, 0.0)
    scores = (high - low) + 2.0 / (1.0 - level) * (below + above)
    return float(np.mean(scores[is_known])) if np.any(is_known) else math.nan


def newey_west_error(series: Floats, lag: int = NEWEY_WEST_LAG) -> float:
    """Standard error of the mean of a daily series, robust to autocorrelation.

    Source: Newey & West 1987, Bartlett weights 1 - l / (lag + 1), no small-sample factor.
    """
    n = series.shape[0]
    centred = series - np.mean(series)
    variance = float(np.sum(centred * centred)) / n
    for step in range(1, min(lag, n - 1) + 1):
        weight = 1.0 - step / (lag + 1)
        variance += 2.0 * weight * float(np.sum(centred[step:] * centred[:-step])) / n
    return math.sqrt(max(variance, 0.0) / n)


def ratio(loss: Floats, other: Floats) -> Ratio:
    """How the losses of one method compare with another's, on the places known for both.

    Overlapping labels and common shocks make forecasts of one day, and of neighbouring days, say nearly
    the same. The interval therefore rests on one number a day, the mean loss difference over tickers,
    with a Newey-West error of lag 10; the other method's mean loss is taken as given.

    Args:
        loss: Losses such as absolute errors.
        other: Losses of the method compared with, same shape.

    Raises:
        InvalidInputError: no day is known for both, or the other method's loss is zero.
    """
    is_known = compared_on(loss, [other])
    count = np.count_nonzero(is_known, axis=1)
    has_any = count > 0
    if not np.any(has_any):
        raise InvalidInputError("no day to compare")
    mine = np.sum(np.where(is_known, loss, 0.0), axis=1)[has_any] / count[has_any]
    theirs = np.sum(np.where(is_known, other, 0.0), axis=1)[has_any] / count[has_any]
    reference = float(np.mean(theirs))
    if reference <= 0.0:
        raise InvalidInputError("the method compared with has no loss")
    value = float(np.mean(mine)) / reference
    margin = Z_95 * newey_west_error(mine - theirs) / reference
    return Ratio(value, value - margin, value + margin)
