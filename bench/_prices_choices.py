"""What is still open after the demo's settings, chosen on ten tickers and the years to 2014.

Memory's own settings were frozen before (`_prices_walk.SETTINGS`). What is chosen here favours
what it is compared with: the best window and step for conformalised linear, the best window of residuals
for each way to filter returns, and for each forecast of volatility the best correction of its variance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from _prices_scores import conformal_linear, interval_losses, qlike
from _value_at_risk import (
    ewma_volatility,
    filtered,
    garch_volatility,
    memory_volatility,
    pinball,
    returns_of,
)

from nt_memory.apps.demo.scoring import compared_on
from nt_memory.apps.demo.settings import CHOSEN

if TYPE_CHECKING:
    from _prices_walk import Walked
    from numpy.typing import NDArray

    from nt_memory.apps.demo.plan import Plan

    Floats = NDArray[np.float64]

WINDOWS = (250, 500, 1_000, 2_000, None)
STEPS = (0.005, 0.01, 0.02, 0.05)
PRIORS = (None, 50.0, 250.0, 1_000.0)
FILTERS = ("memory", "EWMA", "GARCH")


@dataclass(frozen=True)
class Choices:
    """What was chosen.

    Attributes:
        linear_window: Days of errors behind conformalised linear; None: all.
        linear_step: Its gamma.
        residuals: Window of residuals by whose volatility filters; None: all.
        corrections: Days that all tickers count in the correction of a variance, by whose; None: alone.
        tried: Every figure it was chosen by: the lowest won.
    """

    linear_window: int | None
    linear_step: float
    residuals: dict[str, int | None]
    corrections: dict[str, float | None]
    tried: dict[str, float]


def volatilities(plan: Plan, walked: Walked, moves: Floats) -> tuple[dict[str, Floats], Floats]:
    """One-day volatilities by who forecasts them, and GARCH's mean."""
    garch, mean = garch_volatility(moves)
    found = {
        "memory": memory_volatility(walked.expected, moves),
        "EWMA": ewma_volatility(moves),
        "GARCH": garch,
    }
    # A residual counts from the first day of the walk on, whoever forecast.
    for one in found.values():
        one[: plan.start] = np.nan
    return found, mean


def choose(plan: Plan, walked: Walked) -> Choices:
    """Choose by the interval score and by the pinball loss."""
    actual, base = plan.baselines.outcomes, plan.baselines.forecasts["linear"]
    tried: dict[str, float] = {}
    linear: dict[tuple[int | None, float], float] = {}
    for window in WINDOWS:
        for step in STEPS:
            low, high = conformal_linear(base, actual, CHOSEN.level, window, step, plan.start)
            found = float(np.nanmean(interval_losses(low, high, actual, CHOSEN.level)))
            linear[window, step] = found
            tried[f"conformalised linear, {window or 'all'} days, step {step}"] = found
    moves = returns_of(plan.panel.prices)
    sigmas, _ = volatilities(plan, walked, moves)
    residuals: dict[str, int | None] = {}
    for name in FILTERS:
        losses = {
            window: pinball(filtered(moves, sigmas[name], window), moves) for window in WINDOWS
        }
        # All windows on the days that the longest can be judged on.
        is_known = np.isfinite(np.stack(list(losses.values()))).all(axis=0)
        means = {window: float(np.mean(one[is_known])) for window, one in losses.items()}
        residuals[name] = min(means, key=lambda window: means[window])
        for window, mean in means.items():
            tried[f"residuals of {name}, {window or 'all'}: pinball"] = mean
    best = min(linear, key=lambda one: linear[one])
    return Choices(*best, residuals, choose_corrections(plan, walked, tried), tried)


def choose_corrections(
    plan: Plan, walked: Walked, tried: dict[str, float]
) -> dict[str, float | None]:
    """For each forecast the correction that gives it the least QLIKE; what was tried is added."""
    actual, forecasts = plan.baselines.outcomes, plan.baselines.forecasts
    where = compared_on(actual, [walked.expected, walked.low, *forecasts.values()])
    found: dict[str, float | None] = {}
    for name, said in {"memory": walked.expected, **forecasts}.items():
        there = np.where(where, said, np.nan)
        losses = {prior: float(np.mean(qlike(there, actual, prior)[where])) for prior in PRIORS}
        found[name] = min(losses, key=lambda prior: losses[prior])
        for prior, loss in losses.items():
            own = "all tickers" if prior is None else f"its ticker and {prior:.0f} days of all"
            tried[f"variance of {name} corrected by {own}: QLIKE"] = loss
    return found
