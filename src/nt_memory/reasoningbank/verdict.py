"""Verdicts: predicted against actual, computed, never asked of a language model.

Everything here is a pure function over arrays; `judge_batch` judges a million forecasts at once, and
one forecast is a batch of one, so that both say the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nt_memory.reasoningbank.definition import Definition, Loss, Tolerance

    Floats = NDArray[np.float64]

Kind = Literal["correct", "incorrect", "very_wrong", "insufficient"]
KINDS: tuple[Kind, ...] = ("correct", "incorrect", "very_wrong", "insufficient")
CORRECT, INCORRECT, VERY_WRONG, INSUFFICIENT = range(4)
MIN_ERRORS = 20
HALF_NORMAL = math.sqrt(math.pi / 2.0)


class Forecasts(NamedTuple):
    """What was claimed and what came, one definition's; all shape (n,), NaN where nothing is known.

    Attributes:
        predicted: Point forecasts.
        actual: Outcomes.
        low: Lower ends of intervals.
        high: Upper ends of intervals.
        level: Coverage the intervals claim.
        probability: Of an outcome above zero.
        baseline: Naive forecasts, frozen with the action.
        scale: The predictor's error scale before this outcome was known, see `error_scales`.
        quantiles: One array (q, 2) of (probability, value) a forecast, or None where none were given.
    """

    predicted: Floats
    actual: Floats
    low: Floats
    high: Floats
    level: Floats
    probability: Floats
    baseline: Floats
    scale: Floats
    quantiles: Sequence[Floats | None] = ()


class Judgements(NamedTuple):
    """What `judge_batch` finds; all shape (n,), NaN where it does not apply.

    Attributes:
        kind: Index into `KINDS`.
        predicted: Point forecasts, with medians where only quantiles were given.
        error: Predicted minus actual.
        loss: The definition's loss of the forecast.
        baseline_loss: The same of the frozen baseline.
        interval_score: Gneiting & Raftery 2007, equation 43; lower is better.
        covered: 1 where the interval held the outcome, 0 where not.
        crps: Continuous ranked probability score from quantiles; lower is better.
        brier: Squared error of the probability; lower is better.
    """

    kind: NDArray[np.int8]
    predicted: Floats
    error: Floats
    loss: Floats
    baseline_loss: Floats
    interval_score: Floats
    covered: Floats
    crps: Floats
    brier: Floats

    @property
    def skill(self) -> Floats:
        """How far the loss lies below the baseline's; positive is better than the baseline."""
        return self.baseline_loss - self.loss


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one action turned out.

    Attributes:
        trajectory_id: Which trajectory.
        action: Which of its actions, from 0.
        agent: Whose.
        action_type: What kind.
        kind: The verdict; "insufficient" where nothing was claimed, nothing is known yet, or too few
            earlier errors exist to say what is large.
        predicted: What was forecast, or None.
        actual: What came, or None.
        error: Predicted minus actual.
        scale: The error scale it was held against.
        loss: Of the forecast.
        baseline_loss: Of the frozen baseline.
        skill: Baseline loss minus loss.
        interval_score: Of the interval; lower is better.
        is_covered: Whether the interval held the outcome.
        crps: From quantiles; lower is better.
        brier: Of the probability; lower is better.
        revision: The entry that recorded the outcome; 0 if there is none.
        feedback: The same in words.
    """

    trajectory_id: str
    action: int
    agent: str
    action_type: str
    kind: Kind
    predicted: float | None = None
    actual: float | None = None
    error: float | None = None
    scale: float | None = None
    loss: float | None = None
    baseline_loss: float | None = None
    skill: float | None = None
    interval_score: float | None = None
    is_covered: bool | None = None
    crps: float | None = None
    brier: float | None = None
    revision: int = 0
    feedback: str = ""


def losses(forecast: Floats, actual: Floats, loss: Loss) -> Floats:
    """What forecasts pay: the absolute or the squared error."""
    error: Floats = np.abs(forecast - actual)
    squared: Floats = error * error
    return squared if loss == "squared" else error


def interval_scores(low: Floats, high: Floats, level: Floats, actual: Floats) -> Floats:
    """Width plus 2 / alpha times what sticks out.

    Source: Gneiting & Raftery 2007, equation 43, with alpha = 1 - level.
    """
    penalty = 2.0 / (1.0 - level)
    below = np.maximum(low - actual, 0.0)
    above = np.maximum(actual - high, 0.0)
    score: Floats = (high - low) + penalty * (below + above)
    return score


def crps_from_quantiles(quantiles: Floats, actual: float) -> float:
    """Continuous ranked probability score, as twice the integral of the pinball loss.

    Each quantile stands for the probabilities nearer to it than to its neighbours, so unevenly spaced
    ones are not over-counted.

    Args:
        quantiles: (probability, value), ascending, shape (q, 2), q >= 1.
        actual: The outcome.
    """
    probability, value = quantiles[:, 0], quantiles[:, 1]
    edges = np.concatenate(([0.0], (probability[1:] + probability[:-1]) / 2.0, [1.0]))
    apart = actual - value
    pinball = np.maximum(probability * apart, (probability - 1.0) * apart)
    return float(2.0 * np.sum(np.diff(edges) * pinball))


def error_scales(error: Floats, known_at: NDArray[np.int64]) -> Floats:
    """Error scale before each outcome: from errors whose outcome was known strictly earlier.

    The scale is the mean absolute error times sqrt(pi / 2), which is the standard deviation of
    normal errors and less at the mercy of one crash than the root mean square.

    Args:
        error: Shape (n,); NaN where there is no forecast.
        known_at: When each outcome became known, shape (n,).

    Returns:
        Shape (n,); NaN where fewer than `MIN_ERRORS` errors were known.
    """
    order = np.argsort(known_at, kind="stable")
    ordered = known_at[order]
    size = np.abs(error[order])
    is_there = np.isfinite(size)
    total = np.concatenate(([0.0], np.cumsum(np.where(is_there, size, 0.0))))
    count = np.concatenate(([0], np.cumsum(is_there)))
    before = np.searchsorted(ordered, ordered, side="left")
    scale = np.full(len(error), np.nan)
    enough = count[before] >= MIN_ERRORS
    scale[order[enough]] = HALF_NORMAL * total[before][enough] / count[before][enough]
    return scale


def error_scale(error: Floats, known_at: NDArray[np.int64], before: int) -> float:
    """What `error_scales` says of an outcome known at `before`, from the others; NaN if too few."""
    earlier = np.isfinite(error) & (known_at < before)
    size = np.abs(error[earlier])[np.argsort(known_at[earlier], kind="stable")]
    if len(size) < MIN_ERRORS:
        return math.nan
    # Added one after the other, as `error_scales` does, so that both agree to the last bit.
    return HALF_NORMAL * float(np.cumsum(size)[-1]) / len(size)


def judge_batch(forecasts: Forecasts, loss: Loss, tolerance: Tolerance) -> Judgements:
    """Judge forecasts of one definition.

    Args:
        forecasts: What was claimed and what came.
        loss: The definition's.
        tolerance: The definition's.

    Cost: about 0.1 microseconds a forecast, more with quantiles.
    """
    actual = forecasts.actual
    predicted = _with_medians(forecasts)
    covered = np.where(
        np.isfinite(forecasts.low) & np.isfinite(actual),
        (forecasts.low <= actual) & (actual <= forecasts.high),
        np.nan,
    ).astype(np.float64)
    happened = np.where(np.isfinite(actual), actual > 0.0, np.nan).astype(np.float64)
    brier = (forecasts.probability - happened) ** 2
    error = predicted - actual
    crps = np.full(len(actual), np.nan)
    for index, quantiles in enumerate(forecasts.quantiles):
        if quantiles is not None and math.isfinite(actual[index]):
            crps[index] = crps_from_quantiles(quantiles, float(actual[index]))
    return Judgements(
        _kinds(forecasts, error, covered, brier, tolerance),
        predicted,
        error,
        losses(predicted, actual, loss),
        losses(forecasts.baseline, actual, loss),
        interval_scores(forecasts.low, forecasts.high, forecasts.level, actual),
        covered,
        crps,
        brier,
    )


def _with_medians(forecasts: Forecasts) -> Floats:
    """Point forecasts, with the median of the quantiles where only those were given."""
    predicted = forecasts.predicted
    missing = [
        index
        for index, quantiles in enumerate(forecasts.quantiles)
        if quantiles is not None and math.isnan(predicted[index])
    ]
    if missing:
        predicted = predicted.copy()
        for index in missing:
            quantiles = forecasts.quantiles[index]
            if quantiles is not None and quantiles[0, 0] <= 0.5 <= quantiles[-1, 0]:
                predicted[index] = np.interp(0.5, quantiles[:, 0], quantiles[:, 1])
    return predicted


def _kinds(
    forecasts: Forecasts, error: Floats, covered: Floats, brier: Floats, tolerance: Tolerance
) -> NDArray[np.int8]:
    """The point forecast decides; without one the probability; without that the interval."""
    if tolerance.kind == "relative":
        unit = np.abs(forecasts.actual)
        unit = np.where(unit > 0.0, unit, np.nan)
    elif tolerance.kind == "scale":
        unit = forecasts.scale
    else:
        unit = np.ones(len(error))
    size = np.abs(error)
    by_interval = np.where(covered > 0.0, CORRECT, INCORRECT)
    # 0.25 is what 50 % pays; 0.5625 what 75 % on the wrong side pays.
    by_chance = np.where(brier > 0.5625, VERY_WRONG, np.where(brier <= 0.25, CORRECT, INCORRECT))
    by_point = np.where(
        size > tolerance.very_wrong * unit,
        VERY_WRONG,
        np.where(size <= tolerance.correct * unit, CORRECT, INCORRECT),
    )
    kind = np.where(np.isfinite(covered), by_interval, INSUFFICIENT)
    kind = np.where(np.isfinite(brier), by_chance, kind)
    by_point = np.where(np.isfinite(unit), by_point, INSUFFICIENT)
    return np.where(np.isfinite(error), by_point, kind).astype(np.int8)


def to_verdict(
    definition: Definition | None,
    judged: Judgements,
    forecasts: Forecasts,
    index: int,
    *,
    trajectory_id: str,
    action: int,
    agent: str,
    action_type: str,
    revision: int,
) -> Verdict:
    """One row of a batch as a verdict, in numbers and in words."""
    kind = KINDS[int(judged.kind[index])]
    actual = optional(forecasts.actual[index])
    covered = optional(judged.covered[index])
    verdict = Verdict(
        trajectory_id,
        action,
        agent,
        action_type,
        kind,
        optional(judged.predicted[index]),
        actual,
        optional(judged.error[index]),
        optional(forecasts.scale[index]),
        optional(judged.loss[index]),
        optional(judged.baseline_loss[index]),
        optional(judged.skill[index]),
        optional(judged.interval_score[index]),
        None if covered is None else covered > 0.0,
        optional(judged.crps[index]),
        optional(judged.brier[index]),
        revision,
    )
    unit = "" if definition is None else definition.unit
    return replace(verdict, feedback=describe(verdict, unit))


def describe(verdict: Verdict, unit: str) -> str:
    """A verdict in words, made from its numbers."""
    if verdict.actual is None:
        return "No outcome is known yet."
    came = f"{verdict.actual:.4g} {unit}".rstrip()
    parts = [f"{verdict.kind.replace('_', ' ').capitalize()}: {came} came"]
    if verdict.predicted is not None and verdict.error is not None:
        side = "too high" if verdict.error > 0.0 else "too low"
        apart = f", off by {abs(verdict.error):.3g} ({side})" if verdict.error else ", exactly"
        parts[0] += f", {verdict.predicted:.4g} was predicted{apart}"
        if verdict.scale:
            parts.append(f"That is {abs(verdict.error) / verdict.scale:.1f} of the usual error")
    if verdict.skill is not None and verdict.baseline_loss is not None:
        word = "better" if verdict.skill > 0.0 else "worse" if verdict.skill < 0.0 else "no better"
        parts.append(f"The forecast did {word} than the baseline (loss {verdict.loss:.3g} "
                     f"against {verdict.baseline_loss:.3g})")  # fmt: skip
    if verdict.is_covered is not None:
        parts.append(f"The interval {'held' if verdict.is_covered else 'missed'} it")
    if verdict.brier is not None:
        parts.append(f"Brier score {verdict.brier:.3f}")
    return ". ".join(part.strip() for part in parts) + "."


def optional(value: float) -> float | None:
    """A float, or None where it is not finite."""
    number = float(value)
    return number if math.isfinite(number) else None
