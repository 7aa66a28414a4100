"""A pair of stocks, traded with the memory's advice, on a backtest timeline that cannot look ahead.

Each day the agent sees how far two prices have drifted apart, asks what followed similar days, and trades
only if that beats the costs. Every forecast is tracked with the naive one beside it; five sessions later the
outcome comes in, and the memory says whether the agent knew anything.

    python examples/pairs_trading.py

It works in a temporary directory and leaves nothing behind. The prices are made up: a spread that reverts,
in calm times quickly and in excited ones hardly.
"""

import asyncio
import tempfile
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nt_memory import MemoryConfig, MemorySystem, Trajectory, session_close

AGENT = "pairs"
ACTION = "spread-in-5-days"
DAYS = 400
HORIZON = 5
COST = 0.4
"""Of opening and closing the pair, in units of the spread."""


class Day(NamedTuple):
    """What is seen at one close."""

    spread: float
    situation: np.ndarray


def spreads() -> list[Day]:
    """A spread that goes back to zero while its noise is small."""
    random = np.random.default_rng(11)
    value, noise, days, values = 0.0, 0.5, [], []
    for _ in range(DAYS):
        noise = 0.97 * noise + 0.03 * random.choice([0.3, 1.2], p=[0.7, 0.3])
        value += -(0.25 if noise < 0.6 else 0.02) * value + noise * random.standard_normal()
        values.append(value)
        recent = np.std(np.diff(values[-22:])) if len(values) > 2 else 0.5
        # A constant keeps the level of a situation when it is normalised.
        days.append(
            Day(value, np.array([value, recent * 3, value - values[-min(5, len(values))], 2]))
        )
    return days


async def decide(memory: MemorySystem, number: int, day: Day) -> float | None:
    """Track a forecast of the spread in five days; the expected gain of trading, None: do not."""
    advice = await memory.bank.advise(
        AGENT, day.situation, action_type=ACTION, baseline=day.spread, level=0.8
    )
    trajectory = Trajectory(AGENT, id=f"day-{number:04}")
    trajectory.add_observation({"spread": day.spread}, day.situation)
    expected = day.spread if advice.expected is None else advice.expected
    has_interval = advice.low is not None and advice.high is not None
    trajectory.add_action(
        ACTION,
        {"side": "sell" if day.spread > expected else "buy"},
        expected,
        predicted_interval=(advice.low, advice.high) if has_interval else None,
        baseline=day.spread,  # the naive forecast: it stays where it is
        advice=advice,
    )
    await memory.track_trajectory(trajectory)
    gain = abs(expected - day.spread)
    return gain if not advice.is_abstaining and gain > COST else None


async def main() -> None:
    """Four hundred sessions, one by one."""
    first = date(2024, 1, 2)
    dates = [first + timedelta(days=7 * (n // 5) + n % 5) for n in range(DAYS)]
    closes = session_close(dates, "America/New_York")
    days = spreads()
    with tempfile.TemporaryDirectory() as directory:
        config = MemoryConfig(storage_path=Path(directory), timeline="backtest")
        async with MemorySystem.open(config) as memory:
            await memory.timeline.advance(closes[0])
            await memory.bank.define(
                ACTION, target="spread of the pair", unit="spread", horizon=HORIZON
            )
            always, advised, trades = 0.0, 0.0, 0
            for number, (close, day) in enumerate(zip(closes, days, strict=True)):
                if number:
                    await memory.timeline.advance(close)
                if number >= HORIZON:
                    await memory.record_outcome(f"day-{number - HORIZON:04}", day.spread)
                gain = await decide(memory, number, day)
                if number + HORIZON < DAYS:
                    # What the trade would bring: only for the books, the agent never sees it.
                    earned = (
                        np.sign(day.spread) * (day.spread - days[number + HORIZON].spread) - COST
                    )
                    always += earned
                    if gain is not None:
                        advised, trades = advised + earned, trades + 1
            (calibration,) = await memory.bank.calibration(AGENT, action_type=ACTION)
            print(f"always trading the reversal: {always / (DAYS - HORIZON):+.2f} a day")
            print(f"as advised, on {trades} days of {DAYS}: {advised / max(1, trades):+.2f} a day")
            skill, coverage = calibration.skill, calibration.coverage
            print(f"80 % intervals held {coverage.value:.0%}, {coverage.n} of them known")
            print(
                f"skill {skill.value:+.3f} ± {1.96 * skill.standard_error:.3f} below the naive error; "
                f"{skill.n} forecasts overlap so much that they count as {skill.n_effective:.0f}"
            )
            assert 0 < trades < DAYS


if __name__ == "__main__":
    asyncio.run(main())
