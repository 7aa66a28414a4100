"""The tables `ReasoningBank.frame` hands out."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from nt_memory import codec
from nt_memory.entries import TRAJECTORY
from nt_memory.errors import InvalidInputError
from nt_memory.reasoningbank.backing import SWARM
from nt_memory.reasoningbank.frame import Frame
from nt_memory.reasoningbank.judging import histories

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nt_memory.reasoningbank.backing import Backing
    from nt_memory.reasoningbank.distillation import PatternBook
    from nt_memory.reasoningbank.memories import Memories
    from nt_memory.timeline import Moment

TRAJECTORIES = {
    "agent": "text",
    "trajectory_id": "text",
    "observations": "int",
    "actions": "int",
    "is_complete": "bool",
    "known_at": "time",
    "revision": "int",
}
VERDICTS = {
    "agent": "text",
    "action_type": "text",
    "trajectory_id": "text",
    "action": "int",
    "at": "time",
    "known_at": "time",
    "kind": "text",
    "predicted": "float",
    "actual": "float",
    "error": "float",
    "scale": "float",
    "loss": "float",
    "baseline_loss": "float",
    "skill": "float",
    "interval_score": "float",
    "is_covered": "float",
    "crps": "float",
    "brier": "float",
}
PATTERNS = {
    "agent": "text",
    "action_type": "text",
    "id": "text",
    "n": "int",
    "n_effective": "float",
    "radius": "float",
    "outcome_mean": "float",
    "outcome_error": "float",
    "success_rate": "float",
    "success_low": "float",
    "success_high": "float",
    "failures": "int",
    "failure_error": "float",
    "as_of_us": "time",
    "p_value": "float",
    "is_promoted": "bool",
    "effect": "float",
    "effect_error": "float",
    "stretches": "int",
    "against": "float",
    "trust": "float",
    "summary": "text",
    "contrast": "text",
}


def report(
    kind: str, backing: Backing, memories: Memories, patterns: PatternBook, moment: Moment
) -> Frame:
    """One of the tables as of a moment; raises as `ReasoningBank.frame` says."""
    if kind == "trajectories":
        return _frame(TRAJECTORIES, _trajectories(backing, moment))
    if kind == "verdicts":
        return _frame(VERDICTS, _verdicts(memories, moment))
    if kind == "patterns":
        agents = sorted({agent for agent, _ in memories.patterns if agent != SWARM})
        found = [pattern for agent in agents for pattern in patterns.at(agent, moment)]
        return _frame(PATTERNS, ({name: getattr(one, name) for name in PATTERNS} for one in found))
    raise InvalidInputError(f'frame has "trajectories", "verdicts" and "patterns", not {kind!r}')


def _frame(types: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> Frame:
    columns: dict[str, list[Any]] = {name: [] for name in types}
    for row in rows:
        for name, column in columns.items():
            column.append(row[name])
    return Frame(types, columns)


def _trajectories(backing: Backing, moment: Moment) -> Iterable[dict[str, Any]]:
    for stored in backing.scan(TRAJECTORY, None, moment):
        if stored.agent == SWARM:
            continue
        document = codec.decode(stored.value or b"")
        yield {
            "agent": stored.agent,
            "trajectory_id": stored.key,
            "observations": len(document["observations"]),
            "actions": len(document["actions"]),
            "is_complete": document["is_complete"],
            "known_at": stored.known_at,
            "revision": stored.revision,
        }


def _verdicts(memories: Memories, moment: Moment) -> Iterable[dict[str, Any]]:
    agents = sorted({agent for table in memories.tables.values() for agent in table.lanes})
    for agent in agents:
        for history in histories(memories, agent, moment):
            at = history.at
            for index in range(len(history.entries)):
                verdict = history.verdict(index)
                row = {field.name: getattr(verdict, field.name) for field in fields(verdict)}
                yield row | {"at": int(at[index]), "known_at": int(history.known[index])}
