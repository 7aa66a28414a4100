"""The run's figures: the JSON document of a `DemoResult`, and `forecasts.csv`.

Methods are compared on the same places. Those are the places where the outcome, memory's forecast and all
baselines are known; a placebo or an ablation is judged on those of them where it also has a forecast, so
that a placebo which needs longer to start cannot shorten what memory is judged on.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from nt_memory.apps.demo.baselines import NAMES as BASELINES
from nt_memory.apps.demo.books import SESSIONS_A_YEAR
from nt_memory.apps.demo.scoring import (
    Ratio,
    Score,
    compared_on,
    coverage,
    coverage_by_year,
    interval_score,
    ratio,
    score,
    variance_corrections,
)
from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date
    from pathlib import Path

    from numpy.typing import NDArray

    from nt_memory.apps.demo.books import BookHistory
    from nt_memory.apps.demo.result import DemoResult

    Floats = NDArray[np.float64]
    Mask = NDArray[np.bool_]

PLACEBOS = ("placebo_permuted", "placebo_random")
ABLATION = "own_ticker"
WITH_PAST = "with_past"
BOOKS = ("memory", "ewma_cal", "linear", "equal_weight")
COUNTS = (
    "observations",
    "trajectories",
    "verdicts",
    "proposals",
    "approved",
    "rejected",
    "grants",
    "messages",
)
MEMORY = ("rss_anon_mb", "l2_mb", "l3_mb")
VOLATILITY_WINDOW = 63
DECIMALS = 9


def to_document(result: DemoResult) -> dict[str, Any]:
    """The figures as plain data for `json.dumps(..., allow_nan=False)`; what is not known is None.

    Only `latency_us`, `memory` and `seconds` differ between runs of the same seed and prices.

    Keys:
        run: What was run: days, tickers, options, whether it was interrupted; and a digest of memory's forecasts.
        forecast: By method: mae, rmse, r2, qlike, n; `with_past` only after `--no-past`. For memory also coverage, coverage_by_year and
            interval_score, and the same three under `fixed_interval` for the interval that never adapts.
        ratio: By method: MAE of memory over the method's (value) with its 95 % interval (low, high).
        books: By book, see `book_figures`.
        latency_us: By operation: n, p50, p99, in microseconds.
        memory: Megabytes.
        counts: What the swarm did.
        seconds: Wall time of the whole run.
    """
    others = [*BASELINES, *PLACEBOS, ABLATION]
    if WITH_PAST in result.forecasts:
        others.append(WITH_PAST)
    forecast = {name: _plain_score(method_score(result, name)) for name in ("memory", *others)}
    forecast["memory"] |= _interval_figures(result, result.low, result.high)
    forecast["memory"]["fixed_interval"] = _interval_figures(
        result, result.fixed_low, result.fixed_high
    )
    document = {
        "run": _run(result),
        "forecast": forecast,
        "ratio": {name: _plain_ratio(loss_ratio(result, "memory", name)) for name in others},
        "books": {
            name: book_figures(result.books[name], result.rule.target)
            for name in (*BOOKS, *sorted(set(result.books) - set(BOOKS)))
            if name in result.books
        },
        "latency_us": {
            name: latency_figures(seconds) for name, seconds in sorted(result.latencies.items())
        },
        "memory": _in_order(result.memory, MEMORY),
        "counts": _in_order(result.counts, COUNTS),
        "seconds": result.seconds.get("total"),
    }
    plain: dict[str, Any] = _without_nan(document)
    return plain


def write_forecasts(result: DemoResult, path: Path) -> None:
    """Write `forecasts.csv`; see `write_rows`.

    Raises:
        OSError: the file cannot be written.
    """
    columns = (result.forecasts["memory"], result.low, result.high, result.actual)
    write_rows(path, result.dates, result.tickers, columns)


def write_rows(
    path: Path, dates: Sequence[date], tickers: Sequence[str], columns: Sequence[Floats]
) -> None:
    """Write date, ticker, predicted, low, high, actual; log annualised volatility.

    Ordered by day, then as the tickers of the prices; six decimals, blank where unknown. A row's bytes
    depend on that row's numbers only.

    Args:
        path: Where to.
        dates: Traded days.
        tickers: Names.
        columns: The four, each of shape (n_days, n_tickers).

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("w", encoding="ascii", newline="\n") as file:
        file.write("date,ticker,predicted,low,high,actual\n")
        for row, day in enumerate(dates):
            for place, ticker in enumerate(tickers):
                cells = ",".join(_cell(float(column[row, place])) for column in columns)
                file.write(f"{day.isoformat()},{ticker},{cells}\n")


