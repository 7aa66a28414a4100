"""What another process did, read from its views and their log: how a read-only instance follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nt_memory.replica import (
    Change,
    Follow,
    Moved,
    NewRows,
    Reembedded,
    is_staged,
    partition_name,
)
from nt_memory.replica.reembedding import CHANGE
from nt_memory.system.renumbering import fill
from nt_memory.tiers.layout import (
    NUMBERING,
    name_of,
    row_key,
    to_stored,
    unpack_row,
    version_key,
)

if TYPE_CHECKING:
    from nt_memory.tiers.cold import ColdTier
    from nt_memory.tiers.layout import ChangeRow, LogRow
    from nt_memory.tiers.vectors import VectorTier
    from nt_memory.tiers.views import Snapshot


def continues(snapshot: Snapshot, retired: ColdTier, revision: int) -> bool:
    """Whether new views know of all that follows what the old ones showed at `revision`."""
    if (snapshot.number(b"revision") or 0) < revision or snapshot.log_floor > revision:
        return False
    before = retired.snapshot()
    try:
        was, now = before.log_times(revision), snapshot.log_times(revision)
    finally:
        before.close()
    # The same entry, and not one of another history under the same number.
    return was is None or (now is not None and was.now_us == now.now_us)


def moved_partitions(snapshot: Snapshot, retired: ColdTier, vectors: VectorTier) -> list[Moved]:
    """Partitions that are not in the old views by that id, if an exchange has numbered rows anew.

    They are prepared. Cost: about a microsecond a row.
    """
    before = retired.snapshot()
    try:
        if before.number(NUMBERING) == snapshot.number(NUMBERING):
            return []
        ids = {name: row.id for name, row in before.partitions()}
    finally:
        before.close()
    found: list[Moved] = []
    for name, row in snapshot.partitions():
        if ids.get(name) != row.id and not is_staged(name):
            partition = vectors.prepare(row.file, row.dim)
            fill(partition, snapshot, row.id)
            found.append(Moved(name, ids.get(name), row.id, partition))
    return found


def follow_log(
    snapshot: Snapshot, follow: Follow, revision: int, row: LogRow, known: set[int]
) -> None:
    """Add what an entry of the log did.

    Args:
        snapshot: The views now.
        follow: What it is added to.
        revision: The entry.
        row: Its row of the log.
        known: Partitions that were looked at already; is added to. Rows of those that are in it and
            not in `follow.rows` are left out.
    """
    for change in row.changes:
        if change.kind == CHANGE:
            _follow_switch(snapshot, follow, change)
            continue
        name = name_of(change.space, change.agent, change.key)
        key = version_key(name, change.known_at, revision)
        version = snapshot.version(key)
        current = snapshot.current(name)
        if change.kind == "expire" or version is None:
            if current is None:
                continue
            stored = to_stored(name, *current)
            is_current = change.kind == "expire"
        else:
            stored = to_stored(name, change.known_at, revision, version)
            is_current = current is not None and current[:2] == (change.known_at, revision)
        follow.changes.append(Change(change.kind, stored, revision, is_current))
        _follow_rows(snapshot, follow, change, known)


def _follow_rows(snapshot: Snapshot, follow: Follow, change: ChangeRow, known: set[int]) -> None:
    if change.partition >= 0:
        _follow_partition(snapshot, follow, change.partition, known)
        data = snapshot.get(b"rows", row_key(change.partition, change.row))
        if data is not None and change.partition in follow.rows:
            rows = follow.rows[change.partition]
            if not rows.from_us:
                rows.first_row = change.row
            row = unpack_row(data)
            rows.from_us.append(row.from_us)
            rows.until_us.append(row.until_us)
            rows.revision.append(row.revision)
    for partition, number in change.ended:
        row_now = snapshot.vector_row(partition, number)
        if row_now is not None:
            follow.ended.append((partition, number, row_now.until_us, row_now.until_revision))


def _follow_switch(snapshot: Snapshot, follow: Follow, change: ChangeRow) -> None:
    """Observations have other vectors; which, is what the views say now: they may again have others."""
    row = snapshot.partition(partition_name(change.agent, ""))
    if row is not None:
        follow.reembedded.append(Reembedded(row.id, row.dim, row.file))


def _follow_partition(snapshot: Snapshot, follow: Follow, partition: int, known: set[int]) -> None:
    if partition in known:
        return
    known.add(partition)
    for name, row in snapshot.partitions():
        if row.id == partition:
            follow.rows[partition] = NewRows(partition, row.dim, 0, row.file)
            follow.new_partitions.append((name, partition))
