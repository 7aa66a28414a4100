"""Where a pattern comes from: whose memories it rests on, and how far those agents can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nt_memory.entries import ACTION
from nt_memory.reasoningbank.columns import SHOWN
from nt_memory.reasoningbank.judging import histories
from nt_memory.reasoningbank.memories import breathe
from nt_memory.reasoningbank.votes import quality_of
from nt_memory.reasoningbank.wire import decode_action, unpack_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from nt_memory.reasoningbank.backing import Backing
    from nt_memory.reasoningbank.columns import Lane, Table
    from nt_memory.reasoningbank.memories import Memories
    from nt_memory.timeline import Moment

    Ints = NDArray[np.int64]

SLICE = 200
"""Receipts read between two looks of the event loop: about two milliseconds."""


class Sources:
    """Finds the agents behind patterns.

    Args:
        backing: The receipts.
        memories: The columns.
    """

    def __init__(self, backing: Backing, memories: Memories) -> None:
        self._backing = backing
        self._memories = memories

    async def of(
        self,
        lane: Lane,
        table: Table,
        entries: Ints,
        cluster: Ints,
        agent: str,
        moment: Moment,
    ) -> dict[int, dict[str, Any]]:
        """Lineage and trust of each cluster; see `Pattern`.

        Args:
            lane: Whose situations.
            table: Where they are.
            entries: Which, shape (n,).
            cluster: In which cluster each is, shape (n,).
            agent: Whose.
            moment: As of when.

        Cost: about 10 microseconds for each action that acted on advice, in slices.
        """
        behind: dict[int, set[str]] = {number: {agent} for number in np.unique(cluster).tolist()}
        advised = np.flatnonzero(table.entry["arm"][entries] == SHOWN)
        for count, place in enumerate(advised.tolist()):
            stored = self._backing.read(ACTION, lane.agent, table.key(int(entries[place])), moment)
            if stored is not None and stored.value is not None:
                receipt = decode_action(stored.value).receipt
                if receipt is not None:
                    behind[int(cluster[place])] |= self._agents(receipt.blocks)
                    if receipt.pattern:
                        behind[int(cluster[place])].add(receipt.pattern.partition("/")[0])
            if count % SLICE == SLICE - 1:
                await breathe()
        every = sorted(set().union(*behind.values()))
        kind = table.action_type
        trust = {one: trust_of(self._memories, one, kind, moment) for one in every}
        return {
            number: {
                "lineage": tuple(sorted(agents)),
                "trust": min(trust[one] for one in agents),
            }
            for number, agents in behind.items()
        }

    def _agents(self, blocks: Iterable[tuple[int, int, bytes]]) -> set[str]:
        partition, _ = unpack_rows(blocks)
        homes = [self._memories.lane(number) for number in np.unique(partition).tolist()]
        return {home[1].agent for home in homes if home is not None}


def trust_of(memories: Memories, agent: str, action_type: str, moment: Moment) -> float:
    """How far an agent's memories of an action type can be trusted, in [0, 1].

    1 for whoever forecasts at least as well as its baselines, or of whom too little is known; less by
    as much as its losses, shrunk by how little is known, exceed them. What it does elsewhere can lower
    that and never raise it: else a source that is wrong where it matters would buy itself trust by
    forecasting what is easy, or what it makes up, under another name.
    """
    here = histories(memories, agent, moment, action_type)
    everywhere = histories(memories, agent, moment)
    return min(1.0, quality_of(list(here)), quality_of(list(everywhere)))
