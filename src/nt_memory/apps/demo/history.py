"""Arrays that fill day by day."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nt_memory.apps.demo.books import BookHistory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nt_memory.apps.demo.swarm import Forecast

    Floats = NDArray[np.float64]


class Recorder:
    """Memory's forecasts; shapes (n_days, n_tickers)."""

    def __init__(self, n_days: int, n_tickers: int) -> None:
        shape = (n_days, n_tickers)
        self.expected: Floats = np.full(shape, np.nan)
        self.low: Floats = np.full(shape, np.nan)
        self.high: Floats = np.full(shape, np.nan)
        self.base: Floats = np.full(shape, np.nan)
        self.memories: NDArray[np.int64] = np.zeros(n_days, dtype=np.int64)
        self.days: int = 0

    def add(self, row: int, forecasts: Sequence[Forecast]) -> None:
        """One day's forecasts."""
        for place, forecast in enumerate(forecasts):
            self.expected[row, place] = forecast.expected
            self.low[row, place] = forecast.low
            self.high[row, place] = forecast.high
            self.base[row, place] = forecast.base
        self.memories[row] = max(forecast.advice.known for forecast in forecasts)
        self.days = row + 1


class BookRecorder:
    """The book that the swarm really traded."""

    def __init__(self, n_days: int) -> None:
        self._equity, self._exposure, self._traded = (np.zeros(n_days) for _ in range(3))

    def add(self, row: int, equity: float, exposure: float, traded: float) -> None:
        """One close."""
        self._equity[row], self._exposure[row], self._traded[row] = equity, exposure, traded

    def history(self, n_days: int) -> BookHistory:
        """The first `n_days` closes."""
        return BookHistory(self._equity[:n_days], self._exposure[:n_days], self._traded[:n_days])
