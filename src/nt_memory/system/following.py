"""How L1, L2 and the listeners move to a new revision. Runs on the loop, inside one callback."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nt_memory.codec import is_filed
from nt_memory.entries import STATE
from nt_memory.replica import Observed, is_staged, partition_name
from nt_memory.system.reads import hot_bytes, to_record
from nt_memory.system.renumbering import read_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nt_memory.replica import Change, Follow, Moved
    from nt_memory.tiers.hot import HotTier
    from nt_memory.tiers.vectors import VectorTier
    from nt_memory.tiers.views import Snapshot
    from nt_memory.transport.values import ValueFiles


def _ignore(_: Sequence[Any]) -> None:
    """Nobody listens."""


@dataclass(slots=True)
class Listeners:
    """Who else wants to know what became visible; each is called with what concerns it, in order.

    Attributes:
        locks: Lock events.
        ballots: Ballot events.
        bank: Changes in the ReasoningBank's spaces.
        observed: Puts of records that have a vector.
        moved: Vector partitions that have another id now.
    """

    locks: Callable[[Sequence[Any]], None] = _ignore
    ballots: Callable[[Sequence[Any]], None] = _ignore
    bank: Callable[[Sequence[Change]], None] = _ignore
    observed: Callable[[Sequence[Change | Observed]], None] = _ignore
    moved: Callable[[Sequence[Moved]], None] = _ignore

    def tell(self, follow: Follow) -> None:
        """A batch became visible."""
        if follow.moved:
            self.moved(follow.moved)
        if follow.lock_events:
            self.locks(follow.lock_events)
        if follow.ballot_events:
            self.ballots(follow.ballot_events)
        observed = [
            change
            for change in follow.changes
            if isinstance(change, Observed)
            or (change.stored.partition >= 0 and change.kind == "put")
        ]
        if observed:
            self.observed(observed)
        bank = [
            change
            for change in follow.changes
            if not isinstance(change, Observed) and change.stored.space != STATE
        ]
        if bank:
            self.bank(bank)


@dataclass(slots=True)
class RowCounts:
    """Vector partitions by name (`partition_name`), and how many rows each has here.

    Attributes:
        partitions: Ids by name.
        counts: Rows by id.
        numbering: Grows whenever partitions get other ids or other vectors: what was found by those of
            before says nothing any more.
        is_remote: Observations are searched on a server, and the vector tier here has nothing to do with
            them; the bank's situations stay here, which are searched as of then.
        away: Ids of the partitions that are.
    """

    partitions: dict[bytes, int] = field(default_factory=dict[bytes, int])
    counts: Counter[int] = field(default_factory=Counter[int])
    numbering: int = 0
    is_remote: bool = False
    away: set[int] = field(default_factory=set[int])

    def is_away(self, name: bytes, partition: int) -> bool:
        """Whether the vector tier has nothing to do with a partition; noted, if so."""
        if self.is_remote and name.endswith(_OBSERVATIONS):
            self.away.add(partition)
        return partition in self.away


_OBSERVATIONS = partition_name("", "")


def attach_vectors(vectors: VectorTier, snapshot: Snapshot, known: RowCounts) -> None:
    """Hand the vector tier what the views hold. Cost: about a microsecond a row; off the loop."""
    for name, partition in snapshot.partitions():
        if is_staged(name):
            continue
        if known.is_away(name, partition.id):
            known.partitions[name] = partition.id
            continue
        columns = read_columns(snapshot, partition.id)
        known.partitions[name] = partition.id
        known.counts[partition.id] = len(columns)
        vectors.attach(
            partition.id,
            partition.dim,
            file=partition.file,
            from_us=columns[:, 0],
            until_us=columns[:, 1],
            until_revision=columns[:, 2],
            revision=columns[:, 3],
        )


def move_vectors(vectors: VectorTier, follow: Follow, known: RowCounts) -> None:
    """Make a batch's new vector rows searchable, and end those it superseded."""
    if follow.moved:
        _exchange(vectors, follow, known)
    for switched in follow.reembedded:
        # What is being searched by the old vectors is asked again: their file may be gone by then.
        if switched.partition not in known.away:
            vectors.reembed(switched.partition, switched.dim, switched.file)
        known.numbering += 1
    known.partitions.update(follow.new_partitions)
    if known.is_remote:
        for name, partition in follow.new_partitions:
            known.is_away(name, partition)
    _append(vectors, follow, known)
    _end(vectors, [one for one in follow.ended if one[0] not in known.away])


