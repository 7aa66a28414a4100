"""A made-up run of the demo, for the tests of its report."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nt_memory.apps.demo.baselines import NAMES as BASELINES
from nt_memory.apps.demo.books import Rule, follow_rule, hold_equal_weight
from nt_memory.apps.demo.options import DemoOptions
from nt_memory.apps.demo.result import DemoResult, Neighbour, SituationMap, WorkedRecall
from nt_memory.apps.demo.settings import CHOSEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# Error of each made-up method, on top of what cannot be forecast.
_NOISE = {
    "memory": 0.10,
    "linear": 0.16,
    "har_long": 0.18,
    "har": 0.22,
    "ewma_cal": 0.20,
    "ewma": 0.30,
    "last_week": 0.45,
    "own_ticker": 0.13,
    "placebo_permuted": 0.50,
    "placebo_random": 0.40,
}
_LATENCIES = ("advise", "get", "pin", "put", "track_trajectory", "transaction", "vote")


def weekdays(first: date, count: int) -> list[date]:
    """The next `count` weekdays from a day on."""
    found: list[date] = []
    day = first
    while len(found) < count:
        if day.weekday() < 5:
            found.append(day)
        day += timedelta(days=1)
    return found


def _made_up(n_days: int, tickers: tuple[str, ...], first: date, seed: int) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    shape = (n_days, len(tickers))
    common = np.cumsum(draw.normal(0.0, 0.03, n_days + 300))
    level = -1.5 + 0.5 * np.tanh(common - np.mean(common))[:, None]
    own = level + draw.normal(0.0, 0.15, (n_days + 300, len(tickers)))
    market = draw.normal(0.0, 1.0, (n_days + 300, 1))
    moves = (
        np.exp(own)
        / math.sqrt(252)
        * (0.6 * market + 0.8 * draw.normal(size=(n_days + 300, len(tickers))))
    )
    signal = own[300:]
    actual = signal + draw.normal(0.0, 0.4, shape)
    actual[-5:] = np.nan
    forecasts = {name: signal + draw.normal(0.0, by, shape) for name, by in _NOISE.items()}
    recalled = draw.normal(0.0, 0.08, shape)
    memory = forecasts["memory"]
    prices = 100.0 * np.exp(np.cumsum(moves, axis=0))[300:]
    rule = Rule()
    books = {
        name: follow_rule(forecasts[name], actual, prices, moves, rule, 5.0)
        for name in ("memory", "ewma_cal", "linear")
    }
    return {
        "dates": weekdays(first, n_days),
        "total_days": n_days,
        "actual": actual,
        "forecasts": forecasts,
        "base": memory - recalled,
        "recalled": recalled,
        "low": memory - 0.52,
        "high": memory + 0.52,
        "fixed_low": memory - 0.45,
        "fixed_high": memory + 0.45,
        "memories": np.arange(n_days, dtype=np.int64) * len(tickers) + 120_000,
        "books": {**books, "equal_weight": hold_equal_weight(prices, 5.0)},
        "latencies": {
            name: draw.lognormal(-8.0 - place, 0.5, 200) for place, name in enumerate(_LATENCIES)
        },
        "rule": rule,
    }


def _recall(tickers: tuple[str, ...]) -> WorkedRecall:
    return WorkedRecall(
        ticker=tickers[0],
        day=date(2020, 3, 16),
        features=(("log_volatility_5", -0.21), ("log_distance_from_high_252", -0.33)),
        base=-0.45,
        recalled=0.11,
        predicted=-0.34,
        low=-0.81,
        high=0.16,
        actual=0.05,
        neighbours=[
            Neighbour(
                tickers[-1], date(2008, 10, 10 + i), 0.99 - i / 500, -0.3 + i / 20, 0.012 - i / 2000
            )
            for i in range(10)
        ],
        memories=300,
    )


def _map(seed: int) -> SituationMap:
    draw = np.random.default_rng(seed)
    points = draw.normal(size=(400, 2)) * (2.0, 1.0)
    return SituationMap(
        agent="AAA",
        points=points,
        outcomes=-1.5 + 0.3 * points[:, 0],
        centroids=draw.normal(size=(14, 2)) * (2.0, 1.0),
        labels=[f"pattern of kind {i}" for i in range(14)],
        sizes=[2_000 - 100 * i for i in range(14)],
        success=[0.5 + i / 100 for i in range(14)],
    )


@pytest.fixture
def made_up_result() -> Callable[..., DemoResult]:
    """`made_up_result(n_days=…, tickers=…, seed=…, **replaced)`: a run that looks like a real one."""

    def build(
        n_days: int = 320,
        tickers: tuple[str, ...] = ("AAA", "BBB", "CCC"),
        first: date = date(2019, 6, 3),
        seed: int = 7,
        **replaced: Any,
    ) -> DemoResult:
        result = DemoResult(
            options=DemoOptions(),
            settings=CHOSEN,
            tickers=tickers,
            start=2_000,
            counts={"observations": 123, "trajectories": 45, "proposals": 3, "advised": 44},
            memory={"rss_anon_mb": 210.5, "l2_mb": 80.25, "l3_mb": 160.0, "journal_mb": 90.0},
            recall=_recall(tickers),
            situations=_map(seed),
            seconds={"remember": 20.0, "trade": 90.5, "total": 121.3},
            **_made_up(n_days, tickers, first, seed),
        )
        assert {"memory", *BASELINES} <= set(result.forecasts)
        return replace(result, **replaced)

    return build
