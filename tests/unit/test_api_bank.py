"""The ReasoningBank's API, one promise a test: trajectories, verdicts, patterns, advice."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest

from nt_memory import (
    Advice,
    MemoryConfig,
    MemorySystem,
    Pattern,
    Trajectory,
    Verdict,
    session_close,
)
from nt_memory.errors import (
    EmbeddingError,
    InvalidInputError,
    InvalidNameError,
    InvalidTimeError,
    LookAheadError,
    NtMemoryError,
    TrajectoryError,
    UnknownTrajectoryError,
)

DAY = timedelta(days=1)
UP, DOWN = np.array([1.0, 0.0, 0.0, 0.2]), np.array([0.0, 1.0, 0.0, -0.2])


async def define(memory, name="vol", **options):
    """An action type whose outcome is complete a day later."""
    options = {"target": "next-day volatility", "unit": "%", "horizon": DAY, **options}
    return await memory.bank.define(name, **options)


def forecast(agent="a", predicted=10.0, *, embedding=UP, at=None, **claims):
    """A trajectory with one situation and one forecast."""
    trajectory = Trajectory(agent)
    trajectory.add_observation({"seen": True}, embedding, at=at)
    trajectory.add_action("vol", {"size": 1}, predicted, at=at, **claims)
    return trajectory


async def learn(memory, start, days=80, agent="a", seed=1):
    """A past: on even days the market looks like UP and 10 follows, on odd ones DOWN and -5."""
    rng = np.random.default_rng(seed)
    trajectories, values, known = [], [], []
    for day in range(days):
        is_up = day % 2 == 0
        embedding = (UP if is_up else DOWN) + rng.normal(scale=0.05, size=4)
        at = start + day * DAY
        value = (10.0 if is_up else -5.0) + rng.normal()
        trajectories.append(
            forecast(
                agent,
                value + rng.normal(),
                embedding=embedding,
                at=at,
                baseline=2.5,
                predicted_interval=(value - 3, value + 3),
                probability=0.9 if is_up else 0.1,
            )
        )
        values.append(value)
        known.append(at + DAY)
    await memory.track_many(trajectories)
    ids = [trajectory.id for trajectory in trajectories]
    await memory.record_outcomes(ids, values, known_at=known)
    return trajectories


# --- Trajectory -------------------------------------------------------------------------------


def test_a_trajectory_is_built_step_by_step():
    """Observations, actions and outcomes in order; complete closes it."""
    trajectory = Trajectory("a")
    assert trajectory.agent_id == "a"
    trajectory.add_observation({"vix": 20}, UP)
    trajectory.add_observation("no embedding")
    trajectory.add_action("vol", {"size": 1}, 10.0, predicted_interval=(8.0, 12.0), level=0.8)
    trajectory.add_outcome(11.0)
    assert not trajectory.is_complete
    trajectory.complete()
    assert trajectory.is_complete
    assert len(trajectory.observations) == 2
    assert len(trajectory.actions) == 1
    assert len(trajectory.outcomes) == 1


def test_a_complete_trajectory_takes_no_more_steps():
    """Observations and actions after `complete` are refused."""
    trajectory = forecast().complete()
    with pytest.raises(TrajectoryError):
        trajectory.add_observation("late")
    with pytest.raises(TrajectoryError):
        trajectory.add_action("vol", None, 1.0)


def test_trajectories_have_distinct_ids():
    """Each its own, without being asked."""
    assert len({Trajectory("a").id for _ in range(100)}) == 100


def test_score_compares_with_the_frozen_baseline():
    """Perfect is 1, as good as the baseline 0, worse is negative; None if it cannot be said."""
    assert forecast(predicted=11.0, baseline=5.0).add_outcome(11.0).score() == 1.0
    assert forecast(predicted=12.0, baseline=10.0).add_outcome(11.0).score() == 0.0
    assert forecast(predicted=20.0, baseline=10.0).add_outcome(11.0).score() < 0.0
    assert forecast().add_outcome(11.0).score() is None
    assert forecast(baseline=5.0).score() is None


def test_score_is_safe_at_zero_and_below():
    """Outcomes of zero and negative ones are outcomes like any other."""
    assert forecast(predicted=0.0, baseline=0.0).add_outcome(0.0).score() == 0.0
    assert forecast(predicted=-1.0, baseline=-3.0).add_outcome(-1.0).score() == 1.0


@pytest.mark.parametrize(
    "claims",
    [
        {"predicted_interval": (12.0, 8.0)},
        {"predicted_interval": (8.0, float("nan"))},
        {"level": 0.0},
        {"level": 1.0},
        {"probability": 1.1},
        {"probability": -0.1},
        {"baseline": float("inf")},
        {"predicted": float("nan")},
        {"predicted": "ten"},
        {"predicted_quantiles": {0.1: 2.0, 0.9: 1.0}},
        {"predicted_quantiles": {1.5: 2.0}},
    ],
    ids=repr,
)
def test_malformed_claims_are_refused(claims):
    """Where they are made, not when they are judged."""
    with pytest.raises(TrajectoryError):
        forecast(**claims)


def test_malformed_steps_are_refused():
    """Names, embeddings, times and outcomes."""
    with pytest.raises(InvalidNameError):
        Trajectory("a/b")
    with pytest.raises(InvalidNameError):
        Trajectory("a").add_action("../vol")
    with pytest.raises(EmbeddingError):
        Trajectory("a").add_observation(1, [1.0, float("nan")])
    with pytest.raises(InvalidTimeError):
        Trajectory("a").add_observation(1, at=datetime(2024, 1, 1))  # noqa: DTZ001
    with pytest.raises(TrajectoryError):
        forecast().add_outcome(float("nan"))
    with pytest.raises(TrajectoryError):
        Trajectory("a").add_outcome(1.0)


# --- tracking ---------------------------------------------------------------------------------


def test_track_returns_a_revision_and_persists(live):
    """What was built comes back after reopening."""

    async def write(memory):
        await define(memory)
        before = memory.revision
        trajectory = forecast(baseline=5.0).complete()
        revision = await memory.track_trajectory(trajectory)
        assert revision == memory.revision > before
        return trajectory.id

    async def read(memory):
        trajectory = await memory.bank.trajectory(name)
        assert (trajectory.id, trajectory.agent_id) == (name, "a")
        assert trajectory.is_complete
        assert trajectory.observations[0].data == {"seen": True}
        (action,) = trajectory.actions
        assert action.parameters == {"size": 1}

    name = live(write)
    live(read)


def test_a_trajectory_can_grow_and_be_tracked_again(live):
    """What is new is appended; the id stays; tracking the same again does nothing."""

    async def body(memory):
        await define(memory)
        trajectory = forecast()
        await memory.track_trajectory(trajectory)
        trajectory.add_observation("more")
        revision = await memory.track_trajectory(trajectory)
        assert await memory.track_trajectory(trajectory) == revision
        assert memory.revision == revision
        (found,) = await memory.bank.trajectories("a")
        assert [seen.data for seen in found.observations] == [{"seen": True}, "more"]

    live(body)


def test_a_forecast_cannot_be_rewritten(live):
    """A trajectory of the same id with another claim is refused, and nothing changes."""

    async def body(memory):
        await define(memory)
        first = Trajectory("a", id="t").add_action("vol", None, 10.0, baseline=5.0)
        await memory.track_trajectory(first)
        before = memory.revision
        for changed in (
            Trajectory("a", id="t").add_action("vol", None, 11.0, baseline=5.0),
            Trajectory("a", id="t").add_action("vol", None, 10.0, baseline=9.0),
            Trajectory("b", id="t").add_action("vol", None, 10.0, baseline=5.0),
        ):
            with pytest.raises(TrajectoryError):
                await memory.track_trajectory(changed)
        assert memory.revision == before

    live(body)


def test_a_prediction_needs_a_definition(live):
    """An action type nobody defined has no outcome that could be judged."""

    async def body(memory):
        before = memory.revision
        with pytest.raises(TrajectoryError):
            await memory.track_trajectory(forecast())
        assert memory.revision == before

    live(body)


def test_track_many_and_record_outcomes_are_bulk(live, later):
    """Each trajectory and each verdict as it would be alone, in order."""

    async def body(memory):
        await define(memory)
        trajectories = [forecast(predicted=float(n), at=later(-9e5)) for n in range(30)]
        await memory.track_many(trajectories)
        ids = [trajectory.id for trajectory in trajectories]
        verdicts = await memory.record_outcomes(ids, [float(n + 1) for n in range(30)])
        assert [verdict.trajectory_id for verdict in verdicts] == ids
        assert [verdict.error for verdict in verdicts] == [-1.0] * 30
        assert {t.id for t in await memory.bank.trajectories("a")} == set(ids)

    live(body)


def test_trajectories_as_of(live, clock):
    """Those, and that much of them, that was known then; by agent."""

    async def body(memory):
        await define(memory)
        trajectory = forecast()
        await memory.track_trajectory(trajectory)
        await memory.track_trajectory(forecast("b"))
        then = clock.now()
        clock.advance(60)
        await memory.track_trajectory(forecast())
        trajectory.add_observation("later")
        await memory.track_trajectory(trajectory)
        (found,) = await memory.bank.trajectories("a", as_of=then)
        assert found.id == trajectory.id
        assert len(found.observations) == 1
        assert len(await memory.bank.trajectories("a")) == 2
        assert await memory.bank.trajectories("nobody") == []

    live(body)


def test_the_bank_keeps_to_itself(live, later, collect):
    """What it stores about an agent is not among the agent's own keys, changes and observations."""

    async def body(memory):
        watcher = memory.watch("a")
        await define(memory)
        await learn(memory, later(-100 * 86_400), days=60)
        await memory.bank.distill("a")
        await memory.put("a", "own", 1)
        (change,) = await collect(watcher, 1)
        assert change.key == "own"
        assert [record.key for record in await collect(memory.scan("a"))] == ["own"]
        assert await memory.search_similar("a", UP) == []
        await memory.observe("a", [1.0, 2.0], key="seen")
        assert [hit.key for hit in await memory.search_similar("a", [1.0, 2.0])] == ["seen"]

    live(body)


