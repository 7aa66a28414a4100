"""The sections of the report about the memory and the trading: recall, map, books, cost, caveats."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from nt_memory.apps.demo.charts import (
    Axes,
    Bar,
    bar_chart,
    latency_text,
    map_chart,
)
from nt_memory.apps.demo.markup import (
    bullets,
    facts,
    figure,
    legend,
    pair,
    paragraph,
    section,
    table,
)
from nt_memory.apps.demo.wording import command, feature_text, number, percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from nt_memory.apps.demo.result import DemoResult, SituationMap, WorkedRecall

    Document = Mapping[str, Any]
    Floats = NDArray[np.float64]

MAP_POINTS = 1_500
MAP_PATTERNS = 12
NEIGHBOURS = 10


def recall(result: DemoResult) -> str:
    """One forecast taken apart."""
    found, title = result.recall, "One recall, taken apart"
    if found is None:
        said = "The day of the worked recall was not reached in this run."
        return section("recall", title, paragraph(said))
    bars = [
        *([] if math.isnan(found.base) else [_bar("linear", "Linear part", found.base)]),
        Bar(
            "memory",
            "With what memory recalled",
            f"{_percent(found.predicted)}  ({_percent(found.low)} to {_percent(found.high)})",
            *(_volatility(v) for v in (found.predicted, found.low, found.high)),
        ),
        _bar("actual", "What happened", found.actual),
    ]
    axes = Axes("One forecast and its outcome", x="Annualised volatility of five days, %")
    rows = [
        [
            f"{neighbour.day.isoformat()}  {neighbour.ticker}",
            number(neighbour.score, 4),
            percent(neighbour.weight, 2),
            _percent(neighbour.outcome),
        ]
        for neighbour in found.neighbours[:NEIGHBOURS]
    ]
    features = [feature_text(name, value) for name, value in found.features]
    head = ["Situation", "Similarity", "Weight", "Volatility after"]
    return section(
        "recall",
        title,
        paragraph(*_recall_sentences(found)),
        pair(
            figure(
                f"{found.ticker} on {found.day.isoformat()}",
                "The bar is the 80 % interval.",
                lambda width: bar_chart(bars, axes, width=width),
            )
            + table(["The situation as it was embedded", ""], features),
            table(
                head, rows, caption=f"The {len(rows)} nearest of {found.memories:,} memories used"
            ),
        ),
    )


def situations(result: DemoResult) -> str:
    """The map of what is remembered, with the distilled patterns."""
    found, title = result.situations, "What it remembers"
    if found is None or not len(found.points):
        said = "Nothing was distilled in this run, so there is no map to show."
        return section("situations", title, paragraph(said))
    levels, names = _levels(found.outcomes)
    every = max(1, math.ceil(len(found.points) / MAP_POINTS))
    points = [
        (float(a), float(b), level)
        for (a, b), level in list(zip(found.points.tolist(), levels, strict=True))[::every]
        if level >= 0
    ]
    order = sorted(range(len(found.sizes)), key=lambda i: (-found.sizes[i], found.labels[i]))
    shown = order[:MAP_PATTERNS]
    largest = max((found.sizes[i] for i in shown), default=1)
    patterns = [
        (*found.centroids[i].tolist(), 6.0 + 8.0 * math.sqrt(found.sizes[i] / largest))
        for i in shown
    ]
    axes = Axes(
        "Map of situations with patterns",
        x="First principal component",
        y="Second principal component",
    )
    chart = figure(
        "Map of situations",
        f"A sample of {len(points):,} situations that the analyst of {found.agent} remembers; near "
        "means similar. Colour: the "
        "volatility that followed, in fifths. Circles: patterns, by size.",
        lambda width: map_chart(points, patterns, axes, width=width, height=min(width, 440)),
        legend([(f"level-{level}", "point", name) for level, name in enumerate(names)]),
    )
    return section("situations", title, pair(chart, _pattern_table(found, shown)))


def cost(result: DemoResult, document: Document) -> str:
    """What it took: time by operation, memory, and what the swarm did."""
    found = {name: f for name, f in document["latency_us"].items() if f["n"]}
    bars = [
        Bar(
            "memory",
            f"{name} ({f['n']:,})",
            f"{latency_text(f['p50'])} / {latency_text(f['p99'])}",
            f["p50"],
            f["p50"],
            f["p99"],
        )
        for name, f in found.items()
        if f["p50"] > 0.0
    ]
    axes = Axes("Latency by operation", x="Time of a call, logarithmic scale", is_log=True)
    chart = (
        figure(
            "Latency by operation",
            "Dot: median. End of the bar: 99th percentile. In brackets: calls.",
            lambda width: bar_chart(bars, axes, width=width),
        )
        if bars
        else paragraph("No call was timed.")
    )
    sizes = {
        "rss_anon_mb": "Anonymous resident memory",
        "l2_mb": "Vector index (L2)",
        "l3_mb": "Views on disk (L3)",
        "journal_mb": "Journal on disk",
    }
    memory = [
        (text, f"{number(document['memory'][name], 0)} MB")
        for name, text in sizes.items()
        if document["memory"].get(name) is not None
    ]
    counts = [
        (name.replace("_", " "), f"{count:,}")
        for name, count in document["counts"].items()
        if count is not None
    ]
    spent = [
        (name.replace("_", " "), f"{number(seconds, 1)} s")
        for name, seconds in sorted(result.seconds.items(), key=lambda item: item[0] == "total")
    ]
    lists = "".join(
        f"<h3>{heading}</h3>{facts(entries)}"
        for heading, entries in (
            ("What the swarm did", counts),
            ("What it held", memory),
            ("Where the time went", spent),
        )
        if entries
    )
    return section("cost", "What it took", pair(chart, f'<div class="lists">{lists}</div>'))


def caveats(result: DemoResult) -> str:
    """What the figures do not show."""
    is_carried = result.options.prices is None
    survivors = (
        "The 20 stocks are survivors: large companies of today, followed back to 1990. Firms that "
        "failed on the way are missing, so returns look better and crashes milder than they were."
        if is_carried
        else "The prices are yours. If they name only companies that still exist, returns look better "
        "and crashes milder than they were."
    )
    chosen = (
        "Settings were chosen on ten of the stocks and the years 1990 to 2014; the rest was run once. "
        "Ten stocks and the years after 2014 had no part in the choice."
        if is_carried
        else "Settings were chosen on ten US stocks and the years 1990 to 2014, not on these prices."
    )
    return section(
        "caveats",
        "What this does not show",
        bullets(
            [
                survivors,
                "A volatility forecast is not alpha. It says how much prices will move, not where to.",
                "Books pay for trades and nothing else: no financing, no dividends beyond adjusted "
                "closes, no taxes, no market impact. Borrowing above full exposure is free here, which "
                "flatters calm years.",
                chosen,
                "Closing prices only. Realised volatility from intraday prices is far less noisy and "
                "would make every method look better.",
            ]
        ),
    )


def reproduce(result: DemoResult) -> str:
    """How to get the same numbers."""
    source = (
        "the prices that come with the package" if result.options.prices is None else "your file"
    )
    return section(
        "reproduce",
        "Run it again",
        f"<pre><code>{command(result.options)}</code></pre>",
        paragraph(
            f"The same seed and prices ({source}) give the same numbers, byte for byte; only times and "
            "memory sizes differ. Every forecast is in forecasts.csv beside this page, as logs of "
            "annualised volatility; with --json FILE the figures of this page are written as JSON."
        ),
    )


def _volatility(log_volatility: float) -> float:
    return 100.0 * math.exp(log_volatility)


def _percent(log_volatility: float) -> str:
    return percent(None if math.isnan(log_volatility) else math.exp(log_volatility), 0)


def _bar(style: str, name: str, value: float) -> Bar:
    at = _volatility(value)
    return Bar(style, name, _percent(value), at, at, at)


def _recall_sentences(found: WorkedRecall) -> list[str]:
    said = [f"On {found.day.isoformat()} the analyst of {found.ticker} asked what memory knew."]
    if math.isnan(found.base):
        said.append(f"{found.memories:,} similar situations led it to forecast")
        said[-1] += f" {_percent(found.predicted)}."
    else:
        word = "above" if found.recalled >= 0.0 else "below"
        size = percent(abs(math.expm1(found.recalled)))
        said.append(
            f"The linear forecast was {_percent(found.base)}. The {found.memories:,} most similar "
            f"situations of the whole swarm had come out {size} {word} their own linear forecasts, "
            f"weighted by similarity, so it forecast {_percent(found.predicted)}."
        )
    if not math.isnan(found.actual):
        is_inside = found.low <= found.actual <= found.high
        said.append(
            f"It came to {_percent(found.actual)}, {'within' if is_inside else 'outside'} the interval."
        )
    return said


def _levels(outcomes: Floats) -> tuple[list[int], list[str]]:
    """Fifths of the outcomes, -1 where unknown, and what each fifth is called."""
    known = outcomes[np.isfinite(outcomes)]
    if not known.size:
        return [-1] * len(outcomes), []
    edges = np.quantile(known, [0.2, 0.4, 0.6, 0.8])
    levels = np.where(np.isfinite(outcomes), np.searchsorted(edges, outcomes, side="right"), -1)
    bounds = [f"{100.0 * math.exp(edge):.0f}" for edge in edges]
    middle = [f"{a} to {b} %" for a, b in pairwise(bounds)]
    return levels.tolist(), [f"below {bounds[0]} %", *middle, f"above {bounds[-1]} %"]


def _pattern_table(found: SituationMap, shown: Sequence[int]) -> str:
    rows = [
        [
            f"{number_}  {found.labels[i]}",
            f"{found.sizes[i]:,}",
            percent(None if math.isnan(found.success[i]) else found.success[i], 0),
        ]
        for number_, i in enumerate(shown, start=1)
    ]
    total = len(found.sizes)
    said = f"The {len(rows)} largest of {total} patterns" if total > len(rows) else "All patterns"
    return table(["Pattern", "Forecasts", "Beat their baseline"], rows, caption=said) + paragraph(
        "Clusters are formed by situation alone and never see outcomes. They describe what was "
        "remembered; whether a pattern holds beyond chance is not tested here.",
        style="small",
    )