def forecasts_digest(
    dates: Sequence[date], tickers: Sequence[str], expected: Floats, low: Floats, high: Floats
) -> str:
    """SHA-256 over every byte of memory's forecasts and intervals, in hex.

    Args:
        dates: Traded days, n_days of them.
        tickers: Names.
        expected: Log volatilities, shape (n_days, n_tickers).
        low: Lower ends of the intervals, same shape; NaN where there is none.
        high: Upper ends.
    """
    digest = hashlib.sha256()
    digest.update("\n".join([*tickers, *(day.isoformat() for day in dates)]).encode())
    for column in (expected, low, high):
        # All NaN alike: which of their bit patterns one has says nothing.
        known = np.where(np.isnan(column), np.nan, column)
        digest.update(np.ascontiguousarray(known, dtype="<f8").tobytes())
    return digest.hexdigest()


def common_places(result: DemoResult) -> Mask:
    """Where the outcome, memory's forecast and every baseline is known, shape (n_days, n_tickers).

    A method without a single forecast is left aside: it cannot be judged anyway.
    """
    methods = [result.forecasts[name] for name in ("memory", *BASELINES) if has_any(result, name)]
    return compared_on(result.actual, methods)


def has_any(result: DemoResult, name: str) -> bool:
    """Whether a method made a forecast at all."""
    return name in result.forecasts and bool(np.any(np.isfinite(result.forecasts[name])))


def losses(result: DemoResult, name: str) -> Floats:
    """Absolute errors of a method on the common places, NaN elsewhere, shape (n_days, n_tickers)."""
    if name not in result.forecasts:
        return np.full(result.actual.shape, np.nan)
    errors = np.abs(result.actual - result.forecasts[name])
    return np.where(common_places(result), errors, np.nan)


def loss_ratio(result: DemoResult, name: str, other: str) -> Ratio | None:
    """MAE of one method over another's with a 95 % interval; None if they share no place."""
    return ratio_or_none(losses(result, name), losses(result, other))


def ratio_or_none(loss: Floats, other: Floats) -> Ratio | None:
    """`scoring.ratio`, or None where there is nothing to compare."""
    try:
        return ratio(loss, other)
    except InvalidInputError:
        return None


def method_score(result: DemoResult, name: str) -> Score | None:
    """Accuracy of a method on the common places; None if it has none.

    For QLIKE its variances are corrected by what its own errors taught up to then.
    """
    if not has_any(result, name):
        return None
    predicted = result.forecasts[name]
    correction = variance_corrections(predicted, result.actual)
    places = common_places(result)
    try:
        return score(np.where(places, predicted, np.nan), result.actual, correction)
    except InvalidInputError:
        return None


def rolling_volatility(equity: Floats, window: int = VOLATILITY_WINDOW) -> Floats:
    """Annualised volatility of the `window` returns up to each day, as root mean square.

    Returns:
        Shape of `equity`; NaN for the first `window` days.
    """
    rolled = np.full(equity.shape, np.nan)
    moves = np.diff(np.log(equity))
    if moves.shape[0] >= window:
        totals = np.concatenate([[0.0], np.cumsum(moves * moves)])
        means = (totals[window:] - totals[:-window]) / window
        rolled[window:] = np.sqrt(np.maximum(means, 0.0) * SESSIONS_A_YEAR)
    return rolled


def drawdowns(equity: Floats) -> Floats:
    """Loss since the highest close so far, as a share of it: 0 at a high, 0.2 for 20 % below."""
    drops: Floats = 1.0 - equity / np.maximum.accumulate(equity)
    return drops


def since_invested(history: BookHistory) -> Floats:
    """The book's equity from its first trade on."""
    held = np.flatnonzero(history.exposure > 0.0)
    return history.equity[held[0] :] if held.size else history.equity[:0]


