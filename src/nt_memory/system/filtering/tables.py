"""The tables that filters are evaluated on: made when first asked for, kept current, bounded in bytes.

A table is of the tags or of one field of the observations of one partition. It holds what the first
rows say, and may lack later ones; rows it lacks, and a table that is not there, mean that candidates
are read instead. So a table can be made beside the loop, can fall behind, and can be dropped at any
time, and no search waits for one unless that takes less long than reading.

All calls are the event loop's. While a partition's tables are being built by another thread, nobody
else adds to them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from nt_memory.errors import ClosedError, NtMemoryError
from nt_memory.filters import fields_of
from nt_memory.replica import Observed
from nt_memory.system.filtering.building import (
    NOT_KNOWN,
    Build,
    append,
    data_of,
    lookup_row,
)
from nt_memory.system.filtering.columns import FieldColumn
from nt_memory.system.filtering.sieve import Part, Sieve
from nt_memory.system.filtering.tags import TagRows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from nt_memory.entries import Stored
    from nt_memory.filters import Field, Filter
    from nt_memory.replica import Change, Moved
    from nt_memory.system.engine import Engine
    from nt_memory.system.filtering.building import Table

TAGS = None
"""Name of the table of tags; a field's table is named by the field."""

ROWS_AT_ONCE = 16
"""So many rows are looked up on the loop."""

MANY_ROWS = 64
"""Of more rows at once than these columns are not told: they fall behind."""

LOOP_VALUE_BYTES = 4096
"""A greater value is not decoded on the loop."""

IDLE_ROWS = 20_000
"""After so many new rows without a search that asked for it a column falls behind."""

ROWS_A_CHECK = 4096
ALONE_SHARE = 2
"""A table of more than the budget over this is not kept."""


class _Tables:
    """The tables of one partition."""

    def __init__(self, agent: str) -> None:
        self.agent = agent
        self.tables: dict[Field | None, Table] = {}
        self.asked: dict[Field | None, int] = {}
        self.wanted: dict[Field | None, None] = {}
        self.refused: set[Field | None] = set()
        self.idle = 0
        self.building: asyncio.Task[None] | None = None

    def append(self, stored: Stored) -> bool:
        """Add a row to the tables that have all before it; whether any did."""
        row = stored.row
        names = [name for name, table in self.tables.items() if table.rows == row]
        data = NOT_KNOWN
        if any(name is not TAGS for name in names):
            value = stored.value
            self.idle += 1
            if self.idle > IDLE_ROWS or value is None or len(value) > LOOP_VALUE_BYTES:
                names = [name for name in names if name is TAGS]
            else:
                data = data_of(value)
        for name in names:
            append(name, self.tables[name], stored.tags, data)
        return bool(names)

    def extend(self, observed: Observed) -> bool:
        """Add rows to the tables that have all before them; whether any did."""
        count = len(observed.body.keys)
        tags = self.tables.get(TAGS)
        is_current = isinstance(tags, TagRows) and tags.rows == observed.first_row
        if isinstance(tags, TagRows) and is_current:
            tags.extend(count, observed.rows_by_tag())
        if len(self.tables) > is_current and count <= MANY_ROWS:
            for change in observed.changes():
                is_current |= self.append(change.stored)
        return is_current


