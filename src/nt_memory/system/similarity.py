"""Similarity: observations are records with a vector, found by cosine similarity (L2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nt_memory.codec import Draft, compress, draft
from nt_memory.entries import STATE, Write, WriteOp
from nt_memory.errors import InvalidInputError, TrimmedError
from nt_memory.namespace import check_agent, check_key, check_keys, check_tags
from nt_memory.replica import partition_name
from nt_memory.system.admitting import paced, wait_for_room
from nt_memory.system.arguments import (
    check_request,
    resolve,
    to_fence,
    to_known_at,
    to_ttl_us,
    written,
)
from nt_memory.system.observation_keys import Run, new_run
from nt_memory.system.observing import (
    Columns,
    Tags,
    Values,
    check_rows,
    guarded,
    in_steps,
    submit_all,
    to_matrix,
    to_tags,
)
from nt_memory.system.reads import read
from nt_memory.system.resuming import Resumption
from nt_memory.system.search_calls import SearchCalls
from nt_memory.system.units import to_half, to_unit

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime, timedelta

    from numpy.typing import ArrayLike, NDArray

    from nt_memory.coordination.tokens import LockToken
    from nt_memory.timeline import AsOfLike


class SimilarityCalls(SearchCalls):
    """The calls of section Similarity; `MemorySystem` inherits them."""

    _named: int
    """Observations of this session that were given no key."""

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

        Waits while so many of the agent's observations are not indexed that searches would get slow.

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

        And the errors of `MemorySystem.put`.
        """
        name = self._new_keys(1).keys((0,))[0] if key is None else check_key(key)
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
        await wait_for_room(self._engine, agent, 1)
        revision: int | None
        if large is None:
            revision = await self._engine.submit(write, request)
        else:
            revision = await self._engine.filing.submit(write, {0: large}, request)
        return name if request is None else self._key_written(written(revision, request), name)

    async def observe_many(
        self,
        agent: str,
        embeddings: ArrayLike,
        data: Sequence[Any] | None = None,
        *,
        keys: Sequence[str] | None = None,
        tags: Sequence[Iterable[str]] | None = None,
        known_at: datetime | Sequence[datetime] | None = None,
        request_id: str | None = None,
    ) -> list[str]:
        """Remember many observations; each is searchable when it returns.

        Written in chunks of about 256 KiB, in order; each chunk happens as a whole. All arguments
        are checked before the first is written. If a chunk is refused, those before it have
        happened, none that was not under way follows, and the call raises when all is settled.
        Waits between chunks as `observe` does.

        Args:
            agent: Whose observations.
            embeddings: Shape (n, dim); rows as in `observe`. An array of more than 65,536 numbers is
                not copied: it, and the arrays it is a view of, are read-only until the call is over.
                Lists, and `data`, must not be changed before.
            data: n values, or None.
            keys: n keys, or None to generate them.
            tags: n collections of labels, or None.
            known_at: One time for all, or n times.
            request_id: Repeated with the same arguments, it stores those chunks that were not stored
                before, and returns the keys under which the others were.

        Returns:
            The n keys.

        Raises:
            InvalidInputError: the lengths differ, or the request id was used for something else.

        And the errors of `observe`.

        Cost: about 10 us of processor time a row of 384 values with 100 bytes of data, the index
            apart, where keys are new; three times that where they are replaced. The event loop gets
            its turn about every millisecond.
        """
        agent, request = check_agent(agent), check_request(request_id)
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
                await in_steps(range(count), self._new_keys(count).keys)
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
            resumption = None
            if request is not None:
                resumption = Resumption(self._engine, request, names, is_given=keys is not None)
            columns = Columns(agent, names, [], checked, times, labels)
            await self._write_all(columns, values, resumption)
        return names

    async def get_embedding(
        self, agent: str, key: str, *, as_of: AsOfLike | None = None
    ) -> NDArray[np.float32] | None:
        """The vector an observation is kept with; None if there is none.

        Args:
            agent: Whose observation.
            key: Its key.
            as_of: A time, a revision or `AsOf`; None for now.

        Returns:
            Shape (dim,), of length 1 but for rounding: it is kept as float16. After a re-embedding the
            new vector, also as of a moment before it.

        Errors are those of `MemorySystem.get`.

        Cost: about 20 us.
        """
        engine = self._engine
        engine.check_usable()
        moment = resolve(engine, as_of)
        stored = read(
            engine.snapshot, STATE, check_agent(agent), check_key(key), moment, is_now=as_of is None
        )
        if stored is None or stored.row < 0:
            return None
        partition = engine.snapshot.partition(partition_name(agent, ""))
        if partition is None or partition.id != stored.partition:
            return None
        rows = engine.opened.files.rows(partition.file, partition.dim, partition.rows)
        vector: NDArray[np.float32] = rows[stored.row].astype(np.float32)
        return vector

    async def _write_all(
        self, columns: Columns, data: Sequence[Any], resumption: Resumption | None
    ) -> None:
        engine = self._engine
        submit = paced(engine, resumption)
        stored = None if resumption is None else resumption.stored
        values = Values()
        try:
            await values.add_all(data, compresses=engine.config.enable_compression)
            if not values.drafts:
                columns = columns._replace(values=values.encoded)
                await submit_all(submit, columns.parts(stored))
                return
            async with engine.filing.filed(list(values.drafts.values())) as filed:
                values.release()
                for number, value in zip(values.drafts, filed, strict=True):
                    values.encoded[number] = value
                columns = columns._replace(values=values.encoded)
                if resumption is None and engine.opened.replica.has_quotas:
                    engine.writing.check_quota(columns.whole())
                await submit_all(submit, columns.parts(stored))
        finally:
            values.release()

    def _draft(self, value: Any) -> tuple[bytes, Draft | None]:
        """A value as it is stored; or nothing yet, and what has to be filed first."""
        data = draft(value)
        if isinstance(data, Draft):
            return b"", data
        return compress(data) if self._engine.config.enable_compression else data, None

    def _key_written(self, revision: int, name: str) -> str:
        """The key that an entry observed: a repeated request returns that of the first."""
        row = self._engine.snapshot.log(revision)
        if row is None or not row.position:
            raise TrimmedError(
                f"the request acted at revision {revision}; which key it made is no longer kept",
                oldest=self._engine.snapshot.log_floor + 1,
            )
        return row.changes[-1].key if row.changes else name

    def _new_keys(self, count: int) -> Run:
        first, self._named = self._named, self._named + count
        return new_run(self._engine.clock.now_us(), self._engine.session, first)


async def _times(
    known_at: datetime | Sequence[datetime] | None,
) -> int | list[int | None] | None:
    if known_at is None or not isinstance(known_at, Sequence):
        return to_known_at(known_at)
    return await in_steps(known_at, lambda some: [to_known_at(moment) for moment in some])
