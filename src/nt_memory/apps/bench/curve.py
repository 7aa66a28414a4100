"""`nt-memory bench curve`: how the cost of a search grows with what is remembered."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nt_memory.apps.bench.bars import OURS, SCAN_ALONE, WHOLE, scan_row
from nt_memory.apps.bench.figures import K, duration
from nt_memory.apps.bench.machine import machine
from nt_memory.apps.bench.report import Findings, Row, Table
from nt_memory.apps.bench.vectors import measure, prepared

if TYPE_CHECKING:
    from nt_memory.apps.bench.options import BenchOptions
    from nt_memory.apps.bench.vectors import Told

HEAD = (
    "vectors",
    "p50",
    "p95",
    f"recall@{K}",
    "scan p50",
    "scan p95",
    "scan / search, p50",
    "p50 against the first",
    "log n against the first",
)


def run_curve(options: BenchOptions, told: Told, *, name: str = "") -> Findings:
    """Measure this memory and a linear scan at each size, each in a process of its own.

    Args:
        options: `n` names the sizes, ascending.
        told: Takes a line when something begins.
        name: Of the run; made up from the data when empty.
    """
    results: dict[int, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(dir=options.workdir, prefix="nt-bench-") as workdir:
        where = machine(workdir)
        for rows in sorted(options.n):
            told(f"{rows:,} ...")
            with tempfile.TemporaryDirectory(dir=workdir) as own:
                dataset = prepared(options, Path(own), rows)
                results[dataset.rows] = {
                    who: measure(who, dataset, options, Path(own)) for who in (OURS, SCAN_ALONE)
                }
    sizes = ",".join(map(str, sorted(options.n)))
    return Findings(
        name=name or f"curve-{options.data}",
        command=f"nt-memory bench curve --n {sizes} --dim {options.dim} --data {options.data} "
        f"--seed {options.seed}",
        where=where,
        tables=[_table(results, options)],
        bars=_bars(_medians(results)),
        document={"data": options.data, "dim": options.dim, "sizes": results},
    )


def _medians(results: dict[int, dict[str, Any]]) -> dict[int, tuple[float, float]]:
    """p50 of a search and of a scan at each size where both were measured."""
    found: dict[int, tuple[float, float]] = {}
    for rows, result in results.items():
        ours, scan = (result[who]["build"].get("points") for who in (OURS, SCAN_ALONE))
        if ours and scan:
            found[rows] = (ours[0]["p50"], scan[0]["p50"])
    return found


def _table(results: dict[int, dict[str, Any]], options: BenchOptions) -> Table:
    medians = _medians(results)
    lines: list[list[str]] = []
    for rows, result in results.items():
        if rows not in medians:
            failed = [result[who]["build"]["failure"] for who in (OURS, SCAN_ALONE)]
            lines.append([f"{rows:,}", "; ".join(filter(None, failed)), *[""] * (len(HEAD) - 2)])
            continue
        ours, scan = (result[who]["build"]["points"][0] for who in (OURS, SCAN_ALONE))
        growth, logs = _growth(medians, rows)
        lines.append(
            [
                f"{rows:,}",
                *(duration(ours[name]) for name in ("p50", "p95")),
                f"{ours['recall']:.3f}",
                *(duration(scan[name]) for name in ("p50", "p95")),
                f"{scan['p50'] / ours['p50']:.0f}x",
                f"{growth:.2f}x",
                f"{logs:.2f}x",
            ]
        )
    notes = [
        "Searches return records. Small partitions are scanned exactly, because that is faster; the "
        "scan beside it is numpy float32 over all vectors, on one thread like the search.",
    ]
    return Table(f"Cost of a search, {options.data}, k = {K}", HEAD, lines, notes)


def _growth(medians: dict[int, tuple[float, float]], rows: int) -> tuple[float, float]:
    first = min(medians)
    return medians[rows][0] / medians[first][0], math.log(rows) / math.log(first)


def _bars(medians: dict[int, tuple[float, float]]) -> list[Row]:
    if not medians:
        return []
    last = max(medians)
    growths = {rows: _growth(medians, rows) for rows in medians}
    bars = [
        Row(
            f"growth of p50 from {min(medians):,} to {last:,} vectors",
            ", ".join(f"{growth:.2f}x at {rows:,}" for rows, (growth, _) in growths.items()),
            "no faster than log n",
            "",
            all(growth <= logs for growth, logs in growths.values()) if len(medians) > 1 else None,
            {f"{rows}": growth for rows, (growth, _) in growths.items()},
        )
    ]
    whole = [rows for rows in medians if rows >= WHOLE]
    if whole:
        ours, scan = medians[min(whole)]
        bars.append(scan_row(scan, ours, "one thread", is_whole=True))
    return bars
