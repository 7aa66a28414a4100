"""The same situations with labels that cannot belong to them: is anything promoted?

The whole panel of labels (outcome minus frozen baseline) is shifted circularly along the days, by at
least a year: what the tickers of a day have in common and what one day has to do with the next stay as
they are, and every link to the situations is cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from _prices_walk import DIRECTION, VOLATILITY, ups_of

from nt_memory import MemoryConfig, MemorySystem, Trajectory
from nt_memory.apps.demo.target import HORIZON

if TYPE_CHECKING:
    from pathlib import Path

    from nt_memory.apps.demo.plan import Plan

LEAST_SHIFT = 252
BULK = 20
"""Days tracked by one call."""


class Look(NamedTuple):
    """One look at shifted labels: by how many days, of what, patterns tested and promoted."""

    shift: int
    what: str
    patterns: int
    promoted: int


async def shifted(plan: Plan, store: Path, rng: np.random.Generator) -> list[Look]:
    """Track everything with labels of another day, once, and take one look at q = 0.1."""
    days = np.arange(plan.start, plan.panel.n_days - HORIZON)
    by = int(rng.integers(LEAST_SHIFT, len(days) - LEAST_SHIFT))
    other = plan.start + (days - plan.start + by) % len(days)
    ups = ups_of(plan.panel.prices)
    targets = (
        (VOLATILITY, HORIZON, plan.baselines.outcomes - plan.baselines.forecasts["linear"]),
        (DIRECTION, 1, ups - np.nanmean(ups)),
    )
    config = MemoryConfig(storage_path=store, timeline="backtest", swarm="shifted", agent="bench")
    async with MemorySystem.open(config) as memory:
        await memory.timeline.advance(plan.closes[-1])
        for kind, horizon, _ in targets:
            await memory.bank.define(
                kind, target=f"{kind}, shifted", unit="1", horizon=horizon, looks=1,
                baseline="the walk's", features=tuple(plan.feature_names),
            )  # fmt: skip
        for first in range(0, len(days), BULK):
            some = list(zip(days[first : first + BULK].tolist(), other[first : first + BULK].tolist(), strict=True))  # fmt: skip
            await memory.track_many([
                _build(plan, day, place, [(kind, horizon, float(labels[there, place])) for kind, horizon, labels in targets])
                for day, there in some
                for place in range(len(plan.agents))
            ])  # fmt: skip
        looks = []
        for kind, _, _ in targets:
            found = await memory.bank.distill(plan.agents, action_type=kind, look=True)
            mine = [one for one in found if one.action_type == kind]
            looks.append(Look(by, kind, len(mine), sum(one.is_promoted for one in mine)))
    return looks


def _build(plan: Plan, day: int, place: int, labels: list[tuple[str, int, float]]) -> Trajectory:
    agent, at = plan.agents[place], plan.closes[day]
    built = Trajectory(agent, id=f"{agent}/{plan.panel.dates[day].isoformat()}")
    built.add_observation(None, plan.situations[day, place], at=at)
    for number, (kind, horizon, label) in enumerate(labels):
        # The baseline is 0 and the outcome the surprise itself: their difference is what is tested.
        built.add_action(kind, None, baseline=0.0, at=at)
        built.add_outcome(label, action=number, at=plan.closes[day + horizon])
    return built
