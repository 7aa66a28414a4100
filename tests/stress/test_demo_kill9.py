"""`kill -9` in mid-demo: the memory it leaves opens, and nothing acknowledged is missing.

A child process runs the demo on synthetic prices and writes its progress to a pipe: a day is
acknowledged once every call of that day has returned. The parent kills the child at a random moment,
opens the store and compares it with an uninterrupted run of the same prices: every trajectory, forecast
and outcome acknowledged is there, position and cash belong together, and of the day in flight whatever
is there is whole. The next round runs the demo again over what the last one left.
"""

from __future__ import annotations

import asyncio
import os
import random
import runpy
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

from nt_memory import MemorySystem
from nt_memory.apps.demo.leftovers import MARK
from nt_memory.apps.demo.options import DemoOptions
from nt_memory.apps.demo.run import STORE, Plan, plan_run, run_demo
from nt_memory.apps.demo.swarm import COORDINATOR, FORECAST, trajectory_id
from nt_memory.apps.demo.target import HORIZON

if TYPE_CHECKING:
    from nt_memory import Trajectory
    from nt_memory.apps.demo.result import DemoResult

N_DAYS = 640
TOLERANCE = 1e-9
PATIENCE_S = 60.0


class Demo(NamedTuple):
    """What is run again and again, and what an uninterrupted run of it found."""

    options: DemoOptions
    plan: Plan
    whole: DemoResult


class Acknowledged(NamedTuple):
    """How far a killed run had come."""

    remembered: int
    days: int


# --- the child --------------------------------------------------------------------------------


def tell(phase: str, done: int, total: int) -> None:
    """Acknowledge on stdout what is done."""
    del total
    os.write(1, f"{phase}/{done}\n".encode())


def child(prices: str, out: str) -> None:
    """Run the demo until killed."""
    os.write(1, b"starting/0\n")
    run_demo(DemoOptions(prices=Path(prices), out=Path(out), years=1), tell)


# --- the parent -------------------------------------------------------------------------------


