"""Regimes: which pattern a situation is nearest to, and who forecasts well in situations like one."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.errors import DimensionError
from nt_memory.reasoningbank.backing import NEVER
from nt_memory.reasoningbank.calibration import UNKNOWN
from nt_memory.reasoningbank.dependence import daily_mean
from nt_memory.reasoningbank.judging import judge_entries
from nt_memory.reasoningbank.memories import breathe
from nt_memory.reasoningbank.recall import distances
from nt_memory.reasoningbank.votes import SHRINK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from nt_memory.reasoningbank.backing import Backing
    from nt_memory.reasoningbank.columns import Lane, Table
    from nt_memory.reasoningbank.dependence import Mean
    from nt_memory.reasoningbank.judging import History
    from nt_memory.reasoningbank.memories import Memories
    from nt_memory.reasoningbank.pattern import Pattern
    from nt_memory.timeline import Moment

MIN_SIMILAR = 50
MAX_SIMILAR = 500
_SLICE = 8192  # situations read at once: all of an agent's may be more than fit


class Ranked(NamedTuple):
    """How good an agent's forecasts were in situations like one.

    Attributes:
        agent: Whose.
        skill: Mean of baseline loss minus loss there.
        score: The skill as a share of the baseline's mean loss, shrunk towards 0 by how few independent
            forecasts speak: what the ranking goes by.
        n: Forecasts.
        distance: Chord distance of the farthest of those situations.
    """

    agent: str
    skill: Mean
    score: float
    n: int
    distance: float


async def name_regimes(
    backing: Backing, history: History, patterns: Sequence[Pattern]
) -> NDArray[np.str_]:
    """Id of the pattern that each action's situation is nearest to; empty: it has none.

    Cost: a product of the situations with the patterns' centroids, off the event loop: 50 ms for 50,000
        situations of 14 values and 64 patterns.
    """
    row = history.table.entry["row"][history.entries]
    names = np.array([one.id for one in patterns] + [""])
    place = np.full(len(row), len(patterns))
    has_row = np.flatnonzero(row >= 0)
    if len(patterns) and len(has_row):
        read = backing.reader(history.lane.partition)
        centroids = np.stack([one.centroid for one in patterns])
        nearest = await asyncio.to_thread(_nearest, read, row[has_row], centroids)
        if nearest is not None:
            place[has_row] = nearest
    found: NDArray[np.str_] = names[place]
    return found


def _nearest(
    read: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    rows: NDArray[np.int64],
    centroids: NDArray[np.float32],
) -> NDArray[np.int64] | None:
    """Number of the centroid that each row is nearest to; None if they are of another dimension."""
    nearest = np.empty(len(rows), np.int64)
    for first in range(0, len(rows), _SLICE):
        part = slice(first, first + _SLICE)
        vectors = read(rows[part])
        if centroids.shape[1] != vectors.shape[1]:
            return None
        # No BLAS: which pattern is nearest must not depend on how many are asked about.
        nearest[part] = np.argmax(np.einsum("nd,kd->nk", vectors, centroids), axis=1)
    return nearest


async def rank(
    backing: Backing,
    memories: Memories,
    agents: Sequence[str],
    query: NDArray[np.float32],
    action_type: str,
    moment: Moment,
) -> list[Ranked]:
    """Agents by the skill of their forecasts in situations like one, best first; ties by name.

    Each is judged on its nearest situations: a twentieth of them, at least 50 and at most 500. Who has
    fewer is judged on what there is, and shrunk the more.

    Cost: one exact search an agent, off the event loop where it is long, and about 0.3 ms; no graph is
        searched, because what is wanted of each agent is only what was judged.
    """
    found: list[Ranked] = []
    for agent in agents:
        table = memories.tables.get(action_type)
        lane = None if table is None else table.lanes.get(agent)
        if table is None or lane is None or lane.partition < 0:
            found.append(_unranked(agent))
        else:
            found.append(await _rank_one(backing, memories, table, lane, query, moment))
            await breathe()  # a search that is quick does not leave the loop
    return sorted(found, key=lambda one: (-one.score, one.agent))


def _unranked(agent: str) -> Ranked:
    return Ranked(agent, UNKNOWN, 0.0, 0, math.nan)


async def _rank_one(
    backing: Backing,
    memories: Memories,
    table: Table,
    lane: Lane,
    query: NDArray[np.float32],
    moment: Moment,
) -> Ranked:
    definition = memories.definition(table.action_type, moment)
    view, epoch = table.view(moment), table.epoch
    mask = view.mask(lane, memories.family(definition))
    if not mask.count:
        return _unranked(lane.agent)
    size = min(mask.count, max(MIN_SIMILAR, min(MAX_SIMILAR, mask.count // 20)))
    allow = {lane.partition: mask.lend()}
    try:
        near = await backing.search_rows(
            [lane.partition], query[None, :], size, moment, allow, exact=True
        )
    except DimensionError:
        return _unranked(lane.agent)  # its situations are not comparable with this one
    if table.epoch != epoch:
        # An outcome was revised while the search ran: look the moment up again.
        view = table.view(moment)
    chosen = np.sort(lane.entry_of_row.array[near[0].row[:size]])
    chosen = chosen[view.known[chosen] != NEVER]
    if not len(chosen):
        return _unranked(lane.agent)
    history = judge_entries(table, lane, definition, chosen, view.value[chosen], view.known[chosen])
    skill = history.judged.skill
    is_there = np.isfinite(skill)
    if not is_there.any():
        return _unranked(lane.agent)
    mean = daily_mean(skill[is_there], history.at[is_there], history.horizon_days)
    naive = float(np.mean(history.judged.baseline_loss[is_there]))
    share = mean.value / naive if naive > 0.0 else 0.0
    shrunk = share * mean.n_effective / (mean.n_effective + SHRINK)
    farthest = float(distances(near[0].score[:size][-1:])[0])
    return Ranked(lane.agent, mean, shrunk, int(np.count_nonzero(is_there)), farthest)
