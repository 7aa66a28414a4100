"""Observations and the search for those most like another situation."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, Field

from nt_memory.apps.server.bodies import (
    AGENT_PATTERN,
    PROBLEMS,
    AgentName,
    AsOfQuery,
    Body,
    KeyName,
    Moment,
    Real,
    RequestId,
    Revision,
    StrictRoute,
    Tags,
    Time,
    Value,
    Vector,
    reply,
    reply_with,
    size_of,
    to_value,
)
from nt_memory.apps.server.callers import Me
from nt_memory.apps.server.house import Here, House
from nt_memory.apps.server.problems import refused
from nt_memory.codec.plain import to_plain
from nt_memory.embedders import aembed
from nt_memory.errors import InvalidInputError

MAX_BATCH = 10_000
MAX_TEXT_CHARS = 100_000

router: APIRouter = APIRouter(
    prefix="/v1", tags=["similarity"], responses=PROBLEMS, route_class=StrictRoute
)

Agent = Annotated[str, Path(pattern=AGENT_PATTERN, description="Whose observations.")]
Key = Annotated[str, Path(min_length=1, max_length=256, description="The key; may have `/`.")]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS)]


class Situation(Body):
    """A situation: a vector, or a text that the server's embedder makes one of."""

    embedding: Vector | None = None
    text: Text | None = None


class ObserveIn(Situation):
    """Something seen."""

    data: Value = None
    key: KeyName | None = None
    tags: Tags = []
    ttl: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    known_at: Time | None = None
    fence: Revision | None = None


class ObserveManyIn(Body):
    """Many observations; lists of the same length."""

    embeddings: Annotated[list[Vector], Field(min_length=1, max_length=MAX_BATCH)]
    data: Annotated[list[Value], Field(max_length=MAX_BATCH)] | None = None
    keys: Annotated[list[KeyName], Field(max_length=MAX_BATCH)] | None = None
    tags: Annotated[list[Tags], Field(max_length=MAX_BATCH)] | None = None
    known_at: Time | None = None


class SearchIn(Situation):
    """What to look for."""

    agents: Annotated[list[AgentName], Field(min_length=1, max_length=1_000)]
    top_k: Annotated[int, Field(ge=1, le=1_000)] = 10
    as_of: Moment | None = None
    tags: Tags | None = None
    where: dict[str, Any] | None = None
    exact: bool = False
    min_score: Real | None = None


class KeyOut(BaseModel):
    """The key of an observation."""

    key: str


class EmbeddingOut(BaseModel):
    """The vector of an observation."""

    embedding: list[float]


class KeysOut(BaseModel):
    """The keys of observations."""

    keys: list[str]


class HitOut(BaseModel):
    """One observation that is like what was asked for."""

    agent: str
    key: str
    score: float
    data: Value
    known_at: datetime
    revision: int


class HitsOut(BaseModel):
    """Hits, best first."""

    hits: list[HitOut]


async def vector_of(house: House, given: Situation) -> Sequence[float]:
    """The vector of a situation.

    Raises:
        InvalidInputError: neither or both of vector and text are given.
        EmbedderError: the embedder failed.
    """
    if (given.embedding is None) is (given.text is None):
        raise InvalidInputError("give an embedding, or a text, and not both")
    if given.embedding is not None:
        return given.embedding
    vectors = await aembed(house.embedder, [given.text or ""])
    found: list[float] = vectors[0].tolist()
    return found


@router.post("/observations/{agent}", response_model=KeyOut, status_code=201)
async def observe(
    me: Me, house: Here, agent: Agent, body: ObserveIn, request_id: RequestId = None
) -> Response:
    """Remember something with its situation; it is searchable when this returns."""
    key = await me.memory.observe(
        agent,
        await vector_of(house, body),
        to_value(body.data),
        key=body.key,
        tags=body.tags,
        ttl=body.ttl,
        known_at=body.known_at,
        fence=body.fence,
        request_id=request_id,
    )
    return reply({"key": key}, 201)


@router.post("/observations/{agent}/batch", response_model=KeysOut, status_code=201)
async def observe_many(
    me: Me, agent: Agent, body: ObserveManyIn, request_id: RequestId = None
) -> Response:
    """Remember many; with an Idempotency-Key, repeating it stores only what was not stored before."""
    keys = await me.memory.observe_many(
        agent,
        body.embeddings,
        None if body.data is None else [to_value(one) for one in body.data],
        keys=body.keys,
        tags=body.tags,
        known_at=body.known_at,
        request_id=request_id,
    )
    return reply({"keys": keys}, 201)


@router.get("/embeddings/{agent}/{key:path}", response_model=EmbeddingOut)
async def embedding(me: Me, agent: Agent, key: Key, as_of: AsOfQuery = None) -> Response:
    """The vector an observation is kept with, of length 1; 404 if there is none."""
    found = await me.memory.get_embedding(agent, key, as_of=as_of)
    if found is None:
        raise refused(404, "there is no such observation")
    return reply({"embedding": found})


@router.post("/search", response_model=HitsOut)
async def search(me: Me, house: Here, body: SearchIn) -> Response:
    """The observations of some agents that are most like a situation, best first."""
    hits = await me.memory.search_similar(
        body.agents,
        await vector_of(house, body),
        body.top_k,
        as_of=body.as_of,
        tags=body.tags,
        where=None if body.where is None else to_value(body.where),
        exact=body.exact,
    )
    if body.min_score is not None:
        hits = [hit for hit in hits if hit.score >= body.min_score]
    size = sum(size_of(hit.data) for hit in hits)

    def found() -> dict[str, Any]:
        return {
            "hits": [
                {
                    "agent": hit.agent,
                    "key": hit.key,
                    "score": hit.score,
                    "data": to_plain(hit.data),
                    "known_at": hit.known_at,
                    "revision": hit.revision,
                }
                for hit in hits
            ]
        }

    return reply_with(found, size)
