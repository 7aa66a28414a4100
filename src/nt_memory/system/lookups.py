"""Looking records up: hot in L1 while they can be, else in the snapshot, and off the loop where that is slow."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from nt_memory.clock import to_us, turn
from nt_memory.codec import is_filed
from nt_memory.entries import STATE
from nt_memory.errors import TrimmedError
from nt_memory.namespace import check_agent, check_key
from nt_memory.system.arguments import resolve
from nt_memory.system.filing import record_of
from nt_memory.system.reads import hot_bytes, read, scan, to_record, versions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from contextlib import AbstractContextManager

    from nt_memory.entries import Stored
    from nt_memory.records import Record
    from nt_memory.system.engine import Engine
    from nt_memory.timeline import AsOfLike, Moment

OFF_LOOP_BYTES = 64 * 1024
"""Encoded values larger than this are compressed and decoded on another thread."""
SCAN_BATCH = 256
"""Records read before the loop gets a turn."""


async def find_record(
    engine: Engine, agent: str, key: str, as_of: AsOfLike | None
) -> Record | None:
    """The version of a key that `as_of` shows; errors as `StateCalls.get`. Promotes what is current."""
    engine.check_usable()
    moment = resolve(engine, as_of)
    if as_of is None:
        record = engine.hot.peek((agent, key))
        if record is not None:
            return record if is_alive(record, moment) else None
    stored = _read(engine, agent, key, moment, is_now=as_of is None)
    if stored is None:
        return None
    if stored.value is not None and _is_slow(stored.value):
        seen = engine.revision
        try:
            record = await _read_aside(engine, stored)
        except TrimmedError:
            if as_of is not None:
                raise
            # A follower that was behind is not now.
            return await find_record(engine, agent, key, None)
        is_promotable = as_of is None and seen == engine.revision
    else:
        record = to_record(stored, engine.values)
        is_promotable = as_of is None
    if is_promotable:
        engine.hot.put((agent, key), record, hot_bytes(record, stored))
    return record


async def find_values(engine: Engine, pairs: Sequence[tuple[str, str]]) -> list[Any]:
    """The current values of several keys, all of one revision; None for a miss.

    Raises:
        TrimmedError: a value's file was dropped meanwhile, since this process follows from behind.
    """
    engine.check_usable()
    moment = resolve(engine, None)
    found: list[Any] = []
    filed: dict[int, Stored] = {}
    for number, (agent, key) in enumerate(pairs):
        record = engine.hot.peek((agent, key))
        if record is None:
            stored = _read(engine, agent, key, moment, is_now=True)
            if stored is not None and stored.value is not None and is_filed(stored.value):
                filed[number] = stored
                found.append(None)
                continue
        record = find_now(engine, agent, key, moment)
        found.append(None if record is None else record.value)
    with _kept(engine, filed.values()):
        for number, stored in filed.items():
            found[number] = (await record_of(engine, stored)).value
    return found


def find_now(engine: Engine, agent: str, key: str, moment: Moment) -> Record | None:
    """The current record, without waiting; promoted if it was cold."""
    record = engine.hot.get(agent, key)
    if record is not None:
        return record if is_alive(record, moment) else None
    stored = _read(engine, agent, key, moment, is_now=True)
    if stored is None:
        return None
    record = to_record(stored, engine.values)
    engine.hot.put((agent, key), record, hot_bytes(record, stored))
    return record


def is_alive(record: Record, moment: Moment) -> bool:
    """Whether a record's life has not ended by then."""
    return record.expires_at is None or to_us(record.expires_at) > moment.time_us


async def scan_records(
    engine: Engine, prefix: bytes, moment: Moment, last: bytes
) -> AsyncIterator[Record]:
    """Records whose name starts with `prefix` and is greater than `last`, as a moment shows them."""
    after: bytes | None = last
    # Where old versions are dropped, what the moment showed may be gone by the next batch, so all of
    # it is read at once.
    limit = SCAN_BATCH if engine.keeps_history else sys.maxsize
    while after is not None:
        engine.check_usable()
        found, after = scan(engine.snapshot, prefix, moment, after, limit)
        with _kept(engine, found):
            for stored in found:
                yield await record_of(engine, stored)
        await turn()


async def past_records(engine: Engine, agent: str, key: str) -> AsyncIterator[Record]:
    """All values a key had, newest first."""
    # Read in one go: the versions of one key belong together, and no cursor outlives an await.
    stored = [
        version
        for version in versions(engine.snapshot, STATE, agent, key)
        if version.value is not None
    ]
    with _kept(engine, stored):
        for version in stored:
            yield await record_of(engine, version)


def _read(engine: Engine, agent: str, key: str, moment: Moment, *, is_now: bool) -> Stored | None:
    check_agent(agent)
    check_key(key)
    return read(engine.snapshot, STATE, agent, key, moment, is_now=is_now)


def _is_slow(value: bytes) -> bool:
    return len(value) > OFF_LOOP_BYTES or is_filed(value)


async def _read_aside(engine: Engine, stored: Stored) -> Record:
    """Decode on another thread what would hold up the loop; errors as `record_of`."""
    if stored.value is not None and is_filed(stored.value):
        return await record_of(engine, stored)
    return await asyncio.to_thread(to_record, stored, engine.values)


def _kept(engine: Engine, versions: Iterable[Stored]) -> AbstractContextManager[None]:
    """Keep the value files of versions until they have been read."""
    values = (version.value for version in versions)
    return engine.values.keep([value for value in values if value is not None and is_filed(value)])
