"""What everybody who is measured does: hand messages to receivers, or locks to contenders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from nt_memory.apps.bench import loading

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    Message = dict[str, Any]
    Took = Callable[[Message], None]
    Receive = Callable[[], Message]

EXTRA = "bench-coordination"
TOPIC = "market/AAPL"
LOCK = "book"
PATIENCE_S = 120.0
"""How long anybody waits for a lock, where one has to say."""
LEASE_S = 30.0
BUFFER = 1024


@dataclass(frozen=True)
class About:
    """What is known of one before it runs.

    Attributes:
        package: The distribution whose version counts; empty for Python's own.
        messages: How its messages are used, in words; empty if it has none.
        locks: How its lock is used, in words; empty if it has none.
        lacks: What it does not do of what this memory does.
    """

    package: str
    messages: str
    locks: str
    lacks: str


class Coordinator(Protocol):
    """One way to coordinate, alone in its process with all who use it."""

    about: ClassVar[About]

    def __init__(self, directory: Path) -> None: ...

    async def open(self) -> None:
        """Import, connect, make: whatever comes before the clock starts.

        Raises:
            MissingError: a package or a server is not installed.
        """
        ...

    async def close(self) -> None:
        """Let go of what `open` took."""
        ...


@runtime_checkable
class Served(Protocol):
    """A coordinator with a server.

    Attributes:
        server: Which, with its version.
    """

    server: str


@runtime_checkable
class Messenger(Protocol):
    """A coordinator with messages: what is published reaches every receiver."""

    async def subscribe(self, receivers: int, took: Took) -> None:
        """Make receivers, which call `took` with each message, each in its task where it has one."""
        ...

    async def publish(self, messages: list[Message]) -> None:
        """Send messages in order to all receivers; at once where there is a way to send several."""
        ...

    async def unsubscribe(self) -> None:
        """End all receivers."""
        ...


@runtime_checkable
class Locker(Protocol):
    """A coordinator with a lock, one and the same for all."""

    def lock(self) -> AbstractAsyncContextManager[object]:
        """What `async with` takes the lock with, once."""
        ...


@runtime_checkable
class Threaded(Protocol):
    """A coordinator whose messages reach receivers in other threads; used without a loop."""

    def open_threads(self) -> None:
        """As `open`, and no loop."""
        ...

    def receiver(self) -> Receive:
        """A receiver, used by one thread: a function that waits for the next message."""
        ...

    def send(self, message: Message) -> None:
        """Send a message to all receivers there are."""
        ...

    def close_threads(self) -> None:
        """As `close`."""
        ...


def module(name: str) -> Any:
    """A module of a peer; MissingError says what brings it."""
    return loading.module(name, EXTRA)
