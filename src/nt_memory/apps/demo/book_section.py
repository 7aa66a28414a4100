"""The section of the report about the four books."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nt_memory.apps.demo.charts import Axes, Series, line_chart
from nt_memory.apps.demo.figures import (
    BOOKS,
    VOLATILITY_WINDOW,
    drawdowns,
    rolling_volatility,
    since_invested,
)
from nt_memory.apps.demo.markup import figure, legend, pair, paragraph, section, table
from nt_memory.apps.demo.wording import name_of, number, percent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from nt_memory.apps.demo.books import BookHistory
    from nt_memory.apps.demo.result import DemoResult

    Document = Mapping[str, Any]
    Floats = NDArray[np.float64]


def books(result: DemoResult, document: Document) -> str:
    """The four books."""
    title = "Four books, one rule"
    figures = document["books"]
    if not figures:
        said = "No book was finished in this run."
        return section("books", title, paragraph(said))
    target = percent(result.rule.target, 0)
    names = [name for name in BOOKS if name in figures]
    head = [
        "Book",
        "Return a year",
        "Volatility",
        "Off target",
        "Max. drawdown",
        "Turnover a year",
        "Mean exposure",
        "Trades",
    ]
    rows = [[name_of(name), *_book_cells(figures[name])] for name in names]
    text = paragraph(
        "All books hold the same stocks at equal weight. Three are sized by somebody’s forecasts to "
        f"a volatility of {target}, trade only when they leave a band of "
        f"{percent(result.rule.band, 0)} around it, and at the next close; the fourth buys and holds. "
        f"Returns are after {result.options.cost_bps:g} basis points a trade. “Off target” is the mean "
        f"distance of the {VOLATILITY_WINDOW}-day volatility from {target}, in points."
    )
    key = legend([(name, "line", name_of(name)) for name in names])
    charts = [
        _book_chart(result, names, key, *each)
        for each in (
            (
                "Realised against target volatility",
                f"Volatility of the last {VOLATILITY_WINDOW} days, annualised, on a logarithmic "
                f"scale. The line marks the target of {target}.",
                Axes(
                    "Realised volatility of the books",
                    y="Annualised volatility, %",
                    lines=((100.0 * result.rule.target, ""),),
                    is_log=True,
                ),
                _volatilities,
            ),
            (
                "Equity",
                "Worth of 1 at the start, after costs, on a logarithmic scale.",
                Axes("Equity of the books", y="Equity", is_log=True),
                _equity,
            ),
            (
                "Drawdown",
                "Distance from the highest close so far.",
                Axes("Drawdown of the books", y="Below the high, %"),
                _below_high,
            ),
        )
    ]
    reading = paragraph(
        "What a better forecast can earn here is a volatility nearer to the target. The books carry "
        "less or more of the same stocks, so their returns differ mostly by how much risk they held, "
        "and over so few years by luck. Nothing here is evidence of an edge in returns."
    )
    return section("books", title, text, table(head, rows, strong=0), pair(*charts, reading))


def _book_cells(figures: Mapping[str, Any]) -> list[str]:
    error = figures["volatility_target_error"]
    return [
        percent(figures["return_after_costs"]),
        percent(figures["realised_volatility"]),
        number(None if error is None else 100.0 * error, 2),
        percent(figures["max_drawdown"]),
        number(figures["turnover_per_year"], 2),
        percent(figures["mean_exposure"], 0),
        f"{figures['trades']:,}",
    ]


def _equity(book: BookHistory) -> Floats:
    return book.equity


def _below_high(book: BookHistory) -> Floats:
    below: Floats = -100.0 * drawdowns(book.equity)
    return below


def _volatilities(book: BookHistory) -> Floats:
    rolled = np.full(len(book.equity), np.nan)
    invested = since_invested(book)
    if len(invested):
        rolled[-len(invested) :] = 100.0 * rolling_volatility(invested)
    return rolled


def _book_chart(
    result: DemoResult,
    names: Sequence[str],
    key: str,
    title: str,
    caption: str,
    axes: Axes,
    line_of: Callable[[BookHistory], Floats],
) -> str:
    days = min(len(result.books[name].equity) for name in names)
    if days == 0:
        return paragraph(f"{title}: no day was traded.")
    drawn = [(name, line_of(result.books[name])[:days].tolist()) for name in names]
    # Memory last, over the others.
    series = [Series(name, values) for name, values in reversed(drawn)]
    dates = result.dates[:days]
    return figure(title, caption, lambda width: line_chart(series, dates, axes, width=width), key)
