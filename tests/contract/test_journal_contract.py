"""What the embedded journal does besides what every journal does."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Literal

import pytest

from nt_memory.clock import ManualClock, SystemClock
from nt_memory.errors import (
    CorruptionError,
    StorageError,
    StorageFullError,
    TrimmedError,
    ValueTooLargeError,
    WrongLoopError,
)
from nt_memory.testing.faults import FaultyFileSystem
from nt_memory.transport import local as local_module
from nt_memory.transport.local import LocalJournal
from nt_memory.transport.segments import FRAME_BYTES, list_segments, unpack_position

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from nt_memory.transport.ports import Frame, Journal

WAIT_S = 30.0


class Sink:
    """Collects what a journal delivers and fails."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.batches: list[int] = []
        self.failed: list[tuple[Any, BaseException]] = []
        self.explode: Exception | None = None
        self._changed = threading.Condition()

    def deliver(self, frames: Sequence[Frame]) -> None:
        if self.explode is not None:
            raise self.explode
        with self._changed:
            self.frames += frames
            self.batches.append(len(frames))
            self._changed.notify_all()

    def fail(self, tickets: Sequence[Any], error: BaseException) -> None:
        with self._changed:
            self.failed += [(ticket, error) for ticket in tickets]
            self._changed.notify_all()

    def wait(self, *, frames: int = 0, failed: int = 0) -> None:
        with self._changed:
            assert self._changed.wait_for(
                lambda: len(self.frames) >= frames and len(self.failed) >= failed, WAIT_S
            ), (self.frames, self.failed)

    @property
    def tickets(self) -> list[Any]:
        return [frame.ticket for frame in self.frames]


class LocalStore:
    """Opens and reopens local journals, and makes their disk fail."""

    def __init__(self, directory: Path, durability: Literal["commit", "relaxed"]) -> None:
        self.directory = directory
        self.files = FaultyFileSystem()
        self.clock = ManualClock()
        self._durability: Literal["commit", "relaxed"] = durability
        self._journals: list[LocalJournal] = []

    def open(self, **options: Any) -> LocalJournal:
        journal = LocalJournal(
            self.directory,
            clock=self.clock,
            durability=self._durability,
            files=self.files,
            **options,
        )
        self._journals.append(journal)
        return journal

    def start(self, **options: Any) -> tuple[LocalJournal, Sink]:
        journal, sink = self.open(**options), Sink()
        journal.start(sink.deliver, sink.fail)
        return journal, sink

    def close(self) -> None:
        self.files.resume_sync()
        for journal in self._journals:
            journal.close()


@pytest.fixture(params=["commit", "relaxed"])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LocalStore]:
    """Each implementation in turn; the embedded one in both durabilities."""
    made = LocalStore(tmp_path, request.param)
    yield made
    made.close()


@pytest.fixture
def commit(tmp_path: Path) -> Iterator[LocalStore]:
    """The embedded journal with durability "commit"."""
    made = LocalStore(tmp_path, "commit")
    yield made
    made.close()


@pytest.fixture
def relaxed(tmp_path: Path) -> Iterator[LocalStore]:
    """The embedded journal with durability "relaxed"."""
    made = LocalStore(tmp_path, "relaxed")
    yield made
    made.close()


def _submit(journal: Journal, *names: str) -> None:
    for name in names:
        assert journal.submit(name.encode(), name)


# --- in both durabilities ---------------------------------------------------------------------


def test_entry_time(store: LocalStore) -> None:
    """Entry time is the clock's, and never runs backwards, not even across a reopen."""
    journal, sink = store.start()
    start_us = store.clock.now_us()
    for step in (5.0, -60.0, 70.0):
        store.clock.advance(step)
        _submit(journal, "x")
        journal.flush()
    journal.close()
    store.clock.advance(-100.0)
    again, more = store.start()
    _submit(again, "x")
    again.flush()
    times = [frame.recorded_at - start_us for frame in (*sink.frames, *more.frames)]
    assert times == [5_000_000, 5_000_000, 15_000_000, 15_000_000]


