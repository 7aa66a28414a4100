"""One run of the demo: remember the past, trade day by day, and gather what was found."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nt_memory.apps.demo.ablation import Variants, memories_used, own_ticker_only
from nt_memory.apps.demo.books import Rule, follow_rule, hold_equal_weight
from nt_memory.apps.demo.history import BookRecorder, Recorder
from nt_memory.apps.demo.leftovers import make_room
from nt_memory.apps.demo.mapping import map_situations, take_apart
from nt_memory.apps.demo.measures import counts_of, latencies_of, memory_of
from nt_memory.apps.demo.options import check_paths
from nt_memory.apps.demo.plan import Plan, plan_run
from nt_memory.apps.demo.remembering import remember
from nt_memory.apps.demo.result import DemoResult
from nt_memory.apps.demo.settings import CHOSEN
from nt_memory.apps.demo.swarm import (
    Analyst,
    Coordinator,
    Forecast,
    RiskAgent,
    Shared,
    decide,
)
from nt_memory.apps.demo.target import HORIZON
from nt_memory.clock import turn
from nt_memory.config import MemoryConfig
from nt_memory.system import MemorySystem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from nt_memory.apps.demo.options import DemoOptions
    from nt_memory.apps.demo.settings import Settings

    Floats = NDArray[np.float64]
    Progress = Callable[[str, int, int], None]

STORE = "memory"
STORE_WITH_PAST = "memory-with-past"


def run_demo(options: DemoOptions, progress: Progress | None = None) -> DemoResult:
    """Run the swarm; Ctrl-C ends it after the day it is in, with a partial result.

    With `no_past` the same days are traded a second time with the past remembered, so that what it
    costs to start from nothing can be said.

    Args:
        options: What is asked.
        progress: Called with the phase, how much is done and how much there is.

    Raises:
        InvalidInputError: the options or the prices make no sense.
        NtMemoryError: the memory failed.
    """
    check_paths(options)
    plan = plan_run(options)
    store = options.out / STORE
    make_room(store)
    shown = progress or _silent
    result = asyncio.run(Run(options, plan, store, shown).run())
    if not options.no_past or result.is_interrupted:
        return result
    return _compared_with_past(result, shown)


def _compared_with_past(result: DemoResult, progress: Progress) -> DemoResult:
    """Trade the same days again with the past remembered, and add those forecasts."""

    def shown(phase: str, done: int, total: int) -> None:
        progress(f"with the past: {phase}", done, total)

    options = dataclasses.replace(result.options, no_past=False)
    store = options.out / STORE_WITH_PAST
    make_room(store)
    other = asyncio.run(Run(options, plan_run(options), store, shown).run())
    forecasts = np.full(result.forecasts["memory"].shape, np.nan)
    forecasts[: len(other.dates)] = other.forecasts["memory"]
    seconds = {**result.seconds, "with the past": other.seconds["total"]}
    seconds["total"] += other.seconds["total"]
    return dataclasses.replace(
        result,
        forecasts={**result.forecasts, "with_past": forecasts},
        seconds=seconds,
        is_interrupted=other.is_interrupted,
    )


def _silent(phase: str, done: int, total: int) -> None:
    """Nobody watches."""
    del phase, done, total


class Run:
    """One run in progress."""

    def __init__(
        self,
        options: DemoOptions,
        plan: Plan,
        store: Path,
        progress: Progress,
        settings: Settings = CHOSEN,
        rule: Rule = Rule(),  # noqa: B008 - an immutable value
    ) -> None:
        self._options = options
        self._plan = plan
        self._store = store
        self._progress = progress
        self._settings = settings
        self._rule = rule
        self._is_stopping = False
        self._seconds: dict[str, float] = {}
        outcomes = plan.baselines.outcomes
        self._recorder = Recorder(len(outcomes) - plan.start, len(plan.agents))
        self._book = BookRecorder(len(outcomes) - plan.start)
        self._variants = Variants(outcomes, settings, start=plan.start, seed=options.seed)
        self._recall: Any = None

    async def run(self) -> DemoResult:
        """Remember, trade, look back."""
        began = time.perf_counter()
        config = MemoryConfig(
            storage_path=self._store, timeline="backtest", swarm="demo", agent="demo"
        )
        with self._stop_on_interrupt():
            async with MemorySystem.open(config) as memory:
                shared = Shared(memory, self._settings, self._rule, self._plan.agents)
                await self._remember(shared)
                await self._trade(shared)
                result = await self._look_back(shared)
        self._seconds["total"] = time.perf_counter() - began
        return result

    @contextlib.contextmanager
    def _stop_on_interrupt(self) -> Any:
        """The first Ctrl-C ends the run after the current day; the second one at once."""
        loop = asyncio.get_running_loop()

        def stop() -> None:
            self._is_stopping = True
            loop.remove_signal_handler(signal.SIGINT)

        try:
            loop.add_signal_handler(signal.SIGINT, stop)
        except (NotImplementedError, RuntimeError, ValueError):
            yield  # not the main thread
            return
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    # --- before the first traded day ----------------------------------------------------------

    async def _remember(self, shared: Shared) -> None:
        began = time.perf_counter()
        await remember(shared, self._plan, self._progress, lambda: self._is_stopping)
        self._seconds["remember"] = time.perf_counter() - began

    # --- day by day ---------------------------------------------------------------------------

    async def _trade(self, shared: Shared) -> None:
        began = time.perf_counter()
        plan = self._plan
        analysts = [Analyst(shared, agent) for agent in plan.agents]
        coordinator = Coordinator(shared)
        await coordinator.start()
        await turn()  # a Ctrl-C that came with the last answer is heard before the first day
        risk = RiskAgent(shared)
        total = plan.panel.n_days - plan.start
        for day in range(plan.start, plan.panel.n_days):
            if self._is_stopping:
                break
            await self._one_day(shared, day, analysts, risk, coordinator)
            self._progress("trade", day - plan.start + 1, total)
        self._seconds["trade"] = time.perf_counter() - began

    async def _one_day(
        self,
        shared: Shared,
        day: int,
        analysts: Sequence[Analyst],
        risk: RiskAgent,
        coordinator: Coordinator,
    ) -> None:
        plan = self._plan
        memory = shared.memory
        prices = plan.panel.prices[day]
        await shared.watch.time("advance", memory.timeline.advance(plan.closes[day]))
        traded = await coordinator.trade(prices, self._options.cost_bps)
        await self._learn(day, analysts, risk)
        forecasts = await self._forecast(day, analysts)
        moves = np.diff(
            np.log(plan.panel.prices[max(0, day - self._rule.window - 1) : day + 1]), axis=0
        )
        proposal = await risk.propose(plan.panel.dates[day].isoformat(), moves, coordinator.held)
        if proposal is not None:
            coordinator.pending = await decide(shared, analysts, proposal, coordinator.held)
        holding = await coordinator.holding()
        row = day - plan.start
        self._book.add(row, holding.equity(prices), coordinator.held, traded)
        self._recorder.add(row, forecasts)

    async def _learn(self, day: int, analysts: Sequence[Analyst], risk: RiskAgent) -> None:
        """The outcomes of the forecasts made five sessions ago have become known."""
        plan = self._plan
        past = day - HORIZON
        if past < plan.first_day:
            return
        date = plan.panel.dates[past].isoformat()
        known = plan.baselines.outcomes[past]
        await asyncio.gather(
            *(
                analyst.learn(date, float(outcome))
                for analyst, outcome, base in zip(
                    analysts, known, plan.baselines.forecasts["linear"][past], strict=True
                )
                if math.isfinite(base)
            )
        )
        if past >= plan.start:
            risk.learn((known - self._recorder.expected[past - plan.start]).tolist())

    async def _forecast(self, day: int, analysts: Sequence[Analyst]) -> list[Forecast]:
        plan = self._plan
        base, situations = plan.base(day), plan.situations[day]
        forecasts = [
            await analyst.forecast(situation, float(one))
            for analyst, situation, one in zip(analysts, situations, base, strict=True)
        ]
        date = plan.panel.dates[day].isoformat()
        await asyncio.gather(
            *(
                analyst.commit(date, plan.closes[day], situation, forecast)
                for analyst, situation, forecast in zip(
                    analysts, situations, forecasts, strict=True
                )
            )
        )
        places = {agent: place for place, agent in enumerate(plan.agents)}
        used = [memories_used(forecast, plan.close_us, places) for forecast in forecasts]
        self._variants.add(day, plan.first_day, forecasts, used)
        self._recall = take_apart(plan, day, forecasts) or self._recall
        return forecasts

    # --- afterwards ---------------------------------------------------------------------------

    async def _look_back(self, shared: Shared) -> DemoResult:
        began = time.perf_counter()
        plan, days = self._plan, self._recorder.days
        self._progress("look back", 0, 3)
        end = plan.start + days
        window = slice(plan.start, end)
        units = plan.situations / np.linalg.norm(plan.situations, axis=-1, keepdims=True)
        forecasts = {
            "memory": self._recorder.expected[:days],
            **{name: one[window] for name, one in plan.baselines.forecasts.items()},
            "placebo_permuted": self._variants.permuted[:days],
            "placebo_random": self._variants.random[:days],
            "own_ticker": own_ticker_only(
                units,
                plan.baselines.outcomes,
                plan.baselines.forecasts["linear"],
                self._settings,
                first_day=plan.first_day,
                start=plan.start,
                end=end,
            ),
        }
        self._progress("look back", 1, 3)
        situations = await map_situations(shared, plan)
        self._progress("look back", 2, 3)
        books = self._books(forecasts, window)
        self._seconds["look back"] = time.perf_counter() - began
        self._progress("look back", 3, 3)
        return DemoResult(
            options=self._options,
            settings=self._settings,
            rule=self._rule,
            tickers=plan.panel.tickers,
            dates=plan.panel.dates[window],
            start=plan.start,
            total_days=plan.panel.n_days - plan.start,
            actual=plan.baselines.outcomes[window],
            forecasts=forecasts,
            base=self._recorder.base[:days],
            recalled=self._recorder.expected[:days] - self._recorder.base[:days],
            low=self._recorder.low[:days],
            high=self._recorder.high[:days],
            fixed_low=self._variants.fixed_low[:days],
            fixed_high=self._variants.fixed_high[:days],
            memories=self._recorder.memories[:days],
            books=books,
            latencies=latencies_of(shared.watch),
            counts=counts_of(shared),
            memory=memory_of(shared.memory),
            recall=self._recall,
            situations=situations,
            seconds=self._seconds,
            is_interrupted=self._is_stopping,
        )

    def _books(self, forecasts: dict[str, Floats], window: slice) -> dict[str, Any]:
        plan = self._plan
        if window.stop - window.start == 0:
            return {}
        prices = plan.panel.prices[window]
        moves = np.diff(np.log(plan.panel.prices[: window.stop]), axis=0)
        outcomes = plan.baselines.outcomes[window]
        cost = self._options.cost_bps
        books = {"memory": self._book.history(window.stop - window.start)}
        for name in ("ewma_cal", "linear"):
            filled = np.where(np.isfinite(forecasts[name]), forecasts[name], forecasts["ewma"])
            books[name] = follow_rule(filled, outcomes, prices, moves, self._rule, cost)
        books["equal_weight"] = hold_equal_weight(prices, cost)
        return books
