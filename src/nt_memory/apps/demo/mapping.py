"""What the report shows of the memory itself: one recall taken apart, and a map of situations."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import numpy as np

from nt_memory.apps.demo.result import Neighbour, SituationMap, WorkedRecall
from nt_memory.apps.demo.target import HORIZON

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nt_memory.apps.demo.plan import Plan
    from nt_memory.apps.demo.swarm import Forecast, Shared
    from nt_memory.reasoningbank import Pattern

    Floats = NDArray[np.float64]

CRISIS = date(2020, 3, 16)
SHOWN = 10
MAP_POINTS = 1_500


def recall_day(plan: Plan) -> int:
    """The day whose recall is taken apart: March 2020, or else the wildest day traded."""
    dates = plan.panel.dates
    if CRISIS in dates and dates.index(CRISIS) >= plan.start:
        return dates.index(CRISIS)
    base = plan.baselines.forecasts["ewma"][plan.start : plan.panel.n_days - HORIZON]
    return plan.start + int(np.argmax(np.nanmean(base, axis=1)))


def take_apart(plan: Plan, day: int, forecasts: Sequence[Forecast]) -> WorkedRecall | None:
    """The first ticker's recall of the day to be shown; None on other days."""
    if day != recall_day(plan) or forecasts[0].advice.evidence is None:
        return None
    forecast = forecasts[0]
    return WorkedRecall(
        ticker=plan.agents[0],
        day=plan.panel.dates[day],
        features=[
            (name, float(value))
            for name, value in zip(
                plan.feature_names, plan.baselines.features[day, 0], strict=False
            )
        ],
        base=forecast.base,
        recalled=forecast.expected - forecast.base,
        predicted=forecast.expected,
        low=forecast.low,
        high=forecast.high,
        actual=float(plan.baselines.outcomes[day, 0]),
        neighbours=[
            Neighbour(
                memory.ref.agent,
                memory.at.date(),
                memory.score,
                memory.outcome,
                memory.weight,
            )
            for memory in forecast.advice.memories(SHOWN)
        ],
        memories=len(forecast.advice.receipt.row),
    )


async def map_situations(shared: Shared, plan: Plan, end: int) -> SituationMap | None:
    """Situations in two dimensions, with the patterns distilled from the first ticker's."""
    patterns = await shared.watch.time("distill", shared.memory.bank.distill(plan.agents[0]))
    known = slice(plan.first_day, max(plan.first_day, end - HORIZON))
    situations = plan.situations[known, 0]
    outcomes = plan.baselines.outcomes[known, 0]
    usable = np.isfinite(situations).all(axis=1) & np.isfinite(outcomes)
    situations, outcomes = situations[usable], outcomes[usable]
    if len(situations) <= SHOWN or not patterns:
        return None
    units = situations / np.linalg.norm(situations, axis=1, keepdims=True)
    step = max(1, len(units) // MAP_POINTS)
    centre, axes = _principal_axes(units)
    centroids = np.array([pattern.centroid for pattern in patterns], dtype=np.float64)
    return SituationMap(
        agent=plan.agents[0],
        points=(units[::step] - centre) @ axes,
        outcomes=outcomes[::step],
        centroids=(centroids - centre) @ axes,
        labels=[_label(pattern) for pattern in patterns],
        sizes=[pattern.n for pattern in patterns],
        success=[
            float("nan") if pattern.success_rate is None else pattern.success_rate
            for pattern in patterns
        ],
    )


def _principal_axes(units: Floats) -> tuple[Floats, Floats]:
    """Mean, and the first two principal axes, shape (dim, 2), with a sign that does not vary."""
    centre = units.mean(axis=0)
    _, _, rows = np.linalg.svd(units - centre, full_matrices=False)
    axes = rows[:2].T
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])
    return centre, axes * signs


def _label(pattern: Pattern) -> str:
    volatility = 100 * float(np.exp(pattern.outcome_mean))
    return f"{volatility:.0f}\u202f% volatility followed"
