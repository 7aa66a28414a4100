"""Request and reply over the embedded bus: who answers, who cannot, and what is left behind."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import msgspec
import pytest

from nt_memory.clock import ManualClock
from nt_memory.coordination.pubsub import PubSub
from nt_memory.coordination.receivers import Message, Receiver
from nt_memory.errors import (
    ClosedError,
    CodecError,
    InvalidInputError,
    InvalidNameError,
    NoResponderError,
    ReceiveTimeoutError,
    RequestTimeoutError,
)
from nt_memory.transport.local_bus import LocalBus


class World:
    """A bus and the message calls of two memories over it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.bus = LocalBus()
        self.pubsub, self.other = (
            PubSub(self.bus, msgspec.msgpack.encode, msgspec.msgpack.decode, self.clock)
            for _ in range(2)
        )

    async def idle(self) -> None:
        for _ in range(20):
            await self.clock.sleep(0)

    async def start(self, coroutine: Any) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(coroutine)
        await self.idle()
        return task

    @property
    def is_clean(self) -> bool:
        """Whether no request is remembered."""
        return not self.pubsub._requests


@pytest.fixture
def world() -> World:
    return World()


def test_a_request_gets_the_reply_to_it(world: World) -> None:
    """Many requests at once, answered in reverse order, each get their own reply."""

    async def main() -> None:
        rx = await world.other.subscribe("risk/limit")
        asked = [await world.start(world.pubsub.request("risk/limit", n)) for n in range(50)]
        got = [await rx.recv_message() for _ in asked]
        assert len({message.reply_to for message in got}) == 50
        for message in reversed(got):
            await world.other.reply(message, message.value * 10)
        assert [await one for one in asked] == [n * 10 for n in range(50)]
        assert world.is_clean

    asyncio.run(main())


def test_without_a_subscriber_it_fails_at_once(world: World) -> None:
    """No time passes: the clock stands still, and the error says which topic nobody reads."""

    async def main() -> None:
        rx = await world.other.subscribe("risk/limit")
        await rx.close()
        with pytest.raises(NoResponderError, match="risk/limit") as raised:
            await world.pubsub.request("risk/limit", 1, timeout=None)
        assert raised.value.retryable
        assert world.is_clean

    asyncio.run(main())


def test_nobody_answers_in_time(world: World) -> None:
    """It times out by the clock; the answer that comes too late is dropped, and none is mixed up."""

    async def main() -> None:
        rx = await world.other.subscribe("t")
        late = await world.start(world.pubsub.request("t", 1, timeout=5.0))
        world.clock.advance(4.9)
        await world.idle()
        assert not late.done()
        world.clock.advance(0.2)
        with pytest.raises(RequestTimeoutError, match=r"'t' within 5\.0 s"):
            await late
        assert world.is_clean
        first = await rx.recv_message()
        second = await world.start(world.pubsub.request("t", 2))
        await world.other.reply(first, "late")
        await world.idle()
        assert not second.done()
        await world.other.reply(await rx.recv_message(), "in time")
        assert await second == "in time"

    asyncio.run(main())


def test_of_several_responders_the_first_counts(world: World) -> None:
    """All get the request; the second answer changes nothing and is no error."""

    async def main() -> None:
        responders = [await world.other.subscribe(pattern) for pattern in ("t", "*", "t")]
        asked = await world.start(world.pubsub.request("t", "?"))
        got = [await rx.recv_message() for rx in responders]
        for number in (2, 0, 1):
            await world.other.reply(got[number], number)
        assert await asked == 2

    asyncio.run(main())


def test_a_cancelled_request_leaves_nothing(world: World) -> None:
    """Cancelled before and after the reply came, nothing is remembered and the next one works."""

    async def main() -> None:
        rx = await world.other.subscribe("t")
        waiting = await world.start(world.pubsub.request("t", 1))
        waiting.cancel()
        await world.idle()
        assert waiting.cancelled()
        assert world.is_clean
        answered = await world.start(world.pubsub.request("t", 2))
        await rx.recv_message()
        await world.other.reply(await rx.recv_message(), "x")
        answered.cancel()
        await world.idle()
        assert world.is_clean
        again = await world.start(world.pubsub.request("t", 3))
        await world.other.reply(await rx.recv_message(), "y")
        assert await again == "y"
        gc.collect()

    asyncio.run(main())


