"""Advice rests on exactly the memories it names, and says when it knows nothing."""

import asyncio
import json
from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from nt_memory.clock import ManualClock
from nt_memory.errors import DimensionError, InvalidInputError
from nt_memory.reasoningbank import ReasoningBank, Trajectory
from nt_memory.testing.backing import MemoryBacking

QUERY = [1.0, 0.0, 0.2]


def run(body):
    async def inner():
        clock = ManualClock()
        backing = MemoryBacking(clock)
        bank = ReasoningBank(backing, kmeans=backing.kmeans)
        backing.followers.append(bank.follow)
        await bank.define("vol", target="volatility", unit="%", horizon=1, loss="squared")
        await body(bank, clock, backing)

    asyncio.run(inner())


async def remember(bank, clock, n=60, agents=("a", "b"), seed=1, *, is_advised=True, **claims):
    rng = np.random.default_rng(seed)
    for day in range(n):
        built = []
        advice = await bank.advise(agents, QUERY) if is_advised else None
        for agent in agents:
            x = rng.normal(size=3)
            one = Trajectory(agent, id=f"{agent}-{day}").add_observation(None, x)
            claim = {"baseline": 0.0, "predicted_interval": (-1.0, 1.0), "advice": advice, **claims}
            one.add_action("vol", None, float(x[0]), **claim)
            built.append(one.add_outcome(float(x[0] + 0.1 * rng.normal())))
        await bank.track_many(built)
        clock.advance(86_400)


def test_advice_names_its_target_and_memories():
    """Similar situations decide; receipt, memories, dictionary and text agree with each other."""

    async def body(bank, clock, backing):
        await remember(bank, clock)
        advice = await bank.advise(["a", "b"], QUERY, gain=0.0)
        assert (advice.target, advice.unit, advice.functional) == ("volatility", "%", "mean")
        assert advice.low < advice.expected < advice.high
        assert advice.expected > 0.3
        memories = advice.memories()
        assert [memory.ref for memory in memories] == advice.receipt.memories
        mean = sum(memory.weight * memory.outcome for memory in memories)
        assert mean == pytest.approx(advice.expected)
        assert json.loads(json.dumps(advice.to_dict()))["expected"] == advice.expected
        assert "volatility" in advice.as_text()
        assert len(advice.as_text(40)) == 40

    run(body)


def test_only_the_agents_asked_are_consulted():
    """Nobody else's memories are used, nor do their intervals steer this one's."""

    async def body(bank, clock, backing):
        await remember(bank, clock)
        before = await bank.advise("a", QUERY)
        await remember(bank, clock, agents=("c",), predicted_interval=(90.0, 91.0))
        after = await bank.advise("a", QUERY)
        assert {ref.agent for ref in after.receipt.memories} == {"a"}
        assert (after.expected, after.low, after.alpha) == (
            before.expected,
            before.low,
            before.alpha,
        )

    run(body)


def test_a_receipt_is_kept_with_the_action_that_acted_on_it():
    """The stored receipt names the same memories, and forgetting them changes the advice."""

    async def body(bank, clock, backing):
        await remember(bank, clock)
        advice = await bank.advise(["a", "b"], QUERY)
        action = Trajectory("a", id="act").add_action("vol", None, 1.0, advice=advice)
        await bank.track_trajectory(action)
        kept = await bank.receipt("act")
        assert sorted(kept.memories) == sorted(advice.receipt.memories)
        await bank.forget([ref.trajectory_id for ref in kept.memories])
        later = await bank.advise(["a", "b"], QUERY)
        assert later.expected != advice.expected
        assert not set(later.receipt.memories) & set(advice.receipt.memories)
        then = await bank.advise(["a", "b"], QUERY, as_of=backing.revision - 1)
        assert then.receipt.memories == advice.receipt.memories

    run(body)


def test_with_a_baseline_errors_of_frozen_baselines_are_recalled():
    """If every memory's outcome lay 2 above its baseline, advice is today's baseline plus 2."""

    async def body(bank, clock, backing):
        rng = np.random.default_rng(2)
        for n in range(30):
            one = Trajectory("a", id=str(n)).add_observation(None, rng.normal(size=3))
            await bank.track_trajectory(one.add_action("vol", baseline=n).add_outcome(n + 2.0))
        advice = await bank.advise("a", QUERY, baseline=10.0)
        assert advice.expected == pytest.approx(12.0)
        assert advice.low == pytest.approx(12.0)

    run(body)