def test_look_ahead_in_a_trajectory_is_refused(backtest, clock):
    """No step may be dated past a backtest's now."""

    async def body(memory):
        await memory.timeline.advance(clock.now())
        await define(memory)
        with pytest.raises(LookAheadError):
            await memory.track_trajectory(forecast(at=clock.now() + DAY))
        assert await memory.bank.trajectories("a") == []

    backtest(body)


# --- definitions ------------------------------------------------------------------------------


def test_define_states_what_is_predicted(live):
    """Target, unit, horizon, loss and tolerance; the same again changes nothing."""

    async def body(memory):
        definition = await define(memory, loss="squared", baseline="ewma")
        assert definition.target == "next-day volatility"
        assert (definition.unit, definition.horizon) == ("%", DAY)
        revision = memory.revision
        await define(memory, loss="squared", baseline="ewma")
        assert memory.revision == revision
        await define(memory, "sessions", horizon=5)
        assert (await memory.bank.definition("sessions")).horizon == 5

    live(body)


def test_definitions_are_versioned(live, clock, later):
    """A new one judges later actions only; earlier ones keep what they were made under."""

    async def body(memory):
        await define(memory, tolerance=("absolute", 1.0, 2.0))
        early = forecast(predicted=10.0)
        await memory.track_trajectory(early)
        then = clock.now()
        clock.advance(60)
        await define(memory, tolerance=("absolute", 100.0, 200.0))
        late = forecast(predicted=10.0)
        await memory.track_trajectory(late)
        clock.advance(2 * 86_400)
        assert (await memory.record_outcome(early.id, 15.0)).kind == "very_wrong"
        assert (await memory.record_outcome(late.id, 15.0)).kind == "correct"
        tolerance = (await memory.bank.definition("vol", as_of=then)).tolerance
        assert tolerance.correct == 1.0

    live(body)


