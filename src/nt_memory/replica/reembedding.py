"""Embedding an agent's observations anew: other vectors for the same rows, by entries.

A partition's rows keep their numbers, their times and their versions; only the file that their vectors
are in becomes another. So a switch changes one row of the views, however many observations there are,
and searches of the past go on as they were, by the new vectors.

Until then the new vectors are a partition of their own, under a name that nobody can give one, with
rows counted from the front: `Embed` adds some, in order, and `SwitchEmbedding` is refused until there
are as many as rows. Observations made meanwhile are rows at the end, and are waited for like the others.

Rows of which no version is left (`history` or retention dropped it, and no compaction has given the row
back yet) cannot be embedded: what they say is gone. Whoever would need them is told so, as after a
compaction: the floor of the agent's rows is raised.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, cast

from msgspec import structs

from nt_memory.entries import (
    STATE,
    AbandonEmbedding,
    Embed,
    EmbeddingCommand,
    Reembed,
    SwitchEmbedding,
)
from nt_memory.errors import InvalidInputError, ReembeddingError
from nt_memory.namespace import check_agent
from nt_memory.replica.follow import StagedVectors
from nt_memory.replica.writes import FLOAT16_BYTES, partition_name
from nt_memory.tiers.layout import (
    ROWS_FLOOR,
    ChangeRow,
    Floor,
    PartitionRow,
    Staged,
    decode_floor,
    encode_partition,
    encode_row,
    version_key,
)
from nt_memory.tiers.vectors import NEVER

if TYPE_CHECKING:
    from typing import Any

    from nt_memory.replica.follow import Follow
    from nt_memory.replica.writes import Now
    from nt_memory.tiers.views import Snapshot, WriteBatch

CHANGE = "reembed"
"""Kind of the row of the log that says that an agent's observations have other vectors."""

_STAGED = "\0"
_PARTITIONS = b"partitions"


def staged_name(agent: str) -> bytes:
    """Where the views keep what a re-embedding of an agent has made so far."""
    return partition_name(agent, _STAGED)


def is_staged(name: bytes) -> bool:
    """Whether a name of the table of partitions is one of those."""
    return name.endswith(b"\0\0")


def carry_out(
    batch: WriteBatch, command: EmbeddingCommand, now: Now, follow: Follow
) -> tuple[Any, tuple[ChangeRow, ...]] | None:
    """Decide and fold one of the four commands.

    Returns:
        What it results in, and what the log has to say of it; None if it changes nothing.

    Raises:
        InvalidInputError: it is malformed, or does not fit what there is.
        ReembeddingError: another re-embedding of the agent is unfinished, or took its place.
    """
    check_agent(command.agent)
    if isinstance(command, Reembed):
        return _begin(batch, command), ()
    staged = batch.partition(staged_name(command.agent))
    if isinstance(command, AbandonEmbedding):
        if staged is None or _state(staged).ticket != command.ticket:
            return None
        batch.delete(_PARTITIONS, staged_name(command.agent))
        return staged.file, ()
    if staged is None or _state(staged).ticket != command.ticket:
        raise ReembeddingError(f"{command.agent}: this re-embedding is over")
    observed = batch.partition(partition_name(command.agent, ""))
    assert observed is not None  # noqa: S101 - there was one when it began, and none is ever removed
    if isinstance(command, SwitchEmbedding):
        return _switch(batch, command, now, follow, observed, staged)
    return _embed(batch, command, follow, observed, staged), ()


def drop_unlabelled(batch: WriteBatch) -> None:
    """A session ended: what nobody can go on with is given up."""
    gone = [
        name for name, row in batch.partitions() if row.staged is not None and not row.staged.label
    ]
    for name in gone:
        batch.delete(_PARTITIONS, name)


