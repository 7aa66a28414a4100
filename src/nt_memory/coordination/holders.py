"""Who holds a lock, where the caller does not say: the session and the current task."""

from __future__ import annotations

import asyncio
import itertools
import threading
import weakref
from contextvars import ContextVar

from nt_memory.acting import actor

CALLER: ContextVar[threading.Thread | None] = ContextVar("nt_memory_caller", default=None)
"""Who calls, where tasks do not tell it: a portal runs every call of a thread in another task."""


class Holders:
    """Names for tasks and threads.

    Args:
        session: Name of this opening of the memory.
    """

    def __init__(self, session: str) -> None:
        self._session = session
        self._numbers = itertools.count(1)
        self._known: weakref.WeakKeyDictionary[object, int] = weakref.WeakKeyDictionary()

    def name(self) -> str:
        """The name of who calls, with the agent's in whose name that is."""
        agent = actor()
        session = self._session if agent is None else f"{agent}@{self._session}"
        caller = CALLER.get() or asyncio.current_task()
        if caller is None:  # pragma: no cover - a coroutine always runs in a task
            return session
        # Not id(caller): those are reused, and the next task would look re-entrant.
        if caller not in self._known:
            self._known[caller] = next(self._numbers)
        return f"{session}/task-{self._known[caller]}"
