"""When a promoted pattern has stopped holding: Page's test on means of blocks.

A pattern was promoted for an effect: what came in its situations lay above (or below) what came
elsewhere. The test asks, block by block, whether new values speak for the effect that was promoted or for
none. It is one-sided: an effect that grew is no ground to retire its pattern. The evidence is a sum of
log likelihood ratios that is never let below zero (Page 1954; Hinkley 1971 for a mean that is estimated),

    g <- max(0, g + n * d * (d / 2 - x) / v)        d: the effect, x: the block's mean, both signed so
                                                    that d > 0; n: days of the block; v: the long-run
                                                    variance of a day's mean

and the pattern is retired when g passes a threshold. Blocks as long as the labels overlap keep the next
block's mean nearly free of this one's, and `v` takes in what is left. The threshold follows from how
often false alarms are tolerated: without a break g reaches h after about

    (exp(h) - h - 1) / (d^2 / (2 v))  days

(Wald's approximation for Brownian motion), which is solved for h. So a small or noisy effect, which would
take years to test, gets a low threshold, and no effect more false alarms than another.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.reasoningbank.dependence import choose_lag, long_run_variances

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

DAYS_PER_ALARM = 1_764.0
"""Days with values between two false alarms: seven years of trading. Five are tolerated; the effect and
the variance that the test rests on are estimates themselves."""


class Reference(NamedTuple):
    """What a promoted pattern is held to.

    Attributes:
        effect: By how much its values differ from all others'; not 0.
        variance: Long-run variance of a day's mean, > 0.
        block_days: Days a block takes in, >= 1.
    """

    effect: float
    variance: float
    block_days: int

    @property
    def information(self) -> float:
        """What a day says about whether the effect is there, in nats."""
        return self.effect * self.effect / (2.0 * self.variance)

    @property
    def threshold(self) -> float:
        """Evidence at which to retire; see the module. Cost: some 30 steps of bisection."""
        wanted = self.information * DAYS_PER_ALARM
        low, high = 0.0, 50.0
        while high - low > 1e-9:
            middle = 0.5 * (low + high)
            low, high = (middle, high) if math.expm1(middle) - middle < wanted else (low, middle)
        return high


class Evidence(NamedTuple):
    """What new values say against a pattern. Start with `Evidence()`.

    Attributes:
        against: The sum g; never negative.
        days: Days of the open block.
        total: Sum of their means, signed as they come.
        worst: The greatest `against` so far.
    """

    against: float = 0.0
    days: int = 0
    total: float = 0.0
    worst: float = 0.0

    def after(self, day_mean: float, reference: Reference) -> Evidence:
        """Evidence after one more day with values; decided at the end of each block.

        Args:
            day_mean: Mean of the day's values, less what was to be expected elsewhere.
            reference: What is tested.
        """
        days, total = self.days + 1, self.total + day_mean
        if days < reference.block_days:
            return Evidence(self.against, days, total, self.worst)
        size = abs(reference.effect)
        mean = math.copysign(1.0, reference.effect) * total / days
        step = days * size * (0.5 * size - mean) / reference.variance
        against = max(0.0, self.against + step)
        return Evidence(against, 0, 0.0, max(self.worst, against))


def refer(day_means: Floats, effect: float, horizon_days: int) -> Reference | None:
    """What to hold a pattern to, from the days it was promoted on; None if nothing varies there.

    Args:
        day_means: Mean of each day with values, in order.
        effect: By how much they differ from what was to be expected elsewhere.
        horizon_days: Over how many days labels overlap.
    """
    days = len(day_means)
    if days < 2 or effect == 0.0 or not math.isfinite(effect):
        return None
    apart = day_means - np.mean(day_means)
    total = float(long_run_variances(apart[:, None], choose_lag(days, horizon_days))[0])
    return Reference(effect, total / days, horizon_days) if total > 0.0 else None


def first_alarm(day_means: Floats, reference: Reference) -> int | None:
    """On which of some days a pattern would be retired, from 0; None: on none of them."""
    evidence, limit = Evidence(), reference.threshold
    for number, mean in enumerate(day_means.tolist()):
        evidence = evidence.after(mean, reference)
        if evidence.against > limit:
            return number
    return None
