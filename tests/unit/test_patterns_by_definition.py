"""What a pattern says of its situations, and who is ranked first in one, against what that is defined as."""

import asyncio
import math
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from nt_memory.clock import ManualClock
from nt_memory.reasoningbank import ReasoningBank, Trajectory
from nt_memory.reasoningbank.dependence import Z95, daily_mean
from nt_memory.reasoningbank.describing import NAMED, wilson
from nt_memory.reasoningbank.evidence import (
    Found,
    default_neighbours,
    doubts,
    keep,
    success_probability,
    with_baseline,
)
from nt_memory.reasoningbank.promotion import measure_clusters
from nt_memory.testing.backing import MemoryBacking

DAY = timedelta(days=1)
DAY_US = 86_400_000_000


def halves(vectors, k, seed):
    """Two clusters, by the sign of the first component."""
    del k, seed
    return vectors[:2], (vectors[:, 0] > 0).astype(np.int64)


def bank_of(body):
    async def inner():
        clock = ManualClock()
        backing = MemoryBacking(clock)
        bank = ReasoningBank(backing, kmeans=halves)
        backing.followers.append(bank.follow)
        await body(bank, clock)

    asyncio.run(inner())


async def remember(bank, clock, days, *, agent="a", seed=1, baseline=True, predict=None, first=0):
    """A forecast a day, in situations of three components; what was embedded, claimed and came."""
    rng = np.random.default_rng(seed)
    start = clock.now()
    clock.advance((days + 5) * 86_400)
    embedded = np.concatenate([rng.normal(size=(days, 2)), np.full((days, 1), 2.0)], axis=1)
    outcome = embedded[:, 0] + rng.normal(size=days)
    predicted = (0.6 * outcome if predict is None else predict(embedded, outcome)) + 0.2
    naive = rng.normal(0.0, 0.5, size=days)
    built = []
    for day in range(days):
        at = start + day * DAY
        one = Trajectory(agent, id=f"{agent}{first + day:03d}").add_observation(
            None, embedded[day], at=at
        )
        one.add_action(
            "f", None, float(predicted[day]), baseline=float(naive[day]) if baseline else None, at=at
        )  # fmt: skip
        built.append(one.add_outcome(float(outcome[day]), at=at + 2 * DAY))
    await bank.track_many(built)
    length = np.sqrt(np.sum(embedded**2, axis=1, keepdims=True))
    return embedded / length, predicted, outcome, naive


@pytest.mark.parametrize(("share", "n"), [(0.0, 5.0), (0.3, 12.5), (0.5, 100.0), (1.0, 5.0)])
def test_an_interval_of_a_share_is_where_the_score_test_ends(share, n):
    """Its ends are the shares p with (s - p)^2 = z^2 p (1 - p) / n; never beyond 0 and 1."""
    low, high = wilson(share, n)
    for end in (low, high):
        # Twice the root where the share itself is an end.
        assert (share - end) ** 2 == pytest.approx(Z95**2 * end * (1.0 - end) / n, abs=1e-12)
    assert 0.0 <= low <= share <= high <= 1.0
    assert low < high


