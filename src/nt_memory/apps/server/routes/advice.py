"""The ReasoningBank: advice, patterns, calibration and what votes should weigh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from nt_memory.apps.server.bodies import (
    AGENT_PATTERN,
    PROBLEMS,
    AgentName,
    AsOfQuery,
    KeyName,
    Moment,
    Number,
    Real,
    RequestId,
    StrictRoute,
    reply,
    spell_fields,
)
from nt_memory.apps.server.callers import Me
from nt_memory.apps.server.house import Here
from nt_memory.apps.server.routes.similarity import Situation, vector_of
from nt_memory.clock import to_datetime

if TYPE_CHECKING:
    from nt_memory import Pattern

MAX_MEMORIES = 300

router: APIRouter = APIRouter(
    prefix="/v1", tags=["reasoning"], responses=PROBLEMS, route_class=StrictRoute
)

Agent = Annotated[str, Path(pattern=AGENT_PATTERN, description="Whose.")]
OfType = Annotated[
    str | None, Query(min_length=1, max_length=256, description="Only actions of this type.")
]


class AdviceIn(Situation):
    """What is asked of the bank."""

    agents: Annotated[list[AgentName], Field(min_length=1, max_length=1_000)]
    action_type: KeyName | None = None
    as_of: Moment | None = None
    level: Annotated[float, Field(gt=0, lt=1)] = 0.8
    withhold: Annotated[float, Field(ge=0, le=1)] = 0.0
    baseline: Real | None = None
    trajectory: Annotated[str, Field(max_length=240)] = ""
    k: Annotated[int, Field(ge=1, le=10_000)] | None = None
    functional: Literal["mean", "median"] | None = None
    exact: bool = False
    memories: Annotated[
        int, Field(ge=0, le=MAX_MEMORIES, description="How many of the memories used to name.")
    ] = 10
    max_chars: Annotated[int, Field(ge=1, le=10_000, description="Length of `text`.")] = 600


class AdviceOut(BaseModel):
    """What similar past situations say about this one."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    expected: float | None
    low: float | None
    high: float | None
    is_abstaining: bool
    is_withheld: bool
    warnings: list[str]
    known: int
    text: str = Field(description="The same in words.")
    recalled: list[dict[str, Any]]
    receipt: str = Field(description="Send it with the action that follows.")


class PatternsOut(BaseModel):
    """Patterns, by action type and number."""

    patterns: list[dict[str, Any]]


class CalibrationOut(BaseModel):
    """How far forecasts can be trusted, one record an action type."""

    calibration: list[dict[str, Any]]


class RankIn(Situation):
    """In which situation agents are compared."""

    agents: Annotated[list[AgentName], Field(min_length=1, max_length=1_000)]
    action_type: KeyName | None = None
    as_of: Moment | None = None


class RankOut(BaseModel):
    """Agents, best first; numbers that cannot be said are null."""

    ranking: list[dict[str, Any]]


class UpliftOut(BaseModel):
    """What showing advice was worth; numbers that cannot be said are null."""

    agent: str
    value: float | None = Field(description="By how much advice lowered the loss.")
    standard_error: float | None
    relative: float | None
    low: float | None = Field(description="Lower end of the 95 % interval.")
    high: float | None
    shown: int
    withheld: int
    units: int
    freedom: float | None = Field(description="Degrees of freedom of the standard error.")


class WeightsOut(BaseModel):
    """How much each agent's vote should weigh."""

    weights: dict[str, float]


@router.post("/advice", response_model=AdviceOut)
async def advise(me: Me, house: Here, body: AdviceIn) -> Response:
    """What the most similar past situations of some agents say about this one."""
    advice = await me.memory.bank.advise(
        body.agents,
        await vector_of(house, body),
        action_type=body.action_type,
        as_of=body.as_of,
        level=body.level,
        withhold=body.withhold,
        baseline=body.baseline,
        trajectory=body.trajectory,
        k=body.k,
        functional=body.functional,
        exact=body.exact,
    )
    recalled = advice.memories(body.memories) if body.memories else []
    return reply(
        {
            **advice.to_dict(),
            "text": advice.as_text(body.max_chars),
            "recalled": [{**spell_fields(one.ref), **_rest(one)} for one in recalled],
            "receipt": house.receipts.sign(advice.to_doc(), me),
        }
    )


