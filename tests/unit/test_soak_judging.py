"""The judge of long runs finds growth that is planted, and does not cry wolf at noise."""

from __future__ import annotations

import numpy as np
import pytest
from _judging import Series, chart, has_held, judge

LENGTH_S = 1_800.0


def sampled(values, **how) -> Series:
    """A series of half an hour, a sample every ten seconds."""
    times = np.arange(10.0, LENGTH_S + 1, 10.0)
    return Series(
        "x", "bytes", list(zip(times, np.broadcast_to(values, times.shape), strict=True)), **how
    )


def ramp(start: float, end: float) -> np.ndarray:
    return np.linspace(start, end, 180)


def noise(scale: float, seed: int = 3) -> np.ndarray:
    """Latencies as they are: a heavy tail."""
    return np.random.default_rng(seed).lognormal(0.0, scale, 180)


def test_what_stays_holds():
    """A flat series holds, its ratio is 1."""
    found = judge(sampled(100.0), LENGTH_S)
    assert (found.verdict, found.ratio) == ("held", 1.0)
    assert has_held([found])


@pytest.mark.parametrize("is_noisy", [False, True])
def test_a_leak_is_found(is_noisy):
    """What grows by a third over the run grew, in sizes and in latencies."""
    found = judge(sampled(ramp(100.0, 133.0), is_noisy=is_noisy), LENGTH_S)
    assert found.verdict == "grew"
    assert not has_held([found])


def test_a_step_after_the_first_window_is_found():
    """It need not grow steadily."""
    values = np.where(np.arange(180) < 100, 100.0, 120.0)
    assert judge(sampled(values), LENGTH_S).verdict == "grew"


def test_warming_up_is_not_growth():
    """What grows in the first five minutes only has held."""
    values = np.minimum(ramp(0.0, 600.0), 100.0)
    assert judge(sampled(values), LENGTH_S).verdict == "held"


def test_a_single_stall_is_not_growth():
    """Medians are compared: one sample in the last window changes nothing."""
    values = np.full(180, 100.0)
    values[-5] = 10_000.0
    assert judge(sampled(values, is_noisy=True), LENGTH_S).verdict == "held"


def test_noise_is_not_growth():
    """Of fifty noisy latencies that do not grow, one in twenty may be taken for growth, no more."""
    verdicts = [
        judge(sampled(noise(0.5, seed), is_noisy=True), LENGTH_S).verdict for seed in range(50)
    ]
    assert verdicts.count("grew") <= 3
    assert "unsure" in verdicts  # else the interval does nothing


def test_growth_shows_through_noise():
    """A latency that doubles is found in noise of the same size."""
    verdicts = [
        judge(sampled(noise(0.3, seed) * ramp(1.0, 3.0), is_noisy=True), LENGTH_S).verdict
        for seed in range(20)
    ]
    assert verdicts.count("grew") == 20


def test_unsure_fails_only_where_asked_to():
    """`strict` counts what is unsure as growth."""
    seed = next(
        seed
        for seed in range(50)
        if judge(sampled(noise(0.5, seed), is_noisy=True), LENGTH_S).verdict == "unsure"
    )
    found = judge(sampled(noise(0.5, seed), is_noisy=True), LENGTH_S)
    assert has_held([found])
    assert not has_held([found], strict=True)


def test_what_was_not_sampled_has_not_held():
    """A run too short to say does not pass."""
    short = Series("x", "bytes", [(400.0, 1.0), (1_700.0, 1.0)])
    found = judge(short, LENGTH_S)
    assert found.verdict == "too few samples"
    assert not has_held([found])


def test_slack_is_what_cannot_be_measured():
    """Growth by less than the slack holds, by more it does not."""
    assert judge(sampled(ramp(10.0, 13.0), slack=4.0), LENGTH_S).verdict == "held"
    assert judge(sampled(ramp(10.0, 30.0), slack=4.0), LENGTH_S).verdict == "grew"


def test_only_what_is_judged_counts():
    """A series that is printed for information fails nothing."""
    assert has_held([judge(sampled(ramp(1.0, 9.0), is_judged=False), LENGTH_S)])


def test_the_chart_shows_the_shape():
    """From nothing to the maximum, left to right."""
    bars = chart(sampled(ramp(0.0, 100.0)), width=8)
    assert bars[0] == "▁"
    assert bars[-1] == "█"
    assert list(bars) == sorted(bars)
