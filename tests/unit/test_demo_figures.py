"""The figures of a demo run: the document, its slices, and forecasts.csv."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nt_memory.apps.demo import figures, slices, wording
from nt_memory.apps.demo.books import BookHistory
from nt_memory.apps.demo.options import DemoOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nt_memory.apps.demo.result import DemoResult

    Build = Callable[..., DemoResult]

METHODS = {
    "memory",
    "har",
    "har_long",
    "linear",
    "ewma",
    "ewma_cal",
    "last_week",
    "placebo_permuted",
    "placebo_random",
    "own_ticker",
}


def emptied(result: DemoResult, *names: str) -> DemoResult:
    """The run without a single forecast of some methods."""
    nothing = np.full(result.actual.shape, math.nan)
    return replace(result, forecasts={**result.forecasts, **dict.fromkeys(names, nothing)})


def test_document_has_exactly_the_promised_keys(made_up_result: Build) -> None:
    """Whoever reads the JSON finds every promised key, and nothing under another name."""
    document = figures.to_document(made_up_result())
    assert set(document) == {
        "run",
        "forecast",
        "ratio",
        "books",
        "latency_us",
        "memory",
        "counts",
        "seconds",
    }
    assert set(document["forecast"]) == METHODS
    assert set(document["ratio"]) == METHODS - {"memory"}
    five = {"mae", "rmse", "r2", "qlike", "n"}
    three = {"coverage", "coverage_by_year", "interval_score"}
    assert set(document["forecast"]["har"]) == five
    assert set(document["forecast"]["memory"]) == five | three | {"fixed_interval"}
    assert set(document["forecast"]["memory"]["fixed_interval"]) == three
    assert all(set(found) == {"value", "low", "high"} for found in document["ratio"].values())
    assert all(set(found) == {"n", "p50", "p99"} for found in document["latency_us"].values())
    assert list(document["books"]) == ["memory", "ewma_cal", "linear", "equal_weight"]
    assert {"rss_anon_mb", "l2_mb", "l3_mb"} <= set(document["memory"])
    assert {"verdicts", "rejected", "grants", "messages"} <= set(document["counts"])
    assert document["seconds"] == 121.3


def test_document_is_strict_json_and_the_same_every_time(made_up_result: Build) -> None:
    """NaN never reaches the JSON, and the same run gives the same bytes."""
    result = emptied(made_up_result(), "own_ticker", "placebo_random")
    texts = [json.dumps(figures.to_document(result), allow_nan=False) for _ in range(2)]
    assert texts[0] == texts[1]
    document = json.loads(texts[0])
    assert document["forecast"]["own_ticker"] == {
        "mae": None,
        "rmse": None,
        "r2": None,
        "qlike": None,
        "n": 0,
    }
    assert document["ratio"]["own_ticker"] == {"value": None, "low": None, "high": None}


def test_methods_are_judged_on_the_same_places(made_up_result: Build) -> None:
    """A day that one baseline cannot forecast counts for none; the ratio is that of the MAEs."""
    result = made_up_result()
    result.forecasts["har"][:50] = math.nan
    found = figures.to_document(result)
    sizes = {found["forecast"][name]["n"] for name in ("memory", "har", "linear", "ewma_cal")}
    assert sizes == {(320 - 5 - 50) * 3}
    share = found["forecast"]["memory"]["mae"] / found["forecast"]["linear"]["mae"]
    assert found["ratio"]["linear"]["value"] == pytest.approx(share, abs=1e-8)


def test_a_late_placebo_does_not_shorten_what_memory_is_judged_on(made_up_result: Build) -> None:
    """Memory cannot be flattered by leaving out its early days for a placebo's sake."""
    result = made_up_result()
    result.forecasts["placebo_random"][:100] = math.nan
    found = figures.to_document(result)["forecast"]
    assert found["memory"]["n"] == 315 * 3
    assert found["placebo_random"]["n"] == 215 * 3


