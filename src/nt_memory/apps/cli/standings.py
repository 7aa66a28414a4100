"""How good agents have been, as documents and in words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nt_memory.apps.cli import documents
from nt_memory.apps.cli.rendering import moment, number

if TYPE_CHECKING:
    from nt_memory.reasoningbank import Calibration, Ranked, RecentAction, Uplift
    from nt_memory.reasoningbank.dependence import Mean

DECISION_HEAD = ("taken", "trajectory", "action", "type")
CALIBRATION_HEAD = ("type", "regime", "outcomes", "coverage", "bias", "skill", "sharpness", "drift")
RANK_HEAD = ("agent", "score", "skill", "forecasts", "distance")
UPLIFT_HEAD = ("agent", "worth", "of the loss", "shown", "withheld")
WEIGHT_HEAD = ("agent", "weight")


def finite(value: float) -> float | None:
    """A number, or None where it cannot be said."""
    return float(value) if math.isfinite(value) else None


def decision_document(one: RecentAction) -> documents.Decision:
    """An action."""
    return documents.Decision(
        agent=one.ref.agent,
        trajectory=one.ref.trajectory_id,
        action=one.ref.action,
        action_type=one.action_type,
        at=one.at,
    )


def decision_cells(doc: documents.Decision) -> tuple[object, ...]:
    """A row of the list."""
    return moment(doc.at), doc.trajectory, doc.action, doc.action_type


def calibration_document(one: Calibration) -> documents.Calibration:
    """A record."""
    return documents.Calibration(
        agent=one.agent,
        action_type=one.action_type,
        regime=one.regime,
        level=one.level,
        n=one.n,
        coverage=_mean(one.coverage),
        bias=_mean(one.bias),
        loss=_mean(one.loss),
        skill=_mean(one.skill),
        sharpness=_mean(one.sharpness),
        interval_score=_mean(one.interval_score),
        brier=_mean(one.brier),
        crps=_mean(one.crps),
        drift=_mean(one.drift),
        reliability=[
            documents.Reliability(claimed=each.claimed, observed=each.observed, n=each.n)
            for each in one.reliability
        ],
        alpha=one.alpha,
        steps=one.steps,
    )


def calibration_cells(doc: documents.Calibration) -> tuple[object, ...]:
    """A row of the list."""
    told = (doc.coverage, doc.bias, doc.skill, doc.sharpness, doc.drift)
    return (doc.action_type, doc.regime or "all", doc.n, *map(_interval, told))


def rank_document(one: Ranked) -> documents.Rank:
    """A place in the ranking."""
    return documents.Rank(
        agent=one.agent,
        score=one.score,
        skill=_mean(one.skill),
        n=one.n,
        distance=finite(one.distance),
    )


def rank_cells(doc: documents.Rank) -> tuple[object, ...]:
    """A row of the ranking."""
    return doc.agent, number(doc.score), _interval(doc.skill), doc.n, number(doc.distance)


def uplift_document(one: Uplift) -> documents.Uplift:
    """What advice was worth."""
    return documents.Uplift(
        agent=one.agent,
        value=finite(one.value),
        low=finite(one.low),
        high=finite(one.high),
        relative=finite(one.relative),
        shown=one.shown,
        withheld=one.withheld,
        units=one.units,
    )


def uplift_cells(doc: documents.Uplift) -> tuple[object, ...]:
    """The one row."""
    share = "" if doc.relative is None else f"{doc.relative:.1%}"
    return doc.agent, _spelled(doc.value, doc.low, doc.high), share, doc.shown, doc.withheld


def _mean(mean: Mean) -> documents.Mean:
    return documents.Mean(
        value=finite(mean.value),
        low=finite(mean.low),
        high=finite(mean.high),
        n=mean.n,
        n_effective=mean.n_effective,
    )


def _interval(mean: documents.Mean) -> str:
    return _spelled(mean.value, mean.low, mean.high)


def _spelled(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or low is None or high is None:
        return number(value)
    return f"{number(value)} ({number(low)} to {number(high)})"
