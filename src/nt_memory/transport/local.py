"""The embedded journal: one process's files, written by one thread.

One thread owns the end of the journal. Submitters append to a queue under a mutex and wake it; it
takes what is there, up to 64 entries or 1 MiB, writes it with one append and one fsync, hands the
frames on, and looks again. Under load a batch fills up while the one before it is being written
(group commit); with one writer a batch is one entry and waits for nobody.
"""

from __future__ import annotations

import atexit
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nt_memory.errors import (
    ClosedError,
    StorageError,
    StorageFullError,
    ValueTooLargeError,
    WrongLoopError,
    again,
)
from nt_memory.transport.segment_reader import SegmentReader
from nt_memory.transport.segment_writer import SegmentWriter
from nt_memory.transport.segments import MAX_PAYLOAD_BYTES, SEGMENT_BYTES
from nt_memory.transport.submissions import Barrier, Submissions, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from nt_memory.clock import Clock
    from nt_memory.transport.files import FileSystem
    from nt_memory.transport.ports import Frame

RELAXED_SYNC_NS = 50_000_000
_EXIT_WAIT_S = 5.0


def _ignore(_: StorageError) -> None:
    """Nobody wants to know."""


class LocalJournal:
    """`ports.Journal` in segment files. Every method but `start` and `close` is thread-safe.

    Opening verifies the newest segment, cuts a torn tail (`cut_bytes`) and makes the rest durable.
    Older segments are verified as they are replayed or read.

    With "commit" a batch is durable when it is delivered. With "relaxed" it is delivered when it is
    written, and an fsync follows at most 50 ms later: a killed process loses nothing, a power loss
    the last 50 ms.

    When the disk is full, the batch fails with `StorageFullError` and the next one is tried. Any
    other failure, an fsync or `deliver` above all, stops the journal: everything pending and
    everything later gets `StorageError`. Entries that failed so were taken back where that was
    possible, but may be found again after a reopen.

    Attributes:
        on_lost: A shared journal calls it, from any thread, when it can no longer be followed.

    Args:
        directory: Where the segments are; must exist and be held by the caller.
        clock: Source of entry times.
        durability: "commit" or "relaxed".
        applied_sequence: Greatest sequence that some view has applied; the journal must have it.
        max_pending_bytes: `submit` refuses while this many bytes of payload are queued.
        files: How files are changed; for tests.
        segment_bytes: When to start a new segment.

    Raises:
        CorruptionError: a frame that was durable or applied is damaged or missing; the message
            names file, offset and sequence.
        FormatVersionError: a newer version wrote the newest segment.
        StorageError: a file operation failed; `StorageFullError`, `StorePermissionError` likewise.

    Cost: one fdatasync a batch; a `submit` is about 1 µs.
    """

    is_shared: ClassVar[bool] = False
    """Whether others write to it too."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        clock: Clock,
        durability: Literal["commit", "relaxed"] = "commit",
        applied_sequence: int = 0,
        max_pending_bytes: int = 64 << 20,
        files: FileSystem | None = None,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self._clock = clock
        self._is_relaxed = durability == "relaxed"
        self._reader = SegmentReader(directory)
        self._writer = SegmentWriter(
            Path(directory),
            self._reader.marks,
            applied_sequence=applied_sequence,
            files=files,
            segment_bytes=segment_bytes,
        )
        self._last_sequence = self._writer.next_sequence - 1
        self._pid = os.getpid()
        self._submissions = Submissions(
            max_pending_bytes, ClosedError("the journal was not started")
        )
        # The writer thread's own.
        self._in_hand = Work([])
        self._unsynced_since_ns = 0
        self._failure: StorageError | None = None
        self._thread: threading.Thread | None = None
        self.on_lost: Callable[[StorageError], None] = _ignore

    @property
    def last_sequence(self) -> int:
        """See `Journal.last_sequence`. With "commit" it is durable."""
        return self._last_sequence

    @property
    def recorded_at(self) -> int:
        """Entry time of the last entry, microseconds since the epoch; 0 if there is none."""
        return self._writer.recorded_at

    @property
    def failure(self) -> StorageError | None:
        """Why it stopped, or None while it runs."""
        return self._failure

    @property
    def oldest_sequence(self) -> int:
        """See `Journal.oldest_sequence`."""
        return self._reader.oldest_sequence

    @property
    def pending_bytes(self) -> int:
        """See `Journal.pending_bytes`; payload only."""
        return self._submissions.pending_bytes

    @property
    def unseen(self) -> int:
        """Entries that others have added and that are not here yet."""
        return 0

    @property
    def size_bytes(self) -> int:
        """See `Journal.size_bytes`."""
        return self._writer.size_bytes

    @property
    def cut_bytes(self) -> int:
        """Bytes of torn tail that were cut when the journal was opened."""
        return self._writer.cut_bytes

    def replay(self, after: int) -> Iterator[Frame]:
        """See `Journal.replay`; streams, up to the `last_sequence` of the moment of the call."""
        return self._reader.replay(after, until=self._last_sequence)

    def read(self, position: int) -> Frame:
        """See `Journal.read`. Cost: about 10 µs for a small entry."""
        return self._reader.read(position)

    def start(
        self,
        deliver: Callable[[Sequence[Frame]], None],
        fail: Callable[[Sequence[Any], BaseException], None],
        prepare: Callable[[Sequence[Frame]], None] | None = None,
    ) -> None:
        """See `Journal.start`; once. No callable may call `flush` or `close`.

        With "commit", `prepare` is called while the disk writes. With "relaxed" it is not: there is
        nothing to wait for.
        """
        if self._thread is not None or self._submissions.is_closing:
            raise ClosedError("the journal was started before")
        self._deliver, self._fail, self._prepare = deliver, fail, prepare
        self._submissions.accept()
        # A daemon, so that a journal nobody closed cannot keep the interpreter from exiting; the
        # exit hook still gives it the time to write what is queued.
        self._thread = threading.Thread(target=self._run, name="nt-memory-journal", daemon=True)
        atexit.register(self._exit)
        self._thread.start()

    def submit(self, payload: bytes, ticket: object) -> bool:
        """See `Journal.submit`. The bound may be overrun by one entry, so that any size gets in.

        Raises:
            StorageError: the journal has failed.
            ClosedError: it was closed, or not started.
            WrongLoopError: this is a fork of the process that opened it.
            ValueTooLargeError: the payload exceeds 1 GiB.
        """
        self._check_process()
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise ValueTooLargeError(f"an entry of {len(payload)} bytes; 1 GiB is the limit")
        return self._submissions.put(payload, ticket)

    def on_space(self, callback: Callable[[], None]) -> None:
        """See `Journal.on_space`. If there is room already, it is called before this returns."""
        self._check_process()
        self._submissions.on_space(callback)

    def withdraw(self, ticket: object) -> bool:
        """See `Journal.withdraw`. Tickets are told apart by identity."""
        self._check_process()
        return self._submissions.withdraw(ticket)

    def flush(self) -> None:
        """See `Journal.flush`.

        Raises:
            StorageError: the journal has failed.
            ClosedError: it was closed, or not started.
            WrongLoopError: this is a fork, or the journal's own thread, which would wait for ever.
        """
        self._pass(Barrier(None))

    def perform(self, action: Callable[[], None]) -> None:
        """Block until `action` has run on the writer thread, between two batches.

        What was submitted before and waits is written after it; all that was written is durable and
        delivered. Nothing is written or delivered while it runs. What it raises is raised here, and
        does not stop the journal.

        Raises:
            StorageError: the journal has failed.
            ClosedError: it was closed, or not started.
            WrongLoopError: this is a fork, or the journal's own thread, which would wait for ever.
        """
        self._pass(Barrier(action), is_first=True)

    def begin_segment(self) -> None:
        """Let the next entry begin a new segment, so that those before it can be dropped.

        What was submitted before and waits goes into the new one.

        Raises:
            StorageError: the segment could not be made. And as `perform`.
        """
        self._pass(Barrier(self._writer.rotate, is_vital=True), is_first=True)

    def sync_if_due(self) -> None:
        """For `deliver`, where it waits: keep the bound of "relaxed" meanwhile.

        Raises:
            StorageError: the fsync failed; `deliver` must not catch it.
        """
        if self._is_sync_due():
            self._sync()

    def drop_before(self, sequence: int) -> int:
        """Delete the segments that hold nothing from `sequence` on; the newest one stays.

        Returns:
            Bytes given back.

        Raises:
            StorageError: a file could not be deleted. And as `perform`.
        """
        dropped = 0

        def drop() -> None:
            nonlocal dropped
            dropped = self._writer.drop_before(sequence)

        self.perform(drop)
        return dropped

    def _pass(self, barrier: Barrier, *, is_first: bool = False) -> None:
        self._check_process()
        if threading.current_thread() is self._thread:
            raise WrongLoopError("the journal's own thread cannot wait for the journal")
        self._submissions.put_barrier(barrier, is_first=is_first)
        barrier.is_reached.wait()
        if barrier.error is not None:
            raise barrier.error
        if self._failure is not None:
            raise again(self._failure)

    def close(self) -> None:
        """See `Journal.close`. In a fork it only closes the file.

        Raises:
            StorageError: something that was delivered could not be made durable any more, which
                only "relaxed" allows; not if the journal had failed before.
        """
        had_failed = self._failure is not None
        if os.getpid() == self._pid:
            atexit.unregister(self._exit)
            self._submissions.close(ClosedError("the journal was closed"))
            if self._thread is not None:
                self._thread.join()
            if self._failure is None:
                self._writer.trim()
        self._writer.close()
        if self._failure is not None and self._is_relaxed and not had_failed:
            raise again(self._failure)

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise WrongLoopError(f"the journal belongs to process {self._pid}, not to its fork")

    def _exit(self) -> None:
        if os.getpid() == self._pid and self._thread is not None:
            self._submissions.close(ClosedError("the journal was closed"))
            self._thread.join(_EXIT_WAIT_S)

    # --- the writer thread ------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._step():
                pass
            self._sync()
        except BaseException as error:  # noqa: BLE001 - whatever it was, someone waits for an answer
            self._stop(error)

    def _step(self) -> bool:
        """Do what there is to do, waiting for it if need be; False when closed and all is done."""
        # A frame of its own, so that nothing holds on to the batch while waiting for the next.
        work = self._submissions.take(self._sync_wait_s())
        if work is None:
            return False
        self._in_hand = work
        if work.batch:
            self._write(work.batch)
            # Delivered: no later failure is these tickets' concern.
            self._in_hand = work._replace(batch=[])
        if work.must_sync or self._is_sync_due():
            self._sync()
        if work.barrier is not None:
            work.barrier.reach()
        self._in_hand = Work([])
        return True

    def _sync(self) -> None:
        self._writer.sync()
        self._unsynced_since_ns = 0

    def _write(self, batch: list[tuple[bytes, Any]]) -> None:
        size = sum(len(payload) for payload, _ in batch)
        try:
            frames = self._append(batch)
        except StorageFullError as error:
            self._submissions.release(size)
            self._fail([ticket for _, ticket in batch], error)
            return
        if self._is_relaxed:
            self._unsynced_since_ns = self._unsynced_since_ns or self._clock.monotonic_ns()
        else:
            if self._prepare is not None:
                self._writer.start_sync()
                self._prepare(frames)
            try:
                self._writer.sync()
            except StorageError:
                self._writer.drop_unsynced()
                raise
        self._last_sequence += len(frames)
        self._submissions.release(size)
        self._deliver(frames)

    def _append(self, batch: list[tuple[bytes, Any]]) -> list[Frame]:
        """Write a batch to the end, and give its frames."""
        return self._writer.append(batch, self._clock.now_us())

    def _is_sync_due(self) -> bool:
        return self._writer.has_unsynced and self._sync_wait_s() == 0.0

    def _sync_wait_s(self) -> float | None:
        """How long the thread may sleep; None: until woken."""
        if not self._writer.has_unsynced:
            return None
        waited_ns = self._clock.monotonic_ns() - self._unsynced_since_ns
        return max(0.0, (RELAXED_SYNC_NS - waited_ns) / 1e9)

    def _stop(self, error: BaseException) -> None:
        """Fail everything pending and everything to come."""
        failure = StorageError(f"the journal stopped: {error}")
        failure.__cause__ = error
        self._failure = failure
        left = [*self._in_hand.batch, *self._submissions.fail(failure)]
        if self._in_hand.barrier is not None:
            left.append((None, self._in_hand.barrier))
        self._in_hand = Work([])
        tickets = [ticket for payload, ticket in left if payload is not None]
        try:
            if tickets:
                self._fail(tickets, failure)
        finally:
            for payload, ticket in left:
                if payload is None:
                    ticket.is_reached.set()
