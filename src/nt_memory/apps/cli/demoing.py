"""`nt-memory demo`: a swarm with memory trades real prices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nt_memory.apps.cli import printing
from nt_memory.apps.cli.commands import Family
from nt_memory.apps.cli.exits import Exit
from nt_memory.apps.cli.options import AsJson
from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from nt_memory.apps.demo.result import DemoResult

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
    json: AsJson = False,
) -> None:
    """Let a swarm with memory trade real prices, and report what memory was worth.

    It leaves its store in the report's directory, to look around in with the other commands. With
    --json the figures go to stdout, instead of the summary.
    """
    if full and years is not None:
        raise InvalidInputError("--years and --full exclude each other: --full trades all")
    from rich.console import Console  # noqa: PLC0415 - slow, and only used here

    from nt_memory.apps.demo.options import DemoOptions  # noqa: PLC0415
    from nt_memory.apps.demo.output import write_all  # noqa: PLC0415
    from nt_memory.apps.demo.run import run_demo  # noqa: PLC0415
    from nt_memory.apps.demo.terminal import Progress  # noqa: PLC0415

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
    with Progress(Console(stderr=True)) as progress:
        result = run_demo(options, progress.update)
    write_all(result, Console(quiet=json))
    if json:
        _print_figures(result)
    if result.is_interrupted:
        raise typer.Exit(Exit.INTERRUPTED)


def register(app: typer.Typer) -> None:
    """Add the command."""
    Family(app, "Begin").add(
        demo,
        "demo",
        "demo --quick",
        "demo --full --out full-report",
        "demo --prices mine.csv --years 3",
    )


def _print_figures(result: DemoResult) -> None:
    from nt_memory.apps.demo.figures import to_document  # noqa: PLC0415

    printing.line(printing.spell(to_document(result)))
