"""From vector rows back to the records they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from nt_memory.tiers.layout import decode_version, row_key, to_stored, unpack_row, version_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nt_memory.entries import Stored
    from nt_memory.tiers.layout import Version
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


class Found(NamedTuple):
    """The version of a vector row, as it lies in the views.

    Attributes:
        name: As `name_of` spells it.
        known_at: Since when it counts as known.
        revision: The entry that wrote it.
        version: The rest.
    """

    name: bytes
    known_at: int
    revision: int
    version: Version


def versions_of_rows(snapshot: Snapshot, places: Sequence[tuple[int, int]]) -> list[Found] | None:
    """The versions of several partitions and rows, in their order; None if one is gone.

    No place twice. About 4 us each, and the memory that they lie in.
    """
    found = snapshot.values(b"rows", [row_key(partition, row) for partition, row in places])
    if found is None:
        return None
    rows = [unpack_row(data) for data in found]
    versions = snapshot.values(
        b"versions", [version_key(name, since, revision) for since, _, _, revision, name in rows]
    )
    if versions is None:
        return None
    whole: list[Found] = []
    for (_, number), (since, _, _, revision, name), data in zip(
        places, rows, versions, strict=True
    ):
        version = decode_version(data)
        if version.row != number:
            return None
        whole.append(Found(name, since, revision, version))
    return whole
