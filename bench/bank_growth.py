"""What the ReasoningBank costs as it grows: advice, tracking, judging, distilling, with 20 agents.

    python bench/bank_growth.py fill DIRECTORY --memories 50000     # of each agent
    python bench/bank_growth.py measure DIRECTORY [--distil] [--look] [--name bank-1m]

`fill` tracks trajectories with their outcomes by bulk calls, 2,000 a call. `measure` opens the store anew and
writes one JSON file of figures; `report FILE...` makes one page of several. Situations have 14 values, as the
market-window embedder's; advice is asked with a baseline and k = 300. Wall times, and of a call's p50 and p95
the processor time of the whole process beside them, which other work on the machine does not lengthen.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _harness import machine, rss_anon_bytes

from nt_memory import MemoryConfig, MemorySystem, Trajectory

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

AGENTS = [f"agent_{number}" for number in range(20)]
DIM = 14
KIND = "forecast"
DAY = timedelta(days=1)
START = datetime(2000, 1, 3, 21, tzinfo=UTC)
HORIZON = 5
DAYS = 8_000
A_CALL = 2_000
RESULTS = Path(__file__).parent / "results"


def build(
    rng: np.random.Generator, agent: str, name: str, day: int, *, judged: bool = False
) -> Trajectory:
    """A day's forecast of one agent; its outcome is better where the first feature is high."""
    at = START + day * DAY
    situation = rng.normal(size=DIM) + 3.0
    low, high = sorted(rng.normal(size=2).tolist())
    built = Trajectory(agent, id=f"{agent}/{name}")
    built.add_observation({"day": day}, situation, at=at)
    built.add_action(
        KIND, None, float(rng.normal()), predicted_interval=(low, high), baseline=0.0, at=at
    )
    if judged:
        outcome = float(rng.normal() + 0.5 * (situation[0] > 4.0))
        built.add_outcome(outcome, at=at + HORIZON * DAY)
    return built


