"""This memory, through its public calls alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.apps.bench.coordinators.coordinator import (
    BUFFER,
    LEASE_S,
    LOCK,
    PATIENCE_S,
    TOPIC,
    About,
)
from nt_memory.apps.bench.coordinators.readers import Readers, read_on

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from nt_memory.apps.bench.coordinators.coordinator import Message, Receive, Took
    from nt_memory.coordination.receivers import Receiver


class Memory:
    """A store on disk. Locks and votes are entries: on disk before anybody is told; messages are not."""

    about: ClassVar[About] = About(
        "nt-memory",
        f"`subscribe`, a buffer of {BUFFER:,} a receiver; each a read-only copy",
        f"`async with memory.lock(lease={LEASE_S:g})`; acquire and release are each an entry, on disk "
        "(fdatasync) when it returns",
        "messages are kept nowhere; one process",
    )
    durability: ClassVar[Literal["commit", "relaxed"]] = "commit"

    def __init__(self, directory: Path) -> None:
        self._config = MemoryConfig(storage_path=directory / "store", durability=self.durability)
        self._readers = Readers()
        self._receivers: list[Receiver] = []

    @property
    def memory(self) -> MemorySystem:
        """The open memory."""
        return self._memory

    async def open(self) -> None:
        """Open a store that is new."""
        self._memory = await MemorySystem.open(self._config)

    async def close(self) -> None:
        """Close it."""
        await self._memory.close()

    async def subscribe(self, receivers: int, took: Took) -> None:
        """A receiver and a task each."""
        for _ in range(receivers):
            one = await self._memory.subscribe(TOPIC, buffer=BUFFER)
            self._receivers.append(one)
            self._readers.start(read_on(one.recv, took))

    async def publish(self, messages: list[Message]) -> None:
        """Each by a call."""
        for message in messages:
            await self._memory.publish(TOPIC, message)

    async def unsubscribe(self) -> None:
        """End all receivers."""
        await self._readers.stop()
        for one in self._receivers:
            await one.close()
        self._receivers.clear()

    def lock(self) -> AbstractAsyncContextManager[object]:
        """A scope each time, which would renew the lease by itself."""
        return self._memory.lock(LOCK, timeout=PATIENCE_S, lease=LEASE_S)

    def open_threads(self) -> None:
        """Open a store whose calls come from any thread."""
        self._opened = MemorySystem.open_sync(self._config)

    def receiver(self) -> Receive:
        """A receiver, read by a thread."""
        return self._opened.subscribe(TOPIC, buffer=BUFFER).recv

    def send(self, message: Message) -> None:
        """Publish it."""
        self._opened.publish(TOPIC, message)

    def close_threads(self) -> None:
        """Close it."""
        self._opened.close()


class RelaxedMemory(Memory):
    """The same, with entries visible at once and on disk at most 50 ms later."""

    about: ClassVar[About] = About(
        "nt-memory",
        "",
        '`async with memory.lock()`, `durability="relaxed"`: visible at once, on disk within 50 ms',
        "a power loss takes the last 50 ms with it",
    )
    durability: ClassVar[Literal["commit", "relaxed"]] = "relaxed"
