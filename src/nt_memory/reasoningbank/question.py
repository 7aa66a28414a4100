"""What `advise` is asked, checked; and names for what it used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nt_memory.errors import InvalidInputError
from nt_memory.namespace import check_agent
from nt_memory.reasoningbank.advice import MemoryRef
from nt_memory.reasoningbank.conformal import DEFAULT_GAIN, DEFAULT_GAMMA
from nt_memory.reasoningbank.trajectory import real, unit_vector
from nt_memory.reasoningbank.wire import split_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from nt_memory.reasoningbank.backing import Backing
    from nt_memory.reasoningbank.definition import Definition
    from nt_memory.reasoningbank.memories import Memories
    from nt_memory.timeline import AsOfLike, Moment

    Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Question:
    """What `advise` was asked, checked."""

    agents: tuple[str, ...]
    query: NDArray[np.float32]
    action_type: str
    definition: Definition | None
    moment: Moment
    level: float
    withhold: float
    coin: str
    baseline: float | None
    k: int | None
    functional: Literal["mean", "median"]
    gamma: float
    gain: float
    is_exact: bool
    uses_patterns: bool = False


def ask(
    backing: Backing,
    memories: Memories,
    agents: str | Sequence[str],
    embedding: ArrayLike,
    *,
    action_type: str | None,
    as_of: AsOfLike | None,
    level: float,
    withhold: float,
    baseline: float | None,
    trajectory: str,
    k: int | None,
    functional: Literal["mean", "median"] | None,
    gamma: float | None,
    gain: float | None,
    exact: bool,
    from_patterns: bool,
) -> Question:
    """Check a question; raises as `ReasoningBank.advise` says."""
    names = (agents,) if isinstance(agents, str) else tuple(agents)
    for name in names:
        check_agent(name)
    if not names:
        raise InvalidInputError("advise needs at least one agent")
    if not 0.0 < level < 1.0:
        raise InvalidInputError(f"level must lie between 0 and 1, not {level!r}")
    if not 0.0 <= withhold < 1.0:
        raise InvalidInputError(f"withhold must be in [0, 1), not {withhold!r}")
    if withhold > 0.0 and not trajectory:
        raise InvalidInputError("withholding needs the trajectory whose coin is thrown")
    if k is not None and k < 1:
        raise InvalidInputError(f"k must be at least 1, not {k!r}")
    query = unit_vector(embedding)
    moment = backing.resolve(as_of)
    kind = choose_type(memories, names) if action_type is None else action_type
    definition = memories.definition(kind, moment)
    if functional is None:
        functional = "median" if definition is None else definition.functional
    return Question(
        names,
        query,
        kind,
        definition,
        moment,
        level,
        withhold,
        trajectory,
        None if baseline is None else real(baseline, "baseline"),
        k,
        functional,
        DEFAULT_GAMMA if gamma is None else gamma,
        DEFAULT_GAIN if gain is None else gain,
        exact,
        from_patterns,
    )


def choose_type(memories: Memories, agents: tuple[str, ...]) -> str:
    """The only action type that these agents know; empty if they know none.

    Raises:
        InvalidInputError: they know several.
    """
    tables = memories.tables
    found = [name for name, table in tables.items() if any(a in table.lanes for a in agents)]
    if len(found) > 1:
        raise InvalidInputError(f"say which action_type: {', '.join(sorted(found))}")
    return found[0] if found else ""


class Rows:
    """Names what vector rows stand for.

    Args:
        memories: The columns.
    """

    def __init__(self, memories: Memories) -> None:
        self._memories = memories

    def resolve(self, partition: Ints, row: Ints) -> list[MemoryRef]:
        """Names of the actions behind rows; rows that are unknown here are left out."""
        refs: list[MemoryRef] = []
        for number, place in zip(partition.tolist(), row.tolist(), strict=True):
            home = self._memories.lane(number)
            if home is None:
                continue
            table, lane = home
            trajectory_id, action = split_key(table.key(int(lane.entry_of_row.array[place])))
            refs.append(MemoryRef(lane.agent, trajectory_id, action))
        return refs
