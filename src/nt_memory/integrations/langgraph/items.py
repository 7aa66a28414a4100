"""An item as it is stored, and as LangGraph is shown it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from langgraph.store.base import Item, SearchItem

from nt_memory.frozen import thaw
from nt_memory.integrations.langgraph.names import parse_path

if TYPE_CHECKING:
    from datetime import datetime

    from nt_memory.records import Record

# A read of an item with a ttl is a write once so much of the ttl has gone by: not every read.
_REFRESH_SHARE = 16


class Stored(NamedTuple):
    """An item's record, opened.

    Attributes:
        path: Where it lies.
        namespace: Of the item.
        key: Of the item.
        value: Read-only.
        created_at: When it was first put, since it was last missing.
        updated_at: When it was last put.
        vectors: How many vectors it has.
        record: The record.
    """

    path: str
    namespace: tuple[str, ...]
    key: str
    value: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    vectors: int
    record: Record

    def shown(self) -> Item:
        """What `get` returns: the caller may change its value, which is a copy."""
        return Item(
            value=thaw(self.value),
            key=self.key,
            namespace=self.namespace,
            created_at=self.created_at,
            updated_at=self.updated_at,
        )

    def found(self, score: float | None = None) -> SearchItem:
        """What `search` returns."""
        return SearchItem(
            namespace=self.namespace,
            key=self.key,
            value=thaw(self.value),
            created_at=self.created_at,
            updated_at=self.updated_at,
            score=score,
        )

    @property
    def ttl(self) -> timedelta | None:
        """How long it lives after it was last put or read; None: for ever."""
        expires_at = self.record.expires_at
        return None if expires_at is None else expires_at - self.record.known_at

    def wants_refresh(self, now: datetime) -> bool:
        """Whether enough of its ttl has gone by for a read to extend its life."""
        ttl = self.ttl
        return ttl is not None and (now - self.record.known_at) * _REFRESH_SHARE >= ttl


def document(
    value: dict[str, Any], created_at: datetime, updated_at: datetime, vectors: int
) -> dict[str, Any]:
    """What is stored of an item."""
    return {
        "value": value,
        "created_at": created_at,
        "updated_at": updated_at,
        "vectors": vectors,
    }


def opened(record: Record) -> Stored:
    """The item in a record."""
    stored = record.value
    namespace, key = parse_path(record.key)
    return Stored(
        record.key,
        namespace,
        key,
        stored["value"],
        stored["created_at"],
        stored["updated_at"],
        stored["vectors"],
        record,
    )
