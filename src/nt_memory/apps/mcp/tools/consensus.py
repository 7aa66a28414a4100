"""Tools over proposals and votes."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from mcp_types import ToolAnnotations
from pydantic import Field
from typing_extensions import override

from nt_memory import Approved, Pending, Proposal, Rejected, Vote
from nt_memory.apps.cli.rendering import to_plain
from nt_memory.apps.mcp.paging import cursor_of, number_after, place_of
from nt_memory.apps.mcp.tool import (
    READS,
    SETTLES,
    Answer,
    Cursor,
    JsonObject,
    RequestId,
    Tool,
)
from nt_memory.errors import UnknownProposalError

if TYPE_CHECKING:
    from nt_memory.apps.mcp.desk import Turn
    from nt_memory.coordination.proposals import ProposalRecord

MAX_WAIT_S = 600.0

Status = Literal["approved", "rejected", "pending"]
ProposalId = Annotated[str, Field(description="As propose returned it.")]


class Ballot(Answer):
    """One vote that was cast."""

    voter: str
    approve: bool
    weight: Annotated[str, Field(description="Exact, such as 1 or 2/3.")]


class Standing(Answer):
    """A proposal, and where it stands."""

    proposal_id: str
    proposer: str
    data: Any
    status: Status
    approval_rate: Annotated[float, Field(description="Approving share of all weight.")]
    votes_needed: Annotated[int, Field(description="Fewest approvals that still decide it.")]
    quorum: str
    deadline: str | None
    electorate: dict[str, str]
    votes: list[Ballot]


def to_standing(record: ProposalRecord) -> Standing:
    """A proposal as agents are shown it."""
    total = sum(record.electorate.values())
    approving = sum(vote.weight for vote in record.votes if vote.approve)
    result = record.result
    return Standing(
        proposal_id=record.id,
        proposer=record.proposer,
        data=to_plain(record.data),
        status=status_of(result),
        approval_rate=float(approving / total) if total else 0.0,
        votes_needed=result.votes_needed if isinstance(result, Pending) else 0,
        quorum=str(record.quorum),
        deadline=None if record.deadline is None else record.deadline.isoformat(),
        electorate={voter: str(weight) for voter, weight in record.electorate.items()},
        votes=[
            Ballot(voter=vote.voter, approve=vote.approve, weight=str(vote.weight))
            for vote in record.votes
        ],
    )


def status_of(result: Approved | Rejected | Pending) -> Status:
    """Where a proposal stands, in a word."""
    if isinstance(result, Approved):
        return "approved"
    return "rejected" if isinstance(result, Rejected) else "pending"


async def _standing(turn: Turn, proposal_id: str) -> Standing:
    record = await turn.memory.consensus.get_proposal(proposal_id)
    if record is None:
        raise UnknownProposalError(f"no proposal has the id {proposal_id!r}")
    return to_standing(record)


class Registered(Answer):
    """A voter."""

    agent: str
    weight: str
    revision: int


class RegisterVoter(Tool):
    """Become a voter of later proposals, or change your weight in them."""

    called: ClassVar[str] = "register_voter"
    title: ClassVar[str] = "Register as a voter"
    effect: ClassVar[ToolAnnotations] = SETTLES
    answers: ClassVar[type[Answer]] = Registered

    weight: Annotated[float | str, Field(description="At least 0, such as 1 or 2/3.")] = 1.0
    agent: Annotated[str | None, Field(description="Who; by default you.")] = None

    @override
    async def run(self, turn: Turn) -> Registered:
        agent = turn.whose(self.agent)
        revision = await turn.memory.consensus.register_agent(agent, self.weight)
        return Registered(agent=agent, weight=str(self.weight), revision=revision)


class Propose(Tool):
    """Put something to the vote. It is approved once the quorum approves, rejected once that
    cannot happen any more or the deadline has passed, and decided exactly once."""  # noqa: D205, D209

    called: ClassVar[str] = "propose"
    title: ClassVar[str] = "Propose"
    effect: ClassVar[ToolAnnotations] = SETTLES
    answers: ClassVar[type[Answer]] = Standing

    data: Annotated[Any, Field(description="What is proposed: any JSON value.")]
    quorum: Annotated[
        float | str, Field(description="Share of all weight that approves it, such as 2/3.")
    ] = "2/3"
    deadline_s: Annotated[
        float | None, Field(gt=0, le=31_536_000, description="Seconds from now; default: never.")
    ] = None
    weights: Annotated[
        JsonObject | None,
        Field(description="Who may vote, with weights; by default the registered voters."),
    ] = None
    proposal_id: Annotated[str, Field(description="Made up by default.")] = ""
    request_id: RequestId = None

    @override
    async def run(self, turn: Turn) -> Standing:
        memory = turn.memory
        deadline = None
        if self.deadline_s is not None:
            deadline = memory.timeline.now + timedelta(seconds=self.deadline_s)
        proposal = Proposal(
            turn.whose(None),
            self.data,
            quorum=self.quorum,
            deadline=deadline,
            weights=self.weights,
            id=self.proposal_id,
        )
        proposal_id = await memory.consensus.submit_proposal(proposal, request_id=self.request_id)
        return await _standing(turn, proposal_id)


class CastVote(Tool):
    """Vote on a proposal, once; repeating the vote is harmless, changing it is refused."""

    called: ClassVar[str] = "vote"
    title: ClassVar[str] = "Vote"
    effect: ClassVar[ToolAnnotations] = SETTLES
    answers: ClassVar[type[Answer]] = Standing

    proposal_id: ProposalId
    approve: bool

    @override
    async def run(self, turn: Turn) -> Standing:
        vote = Vote(self.proposal_id, turn.whose(None), self.approve)
        await turn.memory.consensus.vote(vote)
        return await _standing(turn, self.proposal_id)


class Standings(Answer):
    """Proposals, newest first."""

    proposals: list[Standing]
    next_cursor: str | None = None


class ListProposals(Tool):
    """List proposals with their votes, newest first."""

    called: ClassVar[str] = "list_proposals"
    title: ClassVar[str] = "List proposals"
    effect: ClassVar[ToolAnnotations] = READS
    answers: ClassVar[type[Answer]] = Standings

    status: Annotated[Status | None, Field(description="Only those that stand so.")] = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    cursor: Cursor = None

    @override
    async def run(self, turn: Turn) -> Standings:
        place = place_of(self.cursor, turn.memory.revision)
        before = number_after(place, place.revision + 1)
        records = [
            record
            for record in reversed(await turn.memory.consensus.list_proposals())
            if record.revision < before
            and (self.status is None or status_of(record.result) == self.status)
        ]
        page = records[: self.limit]
        following = cursor_of(place, str(page[-1].revision)) if len(records) > self.limit else None
        return Standings(proposals=[to_standing(one) for one in page], next_cursor=following)


class AwaitDecision(Tool):
    """Wait until a proposal is decided; one that is decided already is returned at once."""

    called: ClassVar[str] = "await_decision"
    title: ClassVar[str] = "Wait for a decision"
    effect: ClassVar[ToolAnnotations] = READS
    answers: ClassVar[type[Answer]] = Standing

    proposal_id: ProposalId
    timeout_s: Annotated[float, Field(ge=0, le=MAX_WAIT_S)] = 30.0

    @override
    async def run(self, turn: Turn) -> Standing:
        consensus = turn.memory.consensus
        seen = await _standing(turn, self.proposal_id)

        def describe() -> str:
            return f"{self.proposal_id}: {seen.votes_needed} votes were needed when the wait began"

        await turn.wait(consensus.wait(self.proposal_id, self.timeout_s), self.timeout_s, describe)
        return await _standing(turn, self.proposal_id)


TOOLS: tuple[type[Tool], ...] = (RegisterVoter, Propose, CastVote, ListProposals, AwaitDecision)
