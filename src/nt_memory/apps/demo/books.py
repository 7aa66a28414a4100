"""The rule every book trades by, and the arithmetic of a book. Pure functions.

All books hold the same 20 shares at equal weight and differ only in whose volatility forecasts size
the whole: the exposure aimed at is the target volatility over the forecast volatility of the
portfolio. A book trades only when that leaves a band around what it holds, and only if a majority
of the analysts, each judging by its own forecast, agrees that risk moved that way. Signals at the
close of day t trade at the close of day t + 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nt_memory.apps.demo.scoring import VarianceCorrection
from nt_memory.apps.demo.target import HORIZON

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

SESSIONS_A_YEAR = 252


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How a book is sized.

    Attributes:
        target: Annualised volatility aimed at.
        band: Relative distance from the exposure held that makes a trade worth proposing.
        max_exposure: Most exposure, as a share of equity; above 1 it is borrowed, at no interest.
        window: Days of returns behind the correlations.
        shrinkage: Weight of the mean correlation in each pair's.
        quorum: Share of analysts that must agree.
    """

    target: float = 0.10
    band: float = 0.15
    max_exposure: float = 1.5
    window: int = 252
    shrinkage: float = 0.3
    quorum: str = "1/2"


@dataclass(frozen=True, slots=True, eq=False)
class Holding:
    """What a book holds."""

    shares: Floats
    cash: float

    def equity(self, prices: Floats) -> float:
        """Worth at the given closes."""
        return math.fsum([self.cash, *(self.shares * prices).tolist()])


@dataclass(frozen=True, slots=True, eq=False)
class BookHistory:
    """One book over the traded days.

    Attributes:
        equity: Worth at each close, starting at 1 before the first trade; shape (n_days,).
        exposure: Share of equity in the market after the close's trade, same shape.
        traded: Value traded at each close over equity, same shape.
    """

    equity: Floats
    exposure: Floats
    traded: Floats


def shrunk_correlation(moves: Floats, rule: Rule) -> Floats:
    """Correlations of the last `rule.window` returns, pulled towards their mean.

    Args:
        moves: Log returns up to the day of the decision, shape (n_days, n_tickers).
        rule: Its `window` and `shrinkage`.

    Source: Ledoit & Wolf 2004, constant-correlation target; the intensity is fixed here.
    """
    recent = np.ascontiguousarray(moves[-rule.window :])
    centred = recent - recent.mean(axis=0)
    # einsum instead of BLAS: the same bytes on every machine and for every memory layout.
    covariance = np.einsum("ti,tj->ij", centred, centred)
    spread = np.sqrt(np.diag(covariance))
    spread = np.where(spread > 0.0, spread, 1.0)
    correlation = covariance / spread[:, None] / spread[None, :]
    n = len(correlation)
    mean = 0.0 if n == 1 else float((correlation.sum() - np.trace(correlation)) / (n * (n - 1)))
    shrunk: Floats = (1.0 - rule.shrinkage) * correlation + rule.shrinkage * mean
    np.fill_diagonal(shrunk, 1.0)
    return shrunk


def portfolio_volatility(log_volatilities: Floats, factor: float, correlation: Floats) -> float:
    """Annualised volatility of the equally weighted portfolio.

    Args:
        log_volatilities: Forecasts, shape (n_tickers,).
        factor: What a variance forecast must be multiplied with to be right on average.
        correlation: Shape (n_tickers, n_tickers).
    """
    sigma = np.exp(log_volatilities) * math.sqrt(factor)
    variance = float(np.einsum("i,ij,j->", sigma, correlation, sigma)) / len(sigma) ** 2
    return math.sqrt(max(variance, 0.0))


def wanted_exposure(volatility: float, rule: Rule) -> float:
    """The exposure that brings the portfolio to the target."""
    return min(rule.target / max(volatility, 1e-6), rule.max_exposure)


def leaves_band(wanted: float, held: float, rule: Rule) -> bool:
    """Whether the exposure held is too far from the one wanted."""
    return held <= 0.0 or abs(wanted / held - 1.0) > rule.band


def agrees(forecast: float, at_last_trade: float, *, is_more_risk: bool) -> bool:
    """An analyst's vote: whether its own forecast moved the way the proposal says."""
    if math.isnan(at_last_trade):
        return True
    return forecast <= at_last_trade if is_more_risk else forecast >= at_last_trade


def rebalance(
    holding: Holding, prices: Floats, exposure: float, cost_bps: float
) -> tuple[Holding, float]:
    """Trade to equal weights at an exposure.

    Returns:
        The new holding, costs paid out of cash; and the value traded.
    """
    equity = holding.equity(prices)
    shares = np.full(len(prices), equity * exposure / len(prices)) / prices
    flows = (shares - holding.shares) * prices
    traded = math.fsum(np.abs(flows).tolist())
    cash = math.fsum([holding.cash, -math.fsum(flows.tolist()), -traded * cost_bps / 10_000])
    return Holding(shares, cash), traded


def follow_rule(
    forecasts: Floats, outcomes: Floats, prices: Floats, moves: Floats, rule: Rule, cost_bps: float
) -> BookHistory:
    """Trade a book by the rule on somebody's forecasts.

    Args:
        forecasts: Log volatilities, shape (n_days, n_tickers), for the traded days.
        outcomes: What happened, same shape; row t is used from day t + 5 on.
        prices: Closes of the same days.
        moves: Log returns up to and including the traded days; the last n_days rows are those days.
        rule: The rule.
        cost_bps: Cost of a trade.
    """
    n_days, n_tickers = forecasts.shape
    before = len(moves) - n_days
    holding, held, pending = Holding(np.zeros(n_tickers), 1.0), 0.0, math.nan
    at_last_trade = np.full(n_tickers, math.nan)
    correction = VarianceCorrection()
    equity, exposure, traded = (np.zeros(n_days) for _ in range(3))
    for day in range(n_days):
        if not math.isnan(pending):
            worth = holding.equity(prices[day])
            holding, value = rebalance(holding, prices[day], pending, cost_bps)
            held, traded[day], pending = pending, value / worth, math.nan
        if day >= HORIZON:
            past = day - HORIZON
            correction = correction.after((outcomes[past] - forecasts[past]).tolist())
        correlation = shrunk_correlation(moves[: before + day + 1], rule)
        volatility = portfolio_volatility(forecasts[day], correction.factor, correlation)
        wanted = wanted_exposure(volatility, rule)
        if leaves_band(wanted, held, rule):
            is_more = wanted > held
            votes = sum(
                agrees(float(now), float(then), is_more_risk=is_more)
                for now, then in zip(forecasts[day], at_last_trade, strict=True)
            )
            if 2 * votes >= n_tickers:
                pending, at_last_trade = wanted, forecasts[day].copy()
        equity[day], exposure[day] = holding.equity(prices[day]), held
    return BookHistory(equity, exposure, traded)


def hold_equal_weight(prices: Floats, cost_bps: float) -> BookHistory:
    """Buy equal weights at the second close, as the others at the earliest, and hold."""
    n_days, n_tickers = prices.shape
    holding = Holding(np.zeros(n_tickers), 1.0)
    equity, exposure, traded = (np.zeros(n_days) for _ in range(3))
    for day in range(n_days):
        if day == 1:
            holding, value = rebalance(holding, prices[day], 1.0, cost_bps)
            traded[day] = value
        equity[day], exposure[day] = holding.equity(prices[day]), float(day >= 1)
    return BookHistory(equity, exposure, traded)
