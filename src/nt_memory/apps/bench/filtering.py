"""`nt-memory bench filters`: searches through filters of every kind, wide to narrow."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nt_memory import MemorySystem
from nt_memory.apps.bench import observing, processes
from nt_memory.apps.bench.bars import WHOLE
from nt_memory.apps.bench.datasets import Dataset
from nt_memory.apps.bench.figures import K, duration, percentiles, recall, true_neighbours
from nt_memory.apps.bench.machine import machine
from nt_memory.apps.bench.report import Findings, Row, Table
from nt_memory.apps.bench.vectors import prepared

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nt_memory.apps.bench.child import Report
    from nt_memory.apps.bench.options import BenchOptions
    from nt_memory.apps.bench.vectors import Told

    Floats = NDArray[np.float32]
    Rows = NDArray[np.int64]

SHARES = (1.0, 0.5, 0.25, 0.1, 0.05, 0.02, 0.01, 0.001, 0.0001)
KINDS = {
    "tag, random": "a tag on rows drawn evenly",
    "tag, correlated": "a tag on the rows nearest to one vector: most queries are far from all of them",
    "where": "a range of a field of the data, random",
    "as-of": "what was known by an earlier time; rows are in order of time",
}
START = datetime(2020, 1, 1, tzinfo=UTC)
QUERIES = 200
RECALL = 0.95
HEAD = (
    "kind",
    "passes",
    "rows",
    "p50",
    "p95",
    f"recall@{K}",
    "fewest hits",
    "exact p50",
    "exact p95",
)


@dataclass(frozen=True)
class Plan:
    """Which rows pass which filter.

    Attributes:
        random: Rank of each row in an order drawn evenly, shape (n,).
        correlated: Rank of each row by similarity to one stored vector, shape (n,).
    """

    random: Rows
    correlated: Rows

    @classmethod
    def of(cls, dataset: Dataset) -> Plan:
        """Drawn by the data set's seed."""
        draw = np.random.default_rng(dataset.seed + 2)
        vectors = dataset.vectors
        scores = vectors @ vectors[int(draw.integers(0, dataset.rows))]
        correlated = np.empty(dataset.rows, np.int64)
        correlated[np.argsort(-scores, kind="stable")] = np.arange(dataset.rows)
        return cls(draw.permutation(dataset.rows), correlated)

    def tags(self, i: int) -> list[str]:
        """Tags of a row: one for each share of each kind that it is part of."""
        count = len(self.random)
        return [
            f"{kind}{number}"
            for kind, ranks in (("r", self.random), ("c", self.correlated))
            for number, share in enumerate(SHARES)
            if ranks[i] < passing(share, count)
        ]

    def data(self, i: int) -> dict[str, Any]:
        """Data of a row: the payload of all benchmarks, and the field that `where` asks for."""
        return observing.payload(i) | {"u": int(self.random[i])}

    def filter(self, kind: str, number: int) -> tuple[dict[str, Any], Rows]:
        """Arguments of `search_similar`, and the rows that pass, ascending."""
        count = len(self.random)
        kept = passing(SHARES[number], count)
        if kind == "tag, random":
            return {"tags": [f"r{number}"]}, np.flatnonzero(self.random < kept)
        if kind == "tag, correlated":
            return {"tags": [f"c{number}"]}, np.flatnonzero(self.correlated < kept)
        if kind == "where":
            where = {"op": "lt", "field": "u", "value": kept}
            return {"where": where}, np.flatnonzero(self.random < kept)
        return {"as_of": known_at(kept - 1)}, np.arange(kept)


def passing(share: float, count: int) -> int:
    """How many rows pass."""
    return max(1, round(share * count))


def known_at(i: int) -> datetime:
    """Since when a row is known."""
    return START + timedelta(seconds=i)


def filters(report: Report, directory: Path, *, data: str, limit_s: float) -> None:
    """Fill a memory and search it through every filter; a line a cell.

    Args:
        report: Takes "cells".
        directory: Of the store.
        data: `Dataset.to_json`.
        limit_s: Searches of one cell stop after so long.
    """
    asyncio.run(_filters(report, directory, Dataset.from_json(data), limit_s))


async def _filters(report: Report, directory: Path, dataset: Dataset, limit_s: float) -> None:
    plan = Plan.of(dataset)
    report.phase("building")
    async with MemorySystem.open(observing.store_config(directory)) as memory:
        await observing.fill(
            memory, dataset.vectors, data=plan.data, tags=plan.tags, known_at=known_at
        )
        cells: list[dict[str, Any]] = []
        for kind in KINDS:
            for number, share in enumerate(SHARES):
                if number and passing(share, dataset.rows) == passing(
                    SHARES[number - 1], dataset.rows
                ):
                    continue
                report.phase(f"searching: {kind}, {share:.2%}")
                cells.append(await _cell(memory, dataset, plan, kind, number, limit_s))
                report(cells=cells)


