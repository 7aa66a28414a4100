"""The same situations with labels that cannot belong to them: how often is anything promoted?

The whole panel of labels (outcome minus frozen baseline) is shifted circularly along the days, by at
least a year: what the tickers of a day have in common and what one day has to do with the next stay as
they are, and every link to the situations is cut. That a target drifts is no link to a situation, but a shift
does not cut it either, so baselines are as of each day, and of each ticker.

A look at a false discovery rate of 0.1 promotes something in one world of ten where there is nothing to
find: that is what the rate says where all hypotheses are null. Four looks without a promotion therefore
come about two times of three (0.9^4), and say little; forty looks measure the rate. All of them together
promote nothing, nine times of ten, if each is taken as one of as many as are taken: that is what declaring looks
in advance is for, and both are reported. Clusters never see
outcomes, so they are made once and every look tests them with the bank's own statistic. The bank also
computes it for 64 shifts of what it is given, to see whether its spread is what its error claims. Shifts
of a shifted panel are shifts of the panel: here they lie on one grid around the circle of days, from a
place drawn afresh, so that each is a world of its own and at the same time a shift of all others.
`stored` takes a look through the memory itself, and `look_alone` as the bank does without one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from _prices_walk import DIRECTION, VOLATILITY, ups_of

from nt_memory import MemoryConfig, MemorySystem, Trajectory
from nt_memory.apps.demo.target import HORIZON
from nt_memory.reasoningbank.dependence import choose_lag
from nt_memory.reasoningbank.distillation import MAX_PATTERNS, PER_PATTERN
from nt_memory.reasoningbank.promotion import (
    SHIFTS,
    Panel,
    Q,
    _Groups,
    calibrated,
    measure_clusters,
    promoted,
    studentised,
)
from nt_memory.tiers.vectors import kmeans

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from nt_memory.apps.demo.plan import Plan

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

LEAST_SHIFT = 252
BULK = 20
"""Days tracked by one call."""
TAILS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
REMEMBER = 0.998
"""What a day counts after the next one in a ticker's base rate of rising days: half after 346 days."""
DAYS_OF_ALL = 250.0
"""So many days' worth of all tickers' rate are in each one's. Both have the least Brier score of a base rate on the ten
tickers and the years to 2014; shifted labels had no part in it."""


class Look(NamedTuple):
    """One look at shifted labels.

    Attributes:
        shift: By how many days.
        what: Of which target.
        patterns: How many were tested.
        promoted: How many were promoted, the look taken as the only one.
        least: The least p-value; NaN if not kept.
        beyond: How many p-values lie at or below each of `TAILS`.
        declared: Looks declared in advance.
        promoted_of_declared: How many were promoted, the look taken as one of those.
    """

    shift: int
    what: str
    patterns: int
    promoted: int
    least: float = float("nan")
    beyond: tuple[int, ...] = ()
    declared: int = 1
    promoted_of_declared: int = 0


def targets(plan: Plan) -> list[tuple[str, int, Floats]]:
    """What is forecast: its name, over how many days its labels overlap, and outcome minus baseline."""
    ups = ups_of(plan.panel.prices)
    return [
        (VOLATILITY, HORIZON, plan.baselines.outcomes - plan.baselines.forecasts["linear"]),
        (DIRECTION, 1, ups - base_rates(ups)),
    ]


def base_rates(ups: Floats) -> Floats:
    """How often each ticker rose of late, as known at each close: shape (n_days, n_tickers), first row NaN.

    Whether the price rose from one close to the next is known at the second.
    """
    rates = np.full(ups.shape, np.nan)
    risen, days = np.zeros(ups.shape[1]), 0.0
    for day in range(1, len(ups)):
        risen, days = REMEMBER * risen + ups[day - 1], REMEMBER * days + 1.0
        rates[day] = (risen + DAYS_OF_ALL * np.mean(risen) / days) / (days + DAYS_OF_ALL)
    return rates


def shifted_days(plan: Plan, by: int) -> tuple[Ints, Ints]:
    """The days with situations, and the day whose label each gets."""
    days = np.arange(plan.start, plan.panel.n_days - HORIZON)
    return days, plan.start + (days - plan.start + by) % len(days)


