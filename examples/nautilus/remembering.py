"""A NautilusTrader actor that remembers, and a strategy that trades on what it says.

At every close the actor looks at each stock's situation in its market, asks the memory what followed similar
ones, and publishes a forecast of the next five days' volatility, tracked with the naive one beside it. The
strategy holds more of a stock the calmer it is forecast to be. Five sessions later the outcome comes in, and
the memory says whether the actor knew anything.

    make test-nautilus                            # installs the platform, runs this and its tests
    python examples/nautilus/remembering.py

NautilusTrader's own engine runs the backtest. The memory lives on a backtest timeline that each bar moves to
its close, so neither side can read what comes later: whatever tries raises `LookAheadError`. Prices are real
daily closes of twelve stocks, those that the demo carries; it works in a temporary directory.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
from nautilus_trader.common.actor import Actor
from nautilus_trader.config import LoggingConfig
from nautilus_trader.model.currencies import USD
from nautilus_trader.model.data import Bar, BarType
from nautilus_trader.model.enums import AccountType, OmsType, OrderSide
from nautilus_trader.model.identifiers import Venue
from nautilus_trader.model.instruments import Equity
from nautilus_trader.model.objects import Money
from nautilus_trader.persistence.wranglers import BarDataWrangler
from nautilus_trader.test_kit.providers import TestInstrumentProvider
from nautilus_trader.trading.strategy import Strategy

from nt_memory import MemoryConfig, MemorySystem, SyncMemory, Trajectory, session_close
from nt_memory.apps.demo.prices import Panel, load_carried
from nt_memory.embedders import MarketWindowEmbedder

VENUE = "XNYS"
STOCKS = 12
FIRST_DAY = "2006-01-01"
DAYS = 1_000
FITTED_ON = 400
"""Days that the embedder's scaler is fitted on; forecasts begin behind them."""
HISTORY = 252
HORIZON = 5
ACTION = "volatility-5-days"
SIGNAL = "volatility"
TARGET = 0.15
"""Volatility a year that each position is to have."""
CAPITAL = 1_000_000


@dataclass
class Ran:
    """What a backtest left behind.

    Attributes:
        forecasts: Volatility a year, by session and stock, as published.
        naive: What the naive forecast said at the time.
        outcomes: What came.
        fills: Orders that were filled.
        equity: Of the account in the end, in dollars.
        now: The memory's now in the end.
        skill: Loss below the naive forecast's, with its standard error, as the memory has it.
    """

    forecasts: dict[tuple[str, str], float] = field(default_factory=dict)
    naive: dict[tuple[str, str], float] = field(default_factory=dict)
    outcomes: dict[tuple[str, str], float] = field(default_factory=dict)
    fills: int = 0
    equity: float = 0.0
    now: datetime | None = None
    skill: tuple[float, float] = (0.0, 0.0)


def log_volatility(closes: np.ndarray) -> float:
    """Of a year, from daily closes; a stock that never moved counts as 1 %."""
    moves = np.diff(np.log(closes))
    return math.log(max(0.01, math.sqrt(float(np.mean(moves**2)) * 252)))


