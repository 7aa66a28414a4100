"""`memory.map`: memories in two dimensions, as of a moment, the same again each time."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import numpy as np
import pytest

from nt_memory import AsOf, MemorySystem, Trajectory
from nt_memory.errors import (
    ClosedError,
    InvalidInputError,
    InvalidNameError,
    LookAheadError,
    TrimmedError,
)
from nt_memory.replica import partition_name
from nt_memory.system import mapping, renumbering
from nt_memory.system.projecting import draw, principal_axes

DAY = timedelta(days=1)
DIM = 8


def cloud(count, seed=0, dim=DIM):
    """Vectors spread most along the first axis, then along the second."""
    spread = np.array([3.0, 1.5, *[0.1] * (dim - 2)])
    return np.random.default_rng(seed).normal(size=(count, dim)) * spread + 4.0


def same(one, two):
    """Whether two maps show the same, byte for byte."""
    first, second = one.to_dict(), two.to_dict()
    first.pop("as_of"), second.pop("as_of")
    return first == second and one.points.tobytes() == two.points.tobytes()


async def track(memory, clock, count, *, agent="a", kind="vol", seed=1, known=True):
    """Tracked forecasts, one a day up to the clock's now; all but the last five have outcomes."""
    rng = np.random.default_rng(seed)
    await memory.bank.define(kind, target=kind, unit="%", horizon=DAY)
    made = []
    for day in range(count):
        at = clock.now() - (count - day) * DAY
        trajectory = Trajectory(agent)
        embedding = rng.normal(scale=0.1, size=DIM) + np.eye(DIM)[day % 2]
        trajectory.add_observation(None, embedding, at=at)
        trajectory.add_action(kind, None, 10.0, baseline=12.0, at=at)
        made.append(trajectory)
    await memory.track_many(made)
    if known:
        ids = [trajectory.id for trajectory in made[:-5]]
        values = [9.0 + day % 2 for day in range(len(ids))]
        await memory.record_outcomes(ids, values)
    return made


# --- observations -----------------------------------------------------------------------------


def test_observations_are_shown_with_what_is_known_of_them(live, clock):
    """Each point has its key, time and tags; the axes are those of the greatest variance."""

    async def body(memory):
        keys = [f"k{i}" for i in range(50)]
        await memory.observe_many(
            "a", cloud(50), keys=keys, tags=[[f"t{i % 3}"] for i in range(50)]
        )
        found = await memory.map("a")
        assert found.agent == "a"
        assert found.action_type == ""
        assert list(found.keys) == keys
        assert found.total == len(found) == 50
        assert found.points.shape == (50, 2)
        assert found.points.dtype == np.float32
        assert set(found.tags) == {("t0",), ("t1",), ("t2",)}
        assert found.tags[found.keys.index("k4")] == ("t1",)
        now = np.datetime64(clock.now().replace(tzinfo=None))
        assert (found.known_at == now).all()
        assert np.isnan(found.outcomes).all()
        assert np.isnan(found.scores).all()
        assert found.method == "pca"
        assert found.explained[0] > found.explained[1] > 0.0
        assert 0.9 < sum(found.explained) <= 1.0

    live(body)


def test_distances_on_the_map_are_those_of_the_plane(live):
    """A point's place is its unit vector less the sample's mean, along the two axes."""

    async def body(memory):
        vectors = cloud(40)
        keys = [f"k{i:02}" for i in range(40)]
        await memory.observe_many("a", vectors, keys=keys)
        found = await memory.map("a")
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        units = units[[keys.index(key) for key in found.keys]]
        apart = units - units.mean(axis=0)
        _, sizes, rows = np.linalg.svd(apart)
        expected = apart @ rows[:2].T
        for axis in range(2):
            mine = found.points[:, axis]
            sign = np.sign(mine @ expected[:, axis])
            assert mine == pytest.approx(sign * expected[:, axis], abs=2e-3)
        assert found.explained == pytest.approx(sizes[:2] ** 2 / np.sum(sizes**2), abs=1e-3)

    live(body)