class FilterTables:
    """All tables of one memory.

    Args:
        engine: Whose observations.
        max_bytes: What all tables may hold together; those asked for least recently go first.
    """

    def __init__(self, engine: Engine, max_bytes: int) -> None:
        self._engine = engine
        self._max_bytes = max_bytes
        self._partitions: dict[int, _Tables] = {}
        self._stamp = 0
        self._unchecked = 0
        self._is_closed = False

    @property
    def held_bytes(self) -> int:
        """Bytes of all tables. O(tables)."""
        return sum(
            table.held_bytes for one in self._partitions.values() for table in one.tables.values()
        )

    def follow(self, changes: Sequence[Change | Observed]) -> None:
        """New observations became visible. Under a microsecond each, where their fields are not used."""
        for change in changes:
            if isinstance(change, Observed):
                one = self._partitions.get(change.partition)
                if one is not None and one.building is None:
                    self._unchecked += one.extend(change) * len(change.body.keys)
            else:
                one = self._partitions.get(change.stored.partition)
                if one is not None and one.building is None:
                    self._unchecked += one.append(change.stored)

    def drop(self, moved: Sequence[Moved]) -> None:
        """Partitions have other ids; their tables are built anew when they are asked for."""
        for partition in moved:
            one = None if partition.old is None else self._partitions.pop(partition.old, None)
            if one is not None and one.building is not None:
                one.building.cancel()

    def close(self) -> None:
        """Build nothing any more. Idempotent."""
        self._is_closed = True
        for one in self._partitions.values():
            if one.building is not None:
                one.building.cancel()

    def sieve(self, agents: Mapping[int, str], tags: Sequence[str], where: Filter | None) -> Sieve:
        """What passes in some partitions; tables that are missing for it are begun.

        Args:
            agents: Whose observations each partition holds.
            tags: Wanted tags.
            where: What the data must pass; None: anything.

        Cost: microseconds, and 0.2 ms where rows have to be looked up.
        """
        if self._unchecked >= ROWS_A_CHECK:
            self._bound(())
        self._stamp += 1
        fields = [] if where is None else list(dict.fromkeys(fields_of(where)))
        names: list[Field | None] = [TAGS, *fields] if tags else [*fields]
        parts = [self._part(number, agent, names, tags) for number, agent in agents.items()]
        return Sieve(parts, where)

    async def complete(self, partitions: Iterable[int]) -> None:
        """Wait until nothing is being built for some partitions any more."""
        for number in partitions:
            one = self._partitions.get(number)
            if one is not None and one.building is not None:
                await asyncio.wait({one.building})

    # --- inside -------------------------------------------------------------------------------

    def _part(
        self, number: int, agent: str, names: Sequence[Field | None], tags: Sequence[str]
    ) -> Part:
        rows = self._engine.rows.counts[number]
        one = self._partitions.get(number)
        if one is None:
            one = self._partitions[number] = _Tables(agent)
        one.idle = 0
        for name in names:
            one.asked[name] = self._stamp
        self._catch_up(number, one, names, rows)
        there = {name: table for name, table in one.tables.items() if name in names}
        columns = {
            name: table.view
            for name, table in there.items()
            if name is not None and isinstance(table, FieldColumn)
        }
        table = there.get(TAGS)
        # In this order: rows that another thread adds in between are in the bitmap, and not counted.
        tagged_rows = 0 if table is None else table.rows
        tagged = table.rows_with(tags) if isinstance(table, TagRows) else None
        covered = [tagged_rows] * bool(tags) + [view.rows for view in columns.values()]
        is_whole = len(there) == len(names) and min(covered, default=0) >= rows
        by = ["tags"] * (tagged is not None) + ["columns"] * bool(columns)
        by += ["reading"] * (not is_whole)
        return Part(number, rows, tagged, tagged_rows, columns, tuple(by), is_whole)

    def _catch_up(
        self, number: int, one: _Tables, names: Sequence[Field | None], rows: int
    ) -> None:
        """Have the tables, with all rows: at once if there are few, else on another thread."""
        wanted = [name for name in names if name not in one.refused]
        if one.building is not None:
            one.wanted.update(dict.fromkeys(wanted))
            return
        there = {name: one.tables[name] for name in wanted if name in one.tables}
        first = min((table.rows for table in there.values()), default=rows)
        snapshot = self._engine.snapshot
        if rows <= ROWS_AT_ONCE:
            missing = [name for name in wanted if name not in one.tables]
            for name in missing:
                one.tables[name] = there[name] = _new_table(name, 0)
            self._unchecked += rows * len(missing)
            first = 0 if missing else first
        if rows - first <= ROWS_AT_ONCE:
            for row in range(first, rows):
                if not lookup_row(snapshot, number, row, there, max_bytes=LOOP_VALUE_BYTES):
                    break
        is_whole = all(name in there and there[name].rows >= rows for name in wanted)
        if not is_whole and not self._is_closed:
            one.wanted.update(dict.fromkeys(wanted))
            one.building = asyncio.ensure_future(self._build(number, one))

    async def _build(self, number: int, one: _Tables) -> None:
        """Make what is wanted, until nothing is."""
        try:
            while one.wanted:
                names, one.wanted = list(one.wanted), {}
                await self._fill(number, one, names)
        except ClosedError:
            one.wanted = {}  # either all is closed, or the views are others now
        finally:
            one.building = None

    async def _fill(self, number: int, one: _Tables, names: Sequence[Field | None]) -> None:
        """Fill the tables of `names` that are missing or behind."""
        engine = self._engine
        rows = engine.rows.counts[number]
        fresh = {name: _new_table(name, rows) for name in names if name not in one.tables}
        behind = {name: one.tables[name] for name in names if name in one.tables}
        build = Build(lambda: engine.opened.cold, number, one.agent, fresh, behind)
        loop = asyncio.get_running_loop()
        try:
            while not await loop.run_in_executor(None, build.step, rows):
                self._refuse_large(one, build)
                rows = engine.rows.counts[number]
        except ClosedError:
            raise
        except NtMemoryError:
            # The views are damaged. Whoever reads what is damaged will say so.
            one.refused.update(names)
            return
        one.tables.update(build.fresh)
        self._refuse_large(one, build)
        self._bound([(one, name) for name in names])

    def _refuse_large(self, one: _Tables, build: Build) -> None:
        """Give up tables that would not leave room for others."""
        for tables in (build.fresh, one.tables):
            for name, table in list(tables.items()):
                if table.held_bytes > self._max_bytes // ALONE_SHARE:
                    one.refused.add(name)
                    build.forget(name)
                    tables.pop(name, None)

    def _bound(self, keep: Sequence[tuple[_Tables, Field | None]]) -> None:
        """Drop tables until all fit; last those to be kept, which are then not made again."""
        self._unchecked = 0
        held = self.held_bytes
        every = [(one, name) for one in self._partitions.values() for name in one.tables]
        every.sort(key=lambda place: (place in keep, place[0].asked.get(place[1], 0)))
        for one, name in every:
            if held <= self._max_bytes:
                return
            held -= one.tables.pop(name).held_bytes
            one.asked.pop(name, None)
            if (one, name) in keep:
                one.refused.add(name)


def _new_table(name: Field | None, rows: int) -> Table:
    return TagRows(rows) if name is TAGS else FieldColumn(rows)
