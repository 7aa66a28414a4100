"""Charts and their scales: where marks lie, what ticks say, that text stays inside."""

from __future__ import annotations

import math
import re
from datetime import date, timedelta
from itertools import pairwise
from xml.etree import ElementTree as Xml

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nt_memory.apps.demo.charts import (
    CHARACTER,
    Axes,
    Bar,
    Series,
    bar_chart,
    latency_text,
    line_chart,
    map_chart,
    point_chart,
    swatch,
)
from nt_memory.apps.demo.scales import (
    Scale,
    date_ticks,
    extent,
    log_ticks,
    nice_ticks,
    tick_texts,
)

WIDTHS = (340, 540)
DAYS = [date(2019, 1, 2) + timedelta(days=i) for i in range(1_000)]


def parsed(svg: str) -> Xml.Element:
    """The chart as a tree; fails if it is not well formed."""
    return Xml.fromstring(svg)  # noqa: S314 - made by the function under test


def texts(svg: str) -> list[Xml.Element]:
    """All text elements."""
    return list(parsed(svg).iter("text"))


def assert_inside(svg: str, width: int) -> None:
    """No text leaves the chart at the left or right, by the width a character is reckoned with."""
    for text in texts(svg):
        x, length = float(text.attrib["x"]), len(text.text or "") * CHARACTER
        shift = {"start": 0.0, "middle": 0.5, "end": 1.0}[text.attrib["text-anchor"]]
        assert x - shift * length >= -0.1, text.text
        assert x + (1.0 - shift) * length <= width + 0.1, text.text


finite = st.floats(-1e6, 1e6)


@given(finite, st.floats(1e-3, 1e6), st.integers(2, 8))
def test_nice_ticks_are_round_few_and_inside(low: float, span: float, about: int) -> None:
    """Ticks are multiples of 1, 2 or 5 times a power of ten, within the axis, evenly spaced."""
    ticks = nice_ticks(low, low + span, about)
    assert len(ticks) <= about + 1
    slack = 1e-6 * max(span, abs(low))
    assert all(low - slack <= tick <= low + span + slack for tick in ticks)
    if len(ticks) > 1:
        step = ticks[1] - ticks[0]
        mantissa = step / 10.0 ** math.floor(math.log10(step) + 1e-6)
        assert any(mantissa == pytest.approx(m, rel=1e-3) for m in (1, 2, 5, 10))


@given(st.floats(1e-3, 1e5), st.floats(1.05, 1e6), st.integers(3, 8))
def test_log_ticks_are_inside_and_ascend(low: float, factor: float, about: int) -> None:
    """Logarithmic ticks lie within the axis, ascend, and are not crowded."""
    ticks = log_ticks(low, low * factor, about)
    assert ticks == sorted(set(ticks))
    assert all(low * 0.999 <= tick <= low * factor * 1.001 for tick in ticks)
    assert len(ticks) <= about + 1


def test_log_ticks_name_powers_of_ten_and_then_finer() -> None:
    """Wide axes get powers of ten, narrow ones 1, 2, 5."""
    assert log_ticks(0.05, 2e5, 7) == pytest.approx([0.1, 1, 10, 100, 1e3, 1e4, 1e5])
    assert log_ticks(4.5, 70.0, 6) == pytest.approx([5, 10, 20, 50])


def test_tick_texts_share_their_decimals() -> None:
    """All labels of an axis have as many decimals as the finest needs, and a true minus sign."""
    assert tick_texts([-0.5, 0.0, 0.5]) == ["−0.5", "0.0", "0.5"]
    assert tick_texts([0.0, 5_000.0]) == ["0", "5,000"]
    assert tick_texts([0.95, 0.9625]) == ["0.9500", "0.9625"]


@pytest.mark.parametrize(
    ("first", "last", "about", "names"),
    [
        (date(2015, 1, 2), date(2022, 12, 28), 4, ["2016", "2018", "2020", "2022"]),
        (date(2015, 1, 2), date(2022, 12, 28), 8, [str(y) for y in range(2016, 2023)]),
        (date(2021, 12, 30), date(2022, 12, 28), 4, ["Jan 2022", "Apr", "Jul", "Oct"]),
        (date(2022, 3, 3), date(2022, 3, 9), 4, ["2022-03-03"]),
        (date(1992, 1, 1), date(2022, 12, 28), 4, ["2000", "2010", "2020"]),
    ],
)
def test_date_ticks(first: date, last: date, about: int, names: list[str]) -> None:
    """Dates are named by years, or months where years are too few; a few days by the first."""
    assert [text for _, text in date_ticks(first, last, about)] == names


def test_scale_maps_ends_and_middle() -> None:
    """Linear and logarithmic scales map their ends to the ends, their middles to the middle."""
    assert [Scale(0, 10, 100, 200)(v) for v in (0, 5, 10)] == [100, 150, 200]
    assert Scale(1, 100, 0, 50, is_log=True)(10.0) == pytest.approx(25)


