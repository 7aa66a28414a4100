"""Read-only containers: what the codec returns, so that one decoded value can be shared by all.

They are a `dict` and a `list` whose mutators raise, so `==`, `isinstance`, `json.dumps` and pattern
matching work as ever, and reading costs what it always costs. Frozen to ordinary code, that is:
unbound methods (`dict.__setitem__(value, ...)`) and C functions that write into any list
(`heapq.heappush`) still can; refusing them would take a type that is neither dict nor list.

`copy.copy`, `copy.deepcopy`, `pickle` and `thaw` give plain values; the first is shallow.
"""

from __future__ import annotations

import sys
from mmap import mmap
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

_DEEP: set[type] = {tuple, np.ndarray}
"""Types whose size `sys.getsizeof` does not tell."""
_C = TypeVar("_C", bound=type)


def _refusal(kind: str, method: str) -> Callable[..., NoReturn]:
    def refuse(self: object, *_: object, **__: object) -> NoReturn:
        raise TypeError(
            f"this {kind} is read-only, since others hold it too: change a copy, "
            "nt_memory.thaw(value)"
        )

    refuse.__name__ = method
    return refuse


def _read_only(kind: str, *methods: str) -> Callable[[_C], _C]:
    def block(cls: _C) -> _C:
        for method in methods:
            setattr(cls, method, _refusal(kind, method))
        return cls

    return block


@_read_only(
    "dict",
    *("__setitem__", "__delitem__", "__ior__"),
    *("clear", "pop", "popitem", "setdefault", "update"),
)
class FrozenDict(dict[Any, Any]):
    """A dict that cannot be changed; its mutators raise TypeError."""

    __slots__ = ()

    def __copy__(self) -> dict[Any, Any]:
        return dict(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[Any, Any]:
        return cast("dict[Any, Any]", thaw(self))

    def __reduce__(self) -> tuple[type, tuple[Any]]:  # type: ignore[explicit-override]
        return dict, (thaw(self),)


@_read_only(
    "list",
    *("__setitem__", "__delitem__", "__iadd__", "__imul__"),
    *("append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"),
)
class FrozenList(list[Any]):
    """A list that cannot be changed; its mutators raise TypeError."""

    __slots__ = ()

    def __copy__(self) -> list[Any]:
        return list(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Any]:
        return cast("list[Any]", thaw(self))

    def __reduce__(self) -> tuple[type, tuple[Any]]:  # type: ignore[explicit-override]
        return list, (thaw(self),)


_DEEP.update((FrozenDict, FrozenList))


def thaw(value: Any) -> Any:
    """A deep copy that may be changed: plain dicts and lists, arrays of its own.

    Args:
        value: What `get` returned, or anything made of dicts, lists, tuples and arrays. Other
            objects in it are shared, not copied: those the codec returns cannot change.

    Cost: one pass over the containers, and a copy of every array.
    """
    if isinstance(value, dict):
        return {key: thaw(item) for key, item in value.items()}
    if isinstance(value, list):
        return [thaw(item) for item in value]
    if type(value) is tuple:
        return tuple(thaw(item) for item in value)
    if isinstance(value, np.ndarray):
        return value.copy()
    return value


def resident_bytes(value: Any) -> int:
    """Bytes of memory a decoded value holds, objects shared within it counted each time.

    An array over a mapped file holds none but its own object.

    Cost: one pass; about 2 us for ten flat fields.
    """
    total = sys.getsizeof(value)
    if type(value) in {FrozenDict, FrozenList}:
        items = value.values() if type(value) is FrozenDict else value
        if _DEEP.isdisjoint(map(type, items)):
            return total + sum(map(sys.getsizeof, items))
    if isinstance(value, dict):
        for key, item in value.items():
            # Field names are short, and mostly shared between records by the decoder.
            total += resident_bytes(item) + (0 if type(key) is str else resident_bytes(key))
    elif isinstance(value, list | tuple):
        total += sum(map(resident_bytes, value))
    elif isinstance(value, np.ndarray) and value.base is not None:
        # Pages of a mapped file are the operating system's: it takes them back when it needs them.
        total += 0 if isinstance(value.base, mmap) else value.nbytes
    return total
