"""Records and changes as documents, for all commands that print them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nt_memory.apps.cli import documents
from nt_memory.apps.cli.rendering import to_plain

if TYPE_CHECKING:
    from nt_memory import Change, Record


def record_document(record: Record) -> documents.Record:
    """A record, all of it."""
    return documents.Record(
        agent=record.agent,
        key=record.key,
        value=to_plain(record.value),
        revision=record.revision,
        known_at=record.known_at,
        recorded_at=record.recorded_at,
        expires_at=record.expires_at,
        actor=record.actor,
        tags=list(record.tags),
    )


def change_document(change: Change) -> documents.Change:
    """A change, with the record that a put wrote."""
    return documents.Change(
        kind=change.kind,
        agent=change.agent,
        key=change.key,
        revision=change.revision,
        record=None if change.record is None else record_document(change.record),
    )
