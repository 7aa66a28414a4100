"""Searches that are over at once stay on the event loop; one slow one sends its kind away for a while."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from nt_memory.clock import turn
from nt_memory.system import searching
from nt_memory.system.pacing import Pace


@pytest.fixture
def pace(clock):
    return Pace(clock)


@pytest.fixture
def search(pace, clock):
    """`search(kind, seconds)`: one that took so long."""

    def search(kind, seconds):
        start = pace.now_ns()
        clock.advance(seconds)
        pace.took(kind, start)

    return search


def test_one_slow_search_is_not_what_a_kind_usually_takes(pace, search):
    """A single outlier sends nobody away, two in a row do, and are forgotten like others."""
    assert not pace.is_usually_within("a", 1e12)
    for _ in range(3):
        search("a", 0.001)
        search("a", 0.5)
        search("a", 0.001)
        assert pace.is_usually_within("a", 1e6)
        assert not pace.is_within("a", 1e6)
    search("a", 0.004)
    search("a", 0.005)
    search("a", 0.001)
    assert not pace.is_usually_within("a", 3e6)
    for _ in range(10):
        search("a", 0.001)
    assert pace.is_usually_within("a", 3e6)


def test_a_slow_first_search_counts_until_the_second(pace, search):
    """With nothing else known, one counts, until there is another."""
    search("a", 0.005)
    assert not pace.is_usually_within("a", 3e6)
    search("a", 0.001)
    assert pace.is_usually_within("a", 3e6)
    search("b", 0.005)
    search("b", 0.004)
    assert not pace.is_usually_within("b", 3e6)


def test_a_kind_is_quick_while_the_slowest_of_late_was(pace, search):
    """Nothing is known of one never seen; a slow one counts until enough quick ones followed."""
    assert not pace.is_within("a", 1e12)
    search("a", 0.001)
    assert pace.is_within("a", 1e6)
    assert not pace.is_within("a", 1e6 - 1)
    assert not pace.is_within("b", 1e12)
    search("a", 0.005)
    search("a", 0.001)
    assert not pace.is_within("a", 1e6)
    for _ in range(60):
        search("a", 0.001)
    assert pace.is_within("a", 1e6)


@pytest.mark.parametrize("seconds", [0.0, 0.01])
def test_quick_searches_stay_on_the_loop_and_slow_ones_leave_it(live, clock, monkeypatch, seconds):
    """The first of a kind leaves; the next as it took. A partition that is not in memory leaves too."""
    monkeypatch.setattr(searching, "OFF_LOOP_ELEMENTS", 0)
    rows = np.random.default_rng(3).normal(size=(50, 4))

    async def body(memory):
        await memory.observe_many("a", rows)
        vectors = memory._engine.vectors
        search, threads = vectors.search, []

        def noted(*args, **options):
            threads.append(threading.current_thread())
            clock.advance(seconds)
            return search(*args, **options)

        monkeypatch.setattr(vectors, "search", noted)
        here = threading.current_thread()
        hits = [await memory.search_similar("a", rows[0]) for _ in range(4)]
        assert hits == [hits[0]] * 4
        is_slow = seconds > 0
        assert [thread is here for thread in threads] == [False] + [not is_slow] * 3
        vectors.unload(memory._engine.rows.partitions[b"a\0"])
        threads.clear()
        assert await memory.search_similar("a", rows[0]) == hits[0]
        assert await memory.search_similar("a", rows[0]) == hits[0]
        assert [thread is here for thread in threads] == [False, not is_slow]

    live(body)


def test_searches_that_take_a_moment_stay_unless_others_search_too(live, clock, monkeypatch):
    """One searcher is not sent to another core; several at once share the cores."""
    monkeypatch.setattr(searching, "OFF_LOOP_ELEMENTS", 0)
    rows = np.random.default_rng(3).normal(size=(50, 4))

    async def body(memory):
        await memory.observe_many("a", rows)
        vectors = memory._engine.vectors
        search, threads = vectors.search, []

        def noted(*args, **options):
            threads.append(threading.current_thread())
            clock.advance(0.001)
            return search(*args, **options)

        monkeypatch.setattr(vectors, "search", noted)
        here = threading.current_thread()
        first = await memory.search_similar("a", rows[0])
        assert threads.pop() is not here
        for _ in range(3):
            assert await memory.search_similar("a", rows[0]) == first
            assert threads.pop() is here
        together = [memory.search_similar("a", rows[0]) for _ in range(3)]
        assert await asyncio.gather(*together) == [first] * 3
        assert sum(thread is here for thread in threads) <= 1

    live(body)


def test_a_search_lets_the_loop_go_round_unless_it_just_did(live, clock, monkeypatch):
    """What else is ready does not run within every search, and is not kept waiting by many in a row."""
    monkeypatch.setattr(searching, "OFF_LOOP_ELEMENTS", 0)
    rows = np.random.default_rng(3).normal(size=(50, 4))

    async def body(memory):
        await memory.observe_many("a", rows)
        vectors = memory._engine.vectors
        search = vectors.search

        def slow(*args, **options):
            clock.advance(0.001)
            return search(*args, **options)

        monkeypatch.setattr(vectors, "search", slow)
        loop, rounds = asyncio.get_running_loop(), 0

        def count():
            nonlocal rounds, counting
            rounds += 1
            counting = loop.call_soon(count)

        for _ in range(4):  # past the first, which leaves the loop
            await memory.search_similar("a", rows[0])
        counting = loop.call_soon(count)
        try:
            for _ in range(3):
                await turn()
                before = rounds
                await memory.search_similar("a", rows[0])
                assert rounds == before
                for _ in range(3):
                    before = rounds
                    await memory.search_similar("a", rows[0])
                    await memory.search_similar("a", rows[0])
                    assert rounds > before
        finally:
            counting.cancel()

    live(body)
