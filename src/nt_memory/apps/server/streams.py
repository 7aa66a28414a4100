"""Streams: what comes later, sent as it comes, by server-sent events.

A stream ends when the client leaves, the token it was opened with is revoked, or the server stops.
How many there may be is bounded, and half of them is the most that one agent may have, so that no
agent keeps others out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from nt_memory.apps.server.bodies import to_json
from nt_memory.apps.server.callers import Caller
from nt_memory.apps.server.house import House
from nt_memory.apps.server.problems import describe, refused
from nt_memory.errors import BufferOverflowError, CodecError, NtMemoryError

_T = TypeVar("_T")

EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A stream of events, until the client leaves or the server stops.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@contextmanager
def opened(house: House, caller: Caller, kind: str) -> Generator[None]:
    """Count a stream for as long as it is open.

    Raises:
        HTTPException: 429 if there are too many already, 503 if the server stops.
    """
    if house.closing.is_set():
        raise refused(503, "the server is stopping")
    most, mine = house.settings.max_streams, house.streams.get(caller.agent, 0)
    share = most if not caller.agent else max(1, most // 2)
    if sum(house.streams.values()) >= most or mine >= share:
        raise refused(429, "too many streams are open", retry_after="5")
    house.streams[caller.agent] = mine + 1
    house.telemetry.streams.labels(kind).inc()
    try:
        yield
    finally:
        house.telemetry.streams.labels(kind).dec()
        house.streams[caller.agent] -= 1
        if not house.streams[caller.agent]:
            del house.streams[caller.agent]


async def pulses(
    house: House, caller: Caller, take: Callable[[], Awaitable[_T]]
) -> AsyncGenerator[_T | None]:
    """What `take` returns, again and again; None after a while without.

    Ends when the server stops or the caller's token is revoked. `take` must lose nothing when it is
    cancelled. What it raises is raised.
    """
    closing = asyncio.ensure_future(house.closing.wait())
    taking: asyncio.Future[_T] | None = None
    try:
        while not closing.done() and house.door.is_still_in(caller):
            if taking is None:
                taking = asyncio.ensure_future(take())
            waiting: set[asyncio.Future[Any]] = {taking, closing}
            await asyncio.wait(
                waiting,
                timeout=house.settings.heartbeat_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if taking.done():
                done, taking = taking, None
                yield done.result()
            elif not closing.done():
                yield None
    finally:
        closing.cancel()
        if taking is not None:
            taking.cancel()
            with contextlib.suppress(asyncio.CancelledError, NtMemoryError):
                await taking


def event(kind: str, content: object, event_id: str = "") -> bytes:
    """One event. JSON has no line breaks, so nothing in it can pass for another field."""
    head = f"id: {event_id}\n".encode() if event_id else b""
    return b"%sevent: %s\ndata: %s\n\n" % (head, kind.encode(), to_json(content))


def send_events(
    house: House,
    caller: Caller,
    kind: str,
    take: Callable[[], Awaitable[list[bytes]]],
    close: Callable[[], Awaitable[None]],
) -> StreamingResponse:
    """Stream what `take` returns as events.

    Args:
        house: The server.
        caller: Who asked.
        kind: What the metrics count it as.
        take: The next events, already spelled; loses nothing when cancelled.
        close: Lets go of what `take` reads.

    Raises:
        HTTPException: as `opened`.
    """
    count = contextlib.ExitStack()
    count.enter_context(opened(house, caller, kind))

    async def sending() -> AsyncGenerator[bytes]:
        # A comment first, so that the client knows from when on it misses nothing.
        yield b": open\n\n"
        again = True
        while again:
            again = False
            try:
                async with contextlib.aclosing(pulses(house, caller, take)) as taken:
                    async for found in taken:
                        for part in [b": \n\n"] if found is None else found:
                            yield part
            except (BufferOverflowError, CodecError) as error:
                again = True  # something is missing right here; the stream goes on
                yield event("error", describe(error))
            except NtMemoryError as error:
                yield event("error", describe(error))
        yield event("end", {})

    return _Stream(sending(), count, close)


class _Stream(StreamingResponse):
    """A response that lets go of what it reads, however it ends, begun or not."""

    def __init__(
        self,
        content: AsyncGenerator[bytes],
        count: contextlib.ExitStack,
        close: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(
            content, media_type="text/event-stream", headers={"x-accel-buffering": "no"}
        )
        self._content = content
        self._count = count
        self._close = close

    async def __call__(  # type: ignore[explicit-override]  # typing.override is 3.12
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._count.close()
            await self._content.aclose()
            await self._close()
