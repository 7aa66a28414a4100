"""The port the ReasoningBank stands on: versioned writes and reads in its own spaces, and search.

The memory implements it over its engine, `nt_memory.testing.MemoryBacking` in plain Python. All of
it is called on the event loop; `search_rows` may leave the loop, the rest answers at once. Only what `reader`
returns may be called on any thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from nt_memory.entries import Stored, WriteOp
    from nt_memory.timeline import AsOfLike, Moment

SWARM = "_swarm"
"""Owner of what belongs to no agent. No agent's name can start with an underscore."""

NEVER = 2**63 - 1


class KMeans(Protocol):
    """Clusters vectors; thread-safe and deterministic."""

    def __call__(
        self, vectors: NDArray[np.float32], k: int, seed: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Centroids (c, dim), c <= k, and each row's cluster (n,)."""
        ...


class Candidates(Protocol):
    """Rows found for one query, best first; ties by partition and row. All shape (c,)."""

    @property
    def partition(self) -> NDArray[np.int64]:
        """Partition ids."""
        ...

    @property
    def row(self) -> NDArray[np.int64]:
        """Row numbers."""
        ...

    @property
    def score(self) -> NDArray[np.float64]:
        """Cosine similarities in [-1, 1]."""
        ...


class Versions(Protocol):
    """Some versions of a space, made into `Stored` only when they are looked at."""

    @property
    def revisions(self) -> NDArray[np.int64]:
        """By which entry each was written."""
        ...

    def __getitem__(self, place: int) -> Stored:
        """One of them."""
        ...


class StoredChange(Protocol):
    """One version that became visible."""

    @property
    def kind(self) -> str:
        """Either "put", "delete" or "expire"."""
        ...

    @property
    def stored(self) -> Stored:
        """The version, its value included; None for a delete."""
        ...


class Drafts(Protocol):
    """Where unfinished work under one request id is kept, on this machine. Blocks; any thread."""

    def load(self, name: str) -> bytes | None:
        """What was saved; None if nothing was, or it cannot be read."""
        ...

    def save(self, name: str, data: bytes) -> None:
        """Keep it, as a whole or not at all. That it cannot be kept is no error: it costs time."""
        ...

    def clear(self) -> None:
        """Keep nothing of this request any more."""
        ...


class Made(NamedTuple):
    """What a request did when it was made.

    Attributes:
        revision: Of its entry; None if there was nothing to write.
    """

    revision: int | None


class Backing(Protocol):
    """Versioned storage and vector search, as the bank needs them."""

    async def write(self, ops: Sequence[WriteOp], *, request_id: str | None = None) -> int:
        """Write all of `ops` or none; their revision, visible and followed when it returns.

        Under a request id that was used before it writes nothing, and returns the first revision.
        """
        ...

    def made(self, request_id: str) -> Made | None:
        """What was written under a request id, if that is visible here and not forgotten.

        Raises:
            InvalidInputError: something else than a write was.
        """
        ...

    def drafts(self, request_id: str) -> Drafts | None:
        """Where work under a request id is kept until it is done; None: nowhere."""
        ...

    def read(self, space: str, agent: str, key: str, moment: Moment) -> Stored | None:
        """The version a moment shows; None if there is none or it is a delete."""
        ...

    def scan(
        self, space: str, agent: str | None, moment: Moment, prefix: str = "", *, after: str = ""
    ) -> Iterator[Stored]:
        """Versions a moment shows, by agent and key; not used across an await.

        With an agent, `after` is a key of its to begin behind. Cost: what is taken, and up to 1,024 more.
        """
        ...

    def all_versions(self, space: str) -> Iterator[Versions]:
        """Every version of a space, deletes included, by agent, key, known_at and revision; some at a time.

        At most so many that the event loop can wait for them, at least one. May be used across awaits; versions written meanwhile may or may not be seen.
        """
        ...

    def partition(self, agent: str, partition: str) -> int | None:
        """Id of a vector partition, None if nothing was ever put into it."""
        ...

    def vectors(self, partition: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Stored unit vectors of `rows`, shape (n, dim)."""
        ...

    def reader(self, partition: int) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
        """What gives `vectors` of rows there are by now, as they are now, on any thread and later, too."""
        ...

    async def search_rows(
        self,
        partitions: Sequence[int],
        queries: NDArray[np.float32],
        k: int,
        moment: Moment,
        allow: Mapping[int, NDArray[np.bool_]] | None = None,
        *,
        exact: bool = False,
    ) -> Sequence[Candidates]:
        """Nearest rows to each unit query, shape (m, dim), among all partitions.

        Args:
            partitions: Where to search.
            queries: Unit vectors.
            k: Wanted rows a query.
            moment: Which rows are in force.
            allow: By partition, which rows may be returned; rows beyond the mask may not. The bank
                never changes a mask it has handed out.
            exact: Scan instead of using a graph.

        Raises:
            DimensionError: a partition holds another dimension.
        """
        ...

    def now_ns(self) -> int:
        """A monotonic time, to measure by. Nothing that is answered may depend on it."""
        ...

    def resolve(self, as_of: AsOfLike | None) -> Moment:
        """The moment an `as_of` argument names. Raises like `Timeline.resolve`."""
        ...
