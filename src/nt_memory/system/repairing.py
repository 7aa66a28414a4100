"""`repair`: make a damaged store whole again, and say exactly what that cost.

Views can always be made again from base and journal, so damage to them costs nothing. Damage to base
or journal is damage to the truth. If the views are intact and reach past it they hold all that it
said, and become the new base: what is lost then is the order of the entries before. If not, the
journal ends where the damage begins, and what came after is lost.

What is damaged is never deleted: it goes to `damaged/<time>/`, with a list of the entries behind the
damage that can still be read. Killed at any point, `repair` can be run again.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nt_memory.clock import StoreClock, SystemClock, to_datetime
from nt_memory.config import MemoryConfig
from nt_memory.entries import ObserveMany, Write, decode_entry
from nt_memory.errors import CodecError, CorruptionError, ForeignStoreError
from nt_memory.system.at_rest import are_trustworthy
from nt_memory.system.baseline import check_origin, newest_base, save_base
from nt_memory.system.checking import Reached, check_apart
from nt_memory.system.opening import clear_leftovers, drop_views, open_store
from nt_memory.system.references import in_journal, in_views
from nt_memory.system.value_damage import (
    DAMAGED,
    LOST_VALUES,
    check_values,
    describe,
    known_losses,
    write_losses,
)
from nt_memory.tiers.cold import ColdTier
from nt_memory.tiers.vectors import VectorFiles
from nt_memory.transport.basefile import base_path, list_bases
from nt_memory.transport.directory import StoreDirectory, write_format
from nt_memory.transport.files import sync_directory, to_storage_error
from nt_memory.transport.salvage import (
    Break,
    create_segment,
    find_break,
    has_journal,
    readable_after,
    restore_names,
)
from nt_memory.transport.segments import list_segments, segment_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from nt_memory.system.opened import Opened
    from nt_memory.transport.ports import Frame

_MAP_BYTES = 1 << 40


@dataclass(slots=True)
class Repair:
    """What `repair` did.

    Attributes:
        path: The store.
        is_repaired: Whether the store is whole now.
        actions: What was done, in order.
        lost: What is lost, in words; empty: nothing is.
        kept_at: Where the damaged files and the list of lost entries are; None if there are none.
    """

    path: str
    is_repaired: bool = True
    actions: list[str] = field(default_factory=list[str])
    lost: list[str] = field(default_factory=list[str])
    kept_at: str | None = None


def repair(
    path: str | os.PathLike[str], *, progress: Callable[[str, int, int], None] | None = None
) -> Repair:
    """Repair a store that nobody has open for writing.

    Args:
        path: Its directory.
        progress: Is told `(what, done, total)` now and then; a total of 0 is unknown.

    Raises:
        StoreInUseError: it is open for writing.
        StorageError: there is no store, or a file operation failed.
        FormatVersionError: a newer version wrote it.

    Cost: replays the journal since the base, 20 to 50 thousand entries a second.
    """
    tell = progress or _ignore
    done = Repair(str(Path(path)))
    _mend_format(Path(path), done)
    directory = StoreDirectory(path, clock=SystemClock(), must_exist=True)
    surgeon = _Surgeon(directory, done, tell)
    try:
        clear_leftovers(directory)
        tell("journal and base", 0, 0)
        surgeon.mend()
    finally:
        directory.close()
    if done.is_repaired:
        tell("views", 0, 0)
        opened = open_store(
            MemoryConfig(storage_path=path), StoreClock(SystemClock()), read_only=False
        )
        try:
            surgeon.take_values(opened, tell)
        finally:
            opened.close(is_clean=True, stop_journal=True)
        done.actions.append(f"rebuilt the views, up to revision {opened.replica.revision}")
    return done


def _mend_format(path: Path, done: Repair) -> None:
    """Write `FORMAT` anew if it is damaged or gone, and the journal shows that this is a store.

    Raises:
        ForeignStoreError: it is none.
        StorageError: see `repair`.
    """
    try:
        StoreDirectory(path, clock=SystemClock(), read_only=True)
    except ForeignStoreError as error:
        if not has_journal(path / "journal"):
            raise
        try:
            write_format(path, SystemClock())
        except OSError as failure:
            raise to_storage_error(failure, f"writing {path / 'FORMAT'}") from failure
        done.actions += [f"found: {error}", "wrote FORMAT anew: the journal is that of a store"]


def _ignore(_what: str, _done: int, _total: int) -> None:
    """Nobody watches."""


class _Surgeon:
    """Mends base and journal, and drops the views."""

    def __init__(
        self, directory: StoreDirectory, done: Repair, tell: Callable[[str, int, int], None]
    ) -> None:
        self._directory = directory
        self._done = done
        self._tell = tell
        self._kept: Path | None = None

    def mend(self) -> None:
        """Do it all; afterwards base and journal are whole, or `is_repaired` is False."""
        self._name_segments()
        base_damage, base = self._check_base()
        intact = self._check_views()
        reached = 0 if intact is None else intact.sequence
        broken = find_break(self._directory.journal, after=base, applied_sequence=reached)
        if base_damage is None and broken is None:
            drop_views(self._directory)
            return
        for damage in (base_damage, broken and broken.damage):
            if damage:
                self._done.actions.append(f"found: {damage}")
        if intact is not None and intact.sequence >= base and self._reaches(intact, broken):
            self._rebase(intact)
        elif base_damage is None and broken is not None:
            self._cut(broken, base)
        elif base_damage is not None and list_segments(self._directory.journal)[:1] == [1]:
            self._move([base_path(self._directory.bases, base)])
            self._done.actions.append("took the damaged base away: the journal still has it all")
            self.mend()
            return
        else:
            self._done.is_repaired = False
            self._done.lost.append(
                f"everything up to entry {base}: the base is damaged or gone, the journal before it is "
                "gone and the views are damaged too; restore a copy made with snapshot"
            )
            return
        drop_views(self._directory)

    def take_values(self, opened: Opened, tell: Callable[[str, int, int], None]) -> None:
        """Take away the value files that are damaged, and say whose values they held."""
        snapshot = opened.cold.snapshot()
        try:
            wanted = list(in_views(snapshot))
        finally:
            snapshot.close()
        named = {(one.reference.digest, one.agent, one.key) for one in wanted}
        # Of versions that the views have too it is enough to say it once.
        wanted += (
            one
            for one in in_journal(self._directory.journal)
            if (one.reference.digest, one.agent, one.key) not in named
        )
        values = self._directory.values
        damage = check_values(values, wanted, tell).damage
        known = known_losses(self._directory.path / DAMAGED) if damage else set[bytes]()
        news = {
            digest: found
            for digest, found in damage.items()
            if digest not in known or (values / digest.hex()).exists()
        }
        if not news:
            return
        # On record before they are gone, so that a crash in between costs no knowledge.
        write_losses(self._place() / LOST_VALUES, news)
        for digest, (why, owners) in news.items():
            self._done.actions.append(f"found: {why}")
            self._move([values / digest.hex()])
            self._done.lost.append(describe(why, owners))

    # --- looking --------------------------------------------------------------------------------

    def _check_base(self) -> tuple[str | None, int]:
        """What is wrong with the base, and the sequence it is of; 0 if there is none."""
        sequence = max(list_bases(self._directory.bases), default=0)
        try:
            base = newest_base(self._directory.bases)
            if base is not None:
                with base:
                    for _ in base.blocks():
                        pass
                    check_origin(base, self._directory.journal)
        except CorruptionError as error:
            return str(error), sequence
        segments = list_segments(self._directory.journal)
        if not sequence and segments and segments[0] > 1:
            missing = f"{self._directory.bases}: there is no base, and the journal begins with"
            return f"{missing} entry {segments[0]}", segments[0] - 1
        return None, sequence

    def _check_views(self) -> Reached | None:
        """How far the views go if they are whole in every row; None if they are not.

        Another process looks: what is damaged may stop whoever reads it.
        """
        self._tell("views", 0, 0)
        return check_apart(self._directory) if are_trustworthy(self._directory) else None

    def _reaches(self, intact: Reached, broken: Break | None) -> bool:
        """Whether the views know at least as much as can be read of the journal."""
        return broken is None or intact.sequence >= broken.sequence - 1

    # --- mending --------------------------------------------------------------------------------

    def _name_segments(self) -> None:
        try:
            renamed, spare = restore_names(self._directory.journal)
        except OSError as error:
            raise to_storage_error(error, f"renaming in {self._directory.journal}") from error
        self._done.actions += [
            f"renamed {old} to {new}, as its header says" for old, new in renamed
        ]
        self._move(spare)

    def _rebase(self, intact: Reached) -> None:
        """Let the views be the base, and the journal begin behind them."""
        directory = self._directory
        cold = ColdTier(directory.views, max_map_bytes=_MAP_BYTES)
        files = VectorFiles(directory.vectors, read_only=True)
        old = list_bases(directory.bases)
        damaged = [base_path(directory.bases, sequence) for sequence in old]
        try:
            self._move([path for path in damaged if path.name == f"{intact.sequence:020d}.base"])
            snapshot = cold.snapshot()
            try:
                new = base_path(
                    directory.bases, save_base(directory.bases, snapshot, files).sequence
                )
            finally:
                snapshot.close()
        finally:
            files.close()
            cold.close()
        self._done.actions.append(
            f"made a new base of the views, which were whole up to entry {intact.sequence}"
        )
        self._list_lost(list(readable_after(directory.journal, intact.sequence)), intact.sequence)
        journal = [segment_path(directory.journal, n) for n in list_segments(directory.journal)]
        self._move([*(path for path in damaged if path != new), *journal])
        create_segment(directory.journal, intact.sequence + 1, intact.recorded_at)
        self._done.lost.append(
            f"the order of the entries up to {intact.sequence}: tail, watch and as_of by revision "
            "begin behind it. No version of any key is lost with it"
        )

    def _cut(self, broken: Break, base: int) -> None:
        """Let the journal end where the damage begins."""
        directory = self._directory
        readable = list(readable_after(directory.journal, max(base, broken.sequence - 1)))
        self._list_lost(readable, broken.sequence - 1)
        segments = list_segments(directory.journal)
        later = [first for first in segments if first > broken.first_sequence]
        # Newest first, so that whatever happens what is left has no gap in it.
        self._move([segment_path(directory.journal, first) for first in reversed(later)])
        path = segment_path(directory.journal, broken.first_sequence)
        if broken.offset and path.exists():
            self._keep(path)
            with path.open("r+b") as file:
                file.truncate(broken.offset)
                os.fsync(file.fileno())
            self._done.actions.append(f"cut {path.name} at offset {broken.offset}")
        else:
            self._move([path])
        if not list_segments(directory.journal):
            create_segment(directory.journal, max(base, broken.sequence - 1) + 1, 0)

    def _list_lost(self, frames: list[Frame], after: int) -> None:
        lost = [frame for frame in frames if frame.sequence > after]
        if lost:
            place = self._place() / "lost.jsonl"
            with place.open("w") as file:
                file.writelines(json.dumps(_describe(frame)) + "\n" for frame in lost)
            first, last = lost[0].sequence, lost[-1].sequence
            self._done.lost.append(
                f"{len(lost)} entries between {first} and {last} that can still be read, and are "
                f"listed in {place}"
            )
        unreadable = _unread(after, [frame.sequence for frame in lost])
        if unreadable:
            self._done.lost.append(f"entries that cannot be read: {unreadable}")

    def _move(self, paths: list[Path]) -> None:
        for path in paths:
            if path.exists():
                path.rename(_free(self._place() / path.name))
                sync_directory(path.parent)
                self._done.actions.append(f"moved {path.name} to {self._place()}")

    def _keep(self, path: Path) -> None:
        shutil.copyfile(path, _free(self._place() / path.name))

    def _place(self) -> Path:
        """Where the damaged files go; made when the first one does."""
        if self._kept is None:
            now = to_datetime(SystemClock().now_us()).strftime("%Y%m%dT%H%M%S")
            self._kept = _free(self._directory.path / DAMAGED / now)
            self._kept.mkdir(parents=True)
            self._done.kept_at = str(self._kept)
        return self._kept


def _free(path: Path) -> Path:
    """The path, or one beside it that is not taken."""
    number, found = 1, path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}.{number}")
    return found


def _unread(after: int, readable: list[int]) -> str:
    """The sequences behind `after` that are missing before each that is there."""
    gaps: list[str] = []
    due = after + 1
    for sequence in readable:
        if sequence > due:
            gaps.append(f"{due}" if sequence == due + 1 else f"{due} to {sequence - 1}")
        due = sequence + 1
    if not readable:
        gaps.append(f"from {due} on, if there were any")
    return ", ".join(gaps)


def _describe(frame: Frame) -> dict[str, object]:
    found: dict[str, object] = {
        "sequence": frame.sequence,
        "recorded_at": to_datetime(frame.recorded_at).isoformat(),
        "bytes": len(frame.payload),
    }
    try:
        entry = decode_entry(frame.payload)
    except (CodecError, CorruptionError) as error:
        return {**found, "error": str(error)}
    found["kind"] = str(entry.body.__struct_config__.tag)
    match entry.body:
        case Write(ops=ops):
            found["keys"] = [f"{op.agent}/{op.key}" for op in ops]
        case ObserveMany(agent=agent, keys=keys):
            found["keys"] = [f"{agent}/{key}" for key in keys]
        case _:
            pass
    return found
