"""Similarity: observations are records with a vector, found by cosine similarity (L2)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nt_memory.codec import Draft, compress, draft
from nt_memory.entries import STATE, Write, WriteOp
from nt_memory.errors import CorruptionError, DimensionError, InvalidInputError, TrimmedError
from nt_memory.filters import compile_where
from nt_memory.namespace import check_agent, check_key, check_keys
from nt_memory.records import Hit
from nt_memory.replica import partition_name
from nt_memory.system.arguments import check_request, resolve, to_fence, to_known_at, to_ttl_us
from nt_memory.system.observing import (
    Columns,
    Tags,
    Values,
    check_rows,
    check_tags,
    guarded,
    in_steps,
    submit_all,
    to_matrix,
    to_tags,
)
from nt_memory.system.renumbering import check_rows_floor
from nt_memory.system.searching import Query, search
from nt_memory.system.units import to_half, to_unit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime, timedelta

    from numpy.typing import ArrayLike, NDArray

    from nt_memory.coordination.tokens import LockToken
    from nt_memory.filters import Where
    from nt_memory.system.engine import Engine
    from nt_memory.system.rows import TagRows
    from nt_memory.timeline import AsOfLike, Moment

MAX_RETRIES = 3


class SimilarityCalls:
    """The calls of section Similarity; `MemorySystem` inherits them."""

    _engine: Engine
    _tags: TagRows
    _counter: Iterator[int]

    async def observe(
        self,
        agent: str,
        embedding: ArrayLike,
        data: Any = None,
        *,
        key: str | None = None,
        tags: Iterable[str] = (),
        ttl: float | timedelta | None = None,
        known_at: datetime | None = None,
        fence: LockToken | int | None = None,
        request_id: str | None = None,
    ) -> str:
        """Remember something with the situation it belongs to; searchable when it returns.

        Args:
            agent: Whose observation.
            embedding: Shape (dim,), finite, not zero, any scale; normalised here, not modified.
            data: Any supported value.
            key: Its key; generated when None. A key used again replaces the observation.
            tags: Labels to filter by.
            ttl: Life in seconds after `known_at`, on the timeline.
            known_at: Since when it counts as known.
            fence: A lock token.
            request_id: A repeated id acts once.

        Returns:
            The key. `get(agent, key)` returns `data`, `delete(agent, key)` removes both.

        Raises:
            DimensionError: the agent's observations have another dimension.
            EmbeddingError: the embedding is malformed.
            And as `MemorySystem.put`.
        """
        name = self._new_key() if key is None else check_key(key)
        encoded, large = self._draft(data)
        op = WriteOp(
            STATE,
            check_agent(agent),
            name,
            encoded,
            to_known_at(known_at),
            to_ttl_us(ttl),
            vector=to_half(to_unit(embedding)).tobytes(),
            tags=check_tags(tags),
        )
        write, request = Write((op,), to_fence(fence)), check_request(request_id)
        revision: int | None
        if large is None:
            revision = await self._engine.submit(write, request)
        else:
            revision = await self._engine.filing.submit(write, {0: large}, request)
        return name if request_id is None else self._key_written(revision, name)

    async def observe_many(
        self,
        agent: str,
        embeddings: ArrayLike,
        data: Sequence[Any] | None = None,
        *,
        keys: Sequence[str] | None = None,
        tags: Sequence[Iterable[str]] | None = None,
        known_at: datetime | Sequence[datetime] | None = None,
    ) -> list[str]:
        """Remember many observations; each is searchable when it returns.

        Written in chunks of about 256 KiB, in order; each chunk happens as a whole. All arguments
        are checked before the first is written. If a chunk is refused, those before it have
        happened, none that was not under way follows, and the call raises when all is settled.

        Args:
            agent: Whose observations.
            embeddings: Shape (n, dim); rows as in `observe`. An array of more than 65,536 numbers is
                not copied: it, and the arrays it is a view of, are read-only until the call is over.
                Lists, and `data`, must not be changed before.
            data: n values, or None.
            keys: n keys, or None to generate them.
            tags: n collections of labels, or None.
            known_at: One time for all, or n times.

        Returns:
            The n keys.

        Raises:
            InvalidInputError: the lengths differ.
            And as `observe`.

        Cost: about 10 us of processor time a row of 384 values with 100 bytes of data, the index
            apart, where keys are new; three times that where they are replaced. The event loop gets
            its turn about every millisecond.
        """
        agent = check_agent(agent)
        if isinstance(data, Mapping | str | bytes):
            raise InvalidInputError(f"data must be a sequence of values, not {type(data).__name__}")
        rows = await to_matrix(embeddings)
        if not rows.size and not data and not keys:
            return []
        count = len(rows) if rows.ndim else 1
        with guarded(rows):
            checked = await check_rows(rows)
            self._check_dim(agent, rows.shape[1])
            names = (
                await in_steps(range(count), self._new_keys)
                if keys is None
                else await in_steps(list(keys), check_keys)
            )
            values = [None] * count if data is None else list(data)
            times = await _times(known_at)
            labels = None if tags is None else await to_tags(tags)
            for what, found in (
                ("data", values),
                ("keys", names),
                ("tags", labels),
                ("known_at", times),
            ):
                if isinstance(found, list | Tags) and len(found) != count:
                    raise InvalidInputError(f"{what} has {len(found)} items for {count} embeddings")
            await self._write_all(Columns(agent, names, [], checked, times, labels), values)
        return names

    async def _write_all(self, columns: Columns, data: Sequence[Any]) -> None:
        engine = self._engine
        values = Values()
        try:
            await values.add_all(data, compresses=engine.config.enable_compression)
            if not values.drafts:
                await submit_all(engine.submit, columns._replace(values=values.encoded).entries())
                return
            async with engine.filing.filed(list(values.drafts.values())) as filed:
                values.release()
                for number, value in zip(values.drafts, filed, strict=True):
                    values.encoded[number] = value
                columns = columns._replace(values=values.encoded)
                if engine.opened.replica.has_quotas:
                    engine.writing.check_quota(columns.whole())
                await submit_all(engine.submit, columns.entries())
        finally:
            values.release()

    def _draft(self, value: Any) -> tuple[bytes, Draft | None]:
        """A value as it is stored; or nothing yet, and what has to be filed first."""
        data = draft(value)
        if isinstance(data, Draft):
            return b"", data
        return compress(data) if self._engine.config.enable_compression else data, None

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
            LookAheadError: `as_of` lies past a backtest's now.
            TrimmedError: some of what was in force at `as_of` was dropped (retention, `history`).

        Cost: about ef * log n distance computations, plus `top_k` reads of L3. With `where` the
            data of candidates is read, best first, until enough pass.
        Source: Malkov & Yashunin 2018, Algorithm 5, as implemented by faiss.
        """
        engine = self._engine
        engine.check_usable()
        if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(f"top_k must be an int >= 1, not {top_k!r}")
        agents = [agent] if isinstance(agent, str) else list(agent)
        unit = to_unit(query_embedding)
        accept = None if where is None else compile_where(where)
        wanted = None if tags is None else check_tags(tags)
        moment = resolve(engine, as_of)
        names = list(dict.fromkeys(agents))
        for name in names:
            check_agent(name)
            self._check_dim(name, len(unit))
        for attempt in itertools.count():
            numbering = engine.rows.numbering
            partitions = self._partitions(names, None if as_of is None else moment)
            if not partitions:
                return []
            allow = self._allowed(partitions, wanted)
            query = Query(partitions, unit[np.newaxis], top_k, moment, allow, accept, exact)
            # After a few tries the search stays on the loop, where nothing can drop a version.
            hits = await self._try(query, stay=attempt >= MAX_RETRIES)
            if hits is not None:
                return hits
            if as_of is None:
                moment = resolve(engine, None)
            elif engine.rows.numbering == numbering:
                raise TrimmedError("some of what was in force then was dropped", oldest=0)
        raise AssertionError  # pragma: no cover

    async def _try(self, query: Query, *, stay: bool) -> list[Hit] | None:
        """As `search`."""
        engine = self._engine
        numbering = engine.rows.numbering
        try:
            return await search(engine, query, stay=stay)
        except CorruptionError:
            # The file of a partition that has another id by now may have been removed; a follower
            # may not know yet that it has.
            if engine.is_read_only:
                await engine.catch_up()
            if engine.rows.numbering == numbering:
                raise
            return None

    def _partitions(self, agents: Sequence[str], as_of: Moment | None) -> list[int]:
        """Ids of the partitions of agents' observations, as they are numbered now.

        Raises:
            TrimmedError: what was in force at `as_of` may have been given back.
        """
        engine = self._engine
        found: list[int] = []
        for agent in agents:
            partition = engine.rows.partitions.get(partition_name(agent, ""))
            if partition is not None:
                if as_of is not None:
                    check_rows_floor(engine.snapshot, agent, as_of)
                found.append(partition)
        return found

    def _allowed(
        self, partitions: Sequence[int], tags: Sequence[str] | None
    ) -> dict[int, NDArray[np.bool_]] | None:
        if not tags:
            return None
        return {partition: self._tags.mask(partition, tags) for partition in partitions}

    def _key_written(self, revision: int | None, name: str) -> str:
        """The key that an entry observed: a repeated request returns that of the first."""
        if revision is None:
            return name
        row = self._engine.snapshot.log(revision)
        if row is None or not row.position:
            raise TrimmedError(
                f"the request acted at revision {revision}; which key it made is no longer kept",
                oldest=self._engine.snapshot.log_floor + 1,
            )
        return row.changes[-1].key if row.changes else name

    def _check_dim(self, agent: str, dim: int) -> None:
        row = self._engine.snapshot.partition(partition_name(agent, ""))
        if row is not None and row.dim != dim:
            raise DimensionError(
                f"{agent}: the partition holds vectors of dimension {row.dim}, not {dim}",
                expected=row.dim,
                got=dim,
            )

    def _new_key(self) -> str:
        return self._new_keys((0,))[0]

    def _new_keys(self, wanted: Sequence[int]) -> list[str]:
        # Ordered by time within a session, and unique beyond it.
        engine = self._engine
        start, end = f"obs/{engine.clock.now_us():015x}", f"-{engine.session[:8]}"
        return [f"{start}{n:06x}{end}" for n in itertools.islice(self._counter, len(wanted))]


async def _times(
    known_at: datetime | Sequence[datetime] | None,
) -> int | list[int | None] | None:
    if known_at is None or not isinstance(known_at, Sequence):
        return to_known_at(known_at)
    return await in_steps(known_at, lambda some: [to_known_at(moment) for moment in some])
