"""`kill -9` in mid-write, in compaction, in a copy, while the journal grows and indexes are saved.

A child works on one store (`crash_child.py`) until it is killed at a random moment. The parent then
opens the store and has its history judged (`nt_memory.testing.history`), opens every finished copy
and judges that too, and verifies the store. The next round goes on with the same store; after some
rounds a new one is begun. `CRASH_ROUNDS` sets how many rounds the long test runs.
"""

from __future__ import annotations

import asyncio
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import crash_child as child
import numpy as np
import pytest

import nt_memory
from nt_memory import MemorySystem
from nt_memory.system.verifying import verify
from nt_memory.testing.history import Found, judge_worker

WORKERS = 4
ROUNDS_A_STORE = 20


@dataclass
class Heard:
    """What a child said before it died.

    Attributes:
        acknowledged: Revisions by worker and number.
        copies: What was acknowledged, by worker, when each finished copy was begun.
        churned: The last replacement of an observation that was acknowledged.
    """

    acknowledged: list[dict[int, int]] = field(default_factory=lambda: [{} for _ in range(WORKERS)])
    copies: dict[str, list[int]] = field(default_factory=dict)
    churned: int = -1
    phase: str = ""


def listen(lines: list[str], before: list[int]) -> Heard:
    """Take in the lines a child has written."""
    heard, begun = Heard(), {}
    for line in lines:
        match line.split():
            case ["copying", name]:
                begun[name] = [
                    max(done, default=before[n]) for n, done in enumerate(heard.acknowledged)
                ]
            case ["copied", name]:
                heard.copies[name] = begun[name]
            case ["churned", number]:
                heard.churned = int(number)
            case [worker, number, revision]:
                heard.acknowledged[int(worker)][int(number)] = int(revision)
        if not line[0].isdigit() and not line.startswith("churned"):
            heard.phase = line.split()[0]
    return heard


