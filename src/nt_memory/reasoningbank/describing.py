"""What a cluster of situations led to, in numbers and in the words of named features."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nt_memory.reasoningbank.dependence import Z95, Mean, daily_mean
from nt_memory.reasoningbank.recall import distances
from nt_memory.reasoningbank.wire import pack_rows, split_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nt_memory.reasoningbank.judging import History
    from nt_memory.timeline import Moment

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

WITH_BASELINE, WITHOUT_BASELINE = "outcome minus baseline", "outcome"
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
NAMED = 10
"""Trajectories named of those that worked, and of those that failed."""
SHOWN_FEATURES = 3
NOTABLE, STRONG = 0.5, 1.5
"""Standard deviations from which on a feature is worth a word, and a strong one."""
MIN_CONTRAST = 10
"""Forecasts that worked, and as many that failed, from which on they are contrasted."""


class Material(NamedTuple):
    """What patterns of one agent and action type are drawn from; all of length n, by row.

    Attributes:
        found: The judged actions.
        rows: Their vector rows, ascending.
        vectors: Their situations, shape (n, dim).
        cluster: Which cluster each is in.
        moment: As of when.
    """

    found: History
    rows: Ints
    vectors: NDArray[np.float32]
    cluster: Ints
    moment: Moment


def wilson(share: float, n: float) -> tuple[float, float]:
    """95 % interval of a share of `n` independent trials. Source: Wilson 1927."""
    square = Z95 * Z95
    middle = (share + square / (2.0 * n)) / (1.0 + square / n)
    half = Z95 * math.sqrt(share * (1.0 - share) / n + square / (4.0 * n * n)) / (1.0 + square / n)
    # Rounding may push an end that is exactly 0 or 1 just past it.
    return max(middle - half, 0.0), min(middle + half, 1.0)


def surprises(found: History) -> tuple[str, Floats]:
    """What patterns are tested on, and its name: see `Pattern.surprise`."""
    actual, baseline = found.forecasts.actual, found.forecasts.baseline
    if len(baseline) and np.isfinite(baseline).all():
        return WITH_BASELINE, actual - baseline
    return WITHOUT_BASELINE, actual


def describe_all(material: Material) -> list[dict[str, Any]]:
    """One description a cluster that has situations, by cluster."""
    names = () if material.found.definition is None else material.found.definition.features
    scale = _scale(material.vectors) if names else None
    return [
        _describe(material, np.flatnonzero(material.cluster == number), number)
        | _words(material, np.flatnonzero(material.cluster == number), names, scale)
        for number in np.unique(material.cluster).tolist()
    ]


def _describe(material: Material, members: Ints, number: int) -> dict[str, Any]:
    found, rows, vectors, _, moment = material
    middle = np.sum(vectors[members], axis=0, dtype=np.float64)
    length = math.sqrt(float(np.sum(middle * middle)))
    centroid = (middle / length if length > 0.0 else vectors[members[0]]).astype(np.float32)
    apart = distances(np.sum(vectors[members].astype(np.float64) * centroid, axis=1))
    outcome = found.forecasts.actual[members]
    mean = daily_mean(outcome, found.at[members], found.horizon_days)
    partition = np.full(len(members), found.lane.partition, np.int64)
    return {
        "id": f"{found.table.action_type}/{moment.time_us}-{moment.revision}/{number}",
        "unit": "" if found.definition is None else found.definition.unit,
        "centroid": centroid,
        "radius": float(np.quantile(apart, 0.9)),
        "n": len(members),
        "n_effective": mean.n_effective,
        "outcome_mean": mean.value,
        "outcome_error": mean.standard_error,
        "outcome_quantiles": tuple(np.quantile(outcome, QUANTILES).tolist()),
        **_contrast(found, members),
        "as_of_us": moment.time_us,
        "sources_packed": pack_rows(partition, rows[members]),
    }


def _contrast(found: History, members: Ints) -> dict[str, Any]:
    """How often forecasts of the cluster worked, what worked and what failed."""
    skill = found.judged.skill[members]
    members = members[np.isfinite(skill)]
    skill = skill[np.isfinite(skill)]
    rate, low, high = None, None, None
    if len(skill):
        won: Mean = daily_mean(
            (skill > 0.0).astype(np.float64), found.at[members], found.horizon_days
        )
        rate, (low, high) = won.value, wilson(won.value, max(won.n_effective, 1.0))
        # At 0 and 1 rounding could leave the rate outside its own interval.
        low, high = min(low, rate), max(high, rate)
    order = members[np.argsort(found.judged.skill[members], kind="stable")]
    lost = order[found.judged.skill[order] < 0.0]
    won_by = order[found.judged.skill[order] > 0.0][::-1]
    return {
        "success_rate": rate,
        "success_low": low,
        "success_high": high,
        "failures": len(lost),
        "failure_error": float(np.mean(found.judged.error[lost])) if len(lost) else None,
        "failed": _names(found, lost[:NAMED]),
        "worked": _names(found, won_by[:NAMED]),
    }


def _names(found: History, places: Ints) -> tuple[str, ...]:
    names = [split_key(found.table.key(int(found.entries[one])))[0] for one in places]
    return tuple(dict.fromkeys(names))


def _scale(vectors: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each component over all situations."""
    mean: Floats = np.asarray(np.mean(vectors, axis=0, dtype=np.float64))
    spread: Floats = np.asarray(np.std(vectors, axis=0, dtype=np.float64))
    return mean, spread


def _words(
    material: Material,
    members: Ints,
    names: Sequence[str],
    scale: tuple[Floats, Floats] | None,
) -> dict[str, str]:
    """Summary and contrast in the words of the features; empty without names."""
    if scale is None:
        return {"summary": "", "contrast": ""}
    usual, spread = scale
    size = min(len(names), len(usual))
    width = np.where(spread[:size] > 0.0, spread[:size], np.inf)
    vectors = material.vectors[members, :size].astype(np.float64)
    summary = ", ".join(_notable((np.mean(vectors, axis=0) - usual[:size]) / width, names))
    skill = material.found.judged.skill[members]
    worked, failed = vectors[skill > 0.0], vectors[skill < 0.0]
    if min(len(worked), len(failed)) < MIN_CONTRAST:
        return {"summary": summary, "contrast": ""}
    apart = (np.mean(failed, axis=0) - np.mean(worked, axis=0)) / width
    # A difference within a cluster is worth a word if chance would seldom make so great a one.
    chance = 2.0 * np.std(vectors, axis=0) / width * math.sqrt(1 / len(worked) + 1 / len(failed))
    words = _notable(
        np.where(np.abs(apart) > chance, apart, 0.0), names, is_comparing=True, least=0.2
    )
    contrast = f"Forecasts failed rather with {', '.join(words)}" if words else ""
    return {"summary": summary, "contrast": contrast}


def _notable(
    deviation: Floats,
    names: Sequence[str],
    *,
    is_comparing: bool = False,
    least: float = NOTABLE,
) -> list[str]:
    """The most notable features in words: "very high volatility", or "higher volatility"."""
    order = np.argsort(-np.abs(deviation), kind="stable")[:SHOWN_FEATURES]
    words: list[str] = []
    for place in order.tolist():
        size = abs(float(deviation[place]))
        if size < least:
            break
        side = "high" if deviation[place] > 0.0 else "low"
        if is_comparing:
            words.append(f"{side}er {names[place]}")
        else:
            words.append(f"{'very ' if size >= STRONG else ''}{side} {names[place]}")
    return words
