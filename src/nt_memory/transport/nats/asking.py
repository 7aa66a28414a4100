"""Asking servers about a swarm's streams, again until they answer or patience is at its end."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from nt_memory.clock import SystemClock
from nt_memory.errors import DisconnectedError, NtMemoryError
from nt_memory.transport.nats.client import ApiError
from nt_memory.transport.nats.publishing import meaning

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from nt_memory.transport.nats.link import Link

_ANSWER_S: Final = 10.0
_RETRY_S: Final = 0.25
_NOT_FOUND: Final = 404

T = TypeVar("T")


class Found(NamedTuple):
    """A message of a stream.

    Attributes:
        sequence: Its place.
        data: Its content.
        stored_at: When the server took it, microseconds since the epoch.
    """

    sequence: int
    data: bytes
    stored_at: int


class Asking:
    """Asks by a connection. What is no coroutine blocks; from any thread but the link's.

    Args:
        link: The connection.
        patience_s: How long to try while no server answers.
    """

    def __init__(self, link: Link, patience_s: float) -> None:
        self._link = link
        self._patience_ns = int(patience_s * 1e9)
        self._clock = SystemClock()

    def message(self, stream: str, which: dict[str, Any]) -> Found | None:
        """A message; None: there is none.

        Raises:
            DisconnectedError, PermissionDeniedError, StorageError: as `persist`.
        """
        return self.persist(lambda: self.found(stream, which))

    async def found(self, stream: str, which: dict[str, Any]) -> Found | None:
        """A message; None: there is none. On the link's loop, once.

        Raises:
            DisconnectedError, PermissionDeniedError, StorageError: as `persist`.
        """
        try:
            found = await self._link.ask_api(f"STREAM.MSG.GET.{stream}", which, timeout_s=_ANSWER_S)
            message = found["message"]
            data = base64.b64decode(message.get("data", ""), validate=True)
            return Found(int(message["seq"]), data, _microseconds(message["time"]))
        except ApiError as error:
            if error.code == _NOT_FOUND:
                return None
            raise meaning(self._link.name, error) from None
        except (KeyError, ValueError, binascii.Error) as error:
            raise DisconnectedError(f"{self._link.name}: an answer without a message") from error

    async def store(self, subject: str, data: bytes, headers: dict[str, str]) -> None:
        """Have a stream store a message. On the link's loop, once.

        Raises:
            ApiError: it refuses.
            DisconnectedError, PermissionDeniedError: as `persist`.
        """
        try:
            await self._link.store(subject, data, headers, timeout_s=_ANSWER_S)
        except ApiError as error:
            found = meaning(self._link.name, error)
            if isinstance(found, DisconnectedError):  # nobody knows: again, under the same id
                raise found from None
            raise

    def api(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask JetStream's API.

        Raises:
            DisconnectedError, PermissionDeniedError, StorageError: as `persist`.
        """

        async def ask() -> dict[str, Any]:
            try:
                return await self._link.ask_api(what, body, timeout_s=_ANSWER_S)
            except ApiError as error:
                raise meaning(self._link.name, error) from None

        return self.persist(ask)

    def persist(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Have the link's loop do something, again until servers answer or patience is at its end.

        Raises:
            DisconnectedError: no server answers.
            PermissionDeniedError: this node may not, or is not let in.
            StorageError: the servers refuse; `StorageFullError` likewise.
        """
        until_ns = self._clock.monotonic_ns() + self._patience_ns
        while True:
            try:
                found: T = self._link.call(make(), _ANSWER_S * 2)
            except* (NtMemoryError, ApiError) as group:
                error = _first(group)
            else:
                return found
            is_over = self._clock.monotonic_ns() > until_ns or self._link.is_over
            if is_over or not isinstance(error, DisconnectedError):
                raise error
            self._link.call(self._clock.sleep(_RETRY_S), _ANSWER_S)


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    """One of those that a group is about."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, Exception)  # noqa: S101 - that is what the group is of
    return found


def _microseconds(time: str) -> int:
    """Since the epoch, of RFC 3339 with up to nine digits of a second, as servers say it."""
    seconds, _, fraction = time.rstrip("Z").partition(".")
    whole = datetime.fromisoformat(seconds + "+00:00")
    return int(whole.timestamp()) * 1_000_000 + int(fraction[:6].ljust(6, "0") or 0)