def _append(vectors: VectorTier, follow: Follow, known: RowCounts) -> None:
    for rows in follow.rows.values():
        if rows.partition in known.away:
            continue
        known.counts[rows.partition] += len(rows.from_us)
        if rows.from_us:
            vectors.append(
                rows.partition,
                rows.dim,
                from_us=np.frombuffer(rows.from_us, np.int64),
                until_us=np.frombuffer(rows.until_us, np.int64),
                revision=np.frombuffer(rows.revision, np.int64),
            )


def _end(vectors: VectorTier, gone: list[tuple[int, int, int, int]]) -> None:
    if len(gone) <= _FEW_ENDED:
        for partition, row, until_us, until_revision in gone:
            vectors.end(partition, row, until_us, until_revision)
        return
    ended = np.array(gone, np.int64)
    for number in sorted(set(ended[:, 0].tolist())):
        own = ended[ended[:, 0] == number]
        vectors.end_all(number, own[:, 1], own[:, 2], own[:, 3])


def _exchange(vectors: VectorTier, follow: Follow, known: RowCounts) -> None:
    """Partitions have other ids from here on; whatever takes long was prepared."""
    gone = [moved.old for moved in follow.moved if moved.old is not None]
    for number in gone:
        known.counts.pop(number, None)
    for moved in follow.moved:
        known.partitions[moved.name] = moved.new
        known.counts[moved.new] = moved.prepared.columns.view.rows
    come = {
        moved.new: moved.prepared
        for moved in follow.moved
        if not known.is_away(moved.name, moved.new)
    }
    vectors.exchange(gone, come)
    known.numbering += 1


_FEW_ENDED = 16
LARGE_VALUE_BYTES = 64 * 1024
MANY_CHANGES = 4096


def move_records(hot: HotTier, changes: Sequence[Change | Observed], values: ValueFiles) -> None:
    """Bring L1 and the pins up to the changes that concern the current versions of state keys.

    A value that was put becomes hot, except an observation's: a bulk load would flush everything
    else. What is hot or pinned already is always refreshed, or let go of where decoding would hold
    up the loop: L1 is never stale.
    """
    are_many = len(changes) > MANY_CHANGES  # as of a follower that was stopped for long
    for change in changes:
        if isinstance(change, Observed):
            for number in hot.wanted_of(change.body.agent, change.body.keys):
                _move_record(hot, change.change(number), values, are_many=False)
        else:
            _move_record(hot, change, values, are_many=are_many)


def _move_record(hot: HotTier, change: Change, values: ValueFiles, *, are_many: bool) -> None:
    stored = change.stored
    if stored.space != STATE or not change.is_current:
        return
    name = (stored.agent, stored.key)
    if change.kind != "put" or stored.value is None:
        hot.drop(name)
        hot.pins.show(name, None)
    elif (are_many or _is_large(stored.value)) and name not in hot.pins:
        hot.drop(name)  # decoding it takes too long for the loop; the next read will
    elif stored.partition < 0 or hot.is_wanted(name):
        record = to_record(stored, values)
        hot.put(name, record, hot_bytes(record, stored))
        hot.pins.show(name, record)


def _is_large(value: bytes) -> bool:
    return len(value) > LARGE_VALUE_BYTES or is_filed(value)
