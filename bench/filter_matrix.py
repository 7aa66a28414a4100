"""Filtered similarity search at every selectivity, against an exact scan of what passes.

    python bench/filter_matrix.py --rows 50000 --dim 64

Filters that pass from everything to one row in ten thousand, in four relations to the query: at random;
the clusters around the query; the clusters farthest from it; clusters anywhere. Everything goes through
the public calls: observations with data, and `where` or tags. Prints a row a combination: how it was
searched, how many passed, recall@10, and the times of the search and of `exact=True`.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nt_memory import MemoryConfig, MemorySystem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nt_memory import Hit

SHARES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.001, 0.0001)
KINDS = ("random", "around", "far", "anywhere", "tag")
AGENT = "agent_1"
K = 10
BATCH = 5_000
CLUSTERS = 100


class Cell(NamedTuple):
    """One combination, over all queries; times are medians in milliseconds.

    Attributes:
        kind: What passes.
        share: How much of it.
        passing: How many observations that is.
        how: How the last query was searched.
        filters: How its filters were evaluated.
        recall: Mean share of the true best `K` that was found, by score.
        worst: Of the worst query.
        short: Hits that are missing, over all queries.
        search_ms: A search.
        exact_ms: A search with `exact=True`.
    """

    kind: str
    share: float
    passing: int
    how: str
    filters: str
    recall: float
    worst: float
    short: int
    search_ms: float
    exact_ms: float


class Data(NamedTuple):
    """Observations around centres, and queries around the first of these.

    Attributes:
        vectors: Shape (rows, dim).
        fields: For each kind a number in [0, 1) by row: a filter passes what is less than its share.
        queries: Shape (m, dim).
    """

    vectors: np.ndarray
    fields: dict[str, np.ndarray]
    queries: np.ndarray


def make(rows: int, dim: int, queries: int, seed: int) -> Data:
    """Clustered vectors and the fields that filter them."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(CLUSTERS, dim))
    cluster = random.integers(0, CLUSTERS, rows)
    vectors = centres[cluster] + 0.5 * random.normal(size=(rows, dim))
    units = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    near = units @ units[0]
    fields = {"random": random.random(rows)}
    orders = {"around": -near, "far": near, "anywhere": random.random(CLUSTERS)}
    for kind, order in orders.items():
        place = np.lexsort((random.random(rows), order[cluster]))
        fields[kind] = np.empty(rows)
        fields[kind][place] = np.arange(rows) / rows
    asked = centres[0] + 0.5 * random.normal(size=(queries, dim))
    return Data(vectors.astype(np.float32), fields, asked)


def tags_of(number: float) -> list[str]:
    """A tag for each share that a row's random number is less than."""
    return [f"t{share}" for share in SHARES if number < share]


async def fill(memory: MemorySystem, data: Data) -> None:
    """Observe all, and wait until they are in the graph."""
    for first in range(0, len(data.vectors), BATCH):
        some = slice(first, first + BATCH)
        columns = {name: values[some].tolist() for name, values in data.fields.items()}
        await memory.observe_many(
            AGENT,
            data.vectors[some],
            [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
            tags=[tags_of(number) for number in columns["random"]],
        )
    while memory.stats().l2_pending:  # noqa: ASYNC110 - the indexer is a thread; stats is its face
        await asyncio.sleep(0.02)


def filter_of(kind: str, share: float) -> dict[str, Any]:
    """The arguments of a search."""
    if kind == "tag":
        return {"tags": [f"t{share}"]}
    return {"where": {"op": "lt", "field": kind, "value": share}}


def recall_of(hits: list[Hit], truth: list[Hit]) -> float:
    """The share of the true best that was found; an equal score is as good."""
    if not truth:
        return 1.0
    good = sum(hit.score >= truth[-1].score for hit in hits)
    return min(good, len(truth)) / len(truth)


async def cells(memory: MemorySystem, data: Data) -> AsyncIterator[Cell]:
    """Every combination."""
    # The tables are made before anything is timed.
    for kind in KINDS:
        await memory.search_similar(AGENT, data.queries[0], K, **filter_of(kind, SHARES[-1]))
    for kind in KINDS:
        field = data.fields["random" if kind == "tag" else kind]
        for share in SHARES:
            yield await _cell(memory, data, kind, share, int(np.count_nonzero(field < share)))


async def _cell(memory: MemorySystem, data: Data, kind: str, share: float, passing: int) -> Cell:
    options = filter_of(kind, share)
    recalls: list[float] = []
    took: dict[str, list[float]] = {"search": [], "exact": []}
    short = 0
    for query in data.queries:
        start = time.perf_counter()
        hits = await memory.search_similar(AGENT, query, K, **options)
        middle = time.perf_counter()
        truth = await memory.search_similar(AGENT, query, K, exact=True, **options)
        took["search"].append(middle - start)
        took["exact"].append(time.perf_counter() - middle)
        recalls.append(recall_of(hits, truth))
        short += min(K, passing) - len(hits)
    (step,) = (await memory.explain_similar(AGENT, data.queries[-1], K, **options)).steps
    search_ms, exact_ms = (float(np.median(times)) * 1e3 for times in took.values())
    return Cell(
        kind,
        share,
        passing,
        step.how,
        ", ".join(step.filters),
        float(np.mean(recalls)),
        min(recalls),
        short,
        search_ms,
        exact_ms,
    )


async def _main(options: argparse.Namespace) -> None:
    data = make(options.rows, options.dim, options.queries, options.seed)
    print(
        f"{options.rows:,} x {options.dim}, k = {K}, {options.queries} queries; {platform.processor()}"
    )
    print(
        "| filter | share | pass | searched by | filtered by | recall@10 | worst | ms | exact, ms |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        config = MemoryConfig(storage_path=Path(directory) / "store", max_memory_bytes=4 << 30)
        async with MemorySystem.open(config) as memory:
            await fill(memory, data)
            async for cell in cells(memory, data):
                flag = "" if not cell.short else f" **{cell.short} hits short**"
                print(
                    f"| {cell.kind} | {cell.share:.2%} | {cell.passing:,} | {cell.how}{flag} "
                    f"| {cell.filters} | {cell.recall:.3f} | {cell.worst:.1f} "
                    f"| {cell.search_ms:.2f} | {cell.exact_ms:.2f} |"
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--seed", type=int, default=7)
    asyncio.run(_main(parser.parse_args()))
