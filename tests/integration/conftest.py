"""Fixtures for tests of the whole demo, on synthetic prices."""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from nt_memory.apps.demo.figures import write_forecasts
from nt_memory.apps.demo.options import DemoOptions
from nt_memory.apps.demo.run import STORE, plan_run, run_demo

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nt_memory.apps.demo.result import DemoResult
    from nt_memory.apps.demo.run import Plan


@dataclass(frozen=True)
class Finished:
    """A run that ended: what was asked, what it found, and what it wrote."""

    options: DemoOptions
    result: DemoResult

    @property
    def plan(self) -> Plan:
        """What was traded."""
        return plan_run(self.options)

    @property
    def store(self) -> Path:
        """The memory it left."""
        return self.options.out / STORE

    def forecast_lines(self) -> list[bytes]:
        """The lines of `forecasts.csv`."""
        path = self.options.out / "forecasts.csv"
        write_forecasts(self.result, path)
        return path.read_bytes().splitlines(keepends=True)


@pytest.fixture(scope="session")
def synthetic() -> SimpleNamespace:
    """`prices(n_days)`, `weekdays(n_days)` and `write_prices(path, prices)`."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "demo_prices.py")))


@pytest.fixture(scope="session")
def demo(
    synthetic: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Finished]:
    """`demo(prices)`: one run in a directory of its own; other arguments are its options."""

    def run(closes: NDArray[Any] | None = None, progress: Any = None, **options: Any) -> Finished:
        folder = tmp_path_factory.mktemp("demo")
        prices = synthetic.prices() if closes is None else closes
        given = {
            "prices": synthetic.write_prices(folder / "prices.csv", prices),
            "out": folder / "report",
            "years": 1,
            **options,
        }
        asked = DemoOptions(**given)
        return Finished(asked, run_demo(asked, progress))

    return run


@pytest.fixture(scope="session")
def finished(demo: Callable[..., Finished]) -> Finished:
    """A whole run that tests only look at."""
    return demo()
