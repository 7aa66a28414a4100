"""LangGraph's `BaseStore` over a memory: namespaces, search by meaning and filters, ttl, atomic batches.

It behaves as LangGraph's `InMemoryStore` does, and lasts. All that it holds belongs to one agent of the
memory, so that others can read it, rights hold for it, and it is part of every snapshot and journal.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    validate_op_namespace,
)
from typing_extensions import override

from nt_memory import AsOf
from nt_memory.errors import (
    ConflictError,
    InvalidInputError,
    PermissionDeniedError,
    ReadOnlyError,
)
from nt_memory.integrations.langgraph.calling import Caller
from nt_memory.integrations.langgraph.indexing import Indexer
from nt_memory.integrations.langgraph.items import Stored, document, opened
from nt_memory.integrations.langgraph.matching import fits, known_prefix, passes
from nt_memory.integrations.langgraph.names import (
    INDEX,
    beyond_items,
    is_path,
    path_of,
    prefix_of,
    tag_of,
    tags_of,
    vector_path,
    vectors_of,
)
from nt_memory.namespace import check_agent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from nt_memory import Hit, MemorySystem, SyncMemory
    from nt_memory.integrations.langgraph.indexing import Vectors

MAX_ATTEMPTS = 1_000
MIN_CANDIDATES = 64
NONE = np.zeros((0, 0), np.float32)
WALKED = 32
"""Items of a namespace that are passed one by one before its others are skipped at once."""


class NtMemoryStore(BaseStore):
    """A store for LangGraph that keeps its items in a memory.

    Asynchronous calls may come from any event loop, plain ones from any thread but the memory's own.
    The memory stays its owner's to close.

    Args:
        memory: A `MemorySystem`, where its event loop runs; or a `SyncMemory`, anywhere. One in an
            agent's name (`as_agent`) acts with that agent's rights.
        agent: Under whose name the items lie.
        index: Search by meaning: `dims`, `embed` and `fields`, as LangGraph describes them. Without
            it `query` is ignored.
        ttl: Defaults for items' lives, in minutes, as LangGraph describes them. Items that ran out are
            gone at once, so `omit_expired` and `sweep_interval_minutes` change nothing.
        exact: Search by scanning instead of by a graph, where there are many vectors.

    Raises:
        InvalidNameError: a malformed agent.
        InvalidInputError: `index` has nothing to embed with.
        WrongLoopError: a `MemorySystem` outside its event loop.
    """

    supports_ttl = True

    def __init__(
        self,
        memory: MemorySystem | SyncMemory,
        *,
        agent: str = "langgraph",
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        exact: bool = False,
    ) -> None:
        self._agent = check_agent(agent)
        self._exact = exact
        self._index = None if index is None else Indexer(index)
        self.ttl_config = ttl
        self._caller = Caller(memory)
        self._memory = self._caller.memory

    # --- where a batch runs -----------------------------------------------------------------

    @override
    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Do some operations: reads see what was there before, then all puts happen as one.

        Raises:
            WrongLoopError: this is the memory's event loop: await `abatch` there (`aget`, `aput`, ...).
            NtMemoryError: the memory refused; none of the puts has happened.
        """
        given = list(ops)
        done: list[Result] = self._caller.call(lambda: self._run(given))
        return done

    @override
    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """As `batch`, without blocking; cancelled before its puts were submitted, none happen."""
        given = list(ops)
        done: list[Result] = await self._caller.acall(lambda: self._run(given))
        return done

    # --- a batch ----------------------------------------------------------------------------

    async def _run(self, ops: Sequence[Op]) -> list[Result]:
        for op in ops:
            validate_op_namespace(op)
        puts = {path_of(op.namespace, op.key): op for op in ops if isinstance(op, PutOp)}
        as_of = None
        if sum(not isinstance(op, PutOp) for op in ops) > 1:  # all reads see one moment
            as_of = AsOf(self._memory.timeline.now, self._memory.revision)
        results = [None if isinstance(op, PutOp) else await self._read(op, as_of) for op in ops]
        if puts:
            await self._write(puts)
        return results

    async def _read(self, op: Op, as_of: AsOf | None) -> Result:
        if isinstance(op, GetOp):
            return await self._get(op, as_of)
        if isinstance(op, SearchOp):
            return await self._search(op, as_of)
        if isinstance(op, ListNamespacesOp):
            return await self._list_namespaces(op, as_of)
        raise InvalidInputError(f"unknown operation {type(op).__name__}")

    async def _get(self, op: GetOp, as_of: AsOf | None) -> Result:
        stored = await self._stored(path_of(op.namespace, op.key), as_of)
        if stored is None:
            return None
        if op.refresh_ttl:
            await self._refresh([stored])
        return stored.shown()

    async def _stored(self, path: str, as_of: AsOf | None = None) -> Stored | None:
        record = await self._memory.get_record(self._agent, path, as_of=as_of)
        return None if record is None else opened(record)

    # --- writing ----------------------------------------------------------------------------

    async def _write(self, puts: dict[str, PutOp]) -> None:
        vectors: dict[str, Vectors] = {}
        if self._index is not None:
            found = await self._index.of_items(list(puts.values()))
            vectors = dict(zip(puts, found, strict=True))
        for _ in range(MAX_ATTEMPTS):
            before = {path: await self._stored(path) for path in puts}
            left = [
                key
                for path, old in before.items()
                async for key in self._left(path, old, len(vectors.get(path, NONE)))
            ]
            try:
                await self._commit(puts, vectors, before, left)
            except ConflictError:
                continue  # another writer was first: what was there is another item now
            return
        raise ConflictError(f"{MAX_ATTEMPTS} other writers were first", current=0)

    async def _commit(
        self,
        puts: dict[str, PutOp],
        vectors: dict[str, Vectors],
        before: dict[str, Stored | None],
        left: Sequence[str],
    ) -> None:
        now = self._memory.timeline.now
        async with self._memory.transaction() as tx:
            for path, put in puts.items():
                old = before[path]
                rows = vectors.get(path, NONE)
                if put.value is not None:
                    created_at = now if old is None else old.created_at
                    tx.put(
                        self._agent,
                        path,
                        document(dict(put.value), created_at, now, len(rows)),
                        ttl=None if put.ttl is None else 60.0 * put.ttl,  # LangGraph's are minutes
                        expect=0 if old is None else old.record.revision,
                    )
                elif old is not None:
                    tx.delete(self._agent, path, expect=old.record.revision)
                for number, row in enumerate(rows):
                    tx.observe(
                        self._agent,
                        row,
                        {"item": path, "number": number},
                        key=vector_path(path, number),
                        tags=tags_of(put.namespace),
                    )
            for key in left:
                tx.delete(self._agent, key)

    async def _left(self, path: str, old: Stored | None, count: int) -> AsyncIterator[str]:
        """Vectors that an item, or one of its name that ran out, has besides the first `count`."""
        if old is not None and old.vectors <= count:
            return
        async for record in self._memory.scan(self._agent, vectors_of(path)):
            if record.value["number"] >= count:
                yield record.key

    async def _refresh(self, found: Iterable[Stored]) -> None:
        """Extend the lives of items that were read; whoever writes them meanwhile has done so."""
        now = self._memory.timeline.now
        for stored in found:
            if not stored.wants_refresh(now):
                continue
            with suppress(ConflictError, ReadOnlyError, PermissionDeniedError):
                await self._memory.put(
                    self._agent,
                    stored.path,
                    document(stored.value, stored.created_at, stored.updated_at, stored.vectors),
                    ttl=stored.ttl,
                    expect=stored.record.revision,
                )

    # --- searching --------------------------------------------------------------------------

    async def _search(self, op: SearchOp, as_of: AsOf | None) -> list[SearchItem]:
        if op.limit < 0 or op.offset < 0:
            raise InvalidInputError("limit and offset must not be negative")
        if op.limit == 0:
            return []
        if op.query and self._index is not None:
            scored = await self._ranked(op, await self._index.query(op.query), as_of)
        else:
            scored = [(None, one) async for one in self._plain(op, op.offset + op.limit, as_of)]
            scored = scored[op.offset :]
        if op.refresh_ttl:
            await self._refresh(stored for _, stored in scored)
        return [stored.found(score) for score, stored in scored]

    async def _plain(
        self, op: SearchOp, limit: int, as_of: AsOf | None, *, unindexed: bool = False
    ) -> AsyncIterator[Stored]:
        """Items in and below a namespace that pass, by path; only those without vectors, if so asked."""
        if limit <= 0:
            return
        count = 0
        records = self._memory.scan(self._agent, prefix_of(op.namespace_prefix), as_of=as_of)
        async for record in records:
            if not is_path(record.key):
                continue
            stored = opened(record)
            if (unindexed and stored.vectors) or not passes(stored.value, op.filter):
                continue
            yield stored
            count += 1
            if count == limit:
                return

    async def _ranked(
        self, op: SearchOp, query: Vectors, as_of: AsOf | None
    ) -> list[tuple[float | None, Stored]]:
        """Items by the best of their vectors; then, if there is room, those that have none."""
        wanted = op.offset + op.limit
        tags = [tag_of(op.namespace_prefix)] if op.namespace_prefix else None
        top_k = max(MIN_CANDIDATES, 2 * wanted)
        while True:
            hits = await self._memory.search_similar(
                self._agent, query, top_k, as_of=as_of, tags=tags, exact=self._exact
            )
            found = await self._passing(hits, op, wanted, as_of)
            if len(found) >= wanted or len(hits) < top_k:
                break
            top_k *= 4
        ranked: list[tuple[float | None, Stored]] = list(found[op.offset : wanted])
        left = op.limit - len(ranked)
        ranked += [(None, one) async for one in self._plain(op, left, as_of, unindexed=True)]
        return ranked

    async def _passing(
        self, hits: Sequence[Hit], op: SearchOp, wanted: int, as_of: AsOf | None
    ) -> list[tuple[float, Stored]]:
        """Items that pass, each by its first hit, which is its best; up to `wanted`."""
        found: list[tuple[float, Stored]] = []
        seen: set[str] = set()
        for hit in hits:
            if len(found) == wanted:
                break
            if not hit.key.startswith(INDEX) or hit.data["item"] in seen:
                continue  # others may observe in the agent's name
            seen.add(hit.data["item"])
            stored = await self._stored(hit.data["item"], as_of)
            if stored is not None and passes(stored.value, op.filter):
                found.append((hit.score, stored))
        return found

    # --- what ran out -----------------------------------------------------------------------

    def sweep_ttl(self) -> int:
        """Forget the vectors of items that ran out; how many. Their values are gone by themselves.

        Searches pass over such vectors, so this only keeps them from becoming many.
        """
        swept: int = self._caller.call(self._sweep)
        return swept

    async def asweep_ttl(self) -> int:
        """As `sweep_ttl`."""
        swept: int = await self._caller.acall(self._sweep)
        return swept

    async def _sweep(self) -> int:
        swept = 0
        async for record in self._memory.scan(self._agent, INDEX):
            if await self._stored(record.value["item"]) is not None:
                continue
            with suppress(ConflictError):  # put again meanwhile
                await self._memory.delete(self._agent, record.key, expect=record.revision)
                swept += 1
        return swept

    # --- namespaces -------------------------------------------------------------------------

    async def _list_namespaces(
        self, op: ListNamespacesOp, as_of: AsOf | None
    ) -> list[tuple[str, ...]]:
        conditions = op.match_conditions
        found: set[tuple[str, ...]] = set()
        async for namespace in self._namespaces(known_prefix(conditions), as_of):
            if all(fits(condition, namespace) for condition in conditions or ()):
                found.add(namespace if op.max_depth is None else namespace[: op.max_depth])
        return sorted(found)[op.offset : op.offset + op.limit]

    async def _namespaces(
        self, prefix: tuple[str, ...], as_of: AsOf | None
    ) -> AsyncIterator[tuple[str, ...]]:
        """Every namespace in and below one that has items; large ones cost a few reads each."""
        start, after = prefix_of(prefix), ""
        while True:
            last: tuple[str, ...] | None = None
            seen = 0
            async for record in self._memory.scan(self._agent, start, after=after, as_of=as_of):
                if not is_path(record.key):
                    continue
                namespace = opened(record).namespace
                if namespace != last:
                    last, seen = namespace, 0
                    yield namespace
                seen += 1
                if seen == WALKED:
                    after = beyond_items(namespace)
                    break
            else:
                return