def test_a_pattern_is_what_its_numbers_are_defined_as():
    """Middle, radius, outcomes, and which forecasts beat their baseline, of one cluster."""

    async def body(bank, clock):
        await bank.define("f", target="x", unit="sd", horizon=2)
        vectors, predicted, outcome, naive = await remember(bank, clock, 120)
        found = await bank.distill("a")
        assert len(found) == 2
        for pattern in found:
            inside = (vectors[:, 0] > 0) == (pattern.centroid[0] > 0)
            middle = vectors[inside].sum(axis=0)
            middle /= np.sqrt(np.sum(middle**2))
            apart = np.sqrt(np.maximum(2.0 - 2.0 * vectors[inside] @ middle, 0.0))
            at = np.flatnonzero(inside) * DAY_US
            mean = daily_mean(outcome[inside], at, 2)
            assert pattern.centroid == pytest.approx(middle, abs=1e-3)
            assert pattern.radius == pytest.approx(np.quantile(apart, 0.9), abs=1e-3)
            assert (pattern.unit, pattern.n) == ("sd", np.count_nonzero(inside))
            assert pattern.outcome_mean == pytest.approx(mean.value)
            assert pattern.outcome_error == pytest.approx(mean.standard_error)
            assert pattern.n_effective == pytest.approx(mean.n_effective)
            assert pattern.outcome_quantiles == pytest.approx(
                np.quantile(outcome[inside], [0.1, 0.25, 0.5, 0.75, 0.9])
            )
            skill = abs(naive - outcome) - abs(predicted - outcome)
            won = daily_mean((skill[inside] > 0.0).astype(float), at, 2)
            assert pattern.success_rate == pytest.approx(won.value)
            assert (pattern.success_low, pattern.success_high) == pytest.approx(
                wilson(won.value, won.n_effective)
            )
            order = [place for place in np.argsort(skill) if inside[place]]
            lost = [place for place in order if skill[place] < 0.0]
            assert pattern.failures == len(lost)
            assert pattern.failure_error == pytest.approx(np.mean((predicted - outcome)[lost]))
            assert pattern.failed == tuple(f"a{place:03d}" for place in lost[:NAMED])
            best = [place for place in order[::-1] if skill[place] > 0.0]
            assert pattern.worked == tuple(f"a{place:03d}" for place in best[:NAMED])
            assert (pattern.summary, pattern.contrast) == ("", "")
            assert {ref.trajectory_id for ref in pattern.sources} == {
                f"a{place:03d}" for place in np.flatnonzero(inside)
            }

    bank_of(body)


@pytest.mark.parametrize("has_baseline", [True, False])
def test_what_is_tested_is_the_outcome_less_its_baseline(has_baseline):
    """Of each cluster against all others; the outcome itself where a baseline is missing."""

    async def body(bank, clock):
        await bank.define("f", target="x", unit="sd", horizon=2)
        vectors, _, outcome, naive = await remember(bank, clock, 200)
        if not has_baseline:
            more, _, came, _ = await remember(bank, clock, 1, baseline=False, seed=7, first=200)
            vectors, outcome = np.concatenate([vectors, more]), np.concatenate([outcome, came])
        values = outcome - naive if has_baseline else outcome
        at = np.arange(len(values)) * DAY_US
        at[200:] = 205 * DAY_US
        cluster = (vectors[:, 0] > 0).astype(np.int64)
        tests = measure_clusters(values, at, cluster, 2)
        for pattern in await bank.distill("a", look=True):
            number = int(pattern.centroid[0] > 0)
            apart = cluster == number
            assert pattern.surprise == ("outcome minus baseline" if has_baseline else "outcome")
            assert pattern.effect == pytest.approx(values[apart].mean() - values[~apart].mean())
            assert pattern.elsewhere == pytest.approx(values[~apart].mean())
            assert pattern.effect_error == pytest.approx(tests.error[number])
            assert pattern.p_value == pytest.approx(tests.p_value[number])
            assert pattern.stretches == tests.stretches[number]

    bank_of(body)


def test_without_baselines_nothing_is_said_of_success():
    """There is nothing to beat."""

    async def body(bank, clock):
        await bank.define("f", target="x", unit="sd", horizon=2)
        await remember(bank, clock, 60, baseline=False)
        for pattern in await bank.distill("a"):
            assert (pattern.success_rate, pattern.success_low, pattern.success_high) == (None,) * 3
            assert (pattern.failures, pattern.failure_error) == (0, None)
            assert pattern.failed == pattern.worked == ()

    bank_of(body)


def test_a_pattern_of_equal_situations_is_watched_like_any_other():
    """Its radius is nothing, and its situations are within it: they speak against it when it breaks."""

    async def body(bank, clock):
        await bank.define("f", target="x", unit="sd", horizon=1)
        rng = np.random.default_rng(5)
        against = []
        for effect in (2.0, 2.0, 0.0):
            start = clock.now()
            clock.advance(301 * 86_400)
            built = []
            for day in range(300):
                is_up = bool(rng.random() < 0.5)
                at = start + day * DAY
                one = Trajectory("a", id=f"{start}/{day}")
                one.add_observation(None, [1.0, 0.0] if is_up else [0.0, 1.0], at=at)
                one.add_action("f", None, 0.0, baseline=0.0, at=at)
                built.append(one.add_outcome(float(effect * is_up + rng.normal()), at=at + DAY))
            await bank.track_many(built)
            found = await bank.distill("a", look=not against)
            promoted = [one for one in found if one.promoted_at_us and one.centroid[0] > 0.5]
            against.append((promoted[0].radius, promoted[0].is_promoted))
        assert against == [(0.0, True), (0.0, True), (0.0, False)]

    bank_of(body)


