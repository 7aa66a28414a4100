"""What one batch of entries made visible: handed from the journal's thread to the event loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from nt_memory.entries import Stored
    from nt_memory.tiers.layout import PartitionRow, VectorRow
    from nt_memory.tiers.vectors import Partition
    from nt_memory.tiers.views import Snapshot


class Change(NamedTuple):
    """One key changed.

    Attributes:
        kind: "put", "delete" or "expire".
        stored: The version written; for "expire" the one that ran out.
        revision: The entry that did it.
        is_current: The key's current version is now this one (a late put is not).
    """

    kind: str
    stored: Stored
    revision: int
    is_current: bool


class Outcome(NamedTuple):
    """What became of a submission: `error` is None if it was accepted."""

    ticket: Any
    result: Any
    error: Exception | None


@dataclass(slots=True)
class NewRows:
    """Vector rows added to one partition, in row order.

    Attributes:
        partition: Its id.
        dim: Values in a vector.
        first_row: Number of the first of `vectors`.
        file: Number of the file that `vectors` go to.
        from_us: Since when each row is known.
        until_us: When it ends.
        revision: Which entry recorded it.
        vectors: Of the last rows; those before were written for another embedding.
    """

    partition: int
    dim: int
    first_row: int
    file: int
    from_us: list[int] = field(default_factory=list[int])
    until_us: list[int] = field(default_factory=list[int])
    revision: list[int] = field(default_factory=list[int])
    vectors: list[bytes] = field(default_factory=list[bytes])


class Moved(NamedTuple):
    """A vector partition whose rows were numbered anew, under another id.

    Attributes:
        name: The partition.
        old: The id it had; None if that was never attached here.
        new: The id it has.
        prepared: The partition, prepared by the vector tier, with its rows.
    """

    name: bytes
    old: int | None
    new: int
    prepared: Partition


class Reembedded(NamedTuple):
    """A vector partition whose rows have other vectors from now on.

    Attributes:
        partition: Its id.
        dim: Values in a vector.
        file: Number of the file they are in.
    """

    partition: int
    dim: int
    file: int


class StagedVectors(NamedTuple):
    """Vectors made by a re-embedding under way.

    Attributes:
        file: Number of the file they go to.
        dim: Values in a vector.
        first_row: Row of the first.
        vectors: Little-endian float16.
    """

    file: int
    dim: int
    first_row: int
    vectors: bytes


@dataclass(slots=True)
class Follow:
    """Accumulates over one batch; read by the loop once the batch is committed.

    Attributes:
        revision: Visible from now on.
        sequence: Last journal entry folded in.
        timeline_us: A backtest's now, or None.
        outcomes: One per frame that carries a ticket, in order.
        changes: Keys that changed, in order.
        rows: New vector rows by partition.
        ended: `(partition, row, until_us, until_revision)` of rows that stopped being in force.
        new_partitions: `(name, id)` of vector partitions that were made.
        moved: Partitions that have another id from now on; `rows` and `ended` do not name them.
        reembedded: Partitions whose rows have other vectors from now on; `rows` may name them, and
            says then of the last vectors what this says of all.
        staged: Vectors of re-embeddings under way.
        lock_events: What happened to locks, in order.
        ballot_events: Ids of proposals that changed.
        snapshot: Reads as of `revision`; owned by the receiver.
        next_lapse_us: From when a tick may have something to do.
    """

    revision: int = 0
    sequence: int = 0
    timeline_us: int | None = None
    outcomes: list[Outcome] = field(default_factory=list[Outcome])
    changes: list[Change] = field(default_factory=list[Change])
    rows: dict[int, NewRows] = field(default_factory=dict[int, NewRows])
    ended: list[tuple[int, int, int, int]] = field(default_factory=list[tuple[int, int, int, int]])
    new_partitions: list[tuple[bytes, int]] = field(default_factory=list[tuple[bytes, int]])
    moved: list[Moved] = field(default_factory=list[Moved])
    reembedded: list[Reembedded] = field(default_factory=list[Reembedded])
    staged: list[StagedVectors] = field(default_factory=list[StagedVectors])
    lock_events: list[Any] = field(default_factory=list[Any])
    ballot_events: list[Any] = field(default_factory=list[Any])
    snapshot: Snapshot | None = None
    next_lapse_us: int | None = None

    def add_row(self, partition: PartitionRow, number: int, row: VectorRow, vector: bytes) -> None:
        """Note a new vector row of a partition."""
        rows = self.rows.get(partition.id)
        if rows is None:
            rows = NewRows(partition.id, partition.dim, number, partition.file)
            self.rows[partition.id] = rows
        rows.from_us.append(row.from_us)
        rows.until_us.append(row.until_us)
        rows.revision.append(row.revision)
        rows.vectors.append(vector)

    def reembed(self, partition: PartitionRow) -> None:
        """Note that a partition has other vectors. Those it had before are wanted no more."""
        rows = self.rows.get(partition.id)
        if rows is not None:
            rows.dim, rows.file, rows.first_row = partition.dim, partition.file, partition.rows
            rows.vectors.clear()
        self.reembedded.append(Reembedded(partition.id, partition.dim, partition.file))

    def end_row(self, partition: int, row: int, until_us: int, until_revision: int) -> None:
        """Note that a vector row is in force no longer than `until_us`."""
        self.ended.append((partition, row, until_us, until_revision))
