"""Verdicts over the memories: which forecasts are judged together, and with what error scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.reasoningbank.columns import counted
from nt_memory.reasoningbank.definition import Definition, Tolerance
from nt_memory.reasoningbank.verdict import (
    Forecasts,
    Judgements,
    Verdict,
    error_scale,
    error_scales,
    judge_batch,
    to_verdict,
)
from nt_memory.reasoningbank.wire import split_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from nt_memory.reasoningbank.columns import Lane, Table
    from nt_memory.reasoningbank.memories import Memories
    from nt_memory.timeline import Moment


class History(NamedTuple):
    """Judged actions of one agent under one definition, by entry.

    Attributes:
        table: Where they are.
        lane: Whose.
        definition: What judges them; None if the action type was not defined.
        entries: Shape (n,).
        known: When each outcome became known, shape (n,).
        forecasts: What was claimed and what came.
        judged: What came of it.
    """

    table: Table
    lane: Lane
    definition: Definition | None
    entries: NDArray[np.int64]
    known: NDArray[np.int64]
    forecasts: Forecasts
    judged: Judgements

    @property
    def at(self) -> NDArray[np.int64]:
        """When each action was taken, microseconds."""
        return self.table.entry["at"][self.entries]

    @property
    def horizon_days(self) -> int:
        """Over how many days labels overlap."""
        return 1 if self.definition is None else self.definition.horizon_days

    def verdict(self, index: int, revision: int = 0) -> Verdict:
        """One of them as a verdict."""
        trajectory_id, action = split_key(self.table.key(int(self.entries[index])))
        return to_verdict(
            self.definition,
            self.judged,
            self.forecasts,
            index,
            trajectory_id=trajectory_id,
            action=action,
            agent=self.lane.agent,
            action_type=self.table.action_type,
            revision=revision,
        )


def histories(
    memories: Memories, agent: str, moment: Moment, action_type: str | None = None
) -> Iterator[History]:
    """Judged actions of an agent whose outcome counts at a moment, by action type and definition.

    Cost: about a microsecond an action.
    """
    for name in sorted(memories.tables):
        table = memories.tables[name]
        lane = table.lanes.get(agent)
        if lane is None or (action_type is not None and name != action_type):
            continue
        entries, view = counted(table, (lane,), moment)
        definitions = table.entry["definition"][entries]
        for revision in np.unique(definitions):
            chosen = entries[definitions == revision]
            definition = memories.definition_at(name, int(revision))
            yield judge_entries(
                table, lane, definition, chosen, view.value[chosen], view.known[chosen]
            )


def judge_entries(
    table: Table,
    lane: Lane,
    definition: Definition | None,
    entries: NDArray[np.int64],
    actual: NDArray[np.float64],
    known: NDArray[np.int64],
    *,
    scale: NDArray[np.float64] | None = None,
) -> History:
    """Judge entries of one lane and definition, each against the errors known before it.

    Without `scale`, they must be all of that lane and definition whose outcome counts.
    """
    claims = table.entry[entries]
    quantiles = (
        [table.quantiles.get(entry) for entry in entries.tolist()] if table.quantiles else ()
    )
    predicted = claims["predicted"]
    forecasts = Forecasts(
        predicted,
        actual,
        claims["low"],
        claims["high"],
        claims["level"],
        claims["probability"],
        claims["baseline"],
        error_scales(predicted - actual, known) if scale is None else scale,
        quantiles,
    )
    loss, tolerance = ("absolute", Tolerance())
    if definition is not None:
        loss, tolerance = definition.loss, definition.tolerance
    judged = judge_batch(forecasts, loss, tolerance)  # type: ignore[arg-type]
    return History(table, lane, definition, entries, known, forecasts, judged)


def judge_one(
    memories: Memories, agent: str, key: str, moment: Moment, outcome_revision: int
) -> Verdict | None:
    """Verdict on one action as of a moment; None if no such action is known.

    Cost: about 20 nanoseconds for each earlier action of the agent.
    """
    place = memories.find(agent, key, moment)
    if place is None:
        return None
    table, entry = place
    lane = table.lanes[agent]
    view = table.view(moment)
    revision = int(table.entry["definition"][entry])
    # Only what was known strictly before can matter to this verdict's scale.
    earlier = lane.entries.array
    earlier = earlier[earlier < len(view.known)]
    earlier = earlier[view.known[earlier] < view.known[entry]]
    earlier = earlier[table.entry["definition"][earlier] == revision]
    scale = error_scale(table.entry["predicted"][earlier] - view.value[earlier])
    chosen = np.array([entry])
    definition = memories.definition_at(table.action_type, revision)
    one = judge_entries(
        table,
        lane,
        definition,
        chosen,
        view.value[chosen],
        view.known[chosen],
        scale=np.array([scale]),
    )
    return one.verdict(0, outcome_revision)
