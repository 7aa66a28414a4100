"""Random batches on LangGraph's `InMemoryStore` and on ours: the same results, batch after batch."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.store.base import (
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchItem,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.embedders import HashingTextEmbedder
from nt_memory.integrations.langgraph import NtMemoryStore

EMBEDDER = HashingTextEmbedder(128)
TOLERANCE = 4e-3
"""Vectors are kept as float16, so scores agree to about three digits."""


class Reference(InMemoryStore):
    """`InMemoryStore`, without three things that it does and a store that lasts should not.

    It lists namespaces that have no item (any more), keeps the vectors of values that were replaced,
    and refuses a batch in which two items have one text.
    """

    def batch(self, ops: Any) -> Any:
        given = list(ops)
        for namespace in [name for name, items in self._data.items() if not items]:
            del self._data[namespace]
        results = super().batch([op for op in given if not isinstance(op, PutOp)])
        puts = {(op.namespace, op.key): op for op in given if isinstance(op, PutOp)}
        for (namespace, key), op in puts.items():
            self._vectors[namespace].pop(key, None)
            super().batch([op])
        rest = iter(results)
        return [None if isinstance(op, PutOp) else next(rest) for op in given]

    def _handle_list_namespaces(self, op: Any) -> Any:
        before, self._data = (
            self._data,
            defaultdict(dict, {k: v for k, v in self._data.items() if v}),
        )
        try:
            return super()._handle_list_namespaces(op)
        finally:
            self._data = before


def vectors(texts: list[str]) -> list[list[float]]:
    return EMBEDDER.embed(texts).tolist()


LABELS = st.sampled_from(["a", "b", "a/b", "=", "%3D", "ä", ">"])
NAMESPACES = st.lists(LABELS, min_size=1, max_size=3).map(tuple)
KEYS = st.sampled_from(["k", "l", "k/l", "", "=", "."])
WORDS = st.lists(
    st.sampled_from(["gold", "oil", "banks", "rates", "storm", "fell", "rose"]),
    min_size=1,
    max_size=4,
)
VALUES = st.fixed_dictionaries(
    {"n": st.integers(0, 5)},
    optional={
        "text": WORDS.map(" ".join),
        "parts": st.lists(WORDS.map(" ".join), max_size=2, unique=True),
        "deep": st.fixed_dictionaries({"x": st.integers(0, 2) | st.none()}),
        "list": st.lists(st.integers(0, 2), max_size=2),
    },
)
INDEXES = st.sampled_from([None, None, False, ["text"], ["parts[*]"]])
NUMBERS = st.integers(0, 5)
FILTERS = st.none() | st.dictionaries(
    st.sampled_from(["n", "missing"]),
    NUMBERS
    | st.dictionaries(st.sampled_from(["$eq", "$ne"]), NUMBERS, min_size=1),
    max_size=2,
) | st.fixed_dictionaries(
    {"n": st.dictionaries(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), NUMBERS, min_size=1)}
) | st.fixed_dictionaries({"deep": st.fixed_dictionaries({"x": st.integers(0, 2) | st.none()})}) | st.fixed_dictionaries({"list": st.lists(st.integers(0, 2), max_size=2)})  # fmt: skip
FOREVER = st.none()
PUTS = st.builds(PutOp, NAMESPACES, KEYS, VALUES, INDEXES, FOREVER) | st.builds(
    PutOp, NAMESPACES, KEYS, st.none(), st.none(), FOREVER
)
WILD = st.lists(LABELS | st.just("*"), max_size=2).map(tuple)
CONDITIONS = st.builds(MatchCondition, st.sampled_from(["prefix", "suffix"]), WILD)
READS = (
    st.builds(GetOp, NAMESPACES, KEYS)
    | st.builds(
        SearchOp,
        st.just(()) | NAMESPACES,
        FILTERS,
        st.just(1_000),
        st.just(0),
        st.none() | WORDS.map(" ".join),
    )
    | st.builds(
        ListNamespacesOp,
        st.none() | st.lists(CONDITIONS, max_size=2).map(tuple),
        st.none() | st.integers(1, 3),
        st.sampled_from([1, 3, 100]),
        st.sampled_from([0, 2]),
    )
)
BATCHES = st.lists(st.lists(PUTS | PUTS | READS, min_size=1, max_size=6), min_size=1, max_size=10)


def same(theirs: Any, ours: Any) -> None:
    if isinstance(theirs, list) and any(isinstance(one, SearchItem) for one in theirs + ours):
        assert scores(theirs).keys() == scores(ours).keys()
        for name, (value, score) in scores(theirs).items():
            other, found = scores(ours)[name]
            assert value == other
            assert (score is None) == (found is None), name
            assert score is None or abs(score - found) < TOLERANCE, name
        ranked = [one.score for one in ours if one.score is not None]
        assert ranked == sorted(ranked, reverse=True)
        assert [one.score is None for one in ours] == sorted(one.score is None for one in ours)
    elif isinstance(theirs, Item):
        assert (theirs.namespace, theirs.key, theirs.value) == (
            ours.namespace,
            ours.key,
            ours.value,
        )
    else:
        assert theirs == ours


def scores(found: list[SearchItem]) -> dict[Any, tuple[Any, float | None]]:
    named = {(one.namespace, one.key): (one.value, one.score) for one in found}
    assert len(named) == len(found)
    return named


@given(BATCHES, st.booleans())
@settings(max_examples=40, deadline=None)
def test_our_store_answers_as_langgraphs_own(batches: list[list[Any]], is_indexed: bool) -> None:
    """Gets, filters, queries, listings and batches, over names of every kind."""
    index: Any = {"dims": 128, "embed": vectors, "fields": ["text"]} if is_indexed else None
    theirs = Reference(index=index)
    with tempfile.TemporaryDirectory() as folder:
        config = MemoryConfig(storage_path=folder, durability="relaxed")
        with MemorySystem.open_sync(config) as memory:
            ours = NtMemoryStore(memory, index=index)
            for batch in batches:
                for expected, found in zip(theirs.batch(batch), ours.batch(batch), strict=True):
                    same(expected, found)
                page = [
                    item
                    for offset in range(0, 40, 7)
                    for item in ours.search((), limit=7, offset=offset)
                ]
                whole = ours.search((), limit=1_000)
                assert [(one.namespace, one.key) for one in page] == [
                    (one.namespace, one.key) for one in whole[:42]
                ]