def test_a_baseline_without_any_forecast_does_not_blank_the_others(made_up_result: Build) -> None:
    """One missing method leaves the rest judged."""
    found = figures.to_document(emptied(made_up_result(), "har_long"))
    assert found["forecast"]["memory"]["n"] == 315 * 3
    assert found["ratio"]["har_long"]["value"] is None


def test_latencies_are_microseconds(made_up_result: Build) -> None:
    """p50 and p99 of seconds come out in microseconds; an operation never timed has none."""
    timed = {"get": np.arange(1, 101) * 1e-6, "vote": np.empty(0)}
    found = figures.to_document(made_up_result(latencies=timed))["latency_us"]
    assert found["get"] == {"n": 100, "p50": 50.5, "p99": pytest.approx(99.01)}
    assert found["vote"] == {"n": 0, "p50": None, "p99": None}


def test_partial_run_says_so(made_up_result: Build) -> None:
    """An interrupted run cannot be mistaken for a whole one."""
    run = figures.to_document(made_up_result(n_days=30, total_days=2_000, is_interrupted=True))[
        "run"
    ]
    assert (run["days"], run["total_days"], run["is_interrupted"]) == (30, 2_000, True)


def test_run_names_the_price_file_but_not_where_it_lies(
    made_up_result: Build, tmp_path: Path
) -> None:
    """A report can be passed on without telling whose disk it came from."""
    result = made_up_result(options=DemoOptions(prices=tmp_path / "mine.csv"))
    assert figures.to_document(result)["run"]["options"]["prices"] == "mine.csv"


def test_forecasts_csv_by_hand(made_up_result: Build, tmp_path: Path) -> None:
    """Header, order, six decimals, blanks for what is unknown, and no minus zero."""
    result = made_up_result(n_days=10, tickers=("AAA", "BBB"))
    result.forecasts["memory"][0] = (-1.23456789, -1e-9)
    result.low[0] = (-2.0, math.nan)
    result.high[0] = (-0.5, math.nan)
    result.actual[0] = (0.1, math.nan)
    figures.write_forecasts(result, tmp_path / "forecasts.csv")
    lines = (tmp_path / "forecasts.csv").read_bytes().split(b"\n")
    assert lines[0] == b"date,ticker,predicted,low,high,actual"
    assert lines[1] == b"2019-06-03,AAA,-1.234568,-2.000000,-0.500000,0.100000"
    assert lines[2] == b"2019-06-03,BBB,0.000000,,,"
    assert len(lines) == 1 + 20 + 1


def test_forecasts_csv_rows_do_not_depend_on_later_ones(
    made_up_result: Build, tmp_path: Path
) -> None:
    """Cutting a run short leaves the rows before the cut as they were, byte for byte."""
    whole = made_up_result(n_days=40)
    cut = replace(whole, dates=whole.dates[:25])
    for name, result in (("whole", whole), ("cut", cut)):
        figures.write_forecasts(result, tmp_path / name)
    assert (tmp_path / "whole").read_bytes().startswith((tmp_path / "cut").read_bytes())


def test_rolling_volatility_of_constant_moves() -> None:
    """Moves of 1 % a day are a volatility of 1 % times the root of 252."""
    equity = np.exp(0.01 * np.arange(10))
    rolled = figures.rolling_volatility(equity, window=4)
    assert np.isnan(rolled[:4]).all()
    assert rolled[4:] == pytest.approx(0.01 * math.sqrt(252))


def test_drawdown_by_hand() -> None:
    """The distance from the highest close so far."""
    found = figures.drawdowns(np.array([1.0, 2.0, 1.5, 2.0, 0.5]))
    assert found.tolist() == [0.0, 0.0, 0.25, 0.0, 0.75]


