"""Target and baselines: right, and blind to the future to the last bit."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pytest

from nt_memory.apps.demo import baselines
from nt_memory.apps.demo.baselines import (
    HAR,
    MIN_LABELS,
    NAMES,
    REFIT_EVERY,
    log_ewma,
    log_volatility,
    regress_forward,
    walk_forward,
)
from nt_memory.apps.demo.prices import Panel
from nt_memory.apps.demo.target import HORIZON, log_volatility_ahead


def make(prices: np.ndarray) -> Panel:
    start = date(2001, 1, 1)
    return Panel(
        tuple(start + timedelta(days=n) for n in range(prices.shape[0])),
        tuple(f"T{n}" for n in range(prices.shape[1])),
        prices,
    )


def walk(n_days: int = 620, n_tickers: int = 6, seed: int = 1) -> np.ndarray:
    generator = np.random.default_rng(seed)
    # Volatility that comes in spells, so that there is something to forecast.
    level = np.cumsum(generator.normal(scale=0.08, size=(n_days, 1)), axis=0) * 0.5
    moves = generator.normal(size=(n_days, n_tickers)) * 0.015 * np.exp(np.tanh(level))
    return 80.0 * np.exp(np.cumsum(moves, axis=0))


PANEL = make(walk())
FOUND = walk_forward(PANEL)


def test_target_is_the_volatility_of_the_next_five_sessions() -> None:
    """Row t is made of the returns of t+1 to t+5; the last five rows are unknown."""
    outcomes = log_volatility_ahead(PANEL)
    moves = np.diff(np.log(PANEL.prices[100:106, 3]))
    assert outcomes[100, 3] == pytest.approx(np.log(np.sqrt(252 / 5 * np.sum(moves**2))))
    assert np.isfinite(outcomes[:-HORIZON]).all()
    assert np.isnan(outcomes[-HORIZON:]).all()


def test_target_is_floored_at_one_percent() -> None:
    """Prices that stand still have a volatility of 1 %, not minus infinity."""
    assert log_volatility_ahead(make(np.full((20, 2), 7.0)))[0, 0] == pytest.approx(np.log(0.01))


def test_later_prices_change_no_byte() -> None:
    """Forecasts up to day T are the same bytes whether the prices end there, go on, or are garbage."""
    cut = 500
    garbage = PANEL.prices.copy()
    generator = np.random.default_rng(9)
    garbage[cut:] = np.exp(generator.normal(scale=30.0, size=garbage[cut:].shape))
    for other in (make(garbage), PANEL.until(cut), PANEL.until(cut + HORIZON)):
        found = walk_forward(other)
        for name in NAMES:
            assert found.forecasts[name][:cut].tobytes() == FOUND.forecasts[name][:cut].tobytes(), (
                name
            )
        assert found.features[:cut].tobytes() == FOUND.features[:cut].tobytes()
        ended = cut - HORIZON
        assert found.outcomes[:ended].tobytes() == FOUND.outcomes[:ended].tobytes()


def test_a_refit_uses_exactly_the_labels_that_have_ended() -> None:
    """On the day of a refit, least squares by another route on labels t + 5 <= now agrees."""
    moves = PANEL.log_returns
    design = np.stack([log_volatility(moves, days) for days in HAR], axis=-1)
    day = REFIT_EVERY * 20
    rows, labels = design[22 : day - HORIZON + 1], FOUND.outcomes[22 : day - HORIZON + 1]
    flat = np.column_stack([np.ones(labels.size), rows.reshape(-1, len(HAR))])
    beta = np.linalg.lstsq(flat, labels.reshape(-1), rcond=None)[0]
    for today in (day, day + REFIT_EVERY - 1):
        expected = beta[0] + design[today] @ beta[1:]
        assert FOUND.forecasts["har"][today] == pytest.approx(expected)


def test_no_forecast_before_there_are_labels() -> None:
    """A regression is silent (NaN) until enough labels have ended, then never again."""
    for name in ("har", "har_long", "linear", "ewma_cal"):
        is_silent = np.isnan(FOUND.forecasts[name]).any(axis=1)
        first = int(np.argmin(is_silent))
        assert first % REFIT_EVERY == 0
        assert not is_silent[first:].any()
        assert first * PANEL.prices.shape[1] >= MIN_LABELS


def test_a_regression_that_can_be_exact_is() -> None:
    """If the outcome is a linear function of the regressors, the forecast is the outcome."""
    design = np.random.default_rng(0).normal(size=(200, 10, 3))
    outcomes = 0.5 + design @ np.array([1.0, -2.0, 0.25])
    predicted = regress_forward(design, outcomes)
    assert predicted[-1] == pytest.approx(outcomes[-1])


def test_ewma_follows_its_recursion() -> None:
    """Variance is 0.94 of yesterday's plus 0.06 of today's squared return, annualised."""
    variance = np.exp(2 * log_ewma(PANEL)) / 252
    squares = PANEL.log_returns**2
    assert variance[22] == pytest.approx(squares[1:23].mean(axis=0))
    assert variance[300] == pytest.approx(0.94 * variance[299] + 0.06 * squares[300])
    assert np.isnan(log_ewma(PANEL)[:22]).all()


def test_last_week_is_the_last_known_outcome() -> None:
    """Last week's volatility at t is what the forecast of t - 5 wanted to know."""
    assert FOUND.forecasts["last_week"][300] == pytest.approx(FOUND.outcomes[295])


def test_short_panels_have_no_forecasts() -> None:
    """A panel shorter than any window gives NaN, not an error."""
    found = walk_forward(make(walk(4)))
    assert all(np.isnan(found.forecasts[name]).all() for name in NAMES)
    assert set(found.forecasts) == set(NAMES) == set(baselines.NAMES)