def test_withdraw(store: LocalStore) -> None:
    """What no batch holds yet can be taken back once; what was delivered cannot."""
    journal, sink = store.start()
    if store._durability == "relaxed":
        _submit(journal, "first")
        sink.wait(frames=1)
        assert not journal.withdraw("first")
        return
    first, second, third = object(), object(), object()
    store.files.stall_sync()
    journal.submit(b"1", first)
    assert store.files.wait_stalled()
    for ticket in (second, third):
        journal.submit(b"22", ticket)
    assert journal.pending_bytes == 5
    assert not journal.withdraw(first)
    assert journal.withdraw(second)
    assert not journal.withdraw(second)
    assert not journal.withdraw(object())
    assert journal.pending_bytes == 3
    store.files.resume_sync()
    journal.flush()
    assert sink.tickets == [first, third]
    assert not journal.withdraw(third)
    assert [frame.payload for frame in journal.replay(0)] == [b"1", b"22"]


def test_full_disk_fails_the_batch_and_goes_on(store: LocalStore) -> None:
    """Without space an entry fails, retryably; with space again the next gets its sequence, and a
    reopen finds exactly what was delivered.
    """
    journal, sink = store.start()
    _submit(journal, "a")
    journal.flush()
    store.files.space = 20
    _submit(journal, "b")
    sink.wait(failed=1)
    assert sink.failed[0][0] == "b"
    assert isinstance(sink.failed[0][1], StorageFullError)
    assert sink.failed[0][1].retryable
    assert (journal.last_sequence, journal.pending_bytes) == (1, 0)
    store.files.space = None
    _submit(journal, "c")
    journal.flush()
    assert [(frame.sequence, frame.ticket) for frame in sink.frames] == [(1, "a"), (2, "c")]
    journal.close()
    assert [frame.payload for frame in store.open().replay(0)] == [b"a", b"c"]


def test_failing_append_stops(store: LocalStore) -> None:
    """An append that fails for another reason stops the journal for everyone."""
    journal, sink = store.start()
    store.files.append_error = errno.EIO
    _submit(journal, "a")
    sink.wait(failed=1)
    assert not isinstance(sink.failed[0][1], StorageFullError)
    _assert_stopped(journal)


def test_failing_deliver_stops(store: LocalStore) -> None:
    """If the views cannot follow, nothing more is taken; the entry is there after a reopen."""
    journal, sink = store.start()
    sink.explode = RuntimeError("views are broken")
    _submit(journal, "a")
    sink.wait(failed=1)
    assert "views are broken" in str(sink.failed[0][1])
    assert sink.failed[0][1].__cause__ is sink.explode
    _assert_stopped(journal)
    journal.close()
    assert [frame.payload for frame in store.open().replay(0)] == [b"a"]


def _assert_stopped(journal: LocalJournal) -> None:
    for call in (lambda: journal.submit(b"x", None), journal.flush):
        for _ in range(2):
            with pytest.raises(StorageError, match="the journal stopped"):
                call()
    assert journal.pending_bytes == 0
    called: list[int] = []
    journal.on_space(lambda: called.append(1))
    assert called


def test_oversized_entry_is_refused(store: LocalStore) -> None:
    """An entry beyond the limit is refused before it is queued."""

    class Huge(bytes):
        def __len__(self) -> int:
            return (1 << 30) + 1

    journal, sink = store.start()
    with pytest.raises(ValueTooLargeError):
        journal.submit(Huge(), "huge")
    _submit(journal, "a")
    journal.flush()
    assert sink.tickets == ["a"]


def test_big_entries(store: LocalStore) -> None:
    """An entry bigger than the queue's bound, a batch and a chunk gets through whole."""
    journal, sink = store.start(max_pending_bytes=1000)
    payload = os.urandom(5 << 20)
    assert journal.submit(payload, "big")
    journal.flush()
    assert journal.read(sink.frames[0].position).payload == payload
    assert [frame.payload for frame in journal.replay(0)] == [payload]


def test_the_same_ticket_twice(store: LocalStore) -> None:
    """Tickets need not differ; None is one too."""
    journal, sink = store.start()
    for i in range(100):
        assert journal.submit(b"%d" % i, None)
    journal.flush()
    assert [frame.payload for frame in sink.frames] == [b"%d" % i for i in range(100)]


def test_position_from_elsewhere(store: LocalStore) -> None:
    """A position that was never handed out is an error, never a wrong entry."""
    journal, sink = store.start()
    _submit(journal, "a", "b")
    journal.flush()
    with pytest.raises(CorruptionError):
        journal.read(sink.frames[0].position + 1)
    with pytest.raises((CorruptionError, TrimmedError)):
        journal.read(1 << 40)


