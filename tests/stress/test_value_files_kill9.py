"""Large values under `kill -9` in mid put, and what they cost in memory.

A child process puts large values, a few at a time, some of them the same content under another key,
and compacts now and then; each acknowledged put goes to a pipe. The parent kills it at a random
moment of its own choosing (after a line, and then after a random fraction of a put), opens the
store and judges: every acknowledged value is there, whole; what is not acknowledged is there whole
or not at all; `verify` finds nothing; and after a compaction no file is left that nothing refers to.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

WORKERS = 3
MIB = 1 << 20


def value_of(worker: int, step: int) -> dict[str, object]:
    """What a step puts: 1 to 9 MiB, every third a content that another worker puts too."""
    seed = [99, step] if step % 3 == 0 else [worker, step]
    rng = np.random.default_rng(seed)
    weights = rng.integers(0, 255, size=int(rng.integers(1, 9)) * MIB, dtype=np.uint8)
    return {"step": step, "weights": weights, "tokens": rng.bytes(200_000)}


# --- the child --------------------------------------------------------------------------------


async def work(memory, worker: int, first: int) -> None:
    """Puts from `first` on, for ever, each acknowledged on stdout when it is done."""
    for step in range(first, 1 << 30):
        key = f"k{step % 7}"
        await memory.put(f"w{worker}", key, value_of(worker, step))
        os.write(1, f"{worker} {step}\n".encode())


async def compact(memory) -> None:
    """Sweep while the others put."""
    while True:
        await asyncio.sleep(0.05)
        await memory.compact()


async def child(path: str, first: list[int]) -> None:
    """Open the store and put until killed."""
    from nt_memory import MemoryConfig, MemorySystem

    async with MemorySystem.open(MemoryConfig(storage_path=path, history=1)) as memory:
        os.write(1, b"open\n")
        await asyncio.gather(*(work(memory, n, first[n]) for n in range(WORKERS)), compact(memory))


# --- the parent -------------------------------------------------------------------------------


def start(*arguments: str) -> subprocess.Popen[bytes]:
    """A child of this file."""
    import nt_memory

    source = str(Path(nt_memory.__file__).parent.parent)
    return subprocess.Popen(
        [sys.executable, __file__, *arguments],
        env={**os.environ, "PYTHONPATH": source},
        stdout=subprocess.PIPE,
    )


def run_and_kill(store: Path, first: list[int], lines: int, after_s: float) -> dict[int, int]:
    """Let a child put until it has acknowledged `lines` puts and a little longer, and kill it.

    Returns:
        The last acknowledged step of each worker that got so far.
    """
    process = start(str(store), *map(str, first))
    assert process.stdout is not None
    received = b""
    try:
        while received.count(b"\n") < lines:
            assert select.select([process.stdout], [], [], 60)[0], "the child does nothing"
            chunk = os.read(process.stdout.fileno(), 4096)
            assert chunk, f"the child ended by itself: {process.wait()}"
            received += chunk
        time.sleep(after_s)  # chooses where in a put it dies; nothing depends on it
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        received += process.stdout.read()  # what it acknowledged before it died counts
        process.stdout.close()
    acknowledged: dict[int, int] = {}
    complete = received[: received.rfind(b"\n") + 1]
    for line in complete.decode().splitlines():
        if line != "open":
            worker, step = map(int, line.split())
            acknowledged[worker] = step
    return acknowledged


async def judge(store: Path, acknowledged: dict[int, int], first: list[int]) -> list[int]:
    """Compare the store with what was acknowledged; the step each worker goes on with."""
    from nt_memory import MemoryConfig, MemorySystem

    async with MemorySystem.open(MemoryConfig(storage_path=store, history=1)) as memory:
        assert not list((store / "values").glob("*.new"))
        for worker in range(WORKERS):
            done = acknowledged.get(worker, first[worker] - 1)
            newest = await memory.get(f"w{worker}", f"k{(done + 1) % 7}")
            if newest is not None and newest["step"] == done + 1:
                done += 1  # the put in flight took effect
            await judge_worker(memory, worker, done)
            first[worker] = done + 1
        await memory.compact()
        names = {path.name for path in (store / "values").iterdir()}
        wanted = {
            record.value["weights"].tobytes()
            for worker in range(WORKERS)
            for key in range(7)
            async for record in memory.history(f"w{worker}", f"k{key}")
        }
        assert len(names) == len(wanted)
    return first


async def judge_worker(memory, worker: int, done: int) -> None:
    """Every key of a worker holds its last value and the one before."""
    for key in range(7):
        steps = [step for step in range(done + 1) if step % 7 == key][-2:]
        found = [record.value async for record in memory.history(f"w{worker}", f"k{key}")]
        assert [value["step"] for value in found] == steps[::-1]
        for value in found:
            wanted = value_of(worker, value["step"])
            assert np.array_equal(value["weights"], wanted["weights"])
            assert value["tokens"] == wanted["tokens"]


def rounds(store: Path, count: int, seed: int) -> None:
    """Kill, verify and judge `count` times."""
    from nt_memory.system.verifying import verify

    rng = random.Random(seed)  # noqa: S311
    first = [0] * WORKERS
    for _ in range(count):
        acknowledged = run_and_kill(store, first, rng.randrange(1, 25), rng.random() * 0.1)
        found = verify(store)
        assert found.is_ok, found.damage
        first = asyncio.run(asyncio.wait_for(judge(store, acknowledged, first), 60))


@pytest.mark.stress
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2])
def test_no_large_value_is_lost_or_half_there(store, seed):
    """Fifteen kills of one store in mid put, mid sweep or mid compaction."""
    rounds(store, 15, seed)


# --- memory -----------------------------------------------------------------------------------


def status() -> dict[str, int]:
    """This process's memory in MiB, by the kernel's names."""
    text = Path("/proc/self/status").read_text()
    names = ("VmHWM", "RssAnon")
    return {name: int(re.search(rf"{name}:\s+(\d+)", text)[1]) // 1024 for name in names}


async def measure(path: str, what: str, size: int) -> None:
    """Put an array, or get it and touch all of it; report what that took beyond what was there."""
    from nt_memory import MemorySystem

    async with MemorySystem.open(path) as memory:
        await memory.put("a", "small", 1)
        if what == "put":
            array = np.random.default_rng(0).integers(0, 255, size=size * MIB, dtype=np.uint8)
            before = status()
            await memory.put("a", "k", {"w": array})
        else:
            before = status()
            array = (await memory.get("a", "k"))["w"]
        peak = status()
        assert array[::4096].sum() > 0
        after = status()
        print(peak["VmHWM"] - before["VmHWM"], after["RssAnon"] - before["RssAnon"])


@pytest.mark.stress
@pytest.mark.timeout(120)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_array_is_not_held_twice(store):
    """Putting 200 MiB takes a few MiB beside the array itself; reading it takes no memory of one's
    own, even when all of it was touched."""
    size = 200
    for what in ("put", "get"):
        process = start(str(store), what, str(size))
        out, _ = process.communicate(timeout=100)
        peak, anonymous = map(int, out.split())
        assert peak < 32, f"{what}: {peak} MiB more at the peak"
        assert anonymous < 32, f"{what}: {anonymous} MiB of its own"


if __name__ == "__main__":
    if sys.argv[2] in {"put", "get"}:
        asyncio.run(measure(sys.argv[1], sys.argv[2], int(sys.argv[3])))
    else:
        asyncio.run(child(sys.argv[1], [int(text) for text in sys.argv[2:]]))
