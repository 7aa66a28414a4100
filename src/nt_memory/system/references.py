"""Which value files a store refers to, and the sweep of those that nothing refers to any more.

A file is wanted by the versions of the views, and by the entries of the journal that is kept: feeds
read what `history` has dropped from there, and recovery replays them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from nt_memory.codec import is_filed
from nt_memory.codec.filed import REFERENCE_START, Reference, read_reference
from nt_memory.entries import decode_entry, operations_of
from nt_memory.tiers.layout import decode_version, parse_name, parse_tail
from nt_memory.tiers.sealing import unseal
from nt_memory.transport.segment_reader import SegmentReader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nt_memory.system.engine import Engine
    from nt_memory.tiers.views import Snapshot
    from nt_memory.transport.local import LocalJournal
    from nt_memory.transport.ports import Frame

_VERSIONS = b"versions"
_ROW_START_BYTES = 16
"""A version begins with its checksum and its value, so a reference shows at once."""


class Wanted(NamedTuple):
    """A value file that something refers to.

    Attributes:
        reference: Which.
        agent: Whose value it is.
        key: The key.
        where: The version, in words.
    """

    reference: Reference
    agent: str
    key: str
    where: str

    @property
    def whose(self) -> str:
        """The value it is, in words."""
        return f"{self.agent}/{self.key}, {self.where}"


def in_views(snapshot: Snapshot) -> Iterator[Wanted]:
    """What the versions of the views refer to, in their order; a file may come more than once.

    Raises:
        CorruptionError: a row is damaged.

    Cost: about a second a million versions, hardly holding the interpreter.
    """
    for rows in snapshot.stored_rows(_VERSIONS):
        for key, stored in rows:
            if REFERENCE_START not in stored[:_ROW_START_BYTES]:
                continue
            value = decode_version(unseal(_VERSIONS, key, stored)).value
            if value is not None and is_filed(value):
                _, agent, name = parse_name(key[:-16])
                where = f"revision {parse_tail(key)[1]}"
                yield Wanted(read_reference(value), agent, name, where)


def in_frame(frame: Frame) -> Iterator[Wanted]:
    """What an entry of the journal refers to.

    Raises:
        CodecError, CorruptionError: it is damaged.
    """
    if REFERENCE_START not in frame.payload:
        return
    for op in operations_of(decode_entry(frame.payload).body):
        if op.value is not None and is_filed(op.value):
            where = f"entry {frame.sequence}"
            yield Wanted(read_reference(op.value), op.agent, op.key, where)


def in_journal(directory: Path, until: int | None = None) -> Iterator[Wanted]:
    """What the entries of the journal that is kept refer to, up to the sequence `until`.

    Raises:
        CorruptionError: the journal is damaged.
    """
    reader = SegmentReader(directory)
    for frame in reader.replay(reader.oldest_sequence - 1, until=until):
        yield from in_frame(frame)


async def sweep_values(engine: Engine, journal: LocalJournal) -> int:
    """Remove the value files that nothing refers to; how many there were.

    Whatever is put, or read, from the beginning of the sweep on is spared because it is pinned. What
    was put before is in the views, once the journal is flushed. So what must stay is what the views
    and the journal refer to after that. It is found out from one snapshot; and nobody here reads
    from an older one by the time that anything is removed, because the loop has followed since.

    Raises:
        CorruptionError: views or journal are damaged; nothing was removed.
        StorageError: a file could not be removed.
    """
    values = engine.values
    if not await asyncio.to_thread(values.digests):
        return 0
    values.begin_sweep()
    try:
        await engine.flush()
        unwanted = await asyncio.to_thread(_unwanted, engine, journal)
        await engine.flush()
        return await asyncio.to_thread(values.sweep, sorted(unwanted))
    finally:
        values.end_sweep()


def _unwanted(engine: Engine, journal: LocalJournal) -> set[bytes]:
    found = set(engine.values.digests())
    until = journal.last_sequence
    snapshot = engine.opened.cold.snapshot()
    try:
        wanted = {one.reference.digest for one in in_views(snapshot)}
    finally:
        snapshot.close()
    directory = engine.opened.directory.journal
    wanted.update(one.reference.digest for one in in_journal(directory, until))
    return found - wanted
