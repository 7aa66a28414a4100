"""Whole views, each in one request, for pages and reports: swarm, decisions, map, moments."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from nt_memory.apps.server.bodies import (
    AGENT_PATTERN,
    PROBLEMS,
    AsOfQuery,
    Revision,
    StrictRoute,
    Time,
    Value,
    Whole,
    bytes_of,
    reply,
)
from nt_memory.apps.server.callers import Caller, Me
from nt_memory.apps.server.permitted import Sight
from nt_memory.apps.server.problems import refused
from nt_memory.clock import to_datetime, turn
from nt_memory.codec.plain import to_plain
from nt_memory.errors import TrimmedError

if TYPE_CHECKING:
    from nt_memory import MemorySystem, Trajectory
    from nt_memory.reasoningbank.recent import RecentAction
    from nt_memory.reasoningbank.verdict import Verdict
    from nt_memory.timeline import AsOfLike

MAX_SHOWN_BYTES = 4_000
MAX_SAMPLE = 10_000
_READS_A_TURN = 50

router: APIRouter = APIRouter(
    prefix="/v1", tags=["overview"], responses=PROBLEMS, route_class=StrictRoute
)

Agent = Annotated[str, Path(pattern=AGENT_PATTERN, description="Whose.")]
Key = Annotated[str, Path(min_length=1, max_length=256, description="The key; may have `/`.")]
ActionTypeQuery = Annotated[str | None, Query(max_length=256)]
SinceQuery = Annotated[Time | None, Query(description="Only those taken then or later.")]
UntilQuery = Annotated[Time | None, Query(description="Only those taken before.")]
VerdictQuery = Annotated[
    Literal["correct", "incorrect", "very_wrong", "insufficient", "pending"] | None,
    Query(description="Only those judged so; pending: whose outcome is not known."),
]
TagQuery = Annotated[
    str | None, Query(max_length=256, description="Only of trajectories with this tag.")
]


class StandingOut(BaseModel):
    """One agent at a moment. Null: not to be seen by this caller, or not known of a past moment."""

    agent: str
    keys: int | None
    bytes: int | None
    vectors: int | None
    value: Value = Field(description="Of the key asked for; null if large, see `is_left_out`.")
    is_left_out: bool
    revision: int | None = Field(description="Of that key; null: it has none.")
    known_at: datetime | None
    actor: str | None


class SwarmOut(BaseModel):
    """Agents by name."""

    agents: list[StandingOut]
    next: str | None = Field(description="Pass it as `after` for the next page; null: no more.")
    revision: int


class DecisionOut(BaseModel):
    """A forecast and what came of it, as known at a moment."""

    trajectory_id: str
    action: int
    action_type: str
    at: datetime
    predicted: float | None
    low: float | None
    high: float | None
    level: float | None
    probability: float | None
    baseline: float | None
    actual: float | None
    known_at: datetime | None = Field(description="When the outcome came.")
    kind: str | None = Field(description="The verdict; only of now.")
    skill: float | None
    feedback: str | None


class DecisionsOut(BaseModel):
    """An agent's decisions, newest first."""

    decisions: list[DecisionOut]


