"""The bank's statistics against slow ones that are written straight from their definitions.

Loops over days and lags where the product uses windows and cumulative sums; the data are fixed.
"""

import math

import numpy as np
import pytest

from nt_memory.reasoningbank import promotion
from nt_memory.reasoningbank.dependence import (
    Mean,
    choose_lag,
    daily_mean,
    freedom_of,
    long_run_variances,
    student_95,
    student_tails,
)
from nt_memory.reasoningbank.drift import Evidence, Reference, first_alarm, refer
from nt_memory.reasoningbank.promotion import day_means, measure_clusters
from nt_memory.reasoningbank.recall import distances, weighted_quantiles

DAY_US = 86_400_000_000


def bartlett(sums, width):
    """Autocovariances, not divided by the number of days, lag l weighing 1 - l / width."""
    one = np.asarray(sums)
    total = float(np.sum(one * one))
    for lag in range(1, min(width, len(one))):
        total += 2.0 * (1.0 - lag / width) * float(np.sum(one[lag:] * one[:-lag]))
    return total


def long_run(sums, lag):
    """The zero lugsail: twice a Bartlett window less one of half its width, at least half of it."""
    wide = bartlett(sums, lag + 1)
    total = max(2.0 * wide - bartlett(sums, max((lag + 1) // 2, 1)), 0.5 * wide)
    return total * len(sums) / (len(sums) - 1)


def by_day(values, at_us):
    """The values of each day that has any, in order of days."""
    days = {}
    for value, at in zip(values, at_us, strict=True):
        days.setdefault(int(at) // DAY_US, []).append(float(value))
    return [days[day] for day in sorted(days)]


def trapezoid(x):
    return np.minimum(1.0, 2.0 - 2.0 * x)


@pytest.mark.parametrize(
    ("days", "horizon", "lag"),
    [
        (0, 5, 0),
        (1, 5, 0),
        (2, 5, 1),
        (8, 5, 7),
        (11, 5, 10),
        (12, 5, 10),
        (99, 1, 3),
        (100, 1, 4),
        (100, 2, 4),
        (100, 3, 6),
        (1_000, 1, 6),
        (10_000, 1, 11),
        (10_000, 6, 12),
    ],
)
def test_lags_take_in_twice_the_overlap_or_the_usual_rule(days, horizon, lag):
    """The greater of 2 h and floor(4 (T / 100)^(2/9)), and never as many as there are days."""
    assert choose_lag(days, horizon) == lag


@pytest.mark.parametrize("lag", [0, 1, 2, 3, 4, 7, 10, 28, 40])
def test_long_run_variance_is_its_double_sum(lag):
    """At every lag, odd and even and beyond the data, and each column by itself."""
    rng = np.random.default_rng(7)
    slow = rng.normal(size=30).cumsum()
    quick = rng.normal(size=30) * (-1.0) ** np.arange(30)
    sums = np.stack([slow, quick, rng.normal(size=30)], axis=1)
    sums -= sums.mean(axis=0)
    wanted = [long_run(column, lag) for column in sums.T]
    assert long_run_variances(sums, lag) == pytest.approx(wanted)


def test_long_run_variance_never_falls_below_half_of_bartletts():
    """Pairs of days that take turns would give a negative one."""
    turns = np.array([1.0, 1.0, -1.0, -1.0] * 5)
    wide = bartlett(turns, 4)
    assert 2.0 * wide - bartlett(turns, 2) < 0.0 < wide
    assert long_run_variances(turns[:, None], 3) == pytest.approx([0.5 * wide * 20 / 19])


@pytest.mark.parametrize("stretches", [2.0, 3.0, 10.0, 250.0])
def test_freedom_and_shrinkage_are_the_integrals_of_the_window(stretches):
    """2 / (2 b int k^2) degrees of freedom; centring takes 2 b int k (1 - b x) away."""
    b = 1.0 / stretches
    x = (np.arange(200_000) + 0.5) / 200_000
    freedom, shrinkage = freedom_of(np.array([stretches]))
    assert freedom[0] == pytest.approx(1.0 / (2.0 * b * np.mean(trapezoid(x) ** 2)), rel=1e-4)
    taken = 2.0 * b * np.mean(trapezoid(x) * (1.0 - b * x))
    assert shrinkage[0] == pytest.approx(1.0 - taken, rel=1e-6)


def test_too_few_stretches_count_as_two():
    """The factor stays away from zero, and freedom at least 1."""
    freedom, shrinkage = freedom_of(np.array([0.0, 1.0, 2.0, 1.0 / 0.75]))
    assert freedom == pytest.approx([1.5] * 4)
    assert shrinkage == pytest.approx([1.0 - 0.75 + 7.0 / 48.0] * 4)


@pytest.mark.parametrize("horizon", [1, 5])
@pytest.mark.parametrize("days", [2, 3, 60])
def test_a_mean_and_its_error_are_those_of_daily_sums(days, horizon):
    """Days of different sizes, out of order, with weekends between them."""
    rng = np.random.default_rng(days)
    number = np.repeat(np.arange(days) * 7 // 5, rng.integers(1, 4, size=days))
    at = number * DAY_US + rng.integers(0, DAY_US, size=len(number))
    values = 3.0 + rng.normal(size=days).cumsum()[np.searchsorted(np.unique(number), number)]
    values += rng.normal(size=len(values)) * 0.3
    mixed = rng.permutation(len(values))
    found = daily_mean(values[mixed], at[mixed], horizon)
    n, mean = len(values), float(np.mean(values))
    sums = [math.fsum(value - mean for value in day) for day in by_day(values, at)]
    lag = choose_lag(days, horizon)
    b = 1.0 / max(days / (lag + 1), 2.0)
    variance = long_run(sums, lag) / (1.0 - 1.5 * b + 7.0 / 12.0 * b * b)
    error = math.sqrt(variance) / n
    assert found.n == n
    assert found.value == pytest.approx(mean)
    assert found.standard_error == pytest.approx(error)
    assert found.freedom == pytest.approx(0.75 / b)
    effective = float(np.var(values)) / error**2
    assert found.n_effective == pytest.approx(min(max(effective, 1.0), n))
    assert found.high - found.value == pytest.approx(student_95(found.freedom) * error)
    assert found.value - found.low == pytest.approx(student_95(found.freedom) * error)


def test_how_much_values_are_worth_lies_between_one_and_their_number():
    """What takes turns from day to day is worth no more, what one day says no less."""
    days = np.arange(40) * DAY_US
    turns = daily_mean(np.tile([1.0, -1.0], 20), days, 1)
    assert turns.n_effective == 40.0
    halves = daily_mean(np.repeat([1.0, -1.0], 3), days[:6], 1)
    assert halves.standard_error > 1.0  # that of less than one value
    assert halves.n_effective == 1.0


def test_days_that_cancel_out_are_worth_all_their_values():
    """No day differs from another, so nothing says that values depend on each other."""
    found = daily_mean(np.tile([1.0, -1.0], 20), np.arange(40) // 2 * DAY_US, 1)
    assert (found.value, found.standard_error, found.n_effective) == (0.0, 0.0, 40.0)


def test_means_of_next_to_nothing():
    """No value, one day, and values that are all the same: what can be said, and no more."""
    none = daily_mean(np.zeros(0), np.zeros(0, np.int64), 1)
    assert math.isnan(none.value)
    assert none[1:] == (math.inf, 0, 0.0, math.inf)
    one_day = daily_mean(np.array([1.0, 2.0, 6.0]), np.array([0, 1, DAY_US - 1]), 1)
    assert one_day == Mean(3.0, math.inf, 3, 1.0)
    same = daily_mean(np.full(50, 0.1), np.arange(50) // 2 * DAY_US, 1)
    assert same == Mean(pytest.approx(0.1), 0.0, 50, 25.0)
    zeros = daily_mean(np.zeros(50), np.arange(50) // 2 * DAY_US, 1)
    assert zeros == Mean(0.0, 0.0, 50, 25.0)
    small = daily_mean(1.0 + 1e-9 * np.tile([1.0, -1.0, -1.0, 1.0], 10), np.arange(40) * DAY_US, 1)
    assert small.standard_error > 0.0


def test_chances_are_one_where_nothing_can_be_said():
    """Otherwise Student's tail beyond the mean in standard errors."""
    assert Mean(2.228, 1.0, 9, 9.0, 10.0).p_above_zero == pytest.approx(0.025, abs=2e-4)
    assert Mean(-2.228, 1.0, 9, 9.0, 10.0).p_above_zero == pytest.approx(0.975, abs=2e-4)
    for value, error in ((math.nan, 1.0), (math.inf, 1.0), (1.0, 0.0), (1.0, math.inf)):
        assert Mean(value, error, 9, 9.0).p_above_zero == 1.0


def test_tails_without_end_are_the_normals():
    """At infinite freedom, and in whatever shape they are asked for."""
    t = np.array([[0.5, 1.0], [2.0, -3.0]])
    normal = [[0.5 * math.erfc(one / math.sqrt(2.0)) for one in row] for row in t.tolist()]
    assert student_tails(t, np.full((2, 2), np.inf)) == pytest.approx(np.array(normal), rel=1e-9)
    assert student_95(math.inf) == pytest.approx(1.959963984540054, abs=1e-12)
    for freedom in (1.5, 9.0, 200.0):
        half = np.array([student_95(freedom)])
        assert student_tails(half, np.array([freedom])) == pytest.approx([0.025], rel=1e-12)


# --- promotion ----------------------------------------------------------------------------------


def compare(rows, k, lag):
    """Effect and error of each cluster; `rows`: (day, cluster, value), days counted from 0."""
    days = 1 + max(day for day, _, _ in rows)
    stretches = [len({d // (lag + 1) for d, c, _ in rows if c == one}) for one in range(k)]
    found = []
    for one in range(k):
        inside = [(day, value) for day, number, value in rows if number == one]
        outside = [(day, value) for day, number, value in rows if number != one]
        mean = math.fsum(value for _, value in inside) / max(len(inside), 1)
        rest = math.fsum(value for _, value in outside) / max(len(outside), 1)
        influence = [0.0] * days
        for day, value in inside:
            influence[day] += (value - mean) / len(inside)
        for day, value in outside:
            influence[day] -= (value - rest) / len(outside)
        b = 1.0 / max(stretches[one], 2)
        variance = long_run(influence, lag) / (1.0 - 1.5 * b + 7.0 / 12.0 * b * b)
        found.append((mean - rest, math.sqrt(variance), stretches[one]))
    return found


def shift(rows, by):
    """The panel moved along the days: rank for rank, stretched where days differ in size."""
    days = {}
    for place, (day, _, _) in enumerate(rows):
        days.setdefault(day, []).append(place)
    moved = []
    for day, cluster, _ in rows:
        rank = sum(1 for one in days[day] if one < len(moved))
        other = days[(day + by) % len(days)]
        moved.append((day, cluster, rows[other[rank * len(other) // len(days[day])]][2]))
    return moved


def panel(days, k, seed, *, effect=0.0):
    """A ragged panel that is not in order, on trading days, with a cluster that is seldom there."""
    rng = np.random.default_rng(seed)
    rows = []
    common = rng.normal(size=days + 4)
    for day in range(days):
        for _ in range(int(rng.integers(1, 4))):
            cluster = k - 1 if day % 29 == 3 else int(rng.integers(0, k - 1))
            value = float(np.mean(common[day : day + 4])) + float(rng.normal()) * 0.5
            rows.append((day, cluster, value + effect * (cluster == 0)))
    mixed = rng.permutation(len(rows))
    at = np.array([rows[place][0] * 7 // 5 for place in mixed]) * DAY_US
    cluster = np.array([rows[place][1] for place in mixed])
    values = np.array([rows[place][2] for place in mixed])
    ordered = sorted((rows[place] for place in mixed), key=lambda one: one[0])
    return values, at, cluster, ordered


@pytest.mark.parametrize(("days", "k", "asked", "shifts"), [(130, 3, 64, 64), (90, 2, 4, 16)])
def test_clusters_are_tested_as_the_definition_says(days, k, asked, shifts):
    """Effect, error, widening and least size by shifts, and tail, against loops; and never fewer than 16 shifts."""
    horizon = 2
    values, at, cluster, rows = panel(days, k, seed=days, effect=0.4)
    lag = choose_lag(days, horizon)
    plain = compare(rows, k, lag)
    moves = sorted({int(one) for one in np.linspace(lag + 1, days - lag - 1, shifts)})
    squares, spread = [0.0] * k, [0.0] * k
    for by in moves:
        for one, (effect, error, _) in enumerate(compare(shift(rows, by), k, lag)):
            squares[one] += (effect / error) ** 2
            spread[one] += effect**2
    found = measure_clusters(values, at, cluster, horizon, shifts=asked)
    for one, (effect, error, stretches) in enumerate(plain):
        freedom = max(0.75 * max(stretches, 2), 1.0)
        usual = freedom / (freedom - 2.0) if freedom > 2.0 else 3.0
        wider = max(1.0, squares[one] / len(moves) / usual)
        widened = max(error * math.sqrt(wider), math.sqrt(spread[one] / len(moves)))
        assert found.stretches[one] == stretches
        assert found.effect[one] == pytest.approx(effect)
        assert found.error[one] == pytest.approx(widened)
        if stretches < 12:
            assert math.isnan(found.p_value[one])
        else:
            tail = student_tails(np.array([abs(effect) / widened]), np.array([freedom]))[0]
            assert found.p_value[one] == pytest.approx(min(2.0 * tail, 1.0))


def test_shifts_are_made_fewer_where_they_would_take_too_long(monkeypatch):
    """As many as the bound on cells allows: the result is that of asking for so many."""
    values, at, cluster, _ = panel(130, 3, seed=5)
    twenty = measure_clusters(values, at, cluster, 2, shifts=20)
    monkeypatch.setattr(promotion, "CELLS", 130 * 3 * 21 - 1)
    bounded = measure_clusters(values, at, cluster, 2)
    assert bounded.error.tolist() == twenty.error.tolist()
    assert np.array_equal(bounded.p_value, twenty.p_value, equal_nan=True)


def test_what_cannot_be_compared_says_nothing():
    """One cluster, or too few days for two windows: no effect, an infinite error, no p-value."""
    values, at, cluster, _ = panel(10, 2, seed=1)
    lag = choose_lag(10, 2)
    assert 2 * (lag + 1) <= 10
    assert np.isfinite(measure_clusters(values, at, cluster, 2).effect).all()
    keep = at < np.unique(at)[9]
    for found in (
        measure_clusters(values[keep], at[keep], cluster[keep], 2),
        measure_clusters(values, at, np.zeros(len(values), np.int64), 2),
    ):
        assert np.isnan(found.effect).all()
        assert np.isinf(found.error).all()
        assert np.isnan(found.p_value).all()
        assert (found.stretches > 0).all()
    empty = measure_clusters(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64), 2)
    assert [len(column) for column in empty] == [0, 0, 0, 0]


def test_one_situation_against_all_others_is_a_difference_of_means():
    """A mean of one value is that value, on either side."""
    values = np.random.default_rng(4).normal(1.0, 1.0, size=40)
    cluster = (np.arange(40) == 17).astype(np.int64)
    found = measure_clusters(values, np.arange(40) * DAY_US, cluster, 1)
    apart = values[17] - np.delete(values, 17).mean()
    assert found.effect == pytest.approx([-apart, apart])


def test_a_shift_without_any_spread_widens_nothing():
    """Moved by twenty days all of one cluster are ones and all others zeros: nothing to divide by."""
    values = np.random.default_rng(6).integers(0, 2, size=60).astype(np.float64)
    cluster = np.roll(values, -20).astype(np.int64)  # what comes 20 days later
    found = measure_clusters(values, np.arange(60) * DAY_US, cluster, 1)
    assert np.isfinite(found.error).all()
    assert np.isfinite(found.p_value).all()


def test_twelve_stretches_are_tested_and_equal_values_are_not():
    """The bound on stretches is inclusive; without any variance there is nothing to divide by."""
    values, at, cluster, _ = panel(60, 3, seed=9)
    found = measure_clusters(values, at, cluster, 2)  # lag 4: 12 windows of 5 days
    assert found.stretches.tolist()[:2] == [12, 12]
    assert np.isfinite(found.p_value[:2]).all()
    still = measure_clusters(np.ones(60), np.arange(60) * DAY_US, np.arange(60) % 2, 2)
    assert np.isnan(still.p_value).all()
    assert still.effect.tolist() == [0.0, 0.0]


def test_a_clear_effect_is_told_from_no_effect():
    """Two standard deviations apart: p far below one in a thousand; both sides are the same test."""
    rng = np.random.default_rng(3)
    at, cluster = np.arange(300) * DAY_US, rng.integers(0, 2, size=300)
    found = measure_clusters(rng.normal(size=300) + 2.0 * cluster, at, cluster, 1)
    assert found.effect[1] == pytest.approx(2.0, abs=4 * found.error[1])
    assert found.effect[0] == -found.effect[1]
    assert found.p_value[0] == pytest.approx(found.p_value[1])
    assert found.p_value[0] < 1e-4


def test_day_means_are_those_of_days_with_values():
    """In order of days, whatever the order of values."""
    at = np.array([5, 2, 5, 2, 2, 9]) * DAY_US + np.array([1, 2, 3, 4, 5, DAY_US - 1])
    means = day_means(np.array([1.0, 2.0, 3.0, 4.0, 6.0, 8.0]), at)
    assert means.tolist() == [4.0, 2.0, 8.0]


# --- what is recalled ---------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 7, 60])
def test_weighted_quantiles_join_the_middles_of_the_weights(k):
    """Straight lines between the middle of each value's share; flat beyond the last; ties as given."""
    rng = np.random.default_rng(k)
    values, weights = rng.normal(size=(3, k)).round(1), rng.uniform(0.1, 3.0, size=(3, k))
    wanted = np.concatenate([np.linspace(0.0, 1.0, 41), [0.013, 0.987]])
    found = weighted_quantiles(values, weights, wanted)
    for row in range(3):
        order = np.argsort(values[row], kind="stable")
        mass = weights[row, order]
        middle = (np.cumsum(mass) - mass / 2) / mass.sum()
        assert found[row] == pytest.approx(np.interp(wanted, middle, values[row, order]))


def test_distances_are_taken_in_double_precision():
    """Also of scores in single: near 1 they would have few digits left."""
    scores = np.float32(1.0) - np.arange(1, 9, dtype=np.float32) * np.float32(1e-6)
    wanted = [math.sqrt(2.0 - 2.0 * one) for one in scores.tolist()]
    assert distances(scores).tolist() == wanted


# --- retirement ---------------------------------------------------------------------------------


def test_what_a_pattern_is_held_to_comes_from_the_days_it_was_promoted_on():
    """The long-run variance of a day's mean, which a plain variance would take for smaller."""
    means = np.random.default_rng(8).normal(size=80).cumsum() * 0.1
    found = refer(means, -0.7, 5)
    lag = choose_lag(80, 5)
    assert found.effect == -0.7
    assert found.block_days == 5
    assert found.variance == pytest.approx(long_run(means - means.mean(), lag) / 80)
    assert refer(means[:2], 0.5, 1) is not None
    for days, effect in ((means[:1], 0.5), (means[:0], 0.5), (means, 0.0), (means, math.nan)):
        assert refer(days, effect, 1) is None


def test_evidence_is_pages_sum():
    """Block by block n d (d / 2 - x) / v, never below zero; the greatest is remembered."""
    reference = Reference(effect=0.5, variance=2.0, block_days=3)
    days = np.random.default_rng(2).normal(0.2, 1.0, size=60)
    evidence, sums = Evidence(), [0.0]
    for number, day in enumerate(days.tolist(), 1):
        evidence = evidence.after(day, reference)
        if number % 3:
            assert evidence.days == number % 3
            assert evidence.total == pytest.approx(np.sum(days[number - number % 3 : number]))
        else:
            mean = float(np.mean(days[number - 3 : number]))
            sums.append(max(0.0, sums[-1] + 3 * 0.5 * (0.25 - mean) / 2.0))
            assert (evidence.days, evidence.total) == (0, 0.0)
        assert evidence.against == pytest.approx(sums[-1])
        assert evidence.worst == pytest.approx(max(sums))
    assert max(sums) > sums[-1]


def test_the_alarm_is_on_the_day_that_passes_the_threshold():
    """The last day of the first block that does; never on one that only reaches it."""
    reference = Reference(effect=1.0, variance=1.0, block_days=2)
    each = 2 * 1.0 * 0.5 / 1.0  # of a block without the effect
    blocks = math.floor(reference.threshold / each) + 1
    assert first_alarm(np.zeros(100), reference) == 2 * blocks - 1
    assert first_alarm(np.zeros(2 * blocks - 1), reference) is None
    assert first_alarm(np.ones(500), reference) is None


def test_threshold_of_the_strongest_effects_is_still_found():
    """Bisection ends at the solution, from what says next to nothing to what says much a day."""
    for effect in (1e-4, 0.01, 1.0, 30.0):
        reference = Reference(effect, 1.0, 1)
        wanted = 0.5 * effect * effect * 1_764
        assert math.expm1(reference.threshold) - reference.threshold == pytest.approx(
            wanted, rel=1e-4
        )