def test_a_fork_cannot_write(store: LocalStore) -> None:
    """In a forked child every call that changes something is refused, and closing harms nothing."""
    journal, sink = store.start()
    _submit(journal, "a")
    journal.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            refused = 0
            for call in (
                lambda: journal.submit(b"x", None),
                lambda: journal.withdraw(None),
                lambda: journal.on_space(lambda: None),
                journal.flush,
            ):
                try:
                    call()
                except WrongLoopError:
                    refused += 1
            journal.close()
            code = 0 if refused == 4 else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    _submit(journal, "b")
    journal.flush()
    assert sink.tickets == ["a", "b"]


# --- the embedded one -------------------------------------------------------------------------


def test_nothing_is_delivered_before_it_is_durable(commit: LocalStore) -> None:
    """With "commit" neither delivery nor `last_sequence` runs ahead of the fsync."""
    journal, sink = commit.start()
    commit.files.stall_sync()
    _submit(journal, "a")
    assert commit.files.wait_stalled()
    assert not sink.frames
    assert journal.last_sequence == 0
    assert list(journal.replay(0)) == []
    commit.files.resume_sync()
    sink.wait(frames=1)


def test_a_batch_is_prepared_while_the_disk_writes_it(commit: LocalStore) -> None:
    """After the disk was told to begin with all of it, and before it is waited for; once a batch."""
    journal, sink, files = commit.open(), Sink(), commit.files
    prepared: list[Sequence[Frame]] = []

    def prepare(frames: Sequence[Frame]) -> None:
        prepared.append(frames)
        begun, size = files.starts[-1]
        offset = unpack_position(frames[0].position)[1]
        assert begun <= offset
        assert begun + size == offset + sum(FRAME_BYTES + len(one.payload) for one in frames)
        assert files.syncs == syncs[-1]
        assert len(sink.frames) == frames[0].sequence - 1 == journal.last_sequence

    syncs = [files.syncs]
    journal.start(sink.deliver, sink.fail, prepare)
    for count in (1, 3, 20):
        _submit(journal, *(f"{count} {n}" for n in range(count)))
        journal.flush()
        syncs.append(files.syncs)
    assert [frame for batch in prepared for frame in batch] == sink.frames
    assert len(prepared) == len(sink.batches) == len(files.starts)
    assert not sink.failed


def test_a_disk_that_cannot_begin_early_writes_all_the_same(commit: LocalStore) -> None:
    """It only saves time."""
    journal, sink = commit.open(), Sink()
    commit.files.start_error = errno.EINVAL
    journal.start(sink.deliver, sink.fail, lambda _: None)
    _submit(journal, "a", "b")
    journal.flush()
    assert sink.tickets == ["a", "b"]


def test_what_was_prepared_is_delivered_or_fails(commit: LocalStore) -> None:
    """A batch for which there is no space is not prepared; one whose fsync fails is not delivered."""
    journal, sink = commit.open(), Sink()
    prepared: list[Any] = []
    journal.start(
        sink.deliver, sink.fail, lambda frames: prepared.extend(frame.ticket for frame in frames)
    )
    commit.files.space = 20
    _submit(journal, "full")
    sink.wait(failed=1)
    assert not prepared
    commit.files.space = None
    _submit(journal, "kept")
    journal.flush()
    commit.files.sync_error = errno.EIO
    _submit(journal, "lost")
    sink.wait(failed=2)
    assert prepared == ["kept", "lost"]
    assert sink.tickets == ["kept"]
    assert [ticket for ticket, _ in sink.failed] == ["full", "lost"]
    commit.files.sync_error = None


def test_an_error_while_preparing_stops(commit: LocalStore) -> None:
    """Nothing is delivered that may be half prepared, and everybody is told."""
    journal, sink = commit.open(), Sink()

    def prepare(_frames: Sequence[Frame]) -> None:
        raise RuntimeError("not foreseen")

    journal.start(sink.deliver, sink.fail, prepare)
    _submit(journal, "a")
    sink.wait(failed=1)
    assert not sink.frames
    assert "not foreseen" in str(sink.failed[0][1])
    _assert_stopped(journal)


def test_relaxed_prepares_nothing(relaxed: LocalStore) -> None:
    """Nobody waits for the disk there, so there is no time to use."""
    journal, sink = relaxed.open(), Sink()
    prepared: list[Sequence[Frame]] = []
    journal.start(sink.deliver, sink.fail, prepared.append)
    _submit(journal, "a", "b")
    journal.flush()
    assert sink.tickets == ["a", "b"]
    assert not prepared


