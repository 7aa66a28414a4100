"""The demo over a local cluster, one process an agent, from the servers' start to their end."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from nt_memory.apps.demo.books import Rule
from nt_memory.apps.demo.figures import forecasts_digest
from nt_memory.apps.demo.options import check_paths
from nt_memory.apps.demo.plan import plan_run
from nt_memory.apps.demo.processes.brief import Way, brief_of
from nt_memory.apps.demo.processes.children import Children, Tally, plan_kills
from nt_memory.apps.demo.processes.role import config_of
from nt_memory.apps.demo.processes.roles import holding_of, start_book
from nt_memory.apps.demo.remembering import remember
from nt_memory.apps.demo.settings import CHOSEN
from nt_memory.apps.demo.swarm import COORDINATOR, RISK, Shared, trajectory_id
from nt_memory.errors import InvalidInputError, StorageError
from nt_memory.system import MemorySystem
from nt_memory.transport.nats.rights import ALL
from nt_memory.transport.nats.servers.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import date

    from numpy.typing import NDArray

    from nt_memory.apps.demo.options import DemoOptions
    from nt_memory.apps.demo.plan import Plan

    Floats = NDArray[np.float64]
    Progress = Callable[[str, int, int], None]

DIRECTORY = "cluster"
MARK = "DEMO"
SWARM = "demo"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """What a run as many processes found. Arrays have shape (n_days, n_tickers).

    Attributes:
        options: What was asked.
        servers: How many there were.
        processes: How many agents.
        tickers: Names.
        dates: Traded days.
        expected: Memory's forecasts, as the trajectories have them.
        low: Lower ends of their intervals.
        high: Upper ends.
        actual: Outcomes; NaN where not known by the end of the prices.
        linear: What memory corrected.
        equity: Of the book at each close, shape (n_days,).
        tally: What became of the processes.
        store: A node's replica, with everything in it.
        seconds: Wall time by phase, "total" included.
    """

    options: DemoOptions
    servers: int
    processes: int
    tickers: Sequence[str]
    dates: Sequence[date]
    expected: Floats
    low: Floats
    high: Floats
    actual: Floats
    linear: Floats
    equity: Floats
    tally: Tally
    store: Path
    seconds: dict[str, float]

    @property
    def digest(self) -> str:
        """Of the forecasts: equal to what the demo in one process prints for the same options."""
        return forecasts_digest(self.dates, self.tickers, self.expected, self.low, self.high)


async def run_spread(
    options: DemoOptions, *, servers: int, kills: int, progress: Progress | None = None
) -> Spread:
    """Run the demo with a process an agent, over local NATS servers.

    Args:
        options: What is asked.
        servers: 1, or 3 that keep everything three times.
        kills: How many agents are killed at random, and started again.
        progress: Called with the phase, how much is done and how much there is.

    Raises:
        InvalidInputError: the options or the prices make no sense, or something else is in the way.
        StoreInUseError: another run's servers are there.
        UnsupportedError: `nats-server` or the extra is not installed.
        NtMemoryError: the memory, a server or an agent failed.
    """
    check_paths(options)
    if kills < 0:
        raise InvalidInputError(f"--kill must be at least 0, not {kills}")
    plan = plan_run(options)
    home = options.out / DIRECTORY
    _make_room(home)
    return await _Run(options, plan, home, servers, kills, progress).run()


def _make_room(home: Path) -> None:
    """Remove what an earlier run left, and nothing else."""
    if home.is_symlink() or (home.exists() and not home.is_dir()):
        raise InvalidInputError(f"{home}: is no directory of its own; choose another --out")
    if home.exists() and any(home.iterdir()):
        if not (home / MARK).exists():
            raise InvalidInputError(f"{home}: was not made by a demo; choose another --out")
        if (home / "servers").exists():
            Fleet(home / "servers").leave()  # raises if its servers run
        for part in home.iterdir():
            if part.name != MARK:  # kept till the end: a run killed in here is recognised
                shutil.rmtree(part) if part.is_dir() else part.unlink()
    home.mkdir(parents=True, exist_ok=True)
    (home / MARK).touch()


class _Run:
    """One run in progress."""

    def __init__(
        self,
        options: DemoOptions,
        plan: Plan,
        home: Path,
        servers: int,
        kills: int,
        progress: Progress | None,
    ) -> None:
        self._options = options
        self._plan = plan
        self._home = home
        self._kills = kills
        self._progress: Progress = progress or (lambda _phase, _done, _total: None)
        self._agents = [*plan.agents, RISK, COORDINATOR]
        self._fleet = Fleet(home / "servers", nodes=servers, swarm=SWARM)
        self._seconds: dict[str, float] = {}
        way = Way(
            url=self._fleet.url.rpartition("/")[0],
            swarm=SWARM,
            keys=os.fspath(self._fleet.operator_seed.parent.absolute()),
            storage=os.fspath((home / "memory").absolute()),
        )
        self._brief = brief_of(plan, way, Rule(), options.cost_bps)

    async def run(self) -> Spread:
        """Servers, the past, the days, and what came of them."""
        began = time.perf_counter()
        try:
            for agent in self._agents:
                self._fleet.enrol(agent, publish=ALL, subscribe=ALL)
            await self._timed("servers", self._fleet.start())
            await self._timed("remember", self._remember())
            self._brief.save(self._home)
            tally = await self._timed("trade", self._trade())
            spread = await self._timed("look back", self._look_back(tally))
        finally:
            await self._fleet.stop()
        self._seconds["total"] = time.perf_counter() - began
        return spread

    async def _timed(self, phase: str, work: Awaitable[_T]) -> _T:
        began = time.perf_counter()
        found = await work
        self._seconds[phase] = time.perf_counter() - began
        return found

    async def _remember(self) -> None:
        """Make the swarm, as its operator, and everything that it knows before the first day."""
        async with MemorySystem.open(config_of(self._brief, "")) as memory:
            shared = Shared(memory, CHOSEN, self._brief.rule, self._plan.agents)
            await remember(shared, self._plan, self._progress, lambda: False)
            await start_book(shared)

    async def _trade(self) -> Tally:
        n_days = self._brief.n_days
        children = Children(
            self._home,
            self._agents,
            kills=plan_kills(self._agents, n_days, self._kills, self._options.seed),
            seed=self._options.seed,
            reached=lambda row: self._progress("trade", row + 1, n_days),
        )
        return await children.run()

    async def _look_back(self, tally: Tally) -> Spread:
        """Read what the swarm did from the memory, as any of its nodes would."""
        brief, plan = self._brief, self._plan
        window = slice(plan.start, plan.panel.n_days)
        shape = (brief.n_days, len(brief.agents))
        expected, low, high = (np.full(shape, np.nan) for _ in range(3))
        equity = np.zeros(brief.n_days)
        async with MemorySystem.open(config_of(brief, "")) as memory:
            await memory.sync()
            for row in range(brief.n_days):
                self._progress("look back", row + 1, brief.n_days)
                for place, agent in enumerate(brief.agents):
                    tracked = await memory.bank.trajectory(trajectory_id(agent, brief.day(row)))
                    if tracked is None:
                        raise StorageError(f"{agent} forecast nothing on {brief.day(row)}")
                    doc = tracked.actions[0].doc
                    expected[row, place] = doc.predicted
                    low[row, place], high[row, place] = doc.low, doc.high
                holding = await holding_of(memory, brief.agents, as_of=brief.close(row))
                equity[row] = holding.equity(brief.close_prices(row))
            store = self._keep_one()
        return Spread(
            options=self._options,
            servers=len(self._fleet.nodes),
            processes=len(self._agents),
            tickers=plan.panel.tickers,
            dates=plan.panel.dates[window],
            expected=expected,
            low=low,
            high=high,
            actual=plan.baselines.outcomes[window],
            linear=brief.base,
            equity=equity,
            tally=tally,
            store=store,
            seconds=self._seconds,
        )

    def _keep_one(self) -> Path:
        """Remove the replicas of agents that have ended: all hold the same."""
        (root,) = Path(f"{self._brief.way.storage}.nodes").iterdir()
        first, *others = sorted(root.iterdir(), key=lambda path: int(path.name))
        for other in others:
            shutil.rmtree(other)
        return first
