"""`kill -9` at random moments: nothing acknowledged is lost, nothing unacknowledged is half there.

A child process runs several workers on one store. Each worker does one thing after another (puts,
overwrites, transactions of two keys, observations, deletes) and, when a call has returned, writes
its number to a pipe. The parent reads the pipe, kills the child, opens the store and judges it: of
each worker everything acknowledged must be there, at most the one step in flight may be there
besides, and a transaction is there with both keys or with none. The next round goes on with the
same store.
"""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

WORKERS = 6
DIM = 16
KINDS = ("put", "overwrite", "transaction", "observe", "delete")


def value_of(worker: int, step: int) -> dict[str, object]:
    """What a step writes: some bytes to compress, some not."""
    rng = random.Random(f"{worker}/{step}")  # noqa: S311
    return {
        "worker": worker,
        "step": step,
        "noise": rng.randbytes(rng.randrange(700)),
        "x": [0] * 99,
    }


def vector_of(worker: int, step: int) -> np.ndarray:
    """The embedding of a step, unlike that of any other."""
    return np.random.default_rng([worker, step]).normal(size=DIM)


# --- the child --------------------------------------------------------------------------------


async def work(memory, worker: int, first: int) -> None:
    """Steps from `first` on, for ever, each acknowledged on stdout when it is done."""
    agent, step = f"w{worker}", first
    while True:
        kind, value = KINDS[step % len(KINDS)], value_of(worker, step)
        if kind == "put":
            revision = await memory.put(agent, f"put/{step}", value)
        elif kind == "overwrite":
            revision = await memory.put(agent, "overwrite", value)
        elif kind == "transaction":
            async with memory.transaction() as tx:
                tx.put(agent, f"left/{step}", step)
                tx.put(agent, f"right/{step}", step)
            revision = memory.revision
        elif kind == "observe":
            await memory.observe(agent, vector_of(worker, step), value, key=f"seen/{step}")
            revision = memory.revision
        else:
            revision = await memory.delete(agent, f"put/{step - KINDS.index('delete')}")
        os.write(1, f"{worker} {step} {revision}\n".encode())
        step += 1


async def child(path: str, first: list[int]) -> None:
    """Open the store and work until killed."""
    from nt_memory import MemorySystem

    os.write(1, b"opening\n")
    async with MemorySystem.open(path) as memory:
        await asyncio.gather(*(work(memory, n, first[n]) for n in range(WORKERS)))


# --- the parent -------------------------------------------------------------------------------


