"""An agent's record, the worth of advice and the weight of votes, against what they are defined as."""

import asyncio
import math
from datetime import timedelta

import numpy as np
import pytest

from nt_memory.clock import ManualClock
from nt_memory.errors import InvalidInputError
from nt_memory.reasoningbank import ReasoningBank, Trajectory
from nt_memory.reasoningbank.calibration import Reliability, pooled_mean
from nt_memory.reasoningbank.conformal import AdaptiveAlpha, AdaptiveBias
from nt_memory.reasoningbank.dependence import daily_mean, student_95
from nt_memory.reasoningbank.drift import Reference
from nt_memory.reasoningbank.pattern import Pattern
from nt_memory.reasoningbank.uplift import Trials, estimate, trials_of
from nt_memory.reasoningbank.votes import Voter, correlation, weigh
from nt_memory.reasoningbank.votes import voter as voter_of
from nt_memory.reasoningbank.watching import MAX_PROMOTED, keep, weigh_evidence
from nt_memory.testing.backing import MemoryBacking

DAY = timedelta(days=1)
DAY_US = 86_400_000_000


# --- the worth of advice ------------------------------------------------------------------------


def trials(loss, is_shown, *, baseline=None, baseline_loss=None, propensity=0.5, unit=None):
    n = len(loss)
    return Trials(
        np.asarray(loss, np.float64),
        np.full(n, np.nan) if baseline_loss is None else np.asarray(baseline_loss, np.float64),
        np.full(n, np.nan) if baseline is None else np.asarray(baseline, np.float64),
        np.asarray(is_shown, np.bool_),
        np.broadcast_to(np.asarray(propensity, np.float64), n).copy(),
        np.arange(n, dtype=np.uint64) if unit is None else np.asarray(unit, np.uint64),
    )


def refit(thrown, chosen, gain, covariate):
    """The coefficient of treatment by least squares on some decisions."""
    shown = thrown.is_shown.astype(float)
    columns = [np.ones_like(shown), shown]
    if covariate is not None:
        columns += [covariate, covariate * shown]
    weight = np.where(thrown.is_shown, 1 / (1 - thrown.propensity), 1 / thrown.propensity)
    root = np.sqrt(weight[chosen])
    design = np.stack(columns, axis=1)[chosen]
    return np.linalg.lstsq(design * root[:, None], gain[chosen] * root, rcond=None)[0][1]


def by_leaving_out(thrown, gain, covariate):
    """Effect, error and freedom from a fit without each coin, one after the other."""
    everything = np.ones(len(gain), np.bool_)
    effect = refit(thrown, everything, gain, covariate)
    total = below = 0.0
    for side in (True, False):
        coins = sorted(set(thrown.unit[thrown.is_shown == side].tolist()))
        moved = [refit(thrown, thrown.unit != coin, gain, covariate) - effect for coin in coins]
        part = (len(coins) - 1) / len(coins) * sum(one**2 for one in moved)
        total += part
        below += part**2 / (len(coins) - (1 if covariate is None else 2))
    return effect, math.sqrt(total), total**2 / below


def test_without_a_baseline_the_worth_of_advice_is_welchs_difference_of_means():
    """Independent coins: Welch's standard error and degrees of freedom, exactly."""
    rng = np.random.default_rng(1)
    loss = np.concatenate([rng.normal(1.0, 0.2, 9), rng.normal(2.0, 1.0, 5)])
    is_shown = np.arange(14) < 9
    found = estimate("a", trials(loss, is_shown))
    shown, without = loss[:9], loss[9:]
    parts = [np.var(shown, ddof=1) / 9, np.var(without, ddof=1) / 5]
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 8 + parts[1] ** 2 / 4)
    assert found.value == pytest.approx(without.mean() - shown.mean())
    assert found.standard_error == pytest.approx(math.sqrt(sum(parts)))
    assert found.freedom == pytest.approx(freedom)
    assert found.relative == pytest.approx(found.value / without.mean())
    assert (found.agent, found.shown, found.withheld, found.units) == ("a", 9, 5, 14)
    half = student_95(freedom) * found.standard_error
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half))


