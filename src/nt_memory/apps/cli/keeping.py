"""`nt-memory verify`, `repair`, `compact` and `snapshot`: keep a store sound and small."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json as json_module
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from nt_memory import MemorySystem
from nt_memory.system.repairing import repair as repair_store
from nt_memory.system.verifying import verify as verify_store

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

EXIT_DAMAGED = 1

_Path = Annotated[Path, typer.Argument(metavar="PATH", help="Directory of the store.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, with all fields.")]


def verify(
    path: _Path,
    *,
    scratch: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to compute the views anew; needs their space."),
    ] = None,
    json: _AsJson = False,
) -> None:
    """Check a store against its base and journal, in use or not; exit code 1 if it is damaged."""
    with _progress() as told:
        found = verify_store(path, scratch=scratch, progress=told)
    if json:
        typer.echo(json_module.dumps({**dataclasses.asdict(found), "is_ok": found.is_ok}, indent=2))
    else:
        typer.echo(
            f"{found.path}: {found.entries:,} entries read, {found.rows:,} rows and "
            f"{found.vectors:,} vectors compared as of revision {found.revision}"
        )
        if found.value_bytes:
            typer.echo(f"{found.value_bytes:,} bytes of value files read")
        for warning in found.warnings:
            typer.echo(f"note: {warning}")
        for damage in found.damage:
            typer.echo(f"DAMAGED: {damage}")
        typer.echo("sound" if found.is_ok else f"to mend it: nt-memory repair {found.path}")
    if not found.is_ok:
        raise typer.Exit(EXIT_DAMAGED)


def repair(path: _Path, *, json: _AsJson = False) -> None:
    """Mend a damaged store that nobody has open, and say what is lost; nothing is deleted.

    Damaged files are kept in PATH/damaged. Exit code 1 if it could not be mended.
    """
    with _progress() as told:
        done = repair_store(path, progress=told)
    if json:
        typer.echo(json_module.dumps(dataclasses.asdict(done), indent=2))
    else:
        for action in done.actions:
            typer.echo(action)
        for lost in done.lost:
            typer.echo(f"LOST: {lost}")
        if done.is_repaired and not done.lost:
            typer.echo("nothing is lost")
    if not done.is_repaired:
        raise typer.Exit(EXIT_DAMAGED)


def compact(path: _Path, *, json: _AsJson = False) -> None:
    """Move the base forward, drop the journal behind it, and give space back.

    For a store that no other process has open for writing; that process calls memory.compact().
    """

    async def body() -> None:
        async with MemorySystem.open(path) as memory:
            done = await memory.compact()
        if json:
            typer.echo(json_module.dumps(dataclasses.asdict(done), indent=2))
        else:
            typer.echo(
                f"the base reaches revision {done.revision}; "
                f"{done.freed_bytes / 1e6:,.1f} MB given back"
            )

    _check_exists(path)
    asyncio.run(body())


def snapshot(
    path: _Path,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="Missing, or empty.")],
) -> None:
    """Copy a store that no other process has open for writing; TARGET is a store too.

    A program that has it open calls memory.snapshot(TARGET).
    """

    async def body() -> None:
        async with MemorySystem.open(path) as memory:
            await memory.snapshot(target)
        # A copy that was never opened proves nothing, and can only be read once its views are made.
        async with MemorySystem.open(target) as copy:
            typer.echo(f"{target}: revision {copy.revision}")

    _check_exists(path)
    asyncio.run(body())


def register(app: typer.Typer, reported: Callable[[], AbstractContextManager[None]]) -> None:
    """Add the commands to `app`; errors in them are `reported` as in its others."""
    examples: list[tuple[Callable[..., None], str]] = [
        (verify, "Example: `nt-memory verify ./data/memory`"),
        (repair, "Example: `nt-memory repair ./data/memory`"),
        (compact, "Example: `nt-memory compact ./data/memory`"),
        (snapshot, "Example: `nt-memory snapshot ./data/memory /backup/memory-monday`"),
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


def _check_exists(path: Path) -> None:
    """Neither of these commands may make a store where there is none."""
    if not (path / "FORMAT").exists():
        raise FileNotFoundError(f"{path}: there is no store here")


@contextmanager
def _progress() -> Generator[Callable[[str, int, int], None]]:
    """What is being done, on stderr, if that is a terminal."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("reading", total=None)

        def told(what: str, done: int, total: int) -> None:
            bar.update(task, description=f"{what} {done:,}", completed=done, total=total or None)

        yield told