def test_only_what_is_in_force_is_shown(live, clock):
    """Deleted, replaced and expired observations are not; what replaced them is."""

    async def body(memory):
        await memory.observe_many("a", cloud(20), keys=[f"k{i}" for i in range(20)])
        await memory.observe("a", cloud(1, seed=9)[0], key="short", ttl=60)
        clock.advance(61)
        await memory.delete("a", "k3")
        await memory.observe("a", cloud(1, seed=5)[0], key="k4")
        found = await memory.map("a")
        assert sorted(found.keys) == sorted(f"k{i}" for i in range(20) if i != 3)
        assert found.total == 19

    live(body)


def test_an_agent_sees_its_own_observations_only(live):
    """And nobody's map is an empty one."""

    async def body(memory):
        await memory.observe_many("a", cloud(5))
        await memory.observe_many("b", cloud(7))
        assert len(await memory.map("a")) == 5
        empty = await memory.map("nobody")
        assert (len(empty), empty.total, empty.points.shape) == (0, 0, (0, 2))
        assert empty.explained == (0.0, 0.0)
        json.dumps(empty.to_dict())

    live(body)


def test_a_map_as_of_then_is_the_map_of_then(live, clock):
    """By time, by revision and by both; later rows, ends, and late rows change no byte of it."""

    async def body(memory):
        await memory.observe_many("a", cloud(300), keys=[f"k{i}" for i in range(300)])
        before = await memory.map("a", sample=100)
        then, revision = clock.now(), memory.revision
        clock.advance(60)
        await memory.observe_many("a", 100 * cloud(200, seed=4))
        await memory.delete("a", before.keys[0])
        await memory.observe("a", cloud(1, seed=6)[0], key=before.keys[1])
        assert same(await memory.map("a", sample=100, as_of=then), before)
        late = await memory.observe("a", cloud(1, seed=7)[0], known_at=then - DAY)
        for as_of in (revision, AsOf(then, revision)):
            assert same(await memory.map("a", sample=100, as_of=as_of), before)
            assert same(await memory.at(as_of).map("a", sample=100), before)
        assert late in (await memory.map("a", sample=10_000, as_of=then)).keys
        assert not same(await memory.map("a", sample=100), before)

    live(body)


def test_a_late_delete_does_not_hide_what_was_in_force_at_an_earlier_revision(live, clock):
    """Rows remember only the last entry that ended them; the map asks the versions."""

    async def body(memory):
        await memory.observe_many("a", cloud(10), keys=[f"k{i}" for i in range(10)])
        clock.advance(100)
        revision = memory.revision
        await memory.delete("a", "k1", known_at=clock.now() - timedelta(seconds=50))
        as_of = AsOf(clock.now(), revision)
        assert "k1" in (await memory.map("a", as_of=as_of)).keys
        assert "k1" not in (await memory.map("a")).keys

    live(body)


def test_what_had_ended_at_an_earlier_revision_is_not_shown_again(live, clock):
    """A late row ends an old one earlier still; what was replaced stays replaced at the revision."""

    async def body(memory):
        await memory.observe_many("a", cloud(10), keys=[f"k{i}" for i in range(10)])
        clock.advance(100)
        await memory.observe("a", cloud(1, seed=5)[0], key="k1")
        then = AsOf(clock.now(), memory.revision)
        sizes = (3, 9, 10, 100)
        before = [await memory.map("a", sample=size) for size in sizes]
        await memory.observe(
            "a", cloud(1, seed=6)[0], key="k1", known_at=clock.now() - timedelta(seconds=50)
        )
        for size, wanted in zip(sizes, before, strict=True):
            found = await memory.map("a", sample=size, as_of=then)
            assert len(found) == min(size, 10)
            assert found.keys == wanted.keys
            assert found.points.tobytes() == wanted.points.tobytes()

    live(body)


def test_a_backtest_sees_no_further_than_its_now(backtest, clock):
    """Looking ahead raises; what is known is shown."""

    async def body(memory):
        await memory.timeline.advance(clock.now())
        await memory.observe_many("a", cloud(6))
        with pytest.raises(LookAheadError):
            await memory.map("a", as_of=clock.now() + timedelta(microseconds=1))
        assert len(await memory.map("a")) == 6

    backtest(body)


