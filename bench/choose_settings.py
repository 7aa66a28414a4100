"""Print what each choice of `nt_memory.apps.demo.settings` rests on.

Ten tickers, 1990 to 2014, two windows walked forward with all earlier years remembered. About two
minutes on one core. Usage: OMP_NUM_THREADS=1 python bench/choose_settings.py
"""

from __future__ import annotations

import platform
import time
from dataclasses import replace

import numpy as np

from nt_memory.apps.demo.research import (
    Neighbours,
    Study,
    choosing_panel,
    find_neighbours,
    judge,
    prepare,
)
from nt_memory.apps.demo.settings import CHOSEN, Settings

WINDOWS = ((1999, 2006), (2007, 2014))

# One choice is changed at a time; these need another search for neighbours.
SEARCHES: dict[str, Settings] = {
    "constant 2": replace(CHOSEN, constant=2.0),
    "constant 10": replace(CHOSEN, constant=10.0),
    "weighted features": replace(CHOSEN, is_weighted=True),
    "remembered from day 315": replace(CHOSEN, first_day=315),
    "remembered from day 1008": replace(CHOSEN, first_day=1008),
    "600 neighbours": replace(CHOSEN, neighbours=600),
}
VARIANTS: dict[str, Settings] = {
    "50 neighbours": replace(CHOSEN, neighbours=50),
    "100 neighbours": replace(CHOSEN, neighbours=100),
    "200 neighbours": replace(CHOSEN, neighbours=200),
    "median": replace(CHOSEN, functional="median"),
    "no base": replace(CHOSEN, base="none"),
    "no bias": replace(CHOSEN, gain=0.0),
    "no base, no bias": replace(CHOSEN, base="none", gain=0.0),
    "decay 0.8": replace(CHOSEN, decay=0.8),
    "decay 0.95": replace(CHOSEN, decay=0.95),
    "gain 0.01": replace(CHOSEN, gain=0.01),
    "gain 0.05": replace(CHOSEN, gain=0.05),
    "gamma 0": replace(CHOSEN, gamma=0.0),
    "gamma 0.005": replace(CHOSEN, gamma=0.005),
    "gamma 0.01": replace(CHOSEN, gamma=0.01),
    "gamma 0.05": replace(CHOSEN, gamma=0.05),
    "gamma 0.1": replace(CHOSEN, gamma=0.1),
}


def show(name: str, study: Study, settings: Settings, near: Neighbours) -> None:
    found = judge(study, settings, near)
    ratios = " ".join(
        f"{found.ratios[key].value:.4f} [{found.ratios[key].low:.3f} {found.ratios[key].high:.3f}]"
        for key in ("linear", "har_long", "ewma_cal")
    )
    years = found.by_year.values()
    print(
        f"{name:26} {found.mae:.4f}  {ratios}  {found.covered:.4f} "
        f"{min(years):.3f} {max(years):.3f}  {found.interval_score:.4f}",
        flush=True,
    )


def main() -> None:
    started = time.perf_counter()
    print(f"{platform.machine()} python {platform.python_version()} numpy {np.__version__}")
    study = prepare(choosing_panel())
    years = np.array([day.year for day in study.panel.dates])
    print(f"{', '.join(study.panel.tickers)}; {study.panel.dates[0]} to {study.panel.dates[-1]}")
    for first, last in WINDOWS:
        start, end = (int(np.searchsorted(years, year)) for year in (first, last + 1))
        print(f"\n{first} to {last}: MAE, ratio to linear, har_long, ewma_cal; coverage, least and")
        print("greatest of a year; interval score")
        near = find_neighbours(study, CHOSEN, start, end)
        show("chosen", study, CHOSEN, near)
        for name, settings in VARIANTS.items():
            show(name, study, settings, near)
        for name, settings in SEARCHES.items():
            show(name, study, settings, find_neighbours(study, settings, start, end))
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
