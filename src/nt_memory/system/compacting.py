"""Compaction, copies and shared snapshots of a store: one at a time, while readers and writers go on.

Problem: a journal that is never cut grows with every change ever made, and an LMDB file never gets
smaller. But what is cut must be proven to be elsewhere first, and nobody may have to stop.

So versions that retention no longer keeps are dropped, by entries; the journal begins a new segment,
so that all older ones can go; base and views are made anew (`compactor`); and value files that no
version refers to are deleted.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from nt_memory.errors import ClosedError, ReadOnlyError, UnsupportedError
from nt_memory.records import Compaction
from nt_memory.system.compactor import Compactor
from nt_memory.system.copying import copy_store
from nt_memory.system.governing import sweep_all
from nt_memory.system.references import sweep_values
from nt_memory.system.upkeep import Upkeep

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator

    from nt_memory.records import Shared
    from nt_memory.system.engine import Engine
    from nt_memory.transport.local import LocalJournal
    from nt_memory.transport.nats.link import Link


class Maintenance:
    """Compaction and copies of one store: one at a time, and none is left half done by a caller."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._one_at_a_time = asyncio.Lock()
        self._compaction: asyncio.Task[Compaction] | None = None
        self._sharing: set[asyncio.Task[Shared]] = set()
        self._is_over = False
        # glibc keeps what a thread has freed for that thread. On whichever of the loop's threads is
        # free, each would come to hold the most that a compaction ever needed.
        self._thread = ThreadPoolExecutor(1, "nt-memory-compaction")
        self.compactions: int = 0
        self.upkeep: Upkeep = Upkeep(engine)

    @property
    def is_compacting(self) -> bool:
        """Whether a compaction is running or waits for a copy to end."""
        return self._compaction is not None and not self._compaction.done()

    async def compact(self) -> Compaction:
        """Compact the store, or wait for the compaction that is running; see `MemorySystem`."""
        self._engine.check_usable()
        journal = self._engine.journal
        if journal is None:
            raise ReadOnlyError("this memory was opened read-only")
        if not self.is_compacting:
            if self._is_over:
                raise ClosedError("the memory is closing")
            self._compaction = asyncio.ensure_future(self._compact(journal))
            self._compaction.add_done_callback(_retrieve)
        assert self._compaction is not None  # noqa: S101 - made above, or running
        return await asyncio.shield(self._compaction)

    async def copy(self, path: str | os.PathLike[str]) -> None:
        """Copy the store; see `MemorySystem.snapshot`."""
        async with self._one_at_a_time:
            await self._engine.flush()
            await asyncio.to_thread(copy_store, self._engine.opened, path)

    async def share(self, keep: int) -> Shared:
        """Share a snapshot of a node's replica; see `MemorySystem.share_snapshot`."""
        link = self.link()
        if self._is_over:
            raise ClosedError("the memory is closing")
        sharing = asyncio.ensure_future(self._share(link, keep))
        self._sharing.add(sharing)
        sharing.add_done_callback(self._sharing.discard)
        sharing.add_done_callback(_retrieve)
        return await asyncio.shield(sharing)

    async def _share(self, link: Link, keep: int) -> Shared:
        from nt_memory.system.sharing import share  # noqa: PLC0415 - an extra

        async with self._one_at_a_time:
            await self._engine.flush()
            return await asyncio.to_thread(share, self._engine, link, keep)

    def link(self) -> Link:
        """The connection of a cluster's node.

        Raises:
            UnsupportedError: this is none.
        """
        journal = self._engine.journal
        if journal is None or not journal.is_shared:
            raise UnsupportedError("only nodes of a cluster share snapshots: open a nats:// URL")
        from nt_memory.transport.nats.journal import NatsJournal  # noqa: PLC0415 - an extra

        assert isinstance(journal, NatsJournal)  # noqa: S101 - no other is shared
        return journal.link

    @asynccontextmanager
    async def apart(self) -> AsyncGenerator[None]:
        """Nothing is compacted or copied during the block."""
        async with self._one_at_a_time:
            yield

    async def settle(self) -> None:
        """Wait until nothing is going on, whatever comes of it; from now on nothing is begun."""
        self._is_over = True
        if self._compaction is not None:
            await asyncio.wait([self._compaction])
        if self._sharing:
            await asyncio.wait(self._sharing)
        await self.upkeep.settle()
        self._thread.shutdown(wait=False)

    async def sweep_files(self) -> None:
        """Remove the value files that nothing refers to, and do nothing else.

        Raises:
            ClosedError: the memory is closing.
            StorageError: views or journal are damaged, or a file could not be removed.
        """
        async with self._one_at_a_time:
            if self._is_over:
                raise ClosedError("the memory is closing")
            if self._engine.journal is not None:
                await sweep_values(self._engine, self._engine.journal)

    async def _compact(self, journal: LocalJournal) -> Compaction:
        engine = self._engine
        async with self._one_at_a_time:
            directory = engine.opened.directory
            before = await asyncio.to_thread(directory.disk_bytes)
            dropped = await sweep_all(engine)
            await asyncio.to_thread(journal.begin_segment)
            # Now all that the older segments hold is visible, and no new reader will want it.
            await engine.drain()
            floor = engine.holds.revision()
            compactor = Compactor(engine, journal, engine.revision if floor is None else floor)
            await asyncio.get_running_loop().run_in_executor(self._thread, compactor.prepare)
            await asyncio.to_thread(journal.perform, compactor.swap)
            # The swap was handed to the loop; after this all that runs here reads the new views.
            await engine.drain()
            await asyncio.to_thread(compactor.clean_up)
            await sweep_values(engine, journal)
            after = await asyncio.to_thread(directory.disk_bytes)
            self.compactions += 1
            return Compaction(
                revision=compactor.revision,
                oldest_revision=engine.snapshot.log_floor + 1,
                dropped_versions=dropped,
                freed_bytes=before - after,
            )


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # its caller may be gone
