"""Verdicts follow from numbers alone."""

import math

import numpy as np
import pytest

from nt_memory.reasoningbank.definition import Definition, Tolerance
from nt_memory.reasoningbank.dependence import daily_mean
from nt_memory.reasoningbank.verdict import (
    KINDS,
    Forecasts,
    Verdict,
    crps_from_quantiles,
    describe,
    error_scale,
    error_scales,
    interval_scores,
    judge_batch,
    optional,
    to_verdict,
)

DAY = 86_400_000_000


def forecasts(n=1, **given):
    columns = {name: np.full(n, np.nan) for name in Forecasts._fields[:-1]}
    columns["level"] = np.full(n, 0.8)
    columns.update({name: np.array(value, np.float64) for name, value in given.items()})
    return Forecasts(**columns)


def kinds(tolerance, **given):
    n = len(given["actual"])
    return [KINDS[k] for k in judge_batch(forecasts(n, **given), "absolute", tolerance).kind]


def test_errors_are_held_against_the_earlier_error_scale():
    """At most one scale is correct, over two very wrong; without a scale nothing is said."""
    found = kinds(
        Tolerance(),
        predicted=[1.0, 2.0, 2.1, -2.5, 1.0, 3.0, 6.0, -6.1],
        actual=[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        scale=[1.0, 1.0, 1.0, 1.0, np.nan, 3.0, 3.0, 3.0],
    )
    assert found == [
        *("correct", "incorrect", "very_wrong", "very_wrong", "insufficient"),
        *("correct", "incorrect", "very_wrong"),
    ]


def test_relative_tolerance_is_safe_at_zero_and_negative_outcomes():
    """5 % and 25 % of the size of the outcome; at zero a share means nothing."""
    found = kinds(
        Tolerance("relative", 0.05, 0.25),
        predicted=[-1.04, 1.2, 1.3, 0.1],
        actual=[-1.0, 1.0, 1.0, 0.0],
    )
    assert found == ["correct", "incorrect", "very_wrong", "insufficient"]


def test_probability_and_interval_decide_where_there_is_no_point_forecast():
    """From 50 % on is correct, over 75 % on the wrong side very wrong; else the interval."""
    found = kinds(
        Tolerance(),
        actual=[1.0, 1.0, -1.0, 5.0, np.nan, 5.0, -1.0],
        probability=[0.5, 0.4, 0.8, np.nan, 0.9, np.nan, 0.75],
        low=[np.nan, np.nan, np.nan, 4.0, 1.0, 5.0, np.nan],
        high=[np.nan, np.nan, np.nan, 4.5, 2.0, 5.0, np.nan],
    )
    assert found == [
        *("correct", "incorrect", "very_wrong", "incorrect", "insufficient", "correct"),
        "incorrect",
    ]


def test_a_probability_is_of_an_outcome_above_zero():
    """An outcome of zero is none above it; what is not known pays nothing."""
    judged = judge_batch(
        forecasts(3, actual=[0.0, 0.1, np.nan], probability=[0.9, 0.9, 0.9]),
        "absolute",
        Tolerance(),
    )
    np.testing.assert_allclose(judged.brier, [0.81, 0.01, np.nan])


@pytest.mark.parametrize(("loss", "paid"), [("absolute", [3.0, 5.0]), ("squared", [9.0, 25.0])])
def test_forecast_and_baseline_pay_the_same_loss(loss, paid):
    """A skill compares like with like: both pay what the definition says."""
    judged = judge_batch(
        forecasts(predicted=[1.0], actual=[4.0], baseline=[9.0]), loss, Tolerance()
    )
    assert [judged.loss[0], judged.baseline_loss[0]] == paid


def test_interval_score_is_width_plus_penalty():
    """Gneiting & Raftery's equation 43, worked by hand at 80 %."""
    arrays = [np.array(v) for v in ([0.0, 0.0, 0.0], [2.0, 2.0, 2.0], [0.8] * 3, [1.0, 3.0, -0.5])]
    np.testing.assert_allclose(interval_scores(*arrays), [2.0, 2.0 + 10.0, 2.0 + 5.0])


def test_crps_of_many_quantiles_approaches_the_exact_score():
    """For a uniform forecast on [0, 1] and outcome 0.5 the exact score is 1/12."""
    p = (np.arange(1000) + 0.5) / 1000
    score = crps_from_quantiles(np.stack([p, p], axis=1), 0.5)
    assert score == pytest.approx(1.0 / 12.0, rel=1e-3)


def test_crps_weighs_each_quantile_by_the_probabilities_nearest_to_it():
    """Worked by hand: pinball losses of 0.3, 0.4 and 0.1, for 15, 40 and 45 % of all probabilities."""
    quantiles = np.array([[0.1, 0.0], [0.2, 1.0], [0.9, 4.0]])
    assert crps_from_quantiles(quantiles, 3.0) == pytest.approx(2 * (0.045 + 0.16 + 0.045))
    assert crps_from_quantiles(np.array([[0.4, 2.0]]), 2.5) == pytest.approx(2 * 0.4 * 0.5)


def test_median_of_quantiles_stands_in_for_a_point_forecast():
    """Quantiles alone make a forecast that can be judged."""
    one = forecasts(actual=[3.0])._replace(quantiles=[np.array([[0.25, 1.0], [0.75, 3.0]])])
    judged = judge_batch(one, "squared", Tolerance("absolute", 0.5, 0.9))
    assert judged.predicted[0] == 2.0
    assert judged.loss[0] == 1.0
    assert KINDS[judged.kind[0]] == "very_wrong"


def test_a_point_forecast_is_not_replaced_by_its_median():
    """The median stands in only where no point was given, and only if 50 % lies among the quantiles."""
    high = np.array([[0.7, 1.0], [0.9, 3.0]])
    both = forecasts(2, actual=[3.0, 3.0], predicted=[5.0, np.nan])
    judged = judge_batch(
        both._replace(quantiles=[np.array([[0.25, 1.0], [0.75, 3.0]]), high]),
        "absolute",
        Tolerance(),
    )
    assert judged.predicted[0] == 5.0
    assert np.isnan(judged.predicted[1])


@pytest.mark.parametrize(
    ("probabilities", "median"),
    [((0.5, 0.9), -4.0), ((0.1, 0.5), -2.0), ((0.5,), -4.0), ((0.1, 0.4, 0.6), -1.0)],
)
def test_a_median_lies_anywhere_among_the_quantiles(probabilities, median):
    """Between any two of them, and where the first or the last of them says it."""
    values = np.array([-4.0, -2.0, 0.0])[: len(probabilities)]
    one = forecasts(actual=[3.0])._replace(quantiles=[np.stack([probabilities, values], axis=1)])
    found = judge_batch(one, "absolute", Tolerance()).predicted[0]
    assert found == pytest.approx(median)


def test_skill_is_the_baselines_loss_minus_ours():
    """Positive skill is better than the frozen baseline."""
    judged = judge_batch(
        forecasts(2, predicted=[1.0, 3.0], actual=[2.0, 3.0], baseline=[4.0, 1.0]),
        "squared",
        Tolerance(),
    )
    np.testing.assert_allclose(judged.skill, [4.0 - 1.0, 4.0])


def test_error_scale_uses_only_what_was_known_strictly_before():
    """Outcomes known at the same moment, or later, do not enter a verdict's scale."""
    known = np.repeat(np.arange(3), 20)
    error = np.repeat([1.0, 100.0, 7.0], 20)
    scale = error_scales(error, known)
    half_normal = math.sqrt(math.pi / 2.0)
    assert np.isnan(scale[:20]).all()
    np.testing.assert_allclose(scale[20:40], half_normal)
    np.testing.assert_allclose(scale[40:], half_normal * 50.5)
    assert error_scale(error, known, 1) == scale[20]  # exactly as many as it takes
    assert math.isnan(error_scale(error[1:], known[1:], 1))


def test_the_scale_of_one_outcome_is_that_of_all():
    """Judging one and judging a batch agree to the last bit, in whatever order errors became known."""
    rng = np.random.default_rng(7)
    error, known = rng.normal(size=60), rng.permutation(60)
    error[::9] = np.nan
    scales = error_scales(error, known)
    for row in (0, 17, 59):
        one = error_scale(error, known, int(known[row]))
        assert one == scales[row] or (math.isnan(one) and math.isnan(scales[row]))
    latest = int(np.argmax(known))
    assert error_scale(error, known, int(known[latest])) > 0.0
    assert math.isnan(error_scale(error, known, 5))


def test_scales_agree_to_the_last_bit_where_outcomes_became_known_together():
    """A market's labels end at one close: errors known at one moment are added in the order given."""
    rng = np.random.default_rng(8)
    error, known = rng.normal(size=600), rng.integers(0, 20, size=600)
    scales = error_scales(error, known)
    for moment in range(20):
        one = error_scale(error, known, moment)
        there = scales[known == moment]
        assert (there == one).all() or (math.isnan(one) and np.isnan(there).all())


def verdict_of(claimed, row=0, loss="absolute"):
    """One row of what was claimed, judged without a definition."""
    return to_verdict(
        None,
        judge_batch(claimed, loss, Tolerance()),
        claimed,
        row,
        trajectory_id="t",
        action=0,
        agent="a",
        action_type="x",
        revision=0,
    )


def test_a_verdict_leaves_out_what_is_not_known():
    """Where a figure is no number there is none: JSON has no word for it, and readers ask for None."""
    assert verdict_of(forecasts(predicted=[1.0])) == Verdict(
        "t", 0, "a", "x", "insufficient", 1.0, feedback="No outcome is known yet."
    )
    assert [optional(number) for number in (math.inf, -math.inf, 0.0)] == [None, None, 0.0]


def test_a_verdict_has_every_figure_of_its_row():
    """Each figure of a batch is under its own name in the verdict, and the unit in its words."""
    claimed = forecasts(
        2,
        predicted=[0.0, 4.0],
        actual=[0.0, 3.0],
        baseline=[0.0, 1.0],
        scale=[1.0, 2.0],
        probability=[0.5, 0.6],
        low=[0.0, 2.0],
        high=[1.0, 2.5],
    )._replace(quantiles=[None, np.array([[0.25, 2.0], [0.75, 4.0]])])
    judged = judge_batch(claimed, "squared", Tolerance())
    verdict = to_verdict(
        Definition("volatility", "next week", "percent", 5),
        judged,
        claimed,
        1,
        trajectory_id="t",
        action=2,
        agent="a",
        action_type="volatility",
        revision=9,
    )
    assert (verdict.trajectory_id, verdict.action, verdict.agent) == ("t", 2, "a")
    assert (verdict.action_type, verdict.revision, verdict.kind) == ("volatility", 9, "correct")
    assert (verdict.predicted, verdict.actual, verdict.error) == (4.0, 3.0, 1.0)
    assert (verdict.scale, verdict.loss, verdict.baseline_loss, verdict.skill) == (
        2.0,
        1.0,
        4.0,
        3.0,
    )
    assert verdict.interval_score == pytest.approx(0.5 + 10.0 * 0.5)
    assert verdict.is_covered is False
    held = claimed._replace(low=claimed.actual, high=claimed.actual)
    assert verdict_of(held, 1).is_covered is True
    assert verdict.crps == pytest.approx(crps_from_quantiles(claimed.quantiles[1], 3.0))
    assert verdict.brier == pytest.approx(0.16)
    assert "3 percent came" in verdict.feedback


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({}, "No outcome is known yet."),
        ({"actual": 2.0}, "Correct: 2 pct came."),
        ({"actual": 2.0, "predicted": 3.0}, "Correct: 2 pct came."),
        (
            {"actual": 2.0, "predicted": 3.0, "error": 1.0, "scale": 2.0},
            "Correct: 2 pct came, 3 was predicted, off by 1 (too high). That is 0.5 of the usual error.",
        ),
        (
            {"actual": 2.0, "predicted": 1.5, "error": -0.5},
            "Correct: 2 pct came, 1.5 was predicted, off by 0.5 (too low).",
        ),
        (
            {"actual": 2.0, "predicted": 2.0, "error": 0.0},
            "Correct: 2 pct came, 2 was predicted, exactly.",
        ),
        ({"actual": 2.0, "skill": 1.0}, "Correct: 2 pct came."),
        (
            {"actual": 2.0, "skill": 0.5, "loss": 1.0, "baseline_loss": 1.5},
            "Correct: 2 pct came. The forecast did better than the baseline (loss 1 against 1.5).",
        ),
        (
            {"actual": 2.0, "skill": -0.5, "loss": 1.5, "baseline_loss": 1.0},
            "Correct: 2 pct came. The forecast did worse than the baseline (loss 1.5 against 1).",
        ),
        (
            {"actual": 2.0, "skill": 0.0, "loss": 1.0, "baseline_loss": 1.0},
            "Correct: 2 pct came. The forecast did no better than the baseline (loss 1 against 1).",
        ),
        ({"actual": 2.0, "is_covered": True}, "Correct: 2 pct came. The interval held it."),
        ({"actual": 2.0, "is_covered": False}, "Correct: 2 pct came. The interval missed it."),
        ({"actual": 2.0, "brier": 0.0625}, "Correct: 2 pct came. Brier score 0.062."),
    ],
)
def test_words_follow_from_the_figures(figures, words):
    """A verdict's words say what its figures do, and leave out what there is no figure for."""
    assert describe(Verdict("t", 0, "a", "x", "correct", **figures), "pct") == words


