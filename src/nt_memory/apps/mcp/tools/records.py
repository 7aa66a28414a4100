"""Tools over how good agents have been: calibration, ranking, the worth of advice, vote weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar

from mcp_types import ToolAnnotations
from pydantic import Field
from typing_extensions import override

from nt_memory.apps.mcp.tool import (
    READS,
    Agents,
    Answer,
    AsOf,
    Text,
    Tool,
    Vector,
    Whose,
)

if TYPE_CHECKING:
    from nt_memory.apps.mcp.desk import Turn
    from nt_memory.reasoningbank import Calibration, Ranked
    from nt_memory.reasoningbank.dependence import Mean

OfType = Annotated[str | None, Field(description="Only actions of this type.")]


class Measured(Answer):
    """A mean, and how far to trust it. Null: it cannot be said."""

    value: float | None
    low: Annotated[float | None, Field(description="Lower end of the 95 % interval.")]
    high: float | None
    n: int
    n_effective: Annotated[float, Field(description="Independent values they are worth.")]


def _measured(mean: Mean) -> Measured:
    return Measured(
        value=finite(mean.value),
        low=finite(mean.low),
        high=finite(mean.high),
        n=mean.n,
        n_effective=mean.n_effective,
    )


def finite(value: float) -> float | None:
    """A number as JSON has it; None where it cannot be said."""
    return float(value) if math.isfinite(value) else None


class Record(Answer):
    """An agent's record in one action type, or in one kind of situation of it."""

    agent: str
    action_type: str
    regime: Annotated[str, Field(description="Id of the nearest pattern; empty: all situations.")]
    level: float
    n: int
    coverage: Annotated[Measured, Field(description="Of intervals of this level.")]
    bias: Annotated[Measured, Field(description="Predicted minus actual.")]
    skill: Annotated[Measured, Field(description="Baseline loss minus loss; above 0 is good.")]
    sharpness: Measured
    drift: Annotated[Measured, Field(description="Loss of late minus before; above 0 is worse.")]


def _record(one: Calibration) -> Record:
    return Record(
        agent=one.agent,
        action_type=one.action_type,
        regime=one.regime,
        level=one.level,
        n=one.n,
        coverage=_measured(one.coverage),
        bias=_measured(one.bias),
        skill=_measured(one.skill),
        sharpness=_measured(one.sharpness),
        drift=_measured(one.drift),
    )


class Records(Answer):
    """Records, by action type and regime."""

    calibration: list[Record]


class ShowCalibration(Tool):
    """Show how far an agent's forecasts can be trusted: whether its intervals cover what they claim,
    its bias, and its skill over the baseline, each with an interval that counts dependence; with
    by_regime one for each kind of situation."""  # noqa: D205, D209

    called: ClassVar[str] = "calibration"
    title: ClassVar[str] = "Show calibration"
    effect: ClassVar[ToolAnnotations] = READS
    answers: ClassVar[type[Answer]] = Records

    agent: Whose = None
    action_type: OfType = None
    level: Annotated[float, Field(description="Of the intervals counted.")] = 0.8
    by_regime: Annotated[bool, Field(description="One for each of its patterns.")] = False
    as_of: AsOf = None

    @override
    async def run(self, turn: Turn) -> Records:
        found = await turn.memory.bank.calibration(
            turn.whose(self.agent),
            action_type=self.action_type,
            level=self.level,
            by_regime=self.by_regime,
            as_of=self.as_of,
        )
        return Records(calibration=[_record(one) for one in found])


class Place(Answer):
    """How good an agent was in situations like this one."""

    agent: str
    score: Annotated[float, Field(description="Share of the baseline's loss saved, shrunk.")]
    skill: Measured
    n: int
    distance: Annotated[float | None, Field(description="Of the farthest of the situations.")]


def _place(one: Ranked) -> Place:
    return Place(
        agent=one.agent,
        score=one.score,
        skill=_measured(one.skill),
        n=one.n,
        distance=finite(one.distance),
    )


class Places(Answer):
    """Agents, best first."""

    ranking: list[Place]


class RankAgents(Tool):
    """Rank agents by how good their forecasts were in situations like this one, best first. Ask it
    to know whom to follow now; who has little to show is ranked near the middle."""  # noqa: D205, D209

    called: ClassVar[str] = "rank_agents"
    title: ClassVar[str] = "Rank agents"
    effect: ClassVar[ToolAnnotations] = READS
    answers: ClassVar[type[Answer]] = Places

    agents: Agents = None
    text: Text = None
    embedding: Vector = None
    action_type: Annotated[
        str | None, Field(description="About which; may be left out if only one is known.")
    ] = None
    as_of: AsOf = None

    @override
    async def run(self, turn: Turn) -> Places:
        found = await turn.memory.bank.rank(
            [turn.whose(None)] if self.agents is None else self.agents,
            await turn.vector(self, self.text, self.embedding),
            action_type=self.action_type,
            as_of=self.as_of,
        )
        return Places(ranking=[_place(one) for one in found])


class Worth(Answer):
    """What showing advice was worth, in units of the loss. Null: it cannot be said."""

    agent: str
    value: Annotated[float | None, Field(description="By how much advice lowered the loss.")]
    low: Annotated[float | None, Field(description="Lower end of the 95 % interval.")]
    high: float | None
    relative: Annotated[float | None, Field(description="As a share of the loss without.")]
    shown: int
    withheld: int


class MeasureUplift(Tool):
    """Measure what showing advice was worth to an agent. Needs decisions whose advice was asked for
    with `withhold`, so that chance decided which were shown it."""  # noqa: D205, D209

    called: ClassVar[str] = "uplift"
    title: ClassVar[str] = "Measure the worth of advice"
    effect: ClassVar[ToolAnnotations] = READS
    answers: ClassVar[type[Answer]] = Worth

    agent: Whose = None
    action_type: OfType = None
    as_of: AsOf = None

    @override
    async def run(self, turn: Turn) -> Worth:
        found = await turn.memory.bank.uplift(
            turn.whose(self.agent), action_type=self.action_type, as_of=self.as_of
        )
        return Worth(
            agent=found.agent,
            value=finite(found.value),
            low=finite(found.low),
            high=finite(found.high),
            relative=finite(found.relative),
            shown=found.shown,
            withheld=found.withheld,
        )


class Weights(Answer):
    """How much each agent's vote should weigh."""

    weights: dict[str, float]


class WeighVotes(Tool):
    """Say how much agents' votes should weigh, from their skill and from whom they err with: copies
    of one agent share one vote."""  # noqa: D205, D209

    called: ClassVar[str] = "vote_weights"
    title: ClassVar[str] = "Weigh votes"
    effect: ClassVar[ToolAnnotations] = READS
    answers: ClassVar[type[Answer]] = Weights

    agents: Agents = None
    as_of: AsOf = None

    @override
    async def run(self, turn: Turn) -> Weights:
        agents = [turn.whose(None)] if self.agents is None else self.agents
        return Weights(weights=await turn.memory.bank.vote_weights(agents, as_of=self.as_of))


TOOLS: tuple[type[Tool], ...] = (ShowCalibration, RankAgents, MeasureUplift, WeighVotes)
