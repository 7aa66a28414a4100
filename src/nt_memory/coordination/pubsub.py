"""Messages between agents: ephemeral, ordered per publisher, with a bounded buffer a subscriber.

*Guarantees*

- A receiver gets the messages of one publisher in the order they were published, from the return
  of `subscribe` on, each once; what its buffer could not hold is counted in `dropped`.
- A subscriber that does not read costs the publisher a buffer append, and nobody anything else.
- Cancelling or timing out a `recv` loses no message.
- A request gets the first reply to it and no other. Replies come under a topic that is drawn at
  random for each request, and that nobody can subscribe to; a request that nobody is subscribed to
  says so at once, and one that ends, however it does, leaves nothing behind.

*Does not guarantee* delivery: messages are kept nowhere, and who subscribes later does not see
earlier ones. What must not be lost belongs into the state, and `watch` reports it. A request that
timed out may have been acted on, and one that reached only listeners who never reply times out.

Source: the inbox per client and a token per request are those of NATS, and so is "no responders".
"""

from __future__ import annotations

import asyncio
import secrets
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from nt_memory.coordination.waiting import wait_done
from nt_memory.errors import (
    BufferOverflowError,
    InvalidInputError,
    NoResponderError,
    NtMemoryError,
    ReceiverClosedError,
    ReceiveTimeoutError,
    RequestTimeoutError,
    again,
)
from nt_memory.topics import check_not_own, check_pattern

if TYPE_CHECKING:
    from collections.abc import Callable

    from nt_memory.clock import Clock

Overflow = Literal["drop_oldest", "error"]
INBOXES = "$reply/"


class Bus(Protocol):
    """What is needed of a bus; `transport.ports.Bus` describes it."""

    def publish(self, topic: str, payload: bytes, reply_to: str = "") -> int:
        """Hand a message to every subscriber whose pattern matches; the number reached here."""
        ...

    def subscribe(self, pattern: str, receive: Callable[[str, bytes, str], None]) -> object:
        """Call `receive(topic, payload, reply_to)`, on the loop, for each match; a handle."""
        ...

    def unsubscribe(self, handle: object) -> None:
        """Stop a subscription. Idempotent."""
        ...


class Message(NamedTuple):
    """A message and the topic it came under; `reply_to` is empty unless a reply is wanted."""

    topic: str
    value: Any
    reply_to: str = ""