def test_words_spell_the_kind():
    """Kinds are said as words, not as the names they are stored under."""
    verdict = Verdict("t", 0, "a", "x", "very_wrong", actual=2.0)
    assert describe(verdict, "pct") == "Very wrong: 2 pct came."


def test_words_have_no_unit_where_the_definition_is_not_known():
    """What came is said as a bare number, without a gap where its unit would be."""
    verdict = verdict_of(forecasts(actual=[2.0], predicted=[2.0]))
    assert verdict.feedback == "Insufficient: 2 came, 2 was predicted, exactly."


def test_standard_error_counts_values_of_one_day_once():
    """Copying each value twenty times a day adds no information."""
    rng = np.random.default_rng(5)
    values, at = rng.normal(size=400), np.arange(400) * DAY
    single = daily_mean(values, at, 1)
    copied = daily_mean(np.repeat(values, 20), np.repeat(at, 20), 1)
    assert copied.standard_error == pytest.approx(single.standard_error)
    assert copied.n_effective == pytest.approx(single.n_effective, rel=0.05)


def test_standard_error_counts_overlap():
    """Five-day sums of independent values are worth about a fifth of their number."""
    rng = np.random.default_rng(6)
    sums = np.convolve(rng.normal(size=3004), np.ones(5), "valid")
    found = daily_mean(sums, np.arange(3000) * DAY, 5)
    assert 400 < found.n_effective < 1000
