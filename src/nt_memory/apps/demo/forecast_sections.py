"""The sections of the report about the forecasts: accuracy, parts, intervals, placebos."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from nt_memory.apps.demo.baselines import NAMES as BASELINES
from nt_memory.apps.demo.charts import Axes, Bar, Series, bar_chart, line_chart, point_chart
from nt_memory.apps.demo.figures import ABLATION, PLACEBOS, loss_ratio
from nt_memory.apps.demo.markup import (
    figure,
    legend,
    notes,
    pair,
    paragraph,
    section,
    table,
)
from nt_memory.apps.demo.slices import (
    Skill,
    chart_years,
    coverage_in,
    memory_bins,
    parts_of_forecast,
    recalled_over_time,
    skill_by_memory,
    skill_by_year,
)
from nt_memory.apps.demo.wording import (
    MAIN,
    UNKNOWN,
    interval,
    name_of,
    number,
    percent,
    placebo_warnings,
    strongest,
    verdict,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nt_memory.apps.demo.result import DemoResult
    from nt_memory.apps.demo.scoring import Ratio
    from nt_memory.apps.demo.wording import Verdict

    Document = Mapping[str, Any]

BAND = (75.0, 85.0)


def accuracy(document: Document) -> str:
    """Memory against every forecast without it."""
    title = "Against forecasts without memory"
    if strongest(document) is None:
        return section("accuracy", title, paragraph("There is no forecast to compare yet."))
    forecast, ratios = document["forecast"], document["ratio"]
    ordered = sorted(BASELINES, key=lambda name: (-(ratios[name]["value"] or 0.0), name))
    bars = [
        Bar(
            "memory",
            name_of(name),
            f"{number(ratios[name]['value'])}  ({interval(ratios[name])})",
            *(math.nan if ratios[name][k] is None else ratios[name][k] for k in _RATIO_KEYS),
        )
        for name in ordered
    ]
    axes = Axes(
        "Ratio of memory’s error to that of each baseline",
        x="Ratio of errors; left of 1, memory is better",
        lines=((1.0, ""),),
    )
    rows = [_row(forecast, "memory", [UNKNOWN, UNKNOWN, UNKNOWN])]
    rows += [
        _row(forecast, name, [number(r["value"]), interval(r), verdict(r)])
        for name, r in ((name, ratios[name]) for name in ordered)
    ]
    head = ["Forecast", "MAE", "RMSE", "R²", "QLIKE", "n", "Ratio", "95 % interval", "Memory is"]
    reading = (
        paragraph(
            "Each day, each analyst forecasts the log of its stock’s volatility over the next five "
            "days. The baselines see the same prices on the same days and are refitted walking "
            "forward. A ratio is memory’s mean absolute error over the baseline’s."
        )
        + paragraph(
            "Forecasts of one day, and of neighbouring days, are far from independent. The interval "
            "therefore rests on one number a day, the mean difference of losses over the stocks, "
            "with a Newey–West error of lag 10."
        )
        + paragraph(
            "QLIKE judges variances, each method’s corrected by what its own past errors taught. "
            "Lower is better, as for MAE and RMSE; for R² higher is."
        )
    )
    return section(
        "accuracy",
        title,
        pair(
            figure(
                "Memory’s error relative to each baseline",
                "Dot: ratio of mean absolute errors. Bar: 95 % interval. The strongest baseline "
                "comes first.",
                lambda width: bar_chart(bars, axes, width=width),
            ),
            reading,
        ),
        table(head, rows, strong=0),
    )


def parts(result: DemoResult) -> str:
    """The linear part of the forecast and the recalled part."""
    found = parts_of_forecast(result)
    if found is None:
        said = (
            "This run’s forecasts were recalled as a whole: there is no linear part to show."
            if result.settings.base == "none"
            else "No forecast with both parts has a known outcome yet."
        )
        return section("parts", "The two parts of a forecast", paragraph(said))
    gain = 1.0 - found.total_mae / found.base_mae
    text = paragraph(
        "A forecast is a linear forecast, fitted on the same features, plus what memory recalls: how "
        "much the most similar past situations departed from their own linear forecasts."
    ) + paragraph(
        f"The linear part alone has a mean absolute error of {number(found.base_mae)}; with the "
        f"recalled part it is {number(found.total_mae)}, {percent(abs(gain))} "
        f"{'less' if gain >= 0 else 'more'}. The recalled part changed a forecast by "
        f"{percent(math.expm1(found.mean_size))} on average, and moved it towards what happened in "
        f"{percent(found.right_way)} of {found.n:,} cases."
    )
    ends, means = recalled_over_time(result)
    series = [Series("memory", [100.0 * math.expm1(v) for v in means.tolist()])]
    axes = Axes(
        "What memory added to the linear forecast over time",
        y="Change of forecast volatility, %",
        lines=((0.0, ""),),
    )
    dates = [result.dates[end] for end in ends]
    chart = figure(
        "What memory added, day by day",
        "Mean over all stocks and runs of five days. Above zero, memory expected more volatility "
        "than the linear forecast.",
        lambda width: line_chart(series, dates, axes, width=width),
    )
    return section("parts", "The two parts of a forecast", pair(text, chart))


def skill(result: DemoResult) -> str:
    """Where memory helped: by year, and by how much was remembered."""
    years, left_out = chart_years(result)
    if not years:
        said = "Too few days have known outcomes to tell when memory helped."
        return section("skill", "When memory helped", paragraph(said))
    masks, sizes = memory_bins(result)
    by_year = [_skill_series(name, skill_by_year(result, years, name)) for name in MAIN]
    by_size = [_skill_series(name, skill_by_memory(result, masks, name)) for name in MAIN]
    key = legend([(name, "point", name_of(name)) for name in MAIN])
    unit = "MAE below the baseline’s, %"
    axes_year = Axes("Skill of memory by year", y=unit, lines=((0.0, ""),))
    axes_size = Axes(
        "Skill of memory by number of memories",
        y=unit,
        x="Outcomes remembered, thousands",
        lines=((0.0, ""),),
    )
    size_names = _size_names(sizes)
    return section(
        "skill",
        "When memory helped",
        pair(
            figure(
                "Skill by year",
                "Above zero memory’s error was lower. Lines: 95 % intervals." + _left_out(left_out),
                lambda width: point_chart(by_year, [str(y) for y in years], axes_year, width=width),
                key,
            ),
            figure(
                "Skill by size of memory",
                "Each place holds as many days. Memory grows with time, so this also contains what "
                "the years did." + _hint(result),
                lambda width: point_chart(by_size, size_names, axes_size, width=width),
                key,
            ),
        ),
    )


def coverage(result: DemoResult, document: Document) -> str:
    """How often the intervals held, adaptive and fixed."""
    mine = document["forecast"]["memory"]
    fixed = mine["fixed_interval"]
    title = "How sure it was"
    if mine["coverage"] is None:
        return section("coverage", title, paragraph("No interval has a known outcome yet."))
    level = percent(result.settings.level, 0)
    years, left_out = chart_years(result)
    ends = {
        "memory": (result.low, result.high),
        "fixed": (result.fixed_low, result.fixed_high),
    }
    shares = {style: coverage_in(result, years, *both) for style, both in ends.items()}
    text = paragraph(
        f"Every forecast states an {level} interval. It held {percent(mine['coverage'])} of what "
        f"happened; without adapting to its own misses it would have held "
        f"{percent(fixed['coverage'])}."
    )
    rows = [
        [name, percent(f["coverage"]), *_range(shares[style]), number(f["interval_score"])]
        for name, style, f in (("Adaptive", "memory", mine), ("Fixed", "fixed", fixed))
    ]
    text += table(["Interval", "Held", "Lowest year", "Highest year", "Interval score"], rows)
    text += paragraph(
        "The interval score is the mean width plus a penalty for each miss; lower is better.",
        style="small",
    )
    if not years:
        return section("coverage", title, text)
    series = [
        Series(style, [100.0 * share for share in shares[style]], is_joined=True)
        for style in ("fixed", "memory")
    ]
    axes = Axes(
        "Coverage of the intervals by year",
        y="Outcomes within the interval, %",
        band=BAND,
        lines=((100.0 * result.settings.level, ""),),
    )
    key = [
        ("memory", "both", "Adaptive"),
        ("fixed", "both", "Fixed"),
        ("band", "band", "75 to 85 %"),
    ]
    chart = figure(
        "Coverage by year",
        f"The line marks the {level} aimed at." + _left_out(left_out),
        lambda width: point_chart(series, [str(y) for y in years], axes, width=width),
        legend(key),
    )
    return section("coverage", title, pair(text, chart))


def placebos(result: DemoResult, document: Document) -> str:
    """Recall that cannot know anything, and memory without its neighbours' help."""
    forecast = document["forecast"]
    rows = [
        [
            name_of(name),
            number(forecast[name]["mae"]),
            *_ratio_cells(loss_ratio(result, name, "ewma_cal")),
            *_ratio_cells(loss_ratio(result, "memory", name)),
        ]
        for name in PLACEBOS
    ]
    head = [
        "Placebo",
        "MAE",
        "Over EWMA recal.",
        "95 % interval",
        "Memory over it",
        "95 % interval",
    ]
    own = document["ratio"][ABLATION]
    said = (
        "Recalling only a stock’s own past could not be judged."
        if own["value"] is None
        else f"Recalling only a stock’s own past has an error of {number(forecast[ABLATION]['mae'])}; "
        f"the whole swarm’s memory has {number(own['value'])} times that (95 % interval "
        f"{interval(own)}). {_OF_OTHERS[verdict(own)]}"
    )
    warned = placebo_warnings(document)
    judged = any(forecast[name]["n"] for name in PLACEBOS)
    passed = "Neither beat recalibrated EWMA." if judged and not warned else ""
    return section(
        "placebos",
        "Placebos and ablations",
        paragraph(
            "If recall that cannot know anything did well, memory’s skill would come from elsewhere. "
            "One placebo recalls the same situations with outcomes permuted across days, the other "
            "recalls situations at random.",
            *([passed] if passed else []),
        ),
        notes(warned, "warning"),
        table(head, rows) if judged else paragraph("Neither could be judged yet."),
        paragraph(said),
    )


