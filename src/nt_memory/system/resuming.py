"""`observe_many` under a request id: each entry of the call acts once, so the call can be resumed.

An entry has an id of its own, made from the request's and the number of its first row, and what is
remembered of it says how many rows it had and under which key the first is. So a repeated call finds out
what was stored, however far the first one came, gives back the keys under which it was, and stores
the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nt_memory.entries import ObserveMany
from nt_memory.entries.requests import part_id
from nt_memory.errors import InvalidInputError
from nt_memory.replica.requests import recall
from nt_memory.system.observation_keys import run_from

if TYPE_CHECKING:
    from nt_memory.system.engine import Engine

_KIND = str(ObserveMany.__struct_config__.tag)


class Resumption:
    """The entries of one call.

    Args:
        engine: The instance.
        request_id: Of the call.
        keys: Of all rows, as they are given or were made up; those of rows that were stored before
            are put right.
        is_given: Whether they are given.
    """

    def __init__(self, engine: Engine, request_id: str, keys: list[str], *, is_given: bool) -> None:
        self._engine = engine
        self._request_id = request_id
        self._keys = keys
        self._is_given = is_given

    def part(self, first: int) -> str:
        """The id of the entry that begins with row `first`."""
        return part_id(self._request_id, first)

    def stored(self, first: int) -> int:
        """How many rows from `first` on an earlier call has stored in one entry, as visible here.

        Raises:
            InvalidInputError: the id was used for something else.
        """
        engine = self._engine
        if engine.is_read_only:
            return 0  # its writes are refused, repeated or not
        found = recall(
            engine.snapshot,
            engine.writing.actor,
            self.part(first),
            _KIND,
            engine.clock.now_us(),
        )
        return 0 if found is None else self.take(first, found.result)

    def take(self, first: int, result: Any) -> int:
        """Take in what an entry resulted in; how many rows it had.

        Raises:
            InvalidInputError: it was made by a call for something else.
        """
        _, key, count = result
        run = None if self._is_given else run_from(key)
        if first + count > len(self._keys) or (run is None and self._keys[first] != key):
            raise self.refusal()
        if run is not None and self._keys[first] != key:
            self._keys[first : first + count] = run.keys(range(count))
        return int(count)

    def refusal(self) -> InvalidInputError:
        """What was stored under the id is not what is to be stored: the error to raise."""
        return InvalidInputError(
            f"request_id {self._request_id!r} was used before, for other observations"
        )