@pytest.mark.parametrize(
    "options",
    [
        {"horizon": 0},
        {"horizon": -1},
        {"horizon": timedelta(0)},
        {"horizon": "five days"},
        {"loss": "cubic"},
        {"tolerance": "absolute"},
        {"tolerance": ("relative", 0.5, 0.1)},
        {"target": ""},
    ],
    ids=repr,
)
def test_malformed_definitions_are_refused(live, options):
    """And nothing is defined."""

    async def body(memory):
        before = memory.revision
        with pytest.raises(InvalidInputError):
            await define(memory, **options)
        assert memory.revision == before

    live(body)


# --- outcomes and verdicts --------------------------------------------------------------------


def test_record_outcome_returns_a_verdict(live, clock):
    """Error, loss, the frozen baseline's loss, skill, interval score and coverage."""

    async def body(memory):
        await define(memory)
        trajectory = forecast(predicted=10.0, baseline=5.0, predicted_interval=(8.0, 12.0))
        await memory.track_trajectory(trajectory)
        clock.advance(86_400)
        verdict = await memory.record_outcome(trajectory.id, 11.0)
        assert isinstance(verdict, Verdict)
        assert (verdict.agent, verdict.action_type) == ("a", "vol")
        assert (verdict.predicted, verdict.actual, verdict.error) == (10.0, 11.0, -1.0)
        assert (verdict.loss, verdict.baseline_loss, verdict.skill) == (1.0, 6.0, 5.0)
        assert verdict.is_covered is True
        assert verdict.interval_score == pytest.approx(4.0)
        assert verdict.revision == memory.revision
        assert isinstance(verdict.feedback, str)

    live(body)


def test_a_miss_costs_the_interval_score(live, clock):
    """Width plus 2 / (1 - level) times how far outside (Gneiting & Raftery 2007)."""

    async def body(memory):
        await define(memory)
        trajectory = forecast(predicted_interval=(8.0, 12.0), level=0.8)
        await memory.track_trajectory(trajectory)
        clock.advance(86_400)
        verdict = await memory.record_outcome(trajectory.id, 13.0)
        assert verdict.is_covered is False
        assert verdict.interval_score == pytest.approx(4.0 + 10.0 * 1.0)

    live(body)


