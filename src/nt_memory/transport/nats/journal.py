"""The journal of a cluster's node: ordered by a JetStream stream, kept here in segments like any other.

Entries that are submitted are packed, published, and come back with the stream, as do everybody
else's; what comes is written to this node's own journal and only then delivered. So a node's
directory is a store like an embedded one: it reopens, replays, compacts, is copied, verified and
exported by the same code, and it begins again where it left off, because a `Mark` before the entries
of each message says which message that is.

Three threads: the link's, which takes messages off the wire; the publisher's, which has one message
under way at a time, so that what is submitted in order is ordered so; and the journal's own, which
writes and delivers. Nobody is told that a write succeeded before it was delivered here.

*When it is not known whether a message was stored*, it is published again under the same id, until an
answer comes or it is seen arriving. After `patience_s` in which nothing was accepted, whatever waits
fails with `DisconnectedError`, and what comes later fails at once, after one attempt.
"""

from __future__ import annotations

import asyncio
import functools
import secrets
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from nt_memory.clock import SystemClock
from nt_memory.codec.filed import REFERENCE_START, read_reference
from nt_memory.entries import Configure, Entry, Mark, decode_entry, encode_entry
from nt_memory.entries.origins import Origin, Publisher, is_repeated
from nt_memory.errors import (
    ClosedError,
    DisconnectedError,
    InvalidInputError,
    NtMemoryError,
    PermissionDeniedError,
    StorageError,
    StorageFullError,
    again,
)
from nt_memory.transport.local import LocalJournal
from nt_memory.transport.nats.blobs import Blobs, digest_of
from nt_memory.transport.nats.follower import Follower, Stored
from nt_memory.transport.nats.link import ApiError
from nt_memory.transport.nats.parcels import (
    BLOB_FROM_BYTES,
    PARCEL_BYTES,
    Blob,
    Parcel,
    admit,
    decode_parcel,
    encode_parcel,
    filed_values,
)
from nt_memory.transport.submissions import Submissions, Work

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from nt_memory.clock import StoreClock
    from nt_memory.transport.nats.link import Link
    from nt_memory.transport.ports import Frame

PATIENCE_S: Final = 20.0
"""Losing a leader stops writes for 4 to 12 s."""
_ATTEMPT_S: Final = 2.0
_RETRY_S: Final = 0.1
_LOOK_S: Final = 0.5
_FRAMES_AT_ONCE: Final = 256
_FULL = (10077, 10122, 10123)  # maximum bytes, messages, or an account's resources


@dataclass(slots=True)
class _UnderWay:
    """A message that was published, or is about to be.

    Attributes:
        tickets: Of its entries, in order.
        flushes: Who waits for it to be delivered.
        is_acknowledged: Whether it is known to be stored.
        since_ns: When it was first published, monotonic.
    """

    tickets: list[Any] = field(default_factory=list[Any])
    flushes: list[_Flush] = field(default_factory=list["_Flush"])
    is_acknowledged: bool = False
    since_ns: int = 0

    def end(self, error: BaseException | None) -> None:
        """Let those who flush go on."""
        for flush in self.flushes:
            flush.error = error
            flush.is_reached.set()


class _Flush:
    """A ticket without an entry: somebody waits until all that was committed before is delivered."""

    def __init__(self) -> None:
        self.is_reached = threading.Event()
        self.error: BaseException | None = None

    def check(self) -> None:
        """Raise what became of it, if that was no good."""
        if self.error is not None:
            raise again(self.error) if isinstance(self.error, NtMemoryError) else self.error


