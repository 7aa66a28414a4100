"""What waits to be written: a queue bounded in bytes, from any thread to the one that writes.

The writer takes what is there, up to 64 entries or 1 MiB, so that under load a batch fills up while
the one before it is being written. It sleeps on a bare lock, which the first submission releases:
that is half of what a condition variable costs, and it is paid for every batch.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from nt_memory.errors import NtMemoryError, StorageError, StorageFullError, again

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH_ENTRIES = 64
BATCH_BYTES = 1 << 20


class Barrier:
    """Something to do once all that goes before it is durable and delivered.

    `is_vital`: the journal cannot go on after an error of the action, unless the disk was full.
    """

    def __init__(self, action: Callable[[], None] | None, *, is_vital: bool = False) -> None:
        self._action = action
        self._is_vital = is_vital
        self.is_reached: threading.Event = threading.Event()
        self.error: BaseException | None = None

    def reach(self) -> None:
        """On the writer thread: act, and let the waiting thread go on."""
        try:
            if self._action is not None:
                self._action()
        except BaseException as error:
            self.error = error
            if self._is_vital and not isinstance(error, StorageFullError):
                raise  # the journal stops, and sets `is_reached` when it has said so
        self.is_reached.set()


class Work(NamedTuple):
    """What the writer thread does next: write a batch, then sync, then reach a barrier."""

    batch: list[tuple[bytes, Any]]
    must_sync: bool = False
    barrier: Barrier | None = None


class Submissions:
    """The queue. Every method is thread-safe; `take` is for one thread only.

    Args:
        max_bytes: `put` refuses while this many bytes of payload are waiting.
        refusal: Raised by `put` until `accept`.
    """

    def __init__(self, max_bytes: int, refusal: NtMemoryError) -> None:
        self._max_bytes = max_bytes
        self._mutex = threading.Lock()
        self._bell = threading.Lock()
        self._bell.acquire()
        # Guarded by `_mutex`. The queue's keys are ticket ids, so that withdrawing is O(1); a payload
        # of None marks a barrier, which is its ticket.
        self._queue: OrderedDict[int, tuple[bytes | None, Any]] = OrderedDict()
        self._is_asleep = False
        self._duplicates = itertools.count(1)
        self._pending_bytes = 0
        self._awaiting_space: list[Callable[[], None]] = []
        self._refusal: NtMemoryError | None = refusal
        self._is_closing = False

    @property
    def pending_bytes(self) -> int:
        """Bytes of payload put and not yet released."""
        return self._pending_bytes

    @property
    def is_closing(self) -> bool:
        """Whether `close` was called."""
        return self._is_closing

    def accept(self) -> None:
        """From now on `put` takes what it is given."""
        self._refusal = None

    def put(self, payload: bytes, ticket: object) -> bool:
        """Queue an entry; False if too much is waiting. One entry may overrun the bound.

        Raises:
            NtMemoryError: the refusal.
        """
        with self._mutex:
            if self._refusal is not None:
                raise again(self._refusal)
            if self._pending_bytes >= self._max_bytes:
                return False
            self._enqueue(payload, ticket)
            self._pending_bytes += len(payload)
        return True

    def put_barrier(self, barrier: Barrier, *, is_first: bool = False) -> None:
        """Queue a barrier, however much is waiting: behind all of it, or before.

        Raises:
            NtMemoryError: the refusal.
        """
        with self._mutex:
            if self._refusal is not None:
                raise again(self._refusal)
            self._enqueue(None, barrier)
            if is_first:
                self._queue.move_to_end(id(barrier), last=False)

    def withdraw(self, ticket: object) -> bool:
        """Take back what no batch holds yet; tickets are told apart by identity."""
        with self._mutex:
            found = self._queue.get(id(ticket))
            if found is None or found[0] is None:
                return False
            del self._queue[id(ticket)]
        self.release(len(found[0]))
        return True

    def on_space(self, callback: Callable[[], None]) -> None:
        """Call back once there is room, or none will ever be; at once if it is so already."""
        with self._mutex:
            if self._pending_bytes >= self._max_bytes and self._refusal is None:
                self._awaiting_space.append(callback)
                return
        callback()

    def release(self, size: int) -> None:
        """So many bytes wait no longer: tell those who wait for room, if there is some now."""
        with self._mutex:
            self._pending_bytes -= size
            if not self._awaiting_space:
                return
            if self._pending_bytes >= self._max_bytes and self._refusal is None:
                return
            callbacks, self._awaiting_space = self._awaiting_space, []
        for callback in callbacks:
            callback()

    def close(self, refusal: NtMemoryError) -> None:
        """Refuse what comes, unless something worse is said already; `take` gives what is there."""
        with self._mutex:
            self._is_closing = True
            if not isinstance(self._refusal, StorageError):
                self._refusal = refusal
            self._ring()
        self.release(0)

    def fail(self, refusal: NtMemoryError) -> list[tuple[bytes | None, Any]]:
        """Refuse what comes, and give back all that waits: payload and ticket, None and barrier."""
        with self._mutex:
            self._refusal = refusal
            left = list(self._queue.values())
            self._queue.clear()
            self._pending_bytes = 0
        self.release(0)
        return left

    def take(self, wait_s: float | None) -> Work | None:
        """What to do next, waiting for it; None when closed and all is done.

        Args:
            wait_s: Give up after so long, and say that it is time to sync; None: never.
        """
        while True:
            with self._mutex:
                if self._queue:
                    return self._cut()
                if self._is_closing:
                    return None
                self._is_asleep = True
            if self._bell.acquire(timeout=-1 if wait_s is None else wait_s):
                continue
            with self._mutex:
                if self._is_asleep:
                    self._is_asleep = False
                    return Work([], must_sync=True)
            self._bell.acquire()  # rung since

    def _cut(self) -> Work:
        batch: list[tuple[bytes, Any]] = []
        size = 0
        while self._queue and len(batch) < BATCH_ENTRIES:
            key, (payload, ticket) = self._queue.popitem(last=False)
            if payload is None:
                return Work(batch, must_sync=True, barrier=ticket)
            size += len(payload)
            if size > BATCH_BYTES and batch:
                self._queue[key] = (payload, ticket)
                self._queue.move_to_end(key, last=False)
                break
            batch.append((payload, ticket))
        return Work(batch)

    def _enqueue(self, payload: bytes | None, ticket: object) -> None:
        key = id(ticket)
        while key in self._queue:
            # The same ticket again: only its first submission can be withdrawn.
            key = -next(self._duplicates)
        self._queue[key] = (payload, ticket)
        self._ring()

    def _ring(self) -> None:
        if self._is_asleep:
            self._is_asleep = False
            self._bell.release()
