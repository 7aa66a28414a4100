"""Locks, proposals and votes."""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from nt_memory import Approved, Pending, Proposal, Rejected, Vote
from nt_memory.apps.server.bodies import (
    PROBLEMS,
    AgentName,
    Body,
    Label,
    Number,
    Real,
    RequestId,
    Revision,
    StrictRoute,
    Time,
    Value,
    Whole,
    reply,
    spell_fields,
    to_value,
)
from nt_memory.apps.server.callers import Caller, Me
from nt_memory.apps.server.house import Here, while_connected
from nt_memory.apps.server.problems import refused
from nt_memory.codec.plain import to_plain
from nt_memory.errors import InvalidInputError, ProposalTimeoutError

if TYPE_CHECKING:
    from nt_memory.coordination.proposals import Decision, ProposalRecord
    from nt_memory.coordination.tokens import LockToken

MAX_WAIT_S = 60.0
MAX_LEASE_S = 3_600.0

router: APIRouter = APIRouter(
    prefix="/v1", tags=["coordination"], responses=PROBLEMS, route_class=StrictRoute
)

Weight = Real | int | Annotated[str, Field(max_length=100)]
Resource = Annotated[str, Path(min_length=1, max_length=128)]
ProposalId = Annotated[str, Path(min_length=1, max_length=128)]


class AcquireIn(Body):
    """Which lock to take."""

    resource: Label
    timeout: Annotated[float, Field(ge=0, le=MAX_WAIT_S)] = 1.0
    lease: Annotated[float, Field(gt=0, le=MAX_LEASE_S)] = 30.0
    holder: Annotated[str, Field(max_length=128)] = Field(
        default="",
        description="Who asks, so that asking twice is refused; by default nobody twice.",
    )


class GrantIn(Body):
    """Which grant."""

    resource: Label
    fence: Revision


class ForceIn(Body):
    """Whose lock to take away."""

    resource: Label
    fence: Revision | None = None
    reason: Annotated[str, Field(max_length=256)] = ""


class GrantOut(BaseModel):
    """A lock that was granted. Pass `fence` with the writes that it protects."""

    resource: str
    holder: str
    fence: int
    lease: float
    lease_left: float


class LockOut(BaseModel):
    """A look at a lock; `fence` 0: nobody holds it."""

    resource: str
    holder: str
    fence: int
    lease_left: float
    waiters: list[str]


class LocksOut(BaseModel):
    """Locks that somebody holds or waits for, by name."""

    locks: list[LockOut]


class ReleasedOut(BaseModel):
    """Whether a grant was ended."""

    released: bool


class ProposalIn(Body):
    """Something to decide."""

    data: Value
    proposer: AgentName | None = None
    quorum: Weight = "2/3"
    deadline: Time | None = None
    weights: dict[AgentName, Weight] | None = None
    id: Annotated[str, Field(max_length=128)] = ""


class ProposalIdOut(BaseModel):
    """The id of a proposal."""

    id: str


class VoteIn(Body):
    """One vote."""

    proposal_id: Label
    approve: bool
    voter: AgentName | None = None
    weight: Weight | None = None


class ResultOut(BaseModel):
    """Where a proposal stands."""

    status: Literal["approved", "rejected", "pending"]
    approval_rate: float | None = None
    votes_needed: int | None = None


class VoteOut(BaseModel):
    """A vote as it was counted."""

    voter: str
    approve: bool
    weight: str
    at: datetime | None
    revision: int


class ProposalOut(BaseModel):
    """A proposal with everything that bears on its decision; shares as fractions."""

    id: str
    proposer: str
    data: Value
    quorum: str
    deadline: datetime | None
    electorate: dict[str, str]
    votes: list[VoteOut]
    result: ResultOut
    submitted_at: datetime | None
    decided_at: datetime | None
    revision: int


class ProposalsOut(BaseModel):
    """Proposals, oldest first."""

    proposals: list[ProposalOut]
    next: int | None = Field(description="Pass it as `after` for the next page; null: no more.")


# --- locks ------------------------------------------------------------------------------------


@router.post("/locks/acquire", response_model=GrantOut)
async def acquire(
    request: Request, me: Me, house: Here, body: AcquireIn, request_id: RequestId = None
) -> Response:
    """Take a lock, waiting in line for it.

    Whoever leaves while waiting leaves the line, and gives back a grant that came meanwhile. With an
    `Idempotency-Key` a client that lost the response gets the same grant again.
    """
    # Each request is a holder of its own, unless it says who it is: two workers of one agent wait
    # for each other instead of being told that they hold the lock already.
    holder = body.holder or f"{me.agent or 'http'}/{request.scope['nt_memory.request']}"
    if request_id is not None and not body.holder:
        holder = f"{me.agent or 'http'}/{request_id}"[:128]
    wanted = me.memory.acquire_lock(
        body.resource, body.timeout, lease=body.lease, holder=holder, request_id=request_id
    )
    token = await while_connected(request, house, wanted)
    house.locks.add(token, me)
    return reply(_spell_grant(token))


@router.post("/locks/renew", response_model=GrantOut)
async def renew(me: Me, house: Here, body: GrantIn) -> Response:
    """Extend a lease that still runs, to its full length from now."""
    token = house.locks.get(body.resource, body.fence, me)
    try:
        await me.memory.renew_lock(token)
    finally:
        if token.lost.is_set():
            house.locks.drop(token)
    return reply(_spell_grant(token))


