"""Re-embedding: another embedding for all observations of an agent, while the old one serves."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import shutil
import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from nt_memory import AsOf, ManualClock, MemoryConfig, MemorySystem, Trajectory, import_store
from nt_memory.clock import turn
from nt_memory.entries import AbandonEmbedding, Embed, Reembed, SwitchEmbedding
from nt_memory.errors import (
    ClosedError,
    DimensionError,
    EmbeddingError,
    InvalidInputError,
    InvalidNameError,
    ReadOnlyError,
    ReembeddingError,
    TrimmedError,
)
from nt_memory.replica import partition_name, staged_name
from nt_memory.system import compactor, engine, reembedding, renumbering
from nt_memory.system.repairing import repair
from nt_memory.system.verifying import verify
from nt_memory.tiers.layout import LAST_PARTITION
from nt_memory.tiers.vectors import Partition, Tuning, VectorTier

OLD, NEW = 8, 5
KEYS = 30


def old(key, version=0):
    """The embedding that a version of a key is observed with."""
    return np.random.default_rng([1, key, version]).normal(size=OLD)


def new(key, version=0):
    """The one it is given later."""
    return np.random.default_rng([2, key, version]).normal(size=NEW)


def embed(records):
    """The new embedding, by what was observed."""
    return [new(record.value["key"], record.value["version"]) for record in records]


async def fill(memory, version=0, agent="a", keys=range(KEYS)):
    """One version of some keys."""
    await memory.observe_many(
        agent,
        [old(key, version) for key in keys],
        [{"key": key, "version": version} for key in keys],
        keys=[f"k{key}" for key in keys],
        tags=[[f"t{key % 3}"] for key in keys],
    )


def expected(query, there, top_k):
    """Keys and data of the best, by a scan of `{key: version}` with the new embedding as stored."""
    unit = query / np.linalg.norm(query)
    scored = []
    for key, version in there.items():
        stored = new(key, version)
        stored = (stored / np.linalg.norm(stored)).astype(np.float16).astype(np.float64)
        scored.append((-(unit @ stored) / np.linalg.norm(stored), f"k{key}", version))
    return [(name, version) for _, name, version in sorted(scored)[:top_k]]


async def found(memory, query, top_k=6, **how):
    """Keys and versions that a search returns."""
    hits = await memory.search_similar(how.pop("agent", "a"), query, top_k, **how)
    return [(hit.key, hit.data["version"]) for hit in hits]


async def check_new(memory, there, **how):
    """Searches answer exactly by the new embedding."""
    for key in range(0, KEYS, 7):
        query = new(key, 99)
        for exact in (False, True):
            assert await found(memory, query, exact=exact, **how) == expected(query, there, 6)


async def old_answers(memory):
    """What searches by the old embedding return, scores and all."""
    queries = [old(key, 99) for key in range(0, KEYS, 7)]
    found = [await memory.search_similar("a", query, KEYS, exact=True) for query in queries]
    found += [await memory.search_similar("a", query, 5, tags=["t1"]) for query in queries]
    return found


def partition_of(memory, agent="a"):
    """What the views say of an agent's vectors."""
    return memory._engine.snapshot.partition(partition_name(agent, ""))


def staged_of(memory, agent="a"):
    """What the views say of a re-embedding that has not ended."""
    return memory._engine.snapshot.partition(staged_name(agent))


def vector_files(store):
    """The files of vectors there are."""
    return sorted(path.name for path in (store / "vectors").glob("*.f16"))


class Gate:
    """An embedding that waits, in each call, until it is let through."""

    def __init__(self):
        self.calls = []
        self._asked = asyncio.Queue()
        self._permits = asyncio.Queue()

    async def __call__(self, records):
        """Embed, once that is allowed."""
        self.calls.append([(record.key, record.value["version"]) for record in records])
        self._asked.put_nowait(None)
        await self._permits.get()
        return embed(records)

    async def asked(self):
        """Wait for the next call."""
        await self._asked.get()

    def allow(self, calls=1):
        """Let calls through."""
        for _ in range(calls):
            self._permits.put_nowait(None)


# --- what it does ---------------------------------------------------------------------------------


def test_everything_is_searched_by_the_new_embedding(store, run):
    """With every filter; in the new dimension only; and after every kind of reopening."""

    async def check(memory):
        there = dict.fromkeys(range(KEYS), 1)
        await check_new(memory, there)
        tagged = {key: version for key, version in there.items() if key % 3 == 1}
        assert await found(memory, new(1, 5), tags=["t1"]) == expected(new(1, 5), tagged, 6)
        only = await found(memory, new(1, 5), where={"key": 7})
        assert only == [("k7", 1)]
        with pytest.raises(DimensionError) as refused:
            await memory.search_similar("a", old(1), 3)
        assert (refused.value.expected, refused.value.got) == (NEW, OLD)
        with pytest.raises(DimensionError):
            await memory.observe("a", old(1), None, key="no")
        with pytest.raises(DimensionError):
            await memory.observe_many("a", [old(1)])
        assert await memory.get_record("a", "no") is None

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory, 0)
            await fill(memory, 1)
            before = memory.revision
            done = await memory.reembed("a", embed, batch=7)
            assert (done.dimension, done.previous_dimension) == (NEW, OLD)
            assert (done.embedded, done.resumed, done.lost) == (2 * KEYS, 0, 0)
            assert before < done.revision == memory.revision
            await check(memory)
            assert vector_files(store) == ["1.f16"]
            assert staged_of(memory) is None
            await memory.observe("a", new(50), {"key": 50, "version": 0}, key="k50")
            assert (await found(memory, new(50), 1)) == [("k50", 0)]
            await memory.delete("a", "k50")
            await check(memory)
            assert verify(store).damage == []
        assert verify(store).damage == []
        async with MemorySystem.open(store) as memory:
            await check(memory)
        shutil.rmtree(store / "views")
        shutil.rmtree(store / "vectors")
        async with MemorySystem.open(store) as memory:
            await check(memory)
            assert vector_files(store) == ["1.f16"]
            await memory.compact()
            await check(memory)
        shutil.rmtree(store / "views")
        shutil.rmtree(store / "vectors")
        async with MemorySystem.open(store) as memory:
            await check(memory)
        assert verify(store).damage == []

    run(body())


