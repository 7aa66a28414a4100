"""The HTTP contract of the Rust crate `nt-agentdb-client`, on a memory's own vectors.

A collection is the namespace of the agent `agentdb.<collection>`: its documents are observations whose
key is the document's id and whose data is its metadata, so the swarm searches them like any others.
A document is given back as the metadata that it was inserted with, which is what the client makes a
`T` of. What the contract leaves out is beside it: results and pages also carry the ids.

The crate reads statuses: 400 is a query that is wrong, 404 nothing there, 401 and 403 no right, and
everything else trouble on the way; 409 for a collection that exists counts as success.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from nt_memory import MemorySystem, Record
from nt_memory.apps.server.bodies import (
    MAX_DIM,
    PROBLEMS,
    Real,
    StrictRoute,
    Value,
    reply,
    reply_with,
    size_of,
)
from nt_memory.apps.server.callers import Me
from nt_memory.apps.server.problems import refused
from nt_memory.apps.server.sorting import best, first
from nt_memory.codec.plain import to_plain
from nt_memory.errors import ConflictError, InvalidInputError
from nt_memory.filters import Filter, parse_where

NAMESPACE = "agentdb."
CONFIG_KEY = "_collection"
"""No document has this key: it is not hexadecimal."""
MAX_DOCUMENTS = 10_000
MAX_RESULTS = 100_000
PAGE_BYTES = 64 << 20
_NAME = r"^[A-Za-z0-9_.\-]{1,56}$"
_HEX = r"^([0-9a-fA-F]{2}){1,128}$"

router: APIRouter = APIRouter(tags=["agentdb"], responses=PROBLEMS, route_class=StrictRoute)

Collection = Annotated[str, Path(pattern=_NAME, description="Name of the collection.")]
DocumentId = Annotated[str, Path(pattern=_HEX, description="The id, hexadecimal.")]
Embedding = Annotated[list[Real], Field(max_length=MAX_DIM)]
Filters = Annotated[
    list[dict[str, Any]] | dict[str, Any] | None,
    Field(description="Filters that must all pass; see Similarity search."),
]


class Tolerant(BaseModel):
    """A body of the contract; later versions of the client may send more."""

    model_config: ClassVar[ConfigDict] = ConfigDict(strict=True)


class CollectionIn(Tolerant):
    """A collection to make. The index is always this memory's own; its type is only kept."""

    name: Annotated[str, Field(pattern=_NAME)]
    dimension: Annotated[int, Field(ge=1, le=MAX_DIM)]
    index_type: Annotated[str, Field(max_length=64)] = "hnsw"
    metadata_schema: Any = None


class CollectionOut(BaseModel):
    """A collection."""

    name: str
    dimension: int
    index_type: str
    metadata_schema: Any = None


class DocumentIn(Tolerant):
    """A document."""

    id: Annotated[str, Field(max_length=256)]
    embedding: Embedding
    metadata: Value = None


class BatchIn(Tolerant):
    """Documents."""

    documents: Annotated[list[DocumentIn], Field(max_length=MAX_DOCUMENTS)]


class InsertedOut(BaseModel):
    """A document was inserted."""

    id: str
    success: bool


class BatchOut(BaseModel):
    """How many documents were inserted, and how many were malformed."""

    inserted: int
    failed: int


class SearchIn(Tolerant):
    """What to look for."""

    embedding: Embedding
    k: Annotated[int, Field(ge=0, le=MAX_DOCUMENTS)]
    collection: str | None = None
    filters: Filters = None
    min_score: Real | None = None


class ResultOut(BaseModel):
    """A document that was found."""

    document: Value
    score: float
    id: str


class ResultsOut(BaseModel):
    """Documents, best first."""

    results: list[ResultOut]


class SortBy(Tolerant):
    """By what to sort. Documents without the field come last."""

    field: Annotated[str, Field(min_length=1, max_length=1_000)]
    order: Literal["asc", "desc"] = "asc"


