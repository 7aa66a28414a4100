"""Embeddings as they are compared and stored: unit vectors, float32 and float16."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nt_memory.errors import EmbeddingError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MAX_DIM = 16_384


def to_unit(embedding: ArrayLike) -> NDArray[np.float32]:
    """A query or observation as a float32 unit vector, shape (dim,).

    Raises:
        EmbeddingError: not one vector of finite numbers, or the zero vector.
    """
    unit: NDArray[np.float32] = to_units(embedding, ndim=1)[0]
    return unit


def to_units(embeddings: ArrayLike, *, ndim: int = 2) -> NDArray[np.float32]:
    """Rows as float32 unit vectors, shape (n, dim).

    Raises:
        EmbeddingError: wrong shape, not finite numbers, or a zero row.
    """
    try:
        wide = np.asarray(embeddings, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise EmbeddingError(f"an embedding must be an array of numbers: {error}") from None
    if wide.ndim != ndim:
        raise EmbeddingError(f"expected {ndim} dimension(s), got shape {wide.shape}")
    rows = wide.reshape(-1, wide.shape[-1]) if wide.size else wide.reshape(0, 0)
    if rows.size == 0 or rows.shape[1] > MAX_DIM:
        raise EmbeddingError(f"an embedding has 1 to {MAX_DIM} numbers, got shape {wide.shape}")
    if not np.isfinite(rows).all():
        raise EmbeddingError("an embedding must be finite: it holds NaN or infinity")
    # Scaled by the largest element first, so that squaring neither overflows nor underflows.
    largest = np.abs(rows).max(axis=1, keepdims=True)
    if not (largest > 0).all():
        raise EmbeddingError("an embedding must not be the zero vector: it has no direction")
    scaled = rows / largest
    units: NDArray[np.float32] = (scaled / np.linalg.norm(scaled, axis=1, keepdims=True)).astype(
        np.float32
    )
    return units


def to_half(units: NDArray[np.float32]) -> NDArray[np.float16]:
    """Unit vectors as they are stored: little-endian float16."""
    return units.astype("<f2")
