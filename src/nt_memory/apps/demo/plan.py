"""Which days of which prices are remembered and traded, and what is known of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nt_memory.apps.demo.baselines import Baselines, walk_forward
from nt_memory.apps.demo.prices import Panel, load_carried, load_csv
from nt_memory.apps.demo.settings import CHOSEN
from nt_memory.apps.demo.swarm import COORDINATOR, RISK
from nt_memory.apps.demo.target import HORIZON
from nt_memory.clock import to_us
from nt_memory.embedders import MarketWindowEmbedder
from nt_memory.errors import InvalidInputError
from nt_memory.timeline import session_close

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from nt_memory.apps.demo.options import DemoOptions
    from nt_memory.apps.demo.settings import Settings

    Floats = NDArray[np.float64]

EXCHANGE_TZ = "America/New_York"
CLOSE = "16:00"
QUICK_YEARS = 1
QUICK_PAST_DAYS = 3 * 252


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What is traded and what is known before.

    Attributes:
        panel: All prices.
        agents: One analyst a ticker; names that the memory accepts.
        closes: The aware time of each day's close.
        close_us: The same in microseconds.
        baselines: Forecasts without memory.
        situations: Embeddings, shape (n_days, n_tickers, dim).
        feature_names: Of the embedding.
        first_day: First day remembered.
        start: First traded day.
    """

    panel: Panel
    agents: tuple[str, ...]
    closes: Sequence[datetime]
    close_us: NDArray[np.int64]
    baselines: Baselines
    situations: Floats
    feature_names: Sequence[str]
    first_day: int
    start: int

    def base(self, day: int) -> Floats:
        """The forecasts of a day that memory corrects, shape (n_tickers,): linear where there are any."""
        linear = self.baselines.forecasts["linear"][day]
        found: Floats = np.where(np.isfinite(linear), linear, self.baselines.forecasts["ewma"][day])
        return found


def plan_run(options: DemoOptions, settings: Settings = CHOSEN) -> Plan:
    """Read the prices and decide which days are remembered and which are traded.

    Raises:
        InvalidInputError: the prices are malformed or too short for what is asked.
    """
    panel = load_carried() if options.prices is None else load_csv(options.prices)
    _check_names(panel, options)
    start = _first_traded(panel, options, settings)
    if start >= panel.n_days - HORIZON:
        raise InvalidInputError(
            f"{panel.n_days} days of prices leave nothing to trade: {settings.first_day} are needed "
            "before the first forecast"
        )
    first_day = settings.first_day
    if options.no_past or options.full:
        first_day = start
    elif options.quick:
        first_day = max(first_day, start - QUICK_PAST_DAYS)
    baselines = walk_forward(panel)
    embedder = MarketWindowEmbedder.fit(
        panel.prices[:start].copy(),
        _known_before(baselines.outcomes, start) if settings.is_weighted else None,
        constant=settings.constant,
    )
    closes = session_close(panel.dates, EXCHANGE_TZ, CLOSE)
    return Plan(
        panel,
        panel.tickers,
        closes,
        np.array([to_us(moment) for moment in closes], dtype=np.int64),
        baselines,
        embedder.embed_features(baselines.features),
        embedder.feature_names,
        first_day,
        start,
    )


def _check_names(panel: Panel, options: DemoOptions) -> None:
    """Refuse tickers that would share their memory with another agent."""
    for place, ticker in enumerate(panel.tickers):
        if ticker in {RISK, COORDINATOR}:
            raise InvalidInputError(
                f"{options.prices}, column {place + 2}: {ticker!r} is the name of an agent"
            )


def _first_traded(panel: Panel, options: DemoOptions, settings: Settings) -> int:
    if options.full:
        return settings.first_day
    years = QUICK_YEARS if options.quick else options.years
    first_year = panel.dates[-1].year - years + 1
    start = next(place for place, day in enumerate(panel.dates) if day.year >= first_year)
    return max(start, settings.first_day)


def _known_before(outcomes: Floats, start: int) -> Floats:
    known = outcomes[:start].copy()
    known[start - HORIZON :] = np.nan
    return known
