"""The journal of a cluster's node: ordered by a JetStream stream, kept here in segments like any other.

Entries that are submitted are packed, published, and come back with the stream, as do everybody
else's; what comes is written to this node's own journal and only then delivered. So a node's
directory is a store like an embedded one: it reopens, replays, compacts, is copied, verified and
exported by the same code, and it begins again where it left off, because a `Mark` before the entries
of each message says which message that is.

Three threads: the link's, which takes messages off the wire; the publisher's (`publishing`); and the
journal's own, which writes and delivers. Nobody is told that a write succeeded before it was delivered
here.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from nt_memory.clock import SystemClock
from nt_memory.entries import Configure, Entry, Mark, encode_entry
from nt_memory.entries.origins import Origin, Publisher, first_needed, is_repeated
from nt_memory.errors import (
    ClosedError,
    DisconnectedError,
    InvalidInputError,
    StorageError,
    StorageFullError,
    again,
)
from nt_memory.transport.local import LocalJournal
from nt_memory.transport.nats.follower import Follower, Stored
from nt_memory.transport.nats.parcels import decode_parcel
from nt_memory.transport.nats.publishing import PATIENCE_S, Flush, Publishing, UnderWay
from nt_memory.transport.nats.subjects import CATALOGUE
from nt_memory.transport.nats.unpacking import Unpacking, check_not_founded
from nt_memory.transport.submissions import Work

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from nt_memory.clock import StoreClock
    from nt_memory.transport.nats.link import Link
    from nt_memory.transport.ports import Frame

_LOOK_S: Final = 0.5
_FRAMES_AT_ONCE: Final = 256
_PENDING_BYTES: Final = 64 << 20


class _Arrival(NamedTuple):
    """A message on its way into this node's journal; a ticket of `Submissions`."""

    stored: Stored


