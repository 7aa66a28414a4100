"""The statistics under promotion, against tables, direct sums and cases worked by hand."""

import math

import numpy as np
import pytest

from nt_memory.reasoningbank.dependence import (
    daily_mean,
    long_run_variances,
    student_95,
    student_tails,
)
from nt_memory.reasoningbank.drift import Evidence, Reference, first_alarm, refer
from nt_memory.reasoningbank.promotion import Panel, measure_clusters, promoted

DAY_US = 86_400_000_000


@pytest.mark.parametrize(
    ("freedom", "half"), [(8, 2.306), (10, 2.228), (20, 2.086), (60, 2.000), (math.inf, 1.960)]
)
def test_students_distribution_agrees_with_its_tables(freedom, half):
    """Half widths of 95 % intervals, and the tail beyond them."""
    assert student_95(freedom) == pytest.approx(half, abs=0.003)
    tail = student_tails(np.array([half, -half, 0.0]), np.full(3, float(freedom)))
    assert tail == pytest.approx([0.025, 0.975, 0.5], abs=0.0003)


def test_small_tails_are_right_too():
    """One in ten thousand at ten and thirty degrees of freedom: 5.694 and 4.234 (tables)."""
    tails = student_tails(np.array([5.694, 4.234]), np.array([10.0, 30.0]))
    assert tails == pytest.approx(1e-4, rel=0.05)


def test_long_run_variance_is_the_weighted_sum_of_autocovariances():
    """Lag by lag: full weight up to half of the lags, then falling to nothing."""
    sums = np.random.default_rng(1).normal(size=(200, 1)).cumsum(axis=0)[:, :1] * 0.1
    sums = sums - sums.mean()
    lag = 11
    one = sums[:, 0]
    total = 0.0
    for back in range(-lag, lag + 1):
        weight = min(1.0, 2.0 - abs(back) / ((lag + 1) / 2))
        total += weight * float(np.sum(one[abs(back) :] * one[: len(one) - abs(back)]))
    found = long_run_variances(sums, lag)
    assert found == pytest.approx(total * 200 / 199)


def test_intervals_widen_with_few_days():
    """The same standard error says less if it comes from few stretches of days."""
    values = np.tile([1.0, -1.0, 0.5, -0.5], 10)
    few = daily_mean(values[:24], np.arange(24) * DAY_US, 1)
    many = daily_mean(values, np.arange(40) * DAY_US, 1)
    assert few.freedom < many.freedom
    assert few.high - few.value > 1.96 * few.standard_error
    assert daily_mean(values[:1], np.zeros(1, np.int64), 1).p_above_zero == 1.0


def test_promotion_steps_up_and_shares_out_its_rate():
    """Benjamini & Hochberg's own rule: the largest rank that passes takes all before it along."""
    p = [0.001, 0.039, 0.021, np.nan, 0.5]
    assert promoted(p, 0.1, 1).tolist() == [True, True, True, False, False]
    assert promoted(p, 0.1, 2).tolist() == [True, False, True, False, False]
    assert promoted(p, 0.1, 4).tolist() == [True, False, False, False, False]
    assert promoted([0.05, 0.2], 0.1, 1).tolist() == [True, False]
    assert promoted([0.05, 0.2], 0.1, 2).tolist() == [False, False]
    assert promoted([np.nan], 0.1, 1).tolist() == [False]
    assert promoted(p, 0.1, 1).dtype == np.bool_


def test_shifts_move_whole_days_and_keep_ranks():
    """Equal days: the ticker stays; unequal days are stretched over; a full turn changes nothing."""
    at = np.repeat(np.arange(3), 2) * DAY_US
    panel = Panel(np.array([1.0, 10.0, 2.0, 20.0, 3.0, 30.0]), at)
    assert panel.shifted(1).tolist() == [2.0, 20.0, 3.0, 30.0, 1.0, 10.0]
    assert panel.shifted(3).tolist() == panel.values.tolist()
    ragged = Panel(np.array([1.0, 2.0, 20.0, 200.0, 2000.0]), np.array([0, 1, 1, 1, 1]) * DAY_US)
    assert ragged.shifted(1).tolist() == [2.0, 1.0, 1.0, 1.0, 1.0]


def test_what_is_too_short_is_not_tested():
    """Under twelve separate stretches of days, or a single cluster: no p-value, so no promotion."""
    rng = np.random.default_rng(2)
    at = np.arange(60) * DAY_US
    short = measure_clusters(rng.normal(size=60), at, np.arange(60) % 2, 5)
    assert np.isnan(short.p_value).all()
    at = np.arange(400) * DAY_US
    one = measure_clusters(rng.normal(size=400), at, np.zeros(400, np.int64), 5)
    assert np.isnan(one.p_value).all()


def test_retirement_counts_blocks_against_the_effect_and_not_for_it():
    """Each block without the effect adds n d^2 / 2v; with the effect the sum stays at zero."""
    reference = Reference(effect=-0.5, variance=2.0, block_days=5)
    gone = kept = Evidence()
    for _ in range(10):
        gone, kept = gone.after(0.0, reference), kept.after(-0.5, reference)
    assert gone.against == pytest.approx(10 * 0.25 / 4.0)
    assert kept.against == 0.0
    stronger = Evidence().after(-9.0, reference)
    assert stronger.against == 0.0


def test_the_threshold_follows_from_the_false_alarms_tolerated():
    """What a day says, times the days between alarms, is exp(h) - h - 1: noisier effects wait less."""
    clear, noisy = Reference(0.5, 1.0, 5), Reference(0.5, 50.0, 5)
    for one in (clear, noisy):
        days = (math.exp(one.threshold) - one.threshold - 1.0) / one.information
        assert days == pytest.approx(1_764, rel=1e-6)
    assert noisy.threshold < clear.threshold
    assert first_alarm(np.zeros(1_000), clear) is not None
    assert refer(np.ones(10), 1.0, 1) is None
