"""Classes made from classes: the same public names, called without await through a portal.

Nothing is listed by hand, so that nothing can be missing: a mirror has every public method and
property of what it mirrors, with its signature and documentation. What such a call returns is
handed out as it is if it is a value, and as a mirror if it is a handle: a receiver, a view, a token.
"""

from __future__ import annotations

import functools
import inspect
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from nt_memory.system.portal import Portal

ITEMS_A_CALL = 32
"""Items an iteration fetches at once, so that it does not switch threads for each."""

_mirrors: dict[type, type[Mirror]] = {}
_regrets: dict[type, Callable[[Any], Awaitable[None]]] = {}


class Mirror:
    """A handle on something that lives on a portal's loop."""

    __slots__ = ("__weakref__", "_portal", "_target")

    def __init__(self, portal: Portal, target: Any) -> None:
        self._portal = portal
        self._target = target

    def _call(
        self,
        name: str,
        args: tuple[Any, ...] = (),
        options: Any = None,
        regret: Callable[[Any], Awaitable[None]] | None = None,
    ) -> Any:
        target = self._target
        given = [_undress(one) for one in args]
        named = {key: _undress(one) for key, one in (options or {}).items()}

        def step() -> Any:
            return getattr(target, name)(*given, **named)

        return dress(self._portal, self._portal.call(step, regret or _take_back))

    def _read(self, name: str) -> Any:
        target = self._target
        return dress(self._portal, self._portal.call(lambda: getattr(target, name)))

    def __repr__(self) -> str:  # type: ignore[explicit-override]  # typing.override is 3.12
        return f"{type(self).__name__}({self._target!r})"


_M = TypeVar("_M", bound=Mirror)


class Iteration(Mirror):
    """A plain iterator over an asynchronous one."""

    __slots__ = ("_error", "_items")

    def __init__(self, portal: Portal, target: Any) -> None:
        super().__init__(portal, target)
        self._items: deque[Any] = deque()
        self._error: Exception | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        """The next item.

        Raises:
            StopIteration: there is none.
        """
        if not self._items:
            if self._error is not None:
                error, self._error = self._error, StopAsyncIteration()
                raise StopIteration if isinstance(error, StopAsyncIteration) else error
            target = self._target
            found, self._error = self._portal.call(lambda: _fetch(target))
            self._items.extend(found)
            return next(self)
        return dress(self._portal, self._items.popleft())

    def close(self) -> None:
        """Stop early, and let go of what the iteration holds."""
        self._items.clear()
        self._error = StopAsyncIteration()
        self._call("aclose")


async def _fetch(iterator: AsyncIterator[Any]) -> tuple[list[Any], Exception | None]:
    """Some items, and what comes after them: None for more, or the error that ends it."""
    found: list[Any] = []
    try:
        while len(found) < ITEMS_A_CALL:
            found.append(await anext(iterator))
    except Exception as error:  # noqa: BLE001 - it is raised where its turn comes
        return found, error
    return found, None


def mirror(
    source: type,
    *,
    attributes: tuple[str, ...] = (),
    leave_out: frozenset[str] = frozenset(),
    regret: Callable[[Any], Awaitable[None]] | None = None,
) -> Callable[[type[_M]], type[_M]]:
    """Class decorator: give a subclass of `Mirror` the public names of `source`.

    Args:
        source: What is mirrored; whatever returns one returns the mirror now.
        attributes: Names its instances have besides.
        leave_out: Public names that are for its owner, not for users.
        regret: Gives one back that was made for a caller who is gone.
    """

    def decorate(cls: type[_M]) -> type[_M]:
        made: dict[str, Any] = {name: property(_reader(name)) for name in attributes}
        for name in public_names(source) - leave_out:
            made[name] = _reflect(source, name)
        made |= {plain: method for spelled, plain, method in _PROTOCOLS if hasattr(source, spelled)}
        for name in made.keys() - vars(cls).keys():
            setattr(cls, name, made[name])
        _mirrors[source] = cls
        if regret is not None:
            _regrets[source] = regret
        return cls

    return decorate


def public_names(source: type) -> set[str]:
    """Names that are for whoever uses a class."""
    return {name for name in dir(source) if not name.startswith("_")}


def dress(portal: Portal, result: Any) -> Any:
    """What a caller gets for a result: its mirror, if it has one."""
    kind: type = type(result)
    cls = _mirrors.get(kind) or _mirror_of_kind(kind)
    if cls is not None:
        return cls(portal, result)
    return Iteration(portal, result) if isinstance(result, AsyncIterator) else result


@functools.lru_cache(maxsize=1024)
def _mirror_of_kind(source: type) -> type[Mirror] | None:
    """The mirror of the nearest class that it is a kind of."""
    return next((found for one in source.__mro__ if (found := _mirrors.get(one))), None)


def _undress(value: Any) -> Any:
    return value._target if isinstance(value, Mirror) else value  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


async def _take_back(result: Any) -> None:
    give_back = _regrets.get(type(result))
    if give_back is not None:
        await give_back(result)


def _reflect(source: type, name: str) -> Any:
    found = inspect.getattr_static(source, name)
    if not inspect.isfunction(found):
        return property(_reader(name), doc=found.__doc__)

    @functools.wraps(found)
    def method(self: Any, *args: Any, **options: Any) -> Any:
        return self._call(name, args, options)

    return method


def _reader(name: str) -> Callable[[Any], Any]:
    return lambda self: self._read(name)


def _itself(self: Any) -> Any:
    return self


def _next(self: Any) -> Any:
    try:
        return self._call("__anext__")
    except StopAsyncIteration:
        raise StopIteration from None


def _enter(self: Any) -> Any:
    target = self._target

    async def leave(_: object) -> None:
        await target.__aexit__(None, None, None)

    entered = self._call("__aenter__", regret=leave)
    return self if isinstance(entered, Mirror) and _undress(entered) is target else entered


def _exit(self: Any, *raised: object) -> Any:
    return self._call("__aexit__", raised)


_PROTOCOLS: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    ("__anext__", "__iter__", _itself),
    ("__anext__", "__next__", _next),
    ("__aenter__", "__enter__", _enter),
    ("__aexit__", "__exit__", _exit),
)