def run_and_kill(store: Path, copies: Path, last: list[int], rng, bug: str = "") -> Heard:
    """Let a child work for a random time, kill it, and return what it said."""
    first = ",".join(str(number + 1) for number in last)
    source = Path(nt_memory.__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, child.__file__, store, copies, first, *([bug] if bug else [])],
        env={**os.environ, "PYTHONPATH": str(source)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    received, kill_at = b"", None
    try:
        while kill_at is None or time.monotonic() < kill_at:
            wait = 60.0 if kill_at is None else max(0.0, kill_at - time.monotonic())
            ready, _, _ = select.select([process.stdout], [], [], wait)
            assert ready or kill_at is not None, "the child does nothing"
            if not ready:
                break
            chunk = os.read(process.stdout.fileno(), 65536)
            assert chunk, f"the child ended by itself: {process.wait()}"
            if kill_at is None:
                # Now and then it dies while it recovers from the last death.
                slack = 0.03 if rng.random() < 0.15 else 0.6
                kill_at = time.monotonic() + rng.random() * slack
            received += chunk
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        received += process.stdout.read()  # what it acknowledged before it died counts
        process.stdout.close()
    lines = received[: received.rfind(b"\n") + 1].decode().splitlines()
    return listen(lines, last)


async def judge(memory: MemorySystem, acknowledged, last: list[int]) -> tuple[list[int], list[str]]:
    """Judge every worker's keys; where each goes on, and what is wrong."""
    done, violations = [], []
    for worker in range(WORKERS):
        agent = f"w{worker}"
        current = {record.key: record.value async for record in memory.scan(agent)}
        keys = {
            *current,
            *(key for n in range(last[worker] + 2) for key in child.writes(worker, n)),
        }
        found = {}
        for key in keys:
            versions = [Found(r.value, r.revision) async for r in memory.history(agent, key)]
            found[key] = versions[::-1]
        said = {number: revision for number, revision in acknowledged[worker].items() if revision}
        verdict = judge_worker(partial(child.writes, worker), said, last[worker], found, current)
        done.append(verdict.done)
        violations += [f"w{worker}: {violation}" for violation in verdict.violations]
        violations += await judge_search(memory, worker, verdict.done, found)
    return done, violations


async def judge_search(memory: MemorySystem, worker: int, done: int, found) -> list[str]:
    """The newest observations are found by their own embeddings, and all of them by any."""
    observed = [n for n in range(done + 1) if child.KINDS[n % len(child.KINDS)] == "observe"]
    violations = []
    for number in observed[-3:]:
        hits = await memory.search_similar(f"w{worker}", child.vector_of(worker, number), top_k=1)
        if [hit.key for hit in hits] != [f"seen/{number}"]:
            violations.append(f"w{worker}: a search for seen/{number} finds {hits}")
    some = await memory.search_similar(f"w{worker}", np.ones(child.DIM), top_k=len(observed) + 9)
    wanted = {f"seen/{number}" for number in observed}
    if {hit.key for hit in some} != wanted:
        violations.append(f"w{worker}: {len(some)} of {len(wanted)} observations are found")
    return violations


async def judge_churned(memory: MemorySystem, last: int) -> list[str]:
    """Of the replaced observations exactly the newest are there, and each is found by its embedding.

    Args:
        memory: The store.
        last: Number of the last replacement that was acknowledged; -1: nothing is known.
    """
    there = {record.key: record.value async for record in memory.scan(child.CHURNED)}
    done = max(there.values(), default=-1)
    if last >= 0 and done not in {last, last + 1}:
        return [f"churned: {last} was acknowledged, and {done} is there"]
    first = max(0, done + 1 - child.CHURNED_KEYS)
    wanted = {f"c{n % child.CHURNED_KEYS}": n for n in range(first, done + 1)}
    violations = [] if there == wanted else [f"churned: {there} instead of {wanted}"]
    for number in wanted.values():
        hits = await memory.search_similar(child.CHURNED, child.vector_of(-1, number), 99)
        if len(hits) != len(wanted) or hits[0].data != number or hits[0].score < 0.999:
            violations.append(f"churned: a search for {number} finds {hits}")
    row = memory._engine.snapshot.partition(f"{child.CHURNED}\0".encode())
    if row is not None and len(wanted) == child.CHURNED_KEYS:
        violations += [] if row.rows >= len(wanted) else [f"churned: {row}"]
    return violations


async def judge_store(store: Path, heard: Heard, last: list[int]) -> tuple[list[int], list[str]]:
    """Open a store after a crash and judge it."""
    newest = [max(done, default=last[n]) for n, done in enumerate(heard.acknowledged)]
    async with MemorySystem.open(store) as memory:
        done, violations = await judge(memory, heard.acknowledged, newest)
        violations += await judge_churned(memory, heard.churned)
        tail = memory.tail(after=memory._engine.snapshot.log_floor)
        for revision in range(tail.revision + 1, memory.revision + 1):
            if (found := (await anext(tail)).revision) != revision:
                violations.append(f"tail: revision {found} instead of {revision}")
                break
    return done, violations


async def judge_copy(path: Path, begun: list[int], acknowledged) -> list[str]:
    """A finished copy holds at least what was acknowledged when it was begun, and no half of it."""
    async with MemorySystem.open(path) as memory:
        last = []
        for worker in range(WORKERS):
            number = begun[worker]
            while await has_landed(memory, worker, number + 1):
                number += 1
            last.append(number)
        _, violations = await judge(memory, acknowledged, last)
        violations += await judge_churned(memory, -1)
    return [f"copy {path.name}: {violation}" for violation in violations]


async def has_landed(memory: MemorySystem, worker: int, number: int) -> bool:
    """Whether the first key of an operation shows that it took effect."""
    (key, value), *_ = child.writes(worker, number).items()
    if value is None:
        return await memory.get(f"w{worker}", key) is None  # its put landed, or we were not here
    return value in [record.value async for record in memory.history(f"w{worker}", key)]


def crash_and_judge(root: Path, rounds: int, seed: int, bug: str = "") -> list[str]:
    """Kill and judge `rounds` times, or until something is wrong; what was wrong."""
    rng = random.Random(seed)  # noqa: S311
    store, copies = root / "store", root / "copies"
    last = [-1] * WORKERS
    phases: dict[str, int] = {}
    for n in range(rounds):
        if n % ROUNDS_A_STORE == 0:
            shutil.rmtree(root, ignore_errors=True)
            copies.mkdir(parents=True)
            last = [-1] * WORKERS
        heard = run_and_kill(store, copies, last, rng, bug)
        phases[heard.phase] = phases.get(heard.phase, 0) + 1
        report = [] if bug else verify_if_made(store)
        done, violations = asyncio.run(asyncio.wait_for(judge_store(store, heard, last), 120))
        for name, begun in heard.copies.items():
            violations += asyncio.run(judge_copy(copies / name, begun, heard.acknowledged))
        shutil.rmtree(copies)
        copies.mkdir()
        if violations or report:
            return [f"round {n}, killed while {heard.phase}:", *report, *violations]
        last = done
    print(f"{rounds} rounds, killed in phase: {phases}")
    return []


def verify_if_made(store: Path) -> list[str]:
    """What `verify` finds wrong with a store that was just killed."""
    if not (store / "FORMAT").exists():
        return []
    return verify(store).damage


@pytest.mark.timeout(120)
def test_nothing_acknowledged_is_lost(tmp_path):
    """Two kills; the long run is below."""
    assert crash_and_judge(tmp_path / "crash", 2, seed=1) == []


@pytest.mark.stress
@pytest.mark.timeout(7200)
def test_nothing_acknowledged_is_lost_in_many_kills(tmp_path):
    """As many rounds as `CRASH_ROUNDS` says."""
    rounds = int(os.environ.get("CRASH_ROUNDS", "40"))
    assert crash_and_judge(tmp_path / "crash", rounds, seed=int(os.environ.get("SEED", "2"))) == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("bug", "said"),
    [
        # A delete that is lost shows in the present.
        ("acknowledge before commit", ("is lost", "the present differs")),
        ("apply twice", ("is there 2 times",)),
        ("lose on growth", ("is lost", "the present differs")),
    ],
)
def test_the_judge_finds_a_planted_bug(tmp_path, bug, said):
    """Within some kills, and says what happened."""
    violations = crash_and_judge(tmp_path / "crash", 20, seed=3, bug=bug)
    assert any(words in violation for violation in violations for words in said), violations
