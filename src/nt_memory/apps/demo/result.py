"""What one run of the demo found: everything the report and the JSON are made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date

    import numpy as np
    from numpy.typing import NDArray

    from nt_memory.apps.demo.books import BookHistory, Rule
    from nt_memory.apps.demo.options import DemoOptions
    from nt_memory.apps.demo.settings import Settings

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One remembered situation in the worked recall."""

    ticker: str
    day: date
    score: float
    outcome: float
    weight: float


@dataclass(frozen=True, slots=True)
class WorkedRecall:
    """One forecast taken apart. Log volatilities, annualised.

    Attributes:
        ticker: Whose situation.
        day: When.
        features: Name and value of each feature of the situation.
        base: The linear forecast that was corrected.
        recalled: What memory added to it.
        predicted: Their sum, with the interval `low` to `high`.
        actual: What happened.
        neighbours: The nearest remembered situations, best first.
        memories: How many the forecast rested on.
    """

    ticker: str
    day: date
    features: Sequence[tuple[str, float]]
    base: float
    recalled: float
    predicted: float
    low: float
    high: float
    actual: float
    neighbours: Sequence[Neighbour]
    memories: int


@dataclass(frozen=True, slots=True, eq=False)
class SituationMap:
    """One analyst's remembered situations in two dimensions.

    Attributes:
        agent: Which analyst's.
        points: First two principal components of a sample, shape (n, 2).
        outcomes: Log volatility that followed each, shape (n,).
        centroids: Of the distilled patterns, shape (p, 2).
        labels: A few words a pattern.
        sizes: Trajectories behind each pattern.
        success: Share of each pattern's forecasts that beat their baseline.
    """

    agent: str
    points: Floats
    outcomes: Floats
    centroids: Floats
    labels: Sequence[str]
    sizes: Sequence[int]
    success: Sequence[float]


@dataclass(frozen=True, slots=True, eq=False)
class DemoResult:
    """One run. Arrays over the traded days have shape (n_days, n_tickers).

    Attributes:
        options: What was asked.
        settings: How memory forecasts.
        rule: How books are sized.
        tickers: Names.
        dates: Traded days that were reached.
        start: First traded day as a row of all prices.
        total_days: Days that would have been traded without interruption.
        actual: Outcomes; NaN where not known by the end of the prices.
        forecasts: By name: memory, har, har_long, linear, ewma, ewma_cal, last_week,
            placebo_permuted, placebo_random, own_ticker (ablation: own memories only), and after
            `--no-past` with_past: the same days with the past remembered.
        base: The linear part of memory's forecasts.
        recalled: The part recalled from memory.
        low: Lower end of memory's interval.
        high: Upper end.
        fixed_low: Ablation: the same without adapting the interval.
        fixed_high: Its upper end.
        memories: Remembered outcomes known on each day, shape (n_days,).
        books: By name: memory, ewma_cal, linear, equal_weight.
        latencies: Seconds of each call, by operation.
        counts: observations, trajectories, verdicts, proposals, approved, rejected, grants,
            messages, advised, abstained.
        memory: rss_anon_mb, l2_mb, l3_mb, journal_mb.
        recall: The worked recall, or None if its day was not reached.
        situations: The map, or None if there was nothing to distil.
        seconds: Wall time by phase, "total" included.
        is_interrupted: Stopped by the user before the end.
    """

    options: DemoOptions
    settings: Settings
    rule: Rule
    tickers: Sequence[str]
    dates: Sequence[date]
    start: int
    total_days: int
    actual: Floats
    forecasts: Mapping[str, Floats]
    base: Floats
    recalled: Floats
    low: Floats
    high: Floats
    fixed_low: Floats
    fixed_high: Floats
    memories: NDArray[np.int64]
    books: Mapping[str, BookHistory]
    latencies: Mapping[str, Floats]
    counts: Mapping[str, int]
    memory: Mapping[str, float]
    recall: WorkedRecall | None
    situations: SituationMap | None
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    is_interrupted: bool = False
