"""The similarity API, one promise a test: observe, observe_many, search_similar."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest

from nt_memory import AsOf, Hit
from nt_memory.errors import (
    DimensionError,
    EmbeddingError,
    InvalidInputError,
    InvalidTimeError,
    StaleFenceError,
    TrimmedError,
)

DIM = 8


def unit(*values):
    """A vector of DIM numbers that starts with `values`."""
    return [*values, *([0.0] * (DIM - len(values)))]


def keys(hits):
    """Their keys, in order."""
    return [hit.key for hit in hits]


def vectors(count, seed=7):
    """`count` random vectors, shape (count, DIM)."""
    return np.random.default_rng(seed).normal(size=(count, DIM))


# --- observe ----------------------------------------------------------------------------------


def test_observe_returns_a_key_and_is_searchable_at_once(live):
    """The very next search finds it."""

    async def body(memory):
        for row in vectors(20):
            key = await memory.observe("a", row)
            assert isinstance(key, str)
            assert keys(await memory.search_similar("a", row, top_k=1)) == [key]

    live(body)


def test_generated_keys_are_distinct(live):
    """Observing the same thing twice is two observations."""

    async def body(memory):
        first = await memory.observe("a", unit(1), "x")
        second = await memory.observe("a", unit(1), "x")
        assert first != second
        assert set(keys(await memory.search_similar("a", unit(1)))) == {first, second}

    live(body)


def test_observe_under_a_given_key(live):
    """`key` names it; the same key again replaces data and embedding."""

    async def body(memory):
        assert await memory.observe("a", unit(1), "old", key="obs/1") == "obs/1"
        assert await memory.observe("a", unit(0, 1), "new", key="obs/1") == "obs/1"
        hits = await memory.search_similar("a", unit(0, 1))
        assert [(hit.key, hit.data) for hit in hits] == [("obs/1", "new")]
        assert hits[0].score == pytest.approx(1.0, abs=1e-3)

    live(body)


def test_an_observation_is_a_key_like_any_other(live):
    """`get` reads its data, `get_record` its times, `delete` removes it from search too."""

    async def body(memory):
        key = await memory.observe("a", unit(1), {"symbol": "AAPL"})
        assert await memory.get("a", key) == {"symbol": "AAPL"}
        assert (await memory.get_record("a", key)).value == {"symbol": "AAPL"}
        await memory.delete("a", key)
        assert await memory.search_similar("a", unit(1)) == []

    live(body)


def test_a_put_over_an_observation_takes_it_out_of_search(live):
    """What is current has no embedding any more, so it is not similar to anything."""

    async def body(memory):
        key = await memory.observe("a", unit(1), "seen")
        await memory.put("a", key, "plain")
        assert await memory.search_similar("a", unit(1)) == []
        assert await memory.get("a", key) == "plain"

    live(body)


def test_observe_data_defaults_to_none(live):
    """An embedding alone is an observation."""

    async def body(memory):
        key = await memory.observe("a", unit(1))
        (hit,) = await memory.search_similar("a", unit(1))
        assert (hit.key, hit.data) == (key, None)

    live(body)


@pytest.mark.parametrize("kind", ["list", "tuple", "float64", "float32", "float16", "int"])
def test_observe_takes_any_array_of_numbers(live, kind):
    """Lists, tuples and arrays of any numeric type; never modified."""
    source = unit(3, 4)
    embedding = {
        "list": source,
        "tuple": tuple(source),
        "float64": np.array(source),
        "float32": np.array(source, dtype=np.float32),
        "float16": np.array(source, dtype=np.float16),
        "int": np.array(source, dtype=np.int64),
    }[kind]

    async def body(memory):
        await memory.observe("a", embedding)
        (hit,) = await memory.search_similar("a", embedding)
        assert hit.score == pytest.approx(1.0, abs=1e-3)
        assert list(embedding) == source

    live(body)


def test_observe_with_ttl(live, clock):
    """After its ttl an observation is found no more, at that very instant."""

    async def body(memory):
        await memory.observe("a", unit(1), ttl=10)
        clock.advance(9.999999)
        assert len(await memory.search_similar("a", unit(1))) == 1
        clock.advance(0.000001)
        assert await memory.search_similar("a", unit(1)) == []

    live(body)


def test_observe_known_at_and_future(live, later):
    """`known_at` dates it; the future and naive times are refused."""

    async def body(memory):
        await memory.observe("a", unit(1), known_at=later(-60))
        (hit,) = await memory.search_similar("a", unit(1))
        assert hit.known_at == later(-60)
        with pytest.raises(InvalidTimeError):
            await memory.observe("a", unit(1), known_at=later(1))
        with pytest.raises(InvalidTimeError):
            await memory.observe("a", unit(1), known_at=datetime(2024, 1, 1))  # noqa: DTZ001
        assert len(await memory.search_similar("a", unit(1))) == 1

    live(body)


def test_a_repeated_observe_request_acts_once(live):
    """The same `request_id` gives one observation."""

    async def body(memory):
        await memory.observe("a", unit(1), 1, key="k", request_id="o-1")
        await memory.delete("a", "k")
        await memory.observe("a", unit(1), 1, key="k", request_id="o-1")
        assert await memory.search_similar("a", unit(1)) == []

    live(body)


def test_a_repeated_observe_request_returns_the_first_key(live):
    """Also when the key was generated: the caller gets the key that exists."""

    async def body(memory):
        first = await memory.observe("a", unit(1), 1, request_id="o-1")
        assert await memory.observe("a", unit(1), 1, request_id="o-1") == first
        assert keys(await memory.search_similar("a", unit(1))) == [first]

    live(body)


def test_observe_is_fenced(live):
    """A stale fence is refused and nothing becomes searchable."""

    async def body(memory):
        token = await memory.acquire_lock("book")
        await memory.observe("a", unit(1), fence=token)
        await memory.release_lock(token)
        with pytest.raises(StaleFenceError):
            await memory.observe("a", unit(1), fence=token)
        assert len(await memory.search_similar("a", unit(1))) == 1

    live(body)


def test_a_dimension_belongs_to_an_agent(live):
    """The first observation of an agent fixes it; others may use another."""

    async def body(memory):
        await memory.observe("a", [1.0, 0.0])
        await memory.observe("b", [1.0, 0.0, 0.0])
        with pytest.raises(DimensionError) as caught:
            await memory.observe("a", [1.0, 0.0, 0.0])
        assert (caught.value.expected, caught.value.got) == (2, 3)
        with pytest.raises(DimensionError):
            await memory.search_similar("a", [1.0, 0.0, 0.0])

    live(body)


def test_observations_survive_reopening(live):
    """Searches answer the same after close and open."""
    rows = vectors(200)

    async def write(memory):
        await memory.observe_many("a", rows, list(range(200)), keys=[f"k{n}" for n in range(200)])
        return await memory.search_similar("a", rows[3], top_k=5)

    async def read(memory):
        return await memory.search_similar("a", rows[3], top_k=5)

    assert live(write) == live(read)


# --- observe_many -----------------------------------------------------------------------------


def test_observe_many_returns_keys_in_order(live):
    """One key a row, and each row is found by its own embedding."""
    rows = vectors(50)

    async def body(memory):
        names = await memory.observe_many("a", rows, [{"n": n} for n in range(50)])
        assert len(set(names)) == 50
        for n in (0, 17, 49):
            (hit,) = await memory.search_similar("a", rows[n], top_k=1)
            assert (hit.key, hit.data) == (names[n], {"n": n})

    live(body)


def test_observe_many_takes_keys_tags_and_times(live, later):
    """Each row its own."""
    rows = vectors(3)

    async def body(memory):
        names = await memory.observe_many(
            "a",
            rows,
            ["x", "y", "z"],
            keys=["k0", "k1", "k2"],
            tags=[("up",), (), ("up", "down")],
            known_at=[later(-3), later(-2), later(-1)],
        )
        assert names == ["k0", "k1", "k2"]
        hits = await memory.search_similar("a", rows[0], tags=["up"])
        assert set(keys(hits)) == {"k0", "k2"}
        hits = await memory.search_similar("a", rows[0], as_of=later(-2))
        assert set(keys(hits)) == {"k0", "k1"}

    live(body)


def test_observe_many_takes_one_time_for_all(live, later):
    """A single `known_at` dates every row."""

    async def body(memory):
        await memory.observe_many("a", vectors(4), known_at=later(-9))
        hits = await memory.search_similar("a", unit(1))
        assert {hit.known_at for hit in hits} == {later(-9)}
        assert len(hits) == 4

    live(body)


def test_observe_many_of_nothing(live):
    """Zero rows are no error and no entry."""

    async def body(memory):
        before = memory.revision
        assert await memory.observe_many("a", np.empty((0, DIM))) == []
        assert memory.revision == before

    live(body)


def test_observe_many_refuses_uneven_lengths(live):
    """Data, keys, tags and times must match the rows; nothing is written."""

    async def body(memory):
        before = memory.revision
        for extra in ({"data": [1]}, {"keys": ["a", "b"]}, {"tags": [()]}):
            with pytest.raises(InvalidInputError):
                await memory.observe_many("a", vectors(3), **extra)
        assert memory.revision == before

    live(body)


def test_one_bad_row_refuses_all(live):
    """A NaN in the last row leaves nothing of the first."""
    rows = vectors(3)
    rows[2, 1] = np.nan

    async def body(memory):
        before = memory.revision
        with pytest.raises(EmbeddingError):
            await memory.observe_many("a", rows)
        assert memory.revision == before
        assert await memory.search_similar("a", unit(1)) == []

    live(body)


# --- search_similar ---------------------------------------------------------------------------


def test_hits_are_best_first_with_cosine_scores(live):
    """Score is the cosine similarity in [-1, 1], whatever the scale of either vector."""

    async def body(memory):
        await memory.observe("a", unit(5, 0), key="same")
        await memory.observe("a", unit(0, 3), key="across")
        await memory.observe("a", unit(-2, 0), key="opposite")
        await memory.observe("a", unit(1, 1), key="between")
        hits = await memory.search_similar("a", unit(100, 0))
        assert keys(hits) == ["same", "between", "across", "opposite"]
        scores = [hit.score for hit in hits]
        assert scores == pytest.approx([1, 2**-0.5, 0, -1], abs=1e-3)
        assert all(-1 <= score <= 1 for score in scores)

    live(body)


def test_a_hit_has_key_score_data_time_and_revision(live, later):
    """And they belong together."""

    async def body(memory):
        await memory.observe("a", unit(1), {"x": 1}, key="k", known_at=later(-5))
        (hit,) = await memory.search_similar("a", unit(1))
        record = await memory.get_record("a", "k")
        assert isinstance(hit, Hit)
        assert (hit.key, hit.data) == ("k", {"x": 1})
        assert (hit.known_at, hit.revision) == (record.known_at, record.revision)

    live(body)


def test_ties_are_ordered_by_key(live):
    """Equal scores: ascending key, also at the cut of top_k."""

    async def body(memory):
        for key in ("d", "b", "e", "a", "c"):
            await memory.observe("a", unit(1), key=key)
        assert keys(await memory.search_similar("a", unit(1))) == ["a", "b", "c", "d", "e"]
        assert keys(await memory.search_similar("a", unit(1), top_k=2)) == ["a", "b"]

    live(body)


def test_top_k_bounds_the_hits(live):
    """Ten by default; fewer only if fewer are there."""
    rows = vectors(30)

    async def body(memory):
        await memory.observe_many("a", rows)
        assert len(await memory.search_similar("a", rows[0])) == 10
        assert len(await memory.search_similar("a", rows[0], 3)) == 3
        assert len(await memory.search_similar("a", rows[0], top_k=100)) == 30

    live(body)


@pytest.mark.parametrize("top_k", [0, -1, 1.5, "3"])
def test_a_bad_top_k_is_refused(live, top_k):
    """At least one hit must be wanted."""

    async def body(memory):
        await memory.observe("a", unit(1))
        with pytest.raises(InvalidInputError):
            await memory.search_similar("a", unit(1), top_k=top_k)

    live(body)


def test_search_of_an_agent_without_observations_is_empty(live):
    """No error, no hits."""

    async def body(memory):
        assert await memory.search_similar("nobody", unit(1)) == []
        await memory.put("a", "k", 1)
        assert await memory.search_similar("a", unit(1)) == []

    live(body)


def test_search_over_several_agents_merges(live):
    """A list of agents is searched as one; hits say whose they are by their data and key."""

    async def body(memory):
        await memory.observe("a", unit(1, 0.1), "from a", key="a1")
        await memory.observe("b", unit(1, 0.2), "from b", key="b1")
        await memory.observe("c", unit(1, 0.0), "from c", key="c1")
        hits = await memory.search_similar(["a", "b"], unit(1))
        assert [hit.data for hit in hits] == ["from a", "from b"]
        hits = await memory.search_similar(["c", "b", "a", "nobody"], unit(1), top_k=2)
        assert [hit.data for hit in hits] == ["from c", "from a"]
        assert [hit.agent for hit in hits] == ["c", "a"]

    live(body)


def test_search_agrees_with_numpy(live):
    """The ten best of 300, as an exact scan of the float16 rows ranks them."""
    rows = vectors(300)
    halves = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    stored = halves.astype(np.float64)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    queries = vectors(20, seed=8)

    async def body(memory):
        names = await memory.observe_many("a", rows)
        for query in queries:
            scores = stored @ (query / np.linalg.norm(query))
            best = [names[row] for row in np.argsort(-scores)[:10]]
            assert keys(await memory.search_similar("a", query)) == best
            assert keys(await memory.search_similar("a", query, exact=True)) == best

    live(body)


def test_search_as_of_a_time(live, clock):
    """What was observed, replaced, deleted or expired by then, and nothing later."""

    async def body(memory):
        await memory.observe("a", unit(1), "v1", key="replaced")
        await memory.observe("a", unit(1), "v1", key="deleted")
        await memory.observe("a", unit(1), "v1", key="expired", ttl=5)
        revision = memory.revision
        then = clock.now()
        clock.advance(10)
        await memory.observe("a", unit(0, 1), "v2", key="replaced")
        await memory.delete("a", "deleted")
        await memory.observe("a", unit(1), "v1", key="later")
        for as_of in (then, revision, AsOf(then, revision)):
            hits = await memory.search_similar("a", unit(1), as_of=as_of)
            assert keys(hits) == ["deleted", "expired", "replaced"]
            assert {hit.data for hit in hits} == {"v1"}
        hits = await memory.search_similar("a", unit(1))
        assert keys(hits) == ["later", "replaced"]

    live(body)


def test_search_as_of_a_revision_leaves_out_late_rows(live, later):
    """An observation dated back but recorded later is not in the state of an earlier revision."""

    async def body(memory):
        await memory.observe("a", unit(1), key="first", known_at=later(-10))
        revision = memory.revision
        await memory.observe("a", unit(1), key="late", known_at=later(-60))
        as_of = later(-5)
        assert keys(await memory.search_similar("a", unit(1), as_of=as_of)) == ["first", "late"]
        both = AsOf(as_of, revision)
        assert keys(await memory.search_similar("a", unit(1), as_of=both)) == ["first"]
        assert keys(await memory.search_similar("a", unit(1), as_of=revision)) == ["first"]

    live(body)


def test_a_late_observation_under_a_used_key_is_history(live, clock, later):
    """The present keeps the newer version; as of then the late one is found."""

    async def body(memory):
        await memory.observe("a", unit(1), "present", key="k", known_at=later(-10))
        await memory.observe("a", unit(0, 1), "late", key="k", known_at=later(-60))
        (hit,) = await memory.search_similar("a", unit(0, 1))
        assert hit.data == "present"
        (hit,) = await memory.search_similar("a", unit(0, 1), as_of=later(-30))
        assert hit.data == "late"

    live(body)


def test_search_by_tag(live):
    """Only observations that carry the tag; all of several tags."""

    async def body(memory):
        await memory.observe("a", unit(1), key="both", tags=("tech", "us"))
        await memory.observe("a", unit(1), key="one", tags=["tech"])
        await memory.observe("a", unit(1), key="none")
        assert keys(await memory.search_similar("a", unit(1), tags=["tech"])) == ["both", "one"]
        assert keys(await memory.search_similar("a", unit(1), tags=["tech", "us"])) == ["both"]
        assert await memory.search_similar("a", unit(1), tags=["unknown"]) == []
        assert len(await memory.search_similar("a", unit(1), tags=None)) == 3

    live(body)


def test_a_tag_observed_after_a_tag_search_is_found(live):
    """Filters keep up with new rows."""

    async def body(memory):
        await memory.observe("a", unit(1), key="k1", tags=("t",))
        assert keys(await memory.search_similar("a", unit(1), tags=["t"])) == ["k1"]
        await memory.observe("a", unit(1), key="k2", tags=("t",))
        await memory.observe("a", unit(1), key="k3", tags=("u",))
        assert keys(await memory.search_similar("a", unit(1), tags=["t"])) == ["k1", "k2"]

    live(body)


def test_one_string_is_not_a_collection_of_tags(live):
    """`tags="tech"` would mean four tags; it is refused."""

    async def body(memory):
        with pytest.raises(InvalidInputError):
            await memory.observe("a", unit(1), tags="tech")
        with pytest.raises(InvalidInputError):
            await memory.search_similar("a", unit(1), tags="tech")

    live(body)


WHERE_CASES = [
    ({"symbol": "AAPL"}, {"k0", "k2"}),
    ({"symbol": "AAPL", "side": "buy"}, {"k0"}),
    ({"symbol": "none"}, set()),
    ({}, {"k0", "k1", "k2", "k3"}),
    ({"op": "eq", "field": "symbol", "value": "MSFT"}, {"k1"}),
    ({"op": "ne", "field": "symbol", "value": "AAPL"}, {"k1", "k3"}),
    ({"op": "gt", "field": "qty", "value": 10}, {"k1", "k2"}),
    ({"op": "gte", "field": "qty", "value": 10}, {"k0", "k1", "k2"}),
    ({"op": "lt", "field": "qty", "value": 20}, {"k0"}),
    ({"op": "lte", "field": "qty", "value": 20}, {"k0", "k1"}),
    ({"op": "in", "field": "symbol", "values": ["MSFT", "X"]}, {"k1"}),
    ({"op": "eq", "field": "venue.name", "value": "N"}, {"k1"}),
    (
        {
            "op": "and",
            "filters": [
                {"op": "eq", "field": "symbol", "value": "AAPL"},
                {"op": "gt", "field": "qty", "value": 15},
            ],
        },
        {"k2"},
    ),
    (
        {
            "op": "or",
            "filters": [
                {"op": "eq", "field": "symbol", "value": "MSFT"},
                {"op": "eq", "field": "side", "value": "buy"},
            ],
        },
        {"k0", "k1"},
    ),
]


@pytest.mark.parametrize(("where", "expected"), WHERE_CASES)
def test_search_where(live, where, expected):
    """Plain equality, and the filter form of section 9 with dotted fields."""

    async def body(memory):
        await memory.observe("a", unit(1), {"symbol": "AAPL", "side": "buy", "qty": 10}, key="k0")
        await memory.observe(
            "a", unit(1), {"symbol": "MSFT", "qty": 20, "venue": {"name": "N"}}, key="k1"
        )
        await memory.observe("a", unit(1), {"symbol": "AAPL", "side": "sell", "qty": 30}, key="k2")
        await memory.observe("a", unit(1), "not a dict", key="k3")
        hits = await memory.search_similar("a", unit(1), where=where)
        assert set(keys(hits)) == expected

    live(body)


@pytest.mark.parametrize(
    "where",
    [
        "symbol == 'AAPL'",
        ["symbol"],
        {"op": "exec", "field": "x", "value": 1},
        {"op": "in", "field": "x", "values": "abc"},
        {"op": "and", "filters": {"op": "eq"}},
        {"op": "eq", "field": "x"},
        lambda data: True,
    ],
)
def test_where_is_data_never_code(live, where):
    """A string, a function or a malformed filter is refused."""

    async def body(memory):
        await memory.observe("a", unit(1), {"symbol": "AAPL"})
        with pytest.raises(InvalidInputError):
            await memory.search_similar("a", unit(1), where=where)

    live(body)


def test_filters_combine(live, later):
    """Tags, where and as-of together: what passes all of them."""

    async def body(memory):
        for n in range(40):
            await memory.observe(
                "a",
                unit(1, n / 100),
                {"n": n % 4},
                key=f"k{n:02}",
                tags=("even",) if n % 2 == 0 else (),
                known_at=later(n - 40),
            )
        hits = await memory.search_similar(
            "a", unit(1), top_k=40, tags=["even"], where={"n": 2}, as_of=later(-20)
        )
        assert keys(hits) == [f"k{n:02}" for n in range(21) if n % 4 == 2]

    live(body)


def test_search_results_are_read_only(live):
    """A hit's data is as read-only as what `get` returns."""

    async def body(memory):
        await memory.observe("a", unit(1), {"x": [1]})
        (hit,) = await memory.search_similar("a", unit(1))
        with pytest.raises(TypeError):
            hit.data["x"].append(2)

    live(body)


def test_searching_changes_nothing(live):
    """The query is not modified and no entry is written."""
    query = np.array(unit(3, 4))

    async def body(memory):
        await memory.observe("a", unit(1))
        before = memory.revision
        await memory.search_similar("a", query)
        assert memory.revision == before
        assert query.tolist() == unit(3, 4)

    live(body)


def test_tags_do_not_hide_that_something_was_dropped(live, clock):
    """As of a moment that needs what retention dropped, a search by tags is refused like any other."""

    async def body(memory):
        await memory.set_retention(None, max_age=10.0)
        then = clock.now()
        await memory.observe("a", [1.0, 0.0], 1, key="k", tags=["x"])
        await memory.observe("a", [0.0, 1.0], 1, key="other", tags=["x"])
        clock.advance(60)
        await memory.observe("a", [1.0, 0.0], 2, key="k", tags=["x"])
        clock.advance(60)
        await memory.compact()
        (first, second) = await memory.search_similar("a", [1.0, 0.0], tags=["x"])
        assert (first.data, second.data) == (2, 1)
        for tags in (None, ["x"], ["nobody's"]):
            with pytest.raises(TrimmedError):
                await memory.search_similar("a", [1.0, 0.0], tags=tags, as_of=then)

    live(body)
