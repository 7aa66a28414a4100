"""Patterns are promoted for skill, not luck: tested at declared looks, watched, and retired."""

import asyncio
from datetime import timedelta

import numpy as np
import pytest
from _worlds import OVERLAP, draw_features, draw_panel

from nt_memory.clock import ManualClock
from nt_memory.errors import ConflictError, InvalidInputError, TrajectoryError
from nt_memory.reasoningbank import ReasoningBank, Trajectory, promotion
from nt_memory.reasoningbank.dependence import freedom_of, long_run_variances
from nt_memory.reasoningbank.promotion import calibrated, measure_clusters
from nt_memory.testing.backing import MemoryBacking

DAY = timedelta(days=1)
STOCKS = 3
FEATURES = ("trend", "calm")
UP = [1.0, 0.0, 3.0]


def halves(vectors, k, seed):
    """Two clusters, by the sign of the first component: clustering is not what is tested here."""
    del k, seed
    return vectors[:2], (vectors[:, 0] > 0).astype(np.int64)


class World:
    """A bank, and days of forecasts whose outcomes depend on the trend as much as they are told to."""

    def __init__(self, seed=1):
        self.clock = ManualClock()
        self.backing = MemoryBacking(self.clock)
        self.bank = self.new_bank()
        self.rng = np.random.default_rng(seed)
        self.days = 0

    def new_bank(self):
        bank = ReasoningBank(self.backing, kmeans=halves)
        self.backing.followers[:] = [bank.follow]
        return bank

    async def define(self, **options):
        options = {"target": "return", "unit": "sd", "horizon": OVERLAP, **options}
        return await self.bank.define("f", features=FEATURES, **options)

    async def live(self, days, effect=0.0, *, agent="a", predict=None, advice=None):
        """Days of forecasts of one agent; `effect` is added where the trend is up."""
        start = self.clock.now()
        self.clock.advance((days + OVERLAP) * 86_400)
        labels = draw_panel(self.rng, days, STOCKS)
        features = draw_features(self.rng, days, STOCKS, 2)
        built = []
        for day, stock in np.ndindex(days, STOCKS):
            at, x = start + day * DAY, features[day, stock]
            value = float(labels[day, stock] + effect * (x[0] > 0))
            one = Trajectory(agent, id=f"{agent}/{self.days + day:06d}/{stock}")
            one.add_observation(None, [*x, 3.0], at=at)
            predicted = 0.0 if predict is None else predict(x, value)
            one.add_action("f", None, predicted, baseline=0.0, advice=advice, at=at)
            built.append(one.add_outcome(value, at=at + OVERLAP * DAY))
        await self.bank.track_many(built)
        self.days += days


def run(body):
    asyncio.run(body())


def up_of(patterns):
    """The pattern of rising trends that was made last."""
    return max((one for one in patterns if one.centroid[0] > 0), key=lambda one: one.as_of_us)


def test_an_effect_is_promoted_at_a_look_and_only_there():
    """Describing claims nothing; a look promotes what differs from elsewhere, with its numbers."""

    async def body():
        world = World()
        await world.define()
        await world.live(800, effect=1.0)
        described = await world.bank.distill("a")
        assert all(one.p_value is None and not one.is_promoted for one in described)
        looked = await world.bank.distill("a", look=True)
        assert len(looked) == 2
        found = up_of(looked)
        assert found.is_promoted
        assert found.p_value < 0.001
        assert found.effect == pytest.approx(1.0, abs=4 * found.effect_error)
        assert found.surprise == "outcome minus baseline"
        assert found.promoted_at_us == found.as_of_us
        assert "Held up when tested" in found.describe()
        again = await world.new_bank().patterns("a")
        assert [one.to_doc() | {"centroid": 0} for one in again] == [
            one.to_doc() | {"centroid": 0} for one in looked
        ]

    run(body)


def test_noise_is_not_promoted():
    """Where situations say nothing about outcomes, a look finds nothing."""

    async def body():
        world = World(seed=4)
        await world.define(looks=1)
        await world.live(800)
        found = await world.bank.distill("a", look=True)
        assert [one.is_promoted for one in found] == [False, False]
        assert all(0.0 < one.p_value <= 1.0 for one in found)

    run(body)


