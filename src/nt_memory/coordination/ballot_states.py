"""What the views keep of ballots, and what the rules say about them: values without behaviour."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

Status = Literal["pending", "approved", "rejected"]


class _Wire(msgspec.Struct, frozen=True, array_like=True, gc=False):
    pass


class ElectorateState(_Wire, frozen=True):
    """The registered voters and their weights ("n/d"), ordered by name."""

    weights: tuple[tuple[str, str], ...] = ()


class CastState(_Wire, frozen=True):
    """One vote as it was counted. `at` is timeline time; None before a backtest has started."""

    voter: str
    approve: bool
    at: int | None
    revision: int


class ProposalState(_Wire, frozen=True):
    """All there is to know of one proposal.

    Counts of weight are whole units of 1/`denominator`, as decimal text because they may exceed 64
    bits.

    Attributes:
        id: Its name.
        proposer: Who put it.
        data: Encoded value, as submitted.
        quorum: "n/d", in (0, 1].
        deadline: Timeline time from which it is rejected if undecided; None: never.
        has_own_weights: Whether the command named the electorate, rather than the registry.
        denominator: Common denominator of the weights.
        electorate: Voters and units, greatest weight first, ties by name.
        total: Units of the whole electorate.
        needed: Units that approve it.
        approving: Units that voted for it.
        rejecting: Units that voted against it.
        votes: The votes, in order.
        status: "pending", "approved" or "rejected".
        submitted_at: Timeline time; None before a backtest has started.
        revision: The entry that submitted it.
        decided_at: Timeline time of the decision; None while pending, or before a backtest started.
        decided_revision: The entry that decided it; 0 while pending.
    """

    id: str
    proposer: str
    data: bytes
    quorum: str
    deadline: int | None
    has_own_weights: bool
    denominator: str
    electorate: tuple[tuple[str, str], ...]
    total: str
    needed: str
    submitted_at: int | None
    revision: int
    approving: str = "0"
    rejecting: str = "0"
    votes: tuple[CastState, ...] = ()
    status: Status = "pending"
    decided_at: int | None = None
    decided_revision: int = 0


class Standing(_Wire, frozen=True):
    """Where a proposal stands, and what a vote returns; survives a trip through msgpack.

    Attributes:
        status: "pending", "approved" or "rejected".
        approving: Approving share of the electorate's weight, "n/d".
        votes_needed: Smallest number of voters, of those who have not voted, whose approval would
            approve it; 0 when it is decided.
    """

    status: Status
    approving: str
    votes_needed: int


class BallotEvent(NamedTuple):
    """A proposal was decided."""

    kind: Literal["approved", "rejected"]
    proposal_id: str


class BallotRuling(NamedTuple):
    """A decision: the state to store (None: nothing changes), the result, what to announce."""

    state: Any
    result: Any
    events: tuple[BallotEvent, ...] = ()
