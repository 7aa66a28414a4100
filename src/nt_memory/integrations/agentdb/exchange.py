"""From an AgentDB file into a memory, and from a memory into an AgentDB file.

Each row of the file is a key of one agent, `agentdb/episodes/7`, whose value has the row's columns by name;
rows that have an embedding are observations, found by likeness. Known since the row's own time. So what
came from a file goes back into one as the same rows. What agents of a memory saw and decided becomes
episodes, which is what AgentDB searches.
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from nt_memory.clock import turn
from nt_memory.frozen import thaw
from nt_memory.integrations.agentdb.rows import (
    PREFIX,
    Row,
    Writer,
    count_rows,
    parse_key,
    reading,
    rows_of,
)
from nt_memory.integrations.agentdb.tables import BY_NAME
from nt_memory.namespace import check_agent

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from nt_memory import MemorySystem, Trajectory, Verdict
    from nt_memory.records import Record

    Progress = Callable[[int, int], None]

BATCH = 500
_PAGE = 100  # trajectories: reading them keeps the loop from coming round for some 3 ms
_EPISODES = BY_NAME["episodes"]
_PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did.

    Attributes:
        rows: Rows of the file.
        written: How many of them were new or had changed.
        without_vector: How many of those have an embedding of another length than the agent's
            observations: they were kept as plain values.
    """

    rows: int
    written: int
    without_vector: int


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote.

    Attributes:
        rows: Rows that had come from an AgentDB file, with those made of the others.
        episodes: How many of them were made of observations and decisions.
    """

    rows: int
    episodes: int


async def import_agentdb(
    memory: MemorySystem,
    path: str | os.PathLike[str],
    *,
    agent: str = "agentdb",
    progress: Progress | None = None,
) -> Imported:
    """Take over an AgentDB file. Repeated, it writes only what has changed.

    Args:
        memory: Where it goes.
        path: The file; read as of one moment.
        agent: Under whose name.
        progress: Told rows done, and rows in all.

    Raises:
        InvalidInputError: it is no AgentDB file.
        CorruptionError: it is damaged.
        And as `MemorySystem.observe_many`.

    Cost: some 30 us a row, and its index.
    """
    check_agent(agent)
    done = written = without_vector = 0
    with reading(path) as db:
        total = count_rows(db)
        dim = await _dimension(memory, agent)
        for batch in _batches(rows_of(db)):
            news: list[Row] = []
            for row in batch:
                known = await memory.get_record(agent, row.key)
                if known is None or known.value != row.values:
                    news.append(row)
            dim = dim or next((len(one.embedding) for one in news if one.embedding is not None), 0)
            fitting = [_fitted(row, dim) for row in news]
            without_vector += sum(map(_has_vector, news)) - sum(map(_has_vector, fitting))
            await _take(memory, agent, fitting)
            done, written = done + len(batch), written + len(news)
            if progress is not None:
                progress(done, total)
    return Imported(done, written, without_vector)


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while batch := list(itertools.islice(rows, BATCH)):
        yield batch


async def _dimension(memory: MemorySystem, agent: str) -> int:
    """Length of the vectors of an agent's observations; 0: it has none."""
    async for record in memory.scan(agent):
        found = await memory.get_embedding(agent, record.key)
        if found is not None:
            return len(found)
    return 0


def _has_vector(row: Row) -> bool:
    return row.embedding is not None


def _fitted(row: Row, dim: int) -> Row:
    """A row without its embedding, if that has another length."""
    if row.embedding is None or len(row.embedding) == dim:
        return row
    return row._replace(embedding=None)


async def _take(memory: MemorySystem, agent: str, batch: list[Row]) -> None:
    now = memory.timeline.now
    seen = [row for row in batch if row.embedding is not None]
    if seen:
        await memory.observe_many(
            agent,
            np.stack([row.embedding for row in seen if row.embedding is not None]),
            [row.values for row in seen],
            keys=[row.key for row in seen],
            tags=[_tags(row) for row in seen],
            known_at=[_known_at(row, now) for row in seen],
        )
    async with memory.transaction() as tx:
        for row in batch:
            if row.embedding is None:
                tx.put(agent, row.key, row.values, known_at=_known_at(row, now))


def _known_at(row: Row, now: datetime) -> datetime:
    """When a row became known; never in the future."""
    seconds = row.known_at_s
    if seconds is None or not math.isfinite(seconds):
        return now
    try:
        return min(datetime.fromtimestamp(seconds, UTC), now)
    except (OverflowError, ValueError, OSError):
        return now


def _tags(row: Row) -> list[str]:
    """What a search can be restricted to: the table, and how an episode ended."""
    if row.table is not _EPISODES:
        return [row.table.name]
    return [row.table.name, "success" if row.values.get("success") else "failure"]


