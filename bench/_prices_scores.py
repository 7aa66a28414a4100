"""What a walk through the prices was worth: losses in groups of days and tickers, with intervals.

Arrays have shape (n_days, n_tickers), NaN where nothing was said. Intervals come from a circular block
bootstrap of days (Politis & Romano 1992): all tickers of a day stay together, and blocks of 20 days keep
the overlap of five-day labels and most of the persistence of losses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from _prices_walk import ups_of

from nt_memory.apps.demo.target import HORIZON
from nt_memory.reasoningbank.conformal import AdaptiveAlpha

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Mask = NDArray[np.bool_]

BLOCK_DAYS = 20
RESAMPLES = 2_000
BLOCKS = ((1990, 1994), (1995, 1999), (2000, 2004), (2005, 2009), (2010, 2014), (2015, 2019), (2020, 2022))  # fmt: skip
FULL_YEAR = 200
"""Days with forecasts that make a year a full one."""


class Compared(NamedTuple):
    """Mean loss over mean loss, with a 95 % interval, and of how many forecasts."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return "" if self.n == 0 else f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def plain(self) -> dict[str, float]:
        return {name: round(float(one), 6) for name, one in self._asdict().items()}


def compare(loss: Floats, other: Floats, where: Mask, seed: int) -> Compared:
    """Mean loss of one method over another's in some places, where both are known."""
    is_in = where & np.isfinite(loss) & np.isfinite(other)
    n = int(np.count_nonzero(is_in))
    mine = np.where(is_in, loss, 0.0).sum(axis=1)[is_in.any(axis=1)]
    theirs = np.where(is_in, other, 0.0).sum(axis=1)[is_in.any(axis=1)]
    if n == 0 or theirs.sum() <= 0.0:
        return Compared(np.nan, np.nan, np.nan, 0)
    sums = resample(np.stack([mine, theirs]), seed)
    low, high = np.quantile(sums[0] / sums[1], (0.025, 0.975))
    return Compared(float(mine.sum() / theirs.sum()), float(low), float(high), n)


