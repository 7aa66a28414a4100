"""The `nt-memory` command: parse, call `MemorySystem`, print.

Exit codes are in `exits`; errors are one line on stderr. What a command needs is imported when it runs,
so that `--help` and completion answer at once.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from nt_memory import __version__
from nt_memory.apps.cli import (
    benching,
    counters,
    demoing,
    doors,
    feeds,
    keeping,
    learning,
    locking,
    messages,
    moving,
    reviewing,
    serving,
    similar,
    state,
    upping,
    voting,
)
from nt_memory.apps.cli.commands import LISTED, TwoWords
from nt_memory.apps.cli.doctor import command as doctor
from nt_memory.apps.cli.exits import Exit

__all__ = ["LISTED", "app", "main"]

app: typer.Typer = typer.Typer(
    name="nt-memory",
    cls=TwoWords,
    help="Memory for swarms of trading agents.",
    epilog="Exit codes: " + ", ".join(f"{code:d} {code.word}" for code in Exit),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _print_version(is_asked: bool) -> None:  # noqa: FBT001 - Typer's callback form
    if is_asked:
        typer.echo(f"nt-memory {__version__}")
        raise typer.Exit


@app.callback()
def cli(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and stop.",
            is_eager=True,
            callback=_print_version,
        ),
    ] = False,
) -> None:
    """Memory for swarms of trading agents."""


# In the order in which --help lists them.
for _family in (
    demoing,
    benching,
    state,
    feeds,
    similar,
    learning,
    reviewing,
    locking,
    voting,
    messages,
    counters,
    keeping,
    moving,
    doors,
    doctor,
    serving,
    upping,
):
    _family.register(app)


def main() -> None:
    """Entry point of the `nt-memory` script."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115 - until the end
    # JSON is UTF-8 whatever the terminal's encoding; what that cannot show is spelled out.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        app(prog_name="nt-memory")
    except KeyboardInterrupt:  # before or behind what a command reports itself
        sys.exit(Exit.INTERRUPTED)


if __name__ == "__main__":
    main()
