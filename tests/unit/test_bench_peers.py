"""The judge of `make bench-peers` can tell a memory that leaks, loses or misses from one that does not."""

from __future__ import annotations

import asyncio
import json
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from peers import lookahead, phases, tables
from peers.adapters.limit import Limit
from peers.adapters.ours import Ours
from peers.workload import SYMBOLS, K, Sizes, Workload, prepare

if TYPE_CHECKING:
    from pathlib import Path

    from peers.peer import Peer

SMALL = Sizes(
    rows=400, dim=32, updates=60, reads=60, observations=30, searches=20, episodes=30, messages=50,
    locks=20, limit_s=5.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    """A small one, drawn once."""
    return prepare(tmp_path_factory.mktemp("workload"), SMALL)


def found_by(task: Any, peer: Peer) -> dict[str, Any]:
    """What a task reports of a peer, in this process."""
    gathered: dict[str, Any] = {}
    peer.directory.mkdir(parents=True, exist_ok=True)

    async def run() -> None:
        await task(peer, lambda **found: gathered.update(found))
        if task is phases.run:
            await phases.awaited(peer.close())

    asyncio.run(run())
    return gathered


def test_a_memory_with_as_of_holds_and_a_plain_one_leaks(
    workload: Workload, tmp_path: Path
) -> None:
    """The same questions about the past: nt-memory answers as of then, a dict and an index with what came later."""
    held = found_by(lookahead.look, Ours(tmp_path / "ours", workload))["leaks"]
    assert held == {"state": "held", "search": "held", "outcome": "held"}
    leaks = found_by(lookahead.look, Limit(tmp_path / "limit", workload))["leaks"]
    assert leaks == {"state": "leaks", "search": "leaks", "outcome": "leaks"}


def test_what_is_gone_is_not_called_held(workload: Workload, tmp_path: Path) -> None:
    """Nothing found is no proof against looking ahead: a peer that forgets everything did not hold it."""

    class Forgetful(Limit):
        def get_as_of(self, agent: str, at: float) -> None:
            return None

        def search_as_of(self, number: int, at: float) -> list[int]:
            return []

        def outcomes_as_of(self, row: int, at: float) -> None:
            return None

    leaks = found_by(lookahead.look, Forgetful(tmp_path, workload))["leaks"]
    assert leaks == {"state": "gone", "search": "gone", "outcome": "gone"}


@pytest.mark.parametrize("made", [Ours, Limit])
def test_every_call_is_measured_and_searches_are_judged(
    made: type[Peer], workload: Workload, tmp_path: Path
) -> None:
    """All ten kinds with their percentiles; recall is that against a scan, also among one instrument."""
    found = found_by(phases.run, made(tmp_path, workload))
    kinds = {
        "put", "get", "search", "search_symbol", "observe", "episode", "lessons", "message", "lock",
    }  # fmt: skip
    assert found.keys() >= kinds | {"load"}
    assert all(0 < found[kind]["p50"] <= found[kind]["p99"] for kind in kinds)
    assert found["load"]["n"] == SMALL.rows
    assert found["search"]["recall"] > 0.9
    assert found["search_symbol"]["recall"] > 0.9


def test_a_search_that_misses_is_seen(workload: Workload, tmp_path: Path) -> None:
    """Half of the true neighbours are half of the recall; a wrong row in their place is none."""

    class Half(Limit):
        def search(self, number: int) -> list[int]:
            return [*super().search(number)[: K // 2], *range(100_000, 100_000 + K // 2)]

    recall = found_by(phases.run, Half(tmp_path, workload))["search"]["recall"]
    assert 0.4 < recall <= 0.55


def test_truth_is_a_scan_of_the_instrument_and_of_what_is_there(workload: Workload) -> None:
    """Neighbours are of the query's instrument, in order, among the loaded rows; what is unlike is none."""
    for rows in (100, SMALL.rows):
        truth = workload.truth(rows, by_symbol=True)
        for number, near in enumerate(truth):
            own = np.arange(number % SYMBOLS, rows, SYMBOLS)
            scores = workload.vectors[own] @ workload.queries[number]
            wanted = [int(own[at]) for at in np.argsort(-scores) if scores[at] > 0][:K]
            assert [row for row in near if row >= 0] == wanted


def test_a_state_that_is_not_read_back_ends_the_run(workload: Workload, tmp_path: Path) -> None:
    """A read of nothing is quick; its time must not stand in a table."""

    class Empty(Limit):
        def get(self, agent: str) -> None:
            return None

    with pytest.raises(RuntimeError, match="not there"):
        found_by(phases.run, Empty(tmp_path, workload))


def test_losses_leaks_and_absences_are_in_the_tables(workload: Workload, tmp_path: Path) -> None:
    """What is missing says so, a loss and a leak stand out, and charts are SVG that stands alone."""
    ours = found_by(phases.run, Ours(tmp_path / "ours", workload))
    about = {"without": {}, "as_of": {}, "used": "", "acknowledged": "on disk", "versions": {}}
    ours |= {"about": about, "lost_states": 0, "states": 9, "lost_rows": 3, "rows": 7}
    ours |= {"leaks": {"state": "held", "search": "leaks", "outcome": "gone"}}
    plain = found_by(phases.run, Limit(tmp_path / "limit", workload)) | {"about": about}
    missing = {"about": {}, "missing": "no node on PATH"}
    where: dict[str, object] = dict.fromkeys(
        ("cpu", "cores", "memory_gib", "system", "python", "commit", "fdatasync_us"), "x"
    )
    where |= {"date": "2026-01-02T03:04", "versions": {}, "environment": {}}
    found = {"nt-memory": ours, "dict + faiss": plain, "AgentDB": missing}
    text = tables.write(tmp_path / "out", "make bench-peers", where, SMALL, found)
    assert "0 of 9" in text
    assert "**3 of 7**" in text
    assert "**leaks**" in text
    assert "**gone**" in text
    assert "**no node on PATH**" in text
    assert "not here" in text
    written = json.loads((tmp_path / "out" / "2026-01-02-peers.json").read_text())
    assert written["peers"]["AgentDB"]["missing"] == "no node on PATH"
    chart = ET.parse(tmp_path / "out" / "2026-01-02-peers-search.svg")  # noqa: S314 - our own
    assert chart.getroot().tag == "{http://www.w3.org/2000/svg}svg"
    page = (tmp_path / "out" / "2026-01-02-peers.md").read_text()
    assert "(2026-01-02-peers-search.svg)" in page
