"""A position updated two hundred thousand times, a durable put each: the disk it takes stays bounded.

Writers do not wait for anything, compactions run beside them, and nobody calls `compact`.
"""

from __future__ import annotations

import asyncio

import pytest

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.clock import SystemClock
from nt_memory.system.verifying import verify

UPDATES = 200_000
COMPACTIONS = 4
BOUND = 1 << 20
RESERVED_BYTES = 1 << 20


@pytest.mark.stress
@pytest.mark.parametrize("writers", [64, 1000])
def test_updates_stay_bounded(tmp_path, writers):
    """Journal, views and base together, at every moment; and all of it verifies."""
    sizes, left = [], []

    async def write(memory, writer):
        n = 0
        while memory.revision < UPDATES or memory.stats().compactions < COMPACTIONS:
            assert memory.revision < 4 * UPDATES, "compactions do not keep up"
            for _ in range(20):
                await memory.put("trader", f"position/{writer % 4}", {"AAPL": n, "by": writer})
                n += 1

    async def watch(memory):
        while True:
            sizes.append(memory._engine.opened.directory.disk_bytes())
            await SystemClock().sleep(0.01)

    async def body():
        config = MemoryConfig(storage_path=tmp_path / "store", compact_at_bytes=BOUND)
        async with MemorySystem.open(config) as memory:
            await memory.set_retention("trader", max_versions=10)
            watching = asyncio.ensure_future(watch(memory))
            await asyncio.gather(*(write(memory, writer) for writer in range(writers)))
            assert memory.stats().compaction_failure == ""
            watching.cancel()
            await memory.compact()  # may be one that had begun before the last entries
            await memory.compact()
            left.append(memory._engine.opened.directory.disk_bytes())

    asyncio.run(body())
    # Without: 200,000 entries of 335 bytes, three times as much and more. How far writers get during one compaction is
    # the machine's to say, so nothing is asked of one moment beside another.
    assert max(sizes) < RESERVED_BYTES + 20 * BOUND
    assert left[0] < RESERVED_BYTES + BOUND
    assert verify(tmp_path / "store").damage == []
