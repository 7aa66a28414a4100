"""Answers of a server as the values that the memory returns in process.

Nothing about an answer is trusted but that it is JSON: what has not the form it should have says that
another kind of server answered.
"""

from __future__ import annotations

from datetime import datetime
from fractions import Fraction
from typing import Any, Literal, TypeVar

import msgspec

from nt_memory.apps.cli.exits import UnreachableError
from nt_memory.codec.plain import from_plain
from nt_memory.coordination.proposals import (
    Approved,
    Pending,
    ProposalRecord,
    Rejected,
    VoteRecord,
)
from nt_memory.records import Change, Hit, Record
from nt_memory.system.watching import JournalEntry

_T = TypeVar("_T")


class ReadRecord(msgspec.Struct):
    """A version of a key."""

    agent: str
    key: str
    value: Any
    revision: int
    known_at: datetime
    recorded_at: datetime
    expires_at: datetime | None
    actor: str
    tags: list[str]

    def record(self) -> Record:
        """The same as in process."""
        return Record(
            self.agent,
            self.key,
            from_plain(self.value),
            self.revision,
            self.known_at,
            self.recorded_at,
            self.expires_at,
            self.actor,
            tuple(self.tags),
        )


class ReadPage(msgspec.Struct):
    """Some records."""

    records: list[ReadRecord]
    next: str | None
    revision: int = 0


class ReadChange(msgspec.Struct):
    """A change; with `is_left_out` its record is to be asked for."""

    kind: Literal["put", "delete", "expire"]
    agent: str
    key: str
    revision: int
    record: ReadRecord | None = None
    is_left_out: bool = False

    def change(self, record: Record | None) -> Change:
        """The same as in process."""
        return Change(self.kind, self.agent, self.key, self.revision, record)


class ReadEntry(msgspec.Struct):
    """An entry of the journal."""

    revision: int
    recorded_at: datetime
    kind: str
    actor: str
    request_id: str | None
    changes: list[ReadChange]
    detail: dict[str, Any]

    def entry(self, changes: tuple[Change, ...]) -> JournalEntry:
        """The same as in process."""
        return JournalEntry(
            self.revision,
            self.recorded_at,
            self.kind,
            self.actor,
            self.request_id,
            changes,
            self.detail,
        )


class ReadHit(msgspec.Struct):
    """An observation that was found."""

    agent: str
    key: str
    score: float
    data: Any
    known_at: datetime
    revision: int

    def hit(self) -> Hit:
        """The same as in process."""
        data = from_plain(self.data)
        return Hit(self.key, self.score, data, self.known_at, self.revision, self.agent)


class ReadResult(msgspec.Struct):
    """Where a proposal stands."""

    status: Literal["approved", "rejected", "pending"]
    approval_rate: float | None = None
    votes_needed: int | None = None

    def result(self) -> Approved | Rejected | Pending:
        """The same as in process."""
        if self.status == "pending":
            return Pending(self.approval_rate or 0.0, self.votes_needed or 0)
        return Approved() if self.status == "approved" else Rejected()


class ReadVote(msgspec.Struct):
    """A vote as it was counted."""

    voter: str
    approve: bool
    weight: str
    at: datetime | None
    revision: int


class ReadProposal(msgspec.Struct):
    """A proposal with its votes."""

    id: str
    proposer: str
    data: Any
    quorum: str
    deadline: datetime | None
    electorate: dict[str, str]
    votes: list[ReadVote]
    result: ReadResult
    submitted_at: datetime | None
    decided_at: datetime | None
    revision: int

    def proposal(self) -> ProposalRecord:
        """The same as in process."""
        return ProposalRecord(
            id=self.id,
            proposer=self.proposer,
            data=from_plain(self.data),
            quorum=Fraction(self.quorum),
            deadline=self.deadline,
            electorate={agent: Fraction(weight) for agent, weight in self.electorate.items()},
            votes=tuple(
                VoteRecord(one.voter, one.approve, Fraction(one.weight), one.at, one.revision)
                for one in self.votes
            ),
            result=self.result.result(),
            submitted_at=self.submitted_at,
            decided_at=self.decided_at,
            revision=self.revision,
        )


def read(answer: Any, kind: type[_T]) -> _T:
    """An answer, or a part of one, as its type.

    Raises:
        UnreachableError: it is none.
    """
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise UnreachableError(
            f"what answers is no nt-memory server of this version: {error}"
        ) from None
