"""`nt-memory bench curve`: how what a memory costs grows with what it holds, and with who uses it."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nt_memory.apps.bench import crowd
from nt_memory.apps.bench.bars import OURS, SCAN_ALONE, WHOLE, grown, scan_row
from nt_memory.apps.bench.figures import K, duration, fitted_exponent, megabytes
from nt_memory.apps.bench.machine import machine
from nt_memory.apps.bench.report import Findings, Row, Table
from nt_memory.apps.bench.vectors import measure, prepared

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from nt_memory.apps.bench.options import BenchOptions
    from nt_memory.apps.bench.vectors import Told

    Results = Mapping[int, dict[str, Any]]

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
COST_HEAD = (
    "vectors",
    "load, rows/s",
    "anonymous",
    "mapped",
    "disk",
    "disk a row",
    "opened after kill -9",
    "first answer",
    "graph whole",
)
CROWD_HEAD = (
    "agents",
    "search of one, p50 / p99",
    f"recall@{K}",
    "search of all, p50 / p99",
    "durable put, p50 / p99",
    "anonymous",
    "disk",
    "opened after kill -9",
    "first answer",
)


def run_curve(
    options: BenchOptions, told: Told, *, agents: Sequence[int] = (), name: str = ""
) -> Findings:
    """Measure this memory and a linear scan at each size, each in a process of its own.

    Args:
        options: `n` names the sizes, ascending.
        told: Takes a line when something begins.
        agents: Also measure the first size shared out among so many agents, each.
        name: Of the run; made up from the data when empty.
    """
    results: dict[int, dict[str, Any]] = {}
    crowds: dict[int, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(dir=options.workdir, prefix="nt-bench-") as workdir:
        where = machine(workdir)
        for rows in sorted(options.n):
            told(f"{rows:,} ...")
            with tempfile.TemporaryDirectory(dir=workdir) as own:
                dataset = prepared(options, Path(own), rows)
                results[dataset.rows] = {
                    who: measure(who, dataset, options, Path(own)) for who in (OURS, SCAN_ALONE)
                }
                if rows == min(options.n):
                    crowds = {
                        each: crowd.measure(each, dataset, options, Path(own), told)
                        for each in sorted(agents)
                    }
    return Findings(
        name=name or f"curve-{options.data}",
        command=_command(options, agents),
        where=where,
        tables=[
            _table(results, options),
            _costs(results),
            *([_crowds(crowds, min(results))] if crowds else []),
            _exponents(results, crowds),
        ],
        bars=_bars(_medians(results)),
        document={
            "data": options.data,
            "dim": options.dim,
            "sizes": results,
            "agents": crowds,
            "exponents": _fitted(_series(results)),
            "exponents_agents": _fitted(_crowd_series(crowds)),
        },
    )


def _command(options: BenchOptions, agents: Sequence[int]) -> str:
    sizes = ",".join(map(str, sorted(options.n)))
    among = f" --agents {','.join(map(str, sorted(agents)))}" if agents else ""
    memory = "" if options.memory_gib == 1 else f" --memory {options.memory_gib:g}"
    return (
        f"nt-memory bench curve --n {sizes}{among} --dim {options.dim} --data {options.data}{memory} "
        f"--seed {options.seed}"
    )


def _medians(results: Results) -> dict[int, tuple[float, float]]:
    """p50 of a search and of a scan at each size where both were measured."""
    found: dict[int, tuple[float, float]] = {}
    for rows, result in results.items():
        ours, scan = (result[who]["build"].get("points") for who in (OURS, SCAN_ALONE))
        if ours and scan:
            found[rows] = (ours[0]["p50"], scan[0]["p50"])
    return found


def _table(results: Results, options: BenchOptions) -> Table:
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
        f"The memory may use {options.memory_gib:g} GiB (`max_memory_bytes`). More rows of an agent than fit into three "
        "fifths of that are in several graphs, each of which is searched.",
    ]
    return Table(f"Cost of a search, {options.data}, k = {K}", HEAD, lines, notes)


def _costs(results: Results) -> Table:
    """What a size takes: to fill, to hold, on disk, and to open."""
    lines: list[list[str]] = []
    for rows, result in results.items():
        built, again = result[OURS]["build"], result[OURS].get("reopen", {})
        disk = _disk(result)
        lines.append(
            [
                f"{rows:,}",
                f"{rows / built['build_s']:,.0f}" if "build_s" in built else "–",
                megabytes(grown(built, "anonymous")),
                megabytes(grown(built, "mapped")),
                megabytes(disk),
                f"{disk / rows:,.0f} B" if disk else "–",
                *(
                    duration(again[name]) if name in again else "–"
                    for name in ("opened_s", "answered_s", "settled_s")
                ),
            ]
        )
    notes = [
        "One agent. Memory is what the process took beyond importing the library, after searching. Disk is that of "
        "the journal, the views and the graph. Opened: by a new process after `kill -9`, files in the page cache.",
    ]
    return Table("What a size takes", COST_HEAD, lines, notes)


def _disk(result: Mapping[str, Any]) -> float | None:
    """Bytes after opening and closing again; those before hold what the kill left unfinished."""
    found: float | None = result[OURS].get("reopen", {}).get("disk") or result[OURS]["build"].get(
        "disk"
    )
    return found


def _crowds(crowds: Results, rows: int) -> Table:
    """The same observations, shared out among more and more agents."""
    lines: list[list[str]] = []
    for agents, found in crowds.items():
        if found["failure"]:
            lines.append([f"{agents:,}", found["failure"], *[""] * (len(CROWD_HEAD) - 2)])
            continue
        lines.append(
            [
                f"{agents:,}",
                _pair(found["one"]),
                f"{found['one']['recall']:.3f}",
                _pair(found["all"]),
                _pair(found["put"]),
                megabytes(grown(found, "anonymous")),
                megabytes(found["disk"]),
                duration(found["opened_s"]),
                duration(found["answered_s"]),
            ]
        )
    notes = [
        f"{rows:,} observations in all, shared out evenly. A search of one asks one agent after another; a search of all "
        "names every agent. A put is one agent's state after another's, one at a time.",
    ]
    return Table(f"{rows:,} observations among more agents", CROWD_HEAD, lines, notes)


def _pair(found: Mapping[str, float]) -> str:
    return f"{duration(found['p50'])} / {duration(found['p99'])}"


def _series(results: Results) -> dict[str, dict[int, float]]:
    """What grows with observations: a name, and its figure at each size where there is one."""
    readers: dict[str, Callable[[dict[str, Any]], float | None]] = {
        "search, p50": lambda one: _of(one[OURS]["build"].get("points"), "p50"),
        "search, p95": lambda one: _of(one[OURS]["build"].get("points"), "p95"),
        "scan, p50": lambda one: _of(one[SCAN_ALONE]["build"].get("points"), "p50"),
        "load, seconds": lambda one: one[OURS]["build"].get("build_s"),
        "anonymous memory": lambda one: grown(one[OURS]["build"], "anonymous"),
        "disk": _disk,
        "opening": lambda one: one[OURS].get("reopen", {}).get("opened_s"),
        "first answer": lambda one: one[OURS].get("reopen", {}).get("answered_s"),
    }
    return {
        name: {rows: value for rows, one in results.items() if (value := read(one))}
        for name, read in readers.items()
    }


def _of(points: list[dict[str, float]] | None, name: str) -> float | None:
    return points[0][name] if points else None


def _crowd_series(crowds: Results) -> dict[str, dict[int, float]]:
    """What grows with agents, over the same observations."""
    whole = {agents: found for agents, found in crowds.items() if not found["failure"]}
    series = {
        f"{said}, p50": {agents: found[kind]["p50"] for agents, found in whole.items()}
        for kind, said in (("one", "search of one"), ("all", "search of all"), ("put", "put"))
    }
    series |= {
        said: {agents: found[kind] for agents, found in whole.items()}
        for kind, said in (("disk", "disk"), ("opened_s", "opening"))
    }
    memory = {agents: grown(found, "anonymous") for agents, found in whole.items()}
    return series | {"anonymous memory": {agents: size for agents, size in memory.items() if size}}


def _fitted(series: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    return {
        name: fitted_exponent(list(points), list(points.values()))
        for name, points in series.items()
        if len(points) > 1
    }


def _exponents(results: Results, crowds: Results) -> Table:
    """One line a cost: the exponent b of a · n^b, fitted to all sizes."""
    observed, shared = _fitted(_series(results)), _fitted(_crowd_series(crowds))
    lines = [
        [what, name, f"{exponent:+.2f}"]
        for what, fitted in (("observations", observed), ("agents", shared))
        for name, exponent in fitted.items()
    ]
    notes = [
        "Least squares of the logarithms: 0 does not grow, 1 grows in step, below 0 shrinks. Two sizes fit exactly, and a "
        "curve that bends, as from scan to graph, is not one power: read the tables beside it.",
    ]
    return Table("Fitted exponents", ("grows with", "cost", "exponent"), lines, notes)


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