class QueryIn(Tolerant):
    """Which documents."""

    collection: str | None = None
    filters: Filters = None
    limit: Annotated[int, Field(ge=0)] | None = None
    sort_by: SortBy | None = None


class DocumentsOut(BaseModel):
    """Documents, and their ids in the same order."""

    documents: list[Value]
    ids: list[str]


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where the documents of a collection are.

    Attributes:
        agent: Whose observations they are.
        dimension: Of their embeddings.
    """

    agent: str
    dimension: int


@router.post("/collections", response_model=CollectionOut, status_code=201)
async def create_collection(me: Me, body: CollectionIn) -> Response:
    """Make a collection; 409 if there is one of this name."""
    config = {
        "name": body.name,
        "dimension": body.dimension,
        "index_type": body.index_type,
        "metadata_schema": body.metadata_schema,
    }
    try:
        await me.memory.put(f"{NAMESPACE}{body.name}", CONFIG_KEY, config, expect=0)
    except ConflictError:
        raise refused(409, f"there is a collection {body.name!r} already") from None
    return reply(config, 201)


@router.post("/collections/{collection}/insert", response_model=InsertedOut, status_code=201)
async def insert(me: Me, collection: Collection, body: DocumentIn) -> Response:
    """Insert a document, or replace the one with its id."""
    shelf = await _shelf(me.memory, collection)
    reason = _reason_bad(body, shelf)
    if reason:
        raise InvalidInputError(reason)
    key = body.id.lower()
    await me.memory.observe(shelf.agent, body.embedding, body.metadata, key=key)
    return reply({"id": key, "success": True}, 201)


@router.post("/collections/{collection}/batch_insert", response_model=BatchOut, status_code=201)
async def batch_insert(me: Me, collection: Collection, body: BatchIn) -> Response:
    """Insert documents; a malformed one counts as failed and keeps no other out."""
    shelf = await _shelf(me.memory, collection)
    good = [one for one in body.documents if not _reason_bad(one, shelf)]
    # Of two with one id the later counts, as if they came one after the other.
    last = {one.id.lower(): one for one in good}
    if last:
        await me.memory.observe_many(
            shelf.agent,
            [one.embedding for one in last.values()],
            [one.metadata for one in last.values()],
            keys=list(last),
        )
    return reply({"inserted": len(good), "failed": len(body.documents) - len(good)}, 201)


@router.post("/collections/{collection}/search", response_model=ResultsOut)
async def search(me: Me, collection: Collection, body: SearchIn) -> Response:
    """The documents whose embedding is most like another, best first; scores are cosines."""
    _check_same(collection, body.collection)
    shelf = await _shelf(me.memory, collection)
    if len(body.embedding) != shelf.dimension:
        raise InvalidInputError(_reason_dimension(len(body.embedding), shelf))
    where = _where(body.filters)
    if not body.k:
        return reply({"results": []})
    hits = await me.memory.search_similar(shelf.agent, body.embedding, body.k, where=where)
    least = -2.0 if body.min_score is None else body.min_score
    found = [hit for hit in hits if hit.score >= least]
    size = sum(size_of(hit.data) for hit in found)

    def results() -> dict[str, Any]:
        return {
            "results": [
                {"document": _document(hit.key, hit.data), "score": hit.score, "id": hit.key}
                for hit in found
            ]
        }

    return reply_with(results, size)


@router.post("/collections/{collection}/query", response_model=DocumentsOut)
async def query(me: Me, collection: Collection, body: QueryIn) -> Response:
    """The documents that pass some filters, sorted by a field or by id.

    Reads the whole collection, at about 10 us a document, unless it is not sorted and limited.
    """
    _check_same(collection, body.collection)
    shelf = await _shelf(me.memory, collection)
    where = _where(body.filters)
    passing = _passing(me.memory, shelf, None if where is None else parse_where(where))
    limit = MAX_RESULTS if body.limit is None else min(body.limit, MAX_RESULTS)
    if body.sort_by is None:
        found = await first(passing, limit)
    else:
        found = await best(
            passing, body.sort_by.field, limit, is_falling=body.sort_by.order == "desc"
        )
    if body.limit is None and len(found) == MAX_RESULTS:
        raise InvalidInputError(f"more than {MAX_RESULTS} documents pass: give a limit")
    size = sum(size_of(record.value) for record in found)
    if size > PAGE_BYTES:
        raise refused(413, f"the documents take {size} bytes: give a smaller limit")

    def documents() -> dict[str, Any]:
        return {
            "documents": [_document(record.key, record.value) for record in found],
            "ids": [record.key for record in found],
        }

    return reply_with(documents, size)


@router.get("/collections/{collection}/documents/{document_id}")
async def get_document(me: Me, collection: Collection, document_id: DocumentId) -> Response:
    """A document: its metadata, or `{"id"}` if it has none; 404 if there is none."""
    shelf = await _shelf(me.memory, collection)
    record = await me.memory.get_record(shelf.agent, document_id.lower())
    if record is None:
        raise refused(404, "there is no such document")
    return reply_with(lambda: _document(record.key, record.value), size_of(record.value))


@router.delete("/collections/{collection}/documents/{document_id}", response_model=InsertedOut)
async def delete_document(me: Me, collection: Collection, document_id: DocumentId) -> Response:
    """Delete a document; 404 if there is none."""
    shelf = await _shelf(me.memory, collection)
    key = document_id.lower()
    if await me.memory.delete(shelf.agent, key) is None:
        raise refused(404, "there is no such document")
    return reply({"id": key, "success": True})


# --- collections ------------------------------------------------------------------------------


async def _shelf(memory: MemorySystem, collection: str) -> Shelf:
    """A collection.

    Raises:
        HTTPException: 404, there is none of this name.
    """
    agent = f"{NAMESPACE}{collection}"
    config = await memory.get(agent, CONFIG_KEY)
    if config is None:
        raise refused(404, f"there is no collection {collection!r}")
    return Shelf(agent, config["dimension"])


def _check_same(path: str, named: str | None) -> None:
    if named is not None and named != path:
        raise InvalidInputError(f"the path names collection {path!r}, the body {named!r}")


def _reason_bad(document: DocumentIn, shelf: Shelf) -> str:
    """What is wrong with a document; empty if nothing is."""
    key = document.id
    if not key or len(key) % 2 or not set(key) <= set("0123456789abcdefABCDEF"):
        return "id: must be hexadecimal, two digits a byte"
    vector = document.embedding
    if len(vector) != shelf.dimension:
        return _reason_dimension(len(vector), shelf)
    return "" if any(vector) else "embedding: is zero and has no direction"


def _reason_dimension(found: int, shelf: Shelf) -> str:
    return f"embedding: has dimension {found}, the collection {shelf.dimension}"


def _document(key: str, data: Any) -> Any:
    """What is given back: the metadata as it came, and what else the swarm wrote, spelled."""
    if data is None:
        return {"id": key}
    return data if _is_json(data) else to_plain(data)


def _is_json(value: Any) -> bool:
    """Whether a value is JSON as it is; `to_plain` would quote what only looks like its tags."""
    if isinstance(value, Mapping):
        return all(type(key) is str for key in value) and all(map(_is_json, value.values()))
    if isinstance(value, list):
        return all(map(_is_json, value))
    return value is None or type(value) in {str, bool, float, int}


# --- queries ----------------------------------------------------------------------------------


def _where(filters: list[dict[str, Any]] | dict[str, Any] | None) -> dict[str, Any] | None:
    """The filters of the contract as one; malformed ones are refused here, also if nothing passes."""
    if isinstance(filters, dict):
        filters = [filters]
    if not filters:
        return None
    where = {"op": "and", "filters": filters}
    for one in filters:
        if "op" not in one:
            raise InvalidInputError('filters: each needs an "op"')
    parse_where(where)
    return where


async def _passing(
    memory: MemorySystem, shelf: Shelf, where: Filter | None
) -> AsyncIterator[Record]:
    async for record in memory.scan(shelf.agent):
        if record.key != CONFIG_KEY and (where is None or where.accepts(record.value)):
            yield record
