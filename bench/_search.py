"""Similarity search and ingest, through the memory's own calls; ends by killing its own process."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from _harness import Options, Row, duration, subspace

from nt_memory import MemorySystem
from nt_memory.apps.bench import bars, observing
from nt_memory.apps.bench.contenders.contender import load
from nt_memory.apps.bench.contenders.indexes import Faiss, Scan
from nt_memory.apps.bench.figures import K, point, timed_calls, true_neighbours
from nt_memory.apps.bench.machine import cores

STORE = "search"
NO_LIMIT_S = 3_600.0


async def search(options: Options) -> list[Row]:
    """Fill the store, search it idle, filtered and while it grows."""
    vectors = subspace(options.n, options.dim, options.seed)
    picked = np.random.default_rng(options.seed + 1)
    noise = picked.standard_normal((options.queries, options.dim), dtype=np.float32)
    # Near a stored vector, not on it: cosine about 0.86 at 384 dimensions.
    queries = vectors[picked.integers(0, options.n, options.queries)] + 0.03 * noise
    truth = true_neighbours(vectors, queries, K)
    is_whole = options.n >= bars.WHOLE
    memory = await MemorySystem.open(observing.store_config(Path(options.workdir) / STORE))
    took = await observing.fill(memory, vectors)
    samples, found = await observing.searches(memory, queries, NO_LIMIT_S)
    plain = point(samples, found, truth)
    rows = [bars.search_row(plain, options.n, options.dim, is_whole=is_whole)]
    rows.append(await _filtered_row(memory, vectors, queries, is_whole=is_whole))
    scan = Scan(Path(options.workdir), options.dim, 1)
    scan.build(vectors)
    scanned = point(*timed_calls(scan.search, queries[:50], NO_LIMIT_S), truth)
    rows.append(bars.scan_row(scanned["p50"], plain["p50"], "one thread", is_whole=is_whole))
    raw_s, raw = _raw_faiss(vectors, queries, truth, options)
    rows.append(bars.bulk_row(raw_s, "its defaults", took, options.n))
    rows.append(raw)
    fresh = subspace(
        int(observing.INGEST_PER_S * (options.seconds + 2)), options.dim, options.seed + 2
    )
    growth = await observing.search_while_growing(memory, queries, fresh, options.seconds)
    rows.append(bars.growing_row(growth.figures(), plain["p95"]))
    # Not closed: the caller kills this process, so that `reopen` finds what a crash leaves.
    return rows


def _raw_faiss(
    vectors: np.ndarray, queries: np.ndarray, truth: np.ndarray, options: Options
) -> tuple[float, Row]:
    """The same vectors in the same index without a memory around it: seconds to build, and a row."""
    raw = Faiss(Path(options.workdir), options.dim, cores())
    load(raw.about)
    start = time.perf_counter()
    raw.build(vectors)
    built_s = time.perf_counter() - start
    raw.set_ef(64)
    found = point(*timed_calls(raw.search, queries, NO_LIMIT_S), truth)
    return built_s, Row(
        "raw faiss HNSW16,SQ8 at ef 64, for comparison",
        f"p50 {duration(found['p50'])}, p95 {duration(found['p95'])} at recall@{K} "
        f"{found['recall']:.3f}",
        "",
        "",
        None,
        {name: float(value) for name, value in found.items()},
    )


async def _filtered_row(
    memory: MemorySystem, vectors: np.ndarray, queries: np.ndarray, *, is_whole: bool
) -> Row:
    rare = np.arange(0, len(vectors), observing.RARE_EVERY)
    samples, found = await observing.searches(memory, queries, NO_LIMIT_S, tags=(observing.RARE,))
    truth = true_neighbours(vectors, queries, K, rare)
    return bars.filtered_row(point(samples, found, truth) | {"rows": len(rare)}, is_whole=is_whole)