def test_the_past_is_searched_by_the_new_embedding(store, run):
    """Late, replaced, deleted and expired observations, as of times and revisions before the switch."""

    async def body():
        clock = ManualClock()
        async with MemorySystem.open(store, clock=clock) as memory:
            moments = {}

            def note(**there):
                moments[clock.now()] = memory.revision, dict(there)
                clock.advance(10)

            start = clock.now()
            clock.advance(10)
            await fill(memory, 0, keys=[0, 1, 2])
            note(k0=0, k1=0, k2=0)
            await fill(memory, 1, keys=[1])
            note(k0=0, k1=1, k2=0)
            await memory.delete("a", "k2")
            note(k0=0, k1=1)
            data = {"key": 3, "version": 0}
            await memory.observe("a", old(3), data, key="k3", ttl=5.0)
            note(k0=0, k1=1, k3=0)
            await memory.put("a", "k0", {"plain": True})
            note(k1=1)
            data = {"key": 4, "version": 0}
            await memory.observe("a", old(4), data, key="k4", known_at=start)
            late = memory.revision
            done = await memory.reembed("a", embed, batch=2)
            assert done.embedded == 6
            query = new(1, 9)
            for now, (revision, there) in moments.items():
                then = {int(key[1:]): version for key, version in there.items()}
                wanted = expected(query, then, 9)
                assert await found(memory, query, 9, as_of=revision) == wanted
                assert await found(memory, query, 9, as_of=AsOf(now, revision)) == wanted
                by_time = expected(query, {**then, 4: 0}, 9)
                assert await found(memory, query, 9, as_of=now) == by_time
                assert await found(memory.at(now), query, 9) == by_time
            assert await found(memory, query, 9, as_of=late) == expected(query, {1: 1, 4: 0}, 9)
            with pytest.raises(DimensionError):
                await memory.search_similar("a", old(1), as_of=late)
            assert verify(store).damage == []

    run(body())


def test_embed_is_given_every_version_once(store, run):
    """In the order they were observed, in batches, with data, tags and times; on another thread."""

    async def body():
        clock = ManualClock()
        async with MemorySystem.open(store, clock=clock) as memory:
            await fill(memory, 0, keys=range(10))
            clock.advance(60)
            await fill(memory, 1, keys=[3])
            await memory.delete("a", "k4")
            calls, threads = [], []

            def watching(records):
                calls.append(records)
                threads.append(threading.get_ident())
                return np.array(embed(records), np.float32) * 1000

            told = []
            await memory.reembed("a", watching, batch=4, progress=lambda *at: told.append(at))
            assert [len(records) for records in calls] == [4, 4, 3]
            assert threading.get_ident() not in threads
            seen = [record for records in calls for record in records]
            assert [record.key for record in seen] == [f"k{n}" for n in [*range(10), 3]]
            last = seen[-1]
            stored = await memory.get_record("a", "k3")
            assert last == stored
            assert (last.value, last.tags) == ({"key": 3, "version": 1}, ("t0",))
            assert last.known_at - seen[3].known_at == timedelta(seconds=60)
            assert told == [(4, 11), (8, 11), (11, 11)]

    run(body())


@pytest.mark.parametrize("kind", ["function", "coroutine", "object", "awaitable"])
def test_embed_may_be_of_any_kind(store, run, kind):
    """A plain function, a coroutine function, an object of either, or a function of an awaitable."""

    async def slow(records):
        await turn()
        return embed(records)

    def later(records):
        return slow(records)

    class Model:
        async def __call__(self, records):
            return await slow(records)

    kinds = {
        "function": embed,
        "coroutine": slow,
        "object": Model(),
        "awaitable": later,
    }

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            await memory.reembed("a", kinds[kind])
            await check_new(memory, dict.fromkeys(range(KEYS), 0))

    run(body())


def test_without_await(store):
    """The same call of a memory for plain code; `embed` may ask that memory."""
    with MemorySystem.open_sync(store) as memory:
        keys = memory.observe_many("a", [old(key) for key in range(4)], [0, 1, 2, 3])

        def asking(records):
            return [new(memory.get("a", record.key)) for record in records]

        done = memory.reembed("a", asking)
        assert (done.embedded, done.dimension) == (4, NEW)
        (hit,) = memory.search_similar("a", new(2), 1)
        assert hit.key == keys[2]


def test_values_in_files_are_embedded(store, run):
    """Data of more than a megabyte is read for `embed`, on another thread."""

    async def body():
        async with MemorySystem.open(store) as memory:
            weights = np.arange(300_000, dtype=np.float64)
            await memory.observe("a", old(1), {"w": weights}, key="k")
            seen = []

            def summing(records):
                seen.extend(float(record.value["w"].sum()) for record in records)
                return [new(1)]

            await memory.reembed("a", summing)
            assert seen == [float(weights.sum())]

    run(body())


def test_nothing_to_do_is_no_error(store, run):
    """An agent that never observed has no embedding to change."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await memory.put("a", "k", 1)
            done = await memory.reembed("a", embed)
            assert (done.revision, done.dimension, done.embedded) == (memory.revision, 0, 0)
            await memory.observe("a", [1.0, 0.0])

    run(body())


def test_only_observations_of_the_agent_are_embedded(store, run):
    """Neither another agent's, nor the situations of its trajectories."""

    async def body():
        clock = ManualClock()
        async with MemorySystem.open(store, clock=clock) as memory:
            await fill(memory)
            await fill(memory, agent="b")
            await memory.bank.define("buy", target="r", unit="1", horizon=timedelta(seconds=5))
            for number in range(40):
                trajectory = Trajectory("a", id=f"t{number}").add_observation({}, old(number))
                trajectory.add_action("buy", {}, 0.02, baseline=0.01)
                await memory.track_trajectory(trajectory.complete())
                clock.advance(6)
                await memory.record_outcome(f"t{number}", 0.5)
            advice = await memory.bank.advise(["a"], old(1), action_type="buy")
            before = await memory.search_similar("b", old(3), 5)
            await memory.reembed("a", embed)
            assert await memory.search_similar("b", old(3), 5) == before
            again = await memory.bank.advise(["a"], old(1), action_type="buy")
            assert advice.receipt.memories
            assert again.receipt.memories == advice.receipt.memories
            await check_new(memory, dict.fromkeys(range(KEYS), 0))

    run(body())


