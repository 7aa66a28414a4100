"""What the vector tier costs: build, memory, search, filters, and the everyday small case.

    python bench/vectors.py --rows 100000 --dim 384

Prints one row a measurement, against raw faiss and a numpy float32 scan on the same vectors in the
same run. Ratios mean more than times: the machine is named, its load is not known.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import faiss
import numpy as np

from nt_memory.apps.bench.figures import recall
from nt_memory.apps.bench.generators import clustered_blocks
from nt_memory.apps.bench.machine import rss_anon_bytes
from nt_memory.tiers.vectors import NEVER, VectorFiles, VectorTier

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = 1 << 40


def clustered(rows: int, dim: int, seed: int) -> np.ndarray:
    """Unit vectors around 1 centre in 1,000 rows, float16; see `clustered_blocks`."""
    return np.concatenate([b.astype("<f2") for b in clustered_blocks(rows, dim, seed, rows)])


def anonymous_mb() -> float:
    """Resident anonymous memory of this process."""
    return rss_anon_bytes() / 2**20


def timed(search: Callable[[np.ndarray], object], queries: np.ndarray) -> dict[str, float]:
    for query in queries[:5]:
        search(query)
    took = []
    for query in queries:
        start = time.perf_counter()
        search(query)
        took.append((time.perf_counter() - start) * 1e3)
    return {f"p{p}": float(np.percentile(took, p)) for p in (50, 95, 99)}


def show(what: str, times: dict[str, float], note: str = "") -> None:
    figures = "  ".join(f"{name} {value:8.3f}" for name, value in times.items())
    print(f"{what:34s} {figures} ms  {note}")


def columns(first: int, count: int) -> dict[str, np.ndarray]:
    known = np.arange(first, first + count)
    return {"from_us": known, "until_us": np.full(count, NEVER), "revision": known}


def everyday(directory: Path) -> None:
    """20 partitions of 8,000 x 14, one query over all of them, k = 300, masks given."""
    partitions, rows, dim, k = 20, 8000, 14, 300
    files = VectorFiles(directory / "small")
    tier = VectorTier(files, directory / "small", max_bytes=1 << 30, is_deterministic=True)
    random = np.random.default_rng(1)
    for partition in range(partitions):
        vectors = clustered(rows, dim, partition)
        files.write(partition, dim, 0, vectors.tobytes())
        tier.append(partition, dim, **columns(0, rows))
    allow = {partition: random.random(rows) < 0.97 for partition in range(partitions)}
    queries = clustered(300, dim, 99).astype(np.float32)

    def search(query: np.ndarray) -> object:
        return tier.search(
            range(partitions), query[None], k, time_us=NOW, revision=NOW, allow=allow
        )

    show("20 x 8,000 x 14, k = 300, masks", timed(search, queries))
    one = columns(rows, 1)
    start = time.perf_counter()
    for _ in range(2000):
        tier.append(0, dim, **one)
    print(f"{'append of one row':34s} {(time.perf_counter() - start) / 2000 * 1e6:.1f} us")
    tier.close()
    files.close()


def build(directory: Path, vectors: np.ndarray, threads: int) -> tuple[VectorTier, float]:
    rows, dim = vectors.shape
    files = VectorFiles(directory / "rows")
    before = anonymous_mb()
    tier = VectorTier(
        files, directory / "graphs", max_bytes=1 << 34, is_deterministic=False, threads=threads
    )
    start = time.perf_counter()
    for at in range(0, rows, 10_000):
        part = vectors[at : at + 10_000]
        files.write(1, dim, at, part.tobytes())
        tier.append(1, dim, **columns(at, len(part)))
    tier.wait_indexed()
    rate = rows / (time.perf_counter() - start)
    stats = tier.stats
    print(
        f"{'build':34s} {rate:,.0f} rows/s  anonymous {anonymous_mb() - before:.0f} MB  "
        f"(accounted {stats.bytes / 2**20:.0f} MB, in graph {stats.graph_rows:,})"
    )
    return tier, rate


def raw_faiss(
    wide: np.ndarray, queries: np.ndarray, truth: list[np.ndarray], threads: int
) -> float:
    faiss.omp_set_num_threads(threads)
    index = faiss.index_factory(wide.shape[1], "HNSW16,SQ8", faiss.METRIC_INNER_PRODUCT)
    index.train(wide[:20_000])
    start = time.perf_counter()
    index.add(wide)
    rate = len(wide) / (time.perf_counter() - start)
    faiss.omp_set_num_threads(1)
    index.hnsw.efSearch = 96
    found = [index.search(query[None], 10)[1][0] for query in queries]
    times = timed(lambda query: index.search(query[None], 10), queries)
    show("raw faiss, ef 96", times, f"recall {recall(found, truth):.3f}, {rate:,.0f} rows/s")
    return rate


def ingesting(
    tier: VectorTier, directory: Path, vectors: np.ndarray, queries: np.ndarray, rate: int
) -> None:
    """Searches while rows arrive at `rate` a second."""
    rows, dim = vectors.shape
    files = VectorFiles(directory / "rows")
    start, added, took = time.perf_counter(), 0, []
    while (passed := time.perf_counter() - start) < 4.0:
        due = int(passed * rate)
        while added < due:
            files.write(1, dim, rows + added, vectors[added % rows].tobytes())
            tier.append(1, dim, **columns(rows + added, 1))
            added += 1
        begun = time.perf_counter()
        tier.search([1], queries[len(took) % len(queries)][None], 10, time_us=NOW, revision=NOW)
        took.append((time.perf_counter() - begun) * 1e3)
    show(
        f"search while ingesting {rate}/s",
        {f"p{p}": float(np.percentile(took, p)) for p in (50, 95, 99)},
        f"{added} rows, {tier.stats.pending} not in the graph yet",
    )
    files.close()


def large(directory: Path, rows: int, dim: int, threads: int) -> None:
    vectors = clustered(rows, dim, 1)
    queries = clustered(300, dim, 2).astype(np.float32)
    tier, rate = build(directory, vectors, threads)
    wide = vectors.astype(np.float32)
    truth = [np.argpartition(-(wide @ query), 10)[:10] for query in queries]
    scan = timed(lambda query: np.argpartition(-(wide @ query), 10)[:10], queries[:40])
    show("numpy float32 scan", scan)
    theirs = raw_faiss(wide, queries, truth, threads)
    print(f"{'build against raw faiss':34s} {rate / theirs:.2f}")

    def search(query: np.ndarray, allow: np.ndarray | None = None, **how: bool) -> np.ndarray:
        given = None if allow is None else {1: allow}
        moment = {"time_us": NOW, "revision": NOW}
        return tier.search([1], query[None], 10, allow=given, **moment, **how)[0].row

    times = timed(search, queries)
    ratio = scan["p50"] / times["p50"]
    found = [search(query) for query in queries]
    show("search k = 10", times, f"recall {recall(found, truth):.3f}, {ratio:.0f}x the scan")
    for share in (0.5, 0.25, 0.1, 0.02, 0.001):
        mask = np.random.default_rng(3).random(rows) < share
        allowed = np.flatnonzero(mask)
        some = queries[:100]
        best = [allowed[np.argsort(-(wide[mask] @ query))[:10]] for query in some[:30]]
        found = [search(query, mask) for query in some[:30]]
        times = timed(lambda query, mask=mask: search(query, mask), some)
        show(f"filtered to {share:.1%}", times, f"recall {recall(found, best):.3f}")
    show("exact", timed(lambda query: search(query, exact=True), queries[:10]))
    reload(tier, directory, queries[:1])
    ingesting(tier, directory, vectors, queries, 1500)
    tier.close()


def reload(tier: VectorTier, directory: Path, query: np.ndarray) -> None:
    tier.save()
    start = time.perf_counter()
    tier.unload(1)
    middle = time.perf_counter()
    tier.search([1], query, 10, time_us=NOW, revision=NOW)
    end = time.perf_counter()
    saved = (directory / "graphs").glob("1-*.hnsw")
    size = sum(path.stat().st_size for path in saved) / 2**20
    print(
        f"{'snapshot':34s} {size:.0f} MB, unloaded {middle - start:.2f} s, loaded {end - middle:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"numpy {np.__version__}, faiss {faiss.__version__}, "
        f"{chosen.rows:,} x {chosen.dim}, {chosen.threads} build threads"
    )
    with tempfile.TemporaryDirectory() as directory:
        everyday(Path(directory))
        large(Path(directory), chosen.rows, chosen.dim, chosen.threads)


if __name__ == "__main__":
    main()
