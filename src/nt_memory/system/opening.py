"""Opening a store: claim the directory, trust or rebuild the views, catch up with the journal.

The journal is the truth. The views are written without fsync, so they can be trusted after a clean
close, or as long as the operating system that holds their pages keeps running, once every row was
checked; after an unclean stop on another boot they are rebuilt.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from msgspec import DecodeError

from nt_memory.clock import StoreClock, SystemClock
from nt_memory.config import MemoryConfig
from nt_memory.errors import (
    CodecError,
    ConfigMismatchError,
    CorruptionError,
    DimensionError,
    ForeignStoreError,
    StorageError,
    StorageFullError,
    StoreInUseError,
    StorePermissionError,
    TrimmedError,
)
from nt_memory.replica import Follow, Replica
from nt_memory.system.at_rest import (
    are_trustworthy,
    read_state,
    write_state,
)
from nt_memory.system.baseline import (
    check_origin,
    load_base,
    newest_base,
    numbering_of_base,
)
from nt_memory.system.checking import check_views
from nt_memory.system.opened import Opened
from nt_memory.system.strays import drop_strays
from nt_memory.tiers.cold import ColdTier
from nt_memory.tiers.layout import LAYOUT_VERSION, NUMBERING
from nt_memory.tiers.vectors import VectorFiles
from nt_memory.transport.basefile import list_bases
from nt_memory.transport.directory import StoreDirectory
from nt_memory.transport.local import LocalJournal
from nt_memory.transport.segment_reader import SegmentReader

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection

    from nt_memory.transport.basefile import BaseFile
    from nt_memory.transport.ports import Frame

REPLAY_BATCH = 512
REPLAY_BYTES = 8 << 20
VIEWS_NEW = "views.new"
VIEWS_OLD = "views.old"
SHARE_NEW = "share.new"


def open_store(config: MemoryConfig, clock: StoreClock, *, read_only: bool) -> Opened:
    """Open or make the store at `config.storage_path`. Blocks while the journal is replayed.

    Raises:
        StorageError: and its subclasses; see `MemorySystem.open`.
    """
    directory = StoreDirectory(config.storage_path, clock=clock, read_only=read_only)
    try:
        if read_only:
            return _open_follower(config, clock, directory)
        return open_writer(config, clock, directory)
    except BaseException:
        directory.close()
        raise


def make_views(path: str | os.PathLike[str]) -> None:
    """Make the views of a store that has none, as a copy or an import, so that it can be read.

    Blocks while base and journal are read. Nothing is added to the journal.

    Raises:
        StorageError: and its subclasses; see `MemorySystem.open`.
    """
    config = MemoryConfig(storage_path=path)
    opened = open_store(config, StoreClock(SystemClock()), read_only=False)
    opened.close(is_clean=True, stop_journal=True)


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
                f"{config.storage_path if config.url is None else 'the swarm'}: {setting} was set to "
                f"{made!r} when the store was made, not {wanted!r}"
            )


def _open_follower(config: MemoryConfig, clock: StoreClock, directory: StoreDirectory) -> Opened:
    state = read_state(directory.views)
    if state is None or state.layout != LAYOUT_VERSION:
        raise StorageError(
            f"{directory.path}: its views are not made yet, as in a fresh copy or after an upgrade; "
            "open it for writing once, which makes them"
        )
    cold = ColdTier(
        directory.views,
        max_map_bytes=config.max_map_bytes,
        read_only=True,
        is_alone=not directory.is_held_elsewhere(),
    )
    files = VectorFiles(directory.vectors, read_only=True)
    replica = Replica(cold, files)
    clock.start_after(replica.last_recorded_at)
    reader = SegmentReader(directory.journal)
    return Opened(directory, cold, files, replica, None, reader, max_map_bytes=config.max_map_bytes)


def open_writer(
    config: MemoryConfig,
    clock: StoreClock,
    directory: StoreDirectory,
    make_journal: Callable[[StoreDirectory, int], LocalJournal] | None = None,
) -> Opened:
    """Open a store that is claimed; see `open_store`. `make_journal`: None for the embedded one.

    Raises:
        StorageError: and its subclasses; see `MemorySystem.open`.
    """
    clear_leftovers(directory)
    rebuilt = not are_trustworthy(directory)
    if rebuilt:
        _rebuild_views(config, directory)
    state = read_state(directory.views)
    was_killed = not rebuilt and state is not None and not state.is_clean
    try:
        cold, files, replica = _open_views(config, directory, is_in_check=was_killed)
    except (StorageError, CodecError, DecodeError, DimensionError) as error:
        # Only damage to the views themselves is mended by rebuilding them. What the journal finds
        # below must not be: the views may be the only proof that its last entries were there.
        if rebuilt or not _is_of_views(error, was_killed=was_killed):
            raise
        _rebuild_views(config, directory)
        rebuilt = True
        cold, files, replica = _open_views(config, directory)
    try:
        journal = (make_journal or _embedded(config, clock))(directory, replica.sequence)
        clock.start_after(journal.recorded_at)
        try:
            catch_up(replica, SegmentReader(directory.journal), journal.last_sequence)
            drop_strays(directory, cold, files)
        except BaseException:
            journal.close()
            raise
    except BaseException:
        files.close()
        cold.close()
        raise
    return Opened(directory, cold, files, replica, journal, journal, rebuilt)


def _embedded(
    config: MemoryConfig, clock: StoreClock
) -> Callable[[StoreDirectory, int], LocalJournal]:
    def make(directory: StoreDirectory, applied: int) -> LocalJournal:
        return LocalJournal(
            directory.journal, clock=clock, durability=config.durability, applied_sequence=applied
        )

    return make


def _is_of_views(error: Exception, *, was_killed: bool) -> bool:
    """Whether views that are made anew may open where these did not.

    A damaged header makes LMDB ask the system for the impossible, whose refusal says nothing of
    damage; so of views that nobody vouches for, every refusal is taken for it that could be.
    """
    if isinstance(error, (StorageFullError, StorePermissionError, StoreInUseError)):
        return False
    return was_killed or not isinstance(error, StorageError) or isinstance(error, CorruptionError)


def _open_views(
    config: MemoryConfig, directory: StoreDirectory, *, is_in_check: bool = False
) -> tuple[ColdTier, VectorFiles, Replica]:
    write_state(directory.views, is_in_check=is_in_check)
    cold = ColdTier(directory.views, max_map_bytes=config.max_map_bytes)
    try:
        files = VectorFiles(directory.vectors)
        try:
            if is_in_check:
                check_views(cold, files)
                write_state(directory.views)
            return cold, files, _load_replica(directory, cold, files)
        except BaseException:
            files.close()
            raise
    except BaseException:
        cold.close()
        raise


def _load_replica(directory: StoreDirectory, cold: ColdTier, files: VectorFiles) -> Replica:
    replica = Replica(cold, files)
    if replica.sequence < max(list_bases(directory.bases), default=0):
        raise CorruptionError(f"{directory.views}: the views are older than the base")
    if not are_numbered_alike(directory, cold):
        # A crash between the two of an exchange. Here the base is right: it goes with the journal.
        raise CorruptionError(f"{directory.views}: the rows are not numbered as in the base")
    return replica


def are_numbered_alike(directory: StoreDirectory, cold: ColdTier) -> bool:
    """Whether the rows of views have the numbers that the newest base gives them.

    A base that is too damaged to say so is no reason to distrust views that are not.
    """
    numbering = numbering_of_base(directory.bases)
    snapshot = cold.snapshot()
    try:
        return numbering is None or numbering == (snapshot.number(NUMBERING) or 0)
    finally:
        snapshot.close()


def catch_up(
    replica: Replica,
    reader: SegmentReader,
    until: int,
    tell: Callable[[Follow], None] | None = None,
) -> None:
    """Apply what the journal has and the views have not, up to the sequence `until`.

    Args:
        replica: The views.
        reader: The journal.
        until: How far.
        tell: Is called with what each batch did.

    Raises:
        CorruptionError: the journal is damaged, or does not reach back to where the views end.
        StorageError: the views could not be written.
    """
    try:
        frames = reader.replay(
            replica.sequence, until=until, after_recorded_at=replica.last_recorded_at or None
        )
    except TrimmedError as error:
        raise CorruptionError(
            f"the journal begins with {error.oldest}, but base and views end at {replica.sequence}"
        ) from error
    batch: list[Frame] = []
    size = 0
    for frame in frames:
        batch.append(frame)
        size += len(frame.payload)
        if len(batch) == REPLAY_BATCH or size >= REPLAY_BYTES:
            follow = apply_frames(replica, batch)
            if tell is not None:
                tell(follow)
            batch, size = [], 0
    if batch:
        follow = apply_frames(replica, batch)
        if tell is not None:
            tell(follow)


def apply_frames(replica: Replica, batch: list[Frame]) -> Follow:
    """Apply frames that nobody waits for; what they did, without a snapshot."""
    follow = replica.apply(batch)
    if follow.snapshot is not None:
        follow.snapshot.close()
        follow.snapshot = None
    return follow


def clear_leftovers(directory: StoreDirectory) -> None:
    """Remove what a crash in mid-compaction or mid-put left behind. Nothing else refers to it."""
    for name in (VIEWS_NEW, VIEWS_OLD, SHARE_NEW):
        if (path := directory.path / name).is_dir() and not path.is_symlink():
            shutil.rmtree(path)
    for path in (*directory.bases.glob("*.new"), *directory.values.glob("*.new")):
        path.unlink()


def _rebuild_views(config: MemoryConfig, directory: StoreDirectory) -> None:
    """Drop the views, and make them again as far as the base goes; the journal does the rest."""
    drop_views(directory)
    base = newest_base(directory.bases)
    if base is None:
        return
    with base:
        check_origin(base, directory.journal)
        files = VectorFiles(directory.vectors)
        try:
            cold = build_views(config, directory, base, files)
        finally:
            files.close()
    try:
        directory.views.rmdir()
        cold.move(directory.views)
    finally:
        cold.close()


def build_views(
    config: MemoryConfig,
    directory: StoreDirectory,
    base: BaseFile,
    files: VectorFiles | None,
    only: Collection[int] | None = None,
) -> ColdTier:
    """Views at `VIEWS_NEW`, filled from a base; and the vectors, see `load_base`.

    Raises:
        CorruptionError: the base is damaged.
        StorageError: they could not be written.
    """
    new = directory.path / VIEWS_NEW
    cold = ColdTier(new, max_map_bytes=config.max_map_bytes)
    try:
        load_base(base, cold, files, only)
        write_state(new)
    except BaseException:
        cold.close()
        shutil.rmtree(new, ignore_errors=True)
        raise
    return cold


def drop_views(directory: StoreDirectory) -> None:
    """Delete views and vectors: base and journal have them all."""
    for path in (directory.views, directory.vectors):
        if path.is_symlink():
            raise ForeignStoreError(f"{path}: is a symbolic link; refusing to rebuild through it")
        if path.exists():
            shutil.rmtree(path)
        path.mkdir(parents=True, exist_ok=True)
