"""Versions that leave the views, and those whose time is over: `history`, retention and ttl.

What leaves takes along what is due about it and what counts against its agent's quota. Whoever drops
the oldest versions of a key marks the oldest that is left, so that reads of before know it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from nt_memory.replica.follow import Change
from nt_memory.tiers.layout import (
    ChangeRow,
    encode_row,
    expiry_key,
    parse_name,
    parse_tail,
    to_stored,
    version_bytes,
)

if TYPE_CHECKING:
    from nt_memory.replica.follow import Follow
    from nt_memory.replica.quotas import Quotas
    from nt_memory.replica.writes import Now
    from nt_memory.tiers.views import WriteBatch


def trim(batch: WriteBatch, name: bytes, history: int, quotas: Quotas) -> None:
    """Drop the oldest versions, so that `history` remain behind the current one.

    Vector rows of dropped versions stay until a compaction gives them back: each was ended by its
    successor, so no present search finds it, and one of the past that does says that it was dropped.
    """
    keys = batch.version_keys(name)
    dropped = keys[: max(0, len(keys) - history - 1)]
    if not dropped:
        return
    for key in dropped:
        drop_version(batch, name, key, quotas)
    mark_trimmed(batch, keys[len(dropped)])


def drop_version(
    batch: WriteBatch, name: bytes, key: bytes, quotas: Quotas, *, is_key: bool = False
) -> None:
    """Remove one version and what is due about it; `is_key`: it is the last of its key."""
    version = batch.version(key)
    batch.delete(b"versions", key)
    if version is None:
        return
    keys = 0
    if version.expires_at is not None:
        known_at, revision = parse_tail(key)
        due = expiry_key(version.expires_at, name, known_at, revision)
        # Still due: its end was not told yet, so it counts as a key.
        if batch.delete(b"expiries", due) and is_key and version.value is not None:
            keys = -1
    size = version_bytes(name, version.value, version.tags)
    _, agent, _ = parse_name(name)
    quotas.add(batch, agent, keys, -size, -(version.partition >= 0))


def mark_trimmed(batch: WriteBatch, oldest: bytes) -> None:
    """Note in the oldest version that is left that there were others before it."""
    version = batch.version(oldest)
    if version is not None and not version.is_trimmed_before:
        marked = msgspec.structs.replace(version, is_trimmed_before=True)
        batch.put(b"versions", oldest, encode_row(marked))


def expire(
    batch: WriteBatch,
    due: list[tuple[bytes, bytes]],
    now: Now,
    follow: Follow,
    quotas: Quotas,
) -> tuple[ChangeRow, ...]:
    """Say of every version whose ttl ran out, and that is still current, that it expired."""
    changes: list[ChangeRow] = []
    for queue_key, key in due:
        batch.delete(b"expiries", queue_key)
        name = key[:-16]
        known_at, revision = parse_tail(key)
        current = batch.current(name)
        if current is None or current[:2] != (known_at, revision):
            continue
        stored = to_stored(name, known_at, revision, current[2])
        if stored.value is not None:
            quotas.add(batch, stored.agent, -1, 0, 0)
        changes.append(ChangeRow("expire", stored.space, stored.agent, stored.key, known_at))
        follow.changes.append(Change("expire", stored, now.revision, is_current=True))
    return tuple(changes)
