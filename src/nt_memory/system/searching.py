"""From queries to hits: candidates from the vector tier, read and filtered, best first."""

from __future__ import annotations

import asyncio
import functools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nt_memory.clock import to_datetime, turn
from nt_memory.codec import decode, is_filed
from nt_memory.records import Hit
from nt_memory.system.reads import read, value_of
from nt_memory.system.rows import versions_of_rows
from nt_memory.tiers.layout import parse_name, to_stored
from nt_memory.tiers.vectors import Candidates

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from numpy.typing import NDArray

    from nt_memory.entries import Stored
    from nt_memory.filters import Filter
    from nt_memory.system.engine import Engine
    from nt_memory.system.filtering import FilterTables, Sieve
    from nt_memory.system.rows import Found
    from nt_memory.tiers.vectors import Step
    from nt_memory.timeline import Moment

OFF_LOOP_ELEMENTS = 200_000
WIDEN = 8
APPROXIMATE_LIMIT = 2_000
READS_A_TURN = 128

PATIENCE = 500
"""Once more candidates than this have to be read, what is being built to filter by is waited for."""

TWO_THREADS_ELEMENTS = 1 << 24
"""A search of several partitions, or for several queries, that compares so many values is split between
two threads: 3 ms on one. Two and not as many as there are cores, so that a backtest's answers do not
depend on the machine."""

TWO_SCANS_ELEMENTS = 1 << 22
"""The same where partitions are scanned and none has a graph: they take as long as they have values, so the halves
are even. 20 x 50,000 x 14 took 3.6 ms on one thread."""

GRAPH_ELEMENTS = 1 << 21
"""A search of a graph takes as long as comparing so many values."""

QUICK_NS = 150_000
"""What took no longer than this lately stays on the loop."""

ALONE_NS = 3_000_000
"""So does what usually took no longer than this, if nobody else searches: at 1M x 384 a search takes 0.6 ms on the
loop and 1.1 ms by way of another core, whose caches are cold. Several at once are better off on threads."""


class Query(NamedTuple):
    """Searches that differ in nothing but the vector, their arguments checked.

    Attributes:
        agents: Whose observations each partition holds.
        queries: Unit vectors, shape (m, dim).
        top_k: Wanted hits each.
        moment: As of when.
        tags: Wanted tags.
        where: What the data must pass; None: anything.
        exact: Scan.
    """

    agents: dict[int, str]
    queries: NDArray[np.float32]
    top_k: int
    moment: Moment
    tags: tuple[str, ...]
    where: Filter | None
    exact: bool

    @property
    def is_filtered(self) -> bool:
        """Whether there is anything to pass."""
        return bool(self.tags) or self.where is not None

    def accepts(self, tags: Sequence[str], data: Any) -> bool:
        """Whether a version passes."""
        if self.tags and not set(self.tags).issubset(tags):
            return False
        return self.where is None or self.where.accepts(data)


@dataclass(slots=True)
class Plan:
    """How a search was done: filled in by it.

    Attributes:
        agents: Whose observations each partition holds.
        steps: What the vector tier did in the last round, by partition.
        by: By partition, how the filters were evaluated.
        rounds: How often candidates were asked for.
        reads: Records that were read.
    """

    agents: dict[int, str] = field(default_factory=dict[int, str])
    steps: list[Step] = field(default_factory=list["Step"])
    by: dict[int, tuple[str, ...]] = field(default_factory=dict[int, tuple[str, ...]])
    rounds: int = 0
    reads: int = 0


async def search(
    engine: Engine, tables: FilterTables, query: Query, *, stay: bool, plan: Plan | None = None
) -> list[list[Hit]] | None:
    """Widen each search until enough candidates are accepted, or all rows were looked at.

    None if the version behind a candidate was dropped meanwhile, or if partitions got other ids: then
    `RowCounts.numbering` is another than before, and the query has to be made anew.
    """
    return await _Search(engine, tables, query, stay=stay, plan=plan or Plan()).hits()


