"""The agents of the demo: one analyst a ticker, a risk agent and a coordinator.

They share nothing but the memory. Analysts learn from each other through `advise`; the risk agent
reads their forecasts through pins; analysts vote on its proposals; the coordinator trades under a
lock's fence.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import defaultdict
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from nt_memory.apps.demo.books import (
    Holding,
    agrees,
    leaves_band,
    portfolio_volatility,
    rebalance,
    shrunk_correlation,
    wanted_exposure,
)
from nt_memory.apps.demo.scoring import VarianceCorrection
from nt_memory.apps.demo.target import ACTION_TYPE
from nt_memory.coordination.proposals import Approved, Pending, Proposal, Rejected, Vote
from nt_memory.errors import LockLostError
from nt_memory.reasoningbank import Trajectory

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from nt_memory.apps.demo.books import Rule
    from nt_memory.apps.demo.settings import Settings
    from nt_memory.reasoningbank import Advice
    from nt_memory.system import MemorySystem
    from nt_memory.tiers.pins import Pin

    Floats = NDArray[np.float64]

RISK = "risk"
COORDINATOR = "coordinator"
FORECAST = "forecast"
BOOK_LOCK = "book"
_T = TypeVar("_T")


class Stopwatch:
    """Seconds of each call, by operation."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)

    async def time(self, operation: str, call: Awaitable[_T]) -> _T:
        """Await a call and note how long it took."""
        start = time.perf_counter()
        result = await call
        self.seconds[operation].append(time.perf_counter() - start)
        return result


@dataclass
class Counts:
    """What the agents did."""

    proposals: int = 0
    approved: int = 0
    rejected: int = 0
    grants: int = 0
    messages: int = 0
    advised: int = 0
    abstained: int = 0
    verdicts: int = 0
    trajectories: int = 0


@dataclass(frozen=True, slots=True)
class Shared:
    """What every agent is given."""

    memory: MemorySystem
    settings: Settings
    rule: Rule
    agents: Sequence[str]
    watch: Stopwatch = field(default_factory=Stopwatch)
    counts: Counts = field(default_factory=Counts)


class Forecast(NamedTuple):
    """One analyst's forecast; log volatilities. `low` and `high` are NaN without an interval."""

    expected: float
    low: float
    high: float
    base: float
    advice: Advice


def trajectory_id(ticker: str, day: str) -> str:
    """Name of the trajectory of one ticker's day."""
    return f"{ticker}/{day}"


class Analyst:
    """Forecasts one ticker's volatility from the swarm's memories, and answers for it."""

    def __init__(self, shared: Shared, agent: str) -> None:
        self._shared = shared
        self.agent = agent
        self._latest = math.nan
        self._at_last_trade = math.nan

    async def forecast(self, situation: Floats, base: float) -> Forecast:
        """Ask the memory what followed similar situations. The forecast is the advice.

        By scanning: what a graph finds depends on when it was built, and so on more than the memory.
        """
        shared = self._shared
        advice = await shared.watch.time(
            "advise",
            shared.memory.bank.advise(
                shared.agents,
                situation,
                action_type=ACTION_TYPE,
                level=shared.settings.level,
                baseline=base,
                k=shared.settings.neighbours,
                functional=shared.settings.functional,
                gamma=shared.settings.gamma,
                exact=True,
            ),
        )
        if advice.is_abstaining:
            shared.counts.abstained += 1
        else:
            shared.counts.advised += 1
        return Forecast(
            base if advice.expected is None else advice.expected,
            math.nan if advice.low is None else advice.low,
            math.nan if advice.high is None else advice.high,
            base,
            advice,
        )

    async def commit(self, day: str, now: datetime, situation: Floats, forecast: Forecast) -> None:
        """Track the decision with its receipt, and tell the others."""
        shared = self._shared
        has_interval = not math.isnan(forecast.low)
        trajectory = Trajectory(self.agent, id=trajectory_id(self.agent, day))
        trajectory.add_observation({"day": day}, situation, at=now)
        trajectory.add_action(
            ACTION_TYPE,
            None,
            forecast.expected,
            predicted_interval=(forecast.low, forecast.high) if has_interval else None,
            level=shared.settings.level,
            baseline=forecast.base,
            advice=forecast.advice,
            at=now,
        )
        await shared.watch.time("track", shared.memory.track_trajectory(trajectory))
        shared.counts.trajectories += 1
        await self.tell(day, forecast.expected)

    async def tell(self, day: str, expected: float) -> None:
        """Let the others see the forecast that was tracked."""
        shared = self._shared
        message = {"day": day, "log_volatility": expected}
        await shared.watch.time("put", shared.memory.put(self.agent, FORECAST, message))
        await shared.watch.time(
            "publish", shared.memory.publish(f"{self.agent}/{FORECAST}", message)
        )
        shared.counts.messages += 1
        self._latest = expected

    async def learn(self, day: str, outcome: float) -> None:
        """Five sessions later: what happened, and the verdict on it."""
        shared = self._shared
        await shared.watch.time(
            "record_outcome",
            shared.memory.record_outcome(trajectory_id(self.agent, day), outcome),
        )
        shared.counts.verdicts += 1

    async def vote(self, proposal_id: str, *, is_more_risk: bool) -> Approved | Rejected | Pending:
        """Vote by this analyst's own forecast."""
        shared = self._shared
        approve = agrees(self._latest, self._at_last_trade, is_more_risk=is_more_risk)
        return await shared.watch.time(
            "vote", shared.memory.consensus.vote(Vote(proposal_id, self.agent, approve))
        )

    def traded(self) -> None:
        """The book was resized on today's forecasts."""
        self._at_last_trade = self._latest


