"""The two ports: `Journal` orders and keeps entries, `Bus` carries ephemeral messages.

A journal knows nothing of what an entry means: it takes bytes, gives them a place in a total order
and a time, makes them durable, and hands them back in that order, in batches, on a thread of its
own. What was submitted here comes back with the ticket it was submitted under.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


class Frame(NamedTuple):
    """One entry at its place in the order.

    Attributes:
        sequence: Place in the journal, from 1, without gaps.
        recorded_at: Entry time, microseconds since the epoch; never decreases with `sequence`.
        payload: The encoded entry.
        position: Where `Journal.read` finds it again; opaque to callers, never reused.
        ticket: What it was submitted under, or None if it came from elsewhere or from a replay.
    """

    sequence: int
    recorded_at: int
    payload: bytes
    position: int
    ticket: Any = None


Deliver = "Callable[[Sequence[Frame]], None]"
"""Takes durable frames in order, on the journal's thread. If it raises, the journal stops."""

Fail = "Callable[[Sequence[Any], BaseException], None]"
"""Takes tickets whose entries were not written, and why; on the journal's thread."""


class Journal(Protocol):
    """An ordered, durable log of entries."""

    @property
    def last_sequence(self) -> int:
        """Greatest sequence written, 0 if none."""
        ...

    @property
    def oldest_sequence(self) -> int:
        """Smallest sequence still kept; `last_sequence + 1` if none."""
        ...

    @property
    def pending_bytes(self) -> int:
        """Bytes submitted and not yet durable."""
        ...

    @property
    def size_bytes(self) -> int:
        """Bytes the journal occupies on disk, without what it has reserved ahead."""
        ...

    def replay(self, after: int) -> Iterator[Frame]:
        """Frames with sequence > `after`, in order, verified. Callable before `start`.

        Raises:
            CorruptionError: a frame fails its checksum; named by its sequence and file.
            TrimmedError: `after + 1` lies before `oldest_sequence`.
        """
        ...

    def read(self, position: int) -> Frame:
        """The frame at a position once handed out. Thread-safe.

        Raises:
            CorruptionError: it fails its checksum.
            TrimmedError: it is no longer kept.
        """
        ...

    def start(
        self,
        deliver: Callable[[Sequence[Frame]], None],
        fail: Callable[[Sequence[Any], BaseException], None],
        prepare: Callable[[Sequence[Frame]], None] | None = None,
    ) -> None:
        """Begin to order submissions and deliver them, from its own thread.

        A journal may call `prepare` with frames that have their place and are not durable yet, while
        it waits for the disk; then either `deliver` follows with the same frames, or `fail` with
        their tickets. If it raises, the journal stops.
        """
        ...

    def submit(self, payload: bytes, ticket: object) -> bool:
        """Queue an entry; never blocks. Thread-safe.

        Returns:
            False if the queue is past its byte bound: nothing was queued, wait for `on_space`.

        Raises:
            StorageError: the journal has failed.
            ClosedError: it was closed.
        """
        ...

    def on_space(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, from any thread, as soon as the queue has room or is closed."""
        ...

    def withdraw(self, ticket: object) -> bool:
        """Take back a submission that no batch holds yet. False if it is too late."""
        ...

    def flush(self) -> None:
        """Block until everything submitted before this call is durable and delivered.

        Raises:
            StorageError: the journal has failed.
        """
        ...

    def close(self) -> None:
        """Write out what is queued, deliver it, stop the thread. Idempotent."""
        ...


class Bus(Protocol):
    """Ephemeral messages by topic: ordered per publisher, kept nowhere.

    Topics that start with `$` reach only patterns that start with the same level, without wildcard.
    """

    def publish(self, topic: str, payload: bytes, reply_to: str = "") -> int:
        """Hand a message to every subscriber whose pattern matches; the number reached here.

        Args:
            topic: Under which.
            payload: Not empty.
            reply_to: A topic for answers, handed along. If nobody at all, here or elsewhere, is
                subscribed to `topic`, an empty payload is published there instead.
        """
        ...

    def has_readers(self, topic: str) -> bool:
        """False if nobody, here or elsewhere, is subscribed to `topic` now; True if somebody may be.

        For those who would rather not make a payload for nobody.
        """
        ...

    def subscribe(self, pattern: str, receive: Callable[[str, bytes, str], None]) -> object:
        """Call `receive(topic, payload, reply_to)`, on the loop, for each match; a handle."""
        ...

    def unsubscribe(self, handle: object) -> None:
        """Stop a subscription. Idempotent."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether it reaches beyond this process, so that `settle` has something to wait for."""
        ...

    async def settle(self, topic: str, handle: object = None) -> None:
        """Wait until a message that was just published, or a subscription that was just made, is known
        to be let through.

        Args:
            topic: Of the message, or the pattern.
            handle: Of the subscription; None: it is a message.

        Raises:
            PermissionDeniedError: it is not.
            DisconnectedError: nobody can say.
        """  # noqa: D205
        ...