def test_group_commit(commit: LocalStore) -> None:
    """What gathers during one fsync shares the next, up to 64 entries or 1 MiB."""
    journal, sink = commit.start()
    commit.files.stall_sync()
    _submit(journal, "first")
    assert commit.files.wait_stalled()
    for i in range(70):
        journal.submit(b"x", i)
    for i in range(3):
        journal.submit(bytes(600_000), ("big", i))
    syncs = commit.files.syncs
    commit.files.resume_sync()
    journal.flush()
    assert sink.batches == [1, 64, 7, 1, 1]
    assert commit.files.syncs - syncs == 5


def test_what_is_performed_goes_before_what_waits(commit: LocalStore) -> None:
    """An action has its turn behind the batch that is being written, however many wait; a new segment
    begins there, and `flush` is behind them all.
    """
    journal, sink = commit.start()
    commit.files.stall_sync()
    _submit(journal, "first")
    assert commit.files.wait_stalled()
    _submit(journal, *(str(i) for i in range(200)))
    found: list[list[int]] = []
    actions = (
        lambda: journal.perform(lambda: found.append(sink.batches.copy())),
        journal.begin_segment,
    )
    threads = [threading.Thread(target=action) for action in actions]
    queue = journal._submissions._queue
    for number, thread in enumerate(threads, 1):
        thread.start()
        while sum(payload is None for payload, _ in list(queue.values())) < number:
            threading.Event().wait(0.001)
    commit.files.resume_sync()
    journal.flush()
    for thread in threads:
        thread.join(WAIT_S)
    assert found == [[1]]
    assert sink.batches == [1, 64, 64, 64, 8]
    assert list(list_segments(commit.directory)) == [1, 2]


def test_backpressure(commit: LocalStore) -> None:
    """Past the bound `submit` says no; `on_space` calls once there is room, or no journal."""
    journal, sink = commit.start(max_pending_bytes=10)
    commit.files.stall_sync()
    assert journal.submit(b"x" * 10, 1)
    assert commit.files.wait_stalled()
    assert not journal.submit(b"", 2)
    woken = threading.Event()
    calls: list[int] = []
    journal.on_space(lambda: (calls.append(1), woken.set()))  # type: ignore[func-returns-value]
    assert not calls
    commit.files.resume_sync()
    assert woken.wait(WAIT_S)
    journal.flush()
    assert journal.submit(b"", 3)
    journal.flush()
    assert (sink.tickets, calls) == ([1, 3], [1])
    journal.on_space(lambda: calls.append(2))
    assert calls == [1, 2]


def test_failing_fsync_stops_and_takes_back(commit: LocalStore) -> None:
    """After a failed fsync everything pending and later fails, also once fsync works again; what
    failed is not there after a reopen.
    """
    journal, sink = commit.start()
    _submit(journal, "a")
    journal.flush()
    commit.files.stall_sync()
    commit.files.sync_error = errno.EIO
    _submit(journal, "b")
    assert commit.files.wait_stalled()
    _submit(journal, "c")
    failures: list[BaseException] = []
    flusher = threading.Thread(target=lambda: failures.append(_error_of(journal)))
    flusher.start()
    commit.files.resume_sync()
    sink.wait(failed=2)
    flusher.join(WAIT_S)
    assert isinstance(failures[0], StorageError)
    assert [ticket for ticket, _ in sink.failed] == ["b", "c"]
    assert all(type(error) is StorageError for _, error in sink.failed)
    commit.files.sync_error = None
    _assert_stopped(journal)
    journal.close()
    reopened = commit.open()
    assert [frame.payload for frame in reopened.replay(0)] == [b"a"]
    assert reopened.cut_bytes == 0


def _error_of(journal: LocalJournal) -> BaseException:
    try:
        journal.flush()
    except StorageError as error:
        return error
    return AssertionError("flush did not raise")


def test_relaxed_delivers_before_the_fsync(relaxed: LocalStore) -> None:
    """With "relaxed" delivery does not wait; the fsync follows by itself, and `flush` awaits it."""
    journal, sink = relaxed.start()
    relaxed.files.stall_sync()
    _submit(journal, "a")
    sink.wait(frames=1)
    assert relaxed.files.wait_stalled(), "nobody asked, and yet it is synced"
    relaxed.files.resume_sync()
    journal.flush()
    syncs = relaxed.files.syncs
    _submit(journal, "b", "c")
    journal.flush()
    assert relaxed.files.syncs == syncs + 1
    journal.flush()
    assert relaxed.files.syncs == syncs + 1


