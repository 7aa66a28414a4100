"""What the report shows of the memory itself: one recall taken apart, and a map of situations."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import numpy as np

from nt_memory.apps.demo.result import Neighbour, SituationMap, WorkedRecall
from nt_memory.apps.demo.target import ACTION_TYPE, HORIZON

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nt_memory.apps.demo.plan import Plan
    from nt_memory.apps.demo.swarm import Forecast, Shared
    from nt_memory.reasoningbank import Pattern

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


async def map_situations(shared: Shared, plan: Plan) -> SituationMap | None:
    """Situations in two dimensions, with the patterns distilled from the first ticker's."""
    memory, agent = shared.memory, plan.agents[0]
    await shared.watch.time("distill", memory.bank.distill(agent))
    found = await memory.map(agent, action_type=ACTION_TYPE, sample=MAP_POINTS)
    if len(found) <= SHOWN or not found.patterns:
        return None
    return SituationMap(
        agent=agent,
        points=found.points.astype(np.float64),
        outcomes=found.outcomes,
        centroids=found.centroids.astype(np.float64),
        labels=[_label(pattern) for pattern in found.patterns],
        sizes=[pattern.n for pattern in found.patterns],
        success=[
            float("nan") if pattern.success_rate is None else pattern.success_rate
            for pattern in found.patterns
        ],
    )


def _label(pattern: Pattern) -> str:
    volatility = 100 * float(np.exp(pattern.outcome_mean))
    return f"{volatility:.0f}\u202f% volatility followed"
