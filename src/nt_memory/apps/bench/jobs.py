"""The two processes of a contender: one that builds and searches, one that opens what that left."""

from __future__ import annotations

import gc
import os
import signal
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nt_memory.apps.bench.contenders import CONTENDERS
from nt_memory.apps.bench.contenders.contender import LADDER, Tunable, load
from nt_memory.apps.bench.contenders.ours import Memory
from nt_memory.apps.bench.datasets import Dataset
from nt_memory.apps.bench.figures import K, point, recall, timed_calls
from nt_memory.apps.bench.machine import memory_of
from nt_memory.apps.bench.ownsearch import measure_own
from nt_memory.transport.files import disk_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from nt_memory.apps.bench.child import Report
    from nt_memory.apps.bench.contenders import Contender

    Floats = NDArray[np.float32]

TUNED_ON = 100
WARM = 20
ABOUT = 0.002
MOST_PASSES = 9
PASSES_S = 6.0


@dataclass(frozen=True)
class How:
    """How a contender is measured.

    Attributes:
        threads: For building.
        targets: Where a contender's searches can be broader or narrower, it is measured at the
            narrowest that reaches each of these recalls, chosen on queries that are not timed.
        limit_s: Timed searches stop after so long.
        seconds: Length of the search under ingest, of this memory only; 0 leaves it out.
    """

    threads: int
    targets: list[float]
    limit_s: float
    seconds: float


def build(
    report: Report,
    directory: Path,
    *,
    contender: str,
    data: str,
    memory_bytes: int,
    how: dict[str, Any],
) -> None:
    """Build one contender from a data set, search it, and leave it on disk.

    Args:
        report: Takes the figures.
        directory: This contender's own.
        contender: Its name in `CONTENDERS`.
        data: `Dataset.to_json`.
        memory_bytes: What this memory may use.
        how: Of `How`.
    """
    asked = How(**how)
    dataset = Dataset.from_json(data)
    measured = _made(contender, directory, dataset.dim, asked.threads, memory_bytes)
    gc.collect()
    before = memory_of()
    report(phase="building", settings=measured.about.settings, before=before)
    vectors = dataset.vectors
    start = time.perf_counter()
    measured.build(vectors)
    report(build_s=time.perf_counter() - start, rows=len(vectors), phase="searching")
    del vectors  # what it mapped is not the contender's
    gc.collect()
    points = _points(measured, dataset, asked.targets, asked.limit_s)
    report(points=points, memory=memory_of(), phase="saving")
    if isinstance(measured, Memory):
        measure_own(report, measured, dataset, limit_s=asked.limit_s, seconds=asked.seconds)
    start = time.perf_counter()
    measured.save()
    report(save_s=time.perf_counter() - start, phase="closing")
    if measured.about.is_killed:
        report(disk=disk_bytes(directory), is_done=True)
        os.kill(os.getpid(), signal.SIGKILL)
    measured.close()
    report(disk=disk_bytes(directory))


def reopen(
    report: Report, directory: Path, *, contender: str, data: str, memory_bytes: int
) -> None:
    """Open what `build` left in the same directory, and time the first answer.

    Args:
        report: Takes the figures.
        directory: As of `build`.
        contender: As of `build`.
        data: As of `build`.
        memory_bytes: As of `build`.

    Raises:
        RuntimeError: the answer is short, which would make the time meaningless.
    """
    dataset = Dataset.from_json(data)
    queries = dataset.queries
    opened = _made(contender, directory, dataset.dim, 1, memory_bytes)
    gc.collect()
    report(phase="opening", before=memory_of())
    start = time.perf_counter()
    opened.open()
    opened_s = time.perf_counter() - start
    first = opened.search(queries[0])
    report(opened_s=opened_s, answered_s=time.perf_counter() - start, phase="answering")
    if len(first) < K:
        raise RuntimeError(f"an answer of {len(first)} rows after opening again")
    if isinstance(opened, Memory):
        opened.settle()
        report(rows=opened.memory.stats().l2.entries)
    report(settled_s=time.perf_counter() - start)
    for query in queries[1:WARM]:
        opened.search(query)
    report(memory=memory_of(), phase="closing")
    opened.close()
    report(disk=disk_bytes(directory))


def _made(contender: str, directory: Path, dim: int, threads: int, memory_bytes: int) -> Contender:
    """One, with what it imports."""
    made = CONTENDERS[contender](directory, dim, threads)
    if isinstance(made, Memory):
        made.memory_bytes = memory_bytes
    load(made.about)
    return made


def _points(
    measured: Contender, dataset: Dataset, targets: list[float], limit_s: float
) -> list[dict[str, Any]]:
    """Latency and recall, at each target where there is a choice."""
    queries, truth = dataset.queries, dataset.truth
    if not isinstance(measured, Tunable):
        samples, found = _timed(measured, queries, limit_s)
        return [point(samples, found, truth)]
    tuned = min(TUNED_ON, len(queries) // 2)
    timed, points = queries[tuned:], []
    chosen = _chosen(measured, queries[:tuned], truth[:tuned], targets, limit_s)
    for ef, target in chosen.items():
        measured.set_ef(ef)
        samples, found = _timed(measured, timed, limit_s)
        points.append(point(samples, found, truth[tuned:]) | {"ef": ef, "target": target})
    return points


def _timed(
    measured: Contender, queries: Floats, limit_s: float
) -> tuple[list[float], Sequence[Sequence[int]]]:
    """All queries, as often as fit into some seconds; of these passes the one whose median is the middle one.

    A thousand quick searches are over in less time than the machine is slow for when somebody else uses it.
    """
    passes: list[tuple[list[float], Sequence[Sequence[int]]]] = []
    start = time.perf_counter()
    while len(passes) < MOST_PASSES and (not passes or time.perf_counter() - start < PASSES_S):
        if isinstance(measured, Memory):
            passes.append(measured.timed(queries, limit_s))
        else:
            passes.append(timed_calls(measured.search, queries, limit_s))
    passes.sort(key=lambda one: statistics.median(one[0]))
    return passes[(len(passes) - 1) // 2]


def _chosen(
    measured: Tunable,
    queries: Floats,
    truth: NDArray[np.int64],
    targets: list[float],
    limit_s: float,
) -> dict[int, float]:
    """Breadths of search to measure, each with the highest target it reaches.

    Where a target is out of reach, the narrowest that comes about as far as any: a broader search
    would only be slower.
    """
    reached: dict[int, float] = {}
    for ef in LADDER:
        measured.set_ef(ef)
        start = time.perf_counter()
        reached[ef] = recall([measured.search(query) for query in queries], truth)
        if reached[ef] >= max(targets) or time.perf_counter() - start > limit_s:
            break
    best = max(reached.values())
    chosen: dict[int, float] = {}
    for target in sorted(targets):
        enough = min(target, best - ABOUT)
        ef = next(ef for ef, found in reached.items() if found >= enough)
        if ef not in chosen or best >= target:
            chosen[ef] = target
    return chosen
