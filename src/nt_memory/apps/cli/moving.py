"""`nt-memory export` and `nt-memory import`: move data between stores, and out of them."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nt_memory.config import MemoryConfig
from nt_memory.system.exporting import export_store
from nt_memory.system.importing import import_store
from nt_memory.system.opening import make_views

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_Store = Annotated[
    Path | None,
    typer.Option(
        "--store",
        metavar="DIR",
        help="Directory of the store. Default: what NT_MEMORY_* says, or ./data/memory.",
    ),
]


def export(
    target: Annotated[
        str,
        typer.Argument(help="File or directory to make; - writes to stdout.", show_default=False),
    ],
    *,
    store: _Store = None,
    format: Annotated[  # noqa: A002 - the word users know
        Literal["jsonl", "parquet"] | None,
        typer.Option(help="Default: parquet if TARGET ends with .parquet, else jsonl."),
    ] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(metavar="AGENT", help="Only its versions, for reading; may be repeated."),
    ] = None,
) -> None:
    """Write all that a store holds, as of now, as JSON Lines or Parquet; others may be using it."""
    with progress("export") as told:
        done = export_store(_path(store), target, format=format, agents=agent or (), progress=told)
    typer.echo(f"exported {done.rows:,} rows as of revision {done.revision}", err=True)


def import_(
    source: Annotated[
        str,
        typer.Argument(help="What export made; - reads stdin.", show_default=False),
    ],
    *,
    store: _Store = None,
) -> None:
    """Make the store that an export was made from, in a directory that is missing or empty.

    Interrupted, it goes on when it is run again; repeated, it changes nothing.
    """
    path = _path(store)
    with progress("import") as told:
        done = import_store(source, path, progress=told)
        if done.is_new:
            make_views(path)  # so that commands that only read find them
    if done.is_new:
        typer.echo(f"imported {done.rows:,} rows as of revision {done.revision}", err=True)
    else:
        typer.echo(f"{path} was made from this export before: nothing changed", err=True)


def register(app: typer.Typer, reported: Callable[[], AbstractContextManager[None]]) -> None:
    """Add the commands to `app`; errors in them are `reported` as in its others."""

    def within(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(*args: Any, **kwargs: Any) -> None:
            with reported():
                command(*args, **kwargs)

        return run

    app.command(
        epilog="Examples: `nt-memory export backup.jsonl.zst`; "
        "`nt-memory export research.parquet --store ./data/memory`"
    )(within(export))
    app.command(
        "import", epilog="Example: `nt-memory import backup.jsonl.zst --store ./data/restored`"
    )(within(import_))


def _path(store: Path | None) -> Path:
    return Path(MemoryConfig.from_env().storage_path) if store is None else store


@contextmanager
def progress(what: str) -> Generator[Callable[[int, int], None]]:
    """A bar on stderr, if that is a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=None)

        def told(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None)

        yield told
