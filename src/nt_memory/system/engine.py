"""The running store: what it is made of, how it opens and closes, and its one step to a new revision.

Entries come in through `writing`; `move` brings the snapshot, L1, L2, pins and everybody who listens
to what they made visible, in one callback of the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import secrets
import threading
from typing import TYPE_CHECKING, Any

from nt_memory.entries import Configure, StartSession
from nt_memory.errors import ClosedError, StorageError, WrongLoopError, again
from nt_memory.replica import is_staged
from nt_memory.system.background import keep_time, keep_up
from nt_memory.system.busing import make_auditor
from nt_memory.system.choosing import abandon, open_target, timeline_of
from nt_memory.system.compacting import Maintenance
from nt_memory.system.ending import Ending, insist
from nt_memory.system.filing import Filing
from nt_memory.system.following import (
    Listeners,
    RowCounts,
    attach_vectors,
    move_records,
    move_vectors,
)
from nt_memory.system.halting import Halts
from nt_memory.system.holds import Holds
from nt_memory.system.opened import Opened
from nt_memory.system.opening import check_settings
from nt_memory.system.pacing import Pace
from nt_memory.system.remote import RemoteVectors, connect
from nt_memory.system.shares import Shares
from nt_memory.system.strays import drop_strays
from nt_memory.system.turns import Turns
from nt_memory.system.visible import Visible
from nt_memory.system.writing import Writing, set_done
from nt_memory.tiers.hot import HotTier
from nt_memory.tiers.vectors import VectorTier

if TYPE_CHECKING:
    from collections.abc import Callable

    from nt_memory.clock import StoreClock
    from nt_memory.config import MemoryConfig
    from nt_memory.replica import Follow
    from nt_memory.system.writing import Submit
    from nt_memory.tiers.agentdb import AgentDBClient
    from nt_memory.tiers.views import Snapshot
    from nt_memory.timeline import Timeline
    from nt_memory.transport.local import LocalJournal
    from nt_memory.transport.values import ValueFiles

NEAR_REVISIONS = 64


class Engine:
    """Everything below the public API. Belongs to one event loop.

    Args:
        config: Settings of this node.
        clock: Source of time.
        opened: The store's parts, from `open_store`.
        client: The server that observations are searched on; None: here.
    """

    rows: RowCounts
    listeners: Listeners
    holds: Holds
    pace: Pace
    turns: Turns
    _ending: Ending

    def __init__(
        self,
        config: MemoryConfig,
        clock: StoreClock,
        opened: Opened,
        client: AgentDBClient | None = None,
    ) -> None:
        self.config = config
        self.clock = clock
        self.session: str = secrets.token_hex(8)
        self.opened = opened
        self.journal: LocalJournal | None = opened.journal
        self.reader: Any = opened.reader
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._pid = os.getpid()
        self._turn = asyncio.Lock()
        self.visible: Visible = Visible()
        self._background: list[asyncio.Task[None]] = []
        self._closing: asyncio.Task[None] | None = None
        self._staleness: StorageError | None = None
        self.writing: Writing = Writing(self)
        self.submit: Submit = self.writing.submit
        self.is_closed: bool = False
        # Taken first and asked for everything else, so that all of it is of one revision even while
        # another process goes on writing.
        self.snapshot: Snapshot = opened.cold.snapshot()
        self.revision: int = self.snapshot.number(b"revision") or 0
        self.sequence: int = self.snapshot.number(b"sequence") or 0
        self.next_lapse_us: int | None = opened.replica.next_lapse_us
        self.timeline: Timeline = timeline_of(config, clock, opened, self.snapshot)
        self.hot: HotTier = HotTier(
            config.cache_config, clock, max_bytes=Shares.of(config.max_memory_bytes).hot
        )
        self.vectors: VectorTier = VectorTier(
            opened.files,
            opened.directory.vectors,
            max_bytes=Shares.of(config.max_memory_bytes).vectors,
            is_deterministic=self.timeline.is_backtest,
            read_only=self.is_read_only,
            threads=os.cpu_count() or 1,
        )
        self.rows, self.listeners = RowCounts(is_remote=client is not None), Listeners()
        self.holds, self.pace, self.turns = Holds(clock), Pace(clock), Turns(clock)
        self.halts: Halts = Halts()
        self.filing: Filing = Filing(self, opened.directory.values)
        self.maintenance: Maintenance = Maintenance(self)
        self.remote: RemoteVectors | None = None if client is None else RemoteVectors(self, client)

    # --- life ---------------------------------------------------------------------------------

    @classmethod
    async def open(
        cls, config: MemoryConfig, clock: StoreClock, *, read_only: bool, adopt_settings: bool
    ) -> Engine:
        """Open or make a store; see `MemorySystem.open` for the errors."""
        client = connect(config)
        opening = asyncio.ensure_future(
            asyncio.to_thread(open_target, config, clock, read_only=read_only)
        )
        try:
            opened = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(abandon)  # nobody else has what the thread opens
            raise
        try:
            engine = cls(config, clock, opened, client)
            engine._ending = Ending(engine)
        except BaseException:
            opened.abandon()
            raise
        try:
            if not adopt_settings:
                check_settings(config, opened.replica)
            await asyncio.to_thread(attach_vectors, engine.vectors, engine.snapshot, engine.rows)
            await engine._start()
        except BaseException:
            engine._ending.set_over()
            engine.vectors.close()
            engine.snapshot.close()
            opened.abandon()
            raise
        return engine

    async def _start(self) -> None:
        if self.journal is None:
            self._background.append(self._loop.create_task(keep_up(self)))
            return
        self.journal.on_lost = self._lose
        self.journal.start(self.writing.deliver, self.writing.fail, self.writing.prepare)
        if self.journal.is_shared:
            # Others are at work too: their sessions end by their leases, if they do.
            self._background.append(self._loop.create_task(keep_time(self)))
            self._background.append(self._loop.create_task(make_auditor(self).run()))
            return
        if not self.opened.replica.is_configured:
            await self.submit(
                Configure(self.config.swarm, self.config.timeline, self.config.history)
            )
        has_unfinished = any(is_staged(name) for name, _ in self.snapshot.partitions())
        await self.submit(StartSession(self.session))
        if has_unfinished:  # of which the session that has begun may have given some up
            opened = self.opened
            await asyncio.to_thread(drop_strays, opened.directory, opened.cold, opened.files)
        self._background.append(self._loop.create_task(keep_time(self)))
        if self.remote is not None and self.remote.delivery is not None:
            self._background.append(self._loop.create_task(self.remote.delivery.run()))

    @property
    def is_read_only(self) -> bool:
        """Whether this follows another process."""
        return self.journal is None

    @property
    def keeps_history(self) -> bool:
        """Whether superseded versions are kept for ever."""
        return self.opened.replica.history is None

    @property
    def values(self) -> ValueFiles:
        """The value files."""
        return self.filing.files

    @property
    def cold_bytes(self) -> int:
        """Bytes of the views."""
        return self.opened.cold.size_bytes

    @property
    def is_forked(self) -> bool:
        """Whether this is a copy in a fork, which nothing belongs to."""
        return os.getpid() != self._pid

    async def close(self) -> None:
        """Write out what is queued, save the indexes, release the directory. Idempotent.

        In a fork it does nothing: views and journal are its parent's.
        """
        if self.is_forked:
            self.is_closed = True
            return
        self.writing.close()
        if self._closing is None or self._closing.cancelled():
            # A task of its own, so that a cancelled caller does not leave it half done; it can be
            # cancelled itself only before it has begun.
            self._closing = self._loop.create_task(self._close())
        self.halts.end()
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await insist(asyncio.ensure_future(self._settle()))
        for task in self._background:
            task.cancel()
        await insist(asyncio.gather(*self._background, return_exceptions=True))
        if self.remote is not None:
            await insist(asyncio.ensure_future(self.remote.close()))
        is_clean = self.writing.failure is None
        if self.journal is not None:
            try:
                await insist(self._loop.run_in_executor(None, self.journal.close))
            except StorageError:
                is_clean = False
            is_clean = is_clean and self.journal.failure is None
            await insist(asyncio.ensure_future(self.drain()))
        self.is_closed = True
        self.visible.wake(ClosedError("the memory was closed"))
        self.hot.clear()
        closing = functools.partial(self._close_files, is_clean=is_clean)
        await insist(self._loop.run_in_executor(None, closing))
        self._ending.set_over()

    async def _settle(self) -> None:
        await self.filing.settle()
        await self.maintenance.settle()

    @property
    def is_orphan(self) -> bool:
        """Whether its loop was closed without closing it, so that nobody can close it there."""
        return not self.is_closed and not self.is_forked and self._loop.is_closed()

    def release(self) -> None:
        """Close an orphan: write what was submitted, give the directory back. From any thread."""
        self.is_closed = True
        self.writing.close()
        if self.journal is not None:
            with contextlib.suppress(StorageError):
                self.journal.close()
        self._close_files(is_clean=False)

    async def drain(self) -> None:
        """Wait until what the journal has handed over so far is visible."""
        # The journal's last batches were handed over with call_soon_threadsafe before its thread
        # ended; one more turn of the loop runs them.
        turn = self._loop.create_future()
        self._loop.call_soon(set_done, turn)  # whose waiter may have been cancelled
        await turn

    def _close_files(self, *, is_clean: bool) -> None:
        try:
            if not self.is_read_only and is_clean:
                with contextlib.suppress(OSError):  # costs the next open time, and nothing else
                    self.vectors.save()
        finally:
            self.vectors.close()
            self.snapshot.close()
            self.opened.close(is_clean=is_clean)

    def check_usable(self) -> None:
        """Refuse calls on a closed instance or from elsewhere.

        Raises:
            ClosedError: it was closed.
            WrongLoopError: another thread, loop or process calls.
        """
        is_here = threading.get_ident() == self._thread and os.getpid() == self._pid
        if not is_here or _running_loop() not in (None, self._loop):
            raise WrongLoopError(
                "this memory belongs to the event loop, thread and process that opened it"
            )
        if self.is_closed:
            raise ClosedError("the memory was closed")
        if self._staleness is not None:
            raise again(self._staleness)

    async def flush(self) -> None:
        """Wait until everything submitted before is durable and visible."""
        self.check_usable()
        if self.journal is None:
            await self.catch_up()
            return
        await asyncio.to_thread(self.journal.flush)
        await self.drain()

    # --- following ----------------------------------------------------------------------------

    def move(self, follow: Follow) -> None:
        """Move everything on the loop to a new revision, in one step."""
        assert follow.snapshot is not None  # noqa: S101 - apply always sets it
        self.snapshot.close()
        self.snapshot = follow.snapshot
        self.revision = follow.revision
        self.sequence = follow.sequence
        self.next_lapse_us = follow.next_lapse_us
        if follow.timeline_us is not None:
            self.timeline.follow(follow.timeline_us)
        move_vectors(self.vectors, follow, self.rows)
        move_records(self.hot, follow.changes, self.values)
        self.listeners.tell(follow)
        self.visible.wake(None)

    async def catch_up(self) -> None:
        """Read-only: move to what another process has made visible since.

        Raises:
            StorageError: the views were rebuilt and do not reach back to what is visible here.
        """
        async with self._turn:
            while await self._catch_up_once():
                pass

    async def _catch_up_once(self) -> bool:
        """Whether there may be more, in views that have taken the place of those just read."""
        gap = self.opened.gap(self.revision)
        if gap == 0 and self.opened.retired is None:
            return False
        # What takes long is read on another thread; the loop moves to it in one step.
        is_near = gap is not None and gap <= NEAR_REVISIONS
        poll = functools.partial(self.opened.poll, self.revision, self.vectors)
        follow = poll() if is_near else await self._off_loop(poll)
        if follow is None:
            return False
        self.move(follow)
        return gap is None

    async def _off_loop(self, poll: Callable[[], Follow | None]) -> Follow | None:
        reading = self._loop.run_in_executor(None, poll)
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            # The files must not be closed under it.
            await insist(reading)
            follow = reading.result()
            if follow is not None and follow.snapshot is not None:
                follow.snapshot.close()
            raise

    def give_up(self, error: StorageError) -> None:
        """Nothing can be followed any more: fail whoever waits, and every later call.

        What is held here would grow stale without saying so.
        """
        self.writing.failure = self._staleness = error
        self.hot.clear()
        self.visible.wake(error)

    def _lose(self, error: StorageError) -> None:
        """On some thread: what the journal orders does not get here any more."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.give_up, error)

    async def wait_visible(self) -> None:
        """Wait until something new is visible.

        Raises:
            ClosedError: the memory was closed meanwhile.
        """
        self.check_usable()
        await self.visible.wait()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None  # a plain call between runs of the loop, in its own thread
