"""Placebos: recall that cannot know anything, through the same arithmetic as the real one.

If one of them forecasts well, the real recall's skill came from somewhere else. Both draw only from
memories whose outcome was known by then, and use a generator of their own for each day, keyed by seed and
day, so that a run that is cut short or extended gives the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nt_memory.apps.demo.target import HORIZON
from nt_memory.errors import InvalidInputError
from nt_memory.reasoningbank.recall import kernel_weights, weighted_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indexes = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Recollection:
    """Which memories the forecasts of one day rested on: m forecasts, k memories each.

    Attributes:
        today: Day of the forecasts, as a row of the prices.
        days: Day of each memory, shape (m, k).
        tickers: Its ticker, as a column of the prices, same shape.
        scores: Its similarity, same shape.
        baselines: The baseline frozen with it, same shape; None if plain outcomes are recalled.
    """

    today: int
    days: Indexes
    tickers: Indexes
    scores: Floats
    baselines: Floats | None = None


def _known_days(today: int, first_day: int) -> int:
    n_known = today - HORIZON + 1 - first_day
    if n_known < 1:
        raise InvalidInputError(f"on day {today} nothing since day {first_day} is known yet")
    return n_known


def permuted_recall(
    recollection: Recollection, outcomes: Floats, *, first_day: int, seed: int
) -> Floats:
    """What the same memories would have said had their outcomes been permuted across days.

    A memory of day s tells the outcome that its ticker had on another known day, the same other day for
    all memories of day s. Its baseline stays its own.

    Args:
        recollection: The memories really recalled.
        outcomes: All outcomes, shape (n_days, n_tickers); rows after today - 5 are not read.
        first_day: First day remembered.
        seed: Of the permutation.

    Returns:
        Recalled values, shape (m,); add today's baselines if the memories have them.

    Raises:
        InvalidInputError: no outcome is known yet.
    """
    n_known = _known_days(recollection.today, first_day)
    shuffled = np.random.default_rng([seed, recollection.today]).permutation(n_known)
    values = outcomes[first_day + shuffled[recollection.days - first_day], recollection.tickers]
    if recollection.baselines is not None:
        values = values - recollection.baselines
    return weighted_mean(values, kernel_weights(recollection.scores))


def random_recall(
    values: Floats, *, n_forecasts: int, k: int, today: int, first_day: int, seed: int
) -> Floats:
    """Forecasts from k memories drawn at random, with replacement, instead of the nearest.

    Args:
        values: What memories hold, shape (n_days, n_tickers): outcomes, or outcome minus baseline (add
            today's baseline to the result then). Rows after `today` - 5 are not read.
        n_forecasts: Forecasts to make.
        k: Memories for each.
        today: Day of the forecasts.
        first_day: First day remembered.
        seed: Of the draw.

    Returns:
        Plain means, shape (n_forecasts,).

    Raises:
        InvalidInputError: no outcome is known yet.
    """
    n_known = _known_days(today, first_day)
    generator = np.random.default_rng([seed, today])
    days = first_day + generator.integers(n_known, size=(n_forecasts, k))
    tickers = generator.integers(values.shape[1], size=(n_forecasts, k))
    means: Floats = np.mean(values[days, tickers], axis=-1)
    return means