@pytest.mark.parametrize(("coins", "is_adjusted"), [(60, True), (18, False)])
def test_the_worth_of_advice_is_that_of_fits_without_each_coin(coins, is_adjusted):
    """Coins of several decisions at several propensities; adjusted from ten coins a side on."""
    rng = np.random.default_rng(coins)
    unit = np.repeat(np.arange(coins) * 7 + 3, rng.integers(1, 4, size=coins))
    propensity = (0.3 + 0.4 * rng.random(coins)).repeat(np.unique(unit, return_counts=True)[1])
    is_shown = (np.arange(coins) % 2 == 0).repeat(np.unique(unit, return_counts=True)[1])
    baseline = rng.normal(3.0, 2.0, size=len(unit))
    baseline_loss = np.abs(baseline)
    loss = np.abs(0.8 * baseline + rng.normal(size=len(unit)) - 0.3 * is_shown)
    mixed = rng.permutation(len(unit))
    thrown = Trials(*(column[mixed] for column in trials(
        loss, is_shown, baseline=baseline, baseline_loss=baseline_loss, propensity=propensity,
        unit=unit,
    )))  # fmt: skip
    found = estimate("a", thrown)
    scaled = (thrown.baseline - thrown.baseline.mean()) / thrown.baseline.std()
    gain = thrown.baseline_loss - thrown.loss
    effect, error, freedom = by_leaving_out(thrown, gain, scaled if is_adjusted else None)
    assert found.value == pytest.approx(effect)
    assert found.standard_error == pytest.approx(error)
    assert found.freedom == pytest.approx(freedom)
    assert found.units == coins
    without = ~thrown.is_shown
    usual = np.average(thrown.loss[without], weights=1 / thrown.propensity[without])
    assert found.relative == pytest.approx(effect / usual)


def test_losses_count_by_themselves_where_a_baseline_is_missing():
    """One decision without: neither its loss nor itself is adjusted for anywhere."""
    rng = np.random.default_rng(2)
    loss, is_shown = rng.random(40), np.arange(40) % 2 == 0
    plain = estimate("a", trials(loss, is_shown))
    baseline = rng.normal(size=40)
    baseline[7] = math.nan
    partly = estimate("a", trials(loss, is_shown, baseline=baseline, baseline_loss=abs(baseline)))
    assert partly == plain
    constant = estimate("a", trials(loss, is_shown, baseline=np.ones(40)))
    assert constant == plain


def test_too_few_coins_say_nothing():
    """Ten in all and two of each side, however many decisions hang on them."""
    loss = np.arange(10.0)
    for is_shown, unit in (
        (np.arange(9) < 4, np.arange(9)),
        (np.arange(10) < 9, np.arange(10)),
        (np.arange(10) < 1, np.arange(10)),
        (np.arange(10) < 5, np.array([0, 0, 1, 2, 3, 4, 5, 6, 7, 8])),
        # Two decisions without advice, but one coin: nothing shows how coins differ.
        (np.repeat(np.arange(11), 2)[:20] < 9, np.repeat(np.arange(11), 2)[:20]),
    ):
        few = trials(np.resize(loss, len(unit)), is_shown, unit=unit)
        found = estimate("a", few)
        assert math.isnan(found.value)
        assert math.isnan(found.relative)
        assert found.standard_error == math.inf
        assert (found.shown, found.withheld) == (int(is_shown.sum()), int((~is_shown).sum()))
        assert found.units == len(set(unit.tolist()))
    enough = estimate("a", trials(loss, np.arange(10) < 8))
    assert math.isfinite(enough.value)
    assert math.isfinite(estimate("a", trials(loss, np.arange(10) < 2)).standard_error)
    nothing = estimate("a", trials([], []))
    assert (nothing.shown, nothing.withheld, nothing.units) == (0, 0, 0)


def test_a_worth_without_any_spread_is_certain_and_has_no_share_of_nothing():
    """All losses alike on each side; none without advice; none at all."""
    found = estimate("a", trials([2.0] * 6 + [0.0] * 6, np.arange(12) < 6))
    assert found.value == pytest.approx(-2.0)
    assert found.standard_error == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(found.relative)
    nothing = estimate("a", trials(np.zeros(12), np.arange(12) < 6))
    assert (nothing.value, nothing.standard_error, nothing.low, nothing.high) == (0, 0, 0, 0)


