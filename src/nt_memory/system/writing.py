"""Entries on their way: from a call through the journal's thread and back to the loop.

`submit` queues an entry; the journal's thread makes it durable and folds it into the views; the loop
then moves everything to the new revision in one callback, and only after that resolves the callers.
So whoever was told that a write succeeded reads it in every tier.

Back-pressure runs the other way: the queue of entries is bounded in bytes, and the journal's thread
waits when more than `MAX_BEHIND` batches are committed but not followed yet, because each holds a
read transaction and with it the views' old pages.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from typing import TYPE_CHECKING, Any, Protocol

from nt_memory.acting import actor
from nt_memory.entries import Entry, ObserveMany, Write, encode_entry
from nt_memory.errors import (
    ClosedError,
    InvalidInputError,
    NtMemoryError,
    PermissionDeniedError,
    ReadOnlyError,
    StorageError,
    StorageFullError,
    again,
)
from nt_memory.replica import Now, Replica, policies
from nt_memory.replica.quotas import check_early

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from nt_memory.entries import Body
    from nt_memory.replica import Follow
    from nt_memory.replica.steps import Prepared
    from nt_memory.system.engine import Engine
    from nt_memory.transport.local import LocalJournal
    from nt_memory.transport.ports import Frame

MAX_BEHIND = 16
FULL_RETRY_S = 0.2
STUCK_S = 0.02


class Submit(Protocol):
    """What `Writing.submit` is to those who are handed it."""

    def __call__(self, body: Body, request_id: str | None = None) -> Coroutine[Any, Any, Any]:
        """Have an entry ordered, made durable and applied."""
        ...


class Writing:
    """The writes of one engine. Belongs to its loop, but for what says that it does not.

    Args:
        engine: Whose.

    Attributes:
        failure: Why nothing can be written any more; None while it can.
        fullness: Why nothing can be written for now; None while there is space.
        denied: Entries and reads that policies refused.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._behind = threading.BoundedSemaphore(MAX_BEHIND)
        self._turn = asyncio.Lock()
        self._pause = threading.Event()
        self._prepared: Prepared | None = None  # the journal's thread's own
        self.failure: NtMemoryError | None = None
        self.fullness: StorageFullError | None = None
        self.denied: int = 0

    def close(self) -> None:
        """Nothing is waited for any more: neither by the journal's thread, nor for space."""
        self._pause.set()

    async def submit(self, body: Body, request_id: str | None = None) -> Any:
        """Have an entry ordered, made durable and applied.

        Cancelled before its batch was cut it is withdrawn; after that it may have happened.

        Returns:
            What the entry results in.

        Raises:
            NtMemoryError: it was refused; nothing changed.
            StorageError: it could not be made durable.
        """
        engine = self._engine
        engine.check_usable()
        if engine.halts:
            await engine.halts.wait(body)
            engine.check_usable()
        journal = self._writable()
        # One with a request id may have been made already: then it returns what it did.
        if request_id is None:
            self._check_early(body)
        try:
            payload = encode_entry(Entry(body, self.actor, request_id))
        except (OverflowError, TypeError) as error:
            raise InvalidInputError(f"an argument cannot be stored: {error}") from None
        ticket: asyncio.Future[Any] = self._loop.create_future()
        if self._turn.locked() or not journal.submit(payload, ticket):
            await self._submit_in_turn(journal, payload, ticket)
        try:
            return await ticket
        except asyncio.CancelledError:
            journal.withdraw(ticket)
            raise

    def _writable(self) -> LocalJournal:
        """The journal, if anything can be written now."""
        journal = self._engine.journal
        if journal is None:
            raise ReadOnlyError("this memory was opened read-only")
        if self._pause.is_set():
            raise ClosedError("the memory is closing")
        if (failure := self.failure or self.fullness) is not None:
            raise again(failure)
        return journal

    def _check_early(self, body: Body) -> None:
        self.check_rights(body)
        if self._engine.opened.replica.has_quotas:
            self.check_quota(body)

    @property
    def actor(self) -> str:
        """In whose name an entry that is submitted here and now is."""
        name = actor()
        return self._engine.config.agent if name is None else name

    def check_rights(self, body: Body) -> None:
        """Refuse what the actor's policy does not allow as things are visible here.

        Raises:
            PermissionDeniedError: it would be refused now.
        """
        name = self.actor
        if name and self._engine.opened.replica.has_policies:
            try:
                policies.check_early(self._engine.snapshot, body, name)
            except PermissionDeniedError:
                self.denied += 1
                raise

    def check_quota(self, body: Body) -> None:
        """Refuse what a quota does not allow as things are visible here; see `check_early`.

        Raises:
            QuotaError: it would be refused now.
        """
        engine = self._engine
        if isinstance(body, Write | ObserveMany) and engine.timeline.has_started:
            replica, now_us = engine.opened.replica, engine.timeline.now_us()
            now = Now(engine.clock.now_us(), now_us, engine.revision + 1, replica.is_backtest)
            check_early(engine.snapshot, body, now, replica.history)

    async def _submit_in_turn(
        self, journal: LocalJournal, payload: bytes, ticket: asyncio.Future[Any]
    ) -> None:
        """Wait for room in the journal's queue, first come first served.

        Only the first in line asks to be woken. If all did, each batch that is written would wake
        all of them for the few that find room, and the others could be overtaken for ever.
        """
        async with self._turn:
            while not journal.submit(payload, ticket):
                room: asyncio.Future[None] = self._loop.create_future()
                journal.on_space(functools.partial(self._announce, room))
                await room

    def _announce(self, room: asyncio.Future[None]) -> None:
        self._loop.call_soon_threadsafe(set_done, room)

    def prepare(self, frames: Sequence[Frame]) -> None:
        """On the journal's thread, while the disk writes: fold what is not durable yet.

        Nobody sees it before `deliver` commits it. What goes wrong here goes wrong there once more,
        when what it is about is durable.
        """
        opened = self._engine.opened
        try:
            with self._engine.turns.alone():
                self._prepared = opened.replica.prepare(frames)
        except (NtMemoryError, OSError):
            opened.replica = Replica(opened.cold, opened.files)

    def deliver(self, frames: Sequence[Frame]) -> None:
        """On the journal's thread: fold what is durable into the views, and hand it to the loop."""
        prepared, self._prepared = self._prepared, None
        if prepared is None:
            follow = self._apply(frames)
        else:
            try:
                follow = self._engine.opened.replica.commit(prepared)
            except StorageFullError as error:
                self._wait_for_space(error)
                follow = self._apply(frames)
        self.fullness = None
        self.hand_over(follow)

    def _apply(self, frames: Sequence[Frame]) -> Follow:
        while True:
            try:
                with self._engine.turns.alone():
                    follow = self._engine.opened.replica.apply(frames)
            except StorageFullError as error:
                self._wait_for_space(error)
            else:
                return follow

    def _wait_for_space(self, error: StorageFullError) -> None:
        """On the journal's thread: what it holds must be applied, so wait until it can be."""
        self.fullness = error
        if self._pause.is_set():
            raise error  # the next open applies it
        waited_s = 0.0
        while waited_s < FULL_RETRY_S and not self._pause.wait(STUCK_S):
            self._while_stuck()
            waited_s += STUCK_S
        opened = self._engine.opened
        ring = opened.replica.ledger.ring
        opened.replica = Replica(opened.cold, opened.files)
        opened.replica.keep_ring(ring)

    def hand_over(self, follow: Follow) -> None:
        """On the journal's thread: have the loop follow, once it is not too far behind."""
        while not self._behind.acquire(timeout=STUCK_S):
            self._while_stuck()
        follow.next_lapse_us = self._engine.opened.replica.next_lapse_us
        try:
            self._loop.call_soon_threadsafe(self._follow, follow)
        except RuntimeError:  # the loop was closed without closing the memory
            if follow.snapshot is not None:
                follow.snapshot.close()
            raise

    def _while_stuck(self) -> None:
        """On the journal's thread, which waits: what "relaxed" promises holds all the same."""
        assert self._engine.journal is not None  # noqa: S101 - it is its thread
        self._engine.journal.sync_if_due()
        if self._loop.is_closed():
            raise ClosedError("the event loop was closed without closing the memory")

    def fail(self, tickets: Sequence[Any], error: BaseException) -> None:
        """On the journal's thread: what was not written, and why."""
        if self._prepared is not None:
            self._prepared.discard()
            self._prepared = None
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._reject, list(tickets), error)

    def _reject(self, tickets: Sequence[asyncio.Future[Any]], error: BaseException) -> None:
        said = error if isinstance(error, NtMemoryError) else StorageError(repr(error))
        if isinstance(said, PermissionDeniedError):
            self.denied += len(tickets)  # by the servers of a cluster: nothing has failed
        elif not said.retryable:
            self.failure = said
        for ticket in tickets:
            if not ticket.done():
                ticket.set_exception(again(said))

    def _follow(self, follow: Follow) -> None:
        """Move everything on the loop to a new revision, then tell the callers."""
        self._behind.release()
        try:
            self._engine.move(follow)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may be left waiting
            self._break(follow, error)
            return
        for ticket, result, refusal in follow.outcomes:
            if ticket.done():
                continue
            if refusal is not None:
                self.denied += isinstance(refusal, PermissionDeniedError)
                ticket.set_exception(refusal)
            else:
                ticket.set_result(result)

    def _break(self, follow: Follow, error: Exception) -> None:
        """What is durable could not be made visible here: stop, rather than show half of it."""
        broken = StorageError(
            f"entry {follow.sequence} is stored but could not be followed: {error!r}; "
            "reopen the memory"
        )
        broken.__cause__ = error
        self._reject([outcome.ticket for outcome in follow.outcomes], broken)
        self._engine.give_up(broken)


def set_done(future: asyncio.Future[None]) -> None:
    """Resolve a future whose waiter may have been cancelled."""
    if not future.done():
        future.set_result(None)
