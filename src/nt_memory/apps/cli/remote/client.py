"""Requests to one server, and streams of events from it; repeated where a connection broke."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

from nt_memory.apps.cli.exits import UnreachableError
from nt_memory.apps.cli.remote.refusals import error_of
from nt_memory.clock import SystemClock
from nt_memory.errors import InvalidInputError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    import httpx

    from nt_memory.apps.cli.remote.address import Address

CONNECT_S = 5.0
PATIENCE_S = 60.0
"""For an answer, on top of what the server itself was asked to wait. Streams pulse every 15 s."""
_LOOK_AGAIN_S = 0.1
_REFUSED = 400
_MAX_EVENT_BYTES = 64 << 20


class Event(NamedTuple):
    """One event of a stream."""

    kind: str
    content: dict[str, Any]
    id: str


class Client:
    """Asks one server, from one event loop.

    Args:
        address: Where it is, and who asks.
        wait: Seconds to wait for a server that is not there yet.

    Raises:
        UnsupportedError: httpx is not installed.
    """

    def __init__(self, address: Address, *, wait: float = 0.0) -> None:
        self._httpx = _import_httpx()
        self._address = address
        self._wait_s = wait
        self._clock = SystemClock()
        # A proxy of the environment's is for what is outside; this machine is not.
        self._http: httpx.AsyncClient = self._httpx.AsyncClient(
            headers=address.headers, trust_env=not address.is_local
        )

    @property
    def url(self) -> str:
        """Where the server is, without credentials."""
        return self._address.url

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        waits: float = 0.0,
        repeats: bool = True,
        request_id: str | None = None,
    ) -> Any:
        """Send a request; what it answers.

        A request whose connection broke is sent once more under the same id, so it acts once.

        Args:
            method: As HTTP has it.
            path: Below `/v1`, quoted.
            body: Plain values, or None.
            query: What is None is left out.
            waits: Seconds the server may wait before it answers.
            repeats: Whether sending it twice is harmless.
            request_id: Under which id; made up by default.

        Raises:
            NtMemoryError: as the call in process.
            UnreachableError: the server is not there, or is another kind of server.
        """
        content = None if body is None else _encode(body)
        headers = {} if content is None else {"content-type": "application/json"}
        if method != "GET":
            headers["idempotency-key"] = request_id or uuid.uuid4().hex
        request = self._http.build_request(
            method,
            f"{self.url}/v1{path}",
            params=_given(query),
            content=content,
            headers=headers,
            timeout=self._httpx.Timeout(PATIENCE_S + waits, connect=CONNECT_S),
        )
        response = await self._sent(request, repeats=repeats)
        return self._read(response.status_code, response.content)

    async def events(
        self, path: str, query: Mapping[str, Any] | None = None
    ) -> AsyncGenerator[Event]:
        """The events of a stream, as they come.

        Raises:
            NtMemoryError: as the call in process; also what an `error` event tells of.
            UnreachableError: the connection broke, or the server ended the stream.
        """
        request = self._http.build_request(
            "GET",
            f"{self.url}/v1{path}",
            params=_given(query),
            headers={"accept": "text/event-stream"},
            timeout=self._httpx.Timeout(PATIENCE_S, connect=CONNECT_S),
        )
        response = await self._sent(request, stream=True)
        try:
            kind = response.headers.get("content-type", "")
            if response.status_code >= _REFUSED or not kind.startswith("text/event-stream"):
                self._read(response.status_code, await response.aread())
                raise self._foreign(response.status_code)
            async for event in self._events_of(response):
                if event.kind == "error":
                    raise error_of(event.content)
                if event.kind == "end":
                    raise UnreachableError(
                        f"{self.url} ended the stream: it stops, or the token does"
                    )
                yield event
        except self._httpx.RequestError as error:
            raise UnreachableError(f"{self.url}: the connection broke: {_why(error)}") from None
        finally:
            await response.aclose()

    async def _events_of(self, response: httpx.Response) -> AsyncGenerator[Event]:
        # Not httpx's lines: those end at U+2028 and the like too, which values may have in them.
        rest = b""
        async for piece in response.aiter_bytes():
            *events, rest = (rest + piece).replace(b"\r\n", b"\n").split(b"\n\n")
            if len(rest) > _MAX_EVENT_BYTES:
                raise self._foreign(response.status_code)
            for text in events:
                fields = dict(_field(line) for line in text.split(b"\n") if line[:1] != b":")
                if b"data" in fields:
                    content = self._decoded(fields[b"data"], response.status_code)
                    yield Event(
                        fields.get(b"event", b"").decode(),
                        content,
                        fields.get(b"id", b"").decode(),
                    )

    async def _sent(
        self, request: httpx.Request, *, stream: bool = False, repeats: bool = True
    ) -> httpx.Response:
        deadline_ns = self._clock.monotonic_ns() + round(self._wait_s * 1e9)
        tries_left = 1 if repeats else 0
        while True:
            try:
                return await self._http.send(request, stream=stream)
            except (self._httpx.ConnectError, self._httpx.ConnectTimeout) as error:
                if self._clock.monotonic_ns() >= deadline_ns:
                    raise UnreachableError(f"{self.url} cannot be reached: {_why(error)}") from None
                await self._clock.sleep(_LOOK_AGAIN_S)
            except self._httpx.TimeoutException:
                raise UnreachableError(f"{self.url} does not answer") from None
            except self._httpx.RequestError as error:
                if not tries_left:
                    raise UnreachableError(
                        f"{self.url}: the connection broke: {_why(error)}"
                    ) from None
                tries_left -= 1

    def _read(self, status: int, content: bytes) -> Any:
        found = self._decoded(content, status)
        if status >= _REFUSED:
            raise error_of(found)
        return found

    def _decoded(self, content: bytes, status: int) -> dict[str, Any]:
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or (not 200 <= status < 300 and "title" not in found):
            raise self._foreign(status)
        return found

    def _foreign(self, status: int) -> UnreachableError:
        return UnreachableError(
            f"{self.url} answers with {status}, and not as an nt-memory server of this version"
        )


def _field(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name, value.removeprefix(b" ")


def _given(query: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (query or {}).items() if value is not None}


def _encode(body: Any) -> bytes:
    try:
        return json.dumps(body, allow_nan=False, ensure_ascii=True).encode()
    except ValueError as error:
        raise InvalidInputError(f"not a value: {error}") from None


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__


def _import_httpx() -> Any:
    try:
        import httpx  # noqa: PLC0415 - an extra
    except ImportError:
        raise UnsupportedError(
            "a store behind http:// needs httpx: pip install 'nt-memory[client]'"
        ) from None
    return httpx