def run_and_kill(options: DemoOptions, lines: int, after_s: float) -> Acknowledged:
    """Let a child write so many lines and then go on for a moment, and kill it."""
    import nt_memory

    source = str(Path(nt_memory.__file__).parent.parent)
    process = subprocess.Popen(
        [sys.executable, __file__, str(options.prices), str(options.out)],
        env={**os.environ, "PYTHONPATH": source},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    received = b""
    try:
        while received.count(b"\n") < lines:
            assert select.select([process.stdout], [], [], PATIENCE_S)[0], "the child does nothing"
            chunk = os.read(process.stdout.fileno(), 4096)
            assert chunk, f"the child ended by itself: {process.wait()}"
            received += chunk
        # Somewhere within what comes next; where exactly is left to chance.
        select.select([process.stdout], [], [], after_s)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        received += process.stdout.read()  # what it acknowledged before it died counts
        process.stdout.close()
    done = {"remember the past": 0, "trade": 0}
    for line in received[: received.rfind(b"\n") + 1].decode().splitlines():
        phase, count = line.split("/")
        done[phase] = int(count)
    return Acknowledged(done["remember the past"], done["trade"])


async def judge(demo: Demo, acknowledged: Acknowledged) -> None:
    """Open the store and compare it with the whole run."""
    async with MemorySystem.open(demo.options.out / STORE) as memory:
        tail = memory.tail()
        revisions = [(await anext(tail)).revision for _ in range(memory.revision)]
        assert revisions == list(range(1, memory.revision + 1)), "none missing, none twice"
        tracked = {
            one.id: one
            for agent in demo.plan.agents
            for one in await memory.bank.trajectories(agent)
        }
        judge_past(demo, tracked, acknowledged.remembered)
        for row in range(len(demo.whole.dates)):
            judge_day(demo, tracked, row, acknowledged.days)
            if row < acknowledged.days:
                await judge_messages(demo, memory, row)
        await judge_book(demo, memory, acknowledged.days)


def judge_past(demo: Demo, tracked: dict[str, Trajectory], remembered: int) -> None:
    """The bulk of the past is there in its order, as far as it was acknowledged."""
    plan = demo.plan
    past = [
        (trajectory_id(ticker, plan.panel.dates[day].isoformat()), day, place)
        for day in range(plan.first_day, plan.start)
        for place, ticker in enumerate(plan.agents)
    ]
    for number, (name, day, place) in enumerate(past):
        if name not in tracked:
            assert number >= remembered, name
            continue
        trajectory = tracked[name]
        assert trajectory.actions[0].doc.baseline == plan.baselines.forecasts["linear"][day, place]
        assert len(trajectory.observations) == 1
        known = [outcome.value for outcome in trajectory.outcomes]
        outcome = [float(plan.baselines.outcomes[day, place])]
        assert known == outcome or (not known and day + HORIZON >= plan.start)


def judge_day(demo: Demo, tracked: dict[str, Trajectory], row: int, days: int) -> None:
    """One traded day: all of it if it was acknowledged, else each trajectory whole or not at all."""
    plan, whole = demo.plan, demo.whole
    for place, ticker in enumerate(plan.agents):
        trajectory = tracked.get(trajectory_id(ticker, whole.dates[row].isoformat()))
        if trajectory is None:
            assert row >= days, (ticker, row)
            continue
        assert row <= days, "a day in flight before the one before it was done"
        (action,) = trajectory.actions
        assert action.doc.predicted == whole.forecasts["memory"][row, place]
        assert (action.doc.low, action.doc.high) == (whole.low[row, place], whole.high[row, place])
        assert action.doc.baseline == whole.base[row, place]
        assert action.doc.receipt is not None
        (seen,) = trajectory.observations
        assert seen.data == {"day": whole.dates[row].isoformat()}
        assert seen.embedding is not None
        assert np.array_equal(
            seen.embedding, plan.situations[plan.start + row, place].astype(np.float32)
        )
        known = [outcome.value for outcome in trajectory.outcomes]
        if row + HORIZON < days:
            assert known == [whole.actual[row, place]], (ticker, row)
        elif known:
            assert row + HORIZON == days
            assert known == [whole.actual[row, place]]


async def judge_messages(demo: Demo, memory: MemorySystem, row: int) -> None:
    """Each analyst's forecast of an acknowledged day, under the key that the risk agent pins."""
    close = demo.plan.closes[demo.plan.start + row]
    for place, agent in enumerate(demo.plan.agents):
        assert await memory.get(agent, FORECAST, as_of=close) == {
            "day": demo.whole.dates[row].isoformat(),
            "log_volatility": demo.whole.forecasts["memory"][row, place],
        }


async def judge_book(demo: Demo, memory: MemorySystem, days: int) -> None:
    """The book of every acknowledged close, and position and cash from one transaction."""
    plan = demo.plan
    positions = [record async for record in memory.history(COORDINATOR, "position")]
    cashes = [record async for record in memory.history(COORDINATOR, "cash")]
    assert [one.revision for one in positions] == [one.revision for one in cashes]
    trades = np.count_nonzero(demo.whole.books["memory"].traded[:days])
    in_flight = np.count_nonzero(demo.whole.books["memory"].traded[: days + 1])
    if days:
        assert trades + 1 <= len(positions) <= in_flight + 1
    for row in range(days):
        as_of = plan.closes[plan.start + row]
        position = await memory.get(COORDINATOR, "position", as_of=as_of)
        cash = await memory.get(COORDINATOR, "cash", as_of=as_of)
        shares = np.array([position[agent] for agent in plan.agents])
        equity = cash + float(shares @ plan.panel.prices[plan.start + row])
        assert abs(equity - demo.whole.books["memory"].equity[row]) < TOLERANCE


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The uninterrupted run."""
    folder = tmp_path_factory.mktemp("kill9")
    made: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[1] / "demo_prices.py"))
    path = made["write_prices"](folder / "prices.csv", made["prices"](N_DAYS))
    options = DemoOptions(prices=path, out=folder / "whole", years=1)
    return Demo(
        DemoOptions(prices=path, out=folder / "killed", years=1),
        plan_run(options),
        run_demo(options),
    )


def rounds(demo: Demo, count: int, seed: int) -> None:
    """Kill and judge `count` times."""
    rng = random.Random(seed)  # noqa: S311
    total = len(demo.whole.dates)
    reached = []
    for _ in range(count):
        # Line 1 is "starting", line 2 the past; now and then it dies while it makes its store.
        lines = 1 if rng.random() < 0.2 else rng.randrange(2, total + 2)
        acknowledged = run_and_kill(
            demo.options, lines, rng.random() * (0.4 if lines == 1 else 0.02)
        )
        reached.append(acknowledged.days)
        if not (demo.options.out / STORE / MARK).exists():
            # It died while it made the directory; opening that would make it a store of ours.
            assert acknowledged == (0, 0)
        else:
            asyncio.run(asyncio.wait_for(judge(demo, acknowledged), PATIENCE_S))
    assert max(reached) > HORIZON


@pytest.mark.timeout(120)
def test_a_killed_demo_loses_nothing_acknowledged(demo: Demo) -> None:
    """Three kills; the long run is below."""
    rounds(demo, 3, seed=1)


@pytest.mark.stress
@pytest.mark.timeout(900)
def test_a_demo_killed_twenty_times_loses_nothing_acknowledged(demo: Demo) -> None:
    """Twenty kills, each at a random moment, each run over what the last one left."""
    rounds(demo, 20, seed=2)


if __name__ == "__main__":
    child(*sys.argv[1:])
