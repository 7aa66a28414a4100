"""Ten thousand calls cancelled in mid-await, in a few seconds."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path

import pytest

from nt_memory import MemorySystem
from nt_memory.system.verifying import verify

_spec = importlib.util.spec_from_file_location(
    "cancelling", Path(__file__).parents[1] / "unit/test_cancelling.py"
)
assert _spec is not None
assert _spec.loader is not None
cancelling = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cancelling)


@pytest.mark.stress
def test_ten_thousand_cancelled_calls_leave_nothing_behind(tmp_path):
    """As the unit test's thousand, ten times as long on one memory."""

    async def body():
        async with MemorySystem.open(tmp_path / "store") as memory:
            for seed in range(10):
                assert await cancelling.storm(memory, seed, 1_300) > 300
                await cancelling.judge(memory)

    asyncio.run(body())
    assert verify(tmp_path / "store").is_ok
