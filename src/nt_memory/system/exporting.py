"""`export`: all that a store holds, as of one revision, in a form that others can read.

An export is a base of the store (`baseline`) in words: every version of every key with its times,
its tags and its embedding, and everything else that makes up a store, so that `import_store` can
make the same store of it again. It is read in one read transaction, from views that are opened for
it alone: writers go on meanwhile, and a compaction may exchange the views. The vectors that a re-embedding
has made so far are not in it: where it is imported that has to be begun anew. It streams, so memory
does not grow with the store. Exports of one revision have the same lines.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from nt_memory.clock import SystemClock
from nt_memory.errors import CorruptionError, InvalidInputError, StorageError
from nt_memory.namespace import check_agent
from nt_memory.records import Export
from nt_memory.replica import is_staged
from nt_memory.system.at_rest import are_trustworthy
from nt_memory.system.baseline import header_of
from nt_memory.system.exported_files import FILES, count_pieces, spell_files
from nt_memory.system.exportlines import (
    STDIO,
    Digest,
    Header,
    JsonLinesSink,
    LineSink,
    header_line,
    row_line,
)
from nt_memory.system.references import in_views
from nt_memory.system.spelling import ROWS, UNREADABLE, VERSIONS, spell
from nt_memory.tiers.cold import ColdTier
from nt_memory.tiers.layout import ROW_KEY, decode_version, parse_name, unpack_row, version_key
from nt_memory.tiers.sealing import unseal
from nt_memory.tiers.tables import LOG, PARTITIONS, TABLES
from nt_memory.tiers.vectors import VectorFiles
from nt_memory.transport.directory import StoreDirectory

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from nt_memory.clock import Clock
    from nt_memory.system.engine import Engine
    from nt_memory.system.spelling import Row
    from nt_memory.tiers.layout import PartitionRow
    from nt_memory.tiers.views import Snapshot

Format = Literal["jsonl", "parquet"]
Progress: TypeAlias = "Callable[[int, int], None]"
"""Told rows done and rows in all, 0 if that is not known, every few thousand rows."""

PROGRESS_ROWS = 2048
_ROWS_BYTES = 1 << 16
_SWAP_WAIT_S = 0.02
_SWAP_TRIES = 250
_DOUBTS = 3


def export_store(
    store: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    format: Format | None = None,  # noqa: A002 - the word users know
    agents: Iterable[str] = (),
    clock: Clock | None = None,
    progress: Progress | None = None,
) -> Export:
    """Export a store, which may be in use by this or another process.

    Args:
        store: Directory of the store.
        target: A file that does not exist yet, for JSON Lines (compressed if it ends with `.zst`;
            `-` is stdout); or a directory that does not exist yet, for Parquet.
        format: "jsonl" or "parquet"; None: "parquet" if the target ends with `.parquet`.
        agents: Only versions of these agents. Such an export is for reading: it cannot be imported.
        clock: Source of time; for tests.
        progress: Told how far it is.

    Returns:
        What was exported.

    Raises:
        InvalidInputError: the target exists, or an agent's name is malformed.
        CorruptionError: the views are damaged; nothing is left at the target.
        StorageFullError: no space is left.
        StorageError: the store cannot be read, or the target not written.
        UnsupportedError: Parquet needs `nt-memory[parquet]`.

    Cost: about 20 s a million rows on one core. Blocks: call it off the event loop. The store's
        views cannot reuse pages meanwhile, so they grow with what is written. Value files go piece
        by piece, about 5 s a gigabyte. A compaction by another process may remove one that retention
        has just dropped: then the export fails, and has to be repeated.
    """
    wanted = frozenset(check_agent(agent) for agent in agents)
    directory = StoreDirectory(store, clock=clock or SystemClock(), read_only=True)
    cold = _open_views(directory)
    try:
        files = VectorFiles(directory.vectors, read_only=True)
        snapshot = cold.snapshot()
        try:
            sink = _open_sink(target, format)
            try:
                reader = _Reader(snapshot, files, directory.values, wanted)
                done = _write(sink, reader, progress)
                sink.finish()
            except BaseException:
                sink.discard()
                raise
        finally:
            snapshot.close()
            files.close()
    finally:
        cold.close()
        directory.close()
    return done


async def export_live(
    engine: Engine,
    target: str | os.PathLike[str],
    *,
    format: Format | None,  # noqa: A002
    agents: Iterable[str],
) -> Export:
    """Export the store of an engine on another thread; see `MemorySystem.export`."""
    is_cancelled = threading.Event()

    def check(_done: int, _total: int) -> None:
        if is_cancelled.is_set():
            raise StorageError("the export was cancelled")

    try:
        with engine.values.hold():
            return await asyncio.to_thread(
                export_store,
                engine.opened.directory.path,
                target,
                format=format,
                agents=agents,
                progress=check,
            )
    except asyncio.CancelledError:
        is_cancelled.set()
        raise


def _open_views(directory: StoreDirectory) -> ColdTier:
    pause = threading.Event()
    doubts = 0
    for _ in range(_SWAP_TRIES):
        if not directory.views.exists():
            pass  # a compaction is between its two renames
        elif are_trustworthy(directory):
            try:
                return ColdTier(directory.views, max_map_bytes=1 << 40, read_only=True)
            except StorageError:
                if directory.views.exists():
                    raise
        elif (doubts := doubts + 1) == _DOUBTS:  # once may be because a writer comes or goes
            break
        pause.wait(_SWAP_WAIT_S)
    raise StorageError(
        f"{directory.path}: its views are missing or not to be trusted: "
        "open it for writing once, which makes them anew"
    )


def _open_sink(target: str | os.PathLike[str], format: Format | None) -> LineSink:  # noqa: A002
    path = None if target == STDIO else Path(target)
    if format not in {None, "jsonl", "parquet"}:
        raise InvalidInputError(f"format {format!r} is neither 'jsonl' nor 'parquet'")
    if format == "parquet" or (format is None and path and path.suffix == ".parquet"):
        if path is None:
            raise InvalidInputError("Parquet needs a directory: it cannot go to stdout")
        # Needs an extra, and is slow to import.
        from nt_memory.system.parquetfiles import ParquetSink  # noqa: PLC0415

        return ParquetSink(path)
    return JsonLinesSink(path)


def _write(sink: LineSink, reader: _Reader, progress: Progress | None) -> Export:
    header = reader.header()
    total = sum(header.rows.values())
    digest = Digest()
    line = header_line(header)
    digest.add(line)
    sink.write(line, None, None)
    for row, embedding in reader.rows():
        line = row_line(row, embedding)
        digest.add(line)
        sink.write(line, row, embedding)
        if progress is not None and digest.rows % PROGRESS_ROWS == 0:
            progress(digest.rows - 1, total)
    sink.write(digest.trailer(), None, None)
    if progress is not None:
        progress(digest.rows - 1, total)
    return Export(revision=header.revision, rows=digest.rows - 1, digest=digest.state.hex())


class _Reader:
    """The rows of one snapshot, in words."""

    def __init__(
        self, snapshot: Snapshot, files: VectorFiles, values: Path, agents: frozenset[str]
    ) -> None:
        self._snapshot = snapshot
        self._files = files
        self._values = values
        self._agents = agents
        self._references = sorted(
            {
                wanted.reference
                for wanted in in_views(snapshot)
                if not agents or wanted.agent in agents
            }
        )
        self._partitions: dict[int, PartitionRow] = {
            row.id: row for name, row in snapshot.partitions() if not is_staged(name)
        }
        self._staged = snapshot.count(PARTITIONS) - len(self._partitions)
        # A compaction may remove a file whose rows it has numbered anew. What is mapped stays.
        for row in self._partitions.values():
            files.rows(row.file, row.dim, row.rows)

    def header(self) -> Header:
        found = header_of(self._snapshot)
        counts: dict[str, int] = {
            table.decode(): self._snapshot.count(table) for table in TABLES if table != LOG
        }
        counts[PARTITIONS.decode()] -= self._staged
        if self._references:
            counts[FILES] = count_pieces(self._references)
        return Header(
            found.sequence,
            found.revision,
            found.recorded_at,
            found.now_us,
            tuple(sorted(self._agents)),
            {} if self._agents else counts,
        )

    def rows(self) -> Iterator[tuple[Row, NDArray[np.float16] | None]]:
        for table in TABLES:
            name = table.decode()
            if table == LOG or (self._agents and name != VERSIONS):
                continue
            found = 0
            for rows in self._snapshot.stored_rows(table, max_bytes=_ROWS_BYTES):
                for key, stored in rows:
                    found += 1
                    if self._is_wanted(key) and not (table == PARTITIONS and is_staged(key)):
                        yield self._spell(name, key, unseal(table, key, stored))
            if found != (wanted := self._snapshot.count(table)):
                raise CorruptionError(f"views: {name}: {found} of {wanted} rows found")
        for row in spell_files(self._values, self._references):
            yield row, None

    def _is_wanted(self, key: bytes) -> bool:
        return not self._agents or parse_name(key[:-16])[1] in self._agents

    def _spell(
        self, table: str, key: bytes, value: bytes
    ) -> tuple[Row, NDArray[np.float16] | None]:
        try:
            row = spell(table, key, value)
        except UNREADABLE as error:
            raise CorruptionError(f"views: {table}: row {key!r} is damaged: {error}") from error
        if table == VERSIONS:
            return row, self._embedding(value)
        if table == ROWS:
            return row, self._forgotten(key, value)
        return row, None

    def _embedding(self, value: bytes) -> NDArray[np.float16] | None:
        version = decode_version(value)
        return None if version.partition < 0 else self._vector(version.partition, version.row)

    def _forgotten(self, key: bytes, value: bytes) -> NDArray[np.float16] | None:
        """The vector of a row whose version was dropped; the others go with their versions."""
        partition, number = ROW_KEY.unpack(key)
        row = unpack_row(value)
        version = self._snapshot.version(version_key(row.name, row.from_us, row.revision))
        if version is not None and (version.partition, version.row) == (partition, number):
            return None
        return self._vector(partition, number)

    def _vector(self, partition: int, number: int) -> NDArray[np.float16]:
        found = self._partitions.get(partition)
        if found is None or number >= found.rows:
            raise CorruptionError(f"views: there is no row {number} of partition {partition}")
        vector: NDArray[np.float16] = self._files.rows(found.file, found.dim, found.rows)[number]
        return vector
