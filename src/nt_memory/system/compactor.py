"""One compaction: the base moves forward, the journal behind it goes, and the views shrink.

With a segment of the journal just begun, and while readers and writers go on:

1. a base is written from one read transaction and made durable; in it the rows of partitions of
   which much is dead are numbered anew (`renumbering`);
2. fresh views are filled from that very file, which reads back and verifies every block of it, and
   catch up with the journal;
3. between two batches of the journal the fresh views take the place of the old ones;
4. older segments and bases are deleted.

A crash leaves, at any of these points, a base and a journal that together say everything: until 4
the old base and journal are complete, and 4 begins when the new base is. The journal's thread is
held up in 3, for the last entries that came while 2 caught up, some `_LAST_ENTRIES` of them. In 2 it
is only where writers are nearly as fast as that: then the two take turns, else it would never end.

A base in which rows have other numbers than in the views in use is no base before 3: it takes its place
right before the fresh views do. If it comes to no more than that, the views that are left are of
another numbering than the base, and the next open makes them anew from base and journal. New vector
files have ids of their own, so the two numberings never share one.

The transaction of 1 keeps LMDB from reusing pages for as long as the base takes to write. That
growth ends with the old views' file.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from nt_memory.errors import CorruptionError, StorageError
from nt_memory.replica import Follow, Replica
from nt_memory.system.baseline import save_base
from nt_memory.system.opening import VIEWS_NEW, VIEWS_OLD, build_views, catch_up
from nt_memory.system.renumbering import Newcomers, plan
from nt_memory.system.strays import drop_partition
from nt_memory.tiers.layout import U64, LogRow
from nt_memory.tiers.tables import LOG
from nt_memory.transport.basefile import BaseFile, base_path, list_bases, pending_path
from nt_memory.transport.files import sync_directory, to_storage_error
from nt_memory.transport.segment_reader import SegmentReader

if TYPE_CHECKING:
    from nt_memory.system.engine import Engine
    from nt_memory.system.renumbering import Renumbering
    from nt_memory.tiers.cold import ColdTier
    from nt_memory.tiers.views import Snapshot
    from nt_memory.transport.local import LocalJournal

_LAST_ENTRIES = 256
_TURN_ENTRIES = 512
"""Caught up with in one turn: several times what the journal writes in one batch."""


class Compactor:
    """One compaction; its methods are called in order, from any thread but the loop's."""

    def __init__(self, engine: Engine, journal: LocalJournal, floor: int) -> None:
        self._engine = engine
        self._journal = journal
        self._directory = engine.opened.directory
        self._files = engine.opened.files
        self._floor = floor
        self._old = engine.opened.cold
        self._new: ColdTier | None = None
        self._replica: Replica | None = None
        self._renumbering: Renumbering | None = None
        self._newcomers: Newcomers | None = None
        self._reader = SegmentReader(self._directory.journal)
        self.revision: int = 0
        self.sequence: int = 0

    def prepare(self) -> None:
        """Write the base and build fresh views beside the old ones. A segment was just begun."""
        snapshot = self._old.snapshot()
        try:
            # With relaxed durability the views may be ahead of the disk; the base must not be.
            self._journal.perform(_nothing)
            if not self._engine.opened.replica.is_backtest:
                self._renumbering = plan(snapshot, self._engine.vectors)
            header = save_base(self._directory.bases, snapshot, self._files, self._renumbering)
            self.revision, self.sequence = header.revision, header.sequence
            self._new = self._build()
            self._copy_log(snapshot, self._new)
            self._replica = self._replay_into(self._new)
            self._approach(self._replica)
        except BaseException:
            self._discard()
            raise
        finally:
            snapshot.close()

    def _build(self) -> ColdTier:
        """Fresh views, and the vectors of renumbered partitions, from the base that was written."""
        place, files, ids = base_path, None, None
        if self._renumbering is not None:
            place, files, ids = pending_path, self._files, self._renumbering.ids
            for partition in ids:
                drop_partition(self._files, partition)  # of one that failed
        with BaseFile(place(self._directory.bases, self.sequence)) as base:
            return build_views(self._engine.config, self._directory, base, files, ids)

    def _replay_into(self, new: ColdTier) -> Replica:
        if self._renumbering is None:
            return Replica(new, None)
        fresh = new.snapshot()
        try:
            self._newcomers = Newcomers(self._engine.vectors, self._renumbering, fresh)
        finally:
            fresh.close()
        return Replica(new, self._files, self._renumbering.ids)

    def swap(self) -> None:
        """On the journal's thread: let the fresh views take the place of the old ones."""
        new, replica = self._new, self._replica
        assert new is not None and replica is not None  # noqa: S101, PT018 - prepare was called
        engine = self._engine
        try:
            self._catch_up(replica)
            _check_agree(replica, engine.opened.replica)
            if self._renumbering is not None:
                self._publish()
            self._exchange(new)
        except BaseException:
            self._discard()
            raise
        replica.keep_vectors(self._files)
        replica.keep_ring(engine.opened.replica.ledger.ring)
        engine.opened.cold, engine.opened.replica = new, replica
        follow = Follow(replica.revision, replica.sequence, replica.timeline_us)
        follow.snapshot = new.snapshot()
        if self._newcomers is not None:
            follow.moved = self._newcomers.moved()
        engine.writing.hand_over(follow)

    def _publish(self) -> None:
        """Put the base in its place. That is durable only when `clean_up` begins to delete."""
        path = base_path(self._directory.bases, self.sequence)
        try:
            pending_path(self._directory.bases, self.sequence).rename(path)
        except OSError as error:
            raise to_storage_error(error, f"renaming to {path}") from error

    def _exchange(self, new: ColdTier) -> None:
        views = self._directory.views
        self._old.move(self._directory.path / VIEWS_OLD)
        # A crash here leaves no views, and they are rebuilt from the base.
        try:
            new.move(views)
        except BaseException:
            self._old.move(views)
            raise

    def clean_up(self) -> None:
        """Give back what the new base and views have replaced."""
        self._old.close()
        shutil.rmtree(self._directory.path / VIEWS_OLD, ignore_errors=True)
        if self._renumbering is not None:
            self._drop_moved(self._renumbering)
        for sequence in list_bases(self._directory.bases):
            if sequence < self.sequence:
                path = base_path(self._directory.bases, sequence)
                try:
                    path.unlink()
                except OSError as error:
                    raise to_storage_error(error, f"deleting {path}") from error
        self._journal.drop_before(min(self.sequence + 1, self._oldest_wanted()))

    def _drop_moved(self, renumbering: Renumbering) -> None:
        try:
            sync_directory(self._directory.bases)
        except OSError as error:
            raise to_storage_error(error, f"syncing {self._directory.bases}") from error
        for move in renumbering.moves:
            drop_partition(self._files, move.old.file)

    def _copy_log(self, snapshot: Snapshot, new: ColdTier) -> None:
        floor = max(min(self._floor, self.revision), snapshot.log_floor)
        if floor == self.revision:
            return
        # Of the floor itself only the times are kept, as of a base: it can be read as of.
        last = snapshot.log_times(floor)
        batch = new.begin()
        try:
            batch.delete(LOG, U64.pack(self.revision))  # what stands for the base
            if last is not None:
                batch.append_log(floor, LogRow(0, last.recorded_at, last.now_us))
            for rows in snapshot.stored_rows(LOG, U64.pack(floor + 1)):
                batch.load_rows(LOG, rows)
            new.commit(batch)
        except BaseException:
            batch.close()
            raise

    def _approach(self, replica: Replica) -> None:
        """Catch up until little enough is left to do while the journal's thread waits."""
        while (left := self._left(replica)) > _LAST_ENTRIES:
            self._catch_up(replica)
            while self._left(replica) > max(left // 2, _LAST_ENTRIES):
                self._journal.perform(lambda: self._catch_up(replica, _TURN_ENTRIES))

    def _left(self, replica: Replica) -> int:
        return self._journal.last_sequence - replica.sequence

    def _catch_up(self, replica: Replica, most: int | None = None) -> None:
        until = self._journal.last_sequence
        if most is not None:
            until = min(until, replica.sequence + most)
        tell = None if self._newcomers is None else self._newcomers.follow
        catch_up(replica, self._reader, until, tell)

    def _oldest_wanted(self) -> int:
        """The first journal entry that a feed may still read."""
        if self._floor >= self.revision:
            return self.sequence + 1
        cold = self._engine.opened.cold
        snapshot = cold.snapshot()
        try:
            row = snapshot.log_times(self._floor + 1)
        finally:
            snapshot.close()
        if row is None or not row.position:
            return self.sequence + 1
        return self._journal.read(row.position).sequence

    def _discard(self) -> None:
        if self._new is not None:
            self._new.close()
            self._new = None
        with suppress(OSError):
            shutil.rmtree(self._directory.path / VIEWS_NEW)
        if self._renumbering is not None:
            with suppress(OSError):
                pending_path(self._directory.bases, self.sequence).unlink(missing_ok=True)
            for partition in self._renumbering.ids:
                with suppress(StorageError):
                    drop_partition(self._files, partition)


def _check_agree(fresh: Replica, live: Replica) -> None:
    if (fresh.sequence, fresh.revision) != (live.sequence, live.revision):
        raise CorruptionError(
            f"from the base the journal leads to entry {fresh.sequence}, revision "
            f"{fresh.revision}; the views are at {live.sequence}, {live.revision}"
        )
    if fresh.ledger.digest != live.ledger.digest:
        raise CorruptionError(
            f"from the base the journal leads to other rows than those of the views at entry "
            f"{live.sequence}"
        )


def _nothing() -> None:
    """A barrier is all that is wanted."""
