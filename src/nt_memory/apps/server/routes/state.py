"""State: put, get, delete, scan, history, transactions, and changes as they happen."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Response
from pydantic import BaseModel, Field

from nt_memory.apps.server import bodies
from nt_memory.apps.server.bodies import (
    AGENT_PATTERN,
    OFF_LOOP_BYTES,
    PROBLEMS,
    AsOfQuery,
    Body,
    RecordOut,
    RequestId,
    Revision,
    RevisionOut,
    StrictRoute,
    Time,
    Value,
    Whole,
    bytes_of,
    parse_time,
    reply,
    reply_with,
    size_of,
    spell_record,
    to_value,
)
from nt_memory.apps.server.callers import Me
from nt_memory.apps.server.house import Here
from nt_memory.apps.server.problems import refused
from nt_memory.apps.server.streams import EVENTS, event, send_events
from nt_memory.codec.plain import to_plain
from nt_memory.errors import InvalidInputError
from nt_memory.records import Change, Record

PAGE_BYTES = 8 << 20
MAX_OPERATIONS = 1_000
_MAX_EVENT_ID_CHARS = 40
_MAX_PLACE_CHARS = 60

router: APIRouter = APIRouter(
    prefix="/v1", tags=["state"], responses=PROBLEMS, route_class=StrictRoute
)

Agent = Annotated[str, Path(pattern=AGENT_PATTERN, description="Whose keys.")]
Key = Annotated[str, Path(min_length=1, max_length=256, description="The key; may have `/`.")]
Prefix = Annotated[str, Query(max_length=256, description="What the keys start with.")]
Limit = Annotated[Whole, Query(ge=1, le=1_000)]


class PutIn(Body):
    """A value to write."""

    value: Value
    ttl: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    known_at: Time | None = None
    expect: Revision | None = None
    fence: Revision | None = None


class DeletedOut(BaseModel):
    """What was deleted."""

    revision: int | None = Field(description="Null: there was nothing.")


class PageOut(BaseModel):
    """Some records."""

    records: list[RecordOut]
    next: str | None = Field(description="Pass it as `after` for the next page; null: no more.")
    revision: int = Field(
        description="What was visible; pass it as `as_of` for pages of one moment."
    )


class HistoryOut(BaseModel):
    """Versions of a key, newest first."""

    records: list[RecordOut]
    next: str | None = Field(description="Pass it as `after` for the next page; null: no more.")


class PutOp(Body):
    """Put, as a part of a transaction."""

    op: Literal["put"]
    agent: bodies.AgentName
    key: bodies.KeyName
    value: Value
    ttl: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    known_at: Time | None = None
    expect: Revision | None = None


class DeleteOp(Body):
    """Delete, as a part of a transaction."""

    op: Literal["delete"]
    agent: bodies.AgentName
    key: bodies.KeyName
    known_at: Time | None = None
    expect: Revision | None = None


class TransactionIn(Body):
    """Operations that happen together or not at all."""

    operations: Annotated[
        list[Annotated[PutOp | DeleteOp, Field(discriminator="op")]],
        Field(min_length=1, max_length=MAX_OPERATIONS),
    ]
    fence: Revision | None = None


@router.get("/state/{agent}/{key:path}", response_model=RecordOut)
async def get(me: Me, agent: Agent, key: Key, as_of: AsOfQuery = None) -> Response:
    """The current version of a key, or the one in force at a moment; 404 if there is none."""
    record = await me.memory.get_record(agent, key, as_of=as_of)
    if record is None:
        raise refused(404, "there is no such key")
    return reply_with(lambda: spell_record(record), size_of(record.value))


@router.put("/state/{agent}/{key:path}", response_model=RevisionOut)
async def put(
    me: Me, agent: Agent, key: Key, body: PutIn, request_id: RequestId = None
) -> Response:
    """Write a value; it is on disk when this returns."""
    revision = await me.memory.put(
        agent,
        key,
        to_value(body.value),
        ttl=body.ttl,
        known_at=body.known_at,
        expect=body.expect,
        fence=body.fence,
        request_id=request_id,
    )
    return reply({"revision": _written(revision)})


@router.delete("/state/{agent}/{key:path}", response_model=DeletedOut)
async def delete(
    me: Me,
    agent: Agent,
    key: Key,
    known_at: Annotated[Time | None, Query()] = None,
    expect: Annotated[Revision | None, Query()] = None,
    fence: Annotated[Revision | None, Query()] = None,
    request_id: RequestId = None,
) -> Response:
    """Remove a value, or an observation; its history stays readable."""
    revision = await me.memory.delete(
        agent, key, known_at=known_at, expect=expect, fence=fence, request_id=request_id
    )
    return reply({"revision": revision})


@router.get("/state/{agent}", response_model=PageOut)
async def scan(
    me: Me,
    agent: Agent,
    prefix: Prefix = "",
    after: Annotated[str, Query(max_length=256)] = "",
    limit: Limit = 100,
    as_of: AsOfQuery = None,
) -> Response:
    """Records by key, a page at a time; a page ends early where values are large."""
    revision = me.memory.revision
    found: list[Record] = []
    size = 0
    is_cut = False
    async for record in me.memory.scan(agent, prefix, after=after, as_of=as_of):
        if len(found) == limit or (found and size > PAGE_BYTES):
            is_cut = True
            break
        size += size_of(record.value)
        found.append(record)

    def page() -> dict[str, Any]:
        return {
            "records": [spell_record(record) for record in found],
            "next": found[-1].key if is_cut else None,
            "revision": revision,
        }

    return reply_with(page, size)


@router.get("/history/{agent}/{key:path}", response_model=HistoryOut)
async def history(
    me: Me,
    agent: Agent,
    key: Key,
    after: Annotated[str, Query(max_length=_MAX_PLACE_CHARS)] = "",
    limit: Limit = 100,
) -> Response:
    """Versions of a key, newest first by when they were known, a page at a time; deletes are left out."""
    place = _parse_place(after) if after else None
    found: list[Record] = []
    size = 0
    is_cut = False
    async for record in me.memory.history(agent, key):
        if place is not None and _place_of(record) >= place:
            continue
        if len(found) == limit or (found and size > PAGE_BYTES):
            is_cut = True
            break
        size += size_of(record.value)
        found.append(record)

    def page() -> dict[str, Any]:
        records = [spell_record(one) for one in found]
        return {"records": records, "next": _spell_place(found[-1]) if is_cut else None}

    return reply_with(page, size)


@router.post("/transactions", response_model=RevisionOut)
async def transact(me: Me, body: TransactionIn, request_id: RequestId = None) -> Response:
    """Several puts and deletes as one: all of them, at one revision, or none."""
    async with me.memory.transaction(fence=body.fence, request_id=request_id) as tx:
        for one in body.operations:
            if isinstance(one, PutOp):
                tx.put(
                    one.agent,
                    one.key,
                    to_value(one.value),
                    ttl=one.ttl,
                    known_at=one.known_at,
                    expect=one.expect,
                )
            else:
                tx.delete(one.agent, one.key, known_at=one.known_at, expect=one.expect)
    return reply({"revision": _written(tx.revision)})


@router.get("/changes/{agent}", responses=EVENTS, response_class=Response)
async def changes(
    me: Me,
    house: Here,
    agent: Agent,
    prefix: Prefix = "",
    after: Annotated[Revision | None, Query()] = None,
    last_event_id: Annotated[str | None, Header(max_length=_MAX_EVENT_ID_CHARS)] = None,
) -> Response:
    """Changes of an agent's keys as they become visible, in order, none missed.

    Events are `put`, `delete` and `expire`. A client that comes again with the `Last-Event-ID` it
    saw last misses none and gets none twice.
    """
    revision, seen = (after, 0) if last_event_id is None else _parse_event_id(last_event_id)
    watch = me.memory.watch(agent, prefix, after=revision)
    place = Place(seen_revision=-1 if revision is None else revision + 1, skip=seen)

    async def take() -> list[bytes]:
        return place.events(await anext(watch))

    async def close() -> None:
        """A watch holds nothing."""

    return send_events(house, me, "changes", take, close)


class Place:
    """Where a stream of changes is: a revision, and how many of its changes were sent.

    Several changes may have one revision, so an event's id is `<revision>.<number in it>`.
    """

    def __init__(self, *, seen_revision: int, skip: int) -> None:
        self._revision = seen_revision
        self._skip = skip
        self._number = 0

    def events(self, change: Change) -> list[bytes]:
        """The event of the next change; none if the client had it before."""
        if change.revision != self._revision:
            self._revision, self._number, self._skip = change.revision, 0, 0
        self._number += 1
        if self._number <= self._skip:
            return []
        content: dict[str, Any] = {
            "agent": change.agent,
            "key": change.key,
            "revision": change.revision,
        }
        record = change.record
        if record is not None:
            content |= {
                "known_at": record.known_at,
                "recorded_at": record.recorded_at,
                "expires_at": record.expires_at,
                "actor": record.actor,
                "tags": record.tags,
                "value": None,
            }
            if bytes_of(record.value) <= OFF_LOOP_BYTES:
                content["value"] = to_plain(record.value)
            else:
                content["is_left_out"] = True
        return [event(change.kind, content, f"{change.revision}.{self._number}")]


def _written(revision: int | None) -> int:
    """The revision of a write.

    Raises:
        InvalidInputError: there is none: its id was used before, for a delete that found nothing.
    """
    if revision is None:
        raise InvalidInputError("this Idempotency-Key was used for another request")
    return revision


def _place_of(record: Record) -> tuple[datetime, int]:
    """Where a version stands in a key's history, which is sorted by this."""
    return record.known_at, record.revision


def _spell_place(record: Record) -> str:
    return f"{record.known_at.isoformat()}/{record.revision}"


def _parse_place(text: str) -> tuple[datetime, int]:
    """Behind which version to go on.

    Raises:
        InvalidInputError: it is none of ours.
    """
    time, _, revision = text.partition("/")
    try:
        return parse_time(time), int(revision)
    except ValueError:
        raise InvalidInputError("after: not what a page of this history named as next") from None


def _parse_event_id(text: str) -> tuple[int, int]:
    """After which revision to go on, and how many changes of the next one were sent.

    Raises:
        InvalidInputError: it is no id of ours.
    """
    revision, _, number = text.partition(".")
    if not (text.isascii() and revision.isdigit() and number.isdigit()) or int(revision) < 1:
        raise InvalidInputError("Last-Event-ID: not an id of these events")
    return int(revision) - 1, int(number)
