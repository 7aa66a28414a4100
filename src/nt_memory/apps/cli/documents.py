"""What `--json` prints: one type a document. Fields are only ever added.

Times are ISO 8601 in UTC. Values are plain JSON, as `rendering.to_plain` makes them. The JSON Schema of
all of it is docs/reference/cli.schema.json.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, TypeVar

import msgspec

from nt_memory.apps.cli.rendering import to_plain


class Document(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Anything that is printed."""


_D = TypeVar("_D", bound=Document)


def to_builtins(doc: msgspec.Struct) -> Any:
    """A document as plain values."""
    return to_plain(msgspec.to_builtins(doc))


def taken_from(kind: type[_D], source: Any, **more: Any) -> _D:
    """A document of the fields that it shares with a dataclass, and of some more.

    What the dataclass has besides is left out, so that one that grows breaks nothing.
    """
    given = {
        name: getattr(source, name)
        for name in kind.__struct_fields__
        if name not in more and hasattr(source, name)
    }
    return kind(**given, **more)


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


# --- the bank ---------------------------------------------------------------------------------


class Observation(Document):
    """Something an agent saw; `dim` is 0 without an embedding."""

    data: Any
    dim: int
    at: datetime | None


class Action(Document):
    """Something an agent did, and what it claimed about it."""

    action_type: str
    parameters: Any
    at: datetime | None
    predicted: float | None
    low: float | None
    high: float | None
    level: float
    probability: float | None
    baseline: float | None


class Outcome(Document):
    """How an action turned out."""

    action: int
    value: float
    at: datetime | None


class Verdict(Document):
    """How good an action's claims were."""

    action: int
    kind: str
    predicted: float | None
    actual: float | None
    error: float | None
    skill: float | None
    is_covered: bool | None
    feedback: str


class Trajectory(Document):
    """What an agent saw, did, and how it turned out; verdicts where one trajectory was asked for."""

    id: str
    agent: str
    is_complete: bool
    score: float | None
    observations: list[Observation]
    actions: list[Action]
    outcomes: list[Outcome]
    verdicts: list[Verdict]


class Pattern(Document):
    """What one cluster of an agent's situations led to."""

    id: str
    agent: str
    action_type: str
    unit: str
    radius: float
    n: int
    n_effective: float
    outcome_mean: float
    outcome_error: float
    outcome_quantiles: list[float]
    success_rate: float | None
    success_low: float | None
    success_high: float | None
    failures: int
    failure_error: float | None
    failed: list[str]
    as_of: datetime
    is_promoted: bool


class Advice(Document):
    """What similar past situations say; `memories` is how many it rests on."""

    action_type: str
    target: str
    unit: str
    functional: str
    level: float
    as_of: datetime
    expected: float | None
    low: float | None
    high: float | None
    alpha: float
    bias: float
    baseline: float | None
    success_probability: float | None
    warnings: list[str]
    is_abstaining: bool
    is_withheld: bool
    known: int
    effective: float
    distance: float | None
    typical_distance: float | None
    patterns: list[str]
    memories: int
    text: str


# --- servers ----------------------------------------------------------------------------------


class ServersUp(Document):
    """Servers that run, and what a node opens them with; the file holds a secret, this does not."""

    url: str
    nkey_file: str
    directory: str
    pids: list[int]
    stop: str


class ServersDown(Document):
    """Processes that were asked to end, and have."""

    pids: list[int]


class Credentials(Document):
    """An agent's, in a file that only its owner can read."""

    agent: str
    nkey_file: str


# --- the store --------------------------------------------------------------------------------


class Tier(Document):
    """Counters of one tier since it was opened by this command; sizes in bytes."""

    entries: int
    bytes: int
    hits: int
    misses: int
    evictions: int


class VectorTier(Tier):
    """Counters of the vector tier."""

    pending: int
    graphs: int
    mapped_bytes: int
    loads: int
    merges: int
    written_bytes: int
    is_idle: bool


class Stats(Document):
    """The counters of a store; `writer` is the process that has it open for writing, or null."""

    path: str
    writer: int | None
    revision: int
    lag: int
    pending_bytes: int
    l1: Tier
    l2: VectorTier
    l2_pending: int
    l2_filter_bytes: int
    l3_bytes: int
    journal_bytes: int
    value_bytes: int
    pins: int
    locks: int
    subscribers: int
    messages: int
    denied: int
    clock_jump_s: float
    compactions: int
    compaction_failure: str
    l2_undelivered: int
    l2_refused: int
    l2_failure: str


class Verification(Document):
    """What `verify` found; sound if there is no damage."""

    path: str
    is_ok: bool
    damage: list[str]
    warnings: list[str]
    sequence: int
    revision: int
    entries: int
    rows: int
    vectors: int
    value_bytes: int


class Repair(Document):
    """What `repair` did, and what is lost."""

    path: str
    is_repaired: bool
    actions: list[str]
    lost: list[str]
    kept_at: str | None


class Compaction(Document):
    """What `compact` did."""

    revision: int
    oldest_revision: int
    dropped_versions: int
    freed_bytes: int


class Snapshot(Document):
    """A copy, and the revision it was opened at."""

    path: str
    revision: int


class Export(Document):
    """What was exported; printed on stderr where the export itself goes to stdout."""

    revision: int
    rows: int
    digest: str


class Import(Document):
    """What was imported; `is_new` is false where the store was made from this export before."""

    revision: int
    rows: int
    digest: str
    is_new: bool


class Check(Document):
    """One thing `doctor` looked at, and what to do about it."""

    name: str
    status: Literal["ok", "warn", "fail", "skip"]
    found: str
    advice: str


class Diagnosis(Document):
    """All that `doctor` looked at; healthy if nothing failed."""

    is_healthy: bool
    checks: list[Check]
