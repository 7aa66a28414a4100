"""Receivers that are tasks: the same loop around everybody's way to wait for a message."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from nt_memory.apps.bench.coordinators.coordinator import Message, Took


async def read_on(receive: Callable[[], Awaitable[Message]], took: Took) -> None:
    """Take messages until cancelled."""
    while True:
        took(await receive())


class Readers:
    """Tasks that read, and their end."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Let one more read."""
        self._tasks.append(asyncio.get_running_loop().create_task(work))

    async def stop(self) -> None:
        """Cancel all and wait for their end.

        Raises:
            Exception: what a reader failed with; a message was lost then.
        """
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        failures = [end for end in ends if isinstance(end, Exception)]
        if failures:
            raise failures[0]
