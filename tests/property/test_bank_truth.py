"""The bank's statistics on worlds whose truth is known, in few worlds; 400 of them are in stress.

Bars are wide enough for so few worlds that a right statistic misses one in a million runs; a wrong one
must miss: known-bad statistics are held against the same bars.
"""

import bank_truth
import numpy as np
import pytest
from _worlds import OVERLAP, draw_panel, draw_world

from nt_memory.reasoningbank.dependence import daily_mean
from nt_memory.reasoningbank.promotion import measure_clusters, promoted

DAY_US = 86_400_000_000


@pytest.fixture
def rng():
    seed = np.random.SeedSequence().entropy
    print(f"seed {seed}")  # noqa: T201 - what repeats a failure
    return np.random.default_rng(seed)


def test_noise_is_seldom_promoted_and_by_n_over_five_more_often(rng):
    """Of 100 worlds of noise few have a promotion; counting a fifth of the values finds far more."""
    honest = naive = 0
    for _ in range(100):
        world = draw_world(rng, 300)
        honest += bool(promoted(bank_truth.p_values(world), 0.1, 1).any())
        naive += bool(promoted(bank_truth.naive_p_values(world), 0.1, 1).any())
    assert honest <= 26
    assert naive > honest


def test_effects_of_a_standard_deviation_are_promoted(rng):
    """Large effects are found nearly always, also at one of four looks, and with the right sign."""
    for _ in range(8):
        world = draw_world(rng, 2_000)
        cell = bank_truth.choose_cell(world)
        if cell is None:
            continue
        changed = world.with_effect(cell, -1.0)
        tests = measure_clusters(
            changed.label.ravel(), changed.at.ravel(), changed.cell.ravel(), OVERLAP
        )
        assert promoted(tests.p_value, 0.1, 4)[cell]
        assert tests.effect[cell] == pytest.approx(-1.0, abs=6 * tests.error[cell])


def test_intervals_of_skill_hold_zero_and_naive_ones_do_not(rng):
    """Overlap and common movement are counted."""
    at = np.repeat(np.arange(250) * DAY_US, 20)
    held = naive = 0
    for _ in range(100):
        values = draw_panel(rng, 250, 20).ravel()
        mean = daily_mean(values, at, OVERLAP)
        held += mean.low <= 0.0 <= mean.high
        naive += abs(mean.value) <= 1.96 * np.std(values) / np.sqrt(len(values) / OVERLAP)
    assert held >= 83
    assert naive <= 82


@pytest.mark.parametrize("section", ["breaks", "uplift", "clones"])
def test_other_statistics_come_near_their_bars(rng, section):
    """Breaks are seen soon, uplift is held by its interval, clones share a vote."""
    wide = {"days until": 90.0, "false alarms": 0.35, "farthest": 0.01}
    for finding in bank_truth.SECTIONS[section](rng, 60):
        limit = next((wide[one] for one in wide if one in finding.what), None)
        if limit is not None:
            assert finding.figure <= limit
        else:
            share = finding.figure / (60 if "intervals" in finding.what else 1)
            assert share >= 0.75
