"""Calls from plain threads into an event loop that runs on a thread of its own.

Problem: an open memory belongs to one event loop, and scripts and notebooks have none, or one that
they cannot wait on. So the memory gets a loop of its own on a daemon thread, and a call is handed
over, run there and waited for. What it returns, raises or times out with is what the coroutine
would have.

- *Interruption*: Ctrl-C while a call waits cancels the call, waits until that took effect, and
  raises `KeyboardInterrupt`; so does the deadline of `Portal.deadline`, as `TimeoutError`. The call
  is then withdrawn, or has happened, exactly as if its task had been cancelled.
- *Many threads* may call at once: the loop orders them. Each call runs in a task of its own, in a
  copy of the caller's context; `CALLER` says which thread it is, so that locks still tell a holder
  that asks again from one that has to wait.
- *Nobody closes*: what is dropped unclosed is closed by the loop's thread. At exit the thread, a
  daemon, holds nothing up; the journal's own exit hook writes what was submitted.

Cost of a call: two switches of thread, 30 to 60 us; more where the interpreter is busy elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from contextvars import copy_context
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from nt_memory.clock import SystemClock
from nt_memory.coordination.holders import CALLER
from nt_memory.errors import ClosedError, WrongLoopError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from contextvars import Context

    from nt_memory.system.memory import MemorySystem

CANCEL_WAIT_S = 10.0
"""How long an interrupted call may take to end; then its caller goes on without it."""


class _Call:
    """One call on its way to the loop and back.

    Args:
        step: What to run there.
        regret: Takes back what a call did that ended well although its caller was gone already.
    """

    def __init__(
        self, step: Callable[[], Any], regret: Callable[[Any], Awaitable[None]] | None
    ) -> None:
        self._step: Callable[[], Any] | None = step
        self._regret = regret
        self._task: asyncio.Task[Any] | None = None
        self._is_unwanted = False
        self._is_done = threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None

    def wait(self, seconds: float | None) -> bool:
        """Wait for the end; False if it did not come in time."""
        return self._is_done.wait(seconds)

    def outcome(self) -> Any:
        """What came of it, once: its result, or its error with the traceback of both threads."""
        error, result = self._error, self._result
        self._error = self._result = None
        if error is None:
            return result
        try:
            raise error
        finally:
            del error  # or the traceback would hold itself alive through this frame

    # --- on the loop --------------------------------------------------------------------------

    def start(self) -> None:
        """Run the step; what it returns to be awaited goes on in a task."""
        step, self._step = self._step, None
        if self._is_unwanted or step is None:
            self._end(None, asyncio.CancelledError())
            return
        try:
            result = step()
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller, whatever it is
            self._end(None, error)
            return
        if not isawaitable(result):
            self._end(result, None)
            return
        self._task = asyncio.ensure_future(_drive(result))
        self._task.add_done_callback(self._take)

    def cancel(self) -> None:
        """The caller does not want it any more."""
        self._is_unwanted = True
        if self._task is not None:
            # One turn later, so that its first step is run: what gives something back must begin.
            asyncio.get_running_loop().call_soon(self._task.cancel)
        elif self._is_done.is_set() and self._error is None:
            self._take_back(self._result)

    def fail(self, error: BaseException) -> None:
        """Nobody will run it."""
        if not self._is_done.is_set():
            self._end(None, error)

    def _take(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            self._end(None, asyncio.CancelledError())
            return
        error = task.exception()
        result = None if error is not None else task.result()
        if self._is_unwanted and error is None:
            self._take_back(result)
        self._end(result, error)

    def _take_back(self, result: Any) -> None:
        regret, self._regret = self._regret, None
        if regret is not None:
            asyncio.ensure_future(_drive(regret(result))).add_done_callback(_retrieve)

    def _end(self, result: Any, error: BaseException | None) -> None:
        self._task = None
        self._result, self._error = result, error
        self._is_done.set()


async def _drive(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


class _Core:
    """The loop, its thread, and what lives there. Refers to no portal, so that one can be dropped."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.memory: MemorySystem | None = None
        self.calls: set[_Call] = set()
        self.thread = threading.Thread(target=self._run, name="nt-memory-portal", daemon=True)
        self._closing: asyncio.Task[None] | None = None

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()
            for call in list(self.calls):
                call.fail(ClosedError("the memory was closed"))

    async def close(self) -> None:
        """Close the memory, if it was opened. Idempotent, and finished even if cancelled."""
        if self.memory is None:
            return
        if self._closing is None:
            self._closing = self.loop.create_task(self.memory.close())
        await asyncio.shield(self._closing)

    def abandon(self) -> None:
        """Close and stop without anyone waiting; from any thread, in the process that opened it."""
        with contextlib.suppress(RuntimeError):  # it is closed already
            self.loop.call_soon_threadsafe(self._begin_end)

    def _begin_end(self) -> None:
        ending = self.loop.create_task(self._end())
        ending.add_done_callback(_retrieve)

    async def _end(self) -> None:
        try:
            await self.close()
        finally:
            self.loop.stop()


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # nobody is left to tell


