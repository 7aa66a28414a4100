"""Compaction gives back the rows of observations that were replaced, deleted or ran out."""

from __future__ import annotations

import asyncio
import functools
import shutil
import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from nt_memory import AsOf, ManualClock, MemoryConfig, MemorySystem
from nt_memory.clock import turn
from nt_memory.errors import (
    CorruptionError,
    DimensionError,
    StorageError,
    StorageFullError,
    TrimmedError,
)
from nt_memory.replica import partition_name
from nt_memory.system import compactor, engine, renumbering, searching
from nt_memory.system.compactor import Compactor
from nt_memory.system.importing import import_store
from nt_memory.system.repairing import repair
from nt_memory.system.verifying import verify
from nt_memory.tiers.layout import LAST_PARTITION, NUMBERING
from nt_memory.tiers.vectors import Tuning, VectorTier
from nt_memory.transport.basefile import BaseFile

DIM = 8
KEYS = 30


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Partitions of a test are worth it too."""
    monkeypatch.setattr(renumbering, "MIN_DEAD_ROWS", 8)


def vector(key, version):
    """The embedding of a version of a key."""
    return np.random.default_rng([key, version]).normal(size=DIM)


async def fill(memory, agent="a", versions=4, keys=KEYS):
    """Observations, each replaced some times, a third of them deleted in the end."""
    for version in range(versions):
        await memory.observe_many(
            agent,
            [vector(key, version) for key in range(keys)],
            [{"key": key, "version": version} for key in range(keys)],
            keys=[f"k{key}" for key in range(keys)],
            tags=[[f"t{key % 3}"] for key in range(keys)],
        )
    for key in range(0, keys, 3):
        await memory.delete(agent, f"k{key}")


def config(store, **settings):
    """Only current versions are kept."""
    return MemoryConfig(storage_path=store, history=0, **settings)


async def answers(memory, agent="a"):
    """What searches say, with every kind of filter."""
    found = []
    for key in range(0, KEYS, 4):
        query = vector(key, 3)
        found += [
            await memory.search_similar(agent, query, 5),
            await memory.search_similar(agent, query, KEYS, exact=True),
            await memory.search_similar(agent, query, 4, tags=["t1"]),
            await memory.search_similar(agent, query, 4, where={"version": 3}),
        ]
    return found


def partition_of(memory, agent="a"):
    """The row that says which id the agent's observations have, and how many rows."""
    return memory._engine.snapshot.partition(partition_name(agent, ""))


def vector_files(store):
    """Names in the directory of vectors, but for checksums, which must be there for each file."""
    names = sorted(path.name for path in (store / "vectors").iterdir())
    rows = [name for name in names if name.endswith(".f16")]
    sums = [name for name in names if name.endswith(".sums")]
    assert [name.replace(".sums", ".f16") for name in sums] == rows
    return [name for name in names if name not in sums]


def test_dead_rows_are_given_back_everywhere(store, run):
    """Memory, views, vector file and base hold the live rows only; every answer is as before."""

    async def body():
        async with MemorySystem.open(config(store)) as memory:
            await fill(memory)
            await memory.put("a", "plain", 1)
            before = await answers(memory)
            assert memory.stats().l2.entries == 4 * KEYS
            await memory.compact()
            live = KEYS - KEYS // 3
            assert memory.stats().l2.entries == live
            row = partition_of(memory)
            assert (row.id, row.rows) == (LAST_PARTITION, live)
            assert memory._engine.snapshot.count(b"rows") == live
            assert vector_files(store) == [f"{LAST_PARTITION}.f16"]
            size = (store / "vectors" / f"{LAST_PARTITION}.f16").stat().st_size
            assert size == 64 + live * DIM * 2
            assert await answers(memory) == before
            assert verify(store).damage == []
        assert verify(store).damage == []
        async with MemorySystem.open(config(store)) as memory:
            assert await answers(memory) == before
        shutil.rmtree(store / "views")
        shutil.rmtree(store / "vectors")
        async with MemorySystem.open(config(store)) as memory:
            assert await answers(memory) == before
            assert memory.stats().l2.entries == live

    run(body())


