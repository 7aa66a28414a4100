"""Worlds with known truth, to hold the bank's statistics against. Shares no code with what it tests.

A world is a panel of stocks with the dependence of the real one: innovations have a correlation of 0.3
between stocks and fat tails, and a day's label is the sum of the next five days' innovations, so that
neighbouring labels overlap. Situations persist from day to day and are partly common to all stocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

OVERLAP = 5
CORRELATION = 0.3
TAILS = 6.0
"""Degrees of freedom of the innovations."""
PERSISTENCE = 0.95
MICROSECONDS = 86_400_000_000


@dataclass(frozen=True)
class World:
    """A panel of labels and what was seen before each; all shape (days, stocks).

    Attributes:
        label: What came, unit variance, mean zero unless something was planted.
        cell: Which of the situations it was, from 0.
        at: When, microseconds.
    """

    label: Floats
    cell: Ints
    at: Ints

    def with_effect(self, cell: int, size: float, since: int = 0) -> World:
        """The world in which labels of one situation are shifted by `size` from a day on."""
        label = self.label.copy()
        label[since:] += size * (self.cell[since:] == cell)
        return replace(self, label=label)


def draw_panel(rng: np.random.Generator, days: int, stocks: int) -> Floats:
    """Labels of unit variance, (days, stocks)."""
    common = rng.standard_t(TAILS, (days + OVERLAP, 1))
    own = rng.standard_t(TAILS, (days + OVERLAP, stocks))
    spread = np.sqrt(TAILS / (TAILS - 2.0))
    steps = (np.sqrt(CORRELATION) * common + np.sqrt(1.0 - CORRELATION) * own) / spread
    total = sum(steps[1 + ahead : days + 1 + ahead] for ahead in range(OVERLAP))
    return np.asarray(total) / np.sqrt(OVERLAP)


def draw_features(rng: np.random.Generator, days: int, stocks: int, count: int) -> Floats:
    """What is seen: persistent features, half of them common to all stocks; (days, stocks, count)."""
    found = np.empty((days, stocks, count))
    fresh = rng.normal(size=(days, stocks, count))
    fresh[:, :, ::2] = rng.normal(size=(days, 1, (count + 1) // 2))
    fresh *= np.sqrt(1.0 - PERSISTENCE**2)
    found[0] = fresh[0] / np.sqrt(1.0 - PERSISTENCE**2)
    for day in range(1, days):
        found[day] = PERSISTENCE * found[day - 1] + fresh[day]
    return found


def draw_world(
    rng: np.random.Generator, days: int = 1_000, stocks: int = 20, cells: int = 16
) -> World:
    """A world without any effect. `cells` is a square: each feature is cut into equal parts."""
    label = draw_panel(rng, days, stocks)
    side = round(cells**0.5)
    feature = draw_features(rng, days, stocks, 2)
    edges = np.array([_normal_quantile(part / side) for part in range(1, side)])
    parts = np.searchsorted(edges, feature)
    at = np.repeat(np.arange(days)[:, None] * MICROSECONDS, stocks, axis=1)
    return World(label, parts[:, :, 0] * side + parts[:, :, 1], at)


def _normal_quantile(share: float) -> float:
    """By bisection on the error function; six digits suffice for edges."""
    from math import erf, sqrt  # noqa: PLC0415  nothing else here needs it

    low, high = -8.0, 8.0
    while high - low > 1e-7:
        middle = 0.5 * (low + high)
        below = 0.5 * (1.0 + erf(middle / sqrt(2.0))) < share
        low, high = (middle, high) if below else (low, middle)
    return high


def flip_coins(rng: np.random.Generator, days: int, flippers: int) -> Floats:
    """What each of many coin-flippers gains a day by calling the market's direction: (days, flippers)."""
    market = draw_panel(rng, days, 20).mean(axis=1)
    calls = rng.choice((-1.0, 1.0), (days, flippers))
    return calls * market[:, None]


@dataclass(frozen=True)
class Decisions:
    """Decisions with advice shown or withheld by a coin; all shape (n,).

    Attributes:
        loss: What each paid.
        baseline: What the naive forecast said.
        baseline_loss: What it would have paid.
        is_shown: Whether advice was shown.
        propensity: Probability with which it was to be withheld.
        unit: Whose coin.
        truth: By how much showing advice lowers the mean loss.
    """

    loss: Floats
    baseline: Floats
    baseline_loss: Floats
    is_shown: NDArray[np.bool_]
    propensity: Floats
    unit: NDArray[np.uint64]
    truth: float


def draw_decisions(
    rng: np.random.Generator, uplift: float, n: int = 6_000, stocks: int = 20, withhold: float = 0.5
) -> Decisions:
    """Decisions of which advice lowers the loss by the share `uplift`, over the panel's labels.

    Losses are absolute errors, hard days are hard for everybody, and what advice takes off a loss
    differs from decision to decision.
    """
    days = n // stocks
    panel = draw_panel(rng, days, stocks)
    hardness = np.exp(0.3 * draw_features(rng, days, 1, 1)[:, :, 0])
    own = np.abs(panel * hardness)
    naive = rng.normal(0.0, 0.3, own.shape)
    baseline_loss = np.abs(panel * hardness - naive)
    is_shown = rng.random(own.shape) >= withhold
    share = uplift * rng.uniform(0.5, 1.5, own.shape)
    loss = own * np.where(is_shown, 1.0 - share, 1.0)
    unit = rng.permutation(own.size).astype(np.uint64)
    return Decisions(
        loss.ravel(),
        naive.ravel(),
        baseline_loss.ravel(),
        is_shown.ravel(),
        np.full(own.size, withhold),
        unit,
        float(np.mean(own * share)),
    )
