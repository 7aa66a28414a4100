"""Arrays that are being stored, kept from being changed meanwhile.

A large array is not copied before it is written, for that would take its memory twice. So while it
is read it is made read-only, and with it the arrays it is a view of: whoever assigns to one of them
gets numpy's `ValueError` instead of a stored value that is half old and half new. That keeps out
ordinary code. It does not keep out other views of the same memory that exist already, nor code that
is not numpy's.

Several puts may hold one array at once; it is writeable again when the last of them lets go.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_Array = np.ndarray[Any, Any]


class _Held:
    """An array, by how many guards it is held, and whether it was writeable before."""

    __slots__ = ("array", "guards", "was_writeable")

    def __init__(self, array: _Array) -> None:
        self.array = array
        self.guards = 0
        self.was_writeable = array.flags.writeable


_lock = threading.Lock()
_held: dict[int, _Held] = {}


class Guard:
    """Keeps some arrays read-only until `release`."""

    def __init__(self, arrays: Iterable[_Array]) -> None:
        self._arrays = [one for array in arrays for one in _owners(array)]
        with _lock:
            for array in self._arrays:
                held = _held.get(id(array))
                if held is None:
                    held = _held[id(array)] = _Held(array)
                held.guards += 1
                array.flags.writeable = False

    def release(self) -> None:
        """Let go. Idempotent; callable from any thread."""
        with _lock:
            arrays, self._arrays = self._arrays, []
            for array in arrays:
                _held[id(array)].guards -= 1
            if arrays:
                _restore()


def _owners(array: _Array) -> Iterator[_Array]:
    """The array, and what it is a view of."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        yield owner
        owner = owner.base


def _restore() -> None:
    """Make writeable again what nobody holds; a view has to wait for what it is a view of."""
    has_progress = True
    while has_progress:
        has_progress = False
        for key, held in list(_held.items()):
            if held.guards:
                continue
            try:
                if held.was_writeable:
                    held.array.flags.writeable = True
            except ValueError:
                continue
            del _held[key]
            has_progress = True
