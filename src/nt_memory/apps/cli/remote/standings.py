"""How good agents have been, as a server tells it."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from nt_memory.apps.cli.remote.paths import of_agent, spell_moment
from nt_memory.apps.cli.remote.reading import read
from nt_memory.namespace import check_agent
from nt_memory.reasoningbank import Calibration, MemoryRef, Ranked, RecentAction, Uplift
from nt_memory.reasoningbank.calibration import Reliability
from nt_memory.reasoningbank.dependence import Mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nt_memory.apps.cli.asking import Moment, VerdictKind
    from nt_memory.apps.cli.remote.client import Client

MAX_PAGE = 500
"""Decisions a server gives at a time."""


class RemoteStandings:
    """The calls of `ReasoningBank` that say how good agents were."""

    _client: Client

    async def recent(
        self,
        agent: str,
        limit: int = 20,
        *,
        skip: int = 0,
        action_type: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        verdict: VerdictKind | None = None,
        tag: str | None = None,
        as_of: Moment | None = None,
    ) -> list[RecentAction]:
        """An agent's actions, newest first; pages are of the moment asked for, or of now."""
        found: list[RecentAction] = []
        query = {
            "action_type": action_type,
            "since": spell_moment(since),
            "until": spell_moment(until),
            "verdict": verdict,
            "tag": tag,
            "as_of": spell_moment(as_of),
        }
        while len(found) < limit:
            size = min(MAX_PAGE, limit - len(found))
            part = {"skip": skip + len(found), "limit": size}
            answer = await self._client.ask(
                "GET", of_agent("decisions", agent), query={**query, **part}
            )
            page = read(answer, _Decisions).decisions
            found += [one.action_of(agent) for one in page]
            if len(page) < size:
                break
        return found

    async def calibration(
        self,
        agent: str,
        *,
        action_type: str | None = None,
        level: float = 0.8,
        by_regime: bool = False,
        as_of: Moment | None = None,
    ) -> list[Calibration]:
        """How far an agent's forecasts can be trusted."""
        query = {
            "action_type": action_type,
            "level": level,
            "by_regime": by_regime,
            "as_of": spell_moment(as_of),
        }
        answer = await self._client.ask("GET", of_agent("calibration", agent), query=query)
        return [one.calibration() for one in read(answer, _Calibrations).calibration]

    async def rank(
        self,
        agents: Sequence[str],
        embedding: Any,
        *,
        action_type: str | None = None,
        as_of: Moment | None = None,
    ) -> list[Ranked]:
        """Agents by the skill of their forecasts in situations like one, best first."""
        body = {
            "agents": [check_agent(agent) for agent in agents],
            # As JSON has it; what is no vector is left for the server to refuse.
            "embedding": embedding.tolist() if hasattr(embedding, "tolist") else embedding,
            "action_type": action_type,
            "as_of": spell_moment(as_of),
        }
        answer = await self._client.ask("POST", "/rank", body)
        return [one.ranked() for one in read(answer, _Ranking).ranking]

    async def uplift(
        self, agent: str, *, action_type: str | None = None, as_of: Moment | None = None
    ) -> Uplift:
        """What showing advice was worth to an agent."""
        query = {"action_type": action_type, "as_of": spell_moment(as_of)}
        answer = await self._client.ask("GET", of_agent("uplift", agent), query=query)
        return read(answer, _Uplift).uplift()

    async def vote_weights(
        self, agents: Sequence[str], *, as_of: Moment | None = None
    ) -> dict[str, float]:
        """How much each agent's vote should weigh."""
        names = [check_agent(agent) for agent in agents]
        query = {"agent": names, "as_of": spell_moment(as_of)}
        answer = await self._client.ask("GET", "/weights", query=query)
        return read(answer, _Weights).weights


class _Decision(msgspec.Struct):
    trajectory_id: str
    action: int
    action_type: str
    at: datetime

    def action_of(self, agent: str) -> RecentAction:
        return RecentAction(
            MemoryRef(agent, self.trajectory_id, self.action), self.action_type, self.at
        )


class _Decisions(msgspec.Struct):
    decisions: list[_Decision]


class _Mean(msgspec.Struct):
    value: float | None
    standard_error: float | None
    n: int
    n_effective: float
    freedom: float | None

    def mean(self) -> Mean:
        return Mean(
            _number(self.value, math.nan),
            _number(self.standard_error, math.inf),
            self.n,
            self.n_effective,
            _number(self.freedom, math.inf),
        )


class _Calibration(msgspec.Struct):
    agent: str
    action_type: str
    level: float
    n: int
    coverage: _Mean
    bias: _Mean
    loss: _Mean
    skill: _Mean
    sharpness: _Mean
    interval_score: _Mean
    brier: _Mean
    crps: _Mean
    reliability: list[Reliability]
    alpha: float
    steps: int
    drift: _Mean
    regime: str

    def calibration(self) -> Calibration:
        same: dict[str, Any] = msgspec.structs.asdict(self)
        for name, one in same.items():
            if isinstance(one, _Mean):
                same[name] = one.mean()
        same["reliability"] = tuple(self.reliability)
        return Calibration(**same)


class _Calibrations(msgspec.Struct):
    calibration: list[_Calibration]


class _Ranked(msgspec.Struct):
    agent: str
    skill: _Mean
    score: float
    n: int
    distance: float | None

    def ranked(self) -> Ranked:
        distance = _number(self.distance, math.nan)
        return Ranked(self.agent, self.skill.mean(), self.score, self.n, distance)


class _Ranking(msgspec.Struct):
    ranking: list[_Ranked]


class _Uplift(msgspec.Struct):
    agent: str
    value: float | None
    standard_error: float | None
    relative: float | None
    shown: int
    withheld: int
    units: int
    freedom: float | None = None

    def uplift(self) -> Uplift:
        return Uplift(
            self.agent,
            _number(self.value, math.nan),
            _number(self.standard_error, math.inf),
            _number(self.relative, math.nan),
            self.shown,
            self.withheld,
            self.units,
            _number(self.freedom, math.inf),
        )


class _Weights(msgspec.Struct):
    weights: dict[str, float]


def _number(given: float | None, unknown: float) -> float:
    """JSON has neither NaN nor infinity: a server says null."""
    return unknown if given is None else given
