"""What the views keep of where a node's journal comes from; see `entries.origins`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from nt_memory.entries.origins import PUBLISHER_MEMORY_US, Origin, Publisher, is_repeated
from nt_memory.replica.ledger import begin_ledger

if TYPE_CHECKING:
    from nt_memory.entries import Configure, Mark
    from nt_memory.tiers.views import Snapshot, WriteBatch

SETTINGS = b"settings"
_META = b"meta"
_ORIGIN = b"origin"
_PUBLISHER = b"publisher/"
_pack = msgspec.msgpack.encode
_unpack = msgspec.msgpack.decode


def load_origin(views: Snapshot) -> Origin | None:
    """How far the stream is followed; None: the journal is nobody's but this store's."""
    data = views.get(_META, _ORIGIN)
    return None if data is None else Origin(*_unpack(data))


def load_publishers(views: Snapshot) -> dict[str, Publisher]:
    """All publishers that are remembered."""
    found: dict[str, Publisher] = {}
    for key, value in views.items(_META, _PUBLISHER):
        if not key.startswith(_PUBLISHER):
            break
        found[key[len(_PUBLISHER) :].decode()] = Publisher(*_unpack(value))
    return found


def note(batch: WriteBatch, mark: Mark, sequence: int, now_us: int) -> Origin:
    """Take in a mark that stands at `sequence` of the journal."""
    origin = Origin(mark.stream, mark.sequence, sequence, mark.count)
    batch.put(_META, _ORIGIN, _pack(origin))
    if not mark.session:
        return origin
    key = _PUBLISHER + mark.session.encode()
    last = batch.get(_META, key)
    if last is None:
        _forget(batch, now_us)
    elif is_repeated(Publisher(*_unpack(last)), mark.number, now_us):
        return origin
    batch.put(_META, key, _pack(Publisher(mark.number, now_us)))
    return origin


def found(batch: WriteBatch, origin: Origin, settings: Configure) -> None:
    """Make views those that a swarm begins with: its stream goes on from them."""
    detach(batch)
    batch.put(_META, _ORIGIN, _pack(origin))
    batch.put(_META, SETTINGS, _pack(settings))
    begin_ledger(batch)


def detach(batch: WriteBatch) -> None:
    """From here on the journal is nobody's but this store's."""
    batch.delete(_META, _ORIGIN)
    known = [key for key, _ in batch.items(_META, _PUBLISHER) if key.startswith(_PUBLISHER)]
    for key in known:
        batch.delete(_META, key)


def _forget(batch: WriteBatch, now_us: int) -> None:
    """Whenever somebody new comes, those go who have not been heard of for long."""
    gone: list[bytes] = []
    for key, value in batch.items(_META, _PUBLISHER):
        if not key.startswith(_PUBLISHER):
            break
        if Publisher(*_unpack(value)).recorded_at <= now_us - PUBLISHER_MEMORY_US:
            gone.append(key)
    for key in gone:
        batch.delete(_META, key)
