"""From vector rows back to the records they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nt_memory.tiers.layout import to_stored, version_key

if TYPE_CHECKING:
    from nt_memory.entries import Stored
    from nt_memory.tiers.views import Snapshot


def version_of_row(snapshot: Snapshot, partition: int, row: int) -> Stored | None:
    """The version a vector row belongs to; None if `history` dropped it. Two reads, about 8 us."""
    found = snapshot.vector_row(partition, row)
    if found is None:
        return None
    key = version_key(found.name, found.from_us, found.revision)
    version = snapshot.version(key)
    if version is None or version.row != row:
        return None
    return to_stored(found.name, found.from_us, found.revision, version)