def _begin(batch: WriteBatch, command: Reembed) -> int:
    """Make room for the vectors; the number of their file."""
    agent = command.agent
    if not command.ticket or command.dim < 1:
        raise InvalidInputError(
            f"{agent}: a re-embedding has a ticket, and a dimension of 1 or more"
        )
    if batch.partition(partition_name(agent, "")) is None:
        raise InvalidInputError(f"{agent}: there are no observations")
    unfinished = batch.partition(staged_name(agent))
    found = "" if unfinished is None else _state(unfinished).ticket
    if found != command.instead:
        raise ReembeddingError(f"{agent}: the observations are being embedded anew already")
    number = batch.number(_PARTITIONS) or 0
    batch.put_number(_PARTITIONS, number + 1)
    state = Staged(command.ticket, command.label, -NEVER, 0)
    row = PartitionRow(number, command.dim, 0, staged=state)
    batch.put(_PARTITIONS, staged_name(agent), encode_partition(row))
    return number


def _embed(
    batch: WriteBatch,
    command: Embed,
    follow: Follow,
    observed: PartitionRow,
    staged: PartitionRow,
) -> int:
    """Take the next vectors; how many rows have one then."""
    count, rest = divmod(len(command.vectors), staged.dim * FLOAT16_BYTES)
    stop = command.first + count
    if rest or not count or command.first != staged.rows or stop > observed.rows:
        raise InvalidInputError(
            f"{command.agent}: {len(command.vectors)} bytes are not the vectors of {staged.dim} "
            f"values of rows {staged.rows} and after, of {observed.rows}"
        )
    lost = command.lost
    if any(one >= other for one, other in itertools.pairwise(lost)) or (
        lost and not command.first <= lost[0] <= lost[-1] < stop
    ):
        raise InvalidInputError(f"{command.agent}: rows out of order, or not of this entry")
    state = _state(staged)
    for number in lost:
        state = _raise_floor(batch, command.agent, observed.id, number, state)
    grown = structs.replace(staged, rows=stop, staged=state)
    batch.put(_PARTITIONS, staged_name(command.agent), encode_partition(grown))
    follow.staged.append(StagedVectors(staged.file, staged.dim, command.first, command.vectors))
    return stop


def _raise_floor(views: Snapshot, agent: str, partition: int, number: int, state: Staged) -> Staged:
    """A moment at which this row was in force cannot be searched any more."""
    row = views.vector_row(partition, number)
    if row is None or row.until_us == NEVER:
        raise InvalidInputError(f"{agent}: row {number} is in force: it has a version")
    version = views.version(version_key(row.name, row.from_us, row.revision))
    if version is not None and (version.partition, version.row) == (partition, number):
        raise InvalidInputError(f"{agent}: row {number} has a version")
    # A row that was written with its end was never in force for anybody without it.
    by_other = row.until_revision if row.until_revision != row.revision else 0
    return structs.replace(
        state,
        floor_us=max(state.floor_us, row.until_us),
        floor_revision=max(state.floor_revision, by_other),
    )


def _switch(
    batch: WriteBatch,
    command: SwitchEmbedding,
    now: Now,
    follow: Follow,
    observed: PartitionRow,
    staged: PartitionRow,
) -> tuple[Any, tuple[ChangeRow, ...]] | None:
    """Let the new vectors take the place of the old ones; None if some are missing."""
    if staged.rows != observed.rows:
        return None
    switched = PartitionRow(observed.id, staged.dim, observed.rows, moved_to=staged.file)
    batch.put(_PARTITIONS, partition_name(command.agent, ""), encode_partition(switched))
    batch.delete(_PARTITIONS, staged_name(command.agent))
    state = _state(staged)
    if state.floor_us > -NEVER:
        _keep_floor(batch, command.agent, state)
    follow.reembed(switched)
    told = ChangeRow(CHANGE, STATE, command.agent, "", now.timeline_us or 0, observed.id)
    return now.revision, (told,)


def _keep_floor(batch: WriteBatch, agent: str, state: Staged) -> None:
    key = ROWS_FLOOR + agent.encode()
    floor = Floor(state.floor_us, state.floor_revision)
    data = batch.get(b"policies", key)
    if data is not None:
        before = decode_floor(data)
        floor = Floor(max(floor.time_us, before.time_us), max(floor.revision, before.revision))
    batch.put(b"policies", key, encode_row(floor))


def _state(staged: PartitionRow) -> Staged:
    return cast("Staged", staged.staged)
