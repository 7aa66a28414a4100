"""What is forecast: the log of the volatility of the next five sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nt_memory.embedders import SESSIONS_A_YEAR, VOLATILITY_FLOOR

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nt_memory.apps.demo.prices import Panel

    Floats = NDArray[np.float64]

HORIZON = 5
ACTION_TYPE = "forecast_volatility"
TARGET = "log of the annualised realised volatility of the next 5 sessions, floored at 1 %"
UNIT = "log annualised volatility"


def log_volatility_ahead(panel: Panel) -> Floats:
    """The outcome of each day's forecast.

    Returns:
        log(max(sqrt(252 / 5 * sum of the squared log returns of days t+1 to t+5), 0.01)), shape
        (n_days, n_tickers). Row t is known from the close of day t+5 on; the last five rows are NaN.
    """
    moves = panel.log_returns
    squares = moves * moves
    n_days = panel.n_days
    ahead = np.full(squares.shape, np.nan)
    if n_days > HORIZON:
        # Lags are added one by one, so that a row's bytes do not depend on the panel's length.
        total = squares[1 : n_days - HORIZON + 1].copy()
        for lag in range(2, HORIZON + 1):
            total += squares[lag : n_days - HORIZON + lag]
        volatility = np.sqrt(total * (SESSIONS_A_YEAR / HORIZON))
        ahead[: n_days - HORIZON] = np.log(np.maximum(volatility, VOLATILITY_FLOOR))
    return ahead
