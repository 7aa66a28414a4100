"""What is counted is what there is, and no quota is ever passed.

One key's rules are simple and their mixture is not: late writes, deletes in the past, ends of life
that were or were not told, versions that history or retention drop, entries with several versions of
one key. The model keeps every version of every key in a list, drops them by the same words as the
documentation, and is asked after each step what an agent has. Crashes (with and without the views),
reopening and compaction must not move a count.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from nt_memory import MemoryConfig, MemorySystem, Quota, Usage
from nt_memory.clock import ManualClock
from nt_memory.codec import encode
from nt_memory.entries import Tick
from nt_memory.errors import QuotaError
from nt_memory.system.governing import sweep_all
from nt_memory.system.verifying import verify

START = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
STEP_S = 10
AGENTS = ("a", "b")
TAGS = ("calm", "é")

names = st.tuples(st.sampled_from(AGENTS), st.sampled_from(["k", "l/m", "ä"]))
values = st.text(alphabet="xy", max_size=30)
ttls = st.none() | st.integers(1, 4).map(lambda n: STEP_S * n - STEP_S // 2)
delays = st.integers(0, 4).map(lambda n: STEP_S * n)
limits = st.none() | st.integers(0, 6)
byte_limits = st.none() | st.integers(0, 300)


@dataclass(frozen=True)
class Version:
    """One version; times in seconds of the run. `is_told`: its end was told to watchers."""

    known_at: int
    revision: int
    value: str | None
    expires_at: int | None = None
    tags: tuple[str, ...] = ()
    has_vector: bool = False
    is_told: bool = False

    @property
    def order(self) -> tuple[int, int]:
        """Place among the versions of its key."""
        return self.known_at, self.revision


def shows(versions: list[Version]) -> bool:
    """Whether a key counts."""
    if not versions:
        return False
    last = versions[-1]
    return last.value is not None and not last.is_told


Store = dict[tuple[str, str], list[Version]]


def usage(store: Store, agent: str) -> Usage:
    """What a store makes an agent use."""
    mine = {key: versions for (whose, key), versions in store.items() if whose == agent}
    return Usage(
        sum(shows(versions) for versions in mine.values()),
        sum(
            len(encode(v.value)) + len(key.encode()) + sum(len(tag.encode()) for tag in v.tags)
            for key, versions in mine.items()
            for v in versions
            if v.value is not None
        ),
        sum(v.has_vector for versions in mine.values() for v in versions),
    )


class UsageMachine(RuleBasedStateMachine):
    """A store and the lists of versions it should hold."""

    is_backtest = False
    history: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="nt-memory-"))
        self.clock = ManualClock(START)
        self.runner = asyncio.Runner()
        self.store: Store = {}
        self.quotas = dict.fromkeys(AGENTS, Quota())
        self.ages: dict[str, tuple[int | None, int | None]] = {}
        self.now = 0
        self.requests = count()
        self.run(self.open())

    def run(self, coroutine: Any) -> Any:
        """Run on this machine's one event loop."""
        return self.runner.run(asyncio.wait_for(coroutine, 30))

    async def open(self) -> None:
        """Open the store; a backtest is where it was."""
        config = MemoryConfig(
            storage_path=self.directory / "store",
            timeline="backtest" if self.is_backtest else "live",
            history=self.history,
            enable_compression=False,
        )
        self.memory = await MemorySystem.open(config, clock=self.clock)

    @initialize()
    def begin(self) -> None:
        """A backtest has to be started."""
        if self.is_backtest:
            self.run(self.memory.timeline.advance(START))

    def teardown(self) -> None:
        """Close, and let `verify` count."""
        try:
            self.run(self.memory.close())
            found = verify(self.directory / "store")
            assert found.is_ok, found.damage
        finally:
            self.runner.close()
            shutil.rmtree(self.directory)

    # --- the model ----------------------------------------------------------------------------

    def after(self, changes: list[tuple[tuple[str, str], Version]]) -> Store:
        """The store as it would be after an entry."""
        store = {name: list(versions) for name, versions in self.store.items()}
        for name, version in changes:
            versions = store.setdefault(name, [])
            last = versions[-1] if versions else None
            # What is overwritten after its end is told that first.
            if last is not None and version.order > last.order:
                versions[-1] = self.told(last)
            versions.append(version)
            versions.sort(key=lambda v: v.order)
            if self.history is not None:
                del versions[: max(0, len(versions) - self.history - 1)]
        return store

    def told(self, version: Version) -> Version:
        """A version whose end has come is told to have ended."""
        if version.expires_at is None or version.expires_at > self.now:
            return version
        return replace(version, is_told=True)

    def write(self, changes: list[tuple[tuple[str, str], Version]], call: Any) -> None:
        """Make a write that the quotas allow, or see that it is refused."""
        store = self.after(changes)
        if self.is_allowed(store):
            self.run(call)
            self.store = store
            return
        before = self.memory.revision
        with pytest.raises(QuotaError) as caught:
            self.run(call)
        error, wanted = caught.value, usage(store, caught.value.agent)
        assert error.used == getattr(usage(self.store, error.agent), error.limit)
        assert error.used + error.wanted == getattr(wanted, error.limit)
        assert error.maximum == getattr(self.quotas[error.agent], f"max_{error.limit}")
        assert self.memory.revision == before

    def is_allowed(self, store: Store) -> bool:
        """Whether no agent would have more than now and than it may."""
        for agent in AGENTS:
            quota, was, will = self.quotas[agent], usage(self.store, agent), usage(store, agent)
            for part in ("keys", "bytes", "vectors"):
                limit = getattr(quota, f"max_{part}")
                if limit is not None and getattr(will, part) > max(limit, getattr(was, part)):
                    return False
        return True

    def next(self) -> int:
        """The revision of the next entry."""
        return self.memory.revision + 1

    @invariant()
    def counts(self) -> None:
        """What is counted is what there is."""
        for agent in AGENTS:
            assert self.memory.usage(agent) == usage(self.store, agent)
            assert self.memory.quota(agent) == self.quotas[agent]

    # --- writes -------------------------------------------------------------------------------

    def version(self, value: str | None, ttl: int | None, delay: int, **more: Any) -> Version:
        """A version to be written."""
        known_at = self.now - delay
        expires_at = None if ttl is None else known_at + ttl
        return Version(known_at, self.next(), value, expires_at, **more)

    @rule(name=names, value=values, ttl=ttls, delay=delays, is_ordered=st.booleans())
    def put(self, name: Any, value: str, ttl: int | None, delay: int, is_ordered: bool) -> None:
        """A put, perhaps late, perhaps over before it was written; judged before or after its order.

        One with a request id is judged by the replica alone.
        """
        version = self.version(value, ttl, delay)
        known_at = START + timedelta(seconds=version.known_at)
        request = f"request {next(self.requests)}" if is_ordered else None
        call = self.memory.put(*name, value, ttl=ttl, known_at=known_at, request_id=request)
        self.write([(name, version)], call)

    @rule(name=names, value=values, ttl=ttls, delay=delays, tags=st.lists(st.sampled_from(TAGS)))
    def observe(self, name: Any, value: str, ttl: int | None, delay: int, tags: Any) -> None:
        """An observation is a put with an embedding and tags."""
        agent, key = name
        tags = tuple(sorted(set(tags)))
        version = self.version(value, ttl, delay, tags=tags, has_vector=True)
        known_at = START + timedelta(seconds=version.known_at)
        call = self.memory.observe(
            agent, [1.0, 2.0], value, key=key, tags=tags, ttl=ttl, known_at=known_at
        )
        self.write([(name, version)], call)

    @rule(name=names, delay=delays)
    def delete(self, name: Any, delay: int) -> None:
        """A delete is never refused; of nothing it writes nothing."""
        version = self.version(None, None, delay)
        known_at = START + timedelta(seconds=version.known_at)
        if self.run(self.memory.delete(*name, known_at=known_at)) is not None:
            self.store = self.after([(name, version)])

    @rule(
        writes=st.lists(
            st.tuples(names, values, ttls, delays),
            min_size=1,
            max_size=4,
            unique_by=lambda w: (w[0], w[3]),
        )
    )
    def transaction(self, writes: list[Any]) -> None:
        """All or nothing, also with several versions of one key."""
        changes = [(name, self.version(value, ttl, delay)) for name, value, ttl, delay in writes]

        async def commit() -> None:
            async with self.memory.transaction() as tx:
                for (name, version), (_, value, ttl, _) in zip(changes, writes, strict=True):
                    known_at = START + timedelta(seconds=version.known_at)
                    tx.put(*name, value, ttl=ttl, known_at=known_at)

        self.write(changes, commit())

    # --- rules and time -----------------------------------------------------------------------

    @rule(agent=st.sampled_from(AGENTS), keys=limits, size=byte_limits, vectors=limits)
    def set_quota(self, agent: str, keys: Any, size: Any, vectors: Any) -> None:
        """A quota, perhaps below what is used."""
        quota = Quota(keys, size, vectors)
        self.run(self.memory.set_quota(agent, max_keys=keys, max_bytes=size, max_vectors=vectors))
        self.quotas[agent] = quota

    @rule(
        agent=st.sampled_from(AGENTS),
        age=st.none() | st.integers(1, 3).map(lambda n: STEP_S * n),
        number=st.none() | st.integers(0, 2),
    )
    def retain_and_sweep(self, agent: str, age: int | None, number: int | None) -> None:
        """Retention drops the oldest versions, and keys that ended long enough ago."""
        self.run(self.memory.set_retention(agent, max_age=age, max_versions=number))
        self.ages[agent] = age, number
        self.sweep()

    @rule()
    def sweep(self) -> None:
        """A sweep by the rules in force."""
        self.run(sweep_all(self.memory._engine))
        for (agent, key), versions in list(self.store.items()):
            self.store[agent, key] = self.retained(versions, *self.ages.get(agent, (None, None)))

    def retained(
        self, versions: list[Version], age: int | None, number: int | None
    ) -> list[Version]:
        """What a rule keeps of a key."""
        while len(versions) > 1:
            is_old = age is not None and versions[1].known_at <= self.now - age
            if not is_old and (number is None or len(versions) - 1 <= number):
                break
            versions = versions[1:]
        if len(versions) == 1 and age is not None:
            (last,) = versions
            ended = last.known_at if last.value is None else last.expires_at
            if ended is not None and ended <= self.now - age:
                return []
        return versions

    @rule(steps=st.integers(1, 3))
    def advance(self, steps: int) -> None:
        """Time passes, and a tick tells what ended."""
        self.now += STEP_S * steps
        if self.is_backtest:
            self.run(self.memory.timeline.advance(START + timedelta(seconds=self.now)))
        else:
            self.clock.advance(STEP_S * steps)
        self.tell()

    @rule()
    def tell(self) -> None:
        """What ended is told."""
        if self.is_backtest:
            self.run(self.memory.timeline.advance(START + timedelta(seconds=self.now)))
        else:
            self.run(self.memory._engine.submit(Tick()))
        for versions in self.store.values():
            if versions:
                versions[-1] = self.told(versions[-1])

    # --- what must not matter -----------------------------------------------------------------

    @rule(loses_views=st.booleans())
    def crash(self, loses_views: bool) -> None:
        """The process is gone, perhaps with the views."""
        store, left = self.directory / "store", self.directory / "left"
        shutil.copytree(store, left)
        self.run(self.memory.close())
        shutil.rmtree(store)
        left.rename(store)
        if loses_views:
            shutil.rmtree(store / "views")
        self.run(self.open())

    @rule()
    def reopen(self) -> None:
        """Closed and opened."""
        self.run(self.memory.close())
        self.run(self.open())

    @rule()
    def compact(self) -> None:
        """Fresh views; and a sweep comes first."""
        self.run(self.memory.compact())
        self.sweep()


class HistoryMachine(UsageMachine):
    """Where `history` drops versions as they are written."""

    history = 1


class BacktestMachine(UsageMachine):
    """On a timeline that moves by entries."""

    is_backtest = True
    history = 0


@pytest.mark.parametrize("machine", [UsageMachine, HistoryMachine, BacktestMachine])
def test_usage_is_exact_and_bounded(machine: Any) -> None:
    """Whatever happens, in whatever order."""
    is_long = settings.get_current_profile_name() == "long"
    budget = settings.get_profile("long") if is_long else settings(max_examples=25, deadline=None)
    run_machine(
        machine,
        settings=settings(budget, suppress_health_check=list(HealthCheck), print_blob=True),
    )