def test_words_are_of_what_is_notable_and_no_more():
    """Half a deviation is worth a word, one and a half a strong one; failures are told apart by chance."""

    async def body(bank, clock):
        names = ("trend", "calm", "level")
        await bank.define("f", target="x", unit="sd", horizon=2, features=names)

        def predict(embedded, outcome):  # fails where calm is low
            return np.where(embedded[:, 1] > 0.0, outcome - 0.2, outcome + 9.0)

        vectors, *_ = await remember(bank, clock, 160, predict=predict)
        found = await bank.distill("a")
        spread = vectors.std(axis=0)
        for pattern in found:
            inside = (vectors[:, 0] > 0) == (pattern.centroid[0] > 0)
            apart = (vectors[inside].mean(axis=0) - vectors.mean(axis=0)) / spread
            words = [
                f"{'very ' if abs(apart[place]) >= 1.5 else ''}"
                f"{'high' if apart[place] > 0 else 'low'} {names[place]}"
                for place in np.argsort(-abs(apart))
                if abs(apart[place]) >= 0.5
            ]
            assert pattern.summary == ", ".join(words)
            assert "trend" in pattern.summary
            assert pattern.contrast == "Forecasts failed rather with lower calm"

    bank_of(body)


@pytest.mark.parametrize("is_telling", [True, False])
def test_failures_are_told_apart_by_what_chance_would_seldom_do(is_telling):
    """Two standard errors of the difference, and a fifth of a deviation; by nothing where nothing is."""

    async def body(bank, clock):
        names = ("trend", "calm", "level")
        await bank.define("f", target="x", unit="sd", horizon=2, features=names)
        noise = np.random.default_rng(21).normal(size=300)

        def predict(embedded, outcome):  # fails rather where calm is low
            return np.where(
                is_telling * embedded[:, 1] + 1.5 * noise > 0.0, outcome - 0.2, outcome + 9.0
            )

        vectors, predicted, outcome, naive = await remember(bank, clock, 300, predict=predict)
        skill = abs(naive - outcome) - abs(predicted - outcome)
        spread = vectors.std(axis=0)
        for pattern in await bank.distill("a"):
            inside = (vectors[:, 0] > 0) == (pattern.centroid[0] > 0)
            worked, failed = vectors[inside & (skill > 0)], vectors[inside & (skill < 0)]
            apart = (failed.mean(axis=0) - worked.mean(axis=0)) / spread
            chance = 2 * vectors[inside].std(axis=0) / spread
            chance *= math.sqrt(1 / len(worked) + 1 / len(failed))
            words = [
                f"{'high' if apart[place] > 0 else 'low'}er {names[place]}"
                for place in np.argsort(-abs(apart))
                if abs(apart[place]) > max(chance[place], 0.2)
            ]
            assert ("lower calm" in words) == is_telling
            assert abs(apart[1]) < 1.2
            said = f"Forecasts failed rather with {', '.join(words)}" if words else ""
            assert pattern.contrast == said
            assert bool(words) == is_telling

    bank_of(body)


def test_agents_are_ranked_by_their_nearest_forecasts():
    """A twentieth of them, at least 50: their skill as a share of the baseline's loss, shrunk."""

    async def body(bank, clock):
        await bank.define("f", target="x", unit="sd", horizon=2)
        vectors, predicted, outcome, naive = await remember(bank, clock, 150)
        few, *_ = await remember(bank, clock, 20, agent="b", seed=2)
        await remember(bank, clock, 20, agent="blind", seed=3, baseline=False)
        query = np.array([0.6, 0.0, 0.8])
        for day in range(20):
            one = Trajectory("humbled", id=f"h{day}").add_observation(None, query)
            one.add_action("f", None, 1.0, baseline=0.0)
            await bank.track_trajectory(one.add_outcome(0.0))
        names = ("a", "b", "blind", "humbled")
        ranked = {one.agent: one for one in await bank.rank([*names, "nobody"], query)}
        # A baseline that was always right: there is nothing to take its loss as a share of.
        assert (ranked["humbled"].score, ranked["humbled"].n) == (0.0, 20)
        assert ranked["humbled"].skill.value == -1.0
        score = vectors @ query
        near = np.sort(np.argsort(-score)[:50])
        skill = (abs(naive - outcome) - abs(predicted - outcome))[near]
        mean = daily_mean(skill, near * DAY_US, 2)
        share = mean.value / abs(naive - outcome)[near].mean()
        found = ranked["a"]
        assert found.n == 50
        assert found.skill.value == pytest.approx(mean.value)
        assert found.skill.standard_error == pytest.approx(mean.standard_error)
        shrunk = share * mean.n_effective / (mean.n_effective + 50.0)
        assert found.score == pytest.approx(shrunk)
        assert found.distance == pytest.approx(math.sqrt(2 - 2 * score[near].min()), abs=1e-3)
        assert ranked["b"].n == 20
        assert ranked["b"].distance == pytest.approx(
            math.sqrt(2 - 2 * (few @ query).min()), abs=1e-3
        )
        for nothing in (ranked["blind"], ranked["nobody"]):
            assert (nothing.score, nothing.n) == (0.0, 0)
            assert math.isnan(nothing.skill.value)
            assert nothing.skill[1:] == (math.inf, 0, 0.0, math.inf)
            assert math.isnan(nothing.distance)

    bank_of(body)


