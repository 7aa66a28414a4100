"""Filters by tables: built beside the loop, kept current, bounded, and never another answer."""

from __future__ import annotations

import asyncio
import functools
import threading

import numpy as np
import pytest

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.codec import encode
from nt_memory.errors import (
    ClosedError,
    CorruptionError,
    DimensionError,
    EmbeddingError,
    TrimmedError,
)
from nt_memory.filters import parse_where
from nt_memory.system import engine, searching
from nt_memory.system.filtering import Sieve, building, tables
from nt_memory.system.filtering.columns import FieldColumn
from nt_memory.system.filtering.sieve import Part
from nt_memory.system.filtering.tags import TagRows
from nt_memory.tiers.cold import ColdTier
from nt_memory.tiers.vectors import Candidates, Tuning, VectorTier, packed

DIM = 8
ROWS = 300
QUERIES = np.random.default_rng(1).normal(size=(6, DIM))

FILTERS = [
    ({"tags": ["even"]}, lambda n: n % 2 == 0),
    ({"tags": ["even", "third"]}, lambda n: n % 6 == 0),
    ({"tags": ["nobody's"]}, lambda n: False),
    ({"where": {"n": 7}}, lambda n: n == 7),
    ({"where": {"op": "lt", "field": "n", "value": 50.5}}, lambda n: n < 51),
    ({"where": {"order.side": "buy"}}, lambda n: n % 3 == 0),
    ({"where": {"op": "ne", "field": "order.side", "value": "buy"}}, lambda n: n % 3 != 0),
    ({"where": {"nothing": 1}}, lambda n: False),
    (
        {"tags": ["even"], "where": {"op": "in", "field": "order.side", "values": ["sell"]}},
        lambda n: n % 2 == 0 and n % 3,
    ),
]


def vectors(count=ROWS, seed=7):
    """`count` random vectors, shape (count, DIM)."""
    return np.random.default_rng(seed).normal(size=(count, DIM))


def payload(n):
    """Data of observation `n`."""
    return {"n": n, "order": {"side": "sell" if n % 3 else "buy"}}


def tags_of(n):
    """Its tags."""
    return ["even"] * (n % 2 == 0) + ["third"] * (n % 3 == 0)


async def fill(memory, agent="a", first=0, count=ROWS):
    """Observations `first` and on."""
    numbers = range(first, first + count)
    await memory.observe_many(
        agent,
        vectors(first + count)[first:],
        [payload(n) for n in numbers],
        keys=[f"k{n:04}" for n in numbers],
        tags=[tags_of(n) for n in numbers],
    )


def expected(query, passes, count=ROWS, top_k=10):
    """Keys of the best that pass, by a scan."""
    rows = vectors(count)
    stored = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    stored = stored.astype(float) / np.linalg.norm(stored.astype(float), axis=1, keepdims=True)
    order = np.argsort(-(stored @ query))
    return [f"k{n:04}" for n in order.tolist() if passes(n)][:top_k]


async def check(memory, count=ROWS):
    """Every filter says what a scan says."""
    for options, passes in FILTERS:
        for query in QUERIES[:2]:
            hits = await memory.search_similar("a", query, **options)
            assert [hit.key for hit in hits] == expected(query, passes, count), options


async def built(memory):
    """Wait for the tables that are being made."""
    filters = memory._filters
    await filters.complete(list(filters._partitions))


async def by(memory, options, agent="a"):
    """How the filters of a search are evaluated."""
    found = await memory.explain_similar(agent, QUERIES[0], **options)
    return [step.filters for step in found.steps]


# --- the same answers, whatever there is ------------------------------------------------------