class NatsJournal(LocalJournal):
    """`ports.Journal` of a cluster's node.

    `sequence` counts this node's frames, marks included: they are the same on every node.

    Args:
        directory: Where the segments are; must exist and be held by the caller.
        link: The connection; closed with the journal.
        stream: Identity of the stream.
        values: Where this node's value files are.
        clock: This node's; it is kept in step with the stream's time.
        applied_sequence: As of `LocalJournal`.
        patience_s: How long to try.
    """

    is_shared = True

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        link: Link,
        stream: str,
        values: Path,
        clock: StoreClock,
        applied_sequence: int = 0,
        patience_s: float = PATIENCE_S,
    ) -> None:
        super().__init__(
            directory, clock=clock, durability="relaxed", applied_sequence=applied_sequence
        )
        self.directory = directory
        self.link = link
        self._subjects = link.subjects
        self.stream = stream
        self._store_clock = clock
        self._system = SystemClock()
        self._publishing = Publishing(
            link,
            values,
            max_pending_bytes=_PENDING_BYTES,
            patience_s=patience_s,
            lose=self.lose,
        )
        self._unpacking = Unpacking(self._publishing, values, self._is_ending)
        self._patience_s = patience_s
        self._publishers: dict[str, Publisher] = {}
        self._resumed: Origin | None = None
        self._is_founded = False  # begins with what was imported
        self._follower: Follower | None = None
        self._delivered: list[UnderWay] = []  # the journal's thread's own
        self._arrived_us = 0  # when the stream took the newest message of this node
        self._message = 0  # newest that is written here

    # --- where it stands ------------------------------------------------------------------------

    @property
    def pending_bytes(self) -> int:
        """See `Journal.pending_bytes`."""
        return self._publishing.outbox.pending_bytes

    @property
    def unseen(self) -> int:
        """Messages that the stream is known to have and this node has not."""
        return max(0, (self._follower.last if self._follower else 0) - self._message)

    @property
    def session(self) -> str:
        """Names this run of this node."""
        return self._publishing.session

    def silent_s(self) -> float:
        """Seconds since a server was heard of last."""
        if self._follower is None:
            return 0.0
        return (self._system.monotonic_ns() - self._follower.heard_ns) / 1e9

    # --- submitting -----------------------------------------------------------------------------

    def submit(self, payload: bytes, ticket: object) -> bool:
        """See `Journal.submit`.

        Raises:
            StorageError: following has stopped.
            ClosedError: it was closed, or not started.
            WrongLoopError: this is a fork.
        """
        self._check_process()
        if not payload:
            raise InvalidInputError("an entry is not empty")
        return self._publishing.outbox.put(payload, ticket)

    def on_space(self, callback: Callable[[], None]) -> None:
        """See `Journal.on_space`."""
        self._check_process()
        self._publishing.outbox.on_space(callback)

    def withdraw(self, ticket: object) -> bool:
        """See `Journal.withdraw`."""
        self._check_process()
        return self._publishing.outbox.withdraw(ticket)

    def flush(self) -> None:
        """Block until all that was committed before this call, anywhere, is delivered here.

        A message of its own goes through the stream and comes back, so the answer is the leader's and
        not what some server believes.

        Raises:
            DisconnectedError: the servers are out of reach.
            StorageError: following has stopped.
            ClosedError: it was closed, or not started.
        """
        self._check_process()
        flush = Flush()
        self._publishing.outbox.put(b"", flush)
        flush.is_reached.wait()
        flush.check()

    # --- life -----------------------------------------------------------------------------------

    def begins_with(self, origin: Origin | None) -> int:
        """The first message of the stream that is not in this journal whole.

        Args:
            origin: How far the views have followed the stream, with all that is in this journal.

        Raises:
            StorageError: this journal holds what did not come from the stream.
        """
        written = 0 if origin is None else origin.mark + origin.entries
        if self._last_sequence > written:
            raise StorageError(
                f"{self.directory}: written by a memory that was opened on the directory itself, "
                "not by this node; give the node another one"
            )
        return 1 if origin is None else first_needed(origin, self._last_sequence)

    def follow(self, origin: Origin | None, publishers: dict[str, Publisher]) -> None:
        """Begin to take what the stream has after the views. Before `start`.

        Args:
            origin: How far the views have followed the stream, with all that is in this journal.
            publishers: Whom the views know.

        Raises:
            StorageError: as `begins_with`.
        """
        self._publishers = publishers
        first = self.begins_with(origin)
        self._is_founded = origin is not None and origin.message == 0
        if origin is not None:
            self._resumed = origin if first == origin.message > 0 else None
            self._message = origin.message
        self._submissions.accept()
        self._follower = Follower(
            self.link,
            self._subjects.stream,
            identity=self.stream,
            first=first,
            take=self._take,
            fail=self.lose,
        )
        self._follower.start()

    def catch_up(self, apply: Callable[[Sequence[Frame]], None]) -> None:
        """Write and apply all that was committed before this call. Between `follow` and `start`.

        Also brings the clock in step: the stream took a message of this node's between two moments of
        this node's time.

        Raises:
            DisconnectedError, PermissionDeniedError: the servers cannot be reached, or refuse.
            StorageError: following has stopped, or it could not be written.
        """
        flush, sent_us = Flush(), self._store_clock.now_us()
        self._publishing.send(self.link.agent, [(b"", flush)])
        while not flush.is_reached.is_set():
            self._read_in(apply)
        flush.check()
        now_us = self._store_clock.now_us()
        half_us = (now_us - sent_us) // 2
        if not sent_us <= self._arrived_us <= now_us:
            self._store_clock.align(self._arrived_us + half_us)
        self._store_clock.start_after(self.recorded_at)

    def configure(self, settings: Configure, apply: Callable[[Sequence[Frame]], None]) -> None:
        """Have the swarm's settings stored, unless another node is faster. As `catch_up`."""
        self._publishing.send("", [(encode_entry(Entry(settings)), None)])
        self.catch_up(apply)

    def _read_in(self, apply: Callable[[Sequence[Frame]], None]) -> None:
        """What has arrived, on this thread."""
        work = self._submissions.take(_LOOK_S)
        if self._failure is not None:
            raise again(self._failure)
        if work is None or not work.batch:
            if self.silent_s() > self._patience_s:
                raise DisconnectedError(
                    f"{self.link.name}: nothing was heard of the servers for long"
                )
            return
        frames = self._append(work.batch)
        self._submissions.release(sum(len(payload) for payload, _ in work.batch))
        self._last_sequence += len(frames)
        apply(frames)
        self._end_delivered()

    def _end_delivered(self) -> None:
        delivered, self._delivered = self._delivered, []
        for sending in delivered:
            sending.end(None)

    def start(
        self,
        deliver: Callable[[Sequence[Frame]], None],
        fail: Callable[[Sequence[Any], BaseException], None],
        prepare: Callable[[Sequence[Frame]], None] | None = None,
    ) -> None:
        """See `Journal.start`. `prepare` is not called."""

        def deliver_some(frames: Sequence[Frame]) -> None:
            for first in range(0, len(frames), _FRAMES_AT_ONCE):
                deliver(frames[first : first + _FRAMES_AT_ONCE])

        super().start(deliver_some, fail, prepare)
        self._publishing.start(fail)

    def close(self) -> None:
        """See `Journal.close`; what cannot be sent for want of a server fails."""
        try:
            self._publishing.close()
            if self._follower is not None:
                self._follower.stop()
            super().close()
            self._publishing.end(ClosedError("the journal was closed"))
        finally:
            self.link.close()

    def _exit(self) -> None:
        self._publishing.refuse()
        super()._exit()

    # --- the link's loop ------------------------------------------------------------------------

    async def _take(self, stored: Stored) -> None:
        """A message has arrived; waits while too many do."""
        while True:
            if self._submissions.put(stored.data or b"\0", _Arrival(stored)):
                return
            room = self.link.loop.create_future()
            self._submissions.on_space(functools.partial(self.link.post, _set_done, room))
            await room

    def lose(self, error: BaseException) -> None:
        """Nothing can be followed any more; from any thread."""
        failure = error
        if not isinstance(failure, StorageError):
            failure = StorageError(f"the cluster cannot be followed any more: {error}")
            failure.__cause__ = error
        self._failure = self._failure or failure
        for payload, ticket in self._submissions.fail(failure):
            if payload is None:
                ticket.error = failure
                ticket.is_reached.set()
        self._submissions.close(failure)  # so that its thread ends
        self._publishing.end(failure)
        self.on_lost(failure)

    def _stop(self, error: BaseException) -> None:
        """On the journal's thread: it has failed."""
        barrier, self._in_hand = self._in_hand.barrier, Work([])
        self.lose(error)
        delivered, self._delivered = self._delivered, []
        for sending in delivered:  # or not; then they do not know yet
            sending.end(self._failure)
            self._publishing.fail_all(sending.tickets, self._failure or error)
        if barrier is not None:
            barrier.error = self._failure
            barrier.is_reached.set()

    # --- the journal's thread -------------------------------------------------------------------

    def _append(self, batch: list[tuple[bytes, Any]]) -> list[Frame]:
        frames: list[Frame] = []
        for _, arrival in batch:
            frames += self._write_message(arrival.stored)
        return frames

    def _write_message(self, stored: Stored) -> list[Frame]:
        """One message: its mark, and the entries that count."""
        author = self._subjects.read(stored.subject).agent
        if stored.sequence == 1 and author == CATALOGUE and not self._is_founded:
            check_not_founded(stored.data)
        parcel = decode_parcel(stored.data, author)
        # Held apart by author, or one could use up another's numbers.
        publisher = f"{author}/{parcel.session}" if parcel.session else ""
        recorded_at = max(stored.stored_at, self.recorded_at)
        last = self._publishers.get(publisher)
        resumed, self._resumed = self._resumed, None
        is_new = resumed is not None or not is_repeated(last, parcel.number, recorded_at)
        skipped = 0 if resumed is None else self._last_sequence - resumed.mark + 1
        is_mine = parcel.session == self._publishing.session and author in ("", self.link.agent)
        sending = self._publishing.arrived(parcel.number) if is_mine and is_new else None
        if sending is not None:
            self._delivered.append(sending)
            self._arrived_us = stored.stored_at
        entries = (
            self._unpacking.admitted(parcel, author, sending, stored.sequence) if is_new else []
        )
        if publisher and is_new:
            self._publishers[publisher] = Publisher(parcel.number, recorded_at)
        mark = Mark(self.stream, stored.sequence, publisher, parcel.number, len(entries))
        rows = [(encode_entry(Entry(mark)), None), *entries]
        frames = self._write_out(rows[skipped:], recorded_at)
        self._message = stored.sequence
        self._store_clock.start_after(recorded_at)
        return frames

    def _is_ending(self) -> bool:
        return self._publishing.outbox.is_closing or self._failure is not None

    def _write_out(self, rows: list[tuple[bytes, Any]], recorded_at: int) -> list[Frame]:
        """Write to the end of this node's journal; when its disk is full, once there is room again."""
        while True:
            try:
                return self._writer.append(rows, recorded_at)
            except StorageFullError as error:
                if self._is_ending():
                    raise ClosedError(str(error)) from None  # the next open takes it again
                self._publishing.wake.wait(_LOOK_S)

    def _write(self, batch: list[tuple[bytes, Any]]) -> None:
        super()._write(batch)
        self._end_delivered()
        self._publishing.wake.set()


def _set_done(room: asyncio.Future[None]) -> None:
    if not room.done():
        room.set_result(None)
