"""One-day value at risk at 1 % and 5 %, walked forward, and how its violations are judged.

Filtered residuals (Barone-Adesi, Giannopoulos & Vosper 1999; Hull & White 1998): a return over the
volatility that was forecast for it; the quantile of the known ones times today's forecast. The forecast
is the memory's, EWMA(0.94)'s or that of a GARCH(1,1) refitted every year on all returns known by then
(`arch`). EWMA and GARCH are also shown with the normal distribution's quantile, as they are mostly used.

Row t of everything is said at the close of day t and is about the return of day t + 1.
"""

from __future__ import annotations

import bisect
import math
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.apps.demo.books import Rule, portfolio_volatility, shrunk_correlation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

LEVELS = (0.01, 0.05)
LEAST = 250
"""Known residuals before a quantile is taken."""
DECAY = 0.94
WARM_UP = 22
REFIT_EVERY = 252
FIRST_FIT = 504
YEAR = 252
REJECTED = 0.05


class Tests(NamedTuple):
    """p-values of one series of violations.

    Attributes:
        share: Of days on which the loss was greater than the value at risk.
        kupiec: That the share is the level's (Kupiec 1995).
        independence: That a violation says nothing about the next day (Christoffersen 1998).
        both: Of both at once: conditional coverage (Christoffersen 1998).
    """

    share: float
    kupiec: float
    independence: float
    both: float


def returns_of(prices: Floats) -> Floats:
    """Log returns of each ticker and, last, of all of them at equal weight; first row NaN."""
    simple = prices[1:] / prices[:-1] - 1.0
    moves = np.full((prices.shape[0], prices.shape[1] + 1), np.nan)
    moves[1:, :-1] = np.log1p(simple)
    moves[1:, -1] = np.log1p(simple.mean(axis=1))
    return moves


def memory_volatility(expected: Floats, moves: Floats) -> Floats:
    """Volatility of one day by the memory's forecasts; the portfolio's as the demo's risk agent has it."""
    rule = Rule()
    found = np.full(moves.shape, np.nan)
    found[:, :-1] = np.exp(expected) / math.sqrt(YEAR)
    for day in np.flatnonzero(np.isfinite(expected).all(axis=1)).tolist():
        if day > rule.window:
            correlation = shrunk_correlation(moves[day - rule.window + 1 : day + 1, :-1], rule)
            annual = portfolio_volatility(expected[day], 1.0, correlation)
            found[day, -1] = annual / math.sqrt(YEAR)
    return found


def ewma_volatility(moves: Floats) -> Floats:
    """EWMA of squared returns (RiskMetrics 1996), started from the first 22."""
    squares = moves**2
    found = np.full(moves.shape, np.nan)
    variance = squares[1 : WARM_UP + 1].mean(axis=0)
    found[WARM_UP] = np.sqrt(variance)
    for day in range(WARM_UP + 1, len(moves)):
        variance = DECAY * variance + (1.0 - DECAY) * squares[day]
        found[day] = np.sqrt(variance)
    return found


def garch_volatility(moves: Floats) -> tuple[Floats, Floats]:
    """Volatility and mean of the next return by GARCH(1,1) with normal innovations.

    Cost: about 50 ms a fit; one fit a year and series.
    """
    from arch import arch_model  # noqa: PLC0415  only this bench needs it

    sigma, mean = np.full(moves.shape, np.nan), np.full(moves.shape, np.nan)
    for series in range(moves.shape[1]):
        # In percent: the optimiser wants numbers near 1.
        values = 100.0 * moves[1:, series]
        for known in range(FIRST_FIT, len(values), REFIT_EVERY):
            fitted = arch_model(values[:known]).fit(disp="off", show_warning=False)
            until = min(known + REFIT_EVERY, len(values))
            ahead = arch_model(values[:until]).fix(fitted.params).conditional_volatility
            # ahead[i] is about values[i], the return of day i + 1, and said on day i.
            sigma[known:until, series] = ahead[known:] / 100.0
            mean[known:until, series] = float(fitted.params["mu"]) / 100.0
    return sigma, mean


