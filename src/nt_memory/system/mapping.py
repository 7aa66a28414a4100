"""`map`: a sample of what an agent remembers, read as of a moment and laid out in two dimensions."""

from __future__ import annotations

import asyncio
import itertools
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.clock import to_datetime, turn
from nt_memory.errors import CorruptionError, InvalidInputError, TrimmedError, UnsupportedError
from nt_memory.namespace import check_agent
from nt_memory.records import AsOf
from nt_memory.replica import partition_name
from nt_memory.system.arguments import resolve
from nt_memory.system.memory_map import MemoryMap
from nt_memory.system.projecting import draw, principal_axes
from nt_memory.system.reads import read
from nt_memory.system.renumbering import check_rows_floor
from nt_memory.system.rows import version_of_row

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nt_memory.entries import Stored
    from nt_memory.reasoningbank import Pattern, ReasoningBank
    from nt_memory.system.engine import Engine
    from nt_memory.timeline import AsOfLike, Moment

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

MAX_SAMPLE = 10_000
MAX_RETRIES = 3
READS_A_TURN = 128
_EARLIEST_US = -62_135_596_800_000_000  # 0001-01-01, the earliest datetime


class _Sample(NamedTuple):
    """What a map shows, its vectors still where they are."""

    action_type: str
    total: int
    vectors: NDArray[np.float16]
    rows: Ints
    keys: tuple[str, ...]
    known_at_us: Ints
    outcomes: Floats
    scores: Floats
    tags: tuple[tuple[str, ...], ...]
    patterns: tuple[Pattern, ...]


class MapCalls:
    """`MemorySystem` inherits them."""

    _engine: Engine
    bank: ReasoningBank

    async def map(
        self,
        agent: str,
        *,
        action_type: str | None = None,
        as_of: AsOfLike | None = None,
        sample: int = 2_000,
        seed: int = 0,
    ) -> MemoryMap:
        """What an agent remembers, in two dimensions: for reports and dashboards.

        Points are projected onto the two principal axes of the sample, so nothing that became known
        after `as_of` moves a point, shows in it or chooses it. The same store, moment, sample and seed
        give the same map; a compaction that numbers rows anew may draw another sample of more than
        `sample` observations.

        Args:
            agent: Whose memories.
            action_type: Situations of these actions; "" for observations. None: of the only action
                type with situations by then, or observations if there is none.
            as_of: A time, a revision or `AsOf`; None for now.
            sample: Most points, 1 to 10,000.
            seed: Which sample, if there are more memories.

        Returns:
            The map; empty if there is nothing to show.

        Raises:
            InvalidInputError: `sample` or `seed` is malformed, or no action type was named and the
                agent has situations of several.
            LookAheadError: `as_of` lies past a backtest's now.
            TrimmedError: some of what was in force at `as_of` was dropped (retention, `history`).
            UnsupportedError: observations are wanted that are searched on the server of `agentdb_url`.

        Cost: reads `sample` vectors and keys, and 30 nanoseconds a memory to choose them; then
            `principal_axes`. Off the event loop, but for the keys, which are read in turns.
        """
        self._engine.check_usable()
        check_agent(agent)
        _check_int(sample, "sample", 1, MAX_SAMPLE)
        _check_int(seed, "seed", -(1 << 63), (1 << 63) - 1)
        moment = resolve(self._engine, as_of)
        found: _Sample | None = None
        if action_type != "":
            found = await self._situations(agent, action_type, moment, sample, seed)
        if found is None and action_type:
            found = _nothing(action_type)
        elif found is None:
            found, moment = await self._observations(agent, as_of, moment, sample, seed)
        return await asyncio.to_thread(_lay_out, agent, moment, found)

    async def _situations(
        self, agent: str, action_type: str | None, moment: Moment, size: int, seed: int
    ) -> _Sample | None:
        found = await self.bank.situations(agent, action_type, moment)
        if found is None:
            return None
        chosen = np.sort(await asyncio.to_thread(draw, found.rows, size, seed))
        described = await found.describe(chosen)
        return _Sample(
            found.action_type,
            len(found.rows),
            self._vectors(partition_name(agent, found.partition)),
            found.rows[chosen],
            described.keys,
            described.known_at_us,
            described.outcomes,
            described.scores,
            ((),) * len(chosen),
            found.patterns,
        )

    async def _observations(
        self, agent: str, as_of: AsOfLike | None, moment: Moment, size: int, seed: int
    ) -> tuple[_Sample, Moment]:
        """A sample of observations, and the moment it shows: a later one than `moment` if need be."""
        engine = self._engine
        if engine.remote is not None:
            raise UnsupportedError("agentdb_url: a map of observations needs the embedded vectors")
        for attempt in itertools.count():
            numbering = engine.rows.numbering
            if as_of is not None:
                check_rows_floor(engine.snapshot, agent, moment)
            # After a few tries it stays on the loop, where nothing can drop a version.
            found = await self._observed(agent, moment, size, seed, stay=attempt >= MAX_RETRIES)
            if found is not None:
                return found, moment
            if as_of is None:
                moment = resolve(engine, None)
            elif engine.rows.numbering == numbering:
                raise TrimmedError("some of what was in force then was dropped", oldest=0)
        raise AssertionError  # pragma: no cover

    async def _observed(
        self, agent: str, moment: Moment, size: int, seed: int, *, stay: bool
    ) -> _Sample | None:
        """None if a version was dropped or rows were numbered anew meanwhile."""
        engine = self._engine
        name = partition_name(agent, "")
        numbering, partition = engine.rows.numbering, engine.rows.partitions.get(name)
        if partition is None:
            return _nothing("")

        def choose() -> tuple[Ints, int]:
            rows, doubt = engine.vectors.rows_at(partition, moment.time_us, moment.revision)
            return rows[draw(rows, size + int(np.count_nonzero(doubt)), seed)], len(rows)

        rows, total = choose() if stay else await asyncio.to_thread(choose)
        looked_up = await self._versions(partition, rows, size, moment, stay=stay)
        if looked_up is None or engine.rows.numbering != numbering:
            return None  # a partition that was gone when it was looked up would have seemed empty
        looked_up.sort(key=itemgetter(0))
        versions = [stored for _, stored in looked_up]
        try:
            vectors = self._vectors(name)
        except CorruptionError:
            # A follower may not know yet that the partition has another id, and another file.
            if engine.is_read_only:
                await engine.catch_up()
            if engine.rows.numbering == numbering:
                raise
            return None
        return _Sample(
            "",
            total,
            vectors,
            np.array([row for row, _ in looked_up], np.int64),
            tuple(stored.key for stored in versions),
            np.array([stored.known_at for stored in versions], np.int64),
            np.full(len(versions), np.nan),
            np.full(len(versions), np.nan),
            tuple(tuple(stored.tags) for stored in versions),
            (),
        )

    async def _versions(
        self, partition: int, rows: Ints, size: int, moment: Moment, *, stay: bool
    ) -> list[tuple[int, Stored]] | None:
        """The first `size` of `rows` that are in force, and their versions; None as `_observed`."""
        engine = self._engine
        found: list[tuple[int, Stored]] = []
        for count, row in enumerate(rows.tolist(), start=1):
            if count % READS_A_TURN == 0 and not stay:
                await turn()
            stored = version_of_row(engine.snapshot, partition, row)
            if stored is None:
                return None
            if _is_in_force(engine, stored, moment):
                found.append((row, stored))
            if len(found) == size:
                break
        return found

    def _vectors(self, name: bytes) -> NDArray[np.float16]:
        """All rows of a partition, mapped; they stay readable should the file be removed."""
        engine = self._engine
        row = engine.snapshot.partition(name)
        assert row is not None  # noqa: S101 - it has rows
        return engine.opened.files.rows(row.file, row.dim, engine.rows.counts[row.id])