def test_answers_are_the_same_before_and_after_tables_are_made(live):
    """A search does not wait for a table it can do without, and says so; then it uses it."""

    async def body(memory):
        await fill(memory)
        assert await by(memory, {"where": {"n": 7}}) == [("reading",)]
        await check(memory)
        await built(memory)
        assert await by(memory, {"where": {"n": 7}}) == [("columns",)]
        assert await by(memory, {"tags": ["even"]}) == [("tags",)]
        assert await by(memory, {"tags": ["even"], "where": {"n": 7}}) == [("tags", "columns")]
        assert await by(memory, {}) == [()]
        await check(memory)

    live(body)


def test_a_selective_filter_waits_for_its_table(live):
    """Rather than read everything: what has been read by then is little."""

    async def body(memory):
        await fill(memory, count=1000)
        found = await memory.explain_similar("a", QUERIES[0], where={"n": 999})
        assert [hit.key for hit in found.hits] == ["k0999"]
        assert [(step.filters, step.passing) for step in found.steps] == [(("columns",), 1)]
        assert (found.rounds, found.reads) == (3, 10 + 80 + 1)

    live(body)


def test_a_backtest_never_reads_where_there_could_be_a_table(backtest, clock):
    """What it answers must not depend on how fast a table was made."""

    async def body(memory):
        await memory.timeline.advance(clock.now())
        await fill(memory)
        assert await by(memory, {"where": {"n": 7}}) == [("columns",)]
        assert await by(memory, {"tags": ["even"]}) == [("tags",)]
        await check(memory)

    backtest(body)


def test_few_observations_need_no_wait(live):
    """A table of some rows is made at once."""

    async def body(memory):
        await fill(memory, count=tables.ROWS_AT_ONCE)
        assert await by(memory, {"tags": ["even"], "where": {"n": 7}}) == [("tags", "columns")]
        await check(memory, tables.ROWS_AT_ONCE)

    live(body)


# --- kept current -----------------------------------------------------------------------------


def test_tables_keep_up_with_what_is_observed(live):
    """New rows are in them when `observe` returns, many or few."""

    async def body(memory):
        await fill(memory, count=100)
        await check(memory, 100)
        await built(memory)
        await fill(memory, first=100, count=150)
        assert await by(memory, {"tags": ["even"]}) == [("tags",)]
        await check(memory, 250)
        await built(memory)
        await fill(memory, first=250, count=10)
        assert await by(memory, {"where": {"n": 7}}) == [("columns",)]
        for n in range(260, ROWS):
            await fill(memory, first=n, count=1)
            (hit,) = await memory.search_similar("a", QUERIES[0], where={"n": n})
            assert hit.data == payload(n)
        assert await by(memory, {"tags": ["even"], "where": {"n": 7}}) == [("tags", "columns")]
        await check(memory)

    live(body)


@pytest.mark.parametrize("stop_at", [1, 5, 27])
def test_what_is_observed_while_tables_are_made_is_in_them(live, monkeypatch, stop_at):
    """Wherever the making of them is just then."""
    monkeypatch.setattr(building, "VERSIONS_A_STEP", 4)
    reached, go_on = threading.Event(), threading.Event()
    step = building.Build.step
    steps = []

    def held(build, rows):
        steps.append(rows)
        if len(steps) == stop_at:
            reached.set()
            assert go_on.wait(20)
        return step(build, rows)

    monkeypatch.setattr(building.Build, "step", held)

    async def body(memory):
        await fill(memory, count=100)
        assert await by(memory, {"where": {"order.side": "buy"}}) == [("reading",)]
        assert await asyncio.to_thread(reached.wait, 20)
        for first in range(100, ROWS, 50):
            await fill(memory, first=first, count=50)
            await check(memory, first + 50)
        go_on.set()
        await built(memory)
        await check(memory)
        assert await by(memory, {"tags": ["even"], "where": {"n": 7}}) == [("tags", "columns")]

    live(body)


