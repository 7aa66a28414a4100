"""How much each agent's vote should weigh: its skill, shared with those who err as it does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.reasoningbank.calibration import pooled_mean
from nt_memory.reasoningbank.definition import DAY_US
from nt_memory.reasoningbank.judging import histories

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nt_memory.reasoningbank.judging import History
    from nt_memory.reasoningbank.memories import Memories
    from nt_memory.timeline import Moment

    Floats = NDArray[np.float64]

MIN_EFFECTIVE = 20.0
MIN_DAYS = 20
SHRINK = 50.0
CLONE = 32


class Voter(NamedTuple):
    """An agent's record, as weights need it.

    Attributes:
        quality: In [0, 2]; 1 is as good as the baseline, or unknown.
        is_known: Whether there are enough verdicts to tell it from others.
        day: Days with losses, ascending.
        loss: Mean loss of each day, standardised.
    """

    quality: float
    is_known: bool
    day: NDArray[np.int64]
    loss: Floats


def voter(memories: Memories, agent: str, moment: Moment) -> Voter:
    """An agent's record as of a moment."""
    found = [
        one for one in histories(memories, agent, moment) if np.isfinite(one.judged.loss).any()
    ]
    if not found:
        return Voter(1.0, False, np.zeros(0, np.int64), np.zeros(0))  # noqa: FBT003
    usual = pooled_mean(found, lambda one: _relative(one.judged.loss))
    day, loss = _daily_losses(found)
    is_known = usual.n_effective >= MIN_EFFECTIVE and len(day) >= MIN_DAYS
    return Voter(quality_of(found), is_known, day, loss)


def quality_of(found: Sequence[History]) -> float:
    """Skill over the baselines, shrunk by how little is known, in [0, 2]; 1: as good, or unknown."""
    skill = pooled_mean(found, _relative_skill)
    if not math.isfinite(skill.value):
        return 1.0
    shrunk = skill.value * skill.n_effective / (skill.n_effective + SHRINK)
    return min(max(1.0 + shrunk, 0.0), 2.0)


def _relative_skill(history: History) -> Floats:
    """Skill in units of the baseline's mean loss, so that action types can be pooled."""
    judged = history.judged
    is_there = np.isfinite(judged.skill)
    naive = float(np.mean(judged.baseline_loss[is_there])) if is_there.any() else 0.0
    return judged.skill / naive if naive > 0.0 else np.full(len(judged.skill), np.nan)


def _relative(loss: Floats) -> Floats:
    finite = loss[np.isfinite(loss)]
    usual = float(np.mean(finite)) if len(finite) else 0.0
    return loss / usual if usual > 0.0 else np.where(np.isfinite(loss), 0.0, np.nan)


def _daily_losses(found: Sequence[History]) -> tuple[NDArray[np.int64], Floats]:
    loss = np.concatenate([_relative(one.judged.loss) for one in found])
    at = np.concatenate([one.at for one in found])
    is_there = np.isfinite(loss)
    day, place = np.unique(at[is_there] // DAY_US, return_inverse=True)
    mean = np.bincount(place, weights=loss[is_there]) / np.bincount(place)
    spread = float(np.std(mean))
    return day, (mean - np.mean(mean)) / spread if spread > 0.0 else np.zeros(len(mean))


def correlation(one: Voter, other: Voter) -> float:
    """Soft-thresholded correlation of two agents' losses on the days both have, in [0, 1].

    The threshold is two standard errors of a correlation of unrelated losses; what remains is
    stretched, so that exact clones still correlate perfectly. Agents with too few verdicts to be
    told apart count as clones of each other, and as unrelated to everybody else.
    """
    if not (one.is_known and other.is_known):
        return 0.0 if one.is_known or other.is_known else 1.0
    _, mine, theirs = np.intersect1d(one.day, other.day, assume_unique=True, return_indices=True)
    if len(mine) < MIN_DAYS:
        return 0.0
    left, right = one.loss[mine], other.loss[theirs]
    left, right = left - np.mean(left), right - np.mean(right)
    size = math.sqrt(float(np.sum(left * left)) * float(np.sum(right * right)))
    if size == 0.0:
        return 1.0 if np.array_equal(one.loss[mine], other.loss[theirs]) else 0.0
    rho = float(np.sum(left * right)) / size
    threshold = min(2.0 / math.sqrt(len(mine)), 0.9)
    return min(max((rho - threshold) / (1.0 - threshold), 0.0), 1.0)


def weigh(voters: Sequence[Voter]) -> list[float]:
    """Weight of each voter: quality over the sum of its correlations, its own with itself included.

    Exact clones share one vote, and so do all agents with too few verdicts. In the sum of anybody else
    they count once as well: each voter's correlation is divided by how many are all but the same as it,
    and its weight is shared with those. A group of agents that correlate with nobody else gets the
    same weights as without this.
    """
    n = len(voters)
    alike = np.ones((n, n))
    for place, one in enumerate(voters):
        for index in range(place):
            alike[place, index] = alike[index, place] = correlation(one, voters[index])
    # Close to 1 for clones and to 0 for anybody who is not nearly one: 0.72 at 0.99, 0.03 at 0.9.
    copies = [math.fsum(row) for row in (alike**CLONE).tolist()]
    weights: list[float] = []
    for one, row, same in zip(voters, alike.tolist(), copies, strict=True):
        shared = math.fsum(rho / other for rho, other in zip(row, copies, strict=True))
        weights.append(one.quality / (same * shared))
    return weights
