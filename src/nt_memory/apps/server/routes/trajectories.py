"""The ReasoningBank: definitions, trajectories, outcomes and verdicts."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from nt_memory import Trajectory
from nt_memory.apps.server.bodies import (
    AGENT_PATTERN,
    PROBLEMS,
    AgentName,
    AsOfQuery,
    Body,
    KeyName,
    Real,
    RequestId,
    Revision,
    StrictRoute,
    Time,
    Value,
    Vector,
    Whole,
    reply,
    spell_fields,
    to_value,
)
from nt_memory.apps.server.callers import Caller, Me
from nt_memory.apps.server.house import Here, House
from nt_memory.apps.server.problems import refused
from nt_memory.clock import to_datetime
from nt_memory.codec.plain import to_plain

if TYPE_CHECKING:
    from nt_memory.reasoningbank.definition import Definition

MAX_STEPS = 10_000
MAX_MEMORIES = 300
_MAX_RECEIPT_CHARS = 1 << 16

router: APIRouter = APIRouter(
    prefix="/v1", tags=["reasoning"], responses=PROBLEMS, route_class=StrictRoute
)

Agent = Annotated[str, Path(pattern=AGENT_PATTERN, description="Whose.")]
TrajectoryId = Annotated[str, Path(min_length=1, max_length=240)]
ActionType = Annotated[str, Path(min_length=1, max_length=256)]


class DefinitionIn(Body):
    """What an action type predicts."""

    target: Annotated[str, Field(max_length=1_000)]
    unit: Annotated[str, Field(max_length=100)]
    horizon_sessions: Annotated[int | None, Field(ge=1, le=100_000)] = None
    horizon_seconds: Annotated[float | None, Field(gt=0, le=3.2e9)] = None
    loss: Literal["absolute", "squared"] = "absolute"
    tolerance: Literal["scale", "relative", "absolute"] | None = None
    correct: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    very_wrong: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    baseline: Annotated[str, Field(max_length=100)] | None = None


class DefinitionOut(BaseModel):
    """A definition in force; `horizon` in sessions, or `horizon_seconds`."""

    action_type: str
    target: str
    unit: str
    horizon_sessions: int | None
    horizon_seconds: float | None
    loss: str
    tolerance: dict[str, Any]
    baseline: str
    revision: int


class ObservationIn(Body):
    """What was seen."""

    kind: Literal["observation"]
    data: Value = None
    embedding: Vector | None = None
    at: Time | None = None


class ActionIn(Body):
    """What was done, and what was expected of it."""

    kind: Literal["action"]
    action_type: KeyName
    parameters: Value = None
    predicted_outcome: Real | None = None
    predicted_interval: Annotated[list[Real], Field(min_length=2, max_length=2)] | None = None
    level: Annotated[float, Field(gt=0, lt=1)] = 0.8
    predicted_quantiles: (
        Annotated[
            list[Annotated[list[Real], Field(min_length=2, max_length=2)]], Field(max_length=100)
        ]
        | None
    ) = Field(default=None, description="Pairs of probability and value.")
    probability: Annotated[float | None, Field(ge=0, le=1)] = None
    baseline: Real | None = None
    receipt: Annotated[str, Field(max_length=_MAX_RECEIPT_CHARS)] | None = None
    at: Time | None = None


class StepOutcomeIn(Body):
    """How an action turned out."""

    value: Real
    action: Annotated[int, Field(ge=0, le=MAX_STEPS)] | None = None
    at: Time | None = None


class TrajectoryIn(Body):
    """A whole trajectory, or a trajectory so far.

    Sent again with more steps, the new ones are added; with the same ones, nothing happens; with
    others in their place it is refused.
    """

    agent: AgentName
    steps: Annotated[
        list[Annotated[ObservationIn | ActionIn, Field(discriminator="kind")]],
        Field(
            max_length=MAX_STEPS,
            description="In order: an action is remembered under the last situation seen before it.",
        ),
    ] = []
    outcomes: Annotated[list[StepOutcomeIn], Field(max_length=MAX_STEPS)] = []
    complete: bool = False


class TrackedOut(BaseModel):
    """A tracked trajectory."""

    id: str
    revision: int


class OutcomeIn(Body):
    """How an action of a tracked trajectory turned out."""

    trajectory_id: Annotated[str, Field(min_length=1, max_length=240)]
    value: Real
    action: Annotated[int, Field(ge=0, le=MAX_STEPS)] | None = None
    known_at: Time | None = None
    revision_of: Revision | None = None


class VerdictOut(BaseModel):
    """How one action turned out; see the glossary."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    trajectory_id: str
    action: int
    agent: str
    action_type: str
    kind: str
    predicted: float | None
    actual: float | None
    error: float | None
    skill: float | None
    revision: int
    feedback: str


