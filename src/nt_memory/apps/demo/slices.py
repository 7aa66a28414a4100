"""The figures cut by year, by what was remembered, and over time: what the charts draw. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nt_memory.apps.demo.figures import common_places, has_any, losses, ratio_or_none
from nt_memory.apps.demo.scoring import coverage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nt_memory.apps.demo.result import DemoResult

    Floats = NDArray[np.float64]
    Mask = NDArray[np.bool_]

MIN_DAYS_A_POINT = 40
RECALLED_EVERY = 5


@dataclass(frozen=True, slots=True)
class Skill:
    """By how much memory's MAE was below another method's, in percent, with a 95 % interval."""

    value: float
    low: float
    high: float


UNKNOWN = Skill(math.nan, math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the recalled part did to the linear part.

    Attributes:
        mean_size: Mean absolute recalled part, log volatility.
        right_way: Share of places where it moved the forecast towards the outcome.
        base_mae: MAE of the linear part alone.
        total_mae: MAE of both.
        n: Places.
    """

    mean_size: float
    right_way: float
    base_mae: float
    total_mae: float
    n: int


def chart_years(result: DemoResult) -> tuple[list[int], list[int]]:
    """Calendar years with enough known days to draw a point for, and those with too few."""
    is_known = np.any(common_places(result), axis=1)
    years = np.array([day.year for day in result.dates])
    found = [int(year) for year in np.unique(years)]
    enough = [y for y in found if np.count_nonzero(is_known[years == y]) >= MIN_DAYS_A_POINT]
    return enough, [year for year in found if year not in enough]


def skill_by_year(result: DemoResult, years: Sequence[int], other: str) -> list[Skill]:
    """Memory's skill against another method in each of the years."""
    of_days = np.array([day.year for day in result.dates])
    return _skills(result, [of_days == year for year in years], other)


def memory_bins(result: DemoResult, about: int = 8) -> tuple[list[Mask], list[float]]:
    """Traded days cut into runs of about equal length by how much was remembered.

    Returns:
        A mask over the days and the mean number of memories of each run; fewer runs if there are few
        days, none if nothing can be judged.
    """
    is_known = np.any(common_places(result), axis=1)
    days = np.flatnonzero(is_known)
    n_bins = min(about, len(days) // MIN_DAYS_A_POINT)
    if n_bins == 0:
        return [], []
    order = days[np.argsort(result.memories[days], kind="stable")]
    masks = []
    for part in np.array_split(order, n_bins):
        mask = np.zeros(len(is_known), dtype=np.bool_)
        mask[part] = True
        masks.append(mask)
    return masks, [float(np.mean(result.memories[mask])) for mask in masks]


def skill_by_memory(result: DemoResult, masks: Sequence[Mask], other: str) -> list[Skill]:
    """Memory's skill against another method on each set of days."""
    return _skills(result, masks, other)


def coverage_in(result: DemoResult, years: Sequence[int], low: Floats, high: Floats) -> list[float]:
    """Share of outcomes within an interval in each of the years; NaN where none is known."""
    of_days = np.array([day.year for day in result.dates])
    return [
        coverage(low[of_days == y], high[of_days == y], result.actual[of_days == y]) for y in years
    ]


def recalled_over_time(result: DemoResult) -> tuple[list[int], Floats]:
    """Mean over tickers, and over runs of five days, of what memory added to the linear part.

    Returns:
        The last day of each run as a place among the traded days, and the means in log volatility.
    """
    ends, means = [], []
    for start in range(0, len(result.dates), RECALLED_EVERY):
        block = result.recalled[start : start + RECALLED_EVERY]
        known = block[np.isfinite(block)]
        ends.append(min(start + RECALLED_EVERY, len(result.dates)) - 1)
        means.append(float(np.mean(known)) if known.size else math.nan)
    return ends, np.array(means)


def parts_of_forecast(result: DemoResult) -> Parts | None:
    """How the two parts of the forecast did; None where there were not two."""
    places = common_places(result) & np.isfinite(result.base) & np.isfinite(result.recalled)
    n = int(np.count_nonzero(places))
    if n == 0 or result.settings.base == "none" or not has_any(result, "memory"):
        return None
    recalled, base = result.recalled[places], result.base[places]
    total, happened = result.forecasts["memory"][places], result.actual[places]
    return Parts(
        mean_size=float(np.mean(np.abs(recalled))),
        right_way=float(np.mean((happened - base) * recalled > 0.0)),
        base_mae=float(np.mean(np.abs(happened - base))),
        total_mae=float(np.mean(np.abs(happened - total))),
        n=n,
    )


def _skills(result: DemoResult, masks: Sequence[Mask], other: str) -> list[Skill]:
    mine, theirs = losses(result, "memory"), losses(result, other)
    skills = []
    for mask in masks:
        found = ratio_or_none(mine[mask], theirs[mask])
        skills.append(
            UNKNOWN
            if found is None
            else Skill(*(100.0 * (1.0 - x) for x in (found.value, found.high, found.low)))
        )
    return skills