def test_a_column_that_nobody_asks_for_falls_behind_and_catches_up(live, monkeypatch):
    """It costs the writers nothing then; asked again, it has what it missed."""
    monkeypatch.setattr(tables, "IDLE_ROWS", 20)

    async def body(memory):
        await fill(memory, count=100)
        await check(memory, 100)
        await built(memory)
        for first in range(100, ROWS, 50):
            await fill(memory, first=first, count=50)
        (one,) = memory._filters._partitions.values()
        assert one.tables["n",].rows == 120
        await check(memory)
        await built(memory)
        assert await by(memory, {"where": {"n": 7}}) == [("columns",)]
        await check(memory)
        # One that is behind and one that is new are made by the same pass.
        await fill(memory, first=ROWS, count=100)
        both = {"op": "and", "filters": [{"n": 350}, {"op": "ne", "field": "new", "value": 1}]}
        for _ in range(2):
            (hit,) = await memory.search_similar("a", QUERIES[0], where=both)
            assert hit.data == payload(350)
            await built(memory)
        assert [one.tables[name].rows for name in (("n",), ("new",))] == [ROWS + 100] * 2

    live(body)


def test_a_table_that_is_behind_is_not_told_of_later_rows(live):
    """It would take them for the next ones; it catches up first."""

    async def body(memory):
        await fill(memory, count=100)
        await check(memory, 100)
        await built(memory)
        (one,) = memory._filters._partitions.values()
        one.tables = {None: TagRows(), ("n",): FieldColumn()}
        await fill(memory, first=100, count=150)
        for first in (250, 299):
            await fill(memory, first=first, count=49 if first == 250 else 1)
        assert [table.rows for table in one.tables.values()] == [0, 0]
        await check(memory)
        await built(memory)
        await check(memory)

    live(body)


def test_a_replaced_observation_is_a_new_row(live):
    """What is in force is filtered by what it says now, and the past by what was said then."""

    async def body(memory):
        await fill(memory)
        await check(memory)
        await built(memory)
        revision = memory.revision
        await memory.observe("a", QUERIES[0], {"n": -1}, key="k0007", tags=["new"])
        assert await memory.search_similar("a", QUERIES[0], where={"n": 7}) == []
        (hit,) = await memory.search_similar("a", QUERIES[0], where={"n": 7}, as_of=revision)
        assert hit.data == payload(7)
        (hit,) = await memory.search_similar("a", QUERIES[0], where={"n": -1}, tags=["new"])
        assert hit.key == "k0007"

    live(body)


def test_a_follower_keeps_its_own_tables(store, run):
    """Current with what the writer makes visible."""

    async def body():
        config = MemoryConfig(storage_path=store)
        async with MemorySystem.open(config) as writer:
            await fill(writer, count=100)
            async with MemorySystem.open(config, read_only=True) as memory:
                await check(memory, 100)
                await built(memory)
                for first in range(100, ROWS, 50):
                    await fill(writer, first=first, count=50)
                await memory.wait_for(writer.revision)
                assert await by(memory, {"where": {"n": 7}}) == [("columns",)]
                await check(memory)

    run(body())


def test_tables_are_made_anew_when_rows_are_numbered_anew(store, run, monkeypatch):
    """No filter meets the numbers of before."""
    monkeypatch.setattr("nt_memory.system.renumbering.MIN_DEAD_ROWS", 8)

    async def body():
        async with MemorySystem.open(MemoryConfig(storage_path=store, history=0)) as memory:
            for n in range(ROWS):
                await memory.observe("a", vectors()[n], {"n": -1}, key=f"k{n:04}", tags=["old"])
            await fill(memory)
            await check(memory)
            await built(memory)
            before = set(memory._filters._partitions)
            await memory.compact()
            assert not memory._filters._partitions
            await check(memory)
            await built(memory)
            assert not before & set(memory._filters._partitions)
            await check(memory)
            assert await memory.search_similar("a", QUERIES[0], tags=["old"]) == []

    run(body())


