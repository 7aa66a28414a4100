"""The books: rule, arithmetic, costs, and that nothing is known before its time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nt_memory.apps.demo.books import (
    BookHistory,
    Holding,
    Rule,
    agrees,
    follow_rule,
    hold_equal_weight,
    leaves_band,
    portfolio_volatility,
    rebalance,
    shrunk_correlation,
    wanted_exposure,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

RULE = Rule(window=40)
BEFORE = 60
N_TICKERS = 4


def market(n_days: int, seed: int = 1) -> tuple[Floats, Floats, Floats, Floats]:
    """Forecasts, outcomes, prices and moves of a made-up market with swings in volatility."""
    draw = np.random.default_rng(seed)
    total = BEFORE + n_days
    level = -1.6 + 0.6 * np.sin(np.arange(total) / 15.0)[:, None]
    common = draw.normal(size=(total, 1))
    moves = (
        np.exp(level) / math.sqrt(252) * (0.7 * common + 0.7 * draw.normal(size=(total, N_TICKERS)))
    )
    prices = 50.0 * np.exp(np.cumsum(moves, axis=0))
    forecasts = level[BEFORE:] + draw.normal(0.0, 0.1, (n_days, N_TICKERS))
    outcomes = level[BEFORE:] + draw.normal(0.0, 0.4, (n_days, N_TICKERS))
    return forecasts, outcomes, prices[BEFORE:], moves


def follow(n_days: int, seed: int = 1, cost_bps: float = 5.0) -> BookHistory:
    """A book traded by the rule in that market."""
    return follow_rule(*market(n_days, seed), RULE, cost_bps)


def test_correlation_is_shrunk_towards_the_mean() -> None:
    """Each pair keeps 1 - shrinkage of its own correlation and takes the rest from the mean."""
    moves = np.random.default_rng(3).normal(size=(400, 3))
    moves[:, 1] += moves[:, 0]
    plain = np.corrcoef(moves[-RULE.window :].T)
    mean = (plain.sum() - 3) / 6
    expected = 0.7 * plain + 0.3 * mean
    np.fill_diagonal(expected, 1.0)
    assert shrunk_correlation(moves, RULE) == pytest.approx(expected)


def test_correlation_reads_only_its_window() -> None:
    """What happened before the window does not move a bit."""
    moves = np.random.default_rng(3).normal(size=(100, 3))
    other = moves.copy()
    other[: -RULE.window] = 9.0
    assert np.array_equal(shrunk_correlation(moves, RULE), shrunk_correlation(other, RULE))


@pytest.mark.parametrize("shape", [(50, 1), (50, 3)])
def test_correlation_of_still_prices_is_finite(shape: tuple[int, int]) -> None:
    """A stock that never moves, or one alone, gives a usable matrix."""
    found = shrunk_correlation(np.zeros(shape), RULE)
    assert np.isfinite(found).all()
    assert np.diag(found) == pytest.approx(1.0)


@pytest.mark.parametrize(("rho", "expected"), [(1.0, 0.2), (0.0, 0.1)])
def test_portfolio_volatility_by_hand(rho: float, expected: float) -> None:
    """Four equal stocks: full volatility when they move as one, half of it when independent."""
    correlation = np.full((4, 4), rho)
    np.fill_diagonal(correlation, 1.0)
    assert portfolio_volatility(np.full(4, math.log(0.2)), 1.0, correlation) == pytest.approx(
        expected
    )


def test_the_correction_multiplies_variances() -> None:
    """A factor of four doubles the volatility."""
    one = np.eye(2)
    forecast = np.log([0.1, 0.2])
    assert portfolio_volatility(forecast, 4.0, one) == pytest.approx(
        2.0 * portfolio_volatility(forecast, 1.0, one)
    )


def test_wanted_exposure_is_target_over_volatility_and_capped() -> None:
    """Half the exposure at twice the target's volatility; never above the cap, also in a calm."""
    assert wanted_exposure(0.20, RULE) == pytest.approx(0.5)
    assert wanted_exposure(0.01, RULE) == RULE.max_exposure
    assert wanted_exposure(0.0, RULE) == RULE.max_exposure


@pytest.mark.parametrize(
    ("wanted", "leaves"), [(1.0, False), (1.14, False), (1.16, True), (0.86, False), (0.84, True)]
)
def test_band(wanted: float, leaves: bool) -> None:
    """Exposures within 15 % of the one held are left alone, on both sides."""
    assert leaves_band(wanted, 1.0, RULE) is leaves


def test_a_book_that_holds_nothing_always_leaves_the_band() -> None:
    """The first purchase needs no band."""
    assert leaves_band(0.5, 0.0, RULE)


@pytest.mark.parametrize(
    ("forecast", "before", "is_more_risk", "vote"),
    [
        (-2.0, -1.5, True, True),
        (-2.0, -1.5, False, False),
        (-1.0, -1.5, True, False),
        (-1.0, -1.5, False, True),
        (-1.0, math.nan, True, True),
        (-1.0, math.nan, False, True),
    ],
)
def test_votes(forecast: float, before: float, is_more_risk: bool, vote: bool) -> None:
    """More risk wants a lower forecast, less risk a higher one; the first trade has no objection."""
    assert agrees(forecast, before, is_more_risk=is_more_risk) is vote


prices_of = arrays(np.float64, 5, elements=st.floats(1.0, 500.0))
shares_of = arrays(np.float64, 5, elements=st.floats(0.0, 10.0))


