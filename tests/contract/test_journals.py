"""What every journal does: entries in, one order out, and the same again after a reopen."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest
from nats_server import NatsServer

from nt_memory.clock import StoreClock, SystemClock
from nt_memory.entries import Configure, Entry, Mark, Retain, decode_entry, encode_entry
from nt_memory.entries.origins import Origin, Publisher
from nt_memory.errors import ClosedError, DisconnectedError, StorageError
from nt_memory.transport.local import LocalJournal
from nt_memory.transport.nats.journal import NatsJournal
from nt_memory.transport.nats.link import Link
from nt_memory.transport.nats.parcels import admit
from nt_memory.transport.nats.streams import make_streams
from nt_memory.transport.nats.subjects import Subjects
from nt_memory.transport.segments import unpack_position

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from nt_memory.transport.ports import Frame


def entry(name: str) -> bytes:
    """Some entry of that name."""
    return encode_entry(Entry(Retain(name)))


def names(frames: Iterable[Frame]) -> list[str]:
    """The names of entries, without the marks that a node puts in between."""
    bodies = [decode_entry(frame.payload).body for frame in frames]
    return [body.agent for body in bodies if isinstance(body, Retain)]


class Sink:
    """Collects what a journal delivers and fails."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.failed: list[tuple[Any, BaseException]] = []
        self.explode: Exception | None = None
        self._changed = threading.Condition()

    def deliver(self, frames: Sequence[Frame]) -> None:
        if self.explode is not None:
            raise self.explode
        with self._changed:
            self.frames += frames
            self._changed.notify_all()

    def fail(self, tickets: Sequence[Any], error: BaseException) -> None:
        with self._changed:
            self.failed += [(ticket, error) for ticket in tickets]
            self._changed.notify_all()

    def wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, 20.0), (self.frames, self.failed)

    @property
    def tickets(self) -> list[Any]:
        return [frame.ticket for frame in self.frames if frame.ticket is not None]


class Local:
    """Opens the embedded journal."""

    def __init__(self, directory: Path, durability: Any) -> None:
        self._directory = directory
        self._durability = durability
        self._opened: list[LocalJournal] = []

    def open(self) -> LocalJournal:
        journal = self._make()
        self._opened.append(journal)
        return journal

    def _make(self) -> LocalJournal:
        return LocalJournal(self._directory, clock=SystemClock(), durability=self._durability)

    def start(self) -> tuple[LocalJournal, Sink]:
        journal, sink = self.open(), Sink()
        journal.start(sink.deliver, sink.fail)
        return journal, sink

    def close(self) -> None:
        for journal in self._opened:
            journal.close()


class Nats(Local):
    """Opens a node's journal; what the views would know of it is read from it."""

    def __init__(
        self, directory: Path, server: NatsServer, swarm: str, patience_s: float = 20.0
    ) -> None:
        super().__init__(directory, "relaxed")
        self._server = server
        self._swarm = swarm
        self._patience_s = patience_s

    def _make(self) -> NatsJournal:
        link = Link(self._server.url, Subjects(self._swarm))
        link.open()
        return NatsJournal(
            self._directory,
            link=link,
            stream=make_streams(link, 10.0),
            values=self._directory,
            clock=StoreClock(SystemClock()),
            patience_s=self._patience_s,
        )

    def start(self) -> tuple[LocalJournal, Sink]:
        journal, sink = self.open(), Sink()
        assert isinstance(journal, NatsJournal)
        origin, publishers = None, {}
        for frame in journal.replay(0):
            body = decode_entry(frame.payload).body
            if isinstance(body, Mark):
                origin = Origin(body.stream, body.sequence, frame.sequence, body.count)
                publishers[body.session] = Publisher(body.number, frame.recorded_at)
        journal.follow(origin, publishers)
        journal.catch_up(lambda frames: None)
        journal.start(sink.deliver, sink.fail)
        return journal, sink


