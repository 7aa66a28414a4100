"""An agent's actions are found by type, time, verdict and tag; its record is kept by regime."""

import asyncio
import threading
from datetime import timedelta

import numpy as np
import pytest

from nt_memory.clock import ManualClock
from nt_memory.entries import OUTCOME, WriteOp
from nt_memory.errors import InvalidInputError, TrajectoryError
from nt_memory.reasoningbank import ReasoningBank, Trajectory, regimes
from nt_memory.reasoningbank.wire import OutcomeDoc, encode
from nt_memory.testing.backing import MemoryBacking

UP, DOWN = np.array([1.0, 0.0, 1.0]), np.array([-1.0, 0.0, 1.0])


def run(body):
    async def inner():
        clock = ManualClock()
        backing = MemoryBacking(clock)
        bank = ReasoningBank(backing, kmeans=backing.kmeans)
        backing.followers.append(bank.follow)
        tolerance = ("absolute", 1.0, 3.0)
        await bank.define("f", target="x", unit="1", horizon=1, tolerance=tolerance)
        await bank.define("g", target="y", unit="1", horizon=1, tolerance=("absolute", 9.0, 9.0))
        await body(bank, clock, backing)

    asyncio.run(inner())


async def act(bank, clock, name, error, *, kind="f", tags=(), agent="a", embedding=None):
    """One action, a day after the one before; `error` None: its outcome is not known."""
    one = Trajectory(agent, id=name, tags=tags)
    if embedding is not None:
        one.add_observation(None, embedding)
    one.add_action(kind, None, 1.0 + (error or 0.0), baseline=2.0)
    if error is not None:
        one.add_outcome(1.0)
    await bank.track_trajectory(one)
    clock.advance(86_400)
    return one


def names(found):
    return [one.ref.trajectory_id for one in found]


def test_actions_are_found_by_type_time_verdict_and_tag():
    """Each condition alone, all together, and none of another agent's."""

    async def body(bank, clock, backing):
        start = clock.now()
        await act(bank, clock, "good", 0.5, tags=("us", "bank"))
        await act(bank, clock, "bad", 2.0, tags=("us",))
        await act(bank, clock, "worse", 5.0)
        await act(bank, clock, "open", None, tags=("bank",))
        await act(bank, clock, "other", 5.0, kind="g", tags=("us",))
        await act(bank, clock, "foreign", 0.5, agent="b", tags=("us",))
        assert names(await bank.recent("a")) == ["other", "open", "worse", "bad", "good"]
        assert names(await bank.recent("a", verdict="correct")) == ["other", "good"]
        assert names(await bank.recent("a", verdict="incorrect")) == ["bad"]
        assert names(await bank.recent("a", verdict="very_wrong")) == ["worse"]
        assert names(await bank.recent("a", verdict="pending")) == ["open"]
        assert names(await bank.recent("a", tag="us")) == ["other", "bad", "good"]
        assert names(await bank.recent("a", tag="nobody's")) == []
        day = timedelta(days=1)
        assert names(await bank.recent("a", since=start + day, until=start + 3 * day)) == [
            "worse",
            "bad",
        ]
        found = await bank.recent("a", tag="us", verdict="correct", action_type="f")
        assert names(found) == ["good"]
        assert names(await bank.recent("a", 1, skip=1, tag="us")) == ["bad"]
        then = start + 1.5 * day
        assert names(await bank.recent("a", tag="us", as_of=then)) == ["bad", "good"]
        with pytest.raises(InvalidInputError, match="no verdict"):
            await bank.recent("a", verdict="splendid")

    run(body)


def test_forgotten_actions_are_not_found():
    """Neither by tag nor by verdict."""

    async def body(bank, clock, backing):
        await act(bank, clock, "one", 0.5, tags=("us",))
        await act(bank, clock, "two", 0.5, tags=("us",))
        await bank.forget(["one"])
        assert names(await bank.recent("a", tag="us")) == ["two"]
        assert names(await bank.recent("a", verdict="correct")) == ["two"]

    run(body)


