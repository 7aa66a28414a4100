"""The report page and the terminal summary: what they say, also of runs that are not whole."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from rich.console import Console

from nt_memory.apps.demo import figures, page, terminal, wording
from nt_memory.apps.demo.options import DemoOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from nt_memory.apps.demo.result import DemoResult

    Build = Callable[..., DemoResult]

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Reader(HTMLParser):
    """Collects the text of a page and checks that its tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID and not self.get_starttag_text().endswith("/>"):  # type: ignore[union-attr]
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)


def rendered(result: DemoResult) -> str:
    """The page of a run."""
    return page.render(result, figures.to_document(result))


def text_of(html: str) -> str:
    """What a reader sees; every tag must be closed."""
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return " ".join(" ".join(reader.text).split())


def said_in_terminal(result: DemoResult) -> str:
    """What the terminal summary says."""
    out = io.StringIO()
    terminal.show(result, figures.to_document(result), Console(file=out, width=100))
    return " ".join(out.getvalue().split())


def cut(result: DemoResult, n_days: int) -> DemoResult:
    """The run as it is when interrupted after some days, before anything was summed up."""
    return replace(
        result,
        dates=result.dates[:n_days],
        actual=result.actual[:n_days],
        forecasts={name: found[:n_days] for name, found in result.forecasts.items()},
        **{
            name: getattr(result, name)[:n_days]
            for name in ("base", "recalled", "low", "high", "fixed_low", "fixed_high", "memories")
        },
        books={},
        latencies={},
        counts={},
        memory={},
        seconds={},
        recall=None,
        situations=None,
        is_interrupted=True,
    )


def test_page_is_self_contained(made_up_result: Build) -> None:
    """No script, no style sheet, font or picture from elsewhere: it opens anywhere, offline."""
    html = rendered(made_up_result())
    assert "<script" not in html
    assert not re.search(r"https?://|//\w|@import|url\(|<link|<img|<iframe| src=", html)


def test_page_is_the_same_every_time(made_up_result: Build) -> None:
    """The same run gives the same bytes."""
    assert rendered(made_up_result()) == rendered(made_up_result())


def test_page_shows_what_was_promised(made_up_result: Build) -> None:
    """Ratios, both parts, all charts, the recall, placebos, caveats, and how to run it again."""
    html = rendered(made_up_result())
    text = text_of(html)
    for wanted in (
        "more accurate than the best method without it",
        "HAR (5, 10, 22, 66 days)",
        "Newey–West",
        "The linear part alone",
        "Skill by year",
        "Skill by size of memory",
        "Coverage by year",
        "Realised against target volatility",
        "Equity",
        "Drawdown",
        "Latency by operation",
        "Map of situations",
        "The 12 largest of 14 patterns",
        "2008-10-10 CCC",
        "Outcomes permuted across days",
        "The 20 stocks are survivors",
        "A volatility forecast is not alpha",
        "no financing",
        "1990 to 2014",
        "nt-memory demo --seed 7",
    ):
        assert wanted in text, wanted
    assert html.count('<div class="wide"><svg') == html.count('<div class="narrow"><svg') == 11
    assert "nan" not in text.lower().split()
    assert "None" not in text


def test_page_says_when_memory_loses(made_up_result: Build) -> None:
    """A loss is the headline, not a footnote."""
    result = made_up_result()
    result.forecasts["memory"][:] += 0.5
    text = text_of(rendered(result))
    assert "Memory lost: its volatility forecasts were" in text
    assert "clearly worse than" in text
    assert '<span class="worse">worse</span>' in rendered(result)
    assert "Memory lost" in said_in_terminal(result)


def test_page_says_when_nothing_is_clear(made_up_result: Build) -> None:
    """A difference within its interval is called no difference."""
    result = made_up_result()
    result.forecasts["memory"][:] = result.forecasts["linear"]
    result.forecasts["memory"][::2] += 1e-3
    result.forecasts["memory"][1::2] -= 1e-3
    assert "Memory made no clear difference" in text_of(rendered(result))


def test_a_placebo_that_does_well_is_a_warning(made_up_result: Build) -> None:
    """A placebo below recalibrated EWMA is said loudly, in the page and in the terminal."""
    result = made_up_result()
    assert "A placebo must not do that" not in text_of(rendered(result))
    assert "Neither beat recalibrated EWMA" in text_of(rendered(result))
    result.forecasts["placebo_random"][:] = result.forecasts["memory"]
    for said in (text_of(rendered(result)), said_in_terminal(result)):
        assert "Random recall: error" in said
        assert "A placebo must not do that" in said
        assert "Neither beat" not in said


@pytest.mark.parametrize("n_days", [0, 1, 3, 30, 120])
def test_interrupted_runs_render_and_say_what_is_missing(
    made_up_result: Build, n_days: int
) -> None:
    """Stopped at any point there is a report, and it says what it lacks."""
    result = cut(made_up_result(), n_days)
    for said in (text_of(rendered(result)), said_in_terminal(result)):
        assert f"Stopped after {n_days} of 320 days" in said
        assert "No book was finished." in said
        assert "The day of the worked recall was not reached" in said
        assert "no map of situations" in said


def _without_forecasts(result: DemoResult) -> DemoResult:
    nothing = np.full(result.actual.shape, np.nan)
    return replace(
        result,
        forecasts=dict.fromkeys(result.forecasts, nothing),
        **dict.fromkeys(("base", "recalled", "low", "high", "fixed_low", "fixed_high"), nothing),
    )