class _Search:
    """One call of `search`."""

    def __init__(
        self, engine: Engine, tables: FilterTables, query: Query, *, stay: bool, plan: Plan
    ) -> None:
        self._engine = engine
        self._tables = tables
        self._query = query
        self._stay = stay
        self._plan = plan
        self._explains = bool(plan.agents)
        self._numbering = engine.rows.numbering
        self._total = sum(engine.rows.counts[partition] for partition in query.agents)
        self._sieve: Sieve | None = None

    async def hits(self) -> list[list[Hit]] | None:
        """See `search`."""
        query = self._query
        hits: list[list[Hit]] = [[] for _ in query.queries]
        # What a backtest answers must not depend on how far a table has come.
        await self._filter(waits=self._engine.timeline.is_backtest)
        left, wanted, may_wait = list(range(len(hits))), query.top_k, True
        while left:
            left_over = await self._round(left, wanted, hits)
            if left_over is None:
                return None
            left, wanted = left_over, min(self._total, wanted * WIDEN)
            if left and wanted > PATIENCE and may_wait and self._has_to_read:
                may_wait = False
                await self._filter(waits=True)
                if not self._has_to_read:
                    wanted = query.top_k
        return hits

    @property
    def _has_to_read(self) -> bool:
        return self._sieve is not None and not self._sieve.is_whole

    async def _filter(self, *, waits: bool) -> None:
        """Find out what passes, as far as is known without reading, or waiting if told to."""
        query = self._query
        if query.is_filtered:
            self._sieve = self._tables.sieve(query.agents, query.tags, query.where)
            if waits and not self._stay and self._has_to_read:
                await self._tables.complete(query.agents)
                if self._engine.rows.numbering == self._numbering:
                    self._sieve = self._tables.sieve(query.agents, query.tags, query.where)

    async def _round(
        self, places: Sequence[int], wanted: int, hits: list[list[Hit]]
    ) -> list[int] | None:
        """Answer some of the queries by their best `wanted` rows; those that needs more for.

        None: see `search`.
        """
        query, plan = self._query, self._plan
        plan.steps.clear()
        plan.rounds += 1
        plan.by = {part.partition: part.by for part in self._sieve.parts} if self._sieve else {}
        found = await search_rows(
            self._engine,
            list(query.agents),
            query.queries if len(places) == len(hits) else query.queries[places],
            wanted,
            query.moment,
            sieve=self._sieve,
            exact=query.exact or wanted > APPROXIMATE_LIMIT,
            stay=self._stay,
            steps=plan.steps if self._explains else None,
        )
        if self._engine.rows.numbering != self._numbering:
            return None  # a partition that was gone when it was looked up would have seemed empty
        short: list[int] = []
        for place, candidates in zip(places, found, strict=True):
            accepted = await self._accepted(candidates)
            if accepted is None:
                return None
            is_short = len(accepted) < query.top_k and wanted < self._total
            if is_short and len(candidates.row) >= wanted:
                short.append(place)
                continue
            accepted.sort(key=lambda hit: (-hit.score, hit.key, hit.agent))
            hits[place] = accepted[: query.top_k]
        return short

    async def _accepted(self, candidates: Candidates) -> list[Hit] | None:
        """The candidates that are in force and pass, as hits; stops after the last needed.

        None if the version of one was dropped.
        """
        hits: list[Hit] = []
        query, wanted = self._query, self._query.top_k
        is_filtered = query.is_filtered
        found = list(zip(*(column.tolist() for column in candidates), strict=True))
        at = 0
        while at < len(found) and (len(hits) < wanted or found[at][2] >= hits[wanted - 1].score):
            # So many more are needed; past them only ties matter.
            part = found[at : at + min(max(wanted - len(hits), 1), READS_A_TURN)]
            at += len(part)
            await self._count(len(part))
            versions = versions_of_rows(self._engine.snapshot, [place[:2] for place in part])
            if versions is None:
                return None
            for row, (_, _, score, is_ambiguous) in zip(versions, part, strict=True):
                if is_ambiguous and not self._is_in_force(row):
                    continue
                name, known_at, revision, version = row
                _, agent, key = parse_name(name)
                value = version.value
                if value is None or is_filed(value):
                    data = await self._filed(to_stored(*row))
                else:
                    data = decode(value)
                if is_filtered and not query.accepts(version.tags, data):
                    continue
                hits.append(Hit(key, score, data, to_datetime(known_at), revision, agent))
        return hits

    async def _count(self, reads: int) -> None:
        """Before so many records are read: now and then the loop gets a turn."""
        before, self._plan.reads = self._plan.reads, self._plan.reads + reads
        if before // READS_A_TURN != self._plan.reads // READS_A_TURN and not self._stay:
            await turn()

    async def _filed(self, stored: Stored) -> Any:
        """The value of a version, where it is kept in a file, or of a delete."""
        values = self._engine.values
        if self._stay or stored.value is None:
            return value_of(stored, values)
        with values.keep([stored.value]):
            return await asyncio.to_thread(value_of, stored, values)

    def _is_in_force(self, row: Found) -> bool:
        snapshot, moment = self._engine.snapshot, self._query.moment
        found = read(snapshot, *parse_name(row.name), moment, is_now=False)
        return found is not None and found.revision == row.revision


