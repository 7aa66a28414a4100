"""What an embedder is: a frozen function from what an agent sees to vectors.

It is generic in what it takes, because prices and texts have nothing in common but what becomes of
them: an `Embedder[ArrayLike]` takes a window of closes, an `Embedder[Sequence[str]]` takes texts. A
memory that holds vectors of one version can be searched with vectors of that version only, so every
embedder names its version, and nothing about an embedder changes after it was made.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Input = TypeVar("Input", contravariant=True)  # noqa: PLC0105 - the name that readers see
Given = TypeVar("Given")


class Embedder(Protocol[Input]):
    """Turns what is given into vectors: one an instrument, one a text, whatever the input holds."""

    @property
    def version(self) -> str:
        """Names the model or the fit: equal versions give equal vectors."""
        ...

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    def embed(self, given: Input, /) -> NDArray[np.floating[Any]]:
        """The vectors, shape (n, dim), finite, none of them zero, in the order of what was given.

        May block for as long as a model or a network takes; call it from no event loop.

        Raises:
            InvalidInputError: what was given cannot be embedded.
        """
        ...


@runtime_checkable
class AsyncEmbedder(Protocol[Input]):
    """An embedder that leaves the event loop by itself."""

    @property
    def version(self) -> str:
        """See `Embedder.version`."""
        ...

    @property
    def dim(self) -> int:
        """See `Embedder.dim`."""
        ...

    def embed(self, given: Input, /) -> NDArray[np.floating[Any]]:
        """See `Embedder.embed`."""
        ...

    async def aembed(self, given: Input, /) -> NDArray[np.floating[Any]]:
        """As `embed`, on a thread of its own; the event loop goes on."""
        ...


async def aembed(embedder: Embedder[Given], given: Given) -> NDArray[np.floating[Any]]:
    """The vectors of any embedder, computed off the event loop.

    By the embedder's own `aembed` if it has one, else on asyncio's worker threads. Those also search
    the memory, so what waits for a network or a model should have an `aembed` with threads of its own.

    Raises:
        As `Embedder.embed`.
    """
    if isinstance(embedder, AsyncEmbedder):
        return await embedder.aembed(given)
    return await asyncio.to_thread(embedder.embed, given)
