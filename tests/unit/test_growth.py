"""The simulation of a stream: its walls are where arithmetic puts them."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

GROWTH: dict[str, Any] = {}


@pytest.fixture(autouse=True, scope="module")
def _loaded() -> None:
    """The script, as a module would be."""
    GROWTH.update(runpy.run_path(str(Path(__file__).parents[2] / "bench" / "growth.py")))


def costs(**other: float) -> Any:
    """A message a millisecond, two on the way, 50 us an entry."""
    given = {
        "store_s": 1e-3,
        "way_s": 2e-3,
        "apply_s": 50e-6,
        "servers_s": 30e-6,
        "entry_bytes": 200.0,
    }
    return GROWTH["Costs"](**{**given, **other})


def test_a_put_alone_takes_its_way_its_store_and_its_apply() -> None:
    """With nobody else about, half of all puts take exactly the sum of their parts."""
    found = GROWTH["simulate"](costs(), 1, 10.0, 20.0, 1)
    assert found.p50_s == pytest.approx(2e-3 + 1e-3 + 50e-6)
    assert found.packed < 1.1


def test_many_writers_wait_for_each_other_and_pack() -> None:
    """A thousand nodes have one message each under way: a put waits for about a turn of all of them."""
    found = GROWTH["simulate"](costs(), 1_000, 5_000.0, 10.0, 1)
    assert found.keeps_up
    assert found.store_busy > 0.95
    assert 0.5 < found.p50_s < 2.5
    few = GROWTH["simulate"](costs(), 10, 5_000.0, 3.0, 1)
    assert few.p99_s < found.p50_s / 10


def test_no_stream_carries_more_than_a_node_applies() -> None:
    """At 50 us an entry the wall is 20,000 entries a second, whoever writes; beyond it nothing keeps up."""
    found = GROWTH["limit"](costs(), 10, 1.0, 1)
    assert 17_000 < found < 21_000
    assert not GROWTH["simulate"](costs(), 10, 24_000.0, 1.0, 1).keeps_up


def test_a_split_gives_every_node_what_it_can_apply() -> None:
    """A hundred thousand entries a second, 60 % of 20,000 each: nine streams, and room in each."""
    found = GROWTH["split"](costs(), 90, 100_000.0, 0.5, 1)
    assert 8 <= found.streams <= 10
    assert found.nodes_a_stream == -(-90 // found.streams)
    assert found.control == pytest.approx(100.0)
    assert found.disk_bytes == pytest.approx(3 * 100_000 * 200)
