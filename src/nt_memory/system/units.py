"""Embeddings as they are compared and stored: unit vectors, float32 and float16."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from nt_memory.errors import EmbeddingError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MAX_DIM = 16_384
_LEAST_SQUARE = 1e-200
_GREATEST_SQUARE = 1e200
"""Between them a sum of squares has lost nothing to overflow or underflow."""


def to_unit(embedding: ArrayLike) -> NDArray[np.float32]:
    """A query or observation as a float32 unit vector, shape (dim,).

    Raises:
        EmbeddingError: not one vector of finite numbers, or the zero vector.
    """
    wide = _wide(embedding, 1)
    # The same as below with a quarter of its numpy calls, since every query and observation pays them.
    row = wide[0]
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        square = float(row.dot(row))
    unit: NDArray[np.float32]
    if _LEAST_SQUARE < square < _GREATEST_SQUARE:
        unit = (row / math.sqrt(square)).astype(np.float32)
    else:
        unit = scaled(wide, lengths_of(wide))[0]
    return unit


def to_units(embeddings: ArrayLike, *, ndim: int = 2) -> NDArray[np.float32]:
    """Rows as float32 unit vectors, shape (n, dim).

    Raises:
        EmbeddingError: wrong shape, not finite numbers, or a zero row.
    """
    wide = _wide(embeddings, ndim)
    return scaled(wide, lengths_of(wide))


def to_half(units: NDArray[np.float32]) -> NDArray[np.float16]:
    """Unit vectors as they are stored: little-endian float16."""
    return units.astype("<f2")


def lengths_of(wide: NDArray[np.float64]) -> NDArray[np.float64]:
    """The length of each row, shape (n,); NaN where it has one, but none that float64 can square.

    Raises:
        EmbeddingError: a row is not finite, or zero.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        squares: NDArray[np.float64] = np.vecdot(wide, wide)
    is_plain = (squares > _LEAST_SQUARE) & (squares < _GREATEST_SQUARE)
    if is_plain.all():
        return np.sqrt(squares)
    odd = wide[~is_plain]
    if not np.isfinite(odd).all():
        raise EmbeddingError("an embedding must be finite: it holds NaN or infinity")
    if not np.abs(odd).max(axis=1).all():
        raise EmbeddingError("an embedding must not be the zero vector: it has no direction")
    return np.sqrt(np.where(is_plain, squares, np.nan))


def scaled(wide: NDArray[np.float64], lengths: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rows divided by their `lengths_of`."""
    is_odd = np.isnan(lengths)
    if is_odd.any():
        # By the largest element first, so that squaring neither overflows nor underflows.
        wide = wide.copy()
        wide[is_odd] /= np.abs(wide[is_odd]).max(axis=1, keepdims=True)
        lengths = np.where(is_odd, np.linalg.norm(wide, axis=1), lengths)
    units: NDArray[np.float32] = (wide / lengths[:, np.newaxis]).astype(np.float32)
    return units


def to_wide(embeddings: ArrayLike) -> NDArray[np.float64]:
    """Numbers as float64, of whatever shape.

    Raises:
        EmbeddingError: not an array of numbers.
    """
    try:
        return np.asarray(embeddings, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise EmbeddingError(f"an embedding must be an array of numbers: {error}") from None


def check_shape(shape: tuple[int, ...], ndim: int) -> None:
    """Refuse what is not vectors.

    Raises:
        EmbeddingError: another number of dimensions, no values, or too many a row.
    """
    if len(shape) != ndim:
        raise EmbeddingError(f"expected {ndim} dimension(s), got shape {shape}")
    if 0 in shape or shape[-1] > MAX_DIM:
        raise EmbeddingError(f"an embedding has 1 to {MAX_DIM} numbers, got shape {shape}")


def _wide(embeddings: ArrayLike, ndim: int) -> NDArray[np.float64]:
    wide = to_wide(embeddings)
    check_shape(wide.shape, ndim)
    return wide.reshape(-1, wide.shape[-1])
