"""The whole state API against a model that is a dict of lists.

The model is the specification: the version in force at `(time, revision)` is the one with the
greatest `(known_at, revision)` among those with `known_at <= time` and no later revision, and it is
visible unless it is a delete or its time to live is over. Everything the memory answers (get,
scan, history, pins, as-of reads, watchers) is compared with what the model answers, after every
step, across expiry and reopening.

All times of a run lie on a grid: writes at multiples of ten seconds, ends of life five seconds off
it. So after the clock moved, every end of life is at least five seconds past or ahead, and the
"within a second" of expiry events leaves nothing to chance.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from nt_memory import AsOf, Change, MemoryConfig, MemorySystem, Record
from nt_memory.clock import ManualClock
from nt_memory.errors import (
    ConflictError,
    InvalidTimeError,
    LookAheadError,
    QuotaError,
    TimelineError,
    TrimmedError,
)
from nt_memory.system.holds import MAX_HOLD_S
from nt_memory.system.verifying import verify

START = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
GRID_S = 10
DEADLINE_S = 10.0
REQUEST_MEMORY_S = 3600  # far less than results are remembered for
MISSING = "missing"
TOMBSTONE = "tombstone"

AGENTS = ("alice", "bob")
KEYS = ("a", "a/x", "ab", "b", "é")
PREFIXES = ("", "a", "a/", "é", "zz")
NAMES = [
    ("alice", "a"),
    ("alice", "a/x"),
    ("alice", "ab"),
    ("alice", "é"),
    ("bob", "a"),
    ("bob", "b"),
]
"""Few, so that what one rule wrote another meets."""

names = st.sampled_from(NAMES)
values = st.one_of(
    st.none(),
    st.integers(-5, 2**70),
    st.text(max_size=3),
    st.lists(st.integers(0, 9), max_size=3),
    st.fixed_dictionaries({"qty": st.integers(0, 9)}),
)
ttls = st.one_of(st.none(), st.integers(1, 6).map(lambda n: GRID_S * n - GRID_S // 2))
delays = st.one_of(st.none(), st.integers(0, 8).map(lambda n: GRID_S * n))
"""How long before now a write says it was known; None: it does not say."""


def first(pair: Any) -> Any:
    """What to sort revisions by."""
    return pair[0]


def moment(seconds: int) -> datetime:
    """The time that the model calls `seconds`."""
    return START + timedelta(seconds=seconds)


@dataclass(frozen=True)
class Version:
    """One version of one key; `value` is `TOMBSTONE` for a delete. Times in seconds of the run."""

    known_at: int
    revision: int
    recorded_at: int
    value: Any
    expires_at: int | None = None


@dataclass(frozen=True)
class Write:
    """What a model needs to know about one accepted put or delete."""

    name: tuple[str, str]
    value: Any
    known_at: int
    ttl: int | None = None


@dataclass
class Model:
    """The dict and the list. `now` is the timeline's, `wall` the clock's; live they are one."""

    versions: dict[tuple[str, str], list[Version]] = field(default_factory=dict)
    log: dict[str, list[set[tuple[str, str, int]]]] = field(
        default_factory=lambda: {agent: [] for agent in AGENTS}
    )
    """Changes to come, by agent: groups in order, no order within a group."""
    born_expired: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Current versions that were over when they were written: each may be told to expire, once."""
    times: dict[int, int] = field(default_factory=lambda: {0: 0})
    """Now right after each revision that wrote something."""
    now: int = 0
    wall: int = 0

    def current(self, name: tuple[str, str]) -> Version | None:
        """The latest version, whatever it says."""
        return max(
            self.versions.get(name, ()), key=lambda v: (v.known_at, v.revision), default=None
        )

    def at(self, name: tuple[str, str], time: int, revision: int) -> Version | None:
        """What a reader as of `(time, revision)` sees."""
        found = max(
            (
                version
                for version in self.versions.get(name, ())
                if version.known_at <= time and version.revision <= revision
            ),
            key=lambda v: (v.known_at, v.revision),
            default=None,
        )
        if found is None or found.value == TOMBSTONE:
            return None
        if found.expires_at is not None and found.expires_at <= time:
            return None
        return found

    def visible(self, name: tuple[str, str]) -> Version | None:
        """What a reader sees now."""
        return self.at(name, self.now, 2**62)

    def write(self, revision: int, writes: list[Write]) -> None:
        """An entry was accepted."""
        assert revision > max(self.times), "revisions grow"
        self.times[revision] = self.now
        groups: dict[str, set[tuple[str, str, int]]] = {}
        for write in writes:
            expires_at = None if write.ttl is None else write.known_at + write.ttl
            version = Version(write.known_at, revision, self.wall, write.value, expires_at)
            self.versions.setdefault(write.name, []).append(version)
            agent, key = write.name
            kind = "delete" if write.value == TOMBSTONE else "put"
            groups.setdefault(agent, set()).add((kind, key, revision))
            is_over = expires_at is not None and expires_at <= self.now
            if is_over and self.current(write.name) is version:
                self.born_expired[write.name] += 1
        for agent, group in groups.items():
            self.log[agent].append(group)

    def move(self, seconds: int) -> None:
        """Time passes, and what ran out by then is told."""
        before, self.now = self.now, self.now + seconds
        for agent in AGENTS:
            over = set()
            for key in KEYS:
                current = self.current((agent, key))
                if current is None or current.expires_at is None or current.value == TOMBSTONE:
                    continue
                if before < current.expires_at <= self.now:
                    over.add(("expire", key, current.revision))
            if over:
                self.log[agent].append(over)


