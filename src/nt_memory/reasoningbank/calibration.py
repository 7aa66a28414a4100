"""How far an agent's forecasts can be trusted: coverage, bias, sharpness and reliability."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nt_memory.reasoningbank.conformal import AdaptiveAlpha, AdaptiveBias
from nt_memory.reasoningbank.definition import DAY_US
from nt_memory.reasoningbank.dependence import Mean, daily_mean
from nt_memory.reasoningbank.judging import histories
from nt_memory.reasoningbank.steering import Steer, Steering

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from numpy.typing import NDArray

    from nt_memory.reasoningbank.judging import History
    from nt_memory.reasoningbank.memories import Memories
    from nt_memory.timeline import Moment

BINS = 10
RECENT_DAYS = 60
UNKNOWN = Mean(math.nan, math.inf, 0, 0.0)


@dataclass(frozen=True, slots=True)
class Reliability:
    """What was claimed against what came.

    Attributes:
        claimed: Mean probability claimed.
        observed: Share that came true.
        n: Forecasts.
    """

    claimed: float
    observed: float
    n: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """An agent's record in one action type. Standard errors count dependence.

    Attributes:
        agent: Whose.
        action_type: In what.
        level: Of the intervals counted.
        n: Outcomes known.
        coverage: Share of intervals of `level` that held the outcome.
        bias: Mean of predicted minus actual.
        loss: Mean loss.
        skill: Mean of baseline loss minus loss.
        sharpness: Mean width of the intervals; lower is sharper.
        interval_score: Mean interval score.
        brier: Mean Brier score.
        crps: Mean continuous ranked probability score.
        reliability: Probabilities claimed, in bins, against what came.
        alpha: Miss rate the next interval would aim at.
        steps: Moments of knowing behind `alpha`.
        drift: Mean loss of the last `RECENT_DAYS` days with forecasts minus that of those before.
        regime: Pattern that their situations are nearest to, by id; empty: whatever the situation.
    """

    agent: str
    action_type: str
    level: float
    n: int
    coverage: Mean
    bias: Mean
    loss: Mean
    skill: Mean
    sharpness: Mean
    interval_score: Mean
    brier: Mean
    crps: Mean
    reliability: tuple[Reliability, ...]
    alpha: float
    steps: int
    drift: Mean = UNKNOWN
    regime: str = ""


async def calibrate(
    memories: Memories,
    agent: str,
    moment: Moment,
    action_type: str | None,
    level: float,
    regimes: Callable[[History], Awaitable[NDArray[np.str_]]] | None = None,
) -> list[Calibration]:
    """An agent's record as of a moment, one for each of its action types, by name.

    Args:
        memories: The columns.
        agent: Whose.
        moment: As of when.
        action_type: Only of this type.
        level: Of the intervals counted.
        regimes: Names what kind of situation each action was taken in; then one record each, by
            action type and regime.
    """
    groups: dict[tuple[str, str], list[History]] = {}
    # All of them before the first wait: later the moment may not be the present any more, which is slower to judge.
    for history in list(histories(memories, agent, moment, action_type)):
        name = history.table.action_type
        if regimes is None:
            groups.setdefault((name, ""), []).append(history)
            continue
        kinds = await regimes(history)
        for kind in np.unique(kinds).tolist():
            some = history.take(np.flatnonzero(kinds == kind))
            groups.setdefault((name, kind), []).append(some)
    return [
        _calibrate_type(agent, name, regime, found, moment, level)
        for (name, regime), found in sorted(groups.items(), key=lambda one: one[0])
    ]


def _calibrate_type(
    agent: str, name: str, regime: str, found: Sequence[History], moment: Moment, level: float
) -> Calibration:
    def mean(values: Callable[[History], NDArray[np.float64]]) -> Mean:
        return pooled_mean(found, values)

    def issued(history: History) -> NDArray[np.bool_]:
        return np.abs(history.forecasts.level - level) < 1e-9

    table, lane = found[0].table, found[0].lane
    start = Steer(AdaptiveAlpha.start(level), AdaptiveBias.start())
    state = Steering(table, (lane,), start).at(moment).alpha
    return Calibration(
        agent,
        name,
        level,
        sum(len(history.entries) for history in found),
        mean(lambda one: np.where(issued(one), one.judged.covered, np.nan)),
        mean(lambda one: one.judged.error),
        mean(lambda one: one.judged.loss),
        mean(lambda one: one.judged.skill),
        mean(lambda one: np.where(issued(one), one.forecasts.high - one.forecasts.low, np.nan)),
        mean(lambda one: np.where(issued(one), one.judged.interval_score, np.nan)),
        mean(lambda one: one.judged.brier),
        mean(lambda one: one.judged.crps),
        _reliability(found),
        state.alpha,
        state.steps,
        _drift(found),
        regime,
    )


def _drift(found: Sequence[History]) -> Mean:
    """How much worse losses have become lately; unknown without days before them."""
    loss = np.concatenate([history.judged.loss for history in found])
    at = np.concatenate([history.at for history in found])
    is_there = np.isfinite(loss)
    loss, at = loss[is_there], at[is_there]
    days = np.unique(at // DAY_US)
    if len(days) < 2 * RECENT_DAYS:
        return UNKNOWN
    is_recent = at // DAY_US >= days[-RECENT_DAYS]
    horizon = max(one.horizon_days for one in found)
    late = daily_mean(loss[is_recent], at[is_recent], horizon)
    early = daily_mean(loss[~is_recent], at[~is_recent], horizon)
    error = math.hypot(late.standard_error, early.standard_error)
    worth = min(late.n_effective, early.n_effective)
    return Mean(late.value - early.value, error, late.n + early.n, worth, late.freedom)


def pooled_mean(found: Sequence[History], values: Callable[[History], NDArray[np.float64]]) -> Mean:
    """Mean over several histories of what is finite, counting dependence."""
    if not found:
        return UNKNOWN
    every = np.concatenate([values(history) for history in found])
    at = np.concatenate([history.at for history in found])
    is_there = np.isfinite(every)
    return daily_mean(every[is_there], at[is_there], max(one.horizon_days for one in found))


def _reliability(found: Sequence[History]) -> tuple[Reliability, ...]:
    claimed = np.concatenate([history.forecasts.probability for history in found])
    actual = np.concatenate([history.forecasts.actual for history in found])
    is_there = np.isfinite(claimed)
    claimed, happened = claimed[is_there], actual[is_there] > 0.0
    place = np.minimum((claimed * BINS).astype(np.int64), BINS - 1)
    return tuple(
        Reliability(
            float(np.mean(claimed[place == bin_])),
            float(np.mean(happened[place == bin_])),
            int(np.count_nonzero(place == bin_)),
        )
        for bin_ in np.unique(place)
    )