def test_who_knows_much_is_ranked_by_a_twentieth_of_it():
    """Of 1,079 forecasts by the nearest 53."""

    async def body(bank, clock):
        await bank.define("f", target="x", unit="sd", horizon=2)
        await remember(bank, clock, 1_079)
        (found,) = await bank.rank(["a"], [0.6, 0.0, 0.8])
        assert found.n == 53

    bank_of(body)


# --- what advice rests on -----------------------------------------------------------------------


def test_a_twentieth_is_recalled_within_bounds():
    """At least 10, at most 300."""
    assert [default_neighbours(n) for n in (0, 219, 220, 5_999, 6_000, 10**7)] == [
        10, 10, 11, 299, 300, 300,
    ]  # fmt: skip


def recalled(n=4):
    entry = np.arange(n)
    return Found(
        entry + 10, entry + 20, 1.0 - entry / 10, entry, np.arange(n) * 1.0,
        np.where(entry == 1, np.nan, 2.0),
    )  # fmt: skip


def test_memories_are_kept_column_by_column():
    """Each of the marked with all that belongs to it."""
    found = recalled()
    kept = with_baseline(found)
    assert [column.tolist() for column in kept] == [
        [10, 12, 13], [20, 22, 23], [1.0, 0.8, 0.7], [0, 2, 3], [0.0, 2.0, 3.0], [2.0, 2.0, 2.0],
    ]  # fmt: skip
    assert keep(found, np.ones(4, np.bool_)) is found


def test_the_chance_of_success_is_a_weighted_share_shrunk_to_one_half():
    """Of forecasts that beat their baseline, ties half; ten memories' worth of one half beside it."""
    predicted = np.array([1.0, 1.0, 2.0, 0.0])
    table = SimpleNamespace(entry={"predicted": predicted})
    found = recalled()  # outcomes 0 1 2 3, baseline 2 but for the second
    weights = np.array([0.4, 0.3, 0.2, 0.1])
    said = SimpleNamespace(weights=weights, effective=3.5)

    def chance():
        return success_probability(table, found, said)

    rate, n = (0.4 * 1.0 + 0.2 * 0.5 + 0.1 * 0.0) / 0.7, 3.5 * 0.75
    assert chance() == pytest.approx((rate * n + 5.0) / (n + 10.0))
    predicted[2] = np.nan
    rate, n = 0.4 / 0.5, 3.5 * 0.5
    assert chance() == pytest.approx((rate * n + 5.0) / (n + 10.0))
    predicted[:] = np.nan
    assert chance() is None


def test_doubts_begin_past_their_bounds():
    """Each by itself: few memories, rare situations, widened intervals, lost forecasts."""
    sure = {"alpha": 0.1, "level": 0.8, "success": 0.4, "distance": 1.0, "typical": 1.0}

    def said(effective=10.0, **more):
        return doubts(SimpleNamespace(effective=effective), **(sure | more))

    assert said() == ()
    assert said(success=None, typical=0.0) == ()
    assert said(9.9) == ("it rests on 9.9 memories",)
    assert said(distance=1.01) == ("such situations are rare in memory",)
    assert said(alpha=0.0999) == ("recent intervals missed too often, so this one is widened",)
    assert said(success=0.39) == ("forecasts lost to their baseline in similar situations",)