def test_a_build_under_way_when_rows_are_numbered_anew_is_given_up(store, run, monkeypatch):
    """The search that waited for it is answered all the same."""
    monkeypatch.setattr("nt_memory.system.renumbering.MIN_DEAD_ROWS", 8)
    monkeypatch.setattr(building, "VERSIONS_A_STEP", 4)  # so that it takes long

    async def body():
        async with MemorySystem.open(MemoryConfig(storage_path=store, history=0)) as memory:
            await fill(memory)
            await fill(memory)
            assert await by(memory, {"where": {"order.side": "buy"}}) == [("reading",)]
            await memory.compact()
            await check(memory)
            await built(memory)
            await check(memory)

    run(body())


# --- what cannot be in a table ----------------------------------------------------------------


def test_values_in_files_are_filtered_too(live):
    """They are not read for a table; they are met, and then read."""

    async def body(memory):
        large = np.zeros(1 << 18)
        for n in range(24):
            await memory.observe("a", QUERIES[n % 3], {"n": n, "weights": large} if n % 2 else n)
        for _ in range(2):
            for n in range(1, 24, 2):
                (hit,) = await memory.search_similar("a", QUERIES[0], where={"n": n})
                assert hit.data["n"] == n
            await built(memory)

    live(body)


def test_long_values_are_filtered_too(live):
    """A text that a column does not keep is compared when its row is read."""

    async def body(memory):
        for n in range(40):
            await memory.observe("a", QUERIES[n % 3], {"text": f"{n % 2}" * 3000}, key=f"k{n:02}")
        for _ in range(2):
            hits = await memory.search_similar("a", QUERIES[0], 40, where={"text": "1" * 3000})
            assert sorted(hit.key for hit in hits) == [f"k{n:02}" for n in range(1, 40, 2)]
            await built(memory)

    live(body)


def test_tables_stay_within_their_share_of_the_memory(live):
    """Those asked for least recently go; one that leaves no room for others is never kept."""

    async def body(memory):
        await memory.observe_many(
            "a",
            vectors(2000),
            [{f"f{f}": n + f for f in range(8)} | {"id": f"{n:0300}"} for n in range(2000)],
        )
        asked = []
        for f in [*range(8), 0]:
            for _ in range(2):
                hits = await memory.search_similar("a", QUERIES[0], where={f"f{f}": 1500})
                assert [hit.data["f0"] for hit in hits] == [1500 - f]
                await built(memory)
            assert await by(memory, {"where": {f"f{f}": 0}}) == [("columns",)]
            assert 0 < memory.stats().l2_filter_bytes <= (1 << 20) // 16
            (one,) = memory._filters._partitions.values()
            asked.append((f"f{f}",))
            assert sorted(one.tables) == sorted(asked[-3:])
        for _ in range(2):
            (hit,) = await memory.search_similar("a", QUERIES[0], where={"id": f"{77:0300}"})
            assert hit.data["f0"] == 77
            await built(memory)
        assert await by(memory, {"where": {"id": "x"}}) == [("reading",)]
        assert memory.stats().l2_filter_bytes <= (1 << 20) // 16

    live(body, max_memory_bytes=1 << 20)


def test_tables_of_many_small_agents_stay_within_it_too(live):
    """They are made at once, where nothing else would count them: 600 of 16 texts, 6.8 MB."""

    async def body(memory):
        for agent in range(600):
            rows = [{"id": f"{n:0500}"} for n in range(16 * agent, 16 * agent + 16)]
            await memory.observe_many(f"a{agent}", vectors(16), rows)
            (hit,) = await memory.search_similar(
                f"a{agent}", QUERIES[0], where={"id": f"{16 * agent + 3:0500}"}
            )
            assert hit.data == rows[3]
            # What one check every 4,096 rows lets through, and the share itself.
            assert memory.stats().l2_filter_bytes < (1 << 20) // 16 + 4_200 * 720
        assert memory.stats().l2_filter_bytes > 0

    live(body, max_memory_bytes=1 << 20)


