"""A memory under measurement: filled, searched, and searched while more comes in."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.apps.bench.figures import MIN_SAMPLES, WARM_UP, K, percentiles
from nt_memory.clock import SystemClock, turn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

AGENT = "agent_1"
BATCH = 2_000
RARE = "rare"
RARE_EVERY = 50  # 2 % carry the tag
INGEST_PER_S = 1_500
STEP = 15  # observations a call while searching
WRITERS = 8  # such calls under way at once, at most
CHECK_EVERY = 5  # every fifth search asks for what was acknowledged last
_TEXT = "0123456789abcdefghijklmnopqrstuvwxyz" * 2
_CLOCK = SystemClock()


def store_config(directory: Path, memory_bytes: int = 1 << 30) -> MemoryConfig:
    """The store that one process fills and the next opens; all else, and the memory unless told, is the default."""
    return MemoryConfig(storage_path=directory / "store", max_memory_bytes=memory_bytes)


def payload(i: int) -> dict[str, Any]:
    """About 100 bytes when encoded."""
    return {"symbol": f"T{i % 500}", "day": i, "note": _TEXT[i % 10 :][:62]}


def rare(i: int) -> tuple[str, ...]:
    """The tag that one observation in fifty carries."""
    return (RARE,) if i % RARE_EVERY == 0 else ()


async def indexed(memory: MemorySystem) -> None:
    """Wait until no vector is left to be indexed; the indexer is a thread, `stats` its face."""
    while memory.stats().l2_pending:
        await _CLOCK.sleep(0.02)


async def at_rest(memory: MemorySystem) -> None:
    """Wait until graphs are built, measured and saved, and nothing is being merged."""
    while memory.stats().l2_pending or not memory.stats().l2.is_idle:
        await _CLOCK.sleep(0.02)


async def fill(
    memory: MemorySystem,
    vectors: Floats,
    *,
    data: Callable[[int], Any] = payload,
    tags: Callable[[int], Sequence[str]] = rare,
    known_at: Callable[[int], datetime] | None = None,
) -> dict[str, float]:
    """Observe all vectors under their row numbers.

    Returns:
        Seconds until all was durable and searchable ("durable_s"), until all was in the graph
        ("indexed_s"), and until the graph was measured, saved and served from its file ("rested_s").
    """
    start = time.perf_counter()
    for first in range(0, len(vectors), BATCH):
        rows = range(first, min(first + BATCH, len(vectors)))
        await memory.observe_many(
            AGENT,
            vectors[rows.start : rows.stop],
            [data(i) for i in rows],
            keys=[f"o{i:08}" for i in rows],
            tags=[tags(i) for i in rows],
            known_at=None if known_at is None else [known_at(i) for i in rows],
        )
    durable = time.perf_counter() - start
    await indexed(memory)
    done = time.perf_counter() - start
    await at_rest(memory)
    rested = time.perf_counter() - start
    return {"durable_s": durable, "indexed_s": done, "rested_s": rested}


async def searches(
    memory: MemorySystem, queries: Floats, limit_s: float, **how: Any
) -> tuple[list[float], list[list[int]]]:
    """Time one search after another, warm, records included.

    Args:
        memory: Filled by `fill`.
        queries: Shape (m, dim).
        limit_s: Stop after so long, but not before 20 were timed.
        how: Passed on to `search_similar`.

    Returns:
        Seconds of each search, and the row numbers it found; fewer than m when the time ran out.
    """
    begun = time.perf_counter()
    for query in queries[:WARM_UP]:
        await memory.search_similar(AGENT, query, K, **how)
        if time.perf_counter() - begun > limit_s / 4:
            break
    samples: list[float] = []
    found: list[list[int]] = []
    begun = time.perf_counter()
    for query in queries:
        start = time.perf_counter()
        hits = await memory.search_similar(AGENT, query, K, **how)
        end = time.perf_counter()
        samples.append(end - start)
        found.append([int(hit.key[1:]) for hit in hits])
        if end - begun > limit_s and len(samples) >= MIN_SAMPLES:
            break
    return samples, found


@dataclass
class Growth:
    """What searches saw while observations came in.

    Attributes:
        samples: Seconds of each search.
        rate: Observations acknowledged a second.
        checked: Searches for an observation that had just been acknowledged.
        missed: Of these, how many an approximate search did not find though an exact one did.
        unseen: Of these, how many an exact search did not find either: a broken promise.
    """

    samples: list[float] = field(default_factory=list[float])
    rate: float = 0.0
    checked: int = 0
    missed: int = 0
    unseen: int = 0

    def figures(self) -> dict[str, Any]:
        """As plain numbers."""
        return percentiles(self.samples) | {
            "rate": self.rate,
            "checked": self.checked,
            "missed": self.missed,
            "unseen": self.unseen,
        }


async def search_while_growing(
    memory: MemorySystem, queries: Floats, fresh: Floats, seconds: float, rate: int = INGEST_PER_S
) -> Growth:
    """Search without a pause for some time, while others observe at a steady rate.

    All observations go to the agent that is searched. Every fifth search asks for the one that was
    acknowledged last; it is not among the samples.

    Args:
        memory: Filled.
        queries: Shape (m, dim); used again and again.
        fresh: What comes in; ingest stops early when it is used up.
        seconds: How long.
        rate: Observations a second.
    """
    growth = Growth()
    latest: list[tuple[str, Floats]] = []
    task = asyncio.create_task(_grow(memory, fresh, rate, latest))
    begun = time.perf_counter()
    count = 0
    try:
        while time.perf_counter() - begun < seconds and not task.done():
            await turn()  # a search that needs nothing from the disk never lets the loop go
            count += 1
            if count % CHECK_EVERY == 0 and latest:
                await _check(memory, *latest[-1], growth)
                continue
            start = time.perf_counter()
            await memory.search_similar(AGENT, queries[count % len(queries)], K)
            growth.samples.append(time.perf_counter() - start)
    finally:
        took = time.perf_counter() - begun
        if not task.done():
            task.cancel()
        # A failed write is the caller's to see; being cancelled is how it ends.
        ended = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(ended, Exception):
            raise ended
    growth.rate = STEP * len(latest) / took
    return growth


async def _grow(
    memory: MemorySystem, fresh: Floats, rate: int, latest: list[tuple[str, Floats]]
) -> None:
    """Observe at the rate, whatever a commit takes: as several agents would, that share commits."""
    begun = time.perf_counter()
    room = asyncio.Semaphore(WRITERS)

    async def observe(first: int) -> None:
        part = fresh[first : first + STEP]
        keys = [f"f{first + i:08}" for i in range(STEP)]
        data = [payload(first + i) for i in range(STEP)]
        try:
            await memory.observe_many(AGENT, part, data, keys=keys)
        finally:
            room.release()
        latest.append((keys[-1], part[-1]))

    async with asyncio.TaskGroup() as writers:
        for first in range(0, len(fresh) - STEP + 1, STEP):
            await _CLOCK.sleep(max(0.0, begun + first / rate - time.perf_counter()))
            await room.acquire()
            writers.create_task(observe(first))


async def _check(memory: MemorySystem, key: str, vector: Floats, growth: Growth) -> None:
    growth.checked += 1
    hits = await memory.search_similar(AGENT, vector, 1)
    if _is_seen(hits, key):
        return
    if _is_seen(await memory.search_similar(AGENT, vector, 1, exact=True), key):
        growth.missed += 1
    else:
        growth.unseen += 1


def _is_seen(hits: Sequence[Any], key: str) -> bool:
    return bool(hits) and hits[0].key == key
