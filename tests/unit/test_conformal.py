"""Adaptive intervals and bias: folds over what became known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nt_memory.errors import InvalidInputError
from nt_memory.reasoningbank.conformal import (
    MAX_ALPHA,
    MIN_ALPHA,
    AdaptiveAlpha,
    AdaptiveBias,
    Judged,
    fold_alpha,
    fold_bias,
    lessons,
)


def test_before_any_verdict_alpha_is_nominal_and_bias_is_none() -> None:
    """Nothing issued yet: the nominal level, and no correction."""
    assert AdaptiveAlpha.start(0.8).alpha == pytest.approx(0.2)
    assert fold_alpha(AdaptiveAlpha.start(0.8), []).alpha == AdaptiveAlpha.start(0.8).alpha
    assert AdaptiveBias.start().bias == 0.0


def test_misses_widen_and_hits_narrow() -> None:
    """One step moves alpha by gamma times the distance from the target, as the paper says."""
    state = AdaptiveAlpha.start(0.8, 0.1)
    assert state.after(1.0).alpha == pytest.approx(0.2 + 0.1 * (0.2 - 1.0))
    assert state.after(0.0).alpha == pytest.approx(0.2 + 0.1 * 0.2)
    assert state.after(0.2).alpha == pytest.approx(0.2)


def test_alpha_stays_usable_whatever_happens() -> None:
    """A year of misses, or of hits, ends at the clip and comes back at once."""
    worst = best = AdaptiveAlpha.start(0.8, 0.05)
    for _ in range(250):
        worst, best = worst.after(1.0), best.after(0.0)
    assert worst.alpha == MIN_ALPHA
    assert best.alpha == MAX_ALPHA
    assert worst.after(0.0).alpha > MIN_ALPHA


def test_long_run_coverage_is_the_target_after_a_change_of_world() -> None:
    """Intervals from a distribution that no longer holds still cover 80 % in the long run."""
    generator = np.random.default_rng(5)
    remembered = np.sort(generator.normal(size=400))
    state = AdaptiveAlpha.start(0.8, 0.02)
    missed = []
    for _ in range(2500):
        low, high = np.quantile(remembered, [state.alpha / 2, 1 - state.alpha / 2])
        outcomes = generator.normal(0.3, 1.4, size=10)
        missed.append(float(np.mean((outcomes < low) | (outcomes > high))))
        state = state.after(missed[-1])
    assert np.mean(missed) == pytest.approx(0.2, abs=0.01)


def test_bias_settles_at_its_share_of_a_lasting_error() -> None:
    """Closed loop: a lasting error e leaves a bias of e * gain / (1 - decay + gain)."""
    state = AdaptiveBias.start(0.9, 0.03)
    for _ in range(500):
        state = state.after(1.0 - state.bias)
    assert state.bias == pytest.approx(0.03 / 0.13)
    for _ in range(500):
        state = state.after(-state.bias)
    assert state.bias == pytest.approx(0.0, abs=1e-9)


judged = st.builds(Judged, st.integers(0, 4), st.booleans(), st.floats(-10, 10, allow_nan=False))


@settings(max_examples=80, deadline=None)
@given(st.lists(judged, max_size=30), st.randoms(use_true_random=False))
def test_order_of_writing_changes_no_bit(verdicts: list[Judged], shuffler: object) -> None:
    """Outcomes known at the same moment may be written in any order: the states are equal."""
    mixed = list(verdicts)
    shuffler.shuffle(mixed)  # type: ignore[attr-defined]
    assert list(lessons(mixed)) == list(lessons(verdicts))
    assert fold_alpha(AdaptiveAlpha.start(0.8), lessons(mixed)) == fold_alpha(
        AdaptiveAlpha.start(0.8), lessons(verdicts)
    )
    assert fold_bias(AdaptiveBias.start(), lessons(mixed)) == fold_bias(
        AdaptiveBias.start(), lessons(verdicts)
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(judged, max_size=20), st.integers(0, 5))
def test_folding_in_two_parts_is_folding_at_once(verdicts: list[Judged], cut: int) -> None:
    """The state as of a time, carried on, is the state from scratch."""
    before = [one for one in verdicts if one.known_at < cut]
    after = [one for one in verdicts if one.known_at >= cut]
    start = AdaptiveAlpha.start(0.8, 0.3)
    assert fold_alpha(fold_alpha(start, lessons(before)), lessons(after)) == fold_alpha(
        start, lessons(verdicts)
    )


def test_a_lesson_is_the_mean_of_its_moment() -> None:
    """One step a moment, with the share of misses and the mean error."""
    found = list(lessons([Judged(9, True, 1.0), Judged(3, False, -2.0), Judged(9, False, 2.0)]))
    assert found == [(3, 0.0, -2.0), (9, 0.5, 1.5)]


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, math.nan])
def test_impossible_levels_are_refused(level: float) -> None:
    """A level is a probability strictly between 0 and 1."""
    with pytest.raises(InvalidInputError, match="level"):
        AdaptiveAlpha.start(level)


def test_impossible_steps_are_refused() -> None:
    """Steps, miss rates and errors out of range raise and name the value."""
    with pytest.raises(InvalidInputError, match="gamma"):
        AdaptiveAlpha.start(0.8, -0.1)
    with pytest.raises(InvalidInputError, match="miss rate"):
        AdaptiveAlpha.start(0.8).after(1.1)
    with pytest.raises(InvalidInputError, match="decay"):
        AdaptiveBias.start(1.0)
    with pytest.raises(InvalidInputError, match="gain"):
        AdaptiveBias.start(0.9, 2.0)
    with pytest.raises(InvalidInputError, match="finite"):
        AdaptiveBias.start().after(math.nan)
