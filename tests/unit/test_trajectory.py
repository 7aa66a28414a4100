"""The trajectory builder refuses what could not be judged honestly."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from nt_memory.errors import EmbeddingError, InvalidNameError, InvalidTimeError, TrajectoryError
from nt_memory.reasoningbank import Trajectory

NOON = datetime(2024, 1, 2, 12, tzinfo=UTC)


def test_action_is_remembered_under_the_latest_situation_before_it():
    """An action's situation is the latest embedding seen before it, as a unit vector."""
    trajectory = Trajectory("a").add_observation(1, [3.0, 4.0]).add_action("buy")
    trajectory.add_observation(2).add_observation(3, [0.0, 2.0]).add_action("buy")
    first, second = trajectory.actions
    np.testing.assert_allclose(first.situation, [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(second.situation, [0.0, 1.0])
    assert Trajectory("a").add_action("buy").actions[0].situation is None


def test_ids_are_random_unless_given():
    """Ids are unique by themselves and can be set for reproducible backtests."""
    assert Trajectory("a").id != Trajectory("a").id
    assert Trajectory("a", id="day-1").id == "day-1"


@pytest.mark.parametrize(
    "claim",
    [
        {"predicted_outcome": math.nan},
        {"predicted_outcome": "up"},
        {"predicted_interval": (2.0, 1.0)},
        {"predicted_interval": (0.0, math.inf)},
        {"level": 1.0},
        {"probability": 1.1},
        {"baseline": math.inf},
        {"predicted_quantiles": {0.1: 2.0, 0.9: 1.0}},
        {"predicted_quantiles": {0.0: 2.0}},
    ],
)
def test_malformed_claims_are_refused_and_change_nothing(claim):
    """A claim that could not be judged is refused before it is part of the trajectory."""
    trajectory = Trajectory("a")
    with pytest.raises(TrajectoryError):
        trajectory.add_action("buy", **claim)
    assert trajectory.actions == ()


@pytest.mark.parametrize("bad", [[math.nan, 1.0], [0.0, 0.0], [], [[1.0]], ["x"]])
def test_malformed_embeddings_are_refused_and_change_nothing(bad):
    """An embedding without a direction is refused."""
    trajectory = Trajectory("a")
    with pytest.raises(EmbeddingError):
        trajectory.add_observation(1, bad)
    assert trajectory.observations == ()


def test_steps_go_forward_in_time_only():
    """A step dated before an earlier one, a naive time, and an early outcome are refused."""
    trajectory = Trajectory("a").add_observation(1, at=NOON).add_action("buy", at=NOON)
    with pytest.raises(TrajectoryError):
        trajectory.add_action("buy", at=NOON - timedelta(seconds=1))
    with pytest.raises(InvalidTimeError):
        trajectory.add_observation(1, at=datetime(2024, 1, 3))  # noqa: DTZ001
    with pytest.raises(TrajectoryError):
        trajectory.add_outcome(1.0, at=NOON - timedelta(seconds=1))
    with pytest.raises(InvalidNameError):
        Trajectory("../a")


def test_outcomes_belong_to_actions_and_stay():
    """An outcome needs its action, and cannot be replaced by adding another."""
    with pytest.raises(TrajectoryError):
        Trajectory("a").add_outcome(1.0)
    trajectory = Trajectory("a").add_action("buy").add_action("sell").add_outcome(True)
    trajectory.add_outcome(2.0, action=0).add_outcome(1.0)
    assert [(one.action, one.value) for one in trajectory.outcomes] == [(0, 2.0), (1, 1.0)]
    with pytest.raises(TrajectoryError):
        trajectory.add_outcome(3.0)


def test_a_complete_trajectory_takes_outcomes_but_no_more_steps():
    """`complete` closes observations and actions only."""
    trajectory = Trajectory("a").add_action("buy")
    assert not trajectory.is_complete
    assert trajectory.complete().is_complete
    with pytest.raises(TrajectoryError):
        trajectory.add_action("buy")
    trajectory.add_outcome(1.0)


def test_score_compares_with_the_frozen_baseline_and_is_safe_at_zero():
    """1 is perfect, 0 as good as the baseline, -1 the other way round; None without a comparison."""

    def score(predicted, baseline, actual):
        built = Trajectory("a").add_action("x", None, predicted, baseline=baseline)
        return built.add_outcome(actual).score()

    assert score(0.0, 1.0, 0.0) == 1.0
    assert score(1.0, 0.0, 0.0) == -1.0
    assert score(0.0, 0.0, 0.0) == 0.0
    assert score(2.0, 0.0, 1.0) == 0.0
    assert score(1.0, None, 1.0) is None


@pytest.mark.parametrize("scale", [1e245, 1e39, 1e-60, 1.0])
def test_an_embedding_of_any_scale_is_kept(scale: float) -> None:
    """What float32 cannot hold is kept as its direction, so that it can be read again."""
    trajectory = Trajectory("a").add_observation({}, [3.0 * scale, -4.0 * scale])
    (kept,) = (one.embedding for one in trajectory.observations)
    assert kept is not None
    assert np.isfinite(kept).all()
    length = float(np.linalg.norm(kept))
    assert kept / length == pytest.approx([0.6, -0.8])
