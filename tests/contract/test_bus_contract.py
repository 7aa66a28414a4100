"""What every bus does, and what a cluster's does from one node to another."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from nt_memory.clock import SystemClock
from nt_memory.errors import InvalidNameError
from nt_memory.transport.local_bus import LocalBus
from nt_memory.transport.nats import bus as bus_module
from nt_memory.transport.nats.bus import NatsBus
from nt_memory.transport.nats.link import Link
from nt_memory.transport.nats.subjects import Subjects

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from nats_server import NatsServer

    from nt_memory.transport.ports import Bus


class Bench:
    """A bus, the loop it belongs to, and a way to wait for what comes from a server."""

    def __init__(self, server: NatsServer | None, swarm: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._links: list[Link] = []
        self._server = server
        self._swarm = swarm

    def make(self) -> Bus:
        """A bus; of a node of its own, if it is a cluster's."""

        async def main() -> Bus:
            if self._server is None:
                return LocalBus()
            link = Link(self._server.url, Subjects(self._swarm))
            self._links.append(link)
            await asyncio.to_thread(link.open)
            return NatsBus(link)

        return self._loop.run_until_complete(main())

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run something on the loop."""
        return self._loop.run_until_complete(asyncio.wait_for(work, 30.0))

    def until(self, condition: Callable[[], bool]) -> None:
        """Let the loop run until something is so; in one process it is so at once."""

        async def wait() -> None:
            while not condition():
                await SystemClock().sleep(0.001)

        if self._server is None:
            assert condition()
        else:
            self.do(wait())

    def close(self) -> None:
        for link in self._links:
            link.close()
        self._loop.close()


@pytest.fixture(params=["local", "nats"])
def bench(request: pytest.FixtureRequest, swarm: str) -> Iterator[Bench]:
    """Each implementation in turn."""
    server = None if request.param == "local" else request.getfixturevalue("nats_server")
    made = Bench(server, swarm)
    yield made
    made.close()


@pytest.fixture
def bus(bench: Bench) -> Bus:
    """A bus of each implementation."""
    return bench.make()


@pytest.fixture
def nodes(nats_server: NatsServer, swarm: str) -> Iterator[tuple[Bench, Bus, Bus]]:
    """Two nodes of a cluster, on one loop."""
    made = Bench(nats_server, swarm)
    yield made, made.make(), made.make()
    made.close()


def test_every_match_gets_it_once_in_order(bus: Bus) -> None:
    """Each subscriber gets each matching message once, in the order of publishing."""
    seen: list[tuple[str, str, bytes]] = []
    for pattern in ("a/b", "a/*", "**", "c/*", "a/b"):
        bus.subscribe(pattern, lambda t, p, _r, n=pattern: seen.append((n, t, p)))  # type: ignore[misc]
    assert bus.publish("a/b", b"1") == 4
    assert bus.publish("a/x", b"2") == 2
    assert bus.publish("z", b"3") == 1
    assert seen == [
        *((n, "a/b", b"1") for n in ("a/b", "a/*", "**", "a/b")),
        *((n, "a/x", b"2") for n in ("a/*", "**")),
        ("**", "z", b"3"),
    ]


def test_nobody_listens(bus: Bus) -> None:
    """A message without a subscriber is gone; who comes later does not get it."""
    seen: list[bytes] = []
    assert bus.publish("a", b"early") == 0
    bus.subscribe("a", lambda _, p, _r: seen.append(p))
    assert bus.publish("a", b"late") == 1
    assert seen == [b"late"]


def test_who_has_readers(bus: Bus) -> None:
    """`has_readers` is never False where a message reaches somebody, and in one process it is exact;
    wildcards do not count for the memory's own topics, and a malformed topic is refused.
    """
    assert bus.has_readers("a/b") == bus.is_remote
    handles = [bus.subscribe(pattern, lambda *_: None) for pattern in ("a/*", "**", "$own/b")]
    for topic in ("a/b", "z", "$own/b"):
        assert bus.has_readers(topic)
        assert bus.publish(topic, b"1")
    assert bus.has_readers("$own/c") == bus.is_remote
    for handle in handles:
        bus.unsubscribe(handle)
    for topic in ("a/b", "z", "$own/b"):
        assert bus.has_readers(topic) == bus.is_remote
    with pytest.raises(InvalidNameError):
        bus.has_readers("a//b")


def test_unsubscribe_is_idempotent(bus: Bus) -> None:
    """After `unsubscribe` nothing arrives; repeating it, or a foreign handle, is harmless."""
    seen: list[bytes] = []
    handle = bus.subscribe("a", lambda _, p, _r: seen.append(p))
    bus.publish("a", b"1")
    bus.unsubscribe(handle)
    bus.unsubscribe(handle)
    bus.unsubscribe(object())
    assert bus.publish("a", b"2") == 0
    assert seen == [b"1"]


def test_refusals_change_nothing(bus: Bus) -> None:
    """A malformed topic reaches nobody, a malformed pattern subscribes nobody."""
    seen: list[bytes] = []
    bus.subscribe("**", lambda _, p, _r: seen.append(p))
    for topic in ("", "a//b", "a/*"):
        for _ in range(2):
            with pytest.raises(InvalidNameError):
                bus.publish(topic, b"bad")
    with pytest.raises(InvalidNameError):
        bus.subscribe("**/a", lambda _, p, _r: seen.append(p))
    assert bus.publish("x/a", b"good") == 1
    assert seen == [b"good"]


def test_a_raising_subscriber_costs_others_nothing(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    """An error in one `receive` is logged; the others still get the message."""
    seen: list[bytes] = []

    def explode(_topic: str, _payload: bytes, _reply_to: str) -> None:
        raise RuntimeError("no")

    bus.subscribe("a", explode)
    bus.subscribe("a", lambda _, p, _r: seen.append(p))
    assert bus.publish("a", b"1") == 2
    assert seen == [b"1"]
    assert "a subscriber of topic 'a' raised" in caplog.text


def test_changes_during_a_message(bus: Bus) -> None:
    """Whoever unsubscribes another, or subscribes, while a message is handed out, breaks nothing:
    the one does not get it any more, the other only the next.
    """
    seen: list[tuple[str, bytes]] = []

    def meddle(_topic: str, payload: bytes, _reply_to: str) -> None:
        seen.append(("meddler", payload))
        bus.unsubscribe(victim)
        bus.subscribe("a", lambda _, p, _r: seen.append(("new", p)))
        bus.unsubscribe(meddler)

    meddler = bus.subscribe("a", meddle)
    victim = bus.subscribe("a", lambda _, p, _r: seen.append(("victim", p)))
    assert bus.publish("a", b"1") == 1
    assert bus.publish("a", b"2") == 1
    assert seen == [("meddler", b"1"), ("new", b"2")]


def test_many_topics(bus: Bus) -> None:
    """Any number of topics works; what is remembered about them is bounded."""
    seen: list[str] = []
    bus.subscribe("t/*", lambda t, _, _r: seen.append(t))
    topics = [f"t/{i}" for i in range(10_000)]
    for topic in topics:
        bus.publish(topic, b"")
    assert seen == topics
    assert len(getattr(bus, "_routes", ())) <= 4096


def test_a_request_carries_where_to_reply(bus: Bus) -> None:
    """`reply_to` comes along with the message; without one it is empty."""
    seen: list[tuple[str, str]] = []
    bus.subscribe("a", lambda t, _p, r: seen.append((t, r)))
    bus.publish("a", b"1", "$reply/x/1")
    bus.publish("a", b"2")
    assert seen == [("a", "$reply/x/1"), ("a", "")]


def test_a_request_that_reaches_nobody_says_so(bench: Bench, bus: Bus) -> None:
    """An empty payload comes under the reply topic, once; with a subscriber none does."""
    seen: list[tuple[str, bytes]] = []
    bus.subscribe("$reply/x/*", lambda t, p, _r: seen.append((t, p)))
    assert bus.publish("a", b"1", "$reply/x/1") == 0
    bench.until(lambda: bool(seen))
    assert seen == [("$reply/x/1", b"")]
    bus.subscribe("a", lambda *_: None)
    assert bus.publish("a", b"1", "$reply/x/2") == 1
    assert seen == [("$reply/x/1", b"")]


def test_own_topics_are_out_of_reach_of_wildcards(bus: Bus) -> None:
    """A topic that starts with `$` reaches only patterns that start with the same level."""
    seen: list[str] = []
    for pattern in ("**", "*", "*/**", "*/b", "$other/**", "$own/*", "$own/b"):
        bus.subscribe(pattern, lambda *_, n=pattern: seen.append(n))  # type: ignore[misc]
    assert bus.publish("$own/b", b"1") == 2
    assert seen == ["$own/*", "$own/b"]
    handle = bus.subscribe("$own/b", lambda *_: None)
    bus.unsubscribe(handle)
    bus.unsubscribe(handle)
    assert bus.publish("$own/b", b"1") == 2


# --- from node to node ------------------------------------------------------------------------

TOPICS = ("a", "a/b", "a/b/c", "b/b", "a.b/c", "a b/>/$x", "ü/*x".replace("*", "%"), "a/$b")
PATTERNS = ("a", "*", "**", "a/*", "*/b", "a/**", "a/*/c", "a.b/*", "a b/>/*", "ü/**", "a/$b")


def test_patterns_mean_the_same_everywhere(nodes: tuple[Bench, Bus, Bus]) -> None:
    """A message reaches on another node just those subscriptions that it reaches here, each once."""
    bench, one, other = nodes
    here: list[tuple[str, str]] = []
    there: list[tuple[str, str]] = []
    for pattern in PATTERNS:
        one.subscribe(pattern, lambda t, _p, _r, n=pattern: here.append((n, t)))  # type: ignore[misc]
        handle = other.subscribe(pattern, lambda t, _p, _r, n=pattern: there.append((n, t)))  # type: ignore[misc]
        bench.do(other.settle(pattern, handle))
    for topic in TOPICS:
        one.publish(topic, b"x")
    bench.until(lambda: len(there) >= len(here))
    bench.do(one.settle("a"))
    bench.do(other.settle("a"))
    assert sorted(there) == sorted(here)
    assert here


def test_order_from_node_to_node(nodes: tuple[Bench, Bus, Bus]) -> None:
    """What one publisher says arrives in its order, from the return of `settle` on, none missing."""
    bench, one, other = nodes
    seen: list[bytes] = []
    bench.do(other.settle("t/*", other.subscribe("t/*", lambda _, p, _r: seen.append(p))))
    sent = [b"%d" % i for i in range(3000)]
    for payload in sent:
        assert one.publish(f"t/{len(payload)}", payload) == 0
    bench.until(lambda: len(seen) >= len(sent))
    assert seen == sent


def test_unsubscribed_elsewhere(nodes: tuple[Bench, Bus, Bus]) -> None:
    """After `unsubscribe` nothing arrives from other nodes either."""
    bench, one, other = nodes
    seen: list[bytes] = []
    handle = other.subscribe("a", lambda _, p, _r: seen.append(p))
    bench.do(other.settle("a", handle))
    other.unsubscribe(handle)
    last: list[bytes] = []
    bench.do(other.settle("b", other.subscribe("b", lambda _, p, _r: last.append(p))))
    one.publish("a", b"1")
    one.publish("b", b"2")
    bench.until(lambda: bool(last))
    assert seen == []


def test_requests_from_node_to_node(nodes: tuple[Bench, Bus, Bus]) -> None:
    """A request finds its readers elsewhere, its answer its way back and nobody else; with readers
    elsewhere nobody says that there are none.
    """
    bench, one, other = nodes
    answers: list[tuple[str, bytes]] = []
    bench.do(
        one.settle("$reply/x", one.subscribe("$reply/x/*", lambda t, p, _r: answers.append((t, p))))
    )
    overheard: list[str] = []
    other.subscribe("**", lambda t, *_: overheard.append(t))
    handle = other.subscribe("ask", lambda _t, p, r: other.publish(r, p + b"!"))
    bench.do(other.settle("ask", handle))
    one.publish("ask", b"1", "$reply/x/1")
    bench.until(lambda: bool(answers))
    one.publish("none/at/all", b"1", "")
    bench.until(lambda: "none/at/all" in overheard)
    assert answers == [("$reply/x/1", b"1!")]
    assert overheard == ["ask", "none/at/all"]


def test_a_loop_that_is_held_up(
    nodes: tuple[Bench, Bus, Bus], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a loop is held up, what arrives for it is bounded: the oldest messages go, the newest stay."""
    monkeypatch.setattr(bus_module, "WAITING_MESSAGES", 100)
    bench, one, other = nodes
    seen: list[bytes] = []
    bench.do(other.settle("t", other.subscribe("t", lambda _, p, _r: seen.append(p))))
    for i in range(1000):
        one.publish("t", b"%d" % i)
    # The loop of both runs no callback until here; the threads of their links do.
    checked = asyncio.run_coroutine_threadsafe(one._check(), one._link.loop)  # type: ignore[attr-defined]
    checked.result(30.0)
    checked = asyncio.run_coroutine_threadsafe(other._check(), other._link.loop)  # type: ignore[attr-defined]
    checked.result(30.0)
    bench.until(lambda: bool(seen) and seen[-1] == b"999")
    assert seen == [b"%d" % i for i in range(900, 1000)]


