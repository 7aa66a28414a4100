"""`nt-memory bench memory`: what a full memory takes, hot records and bookkeeping included."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nt_memory import MemorySystem
from nt_memory.apps.bench import observing, processes
from nt_memory.apps.bench.bars import WHOLE, disk_row, grown, memory_row
from nt_memory.apps.bench.datasets import Dataset
from nt_memory.apps.bench.figures import megabytes
from nt_memory.apps.bench.machine import machine, memory_of
from nt_memory.apps.bench.report import Findings, Row, Table
from nt_memory.apps.bench.vectors import prepared
from nt_memory.transport.files import disk_bytes

if TYPE_CHECKING:
    from nt_memory.apps.bench.child import Report
    from nt_memory.apps.bench.options import BenchOptions
    from nt_memory.apps.bench.vectors import Told

GOT_AT_ONCE = 1_000
SAID = {
    "empty": "opened, nothing in it",
    "filled": "filled, all in the graph",
    "searched": "searched",
    "hot": "L1 filled by reads",
    "opened": "opened again after `kill -9`, graph whole",
    "searched again": "searched",
    "hot again": "L1 filled by reads",
}


def remember(report: Report, directory: Path, *, data: str, is_new: bool) -> None:
    """Fill a memory, or open the one that was left; search it, fill L1, and say what that took.

    Args:
        report: Takes "stages": memory, and what the tiers account for, by stage.
        directory: Of the store.
        data: `Dataset.to_json`.
        is_new: Fill it, and be killed in the end; else open it, and close it.
    """
    gc.collect()
    report(before=memory_of())
    stages: dict[str, Any] = {}
    asyncio.run(_remember(report, directory, Dataset.from_json(data), stages, is_new=is_new))
    report(disk=disk_bytes(directory))


async def _remember(
    report: Report, directory: Path, dataset: Dataset, stages: dict[str, Any], *, is_new: bool
) -> None:
    config = observing.store_config(directory)
    memory = await MemorySystem.open(config)

    def note(stage: str) -> None:
        gc.collect()
        stats = memory.stats()
        stages[stage] = {
            "memory": memory_of(),
            "l1": stats.l1.bytes,
            "l1_entries": stats.l1.entries,
            "l2": stats.l2.bytes,
            "l2_rows": stats.l2.entries,
        }
        report(stages=stages, phase=f"after {stage}")

    if is_new:
        note("empty")
        vectors = dataset.vectors
        await observing.fill(memory, vectors)
        del vectors  # what it mapped is not the memory's
    await observing.indexed(memory)
    note("filled" if is_new else "opened")
    await observing.searches(memory, dataset.queries, 30.0)
    note("searched" if is_new else "searched again")
    most = min(dataset.rows, config.cache_config.max_entries)
    for first in range(0, most, GOT_AT_ONCE):
        names = [f"o{i:08}" for i in range(first, min(first + GOT_AT_ONCE, most))]
        await memory.get_many([(observing.AGENT, name) for name in names])
    note("hot" if is_new else "hot again")
    if is_new:
        report(is_done=True)
        os.kill(os.getpid(), signal.SIGKILL)
    await memory.close()


def run_memory(options: BenchOptions, told: Told, *, name: str = "") -> Findings:
    """Fill a memory in one process, kill it, and open it in another.

    Args:
        options: `n` names one size.
        told: Takes a line when something begins.
        name: Of the run; made up from the data when empty.
    """
    with tempfile.TemporaryDirectory(dir=options.workdir, prefix="nt-bench-") as workdir:
        told(f"making {options.data} ...")
        dataset = prepared(options, Path(workdir), options.n[0])
        where = machine(workdir)
        results: dict[str, dict[str, Any]] = {}
        for what, is_new in (("filling", True), ("opening", False)):
            told(f"{what} ...")
            asked = {"data": dataset.to_json(), "is_new": is_new}
            outcome = processes.run(
                "nt_memory.apps.bench.remembering:remember",
                asked,
                Path(workdir) / "store",
                options.budget_s,
            )
            results[what] = outcome.figures | {
                "failure": outcome.failure,
                "peak": outcome.peak_anonymous,
            }
            if outcome.failure:
                break
    return Findings(
        name=name or f"memory-{dataset.name}-{dataset.rows}x{dataset.dim}",
        command=f"nt-memory bench memory --n {options.n[0]} --dim {options.dim} --data "
        f"{options.data} --seed {options.seed}",
        where=where,
        tables=[_table(results, dataset)],
        bars=_bars(results, dataset),
        document={"data": options.data, "rows": dataset.rows, "dim": dataset.dim, **results},
    )


def _stages(results: dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any], float | None]]:
    """Each stage with its figures and the anonymous memory beyond an empty process."""
    found: list[tuple[str, dict[str, Any], float | None]] = []
    for result in results.values():
        for stage, figures in result.get("stages", {}).items():
            size = grown({"before": result["before"], **figures}, "anonymous")
            found.append((stage, figures, size))
    return found


def _table(results: dict[str, dict[str, Any]], dataset: Dataset) -> Table:
    lines = [
        [
            SAID[stage],
            megabytes(size),
            megabytes((figures["memory"] or {}).get("mapped")),
            f"{megabytes(figures['l1'])} in {figures['l1_entries']:,}",
            f"{megabytes(figures['l2'])} for {figures['l2_rows']:,}",
        ]
        for stage, figures, size in _stages(results)
    ]
    notes = [
        "Each observation has a payload of 100 bytes, and one in fifty a tag. Anonymous: beyond the "
        "process with the library imported. Mapped: files the kernel may drop at any time.",
        *(f"Not finished: {r['failure']}." for r in results.values() if r["failure"]),
    ]
    peaks = [megabytes(result["peak"]) for result in results.values()]
    notes.append(f"Peak of anonymous memory, library included: {', '.join(peaks)}.")
    head = ("when", "anonymous", "mapped", "of it L1 says", "of it L2 says")
    return Table(f"{dataset.rows:,} × {dataset.dim}, {dataset.name}", head, lines, notes)


def _bars(results: dict[str, dict[str, Any]], dataset: Dataset) -> list[Row]:
    sizes = [size for _, _, size in _stages(results) if size is not None]
    bars = [memory_row(max(sizes), dataset.rows, is_whole=dataset.rows >= WHOLE)] if sizes else []
    disk = results.get("opening", {}).get("disk")
    return [*bars, disk_row(disk / dataset.rows, dataset.dim)] if disk else bars
