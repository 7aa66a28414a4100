"""Publishing what is submitted: packed, one message at a time, until it is known what became of it.

One message is under way at a time, so that what is submitted in order is ordered so; meanwhile entries
gather for the next. *When it is not known whether a message was stored*, it is published again under
the same id, until an answer comes or it is seen arriving. After `patience_s` in which nothing was
accepted, whatever waits fails with `DisconnectedError`, and what comes later fails after one attempt.
"""

from __future__ import annotations

import functools
import secrets
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from nt_memory.clock import SystemClock
from nt_memory.codec.filed import REFERENCE_START, read_reference
from nt_memory.entries import decode_entry
from nt_memory.errors import (
    ClosedError,
    DisconnectedError,
    NtMemoryError,
    StorageError,
    StorageFullError,
    again,
)
from nt_memory.transport.nats.blobs import Blobs, digest_of
from nt_memory.transport.nats.client import (
    IN_PROCESS,
    NO_LEADER,
    NOT_STORED,
    ApiError,
    RefusedError,
)
from nt_memory.transport.nats.parcels import (
    BLOB_FROM_BYTES,
    PARCEL_BYTES,
    Blob,
    Parcel,
    encode_parcel,
    filed_values,
)
from nt_memory.transport.submissions import Submissions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from nt_memory.transport.nats.link import Link

PATIENCE_S: Final = 20.0
"""Losing a leader stops writes for 4 to 12 s."""
ATTEMPT_S: Final = 2.0
_RETRY_S: Final = 0.1
_LOOK_S: Final = 0.5
_REFERENCE_WEIGHT: Final = 64
_STUCK_TRIES: Final = 20
"""Whatever a server's file store said: that it is full, or that it was just closed to begin anew, when the
message may have been stored by the others.
"""
_FULL_WORDS: Final = ("exceeded", "no space left")
_FULL: Final = (10122, 10123)  # messages, or an account's resources
_UNDECIDED: Final = (IN_PROCESS, 10167)  # this one: too many requests wait


class _InProcessError(DisconnectedError):
    """A leader says that it has begun to store a message of this id."""


@dataclass(slots=True)
class UnderWay:
    """A message that was published, or is about to be.

    Attributes:
        tickets: Of its entries, in order.
        flushes: Who waits for it to be delivered.
        is_acknowledged: Whether it is known to be stored.
        since_ns: When it was first published, monotonic.
        size: Bytes of its entries.
    """

    tickets: list[Any] = field(default_factory=list[Any])
    flushes: list[Flush] = field(default_factory=list["Flush"])
    is_acknowledged: bool = False
    since_ns: int = 0
    size: int = 0

    def end(self, error: BaseException | None) -> None:
        """Let those who flush go on."""
        for flush in self.flushes:
            flush.end(error)


class Flush:
    """A ticket without an entry: somebody waits until all that was committed before is delivered."""

    def __init__(self) -> None:
        self.is_reached: threading.Event = threading.Event()
        self.error: BaseException | None = None

    def end(self, error: BaseException | None) -> None:
        """It has come through; or never will, and why."""
        self.error = error
        self.is_reached.set()

    def check(self) -> None:
        """Raise what became of it, if that was no good."""
        if self.error is not None:
            raise again(self.error) if isinstance(self.error, NtMemoryError) else self.error


