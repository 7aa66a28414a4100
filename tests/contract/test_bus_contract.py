"""What every bus does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nt_memory.errors import InvalidNameError
from nt_memory.transport.local_bus import LocalBus

if TYPE_CHECKING:
    from nt_memory.transport.ports import Bus


@pytest.fixture(params=[LocalBus], ids=["local"])
def bus(request: pytest.FixtureRequest) -> Bus:
    """Each implementation in turn."""
    made: Bus = request.param()
    return made


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
    """`has_readers` is never False where a message reaches somebody, and here it is exact; wildcards
    do not count for the memory's own topics, and a malformed topic is refused.
    """
    assert not bus.has_readers("a/b")
    handles = [bus.subscribe(pattern, lambda *_: None) for pattern in ("a/*", "**", "$own/b")]
    for topic in ("a/b", "z", "$own/b"):
        assert bus.has_readers(topic)
        assert bus.publish(topic, b"1")
    assert not bus.has_readers("$own/c")
    for handle in handles:
        bus.unsubscribe(handle)
    for topic in ("a/b", "z", "$own/b"):
        assert not bus.has_readers(topic)
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


def test_a_request_that_reaches_nobody_says_so(bus: Bus) -> None:
    """An empty payload comes under the reply topic, once; with a subscriber none does."""
    seen: list[tuple[str, bytes]] = []
    bus.subscribe("$reply/x/*", lambda t, p, _r: seen.append((t, p)))
    assert bus.publish("a", b"1", "$reply/x/1") == 0
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
