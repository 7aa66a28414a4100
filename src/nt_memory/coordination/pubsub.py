"""Messages between agents: ephemeral, ordered per publisher, with a bounded buffer a subscriber.

*Guarantees*

- A receiver gets the messages of one publisher in the order they were published, from the return
  of `subscribe` on, each once; what its buffer could not hold is counted in `dropped`.
- A subscriber that does not read costs the publisher a buffer append, and nobody anything else. A
  topic that nobody is subscribed to costs its check and a lookup: the message is not looked at.
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
from typing import TYPE_CHECKING, Any, Protocol

from nt_memory.coordination.receivers import Parcel, Receiver, deadline_ns, left_s
from nt_memory.coordination.waiting import wait_done
from nt_memory.errors import (
    InvalidInputError,
    NoResponderError,
    NtMemoryError,
    ReceiverClosedError,
    RequestTimeoutError,
    again,
)
from nt_memory.topics import check_not_own, check_pattern

if TYPE_CHECKING:
    from collections.abc import Callable

    from nt_memory.clock import Clock
    from nt_memory.coordination.receivers import Message, Overflow

INBOXES = "$reply/"


class Bus(Protocol):
    """What is needed of a bus; `transport.ports.Bus` describes it."""

    def publish(self, topic: str, payload: bytes, reply_to: str = "") -> int:
        """Hand a message to every subscriber whose pattern matches; the number reached here."""
        ...

    def has_readers(self, topic: str) -> bool:
        """False if nobody at all is subscribed to a topic now."""
        ...

    def subscribe(self, pattern: str, receive: Callable[[str, bytes, str], None]) -> object:
        """Call `receive(topic, payload, reply_to)`, on the loop, for each match; a handle."""
        ...

    def unsubscribe(self, handle: object) -> None:
        """Stop a subscription. Idempotent."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether `settle` has something to wait for."""
        ...

    async def settle(self, topic: str, handle: object = None) -> None:
        """Wait until a message, or a subscription, is known to be let through."""
        ...


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
        self._latest: weakref.ref[Parcel] | None = None
        self._inbox = ""
        self._inbox_handle: object = None
        self._requests: dict[str, asyncio.Future[bytes | None]] = {}
        self._closed: NtMemoryError | None = None
        self.published: int = 0

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
            InvalidNameError: a malformed topic, whether anybody is subscribed or not.
            CodecError: the message cannot be encoded, and somebody is subscribed. To nobody it is not
                encoded, and so not judged: judging takes what encoding takes.
            PermissionDeniedError, DisconnectedError: a cluster's servers refuse it, or are out of reach.
                Who is subscribed in this process gets it all the same.

        Cost: one encoding, and an append a subscriber; decoded once, by who reads it first. Without
            subscribers a dict lookup.
        """
        self._check_open()
        # Nobody can subscribe in between: nothing here waits.
        is_read = self._bus.has_readers(check_not_own(topic))
        reached = self._bus.publish(topic, self._encode(message)) if is_read else 0
        self.published += 1
        if self._bus.is_remote:
            await self._bus.settle(topic)
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
        ends_ns = deadline_ns(self._clock, timeout)
        if not self._inbox:
            self._inbox = f"{INBOXES}{secrets.token_hex(16)}"
            self._inbox_handle = self._bus.subscribe(f"{self._inbox}/*", self._take_reply)
            if self._bus.is_remote:
                await self._bus.settle(self._inbox, self._inbox_handle)
        reply_to = f"{self._inbox}/{secrets.token_hex(16)}"
        waiter: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._requests[reply_to] = waiter
        try:
            self._bus.publish(topic, payload, reply_to)
            self.published += 1
            is_done = await wait_done(waiter, self._clock, left_s(self._clock, ends_ns))
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
            PermissionDeniedError, DisconnectedError: a cluster's servers refuse it, or are out of reach.
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

        handle = self._handles[receiver] = self._bus.subscribe(pattern, receive)
        receiver.attach(self._forget)
        if self._bus.is_remote:
            try:
                await self._bus.settle(pattern, handle)
            except BaseException:
                await receiver.close()
                raise
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

    def _parcel(self, topic: str, payload: bytes, reply_to: str) -> Parcel:
        # The bus hands the same bytes object to every receiver in turn. Weakly held, so that a
        # message lives no longer than somebody's buffer holds it.
        latest = self._latest() if self._latest is not None else None
        if (
            latest is not None
            and latest.payload is payload
            and (latest.topic, latest.reply_to) == (topic, reply_to)
        ):
            return latest
        parcel = Parcel(topic, payload, reply_to, self._decode)
        self._latest = weakref.ref(parcel)
        return parcel