class _Parcel:
    """One message as all receivers in this process share it: decoded once, when first read."""

    __slots__ = ("__weakref__", "_decode", "_is_decoded", "_value", "payload", "reply_to", "topic")

    def __init__(
        self, topic: str, payload: bytes, reply_to: str, decode: Callable[[bytes], Any]
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.reply_to = reply_to
        self._decode = decode
        self._is_decoded = False
        self._value: Any = None

    @property
    def value(self) -> Any:
        if not self._is_decoded:
            self._value = self._decode(self.payload)
            self._is_decoded = True
        return self._value


class Receiver:
    """One subscription. Read it with `recv`, `recv_message` or `async for`; then `close` it.

    Several tasks may read one receiver: each message goes to one of them, first come first served.

    Attributes:
        pattern: What it is subscribed to.
        dropped: Messages lost because the buffer was full.
    """

    def __init__(self, pattern: str, buffer: int, overflow: Overflow, clock: Clock) -> None:
        self.pattern = pattern
        self.dropped = 0
        self._buffer = buffer
        self._overflow = overflow
        self._clock = clock
        self._parcels: deque[_Parcel] = deque()
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

    def accept(self, parcel: _Parcel) -> None:
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

    async def _next(self, timeout: float | None) -> _Parcel:
        # Who came first reads first, so a newcomer does not overtake readers already waiting.
        if not self._readers:
            parcel = self._take()
            if parcel is not None:
                return parcel
        deadline_ns = _deadline_ns(self._clock, timeout)
        while True:
            reader: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._readers.append(reader)
            try:
                left_s = _left_s(self._clock, deadline_ns)
                is_woken = await wait_done(reader, self._clock, left_s)
            except BaseException:
                self._leave(reader)
                raise
            self._readers.remove(reader)
            parcel = self._take()
            if parcel is not None:
                if self._parcels:
                    self._wake_reader()
                return parcel
            if not is_woken:
                raise ReceiveTimeoutError(f"no message for {self.pattern!r} within {timeout} s")

    def _leave(self, reader: asyncio.Future[None]) -> None:
        """A cancelled reader goes; the wake-up it may have been given goes to the next."""
        self._readers.remove(reader)
        if reader.done() and self._parcels:
            self._wake_reader()

    def _take(self) -> _Parcel | None:
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


class PubSub:
    """The message calls of one memory.

    Args:
        bus: Carries payloads.
        encode: Value to bytes.
        decode: Bytes to a read-only value.
        clock: For timeouts.
    """

    def __init__(
        self,
        bus: Bus,
        encode: Callable[[Any], bytes],
        decode: Callable[[bytes], Any],
        clock: Clock,
    ) -> None:
        self._bus = bus
        self._encode = encode
        self._decode = decode
        self._clock = clock
        self._handles: dict[Receiver, object] = {}
        self._latest: weakref.ref[_Parcel] | None = None
        self._inbox = ""
        self._inbox_handle: object = None
        self._requests: dict[str, asyncio.Future[bytes | None]] = {}
        self._closed: NtMemoryError | None = None
        self.published = 0

    @property
    def subscribers(self) -> int:
        """Open subscriptions of this memory."""
        return len(self._handles)

    async def publish(self, topic: str, message: object) -> int:
        """Send a message to whoever is subscribed now. Does not wait for anybody.

        Args:
            topic: Levels separated by `/`, without wildcards.
            message: Any value that the memory can store; copied.

        Returns:
            Subscribers reached in this process.

        Raises:
            InvalidNameError: a malformed topic.
            CodecError: the message cannot be encoded.

        Cost: one encoding, and an append a subscriber; decoded once, by who reads it first.
        """
        self._check_open()
        reached = self._bus.publish(check_not_own(topic), self._encode(message))
        self.published += 1
        return reached

    async def request(self, topic: str, message: object, timeout: float | None = 1.0) -> Any:
        """Publish a message and wait for the first reply to it.

        Args:
            topic: As of `publish`.
            message: As of `publish`.
            timeout: Seconds to wait at most; None: without end.

        Returns:
            The reply's value, read-only.

        Raises:
            NoResponderError: nobody is subscribed to the topic; nothing was sent.
            RequestTimeoutError: nobody replied in time.
            InvalidNameError, InvalidInputError, CodecError: a malformed argument.

        Cost: two messages.
        """
        self._check_open()
        check_not_own(topic)
        payload = self._encode(message)
        deadline_ns = _deadline_ns(self._clock, timeout)
        if not self._inbox:
            self._inbox = f"{INBOXES}{secrets.token_hex(16)}"
            self._inbox_handle = self._bus.subscribe(f"{self._inbox}/*", self._take_reply)
        reply_to = f"{self._inbox}/{secrets.token_hex(16)}"
        waiter: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._requests[reply_to] = waiter
        try:
            self._bus.publish(topic, payload, reply_to)
            self.published += 1
            is_done = await wait_done(waiter, self._clock, _left_s(self._clock, deadline_ns))
        finally:
            del self._requests[reply_to]
        if not is_done:
            raise RequestTimeoutError(f"no reply to the request to {topic!r} within {timeout} s")
        reply = waiter.result()
        if reply is None:
            raise again(self._closed or ReceiverClosedError("the memory was closed"))
        if not reply:
            raise NoResponderError(f"nobody is subscribed to {topic!r}")
        return self._decode(reply)

    async def reply(self, message: Message, value: object) -> None:
        """Answer a request. The first reply counts; one that comes too late is dropped.

        Args:
            message: What `recv_message` returned.
            value: Any value that the memory can store; copied.

        Raises:
            InvalidInputError: the message is not a request.
            CodecError: the value cannot be encoded.
        """
        self._check_open()
        # A reply topic is the right to answer: it must not be a way to publish elsewhere.
        if not message.reply_to.startswith(INBOXES):
            raise InvalidInputError(f"the message under {message.topic!r} asks for no reply")
        self._bus.publish(message.reply_to, self._encode(value))
        self.published += 1

    async def subscribe(
        self, pattern: str, *, buffer: int = 1024, overflow: Overflow = "drop_oldest"
    ) -> Receiver:
        """Receive what is published from now on under matching topics.

        Args:
            pattern: A topic; a level `*` matches any one level, a last level `**` all the rest.
            buffer: Most messages kept for a reader that falls behind, >= 1.
            overflow: "drop_oldest" forgets the oldest buffered message; "error" keeps what is
                buffered, drops what comes, and raises `BufferOverflowError` where the gap is.

        Raises:
            InvalidNameError: a malformed pattern.
            InvalidInputError: a buffer below 1 or an unknown overflow policy.
        """
        self._check_open()
        check_not_own(check_pattern(pattern))
        if isinstance(buffer, bool) or not isinstance(buffer, int) or buffer < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(f"buffer must be a whole number >= 1, not {buffer!r}")
        if overflow not in {"drop_oldest", "error"}:
            raise InvalidInputError(f'overflow must be "drop_oldest" or "error", not {overflow!r}')
        receiver = Receiver(pattern, buffer, overflow, self._clock)

        def receive(topic: str, payload: bytes, reply_to: str) -> None:
            receiver.accept(self._parcel(topic, payload, reply_to))

        self._handles[receiver] = self._bus.subscribe(pattern, receive)
        receiver.attach(self._forget)
        return receiver

    def close(self, error: NtMemoryError) -> None:
        """Close every receiver and end every request, saying why; later calls raise `error`."""
        self._closed = error
        self._bus.unsubscribe(self._inbox_handle)
        for waiter in self._requests.values():
            if not waiter.done():
                waiter.set_result(None)
        for receiver in list(self._handles):
            receiver.end(ReceiverClosedError(f"the subscription was closed: {error}"))

    def _check_open(self) -> None:
        if self._closed is not None:
            raise again(self._closed)

    def _take_reply(self, topic: str, payload: bytes, _reply_to: str) -> None:
        waiter = self._requests.get(topic)
        if waiter is not None and not waiter.done():
            waiter.set_result(payload)

    def _forget(self, receiver: Receiver) -> None:
        self._bus.unsubscribe(self._handles.pop(receiver))

    def _parcel(self, topic: str, payload: bytes, reply_to: str) -> _Parcel:
        # The bus hands the same bytes object to every receiver in turn. Weakly held, so that a
        # message lives no longer than somebody's buffer holds it.
        latest = self._latest() if self._latest is not None else None
        if (
            latest is not None
            and latest.payload is payload
            and (latest.topic, latest.reply_to) == (topic, reply_to)
        ):
            return latest
        parcel = _Parcel(topic, payload, reply_to, self._decode)
        self._latest = weakref.ref(parcel)
        return parcel


def _deadline_ns(clock: Clock, timeout: float | None) -> int | None:
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInputError(f"timeout must be seconds >= 0 or None, not {timeout!r}")
    if timeout == float("inf"):
        return None
    return clock.monotonic_ns() + round(timeout * 1e9)


def _left_s(clock: Clock, deadline_ns: int | None) -> float | None:
    return None if deadline_ns is None else (deadline_ns - clock.monotonic_ns()) / 1e9
