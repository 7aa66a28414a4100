"""Requests that act once: results by request id, remembered for a day of entry time.

Ids that the memory made up for itself name one call in one process. Nobody can make it again once it
has returned, so all there is to catch are repetitions on the way into the journal. These are over
when the call's transport has given up (20 s in a cluster); they are remembered for `OWN_MEMORY_US`.
Locks taken ten times a second thus leave some thousand rows and not 900,000.

A result is forgotten exactly when its time is over, whether or not its row is still there: rows are
removed a few at a time, by later requests.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from nt_memory.entries.requests import given_id, is_own
from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from nt_memory.entries import Entry
    from nt_memory.tiers.views import Snapshot, WriteBatch

REQUEST_MEMORY_US = 24 * 3600 * 1_000_000
"""How long the result of a `request_id` is remembered, in entry time."""

OWN_MEMORY_US = 600 * 1_000_000
"""How long that of an id of the memory's own. Longer than `lock_rules.OVERTAKEN_US`: a withdrawal is
forgotten before the acquire that it may have overtaken could be taken for a new one.
"""

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


def recall(
    views: Snapshot, actor: str, request_id: str | None, kind: str, now_us: int
) -> Remembered | None:
    """What a request did, if it was made before and is not forgotten.

    Args:
        views: The views before the entry.
        actor: Whose request.
        request_id: Its id; None: it has none.
        kind: Of its entry.
        now_us: Entry time.

    Raises:
        InvalidInputError: it was another kind of request, whose result would mean nothing here.
    """
    if request_id is None:
        return None
    data = views.get(b"requests", _key(actor, request_id))
    if data is None:
        return None
    remembered = Remembered(*_unpack(data))
    if remembered.recorded_at <= now_us - _memory_us(request_id):
        return None
    if remembered.kind not in {"", kind}:
        raise InvalidInputError(
            f"request_id {given_id(request_id)!r} was used before, for another kind of request: "
            f"{remembered.kind}, not {kind}"
        )
    return remembered


def kind_of(entry: Entry) -> str:
    """The kind that `recall` compares."""
    return str(entry.body.__struct_config__.tag)


def remember(batch: WriteBatch, entry: Entry, result: Any, now_us: int) -> None:
    """Keep the result of an entry that has a request id, and remove a few that are old enough."""
    if entry.request_id is None:
        return
    request = _key(entry.actor, entry.request_id)
    before = batch.get(b"requests", request)
    if before is not None:  # forgotten, and not removed yet
        batch.delete(b"request_times", _due(_unpack(before)[0], entry.request_id) + request)
    batch.put(b"requests", request, _pack((now_us, result, kind_of(entry))))
    batch.put(b"request_times", _due(now_us, entry.request_id) + request, b"")
    horizon = now_us - REQUEST_MEMORY_US
    old: list[bytes] = []
    for key, _ in batch.items(b"request_times"):
        if int.from_bytes(key[:8], "big") > horizon or len(old) == _FORGET_PER_ENTRY:
            break
        old.append(key)
    for key in old:
        batch.delete(b"request_times", key)
        batch.delete(b"requests", key[8:])


def _memory_us(request_id: str) -> int:
    return OWN_MEMORY_US if is_own(request_id) else REQUEST_MEMORY_US


def _due(recorded_at: int, request_id: str) -> bytes:
    """The place of a row among those to be removed: when it was made, or as if it had been earlier."""
    place = recorded_at + _memory_us(request_id) - REQUEST_MEMORY_US
    return max(0, place).to_bytes(8, "big")


def _key(actor: str, request_id: str) -> bytes:
    # Hashed because an id may be longer than LMDB's 511-byte keys.
    return hashlib.blake2b(f"{actor}\0{request_id}".encode(), digest_size=16).digest()