async def export_agentdb(
    memory: MemorySystem,
    path: str | os.PathLike[str],
    *,
    agents: Iterable[str] | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write an AgentDB file: rows that came from one, and episodes made of the rest.

    Observations and decisions with a situation become episodes with their embedding; plain keys that
    came from no file are left out.

    Args:
        memory: Whose; as of the call's revision.
        path: A file that does not exist yet.
        agents: Only theirs; None: all agents'.
        progress: Told agents done, and agents in all.

    Raises:
        InvalidInputError: the file exists; or two agents have rows of the same id from two files:
            export them into a file each.
        StorageError: it cannot be written.
    """
    names = list(await memory.agents() if agents is None else map(check_agent, agents))
    writer = Writer(path)
    try:
        kept, made = await _export(memory, writer, names, progress)
    except BaseException:
        writer.discard()
        raise
    writer.finish()
    return Exported(kept + made, made)


async def _export(
    memory: MemorySystem, writer: Writer, names: list[str], progress: Progress | None
) -> tuple[int, int]:
    revision = memory.revision
    kept = made = 0
    # Rows with ids of their own come first, so that those that are made find what is left.
    for agent in names:
        kept += await _give_back(memory, writer, agent, revision)
    for done, agent in enumerate(names, 1):
        made += await _add_observations(memory, writer, agent, revision)
        async for trajectory in _trajectories(memory, agent, revision):
            verdicts = await memory.bank.judge(trajectory.id)
            made += _decided(writer, trajectory, verdicts)
            await turn()
        if progress is not None:
            progress(done, len(names))
    return kept, made


async def _trajectories(
    memory: MemorySystem, agent: str, revision: int
) -> AsyncIterator[Trajectory]:
    """An agent's trajectories, some at a time, since there may be a million."""
    after = ""
    while page := await memory.bank.trajectories(agent, after=after, limit=_PAGE, as_of=revision):
        for trajectory in page:
            yield trajectory
        after = page[-1].id


async def _give_back(memory: MemorySystem, writer: Writer, agent: str, revision: int) -> int:
    """The rows that an agent has from a file; how many."""
    count = 0
    async for record in memory.scan(agent, PREFIX, as_of=revision):
        parsed = parse_key(record.key)
        if parsed is not None and isinstance(record.value, dict):
            table, number = parsed
            vector = await memory.get_embedding(agent, record.key, as_of=revision)
            writer.add(table, record.value, vector, number=number)
            count += 1
    return count


async def _add_observations(memory: MemorySystem, writer: Writer, agent: str, revision: int) -> int:
    """An agent's own observations as episodes; how many."""
    count = 0
    async for record in memory.scan(agent, as_of=revision):
        if parse_key(record.key) is not None:
            continue
        vector = await memory.get_embedding(agent, record.key, as_of=revision)
        if vector is not None:
            writer.add(_EPISODES, _observed(record), vector)
            count += 1
    return count


def _observed(record: Record) -> dict[str, Any]:
    """An observation as an episode."""
    data = thaw(record.value)
    fields: dict[str, Any] = data if isinstance(data, dict) else {}
    said = next(
        (fields[n] for n in ("task", "text", "said") if isinstance(fields.get(n), str)), None
    )
    reward = fields.get("reward")
    return {
        "ts": int(record.known_at.timestamp()),
        "created_at": int(record.recorded_at.timestamp()),
        "session_id": record.agent,
        "task": said or (data if isinstance(data, str) else _json(data)),
        "output": None if isinstance(data, str) else _json(data),
        "reward": float(reward) if isinstance(reward, int | float) else 0.0,
        "success": bool(fields.get("success")),
        "tags": list(record.tags),
        "metadata": {"nt_memory": {"key": record.key, "revision": record.revision}},
    }


def _decided(writer: Writer, trajectory: Trajectory, verdicts: list[Verdict]) -> int:
    """Each decision with a situation as an episode; how many there are."""
    situations = [one.embedding for one in trajectory.observations if one.embedding is not None]
    if not situations:
        return 0
    vector: NDArray[np.float32] = np.asarray(situations[-1], dtype=np.float32)
    seen = [thaw(one.data) for one in trajectory.observations]
    for number, (action, verdict) in enumerate(zip(trajectory.actions, verdicts, strict=False)):
        is_good = verdict.kind == "correct"
        values: dict[str, Any] = {
            "session_id": trajectory.agent_id,
            "task": f"{action.doc.action_type}: {_said(seen)}",
            "input": _json(seen),
            "output": _json(thaw(action.parameters)),
            "critique": verdict.feedback or None,
            "reward": 1.0 if is_good else 0.0,
            "success": is_good,
            "tags": ["decision", verdict.kind],
            "metadata": {
                "nt_memory": {
                    "trajectory_id": trajectory.id,
                    "action": number,
                    "predicted": verdict.predicted,
                    "actual": verdict.actual,
                    "skill": verdict.skill,
                }
            },
        }
        at_us = action.doc.at
        if at_us is not None:
            values["ts"] = at_us // 1_000_000
        writer.add(_EPISODES, values, vector)
    return len(verdicts)


def _said(seen: list[Any]) -> str:
    return seen[0] if len(seen) == 1 and isinstance(seen[0], str) else _json(seen)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_spell)


def _spell(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
