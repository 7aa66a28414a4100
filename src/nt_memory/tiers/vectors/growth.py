"""How the background threads and what they work on talk to each other; what both kinds of index share."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray


class Tuning(NamedTuple):
    """Where approximation starts, and how graphs grow. A backtest's answers depend on the first four.

    Attributes:
        scan_values: Up to so many values (rows x dim) are scanned exactly, always.
        batch: Rows a deterministic graph grows by.
        seed: Of the graph's generator.
        arrange: Graphs of fewer rows lie in a processor's own caches, however they are arranged; see `locality`.
        publish: While searches are about, a live graph grows by so many rows at a time, or more.
        seal: It is sealed at so many rows, or an eighth of the largest there is, up to a limit.
    """

    scan_values: int = 1 << 21
    batch: int = 256
    seed: int = 7
    arrange: int = 1 << 13
    publish: int = 512
    seal: int = 32_768


class Pace(NamedTuple):
    """How a step is to be done.

    Attributes:
        hold: Rows at a time, where searches may have to wait for that.
        threads: To do it with, so that searches have the other processors.
        most_threads: To do it with where it matters more than that.
        is_final: Leave no remainder that is not worth a step by itself.
        go_on: Asked in the midst of what takes long; False: give it up.
    """

    hold: int
    threads: int
    most_threads: int
    is_final: bool = False
    go_on: Callable[[], bool] = lambda: True


class Outcome(enum.Enum):
    """What is left after a step."""

    MORE = enum.auto()
    LATER = enum.auto()
    """Something, but too little to be worth a step now."""
    DONE = enum.auto()


class Gap(NamedTuple):
    """Visible rows that no graph was asked for.

    Attributes:
        first: Number of the first.
        stop: Of the first past them.
        rows: If given, only those of them, ascending.
    """

    first: int
    stop: int
    rows: NDArray[np.int64] | None = None


class Found(NamedTuple):
    """What graphs say.

    Attributes:
        rows: For each query arrays of rows, no row twice.
        gaps: What is left to scan, in order; the last one is the tail.
        notes: How each graph was searched, and how widely; see `Probed`.
    """

    rows: list[list[NDArray[np.int64]]]
    gaps: list[Gap]
    notes: list[tuple[str, int]]
