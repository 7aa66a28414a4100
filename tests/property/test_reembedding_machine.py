"""Re-embedding against a model, while everything else goes on.

The machine is that of `test_similarity_machine`, with retention, compactions that number rows anew and
crashes in their midst. An agent's observations are given another embedding, one call of it at a time,
and between two calls anything may happen: observations, replacements, deletes, ends of life,
compactions, a crash, a reopening, a cancellation. The model knows one thing of it: until the switch the
old embedding is in force, afterwards the new one, at every moment of the past too.
"""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test
from test_similarity_machine import (
    DIRECTIONS,
    NAMES,
    BacktestSimilarityMachine,
    KeepingMachine,
    Question,
    SimilarityMachine,
    Version,
    _settings,
)

from nt_memory.errors import ClosedError, InvalidInputError, TrimmedError
from nt_memory.system import renumbering
from nt_memory.system.verifying import verify

if TYPE_CHECKING:
    from nt_memory import Record

EMBEDDINGS: list[list[tuple[float, ...]]] = [
    list(DIRECTIONS),
    [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (-1.0, 0.5), (0.1, -3.0)],
    [
        (0.0, 0.0, 0.0, 2.0),
        (1.0, 0.0, 0.0, 0.0),
        (1.0, 0.0, 0.0, -1.0),
        (0.0, 3.0, 0.5, 0.0),
        (0.2, 0.0, 1.0, 1.0),
    ],
]
BATCH = 2

agents = st.sampled_from(["a", "b"])


def _plain(function: Any) -> Any:
    """The body of a rule, to be made another rule of."""

    def again(self: Any, agent: str, is_labelled: bool, calls: int) -> None:
        function(self, agent, is_labelled, calls)

    return again


