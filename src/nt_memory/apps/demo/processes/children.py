"""The processes of the swarm: started, killed at random, started again, until all have ended well."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nt_memory.clock import SystemClock
from nt_memory.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

MAX_FAILURES = 3
"""How often one agent may end badly by itself; more is no accident."""
LATEST_KILL_S = 0.3
LOG_TAIL_BYTES = 2_000
LINE_BYTES = 1 << 26
"""What an agent measured over thousands of days is one line."""


def plan_kills(agents: Sequence[str], n_days: int, kills: int, seed: int) -> list[tuple[int, str]]:
    """Which agent is killed on which row, drawn from a seed; ascending by row."""
    draws = random.Random(seed)  # noqa: S311 - which agent dies is no secret
    return sorted((draws.randrange(n_days), draws.choice(agents)) for _ in range(kills))


@dataclass
class Tally:
    """What became of the processes.

    Attributes:
        kills: How many were killed on purpose, each once.
        failures: How many ended badly by themselves, and were started again.
        started: How many were started.
        seconds: Seconds of each call, by operation, of those that reached the end.
        counts: What those did.
    """

    kills: int = 0
    failures: int = 0
    started: int = 0
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))


class Children:
    """One process an agent.

    Args:
        directory: Where the brief is, and their logs go.
        agents: Their names.
        kills: On which row which agent is killed.
        seed: Of how long after a day was opened.
        reached: Called with each row that is opened.
    """

    def __init__(
        self,
        directory: Path,
        agents: Sequence[str],
        *,
        kills: Sequence[tuple[int, str]],
        seed: int,
        reached: Callable[[int], None],
    ) -> None:
        self._directory = directory
        self._agents = agents
        self._kills = list(kills)
        self._draws = random.Random(seed)  # noqa: S311 - when an agent dies is no secret
        self._reached = reached
        self._clock = SystemClock()
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._killed: set[asyncio.subprocess.Process] = set()
        self._killers: set[asyncio.Task[None]] = set()
        self.tally: Tally = Tally()

    async def run(self) -> Tally:
        """Run them all to their end. Whatever happens, none is left behind.

        Raises:
            StorageError: one ended badly too often; says what it said last.
        """
        (self._directory / "logs").mkdir(exist_ok=True)
        try:
            async with asyncio.TaskGroup() as group:
                for agent in self._agents:
                    group.create_task(self._keep_up(agent))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            for killer in self._killers:
                killer.cancel()
            await self._end_all()
        return self.tally

    async def _keep_up(self, agent: str) -> None:
        """Start an agent until it ends well."""
        failures = 0
        while True:
            process = await self._start(agent)
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            async for line in process.stdout:
                self._heard(agent, line)
            code = await process.wait()
            if code == 0:
                return
            if process in self._killed:
                self.tally.kills += 1
                continue
            failures += 1
            self.tally.failures += 1
            if failures >= MAX_FAILURES:
                raise StorageError(f"{agent} ended with code {code}: {self._last_words(agent)}")

    async def _start(self, agent: str) -> asyncio.subprocess.Process:
        with (self._directory / "logs" / f"{agent}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "nt_memory.apps.demo.processes.role",
                str(self._directory),
                agent,
                stdin=asyncio.subprocess.PIPE,  # never written; closed when this process ends
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=LINE_BYTES,
                start_new_session=True,  # Ctrl-C is for whoever started this, who ends them
            )
        self._processes[agent] = process
        self.tally.started += 1
        return process

    def _heard(self, agent: str, line: bytes) -> None:
        try:
            said: dict[str, Any] = json.loads(line)
        except ValueError:
            return  # it was killed in mid-sentence
        if "row" in said:
            self._opened(said["row"])
            return
        for operation, seconds in said["seconds"].items():
            self.tally.seconds[operation] += seconds
        for name, count in said["counts"].items():
            self.tally.counts[name] += count

    def _opened(self, row: int) -> None:
        self._reached(row)
        while self._kills and self._kills[0][0] <= row:
            _, victim = self._kills.pop(0)
            after_s = self._draws.random() * LATEST_KILL_S
            killer = asyncio.get_running_loop().create_task(self._kill(victim, after_s))
            self._killers.add(killer)
            killer.add_done_callback(self._killers.discard)

    async def _kill(self, agent: str, after_s: float) -> None:
        """`kill -9` an agent, if it has not ended by itself meanwhile."""
        await self._clock.sleep(after_s)
        process = self._processes[agent]
        if process.returncode is None:
            self._killed.add(process)
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def _end_all(self) -> None:
        for process in self._processes.values():
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        await asyncio.gather(*(process.wait() for process in self._processes.values()))

    def _last_words(self, agent: str) -> str:
        path = self._directory / "logs" / f"{agent}.log"
        said = path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
        return said.splitlines()[-1] if said else "it said nothing"