# --- meanwhile ------------------------------------------------------------------------------------


def test_the_old_embedding_serves_until_the_switch(store, run):
    """Searches, observations, replacements and deletes go on, and none of them is missed after it."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            before = await old_answers(memory)
            gate = Gate()
            work = asyncio.create_task(memory.reembed("a", gate, batch=10))
            await gate.asked()
            assert await old_answers(memory) == before
            gate.allow()
            await gate.asked()
            assert staged_of(memory).rows == 10
            assert await old_answers(memory) == before
            with pytest.raises(DimensionError):
                await memory.search_similar("a", new(1), 1)
            await fill(memory, 1, keys=[2, 25, 40])  # covered already, not yet, and new
            await memory.delete("a", "k3")
            await memory.put("a", "k26", {"plain": True})
            (hit,) = await memory.search_similar("a", old(40, 1), 1)
            assert hit.key == "k40"
            gate.allow(100)
            done = await work
            assert done.embedded == KEYS + 3
            there = dict.fromkeys(range(KEYS), 0) | {2: 1, 25: 1, 40: 1}
            del there[3], there[26]
            await check_new(memory, there)
            assert verify(store).damage == []

    run(body())


def test_it_ends_however_fast_the_agent_observes(store, run):
    """Each call of `embed` meets more new observations than it embeds."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            written = []

            async def overtaken(records):
                if not memory._engine.halts:
                    for _ in range(2 * len(records)):
                        key = 100 + len(written)
                        await memory.observe(
                            "a", old(key), {"key": key, "version": 0}, key=f"k{key}"
                        )
                        written.append(key)
                return embed(records)

            done = await memory.reembed("a", overtaken, batch=4)
            assert done.embedded == KEYS + len(written)
            await check_new(memory, dict.fromkeys([*range(KEYS), *written], 0))

    run(body())


def test_observations_wait_for_the_last_ones(store, run):
    """Those that come while the last are embedded are judged by the dimension after it; others go on."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            await fill(memory, agent="b", keys=[1])
            waiting = []
            elsewhere = contextvars.copy_context()

            async def watched(records):
                if memory._engine.halts and not waiting:
                    for name, vector in (("old", old(1)), ("new", new(1))):
                        work = memory.observe("a", vector, 1, key=name)
                        waiting.append(asyncio.create_task(work, context=elsewhere.copy()))
                    work = memory.observe_many("a", [old(2), old(3)])
                    waiting.append(asyncio.create_task(work, context=elsewhere.copy()))
                    for _ in range(5):
                        await turn()
                    assert not any(task.done() for task in waiting)
                    await memory.put("a", "plain", 1)
                    await memory.observe("b", old(2), 2)
                    assert await memory.search_similar("a", old(1), 1)
                elif len(seen) == 1:
                    await fill(memory, 1, keys=[7])  # so that something is left to the end
                seen.append(len(records))
                return embed(records)

            seen = []
            await memory.reembed("a", watched, batch=KEYS - 1)
            assert waiting
            with pytest.raises(DimensionError):
                await waiting[0]
            assert await waiting[1] == "new"
            with pytest.raises(DimensionError):
                await waiting[2]
            hits = await memory.search_similar("a", new(1), 2)
            assert {hit.key for hit in hits} == {"new", "k1"}

    run(body())


def test_embed_cannot_wait_for_itself(store, run):
    """An `embed` that observes for the agent is refused where it would wait for ever."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            refused = []

            async def observing(records):
                try:
                    await memory.observe("a", old(len(refused)), {"key": 1, "version": 0}, key="x")
                except ReembeddingError as error:
                    refused.append(error)
                return embed(records)

            await memory.reembed("a", observing)
            assert refused

    run(body())


def test_two_at_once_are_refused(store, run):
    """Of one agent; another agent's goes on beside it. The first is not harmed."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            await fill(memory, agent="b")
            gate = Gate()
            work = asyncio.create_task(memory.reembed("a", gate, batch=10))
            await gate.asked()
            for _ in range(2):  # before the store knows of it, and after
                with pytest.raises(ReembeddingError):
                    await memory.reembed("a", embed)
                gate.allow()
                await gate.asked()
            await memory.reembed("b", embed)
            gate.allow(100)
            await work
            await check_new(memory, dict.fromkeys(range(KEYS), 0))
            await check_new(memory, dict.fromkeys(range(KEYS), 0), agent="b")
            several = await memory.search_similar(["a", "b"], new(1), 2)
            assert [(hit.agent, hit.key) for hit in several] == [("a", "k1"), ("b", "k1")]

    run(body())


def test_a_search_under_way_sees_one_or_the_other(store, run, monkeypatch):
    """One that was reading the old vectors when they went says so, or answers; it never mixes."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            tier = memory._engine.vectors
            loop = asyncio.get_running_loop()
            search = VectorTier.search
            at_switch = []

            def slow(self, *arguments, **named):
                found = search(self, *arguments, **named)
                if not at_switch:
                    at_switch.append(1)
                    # On another thread: the switch happens before the loop has the candidates.
                    work = memory.reembed("a", embed)
                    asyncio.run_coroutine_threadsafe(work, loop).result(20)
                return found

            monkeypatch.setattr(VectorTier, "search", slow)
            monkeypatch.setattr("nt_memory.system.searching.OFF_LOOP_ELEMENTS", 0)
            with pytest.raises(DimensionError):
                await memory.search_similar("a", old(1), 5)
            assert at_switch
            assert tier is memory._engine.vectors

    run(body())


