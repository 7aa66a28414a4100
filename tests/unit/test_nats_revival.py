"""When servers that have given up are started anew."""

from __future__ import annotations

import itertools
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from nt_memory.clock import ManualClock
from nt_memory.transport.nats.servers import revival
from nt_memory.transport.nats.servers.revival import (
    ENOUGH_BYTES,
    FIRST_WAIT_S,
    MAX_WAIT_S,
    Revival,
)
from nt_memory.transport.nats.servers.statements import are_ready

if TYPE_CHECKING:
    from pathlib import Path

OUT, WELL = {"disabled": True}, {"config": {}}


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """How much is free, to be changed."""
    disk = SimpleNamespace(bytes=0, error=None)

    def look(_: object) -> SimpleNamespace:
        if disk.error is not None:
            raise disk.error
        return SimpleNamespace(f_bavail=disk.bytes // 4096, f_frsize=4096)

    monkeypatch.setattr(revival.os, "statvfs", look)
    return disk


class Case:
    """A revival, and what it said."""

    def __init__(self, place: Path) -> None:
        self.clock = ManualClock()
        self.told: list[str] = []
        self._place = place
        self._revival = Revival(self.clock, self.told.append)

    def due(self, **answers: dict[str, object]) -> list[str]:
        return list(self._revival.due(answers, lambda _: self._place))


def test_it_waits_for_space_and_says_so_once(free: SimpleNamespace, tmp_path: Path) -> None:
    case = Case(tmp_path)
    assert case.due(a=WELL, b=WELL) == []
    for _ in range(3):
        assert case.due(a=OUT, b=WELL) == []
    (line,) = case.told
    assert line.startswith("server a keeps nothing any more: 0 MiB are free")
    free.bytes = ENOUGH_BYTES - 4096
    assert case.due(a=OUT) == []
    free.bytes = ENOUGH_BYTES
    assert case.due(a=OUT, b=WELL) == ["a"]
    assert case.told[1:] == ["server a is started anew"]
    # Full again after it had gone on: that is news.
    assert case.due(a=WELL) == []
    free.bytes = 5 << 20
    assert case.due(a=OUT) == []
    assert "5 MiB are free" in case.told[-1]


def test_a_broken_disk_is_tried_ever_more_rarely(free: SimpleNamespace, tmp_path: Path) -> None:
    """Each start is followed by a pause twice as long, up to a limit; a time without trouble forgets that."""
    free.bytes = 1 << 40
    case, starts, now_s = Case(tmp_path), list[float](), 0.0
    while now_s < 4 * MAX_WAIT_S:
        starts += [now_s] * len(case.due(a=OUT))
        case.due(a=WELL)
        case.clock.advance(5.0)
        now_s += 5.0
    pauses = [later - sooner for sooner, later in itertools.pairwise(starts)]
    assert pauses[:3] == [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S]
    assert max(pauses) == MAX_WAIT_S
    case.clock.advance(2 * MAX_WAIT_S)
    assert case.due(a=OUT) == ["a"]
    case.clock.advance(FIRST_WAIT_S)
    assert case.due(a=OUT) == ["a"]


def test_servers_do_not_wait_for_each_other(free: SimpleNamespace, tmp_path: Path) -> None:
    free.bytes = 1 << 40
    case = Case(tmp_path)
    assert case.due(a=OUT, b=OUT) == ["a", "b"]
    assert case.due(a=OUT, b=OUT, c=OUT) == ["c"]


def test_a_disk_that_cannot_be_looked_at(free: SimpleNamespace, tmp_path: Path) -> None:
    free.error = OSError(5, os.strerror(5))
    case = Case(tmp_path)
    assert case.due(a=OUT) == case.due(a=OUT) == []
    assert len(case.told) == 1
    assert f"cannot be looked at ({os.strerror(5)})" in case.told[0]


def test_streams_cannot_be_made_where_a_server_has_given_up() -> None:
    heard, unheard = {"current": True}, {"current": False}
    leader = {"config": {}, "meta_cluster": {"leader": "a", "replicas": [heard, heard]}}
    follower = {"config": {}, "meta_cluster": {"leader": "a", "replicas": [heard, unheard]}}
    assert are_ready({"a": leader, "b": follower, "c": follower}, 3)
    assert not are_ready({"a": leader, "b": follower, "c": follower | OUT}, 3)
    assert not are_ready({"a": leader, "b": follower}, 3)
    # What followers know of the leader says nothing of whom the leader knows.
    deaf = {"config": {}, "meta_cluster": {"leader": "a", "replicas": [heard, unheard]}}
    assert not are_ready({"a": deaf, "b": follower, "c": follower}, 3)
    away = {
        "config": {},
        "meta_cluster": {"leader": "a", "replicas": [heard, heard | {"offline": True}]},
    }
    assert not are_ready({"a": away, "b": follower, "c": follower}, 3)
    lost = {"config": {}, "meta_cluster": {"leader": "d"}}
    assert not are_ready(dict.fromkeys("abc", lost), 3)
    assert not are_ready({"a": leader, "b": follower, "c": lost}, 3)
    assert are_ready({"a": WELL}, 1)
    assert not are_ready({"a": OUT | WELL}, 1)
