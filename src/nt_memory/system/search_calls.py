"""Similarity search: the calls, from their arguments to hits."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from nt_memory.errors import (
    CorruptionError,
    DimensionError,
    InvalidInputError,
    TrimmedError,
)
from nt_memory.filters import parse_where
from nt_memory.namespace import check_agent, check_tags
from nt_memory.records import Explanation, SearchStep
from nt_memory.replica import partition_name
from nt_memory.system.arguments import resolve
from nt_memory.system.renumbering import check_rows_floor
from nt_memory.system.searching import Plan, Query, search
from nt_memory.system.units import to_unit, to_units

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from nt_memory.filters import Where
    from nt_memory.records import Hit
    from nt_memory.system.engine import Engine
    from nt_memory.system.filtering import FilterTables
    from nt_memory.timeline import AsOfLike, Moment

MAX_RETRIES = 3


class SearchCalls:
    """The searches of section Similarity; `MemorySystem` inherits them."""

    _engine: Engine
    _filters: FilterTables

    async def search_similar(
        self,
        agent: str | Sequence[str],
        query_embedding: ArrayLike,
        top_k: int = 10,
        *,
        as_of: AsOfLike | None = None,
        tags: Iterable[str] | None = None,
        where: Where | None = None,
        exact: bool = False,
    ) -> list[Hit]:
        """The observations most similar to a query.

        Args:
            agent: Whose observations; one agent or several.
            query_embedding: Shape (dim,), finite, any scale; normalised here, not modified.
            top_k: Wanted hits, >= 1; fewer only if fewer pass the filters.
            as_of: A time, a revision or `AsOf`; None for now.
            tags: Only observations that carry all of these.
            where: Only observations whose data passes this filter (see `filters`).
            exact: Scan instead of searching the graph.

        Returns:
            Hits, best first; score is the cosine similarity in [-1, 1]; ties by key.

        Raises:
            DimensionError: the query has another dimension than the observations.
            EmbeddingError: the query is malformed.
            InvalidInputError: `top_k` or `where` is malformed.
            UnsupportedError: with `agentdb_url`: `as_of`, `tags` or `exact` is given.
            VectorServerUnavailableError, VectorServerError: the server of `agentdb_url` is out of
                reach or busy, or refused.
            LookAheadError: `as_of` lies past a backtest's now.
            TrimmedError: some of what was in force at `as_of` was dropped (retention, `history`).

        Cost: about ef * log n distance computations, plus `top_k` reads of L3. The first use of tags,
            or of a field in `where`, makes a table beside the loop, some seconds for a million
            observations; until it is there the data of candidates is read, best first, until
            enough pass, which takes long only where few pass, and then the table is waited for.
        Source: Malkov & Yashunin 2018, Algorithm 5, as implemented by faiss.
        """
        queries = to_unit(query_embedding)[np.newaxis]
        (hits,) = await self._search(
            agent, queries, top_k, as_of, tags=tags, where=where, exact=exact
        )
        return hits

    async def explain_similar(
        self,
        agent: str | Sequence[str],
        query_embedding: ArrayLike,
        top_k: int = 10,
        *,
        as_of: AsOfLike | None = None,
        tags: Iterable[str] | None = None,
        where: Where | None = None,
        exact: bool = False,
    ) -> Explanation:
        """As `search_similar`, and how it was done.

        Args:
            agent: As there.
            query_embedding: As there.
            top_k: As there.
            as_of: As there.
            tags: As there.
            where: As there.
            exact: As there.

        Errors are those of `search_similar`.
        """
        queries = to_unit(query_embedding)[np.newaxis]
        plan = Plan()
        (hits,) = await self._search(
            agent, queries, top_k, as_of, tags=tags, where=where, exact=exact, plan=plan
        )
        steps = [
            SearchStep(plan.agents[step.partition], *step[1:], plan.by.get(step.partition, ()))
            for step in sorted(plan.steps)
        ]
        return Explanation(hits, steps, plan.rounds, plan.reads)

    async def search_many(
        self,
        agent: str | Sequence[str],
        query_embeddings: ArrayLike,
        top_k: int = 10,
        *,
        as_of: AsOfLike | None = None,
        tags: Iterable[str] | None = None,
        where: Where | None = None,
        exact: bool = False,
    ) -> list[list[Hit]]:
        """The observations most similar to each of several queries, all as of one moment.

        Args:
            agent: Whose observations; one agent or several.
            query_embeddings: Shape (m, dim), rows as in `search_similar`.
            top_k: Wanted hits a query.
            as_of: As in `search_similar`.
            tags: As in `search_similar`.
            where: As in `search_similar`.
            exact: As in `search_similar`.

        Returns:
            For each query what `search_similar` returns.

        Errors are those of `search_similar`.

        Cost: as so many searches, but for the filters, which are evaluated once, and for the scan
            of what is not in a graph; over 16 million values on two threads.
        """
        if np.ndim(query_embeddings) == 2 and np.shape(query_embeddings)[0] == 0:  # pyright: ignore[reportArgumentType, reportCallIssue]
            queries = np.empty((0, 0), np.float32)
        else:
            queries = to_units(query_embeddings)
        return await self._search(agent, queries, top_k, as_of, tags=tags, where=where, exact=exact)

    async def _search(
        self,
        agent: str | Sequence[str],
        queries: NDArray[np.float32],
        top_k: int,
        as_of: AsOfLike | None,
        *,
        tags: Iterable[str] | None,
        where: Where | None,
        exact: bool,
        plan: Plan | None = None,
    ) -> list[list[Hit]]:
        engine = self._engine
        engine.check_usable()
        if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(f"top_k must be an int >= 1, not {top_k!r}")
        names = [agent] if isinstance(agent, str) else list(dict.fromkeys(agent))
        accepts = None if where is None else parse_where(where)
        wanted = () if tags is None else check_tags(tags)
        query = Query({}, queries, top_k, resolve(engine, as_of), wanted, accepts, exact)
        for name in names:
            check_agent(name)
            if len(queries):
                self._check_dim(name, queries.shape[1])
        if engine.remote is not None:
            engine.remote.check(
                is_now=as_of is None, tags=bool(wanted), exact=exact, explains=plan is not None
            )
            return await engine.remote.search(names, queries, top_k, accepts)
        return await self._answer(names, query, plan, is_now=as_of is None)

    async def _answer(
        self, names: Sequence[str], query: Query, plan: Plan | None, *, is_now: bool
    ) -> list[list[Hit]]:
        """Ask until nothing is dropped or numbered anew under the search."""
        engine = self._engine
        for attempt in itertools.count():
            numbering = engine.rows.numbering
            agents = self._partitions(names, None if is_now else query.moment)
            if not agents or not len(query.queries):
                return [[] for _ in query.queries]
            if plan is not None:
                plan.agents = agents
            query = query._replace(agents=agents)
            # After a few tries the search stays on the loop, where nothing can drop a version.
            hits = await self._try(query, stay=attempt >= MAX_RETRIES, plan=plan)
            if hits is not None:
                return hits
            if is_now:
                query = query._replace(moment=resolve(engine, None))
            elif engine.rows.numbering == numbering:
                raise TrimmedError("some of what was in force then was dropped", oldest=0)
        raise AssertionError  # pragma: no cover

    async def _try(self, query: Query, *, stay: bool, plan: Plan | None) -> list[list[Hit]] | None:
        """As `search`."""
        engine = self._engine
        numbering = engine.rows.numbering
        try:
            return await search(engine, self._filters, query, stay=stay, plan=plan)
        except CorruptionError:
            # The file of a partition that has another id by now may have been removed; a follower
            # may not know yet that it has.
            if engine.is_read_only:
                await engine.catch_up()
            if engine.rows.numbering == numbering:
                raise
            return None

    def _partitions(self, agents: Sequence[str], as_of: Moment | None) -> dict[int, str]:
        """Ids of the partitions of agents' observations, as they are numbered now, and whose they are.

        Raises:
            TrimmedError: what was in force at `as_of` may have been given back.
        """
        engine = self._engine
        found: dict[int, str] = {}
        for agent in agents:
            partition = engine.rows.partitions.get(partition_name(agent, ""))
            if partition is not None:
                if as_of is not None:
                    check_rows_floor(engine.snapshot, agent, as_of)
                found[partition] = agent
        return found

    def _check_dim(self, agent: str, dim: int) -> None:
        engine, name = self._engine, partition_name(agent, "")
        held = engine.vectors.dim_of(engine.rows.partitions.get(name, -1))
        if held is None:  # on another server, or nowhere
            row = engine.snapshot.partition(name)
            held = dim if row is None else row.dim
        if held != dim:
            raise DimensionError(
                f"{agent}: the partition holds vectors of dimension {held}, not {dim}",
                expected=held,
                got=dim,
            )
