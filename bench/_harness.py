"""Shared parts of the benchmarks: figures, the machine they were taken on, and where they go."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nt_memory.apps.bench.figures import duration, percentiles
from nt_memory.apps.bench.generators import made, subspace_blocks
from nt_memory.apps.bench.machine import (
    described,
    fdatasync_seconds,
    machine,
    rss_anon_bytes,
)
from nt_memory.apps.bench.report import Row, bars_table
from nt_memory.transport.files import disk_bytes

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "Options",
    "Row",
    "disk_bytes",
    "duration",
    "fdatasync_seconds",
    "leave_rows",
    "machine",
    "percentiles",
    "rss_anon_bytes",
    "run_section",
    "subspace",
    "table",
    "write_results",
]


@dataclass(frozen=True)
class Options:
    """What to measure, and how much of it."""

    workdir: str
    n: int = 100_000
    dim: int = 384
    queries: int = 500
    seconds: float = 5.0
    seed: int = 7
    versions: int = 1_000_000
    pace_s: float = 60.0


def subspace(n: int, dim: int, seed: int) -> np.ndarray:
    """Unit float32 vectors as embeddings tend to lie, shape (n, dim); see `subspace_blocks`.

    How well a graph finds neighbours depends on such things, so every search figure has raw faiss on
    the same vectors beside it.
    """
    return made(subspace_blocks, n, dim, seed)


def table(rows: list[Row], where: dict[str, object]) -> str:
    """The rows as a Markdown table under a line about the machine."""
    return "\n".join([*described(where), "", bars_table(rows), ""])


def write_results(
    rows: list[Row],
    where: dict[str, object],
    options: Options,
    directory: Path,
    name: str,
    command: str,
) -> tuple[Path, Path]:
    """Write `<date>-<name>.json` and `.md`, which name the command; return both paths."""
    directory.mkdir(parents=True, exist_ok=True)
    stem = f"{str(where['date'])[:10]}-{name}"
    as_json, as_text = directory / f"{stem}.json", directory / f"{stem}.md"
    asked = {k: v for k, v in dataclasses.asdict(options).items() if k != "workdir"}
    document = {
        "machine": where,
        "options": asked,
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    as_json.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    as_text.write_text(f"# {stem}\n\n`{command}`\n\n{table(rows, where)}")
    return as_json, as_text


def run_section(name: str, options: Options, script: Path) -> list[Row]:
    """Have a script measure one of its sections in a process of its own: no shared memory.

    Raises:
        RuntimeError: it ended without leaving its rows behind.
    """
    result = Path(options.workdir) / f"{name}.rows.json"
    result.unlink(missing_ok=True)
    request = json.dumps(dataclasses.asdict(options))
    subprocess.run([sys.executable, str(script), "--section", name, request], check=False)
    if not result.exists():
        raise RuntimeError(f"section {name} failed")
    return [Row(**row) for row in json.loads(result.read_text())]


def leave_rows(name: str, options: Options, rows: list[Row]) -> None:
    """Hand a section's rows to the process that started it."""
    path = Path(options.workdir) / f"{name}.rows.json"
    path.write_text(json.dumps([dataclasses.asdict(row) for row in rows]))
