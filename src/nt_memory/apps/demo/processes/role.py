"""One process of the swarm: `python -m nt_memory.apps.demo.processes.role DIRECTORY AGENT`.

It says each line as JSON: `{"row": n}` when the coordinator opens a day, and at its end what it measured.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
import threading
from pathlib import Path

from nt_memory.apps.demo.processes.brief import Brief
from nt_memory.apps.demo.processes.roles import run_analyst, run_coordinator, run_risk
from nt_memory.apps.demo.settings import CHOSEN
from nt_memory.apps.demo.swarm import COORDINATOR, RISK, Shared
from nt_memory.config import MemoryConfig
from nt_memory.system import MemorySystem


def say(**words: object) -> None:
    """Tell whoever started this."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def config_of(brief: Brief, agent: str) -> MemoryConfig:
    """How an agent opens the swarm's memory; "" is the operator."""
    way = brief.way
    return MemoryConfig(
        url=way.url,
        swarm=way.swarm,
        agent=agent,
        nkey_file=Path(way.keys) / ("operator.nk" if not agent else f"agents/{agent}.nk"),
        storage_path=way.storage,
        timeline="backtest",
    )


async def run(brief: Brief, agent: str) -> None:
    """Be an agent until the last day is over."""
    async with MemorySystem.open(config_of(brief, agent)) as memory:
        shared = Shared(memory, CHOSEN, brief.rule, brief.agents)
        if agent == COORDINATOR:
            await run_coordinator(shared, brief, lambda row: say(row=row))
        elif agent == RISK:
            await run_risk(shared, brief)
        else:
            await run_analyst(shared, brief, agent)
        say(seconds=shared.watch.seconds, counts=dataclasses.asdict(shared.counts))


def end_with_parent() -> None:
    """End when whoever started this has ended, even by `kill -9`: nobody would stop it otherwise."""
    while os.read(0, 1):  # not sys.stdin, whose lock this thread would hold when Python ends
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    asyncio.run(run(Brief.load(Path(sys.argv[1])), sys.argv[2]))
