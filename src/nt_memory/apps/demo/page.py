"""The report as one self-contained HTML file: no scripts, no fonts, no requests."""

from __future__ import annotations

from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

from nt_memory.apps.demo import book_section, forecast_sections, store_sections
from nt_memory.apps.demo.markup import facts, notes, paragraph
from nt_memory.apps.demo.wording import headline, missing, number, summary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nt_memory.apps.demo.result import DemoResult

FILE_NAME = "index.html"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render(result: DemoResult, document: Mapping[str, Any]) -> str:
    """The whole page.

    Whatever a partial run could not find is said to be missing; nothing is left blank without a word.

    Args:
        result: The run.
        document: Its figures, from `figures.to_document`.

    Returns:
        HTML, the same bytes for the same arguments.
    """
    style = resources.files("nt_memory.apps.demo").joinpath("report.css").read_text("utf-8")
    sections = (
        forecast_sections.accuracy(document),
        forecast_sections.parts(result),
        forecast_sections.skill(result),
        forecast_sections.coverage(result, document),
        store_sections.recall(result),
        store_sections.situations(result),
        book_section.books(result, document),
        forecast_sections.placebos(result, document),
        store_sections.cost(result, document),
        store_sections.caveats(result),
        store_sections.reproduce(result),
    )
    title = headline(document)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>nt-memory demo: {escape(title)}</title>\n<style>\n{style}</style></head>\n"
        f"<body><main>\n{_header(result, document, title)}\n" + "\n".join(sections) + "\n"
        "</main></body></html>\n"
    )


def _header(result: DemoResult, document: Mapping[str, Any], title: str) -> str:
    run = document["run"]
    days = f"{run['first_day']} to {run['last_day']}" if run["days"] else "none"
    entries = [("Traded", days), ("Days", f"{run['days']:,}"), ("Stocks", f"{run['tickers']:,}")]
    if len(result.memories):
        remembered = f"{int(result.memories[0]):,} to {int(result.memories[-1]):,}"
        entries.append(("Outcomes remembered", remembered))
    entries.append(("Seed", str(result.options.seed)))
    if document["seconds"] is not None:
        entries.append(("Took", f"{number(document['seconds'], 0)} s"))
    stopped = missing(
        document, has_recall=result.recall is not None, has_map=result.situations is not None
    )
    first, *others = summary(document) or [""]
    lead = "".join(paragraph(*said) for said in ([first], others) if any(said))
    return (
        f'<header><p class="kicker">nt-memory, demo report</p><h1>{escape(title)}</h1>'
        f"{notes(stopped)}"
        f'<div class="lead">{lead}</div>'
        f"{facts(entries)}</header>"
    )
