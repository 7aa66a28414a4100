"""Point-in-time reads over a million versions, beside reads of the latest, and what a version takes.

Four agents share the versions: with 1, 100 and 10,000 a key in the order of their times, and one
whose versions were written late, in any order. L1 holds one record, so nothing is read from it.
"""

from __future__ import annotations

import itertools
import random
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import lmdb
import numpy as np
from _harness import Options, Row, disk_bytes, duration, percentiles
from _state import FLAT

from nt_memory import AsOf, CacheConfig, MemoryConfig, MemorySystem

READS = 5_000
TOLERANCE = 1.1
STEP = timedelta(milliseconds=100)
A_ROW = 1_000  # versions written by one transaction
START = datetime(2020, 1, 1, tzinfo=UTC)


class _Depth(NamedTuple):
    agent: str
    depth: int
    keys: int
    is_late: bool = False


async def history(options: Options) -> list[Row]:
    """Reads of the latest and of any moment, by depth of history; disk a version."""
    share = options.versions // 4
    depths = [
        _Depth("depth_1", 1, share),
        _Depth("depth_100", 100, max(1, share // 100)),
        _Depth("depth_10000", min(10_000, share // 2), max(2, share // 10_000)),
        _Depth("late", 100, max(1, share // 100), is_late=True),
    ]
    path = Path(options.workdir) / "history"
    config = MemoryConfig(storage_path=path, cache_config=CacheConfig(max_entries=1))
    rng = random.Random(options.seed)  # noqa: S311 - chooses keys and times, hides nothing
    written = 0
    async with MemorySystem.open(config) as memory:
        revisions = []
        for depth in depths:
            first = memory.revision + 1
            written += await _fill(memory, depth, rng)
            revisions.append(range(first, memory.revision + 1))
    seek_s = _seek_seconds(path, rng)
    rows = []
    async with MemorySystem.open(config) as memory:
        for depth, entries in zip(depths, revisions, strict=True):
            rows += await _measure(memory, depth, entries, rng, seek_s)
        sizes = memory.stats()
        on_disk = disk_bytes(path)
        compacted = await memory.compact()
    rows.append(
        _disk_row(written, on_disk, sizes.journal_bytes, disk_bytes(path), compacted.freed_bytes)
    )
    return rows


async def _fill(memory: MemorySystem, depth: _Depth, rng: random.Random) -> int:
    """Write all versions of an agent; how many."""
    order = list(range(depth.depth))
    if depth.is_late:
        rng.shuffle(order)
    pairs = [(key, place) for place in order for key in range(depth.keys)]
    for start in range(0, len(pairs), A_ROW):
        async with memory.transaction() as tx:
            for key, place in pairs[start : start + A_ROW]:
                tx.put(depth.agent, f"key_{key:06}", FLAT, known_at=START + place * STEP)
    return len(pairs)


def _seek_seconds(path: Path, rng: random.Random) -> float:
    """Median of placing a cursor anywhere in the table of versions: one seek, nothing else."""
    with lmdb.open(str(path / "views"), readonly=True, lock=False, max_dbs=32, create=False) as env:
        table = env.open_db(b"versions", create=False)
        with env.begin(db=table) as txn:
            keys = [
                key for i, key in enumerate(txn.cursor().iternext(values=False)) if i % 199 == 0
            ]
            rng.shuffle(keys)
            cursor, samples = txn.cursor(), []
            for key in keys[:READS]:
                start = time.perf_counter_ns()
                cursor.set_range(key)
                samples.append((time.perf_counter_ns() - start) / 1e9)
    return float(np.median(samples))


async def _measure(
    memory: MemorySystem, depth: _Depth, written: range, rng: random.Random, seek_s: float
) -> list[Row]:
    span = STEP * depth.depth
    latest: list[float] = []
    past: list[float] = []
    both: list[float] = []

    def keys() -> list[str]:
        # Each kind of read has keys of its own, so that none finds pages that another has touched;
        # and none twice in a row, which would be a hit in L1.
        chosen = [f"key_{rng.randrange(depth.keys):06}" for _ in range(READS)]
        return [key for key, after in itertools.pairwise(chosen) if key != after]

    for now_key, then_key, both_key in zip(keys(), keys(), keys(), strict=False):
        view = memory.at(START + span * rng.random())
        moment = AsOf(START + span * rng.random(), rng.choice(written))
        start = time.perf_counter_ns()
        await memory.get(depth.agent, now_key)
        between = time.perf_counter_ns()
        await view.get(depth.agent, then_key)
        done = time.perf_counter_ns()
        await memory.get(depth.agent, both_key, as_of=moment)
        ended = time.perf_counter_ns()
        latest.append((between - start) / 1e9)
        past.append((done - between) / 1e9)
        both.append((ended - done) / 1e9)
    now, then, two = percentiles(latest), percentiles(past), percentiles(both)
    late = ", written late in any order" if depth.is_late else ""
    of = f"{depth.keys:,} keys of {depth.depth:,} versions{late}"
    limit = (now["p50"] + seek_s) * TOLERANCE
    figures = {"latest_p50": now["p50"], "seek_s": seek_s} | then
    return [
        Row(
            f"L3 read of the latest, {of}",
            f"p50 {duration(now['p50'])}, p99 {duration(now['p99'])}",
            "p50 < 20 µs",
            "10 µs",
            now["p50"] < 20e-6,
            now,
        ),
        Row(
            f"`at(t)` read, {of}",
            f"p50 {duration(then['p50'])}, p99 {duration(then['p99'])}: "
            f"{then['p50'] / now['p50']:.2f}x the latest (a seek: {duration(seek_s)}); "
            f"with both clocks, as of any of its entries, p50 {duration(two['p50'])}, p99 {duration(two['p99'])}",
            "latest + one seek, within 10 %",
            "",
            then["p50"] <= limit,
            figures | {"both_p50": two["p50"], "both_p99": two["p99"]},
        ),
    ]


def _disk_row(versions: int, on_disk: int, journal: int, after: int, freed: int) -> Row:
    figures = {
        "versions": versions,
        "bytes": on_disk / versions,
        "journal_bytes": journal / versions,
        "after_compaction_bytes": after / versions,
        "freed_bytes": freed,
    }
    return Row(
        f"disk per state version (ten-field flat dict), {versions:,} versions",
        f"{figures['bytes']:,.0f} bytes, {figures['journal_bytes']:,.0f} of them journal; "
        f"{figures['after_compaction_bytes']:,.0f} after `compact`",
        "",
        "",
        None,
        figures,
    )
