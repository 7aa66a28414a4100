"""From vector rows back to the records they belong to."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from nt_memory.tiers.layout import to_stored, version_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from nt_memory.entries import Stored
    from nt_memory.replica import Change
    from nt_memory.system.engine import Engine


class TagRows:
    """Which rows of a partition carry which tag; built when a partition is first asked."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._rows: dict[int, dict[str, list[int]]] = {}

    def follow(self, changes: Sequence[Change]) -> None:
        """New tagged records became visible."""
        for change in changes:
            table = self._rows.get(change.stored.partition)
            if table is not None:
                for tag in change.stored.tags:
                    table.setdefault(tag, []).append(change.stored.row)

    def mask(self, partition: int, tags: Sequence[str]) -> NDArray[np.bool_]:
        """Rows that carry all of `tags`."""
        table = self._rows.get(partition)
        if table is None:
            table = self._rows[partition] = self._load(partition)
        rows = [set(table.get(tag, ())) for tag in tags]
        common = sorted(set.intersection(*rows))
        mask = np.zeros(common[-1] + 1 if common else 0, dtype=np.bool_)
        mask[common] = True
        return mask

    def _load(self, partition: int) -> dict[str, list[int]]:
        table: dict[str, list[int]] = {}
        for stored in partition_versions(self._engine, partition):
            for tag in stored.tags:
                table.setdefault(tag, []).append(stored.row)
        return table


def partition_versions(engine: Engine, partition: int) -> Iterator[Stored]:
    """The versions behind a partition's rows, in row order."""
    for row in itertools.count():
        stored = version_of_row(engine, partition, row)
        if stored is not None:
            yield stored
        elif engine.snapshot.vector_row(partition, row) is None:
            return


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
