"""One connection to a cluster's servers, on a thread and an event loop of its own.

The loop that a memory belongs to may be held up by whatever the program does; this one is not, so
that heartbeats are answered and messages taken off the wire all the same. nats-py reconnects by
itself, for as long as it takes; only the first connection has a deadline.

A server tells of a refused publish or subscription by an error message alone, which nats-py hands to
a callback that knows of no call. The subject in it is matched with the calls in flight here.

Servers that no longer know a node's credentials hang up, and refuse it until they know them again. nats-py
takes the first for the end; here it is another reason to reconnect. Meanwhile calls are told.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
import threading
from concurrent.futures import CancelledError as AbandonedError
from typing import TYPE_CHECKING, Any, Final

import nats.errors

from nt_memory.clock import SystemClock
from nt_memory.errors import (
    ClosedError,
    DisconnectedError,
    InvalidInputError,
    PermissionDeniedError,
    UnsupportedError,
)
from nt_memory.transport.nats.address import Credentials, parse_url, show_url
from nt_memory.transport.nats.client import (
    REFUSED,
    ApiError,
    Patience,
    RefusedError,
    SteadyClient,
    unanswered,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future

    from nats.aio.client import Client
    from nats.aio.msg import Msg

    from nt_memory.transport.nats.subjects import Subjects

CONNECT_S: Final = 10.0
CALL_S: Final = 5.0
RECONNECT_WAIT_S: Final = 0.2
LEAST_PAYLOAD_BYTES: Final = 1 << 20
_CLOSE_S: Final = 2.0
_DENIED = re.compile(
    r'permissions violation for (publish|subscription) to "([^"]+)"', re.IGNORECASE
)
_READS: Final = ("STREAM.INFO.", "STREAM.MSG.GET.", "CONSUMER.INFO.")
_MANY_DENIED: Final = 4096


class Link:
    """A connection. `open` and `close` are called once, from any thread but its own.

    Args:
        url: Of the servers.
        subjects: The swarm's.
        agent: Who this node is; "" is the operator.
        credentials: How it shows that.
    """

    def __init__(
        self,
        url: str,
        subjects: Subjects,
        *,
        agent: str = "",
        credentials: Credentials | None = None,
    ) -> None:
        self.subjects = subjects
        self.agent = agent
        self.name: str = show_url(url)
        self._servers, _ = parse_url(url)
        self._credentials = credentials or Credentials()
        self._clock = SystemClock()
        self.loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="nt-memory-nats", daemon=True)
        self._client: Client | None = None
        self._last_error = ""
        self._connecting: Client | None = None
        self._refusals = 0  # of credentials, since they were good for a connection
        self._inbox = self.subjects.inbox(agent).lower()
        self._waiting: dict[str, set[asyncio.Future[Any]]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.denied: set[str] = set()
        self.on_connected: list[Callable[[], None]] = []
        self._is_closed = False
        self._patience = Patience()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    # --- life ---------------------------------------------------------------------------------

    def open(self) -> None:
        """Connect.

        Raises:
            DisconnectedError: no server could be reached in time.
            PermissionDeniedError: the servers do not know these credentials.
            InvalidInputError: certificates or credentials cannot be read.
        """
        tls = self._credentials.tls(self._servers)
        self._thread.start()
        try:
            self.call(self._connect(tls), CONNECT_S + _CLOSE_S)
        except BaseException:
            self.close()
            raise

    async def _connect(self, tls: ssl.SSLContext | None) -> None:
        client = SteadyClient()
        given = self._credentials
        connecting = client.connect(
            servers=self._servers,
            name="nt-memory" + (f" {self.agent}" if self.agent else ""),
            connect_timeout=2,
            reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]  # it only sleeps it
            max_reconnect_attempts=-1,
            ping_interval=2,
            max_outstanding_pings=2,
            no_echo=True,
            tls=tls,
            user_credentials=None if given.file is None else str(given.file),
            nkeys_seed=None if given.nkey_file is None else str(given.nkey_file),
            inbox_prefix=self.subjects.inbox(self.agent),
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_reconnected,
        )
        self._connecting = client
        try:
            await asyncio.wait_for(connecting, CONNECT_S)
        except FileNotFoundError as error:
            raise InvalidInputError(f"the credentials cannot be read: {error}") from None
        except (TimeoutError, OSError, nats.errors.Error) as error:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(client.close(), _CLOSE_S)
            said = self._last_error or str(error) or type(error).__name__
            if self._refusals:
                raise PermissionDeniedError(self._refusal()) from None
            raise DisconnectedError(f"{self.name}: no server could be reached: {said}") from None
        self._client, self._connecting = client, None
        if client.max_payload < LEAST_PAYLOAD_BYTES:
            raise UnsupportedError(
                f"{self.name}: the servers take messages of {client.max_payload} bytes; a swarm needs "
                f"{LEAST_PAYLOAD_BYTES} (max_payload)"
            )

    def _refusal(self) -> str:
        return f"{self.name}: {self._credentials.refusal(self._servers)}"

    def close(self) -> None:
        """Disconnect and end the thread. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._thread.ident is not None:
            if self._client is not None:
                with contextlib.suppress(Exception):
                    self._post(self._client.close()).result(_CLOSE_S)
            with contextlib.suppress(Exception):
                self._post(_cancel_rest()).result(_CLOSE_S)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
        self.loop.close()

    @property
    def client(self) -> Client:
        """The client; for the link's own loop."""
        assert self._client is not None  # noqa: S101 - nobody asks before `open`
        return self._client

    @property
    def is_connected(self) -> bool:
        """Whether a server is connected now, as far as is known."""
        return self._client is not None and self._client.is_connected

    @property
    def is_refused(self) -> bool:
        """Whether the servers do not let this node in: as often as there are servers, one after another."""
        return not self.is_connected and self._refusals >= len(self._servers)

    def check_connected(self) -> None:
        """Raise if nothing can be sent now.

        Raises:
            RefusedError: the servers do not let this node in.
            DisconnectedError: none is connected.
        """
        self.check_let_in()
        if not self.is_connected:
            raise DisconnectedError(f"{self.name}: no server is connected")

    def check_let_in(self) -> None:
        """Raise a `RefusedError` if the servers do not let this node in."""
        if self.is_refused:
            raise RefusedError(
                f"{self._refusal()}. Nothing is written or sent until they let this node in again. What was "
                "under way may have been stored: repeat it then, under its request_id"
            )

    @property
    def is_over(self) -> bool:
        """Whether it was closed, by this side or for good by the servers."""
        return self._is_closed or (self._client is not None and self._client.is_closed)

    @property
    def is_clustered(self) -> bool:
        """Whether the server is one of several."""
        return bool(self.client._server_info.get("cluster"))  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]

    # --- calls --------------------------------------------------------------------------------

    def _post(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def call(self, work: Coroutine[Any, Any, Any], timeout_s: float) -> Any:
        """Have the link's loop do something, and wait for it. From any other thread.

        Raises:
            DisconnectedError: it took too long.
            ClosedError: the link was closed.
        """
        if self.loop.is_closed():
            work.close()
            raise ClosedError("the connection was closed")
        posted = self._post(work)
        try:
            return posted.result(timeout_s)
        except TimeoutError:
            posted.cancel()
            raise DisconnectedError(f"{self.name}: no answer within {timeout_s} s") from None
        except (asyncio.CancelledError, AbandonedError):
            raise ClosedError("the connection was closed") from None

    def post(self, function: Callable[..., None], *arguments: Any) -> None:
        """Have the link's loop call something; dropped if the link is closed."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function, *arguments)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do something on the link's loop, in its own time. On that loop."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def ask(
        self,
        subject: str,
        payload: bytes,
        headers: dict[str, str] | None = None,
        *,
        timeout_s: float = CALL_S,
    ) -> Msg:
        """Publish a request and wait for the answer. On the link's loop.

        Raises:
            PermissionDeniedError: this node may not publish there, or is not let in.
            DisconnectedError: no answer: whether it arrived is not known.
        """
        self.check_let_in()
        refused: asyncio.Future[Any] = self.loop.create_future()
        if any(denied.startswith(self._inbox) for denied in self.denied):
            raise _denied("subscribe", self._inbox)
        spelled = subject.lower()  # as `_on_error` is told
        waiting = self._waiting.setdefault(spelled, set())
        waiting.add(refused)
        asking = asyncio.ensure_future(
            self.client.request(subject, payload, timeout=timeout_s, headers=headers)
        )
        try:
            await asyncio.wait({asking, refused}, return_when=asyncio.FIRST_COMPLETED)
            if refused.done() and not asking.done():
                if refused.result() == "publish":
                    raise _denied("publish", subject)
                raise _denied("subscribe", self._inbox)
            return await asking
        except PermissionDeniedError:  # which is an OSError, too
            raise
        except (TimeoutError, OSError, nats.errors.Error) as error:
            await self._go_unanswered()
            raise DisconnectedError(f"{self.name}: {unanswered(error)}") from None
        finally:
            asking.cancel()
            waiting.discard(refused)
            if not waiting:
                self._waiting.pop(spelled, None)

    async def ask_api(
        self, what: str, body: dict[str, Any], *, timeout_s: float = CALL_S
    ) -> dict[str, Any]:
        """Ask JetStream's API.

        Raises:
            ApiError: it refuses.
            PermissionDeniedError, DisconnectedError: as `ask`.
        """
        answer = await self.ask(f"$JS.API.{what}", json.dumps(body).encode(), timeout_s=timeout_s)
        return await self._said(answer, is_read=what.startswith(_READS))

    async def store(
        self, subject: str, data: bytes, headers: dict[str, str], *, timeout_s: float
    ) -> int:
        """Have a stream store a message; its place there.

        Raises:
            ApiError: it refuses.
            PermissionDeniedError, DisconnectedError: as `ask`.
        """
        answer = await self.ask(subject, data, headers, timeout_s=timeout_s)
        return int((await self._said(answer))["seq"])

    async def _said(self, answer: Msg, *, is_read: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(answer.data)
        if "error" not in found:
            if not is_read:  # which a leader answers that a majority has left
                self._patience.renew()
            return found
        error = ApiError(found["error"])
        if error.is_of_no_use:
            await self._go_unanswered()
        raise error

    async def _go_unanswered(self) -> None:
        """Find another server once this one has been of no use for long, though it is connected."""
        is_over = self._patience.is_over(self._clock.monotonic_ns())
        if is_over and len(self._servers) > 1 and self.is_connected:
            await self.client.force_reconnect()

    async def check(self) -> None:
        """Wait until a server has seen all that was published and subscribed: refusals are known then.

        Raises:
            DisconnectedError: no server answers.
        """
        try:
            for _ in range(2):  # nats-py sends a ping ahead of what waits to be sent
                await self.client.flush(int(CALL_S))
        except (TimeoutError, OSError, nats.errors.Error) as error:
            raise DisconnectedError(f"{self.name}: no answer: {error}") from None

    async def _on_error(self, error: Exception) -> None:
        self._last_error = str(error)
        if REFUSED.search(self._last_error):
            self._refusals += 1
            if self._connecting is not None:
                # Whoever opens a memory is told at once, rather than kept waiting.
                self._connecting.options["allow_reconnect"] = False
        found = _DENIED.search(self._last_error)
        if found is None:
            return
        kind, subject = found.groups()  # nats-py makes it all lower case
        if len(self.denied) < _MANY_DENIED:
            self.denied.add(subject)
        # Who may not hear answers has none to wait for, whatever was asked.
        is_deaf = subject.startswith(self._inbox)
        waiting = (
            set().union(*self._waiting.values()) if is_deaf else self._waiting.get(subject, ())
        )
        for refused in waiting:
            if not refused.done():
                refused.set_result(kind)

    async def _on_disconnected(self) -> None:
        self.denied.clear()  # by another server, or another configuration: it says so anew

    async def _on_reconnected(self) -> None:
        self._refusals = 0
        for told in self.on_connected:
            told()


def _denied(what: str, subject: str) -> PermissionDeniedError:
    return PermissionDeniedError(
        f"the servers do not let this node {what} to {subject!r}", right=what, target=subject
    )


async def _cancel_rest() -> None:
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