@pytest.mark.parametrize("values", [[], [math.nan], [3.0], [0.0, 0.0], [-1.0, 1.0], [math.inf]])
def test_extent_is_never_empty(values: list[float]) -> None:
    """Whatever is drawn, the axis has a length."""
    for is_log in (False, True):
        low, high = extent(values, is_log=is_log)
        assert low < high
        assert low > 0.0 or not is_log


def test_latency_texts() -> None:
    """Two digits that matter, and the unit that suits."""
    found = [latency_text(v) for v in (0.046, 0.99999, 1.0, 12.345, 554.0, 999.9, 2_240.0, 3.1e6)]
    assert found == ["46 ns", "1 µs", "1 µs", "12 µs", "554 µs", "1 ms", "2.2 ms", "3.1 s"]


@pytest.mark.parametrize("width", WIDTHS)
def test_line_chart_lifts_the_pen_at_gaps(width: int) -> None:
    """A NaN leaves a gap instead of a line across it, and text stays inside."""
    values = [float(i) for i in range(1_000)]
    values[400:600] = [math.nan] * 200
    svg = line_chart([Series("memory", values)], DAYS, Axes("t", y="Unit, %"), width=width)
    assert "NaN" not in svg.replace("nan", "NaN")
    path = re.search(r'class="line" d="([^"]+)"', svg)
    assert path is not None
    assert path[1].count("M") == 2
    assert_inside(svg, width)


def test_line_chart_draws_the_last_point() -> None:
    """Thinning keeps the end of a line, which is what the eye compares."""
    rising = [float(i) for i in range(999)]
    svg = line_chart([Series("memory", rising)], DAYS[:999], Axes("t"), width=540)
    path = re.search(r'class="line" d="([^"]+)"', svg)
    assert path is not None
    assert float(re.split("[ML ]", path[1])[-2]) == 532.0
    assert path[1].count("L") < 450


def test_line_chart_of_one_day_or_nothing() -> None:
    """One day, no finite value, or values that a logarithm cannot take: a chart without a line."""
    for values in ([1.0], [math.nan], [-1.0]):
        axes = Axes("t", is_log=True)
        assert texts(line_chart([Series("memory", values)], DAYS[:1], axes, width=340))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [1, 8, 33])
def test_point_chart_names_do_not_touch(width: int, count: int) -> None:
    """With many years only some are named, so that their names do not run into each other."""
    names = [str(1990 + i) for i in range(count)]
    skill = [math.sin(i) for i in range(count)]
    low, high = [v - 0.5 for v in skill], [v + 0.5 for v in skill]
    series = [Series(style, skill, low, high) for style in ("linear", "har_long", "ewma_cal")]
    svg = point_chart(series, names, Axes("t", y="%", lines=((0.0, ""),)), width=width)
    named = sorted(float(t.attrib["x"]) for t in texts(svg) if t.text in names)
    assert named
    assert all(b - a > 4 * CHARACTER for a, b in pairwise(named))
    assert svg.count("<circle") == 3 * count
    assert_inside(svg, width)


def test_point_chart_leaves_out_the_unknown() -> None:
    """A place whose value is NaN has neither a point nor a whisker."""
    series = [Series("linear", [1.0, math.nan], [0.5, math.nan], [1.5, math.nan])]
    svg = point_chart(series, ["a", "b"], Axes("t"), width=340)
    assert (svg.count("<circle"), svg.count("whisker")) == (1, 1)


@pytest.mark.parametrize("width", WIDTHS)
def test_bar_chart_keeps_a_row_whose_value_is_unknown(width: int) -> None:
    """A method that could not be judged keeps its name in the chart, without a mark."""
    bars = [
        Bar("memory", "HAR (5, 10, 22, 66 days)", "0.975 (0.968 to 0.982)", 0.975, 0.968, 0.982),
        Bar("memory", "EWMA", "–", math.nan, math.nan, math.nan),
    ]
    svg = bar_chart(bars, Axes("t", x="Ratio", lines=((1.0, ""),)), width=width)
    assert svg.count("<circle") == 1
    assert "EWMA" in [t.text for t in texts(svg)]
    assert_inside(svg, width)


def test_map_chart_draws_every_point_and_pattern() -> None:
    """Each situation is a dot of its colour, each pattern a numbered circle."""
    points = [(float(i % 7), float(i % 5), i % 5) for i in range(50)]
    patterns = [(1.0, 2.0, 9.0), (3.0, 1.0, 7.0)]
    svg = map_chart(points, patterns, Axes("t", x="a", y="b"), width=340, height=340)
    assert svg.count("h0") == 50
    assert svg.count("<circle") == 2
    assert {"1", "2"} <= {t.text for t in texts(svg)}


def test_text_is_escaped() -> None:
    """A name cannot break out of the chart."""
    svg = bar_chart([Bar("memory", "<b>&", "", 1.0, 1.0, 1.0)], Axes('"t"'), width=340)
    assert "<b>&" not in svg
    assert texts(svg)[-1].text == "<b>&"


@pytest.mark.parametrize("kind", ["line", "point", "both", "band"])
def test_swatches_are_svg(kind: str) -> None:
    """Every sign of a legend is well formed and hidden from those who hear the page."""
    assert parsed(swatch("memory", kind)).attrib["aria-hidden"] == "true"