def test_it_goes_on_over_and_over(store, run):
    """Ids are never given twice, others' partitions stay, and writes go on between."""

    async def body():
        async with MemorySystem.open(config(store)) as memory:
            await memory.observe("still", vector(0, 0), "here", key="k")
            seen = set()
            for n in range(4):
                await fill(memory)
                await fill(memory, "b", versions=1 + n % 2 * 3)
                before = [await answers(memory), await answers(memory, "b")]
                await memory.compact()
                assert [await answers(memory), await answers(memory, "b")] == before
                assert memory.stats().l2.entries <= 1 + 2 * KEYS
                row = partition_of(memory)
                assert row.id not in seen
                seen.add(row.id)
                assert verify(store).damage == []
                (hit,) = await memory.search_similar("still", vector(0, 0), 3)
                assert hit.data == "here"
                await memory.observe(f"new{n}", vector(n, 0), n)
            assert partition_of(memory, "still").id == 0
            assert set(memory._filters._partitions) <= set(memory._engine.rows.counts)
            for n in range(4):
                (hit,) = await memory.search_similar(f"new{n}", vector(n, 0), 3)
                assert hit.data == n
        assert verify(store).damage == []

    run(body())


def test_what_is_not_worth_it_stays(store, run):
    """Less than a quarter dead, a backtest, and what retention still keeps."""

    async def body():
        async with MemorySystem.open(config(store / "few")) as memory:
            await memory.observe_many("a", [vector(n, 0) for n in range(100)])
            await memory.observe_many(
                "a", [vector(n, 1) for n in range(24)], keys=[f"k{n}" for n in range(24)]
            )
            await memory.observe_many(
                "a", [vector(n, 2) for n in range(24)], keys=[f"k{n}" for n in range(24)]
            )
            await memory.compact()
            assert (partition_of(memory).id, partition_of(memory).rows) == (0, 148)
        async with MemorySystem.open(MemoryConfig(storage_path=store / "all")) as memory:
            await fill(memory)
            await memory.compact()
            assert (partition_of(memory).id, partition_of(memory).rows) == (0, 4 * KEYS)
        backtest = config(store / "backtest", timeline="backtest")
        async with MemorySystem.open(backtest) as memory:
            await memory.timeline.advance(datetime(2024, 1, 1, tzinfo=UTC))
            await fill(memory)
            await memory.compact()
            assert (partition_of(memory).id, partition_of(memory).rows) == (0, 4 * KEYS)

    run(body())


def test_a_moment_that_needed_them_is_refused(store, run):
    """As of then no answer is made up of what is left; as of what is kept all are as before."""

    async def body():
        clock = ManualClock()
        async with MemorySystem.open(store, clock=clock) as memory:
            await memory.set_retention(None, max_age=100.0)
            times = []
            for version in range(4):
                times.append(clock.now())
                await memory.observe_many(
                    "a",
                    [vector(key, version) for key in range(KEYS)],
                    [version] * KEYS,
                    keys=[f"k{key}" for key in range(KEYS)],
                )
                clock.advance(60)
            kept = [
                await memory.search_similar("a", vector(1, 2), 9, as_of=moment)
                for moment in times[2:]
            ]
            view = memory.at(times[1])
            held = await view.search_similar("a", vector(1, 1), 9)
            assert {hit.data for hit in held} == {1}
            await memory.compact()
            # An open view holds back what it may ask for.
            assert await view.search_similar("a", vector(1, 1), 9) == held
            assert partition_of(memory).rows == 3 * KEYS
            with pytest.raises(TrimmedError):
                await memory.search_similar("a", vector(1, 0), 9, as_of=times[0])
            for moment, hits in zip(times[2:], kept, strict=True):
                assert await memory.search_similar("a", vector(1, 2), 9, as_of=moment) == hits
            del view
            await memory.compact()
            assert partition_of(memory).rows == 2 * KEYS
            with pytest.raises(TrimmedError):
                await memory.search_similar("a", vector(1, 1), 9, as_of=times[1])
            for moment, hits in zip(times[2:], kept, strict=True):
                assert await memory.search_similar("a", vector(1, 2), 9, as_of=moment) == hits
            assert await memory.search_similar("b", vector(1, 1), 9, as_of=times[0]) == []
        assert verify(store).damage == []

    run(body())