def resample(series: Floats, seed: int) -> Floats:
    """Sums of daily series over resampled days.

    Args:
        series: Shape (m, n_days); the same days are drawn for all m.
        seed: Of the draw.

    Returns:
        Shape (m, RESAMPLES).
    """
    n = series.shape[1]
    size = min(BLOCK_DAYS, n)
    around = np.concatenate([series, series[:, :size]], axis=1)
    until = np.concatenate([np.zeros((len(series), 1)), np.cumsum(around, axis=1)], axis=1)
    of_block = until[:, size : size + n] - until[:, :n]
    starts = np.random.default_rng(seed).integers(n, size=(RESAMPLES, -(-n // size)))
    sums: Floats = of_block[:, starts].sum(axis=-1)
    return sums


def absolute(predicted: Floats, actual: Floats) -> Floats:
    """Absolute errors."""
    errors: Floats = np.abs(actual - predicted)
    return errors


def corrections(predicted: Floats, actual: Floats, prior: float | None) -> Floats:
    """What each variance forecast is multiplied with: the mean of outcome over forecast, as known then.

    Args:
        predicted: Forecasts of log volatility.
        actual: Outcomes, known five days later.
        prior: Days that the mean of all tickers counts beside a ticker's own; None: that of all alone,
            which is the demo's `variance_corrections`.

    Returns:
        Shape (n_days, n_tickers); 1 before anything is known.
    """
    ratios = np.exp(2.0 * (actual - predicted))
    is_known = np.isfinite(ratios)
    total, count = np.zeros(ratios.shape), np.zeros(ratios.shape)
    total[HORIZON:] = np.where(is_known, ratios, 0.0).cumsum(axis=0)[:-HORIZON]
    count[HORIZON:] = is_known.cumsum(axis=0)[:-HORIZON]
    of_all = np.maximum(count.sum(axis=1, keepdims=True), 1.0)
    pooled = np.where(
        count.sum(axis=1, keepdims=True) > 0.0, total.sum(axis=1, keepdims=True) / of_all, 1.0
    )
    if prior is None:
        found: Floats = np.broadcast_to(pooled, ratios.shape)
    else:
        found = (total + prior * pooled) / (count + prior)
    return found


def qlike(predicted: Floats, actual: Floats, prior: float | None = None) -> Floats:
    """QLIKE of each forecast, its variance corrected by what its own errors taught up to then.

    Args:
        predicted: Forecasts of log volatility.
        actual: Outcomes.
        prior: See `corrections`.
    """
    log_ratio = 2.0 * (actual - predicted) - np.log(corrections(predicted, actual, prior))
    losses: Floats = np.exp(log_ratio) - log_ratio - 1.0
    return losses


def qlike_of_variance(variance: Floats, actual: Floats) -> Floats:
    """QLIKE of forecasts of the variance itself, annualised, as they stand."""
    log_ratio = 2.0 * actual - np.log(variance)
    losses: Floats = np.exp(log_ratio) - log_ratio - 1.0
    return losses


def interval_losses(low: Floats, high: Floats, actual: Floats, level: float) -> Floats:
    """Interval score of each forecast (Gneiting & Raftery 2007, equation 43)."""
    outside = np.maximum(low - actual, 0.0) + np.maximum(actual - high, 0.0)
    losses: Floats = (high - low) + 2.0 / (1.0 - level) * outside
    return losses


def covered(low: Floats, high: Floats, actual: Floats) -> Floats:
    """1 where the outcome lies in the interval, 0 where not, NaN where either is unknown."""
    is_in = ((actual >= low) & (actual <= high)).astype(np.float64)
    is_in[~np.isfinite(low + high + actual)] = np.nan
    return is_in


def conformal_linear(
    base: Floats, actual: Floats, level: float, window: int | None, gamma: float, start: int
) -> tuple[Floats, Floats]:
    """The linear forecast with an adaptive conformal interval of its own past errors.

    Args:
        base: The linear forecasts.
        actual: Outcomes, known five days later.
        level: Coverage wanted.
        window: Days of errors to draw quantiles from; None: all.
        gamma: Step of the miss rate aimed at (Gibbs & Candes 2021), one state for all tickers.
        start: First day with an interval.

    Returns:
        Low and high.
    """
    errors = actual - base
    low, high = np.full(base.shape, np.nan), np.full(base.shape, np.nan)
    alpha = AdaptiveAlpha.start(level, gamma)
    for day in range(start, len(base)):
        past = day - HORIZON
        said = covered(low[past : past + 1], high[past : past + 1], actual[past : past + 1])
        if np.isfinite(said).any():
            alpha = alpha.after(1.0 - float(np.nanmean(said)))
        first = 0 if window is None else max(0, past + 1 - window)
        known = errors[first : past + 1]
        known = known[np.isfinite(known)]
        if not known.size:
            continue
        ends = np.quantile(known, (alpha.alpha / 2.0, 1.0 - alpha.alpha / 2.0))
        low[day], high[day] = base[day] + ends[0], base[day] + ends[1]
    return low, high


def up_by_last_return(prices: Floats, scale: Floats, rates: Floats) -> Floats:
    """Probability that the next return is positive, by a regression on the last one: AR(1) of signs.

    Pooled over tickers and fitted anew each day on all that is known: the sign of each day's return
    against the return before, in units of its day's volatility and at most four of them.

    Args:
        prices: Closes.
        scale: Volatility known that day, of one day.
        rates: The as-of base rate, which is said where nothing can be fitted.
    """
    moves = np.full(prices.shape, np.nan)
    moves[1:] = np.log(prices[1:] / prices[:-1])
    x = np.clip(moves / scale, -4.0, 4.0)
    y = ups_of(prices)
    is_known = np.isfinite(x) & np.isfinite(y)
    parts = [is_known.astype(np.float64), x, y, x * x, x * y]
    sums = np.stack([np.where(is_known, one, 0.0).sum(axis=1).cumsum() for one in parts])
    n, sx, sy, sxx, sxy = np.concatenate([np.zeros((5, 1)), sums[:, :-1]], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = (n * sxy - sx * sy) / (n * sxx - sx * sx)
        intercept = (sy - slope * sx) / n
    said = intercept[:, None] + slope[:, None] * x
    found: Floats = np.clip(np.where(np.isfinite(said), said, rates), 0.01, 0.99)
    return found


def by_block(dates: Sequence[date], shape: tuple[int, ...]) -> dict[str, Mask]:
    """Places of each block of five years."""
    years = np.array([day.year for day in dates])
    return {
        f"{first}-{last}": np.broadcast_to(((years >= first) & (years <= last))[:, None], shape)
        for first, last in BLOCKS
    }


def by_quintile(known_volatility: Floats, where: Mask) -> dict[str, Mask]:
    """Places by the volatility that was known when the forecast was made, in fifths of all places."""
    edges = np.quantile(known_volatility[where], (0.2, 0.4, 0.6, 0.8))
    fifth = np.searchsorted(edges, known_volatility)
    names = ("calmest fifth", "second", "third", "fourth", "wildest fifth")
    return {name: where & (fifth == number) for number, name in enumerate(names)}


def by_year(dates: Sequence[date], where: Mask) -> dict[str, Mask]:
    """Places of each full calendar year."""
    years = np.array([day.year for day in dates])
    found = {str(year): where & (years == year)[:, None] for year in np.unique(years)}
    return {year: mask for year, mask in found.items() if mask.any(axis=1).sum() >= FULL_YEAR}


def by_ticker(tickers: Sequence[str], where: Mask) -> dict[str, Mask]:
    """Places of each ticker."""
    columns = np.arange(len(tickers))
    return {name: where & (columns == place) for place, name in enumerate(tickers)}


def by_month(dates: Sequence[date], where: Mask) -> dict[str, Mask]:
    """Places of each calendar month with forecasts on at least ten days."""
    months = np.array([f"{day:%Y-%m}" for day in dates])
    found = {str(one): where & (months == one)[:, None] for one in np.unique(months)}
    return {month: mask for month, mask in found.items() if mask.any(axis=1).sum() >= 10}


def shares(is_covered: Floats, groups: Mapping[str, Mask]) -> dict[str, float]:
    """Share covered in each group."""
    return {
        name: float(np.nanmean(is_covered[mask]))
        for name, mask in groups.items()
        if np.isfinite(is_covered[mask]).any()
    }
