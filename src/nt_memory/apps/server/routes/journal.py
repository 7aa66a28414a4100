"""The journal as it grows, entry by entry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Response

from nt_memory.apps.server.bodies import (
    OFF_LOOP_BYTES,
    PROBLEMS,
    Revision,
    StrictRoute,
    bytes_of,
    spell_record,
)
from nt_memory.apps.server.callers import Me
from nt_memory.apps.server.house import Here
from nt_memory.apps.server.streams import EVENTS, event, send_events

if TYPE_CHECKING:
    from nt_memory.records import Change
    from nt_memory.system.watching import JournalEntry

router: APIRouter = APIRouter(
    prefix="/v1", tags=["swarm"], responses=PROBLEMS, route_class=StrictRoute
)


@router.get("/journal", responses=EVENTS, response_class=Response)
async def journal(me: Me, house: Here, after: Annotated[Revision, Query()] = 0) -> Response:
    """Entries of all agents from behind a revision on, then as they are accepted; none missed.

    Events are `entry`, whose id is its revision. An agent needs the right to read everything.
    """
    entries = me.memory.tail(after)

    async def take() -> list[bytes]:
        entry = await anext(entries)
        return [event("entry", _spell_entry(entry), str(entry.revision))]

    async def close() -> None:
        """A tail holds nothing."""

    return send_events(house, me, "journal", take, close)


def spell_change(change: Change) -> dict[str, Any]:
    """A change with the record that a put wrote; a large value is left out."""
    content: dict[str, Any] = {
        "kind": change.kind,
        "agent": change.agent,
        "key": change.key,
        "revision": change.revision,
        "record": None,
    }
    record = change.record
    if record is not None and bytes_of(record.value) <= OFF_LOOP_BYTES:
        content["record"] = spell_record(record)
    elif record is not None:
        content["is_left_out"] = True
    return content


def _spell_entry(entry: JournalEntry) -> dict[str, Any]:
    return {
        "revision": entry.revision,
        "recorded_at": entry.recorded_at,
        "kind": entry.kind,
        "actor": entry.actor,
        "request_id": entry.request_id,
        "changes": [spell_change(change) for change in entry.changes],
        "detail": dict(entry.detail),
    }
