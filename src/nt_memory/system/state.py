"""State: versioned keys, read through L1 and L3 and written through the journal."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from nt_memory.clock import turn
from nt_memory.codec import Draft, compress, draft
from nt_memory.entries import STATE, TRAJECTORY, Write, WriteOp
from nt_memory.errors import InvalidInputError, TrimmedError
from nt_memory.namespace import check_agent, check_key, check_prefix, is_agent
from nt_memory.system.arguments import (
    check_expect,
    check_request,
    resolve,
    to_fence,
    to_known_at,
    to_ttl_us,
    written,
)
from nt_memory.system.lookups import (
    OFF_LOOP_BYTES,
    SCAN_BATCH,
    find_now,
    find_record,
    find_values,
    is_alive,
    past_records,
    scan_records,
)
from nt_memory.system.reads import next_agent
from nt_memory.system.transaction import Transaction
from nt_memory.system.watching import Watch
from nt_memory.tiers.layout import name_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from datetime import datetime, timedelta

    from nt_memory.coordination.tokens import LockToken
    from nt_memory.records import Record
    from nt_memory.system.engine import Engine
    from nt_memory.tiers.pins import Pin
    from nt_memory.timeline import AsOfLike


class StateCalls:
    """The calls of section State; `MemorySystem` inherits them."""

    _engine: Engine

    async def put(
        self,
        agent: str,
        key: str,
        value: Any,
        *,
        ttl: float | timedelta | None = None,
        known_at: datetime | None = None,
        expect: int | None = None,
        fence: LockToken | int | None = None,
        request_id: str | None = None,
    ) -> int:
        """Write a value; durable and visible when it returns.

        Args:
            agent: Whose key.
            key: The key.
            value: Any supported value (see `codec`); copied before the call first waits. A value of
                more than 1 MiB goes to a file of its own, and its arrays are not copied first:
                they, and the arrays they are views of, are read-only until they have been read,
                which takes about a second a gigabyte. What is stored is what was read, even if
                something other than numpy changes it meanwhile.
            ttl: Life in seconds after `known_at`, on the timeline; None: for ever.
            known_at: Since when it counts as known; now by default, never in the future. A value
                known earlier than the current one is history, not the present.
            expect: 0: the key must not exist. A revision: the current one must still be that.
            fence: A lock token: the write is accepted only while its lease runs.
            request_id: A repeated id acts once and returns the first result.

        Returns:
            The revision.

        Raises:
            ConflictError: `expect` does not hold; `.current` is what was found.
            StaleFenceError: the lock's grant is over.
            CodecError: the value cannot be stored, or is too large: arrays and `bytes` in it may
                have 1 GiB together, all else 64 MiB.
            InvalidNameError, InvalidTimeError: a malformed name or time.
            LookAheadError: `known_at` lies past a backtest's now.
            StorageFullError: no space is left; nothing is left behind.
            StorageError: the journal failed.

        Cost: one group-committed journal write; encoding runs on the loop, compression of values
            over 64 KiB off it, and so does the writing of values over 1 MiB.
        """
        data = draft(value)
        large: Draft | None = None
        if isinstance(data, Draft):
            large, data = data, b""
        elif self._engine.config.enable_compression:
            # Copied by now: what takes long may leave the loop.
            is_large = len(data) > OFF_LOOP_BYTES
            data = await asyncio.to_thread(compress, data) if is_large else compress(data)
        op = WriteOp(
            STATE,
            check_agent(agent),
            check_key(key),
            data,
            to_known_at(known_at),
            to_ttl_us(ttl),
            check_expect(expect),
        )
        write, request = Write((op,), to_fence(fence)), check_request(request_id)
        if large is not None:
            return written(await self._engine.filing.submit(write, {0: large}, request), request)
        return written(await self._engine.submit(write, request), request)

    async def delete(
        self,
        agent: str,
        key: str,
        *,
        known_at: datetime | None = None,
        expect: int | None = None,
        fence: LockToken | int | None = None,
        request_id: str | None = None,
    ) -> int | None:
        """Remove a value, or an observation; its history stays readable.

        Returns:
            The revision, or None if there was nothing to remove.

        Errors are those of `put`.
        """
        op = WriteOp(
            STATE,
            check_agent(agent),
            check_key(key),
            None,
            to_known_at(known_at),
            expect=check_expect(expect),
        )
        revision: int | None = await self._engine.submit(
            Write((op,), to_fence(fence)), check_request(request_id)
        )
        return revision

    def transaction(
        self, *, fence: LockToken | int | None = None, request_id: str | None = None
    ) -> Transaction:
        """Several puts, observations and deletes as one: `async with memory.transaction() as tx: tx.put(…)`."""
        return Transaction(self._engine, to_fence(fence), check_request(request_id))

    async def get(
        self, agent: str, key: str, default: Any = None, *, as_of: AsOfLike | None = None
    ) -> Any:
        """The value of a key, read-only; `default` if there is none.

        Args:
            agent: Whose key.
            key: The key.
            default: Returned on a miss.
            as_of: A time, a revision or `AsOf`; None for now.

        Raises:
            LookAheadError: `as_of` lies past a backtest's now.
            TrimmedError: what was in force then has been dropped.
            CorruptionError: the stored value fails its checksum, or its file is missing.

        Cost: an L1 hit under a microsecond; an L3 read about 10 us, after which it is hot. Arrays
            in a value of more than 1 MiB are read-only maps of its file, which is verified the
            first time, at 0.25 s a gigabyte and what the disk takes; `bytes` are copied out of it. A
            hit does not look who calls, and need not: it hands out one immutable record. Only a
            miss raises `WrongLoopError` where it is due.
        """
        if as_of is None:
            record = self._engine.hot.get(agent, key)
            if record is not None and record.expires_at is None:
                return record.value
        found = await find_record(self._engine, agent, key, as_of)
        return default if found is None else found.value

    async def get_record(
        self, agent: str, key: str, *, as_of: AsOfLike | None = None
    ) -> Record | None:
        """The version of a key with its times, or None; arguments and errors as `get`."""
        if as_of is None:
            self._engine.hot.get(agent, key)  # counts as a read of L1, as it does in `get`
        return await find_record(self._engine, agent, key, as_of)

    async def get_many(self, pairs: Iterable[tuple[str, str]]) -> list[Any]:
        """The values of several `(agent, key)` pairs at one revision; None for a miss."""
        wanted = list(pairs)
        try:
            return await find_values(self._engine, wanted)
        except TrimmedError:
            return await find_values(self._engine, wanted)  # a follower that was behind is not now

    async def agents(self) -> list[str]:
        """Names of all agents that have stored something, by name; also if all of it was deleted.

        Cost: about 5 us an agent.
        """
        engine = self._engine
        engine.check_usable()
        found: set[str] = set()
        for space in (STATE, TRAJECTORY):
            agent = ""
            while (name := next_agent(engine.snapshot, space, agent)) is not None:
                agent = name
                found.add(agent)
                if len(found) % SCAN_BATCH == 0:
                    await turn()
                    engine.check_usable()
        return sorted(name for name in found if is_agent(name))

    def scan(
        self, agent: str, prefix: str = "", *, after: str = "", as_of: AsOfLike | None = None
    ) -> AsyncIterator[Record]:
        """Records of an agent whose key starts with `prefix`, by key, all as of one moment.

        The moment is that of the call: what changes during the iteration does not show.

        Args:
            agent: Whose keys.
            prefix: What their keys start with.
            after: Only keys greater than this one: the last of a page gives the next.
            as_of: A time, a revision or `AsOf`; None for now.
        """
        engine = self._engine
        engine.check_usable()
        start = name_of(STATE, check_agent(agent), check_prefix(prefix))[:-1]
        last = name_of(STATE, agent, check_key(after)) if after else b""
        moment = resolve(engine, as_of)
        if as_of is not None:
            engine.snapshot.check_floor(start, moment.time_us)
        records = scan_records(engine, start, moment, last)
        engine.holds.add_read(records, moment)
        return records

    def history(self, agent: str, key: str) -> AsyncIterator[Record]:
        """All values a key had, newest first by `(known_at, revision)`; deletes are skipped."""
        self._engine.check_usable()
        check_agent(agent)
        return past_records(self._engine, agent, check_key(key))

    def watch(self, agent: str, prefix: str = "", *, after: int | None = None) -> Watch:
        """Changes of an agent's keys from now on, in order, none missed.

        Args:
            agent: Whose keys.
            prefix: What their keys start with.
            after: Start right after this revision instead of now.

        Returns:
            An async iterator of `Change`. It reads the journal, so a slow reader costs no memory.

        Raises:
            InvalidInputError: `after` is not a visible revision.
        """
        engine = self._engine
        engine.check_usable()
        check_agent(agent)
        start = engine.revision if after is None else after
        if isinstance(start, bool) or not 0 <= start <= engine.revision:
            raise InvalidInputError(f"after must be a revision up to {engine.revision}")
        return Watch(engine, agent, check_prefix(prefix), start)

    def peek(self, agent: str, key: str, default: Any = None) -> Any:
        """The value if it is hot, else `default`; never does I/O, never waits. L1 only.

        Does not look who calls: any thread may ask, and a closed memory has nothing hot.
        """
        record = self._engine.hot.get(agent, key)
        if record is None:
            return default
        if record.expires_at is not None and not is_alive(record, resolve(self._engine, None)):
            return default
        return record.value

    def pin(self, agent: str, key: str) -> Pin:
        """A live reference to a key: `.value` costs one attribute read.

        It moves to a new revision together with everything else; reading it never waits. It keeps
        its last state once the memory is closed, or can no longer follow its journal, when every
        other call raises. A large value that is pinned is read where its key changes, on the event
        loop: microseconds for arrays, but `bytes` are copied.
        """
        engine = self._engine
        engine.check_usable()
        check_agent(agent)
        check_key(key)
        record: Record | None = None
        if engine.timeline.has_started:
            record = find_now(engine, agent, key, resolve(engine, None))
        return engine.hot.pins.add((agent, key), record)
