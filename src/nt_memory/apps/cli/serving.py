"""`nt-memory serve` and `nt-memory token`: a memory over HTTP, and who may use it."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nt_memory import MemoryConfig
from nt_memory.apps.server.settings import ServerSettings, check_exposure
from nt_memory.apps.server.tokens import OPERATOR, add_token
from nt_memory.errors import InvalidInputError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

_TokenFile = Annotated[
    Path | None,
    typer.Option("--tokens", metavar="FILE", help="Bearer tokens; `nt-memory token` makes them."),
]


def serve(  # noqa: PLR0913 - a command's options are its arguments
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")] = 3000,
    store: Annotated[
        Path | None,
        typer.Option(
            "--store",
            metavar="DIR",
            help="Directory of the store. Default: what NT_MEMORY_* says, or ./data/memory.",
        ),
    ] = None,
    tokens: _TokenFile = None,
    certfile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificate chain for TLS, PEM.")
    ] = None,
    keyfile: Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key.")] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="Something else ends TLS before requests come.")
    ] = False,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Another name this server is asked under; repeatable."),
    ] = None,
    max_body_mb: Annotated[
        int, typer.Option(min=1, max=1024, help="Largest body of a request, MiB.")
    ] = 16,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Follow a store that another process writes.")
    ] = False,
) -> None:
    """Offer a store over HTTP, until Ctrl-C or SIGTERM; logs are lines of JSON on stderr."""
    settings = ServerSettings(
        host=host,
        port=port,
        tokens=tokens,
        certfile=certfile,
        keyfile=keyfile,
        is_behind_proxy=behind_proxy,
        allowed_hosts=tuple(allowed_host or ()),
        max_body_bytes=max_body_mb << 20,
    )
    check_exposure(settings)
    try:
        # Slow to import, and only used here.
        from nt_memory.apps.server.logs import log_as_json  # noqa: PLC0415
        from nt_memory.apps.server.running import run  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("nt_memory"):
            raise
        raise UnsupportedError(
            f"serve needs {error.name}: pip install 'nt-memory[server]'"
        ) from None
    log_as_json()
    target = MemoryConfig.from_env() if store is None else store
    run(
        target,
        settings,
        read_only=read_only,
        started=lambda url, _: typer.echo(f"serving {url}, Ctrl-C stops"),
    )


def token(
    agent: Annotated[
        str, typer.Argument(help="In whose name it acts, such as scout.", show_default=False)
    ] = "",
    *,
    tokens: Annotated[
        Path, typer.Option("--tokens", metavar="FILE", help="Where its hash goes; made if missing.")
    ] = Path("tokens"),
    operator: Annotated[
        bool, typer.Option("--operator", help="For no agent: it may do anything.")
    ] = False,
) -> None:
    """Make a bearer token for `serve` and print it: only its hash is kept."""
    if bool(agent) is operator:
        raise InvalidInputError("name an agent, or give --operator, and not both")
    typer.echo(add_token(tokens, OPERATOR if operator else agent))


def register(app: typer.Typer, reported: Callable[[], AbstractContextManager[None]]) -> None:
    """Add the commands to `app`; errors in them are `reported` as in its others."""
    examples: list[tuple[Callable[..., None], str]] = [
        (
            serve,
            "Examples: `nt-memory serve --store ./data/memory`; `nt-memory serve --host 0.0.0.0 "
            "--tokens tokens --certfile cert.pem --keyfile key.pem`",
        ),
        (token, "Examples: `nt-memory token scout --tokens tokens`; `nt-memory token --operator`"),
    ]
    for command, example in examples:
        app.command(epilog=example)(_within(command, reported))


def _within(
    command: Callable[..., None], reported: Callable[[], AbstractContextManager[None]]
) -> Callable[..., None]:
    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        with reported():
            command(*args, **kwargs)

    return run