def test_a_late_write_counts_by_both_clocks(store, run):
    """Before the entry that ended a row that was given back, it was in force: such a moment is refused."""

    async def body():
        clock = ManualClock()
        async with MemorySystem.open(config(store), clock=clock) as memory:
            tail = memory.tail()  # so that earlier revisions can still be named
            start = clock.now()
            for key in range(KEYS):
                await memory.observe("a", vector(key, 0), 0, key=f"k{key}")
            early = memory.revision
            clock.advance(100)
            late = start + timedelta(seconds=50)
            for key in range(KEYS):
                await memory.observe("a", vector(key, 1), 1, key=f"k{key}", known_at=late)
            await memory.compact()
            assert partition_of(memory).rows == KEYS
            then = start + timedelta(seconds=60)
            with pytest.raises(TrimmedError):
                await memory.search_similar("a", vector(1, 0), 9, as_of=AsOf(then, early))
            hits = await memory.search_similar("a", vector(1, 0), 9, as_of=then)
            assert {hit.data for hit in hits} == {1}
            assert tail.revision == 0

    run(body())


def test_what_is_written_while_it_runs_is_taken_in(store, run, monkeypatch):  # noqa: C901
    """Before and during the last hold of the journal: new rows, ends of old and of new ones, new partitions."""
    monkeypatch.setattr(compactor, "_LAST_ENTRIES", 0)
    approach = Compactor._approach

    async def body():
        async with MemorySystem.open(config(store)) as memory:
            await fill(memory)
            loop = asyncio.get_running_loop()

            async def write(stage):
                for version in (stage, stage + 10):
                    for key in (1, 2, 100 + stage):
                        await memory.observe(
                            "a", vector(key, version), version, key=f"k{key}", tags=["new"]
                        )
                await memory.delete("a", f"k{4 + stage * 3}")
                await memory.observe(f"b{stage}", vector(0, stage), stage, key="k")

            def write_before_and_after(self, replica):
                assert self._newcomers is not None
                asyncio.run_coroutine_threadsafe(write(0), loop).result(20)
                approach(self, replica)
                assert replica.sequence == self._journal.last_sequence
                asyncio.run_coroutine_threadsafe(write(1), loop).result(20)

            monkeypatch.setattr(Compactor, "_approach", write_before_and_after)
            await memory.compact()
            wanted = {f"k{key}": {"key": key, "version": 3} for key in range(KEYS) if key % 3}
            wanted |= {"k1": 11, "k2": 11, "k100": 10, "k101": 11}
            del wanted["k4"], wanted["k7"]

            async def check(memory):
                hits = await memory.search_similar("a", vector(1, 11), 99)
                assert {hit.key: hit.data for hit in hits} == wanted
                for key, version in ((1, 11), (2, 11), (100, 10), (101, 11)):
                    (hit,) = await memory.search_similar("a", vector(key, version), 1, tags=["new"])
                    assert (hit.key, hit.data) == (f"k{key}", version)
                    assert hit.score > 0.999
                for stage in (0, 1):
                    (hit,) = await memory.search_similar(f"b{stage}", vector(0, stage), 9)
                    assert hit.data == stage

            await check(memory)
            assert verify(store).damage == []
        async with MemorySystem.open(config(store)) as memory:
            await check(memory)
        shutil.rmtree(store / "views")
        async with MemorySystem.open(config(store)) as memory:
            await check(memory)

    run(body())


