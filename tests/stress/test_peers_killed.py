"""`make bench-peers` on real processes: what it says of a kill in mid-write is what the disk says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from peers.adapters import LIMIT, OURS
from peers.running import Runner
from peers.workload import Sizes, prepare

if TYPE_CHECKING:
    from typing import Any

pytestmark = pytest.mark.stress
SMALL = Sizes(
    rows=500, dim=32, updates=50, reads=50, observations=2_000, searches=40, episodes=40, messages=50,
    locks=20,
)  # fmt: skip


def run(name: str, tmp_path: Path) -> dict[str, Any]:
    workload = tmp_path / "workload"
    prepare(workload, SMALL)
    return Runner(name, Path(sys.executable), workload, tmp_path / "peer", 60.0).run()


def test_nothing_acknowledged_is_lost_here(tmp_path: Path) -> None:
    """SIGKILL between or in calls: each acknowledged update and situation is found by a new process."""
    found = run(OURS, tmp_path)
    assert "error" not in found, found
    assert found["states"] > 20
    assert found["rows"] > 20
    assert (found["lost_states"], found["lost_rows"]) == (0, 0)
    assert set(found["leaks"].values()) == {"held"}
    assert found["memory"]["pss"] > found["memory"]["uss"] > 10e6
    assert found["disk"] > 0


def test_what_was_only_in_memory_is_counted_as_lost(tmp_path: Path) -> None:
    """The same kill and the same count: a dict and an index lose all that they acknowledged."""
    found = run(LIMIT, tmp_path)
    assert "error" not in found, found
    assert found["states"] > 20
    assert found["lost_states"] == found["states"]
    assert found["lost_rows"] == found["rows"]


def test_a_peer_that_is_not_installed_is_a_row_that_says_so(tmp_path: Path) -> None:
    """Its import fails in this Python, and the run goes on."""
    found = run("mem0", tmp_path)
    assert "langchain" in found["missing"] or "mem0" in found["missing"]
