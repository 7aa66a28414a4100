"""20 tasks and 20 threads behind one lock: no increment of a counter that nothing else protects is lost.

The counter is read and written back with waits in between, so that any two holders at once would lose
one. Now and then a holder is cancelled in its section and never releases: the lock comes free when
its lease is over, and what it writes later is refused.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time

import numpy as np
import pytest

from nt_memory import MemorySystem
from nt_memory.errors import StaleFenceError

pytestmark = pytest.mark.stress

CALLERS = 20
SECTIONS = 10_000
WAIT_S = 120.0
SHORT_LEASE_S = 0.2


def spread(what: str, waits: list[float]) -> None:
    """Print how long callers waited: how fair a queue is shows in how far apart these are."""
    p1, p50, p99 = np.percentile(waits, [1, 50, 99]) * 1e3
    print(
        f"\n{what}: waited p1 {p1:.1f}, p50 {p50:.1f}, p99 {p99:.1f}, max {max(waits) * 1e3:.1f} ms"
    )


def test_tasks_lose_no_increment(store, run) -> None:
    """10,000 sections of 20 tasks, some of which die in them."""
    counter, waits, died = 0, [], 0

    async def work(memory: MemorySystem, number: int, sections: int) -> None:
        nonlocal counter, died
        rng = random.Random(number)  # noqa: S311 - a workload
        for count in range(sections):
            dies = rng.random() < 0.001
            lease = SHORT_LEASE_S if dies else 30.0
            asked = time.perf_counter()
            # Whoever died comes back as another.
            holder = f"{number}/{count}"
            token = await memory.acquire_lock("counter", WAIT_S, lease=lease, holder=holder)
            waits.append(time.perf_counter() - asked)
            seen = counter
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
            counter = seen + 1
            if dies:
                died += 1
                await asyncio.sleep(0)
                continue  # it never releases
            if count % 50 == 0:
                await memory.put("a", "counter", counter, fence=token)
            await memory.release_lock(token)

    async def body() -> None:
        async with MemorySystem.open(store) as memory:
            share = SECTIONS // CALLERS
            await asyncio.gather(*(work(memory, number, share) for number in range(CALLERS)))

    asyncio.run(body())  # longer than `run` allows
    assert counter == SECTIONS
    assert died
    spread(f"tasks, {died} of which died as holders", waits)


def test_threads_lose_no_increment(store) -> None:
    """10,000 sections of 20 threads."""
    counter, waits = 0, []

    def work(number: int) -> None:
        nonlocal counter
        rng = random.Random(number)  # noqa: S311 - a workload
        for _ in range(SECTIONS // CALLERS):
            asked = time.perf_counter()
            token = memory.acquire_lock("counter", WAIT_S)
            waits.append(time.perf_counter() - asked)
            seen = counter
            if rng.random() < 0.3:
                time.sleep(0)
            counter = seen + 1
            memory.release_lock(token)

    with MemorySystem.open_sync(store) as memory:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(CALLERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert counter == SECTIONS
    spread("threads", waits)


def test_what_a_paused_holder_writes_late_is_refused(store, run) -> None:
    """Its lease ran out while it stood still: another holds the lock, and only that one's write counts."""

    async def body() -> None:
        async with MemorySystem.open(store) as memory:
            paused = await memory.acquire_lock("book", 1.0, lease=SHORT_LEASE_S, holder="p")
            asked = time.perf_counter()
            token = await memory.acquire_lock("book", WAIT_S, lease=30.0)
            assert time.perf_counter() - asked < SHORT_LEASE_S + 1.0
            assert paused.lost.is_set()
            for call in (
                memory.put("a", "position", "paused", fence=paused),
                memory.delete("a", "position", fence=paused),
                memory.observe("a", [1.0, 0.0], "paused", key="position", fence=paused),
            ):
                with pytest.raises(StaleFenceError):
                    await call
            await memory.put("a", "position", "current", fence=token)
            assert await memory.get("a", "position") == "current"

    run(body())


def test_a_holder_that_is_cancelled_frees_the_lock(store, run) -> None:
    """`async with` gives it back at once; a bare acquire within the lease."""

    async def body() -> None:
        async with MemorySystem.open(store) as memory:
            held = asyncio.Event()

            async def hold() -> None:
                async with memory.lock("book", timeout=1.0, lease=30.0):
                    held.set()
                    await asyncio.Event().wait()

            holder = asyncio.ensure_future(hold())
            await held.wait()
            holder.cancel()
            with pytest.raises(asyncio.CancelledError):
                await holder
            token = await memory.acquire_lock("book", 5.0, lease=30.0)
            await memory.release_lock(token)

    run(body())