def test_writes_and_searches_go_on_meanwhile(store, run):  # noqa: C901
    """New partitions, replacements and deletes while it runs; no search misses a live row, ever."""

    async def body():  # noqa: C901
        async with MemorySystem.open(config(store)) as memory:
            await fill(memory)
            for key in range(0, KEYS, 3):
                await memory.observe("a", vector(key, 3), key, key=f"k{key}")
            done = asyncio.Event()
            written = {}

            async def write(worker):
                n = 0
                while not done.is_set() or n < 10:
                    key = worker + 4 * (n % 7)
                    await memory.observe("a", vector(key, 3), n, key=f"k{key}", tags=[f"w{worker}"])
                    written[f"k{key}"] = n
                    await memory.observe(f"new-{worker}-{n}", vector(n, worker), n, key="k")
                    n += 1
                return n

            async def search(tags, exact):
                count = 0
                while not done.is_set():
                    hits = await memory.search_similar(
                        "a", vector(count % KEYS, 3), KEYS, tags=tags, exact=exact
                    )
                    if tags is None:
                        assert len({hit.key for hit in hits}) == KEYS
                    assert [hit.score for hit in hits] == sorted(
                        (hit.score for hit in hits), reverse=True
                    )
                    count += 1
                    await turn()

            async with asyncio.TaskGroup() as group:
                workers = [group.create_task(write(worker)) for worker in range(4)]
                for tags, exact in ((None, False), (None, True), (["w1"], False)):
                    group.create_task(search(tags, exact))
                ids = set()
                for _ in range(6):
                    await memory.compact()
                    ids.add(partition_of(memory).id)
                done.set()
            assert len(ids) > 1  # or it tested nothing
            found = await memory.search_similar("a", vector(0, 0), KEYS)
            assert {hit.key: hit.data for hit in found if hit.key in written} == written
            for worker, task in enumerate(workers):
                for n in range(0, task.result(), 7):
                    (hit,) = await memory.search_similar(
                        f"new-{worker}-{n}", vector(n, worker), 2, exact=True
                    )
                    assert hit.data == n
            assert verify(store).damage == []
        assert verify(store).damage == []

    run(body())


def test_a_search_that_runs_over_the_exchange_asks_again(store, run, monkeypatch):
    """Its thread has the old partition, and its file is gone by then."""
    monkeypatch.setattr(searching, "OFF_LOOP_ELEMENTS", 0)
    monkeypatch.setattr(searching, "QUICK_NS", -1)
    monkeypatch.setattr(searching, "ALONE_NS", -1)

    async def body():
        async with MemorySystem.open(config(store)) as memory:
            await fill(memory)
            before = await memory.search_similar("a", vector(1, 3), 5, tags=["t1"])
            begun, go_on = threading.Event(), threading.Event()
            search = memory._engine.vectors.search
            searched = []

            def late(partitions, *args, **options):
                searched.append(list(partitions))
                if len(searched) == 1:
                    begun.set()
                    assert go_on.wait(20)
                return search(partitions, *args, **options)

            monkeypatch.setattr(memory._engine.vectors, "search", late)
            for is_past in (False, True):
                as_of = memory.timeline.now if is_past else None
                searched.clear()
                begun.clear()
                go_on.clear()
                task = asyncio.ensure_future(
                    memory.search_similar("a", vector(1, 3), 5, tags=["t1"], as_of=as_of)
                )
                await asyncio.to_thread(begun.wait, 20)
                await memory.compact()
                go_on.set()
                assert await task == before
                assert searched[0] not in searched[1:]
                assert searched[1:] == [searched[1]] * (len(searched) - 1)
                await fill(memory)
                before = await memory.search_similar("a", vector(1, 3), 5, tags=["t1"])
                searched.clear()

    run(body())


def test_a_graph_is_built_anew(store, run, monkeypatch):
    """Exact until it is there, then by the new graph; the old one's snapshot goes with its file."""
    tuned = functools.partial(VectorTier, tuning=Tuning(scan_values=DIM * 8))
    monkeypatch.setattr(engine, "VectorTier", tuned)

    async def body():
        async with MemorySystem.open(config(store)) as memory:
            tier = memory._engine.vectors
            await fill(memory)
            assert await asyncio.to_thread(tier.wait_indexed, 20)
            assert tier.stats.graph_rows == 4 * KEYS
            tier.save()
            assert vector_files(store) == [f"0-0-{4 * KEYS}.hnsw", "0.f16"]
            before = await answers(memory)
            await memory.compact()
            live = KEYS - KEYS // 3
            assert await asyncio.to_thread(tier.wait_indexed, 20)
            assert (tier.stats.rows, tier.stats.graph_rows, tier.stats.failures) == (live, live, 0)
            assert vector_files(store) == [f"{LAST_PARTITION}.f16"]
            assert await answers(memory) == before
        assert vector_files(store) == [
            f"{LAST_PARTITION}-0-{live}.hnsw",
            f"{LAST_PARTITION}.f16",
        ]
        async with MemorySystem.open(config(store)) as memory:
            assert await answers(memory) == before
            # A third dead is not worth a new graph.
            await memory.observe_many(
                "a", [vector(1, n) for n in range(10)], keys=[f"k{3 * n}" for n in range(10)]
            )
            await memory.observe_many(
                "a", [vector(2, n) for n in range(10)], keys=[f"k{3 * n}" for n in range(10)]
            )
            await memory.compact()
            assert partition_of(memory).id == LAST_PARTITION

    run(body())


