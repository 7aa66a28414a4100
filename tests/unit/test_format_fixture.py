"""A store of every released format stays readable, with its views and without, and its export."""

import shutil
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from nt_memory import Approved, ManualClock, MemoryConfig, MemorySystem, import_store
from nt_memory.errors import TrimmedError
from nt_memory.system.at_rest import read_state
from nt_memory.system.verifying import verify
from nt_memory.tiers.layout import LAYOUT_VERSION
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


def _of(store, *, kind):
    """The stored files, as they may be found: as they were closed, copied, or exported."""
    if kind == "exported":
        import_store(FIXTURES / "export_v1.jsonl.zst", store)
        return
    shutil.copytree(FIXTURES / "store_v1_full", store)
    if kind == "copied":
        shutil.rmtree(store / "views")
        shutil.rmtree(store / "vectors")


@pytest.mark.parametrize("kind", ["closed", "copied", "exported"])
def test_a_full_store_of_format_1_is_read(run, tmp_path, kind):
    """Base, two segments, views and vectors; or base and journal alone; or what `export` made of it.

    `tests/fixtures/make_full.py` says what is in it.
    """
    store = tmp_path / "store"
    _of(store, kind=kind)
    clock = ManualClock(NOTED + timedelta(days=1))

    async def check():
        config = MemoryConfig(storage_path=store, history=3)
        async with MemorySystem.open(config, clock=clock) as memory:
            await _check_state(memory)
            await _check_search(memory)
            await _check_agreements(memory)
            if kind != "exported":
                kinds = [entry.kind async for entry in _first(memory.tail(after=15), 4)]
                assert kinds == ["write"] * 4

    if kind == "closed" and read_state(store / "views").layout == LAYOUT_VERSION:
        assert verify(store).damage == []
        assert verify(store).warnings == []
    run(check())
    assert verify(store).is_ok


async def _first(feed, count):
    for _ in range(count):
        yield await anext(feed)


async def _check_state(memory):
    assert await memory.get("agent_1", "position") == {"AAPL": 60}
    was = await memory.get("agent_1", "position", as_of=NOTED + timedelta(seconds=200))
    assert was == {"AAPL": 40}
    assert await memory.get("agent_1", "cash") == 1_000
    held = [old.value["AAPL"] async for old in memory.history("agent_1", "position")]
    assert held == [60, 50, 40, 30]
    with pytest.raises(TrimmedError):
        await memory.get("agent_1", "position", as_of=NOTED)
    late = await memory.get_record("agent_1", "late")
    assert (late.value, late.known_at) == ("known before", NOTED + timedelta(seconds=30))
    assert late.actor == "writer"
    assert await memory.get("agent_2", "brief") is None
    assert await memory.get("agent_2", "text") == "as it was " * 400
    assert await memory.get("agent_2", "gone") is None
    assert (await memory.get("agent_2", "last")) == NOTED + timedelta(seconds=430)
    rule = memory.retention("agent_2")
    assert (rule.max_age, rule.max_versions) == (timedelta(days=30), 5)
    first = (await memory.get_record("agent_1", "once")).revision
    assert await memory.put("agent_1", "once", 2, request_id="r1") != first  # a day has passed


async def _check_search(memory):
    vectors = np.eye(8)[:, :4] + 0.25
    hits = await memory.search_similar("agent_1", vectors[2], 1)
    assert [(hit.key, hit.data) for hit in hits] == [("o2", {"n": 2})]
    (tagged,) = await memory.search_similar("agent_1", vectors[0], 3, tags=["calm"])
    assert tagged.key == "o8"


async def _check_agreements(memory):
    assert isinstance(await memory.consensus.get_result("p1"), Approved)
    trajectory = await memory.bank.trajectory("t1")
    assert trajectory.actions[0].doc.predicted == 0.02
    assert [one.value for one in trajectory.outcomes] == [0.03]
    assert (await memory.acquire_lock("desk")).fence > 15
