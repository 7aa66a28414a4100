"""Following a stream: an ordered push consumer, made anew from what has arrived whenever it breaks.

A consumer of its own a run, without acknowledgements, in the server's memory. The server numbers what
it delivers, and says every second how far it is; so what got lost on the way is noticed, and taken
from the server again. It lies on any one of the stream's servers, and goes by that one's copy, which may
be behind for long while the server is well otherwise. So when nothing comes, who leads the stream is asked
whether there is more, and then the consumer is made anew, on any of them again. What is missing in the stream itself cannot be had again: following stops there
with an error, and nothing is ever skipped.

The server pauses until its flow-control message is answered. That is answered in its turn, when all
that came before it was taken; so whoever is slow is not flooded.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from nt_memory.clock import SystemClock
from nt_memory.errors import (
    CorruptionError,
    DisconnectedError,
    NtMemoryError,
    PermissionDeniedError,
    StorageError,
    TrimmedError,
)
from nt_memory.transport.nats.client import ApiError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from nt_memory.transport.nats.link import Link

HEARTBEAT_S: Final = 1.0
SILENCE_S: Final = 3.0
"""Without a word for so long, a consumer is given up."""
BEHIND_S: Final = 3.0
"""A consumer that has delivered nothing for so long may be where the stream's copy is not fed."""
RETRY_S: Final = 0.25
LOST_AFTER_S: Final = 10.0
"""A server that has just come to lead may not have applied all that it has, and one copy may lack what the
others have. Only once a stream has ended too early, or lacked something, for so long has it lost that."""
_KEPT_S: Final = 30.0
"""How long a server keeps a consumer whose subscriber is gone."""
_PENDING_BYTES: Final = 256 << 20


class Stored(NamedTuple):
    """A message of a stream.

    Attributes:
        sequence: Its place, from 1.
        stored_at: When the server took it, microseconds since the epoch.
        subject: What it was published under.
        data: Its content.
        pending: How many more the stream held when it was delivered.
    """

    sequence: int
    stored_at: int
    subject: str
    data: bytes
    pending: int


