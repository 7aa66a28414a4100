"""What an observation costs on its way in, by thread: processor time, which other load does not stretch.

    python bench/ingest.py --rows 40000 --dim 384

Prints the time a row of the process, the event loop, the journal's thread and the indexer's, and the
longest callback of the loop; for calls of 2,000 new rows, for one call of all, and for replaced rows.
"""

from __future__ import annotations

import argparse
import asyncio
import asyncio.events
import os
import platform
import tempfile
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from nt_memory import MemoryConfig, MemorySystem

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT = "0123456789abcdefghijklmnopqrstuvwxyz" * 2
PARTS = {"loop": "MainThread", "journal": "nt-memory-journal", "indexer": "nt-memory-indexer"}


@dataclass
class Callbacks:
    """How long the loop's callbacks took, in processor time; installed by `watch`."""

    took_s: list[float] = field(default_factory=list)

    def watch(self) -> None:
        run: Callable[[asyncio.Handle], None] = asyncio.events.Handle._run  # type: ignore[attr-defined]  # noqa: SLF001

        def timed(handle: asyncio.Handle) -> None:
            start = time.thread_time()
            run(handle)
            self.took_s.append(time.thread_time() - start)

        asyncio.events.Handle._run = timed  # type: ignore[attr-defined]  # noqa: SLF001

    async def forget(self) -> None:
        """From the next callback on; what the present one has done does not count."""
        await asyncio.sleep(0)
        self.took_s.clear()


def spent() -> dict[str, float]:
    """Processor seconds so far: the process, and the threads that matter."""
    found = dict.fromkeys(PARTS, 0.0)
    for thread in threading.enumerate():
        for part, name in PARTS.items():
            if thread.name == name and thread.ident is not None:
                found[part] += time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return {"process": time.process_time(), **found}


def payload(i: int) -> dict[str, object]:
    """About 100 bytes when encoded."""
    return {"symbol": f"T{i % 500}", "day": i, "note": TEXT[i % 10 :][:62]}


@dataclass
class Load:
    """Columns of observations, made before anything is timed."""

    vectors: np.ndarray
    data: list[dict[str, object]]
    keys: list[str]
    tags: list[tuple[str, ...]]

    async def write(self, memory: MemorySystem, agent: str, first: int, stop: int) -> None:
        await memory.observe_many(
            agent,
            self.vectors[first:stop],
            self.data[first:stop],
            keys=self.keys[first:stop],
            tags=self.tags[first:stop],
        )


def make(rows: int, dim: int) -> Load:
    """Random vectors; what is written costs the same whatever they are."""
    vectors = np.random.default_rng(7).standard_normal((rows, dim), np.float32)
    return Load(
        vectors,
        [payload(i) for i in range(rows)],
        [f"bar/{i:09}" for i in range(rows)],
        [("all", f"t{i % 100}") for i in range(rows)],
    )


async def measure(
    memory: MemorySystem, load: Load, agent: str, call: int, callbacks: Callbacks, what: str
) -> None:
    rows = len(load.keys)
    await callbacks.forget()
    before, start = spent(), time.perf_counter()
    for first in range(0, rows, call):
        await load.write(memory, agent, first, min(rows, first + call))
    wall_s, after = time.perf_counter() - start, spent()
    a_row = {part: (after[part] - before[part]) / rows * 1e6 for part in after}
    # The callback that this is in has not ended, so it is not among them.
    longest_ms = max(callbacks.took_s) * 1e3
    print(
        f"{what:28}{a_row['process']:9.1f}{a_row['loop']:9.1f}{a_row['journal']:9.1f}"
        f"{a_row['indexer']:9.1f}{longest_ms:12.1f}{rows / wall_s:12,.0f}",
        flush=True,
    )


async def run(rows: int, dim: int, workdir: str) -> None:
    load, callbacks = make(rows, dim), Callbacks()
    callbacks.watch()
    async with MemorySystem.open(MemoryConfig(storage_path=workdir)) as memory:
        await load.write(memory, "warm", 0, min(rows, 2_000))
        await measure(memory, load, "a", 2_000, callbacks, "new, calls of 2,000")
        await measure(memory, load, "b", rows, callbacks, "new, one call")
        await measure(memory, load, "a", 2_000, callbacks, "replaced, calls of 2,000")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--workdir", default=None)
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{options.rows:,} rows of {options.dim} values; processor time a row in us\n")
    print(
        f"{'':28}{'process':>9}{'loop':>9}{'journal':>9}{'indexer':>9}{'longest ms':>12}{'rows/s':>12}"
    )
    with tempfile.TemporaryDirectory(dir=options.workdir) as place:
        asyncio.run(run(options.rows, options.dim, f"{place}/store"))


if __name__ == "__main__":
    main()