class VerdictsOut(BaseModel):
    """Verdicts on a trajectory's actions, in order."""

    verdicts: list[VerdictOut]


class TrajectoryOut(BaseModel):
    """A trajectory as it was known."""

    id: str
    agent: str
    observations: list[dict[str, Any]]
    actions: list[dict[str, Any]]
    outcomes: list[dict[str, Any]]
    is_complete: bool
    score: float | None


class TrajectoryIdsOut(BaseModel):
    """Ids of trajectories."""

    ids: list[str]
    trajectories: list[TrajectoryOut] | None = Field(default=None, description="Only with `whole`.")
    next: str | None = Field(description="Pass it as `after` for the next page; null: no more.")


@router.put("/definitions/{action_type:path}", response_model=DefinitionOut)
async def define(me: Me, action_type: ActionType, body: DefinitionIn) -> Response:
    """Say what an action type predicts; as it is already, nothing changes."""
    if (body.horizon_sessions is None) is (body.horizon_seconds is None):
        raise refused(400, "give horizon_sessions or horizon_seconds, and not both")
    horizon: int | timedelta
    if body.horizon_seconds is None:
        horizon = body.horizon_sessions or 1
    else:
        horizon = timedelta(seconds=body.horizon_seconds)
    tolerance: str | tuple[str, float, float] | None = body.tolerance
    if body.correct is not None or body.very_wrong is not None:
        correct = 1.0 if body.correct is None else body.correct
        very_wrong = 2.0 * correct if body.very_wrong is None else body.very_wrong
        tolerance = (body.tolerance or "scale", correct, very_wrong)
    found = await me.memory.bank.define(
        action_type,
        target=body.target,
        unit=body.unit,
        horizon=horizon,
        loss=body.loss,
        tolerance=tolerance,
        baseline=body.baseline,
    )
    return reply(_spell_definition(found))


@router.get("/definitions/{action_type:path}", response_model=DefinitionOut)
async def definition(me: Me, action_type: ActionType, as_of: AsOfQuery = None) -> Response:
    """What an action type predicts; 404 if it is not defined."""
    found = await me.memory.bank.definition(action_type, as_of=as_of)
    if found is None:
        raise refused(404, "this action type is not defined")
    return reply(_spell_definition(found))


@router.put("/trajectories/{trajectory_id:path}", response_model=TrackedOut)
async def track(
    me: Me,
    house: Here,
    trajectory_id: TrajectoryId,
    body: TrajectoryIn,
    request_id: RequestId = None,
) -> Response:
    """Store a trajectory, or what was added to it."""
    trajectory = _build(trajectory_id, body, house, me)
    revision = await me.memory.track_trajectory(trajectory, request_id=request_id)
    return reply({"id": trajectory.id, "revision": revision})


@router.get("/trajectories/{trajectory_id:path}", response_model=TrajectoryOut)
async def trajectory(me: Me, trajectory_id: TrajectoryId, as_of: AsOfQuery = None) -> Response:
    """A trajectory as it was known; 404 if there is none."""
    found = await me.memory.bank.trajectory(trajectory_id, as_of=as_of)
    if found is None:
        raise refused(404, "there is no such trajectory")
    return reply(_spell_trajectory(found))


