"""`nt-memory up`, `down` and `enrol`: NATS servers on this machine, for a swarm in several processes."""

from __future__ import annotations

import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from nt_memory.apps.cli import printing
from nt_memory.apps.cli.commands import Family
from nt_memory.apps.cli.options import AsJson
from nt_memory.apps.cli.running import StoppedError, run
from nt_memory.errors import InvalidInputError, NoStoreError

if TYPE_CHECKING:
    from nt_memory.transport.nats.servers.fleet import Fleet

IN_USE = "nt-memory down stops it"
_Directory = Annotated[
    Path, typer.Option("--dir", metavar="DIR", help="Where servers, keys and streams are kept.")
]


def up(
    *,
    nodes: Annotated[
        int | None,
        typer.Option(metavar="1|3", help="How many servers. [default: 1, or as DIR was made]"),
    ] = None,
    directory: _Directory = Path("data/servers"),
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65533,
            help="Of the first server, the next for the others. [default: as DIR was made, or free]",
        ),
    ] = None,
    swarm: Annotated[
        str | None, typer.Option(help="Name of the swarm. [default: as DIR was made, or default]")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when they are ready, and let them run.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Start a local NATS server, or a cluster of three, that syncs before it acknowledges."""
    from nt_memory.transport.nats.servers.fleet import Fleet  # noqa: PLC0415 - slow

    fleet = Fleet(directory, nodes=nodes, port=port, swarm=swarm, host=host)
    run(fleet.start())
    if detach:
        _tell(fleet, fleet.leave(), is_detached=True, as_json=as_json)
        return
    try:
        _tell(fleet, fleet.pids, is_detached=False, as_json=as_json)
        run(fleet.watch(printing.note))
    except (KeyboardInterrupt, StoppedError):
        pass  # as it is meant to end
    finally:
        run(fleet.stop())


def _tell(fleet: Fleet, pids: list[int], *, is_detached: bool, as_json: bool) -> None:
    stop = f"nt-memory down --dir {fleet.directory}"
    if as_json:
        from nt_memory.apps.cli import documents  # noqa: PLC0415 - only for --json

        document = documents.ServersUp(
            url=fleet.url,
            nkey_file=str(fleet.operator_seed.absolute()),
            directory=str(fleet.directory.absolute()),
            pids=pids,
            stop=stop,
        )
        printing.document(document)
    else:
        how = stop if is_detached else f"Ctrl-C, or {stop}"
        printing.line(f"url\t{fleet.url}")
        printing.line(f"nkey file\t{fleet.operator_seed.absolute()}")
        seed = str(fleet.operator_seed.absolute())
        settings = f"NT_MEMORY_URL={quote(fleet.url)} NT_MEMORY_NKEY_FILE={quote(seed)}"
        printing.line(f"shell\texport {settings}")
        printing.line(f"stop\t{how}")
    sys.stdout.flush()  # whoever started this in the background reads it now


def down(*, directory: _Directory = Path("data/servers"), as_json: AsJson = False) -> None:
    """Stop the servers that run in a directory; what they hold stays."""
    from nt_memory.clock import SystemClock  # noqa: PLC0415
    from nt_memory.transport.nats.servers.directory import ServersDirectory  # noqa: PLC0415

    place = ServersDirectory(directory)
    if not place.exists():
        raise NoStoreError(f"no servers were ever started in {directory}")

    async def stop() -> None:
        pids = await place.stop_holders(SystemClock())
        if as_json:
            from nt_memory.apps.cli import documents  # noqa: PLC0415 - only for --json

            printing.document(documents.ServersDown(pids=pids))
        else:
            printing.line(f"stopped {', '.join(map(str, pids))}" if pids else "nothing ran")

    run(stop())


def enrol(
    agent: Annotated[str, typer.Argument(help="In whose name it acts.", show_default=False)],
    *,
    directory: _Directory = Path("data/servers"),
    guest: Annotated[
        bool, typer.Option("--guest", help="Messages only: it can neither read nor write entries.")
    ] = False,
    publish: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Topics; repeatable. [default: all]")
    ] = None,
    subscribe: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Topics; repeatable. [default: all]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make an agent's credentials, while its servers are stopped; they know it when they start."""
    from nt_memory.transport.nats.rights import ALL  # noqa: PLC0415
    from nt_memory.transport.nats.servers.directory import ServersDirectory  # noqa: PLC0415
    from nt_memory.transport.nats.servers.fleet import Fleet  # noqa: PLC0415

    if not ServersDirectory(directory).exists():
        raise InvalidInputError(f"no servers were ever started in {directory}: nt-memory up")
    fleet = Fleet(directory)
    try:
        seed = fleet.enrol(
            agent,
            "guest" if guest else "node",
            publish=publish or ALL,
            subscribe=subscribe or ALL,
        ).absolute()
    finally:
        fleet.leave()
    if as_json:
        from nt_memory.apps.cli import documents  # noqa: PLC0415 - only for --json

        printing.document(documents.Credentials(agent=agent, nkey_file=str(seed)))
    else:
        printing.line(str(seed))


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = Family(app, "Serving")
    family.add(
        up,
        "up --nodes 3 --dir ./data/servers",
        "up --detach --json",
        document="ServersUp",
        in_use=IN_USE,
    )
    family.add(down, "down --dir ./data/servers", document="ServersDown")
    family.add(
        enrol,
        "enrol scout --publish 'scout/**' --subscribe 'market/*'",
        document="Credentials",
        in_use=IN_USE,
    )
