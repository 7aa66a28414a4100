"""The parts of an open store; closing them, and following another process with them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nt_memory.errors import StorageError
from nt_memory.replica import Follow, Replica
from nt_memory.system.at_rest import digest_files, write_state
from nt_memory.system.trailing import continues, follow_log, moved_partitions
from nt_memory.tiers.cold import ColdTier
from nt_memory.tiers.vectors import VectorFiles
from nt_memory.transport.directory import StoreDirectory
from nt_memory.transport.local import LocalJournal

if TYPE_CHECKING:
    from nt_memory.tiers.vectors import VectorTier


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
    max_map_bytes: int = 1 << 40
    retired: ColdTier | None = None

    def close(self, *, is_clean: bool, stop_journal: bool = False) -> None:
        """Close the files; a clean close vouches for the views."""
        try:
            if self.journal is not None and stop_journal:
                self.journal.close()
            if self.journal is not None and is_clean:
                # A disk too full to vouch costs the next open time, and nothing else.
                with contextlib.suppress(OSError):
                    self.files.sync()
                    self.cold.sync()
                    write_state(self.directory.views, digest_files(self.directory))
        finally:
            self.files.close()
            if self.retired is not None:
                self.retired.close()
            self.cold.close()
            self.directory.close()

    def abandon(self) -> None:
        """Close after a failure, vouching for nothing."""
        if self.journal is not None:
            self.journal.close()
        self.close(is_clean=False)

    def gap(self, revision: int) -> int | None:
        """How many revisions are visible after `revision`; None: in other views than these."""
        if not self.cold.is_in_place:
            return None
        snapshot = self.cold.snapshot()
        try:
            return (snapshot.number(b"revision") or 0) - revision
        finally:
            snapshot.close()

    def poll(self, revision: int, vectors: VectorTier) -> Follow | None:
        """What another process made visible after `revision`, or None.

        Partitions that have other ids in new views are prepared for `vectors`.

        Raises:
            StorageError: that process has rebuilt the views; these are no longer written.
        """
        if self.retired is not None:
            self.retired.close()  # by now everything here reads the new views
            self.retired = None
        if not self.cold.is_in_place:
            # Nobody writes to these any more, and they reach further than where the new ones begin:
            # whoever was held up reads them to their end first.
            follow = self._follow(revision, vectors)
            if follow is not None or not self._take_new_views():
                return follow
        return self._follow(revision, vectors)

    def _follow(self, revision: int, vectors: VectorTier) -> Follow | None:
        snapshot = self.cold.snapshot()
        newest = snapshot.number(b"revision") or 0
        if newest == revision and self.retired is None:
            snapshot.close()
            return None
        if self.retired is not None and not continues(snapshot, self.retired, revision):
            snapshot.close()
            raise StorageError(
                f"{self.directory.path}: its views were rebuilt, and no longer reach back to "
                f"revision {revision}"
            )
        follow = Follow(revision=newest, sequence=snapshot.number(b"sequence") or 0)
        follow.timeline_us = snapshot.number(b"timeline_us")
        follow.snapshot = snapshot
        if self.retired is not None:
            follow.moved = moved_partitions(snapshot, self.retired, vectors)
        # Rows of what has moved are taken from the views, not one by one from the log, which names
        # some by their old numbers.
        known = {moved.new for moved in follow.moved}
        for number, row in snapshot.logs(revision, None):
            follow_log(snapshot, follow, number, row, known)
        return follow

    def _take_new_views(self) -> bool:
        """Open the views that a compaction put in place of these; False if it is not done yet."""
        try:
            cold = ColdTier(self.directory.views, max_map_bytes=self.max_map_bytes, read_only=True)
        except StorageError:
            if self.directory.views.exists():
                raise
            return False
        self.retired, self.cold = self.cold, cold
        return True
