"""`import_store`: make the store that an export was made from.

An export is a base in words, so importing it writes that base, and nothing else: a store is a base
and the journal after it, and this journal is empty. Until the base is durable and complete there is
no store; the file that makes the directory one is written last. So nothing is ever half imported,
an import that was killed goes on where it was (`staging`), and one that is repeated finds what it
would make.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from nt_memory.clock import SystemClock, to_datetime
from nt_memory.errors import (
    CorruptionError,
    ForeignStoreError,
    FormatVersionError,
    InvalidInputError,
    NtMemoryError,
    StorageError,
    StoreInUseError,
    UnsupportedError,
)
from nt_memory.namespace import check_agent, check_key
from nt_memory.reasoningbank.backing import SWARM
from nt_memory.records import Import
from nt_memory.system.configuring import to_config
from nt_memory.system.exported_files import FILES, unspell_piece
from nt_memory.system.exporting import PROGRESS_ROWS
from nt_memory.system.exportlines import (
    END_START,
    STDIO,
    Digest,
    JsonLinesSource,
    parse_header,
    parse_row,
)
from nt_memory.system.spelling import UNREADABLE, unspell
from nt_memory.system.staging import UNFINISHED, Staging
from nt_memory.tiers.layout import LAYOUT_VERSION
from nt_memory.tiers.sealing import seal
from nt_memory.tiers.tables import LOG, TABLES
from nt_memory.transport.basefile import BaseHeader, write_base
from nt_memory.transport.directory import STORE_FORMAT, STORE_VERSION
from nt_memory.transport.files import sync_directory, to_storage_error
from nt_memory.transport.segments import SegmentHeader, encode_header, segment_path

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from nt_memory.clock import Clock
    from nt_memory.config import MemoryConfig
    from nt_memory.system.exporting import Progress
    from nt_memory.system.exportlines import Header, LineSource, Place
    from nt_memory.system.spelling import Row

    Feed = Iterator[tuple[bytes, Place]]

IMPORTED = "IMPORTED"
_FORMAT, _LOCK = "FORMAT", "LOCK"
_STATE = "state"
_ORDER = {table.decode(): number for number, table in enumerate(TABLES) if table != LOG}
_ORDER[FILES] = len(TABLES)


def import_store(
    source: str | os.PathLike[str],
    target: MemoryConfig | str | os.PathLike[str],
    *,
    clock: Clock | None = None,
    progress: Progress | None = None,
) -> Import:
    """Make the store that an export was made from, or the swarm of a cluster.

    Afterwards everything reads as it did there: values, times, revisions, history, search, the
    ReasoningBank, locks and ballots. The order of entries is not in an export: `tail`,
    `watch(after=)` and `as_of=<revision>` begin with the import and raise `TrimmedError` before it.

    Interrupted, it goes on where it was when it is called again with the same export. Repeated, it
    changes nothing, also when the store has been written to since.

    A swarm must be one that nobody has opened yet, and gets the name that the URL says. It takes the
    operator's credentials. Repeated, it is refused, because the swarm has begun.

    Args:
        source: What `export` wrote: a file of JSON Lines, compressed or not; `-` for stdin; or a
            Parquet directory.
        target: Directory of the new store: missing or empty, the unfinished import of this export,
            or a store that was made from it. Or a `nats://` URL, or a configuration with one.
        clock: Source of the time the store says it was created; for tests.
        progress: Told how far it is.

    Raises:
        CorruptionError: the export is damaged or cut off; the message names the line. The target
            is as it was before.
        InvalidInputError: it is no export, or one of some agents only.
        FormatVersionError: a newer version wrote it.
        ForeignStoreError: the target holds something else, or is a swarm that has begun.
        StoreInUseError: another import into the target is under way.
        DisconnectedError, PermissionDeniedError: a cluster's servers are out of reach, or refuse.
        StorageFullError: no space is left; call it again when there is.
        StorageError: a file operation failed.
        UnsupportedError: Parquet needs `nt-memory[parquet]`, a cluster `nt-memory[cluster]`.

    Cost: about 25 s a million rows on one core, and then as much to open the store for the first
        time. Blocks: call it off the event loop. Needs the space of the store twice meanwhile.
    """
    config = to_config(target)
    if config.url is None:
        return _import_into(source, Path(config.storage_path), clock, progress)
    try:
        from nt_memory.system.founding import found_swarm  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UnsupportedError("a cluster needs `pip install nt-memory[cluster]`") from error
    return found_swarm(config, lambda path: _import_into(source, path, clock, progress))


def _import_into(
    source: str | os.PathLike[str], path: Path, clock: Clock | None, progress: Progress | None
) -> Import:
    lines = open_source(source)
    try:
        feed = lines.lines()
        first, _ = next(feed)
        header = parse_header(first, lines.name)
        if header.agents:
            raise InvalidInputError(
                f"{lines.name}: an export of some agents only is for reading; "
                "to move a store, export all of it"
            )
        if (path / _FORMAT).exists():
            return _compare(path, lines, feed, first, header)
        try:
            with _claim(path):
                return _Importing(path, lines, first, header, progress).run(feed, clock)
        except OSError as error:
            if isinstance(error, NtMemoryError):
                raise
            raise to_storage_error(error, f"importing into {path}") from error
    finally:
        lines.close()


def open_source(source: str | os.PathLike[str]) -> LineSource:
    """What holds an export.

    Raises:
        StorageError: it cannot be opened.
        InvalidInputError, CorruptionError: it is no export.
        UnsupportedError: Parquet needs `nt-memory[parquet]`.
    """
    path = None if source == STDIO else Path(source)
    if path is not None and path.is_dir():
        # Needs an extra, and is slow to import.
        from nt_memory.system.parquetfiles import ParquetSource  # noqa: PLC0415

        return ParquetSource(path)
    return JsonLinesSource(path)


def _compare(path: Path, lines: LineSource, feed: Feed, first: bytes, header: Header) -> Import:
    """There is a store: was it made from this export?"""
    try:
        made_from = json.loads((path / IMPORTED).read_bytes())
    except FileNotFoundError:
        made_from = {}
    if made_from.get("header") != first.decode():
        raise ForeignStoreError(
            f"{path}: holds a store that was not made from {lines.name}: "
            "import into a directory that is missing or empty"
        )
    digest = Digest()
    digest.add(first)
    for line, _ in feed:
        if line == digest.trailer():
            break
        digest.add(line)
    if made_from.get("digest") != digest.state.hex():
        raise ForeignStoreError(f"{path}: was made from another export than {lines.name}")
    shutil.rmtree(path / UNFINISHED, ignore_errors=True)
    return Import(header.revision, digest.rows - 1, digest.state.hex(), is_new=False)


@contextmanager
def _claim(path: Path) -> Generator[None]:
    """Hold a directory for an import; if nothing comes of it, it is as it was before.

    Raises:
        ForeignStoreError: it holds something else.
        StoreInUseError: another import holds it.
    """
    if path.exists() and not path.is_dir():
        raise ForeignStoreError(f"{path}: not a directory")
    was_there = path.exists()
    path.mkdir(parents=True, exist_ok=True)
    names = {entry.name for entry in path.iterdir()}
    if names - {_LOCK} and UNFINISHED not in names:
        raise ForeignStoreError(
            f"{path}: not empty: import into a directory that is missing or empty"
        )
    fd = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            was_there = True
            raise StoreInUseError(f"{path}: in use by another process") from None
        yield
    finally:
        os.close(fd)
        if {entry.name for entry in path.iterdir()} == {_LOCK}:
            (path / _LOCK).unlink()
            if not was_there:
                path.rmdir()


class _Importing:
    """One run of an import, into a directory that is held."""

    def __init__(
        self,
        path: Path,
        lines: LineSource,
        first: bytes,
        header: Header,
        progress: Progress | None,
    ) -> None:
        self._path = path
        self._lines = lines
        self._first = first
        self._header = header
        self._progress = progress
        try:
            self._staging = Staging(path, first)
        except (ValueError, msgspec.MsgspecError) as error:
            raise ForeignStoreError(
                f"{path}: holds an unfinished import: {error}; delete the directory to start anew"
            ) from None
        checkpoint = self._staging.checkpoint
        self._digest = Digest(checkpoint.lines, bytes.fromhex(checkpoint.digest))

    def run(self, feed: Feed, clock: Clock | None) -> Import:
        """Read the rest, and make the store."""
        try:
            if self._digest.rows:
                self._lines.skip_to(self._staging.checkpoint.place)
            else:
                self._digest.add(self._first)
            self._read(feed)
            self._make(clock or SystemClock())
        except (CorruptionError, InvalidInputError, FormatVersionError):
            # Not to be gone on from: the next export with this header may be another one.
            self._staging.remove()
            raise
        finally:
            self._staging.close()
        self._staging.remove()
        digest = self._digest
        return Import(self._header.revision, digest.rows - 1, digest.state.hex(), is_new=True)

    def _read(self, feed: Feed) -> None:
        digest, total = self._digest, sum(self._header.rows.values())
        for line, place in feed:
            is_end = line.startswith(END_START)
            if is_end:
                self._check_end(line)
                continue  # whatever follows is found out by the source
            digest.add(line)
            try:
                is_savable = self._take(line)
            except StorageError:
                raise
            except UNREADABLE as error:
                raise CorruptionError(f"{self._lines.name}: line {place.lines}: {error}") from error
            if is_savable and self._staging.is_due:
                checkpoint = self._staging.checkpoint
                checkpoint.lines, checkpoint.offset = place
                checkpoint.digest = digest.state.hex()
                self._staging.save()
            if self._progress is not None and digest.rows % PROGRESS_ROWS == 0:
                self._progress(digest.rows - 1, total)
        if self._progress is not None:
            self._progress(digest.rows - 1, total)

    def _take(self, line: bytes) -> bool:
        row, halves = parse_row(line)
        table = row["table"]
        if table not in _ORDER:
            raise InvalidInputError(f"a row of {table!r}, which this version does not know")
        if _ORDER[table] < _ORDER.get(self._staging.checkpoint.table, 0):
            raise InvalidInputError(f"rows of {table!r} come too late")
        if table == FILES:
            self._staging.add_piece(unspell_piece(row))
            return True
        _check_names(row)
        key, value = unspell(row)
        if halves is not None:
            self._staging.add_vector(row["partition"], row["row"], halves)
        return self._staging.add_row(table, key, seal(table.encode(), key, value))

    def _check_end(self, line: bytes) -> None:
        counts = {table: count for table, count in self._header.rows.items() if count}
        if line != self._digest.trailer() or counts != self._staging.checkpoint.counts:
            raise CorruptionError(
                f"{self._lines.name}: the last line does not agree with those before it"
            )

    def _make(self, clock: Clock) -> None:
        """The base, an empty journal behind it, and last what says that this is a store."""
        header, made = self._header, self._staging.made
        shutil.rmtree(made, ignore_errors=True)
        base, journal = made / "base", made / "journal"
        base.mkdir(parents=True)
        journal.mkdir()
        covers = BaseHeader(
            header.sequence, header.revision, header.recorded_at, header.now_us, LAYOUT_VERSION
        )
        write_base(base, covers, self._staging.blocks())
        values = self._staging.link_values()
        salt = int.from_bytes(os.urandom(4), "little")
        segment = SegmentHeader(header.sequence + 1, header.recorded_at, salt)
        _write(segment_path(journal, header.sequence + 1), encode_header(segment))
        made_from = {"header": self._first.decode(), "digest": self._digest.state.hex()}
        _write(made / IMPORTED, json.dumps(made_from).encode() + b"\n")
        created = to_datetime(clock.now_us()).isoformat()
        marker = {"format": STORE_FORMAT, "version": STORE_VERSION, "created": created}
        _write(made / _FORMAT, json.dumps(marker).encode() + b"\n")
        for part in (base, journal, *values, made / IMPORTED, made / _FORMAT):
            place = self._path / part.name
            if place.is_dir():  # a run before this one came so far
                shutil.rmtree(place)
            part.rename(place)
            sync_directory(self._path)
        sync_directory(self._path.absolute().parent)


def _check_names(row: Row) -> None:
    """Refuse a row under a name that no call could have given it.

    Raises:
        InvalidInputError: the agent's name or the key is malformed.
    """
    if "agent" not in row:
        return
    is_state = row.get("kind", _STATE) == _STATE
    if is_state or row["agent"] != SWARM:
        check_agent(row["agent"])
    if row["table"] == "partitions":
        if "\0" in row["partition"]:
            raise InvalidInputError(f"a malformed partition of {row['agent']}")
    elif is_state:
        check_key(row["key"])


def _write(path: Path, data: bytes) -> None:
    """Write a file; it appears whole and durable."""
    new = path.with_name(path.name + ".new")
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    sync_directory(path.parent)
