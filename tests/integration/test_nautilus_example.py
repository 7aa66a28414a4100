"""The NautilusTrader example: `make test-nautilus` installs the platform; without it these are skipped."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path

import pytest

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.errors import LookAheadError

pytest.importorskip("nautilus_trader", reason="make test-nautilus installs the platform")

# The platform's own.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.timeout(600),
]
EXAMPLE = Path(__file__).parents[2] / "examples" / "nautilus" / "remembering.py"


@pytest.fixture(scope="module")
def example():
    """The example's module."""
    return runpy.run_path(str(EXAMPLE), run_name="example")


def shortened(panel, days):
    """The same prices, ending earlier."""
    return dataclasses.replace(panel, dates=panel.dates[:days], prices=panel.prices[:days].copy())


def ran(example, panel, path):
    """What it left, and what the memory holds of it."""
    config = MemoryConfig(storage_path=path, timeline="backtest")
    with MemorySystem.open_sync(config) as memory:
        found = example["run"](panel, memory)
        first = panel.tickers[0]
        stored = memory.bank.trajectories(first)
        return found, memory.timeline.now, stored


def test_it_runs_and_says_what_came_of_it(example, capsys):
    """As a script: it beats the naive forecast, and it traded."""
    example["main"]()
    said = capsys.readouterr().out
    assert "forecasts judged" in said
    assert "orders filled" in said


def test_what_comes_later_changes_nothing_before_it(example, tmp_path):
    """With 60 days less, every forecast of the days that are left is the same to the last bit, and so is
    every outcome that was known: nothing was read ahead of its time."""
    whole = example["prices"]()
    longer, _, _ = ran(example, shortened(whole, 560), tmp_path / "longer")
    shorter, now, stored = ran(example, shortened(whole, 500), tmp_path / "shorter")
    assert len(shorter.forecasts) > 1_000
    assert {day: longer.forecasts[day] for day in shorter.forecasts} == shorter.forecasts
    assert {day: longer.outcomes[day] for day in shorter.outcomes} == shorter.outcomes
    assert now.date() == whole.dates[499]
    assert shorter.fills > 0
    # Every action is in the memory, each with its outcome once that was known and not before.
    assert len(stored) == 500 - example["FITTED_ON"] + 1
    assert sum(1 for one in stored if one.outcomes) == len(stored) - example["HORIZON"]


def test_the_memory_refuses_what_is_not_known_yet(example, tmp_path):
    """An actor that asked for tomorrow would be stopped."""
    panel = shortened(example["prices"](), 420)
    config = MemoryConfig(storage_path=tmp_path / "memory", timeline="backtest")
    with MemorySystem.open_sync(config) as memory:
        found = example["run"](panel, memory)
        later = found.now.replace(year=found.now.year + 1)
        with pytest.raises(LookAheadError):
            memory.get("market", "embedder", as_of=later)
