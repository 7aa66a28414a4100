"""`nt-memory serve` and `nt-memory token`: a memory over HTTP, and who may use it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nt_memory.apps.cli.commands import Family
from nt_memory.apps.cli.doors import mcp
from nt_memory.apps.cli.options import Store
from nt_memory.apps.cli.running import check_not_served, locate
from nt_memory.errors import InvalidInputError, UnsupportedError

_TokenFile = Annotated[
    Path | None,
    typer.Option("--tokens", metavar="FILE", help="Bearer tokens; `nt-memory token` makes them."),
]


def serve(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")] = 3000,
    store: Store = None,
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
    with_mcp: Annotated[
        bool, typer.Option("--mcp", help="Serve MCP hosts too, at /mcp (streamable HTTP).")
    ] = False,
) -> None:
    """Offer a store over HTTP, until Ctrl-C or SIGTERM; logs are lines of JSON on stderr."""
    check_not_served(store, "what it serves needs no other; name a directory with --store")
    # Slow to import, and only used here.
    from nt_memory.apps.server.settings import ServerSettings, check_exposure  # noqa: PLC0415

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
        from nt_memory.apps.server.logs import log_as_json  # noqa: PLC0415
        from nt_memory.apps.server.running import run  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("nt_memory"):
            raise
        raise UnsupportedError(
            f"serve needs {error.name}: pip install 'nt-memory[server]'"
        ) from None
    log_as_json()
    # A cluster's URL is no whole answer: keys, certificates and where the replica goes are settings.
    is_directory = store is not None and "://" not in store
    target = store if is_directory else locate(store)[0]
    run(
        target,
        settings,
        read_only=read_only,
        mcp=with_mcp,
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
    from nt_memory.apps.server.tokens import OPERATOR, add_token  # noqa: PLC0415 - slow

    if bool(agent) is operator:
        raise InvalidInputError("name an agent, or give --operator, and not both")
    typer.echo(add_token(tokens, OPERATOR if operator else agent))


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = Family(app, "Serving")
    family.add(
        serve,
        "serve --store ./data/memory --mcp",
        "serve --host 0.0.0.0 --tokens tokens --certfile cert.pem --keyfile key.pem",
    )
    family.add(mcp, "mcp --store /home/me/memory --agent claude")
    family.add(token, "token scout --tokens tokens", "token --operator")
