"""`verify`: does the store say what its base and journal say, to the last byte?

Everything is read and nothing is changed. The base and every entry of the journal are checked against
their checksums; then the views are computed once more from them, in a scratch directory, by the code
that recovery uses, and compared with the views of the store row by row, and vector by vector.

A store that is being written can be verified too: its views are read in one transaction, and
compared with what the journal says up to the entry they show.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from nt_memory.clock import SystemClock, to_datetime
from nt_memory.entries import decode_entry
from nt_memory.errors import (
    CodecError,
    CorruptionError,
    NtMemoryError,
    TrimmedError,
)
from nt_memory.replica import Replica
from nt_memory.replica.quotas import recount
from nt_memory.system.at_rest import State, digest_files, read_state
from nt_memory.system.baseline import check_origin, load_base, newest_base
from nt_memory.system.comparing import compare_tables, compare_vectors
from nt_memory.system.opening import apply_frames
from nt_memory.system.references import Wanted, in_frame, in_views
from nt_memory.system.value_damage import DAMAGED, check_values, describe, known_losses
from nt_memory.system.verify_report import Verification
from nt_memory.tiers.cold import ColdTier, has_views
from nt_memory.tiers.layout import LAYOUT_VERSION, NUMBERING, decode_usage
from nt_memory.tiers.vectors import VectorFiles, is_snapshot_whole
from nt_memory.transport.basefile import list_bases
from nt_memory.transport.directory import StoreDirectory
from nt_memory.transport.segment_reader import SegmentReader
from nt_memory.transport.segments import judge_newest

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator

    from nt_memory.tiers.layout import PartitionRow
    from nt_memory.tiers.views import Snapshot
    from nt_memory.transport.ports import Frame

SCRATCH_MAP_BYTES = 1 << 40
_BATCH = 512
_BATCH_BYTES = 8 << 20
_ATTEMPTS = 3

Progress = "Callable[[str, int, int], None]"
"""Is told what is being done, how far it is, and how far it goes (0: unknown)."""


def verify(
    path: str | os.PathLike[str],
    *,
    scratch: str | os.PathLike[str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Verification:
    """Verify a store, in use or not. Changes nothing.

    Args:
        path: Its directory.
        scratch: Where to compute the views once more, which takes as much space as they have; the
            system's place for temporary files by default.
        progress: Is told `(what, done, total)` now and then; a total of 0 is unknown.

    Raises:
        StorageError: there is no store, or it cannot be read, which says nothing about damage.
        FormatVersionError: a newer version wrote it.

    Cost: about that of replaying the journal since the base, 20 to 50 thousand entries a second.
    """
    directory = StoreDirectory(path, clock=SystemClock(), read_only=True)
    attempts = 0
    while True:
        attempts += 1
        bases = list_bases(directory.bases)
        one = _Pass(directory, progress or _ignore)
        found = one.run(scratch)
        # A compaction may have taken away what was just being read: then look again.
        is_steady = bases == list_bases(directory.bases)
        if attempts == _ATTEMPTS or ((is_steady or found.is_ok) and not one.is_between):
            return found


def _ignore(_what: str, _done: int, _total: int) -> None:
    """Nobody watches."""


class _Pass:
    """One verification."""

    def __init__(
        self, directory: StoreDirectory, progress: Callable[[str, int, int], None]
    ) -> None:
        self._directory = directory
        self._progress = progress
        self._wanted: dict[tuple[bytes, str], Wanted] = {}
        self._views: ColdTier | None = None
        self.is_between = False
        """Base and views were met in the middle of an exchange, or were left there by a crash; or
        vectors were taken away because a re-embedding had made others.
        """
        self.found = Verification(str(directory.path))

    def run(self, scratch: str | os.PathLike[str] | None) -> Verification:
        """Do all of it."""
        views = self._views = self._open_views()
        try:
            snapshot = None if views is None else views.snapshot()
            try:
                with tempfile.TemporaryDirectory(prefix="nt-memory-verify-", dir=scratch) as place:
                    self._recompute(Path(place), snapshot)
            finally:
                if snapshot is not None:
                    snapshot.close()
        finally:
            if views is not None:
                views.close()
        self._check_graphs()
        self._check_values()
        return self.found

    # --- the views as they are ------------------------------------------------------------------

    def _open_views(self) -> ColdTier | None:
        """The store's views, unless there are none that can be compared."""
        state = read_state(self._directory.views)
        if state is None:
            self.found.warnings.append("views: there are none; they are made when it is opened")
            return None
        if state.layout != LAYOUT_VERSION:
            self.found.warnings.append(
                f"views: of layout {state.layout}, not {LAYOUT_VERSION}: rebuilt when it is opened"
            )
            return None
        if state.is_clean and not self._is_as_closed(state):
            return None
        if not has_views(self._directory.views):
            # Its first writer was killed before it had made any.
            self.found.warnings.append("views: there are none yet; they are made when it is opened")
            return None
        try:
            return ColdTier(self._directory.views, max_map_bytes=SCRATCH_MAP_BYTES, read_only=True)
        except CorruptionError as error:
            self.found.damage.append(str(error))
            return None

    def _is_as_closed(self, state: State) -> bool:
        self._progress("digests", 0, 0)
        try:
            digests = digest_files(self._directory)
        except OSError as error:
            self.found.damage.append(f"views: {error}")
            return False
        differing = sorted(
            name
            for name in {*digests, *state.digests}
            if digests.get(name) != state.digests.get(name)
        )
        if not differing:
            return True
        # It may have been opened for writing since the state was read.
        now = read_state(self._directory.views)
        if now is not None and not now.is_clean:
            return True
        self.found.damage += [f"{name}: is not as it was closed" for name in differing]
        return False

    # --- what base and journal say --------------------------------------------------------------

    def _recompute(self, place: Path, snapshot: Snapshot | None) -> None:
        cold = ColdTier(place / "views", max_map_bytes=SCRATCH_MAP_BYTES)
        files = VectorFiles(place / "vectors")
        try:
            replica = self._load(cold, files)
            until = None if snapshot is None else snapshot.number(b"sequence") or 0
            is_whole = self._replay(replica, until)
            if replica is not None:
                self._want_versions(cold)
            if snapshot is None or replica is None or not is_whole:
                return
            if self._is_numbered_otherwise(cold, snapshot):
                return
            self.found.sequence, self.found.revision = replica.sequence, replica.revision
            if replica.sequence != until:
                self.found.damage.append(
                    f"journal: ends with entry {replica.sequence}, but the views hold {until}"
                )
                return
            self._compare(cold, files, snapshot)
        finally:
            files.close()
            cold.close()

    def _is_numbered_otherwise(self, cold: ColdTier, live: Snapshot) -> bool:
        fresh = cold.snapshot()
        try:
            self.is_between = fresh.number(NUMBERING) != live.number(NUMBERING)
        finally:
            fresh.close()
        if self.is_between:
            self.found.warnings.append(
                "views: their rows are not numbered as in the base: rebuilt when it is opened"
            )
        return self.is_between

    def _load(self, cold: ColdTier, files: VectorFiles) -> Replica | None:
        """A replica as of the base; None if that is damaged."""
        self._progress("base", 0, 0)
        try:
            base = newest_base(self._directory.bases)
            if base is not None:
                with base:
                    load_base(base, cold, files)
                    check_origin(base, self._directory.journal)
        except CorruptionError as error:
            self.found.damage.append(str(error))
            return None
        return Replica(cold, files)

    def _replay(self, replica: Replica | None, until: int | None) -> bool:
        """Read all of the journal, and apply what the views have; whether it is whole."""
        try:
            for batch in _batched(self._frames(replica)):
                if replica is not None:
                    wanted = [
                        frame
                        for frame in batch
                        if frame.sequence > replica.sequence
                        and (until is None or frame.sequence <= until)
                    ]
                    if wanted:
                        apply_frames(replica, wanted)
                self._progress("journal", batch[-1].sequence, until or 0)
            judge_newest(self._directory.journal, applied_sequence=until or 0)
        except (CorruptionError, TrimmedError, CodecError) as error:
            self.found.damage.append(str(error))
            return False
        return True

    def _frames(self, replica: Replica | None) -> Iterator[Frame]:
        reader = SegmentReader(self._directory.journal)
        oldest = reader.oldest_sequence
        base = 0 if replica is None else replica.sequence
        if replica is not None and oldest > base + 1:
            raise CorruptionError(
                f"{self._directory.journal}: begins with entry {oldest}, but the base ends at {base}"
            )
        for frame in reader.replay(oldest - 1):
            try:
                decode_entry(frame.payload)
            except CodecError as error:
                when = to_datetime(frame.recorded_at)
                raise CorruptionError(f"entry {frame.sequence} of {when}: {error}") from error
            self.found.entries += 1
            self._want(in_frame(frame))
            yield frame

    def _want(self, wanted: Iterable[Wanted]) -> None:
        for one in wanted:
            self._wanted.setdefault((one.reference.digest, f"{one.agent}/{one.key}"), one)

    def _want_versions(self, cold: ColdTier) -> None:
        fresh = cold.snapshot()
        try:
            self._want(in_views(fresh))
        finally:
            fresh.close()

    # --- the comparison -------------------------------------------------------------------------

    def _compare(self, cold: ColdTier, files: VectorFiles, live: Snapshot) -> None:
        fresh = cold.snapshot()
        try:
            for difference in compare_tables(live, fresh, self._count_rows):
                self.found.damage.append(difference)
                return  # what follows from the first difference is not news
            self._check_counts(fresh)
            self._compare_vectors(fresh, files)
        except Exception as error:
            explained = cold.explain(error)
            if not isinstance(explained, NtMemoryError):
                raise
            self.found.damage.append(str(explained))
        finally:
            fresh.close()

    def _check_counts(self, fresh: Snapshot) -> None:
        """What was counted entry by entry must be what there is to count."""
        counted = {key.decode(): decode_usage(data) for key, data in fresh.items(b"usage")}
        there = recount(fresh)
        for agent in sorted({*counted, *there}):
            if counted.get(agent) != there.get(agent):
                raise CorruptionError(
                    f"views: usage: {agent} is counted {counted.get(agent)}, and its versions "
                    f"make {there.get(agent)}"
                )

    def _count_rows(self, table: str, rows: int) -> None:
        self.found.rows += rows
        self._progress(f"views: {table}", self.found.rows, 0)

    def _compare_vectors(self, fresh: Snapshot, files: VectorFiles) -> None:
        live = VectorFiles(self._directory.vectors, read_only=True)
        try:
            for name, partition in fresh.partitions():
                try:
                    compare_vectors(live, files, name.decode(), partition, self._count_vectors)
                except CorruptionError:
                    if self._is_kept(partition):
                        raise
                    self.is_between = True
                    return
        finally:
            live.close()

    def _count_vectors(self, vectors: int) -> None:
        self.found.vectors += vectors
        self._progress("vectors", self.found.vectors, 0)

    def _is_kept(self, partition: PartitionRow) -> bool:
        """Whether vectors are still those that the store uses, in the views as they are now."""
        if self._views is None:
            return True
        now = self._views.snapshot()
        try:
            return any(row.file == partition.file for _, row in now.partitions())
        finally:
            now.close()

    def _check_graphs(self) -> None:
        for path in sorted(self._directory.vectors.glob("*.hnsw")):
            if not is_snapshot_whole(path):
                self.found.damage.append(
                    f"{path}: the saved index is damaged; it is ignored, and built anew"
                )

    def _check_values(self) -> None:
        checked = check_values(self._directory.values, self._wanted.values(), self._progress)
        known = known_losses(self._directory.path / DAMAGED) if checked.damage else set[bytes]()
        for digest, (why, owners) in checked.damage.items():
            is_known = digest in known and not (self._directory.values / digest.hex()).exists()
            told = self.found.warnings if is_known else self.found.damage
            told.append(describe(why, owners) + (", and known to be lost" if is_known else ""))
        if checked.orphans:
            self.found.warnings.append(
                f"values: {checked.orphans} files that nothing refers to; compact removes them"
            )
        self.found.value_bytes = checked.bytes


def _batched(frames: Iterator[Frame]) -> Iterator[list[Frame]]:
    batch: list[Frame] = []
    size = 0
    for frame in frames:
        batch.append(frame)
        size += len(frame.payload)
        if len(batch) == _BATCH or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
