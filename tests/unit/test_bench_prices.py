"""What bench/prices.py judges with: nothing looks ahead, and the tests of violations reject what they should."""

import asyncio
import math
from datetime import date, timedelta

import numpy as np
import pytest
from _prices_scores import (
    compare,
    conformal_linear,
    corrections,
    qlike,
    qlike_of_variance,
    up_by_last_return,
)
from _prices_shifted import (
    DAYS_OF_ALL,
    REMEMBER,
    base_rates,
    clusters_of,
    grid_p_values,
    judged,
    look_alone,
    looks,
    shifted_days,
    stored,
    targets,
    times,
)
from _prices_tables import most_by_chance
from _value_at_risk import LEVELS, ewma_volatility, filtered, judge, pinball, violations

from nt_memory.apps.demo.options import DemoOptions
from nt_memory.apps.demo.plan import plan_run
from nt_memory.apps.demo.scoring import variance_corrections
from nt_memory.reasoningbank.dependence import choose_lag
from nt_memory.reasoningbank.promotion import SHIFTS, measure_clusters


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


def draw_forecasts(days=400):
    rng = np.random.default_rng(17)
    predicted = rng.normal(size=(days, 3))
    actual = predicted + rng.normal(size=(days, 3)) * (0.2, 0.5, 1.0)
    predicted[:7], predicted[100:120, 1] = np.nan, np.nan
    return predicted, actual


def test_a_correction_by_all_tickers_is_the_demos():
    """Without a prior it is what the demo learns; with an endless one too."""
    predicted, actual = draw_forecasts()
    wanted = np.repeat(variance_corrections(predicted, actual)[:, None], 3, axis=1)
    np.testing.assert_allclose(corrections(predicted, actual, None), wanted)
    np.testing.assert_allclose(corrections(predicted, actual, 1e12), wanted, rtol=1e-6)


def test_a_correction_by_ticker_follows_its_own_errors_and_nothing_that_comes():
    """Its own mean ratio in the end, that of all in the beginning; later outcomes change nothing."""
    predicted, actual = draw_forecasts()
    found = corrections(predicted, actual, 50.0)
    ratios = np.exp(2.0 * (actual - predicted))
    pooled = np.nanmean(ratios[:395])
    own = (np.nansum(ratios[:395, 1]) + 50.0 * pooled) / (np.isfinite(ratios[:395, 1]).sum() + 50.0)
    assert found[399, 1] == pytest.approx(own)
    assert found[399, 0] < found[399, 1] < found[399, 2]
    assert (found[:12] == 1.0).all()
    other = actual.copy()
    other[296:] += 9.0  # day 300 knows outcomes of days up to 295
    again = corrections(predicted, other, 50.0)
    np.testing.assert_array_equal(found[:301], again[:301])
    assert (found[301:] != again[301:]).all()


def test_the_right_correction_costs_least():
    """Of a forecast that is off by a factor of its own in each ticker; a variance itself needs none."""
    rng = np.random.default_rng(19)
    truth = rng.normal(size=(2_000, 3))
    actual = truth + 0.3 * rng.normal(size=truth.shape)
    predicted = truth - np.array([0.0, 0.5, 1.0])
    by_ticker, pooled = (np.mean(qlike(predicted, actual, prior)[500:]) for prior in (20.0, None))
    of_variance = qlike_of_variance(np.exp(2.0 * truth + 2.0 * 0.09), actual)
    assert by_ticker == pytest.approx(np.mean(of_variance[500:]), rel=0.05)
    assert by_ticker < 0.5 * pooled


