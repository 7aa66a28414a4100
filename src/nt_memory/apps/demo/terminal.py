"""The demo in the terminal: how far it is, and what it found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from rich.console import Group
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from nt_memory.apps.demo.baselines import NAMES as BASELINES
from nt_memory.apps.demo.charts import latency_text
from nt_memory.apps.demo.figures import BOOKS, PLACEBOS
from nt_memory.apps.demo.page import FILE_NAME
from nt_memory.apps.demo.wording import (
    headline,
    interval,
    missing,
    name_of,
    number,
    percent,
    placebo_warnings,
    strongest,
    summary,
    verdict,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from rich.console import Console, RenderableType

    from nt_memory.apps.demo.result import DemoResult

    Document = Mapping[str, Any]

_COLOURS = {"better": "green", "worse": "red"}
_SHOWN_COUNTS = ("trajectories", "verdicts", "proposals", "rejected", "grants", "messages")


class Progress:
    """A bar for each phase, with its rate and the time left; to be used with `with`.

    On a console that is no terminal the bars appear once, at the end.
    """

    def __init__(self, console: Console) -> None:
        """Show on this console; nothing appears before `with`."""
        self._bars = RichProgress(
            TextColumn("{task.description}", justify="left"),
            BarColumn(bar_width=32),
            TextColumn("{task.completed:>6,.0f} of {task.total:,.0f}"),
            _RateColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            refresh_per_second=4,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        """Show bars from the first `update` on: until then, errors are all that is printed."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the terminal back, the bars left as they are."""
        if self._tasks:
            self._bars.stop()

    def update(self, phase: str, done: int, total: int) -> None:
        """Say how far a phase is; a new name begins a new bar below the others.

        Args:
            phase: What is being done, in a word or two.
            done: Steps done, 0 to `total`.
            total: Steps of the phase, which may change.

        Cost: a few microseconds; drawing happens on a thread of its own, four times a second.
        """
        task = self._tasks.get(phase)
        if not self._tasks:
            self._bars.start()
        if task is None:
            task = self._tasks[phase] = self._bars.add_task(phase, total=total)
        self._bars.update(task, completed=done, total=total)


def show(result: DemoResult, document: Document, console: Console) -> None:
    """Print a summary: ratios and verdicts, books, coverage, latencies, counts, where the report is.

    Args:
        result: The run.
        document: Its figures, from `figures.to_document`.
        console: Where to.
    """
    notes = missing(
        document, has_recall=result.recall is not None, has_map=result.situations is not None
    )
    parts: list[RenderableType] = [
        Text(""),
        Text(headline(document), style="bold"),
        *(Text(sentence) for sentence in summary(document)),
        *(Text(note, style="yellow") for note in notes),
        *(Text(warning, style="red") for warning in placebo_warnings(document)),
    ]
    if strongest(document) is not None:
        parts += [Text(""), _ratios(document)]
    if document["books"]:
        parts += [Text(""), _books(document)]
    parts += [Text(""), *_lines(document)]
    whose = "20 survivors, no" if result.options.prices is None else "No"
    caveat = f"{whose} financing costs; a volatility forecast is not alpha."
    parts += [
        Text(caveat, style="dim"),
        Text(""),
        Text("SHA-256 of the forecasts:"),
        Text(document["run"]["forecasts_sha256"]),
        Text(f"Report: {result.options.out / FILE_NAME}"),
    ]
    console.print(Padding(Group(*parts), (0, 0, 1, 0)))


class _RateColumn(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:  # type: ignore[explicit-override]  # typing.override is 3.12
        """The rate, blank before anything is known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s".rjust(9), style="dim")


def _table(head: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    for place, name in enumerate(head):
        table.add_column(name, justify="left" if place == 0 else "right", no_wrap=place > 0)
    return table


def _ratios(document: Document) -> Table:
    table = _table(["Compared with", "MAE", "Ratio", "95 % interval", "Memory is"])
    forecast, ratios = document["forecast"], document["ratio"]
    ordered = sorted(BASELINES, key=lambda name: (-(ratios[name]["value"] or 0.0), name))
    extra = ["with_past"] if "with_past" in document["ratio"] else []
    for name in (*ordered, *PLACEBOS, "own_ticker", *extra):
        found = ratios[name]
        said = verdict(found)
        table.add_row(
            name_of(name),
            number(forecast[name]["mae"]),
            number(found["value"]),
            interval(found),
            Text(said, style=_COLOURS.get(said, "")),
        )
    return table


def _books(document: Document) -> Table:
    table = _table(["Book", "Return a year", "Volatility", "Off target", "Drawdown", "Turnover"])
    for name in (name for name in BOOKS if name in document["books"]):
        found = document["books"][name]
        error = found["volatility_target_error"]
        table.add_row(
            name_of(name),
            percent(found["return_after_costs"]),
            percent(found["realised_volatility"]),
            number(None if error is None else 100.0 * error, 2),
            percent(found["max_drawdown"]),
            number(found["turnover_per_year"], 2),
        )
    return table


def _lines(document: Document) -> list[Text]:
    """Coverage by year, latencies, counts and memory: a line each, left out where unknown."""
    by_year = document["forecast"]["memory"]["coverage_by_year"]
    entries = {
        "Coverage": [f"{year} {percent(share, 0)}" for year, share in by_year.items()],
        "Latency": [
            f"{name} {latency_text(f['p50'])} (p99 {latency_text(f['p99'])})"
            for name, f in document["latency_us"].items()
            if f["n"]
        ],
        "Counts": [
            f"{document['counts'][name]:,} {name}"
            for name in _SHOWN_COUNTS
            if document["counts"].get(name) is not None
        ],
        "Memory": [
            f"{name.removesuffix('_mb').replace('_', ' ')} {number(size, 0)} MB"
            for name, size in document["memory"].items()
            if size is not None
        ],
        "Time": [] if document["seconds"] is None else [f"{number(document['seconds'], 1)} s"],
    }
    return [
        Text.assemble((f"{name:<10}", "dim"), ", ".join(found))
        for name, found in entries.items()
        if found
    ]