def test_relaxed_syncs_under_load(relaxed: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a pause in the traffic an fsync still comes, at the deadline and not with every
    batch.
    """
    journal, sink = relaxed.start()
    monkeypatch.setattr(local_module, "RELAXED_SYNC_NS", 10**15)
    base = relaxed.files.syncs
    for i in range(1, 31):
        if i % 10 == 0:
            relaxed.clock.advance(10**6)
        _submit(journal, "x")
        sink.wait(frames=i)
    _submit(journal, "last")
    sink.wait(frames=31)
    assert relaxed.files.syncs - base == 3


def test_relaxed_close_reports_what_it_could_not_save(relaxed: LocalStore) -> None:
    """Delivered entries whose last fsync fails are not passed over in silence."""
    journal, sink = relaxed.start()
    relaxed.files.stall_sync()
    _submit(journal, "a")
    sink.wait(frames=1)
    relaxed.files.sync_error = errno.EIO
    relaxed.files.resume_sync()
    try:
        with pytest.raises(StorageError):
            journal.close()
    finally:
        relaxed.files.sync_error = None
    assert not sink.failed, "it was delivered"
    journal.close()


def test_relaxed_failure_after_delivery(relaxed: LocalStore) -> None:
    """An fsync that fails behind a delivered batch fails the flush, not the batch's tickets."""
    journal, sink = relaxed.open(), Sink()
    is_held, may_go = threading.Event(), threading.Event()

    def deliver(frames: Sequence[Frame]) -> None:
        sink.deliver(frames)
        is_held.set()
        assert may_go.wait(WAIT_S)

    journal.start(deliver, sink.fail)
    _submit(journal, "a")
    assert is_held.wait(WAIT_S)
    relaxed.files.sync_error = errno.EIO
    _submit(journal, "b")
    failures: list[BaseException] = []
    flusher = threading.Thread(target=lambda: failures.append(_error_of(journal)))
    flusher.start()
    while len(journal._submissions._queue) < 2:
        flusher.join(0.001)
    may_go.set()
    flusher.join(WAIT_S)
    assert isinstance(failures[0], StorageError)
    assert sink.tickets == ["a", "b"]
    assert not sink.failed
    _assert_stopped(journal)


def test_rotation_while_writing(store: LocalStore) -> None:
    """Segments change under way without anyone noticing."""
    journal, sink = store.start(segment_bytes=2_000)
    names = [f"{i:050d}" for i in range(300)]
    _submit(journal, *names)
    journal.flush()
    assert len(list(store.directory.glob("*.log"))) >= 4
    assert [frame.payload.decode() for frame in journal.replay(0)] == names
    assert [journal.read(frame.position).payload.decode() for frame in sink.frames] == names
    size = journal.size_bytes
    journal.close()
    on_disk = sum(path.stat().st_size for path in store.directory.iterdir())
    assert size == on_disk
    journal.close()
    assert store.open(segment_bytes=2_000, applied_sequence=300).size_bytes == on_disk


def test_flush_from_deliver_is_refused(commit: LocalStore) -> None:
    """The journal's own thread cannot wait for itself, and is told so."""
    journal = commit.open()
    errors: list[BaseException] = []
    done = threading.Event()

    def deliver(_frames: Sequence[Frame]) -> None:
        try:
            journal.flush()
        except WrongLoopError as error:
            errors.append(error)
        done.set()

    journal.start(deliver, lambda *_: None)
    _submit(journal, "a")
    assert done.wait(WAIT_S)
    assert errors


@pytest.mark.parametrize("is_busy", [False, True])
def test_exit_without_close(tmp_path: Path, is_busy: bool) -> None:
    """A program that forgets to close ends all the same, and what it submitted is written."""
    code = (
        "import sys; from nt_memory.clock import SystemClock\n"
        "from nt_memory.transport.local import LocalJournal\n"
        "journal = LocalJournal(sys.argv[1], clock=SystemClock())\n"
        "journal.start(lambda frames: None, lambda tickets, error: None)\n"
        "[journal.submit(b'x', i) for i in range(int(sys.argv[2]))]\n"
    )
    count = 2000 if is_busy else 0
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(count)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=30,
        check=True,
    )
    journal = LocalJournal(tmp_path, clock=SystemClock())
    assert journal.last_sequence == count
    journal.close()


def test_idle_costs_nothing(commit: LocalStore) -> None:
    """A journal with nothing to do uses no processor time."""
    commit.start()
    before = time.process_time()
    threading.Event().wait(0.2)
    assert time.process_time() - before < 0.05
