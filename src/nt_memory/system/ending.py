"""How an engine ends that nobody closes: with its loop, or after it.

`asyncio.run` cancels what is left before it closes its loop; a task of each engine hears that and
closes it properly. A loop that is closed by hand says nothing. What it leaves open, an orphan, is
found by the next open of this process, which would otherwise be refused the directory until the
process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nt_memory.system.engine import Engine

_open: weakref.WeakSet[Engine] = weakref.WeakSet()
_releasing = threading.Lock()


class Ending:
    """Sees to it that an engine is closed. Belongs to its loop.

    Args:
        engine: Which; its loop is running.
    """

    def __init__(self, engine: Engine) -> None:
        loop = asyncio.get_running_loop()
        self._engine = engine
        self._over: asyncio.Future[None] = loop.create_future()
        self._guard = loop.create_task(self._close_with_loop())
        _open.add(engine)

    def set_over(self) -> None:
        """It is closed."""
        _open.discard(self._engine)
        if not self._over.done():
            self._over.set_result(None)

    async def _close_with_loop(self) -> None:
        try:
            await self._over
        except asyncio.CancelledError:
            await self._engine.close()


def release_orphans() -> None:
    """Close what loops of this process that are closed have left open. From any thread."""
    with _releasing:
        for engine in list(_open):
            if engine.is_orphan:
                _open.discard(engine)
                engine.release()


async def insist(work: asyncio.Future[Any]) -> None:
    """Await something to its end, whoever cancels: for what must not be left half done.

    Raises:
        Exception: what it ended with; but not that it was itself cancelled, as a task of a loop that
            ends is.
    """
    while not work.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(work)
    if not work.cancelled():
        work.result()
