"""Where a run's findings go: the report, the forecasts, the figures, the terminal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from nt_memory.apps.demo import figures, page, terminal

if TYPE_CHECKING:
    from rich.console import Console

    from nt_memory.apps.demo.result import DemoResult

FORECASTS = "forecasts.csv"


def write_all(result: DemoResult, console: Console) -> None:
    """Write the report and its data under `options.out`, and show the summary.

    Raises:
        OSError: a file cannot be written.
    """
    options = result.options
    options.out.mkdir(parents=True, exist_ok=True)
    document = figures.to_document(result)
    (options.out / page.FILE_NAME).write_text(page.render(result, document), encoding="utf-8")
    figures.write_forecasts(result, options.out / FORECASTS)
    if options.figures is not None:
        text = json.dumps(document, indent=2, allow_nan=False)
        options.figures.write_text(f"{text}\n", encoding="utf-8")
    terminal.show(result, document, console)