class MapOut(BaseModel):
    """A map; see `docs/reference/maps.md`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    agent: str
    action_type: str
    method: str
    total: int
    keys: list[str]
    points: list[list[float]]


class MomentOut(BaseModel):
    """When a revision was recorded, and the first and the last that can be asked for."""

    revision: int
    recorded_at: datetime
    kind: str
    oldest: int
    newest: int


@router.get("/swarm", response_model=SwarmOut)
async def swarm(
    me: Me,
    key: Annotated[str, Query(min_length=1, max_length=256)] = "position",
    after: Annotated[str, Query(max_length=64)] = "",
    limit: Annotated[Whole, Query(ge=1, le=500)] = 200,
    as_of: AsOfQuery = None,
) -> Response:
    """All agents: how much each has stored, and one key of each, now or as of a moment."""
    sight, revision = Sight(me), me.memory.revision
    names = [one for one in await me.memory.agents() if one > after]
    found: list[dict[str, Any]] = []
    for count, name in enumerate(names[:limit], start=1):
        if count % _READS_A_TURN == 0:
            await turn()
        found.append(await _standing(me, sight, name, key, as_of))
    rest = names[limit - 1] if len(names) > limit else None
    return reply({"agents": found, "next": rest, "revision": revision})


@router.get("/decisions/{agent}", response_model=DecisionsOut)
async def decisions(  # noqa: PLR0913 - each is a part of the query
    me: Me,
    agent: Agent,
    action_type: ActionTypeQuery = None,
    skip: Annotated[Whole, Query(ge=0, le=1_000_000)] = 0,
    limit: Annotated[Whole, Query(ge=1, le=500)] = 100,
    as_of: AsOfQuery = None,
    *,
    since: SinceQuery = None,
    until: UntilQuery = None,
    verdict: VerdictQuery = None,
    tag: TagQuery = None,
) -> Response:
    """What an agent forecast and what came of it, newest first, now or as was known at a moment."""
    recent = await me.memory.bank.recent(
        agent,
        limit,
        skip=skip,
        action_type=action_type,
        since=since,
        until=until,
        verdict=verdict,
        tag=tag,
        as_of=as_of,
    )
    known = _Known(me.memory, as_of)
    found = [await known.spell(one) for one in recent]
    return reply({"decisions": found})


@router.get("/map/{agent}", response_model=MapOut)
async def memory_map(
    me: Me,
    agent: Agent,
    action_type: ActionTypeQuery = None,
    sample: Annotated[Whole, Query(ge=1, le=MAX_SAMPLE)] = 2_000,
    seed: Annotated[Whole, Query(ge=0, le=(1 << 63) - 1)] = 0,
    as_of: AsOfQuery = None,
) -> Response:
    """What an agent remembers in two dimensions, with its patterns."""
    found = await me.memory.map(
        agent, action_type=action_type, as_of=as_of, sample=sample, seed=seed
    )
    return reply(found.to_dict())


@router.get("/moments/{revision}", response_model=MomentOut)
async def moment(me: Me, revision: Revision) -> Response:
    """When a revision was recorded; of 0, or one that was dropped, the oldest there is; 404 later.

    It reads the journal, so an agent needs the right to read everything.
    """
    newest = me.memory.revision
    if revision > newest or not newest:
        raise refused(404, "there is no such revision yet")
    oldest = 1
    try:
        await anext(aiter(me.memory.tail(0)))
    except TrimmedError as error:
        oldest = error.oldest
    if oldest > newest:
        raise refused(404, "there is no revision left to look back to")
    found = await anext(aiter(me.memory.tail(max(revision, oldest) - 1)))
    return reply(
        {
            "revision": found.revision,
            "recorded_at": found.recorded_at,
            "kind": found.kind,
            "oldest": oldest,
            "newest": newest,
        }
    )


async def _standing(
    me: Caller, sight: Sight, agent: str, key: str, as_of: AsOfLike | None
) -> dict[str, Any]:
    usage = None
    if as_of is None and sight.reads_all(f"{agent}/**"):
        usage = me.memory.usage(agent)
    record = None
    if sight.reads(f"{agent}/{key}"):
        record = await me.memory.get_record(agent, key, as_of=as_of)
    is_large = record is not None and bytes_of(record.value) > MAX_SHOWN_BYTES
    return {
        "agent": agent,
        "keys": usage and usage.keys,
        "bytes": usage and usage.bytes,
        "vectors": usage and usage.vectors,
        "value": None if record is None or is_large else to_plain(record.value),
        "is_left_out": is_large,
        "revision": record and record.revision,
        "known_at": record and record.known_at,
        "actor": record and record.actor,
    }


class _Known:
    """Reads decisions as of one moment, each trajectory once."""

    def __init__(self, memory: MemorySystem, as_of: AsOfLike | None) -> None:
        self._memory = memory
        self._as_of = as_of
        self._read: dict[str, tuple[Trajectory | None, list[Verdict]]] = {}

    async def spell(self, one: RecentAction) -> dict[str, Any]:
        """A decision as JSON."""
        name, number = one.ref.trajectory_id, one.ref.action
        if name not in self._read:
            self._read[name] = await self._look_up(name)
        trajectory, verdicts = self._read[name]
        verdict = verdicts[number] if number < len(verdicts) else None
        doc = trajectory.actions[number].doc if trajectory is not None else None
        outcomes = [] if trajectory is None else trajectory.outcomes
        came = next((one for one in reversed(outcomes) if one.action == number), None)
        return {
            "trajectory_id": name,
            "action": number,
            "action_type": one.action_type,
            "at": one.at,
            "predicted": doc and doc.predicted,
            "low": doc and doc.low,
            "high": doc and doc.high,
            "level": doc and doc.level,
            "probability": doc and doc.probability,
            "baseline": doc and doc.baseline,
            "actual": came and came.value,
            "known_at": to_datetime(came.at) if came is not None and came.at is not None else None,
            "kind": verdict and verdict.kind,
            "skill": verdict and verdict.skill,
            "feedback": verdict and verdict.feedback,
        }

    async def _look_up(self, name: str) -> tuple[Trajectory | None, list[Verdict]]:
        await turn()
        found = await self._memory.bank.trajectory(name, as_of=self._as_of)
        verdicts: list[Verdict] = []
        if self._as_of is None and found is not None:
            verdicts = await self._memory.bank.judge(name)
        return found, verdicts
