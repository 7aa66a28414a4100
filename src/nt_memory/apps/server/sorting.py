"""Records sorted by a field whose values may be of any types, a bounded number at a time."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

import msgspec

from nt_memory.codec.plain import to_plain
from nt_memory.filters import MISSING, lookup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from nt_memory import Record
    from nt_memory.filters import Field


async def first(records: AsyncIterator[Record], limit: int) -> list[Record]:
    """The first so many, in their order."""
    found: list[Record] = []
    if limit:
        async for record in records:
            found.append(record)
            if len(found) == limit:
                break
    return found


async def best(
    records: AsyncIterator[Record], name: str, limit: int, *, is_falling: bool
) -> list[Record]:
    """The first so many by a field of their data, ties by key; holds no more than that at once.

    Args:
        records: In any order.
        name: The field; may be dotted.
        limit: How many.
        is_falling: The greatest first; those without the field come last all the same.
    """
    field = (name, *name.split(".")) if "." in name else (name,)
    kept: list[_Place] = []
    async for record in records:
        place = _Place(record, field, is_falling=is_falling)
        if len(kept) < limit:
            heapq.heappush(kept, place)
        elif kept and kept[0] < place:
            heapq.heapreplace(kept, place)
    return [place.record for place in sorted(kept, reverse=True)]


class _Place:
    """A document's place among others; the least is the one that comes last."""

    __slots__ = ("_is_falling", "_key", "record")

    def __init__(self, record: Record, field: Field, *, is_falling: bool) -> None:
        self.record = record
        self._is_falling = is_falling
        value = lookup(record.value, field)
        self._key = _rank(value)

    def __lt__(self, other: _Place) -> bool:
        if self._key == other._key:
            return self.record.key > other.record.key
        if None in (self._key[1], other._key[1]):
            return self._key[1] is None  # without the field: last, whichever the order
        is_less: bool = self._key < other._key
        return is_less if self._is_falling else not is_less


def _rank(value: Any) -> tuple[int, Any]:
    """What values of different types are sorted by: numbers, then texts, then everything else."""
    if value is MISSING or value is None:
        return 3, None
    if isinstance(value, bool | int | float) and value == value:
        return 0, value
    if isinstance(value, str):
        return 1, value
    return 2, msgspec.json.encode(to_plain(value))