def test_it_is_the_same_after_reopening_and_read_only(live):
    """Nothing of it depends on the process."""

    async def write(memory):
        await memory.observe_many("a", cloud(500), keys=[f"k{i}" for i in range(500)])
        return await memory.map("a", sample=50, seed=3)

    async def look(memory):
        return await memory.map("a", sample=50, seed=3)

    first = live(write)
    assert same(live(look), first)
    assert same(live(look, read_only=True), first)


def test_what_was_dropped_is_said_to_be_missing(live, clock, monkeypatch):
    """Once compaction gave rows back, a map as of before raises; the present is shown whole."""
    monkeypatch.setattr(renumbering, "MIN_DEAD_ROWS", 8)

    async def body(memory):
        keys = [f"k{i}" for i in range(30)]
        for version in range(4):
            await memory.observe_many("a", cloud(30, seed=version), keys=keys)
            clock.advance(10)
        then = clock.now() - timedelta(seconds=25)
        now = await memory.map("a")
        await memory.compact()
        with pytest.raises(TrimmedError):
            await memory.map("a", as_of=then)
        after = await memory.map("a")
        assert sorted(after.keys) == sorted(now.keys)
        order = [now.keys.index(key) for key in after.keys]
        assert after.points == pytest.approx(now.points[order], abs=1e-6)

    live(body, history=0)


def test_versions_that_are_gone_are_missed_though_their_rows_are_there(live, clock):
    """What a row stood for was dropped, and too few rows for numbering them anew: it raises too."""

    async def body(memory):
        await memory.observe_many("a", cloud(30), keys=[f"k{i}" for i in range(30)])
        then = clock.now()
        clock.advance(10)
        await memory.observe("a", cloud(1, seed=3)[0], key="k7")
        await memory.compact()
        with pytest.raises(TrimmedError):
            await memory.map("a", as_of=then)
        assert len(await memory.map("a")) == 30

    live(body, history=0)


def test_rows_that_are_numbered_anew_meanwhile_are_looked_up_again(live, clock, monkeypatch):
    """A compaction in the middle of a map costs a second look, not a wrong or missing point."""
    monkeypatch.setattr(renumbering, "MIN_DEAD_ROWS", 8)
    keys = [f"k{i}" for i in range(200)]

    async def body(memory):
        for version in range(4):
            await memory.observe_many("a", cloud(200, seed=version), keys=keys)
            clock.advance(10)
        real, looks = mapping.turn, []

        async def compact_first():
            looks.append(1)
            if len(looks) == 1:
                await memory.compact()
            await real()

        monkeypatch.setattr(mapping, "turn", compact_first)
        name = partition_name("a", "")
        before = memory._engine.rows.partitions[name]
        found = await memory.map("a")
        assert memory._engine.rows.partitions[name] != before
        assert sorted(found.keys) == sorted(keys)
        assert len(looks) == 2

    live(body, history=0)


def test_a_partition_that_gets_another_id_is_not_taken_for_empty(live, clock, monkeypatch):
    """Looked up between two numberings it seems to hold nothing: the map is drawn again."""
    monkeypatch.setattr(renumbering, "MIN_DEAD_ROWS", 8)

    async def body(memory):
        for version in range(4):
            await memory.observe_many(
                "a", cloud(60, seed=version), keys=[f"k{i}" for i in range(60)]
            )
            clock.advance(10)
        loop, real, looks = asyncio.get_running_loop(), memory._engine.vectors.rows_at, []

        def compact_first(*arguments):
            looks.append(1)
            if len(looks) == 1:
                asyncio.run_coroutine_threadsafe(memory.compact(), loop).result(20)
            return real(*arguments)

        monkeypatch.setattr(memory._engine.vectors, "rows_at", compact_first)
        assert len(await memory.map("a")) == 60
        assert len(looks) == 2

    live(body, history=0)


# --- situations -------------------------------------------------------------------------------


