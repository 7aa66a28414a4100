"""What is tracked stays as it was, and outcomes count when they may."""

import asyncio
from datetime import timedelta

import msgspec
import numpy as np
import pytest

from nt_memory.clock import ManualClock, to_us
from nt_memory.entries import OUTCOME, WriteOp
from nt_memory.errors import ConflictError, DimensionError, TrajectoryError, UnknownTrajectoryError
from nt_memory.reasoningbank import ReasoningBank, Trajectory
from nt_memory.reasoningbank.growing import Mask
from nt_memory.reasoningbank.wire import OutcomeDoc, encode
from nt_memory.testing.backing import MemoryBacking

DAY = timedelta(days=1)


def run(body, *, horizon=1):
    async def inner():
        clock = ManualClock()
        backing = MemoryBacking(clock)
        bank = ReasoningBank(backing, kmeans=backing.kmeans)
        backing.followers.append(bank.follow)
        await bank.define("vol", target="volatility", unit="%", horizon=horizon)
        await body(bank, clock, backing)

    asyncio.run(inner())


def forecast(name="t", predicted=1.0, agent="a", **claims):
    built = Trajectory(agent, id=name).add_observation({"n": name}, [1.0, 2.0])
    return built.add_action("vol", {"size": 1}, predicted, **claims)


def test_a_tracked_trajectory_comes_back_as_it_was():
    """Observations, actions, claims, outcomes and status survive storage."""

    async def body(bank, clock, _backing):
        built = forecast(predicted_interval=(0.5, 1.5), baseline=2.0).add_outcome(1.25).complete()
        await bank.track_trajectory(built)
        again = await bank.trajectory("t")
        assert again.agent_id == "a"
        assert again.is_complete
        assert again.observations[0].data == {"n": "t"}
        np.testing.assert_allclose(again.observations[0].embedding, [1.0, 2.0])
        assert again.actions[0].doc.predicted == 1.0
        assert again.actions[0].doc.definition > 0
        assert again.actions[0].parameters == {"size": 1}
        assert [(one.action, one.value) for one in again.outcomes] == [(0, 1.25)]
        assert again.score() == built.score()
        assert await bank.trajectory("nobody's") is None
        assert [one.id for one in await bank.trajectories("a")] == ["t"]

    run(body)


def test_tracking_again_appends_and_never_rewrites():
    """Tracking the same is harmless, more is appended, a changed forecast is refused."""

    async def body(bank, clock, backing):
        built = forecast()
        revision = await bank.track_trajectory(built)
        assert await bank.track_trajectory(built) == revision
        with pytest.raises(TrajectoryError):
            await bank.track_trajectory(forecast(predicted=1.1))
        built.add_observation({"later": 1}, [2.0, 1.0]).add_action("vol", None, 3.0)
        assert await bank.track_trajectory(built) == revision + 1
        assert len((await bank.trajectory("t")).actions) == 2
        before = backing.revision
        for changed in (forecast(predicted=1.1), forecast(agent="b"), Trajectory("a", id="t")):
            with pytest.raises(TrajectoryError):
                await bank.track_trajectory(changed)
        assert backing.revision == before
        reread = await bank.trajectory("t")
        await bank.track_trajectory(reread.add_action("vol", None, 4.0).complete())
        assert len((await bank.trajectory("t")).actions) == 3

    run(body)


def test_predictions_need_a_definition():
    """What nobody defined cannot be judged, so predicting it is refused; plain actions are not."""

    async def body(bank, clock, backing):
        with pytest.raises(TrajectoryError):
            await bank.track_trajectory(Trajectory("a").add_action("other", None, 1.0))
        await bank.track_trajectory(Trajectory("a", id="plain").add_action("other"))
        assert (await bank.record_outcome("plain", 3.0)).kind == "insufficient"

    run(body)


def test_definitions_are_versions():
    """The same definition again is harmless; another judges later actions only."""

    async def body(bank, clock, backing):
        await bank.track_trajectory(forecast("old"))
        before = backing.revision
        first = await bank.define("vol", target="volatility", unit="%", horizon=1)
        assert backing.revision == before
        second = await bank.define("vol", target="volatility", unit="%", horizon=1, loss="squared")
        assert second.revision > first.revision
        await bank.track_trajectory(forecast("new"))
        assert (await bank.record_outcome("old", 3.0)).loss == 2.0
        assert (await bank.record_outcome("new", 3.0)).loss == 4.0
        with pytest.raises(TrajectoryError):
            await bank.define("vol", target="", unit="%", horizon=1)
        with pytest.raises(TrajectoryError):
            await bank.define("vol", target="v", unit="%", horizon=timedelta(0))

    run(body)


def test_an_outcome_is_refused_before_its_label_has_ended():
    """With a horizon in time an outcome cannot be known before action plus horizon."""

    async def body(bank, clock, backing):
        await bank.track_trajectory(forecast())
        clock.advance(86_400 * 2 - 1)
        with pytest.raises(TrajectoryError):
            await bank.record_outcome("t", 1.0)
        clock.advance(1)
        assert (await bank.record_outcome("t", 1.0)).actual == 1.0

    run(body, horizon=timedelta(days=2))


