"""What the ReasoningBank stands on: versioned writes and reads in its own spaces, and search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nt_memory.entries import Write
from nt_memory.reasoningbank.backing import Made
from nt_memory.replica import partition_name
from nt_memory.replica.requests import recall
from nt_memory.system.arguments import resolve
from nt_memory.system.drafts import DraftFiles
from nt_memory.system.reads import read, scan
from nt_memory.system.searching import search_rows
from nt_memory.tiers.layout import name_of, parse_revisions, parse_tail, to_stored
from nt_memory.tiers.vectors import kmeans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from nt_memory.entries import Stored, WriteOp
    from nt_memory.system.engine import Engine
    from nt_memory.tiers.layout import Version
    from nt_memory.timeline import AsOfLike, Moment

SCAN_BATCH = 1024
LOAD_BATCH = 1024
FIRST_BATCH = 64
WRITE_KIND = str(Write.__struct_config__.tag)


class _Versions:
    """Versions under their keys. Two lists, because there may be millions of them at a time."""

    def __init__(self, batch: Sequence[tuple[bytes, Version]]) -> None:
        self._keys = [key for key, _ in batch]
        self._versions = [version for _, version in batch]

    @property
    def revisions(self) -> NDArray[np.int64]:
        """By which entry each was written."""
        return parse_revisions(self._keys)

    def __getitem__(self, place: int) -> Stored:
        """One of them."""
        key = self._keys[place]
        return to_stored(key[:-16], *parse_tail(key), self._versions[place])


class EngineBacking:
    """The bank's port, over an engine. See `reasoningbank.backing.Backing`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def write(self, ops: Sequence[WriteOp], *, request_id: str | None = None) -> int:
        """Write all of `ops` under one revision."""
        revision: int | None = await self._engine.submit(Write(tuple(ops)), request_id)
        return self._engine.revision if revision is None else revision

    def made(self, request_id: str) -> Made | None:
        """What was written under a request id."""
        engine = self._engine
        engine.check_usable()
        if engine.is_read_only:
            return None  # whose writes are refused, repeated or not
        found = recall(
            engine.snapshot, engine.writing.actor, request_id, WRITE_KIND, engine.clock.now_us()
        )
        return None if found is None else Made(found.result)

    def drafts(self, request_id: str) -> DraftFiles | None:
        """Files beside the store."""
        if self._engine.is_read_only:
            return None
        return DraftFiles(self._engine.opened.directory.path / "drafts", request_id)

    def read(self, space: str, agent: str, key: str, moment: Moment) -> Stored | None:
        """The version a moment shows."""
        self._engine.check_usable()
        return read(self._engine.snapshot, space, agent, key, moment, is_now=False)

    def scan(
        self, space: str, agent: str | None, moment: Moment, prefix: str = "", *, after: str = ""
    ) -> Iterator[Stored]:
        """Versions a moment shows, by agent and key. Do not use across an await."""
        self._engine.check_usable()
        text = space if agent is None else f"{space}{agent}\0{prefix}"
        name: bytes | None = name_of(space, agent, after) if agent and after else b""
        # Whoever takes only a page should not pay for much more than that.
        size = FIRST_BATCH
        while name is not None:
            found, name = scan(self._engine.snapshot, text.encode(), moment, name, size)
            yield from found
            size = min(4 * size, SCAN_BATCH)

    def all_versions(self, space: str) -> Iterator[_Versions]:
        """Every version of a space; seeks again for each batch, so it may span awaits."""
        key = b""
        while True:
            self._engine.check_usable()
            batch = self._engine.snapshot.versions_after(key, space.encode(), LOAD_BATCH)
            if batch:
                key = batch[-1][0]
                yield _Versions(batch)
            if len(batch) < LOAD_BATCH:
                return

    def vectors(self, partition: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Stored unit vectors of rows."""
        return self.reader(partition)(rows)

    def reader(self, partition: int) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
        """What gives stored unit vectors of rows, on any thread."""
        engine = self._engine
        found = next(row for _, row in engine.snapshot.partitions() if row.id == partition)
        # The mapping of the file stays as long as somebody has it, whatever becomes of the file.
        halves = engine.opened.files.rows(found.file, found.dim, engine.rows.counts[partition])
        return lambda rows: halves[rows].astype(np.float32)

    def partition(self, agent: str, partition: str) -> int | None:
        """Id of a vector partition."""
        return self._engine.rows.partitions.get(partition_name(agent, partition))

    async def search_rows(
        self,
        partitions: Sequence[int],
        queries: NDArray[np.float32],
        k: int,
        moment: Moment,
        allow: Mapping[int, NDArray[np.bool_]] | None = None,
        *,
        exact: bool = False,
    ) -> list[Any]:
        """Candidates per query."""
        return await search_rows(
            self._engine, partitions, queries, k, moment, allow=allow, exact=exact
        )

    def now_ns(self) -> int:
        """A monotonic time."""
        return self._engine.pace.now_ns()

    def resolve(self, as_of: AsOfLike | None) -> Moment:
        """The moment an `as_of` argument names."""
        return resolve(self._engine, as_of)

    @staticmethod
    def kmeans(
        vectors: NDArray[np.float32], k: int, seed: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Cluster vectors; deterministic."""
        return kmeans(vectors, k, seed)
