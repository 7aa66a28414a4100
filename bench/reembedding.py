"""Another embedding for everything an agent remembers: `python bench/reembedding.py --help`.

Observations are embedded anew by a model that costs nothing (a lookup), so what is measured is the
store's own share, while one reader searches and one writer observes without a rest. Printed are how
long it took, what the last moment cost (the pause for the agent's observations, and the entry that
switches), and searches and the lag of the event loop during it, beside those of a quiet store.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _harness import duration, machine, rss_anon_bytes, subspace
from _mix import LagProbe

from nt_memory import MemorySystem

if TYPE_CHECKING:
    from nt_memory import Record

CHUNK = 10_000


async def _search(
    memory: MemorySystem, queries: Any, taken: list[float], stop: asyncio.Event
) -> None:
    for number in itertools.count():
        if stop.is_set():
            return
        started = time.perf_counter()
        await memory.search_similar("a", queries[number % len(queries)], 10)
        taken.append(time.perf_counter() - started)
        await asyncio.sleep(0.002)


async def _observe(
    memory: MemorySystem, vectors: Any, waits: list[float], stop: asyncio.Event
) -> None:
    for number in itertools.count():
        if stop.is_set():
            return
        started = time.perf_counter()
        await memory.observe("a", vectors[number % len(vectors)], number % len(vectors))
        waits.append(time.perf_counter() - started)
        await asyncio.sleep(0.005)


async def _beside(memory: MemorySystem, work: Any, old: Any) -> tuple[Any, dict[str, float]]:
    """Run `work` while others search and observe; what it came to, and how they fared."""
    searches: list[float] = []
    waits: list[float] = []
    stop = asyncio.Event()
    with LagProbe(asyncio.get_running_loop(), 7) as lag:
        others = [
            asyncio.create_task(_search(memory, old[:500], searches, stop)),
            asyncio.create_task(_observe(memory, old[-500:], waits, stop)),
        ]
        started = time.perf_counter()
        done = await work(stop)
        seconds = time.perf_counter() - started
        stop.set()
        await asyncio.gather(*others, return_exceptions=True)
    figures = {"seconds": seconds, "observe_longest": max(waits), "observed": float(len(waits))}
    for name, samples in (("search", searches), ("observe", waits), ("lag", lag.samples)):
        for share in (50, 95, 99):
            figures[f"{name}_p{share}"] = float(np.percentile(samples, share))
    return done, figures


async def measure(directory: Path, n: int, dims: tuple[int, int], batch: int) -> dict[str, Any]:
    """One store, one re-embedding."""
    old = subspace(n, dims[0], seed=7)
    new = subspace(n, dims[1], seed=8)
    async with MemorySystem.open(directory / "store") as memory:
        for first in range(0, n, CHUNK):
            numbers = range(first, min(n, first + CHUNK))
            await memory.observe_many("a", old[first : first + CHUNK], list(numbers))
        await asyncio.to_thread(memory._engine.vectors.wait_indexed)  # noqa: SLF001

        async def rest(_stop: asyncio.Event) -> None:
            await asyncio.sleep(5.0)

        _, quiet = await _beside(memory, rest, old)
        before = rss_anon_bytes()
        most = before

        def embed(records: list[Record]) -> Any:
            return new[[record.value for record in records]]

        def look(_done: int, _rows: int) -> None:
            nonlocal most
            most = max(most, rss_anon_bytes())

        async def reembed(_stop: asyncio.Event) -> Any:
            return await memory.reembed("a", embed, batch=batch, progress=look)

        done, meanwhile = await _beside(memory, reembed, old)
        pending = memory.stats().l2_pending
        (hit,) = await memory.search_similar("a", new[n // 2], 1)
        assert hit.data == n // 2  # noqa: S101 - else the figures are of nothing
    return {
        "rows": n,
        "dimensions": list(dims),
        "embedded": done.embedded,
        "rows_a_second": done.embedded / meanwhile["seconds"],
        "pending_after": pending,
        "anonymous_growth": most - before,
        "quiet": quiet,
        "meanwhile": meanwhile,
    }


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--dims", type=int, nargs=2, default=(384, 256))
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        found = asyncio.run(measure(Path(directory), options.n, tuple(options.dims), options.batch))
        found["machine"] = machine(directory)
    print(json.dumps(found, indent=1))
    for part in ("quiet", "meanwhile"):
        told = {
            name: duration(value)
            for name, value in found[part].items()
            if name not in {"observed", "seconds"}
        }
        print(part, f"{found[part]['seconds']:.1f} s", told)


if __name__ == "__main__":
    main()
