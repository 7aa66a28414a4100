"""Immutable value types that cross module borders and are part of the public API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime, timedelta

    from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class Record:
    """One version of one key.

    Attributes:
        agent: Whose key it is.
        key: The key.
        value: The value, read-only.
        revision: The entry that wrote it.
        known_at: Since when it counts as known, on the timeline.
        recorded_at: When the journal took it, wall clock.
        expires_at: When its `ttl` runs out, on the timeline; None: never.
        actor: Who wrote it; empty if the writer was unnamed.
        tags: Labels, of an observation.
    """

    agent: str
    key: str
    value: Any
    revision: int
    known_at: datetime
    recorded_at: datetime
    expires_at: datetime | None = None
    actor: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """What `watch` reports: one key changed. `record` is None unless `kind` is "put"."""

    kind: Literal["put", "delete", "expire"]
    agent: str
    key: str
    revision: int
    record: Record | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result. `score` is the cosine similarity in [-1, 1]."""

    key: str
    score: float
    data: Any
    known_at: datetime
    revision: int
    agent: str = ""


@dataclass(frozen=True, slots=True)
class SearchStep:
    """How a search went about the observations of one agent.

    Attributes:
        agent: Whose.
        how: "scan": all vectors that pass, exactly; "graph": the graph, asked for so much more that
            enough of what it found passes; "codes": a scan of the 8-bit codes of what passes,
            because that is quicker; "rows": so few pass that all of them are scored. Observations that
            are not in the graph yet are scanned beside it.
        rows: Observations there are, replaced and deleted ones included.
        passing: How many of them are in force and pass the filters, as far as those were evaluated
            before the search.
        width: Most rows the graph was asked for; 0 if it was not searched.
        filters: How the filters were evaluated: "tags" by the table of tags, "columns" by columns
            of the fields; "reading" where the data of candidates has to be read to know. Empty
            without filters.
    """

    agent: str
    how: str
    rows: int
    passing: int
    width: int
    filters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """A search and how it was done.

    Attributes:
        hits: What `search_similar` returns.
        steps: What the last round did, by agent; agents without observations are left out.
        rounds: How often more candidates had to be asked for, because those before did not pass.
        reads: Records that were read.
    """

    hits: list[Hit]
    steps: list[SearchStep]
    rounds: int
    reads: int


@dataclass(frozen=True, slots=True)
class AsOf:
    """Both clocks of a point-in-time read: known by `time`, recorded by `revision`."""

    time: datetime
    revision: int


@dataclass(frozen=True, slots=True)
class TierStats:
    """Counters of one tier since open; sizes in bytes."""

    entries: int = 0
    bytes: int = 0
    hits: int = 0
    misses: int = 0
    evictions: int = 0


@dataclass(frozen=True, slots=True)
class VectorTierStats(TierStats):
    """Counters of the vector tier since open.

    Attributes:
        pending: Vectors that are searched exactly until the indexer reaches them.
        graphs: Graphs at hand; a search of an agent's observations asks all of that agent's.
        mapped_bytes: Bytes of index files that searches read in place: page cache, not in `bytes`.
        loads: How often the index of some agent's observations was mapped, read or begun.
        merges: Graphs that were made of others in the background.
        written_bytes: Bytes of index snapshots written.
        is_idle: Nothing of it is being built, measured, saved or merged in the background. Searches are
            right at any time, and quickest then.
    """

    pending: int = 0
    graphs: int = 0
    mapped_bytes: int = 0
    loads: int = 0
    merges: int = 0
    written_bytes: int = 0
    is_idle: bool = True


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """A snapshot of the counters of one instance.

    Attributes:
        revision: What is visible here.
        lag: Entries recorded but not yet visible here.
        pending_bytes: Bytes waiting for the journal.
        l1: Hot cache.
        l2: Vector tier: rows, anonymous bytes, searches that found (did not find) their partition
            loaded, unloads.
        l2_pending: As `l2.pending`.
        l2_filter_bytes: What the tables hold that tags and fields of `where` are looked up in.
        l3_bytes: Bytes of the views on disk; large values are not in them.
        journal_bytes: Bytes of the journal on disk; large values are not in it either.
        l2_undelivered: With `agentdb_url`, entries that the server has not got yet.
        l2_refused: Observations that it did not take, since open; searches do not find them.
        l2_failure: Why the last delivery failed; empty if it did not.
        value_bytes: Bytes of the value files on disk, also of those that only the next compaction
            finds to be wanted by nothing.
        pins: Live pins.
        locks: Locks held.
        subscribers: Open subscriptions.
        messages: Messages published since open.
        denied: Calls refused here by a policy since open.
        clock_jump_s: How far the system's wall clock has moved from this instance's, seconds.
        compactions: Finished since open.
        compaction_failure: Why the last one that the store began by itself failed; empty if it did
            not, or one has succeeded since.
    """

    revision: int = 0
    lag: int = 0
    pending_bytes: int = 0
    l1: TierStats = TierStats()
    l2: VectorTierStats = VectorTierStats()
    l2_pending: int = 0
    l2_filter_bytes: int = 0
    l3_bytes: int = 0
    journal_bytes: int = 0
    value_bytes: int = 0
    pins: int = 0
    locks: int = 0
    subscribers: int = 0
    messages: int = 0
    denied: int = 0
    clock_jump_s: float = 0.0
    compactions: int = 0
    compaction_failure: str = ""
    l2_undelivered: int = 0
    l2_refused: int = 0
    l2_failure: str = ""


