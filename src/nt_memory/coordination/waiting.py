"""Waiting for a future under a clock's deadline, without taking the future down with the wait."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nt_memory.clock import Clock


async def wait_done(waiter: asyncio.Future[Any], clock: Clock, seconds: float | None) -> bool:
    """Wait until `waiter` is done or `seconds` of the clock's time have passed.

    Neither a timeout nor a cancellation of the caller touches `waiter`.

    Args:
        waiter: What to wait for.
        clock: Whose seconds.
        seconds: At most how long; None: without end.

    Returns:
        Whether it is done.
    """
    if waiter.done():
        return True
    if seconds is None:
        await asyncio.wait({waiter})
        return True
    if seconds <= 0:
        return False
    timer = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait({waiter, timer}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        timer.cancel()
    return waiter.done()