class Publishing:
    """What one node publishes. `start`, `send` and `close` are called by one thread.

    Args:
        link: The connection.
        values: Where this node's value files are.
        max_pending_bytes: `put` refuses while so much waits.
        patience_s: How long to try.
        lose: Is called with what ended publishing.

    Attributes:
        session: Names this run of this node.
        wake: Set when something changed that its thread may wait for.
    """

    def __init__(
        self,
        link: Link,
        values: Path,
        *,
        max_pending_bytes: int,
        patience_s: float,
        lose: Callable[[BaseException], None],
    ) -> None:
        self.link = link
        self.blobs: Blobs = Blobs(link)
        self.session: str = secrets.token_hex(12)
        self.outbox: Submissions = Submissions(
            max_pending_bytes, ClosedError("the journal was not started")
        )
        self.wake: threading.Event = threading.Event()
        self._values = values
        self._patience_ns = int(patience_s * 1e9)
        self._lose = lose
        self._fail: Callable[[Sequence[Any], BaseException], None] | None = None
        self._failure: NtMemoryError | None = None
        self._clock = SystemClock()
        self._thread: threading.Thread | None = None
        self._number = 0
        self._mutex = threading.Lock()
        self._under_way: dict[int, UnderWay] = {}  # guarded by `_mutex`
        self._unheard_ns = 0  # since when nothing was accepted; 0: it was

    @property
    def is_idle(self) -> bool:
        """Whether nothing is on its way."""
        return not self._under_way

    def start(self, fail: Callable[[Sequence[Any], BaseException], None]) -> None:
        """Take what is put into the outbox; `fail` is called with tickets that came to nothing, and why."""
        self._fail = fail
        self.outbox.accept()
        self._thread = threading.Thread(target=self._run, name="nt-memory-publisher", daemon=True)
        self._thread.start()

    def refuse(self) -> None:
        """Take nothing more."""
        self.outbox.close(ClosedError("the journal was closed"))

    def close(self) -> None:
        """Send what is there, and wait for it to arrive, as long as a server is."""
        self.refuse()
        if self._thread is not None:
            self._thread.join()
        until_ns = self._clock.monotonic_ns() + int(ATTEMPT_S * 1e9)
        while not self.is_idle and self.link.is_connected and self._clock.monotonic_ns() < until_ns:
            self._pause()

    def arrived(self, number: int) -> UnderWay | None:
        """A message of this node has arrived; who waits for it, unless they were told already."""
        with self._mutex:
            sending = self._under_way.pop(number, None)
        if sending is not None:
            self.outbox.release(sending.size)
        return sending

    def fail_all(self, tickets: list[Any], error: BaseException) -> None:
        """Tell tickets what came of them."""
        wanted = [ticket for ticket in tickets if ticket is not None]
        if wanted and self._fail is not None:
            self._fail(wanted, error)

    def end(self, error: NtMemoryError) -> None:
        """Fail all that is under way, and what waits if nothing more can be stored; from any thread."""
        self._failure = error
        with self._mutex:
            numbers = list(self._under_way)
        for number in numbers:
            self._give_up(number, error)
        left = self.outbox.fail(error) if isinstance(error, StorageError) else []
        for payload, ticket in left:
            if not payload:
                ticket.end(error)
        self.fail_all([ticket for payload, ticket in left if payload], error)
        self.wake.set()

    def _pause(self) -> None:
        self.wake.wait(_RETRY_S)
        self.wake.clear()

    # --- its thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (work := self.outbox.take(_LOOK_S)) is not None:
                for author, run in self._runs(work.batch):
                    self.send(author, run)
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
            weight = len(payload) if len(payload) <= BLOB_FROM_BYTES else _REFERENCE_WEIGHT
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

    def send(self, author: str, run: list[tuple[bytes, Any]]) -> None:
        """Have a message stored, or fail its tickets."""
        self._number += 1
        number = self._number
        # What is sent before `start` was never in the outbox.
        size = 0 if self._fail is None else sum(len(payload) for payload, _ in run)
        sending = UnderWay(since_ns=self._clock.monotonic_ns(), size=size)
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
            self._insist(self.link.subjects.journal(author), data, number, sending)
        except NtMemoryError as error:
            self._give_up(number, error)
            if self._fail is None:
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

    def _insist(self, subject: str, data: bytes, number: int, sending: UnderWay) -> None:
        """Publish under one id until it is known to be stored.

        Raises:
            DisconnectedError: nobody has accepted anything for too long.
            PermissionDeniedError, StorageError: it was refused, and not stored.
        """
        name = f"{self.session}-{number}"
        headers, stuck = {"Nats-Msg-Id": name}, 0

        def attempt() -> None:
            nonlocal stuck
            try:
                self.link.call(self._store(subject, data, headers), ATTEMPT_S * 2)
            except _InProcessError:
                # A leader that lost its place may have dropped what it had begun, and say so for as
                # long as it remembers ids. Under another one it is stored, if need be twice: who
                # applies it goes by its number.
                stuck += 1
                if stuck % _STUCK_TRIES == 0:
                    headers["Nats-Msg-Id"] = f"{name}-{stuck}"
                raise

        self._persist(attempt, is_done=lambda: number not in self._under_way)
        sending.is_acknowledged = True

    def _persist(self, attempt: Callable[[], None], is_done: Callable[[], bool] = bool) -> None:
        """Try something until it succeeds, is done otherwise, or patience is at its end."""
        while True:
            try:
                self.link.check_connected()
                attempt()
                break
            except DisconnectedError as error:
                if is_done():
                    break
                self._check_patience(error)
                self._pause()
        self._unheard_ns = 0

    def _check_patience(self, error: DisconnectedError) -> None:
        """Raise when there is no use in trying any longer."""
        now_ns = self._clock.monotonic_ns()
        self._unheard_ns = self._unheard_ns or now_ns
        if self.outbox.is_closing or self.link.is_over:
            raise error
        if self._failure is not None:
            raise again(self._failure) from None
        if now_ns - self._unheard_ns > self._patience_ns:
            raise DisconnectedError(
                f"{error}; nothing was accepted for {self._patience_ns / 1e9:.0f} s. "
                "It may have been stored, or be stored yet: repeat it under its request_id"
            ) from None

    async def _store(self, subject: str, data: bytes, headers: dict[str, str]) -> None:
        try:
            await self.link.store(subject, data, headers, timeout_s=ATTEMPT_S)
        except ApiError as error:
            raise meaning(self.link.name, error) from None

    def _drop_overdue(self) -> None:
        """Acknowledged, but not seen: who is shut out will not see it, and else nobody knows when a server is back."""
        if self.link.is_connected:
            return
        patience_ns = self._patience_ns
        error: NtMemoryError = DisconnectedError(
            f"{self.link.name}: it is stored, but the connection was lost before it was seen here"
        )
        try:
            self.link.check_let_in()
        except RefusedError as refused:
            patience_ns, error = 0, refused
        before_ns = self._clock.monotonic_ns() - patience_ns
        with self._mutex:
            overdue = [n for n, sent in self._under_way.items() if sent.since_ns < before_ns]
        for number in overdue:
            self._give_up(number, error)

    def _give_up(self, number: int, error: BaseException) -> None:
        sending = self.arrived(number)
        if sending is None:
            return  # it has arrived after all
        sending.end(error)
        self.fail_all(sending.tickets, error)


def meaning(name: str, error: ApiError) -> NtMemoryError:
    """What a refusal says about a message: not stored for good, or nobody knows yet.

    Args:
        name: Of the connection, to be shown.
        error: What a server said.
    """
    said = str(error)
    is_full = error.number == NOT_STORED and any(words in said for words in _FULL_WORDS)
    if is_full or error.number in _FULL:
        return StorageFullError(f"the stream is full: {error}")
    if error.number == IN_PROCESS:
        return _InProcessError(f"{name}: {error}")
    if error.number in _UNDECIDED or error.code in NO_LEADER:
        return DisconnectedError(f"{name}: {error}")
    return StorageError(f"{name}: the servers refuse it: {error}")
