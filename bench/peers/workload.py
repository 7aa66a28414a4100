"""What every peer is given to do, defined once: the situations, the state, and who writes what.

A peer's process reads the vectors from files, so that all of them see the same ones; the rest follows from
row numbers. Nothing here needs more than numpy, because peers live in an environment without nt-memory.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

K = 10
AGENTS = 100
SYMBOLS = 20
HIDDEN = 32
"""Dimensions that the situations really have, as embeddings tend to."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything one run does.

    Attributes:
        rows: Situations that are there before anything is timed.
        dim: Of their embeddings.
        updates: State updates, one after another, each acknowledged before the next.
        reads: State reads.
        observations: Situations stored one by one.
        searches: Of each kind.
        episodes: Decisions, each followed by its outcome.
        messages: Round trips from one task to another.
        locks: Locks taken and given back.
        loading_s: Who has not loaded all rows by then is measured on those that are there.
        limit_s: A kind of call is given no more time than this; how many were made is reported.
        seed: Of everything drawn.
    """

    rows: int = 10_000
    dim: int = 384
    updates: int = 2_000
    reads: int = 5_000
    observations: int = 500
    searches: int = 300
    episodes: int = 500
    messages: int = 2_000
    locks: int = 1_000
    loading_s: float = 5.0
    limit_s: float = 0.75
    seed: int = 7


class Workload:
    """The files of a run, mapped.

    Args:
        directory: Where `prepare` put them.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.sizes = Sizes(**json.loads((directory / "sizes.json").read_text()))
        self.vectors: Floats = np.load(directory / "vectors.npy", mmap_mode="r")
        self.queries: Floats = np.load(directory / "queries.npy")

    def truth(self, rows: int, *, by_symbol: bool = False) -> NDArray[np.int64]:
        """The exact neighbours of every query among the first rows, best first, by a scan.

        What is less than 0 alike is no neighbour (-1): among few rows some are, and some peers leave it out.

        Args:
            rows: How many are there.
            by_symbol: Only among those of the instrument a query asks for, `number % SYMBOLS`.
        """
        scores = self.queries @ self.vectors[:rows].T
        if by_symbol:
            asked = np.arange(len(self.queries)) % SYMBOLS
            scores[np.arange(rows)[None, :] % SYMBOLS != asked[:, None]] = -np.inf
        best = np.argsort(-scores, axis=1)[:, :K]
        return np.where(np.take_along_axis(scores, best, axis=1) > 0, best, -1)

    def text(self, row: int) -> str:
        """What a peer that only takes texts is told; `embed` knows its vector."""
        return f"situation {row} of {symbol(row)}"

    def question(self, number: int) -> str:
        """The text of a query."""
        return f"query {number}"

    def embed(self, text: str) -> list[float]:
        """The vector of a text: an embedder that costs a look-up and nothing else."""
        words = text.split()
        source = self.queries if words[0] == "query" else self.vectors
        return [float(value) for value in source[int(words[1])]]


def symbol(row: int) -> str:
    """Which instrument a situation is about; one in `SYMBOLS`."""
    return f"S{row % SYMBOLS:02}"


def payload(row: int, recorded_at: float) -> dict[str, Any]:
    """What is kept beside a vector: about 100 bytes."""
    return {
        "row": row,
        "symbol": symbol(row),
        "regime": ("calm", "trend", "storm")[row % 3],
        "spread": row % 97 / 8,
        "recorded_at": recorded_at,
    }


def position(number: int, recorded_at: float) -> dict[str, Any]:
    """A state of ten flat fields, of which the number makes one differ from the next."""
    return {
        "symbol": symbol(number),
        "quantity": number,
        "price": 100.0 + number % 50 / 4,
        "cash": 1e6 - number,
        "stop": 95.5,
        "limit": 104.5,
        "side": "long" if number % 2 else "short",
        "venue": "XNAS",
        "orders": number % 7,
        "recorded_at": recorded_at,
    }


def agent(number: int) -> str:
    """Who writes the n-th state."""
    return f"agent-{number % AGENTS:03}"


def prepare(directory: Path, sizes: Sizes) -> Workload:
    """Draw the situations and the queries.

    Vectors lie around sqrt(rows) centres in 32 hidden dimensions, spread over all, with a little noise, as
    in `nt-memory bench vectors --data subspace`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "sizes.json").write_text(json.dumps(asdict(sizes)))
    random = np.random.default_rng(sizes.seed)
    stored = sizes.rows + sizes.observations + sizes.episodes
    centres = random.standard_normal((max(8, int(sizes.rows**0.5)), HIDDEN), dtype=np.float32)
    spread = random.standard_normal((HIDDEN, sizes.dim), dtype=np.float32)
    hidden = centres[random.integers(0, len(centres), stored + sizes.searches)]
    hidden += np.float32(0.5) * random.standard_normal(hidden.shape, dtype=np.float32)
    drawn = hidden @ spread / np.float32(HIDDEN**0.5)
    drawn += np.float32(0.1) * random.standard_normal(drawn.shape, dtype=np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    vectors, queries = drawn[:stored], drawn[stored:]
    np.save(directory / "vectors.npy", vectors)
    np.save(directory / "queries.npy", queries)
    return Workload(directory)
