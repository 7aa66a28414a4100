"""Holding writers of vectors to the pace of the index, once it is far behind."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from nt_memory.replica import partition_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nt_memory.system.engine import Engine
    from nt_memory.system.observing import Part
    from nt_memory.system.resuming import Resumption


async def wait_for_room(engine: Engine, agent: str, rows: int) -> None:
    """Wait while so many of an agent's observations are unindexed that searches would get slow.

    Past that point writers are let in as fast as their rows are indexed, first come, first served.
    Returns also when there is nothing to wait for any more: graphs that cannot be built, a closed
    instance. Cost: about a microsecond where there is room.

    Args:
        engine: The instance.
        agent: Whose observations.
        rows: How many are to be written.
    """
    partition = engine.rows.partitions.get(partition_name(agent, ""))
    if partition is None or engine.vectors.has_room(partition):
        return
    loop = asyncio.get_running_loop()
    admitted = loop.create_future()

    def admit() -> None:
        if not admitted.done():  # the waiter may have been cancelled
            admitted.set_result(None)

    def on_room() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone, and nobody waits
            loop.call_soon_threadsafe(admit)

    engine.vectors.wait_for_room(partition, rows, on_room)
    await admitted


def paced(engine: Engine, resumption: Resumption | None) -> Callable[[Part], Awaitable[None]]:
    """`engine.submit` for the entries of one call: each waits for room, and they stay in order.

    Args:
        engine: The instance.
        resumption: Gives the entries their ids, and takes in what they result in; None: they have none.
    """
    turnstile = asyncio.Lock()

    async def submit(part: Part) -> None:
        first, entry = part
        async with turnstile:
            await wait_for_room(engine, entry.agent, len(entry.keys))
        if resumption is None:
            await engine.submit(entry)
            return
        result = await engine.submit(entry, resumption.part(first))
        if resumption.take(first, result) != len(entry.keys):
            raise resumption.refusal()

    return submit