def test_only_decisions_on_which_a_coin_was_thrown_are_compared():
    """Of the type asked for, with a known loss; advice that was never to be withheld is no trial."""

    async def body(bank, clock):
        for kind in "fg":
            await bank.define(kind, target="x", unit="1", horizon=1)
        built = []
        for number in range(80):
            advice = await bank.advise(
                "a", [1.0, 0.0], action_type="f", trajectory=f"t{number}",
                withhold=0.5 if number < 60 else 0.0,
            )  # fmt: skip
            one = Trajectory("a", id=f"t{number}")
            point = None if number >= 50 else 0.1 * (1 + advice.is_withheld)
            one.add_action("f", None, point, baseline=0.5, advice=advice)
            built.append(one.add_outcome(0.0))
        await bank.track_many(built)
        found = await bank.uplift("a")
        assert found.units == 50
        assert found.shown + found.withheld == 50
        assert found.value == pytest.approx(0.1)
        assert found.relative == pytest.approx(0.5)
        assert await bank.uplift("a", action_type="f") == found
        for nothing in (await bank.uplift("a", action_type="g"), await bank.uplift("b")):
            assert (nothing.shown, nothing.withheld, nothing.units) == (0, 0, 0)
            assert math.isnan(nothing.value)
        columns = trials_of(bank._memories, "b", await bank._at(None), None)
        assert [(len(one), one.dtype.kind) for one in columns] == [(0, kind) for kind in "fffbfu"]

    bank_of(body)


def test_intervals_of_few_coins_hold_the_truth_as_often_as_they_say():
    """Ten coins, 600 fixed draws of no effect: between 92 and 98 of 100 (before, 72)."""
    rng = np.random.default_rng(20)
    held = 0
    for _ in range(600):
        baseline = rng.normal(size=10)
        loss = np.abs(0.5 * baseline + rng.normal(size=10))
        found = estimate("a", trials(
            loss, rng.permutation(10) < 5, baseline=baseline, baseline_loss=np.abs(baseline)
        ))  # fmt: skip
        held += found.low <= 0.0 <= found.high
    assert 0.92 <= held / 600 <= 0.98


# --- votes --------------------------------------------------------------------------------------


def voter(loss, *, quality=1.0, is_known=True, first_day=0):
    loss = np.asarray(loss, np.float64)
    return Voter(quality, is_known, np.arange(len(loss)) + first_day, loss)


def test_correlation_is_pearsons_less_what_chance_does():
    """On the days both have; two standard errors of no correlation count as none."""
    rng = np.random.default_rng(6)
    common = rng.normal(size=120)
    one, other = common + rng.normal(size=120) + 5.0, common + rng.normal(size=120) - 2.0
    late = voter(other[30:], first_day=30)
    rho = np.corrcoef(one[30:], other[30:])[0, 1]
    threshold = 2.0 / math.sqrt(90)
    assert correlation(voter(one), late) == pytest.approx((rho - threshold) / (1.0 - threshold))
    assert correlation(late, voter(one)) == pytest.approx(correlation(voter(one), late))
    assert correlation(voter(one), voter(one)) == pytest.approx(1.0)
    assert correlation(voter(one), voter(-one)) == 0.0
    assert correlation(voter(one), voter(rng.normal(size=120))) == 0.0


def test_agents_that_share_few_days_are_unrelated():
    """From 20 days on they are compared; the unknown are clones of each other alone."""
    loss = np.random.default_rng(7).normal(size=60)
    assert correlation(voter(loss), voter(loss[41:], first_day=41)) == 0.0
    assert correlation(voter(loss), voter(loss[40:], first_day=40)) == pytest.approx(1.0)
    unknown = voter(loss, is_known=False)
    assert correlation(unknown, unknown) == 1.0
    assert correlation(unknown, voter(loss)) == correlation(voter(loss), unknown) == 0.0


def test_losses_that_never_change_correlate_only_with_the_same():
    """There is no spread to correlate."""
    still = voter(np.zeros(30))
    assert correlation(still, voter(np.zeros(30))) == 1.0
    assert correlation(still, voter(np.random.default_rng(8).normal(size=30))) == 0.0
    assert correlation(still, voter(np.ones(30))) == 0.0