def _abandon(core: _Core, pid: int) -> None:
    if os.getpid() == pid:
        core.abandon()


class Portal:
    """The way into one memory from plain threads."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._deadlines = threading.local()
        self._pid = os.getpid()
        self._is_closed = False
        self._core = _Core()
        # At exit there is nothing to do: the thread is a daemon, and the journal writes its queue.
        weakref.finalize(self, _abandon, self._core, self._pid).atexit = False
        self._core.thread.start()

    def open(self, opening: Callable[[], Awaitable[MemorySystem]]) -> MemorySystem:
        """Open the memory that lives on this loop and is closed with it; see `call`."""
        core = self._core

        async def step() -> MemorySystem:
            core.memory = await opening()
            return core.memory

        memory: MemorySystem = self.call(step)
        return memory

    def call(
        self, step: Callable[[], Any], regret: Callable[[Any], Awaitable[None]] | None = None
    ) -> Any:
        """Run `step` on the loop; if it returns something to await, await it; wait for the end.

        Args:
            step: What to run.
            regret: Takes a result back that came too late for an interrupted caller.

        Raises:
            WrongLoopError: this is the loop's own thread, which would wait for ever, or a fork.
            ClosedError: it was closed.
            TimeoutError: the deadline passed; the call was cancelled.
            KeyboardInterrupt: Ctrl-C; the call was cancelled.
            And whatever the call raises.
        """
        self._check_caller()
        if self._is_closed:
            raise ClosedError("the memory was closed")
        return self._call(step, regret)

    def _call(
        self, step: Callable[[], Any], regret: Callable[[Any], Awaitable[None]] | None = None
    ) -> Any:
        call = _Call(step, regret)
        self._core.calls.add(call)
        context = copy_context()
        context.run(CALLER.set, threading.current_thread())
        try:
            try:
                self._send(call, context)
                is_done = call.wait(self._left_s())
            except ClosedError:
                raise
            except BaseException:  # Ctrl-C, or what another signal's handler raised
                self._withdraw(call)
                raise
            if not is_done:
                self._withdraw(call)
                raise TimeoutError("the call did not end within the deadline of its block")
            return call.outcome()
        finally:
            self._core.calls.discard(call)

    def _send(self, call: _Call, context: Context) -> None:
        try:
            self._core.loop.call_soon_threadsafe(call.start, context=context)
        except RuntimeError:
            raise ClosedError("the memory was closed") from None

    def _withdraw(self, call: _Call) -> None:
        with contextlib.suppress(RuntimeError):
            self._core.loop.call_soon_threadsafe(call.cancel)
            call.wait(CANCEL_WAIT_S)

    @contextlib.contextmanager
    def deadline(self, seconds: float) -> Generator[None]:
        """Calls of this thread within the block end by then, or raise `TimeoutError`."""
        before = self._due_ns()
        due = self._clock.monotonic_ns() + round(seconds * 1e9)
        self._deadlines.due_ns = due if before is None else min(due, before)
        try:
            yield
        finally:
            self._deadlines.due_ns = before

    def _due_ns(self) -> int | None:
        due: int | None = getattr(self._deadlines, "due_ns", None)
        return due

    def _left_s(self) -> float | None:
        due_ns = self._due_ns()
        if due_ns is None:
            return None
        return max(0.0, (due_ns - self._clock.monotonic_ns()) / 1e9)

    def close(self) -> None:
        """Close the memory, stop the loop, end its thread. Idempotent; in a fork it does nothing."""
        if os.getpid() != self._pid:
            return
        self._check_caller()
        self._is_closed = True
        core = self._core
        if core.loop.is_closed():
            return
        try:
            with contextlib.suppress(ClosedError):
                self._call(core.close)
        finally:
            core.abandon()
            core.thread.join(CANCEL_WAIT_S)

    def _check_caller(self) -> None:
        if os.getpid() != self._pid:
            raise WrongLoopError(f"this memory belongs to process {self._pid}, not to its fork")
        if threading.current_thread() is self._core.thread:
            raise WrongLoopError("the memory's own thread cannot wait for the memory")
