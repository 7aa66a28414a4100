"""Who waits until something new is visible."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nt_memory.errors import NtMemoryError


class Visible:
    """The calls that wait; all are woken by every new revision. Belongs to one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiters: dict[asyncio.Future[None], None] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    async def wait(self) -> None:
        """Until the next `wake`; raises what that says."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters[waiter] = None
        try:
            await waiter
        finally:
            self._waiters.pop(waiter, None)

    def wake(self, error: NtMemoryError | None) -> None:
        """Something new is visible; or never will be, and why."""
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)
