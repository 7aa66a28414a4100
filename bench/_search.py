"""Similarity search and ingest, through the memory's own calls; ends by killing its own process."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import faiss
import numpy as np
from _harness import Options, Row, clustered, duration, percentiles

from nt_memory import MemoryConfig, MemorySystem

STORE = "search"
BATCH = 2_000
RARE_EVERY = 50  # 2 % carry the tag
K = 10
INGEST_PER_S = 1_500
WHOLE = 1_000_000  # rows at which the bars that grow with the store are judged
TEXT = "0123456789abcdefghijklmnopqrstuvwxyz" * 2


def payload(i: int) -> dict[str, object]:
    """About 100 bytes when encoded."""
    return {"symbol": f"T{i % 500}", "day": i, "note": TEXT[i % 10 :][:62]}


def store_config(options: Options) -> MemoryConfig:
    """The store that search fills and reopen opens."""
    return MemoryConfig(storage_path=Path(options.workdir) / STORE, max_memory_bytes=2 << 30)


async def indexed(memory: MemorySystem) -> None:
    """Wait until no vector is left to be indexed."""
    while memory.stats().l2_pending:  # noqa: ASYNC110 - the indexer is a thread; stats is its face
        await asyncio.sleep(0.02)


async def _ingest(memory: MemorySystem, vectors: np.ndarray) -> tuple[float, float]:
    """Seconds until all is durable and searchable, and until all is in the graph."""
    start = time.perf_counter()
    for first in range(0, len(vectors), BATCH):
        rows = range(first, min(first + BATCH, len(vectors)))
        await memory.observe_many(
            "agent_1",
            vectors[rows.start : rows.stop],
            [payload(i) for i in rows],
            keys=[f"o{i:08}" for i in rows],
            tags=[("rare",) if i % RARE_EVERY == 0 else () for i in rows],
        )
    durable = time.perf_counter() - start
    await indexed(memory)
    return durable, time.perf_counter() - start


def _raw_faiss(vectors: np.ndarray, queries: np.ndarray) -> dict[str, float]:
    """The same vectors in the same index without a memory around it."""
    index = faiss.index_factory(vectors.shape[1], "HNSW16,SQ8", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[:10_000])
    start = time.perf_counter()
    for first in range(0, len(vectors), BATCH):
        index.add(vectors[first : first + BATCH])
    raw_s = time.perf_counter() - start
    index.hnsw.efSearch = 64
    samples, found = [], []
    for query in queries:
        start = time.perf_counter()
        _, rows = index.search(query[None], K)
        samples.append(time.perf_counter() - start)
        found.append(rows[0].tolist())
    truth, _ = _truth(vectors, queries, K)
    took = percentiles(samples)
    return {"raw_s": raw_s, "p50": took["p50"], "p95": took["p95"], "recall": _recall(found, truth)}


def _truth(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, list[float]]:
    """Row numbers of the true top k by a linear scan, and how long each scan took."""
    best = np.empty((len(queries), k), dtype=np.int64)
    samples = []
    for i, query in enumerate(queries):
        start = time.perf_counter()
        scores = vectors @ query
        top = np.argpartition(scores, -k)[-k:]
        best[i] = top[np.argsort(-scores[top])]
        samples.append(time.perf_counter() - start)
    return best, samples


async def _searches(
    memory: MemorySystem, queries: np.ndarray, tags: tuple[str, ...] | None = None
) -> tuple[list[float], list[list[int]]]:
    samples, found = [], []
    for query in queries:
        start = time.perf_counter()
        hits = await memory.search_similar("agent_1", query, K, tags=tags)
        samples.append(time.perf_counter() - start)
        found.append([int(hit.key[1:]) for hit in hits])
    return samples, found


def _recall(found: list[list[int]], truth: np.ndarray) -> float:
    shared = [len(set(a) & set(b.tolist())) for a, b in zip(found, truth, strict=True)]
    return float(np.mean(shared)) / truth.shape[1]


async def _search_while_ingesting(
    memory: MemorySystem, queries: np.ndarray, fresh: np.ndarray, seconds: float
) -> tuple[list[float], float]:
    stopping = asyncio.Event()
    per_step = 15
    written = 0

    async def ingest() -> None:
        nonlocal written
        begun = time.perf_counter()
        while not stopping.is_set() and written < len(fresh):
            await memory.observe_many("agent_2", fresh[written : written + per_step])
            await memory.observe_many("agent_1", fresh[written : written + per_step])
            written += per_step
            due = begun + 2 * written / INGEST_PER_S
            await asyncio.sleep(max(0.0, due - time.perf_counter()))

    task = asyncio.create_task(ingest())
    samples: list[float] = []
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        samples += (await _searches(memory, queries[len(samples) % len(queries) :][:1]))[0]
    took = time.perf_counter() - begun
    stopping.set()
    await task
    return samples, 2 * written / took


async def search(options: Options) -> list[Row]:
    """Fill the store, search it idle, filtered and while it grows."""
    vectors = clustered(options.n, options.dim, options.seed)
    picked = np.random.default_rng(options.seed + 1)
    noise = picked.standard_normal((options.queries, options.dim), dtype=np.float32)
    # Near a stored vector, not on it: cosine about 0.86 at 384 dimensions.
    queries = vectors[picked.integers(0, options.n, options.queries)] + 0.03 * noise
    memory = await MemorySystem.open(store_config(options))
    durable_s, indexed_s = await _ingest(memory, vectors)
    raw = _raw_faiss(vectors, queries)
    rows = [await _plain_row(memory, vectors, queries, raw)]
    rows.append(await _filtered_row(memory, vectors, queries, options))
    rows.append(_linear_row(vectors, queries, rows[0]))
    rows.append(_ingest_row(options, raw, durable_s, indexed_s))
    rows.append(await _growing_row(memory, queries, rows[0], options))
    # Not closed: the caller kills this process, so that `reopen` finds what a crash leaves.
    return rows


async def _plain_row(
    memory: MemorySystem, vectors: np.ndarray, queries: np.ndarray, raw: dict[str, float]
) -> Row:
    truth, _ = _truth(vectors, queries, K)
    await _searches(memory, queries[:50])
    samples, found = await _searches(memory, queries)
    took = percentiles(samples) | {"recall": _recall(found, truth)}
    took |= {f"raw_{name}": value for name, value in raw.items()}
    return Row(
        f"search, {len(vectors):,} x {vectors.shape[1]}, k = {K}, records included",
        f"p50 {duration(took['p50'])}, p95 {duration(took['p95'])} at recall@10 "
        f"{took['recall']:.3f} (raw faiss at ef 64: p50 {duration(raw['p50'])}, p95 "
        f"{duration(raw['p95'])}, {raw['recall']:.3f})",
        "p95 < 1 ms at recall@10 >= 0.95",
        "p95 < 0.5 ms at 0.99",
        took["p95"] < 1e-3 and took["recall"] >= 0.95,
        took,
    )


async def _filtered_row(
    memory: MemorySystem, vectors: np.ndarray, queries: np.ndarray, options: Options
) -> Row:
    truth, _ = _truth(np.ascontiguousarray(vectors[::RARE_EVERY]), queries, K)
    samples, found = await _searches(memory, queries, tags=("rare",))
    took = percentiles(samples) | {"recall": _recall(found, truth * RARE_EVERY)}
    return Row(
        f"the same, filtered to 2 % ({options.n // RARE_EVERY:,} rows) by a tag",
        f"p50 {duration(took['p50'])}, p95 {duration(took['p95'])} at recall@10 "
        f"{took['recall']:.3f}",
        "p95 < 8 ms at 0.95",
        "p95 < 4 ms at 0.99",
        took["p95"] < 8e-3 and took["recall"] >= 0.95,
        took,
    )


def _linear_row(vectors: np.ndarray, queries: np.ndarray, plain: Row) -> Row:
    _, samples = _truth(vectors, queries[:50], K)
    scan = percentiles(samples)
    ratio = scan["p50"] / plain.figures["p50"]
    return Row(
        "the same against a linear scan (numpy float32)",
        f"{ratio:.0f}x faster at p50 (scan {duration(scan['p50'])})",
        "150x at 1M",
        "200x",
        ratio >= 150 if len(vectors) >= WHOLE else None,
        scan | {"ratio": ratio},
    )


def _ingest_row(options: Options, raw: dict[str, float], durable_s: float, indexed_s: float) -> Row:
    ratio = raw["raw_s"] / indexed_s
    return Row(
        "bulk ingest, index included, nobody searching, against raw faiss add",
        f"{ratio:.2f} ({options.n / indexed_s:,.0f}/s against {options.n / raw['raw_s']:,.0f}/s; "
        f"durable and searchable at {options.n / durable_s:,.0f}/s)",
        ">= 0.6",
        ">= 0.85",
        ratio >= 0.6,
        {"ratio": ratio, "durable_s": durable_s, "indexed_s": indexed_s, "raw_s": raw["raw_s"]},
    )


async def _growing_row(
    memory: MemorySystem, queries: np.ndarray, plain: Row, options: Options
) -> Row:
    wanted = int(INGEST_PER_S * (options.seconds + 2))
    fresh = clustered(wanted, options.dim, options.seed + 2)
    samples, rate = await _search_while_ingesting(memory, queries, fresh, options.seconds)
    took = percentiles(samples)
    ratio = took["p95"] / plain.figures["p95"]
    return Row(
        f"ingest at {INGEST_PER_S:,}/s while searching",
        f"search p95 {duration(took['p95'])} = {ratio:.2f}x idle, while {rate:,.0f}/s came in",
        "search p95 <= 2x idle",
        "<= 1.3x",
        ratio <= 2 and rate >= 0.9 * INGEST_PER_S,
        took | {"ratio": ratio, "ingest_per_s": rate},
    )