class Follower:
    """Delivers a stream's messages from a place on, in order, each once.

    Belongs to the link's loop; `start` and `stop` may be called from any other thread.

    Args:
        link: The connection.
        stream: Name of the stream.
        identity: What the stream's metadata says that it is; "" does not ask.
        first: Sequence of the first message wanted.
        take: Is awaited for every message.
        fail: Is called, once, when following has come to an end: with why.

    Attributes:
        heard_ns: When the server was last heard, monotonic.
        last: Greatest sequence that the stream is known to have.
    """

    def __init__(
        self,
        link: Link,
        stream: str,
        *,
        identity: str,
        first: int,
        take: Callable[[Stored], Awaitable[None]],
        fail: Callable[[NtMemoryError], None],
    ) -> None:
        self._link = link
        self._stream = stream
        self._identity = identity
        self._next = first
        self._take = take
        self._fail = fail
        self._clock = SystemClock()
        self._subscription: Subscription | None = None
        self._consumer = ""
        self._delivered = 0
        self._gap = 0
        self._gap_ns = 0  # since when a copy lacks what comes next; 0: none does
        self._is_taking = False
        self._short_ns = 0  # since when the stream ends too early; 0: it does not
        self._broken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.heard_ns: int = self._clock.monotonic_ns()
        self.last: int = first - 1
        link.on_connected.append(self._break)

    def start(self) -> None:
        """Begin."""
        self._link.post(self._start)

    def _start(self) -> None:
        self._task = asyncio.ensure_future(self._run())

    def stop(self) -> None:
        """Stop: nothing is delivered after this returns. Blocks."""
        with contextlib.suppress(NtMemoryError):
            self._link.call(self._stop(), RETRY_S * 8)

    async def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._leave()

    # --- one consumer after the other -----------------------------------------------------------

    async def _run(self) -> None:
        try:
            while True:
                self._broken.clear()
                try:
                    await self._join()
                except (DisconnectedError, RefusedError, ApiError) as error:
                    if isinstance(error, ApiError) and error.code == 404:
                        raise StorageError(f"stream {self._stream!r} is gone") from None
                    await self._clock.sleep(RETRY_S)
                    continue
                await self._watch()
                await self._leave()
        except asyncio.CancelledError:
            raise
        except NtMemoryError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for ever
            failure = StorageError(f"following stream {self._stream!r} failed: {error!r}")
            failure.__cause__ = error
            self._fail(failure)

    async def _join(self) -> None:
        """Make a consumer that begins with the next message."""
        await self._check_stream()
        link = self._link
        inbox = link.client.new_inbox()
        self._delivered = 0
        self._consumer = secrets.token_hex(12)
        self.heard_ns = self._clock.monotonic_ns()
        self._subscription = await link.client.subscribe(
            inbox,
            cb=functools.partial(self._on_message, self._consumer),
            pending_msgs_limit=0,
            pending_bytes_limit=_PENDING_BYTES,
        )
        config = {
            "name": self._consumer,
            "deliver_subject": inbox,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._next,
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "flow_control": True,
            "idle_heartbeat": int(HEARTBEAT_S * 1e9),
            "inactive_threshold": int(_KEPT_S * 1e9),
            "mem_storage": True,
            "num_replicas": 1,
        }
        try:
            await link.ask_api(
                f"CONSUMER.CREATE.{self._stream}.{self._consumer}",
                {"stream_name": self._stream, "config": config, "action": "create"},
            )
        except BaseException:
            await self._leave()
            raise

    async def _check_stream(self) -> None:
        """Refuse a stream that is another one, or has lost what was delivered here.

        Raises:
            StorageError: it is another stream.
            CorruptionError: it ends before what this node has applied.
            TrimmedError: it no longer has what comes next.
        """
        found = await self._link.ask_api(f"STREAM.INFO.{self._stream}", {})
        state = found["state"]
        identity = (found["config"].get("metadata") or {}).get(IDENTITY, "")
        if self._identity and identity != self._identity:
            raise StorageError(
                f"stream {self._stream!r} is not the one this node has followed so far: it was made "
                "anew; give this node another directory to begin anew, too"
            )
        self._check_end(int(state["last_seq"]))
        if state["first_seq"] > self._next:
            raise TrimmedError(
                f"stream {self._stream!r} was trimmed and begins with message {state['first_seq']}, but "
                f"this node needs {self._next}: reopen it, and it begins with a snapshot",
                oldest=state["first_seq"],
            )
        self._check_gap(int(found["config"]["num_replicas"]))
        self.last = max(self.last, state["last_seq"])

    def _check_end(self, last: int) -> None:
        """Refuse a stream that ends before what was delivered here, once it has done so for long.

        Raises:
            DisconnectedError: it does; whoever answers may not be so far yet.
            CorruptionError: it still does.
        """
        if last >= self._next - 1:
            self._short_ns = 0
            return
        now_ns = self._clock.monotonic_ns()
        self._short_ns = self._short_ns or now_ns
        if now_ns - self._short_ns < LOST_AFTER_S * 1e9:
            raise DisconnectedError(f"stream {self._stream!r} ends with message {last} so far")
        raise CorruptionError(
            f"stream {self._stream!r} ends with message {last}, but this node has followed it up to "
            f"{self._next - 1}: the servers have lost what they acknowledged"
        )

    def _check_gap(self, copies: int) -> None:
        """Refuse a stream that lacks what comes next, once each of its copies has had the time to deliver it.

        A server whose disk failed takes from the others what they still have in their logs, and goes on
        without what was before; the others have it, and the next consumer may be at one of them.

        Raises:
            DisconnectedError: it lacks it; another copy may not.
            CorruptionError: it still does, or is the only one.
        """
        gap, self._gap = self._gap, 0
        if not gap:
            return
        found = f"stream {self._stream!r} has message {gap} where {self._next} must be"
        now_ns = self._clock.monotonic_ns()
        self._gap_ns = self._gap_ns or now_ns
        if copies > 1 and now_ns - self._gap_ns < LOST_AFTER_S * 1e9:
            raise DisconnectedError(f"a copy of {found}")
        raise CorruptionError(f"{found}: something was removed from it")

    async def _watch(self) -> None:
        """Return once the consumer has broken, or stays behind the stream."""
        place, since_ns, is_owed = self._next, self._clock.monotonic_ns(), False
        while not self._broken.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._broken.wait(), HEARTBEAT_S)
            now_ns = self._clock.monotonic_ns()
            if now_ns - self.heard_ns > SILENCE_S * 1e9:
                return
            if self._next != place or self._is_taking:
                place, since_ns, is_owed = self._next, now_ns, False
            elif is_owed:
                return
            elif now_ns - since_ns > BEHIND_S * 1e9:
                # It may be on its way in this moment, and has until the next look.
                since_ns, is_owed = now_ns, await self._has_more()

    async def _has_more(self) -> bool:
        """Whether the stream, as its leader has it, holds more than what was delivered."""
        try:
            found = await self._link.ask_api(f"STREAM.INFO.{self._stream}", {})
        except (DisconnectedError, PermissionDeniedError, ApiError):
            return False  # who leads it is not known; it is asked again
        self.last = max(self.last, int(found["state"]["last_seq"]))
        return self.last >= self._next

    async def _leave(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is None:
            return
        # The server forgets a consumer by itself once nobody is subscribed to what it delivers.
        with contextlib.suppress(Exception):
            await subscription.unsubscribe()

    def _break(self) -> None:
        self._broken.set()

    # --- messages -------------------------------------------------------------------------------

    async def _on_message(self, consumer: str, message: Msg) -> None:
        if consumer != self._consumer or self._broken.is_set():
            return  # of one that was given up
        self.heard_ns = self._clock.monotonic_ns()
        headers: dict[str, Any] = message.headers or {}
        if headers.get("Status") == "100":
            await self._on_status(message, headers)
            return
        stored, delivered = read_message(message)
        if delivered != self._delivered + 1:
            self._break()  # lost on the way: taken again
            return
        if stored.sequence < self._next:  # of a consumer before, which was given up meanwhile
            self._delivered = delivered
            return
        if stored.sequence != self._next:
            # Trimmed meanwhile, or lost: the stream's own state tells.
            self._gap = stored.sequence
            self._break()
            return
        self._is_taking = True
        try:
            await self._take(stored)
        finally:
            self._is_taking = False
        if consumer == self._consumer:
            self._delivered = delivered
        self._next, self._gap_ns = stored.sequence + 1, 0
        self.last = max(self.last, stored.sequence + stored.pending)

    async def _on_status(self, message: Msg, headers: dict[str, Any]) -> None:
        client = self._link.client
        if message.reply:
            await client.publish(message.reply)
        if (stalled := headers.get("Nats-Consumer-Stalled")) is not None:
            await client.publish(stalled)
        if int(headers.get("Nats-Last-Consumer", self._delivered)) > self._delivered:
            self._break()
            return
        self.last = max(self.last, int(headers.get("Nats-Last-Stream", 0)))


IDENTITY: Final = "nt-memory-id"
"""Key in a stream's metadata."""


def read_message(message: Msg) -> tuple[Stored, int]:
    """What a consumer delivered, and its number among what that has delivered.

    Raises:
        CorruptionError: a server says something else than where it comes from.
    """
    # $JS.ACK.[domain.account.]stream.consumer.times.sequence.delivered.time.pending[.token]
    tokens = message.reply.split(".")
    places = tokens[4:] if len(tokens) == 9 else tokens[6:]
    try:
        _, sequence, delivered, stored_ns, pending = (int(token) for token in places[:5])
    except ValueError:
        raise CorruptionError(f"a server delivers from {message.reply!r}") from None
    stored = Stored(sequence, stored_ns // 1000, message.subject, message.data, pending)
    return stored, delivered