def test_probabilities_and_quantiles_are_scored(live, clock):
    """Brier from a probability, CRPS from quantiles."""

    async def body(memory):
        await define(memory)
        sure = forecast(probability=0.9)
        sharp = forecast(predicted_quantiles={0.1: 9.0, 0.5: 10.0, 0.9: 11.0})
        wide = forecast(predicted_quantiles={0.1: 0.0, 0.5: 10.0, 0.9: 20.0})
        await memory.track_many([sure, sharp, wide])
        clock.advance(86_400)
        assert (await memory.record_outcome(sure.id, 10.0)).brier == pytest.approx(0.01)
        near = await memory.record_outcome(sharp.id, 10.0)
        far = await memory.record_outcome(wide.id, 10.0)
        assert 0 <= near.crps < far.crps

    live(body)


def test_the_default_verdict_is_against_the_as_of_error_scale(live, clock, later):
    """At most one scale is correct, over two very wrong, and too few errors are insufficient."""

    async def body(memory):
        await define(memory)
        await learn(memory, later(-200 * 86_400), days=100)
        kinds = []
        for error in (0.0, 1000.0):
            trajectory = forecast(predicted=10.0 + error)
            await memory.track_trajectory(trajectory)
            clock.advance(86_400)
            kinds.append((await memory.record_outcome(trajectory.id, 10.0)).kind)
        assert kinds == ["correct", "very_wrong"]
        new = forecast("new")
        await memory.track_trajectory(new)
        clock.advance(86_400)
        assert (await memory.record_outcome(new.id, 10.0)).kind == "insufficient"

    live(body)


@pytest.mark.parametrize(
    ("predicted", "actual", "kind"),
    [
        (100.0, 104.0, "correct"),
        (100.0, 110.0, "incorrect"),
        (100.0, 200.0, "very_wrong"),
        (-100.0, -104.0, "correct"),
        (1.0, 0.0, "insufficient"),
    ],
)
def test_relative_tolerance(live, clock, predicted, actual, kind):
    """5 % and 25 % of the outcome, below zero too; of an outcome of zero there is no share."""

    async def body(memory):
        await define(memory, tolerance="relative")
        trajectory = forecast(predicted=predicted)
        await memory.track_trajectory(trajectory)
        clock.advance(86_400)
        assert (await memory.record_outcome(trajectory.id, actual)).kind == kind

    live(body)


def test_an_outcome_is_recorded_once_or_revised_on_purpose(live, clock):
    """The same value again is harmless; another needs `revision_of`, and then replaces it."""

    async def body(memory):
        await define(memory)
        trajectory = forecast()
        await memory.track_trajectory(trajectory)
        clock.advance(86_400)
        first = await memory.record_outcome(trajectory.id, 11.0)
        assert await memory.record_outcome(trajectory.id, 11.0) == first
        with pytest.raises(TrajectoryError):
            await memory.record_outcome(trajectory.id, 12.0)
        clock.advance(60)
        second = await memory.record_outcome(trajectory.id, 12.0, revision_of=first.revision)
        assert second.actual == 12.0
        (verdict,) = await memory.bank.judge(trajectory)
        assert verdict.actual == 12.0

    live(body)


def test_outcomes_choose_their_action(live, clock):
    """`action` counts from 0; the last by default."""

    async def body(memory):
        await define(memory)
        trajectory = forecast(predicted=1.0)
        trajectory.add_action("vol", None, 2.0)
        await memory.track_trajectory(trajectory)
        clock.advance(86_400)
        assert (await memory.record_outcome(trajectory.id, 9.0)).predicted == 2.0
        assert (await memory.record_outcome(trajectory.id, 9.0, action=0)).predicted == 1.0
        with pytest.raises(NtMemoryError):
            await memory.record_outcome(trajectory.id, 9.0, action=2)

    live(body)


def test_an_outcome_cannot_be_known_before_its_label_has_ended(live, clock):
    """A horizon in time is enforced."""

    async def body(memory):
        await define(memory)
        trajectory = forecast(at=clock.now())
        await memory.track_trajectory(trajectory)
        clock.advance(3600)
        before = memory.revision
        with pytest.raises(TrajectoryError):
            await memory.record_outcome(trajectory.id, 9.0)
        assert memory.revision == before
        clock.advance(86_400 - 3600)
        await memory.record_outcome(trajectory.id, 9.0)

    live(body)


def test_unknown_trajectories_are_errors(live):
    """For outcomes and verdicts; asking for one returns None."""

    async def body(memory):
        await define(memory)
        with pytest.raises(UnknownTrajectoryError):
            await memory.record_outcome("none", 1.0)
        with pytest.raises(UnknownTrajectoryError):
            await memory.bank.judge(Trajectory("a"))
        assert await memory.bank.trajectory("none") is None

    live(body)


