"""Reads of what is hot, beside a dict and the caches of others, in one run.

1,000 keys are read in turn, in batches of 1,000, loop included. All take turns, a batch each. What
the others hand out is the very object that was stored, which any reader can change under all
others; what nt-memory hands out cannot be changed.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _harness import Options, Row, duration, percentiles
from _peers import CACHES, Caches, missing, version_of
from _state import FLAT

from nt_memory import MemoryConfig, MemorySystem

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = 1_000
BATCHES = 400
DICT = "dict"


async def hot(options: Options) -> list[Row]:
    """Peek, pin and get of nt-memory, and `get` of the others."""
    directory = Path(options.workdir)
    keys = [f"position/{number:04}" for number in range(KEYS)]
    config = MemoryConfig(storage_path=directory / "hot")
    async with MemorySystem.open(config) as memory:
        async with memory.transaction() as tx:
            for key in keys:
                tx.put("agent_1", key, FLAT)
        for key in keys:
            assert await memory.get("agent_1", key) == FLAT  # noqa: S101 - and now it is hot
        caches = Caches(directory, {f"agent_1/{k}": dict(FLAT) for k in keys})
        absent = {name: why for name, (module, _) in CACHES.items() if (why := missing(module))}
        gets = {name: make(caches) for name, (_, make) in CACHES.items() if name not in absent}
        samples = await _take_turns(memory, keys, gets)
    versions = {name: f"{name} {version_of(module)}" for name, (module, _) in CACHES.items()}
    return _rows(samples, versions, absent)


async def _take_turns(
    memory: MemorySystem, keys: list[str], gets: dict[str, Callable[[str], Any]]
) -> dict[str, list[float]]:
    full = [f"agent_1/{key}" for key in keys]
    pins = [memory.pin("agent_1", key) for key in keys]
    peek, get = memory.peek, memory.get
    ours = ("pin", "peek", "get")
    samples: dict[str, list[float]] = {name: [] for name in (*ours, *gets)}
    for name, other in gets.items():
        found = other(full[0])  # theine's with whether there was one
        assert found in (FLAT, (FLAT, True)), name  # noqa: S101 - else the figures mean nothing
    for _ in range(BATCHES):
        start = time.perf_counter_ns()
        for pin in pins:
            pin.value  # noqa: B018 - the read is what is measured
        samples["pin"].append((time.perf_counter_ns() - start) / KEYS / 1e9)
        start = time.perf_counter_ns()
        for key in keys:
            peek("agent_1", key)
        samples["peek"].append((time.perf_counter_ns() - start) / KEYS / 1e9)
        start = time.perf_counter_ns()
        for key in keys:
            await get("agent_1", key)
        samples["get"].append((time.perf_counter_ns() - start) / KEYS / 1e9)
        for name, other in gets.items():
            start = time.perf_counter_ns()
            for key in full:
                other(key)
            samples[name].append((time.perf_counter_ns() - start) / KEYS / 1e9)
    return samples


def _rows(
    samples: dict[str, list[float]], versions: dict[str, str], absent: dict[str, str]
) -> list[Row]:
    base = float(np.median(samples[DICT]))
    ours = [
        ("pin", "pin read", "p99 < 100 ns", "20 ns", ("p99", 100e-9)),
        ("peek", "`peek` hit", "p99 < 1 µs", "p50 < 200 ns", ("p99", 1e-6)),
        ("get", "`await get`, L1 hit", "p50 < 1 µs", "0.4 µs", ("p50", 1e-6)),
    ]
    rows = []
    for name, what, bar, aim, (percentile, limit) in ours:
        took = percentiles(samples[name])
        figures = took | {"of_dict": took["p50"] / base}
        for other in versions.keys() - absent.keys():
            figures[f"of_{other}"] = took["p50"] / float(np.median(samples[other]))
        is_met = took[percentile] < limit
        rows.append(
            Row(f"hot read: nt-memory {what}", _spelled(took, base), bar, aim, is_met, figures)
        )
    for name, title in versions.items():
        if name in absent:
            rows.append(Row(f"hot read: {title}", f"skipped: {absent[name]}", "", ""))
            continue
        took = percentiles(samples[name])
        figures = took | {"of_dict": took["p50"] / base}
        rows.append(Row(f"hot read: {title}", _spelled(took, base), "", "", None, figures))
    return rows


def _spelled(took: dict[str, float], base: float) -> str:
    return f"p50 {duration(took['p50'])}, p99 {duration(took['p99'])}; {took['p50'] / base:.1f}x a dict"