def test_each_action_is_judged_against_its_own_definition():
    """Two actions of one trajectory with the same error: right by one definition, wrong by the other."""

    async def body(bank, clock, backing):
        one = Trajectory("a", id="two").add_action("f", None, 3.0).add_action("g", None, 3.0)
        one.add_outcome(1.0, action=0).add_outcome(1.0, action=1)
        await bank.track_trajectory(one)
        verdicts = await bank.judge("two")
        assert [(v.action_type, v.kind) for v in verdicts] == [("f", "incorrect"), ("g", "correct")]

    run(body)


def test_tags_and_abandonment_are_kept_and_cannot_be_taken_back():
    """They come back with the trajectory; tags do not change, what was given up stays given up."""

    async def body(bank, clock, backing):
        built = Trajectory("a", id="t", tags=["z", "b", "z"]).add_action("f", None, 1.0)
        await bank.track_trajectory(built)
        kept = await bank.trajectory("t")
        assert kept.tags == ("b", "z")
        assert not kept.is_abandoned
        assert not kept.is_complete
        await bank.track_trajectory(kept.abandon())
        again = await bank.trajectory("t")
        assert again.is_abandoned
        assert again.is_complete
        assert "abandoned" in repr(again)
        with pytest.raises(TrajectoryError, match="complete"):
            again.add_action("f", None, 1.0)
        verdict = await bank.record_outcome("t", 1.0)  # how it turned out can still be learnt
        assert verdict.actual == 1.0
        await bank.track_trajectory(built)
        assert (await bank.trajectory("t")).is_abandoned
        other = Trajectory("a", id="t", tags=["b"]).add_action("f", None, 1.0)
        with pytest.raises(TrajectoryError, match="tags"):
            await bank.track_trajectory(other)
        untagged = Trajectory("a", id="u").add_action("f", None, 1.0)
        revision = await bank.track_trajectory(untagged)
        assert await bank.track_trajectory(untagged) == revision == backing.revision

    run(body)


async def two_regimes(bank, clock):
    """Agent a is good where UP, b where DOWN."""
    rng = np.random.default_rng(3)
    for day in range(120):
        is_up = day % 2 == 0
        where = (UP if is_up else DOWN) + rng.normal(scale=0.05, size=3)
        for agent in "ab":
            is_good = is_up == (agent == "a")
            error = float(rng.normal(scale=0.1 if is_good else 3.0))
            one = Trajectory(agent, id=f"{agent}{day}").add_observation(None, where)
            one.add_action("f", None, error, baseline=1.0).add_outcome(0.0)
            await bank.track_trajectory(one)
        clock.advance(86_400)


def test_agents_are_ranked_by_their_skill_in_situations_like_this_one():
    """Who is good here comes first here; of whom nothing is known, in between."""

    async def body(bank, clock, backing):
        await two_regimes(bank, clock)
        up = await bank.rank(["b", "new", "a"], UP)
        down = await bank.rank(["b", "new", "a"], DOWN)
        assert [one.agent for one in up] == ["a", "new", "b"]
        assert [one.agent for one in down] == ["b", "new", "a"]
        assert up[0].n == 50
        assert up[0].skill.low > 0.0 > up[2].skill.value
        assert up[1].n == 0
        assert up[1].score == 0.0
        early = clock.now() - timedelta(days=119)
        assert [one.n for one in await bank.rank(["a"], UP, as_of=early)] == [2]

    run(body)


def test_the_record_by_regime_tells_where_an_agent_is_good(monkeypatch):
    """One record a pattern, which add up to the one of all; drift is told once there are days enough."""

    async def body(bank, clock, backing):
        await two_regimes(bank, clock)
        await bank.distill("a")
        (whole,) = await bank.calibration("a")
        parts = await bank.calibration("a", by_regime=True)
        assert len(parts) >= 2
        assert {one.regime for one in parts} <= {one.id for one in await bank.patterns("a")}
        assert sum(one.n for one in parts) == whole.n == 120
        total = sum(one.n * one.loss.value for one in parts)
        assert total == pytest.approx(120 * whole.loss.value)
        assert max(one.skill.value for one in parts) > 0.5
        assert min(one.skill.value for one in parts) < -0.5
        assert whole.drift.n == 120
        assert abs(whole.drift.value) < 4 * whole.drift.standard_error
        # It does not depend on how many situations are read at once, the last of them fewer.
        monkeypatch.setattr(regimes, "_SLICE", 7)
        again = await bank.calibration("a", by_regime=True)
        assert [str(one) for one in again] == [str(one) for one in parts]

    run(body)