def test_damage_met_while_a_table_is_made_is_no_answer(live, monkeypatch):
    """Filters go on by reading, which finds damage where it matters."""
    damaged = CorruptionError("views: a row fails its checksum")

    def step(*_):
        raise damaged

    async def body(memory):
        await fill(memory)
        with monkeypatch.context() as patched:
            patched.setattr(building.Build, "step", step)
            await check(memory)
            await built(memory)
        await check(memory)
        assert await by(memory, {"tags": ["even"]}) == [("reading",)]

    live(body)


def test_where_does_not_hide_that_something_was_dropped(live, clock):
    """As of a moment that needs what retention dropped, a search by a field is refused like any other."""

    async def body(memory):
        await memory.set_retention(None, max_age=10.0)
        then = clock.now()
        await fill(memory, count=40)
        clock.advance(60)
        await memory.observe("a", QUERIES[0], payload(7), key="k0007")
        clock.advance(60)
        await memory.compact()
        for _ in range(2):
            for where in ({"n": 7}, {"n": -1}):
                with pytest.raises(TrimmedError):
                    await memory.search_similar("a", QUERIES[0], where=where, as_of=then)
            await built(memory)

    live(body)


def test_closing_does_not_wait_for_a_table(store, run, monkeypatch):
    """Nor does it fail under one that is being made; the store can be opened again."""
    monkeypatch.setattr(building, "VERSIONS_A_STEP", 2)

    async def body():
        for _ in range(4):
            async with MemorySystem.open(store) as memory:
                await fill(memory)
                await memory.search_similar("a", QUERIES[0], where={"order.side": "buy"})
                assert any(one.building for one in memory._filters._partitions.values())

    run(body())


def test_views_stay_open_under_a_reader_on_another_thread(tmp_path):
    """Whoever closes them; afterwards there is nothing to read."""
    cold = ColdTier(tmp_path, max_map_bytes=1 << 20)
    batch = cold.begin()
    batch.put(b"meta", b"k", b"v")
    cold.commit(batch)
    with cold.reading() as snapshot:
        cold.close()
        assert snapshot.get(b"meta", b"k") == b"v"
    with pytest.raises(ClosedError), cold.reading():
        pass


def test_a_table_that_lacks_rows_lets_them_pass():
    """What is not known yet is read, not left out: by tags, by fields and by both."""
    tags, column = TagRows(), FieldColumn()
    for n in range(4):
        tags.append(tags_of(n))
        column.append(n)
    where = parse_where({"op": "gt", "field": "n", "value": 1})
    rows = {"tagged": tags.rows_with(["even"]), "tagged_rows": 4}
    for given, expected in (
        (rows | {"columns": {}}, [0, 2, 4, 5, 6]),
        ({"tagged": None, "tagged_rows": 0, "columns": {("n",): column.view}}, [2, 3, 4, 5, 6]),
        (rows | {"columns": {("n",): column.view}}, [2, 4, 5, 6]),
        (rows | {"rows": 4, "columns": {("n",): column.view}}, [2]),
    ):
        part = Part(**({"partition": 9, "rows": 7, "by": (), "is_whole": False} | given))
        masks = Sieve([part], where).masks()
        assert masks is not None
        assert list(masks) == [9]
        assert np.flatnonzero(masks[9]).tolist() == expected


def test_nothing_known_is_no_mask():
    """A search that may return anything is not narrowed; one agent's tables say nothing of another's."""
    nothing = Part(1, 5, None, 0, {}, (), is_whole=False)
    assert Sieve([nothing], None).masks() is None
    tags = TagRows(2)
    tags.set_at(0, ())
    tagged = Part(2, 2, tags.rows_with(["x"]), 2, {}, (), is_whole=True)
    masks = Sieve([nothing, tagged], None).masks()
    assert masks is not None
    assert {number: mask.tolist() for number, mask in masks.items()} == {
        1: [True] * 5,
        2: [False, True],
    }