def looks(plan: Plan, rng: np.random.Generator, n: int = SHIFTS) -> list[Look]:
    """Take looks at each target in worlds shifted by steps around the circle.

    Each is taken as if it were the only one, and as one of as many as are taken of all targets together.

    Args:
        plan: The prices, situations and baselines.
        rng: Draws where the grid begins.
        n: Shifts of the grid; those within a year of no shift at all make no world.

    Cost: about 20 s a target at 33 years of 20 tickers.
    """
    days, _ = shifted_days(plan, 0)
    begins = int(rng.integers(len(days) // n))
    shifts = [begins + place * len(days) // n for place in range(n)]
    is_world = [LEAST_SHIFT <= by <= len(days) - LEAST_SHIFT for by in shifts]
    found = []
    kinds = targets(plan)
    declared = len(kinds) * sum(is_world)  # before any is taken
    for what, horizon, labels in kinds:
        p = np.concatenate(
            [
                grid_p_values(labels[days, place], times(plan, days), cluster, horizon, shifts)
                for place, cluster in enumerate(clusters_of(plan, days))
            ],
            axis=1,
        )
        found += [
            judged(by, what, one, declared)
            for by, one, is_in in zip(shifts, p, is_world, strict=True)
            if is_in
        ]
    return found


def grid_p_values(
    values: Floats, at_us: Ints, cluster: Ints, horizon_days: int, shifts: Sequence[int]
) -> Floats:
    """p-values of `promotion.measure_clusters` in the world of each shift, shape (n_shifts, k).

    Each world's spread is measured over all other shifts, where the bank takes as many at even steps.
    """
    panel = Panel(values, at_us)
    k = int(cluster.max()) + 1
    groups = _Groups(panel, cluster[panel.order], k, choose_lag(panel.days, horizon_days))
    effect, error = (
        np.stack(one)
        for one in zip(*(groups.compare(panel.shifted(by)) for by in shifts), strict=True)
    )
    error = calibrated(
        error, _others(studentised(effect, error) ** 2), _others(effect**2), groups.freedom
    )
    return groups.p_values(effect, error)


def _others(squares: Floats) -> Floats:
    """Of each row the mean of all others."""
    means: Floats = (np.sum(squares, axis=0) - squares) / (len(squares) - 1)
    return means


def judged(by: int, what: str, p: Floats, declared: int = 1) -> Look:
    """A look that found these p-values, all that were to be tested, when so many looks were declared."""
    tested = p[np.isfinite(p)]
    beyond = tuple(int(np.count_nonzero(tested <= tail)) for tail in TAILS)
    passed, of_declared = (int(np.count_nonzero(promoted(p, Q, looks))) for looks in (1, declared))
    return Look(by, what, len(p), passed, float(tested.min()), beyond, declared, of_declared)


def look_alone(plan: Plan, by: int) -> list[Look]:
    """One look at each target, as the bank takes it. Cost: about 16 s a target."""
    days, other = shifted_days(plan, by)
    clusters = clusters_of(plan, days)
    return [
        judged(by, what, np.concatenate([
            measure_clusters(labels[other, place], times(plan, days), cluster, horizon).p_value
            for place, cluster in enumerate(clusters)
        ]))
        for what, horizon, labels in targets(plan)
    ]  # fmt: skip


def times(plan: Plan, days: Ints) -> Ints:
    """When each day closed, microseconds."""
    at_us: Ints = plan.close_us[days]
    return at_us


def clusters_of(plan: Plan, days: Ints) -> list[Ints]:
    """Clusters of each agent's situations as the bank makes them: of unit vectors, as it keeps them."""
    k = min(MAX_PATTERNS, len(days) // PER_PATTERN)
    found = []
    for place in range(len(plan.agents)):
        vectors = plan.situations[days, place]
        units = vectors / np.sqrt(np.sum(vectors * vectors, axis=1, keepdims=True))
        found.append(kmeans(units.astype(np.float16).astype(np.float32), k, 0)[1])
    return found


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
            taken.append(Look(by, kind, len(mine), passed, float(p.min()), beyond, 1, passed))
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
