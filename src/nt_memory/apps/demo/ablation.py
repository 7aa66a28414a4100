"""What memory's forecasts would have been with a part taken away: one forecast, four variants."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.apps.demo.placebo import Recollection, permuted_recall, random_recall
from nt_memory.apps.demo.target import HORIZON
from nt_memory.reasoningbank.conformal import AdaptiveBias
from nt_memory.reasoningbank.recall import recall

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from nt_memory.apps.demo.settings import Settings
    from nt_memory.apps.demo.swarm import Forecast

    Floats = NDArray[np.float64]
    Indexes = NDArray[np.int64]


class Used(NamedTuple):
    """The memories one forecast rested on, shape (k,)."""

    days: Indexes
    tickers: Indexes
    scores: Floats
    outcomes: Floats
    baselines: Floats


def memories_used(forecast: Forecast, close_us: Indexes, places: Mapping[str, int]) -> Used | None:
    """Which day and ticker each memory of a forecast came from; None if it had none."""
    evidence = forecast.advice.evidence
    if evidence is None:
        return None
    records = evidence.table.entry[evidence.entry]
    lanes = np.array([places[lane.agent] for lane in evidence.table.lane_list])
    return Used(
        np.searchsorted(close_us, records["at"]),
        lanes[records["lane"]],
        evidence.score,
        evidence.outcome,
        records["baseline"],
    )


class Variants:
    """Collects, day by day, what the variants would have said. All shapes (n_days, n_tickers)."""

    def __init__(self, outcomes: Floats, settings: Settings, *, start: int, seed: int) -> None:
        shape = (len(outcomes) - start, outcomes.shape[1])
        self._outcomes = outcomes
        self._settings = settings
        self._start = start
        self._seed = seed
        self.permuted: Floats = np.full(shape, np.nan)
        self.random: Floats = np.full(shape, np.nan)
        self.fixed_low: Floats = np.full(shape, np.nan)
        self.fixed_high: Floats = np.full(shape, np.nan)

    def add(
        self, day: int, first_day: int, forecasts: Sequence[Forecast], used: Sequence[Used | None]
    ) -> None:
        """The forecasts of one day were made."""
        row = day - self._start
        if day - HORIZON + 1 - first_day < 1:
            return
        self.random[row] = random_recall(
            self._outcomes,
            n_forecasts=len(forecasts),
            k=self._settings.neighbours,
            today=day,
            first_day=first_day,
            seed=self._seed,
        )
        for place, (forecast, one) in enumerate(zip(forecasts, used, strict=True)):
            if one is not None:
                self._add_one(row, place, first_day, forecast, one)

    def _add_one(
        self, row: int, place: int, first_day: int, forecast: Forecast, used: Used
    ) -> None:
        day = row + self._start
        recollection = Recollection(
            day, used.days[None], used.tickers[None], used.scores[None], used.baselines[None]
        )
        recalled = permuted_recall(
            recollection, self._outcomes, first_day=first_day, seed=self._seed
        )
        self.permuted[row, place] = forecast.base + recalled[0]
        plain = recall(
            used.outcomes - used.baselines,
            used.scores,
            alpha=1.0 - self._settings.level,
            baseline=forecast.base,
            functional=self._settings.functional,
        )
        # The centre keeps its adaptive bias: only the width is left as the memories have it.
        shift = forecast.expected - float(plain.expected)
        self.fixed_low[row, place] = float(plain.low) + shift
        self.fixed_high[row, place] = float(plain.high) + shift


def own_ticker_only(
    units: Floats,
    outcomes: Floats,
    base: Floats,
    settings: Settings,
    *,
    first_day: int,
    start: int,
    end: int,
) -> Floats:
    """Forecasts from memories of the same ticker alone, with the same adaptive bias.

    Args:
        units: Situations of all days as unit vectors, shape (n_days, n_tickers, dim).
        outcomes: Shape (n_days, n_tickers).
        base: Linear forecasts, same shape.
        settings: How memory forecasts.
        first_day: First day remembered.
        start: First traded day.
        end: Day after the last.

    Returns:
        Shape (end - start, n_tickers); NaN where fewer than `settings.min_memories` are known.
    """
    remembered = units.astype(np.float16).astype(np.float32)
    queries = units.astype(np.float32)
    held = outcomes - base
    expected = np.full((end - start, outcomes.shape[1]), np.nan)
    bias = AdaptiveBias.start(settings.decay, settings.gain)
    for day in range(start, end):
        past = day - HORIZON
        if past >= start:
            errors = outcomes[past] - expected[past - start]
            if np.isfinite(errors).any():
                bias = bias.after(float(np.nanmean(errors)))
        known = slice(first_day, past + 1)
        for place in range(outcomes.shape[1]):
            values = held[known, place]
            usable = np.flatnonzero(np.isfinite(values))
            if len(usable) < settings.min_memories:
                continue
            scores = np.einsum("nd,d->n", remembered[known, place], queries[day, place])[usable]
            k = min(settings.neighbours, len(usable))
            nearest = np.argpartition(-scores, k - 1)[:k]
            said = recall(
                values[usable][nearest],
                scores[nearest].astype(np.float64),
                alpha=1.0 - settings.level,
                baseline=float(base[day, place]),
                bias=bias.bias,
                functional=settings.functional,
            )
            expected[day - start, place] = said.expected
    return expected
