"""`kill -9` while agents' memories are distilled under a request id, again and again, until it is done.

A child process opens the store and distils. The parent kills it at a random moment, whatever it is doing:
opening, loading, clustering, testing, writing drafts, writing the entry. Between two lives another process
tracks more trajectories, so that whoever began anew would find other patterns. What is there in the end must be, to
the last bit, what one undisturbed call in a copy of the store has made; stored once, with nothing left behind.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

AGENTS = [f"agent_{number}" for number in range(6)]
DAY = timedelta(days=1)
START = datetime(2010, 1, 4, 21, tzinfo=UTC)
DAYS = 400
REQUEST = "the look of the week"
SEEDS = (3, 4, 5)
MAX_LIVES = 60


# --- the child --------------------------------------------------------------------------------


def opened(path: Path | str):
    from nt_memory import MemoryConfig, MemorySystem

    return MemorySystem.open(MemoryConfig(storage_path=Path(path), timeline="backtest"))


async def live(memory, first: int, days: int) -> None:
    """Some days of forecasts of all agents, whose outcomes are better where the first feature is high."""
    from nt_memory import Trajectory

    rng = np.random.default_rng(first)
    await memory.timeline.advance(START + (first + days + 6) * DAY)
    built = []
    for day in range(first, first + days):
        at = START + day * DAY
        for agent in AGENTS:
            situation = rng.normal(size=8) + 3.0
            one = Trajectory(agent, id=f"{agent}/{day}")
            one.add_observation(None, situation, at=at)
            one.add_action("f", None, float(rng.normal()), baseline=0.0, at=at)
            outcome = float(rng.normal() + 1.5 * (situation[0] > 3.5))
            built.append(one.add_outcome(outcome, at=at + DAY))
    await memory.track_many(built)


async def distil(path: str) -> None:
    """Distil under the request id; tell when it has begun, how far it is, and when it is done."""
    async with opened(path) as memory:
        os.write(1, b"open\n")

        def tell(done: int, of: int) -> None:
            os.write(1, f"{done} of {of}\n".encode())

        await memory.bank.distill(AGENTS, look=True, request_id=REQUEST, progress=tell)
        os.write(1, b"done\n")


# --- the parent -------------------------------------------------------------------------------


def run(path: Path, kill_after: tuple[int, float] | None) -> list[str]:
    """Let a child distil, killed some time after some lines of its; what it told."""
    import nt_memory

    process = subprocess.Popen(
        [sys.executable, __file__, str(path)],
        env={**os.environ, "PYTHONPATH": str(Path(nt_memory.__file__).parent.parent)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    received = b""
    try:
        while kill_after is None or received.count(b"\n") < kill_after[0]:
            assert select.select([process.stdout], [], [], 120)[0], "the child does nothing"
            chunk = os.read(process.stdout.fileno(), 4096)
            received += chunk
            if not chunk:
                assert process.wait() == 0, "the child failed by itself"
                break
        else:
            time.sleep(kill_after[1])  # chooses where it dies; nothing depends on it
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        received += process.stdout.read()
        process.stdout.close()
    return received[: received.rfind(b"\n") + 1].decode().splitlines()


async def prepare(path: Path) -> None:
    async with opened(path) as memory:
        await memory.timeline.advance(START)
        await memory.bank.define("f", target="return", unit="sd", horizon=1, looks=2)
        await live(memory, 0, DAYS)


async def add(path: Path, first: int) -> None:
    async with opened(path) as memory:
        await live(memory, first, 3)


async def judge(path: Path) -> tuple[list[str], int, int]:
    """All patterns with all their numbers; how many are promoted; how many sets of them were ever stored."""
    async with opened(path) as memory:
        spelled, promoted = [], 0
        for agent in AGENTS:
            for one in await memory.bank.patterns(agent):
                promoted += one.is_promoted
                spelled.append(hashlib.sha256(repr(one.to_doc()).encode()).hexdigest())
        sets = memory.bank._memories.patterns.values()
        return spelled, promoted, sum(len(one._versions) for one in sets)


@pytest.mark.stress
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_distillation_that_is_killed_again_and_again_ends_as_an_undisturbed_one(
    tmp_path: Path, seed: int
) -> None:
    """Its patterns are those of one call that nobody killed, whatever was tracked meanwhile."""
    rng = random.Random(seed)  # noqa: S311 - chooses where it dies
    path, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    asyncio.run(prepare(path))
    shutil.copytree(path, undisturbed)
    assert run(undisturbed, None)[-1] == "done"
    # Begun for certain when the first set is drafted: from then on the moment is kept.
    told = run(path, (2, rng.random() * 0.05))
    kills, day = 1, DAYS
    while "done" not in told:
        assert kills < MAX_LIVES, f"killed {kills} times, it came no further than {told}"
        asyncio.run(add(path, day))
        day += 3
        told = run(path, (rng.randrange(8), rng.random() * rng.choice([0.01, 0.1, 0.5])))
        kills += 1
    print(f"seed {seed}: done in its life number {kills}")
    assert kills > 1
    found, expected = asyncio.run(judge(path)), asyncio.run(judge(undisturbed))
    assert expected[1] > 0, "nothing was promoted: there was nothing to get wrong"
    assert found == expected
    assert not (path / "drafts").exists()
    # Asked again, it answers from what is stored.
    assert run(path, None)[-1] == "done"
    assert asyncio.run(judge(path)) == expected


if __name__ == "__main__":
    asyncio.run(distil(sys.argv[1]))
