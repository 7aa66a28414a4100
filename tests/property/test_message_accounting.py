"""Every message is received or counted, whoever reads when: published = received + dropped."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from _ledger import Ledger
from hypothesis import given, settings
from hypothesis import strategies as st

from nt_memory.clock import ManualClock
from nt_memory.coordination.pubsub import PubSub
from nt_memory.coordination.receivers import Receiver
from nt_memory.errors import BufferOverflowError, ReceiveTimeoutError
from nt_memory.transport.local_bus import LocalBus

SETTINGS = ((1, "drop_oldest"), (1, "error"), (3, "drop_oldest"), (3, "error"))

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 9)),
        st.tuples(st.just("read"), st.integers(0, 2 * len(SETTINGS) - 1)),
        st.tuples(st.just("cancel"), st.integers(0, 2 * len(SETTINGS) - 1)),
    ),
    max_size=60,
)


async def read(receiver: Receiver, ledger: Ledger, timeout: float | None) -> None:
    """One message, or the word that some are missing, into the books."""
    try:
        ledger.got(await receiver.recv(timeout))
    except BufferOverflowError:
        ledger.told()


class Game:
    """Receivers with their books, and who of them has somebody waiting."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.pubsub = PubSub(LocalBus(), msgspec.msgpack.encode, msgspec.msgpack.decode, self.clock)
        self.published = 0
        self.books: list[tuple[Receiver, Ledger]] = []
        self._waiting: dict[int, asyncio.Task[None]] = {}

    async def open_all(self) -> None:
        """A receiver of each kind."""
        for buffer, overflow in SETTINGS:
            rx = await self.pubsub.subscribe("t", buffer=buffer, overflow=overflow)  # type: ignore[arg-type]
            self.books.append((rx, Ledger(self.published, overflow == "error")))

    async def step(self, what: str, count: int) -> None:
        """Do one thing."""
        if what == "publish":
            for _ in range(count):
                await self.pubsub.publish("t", self.published)
                self.published += 1
        elif what == "read" and count < len(self.books) and count not in self._waiting:
            self._waiting[count] = asyncio.create_task(read(*self.books[count], None))
            await self.clock.sleep(0)
        elif what == "cancel" and count in self._waiting:
            # Not waited for: it may have been given a message in this very turn.
            self._waiting.pop(count).cancel()
        for who in [who for who, task in self._waiting.items() if task.done()]:
            await self._waiting.pop(who)

    async def end(self) -> list[str]:
        """Stop whoever waits, and drain; what is wrong, in words."""
        for task in self._waiting.values():
            task.cancel()
        for _ in range(5):
            await self.clock.sleep(0)
        faults: list[str] = []
        for receiver, ledger in self.books:
            with suppress(ReceiveTimeoutError):
                while True:
                    await read(receiver, ledger, 0)
            faults += ledger.close(self.published, receiver.dropped)
        return faults


async def play(steps: list[tuple[str, int]]) -> list[str]:
    """Publish, read, and cancel readers that wait; what is wrong in the end, in words."""
    game = Game()
    await game.open_all()
    for number, step in enumerate(steps):
        if number == len(steps) // 2:
            await game.open_all()  # who comes later gets what comes later
        await game.step(*step)
    return await game.end()


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_every_message_is_received_or_counted(steps: list[tuple[str, int]]) -> None:
    """Both policies, any order of publishing, reading, waiting and cancelling, early or late."""
    assert asyncio.run(play(steps)) == []


@pytest.mark.parametrize("overflow", ["drop_oldest", "error"])
def test_who_never_reads_keeps_a_buffer_and_counts_the_rest(overflow: Any) -> None:
    """Of 5,000 messages a buffer of 100 holds 100, and 4,900 are counted; others miss nothing."""

    async def main() -> None:
        pubsub = PubSub(LocalBus(), msgspec.msgpack.encode, msgspec.msgpack.decode, ManualClock())
        never = await pubsub.subscribe("t", buffer=100, overflow=overflow)
        reads = await pubsub.subscribe("t", buffer=1, overflow=overflow)
        for number in range(5_000):
            await pubsub.publish("t", number)
            assert await reads.recv() == number
        assert (never.dropped, reads.dropped) == (4_900, 0)
        ledger = Ledger(0, overflow == "error")
        with suppress(ReceiveTimeoutError):
            while True:
                await read(never, ledger, 0)
        assert ledger.received == 100
        assert ledger.close(5_000, never.dropped) == []

    asyncio.run(main())


@pytest.mark.parametrize(
    ("steps", "dropped", "word"),
    [
        (["got 0", "got 1"], 0, "published, 2 received"),  # the last is gone, and nobody counted it
        (["got 0", "got 2"], 0, "1 are missing, 0 were counted"),
        (["got 0", "got 1", "got 2"], 1, "0 are missing, 1 were counted"),
        (["got 1", "got 0", "got 2"], 0, "0 came when 2 was next"),
        (["got 0", "told", "got 1", "got 2"], 0, "0 are missing before 1"),
        (["got 0", "told", "told", "got 2"], 1, "for nothing"),
    ],
)
def test_the_ledger_finds_what_is_wrong(steps: list[str], dropped: int, word: str) -> None:
    """A message that is lost, repeated, out of order, or counted but there, is a fault."""
    ledger = Ledger(0, has_errors=True)
    for step in steps:
        if step == "told":
            ledger.told()
        else:
            ledger.got(int(step.split()[1]))
    assert word in "; ".join(ledger.close(3, dropped))