def test_looks_at_shifted_labels_are_those_of_the_memory(tmp_path):
    """The p-values are those that a memory keeps, one world alone or many on one grid."""
    rng = np.random.default_rng(23)
    moves = rng.normal(0.0, 0.01, (1_300, 3)) * np.exp(0.5 * rng.normal(size=(1_300, 1)))
    prices = 50.0 * np.exp(np.cumsum(moves, axis=0))
    first = date(1990, 1, 1)
    rows = [
        ",".join([(first + timedelta(day)).isoformat(), *map(repr, row)])
        for day, row in enumerate(prices.tolist())
    ]
    path = tmp_path / "prices.csv"
    path.write_text("\n".join(["date,A,B,C", *rows]) + "\n")
    plan = plan_run(DemoOptions(full=True, prices=path))
    mine = look_alone(plan, 300)
    theirs = asyncio.run(stored(plan, tmp_path / "memory", 300))
    assert [one.patterns for one in mine] == [45, 45]
    for one, other in zip(mine, theirs, strict=True):
        assert one._replace(least=0.0) == other._replace(least=0.0)
        assert one.least == pytest.approx(other.least, rel=1e-9)
    days, other_days = shifted_days(plan, 300)
    _, horizon, labels = targets(plan)[0]
    at_us, cluster = times(plan, days), clusters_of(plan, days)[1]
    lag = choose_lag(len(days), horizon)
    # The shifts that the bank takes of the shifted panel, and others of a second one.
    taken = np.linspace(lag + 1, len(days) - lag - 1, SHIFTS).astype(np.int64)
    grid = [300, *(300 + np.unique(taken)).tolist()]
    found = grid_p_values(labels[days, 1], at_us, cluster, horizon, grid)
    wanted = measure_clusters(labels[other_days, 1], at_us, cluster, horizon).p_value
    assert found.shape == (len(grid), len(wanted))
    np.testing.assert_allclose(found[0], wanted, rtol=1e-9)
    assert np.nanmax(np.abs(found[20] - wanted)) > 0.3
    # As many looks are declared as are taken, of both targets together: here three shifts of four are worlds.
    taken_all = looks(plan, np.random.default_rng(1), 4)
    assert [one.declared for one in taken_all] == [len(taken_all)] * 4
    assert {one.what for one in taken_all} == {one.what for one in mine}


def test_a_declared_look_promotes_what_a_lone_one_would_only_at_its_share():
    """One of 100 p-values passes at 0.1 / 100, not at a hundredth of that, and one that is small enough at both."""
    p = np.linspace(0.2, 1.0, 100)
    p[7] = 5e-4
    alone, of_many = judged(300, "x", p), judged(300, "x", p, 100)
    assert (alone.promoted, alone.promoted_of_declared, alone.declared) == (1, 1, 1)
    assert (of_many.promoted, of_many.promoted_of_declared, of_many.declared) == (1, 0, 100)
    p[7] = 9e-6
    assert judged(300, "x", p, 100).promoted_of_declared == 1
    assert of_many.beyond == (1, 1, 0, 0, 0)


def test_base_rates_know_nothing_of_what_comes_and_follow_their_ticker():
    """Other days later change nothing; a lone ticker's rate is that of its past, days counting less as they pass."""
    rng = np.random.default_rng(31)
    ups = (rng.random((400, 3)) < [0.2, 0.5, 0.5]).astype(np.float64)
    rates = base_rates(ups)
    other = ups.copy()
    other[200:] = 1.0 - other[200:]
    np.testing.assert_array_equal(base_rates(other)[:201], rates[:201])
    assert not np.array_equal(base_rates(other)[201], rates[201])
    assert np.isnan(rates[0]).all()
    weight = REMEMBER ** np.arange(300)[::-1]
    own, pooled = weight @ ups[:300] / weight.sum(), (weight @ ups[:300] / weight.sum()).mean()
    shrunk = (own * weight.sum() + pooled * DAYS_OF_ALL) / (weight.sum() + DAYS_OF_ALL)
    np.testing.assert_allclose(rates[300], shrunk)
    assert rates[300, 0] < rates[300, 1] - 0.1


def test_a_tenth_of_the_looks_may_promote_and_two_deviations_more():
    """52 of 400 looks, 7 of 40, none of 0."""
    assert [most_by_chance(n) for n in (400, 40, 0)] == [52, 7, 0]