class Reembedding:
    """What a machine does besides, to whichever it is mixed into."""

    memory: Any
    oldest_revision: int
    switches = 0

    def __init__(self) -> None:
        self.embedding = {"a": 0, "b": 0}
        self.task: asyncio.Task[Any] | None = None
        self.agent = ""
        self.floor_revision = 0
        super().__init__()

    def vector(self, agent: str, direction: int) -> tuple[float, ...]:
        """By the embedding the agent has now."""
        return EMBEDDINGS[self.embedding.get(agent, 0)][direction]

    async def open(self) -> None:
        """What was under way ended with the memory that was closed."""
        if self.task is not None:
            self.permits.put_nowait(None)
            with suppress(ClosedError, asyncio.CancelledError):
                await self.task
                raise AssertionError
            self.task = None
        await super().open()  # type: ignore[misc]

    async def ask(self, question: Question, as_of: Any) -> list[tuple[Any, ...]]:
        """One agent at a time, for each may have an embedding of its own."""
        found: list[tuple[Any, ...]] = []
        for agent in question.agents:
            alone = Question(
                question.direction,
                question.top_k,
                (agent,),
                question.tags,
                question.where,
                question.exact,
            )
            found += await super().ask(alone, as_of)  # type: ignore[misc]
        found.sort(key=lambda hit: (-hit[0], hit[1], hit[2]))
        return found[: question.top_k]

    # --- rules --------------------------------------------------------------------------------

    def another(self) -> int:
        """The embedding that comes next."""
        return (self.embedding[self.agent] + 1) % len(EMBEDDINGS)

    async def embed(self, records: list[Record]) -> list[tuple[float, ...]]:
        """By what the model knows of each version; once that is allowed."""
        if not self.memory._engine.halts:
            self.asked.set()
            await self.permits.get()
        where = {
            (version.name, version.revision): version.direction
            for version in self.versions  # type: ignore[attr-defined]
        }
        found = [where[(record.agent, record.key), record.revision] for record in records]
        return [EMBEDDINGS[self.another()][direction] for direction in found]

    @initialize(directions=st.lists(st.integers(0, 4), min_size=4, max_size=4))
    def fill(self, directions: list[int]) -> None:
        """There is something to embed from the beginning, some of it replaced."""
        for name, direction in zip((*NAMES, NAMES[0]), directions, strict=True):
            self.observe_one(name, direction)

    def observe_one(self, name: tuple[str, str], direction: int) -> None:
        """A plain observation."""
        work = self.memory.observe(name[0], self.vector(name[0], direction), {"n": 0}, key=name[1])
        self.run(work)  # type: ignore[attr-defined]
        revision = self.run(self.newest(name))  # type: ignore[attr-defined]
        version = Version(name, self.now, revision, {"n": 0}, direction)  # type: ignore[attr-defined]
        self.wrote(version)  # type: ignore[attr-defined]

    @rule(agent=agents, is_labelled=st.booleans(), calls=st.integers(0, 3))
    def go_on(self, agent: str, is_labelled: bool, calls: int) -> None:
        """Some records more, perhaps to the end; of what is under way, or a new one."""

        async def step() -> None:
            if self.task is None:
                self.agent = agent
                label = f"embedding {self.another()}" if is_labelled else None
                self.asked, self.permits = asyncio.Event(), asyncio.Queue[None]()
                work = self.memory.reembed(agent, self.embed, batch=BATCH, label=label)
                self.task = asyncio.create_task(work)
                await self.look()
            for _ in range(calls):
                if self.task is not None:
                    self.permits.put_nowait(None)
                    await self.look()

        self.run(step())  # type: ignore[attr-defined]

    # Hypothesis draws rules evenly, and this is what the machine is about.
    go_on_too = rule(agent=agents, is_labelled=st.just(value=True), calls=st.integers(0, 3))(
        _plain(go_on)
    )
    go_on_anew = rule(agent=agents, is_labelled=st.just(value=False), calls=st.integers(0, 3))(
        _plain(go_on)
    )

    @rule(name=st.sampled_from(NAMES), direction=st.integers(0, 4))
    def replace(self, name: tuple[str, str], direction: int) -> None:
        """One observation more, over another."""
        self.observe_one(name, direction)

    @precondition(lambda self: self.task is not None)
    @rule()
    def cancel(self) -> None:
        """It is given up."""

        async def stop() -> None:
            task, self.task = self.task, None
            assert task is not None
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
                raise AssertionError

        self.run(stop())  # type: ignore[attr-defined]

    async def look(self) -> None:
        """Wait for the next call of `embed`, or the end."""
        assert self.task is not None
        asked = asyncio.create_task(self.asked.wait())
        await asyncio.wait({self.task, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        self.asked.clear()
        if not self.task.done():
            return
        task, self.task = self.task, None
        error = task.exception()
        if isinstance(error, InvalidInputError) and "nothing is left" in str(error):
            return
        done = task.result()
        if done.dimension:
            self.embedding[self.agent] = self.another()
            type(self).switches += 1
            assert done.dimension == len(EMBEDDINGS[self.embedding[self.agent]][0])
            if done.lost:
                self.floor_revision = done.revision
            assert verify(self.directory / "store").damage == []  # type: ignore[attr-defined]

    @rule()
    def kill(self) -> None:
        """The process dies as it is."""
        store, left = self.directory / "store", self.directory / "left"  # type: ignore[attr-defined]
        shutil.copytree(store, left)
        self.run(self.memory.close())  # type: ignore[attr-defined]
        shutil.rmtree(store)
        left.rename(store)
        assert verify(store).damage == []
        self.run(self.open())  # type: ignore[attr-defined]


class ReembeddingMachine(Reembedding, SimilarityMachine):
    """On a live timeline that keeps everything."""


class ReembeddingBacktestMachine(Reembedding, BacktestSimilarityMachine):
    """On a backtest timeline."""


class ReembeddingKeepingMachine(Reembedding, KeepingMachine):
    """Under retention, with compactions that number rows anew."""

    @rule(
        agent=agents,
        direction=st.integers(0, 4),
        before=st.integers(0, 2),
        after=st.integers(0, 3),
    )
    def compact_in_the_middle(self, agent: str, direction: int, before: int, after: int) -> None:
        """One that has rows to give back."""
        self.go_on(agent, is_labelled=False, calls=before)
        for name in NAMES:
            self.observe_one(name, direction)
        self.advance(3)
        self.compact()
        self.go_on(agent, is_labelled=False, calls=after)

    def answers(self, question: Question, as_of: Any, time: int, revision: int) -> bool:
        """As the machine does; and what was lost to an embedding may be refused too."""
        try:
            found = self.run(self.ask(question, as_of))
        except TrimmedError:
            assert time < self.now - self.max_age or revision < max(
                self.oldest_revision, self.floor_revision
            )
            return False
        assert found == self.answer(question, time, revision)
        return True


@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    "machine", [ReembeddingMachine, ReembeddingBacktestMachine, ReembeddingKeepingMachine]
)
def test_search_agrees_with_the_model_of_embeddings(
    machine: type[ReembeddingMachine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every search, at every step of a re-embedding, answers by one embedding, and by the right one."""
    monkeypatch.setattr(renumbering, "MIN_DEAD_ROWS", 1)
    monkeypatch.setattr(renumbering, "DEAD_SHARE", 10_000)
    monkeypatch.setattr(machine, "switches", 0)
    for _ in range(5):  # what is drawn now and then has few switches in it
        run_state_machine_as_test(machine, settings=_settings(20))
        if machine.switches >= 10:
            break
    assert machine.switches >= 10, "else it was not about switches"
