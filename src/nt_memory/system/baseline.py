"""From views to a base and back.

A base holds every table of the views but the log of accepted entries, which begins anew behind it,
and the vectors. It is taken from one transaction, so it is exact; and because `apply` is
deterministic it has the same bytes whenever and wherever it is made, if rows were numbered alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nt_memory.errors import CorruptionError, StorageError
from nt_memory.replica.quotas import count_anew
from nt_memory.system.renumbering import TABLES as RENUMBERED_TABLES
from nt_memory.tiers.layout import LAYOUT_VERSION, NEVER_STARTED, NUMBERING, U64, LogRow
from nt_memory.tiers.sealing import unseal
from nt_memory.tiers.tables import LOG, TABLES
from nt_memory.transport.basefile import (
    BLOCK_BYTES,
    BaseFile,
    BaseHeader,
    Block,
    base_path,
    list_bases,
    write_base,
)
from nt_memory.transport.segment_reader import entry_time

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from nt_memory.system.renumbering import Move, Renumbering
    from nt_memory.tiers.cold import ColdTier
    from nt_memory.tiers.layout import PartitionRow
    from nt_memory.tiers.vectors import VectorFiles
    from nt_memory.tiers.views import Snapshot

_META = "meta"
_VECTORS = "vectors"
_FLOAT16_BYTES = 2
_COMMIT_BYTES = 64 << 20


def newest_base(directory: Path) -> BaseFile | None:
    """The newest base of a store, open; None if it has none.

    Raises:
        CorruptionError: its start is damaged.
        FormatVersionError: a newer version wrote it.
    """
    sequences = list_bases(directory)
    return BaseFile(base_path(directory, sequences[-1])) if sequences else None


def check_origin(base: BaseFile, journal: Path) -> None:
    """Refuse a base whose last entry has another time in the journal that goes on from it.

    Raises:
        CorruptionError: one of the two is another store's.
    """
    said, found = base.header.recorded_at, entry_time(journal, base.header.sequence)
    if found is not None and said != found:
        raise CorruptionError(
            f"{base.path}: its last entry is of {said} us, but of {found} us in {journal}: one of "
            "them is another store's"
        )


def numbering_of_base(directory: Path) -> int | None:
    """The numbering of the rows in the newest base; 0 if there is no base, None if it is damaged.

    Views of another numbering do not go with it: their rows are others'. Cost: reads its first blocks.
    """
    try:
        base = newest_base(directory)
        if base is None:
            return 0
        with base:
            for section, rows in base.blocks():
                if section != _META:
                    break
                for key, stored in rows:
                    if key == NUMBERING:
                        return int(unseal(_META.encode(), key, stored))
    except StorageError:
        return None
    return 0


def save_base(
    directory: Path, snapshot: Snapshot, files: VectorFiles, renumbering: Renumbering | None = None
) -> BaseHeader:
    """Write a base of what a snapshot shows.

    Args:
        directory: Where bases are.
        snapshot: What to write.
        files: The vectors.
        renumbering: How rows are numbered in the base, if not as in the snapshot. It is then left at
            `pending_path`: the snapshot's views must not be found beside it.

    Raises:
        CorruptionError: the views are damaged; no base is written.
        StorageFullError: no space is left.
        StorageError: it could not be written.

    Cost: about 2 s a million rows on one core, most of it beside the event loop.
    """
    directory.mkdir(exist_ok=True)
    header = header_of(snapshot)
    blocks = blocks_of(snapshot, files, renumbering)
    write_base(directory, header, blocks, is_pending=renumbering is not None)
    return header


def header_of(snapshot: Snapshot) -> BaseHeader:
    """What a base of a snapshot covers."""
    revision = snapshot.number(b"revision") or 0
    last = snapshot.log_times(revision)
    return BaseHeader(
        sequence=snapshot.number(b"sequence") or 0,
        revision=revision,
        recorded_at=snapshot.number(b"recorded_at") or 0,
        now_us=NEVER_STARTED if last is None else last.now_us,
        layout=LAYOUT_VERSION,
    )


def blocks_of(
    snapshot: Snapshot, files: VectorFiles, renumbering: Renumbering | None = None
) -> Iterator[Block]:
    """The content of a base.

    Raises:
        CorruptionError: a row is damaged or missing.
    """
    for table in TABLES:
        if table == LOG:
            continue
        if renumbering is not None and table in RENUMBERED_TABLES:
            yield from (Block(table.decode(), rows) for rows in renumbering.rows(table) if rows)
        else:
            yield from _table_blocks(snapshot, table)
    if renumbering is not None:
        partitions = renumbering.partitions()
    else:
        rows = sorted((row for _, row in snapshot.partitions()), key=lambda row: row.file)
        partitions = ((row, None) for row in rows)
    for partition, move in partitions:
        yield from _vector_blocks(files, partition, move)


def _table_blocks(snapshot: Snapshot, table: bytes) -> Iterator[Block]:
    found = 0
    for rows in snapshot.stored_rows(table, max_bytes=BLOCK_BYTES):
        found += len(rows)
        yield Block(table.decode(), rows)
    if found != (wanted := snapshot.count(table)):
        raise CorruptionError(f"views: {table.decode()}: {found} of {wanted} rows found")


def _vector_blocks(
    files: VectorFiles, partition: PartitionRow, move: Move | None
) -> Iterator[Block]:
    section = f"{_VECTORS}/{partition.file}/{partition.dim}"
    step = max(1, BLOCK_BYTES // (partition.dim * _FLOAT16_BYTES))
    source = partition if move is None else move.old
    written = 0
    for first in range(0, source.rows, step):
        stop = min(first + step, source.rows)
        halves = files.read(source.file, source.dim, first, stop)
        if move is not None:
            halves = halves[move.numbers[first:stop] >= 0]
        if len(halves):
            yield Block(section, [(U64.pack(written), halves.tobytes())])
        written += len(halves)


def load_base(
    base: BaseFile,
    cold: ColdTier,
    files: VectorFiles | None,
    only: Collection[int] | None = None,
) -> None:
    """Fill empty views, and vector files if given, from a base.

    The log is left as it is, and if it is empty it gets a row that says when the base was made.

    Args:
        base: The base.
        cold: Empty views.
        files: Where vectors go; None: they are there.
        only: Of these partitions only; the others' are there. The base was then written just now.

    Raises:
        CorruptionError: the base is damaged. The views are then incomplete.
        StorageError: they could not be written.
    """
    loading = _Loading(cold)
    try:
        for section, rows in base.blocks():
            kind, _, place = section.partition("/")
            if kind != _VECTORS:
                loading.add(section.encode(), rows)
            elif files is not None:
                partition, dim = map(int, place.split("/"))
                for first, halves in rows if only is None or partition in only else ():
                    files.write(partition, dim, U64.unpack(first)[0], halves)
        batch = loading.batch
        if files is not None and only is None:
            # Not one that was just written: it may be of an older layout, or imported.
            count_anew(batch)
        header = base.header
        if not batch.count(LOG):
            batch.append_log(header.revision, LogRow(0, header.recorded_at, header.now_us))
        cold.commit(batch)
    except BaseException:
        loading.batch.close()
        raise


class _Loading:
    """Rows on their way into views, committed now and then: LMDB keeps the others in memory."""

    def __init__(self, cold: ColdTier) -> None:
        self._cold = cold
        self._bytes = 0
        self.batch = cold.begin()

    def add(self, table: bytes, rows: list[tuple[bytes, bytes]]) -> None:
        """The next rows of a table."""
        self.batch.load_rows(table, rows)
        self._bytes += sum(len(key) + len(value) for key, value in rows)
        if self._bytes > _COMMIT_BYTES:
            self._cold.commit(self.batch)
            self.batch, self._bytes = self._cold.begin(), 0
