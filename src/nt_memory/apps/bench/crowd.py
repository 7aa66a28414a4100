"""A memory that many agents share: the same observations, among more and more of them."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nt_memory import MemorySystem
from nt_memory.apps.bench import observing, processes
from nt_memory.apps.bench.datasets import Dataset
from nt_memory.apps.bench.figures import K, percentiles, recall, true_neighbours
from nt_memory.apps.bench.machine import memory_of
from nt_memory.transport.files import disk_bytes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from nt_memory.apps.bench.child import Report
    from nt_memory.apps.bench.options import BenchOptions
    from nt_memory.apps.bench.vectors import Told

PUTS = 500
WARM = 20


def measure(
    agents: int, dataset: Dataset, options: BenchOptions, workdir: Path, told: Told
) -> dict[str, Any]:
    """Fill a memory for so many agents, search and write, kill it, and open it in another process.

    Args:
        agents: How many share the observations.
        dataset: What is observed, row by row by another agent.
        options: Limits.
        workdir: The store is made, and removed, here.
        told: Takes a line.

    Returns:
        Figures of both processes, "failure" among them; empty if there was none.
    """
    told(f"{agents:,} agents ...")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=workdir, prefix="agents-") as own:
        asked = {"data": dataset.to_json(), "agents": agents, "limit_s": options.limit_s}
        for is_new in (True, False):
            outcome = processes.run(
                f"{__name__}:share", asked | {"is_new": is_new}, Path(own), options.budget_s
            )
            found |= outcome.figures | {"failure": outcome.failure}
            if outcome.failure:
                break
    return found


def share(
    report: Report, directory: Path, *, data: str, agents: int, limit_s: float, is_new: bool
) -> None:
    """The job of one process.

    Args:
        report: Takes the figures.
        directory: Of the store.
        data: `Dataset.to_json`.
        agents: How many.
        limit_s: A kind of call stops after so long.
        is_new: Fill, measure, and be killed; else open what that left.
    """
    dataset = Dataset.from_json(data)
    gc.collect()
    if is_new:
        report(before=memory_of())
        asyncio.run(_fill(report, directory, dataset, agents, limit_s))
    else:
        asyncio.run(_open(report, directory, dataset))
        report(disk=disk_bytes(directory))


async def _fill(
    report: Report, directory: Path, dataset: Dataset, agents: int, limit_s: float
) -> None:
    memory = await MemorySystem.open(observing.store_config(directory))
    report(phase="filling")
    vectors, names = dataset.vectors, [_name(number) for number in range(agents)]
    for number, name in enumerate(names):
        rows = range(number, len(vectors), agents)
        for first in range(0, len(rows), observing.BATCH):
            part = rows[first : first + observing.BATCH]
            await memory.observe_many(
                name,
                vectors[part.start : part.stop : part.step],
                [observing.payload(row) for row in part],
                keys=[f"o{row:08}" for row in part],
            )
    await observing.at_rest(memory)
    queries = dataset.queries
    report(phase="searching one agent")

    async def one(number: int) -> list[int]:
        hits = await memory.search_similar(names[number % agents], queries[number], K)
        return [int(hit.key[1:]) for hit in hits]

    samples, answers = await _timed(one, len(queries), limit_s)
    truth = [
        true_neighbours(
            vectors, queries[n : n + 1], K, np.arange(n % agents, len(vectors), agents)
        )[0]
        for n in range(len(answers))
    ]
    report(one=percentiles(samples) | {"recall": recall(answers, truth)}, phase="searching all")

    async def everyone(number: int) -> list[int]:
        hits = await memory.search_similar(names, queries[number], K)
        return [int(hit.key[1:]) for hit in hits]

    samples, _ = await _timed(everyone, len(queries), limit_s)
    report(all=percentiles(samples), phase="putting")

    async def put(number: int) -> list[int]:
        await memory.put(names[number % agents], "position", {"symbol": "AAPL", "size": number})
        return []

    samples, _ = await _timed(put, PUTS, limit_s)
    gc.collect()
    report(put=percentiles(samples), memory=memory_of(), is_done=True)
    os.kill(os.getpid(), signal.SIGKILL)


async def _timed(
    call: Callable[[int], Awaitable[list[int]]], count: int, limit_s: float
) -> tuple[list[float], list[Sequence[int]]]:
    """Time calls 0, 1, 2, … one after another; the first few are not counted."""
    samples: list[float] = []
    answers: list[Sequence[int]] = []
    begun = time.perf_counter()
    for number in range(count):
        start = time.perf_counter()
        answers.append(await call(number))
        end = time.perf_counter()
        samples.append(end - start)
        if end - begun > limit_s and len(samples) > 2 * WARM:
            break
    return samples[WARM:], answers


async def _open(report: Report, directory: Path, dataset: Dataset) -> None:
    start = time.perf_counter()
    memory = await MemorySystem.open(observing.store_config(directory))
    opened = time.perf_counter() - start
    hits = await memory.search_similar(_name(0), dataset.queries[0], K)
    answered = time.perf_counter() - start
    if not hits:
        raise RuntimeError("no hit after opening again")
    report(opened_s=opened, answered_s=answered)
    await memory.close()


def _name(number: int) -> str:
    return f"agent_{number:04}"