def _nothing(action_type: str) -> _Sample:
    none, unknown = np.empty(0, np.int64), np.empty(0)
    vectors = np.empty((0, 1), np.float16)
    return _Sample(action_type, 0, vectors, none, (), none, unknown, unknown, (), ())


def _check_int(value: int, what: str, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInputError(f"{what} must be an int from {low} to {high}, not {value!r}")


def _is_in_force(engine: Engine, stored: Stored, moment: Moment) -> bool:
    # Rows say when they ended by the last entry that ended them; at an earlier revision than that
    # only the versions say whether one was in force.
    if moment.revision >= engine.revision:
        return True
    found = read(engine.snapshot, stored.space, stored.agent, stored.key, moment, is_now=False)
    return found is not None and found.revision == stored.revision


def _lay_out(agent: str, moment: Moment, found: _Sample) -> MemoryMap:
    """The map of a sample. Reads the vectors, so it may wait for the disk."""
    vectors = found.vectors[found.rows].astype(np.float32)
    plane = principal_axes(vectors)
    # Patterns distilled before the situations were embedded anew have no place among these.
    patterns = tuple(one for one in found.patterns if len(one.centroid) == vectors.shape[1])
    centroids = np.empty((0, vectors.shape[1]), np.float32)
    nearest = np.full(len(vectors), -1, np.int64)
    if patterns:
        centroids = np.stack([one.centroid for one in patterns])
        nearest = np.argmax(vectors @ centroids.T, axis=1)
    return MemoryMap(
        agent,
        found.action_type,
        AsOf(to_datetime(max(moment.time_us, _EARLIEST_US)), moment.revision),
        found.total,
        found.keys,
        plane.project(vectors),
        found.known_at_us.astype("datetime64[us]"),
        found.outcomes,
        found.scores,
        found.tags,
        patterns,
        plane.project(centroids),
        nearest,
        plane.explained,
    )