async def search_rows(
    engine: Engine,
    partitions: Sequence[int],
    queries: NDArray[np.float32],
    k: int,
    moment: Moment,
    *,
    allow: Mapping[int, NDArray[np.bool_]] | None = None,
    sieve: Sieve | None = None,
    exact: bool = False,
    stay: bool = False,
    steps: list[Step] | None = None,
) -> list[Candidates]:
    """Candidates per query; big searches leave the loop, unless told to `stay`.

    Args:
        engine: Whose vectors.
        partitions: Where to search.
        queries: Unit vectors, shape (m, dim).
        k: Wanted rows each.
        moment: Which rows are in force.
        allow: By partition, which rows may be returned; None: as `sieve` says.
        sieve: Which rows may be returned; None: all.
        exact: Scan.
        stay: Do not let the loop go on meanwhile.
        steps: Where to say how it was done.
    """
    kind = (*partitions, len(queries), k, sieve is None and allow is None, exact)

    def search(some: Sequence[int], of: NDArray[np.float32]) -> list[Candidates]:
        start = engine.pace.now_ns()
        found = engine.vectors.search(
            some,
            of,
            k,
            time_us=moment.time_us,
            revision=moment.revision,
            allow=allow if sieve is None else sieve.masks(),
            exact=exact,
            steps=steps,
        )
        if some is partitions and of is queries:
            engine.pace.took(kind, start)
        return found

    values = [engine.rows.counts[partition] * queries.size for partition in partitions]
    if stay or sum(values) <= OFF_LOOP_ELEMENTS:
        return search(partitions, queries)
    most = sum(values) if exact else GRAPH_ELEMENTS * len(queries)
    if sum(min(some, most) for some in values) < _worth_splitting(engine, partitions, len(queries)):
        with engine.pace.searching() as others:
            loop = asyncio.get_running_loop()
            if await _may_stay(engine, partitions, kind, others):
                engine.turns.keep(loop)
                return search(partitions, queries)
            return await loop.run_in_executor(None, search, partitions, queries)
    with engine.pace.searching():
        return await _split(engine, partitions, queries, k, sieve, search)


def _worth_splitting(engine: Engine, partitions: Sequence[int], queries: int) -> float:
    if engine.vectors.is_scanned_by_two(partitions, queries):
        return math.inf
    is_scan = len(partitions) > 1 and not any(map(engine.vectors.is_indexed, partitions))
    return TWO_SCANS_ELEMENTS if is_scan else TWO_THREADS_ELEMENTS


async def _may_stay(
    engine: Engine, partitions: Sequence[int], kind: Hashable, others: Callable[[], int]
) -> bool:
    """Whether a search is so quick that it had better not leave the loop."""
    if not engine.pace.is_within(kind, QUICK_NS):
        if not engine.pace.is_usually_within(kind, ALONE_NS):
            return False
        if engine.turns.is_loop_behind:
            await turn()  # who wants to search at the same time has begun after that
        if others():
            return False
    return engine.vectors.is_settled(partitions)


async def _split(
    engine: Engine,
    partitions: Sequence[int],
    queries: NDArray[np.float32],
    k: int,
    sieve: Sieve | None,
    search: Callable[[Sequence[int], NDArray[np.float32]], list[Candidates]],
) -> list[Candidates]:
    """A search on two threads, where it can be split."""
    loop = asyncio.get_running_loop()
    jobs = [functools.partial(search, *job) for job in _jobs(engine, partitions, queries)]
    if sieve is not None and len(jobs) > 1:
        await loop.run_in_executor(None, sieve.masks)  # once, for both
    found = await asyncio.gather(*(loop.run_in_executor(None, job) for job in jobs))
    if len(partitions) > 1:
        return [merged(halves, k) for halves in zip(*found, strict=True)]
    return [candidates for half in found for candidates in half]


def _jobs(
    engine: Engine, partitions: Sequence[int], queries: NDArray[np.float32]
) -> list[tuple[Sequence[int], NDArray[np.float32]]]:
    """A search as two, of half the partitions or half the queries each; or as one."""
    if len(partitions) > 1:
        return [(half, queries) for half in _halves(engine, partitions)]
    if len(queries) > 1:
        middle = len(queries) // 2
        return [(partitions, queries[:middle]), (partitions, queries[middle:])]
    return [(partitions, queries)]


def _halves(engine: Engine, partitions: Sequence[int]) -> tuple[list[int], list[int]]:
    """The partitions in two groups of about as many rows."""
    halves: tuple[list[int], list[int]] = ([], [])
    rows = [0, 0]
    counts = engine.rows.counts
    for partition in sorted(dict.fromkeys(partitions), key=lambda one: (-counts[one], one)):
        lighter = rows.index(min(rows))
        halves[lighter].append(partition)
        rows[lighter] += counts[partition]
    return halves


def merged(found: Sequence[Candidates], k: int) -> Candidates:
    """The best `k` rows, and exact ties with the last, of what searches of different partitions found.

    Each of them has its own best `k` and their ties, so nothing that belongs here is missing.
    """
    partition, row, score, is_ambiguous = (
        np.concatenate(columns) for columns in zip(*found, strict=True)
    )
    order = np.lexsort((row, partition, -score))
    if len(order) > k:
        order = order[score[order] >= score[order[k - 1]]]
    return Candidates(partition[order], row[order], score[order], is_ambiguous[order])
