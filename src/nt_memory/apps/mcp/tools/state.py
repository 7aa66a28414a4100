"""Tools over keys and values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from mcp_types import ToolAnnotations
from pydantic import Field
from typing_extensions import override

from nt_memory.apps.cli.rendering import to_plain
from nt_memory.apps.mcp.paging import cursor_of, page_of, place_of
from nt_memory.apps.mcp.tool import (
    ADDS,
    READS,
    REMOVES,
    Answer,
    AsOf,
    Cursor,
    Fence,
    RequestId,
    Time,
    Tool,
    Whose,
)

if TYPE_CHECKING:
    from nt_memory.apps.mcp.desk import Turn
    from nt_memory.records import Record

MAX_PAGE = 200

Limit = Annotated[int, Field(ge=1, le=MAX_PAGE, description="Most to return.")]


class Entry(Answer):
    """One version of one key."""

    agent: str
    key: str
    value: Any
    revision: int
    known_at: str
    recorded_at: str
    expires_at: str | None = None
    actor: str = ""
    tags: tuple[str, ...] = ()


def to_entry(record: Record) -> Entry:
    """A record as agents are shown it."""
    return Entry(
        agent=record.agent,
        key=record.key,
        value=to_plain(record.value),
        revision=record.revision,
        known_at=record.known_at.isoformat(),
        recorded_at=record.recorded_at.isoformat(),
        expires_at=None if record.expires_at is None else record.expires_at.isoformat(),
        actor=record.actor,
        tags=record.tags,
    )


class Remembered(Answer):
    """Where a value was written."""

    agent: str
    key: str
    revision: int


class Remember(Tool):
    """Write a value under a key: on disk when this returns, and earlier values stay readable as of
    then. For what holds now (a position, a plan, a limit); for situations that you want to find
    again by likeness use observe."""  # noqa: D205, D209

    called: ClassVar[str] = "remember"
    title: ClassVar[str] = "Remember a value"
    effect: ClassVar[ToolAnnotations] = ADDS
    answers: ClassVar[type[Answer]] = Remembered

    key: Annotated[str, Field(description="Such as position, or orders/2026-11-28/1.")]
    value: Annotated[Any, Field(description="Any JSON value.")]
    agent: Whose = None
    ttl_s: Annotated[float | None, Field(description="Forget it after so many seconds.")] = None
    known_at: Annotated[
        Time | None, Field(description="Since when it counts as known; never in the future.")
    ] = None
    expect: Annotated[
        int | None,
        Field(description="Write only if the key is still at this revision; 0: only if new."),
    ] = None
    fence: Fence = None
    request_id: RequestId = None

    @override
    async def run(self, turn: Turn) -> Remembered:
        agent = turn.whose(self.agent)
        revision = await turn.memory.put(
            agent,
            self.key,
            self.value,
            ttl=self.ttl_s,
            known_at=self.known_at,
            expect=self.expect,
            fence=self.fence,
            request_id=self.request_id,
        )
        return Remembered(agent=agent, key=self.key, revision=revision)


class Recalled(Answer):
    """A key, if there is one."""

    found: bool
    entry: Entry | None = None


class Recall(Tool):
    """Read the value of a key, with the revision and the times that belong to it, now or as of
    any earlier moment."""  # noqa: D205, D209

    called: ClassVar[str] = "recall"
    title: ClassVar[str] = "Recall a value"
    effect: ClassVar[ToolAnnotations] = READS
    answers: ClassVar[type[Answer]] = Recalled

    key: str
    agent: Whose = None
    as_of: AsOf = None

    @override
    async def run(self, turn: Turn) -> Recalled:
        record = await turn.memory.get_record(turn.whose(self.agent), self.key, as_of=self.as_of)
        return Recalled(
            found=record is not None, entry=None if record is None else to_entry(record)
        )


class Entries(Answer):
    """Some keys, or versions of one."""

    entries: list[Entry]
    next_cursor: str | None = None


class ListKeys(Tool):
    """List keys and their values, by key, all as of one moment."""

    called: ClassVar[str] = "list_keys"
    title: ClassVar[str] = "List keys"
    effect: ClassVar[ToolAnnotations] = READS
    answers: ClassVar[type[Answer]] = Entries

    prefix: Annotated[str, Field(description="Only keys that start with it.")] = ""
    agent: Whose = None
    as_of: AsOf = None
    limit: Limit = 50
    cursor: Cursor = None

    @override
    async def run(self, turn: Turn) -> Entries:
        place = place_of(self.cursor, turn.memory.revision, self.as_of)
        records = turn.memory.scan(
            turn.whose(self.agent), self.prefix, after=place.after, as_of=place.as_of(self.as_of)
        )
        entries: list[Entry] = []
        async for record in records:
            if len(entries) == self.limit:
                return Entries(entries=entries, next_cursor=cursor_of(place, entries[-1].key))
            entries.append(to_entry(record))
        return Entries(entries=entries)


class History(Tool):
    """What a key was before: its values, newest first, each with when it was known and who wrote it."""

    called: ClassVar[str] = "history"
    title: ClassVar[str] = "History of a key"
    effect: ClassVar[ToolAnnotations] = READS
    answers: ClassVar[type[Answer]] = Entries

    key: str
    agent: Whose = None
    limit: Limit = 20

    @override
    async def run(self, turn: Turn) -> Entries:
        entries: list[Entry] = []
        async for record in turn.memory.history(turn.whose(self.agent), self.key):
            if len(entries) == self.limit:
                break
            entries.append(to_entry(record))
        return Entries(entries=entries)


class Forgotten(Answer):
    """What was deleted."""

    agent: str
    key: str
    was_there: bool
    revision: int | None = None


class Forget(Tool):
    """Delete a key, or an observation. Questions as of an earlier moment still find it."""

    called: ClassVar[str] = "forget"
    title: ClassVar[str] = "Forget a key"
    effect: ClassVar[ToolAnnotations] = REMOVES
    answers: ClassVar[type[Answer]] = Forgotten

    key: str
    agent: Whose = None
    expect: Annotated[
        int | None, Field(description="Only if the key is still at this revision.")
    ] = None
    fence: Fence = None
    request_id: RequestId = None

    @override
    async def run(self, turn: Turn) -> Forgotten:
        agent = turn.whose(self.agent)
        revision = await turn.memory.delete(
            agent, self.key, expect=self.expect, fence=self.fence, request_id=self.request_id
        )
        return Forgotten(
            agent=agent, key=self.key, was_there=revision is not None, revision=revision
        )


class AgentNames(Answer):
    """Who has stored something."""

    you: str | None
    agents: list[str]
    next_cursor: str | None = None


class ListAgents(Tool):
    """List the agents of the swarm that have stored something, and say which of them you are."""

    called: ClassVar[str] = "list_agents"
    title: ClassVar[str] = "List agents"
    effect: ClassVar[ToolAnnotations] = READS
    answers: ClassVar[type[Answer]] = AgentNames

    limit: Limit = 100
    cursor: Cursor = None

    @override
    async def run(self, turn: Turn) -> AgentNames:
        place = place_of(self.cursor, turn.memory.revision)
        page, following = page_of(await turn.memory.agents(), place, self.limit, str)
        return AgentNames(you=turn.desk.agent or None, agents=page, next_cursor=following)


TOOLS: tuple[type[Tool], ...] = (Remember, Recall, ListKeys, History, Forget, ListAgents)
