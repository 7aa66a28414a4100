"""The streams of a swarm: made when they are missing, told apart by an identity in their metadata."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

from nt_memory.clock import SystemClock
from nt_memory.errors import DisconnectedError, StorageError
from nt_memory.transport.nats.client import ApiError
from nt_memory.transport.nats.follower import IDENTITY
from nt_memory.transport.nats.link import CALL_S

if TYPE_CHECKING:
    from nt_memory.transport.nats.link import Link

DUPLICATES_S: Final = 120
"""How long servers remember message ids. Longer than anybody tries; see `entries.origins`."""
REPLICAS: Final = 3
ONCE: Final[dict[str, Any]] = {"max_msgs_per_subject": 1, "discard_new_per_subject": True}
"""A piece of a value stays what it was first: servers can be made to answer, with bytes of their own, to
the subject of a piece, and a node that joins later would then find no such value.
"""
_NOT_FOUND: Final = 404
_TAKEN: Final = 10058
_RETRY_S: Final = 0.25


def make_streams(link: Link, patience_s: float) -> str:
    """Have the streams of the link's swarm, and give the identity of its journal.

    Raises:
        DisconnectedError: no server with JetStream, or no leader, answers within `patience_s`.
        PermissionDeniedError: the streams are missing, and this node may not make them.
        StorageError: the servers refuse.
    """
    subjects = link.subjects
    clock = SystemClock()
    until_ns = clock.monotonic_ns() + int(patience_s * 1e9)
    while True:
        try:
            link.call(_have(link, subjects.values, [subjects.all_values], ONCE), patience_s)
            found: str = link.call(_have(link, subjects.stream, [subjects.journals]), patience_s)
        except DisconnectedError as error:
            if clock.monotonic_ns() > until_ns:
                raise DisconnectedError(
                    f"{error}; JetStream may be switched off there, or its servers too few"
                ) from None
            link.call(clock.sleep(_RETRY_S), patience_s)
        else:
            return found


def have_stream(link: Link, name: str, subjects: list[str], more: dict[str, Any]) -> None:
    """Have one more stream.

    Raises:
        As `make_streams`.
    """
    link.call(_have(link, name, subjects, more), CALL_S * 2)


async def _have(
    link: Link, name: str, subjects: list[str], more: dict[str, Any] | None = None
) -> str:
    try:
        found = await link.ask_api(f"STREAM.INFO.{name}", {})
    except ApiError as error:
        if error.code != _NOT_FOUND:
            raise _explained(link, error) from None
        found = await _make(link, name, subjects, more or {})
    return str((found["config"].get("metadata") or {}).get(IDENTITY, ""))


async def _make(link: Link, name: str, subjects: list[str], more: dict[str, Any]) -> dict[str, Any]:
    config = {
        "name": name,
        "subjects": subjects,
        "retention": "limits",
        "storage": "file",
        "discard": "new",  # a full stream refuses; it does not forget
        "num_replicas": REPLICAS if link.is_clustered else 1,
        "duplicate_window": DUPLICATES_S * 1_000_000_000,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_consumers": -1,
        "allow_direct": False,
        "deny_delete": True,
        "metadata": {IDENTITY: secrets.token_hex(8)},
        **more,
    }
    try:
        return await link.ask_api(f"STREAM.CREATE.{name}", config)
    except ApiError as error:
        if error.number != _TAKEN:
            raise _explained(link, error) from None
    try:
        return await link.ask_api(f"STREAM.INFO.{name}", {})  # another node was faster
    except ApiError as error:
        raise _explained(link, error) from None


def _explained(link: Link, error: ApiError) -> DisconnectedError | StorageError:
    if error.code in (500, 503):
        return DisconnectedError(f"{link.name}: {error}")
    return StorageError(f"{link.name}: the servers refuse the swarm's streams: {error}")
