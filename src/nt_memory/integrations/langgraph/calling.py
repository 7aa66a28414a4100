"""Where a store's calls run: on its memory's event loop, wherever they come from."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from nt_memory import SyncMemory
from nt_memory.errors import WrongLoopError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from nt_memory import MemorySystem

    Step = Callable[[], Coroutine[Any, Any, Any]]


class Caller:
    """Runs steps on a memory's event loop.

    Args:
        memory: A `MemorySystem`, where its event loop runs; or a `SyncMemory`, anywhere.

    Raises:
        WrongLoopError: a `MemorySystem` outside its event loop.

    Attributes:
        memory: What steps may use.
    """

    def __init__(self, memory: MemorySystem | SyncMemory) -> None:
        self._portal: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        if isinstance(memory, SyncMemory):
            # What a plain memory is a mirror of lives on a loop of its own, where a step runs whole.
            plain: Any = memory
            self._portal = plain._portal  # noqa: SLF001
            self.memory: MemorySystem = plain._target  # noqa: SLF001
            return
        self.memory = memory
        self._loop = _running()
        if self._loop is None:
            raise WrongLoopError(
                "make the store where the memory's event loop runs; or of MemorySystem.open_sync()"
            )

    def call(self, step: Step) -> Any:
        """Run a step, and block until it is done.

        Raises:
            WrongLoopError: this is the memory's event loop, which would wait for itself.
        """
        if self._portal is not None:
            return self._portal.call(step)
        loop = cast("asyncio.AbstractEventLoop", self._loop)
        if _running() is loop:
            raise WrongLoopError(
                "this call would hold up the memory's event loop: use the asynchronous one "
                "(aget, aput, asearch, adelete, alist_namespaces, abatch)"
            )
        return asyncio.run_coroutine_threadsafe(step(), loop).result()

    async def acall(self, step: Step) -> Any:
        """Run a step, from any event loop."""
        if self._portal is not None:
            return await asyncio.to_thread(self._portal.call, step)
        loop = cast("asyncio.AbstractEventLoop", self._loop)
        if _running() is loop:
            return await step()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(step(), loop))


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