def test_weights_are_quality_over_correlations_in_which_clones_count_once():
    """By hand: w = q / (c sum_j a_j / c_j), c the sum of a ** 32."""
    rng = np.random.default_rng(9)
    common = rng.normal(size=200)
    close = common + 0.05 * rng.normal(size=200)
    some = [
        voter(common, quality=1.5),
        voter(close, quality=1.2),
        voter(common + rng.normal(size=200), quality=0.5),
        voter(rng.normal(size=200), quality=0.0),
    ]
    alike = np.array([[1.0 if a is b else correlation(a, b) for b in some] for a in some])
    copies = (alike**32).sum(axis=1)
    assert 1.2 < copies[0] < 2.0
    wanted = [
        one.quality / (copies[i] * sum(alike[i] / copies)) for i, one in enumerate(some)
    ]  # fmt: skip
    assert weigh(some) == pytest.approx(wanted)
    assert weigh([]) == []


def bank_of(body):
    async def inner():
        clock = ManualClock()
        backing = MemoryBacking(clock)
        bank = ReasoningBank(backing, kmeans=backing.kmeans)
        backing.followers.append(bank.follow)
        return await body(bank, clock)

    return asyncio.run(inner())


async def forecast(bank, clock, agent, errors, *, baseline=2.0, kind="f"):
    """A forecast a day of an outcome of 1, off by `errors`."""
    start = clock.now()
    clock.advance((len(errors) + 1) * 86_400)
    built = []
    for day, error in enumerate(errors):
        at = start + day * DAY
        one = Trajectory(agent, id=f"{agent}/{kind}/{start}/{day}")
        one.add_action(kind, None, 1.0 + error, baseline=baseline, at=at)
        built.append(one.add_outcome(1.0, at=at + DAY))
    await bank.track_many(built)


def test_quality_is_skill_over_the_baseline_shrunk_by_what_is_known():
    """1 + s n / (n + 50), n effective, s in units of each type's baseline loss; within [0, 2]."""

    async def body(bank, clock):
        for kind in "fg":
            await bank.define(kind, target="x", unit="1", horizon=1)
        rng = np.random.default_rng(10)
        first, second = rng.normal(0.0, 0.3, 80), rng.normal(0.0, 30.0, 60)
        await forecast(bank, clock, "a", first)
        await forecast(bank, clock, "a", second, baseline=101.0, kind="g")
        skill = np.concatenate([1.0 - abs(first), (100.0 - abs(second)) / 100.0])
        at = np.concatenate([np.arange(80), 81 + np.arange(60)]) * DAY_US
        mean = daily_mean(skill, at, 1)
        weight = mean.n_effective / (mean.n_effective + 50.0)
        await forecast(bank, clock, "bad", np.full(400, 9.0))
        await forecast(bank, clock, "perfect", np.zeros(30))
        await forecast(bank, clock, "open", first, baseline=None)
        # Against a baseline that was always right there is no saying how much worse is how bad.
        await forecast(bank, clock, "humbled", np.full(30, 0.5), baseline=1.0)
        names = ("a", "bad", "perfect", "open", "humbled", "nobody")
        found = {name: (await bank.vote_weights([name]))[name] for name in names}
        assert found["a"] == pytest.approx(1.0 + mean.value * weight)
        assert found["bad"] == 0.0
        assert found["perfect"] == pytest.approx(1.0 + 30.0 / 80.0)
        assert found["open"] == 1.0
        assert found["humbled"] == 1.0
        assert found["nobody"] == 1.0

    bank_of(body)


def test_who_is_known_is_weighed_apart_from_the_unknown():
    """From 20 days and 20 effective losses on; below that all share one vote."""

    async def body(bank, clock):
        await bank.define("f", target="x", unit="1", horizon=1)
        rng = np.random.default_rng(11)
        # A day up, a day down: each loss is worth a whole one, so days decide.
        turns = np.tile([0.9, 1.1], 10)
        for name, errors in (("enough", turns), ("few", turns[:19]), ("few2", turns[:19])):
            await forecast(bank, clock, name, errors)
        # Forty days that are worth few: the same loss for half of them.
        await forecast(bank, clock, "slow", np.repeat([0.2, 1.8], 20) + 0.01 * rng.random(40))
        together = await bank.vote_weights(["enough", "few", "few2", "slow", "nobody"])
        alone = await bank.vote_weights(["enough"])
        assert together["enough"] == pytest.approx(alone["enough"])
        quality = (await bank.vote_weights(["few"]))["few"]
        assert together["few"] == together["few2"] == pytest.approx(quality / 4.0)
        assert together["nobody"] == pytest.approx(0.25)
        assert together["slow"] < 0.5

    bank_of(body)


