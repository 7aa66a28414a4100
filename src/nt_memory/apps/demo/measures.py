"""What a run took: time, memory, and how often the swarm did what."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nt_memory.apps.demo.swarm import Shared, Stopwatch
    from nt_memory.system import MemorySystem

    Floats = NDArray[np.float64]


def latencies_of(watch: Stopwatch) -> dict[str, Floats]:
    """Seconds of each call, by operation."""
    return {name: np.array(seconds) for name, seconds in sorted(watch.seconds.items())}


def counts_of(shared: Shared) -> dict[str, int]:
    """What the swarm did."""
    counts = shared.counts
    return {
        "observations": counts.trajectories,
        "trajectories": counts.trajectories,
        "verdicts": counts.verdicts,
        "proposals": counts.proposals,
        "approved": counts.approved,
        "rejected": counts.rejected,
        "grants": counts.grants,
        "messages": counts.messages,
        "advised": counts.advised,
        "abstained": counts.abstained,
    }


def memory_of(memory: MemorySystem) -> dict[str, float]:
    """Megabytes held by the process and its store."""
    stats = memory.stats()
    megabyte = 1 << 20
    return {
        "rss_anon_mb": _rss_anon_mb(),
        "l2_mb": stats.l2.bytes / megabyte,
        "l3_mb": stats.l3_bytes / megabyte,
        "journal_mb": stats.journal_bytes / megabyte,
    }


def _rss_anon_mb() -> float:
    """Resident anonymous memory of this process; NaN where the system does not say."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return math.nan
