"""What a run as many processes found: `forecasts.csv`, figures, and a summary in the terminal."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.padding import Padding
from rich.text import Text

from nt_memory.apps.demo.charts import latency_text
from nt_memory.apps.demo.figures import latency_figures, write_rows
from nt_memory.apps.demo.output import FORECASTS
from nt_memory.apps.demo.scoring import compared_on

if TYPE_CHECKING:
    from rich.console import Console

    from nt_memory.apps.demo.processes.run import Spread


def to_document(spread: Spread) -> dict[str, Any]:
    """The figures as plain data.

    Keys:
        run: Days, tickers, and a digest of the forecasts, which the demo in one process has too.
        forecast: By method: mae, over the places known to both; None if there are none.
        processes: servers, agents, started, kills, failures (ended badly by themselves).
        book: Equity at the last close; None without a day.
        latency_us: By operation: n, p50, p99.
        counts: What agents that ended well did.
        seconds: Wall time by phase.
    """
    known = compared_on(spread.actual, [spread.expected, spread.linear])
    tally = spread.tally
    return {
        "run": {
            "days": len(spread.dates),
            "tickers": len(spread.tickers),
            "forecasts_sha256": spread.digest,
        },
        "forecast": {
            "memory": {"mae": _mean_error(spread.expected[known], spread.actual[known])},
            "linear": {"mae": _mean_error(spread.linear[known], spread.actual[known])},
        },
        "processes": {
            "servers": spread.servers,
            "agents": spread.processes,
            "started": tally.started,
            "kills": tally.kills,
            "failures": tally.failures,
        },
        "book": {"equity": float(spread.equity[-1]) if len(spread.equity) else None},
        "latency_us": {
            name: latency_figures(np.array(seconds))
            for name, seconds in sorted(tally.seconds.items())
        },
        "counts": dict(sorted(tally.counts.items())),
        "seconds": spread.seconds,
    }


def _mean_error(predicted: Any, actual: Any) -> float | None:
    return float(np.mean(np.abs(actual - predicted))) if len(actual) else None


def write_all(spread: Spread, console: Console) -> None:
    """Write forecasts and figures under `options.out`, and show the summary.

    Raises:
        OSError: a file cannot be written.
    """
    options = spread.options
    columns = (spread.expected, spread.low, spread.high, spread.actual)
    write_rows(options.out / FORECASTS, spread.dates, spread.tickers, columns)
    document = to_document(spread)
    if options.figures is not None:
        options.figures.write_text(f"{json.dumps(document, indent=2)}\n", encoding="utf-8")
    _show(spread, document, console)


def _show(spread: Spread, document: dict[str, Any], console: Console) -> None:
    tally, run = spread.tally, document["run"]
    memory, linear = (document["forecast"][name]["mae"] for name in ("memory", "linear"))
    ratio = math.nan if not memory or not linear else memory / linear
    latencies = ", ".join(
        f"{name} {latency_text(f['p50'])} (p99 {latency_text(f['p99'])})"
        for name, f in document["latency_us"].items()
        if f["n"]
    )
    servers = "one server" if spread.servers == 1 else f"{spread.servers} servers"
    lines = [
        f"{run['days']} days traded by {spread.processes} processes over {servers}, in "
        f"{spread.seconds['trade']:.1f} s.",
        f"{tally.kills} killed at random and started again; {tally.failures} failed by themselves.",
        f"Mean absolute error over that of the linear forecast: {ratio:.3f}.",
        f"Latency   {latencies}",
        f"Time      {spread.seconds['total']:.1f} s",
        "",
        "SHA-256 of the forecasts, the same as of the demo in one process:",
        run["forecasts_sha256"],
        "",
        f"Store: {spread.store}",
    ]
    console.print(Padding(Text("\n".join(lines)), (1, 0, 1, 0)))