def filtered(moves: Floats, sigma: Floats, window: int | None) -> Floats:
    """Quantiles of the next return from filtered residuals, shape (levels, n_days, n_series).

    Args:
        moves: Returns.
        sigma: Volatility forecast for the next one.
        window: Residuals to draw from, the latest; None: all.
    """
    found = np.full((len(LEVELS), *moves.shape), np.nan)
    residuals = np.full(moves.shape, np.nan)
    residuals[1:] = moves[1:] / sigma[:-1]
    for series in range(moves.shape[1]):
        ordered: list[float] = []
        order_of_time: list[float] = []
        for day, one in enumerate(residuals[:, series].tolist()):
            if math.isfinite(one):
                bisect.insort(ordered, one)
                order_of_time.append(one)
                if window is not None and len(ordered) > window:
                    del ordered[bisect.bisect_left(ordered, order_of_time[-window - 1])]
            if len(ordered) >= LEAST:
                for number, level in enumerate(LEVELS):
                    found[number, day, series] = _quantile(ordered, level)
    scaled: Floats = found * sigma
    return scaled


def _quantile(ordered: Sequence[float], level: float) -> float:
    place = level * (len(ordered) - 1)
    below = int(place)
    share = place - below
    return (1.0 - share) * ordered[below] + share * ordered[min(below + 1, len(ordered) - 1)]


def normal(sigma: Floats, mean: Floats | float = 0.0) -> Floats:
    """Quantiles of a normal distribution, shape (levels, n_days, n_series)."""
    return np.stack([mean + sigma * NormalDist().inv_cdf(level) for level in LEVELS])


def pinball(said: Floats, moves: Floats) -> Floats:
    """Quantile loss of each value at risk, shape (levels, n_days, n_series); last day NaN."""
    losses = np.full(said.shape, np.nan)
    for number, level in enumerate(LEVELS):
        gap = moves[1:] - said[number, :-1]
        losses[number, :-1] = np.maximum(level * gap, (level - 1.0) * gap)
    return losses


def violations(said: Floats, moves: Floats) -> Floats:
    """1 where the return fell below the value at risk, 0 where not, NaN where either is unknown."""
    found = np.full(said.shape, np.nan)
    found[:, :-1] = (moves[1:] < said[:, :-1]).astype(np.float64)
    found[~np.isfinite(said)] = np.nan
    return found


def judge(hits: Floats, level: float) -> Tests:
    """Test a series of violations, shape (n,), 0 or 1, in the order of days."""
    is_hit = hits > 0.0
    n, x = len(hits), int(is_hit.sum())
    coverage = -2.0 * (_log_likelihood(n - x, x, level) - _log_likelihood(n - x, x, x / n))
    before, after = is_hit[:-1], is_hit[1:]
    n00, n01 = int((~before & ~after).sum()), int((~before & after).sum())
    n10, n11 = int((before & ~after).sum()), int((before & after).sum())
    all_in_all = (n01 + n11) / (n - 1)
    apart = _log_likelihood(n00, n01, n01 / max(n00 + n01, 1))
    apart += _log_likelihood(n10, n11, n11 / max(n10 + n11, 1))
    together = _log_likelihood(n00 + n10, n01 + n11, all_in_all)
    dependence = max(2.0 * (apart - together), 0.0)
    coverage = max(coverage, 0.0)
    return Tests(
        x / n,
        math.erfc(math.sqrt(coverage / 2.0)),
        math.erfc(math.sqrt(dependence / 2.0)),
        math.exp(-(coverage + dependence) / 2.0),
    )


def _log_likelihood(misses: int, hits: int, p: float) -> float:
    """Of so many misses and hits when each hits with probability p; 0 log 0 is 0."""
    of_hits = hits * math.log(p) if hits else 0.0
    return of_hits + (misses * math.log1p(-p) if misses else 0.0)
