"""A node that joins, for `bench/join.py`: `python bench/_join_child.py SETTINGS`, as JSON.

It says one line of JSON for each thing that has come to pass, and ends when a line comes in.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from _join_load import AGENT, key_of, query_of, vectors

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.apps.bench.figures import percentiles
from nt_memory.apps.bench.machine import rss_anon_bytes
from nt_memory.transport.files import disk_bytes

ASKED = 200
EARLY = 50
SAY_EVERY_S = 10.0
LOOK_EVERY_S = 0.05


class Peak:
    """Most memory that was resident, anonymous and in all, looked at now and then by a thread."""

    def __init__(self) -> None:
        self.anonymous = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._is_over.wait(LOOK_EVERY_S):
            self.anonymous = max(self.anonymous, rss_anon_bytes())

    def end(self) -> dict[str, int]:
        """The figures, in bytes."""
        self._is_over.set()
        self._thread.join()
        lines = Path("/proc/self/status").read_text().splitlines()
        found = dict(line.split(":", 1) for line in lines if ":" in line)
        return {
            "anonymous": max(self.anonymous, rss_anon_bytes()),
            "resident": int(found["VmHWM"].split()[0]) * 1024,
        }


class Clock:
    """Seconds since the memory began to be opened."""

    began = 0.0


def say(what: str, **more: Any) -> None:
    """Tell the benchmark, with those seconds."""
    at = time.perf_counter() - Clock.began
    sys.stdout.write(json.dumps({"what": what, "at": at, **more}) + "\n")
    sys.stdout.flush()


async def check_values(memory: Any, n: int) -> None:
    """Read some of all observations, the first and the last included.

    Raises:
        RuntimeError: one is missing or another.
    """
    for number in {*range(0, n, max(1, n // ASKED)), n - 1}:
        found = await memory.get(AGENT, key_of(number))
        if found is None or found["n"] != number:
            raise RuntimeError(f"observation {number} reads as {found!r}")


async def search_all(memory: Any, queries: list[tuple[int, Any]]) -> dict[str, float]:
    """Have observations from all over found by their own vectors.

    Returns:
        Percentiles of the searches' seconds, and which share found itself.
    """
    taken: list[float] = []
    hits = 0
    for number, query in queries:
        begun = time.perf_counter()
        (hit, *_) = await memory.search_similar(AGENT, query, top_k=10)
        taken.append(time.perf_counter() - begun)
        hits += hit.key == key_of(number)
    return {**percentiles(taken), "found": hits / len(taken)}


async def until_idle(memory: Any, within_s: float) -> bool:
    """Wait until the graphs are complete, and tell of it; False if they are not in time."""
    until = time.perf_counter() + within_s
    said = 0.0
    while not memory.stats().l2.is_idle:
        if (now := time.perf_counter()) > until:
            return False
        if now - said > SAY_EVERY_S:
            said = now
            say("building", pending=memory.stats().l2.pending)
        await asyncio.sleep(LOOK_EVERY_S)
    return True


async def load(memory: Any, asked: dict[str, Any]) -> None:
    """Write all observations."""
    for first, block in vectors(asked["n"], asked["dim"]):
        await memory.observe_many(
            AGENT,
            block,
            [{"n": n, "symbol": f"S{n % 500}"} for n in range(first, first + len(block))],
            keys=[key_of(n) for n in range(first, first + len(block))],
        )
        say("loaded", done=first + len(block))
    say("complete", is_whole=await until_idle(memory, asked["within_s"]))


async def join(memory: Any, asked: dict[str, Any], queries: list[tuple[int, Any]]) -> None:
    """Say when values, searches and graphs are there."""
    say("open", revision=memory.revision)
    await check_values(memory, asked["n"])
    say("values")
    (number, query) = queries[-1]
    (hit, *_) = await memory.search_similar(AGENT, query, top_k=1)
    if hit.key != key_of(number):
        raise RuntimeError(f"observation {number} is not found by its own vector, but {hit.key}")
    say("searches")
    if is_complete := memory.stats().l2.is_idle:
        say("complete", is_whole=True)
    say("early", **await search_all(memory, queries[:: max(1, len(queries) // EARLY)]))
    if not is_complete:
        say("complete", is_whole=await until_idle(memory, asked["within_s"]))
    say("late", **await search_all(memory, queries))


async def main() -> None:
    """Open, do it, tell, and end when told."""
    asked = json.loads(sys.argv[1])
    queries = list(query_of(asked["n"], asked["dim"], ASKED)) if asked["what"] == "join" else []
    peak = Peak()
    Clock.began = time.perf_counter()
    async with MemorySystem.open(MemoryConfig(**asked["memory"])) as memory:
        if asked["what"] == "load":
            await load(memory, asked)
            await asyncio.to_thread(sys.stdin.readline)
            done = await memory.share_snapshot(keep=1)
            say("shared", bytes=done.snapshot.bytes, trimmed=done.trimmed)
        else:
            await join(memory, asked, queries)
            link = memory._engine.journal.link  # noqa: SLF001 - what has come over the wire
            moved = link.client.stats["in_bytes"]
            say("end", moved=moved, disk=disk_bytes(asked["memory"]["storage_path"] + ".nodes"),
                **peak.end())  # fmt: skip


if __name__ == "__main__":
    asyncio.run(main())
