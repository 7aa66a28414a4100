"""An agent's newest actions, found in the columns: no trajectory is read for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.clock import to_datetime
from nt_memory.reasoningbank.advice import MemoryRef
from nt_memory.reasoningbank.wire import split_key

if TYPE_CHECKING:
    from datetime import datetime

    from nt_memory.reasoningbank.memories import Memories
    from nt_memory.timeline import Moment


class RecentAction(NamedTuple):
    """An action, and when it was taken.

    Attributes:
        ref: Which.
        action_type: What kind.
        at: When it was taken; if the agent did not say, since when it is known.
    """

    ref: MemoryRef
    action_type: str
    at: datetime


def find_recent(
    memories: Memories,
    agent: str,
    moment: Moment,
    *,
    action_type: str | None,
    limit: int,
    skip: int,
) -> list[RecentAction]:
    """Actions of an agent that a moment shows, newest first by when they were taken.

    Args:
        memories: The columns.
        agent: Whose.
        moment: As of when.
        action_type: Only these; None: of every type.
        limit: How many.
        skip: How many of the newest to leave out.

    Cost: some 20 ns an action of the agent, and 2 us a result.
    """
    names = sorted(memories.tables) if action_type is None else [action_type]
    tables = [memories.tables[name] for name in names if name in memories.tables]
    at, owner, place = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for number, table in enumerate(tables):
        lane = table.lanes.get(agent)
        if lane is None:
            continue
        entries = lane.entries.array
        rows = table.entry[entries]
        is_shown = (rows["known"] <= moment.time_us) & (rows["revision"] <= moment.revision)
        is_shown &= (rows["until"] > moment.time_us) | (rows["until_revision"] > moment.revision)
        at.append(rows["at"][is_shown])
        place.append(entries[is_shown])
        owner.append(np.full(int(is_shown.sum()), number, np.int64))
    times, owners, places = np.concatenate(at), np.concatenate(owner), np.concatenate(place)
    # Of actions taken at one time the one that was recorded later comes first.
    order = np.lexsort((places, owners, times))[::-1][skip : skip + limit]
    return [
        RecentAction(
            MemoryRef(agent, *split_key(tables[int(owners[one])].key(int(places[one])))),
            tables[int(owners[one])].action_type,
            to_datetime(int(times[one])),
        )
        for one in order
    ]
