"""What a write does to the views: `decide` resolves or refuses it, `fold` carries it out.

`decide` only reads, so a refused write leaves nothing behind. `fold` cannot refuse; it reads what
earlier operations of the same entry wrote, because one entry may write several versions of a key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from nt_memory.clock import EARLIEST_US, LATEST_US, to_datetime
from nt_memory.codec import is_filed
from nt_memory.codec.filed import REFERENCE_BYTES, read_reference
from nt_memory.entries import STATE, Stored, WriteOp
from nt_memory.errors import (
    ConflictError,
    CorruptionError,
    DimensionError,
    InvalidInputError,
    InvalidTimeError,
    LookAheadError,
)
from nt_memory.namespace import check_agent, check_key
from nt_memory.replica.dropping import trim
from nt_memory.replica.follow import Change
from nt_memory.tiers.layout import (
    ChangeRow,
    PartitionRow,
    VectorRow,
    Version,
    encode_partition,
    expiry_key,
    name_of,
    pack_row,
    row_key,
    version_bytes,
)
from nt_memory.tiers.vectors import NEVER

if TYPE_CHECKING:
    from collections.abc import Collection

    from nt_memory.entries import Write
    from nt_memory.replica.follow import Follow
    from nt_memory.replica.quotas import Quotas
    from nt_memory.tiers.vectors import VectorFiles
    from nt_memory.tiers.views import Snapshot, WriteBatch

FLOAT16_BYTES = 2
MAX_NAME_BYTES = 400
_LAST_REVISION = (1 << 64) - 1


class Now(NamedTuple):
    """The times and the place an entry is judged by.

    Attributes:
        recorded_at: Entry time: leases run on it.
        timeline_us: The agents' now: known_at, ttl and deadlines run on it. None: not started.
        revision: The revision the entry gets if it is accepted.
        is_backtest: Whether the timeline moves by entries only.
    """

    recorded_at: int
    timeline_us: int | None
    revision: int
    is_backtest: bool


class ResolvedOp(NamedTuple):
    """An operation that was accepted, with its times made definite."""

    op: WriteOp
    name: bytes
    known_at: int
    expires_at: int | None


def partition_name(agent: str, partition: str) -> bytes:
    """Key of a vector partition in the views."""
    return f"{agent}\0{partition}".encode()


def is_visible(version: Version, now_us: int) -> bool:
    """Whether a version in force at `now_us` shows a value: not a delete, not expired."""
    return version.value is not None and (version.expires_at is None or version.expires_at > now_us)


def decide(views: Snapshot, write: Write, now: Now) -> list[ResolvedOp]:
    """The operations to carry out; empty if there is nothing to do.

    Of several operations of one entry on the same key and time the last counts. `expect` is
    judged against the state before the entry.

    Raises:
        NtMemoryError: the entry is refused as a whole.
    """
    resolved: dict[tuple[bytes, int], ResolvedOp] = {}
    dims: dict[bytes, int] = {}
    for op in write.ops:
        known_at = _known_at(op, now)
        name = _name(op)
        _check_expect(views, op, name, now)
        if op.value is None and not _is_there(views, resolved, name, known_at):
            continue
        if op.vector is not None:
            _check_dimension(views, op, dims)
        if op.value is not None and len(op.value) == REFERENCE_BYTES:
            _check_reference(op.value)
        resolved[name, known_at] = ResolvedOp(op, name, known_at, _expires_at(op, known_at))
    return list(resolved.values())


def _check_reference(value: bytes) -> None:
    """Whoever counts its bytes later must not fail."""
    if is_filed(value):
        try:
            read_reference(value)
        except CorruptionError as error:
            raise InvalidInputError(str(error)) from None


def _is_there(
    views: Snapshot,
    resolved: dict[tuple[bytes, int], ResolvedOp],
    name: bytes,
    known_at: int,
) -> bool:
    """Whether there is anything for a delete to remove, earlier operations of the entry counted."""
    earlier = [one for one in resolved.values() if one.name == name and one.known_at <= known_at]
    found, _ = views.neighbours(name, known_at, _LAST_REVISION)
    if earlier:
        last = max(earlier, key=lambda one: one.known_at)
        if found is None or last.known_at >= found[0]:
            is_alive = last.expires_at is None or last.expires_at > known_at
            return last.op.value is not None and is_alive
    return found is not None and is_visible(found[2], known_at)


def _expires_at(op: WriteOp, known_at: int) -> int | None:
    if op.ttl_us is None:
        return None
    if op.ttl_us <= 0:
        raise InvalidInputError("ttl must be positive")
    if known_at + op.ttl_us > LATEST_US:
        raise InvalidTimeError("ttl: the value would outlive the calendar, which ends in 9999")
    return known_at + op.ttl_us


def _known_at(op: WriteOp, now: Now) -> int:
    limit = now.timeline_us
    if limit is None:
        raise LookAheadError(
            "the backtest timeline has not started: call memory.timeline.advance(t) first"
        )
    if op.known_at is None:
        return limit
    if op.known_at > limit:
        what = f"known_at {to_datetime(op.known_at)} lies past now, {to_datetime(limit)}"
        raise LookAheadError(what) if now.is_backtest else InvalidTimeError(what)
    if op.known_at < EARLIEST_US:
        raise InvalidTimeError("known_at lies before the year 1, UTC")
    return op.known_at


def _name(op: WriteOp) -> bytes:
    name = name_of(op.space, op.agent, op.key)
    if op.space == STATE:
        check_agent(op.agent)
        check_key(op.key)
    elif len(op.space) != 1 or not op.agent or len(name) > MAX_NAME_BYTES or name.count(b"\0") != 2:
        raise InvalidInputError(f"malformed name in space {op.space!r}")
    return name


def _check_expect(views: Snapshot, op: WriteOp, name: bytes, now: Now) -> None:
    if op.expect is None:
        return
    found = views.current(name)
    is_there = found is not None and is_visible(found[2], now.timeline_us or 0)
    current = found[1] if found is not None and is_there else 0
    if current != op.expect:
        raise ConflictError(
            f"{op.agent}/{op.key}: expected revision {op.expect}, found {current}", current=current
        )


def _check_dimension(views: Snapshot, op: WriteOp, dims: dict[bytes, int]) -> None:
    dim = len(op.vector or b"") // FLOAT16_BYTES
    name = partition_name(op.agent, op.partition)
    expected = dims.get(name)
    if expected is None:
        row = views.partition(name)
        expected = dims[name] = dim if row is None else row.dim
    if dim != expected or dim == 0:
        raise DimensionError(
            f"{op.agent}: the partition holds vectors of dimension {expected}, not {dim}",
            expected=expected,
            got=dim,
        )


class Folding(NamedTuple):
    """What `fold` needs besides the operation; the same for all operations of an entry."""

    batch: WriteBatch
    now: Now
    follow: Follow
    actor: str
    history: int | None
    quotas: Quotas


def fold(folding: Folding, operation: ResolvedOp) -> tuple[ChangeRow, ...]:
    """Carry out one operation; what changed, in order."""
    batch, now, follow, actor, history, quotas = folding
    op, name, known_at, expires_at = operation
    previous, after = batch.neighbours(name, known_at, now.revision)
    changes: list[ChangeRow] = []
    keys = 0
    if after is None:
        keys = op.value is not None
        if previous is not None:
            changes.extend(_lapse(batch, op, name, previous, now))
            keys -= _counted(previous[2], now, is_told_now=bool(changes))
    ended = _supersede(batch, previous, known_at, now.revision, follow)
    partition, row = -1, -1
    if op.vector is not None:
        until = NEVER if after is None else after[0]
        if expires_at is not None:
            until = min(until, expires_at)
        new_row = VectorRow(known_at, until, now.revision, now.revision, name)
        partition, row = _add_row(batch, op, new_row, follow)
    version = Version(op.value, now.recorded_at, expires_at, actor, partition, row, op.tags)
    batch.put_version(name, known_at, now.revision, version)
    if expires_at is not None:
        batch.put(b"expiries", expiry_key(expires_at, name, known_at, now.revision), b"")
    quotas.add(batch, op.agent, keys, version_bytes(name, op.value, op.tags), row >= 0)
    if history is not None:
        trim(batch, name, history, quotas)
    kind = "delete" if op.value is None else "put"
    changes.append(
        ChangeRow(kind, op.space, op.agent, op.key, known_at, partition, row, tuple(ended))
    )
    stored = Stored(
        op.space,
        op.agent,
        op.key,
        op.value,
        known_at,
        now.revision,
        now.recorded_at,
        expires_at,
        actor,
        partition,
        row,
        op.tags,
    )
    for changed in changes:
        follow.changes.append(Change(changed.kind, stored, now.revision, after is None))
    return tuple(changes)


def _counted(version: Version, now: Now, *, is_told_now: bool) -> bool:
    """Whether a key with this current version counted before the entry."""
    if version.value is None:
        return False
    # One that ran out stopped counting when that was told.
    return is_told_now or is_visible(version, now.timeline_us or 0)


def _lapse(
    batch: WriteBatch, op: WriteOp, name: bytes, previous: tuple[int, int, Version], now: Now
) -> list[ChangeRow]:
    """The value being replaced had run out, but no tick has said so yet: say it first."""
    known_at, revision, version = previous
    expires_at = version.expires_at
    if expires_at is None or expires_at > (now.timeline_us or 0):
        return []
    if not batch.delete(b"expiries", expiry_key(expires_at, name, known_at, revision)):
        return []
    return [ChangeRow("expire", op.space, op.agent, op.key, known_at)]


def _supersede(
    batch: WriteBatch,
    previous: tuple[int, int, Version] | None,
    known_at: int,
    revision: int,
    follow: Follow,
) -> list[tuple[int, int]]:
    if previous is None or previous[2].partition < 0:
        return []
    partition, number = previous[2].partition, previous[2].row
    row = batch.vector_row(partition, number)
    if row is None or row.until_us <= known_at:
        return []
    end_row(batch, partition, number, row._replace(until_us=known_at, until_revision=revision))
    follow.end_row(partition, number, known_at, revision)
    return [(partition, number)]


def end_row(batch: WriteBatch, partition: int, number: int, row: VectorRow) -> None:
    """Store a row whose time in force was cut short."""
    batch.put(b"rows", row_key(partition, number), pack_row(row))


def _add_row(batch: WriteBatch, op: WriteOp, row: VectorRow, follow: Follow) -> tuple[int, int]:
    vector = op.vector or b""
    name = partition_name(op.agent, op.partition)
    found = take_rows(batch, name, len(vector) // FLOAT16_BYTES, 1, follow)
    batch.put(b"rows", row_key(found.id, found.rows), pack_row(row))
    follow.add_row(found, found.rows, row, vector)
    return found.id, found.rows


def take_rows(batch: WriteBatch, name: bytes, dim: int, count: int, follow: Follow) -> PartitionRow:
    """Count `count` new rows of a partition, made if it is new; what it was before, with its `rows`."""
    found = batch.partition(name)
    if found is None:
        number = batch.number(b"partitions") or 0
        batch.put_number(b"partitions", number + 1)
        found = PartitionRow(number, dim, 0)
        follow.new_partitions.append((name, number))
    grown = msgspec.structs.replace(found, rows=found.rows + count)
    batch.put(b"partitions", name, encode_partition(grown))
    return found


def write_vectors(files: VectorFiles, follow: Follow, only: Collection[int] | None = None) -> None:
    """Append the batch's vectors to their files, all or those with `only` these numbers; a run at a
    time.
    """  # noqa: D205
    for rows in follow.rows.values():
        if rows.vectors and (only is None or rows.file in only):
            files.write(rows.file, rows.dim, rows.first_row, b"".join(rows.vectors))
    for staged in follow.staged:
        if only is None or staged.file in only:
            files.write(staged.file, staged.dim, staged.first_row, staged.vectors)