def test_situations_are_shown_with_outcomes_scores_and_patterns(live, clock):
    """Keys are trajectories; outcomes and scores are theirs where known; patterns lie among them."""

    async def body(memory):
        made = await track(memory, clock, 120)
        patterns = await memory.bank.distill("a")
        found = await memory.map("a")
        assert found.action_type == "vol"
        assert sorted(found.keys) == sorted(trajectory.id for trajectory in made)
        place = {key: i for i, key in enumerate(found.keys)}
        for day, trajectory in enumerate(made):
            at = place[trajectory.id]
            if day < 115:
                assert found.outcomes[at] == 9.0 + day % 2
                (verdict,) = await memory.bank.judge(trajectory.id)
                assert found.scores[at] == verdict.skill
            else:
                assert np.isnan(found.outcomes[at])
                assert np.isnan(found.scores[at])
        assert found.pattern_ids == tuple(pattern.id for pattern in patterns)
        assert found.centroids.shape == (len(patterns), 2)
        for number in range(len(patterns)):
            mine = found.points[found.nearest == number]
            assert np.linalg.norm(mine.mean(axis=0) - found.centroids[number]) < 0.2
        assert set(found.nearest.tolist()) == set(range(len(patterns)))
        assert found.tags == ((),) * 120
        json.dumps(found.to_dict(), allow_nan=False)

    live(body)


def test_situations_as_of_then(live, clock):
    """Later actions, outcomes, revisions of outcomes, patterns and forgetting change no byte."""

    async def body(memory):
        made = await track(memory, clock, 80)
        await memory.bank.distill("a")
        before = await memory.map("a", sample=60)
        then, revision = clock.now(), memory.revision
        clock.advance(100 * 86_400)
        await memory.record_outcome(made[-1].id, 50.0)
        await memory.record_outcome(made[0].id, 70.0, revision_of=await _outcome(memory, made[0]))
        await memory.bank.forget([made[5].id])
        await track(memory, clock, 60, seed=4)
        await memory.bank.distill("a")
        for as_of in (then, revision, AsOf(then, revision)):
            assert same(await memory.map("a", sample=60, as_of=as_of), before)
        now = await memory.map("a")
        assert made[5].id not in now.keys
        assert now.outcomes[now.keys.index(made[0].id)] == 70.0

    live(body)


async def _outcome(memory, trajectory):
    (verdict,) = await memory.bank.judge(trajectory.id)
    return verdict.revision


def test_an_outcome_recorded_while_the_map_is_drawn_does_not_show(live, clock, monkeypatch):
    """The moment is fixed when the call is made."""

    async def body(memory):
        made = await track(memory, clock, 60)
        real = mapping.draw
        loop = asyncio.get_running_loop()

        def record_first(*arguments):
            call = memory.record_outcome(made[-1].id, 5.0)
            asyncio.run_coroutine_threadsafe(call, loop).result(20)
            return real(*arguments)

        monkeypatch.setattr(mapping, "draw", record_first)
        found = await memory.map("a")
        assert np.isnan(found.outcomes[found.keys.index(made[-1].id)])

    live(body)


def test_the_action_type_must_be_said_where_there_are_several(live, clock):
    """Only those known by then count: the question cannot give away what came later."""

    async def body(memory):
        await memory.observe_many("a", cloud(4))
        assert (await memory.map("a")).action_type == ""
        await track(memory, clock, 10)
        then = clock.now()
        clock.advance(86_400 * 30)
        await track(memory, clock, 12, kind="trend", known=False)
        with pytest.raises(InvalidInputError, match="trend, vol"):
            await memory.map("a")
        assert (await memory.map("a", as_of=then)).action_type == "vol"
        assert len(await memory.map("a", action_type="trend")) == 12
        assert len(await memory.map("a", action_type="")) == 4
        nothing = await memory.map("a", action_type="never")
        assert (len(nothing), nothing.action_type) == (0, "never")

    live(body)


def test_it_works_without_await(store):
    """`open_sync` has it too, and its views."""
    with MemorySystem.open_sync(store) as memory:
        memory.observe_many("a", cloud(6))
        assert len(memory.map("a")) == 6
        assert len(memory.at(memory.revision).map("a", sample=3)) == 3