def test_book_figures_by_hand() -> None:
    """Return compounds over the traded years, turnover and trades count what was traded."""
    n = 253
    equity = 1.1 ** (np.arange(n) / 252)
    exposure = np.r_[0.0, np.full(n - 1, 0.5)]
    traded = np.zeros(n)
    traded[[1, 100]] = 0.5, 0.25
    found: dict[str, Any] = figures.book_figures(BookHistory(equity, exposure, traded), 0.10)
    daily = math.log(1.1) / 252
    assert found["return_after_costs"] == pytest.approx(0.1)
    assert found["turnover_per_year"] == pytest.approx(0.75)
    assert found["realised_volatility"] == pytest.approx(daily * math.sqrt(252))
    assert found["volatility_target_error"] == pytest.approx(0.10 - daily * math.sqrt(252))
    assert (found["max_drawdown"], found["mean_exposure"], found["trades"]) == (0.0, 0.5, 2)


@pytest.mark.parametrize("n_days", [0, 1, 2])
def test_a_book_too_short_to_judge_has_no_figures(n_days: int) -> None:
    """A book of a day or two gives None instead of a number without meaning, and no error."""
    nothing = np.zeros(n_days)
    found = figures.book_figures(BookHistory(np.ones(n_days), nothing, nothing), 0.1)
    assert found["volatility_target_error"] is None
    assert found["realised_volatility"] is None


def test_years_with_few_days_get_no_point(made_up_result: Build) -> None:
    """Three days of a year are not a year."""
    result = made_up_result(n_days=300, first=date(2018, 12, 27))
    assert slices.chart_years(result) == ([2019], [2018, 2020])


def test_skill_is_one_minus_the_ratio(made_up_result: Build) -> None:
    """Skill over all days is the ratio turned round: in percent, above zero when memory is better."""
    result = made_up_result()
    ratio = figures.loss_ratio(result, "memory", "linear")
    assert ratio is not None
    (skill,) = slices.skill_by_memory(result, [np.ones(320, dtype=np.bool_)], "linear")
    assert skill.value == pytest.approx(100 * (1 - ratio.value))
    assert skill.low == pytest.approx(100 * (1 - ratio.high))
    assert skill.low < skill.value < skill.high


def test_memory_bins_cover_the_known_days_once(made_up_result: Build) -> None:
    """Every judged day is in one bin, and bins ascend by what was remembered."""
    result = made_up_result()
    masks, sizes = slices.memory_bins(result, about=5)
    assert len(masks) == 5
    assert sizes == sorted(sizes)
    assert np.array_equal(np.sum(masks, axis=0), [1] * 315 + [0] * 5)


def test_parts_of_forecast_by_hand(made_up_result: Build) -> None:
    """The recalled part goes the right way where it moves the forecast towards the outcome."""
    result = made_up_result()
    result.base[:] = result.actual - 0.2
    result.recalled[:] = 0.1
    result.recalled[:63] = -0.1
    result.forecasts["memory"][:] = result.base + result.recalled
    found = slices.parts_of_forecast(result)
    assert found is not None
    assert found.right_way == pytest.approx(0.8)
    assert (found.base_mae, found.mean_size) == (pytest.approx(0.2), pytest.approx(0.1))
    assert found.total_mae == pytest.approx(0.8 * 0.1 + 0.2 * 0.3)


def test_no_parts_without_a_base(made_up_result: Build) -> None:
    """Forecasts recalled as a whole are not shown as if they had two parts."""
    result = made_up_result()
    whole = replace(result.settings, base="none")
    assert slices.parts_of_forecast(replace(result, settings=whole)) is None


def test_a_start_from_nothing_is_priced(made_up_result: Build) -> None:
    """After --no-past the same days with the past remembered are compared, in figures and words."""
    plain = made_up_result()
    assert not any("empty memory" in line for line in wording.summary(figures.to_document(plain)))
    better = 0.5 * (plain.forecasts["memory"] + plain.actual)
    priced = replace(plain, forecasts={**plain.forecasts, "with_past": better})
    document = figures.to_document(priced)
    assert document["ratio"]["with_past"]["value"] == pytest.approx(2.0)
    (line,) = [line for line in wording.summary(document) if "empty memory" in line]
    assert "cost 100.0 %" in line
