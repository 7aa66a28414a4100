"""Scores, their uncertainty, and the placebos."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from nt_memory.apps.demo.placebo import Recollection, permuted_recall, random_recall
from nt_memory.apps.demo.scoring import (
    VarianceCorrection,
    coverage,
    coverage_by_year,
    interval_score,
    newey_west_error,
    ratio,
    score,
    variance_corrections,
)
from nt_memory.errors import InvalidInputError
from nt_memory.reasoningbank.recall import kernel_weights, weighted_mean

NAN = math.nan


def test_score_by_hand() -> None:
    """Each figure equals its definition on three forecasts; missing ones are left out."""
    actual = np.array([[1.0, 2.0], [3.0, NAN]])
    predicted = np.array([[1.5, 2.0], [2.0, 9.0]])
    found = score(predicted, actual)
    assert found.n == 3
    assert found.mae == pytest.approx(0.5)
    assert found.rmse == pytest.approx(math.sqrt(1.25 / 3))
    assert found.r2 == pytest.approx(1 - 1.25 / 2)
    parts = [math.exp(x) - x - 1 for x in (-1.0, 0.0, 2.0)]
    assert found.qlike == pytest.approx(sum(parts) / 3)


def test_a_perfect_forecast_loses_nothing() -> None:
    """No error, r2 of 1, QLIKE of 0."""
    actual = np.random.default_rng(0).normal(size=(20, 3))
    found = score(actual, actual)
    assert (found.mae, found.rmse, found.r2) == (0.0, 0.0, 1.0)
    assert found.qlike == pytest.approx(0.0, abs=1e-15)


def test_nothing_to_judge_is_an_error() -> None:
    """Without a known outcome there is no score and no ratio."""
    with pytest.raises(InvalidInputError):
        score(np.ones((2, 2)), np.full((2, 2), NAN))
    with pytest.raises(InvalidInputError):
        ratio(np.ones((2, 2)), np.full((2, 2), NAN))
    with pytest.raises(InvalidInputError):
        ratio(np.ones((2, 2)), np.zeros((2, 2)))


def test_variance_correction_lowers_qlike_and_waits_for_outcomes() -> None:
    """The factor learns mean v / f, uses nothing before it is known, and improves QLIKE."""
    generator = np.random.default_rng(2)
    predicted = generator.normal(size=(400, 5))
    actual = predicted + generator.normal(scale=0.5, size=(400, 5))
    factors = variance_corrections(predicted, actual)
    assert factors[:5].tolist() == [1.0] * 5
    assert factors[5] == pytest.approx(np.mean(np.exp(2 * (actual[0] - predicted[0]))))
    assert factors[-1] == pytest.approx(math.exp(2 * 0.25), rel=0.1)
    later = actual.copy()
    later[100:] = 50.0
    assert variance_corrections(predicted, later)[:105].tobytes() == factors[:105].tobytes()
    assert score(predicted, actual, factors).qlike < score(predicted, actual).qlike


def test_variance_correction_day_by_day_is_the_same() -> None:
    """The incremental state and the whole-panel factors agree to the bit; NaN is skipped."""
    generator = np.random.default_rng(3)
    predicted, actual = generator.normal(size=(2, 30, 4))
    actual[7, 2] = NAN
    state = VarianceCorrection()
    for day in range(25):
        state = state.after(actual[day] - predicted[day])
        assert state.factor == variance_corrections(predicted, actual)[day + 5]


def test_coverage_counts_ends_as_inside_and_splits_by_year() -> None:
    """An outcome on the edge is covered; years without outcomes are left out."""
    low, high = np.zeros((3, 2)), np.ones((3, 2))
    actual = np.array([[0.0, 1.0], [2.0, 0.5], [NAN, NAN]])
    dates = [date(2001, 12, 31), date(2002, 1, 1), date(2003, 1, 1)]
    assert coverage(low, high, actual) == pytest.approx(0.75)
    assert coverage_by_year(dates, low, high, actual) == {2001: 1.0, 2002: 0.5}
    assert math.isnan(coverage(low, high, np.full((3, 2), NAN)))


def test_interval_score_by_hand() -> None:
    """Width, plus ten times the miss at a level of 80 %."""
    found = interval_score(
        np.zeros((1, 3)), np.full((1, 3), 2.0), np.array([[1.0, -0.5, 2.25]]), 0.8
    )
    assert found == pytest.approx((2 + (2 + 5) + (2 + 2.5)) / 3)


def test_newey_west_without_lags_is_the_plain_error() -> None:
    """Lag 0 is the usual standard error; autocorrelation makes it larger."""
    noise = np.random.default_rng(4).normal(size=4000)
    assert newey_west_error(noise, lag=0) == pytest.approx(noise.std() / math.sqrt(4000))
    smooth = np.convolve(noise, np.ones(5), "valid")
    plain, robust = newey_west_error(smooth, lag=0), newey_west_error(smooth)
    # Five overlapping terms: the true error is sqrt(5) times the naive one.
    assert robust / plain == pytest.approx(math.sqrt(5), rel=0.15)


def test_ratio_interval_holds_the_truth_as_often_as_it_says() -> None:
    """With overlapping, cross-correlated losses the 95 % interval covers about 95 %."""
    generator = np.random.default_rng(6)
    held = 0
    for _ in range(200):
        shock = np.convolve(generator.normal(size=704), np.ones(5) / 5, "valid")[:, None]
        other = 1.0 + 0.2 * generator.normal(size=(700, 4))
        found = ratio(0.95 * other + 0.3 * shock, other)
        held += found.low <= 0.95 <= found.high
    assert 178 <= held <= 198


def test_ratio_is_taken_on_common_places() -> None:
    """A place missing in one method is left out for both."""
    loss = np.array([[1.0, NAN], [1.0, 1.0]])
    other = np.array([[2.0, 100.0], [2.0, NAN]])
    assert ratio(loss, other).value == pytest.approx(0.5)


OUTCOMES = np.random.default_rng(8).normal(size=(60, 4)) + np.arange(60)[:, None]


def recollection(today: int = 50) -> Recollection:
    generator = np.random.default_rng(1)
    return Recollection(
        today,
        generator.integers(10, today - 4, size=(4, 30)),
        generator.integers(4, size=(4, 30)),
        1.0 - 0.1 * generator.random((4, 30)),
    )


def test_placebos_never_read_what_is_not_known() -> None:
    """Outcomes of the last five days and later, and before memory began, do not matter."""
    odd = OUTCOMES.copy()
    odd[46:] = NAN
    odd[:10] = NAN
    recalled = recollection()
    for values in (OUTCOMES, odd):
        permuted = permuted_recall(recalled, values, first_day=10, seed=7)
        drawn = random_recall(values, n_forecasts=4, k=30, today=50, first_day=10, seed=7)
        assert np.isfinite(permuted).all()
        assert np.isfinite(drawn).all()
        assert permuted.tobytes() == permuted_recall(recalled, odd, first_day=10, seed=7).tobytes()


def test_permuting_keeps_days_together_and_tickers_apart() -> None:
    """Memories of one day all move to the same other day, each keeping its ticker."""
    marked = np.arange(60.0)[:, None] * 10 + np.arange(4.0)
    same_day = Recollection(
        50, np.full((1, 4), 20), np.arange(4)[None, :], np.linspace(0.9, 1.0, 4)[None, :]
    )
    found = permuted_recall(same_day, marked, first_day=10, seed=7)
    weights = kernel_weights(same_day.scores)
    offset = weighted_mean(np.arange(4.0)[None, :], weights)
    assert (found - offset) % 10 == pytest.approx(0.0, abs=1e-9)


def test_permuted_outcomes_meet_the_memories_own_baselines() -> None:
    """With baselines the recalled value is permuted outcome minus frozen baseline."""
    plain = recollection()
    based = Recollection(
        plain.today, plain.days, plain.tickers, plain.scores, np.full(plain.scores.shape, 3.0)
    )
    assert permuted_recall(based, OUTCOMES, first_day=10, seed=7) == pytest.approx(
        permuted_recall(plain, OUTCOMES, first_day=10, seed=7) - 3.0
    )


def test_placebos_repeat_by_seed_and_day() -> None:
    """Same seed and day: same bytes; another seed or day: others."""
    draw = {"n_forecasts": 4, "k": 30, "first_day": 10}
    first = random_recall(OUTCOMES, today=50, seed=1, **draw)
    assert first.tobytes() == random_recall(OUTCOMES, today=50, seed=1, **draw).tobytes()
    assert first.tobytes() != random_recall(OUTCOMES, today=50, seed=2, **draw).tobytes()
    assert first.tobytes() != random_recall(OUTCOMES, today=51, seed=1, **draw).tobytes()


def test_placebo_draws_of_two_days_have_nothing_in_common() -> None:
    """Each day draws anew: the draws of neighbouring days are uncorrelated, not shifted copies."""
    numbered = np.broadcast_to(np.arange(60.0)[:, None], (60, 4))
    draw = {"n_forecasts": 2000, "k": 1, "first_day": 10, "seed": 1}
    one, other = (random_recall(numbered, today=today, **draw) for today in (50, 51))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.1


def test_a_placebo_with_nothing_known_is_refused() -> None:
    """Before the first outcome is known there is nothing to draw."""
    with pytest.raises(InvalidInputError, match="nothing since day 10"):
        random_recall(OUTCOMES, n_forecasts=1, k=3, today=14, first_day=10, seed=1)
    with pytest.raises(InvalidInputError, match="nothing since day 10"):
        permuted_recall(replace(recollection(), today=14), OUTCOMES, first_day=10, seed=1)