async def fill(directory: str, memories: int) -> None:
    rng = np.random.default_rng(1)
    a_day = max(1, memories // DAYS)
    step = max(1, A_CALL // len(AGENTS))
    start = time.perf_counter()
    async with MemorySystem.open(_config(directory)) as memory:
        await memory.timeline.advance(START + (memories // a_day + HORIZON + 1) * DAY)
        await memory.bank.define(
            KIND, target="something", unit="1", horizon=HORIZON, features=("a", "b", "c")
        )
        for first in range(0, memories, step):
            numbers = range(first, min(memories, first + step))
            await memory.track_many(
                [
                    build(rng, agent, str(number), number // a_day, judged=True)
                    for number in numbers
                    for agent in AGENTS
                ]
            )
    spent = time.perf_counter() - start
    print(f"{memories * len(AGENTS):,} in {spent:.0f} s")


def _config(directory: str) -> MemoryConfig:
    return MemoryConfig(storage_path=Path(directory), timeline="backtest")


class Timed:
    """Wall and processor time of calls of one kind."""

    def __init__(self) -> None:
        self._taken: list[tuple[float, float]] = []

    async def take(self, call: Awaitable[Any]) -> Any:
        wall, processor = time.perf_counter(), time.process_time()
        found = await call
        self._taken.append((time.perf_counter() - wall, time.process_time() - processor))
        return found

    def ms(self) -> dict[str, float]:
        wall, processor = np.array(self._taken).T * 1e3
        low, high = np.quantile(wall, (0.5, 0.95))
        return {
            "p50": round(float(low), 3),
            "p95": round(float(high), 3),
            "processor p50": round(float(np.quantile(processor, 0.5)), 3),
            "processor p95": round(float(np.quantile(processor, 0.95)), 3),
        }


async def advice(
    memory: MemorySystem, agents: list[str], calls: int, **more: Any
) -> dict[str, float]:
    rng = np.random.default_rng(7)
    timed = Timed()
    for place in range(calls + 30):
        if place == 30:
            timed = Timed()  # the first calls make masks and learn how long searches take
        query = rng.normal(size=DIM) + 3.0
        await timed.take(
            memory.bank.advise(agents, query, action_type=KIND, baseline=0.0, k=300, **more)
        )
    return timed.ms()


async def tracking(memory: MemorySystem, calls: int) -> dict[str, Any]:
    """One by one, each durable when it returns, and in bulk; each is advised first and judged last."""
    rng = np.random.default_rng(time.time_ns())
    name = f"run-{time.time_ns()}"
    day = (memory.timeline.now - START).days - HORIZON - 1
    track, outcome = Timed(), Timed()
    for number in range(calls):
        one = build(rng, AGENTS[number % 20], f"{name}/{number}", day)
        await track.take(memory.track_trajectory(one))
        await outcome.take(memory.record_outcome(one.id, float(rng.normal())))
    many = [
        build(rng, AGENTS[number % 20], f"{name}/many/{number}", day) for number in range(A_CALL)
    ]
    start = time.perf_counter()
    await memory.track_many(many)
    tracked = time.perf_counter()
    await memory.record_outcomes([one.id for one in many], rng.normal(size=A_CALL).tolist())
    recorded = time.perf_counter()
    await memory.bank.judge_batch([one.id for one in many])
    judged = time.perf_counter()
    return {
        "track": track.ms(),
        "record_outcome": outcome.ms(),
        "track_many": round((tracked - start) / A_CALL * 1e6, 1),
        "record_outcomes": round((recorded - tracked) / A_CALL * 1e6, 1),
        "judge_batch": round((judged - recorded) / A_CALL * 1e6, 1),
    }


async def distilling(memory: MemorySystem, *, look: bool) -> dict[str, Any]:
    """All agents' situations; meanwhile how late the event loop is."""
    late: list[float] = []

    async def watch() -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.001)
            late.append(time.perf_counter() - start - 0.001)

    before = rss_anon_bytes()
    watching = asyncio.create_task(watch())
    start, processor = time.perf_counter(), time.process_time()
    found = await memory.bank.distill(AGENTS, look=look)
    spent, worked = time.perf_counter() - start, time.process_time() - processor
    watching.cancel()
    return {
        "seconds": round(spent, 2),
        "processor seconds": round(worked, 2),
        "MiB grown": round((rss_anon_bytes() - before) / 2**20),
        "patterns": len(found),
        "promoted": sum(one.is_promoted for one in found),
        "loop late p99 ms": round(float(np.quantile(late, 0.99)) * 1e3, 1),
        "loop late max ms": round(max(late) * 1e3, 1),
    }


async def replacing(memory: MemorySystem, calls: int) -> dict[str, Any]:
    """What advice from promoted patterns does without, where one covers the situation."""
    promoted = [
        one for agent in AGENTS for one in await memory.bank.patterns(agent) if one.is_promoted
    ]
    if not promoted:
        return {"promoted": 0}
    for place in range(calls):
        query = promoted[place % len(promoted)].centroid
        for from_patterns in (False, True):
            await memory.bank.advise(
                AGENTS, query, action_type=KIND, baseline=0.0, k=300, from_patterns=from_patterns
            )
    saved = await memory.bank.savings()
    replaced = [one.replaced() for one in promoted]
    return {
        "promoted": len(promoted),
        "memories": sum(one.memories for one in replaced),
        "memory bytes": sum(one.memory_bytes for one in replaced),
        "pattern bytes": sum(one.pattern_bytes for one in replaced),
        "ms from memories": round(saved.memory_s * 1e3, 3),
        "ms from patterns": round(saved.pattern_s * 1e3, 3),
    }


async def measure(directory: str, calls: int, *, distil: bool, look: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    async with MemorySystem.open(_config(directory)) as memory:
        before, start = rss_anon_bytes(), time.perf_counter()
        processor = time.process_time()
        await memory.bank.definition(KIND)  # any question loads; this one does nothing else
        found["load"] = {
            "seconds": round(time.perf_counter() - start, 2),
            "processor seconds": round(time.process_time() - processor, 2),
            "MiB": round((rss_anon_bytes() - before) / 2**20),
        }
        found["trajectories"] = (await memory.bank.calibration(AGENTS[0]))[0].n * len(AGENTS)
        found["advise, own memories"] = await advice(memory, AGENTS[:1], calls)
        found["advise, all 20 agents'"] = await advice(memory, AGENTS, calls)
        found["tracking"] = await tracking(memory, calls)
        if distil:
            found["distilling"] = await distilling(memory, look=False)
        if look:
            found["with a look"] = await distilling(memory, look=True)
            found["patterns in advice"] = await replacing(memory, calls)
    return found


def page(files: list[Path], note: str) -> str:
    """What `measure` found in several stores, smallest first."""
    runs = sorted((json.loads(one.read_text()) for one in files), key=_size)
    where = runs[-1]["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    lines = [
        "# The ReasoningBank as it grows",
        "",
        "`python bench/bank_growth.py fill …`, then `measure …` and `report …`; 20 agents, 14 values a situation, k = 300",
        "",
        f"{where['date']} · {where['cpu']}, {where['cores']} cores · Python {where['python']} · commit {where['commit']}",
        "",
        versions,
        "",
        *([note, ""] if note else []),
        "| what | " + " | ".join(f"{_size(run):,} trajectories" for run in runs) + " |",
        "|---" * (len(runs) + 1) + "|",
    ]
    for what, tell in ROWS.items():
        cells = [_told(tell, run["found"]) for run in runs]
        lines.append(f"| {what} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _size(run: dict[str, Any]) -> int:
    return int(run["found"]["trajectories"])


def _told(tell: Callable[[dict[str, Any]], str], found: dict[str, Any]) -> str:
    try:
        return tell(found)
    except KeyError:
        return "not measured"


def _call(found: dict[str, float]) -> str:
    processor = f"{found['processor p50']:.2f} / {found['processor p95']:.2f}"
    return f"{found['p50']:.2f} / {found['p95']:.2f} ms (processor {processor})"


def _distilled(found: dict[str, Any]) -> str:
    return (
        f"{found['seconds']:.1f} s (processor {found['processor seconds']:.1f} s), "
        f"{found['MiB grown']:+} MiB, {found['patterns']:,} patterns, {found['promoted']:,} promoted; "
        f"loop late p99 {found['loop late p99 ms']:.1f}, at most {found['loop late max ms']:.0f} ms"
    )


def _replaced(found: dict[str, Any]) -> str:
    if not found["promoted"]:
        return "none promoted"
    return (
        f"{found['promoted']:,} for {found['memories']:,} memories: {found['pattern bytes'] / 1e6:.1f} instead of "
        f"{found['memory bytes'] / 1e6:.1f} MB; {found['ms from patterns']:.2f} instead of {found['ms from memories']:.2f} ms"
    )


ROWS: dict[str, Callable[[dict[str, Any]], str]] = {
    "first question after opening, which loads": lambda f: (
        f"{f['load']['seconds']:.1f} s (processor {f['load']['processor seconds']:.1f} s), {f['load']['MiB']} MiB"
    ),
    "advise from one agent's memories, p50 / p95": lambda f: _call(f["advise, own memories"]),
    "advise from all 20 agents' memories, p50 / p95": lambda f: _call(f["advise, all 20 agents'"]),
    "track, durable, p50 / p95": lambda f: _call(f["tracking"]["track"]),
    "record_outcome with verdict, durable, p50 / p95": lambda f: _call(
        f["tracking"]["record_outcome"]
    ),
    "track_many, 2,000 a call, each": lambda f: f"{f['tracking']['track_many']:.0f} µs",
    "record_outcomes with verdicts, each": lambda f: f"{f['tracking']['record_outcomes']:.0f} µs",
    "judge_batch, each": lambda f: f"{f['tracking']['judge_batch']:.0f} µs",
    "distil all": lambda f: _distilled(f["distilling"]),
    "distil all with a look": lambda f: _distilled(f["with a look"]),
    "promoted patterns in advice": lambda f: _replaced(f["patterns in advice"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("fill", "measure", "report"))
    parser.add_argument(
        "paths", nargs="+", help="the store's directory; of report: files of figures"
    )
    parser.add_argument("--memories", type=int, default=5_000, help="of each agent")
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--distil", action="store_true")
    parser.add_argument("--look", action="store_true")
    parser.add_argument("--name", default="bank", help="results/<date>-<name>.json or .md")
    parser.add_argument("--note", default="", help="of report: what else to say")
    chosen = parser.parse_args()
    path = RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-{chosen.name}"
    if chosen.what == "fill":
        asyncio.run(fill(chosen.paths[0], chosen.memories))
    elif chosen.what == "measure":
        found = asyncio.run(
            measure(chosen.paths[0], chosen.calls, distil=chosen.distil, look=chosen.look)
        )
        told = {"machine": machine(chosen.paths[0]), "found": found}
        path.with_suffix(".json").write_text(json.dumps(told, indent=1, default=str) + "\n")
        print(json.dumps(found, indent=1))
    else:
        path.with_suffix(".md").write_text(page([Path(one) for one in chosen.paths], chosen.note))
        print(path.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
