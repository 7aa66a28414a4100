"""What text embedders share: texts are checked before any work, vectors before they are returned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nt_memory.errors import DimensionError, EmbeddingError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


def check_texts(texts: Sequence[str]) -> list[str]:
    """The texts as a list.

    Raises:
        InvalidInputError: it is a single string, an item is not a string, holds half a surrogate pair
            or nothing but blanks; the message says which.
    """
    if isinstance(texts, str | bytes):
        raise InvalidInputError("texts must be a sequence of strings, not one string")
    checked = list(texts)
    for place, text in enumerate(checked):
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(f"text {place} is a {type(text).__name__}, not a string")
        if not text or text.isspace():
            raise InvalidInputError(f"text {place} is empty: it resembles nothing")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise InvalidInputError(f"text {place} is not valid Unicode") from None
    return checked


def check_vectors(found: ArrayLike, count: int, dim: int, source: str) -> NDArray[np.float32]:
    """What a model returned, as float32 of shape (count, dim).

    Raises:
        DimensionError: the vectors have another dimension.
        EmbeddingError: there is another number of them, or one is zero or not finite.
    """
    with np.errstate(over="ignore"):  # an infinity is met below
        vectors: NDArray[Any] = np.ascontiguousarray(found, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != count:
        raise EmbeddingError(f"{source}: {count} texts gave an array of shape {vectors.shape}")
    if vectors.shape[1] != dim:
        raise DimensionError(
            f"{source} returned vectors of dimension {vectors.shape[1]}, not {dim}",
            expected=dim,
            got=vectors.shape[1],
        )
    if not np.isfinite(vectors).all() or not vectors.any(axis=1).all():
        raise EmbeddingError(f"{source} returned a vector that is zero or not finite")
    return vectors
