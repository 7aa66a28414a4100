"""Which texts of an item are embedded, and their vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from langgraph.store.base import (
    Embeddings,
    IndexConfig,
    PutOp,
    ensure_embeddings,
    get_text_at_path,
    tokenize_path,
)

from nt_memory.errors import DimensionError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]


class Indexer:
    """Embeds what an index configuration says.

    Args:
        config: LangGraph's: `dims`, `embed` and `fields`.

    Raises:
        InvalidInputError: there is nothing to embed with.
    """

    def __init__(self, config: IndexConfig) -> None:
        embed = config.get("embed")
        if embed is None:
            raise InvalidInputError('index: give "embed", which turns texts into vectors')
        self.embeddings: Embeddings = ensure_embeddings(embed)
        self._dims = config.get("dims")
        self._fields = [_tokens(path) for path in config.get("fields") or ["$"]]

    async def query(self, text: str) -> Vectors:
        """The vector of what is searched for, shape (dims,).

        Raises:
            DimensionError: it has another length than `dims`.
        """
        found: Vectors = self._checked([await self.embeddings.aembed_query(text)])[0]
        return found

    async def of_items(self, puts: Sequence[PutOp]) -> list[Vectors]:
        """The vectors of each of some items, shape (n, dims), n of them 0 or more; each text once.

        Raises:
            DimensionError: one has another length than `dims`.
        """
        texts = [self._texts(put) for put in puts]
        numbers = {
            text: n for n, text in enumerate(dict.fromkeys(t for some in texts for t in some))
        }
        if not numbers:
            return [np.zeros((0, 0), np.float32)] * len(puts)
        vectors = self._checked(await self.embeddings.aembed_documents(list(numbers)))
        return [vectors[[numbers[text] for text in some]] for some in texts]

    def _texts(self, put: PutOp) -> list[str]:
        if put.value is None or put.index is False:
            return []
        fields = self._fields if put.index is None else [_tokens(path) for path in put.index]
        return [text for field in fields for text in get_text_at_path(put.value, field)]

    def _checked(self, found: Any) -> Vectors:
        vectors = np.asarray(found, dtype=np.float32)
        if self._dims is not None and (vectors.ndim != 2 or vectors.shape[1] != self._dims):
            raise DimensionError(
                f"index: the embeddings have shape {vectors.shape}, not (n, {self._dims})",
                expected=self._dims,
                got=vectors.shape[-1] if vectors.ndim else 0,
            )
        return vectors


def _tokens(path: str) -> str | list[str]:
    return path if path == "$" else tokenize_path(path)
