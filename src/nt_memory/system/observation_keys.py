"""The keys of observations that are given none: one after another, in order of time.

A key is `obs/`, the time and a number in hexadecimal, and the session. The observations of one call
have one time and consecutive numbers, so the first key tells all of them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

_FORM = re.compile(r"(obs/[0-9a-f]{15})([0-9a-f]{6,})(-[0-9a-f]{8})", re.ASCII)


class Run(NamedTuple):
    """Consecutive keys.

    Attributes:
        start: What all begin with.
        first: The number of the first.
        end: What all end with.
    """

    start: str
    first: int
    end: str

    def keys(self, places: Iterable[int]) -> list[str]:
        """The keys at some places, from 0."""
        start, first, end = self
        return [f"{start}{first + place:06x}{end}" for place in places]


def new_run(now_us: int, session: str, first: int) -> Run:
    """Keys that are ordered by time within a session, and unique beyond it."""
    return Run(f"obs/{now_us:015x}", first, f"-{session[:8]}")


def run_from(key: str) -> Run | None:
    """The run that a key is the first of; None if no run has it."""
    match = _FORM.fullmatch(key)
    if match is None:
        return None
    run = Run(match[1], int(match[2], 16), match[3])
    return run if run.keys((0,)) == [key] else None
