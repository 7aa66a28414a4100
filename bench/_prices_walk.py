"""The memory walks through real prices: every forecast asked of `advise` on a backtest timeline.

Each day, for each ticker: the outcomes that became known are recorded, then the memory is asked for the
volatility of the next five sessions and for the next day's direction, and both forecasts are tracked with
their receipts. Patterns are put to the test at looks declared in advance; from then on the memory is also
asked to advise from patterns alone. What is tracked is always the advice of recalled memories, so that
both kinds of advice are steered by the same past.
"""

from __future__ import annotations

import asyncio
import csv
import math
import time
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from nt_memory import MemoryConfig, MemorySystem, Trajectory
from nt_memory.apps.demo.options import DemoOptions
from nt_memory.apps.demo.plan import plan_run
from nt_memory.apps.demo.research import choosing_panel
from nt_memory.apps.demo.settings import CHOSEN
from nt_memory.apps.demo.target import ACTION_TYPE as VOLATILITY
from nt_memory.apps.demo.target import HORIZON, TARGET, UNIT

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from nt_memory.apps.demo.plan import Plan
    from nt_memory.apps.demo.settings import Settings
    from nt_memory.reasoningbank import Advice

    Floats = NDArray[np.float64]

DIRECTION = "next_day_up"
SETTINGS = replace(CHOSEN, neighbours=1_000, gamma=0.01)
"""How volatility is forecast here: chosen anew, on ten tickers and the years to 2014, after the first look
at all prices (`docs/decisions/0035-prices-second-look.md`). Direction is asked for as before."""
LOOK_YEARS = (1998, 2004, 2010, 2016)
SAY_EVERY = 250


