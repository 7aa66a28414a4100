"""`nt-memory bench vectors`: this memory and its peers on the same vectors, in one table."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nt_memory.apps.bench import datasets, processes
from nt_memory.apps.bench.bars import OURS, bars_of, grown
from nt_memory.apps.bench.contenders import CONTENDERS, PEERS
from nt_memory.apps.bench.figures import K, duration, megabytes
from nt_memory.apps.bench.jobs import MOST_PASSES, PASSES_S, How
from nt_memory.apps.bench.machine import PACKAGES, machine, version
from nt_memory.apps.bench.report import Findings, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nt_memory.apps.bench.datasets import Dataset
    from nt_memory.apps.bench.options import BenchOptions
    from nt_memory.apps.bench.processes import Outcome

    Told = Callable[[str], None]

JOBS = How.__module__
HEAD = (
    "who",
    "set to",
    "build, rows/s",
    "anonymous",
    "peak",
    "mapped",
    "disk a row",
    "p50",
    "p95",
    "p99",
    f"recall@{K}",
    "reopen",
)


def run_vectors(options: BenchOptions, told: Told, *, name: str = "") -> Findings:
    """Measure every contender, one after the other, each in two processes of its own.

    Args:
        options: `n` names one size.
        told: Takes a line when something begins.
        name: Of the run; made up from the data when empty.

    Raises:
        InvalidInputError: the data set cannot be had.
    """
    with tempfile.TemporaryDirectory(dir=options.workdir, prefix="nt-bench-") as workdir:
        told(f"making {options.data} ...")
        dataset = prepared(options, Path(workdir), options.n[0])
        where = machine(workdir, packages_of(options.peers))
        results, is_interrupted = _measured(dataset, options, Path(workdir), told)
    return Findings(
        name=name or f"vectors-{dataset.name}-{dataset.rows}x{dataset.dim}",
        command=command_of(options),
        where=where,
        tables=[table_of(dataset, results, options)],
        bars=bars_of(dataset, results),
        document={"data": asdict(dataset) | {"directory": ""}, "contenders": results},
        is_interrupted=is_interrupted,
    )


def _measured(
    dataset: Dataset, options: BenchOptions, workdir: Path, told: Told
) -> tuple[dict[str, dict[str, Any]], bool]:
    """All contenders, or those that were done when Ctrl-C came: a run takes hours."""
    results: dict[str, dict[str, Any]] = {}
    for who in (OURS, *options.peers):
        told(f"{who} ...")
        try:
            results[who] = measure(who, dataset, options, workdir, seconds=options.seconds)
        except KeyboardInterrupt:
            results[who] = {"build": {"failure": "interrupted", "peak": None}}
            return results, True
        for line in _lines(who, results[who]):
            told("  " + " · ".join(filter(None, line)))
    return results, False


def measure(
    who: str, dataset: Dataset, options: BenchOptions, workdir: Path, *, seconds: float = 0.0
) -> dict[str, Any]:
    """Build and search a contender, then open what it left; its files are removed.

    Args:
        who: Its name in `CONTENDERS`.
        dataset: What it is measured on.
        options: Threads, recalls, limits.
        workdir: Its files are made here.
        seconds: Length of the search under ingest, of this memory only.

    Returns:
        "build" and "reopen", each with what was found, "failure" and "peak"; the second is missing
        where there was nothing to open.
    """
    with tempfile.TemporaryDirectory(dir=workdir, prefix=f"{who}-") as own:
        request = {
            "contender": who,
            "data": dataset.to_json(),
            "memory_bytes": options.memory_bytes,
        }
        how = How(options.build_threads, list(options.recalls), options.limit_s, seconds)
        built = processes.run(
            f"{JOBS}:build", request | {"how": asdict(how)}, Path(own), options.budget_s
        )
        result = {"build": _plain(built)}
        if not built.failure and CONTENDERS[who].about.is_kept:
            left = max(1.0, options.budget_s - built.seconds)
            result["reopen"] = _plain(processes.run(f"{JOBS}:reopen", request, Path(own), left))
    return result


def table_of(dataset: Dataset, results: dict[str, dict[str, Any]], options: BenchOptions) -> Table:
    """One line a contender, and a further line for each further recall it was set to."""
    lines = [line for who, result in results.items() for line in _lines(who, result)]
    notes = [
        f"Data: {dataset.about}; seed {dataset.seed}. Queries are drawn like the vectors and are not "
        "stored. Recall against an exact scan.",
        f"One search at a time, k = {K}, warm; each contender in processes of its own, which build "
        f"with up to {options.build_threads} threads and search with one unless the line says "
        "otherwise. Who can search more or less broadly is set to the least that reached each of "
        f"{', '.join(f'{r:g}' for r in sorted(options.recalls))} on other queries (or to what comes "
        "about as far as it gets); nt-memory sets itself. The queries are asked again as often as fits into "
        f"{PASSES_S:g} s, at most {MOST_PASSES} times; the pass with the middle median counts.",
        "Memory is what the process took beyond importing the library, after searching; peak includes "
        "the library. Reopen: to the first answer, files in the page cache; nt-memory after "
        "`kill -9`, the others after a proper end.",
        "nt-memory stores and returns records with payload and tags; the others vectors and ids only.",
    ]
    return Table(f"{dataset.rows:,} × {dataset.dim}, {dataset.name}", HEAD, lines, notes)


def command_of(options: BenchOptions) -> str:
    """What to type for the same run."""
    parts = [
        f"nt-memory bench vectors --n {options.n[0]} --dim {options.dim} --data {options.data}"
    ]
    if options.peers != PEERS:
        parts.append(f"--peers {','.join(options.peers)}")
    parts.append(f"--budget {options.budget_s:g} --seed {options.seed}")
    return " ".join(parts)


def prepared(options: BenchOptions, workdir: Path, rows: int) -> Dataset:
    """The data set that the options name, of one size."""
    return datasets.prepare(
        options.data,
        workdir / f"data-{rows}",
        rows,
        options.dim,
        queries=options.queries,
        seed=options.seed,
        cache=options.cache_directory,
    )


def packages_of(contenders: Iterable[str]) -> list[str]:
    """Distributions whose versions a result names."""
    return list(dict.fromkeys([*PACKAGES, *(CONTENDERS[who].about.package for who in contenders)]))


def _plain(outcome: Outcome) -> dict[str, Any]:
    return outcome.figures | {
        "failure": outcome.failure,
        "peak": outcome.peak_anonymous,
        "seconds": outcome.seconds,
    }


def _lines(who: str, result: dict[str, Any]) -> list[list[str]]:
    built, again = result["build"], result.get("reopen", {})
    label = f"{who} {version(CONTENDERS[who].about.package)}"
    points = built.get("points", [])
    settings = CONTENDERS[who].about.settings
    if built["failure"]:
        settings = built["failure"]
    start = [
        f"{built['rows'] / built['build_s']:,.0f}" if "build_s" in built else "–",
        megabytes(grown(built, "anonymous")),
        megabytes(built["peak"]),
        megabytes(grown(built, "mapped")),
        f"{built['disk'] / built['rows']:,.0f} B" if "disk" in built else "–",
    ]
    end = again.get("failure") or (duration(again["answered_s"]) if "answered_s" in again else "–")
    if not points:
        return [[label, settings, *start, "–", "–", "–", "–", end]]
    lines = [
        ["", f"ef {found['ef']}", *[""] * len(start), *_latency(found), ""] for found in points[1:]
    ]
    first = settings.replace("{ef}", str(points[0].get("ef")))
    return [[label, first, *start, *_latency(points[0]), end], *lines]


def _latency(found: dict[str, Any]) -> list[str]:
    return [*(duration(found[name]) for name in ("p50", "p95", "p99")), f"{found['recall']:.3f}"]
