# mypy: disable-error-code="explicit-override"
"""The connection, guarded: headers that do not end or do not come, answers that nobody reads.

uvicorn bounds neither the length of a request's head nor the time it may take, nor how long a client
may leave unread what it asked for; each would hold a connection or memory for ever. The bodies of
requests are the gate's matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio

    from nt_memory.apps.server.settings import ServerSettings

_ANSWERS = {
    408: b"the request's headers did not come in time",
    431: b"the request's headers are too long",
    503: b"too many connections",
}
_PHRASES = {
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}


def guarded_protocol(settings: ServerSettings) -> type[GuardedProtocol]:
    """The class of connections under these settings; uvicorn makes them, so it takes a class."""
    return type("Guarded", (GuardedProtocol,), {"limits": settings})


class GuardedProtocol(HttpToolsProtocol):
    """One connection."""

    limits: ServerSettings

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_bytes = 0
        self._is_in_head = True
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody connected."""
        super().connection_made(transport)
        # Twice as many as are served: those in between get an answer to their request.
        if len(self.connections) > 2 * self.limits.max_connections:
            self._turn_away(503)
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over."""
        self._stop_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self.transport.is_closing():
            return  # already answered; what still comes is not looked at
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_timer is None:
                self._await_head()
        super().data_received(data)
        if self._is_in_head and self._head_bytes > self.limits.max_head_bytes:
            self._turn_away(431)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._is_in_head = True

    def on_headers_complete(self) -> None:
        """Its headers are there."""
        self._stop_timer()
        self._is_in_head = False
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.limits.max_head_bytes:
            self._turn_away(431)
            return
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """It was answered; the next one's head may take as long again."""
        self._is_in_head, self._head_bytes = True, 0
        super().on_response_complete()

    def handle_websocket_upgrade(self) -> None:
        """The connection is another protocol's from here on."""
        self._stop_timer()
        super().handle_websocket_upgrade()

    def pause_writing(self) -> None:
        """The client does not read what it is sent."""
        super().pause_writing()
        self._stop_write_timer()
        self._write_timer = self.loop.call_later(self.limits.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It has read enough of it."""
        self._stop_write_timer()
        super().resume_writing()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.head_timeout_s, self._turn_away, 408)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _turn_away(self, status: int) -> None:
        self._stop_timer()
        if self.transport.is_closing():
            return
        text = _ANSWERS[status]
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: text/plain; charset=utf-8\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%s"
            % (status, _PHRASES[status], len(text), text)
        )
        self.transport.close()
