"""From vector rows back to the records they belong to."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from nt_memory.replica import Observed
from nt_memory.tiers.layout import to_stored, version_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nt_memory.entries import Stored
    from nt_memory.replica import Change, Moved
    from nt_memory.system.engine import Engine


class TagRows:
    """Which rows of a partition carry which tag; built when a partition is first asked.

    What a row carried whose version was dropped before that is not known. Such a row has ended, so it is
    met as of the past only, and there it must be met, whatever the tags: the answer is then not known
    either, and the search says so.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._rows: dict[int, dict[str, list[int]]] = {}
        self._unknown: dict[int, list[int]] = {}

    def follow(self, changes: Sequence[Change | Observed]) -> None:
        """New observations became visible."""
        for change in changes:
            if isinstance(change, Observed):
                self._follow_many(change)
                continue
            table = self._rows.get(change.stored.partition)
            if table is not None:
                for tag in change.stored.tags:
                    table.setdefault(tag, []).append(change.stored.row)

    def _follow_many(self, observed: Observed) -> None:
        table = self._rows.get(observed.partition)
        if table is not None and observed.body.labels:
            for tag, rows in observed.rows_by_tag().items():
                table.setdefault(tag, []).extend(rows)

    def drop(self, moved: Sequence[Moved]) -> None:
        """Partitions have other ids; their tables are built anew when they are asked."""
        for partition in moved:
            if partition.old is not None:
                self._rows.pop(partition.old, None)
                self._unknown.pop(partition.old, None)

    def mask(self, partition: int, tags: Sequence[str]) -> NDArray[np.bool_]:
        """Rows that carry all of `tags`, and those of which that is not known any more."""
        table = self._rows.get(partition)
        if table is None:
            table = self._rows[partition] = self._load(partition)
        rows = [set(table.get(tag, ())) for tag in tags]
        common = sorted(set.intersection(*rows).union(self._unknown[partition]))
        mask = np.zeros(common[-1] + 1 if common else 0, dtype=np.bool_)
        mask[common] = True
        return mask

    def _load(self, partition: int) -> dict[str, list[int]]:
        table: dict[str, list[int]] = {}
        unknown = self._unknown[partition] = []
        for row in itertools.count():
            stored = version_of_row(self._engine, partition, row)
            if stored is not None:
                for tag in stored.tags:
                    table.setdefault(tag, []).append(row)
            elif self._engine.snapshot.vector_row(partition, row) is None:
                return table
            else:
                unknown.append(row)
        raise AssertionError  # pragma: no cover


def version_of_row(engine: Engine, partition: int, row: int) -> Stored | None:
    """The version a vector row belongs to; None if `history` dropped it."""
    found = engine.snapshot.vector_row(partition, row)
    if found is None:
        return None
    key = version_key(found.name, found.from_us, found.revision)
    version = engine.snapshot.version(key)
    if version is None or version.row != row:
        return None
    return to_stored(found.name, found.from_us, found.revision, version)
