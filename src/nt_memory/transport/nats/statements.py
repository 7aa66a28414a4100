"""What nodes state of their replicas, to each other: plain messages under subjects that say who speaks."""

from __future__ import annotations

import asyncio
from array import array
from typing import TYPE_CHECKING, Final

import msgspec

from nt_memory.entries.wire import Wire
from nt_memory.errors import InvalidNameError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg

    from nt_memory.transport.nats.link import Link

_MAGIC: Final = b"\xb4\x01"
_BYTES: Final = 8
_SESSION_CHARS: Final = 64


class _Stated(Wire, frozen=True):
    """A message: which stream's replica, in which run of which node, and digests from `first` on."""

    stream: str
    session: str
    first: int
    digests: bytes


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(_Stated)


class Statements:
    """Sends and takes statements. Belongs to the loop that makes it.

    Args:
        link: The connection.
        stream: Identity of the swarm's stream.
        session: Names this run of this node.
        hear: Is called, on that loop, with author, session, first sequence and digests.
    """

    def __init__(
        self,
        link: Link,
        stream: str,
        session: str,
        hear: Callable[[str, str, int, array[int]], None],
    ) -> None:
        self._link = link
        self._stream = stream
        self._session = session
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        link.post(self._begin)

    def state(self, first: int, digests: array[int]) -> None:
        """Tell all other nodes. What cannot be sent is not."""
        data = _encode(_Stated(self._stream, self._session, first, digests.tobytes()))
        self._link.post(self._send, _MAGIC + data)

    # --- on the link's loop ---------------------------------------------------------------------

    def _begin(self) -> None:
        self._link.spawn(self._subscribe())

    async def _subscribe(self) -> None:
        # Credentials of a time before there were statements are denied it: then nothing is heard.
        await self._link.client.subscribe(self._link.subjects.statements, cb=self._take)

    def _send(self, data: bytes) -> None:
        self._link.spawn(self._publish(data))

    async def _publish(self, data: bytes) -> None:
        if self._link.is_connected:
            await self._link.client.publish(self._link.subjects.statement(self._link.agent), data)

    async def _take(self, message: Msg) -> None:
        if not message.data.startswith(_MAGIC) or message.headers:
            return
        try:
            place = self._link.subjects.read(message.subject)
            stated = _decoder.decode(memoryview(message.data)[len(_MAGIC) :])
        except (InvalidNameError, msgspec.DecodeError, UnicodeDecodeError):
            return
        is_whole = 0 < len(stated.session) <= _SESSION_CHARS and len(stated.digests) % _BYTES == 0
        if place.kind != "ledger" or stated.stream != self._stream or not is_whole:
            return
        if not 0 < stated.first < 1 << 62:
            return
        self._post(place.agent, stated.session, stated.first, array("Q", stated.digests))

    def _post(self, author: str, session: str, first: int, digests: array[int]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._hear, author, session, first, digests)
        except RuntimeError:  # that loop is closed
            return
