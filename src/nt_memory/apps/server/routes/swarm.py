"""The swarm: its agents, what they may do and store, its time, and the store's counters."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from nt_memory import Policy
from nt_memory.apps.server.bodies import (
    AGENT_PATTERN,
    PROBLEMS,
    Body,
    Number,
    Real,
    RequestId,
    Revision,
    RevisionOut,
    StrictRoute,
    Time,
    reply,
)
from nt_memory.apps.server.callers import Me
from nt_memory.apps.server.house import Here, while_connected
from nt_memory.errors import TimelineError

if TYPE_CHECKING:
    from nt_memory import MemorySystem

router: APIRouter = APIRouter(
    prefix="/v1", tags=["swarm"], responses=PROBLEMS, route_class=StrictRoute
)

ANYBODY = "*"
MAX_WAIT_S = 60.0
Agent = Annotated[str, Path(pattern=AGENT_PATTERN, description="Whose.")]
AgentOrAll = Annotated[
    str,
    Path(
        pattern=rf"({AGENT_PATTERN})|(^\*$)",
        description="Whose; `*`: of all that have none of their own.",
    ),
]
Patterns = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=256)
]
Weight = Real | int | Annotated[str, Field(max_length=100)]


class PolicyBody(Body):
    """What an agent may do: patterns by right."""

    read: Patterns = []
    write: Patterns = []
    publish: Patterns = []
    subscribe: Patterns = []
    lock: Patterns = []
    propose: Patterns = []
    vote: Patterns = []
    operate: Patterns = []


class QuotaBody(Body):
    """How much an agent may store; null: no limit."""

    max_keys: Revision | None = None
    max_bytes: Revision | None = None
    max_vectors: Revision | None = None


class VoterIn(Body):
    """How much an agent's vote weighs."""

    weight: Weight = 1


class AgentsOut(BaseModel):
    """Names of agents."""

    agents: list[str]


class UsageOut(BaseModel):
    """What is stored under an agent's name."""

    keys: int
    bytes: int
    vectors: int


class QuotaOut(BaseModel):
    """How much may be; null: no limit."""

    max_keys: int | None
    max_bytes: int | None
    max_vectors: int | None


class PolicyOut(BaseModel):
    """What may be done."""

    read: list[str]
    write: list[str]
    publish: list[str]
    subscribe: list[str]
    lock: list[str]
    propose: list[str]
    vote: list[str]
    operate: list[str]


class RetentionOut(BaseModel):
    """How long superseded versions are kept; null: no limit."""

    max_age_s: float | None
    max_versions: int | None


class AgentOut(BaseModel):
    """One agent."""

    agent: str
    usage: UsageOut
    quota: QuotaOut
    retention: RetentionOut
    policy: PolicyOut | None = Field(description="Null: it may do anything.")


class StatsOut(BaseModel):
    """The store's counters, and the server's."""

    stats: dict[str, Any]
    server: dict[str, int]


class TimelineOut(BaseModel):
    """The agents' now."""

    is_backtest: bool
    now: datetime | None = Field(description="Null: a backtest that has not started.")
    revision: int


class AdvanceIn(Body):
    """How far to move a backtest's now."""

    to: Time


@router.get("/agents", response_model=AgentsOut)
async def agents(me: Me) -> Response:
    """All agents that have stored something, by name."""
    return reply({"agents": await me.memory.agents()})


@router.get("/agents/{agent}", response_model=AgentOut)
async def agent(me: Me, agent: Agent) -> Response:
    """What is stored under an agent's name, and what it may store and do."""
    policy, kept = me.memory.policy(agent), me.memory.retention(agent)
    return reply(
        {
            "agent": agent,
            "usage": dataclasses.asdict(me.memory.usage(agent)),
            "quota": dataclasses.asdict(me.memory.quota(agent)),
            "retention": {"max_age_s": _seconds(kept.max_age), "max_versions": kept.max_versions},
            "policy": None if policy is None else dataclasses.asdict(policy),
        }
    )


@router.put("/agents/{agent}/policy", response_model=RevisionOut)
async def set_policy(
    me: Me, house: Here, agent: AgentOrAll, body: PolicyBody, request_id: RequestId = None
) -> Response:
    """Say what an agent may do: what is named, and nothing else."""
    policy = Policy(**{right: tuple(patterns) for right, patterns in body.model_dump().items()})
    async with house.door.policies:
        revision = await me.memory.set_policy(_one_or_all(agent), policy, request_id=request_id)
    return reply({"revision": revision})


@router.delete("/agents/{agent}/policy", response_model=RevisionOut)
async def drop_policy(
    me: Me, house: Here, agent: AgentOrAll, request_id: RequestId = None
) -> Response:
    """Take a policy back. An agent with a token has that of its own name again from then on."""
    async with house.door.policies:
        revision = await me.memory.set_policy(_one_or_all(agent), None, request_id=request_id)
    return reply({"revision": revision})


@router.put("/agents/{agent}/quota", response_model=RevisionOut)
async def set_quota(
    me: Me, agent: AgentOrAll, body: QuotaBody, request_id: RequestId = None
) -> Response:
    """Limit how much may be stored under an agent's name."""
    revision = await me.memory.set_quota(
        _one_or_all(agent),
        max_keys=body.max_keys,
        max_bytes=body.max_bytes,
        max_vectors=body.max_vectors,
        request_id=request_id,
    )
    return reply({"revision": revision})


@router.put("/agents/{agent}/vote", response_model=RevisionOut)
async def register(me: Me, agent: Agent, body: VoterIn, request_id: RequestId = None) -> Response:
    """Make an agent a voter of later proposals, or change what its vote weighs in them."""
    revision = await me.memory.consensus.register_agent(agent, body.weight, request_id=request_id)
    return reply({"revision": revision})


@router.get("/stats", response_model=StatsOut)
async def stats(me: Me, house: Here) -> Response:
    """The counters of the store and of the server."""
    server = {"streams": sum(house.streams.values()), "locks": len(house.locks)}
    return reply({"stats": dataclasses.asdict(me.memory.stats()), "server": server})


@router.get("/timeline", response_model=TimelineOut)
async def timeline(
    request: Request,
    me: Me,
    house: Here,
    revision: Annotated[Revision, Query(description="Wait until this one is visible.")] = 0,
    wait: Annotated[Number, Query(ge=0, le=MAX_WAIT_S, description="Seconds at most.")] = 0.0,
) -> Response:
    """The agents' now, and the newest revision; once `revision` is visible, or after `wait` seconds."""
    if me.memory.revision < revision:
        with contextlib.suppress(TimeoutError):
            await while_connected(request, house, _until(me.memory, revision, wait))
    return reply(_spell_timeline(me.memory))


@router.post("/timeline", response_model=TimelineOut)
async def advance(me: Me, body: AdvanceIn, request_id: RequestId = None) -> Response:
    """Move a backtest's now forward."""
    await me.memory.timeline.advance(body.to, request_id=request_id)
    return reply(_spell_timeline(me.memory))


async def _until(memory: MemorySystem, revision: int, wait: float) -> None:
    async with asyncio.timeout(wait):
        await memory.wait_for(revision)


def _spell_timeline(memory: MemorySystem) -> dict[str, Any]:
    try:
        now = memory.timeline.now
    except TimelineError:
        now = None
    return {
        "is_backtest": memory.timeline.is_backtest,
        "now": now,
        "revision": memory.revision,
    }


def _one_or_all(agent: str) -> str | None:
    return None if agent == ANYBODY else agent


def _seconds(age: timedelta | None) -> float | None:
    return None if age is None else age.total_seconds()