class _Arrival(NamedTuple):
    """A message on its way into this node's journal; a ticket of `Submissions`."""

    stored: Stored
    author: str


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
        max_pending_bytes: As of `LocalJournal`, of what is submitted here.
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
        max_pending_bytes: int = 64 << 20,
        patience_s: float = PATIENCE_S,
    ) -> None:
        super().__init__(
            directory, clock=clock, durability="relaxed", applied_sequence=applied_sequence
        )
        self.directory = directory
        self.link = link
        self.blobs = Blobs(link)
        self.session = secrets.token_hex(12)
        self._subjects = link.subjects
        self._stream = stream
        self._values = values
        self._store_clock = clock
        self._system = SystemClock()
        self._patience_ns = int(patience_s * 1e9)
        self._outbox = Submissions(max_pending_bytes, ClosedError("the journal was not started"))
        self._publishers: dict[str, Publisher] = {}
        self._resumed: Origin | None = None
        self._follower: Follower | None = None
        self._publisher: threading.Thread | None = None
        self._number = 0
        self._mutex = threading.Lock()
        self._under_way: dict[int, _UnderWay] = {}  # guarded by `_mutex`
        self._delivered: list[_UnderWay] = []  # the journal's thread's own
        self._unheard_ns = 0  # since when nothing was accepted; 0: it was
        self._wake = threading.Event()
        self._arrived_us = 0  # when the stream took the newest message of this node
        self._message = 0  # newest that is written here

    # --- where it stands ------------------------------------------------------------------------

    @property
    def pending_bytes(self) -> int:
        """See `Journal.pending_bytes`."""
        return self._outbox.pending_bytes

    @property
    def unseen(self) -> int:
        """Messages that the stream is known to have and this node has not."""
        return max(0, (self._follower.last if self._follower else 0) - self._message)

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
        return self._outbox.put(payload, ticket)

    def on_space(self, callback: Callable[[], None]) -> None:
        """See `Journal.on_space`."""
        self._check_process()
        self._outbox.on_space(callback)

    def withdraw(self, ticket: object) -> bool:
        """See `Journal.withdraw`."""
        self._check_process()
        return self._outbox.withdraw(ticket)

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
        flush = _Flush()
        self._outbox.put(b"", flush)
        flush.is_reached.wait()
        flush.check()

    # --- life -----------------------------------------------------------------------------------

    def follow(self, origin: Origin | None, publishers: dict[str, Publisher]) -> None:
        """Begin to take what the stream has after the views. Before `start`.

        Args:
            origin: How far the views have followed the stream, with all that is in this journal.
            publishers: Whom the views know.

        Raises:
            StorageError: this journal holds what did not come from the stream.
        """
        self._publishers = publishers
        first = 1
        written = 0 if origin is None else origin.mark + origin.entries
        if self._last_sequence > written:
            raise StorageError(
                f"{self.directory}: written by a memory that was opened on the directory itself, "
                "not by this node; give the node another one"
            )
        if origin is not None:
            is_whole = self._last_sequence >= origin.mark + origin.entries
            first = origin.message + is_whole
            self._resumed = None if is_whole else origin
            self._message = origin.message
        self._submissions.accept()
        self._follower = Follower(
            self.link,
            self._subjects.stream,
            identity=self._stream,
            first=first,
            take=self._take,
            fail=self._lose,
        )
        self._follower.start()

    def read_in(self, apply: Callable[[Sequence[Frame]], None], wait_s: float) -> bool:
        """Write and apply what has arrived, on this thread. Between `follow` and `start`.

        Returns:
            Whether something had arrived.

        Raises:
            StorageError: following has stopped, or it could not be written.
        """
        work = self._submissions.take(wait_s)
        if self._failure is not None:
            raise again(self._failure)
        if work is None or not work.batch:
            return False
        frames = self._append(work.batch)
        self._submissions.release(sum(len(payload) for payload, _ in work.batch))
        self._last_sequence += len(frames)
        apply(frames)
        return True

    def catch_up(self, apply: Callable[[Sequence[Frame]], None]) -> None:
        """Write and apply all that was committed before this call. Between `follow` and `start`.

        Also brings the clock in step: the stream took a message of this node's between two moments of
        this node's time.

        Raises:
            DisconnectedError, PermissionDeniedError: the servers cannot be reached, or refuse.
            StorageError: following has stopped, or it could not be written.
        """
        flush, sent_us = _Flush(), self._store_clock.now_us()
        self._send(self.link.agent, [(b"", flush)])
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
        self._send("", [(encode_entry(Entry(settings)), None)])
        self.catch_up(apply)

    def _read_in(self, apply: Callable[[Sequence[Frame]], None]) -> None:
        """What has arrived, on this thread."""
        work = self._submissions.take(_LOOK_S)
        if self._failure is not None:
            raise again(self._failure)
        if work is None or not work.batch:
            if self.silent_s() * 1e9 > self._patience_ns:
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
        self._outbox.accept()
        self._publisher = threading.Thread(
            target=self._publish, name="nt-memory-publisher", daemon=True
        )
        self._publisher.start()

    def close(self) -> None:
        """See `Journal.close`; what cannot be sent for want of a server fails."""
        self._outbox.close(ClosedError("the journal was closed"))
        try:
            if self._publisher is not None:
                self._publisher.join()
            self._settle()
            if self._follower is not None:
                self._follower.stop()
            super().close()
            self._give_up_all(ClosedError("the journal was closed"))
        finally:
            self.link.close()

    def _settle(self) -> None:
        """What is acknowledged is on its way; its callers are told, if it comes."""
        until_ns = self._system.monotonic_ns() + int(_ATTEMPT_S * 1e9)
        while self.link.is_connected and self._system.monotonic_ns() < until_ns:
            with self._mutex:
                if not self._under_way:
                    return
            self._wake.wait(_RETRY_S)
            self._wake.clear()

    def _exit(self) -> None:
        self._outbox.close(ClosedError("the journal was closed"))
        super()._exit()

    # --- the publisher's thread -----------------------------------------------------------------

    def _publish(self) -> None:
        try:
            while (work := self._outbox.take(_LOOK_S)) is not None:
                for author, run in self._runs(work.batch):
                    self._send(author, run)
                self._outbox.release(sum(len(payload) for payload, _ in work.batch))
                self._drop_overdue()
        except BaseException as error:  # noqa: BLE001 - whatever it was, someone waits for an answer
            failure = StorageError(f"publishing failed: {error!r}")
            failure.__cause__ = error
            self._lose(failure)

    def _runs(
        self, batch: list[tuple[bytes, Any]]
    ) -> Iterator[tuple[str, list[tuple[bytes, Any]]]]:
        """A batch in messages: entries of one author each, and no more than go into one."""
        run: list[tuple[bytes, Any]] = []
        size, author = 0, self.link.agent
        for payload, ticket in batch:
            speaks = self._author_of(payload) if payload else author
            weight = len(payload) if len(payload) <= BLOB_FROM_BYTES else 64
            if run and (speaks != author or size + weight > PARCEL_BYTES):
                yield author, run
                run, size = [], 0
            author = speaks
            run.append((payload, ticket))
            size += weight
        if run:
            yield author, run

    def _author_of(self, payload: bytes) -> str:
        """In whose name an entry is published: this node's agent's if it is its own, or the operator's."""
        agent = self.link.agent
        return agent if agent and decode_entry(payload).actor == agent else ""

    def _send(self, author: str, run: list[tuple[bytes, Any]]) -> None:
        """Have a message stored, or fail its tickets."""
        self._number += 1
        number = self._number
        sending = _UnderWay(since_ns=self._system.monotonic_ns())
        for payload, ticket in run:
            if payload:
                sending.tickets.append(ticket)
            else:
                sending.flushes.append(ticket)
        with self._mutex:
            self._under_way[number] = sending
        try:
            entries = tuple(self._packed(author, payload) for payload, _ in run if payload)
            data = encode_parcel(Parcel(self.session, number, entries))
            self._insist(self._subjects.journal(author), data, number, sending)
        except NtMemoryError as error:
            self._give_up(number, error)
            if self._publisher is None:
                raise  # before `start`, nobody else is told

    def _packed(self, author: str, payload: bytes) -> bytes | Blob:
        if REFERENCE_START in payload:
            for value in filed_values(decode_entry(payload)):
                path = self._values / read_reference(value).name
                self._persist(functools.partial(self.blobs.put_file, author, path))
        if len(payload) <= BLOB_FROM_BYTES:
            return payload
        digest = digest_of(payload)
        self._persist(functools.partial(self.blobs.put, author, digest.hex(), payload))
        return Blob(digest, len(payload))

    def _insist(self, subject: str, data: bytes, number: int, sending: _UnderWay) -> None:
        """Publish under one id until it is known to be stored.

        Raises:
            DisconnectedError: nobody has accepted anything for too long.
            PermissionDeniedError, StorageError: it was refused, and not stored.
        """
        headers = {"Nats-Msg-Id": f"{self.session}-{number}"}

        def attempt() -> None:
            self.link.call(self._store(subject, data, headers), _ATTEMPT_S * 2)

        self._persist(attempt, is_done=lambda: number not in self._under_way)
        sending.is_acknowledged = True

    def _persist(self, attempt: Callable[[], None], is_done: Callable[[], bool] = bool) -> None:
        """Try something until it succeeds, is done otherwise, or patience is at its end."""
        while True:
            try:
                if not self.link.is_connected:
                    raise DisconnectedError(f"{self.link.name}: no server is connected")
                attempt()
            except DisconnectedError as error:
                now_ns = self._system.monotonic_ns()
                self._unheard_ns = self._unheard_ns or now_ns
                if is_done():
                    break
                if self._outbox.is_closing or self.link.is_over:
                    raise
                if self._failure is not None:
                    raise again(self._failure) from None
                if now_ns - self._unheard_ns > self._patience_ns:
                    raise DisconnectedError(
                        f"{error}; nothing was accepted for {self._patience_ns / 1e9:.0f} s. "
                        "It may have been stored, or be stored yet: repeat it under its request_id"
                    ) from None
                self._wake.wait(_RETRY_S)
                self._wake.clear()
            else:
                break
        self._unheard_ns = 0

    async def _store(self, subject: str, data: bytes, headers: dict[str, str]) -> None:
        try:
            await self.link.store(subject, data, headers, timeout_s=_ATTEMPT_S)
        except ApiError as error:
            if error.number in _FULL:
                raise StorageFullError(f"the stream is full: {error}") from None
            if error.code in (500, 503):
                raise DisconnectedError(f"{self.link.name}: {error}") from None
            raise StorageError(f"{self.link.name}: the servers refuse it: {error}") from None

    def _drop_overdue(self) -> None:
        """Acknowledged, but not seen: as long as no server is there, nobody knows when it will be."""
        if self.link.is_connected:
            return
        before_ns = self._system.monotonic_ns() - self._patience_ns
        with self._mutex:
            overdue = [n for n, sent in self._under_way.items() if sent.since_ns < before_ns]
        for number in overdue:
            self._give_up(
                number,
                DisconnectedError(
                    f"{self.link.name}: it is stored, but the connection was lost before it was seen here"
                ),
            )

    def _give_up(self, number: int, error: BaseException) -> None:
        with self._mutex:
            sending = self._under_way.pop(number, None)
        if sending is None:
            return  # it has arrived after all
        sending.end(error)
        self._fail_all(sending.tickets, error)

    def _fail_all(self, tickets: list[Any], error: BaseException) -> None:
        wanted = [ticket for ticket in tickets if ticket is not None]
        if wanted:
            self._fail(wanted, error)

    def _give_up_all(self, error: BaseException) -> None:
        with self._mutex:
            numbers = list(self._under_way)
        for number in numbers:
            self._give_up(number, error)
        left = self._outbox.fail(error) if isinstance(error, StorageError) else []
        for payload, ticket in left:
            if not payload:
                ticket.error = error
                ticket.is_reached.set()
        self._fail_all([ticket for payload, ticket in left if payload], error)

    # --- the link's loop ------------------------------------------------------------------------

    async def _take(self, stored: Stored) -> None:
        """A message has arrived; waits while too many do."""
        while True:
            if self._submissions.put(stored.data or b"\0", _Arrival(stored, "")):
                return
            room = self.link.loop.create_future()
            self._submissions.on_space(functools.partial(self.link.post, _set_done, room))
            await room

    def _lose(self, error: BaseException) -> None:
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
        self._give_up_all(failure)
        self._wake.set()
        self.on_lost(failure)

    def _stop(self, error: BaseException) -> None:
        """On the journal's thread: it has failed."""
        barrier, self._in_hand = self._in_hand.barrier, Work([])
        self._lose(error)
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
        parcel = decode_parcel(stored.data, author)
        # Held apart by author, or one could use up another's numbers.
        publisher = f"{author}/{parcel.session}" if parcel.session else ""
        recorded_at = max(stored.stored_at, self.recorded_at)
        last = self._publishers.get(publisher)
        resumed, self._resumed = self._resumed, None
        skipped = 0
        if resumed is None:
            is_new = not is_repeated(last, parcel.number, recorded_at)
        else:
            is_new, skipped = True, self._last_sequence - resumed.mark + 1
        sending: _UnderWay | None = None
        if parcel.session == self.session and is_new and author in ("", self.link.agent):
            with self._mutex:
                sending = self._under_way.pop(parcel.number, None)
        entries = self._admitted(parcel, author, sending) if is_new else []
        if publisher and is_new:
            self._publishers[publisher] = Publisher(parcel.number, recorded_at)
        mark = Mark(self._stream, stored.sequence, publisher, parcel.number, len(entries))
        rows = [(encode_entry(Entry(mark)), None), *entries]
        frames = self._write_out(rows[skipped:], recorded_at)
        if sending is not None:
            self._delivered.append(sending)
            self._arrived_us = stored.stored_at
        self._message = stored.sequence
        self._store_clock.start_after(recorded_at)
        return frames

    def _admitted(
        self, parcel: Parcel, author: str, sending: _UnderWay | None
    ) -> list[tuple[bytes, Any]]:
        entries: list[tuple[bytes, Any]] = []
        tickets = [] if sending is None else sending.tickets
        for number, packed in enumerate(parcel.entries):
            ticket = tickets[number] if number < len(tickets) else None
            payload = self._unpacked(packed, author) if isinstance(packed, Blob) else packed
            entry = None if payload is None else admit(payload, author)
            if payload is not None and entry is not None:
                if REFERENCE_START in payload:
                    for value in filed_values(entry):
                        # Whether it is there or not, the entry counts: every node must do the same.
                        self.blobs.want_file(author, value, self._values, self._is_ending)
                entries.append((payload, ticket))
            elif ticket is not None:
                self._fail([ticket], PermissionDeniedError("this node may not make such an entry"))
        return entries

    def _unpacked(self, blob: Blob, author: str) -> bytes | None:
        """The bytes of an entry that lies elsewhere.

        None if its author has stored nothing that its digest names: it then counts on no node.
        """
        data = self.blobs.get(author, blob.digest.hex(), blob.size, self._is_ending)
        return data if data is not None and digest_of(data) == blob.digest else None

    def _is_ending(self) -> bool:
        return self._outbox.is_closing or self._failure is not None

    def _write_out(self, rows: list[tuple[bytes, Any]], recorded_at: int) -> list[Frame]:
        """Write to the end of this node's journal; when its disk is full, once there is room again."""
        while True:
            try:
                return self._writer.append(rows, recorded_at)
            except StorageFullError as error:
                if self._is_ending():
                    raise ClosedError(str(error)) from None  # the next open takes it again
                self._wake.wait(_LOOK_S)

    def _write(self, batch: list[tuple[bytes, Any]]) -> None:
        super()._write(batch)
        self._end_delivered()
        self._wake.set()


def _set_done(room: asyncio.Future[None]) -> None:
    if not room.done():
        room.set_result(None)
