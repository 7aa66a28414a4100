"""Calls of the bank and of bulk ingest, made twice under one request id, act once.

What a caller does not know is made real: a call is cancelled right when its first entry became
visible, so that it happened, or half of it did, and nobody was told.
"""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta

import numpy as np
import pytest

from nt_memory import MemoryConfig, MemorySystem, Trajectory
from nt_memory.errors import (
    ConflictError,
    InvalidInputError,
    InvalidNameError,
    QuotaError,
    ReadOnlyError,
    TrajectoryError,
    UnknownTrajectoryError,
)
from nt_memory.replica.requests import REQUEST_MEMORY_US

DAY_S = REQUEST_MEMORY_US / 1e6


def forecast(name, agent="a", value=1.0):
    built = Trajectory(agent, id=name).add_observation({"n": name}, [1.0, value])
    return built.add_action("vol", {"size": 1}, value)


async def prepare(memory):
    """Two agents' trajectories, and what they predict."""
    await memory.bank.define("vol", target="volatility", unit="%", horizon=1)
    await memory.track_many([forecast(f"t{n}", value=1.0 + n) for n in range(3)])
    await memory.track_many([forecast(f"d{n}", value=1.0 + n % 7) for n in range(60)])
    await memory.record_outcomes([f"d{n}" for n in range(60)], [1.0 + n % 7 for n in range(60)])
    first = await memory.record_outcome("t0", 1.5)
    return first.revision