def test_outcomes_are_revised_only_on_purpose():
    """The same outcome again is harmless; another needs the revision it replaces."""

    async def body(bank, clock, backing):
        await bank.track_trajectory(forecast())
        first = await bank.record_outcome("t", 2.0)
        assert (await bank.record_outcome("t", 2.0)).revision == first.revision
        with pytest.raises(TrajectoryError):
            await bank.record_outcome("t", 3.0)
        with pytest.raises(ConflictError):
            await bank.record_outcome("t", 3.0, revision_of=first.revision + 5)
        clock.advance(60)
        early = clock.now() - timedelta(days=1)
        with pytest.raises(TrajectoryError):
            await bank.record_outcome("t", 3.0, revision_of=first.revision, known_at=early)
        second = await bank.record_outcome("t", 3.0, revision_of=first.revision)
        assert second.actual == 3.0
        with pytest.raises(UnknownTrajectoryError):
            await bank.record_outcome("nobody's", 1.0)
        with pytest.raises(TrajectoryError):
            await bank.record_outcome("t", 1.0, action=7)

    run(body)


def test_several_actions_are_judged_each():
    """Each action has its own outcome; by default the last one is meant."""

    async def body(bank, clock, backing):
        await bank.track_trajectory(forecast().add_action("vol", None, 5.0))
        assert (await bank.record_outcome("t", 6.0)).action == 1
        assert (await bank.record_outcome("t", 1.5, action=0)).error == -0.5
        verdicts = await bank.judge("t")
        assert [one.actual for one in verdicts] == [1.5, 6.0]

    run(body)


def test_situations_of_another_dimension_are_refused():
    """One agent's situations of one action type share a dimension; a refusal stores nothing."""

    async def body(bank, clock, backing):
        await bank.track_trajectory(forecast())
        other = Trajectory("a", id="u").add_observation(1, [1.0, 2.0, 3.0]).add_action("vol")
        with pytest.raises(DimensionError):
            await bank.track_trajectory(other)
        assert await bank.trajectory("u") is None

    run(body)


def test_forgotten_ids_are_spent():
    """A forgotten trajectory is gone, and its id cannot be used for another story."""

    async def body(bank, clock, backing):
        await bank.track_trajectory(forecast())
        now = backing.revision
        await bank.forget(["t"])
        assert await bank.trajectory("t") is None
        assert await bank.trajectory("t", as_of=now) is not None
        with pytest.raises(TrajectoryError):
            await bank.track_trajectory(forecast())
        with pytest.raises(UnknownTrajectoryError):
            await bank.forget(["t"])

    run(body)


def test_a_version_known_earlier_than_the_current_one_is_history():
    """A late version of an outcome, however it got there, does not replace what is known later."""

    async def body(bank, clock, backing):
        await bank.track_trajectory(forecast())
        clock.advance(100)
        await bank.record_outcome("t", 2.0)
        earlier = to_us(clock.now()) - 50_000_000
        backing.write_now([WriteOp(OUTCOME, "a", "t/0", encode(OutcomeDoc(9.0)), earlier)])
        assert (await bank.judge("t"))[0].actual == 2.0
        fresh = ReasoningBank(backing, kmeans=backing.kmeans)
        assert (await fresh.judge("t"))[0].actual == 2.0

    run(body)


def test_many_outcomes_are_judged_as_each_alone():
    """Verdicts of one call are those of single calls, in the order asked, whoever's they are."""

    async def body(bank, clock, backing):
        names = []
        for number in range(60):
            agent = "ab"[number % 2]
            claims = {"probability": 0.7} if number % 3 else {"baseline": 0.5}
            built = forecast(f"t{number}", number / 7.0, agent, **claims)
            await bank.track_trajectory(built)
            names.append(built.id)
            clock.advance(1)
        await bank.define("free", target="anything", unit="1", horizon=2)
        other = Trajectory("a", id="other")
        await bank.track_trajectory(other.add_action("free", None, 3.0, probability=0.2))
        names.insert(40, "other")
        clock.advance(100)
        for name in names[:50]:
            await bank.record_outcome(name, 1.0)
            clock.advance(1)
        values = [1.0] * 50 + [float(number) for number in range(11)]
        together = await bank.record_outcomes(names, values)
        assert [verdict.trajectory_id for verdict in together] == names
        assert together == [(await bank.judge(name))[0] for name in names]
        assert {verdict.kind for verdict in together} > {"correct", "very_wrong"}

    run(body)


def test_an_outcome_that_loses_to_forget_is_ignored():
    """An outcome planned before its action was forgotten does not bring the action back."""

    async def body(bank, clock, backing):
        for number in range(12):
            await bank.track_trajectory(forecast(f"t{number}"))
        clock.advance(100)
        await bank.record_outcomes([f"t{number}" for number in range(11)], [2.0] * 11)
        clock.advance(100)
        then = clock.now() - timedelta(seconds=50)
        write = backing.write

        async def slow(ops, **named):
            backing.write = write
            await bank.forget(["t11"])
            backing.write_now([msgspec.structs.replace(op, expect=None) for op in ops])
            return backing.revision

        backing.write = slow
        with pytest.raises(UnknownTrajectoryError):
            await bank.record_outcome("t11", 9.0, known_at=then)
        fresh = ReasoningBank(backing, kmeans=backing.kmeans)
        for one in (bank, fresh):
            (record,) = await one.calibration("a", as_of=then)
            assert record.n == 11

    run(body)


def test_a_mask_that_was_handed_out_never_changes():
    """A search in another thread keeps the rows it was given."""
    mask = Mask()
    mask.set(3, is_allowed=True)
    lent = mask.lend()
    mask.set(1, is_allowed=True)
    mask.set(3, is_allowed=False)
    assert lent.tolist() == [False, False, False, True]
    assert mask.lend().tolist() == [False, True, False, False]
    assert mask.count == 1
