"""The same walk without a baseline: what patterns alone say, where almost every situation has one.

Against the linear baseline hardly a pattern holds up, so that advice from patterns is hardly ever given.
Of outcomes as such (how volatile it became) most patterns hold up: here advice from patterns can be
compared with advice from the memories that they stand for, in accuracy and in time.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import numpy as np
from _prices_walk import LOOK_YEARS, VOLATILITY, Walk

from nt_memory import Trajectory
from nt_memory.apps.demo.settings import CHOSEN
from nt_memory.apps.demo.target import HORIZON, TARGET, UNIT

if TYPE_CHECKING:
    from nt_memory.reasoningbank import Advice

TIMED_EVERY = 25
"""Days on which one question is asked after the other, so that it can be timed."""


class BareWalk(Walk):
    """Forecasts of outcomes as such, from memories and from patterns."""

    kinds = (VOLATILITY,)

    async def _define(self, features: tuple[str, ...]) -> None:
        await self._memory.bank.define(
            VOLATILITY, target=TARGET, unit=UNIT, horizon=HORIZON, looks=len(LOOK_YEARS),
            features=features,
        )  # fmt: skip
        self._spent: tuple[list[float], list[float]] = ([], [])

    async def _learn(self, day: int) -> None:
        past = day - HORIZON
        if past >= self._plan.start:
            names = [self._name(past, place) for place in range(len(self._plan.agents))]
            outcomes = self._plan.baselines.outcomes[past].tolist()
            await self._memory.bank.record_outcomes(names, outcomes)

    async def _forecast(self, day: int) -> None:
        places = range(len(self._plan.agents))
        if day % TIMED_EVERY == 0:
            built = [await self._one(day, place) for place in places]
        else:
            built = await asyncio.gather(*(self._one(day, place) for place in places))
        await self._memory.track_many(built)
        if self._spent[1]:
            self._said.advise_seconds[...] = [float(np.median(one)) for one in self._spent]

    async def _one(self, day: int, place: int) -> Trajectory:
        plan, said = self._plan, self._said
        began = time.perf_counter()
        of_pattern = await self._ask_bare(place, day, from_patterns=True)
        between = time.perf_counter()
        advice = of_pattern
        if of_pattern.receipt.pattern:
            advice = await self._ask_bare(place, day, from_patterns=False)
            said.pattern_expected[day, place] = of_pattern.expected
            said.pattern_low[day, place] = of_pattern.low
            said.pattern_high[day, place] = of_pattern.high
            if day % TIMED_EVERY == 0:
                self._spent[0].append(time.perf_counter() - between)
                self._spent[1].append(between - began)
        agent, at = plan.agents[place], plan.closes[day]
        built = Trajectory(agent, id=self._name(day, place))
        built.add_observation(None, plan.situations[day, place], at=at)
        interval = None
        if advice.expected is not None and advice.low is not None and advice.high is not None:
            interval = (advice.low, advice.high)
            said.expected[day, place] = advice.expected
            said.low[day, place], said.high[day, place] = interval
        return built.add_action(
            VOLATILITY, None, advice.expected, predicted_interval=interval, level=CHOSEN.level,
            advice=advice, at=at,
        )  # fmt: skip

    async def _ask_bare(self, place: int, day: int, *, from_patterns: bool) -> Advice:
        plan = self._plan
        return await self._memory.bank.advise(
            plan.agents,
            plan.situations[day, place],
            action_type=VOLATILITY,
            level=CHOSEN.level,
            k=CHOSEN.neighbours,
            functional=CHOSEN.functional,
            gamma=CHOSEN.gamma,
            from_patterns=from_patterns,
        )
