"""What every request passes before the app sees it, and what every response takes along.

Pure ASGI, outermost, so that nothing that the app or its framework does wrong gets past it: no
traceback reaches a client, no body is larger or slower than allowed, and each request leaves one
line in the log and one count in the metrics.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING

from fastapi import HTTPException
from starlette.datastructures import Headers

from nt_memory.apps.server.callers import put_caller
from nt_memory.apps.server.problems import MEDIA_TYPE, encode, problem, refused

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from nt_memory.apps.server.callers import Caller, Door
    from nt_memory.apps.server.settings import ServerSettings
    from nt_memory.apps.server.telemetry import Telemetry
    from nt_memory.clock import Clock

GONE = 499
"""The status that is noted where the client left before there was one; nginx's."""

_STANDING = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
]
_STREAM = b"text/event-stream"

logger: logging.Logger = logging.getLogger("nt_memory.server")
requests: logging.Logger = logging.getLogger("nt_memory.server.request")


class Exchange:
    """One request and what became of it."""

    def __init__(self, scope: Scope, started_ns: int) -> None:
        self.scope = scope
        self.started_ns = started_ns
        self.id: str = secrets.token_hex(8)
        self.status = GONE
        self.is_stream: bool = scope["type"] == "websocket"
        self.has_started = False
        self.caller: Caller | None = None
        self.taken = 0

    @property
    def method(self) -> str:
        """The method; of a WebSocket, that it is one."""
        return str(self.scope.get("method", "WEBSOCKET"))

    @property
    def route(self) -> str:
        """The route that the path met, as it is declared; never the path itself."""
        return str(getattr(self.scope.get("route"), "path", "unmatched"))

    def watch(self, send: Send) -> Send:
        """`send` that notes the status, and adds what all responses have."""

        async def watching(message: Message) -> None:
            if message["type"] in {"http.response.start", "websocket.http.response.start"}:
                self.has_started = True
                self.status = message["status"]
                headers = list(message.get("headers", []))
                self.is_stream = self.is_stream or any(
                    name == b"content-type" and value.startswith(_STREAM) for name, value in headers
                )
                given = {name for name, _ in headers}
                headers += [pair for pair in _STANDING if pair[0] not in given]
                headers.append((b"x-request-id", self.id.encode()))
                message = {**message, "headers": headers}
            elif message["type"] == "websocket.accept":
                self.has_started, self.status = True, 101
            elif message["type"] == "websocket.close" and not self.has_started:
                self.has_started, self.status = True, 403
            await send(message)

        return watching


class Gate:
    """The outermost layer of the app.

    Args:
        app: What comes behind it.
        door: Who may come in.
        settings: How much may come in.
        telemetry: Where requests are counted.
        clock: For durations.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        door: Door,
        settings: ServerSettings,
        telemetry: Telemetry,
        clock: Clock,
    ) -> None:
        self._app = app
        self._door = door
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, self._clock.monotonic_ns())
        watching = exchange.watch(send)
        try:
            await self._admit(exchange)
            if scope["type"] == "http":
                receive = self._limit(exchange, receive)
            await self._app(scope, receive, watching)
        except HTTPException as refusal:
            await _refuse(exchange, watching, refusal)
        except Exception:
            # The whole of it goes into the log, and nothing of it to the client.
            logger.exception("a request failed", extra={"fields": {"request": exchange.id}})
            await _refuse(exchange, watching, refused(500, "an error, noted in the server's log"))
        finally:
            self._note(exchange)

    async def _admit(self, exchange: Exchange) -> None:
        scope = exchange.scope
        headers = Headers(scope=scope)
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self._settings.max_body_bytes:
            raise _too_large(self._settings.max_body_bytes)
        exchange.caller = await self._door.admit(scope["path"], headers)
        put_caller(scope, exchange.caller, exchange.id)

    def _limit(self, exchange: Exchange, receive: Receive) -> Receive:
        """`receive` that gives up on a body that is too large or does not come."""
        limit = self._settings.max_body_bytes
        ends_ns = exchange.started_ns + round(self._settings.body_timeout_s * 1e9)
        is_complete = False

        async def limited() -> Message:
            nonlocal is_complete
            if is_complete:
                return await receive()
            left_s = max(0.0, (ends_ns - self._clock.monotonic_ns()) / 1e9)
            try:
                async with asyncio.timeout(left_s):
                    message = await receive()
            except TimeoutError:
                raise refused(408, "the body did not come in time", connection="close") from None
            if message["type"] == "http.request":
                exchange.taken += len(message.get("body", b""))
                if exchange.taken > limit:
                    raise _too_large(limit)
                is_complete = not message.get("more_body", False)
            return message

        return limited

    def _note(self, exchange: Exchange) -> None:
        seconds = (self._clock.monotonic_ns() - exchange.started_ns) / 1e9
        self._telemetry.note(
            exchange.method,
            exchange.route,
            exchange.status,
            seconds,
            is_stream=exchange.is_stream,
        )
        caller = exchange.caller
        fields = {
            "request": exchange.id,
            "method": exchange.method,
            "route": exchange.route,
            "status": exchange.status,
            "ms": round(seconds * 1e3, 3),
            "bytes_in": exchange.taken,
            "agent": "" if caller is None else caller.agent,
            "token": "" if caller is None else caller.token_id,
        }
        requests.info("request", extra={"fields": fields})


def _too_large(limit: int) -> HTTPException:
    return refused(413, f"a body may have {limit} bytes", connection="close")


async def _refuse(exchange: Exchange, send: Send, refusal: HTTPException) -> None:
    """Answer in the app's place, where it has not begun to answer."""
    if exchange.has_started:
        return
    status = refusal.status_code
    body = encode(problem(status, str(refusal.detail), retryable=status in {408, 429, 503}))
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        *((name.encode(), value.encode()) for name, value in (refusal.headers or {}).items()),
    ]
    kind = "http.response"
    if exchange.scope["type"] == "websocket":
        if "websocket.http.response" not in (exchange.scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": 1008})
            return
        kind = "websocket.http.response"
    elif status != 500:
        # What is left of the request is not read, so the connection cannot be used again.
        headers = [pair for pair in headers if pair[0] != b"connection"] + [
            (b"connection", b"close")
        ]
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})
