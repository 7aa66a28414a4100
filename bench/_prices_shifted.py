"""The same situations with labels that cannot belong to them: how often is anything promoted?

The whole panel of labels (outcome minus frozen baseline) is shifted circularly along the days, by at
least a year: what the tickers of a day have in common and what one day has to do with the next stay as
they are, and every link to the situations is cut.

A look at a false discovery rate of 0.1 promotes something in one world of ten where there is nothing to
find: that is what the rate says where all hypotheses are null. Four looks without a promotion therefore
come about two times of three (0.9^4), and say little; forty looks measure the rate. Clusters never see
outcomes, so they are made once and every look tests them with the bank's own statistic; `stored` takes a
look through the memory itself, which must agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from _prices_walk import DIRECTION, VOLATILITY, ups_of

from nt_memory import MemoryConfig, MemorySystem, Trajectory
from nt_memory.apps.demo.target import HORIZON
from nt_memory.reasoningbank.distillation import MAX_PATTERNS, PER_PATTERN
from nt_memory.reasoningbank.promotion import Q, measure_clusters, promoted
from nt_memory.tiers.vectors import kmeans

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from nt_memory.apps.demo.plan import Plan

    Floats = NDArray[np.float64]

LEAST_SHIFT = 252
BULK = 20
"""Days tracked by one call."""
TAILS = (1e-2, 1e-3, 1e-4)


class Look(NamedTuple):
    """One look at shifted labels.

    Attributes:
        shift: By how many days.
        what: Of which target.
        patterns: How many were tested.
        promoted: How many were promoted.
        least: The least p-value; NaN if not kept.
        beyond: How many p-values lie at or below each of `TAILS`.
    """

    shift: int
    what: str
    patterns: int
    promoted: int
    least: float = float("nan")
    beyond: tuple[int, ...] = ()


def draw(plan: Plan, n: int, rng: np.random.Generator) -> list[int]:
    """Different shifts of at least a year, either way round."""
    days = plan.panel.n_days - HORIZON - plan.start
    return sorted(rng.choice(np.arange(LEAST_SHIFT, days - LEAST_SHIFT), n, replace=False).tolist())


def targets(plan: Plan) -> list[tuple[str, int, Floats]]:
    """What is forecast: its name, over how many days its labels overlap, and outcome minus baseline."""
    ups = ups_of(plan.panel.prices)
    return [
        (VOLATILITY, HORIZON, plan.baselines.outcomes - plan.baselines.forecasts["linear"]),
        (DIRECTION, 1, ups - np.nanmean(ups)),
    ]


def shifted_days(plan: Plan, by: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The days with situations, and the day whose label each gets."""
    days = np.arange(plan.start, plan.panel.n_days - HORIZON)
    return days, plan.start + (days - plan.start + by) % len(days)


def looks(plan: Plan, shifts: list[int]) -> Iterator[Look]:
    """Take one look at each target for each shift, at q = 0.1 as if it were the only one.

    Cost: about 15 s a look at 33 years of 20 tickers.
    """
    days, _ = shifted_days(plan, 0)
    at_us = np.array([plan.close_us[day] for day in days], dtype=np.int64)
    clusters = [_clusters(plan, days, place) for place in range(len(plan.agents))]
    for by in shifts:
        _, other = shifted_days(plan, by)
        for what, horizon, labels in targets(plan):
            p = np.concatenate([
                measure_clusters(labels[other, place], at_us, cluster, horizon).p_value
                for place, cluster in enumerate(clusters)
            ])  # fmt: skip
            tested = p[np.isfinite(p)]
            beyond = tuple(int(np.count_nonzero(tested <= tail)) for tail in TAILS)
            passed = int(np.count_nonzero(promoted(p, Q, 1)))
            yield Look(by, what, len(p), passed, float(tested.min()), beyond)


def _clusters(plan: Plan, days: NDArray[np.int64], place: int) -> NDArray[np.int64]:
    """Clusters of one agent's situations as the bank makes them: of unit vectors, as it keeps them."""
    vectors = plan.situations[days, place]
    units = vectors / np.sqrt(np.sum(vectors * vectors, axis=1, keepdims=True))
    kept = units.astype(np.float16).astype(np.float32)
    return kmeans(kept, min(MAX_PATTERNS, len(days) // PER_PATTERN), 0)[1]


async def stored(plan: Plan, store: Path, by: int) -> list[Look]:
    """Track everything with labels of another day in a memory, and take one look at each target."""
    days, other = shifted_days(plan, by)
    kinds = targets(plan)
    config = MemoryConfig(storage_path=store, timeline="backtest", swarm="shifted", agent="bench")
    async with MemorySystem.open(config) as memory:
        await memory.timeline.advance(plan.closes[-1])
        for kind, horizon, _ in kinds:
            await memory.bank.define(
                kind, target=f"{kind}, shifted", unit="1", horizon=horizon, looks=1,
                baseline="the walk's", features=tuple(plan.feature_names),
            )  # fmt: skip
        for first in range(0, len(days), BULK):
            some = list(zip(days[first : first + BULK].tolist(), other[first : first + BULK].tolist(), strict=True))  # fmt: skip
            await memory.track_many([
                _build(plan, day, place, [(kind, horizon, float(labels[there, place])) for kind, horizon, labels in kinds])
                for day, there in some
                for place in range(len(plan.agents))
            ])  # fmt: skip
        taken = []
        for kind, _, _ in kinds:
            found = await memory.bank.distill(plan.agents, action_type=kind, look=True)
            mine = [one for one in found if one.action_type == kind]
            p = np.array([one.p_value for one in mine if one.p_value is not None])
            beyond = tuple(int(np.count_nonzero(p <= tail)) for tail in TAILS)
            passed = sum(one.is_promoted for one in mine)
            taken.append(Look(by, kind, len(mine), passed, float(p.min()), beyond))
    return taken


def _build(plan: Plan, day: int, place: int, labels: list[tuple[str, int, float]]) -> Trajectory:
    agent, at = plan.agents[place], plan.closes[day]
    built = Trajectory(agent, id=f"{agent}/{plan.panel.dates[day].isoformat()}")
    built.add_observation(None, plan.situations[day, place], at=at)
    for number, (kind, horizon, label) in enumerate(labels):
        # The baseline is 0 and the outcome the surprise itself: their difference is what is tested.
        built.add_action(kind, None, baseline=0.0, at=at)
        built.add_outcome(label, action=number, at=plan.closes[day + horizon])
    return built
