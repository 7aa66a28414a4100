"""What subscribers hold: receivers with a bounded buffer, and the messages they give out.

See `pubsub` for what is promised.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from nt_memory.coordination.waiting import wait_done
from nt_memory.errors import (
    BufferOverflowError,
    InvalidInputError,
    NtMemoryError,
    ReceiverClosedError,
    ReceiveTimeoutError,
    again,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from nt_memory.clock import Clock

Overflow = Literal["drop_oldest", "error"]


class Message(NamedTuple):
    """A message and the topic it came under; `reply_to` is empty unless a reply is wanted."""

    topic: str
    value: Any
    reply_to: str = ""


class Parcel:
    """One message as all receivers in this process share it: decoded once, when first read."""

    __slots__ = ("__weakref__", "_decode", "_is_decoded", "_value", "payload", "reply_to", "topic")

    def __init__(
        self, topic: str, payload: bytes, reply_to: str, decode: Callable[[bytes], Any]
    ) -> None:
        self.topic: str = topic
        self.payload: bytes = payload
        self.reply_to: str = reply_to
        self._decode = decode
        self._is_decoded = False
        self._value: Any = None

    @property
    def value(self) -> Any:
        """The message; raises CodecError if it cannot be decoded."""
        if not self._is_decoded:
            self._value = self._decode(self.payload)
            self._is_decoded = True
        return self._value


class Receiver:
    """One subscription. Read it with `recv`, `recv_message` or `async for`; then `close` it.

    With `async with` it closes itself: `async with await memory.subscribe("news/*") as rx:`.

    Several tasks may read one receiver: each message goes to one of them, first come first served.

    Attributes:
        pattern: What it is subscribed to.
        dropped: Messages lost because the buffer was full.
    """

    def __init__(self, pattern: str, buffer: int, overflow: Overflow, clock: Clock) -> None:
        self.pattern = pattern
        self.dropped: int = 0
        self._buffer = buffer
        self._overflow = overflow
        self._clock = clock
        self._parcels: deque[Parcel] = deque()
        self._gap = 0
        self._readers: deque[asyncio.Future[None]] = deque()
        self._closed: NtMemoryError | None = None
        self._was_closed_by_owner = False
        self._unsubscribe: Callable[[Receiver], None] | None = None

    async def recv(self, timeout: float | None = None) -> Any:
        """The next message's value, read-only.

        Args:
            timeout: Seconds to wait at most; None: without end.

        Raises:
            ReceiveTimeoutError: nothing came in time; nothing is lost.
            ReceiverClosedError: it was closed, or the memory was; what was buffered is gone.
            BufferOverflowError: `overflow="error"`, and messages were lost right here: after the
                buffered ones are read, this is raised once, then reception goes on.
            CodecError: the message cannot be decoded; it is skipped.
        """
        return (await self._next(timeout)).value

    async def recv_message(self, timeout: float | None = None) -> Message:
        """Like `recv`, with the topic the message came under, and what `reply` needs."""
        parcel = await self._next(timeout)
        return Message(parcel.topic, parcel.value, parcel.reply_to)

    async def close(self) -> None:
        """Unsubscribe and forget what is buffered; whoever waits gets `ReceiverClosedError`.

        Idempotent.
        """
        self._was_closed_by_owner = True
        self.end(ReceiverClosedError(f"the subscription to {self.pattern!r} was closed"))

    async def __aenter__(self) -> Self:
        """The receiver, which is subscribed already."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it; what went wrong inside goes on."""
        await self.close()

    def __aiter__(self) -> Receiver:
        """Values as they come; ends when this receiver is closed, raises when the memory is."""
        return self

    async def __anext__(self) -> Any:
        """The next value; raises like `recv`."""
        try:
            return await self.recv()
        except ReceiverClosedError:
            if self._was_closed_by_owner:
                raise StopAsyncIteration from None
            raise

    def end(self, error: NtMemoryError) -> None:
        """Close it for a reason; for `PubSub`, which knows when the memory closes."""
        if self._closed is not None:
            return
        self._closed = error
        self._parcels.clear()
        if self._unsubscribe is not None:
            self._unsubscribe(self)
        for reader in self._readers:
            if not reader.done():
                reader.set_result(None)

    def accept(self, parcel: Parcel) -> None:
        """A message came; for `PubSub`."""
        if self._closed is not None:
            return
        if self._gap or len(self._parcels) >= self._buffer:
            self.dropped += 1
            if self._overflow == "error":
                # Nothing is taken until the reader has been told, so that the gap stays in place.
                self._gap += 1
                return
            self._parcels.popleft()
        self._parcels.append(parcel)
        self._wake_reader()

    def attach(self, unsubscribe: Callable[[Receiver], None]) -> None:
        """Say how to stop the subscription; for `PubSub`."""
        self._unsubscribe = unsubscribe

    def _wake_reader(self) -> None:
        for reader in self._readers:
            if not reader.done():
                reader.set_result(None)
                return

    async def _next(self, timeout: float | None) -> Parcel:
        # Who came first reads first, so a newcomer does not overtake readers already waiting.
        if not self._readers:
            parcel = self._take()
            if parcel is not None:
                return parcel
        ends_ns = deadline_ns(self._clock, timeout)
        while True:
            reader: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._readers.append(reader)
            try:
                is_woken = await self._wait(reader, ends_ns)
            except BaseException:
                self._leave(reader)
                raise
            self._readers.remove(reader)
            parcel = self._take()
            if parcel is not None:
                if self._parcels:
                    self._wake_for_rest()
                return parcel
            if not is_woken:
                raise ReceiveTimeoutError(f"no message for {self.pattern!r} within {timeout} s")

    async def _wait(self, reader: asyncio.Future[None], ends_ns: int | None) -> bool:
        if ends_ns is None:
            # Without the detour by `asyncio.wait`, which costs more than all the rest. A cancellation
            # of the caller cancels `reader` then, unless it was woken before.
            await reader
            return True
        return await wait_done(reader, self._clock, left_s(self._clock, ends_ns))

    def _leave(self, reader: asyncio.Future[None]) -> None:
        """A cancelled reader goes; the message it may have been woken for goes to the next."""
        self._readers.remove(reader)
        self._wake_for_rest()

    def _wake_for_rest(self) -> None:
        # Nobody is woken for nothing: who finds nothing would go to the end of the line.
        woken = sum(reader.done() and not reader.cancelled() for reader in self._readers)
        if len(self._parcels) > woken:
            self._wake_reader()

    def _take(self) -> Parcel | None:
        if self._closed is not None:
            raise again(self._closed)
        if self._parcels:
            return self._parcels.popleft()
        if self._gap:
            lost, self._gap = self._gap, 0
            raise BufferOverflowError(
                f"{lost} messages for {self.pattern!r} did not fit into a buffer of {self._buffer}"
            )
        return None


def deadline_ns(clock: Clock, timeout: float | None) -> int | None:
    """When a timeout from now ends, on the monotonic clock; None: never.

    Raises:
        InvalidInputError: it is no number of seconds >= 0.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInputError(f"timeout must be seconds >= 0 or None, not {timeout!r}")
    if timeout == float("inf"):
        return None
    return clock.monotonic_ns() + round(timeout * 1e9)


def left_s(clock: Clock, deadline_ns: int | None) -> float | None:
    """Seconds until then; None: never ends."""
    return None if deadline_ns is None else (deadline_ns - clock.monotonic_ns()) / 1e9
