"""Feeds of the journal: `Watch` for the keys of one agent, `Tail` for everything.

Both hold nothing but the last revision they handed out. What they report is read from the log of
accepted entries when it is asked for, so a reader that stops costs nobody anything.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from nt_memory.clock import to_datetime, turn
from nt_memory.entries import (
    STATE,
    Acquire,
    Advance,
    CastVote,
    CleanUp,
    ForceRelease,
    Propose,
    Register,
    Release,
    Renew,
    Retain,
    SetPolicy,
    SetQuota,
    Stored,
    Withdraw,
    decode_entry,
    operations_of,
)
from nt_memory.entries.requests import given_id
from nt_memory.errors import CorruptionError
from nt_memory.records import Change
from nt_memory.replica.reembedding import CHANGE
from nt_memory.system.filing import record_of
from nt_memory.tiers.layout import name_of, to_stored, version_key

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from nt_memory.entries import Body, Entry
    from nt_memory.system.engine import Engine
    from nt_memory.tiers.layout import ChangeRow, LogRow

LOG_BATCH = 256
_TOLD = (
    Acquire,
    Renew,
    Release,
    Withdraw,
    ForceRelease,
    Register,
    Propose,
    CastVote,
    CleanUp,
    SetQuota,
    SetPolicy,
    Retain,
    Advance,
)
# What names an attempt lets others withdraw it; what is proposed is read from the proposal.
_UNTOLD = frozenset({"ticket", "session", "data"})


class Watch:
    """An async iterator of `Change`; ends with `ClosedError` when the memory is closed.

    A wait that is cancelled, by a timeout say, loses nothing: the next one gets what it would have got.
    """

    def __init__(self, engine: Engine, agent: str, prefix: str, after: int) -> None:
        self._engine = engine
        self._agent = agent
        self._prefix = prefix
        self._ready: deque[tuple[int, LogRow, ChangeRow]] = deque()
        self.revision: int = after
        engine.holds.add_feed(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        while not self._ready:
            if not self._read():
                await self._engine.wait_visible()
            elif not self._ready:
                await turn()  # a long stretch of others' changes must not hold up the loop
        revision, row, change = taken = self._ready.popleft()
        try:
            return await to_change(self._engine, revision, row, change)
        except asyncio.CancelledError:
            self._ready.appendleft(taken)
            raise

    def _read(self) -> bool:
        """Read some of the log; whether there was any."""
        self._engine.check_usable()
        rows = self._engine.snapshot.logs(self.revision, LOG_BATCH)
        for revision, row in rows:
            self.revision = revision
            for change in row.changes:
                if (
                    change.space == STATE
                    and change.kind != CHANGE
                    and change.agent == self._agent
                    and change.key.startswith(self._prefix)
                ):
                    self._ready.append((revision, row, change))
        return bool(rows)


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One accepted entry, as `tail` reports it.

    Attributes:
        revision: Its revision.
        recorded_at: Entry time.
        kind: "write", "acquire", "vote", and so on; the names are those of the file format.
        actor: Who submitted it; empty if unnamed.
        request_id: Under which id its caller made it, if under any.
        changes: Keys it changed, in order.
        detail: What it asked for, of locks, votes and rules: the fields of the file format by name.
    """

    revision: int
    recorded_at: datetime
    kind: str
    actor: str
    request_id: str | None
    changes: tuple[Change, ...]
    detail: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Tail:
    """An async iterator of `JournalEntry`; ends with `ClosedError` when the memory is closed.

    A wait that is cancelled loses nothing, as with `Watch`.
    """

    def __init__(self, engine: Engine, after: int) -> None:
        self._engine = engine
        self._ready: deque[tuple[int, LogRow]] = deque()
        self.revision: int = after
        engine.holds.add_feed(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> JournalEntry:
        engine = self._engine
        while not self._ready:
            engine.check_usable()
            self._ready.extend(engine.snapshot.logs(self.revision, LOG_BATCH))
            if not self._ready:
                await engine.wait_visible()
        revision, row = taken = self._ready.popleft()
        before, self.revision = self.revision, revision  # what cannot be read is passed over
        entry = _entry_of(engine, revision, row)
        try:
            changes = tuple(
                [
                    await to_change(engine, revision, row, change)
                    for change in row.changes
                    if change.space == STATE and change.kind != CHANGE
                ]
            )
        except asyncio.CancelledError:
            self.revision = before
            self._ready.appendleft(taken)
            raise
        kind = str(entry.body.__struct_config__.tag)
        return JournalEntry(
            revision,
            to_datetime(row.recorded_at),
            kind,
            entry.actor,
            given_id(entry.request_id),
            changes,
            _detail(entry.body),
        )


def _detail(body: Body) -> dict[str, Any]:
    if not isinstance(body, _TOLD):
        return {}
    names = (name for name in body.__struct_fields__ if name not in _UNTOLD)
    return {name: getattr(body, name) for name in names}


def _entry_of(engine: Engine, revision: int, row: LogRow) -> Entry:
    """What the journal has of a logged entry.

    Raises:
        CorruptionError: it is damaged, or another one.
        TrimmedError: it is no longer kept.
    """
    frame = engine.reader.read(row.position)
    if frame.recorded_at != row.recorded_at:
        raise CorruptionError(
            f"journal: entry {frame.sequence} is not that of revision {revision}: its segment is "
            "another store's"
        )
    return decode_entry(frame.payload)


async def to_change(engine: Engine, revision: int, row: LogRow, change: ChangeRow) -> Change:
    """The public form of a logged change, with its record if it was a put."""
    if change.kind != "put":
        return Change(
            "delete" if change.kind == "delete" else "expire", change.agent, change.key, revision
        )
    stored = _stored(engine, revision, row, change)
    record = None if stored is None else await record_of(engine, stored)
    return Change("put", change.agent, change.key, revision, record)


def _stored(engine: Engine, revision: int, row: LogRow, change: ChangeRow) -> Stored | None:
    name = name_of(change.space, change.agent, change.key)
    version = engine.snapshot.version(version_key(name, change.known_at, revision))
    if version is not None:
        return to_stored(name, change.known_at, revision, version)
    # `history` has dropped the version; the journal still has it.
    return _stored_in_journal(engine, revision, row, change)


def _stored_in_journal(
    engine: Engine, revision: int, row: LogRow, change: ChangeRow
) -> Stored | None:
    entry = _entry_of(engine, revision, row)
    for op in reversed(operations_of(entry.body)):
        known_at = row.now_us if op.known_at is None else op.known_at
        if (op.space, op.agent, op.key, known_at) != (
            change.space,
            change.agent,
            change.key,
            change.known_at,
        ):
            continue
        expires_at = None if op.ttl_us is None else known_at + op.ttl_us
        return Stored(
            op.space,
            op.agent,
            op.key,
            op.value,
            known_at,
            revision,
            row.recorded_at,
            expires_at,
            entry.actor,
        )
    return None
