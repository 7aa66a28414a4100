"""Reading versions: what a moment shows, and how a stored version becomes a `Record`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nt_memory.clock import to_datetime
from nt_memory.codec import decode, is_filed
from nt_memory.codec.filed import REFERENCE_BYTES
from nt_memory.frozen import resident_bytes
from nt_memory.records import Record
from nt_memory.replica import is_visible
from nt_memory.tiers.layout import name_of, parse_name, to_stored

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nt_memory.entries import Stored
    from nt_memory.tiers.views import Snapshot
    from nt_memory.timeline import Moment
    from nt_memory.transport.values import ValueFiles


SMALL_VALUE_BYTES = 512
SMALL_RECORD_BYTES = 1024
FILED_RECORD_BYTES = 1 << 20
"""What a map is taken to occupy besides its bytes: it costs a descriptor, of which there are few."""


def value_of(stored: Stored, values: ValueFiles) -> Any:
    """The value of a version that is not a delete; errors and cost as `decode` or `ValueFiles.load`."""
    value = stored.value
    if value is None:
        return None
    if len(value) == REFERENCE_BYTES and is_filed(value):
        return values.load(value, f"{stored.agent}/{stored.key}, revision {stored.revision}")
    return decode(value)


def to_record(stored: Stored, values: ValueFiles) -> Record:
    """The public form of a version that is not a delete. Blocks if its value lies in a file.

    Raises:
        CorruptionError: its value fails the checksum, or its file is missing.
    """
    expires_at = stored.expires_at
    return Record(
        stored.agent,
        stored.key,
        value_of(stored, values),
        stored.revision,
        to_datetime(stored.known_at),
        to_datetime(stored.recorded_at),
        None if expires_at is None else to_datetime(expires_at),
        stored.actor,
        stored.tags,
    )


def hot_bytes(record: Record, stored: Stored) -> int:
    """What a record is taken to occupy in L1.

    Small values are charged a flat kilobyte, which is more than they use, because walking every one
    would cost more than reading it. Of a value in a file only what was copied out of it counts,
    and `FILED_RECORD_BYTES`.
    """
    if stored.value is None or len(stored.value) < SMALL_VALUE_BYTES:
        if stored.value is not None and is_filed(stored.value):
            return FILED_RECORD_BYTES + resident_bytes(record.value)
        return SMALL_RECORD_BYTES
    return SMALL_RECORD_BYTES + resident_bytes(record.value)


def read(
    snapshot: Snapshot, space: str, agent: str, key: str, moment: Moment, *, is_now: bool
) -> Stored | None:
    """The version a moment shows, or None.

    Args:
        snapshot: Where to read.
        space: Keyspace.
        agent: Whose key.
        key: The key.
        moment: As of when.
        is_now: The moment is the present, so that the last version is the one in force.

    Raises:
        TrimmedError: what was in force then has been dropped.
    """
    name = name_of(space, agent, key)
    found = snapshot.current(name) if is_now else snapshot.at(name, moment)
    if found is None or not is_visible(found[2], moment.time_us):
        return None
    return to_stored(name, *found)


def scan(
    snapshot: Snapshot, prefix: bytes, moment: Moment, after: bytes, limit: int
) -> tuple[list[Stored], bytes | None]:
    """Up to `limit` names with a prefix, as a moment shows them, and where to go on.

    Returns:
        The versions, by name; and the last name looked at, None if there are no more.
    """
    found: list[Stored] = []
    name: bytes | None = after
    for _ in range(limit):
        name = snapshot.next_name(name or b"", prefix)
        if name is None:
            return found, None
        version = snapshot.at(name, moment)
        if version is not None and is_visible(version[2], moment.time_us):
            found.append(to_stored(name, *version))
    return found, name


def next_agent(snapshot: Snapshot, space: str, after: str) -> str | None:
    """The first agent after another, "" for the first of all, that has something in a keyspace."""
    # Greater than all names of `after`, and not than those of an agent whose name starts like it.
    start = f"{space}{after}\1".encode() if after else b""
    name = snapshot.first_name(start, space.encode())
    return None if name is None else parse_name(name)[1]


def versions(snapshot: Snapshot, space: str, agent: str, key: str) -> Iterator[Stored]:
    """All versions of a key, newest first, deletes included. Do not use across an await."""
    name = name_of(space, agent, key)
    for known_at, revision, version in snapshot.versions(name):
        yield to_stored(name, known_at, revision, version)
