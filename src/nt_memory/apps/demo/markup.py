"""Pieces of HTML the report is put together from. Pure functions; text is escaped here."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from nt_memory.apps.demo.charts import swatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WIDE, NARROW = 540, 340


def paragraph(*sentences: str, style: str = "") -> str:
    """A paragraph of plain text."""
    attribute = f' class="{style}"' if style else ""
    return f"<p{attribute}>{escape(' '.join(sentences))}</p>"


def section(name: str, title: str, *content: str) -> str:
    """A section with a heading that can be linked to."""
    return f'<section id="{name}"><h2>{escape(title)}</h2>{"".join(content)}</section>'


def pair(*cells: str) -> str:
    """Cells side by side where there is room, below each other where not."""
    return f'<div class="pair">{"".join(f"<div>{cell}</div>" for cell in cells)}</div>'


def figure(title: str, caption: str, draw: Callable[[int], str], legend: str = "") -> str:
    """A chart, drawn once for wide and once for narrow screens; CSS shows one of them.

    Args:
        title: What it shows, in words.
        caption: How to read it, or what it does not show.
        draw: Gives the SVG for a width in pixels.
        legend: From `legend`, or empty.
    """
    return (
        f"<figure><h3>{escape(title)}</h3>{legend}"
        f'<div class="wide">{draw(WIDE)}</div><div class="narrow">{draw(NARROW)}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def legend(entries: Sequence[tuple[str, str, str]]) -> str:
    """Signs and names: (style, kind of `charts.swatch`, name)."""
    items = "".join(
        f"<li>{swatch(style, kind)}{escape(name)}</li>" for style, kind, name in entries
    )
    return f'<ul class="legend">{items}</ul>'


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "", strong: int = -1
) -> str:
    """A table whose first column is text and the others are figures.

    Args:
        head: Column names.
        rows: Cells, as many a row as columns.
        caption: What it shows.
        strong: The row to emphasise, or -1.
    """
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f"<tr{' class=strong' if place == strong else ''}>"
        + "".join(
            f'<th scope="row">{escape(cell)}</th>' if column == 0 else f"<td>{_cell(cell)}</td>"
            for column, cell in enumerate(row)
        )
        + "</tr>"
        for place, row in enumerate(rows)
    )
    return (
        f'<div class="scroll" tabindex="0"><table>{title}<thead><tr>{names}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def facts(entries: Sequence[tuple[str, str]]) -> str:
    """Names and values, as a compact list."""
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in entries
    )
    return f'<dl class="facts">{items}</dl>'


def notes(sentences: Sequence[str], style: str = "notice") -> str:
    """Sentences that must not be overlooked; nothing if there are none."""
    if not sentences:
        return ""
    return f'<div class="{style}" role="note">{"".join(paragraph(s) for s in sentences)}</div>'


def bullets(sentences: Sequence[str]) -> str:
    """A list of sentences."""
    return f"<ul>{''.join(f'<li>{escape(s)}</li>' for s in sentences)}</ul>"


def _cell(text: str) -> str:
    style = {"better": "better", "worse": "worse"}.get(text)
    return f'<span class="{style}">{escape(text)}</span>' if style else escape(text)
