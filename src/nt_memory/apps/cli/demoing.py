"""`nt-memory demo`: a swarm with memory trades real prices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nt_memory.apps.cli import printing
from nt_memory.apps.cli.commands import Family
from nt_memory.apps.cli.exits import Exit
from nt_memory.apps.cli.options import AsJson
from nt_memory.apps.cli.running import run
from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from rich.console import Console

    from nt_memory.apps.demo.options import DemoOptions
    from nt_memory.apps.demo.processes.run import Spread

YEARS = 8


def demo(
    *,
    years: Annotated[
        int | None,
        typer.Option(
            help=f"Trade the last so many years; remember those before.  [default: {YEARS}]"
        ),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Trade all years, memory empty.")] = False,
    no_past: Annotated[
        bool,
        typer.Option(
            "--no-past",
            help="Start with an empty memory, then trade again with the past, to say what that costs.",
        ),
    ] = False,
    prices: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Your prices: a date column, one column a ticker."),
    ] = None,
    cost_bps: Annotated[float, typer.Option(help="Cost of a trade in basis points.")] = 5.0,
    seed: Annotated[int, typer.Option(help="Same seed and prices: same numbers.")] = 7,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the report goes.")] = Path(
        "demo-report"
    ),
    figures: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the figures as JSON.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A small run, under 30 s.")] = False,
    processes: Annotated[
        bool,
        typer.Option("--processes", help="A process an agent, over a local server; no report."),
    ] = False,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="With --processes: over three servers.")
    ] = False,
    kill: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="With --processes: kill -9 agents at random, N times."
        ),
    ] = 0,
    json: AsJson = False,
) -> None:
    """Let a swarm with memory trade real prices, and report what memory was worth.

    It leaves its store in the report's directory, to look around in with the other commands. With
    --json the figures go to stdout, instead of the summary.

    With --processes every agent is a process of its own, and the memory a NATS server's, or with
    --cluster three servers'; it takes nt-memory[cluster]. The forecasts are the same to the last byte,
    whoever is killed meanwhile: both ways print the same SHA-256.
    """
    if not processes and (cluster or kill):
        raise InvalidInputError("--cluster and --kill go with --processes")
    if processes and no_past:
        raise InvalidInputError(
            "--no-past compares two runs, which --processes does not; use --full"
        )
    if full and years is not None:
        raise InvalidInputError("--years and --full exclude each other: --full trades all")
    from rich.console import Console  # noqa: PLC0415 - slow, and only used here

    from nt_memory.apps.demo.options import DemoOptions  # noqa: PLC0415

    options = DemoOptions(
        years=YEARS if years is None else years,
        full=full,
        no_past=no_past,
        prices=prices,
        cost_bps=cost_bps,
        seed=seed,
        out=out,
        figures=figures,
        quick=quick,
    )
    if processes:
        _run_processes(options, Console(quiet=json), servers=3 if cluster else 1, kills=kill)
    else:
        _run_here(options, Console(quiet=json))


def _run_here(options: DemoOptions, console: Console) -> None:
    """All agents in this process."""
    from rich.console import Console  # noqa: PLC0415

    from nt_memory.apps.demo.figures import to_document  # noqa: PLC0415
    from nt_memory.apps.demo.output import write_all  # noqa: PLC0415
    from nt_memory.apps.demo.run import run_demo  # noqa: PLC0415
    from nt_memory.apps.demo.terminal import Progress  # noqa: PLC0415

    with Progress(Console(stderr=True)) as progress:
        result = run_demo(options, progress.update)
    write_all(result, console)
    if console.quiet:
        printing.line(printing.spell(to_document(result)))
    if result.is_interrupted:
        raise typer.Exit(Exit.INTERRUPTED)


def _run_processes(options: DemoOptions, console: Console, *, servers: int, kills: int) -> None:
    """Each agent in a process of its own."""
    from rich.console import Console  # noqa: PLC0415

    from nt_memory.apps.demo.processes.findings import to_document, write_all  # noqa: PLC0415
    from nt_memory.apps.demo.processes.run import run_spread  # noqa: PLC0415
    from nt_memory.apps.demo.terminal import Progress  # noqa: PLC0415

    found: list[Spread] = []

    async def body() -> None:
        told = progress.update
        found.append(await run_spread(options, servers=servers, kills=kills, progress=told))

    with Progress(Console(stderr=True)) as progress:
        run(body())
    write_all(found[0], console)
    if console.quiet:
        printing.line(printing.spell(to_document(found[0])))


def register(app: typer.Typer) -> None:
    """Add the command."""
    Family(app, "Begin").add(
        demo,
        "demo",
        "demo --quick",
        "demo --full --out full-report",
        "demo --prices mine.csv --years 3",
        "demo --quick --processes --cluster --kill 5",
    )