def run_and_kill(store: Path, first: list[int], lines: int) -> dict[int, tuple[int, int]]:
    """Let a child work until it has written `lines` lines, kill it.

    Returns:
        The last acknowledged `(step, revision)` of each worker that got so far.
    """
    import nt_memory

    source = str(Path(nt_memory.__file__).parent.parent)
    process = subprocess.Popen(
        [sys.executable, __file__, str(store), *map(str, first)],
        env={**os.environ, "PYTHONPATH": source},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    received = b""
    try:
        while received.count(b"\n") < lines:
            assert select.select([process.stdout], [], [], 60)[0], "the child does nothing"
            chunk = os.read(process.stdout.fileno(), 4096)
            assert chunk, f"the child ended by itself: {process.wait()}"
            received += chunk
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        received += process.stdout.read()  # what it acknowledged before it died counts
        process.stdout.close()
    acknowledged: dict[int, tuple[int, int]] = {}
    complete = received[: received.rfind(b"\n") + 1]
    for line in complete.decode().splitlines():
        if line != "opening":
            worker, step, revision = map(int, line.split())
            acknowledged[worker] = (step, revision)
    return acknowledged


async def judge_worker(memory, worker: int, acknowledged: int) -> int:
    """Compare one worker's part of the store with its history; the step it goes on with."""
    agent = f"w{worker}"
    there = {record.key: record.value async for record in memory.scan(agent)}
    history = [record.value["step"] async for record in memory.history(agent, "overwrite")]
    done = acknowledged + 1 if _is_there(worker, acknowledged + 1, there, history) else acknowledged
    expected: dict[str, object] = {}
    for step in range(done + 1):
        kind = KINDS[step % len(KINDS)]
        if kind == "put":
            expected[f"put/{step}"] = value_of(worker, step)
        elif kind == "overwrite":
            expected["overwrite"] = value_of(worker, step)
        elif kind == "transaction":
            expected[f"left/{step}"] = expected[f"right/{step}"] = step
        elif kind == "observe":
            expected[f"seen/{step}"] = value_of(worker, step)
        else:
            expected.pop(f"put/{step - KINDS.index('delete')}", None)
    assert there == expected
    written = [step for step in range(done + 1) if KINDS[step % len(KINDS)] == "overwrite"]
    assert history == written[::-1]
    await judge_search(memory, worker, done)
    return done + 1


def _is_there(worker: int, step: int, there: dict[str, object], history: list[int]) -> bool:
    """Whether the one step in flight took effect; half of it must not have."""
    kind = KINDS[step % len(KINDS)]
    if kind == "put":
        return f"put/{step}" in there
    if kind == "overwrite":
        return step in history
    if kind == "transaction":
        assert (f"left/{step}" in there) == (f"right/{step}" in there), "half a transaction"
        return f"left/{step}" in there
    if kind == "observe":
        return f"seen/{step}" in there
    return step >= len(KINDS) - 1 and f"put/{step - KINDS.index('delete')}" not in there


async def judge_search(memory, worker: int, done: int) -> None:
    """The newest observations are found by their own embeddings, with their own data."""
    observed = [step for step in range(done + 1) if KINDS[step % len(KINDS)] == "observe"]
    for step in observed[-5:]:
        (hit,) = await memory.search_similar(f"w{worker}", vector_of(worker, step), top_k=1)
        assert (hit.key, hit.data) == (f"seen/{step}", value_of(worker, step))
    hits = await memory.search_similar(f"w{worker}", [1.0] * DIM, top_k=len(observed) + 10)
    assert len(hits) == len(observed)


async def judge(store: Path, last: dict[int, tuple[int, int]], first: list[int]) -> list[int]:
    """Open the store, judge it, and return the step each worker goes on with."""
    from nt_memory import MemorySystem

    async with MemorySystem.open(store) as memory:
        newest = max((revision for _, revision in last.values()), default=0)
        assert memory.revision >= newest
        for worker in range(WORKERS):
            acknowledged = last[worker][0] if worker in last else first[worker] - 1
            first[worker] = await judge_worker(memory, worker, acknowledged)
        tail = memory.tail()
        revisions = [(await anext(tail)).revision for _ in range(memory.revision)]
        assert revisions == list(range(1, memory.revision + 1)), "none missing, none twice"
    return first


def rounds(store: Path, count: int, seed: int) -> None:
    """Kill and judge `count` times."""
    rng = random.Random(seed)  # noqa: S311
    first = [0] * WORKERS
    for _ in range(count):
        # One line is "opening": now and then the child dies while it recovers from the last death.
        lines = 1 if rng.random() < 0.15 else rng.randrange(2, 500)
        last = run_and_kill(store, first, lines)
        first = asyncio.run(asyncio.wait_for(judge(store, last, first), 60))


@pytest.mark.timeout(120)
def test_nothing_acknowledged_is_lost(store):
    """Three kills; the long run is below."""
    rounds(store, 3, seed=1)


@pytest.mark.stress
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [2, 3])
def test_nothing_acknowledged_is_lost_in_twenty_kills(store, seed):
    """Twenty kills of one store, each at a random moment."""
    rounds(store, 20, seed)


if __name__ == "__main__":
    asyncio.run(child(sys.argv[1], [int(text) for text in sys.argv[2:]]))