def test_a_partition_of_which_nothing_is_left(store, run):
    """It keeps its dimension and no row, and goes on from there."""

    async def body():
        clock = ManualClock()
        async with MemorySystem.open(store, clock=clock) as memory:
            await memory.set_retention(None, max_age=10.0)
            for key in range(KEYS):
                await memory.observe("a", vector(key, 0), key, key=f"k{key}", ttl=5.0)
            clock.advance(60)
            await memory.compact()
            assert (partition_of(memory).id, partition_of(memory).rows) == (LAST_PARTITION, 0)
            assert await memory.search_similar("a", vector(0, 0), 5) == []
            with pytest.raises(DimensionError):
                await memory.observe("a", [1.0, 2.0])
            assert verify(store).damage == []
        for written in (0, 1):
            async with MemorySystem.open(store, clock=clock) as memory:
                found = await memory.search_similar("a", vector(0, 0), 5)
                assert [hit.data for hit in found] == ["new"] * written
                await memory.observe("a", vector(0, 0), "new", key="k")
            assert verify(store).damage == []

    run(body())


STEPS = ["plan", "save_base", "build_views", "Newcomers", "catch_up"]


@pytest.mark.parametrize("step", STEPS)
def test_a_failure_leaves_everything_as_it_was(store, run, monkeypatch, step):
    """Whatever fails; nothing is left behind, and the next one succeeds."""

    def fail(*_, **__):
        raise StorageFullError("no space left")

    async def body():
        async with MemorySystem.open(config(store)) as memory:
            await fill(memory)
            before = await answers(memory)
            with monkeypatch.context() as patched:
                patched.setattr(compactor, step, fail)
                with pytest.raises(StorageFullError):
                    await memory.compact()
            assert vector_files(store) == ["0.f16"]
            renumbered = [path.name for path in (store / "base").glob("*")]
            assert renumbered == []
            assert await answers(memory) == before
            assert verify(store).damage == []
            await memory.observe("a", vector(1, 3), {"key": 1, "version": 3}, key="k1", tags=["t1"])
            before = await answers(memory)
            await memory.compact()
            assert partition_of(memory).id == LAST_PARTITION
            assert await answers(memory) == before
        assert verify(store).damage == []

    run(body())


@pytest.mark.parametrize("after", ["publish", "exchange"])
def test_an_exchange_that_fails_half_way(store, run, monkeypatch, after):
    """The base is in its place already: the old views go on, and the next open makes new ones."""

    async def body():
        async with MemorySystem.open(config(store)) as memory:
            await fill(memory)
            before = await answers(memory)

            def fail(self, new):
                raise StorageError("renaming failed")

            with monkeypatch.context() as patched:
                patched.setattr(Compactor, "_exchange", fail)
                with pytest.raises(StorageError, match="renaming"):
                    await memory.compact()
            assert await answers(memory) == before
            assert partition_of(memory).id == 0
            await memory.observe("a", vector(99, 0), {"key": 99}, key="k99")
            if after == "exchange":
                await memory.compact()
                assert partition_of(memory).id == LAST_PARTITION
            before = await answers(memory)
            found = verify(store)
            assert found.damage == []
            assert bool(found.warnings) == (after == "publish")
        found = verify(store)
        assert found.damage == []
        async with MemorySystem.open(config(store)) as memory:
            assert partition_of(memory).id == LAST_PARTITION
            assert await answers(memory) == before
            assert vector_files(store) == [f"{LAST_PARTITION}.f16"]
        assert verify(store).warnings == []

    run(body())