def test_the_index_is_built_before_the_switch(store, run, monkeypatch):
    """The first search by the new embedding finds a graph over all that was observed before the end."""
    tuned = functools.partial(VectorTier, tuning=Tuning(scan_values=64))
    monkeypatch.setattr(engine, "VectorTier", tuned)
    is_waited_for = threading.Event()
    advance, wait_indexed = Partition.advance, VectorTier.wait_indexed

    def slow(self, hold):
        if self.number == 1:
            is_waited_for.wait(20)
        return advance(self, hold)

    def waiting(self, timeout_s=None):
        is_waited_for.set()
        return wait_indexed(self, timeout_s)

    monkeypatch.setattr(Partition, "advance", slow)

    async def body():
        async with MemorySystem.open(store) as memory:
            tier = memory._engine.vectors
            for version in range(20):
                await fill(memory, version)
            assert await asyncio.to_thread(tier.wait_indexed, 20)
            rows = 20 * KEYS
            held = tier.stats.bytes
            seen = []
            move = memory._engine.move

            def watching(follow):
                move(follow)
                if follow.reembedded:
                    seen.append(tier._partitions[0].graph_rows)

            monkeypatch.setattr(memory._engine, "move", watching)
            monkeypatch.setattr(VectorTier, "wait_indexed", waiting)
            sizes = []
            await memory.reembed(
                "a", embed, batch=100, progress=lambda *_: sizes.append(tier.stats.bytes)
            )
            is_waited_for.set()
            assert seen == [rows]
            assert sizes[-1] > held  # what grows is counted
            assert tier.stats.rows == tier.stats.graph_rows == rows
            assert not tier._growing
            await check_new(memory, dict.fromkeys(range(KEYS), 19))
        async with MemorySystem.open(store) as memory:  # its snapshot goes with it
            await check_new(memory, dict.fromkeys(range(KEYS), 19))
            assert memory._engine.vectors._partitions[0].graph_rows == rows
        assert sorted(path.name for path in (store / "vectors").glob("*.hnsw")) == [
            f"1-0-{rows}.hnsw"
        ]

    run(body())


# --- what goes wrong ------------------------------------------------------------------------------


def _too_few(records):
    return embed(records)[1:]


def _flat(records):
    return embed(records)[0]


def _nan(records):
    vectors = np.array(embed(records))
    vectors[-1, 0] = np.nan
    return vectors


def _zero(records):
    return np.zeros((len(records), NEW))


def _words(records):
    return ["no vector"] * len(records)


def _none(_records):
    return None


def _raising(_records):
    raise LookupError("the model is away")


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (_too_few, EmbeddingError),
        (_flat, EmbeddingError),
        (_nan, EmbeddingError),
        (_zero, EmbeddingError),
        (_words, EmbeddingError),
        (_none, EmbeddingError),
        (_raising, LookupError),
        (lambda records: [old(1)] * len(records), DimensionError),
    ],
)
@pytest.mark.parametrize("call", [0, 2])
def test_a_bad_embedding_changes_nothing(store, run, bad, error, call):
    """Whatever `embed` does wrong, at first or later, is said, and all is as it was."""
    if (error, call) == (DimensionError, 0):
        return  # the first call says the dimension

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            before = await old_answers(memory)
            calls = []

            def failing(records):
                calls.append(records)
                return bad(records) if len(calls) == call + 1 else embed(records)

            with pytest.raises(error) as raised:
                await memory.reembed("a", failing, batch=10)
            assert "rows" in raised.value.__notes__[0]
            assert len(calls) == call + 1
            assert await old_answers(memory) == before
            assert staged_of(memory) is None
            assert vector_files(store) == ["0.f16"]
            assert memory._engine.vectors._growing == {}
            await memory.observe("a", old(1), 1, key="goes on")
            assert verify(store).damage == []
            await memory.delete("a", "goes on")
            assert (await memory.reembed("a", lambda r: [new(1)] * len(r))).dimension == NEW

    run(body())


def test_bad_arguments_change_nothing(store, run):
    """Each is named before `embed` is called."""

    def never(_records):
        raise AssertionError

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            revision = memory.revision
            for batch in (0, -1, 8_193, True, 2.5):
                with pytest.raises(InvalidInputError, match="batch"):
                    await memory.reembed("a", never, batch=batch)
            with pytest.raises(InvalidInputError, match="callable"):
                await memory.reembed("a", "model")
            with pytest.raises(InvalidNameError):
                await memory.reembed("a b", never)
            with pytest.raises(InvalidNameError, match="label"):
                await memory.reembed("a", never, label="")
            assert memory.revision == revision
            async with MemorySystem.open(store, read_only=True) as follower:
                with pytest.raises(ReadOnlyError):
                    await follower.reembed("a", never)

    run(body())


