"""How request ids are spelled in entries.

Callers give printable names. One call that takes several entries has an id for each: the name for the
first, the name with a number after a NUL for the others. What the memory makes up for itself begins
with a NUL. So none of these can be mistaken for another, and no caller can spell the last two.
"""

from __future__ import annotations

_END = "\0"


def own_id(name: str) -> str:
    """An id of the memory's own, for one call that nobody can repeat after it has ended."""
    return f"{_END}{name}"


def part_id(request_id: str, first: int) -> str:
    """The id of the part of a call that begins with its item `first`, from 0."""
    return f"{request_id}{_END}{first}" if first else request_id


def is_own(request_id: str) -> bool:
    """Whether the memory made it up for itself."""
    return request_id.startswith(_END)


def given_id(request_id: str | None) -> str | None:
    """What the caller gave; None if that was nothing."""
    return None if request_id is None else request_id.partition(_END)[0] or None