@router.get("/trajectories", response_model=TrajectoryIdsOut)
async def trajectories(
    me: Me,
    agent: Annotated[str, Query(pattern=AGENT_PATTERN)],
    after: Annotated[str, Query(max_length=240)] = "",
    limit: Annotated[Whole, Query(ge=1, le=1_000)] = 100,
    as_of: AsOfQuery = None,
    *,
    whole: Annotated[bool, Query(description="All of each, beside its id.")] = False,
) -> Response:
    """Ids of an agent's trajectories, by id, a page at a time."""
    found = await me.memory.bank.trajectory_ids(agent, after=after, limit=limit + 1, as_of=as_of)
    page = found[:limit]
    next_ = page[-1] if len(found) > limit else None
    if not whole:
        return reply({"ids": page, "next": next_})
    each = [await me.memory.bank.trajectory(one, as_of=as_of) for one in page]
    spelled = [_spell_trajectory(one) for one in each if one is not None]
    return reply({"ids": page, "trajectories": spelled, "next": next_})


@router.post("/outcomes", response_model=VerdictOut)
async def record_outcome(me: Me, body: OutcomeIn, request_id: RequestId = None) -> Response:
    """Record how an action turned out; the same again changes nothing."""
    verdict = await me.memory.record_outcome(
        body.trajectory_id,
        body.value,
        action=body.action,
        known_at=body.known_at,
        revision_of=body.revision_of,
        request_id=request_id,
    )
    return reply(spell_fields(verdict))


@router.get("/verdicts/{trajectory_id:path}", response_model=VerdictsOut)
async def verdicts(me: Me, trajectory_id: TrajectoryId) -> Response:
    """Verdicts on a trajectory's actions, from what is known now."""
    found = await me.memory.bank.judge(trajectory_id)
    return reply({"verdicts": [spell_fields(one) for one in found]})


def _build(trajectory_id: str, body: TrajectoryIn, house: House, caller: Caller) -> Trajectory:
    made = Trajectory(body.agent, id=trajectory_id)
    for step in body.steps:
        if isinstance(step, ObservationIn):
            made.add_observation(to_value(step.data), step.embedding, at=step.at)
        else:
            _add_action(made, step, house, caller)
    for outcome in body.outcomes:
        made.add_outcome(outcome.value, action=outcome.action, at=outcome.at)
    return made.complete() if body.complete else made


def _add_action(made: Trajectory, step: ActionIn, house: House, caller: Caller) -> None:
    interval, quantiles = step.predicted_interval, step.predicted_quantiles
    made.add_action(
        step.action_type,
        to_value(step.parameters),
        step.predicted_outcome,
        predicted_interval=None if interval is None else (interval[0], interval[1]),
        level=step.level,
        predicted_quantiles=None if quantiles is None else {pair[0]: pair[1] for pair in quantiles},
        probability=step.probability,
        baseline=step.baseline,
        advice=None if step.receipt is None else house.receipts.open(step.receipt, caller),
        at=step.at,
    )


def _at(us: int | None) -> datetime | None:
    return None if us is None else to_datetime(us)


def _spell_trajectory(found: Trajectory) -> dict[str, Any]:
    actions: list[dict[str, Any]] = []
    for one in found.actions:
        doc = one.doc
        actions.append(
            {
                "action_type": doc.action_type,
                "parameters": to_plain(one.parameters),
                "predicted_outcome": doc.predicted,
                "predicted_interval": None if doc.low is None else [doc.low, doc.high],
                "level": doc.level,
                "predicted_quantiles": [list(pair) for pair in doc.quantiles],
                "probability": doc.probability,
                "baseline": doc.baseline,
                "acted_on_advice": doc.receipt is not None,
                "at": _at(doc.at),
            }
        )
    return {
        "id": found.id,
        "agent": found.agent_id,
        "observations": [
            {"data": to_plain(one.data), "embedding": one.embedding, "at": _at(one.at)}
            for one in found.observations
        ],
        "actions": actions,
        "outcomes": [
            {"action": one.action, "value": one.value, "at": _at(one.at)} for one in found.outcomes
        ],
        "is_complete": found.is_complete,
        "score": found.score(),
    }


def _spell_definition(found: Definition) -> dict[str, Any]:
    horizon = found.horizon
    return {
        "action_type": found.action_type,
        "target": found.target,
        "unit": found.unit,
        "horizon_sessions": horizon if isinstance(horizon, int) else None,
        "horizon_seconds": None if isinstance(horizon, int) else horizon.total_seconds(),
        "loss": found.loss,
        "tolerance": dataclasses.asdict(found.tolerance),
        "baseline": found.baseline,
        "revision": found.revision,
    }