@dataclass(frozen=True, eq=False)
class Walked:
    """What was said; all shape (n_days, n_tickers) over all days of the prices, NaN where nothing was.

    Attributes:
        expected: Forecast of log volatility, from recalled memories.
        low: Lower end of its interval.
        high: Upper end.
        variance: Forecast of the variance: its mean over the recalled memories, annualised.
        pattern_expected: What a promoted pattern said instead, where one covers the situation.
        pattern_low: Lower end of its interval.
        pattern_high: Upper end.
        up: Probability that the next day's return is positive.
        up_base: Share of positive returns known by then, of all tickers.
        pattern_up: What a promoted pattern said instead.
        promoted: Patterns promoted at each look: volatility and direction, shape (n_looks, 2).
        tested: Patterns there were, same shape.
        seconds: Of the walk, shape ().
    """

    expected: Floats
    low: Floats
    high: Floats
    variance: Floats
    pattern_expected: Floats
    pattern_low: Floats
    pattern_high: Floats
    up: Floats
    up_base: Floats
    pattern_up: Floats
    promoted: Floats
    tested: Floats
    seconds: Floats

    @classmethod
    def empty(cls, plan: Plan) -> Walked:
        """Nothing said yet."""
        shape = plan.baselines.outcomes.shape
        last = {"promoted": (len(LOOK_YEARS), 2), "tested": (len(LOOK_YEARS), 2), "seconds": ()}
        return cls(**{
            one.name: np.full(last.get(one.name, shape), np.nan) for one in fields(cls)
        })  # fmt: skip

    def save(self, path: Path) -> None:
        """Keep it for `load`."""
        np.savez_compressed(path, **{one.name: getattr(self, one.name) for one in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Walked:
        """What `save` kept."""
        with np.load(path) as found:
            return cls(**{one.name: found[one.name] for one in fields(cls)})


def plan_all() -> Plan:
    """All 33 years of the 20 tickers, from an empty memory."""
    return plan_run(DemoOptions(full=True))


def plan_choosing(workdir: Path) -> Plan:
    """The ten tickers and the years to 2014 that choices may rest on, from an empty memory."""
    panel, path = choosing_panel(), workdir / "choosing.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["date", *panel.tickers])
        for day, prices in zip(panel.dates, panel.prices.tolist(), strict=True):
            rows.writerow([day.isoformat(), *map(repr, prices)])
    return plan_run(DemoOptions(full=True, prices=path))


def ups_of(prices: Floats) -> Floats:
    """Whether the next day's return is positive: 1 or 0, shape (n_days, n_tickers); last row NaN."""
    ups = np.full(prices.shape, np.nan)
    ups[:-1] = prices[1:] > prices[:-1]
    return ups


class Walk:
    """A walk in progress.

    Args:
        plan: The prices, and what is known without memory.
        memory: A new one.
        with_direction: Whether the next day's direction is forecast too.
    """

    def __init__(self, plan: Plan, memory: MemorySystem, *, with_direction: bool = True) -> None:
        self._plan = plan
        self._memory = memory
        self._kinds = (VOLATILITY, DIRECTION) if with_direction else (VOLATILITY,)
        self._ups = ups_of(plan.panel.prices)
        self._said = Walked.empty(plan)
        # At the close of day d the returns of days 1 to d are known, which are rows 0 to d - 1.
        rises = np.nan_to_num(self._ups).sum(axis=1).cumsum()
        self._base = np.full(len(rises), np.nan)
        self._base[1:] = rises[:-1] / (plan.panel.prices.shape[1] * np.arange(1, len(rises)))
        years = np.array([day.year for day in plan.panel.dates])
        self._looks = {int(np.argmax(years >= year)): n for n, year in enumerate(LOOK_YEARS)}

    async def run(self, kept: Path) -> Walked:
        """Walk from the first day to the last; what is said is kept at each look and at the end."""
        plan = self._plan
        began = time.perf_counter()
        await self._memory.timeline.advance(plan.closes[plan.start - 1])
        await self._define(tuple(plan.feature_names))
        for day in range(plan.start, plan.panel.n_days):
            await self._memory.timeline.advance(plan.closes[day])
            await self._learn(day)
            if day in self._looks and day > plan.start:
                await self._look(self._looks[day])
                self._said.save(kept)
            await self._forecast(day)
            if (day - plan.start) % SAY_EVERY == 0:
                spent = time.perf_counter() - began
                print(f"{plan.panel.dates[day]}  {spent:6.0f} s", flush=True)
        self._said.seconds[...] = time.perf_counter() - began
        self._said.save(kept)
        return self._said

    async def _define(self, features: tuple[str, ...]) -> None:
        bank = self._memory.bank
        await bank.define(
            VOLATILITY, target=TARGET, unit=UNIT, horizon=HORIZON, baseline="linear",
            looks=len(LOOK_YEARS), features=features,
        )  # fmt: skip
        await bank.define(
            DIRECTION, target="1 if the next day's return is positive, else 0", unit="1", horizon=1,
            loss="squared", baseline="as-of base rate", looks=len(LOOK_YEARS), features=features,
        )  # fmt: skip

    async def _learn(self, day: int) -> None:
        """What became known at today's close: yesterday's direction, and last week's volatility."""
        plan = self._plan
        names: list[str] = []
        values: list[float] = []
        actions: list[int] = []
        known = ((day - HORIZON, plan.baselines.outcomes, 0), (day - 1, self._ups, 1))
        for past, outcomes, action in known[: len(self._kinds)]:
            if past >= plan.start:
                names += [self._name(past, place) for place in range(len(plan.agents))]
                values += outcomes[past].tolist()
                actions += [action] * len(plan.agents)
        if names:
            await self._memory.bank.record_outcomes(names, values, actions=actions)

    async def _look(self, number: int) -> None:
        for place, kind in enumerate(self._kinds):
            found = await self._memory.bank.distill(self._plan.agents, action_type=kind, look=True)
            mine = [one for one in found if one.action_type == kind]
            self._said.tested[number, place] = len(mine)
            self._said.promoted[number, place] = sum(one.is_promoted for one in mine)
            print(f"look {number + 1} at {kind}: {len(mine)} patterns, "
                  f"{sum(one.is_promoted for one in mine)} promoted")  # fmt: skip
            for one in mine:
                if one.is_promoted:
                    print(f"  {one.agent}: {one.describe()}")

    async def _forecast(self, day: int) -> None:
        places = range(len(self._plan.agents))
        built = await asyncio.gather(*(self._one(day, place) for place in places))
        await self._memory.track_many(built)

    async def _one(self, day: int, place: int) -> Trajectory:
        plan, said = self._plan, self._said
        situation, at = plan.situations[day, place], plan.closes[day]
        base = float(plan.baselines.forecasts["linear"][day, place])
        advice, of_pattern = await self._ask(VOLATILITY, situation, base, SETTINGS)
        forecast = base if advice.expected is None else advice.expected
        said.expected[day, place] = forecast
        variance = advice.mean_of(lambda logs: np.exp(2.0 * logs))
        said.variance[day, place] = math.exp(2.0 * forecast) if variance is None else variance
        interval = None
        if advice.low is not None and advice.high is not None:
            interval = (advice.low, advice.high)
            said.low[day, place], said.high[day, place] = interval
        if of_pattern is not None:
            said.pattern_expected[day, place] = of_pattern.expected
            said.pattern_low[day, place] = of_pattern.low
            said.pattern_high[day, place] = of_pattern.high
        built = Trajectory(plan.agents[place], id=self._name(day, place))
        built.add_observation(None, situation, at=at)
        built.add_action(
            VOLATILITY, None, forecast, predicted_interval=interval, level=SETTINGS.level,
            baseline=base, advice=advice, at=at,
        )  # fmt: skip
        return await self._turn(built, day, place) if DIRECTION in self._kinds else built

    async def _turn(self, built: Trajectory, day: int, place: int) -> Trajectory:
        """The same with a forecast of the next day's direction."""
        plan, said = self._plan, self._said
        situation, at, rate = plan.situations[day, place], plan.closes[day], float(self._base[day])
        turn, of_turn = await self._ask(DIRECTION, situation, rate, CHOSEN)
        up = _probability(turn, rate)
        said.up[day, place], said.up_base[day, place] = up, rate
        if of_turn is not None:
            said.pattern_up[day, place] = _probability(of_turn, rate)
        return built.add_action(
            DIRECTION, None, up, probability=up, baseline=rate, advice=turn, at=at
        )

    async def _ask(
        self, kind: str, situation: Floats, base: float, settings: Settings
    ) -> tuple[Advice, Advice | None]:
        """Advice from recalled memories, and that of a pattern where one covers the situation."""
        found = await self._advise(kind, situation, base, settings, from_patterns=True)
        if not found.receipt.pattern:
            # Nothing covers it: this is what would have been said without patterns.
            return found, None
        return await self._advise(kind, situation, base, settings, from_patterns=False), found

    async def _advise(
        self, kind: str, situation: Floats, base: float, settings: Settings, *, from_patterns: bool
    ) -> Advice:
        return await self._memory.bank.advise(
            self._plan.agents,
            situation,
            action_type=kind,
            level=settings.level,
            baseline=base,
            k=settings.neighbours,
            functional=settings.functional,
            gamma=settings.gamma,
            from_patterns=from_patterns,
        )

    def _name(self, day: int, place: int) -> str:
        return f"{self._plan.agents[place]}/{self._plan.panel.dates[day].isoformat()}"


def _probability(advice: Advice, rate: float) -> float:
    """A probability, kept off the ends where one surprise costs everything."""
    said = rate if advice.expected is None else advice.expected
    return min(max(said, 0.01), 0.99) if math.isfinite(said) else rate


async def walk(plan: Plan, store: Path, kept: Path, *, with_direction: bool = True) -> Walked:
    """Walk through the plan's prices in a new store."""
    config = MemoryConfig(storage_path=store, timeline="backtest", swarm="prices", agent="bench")
    async with MemorySystem.open(config) as memory:
        return await Walk(plan, memory, with_direction=with_direction).run(kept)
