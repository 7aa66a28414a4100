"""Peers within one process: what a program without a memory would use. Nothing there is kept.

All of them hand over the object itself, where this memory hands over a read-only copy.
"""

from __future__ import annotations

import asyncio
import queue
from typing import TYPE_CHECKING, Any, ClassVar

from nt_memory.apps.bench.coordinators.coordinator import BUFFER, About, module
from nt_memory.apps.bench.coordinators.readers import Readers, read_on

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from nt_memory.apps.bench.coordinators.coordinator import Message, Receive, Took


class Asyncio:
    """A queue a receiver and a lock, of Python's own."""

    about: ClassVar[About] = About(
        "",
        "a `Queue` of 1,024 a receiver, filled one after the other",
        "`asyncio.Lock`",
        "no topics, and one loop only; its lock has no lease, timeout or fence, and ends with the "
        "process",
    )

    def __init__(self, directory: Path) -> None:
        del directory  # nothing is kept
        self._readers = Readers()
        self._queues: list[asyncio.Queue[Message]] = []
        self._lock = asyncio.Lock()

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def subscribe(self, receivers: int, took: Took) -> None:
        """A queue and a task each."""
        for _ in range(receivers):
            one: asyncio.Queue[Message] = asyncio.Queue(BUFFER)
            self._queues.append(one)
            self._readers.start(read_on(one.get, took))

    async def publish(self, messages: list[Message]) -> None:
        """Put each into each queue."""
        for message in messages:
            for one in self._queues:
                one.put_nowait(message)

    async def unsubscribe(self) -> None:
        """End all receivers."""
        await self._readers.stop()
        self._queues.clear()

    def lock(self) -> AbstractAsyncContextManager[object]:
        """The lock."""
        return self._lock


class Anyio:
    """A memory object stream a receiver: a stream with several receivers gives each message to one."""

    about: ClassVar[About] = About(
        "anyio",
        "a memory object stream of 1,024 a receiver, filled one after the other",
        "`anyio.Lock`",
        "no topics, and one loop only; its lock has no lease or fence, and ends with the process",
    )

    def __init__(self, directory: Path) -> None:
        del directory
        self._readers = Readers()
        self._ends: list[tuple[Any, Any]] = []

    async def open(self) -> None:
        """Import it."""
        self._anyio = module("anyio")
        self._lock = self._anyio.Lock()

    async def close(self) -> None:
        """Nothing to do."""

    async def subscribe(self, receivers: int, took: Took) -> None:
        """A stream and a task each."""
        for _ in range(receivers):
            send, receive = self._anyio.create_memory_object_stream(BUFFER)
            self._ends.append((send, receive))
            self._readers.start(read_on(receive.receive, took))

    async def publish(self, messages: list[Message]) -> None:
        """Send each to each stream."""
        for message in messages:
            for send, _ in self._ends:
                send.send_nowait(message)

    async def unsubscribe(self) -> None:
        """End all receivers."""
        await self._readers.stop()
        for send, receive in self._ends:
            send.close()
            receive.close()
        self._ends.clear()

    def lock(self) -> AbstractAsyncContextManager[object]:
        """The lock."""
        return self._lock  # type: ignore[no-any-return]


class Aiologic:
    """A queue a receiver, and a lock, both for tasks and threads alike."""

    about: ClassVar[About] = About(
        "aiologic",
        "a `SimpleQueue` a receiver, filled one after the other",
        "`aiologic.Lock`",
        "no topics; its queue has no bound, its lock no lease or fence, and ends with the process",
    )

    def __init__(self, directory: Path) -> None:
        del directory
        self._readers = Readers()
        self._queues: list[Any] = []

    async def open(self) -> None:
        """Import it."""
        self.open_threads()
        self._lock = self._aiologic.Lock()

    async def close(self) -> None:
        """Nothing to do."""

    async def subscribe(self, receivers: int, took: Took) -> None:
        """A queue and a task each."""
        for _ in range(receivers):
            one = self._aiologic.SimpleQueue()
            self._queues.append(one)
            self._readers.start(read_on(one.async_get, took))

    async def publish(self, messages: list[Message]) -> None:
        """Put each into each queue."""
        for message in messages:
            self.send(message)

    async def unsubscribe(self) -> None:
        """End all receivers."""
        await self._readers.stop()
        self._queues.clear()

    def lock(self) -> AbstractAsyncContextManager[object]:
        """The lock."""
        return self._lock  # type: ignore[no-any-return]

    def open_threads(self) -> None:
        """Import it."""
        self._aiologic = module("aiologic")

    def receiver(self) -> Receive:
        """A queue, read by a thread."""
        one = self._aiologic.SimpleQueue()
        self._queues.append(one)
        return one.green_get  # type: ignore[no-any-return]

    def send(self, message: Message) -> None:
        """Put it into each queue; never waits."""
        for one in self._queues:
            one.put(message)

    def close_threads(self) -> None:
        """Nothing to do."""


class Blinker:
    """A signal: its receivers are functions, called before `send` returns."""

    about: ClassVar[About] = About(
        "blinker",
        "a signal; receivers are functions, called before `send` returns",
        "",
        "no tasks, threads, buffers or topic wildcards: a receiver that is slow stops the publisher",
    )

    def __init__(self, directory: Path) -> None:
        del directory
        self._receivers: list[Any] = []

    async def open(self) -> None:
        """Import it."""
        self._signal = module("blinker").Signal()

    async def close(self) -> None:
        """Nothing to do."""

    async def subscribe(self, receivers: int, took: Took) -> None:
        """A function each."""

        def receiver() -> Any:
            def receive(_: object, *, message: Message) -> None:
                took(message)

            return receive

        for _ in range(receivers):
            self._receivers.append(self._signal.connect(receiver()))

    async def publish(self, messages: list[Message]) -> None:
        """Call each receiver with each."""
        for message in messages:
            self._signal.send(self, message=message)

    async def unsubscribe(self) -> None:
        """Forget the receivers; signals hold them weakly."""
        for receiver in self._receivers:
            self._signal.disconnect(receiver)
        self._receivers.clear()


class Queues:
    """Python's own queue for threads."""

    about: ClassVar[About] = About(
        "",
        "a `queue.SimpleQueue` a receiver, filled one after the other",
        "",
        "no topics, no bound, no tasks",
    )

    def __init__(self, directory: Path) -> None:
        del directory
        self._queues: list[queue.SimpleQueue[Message]] = []

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    def open_threads(self) -> None:
        """Nothing to do."""

    def receiver(self) -> Receive:
        """A queue, read by a thread."""
        one: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._queues.append(one)
        return one.get

    def send(self, message: Message) -> None:
        """Put it into each queue."""
        for one in self._queues:
            one.put(message)

    def close_threads(self) -> None:
        """Nothing to do."""
