"""Where figures were taken: the machine, its memory, disk and versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nt_memory.clock import SystemClock, to_datetime

if TYPE_CHECKING:
    from collections.abc import Iterable

PACKAGES = ("nt-memory", "numpy", "faiss-cpu", "lmdb", "msgspec", "cachebox", "zstandard")
# Settings of the numerics that change speed; recorded when set.
SPEED_VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")


def memory_of(process: int | str = "self") -> dict[str, int] | None:
    """Resident bytes of a process: "anonymous" and "mapped" (files and shared memory).

    None where /proc does not say (not Linux), or when the process has gone.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    size = {
        name: int(rest.split()[0]) * 1024
        for name, _, rest in (line.partition(":") for line in lines)
        if name in {"RssAnon", "RssFile", "RssShmem"}
    }
    if len(size) < 3:  # it has ended, and was not waited for
        return None
    return {"anonymous": size["RssAnon"], "mapped": size["RssFile"] + size["RssShmem"]}


def rss_anon_bytes() -> int:
    """Resident anonymous memory of this process (Linux), or its largest resident size elsewhere."""
    found = memory_of()
    if found is not None:
        return found["anonymous"]
    import resource  # noqa: PLC0415 - only where /proc is missing

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def fdatasync_seconds(directory: str | Path, size: int = 200, times: int = 200) -> float:
    """Median of appending `size` bytes and waiting for the disk: the floor of a durable put."""
    wait = getattr(os, "fdatasync", os.fsync)
    path = Path(directory) / "fdatasync.probe"
    samples: list[float] = []
    with path.open("ab", buffering=0) as file:
        for _ in range(times):
            start = time.perf_counter()
            file.write(b"x" * size)
            wait(file.fileno())
            samples.append(time.perf_counter() - start)
    path.unlink()
    return float(np.median(samples))


def machine(workdir: str | Path, packages: Iterable[str] = PACKAGES) -> dict[str, object]:
    """Where and with what the figures were taken.

    Args:
        workdir: A directory on the disk that is measured.
        packages: Distributions whose versions matter.
    """
    variables = {name: os.environ[name] for name in SPEED_VARIABLES if name in os.environ}
    return {
        "date": to_datetime(SystemClock().now_us()).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "commit": _commit(),
        "environment": variables,
        "fdatasync_us": round(fdatasync_seconds(workdir) * 1e6, 1),
    }


def version(package: str) -> str:
    """The version of an installed distribution, or "not installed"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def described(where: dict[str, object]) -> list[str]:
    """Markdown lines that say what `machine` found."""
    versions = where["versions"]
    assert isinstance(versions, dict)  # noqa: S101 - it is, see machine()
    lines = [
        f"{where['date']} · {where['cpu']}, {where['cores']} cores, {where['memory_gib']} GiB · "
        f"{where['system']} · Python {where['python']} · commit {where['commit']} · "
        f"fdatasync of 200 bytes {where['fdatasync_us']} µs (median)",
        "",
        ", ".join(f"{name} {number}" for name, number in versions.items()),
    ]
    if where["environment"]:
        lines += ["", f"Environment: {where['environment']}"]
    return lines


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit of the checkout that this file is tracked in; an installed package has none."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]  # whichever git is on PATH
        here = Path(__file__).parent
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)  # noqa: S603
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        # An environment inside somebody's repository is not a checkout of this one.
        if not git("ls-files", "--error-unmatch", Path(__file__).name):
            return "none (installed)"
        return git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "-s") else "")
    except OSError:
        return "unknown"
