"""Pins: live references to current values, kept current by whoever moves the tiers.

They live outside the cache, so nothing evicts what they show. Belongs to the event loop; but any
thread may read a pin, and end one: by `release`, or as the collector does.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from nt_memory.records import Record

_FEW = 64
Name = tuple[str, str]
"""Agent and key."""


class Pin:
    """A live reference to one key: the newest visible version, for one attribute read.

    `value` and `record` belong together and change together, between two steps of the event loop.
    Any thread may read them, and sees what was visible last; one that is not the loop's, and needs
    both, takes `record` once. After `release` they keep their last state.

    Attributes:
        value: The current value, read-only; None if there is none.
        record: The current record; None if there is none.
        name: Agent and key.
    """

    __slots__ = ("__weakref__", "_pins", "name", "record", "value")
    value: Any
    record: Record | None
    name: Name
    _pins: Pins | None

    def __init__(self, pins: Pins, name: Name, record: Record | None) -> None:
        _set(self, "name", name)
        _set(self, "_pins", pins)
        _show(self, record)

    def __setattr__(self, attribute: str, value: object) -> NoReturn:  # type: ignore[explicit-override]
        raise AttributeError(f"a pin is read-only: put a new value to change {self.name}")

    @property
    def is_live(self) -> bool:
        """Whether it still follows its key."""
        return self._pins is not None

    def release(self) -> None:
        """Stop following the key. Releasing twice is fine; dropping the pin does the same.

        Callable from any thread.
        """
        pins = self._pins
        if pins is not None:
            _set(self, "_pins", None)
            pins.forget(self)

    def __repr__(self) -> str:  # type: ignore[explicit-override]
        revision = self.record.revision if self.record else None
        return f"Pin(name={self.name!r}, revision={revision}, is_live={self.is_live})"


# Pins refuse ordinary assignment, so their owner goes round it.
_set = object.__setattr__


def _show(pin: Pin, record: Record | None) -> None:
    _set(pin, "record", record)
    _set(pin, "value", None if record is None else record.value)


class _PinRef(weakref.ref[Pin]):
    __slots__ = ("name",)
    name: Name


class Pins:
    """The live pins, by name."""

    def __init__(self) -> None:
        self._pins: dict[Name, set[_PinRef]] = {}
        # Filled by releases and the collector, perhaps from another thread; emptied by the loop.
        self._dead: deque[_PinRef] = deque()

    def __len__(self) -> int:
        self.bury()
        return sum(map(len, self._pins.values()))

    def __contains__(self, name: Name) -> bool:
        return name in self._pins

    def may_follow(self, agent: str) -> bool:
        """Whether there may be a pin of some key of an agent: not asked of each, if they are many."""
        return len(self._pins) > _FEW or any(name[0] == agent for name in self._pins)

    def add(self, name: Name, record: Record | None) -> Pin:
        """A new pin that shows `record`, the current one, until `show`."""
        self.bury()
        pin = Pin(self, name, record)
        ref = _PinRef(pin, self._dead.append)
        ref.name = name
        self._pins.setdefault(name, set()).add(ref)
        return pin

    def show(self, name: Name, record: Record | None) -> None:
        """Make every live pin of `name` show `record`; None: the key has no value now."""
        for ref in self._pins.get(name, ()):
            pin = ref()
            if pin is not None and pin.is_live:
                _show(pin, record)

    def forget(self, pin: Pin) -> None:
        """Stop keeping `pin` current; it keeps what it shows. See `Pin.release`."""
        ref = _PinRef(pin)
        ref.name = pin.name
        hash(ref)  # it is looked up by it, and can only be asked while the pin lives
        self._dead.append(ref)

    def bury(self) -> None:
        """Drop the references to pins that were released or collected."""
        while self._dead:
            ref = self._dead.popleft()
            self._drop(ref.name, ref)

    def _drop(self, name: Name, ref: weakref.ref[Pin]) -> None:
        refs: set[Any] | None = self._pins.get(name)
        if refs is not None:
            refs.discard(ref)
            if not refs:
                del self._pins[name]
