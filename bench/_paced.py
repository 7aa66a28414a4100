"""What 10,000 puts a second leave of the event loop for others, and disk per observation."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
from _harness import Options, Row, disk_bytes, duration, percentiles, subspace
from _mix import LagProbe
from _state import FLAT

from nt_memory import MemoryConfig, MemorySystem

PUTS_PER_S = 10_000
WRITERS = 64
MESSAGES_PER_S = 200
OBSERVATIONS = 20_000
KEPT = 0.95  # share of the pace that must have been reached for the figures to count


class _Paced:
    """Writers that each put at fixed times, however long a put takes, and a messenger."""

    def __init__(self, memory: MemorySystem) -> None:
        self.puts: list[float] = []
        self.messages: list[float] = []
        self._memory = memory

    async def write(self, number: int, begun: float, seconds: float) -> None:
        """Put at every turn of this writer; late turns are made up for at once."""
        gap = WRITERS / PUTS_PER_S
        first = begun + gap * number / WRITERS
        for count in range(int(seconds / gap)):
            wait = first + count * gap - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            start = time.perf_counter()
            await self._memory.put(f"agent_{number}", f"key_{count % 100}", FLAT)
            self.puts.append(time.perf_counter() - start)

    async def send(self, begun: float, seconds: float) -> None:
        """Messages from this task to another, timed from publish to when the other has it."""
        receiver = await self._memory.subscribe("agent_1/*")

        async def listen() -> None:
            async for message in receiver:
                self.messages.append(time.perf_counter() - message["sent"])

        listener = asyncio.create_task(listen())
        while time.perf_counter() < begun + seconds:
            await self._memory.publish("agent_1/signal", {"sent": time.perf_counter()})
            await asyncio.sleep(1 / MESSAGES_PER_S)
        await receiver.close()
        await asyncio.wait([listener])


async def paced(options: Options) -> list[Row]:
    """Lag of the loop and latency of messages during 10,000 puts a second, for `options.pace_s`."""
    seconds = options.pace_s
    config = MemoryConfig(storage_path=Path(options.workdir) / "paced")
    async with MemorySystem.open(config) as memory:
        loop = asyncio.get_running_loop()
        with LagProbe(loop, options.seed) as idle:
            await asyncio.sleep(min(2.0, seconds))
        work = _Paced(memory)
        with LagProbe(loop, options.seed) as probe:
            begun = time.perf_counter()
            writers = [work.write(number, begun, seconds) for number in range(WRITERS)]
            await asyncio.gather(work.send(begun, seconds), *writers)
            rate = len(work.puts) / (time.perf_counter() - begun)
    lag, put, message = map(percentiles, (probe.samples, work.puts, work.messages))
    worst = float(np.max(probe.samples))
    counts = rate >= KEPT * PUTS_PER_S
    during = f"during {rate:,.0f} puts/s for {seconds:.0f} s"
    said = "" if counts else f" (**less than the {PUTS_PER_S:,}/s asked for**)"
    quiet = percentiles(idle.samples)["p99"]
    return [
        Row(
            f"event-loop lag {during}{said}",
            f"p50 {duration(lag['p50'])}, p99 {duration(lag['p99'])}, max {duration(worst)} "
            f"(idle p99 {duration(quiet)})",
            "p99 < 5 ms",
            "p99 < 1 ms",
            counts and lag["p99"] < 5e-3,
            lag | {"max": worst, "idle_p99": quiet, "puts_per_s": rate},
        ),
        Row(
            f"message between agents {during}{said}",
            f"p50 {duration(message['p50'])}, p99 {duration(message['p99'])}, "
            f"max {duration(max(work.messages))}",
            "p99 < 1 ms",
            "p50 < 50 µs",
            counts and message["p99"] < 1e-3,
            message | {"max": max(work.messages)},
        ),
        Row(
            f"the puts themselves, {WRITERS} writers{said}",
            f"p50 {duration(put['p50'])}, p99 {duration(put['p99'])}, max {duration(max(work.puts))}",
            "",
            "",
            None,
            put | {"max": max(work.puts)},
        ),
    ]


async def disk(options: Options) -> list[Row]:
    """Disk per observation, all of a cleanly closed store counted."""
    path = Path(options.workdir) / "disk"
    vectors = subspace(OBSERVATIONS, options.dim, options.seed)
    payload = {"note": "x" * 92}  # 100 bytes as it is stored
    async with MemorySystem.open(MemoryConfig(storage_path=path)) as memory:
        await memory.observe_many("agent_1", vectors, [payload] * OBSERVATIONS)
    each = disk_bytes(path) / OBSERVATIONS
    async with MemorySystem.open(path) as memory:
        await memory.compact()
    compacted = disk_bytes(path) / OBSERVATIONS
    return [
        Row(
            f"disk per observation ({options.dim}-d, 100-byte payload), {OBSERVATIONS:,} of them, "
            "journal and index snapshot included",
            f"{each:,.0f} bytes; {compacted:,.0f} after `compact`",
            "< 4 KB",
            "< 2.5 KB",
            each < 4096,
            {"bytes": each, "after_compaction_bytes": compacted},
        )
    ]
