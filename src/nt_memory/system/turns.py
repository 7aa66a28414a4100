"""Turns at the interpreter, between searches on the event loop and folds on the journal's thread.

Both are hundreds of short steps, and both let go of the interpreter between them, for calls of a microsecond.
Side by side each of them is put to sleep and woken ten times and more, and each time takes 50 us: a search that
met a fold took twice as long. So a fold that finds the loop kept by searches waits until it comes round, and there the
loop waits for the fold. Each waits for so long and no longer: a search or a fold that takes more than its time goes on
beside the other.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Generator

    from nt_memory.clock import Clock

PATIENCE_S = 0.001
"""How long a fold waits for the loop: as long as a search among a million rows takes."""

GIVEN_S = 0.001
"""How long the loop waits for a fold: of 15 observations it takes 0.4 ms."""

_BEHIND_NS = 1_000_000


class Turns:
    """Whether searches keep the event loop from coming round, and who goes first when it does.

    Args:
        clock: For how long they have kept it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept_since: int | None = None
        self._is_wanted = False
        self._has_come_round = threading.Event()
        self._is_over = threading.Event()

    @property
    def is_loop_behind(self) -> bool:
        """Whether searches have kept the event loop from coming round for a millisecond.

        Whoever wants to do something at the same time may not have begun then. The loop's thread only.
        """
        since = self._kept_since
        return since is not None and self._clock.monotonic_ns() - since >= _BEHIND_NS

    @property
    def _is_loop_kept(self) -> bool:
        return self._kept_since is not None

    def keep(self, loop: AbstractEventLoop) -> None:
        """A search is about to keep the loop from coming round. The loop's thread only."""
        if self._kept_since is None:
            self._kept_since = self._clock.monotonic_ns()
            loop.call_soon(self._come_round)

    def _come_round(self) -> None:
        self._kept_since = None
        if self._is_wanted:
            self._has_come_round.set()
            self._is_over.wait(GIVEN_S)

    @contextmanager
    def alone(self) -> Generator[None]:
        """What is done in the block goes before the loop's next searches, and after those under way.

        One thread at a time, and not the loop's.

        Cost: 1 us, and up to `PATIENCE_S` while searches keep the loop.
        """
        if not self._is_loop_kept:
            yield
            return
        self._has_come_round.clear()
        self._is_over.clear()
        self._is_wanted = True
        try:
            # Said first and looked again: a loop that came round before it was said does not come to tell.
            if self._is_loop_kept:
                self._has_come_round.wait(PATIENCE_S)
            yield
        finally:
            self._is_wanted = False
            self._is_over.set()
