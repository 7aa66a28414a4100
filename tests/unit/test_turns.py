"""Searches on the loop and folds on the journal's thread take turns, and neither waits for ever."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from nt_memory.clock import SystemClock, turn
from nt_memory.system import searching, turns
from nt_memory.system.turns import Turns

LONG_S = 20.0
"""Longer than anything here takes: whoever waits so long fails the test."""
STEP_S = 0.0005


@pytest.fixture
def patient(monkeypatch):
    """Both sides wait for as long as it takes."""
    monkeypatch.setattr(turns, "PATIENCE_S", LONG_S)
    monkeypatch.setattr(turns, "GIVEN_S", LONG_S)


def begin(work):
    """`work` on a thread of its own, begun."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def until(condition):
    """Wait for another thread, keeping this one."""
    for _ in range(int(LONG_S / STEP_S)):
        if condition():
            return
        rest(STEP_S)
    pytest.fail("the other thread did not come that far")


def rest(seconds):
    """Keep this thread, and let others go on."""
    threading.Event().wait(seconds)


@contextmanager
def soon():
    """The block ends before anybody has waited in vain."""
    clock = SystemClock()
    began = clock.monotonic_ns()
    yield
    assert clock.monotonic_ns() - began < LONG_S * 1e9


def fold_alone(held, order):
    """What is done alone, noted."""

    def fold():
        with held.alone():
            order.append("fold")

    return fold


def test_a_fold_waits_for_the_loop_to_come_round_and_the_loop_for_the_fold(patient):
    """In order: the search that keeps the loop, the fold, and what the loop had ready before it."""

    async def body():
        held, order, loop = Turns(SystemClock()), [], asyncio.get_running_loop()
        held.keep(loop)
        loop.call_soon(order.append, "next")
        folding = begin(fold_alone(held, order))
        until(lambda: held._is_wanted)
        rest(0.01)  # in which the fold would have run
        order.append("search")
        await turn()
        folding.join(LONG_S)
        assert order == ["search", "fold", "next"]

    asyncio.run(body())


def test_nobody_waits_where_no_search_keeps_the_loop(patient):
    """A fold beside a loop that is idle, or busy with something else, is not held up."""

    async def body():
        held, order, loop = Turns(SystemClock()), [], asyncio.get_running_loop()
        begin(fold_alone(held, order)).join(LONG_S)
        assert order == ["fold"]
        held.keep(loop)
        await turn()
        begin(fold_alone(held, order)).join(LONG_S)
        assert order == ["fold", "fold"]

    with soon():
        asyncio.run(body())


def test_a_loop_that_came_round_meanwhile_is_not_waited_for(patient, monkeypatch):
    """Between a look at the loop and the wait for it, it may have come round, and does not come to tell."""

    async def body():
        held, order, loop = Turns(SystemClock()), [], asyncio.get_running_loop()
        held.keep(loop)
        cleared = held._is_over.clear

        def come_round_first():
            cleared()
            asyncio.run_coroutine_threadsafe(turn(), loop).result(LONG_S)

        monkeypatch.setattr(held._is_over, "clear", come_round_first)
        with soon():
            await asyncio.to_thread(fold_alone(held, order))
        assert order == ["fold"]

    asyncio.run(body())


def test_a_search_without_end_is_not_waited_for_without_end(monkeypatch):
    """The fold goes on beside it after its time."""
    monkeypatch.setattr(turns, "PATIENCE_S", 0.001)
    monkeypatch.setattr(turns, "GIVEN_S", LONG_S)

    async def body():
        held, order = Turns(SystemClock()), []
        held.keep(asyncio.get_running_loop())
        begin(fold_alone(held, order)).join(LONG_S)
        assert order == ["fold"]

    asyncio.run(body())


@pytest.mark.parametrize("is_failing", [False, True])
def test_a_fold_without_end_is_not_waited_for_without_end(monkeypatch, is_failing):
    """The loop goes on after its time; and at once when the fold has failed."""
    monkeypatch.setattr(turns, "PATIENCE_S", LONG_S)
    monkeypatch.setattr(turns, "GIVEN_S", LONG_S if is_failing else 0.001)

    async def body():
        held, go_on = Turns(SystemClock()), threading.Event()

        def fold():
            with held.alone():
                if is_failing:
                    raise OSError("the disk")
                go_on.wait(LONG_S)

        def failing():
            with pytest.raises(OSError, match="the disk"):
                fold()

        held.keep(asyncio.get_running_loop())
        folding = begin(failing if is_failing else fold)
        until(lambda: held._is_wanted)
        with soon():
            await turn()
        if not is_failing:
            assert folding.is_alive()
        go_on.set()
        folding.join(LONG_S)

    asyncio.run(body())


@pytest.mark.parametrize("durability", ["commit", "relaxed"])
def test_a_put_beside_a_search_is_folded_when_the_loop_comes_round(
    live, monkeypatch, patient, durability
):
    """Searches of a memory keep its loop, and its journal's thread waits for it."""
    monkeypatch.setattr(searching, "OFF_LOOP_ELEMENTS", 0)
    rows = np.random.default_rng(3).normal(size=(50, 4))

    async def body(memory):
        await memory.observe_many("a", rows)
        for _ in range(4):  # past the first, which leaves the loop
            await memory.search_similar("a", rows[0])
        engine, order, is_searching = memory._engine, [], threading.Event()
        alone, search = engine.turns.alone, engine.vectors.search
        prepare = engine.opened.replica.prepare

        def once_searching():
            assert is_searching.wait(LONG_S)
            return alone()

        def noted_prepare(frames):
            order.append("fold")
            return prepare(frames)

        def slow(*args, **options):
            is_searching.set()
            until(lambda: engine.turns._is_wanted)
            rest(0.01)
            order.append("search")
            asyncio.get_running_loop().call_soon(order.append, "next")
            return search(*args, **options)

        monkeypatch.setattr(engine.turns, "alone", once_searching)
        monkeypatch.setattr(engine.opened.replica, "prepare", noted_prepare)
        monkeypatch.setattr(engine.vectors, "search", slow)
        putting = asyncio.ensure_future(memory.put("a", "k", 1))
        await turn()
        await memory.search_similar("a", rows[0])
        await putting
        assert order == ["search", "fold", "next"]

    live(body, durability=durability)
