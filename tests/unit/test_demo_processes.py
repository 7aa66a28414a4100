"""What the processes of the demo are handed, and who of them is killed."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nt_memory.apps.demo.books import Rule
from nt_memory.apps.demo.figures import forecasts_digest
from nt_memory.apps.demo.processes.brief import Brief, Way
from nt_memory.apps.demo.processes.children import plan_kills
from nt_memory.apps.demo.target import HORIZON

if TYPE_CHECKING:
    from pathlib import Path

N_DAYS, BEFORE = 3, 4


def brief() -> Brief:
    """Numbers that no decimal notation of a few digits would bring back."""
    draws = np.random.default_rng(3)
    return Brief(
        way=Way("nats://127.0.0.1:4222", "demo", "/keys", "/storage"),
        agents=["AAA", "B.B"],
        dates=[date(2001, 1, 1 + day) for day in range(HORIZON + N_DAYS)],
        close_us=np.arange(HORIZON + N_DAYS, dtype=np.int64) * 86_400_000_000,
        situations=draws.normal(size=(N_DAYS, 2, 3)) / 3.0,
        base=draws.normal(size=(N_DAYS, 2)) / 3.0,
        outcomes=np.where(draws.random((HORIZON + N_DAYS, 2)) < 0.2, np.nan, 1.0 / 3.0),
        has_forecast=draws.random((HORIZON + N_DAYS, 2)) < 0.5,
        prices=np.exp(draws.normal(size=(BEFORE + N_DAYS, 2))),
        cost_bps=5.0,
        rule=Rule(window=2),
    )


def test_a_brief_comes_back_bit_by_bit(tmp_path: Path) -> None:
    """What a process reads is what the run had, to the last bit and the last NaN."""
    ours = brief()
    ours.save(tmp_path)
    theirs = Brief.load(tmp_path)
    for name in ("close_us", "situations", "base", "outcomes", "has_forecast", "prices"):
        assert getattr(theirs, name).tobytes() == getattr(ours, name).tobytes(), name
    assert (theirs.way, theirs.rule, theirs.cost_bps) == (ours.way, ours.rule, ours.cost_bps)
    assert (theirs.agents, theirs.dates) == (ours.agents, ours.dates)


def test_rows_count_from_the_first_traded_day() -> None:
    """Row 0 is the first traded day; the days whose outcomes are still to come lie before it."""
    ours = brief()
    assert (ours.day(-HORIZON), ours.day(0)) == ("2001-01-01", "2001-01-06")
    assert ours.close(0).day == 6
    assert np.array_equal(ours.close_prices(0), ours.prices[BEFORE])
    expected = np.diff(np.log(ours.prices[BEFORE + 1 - 3 : BEFORE + 2]), axis=0)
    assert np.array_equal(ours.moves(1), expected)


def test_a_digest_is_of_every_bit() -> None:
    """One last bit, one date or one name more or less is another digest; a NaN's sign is not."""
    dates, tickers = [date(2001, 1, 1)], ["AAA", "BBB"]
    columns = [np.array([[0.1, 0.2]]), np.array([[np.nan, 0.1]]), np.array([[0.3, 0.4]])]
    first = forecasts_digest(dates, tickers, *columns)
    assert forecasts_digest(dates, tickers, columns[0], -columns[1] * -1, columns[2]) == first
    nudged = np.nextafter(columns[0], 1.0)
    assert forecasts_digest(dates, tickers, nudged, *columns[1:]) != first
    assert forecasts_digest([date(2001, 1, 2)], tickers, *columns) != first
    assert forecasts_digest(dates, ["AAA", "CCC"], *columns) != first


@pytest.mark.parametrize("kills", [0, 1, 40])
def test_who_is_killed_follows_from_the_seed(kills: int) -> None:
    """The same seed kills the same agents on the same days, each within the run; another does not."""
    agents = ["AAA", "risk", "coordinator"]
    planned = plan_kills(agents, 10, kills, seed=1)
    assert planned == plan_kills(agents, 10, kills, seed=1) == sorted(planned)
    assert len(planned) == kills
    assert all(0 <= row < 10 and agent in agents for row, agent in planned)
    if kills == 40:
        assert {agent for _, agent in planned} == set(agents)
        assert planned != plan_kills(agents, 10, kills, seed=2)
