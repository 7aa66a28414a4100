"""The vectors that are measured on: files that every contender's process maps, with the truth.

A data set is made once a run: stored vectors, queries that are not among them, and the exact
neighbours of each query.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nt_memory.apps.bench import generators, texts
from nt_memory.apps.bench.figures import K, true_neighbours
from nt_memory.apps.demo.prices import load_carried
from nt_memory.embedders import MarketWindowEmbedder
from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

_MADE = {
    "clustered": (
        generators.clustered_blocks,
        "synthetic: a centre in 1,000 vectors, standard normal in all dimensions, plus 0.7 of noise",
    ),
    "subspace": (
        generators.subspace_blocks,
        "synthetic: sqrt(n) clusters in 32 hidden dimensions, spread over all, plus 0.1 of noise",
    ),
    "gaussian": (
        generators.gaussian_blocks,
        "synthetic: even in all directions, the worst case; embeddings are not like that",
    ),
}
NAMES = ("clustered", "market", "text", "gaussian", "subspace")


@dataclass(frozen=True)
class Dataset:
    """Vectors, queries and truth in a directory.

    Attributes:
        directory: Where the files lie.
        name: One of `NAMES`.
        about: How the vectors came to be, in words.
        rows: Stored vectors.
        dim: Their dimension.
        seed: Of the draws.
    """

    directory: str
    name: str
    about: str
    rows: int
    dim: int
    seed: int

    @property
    def vectors(self) -> Floats:
        """Stored unit vectors, shape (rows, dim), mapped read-only."""
        vectors: Floats = np.load(Path(self.directory) / "vectors.npy", mmap_mode="r")
        return vectors

    @property
    def queries(self) -> Floats:
        """Unit vectors to search for, shape (m, dim); none of them is stored."""
        queries: Floats = np.load(Path(self.directory) / "queries.npy")
        return queries

    @property
    def truth(self) -> NDArray[np.int64]:
        """Rows of the exact `K` neighbours of each query, best first, shape (m, K)."""
        truth: NDArray[np.int64] = np.load(Path(self.directory) / "truth.npy")
        return truth

    def to_json(self) -> str:
        """For another process; `from_json` reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Dataset:
        """The data set that `to_json` described."""
        return cls(**json.loads(text))


def prepare(
    name: str, directory: Path, rows: int, dim: int, *, queries: int, seed: int, cache: Path
) -> Dataset:
    """Make a data set.

    Args:
        name: One of `NAMES`.
        directory: Where its files go; made when missing.
        rows: Stored vectors; "market" and "text" have fewer if there are not so many.
        dim: Dimension of the synthetic ones; the others have their own, 11 and 384.
        queries: How many queries.
        seed: Of the draws.
        cache: Where text embeddings are kept from one run to the next.

    Raises:
        InvalidInputError: no such data set, or "text" without what it needs.
    Cost: one exact scan a query; and for "text" the embedding, minutes, the first time.
    """
    if name not in NAMES:
        raise InvalidInputError(f"no such data set: {name!r}; there are {', '.join(NAMES)}")
    directory.mkdir(parents=True, exist_ok=True)
    if name in _MADE:
        blocks, about = _MADE[name]
        _make(blocks(rows + queries, dim, seed, rows), directory, (rows, dim), queries)
    else:
        whole, about = _market() if name == "market" else _text(rows + queries, seed, cache)
        rows, dim = _hold_out(whole, directory, rows, queries, seed)
    dataset = Dataset(str(directory), name, about, rows, dim, seed)
    np.save(directory / "truth.npy", true_neighbours(dataset.vectors, dataset.queries, K))
    return dataset


def _make(blocks: Iterator[Floats], directory: Path, shape: tuple[int, int], queries: int) -> None:
    """Store the first rows of what comes, and keep those after them for queries."""
    rows, dim = shape
    stored = np.lib.format.open_memmap(
        directory / "vectors.npy", mode="w+", dtype=np.float32, shape=shape
    )
    held: list[Floats] = []
    at = 0
    for block in blocks:
        kept = min(len(block), rows - at)
        stored[at : at + kept] = block[:kept]
        held.append(block[kept:])
        at += kept
    stored.flush()
    np.save(directory / "queries.npy", np.concatenate(held)[:queries].reshape(queries, dim))


def _market() -> tuple[Floats, str]:
    panel = load_carried()
    situations = MarketWindowEmbedder.fit(panel.prices).embed_panel(panel.prices)
    whole = situations.reshape(-1, situations.shape[-1])
    whole = whole[np.isfinite(whole).all(axis=1)]
    about = (
        f"real: the situation of each of {len(panel.tickers)} stocks on each day from "
        f"{panel.dates[0]:%Y} to {panel.dates[-1]:%Y}, by the market-window embedder, in order of time"
    )
    return whole.astype(np.float32), about


def _text(wanted: int, seed: int, cache: Path) -> tuple[Floats, str]:
    return texts.embedded(wanted, seed, cache), (
        "real: sentences of the documentation in installed Python packages, embedded by "
        f"{texts.MODEL}"
    )


def _hold_out(
    whole: Floats, directory: Path, rows: int, queries: int, seed: int
) -> tuple[int, int]:
    """Store some rows in their order, and keep others, drawn evenly, for queries."""
    if len(whole) < queries + K:
        raise InvalidInputError(f"{len(whole)} vectors are too few for {queries} queries")
    order = np.random.default_rng(seed).permutation(len(whole))
    held = order[:queries]
    stored = np.sort(order[queries : queries + rows])
    for name, chosen in (("vectors", stored), ("queries", held)):
        part = whole[chosen]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        np.save(directory / f"{name}.npy", part)
    return len(stored), whole.shape[1]
