"""Synthetic prices for the demo's tests, the same on every run; load it with `runpy.run_path`.

Returns have volatility that clusters, a part common to all tickers and a part of their own, so that
there is something to forecast and the book has reasons to trade.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

TICKERS = ("AAA", "BBB", "CCC", "D.D")
FIRST_DATE = date(2000, 9, 1)
# Of the days from FIRST_DATE on, the demo remembers from row 504 and trades, with `--years 1`, the
# year of the last day: 2003 starts at row 608.
N_DAYS = 670


def weekdays(n_days: int) -> list[date]:
    """The first `n_days` weekdays from `FIRST_DATE` on."""
    days: list[date] = []
    day = FIRST_DATE
    while len(days) < n_days:
        if day.weekday() < 5:
            days.append(day)
        day += timedelta(days=1)
    return days


def prices(n_days: int = N_DAYS, n_tickers: int = len(TICKERS), seed: int = 4) -> Floats:
    """Closes, shape (n_days, n_tickers); more days go on after fewer."""
    generator = np.random.default_rng(seed)
    draws = generator.normal(size=(n_days, n_tickers + 2))
    logs = np.zeros((n_days, n_tickers))
    calm = 0.0
    for day in range(1, n_days):
        calm = 0.97 * calm + 0.2 * draws[day, -2]
        own = 0.012 * np.exp(calm) * draws[day, :n_tickers]
        logs[day] = logs[day - 1] + own + 0.008 * np.exp(calm) * draws[day, -1]
    return 50.0 * np.exp(logs)


def write_prices(path: Path, closes: Floats) -> Path:
    """Write a CSV that `--prices` takes; the days are the first weekdays."""
    tickers = ",".join(TICKERS[: closes.shape[1]])
    days = weekdays(len(closes))
    lines = [
        f"{day},{','.join(f'{price:.6f}' for price in row)}"
        for day, row in zip(days, closes.tolist(), strict=True)
    ]
    path.write_text(f"Date,{tickers}\n" + "\n".join(lines) + "\n")
    return path