@pytest.mark.parametrize("value", [None, b"", b"damaged", encode({"n": 1})[:-1] + b"x"])
def test_a_value_that_cannot_be_decoded_is_not_known(value):
    """It is for whoever reads it to find out, and to say."""
    assert building.data_of(value) is building.NOT_KNOWN
    assert building.data_of(encode({"n": 1})) == {"n": 1}


# --- explained --------------------------------------------------------------------------------


def small_graphs(monkeypatch):
    """Partitions of 100 rows are searched through a graph."""
    tuning = Tuning(scan_values=100 * DIM, batch=64)
    monkeypatch.setattr(engine, "VectorTier", functools.partial(VectorTier, tuning=tuning))


async def indexed(memory):
    """Wait until every row is in its graph."""
    assert memory._engine.vectors.wait_indexed(10)


def test_an_explanation_says_how_each_agent_was_searched(live, monkeypatch):
    """Scan or graph, rows and how many pass; with the hits of `search_similar`."""
    small_graphs(monkeypatch)
    # Of a graph so small all codes would be compared.
    monkeypatch.setattr("nt_memory.tiers.vectors.probe._NEXT_NS", 1e6)

    async def body(memory):
        await fill(memory, "a", count=1000)
        await fill(memory, "b", count=20)
        await indexed(memory)
        both = ["b", "nobody", "a"]
        for options in ({}, {"tags": ["even"]}, {"exact": True}, {"where": {"n": 3}}):
            await memory.search_similar(both, QUERIES[0], **options)
            await built(memory)
            found = await memory.explain_similar(both, QUERIES[0], **options)
            assert found.hits == await memory.search_similar(both, QUERIES[0], **options)
            steps = {step.agent: step for step in found.steps}
            assert {name: step.rows for name, step in steps.items()} == {"a": 1000, "b": 20}
            assert steps["b"].how == "scan"
            passing = {"tags": (500, 10), "where": (1, 1)}.get(next(iter(options), ""), (1000, 20))
            assert (steps["a"].passing, steps["b"].passing) == passing
            if options.get("exact"):
                assert steps["a"].how == "scan"
            elif not options:
                assert steps["a"].how == "graph"
                assert steps["a"].width > 0
            else:
                assert steps["a"].how != "scan"
            assert (found.rounds, found.reads) == (1, len(found.hits))

    live(body)


def test_a_view_explains_and_searches_many_too(live, clock):
    """As of its moment."""

    async def body(memory):
        await fill(memory, count=50)
        view = memory.at(clock.now())
        clock.advance(1)
        await fill(memory, first=50, count=50)
        found = await view.explain_similar("a", QUERIES[0], where={"n": 60})
        assert (found.hits, found.steps[0].rows) == ([], 100)
        many = await view.search_many("a", QUERIES, 3)
        assert many == [await view.search_similar("a", query, 3) for query in QUERIES]

    live(body)


# --- many at once -----------------------------------------------------------------------------


@pytest.mark.parametrize("elements", [0, 1 << 24])
def test_searching_many_finds_what_single_searches_find(live, monkeypatch, elements):
    """For every query, with every kind of filter, one agent or several, on one thread or two."""
    monkeypatch.setattr(searching, "OFF_LOOP_ELEMENTS", elements)
    monkeypatch.setattr(searching, "TWO_THREADS_ELEMENTS", elements)
    monkeypatch.setattr(searching, "TWO_SCANS_ELEMENTS", elements)
    monkeypatch.setattr(searching, "QUICK_NS", -1)
    monkeypatch.setattr(searching, "ALONE_NS", -1)

    async def body(memory):
        for agent in ("a", "b", "c"):
            await fill(memory, agent)
        revision = memory.revision
        await fill(memory, "a", first=ROWS, count=50)
        for agents in ("a", ["c", "a", "b", "a", "nobody"]):
            for options in ({}, {"as_of": revision}, *(options for options, _ in FILTERS)):
                for exact in (False, True):
                    with monkeypatch.context() as patched:
                        patched.setattr(searching, "OFF_LOOP_ELEMENTS", 1 << 24)
                        single = [
                            await memory.search_similar(agents, query, 7, exact=exact, **options)
                            for query in QUERIES
                        ]
                    many = await memory.search_many(agents, QUERIES, 7, exact=exact, **options)
                    assert many == single
                    for query, hits in zip(QUERIES, single, strict=True):
                        found = memory.search_similar(agents, query, 7, exact=exact, **options)
                        assert await found == hits
            await built(memory)

    live(body)


