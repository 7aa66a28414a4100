"""The search for settings: what it may see, and that it walks forward."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nt_memory.apps.demo.prices import Panel
from nt_memory.apps.demo.research import choosing_panel, find_neighbours, judge, prepare, simulate
from nt_memory.apps.demo.settings import CHOSEN

SMALL = replace(CHOSEN, neighbours=40, first_day=400)


@pytest.fixture(scope="module")
def panel() -> Panel:
    return choosing_panel().only(["AAPL", "GE", "KO"]).until(700)


def test_the_search_sees_ten_tickers_and_the_years_to_2014() -> None:
    """Nothing after 2014 and no other ticker can take part in a choice."""
    seen = choosing_panel()
    assert seen.tickers == ("AAPL", "AMD", "BAC", "BBY", "CVX", "GE", "HD", "JNJ", "JPM", "KO")
    assert (seen.dates[0].year, seen.dates[-1].year) == (1990, 2014)


def test_forecasts_up_to_a_day_ignore_everything_later(panel: Panel) -> None:
    """Garbage after day 650 leaves forecasts and intervals up to day 650 the same bytes."""
    prices = panel.prices.copy()
    prices[650:] = np.exp(np.random.default_rng(0).normal(scale=20.0, size=prices[650:].shape))
    found = []
    for one in (panel, Panel(panel.dates, panel.tickers, prices)):
        study = prepare(one)
        near = find_neighbours(study, SMALL, 600, 700)
        found.append([part[:650].tobytes() for part in simulate(study, SMALL, near)])
    assert found[0] == found[1]


def test_the_embedder_is_fitted_on_what_is_known_before_the_window(panel: Panel) -> None:
    """Weights of features come from outcomes that had ended: garbage from day 650 cannot reach them."""
    prices = panel.prices.copy()
    prices[650:] = np.exp(np.random.default_rng(0).normal(scale=20.0, size=prices[650:].shape))
    weighted = replace(SMALL, is_weighted=True, neighbours=30, first_day=600)
    vectors = []
    for one in (panel, Panel(panel.dates, panel.tickers, prices)):
        # Only the fit may differ here, so both searches look at the undisturbed features.
        study = replace(
            prepare(one),
            baselines=replace(prepare(one).baselines, features=prepare(panel).baselines.features),
        )
        near = find_neighbours(study, weighted, 650, 660)
        vectors.append((near.cells.tobytes(), near.scores.tobytes()))
    assert vectors[0] == vectors[1]


def test_neighbours_are_known_and_nearest(panel: Panel) -> None:
    """Each memory's outcome was known on the day, and no nearer one was left out."""
    study = prepare(panel)
    near = find_neighbours(study, SMALL, 600, 602)
    days = near.cells // 3
    assert days.min() >= SMALL.first_day
    assert days[0].max() <= 595
    assert np.all(np.diff(near.scores, axis=-1) <= 0)
    wider = find_neighbours(study, replace(SMALL, neighbours=60), 600, 602)
    assert np.array_equal(near.scores, wider.scores[..., :40])


def test_a_finding_compares_with_every_baseline(panel: Panel) -> None:
    """MAE over a baseline's MAE is the ratio's value, and coverage is a share."""
    study = prepare(panel)
    found = judge(study, SMALL, find_neighbours(study, SMALL, 600, 700))
    errors = np.abs(study.baselines.outcomes - study.baselines.forecasts["har"])[600:]
    assert found.ratios["har"].value == pytest.approx(found.mae / np.nanmean(errors))
    assert set(found.ratios) == set(study.baselines.forecasts)
    assert 0.5 < found.covered < 1.0