async def _cell(
    memory: MemorySystem, dataset: Dataset, plan: Plan, kind: str, number: int, limit_s: float
) -> dict[str, Any]:
    how, rows = plan.filter(kind, number)
    queries = dataset.queries[:QUERIES]
    samples, found = await observing.searches(memory, queries, limit_s, **how)
    truth = true_neighbours(dataset.vectors, queries[: len(found)], K, rows)
    # Exact searches of all queries would take longer than everything else.
    exact, sure = await observing.searches(memory, queries, limit_s / 20, exact=True, **how)
    return {
        "kind": kind,
        "share": SHARES[number],
        "rows": len(rows),
        "search": percentiles(samples),
        "recall": recall(found, truth),
        "fewest": min(map(len, found)),
        "possible": truth.shape[1],
        "exact": percentiles(exact),
        "exact_recall": recall(sure[: len(truth)], truth[: len(sure)]),
    }


def run_filters(options: BenchOptions, told: Told, *, name: str = "") -> Findings:
    """Measure the matrix at each size, each in a process of its own.

    Args:
        options: `n` names the sizes.
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
                asked = {"data": dataset.to_json(), "limit_s": options.limit_s}
                outcome = processes.run(
                    "nt_memory.apps.bench.filtering:filters",
                    asked,
                    Path(own) / "store",
                    options.budget_s,
                )
                results[dataset.rows] = outcome.figures | {"failure": outcome.failure}
    sizes = ",".join(map(str, sorted(options.n)))
    return Findings(
        name=name or f"filters-{options.data}",
        command=f"nt-memory bench filters --n {sizes} --dim {options.dim} --data {options.data} "
        f"--seed {options.seed}",
        where=where,
        tables=[_table(rows, result, options) for rows, result in results.items()],
        bars=[bar for rows, result in results.items() for bar in _bars(rows, result)],
        document={"data": options.data, "dim": options.dim, "sizes": results},
    )


def _table(rows: int, result: dict[str, Any], options: BenchOptions) -> Table:
    lines = [
        [
            cell["kind"],
            f"{cell['share']:.2%}",
            f"{cell['rows']:,}",
            *(duration(cell["search"][name]) for name in ("p50", "p95")),
            f"{cell['recall']:.3f}",
            f"{cell['fewest']} of {cell['possible']}",
            *(duration(cell["exact"][name]) for name in ("p50", "p95")),
        ]
        for cell in result.get("cells", [])
    ]
    notes = [f"{kind}: {about}." for kind, about in KINDS.items()]
    if result["failure"]:
        notes.append(f"Not finished: {result['failure']}.")
    return Table(f"Filters, {rows:,} × {options.data}, k = {K}", HEAD, lines, notes)


def _bars(rows: int, result: dict[str, Any]) -> list[Row]:
    cells = result.get("cells", [])
    if not cells:
        return []
    worst = min(cells, key=lambda cell: cell["recall"])
    short = [cell for cell in cells if cell["fewest"] < cell["possible"]]
    bars = [
        Row(
            f"filters of every kind and width, {rows:,} rows: recall, and hits",
            f"recall at worst {worst['recall']:.3f} ({worst['kind']}, {worst['share']:.2%}); "
            f"{len(short)} of {len(cells)} filters returned fewer hits than pass",
            f"recall >= {RECALL:g}, never short",
            "",
            worst["recall"] >= RECALL and not short and not result["failure"],
            {"worst": worst["recall"], "short": len(short), "cells": len(cells)},
        )
    ]
    for kind in KINDS:
        cell = next((c for c in cells if (c["kind"], c["share"]) == (kind, 0.02)), None)
        if cell is not None:
            is_met = cell["search"]["p95"] < 8e-3 and cell["recall"] >= RECALL
            bars.append(
                Row(
                    f"{kind}, 2 % of {rows:,}",
                    f"p95 {duration(cell['search']['p95'])} at {cell['recall']:.3f}",
                    "p95 < 8 ms at 0.95 at 1M",
                    "p95 < 4 ms at 0.99",
                    is_met if rows >= WHOLE or not is_met else None,
                    {"p95": cell["search"]["p95"], "recall": cell["recall"]},
                )
            )
    return bars