@router.post("/locks/release", response_model=ReleasedOut)
async def release(me: Me, house: Here, body: GrantIn, request_id: RequestId = None) -> Response:
    """Give a lock back; the next in line gets it."""
    token = house.locks.get(body.resource, body.fence, me)
    try:
        await me.memory.release_lock(token, request_id=request_id)
    finally:
        if token.lost.left_s == 0.0:
            house.locks.drop(token)
    return reply({"released": True})


@router.post("/locks/force_release", response_model=ReleasedOut)
async def force_release(me: Me, body: ForceIn, request_id: RequestId = None) -> Response:
    """Take a lock from whoever holds it, for an operator."""
    is_released = await me.memory.force_release(
        body.resource, fence=body.fence, reason=body.reason, request_id=request_id
    )
    return reply({"released": is_released})


@router.get("/locks", response_model=LocksOut)
async def locks(me: Me) -> Response:
    """All locks that somebody holds or waits for."""
    return reply({"locks": [spell_fields(one) for one in me.memory.list_locks()]})


@router.get("/locks/{resource:path}", response_model=LockOut)
async def inspect(me: Me, resource: Resource) -> Response:
    """Who holds a lock, and who waits for it."""
    return reply(spell_fields(me.memory.inspect_lock(resource)))


# --- proposals --------------------------------------------------------------------------------


@router.post("/proposals", response_model=ProposalIdOut, status_code=201)
async def propose(me: Me, body: ProposalIn, request_id: RequestId = None) -> Response:
    """Put a proposal to the vote; the same again under the same id is harmless."""
    proposal = Proposal(
        _oneself(me, body.proposer, "propose"),
        to_value(body.data),
        body.quorum,
        body.deadline,
        body.weights,
        body.id,
    )
    found = await me.memory.consensus.submit_proposal(proposal, request_id=request_id)
    return reply({"id": found}, 201)


@router.post("/votes", response_model=ResultOut)
async def vote(me: Me, body: VoteIn, request_id: RequestId = None) -> Response:
    """Cast one vote; repeating it is harmless."""
    cast = Vote(body.proposal_id, _oneself(me, body.voter, "vote"), body.approve, body.weight)
    return reply(_spell_result(await me.memory.consensus.vote(cast, request_id=request_id)))


@router.get("/proposals", response_model=ProposalsOut)
async def proposals(
    me: Me,
    after: Annotated[Revision, Query()] = 0,
    limit: Annotated[Whole, Query(ge=1, le=1_000)] = 100,
) -> Response:
    """Proposals by the revision that they were put at, a page at a time."""
    found = [one for one in await me.memory.consensus.list_proposals() if one.revision > after]
    page = found[:limit]
    return reply(
        {
            "proposals": [spell_proposal(one) for one in page],
            "next": page[-1].revision if len(found) > limit else None,
        }
    )


@router.get("/proposals/{proposal_id:path}", response_model=ProposalOut)
async def proposal(
    request: Request,
    me: Me,
    house: Here,
    proposal_id: ProposalId,
    wait: Annotated[
        Number, Query(ge=0, le=MAX_WAIT_S, description="Seconds to wait for the decision.")
    ] = 0.0,
) -> Response:
    """A proposal, every vote, and where it stands: after it was decided, or `wait` seconds."""
    consensus = me.memory.consensus
    if wait and await consensus.get_proposal(proposal_id) is not None:
        # Where it is still pending by then, it says so itself.
        with contextlib.suppress(ProposalTimeoutError):
            await while_connected(request, house, consensus.wait(proposal_id, wait))
    found = await consensus.get_proposal(proposal_id)
    if found is None:
        raise refused(404, "there is no such proposal")
    return reply(spell_proposal(found))


def _oneself(me: Caller, named: str | None, right: str) -> str:
    """Who proposes or votes: whoever is named, or the caller.

    That nobody does so for another is the memory's to judge: a policy holds for every caller that is
    an agent.

    Raises:
        InvalidInputError: an operator named nobody.
    """
    if not (named or me.agent):
        raise InvalidInputError(f"say who {right}s: an operator has no name of its own")
    return named or me.agent


def _spell_grant(token: LockToken) -> dict[str, Any]:
    return {
        "resource": token.resource,
        "holder": token.holder,
        "fence": token.fence,
        "lease": token.lease,
        "lease_left": token.lost.left_s,
    }


def _spell_result(result: Decision | Pending) -> dict[str, Any]:
    match result:
        case Approved():
            return {"status": "approved"}
        case Rejected():
            return {"status": "rejected"}
        case Pending():
            return {
                "status": "pending",
                "approval_rate": result.approval_rate,
                "votes_needed": result.votes_needed,
            }


def spell_proposal(found: ProposalRecord) -> dict[str, Any]:
    """A proposal as JSON."""
    return {
        "id": found.id,
        "proposer": found.proposer,
        "data": to_plain(found.data),
        "quorum": str(found.quorum),
        "deadline": found.deadline,
        "electorate": {agent: str(weight) for agent, weight in found.electorate.items()},
        "votes": [spell_fields(one) for one in found.votes],
        "result": _spell_result(found.result),
        "submitted_at": found.submitted_at,
        "decided_at": found.decided_at,
        "revision": found.revision,
    }
