"""A store of every released format stays readable, without its views."""

import shutil
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from nt_memory import Approved, ManualClock, MemorySystem
from nt_memory.transport.values import ValueFiles

FIXTURES = Path(__file__).parent.parent / "fixtures"
NOTED = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)


def test_a_store_of_format_1_is_read(run, tmp_path):
    """State with its past, observations, decisions and remembered requests come back."""
    store = tmp_path / "store"
    shutil.copytree(FIXTURES / "store_v1", store)

    async def check():
        async with MemorySystem.open(store, clock=ManualClock(NOTED + timedelta(days=1))) as memory:
            assert await memory.get("agent_1", "position") == {"AAPL": 25}
            assert await memory.get("agent_1", "position", as_of=NOTED) == {"AAPL": 10}
            assert await memory.get("agent_1", "cash") == Decimal("12500.50")
            assert await memory.get("agent_1", "fenced") is True
            assert await memory.get("agent_2", "note") is None
            assert [r.value async for r in memory.history("agent_2", "note")] == ["gone"]
            record = await memory.get_record("agent_1", "position")
            assert record.actor == "writer"
            assert record.known_at == NOTED + timedelta(seconds=60)
            hits = await memory.search_similar("agent_1", [3.0, 4.0], 2)
            assert [hit.key for hit in hits] == ["obs/1", "obs/2"]
            assert hits[0].data == {"symbol": "AAPL"}
            tagged = await memory.search_similar("agent_1", [4.0, -3.0], 2, tags=["calm"])
            assert [hit.key for hit in tagged] == ["obs/1"]
            assert isinstance(await memory.consensus.get_result("p1"), Approved)

    run(check())


def test_a_value_file_of_format_1_is_read():
    """Arrays of every kind and bytes come back from a stored file."""
    place = FIXTURES / "value_v1"
    reference = bytes.fromhex((place / "reference").read_text())
    found = ValueFiles(place).load(reference, "a/k")
    assert list(found) == ["w", "be", "mask", "text", "tokens", "when", "n"]
    assert found["w"].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert found["be"].dtype.str == ">i4"
    assert found["be"].tolist() == list(range(8))
    assert found["mask"].tolist() == [True, False] * 9
    assert found["text"].tolist() == ["a", "é"] * 4
    assert found["tokens"] == b"0123456789abcdef"
    assert [str(day) for day in found["when"]] == [
        "2024-01-02T00:00:00.000000",
        "2024-01-03T00:00:00.000000",
    ]
    assert found["n"] == [1, (b"0123456789abcdef", None)]