@dataclass(frozen=True, slots=True)
class Compaction:
    """What `compact` did.

    Attributes:
        revision: The base now covers everything up to this revision.
        oldest_revision: The first revision that `tail`, `watch` and `as_of` can still ask for.
        dropped_versions: Versions that retention no longer kept.
        freed_bytes: By how much the store takes less of the disk; negative if it takes more.
    """

    revision: int
    oldest_revision: int
    dropped_versions: int
    freed_bytes: int


EmbedRecords: TypeAlias = "Callable[[list[Record]], ArrayLike | Awaitable[ArrayLike]]"
"""Makes one embedding of each of some observations: shape (n, dim), finite and not zero, any scale."""


@dataclass(frozen=True, slots=True)
class ReembedResult:
    """What `reembed` did.

    Attributes:
        revision: Of the switch; for an agent without observations the one visible then.
        dimension: Of the agent's observations now; 0: it has none.
        previous_dimension: What it was before.
        embedded: Versions that `embed` was asked for.
        resumed: Rows that an earlier call under the same label had done.
        lost: Rows of which no version was left to embed; as of a moment at which one of them was in
            force a search raises `TrimmedError`, as after a compaction.
    """

    revision: int
    dimension: int
    previous_dimension: int
    embedded: int = 0
    resumed: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Export:
    """What `export` wrote.

    Attributes:
        revision: The store as of this revision.
        rows: How many rows.
        digest: Of all of it; the same for every complete export of one store at one revision.
    """

    revision: int
    rows: int
    digest: str


@dataclass(frozen=True, slots=True)
class SwarmSnapshot:
    """A snapshot that new nodes of a cluster can begin with.

    Attributes:
        id: Names it.
        revision: The swarm as of this revision.
        recorded_at: Time of the last entry in it.
        created_at: When it was made.
        bytes: Its size, as it is stored.
        message: The newest message of the swarm's stream that is in it; 0: it was imported.
    """

    id: str
    revision: int
    recorded_at: datetime
    created_at: datetime
    bytes: int
    message: int


@dataclass(frozen=True, slots=True)
class Shared:
    """What `share_snapshot` did.

    Attributes:
        snapshot: What was shared.
        dropped: Older snapshots that were removed.
        trimmed: Messages that were removed from the swarm's stream.
        removed: Copies of large values, and of large entries, that nothing needs any more and that were
            removed.
    """

    snapshot: SwarmSnapshot
    dropped: int
    trimmed: int
    removed: int = 0


@dataclass(frozen=True, slots=True)
class Import:
    """What `import_store` did.

    Attributes:
        revision: The store was made as of this revision.
        rows: How many rows the export has.
        digest: The export's.
        is_new: False if the store was made from this export before; nothing was changed then.
    """

    revision: int
    rows: int
    digest: str
    is_new: bool


@dataclass(frozen=True, slots=True)
class Retention:
    """How long superseded versions are kept.

    Attributes:
        max_age: Since when they were in force last; None: no limit.
        max_versions: How many a key; None: no limit.
    """

    max_age: timedelta | None = None
    max_versions: int | None = None


@dataclass(frozen=True, slots=True)
class Quota:
    """How much an agent may store.

    Attributes:
        max_keys: Keys that show a value; None: no limit.
        max_bytes: Bytes of all versions that are kept; None: no limit.
        max_vectors: Versions with an embedding that are kept; None: no limit.
    """

    max_keys: int | None = None
    max_bytes: int | None = None
    max_vectors: int | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """What an agent may do: patterns by right, in which `*` is one level and `**` the rest.

    Attributes:
        read: `<agent>/<key>` of what it may read, with its history and observations.
        write: `<agent>/<key>` of what it may put, delete and observe.
        publish: Topics.
        subscribe: Topics.
        lock: Resources; an election is the resource `election/<name>`.
        propose: Ids of proposals that it may put, as itself.
        vote: Ids of proposals that it may vote on, as itself.
        operate: Names of calls that change what holds for all, such as `set_quota`.
    """

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    lock: tuple[str, ...] = ()
    propose: tuple[str, ...] = ()
    vote: tuple[str, ...] = ()
    operate: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """What an agent has stored, counted as its quota counts.

    Attributes:
        keys: Keys whose current version is a value; one that ran out counts until it is told to
            have expired, within a second on a live timeline.
        bytes: Of all versions kept that are values: the values as stored, which may be compressed,
            and their keys and tags.
        vectors: Versions kept that have an embedding.
    """

    keys: int = 0
    bytes: int = 0
    vectors: int = 0