def test_days_on_which_nothing_happened_do_not_prove_that_nothing_can():
    """Thirty days without what happens on one in five: as likely as 0.8 to the 30th, not impossible.

    Their own variance is zero, and an error made from it gave a p-value of 1e-5, a hundred times too small.
    """
    rng = np.random.default_rng(8)
    days = 1_200
    label = (rng.random(days) < 0.2).astype(np.float64)
    cluster = np.zeros(days, np.int64)
    cluster[np.flatnonzero(label == 0.0)[::31][:30]] = 1
    at_us = np.arange(days) * 86_400_000_000
    found = measure_clusters(label, at_us, cluster, 1)
    assert found.stretches[1] >= 25
    assert found.effect[1] == pytest.approx(-0.2, abs=0.03)
    assert 0.8**30 < found.p_value[1] < 0.05
    assert found.error[1] == pytest.approx(0.4 / 30**0.5, rel=0.25)


def test_an_error_is_as_large_as_the_worse_of_what_shifts_say_of_it():
    """Widened by how far studentised effects spread beyond Student's, at least the effects' own spread, never less."""
    error, freedom = np.full(6, 2.0), np.array([12.0, 12.0, 12.0, 12.0, 1.0, 2.0])
    squares = np.array([1.2, 4.8, 0.1, 4.8, 12.0, 12.0])
    spread = np.array([1.0, 1.0, 1.0, 25.0, 1.0, 1.0])
    # Of 12 degrees of freedom the mean square is 12 / 10; of up to two it has none, and 3 is taken.
    wanted = [2.0, 4.0, 2.0, 5.0, 4.0, 4.0]
    np.testing.assert_allclose(calibrated(error, squares, spread, freedom), wanted)