def test_the_loop_goes_on_while_a_record_by_regime_is_made_and_the_record_is_of_when_it_was_asked():
    """Situations are read and compared on another thread; what comes meanwhile has no part in it."""

    async def body(bank, clock, backing):
        await two_regimes(bank, clock)
        await bank.distill("a")
        wanted = [str(one) for one in await bank.calibration("a", by_regime=True)]
        reader, entered, go_on = backing.reader, threading.Event(), threading.Event()

        def slow(partition):
            read = reader(partition)

            def held(rows):
                entered.set()
                assert threading.current_thread() is not threading.main_thread()
                assert go_on.wait(60.0)
                return read(rows)

            return held

        backing.reader = slow
        asked = asyncio.create_task(bank.calibration("a", by_regime=True))
        assert await asyncio.to_thread(entered.wait, 60.0)
        clock.advance(1.0)
        for number in range(20):
            await act(bank, clock, f"late{number}", 50.0, embedding=UP)
        go_on.set()
        assert [str(one) for one in await asked] == wanted
        assert [str(one) for one in await bank.calibration("a", by_regime=True)] != wanted

    run(body)


def test_drift_is_seen_when_losses_grow():
    """Sixty days of tenfold losses after a hundred good ones."""

    async def body(bank, clock, backing):
        rng = np.random.default_rng(4)
        for day in range(160):
            error = float(rng.normal() * (0.1 if day < 100 else 1.0))
            await act(bank, clock, f"t{day}", error)
        (record,) = await bank.calibration("a")
        assert record.drift.low > 0.0

    run(body)


def test_a_ranking_looks_at_the_nearest_of_what_counts_and_reads_no_other_vectors():
    """Half the record is revised away or of another definition; what is left is judged on its nearest 50."""

    async def body(bank, clock, backing):
        await two_regimes(bank, clock)
        before = (await bank.rank(["a"], UP))[0]

        def refuse(partition, rows):
            raise AssertionError("vectors were read")

        backing.vectors = refuse
        searches, search_rows = backing.searches, backing.search_rows

        async def exactly(*args, exact=False):
            assert exact  # where graphs are, one would find other situations
            return await search_rows(*args, exact=exact)

        backing.search_rows = exactly
        found = (await bank.rank(["a", "b"], UP))[0]
        assert found == before
        assert backing.searches == searches + 2
        near = [(UP + 0.0) / np.linalg.norm(UP)]
        assert 0.0 < found.distance < np.linalg.norm(near[0] - DOWN / np.linalg.norm(DOWN))
        # What was forgotten does not count any more: UP, every other day, was good.
        for day in range(0, 120, 2):
            await bank.forget([f"a{day}"])
        left = (await bank.rank(["a"], UP))[0]
        assert left.n == 50
        assert left.distance > 1.0
        assert left.skill.value < 0.0

    run(body)


def test_an_outcome_revised_while_a_ranking_searches_is_not_looked_at():
    """The ranking is as of the moment it was asked for, whatever comes in between."""

    async def body(bank, clock, backing):
        await two_regimes(bank, clock)
        expected = await bank.rank(["a"], UP)

        def revise():
            backing.before_search = lambda: None
            for day in range(0, 120, 2):
                backing.write_now([WriteOp(OUTCOME, "a", f"a{day}/0", encode(OutcomeDoc(50.0)))])

        backing.before_search = revise
        assert await bank.rank(["a"], UP) == expected
        assert (await bank.rank(["a"], UP))[0].skill.value < expected[0].skill.value

    run(body)


@pytest.mark.parametrize(("kind", "error"), [("g", 0.5), ("f", None)])
def test_a_ranking_passes_over_what_was_not_judged(kind, error):
    """Nearer situations of another type, or without an outcome, do not stand in the way of those that count."""

    async def body(bank, clock, backing):
        await two_regimes(bank, clock)
        moment = clock.now()
        before = await bank.rank(["a"], UP, action_type="f", as_of=moment)
        clock.advance(1)
        for number in range(60):
            await act(bank, clock, f"near{number}", error, kind=kind, embedding=UP)
        found = await bank.rank(["a"], UP, action_type="f")
        assert found == before
        assert found[0].n == 50
        await act(bank, clock, "open", None, agent="new", embedding=UP)
        (unjudged,) = await bank.rank(["new"], UP, action_type="f")
        assert (unjudged.agent, unjudged.n, unjudged.score) == ("new", 0, 0.0)

    run(body)


