"""LangGraph's store contract, run on its own `InMemoryStore` and on ours: what holds there holds here.

LangGraph publishes a conformance suite for checkpointers, none for stores. So every test of the first
part runs against both, and a property test (`tests/property/test_langgraph_store.py`) compares them on
random batches. The second part is what only a memory can do.
"""

from __future__ import annotations

import asyncio
import operator
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import (
    BaseStore,
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore

from nt_memory import MemoryConfig, MemorySystem, Policy
from nt_memory.embedders import HashingTextEmbedder
from nt_memory.errors import (
    DimensionError,
    InvalidInputError,
    PermissionDeniedError,
    WrongLoopError,
)
from nt_memory.integrations.langgraph import NtMemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

EMBEDDER = HashingTextEmbedder(256)


def vectors(texts: list[str]) -> list[list[float]]:
    return EMBEDDER.embed(texts).tolist()


INDEX: Any = {"dims": 256, "embed": vectors, "fields": ["text"]}


@pytest.fixture(params=["InMemoryStore", "NtMemoryStore"])
def make(request: pytest.FixtureRequest, store: Path) -> Iterator[Callable[..., BaseStore]]:
    """`make(index=…)`: a store of either kind, empty."""
    if request.param == "InMemoryStore":
        yield InMemoryStore
        return
    with MemorySystem.open_sync(store) as memory:
        yield lambda **options: NtMemoryStore(memory, **options)


# --- what both promise ------------------------------------------------------------------------


def test_items_are_put_got_and_deleted(make: Any) -> None:
    """An item comes back as it was put, until it is replaced or deleted; namespaces are apart."""
    items = make()
    items.put(("users", "7"), "prefs", {"theme": "dark", "n": [1, {"x": None}]})
    items.put(("users",), "prefs", {"theme": "light"})
    found = items.get(("users", "7"), "prefs")
    assert found.value == {"theme": "dark", "n": [1, {"x": None}]}
    assert (found.namespace, found.key) == (("users", "7"), "prefs")
    assert found.created_at <= found.updated_at
    assert found.created_at.tzinfo is not None
    items.put(("users", "7"), "prefs", {"theme": "blue"})
    assert items.get(("users", "7"), "prefs").value == {"theme": "blue"}
    items.delete(("users", "7"), "prefs")
    items.delete(("users", "7"), "never was")
    assert items.get(("users", "7"), "prefs") is None
    assert items.get(("users",), "prefs").value == {"theme": "light"}


@pytest.mark.parametrize("namespace", [(), ("",), ("a.b",), ("langgraph", "x"), (1,)])
def test_malformed_namespaces_are_refused(make: Any, namespace: Any) -> None:
    """As LangGraph words it, before anything is written."""
    with pytest.raises(InvalidNamespaceError):
        make().put(namespace, "k", {"a": 1})


def test_names_may_hold_anything(make: Any) -> None:
    """Slashes, spaces, percent signs, line ends, other scripts: no two names are ever mixed up."""
    items = make()
    labels = ["a", "a/b", "a=b", "=a", "a%2Fb", "%", ">", "日本", "a b", "a\nb", "-", "A"]
    names = [((first,), second) for first in labels for second in [*labels, "", "..", "."]]
    names += [(("a", label), "b") for label in labels]
    for number, (namespace, key) in enumerate(names):
        items.put(namespace, key, {"n": number})
    for number, (namespace, key) in enumerate(names):
        assert items.get(namespace, key).value == {"n": number}, (namespace, key)
    assert items.list_namespaces(limit=1_000) == sorted({namespace for namespace, _ in names})
    for label in labels:
        found = items.search((label,), limit=1_000)
        wanted = {n for n, (namespace, _) in enumerate(names) if namespace[:1] == (label,)}
        assert {item.value["n"] for item in found} == wanted, label


def test_searching_filters_and_pages(make: Any) -> None:
    """By exact values, operators and nested fields, below a namespace, a page at a time."""
    items = make()
    for number in range(12):
        value = {"n": number, "kind": "even" if number % 2 == 0 else "odd"}
        value |= {"deep": {"n": number}, "tags": [number, "x"]} if number else {}
        items.put(("docs", f"s{number % 3}"), f"k{number}", value)
    items.put(("other",), "k", {"n": 3})

    def found(prefix: Any = ("docs",), **options: Any) -> list[int]:
        return sorted(item.value["n"] for item in items.search(prefix, limit=100, **options))

    assert found() == list(range(12))
    assert found(("docs", "s1")) == [1, 4, 7, 10]
    assert found(()) == [0, 1, 2, 3, 3, *range(4, 12)]
    assert found(("doc",)) == []
    assert found(filter={"kind": "even"}) == [0, 2, 4, 6, 8, 10]
    assert found(filter={"n": {"$gte": 3, "$lt": 5}}) == [3, 4]
    assert found(filter={"n": {"$gt": 9}, "kind": {"$ne": "odd"}}) == [10]
    assert found(filter={"n": {"$lte": "2"}}) == [0, 1, 2]
    assert found(filter={"n": {"$eq": 5}}) == [5]
    assert found(filter={"deep": {"n": 4}}) == [4]
    assert found(filter={"deep": {"n": {"$gt": 10}}} if False else {"tags": [7, "x"]}) == [7]
    assert found(filter={"missing": None}) == list(range(12))
    assert found(filter={"missing": 1}) == []
    with pytest.raises(ValueError, match="like"):
        found(filter={"n": {"$like": 1}})
    pages = [items.search(("docs",), limit=5, offset=offset) for offset in (0, 5, 10, 15)]
    assert [len(page) for page in pages] == [5, 5, 2, 0]
    assert sorted(item.value["n"] for page in pages for item in page) == list(range(12))
    assert items.search(("docs",), limit=0) == []
    assert len(items.search(("docs",))) == 10


def test_queries_rank_by_meaning(make: Any) -> None:
    """The most alike comes first, with its score; below a namespace, filtered, paged."""
    items = make(index=INDEX)
    said = {
        "oil": "an oil field burned and oil rose",
        "banks": "banks fell as rates rose",
        "gold": "gold slid as the dollar rose",
    }
    for key, text in said.items():
        items.put(("news", "today"), key, {"text": text, "n": len(text)})
    items.put(("news", "old"), "banks", {"text": "banks fell as rates rose again", "n": 0})
    found = items.search(("news", "today"), query="rates rose and banks fell", limit=3)
    assert found[0].key == "banks"
    scores = [item.score for item in found]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(
        float(operator.matmul(*EMBEDDER.embed(["rates rose and banks fell", said["banks"]]))),
        abs=2e-3,
    )
    assert {item.namespace for item in items.search(("news",), query="banks fell")} == {
        ("news", "today"),
        ("news", "old"),
    }
    found = items.search(("news",), query="banks", filter={"n": {"$gt": 0}}, limit=1)
    assert found[0].namespace == ("news", "today")
    second = items.search(("news", "today"), query="rates rose and banks fell", limit=2, offset=1)
    assert [item.key for item in second] == [
        item.key for item in items.search(("news", "today"), query="rates rose and banks fell")[1:3]
    ]
    items.put(("news", "today"), "banks", {"text": "nothing of the kind", "n": 1})
    found = items.search(("news", "today"), query="rates rose and banks fell", limit=3)
    assert found[0].key != "banks"
    items.delete(("news", "today"), "oil")
    assert "oil" not in {one.key for one in items.search(("news",), query="oil field burned")}


def test_several_texts_of_an_item_count_by_the_best(make: Any) -> None:
    """One item is found once, by whichever of its texts is most alike."""
    items = make(index={**INDEX, "fields": ["title", "parts[*].text"]})
    items.put(
        ("d",),
        "a",
        {"title": "weather", "parts": [{"text": "storms"}, {"text": "gold coins in a chest"}]},
    )
    items.put(("d",), "b", {"title": "gold", "parts": []})
    items.put(("d",), "c", {"title": "unrelated words", "parts": [{"text": "entirely"}]})
    found = items.search(("d",), query="gold coins in a chest")
    assert [item.key for item in found] == ["a", "b", "c"]
    assert found[0].score == pytest.approx(1.0, abs=2e-3)


def test_items_without_vectors_fill_the_page(make: Any) -> None:
    """What is not indexed has no score and comes last; `index` of a put decides what is."""
    items = make(index=INDEX)
    items.put(("d",), "a", {"text": "gold coins"})
    items.put(("d",), "b", {"text": "gold coins"}, index=False)
    items.put(("d",), "c", {"text": "other", "note": "gold coins and bars"}, index=["note"])
    items.put(("d",), "d", {"note": "no text"})
    found = items.search(("d",), query="gold coins")
    assert [item.key for item in found[:2]] == ["a", "c"]
    assert {item.key for item in found[2:]} == {"b", "d"}
    assert all(item.score is None for item in found[2:])
    assert [item.key for item in items.search(("d",), query="gold coins", limit=2)] == ["a", "c"]


def test_without_an_index_a_query_is_ignored(make: Any) -> None:
    """Items are listed, without scores."""
    items = make()
    items.put(("d",), "a", {"text": "x"})
    (found,) = items.search(("d",), query="y")
    assert found.score is None


def test_namespaces_are_listed_by_conditions(make: Any) -> None:
    """By prefix, suffix, wildcards and depth, sorted, a page at a time."""
    items = make()
    spaces = [
        ("a", "b", "c"),
        ("a", "b", "d", "e"),
        ("a", "b", "d", "i"),
        ("a", "b", "f"),
        ("a", "c", "f"),
        ("b", "a", "f"),
        ("users", "1"),
    ]
    for space in spaces:
        items.put(space, "k", {"x": 1})
        items.put(space, "l", {"x": 1})

    def condition(kind: Any, *path: str) -> MatchCondition:
        return MatchCondition(match_type=kind, path=path)

    assert items.list_namespaces() == sorted(spaces)
    assert items.list_namespaces(prefix=("a", "b"), max_depth=3) == [
        ("a", "b", "c"),
        ("a", "b", "d"),
        ("a", "b", "f"),
    ]
    assert items.list_namespaces(suffix=("f",)) == [
        ("a", "b", "f"),
        ("a", "c", "f"),
        ("b", "a", "f"),
    ]
    assert items.list_namespaces(prefix=("a",), suffix=("f",)) == [("a", "b", "f"), ("a", "c", "f")]
    assert items.list_namespaces(prefix=("*", "b")) == sorted(spaces)[:4]
    assert items.list_namespaces(prefix=("a", "*", "f")) == [("a", "b", "f"), ("a", "c", "f")]
    assert items.list_namespaces(suffix=("d", "*")) == [("a", "b", "d", "e"), ("a", "b", "d", "i")]
    assert items.list_namespaces(max_depth=1) == [("a",), ("b",), ("users",)]
    assert items.list_namespaces(limit=2, offset=3) == sorted(spaces)[3:5]
    assert items.list_namespaces(prefix=("nobody",)) == []
    op = ListNamespacesOp((condition("prefix", "a"), condition("suffix", "i")), None, 10, 0)
    assert items.batch([op]) == [[("a", "b", "d", "i")]]


def test_a_batch_reads_first_and_writes_as_one(make: Any) -> None:
    """Reads see what was there before the batch; of two puts of one item the last counts."""
    items = make()
    items.put(("a",), "k", {"n": 0})
    results = items.batch(
        [
            PutOp(("a",), "k", {"n": 1}),
            GetOp(("a",), "k"),
            PutOp(("a",), "k", {"n": 2}),
            SearchOp(("a",)),
            PutOp(("a",), "l", {"n": 3}),
            PutOp(("a",), "gone", None),
            ListNamespacesOp(),
        ]
    )
    assert [type(result).__name__ for result in results] == [
        *("NoneType", "Item", "NoneType", "list", "NoneType", "NoneType", "list")
    ]
    assert results[1].value == {"n": 0}
    assert [item.value for item in results[3]] == [{"n": 0}]
    assert results[6] == [("a",)]
    assert items.get(("a",), "k").value == {"n": 2}
    assert items.get(("a",), "l").value == {"n": 3}


def test_plain_and_awaited_calls_are_the_same(make: Any, run: Any) -> None:
    """Every call has an asynchronous form with the same results."""
    items = make(index=INDEX)

    async def body() -> None:
        await items.aput(("d",), "a", {"text": "gold"})
        assert (await items.aget(("d",), "a")).value == {"text": "gold"}
        assert (await items.asearch(("d",), query="gold"))[0].score == pytest.approx(1, abs=2e-3)
        assert await items.alist_namespaces() == [("d",)]
        await items.adelete(("d",), "a")
        assert await items.abatch([GetOp(("d",), "a")]) == [None]

    run(body())


def test_many_at_once(make: Any) -> None:
    """A fan-out of threads: every put is there, whole, and the last of one item wins as a whole."""
    items = make(index=INDEX)

    def work(number: int) -> None:
        for step in range(5):
            items.put(("own", str(number)), "k", {"text": f"step {step} of {number}", "n": step})
            items.put(("shared",), "k", {"text": f"by {number}", "who": number, "also": number})
            assert items.get(("own", str(number)), "k").value["n"] == step

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(items.list_namespaces()) == 9
    last = items.get(("shared",), "k").value
    assert last["who"] == last["also"]
    found = items.search(("shared",), query=last["text"])
    assert [item.value for item in found] == [last]
    assert found[0].score == pytest.approx(1.0, abs=2e-3)


# --- in a graph -------------------------------------------------------------------------------


class State(TypedDict):
    """What the nodes of the test's graph hand on."""

    symbols: list[str]
    seen: Annotated[list[str], operator.add]


def _graph(store: BaseStore) -> Any:
    async def note(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        assert runtime.store is not None
        for symbol in state["symbols"]:
            await runtime.store.aput(("notes", symbol), "last", {"text": f"{symbol} fell"})
        return {}

    async def recall(state: State, runtime: Runtime[Any]) -> dict[str, Any]:
        assert runtime.store is not None
        found = await runtime.store.asearch(("notes",), query="what fell?", limit=10)
        return {"seen": sorted(item.namespace[1] for item in found)}

    graph = StateGraph(State)
    graph.add_node("note", note)
    graph.add_node("recall", recall)
    graph.add_edge(START, "note")
    graph.add_edge("note", "recall")
    graph.add_edge("recall", END)
    return graph.compile(store=store)


def test_a_graph_remembers_over_runs_and_restarts(run: Any, store: Path) -> None:
    """LangGraph's own runtime hands the store to nodes; what one run put the next finds, later too."""

    async def once(symbols: list[str]) -> list[str]:
        async with MemorySystem.open(store) as memory:
            graph = _graph(NtMemoryStore(memory, index=INDEX))
            return (await graph.ainvoke({"symbols": symbols, "seen": []}))["seen"]

    assert run(once(["AAPL"])) == ["AAPL"]
    assert run(once(["XOM"])) == ["AAPL", "XOM"]


# --- what only a memory does ------------------------------------------------------------------


@pytest.fixture
def lasting(live: Any) -> Any:
    """`lasting(body, **options)`: run `await body(items, memory)` over a memory with a manual clock."""

    def start(body: Any, **options: Any) -> Any:
        async def main(memory: MemorySystem) -> Any:
            return await body(NtMemoryStore(memory, **options), memory)

        return live(main)

    return start


def test_created_at_stays_while_an_item_does(lasting: Any, clock: Any) -> None:
    """Replacing moves `updated_at` only; after a delete an item begins anew."""

    async def body(items: NtMemoryStore, _: MemorySystem) -> None:
        await items.aput(("a",), "k", {"n": 1})
        first = await items.aget(("a",), "k")
        clock.advance(60)
        await items.aput(("a",), "k", {"n": 2})
        second = await items.aget(("a",), "k")
        assert second.created_at == first.created_at
        assert second.updated_at == first.updated_at + timedelta(seconds=60)
        await items.adelete(("a",), "k")
        await items.aput(("a",), "k", {"n": 3})
        assert (await items.aget(("a",), "k")).created_at > first.created_at

    lasting(body)


def test_a_value_that_was_got_is_the_callers(lasting: Any) -> None:
    """Changing it changes nothing in the store."""

    async def body(items: NtMemoryStore, _: MemorySystem) -> None:
        await items.aput(("a",), "k", {"list": [1]})
        found = await items.aget(("a",), "k")
        found.value["list"].append(2)
        (other,) = await items.asearch(("a",))
        other.value["more"] = 1
        assert (await items.aget(("a",), "k")).value == {"list": [1]}

    lasting(body)


def test_items_run_out_and_reading_keeps_them(lasting: Any, clock: Any) -> None:
    """A ttl counts from the last put or read; what ran out is gone from every read at once."""

    async def body(items: NtMemoryStore, memory: MemorySystem) -> None:
        for key in ("read", "searched", "left", "unrefreshed"):
            await items.aput((key,), key, {"text": key}, ttl=10)
        await items.aput(("kept",), "kept", {"text": "kept"})
        updated = (await items.aget(("read",), "read")).updated_at
        revision = memory.revision
        await items.aget(("read",), "read")
        assert memory.revision == revision, "a read right after another writes nothing"
        for _ in range(3):
            clock.advance(6 * 60)
            assert (await items.aget(("read",), "read")).updated_at == updated
            assert [one.key for one in await items.asearch(("searched",), query="x")] == [
                "searched"
            ]
            await items.aget(("unrefreshed",), "unrefreshed", refresh_ttl=False)
        assert await items.aget(("left",), "left") is None
        assert await items.aget(("unrefreshed",), "unrefreshed") is None
        names = {one.key for one in await items.asearch((), query="left", limit=100)}
        assert names == {"read", "searched", "kept"}
        assert await items.alist_namespaces() == [("kept",), ("read",), ("searched",)]
        assert await items.asweep_ttl() == 2
        assert await items.asweep_ttl() == 0
        found = await items.asearch((), query="kept", limit=1)
        assert found[0].key == "kept"
        clock.advance(11 * 60)
        assert [one.key for one in await items.asearch(())] == ["kept"]

    lasting(body, index=INDEX)


def test_defaults_of_the_ttl_configuration(lasting: Any, clock: Any) -> None:
    """`default_ttl` holds where a put says nothing, `refresh_on_read` where a read says nothing."""

    async def body(items: NtMemoryStore, _: MemorySystem) -> None:
        await items.aput(("a",), "default", {"n": 1})
        await items.aput(("a",), "forever", {"n": 1}, ttl=None)
        clock.advance(59)
        assert await items.aget(("a",), "default") is not None
        clock.advance(2)
        assert await items.aget(("a",), "default") is None
        assert await items.aget(("a",), "forever") is not None

    lasting(body, ttl={"default_ttl": 1, "refresh_on_read": False})


def test_an_item_that_ran_out_leaves_nothing_to_its_successor(lasting: Any, clock: Any) -> None:
    """Put again with fewer texts, it is not found by those of before."""

    async def body(items: NtMemoryStore, memory: MemorySystem) -> None:
        await items.aput(("a",), "k", {"text": ["gold", "oil", "banks"]}, ttl=1, index=["text[*]"])
        clock.advance(61)
        await items.aput(("a",), "k", {"text": "storm"})
        (found,) = await items.asearch(("a",), query="oil")
        assert found.score < 0.5
        assert memory.stats().l2.entries >= 1
        keys = [r.key async for r in memory.scan("langgraph", "index/")]
        assert len(keys) == 1

    lasting(body, index=INDEX)


def test_puts_of_a_batch_happen_together(lasting: Any) -> None:
    """One revision; if one is refused none has happened, and vectors come and go with their items."""

    async def body(items: NtMemoryStore, memory: MemorySystem) -> None:
        before = memory.revision
        await items.abatch([PutOp(("a", str(n)), "k", {"text": f"t{n}"}) for n in range(20)])
        assert memory.revision == before + 1
        with pytest.raises(ValueError, match="cannot"):
            await items.abatch(
                [PutOp(("b",), "good", {"text": "x"}), PutOp(("b",), "bad", {"text": object()})]
            )
        assert await items.asearch(("b",)) == []
        revision = memory.revision
        await items.abatch([PutOp(("a", str(n)), "k", None) for n in range(20)])
        assert memory.revision == revision + 1
        assert [r async for r in memory.scan("langgraph")] == []
        assert await items.asearch((), query="t3") == []

    lasting(body, index={**INDEX, "embed": lambda texts: vectors([str(t) for t in texts])})


def test_what_agents_did_before_can_be_read(lasting: Any) -> None:
    """Items are keys of an agent: other code reads them, and as of any moment."""

    async def body(items: NtMemoryStore, memory: MemorySystem) -> None:
        await items.aput(("users", "7"), "prefs", {"theme": "dark"})
        then = memory.revision
        await items.aput(("users", "7"), "prefs", {"theme": "light"})
        stored = await memory.get("desk", "items/users/7/=prefs", as_of=then)
        assert stored["value"] == {"theme": "dark"}
        # And what others keep in the same agent's name is left alone.
        await memory.put("desk", "items/odd", 1)
        await memory.observe("desk", [1.0] * 256, "mine")
        assert len(await items.asearch((), query="dark", limit=10)) == 1
        assert await items.alist_namespaces() == [("users", "7")]

    lasting(body, agent="desk", index=INDEX)


def test_rights_hold_for_a_store_in_an_agents_name(lasting: Any) -> None:
    """What the agent's policy refuses raises its error, and changes nothing."""

    async def body(_: NtMemoryStore, memory: MemorySystem) -> None:
        await memory.set_policy("bob", Policy(read=("shared/**",)))
        items = NtMemoryStore(memory.as_agent("bob"), agent="shared")
        await NtMemoryStore(memory, agent="shared").aput(("a",), "k", {"n": 1}, ttl=0.01)
        with pytest.raises(PermissionDeniedError):
            await items.aput(("a",), "k", {"n": 2})
        assert (await items.aget(("a",), "k")).value == {"n": 1}
        with pytest.raises(PermissionDeniedError):
            await NtMemoryStore(memory.as_agent("bob"), agent="other").aget(("a",), "k")

    lasting(body)


def test_a_long_namespace_is_listed_without_reading_it(lasting: Any) -> None:
    """Namespaces with many items are skipped over; those below and after them are found."""

    async def body(items: NtMemoryStore, _: MemorySystem) -> None:
        puts = [PutOp(("a",), f"k{n:03}", {"n": n}) for n in range(200)]
        puts += [PutOp(("a", label), "k", {}) for label in ("1", "=z", ">", "z", "b")]
        puts += [PutOp(("a>",), "k", {}), PutOp(("b",), "k", {})]
        await items.abatch(puts)
        assert await items.alist_namespaces() == [
            ("a",), ("a", "1"), ("a", "=z"), ("a", ">"), ("a", "b"), ("a", "z"), ("a>",), ("b",)
        ]  # fmt: skip

    lasting(body)


def test_values_without_an_order_pass_no_comparison(lasting: Any) -> None:
    """A filter by order leaves out what is missing or no number, and does not fail."""

    async def body(items: NtMemoryStore, _: MemorySystem) -> None:
        for key, value in (("a", 3), ("b", None), ("c", "many"), ("d", [9])):
            await items.aput(("x",), key, {"n": value})
        await items.aput(("x",), "e", {})
        for name in ("$gt", "$gte", "$lt", "$lte"):
            limit = 1 if "g" in name else 5
            found = await items.asearch(("x",), filter={"n": {name: limit}})
            assert [item.key for item in found] == ["a"], name
        assert await items.asearch(("x",), filter={"n": {"$gt": "few"}}) == []

    lasting(body)


def test_reads_of_a_batch_see_one_moment(lasting: Any) -> None:
    """A write that comes between two reads of a batch shows in neither."""
    meanwhile: list[Any] = []

    async def embed(texts: list[str]) -> list[list[float]]:
        while meanwhile:
            await meanwhile.pop()()
        return vectors(texts)

    async def body(items: NtMemoryStore, memory: MemorySystem) -> None:
        await items.aput(("a",), "k", {"text": "gold", "n": 1})

        async def write() -> None:
            await NtMemoryStore(memory).aput(("a",), "k", {"text": "gold", "n": 2})
            await NtMemoryStore(memory).aput(("b",), "k", {"n": 2})

        meanwhile.append(write)
        reads = [SearchOp(("a",), query="gold"), GetOp(("a",), "k"), ListNamespacesOp()]
        (found,), got, spaces = await items.abatch(reads)
        assert (found.value["n"], got.value["n"], spaces) == (1, 1, [("a",)])
        assert (await items.aget(("a",), "k")).value["n"] == 2

    lasting(body, index={**INDEX, "embed": embed})


def test_writers_of_one_item_leave_one_item(lasting: Any) -> None:
    """Whoever is last, the vectors that are left are those of the value that is left."""
    writers = 20
    gate: list[asyncio.Barrier] = []

    async def embed(texts: list[str]) -> list[list[float]]:
        if gate:  # all of them have their vectors before any of them writes
            await gate[0].wait()
        return vectors(texts)

    async def body(items: NtMemoryStore, memory: MemorySystem) -> None:
        said = ["gold", "oil", "banks", "rates", "storm"]
        gate.append(asyncio.Barrier(writers))
        puts = [
            items.aput(("a",), "k", {"text": said[: 1 + n * 2 % 5]}, index=["text[*]"])
            for n in range(writers)
        ]
        await asyncio.gather(*puts)
        gate.clear()
        left = (await items.aget(("a",), "k")).value["text"]
        keys = [record.key async for record in memory.scan("langgraph", "index/")]
        assert len(keys) == len(left)
        for text in said:
            (found,) = await items.asearch(("a",), query=text)
            assert (found.score > 0.99) == (text in left), text

    lasting(body, index={**INDEX, "embed": embed})


def test_a_filter_that_few_pass_still_fills_the_page(lasting: Any) -> None:
    """However far down the ranking the items lie that pass."""

    async def body(items: NtMemoryStore, _: MemorySystem) -> None:
        puts = [
            PutOp(("a",), str(n), {"text": f"gold {n}" if n < 290 else f"storm {n}", "n": n})
            for n in range(300)
        ]
        await items.abatch(puts)
        found = await items.asearch(("a",), query="gold", filter={"n": {"$gte": 290}}, limit=10)
        assert sorted(item.value["n"] for item in found) == list(range(290, 300))

    lasting(body, index=INDEX)


def test_where_calls_may_come_from(run: Any, store: Path) -> None:
    """Plain calls from other threads, awaited ones from other loops; never a deadlock on its own."""

    async def body() -> None:
        async with MemorySystem.open(store) as memory:
            items = NtMemoryStore(memory)
            await items.aput(("a",), "k", {"n": 1})
            with pytest.raises(WrongLoopError, match="aget"):
                items.get(("a",), "k")
            assert (await asyncio.to_thread(items.get, ("a",), "k")).value == {"n": 1}
            elsewhere: list[Any] = []

            def other_loop() -> None:
                elsewhere.append(asyncio.run(items.aget(("a",), "k")))

            thread = threading.Thread(target=other_loop)
            thread.start()
            await asyncio.to_thread(thread.join)
            assert elsewhere[0].value == {"n": 1}

    run(body())
    with MemorySystem.open_sync(store) as memory:
        assert NtMemoryStore(memory).get(("a",), "k").value == {"n": 1}
        with pytest.raises(WrongLoopError, match="open_sync"):
            NtMemoryStore(memory._target)


def test_what_cannot_be_is_refused(lasting: Any) -> None:
    """Vectors of another length, negative pages, an index without an embedder, unknown operations."""

    async def body(items: NtMemoryStore, memory: MemorySystem) -> None:
        for wrong in ({"limit": -1}, {"offset": -1}):
            with pytest.raises(InvalidInputError):
                await items.asearch(("a",), **wrong)
        with pytest.raises(InvalidInputError):
            await items.abatch(["get"])
        with pytest.raises(InvalidInputError):
            NtMemoryStore(memory, index={"dims": 3})
        short = NtMemoryStore(memory, index={"dims": 3, "embed": vectors})
        with pytest.raises(DimensionError):
            await short.aput(("a",), "k", {"text": "x"})
        assert await items.aget(("a",), "k") is None

    lasting(body)


def test_a_reader_beside_the_writer_reads_without_writing(run: Any, store: Path) -> None:
    """A read-only memory serves reads; items with a ttl are read without being extended."""

    async def body() -> None:
        config = MemoryConfig(storage_path=store)
        async with MemorySystem.open(config) as memory:
            await NtMemoryStore(memory).aput(("a",), "k", {"n": 1}, ttl=0.02)
            async with MemorySystem.open(config, read_only=True) as follower:
                await follower.wait_for(memory.revision)
                items = NtMemoryStore(follower)
                assert (await items.aget(("a",), "k")).value == {"n": 1}

    run(body())


def test_the_missing_library_is_named(tmp_path: Path) -> None:
    """Without LangGraph the import says which extra to install."""
    code = (
        "import sys; sys.modules['langgraph'] = None\n"
        "try:\n    import nt_memory.integrations.langgraph\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("UnsupportedError")
    assert "nt-memory[langgraph]" in done.stdout
