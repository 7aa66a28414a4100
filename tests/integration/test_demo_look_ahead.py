"""No look-ahead: what is forecast up to day T does not depend on any price after it, not by a bit."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nt_memory import MemorySystem
from nt_memory.apps.demo.swarm import trajectory_id
from nt_memory.apps.demo.target import HORIZON
from nt_memory.clock import to_us

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

LAST = 640  # day T, a row of the prices; trading starts at row 608
YEARS_LATER = 1310
SHORT = LAST + HORIZON + 1


@pytest.fixture(scope="module")
def short(demo: Callable[..., Any], synthetic: Any) -> Any:
    """The run whose prices end five days after T."""
    return demo(synthetic.prices(YEARS_LATER)[:SHORT])


def continued(prices: Floats, tail: str, first: int = SHORT) -> Floats:
    """Prices whose days from `first` on are something else."""
    changed, generator = prices.copy(), np.random.default_rng(3)
    shape = changed[first:].shape
    if tail == "noise":
        changed[first:] = generator.uniform(0.01, 1_000.0, shape)
    elif tail == "jumps":
        changed[first:] *= 10.0 ** generator.integers(-3, 4, shape)
    elif tail == "flat":
        changed[first:] = changed[first - 1]
    elif tail == "tiny and huge":
        changed[first:] = np.where(generator.random(shape) < 0.5, 1e-6, 1e12)
    return changed


def until(days: int) -> Callable[[str, int, int], None]:
    """A progress that presses Ctrl-C once so many days are traded."""

    def progress(phase: str, done: int, total: int) -> None:
        del total
        if (phase, done) == ("trade", days):
            os.kill(os.getpid(), signal.SIGINT)

    return progress


def assert_same_until_last(run: Any, short: Any, first: int = SHORT) -> None:
    """Everything issued up to T is the same to the last bit; outcomes, if over before `first`."""
    ours, theirs = run.result, short.result
    assert ours.start == theirs.start
    days = LAST - theirs.start + 1
    assert ours.dates[:days] == theirs.dates[:days]
    assert len(ours.dates) > days
    lines = [one.forecast_lines()[: 1 + days * len(theirs.tickers)] for one in (run, short)]
    known = 1 + (first - HORIZON - theirs.start) * len(theirs.tickers)
    assert lines[0][:known] == lines[1][:known]
    issued = [[line.rpartition(b",")[0] for line in one] for one in lines]
    assert issued[0] == issued[1]
    assert not any(line.endswith(b",\n") for line in lines[1])
    for name, one in theirs.forecasts.items():
        assert ours.forecasts[name][:days].tobytes() == one[:days].tobytes(), name
    for name in ("low", "high", "base", "recalled", "fixed_low", "fixed_high", "memories"):
        assert getattr(ours, name)[:days].tobytes() == getattr(theirs, name)[:days].tobytes(), name
    for name, book in theirs.books.items():
        # What is held after the next close was decided at this one.
        for part, rows in (("equity", days), ("traded", days), ("exposure", days + 1)):
            now, then = getattr(ours.books[name], part), getattr(book, part)
            assert now[:rows].tobytes() == then[:rows].tobytes(), (name, part)


@pytest.mark.parametrize(
    ("tail", "first"),
    [
        ("as it was", SHORT),
        ("noise", SHORT),
        ("noise", LAST + 1),
        ("jumps", LAST + 1),
        ("flat", LAST + 1),
        ("tiny and huge", LAST + 1),
    ],
)
def test_prices_years_later_change_nothing(
    demo: Callable[..., Any], synthetic: Any, short: Any, tail: str, first: int
) -> None:
    """Years more, real or garbage, leave forecasts, intervals, placebos and books alone.

    Garbage that begins right after T shows a look of one day ahead; the lines of `forecasts.csv`, with
    their outcomes, can be the same only if it begins after T + 5.
    """
    prices = continued(synthetic.prices(YEARS_LATER), tail, first)
    # The same days are traded: those of the last year of the short file, and all after them.
    run = demo(prices, until(len(short.result.dates)), years=3)
    assert_same_until_last(run, short, first)


@pytest.mark.parametrize("tail", ["noise", "jumps"])
def test_trading_on_through_garbage_changes_nothing(
    demo: Callable[..., Any], synthetic: Any, short: Any, tail: str
) -> None:
    """Days traded after T, on garbage, do not reach back either."""
    run = demo(continued(synthetic.prices(SHORT + 25), tail))
    assert len(run.result.dates) == len(short.result.dates) + 25
    assert_same_until_last(run, short)
    later = slice(len(short.result.dates), None)
    usual = demo(synthetic.prices(SHORT + 25)).result
    assert np.all(run.result.forecasts["memory"][later] != usual.forecasts["memory"][later])


def test_an_empty_memory_does_not_look_ahead(demo: Callable[..., Any], synthetic: Any) -> None:
    """The same of --full, where the memory and its intervals begin with nothing."""
    prices, days = synthetic.prices(600), 50
    short = demo(prices, until(days), full=True).result
    garbage = prices.copy()
    later = short.start + days + HORIZON
    garbage[later:] = np.random.default_rng(4).uniform(1.0, 99.0, garbage[later:].shape)
    run = demo(garbage, until(days), full=True).result
    for name in ("low", "high", "actual", "base"):
        assert getattr(run, name)[:days].tobytes() == getattr(short, name)[:days].tobytes(), name
    for name, one in short.forecasts.items():
        assert run.forecasts[name][:days].tobytes() == one[:days].tobytes(), name
    equity = run.books["memory"].equity
    assert equity[:days].tobytes() == short.books["memory"].equity[:days].tobytes()


def test_the_memory_itself_knows_nothing_of_later(demo: Callable[..., Any], synthetic: Any) -> None:
    """No entry tells an outcome before the close of its fifth day."""
    run = demo(synthetic.prices(630))
    plan = run.plan
    row_of = {
        trajectory_id(ticker, day.isoformat()): row
        for row, day in enumerate(plan.panel.dates)
        for ticker in plan.agents
    }

    async def body() -> int:
        seen = 0
        async with MemorySystem.open(run.store, read_only=True) as memory:
            for ticker in plan.agents:
                for trajectory in await memory.bank.trajectories(ticker):
                    day = row_of[trajectory.id]
                    assert trajectory.actions[0].doc.at == to_us(plan.closes[day])
                    for outcome in trajectory.outcomes:
                        assert outcome.at == to_us(plan.closes[day + HORIZON])
                        seen += 1
        return seen

    assert asyncio.run(body()) == (630 - 504 - HORIZON) * 4