@router.get("/patterns/{agent}", response_model=PatternsOut)
async def patterns(me: Me, agent: Agent, as_of: AsOfQuery = None) -> Response:
    """An agent's patterns."""
    found = await me.memory.bank.patterns(agent, as_of=as_of)
    return reply({"patterns": [_spell_pattern(one) for one in found]})


@router.post("/patterns/{agent}/distill", response_model=PatternsOut)
async def distill(
    me: Me,
    agent: Agent,
    look: Annotated[bool, Query(description="Test for promotion: takes a declared look.")] = False,  # noqa: FBT002
    as_of: AsOfQuery = None,
    request_id: RequestId = None,
) -> Response:
    """Cluster an agent's situations, and store what each cluster led to.

    Repeated under the same id it goes on where it was killed, and takes one look.
    """
    found = await me.memory.bank.distill(agent, as_of=as_of, look=look, request_id=request_id)
    return reply({"patterns": [_spell_pattern(one) for one in found]})


@router.get("/calibration/{agent}", response_model=CalibrationOut)
async def calibration(
    me: Me,
    agent: Agent,
    level: Annotated[Number, Query(gt=0, lt=1)] = 0.8,
    as_of: AsOfQuery = None,
    *,
    action_type: OfType = None,
    by_regime: Annotated[bool, Query(description="One record for each of its patterns.")] = False,
) -> Response:
    """How far an agent's forecasts can be trusted."""
    found = await me.memory.bank.calibration(
        agent, level=level, action_type=action_type, by_regime=by_regime, as_of=as_of
    )
    return reply({"calibration": [spell_fields(one) for one in found]})


@router.get("/uplift/{agent}", response_model=UpliftOut)
async def uplift(
    me: Me, agent: Agent, action_type: OfType = None, as_of: AsOfQuery = None
) -> Response:
    """What showing advice was worth to an agent; needs advice withheld at random."""
    found = await me.memory.bank.uplift(agent, action_type=action_type, as_of=as_of)
    return reply({**spell_fields(found), "low": found.low, "high": found.high})


@router.post("/rank", response_model=RankOut)
async def rank(me: Me, house: Here, body: RankIn) -> Response:
    """Agents by how good their forecasts were in situations like this one, best first."""
    found = await me.memory.bank.rank(
        body.agents,
        await vector_of(house, body),
        action_type=body.action_type,
        as_of=body.as_of,
    )
    return reply({"ranking": [spell_fields(one) for one in found]})


@router.get("/weights", response_model=WeightsOut)
async def weights(
    me: Me,
    agent: Annotated[
        list[Annotated[str, Field(pattern=AGENT_PATTERN)]], Query(min_length=1, max_length=1_000)
    ],
    as_of: AsOfQuery = None,
) -> Response:
    """How much agents' votes should weigh, from their skill and whom they err with."""
    return reply({"weights": await me.memory.bank.vote_weights(agent, as_of=as_of)})


def _rest(one: Any) -> dict[str, Any]:
    return spell_fields(one, without=("ref",))


def _spell_pattern(found: Pattern) -> dict[str, Any]:
    hidden = ("sources_packed", "resolve", "as_of_us", "promoted_at_us", "retired_at_us", "grid")
    plain = spell_fields(found, without=hidden)
    promoted, retired = found.promoted_at_us, found.retired_at_us
    return {
        **plain,
        "as_of": to_datetime(found.as_of_us),
        "promoted_at": None if promoted is None else to_datetime(promoted),
        "retired_at": None if retired is None else to_datetime(retired),
        "text": found.describe(),
    }