@settings(max_examples=60, deadline=None)
@given(shares_of, st.floats(0.1, 1e3), prices_of, st.floats(0.0, 1.5), st.floats(0.0, 100.0))
def test_rebalance_loses_its_costs_and_nothing_else(
    shares: Floats, cash: float, prices: Floats, exposure: float, cost_bps: float
) -> None:
    """A trade changes worth by its costs; every stock ends at the same share of equity."""
    before = Holding(shares, cash)
    after, traded = rebalance(before, prices, exposure, cost_bps)
    worth = before.equity(prices)
    assert traded == pytest.approx(np.abs((after.shares - shares) * prices).sum())
    assert after.equity(prices) == pytest.approx(worth - traded * cost_bps / 10_000)
    assert after.shares * prices == pytest.approx(np.full(5, worth * exposure / 5))


def test_book_is_self_financing() -> None:
    """Each day's change of worth is the positions' profit less the day's costs, to the last day."""
    _, _, prices, _ = market(300)
    book = follow(300, cost_bps=20.0)
    assert np.count_nonzero(book.traded) > 5
    holding = Holding(np.zeros(N_TICKERS), 1.0)
    for day in range(1, 300):
        profit = float(holding.shares @ (prices[day] - prices[day - 1]))
        worth = book.equity[day - 1] + profit
        if book.traded[day] > 0.0:
            holding, value = rebalance(holding, prices[day], float(book.exposure[day]), 20.0)
            assert book.traded[day] == pytest.approx(value / worth)
            worth -= value * 20.0 / 10_000
        assert book.equity[day] == pytest.approx(worth, rel=1e-12)


def test_costs_cost() -> None:
    """The same trades at a price end lower than for nothing, and costs move no decision."""
    free, dear = follow(300, cost_bps=0.0), follow(300, cost_bps=50.0)
    assert np.array_equal(free.exposure, dear.exposure)
    assert dear.equity[-1] < free.equity[-1]


def test_signals_trade_at_the_next_close() -> None:
    """Decided at the close of the first day, bought at the second, earning from the third."""
    book = follow(30)
    assert (book.equity[0], book.exposure[0], book.traded[0]) == (1.0, 0.0, 0.0)
    assert book.traded[1] == pytest.approx(book.exposure[1])
    assert book.equity[1] == pytest.approx(1.0 - book.traded[1] * 5.0 / 10_000)


@pytest.mark.parametrize("day", [0, 1, 5, 20, 63, 118])
def test_no_look_ahead(day: int) -> None:
    """Garbage after a day leaves the book up to that day as it was, byte for byte.

    Prices, moves and forecasts are garbage from the next day on; outcomes from five days before it,
    since a label of day t ends at t + 5. The exposure of the next close was decided at this one, so it
    must not change either.
    """
    forecasts, outcomes, prices, moves = market(120)
    book = follow_rule(forecasts, outcomes, prices, moves, RULE, 5.0)
    draw = np.random.default_rng(9)
    for spoilt, first in ((forecasts, day + 1), (outcomes, max(day - 4, 0)), (prices, day + 1)):
        spoilt[first:] = np.exp(draw.normal(size=spoilt[first:].shape))
    moves[BEFORE + day + 1 :] = 3.0
    other = follow_rule(forecasts, outcomes, prices, moves, RULE, 5.0)
    assert np.array_equal(book.exposure[: day + 2], other.exposure[: day + 2])
    assert np.array_equal(book.traded[: day + 1], other.traded[: day + 1])
    assert np.array_equal(book.equity[: day + 1], other.equity[: day + 1])


def test_a_book_does_not_depend_on_how_long_the_prices_go_on() -> None:
    """Stopping early gives the same numbers up to there."""
    forecasts, outcomes, prices, moves = market(120)
    whole = follow_rule(forecasts, outcomes, prices, moves, RULE, 5.0)
    short = follow_rule(forecasts[:70], outcomes[:70], prices[:70], moves[: BEFORE + 70], RULE, 5.0)
    assert np.array_equal(whole.equity[:70], short.equity)


def test_a_majority_against_it_stops_a_trade() -> None:
    """One analyst's alarm moves the wanted exposure, but the others' forecasts vote it down."""
    forecasts, outcomes, prices, moves = market(40)
    forecasts[:] = -1.6
    outcomes[:] = -1.6
    forecasts[20:, 0] = 2.0
    forecasts[20:, 1:] = -1.7
    book = follow_rule(forecasts, outcomes, prices, moves, RULE, 5.0)
    assert not book.traded[21:26].any()
    forecasts[20:, 1:] = -1.5
    agreed = follow_rule(forecasts, outcomes, prices, moves, RULE, 5.0)
    assert agreed.traded[21] > 0.0
    assert agreed.exposure[21] < agreed.exposure[20]


def test_unknown_outcomes_teach_nothing() -> None:
    """Outcomes that are never known leave a book that trades on uncorrected variances."""
    forecasts, outcomes, prices, moves = market(60)
    book = follow_rule(forecasts, outcomes * math.nan, prices, moves, RULE, 5.0)
    assert np.isfinite(book.equity).all()
    assert book.traded.any()


def test_equal_weight_buys_once_and_holds() -> None:
    """All of it at the second close, less costs, then the mean of the stocks' own growth."""
    _, _, prices, _ = market(50)
    book = hold_equal_weight(prices, 10.0)
    assert np.flatnonzero(book.traded).tolist() == [1]
    growth = np.mean(prices[-1] / prices[1])
    assert book.equity[-1] == pytest.approx(growth - 10.0 / 10_000)
    assert book.equity[0] == 1.0


def test_a_single_day_buys_nothing() -> None:
    """One day of prices is too short to trade on."""
    assert hold_equal_weight(np.ones((1, 3)), 5.0).equity.tolist() == [1.0]