def test_closing_wakes_who_waits_for_a_reply(world: World) -> None:
    """Every waiting request raises the reason; so does every later one, and every reply."""

    async def main() -> None:
        rx = await world.other.subscribe("t")
        asked = [await world.start(world.pubsub.request("t", n, timeout=None)) for n in range(3)]
        message = await rx.recv_message()
        world.pubsub.close(ClosedError("the memory was closed"))
        for one in asked:
            with pytest.raises(ClosedError, match="was closed"):
                await one
        assert world.is_clean
        with pytest.raises(ClosedError):
            await world.pubsub.request("t", 1)
        with pytest.raises(ClosedError):
            await world.pubsub.reply(message, 1)

    asyncio.run(main())


def test_nobody_listens_in_on_replies(world: World) -> None:
    """No pattern that a user may subscribe to matches a reply topic, and none may be published to."""

    async def main() -> None:
        rx = await world.other.subscribe("t")
        spies = [await world.other.subscribe(p) for p in ("**", "*", "*/**", "*/*", "*/*/*")]
        asked = await world.start(world.pubsub.request("t", 1))
        message = await rx.recv_message()
        for spy in spies[:2]:
            assert await spy.recv() == 1
        for pattern in (message.reply_to, "$reply/**", "$reply/*/*", "$x"):
            with pytest.raises(InvalidNameError, match="memory's own"):
                await world.other.subscribe(pattern)
        for send in (world.other.publish, world.other.request):
            with pytest.raises(InvalidNameError, match="memory's own"):
                await send(message.reply_to, "forged")
        await world.other.reply(message, "secret")
        assert await asked == "secret"
        for spy in spies:
            with pytest.raises(ReceiveTimeoutError):
                await spy.recv(timeout=0)

    asyncio.run(main())


@pytest.mark.parametrize("reply_to", ["", "orders", "x$reply/a/b"])
def test_a_reply_goes_to_a_request_and_nowhere_else(world: World, reply_to: str) -> None:
    """A message that asks for no reply, or one made up to publish elsewhere, is refused."""

    async def main() -> None:
        rx = await world.other.subscribe("**")
        with pytest.raises(InvalidInputError, match="asks for no reply"):
            await world.pubsub.reply(Message("t", 1, reply_to), "x")
        with pytest.raises(ReceiveTimeoutError):
            await rx.recv(timeout=0)

    asyncio.run(main())


def test_a_made_up_reply_topic_reaches_no_request(world: World) -> None:
    """Neither another request's topic nor a guess answers a request."""

    async def main() -> None:
        rx = await world.other.subscribe("t")
        one = await world.start(world.pubsub.request("t", 1))
        two = await world.start(world.pubsub.request("t", 2))
        first, second = await rx.recv_message(), await rx.recv_message()
        inbox, token = first.reply_to.rsplit("/", 1)
        assert len(token) == 32
        assert second.reply_to.startswith(inbox + "/")
        await world.other.reply(Message("t", 0, f"{inbox}/{'0' * 32}"), "forged")
        await world.idle()
        assert not one.done()
        assert not two.done()
        await world.other.reply(second, "b")
        await world.other.reply(first, "a")
        assert (await one, await two) == ("a", "b")

    asyncio.run(main())


def test_one_responder_is_asked_by_equal_messages(world: World) -> None:
    """Requests that are one object of bytes are still told apart: each has its own reply topic."""
    same = b"\x07"

    async def main() -> None:
        rx = await world.other.subscribe("t")
        alike = PubSub(world.bus, lambda _: same, msgspec.msgpack.decode, world.clock)
        asked = [await world.start(alike.request("t", 7)) for _ in range(3)]
        for number in range(3):
            await world.other.reply(await rx.recv_message(), number)
        assert [await one for one in asked] == [0, 1, 2]

    asyncio.run(main())