class StateMachine(RuleBasedStateMachine):
    """Rules that both timelines share."""

    is_backtest = False

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="nt-memory-"))
        self.clock = ManualClock(START)
        self.runner = asyncio.Runner()
        self.model = Model()
        self.seen: dict[str, list[Change]] = {agent: [] for agent in AGENTS}
        self.requests: list[tuple[str, Write, int, int]] = []
        self.request_ids = count()
        self.pins: dict[tuple[str, str], Any] = {}
        self.is_set_back = False
        self.floor = 0
        """What lies before this revision the base has swallowed."""
        self.run(self.open())

    def run(self, coroutine: Any) -> Any:
        """Run on this machine's one event loop."""
        return self.runner.run(asyncio.wait_for(coroutine, 3 * DEADLINE_S))

    async def open(self) -> None:
        """Open the store and put watchers and pins where they were."""
        config = MemoryConfig(
            storage_path=self.directory / "store",
            timeline="backtest" if self.is_backtest else "live",
        )
        self.memory = await MemorySystem.open(config, clock=self.clock)
        # Views that were made again begin with the base; those that were kept may reach further.
        self.floor = self.memory._engine.snapshot.log_floor
        self.watch(self.floor)
        self.pins = {name: self.memory.pin(*name) for name in self.pins}

    def watch(self, after: int) -> None:
        """Begin to watch, behind what was reported and `after`."""
        self.watchers = {
            agent: self.memory.watch(agent, after=max(after, self.last_seen(agent)))
            for agent in AGENTS
        }
        self.watching_ns = self.clock.monotonic_ns()

    async def close(self) -> None:
        """Close the store."""
        await self.memory.close()

    def last_seen(self, agent: str) -> int:
        """The last revision this agent's watcher reported."""
        return self.seen[agent][-1].revision if self.seen[agent] else 0

    def teardown(self) -> None:
        """Nothing was told that the model does not know of; then clean up."""
        try:
            if hasattr(self, "memory"):
                self.run(self.finish())
        finally:
            self.runner.close()
            shutil.rmtree(self.directory)

    async def finish(self) -> None:
        """A last write to each agent flushes out changes that should not have been told."""
        try:
            if self.is_started():
                for agent in AGENTS:
                    revision = await self.memory.put(agent, "b", "the end")
                    self.model.write(revision, [Write((agent, "b"), "the end", self.model.now)])
                await self.drain()
                await self.check_replay()
        finally:
            await self.close()

    # --- watching -----------------------------------------------------------------------------

    async def drain(self) -> None:
        """Take every change that is due from the watchers; each must be one the model expects."""
        for agent in AGENTS:
            groups = self.model.log[agent]
            while groups:
                async with asyncio.timeout(DEADLINE_S):
                    change = await anext(self.watchers[agent])
                self.take(agent, change, groups)

    def take(self, agent: str, change: Change, groups: list[set[tuple[str, str, int]]]) -> None:
        """Compare one change with the next group, and cross it off."""
        assert change.agent == agent
        assert change.revision >= self.last_seen(agent), "in revision order"
        self.seen[agent].append(change)
        name = (agent, change.key)
        if change.kind == "expire":
            assert change.record is None
            over = {item for item in groups[0] if item[:2] == ("expire", change.key)}
            if not over and self.model.born_expired[name] > 0:
                self.model.born_expired[name] -= 1
                return
            assert over, f"{change} was told, expected was one of {groups[0]}"
            groups[0] -= over
        else:
            item = (change.kind, change.key, change.revision)
            assert item in groups[0], f"{change} was told, expected was one of {groups[0]}"
            groups[0].discard(item)
            (version,) = (v for v in self.model.versions[name] if v.revision == change.revision)
            if change.kind == "put":
                self.check_record(change.record, name, version)
            else:
                assert change.record is None
        if not groups[0]:
            groups.pop(0)

    async def check_replay(self) -> None:
        """A watcher that starts from the base is told the same as one that was there."""
        for agent in AGENTS:
            told = [change for change in self.seen[agent] if change.revision > self.floor]
            watcher = self.memory.watch(agent, after=self.floor)
            async with asyncio.timeout(DEADLINE_S):
                again = [await anext(watcher) for _ in told]
            assert again == told
            if self.floor:
                with pytest.raises(TrimmedError):
                    await anext(self.memory.watch(agent, after=self.floor - 1))

    # --- comparing ----------------------------------------------------------------------------

    def check_record(
        self, record: Record | None, name: tuple[str, str], version: Version | None
    ) -> None:
        """A record says exactly what the model's version says."""
        if version is None:
            assert record is None
            return
        assert record is not None
        assert (record.agent, record.key) == name
        assert record.value == version.value
        assert record.revision == version.revision
        assert record.known_at == moment(version.known_at)
        assert record.recorded_at == moment(version.recorded_at)
        expires_at = None if version.expires_at is None else moment(version.expires_at)
        assert record.expires_at == expires_at

    @invariant()
    def same_present(self) -> None:
        """Whatever was done: what can be read now is what the model holds now."""
        if self.is_started():
            self.run(self.check_present())

    async def check_present(self) -> None:
        """get, get_many, get_record, peek, pin and scan agree with the model and each other."""
        await self.drain()
        memory = self.memory
        expected = [self.model.visible(name) for name in NAMES]
        found = await memory.get_many(NAMES)
        assert found == [None if v is None else v.value for v in expected]
        for name, version in zip(NAMES, expected, strict=True):
            value = MISSING if version is None else version.value
            assert await memory.get(*name, MISSING) == value
            assert memory.peek(*name, MISSING) in (MISSING, value)
            self.check_record(await memory.get_record(*name), name, version)
        for name, pin in self.pins.items():
            version = self.model.visible(name)
            if version is None and self.model.born_expired[name]:
                continue  # it may take the pin a second to hear that its value was never there
            self.check_record(pin.record, name, version)
            assert pin.value == (None if version is None else version.value)
        for agent in AGENTS:
            await self.check_scan(agent, "", None, self.model.now, 2**62)

    async def check_scan(
        self, agent: str, prefix: str, as_of: Any, time: int, revision: int
    ) -> None:
        """A scan returns the visible keys with the prefix, in order, and nothing else."""
        records = [record async for record in self.memory.scan(agent, prefix, as_of=as_of)]
        wanted = [
            (name, version)
            for name in sorted(NAMES)
            if name[0] == agent
            and name[1].startswith(prefix)
            and (version := self.model.at(name, time, revision)) is not None
        ]
        assert [record.key for record in records] == [name[1] for name, _ in wanted]
        for record, (name, version) in zip(records, wanted, strict=True):
            self.check_record(record, name, version)

    def check_no_entry(self, before: int) -> None:
        """Nothing took a revision; unless an expiry may come at any time."""
        if not any(self.model.born_expired.values()):
            assert self.memory.revision == before

    # --- writing ------------------------------------------------------------------------------

    def known_at(self, delay: int | None) -> tuple[int, datetime | None]:
        """The model's time and the argument of a write that was known `delay` ago."""
        seconds = self.model.now - (delay or 0)
        return seconds, None if delay is None else moment(seconds)

    def is_started(self) -> bool:
        """Whether the timeline has a now."""
        return True

    @precondition(lambda self: self.is_started())
    @rule(name=names, value=values, ttl=ttls, delay=delays)
    def put(self, name: Any, value: Any, ttl: int | None, delay: int | None) -> None:
        """A put, perhaps late, perhaps with an end of life."""
        seconds, known_at = self.known_at(delay)
        revision = self.run(self.memory.put(*name, value, ttl=ttl, known_at=known_at))
        self.model.write(revision, [Write(name, value, seconds, ttl)])
        assert self.memory.revision >= revision

    @precondition(lambda self: self.is_started())
    @rule(name=names, delay=delays)
    def delete(self, name: Any, delay: int | None) -> None:
        """A delete says None if there was nothing then, and changes nothing."""
        seconds, known_at = self.known_at(delay)
        found = self.model.at(name, seconds, 2**62)
        revision = self.run(self.memory.delete(*name, known_at=known_at))
        if found is None:
            assert revision is None
        else:
            self.model.write(revision, [Write(name, TOMBSTONE, seconds)])

    @precondition(lambda self: self.is_started())
    @rule(name=names, value=values, delay=delays, is_delete=st.booleans())
    def expect_right(self, name: Any, value: Any, delay: int | None, is_delete: bool) -> None:
        """A write whose expectation holds is a write like any other."""
        seconds, known_at = self.known_at(delay)
        current = self.model.visible(name)
        expect = 0 if current is None else current.revision
        if is_delete:
            if current is None or self.model.at(name, seconds, 2**62) is None:
                return
            revision = self.run(self.memory.delete(*name, known_at=known_at, expect=expect))
            self.model.write(revision, [Write(name, TOMBSTONE, seconds)])
        else:
            revision = self.run(self.memory.put(*name, value, known_at=known_at, expect=expect))
            self.model.write(revision, [Write(name, value, seconds)])

    @precondition(lambda self: self.is_started())
    @rule(name=names, off=st.integers(-3, 3), is_delete=st.booleans())
    def expect_wrong(self, name: Any, off: int, is_delete: bool) -> None:
        """A write whose expectation does not hold names the current revision and does nothing."""
        current = self.model.visible(name)
        actual = 0 if current is None else current.revision
        expect = max(0, actual + off)
        if expect == actual:
            return
        before = self.memory.revision
        with pytest.raises(ConflictError) as caught:
            self.run(
                self.memory.delete(*name, expect=expect)
                if is_delete
                else self.memory.put(*name, "refused", expect=expect)
            )
        assert caught.value.current == actual
        self.check_no_entry(before)

    @precondition(lambda self: self.is_started())
    @rule(name=names, value=values, delay=delays)
    def put_with_request(self, name: Any, value: Any, delay: int | None) -> None:
        """A put that can be repeated."""
        seconds, known_at = self.known_at(delay)
        request_id = f"request-{next(self.request_ids)}"
        revision = self.run(self.memory.put(*name, value, known_at=known_at, request_id=request_id))
        write = Write(name, value, seconds)
        self.model.write(revision, [write])
        self.requests.append((request_id, write, revision, self.model.wall))

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def repeat_request(self, data: st.DataObject) -> None:
        """A repeated request returns the first result and does nothing."""
        request_id, write, first, made_at = data.draw(st.sampled_from(self.requests))
        if self.model.wall - made_at > REQUEST_MEMORY_S:
            return
        again = self.run(
            self.memory.put(
                *write.name, write.value, known_at=moment(write.known_at), request_id=request_id
            )
        )
        assert again == first

    @precondition(lambda self: self.is_started())
    @rule(
        writes=st.lists(
            st.tuples(names, st.one_of(values, st.just(TOMBSTONE)), ttls, delays),
            min_size=1,
            max_size=4,
            unique_by=lambda write: write[0],
        )
    )
    def transaction(self, writes: list[Any]) -> None:
        """Puts and deletes of different keys happen together, under one revision."""
        done: list[Write] = []

        async def commit() -> int | None:
            async with self.memory.transaction() as tx:
                for name, value, ttl, delay in writes:
                    seconds, known_at = self.known_at(delay)
                    if value == TOMBSTONE:
                        tx.delete(*name, known_at=known_at)
                        if self.model.at(name, seconds, 2**62) is not None:
                            done.append(Write(name, TOMBSTONE, seconds))
                    else:
                        tx.put(*name, value, ttl=ttl, known_at=known_at)
                        done.append(Write(name, value, seconds, ttl))
            return tx.revision

        before = self.memory.revision
        revision = self.run(commit())
        if done:
            assert revision is not None
            self.model.write(revision, done)
        else:
            assert revision is None
            self.check_no_entry(before)

    @precondition(lambda self: self.is_started())
    @rule(name=names, other=names, value=values, breaks=st.booleans())
    def transaction_refused(self, name: Any, other: Any, value: Any, breaks: bool) -> None:
        """A transaction that fails, by a conflict or by its own body, does nothing at all."""
        current = self.model.visible(name)
        wrong = (0 if current is None else current.revision) + 1

        async def commit() -> None:
            async with self.memory.transaction() as tx:
                tx.put(*other, value)
                if breaks:
                    raise KeyError(name)
                tx.put(*name, value, expect=wrong)

        before = self.memory.revision
        with pytest.raises(KeyError if breaks else ConflictError):
            self.run(commit())
        self.check_no_entry(before)

    @precondition(lambda self: self.is_started())
    @rule(name=names, value=values, delay=delays)
    def put_over_quota(self, name: Any, value: Any, delay: int | None) -> None:
        """What does not fit is refused and does nothing; what others do is not touched by it."""
        agent, _ = name
        _, known_at = self.known_at(delay)
        other = next(one for one in NAMES if one[0] != agent)

        async def commit() -> None:
            async with self.memory.transaction() as tx:
                tx.put(*other, "refused")
                tx.put(*name, value)

        async def refuse() -> None:
            used = self.memory.usage(agent)
            await self.memory.set_quota(agent, max_bytes=used.bytes)
            before = self.memory.revision
            with pytest.raises(QuotaError):
                await self.memory.put(*name, value, known_at=known_at)
            with pytest.raises(QuotaError):
                await commit()
            self.check_no_entry(before)
            assert self.memory.usage(agent).bytes == used.bytes
            await self.memory.set_quota(agent)

        self.run(refuse())

    # --- reading the past ---------------------------------------------------------------------

    def draw_past(self, data: st.DataObject) -> tuple[Any, int, int]:
        """An `as_of` and the model's time and revision for it."""
        revisions = [r for r in sorted(self.model.times) if r >= self.floor or r == 0]
        revision = data.draw(st.sampled_from(revisions))
        seconds = data.draw(st.integers(-2, self.model.now // 5)) * 5
        kind = data.draw(st.sampled_from(["time", "revision", "both"]))
        if kind == "time":
            return moment(seconds), seconds, 2**62
        if kind == "revision":
            if self.floor and revision < self.floor:
                with pytest.raises(TrimmedError):
                    self.memory.at(revision)
                return moment(seconds), seconds, 2**62
            return revision, self.model.times[revision], revision
        return AsOf(moment(seconds), revision), seconds, revision

    @precondition(lambda self: self.is_started())
    @rule(data=st.data(), prefix=st.sampled_from(PREFIXES), through_view=st.booleans())
    def read_past(self, data: st.DataObject, prefix: str, through_view: bool) -> None:
        """As-of reads by either clock or both, direct or through `at`, agree with the model."""
        as_of, time, revision = self.draw_past(data)

        async def check() -> None:
            for name in NAMES:
                version = self.model.at(name, time, revision)
                value = MISSING if version is None else version.value
                if through_view:
                    view = self.memory.at(as_of)
                    assert await view.get(*name, MISSING) == value
                    self.check_record(await view.get_record(*name), name, version)
                else:
                    assert await self.memory.get(*name, MISSING, as_of=as_of) == value
                    record = await self.memory.get_record(*name, as_of=as_of)
                    self.check_record(record, name, version)
            for agent in AGENTS:
                await self.check_scan(agent, prefix, as_of, time, revision)

        self.run(check())

    @precondition(lambda self: self.is_started())
    @rule(name=names)
    def history(self, name: Any) -> None:
        """History is every put, newest first."""

        async def check() -> None:
            records = [record async for record in self.memory.history(*name)]
            versions = sorted(
                (v for v in self.model.versions.get(name, ()) if v.value != TOMBSTONE),
                key=lambda v: (v.known_at, v.revision),
                reverse=True,
            )
            assert [record.revision for record in records] == [v.revision for v in versions]
            for record, version in zip(records, versions, strict=True):
                self.check_record(record, name, version)

        self.run(check())

    # --- the rest -----------------------------------------------------------------------------

    @rule(name=names)
    def pin(self, name: Any) -> None:
        """A pin; from now on it is compared after every step."""
        self.pins.setdefault(name, self.memory.pin(*name))

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """A released pin is compared no more, and the others still hold."""
        self.pins.pop(data.draw(st.sampled_from(sorted(self.pins)))).release()

    def mark_time(self, name: Any = NAMES[0]) -> None:
        """A clock that was set back is behind the store by what has passed since its last entry."""
        if self.is_set_back:
            revision = self.run(self.memory.put(*name, "marked"))
            self.model.write(revision, [Write(name, "marked", self.model.now)])

    @rule()
    def reopen(self) -> None:
        """Closing and opening again changes nothing that can be read."""
        self.mark_time()
        revision = self.memory.revision
        self.run(self.close())
        self.run(self.open())
        assert self.memory.revision >= revision

    @rule()
    def compact(self) -> None:
        """The base moves up to what the watchers have seen; nothing that can be read changes."""

        async def compact() -> None:
            await self.drain()
            self.watchers.clear()
            done = await self.memory.compact()
            self.floor = self.memory._engine.snapshot.log_floor
            assert done.revision == self.memory.revision
            self.watch(self.memory.revision)

        self.run(compact())

    @rule(loses_views=st.booleans())
    def crash(self, loses_views: bool) -> None:
        """The process is gone between two steps; perhaps the machine was, and its pages with it."""
        self.mark_time()
        store, left = self.directory / "store", self.directory / "left"
        # On the journal's thread, between two batches: a copy of files that are being written to is
        # not what a crash leaves.
        copy = partial(shutil.copytree, store, left)
        self.run(asyncio.to_thread(self.memory._engine.journal.perform, copy))
        self.run(self.close())
        shutil.rmtree(store)
        left.rename(store)
        if loses_views:
            shutil.rmtree(store / "views")
        self.run(self.open())

    @precondition(lambda self: self.is_started())
    @rule(
        writes=st.lists(st.tuples(names, values), min_size=2, max_size=8),
        is_compacting=st.booleans(),
    )
    def put_at_once(self, writes: list[Any], is_compacting: bool) -> None:
        """Tasks that put at the same time are put in some order, that of their revisions."""

        async def put() -> list[int]:
            watched_ns = self.clock.monotonic_ns() - self.watching_ns
            if is_compacting and watched_ns >= MAX_HOLD_S * 1e9:
                # Compaction no longer waits for a feed that nobody has read for so long.
                self.watch(self.memory.revision)
            puts = [self.memory.put(*name, value) for name, value in writes]
            if not is_compacting:
                return await asyncio.gather(*puts)
            *revisions, _ = await asyncio.gather(*puts, self.memory.compact())
            return revisions

        revisions = self.run(put())
        assert len(set(revisions)) == len(writes)
        for revision, (name, value) in sorted(zip(revisions, writes, strict=True), key=first):
            self.model.write(revision, [Write(name, value, self.model.now)])
        self.floor = self.memory._engine.snapshot.log_floor

    @rule()
    def verify(self) -> None:
        """Base and journal say what the views say, while the store is open."""
        found = verify(self.directory / "store")
        assert found.is_ok, found.damage

    @rule()
    def replay(self) -> None:
        """See `check_replay`."""
        self.run(self.check_replay())


class LiveMachine(StateMachine):
    """The state API on a live timeline: the clock is the timeline."""

    @rule(name=names, back=st.integers(1, 10**6))
    def reopen_with_the_clock_set_back(self, name: Any, back: int) -> None:
        """Time goes on from the last entry."""
        self.is_set_back = True
        self.mark_time(name)
        self.run(self.close())
        self.clock = ManualClock(self.clock.now() - timedelta(seconds=back))
        self.run(self.open())

    @rule(steps=st.integers(1, 6))
    def advance(self, steps: int) -> None:
        """Time passes; what runs out is told to watchers and pins without anyone writing."""
        self.run(self.settle())
        self.clock.advance(GRID_S * steps)
        self.model.move(GRID_S * steps)
        self.model.wall = self.model.now

    async def settle(self) -> None:
        """Let whatever sleeps on the clock fall asleep, so that it is woken by the next move."""
        await self.memory.flush()
        for _ in range(10):
            await asyncio.wait({asyncio.get_running_loop().create_future()}, timeout=0)

    @rule(name=names, ahead=st.integers(1, 100))
    def put_in_future(self, name: Any, ahead: int) -> None:
        """Nothing can be known before it is."""
        with pytest.raises(InvalidTimeError):
            self.run(self.memory.put(*name, "refused", known_at=moment(self.model.now + ahead)))


class BacktestMachine(StateMachine):
    """The same API on a backtest timeline, whose now moves by `advance` only."""

    is_backtest = True

    def is_started(self) -> bool:
        """Nothing can be read or written before the first `advance`."""
        return self.model.now > 0

    @initialize()
    def not_started(self) -> None:
        """A backtest that was never advanced has no now."""
        with pytest.raises(TimelineError):
            self.run(self.memory.put("alice", "a", 1))
        with pytest.raises(TimelineError):
            self.run(self.memory.get("alice", "a"))

    @rule(steps=st.integers(1, 6))
    def advance(self, steps: int) -> None:
        """The timeline moves, and what ran out on it is told."""
        self.run(self.memory.timeline.advance(moment(self.model.now + GRID_S * steps)))
        self.model.move(GRID_S * steps)
        assert self.memory.timeline.now == moment(self.model.now)

    @precondition(lambda self: self.is_started())
    @rule(back=st.integers(1, 100))
    def advance_backwards(self, back: int) -> None:
        """Time does not run backwards."""
        with pytest.raises(TimelineError):
            self.run(self.memory.timeline.advance(moment(self.model.now - back)))

    @rule(seconds=st.integers(1, 500))
    def wall_clock_moves(self, seconds: int) -> None:
        """The wall clock means nothing to a backtest, its times to live included."""
        self.clock.advance(seconds)
        self.model.wall += seconds

    @precondition(lambda self: self.is_started())
    @rule(name=names, ahead=st.integers(1, 100))
    def look_ahead(self, name: Any, ahead: int) -> None:
        """No read and no write reaches past now."""
        future = moment(self.model.now + ahead)
        agent, key = name

        async def check() -> None:
            memory = self.memory
            with pytest.raises(LookAheadError):
                await memory.put(agent, key, "refused", known_at=future)
            with pytest.raises(LookAheadError):
                await memory.delete(agent, key, known_at=future)
            for as_of in (future, AsOf(future, memory.revision)):
                with pytest.raises(LookAheadError):
                    await memory.get(agent, key, as_of=as_of)
                with pytest.raises(LookAheadError):
                    await memory.get_record(agent, key, as_of=as_of)
                with pytest.raises(LookAheadError):
                    async for _ in memory.scan(agent, as_of=as_of):
                        pass
                with pytest.raises(LookAheadError):
                    await memory.at(as_of).get(agent, key)

        self.run(check())


def _settings(max_examples: int) -> settings:
    if hypothesis.settings.get_current_profile_name() == "long":
        return settings(suppress_health_check=list(HealthCheck))
    return settings(
        deadline=None,
        max_examples=max_examples,
        stateful_step_count=30,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.timeout(0)
def test_live_state_agrees_with_the_model() -> None:
    """Every call of the state API answers what a dict of lists would, across reopening."""
    run_state_machine_as_test(LiveMachine, settings=_settings(30))


@pytest.mark.timeout(0)
def test_backtest_state_agrees_with_the_model() -> None:
    """So it does on a backtest timeline, which besides refuses whatever lies past its now."""
    run_state_machine_as_test(BacktestMachine, settings=_settings(15))
