"""How remembered outcomes become a forecast: pure functions over scores and values.

Everything here works along the last axis, so one query, shape (k,), and a batch of them, shape
(m, k), go through the same arithmetic. No BLAS is used: a query's numbers do not depend on which
others share its batch.

The memory keeps situations as unit vectors and scores them by cosine. Distance is the chord between
the two, `sqrt(2 - 2 * score)`: the Euclidean distance of the unit vectors, which for close situations
grows linearly with the difference of their features, while `1 - score` grows with its square.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Functional = Literal["mean", "median"]


def distances(scores: Floats) -> Floats:
    """Chord distances of unit vectors from their cosine similarities, in [0, 2].

    Args:
        scores: Cosine similarities, shape (..., k); rounding beyond [-1, 1] is tolerated.
    """
    # C order, here and below: the order of a sum must not follow the caller's memory layout.
    apart: Floats = 2.0 - 2.0 * np.ascontiguousarray(scores, dtype=np.float64)
    return np.sqrt(np.minimum(np.maximum(apart, 0.0), 4.0))


def kernel_weights(scores: Floats) -> Floats:
    """Weights exp(-distance / median distance), summing to 1 along the last axis.

    The median makes the kernel's width follow how crowded the neighbourhood is. If at least half of
    the distances are zero the median is too, and all memories weigh the same.

    Args:
        scores: Cosine similarities of the recalled memories, shape (..., k), k >= 1.

    Raises:
        InvalidInputError: k is 0.
    """
    apart = distances(scores)
    if apart.shape[-1] == 0:
        raise InvalidInputError("weights of no memories are not defined")
    half = apart.shape[-1] // 2
    ordered = apart.copy()
    ordered.sort(axis=-1)
    # The mean of the middle two, which for an odd count are the same one.
    width = 0.5 * (ordered[..., half, None] + ordered[..., -half - 1, None])
    scaled = np.divide(apart, width, out=np.zeros(apart.shape), where=width > 0.0)
    raw: Floats = np.exp(-scaled)
    weights: Floats = raw / np.add.reduce(raw, axis=-1, keepdims=True)
    return weights


def effective_count(weights: Floats) -> Floats:
    """Kish's effective sample size, (sum w)^2 / sum w^2, along the last axis; in [1, k]."""
    mass = np.ascontiguousarray(weights)
    total = np.add.reduce(mass, axis=-1)
    count: Floats = total * total / np.add.reduce(mass * mass, axis=-1)
    return count


def weighted_mean(values: Floats, weights: Floats) -> Floats:
    """Mean of `values` under `weights` (any positive scale) along the last axis."""
    mass = np.ascontiguousarray(weights)
    products = np.ascontiguousarray(values) * mass
    mean: Floats = np.add.reduce(products, axis=-1) / np.add.reduce(mass, axis=-1)
    return mean


def weighted_quantiles(
    values: Floats, weights: Floats, probabilities: Sequence[float] | Floats
) -> Floats:
    """Quantiles of `values` under `weights` along the last axis.

    Each value sits in the middle of its share of the total weight; between two values the quantile is
    interpolated, beyond the outermost it is the outermost. With equal weights this is definition 5 of
    Hyndman & Fan 1996 (numpy's "hazen").

    Args:
        values: Shape (..., k), k >= 1, finite.
        weights: Same shape, positive, any scale.
        probabilities: p of them, each in [0, 1]; shape (p,), or (..., p) for one set a row.

    Returns:
        Shape (..., p).
    Cost: one sort of k values.

    Raises:
        InvalidInputError: k is 0.
    """
    shape = np.shape(values)
    if shape[-1] == 0:
        raise InvalidInputError("quantiles of no values are not defined")
    flat = np.reshape(values, (-1, shape[-1]))
    wanted = np.asarray(probabilities, dtype=np.float64)
    if wanted.ndim > 1:
        wanted = wanted.reshape(flat.shape[0], -1)
    rows = np.arange(flat.shape[0])[:, None]
    order = flat.argsort(axis=-1, kind="stable")
    ordered = flat[rows, order]
    mass = np.reshape(weights, flat.shape)[rows, order]
    upto = mass.cumsum(axis=-1)
    place = (upto - 0.5 * mass) / upto[:, -1:]
    above = np.add.reduce(place[:, None, :] < wanted[..., :, None], axis=-1, dtype=np.int64)
    right = np.minimum(above, shape[-1] - 1)
    left = np.maximum(above - 1, 0)
    place_left = place[rows, left]
    span = place[rows, right] - place_left
    share = np.divide(wanted - place_left, span, out=np.zeros(span.shape), where=span > 0.0)
    low = ordered[rows, left]
    quantiles: Floats = low + share * (ordered[rows, right] - low)
    return quantiles.reshape(*shape[:-1], -1)


@dataclass(frozen=True, slots=True)
class Recalled:
    """What k remembered outcomes say about a situation; arrays for a batch of m, else floats.

    Attributes:
        expected: The forecast, baseline included.
        low: Lower end of the interval.
        high: Upper end of the interval.
        effective: How many equally weighted memories it rests on, in [1, k].
        weights: Each memory's share, summing to 1; shape (k,) or (m, k).
    """

    expected: Any
    low: Any
    high: Any
    effective: Any
    weights: Floats


def recall(
    values: Floats,
    scores: Floats,
    *,
    alpha: float | Floats,
    baseline: float | Floats = 0.0,
    bias: float | Floats = 0.0,
    functional: Functional = "mean",
) -> Recalled:
    """Forecast from the nearest remembered situations.

    With a baseline, what is recalled is how far the outcomes lay from the baseline that was frozen
    with each memory, and the recalled error corrects the baseline of today.

    Args:
        values: Remembered outcomes, or outcome minus frozen baseline; shape (k,) or (m, k).
        scores: Cosine similarities of the remembered situations, same shape.
        alpha: Wanted miss rate of the interval, in [0, 1]; one, or one a row.
        baseline: Today's baseline forecast; one, or one a row.
        bias: `conformal.AdaptiveBias.bias`, added to the forecast and to both ends; one, or one a row.
        functional: Which centre of the recalled values is the forecast.

    Cost: about 0.09 ms for one query with k = 300; 0.04 ms each in a batch of 20.

    Raises:
        InvalidInputError: k is 0, or the functional is unknown.
    """
    if functional not in {"mean", "median"}:
        raise InvalidInputError(f'functional must be "mean" or "median", not {functional!r}')
    weights = kernel_weights(scores)
    tail = np.asarray(alpha, dtype=np.float64) * 0.5
    wanted = np.empty((*tail.shape, 3))
    wanted[..., 0], wanted[..., 1], wanted[..., 2] = tail, 0.5, 1.0 - tail
    quantiles = weighted_quantiles(values, weights, wanted)
    centre = quantiles[..., 1] if functional == "median" else weighted_mean(values, weights)
    shift = baseline + bias
    return Recalled(
        expected=shift + centre,
        low=shift + quantiles[..., 0],
        high=shift + quantiles[..., 2],
        effective=effective_count(weights),
        weights=weights,
    )