def test_situations_of_another_dimension_are_not_compared():
    """Whoever remembers other features is in between, as is who remembers nothing."""

    async def body(bank, clock, backing):
        await two_regimes(bank, clock)
        found = await bank.rank(["a", "b"], [1.0, 2.0], action_type="f")
        assert [(one.agent, one.n, one.score) for one in found] == [("a", 0, 0.0), ("b", 0, 0.0)]

    run(body)


def test_what_was_recorded_is_read_without_filling_the_columns():
    """Ids, pages, one trajectory and all of them, at once after opening: none of it goes through all versions."""

    async def body(bank, clock, backing):
        await act(bank, clock, "t1", 0.5)
        await act(bank, clock, "t2", None)
        fresh = ReasoningBank(backing, kmeans=backing.kmeans)

        def refuse(space):
            raise AssertionError(f"all of {space!r} was read")

        backing.all_versions = refuse
        assert await fresh.trajectory_ids("a") == ["t1", "t2"]
        assert await fresh.trajectory_ids("a", after="t1", limit=1) == ["t2"]
        assert [one.id for one in await fresh.trajectories("a")] == ["t1", "t2"]
        assert [one.id for one in await fresh.trajectories("a", limit=1)] == ["t1"]
        assert [one.id for one in await fresh.trajectories("a", after="t1")] == ["t2"]
        found = await fresh.trajectory("t1")
        assert found is not None
        assert found.outcomes[0].value == 1.0
        with pytest.raises(AssertionError, match="was read"):
            await fresh.recent("a")

    run(body)


def test_what_a_page_does_not_show_is_not_read():
    async def body(bank, clock, backing):
        for number in range(5):
            await act(bank, clock, f"t{number}", 0.5)
        read, asked = backing.read, []

        def noted(space, agent, key, moment):
            asked.append(key)
            return read(space, agent, key, moment)

        backing.read = noted
        pages = [
            await bank.trajectories("a", after=after, limit=2) for after in ("", "t1", "t3", "t4")
        ]
        assert [[one.id for one in page] for page in pages] == [
            ["t0", "t1"],
            ["t2", "t3"],
            ["t4"],
            [],
        ]
        asked.clear()
        await bank.trajectories("a", limit=1)
        assert not any(key.startswith("t1") for key in asked)
        for limit in (0, -1):
            with pytest.raises(InvalidInputError, match="at least 1"):
                await bank.trajectories("a", limit=limit)
            with pytest.raises(InvalidInputError, match="at least 1"):
                await bank.trajectory_ids("a", limit=limit)

    run(body)


def columns_of(bank):
    """All that the columns of one action type hold, in their order."""
    table = bank._memories.tables["f"]
    keys = [table.key(entry) for entry in range(len(table.entry))]
    return keys, table.entry.tobytes(), table.log.array.tobytes(), table.first_revision.tobytes()


def test_columns_filled_at_once_are_those_that_were_kept_current():
    """In the order of the journal, which is neither that of agents nor of ids; late and forgotten ones included."""

    async def body(bank, clock, backing):
        await bank.recent("a")  # from here on they are kept current
        for number in reversed(range(1_300)):
            agent = "cab"[number % 3]
            error = None if number % 4 == 0 else 0.5
            await act(bank, clock, f"{agent}{number:04}", error, agent=agent, embedding=UP)
        for number in range(0, 1_300, 40):
            await bank.record_outcome(f"{'cab'[number % 3]}{number:04}", 3.0)
        await bank.forget(["a0001", "b0002"])
        fresh = ReasoningBank(backing, kmeans=backing.kmeans)
        await fresh.recent("a")
        assert columns_of(fresh) == columns_of(bank)
        assert columns_of(fresh)[0][:3] == ["c1299/0", "b1298/0", "a1297/0"]

    run(body)
