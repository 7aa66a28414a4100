"""Opening a store: claim the directory, trust or rebuild the views, catch up with the journal.

The journal is the truth. The views are written without fsync, so they can be trusted after a clean
close, or as long as the operating system that holds their pages keeps running; after an unclean
stop on another boot they are rebuilt.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msgspec import DecodeError

from nt_memory.errors import (
    CodecError,
    ConfigMismatchError,
    CorruptionError,
    ForeignStoreError,
    StorageError,
)
from nt_memory.replica import Change, Follow, NewRows, Replica
from nt_memory.tiers.cold import ColdTier
from nt_memory.tiers.layout import name_of, row_key, to_stored, unpack_row, version_key
from nt_memory.tiers.vectors import VectorFiles
from nt_memory.transport.directory import StoreDirectory, boot_id
from nt_memory.transport.files import sync_directory
from nt_memory.transport.local import LocalJournal
from nt_memory.transport.segment_reader import SegmentReader

if TYPE_CHECKING:
    from pathlib import Path

    from nt_memory.clock import StoreClock
    from nt_memory.config import MemoryConfig
    from nt_memory.tiers.layout import ChangeRow, LogRow
    from nt_memory.tiers.views import Snapshot
    from nt_memory.transport.ports import Frame

REPLAY_BATCH = 512
REPLAY_BYTES = 8 << 20
_STATE = "STATE"


@dataclass(slots=True)
class Opened:
    """The parts of an open store; `journal` is None for a read-only follower."""

    directory: StoreDirectory
    cold: ColdTier
    files: VectorFiles
    replica: Replica
    journal: LocalJournal | None
    reader: Any
    rebuilt: bool = False

    def close(self, *, is_clean: bool) -> None:
        """Close the files; a clean close vouches for the views."""
        try:
            if self.journal is not None and is_clean:
                self.files.sync()
                self.cold.sync()
                _write_state(self.directory.views, is_clean=True)
        finally:
            self.files.close()
            self.cold.close()
            self.directory.close()

    def abandon(self) -> None:
        """Close after a failure, vouching for nothing."""
        if self.journal is not None:
            self.journal.close()
        self.close(is_clean=False)

    def poll(self, revision: int) -> Follow | None:
        """What another process made visible after `revision`, or None.

        Raises:
            StorageError: that process has rebuilt the views; these are no longer written.
        """
        if not self.cold.is_in_place:
            raise StorageError(f"{self.directory.path}: its views were rebuilt by the writer")
        snapshot = self.cold.snapshot()
        newest = snapshot.number(b"revision") or 0
        if newest == revision:
            snapshot.close()
            return None
        follow = Follow(revision=newest, sequence=snapshot.number(b"sequence") or 0)
        follow.timeline_us = snapshot.number(b"timeline_us")
        follow.snapshot = snapshot
        known: set[int] = set()
        for number, row in snapshot.logs(revision, None):
            _follow_log(snapshot, follow, number, row, known)
        return follow


def open_store(config: MemoryConfig, clock: StoreClock, *, read_only: bool) -> Opened:
    """Open or make the store at `config.storage_path`. Blocks while the journal is replayed.

    Raises:
        StorageError: and its subclasses; see `MemorySystem.open`.
    """
    directory = StoreDirectory(config.storage_path, clock=clock, read_only=read_only)
    try:
        if read_only:
            return _open_follower(config, clock, directory)
        return _open_writer(config, clock, directory)
    except BaseException:
        directory.close()
        raise


def check_settings(config: MemoryConfig, replica: Replica) -> None:
    """Refuse a node whose settings differ from those the store was made with.

    Raises:
        ConfigMismatchError: `swarm`, `timeline` or `history` differs.
    """
    if not replica.is_configured:
        return
    timeline = "backtest" if replica.is_backtest else "live"
    for setting, made, wanted in (
        ("swarm", replica.swarm, config.swarm),
        ("timeline", timeline, config.timeline),
        ("history", replica.history, config.history),
    ):
        if made != wanted:
            raise ConfigMismatchError(
                f"{config.storage_path}: {setting} was set to {made!r} when the store was made, "
                f"not {wanted!r}"
            )


def _open_follower(config: MemoryConfig, clock: StoreClock, directory: StoreDirectory) -> Opened:
    cold = ColdTier(directory.views, max_map_bytes=config.max_map_bytes, read_only=True)
    files = VectorFiles(directory.vectors, read_only=True)
    replica = Replica(cold, files)
    clock.start_after(replica.last_recorded_at)
    return Opened(directory, cold, files, replica, None, SegmentReader(directory.journal))


def _open_writer(config: MemoryConfig, clock: StoreClock, directory: StoreDirectory) -> Opened:
    rebuilt = not _is_trustworthy(directory.views)
    if rebuilt:
        _drop_views(directory)
    try:
        cold, files, replica = _open_views(config, directory)
    except (CorruptionError, CodecError, DecodeError):
        # Only damage to the views themselves is mended by rebuilding them. What the journal finds
        # below must not be: the views may be the only proof that its last entries were there.
        if rebuilt:
            raise
        _drop_views(directory)
        rebuilt = True
        cold, files, replica = _open_views(config, directory)
    try:
        journal = LocalJournal(
            directory.journal,
            clock=clock,
            durability=config.durability,
            applied_sequence=replica.sequence,
        )
        clock.start_after(journal.recorded_at)
        try:
            _catch_up(replica, journal)
        except BaseException:
            journal.close()
            raise
    except BaseException:
        files.close()
        cold.close()
        raise
    return Opened(directory, cold, files, replica, journal, journal, rebuilt)


def _open_views(
    config: MemoryConfig, directory: StoreDirectory
) -> tuple[ColdTier, VectorFiles, Replica]:
    _write_state(directory.views, is_clean=False)
    cold = ColdTier(directory.views, max_map_bytes=config.max_map_bytes)
    try:
        files = VectorFiles(directory.vectors)
        try:
            return cold, files, Replica(cold, files)
        except BaseException:
            files.close()
            raise
    except BaseException:
        cold.close()
        raise


def _catch_up(replica: Replica, journal: LocalJournal) -> None:
    batch: list[Frame] = []
    size = 0
    for frame in journal.replay(replica.sequence):
        batch.append(frame)
        size += len(frame.payload)
        if len(batch) == REPLAY_BATCH or size >= REPLAY_BYTES:
            _apply(replica, batch)
            batch, size = [], 0
    if batch:
        _apply(replica, batch)


def _apply(replica: Replica, batch: list[Frame]) -> None:
    follow = replica.apply(batch)
    if follow.snapshot is not None:
        follow.snapshot.close()


def _drop_views(directory: StoreDirectory) -> None:
    for path in (directory.views, directory.vectors):
        if path.is_symlink():
            raise ForeignStoreError(f"{path}: is a symbolic link; refusing to rebuild through it")
        if path.exists():
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)


def _is_trustworthy(views: Path) -> bool:
    """Whether the views were closed cleanly, or written under the boot that still runs."""
    try:
        state = json.loads((views / _STATE).read_bytes())
        return bool(state["clean"]) or state["boot"] == boot_id()
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_state(views: Path, *, is_clean: bool) -> None:
    views.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"clean": is_clean, "boot": boot_id()})
    temporary = views / f"{_STATE}.new"
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(views / _STATE)
    # So that a power loss cannot bring back the state before.
    sync_directory(views)


def _follow_log(
    snapshot: Snapshot, follow: Follow, revision: int, row: LogRow, known: set[int]
) -> None:
    for change in row.changes:
        name = name_of(change.space, change.agent, change.key)
        key = version_key(name, change.known_at, revision)
        version = snapshot.version(key)
        current = snapshot.current(name)
        if change.kind == "expire" or version is None:
            if current is None:
                continue
            stored = to_stored(name, *current)
            is_current = change.kind == "expire"
        else:
            stored = to_stored(name, change.known_at, revision, version)
            is_current = current is not None and current[:2] == (change.known_at, revision)
        follow.changes.append(Change(change.kind, stored, revision, is_current))
        _follow_rows(snapshot, follow, change, known)


def _follow_rows(snapshot: Snapshot, follow: Follow, change: ChangeRow, known: set[int]) -> None:
    if change.partition >= 0:
        _follow_partition(snapshot, follow, change.partition, known)
        data = snapshot.get(b"rows", row_key(change.partition, change.row))
        if data is not None:
            rows = follow.rows[change.partition]
            if not rows.from_us:
                rows.first_row = change.row
            row = unpack_row(data)
            rows.from_us.append(row.from_us)
            rows.until_us.append(row.until_us)
            rows.revision.append(row.revision)
    for partition, number in change.ended:
        row_now = snapshot.vector_row(partition, number)
        if row_now is not None:
            follow.ended.append((partition, number, row_now.until_us, row_now.until_revision))


def _follow_partition(snapshot: Snapshot, follow: Follow, partition: int, known: set[int]) -> None:
    if partition in known:
        return
    known.add(partition)
    for name, row in snapshot.partitions():
        if row.id == partition:
            follow.rows[partition] = NewRows(partition, row.dim, 0)
            follow.new_partitions.append((name, partition))