def test_a_scan_that_takes_a_second_thread_by_itself_is_one_search(live, monkeypatch):
    """Of four partitions that are compared against one heap, halves are not searched apart; of three they are."""
    for name, value in (
        ("OFF_LOOP_ELEMENTS", 0),
        ("TWO_SCANS_ELEMENTS", 0),
        ("QUICK_NS", -1),
        ("ALONE_NS", -1),
    ):
        monkeypatch.setattr(searching, name, value)
    monkeypatch.setattr(packed, "MIN_ROWS", 1)
    monkeypatch.setattr(packed, "WORTH_HELP_ROWS", 1)

    async def body(memory):
        for agent in ("a", "b", "c", "d"):
            await fill(memory, agent)
        vectors, asked = memory._engine.vectors, []
        search = vectors.search
        monkeypatch.setattr(
            vectors,
            "search",
            lambda some, *more, **how: asked.append(some) or search(some, *more, **how),
        )
        for agents, searches in ((["a", "b", "c", "d"], 1), (["a", "b", "c"], 2)):
            asked.clear()
            found = await memory.search_similar(agents, QUERIES[0], 7)
            assert len(asked) == searches
            alone = [await memory.search_similar(agent, QUERIES[0], 7) for agent in agents]
            best = sorted((hit.score for hits in alone for hit in hits), reverse=True)
            assert [hit.score for hit in found] == best[:7]

    live(body)


def test_searching_many_of_nothing(live):
    """No queries, no lists; no observations, empty lists."""

    async def body(memory):
        assert await memory.search_many("a", np.empty((0, DIM))) == []
        assert await memory.search_many("a", QUERIES) == [[] for _ in QUERIES]
        await fill(memory, count=3)
        assert await memory.search_many("a", np.empty((0, DIM))) == []

    live(body)


@pytest.mark.parametrize(
    ("queries", "error"),
    [
        (np.ones(DIM), EmbeddingError),
        (np.ones((2, DIM + 1)), DimensionError),
        (np.array([np.ones(DIM), np.full(DIM, np.nan)]), EmbeddingError),
        (np.zeros((1, DIM)), EmbeddingError),
        ([[]], EmbeddingError),
        ([], EmbeddingError),
    ],
)
def test_bad_queries_are_refused_as_a_whole(live, queries, error):
    """One that cannot be compared fails all, whatever its place."""

    async def body(memory):
        await fill(memory, count=3)
        with pytest.raises(error):
            await memory.search_many("a", queries)

    live(body)


def test_two_halves_are_merged_as_one_search_would_rank_them():
    """Best first, exact ties with the last included, ties by partition and row."""
    random = np.random.default_rng(5)
    for _ in range(50):
        count, k = int(random.integers(0, 40)), int(random.integers(1, 12))
        score = random.integers(0, 12, count) / 12
        partition = random.integers(0, 4, count)
        row = np.arange(count)
        flags = random.random(count) < 0.5

        def best(keep, score=score, partition=partition, row=row, flags=flags, k=k):
            order = np.lexsort((row[keep], partition[keep], -score[keep]))
            order = np.flatnonzero(keep)[order]
            if len(order) > k:
                order = order[score[order] >= score[order[k - 1]]]
            return Candidates(partition[order], row[order], score[order], flags[order])

        halves = [best(partition < 2), best(partition >= 2)]
        whole = best(np.ones(count, bool))
        for found, wanted in zip(searching.merged(halves, k), whole, strict=True):
            assert found.tolist() == wanted.tolist()