def test_the_mean_of_a_function_is_taken_over_the_memories_and_not_of_the_forecast():
    """Each recalled error lands on today's baseline, with the bias, before the function is taken."""

    async def body(bank, clock, backing):
        await remember(bank, clock)
        for gain in (0.0, 0.5):
            advice = await bank.advise(["a", "b"], QUERY, baseline=2.0, gain=gain)
            assert (advice.bias != 0.0) is (gain > 0.0)
            moved = [
                (one.weight, one.outcome - one.baseline + 2.0 + advice.bias)
                for one in advice.memories()
            ]
            wanted = sum(weight * np.exp(2.0 * outcome) for weight, outcome in moved)
            found = advice.mean_of(lambda outcomes: np.exp(2.0 * outcomes))
            assert found == pytest.approx(wanted, rel=1e-12)
            assert found > np.exp(2.0 * advice.expected) * 1.05
            assert advice.mean_of(lambda outcomes: outcomes) == pytest.approx(advice.expected)
        plain = await bank.advise(["a", "b"], QUERY)
        assert plain.mean_of(lambda outcomes: outcomes) == pytest.approx(plain.expected)

    run(body)


def test_abstains_when_nothing_similar_is_known():
    """Too few outcomes, or only far-away situations: it says so and falls back to the baseline."""

    async def body(bank, clock, backing):
        nothing = await bank.advise("a", QUERY, action_type="vol", baseline=3.0)
        assert nothing.is_abstaining
        assert nothing.expected == 3.0
        assert nothing.mean_of(np.exp) is None
        rng = np.random.default_rng(2)
        for n in range(40):
            near = np.array([1.0, 0.0, 0.0]) + 0.01 * rng.normal(size=3)
            one = Trajectory("a", id=str(n)).add_observation(None, near)
            await bank.track_trajectory(one.add_action("vol").add_outcome(1.0))
        far = await bank.advise("a", [-1.0, 0.0, 0.0])
        assert far.is_abstaining
        assert far.low is None
        assert not (await bank.advise("a", [1.0, 0.0, 0.0])).is_abstaining

    run(body)


def test_missed_intervals_widen_the_next_one():
    """After misses the interval aims at fewer of them; gamma 0 gives the plain quantiles."""

    async def body(bank, clock, backing):
        await remember(bank, clock, n=40, predicted_interval=(50.0, 51.0))
        adaptive = await bank.advise(["a", "b"], QUERY, k=40)
        plain = await bank.advise(["a", "b"], QUERY, k=40, gamma=0.0)
        assert plain.alpha == pytest.approx(0.2)
        assert adaptive.alpha < 0.1
        assert adaptive.high - adaptive.low > plain.high - plain.low

    run(body)


def test_only_advised_forecasts_steer():
    """An agent's own misses, forecast without advice, neither widen nor shift what it is told."""

    async def body(bank, clock, backing):
        await remember(bank, clock, n=40, predicted_interval=(50.0, 51.0), is_advised=False)
        advice = await bank.advise(["a", "b"], QUERY, k=40)
        assert advice.alpha == pytest.approx(0.2)
        assert advice.bias == 0.0

    run(body)


def test_a_revision_during_the_search_is_not_seen():
    """An outcome revised while the search runs still counts as it was at the moment asked."""

    async def body(bank, clock, backing):
        await remember(bank, clock, agents=("a",), n=20)
        expected = (await bank.advise("a", QUERY, k=20)).to_dict()
        receipt = (await bank.advise("a", QUERY, k=20)).receipt.memories
        revised = []

        def meddle():
            if not revised:
                revised.append(1)
                key = f"{receipt[0].trajectory_id}/0"
                from nt_memory.entries import OUTCOME, WriteOp
                from nt_memory.reasoningbank.wire import OutcomeDoc, encode

                backing.write_now([WriteOp(OUTCOME, "a", key, encode(OutcomeDoc(1e9)))])

        backing.before_search = meddle
        assert (await bank.advise("a", QUERY, k=20)).to_dict() == expected
        assert revised
        assert (await bank.advise("a", QUERY, k=20)).to_dict() != expected

    run(body)


def test_withheld_advice_measures_its_worth():
    """A keyed coin decides by trajectory; uplift recovers what showing advice was worth."""

    async def body(bank, clock, backing):
        await remember(bank, clock, agents=("m",))
        rng = np.random.default_rng(4)
        fates = {}
        for n in range(400):
            name = f"u{n}"
            advice = await bank.advise("m", QUERY, withhold=0.5, trajectory=name, baseline=0.0)
            assert advice.receipt.propensity == 0.5
            fates[name] = advice.is_withheld
            error = (1.0 if advice.is_withheld else 0.5) + 0.1 * rng.normal()
            one = Trajectory("u", id=name).add_action(
                "vol", None, error, baseline=1.5, advice=advice
            )
            await bank.track_trajectory(one.add_outcome(0.0))
        again = await bank.advise("m", QUERY, withhold=0.5, trajectory="u7")
        assert again.is_withheld == fates["u7"]
        assert 150 < sum(fates.values()) < 250
        found = await bank.uplift("u")
        assert found.units == 400
        assert found.low < 1.0 - 0.25 < found.high
        assert found.low > 0.6
        with pytest.raises(InvalidInputError):
            await bank.advise("m", QUERY, withhold=0.5)

    run(body)