def test_an_error_of_progress_or_a_cancellation_changes_nothing(store, run):
    """It is given up, and can be begun again."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            before = await old_answers(memory)

            def stop(_done, _total):
                raise KeyError("enough")

            with pytest.raises(KeyError):
                await memory.reembed("a", embed, batch=10, progress=stop)
            gate = Gate()
            work = asyncio.create_task(memory.reembed("a", gate, batch=10))
            await gate.asked()
            gate.allow()
            await gate.asked()
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
            assert staged_of(memory) is None
            assert vector_files(store) == ["0.f16"]
            assert await old_answers(memory) == before
            await memory.reembed("a", embed)
            await check_new(memory, dict.fromkeys(range(KEYS), 0))

    run(body())


def test_closing_ends_it(store, run):
    """Who re-embeds is told, who waits to observe too; the next session gives up what was made."""

    async def body():
        memory = await MemorySystem.open(store)
        await fill(memory)
        before = await old_answers(memory)
        gate = Gate()
        work = asyncio.create_task(memory.reembed("a", gate, batch=10))
        await gate.asked()
        gate.allow()
        await gate.asked()
        with memory._engine.halts.halt("a"):
            waiting = asyncio.create_task(memory.observe("a", old(1)))
            await turn()
            await memory.close()
            with pytest.raises(ClosedError):
                await waiting
        gate.allow()
        with pytest.raises(ClosedError):
            await work
        assert vector_files(store) == ["0.f16", "1.f16"]
        async with MemorySystem.open(store) as memory:
            assert await old_answers(memory) == before
            assert staged_of(memory) is None
            assert vector_files(store) == ["0.f16"]
            await memory.reembed("a", embed)
            await check_new(memory, dict.fromkeys(range(KEYS), 0))
        assert verify(store).damage == []

    run(body())


@pytest.mark.parametrize("views", ["kept", "lost"])
@pytest.mark.parametrize("label", [None, "model-2"])
def test_a_crash_before_the_switch_leaves_the_old_embedding(store, run, tmp_path, label, views):
    """At every call of `embed`; unlabelled it begins anew, under its label it goes on."""

    async def body():
        left = []
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            before = await old_answers(memory)

            def dying(records):
                copy = tmp_path / f"left{len(left)}"
                shutil.copytree(store, copy)
                left.append(copy)
                return embed(records)

            await memory.reembed("a", dying, batch=10, label=label)
        assert len(left) == 3
        for number, copy in enumerate(left):
            if views == "lost":
                shutil.rmtree(copy / "views")
                shutil.rmtree(copy / "vectors")
            else:
                assert verify(copy).damage == []
            async with MemorySystem.open(copy) as memory:
                assert await old_answers(memory) == before
                with pytest.raises(DimensionError):
                    await memory.search_similar("a", new(1))
                is_kept = bool(label and number)
                assert (staged_of(memory) is not None) == is_kept
                assert vector_files(copy) == (["0.f16", "1.f16"] if is_kept else ["0.f16"])
                await fill(memory, 1, keys=[3])
                done = await memory.reembed("a", embed, batch=10, label=label)
                assert done.resumed == (10 * number if label else 0)
                assert done.embedded == KEYS + 1 - done.resumed
                await check_new(memory, dict.fromkeys(range(KEYS), 0) | {3: 1})
                assert len(vector_files(copy)) == 1
                assert verify(copy).damage == []

    run(body())


def test_a_crash_after_the_switch_leaves_the_new_embedding(store, run, tmp_path, monkeypatch):
    """Also before anything was tidied up; what is left over goes at the next open."""

    async def body():
        copy = tmp_path / "left"
        drop = reembedding._Reembedding._drop

        async def dying(self, file):
            shutil.copytree(store, copy)
            await drop(self, file)

        monkeypatch.setattr(reembedding._Reembedding, "_drop", dying)
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            await memory.reembed("a", embed)
        assert vector_files(copy) == ["0.f16", "1.f16"]
        assert verify(copy).damage == []
        async with MemorySystem.open(copy) as memory:
            await check_new(memory, dict.fromkeys(range(KEYS), 0))
            assert vector_files(copy) == ["1.f16"]
        assert verify(copy).damage == []

    run(body())


def test_what_a_label_kept_makes_way_for_another(store, run):
    """Another label, or none, begins anew; the same one with another dimension is an error."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)

            def interrupted():
                calls = []

                def failing(records):
                    calls.append(records)
                    return _raising(records) if len(calls) == 3 else embed(records)

                return failing

            with pytest.raises(LookupError):
                await memory.reembed("a", interrupted(), batch=10, label="one")
            assert staged_of(memory).rows == 20
            assert vector_files(store) == ["0.f16", "1.f16"]
            with pytest.raises(DimensionError):
                await memory.reembed("a", lambda r: [old(1)] * len(r), batch=10, label="one")
            with pytest.raises(LookupError):
                await memory.reembed("a", interrupted(), batch=10, label="two")
            assert (staged_of(memory).rows, staged_of(memory).staged.label) == (20, "two")
            assert vector_files(store) == ["0.f16", "2.f16"]
            done = await memory.reembed("a", embed)
            assert (done.resumed, done.embedded) == (0, KEYS)
            assert vector_files(store) == ["3.f16"]
            assert verify(store).damage == []

    run(body())


def test_malformed_entries_are_refused(store, run):
    """By every node alike, whoever made them; the state of what is under way does not change."""

    async def body():
        async with MemorySystem.open(store, clock=ManualClock()) as memory:
            submit = memory._engine.submit
            row = np.eye(1, NEW, dtype="<f2").tobytes()
            with pytest.raises(InvalidInputError):
                await submit(Reembed("nobody", "t", NEW))
            await fill(memory, keys=range(3))
            await fill(memory, 1, keys=[0])
            for bad in (Reembed("a", "", NEW), Reembed("a", "t", 0), Reembed("\0", "t", NEW)):
                with pytest.raises(InvalidInputError):
                    await submit(bad)
            with pytest.raises(ReembeddingError):
                await submit(Embed("a", "t", 0, row))
            await submit(Reembed("a", "t", NEW))
            with pytest.raises(ReembeddingError):
                await submit(Reembed("a", "u", NEW))
            with pytest.raises(ReembeddingError):
                await submit(Embed("a", "other", 0, row))
            for bad in (
                Embed("a", "t", 1, row),
                Embed("a", "t", 0, row[:-1]),
                Embed("a", "t", 0, b""),
                Embed("a", "t", 0, 5 * row),
                Embed("a", "t", 0, row, (1,)),
                Embed("a", "t", 0, 2 * row, (1, 0)),
                Embed("a", "t", 0, row, (0,)),  # replaced, but its version is kept
                Embed("a", "t", 0, 2 * row, (1,)),  # in force
            ):
                with pytest.raises(InvalidInputError):
                    await submit(bad)
            assert staged_of(memory).rows == 0
            assert await submit(Embed("a", "t", 0, 3 * row)) == 3
            revision = memory.revision
            assert await submit(SwitchEmbedding("a", "t")) is None
            assert await submit(AbandonEmbedding("a", "other")) is None
            assert memory.revision == revision
            assert await submit(Embed("a", "t", 3, row)) == 4
            assert await submit(SwitchEmbedding("a", "t")) == revision + 2
            assert len(await memory.search_similar("a", np.eye(1, NEW)[0], 9)) == 3
            assert verify(store).damage == []

    run(body())


