"""TCP connections that can be cut, held and slowed: ports that lead to other ports.

A wire listens on loopback and passes on what it gets. What stands on either side needs no rights and
notices nothing until the wire is told to misbehave:

- `drop`: every connection is reset, and new ones are let through;
- `cut`: every connection is reset, and so is every new one: the far side says that nobody is there;
- `hold`: connections stay and nothing comes through them, either way or one way; new ones are taken and
  hear nothing: the far side says nothing at all, as when packets are lost on the way. What was held
  arrives when the wire is mended, as what TCP sends again does;
- `slow`: everything arrives later by so many seconds, in its order.

Wires live on a thread and an event loop of their own, so that they pass on what they get while the
program that made them is busy.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, Literal

from nt_memory.clock import SystemClock, turn

if TYPE_CHECKING:
    from collections.abc import Callable

Way = Literal["both", "there", "back"]
"""`there`: from who connects to what listens; `back`: the other way."""

LOOPBACK: Final = "127.0.0.1"
_CHUNK_BYTES: Final = 64 << 10
_ON_THE_WAY: Final = 1024
"""Most chunks of a slow connection; then its sender waits, as for a full window."""
_CALL_S: Final = 10.0
_RESET: Final = struct.pack("ii", 1, 0)


class Wire:
    """One port that leads to another; made by `Wires.lead`. Its calls may come from any thread.

    Attributes:
        port: Where it listens.
        target: Where it leads: an address and a port.
    """

    def __init__(
        self, call: Callable[..., Any], target: tuple[str, int], listening: socket.socket
    ) -> None:
        self.target: tuple[str, int] = target
        self.port: int = listening.getsockname()[1]
        self._listening = listening
        self._call = call
        self._clock = SystemClock()
        self._server: asyncio.Server | None = None
        self._pairs: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._is_cut = False
        self._delay_s = 0.0
        self._passes: dict[str, asyncio.Event] = {}

    @property
    def connections(self) -> int:
        """How many go through it now."""
        return len(self._pairs)

    def drop(self) -> None:
        """Reset every connection; whoever connects again gets through."""
        self._call(self._reset_all)

    def cut(self) -> None:
        """Reset every connection, and every new one."""

        def cut() -> None:
            self._is_cut = True
            self._reset_all()

        self._call(cut)

    def hold(self, way: Way = "both") -> None:
        """Let nothing through, and keep the connections."""

        def hold() -> None:
            for each in ("there", "back") if way == "both" else (way,):
                self._passes[each].clear()

        self._call(hold)

    def slow(self, delay_s: float) -> None:
        """Have everything arrive `delay_s` later, each way."""
        self._delay_s = delay_s

    def mend(self) -> None:
        """Let everything through, at once."""

        def mend() -> None:
            self._is_cut, self._delay_s = False, 0.0
            for passes in self._passes.values():
                passes.set()

        self._call(mend)

    # --- the loop of all wires ------------------------------------------------------------------

    async def open(self) -> None:
        """Begin to listen; for `Wires`."""
        for way in ("there", "back"):
            self._passes[way] = asyncio.Event()
            self._passes[way].set()
        self._server = await asyncio.start_server(self._connected, sock=self._listening)

    async def close(self) -> None:
        """End it; for `Wires`."""
        if self._server is not None:
            self._server.close()
        self._is_cut = True
        tasks = list(self._pairs)
        self._reset_all()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await turn()  # an aborted transport closes its socket in the loop's next turn

    def _reset_all(self) -> None:
        for task, writers in list(self._pairs.items()):
            for writer in writers:
                _reset(writer)
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - streams run this as one
        if self._is_cut:
            _reset(writer)
            return
        writers = self._pairs[task] = [writer]
        try:
            await self._passes["there"].wait()  # the far side does not hear of it before
            there, back = await asyncio.open_connection(*self.target)
            writers.append(back)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carry(reader, back, "there"))
                both.create_task(self._carry(there, writer, "back"))
        except* OSError:
            pass  # one side has gone, which the other learns below
        except* asyncio.CancelledError:
            pass
        finally:
            del self._pairs[task]
            for each in writers:
                _reset(each)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str
    ) -> None:
        """One way of a connection, until its end has come through."""
        coming: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue(_ON_THE_WAY)

        async def take() -> None:
            while data := await reader.read(_CHUNK_BYTES):
                await coming.put((self._clock.monotonic_ns(), data))
            await coming.put((self._clock.monotonic_ns(), b""))

        async with asyncio.TaskGroup() as group:
            group.create_task(take())
            while True:
                came_ns, data = await coming.get()
                late_s = (came_ns - self._clock.monotonic_ns()) / 1e9 + self._delay_s
                if late_s > 0:
                    await self._clock.sleep(late_s)
                await self._passes[way].wait()
                if not data:
                    raise ConnectionResetError  # neither side speaks to a half-closed one
                writer.write(data)
                await writer.drain()


class Wires:
    """Any number of wires, and the thread they live on. Closed by `close`.

    Args:
        enter: Called first on that thread. With `netns.Host.enter` wires lead from this machine's
            loopback to what listens on the hosts of a network that it has no part in.

    Raises:
        OSError: what `enter` raised.
    """

    def __init__(self, enter: Callable[[], object] | None = None) -> None:
        self._enter = enter
        self._entered: Future[None] = Future()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="nt-memory-wires", daemon=True)
        self._thread.start()
        self._wires: list[Wire] = []
        try:
            self._entered.result()
        except BaseException:
            self._loop.close()
            raise

    def lead(self, target: int, *, host: str = LOOPBACK, port: int = 0) -> Wire:
        """A new wire, whether or not somebody listens at its far end yet.

        Args:
            target: The port it leads to.
            host: The address it leads to.
            port: Where it listens on loopback; 0: a free one.
        """
        # Made here, and not on the thread of the wires, which may be in another network.
        wire = Wire(self._do, (host, target), socket.create_server((LOOPBACK, port)))
        self._await(wire.open())
        self._wires.append(wire)
        return wire

    def close(self) -> None:
        """Reset every connection and end the thread. Idempotent."""
        if self._loop.is_closed():
            return
        for wire in self._wires:
            with contextlib.suppress(OSError):
                self._await(wire.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        try:
            if self._enter is not None:
                self._enter()
        except OSError as error:
            self._entered.set_exception(error)
            return
        self._entered.set_result(None)
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _await(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_S)

    def _do(self, function: Callable[[], object]) -> None:
        async def do() -> None:
            function()

        self._await(do())


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection so that the other side gets a reset rather than an end."""
    found = writer.get_extra_info("socket")
    if found is not None:
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