# Each with arguments for which a second call would do something else, or fail.
CALLS = {
    "define": lambda m, old, r: m.bank.define(
        "new", target="x", unit="y", horizon=timedelta(1), request_id=r
    ),
    "track_trajectory": lambda m, old, r: m.track_trajectory(forecast("new"), request_id=r),
    "track_many": lambda m, old, r: m.track_many(
        [forecast("new"), forecast("newer")], request_id=r
    ),
    "record_outcome": lambda m, old, r: m.record_outcome("t1", 2.0, request_id=r),
    "revise": lambda m, old, r: m.record_outcome("t0", 3.0, revision_of=old, request_id=r),
    "record_outcomes": lambda m, old, r: m.record_outcomes(
        ["t0", "t1"], [3.0, 2.0], revisions_of=[old, None], request_id=r
    ),
    "forget": lambda m, old, r: m.bank.forget(["t0", "t2"], request_id=r),
    "distill": lambda m, old, r: m.bank.distill("a", request_id=r),
    "observe_many": lambda m, old, r: m.observe_many(
        "a", np.eye(4) + 1, list("abcd"), request_id=r
    ),
    "observe_many, keyed": lambda m, old, r: m.observe_many(
        "a", np.eye(4) + 1, list("abcd"), keys=list("wxyz"), request_id=r
    ),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


async def contents(memory):
    """Everything that a caller can see of what was done."""
    trajectories = await memory.bank.trajectories("a")
    found = [
        [record async for record in memory.scan("a")],
        [(one.id, one.actions, one.outcomes) for one in trajectories],
        await memory.bank.patterns("a"),
        await memory.bank.definition("new"),
    ]
    for record in list(found[0]):
        found[0] += [version async for version in memory.history("a", record.key)]
    return [spelled(one) for one in found]


def spelled(value):
    """Whatever it holds, arrays too; not where it lies in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


async def cut_short(memory, coroutine, entries=1):
    """Cancel a call when so many of its entries are visible here, before it has heard of the last."""
    target = memory.revision + entries
    task = asyncio.ensure_future(coroutine)
    await memory.wait_for(target)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@each_call
def test_repeated_after_an_unknown_outcome_it_has_acted_once(live, call):
    """The second call returns what the first would have, and writes nothing at all."""

    async def body(memory):
        old = await prepare(memory)
        await cut_short(memory, call(memory, old, "x"))
        written, found = memory._engine.journal.last_sequence, await contents(memory)
        one = await call(memory, old, "x")
        other = await call(memory, old, "x")
        assert one == other
        assert await contents(memory) == found
        assert memory._engine.journal.last_sequence == written

    live(body)


@each_call
def test_two_at_once_act_once(live, call):
    """Neither has seen the other when it plans; both get the same result, and one has acted."""

    async def alone(memory):
        old = await prepare(memory)
        await call(memory, old, "x")
        return await contents(memory), memory.revision

    async def together(memory):
        old = await prepare(memory)
        one, other = await asyncio.gather(*(call(memory, old, "x") for _ in range(2)))
        assert one == other
        return await contents(memory), memory.revision

    found, revision = live(together)
    once, last = live_elsewhere(alone)
    assert revision == last
    # Other keys are made up in another store.
    assert found[1:] == once[1:]


def live_elsewhere(body):
    """As `live`, in a store of its own."""
    import tempfile

    from nt_memory.clock import ManualClock

    async def main():
        with tempfile.TemporaryDirectory() as place:
            async with MemorySystem.open(place, clock=ManualClock()) as memory:
                return await body(memory)

    return asyncio.run(main())


@each_call
def test_it_is_remembered_across_reopening_and_compaction(live, clock, call):
    """For the day; after it the same call acts again, or says that it cannot."""

    async def first(memory):
        old.append(await prepare(memory))
        results.append(await call(memory, old[0], "x"))

    async def again(memory):
        revision, found = memory.revision, await contents(memory)
        results.append(await call(memory, old[0], "x"))
        assert (memory.revision, await contents(memory)) == (revision, found)
        await memory.compact()
        revision = memory.revision
        results.append(await call(memory, old[0], "x"))
        assert (memory.revision, await contents(memory)) == (revision, found)

    async def late(memory):
        revision = memory.revision
        try:
            await call(memory, old[0], "x")
        except (ConflictError, TrajectoryError, UnknownTrajectoryError):
            return
        assert memory.revision > revision

    old, results = [], []
    live(first)
    live(again)
    assert len({spelled(one) for one in results}) == 1
    clock.advance(DAY_S)
    live(late)


@each_call
def test_ids_of_different_actors_are_different(live, call):
    """Another agent's request is its own: it acts, or is refused, as if nothing had been asked."""

    async def body(memory):
        old = await prepare(memory)
        one, two = memory.as_agent("one"), memory.as_agent("two")
        await call(one, old, "x")
        revision = memory.revision
        await call(one, old, "x")
        assert memory.revision == revision
        try:
            await call(two, old, "x")
        except (ConflictError, TrajectoryError, UnknownTrajectoryError):
            return
        assert memory.revision > revision

    live(body)


@each_call
def test_a_malformed_id_and_one_of_another_kind_change_nothing(live, call):
    """They are refused, and say why."""

    async def body(memory):
        old = await prepare(memory)
        await memory.consensus.register_agent("a", request_id="vote")
        revision = memory.revision
        for name in ("", "a\0b", "x" * 1000):
            with pytest.raises(InvalidNameError):
                await call(memory, old, name)
        with pytest.raises(InvalidInputError, match="another kind of request: register"):
            await call(memory, old, "vote")
        assert memory.revision == revision

    live(body)


@each_call
def test_a_follower_cannot_repeat_either(live, call):
    """What is read-only refuses the call, whether it was made or not."""

    async def write(memory):
        old.append(await prepare(memory))
        await call(memory, old[0], "x")

    async def repeat(memory):
        with pytest.raises((ReadOnlyError, ConflictError, TrajectoryError, UnknownTrajectoryError)):
            await call(memory, old[0], "x")

    old = []
    live(write)
    live(repeat, read_only=True)


# --- of several entries -----------------------------------------------------------------------


def big(count=600):
    """Some entries' worth of observations."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(count, 384)), [{"n": n} for n in range(count)]


@pytest.mark.parametrize("is_keyed", [False, True], ids=["made up", "given"])
def test_a_bulk_ingest_that_was_cut_short_is_resumed(live, is_keyed):
    """Each row is there once, under the key that is returned, however far the first call came."""

    async def body(memory):
        matrix, data = big()
        keys = [f"k{n}" for n in range(600)] if is_keyed else None
        call = {"data": data, "keys": keys, "request_id": "load"}
        await cut_short(memory, memory.observe_many("a", matrix, **call), entries=2)
        await memory.flush()
        before = {record.key: record async for record in memory.scan("a")}
        assert before
        found = await memory.observe_many("a", matrix, **call)
        assert await memory.observe_many("a", matrix, **call) == found
        assert len(set(found)) == 600
        records = {record.key: record async for record in memory.scan("a")}
        assert records.keys() == set(found)
        assert [records[key].value["n"] for key in found] == list(range(600))
        assert before.items() <= records.items()
        assert [v.revision async for v in memory.history("a", found[0])] == [
            records[found[0]].revision
        ]
        hits = await memory.search_similar("a", matrix[599], top_k=1, exact=True)
        assert hits[0].key == found[599]

    live(body)


def test_a_bulk_ingest_goes_on_after_what_was_refused(live):
    """What a quota stopped is stored by the same request once there is room, and nothing twice."""

    async def body(memory):
        matrix, data = big()
        await memory.set_quota("a", max_keys=400)
        with pytest.raises(QuotaError):
            await memory.observe_many("a", matrix, data, request_id="load")
        stored = memory.usage("a").keys
        assert 0 < stored <= 400
        await memory.set_quota("a", max_keys=600)
        found = await memory.observe_many("a", matrix, data, request_id="load")
        assert [(await memory.get("a", key))["n"] for key in found] == list(range(600))
        assert memory.usage("a").keys == 600

    live(body)


def test_what_was_stored_counts_also_where_it_would_be_cut_otherwise_today(live):
    """Entries are as large as their values are when compressed; those that are there stay as they are."""

    async def store(memory):
        keys.append(await memory.observe_many("a", matrix, data, request_id="load"))

    async def repeat(memory):
        revision = memory.revision
        await store(memory)
        assert memory.revision == revision

    keys = []
    matrix, _ = big()
    data = [{"text": "the same again " * 100, "n": n} for n in range(600)]
    live(store)
    live(repeat, enable_compression=False)
    assert keys[0] == keys[1]


def test_large_values_are_resumed_too(live):
    """Values in files of their own are stored once, under the first keys."""

    async def body(memory):
        arrays = [np.full(300_000, float(n)) for n in range(3)]
        await cut_short(memory, memory.observe_many("a", np.eye(3), arrays, request_id="load"))
        found = await memory.observe_many("a", np.eye(3), arrays, request_id="load")
        assert [record.key async for record in memory.scan("a")] == sorted(found)
        for key, array in zip(found, arrays, strict=True):
            assert np.array_equal(await memory.get("a", key), array)

    live(body)


def test_other_observations_under_the_same_id_are_refused(live):
    """Fewer rows, other keys, given ones for made up ones or a single observation: nothing changes."""

    async def body(memory):
        matrix, data = big()
        await memory.observe_many("a", matrix, data, request_id="made up")
        await memory.observe_many("b", np.eye(3), keys=["x", "y", "z"], request_id="given")
        await memory.observe("c", [1.0, 0.0], request_id="one")
        revision = memory.revision
        for call in (
            memory.observe_many("a", matrix[:5], data[:5], request_id="made up"),
            memory.observe_many(
                "a", matrix, data, keys=[f"k{n}" for n in range(600)], request_id="made up"
            ),
            memory.observe_many("b", np.eye(3), keys=["z", "y", "x"], request_id="given"),
            memory.observe_many("b", np.eye(3), request_id="given"),
        ):
            with pytest.raises(InvalidInputError, match="for other observations"):
                await call
        with pytest.raises(InvalidInputError, match="another kind of request"):
            await memory.observe_many("c", [[1.0, 0.0]], request_id="one")
        with pytest.raises(InvalidInputError, match="another kind of request"):
            await memory.observe("a", matrix[0], request_id="made up")
        assert memory.revision == revision

    live(body)


def test_two_different_ingests_at_once_under_one_id(live):
    """Neither is visible when the other begins: one is stored, the other refused, none half of each."""

    async def body(memory):
        results = await asyncio.gather(
            memory.observe_many("a", np.eye(3), keys=["x", "y", "z"], request_id="load"),
            memory.observe_many("a", np.eye(3)[:2], keys=["x", "y"], request_id="load"),
            return_exceptions=True,
        )
        assert results[0] == ["x", "y", "z"]
        assert isinstance(results[1], InvalidInputError)
        assert len([record async for record in memory.scan("a")]) == 3

    live(body)


def test_tracking_that_was_cut_short_is_resumed(live):
    """Batches that were stored are not planned again, also where their trajectories have grown since."""

    async def body(memory):
        await prepare(memory)
        many = [forecast(f"m{n}") for n in range(800)]
        await cut_short(memory, memory.track_many(many, request_id="x"))
        await memory.flush()
        grown = await memory.bank.trajectory("m0")
        await memory.track_trajectory(grown.add_action("vol", None, 2.0))
        assert await memory.bank.trajectory("m799") is None
        last = await memory.track_many(many, request_id="x")
        assert last == memory.revision
        assert len(await memory.bank.trajectories("a")) == 863
        assert len((await memory.bank.trajectory("m0")).actions) == 2
        assert await memory.track_many(many, request_id="x") == last == memory.revision

    live(body)


def test_outcomes_that_were_cut_short_are_resumed(live):
    """Those recorded stay as they are, also where they were revised since; the rest follows."""

    async def body(memory):
        await prepare(memory)
        ids = [f"m{n}" for n in range(1500)]
        await memory.track_many([forecast(name) for name in ids])
        call = lambda: memory.record_outcomes(ids, [1.0] * 1500, request_id="x")  # noqa: E731
        await cut_short(memory, call())
        await memory.flush()
        (first,) = await memory.bank.judge("m0")
        await memory.record_outcome("m0", 5.0, revision_of=first.revision)
        assert (await memory.bank.trajectory("m1499")).outcomes == ()
        verdicts = await call()
        assert [verdict.actual for verdict in verdicts] == [5.0] + [1.0] * 1499
        revision = memory.revision
        assert await call() == verdicts
        assert memory.revision == revision

    live(body)


# --- what the first call meant ----------------------------------------------------------------


def test_the_action_is_the_one_that_was_the_last_then(live):
    """An action added since does not become the one that the repeated call is about."""

    async def body(memory):
        await prepare(memory)
        await cut_short(memory, memory.record_outcome("t1", 2.5, request_id="x"))
        grown = await memory.bank.trajectory("t1")
        await memory.track_trajectory(grown.add_action("vol", None, 9.0))
        verdict = await memory.record_outcome("t1", 2.5, request_id="x")
        assert (verdict.action, verdict.actual) == (0, 2.5)
        assert len((await memory.bank.trajectory("t1")).outcomes) == 1

    live(body)


def test_an_action_that_came_in_between_does_not_either(live):
    """It was ordered before the outcome and not seen when that was planned."""

    async def body(memory):
        await prepare(memory)
        grown = (await memory.bank.trajectory("t1")).add_action("vol", None, 9.0)
        _, first = await asyncio.gather(
            memory.track_trajectory(grown), memory.record_outcome("t1", 2.5, request_id="x")
        )
        assert len((await memory.bank.trajectory("t1")).actions) == 2
        assert (first.action, first.actual) == (0, 2.5)
        assert await memory.record_outcome("t1", 2.5, request_id="x") == first

    live(body)


def test_what_was_nothing_to_do_stays_nothing(live):
    """A trajectory that was tracked already is not tracked later, when it has grown, by the old id."""

    async def body(memory):
        await prepare(memory)
        trajectory = await memory.bank.trajectory("t1")
        await memory.track_trajectory(trajectory, request_id="x")
        trajectory.add_action("vol", None, 9.0)
        await memory.track_trajectory(trajectory, request_id="x")
        assert len((await memory.bank.trajectory("t1")).actions) == 1
        assert (await memory.record_outcome("t0", 1.5, request_id="y")).actual == 1.5
        assert (await memory.record_outcome("t0", 1.5, request_id="y")).actual == 1.5

    live(body)


def test_an_id_that_did_something_else_is_refused(live):
    """Of a put, or of another trajectory: an outcome must not seem recorded that is not."""

    async def body(memory):
        await prepare(memory)
        await memory.put("a", "k", 1, request_id="put")
        await memory.record_outcome("t1", 2.0, request_id="outcome")
        revision = memory.revision
        for name in ("put", "outcome"):
            for call in (
                memory.record_outcome("t2", 2.0, request_id=name),
                memory.track_trajectory(forecast("new"), request_id=name),
                memory.bank.forget(["t2"], request_id=name),
                memory.bank.define(
                    "other", target="x", unit="y", horizon=timedelta(1), request_id=name
                ),
            ):
                with pytest.raises(InvalidInputError, match="was used before, for something else"):
                    await call
        assert memory.revision == revision
        assert await memory.bank.trajectory("new") is None

    live(body)


def test_plain_code_repeats_them_too(store, clock):
    """The same calls without await, typed alike."""
    with MemorySystem.open_sync(MemoryConfig(storage_path=store), clock=clock) as memory:
        keys = memory.observe_many("a", np.eye(2), request_id="x")
        assert memory.observe_many("a", np.eye(2), request_id="x") == keys
        memory.bank.define("vol", target="v", unit="%", horizon=1, request_id="d")
        revision = memory.track_trajectory(forecast("t"), request_id="t")
        assert memory.track_trajectory(forecast("t"), request_id="t") == revision
        verdict = memory.record_outcome("t", 1.0, request_id="o")
        assert memory.record_outcome("t", 1.0, request_id="o") == verdict
        assert memory.revision == revision + 1


def test_keys_that_are_made_up_stay_in_order(live):
    """One after another, within a call and from call to call, and none twice."""

    async def body(memory):
        keys = await memory.observe_many("a", np.eye(3))
        keys.append(await memory.observe("a", [1.0, 0.0, 0.0]))
        keys += await memory.observe_many("a", np.ones((10_000, 3)))
        assert keys == sorted(set(keys))

    live(body)


def test_an_id_that_deleted_nothing_does_not_pass_for_a_write(live):
    """What is stored under it would be lost without a word; it is refused instead."""

    async def body(memory):
        assert await memory.delete("a", "gone", request_id="r") is None
        assert await memory.delete("a", "gone", request_id="r") is None
        refused = "delete that found nothing"
        with pytest.raises(InvalidInputError, match=refused):
            await memory.put("a", "k", 1, request_id="r")
        with pytest.raises(InvalidInputError, match=refused):
            await memory.observe("a", [1.0, 0.0], 1, request_id="r")
        with pytest.raises(InvalidInputError, match=refused):
            async with memory.transaction(request_id="r") as tx:
                tx.put("a", "k", 1)
        assert await memory.get("a", "k") is None
        async with memory.transaction(request_id="r") as tx:
            tx.delete("a", "gone")
        assert tx.revision is None

    live(body)