_OF_OTHERS: dict[Verdict, str] = {
    "better": "What other stocks went through helped.",
    "worse": "What other stocks went through did harm here.",
    "no clear difference": "What other stocks went through made no clear difference.",
    "not known": "",
}
_RATIO_KEYS = ("value", "low", "high")


def _row(forecast: Document, name: str, more: list[str]) -> list[str]:
    found = forecast[name]
    figures = [number(found[key]) for key in ("mae", "rmse", "r2", "qlike")]
    return [name_of(name), *figures, f"{found['n']:,}", *more]


def _skill_series(name: str, skills: Sequence[Skill]) -> Series:
    return Series(
        name, [s.value for s in skills], [s.low for s in skills], [s.high for s in skills]
    )


def _size_names(sizes: Sequence[float]) -> list[str]:
    decimals = 0 if not sizes or min(sizes) >= 10_000 else 1
    return [f"{size / 1000:,.{decimals}f}" for size in sizes]


def _hint(result: DemoResult) -> str:
    is_empty_at_first = result.options.full or result.options.no_past
    return "" if is_empty_at_first else " Run with --no-past to see a start from nothing."


def _left_out(years: Sequence[int]) -> str:
    if not years:
        return ""
    return f" Too few days to show: {', '.join(map(str, years))}."


def _range(shares: Sequence[float]) -> tuple[str, str]:
    known = [share for share in shares if not math.isnan(share)]
    return (percent(min(known)), percent(max(known))) if known else (UNKNOWN, UNKNOWN)


def _ratio_cells(found: Ratio | None) -> tuple[str, str]:
    if found is None:
        return UNKNOWN, UNKNOWN
    return number(found.value), f"{number(found.low)} to {number(found.high)}"
