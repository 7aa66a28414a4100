"""A position updated a hundred thousand times, one durable put each: the disk it takes stays bounded.

Writers do not wait for anything, compactions run beside them, and nobody calls `compact`.
"""

from __future__ import annotations

import asyncio

import pytest

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.system.verifying import verify

UPDATES = 100_000
WRITERS = 64
BOUND = 1 << 20
RESERVED_BYTES = 1 << 20


@pytest.mark.stress
def test_100_000_updates_stay_bounded(tmp_path):
    """Journal, views and base together, at every moment; and all of it verifies."""
    sizes = []

    async def write(memory, writer):
        for n in range(UPDATES // WRITERS):
            await memory.put("trader", f"position/{writer % 4}", {"AAPL": n, "by": writer})
            if writer == 0 and n % 20 == 0:
                sizes.append(memory._engine.opened.directory.disk_bytes())

    async def body():
        config = MemoryConfig(storage_path=tmp_path / "store", compact_at_bytes=BOUND)
        async with MemorySystem.open(config) as memory:
            await memory.set_retention("trader", max_versions=10)
            await asyncio.gather(*(write(memory, writer) for writer in range(WRITERS)))
            assert memory.stats().compaction_failure == ""
            assert memory.stats().compactions >= 3
            sizes.append(memory._engine.opened.directory.disk_bytes())

    asyncio.run(body())
    # Without: 100,000 entries of 60 bytes in the journal, and 300 each in the views.
    assert max(sizes) < RESERVED_BYTES + 20 * BOUND
    half = len(sizes) // 2
    assert max(sizes[half:]) < 1.5 * max(sizes[:half])
    assert verify(tmp_path / "store").damage == []
