"""Publish and subscribe over the embedded bus: order, overflow, cancellation, closing."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from nt_memory.clock import ManualClock
from nt_memory.coordination.pubsub import PubSub
from nt_memory.coordination.receivers import Message, Receiver
from nt_memory.errors import (
    BufferOverflowError,
    ClosedError,
    InvalidInputError,
    InvalidNameError,
    ReceiverClosedError,
    ReceiveTimeoutError,
)
from nt_memory.transport.local_bus import LocalBus


class World:
    """A bus, the message calls over it, and counters of coding."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.encoded = self.decoded = 0
        self.pubsub = PubSub(LocalBus(), self._encode, self._decode, self.clock)

    def _encode(self, value: Any) -> bytes:
        self.encoded += 1
        return msgspec.msgpack.encode(value)

    def _decode(self, data: bytes) -> Any:
        self.decoded += 1
        return msgspec.msgpack.decode(data)

    async def idle(self) -> None:
        for _ in range(20):
            await self.clock.sleep(0)


@pytest.fixture
def world() -> World:
    return World()


async def drain(rx: Receiver) -> list[Any]:
    """What is buffered."""
    values = []
    while True:
        try:
            values.append(await rx.recv(timeout=0))
        except ReceiveTimeoutError:
            return values


def test_messages_come_in_order(world: World) -> None:
    """One publisher's messages arrive as sent, each once, from the subscription on."""

    async def main() -> None:
        await world.pubsub.publish("a/b", "before")
        rx = await world.pubsub.subscribe("a/b")
        for n in range(100):
            assert await world.pubsub.publish("a/b", n) == 1
        assert await drain(rx) == list(range(100))
        assert rx.dropped == 0

    asyncio.run(main())


def test_wildcards_and_the_topic_of_a_message(world: World) -> None:
    """`*` is one level, `**` the rest; `recv_message` says which topic it was."""

    async def main() -> None:
        one = await world.pubsub.subscribe("agent_1/*")
        rest = await world.pubsub.subscribe("agent_1/**")
        await world.pubsub.publish("agent_1/risk", 1)
        await world.pubsub.publish("agent_1/risk/var", 2)
        await world.pubsub.publish("agent_2/risk", 3)
        assert await one.recv_message() == Message("agent_1/risk", 1)
        assert await drain(one) == []
        assert await drain(rest) == [1, 2]

    asyncio.run(main())


def test_message_is_coded_once_and_only_decoded_if_read(world: World) -> None:
    """A thousand subscribers share one value; unread messages are never decoded."""

    async def main() -> None:
        receivers = [await world.pubsub.subscribe("t") for _ in range(1000)]
        assert await world.pubsub.publish("t", {"x": [1]}) == 1000
        assert await world.pubsub.publish("t", {"x": [1]}) == 1000
        assert (world.encoded, world.decoded) == (2, 0)
        values = [await rx.recv() for rx in receivers]
        assert all(value is values[0] for value in values)
        assert (world.encoded, world.decoded) == (2, 1)

    asyncio.run(main())


def test_drop_oldest_keeps_the_newest_and_counts(world: World) -> None:
    """A reader that falls behind finds the latest messages and the exact number lost."""

    async def main() -> None:
        slow = await world.pubsub.subscribe("t", buffer=3)
        quick = await world.pubsub.subscribe("t")
        for n in range(10):
            await world.pubsub.publish("t", n)
        assert await drain(slow) == [7, 8, 9]
        assert slow.dropped == 7
        assert await drain(quick) == list(range(10))
        assert quick.dropped == 0

    asyncio.run(main())


def test_overflow_error_is_raised_where_the_gap_is_and_reception_goes_on(world: World) -> None:
    """No message after a gap is handed out before the reader knows of it."""

    async def main() -> None:
        rx = await world.pubsub.subscribe("t", buffer=2, overflow="error")
        for n in range(5):
            await world.pubsub.publish("t", n)
        assert await rx.recv() == 0
        await world.pubsub.publish("t", 5)
        assert await rx.recv() == 1
        with pytest.raises(BufferOverflowError, match="4 messages"):
            await rx.recv()
        await world.pubsub.publish("t", 6)
        assert await rx.recv() == 6
        assert rx.dropped == 4

    asyncio.run(main())


def test_recv_waits_and_times_out(world: World) -> None:
    """A message that comes is received at once; a timeout loses nothing."""

    async def main() -> None:
        rx = await world.pubsub.subscribe("t")
        receiving = asyncio.create_task(rx.recv(timeout=5))
        await world.idle()
        world.clock.advance(4.9)
        await world.pubsub.publish("t", "in time")
        assert await receiving == "in time"
        receiving = asyncio.create_task(rx.recv(timeout=5))
        await world.idle()
        world.clock.advance(5)
        with pytest.raises(ReceiveTimeoutError):
            await receiving
        await world.pubsub.publish("t", "later")
        assert await rx.recv(timeout=0) == "later"

    asyncio.run(main())


def test_cancelled_recv_loses_no_message(world: World) -> None:
    """Cancelled in the turn in which its message came: the next reader gets it, waiting or not."""

    async def main() -> None:
        rx = await world.pubsub.subscribe("t")
        doomed = asyncio.create_task(rx.recv())
        next_in_line = asyncio.create_task(rx.recv())
        await world.idle()
        await world.pubsub.publish("t", 1)
        doomed.cancel()
        assert await next_in_line == 1
        doomed = asyncio.create_task(rx.recv())
        await world.idle()
        await world.pubsub.publish("t", 2)
        doomed.cancel()
        await world.idle()
        assert doomed.cancelled()
        assert await rx.recv(timeout=0) == 2

    asyncio.run(main())


