"""Documents of state, similar situations, and coordination."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from nt_memory.apps.cli.documents.form import Document

# --- state ------------------------------------------------------------------------------------


class Revision(Document):
    """The revision of a write; null where there was nothing to delete."""

    revision: int | None


class Record(Document):
    """One version of one key."""

    agent: str
    key: str
    value: Any
    revision: int
    known_at: datetime
    recorded_at: datetime
    expires_at: datetime | None
    actor: str
    tags: list[str]


class Change(Document):
    """One key changed; `record` is null unless `kind` is "put"."""

    kind: Literal["put", "delete", "expire"]
    agent: str
    key: str
    revision: int
    record: Record | None


class Entry(Document):
    """One entry of the journal."""

    revision: int
    recorded_at: datetime
    kind: str
    actor: str
    request_id: str | None
    changes: list[Change]
    detail: dict[str, Any]


# --- similarity -------------------------------------------------------------------------------


class Hit(Document):
    """One observation that was found; `score` is the cosine similarity, -1 to 1."""

    agent: str
    key: str
    score: float
    data: Any
    known_at: datetime
    revision: int


class Observed(Document):
    """An observation that was stored."""

    agent: str
    key: str


# --- coordination -----------------------------------------------------------------------------


class Lock(Document):
    """Who holds a lock, until when in seconds, and who waits for it, in order."""

    resource: str
    holder: str
    fence: int
    lease_left: float
    waiters: list[str]


class Forced(Document):
    """Whether a lock was taken from its holder."""

    resource: str
    is_forced: bool


class Standing(Document):
    """Where a proposal stands; rate and votes needed are null once it is decided."""

    id: str
    status: Literal["approved", "rejected", "pending"]
    approval_rate: float | None
    votes_needed: int | None


class Ballot(Document):
    """One vote. Weights are exact: "2/3"."""

    voter: str
    approve: bool
    weight: str
    at: datetime | None
    revision: int


class Proposal(Standing):
    """A proposal with everything that bears on its decision."""

    proposer: str
    data: Any
    quorum: str
    deadline: datetime | None
    electorate: dict[str, str]
    votes: list[Ballot]
    submitted_at: datetime | None
    decided_at: datetime | None
    revision: int


class Submitted(Document):
    """A proposal that was put."""

    id: str


class Agent(Document):
    """What is stored under an agent's name, and whether a policy limits what it may do."""

    agent: str
    keys: int
    bytes: int
    vectors: int
    has_policy: bool


class Published(Document):
    """How many subscriptions a message reached."""

    topic: str
    reached: int


class Message(Document):
    """A message that came; `dropped` counts those lost on the way, since the beginning."""

    topic: str
    message: Any
    dropped: int
