"""What one batch of entries made visible: handed from the journal's thread to the event loop."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from nt_memory.entries import STATE, Stored
from nt_memory.tiers.vectors import NEVER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nt_memory.entries import ObserveMany
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


class Observed(NamedTuple):
    """Observations under keys that had no version: a `Change` each, by columns.

    Attributes:
        body: The entry's.
        known_at: Since when each counts as known.
        revision: The entry.
        recorded_at: When the journal took it.
        actor: Who wrote it.
        partition: Where their vectors are.
        first_row: The row of the first; the others follow.
    """

    body: ObserveMany
    known_at: Sequence[int]
    revision: int
    recorded_at: int
    actor: str
    partition: int
    first_row: int

    def change(self, number: int) -> Change:
        """One of them."""
        body = self.body
        stored = Stored(
            STATE,
            body.agent,
            body.keys[number],
            body.values[number],
            self.known_at[number],
            self.revision,
            self.recorded_at,
            None,
            self.actor,
            self.partition,
            self.first_row + number,
            body.tags_of(number),
        )
        return Change("put", stored, self.revision, is_current=True)

    def changes(self) -> list[Change]:
        """All of them."""
        return [self.change(number) for number in range(len(self.body.keys))]

    def rows_by_tag(self) -> dict[str, list[int]]:
        """Which rows carry which tag."""
        found: dict[str, list[int]] = {}
        for row, tags in enumerate(self.body.tags, self.first_row):
            for tag in tags:
                found.setdefault(tag, []).append(row)
        return found


class Outcome(NamedTuple):
    """What became of a submission: `error` is None if it was accepted."""

    ticket: Any
    result: Any
    error: Exception | None


def _int64s() -> array[int]:
    return array("q")


@dataclass(slots=True)
class NewRows:
    """Vector rows added to one partition, in row order.

    The numbers are int64 side by side, which numpy reads as they are; `vectors` holds stretches of
    rows, one or more each.

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
    from_us: array[int] = field(default_factory=_int64s)
    until_us: array[int] = field(default_factory=_int64s)
    revision: array[int] = field(default_factory=_int64s)
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
        changes: Keys that changed, in order; new observations by columns.
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
    changes: list[Change | Observed] = field(default_factory=list["Change | Observed"])
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
        rows = self._rows_of(partition, number)
        rows.from_us.append(row.from_us)
        rows.until_us.append(row.until_us)
        rows.revision.append(row.revision)
        rows.vectors.append(vector)

    def add_rows(self, observed: Observed, partition: PartitionRow) -> None:
        """Note new observations, none of which has an end, and their vector rows."""
        self.changes.append(observed)
        rows = self._rows_of(partition, observed.first_row)
        count = len(observed.known_at)
        rows.from_us.extend(observed.known_at)
        rows.until_us.extend(array("q", (NEVER,)) * count)
        rows.revision.extend(array("q", (observed.revision,)) * count)
        rows.vectors.append(observed.body.vectors)

    def reembed(self, partition: PartitionRow) -> None:
        """Note that a partition has other vectors. Those it had before are wanted no more."""
        rows = self.rows.get(partition.id)
        if rows is not None:
            rows.dim, rows.file, rows.first_row = partition.dim, partition.file, partition.rows
            rows.vectors.clear()
        self.reembedded.append(Reembedded(partition.id, partition.dim, partition.file))

    def _rows_of(self, partition: PartitionRow, number: int) -> NewRows:
        rows = self.rows.get(partition.id)
        if rows is None:
            rows = NewRows(partition.id, partition.dim, number, partition.file)
            self.rows[partition.id] = rows
        return rows

    def end_row(self, partition: int, row: int, until_us: int, until_revision: int) -> None:
        """Note that a vector row is in force no longer than `until_us`."""
        self.ended.append((partition, row, until_us, until_revision))