class RememberingActor(Actor):
    """Forecasts volatility from what followed similar situations, and says so by signals.

    Args:
        memory: On a backtest timeline; whoever made it closes it.
        bar_types: One a stock, by ticker.
        ran: Where forecasts and outcomes are noted.
    """

    def __init__(self, memory: SyncMemory, bar_types: dict[str, BarType], ran: Ran) -> None:
        super().__init__()
        self._memory = memory
        self._bar_types = bar_types
        self._tickers = list(bar_types)
        self._ran = ran
        self._closes: list[list[float]] = []
        self._sessions: list[str] = []
        self._today: dict[str, float] = {}
        self._embedder: MarketWindowEmbedder | None = None

    def on_start(self) -> None:
        """Hear the bars of all stocks."""
        for bar_type in self._bar_types.values():
            self.subscribe_bars(bar_type)

    def on_bar(self, bar: Bar) -> None:
        """One stock's close; once all are in, the session is over."""
        self._today[bar.bar_type.instrument_id.symbol.value] = bar.close.as_double()
        if len(self._today) == len(self._tickers):
            closes = [self._today[ticker] for ticker in self._tickers]
            self._today = {}
            self._on_session(bar.ts_event, closes)

    def _on_session(self, ts_event: int, closes: list[float]) -> None:
        now = datetime.fromtimestamp(ts_event // 1_000_000_000, UTC)
        self._closes.append(closes)
        self._sessions.append(now.date().isoformat())
        self._memory.timeline.advance(
            now
        )  # from here on the memory knows of this close, and of no later one
        seen = np.array(self._closes)
        if len(seen) == FITTED_ON:
            self._embedder = MarketWindowEmbedder.fit(seen)  # once, then frozen
            self._memory.put("market", "embedder", self._embedder.to_dict())
            self._memory.bank.define(
                ACTION, target="log volatility of five days", unit="log", horizon=HORIZON
            )
        if self._embedder is None:
            return
        self._record_outcomes(seen)
        situations = self._embedder.embed(seen[-HISTORY:])
        tracked = [
            self._forecast(ticker, situations[place], seen[:, place], ts_event)
            for place, ticker in enumerate(self._tickers)
        ]
        self._memory.track_many(tracked)

    def _forecast(
        self, ticker: str, situation: np.ndarray, closes: np.ndarray, ts_event: int
    ) -> Trajectory:
        naive = log_volatility(closes[-23:])
        advice = self._memory.bank.advise(
            self._tickers, situation, action_type=ACTION, baseline=naive
        )
        expected = naive if advice.expected is None else advice.expected
        session = self._sessions[-1]
        self._ran.forecasts[session, ticker] = math.exp(expected)
        self._ran.naive[session, ticker] = math.exp(naive)
        self.publish_signal(SIGNAL, f"{ticker} {math.exp(expected)!r}", ts_event)
        has_interval = advice.low is not None and advice.high is not None
        trajectory = Trajectory(ticker, id=f"{ticker}/{session}")
        trajectory.add_observation({"close": float(closes[-1])}, situation)
        trajectory.add_action(
            ACTION,
            {"hold": min(1.0, TARGET / math.exp(expected))},
            expected,
            predicted_interval=(advice.low, advice.high) if has_interval else None,
            baseline=naive,
            advice=advice,
        )
        return trajectory

    def _record_outcomes(self, seen: np.ndarray) -> None:
        """What was forecast five sessions ago has come."""
        if len(seen) - HORIZON < FITTED_ON:
            return
        session = self._sessions[-1 - HORIZON]
        values = [
            log_volatility(seen[-1 - HORIZON :, place]) for place in range(len(self._tickers))
        ]
        ids = [f"{ticker}/{session}" for ticker in self._tickers]
        self._memory.record_outcomes(ids, values)
        for ticker, value in zip(self._tickers, values, strict=True):
            self._ran.outcomes[session, ticker] = math.exp(value)


class VolatilityTarget(Strategy):
    """Holds of each stock what has `TARGET` volatility by the actor's forecast, never on credit.

    Args:
        bar_types: One a stock, by ticker.
    """

    def __init__(self, bar_types: dict[str, BarType]) -> None:
        super().__init__()
        self._bar_types = bar_types
        self.fills = 0

    def on_start(self) -> None:
        """Hear the actor, and have the prices."""
        for bar_type in self._bar_types.values():
            self.subscribe_bars(bar_type)
        self.subscribe_signal(SIGNAL)

    def on_signal(self, signal: object) -> None:
        """A forecast: hold the share of the capital that it says, if that differs by a tenth."""
        ticker, _, text = signal.value.partition(" ")  # type: ignore[attr-defined]
        bar_type = self._bar_types[ticker]
        instrument = self.cache.instrument(bar_type.instrument_id)
        price = self.cache.bar(bar_type).close.as_double()
        share = 0.95 * min(1.0, TARGET / float(text)) / len(self._bar_types)
        wanted = int(CAPITAL * share / price)
        held = int(self.portfolio.net_position(instrument.id))
        if abs(wanted - held) <= 0.1 * wanted:
            return
        self.submit_order(
            self.order_factory.market(
                instrument.id,
                OrderSide.BUY if wanted > held else OrderSide.SELL,
                instrument.make_qty(abs(wanted - held)),
            )
        )

    def on_order_filled(self, event: object) -> None:
        """Count it."""
        self.fills += 1


def prices() -> Panel:
    """The first stocks that the demo carries, over the years of the example."""
    whole = load_carried()
    first = next(n for n, day in enumerate(whole.dates) if day.isoformat() >= FIRST_DAY)
    days = slice(first, first + DAYS)
    return Panel(whole.dates[days], whole.tickers[:STOCKS], whole.prices[days, :STOCKS].copy())


def run(panel: Panel, memory: SyncMemory) -> Ran:
    """Backtest on these prices with this memory."""
    engine = BacktestEngine(BacktestEngineConfig(logging=LoggingConfig(bypass_logging=True)))
    engine.add_venue(
        venue=Venue(VENUE),
        oms_type=OmsType.NETTING,
        account_type=AccountType.CASH,
        base_currency=USD,
        starting_balances=[Money(CAPITAL, USD)],
    )
    closes = pd.DatetimeIndex(session_close(list(panel.dates), "America/New_York"))
    bar_types: dict[str, BarType] = {}
    bars: list[Bar] = []
    for place, ticker in enumerate(panel.tickers):
        instrument: Equity = TestInstrumentProvider.equity(ticker, VENUE)
        bar_types[ticker] = BarType.from_str(f"{instrument.id}-1-DAY-LAST-EXTERNAL")
        engine.add_instrument(instrument)
        one = panel.prices[:, place].round(2)
        frame = pd.DataFrame(
            {"open": one, "high": one, "low": one, "close": one, "volume": 1e6}, index=closes
        )
        bars += BarDataWrangler(bar_types[ticker], instrument).process(frame)
    engine.add_data(sorted(bars, key=lambda bar: bar.ts_init))
    ran, strategy = Ran(), VolatilityTarget(bar_types)
    engine.add_actor(RememberingActor(memory, bar_types, ran))
    engine.add_strategy(strategy)
    engine.run()
    ran.fills = strategy.fills
    account = engine.portfolio.account(Venue(VENUE))
    holdings = engine.portfolio.net_exposures(Venue(VENUE)) or {}
    ran.equity = float(
        account.balance_total(USD).as_decimal()
        + sum((money.as_decimal() for money in holdings.values()), Decimal(0))
    )
    ran.now = memory.timeline.now
    skills = [memory.bank.calibration(ticker)[0].skill for ticker in panel.tickers]
    ran.skill = (
        sum(one.value for one in skills) / len(skills),
        max(one.standard_error for one in skills),
    )
    engine.dispose()
    return ran


def main() -> None:
    """Run it, and say what came of it."""
    panel = prices()
    with tempfile.TemporaryDirectory() as folder:
        config = MemoryConfig(storage_path=Path(folder), timeline="backtest")
        with MemorySystem.open_sync(config) as memory:
            ran = run(panel, memory)
    known = list(ran.outcomes)
    outcome = np.log([ran.outcomes[one] for one in known])
    ours = np.abs(np.log([ran.forecasts[one] for one in known]) - outcome).mean()
    naive = np.abs(np.log([ran.naive[one] for one in known]) - outcome).mean()
    print(f"{panel.n_days} sessions of {len(panel.tickers)} stocks, {len(known)} forecasts judged")
    print(f"mean error of log volatility: {ours:.3f}, naive {naive:.3f}, ratio {ours / naive:.3f}")
    print(f"{ran.fills} orders filled; {CAPITAL:,} dollars became {ran.equity:,.0f}")
    assert ours < naive


if __name__ == "__main__":
    main()