def test_judge_and_judge_batch_agree(live, later):
    """One verdict an action, in order; a batch is many of them."""

    async def body(memory):
        await define(memory)
        trajectories = await learn(memory, later(-100 * 86_400), days=40)
        batch = await memory.bank.judge_batch(trajectories)
        for trajectory, verdicts in zip(trajectories, batch, strict=True):
            assert await memory.bank.judge(trajectory) == verdicts
            assert len(verdicts) == 1

    live(body)


# --- advice -----------------------------------------------------------------------------------


def test_advice_recalls_similar_situations(live, later):
    """The expected outcome and interval are those of situations like this one."""

    async def body(memory):
        await define(memory)
        await learn(memory, later(-100 * 86_400))
        up = await memory.bank.advise("a", UP)
        down = await memory.bank.advise("a", DOWN)
        assert isinstance(up, Advice)
        assert up.expected == pytest.approx(10.0, abs=1.0)
        assert down.expected == pytest.approx(-5.0, abs=1.0)
        for advice in (up, down):
            assert advice.low < advice.expected < advice.high
            assert (advice.target, advice.unit) == ("next-day volatility", "%")
            assert advice.functional in {"mean", "median"}
            assert advice.level == 0.8
            assert not advice.is_abstaining
            assert 0.5 < advice.success_probability <= 1.0

    live(body)


def test_advice_states_its_functional(live, later):
    """A squared loss is met by the mean, an absolute one by the median."""

    async def body(memory):
        await define(memory, loss="squared")
        await learn(memory, later(-100 * 86_400))
        assert (await memory.bank.advise("a", UP)).functional == "mean"

    live(body)


def test_a_receipt_names_exactly_the_memories_used(live, later):
    """They are trajectories of the agents asked, and their weighted outcomes are the advice."""

    async def body(memory):
        await define(memory, loss="squared")
        trajectories = await learn(memory, later(-100 * 86_400))
        advice = await memory.bank.advise("a", UP)
        recalled = advice.memories()
        refs = [one.ref for one in recalled]
        assert refs == advice.receipt.memories
        assert {ref.trajectory_id for ref in refs} <= {t.id for t in trajectories}
        assert {ref.agent for ref in refs} == {"a"}
        assert sum(one.weight for one in recalled) == pytest.approx(1.0)
        mean = sum(one.weight * one.outcome for one in recalled)
        assert advice.expected - advice.bias == pytest.approx(mean)

    live(body)


def test_a_receipt_is_kept_with_the_action(live, later, clock):
    """`advice=` freezes which memories an action acted on."""

    async def body(memory):
        await define(memory)
        await learn(memory, later(-100 * 86_400))
        advice = await memory.bank.advise("a", UP)
        trajectory = forecast(predicted=advice.expected, advice=advice)
        await memory.track_trajectory(trajectory)
        receipt = await memory.bank.receipt(trajectory.id)
        assert sorted(receipt.memories) == sorted(advice.receipt.memories)

    live(body)


def test_advice_consults_only_the_agents_asked(live, later):
    """One or several; nobody else's memories."""

    async def body(memory):
        await define(memory)
        await learn(memory, later(-100 * 86_400), agent="a")
        await learn(memory, later(-100 * 86_400), agent="b", seed=2)
        only = await memory.bank.advise("b", UP)
        both = await memory.bank.advise(["a", "b"], UP)
        assert {ref.agent for ref in only.receipt.memories} == {"b"}
        assert {ref.agent for ref in both.receipt.memories} == {"a", "b"}
        assert both.known == 160

    live(body)


def test_advice_abstains_when_nothing_is_known(live, later):
    """No memories: no forecast, and it says so."""

    async def body(memory):
        await define(memory)
        advice = await memory.bank.advise("a", UP, action_type="vol")
        assert advice.is_abstaining
        assert advice.expected is None
        assert advice.receipt.memories == []
        assert "no advice" in advice.as_text().lower()

    live(body)


def test_advice_abstains_or_warns_when_nothing_similar_is_known(live, later):
    """A situation unlike any remembered is not silently answered from the nearest anyway."""

    async def body(memory):
        await define(memory)
        await learn(memory, later(-100 * 86_400))
        advice = await memory.bank.advise("a", [0.0, 0.0, -1.0, 0.0])
        assert advice.is_abstaining or advice.warnings

    live(body)


def test_advice_speaks(live, later):
    """`to_dict` is JSON, `as_text` is words within a length."""

    async def body(memory):
        await define(memory)
        await learn(memory, later(-100 * 86_400))
        advice = await memory.bank.advise("a", UP)
        plain = json.loads(json.dumps(advice.to_dict()))
        assert plain["target"] == "next-day volatility"
        assert plain["expected"] == advice.expected
        assert "next-day volatility" in advice.as_text()
        for limit in (20, 50, 600):
            assert 0 < len(advice.as_text(max_chars=limit)) <= limit

    live(body)


