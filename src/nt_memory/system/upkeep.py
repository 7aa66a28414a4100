"""Compaction by itself: a store that drops old versions must not grow for ever.

What a compaction costs follows from what is kept: all of it is read and written twice. So the journal
behind the base is let grow to a multiple of the base first, and each change pays for a bounded share
of one compaction. A store that keeps everything would be rewritten for nothing, and is left alone.
So is a backtest: a compaction decides which revisions can still be asked for, and when it is due
depends on bytes and on this machine, so that two runs would answer differently.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import TYPE_CHECKING, Any

from nt_memory.errors import ClosedError, NtMemoryError
from nt_memory.tiers.layout import decode_usage
from nt_memory.transport.basefile import base_path, list_bases
from nt_memory.transport.segments import list_segments, segment_path

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from nt_memory.system.engine import Engine
    from nt_memory.tiers.views import Snapshot
    from nt_memory.transport.directory import StoreDirectory
    from nt_memory.transport.local import LocalJournal

GROWTH = 4
"""So many times the base the journal may take. A base is compressed, a journal is not."""

LOOKS_A_COUNT = 300
RETRY_S = 60.0
MAX_RETRY_S = 3600.0
_log = logging.getLogger(__name__)


class Upkeep:
    """Begins a compaction when one is due. Belongs to the event loop.

    Attributes:
        failure: Why the last one failed; empty if it did not.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._running: asyncio.Task[None] | None = None
        self._retry_s = RETRY_S
        self._not_before_ns = 0
        self._looks = 0
        self._held_bytes = 0
        self.failure: str = ""

    def look(self) -> None:
        """Begin what is due, unless something is running; called five times a second.

        Cost: about 20 us, or nothing if nothing can be due.
        """
        engine = self._engine
        bound, journal = engine.config.compact_at_bytes, engine.journal
        if bound is None or journal is None or self._is_running:
            return
        if engine.clock.monotonic_ns() < self._not_before_ns:
            return
        self._looks += 1
        try:
            # One that failed may have left a new base, and the journal before it.
            if self._may_compact and (self.failure or self._is_grown(journal, bound)):
                self._running = asyncio.ensure_future(self._run(self._compact()))
            elif self._looks % LOOKS_A_COUNT == 0:
                self._running = asyncio.ensure_future(self._run(self._sweep_files(bound)))
        except OSError as error:
            self._fail(error)

    @property
    def _is_running(self) -> bool:
        is_running = self._running is not None and not self._running.done()
        return is_running or self._engine.maintenance.is_compacting

    @property
    def _may_compact(self) -> bool:
        engine = self._engine
        return not engine.timeline.is_backtest and engine.opened.replica.drops_versions

    def _is_grown(self, journal: LocalJournal, bound: int) -> bool:
        if journal.size_bytes <= bound:
            return False
        directory = self._engine.opened.directory
        return grown_bytes(directory, journal) > max(bound, GROWTH * base_bytes(directory))

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except ClosedError:
            return
        except (NtMemoryError, OSError) as error:
            self._fail(error)
        else:
            self.failure = ""
            self._retry_s = RETRY_S

    async def _compact(self) -> None:
        await self._engine.maintenance.compact()

    async def _sweep_files(self, bound: int) -> None:
        """Value files may take as much again as the values that are kept, and the bound.

        What refused and cancelled writes left behind goes by a sweep; what dropped versions
        referred to, only with the journal that does too.
        """
        kept = kept_bytes(self._engine.snapshot)
        unused = await self._unused_bytes(kept)
        if unused <= max(bound, kept) + self._held_bytes:
            return
        if self._may_compact:
            await self._compact()
        else:
            await self._engine.maintenance.sweep_files()
        # What is held back for open reads and feeds is no reason to try again at once.
        kept = kept_bytes(self._engine.snapshot)
        self._held_bytes = max(0, await self._unused_bytes(kept))

    async def _unused_bytes(self, kept: int) -> int:
        sizes = await asyncio.to_thread(self._engine.values.digests)
        return sum(sizes.values()) - kept

    def _fail(self, error: Exception) -> None:
        self.failure = f"{type(error).__name__}: {error}"
        _log.warning(
            "%s: compaction failed, to be tried again in %.0f s: %s",
            self._engine.opened.directory.path,
            self._retry_s,
            self.failure,
        )
        self._not_before_ns = self._engine.clock.monotonic_ns() + int(self._retry_s * 1e9)
        self._retry_s = min(2 * self._retry_s, MAX_RETRY_S)

    async def settle(self) -> None:
        """Wait until what was begun has ended."""
        if self._running is not None:
            await asyncio.wait([self._running])


def kept_bytes(snapshot: Snapshot) -> int:
    """Bytes of all versions kept, of all agents. Cost: a read an agent."""
    return sum(decode_usage(data).bytes for _, data in snapshot.items(b"usage"))


def grown_bytes(directory: StoreDirectory, journal: LocalJournal) -> int:
    """Bytes of the segments with entries behind the newest base.

    Segments before it may be there still, for a feed that is slow; a compaction now would not
    take them either.
    """
    base = max(list_bases(directory.bases), default=0)
    segments = itertools.pairwise(list_segments(directory.journal))
    older = [first for first, following in segments if following <= base + 1]
    return journal.size_bytes - sum(
        segment_path(directory.journal, first).stat().st_size for first in older
    )


def base_bytes(directory: StoreDirectory) -> int:
    """Size of the newest base; 0 if there is none."""
    bases = list_bases(directory.bases)
    return base_path(directory.bases, bases[-1]).stat().st_size if bases else 0