def crash_copies(store, root, run, monkeypatch):
    """Copies of a store's directory as a crash at each step of a compaction leaves it; and answers."""
    copies = []
    kept = {}

    def copy(name):
        copies.append(root / f"{len(copies)}-{name}")
        shutil.copytree(store, copies[-1], ignore=shutil.ignore_patterns("LOCK"))

    def around(owner, name):
        original = getattr(owner, name)

        def step(*args, **options):
            copy(f"before-{name}")
            result = original(*args, **options)
            copy(f"after-{name}")
            return result

        monkeypatch.setattr(owner, name, step)

    async def body():
        async with MemorySystem.open(config(store)) as memory:
            await fill(memory)
            kept["answers"] = await answers(memory)
            for owner, name in (
                (compactor, "save_base"),
                (compactor, "build_views"),
                (compactor, "drop_partition"),
                (Compactor, "_publish"),
                (Compactor, "_exchange"),
                (Compactor, "_drop_moved"),
                (Compactor, "clean_up"),
            ):
                around(owner, name)
            # Between the two renames too.
            move = type(memory._engine.opened.cold).move

            def move_and_copy(self, directory):
                move(self, directory)
                copy("after-move")

            monkeypatch.setattr(type(memory._engine.opened.cold), "move", move_and_copy)
            await memory.compact()

    run(body())
    return copies, kept["answers"]


def test_a_crash_at_any_step(store, tmp_path, run, monkeypatch):
    """The directory as each step leaves it opens to the same answers, verified, and nothing stray."""
    with monkeypatch.context() as patched:
        copies, before = crash_copies(store, tmp_path / "copies", run, patched)
    assert len(copies) > 14

    async def body(path):
        found = verify(path)
        assert found.damage == [], path.name
        async with MemorySystem.open(config(path)) as memory:
            assert await answers(memory) == before, path.name
            assert verify(path).warnings == [], path.name
            assert vector_files(path) == [f"{partition_of(memory).id}.f16"], path.name
            assert not list((path / "base").glob("*.new"))
            await fill(memory)
            filled = await answers(memory)
            await memory.compact()
            assert await answers(memory) == filled, path.name
            assert memory.stats().l2.entries == KEYS - KEYS // 3
        assert (verify(path).damage, verify(path).warnings) == ([], []), path.name

    for path in copies:
        repaired = path.with_name(path.name + "-repaired")
        shutil.copytree(path, repaired)
        run(body(path))
        assert repair(repaired).lost == []
        run(body(repaired))


def test_views_of_another_numbering_are_not_combined_with_the_base(store, tmp_path, run):
    """Views that are as new as the base, but numbered otherwise, are made anew from it."""

    async def body():
        async with MemorySystem.open(config(store)) as memory:
            await fill(memory)
            for name in ("views", "vectors"):
                shutil.copytree(store / name, tmp_path / name)
            sequence = memory._engine.sequence
            await memory.compact()
            before = await answers(memory)
            assert memory._engine.sequence == sequence
        for name in ("views", "vectors"):
            shutil.rmtree(store / name)
            shutil.copytree(tmp_path / name, store / name)
        found = verify(store)
        assert found.damage == []
        assert "numbered" in found.warnings[0]
        async with MemorySystem.open(config(store)) as memory:
            assert partition_of(memory).id == LAST_PARTITION
            assert await answers(memory) == before
        assert (verify(store).damage, verify(store).warnings) == ([], [])

    run(body())


def test_a_damaged_base_does_not_cost_the_views(store, run):
    """A base that cannot say how its rows are numbered says nothing against views that are whole."""

    async def body():
        async with MemorySystem.open(config(store)) as memory:
            await fill(memory)
            await memory.compact()
            before = await answers(memory)
        (path,) = (store / "base").iterdir()
        data = bytearray(path.read_bytes())
        data[150] ^= 1
        path.write_bytes(data)
        with BaseFile(path) as base, pytest.raises(CorruptionError):
            list(base.blocks())
        async with MemorySystem.open(config(store)) as memory:
            assert await answers(memory) == before

    run(body())


