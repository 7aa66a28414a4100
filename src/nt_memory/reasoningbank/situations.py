"""An agent's remembered situations of one action type, as of a moment: what a map is drawn from."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nt_memory.errors import InvalidInputError
from nt_memory.reasoningbank.judging import judge_entries
from nt_memory.reasoningbank.tracking import SITUATION
from nt_memory.reasoningbank.wire import split_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nt_memory.reasoningbank.columns import Lane, Table
    from nt_memory.reasoningbank.distillation import PatternBook
    from nt_memory.reasoningbank.memories import Memories
    from nt_memory.reasoningbank.pattern import Pattern
    from nt_memory.timeline import Moment

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]


class Described(NamedTuple):
    """Some situations, one an action. All of length n.

    Attributes:
        keys: Trajectory ids.
        known_at_us: Since when each action is known.
        outcomes: What came; NaN where no outcome counts.
        scores: Loss of the baseline minus loss of the forecast; NaN where that is not known.
    """

    keys: tuple[str, ...]
    known_at_us: Ints
    outcomes: Floats
    scores: Floats


class Situations:
    """The situations of one agent and action type that a moment shows.

    Attributes:
        action_type: Of which actions.
        partition: Name of the vector partition they lie in.
        rows: Their vector rows, ascending.
        patterns: What was distilled from them by then.
    """

    def __init__(
        self,
        memories: Memories,
        home: tuple[Table, Lane],
        entries: Ints,
        moment: Moment,
        patterns: tuple[Pattern, ...],
    ) -> None:
        self._memories = memories
        self._table, self._lane = home
        self._moment = moment
        rows = self._table.entry["row"][entries]
        order = np.argsort(rows, kind="stable")
        self._entries = entries[order]
        self.rows: Ints = rows[order]
        self.action_type: str = self._table.action_type
        self.partition: str = SITUATION + self.action_type
        self.patterns = patterns

    async def describe(self, places: Ints) -> Described:
        """Those at some places of `rows`. Cost: a microsecond each, off the loop."""
        # Asked for here, on the loop, and not before: outcomes that were recorded since the moment
        # change the view of the present, which this moment then has no part in any more.
        view = self._table.view(self._moment)
        entries = self._entries[places]
        outcomes, known = view.value[entries], view.known[entries]
        return await asyncio.to_thread(self._describe, entries, outcomes, known)

    def _describe(self, entries: Ints, outcomes: Floats, known: Ints) -> Described:
        table = self._table
        scores = np.full(len(entries), np.nan)
        definitions = table.entry["definition"][entries]
        for revision in np.unique(definitions).tolist():
            at = np.flatnonzero((definitions == revision) & np.isfinite(outcomes))
            definition = self._memories.definition_at(table.action_type, revision)
            # Kinds of verdicts depend on all entries of the definition; losses only on their own.
            found = judge_entries(
                table, self._lane, definition, entries[at], outcomes[at], known[at]
            )
            scores[at] = found.judged.skill
        keys = tuple(split_key(table.key(entry))[0] for entry in entries.tolist())
        return Described(keys, table.entry["known"][entries], outcomes, scores)


async def find_situations(
    memories: Memories, book: PatternBook, agent: str, action_type: str | None, moment: Moment
) -> Situations | None:
    """The situations of an agent's action type; None if it has none by then.

    Args:
        memories: The columns, loaded.
        book: The patterns.
        agent: Whose.
        action_type: Which; None for the only one of which a moment shows situations.
        moment: As of when.

    Raises:
        InvalidInputError: no type was named and there are several.

    Cost: about 20 nanoseconds an action of the agent, off the loop.
    """
    found: list[tuple[Table, Lane, Ints]] = []
    for name in sorted(memories.tables) if action_type is None else [action_type]:
        table = memories.tables.get(name)
        lane = None if table is None else table.lanes.get(agent)
        if table is None or lane is None or lane.partition < 0:
            continue
        entries = await asyncio.to_thread(_in_force, table.entry, lane.entries.array, moment)
        if len(entries):
            found.append((table, lane, entries))
    if len(found) > 1:
        names = ", ".join(table.action_type for table, _, _ in found)
        raise InvalidInputError(f"say which action_type: {names}; or '' for observations")
    if not found:
        return None
    table, lane, entries = found[0]
    patterns = [one for one in book.at(agent, moment) if one.action_type == table.action_type]
    return Situations(memories, (table, lane), entries, moment, tuple(patterns))


def _in_force(entry: NDArray[Any], entries: Ints, moment: Moment) -> Ints:
    """Which entries have a situation, and are known and not forgotten, at a moment.

    Entries that end meanwhile end by a later entry of the journal, and count as not ended here.
    """
    # Revisions never decrease along a table, so what is recorded by a moment is a prefix.
    recorded = np.searchsorted(entry["revision"], moment.revision, side="right")
    entries = entries[: np.searchsorted(entries, recorded)]
    chosen = entry[entries]
    is_ended = (chosen["until"] <= moment.time_us) & (chosen["until_revision"] <= moment.revision)
    is_there = (chosen["row"] >= 0) & (chosen["known"] <= moment.time_us) & ~is_ended
    found: Ints = entries[is_there]
    return found
