"""Proposals as documents, and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from nt_memory.apps.cli import documents
from nt_memory.apps.cli.rendering import moment, to_plain, value_line
from nt_memory.coordination.proposals import Approved, Pending, Rejected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nt_memory.coordination.proposals import ProposalRecord

    Result = Approved | Rejected | Pending

HEAD = ("proposal", "status", "proposer", "votes", "quorum", "deadline", "what")


def status_of(result: Result) -> Literal["approved", "rejected", "pending"]:
    """The word for it."""
    if isinstance(result, Pending):
        return "pending"
    return "approved" if isinstance(result, Approved) else "rejected"


def standing_document(proposal_id: str, result: Result) -> documents.Standing:
    """Where a proposal stands."""
    pending = result if isinstance(result, Pending) else None
    return documents.Standing(
        id=proposal_id,
        status=status_of(result),
        approval_rate=None if pending is None else pending.approval_rate,
        votes_needed=None if pending is None else pending.votes_needed,
    )


def standing_line(result: Result) -> str:
    """The same in words."""
    if isinstance(result, Pending):
        return f"pending: {result.approval_rate:.1%} approve, {result.votes_needed} more needed"
    return status_of(result)


def proposal_document(one: ProposalRecord) -> documents.Proposal:
    """A proposal, all of it."""
    standing = standing_document(one.id, one.result)
    return documents.Proposal(
        id=one.id,
        status=standing.status,
        approval_rate=standing.approval_rate,
        votes_needed=standing.votes_needed,
        proposer=one.proposer,
        data=to_plain(one.data),
        quorum=str(one.quorum),
        deadline=one.deadline,
        electorate={agent: str(weight) for agent, weight in one.electorate.items()},
        votes=[
            documents.Ballot(
                voter=cast.voter,
                approve=cast.approve,
                weight=str(cast.weight),
                at=cast.at,
                revision=cast.revision,
            )
            for cast in one.votes
        ],
        submitted_at=one.submitted_at,
        decided_at=one.decided_at,
        revision=one.revision,
    )


def cells(one: ProposalRecord) -> tuple[object, ...]:
    """A row of the list."""
    return (
        one.id,
        status_of(one.result),
        one.proposer,
        f"{len(one.votes)}/{len(one.electorate)}",
        one.quorum,
        moment(one.deadline),
        value_line(one.data),
    )


def lines(one: ProposalRecord) -> Iterator[str]:
    """One proposal with its votes."""
    yield f"{one.id}: {standing_line(one.result)}"
    yield f"proposed by {one.proposer}, quorum {one.quorum}: {value_line(one.data)}"
    if one.deadline is not None:
        yield f"deadline {moment(one.deadline)}"
    cast = {vote.voter: vote for vote in one.votes}
    for agent, weight in one.electorate.items():
        vote = cast.get(agent)
        said = "has not voted" if vote is None else "yes" if vote.approve else "no"
        yield f"  {agent} ({weight}): {said}"