def test_an_outcome_that_is_not_known_yet_does_not_count(live, clock, later):
    """Tracked situations without an outcome are not recalled; with it they are."""

    async def body(memory):
        await define(memory)
        trajectories = [forecast(at=clock.now()) for _ in range(20)]
        await memory.track_many(trajectories)
        assert (await memory.bank.advise("a", UP)).is_abstaining
        clock.advance(86_400)
        ids = [trajectory.id for trajectory in trajectories]
        await memory.record_outcomes(ids, [7.0] * 20)
        advice = await memory.bank.advise("a", UP)
        assert advice.expected - advice.bias == pytest.approx(7.0, abs=1e-6)

    live(body)


def test_advice_as_of_is_what_it_would_have_been(live, clock, later):
    """Later outcomes, forecasts and definitions do not change advice about the past."""

    async def body(memory):
        await define(memory)
        await learn(memory, later(-100 * 86_400))
        then, revision = clock.now(), memory.revision
        first = await memory.bank.advise("a", UP, exact=True)
        clock.advance(300 * 86_400)
        await learn(memory, later(-200 * 86_400), seed=3)
        extreme = forecast(predicted=1e6, at=later(-5 * 86_400))
        await memory.track_trajectory(extreme)
        await memory.record_outcome(extreme.id, 1e6)
        for as_of in (then, revision):
            again = await memory.bank.advise("a", UP, as_of=as_of, exact=True)
            assert again.expected == first.expected
            assert (again.low, again.high) == (first.low, first.high)
            assert again.success_probability == first.success_probability
            assert again.receipt.memories == first.receipt.memories
        view = await memory.at(then).advise("a", UP, exact=True)
        assert view.expected == first.expected
        options = {"action_type": "vol", "level": 0.5, "k": 12, "functional": "mean"}
        options |= {"gamma": 0.0, "gain": 0.0, "withhold": 0.5, "trajectory": "t", "exact": True}
        asked = await memory.bank.advise("a", UP, as_of=then, **options)
        assert not asked.is_abstaining
        assert (await memory.at(then).advise("a", UP, **options)).to_dict() == asked.to_dict()
        assert (await memory.bank.advise("a", UP)).known > first.known

    live(body)


def test_advice_cannot_look_ahead(backtest, clock):
    """On a backtest timeline a later `as_of` raises, for patterns and trajectories too."""

    async def body(memory):
        await memory.timeline.advance(clock.now())
        await define(memory)
        future = clock.now() + timedelta(microseconds=1)
        for call in (
            lambda: memory.bank.advise("a", UP, as_of=future),
            lambda: memory.bank.patterns("a", as_of=future),
            lambda: memory.bank.trajectories("a", as_of=future),
            lambda: memory.bank.distill("a", as_of=future),
        ):
            with pytest.raises(LookAheadError):
                await call()

    backtest(body)


def test_deleting_memories_changes_the_advice(live, later):
    """What a receipt names is what it rests on."""

    async def body(memory):
        await define(memory)
        await learn(memory, later(-100 * 86_400))
        advice = await memory.bank.advise("a", UP)
        await memory.bank.forget({ref.trajectory_id for ref in advice.receipt.memories})
        again = await memory.bank.advise("a", UP)
        assert again.expected != advice.expected
        assert not set(again.receipt.memories) & set(advice.receipt.memories)

    live(body)


def test_withholding_is_off_by_default_and_recorded_when_on(live, later):
    """With withhold=1 nothing is shown, and receipt and propensity say so."""

    async def body(memory):
        await define(memory)
        await learn(memory, later(-100 * 86_400))
        shown = await memory.bank.advise("a", UP)
        assert (shown.is_withheld, shown.receipt.propensity) == (False, 0.0)
        hidden = [
            await memory.bank.advise("a", UP, withhold=0.5, trajectory=Trajectory("a").id)
            for _ in range(40)
        ]
        assert 5 < sum(advice.is_withheld for advice in hidden) < 35
        for advice in hidden:
            assert advice.receipt.propensity == 0.5
            assert advice.receipt.is_withheld == advice.is_withheld
            if advice.is_withheld:
                assert advice.expected is None
                assert advice.memories() == []

    live(body)


def test_the_coin_is_the_same_for_the_same_trajectory(live, later):
    """A keyed hash, not a fresh throw."""

    async def body(memory):
        await define(memory)
        await learn(memory, later(-100 * 86_400))
        for _ in range(10):
            name = Trajectory("a").id
            first = await memory.bank.advise("a", UP, withhold=0.5, trajectory=name)
            again = await memory.bank.advise("a", UP, withhold=0.5, trajectory=name)
            assert first.is_withheld == again.is_withheld

    live(body)


