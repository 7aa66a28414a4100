"""A server that runs: opened with its store, stopped by a signal, ended without losing anything."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import uvicorn

from nt_memory import MemorySystem
from nt_memory.apps.server.app import create_app, house_of
from nt_memory.apps.server.callers import caller_of
from nt_memory.apps.server.protocol import guarded_protocol
from nt_memory.apps.server.settings import ServerSettings, check_exposure
from nt_memory.errors import InvalidInputError, UnsupportedError

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from fastapi import FastAPI

    from nt_memory.apps.server.house import House
    from nt_memory.config import MemoryConfig
    from nt_memory.embedders import Embedder

MAX_FRAME_BYTES = 1 << 20
_BACKLOG = 1024

logger: logging.Logger = logging.getLogger("nt_memory.server")


class Server(uvicorn.Server):
    """uvicorn's server, which tells the app that it stops before it waits for requests to end.

    Otherwise a stream, which ends only when it is told to, would be waited for and then cut off.
    """

    def __init__(self, config: uvicorn.Config, house: House) -> None:
        super().__init__(config)
        self._house = house

    def stop(self) -> None:
        """Stop soon, as at a signal; from any thread."""
        self.should_exit = True

    async def shutdown(  # type: ignore[explicit-override]  # typing.override is 3.12
        self, sockets: list[socket.socket] | None = None
    ) -> None:
        """Stop."""
        logger.info("stopping")
        self._house.close()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Generator[None]:  # type: ignore[explicit-override]
        """Stop at SIGINT and SIGTERM, at once at the second SIGINT.

        uvicorn's own raises the signal again once it has stopped, when the store is still open.
        """
        loop = asyncio.get_running_loop()
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.handle_exit, number, None)
        except (RuntimeError, ValueError):
            yield  # not the main thread: whoever runs us here stops us by `should_exit`
            return
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


def make_server(
    memory: MemorySystem,
    settings: ServerSettings,
    *,
    embedder: Embedder[Sequence[str]] | None = None,
) -> Server:
    """A server of an open memory; `await server.serve(sockets=[...])` runs it until it is stopped.

    Raises:
        InvalidInputError: it would be open to whoever likes; see `check_exposure`.
        OSError: tokens, certificate or key cannot be read.
    """
    check_exposure(settings)
    app = create_app(memory, settings, embedder=embedder)
    config = uvicorn.Config(
        app,
        http=guarded_protocol(settings),
        ws="websockets-sansio",
        ws_max_size=MAX_FRAME_BYTES,
        ws_max_queue=8,
        ws_per_message_deflate=False,  # a small frame must not become a large one
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=round(settings.idle_timeout_s),
        timeout_graceful_shutdown=round(settings.grace_s),
        ssl_certfile=settings.certfile,
        ssl_keyfile=settings.keyfile,
    )
    config.load()  # a certificate that cannot be read is said now
    return Server(config, house_of(app))


def listen(settings: ServerSettings) -> socket.socket:
    """The socket of a server.

    Raises:
        InvalidInputError: the host stands for nothing.
        OSError: the port is taken, or not to be had.
    """
    try:
        found = socket.getaddrinfo(
            settings.host or None,
            settings.port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
    except socket.gaierror as error:
        raise InvalidInputError(f"--host {settings.host!r}: {error.strerror}") from None
    family, _, _, _, address = found[0]
    return socket.create_server(address[:2], family=family, backlog=_BACKLOG)


async def serve(
    target: MemoryConfig | str | os.PathLike[str] | None,
    settings: ServerSettings,
    *,
    embedder: Embedder[Sequence[str]] | None = None,
    read_only: bool = False,
    mcp: bool = False,
    started: Callable[[str, Callable[[], None]], None] | None = None,
) -> None:
    """Open a memory, serve it until SIGINT or SIGTERM, and close it.

    Args:
        target: As of `MemorySystem.open`.
        settings: Where and for whom.
        embedder: What makes vectors of texts.
        read_only: Follow a store that another process writes.
        mcp: Serve MCP hosts too, under `/mcp`.
        started: Is told the URL once connections are accepted, and what to call, from any thread, to
            stop.

    Raises:
        InvalidInputError: it would be open to whoever likes; see `check_exposure`.
        NtMemoryError: the memory cannot be opened.
        OSError: the port is taken, or a file cannot be read.
    """
    check_exposure(settings)
    async with MemorySystem.open(target, read_only=read_only) as memory:
        server = make_server(memory, settings, embedder=embedder)
        app: FastAPI = server.config.app  # type: ignore[assignment]
        house = house_of(app)
        if not read_only:
            await house.door.prepare()
        with listen(settings) as listener:
            scheme = "http" if settings.certfile is None else "https"
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            url = f"{scheme}://{host}:{listener.getsockname()[1]}"
            logger.info("serving", extra={"fields": {"url": url, "revision": memory.revision}})
            async with _mcp(app, read_only=read_only) if mcp else nullcontext():
                if started is not None:
                    started(url, server.stop)
                await server.serve(sockets=[listener])
    logger.info("stopped")


@asynccontextmanager
async def _mcp(app: FastAPI, *, read_only: bool) -> AsyncGenerator[None]:
    """MCP at `/mcp` while it lasts, for each caller in the name that its token is of."""
    try:
        from nt_memory.apps.mcp import McpDoor  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UnsupportedError(f"{error.name}: pip install 'nt-memory[mcp]'") from None

    house = house_of(app)
    hosts = (house.settings.host, *house.settings.allowed_hosts)
    door = McpDoor(
        house.memory,
        identify=lambda request: caller_of(request).agent,
        embedder=house.embedder,
        read_only=read_only,
        allowed_hosts=[form for name in hosts for form in (name, f"{name}:*")],
    )
    app.router.routes.append(door.route("/mcp"))
    async with door.running():
        yield


def run(
    target: MemoryConfig | str | os.PathLike[str] | None,
    settings: ServerSettings,
    *,
    embedder: Embedder[Sequence[str]] | None = None,
    read_only: bool = False,
    mcp: bool = False,
    started: Callable[[str, Callable[[], None]], None] | None = None,
) -> None:
    """`serve` on an event loop of its own, the fast one where it is installed; errors as there."""
    factory = uvicorn.Config("", log_config=None).get_loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(
            serve(
                target,
                settings,
                embedder=embedder,
                read_only=read_only,
                mcp=mcp,
                started=started,
            )
        )