def test_a_voters_losses_are_those_of_its_days_in_units_of_each_type():
    """Relative to the type's mean, nothing where all were perfect; by day, standardised."""

    async def body(bank, clock):
        for kind in "fgh":
            await bank.define(kind, target="x", unit="1", horizon=1)
        start = clock.now()
        errors = np.random.default_rng(13).normal(size=30)
        clock.advance(40 * 86_400)
        built = []
        for day, error in enumerate(errors):
            at = start + day * DAY
            for hour, (kind, point) in enumerate(
                (("f", 1.0 + error), ("g", 1.0 - 50 * error**2), ("h", 1.0))
            ):
                if kind == "h" and day % 3:
                    continue
                then = at + timedelta(hours=hour)
                one = Trajectory("a", id=f"{kind}/{day}").add_action(kind, None, point, at=then)
                built.append(one.add_outcome(1.0, at=then + DAY))
        await bank.track_many(built)
        found = voter_of(bank._memories, "a", await bank._at(None))
        ours, squares = abs(errors), errors**2
        days = np.array([
            np.mean([a, b] if day % 3 else [a, b, 0.0])
            for day, (a, b) in enumerate(zip(
                ours / ours.mean(), squares / squares.mean(), strict=True))
        ])  # fmt: skip
        assert found.loss == pytest.approx((days - days.mean()) / days.std())
        assert found.day.tolist() == [int(start.timestamp() // 86_400) + n for n in range(30)]
        assert found.is_known
        assert found.quality == 1.0
        nobody = voter_of(bank._memories, "b", await bank._at(None))
        assert nobody[:2] == (1.0, False)
        assert len(nobody.day) == len(nobody.loss) == 0
        await forecast(bank, clock, "perfect", np.zeros(25))
        perfect = voter_of(bank._memories, "perfect", await bank._at(None))
        assert perfect.loss.tolist() == [0.0] * 25

    bank_of(body)


# --- records ------------------------------------------------------------------------------------


def test_a_record_is_what_its_numbers_are_defined_as():
    """Two definitions, intervals of two levels, probabilities, and forecasts without any of them."""

    async def body(bank, clock):
        rng = np.random.default_rng(12)
        rows = []
        await bank.define("other", target="y", unit="1", horizon=1)
        for horizon, days in ((1, 70), (3, 75)):
            await bank.define("f", target="x", unit="1", horizon=horizon, loss="squared")
            start = clock.now()
            clock.advance((days + 3) * 86_400)
            built = []
            for day in range(days):
                at = start + day * DAY
                predicted, outcome = rng.normal(size=2)
                level = (0.8, 0.9, 0.9)[day % 3]
                interval = None if day % 5 == 4 else (predicted - 1.0, predicted + level)
                chance = None if day % 2 else float(rng.random())
                point = None if day % 11 == 7 else predicted
                baseline = None if day % 7 == 6 else 0.5
                one = Trajectory("a", id=f"{horizon}/{day}")
                one.add_action(
                    "f", None, point, predicted_interval=interval if point is not None else None,
                    level=level, probability=chance, baseline=baseline, at=at,
                )  # fmt: skip
                built.append(one.add_outcome(outcome, at=at + horizon * DAY))
                has = interval is not None and point is not None
                low, high = interval if has else (math.nan, math.nan)
                rows.append((
                    at.timestamp() * 1e6, math.nan if point is None else point, outcome, low, high,
                    level, math.nan if chance is None else chance,
                    math.nan if baseline is None else baseline,
                ))  # fmt: skip
            await bank.track_many(built)
        await forecast(bank, clock, "a", rng.normal(size=5), kind="other")
        at, predicted, actual, low, high, level, chance, baseline = np.array(rows).T
        at = at.round().astype(np.int64)
        return (
            await bank.calibration("a", action_type="f", level=0.9),
            await bank.calibration("a"),
            (at, predicted, actual, low, high, level, chance, baseline),
        )

    found, both, columns = bank_of(body)
    at, predicted, actual, low, high, level, chance, baseline = columns

    def mean(values, which=True):
        chosen = np.isfinite(values) & which
        return pytest.approx(daily_mean(values[chosen], at[chosen], 3), nan_ok=True)

    (record,) = found
    assert [one.action_type for one in both] == ["f", "other"]
    assert [one.level for one in both] == [0.8, 0.8]
    nine = np.isfinite(low) & (level == 0.9)
    covered = ((low <= actual) & (actual <= high)).astype(float)
    outside = np.maximum(low - actual, 0.0) + np.maximum(actual - high, 0.0)
    loss, naive = (predicted - actual) ** 2, (baseline - actual) ** 2
    assert (record.agent, record.action_type, record.level) == ("a", "f", 0.9)
    assert (record.n, record.regime) == (145, "")
    assert record.coverage == mean(covered, nine)
    assert record.bias == mean(predicted - actual)
    assert record.loss == mean(loss)
    assert record.skill == mean(naive - loss)
    assert record.sharpness == mean(high - low, nine)
    assert record.interval_score == mean(high - low + 20.0 * outside, nine)
    assert record.brier == mean((chance - (actual > 0.0)) ** 2)
    assert math.isnan(record.crps.value)
    assert record.crps.n == 0
    assert record.alpha == pytest.approx(0.1)
    assert record.steps == 0
    assert both[0].coverage == pytest.approx(
        daily_mean(covered[np.isfinite(low) & (level == 0.8)],
                   at[np.isfinite(low) & (level == 0.8)], 3)
    )  # fmt: skip
    bins = {}
    for claim, came in zip(chance, actual > 0.0, strict=True):
        if math.isfinite(claim):
            bins.setdefault(min(int(claim * 10), 9), []).append((claim, came))
    assert record.reliability == tuple(
        Reliability(
            pytest.approx(np.mean([claim for claim, _ in some])),
            pytest.approx(np.mean([came for _, came in some])),
            len(some),
        )
        for _, some in sorted(bins.items())
    )
    there = np.isfinite(loss)
    recent = at // DAY_US >= np.unique(at[there] // DAY_US)[-60]
    late = daily_mean(loss[there & recent], at[there & recent], 3)
    early = daily_mean(loss[there & ~recent], at[there & ~recent], 3)
    assert record.drift.value == pytest.approx(late.value - early.value)
    assert record.drift.standard_error == pytest.approx(
        math.hypot(late.standard_error, early.standard_error)
    )
    assert record.drift.n == np.count_nonzero(there)
    assert record.drift.n_effective == pytest.approx(min(late.n_effective, early.n_effective))
    assert record.drift.freedom == pytest.approx(late.freedom)


def test_drift_is_told_from_120_days_on():
    """Sixty lately and as many before; a day fewer says nothing."""

    async def body(bank, clock):
        await bank.define("f", target="x", unit="1", horizon=1)
        await forecast(bank, clock, "a", np.tile([0.5, 1.0], 59))
        await forecast(bank, clock, "a", [2.0])
        (short,) = await bank.calibration("a")
        assert math.isnan(short.drift.value)
        assert short.drift.n == 0
        await forecast(bank, clock, "a", [3.0])
        (enough,) = await bank.calibration("a")
        assert enough.drift.n == 120
        assert enough.drift.value == pytest.approx((29 * 1.5 + 2.0 + 3.0) / 60 - 0.75)

    bank_of(body)


def test_probabilities_of_zero_and_one_are_in_the_outer_bins():
    """An outcome of zero did not happen: what is claimed is one above zero."""

    async def body(bank, clock):
        await bank.define("f", target="x", unit="1", horizon=1)
        built = []
        for number, (claim, outcome) in enumerate([(0.0, 0.0), (1.0, 1.0), (0.95, 0.0)]):
            one = Trajectory("a", id=str(number)).add_action("f", probability=claim)
            built.append(one.add_outcome(outcome))
        await bank.track_many(built)
        (record,) = await bank.calibration("a")
        assert record.reliability == (Reliability(0.0, 0.0, 1), Reliability(0.975, 0.5, 2))

    bank_of(body)


def test_the_mean_of_no_history_is_unknown():
    """Nothing to pool: no value, and nothing it could be trusted by."""
    found = pooled_mean([], lambda one: one.judged.loss)
    assert math.isnan(found.value)
    assert found[1:4] == (math.inf, 0, 0.0)


# --- retirement ---------------------------------------------------------------------------------


def pattern(number=0, *, centroid=(1.0, 0.0), radius=0.1, **more):
    told = {"effect": 0.5, "variance": 2.0, "elsewhere": 0.25, "promoted_at_us": number}
    return Pattern(
        f"p{number}", "a", "f", "1", np.array(centroid, np.float32), radius, 9, 9.0, 0.0, 1.0,
        (0.0,) * 5, None, None, None, 0, None, (), 0, (), lambda *_: [], is_promoted=True,
        **(told | more),
    )  # fmt: skip


def test_evidence_against_a_pattern_is_a_share_of_its_threshold():
    """Of the day's means less what comes elsewhere; once passed, a threshold stays passed."""
    threshold = Reference(0.5, 2.0, 2).threshold
    at = np.repeat(np.arange(40), 2) * DAY_US
    said = weigh_evidence(np.tile([0.2, 0.3], 40), at, pattern(), 2)
    assert said == (pytest.approx(40 * 0.5 * 0.25 / 2.0 / threshold), False)
    days = np.concatenate([np.full(400, 0.25), np.full(4000, 9.0)])
    against, is_over = weigh_evidence(days, np.arange(4400) * DAY_US, pattern(), 2)
    assert against == 0.0
    assert is_over
    assert weigh_evidence(np.zeros(0), np.zeros(0, np.int64), pattern(), 2) == (0.0, False)


def test_patterns_without_their_numbers_cannot_be_weighed():
    """An effect of nothing, no variance, or no elsewhere; an elsewhere of zero is one."""
    days, at = np.zeros(4), np.arange(4) * DAY_US
    for missing in ({"effect": None}, {"effect": 0.0}, {"variance": None}, {"elsewhere": None}):
        assert weigh_evidence(days, at, pattern(**missing), 2) is None
    assert weigh_evidence(days, at, pattern(elsewhere=0.0), 2) is not None


def test_new_patterns_replace_those_whose_middle_they_cover():
    """Within the new one's radius, and of the same dimension; of the rest the newest stay, in order."""
    near, far = pattern(1, centroid=(0.995, 0.0999)), pattern(2, centroid=(0.0, 1.0))
    other = pattern(3, centroid=(1.0, 0.0, 0.0))
    assert keep([far, near, other], [pattern(9, radius=0.11)]) == [far, other]
    assert keep([far, near], [pattern(9, radius=0.09)]) == [near, far]
    assert keep([far, near], []) == [near, far]
    unknown = pattern(4, promoted_at_us=None)
    assert keep([near, unknown], []) == [unknown, near]
    many = [pattern(number) for number in range(MAX_PROMOTED + 2)]
    assert keep(reversed(many), []) == many[2:]


# --- adaptation ---------------------------------------------------------------------------------


def test_the_bounds_of_what_adapts_are_allowed():
    """Steps and gains of nothing and of all, a leak of all; misses of none and of all."""
    for gamma in (0.0, 1.0):
        state = AdaptiveAlpha.start(0.5, gamma)
        assert state.after(1.0).alpha == pytest.approx(max(0.5 - 0.5 * gamma, 0.005))
        assert state.after(0.0).alpha == pytest.approx(min(0.5 + 0.5 * gamma, 0.995))
        assert state.after(0.5).after(0.5).steps == 2
        assert state.after(1.0).target == 0.5
    for gain in (0.0, 1.0):
        state = AdaptiveBias.start(0.0, gain)
        assert state.after(3.0).after(2.0).bias == 2.0 * gain
        assert state.after(3.0).after(2.0).steps == 2
    for decay, gain in ((-0.1, 0.5), (0.5, -0.1), (0.5, 1.1)):
        with pytest.raises(InvalidInputError):
            AdaptiveBias.start(decay, gain)
    with pytest.raises(InvalidInputError):
        AdaptiveAlpha.start(0.5, 1.1)
    with pytest.raises(InvalidInputError):
        AdaptiveAlpha.start(0.5).after(-0.1)
