"""Memory given back behind searches, however many agents there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nt_memory.tiers.vectors import NEVER, Tuning, VectorFiles, VectorTier
from nt_memory.tiers.vectors.partition import Partition

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

DIM, ROWS, AGENTS = 16, 48, 400
SMALL = Tuning(scan_values=DIM * 100)
COPY = ROWS * DIM * 4  # what a search of an agent keeps, bytes


class Swarm:
    """A tier of agents that nobody has searched yet, and how often they were asked what they hold.

    Attributes:
        columns: Bytes of what is never given back.
        asked: Times that one of them was asked, by searches and what goes on behind them.
    """

    def __init__(self, path: Path, max_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
        files = VectorFiles(path / "rows")
        self.tier = VectorTier(
            files, path / "graphs", max_bytes=max_bytes, is_deterministic=False, tuning=SMALL
        )
        vectors = np.random.default_rng(3).standard_normal((AGENTS, ROWS, DIM))
        vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
        self._vectors = vectors.astype("<f2")
        for agent, rows in enumerate(self._vectors):
            files.write(agent, DIM, 0, rows.tobytes())
            self.tier.append(
                agent,
                DIM,
                from_us=np.ones(ROWS, np.int64),
                until_us=np.full(ROWS, NEVER),
                revision=np.ones(ROWS, np.int64),
            )
        self.columns = self.held()
        self.asked = 0
        held = Partition.held_bytes.fget

        def watched(partition: Partition) -> int:
            self.asked += 1
            return held(partition)

        monkeypatch.setattr(Partition, "held_bytes", property(watched))

    def held(self) -> int:
        """Bytes that all of them hold."""
        return self.tier.stats.bytes

    def search(self, agent: int) -> None:
        """For a row of the agent, which must be found; until nothing is left to do behind it."""
        query = self._vectors[agent, 5:6].astype(np.float32)
        (found,) = self.tier.search([agent], query, 1, time_us=2, revision=2)
        assert found.row.tolist() == [5]
        assert self.tier.wait_indexed(30)


def test_a_first_search_of_each_agent_does_not_count_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What all hold is added up now and then: of a thousand agents that takes longer than a search."""
    swarm = Swarm(tmp_path, 1 << 30, monkeypatch)
    for agent in range(AGENTS):
        swarm.search(agent)
    assert AGENTS <= swarm.asked < 20 * AGENTS
    swarm.tier.close()


def test_what_searches_keep_stays_within_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agents searched in turn, more than fit: no more is held after a search than may be."""
    most = 520 * COPY
    swarm = Swarm(tmp_path, most, monkeypatch)
    room = (most - swarm.columns) // COPY
    assert AGENTS > room > AGENTS // 2
    for agent in [*range(AGENTS), *range(AGENTS)]:
        swarm.search(agent)
        assert swarm.held() <= most
    assert swarm.tier.stats.unloads > AGENTS
    swarm.tier.close()


def test_a_full_memory_is_not_counted_at_every_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some is given back at a time, so that there is room for the next few."""
    swarm = Swarm(tmp_path, 520 * COPY, monkeypatch)
    for agent in range(AGENTS):
        swarm.search(agent)
    swarm.asked = 0
    for agent in range(AGENTS):
        swarm.search(agent)
    assert swarm.asked < 60 * AGENTS
    swarm.tier.close()


def test_what_cannot_be_given_back_is_not_asked_for_at_every_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Columns alone are more than may be held: the copies of searches are dropped, a few at a time."""
    swarm = Swarm(tmp_path, 200 * COPY, monkeypatch)
    assert swarm.columns > 200 * COPY
    for agent in range(AGENTS):
        swarm.search(agent)
    assert swarm.asked < 100 * AGENTS
    assert swarm.held() <= swarm.columns + 20 * COPY
    swarm.tier.close()
