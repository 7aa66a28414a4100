"""From a query to hits: candidates from the vector tier, read and filtered, best first."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nt_memory.clock import to_datetime, turn
from nt_memory.codec import is_filed
from nt_memory.records import Hit
from nt_memory.system.reads import read, value_of
from nt_memory.system.rows import version_of_row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from nt_memory.entries import Stored
    from nt_memory.filters import Predicate
    from nt_memory.system.engine import Engine
    from nt_memory.timeline import Moment

OFF_LOOP_ELEMENTS = 200_000
WIDEN = 8
APPROXIMATE_LIMIT = 2_000
READS_A_TURN = 128


class Query(NamedTuple):
    """A search, its arguments checked."""

    partitions: list[int]
    query: NDArray[np.float32]
    top_k: int
    moment: Moment
    allow: Mapping[int, NDArray[np.bool_]] | None
    accept: Predicate | None
    exact: bool


async def search(engine: Engine, query: Query, *, stay: bool) -> list[Hit] | None:
    """Widen the search until enough candidates are accepted, or all rows were looked at.

    None if the version behind a candidate was dropped meanwhile, or if partitions got other ids: then
    `RowCounts.numbering` is another than before, and the query has to be made anew.
    """
    numbering = engine.rows.numbering
    total = sum(engine.rows.counts[partition] for partition in query.partitions)
    wanted = query.top_k
    while True:
        exact = query.exact or wanted > APPROXIMATE_LIMIT
        found = await search_rows(
            engine,
            query.partitions,
            query.query,
            wanted,
            query.moment,
            allow=query.allow,
            exact=exact,
            stay=stay,
        )
        if engine.rows.numbering != numbering:
            return None  # a partition that was gone when it was looked up would have seemed empty
        candidates = found[0]
        hits = await _accepted(engine, candidates, query, stay=stay)
        if hits is None:
            return None
        if len(hits) >= query.top_k or len(candidates.row) < wanted or wanted >= total:
            hits.sort(key=lambda hit: (-hit.score, hit.key, hit.agent))
            return hits[: query.top_k]
        wanted = min(total, wanted * WIDEN)


async def search_rows(
    engine: Engine,
    partitions: Sequence[int],
    queries: NDArray[np.float32],
    k: int,
    moment: Moment,
    *,
    allow: Mapping[int, NDArray[np.bool_]] | None = None,
    exact: bool = False,
    stay: bool = False,
) -> list[Any]:
    """Candidates per query; big searches leave the loop, unless told to `stay`."""

    def search() -> list[Any]:
        return engine.vectors.search(
            partitions,
            queries,
            k,
            time_us=moment.time_us,
            revision=moment.revision,
            allow=allow,
            exact=exact,
        )

    rows = sum(engine.rows.counts[partition] for partition in partitions)
    if stay or rows * queries.size <= OFF_LOOP_ELEMENTS:
        return search()
    return await asyncio.to_thread(search)


async def _accepted(
    engine: Engine, candidates: Any, query: Query, *, stay: bool
) -> list[Hit] | None:
    """The candidates that are in force and pass `where`, as hits; stops after the last needed."""
    hits: list[Hit] = []
    needed_score = -2.0
    columns = zip(
        candidates.partition.tolist(),
        candidates.row.tolist(),
        candidates.score.tolist(),
        candidates.is_ambiguous.tolist(),
        strict=True,
    )
    for count, (partition, row, score, is_ambiguous) in enumerate(columns, start=1):
        if score < needed_score:
            break
        if count % READS_A_TURN == 0 and not stay:
            await turn()
        stored = version_of_row(engine, partition, row)
        if stored is None:
            return None
        if is_ambiguous and not _is_in_force(engine, stored, query.moment):
            continue
        hit = await _to_hit(engine, stored, score, stay=stay)
        if query.accept is not None and not query.accept(hit.data):
            continue
        hits.append(hit)
        if len(hits) == query.top_k:
            needed_score = score  # later ones matter only as ties
    return hits


async def _to_hit(engine: Engine, stored: Stored, score: float, *, stay: bool) -> Hit:
    if stay or stored.value is None or not is_filed(stored.value):
        data = value_of(stored, engine.values)
    else:
        with engine.values.keep([stored.value]):
            data = await asyncio.to_thread(value_of, stored, engine.values)
    return Hit(
        stored.key,
        score,
        data,
        to_datetime(stored.known_at),
        stored.revision,
        stored.agent,
    )


def _is_in_force(engine: Engine, stored: Stored, moment: Moment) -> bool:
    found = read(engine.snapshot, stored.space, stored.agent, stored.key, moment, is_now=False)
    return found is not None and found.revision == stored.revision
