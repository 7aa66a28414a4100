"""A progress bar on stderr, with the rate and the time left."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from rich.progress import TaskID


@contextmanager
def progress_shown() -> Generator[Callable[[str, int, int], None]]:
    """Show progress on stderr while the block runs; one bar a phase.

    Yields:
        What to call with the phase, how much of it is done, and how much there is. Cheap: the
        terminal is redrawn ten times a second, and not at all when stderr is not one.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:

        def progress(phase: str, done: int, total: int) -> None:
            if phase not in bars:
                bars[phase] = bar.add_task(phase, rate="")
            speed = bar.tasks[bars[phase]].speed
            rate = f"{speed:,.0f}/s" if speed else ""
            bar.update(bars[phase], completed=done, total=total, rate=rate)

        yield progress
