"""Messages: published by a request or over a WebSocket, received as events or over a WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Response, WebSocket
from fastapi.exceptions import HTTPException
from pydantic import BaseModel, Field, ValidationError
from starlette.websockets import WebSocketDisconnect

from nt_memory.apps.server.bodies import (
    OFF_LOOP_BYTES,
    PROBLEMS,
    Body,
    StrictRoute,
    Value,
    Whole,
    reply,
    size_of,
    to_value,
)
from nt_memory.apps.server.callers import Caller, Me, caller_of
from nt_memory.apps.server.house import Here, House, house_of
from nt_memory.apps.server.problems import describe, problem
from nt_memory.apps.server.streams import EVENTS, event, opened, pulses, send_events
from nt_memory.codec.plain import to_plain
from nt_memory.coordination.receivers import Receiver
from nt_memory.errors import BufferOverflowError, CodecError, NtMemoryError

MAX_BUFFER = 10_000
_GOING_AWAY = 1001
_POLICY = 1008

router: APIRouter = APIRouter(
    prefix="/v1", tags=["messages"], responses=PROBLEMS, route_class=StrictRoute
)

Pattern = Annotated[
    str,
    Query(min_length=1, max_length=256, description="A topic; `*` is one level, `**` the rest."),
]
Buffer = Annotated[
    Whole, Query(ge=1, le=MAX_BUFFER, description="Messages kept if you read slowly.")
]
Overflow = Annotated[Literal["drop_oldest", "error"], Query()]


class PublishIn(Body):
    """A message."""

    topic: Annotated[str, Field(min_length=1, max_length=256)]
    message: Value = None


class PublishedOut(BaseModel):
    """How many subscriptions a message reached."""

    reached: int


@router.post("/messages", response_model=PublishedOut)
async def publish(me: Me, body: PublishIn) -> Response:
    """Send a message to all who subscribe to its topic now."""
    return reply({"reached": await me.memory.publish(body.topic, to_value(body.message))})


@router.get("/messages", responses=EVENTS, response_class=Response)
async def subscribe(
    me: Me,
    house: Here,
    pattern: Pattern,
    buffer: Buffer = 1024,
    overflow: Overflow = "drop_oldest",
) -> Response:
    """Receive messages as events, from the first line of the response on.

    Events are `message`, `dropped` (how many messages a slow reader has lost since it subscribed),
    `error` and, when the server stops, `end`.
    """
    receiver = await me.memory.subscribe(pattern, buffer=buffer, overflow=overflow)
    inbox = Inbox(receiver)

    async def take() -> list[bytes]:
        return [event(kind, content) for kind, content in await inbox.take()]

    try:
        return send_events(house, me, "messages", take, receiver.close)
    except HTTPException:
        await receiver.close()
        raise


class Inbox:
    """A receiver whose losses are told between its messages."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._told = 0

    async def take(self) -> list[tuple[str, dict[str, Any]]]:
        """The next message, after word of those that were lost before it."""
        message = await self._receiver.recv_message()
        found: list[tuple[str, dict[str, Any]]] = []
        if self._receiver.dropped != self._told:
            self._told = self._receiver.dropped
            found.append(("dropped", {"dropped": self._told}))
        if size_of(message.value) > OFF_LOOP_BYTES:
            plain = await asyncio.to_thread(to_plain, message.value)
        else:
            plain = to_plain(message.value)
        content = {"topic": message.topic, "message": plain}
        found.append(("message", content))
        return found


@router.websocket("/messages/ws")
async def talk(
    websocket: WebSocket,
    pattern: Annotated[list[str] | None, Query(max_length=16)] = None,
    buffer: Buffer = 1024,
) -> None:
    """Receive what is published under some patterns, and publish, over one connection.

    The server sends objects with a `type`: `message`, `dropped`, `published`, `error`. The client
    sends `{"topic", "message"}`, and gets a `published` or an `error` for each, in order.
    """
    house, me = house_of(websocket), caller_of(websocket)
    async with contextlib.AsyncExitStack() as open_parts:
        receivers: list[Receiver] = []
        try:
            open_parts.enter_context(opened(house, me, "websocket"))
            for one in pattern or ():
                receivers.append(await me.memory.subscribe(one, buffer=buffer))
                open_parts.push_async_callback(receivers[-1].close)
        except (HTTPException, NtMemoryError) as error:
            await _refuse(websocket, error)
            return
        await websocket.accept()
        sending = asyncio.Lock()
        parts = [_forward(websocket, house, me, one, sending) for one in receivers]
        parts += [_listen(websocket, me, sending), _until_closed(house, me)]
        tasks = [asyncio.ensure_future(part) for part in parts]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        if not any(isinstance(one, WebSocketDisconnect) for one in ended):
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await websocket.close(_GOING_AWAY if house.closing.is_set() else _POLICY)


async def _forward(
    websocket: WebSocket, house: House, me: Caller, receiver: Receiver, sending: asyncio.Lock
) -> None:
    inbox = Inbox(receiver)
    while not house.closing.is_set():
        try:
            async with contextlib.aclosing(pulses(house, me, inbox.take)) as taken:
                async for found in taken:
                    for kind, content in found or ():
                        await _send(websocket, {"type": kind, **content}, sending)
        except (BufferOverflowError, CodecError) as error:
            await _send(websocket, {"type": "error", **describe(error)}, sending)
        else:
            return


async def _listen(websocket: WebSocket, me: Caller, sending: asyncio.Lock) -> None:
    """Publish what the client sends; one bad frame is answered and harms no other."""
    while True:
        try:
            frame = PublishIn.model_validate(json.loads(await websocket.receive_text()))
            reached = await me.memory.publish(frame.topic, to_value(frame.message))
            answer: dict[str, Any] = {"type": "published", "reached": reached}
        except NtMemoryError as error:
            answer = {**describe(error), "type": "error"}
        except (ValidationError, ValueError, RecursionError, KeyError):
            text = 'a frame must be {"topic": ..., "message": ...}'
            answer = {**problem(400, text), "type": "error"}
        await _send(websocket, answer, sending)


async def _until_closed(house: House, me: Caller) -> None:
    """Return once the server stops, or the token is revoked."""

    async def never() -> None:
        await asyncio.get_running_loop().create_future()

    async with contextlib.aclosing(pulses(house, me, never)) as taken:
        async for _ in taken:
            pass


async def _send(websocket: WebSocket, content: dict[str, Any], sending: asyncio.Lock) -> None:
    async with sending:
        await websocket.send_text(msgspec.json.encode(content).decode())


async def _refuse(websocket: WebSocket, error: HTTPException | NtMemoryError) -> None:
    if isinstance(error, HTTPException):
        document = problem(error.status_code, str(error.detail))
    else:
        document = describe(error)
    response = reply(document, document["status"])
    response.headers["content-type"] = "application/problem+json"
    await websocket.send_denial_response(response)