# --- beside everything else -----------------------------------------------------------------------


def test_a_compaction_in_the_middle(store, run, monkeypatch):
    """Before the store knows of it, where rows are numbered anew; after; and again after the switch."""
    monkeypatch.setattr(renumbering, "MIN_DEAD_ROWS", 8)

    async def body():
        async with MemorySystem.open(MemoryConfig(storage_path=store, history=0)) as memory:
            for version in range(3):
                await fill(memory, version)
            gate = Gate()
            work = asyncio.create_task(memory.reembed("a", gate, batch=25))
            await gate.asked()
            assert gate.calls == [[(f"k{key}", 2) for key in range(15)]]  # 10 rows are dead, of 25
            await memory.compact()
            assert (partition_of(memory).id, partition_of(memory).rows) == (LAST_PARTITION, KEYS)
            gate.allow()
            await gate.asked()  # read again, by their new numbers
            assert gate.calls[1] == [(f"k{key}", 2) for key in range(25)]
            gate.allow()
            await gate.asked()
            for version in range(3, 6):
                await fill(memory, version)
            await memory.compact()
            assert partition_of(memory).id == LAST_PARTITION  # a re-embedding counts its rows
            gate.allow(100)
            done = await work
            assert done.lost > 0
            there = dict.fromkeys(range(KEYS), 5)
            await check_new(memory, there)
            assert verify(store).damage == []
            await memory.compact()
            row = partition_of(memory)
            assert (row.id, row.file, row.rows) == (LAST_PARTITION - 1, LAST_PARTITION - 1, KEYS)
            assert vector_files(store) == [f"{LAST_PARTITION - 1}.f16"]
            await check_new(memory, there)
            await memory.reembed("a", embed)
            await check_new(memory, there)
            assert verify(store).damage == []
        async with MemorySystem.open(MemoryConfig(storage_path=store, history=0)) as memory:
            await check_new(memory, there)

    # The first 60 of 90 rows are dead: 25 of them have no version at all.
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reembedding, "READS_A_TURN", 3)
        run(body())


def test_a_compaction_that_leaves_fewer_rows(store, run, monkeypatch):
    """Rows that there are no more when it begins are not looked for."""
    monkeypatch.setattr(renumbering, "MIN_DEAD_ROWS", 8)

    async def body():
        async with MemorySystem.open(MemoryConfig(storage_path=store, history=0)) as memory:
            for version in range(3):
                await fill(memory, version)
            gate = Gate()
            work = asyncio.create_task(memory.reembed("a", gate, batch=20))
            await gate.asked()
            await memory.compact()
            gate.allow(100)
            done = await work
            assert (done.embedded, done.lost) == (KEYS, 0)
            await check_new(memory, dict.fromkeys(range(KEYS), 2))
            assert verify(store).damage == []

    run(body())


def test_it_does_not_begin_within_a_compaction(store, run, monkeypatch):
    """One that has chosen which rows go would not know that they are counted."""
    monkeypatch.setattr(renumbering, "MIN_DEAD_ROWS", 8)
    original = compactor.build_views

    async def body():
        async with MemorySystem.open(MemoryConfig(storage_path=store, history=0)) as memory:
            for version in range(3):
                await fill(memory, version)
            loop = asyncio.get_running_loop()
            gate = Gate()
            work = asyncio.create_task(memory.reembed("a", gate, batch=70))
            await gate.asked()

            async def go_on():
                gate.allow()
                for _ in range(8):  # whoever does not wait for the compaction has begun by now
                    await turn()
                    await asyncio.to_thread(int)
                    await memory.put("a", "plain", 1)
                assert staged_of(memory) is None

            def building(*arguments):
                asyncio.run_coroutine_threadsafe(go_on(), loop).result(20)
                return original(*arguments)

            monkeypatch.setattr(compactor, "build_views", building)
            await memory.compact()
            gate.allow(100)
            done = await work
            assert (done.embedded, done.lost) == (KEYS, 0)
            assert len(gate.calls) == 2
            await check_new(memory, dict.fromkeys(range(KEYS), 2))
            assert verify(store).damage == []

    run(body())


@pytest.mark.parametrize("step", ["save_base", "build_views"])
def test_a_switch_in_the_middle_of_a_compaction(store, run, monkeypatch, step):
    """The base is of before it, and the fresh views of after; no vectors are taken from under either."""
    original = getattr(compactor, step)
    drop = reembedding._Reembedding._drop

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            loop = asyncio.get_running_loop()
            gate = Gate()
            work = asyncio.create_task(memory.reembed("a", gate, batch=20))
            await gate.asked()
            gate.allow()
            await gate.asked()
            is_dropping = asyncio.Event()

            async def dropping(self, file):
                is_dropping.set()
                await drop(self, file)

            async def switch():
                gate.allow(100)
                await is_dropping.wait()
                for _ in range(8):  # whoever does not wait for the compaction has done it by now
                    await turn()
                    await asyncio.to_thread(int)
                assert partition_of(memory).dim == NEW

            def switching(*arguments):
                asyncio.run_coroutine_threadsafe(switch(), loop).result(20)
                return original(*arguments)

            monkeypatch.setattr(reembedding._Reembedding, "_drop", dropping)
            monkeypatch.setattr(compactor, step, switching)
            await memory.compact()
            await work
            await check_new(memory, dict.fromkeys(range(KEYS), 0))
            assert vector_files(store) == ["1.f16"]
            assert verify(store).damage == []
        async with MemorySystem.open(store) as memory:
            await check_new(memory, dict.fromkeys(range(KEYS), 0))

    run(body())


