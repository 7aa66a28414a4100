"""Verdicts over the memories: which forecasts are judged together, and with what error scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nt_memory.reasoningbank.columns import counted
from nt_memory.reasoningbank.definition import Definition, Tolerance
from nt_memory.reasoningbank.error_history import ErrorHistory
from nt_memory.reasoningbank.verdict import (
    Forecasts,
    Judgements,
    Verdict,
    error_scales,
    judge_batch,
    to_verdict,
)
from nt_memory.reasoningbank.wire import split_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from nt_memory.reasoningbank.columns import Lane, Table
    from nt_memory.reasoningbank.memories import Memories, Place
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

    def take(self, chosen: NDArray[np.int64]) -> History:
        """Some of them, judged as they were among all."""
        quantiles = self.forecasts.quantiles
        some = [quantiles[one] for one in chosen.tolist()] if quantiles else ()
        columns = [*(column[chosen] for column in self.forecasts[:-1]), some]
        forecasts = Forecasts(*columns)  # type: ignore[arg-type]
        judged = Judgements(*(column[chosen] for column in self.judged))  # type: ignore[arg-type]
        return self._replace(
            entries=self.entries[chosen],
            known=self.known[chosen],
            forecasts=forecasts,
            judged=judged,
        )

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
) -> History:
    """Judge entries of one lane and definition, each against the errors known before it.

    They must be all of that lane and definition whose outcome counts.
    """
    scale = error_scales(table.entry["predicted"][entries] - actual, known)
    forecasts, judged = _judge(table, definition, entries, actual, scale)
    return History(table, lane, definition, entries, known, forecasts, judged)


def _judge(
    table: Table,
    definition: Definition | None,
    entries: NDArray[np.int64],
    actual: NDArray[np.float64],
    scale: NDArray[np.float64],
) -> tuple[Forecasts, Judgements]:
    claims = table.entry[entries]
    quantiles = (
        [table.quantiles.get(entry) for entry in entries.tolist()] if table.quantiles else ()
    )
    forecasts = Forecasts(
        claims["predicted"],
        actual,
        claims["low"],
        claims["high"],
        claims["level"],
        claims["probability"],
        claims["baseline"],
        scale,
        quantiles,
    )
    loss, tolerance = ("absolute", Tolerance())
    if definition is not None:
        loss, tolerance = definition.loss, definition.tolerance
    return forecasts, judge_batch(forecasts, loss, tolerance)  # type: ignore[arg-type]


class Judge:
    """Judges single actions, each against its agent's errors known before.

    Args:
        memories: The columns.
    """

    def __init__(self, memories: Memories) -> None:
        self._memories = memories
        self._errors: dict[tuple[str, int, int], ErrorHistory] = {}

    def verdicts(
        self, places: Sequence[Place], revisions: Sequence[int], moment: Moment
    ) -> list[Verdict]:
        """Verdicts on some actions as of a moment, in order.

        Args:
            places: Which actions.
            revisions: Which entry recorded each outcome; 0 where none did.
            moment: Which outcomes count.

        Cost: about 60 microseconds, and 10 an action; the present does not depend on how much is
            remembered, another moment costs 20 nanoseconds for each earlier action of the agent.
        """
        found: list[Verdict | None] = [None] * len(places)
        together: dict[tuple[str, int], list[int]] = {}
        for index, (table, entry) in enumerate(places):
            key = (table.action_type, int(table.entry["definition"][entry]))
            together.setdefault(key, []).append(index)
        for (name, definition), indexes in together.items():
            entries = np.array([places[index].entry for index in indexes])
            rows = [revisions[index] for index in indexes]
            judged = self._judge(self._memories.tables[name], definition, entries, rows, moment)
            for index, verdict in zip(indexes, judged, strict=True):
                found[index] = verdict
        return [verdict for verdict in found if verdict is not None]

    def _judge(
        self,
        table: Table,
        revision: int,
        entries: NDArray[np.int64],
        revisions: Sequence[int],
        moment: Moment,
    ) -> list[Verdict]:
        view = table.view(moment)
        known = view.known[entries].tolist()
        lanes = [table.lane_list[number] for number in table.entry["lane"][entries].tolist()]
        scale = np.array(
            [
                self._history(table, lane, revision).before(moment, at)
                for lane, at in zip(lanes, known, strict=True)
            ]
        )
        definition = self._memories.definition_at(table.action_type, revision)
        forecasts, judged = _judge(table, definition, entries, view.value[entries], scale)
        verdicts: list[Verdict] = []
        for index, (entry, lane) in enumerate(zip(entries.tolist(), lanes, strict=True)):
            trajectory_id, action = split_key(table.key(entry))
            verdicts.append(
                to_verdict(
                    definition,
                    judged,
                    forecasts,
                    index,
                    trajectory_id=trajectory_id,
                    action=action,
                    agent=lane.agent,
                    action_type=table.action_type,
                    revision=revisions[index],
                )
            )
        return verdicts

    def _history(self, table: Table, lane: Lane, definition: int) -> ErrorHistory:
        key = (table.action_type, lane.number, definition)
        found = self._errors.get(key)
        if found is None:
            found = self._errors[key] = ErrorHistory(table, lane, definition)
        return found