# --- arguments and values ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"sample": 0},
        {"sample": 10_001},
        {"sample": 2.5},
        {"sample": True},
        {"seed": "x"},
        {"seed": 1 << 63},
    ],
)
def test_malformed_arguments_are_refused(live, options):
    """Samples out of range and seeds that are no number."""

    async def body(memory):
        with pytest.raises(InvalidInputError, match=next(iter(options))):
            await memory.map("a", **options)
        with pytest.raises(InvalidNameError):
            await memory.map("no agent")

    live(body)


def test_a_closed_memory_draws_no_map(live):
    """It says so."""

    async def body(memory):
        await memory.close()
        with pytest.raises(ClosedError):
            await memory.map("a")

    live(body)


def test_a_map_cannot_be_changed(live):
    """Its arrays are read-only, like every value that is handed out."""

    async def body(memory):
        await memory.observe_many("a", cloud(6))
        found = await memory.map("a")
        for name in ("points", "known_at", "outcomes", "scores", "centroids", "nearest"):
            with pytest.raises(ValueError, match="read-only"):
                getattr(found, name)[...] = 0
        with pytest.raises(AttributeError):
            found.agent = "b"

    live(body)


# --- the sample and the plane -----------------------------------------------------------------


def test_a_sample_hardly_changes_as_rows_are_added():
    """Rows are drawn by their own number: of the first draw, those stay that still rank."""
    rows = np.arange(0, 30_000, 3)
    few, more = rows[draw(rows[:9_000], 1_000, 0)], rows[draw(rows, 1_000, 0)]
    kept = np.isin(few, more).mean()
    assert kept == pytest.approx(0.9, abs=0.04)
    assert set(more[more < rows[9_000]].tolist()) <= set(few.tolist())


def test_a_sample_is_fair_and_depends_on_the_seed():
    """Each row is as likely as any other; other seeds draw others; no row comes twice."""
    rows = np.arange(20_000)
    for seed in (0, 1, -1, 2**62):
        drawn = draw(rows, 2_000, seed)
        assert len(np.unique(drawn)) == 2_000
        assert draw(rows, 500, seed).tolist() == drawn[:500].tolist()
        counts = np.bincount(drawn // 2_000, minlength=10)
        assert np.sum((counts - 200) ** 2 / 180) < 27.9  # chi-squared, 9 degrees, p = 0.001
    overlap = np.isin(draw(rows, 2_000, 0), draw(rows, 2_000, 1)).mean()
    assert overlap == pytest.approx(0.1, abs=0.03)
    assert sorted(draw(rows[:5], 10, 0).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("shape", [(60, 10), (10, 60)])
def test_axes_are_those_of_the_singular_vectors(shape):
    """Whichever is smaller, points or dimensions, the plane is that of the decomposition."""
    vectors = np.random.default_rng(2).normal(size=shape) * np.linspace(2.0, 0.1, shape[1])
    plane = principal_axes(vectors)
    apart = vectors - vectors.mean(axis=0)
    _, sizes, rows = np.linalg.svd(apart, full_matrices=False)
    assert np.abs(plane.axes.T @ rows[:2].T) == pytest.approx(np.eye(2), abs=1e-9)
    assert plane.explained == pytest.approx(tuple(sizes[:2] ** 2 / np.sum(sizes**2)))
    assert (plane.axes[np.abs(plane.axes).argmax(axis=0), [0, 1]] > 0.0).all()


def test_what_has_no_plane_is_still_shown():
    """One point, equal points, points on a line and one dimension: zeros where nothing varies."""
    one = principal_axes(np.ones((1, 5)))
    assert one.explained == (0.0, 0.0)
    equal = principal_axes(np.full((9, 5), 0.1))
    assert equal.project(np.full((9, 5), 0.1)).tolist() == [[0.0, 0.0]] * 9
    assert equal.explained == (0.0, 0.0)
    line = principal_axes(np.outer(np.arange(9.0), np.ones(5)))
    assert line.explained == pytest.approx((1.0, 0.0))
    assert (line.axes[:, 1] == 0.0).all()
    flat = principal_axes(np.array([[1.0], [-1.0]]))
    assert flat.axes.tolist() == [[1.0, 0.0]]
    empty = principal_axes(np.empty((0, 5)))
    assert empty.project(np.empty((0, 5))).shape == (0, 2)
