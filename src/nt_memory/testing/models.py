"""Sequential models of what the memory promises about one key and one lock.

For `linearizability.check`. Calls are tuples that begin with a verb; what they return is what the
memory's call returned, or the error it raised, spelled as a tuple.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from nt_memory.testing.linearizability import UNKNOWN


class Cell(NamedTuple):
    """A key's current value; `revision` 0: there is none, None: it is there, nobody knows since when."""

    value: Any
    revision: int | None
    least: int = 0
    """Every later revision is greater than this."""


_ABSENT = Cell(None, 0)


class KeyModel:
    """A key with compare-and-set.

    - `("put", value, expect)` returns its revision, or `("conflict", current)`;
    - `("delete", expect)` returns its revision, None where there was nothing, or a conflict;
    - `("get",)` returns `(value, revision)`, or None;
    - `("value",)` returns the value, or None.
    """

    def start(self) -> Cell:
        """No value."""
        return _ABSENT

    def step(self, state: Cell, call: Any, result: Any) -> Cell | None:
        """See `Model.step`."""
        verb = call[0]
        if verb == "get":
            return self._read(state, result)
        if verb == "value":
            return state if (None if state.revision == 0 else state.value) == result else None
        return self._write(state, call, result)

    def _write(self, state: Cell, call: Any, result: Any) -> Cell | None:
        verb, expect = call[0], call[-1]
        if isinstance(result, tuple):
            return self._conflict(state, expect, result[1])
        if expect is not None and state.revision is not None and state.revision != expect:
            return None
        if verb == "delete" and (result is None or state.revision == 0):
            return state if result is None and state.revision == 0 else None
        if result is not UNKNOWN and result <= state.least:
            return None
        least = state.least if result is UNKNOWN else result
        if verb == "delete":
            return Cell(None, 0, least)
        return Cell(call[1], None if result is UNKNOWN else result, least)

    def _read(self, state: Cell, result: Any) -> Cell | None:
        if result is UNKNOWN:
            return state
        if result is None:
            return state if state.revision == 0 else None
        value, revision = result
        if state.revision == 0 or state.value != value:
            return None
        if state.revision is None and revision > state.least:
            return Cell(value, revision, revision)
        return state if state.revision == revision else None

    def _conflict(self, state: Cell, expect: int | None, current: int) -> Cell | None:
        if current == expect:
            return None
        if state.revision is None and current > state.least:
            return Cell(state.value, current, current)
        return state if state.revision == current else None


class Grant(NamedTuple):
    """Who holds a lock: the fence of the grant, 0 if nobody, None if nobody knows; and the greatest."""

    fence: int | None
    greatest: int


class LockModel:
    """A lock whose leases outlast the history.

    - `("acquire",)` returns the fence of the grant, or `("timeout",)`;
    - `("release", fence)` returns True, or False where that grant is not current.

    An acquire that was cancelled may have held the lock until it was withdrawn: it is two calls of
    unknown result, `("acquire",)` and `("release", None)`.
    """

    def start(self) -> Grant:
        """Free, and never held."""
        return Grant(0, 0)

    def step(self, state: Grant, call: Any, result: Any) -> Grant | None:
        """See `Model.step`."""
        if call[0] == "acquire":
            return self._acquire(state, result)
        is_current = state.fence == call[1]
        if result is UNKNOWN or result:
            return Grant(0, state.greatest) if is_current else None
        return None if is_current else state

    def _acquire(self, state: Grant, result: Any) -> Grant | None:
        if isinstance(result, tuple):
            return None if state.fence == 0 else state  # it was held, at some moment of the call
        if state.fence != 0:
            return None
        if result is UNKNOWN:
            return Grant(None, state.greatest)
        return Grant(result, result) if result > state.greatest else None
