"""How remembered outcomes become a forecast."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nt_memory.errors import InvalidInputError
from nt_memory.reasoningbank.recall import (
    distances,
    effective_count,
    kernel_weights,
    recall,
    weighted_mean,
    weighted_quantiles,
)


def sample(m: int, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(m, k)), 1.0 - 0.2 * generator.random((m, k))


def test_distance_is_the_chord_between_unit_vectors() -> None:
    """`distances` is the Euclidean distance of the unit vectors that scored so."""
    a, b = np.array([1.0, 0.0]), np.array([0.6, 0.8])
    assert distances(np.array([a @ b])) == pytest.approx(np.linalg.norm(a - b))
    assert distances(np.array([1.0, 0.0, -1.0])) == pytest.approx([0.0, np.sqrt(2.0), 2.0])


def test_scores_beyond_one_by_rounding_are_no_distance() -> None:
    """A score of 1 plus rounding gives distance 0, not NaN."""
    assert distances(np.array([1.0 + 1e-12]))[0] == 0.0


@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_kernel_is_exponential_in_median_distances(k: int) -> None:
    """Weights are exp(-distance / median distance), normalised."""
    _, scores = sample(1, k)
    apart = np.sqrt(2.0 - 2.0 * scores[0])
    expected = np.exp(-apart / np.median(apart))
    assert kernel_weights(scores[0]) == pytest.approx(expected / expected.sum())


def test_identical_situations_weigh_the_same() -> None:
    """When the median distance is zero there is no width: all weigh the same."""
    assert kernel_weights(np.array([1.0, 1.0, 1.0, 0.5])) == pytest.approx([0.25] * 4)


def test_nothing_recalled_is_refused() -> None:
    """No memories give an error, not NaN."""
    with pytest.raises(InvalidInputError):
        kernel_weights(np.empty(0))
    with pytest.raises(InvalidInputError):
        weighted_quantiles(np.empty(0), np.empty(0), [0.5])


def test_equal_weights_give_plain_mean_and_hazen_quantiles() -> None:
    """With equal weights the statistics are the unweighted ones."""
    values, _ = sample(3, 41)
    same = np.ones_like(values)
    wanted = [0.0, 0.1, 0.5, 0.93, 1.0]
    assert weighted_mean(values, same) == pytest.approx(values.mean(axis=1))
    assert effective_count(same) == pytest.approx([41.0] * 3)
    assert weighted_quantiles(values, same, wanted) == pytest.approx(
        np.quantile(values, wanted, axis=1, method="hazen").T
    )


def test_unequal_weights_count_for_fewer() -> None:
    """Kish: three parts and one are worth 16 / 10 memories; one that has all is one."""
    assert effective_count(np.array([[3.0, 1.0], [5.0, 0.0]])) == pytest.approx([1.6, 1.0])


def test_a_weight_of_two_is_nearly_two_memories() -> None:
    """Quantiles follow the weights: most of the mass at 1 puts the median there."""
    values = np.array([0.0, 1.0, 2.0])
    assert weighted_quantiles(values, np.array([1.0, 98.0, 1.0]), [0.5])[0] == pytest.approx(1.0)
    assert weighted_quantiles(values, np.array([98.0, 1.0, 1.0]), [0.5])[0] < 0.05


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(-1e6, 1e6)),
    st.integers(0, 2**32 - 1),
)
def test_quantiles_rise_and_stay_inside(values: np.ndarray, seed: int) -> None:
    """Quantiles are monotone in the probability and never leave the recalled values."""
    weights = np.random.default_rng(seed).random(values.shape[0]) + 1e-6
    found = weighted_quantiles(values, weights, np.linspace(0.0, 1.0, 23))
    slack = 1e-9 * (1.0 + np.abs(values).max())
    assert np.all(np.diff(found) >= -slack)
    assert found[0] == values.min()
    assert found[-1] == pytest.approx(values.max(), abs=slack)


def test_one_query_has_the_same_bytes_alone_and_in_a_batch() -> None:
    """A forecast does not depend, to the last bit, on which others are made with it."""
    values, scores = sample(7, 300)
    alpha, base = np.linspace(0.05, 0.4, 7), np.linspace(-2.0, 1.0, 7)
    for functional in ("mean", "median"):
        batch = recall(values, scores, alpha=alpha, baseline=base, bias=0.1, functional=functional)
        fortran = recall(
            np.asfortranarray(values),
            np.asfortranarray(scores),
            alpha=alpha,
            baseline=base,
            bias=0.1,
            functional=functional,
        )
        for row in range(7):
            alone = recall(
                values[row],
                scores[row],
                alpha=float(alpha[row]),
                baseline=float(base[row]),
                bias=0.1,
                functional=functional,
            )
            for part in ("expected", "low", "high", "effective"):
                assert getattr(alone, part) == getattr(batch, part)[row]
                assert getattr(alone, part) == getattr(fortran, part)[row]


def test_baseline_and_bias_shift_everything() -> None:
    """Centre and interval move by baseline plus bias, and by nothing else."""
    values, scores = sample(1, 50)
    plain = recall(values[0], scores[0], alpha=0.2)
    moved = recall(values[0], scores[0], alpha=0.2, baseline=2.0, bias=0.5)
    for part in ("expected", "low", "high"):
        assert getattr(moved, part) == pytest.approx(getattr(plain, part) + 2.5)


def test_smaller_alpha_never_narrows() -> None:
    """A lower wanted miss rate gives an interval that contains the wider one's."""
    values, scores = sample(1, 80)
    narrow = recall(values[0], scores[0], alpha=0.4)
    wide = recall(values[0], scores[0], alpha=0.05)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_unknown_functional_is_refused() -> None:
    """Only mean and median are centres."""
    values, scores = sample(1, 5)
    with pytest.raises(InvalidInputError, match="functional"):
        recall(values[0], scores[0], alpha=0.2, functional="mode")  # type: ignore[arg-type]


def test_interval_leaves_half_of_alpha_on_each_side() -> None:
    """The ends are the quantiles at alpha / 2 and 1 - alpha / 2 of what was recalled."""
    values, scores = sample(1, 60)
    found = recall(values[0], scores[0], alpha=0.3)
    ends = weighted_quantiles(values[0], kernel_weights(scores[0]), [0.15, 0.5, 0.85])
    assert [found.low, found.high] == ends[[0, 2]].tolist()
    assert recall(values[0], scores[0], alpha=0.3, functional="median").expected == ends[1]
    assert found.expected == weighted_mean(values[0], kernel_weights(scores[0]))
    assert found.weights.tobytes() == kernel_weights(scores[0]).tobytes()


def test_memory_layout_changes_no_bit() -> None:
    """Means and quantiles of transposed storage are the same bytes."""
    values, scores = sample(6, 200)
    weights = kernel_weights(scores)
    turned, turned_weights = np.asfortranarray(values), np.asfortranarray(weights)
    plain = weighted_mean(values, weights)
    assert plain.tobytes() == weighted_mean(turned, turned_weights).tobytes()
    plain = weighted_quantiles(values, weights, [0.1, 0.9])
    assert plain.tobytes() == weighted_quantiles(turned, turned_weights, [0.1, 0.9]).tobytes()