def test_what_retention_dropped_is_not_made_up(store, run):
    """As of when it was in force a search is refused; as of later, and now, it answers."""

    async def body():
        clock = ManualClock()
        config = MemoryConfig(storage_path=store, history=0)
        async with MemorySystem.open(config, clock=clock) as memory:
            await fill(memory, 0)
            first = clock.now(), memory.revision
            clock.advance(10)
            await fill(memory, 1, keys=range(20))
            second = clock.now(), memory.revision
            clock.advance(10)
            done = await memory.reembed("a", embed, batch=8)  # the first batches are all dropped
            assert (done.embedded, done.lost) == (KEYS, 20)
            row = partition_of(memory)
            stored = memory._engine.opened.files.rows(row.file, row.dim, row.rows)
            assert len(np.unique(stored, axis=0)) == row.rows  # what is made up is not all alike
            there = dict.fromkeys(range(KEYS), 0) | dict.fromkeys(range(20), 1)
            await check_new(memory, there)
            query = new(25)  # of one that was not replaced, and would be all the answer
            for as_of in first:
                with pytest.raises(TrimmedError):
                    await memory.search_similar("a", query, 1, as_of=as_of)
            for as_of in (*second, AsOf(*second)):
                assert await found(memory, query, as_of=as_of) == expected(query, there, 6)
            assert verify(store).damage == []
        async with MemorySystem.open(config, clock=clock) as memory:
            with pytest.raises(TrimmedError):
                await memory.search_similar("a", new(25), 1, as_of=first[0])

    run(body())


def test_versions_that_go_meanwhile(store, run):
    """Dropped after they were embedded or before, they are gone; what is left is found."""

    async def body():
        async with MemorySystem.open(MemoryConfig(storage_path=store, history=0)) as memory:
            await fill(memory)
            gate = Gate()
            work = asyncio.create_task(memory.reembed("a", gate, batch=10))
            await gate.asked()
            gate.allow()
            await gate.asked()
            await fill(memory, 1, keys=[1, 15, 25])  # embedded, being embedded, not yet
            gate.allow(100)
            done = await work
            assert (done.embedded, done.lost) == (KEYS + 2, 1)
            await check_new(memory, dict.fromkeys(range(KEYS), 0) | {1: 1, 15: 1, 25: 1})
            assert verify(store).damage == []

    run(body())


def test_nothing_left_to_embed_is_an_error(store, run):
    """Of observations that are all gone nothing says what dimension the new embedding has."""

    async def body():
        clock = ManualClock()
        async with MemorySystem.open(store, clock=clock) as memory:
            await fill(memory)
            for key in range(KEYS):
                await memory.delete("a", f"k{key}")
            await memory.set_retention("a", max_age=1.0)
            clock.advance(10)
            await memory.compact()
            with pytest.raises(InvalidInputError, match="nothing is left"):
                await memory.reembed("a", embed)

    run(body())


async def copy_store(memory, how, store, copy):
    """Copy a store that is in use."""
    if how == "jsonl":
        export = copy.with_suffix(".jsonl")
        await memory.export(export)
        await asyncio.to_thread(import_store, export, copy)
    elif how == "snapshot":
        await memory.snapshot(copy)
    elif how == "base":
        await memory.compact()
        await memory.snapshot(copy)
    else:
        await asyncio.to_thread(shutil.copytree, store, copy)
        assert (await asyncio.to_thread(repair, copy)).is_repaired


@pytest.mark.parametrize("when", ["middle", "end"])
@pytest.mark.parametrize("how", ["jsonl", "snapshot", "repair", "base"])
def test_copies_of_every_kind(store, run, tmp_path, how, when):
    """In the middle of it a copy has the old embedding, afterwards the new one."""
    copy = tmp_path / "copy"

    async def take(memory):
        await copy_store(memory, how, store, copy)

    async def body():
        there = dict.fromkeys(range(KEYS), 0)
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            before = await old_answers(memory)
            gate = Gate()
            work = asyncio.create_task(memory.reembed("a", gate, batch=10, label="m"))
            await gate.asked()
            gate.allow()
            await gate.asked()
            if when == "middle":
                await take(memory)
            gate.allow(100)
            await work
            if when == "end":
                await take(memory)
        assert verify(copy).damage == []
        async with MemorySystem.open(copy) as memory:
            if when == "end":
                await check_new(memory, there)
                return
            assert await old_answers(memory) == before
            done = await memory.reembed("a", embed, batch=10, label="m")
            assert done.resumed == (0 if how == "jsonl" else 10)
            await check_new(memory, there)
            assert verify(copy).damage == []

    run(body())


