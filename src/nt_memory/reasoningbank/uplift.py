"""What showing advice was worth, measured by advice withheld at random."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.reasoningbank.columns import SHOWN, WITHHELD
from nt_memory.reasoningbank.dependence import Z95
from nt_memory.reasoningbank.judging import histories

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nt_memory.reasoningbank.memories import Memories
    from nt_memory.timeline import Moment

    Floats = NDArray[np.float64]

MIN_UNITS = 10


@dataclass(frozen=True, slots=True)
class Uplift:
    """What showing advice was worth, given this memory, in units of the definition's loss.

    Attributes:
        agent: Whose decisions.
        value: By how much advice lowered the loss; positive is good; NaN if it cannot be said.
        standard_error: Of the value, clustered by coin; infinite if it cannot be said.
        relative: The value as a share of the mean loss without advice.
        shown: Decisions with advice.
        withheld: Decisions without.
        units: Coins thrown.
    """

    agent: str
    value: float
    standard_error: float
    relative: float
    shown: int
    withheld: int
    units: int

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.value - Z95 * self.standard_error

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.value + Z95 * self.standard_error


class Trials(NamedTuple):
    """Decisions on which a coin was thrown; all shape (n,).

    Attributes:
        loss: What each paid.
        baseline_loss: What its frozen baseline would have paid; NaN where there was none.
        baseline: The frozen baseline; NaN where there was none.
        is_shown: Whether advice was shown.
        propensity: Probability with which it was to be withheld.
        unit: Whose coin.
    """

    loss: Floats
    baseline_loss: Floats
    baseline: Floats
    is_shown: NDArray[np.bool_]
    propensity: Floats
    unit: NDArray[np.uint64]


def trials_of(memories: Memories, agent: str, moment: Moment, action_type: str | None) -> Trials:
    """An agent's decisions on which a coin was thrown and whose outcome counts at a moment."""
    parts: list[tuple[NDArray[np.float64], ...]] = []
    for history in histories(memories, agent, moment, action_type):
        entry = history.table.entry[history.entries]
        chosen = (
            np.isin(entry["arm"], (SHOWN, WITHHELD))
            & (entry["propensity"] > 0.0)
            & np.isfinite(history.judged.loss)
        )
        parts.append(
            (
                history.judged.loss[chosen],
                history.judged.baseline_loss[chosen],
                history.forecasts.baseline[chosen],
                entry["arm"][chosen] == SHOWN,
                entry["propensity"][chosen],
                entry["coin"][chosen],
            )
        )
    if not parts:
        empty = np.zeros(0)
        return Trials(empty, empty, empty, empty > 0, empty, empty.astype(np.uint64))
    return Trials(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def estimate(agent: str, trials: Trials) -> Uplift:
    """Regression-adjusted difference between advice shown and withheld.

    Losses are taken against the frozen baseline's where every decision has one, which removes how hard
    the day was, and regressed on treatment, the baseline (known before the coin fell) and their
    product, weighted by inverse propensity.

    Source: Lin 2013 for the interacted adjustment; the variance is the cluster sandwich with the
    factor G / (G - 1). It is by intention: withheld advice counts as withheld even where there was
    none to show.
    """
    shown = int(np.count_nonzero(trials.is_shown))
    withheld = len(trials.loss) - shown
    _, unit = np.unique(trials.unit, return_inverse=True)
    units = int(unit.max()) + 1 if len(unit) else 0
    if min(shown, withheld) < 2 or units < MIN_UNITS:
        return Uplift(agent, math.nan, math.inf, math.nan, shown, withheld, units)
    gain = -trials.loss
    if np.all(np.isfinite(trials.baseline_loss)):
        gain = trials.baseline_loss - trials.loss
    treated = trials.is_shown.astype(np.float64)
    weight = np.where(trials.is_shown, 1.0 / (1.0 - trials.propensity), 1.0 / trials.propensity)
    value, error = _effect(gain, treated, _covariate(trials.baseline), weight, unit)
    without = ~trials.is_shown
    usual = float(np.sum(trials.loss[without] * weight[without]) / np.sum(weight[without]))
    relative = value / usual if usual > 0.0 else math.nan
    return Uplift(agent, value, error, relative, shown, withheld, units)


def _covariate(baseline: Floats) -> Floats | None:
    if not np.all(np.isfinite(baseline)) or float(np.std(baseline)) == 0.0:
        return None
    scaled: Floats = (baseline - np.mean(baseline)) / np.std(baseline)
    return scaled


def _effect(
    gain: Floats,
    treated: Floats,
    covariate: Floats | None,
    weight: Floats,
    unit: NDArray[np.int64],
) -> tuple[float, float]:
    columns = [np.ones_like(treated), treated]
    if covariate is not None:
        columns += [covariate, covariate * treated]
    design = np.stack(columns, axis=1)
    bread = np.linalg.pinv((design * weight[:, None]).T @ design)
    effect = bread @ (design * weight[:, None]).T @ gain
    scores = design * (weight * (gain - design @ effect))[:, None]
    units = int(unit.max()) + 1
    summed = np.zeros((units, design.shape[1]))
    np.add.at(summed, unit, scores)
    meat = summed.T @ summed * units / (units - 1)
    return float(effect[1]), math.sqrt(max(float((bread @ meat @ bread)[1, 1]), 0.0))
