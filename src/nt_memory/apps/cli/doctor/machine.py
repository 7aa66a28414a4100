"""Checks of the machine: versions, processor, memory, limits, clock."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import platform
import resource
import sys
from pathlib import Path

from nt_memory.apps.bench.machine import cores, version
from nt_memory.apps.cli.doctor.checks import Check, Patient
from nt_memory.apps.cli.rendering import size

PACKAGES = ("nt-memory", "faiss-cpu", "lmdb", "numpy", "msgspec", "cachebox", "zstandard")
OLDEST_PYTHON = (3, 11)
FEW_FILES = 1_024
FEW_MAPS = 65_530
_THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_CGROUP = Path("/sys/fs/cgroup/memory.max")
_TIME_ERROR = 5
_CLOCK_OFF_US = 1_000_000


def check_versions(_patient: Patient) -> Check:
    """Python and the libraries the memory is built on."""
    found = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    text = f"Python {platform.python_version()} on {platform.platform(terse=True)}; {found}"
    if sys.version_info < OLDEST_PYTHON:
        return Check("versions", "fail", text, "use Python 3.11 or newer")
    if "not installed" in found:
        return Check("versions", "fail", text, "pip install nt-memory, into this environment")
    if sys.platform != "linux":
        return Check(
            "versions", "warn", text, "Linux is what it is tested on; elsewhere fsync promises less"
        )
    return Check("versions", "ok", text)


def check_processor(_patient: Patient) -> Check:
    """Whether similarity search has the instructions it is quick with."""
    features = _processor_features()
    wide = [name for name in ("avx2", "fma", "avx512f", "asimd", "sve") if name in features]
    text = f"{cores()} cores, {platform.machine()}"
    if features:
        text += f", {' '.join(wide) or 'no wide instructions'}"
    if platform.machine() in {"x86_64", "AMD64"} and features and "avx2" not in features:
        return Check(
            "processor",
            "warn",
            text,
            "without AVX2 searches take several times as long; in a virtual machine pass the host's "
            "processor through",
        )
    if cores() < 2:
        return Check("processor", "warn", text, "with one core indexing and searching share it")
    return Check("processor", "ok", text)


def check_memory(patient: Patient) -> Check:
    """Whether what the memory may use is there."""
    available = _meminfo().get("MemAvailable")
    if available is None:
        return Check("memory", "skip", "this system does not say how much is free")
    limit = _cgroup_limit()
    budget = patient.config.max_memory_bytes
    text = f"{size(available)} free, budget of L1 and L2 {size(budget)}"
    if limit is not None:
        text += f", limit of the control group {size(limit)}"
    if budget > min(available, limit if limit is not None else available):
        return Check(
            "memory",
            "warn",
            text,
            "set NT_MEMORY_MAX_MEMORY_BYTES below what is there, or the system may end the process",
        )
    return Check("memory", "ok", text)


def check_huge_pages(_patient: Patient) -> Check:
    """Whether the kernel rounds memory up to two megabytes at a time."""
    if not _THP.exists():
        return Check("huge pages", "skip", "this system has none")
    text = _THP.read_text().strip()
    if "[always]" in text:
        return Check(
            "huge pages",
            "warn",
            f"transparent huge pages: {text}",
            "resident memory may be larger than the budget; echo madvise > " + str(_THP),
        )
    return Check("huge pages", "ok", f"transparent huge pages: {text}")


def check_limits(patient: Patient) -> Check:
    """Limits on files, mappings and address space that a large store meets."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    largest, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    maps = _number(Path("/proc/sys/vm/max_map_count"))
    unlimited = resource.RLIM_INFINITY
    text = (
        f"{'any number of' if files == unlimited else f'{files:,}'} open files, "
        f"address space {'unlimited' if space == unlimited else size(space)}"
        + ("" if maps is None else f", {maps:,} mappings")
    )
    if space not in (unlimited, -1) and space < patient.config.max_map_bytes:
        return Check(
            "limits",
            "fail",
            text,
            f"the views reserve {size(patient.config.max_map_bytes)} of address space: ulimit -v "
            "unlimited, or set NT_MEMORY_MAX_MAP_BYTES to less",
        )
    if largest != unlimited:
        return Check(
            "limits", "warn", f"{text}, files up to {size(largest)}", "ulimit -f unlimited"
        )
    if files != unlimited and files < FEW_FILES:
        return Check(
            "limits", "warn", text, f"each agent with observations takes files: ulimit -n {65_536}"
        )
    if maps is not None and maps < FEW_MAPS:
        return Check("limits", "warn", text, "graphs are mapped: sysctl vm.max_map_count=262144")
    return Check("limits", "ok", text)


def check_fork(_patient: Patient) -> Check:
    """How this Python starts processes by default."""
    method = multiprocessing.get_start_method(allow_none=False)
    if method == "fork":
        return Check(
            "fork",
            "ok",
            "multiprocessing forks; a fork of a process with an open memory cannot use it",
            "open the memory in the child, read-only, or start children with 'spawn'",
        )
    return Check("fork", "ok", f"multiprocessing starts processes by {method}")


def check_clock(patient: Patient) -> Check:
    """Whether the wall clock is set by something, and not behind what the store has seen."""
    state, error_us = _kernel_clock()
    newest_us, now_us = _newest_entry_us(patient)
    if newest_us is not None and newest_us > now_us + _CLOCK_OFF_US:
        behind = (newest_us - now_us) / 1e6
        return Check(
            "clock",
            "fail",
            f"the wall clock is {behind:,.1f} s behind the newest entry of the store",
            "set the clock; until then entries get the time of the newest one",
        )
    if state is None:
        return Check("clock", "skip", "this system does not say whether its clock is set")
    if state == _TIME_ERROR:
        return Check(
            "clock",
            "warn",
            "the kernel says that nothing keeps the wall clock right",
            "run chrony or systemd-timesyncd; what is known when rests on it (a container cannot "
            "tell: look on its host)",
        )
    return Check("clock", "ok", f"set by something, to within {error_us / 1e3:,.1f} ms")


def _kernel_clock() -> tuple[int | None, int]:
    """What adjtimex says: its state, and the largest error in microseconds."""
    if sys.platform != "linux":
        return None, 0
    # struct timex begins: int modes, long offset, freq, maxerror. Modes of 0 only read.
    timex = (ctypes.c_long * 64)()
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    return (None, 0) if state < 0 else (int(state), int(timex[3]))


def _newest_entry_us(patient: Patient) -> tuple[int | None, int]:
    from nt_memory.apps.cli.doctor.store import peeked  # noqa: PLC0415
    from nt_memory.clock import SystemClock  # noqa: PLC0415

    now_us = SystemClock().now_us()
    if not patient.is_made:
        return None, now_us
    with peeked(patient) as views:
        times = views.log_times(views.number(b"revision") or 0)
        return (None if times is None else times.recorded_at), now_us


def _processor_features() -> set[str]:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return set()
    for text in info.read_text().splitlines():
        name, _, rest = text.partition(":")
        if name.strip() in {"flags", "Features"}:
            return set(rest.split())
    return set()


def _meminfo() -> dict[str, int]:
    info = Path("/proc/meminfo")
    if not info.exists():
        return {}
    found: dict[str, int] = {}
    for text in info.read_text().splitlines():
        name, _, rest = text.partition(":")
        found[name] = int(rest.split()[0]) * 1024
    return found


def _cgroup_limit() -> int | None:
    return _number(_CGROUP)


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def is_root() -> bool:
    """Whether this process may do anything to any file."""
    return os.geteuid() == 0
