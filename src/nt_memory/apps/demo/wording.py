"""What the report says in words: names, numbers and verdicts, the same in the page and the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from nt_memory.apps.demo.baselines import NAMES as BASELINES
from nt_memory.apps.demo.figures import BOOKS, PLACEBOS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nt_memory.apps.demo.options import DemoOptions

Verdict = Literal["better", "worse", "no clear difference", "not known"]

UNKNOWN = "–"
NAMES = {
    "memory": "Memory",
    "har": "HAR (1, 5, 22 days)",
    "har_long": "HAR (5, 10, 22, 66 days)",
    "linear": "Linear regression with EWMA",
    "ewma": "EWMA (0.94)",
    "ewma_cal": "EWMA, recalibrated",
    "last_week": "Last week’s volatility",
    "placebo_permuted": "Outcomes permuted across days",
    "placebo_random": "Random recall",
    "own_ticker": "Own ticker’s memories only",
    "with_past": "The past remembered",
    "equal_weight": "Equal weight, held",
}
_IN_SENTENCES = {
    "linear": "linear regression",
    "ewma": "plain EWMA",
    "ewma_cal": "recalibrated EWMA",
    "last_week": "last week’s volatility",
}
MAIN = ("linear", "har_long", "ewma_cal")


def name_of(method: str) -> str:
    """What a reader calls a method, book or placebo."""
    return NAMES.get(method, method.replace("_", " "))


def number(value: float | None, decimals: int = 3) -> str:
    """A number with a fixed count of decimals and a true minus sign; a dash where unknown."""
    return UNKNOWN if value is None else f"{value + 0.0:,.{decimals}f}".replace("-", "−")


def percent(share: float | None, decimals: int = 1) -> str:
    """A share as a percentage."""
    return UNKNOWN if share is None else f"{number(100.0 * share, decimals)} %"


def interval(found: Mapping[str, float | None], decimals: int = 3) -> str:
    """An interval as "low to high"."""
    if found["low"] is None or found["high"] is None:
        return UNKNOWN
    return f"{number(found['low'], decimals)} to {number(found['high'], decimals)}"


def verdict(found: Mapping[str, float | None]) -> Verdict:
    """What a ratio of losses with its interval says about memory."""
    low, high = found["low"], found["high"]
    if low is None or high is None:
        return "not known"
    if high < 1.0:
        return "better"
    return "worse" if low > 1.0 else "no clear difference"


def strongest(document: Mapping[str, Any]) -> str | None:
    """The baseline with the smallest error; None if none could be judged."""
    judged = {
        name: document["forecast"][name]["mae"]
        for name in BASELINES
        if document["ratio"][name]["value"] is not None
    }
    return min(judged, key=lambda name: (judged[name], name)) if judged else None


def headline(document: Mapping[str, Any]) -> str:
    """What memory was worth, in one sentence, also when it lost."""
    best = strongest(document)
    if best is None:
        return "No forecast has a known outcome yet: nothing can be said about memory."
    found = document["ratio"][best]
    size = percent(abs(1.0 - found["value"]))
    match verdict(found):
        case "better":
            return f"Memory’s volatility forecasts were {size} more accurate than the best method without it."
        case "worse":
            return f"Memory lost: its volatility forecasts were {size} less accurate than the best method without it."
        case _:
            side = "more" if found["value"] < 1.0 else "less"
            return f"Memory made no clear difference: {size} {side} accurate than the best method without it, within noise."


def summary(document: Mapping[str, Any]) -> list[str]:
    """The sentences under the headline."""
    best = strongest(document)
    if best is None:
        return []
    forecast, found = document["forecast"], document["ratio"][best]
    mine = forecast["memory"]
    return [
        f"Mean absolute error of log volatility {number(mine['mae'])}, against "
        f"{number(forecast[best]['mae'])} for the strongest baseline, {_in_sentence(best)}: "
        f"ratio {number(found['value'])}, 95 % interval {interval(found)}, over "
        f"{mine['n']:,} forecasts.",
        _tally(document),
        *_past_sentence(document),
        *_coverage_sentence(mine["coverage"]),
        *_books_sentence(document["books"]),
    ]


def _past_sentence(document: Mapping[str, Any]) -> list[str]:
    """What it cost to start with an empty memory; said only after a run that did."""
    found = document["ratio"].get("with_past")
    if found is None or found["value"] is None:
        return []
    with_past, without = document["forecast"]["with_past"], document["forecast"]["memory"]
    cost = 100.0 * (found["value"] - 1.0)
    said = (
        f"cost {number(cost, 1)} %"
        if cost >= 0.0
        else f"cost nothing, it gained {number(-cost, 1)} %"
    )
    return [
        f"Starting from an empty memory {said}: error {number(without['mae'])}, against "
        f"{number(with_past['mae'])} on the same days with the years before remembered "
        f"(ratio {number(found['value'])}, 95 % interval {interval(found)})."
    ]


def placebo_warnings(document: Mapping[str, Any]) -> list[str]:
    """Placebos that beat recalibrated EWMA, which none may."""
    forecast = document["forecast"]
    reference = forecast["ewma_cal"]["mae"]
    return [
        f"{name_of(name)}: error {number(forecast[name]['mae'])}, below the {number(reference)} of "
        "recalibrated EWMA. A placebo must not do that: part of memory’s skill has another source."
        for name in PLACEBOS
        if reference is not None
        and forecast[name]["mae"] is not None
        and forecast[name]["mae"] < reference
    ]


def missing(document: Mapping[str, Any], *, has_recall: bool, has_map: bool) -> list[str]:
    """What a partial run could not show, and that a quick one shows little."""
    forecast = document["forecast"]
    without = [name_of(name) for name in forecast if forecast[name]["n"] == 0]
    books = [name_of(name) for name in BOOKS if name not in document["books"]]
    run = document["run"]
    notes = []
    if run["options"]["quick"]:
        notes.append(
            "This is the quick form, with few days and a small memory: it shows that everything "
            "works, not what memory is worth."
        )
    if run["is_interrupted"] or run["days"] < run["total_days"]:
        notes.append(
            f"Stopped after {run['days']:,} of {run['total_days']:,} days. "
            "Every figure is about the days that were reached."
        )
    # When nothing at all was judged, the headline has said so.
    if without and len(without) < len(forecast):
        notes.append(f"No forecast could be judged for: {'; '.join(without)}.")
    if books:
        which = "" if len(books) == len(BOOKS) else f" for: {'; '.join(books)}"
        notes.append(f"No book was finished{which}.")
    if not has_recall:
        notes.append("The day of the worked recall was not reached.")
    if not has_map:
        notes.append("No patterns were distilled, so there is no map of situations.")
    return notes


def command(options: DemoOptions) -> str:
    """The command that gives the same numbers again."""
    parts = ["nt-memory", "demo"]
    if options.full:
        parts.append("--full")
    elif options.years != 8:
        parts += ["--years", str(options.years)]
    parts += ["--no-past"] if options.no_past else []
    parts += ["--prices", options.prices.name] if options.prices is not None else []
    parts += ["--cost-bps", f"{options.cost_bps:g}"] if options.cost_bps != 5.0 else []
    parts += ["--seed", str(options.seed)]
    parts += ["--quick"] if options.quick else []
    return " ".join(parts)


def feature_text(name: str, value: float) -> tuple[str, str]:
    """A feature of the market-window embedder and its value as a reader understands them."""
    days = name.rsplit("_", 1)[-1]
    if name.startswith("log_volatility_"):
        return f"Volatility, {_days(days)}", percent(math.exp(value), 0)
    if name.startswith("market_log_volatility_"):
        return f"Market’s volatility, {_days(days)}", percent(math.exp(value), 0)
    if name.startswith("return_") and name.endswith("_in_volatility"):
        days = name.split("_")[1]
        return f"Return over {days} days, in units of volatility", number(value, 1)
    if name.startswith("log_distance_from_high_"):
        return f"Distance from the {days}-day high", percent(math.expm1(value), 0)
    return name.replace("_", " "), number(value, 2)


def _days(count: str) -> str:
    return "1 day" if count == "1" else f"{count} days"


def _in_sentence(method: str) -> str:
    return _IN_SENTENCES.get(method, name_of(method))


def _tally(document: Mapping[str, Any]) -> str:
    verdicts = [verdict(document["ratio"][name]) for name in BASELINES]
    judged = len(verdicts) - verdicts.count("not known")
    kinds = (
        ("better", "clearly better than"),
        ("no clear difference", "not clearly different from"),
        ("worse", "clearly worse than"),
    )
    said = [
        f"{text} {'all' if verdicts.count(kind) == judged else verdicts.count(kind)}"
        for kind, text in kinds
        if kind in verdicts
    ]
    return f"Of the {judged} methods without memory it was {', '.join(said)}."


def _coverage_sentence(share: float | None) -> list[str]:
    if share is None:
        return []
    return [f"Its 80 % intervals held {percent(share)} of what happened."]


def _books_sentence(books: Mapping[str, Any]) -> list[str]:
    errors = {
        name: books[name]["volatility_target_error"]
        for name in ("memory", "ewma_cal", "linear")
        if name in books and books[name]["volatility_target_error"] is not None
    }
    if "memory" not in errors or len(errors) < 2:
        return []
    others = " and ".join(
        f"{number(100 * error, 2)} with {_in_sentence(name)}"
        for name, error in errors.items()
        if name != "memory"
    )
    return [
        f"Sized by memory, the book’s volatility missed its target by {number(100 * errors['memory'], 2)} "
        f"points on average; {others}."
    ]