PARTIAL: dict[str, Any] = {
    "no outcome": lambda r: replace(r, actual=np.full(r.actual.shape, np.nan)),
    "no forecast at all": _without_forecasts,
    "no fixed interval": lambda r: replace(r, fixed_low=r.fixed_low * np.nan),
    "no base": lambda r: replace(
        r, base=r.base * np.nan, settings=replace(r.settings, base="none")
    ),
    "one book": lambda r: replace(r, books={"memory": r.books["memory"]}),
    "no pattern": lambda r: replace(
        r,
        situations=replace(
            r.situations, centroids=np.empty((0, 2)), labels=[], sizes=[], success=[]
        ),
    ),
    "unknown success": lambda r: replace(
        r, situations=replace(r.situations, success=[np.nan] * 14, outcomes=np.full(400, np.nan))
    ),
    "recall without outcome": lambda r: replace(
        r, recall=replace(r.recall, actual=np.nan, base=np.nan, recalled=np.nan, neighbours=[])
    ),
}


@pytest.mark.parametrize("what", PARTIAL)
def test_whatever_is_missing_the_report_renders(made_up_result: Build, what: str) -> None:
    """Each part of a run may be missing; the report then lacks that part, and no more."""
    result = PARTIAL[what](made_up_result())
    text = text_of(rendered(result))
    assert "What this does not show" in text
    assert not re.search(r"\b(nan|None)\b", text)
    assert said_in_terminal(result)


def test_a_missing_book_or_method_is_named(made_up_result: Build) -> None:
    """What is missing beside what is there is called by its name."""
    result = made_up_result()
    nothing = np.full(result.actual.shape, np.nan)
    result = replace(
        result,
        books={"memory": result.books["memory"]},
        forecasts={**result.forecasts, "own_ticker": nothing},
    )
    for said in (text_of(rendered(result)), said_in_terminal(result)):
        assert "No forecast could be judged for: Own ticker’s memories only." in said
        assert "No book was finished for: EWMA, recalibrated; Linear" in said


def test_one_ticker_and_one_year(made_up_result: Build) -> None:
    """The smallest panel works: one column, part of a year."""
    text = text_of(rendered(made_up_result(n_days=100, tickers=("AAA",))))
    assert "Skill by year" in text


def test_names_are_escaped(made_up_result: Build) -> None:
    """Labels and tickers are text, never markup."""
    result = made_up_result()
    assert result.situations is not None
    spiked = replace(result.situations, labels=["<script>alert(1)</script>"] * 14)
    assert "<script" not in rendered(replace(result, situations=spiked))


def test_own_prices_are_not_called_the_carried_ones(made_up_result: Build) -> None:
    """Caveats and command speak of the file that was used."""
    text = text_of(rendered(made_up_result(options=DemoOptions(prices=Path("/x/mine.csv")))))
    assert "The prices are yours" in text
    assert "--prices mine.csv" in text
    assert "The 20 stocks are survivors" not in text


def test_a_quick_run_says_that_it_proves_little(made_up_result: Build) -> None:
    """Nobody takes the small run's figures for the real ones."""
    result = made_up_result()
    assert "quick form" not in text_of(rendered(result))
    quick = replace(result, options=DemoOptions(quick=True))
    for said in (text_of(rendered(quick)), said_in_terminal(quick)):
        assert "This is the quick form" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (DemoOptions(), "nt-memory demo --seed 7"),
        (DemoOptions(full=True, no_past=True), "nt-memory demo --full --no-past --seed 7"),
        (
            DemoOptions(years=3, cost_bps=2.5, seed=1, quick=True),
            "nt-memory demo --years 3 --cost-bps 2.5 --seed 1 --quick",
        ),
    ],
)
def test_command_gives_the_same_run(options: DemoOptions, said: str) -> None:
    """The command in the report names every option that changes a number."""
    assert wording.command(options) == said


def test_terminal_summary_is_complete(made_up_result: Build) -> None:
    """Ratios, books, coverage, latencies, counts, and where the report lies."""
    said = said_in_terminal(made_up_result(options=DemoOptions(out=Path("somewhere"))))
    for wanted in (
        "Linear regression with EWMA",
        "Random recall",
        "Equal weight, held",
        "Coverage 2019",
        "track_trajectory",
        "45 trajectories",
        "Report: somewhere/index.html",
    ):
        assert wanted in said, wanted


def test_progress_shows_each_phase_with_its_rate() -> None:
    """Every phase has a bar, named, with how much is done."""
    out = io.StringIO()
    with terminal.Progress(Console(file=out, width=100)) as progress:
        progress.update("remember", 0, 10)
        progress.update("remember", 10, 10)
        progress.update("trade", 3, 2_000)
    said = " ".join(out.getvalue().split())
    assert re.search(r"remember .* 10 of 10", said)
    assert re.search(r"trade .*3 of 2,000", said)


def test_progress_gives_the_terminal_back_when_interrupted() -> None:
    """Ctrl-C leaves no live display behind, and is passed on."""
    console = Console(file=io.StringIO())

    def interrupted() -> None:
        with terminal.Progress(console) as progress:
            progress.update("trade", 1, 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with terminal.Progress(console):
        pass
