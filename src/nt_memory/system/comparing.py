"""Row by row, two sets of views and vectors that must be equal; and a difference in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nt_memory.clock import to_datetime
from nt_memory.errors import CorruptionError
from nt_memory.tiers.layout import U64, decode_log, decode_version, parse_name, parse_tail
from nt_memory.tiers.sealing import unseal
from nt_memory.tiers.tables import LOG, TABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nt_memory.tiers.layout import PartitionRow
    from nt_memory.tiers.vectors import VectorFiles
    from nt_memory.tiers.views import Snapshot

_Row = tuple[bytes, bytes]
_ROWS_AT_ONCE = 4096


def compare_tables(
    live: Snapshot, fresh: Snapshot, count: Callable[[str, int], None]
) -> Iterator[str]:
    """Every difference between the views of a store and those computed anew, in table order.

    Of the log only what lies behind both bases is compared: before it, one may hold more.

    Args:
        live: The store's.
        fresh: What base and journal give.
        count: Is told the table and how many rows of it were compared since it was told last.

    Raises:
        CorruptionError: a row fails its checksum.
    """
    log_start = U64.pack(max(live.log_floor, fresh.log_floor) + 1)
    for table in TABLES:
        start = log_start if table == LOG else b""
        yield from _compare(table, _rows(live, table, start), _rows(fresh, table, start), count)
        for views, whose in ((live, "the store's views"), (fresh, "the recomputed views")):
            counted, said = _count(views, table), views.count(table)
            if counted != said:
                yield f"views: {table.decode()}: {whose} have {counted} rows and say {said}"


def _compare(
    table: bytes,
    live: Iterator[_Row],
    fresh: Iterator[_Row],
    count: Callable[[str, int], None],
) -> Iterator[str]:
    mine, wanted = next(live, None), next(fresh, None)
    compared = 0
    while mine is not None or wanted is not None:
        if wanted is None or (mine is not None and mine[0] < wanted[0]):
            assert mine is not None  # noqa: S101 - one of the two is there
            yield f"{describe(table, *mine)}: is in the views, and base and journal do not say so"
            mine = next(live, None)
            continue
        if mine is None or wanted[0] < mine[0]:
            yield f"{describe(table, *wanted)}: base and journal say so, and it is not in the views"
            wanted = next(fresh, None)
            continue
        if mine[1] != wanted[1]:
            is_, should = describe(table, *mine), describe(table, *wanted)
            yield f"{is_}: base and journal say {should}"
        compared += 1
        if compared % 10_000 == 0:
            count(table.decode(), 10_000)
        mine, wanted = next(live, None), next(fresh, None)
    count(table.decode(), compared % 10_000)


def _rows(views: Snapshot, table: bytes, start: bytes) -> Iterator[_Row]:
    for rows in views.stored_rows(table, start):
        yield from rows


def _count(views: Snapshot, table: bytes) -> int:
    return sum(len(rows) for rows in views.stored_rows(table))


def compare_vectors(
    live: VectorFiles,
    fresh: VectorFiles,
    name: str,
    partition: PartitionRow,
    count: Callable[[int], None],
) -> None:
    """Compare the vectors of a partition, and those of the store with their checksums.

    Args:
        live: The store's.
        fresh: What base and journal give.
        name: The partition's.
        partition: What the views say of it.
        count: Is told how many were compared since it was told last.

    Raises:
        CorruptionError: they differ, or the store's are damaged or gone.
    """
    for first in range(0, partition.rows, _ROWS_AT_ONCE):
        stop = min(first + _ROWS_AT_ONCE, partition.rows)
        place = (partition.file, partition.dim, first, stop)
        differs = (live.read(*place) != fresh.read(*place)).any(axis=1)
        if differs.any():
            row = first + int(np.flatnonzero(differs)[0])
            raise CorruptionError(
                f"{live.path(partition.file)}: row {row} of {name!r} differs from its entry"
            )
        count(stop - first)
    live.check(partition.file, partition.dim, partition.rows)


def describe(table: bytes, key: bytes, stored: bytes) -> str:
    """A row of the views in words. It must have a valid checksum."""
    value = unseal(table, key, stored)
    where = f"views: {table.decode()}"
    if table == b"versions":
        space, agent, name = parse_name(key[:-16])
        known_at, revision = parse_tail(key)
        version = decode_version(value)
        kind = "delete" if version.value is None else f"{len(version.value)} bytes"
        return (
            f"{where}: {agent}/{name} (space {space!r}), known at {to_datetime(known_at)}, "
            f"revision {revision}: {kind}, recorded at {to_datetime(version.recorded_at)}, "
            f"{value[-40:].hex()}"
        )
    if table == LOG:
        row = decode_log(value)
        changed = ", ".join(f"{change.agent}/{change.key}" for change in row.changes[:3])
        return f"{where}: revision {U64.unpack(key)[0]}, position {row.position}: {changed}"
    return f"{where}: {key!r} = {value[:80]!r}"