@pytest.fixture(params=["commit", "relaxed", "nats"])
def store(tmp_path: Path, request: pytest.FixtureRequest, swarm: str) -> Iterator[Local]:
    """Each implementation in turn."""
    made = (
        Nats(tmp_path, request.getfixturevalue("nats_server"), swarm)
        if request.param == "nats"
        else Local(tmp_path, request.param)
    )
    yield made
    made.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server that may be paused and killed."""
    made = NatsServer(tmp_path / "server")
    made.start()
    yield made
    made.stop()


def _submit(journal: LocalJournal, *wanted: str) -> None:
    for name in wanted:
        assert journal.submit(entry(name), name)


def test_orders_and_delivers(store: Local) -> None:
    """Everything submitted is delivered once, in order, without gaps, under its ticket."""
    journal, sink = store.start()
    first = journal.last_sequence + 1
    wanted = [f"entry{i}" for i in range(500)]
    _submit(journal, *wanted)
    journal.flush()
    assert sink.tickets == names(sink.frames) == wanted
    sequences = [frame.sequence for frame in sink.frames]
    assert sequences == list(range(first, first + len(sequences)))
    times = [frame.recorded_at for frame in sink.frames]
    assert times == sorted(times)
    assert (journal.last_sequence, journal.oldest_sequence) == (sequences[-1], 1)
    assert journal.pending_bytes == 0


def test_many_submitters(store: Local) -> None:
    """Entries of one thread keep their order whatever other threads submit."""
    journal, sink = store.start()

    def work(who: int) -> None:
        for i in range(300):
            assert journal.submit(entry("x"), (who, i))

    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.flush()
    assert len(sink.tickets) == 1200
    for who in range(4):
        assert [i for w, i in sink.tickets if w == who] == list(range(300))


def test_reopens_where_it_left_off(store: Local) -> None:
    """A reopened journal has the same frames at the same positions and goes on behind them."""
    journal, sink = store.start()
    _submit(journal, "a", "b", "c")
    journal.flush()
    delivered = [frame._replace(ticket=None) for frame in sink.frames]
    journal.close()
    again, more = store.start()
    replayed = list(again.replay(0))
    assert set(delivered) <= set(replayed)
    assert again.read(delivered[-1].position) == delivered[-1]
    _submit(again, "d")
    again.flush()
    assert names(again.replay(0)) == ["a", "b", "c", "d"]
    assert more.tickets == ["d"]


def test_replay_is_callable_before_start(store: Local) -> None:
    """Views catch up before the first new entry is ordered."""
    journal, _ = store.start()
    _submit(journal, "a")
    journal.close()
    reopened = store.open()
    assert names(reopened.replay(0)) == ["a"]
    assert list(reopened.replay(reopened.last_sequence)) == []
    with pytest.raises(ClosedError):
        reopened.submit(entry("x"), None)
    with pytest.raises(ClosedError):
        reopened.flush()


def test_close_drains_and_is_idempotent(store: Local) -> None:
    """What was queued is written and delivered; afterwards nothing is taken."""
    journal, sink = store.start()
    _submit(journal, *(str(i) for i in range(200)))
    journal.close()
    journal.close()
    assert names(sink.frames) == [str(i) for i in range(200)]
    for call in (lambda: journal.submit(entry("x"), None), journal.flush):
        with pytest.raises(ClosedError):
            call()
    with pytest.raises(ClosedError):
        journal.start(sink.deliver, sink.fail)


def test_close_without_start(store: Local) -> None:
    """A journal that was only opened can be closed."""
    store.open().close()
    assert store.open().last_sequence == 0


def test_failing_deliver_stops(store: Local) -> None:
    """If the views cannot follow, nothing more is taken; the entry is there after a reopen."""
    journal, sink = store.start()
    sink.explode = RuntimeError("views are broken")
    _submit(journal, "a")
    while journal.failure is None:
        threading.Event().wait(0.001)
    for call in (lambda: journal.submit(entry("x"), None), journal.flush):
        for _ in range(2):
            with pytest.raises(StorageError, match="views are broken"):
                call()
    called: list[int] = []
    journal.on_space(lambda: called.append(1))
    assert called
    journal.close()
    again, _ = store.start()
    assert names(again.replay(0)) == ["a"]


# --- of a cluster -----------------------------------------------------------------------------


def test_nodes_have_the_same_journal(nats_server: NatsServer, tmp_path: Path, swarm: str) -> None:
    """Nodes that submit at the same time come to the same frames, at the same sequences and times."""
    stores = [Nats(tmp_path / str(n), nats_server, swarm) for n in range(3)]
    for n in range(3):
        (tmp_path / str(n)).mkdir()
    started = [store.start() for store in stores]
    for i in range(300):
        for n, (journal, _) in enumerate(started):
            _submit(journal, f"{n}.{i}")
    for journal, _ in started:
        journal.flush()
    for journal, _ in started:
        journal.flush()
    least = min(journal.last_sequence for journal, _ in started)
    kept = [
        [(f.sequence, f.recorded_at, f.payload) for f in journal.replay(0) if f.sequence <= least]
        for journal, _ in started
    ]
    assert kept[0] == kept[1] == kept[2]
    assert len(names(started[0][0].replay(0))) == 900
    for store in stores:
        store.close()


def test_withdraw_and_room(server: NatsServer, tmp_path: Path) -> None:
    """What no message holds yet can be taken back once; without an answer nothing is delivered."""
    (tmp_path / "node").mkdir()
    store = Nats(tmp_path / "node", server, "s")
    journal, sink = store.start()
    server.signal(signal.SIGSTOP)
    first, second = object(), object()
    journal.submit(entry("a"), first)
    while not journal._publishing._under_way:  # type: ignore[attr-defined]
        threading.Event().wait(0.001)
    journal.submit(entry("b"), second)
    assert not journal.withdraw(first)
    assert journal.withdraw(second)
    assert not journal.withdraw(second)
    assert sink.tickets == []
    server.signal(signal.SIGCONT)
    journal.flush()
    assert sink.tickets == [first]
    store.close()


def test_patience_ends(server: NatsServer, tmp_path: Path) -> None:
    """Without a server what is under way and what waits fail retryably in time, and later entries at
    once; with one again the next is stored, and nothing that was acknowledged is missing.
    """
    (tmp_path / "node").mkdir()
    store = Nats(tmp_path / "node", server, "s", patience_s=1.0)
    journal, sink = store.start()
    _submit(journal, "a")
    journal.flush()
    server.kill()
    for name in "bcd":
        _submit(journal, name)
    sink.wait(lambda: len(sink.failed) == 3)
    assert all(isinstance(error, DisconnectedError) for _, error in sink.failed)
    with pytest.raises(DisconnectedError):
        journal.flush()
    server.start()
    while True:
        try:
            journal.flush()
        except DisconnectedError:
            continue
        break
    _submit(journal, "e")
    journal.flush()
    kept = names(journal.replay(0))
    assert [name for name in kept if name in "ae"] == ["a", "e"]
    assert len(kept) == len(set(kept))
    store.close()


def test_resumes_in_the_middle_of_a_message(
    nats_server: NatsServer, tmp_path: Path, swarm: str
) -> None:
    """A node whose journal was cut off within a message takes just the rest of it again."""
    (tmp_path / "node").mkdir()
    store = Nats(tmp_path / "node", nats_server, swarm)
    journal, _ = store.start()
    for i in range(50):
        _submit(journal, f"e{i}")
    journal.flush()
    frames = list(journal.replay(0))
    journal.close()
    marks = [f for f in frames if isinstance(decode_entry(f.payload).body, Mark)]
    counts = [decode_entry(f.payload).body.count for f in marks]  # type: ignore[union-attr]
    whole = max(range(len(marks)), key=lambda i: counts[i])
    assert counts[whole] > 3
    cut = marks[whole].sequence + 2  # the mark and two of its entries stay
    segment = next((tmp_path / "node").glob("*"))
    end = next(f for f in frames if f.sequence == cut + 1)
    with segment.open("r+b") as file:
        file.truncate(unpack_position(end.position)[1])
    again, _ = store.start()
    replayed = list(again.replay(0))
    assert [f.payload for f in replayed[: len(frames)]] == [f.payload for f in frames]
    assert [f.sequence for f in replayed] == list(range(1, len(replayed) + 1))
    store.close()


def test_settings_of_nobody_but_the_operator(
    nats_server: NatsServer, tmp_path: Path, swarm: str
) -> None:
    """An agent cannot set what belongs to the swarm by publishing it in its own name."""
    settings = encode_entry(Entry(Configure(swarm, "live", None), actor="agent_1"))
    assert admit(settings, "") is not None
    assert admit(settings, "agent_1") is None
