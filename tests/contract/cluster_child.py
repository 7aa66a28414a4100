"""A process of a swarm, for tests: `python cluster_child.py URL DIRECTORY SWARM WHAT COUNT [NKEY_FILE]`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from nt_memory import MemoryConfig, MemorySystem


def say(line: str) -> None:
    """Tell the test."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def count_under_lock(memory: Any, count: int) -> None:
    """Add one to a number, read and written under a lock."""
    for _ in range(count):
        async with memory.lock("number", timeout=50.0) as token:
            await memory.sync()
            number = await memory.get("swarm", "number", 0)
            await memory.put("swarm", "number", number + 1, fence=token)


async def put_and_say(memory: Any, count: int) -> None:
    """Put numbers, four at a time, and say each that was acknowledged."""

    async def put(writer: int) -> None:
        for i in range(count):
            revision = await memory.put("child", f"{writer}/{i}", i)
            say(f"{writer}/{i} {revision}")

    await asyncio.gather(*(put(writer) for writer in range(4)))


async def main() -> None:
    url, directory, swarm, what, count, *nkey_file = sys.argv[1:]
    config = MemoryConfig(
        url=url, storage_path=directory, swarm=swarm, nkey_file=nkey_file[0] if nkey_file else None
    )
    async with MemorySystem.open(config) as memory:
        say("open")
        await globals()[what](memory, int(count))


if __name__ == "__main__":
    asyncio.run(main())
