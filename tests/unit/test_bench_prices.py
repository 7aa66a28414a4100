"""What bench/prices.py judges with: nothing looks ahead, and the tests of violations reject what they should."""

import math

import numpy as np
import pytest
from _prices_scores import compare, conformal_linear, up_by_last_return
from _value_at_risk import LEVELS, ewma_volatility, filtered, judge, pinball, violations


def draw_moves(days=900, series=2):
    moves = np.random.default_rng(3).normal(0.0, 0.01, (days, series))
    moves[0] = np.nan
    return moves


def test_value_at_risk_of_a_day_does_not_know_what_comes():
    """Other returns after a day change nothing that was said up to that day."""
    moves = draw_moves()
    said = filtered(moves, ewma_volatility(moves), 300)
    other = moves.copy()
    other[701:] *= -7.0
    again = filtered(other, ewma_volatility(other), 300)
    assert np.isfinite(said[:, 700]).all()
    np.testing.assert_array_equal(said[:, :701], again[:, :701])
    assert not np.array_equal(said[:, 800], again[:, 800])


def test_filtered_quantiles_are_those_of_the_latest_residuals():
    """With constant volatility the value at risk is the plain quantile of the window."""
    moves = draw_moves()
    sigma = np.full(moves.shape, 0.02)
    said = filtered(moves, sigma, 300)
    for number, level in enumerate(LEVELS):
        expected = np.quantile(moves[501:801, 0], level)
        assert said[number, 800, 0] == pytest.approx(expected)


def test_violations_and_losses_belong_to_the_next_day():
    """A value at risk said today is broken by tomorrow's return."""
    moves = np.array([[np.nan], [-0.05], [0.01]])
    said = np.full((len(LEVELS), 3, 1), -0.02)
    assert violations(said, moves)[0, :, 0].tolist()[:2] == [1.0, 0.0]
    assert pinball(said, moves)[1, 0, 0] == pytest.approx(0.95 * 0.03)
    assert pinball(said, moves)[1, 1, 0] == pytest.approx(0.05 * 0.03)


def test_kupiec_knows_too_many_from_as_many_as_there_should_be():
    """2 % instead of 1 % of 1,000 days is rejected with the textbook's likelihood ratio, 7.83."""
    spread = np.zeros(1_000)
    spread[::100] = 1.0
    assert judge(spread, 0.01).kupiec == pytest.approx(1.0)
    spread[50::100] = 1.0
    assert judge(spread, 0.01).kupiec == pytest.approx(math.erfc(math.sqrt(7.827 / 2.0)), rel=0.01)


def test_christoffersen_knows_violations_that_come_together():
    """As many as there should be, but one after the other."""
    together = np.zeros(1_000)
    together[300:350] = 1.0
    found = judge(together, 0.05)
    assert found.kupiec == pytest.approx(1.0)
    assert found.independence < 1e-6
    assert found.both < 1e-6
    chance = (np.random.default_rng(5).random(1_000) < 0.05).astype(np.float64)
    assert judge(chance, 0.05).independence > 0.05


def test_conformal_linear_covers_and_does_not_look_ahead():
    """Four fifths of the outcomes, whatever the errors' scale; later outcomes change nothing before."""
    rng = np.random.default_rng(7)
    base = rng.normal(size=(1_500, 3))
    actual = base + rng.normal(0.0, 3.0, base.shape)
    low, high = conformal_linear(base, actual, 0.8, 300, 0.01, 200)
    is_in = (actual >= low) & (actual <= high)
    assert np.mean(is_in[400:]) == pytest.approx(0.8, abs=0.02)
    other = actual.copy()
    other[996:] += 50.0  # day 1,000 knows outcomes of days up to 995
    again, _ = conformal_linear(base, other, 0.8, 300, 0.01, 200)
    np.testing.assert_array_equal(low[:1_001], again[:1_001])
    assert not np.array_equal(low[1_001:1_100], again[1_001:1_100])


def test_the_regression_of_signs_does_not_look_ahead():
    """Prices after a day change nothing that was said up to that day."""
    prices = np.exp(np.cumsum(np.random.default_rng(9).normal(0.0, 0.01, (600, 2)), axis=0))
    scale, rates = np.full(prices.shape, 0.01), np.full(prices.shape, 0.5)
    said = up_by_last_return(prices, scale, rates)
    other = prices.copy()
    other[401:] = other[401:][::-1]
    again = up_by_last_return(other, scale, rates)
    np.testing.assert_array_equal(said[:401], again[:401])
    assert not np.array_equal(said[450:], again[450:])


def test_an_interval_of_a_ratio_holds_the_truth_as_often_as_it_says():
    """Losses that move together over days: 95 % intervals hold the true ratio in about 95 of 100."""
    rng = np.random.default_rng(11)
    held = 0
    for number in range(100):
        common = np.repeat(rng.exponential(size=(60, 1)), 10, axis=0)
        loss = common * rng.uniform(0.5, 1.3, (600, 4))
        other = common * rng.uniform(0.6, 1.4, (600, 4))
        found = compare(loss, other, np.ones(loss.shape, np.bool_), number)
        held += found.low <= 0.9 <= found.high
    assert held >= 88
