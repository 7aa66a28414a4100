"""Rows of observations that were replaced or deleted are given back, by a compaction.

Rows are only ever appended, and a row's number is its identity: versions name it, searches find it,
graphs hold it. So a partition of which much is dead gets a new id, under which the rows that still
have a version are numbered anew, in the order they had. The base is written that way, fresh views are
filled from it, and old and new id exist side by side until the fresh views take the place of the old
ones: whoever searches by the old id goes on with the old file.

Partitions of which new vectors are being made stay as they are until that is over: see
`replica.reembedding`.

Only observations on a live timeline are renumbered. On a backtest timeline approximate answers are a
function of the entries, and so of the numbers; and the ReasoningBank keeps the numbers of its own rows.

Ids of renumbered partitions are taken from the top, downwards: the views in use go on giving ids to new
partitions from the bottom meanwhile, and the fresh ones, which catch up with them, give them the same.

A search as of a moment at which a row that was given back was in force could have needed it. Such
moments lie before the floor that is kept with the agent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from nt_memory.clock import to_datetime
from nt_memory.entries import STATE
from nt_memory.errors import CorruptionError, TrimmedError
from nt_memory.replica import Moved, staged_name
from nt_memory.tiers.layout import (
    LAST_PARTITION,
    MOVED,
    NUMBERING,
    ROW_KEY,
    ROW_TIMES,
    ROWS_FLOOR,
    Floor,
    PartitionRow,
    decode_floor,
    decode_version,
    encode_partition,
    encode_row,
    row_key,
)
from nt_memory.tiers.sealing import seal, unseal
from nt_memory.tiers.vectors import NEVER
from nt_memory.transport.basefile import BLOCK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from nt_memory.replica import Follow
    from nt_memory.tiers.vectors import Partition, VectorTier
    from nt_memory.tiers.views import Snapshot
    from nt_memory.timeline import Moment

MIN_DEAD_ROWS = 256
"""Fewer are not worth a new file."""

DEAD_SHARE = 4
"""One row in so many must be dead. Each row that is written is so copied a few times at most."""

INDEXED_DEAD_SHARE = 2
"""The same where there is a graph, which has to be built anew."""

_META, _POLICIES, _VERSIONS, _PARTITIONS, _ROWS = (
    b"meta",
    b"policies",
    b"versions",
    b"partitions",
    b"rows",
)
TABLES = frozenset((_META, _POLICIES, _VERSIONS, _PARTITIONS, _ROWS))
"""What a renumbering changes; the rest of a base is as the views have it."""

Stored = list[tuple[bytes, bytes]]


class Move(NamedTuple):
    """One partition and its new numbering.

    Attributes:
        agent: Whose observations.
        name: The partition's.
        old: As it is.
        new: As it will be.
        numbers: Shape (old.rows,): the new number of each row; -1: it is given back.
        floor: All rows that are given back had ended by this time, by entries up to this revision.
    """

    agent: str
    name: bytes
    old: PartitionRow
    new: PartitionRow
    numbers: NDArray[np.int64]
    floor: Floor


def check_rows_floor(snapshot: Snapshot, agent: str, moment: Moment) -> None:
    """Refuse a search as of a moment when rows that were given back may have been in force.

    Raises:
        TrimmedError: it lies before the floor of the agent's rows.
    """
    data = snapshot.get(_POLICIES, ROWS_FLOOR + agent.encode())
    if data is None:
        return
    floor = decode_floor(data)
    if moment.time_us < floor.time_us or moment.revision < floor.revision:
        raise TrimmedError(
            f"{agent}: of the observations in force before {to_datetime(floor.time_us)}, or before "
            f"revision {floor.revision}, some were dropped",
            oldest=floor.revision,
        )


def plan(snapshot: Snapshot, vectors: VectorTier) -> Renumbering | None:
    """Which partitions are worth numbering anew, and how; None: none is.

    Args:
        snapshot: Of a live timeline.
        vectors: Says how many rows of each partition have an end, and which have a graph.

    Raises:
        CorruptionError: the views are damaged.

    Cost: nothing for partitions in which few rows have ended; else reads their agents' versions and
        their rows, 2 s a million. Off the loop.
    """
    taken = snapshot.number(MOVED) or 0
    moves: list[Move] = []
    for name, row in snapshot.partitions():
        agent, _, partition = name.decode().partition("\0")
        share = INDEXED_DEAD_SHARE if vectors.is_indexed(row.id) else DEAD_SHARE
        wanted = max(MIN_DEAD_ROWS, -(-row.rows // share))
        if partition or vectors.ended_rows(row.id) < wanted:
            continue
        if snapshot.partition(staged_name(agent)) is not None:
            continue  # a re-embedding under way counts its rows
        new_id = LAST_PARTITION - taken - len(moves)
        move = _plan_move(snapshot, agent, name, row, new_id)
        if move is not None and move.old.rows - move.new.rows >= wanted:
            moves.append(move)
    return Renumbering(snapshot, moves, taken) if moves else None


def _plan_move(
    snapshot: Snapshot, agent: str, name: bytes, row: PartitionRow, new_id: int
) -> Move | None:
    is_kept = _kept_rows(snapshot, agent, row)
    columns = _dead_columns(snapshot, agent, row, is_kept)
    if columns is None:
        return None
    until_us, until_revision, revision = columns
    # A row that was written with its end was never in force for anybody without it.
    by_others = until_revision[until_revision != revision]
    floor = Floor(int(until_us.max(initial=-NEVER)), int(by_others.max(initial=0)))
    before = snapshot.get(_POLICIES, ROWS_FLOOR + agent.encode())
    if before is not None:
        earlier = decode_floor(before)
        floor = Floor(max(floor.time_us, earlier.time_us), max(floor.revision, earlier.revision))
    numbers = np.where(is_kept, np.cumsum(is_kept) - 1, -1)
    new = PartitionRow(new_id, row.dim, int(np.count_nonzero(is_kept)))
    return Move(agent, name, row, new, numbers, floor)


def _kept_rows(snapshot: Snapshot, agent: str, row: PartitionRow) -> NDArray[np.bool_]:
    """Which rows of a partition a version belongs to."""
    is_kept = np.zeros(row.rows, np.bool_)
    prefix = _prefix(agent)
    for rows in snapshot.stored_rows(_VERSIONS, prefix):
        for key, stored in rows:
            if not key.startswith(prefix):
                return is_kept
            version = decode_version(unseal(_VERSIONS, key, stored))
            if version.partition != row.id:
                continue
            if not 0 <= version.row < row.rows or is_kept[version.row]:
                raise CorruptionError(f"views: versions: {key!r}: row {version.row} is not its own")
            is_kept[version.row] = True
    return is_kept


def _dead_columns(
    snapshot: Snapshot, agent: str, row: PartitionRow, is_kept: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]] | None:
    """Until when, until which entry and since which the dead rows were in force.

    None if one of them has no end, or belongs to something else than an observation: then it is not
    known to be dead, and nothing is given back.
    """
    prefix = _prefix(agent)
    times = bytearray()
    for data in snapshot.vector_rows(row.id):
        if not data.startswith(prefix, ROW_TIMES):
            return None
        times += data[:ROW_TIMES]
    columns = np.frombuffer(bytes(times), "<i8").reshape(-1, 4)
    if len(columns) != row.rows:
        raise CorruptionError(f"views: rows: {len(columns)} of {row.rows} of {row.id} found")
    dead = columns[~is_kept].astype(np.int64)
    if (dead[:, 1] == NEVER).any():
        return None
    return dead[:, 1], dead[:, 2], dead[:, 3]


def _prefix(agent: str) -> bytes:
    return f"{STATE}{agent}\0".encode()


class Renumbering:
    """What a base says of the views of a snapshot once some partitions are numbered anew."""

    def __init__(self, snapshot: Snapshot, moves: list[Move], taken: int) -> None:
        self._snapshot = snapshot
        self._taken = taken
        self.moves = moves
        self._by_id = {move.old.id: move for move in moves}
        self._prefixes = {_prefix(move.agent) for move in moves}
        self.ids: frozenset[int] = frozenset(move.new.id for move in moves)

    def rows(self, table: bytes) -> Iterator[Stored]:
        """The rows of one of `TABLES`, in key order.

        Raises:
            CorruptionError: rows are damaged or missing.
        """
        if table == _VERSIONS:
            return self._versions()
        if table == _ROWS:
            return self._vector_rows()
        return iter([self._changed(table)])

    def partitions(self) -> Iterator[tuple[PartitionRow, Move | None]]:
        """Every partition as it will be, by its file, and what becomes of it."""
        found = [
            (move.new, move) if (move := self._by_id.get(row.id)) is not None else (row, None)
            for _, row in self._snapshot.partitions()
        ]
        return iter(sorted(found, key=lambda one: one[0].file))

    def _changed(self, table: bytes) -> Stored:
        """All rows of a small table, with the renumbering in them."""
        rows = dict(self._snapshot.items(table))
        if len(rows) != (wanted := self._snapshot.count(table)):
            raise CorruptionError(f"views: {table.decode()}: {len(rows)} of {wanted} rows found")
        if table == _META:
            sequence = self._snapshot.number(b"sequence") or 0
            rows[NUMBERING] = str(sequence).encode()
            rows[MOVED] = str(self._taken + len(self.moves)).encode()
        for move in self.moves:
            if table == _PARTITIONS:
                rows[move.name] = encode_partition(move.new)
            elif table == _POLICIES:
                rows[ROWS_FLOOR + move.agent.encode()] = encode_row(move.floor)
        return [(key, seal(table, key, value)) for key, value in sorted(rows.items())]

    def _versions(self) -> Iterator[Stored]:
        found, moved = 0, 0
        for rows in self._snapshot.stored_rows(_VERSIONS, max_bytes=BLOCK_BYTES):
            found += len(rows)
            for place, (key, stored) in enumerate(rows):
                if key[: key.index(b"\0") + 1] in self._prefixes:
                    changed = self._version(key, stored)
                    moved += changed is not stored
                    rows[place] = (key, changed)
            yield rows
        wanted, kept = self._snapshot.count(_VERSIONS), sum(move.new.rows for move in self.moves)
        if found != wanted or moved != kept:
            raise CorruptionError(
                f"views: versions: {found} of {wanted} rows found, {moved} of {kept} with vectors"
            )

    def _version(self, key: bytes, stored: bytes) -> bytes:
        version = decode_version(unseal(_VERSIONS, key, stored))
        move = self._by_id.get(version.partition)
        if move is None:
            return stored
        number = int(move.numbers[version.row])
        moved = msgspec.structs.replace(version, partition=move.new.id, row=number)
        return seal(_VERSIONS, key, encode_row(moved))

    def _vector_rows(self) -> Iterator[Stored]:
        """Ids given now are less than those given from the top before, and greater than the others."""
        lowest, found = min(self.ids), 0
        for rows in self._unmoved(0, lowest):
            found += len(rows)
            yield rows
        for move in sorted(self.moves, key=lambda move: move.new.id):
            for rows, read in self._moved(move):
                found += read
                yield rows
        for rows in self._unmoved(lowest, LAST_PARTITION + 1):
            found += len(rows)
            yield rows
        if found != (wanted := self._snapshot.count(_ROWS)):
            raise CorruptionError(f"views: rows: {found} of {wanted} rows found")

    def _unmoved(self, first: int, stop: int) -> Iterator[Stored]:
        """Rows of partitions from `first` on and below `stop` that stay as they are."""
        for rows in self._snapshot.stored_rows(_ROWS, row_key(first, 0), max_bytes=BLOCK_BYTES):
            staying: Stored = []
            for key, stored in rows:
                partition, _ = ROW_KEY.unpack(key)
                if partition >= stop:
                    break
                if partition not in self._by_id:
                    staying.append((key, stored))
            if staying:
                yield staying
            if ROW_KEY.unpack(rows[-1][0])[0] >= stop:
                return

    def _moved(self, move: Move) -> Iterator[tuple[Stored, int]]:
        """Some rows of a partition under their new numbers, and how many old ones that were."""
        start = row_key(move.old.id, 0)
        for rows in self._snapshot.stored_rows(_ROWS, start, max_bytes=BLOCK_BYTES):
            moved: Stored = []
            read = 0
            for key, stored in rows:
                partition, number = ROW_KEY.unpack(key)
                if partition != move.old.id:
                    break
                read += 1
                new = int(move.numbers[number])
                if new >= 0:
                    new_key = row_key(move.new.id, new)
                    moved.append((new_key, seal(_ROWS, new_key, unseal(_ROWS, key, stored))))
            yield moved, read
            if read < len(rows):
                return


class Newcomers:
    """Renumbered partitions on their way into the vector tier, kept up with the fresh views.

    Made and fed by the compaction, on whichever thread that is on; handed to the loop at the exchange.
    """

    def __init__(self, vectors: VectorTier, renumbering: Renumbering, fresh: Snapshot) -> None:
        self._moves = renumbering.moves
        self._partitions: dict[int, Partition] = {}
        for move in self._moves:
            partition = vectors.prepare(move.new.file, move.new.dim)
            fill(partition, fresh, move.new.id)
            self._partitions[move.new.id] = partition

    def follow(self, follow: Follow) -> None:
        """The fresh views took in a batch."""
        for rows in follow.rows.values():
            partition = self._partitions.get(rows.partition)
            if partition is not None and rows.from_us:
                partition.columns.append(
                    np.frombuffer(rows.from_us, np.int64),
                    np.frombuffer(rows.until_us, np.int64),
                    None,
                    np.frombuffer(rows.revision, np.int64),
                )
        for number, row, until_us, until_revision in follow.ended:
            if (partition := self._partitions.get(number)) is not None:
                partition.columns.end(row, until_us, until_revision)

    def moved(self) -> list[Moved]:
        """What the loop is told."""
        return [
            Moved(move.name, move.old.id, move.new.id, self._partitions[move.new.id])
            for move in self._moves
        ]


def fill(partition: Partition, snapshot: Snapshot, number: int) -> None:
    """Give a partition that was just prepared the columns the views have under an id. 1 us a row."""
    columns = read_columns(snapshot, number)
    partition.columns.append(columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3])


def read_columns(snapshot: Snapshot, partition: int) -> NDArray[np.int64]:
    """When each row of a partition is in force, shape (rows, 4), in the order of `VectorRow`."""
    times = b"".join(data[:ROW_TIMES] for data in snapshot.vector_rows(partition))
    return np.frombuffer(times, "<i8").reshape(-1, 4).astype(np.int64)
