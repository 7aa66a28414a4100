"""Requests that act once: results by request id, remembered for a day of entry time."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from nt_memory.entries import Entry
    from nt_memory.replica.writes import Now
    from nt_memory.tiers.views import Snapshot, WriteBatch

REQUEST_MEMORY_US = 24 * 3600 * 1_000_000
"""How long the result of a `request_id` is remembered, in entry time."""

_FORGET_PER_ENTRY = 2
_pack = msgspec.msgpack.encode
_unpack = msgspec.msgpack.decode


class Remembered(NamedTuple):
    """What a request did.

    Attributes:
        recorded_at: When, in entry time.
        result: What its caller got.
        kind: Of its entry; empty if it was not noted.
    """

    recorded_at: int
    result: Any
    kind: str = ""


def recall(views: Snapshot, request: bytes, entry: Entry) -> Remembered | None:
    """What a request did, if it was made before.

    Raises:
        InvalidInputError: it was another kind of request, whose result would mean nothing here.
    """
    data = views.get(b"requests", request)
    if data is None:
        return None
    remembered = Remembered(*_unpack(data))
    if remembered.kind not in {"", _kind(entry)}:
        raise InvalidInputError(
            f"request_id {entry.request_id!r} was used before, for another kind of request: "
            f"{remembered.kind}, not {_kind(entry)}"
        )
    return remembered


def _kind(entry: Entry) -> str:
    return str(entry.body.__struct_config__.tag)


def remember(batch: WriteBatch, request: bytes, entry: Entry, result: Any, now: Now) -> None:
    """Keep a result under its request id, and forget a few that are old enough."""
    batch.put(b"requests", request, _pack((now.recorded_at, result, _kind(entry))))
    batch.put(b"request_times", now.recorded_at.to_bytes(8, "big") + request, b"")
    horizon = now.recorded_at - REQUEST_MEMORY_US
    old: list[bytes] = []
    for key, _ in batch.items(b"request_times"):
        if int.from_bytes(key[:8], "big") > horizon or len(old) == _FORGET_PER_ENTRY:
            break
        old.append(key)
    for key in old:
        batch.delete(b"request_times", key)
        batch.delete(b"requests", key[8:])


def request_key(entry: Entry) -> bytes | None:
    """Under which key the result of an entry is remembered; None: it is not."""
    if entry.request_id is None:
        return None
    # Hashed because an id may be longer than LMDB's 511-byte keys.
    named = f"{entry.actor}\0{entry.request_id}".encode()
    return hashlib.blake2b(named, digest_size=16).digest()