def test_a_late_message_is_dropped(nodes: tuple[Bench, Bus, Bus]) -> None:
    """What a server held back, or sends twice, does not come after a later message of its sender: each
    comes once, in its sender's order, or not at all. Others' are not affected.
    """
    bench, one, other = nodes
    seen: list[bytes] = []
    bench.do(other.settle("**", other.subscribe("**", lambda _, p, _r: seen.append(p))))
    link = one._link  # type: ignore[attr-defined]
    frames: list[tuple[str, bytes]] = []

    async def eavesdrop() -> None:
        async def note(message: Any) -> None:
            frames.append((message.subject, message.data))

        await other._link.client.subscribe(link.subjects.messages("**"), cb=note)  # type: ignore[attr-defined]
        await other._link.check()  # type: ignore[attr-defined]

    async def again() -> None:
        for subject, data in frames:
            await link.client.publish(subject, data)

    asyncio.run_coroutine_threadsafe(eavesdrop(), other._link.loop).result(30.0)  # type: ignore[attr-defined]
    for number in range(3):
        one.publish(f"t/{number}", b"%d" % number)
    bench.until(lambda: len(frames) == 3 and len(seen) == 3)
    asyncio.run_coroutine_threadsafe(again(), link.loop).result(30.0)
    one.publish("t/0", b"end")
    bench.until(lambda: b"end" in seen)
    assert seen == [b"0", b"1", b"2", b"end"]