def test_plain_messages_ask_for_no_reply(world: World) -> None:
    """What was published has an empty `reply_to`."""

    async def main() -> None:
        rx = await world.other.subscribe("t")
        await world.pubsub.publish("t", 1)
        assert await rx.recv_message() == Message("t", 1, "")

    asyncio.run(main())


def test_bad_arguments_send_nothing(world: World) -> None:
    """Topics, timeouts and messages are checked before anything is sent."""

    def refuse(_: Any) -> bytes:
        raise CodecError("no")

    async def main() -> None:
        rx = await world.other.subscribe("**")
        for topic, timeout, error in (
            ("a//b", 1.0, InvalidNameError),
            ("a/*", 1.0, InvalidNameError),
            ("a", -1.0, InvalidInputError),
            ("a", float("nan"), InvalidInputError),
            ("a", True, InvalidInputError),
        ):
            with pytest.raises(error):
                await world.pubsub.request(topic, 1, timeout)
        unable = PubSub(world.bus, refuse, msgspec.msgpack.decode, world.clock)
        with pytest.raises(CodecError):
            await unable.request("a", object())
        with pytest.raises(ReceiveTimeoutError):
            await rx.recv(timeout=0)
        assert world.is_clean

    asyncio.run(main())


def test_a_thousand_subscribers_each_get_every_message(world: World) -> None:
    """Fan-out: in order, none missing, decoded once for all of them; a stuck one loses its own only."""

    async def main() -> None:
        readers = [await world.other.subscribe("tick/*") for _ in range(999)]
        stuck = await world.other.subscribe("tick/*", buffer=5)
        for number in range(20):
            assert await world.pubsub.publish("tick/AAPL", number) == 1000
        for rx in readers:
            assert [await rx.recv(timeout=0) for _ in range(20)] == list(range(20))
            assert rx.dropped == 0
        assert stuck.dropped == 15
        assert [await stuck.recv(timeout=0) for _ in range(5)] == list(range(15, 20))

    asyncio.run(main())


def test_what_nobody_reads_is_kept_nowhere(world: World) -> None:
    """Publishing under ten thousand topics without a reader leaves a bounded table of routes."""

    async def main() -> None:
        for number in range(10_000):
            assert await world.pubsub.publish(f"t/{number}", number) == 0
        assert len(world.bus._routes) <= 4096
        assert world.pubsub._latest is None

    asyncio.run(main())


def test_a_message_to_nobody_is_not_looked_at(world: World) -> None:
    """It is neither encoded nor judged, while its topic is; with the first subscriber both are again."""
    looked_at: list[Any] = []

    def encode(value: Any) -> bytes:
        looked_at.append(value)
        if value is None:
            raise CodecError("no")
        return msgspec.msgpack.encode(value)

    async def main() -> None:
        pubsub = PubSub(world.bus, encode, msgspec.msgpack.decode, world.clock)
        away = await world.other.subscribe("b/*")
        for message in (1, None):
            assert await pubsub.publish("a/b", message) == 0
        assert (looked_at, pubsub.published) == ([], 2)
        for topic in ("a//b", "a/*", "", "$reply/x"):
            with pytest.raises(InvalidNameError):
                await pubsub.publish(topic, 1)
        rx = await world.other.subscribe("a/*")
        assert await pubsub.publish("a/b", 3) == 1
        assert (await rx.recv(), looked_at) == (3, [3])
        with pytest.raises(CodecError):
            await pubsub.publish("a/b", None)
        await rx.close()
        assert await pubsub.publish("a/b", None) == 0
        assert looked_at == [3, None]
        with pytest.raises(ReceiveTimeoutError):
            await away.recv(timeout=0)

    asyncio.run(main())


def test_receivers_still_close_one_by_one(world: World) -> None:
    """Closing one of many receivers leaves the others, and the inbox of requests, in place."""

    async def main() -> None:
        receivers: list[Receiver] = [await world.other.subscribe("t") for _ in range(3)]
        asked = await world.start(world.pubsub.request("t", 1))
        await receivers[0].close()
        await world.other.reply(await receivers[1].recv_message(), "yes")
        assert await asked == "yes"
        assert await world.pubsub.publish("t", 2) == 2

    asyncio.run(main())
