"""Documents of a store: its counters, and what was done with it."""

from __future__ import annotations

from typing import Literal

from nt_memory.apps.cli.documents.form import Document


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
    """What `verify` found; sound if there is no damage.

    Of a cluster there are `snapshots`, the ids of those that were read, newest first, and
    `snapshot_bytes`, how much of them is sound; what is counted of a store's files is 0.
    """

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
    snapshots: list[str] | None = None
    snapshot_bytes: int = 0


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
    """A copy, and the revision it was opened at; or what a cluster keeps for new nodes.

    Of a copy there is `path`; of the other all else: its id and size, how many older ones were dropped,
    and how many messages were trimmed from the swarm's stream.
    """

    path: str | None
    revision: int
    id: str | None = None
    bytes: int | None = None
    dropped: int | None = None
    trimmed: int | None = None


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
