"""`nt-memory bench ingest`: filling beside raw faiss, and searching while observations come in."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nt_memory.apps.bench import observing
from nt_memory.apps.bench.bars import OURS, RAW, bulk_row, growing_row
from nt_memory.apps.bench.figures import duration
from nt_memory.apps.bench.machine import machine
from nt_memory.apps.bench.report import Findings, Row, Table
from nt_memory.apps.bench.vectors import measure, prepared

if TYPE_CHECKING:
    from nt_memory.apps.bench.options import BenchOptions
    from nt_memory.apps.bench.vectors import Told


def run_ingest(options: BenchOptions, told: Told, *, name: str = "") -> Findings:
    """Fill this memory and raw faiss in turn, then search this memory while more comes in.

    Args:
        options: `n` names one size.
        told: Takes a line when something begins.
        name: Of the run; made up from the data when empty.
    """
    rounds: list[dict[str, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory(dir=options.workdir, prefix="nt-bench-") as workdir:
        told(f"making {options.data} ...")
        dataset = prepared(options, Path(workdir), options.n[0])
        where = machine(workdir)
        for number in range(options.repeats):
            told(f"round {number + 1} of {options.repeats} ...")
            # In turn, so that both have their share of what else the machine does.
            seconds = options.seconds if number + 1 == options.repeats else 0.0
            rounds.append(
                {
                    RAW: measure(RAW, dataset, options, Path(workdir))["build"],
                    OURS: measure(OURS, dataset, options, Path(workdir), seconds=seconds)["build"],
                }
            )
    return Findings(
        name=name or f"ingest-{dataset.name}-{dataset.rows}x{dataset.dim}",
        command=f"nt-memory bench ingest --n {options.n[0]} --dim {options.dim} --data "
        f"{options.data} --seconds {options.seconds:g} --repeats {options.repeats} "
        f"--seed {options.seed}",
        where=where,
        tables=[_bulk_table(rounds, dataset.rows), *_growing_tables(rounds)],
        bars=_bars(rounds, dataset.rows),
        document={"data": options.data, "rows": dataset.rows, "dim": dataset.dim, "rounds": rounds},
    )


def _bulk_table(rounds: list[dict[str, dict[str, Any]]], rows: int) -> Table:
    lines = [
        [
            str(number),
            _rate(rows, _seconds(found, "durable_s")),
            _rate(rows, _seconds(found, "indexed_s")),
            _rate(rows, _raw_seconds(found)),
            "; ".join(filter(None, (found[who]["failure"] for who in (RAW, OURS)))),
        ]
        for number, found in enumerate(rounds, start=1)
    ]
    head = ("round", "durable and searchable, rows/s", "indexed, rows/s", "raw faiss, rows/s", "")
    return Table(f"Bulk ingest, {rows:,} rows, nobody searching", head, lines)


def _growing_tables(rounds: list[dict[str, dict[str, Any]]]) -> list[Table]:
    last = rounds[-1][OURS]
    if "growing" not in last or not last.get("points"):
        return []
    idle, growing = last["points"][0], last["growing"]
    lines = [
        ["idle", *(duration(idle[p]) for p in ("p50", "p95", "p99")), "", ""],
        [
            f"{growing['rate']:,.0f}/s come in",
            *(duration(growing[p]) for p in ("p50", "p95", "p99")),
            f"{growing['checked'] - growing['unseen']:,} of {growing['checked']:,}",
            f"{growing['missed']:,}",
        ],
    ]
    note = (
        f"{observing.INGEST_PER_S:,}/s are asked for, {observing.STEP} a call, into the partition "
        f"that is searched. Every {observing.CHECK_EVERY}th search asks for what was acknowledged "
        "last; what an approximate search misses, an exact one looks for."
    )
    head = ("searches while", "p50", "p95", "p99", "acknowledged and seen", "only by exact search")
    return [Table("Searching while observations come in", head, lines, [note])]


def _bars(rounds: list[dict[str, dict[str, Any]]], rows: int) -> list[Row]:
    bars: list[Row] = []
    whole = [found for found in rounds if _seconds(found, "indexed_s") and _raw_seconds(found)]
    if whole:
        raw = statistics.median(_raw_seconds(found) or 0.0 for found in whole)
        took = {
            name: statistics.median(_seconds(found, name) or 0.0 for found in whole)
            for name in ("indexed_s", "durable_s")
        }
        bars.append(bulk_row(raw, "its defaults", took, rows))
    last = rounds[-1][OURS]
    if "growing" in last and last.get("points"):
        bars.append(growing_row(last["growing"], last["points"][0]["p95"]))
    return bars


def _seconds(found: dict[str, dict[str, Any]], name: str) -> float | None:
    took: dict[str, float] = found[OURS].get("took", {})
    return took.get(name)


def _raw_seconds(found: dict[str, dict[str, Any]]) -> float | None:
    return found[RAW].get("build_s")


def _rate(rows: int, seconds: float | None) -> str:
    return f"{rows / seconds:,.0f}" if seconds else "–"
