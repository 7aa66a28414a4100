"""The search for the demo's settings: brute-force recall in numpy, walking forward.

It sees ten tickers (the first ten by name) of the carried prices and the years to 2014, and nothing else
(`choosing_panel`). The recall is the bank's own (`reasoningbank.recall`, `reasoningbank.conformal`); only
the search for neighbours is a plain scan here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nt_memory.apps.demo.baselines import walk_forward
from nt_memory.apps.demo.prices import load_carried
from nt_memory.apps.demo.scoring import (
    Ratio,
    coverage,
    coverage_by_year,
    interval_score,
    ratio,
)
from nt_memory.apps.demo.target import HORIZON
from nt_memory.embedders import MarketWindowEmbedder
from nt_memory.reasoningbank.conformal import AdaptiveAlpha, AdaptiveBias
from nt_memory.reasoningbank.recall import recall

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nt_memory.apps.demo.baselines import Baselines
    from nt_memory.apps.demo.prices import Panel
    from nt_memory.apps.demo.settings import Settings

    Floats = NDArray[np.float64]

LAST_YEAR = 2014
N_TICKERS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """What the search works on.

    Attributes:
        panel: The prices it may see.
        baselines: Forecasts without memory over them.
    """

    panel: Panel
    baselines: Baselines


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """Nearest known memories of each day and ticker of a window, best first.

    Attributes:
        start: First day of the window, as a row of the prices.
        cells: Memory as day * n_tickers + ticker, shape (n_window, n_tickers, k).
        scores: Cosine similarity, same shape.
    """

    start: int
    cells: NDArray[np.int64]
    scores: Floats


@dataclass(frozen=True, slots=True)
class Finding:
    """How one choice of settings did in one window.

    Attributes:
        mae: Mean absolute error of the memory's forecasts.
        ratios: Against each baseline.
        covered: Share of outcomes within the issued intervals.
        by_year: The same by calendar year.
        interval_score: Mean interval score.
    """

    mae: float
    ratios: dict[str, Ratio]
    covered: float
    by_year: dict[int, float]
    interval_score: float


def choosing_panel() -> Panel:
    """The part of the carried prices that choices may be based on."""
    panel = load_carried()
    n_days = sum(day.year <= LAST_YEAR for day in panel.dates)
    return panel.only(sorted(panel.tickers)[:N_TICKERS]).until(n_days)


def prepare(panel: Panel) -> Study:
    """Walk the baselines forward over a panel."""
    return Study(panel, walk_forward(panel))


def find_neighbours(study: Study, settings: Settings, start: int, end: int) -> Neighbours:
    """Scan all memories known on each day of [start, end).

    The embedder is fitted on what is known the day before `start`. Remembered vectors are rounded to
    float16 as the memory rounds them.

    Cost: about 5 s for 2,000 days of ten tickers and 16 years of memories.
    """
    before = study.panel.until(start)
    known = study.baselines.outcomes[:start].copy()
    known[start - HORIZON :] = np.nan
    embedder = MarketWindowEmbedder.fit(
        before.prices, known if settings.is_weighted else None, constant=settings.constant
    )
    vectors = embedder.embed_features(study.baselines.features)
    units = vectors / np.sqrt(np.sum(vectors * vectors, axis=-1, keepdims=True))
    n_tickers = units.shape[1]
    remembered = units.astype(np.float16).astype(np.float32).reshape(-1, embedder.dim)
    queries = units.astype(np.float32)
    k = settings.neighbours
    cells = np.empty((end - start, n_tickers, k), dtype=np.int64)
    scores = np.empty((end - start, n_tickers, k))
    first = settings.first_day * n_tickers
    for day in range(start, end):
        known_cells = remembered[first : (day - HORIZON + 1) * n_tickers]
        found = queries[day] @ known_cells.T
        nearest = np.argpartition(-found, k - 1, axis=1)[:, :k]
        found = np.take_along_axis(found, nearest, axis=1)
        order = np.argsort(-found, axis=1, kind="stable")
        cells[day - start] = np.take_along_axis(nearest, order, axis=1) + first
        scores[day - start] = np.take_along_axis(found, order, axis=1)
    return Neighbours(start, cells, scores)


def simulate(study: Study, settings: Settings, near: Neighbours) -> tuple[Floats, Floats, Floats]:
    """Forecasts and intervals, day by day, learning from each outcome when it is known.

    Returns:
        Expected, low and high over the whole panel; NaN outside the window.
    """
    outcomes = study.baselines.outcomes
    has_base = settings.base == "linear"
    base = study.baselines.forecasts["linear"] if has_base else np.zeros(outcomes.shape)
    held = (outcomes - base).reshape(-1)
    expected, low, high = (np.full(outcomes.shape, np.nan) for _ in range(3))
    alpha = AdaptiveAlpha.start(settings.level, settings.gamma)
    bias = AdaptiveBias.start(settings.decay, settings.gain)
    for place in range(near.cells.shape[0]):
        day = near.start + place
        past = day - HORIZON
        if past >= near.start:
            is_missed = (outcomes[past] < low[past]) | (outcomes[past] > high[past])
            alpha = alpha.after(float(np.mean(is_missed)))
            bias = bias.after(float(np.mean(outcomes[past] - expected[past])))
        k = settings.neighbours
        said = recall(
            held[near.cells[place, :, :k]],
            near.scores[place, :, :k],
            alpha=alpha.alpha,
            baseline=base[day],
            bias=bias.bias,
            functional=settings.functional,
        )
        expected[day], low[day], high[day] = said.expected, said.low, said.high
    return expected, low, high


def judge(study: Study, settings: Settings, near: Neighbours) -> Finding:
    """Simulate one window and compare with the baselines."""
    expected, low, high = simulate(study, settings, near)
    outcomes = study.baselines.outcomes
    errors = np.abs(outcomes - expected)
    return Finding(
        mae=float(np.nanmean(errors)),
        ratios={
            name: ratio(errors, np.abs(outcomes - predicted))
            for name, predicted in study.baselines.forecasts.items()
        },
        covered=coverage(low, high, outcomes),
        by_year=coverage_by_year(study.panel.dates, low, high, outcomes),
        interval_score=interval_score(low, high, outcomes, settings.level),
    )
