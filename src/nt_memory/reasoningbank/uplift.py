"""What showing advice was worth, measured by advice withheld at random."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.reasoningbank.columns import SHOWN, WITHHELD
from nt_memory.reasoningbank.dependence import student_95
from nt_memory.reasoningbank.judging import histories

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nt_memory.reasoningbank.memories import Memories
    from nt_memory.timeline import Moment

    Floats = NDArray[np.float64]

MIN_UNITS = 10
"""Coins from which on something is said; and of each side, from which on the baseline is adjusted for."""
MIN_SIDE = 2
"""Coins of each side, so that leaving one out leaves one."""


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
        freedom: Degrees of freedom of the standard error.
    """

    agent: str
    value: float
    standard_error: float
    relative: float
    shown: int
    withheld: int
    units: int
    freedom: float = math.inf

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.value - student_95(self.freedom) * self.standard_error

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.value + student_95(self.freedom) * self.standard_error


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

    The baseline is left out where a side has fewer than `MIN_UNITS` coins: two lines through so few
    points fit them too well to tell how uncertain they are.

    Source: Lin 2013 for the interacted adjustment; the variance leaves out one coin at a time (Bell &
    McCaffrey 2002's CR3), its degrees of freedom are Satterthwaite's over the two sides. With 10 to
    30 coins the usual sandwich and normal intervals covered 59 to 89 % instead of 95, these 91 to 96. It
    is by intention: withheld advice counts as withheld even where there was none to show.
    """
    shown = int(np.count_nonzero(trials.is_shown))
    withheld = len(trials.loss) - shown
    _, unit = np.unique(trials.unit, return_inverse=True)
    treated = trials.is_shown.astype(np.float64)
    # One coin may decide otherwise at another propensity: it belongs to the side of most decisions.
    side = np.bincount(unit, treated) / np.bincount(unit) >= 0.5
    units, fewest = len(side), min(np.count_nonzero(side), np.count_nonzero(~side))
    if units < MIN_UNITS or fewest < MIN_SIDE:
        return Uplift(agent, math.nan, math.inf, math.nan, shown, withheld, units)
    gain = -trials.loss
    if np.all(np.isfinite(trials.baseline_loss)):
        gain = trials.baseline_loss - trials.loss
    columns = [np.ones_like(treated), treated]
    covariate = _covariate(trials.baseline) if fewest >= MIN_UNITS else None
    if covariate is not None:
        columns += [covariate, covariate * treated]
    weight = np.where(trials.is_shown, 1.0 / (1.0 - trials.propensity), 1.0 / trials.propensity)
    value, apart = _leave_out(np.stack(columns, axis=1), gain, weight, unit)
    error, freedom = _spread(apart, side, parameters=len(columns) // 2)
    without = ~trials.is_shown
    usual = float(np.sum(trials.loss[without] * weight[without]) / np.sum(weight[without]))
    relative = value / usual if usual > 0.0 else math.nan
    return Uplift(agent, value, error, relative, shown, withheld, units, freedom)


def _covariate(baseline: Floats) -> Floats | None:
    if not np.all(np.isfinite(baseline)) or float(np.std(baseline)) == 0.0:
        return None
    scaled: Floats = (baseline - np.mean(baseline)) / np.std(baseline)
    return scaled


def _leave_out(
    design: Floats, gain: Floats, weight: Floats, unit: NDArray[np.int64]
) -> tuple[float, Floats]:
    """The second coefficient of a weighted regression, and how far leaving out each unit moves it."""
    order = np.argsort(unit, kind="stable")
    starts = np.flatnonzero(np.diff(unit[order], prepend=-1))
    weighted = design * weight[:, None]
    products = weighted[:, :, None] * design[:, None, :]
    of_unit = np.add.reduceat(products[order], starts)
    said = np.add.reduceat((weighted * gain[:, None])[order], starts)
    whole, all_said = np.sum(of_unit, axis=0), np.sum(said, axis=0)
    value = float(np.linalg.pinv(whole, hermitian=True)[1] @ all_said)
    without = np.linalg.pinv(whole - of_unit, hermitian=True)[:, 1]
    apart: Floats = np.sum(without * (all_said - said), axis=1) - value
    return value, apart


def _spread(apart: Floats, side: NDArray[np.bool_], *, parameters: int) -> tuple[float, float]:
    """Standard error and its degrees of freedom, from units of two sides left out one by one.

    Args:
        apart: How far each moves the effect, shape (units,).
        side: Which side each is on.
        parameters: Fitted to each side.
    """
    parts = []
    for some in (apart[side], apart[~side]):
        n = len(some)
        parts.append((float(np.sum(some * some)) * (n - 1) / n, max(n - parameters, 1)))
    total = math.fsum(part for part, _ in parts)
    if total == 0.0:
        return 0.0, math.inf
    return math.sqrt(total), total * total / math.fsum(part * part / n for part, n in parts)
