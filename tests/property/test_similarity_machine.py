"""Similarity search against a model that scans a list.

An observation is a version of a key that also has an embedding. So what a search as of a moment may
return is what the keys' versions in force at that moment say: late observations, replaced and
deleted ones, plain puts over them and ends of life included. The model keeps all versions in a list
and scores those in force by hand. Embeddings come from a few directions, so that scores are equal
or far apart and the order of ties is tested too.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from nt_memory import AsOf, MemoryConfig, MemorySystem
from nt_memory.clock import ManualClock
from nt_memory.errors import TrimmedError
from nt_memory.system import renumbering
from nt_memory.system.compactor import Compactor
from nt_memory.system.verifying import verify

START = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
GRID_S = 10
NAMES = [("a", "k1"), ("a", "k2"), ("b", "k1")]
DIRECTIONS = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 1.0, 0.0), (-1.0, 0.5, 2.0), (0.1, -3.0, 1.0)]
TAGS = ("x", "y")

names = st.sampled_from(NAMES)
directions = st.integers(0, len(DIRECTIONS) - 1)
tag_sets = st.sets(st.sampled_from(TAGS)).map(lambda tags: tuple(sorted(tags)))
ttls = st.one_of(st.none(), st.integers(1, 6).map(lambda n: GRID_S * n - GRID_S // 2))
delays = st.one_of(st.none(), st.integers(0, 8).map(lambda n: GRID_S * n))


@dataclass(frozen=True)
class Version:
    """One version of one key. Without `direction` it is a plain put, without `data` a delete."""

    name: tuple[str, str]
    known_at: int
    revision: int
    data: Any
    direction: int | None = None
    tags: tuple[str, ...] = ()
    expires_at: int | None = None


@dataclass(frozen=True)
class Question:
    """What a search asks for."""

    direction: int
    top_k: int
    agents: tuple[str, ...]
    tags: tuple[str, ...]
    where: int | None
    exact: bool


questions = st.builds(
    Question,
    directions,
    st.integers(1, 6),
    st.sampled_from([("a",), ("b",), ("a", "b"), ("b", "a", "nobody")]),
    tag_sets,
    st.one_of(st.none(), st.integers(0, 2)),
    st.booleans(),
)


def score(query: Sequence[float], row: Sequence[float]) -> float:
    """Cosine similarity with the row as it is stored: rounded, its length not exactly 1."""
    unit = np.array(query) / np.linalg.norm(query)
    stored = (np.array(row) / np.linalg.norm(row)).astype(np.float16)
    stored = stored.astype(np.float64)
    return float(np.clip(unit @ stored / np.linalg.norm(stored), -1, 1))


def moment(seconds: int) -> datetime:
    """The time that the model calls `seconds`."""
    return START + timedelta(seconds=seconds)


class SimilarityMachine(RuleBasedStateMachine):
    """Observations on a live timeline."""

    is_backtest = False
    oldest_revision = 0

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="nt-memory-"))
        self.clock = ManualClock(START)
        self.runner = asyncio.Runner()
        self.versions: list[Version] = []
        self.times: dict[int, int] = {}
        self.now = 0
        self.run(self.open())

    def run(self, coroutine: Any) -> Any:
        """Run on this machine's one event loop."""
        return self.runner.run(asyncio.wait_for(coroutine, 30))

    async def open(self) -> None:
        """Open the store; a backtest starts at once."""
        timeline = "backtest" if self.is_backtest else "live"
        config = MemoryConfig(storage_path=self.directory / "store", timeline=timeline)
        self.memory = await MemorySystem.open(config, clock=self.clock)
        if self.is_backtest:
            await self.memory.timeline.advance(moment(self.now))

    def teardown(self) -> None:
        """Close and clean up."""
        try:
            if hasattr(self, "memory"):
                self.run(self.memory.close())
        finally:
            self.runner.close()
            shutil.rmtree(self.directory)

    # --- the model ----------------------------------------------------------------------------

    def vector(self, _agent: str, direction: int) -> tuple[float, ...]:
        """The embedding that stands for a direction."""
        return DIRECTIONS[direction]

    def in_force(self, name: tuple[str, str], time: int, revision: int) -> Version | None:
        """The version of a key that a reader as of `(time, revision)` sees."""
        found = max(
            (
                version
                for version in self.versions
                if version.name == name
                and version.known_at <= time
                and version.revision <= revision
            ),
            key=lambda v: (v.known_at, v.revision),
            default=None,
        )
        if found is None or found.data is None:
            return None
        if found.expires_at is not None and found.expires_at <= time:
            return None
        return found

    def answer(self, question: Question, time: int, revision: int) -> list[tuple[Any, ...]]:
        """What a search should return: `(score, key, agent, data, known_at, revision)`, in order."""
        hits = []
        for name in NAMES:
            version = self.in_force(name, time, revision)
            if (
                version is None
                or version.direction is None
                or name[0] not in question.agents
                or not set(question.tags) <= set(version.tags)
                or (question.where is not None and version.data["n"] != question.where)
            ):
                continue
            query = self.vector(name[0], question.direction)
            similarity = round(score(query, self.vector(name[0], version.direction)), 4)
            known_at = moment(version.known_at)
            hits.append((similarity, name[1], name[0], version.data, known_at, version.revision))
        hits.sort(key=lambda hit: (-hit[0], hit[1], hit[2]))
        return hits[: question.top_k]

    async def ask(self, question: Question, as_of: Any) -> list[tuple[Any, ...]]:
        """What the memory returns, in the model's form."""
        hits = await self.memory.search_similar(
            list(question.agents),
            self.vector(question.agents[0], question.direction),
            question.top_k,
            as_of=as_of,
            tags=question.tags or None,
            where=None if question.where is None else {"n": question.where},
            exact=question.exact,
        )
        return [
            (round(hit.score, 4), hit.key, hit.agent, hit.data, hit.known_at, hit.revision)
            for hit in hits
        ]

    def wrote(self, *versions: Version) -> None:
        """An entry was accepted."""
        self.versions.extend(versions)
        self.times[versions[0].revision] = self.now

    def known_at(self, delay: int | None) -> tuple[int, datetime | None]:
        """The model's time and the argument of a write that was known `delay` ago."""
        seconds = self.now - (delay or 0)
        return seconds, None if delay is None else moment(seconds)

    # --- rules --------------------------------------------------------------------------------

    @rule(
        name=names,
        direction=directions,
        n=st.integers(0, 2),
        tags=tag_sets,
        ttl=ttls,
        delay=delays,
    )
    def observe(
        self,
        name: tuple[str, str],
        direction: int,
        n: int,
        tags: tuple[str, ...],
        ttl: int | None,
        delay: int | None,
    ) -> None:
        """An observation, perhaps late, perhaps over another, perhaps with an end of life."""
        seconds, known_at = self.known_at(delay)
        agent, key = name
        self.run(
            self.memory.observe(
                agent,
                self.vector(agent, direction),
                {"n": n},
                key=key,
                tags=tags,
                ttl=ttl,
                known_at=known_at,
            )
        )
        expires_at = None if ttl is None else seconds + ttl
        revision = self.run(self.newest(name))
        self.wrote(Version(name, seconds, revision, {"n": n}, direction, tags, expires_at))

    async def newest(self, name: tuple[str, str]) -> int:
        """Revision of the last entry that wrote a key; entries of time passing may come between."""
        found = 0
        watcher = self.memory.watch(name[0], after=max([*self.times, self.oldest_revision]))
        revision = self.memory.revision
        await self.memory.put(name[0], "end", None)  # something to stop at
        while True:
            change = await anext(watcher)
            if change.revision > revision:
                return found
            if change.key == name[1] and change.kind != "expire":
                found = change.revision

    @rule(
        rows=st.lists(
            st.tuples(names, directions, tag_sets, delays),
            min_size=1,
            max_size=5,
            unique_by=lambda row: row[0],
        ),
        agent=st.sampled_from(["a", "b"]),
    )
    def observe_many(self, rows: list[Any], agent: str) -> None:
        """Several at once, each with its own tags and time."""
        rows = [row for row in rows if row[0][0] == agent]
        if not rows:
            return
        times = [self.known_at(delay)[0] for *_, delay in rows]
        self.run(
            self.memory.observe_many(
                agent,
                [self.vector(agent, direction) for _, direction, _, _ in rows],
                [{"n": 0}] * len(rows),
                keys=[name[1] for name, *_ in rows],
                tags=[tags for _, _, tags, _ in rows],
                known_at=[moment(seconds) for seconds in times],
            )
        )
        revision = self.run(self.newest(rows[0][0]))
        self.wrote(
            *(
                Version(name, seconds, revision, {"n": 0}, direction, tags)
                for (name, direction, tags, _), seconds in zip(rows, times, strict=True)
            )
        )

    @rule(name=names, delay=delays)
    def put_over(self, name: tuple[str, str], delay: int | None) -> None:
        """A plain put under the key of an observation has no embedding."""
        seconds, known_at = self.known_at(delay)
        revision = self.run(self.memory.put(*name, {"n": 0}, known_at=known_at))
        self.wrote(Version(name, seconds, revision, {"n": 0}))

    @rule(name=names, delay=delays)
    def delete(self, name: tuple[str, str], delay: int | None) -> None:
        """A delete, perhaps late."""
        seconds, known_at = self.known_at(delay)
        revision = self.run(self.memory.delete(*name, known_at=known_at))
        assert (revision is None) == (self.in_force(name, seconds, 2**62) is None)
        if revision is not None:
            self.wrote(Version(name, seconds, revision, None))

    @rule(steps=st.integers(1, 6))
    def advance(self, steps: int) -> None:
        """Time passes."""
        self.now += GRID_S * steps
        self.clock.advance(GRID_S * steps)
        if self.is_backtest:
            self.run(self.memory.timeline.advance(moment(self.now)))

    @rule()
    def reopen(self) -> None:
        """The index is rebuilt or read from its snapshot."""
        self.run(self.memory.close())
        self.run(self.open())

    @rule(question=questions, data=st.data())
    def search_past(self, question: Question, data: st.DataObject) -> None:
        """As of a time, a revision or both."""
        seconds = data.draw(st.integers(-16, self.now // 5)) * 5
        kinds = ["time", "revision", "both"] if self.times else ["time"]
        kind = data.draw(st.sampled_from(kinds))
        if kind == "time":
            as_of, time, revision = moment(seconds), seconds, 2**62
        else:
            revision = data.draw(st.sampled_from(sorted(self.times)))
            as_of, time = revision, self.times[revision]
            if kind == "both":
                as_of, time = AsOf(moment(seconds), revision), seconds
        found = self.run(self.ask(question, as_of))
        assert found == self.answer(question, time, revision)

    @rule(question=questions)
    def search_everywhere(self, question: Question) -> None:
        """By both clocks: all recent revisions, each as of many times."""

        async def check() -> None:
            for revision in sorted(self.times)[-8:]:
                for seconds in range(max(-80, self.now - 120), self.now + 1, 5):
                    found = await self.ask(question, AsOf(moment(seconds), revision))
                    assert found == self.answer(question, seconds, revision)

        self.run(check())

    @rule(question=questions)
    def search_now(self, question: Question) -> None:
        """As of now."""
        assert self.run(self.ask(question, None)) == self.answer(question, self.now, 2**62)

    @invariant()
    def all_present(self) -> None:
        """Whatever was done: everything in force is found, and nothing else."""
        question = Question(0, 50, ("a", "b"), (), None, exact=False)
        assert self.run(self.ask(question, None)) == self.answer(question, self.now, 2**62)


class BacktestSimilarityMachine(SimilarityMachine):
    """The same on a backtest timeline."""

    is_backtest = True


class KeepingMachine(SimilarityMachine):
    """The same under retention, with compactions that number rows anew, and crashes in their midst.

    What retention keeps must be answered; what it does not keep may be refused, but never be answered
    with something else.
    """

    max_age = 2 * GRID_S

    def __init__(self) -> None:
        super().__init__()
        self.run(self.memory.set_retention(None, max_age=self.max_age))

    def known_at(self, delay: int | None) -> tuple[int, datetime | None]:
        """Nothing is written so late that what it would lie between may be gone."""
        return super().known_at(None if delay is None else min(delay, self.max_age))

    def answers(self, question: Question, as_of: Any, time: int, revision: int) -> bool:
        """Whether the memory agrees with the model, or may and does refuse to answer."""
        try:
            found = self.run(self.ask(question, as_of))
        except TrimmedError:
            assert time < self.now - self.max_age or revision < self.oldest_revision
            return False
        assert found == self.answer(question, time, revision)
        return True

    @rule()
    def compact(self) -> None:
        """Old versions go, and rows that nobody needs."""
        self.run(self.memory.compact())
        self.oldest_revision = self.memory.revision
        assert verify(self.directory / "store").damage == []

    @rule(step=st.sampled_from(["_publish", "_exchange", "_drop_moved", "clean_up"]))
    def crash(self, step: str) -> None:
        """The process dies in a compaction, right before a step; somebody opens what it left."""
        left = self.directory / "left"
        original = getattr(Compactor, step)

        def copy_first(compactor: Compactor, *arguments: Any) -> None:
            if not left.exists():
                shutil.copytree(self.directory / "store", left)
            original(compactor, *arguments)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Compactor, step, copy_first)
            self.run(self.memory.compact())
        revision = self.memory.revision
        self.run(self.memory.close())
        if left.exists():
            shutil.rmtree(self.directory / "store")
            left.rename(self.directory / "store")
            assert verify(self.directory / "store").damage == []
        self.run(self.open())
        assert self.memory.revision >= revision
        self.oldest_revision = self.memory.revision
        assert verify(self.directory / "store").damage == []

    @rule(question=questions, data=st.data())
    def search_past(self, question: Question, data: st.DataObject) -> None:
        """As of a time, a revision or both."""
        seconds = data.draw(st.integers(-16, self.now // 5)) * 5
        self.answers(question, moment(seconds), seconds, 2**62)
        if self.times:
            revision = data.draw(st.sampled_from(sorted(self.times)))
            self.answers(question, revision, self.times[revision], revision)
            self.answers(question, AsOf(moment(seconds), revision), seconds, revision)

    @rule(question=questions)
    def search_everywhere(self, question: Question) -> None:
        """By both clocks: all recent revisions, each as of many times."""
        for revision in sorted(self.times)[-8:]:
            for seconds in range(max(-80, self.now - 120), self.now + 1, 10):
                self.answers(question, AsOf(moment(seconds), revision), seconds, revision)

    @rule(question=questions)
    def search_kept(self, question: Question) -> None:
        """Everything that retention keeps is answered."""
        for seconds in range(self.now - self.max_age, self.now + 1, 5):
            assert self.answers(question, moment(seconds), seconds, 2**62)


def _settings(max_examples: int) -> settings:
    if hypothesis.settings.get_current_profile_name() == "long":
        return settings(suppress_health_check=list(HealthCheck))
    return settings(
        deadline=None,
        max_examples=max_examples,
        stateful_step_count=25,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.timeout(0)
@pytest.mark.parametrize("machine", [SimilarityMachine, BacktestSimilarityMachine, KeepingMachine])
def test_search_agrees_with_the_model(
    machine: type[RuleBasedStateMachine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every search, as of any moment and with any filter, answers what a scan of a list would."""
    # One dead row is enough to renumber.
    monkeypatch.setattr(renumbering, "MIN_DEAD_ROWS", 1)
    monkeypatch.setattr(renumbering, "DEAD_SHARE", 10_000)
    run_state_machine_as_test(machine, settings=_settings(15))
