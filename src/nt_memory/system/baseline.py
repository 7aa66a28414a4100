"""From views to a base and back.

A base holds every table of the views but the log of accepted entries, which begins anew behind it,
and the vectors. It is taken from one transaction, so it is exact; and because `apply` is
deterministic it has the same bytes whenever and wherever it is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nt_memory.errors import CorruptionError
from nt_memory.replica.quotas import count_anew
from nt_memory.tiers.layout import LAYOUT_VERSION, NEVER_STARTED, U64, LogRow
from nt_memory.tiers.views import LOG, TABLES
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
    from collections.abc import Iterator
    from pathlib import Path

    from nt_memory.tiers.cold import ColdTier
    from nt_memory.tiers.vectors import VectorFiles
    from nt_memory.tiers.views import Snapshot

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


def save_base(directory: Path, snapshot: Snapshot, files: VectorFiles) -> BaseHeader:
    """Write a base of what a snapshot shows.

    Raises:
        CorruptionError: the views are damaged; no base is written.
        StorageFullError: no space is left.
        StorageError: it could not be written.

    Cost: about 2 s a million rows on one core, most of it beside the event loop.
    """
    directory.mkdir(exist_ok=True)
    header = header_of(snapshot)
    write_base(directory, header, blocks_of(snapshot, files))
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


def blocks_of(snapshot: Snapshot, files: VectorFiles) -> Iterator[Block]:
    """The content of a base.

    Raises:
        CorruptionError: a row is damaged or missing.
    """
    for table in TABLES:
        if table == LOG:
            continue
        found = 0
        for rows in snapshot.stored_rows(table, max_bytes=BLOCK_BYTES):
            found += len(rows)
            yield Block(table.decode(), rows)
        if found != (wanted := snapshot.count(table)):
            raise CorruptionError(f"views: {table.decode()}: {found} of {wanted} rows found")
    for partition in sorted((row for _, row in snapshot.partitions()), key=lambda row: row.id):
        section = f"{_VECTORS}/{partition.id}/{partition.dim}"
        step = max(1, BLOCK_BYTES // (partition.dim * _FLOAT16_BYTES))
        for first in range(0, partition.rows, step):
            stop = min(first + step, partition.rows)
            halves = files.read(partition.id, partition.dim, first, stop)
            yield Block(section, [(U64.pack(first), halves.tobytes())])


def load_base(base: BaseFile, cold: ColdTier, files: VectorFiles | None) -> None:
    """Fill empty views, and vector files if given, from a base.

    The log is left as it is, and if it is empty it gets a row that says when the base was made.

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
                for first, halves in rows:
                    files.write(partition, dim, U64.unpack(first)[0], halves)
        batch = loading.batch
        if files is not None:
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
