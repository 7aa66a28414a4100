"""What every contender does: build from vectors, search one at a time, keep, open again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from nt_memory.apps.bench.loading import module

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

BATCH = 2_000
LADDER = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768)


@dataclass(frozen=True)
class About:
    """What is known of a contender before it runs.

    Attributes:
        package: The distribution whose version counts.
        settings: How it is set, in words; "{ef}" is where the breadth of a search goes.
        modules: What is imported before the clock starts.
        is_killed: Its process is killed instead of closed, so that opening it again is recovery.
        is_kept: Another process can open what this one built.
    """

    package: str
    settings: str
    modules: tuple[str, ...] = ()
    is_killed: bool = False
    is_kept: bool = True


class Contender(Protocol):
    """One index or database, alone in its process."""

    about: ClassVar[About]

    def __init__(self, directory: Path, dim: int, threads: int) -> None: ...

    def build(self, vectors: Floats) -> None:
        """Take all vectors in, under their row numbers, and be done indexing when it returns.

        Nothing may be kept of `vectors` itself: it is a map of a file.
        """
        ...

    def search(self, query: Floats) -> Sequence[int]:
        """Row numbers of about the `K` nearest, best first."""
        ...

    def save(self) -> None:
        """Leave on disk what `open` needs."""
        ...

    def open(self) -> None:
        """Open what another process left, ready to search."""
        ...

    def close(self) -> None:
        """Let go of what `build` or `open` took."""
        ...


@runtime_checkable
class Tunable(Protocol):
    """A contender whose searches can be broader or narrower: breadths `LADDER`, ascending."""

    def set_ef(self, ef: int) -> None:
        """Search this broadly from now on."""
        ...

    def search(self, query: Floats) -> Sequence[int]:
        """As of `Contender`."""
        ...


class Placed:
    """Where a contender works.

    Args:
        directory: Its files.
        dim: Dimension of the vectors.
        threads: Threads it may build with, where it lets itself be told; it searches with one.
    """

    def __init__(self, directory: Path, dim: int, threads: int) -> None:
        self.directory = directory
        self.dim = dim
        self.threads = threads


def load(about: About) -> None:
    """Import what a contender needs, so that imports are not timed.

    Raises:
        MissingError: it is not installed here.
    """
    for name in about.modules:
        module(name)


def batches(vectors: Floats, size: int = BATCH) -> Iterator[tuple[int, Floats]]:
    """The vectors in order, a batch at a time, each with the number of its first row."""
    for first in range(0, len(vectors), size):
        yield first, vectors[first : first + size]
