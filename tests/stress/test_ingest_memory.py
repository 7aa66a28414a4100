"""Hundreds of thousands of observations leave nothing in memory but their columns."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import numpy as np
import pytest

from nt_memory import MemoryConfig, MemorySystem

ROWS = 400_000
CALL = 4_000
# Four int64 a row, in arrays that double when they are full.
COLUMNS_BYTES = 64
SLACK_BYTES = 32


def anonymous_bytes():
    """Memory of this process that is no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("RssAnon")]
    return int(line.split()[1]) * 1024


@pytest.mark.stress
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_row_takes_its_columns_and_no_more(tmp_path):
    """Neither keys, values, tags nor entries are held: 96 bytes a row, dimension 4 being scanned."""
    rows = np.random.default_rng(5).normal(size=(CALL, 4)).astype(np.float32)

    async def body():
        async with MemorySystem.open(MemoryConfig(storage_path=tmp_path / "store")) as memory:
            seen = []
            for first in range(0, ROWS, CALL):
                await memory.observe_many(
                    "a",
                    rows,
                    [{"n": n, "note": "x" * 80} for n in range(first, first + CALL)],
                    keys=[f"bar/{n:09}" for n in range(first, first + CALL)],
                    tags=[("all", f"t{n % 50}") for n in range(first, first + CALL)],
                )
                if first % (ROWS // 4) == 0:
                    gc.collect()
                    seen.append(anonymous_bytes())
            gc.collect()
            grown = anonymous_bytes() - seen[1]
            assert grown < (ROWS - ROWS // 4) * (COLUMNS_BYTES + SLACK_BYTES), seen

    asyncio.run(body())