@pytest.mark.parametrize(
    "bad",
    [
        {"embedding": [1.0, float("nan"), 0.0, 0.0]},
        {"embedding": [1.0, 0.0]},
        {"embedding": [0.0] * 4},
        {"level": 0.0},
        {"level": 1.0},
        {"withhold": 1.5},
        {"agents": "../a"},
        {"agents": []},
    ],
    ids=repr,
)
def test_malformed_questions_are_refused(live, later, bad):
    """And leave no trace."""

    async def body(memory):
        await define(memory)
        await learn(memory, later(-100 * 86_400), days=20)
        before = memory.revision
        with pytest.raises(InvalidInputError):
            await memory.bank.advise(**{"agents": "a", "embedding": UP, **bad})
        assert memory.revision == before

    live(body)


# --- patterns ---------------------------------------------------------------------------------


def test_distill_finds_what_situations_led_to(live, later):
    """Statistics of clusters: how many, what followed, how often it beat the baseline."""

    async def body(memory):
        await define(memory)
        trajectories = await learn(memory, later(-300 * 86_400), days=240)
        patterns = await memory.bank.distill("a")
        assert patterns
        names = {trajectory.id for trajectory in trajectories}
        for pattern in patterns:
            assert isinstance(pattern, Pattern)
            assert (pattern.agent, pattern.action_type) == ("a", "vol")
            assert pattern.centroid.shape == (4,)
            assert pattern.radius >= 0
            assert 1 <= pattern.n_effective <= pattern.n
            assert list(pattern.outcome_quantiles) == sorted(pattern.outcome_quantiles)
            bounds = [0, pattern.success_low, pattern.success_rate, pattern.success_high, 1]
            assert bounds == pytest.approx(sorted(bounds), abs=1e-12)
            assert {ref.trajectory_id for ref in pattern.sources} <= names
        assert sum(pattern.n for pattern in patterns) == 240
        nearest = max(patterns, key=lambda p: float(p.centroid @ UP))
        assert nearest.outcome_mean == pytest.approx(10.0, abs=2.0)

    live(body)


def test_patterns_are_kept_and_read_as_of(live, clock, later):
    """After distilling, also after reopening; not before."""

    async def first(memory):
        await define(memory)
        await learn(memory, later(-300 * 86_400), days=120)
        before = clock.now()
        clock.advance(60)
        patterns = await memory.bank.distill("a")
        assert await memory.bank.patterns("a", as_of=before) == []
        assert [p.id for p in await memory.at(clock.now()).patterns("a")] == [
            p.id for p in patterns
        ]
        assert await memory.bank.patterns("b") == []
        return [pattern.id for pattern in patterns]

    async def second(memory):
        return [pattern.id for pattern in await memory.bank.patterns("a")]

    assert live(first) == live(second) != []


def test_clusters_never_see_outcomes(tmp_path, clock, run):
    """The same situations with other outcomes give the same clusters."""

    async def centroids(path, factor):
        async with MemorySystem.open(MemoryConfig(storage_path=path), clock=clock) as memory:
            await define(memory)
            rng = np.random.default_rng(5)
            start = clock.now() - 200 * DAY
            for day in range(100):
                embedding = (UP if day % 2 else DOWN) + rng.normal(scale=0.1, size=4)
                trajectory = forecast(embedding=embedding, at=start + day * DAY)
                await memory.track_trajectory(trajectory)
                value = factor * rng.normal()
                await memory.record_outcome(trajectory.id, value, known_at=start + (day + 1) * DAY)
            return np.array([p.centroid for p in await memory.bank.distill("a")])

    one = run(centroids(tmp_path / "1", 1.0))
    two = run(centroids(tmp_path / "2", -50.0))
    np.testing.assert_array_equal(one, two)


# --- the record -------------------------------------------------------------------------------


def test_calibration_is_the_record_of_an_agent(live, later):
    """Coverage, bias, loss and skill by action type; of nobody, nothing."""

    async def body(memory):
        await define(memory)
        await learn(memory, later(-300 * 86_400), days=200)
        (record,) = await memory.bank.calibration("a")
        assert (record.agent, record.action_type, record.n) == ("a", "vol", 200)
        assert record.coverage.value == 1.0
        assert record.bias.value == pytest.approx(0.0, abs=0.3)
        assert record.skill.value > 0
        assert await memory.bank.calibration("nobody") == []

    live(body)


