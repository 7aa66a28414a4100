"""Tools over situations, found again by likeness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from mcp_types import ToolAnnotations
from pydantic import Field
from typing_extensions import override

from nt_memory.apps.cli.rendering import to_plain
from nt_memory.apps.mcp.tool import (
    ADDS,
    READS,
    Agents,
    Answer,
    AsOf,
    Fence,
    Labels,
    RequestId,
    Text,
    Time,
    Tool,
    Vector,
    Where,
    Whose,
)

if TYPE_CHECKING:
    from nt_memory.apps.mcp.desk import Turn


class Observed(Answer):
    """Where an observation is kept."""

    agent: str
    key: str


class Observe(Tool):
    """Remember something under the situation it belongs to, so that search finds it by likeness.
    Searchable when this returns."""  # noqa: D205, D209

    called: ClassVar[str] = "observe"
    title: ClassVar[str] = "Remember a situation"
    effect: ClassVar[ToolAnnotations] = ADDS
    answers: ClassVar[type[Answer]] = Observed

    text: Text = None
    embedding: Vector = None
    data: Annotated[
        Any,
        Field(description="Any JSON value; by default the text. `where` filters on its fields."),
    ] = None
    key: Annotated[str | None, Field(description="Made up by default; used again it replaces.")] = (
        None
    )
    tags: Annotated[Labels, Field(description="Labels to filter by.")] = ()
    agent: Whose = None
    ttl_s: Annotated[float | None, Field(description="Forget it after so many seconds.")] = None
    known_at: Annotated[Time | None, Field(description="Since when it counts as known.")] = None
    fence: Fence = None
    request_id: RequestId = None

    @override
    async def run(self, turn: Turn) -> Observed:
        agent = turn.whose(self.agent)
        key = await turn.memory.observe(
            agent,
            await turn.vector(self, self.text, self.embedding),
            self.text if self.data is None else self.data,
            key=self.key,
            tags=self.tags,
            ttl=self.ttl_s,
            known_at=self.known_at,
            fence=self.fence,
            request_id=self.request_id,
        )
        return Observed(agent=agent, key=key)


class Found(Answer):
    """One observation."""

    agent: str
    key: str
    score: Annotated[float, Field(description="Cosine similarity, at most 1.")]
    data: Any
    known_at: str
    revision: int


class Hits(Answer):
    """Observations, the most alike first."""

    hits: list[Found]


class Search(Tool):
    """Find the observations whose situation is most like this one, now or as of any earlier
    moment."""  # noqa: D205, D209

    called: ClassVar[str] = "search"
    title: ClassVar[str] = "Search situations"
    effect: ClassVar[ToolAnnotations] = READS
    answers: ClassVar[type[Answer]] = Hits

    text: Text = None
    embedding: Vector = None
    agents: Agents = None
    top_k: Annotated[int, Field(ge=1, le=200)] = 10
    tags: Annotated[Labels, Field(description="Only what carries all of these.")] = ()
    where: Where = None
    as_of: AsOf = None
    exact: Annotated[bool, Field(description="Scan everything: slower, and misses nothing.")] = (
        False
    )

    @override
    async def run(self, turn: Turn) -> Hits:
        hits = await turn.memory.search_similar(
            [turn.whose(None)] if self.agents is None else self.agents,
            await turn.vector(self, self.text, self.embedding),
            self.top_k,
            as_of=self.as_of,
            tags=self.tags or None,
            where=self.where,
            exact=self.exact,
        )
        return Hits(
            hits=[
                Found(
                    agent=hit.agent,
                    key=hit.key,
                    score=hit.score,
                    data=to_plain(hit.data),
                    known_at=hit.known_at.isoformat(),
                    revision=hit.revision,
                )
                for hit in hits
            ]
        )


TOOLS: tuple[type[Tool], ...] = (Observe, Search)
