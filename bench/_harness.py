"""Shared parts of the benchmarks: figures, the machine they were taken on, and where they go."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

PACKAGES = ("nt-memory", "numpy", "faiss-cpu", "lmdb", "msgspec", "cachebox", "zstandard")
HIDDEN = 32  # dimensions that made-up embeddings really have
# Settings of the numerics that change speed; recorded when set.
SPEED_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")


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


@dataclass(frozen=True)
class Row:
    """One line of the table: what was measured, in words and as numbers, beside its bar and aim."""

    what: str
    measured: str
    bar: str
    aim: str
    is_met: bool | None = None
    figures: dict[str, float] = field(default_factory=dict)


def percentiles(samples: list[float] | np.ndarray) -> dict[str, float]:
    """p50, p95, p99 and the count, in the unit of the samples."""
    p50, p95, p99 = np.percentile(np.asarray(samples, dtype=np.float64), [50, 95, 99])
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "n": len(samples)}


def duration(seconds: float) -> str:
    """A duration with three digits and a readable unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def rss_anon_bytes() -> int:
    """Resident anonymous memory of this process (Linux), or all resident memory elsewhere."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    import psutil  # noqa: PLC0415 - only where /proc is missing

    return psutil.Process().memory_info().rss


def disk_bytes(directory: str | Path) -> int:
    """Blocks that the files below a directory occupy, in bytes; sparse files count what they use."""
    return sum(p.stat().st_blocks * 512 for p in Path(directory).rglob("*") if p.is_file())


def fdatasync_seconds(directory: str | Path, size: int = 200, times: int = 200) -> float:
    """Median of appending `size` bytes and waiting for the disk: the floor of a durable put."""
    path = Path(directory) / "fdatasync.probe"
    samples = []
    with path.open("ab", buffering=0) as file:
        for _ in range(times):
            start = time.perf_counter()
            file.write(b"x" * size)
            os.fdatasync(file.fileno())
            samples.append(time.perf_counter() - start)
    path.unlink()
    return float(np.median(samples))


def clustered(n: int, dim: int, seed: int) -> np.ndarray:
    """Unit float32 vectors as embeddings tend to lie; shape (n, dim).

    sqrt(n) clusters in 32 hidden dimensions, spread over all `dim`, and a little noise on top. How
    well a graph finds neighbours depends on such things, so every search figure has raw faiss on
    the same vectors beside it.
    """
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(8, int(n**0.5)), HIDDEN), dtype=np.float32)
    spread = rng.standard_normal((HIDDEN, dim), dtype=np.float32) / np.float32(HIDDEN**0.5)
    out = np.empty((n, dim), dtype=np.float32)
    for start in range(0, n, 50_000):
        part = out[start : start + 50_000]
        hidden = centres[rng.integers(0, len(centres), len(part))]
        hidden += 0.5 * rng.standard_normal(hidden.shape, dtype=np.float32)
        np.matmul(hidden, spread, out=part)
        part += 0.1 * rng.standard_normal(part.shape, dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return out


def machine(workdir: str) -> dict[str, object]:
    """Where and with what the figures were taken."""
    variables = {name: os.environ[name] for name in SPEED_VARIABLES if name in os.environ}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "environment": variables,
        "fdatasync_us": round(fdatasync_seconds(workdir) * 1e6, 1),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    def git(*arguments: str) -> str:
        command = ["git", *arguments]  # whichever git is on PATH
        here = Path(__file__).parent
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "-s") else "")
    except OSError:
        return "unknown"


def table(rows: list[Row], where: dict[str, object]) -> str:
    """The rows as a Markdown table under a line about the machine."""
    versions = where["versions"]
    assert isinstance(versions, dict)  # noqa: S101 - it is, see machine()
    lines = [
        f"{where['date']} · {where['cpu']}, {where['cores']} cores, {where['memory_gib']} GiB · "
        f"{where['system']} · Python {where['python']} · commit {where['commit']} · "
        f"fdatasync of 200 bytes {where['fdatasync_us']} µs (median)",
        "",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    if where["environment"]:
        lines += ["", f"Environment: {where['environment']}"]
    lines += ["", "| what | measured | bar | aim | bar met |", "|---|---|---|---|---|"]
    met = {True: "yes", False: "**no**", None: ""}
    lines += [f"| {r.what} | {r.measured} | {r.bar} | {r.aim} | {met[r.is_met]} |" for r in rows]
    return "\n".join(lines) + "\n"


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
