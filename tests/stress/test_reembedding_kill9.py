"""`kill -9` while an agent's observations are embedded anew, again and again.

A child process changes the embedding over and over, every other time under a label, while it observes,
replaces, deletes and compacts; what is acknowledged goes to a pipe. The parent kills it at a random
moment, verifies what is left, opens it and judges: the embedding in force is the last one whose switch
was acknowledged, or the one after it; every acknowledged observation is found by it, with the score that
a scan of a list gives; and no file is left that nothing refers to. The next child goes on from there.
"""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

KEYS = 60
SEED = 11
ROUNDS = 20


def embedding(generation: int, number: int) -> np.ndarray:
    """What an observation is embedded as; the dimension says which of three generations it is."""
    rng = np.random.default_rng([generation, number])
    return rng.normal(size=4 + generation % 3)


def effect(number: int) -> tuple[str, bool]:
    """The key that a step writes, and whether it deletes it."""
    return f"k{number * 7 % KEYS}", number % 11 == 5


# --- the child --------------------------------------------------------------------------------


async def observe(memory, state: dict[str, int], first: int) -> None:
    """Step after step, in whichever dimension is in force, each acknowledged when it is done."""
    from nt_memory.errors import DimensionError

    for number in range(first, 1 << 30):
        key, is_delete = effect(number)
        while True:
            vector = embedding(state["generation"], number)
            try:
                if is_delete:
                    await memory.delete("a", key)
                else:
                    await memory.observe("a", vector, number, key=key)
            except DimensionError:
                await asyncio.sleep(0)  # the switch was visible before its caller was told
                continue
            break
        os.write(1, f"o {number}\n".encode())


async def reembed(memory, state: dict[str, int]) -> None:
    """One embedding after another."""
    while True:
        generation = state["generation"] + 1

        def embed(records, generation=generation):
            return [embedding(generation, record.value) for record in records]

        label = f"generation {generation}" if generation % 2 else None
        done = await memory.reembed("a", embed, batch=13, label=label)
        if not done.dimension:
            await asyncio.sleep(0.001)  # nothing was observed yet
            continue
        state["generation"] = generation
        os.write(1, f"s {generation}\n".encode())


async def compact(memory) -> None:
    """So that bases and renumberings come in between."""
    while True:
        await asyncio.sleep(0.02)
        await memory.compact()


async def child(path: str, generation: int, first: int) -> None:
    """Open the store and go on until killed."""
    from nt_memory import MemoryConfig, MemorySystem
    from nt_memory.system import renumbering

    renumbering.MIN_DEAD_ROWS = 8
    async with MemorySystem.open(MemoryConfig(storage_path=path, history=1)) as memory:
        state = {"generation": generation}
        os.write(1, b"open\n")
        await asyncio.gather(observe(memory, state, first), reembed(memory, state), compact(memory))


# --- the parent -------------------------------------------------------------------------------


def run_and_kill(
    store: Path, generation: int, first: int, lines: int, after_s: float
) -> tuple[int, int]:
    """Let a child go on for some lines and a little longer, and kill it.

    Returns:
        The last generation and the last step that were acknowledged.
    """
    import nt_memory

    source = str(Path(nt_memory.__file__).parent.parent)
    process = subprocess.Popen(
        [sys.executable, __file__, str(store), str(generation), str(first)],
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
        time.sleep(after_s)  # chooses where it dies; nothing depends on it
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        received += process.stdout.read()  # what it acknowledged before it died counts
        process.stdout.close()
    done = first - 1
    for line in received[: received.rfind(b"\n") + 1].decode().splitlines():
        kind, _, number = line.partition(" ")
        if kind == "s":
            generation = int(number)
        elif kind == "o":
            done = int(number)
    return generation, done


def scan(generation: int, done: int, query: np.ndarray) -> list[tuple[str, int, float]]:
    """What a search must return: all keys there are after step `done`, best first."""
    there: dict[str, int] = {}
    for number in range(done + 1):
        key, is_delete = effect(number)
        if is_delete:
            there.pop(key, None)
        else:
            there[key] = number
    unit = query / np.linalg.norm(query)
    found = []
    for key, number in there.items():
        row = embedding(generation, number)
        row = (row / np.linalg.norm(row)).astype(np.float16).astype(np.float64)
        found.append((key, number, float(unit @ row / np.linalg.norm(row))))
    return sorted(found, key=lambda hit: (-hit[2], hit[0]))


async def judge(store: Path, generation: int, done: int) -> tuple[int, int]:
    """Compare the store with what was acknowledged; where the next child goes on."""
    from nt_memory import MemoryConfig, MemorySystem
    from nt_memory.errors import DimensionError

    async with MemorySystem.open(MemoryConfig(storage_path=store, history=1)) as memory:
        for found in (generation, generation + 1):
            query = embedding(found, 1 << 20)
            with suppress(DimensionError):
                hits = await memory.search_similar("a", query, 2 * KEYS, exact=True)
                break
        else:
            raise AssertionError("neither the embedding acknowledged nor the next one is in force")
        answers = {hit.key: (hit.data, hit.score) for hit in hits}
        for step in (done, done + 1):
            wanted = {key: (number, score) for key, number, score in scan(found, step, query)}
            if answers.keys() == wanted.keys() and all(
                answer == pytest.approx(wanted[key], abs=1e-3) for key, answer in answers.items()
            ):
                break
        else:
            differing = {
                key: (answers.get(key), wanted.get(key))
                for key in answers.keys() | wanted.keys()
                if answers.get(key) != pytest.approx(wanted.get(key), abs=1e-3)
            }
            raise AssertionError(f"after step {done}: found and wanted: {differing}")
        files = {path.stem for path in (store / "vectors").glob("*.f16")}
        rows = {str(row.file) for _, row in memory._engine.snapshot.partitions()}
        assert files <= rows
    return found, step


@pytest.mark.stress
@pytest.mark.timeout(900)
def test_kill9_while_embedding_anew(tmp_path: Path) -> None:
    """Twenty times, at random moments; after each the store is sound, and of one embedding."""
    from nt_memory.system.verifying import verify

    rng = random.Random(SEED)  # noqa: S311 - chooses moments, hides no secret
    store = tmp_path / "store"
    generation, done = 0, -1
    switches = 0
    for number in range(ROUNDS):
        lines = 80 if number == 0 else rng.randrange(2, 120)
        acknowledged = run_and_kill(store, generation, done + 1, lines, rng.random() * 0.05)
        assert verify(store).damage == [], f"round {number}"
        before = generation
        generation, done = asyncio.run(judge(store, *acknowledged))
        assert verify(store).damage == [], f"round {number}"
        switches += generation - before
    assert switches >= ROUNDS  # else it was not about switches


if __name__ == "__main__":
    asyncio.run(child(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
