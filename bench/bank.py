"""What the ReasoningBank costs with 20 agents' memories: loading, advising, tracking, judging.

    python bench/bank.py [--memories 8000] [--agents 20]

Prints medians over single calls: the time each took, and the processor time it took on the event
loop, which is what other agents of the same process wait for. Advice is shown without its search too.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _harness import duration, machine, rss_anon_bytes

from nt_memory import MemoryConfig, MemorySystem, Trajectory
from nt_memory.system.backing import EngineBacking

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from nt_memory.reasoningbank import Advice

AGENTS = [f"agent_{number}" for number in range(20)]
DIM = 14
KIND = "forecast"
DAY = timedelta(days=1)
START = datetime(2000, 1, 3, 21, tzinfo=UTC)
HORIZON = 5


class Samples:
    """Wall and event-loop processor time of single calls, by what was called."""

    def __init__(self) -> None:
        self.searching = 0.0
        self._seconds: dict[str, list[tuple[float, float, float]]] = {}

    async def take(self, what: str, call: Awaitable[Any]) -> Any:
        self.searching = 0.0
        wall, processor = time.perf_counter(), time.thread_time()
        result = await call
        spent = time.perf_counter() - wall, time.thread_time() - processor
        self._seconds.setdefault(what, []).append((*spent, self.searching))
        return result

    def show(self) -> None:
        for what, seconds in self._seconds.items():
            wall, processor, search = np.median(np.array(seconds), axis=0)
            note = f", without search {duration(wall - search):>8s}" if search else ""
            print(f"{what:34s} {duration(wall):>8s}, on the loop {duration(processor):>8s}{note}")

    def time_searches(self) -> None:
        """Note the time spent below `EngineBacking.search_rows` from now on."""
        search = EngineBacking.search_rows

        async def timed(*args: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return await search(*args, **named)
            finally:
                self.searching += time.perf_counter() - start

        EngineBacking.search_rows = timed  # type: ignore[method-assign]


def build(rng: np.random.Generator, agent: str, day: int, advice: Advice | None) -> Trajectory:
    """A day's forecast of one agent; those before the first advice are memories with outcomes."""
    at = START + day * DAY
    built = Trajectory(agent, id=f"{agent}/{day}")
    built.add_observation({"day": day}, rng.normal(size=DIM) + 3.0, at=at)
    low, high = sorted(rng.normal(size=2).tolist())
    built.add_action(
        KIND,
        None,
        float(rng.normal()),
        predicted_interval=(low, high),
        baseline=0.0,
        advice=advice,
        at=at,
    )
    if advice is None:
        built.add_outcome(float(rng.normal()), at=at + HORIZON * DAY)
    return built


async def remember(memory: MemorySystem, memories: int) -> None:
    rng = np.random.default_rng(1)
    await memory.timeline.advance(START + (memories + HORIZON) * DAY)
    await memory.bank.define(KIND, target="something", unit="1", horizon=HORIZON)
    for day in range(0, memories, 50):
        days = range(day, min(day + 50, memories))
        await memory.track_many([build(rng, agent, one, None) for one in days for agent in AGENTS])


async def advise(memory: MemorySystem, query: np.ndarray) -> Advice:
    return await memory.bank.advise(AGENTS, query, action_type=KIND, baseline=0.0, k=300)


async def commit(
    memory: MemorySystem, rng: np.random.Generator, agent: str, day: int, advice: Advice
) -> None:
    await memory.track_trajectory(build(rng, agent, day, advice))


async def trade(memory: MemorySystem, samples: Samples, first: int, days: int) -> None:
    rng = np.random.default_rng(2)
    for day in range(first, first + days):
        await memory.timeline.advance(START + day * DAY)
        due = day - HORIZON
        for agent in AGENTS if due >= first else ():
            outcome = memory.record_outcome(f"{agent}/{due}", float(rng.normal()))
            await samples.take("record_outcome, with verdict", outcome)
        for agent in AGENTS:
            query = rng.normal(size=DIM) + 3.0
            advice = await samples.take("advise, k = 300", advise(memory, query))
            await samples.take(
                "build and track, with receipt", commit(memory, rng, agent, day, advice)
            )
    await memory.timeline.advance(START + (first + days + HORIZON) * DAY)
    names = [f"{agent}/{first + days - 1 - one}" for agent in AGENTS for one in range(HORIZON)]
    outcomes = memory.bank.record_outcomes(names, rng.normal(size=len(names)).tolist())
    await samples.take(f"record_outcomes, {len(names)} of them", outcomes)


async def learn(memory: MemorySystem, rng: np.random.Generator) -> None:
    """Distil all memories of all agents, then test them for promotion; seconds and memory."""
    for what, is_look in (("distilling all of them", False), ("again, with a look", True)):
        before = rss_anon_bytes()
        start = time.perf_counter()
        patterns = await memory.bank.distill(AGENTS, look=is_look)
        spent = time.perf_counter() - start
        grown = (rss_anon_bytes() - before) / 2**20
        print(f"{what:34s} {duration(spent):>8s}, {len(patterns)} patterns, {grown:+.0f} MiB")
    query = rng.normal(size=DIM) + 3.0
    for _ in range(200):
        await advise(memory, query)
    waits = []
    for _ in range(500):
        query = rng.normal(size=DIM) + 3.0
        start = time.perf_counter()
        await advise(memory, query)
        waits.append(time.perf_counter() - start)
    low, high = np.quantile(waits, (0.5, 0.95))
    print(f"{'advise, k = 300':34s} {duration(low):>8s} p50, {duration(high)} p95")


def show_machine(where: dict[str, Any], memories: int) -> None:
    versions = where["versions"]
    print(
        f"{where['date']}, {where['cpu']}, {where['cores']} cores, Python {where['python']}, "
        f"commit {where['commit']}, {len(AGENTS)} agents x {memories:,} memories"
    )
    print(", ".join(f"{name} {version}" for name, version in versions.items()))


async def measure(directory: str, memories: int, days: int) -> None:
    samples = Samples()
    config = MemoryConfig(storage_path=Path(directory) / "memory", timeline="backtest")
    start = time.perf_counter()
    async with MemorySystem.open(config) as memory:
        await remember(memory, memories)
    print(f"{'tracking them, 1,000 a call':34s} {duration(time.perf_counter() - start):>8s}")
    async with MemorySystem.open(config) as memory:
        # Any question loads; this one does nothing else.
        await samples.take("loading, at the first question", memory.bank.definition(KIND))
        await learn(memory, np.random.default_rng(3))
        samples.time_searches()
        await trade(memory, samples, memories + HORIZON, days)
    samples.show()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memories", type=int, default=8_000, help="of each agent")
    parser.add_argument("--days", type=int, default=30, help="to trade, at least 11")
    parser.add_argument("--agents", type=int, default=20)
    chosen = parser.parse_args()
    AGENTS[:] = [f"agent_{number}" for number in range(chosen.agents)]
    with tempfile.TemporaryDirectory() as directory:
        show_machine(machine(directory), chosen.memories)
        asyncio.run(measure(directory, chosen.memories, chosen.days))


if __name__ == "__main__":
    main()
