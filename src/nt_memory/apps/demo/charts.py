"""Charts as inline SVG: pure functions from data to text.

Colours, dashes and type come from CSS classes and variables of the page (`report.css`), so that a chart
follows the reader's light or dark scheme. Text has a fixed size in user units: draw a chart for the width
at which it is shown instead of scaling it. Values that are NaN leave a gap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from nt_memory.apps.demo.scales import Scale, date_ticks, extent, log_ticks, nice_ticks, tick_texts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

CHARACTER = 6.6
LINE_POINTS = 420
_WHISKER = 3.0


@dataclass(frozen=True, slots=True)
class Series:
    """One line or row of points.

    Attributes:
        style: CSS class that colours it, such as "linear".
        values: Heights; NaN leaves a gap.
        low: Lower ends of whiskers, or empty.
        high: Upper ends.
        is_joined: Whether points are joined by a line.
    """

    style: str
    values: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    is_joined: bool = False


@dataclass(frozen=True, slots=True)
class Axes:
    """What the axes say.

    Attributes:
        title: What the chart shows, for those who hear the page.
        y: Name and unit of the vertical axis.
        x: Name and unit of the horizontal axis; empty where its labels speak for themselves.
        band: A range to shade, or None.
        lines: Heights of reference lines, with a label each.
        is_log: Whether the main axis is logarithmic.
    """

    title: str
    y: str = ""
    x: str = ""
    band: tuple[float, float] | None = None
    lines: Sequence[tuple[float, str]] = ()
    is_log: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """A named value with an interval, on a row of its own."""

    style: str
    name: str
    note: str
    value: float
    low: float
    high: float


def line_chart(
    series: Sequence[Series], dates: Sequence[date], axes: Axes, *, width: int, height: int = 260
) -> str:
    """Lines over dates; at most `LINE_POINTS` points each, thinned by taking every n-th."""
    frame = _Frame.fit(series, axes, width, height)
    first, last = dates[0].toordinal(), dates[-1].toordinal()
    x = Scale(first, max(last, first + 1), frame.left, width - frame.right)
    parts = [*frame.drawn()]
    about = max(2, int((width - frame.left) / 74))
    for day, text in date_ticks(dates[0], dates[-1], about):
        parts.append(_x_tick(x(day.toordinal()), frame, text))
    for each in series:
        path = _path(
            (x(dates[i].toordinal()), frame.y_at(each.values[i])) for i in _thinned(len(dates))
        )
        parts.append(f'<g class="s-{each.style}"><path class="line" d="{path}"/></g>')
    parts.append(frame.reference_labels())
    return _svg(width, height, axes.title, parts)


def point_chart(
    series: Sequence[Series], names: Sequence[str], axes: Axes, *, width: int, height: int = 260
) -> str:
    """Points with whiskers over named places, the series of one place side by side."""
    frame = _Frame.fit(series, axes, width, height)
    room = (width - frame.right - frame.left) / max(len(names), 1)
    parts = [*frame.drawn()]
    widest = max((len(name) for name in names), default=1) * CHARACTER + 10
    every = max(1, math.ceil(widest / room))
    parts += [
        _x_tick(frame.left + (i + 0.5) * room, frame, name)
        for i, name in enumerate(names)
        if i % every == 0
    ]
    step = min(room * 0.62 / max(len(series), 1), 13.0)
    for place, each in enumerate(series):
        shift = 0.0 if each.is_joined else (place - (len(series) - 1) / 2) * step
        at = [frame.left + (i + 0.5) * room + shift for i in range(len(names))]
        parts.append(_points(each, at, frame, min(3.6, max(step / 3, 2.3))))
    parts.append(frame.reference_labels())
    return _svg(width, height, axes.title, parts)


def bar_chart(bars: Sequence[Bar], axes: Axes, *, width: int) -> str:
    """Rows of a name, a note and a point with its interval on a common horizontal axis.

    The name stands above its row, so that it may be as long as it needs to be at any width.
    """
    row, top = 42, 4
    height = top + row * len(bars) + 42
    base = height - 38
    low, high = extent(
        [
            *(v for bar in bars for v in (bar.value, bar.low, bar.high)),
            *(at for at, _ in axes.lines),
        ],
        is_log=axes.is_log,
    )
    x = Scale(low, high, 6.0, width - 6.0, axes.is_log)
    about = max(2, width // 70)
    at = log_ticks(low, high, about) if axes.is_log else nice_ticks(low, high, about)
    texts = [latency_text(t) for t in at] if axes.is_log else tick_texts(at)
    rows = [top + place * row + 26 for place in range(len(bars))]
    parts = [
        _text(_kept(x(t), text, width), base + 16, text) for t, text in zip(at, texts, strict=True)
    ]
    # Grid lines stop short of the names and notes between the rows.
    for style, marks in (("grid", at), ("reference", [mark for mark, _ in axes.lines])):
        path = "".join(f"M{_n(x(mark))} {_n(y - 8)}v18" for y in rows for mark in marks)
        parts.append(f'<path class="{style}" d="{path}"/>')
    parts += [_row(bar, x, y, width) for bar, y in zip(bars, rows, strict=True)]
    parts.append(_text(width / 2, height - 4, axes.x, "axis"))
    return _svg(width, height, axes.title, parts)


def map_chart(
    points: Sequence[tuple[float, float, int]],
    patterns: Sequence[tuple[float, float, float]],
    axes: Axes,
    *,
    width: int,
    height: int,
) -> str:
    """Situations as dots coloured by class, and patterns as numbered circles over them.

    Args:
        points: Two coordinates and the colour class, 0 to 4.
        patterns: Two coordinates and the radius in pixels; numbered from 1 in this order.
        axes: `x` and `y` name the two axes.
        width: In pixels.
        height: In pixels.
    """
    left, bottom, top = 34.0, 40.0, 22.0
    low, high = extent([p[0] for p in (*points, *patterns)])
    x = Scale(low, high, left, width - 6.0)
    low_y, high_y = extent([p[1] for p in (*points, *patterns)])
    y = Scale(low_y, high_y, height - bottom, top)
    parts = [_text(0, 11, axes.y, "axis", "start")]
    at = nice_ticks(low, high, max(2, width // 80))
    for tick, text in zip(at, tick_texts(at), strict=True):
        parts.append(f'<path class="grid" d="M{_n(x(tick))} {_n(top)}V{_n(height - bottom)}"/>')
        parts.append(_text(x(tick), height - bottom + 16, text))
    at = nice_ticks(low_y, high_y, max(2, height // 60))
    for tick, text in zip(at, tick_texts(at), strict=True):
        parts.append(f'<path class="grid" d="M{_n(left)} {_n(y(tick))}H{_n(width - 6.0)}"/>')
        parts.append(_text(left - 7, y(tick) + 4, text, "tick", "end"))
    parts.append(_text((left + width) / 2, height - 4, axes.x, "axis"))
    for level in range(5):
        dots = "".join(
            f"M{_n(x(a))} {_n(y(b))}h0" for a, b, own in points if own == level
        )  # a round-capped line of no length is a dot in six characters less than a circle
        parts.append(f'<path class="situation level-{level}" d="{dots}"/>' if dots else "")
    numbers: list[str] = []
    for number, (a, b, radius) in enumerate(patterns, start=1):
        spot = f'cx="{_n(x(a))}" cy="{_n(y(b))}"'
        parts.append(f'<circle class="pattern" {spot} r="{_n(radius)}"/>')
        numbers.append(_text(x(a), y(b) + 4, str(number), "number halo"))
    return _svg(width, height, axes.title, [*parts, *numbers])


def swatch(style: str, kind: str = "line") -> str:
    """The sign of a series for a legend: "line", "point", "both" or "band"."""
    width = 10 if kind == "point" else 24
    line = '<path class="line" d="M1 6H23"/>' if kind in {"line", "both"} else ""
    spot = f'<circle class="dot" cx="{width // 2}" cy="6" r="4"/>'
    dot = spot if kind in {"point", "both"} else ""
    band = '<rect class="band" width="24" height="12"/>' if kind == "band" else ""
    return (
        f'<svg class="swatch s-{style}" width="{width}" height="12" aria-hidden="true">'
        f"{band}{line}{dot}</svg>"
    )


def latency_text(microseconds: float) -> str:
    """A duration with two digits that matter and the unit that suits it."""
    for limit, unit, factor in ((1.0, "ns", 1e3), (1e3, "µs", 1.0), (1e6, "ms", 1e-3)):
        if microseconds < limit * 0.9995:
            return f"{_two_digits(microseconds * factor)} {unit}"
    return f"{_two_digits(microseconds / 1e6)} s"


@dataclass(frozen=True, slots=True)
class _Frame:
    """The box that a chart with a vertical axis is drawn in."""

    axes: Axes
    width: int
    height: int
    left: float
    scale: Scale
    ticks: Sequence[tuple[float, str]]
    right: float = 8.0
    top: float = 24.0

    @classmethod
    def fit(cls, series: Sequence[Series], axes: Axes, width: int, height: int) -> _Frame:
        """Choose the vertical scale, its ticks and the room for their labels."""
        drawn = [v for each in series for v in (*each.values, *each.low, *each.high)]
        drawn += [*(axes.band or ()), *(at for at, _ in axes.lines)]
        low, high = extent(drawn, is_log=axes.is_log)
        ticks = log_ticks(low, high, 6) if axes.is_log else nice_ticks(low, high, 6)
        texts = tick_texts(ticks)
        left = max((len(text) for text in texts), default=1) * CHARACTER + 9
        bottom = height - (40.0 if axes.x else 24.0)
        scale = Scale(low, high, bottom, 24.0, axes.is_log)
        return cls(axes, width, height, left, scale, list(zip(ticks, texts, strict=True)))

    @property
    def bottom(self) -> float:
        """Height in pixels of the horizontal axis."""
        return self.scale.start

    def y_at(self, value: float) -> float:
        """Height in pixels; NaN for what cannot be drawn."""
        is_drawable = math.isfinite(value) and (value > 0.0 or not self.scale.is_log)
        return self.scale(value) if is_drawable else math.nan

    def drawn(self) -> list[str]:
        """Band, grid, axis labels and reference lines."""
        end = self.width - self.right
        parts = [_text(0, 11, self.axes.y, "axis", "start")]
        if self.axes.band is not None:
            top, bottom = self.scale(self.axes.band[1]), self.scale(self.axes.band[0])
            parts.append(
                f'<rect class="band" x="{_n(self.left)}" y="{_n(top)}" '
                f'width="{_n(end - self.left)}" height="{_n(bottom - top)}"/>'
            )
        for tick, text in self.ticks:
            y = self.scale(tick)
            parts.append(f'<path class="grid" d="M{_n(self.left)} {_n(y)}H{_n(end)}"/>')
            parts.append(_text(self.left - 7, y + 4, text, "tick", "end"))
        for at, _ in self.axes.lines:
            line = f"M{_n(self.left)} {_n(self.scale(at))}H{_n(end)}"
            parts.append(f'<path class="reference" d="{line}"/>')
        if self.axes.x:
            parts.append(_text((self.left + end) / 2, self.height - 4, self.axes.x, "axis"))
        return parts

    def reference_labels(self) -> str:
        """Names of the reference lines, above them at the right, over everything else."""
        return "".join(
            _text(self.width - self.right, self.scale(at) - 5, text, "note halo", "end")
            for at, text in self.axes.lines
            if text
        )


def _row(bar: Bar, x: Scale, y: float, width: int) -> str:
    named = _text(0, y - 13, bar.name, "name", "start") + _text(
        width, y - 13, bar.note, "note", "end"
    )
    if not all(math.isfinite(v) for v in (bar.value, bar.low, bar.high)):
        return named
    return (
        f'{named}<g class="s-{bar.style}">'
        f'<path class="interval" d="M{_n(x(bar.low))} {_n(y)}H{_n(x(bar.high))}"/>'
        f'<circle class="dot" cx="{_n(x(bar.value))}" cy="{_n(y)}" r="4"/></g>'
    )


def _points(each: Series, at: Sequence[float], frame: _Frame, radius: float) -> str:
    parts = []
    if each.is_joined:
        path = _path((x, frame.y_at(v)) for x, v in zip(at, each.values, strict=True))
        parts.append(f'<path class="line" d="{path}"/>')
    for i, x in enumerate(at):
        if each.low and math.isfinite(each.low[i]) and math.isfinite(each.high[i]):
            top, bottom = frame.y_at(each.high[i]), frame.y_at(each.low[i])
            parts.append(f'<path class="whisker" d="M{_n(x)} {_n(top)}V{_n(bottom)}"/>')
        y = frame.y_at(each.values[i])
        if math.isfinite(y):
            parts.append(f'<circle class="dot" cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}"/>')
    return f'<g class="s-{each.style}">{"".join(parts)}</g>'


def _thinned(count: int) -> list[int]:
    every = max(1, math.ceil(count / LINE_POINTS))
    # Counted from the end, so that the last point is always drawn.
    return list(range((count - 1) % every, count, every))


def _path(points: Iterable[tuple[float, float]]) -> str:
    """A path through the points, lifting the pen where a height is NaN."""
    parts: list[str] = []
    is_down = False
    for x, y in points:
        if math.isnan(y):
            is_down = False
            continue
        parts.append(f"{'L' if is_down else 'M'}{_n(x)} {_n(y)}")
        is_down = True
    return "".join(parts)


def _x_tick(x: float, frame: _Frame, text: str) -> str:
    mark = f'<path class="grid" d="M{_n(x)} {_n(frame.bottom)}v4"/>'
    return mark + _text(_kept(x, text, frame.width), frame.bottom + 17, text)


def _kept(x: float, text: str, width: float) -> float:
    """Where to centre a text so that it does not run over the edge."""
    half = len(text) * CHARACTER / 2
    return min(max(x, half), width - half)


def _text(x: float, y: float, text: str, style: str = "tick", anchor: str = "middle") -> str:
    if not text:
        return ""
    return f'<text class="{style}" x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def _n(value: float) -> str:
    """A coordinate with one decimal at most, never "-0"."""
    text = f"{value:.1f}"
    return "0" if text in {"0.0", "-0.0"} else text.removesuffix(".0")


def _two_digits(value: float) -> str:
    if value == 0.0:
        return "0"
    decimals = max(0, 1 - math.floor(math.log10(value)))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