def book_figures(history: BookHistory, target: float) -> dict[str, float | int | None]:
    """What became of a book; None where it did not trade long enough.

    Keys:
        volatility_target_error: Mean distance of the 63-day volatility from the target.
        realised_volatility: Annualised, since the first trade.
        turnover_per_year: Value traded over equity, a year; buying the book at first included.
        return_after_costs: Annualised, compounded, over all traded days.
        max_drawdown: Greatest loss from a high, as a share of it.
        final_equity: What 1 became.
        mean_exposure: Mean share of equity in the market since the first trade.
        trades: Days on which it traded.
    """
    equity, invested = history.equity, since_invested(history)
    n_moves = len(equity) - 1
    moves = np.diff(np.log(invested))
    rolled = rolling_volatility(invested)
    misses = np.abs(rolled[np.isfinite(rolled)] - target)
    years = n_moves / SESSIONS_A_YEAR
    return {
        "volatility_target_error": float(np.mean(misses)) if misses.size else None,
        "realised_volatility": (
            math.sqrt(float(np.mean(moves * moves)) * SESSIONS_A_YEAR) if moves.size else None
        ),
        "turnover_per_year": float(np.sum(history.traded)) / years if n_moves > 0 else None,
        "return_after_costs": (
            float(equity[-1] / equity[0]) ** (1.0 / years) - 1.0 if n_moves > 0 else None
        ),
        "max_drawdown": float(np.max(drawdowns(equity))) if len(equity) else None,
        "final_equity": float(equity[-1]) if len(equity) else None,
        "mean_exposure": (
            float(np.mean(history.exposure[len(equity) - len(invested) :]))
            if len(invested)
            else None
        ),
        "trades": int(np.count_nonzero(history.traded > 0.0)),
    }


def _run(result: DemoResult) -> dict[str, Any]:
    options = result.options
    return {
        "first_day": result.dates[0].isoformat() if result.dates else None,
        "last_day": result.dates[-1].isoformat() if result.dates else None,
        "days": len(result.dates),
        "total_days": result.total_days,
        "tickers": len(result.tickers),
        "is_interrupted": result.is_interrupted,
        "forecasts_sha256": forecasts_digest(
            result.dates, result.tickers, result.forecasts["memory"], result.low, result.high
        ),
        "options": {
            "years": options.years,
            "full": options.full,
            "no_past": options.no_past,
            "prices": None if options.prices is None else options.prices.name,
            "cost_bps": options.cost_bps,
            "seed": options.seed,
            "quick": options.quick,
        },
    }


def _interval_figures(result: DemoResult, low: Floats, high: Floats) -> dict[str, Any]:
    by_year = coverage_by_year(result.dates, low, high, result.actual)
    return {
        "coverage": coverage(low, high, result.actual),
        "coverage_by_year": {str(year): share for year, share in sorted(by_year.items())},
        "interval_score": interval_score(low, high, result.actual, result.settings.level),
    }


def _plain_score(found: Score | None) -> dict[str, Any]:
    if found is None:
        return {"mae": None, "rmse": None, "r2": None, "qlike": None, "n": 0}
    return asdict(found)


def _plain_ratio(found: Ratio | None) -> dict[str, Any]:
    return {"value": None, "low": None, "high": None} if found is None else asdict(found)


def latency_figures(seconds: Floats) -> dict[str, Any]:
    """How many calls there were, and their median and 99th percentile in microseconds."""
    known = seconds[np.isfinite(seconds)]
    if not known.size:
        return {"n": 0, "p50": None, "p99": None}
    p50, p99 = np.percentile(known, [50, 99]) * 1e6
    return {"n": int(known.size), "p50": round(float(p50), 3), "p99": round(float(p99), 3)}


def _in_order(found: Mapping[str, Any], first: tuple[str, ...]) -> dict[str, Any]:
    return {name: found.get(name) for name in (*first, *sorted(set(found) - set(first)))}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, (float, np.floating)):
        return round(float(value), DECIMALS) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def _cell(value: float) -> str:
    if not math.isfinite(value):
        return ""
    text = f"{value:.6f}"
    return "0.000000" if text == "-0.000000" else text
