"""The demo as many processes over real servers: its forecasts are those of the demo in one process."""

from __future__ import annotations

import asyncio
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nt_memory import MemorySystem
from nt_memory.apps.demo.figures import to_document
from nt_memory.apps.demo.options import DemoOptions
from nt_memory.apps.demo.processes.run import DIRECTORY, run_spread
from nt_memory.apps.demo.run import run_demo
from nt_memory.apps.demo.swarm import COORDINATOR
from nt_memory.errors import InvalidInputError, StoreInUseError

pytest.importorskip("nats")

if TYPE_CHECKING:
    from nt_memory.apps.demo.processes.run import Spread
    from nt_memory.apps.demo.result import DemoResult

pytestmark = [pytest.mark.stress, pytest.mark.timeout(600)]

# 17 traded days, with the past remembered: enough for outcomes to come back and for trades.
N_DAYS = 625


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> DemoOptions:
    """A short span of synthetic prices of four tickers."""
    folder = tmp_path_factory.mktemp("processes")
    made: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[1] / "demo_prices.py"))
    path = made["write_prices"](folder / "prices.csv", made["prices"](N_DAYS))
    return DemoOptions(prices=path, out=folder / "report", years=1)


@pytest.fixture(scope="module")
def embedded(options: DemoOptions) -> DemoResult:
    """The same days in one process."""
    return run_demo(options)


def spread(options: DemoOptions, **given: Any) -> Spread:
    """Run it as many processes."""
    return asyncio.run(run_spread(options, **given))


def judge(found: Spread, embedded: DemoResult) -> None:
    """Every byte of forecasts and book, and the digest that both print."""
    assert found.expected.tobytes() == embedded.forecasts["memory"].tobytes()
    assert found.low.tobytes() == embedded.low.tobytes()
    assert found.high.tobytes() == embedded.high.tobytes()
    assert found.equity.tobytes() == embedded.books["memory"].equity.tobytes()
    assert np.count_nonzero(embedded.books["memory"].traded) > 0
    assert found.digest == to_document(embedded)["run"]["forecasts_sha256"]


def test_a_process_an_agent_over_three_servers_forecasts_the_same(
    options: DemoOptions, embedded: DemoResult
) -> None:
    """Six processes over three servers come to the forecasts and the book of one, byte for byte."""
    found = spread(options, servers=3, kills=0)
    judge(found, embedded)
    assert (found.processes, found.servers) == (6, 3)
    assert (found.tally.kills, found.tally.failures, found.tally.started) == (0, 0, 6)

    async def read() -> Any:
        async with MemorySystem.open(found.store, read_only=True) as memory:
            return await memory.get(COORDINATOR, "day")

    assert asyncio.run(read())["row"] == len(found.dates) - 1


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_agents_change_nothing(
    options: DemoOptions, embedded: DemoResult, seed: int
) -> None:
    """`kill -9` at random of analysts, risk agent and coordinator: the same, byte for byte."""
    killed = DemoOptions(prices=options.prices, out=options.out, years=1, seed=seed)
    found = spread(killed, servers=3, kills=10)
    judge(found, embedded)
    assert found.tally.kills >= 5  # some may have ended by themselves before their time came
    assert found.tally.started == 6 + found.tally.kills + found.tally.failures


def test_from_an_empty_memory_the_order_of_first_writes_changes_nothing(
    options: DemoOptions, tmp_path: Path
) -> None:
    """With nothing remembered, what each agent writes first decides ties; and it is the same still."""
    empty = DemoOptions(prices=options.prices, out=tmp_path / "report", full=True)
    found = spread(empty, servers=1, kills=3)
    judge(found, run_demo(empty))


def test_nobody_is_left_when_the_run_is_killed(options: DemoOptions, tmp_path: Path) -> None:
    """`kill -9` of the command ends its agents; its servers hold the place until they are stopped."""
    out = tmp_path / "report"
    command = [sys.executable, "-m", "nt_memory.apps.cli.main"]
    process = subprocess.Popen(
        [*command, "demo", "--full", "--processes", "--prices", options.prices, "--out", out],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        agents = wait_for(lambda: agents_of(out) if len(agents_of(out)) == 6 else None)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    wait_for(lambda: not any(is_alive(pid) for pid in agents))
    again = DemoOptions(prices=options.prices, out=out, years=1)
    with pytest.raises(StoreInUseError):
        spread(again, servers=1, kills=0)
    subprocess.run([*command, "down", "--dir", out / DIRECTORY / "servers"], check=True)
    (out / DIRECTORY / "DEMO").unlink()
    with pytest.raises(InvalidInputError, match="not made by a demo"):
        spread(again, servers=1, kills=0)


def agents_of(out: Path) -> list[int]:
    """Pids of the agents that run over a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if (
                b"nt_memory.apps.demo.processes.role" in words
                and os.fsencode(out / DIRECTORY) in words
            ):
                found.append(int(entry.name))
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def wait_for(look: Any, within_s: float = 60.0) -> Any:
    """What `look` finds, once it does."""
    end = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < end, "it does not come"
        threading.Event().wait(0.05)
    return found
