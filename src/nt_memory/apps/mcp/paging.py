"""Long lists a page at a time.

A cursor names the revision of the first page, and where to go on: all pages show one moment, so nothing
is left out or told twice because the memory changed in between.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, NamedTuple

from nt_memory.errors import InvalidInputError
from nt_memory.records import AsOf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime
    from typing import TypeVar

    T = TypeVar("T")

_MAX_CURSOR = 2_048


class Place(NamedTuple):
    """Where a page begins.

    Attributes:
        revision: All pages are as of this one.
        after: The last of the page before; "" for the first page.
    """

    revision: int
    after: str

    def as_of(self, asked: datetime | int | None) -> AsOf | int:
        """The moment that all pages show."""
        if asked is None or isinstance(asked, int):
            return self.revision
        return AsOf(asked, self.revision)


def place_of(cursor: str | None, now: int, as_of: datetime | int | None = None) -> Place:
    """Where a cursor says to go on; at the beginning, and as of now, without one.

    Args:
        cursor: As it was given out.
        now: The revision that is visible.
        as_of: What was asked for; a revision of its own is what pages are as of.

    Raises:
        InvalidInputError: it is not one of our cursors.
    """
    if cursor is None:
        return Place(min(as_of, now) if isinstance(as_of, int) else now, "")
    try:
        text = base64.urlsafe_b64decode(cursor[:_MAX_CURSOR].encode())
        revision, after = json.loads(text)
    except (ValueError, binascii.Error, TypeError):
        raise InvalidInputError(f"{cursor[:64]!r} is no cursor of this server") from None
    if not isinstance(after, str) or not isinstance(revision, int) or not 0 <= revision <= now:
        raise InvalidInputError(f"{cursor[:64]!r} is no cursor of this server")
    return Place(revision, after)


def number_after(place: Place, first: int) -> int:
    """Where to go on, for lists that count; `first` at the beginning.

    Raises:
        InvalidInputError: the cursor is of another list.
    """
    try:
        return int(place.after) if place.after else first
    except ValueError:
        raise InvalidInputError("the cursor is of another list") from None


def cursor_of(place: Place, after: str) -> str:
    """The cursor of the page that follows."""
    return base64.urlsafe_b64encode(json.dumps([place.revision, after]).encode()).decode()


def page_of(
    found: Iterable[T], place: Place, limit: int, name: Callable[[T], str]
) -> tuple[list[T], str | None]:
    """One page of what was found, and the cursor of the next, if there is more.

    Args:
        found: Sorted by name, from the beginning.
        place: Where the page begins.
        limit: Length of a page, >= 1.
        name: What an item is sorted by.
    """
    rest = [item for item in found if name(item) > place.after]
    page = rest[:limit]
    return page, cursor_of(place, name(page[-1])) if len(rest) > limit else None
