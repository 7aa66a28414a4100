"""What must be sent though nobody waits for it any more: a withdrawal, a lock given back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable


class Errands:
    """The errands of one memory, by what they are about. A cancelled caller does not stop them."""

    def __init__(self) -> None:
        self._about: dict[asyncio.Task[Any], str] = {}

    def __len__(self) -> int:
        return len(self._about)

    def run(self, about: str, sending: Awaitable[Any]) -> asyncio.Task[Any]:
        """Send it."""

        async def send() -> Any:
            return await sending

        errand = asyncio.get_running_loop().create_task(send())
        self._about[errand] = about
        errand.add_done_callback(self._end)
        return errand

    async def done(self, about: str) -> None:
        """Wait for those about something, so that what is sent next comes behind them."""
        errands = [task for task, other in self._about.items() if other == about]
        if errands:
            await asyncio.wait(errands)

    async def settle(self) -> None:
        """Wait for all of them, and for those that they send."""
        while self._about:
            await asyncio.wait(list(self._about))

    def _end(self, errand: asyncio.Task[Any]) -> None:
        del self._about[errand]
        # Read so that asyncio does not report it: if it failed, the lease ends the lock.
        if not errand.cancelled():
            errand.exception()
