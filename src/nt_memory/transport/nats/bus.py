"""Messages between the processes of a swarm: core NATS, beside the bus of this process.

Who is subscribed in this process is reached as in an embedded memory, without a server. The
connection does not echo, so nothing comes twice, and what one publisher says arrives everywhere in
its order. A message that a server carries is a frame: who sent it as which of its messages, a topic for
replies, and the payload.

Servers keep the order of a connection only. Whoever loses one and finds another server may be overtaken
by itself: what the first server still had comes when that wakes, or finds the others again. So
whatever comes after a later message of its sender is dropped here, as messages may be.

A subscription takes no message that bears another subject than its own: JetStream delivers stored
messages to whatever subject somebody names, but they bear the one they were stored under.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from nt_memory.clock import turn
from nt_memory.errors import InvalidNameError, PermissionDeniedError
from nt_memory.topics import OWN, check_pattern, compile_pattern
from nt_memory.transport.local_bus import LocalBus
from nt_memory.transport.nats.subjects import reply_topic

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from nt_memory.transport.nats.link import Link

_MAGIC: Final = b"\xb1\x02"
_SESSION_BYTES: Final = 8
_NUMBER_BYTES: Final = 8
_SENDER_END: Final = len(_MAGIC) + _SESSION_BYTES + _NUMBER_BYTES
_REPLY_BYTES: Final = 2
_REPLIES: Final = f"{OWN}reply/"
_KNOWN: Final = 4096
WAITING_MESSAGES: Final = 65_536
"""Most messages of a subscription that wait for a loop that is held up; the oldest go first."""
_log = logging.getLogger(__name__)


class _Remote:
    """A subscription with the servers. `waiting` is filled on the link's loop and emptied on the bus's."""

    __slots__ = (
        "handle",
        "heard",
        "is_open",
        "lost",
        "matches",
        "most",
        "receive",
        "subject",
        "subscription",
        "waiting",
    )  # fmt: skip

    def __init__(
        self, subject: str, pattern: str, receive: Callable[[str, bytes, str], None], handle: object
    ) -> None:
        self.subject = subject
        self.matches = compile_pattern(pattern)
        self.receive = receive
        self.handle = handle
        self.subscription: Subscription | None = None
        self.most = WAITING_MESSAGES
        self.waiting: deque[tuple[str, bytes, str]] = deque(maxlen=self.most)
        self.lost = 0
        self.heard: dict[tuple[str, bytes], int] = {}
        self.is_open = True

    def is_next(self, sender: tuple[str, bytes], number: int) -> bool:
        """Whether a message comes after all that were heard of its sender.

        Nobody speaks as another: the name in the subject, which servers check, is part of a sender.
        """
        heard = self.heard
        last = heard.get(sender)
        if last is not None and number <= last:
            return False
        if last is None and len(heard) >= _KNOWN:
            del heard[next(iter(heard))]
        heard[sender] = number
        return True


class NatsBus(LocalBus):
    """`ports.Bus` of a cluster's node. Belongs to the loop that makes it.

    Args:
        link: The connection; closed by somebody else.
    """

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._remotes: dict[object, _Remote] = {}
        self._settled: set[str] = set()
        self._outgoing: deque[tuple[str, bytes, str]] = deque()
        self._session = secrets.token_bytes(_SESSION_BYTES)
        self._sent = 0
        self._is_woken = False  # the link's loop was told of what is in `_outgoing`
        self._is_sending = False  # kept on the link's loop alone: one of them sends
        # Where servers say that nobody is subscribed to what a request was published under.
        self._void = ""
        self._asked: dict[str, str] = {}
        self._requests = 0

    @property
    def is_remote(self) -> bool:
        """See `Bus.is_remote`."""
        return True

    def has_readers(self, topic: str) -> bool:
        """See `Bus.has_readers`: who is subscribed elsewhere is not known here.

        Raises:
            InvalidNameError: the topic is malformed.
        """
        super().has_readers(topic)
        return True

    def publish(self, topic: str, payload: bytes, reply_to: str = "") -> int:
        """See `Bus.publish`. What is published while no server is connected is sent once one is, if little
        is.

        Raises:
            InvalidNameError: the topic is malformed.

        Cost: as `LocalBus.publish`, and a callback on the link's thread.
        """  # noqa: D205
        reached = (
            self._request(topic, payload, reply_to) if reply_to else super().publish(topic, payload)
        )
        if not (topic.startswith(OWN) and reached):
            self._send(topic, payload, reply_to, is_answered=reached > 0)
        return reached

    def _request(self, topic: str, payload: bytes, reply_to: str) -> int:
        # Without the answer that nobody is there: somebody may be elsewhere.
        reached = 0
        for subscription in self._route(topic):
            if subscription.is_open:
                reached += 1
                try:
                    subscription.receive(topic, payload, reply_to)
                except Exception:  # noqa: BLE001 - one subscriber's fault is not another's
                    _log.exception("a subscriber of topic %r raised", topic)
        return reached

    def _send(self, topic: str, payload: bytes, reply_to: str, *, is_answered: bool) -> None:
        subject = self._link.subjects.message(self._link.agent, topic)
        shown = b""
        answer_to = ""
        if reply_to:
            shown = reply_topic(self._link.agent, reply_to).encode()
            if not is_answered:
                self._requests += 1
                answer_to = str(self._requests)
                self._asked[answer_to] = reply_to
                if len(self._asked) > _KNOWN:
                    del self._asked[next(iter(self._asked))]
        self._sent += 1
        number = self._sent.to_bytes(_NUMBER_BYTES, "big")
        length = len(shown).to_bytes(_REPLY_BYTES, "big")
        frame = b"".join((_MAGIC, self._session, number, length, shown, payload))
        self._outgoing.append((subject, frame, answer_to))
        if not self._is_woken:
            self._is_woken = True
            self._link.post(self._wake_sender)

    def subscribe(self, pattern: str, receive: Callable[[str, bytes, str], None]) -> object:
        """See `Bus.subscribe`; elsewhere it is in force after `settle`.

        Raises:
            InvalidNameError: the pattern is malformed.
        """
        handle = super().subscribe(check_pattern(pattern), receive)
        if pattern.startswith(_REPLIES):
            subject = self._link.subjects.replies(self._link.agent, pattern.removeprefix(_REPLIES))
        else:
            subject = self._link.subjects.messages(pattern)
        remote = self._remotes[handle] = _Remote(subject, pattern, receive, handle)
        self._link.post(self._begin, remote)
        return handle

    def unsubscribe(self, handle: object) -> None:
        """See `Bus.unsubscribe`."""
        super().unsubscribe(handle)
        remote = self._remotes.pop(handle, None)
        if remote is not None:
            remote.is_open = False
            self._link.post(self._end, remote)

    async def settle(self, topic: str, handle: object = None) -> None:
        """See `Bus.settle`. Cost: a round trip to the server, the first time for each topic."""
        if handle is None:
            subject = self._link.subjects.message(self._link.agent, topic)
            if subject in self._settled and subject.lower() not in self._link.denied:
                return
            right = "publish"
        else:
            subject, right = self._remotes[handle].subject, "subscribe"
        asked = asyncio.run_coroutine_threadsafe(self._check(), self._link.loop)
        await asyncio.wrap_future(asked)
        if subject.lower() in self._link.denied:
            raise PermissionDeniedError(
                f"the servers do not let this node {right} under {topic!r}",
                agent=self._link.agent,
                right=right,
                target=topic,
            )
        if handle is None:
            if len(self._settled) >= _KNOWN:
                self._settled.clear()
            self._settled.add(subject)

    # --- on the link's loop ---------------------------------------------------------------------

    async def _check(self) -> None:
        self._link.check_connected()
        while self._outgoing or self._is_sending:
            await turn()
        await self._link.check()

    def _wake_sender(self) -> None:
        if not self._is_sending:
            self._is_sending = True
            self._link.spawn(self._send_all())

    async def _send_all(self) -> None:
        """Send what is there, in order."""
        self._is_woken = False  # before looking: who adds something from here on wakes again
        while self._outgoing:
            await self._send_one(*self._outgoing.popleft())
            self._is_woken = False
        self._is_sending = False

    async def _send_one(self, subject: str, frame: bytes, answer_to: str) -> None:
        client = self._link.client
        reply = ""
        try:
            if answer_to:
                if not self._void:
                    self._void = client.new_inbox()
                    await client.subscribe(f"{self._void}.*", cb=self._on_nobody)
                reply = f"{self._void}.{answer_to}"
            await client.publish(subject, frame, reply)
        except Exception as error:  # noqa: BLE001 - messages are kept nowhere
            _log.warning("a message was not sent: %s", error)

    def _begin(self, remote: _Remote) -> None:
        self._link.spawn(self._subscribe(remote))

    async def _subscribe(self, remote: _Remote) -> None:
        async def take(message: Msg) -> None:
            self._take(remote, message)

        if remote.is_open:
            remote.subscription = await self._link.client.subscribe(remote.subject, cb=take)

    def _end(self, remote: _Remote) -> None:
        self._link.spawn(self._unsubscribe(remote))

    async def _unsubscribe(self, remote: _Remote) -> None:
        if remote.subscription is not None:
            await remote.subscription.unsubscribe()

    def _take(self, remote: _Remote, message: Msg) -> None:
        read = self._read(message)
        if read is None:
            return
        found, sender, number = read
        # Servers do not echo what came by the same connection; but what came by one before it, they do.
        is_mine = sender[1] == self._session
        if is_mine or not remote.matches(found[0]) or not remote.is_next(sender, number):
            return
        was_empty = not remote.waiting
        remote.lost += len(remote.waiting) == remote.most
        remote.waiting.append(found)
        if was_empty:
            self._post(self._hand_out, remote)

    def _read(self, message: Msg) -> tuple[tuple[str, bytes, str], tuple[str, bytes], int] | None:
        """Topic, payload and reply topic of a frame, its sender, and which of the sender's it is.

        None: it is no frame, or not what it says.
        """
        data: bytes = message.data
        if not data.startswith(_MAGIC) or message.headers:
            return None
        try:
            place = self._link.subjects.read(message.subject)
            start = _SENDER_END + _REPLY_BYTES
            end = start + int.from_bytes(data[_SENDER_END:start], "big")
            reply_to = data[start:end].decode()
        except (InvalidNameError, UnicodeDecodeError):
            return None
        if len(data) <= end or (reply_to and not reply_to.startswith(_REPLIES)):
            return None
        topic = "/".join(place.rest)
        if place.kind == "reply":
            topic = _REPLIES + topic
        elif place.kind != "bus" or topic.startswith(OWN):
            return None
        session = data[len(_MAGIC) : _SENDER_END - _NUMBER_BYTES]
        number = int.from_bytes(data[_SENDER_END - _NUMBER_BYTES : _SENDER_END], "big")
        return (topic, data[end:], reply_to), (place.agent, session), number

    async def _on_nobody(self, message: Msg) -> None:
        if (message.headers or {}).get("Status") == "503":
            self._post(self._tell_nobody, message.subject.rpartition(".")[2])

    def _post(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # that loop is closed
            _log.debug("a message came after its loop had ended")

    # --- on the bus's loop ----------------------------------------------------------------------

    def _hand_out(self, remote: _Remote) -> None:
        while remote.waiting:
            topic, payload, reply_to = remote.waiting.popleft()
            if not remote.is_open:
                continue
            try:
                remote.receive(topic, payload, reply_to)
            except Exception:  # noqa: BLE001 - one subscriber's fault is not another's
                _log.exception("a subscriber of topic %r raised", topic)
        if remote.lost:
            _log.warning("the event loop was held up: %d messages were dropped", remote.lost)
            remote.lost = 0

    def _tell_nobody(self, answer_to: str) -> None:
        reply_to = self._asked.pop(answer_to, None)
        if reply_to is not None:
            super().publish(reply_to, b"")
