"""State and messages: pin, peek, get, put, publish."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path
from typing import Any

from _harness import Options, Row, duration, fdatasync_seconds, percentiles

from nt_memory import CacheConfig, MemoryConfig, MemorySystem

BATCH = 1_000
FLAT: dict[str, Any] = {
    "symbol": "AAPL",
    "side": "buy",
    "quantity": 100,
    "price": 187.42,
    "venue": "XNAS",
    "strategy": "momentum",
    "confidence": 0.71,
    "open": True,
    "note": None,
    "order": 9_381_245,
}


def _store(options: Options, name: str, **settings: Any) -> MemoryConfig:
    return MemoryConfig(storage_path=Path(options.workdir) / name, **settings)


def _pin_batches(pin: Any, batches: int) -> list[float]:
    samples = []
    for _ in range(batches):
        start = time.perf_counter_ns()
        for _ in itertools.repeat(None, BATCH):
            pin.value  # noqa: B018 - the read is what is measured
        samples.append((time.perf_counter_ns() - start) / BATCH / 1e9)
    return samples


def _peek_batches(memory: MemorySystem, batches: int) -> list[float]:
    samples = []
    peek = memory.peek
    for _ in range(batches):
        start = time.perf_counter_ns()
        for _ in itertools.repeat(None, BATCH):
            peek("agent_1", "position")
        samples.append((time.perf_counter_ns() - start) / BATCH / 1e9)
    return samples


async def _get_batches(memory: MemorySystem, batches: int) -> list[float]:
    samples = []
    get = memory.get
    for _ in range(batches):
        start = time.perf_counter_ns()
        for _ in itertools.repeat(None, BATCH):
            await get("agent_1", "position")
        samples.append((time.perf_counter_ns() - start) / BATCH / 1e9)
        await asyncio.sleep(0)
    return samples


async def reads(options: Options) -> list[Row]:
    """Reads that L1 answers."""
    async with MemorySystem.open(_store(options, "reads")) as memory:
        await memory.put("agent_1", "position", FLAT)
        pin = memory.pin("agent_1", "position")
        assert pin.value == FLAT  # noqa: S101 - else the figures mean nothing
        _pin_batches(pin, 50)
        pinned = percentiles(_pin_batches(pin, 2_000))
        await memory.get("agent_1", "position")
        _peek_batches(memory, 50)
        peeked = percentiles(_peek_batches(memory, 2_000))
        await _get_batches(memory, 20)
        got = percentiles(await _get_batches(memory, 500))
    return [
        Row(
            "pin read, per operation over batches of 1,000 (loop included)",
            f"p50 {duration(pinned['p50'])}, p99 {duration(pinned['p99'])}",
            "p99 < 100 ns",
            "20 ns",
            pinned["p99"] < 100e-9,
            pinned,
        ),
        Row(
            "`peek` hit, likewise",
            f"p50 {duration(peeked['p50'])}, p99 {duration(peeked['p99'])}",
            "p99 < 1 µs",
            "p50 < 200 ns",
            peeked["p99"] < 1e-6,
            peeked,
        ),
        Row(
            "`await get` of a ten-field flat dict, L1 hit, likewise",
            f"p50 {duration(got['p50'])}, p99 {duration(got['p99'])}",
            "p50 < 1 µs",
            "0.4 µs",
            got["p50"] < 1e-6,
            got,
        ),
    ]


async def cold_reads(options: Options) -> list[Row]:
    """Reads that only L3 answers: 20,000 keys, one of which fits into L1."""
    keys = [f"orders/{i:06}" for i in range(20_000)]
    cache = CacheConfig(max_entries=1)
    async with MemorySystem.open(_store(options, "cold", cache_config=cache)) as memory:
        for start in range(0, len(keys), 1_000):
            async with memory.transaction() as tx:
                for key in keys[start : start + 1_000]:
                    tx.put("agent_1", key, FLAT)
        samples = []
        for key in keys:
            start_ns = time.perf_counter_ns()
            await memory.get("agent_1", key)
            samples.append((time.perf_counter_ns() - start_ns) / 1e9)
        hits = memory.stats().l1.hits
    got = percentiles(samples) | {"l1_hits": hits}
    return [
        Row(
            "`await get` of a ten-field flat dict, L3 hit",
            f"p50 {duration(got['p50'])}, p99 {duration(got['p99'])}",
            "p50 < 20 µs",
            "10 µs",
            got["p50"] < 20e-6,
            got,
        )
    ]


async def writes(options: Options) -> list[Row]:
    """Puts that are on disk when they return, by 1 and by 64 writers."""
    writers, each = 64, 400
    floor = fdatasync_seconds(options.workdir)
    async with MemorySystem.open(_store(options, "writes")) as memory:
        samples = []
        for i in range(2_000):
            start = time.perf_counter()
            await memory.put("agent_1", f"key_{i % 500}", FLAT)
            samples.append(time.perf_counter() - start)
        one = percentiles(samples) | {"fdatasync_s": floor}

        async def writer(number: int) -> None:
            for i in range(each):
                await memory.put(f"agent_{number}", f"key_{i % 50}", FLAT)

        start = time.perf_counter()
        await asyncio.gather(*(writer(number) for number in range(writers)))
        rate = writers * each / (time.perf_counter() - start)
    return [
        Row(
            "durable put, one writer",
            f"p50 {duration(one['p50'])}, p99 {duration(one['p99'])}; "
            f"{one['p50'] / floor:.1f}x a bare append and fdatasync",
            "p50 < 1 ms",
            "0.3 ms",
            one["p50"] < 1e-3,
            one,
        ),
        Row(
            "durable put, 64 writers",
            f"{rate:,.0f}/s",
            "> 15k/s",
            "30k/s",
            rate > 15_000,
            {"puts_per_s": rate},
        ),
    ]


async def messages(options: Options) -> list[Row]:
    """One message at a time, from publish to the subscriber's task."""
    samples: list[float] = []
    async with MemorySystem.open(_store(options, "messages")) as memory:
        receiver = await memory.subscribe("agent_1/*")
        arrived = asyncio.Event()

        async def listen() -> None:
            async for _message in receiver:
                samples.append(time.perf_counter() - sent)
                arrived.set()

        listener = asyncio.create_task(listen())
        for _ in range(10_000):
            arrived.clear()
            sent = time.perf_counter()
            await memory.publish("agent_1/signal", FLAT)
            await arrived.wait()
        await receiver.close()
        await asyncio.wait([listener])
    took = percentiles(samples)
    return [
        Row(
            "message between agents, one process",
            f"p50 {duration(took['p50'])}, p99 {duration(took['p99'])}",
            "p99 < 1 ms",
            "p50 < 50 µs",
            took["p99"] < 1e-3,
            took,
        )
    ]
