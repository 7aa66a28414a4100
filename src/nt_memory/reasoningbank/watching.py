"""Promoted patterns after their promotion: carried along, tested against what came since, retired."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nt_memory.reasoningbank.describing import surprises
from nt_memory.reasoningbank.drift import Evidence, Reference
from nt_memory.reasoningbank.promotion import day_means
from nt_memory.reasoningbank.recall import distances

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from nt_memory.reasoningbank.describing import Material
    from nt_memory.reasoningbank.pattern import Pattern

MAX_PROMOTED = 256
"""Promoted patterns kept of an agent and action type; of more, the newest."""


def watch(promoted: Sequence[Pattern], material: Material) -> list[Pattern]:
    """The promoted patterns of a set, each with the evidence that has come since, or retired.

    Args:
        promoted: Those that held so far.
        material: All situations whose outcomes are known by now.

    Cost: a pass over the situations taken since the promotion, for each pattern.
    """
    name, values = surprises(material.found)
    return [_watch(one, material, values) for one in promoted if one.surprise == name]


def _watch(pattern: Pattern, material: Material, values: NDArray[np.float64]) -> Pattern:
    is_new = material.found.at > (pattern.promoted_at_us or 0)
    if len(pattern.centroid) != material.vectors.shape[1]:
        return pattern  # of another embedding
    new = np.flatnonzero(is_new)
    score = np.sum(material.vectors[new].astype(np.float64) * pattern.centroid, axis=1)
    inside = new[distances(score) <= pattern.radius]
    evidence = weigh_evidence(
        values[inside], material.found.at[inside], pattern, material.found.horizon_days
    )
    if evidence is None:
        return pattern
    against, is_over = evidence
    if not is_over:
        return replace(pattern, against=against)
    return replace(
        pattern, against=against, is_promoted=False, retired_at_us=material.moment.time_us
    )


def weigh_evidence(
    values: NDArray[np.float64], at_us: NDArray[np.int64], pattern: Pattern, horizon_days: int
) -> tuple[float, bool] | None:
    """Evidence against a pattern as a share of its threshold, and whether it ever passed that.

    Args:
        values: What came in its situations since it was promoted, shape (n,).
        at_us: When each of them was.
        pattern: Which.
        horizon_days: Over how many days labels overlap.
    """
    if not pattern.effect or not pattern.variance or pattern.elsewhere is None:
        return None
    reference = Reference(pattern.effect, pattern.variance, horizon_days)
    means = day_means(values, at_us) - pattern.elsewhere
    evidence = Evidence()
    for mean in means.tolist():
        evidence = evidence.after(mean, reference)
    limit = reference.threshold
    return evidence.against / limit, evidence.worst > limit


def keep(watched: Iterable[Pattern], renewed: Sequence[Pattern]) -> list[Pattern]:
    """Those to keep beside what a look promoted anew: none that a new one covers.

    Args:
        watched: From before.
        renewed: Promoted just now.
    """
    kept = [one for one in watched if not any(_covers(other, one) for other in renewed)]
    return sorted(kept, key=lambda one: one.promoted_at_us or 0)[-MAX_PROMOTED:]


def _covers(new: Pattern, old: Pattern) -> bool:
    if len(new.centroid) != len(old.centroid):
        return False
    score = np.sum(new.centroid.astype(np.float64) * old.centroid)
    return bool(distances(np.array([score]))[0] <= new.radius)
