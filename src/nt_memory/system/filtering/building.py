"""Filling tables from the views, beside the event loop and in short steps.

New tables are filled by one pass over their agent's versions, in the order of their keys, which costs a
third of looking each row up. Every step reads in a transaction of its own, so none is open for long, and
the versions of one step need not be those of the next. That does no harm: a version that comes later
has a row past those that the pass is for, one that is dropped meanwhile leaves its row unknown, and of
a partition whose rows are numbered anew everything is dropped.

After it, and for tables that have fallen behind, the missing rows are looked up one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nt_memory.codec import decode
from nt_memory.entries import STATE
from nt_memory.errors import CodecError, CorruptionError
from nt_memory.filters import lookup
from nt_memory.system.filtering.columns import FieldColumn
from nt_memory.system.filtering.tags import TagRows
from nt_memory.system.rows import version_of_row

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nt_memory.filters import Field
    from nt_memory.tiers.cold import ColdTier
    from nt_memory.tiers.views import Snapshot

Table = TagRows | FieldColumn

VERSIONS_A_STEP = 512
NOT_KNOWN: Any = object()
"""The data of a version that is not decoded."""


def data_of(value: bytes | None) -> Any:
    """The data that an encoded value holds, or `NOT_KNOWN`.

    A value in a file, which `decode` refuses, is left there, and a damaged one is for whoever reads it
    to find.
    """
    try:
        return NOT_KNOWN if value is None else decode(value)
    except (CodecError, CorruptionError):
        return NOT_KNOWN


def append(name: Field | None, table: Table, tags: tuple[str, ...], data: Any) -> None:
    """Add a version's row to a table."""
    if isinstance(table, TagRows):
        table.append(tags)
    elif data is NOT_KNOWN or name is None:
        table.append_unknown()
    else:
        table.append(lookup(data, name))


class Build:
    """Tables of one partition on their way. One thread at a time.

    Args:
        cold: Gives the views as they are now.
        partition: Its id.
        agent: Whose observations it holds.
        fresh: Tables to be filled, by name, which nobody else has; for their rows as they are.
        behind: Tables that others read, which only lack rows at their end.
    """

    def __init__(
        self,
        cold: Callable[[], ColdTier],
        partition: int,
        agent: str,
        fresh: dict[Field | None, Table],
        behind: Mapping[Field | None, Table],
    ) -> None:
        self.fresh = fresh
        self._cold = cold
        self._partition = partition
        self._prefix = f"{STATE}{agent}\0".encode()
        self._tables = {**behind, **fresh}
        self._after: bytes | None = b"" if fresh else None

    def step(self, rows: int) -> bool:
        """Do some milliseconds of work; whether every table now has `rows` rows.

        Raises:
            CorruptionError: the views are damaged.
            ClosedError: they were closed.
        """
        with self._cold().reading() as snapshot:
            if self._after is not None:
                self._after = self._scan(snapshot, self._after)
                return False
            return self._look_up(snapshot, rows)

    def forget(self, name: Field | None) -> None:
        """A table is not wanted any more. Not beside a step."""
        self._tables.pop(name, None)
        self.fresh.pop(name, None)

    def _scan(self, snapshot: Snapshot, after: bytes) -> bytes | None:
        """Take in the next versions; the last one's key, None if there are no more."""
        found = snapshot.versions_after(after, self._prefix, VERSIONS_A_STEP)
        has_fields = any(name is not None for name in self.fresh)
        for _, version in found:
            if version.partition != self._partition:
                continue
            data = data_of(version.value) if has_fields else NOT_KNOWN
            for name, table in self.fresh.items():
                if version.row >= table.rows:
                    continue  # written since; looked up later
                if isinstance(table, TagRows):
                    table.set_at(version.row, version.tags)
                elif data is not NOT_KNOWN and name is not None:
                    table.set_at(version.row, lookup(data, name))
        return found[-1][0] if len(found) == VERSIONS_A_STEP else None

    def _look_up(self, snapshot: Snapshot, rows: int) -> bool:
        first = min((table.rows for table in self._tables.values()), default=rows)
        stop = min(rows, first + VERSIONS_A_STEP)
        for row in range(first, stop):
            lookup_row(snapshot, self._partition, row, self._tables)
        return stop >= rows


def lookup_row(
    snapshot: Snapshot,
    partition: int,
    row: int,
    tables: Mapping[Field | None, Table],
    *,
    max_bytes: int | None = None,
) -> bool:
    """Add a row to those of a partition's tables that have all before it. Some 10 us.

    Returns:
        False if nothing was added, because the value takes more than `max_bytes`.
    """
    behind = {name: table for name, table in tables.items() if table.rows == row}
    stored = version_of_row(snapshot, partition, row)
    if stored is None:
        for table in behind.values():
            table.append_unknown()
        return True
    data = NOT_KNOWN
    if any(name is not None for name in behind):
        if max_bytes is not None and len(stored.value or b"") > max_bytes:
            return False
        data = data_of(stored.value)
    for name, table in behind.items():
        append(name, table, stored.tags, data)
    return True
