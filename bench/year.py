"""A year of one-second position updates: what the store takes on disk meanwhile.

Every update is a version of one position, known one second after the one before it; a minute of them
makes one entry. A rule keeps a day of versions, and nobody calls `compact`: what keeps the store
bounded is that it compacts itself. Simulated seconds pass as fast as they can be written, so each
compaction meets many more writes than it would in that year.

    python bench/year.py --fraction 0.05
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from _harness import machine

from nt_memory import ManualClock, MemoryConfig, MemorySystem

YEAR = 365 * 86_400
PER_ENTRY = 60
LINES = 20
SECOND = timedelta(seconds=1)


def main() -> int:
    """Write a fraction of the year, print disk size over time, and say whether it is bounded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fraction", type=float, default=1.0, help="of a year (1.0)")
    parser.add_argument("--keep", type=float, default=24.0, help="hours of versions kept (24)")
    parser.add_argument("--compact-at", type=float, default=64.0, help="MiB of journal (64)")
    parser.add_argument("--workdir", default=None, help="where to put the store")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.workdir, prefix="nt-year-") as workdir:
        return asyncio.run(_year(arguments, Path(workdir) / "store"))


async def _year(arguments: argparse.Namespace, path: Path) -> int:
    total = max(PER_ENTRY * LINES, round(YEAR * arguments.fraction))
    clock = ManualClock()
    config = MemoryConfig(storage_path=path, compact_at_bytes=round(arguments.compact_at * 2**20))
    began, totals = time.perf_counter(), []
    print(
        f"{total:,} updates, {arguments.keep:g} h kept; MB of 10^6 bytes; {machine(str(path.parent))['cpu']}"
    )
    print(f"{'updates':>12} {'journal':>9} {'views':>9} {'base':>9} {'disk':>9}  compactions")
    async with MemorySystem.open(config, clock=clock) as memory:
        await memory.set_retention("trader", max_age=timedelta(hours=arguments.keep))
        done, peak = 0, 0.0
        for line in range(1, LINES + 1):
            while done < total * line // LINES:
                await _minute(memory, clock, done)
                done += PER_ENTRY
                if done % (PER_ENTRY * 1000) == 0:
                    peak = max(peak, *_sizes(path)[-1:])
            sizes = _sizes(path)
            totals.append(sizes[-1])
            peak = max(peak, sizes[-1])
            columns = " ".join(f"{size:9.2f}" for size in sizes)
            print(f"{done:12,} {columns}  {memory.stats().compactions}", flush=True)
        seconds = time.perf_counter() - began
        failure = memory.stats().compaction_failure
        used = memory.usage("trader")
        kept = sum([1 async for _ in memory.history("trader", "position")])
    half = LINES // 2
    is_bounded = not failure and max(totals[half:]) <= 1.25 * max(totals[:half])
    print(
        f"{done / seconds:,.0f} updates/s; {kept:,} versions left, {used.bytes / 1e6:.2f} MB of them"
    )
    print(f"peak on disk {peak:.1f} MB; bounded: {is_bounded} {failure}")
    return 0 if is_bounded else 1


async def _minute(memory: MemorySystem, clock: ManualClock, done: int) -> None:
    start = clock.now()
    for _ in range(PER_ENTRY):
        clock.advance(1.0)
    async with memory.transaction() as tx:
        for second in range(PER_ENTRY):
            value = {"AAPL": done + second, "price": 187.25 + second / 100, "side": "long"}
            tx.put("trader", "position", value, known_at=start + SECOND * (second + 1))


def _sizes(path: Path) -> list[float]:
    """MB of journal, views and base as allocated, and of all there is in the directory."""
    parts = [_megabytes(path / name) for name in ("journal", "views", "base")]
    return [*parts, _megabytes(path)]


def _megabytes(path: Path) -> float:
    found = 0
    for file in path.rglob("*"):
        try:
            found += file.stat().st_blocks * 512
        except FileNotFoundError:  # a compaction has just replaced it
            continue
    return found / 1e6


if __name__ == "__main__":
    sys.exit(main())