def test_calibration_counts_dependence(live, later):
    """Ten agents' worth of the same day is one day's worth: errors do not shrink with copies."""

    async def body(memory):
        await define(memory)
        rng = np.random.default_rng(6)
        start = later(-300 * 86_400)
        trajectories, values, known = [], [], []
        for day in range(60):
            value = float(rng.normal())
            at = start + day * DAY
            for _ in range(10):
                trajectories.append(forecast(predicted=0.0, at=at, baseline=1.0))
                values.append(value)
                known.append(at + DAY)
        await memory.track_many(trajectories)
        await memory.record_outcomes([t.id for t in trajectories], values, known_at=known)
        (record,) = await memory.bank.calibration("a")
        assert record.bias.n == 600
        assert record.bias.n_effective <= 100

    live(body)


def test_vote_weights_share_between_clones(live, later):
    """Two agents with the same record weigh as much as one; unknown agents weigh no more."""

    async def body(memory):
        await define(memory)
        start = later(-300 * 86_400)
        for agent, seed in (("one", 1), ("clone", 1), ("other", 9)):
            await learn(memory, start, days=200, agent=agent, seed=seed)
        weights = await memory.bank.vote_weights(["one", "clone", "other", "new1", "new2"])
        assert set(weights) == {"one", "clone", "other", "new1", "new2"}
        assert all(0 <= weight <= 2 for weight in weights.values())
        assert weights["one"] == pytest.approx(weights["clone"])
        assert weights["one"] + weights["clone"] <= weights["other"] * 1.3
        assert weights["new1"] == weights["new2"] <= weights["other"]

    live(body)


def test_uplift_needs_withheld_advice(live, later):
    """Without a coin it cannot be said, and is said to be unknown."""

    async def body(memory):
        await define(memory)
        await learn(memory, later(-100 * 86_400))
        uplift = await memory.bank.uplift("a")
        assert np.isnan(uplift.value)
        assert (uplift.shown, uplift.withheld) == (0, 0)

    live(body)


@pytest.mark.parametrize("name", ["trajectories", "verdicts", "patterns"])
def test_frames_are_read_by_polars_and_pandas(live, later, name):
    """An Arrow C stream with a row for each, and needed by neither."""
    pandas = pytest.importorskip("pandas")
    polars = pytest.importorskip("polars")

    async def body(memory):
        await define(memory)
        await learn(memory, later(-200 * 86_400), days=100)
        patterns = await memory.bank.distill("a")
        frame = await memory.bank.frame(name)
        rows = len(patterns) if name == "patterns" else 100
        assert hasattr(frame, "__arrow_c_stream__")
        assert polars.DataFrame(frame).height == rows
        assert len(pandas.DataFrame(dict(frame))) == rows

    live(body)


def test_an_unknown_frame_is_refused(live):
    """There are three."""

    async def body(memory):
        with pytest.raises(InvalidInputError):
            await memory.bank.frame("everything")

    live(body)


# --- exchange dates ---------------------------------------------------------------------------


def test_session_close_makes_aware_times():
    """Naive exchange dates become closing times, daylight saving observed."""
    closes = session_close([date(2024, 1, 2), date(2024, 7, 2)], "America/New_York", "16:00")
    assert closes == [
        datetime(2024, 1, 2, 21, tzinfo=UTC),
        datetime(2024, 7, 2, 20, tzinfo=UTC),
    ]
    assert all(close.tzinfo is not None for close in closes)


def test_session_close_takes_text_and_numpy_dates():
    """Whatever a price file holds."""
    expected = [datetime(2024, 1, 2, 21, tzinfo=UTC)]
    assert session_close(["2024-01-02"], "America/New_York", "16:00") == expected
    dates = np.array(["2024-01-02"], dtype="datetime64[D]")
    assert session_close(dates, "America/New_York", "16:00") == expected


@pytest.mark.parametrize(
    "bad",
    [
        (["yesterday"], "America/New_York", "16:00"),
        (["2024-01-02"], "Mars/Olympus", "16:00"),
        (["2024-01-02"], "America/New_York", "25:00"),
    ],
    ids=repr,
)
def test_session_close_refuses_nonsense(bad):
    """Dates, zones and times that are none."""
    with pytest.raises(InvalidTimeError):
        session_close(*bad)


def test_aware_timestamps_of_pandas_are_times(live):
    """pandas.Timestamp with a zone is accepted wherever a time is; a naive one is refused."""
    pandas = pytest.importorskip("pandas")
    aware = pandas.Timestamp("2023-06-01 16:00", tz="America/New_York")

    async def body(memory):
        await memory.put("a", "k", 1, known_at=aware)
        assert (await memory.get_record("a", "k")).known_at == datetime(2023, 6, 1, 20, tzinfo=UTC)
        assert await memory.get("a", "k", as_of=aware) == 1
        with pytest.raises(InvalidTimeError):
            await memory.put("a", "k", 1, known_at=pandas.Timestamp("2023-06-01"))

    live(body)