def test_definitions_of_another_target_are_not_mixed():
    """Outcomes of an older target are not recalled for a newer one."""

    async def body(bank, clock, backing):
        await remember(bank, clock, n=20)
        await bank.define("vol", target="something else", unit="points", horizon=1)
        assert (await bank.advise("a", QUERY)).is_abstaining

    run(body)


def test_bad_questions_are_refused():
    """Each with a clear error."""

    async def body(bank, clock, backing):
        await remember(bank, clock, n=20)
        for bad in ({"level": 1.0}, {"withhold": 1.0, "trajectory": "t"}, {"k": 0}):
            with pytest.raises(InvalidInputError):
                await bank.advise("a", QUERY, **bad)
        with pytest.raises(InvalidInputError):
            await bank.advise([], QUERY)
        with pytest.raises(DimensionError):
            await bank.advise("a", [1.0, 2.0])

    run(body)


def test_exact_clones_share_one_vote():
    """Ten clones weigh as one, and so do agents with too few verdicts."""

    async def body(bank, clock, backing):
        rng = np.random.default_rng(9)
        clones = [f"c{n}" for n in range(10)]
        for day in range(120):
            error, other = rng.normal(size=2)
            for agent in (*clones, "lone"):
                value = other if agent == "lone" else error
                one = Trajectory(agent, id=f"{agent}-{day}")
                one.add_action("vol", None, float(value), baseline=1.5).add_outcome(0.0)
                await bank.track_trajectory(one)
            clock.advance(86_400)
        weights = await bank.vote_weights([*clones, "lone", "new", "newer"])
        alone = (await bank.vote_weights(["c0"]))["c0"]
        together = await bank.vote_weights(clones)
        assert sum(together.values()) == pytest.approx(alone, rel=0.01)
        assert weights["new"] + weights["newer"] == pytest.approx(1.0)
        assert 0.0 < weights["lone"] <= 2.0

    run(body)


def test_patterns_describe_clusters_and_never_claim_promotion():
    """Distilled patterns are stored as of then, found by advice, and their lineage is complete."""

    async def body(bank, clock, backing):
        await remember(bank, clock, n=120, agents=("a",))
        before = backing.revision
        patterns = await bank.distill("a")
        assert sum(pattern.n for pattern in patterns) == 120
        assert {ref for p in patterns for ref in p.sources} == {
            ("a", f"a-{n}", 0) for n in range(120)
        }
        assert all(p.p_value is None and not p.is_promoted for p in patterns)
        assert all(p.n_effective <= p.n for p in patterns)
        assert await bank.patterns("a", as_of=before) == []
        assert [p.id for p in await bank.patterns("a")] == [p.id for p in patterns]
        advice = await bank.advise("a", patterns[0].centroid)
        assert advice.patterns[0].id == patterns[0].id

    run(body)


def test_frames_are_read_by_polars():
    """The Arrow stream holds every verdict, with nulls where nothing applies."""

    async def body(bank, clock, backing):
        await remember(bank, clock, n=60)
        await bank.distill("a")
        verdicts = pl.DataFrame(await bank.frame("verdicts"))
        assert verdicts.height == 120
        assert verdicts["crps"].null_count() == 120
        assert verdicts["error"].abs().mean() < 0.2
        assert pl.DataFrame(await bank.frame("trajectories")).height == 120
        assert pl.DataFrame(await bank.frame("patterns"))["n"].sum() == 60
        with pytest.raises(InvalidInputError):
            await bank.frame("prices")

    run(body)


def test_calibration_counts_what_was_known():
    """Coverage, bias and alpha come from the outcomes that count at the moment asked."""

    async def body(bank, clock, backing):
        await remember(bank, clock, n=50, agents=("a",))
        then = clock.now() - timedelta(days=25, hours=1)
        now, early = (await bank.calibration("a"))[0], (await bank.calibration("a", as_of=then))[0]
        assert (now.n, early.n) == (50, 25)
        assert 0.0 < now.coverage.value < 1.0
        assert abs(now.bias.value) < 4 * now.bias.standard_error
        assert now.sharpness.value == pytest.approx(2.0)
        assert now.steps == 50
        assert await bank.calibration("nobody") == []

    run(body)


def test_outcomes_without_forecasts_teach_nothing():
    """Where nothing was predicted, the interval aims where it started and no bias is added."""

    async def body(bank, clock, backing):
        for day in range(30):
            one = Trajectory("a", id=f"a-{day}").add_observation(None, [1.0, day / 30.0, 0.2])
            one.add_action("vol", baseline=0.0)
            await bank.track_trajectory(one.add_outcome(5.0))
            clock.advance(86_400)
        advice = await bank.advise("a", QUERY)
        assert (advice.alpha, advice.bias) == (pytest.approx(0.2), 0.0)
        (record,) = await bank.calibration("a")
        assert (record.steps, record.n) == (0, 30)

    run(body)
