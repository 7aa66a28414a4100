"""L1: decoded, read-only records in memory, least recently used out first; and pins.

Owned by the event loop: nothing here locks, and nothing here does I/O. The tier is refreshed with
every visible change, so what it holds is never older than the replica; `ttl` only lets go of copies
that nobody reads.

Time is not read on a hit. Each sweep ends a period; a copy remembers the period of its last use,
and is let go once that period ended `ttl` ago. So a copy leaves no earlier than `ttl` after its
last use, and at most one interval between sweeps later.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import cachebox

from nt_memory.errors import InvalidInputError
from nt_memory.records import TierStats

if TYPE_CHECKING:
    from collections.abc import Callable

    from nt_memory.clock import Clock
    from nt_memory.config import CacheConfig
    from nt_memory.records import Record

Name = tuple[str, str]
"""Agent and key."""


class _Copy:
    __slots__ = ("period", "reads", "record", "size")

    def __init__(self, record: Record, size: int, period: int) -> None:
        self.record = record
        self.size = size
        self.period = period
        self.reads = 0


class Pin:
    """A live reference to one key: the newest visible version, for one attribute read.

    `value` and `record` belong together and change together, between two steps of the event loop;
    another thread that needs both takes `record` once. After `release` they keep their last state.

    Attributes:
        value: The current value, read-only; None if there is none.
        record: The current record; None if there is none.
        name: Agent and key.
    """

    __slots__ = ("__weakref__", "_tier", "name", "record", "value")
    value: Any
    record: Record | None
    name: Name
    _tier: HotTier | None

    def __init__(self, tier: HotTier, name: Name, record: Record | None) -> None:
        _set(self, "name", name)
        _set(self, "_tier", tier)
        _show(self, record)

    def __setattr__(self, attribute: str, value: object) -> NoReturn:  # type: ignore[explicit-override]
        raise AttributeError(f"a pin is read-only: put a new value to change {self.name}")

    @property
    def is_live(self) -> bool:
        """Whether it still follows its key."""
        return self._tier is not None

    def release(self) -> None:
        """Stop following the key. Releasing twice is fine; dropping the pin does the same."""
        tier = self._tier
        if tier is not None:
            _set(self, "_tier", None)
            tier.unpin(self)

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


class _Reader(NamedTuple):
    get: Callable[[Name], Record | None]
    counts: Callable[[], tuple[int, int]]
    enter: Callable[[int], None]


def _open_reader(find: Callable[[Name], _Copy | None], *, is_tracking: bool) -> _Reader:
    """`HotTier.get`, with its state in closure cells.

    A hit is the whole cost of reading state: 147 ns like this, 168 ns as a method that counts in
    attributes, of which the cache takes 46 (one run, CPython 3.11 without PGO).
    """
    hits = misses = period = 0

    def get(name: Name) -> Record | None:
        nonlocal hits, misses
        copy = find(name)
        if copy is None:
            misses += 1
            return None
        hits += 1
        copy.period = period
        if is_tracking:
            copy.reads += 1
        return copy.record

    def counts() -> tuple[int, int]:
        return hits, misses

    def enter(number: int) -> None:
        nonlocal period
        period = number

    return _Reader(get, counts, enter)


class HotTier:
    """Hot copies of records, bounded by entries and by bytes, and the pins.

    Args:
        config: Most entries, ttl and whether to count reads.
        clock: Read by `sweep` only.
        max_bytes: Most bytes held, as counted by the sizes given to `put` and `refresh`.

    Attributes:
        get: Takes a name and returns the record held under it, counted as a hit and as a use;
            None is a miss.

    Raises:
        InvalidInputError: `max_bytes` is negative.
    """

    def __init__(self, config: CacheConfig, clock: Clock, *, max_bytes: int) -> None:
        if max_bytes < 0:
            raise InvalidInputError("max_bytes must be >= 0")
        self._clock = clock
        self._max_entries = config.max_entries
        self._max_bytes = max_bytes
        self._ttl_us = round(config.ttl * 1_000_000)
        self._copies: cachebox.LRUCache[Name, _Copy] = cachebox.LRUCache(config.max_entries)
        # `in` would count as a use, so membership is asked of `_look`. Typed here: cachebox's own types say that a miss cannot be told from a copy.
        self._find: Callable[[Name], _Copy | None] = self._copies.get
        self._look: Callable[[Name], _Copy | None] = self._copies.peek
        self._reader = _open_reader(self._find, is_tracking=config.track_access)
        self.get = self._reader.get
        self._bytes = 0
        self._evictions = 0
        self._period = 0
        self._ended: deque[tuple[int, int]] = deque()
        self._pins: dict[Name, set[_PinRef]] = {}
        # Filled by the collector, perhaps from another thread; emptied by the loop.
        self._dead: deque[_PinRef] = deque()

    def peek(self, name: Name) -> Record | None:
        """Like `get`, but changes no counter and no recency: for the tier's keeper, not readers."""
        copy = self._look(name)
        return None if copy is None else copy.record

    def reads(self, name: Name) -> int:
        """Hits of this copy since it was taken in; 0 if not held or with `track_access` off."""
        copy = self._look(name)
        return 0 if copy is None else copy.reads

    def is_wanted(self, name: Name) -> bool:
        """Whether a change of `name` concerns this tier: a copy is held, or a pin follows it."""
        return self._look(name) is not None or name in self._pins

    def is_pinned(self, name: Name) -> bool:
        """Whether a live pin follows this name."""
        return name in self._pins

    def put(self, name: Name, record: Record, size_bytes: int) -> None:
        """Hold a record as the most recently used, letting others go to make room.

        A record larger than all of the tier is not held, nor is an older copy of it.
        """
        if size_bytes > self._max_bytes:
            self.drop(name)
            return
        copy = self._find(name)
        if copy is None:
            # The cache would evict by itself, unseen by the byte count.
            while len(self._copies) >= self._max_entries:
                self._evict()
            self._copies.insert(name, _Copy(record, size_bytes, self._period))
            self._bytes += size_bytes
        else:
            copy.period = self._period
            self._replace(copy, record, size_bytes)
        self._shrink(self._max_bytes)

    def refresh(self, name: Name, record: Record, size_bytes: int) -> bool:
        """Replace a copy if one is held; that is not a use. Returns whether one is held now."""
        copy = self._look(name)
        if copy is None:
            return False
        if size_bytes > self._max_bytes:
            self.drop(name)
            return False
        self._replace(copy, record, size_bytes)
        self._shrink(self._max_bytes)
        return self._look(name) is not None

    def drop(self, name: Name) -> bool:
        """Forget a copy, because its key is gone. Returns whether there was one."""
        copy: _Copy | None = self._copies.pop(name, None)
        if copy is None:
            return False
        self._bytes -= copy.size
        return True

    def sweep(self, limit: int = 1000) -> int:
        """Let go of copies unused for `ttl`, at most `limit`. Returns how many.

        Cost: per copy let go, not per copy held.
        """
        self._bury()
        now_us = self._clock.now_us()
        self._ended.append((self._period, now_us))
        self._period += 1
        self._reader.enter(self._period)
        expired = -1
        while self._ended and now_us - self._ended[0][1] >= self._ttl_us:
            expired = self._ended.popleft()[0]
        swept = 0
        # Every use moves a copy to the back, so periods never decrease along the cache.
        while swept < limit and self._copies and self._oldest_period() <= expired:
            self._evict()
            swept += 1
        if swept == limit:
            self._ended.appendleft((expired, now_us - self._ttl_us))
        return swept

    def pressure(self, max_bytes: int) -> int:
        """Let go of the least recently used until at most `max_bytes` are held.

        Returns:
            Bytes let go. The bound for later puts does not change.
        """
        before = self._bytes
        self._shrink(max(0, max_bytes))
        return before - self._bytes

    def clear(self) -> None:
        """Forget all copies. Pins, and counters, stay."""
        self._copies.clear()
        self._bytes = 0

    @property
    def stats(self) -> TierStats:
        """Counters; evictions are copies let go by bounds, pressure and sweeps."""
        hits, misses = self._reader.counts()
        return TierStats(
            entries=len(self._copies),
            bytes=self._bytes,
            hits=hits,
            misses=misses,
            evictions=self._evictions,
        )

    # --- pins ---------------------------------------------------------------------------------

    @property
    def pins(self) -> int:
        """Live pins."""
        self._bury()
        return sum(map(len, self._pins.values()))

    def pin(self, name: Name, record: Record | None) -> Pin:
        """A new pin that shows `record`, the current one, until `set_pins`."""
        self._bury()
        pin = Pin(self, name, record)
        ref = _PinRef(pin, self._dead.append)
        ref.name = name
        self._pins.setdefault(name, set()).add(ref)
        return pin

    def set_pins(self, name: Name, record: Record | None) -> None:
        """Make every live pin of `name` show `record`; None: the key has no value now."""
        for ref in self._pins.get(name, ()):
            pin = ref()
            if pin is not None:
                _show(pin, record)

    def unpin(self, pin: Pin) -> None:
        """Stop keeping `pin` current; it keeps what it shows. See `Pin.release`."""
        self._forget(pin.name, weakref.ref(pin))

    def _bury(self) -> None:
        while self._dead:
            ref = self._dead.popleft()
            self._forget(ref.name, ref)

    def _forget(self, name: Name, ref: weakref.ref[Pin]) -> None:
        refs: set[Any] | None = self._pins.get(name)
        if refs is not None:
            refs.discard(ref)
            if not refs:
                del self._pins[name]

    # --- the bounds ---------------------------------------------------------------------------

    def _replace(self, copy: _Copy, record: Record, size: int) -> None:
        self._bytes += size - copy.size
        copy.record = record
        copy.size = size

    def _shrink(self, max_bytes: int) -> None:
        while self._bytes > max_bytes:
            self._evict()

    def _evict(self) -> None:
        _, copy = self._copies.popitem()
        self._bytes -= copy.size
        self._evictions += 1

    def _oldest_period(self) -> int:
        name = self._copies.least_recently_used()
        copy = None if name is None else self._look(name)
        return self._period if copy is None else copy.period
