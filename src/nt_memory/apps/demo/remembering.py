"""What the swarm knows before the first traded day: its task, its voters, and the past."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nt_memory.apps.demo.swarm import RISK, trajectory_id
from nt_memory.apps.demo.target import ACTION_TYPE, HORIZON, TARGET, UNIT
from nt_memory.reasoningbank import Trajectory

if TYPE_CHECKING:
    from collections.abc import Callable

    from nt_memory.apps.demo.plan import Plan
    from nt_memory.apps.demo.swarm import Shared

    Progress = Callable[[str, int, int], None]

BULK = 1_000


async def remember(
    shared: Shared, plan: Plan, progress: Progress, is_stopping: Callable[[], bool]
) -> None:
    """Define what is forecast, register who votes, and track the past, day by day.

    Args:
        shared: The memory, empty.
        plan: Which days.
        progress: Called after every thousand situations.
        is_stopping: Asked before every thousand.
    """
    memory = shared.memory
    await memory.timeline.advance(plan.closes[plan.start - 1])
    await memory.bank.define(
        ACTION_TYPE, target=TARGET, unit=UNIT, horizon=HORIZON, baseline="linear"
    )
    for agent in plan.agents:
        await memory.consensus.register_agent(agent)
    await memory.consensus.register_agent(RISK, 0)
    cells = [
        (day, place)
        for day in range(plan.first_day, plan.start)
        for place in range(len(plan.agents))
        if math.isfinite(plan.baselines.forecasts["linear"][day, place])
    ]
    for done in range(0, len(cells), BULK):
        if is_stopping():
            break
        await memory.track_many([_past(plan, *cell) for cell in cells[done : done + BULK]])
        shared.counts.trajectories += len(cells[done : done + BULK])
        progress("remember the past", min(done + BULK, len(cells)), len(cells))


def _past(plan: Plan, day: int, place: int) -> Trajectory:
    """A past situation with the baseline of its day, and its outcome if it was known by now."""
    trajectory = Trajectory(
        plan.agents[place],
        id=trajectory_id(plan.agents[place], plan.panel.dates[day].isoformat()),
    )
    at = plan.closes[day]
    trajectory.add_observation(None, plan.situations[day, place], at=at)
    base = float(plan.baselines.forecasts["linear"][day, place])
    trajectory.add_action(ACTION_TYPE, baseline=base, at=at)
    if day + HORIZON < plan.start:
        outcome = float(plan.baselines.outcomes[day, place])
        trajectory.add_outcome(outcome, at=plan.closes[day + HORIZON])
    return trajectory