def test_export_and_import_after_a_renumbering(store, tmp_path, run):
    """The imported store has the same rows, answers and floors."""

    async def body():
        clock = ManualClock()
        async with MemorySystem.open(config(store), clock=clock) as memory:
            then = clock.now()
            await fill(memory)
            clock.advance(60)
            await fill(memory)
            await memory.compact()
            before = await answers(memory)
            numbering = memory._engine.snapshot.number(NUMBERING)
            await memory.export(tmp_path / "export.jsonl")
            await memory.snapshot(tmp_path / "copy")
        import_store(tmp_path / "export.jsonl", tmp_path / "imported")
        for path in (tmp_path / "imported", tmp_path / "copy"):
            async with MemorySystem.open(config(path), clock=clock) as memory:
                assert memory._engine.snapshot.number(NUMBERING) == numbering
                assert partition_of(memory).id == LAST_PARTITION
                assert await answers(memory) == before
                with pytest.raises(TrimmedError):
                    await memory.search_similar("a", vector(0, 0), as_of=then)
                await fill(memory)
                filled = await answers(memory)
                await memory.compact()
                assert partition_of(memory).id == LAST_PARTITION - 1
                assert await answers(memory) == filled
            assert verify(path).damage == []

    run(body())


def test_a_follower_goes_on_over_a_renumbering(store, run):
    """Behind by some or by nothing, with partitions it never saw: it answers as the writer does."""

    async def body():
        async with MemorySystem.open(config(store)) as writer:
            await fill(writer)
            await writer.observe("still", vector(0, 0), 0, key="k")
            async with MemorySystem.open(store, read_only=True) as follower:
                for n in range(4):
                    # The follower polls by itself only when this yields to its timer for long enough;
                    # it is either behind all of this or in the middle of it.
                    await writer.observe("still", vector(0, n), n, key=f"k{n}")
                    await fill(writer)
                    await fill(writer, f"unseen{n}")
                    await writer.observe("a", vector(1, 3), n, key="last", tags=["t1"])
                    await writer.compact()
                    await writer.observe("a", vector(2, 3), n, key="after", tags=["t1"])
                    await writer.delete("a", "k4")
                    await follower.wait_for(writer.revision)
                    for agent in ("a", f"unseen{n}", "still"):
                        assert await answers(follower, agent) == await answers(writer, agent)
                    assert follower.stats().l2.entries == writer.stats().l2.entries
                    assert follower._engine.rows.counts == writer._engine.rows.counts
                assert follower._engine.rows.numbering == 4

    run(body())


def test_a_follower_whose_file_was_removed_asks_again(store, run, monkeypatch):
    """It has not polled yet, and has not read the old file."""

    async def body():
        async with MemorySystem.open(config(store)) as writer:
            await fill(writer)
            async with MemorySystem.open(store, read_only=True) as follower:
                kind = type(follower._engine)
                catch_up = kind.catch_up

                async def stay(self):
                    pass

                monkeypatch.setattr(kind, "catch_up", stay)
                await writer.compact()
                assert partition_of(follower).id == 0
                monkeypatch.setattr(kind, "catch_up", catch_up)
                assert vector_files(store) == [f"{LAST_PARTITION}.f16"]
                found = await follower.search_similar("a", vector(1, 3), 5)
                assert found == await writer.search_similar("a", vector(1, 3), 5)
                assert partition_of(follower).id == LAST_PARTITION

    run(body())


def test_an_open_feed_reads_on(store, run):
    """What it has not read yet names old rows; it gets every change all the same."""

    async def body():
        async with MemorySystem.open(config(store)) as memory:
            watch, tail = memory.watch("a", after=0), memory.tail()
            await fill(memory)
            last = memory.revision
            await memory.compact()
            assert partition_of(memory).id == LAST_PARTITION
            seen = [await anext(watch) for _ in range(4 * KEYS + KEYS // 3)]
            assert [change.kind for change in seen].count("put") == 4 * KEYS
            assert [(await anext(tail)).revision for _ in range(last)] == list(range(1, last + 1))

    run(body())


def test_quotas_count_as_before(store, run):
    """A renumbered partition holds as many vectors as its versions say."""

    async def body():
        async with MemorySystem.open(config(store)) as memory:
            await fill(memory)
            before = memory.usage("a")
            await memory.compact()
            assert memory.usage("a") == before
            await fill(memory)
            assert memory.usage("a") == before
        assert verify(store).damage == []

    run(body())
