"""What judged forecasts teach the next one: how wide its interval must be, and how far off its centre is.

**Width.** A nominal 80 % interval drawn from remembered outcomes misses more than 20 % of the time when
the world has changed. Gibbs & Candes 2021 ("Adaptive conformal inference under distribution shift") steer
the nominal miss rate instead,

    alpha <- alpha + gamma * (target - miss rate just observed)

so that the long-run miss rate is the target whatever the data do. Departures from the paper:

- Outcomes arrive late and together (a five-day label known five days on, twenty stocks a day). A step is
  therefore taken when outcomes become *known*: one step for each moment of knowing, with the share of
  that moment's intervals that missed. Nothing is used before it is known, and the order in which the
  outcomes of one moment were written does not matter.
- The state is clipped to [`MIN_ALPHA`, `MAX_ALPHA`]. Unclipped, alpha leaves [0, 1] in a crisis, where
  the paper's interval becomes infinite, which nobody can trade on.

**Centre.** When all agents were wrong the same way last week, they are likely to be this week. The bias is
a leaky sum of the mean errors of issued forecasts,

    bias <- decay * bias + gain * mean(outcome - forecast)

added to the centre and to both ends of what is recalled. The leak keeps it small: it settles at
gain / (1 - decay + gain) of a lasting error.

Both are folds: the state after n steps is a function of the n observations in order of knowing, and of
nothing else. Both are meant to be kept per action type, over all agents: the share of misses of many
agents on one day is a better measurement than one agent's single hit or miss. An issued interval says
something about its own level only, so there is one alpha a level.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DEFAULT_GAMMA = 0.02
DEFAULT_DECAY = 0.9
DEFAULT_GAIN = 0.03
MIN_ALPHA = 0.005
MAX_ALPHA = 0.995


class Judged(NamedTuple):
    """One issued forecast whose outcome is known.

    Attributes:
        known_at: When the outcome became known, microseconds.
        is_missed: Whether it fell outside the issued interval.
        error: Outcome minus issued forecast, in the target's unit.
    """

    known_at: int
    is_missed: bool
    error: float


class Lesson(NamedTuple):
    """What one moment of knowing taught.

    Attributes:
        known_at: The moment, microseconds.
        miss_rate: Share of its intervals that missed, in [0, 1].
        mean_error: Mean of its errors.
    """

    known_at: int
    miss_rate: float
    mean_error: float


def lessons(judged: Iterable[Judged]) -> Iterator[Lesson]:
    """Group judged forecasts by when their outcome became known.

    Args:
        judged: In any order; the order changes no bit of the result.

    Yields:
        One lesson a moment, by time.
    """
    ordered = sorted(judged, key=attrgetter("known_at"))
    for known_at, moment in itertools.groupby(ordered, key=attrgetter("known_at")):
        group = list(moment)
        missed = sum(one.is_missed for one in group)
        # fsum rounds once, so the sum does not depend on the order of its terms.
        yield Lesson(
            known_at, missed / len(group), math.fsum(one.error for one in group) / len(group)
        )


@dataclass(frozen=True, slots=True)
class AdaptiveAlpha:
    """The miss rate to aim the next interval at. Make one with `start`.

    Attributes:
        target: Wanted long-run miss rate, in (0, 1).
        gamma: Step size, >= 0; 0 never adapts.
        alpha: Miss rate to ask the quantiles for now, within [`MIN_ALPHA`, `MAX_ALPHA`].
        steps: Steps taken so far.
    """

    target: float
    gamma: float
    alpha: float
    steps: int = 0

    @classmethod
    def start(cls, level: float, gamma: float = DEFAULT_GAMMA) -> AdaptiveAlpha:
        """State before any issued interval was judged: alpha is `1 - level`.

        Args:
            level: Wanted coverage, in (0, 1).
            gamma: Step size, in [0, 1].

        Raises:
            InvalidInputError: either is out of range.
        """
        if not 0.0 < level < 1.0:
            raise InvalidInputError(f"level must lie between 0 and 1, not {level!r}")
        if not 0.0 <= gamma <= 1.0:
            raise InvalidInputError(f"gamma must be in [0, 1], not {gamma!r}")
        target = 1.0 - level
        return cls(target, gamma, _clip(target))

    def after(self, miss_rate: float) -> AdaptiveAlpha:
        """State after one more moment at which outcomes became known.

        Args:
            miss_rate: Share of that moment's judged intervals that missed, in [0, 1].

        Raises:
            InvalidInputError: it is not in [0, 1].
        """
        if not 0.0 <= miss_rate <= 1.0:
            raise InvalidInputError(f"a miss rate must be in [0, 1], not {miss_rate!r}")
        alpha = _clip(self.alpha + self.gamma * (self.target - miss_rate))
        return AdaptiveAlpha(self.target, self.gamma, alpha, self.steps + 1)


@dataclass(frozen=True, slots=True)
class AdaptiveBias:
    """How far off the issued forecasts have been lately. Make one with `start`.

    Attributes:
        decay: What is left of the bias after a step, in [0, 1).
        gain: Share of the latest mean error that is added, in [0, 1]; 0 never adapts.
        bias: What to add to the next forecast and to both ends of its interval.
        steps: Steps taken so far.
    """

    decay: float
    gain: float
    bias: float = 0.0
    steps: int = 0

    @classmethod
    def start(cls, decay: float = DEFAULT_DECAY, gain: float = DEFAULT_GAIN) -> AdaptiveBias:
        """State before any forecast was judged: no bias.

        Raises:
            InvalidInputError: `decay` is not in [0, 1), or `gain` not in [0, 1].
        """
        if not 0.0 <= decay < 1.0:
            raise InvalidInputError(f"decay must be in [0, 1), not {decay!r}")
        if not 0.0 <= gain <= 1.0:
            raise InvalidInputError(f"gain must be in [0, 1], not {gain!r}")
        return cls(decay, gain)

    def after(self, mean_error: float) -> AdaptiveBias:
        """State after one more moment at which outcomes became known.

        Args:
            mean_error: Mean of outcome minus forecast as issued (bias included), finite.

        Raises:
            InvalidInputError: it is not finite.
        """
        if not math.isfinite(mean_error):
            raise InvalidInputError(f"a mean error must be finite, not {mean_error!r}")
        bias = self.decay * self.bias + self.gain * mean_error
        return AdaptiveBias(self.decay, self.gain, bias, self.steps + 1)


def _clip(alpha: float) -> float:
    return min(max(alpha, MIN_ALPHA), MAX_ALPHA)


def fold_alpha(state: AdaptiveAlpha, taught: Iterable[Lesson]) -> AdaptiveAlpha:
    """State after further lessons, by time of knowing.

    Cost: about a microsecond a lesson; keep the state and fold only what is new.
    """
    for lesson in taught:
        state = state.after(lesson.miss_rate)
    return state


def fold_bias(state: AdaptiveBias, taught: Iterable[Lesson]) -> AdaptiveBias:
    """State after further lessons, by time of knowing. Cost: like `fold_alpha`."""
    for lesson in taught:
        state = state.after(lesson.mean_error)
    return state