class RiskAgent:
    """Watches the forecasts through pins, and proposes to resize the book."""

    def __init__(self, shared: Shared, correction: VarianceCorrection | None = None) -> None:
        self._shared = shared
        self._pins: list[Pin] = [shared.memory.pin(agent, FORECAST) for agent in shared.agents]
        self.correction: VarianceCorrection = correction or VarianceCorrection()

    def learn(self, errors: Sequence[float]) -> None:
        """Outcome minus forecast of the day whose outcomes became known."""
        self.correction = self.correction.after(errors)

    def volatility(self, moves: Floats) -> float:
        """Annualised volatility that the analysts' forecasts imply for the portfolio."""
        rule = self._shared.rule
        forecasts = np.array([pin.value["log_volatility"] for pin in self._pins])
        correlation = shrunk_correlation(moves, rule)
        return portfolio_volatility(forecasts, self.correction.factor, correlation)

    async def propose(self, day: str, moves: Floats, held: float) -> tuple[str, float] | None:
        """Propose another exposure if the one held has left the band; the proposal's id."""
        shared = self._shared
        wanted = wanted_exposure(self.volatility(moves), shared.rule)
        if not leaves_band(wanted, held, shared.rule):
            return None
        kind = "re-risk" if wanted > held else "de-risk"
        proposal = Proposal(
            RISK,
            {"kind": kind, "from": held, "to": wanted, "day": day},
            quorum=Fraction(shared.rule.quorum),
            id=f"{kind}/{day}",
        )
        proposal_id = await shared.watch.time(
            "propose", shared.memory.consensus.submit_proposal(proposal)
        )
        shared.counts.proposals += 1
        return proposal_id, wanted


class Coordinator:
    """Owns the book: trades what was approved, at the next close, under a fence."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self.pending: float = math.nan
        self.held: float = 0.0

    async def start(self) -> None:
        """Begin with one unit of cash and no shares."""
        await self._write(Holding(np.zeros(len(self._shared.agents)), 1.0), None)

    async def holding(self) -> Holding:
        """The book as the memory has it."""
        memory = self._shared.memory
        shares = await memory.get(COORDINATOR, "position")
        cash = await memory.get(COORDINATOR, "cash")
        return Holding(np.array([shares[agent] for agent in self._shared.agents]), cash)

    async def trade(self, prices: Floats, cost_bps: float) -> float:
        """Carry out what was approved; the share of equity that was traded."""
        if math.isnan(self.pending):
            return 0.0
        shared = self._shared
        token = await shared.watch.time("acquire_lock", shared.memory.acquire_lock(BOOK_LOCK))
        shared.counts.grants += 1
        try:
            before = await self.holding()
            after, traded = rebalance(before, prices, self.pending, cost_bps)
            await shared.watch.time("transaction", self._write(after, token))
        finally:
            # A lost lock was told by the fence already; it must not be hidden by the release.
            with contextlib.suppress(LockLostError):
                await shared.memory.release_lock(token)
        self.held, self.pending = self.pending, math.nan
        return traded / before.equity(prices)

    async def _write(self, holding: Holding, fence: Any) -> None:
        shares = dict(zip(self._shared.agents, holding.shares.tolist(), strict=True))
        async with self._shared.memory.transaction(fence=fence) as tx:
            tx.put(COORDINATOR, "position", shares)
            tx.put(COORDINATOR, "cash", holding.cash)


async def decide(
    shared: Shared, analysts: Sequence[Analyst], proposal: tuple[str, float], held: float
) -> float:
    """Collect the votes; the exposure approved, NaN if the proposal was rejected."""
    proposal_id, wanted = proposal
    for analyst in analysts:
        await analyst.vote(proposal_id, is_more_risk=wanted > held)
    result = await shared.memory.consensus.get_result(proposal_id)
    if isinstance(result, Approved):
        shared.counts.approved += 1
        for analyst in analysts:
            analyst.traded()
        return wanted
    shared.counts.rejected += 1
    return math.nan