def test_an_export_after_it_makes_the_same_base(store, run, tmp_path):
    """The import says which file the vectors are in, as the store does."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            await memory.reembed("a", embed)
            await memory.compact()
            await memory.export(tmp_path / "export.jsonl")
        import_store(tmp_path / "export.jsonl", tmp_path / "copy")
        (base,) = (store / "base").iterdir()
        (made,) = (tmp_path / "copy" / "base").iterdir()
        # The session that reads them has begun since.
        assert made.read_bytes() == base.read_bytes()

    run(body())


def test_a_follower_switches_too(store, run):
    """At whatever point it comes to know; by the old embedding before, by the new one after."""

    async def body():
        there = dict.fromkeys(range(KEYS), 0)
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            before = await old_answers(memory)
            async with MemorySystem.open(store, read_only=True) as first:
                gate = Gate()
                work = asyncio.create_task(memory.reembed("a", gate, batch=10))
                await gate.asked()
                gate.allow()
                await gate.asked()
                async with MemorySystem.open(store, read_only=True) as second:
                    for follower in (first, second):
                        await follower.flush()
                        assert await old_answers(follower) == before
                    gate.allow(100)
                    done = await work
                    await memory.observe("a", new(40), {"key": 40, "version": 0}, key="k40")
                    await fill(memory, agent="unseen")
                    await memory.reembed("unseen", embed)
                    for follower in (first, second):
                        await follower.wait_for(memory.revision)
                        assert follower.revision >= done.revision
                        await check_new(follower, {**there, 40: 0})
                        await check_new(follower, there, agent="unseen")
                        with pytest.raises(DimensionError):
                            await follower.search_similar("a", old(1))

    run(body())


def test_a_follower_that_was_held_up(store, run, monkeypatch):
    """A compaction that numbers rows anew, and two re-embeddings, come to it at once."""
    monkeypatch.setattr(renumbering, "MIN_DEAD_ROWS", 8)

    async def body():
        config = MemoryConfig(storage_path=store, history=0)
        async with MemorySystem.open(config) as memory:
            for version in range(3):
                await fill(memory, version)
            async with MemorySystem.open(config, read_only=True) as follower:
                kind = type(follower._engine)
                catch_up = kind.catch_up

                async def stay(self):
                    pass

                monkeypatch.setattr(kind, "catch_up", stay)
                await memory.reembed("a", lambda records: [old(1)] * len(records))
                await memory.compact()
                await memory.reembed("a", embed)
                await fill_new(memory, 3, keys=[1, 2])
                monkeypatch.setattr(kind, "catch_up", catch_up)
                await follower.flush()
                await check_new(follower, dict.fromkeys(range(KEYS), 2) | {1: 3, 2: 3})

    async def fill_new(memory, version, keys):
        for key in keys:
            data = {"key": key, "version": version}
            await memory.observe("a", new(key, version), data, key=f"k{key}")

    run(body())


def test_a_backtest_is_the_same_each_time(store, run, tmp_path, monkeypatch):
    """Also through a graph, also when the batches came otherwise, and after a rebuild."""
    tuned = functools.partial(VectorTier, tuning=Tuning(scan_values=64, batch=16))
    monkeypatch.setattr(engine, "VectorTier", tuned)
    start = datetime(2024, 1, 1, tzinfo=UTC)

    async def once(path, batch):
        config = MemoryConfig(storage_path=path, timeline="backtest")
        async with MemorySystem.open(config) as memory:
            for version in range(6):
                await memory.timeline.advance(start + timedelta(hours=version))
                await fill(memory, version)
            await memory.reembed("a", embed, batch=batch)
            found = [await asked(memory, None), await asked(memory, start + timedelta(hours=2))]
            assert await exact(memory) == expected(new(1, 50), dict.fromkeys(range(KEYS), 5), 6)
        assert verify(path).damage == []
        shutil.rmtree(path / "views")
        shutil.rmtree(path / "vectors")
        async with MemorySystem.open(config) as memory:
            assert await asked(memory, None) == found[0]
        return found

    async def exact(memory):
        return await found_exact(memory, new(1, 50))

    async def found_exact(memory, query):
        return await found(memory, query, exact=True)

    async def asked(memory, as_of):
        return [
            [
                (hit.key, hit.score, hit.data["version"])
                for hit in await memory.search_similar("a", new(key, 50), 5, as_of=as_of)
            ]
            for key in range(8)
        ]

    async def body():
        first = await once(store, 7)
        second = await once(tmp_path / "other", 50)
        assert first[0] == second[0]

    run(body())


def test_quotas_and_counts_do_not_move(store, run):
    """An agent that is at its limit can be embedded anew; it has as much as before."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            await memory.set_quota("a", max_vectors=KEYS)
            used = memory.usage("a")
            await memory.reembed("a", embed)
            assert memory.usage("a") == used
            assert memory.stats().l2.entries == KEYS
            assert verify(store).damage == []

    run(body())


def test_feeds_say_what_happened(store, run, collect):
    """`tail` names each entry; `watch` and pins hear nothing, since no key has changed."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            watch = memory.watch("a")
            revision = memory.revision
            done = await memory.reembed("a", embed, batch=20)
            await memory.put("a", "end", 1)
            (change,) = await collect(watch, 1)
            assert change.key == "end"
            entries = await collect(memory.tail(after=revision), 5)
            assert [entry.kind for entry in entries] == [
                "reembed",
                "embed",
                "embed",
                "switch",
                "write",
            ]
            assert entries[3].revision == done.revision
            assert [entry.changes for entry in entries[:4]] == [()] * 4

    run(body())


def test_over_and_over(store, run):
    """Back and forth, of several agents: each time all is there, and nothing is left over."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            await fill(memory, agent="b", keys=[1, 2])
            before = await old_answers(memory)
            for number in range(3):
                await memory.reembed("a", embed, batch=11)
                await memory.reembed(
                    "a", lambda r: [old(x.value["key"], x.value["version"]) for x in r]
                )
                assert await old_answers(memory) == before
                assert vector_files(store) == sorted(["1.f16", f"{3 + 2 * number}.f16"])
            assert verify(store).damage == []
        assert verify(store).damage == []

    run(body())


def test_verify_looks_again_when_vectors_went_meanwhile(store, run, monkeypatch):
    """A store that is embedded anew while it is verified is not called damaged."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            loop = asyncio.get_running_loop()
            times = []

            def told(what, _done, _total):
                if what.startswith("views") and not times:
                    times.append(what)
                    work = memory.reembed("a", embed)
                    asyncio.run_coroutine_threadsafe(work, loop).result(20)

            found = await asyncio.to_thread(verify, store, progress=told)
            assert times
            assert found.damage == []
            assert found.vectors == KEYS

    run(body())


def test_a_map_shows_the_new_embedding(store, run, tmp_path):
    """It is that of a store in which everything was observed by the new one from the beginning."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await fill(memory)
            was = await memory.map("a", action_type="")
            await memory.reembed("a", embed)
            now = await memory.map("a", action_type="")
        async with MemorySystem.open(tmp_path / "other") as memory:
            keys = [f"k{key}" for key in range(KEYS)]
            await memory.observe_many("a", [new(key) for key in range(KEYS)], keys=keys)
            wanted = await memory.map("a", action_type="")
        assert was.keys == now.keys == wanted.keys
        assert now.points.tolist() == wanted.points.tolist() != was.points.tolist()

    run(body())