def test_several_readers_share_first_come_first_served(world: World) -> None:
    """Each message goes to one reader; nobody overtakes those who wait."""

    async def main() -> None:
        rx = await world.pubsub.subscribe("t")
        readers = [asyncio.create_task(rx.recv()) for _ in range(5)]
        await world.idle()
        for n in range(6):
            await world.pubsub.publish("t", n)
        late = asyncio.create_task(rx.recv())
        assert await asyncio.gather(*readers, late) == [0, 1, 2, 3, 4, 5]

    asyncio.run(main())


def test_a_message_behind_a_cancelled_reader_reaches_the_next(world: World) -> None:
    """Published between the cancellation of a reader and its end: who waits behind it is woken."""

    async def main() -> None:
        rx = await world.pubsub.subscribe("t")
        doomed = asyncio.create_task(rx.recv())
        await world.idle()
        doomed.cancel()
        await world.pubsub.publish("t", 1)
        async with asyncio.timeout(10.0):  # the cancelled one has not had its turn yet
            assert await rx.recv() == 1
        assert doomed.cancelled()

    asyncio.run(main())


def test_nobody_loses_their_place_to_a_message_for_others(world: World) -> None:
    """Two messages wake two readers; the third in line stays before who comes later."""

    async def main() -> None:
        rx = await world.pubsub.subscribe("t")
        readers = [asyncio.create_task(rx.recv()) for _ in range(3)]
        await world.idle()
        await world.pubsub.publish("t", 1)
        await world.pubsub.publish("t", 2)
        late = asyncio.create_task(rx.recv())
        await world.idle()
        await world.pubsub.publish("t", 3)
        assert await asyncio.gather(*readers) == [1, 2, 3]
        await world.pubsub.publish("t", 4)
        assert await late == 4

    asyncio.run(main())


def test_iteration_ends_when_the_receiver_is_closed(world: World) -> None:
    """`async for` yields values; the owner's close ends it, and unsubscribes."""

    async def main() -> None:
        rx = await world.pubsub.subscribe("t")
        seen: list[Any] = []

        async def read() -> None:
            async for value in rx:
                seen.append(value)  # noqa: PERF401 - the loop is what is tested

        reading = asyncio.create_task(read())
        await world.pubsub.publish("t", 1)
        await world.idle()
        await world.pubsub.publish("t", "unread")
        await rx.close()
        await rx.close()
        await reading
        assert not rx._parcels, "what nobody will read is not kept"
        assert seen == [1]
        assert world.pubsub.subscribers == 0
        assert await world.pubsub.publish("t", 2) == 0
        with pytest.raises(ReceiverClosedError, match="'t' was closed"):
            await rx.recv()

    asyncio.run(main())


def test_a_receiver_closes_itself_at_the_end_of_its_block(world: World) -> None:
    """`async with` ends the subscription however the block ends, and hides nothing."""

    async def main() -> None:
        async with await world.pubsub.subscribe("t") as rx:
            await world.pubsub.publish("t", 1)
            assert await rx.recv() == 1
            assert world.pubsub.subscribers == 1
        assert world.pubsub.subscribers == 0
        with pytest.raises(KeyError):
            async with await world.pubsub.subscribe("t"):
                raise KeyError
        assert world.pubsub.subscribers == 0

    asyncio.run(main())


def test_closing_the_memory_wakes_every_reader_with_the_reason(world: World) -> None:
    """Waiting or iterating: each gets an error that says why."""

    async def main() -> None:
        rx = await world.pubsub.subscribe("t")
        waiting = [asyncio.create_task(rx.recv()) for _ in range(3)]
        waiting.append(asyncio.create_task(rx.__anext__()))
        await world.idle()
        world.pubsub.close(ClosedError("the memory was closed"))
        for task in waiting:
            with pytest.raises(ReceiverClosedError, match="the memory was closed"):
                await task
        with pytest.raises(ClosedError):
            await world.pubsub.publish("t", 1)
        with pytest.raises(ClosedError):
            await world.pubsub.subscribe("t")

    asyncio.run(main())


def test_malformed_arguments_change_nothing(world: World) -> None:
    """Topics, patterns, buffers, policies and timeouts are checked, by a clear error."""

    async def main() -> None:
        for topic in ("", "a//b", "a/*", "a\n"):
            with pytest.raises(InvalidNameError):
                await world.pubsub.publish(topic, 1)
        for pattern in ("", "**/a", "a*"):
            with pytest.raises(InvalidNameError):
                await world.pubsub.subscribe(pattern)
        settings: list[dict[str, Any]] = [
            {"buffer": 0}, {"buffer": 1.5}, {"buffer": True}, {"overflow": "block"},
        ]  # fmt: skip
        for setting in settings:
            with pytest.raises(InvalidInputError):
                await world.pubsub.subscribe("t", **setting)
        assert world.pubsub.subscribers == world.pubsub.published == 0
        rx = await world.pubsub.subscribe("t")
        for timeout in (-1, float("nan"), "1"):
            with pytest.raises(InvalidInputError):
                await rx.recv(timeout)  # type: ignore[arg-type]

    asyncio.run(main())
