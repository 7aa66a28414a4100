"""Another process of a cluster's benchmark: `python bench/_cluster_child.py KIND WHAT N OPTIONS`.

It says `ready`, does what it is for, and says what it found as one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from _cluster_doors import DOORS, Door, OurDoor

WRITERS = 64


def say(words: Any) -> None:
    """Tell the benchmark."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


async def hear(stream: Any, n: float) -> list[float]:
    """Seconds from each stamp to now, as it comes."""
    taken: list[float] = []
    async for stamp in stream:
        taken.append((time.monotonic_ns() - stamp) / 1e9)
        if len(taken) >= n:
            break
    return taken


async def changes(door: Door, n: float) -> list[float]:
    """How long what was put elsewhere takes to be readable here."""
    return await hear(door.changes(), n)


async def messages(door: Door, n: float) -> list[float]:
    """How long messages take."""
    return await hear(door.messages(), n)


async def write(door: Door, n: float) -> dict[str, float]:
    """64 writers, for `n` seconds."""
    return await write_for(door, WRITERS, n, "child")


async def follow(door: OurDoor, n: float) -> dict[str, float]:
    """What following costs: processor time and entries, until a line comes in."""
    del n
    began, revision = time.process_time(), door.memory.revision
    await asyncio.to_thread(sys.stdin.readline)
    await door.memory.sync()
    return {
        "cpu_s": time.process_time() - began,
        "entries": door.memory.revision - revision,
    }


async def write_for(door: Door, writers: int, seconds: float, name: str) -> dict[str, Any]:
    """So many tasks that put one after the other: each put's seconds, and puts a second."""
    taken: list[float] = []
    started = time.perf_counter()

    async def one(writer: int) -> None:
        while (begun := time.perf_counter()) - started < seconds:
            await door.put(f"{name}/{writer}", time.monotonic_ns())
            taken.append(time.perf_counter() - begun)

    await asyncio.gather(*(one(writer) for writer in range(writers)))
    return {"taken": taken, "a_second": len(taken) / (time.perf_counter() - started)}


async def main() -> None:
    """Open, say so, do it, tell."""
    kind, what, n, options = sys.argv[1:]
    began = time.perf_counter()
    door: Any = DOORS[kind](**json.loads(options))
    await door.open(WRITERS)
    if what == "join":
        await door.memory.sync()
        say({"seconds": time.perf_counter() - began, "revision": door.memory.revision})
        await door.close()
        return
    job = {"changes": changes, "messages": messages, "write": write, "follow": follow}[what]
    task = asyncio.get_running_loop().create_task(job(door, float(n)))
    await asyncio.sleep(0.3)  # until what it listens for reaches the server
    say("ready")
    say(await task)
    await door.close()


if __name__ == "__main__":
    asyncio.run(main())