def test_ones_own_message_does_not_come_back(nodes: tuple[Bench, Bus, Bus]) -> None:
    """What a publisher sent by a connection that it has lost comes to its next one: it was told already."""
    bench, one, other = nodes
    mine: list[bytes] = []
    bench.do(one.settle("**", one.subscribe("**", lambda _, p, _r: mine.append(p))))
    frames: list[tuple[str, bytes]] = []
    link = other._link  # type: ignore[attr-defined]

    async def repeat() -> None:
        async def send(message: Any) -> None:
            frames.append((message.subject, message.data))
            await link.client.publish(message.subject, message.data)

        await link.client.subscribe(link.subjects.messages("t/*"), cb=send)
        await link.check()

    asyncio.run_coroutine_threadsafe(repeat(), link.loop).result(30.0)
    one.publish("t/0", b"once")
    bench.until(lambda: len(frames) == 1)
    other.publish("end", b"end")
    bench.until(lambda: b"end" in mine)
    assert mine == [b"once", b"end"]


def test_senders_that_are_heard_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subscription remembers some thousand senders, the newest ones; each by its name and session."""
    monkeypatch.setattr(bus_module, "_KNOWN", 3)
    remote = bus_module._Remote("s", "**", lambda *_: None, object())
    for sender in range(5):
        assert remote.is_next((str(sender), b"s"), 7)
        assert not remote.is_next((str(sender), b"s"), 7)
        assert remote.is_next((str(sender), b"s"), 8)
    assert list(remote.heard.items()) == [((str(n), b"s"), 8) for n in (2, 3, 4)]
    assert remote.is_next(("4", b"another run"), 1)


def test_forged_frames_are_dropped(nodes: tuple[Bench, Bus, Bus]) -> None:
    """Whatever is published on the bus's subjects past this code does no harm."""
    bench, one, other = nodes
    seen: list[bytes] = []
    bench.do(other.settle("**", other.subscribe("**", lambda _, p, _r: seen.append(p))))
    link = one._link  # type: ignore[attr-defined]

    async def forge() -> None:
        subject = link.subjects.message("", "a")
        evil = b"\xb1\x02" + bytes(16) + b"\x00\x05evil!x"
        for data in (
            b"",
            b"x",
            b"\xb1",
            b"\xb1\x02",
            evil,
            b'{"a":1}',
        ):
            await link.client.publish(subject, data)
        await link.client.publish(
            subject, b"\xb1\x02" + bytes(18) + b"x", headers={"Nats-Stream": "s"}
        )

    asyncio.run_coroutine_threadsafe(forge(), link.loop).result(30.0)
    one.publish("a", b"good")
    bench.until(lambda: b"good" in seen)
    assert seen == [b"good"]