def test_errors_make_up_for_what_centring_takes_away():
    """Of few stretches of days a variance about their own mean is too small, by what `freedom_of` says."""
    rng = np.random.default_rng(5)
    days, lag = 60, 4
    at_us = np.arange(days) * 86_400_000_000
    cluster = (np.arange(days) // 5 % 2).astype(np.int64)
    values = rng.normal(size=days)
    groups = promotion._Groups(promotion.Panel(values, at_us), cluster, 2, lag)
    effect, error = groups.compare(values)
    inside = cluster == 1
    assert effect[1] == pytest.approx(values[inside].mean() - values[~inside].mean())
    influence = np.where(inside, values - values[inside].mean(), values[~inside].mean() - values)
    variance = long_run_variances((influence / 30)[:, None], lag)
    stretches = np.array([6.0])  # every other window of five days
    _, shrinkage = freedom_of(stretches)
    assert shrinkage[0] < 0.9
    assert error[1] == pytest.approx(np.sqrt(variance[0] / shrinkage[0]))


def test_looks_are_declared_in_advance_and_spent():
    """After as many looks as the definition declared there is no other; describing goes on."""

    async def body():
        world = World()
        await world.define(looks=2)
        await world.live(100)
        for _ in range(2):
            await world.bank.distill("a", look=True)
        with pytest.raises(InvalidInputError, match="all 2 looks"):
            await world.bank.distill("a", look=True)
        await world.live(60, agent="b")
        with pytest.raises(InvalidInputError, match="all 2 looks"):
            await world.bank.distill("b", look=True)
        assert await world.bank.distill("a")
        await world.define(looks=3)
        with pytest.raises(InvalidInputError):
            await world.bank.distill("a", look=True)

    run(body)


def test_looks_cannot_be_had_by_declaring_more_of_them():
    """Shares that were spent stay spent: two of two looks leave nothing of a hundred."""

    async def body():
        world = World()
        await world.define(looks=1)
        await world.live(100)
        await world.bank.distill("a", look=True)
        await world.define(looks=100)
        with pytest.raises(InvalidInputError, match="looks declared"):
            await world.bank.distill("a", look=True)

    run(body)


def test_two_looks_at_once_are_one_too_many():
    """Of looks that do not know of each other one is stored, the other can be tried again."""

    async def body():
        world = World()
        await world.define()
        await world.live(100)
        both = (world.bank.distill("a", look=True), world.bank.distill("a", look=True))
        found = await asyncio.gather(*both, return_exceptions=True)
        assert sorted(type(one) is list for one in found) == [False, True]
        assert any(isinstance(one, ConflictError) for one in found)

    run(body)


@pytest.mark.parametrize("bad", [{"looks": 0}, {"looks": True}, {"features": ("",)}])
def test_malformed_looks_and_features_are_refused(bad):
    """At least one look; features are names."""

    async def body():
        world = World()
        with pytest.raises(TrajectoryError):
            await world.bank.define("g", target="x", unit="1", horizon=1, **bad)

    run(body)


def test_a_promoted_pattern_is_kept_until_it_stops_holding():
    """Describing anew keeps it and weighs what came since; when the effect is gone it is retired."""

    async def body():
        world = World()
        await world.define()
        await world.live(800, effect=1.0)
        first = up_of(await world.bank.distill("a", look=True))
        await world.live(120, effect=1.0)
        kept = {one.id: one for one in await world.bank.distill("a")}
        assert kept[first.id].is_promoted
        assert kept[first.id].against < 1.0
        then = world.clock.now()
        await world.live(250, effect=0.0)
        gone = {one.id: one for one in await world.bank.distill("a")}[first.id]
        assert not gone.is_promoted
        assert gone.retired_at_us is not None
        assert gone.against > 0.0
        assert "No longer holds" in gone.describe()
        advice = await world.bank.advise("a", UP)
        assert first.id not in {one.id for one in advice.patterns}
        as_then = {one.id: one for one in await world.bank.patterns("a", as_of=then)}
        assert as_then[first.id].is_promoted
        assert first.id not in {one.id for one in await world.bank.distill("a")}

    run(body)


def test_only_what_came_after_the_look_speaks_against_a_pattern():
    """A situation at the very moment of the look is not new: four days after it are no block of five."""

    async def body():
        world = World()
        await world.define()
        await world.live(800, effect=1.0)
        first = up_of(await world.bank.distill("a", look=True))
        start = world.clock.now()
        world.clock.advance((OVERLAP + 6) * 86_400)
        against = []
        for day in range(6):
            at = start + day * DAY
            one = Trajectory("a", id=f"since/{day}").add_observation(None, UP, at=at)
            one.add_action("f", None, 0.0, baseline=0.0, at=at)
            await world.bank.track_trajectory(one.add_outcome(-3.0, at=at + OVERLAP * DAY))
            found = {one.id: one for one in await world.bank.distill("a")}
            against.append(found[first.id].against > 0.0)
        assert against == [False] * 5 + [True]

    run(body)


def test_a_look_tests_all_agents_it_takes_in_together():
    """The best of many who know nothing is one of many: what alone would pass does not pass there."""

    async def body():
        world = World(seed=11)
        await world.define(looks=1)
        names = [f"a{number:02d}" for number in range(12)]
        await world.live(300, agent="good", effect=1.0)
        for name in names:
            await world.live(120, agent=name)
        progress = []
        found = await world.bank.distill(
            ["good", *names], look=True, progress=lambda done, of: progress.append((done, of))
        )
        assert {one.agent for one in found} == {"good", *names}
        assert {one.agent for one in found if one.is_promoted} == {"good"}
        assert progress == [(done, 13) for done in range(14)]

    run(body)


def test_patterns_are_put_into_the_words_of_the_features():
    """What is special about the situations, and in which of them forecasts failed."""

    async def body():
        world = World()
        await world.define()
        await world.live(
            300, predict=lambda x, value: value if x[1] > 0 else value + 2 * abs(value)
        )
        found = await world.bank.distill("a")
        up = up_of(found)
        assert "high trend" in up.summary
        assert "lower calm" in up.contrast
        assert up.describe().startswith(up.summary[0].upper())
        assert up.failed
        assert up.worked
        assert not set(up.failed) & set(up.worked)

    run(body)


def test_a_pattern_is_trusted_no_more_than_its_least_trusted_source():
    """A poisoned source lowers trust and never raises it; its lineage names everybody."""

    async def body():
        world = World()
        await world.define()
        await world.live(80, agent="good", predict=lambda x, value: 0.5 * value)
        await world.live(80, agent="bad", predict=lambda x, value: -2.0 * value)
        own = await world.bank.distill("good")
        assert {(one.lineage, one.trust) for one in own} == {(("good",), 1.0)}
        poisoned = await world.bank.distill("bad")
        assert all(one.trust < 0.6 for one in poisoned)
        advice = await world.bank.advise(["good", "bad"], UP)
        assert {ref.agent for ref in advice.receipt.memories} == {"good", "bad"}
        await world.live(80, agent="new", advice=advice, predict=lambda x, value: 0.5 * value)
        for one in await world.bank.distill("new"):
            assert one.lineage == ("bad", "good", "new")
            assert one.trust == poisoned[0].trust

    run(body)


def test_a_poisoned_source_cannot_buy_trust_by_what_it_makes_up_elsewhere():
    """Perfect forecasts of another action type, outcomes made up to fit, leave its trust where it was."""

    async def body():
        world = World()
        await world.define()
        await world.live(80, agent="bad", predict=lambda x, value: -2.0 * value)
        before = {one.trust for one in await world.bank.distill("bad")}
        assert max(before) < 0.6
        await world.bank.define("easy", target="whatever is said", unit="1", horizon=1)
        start = world.clock.now()
        world.clock.advance(402 * 86_400)
        built = []
        for day in range(400):
            one = Trajectory("bad", id=f"easy/{day}")
            one.add_action("easy", None, 1.0, baseline=0.0, at=start + day * DAY)
            built.append(one.add_outcome(1.0, at=start + (day + 1) * DAY))
        await world.bank.track_many(built)
        weights = await world.bank.vote_weights(["bad"])
        assert weights["bad"] > max(before) + 0.3  # pooled over all it does, it looks better
        found = await world.bank.distill("bad", action_type="f")
        assert {one.trust for one in found if one.action_type == "f"} <= before

    run(body)


def test_a_promoted_pattern_advises_without_a_search():
    """Inside it says what memories say, names itself in the receipt and saves the search; outside not."""

    async def body():
        world = World()
        await world.define()
        await world.live(800, effect=1.0)
        both = await world.bank.distill("a", look=True)
        pattern = up_of(both)
        recalled = await world.bank.advise("a", UP, baseline=0.0)
        searches = world.backing.searches
        said = await world.bank.advise("a", UP, baseline=0.0, from_patterns=True)
        assert world.backing.searches == searches
        assert said.receipt.pattern == f"a/{pattern.id}"
        assert said.known == pattern.n
        assert said.low < said.expected < said.high
        assert said.expected == pytest.approx(recalled.expected, abs=0.5)
        assert said.high - said.low == pytest.approx(recalled.high - recalled.low, rel=0.5)
        assert f"From pattern a/{pattern.id}" in said.as_text()
        shifted = await world.bank.advise("a", UP, baseline=7.0, from_patterns=True)
        assert shifted.expected == pytest.approx(said.expected + 7.0)
        act = Trajectory("a", id="act").add_action("f", None, 1.0, advice=said)
        await world.bank.track_trajectory(act)
        assert (await world.bank.receipt("act")).pattern == said.receipt.pattern
        # Without a baseline it is not known what the pattern would say of the outcome.
        assert (await world.bank.advise("a", UP, from_patterns=True)).receipt.pattern == ""
        far = await world.bank.advise("a", [0.0, -9.0, 1.0], baseline=0.0, from_patterns=True)
        assert far.receipt.pattern == ""
        replaced = pattern.replaced()
        assert replaced.memories == pattern.n
        assert replaced.pattern_bytes < replaced.memory_bytes

    run(body)


def test_savings_count_answers_by_where_they_came_from():
    """Answers from patterns and from memories are counted and timed apart; abstentions are neither."""

    async def body():
        world = World()
        await world.define()
        await world.live(800, effect=1.0)
        await world.bank.distill("a", look=True)
        assert np.isnan((await world.bank.savings()).saved_s)

        def slow():
            world.clock.advance(0.5)

        world.backing.before_search = slow
        pattern = up_of(await world.bank.patterns("a"))
        for from_patterns in (True, True, False):
            await world.bank.advise(
                "a", UP, action_type="f", baseline=0.0, exact=True, from_patterns=from_patterns
            )
        await world.bank.advise("nobody", UP, action_type="f")
        saved = await world.bank.savings()
        assert (saved.from_patterns, saved.from_memories) == (2, 1)
        assert saved.memories == 2 * pattern.n
        assert saved.pattern_s == 0.0
        assert saved.memory_s >= 0.5
        assert saved.saved_s == 2 * saved.memory_s

    run(body)
