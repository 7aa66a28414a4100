"""The process that gets killed: workers on one store, and everything that can be going on beside them.

    crash_child.py STORE SNAPSHOTS FIRST[,FIRST...] [BUG]

Each worker does one numbered operation after another and says so on stdout when a call has
returned: `worker number revision`. Segments are small, so that the journal grows a segment every
few operations, and graphs are built and saved early. `BUG` plants one, for the tests of the judge.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import random
import sys
import time
from pathlib import Path

import numpy as np

from nt_memory import MemorySystem
from nt_memory.replica import Follow, Outcome, Replica
from nt_memory.system import engine, opening, renumbering
from nt_memory.tiers.vectors import VectorTier
from nt_memory.tiers.vectors.partition import Tuning
from nt_memory.transport.local import LocalJournal
from nt_memory.transport.ports import Frame
from nt_memory.transport.segments import HEADER_BYTES, unpack_position

DIM = 8
SEGMENT_BYTES = 64 * 1024
CHURNED = "churned"
CHURNED_KEYS = 12
KINDS = ("put", "overwrite", "pair", "observe", "request", "delete", "large", "many")


def value_of(worker: int, number: int, size: int = 600) -> dict[str, object]:
    """What an operation writes: unlike what any other writes."""
    noise = random.Random(f"{worker}/{number}").randbytes(size)  # noqa: S311
    return {"worker": worker, "number": number, "noise": noise, "x": [0] * 99}


def vector_of(worker: int, number: int) -> np.ndarray:
    """The embedding of an operation."""
    return np.random.default_rng([worker + 1, number]).normal(size=DIM)


def writes(worker: int, number: int) -> dict[str, object]:  # noqa: PLR0911 - one per kind
    """Keys and values of an operation; None deletes."""
    kind, value = KINDS[number % len(KINDS)], value_of(worker, number)
    match kind:
        case "put":
            return {f"put/{number}": value}
        case "overwrite" | "request":
            return {kind: value}
        case "pair":
            return {f"left/{number}": value, f"right/{number}": value}
        case "observe":
            return {f"seen/{number}": value}
        case "delete":
            return {f"put/{number - KINDS.index('delete')}": None}
        case "large":
            return {"large": value_of(worker, number, 30_000)}
        case _:
            return {f"many/{n}": {**value, "n": n} for n in range(12)}


def say(text: str) -> None:
    """Tell the parent; a line is short enough to arrive whole or not at all."""
    os.write(1, f"{text}\n".encode())


async def operate(memory: MemorySystem, worker: int, number: int) -> int:
    """Carry out one operation; its revision."""
    agent, wanted = f"w{worker}", writes(worker, number)
    kind = KINDS[number % len(KINDS)]
    (key, value), *more = wanted.items()
    if kind == "observe":
        vector = vector_of(worker, number)
        if number // len(KINDS) % 2:
            await memory.observe_many(agent, [vector], [value], keys=[key])
        else:
            await memory.observe(agent, vector, value, key=key)
        record = await memory.get_record(agent, key)
        assert record is not None
        return record.revision
    if kind == "delete":
        return await memory.delete(agent, key) or 0
    if kind == "request":
        request_id = f"{worker}/{number}"
        first = await memory.put(agent, key, value, request_id=request_id)
        assert await memory.put(agent, key, "again", request_id=request_id) == first
        return first
    if not more:
        return await memory.put(agent, key, value)
    async with memory.transaction() as tx:
        for key, value in wanted.items():
            tx.put(agent, key, value)
    record = await memory.get_record(agent, key)
    assert record is not None
    return record.revision


async def work(memory: MemorySystem, worker: int, first: int) -> None:
    """Operations from `first` on, for ever."""
    for number in itertools.count(first):
        revision = await operate(memory, worker, number)
        say(f"{worker} {number} {revision}")


async def churn(memory: MemorySystem) -> None:
    """Replace a few observations over and over, so that compactions have rows to give back."""
    await memory.set_retention(CHURNED, max_versions=0)
    last = [record.value async for record in memory.scan(CHURNED)]
    for number in itertools.count(max(last, default=-1) + 1):
        key = f"c{number % CHURNED_KEYS}"
        await memory.observe(CHURNED, vector_of(-1, number), number, key=key)
        say(f"churned {number}")


async def maintain(memory: MemorySystem, snapshots: Path) -> None:
    """Compact and copy, over and over."""
    for n in itertools.count():
        say("compacting")
        await memory.compact()
        say("compacted")
        target = snapshots / f"{os.getpid()}-{n}"
        say(f"copying {target.name}")
        await memory.snapshot(target)
        say(f"copied {target.name}")
        await asyncio.sleep(0.1)


async def main(store: str, snapshots: str, first: list[int]) -> None:
    """Open the store and work until killed."""
    say("opening")
    async with MemorySystem.open(store) as memory:
        say("open")
        jobs = [work(memory, worker, number) for worker, number in enumerate(first)]
        await asyncio.gather(*jobs, churn(memory), maintain(memory, Path(snapshots)))


# --- how this process differs from a real one ---------------------------------------------------


def shrink() -> None:
    """Make everything that happens rarely happen often."""
    opening.LocalJournal = functools.partial(LocalJournal, segment_bytes=SEGMENT_BYTES)
    renumbering.MIN_DEAD_ROWS = 4
    # Graphs are sealed, saved and merged all the time.
    tuning = Tuning(scan_values=DIM * 16, arrange=8, publish=4, seal=24)
    engine.VectorTier = functools.partial(VectorTier, tuning=tuning)


def acknowledge_before_commit() -> None:
    """Bug: whoever puts is told that all is well once the entry is queued; and the disk is slow."""
    submit, write = LocalJournal.submit, LocalJournal._write

    def tell_first(self: LocalJournal, payload: bytes, ticket: asyncio.Future[object]) -> bool:
        taken = submit(self, payload, ticket)
        if taken and b"put/" in payload:
            ticket.get_loop().call_soon(_resolve, ticket)
        return taken

    def write_late(self: LocalJournal, batch: list[tuple[bytes, object]]) -> None:
        time.sleep(0.02)
        write(self, batch)

    LocalJournal.submit = tell_first  # type: ignore[method-assign, assignment]
    LocalJournal._write = write_late  # type: ignore[method-assign]


def _resolve(ticket: asyncio.Future[object]) -> None:
    if not ticket.done():
        ticket.set_result(0)


def apply_twice() -> None:
    """Bug: recovery does not know how far the views have come, and applies some entries again."""
    load, loaded = Replica._load, []

    def load_too_little(self: Replica, views: object) -> None:
        load(self, views)  # type: ignore[arg-type]
        if not loaded:
            self.sequence = max(0, self.sequence - 5)
            self.last_recorded_at = 0  # or the journal would be taken for another store's
        loaded.append(self)

    Replica._load = load_too_little  # type: ignore[method-assign, assignment]


def lose_on_growth() -> None:
    """Bug: the first entry of a new segment is acknowledged and not applied."""
    apply_one = Replica._apply_one

    def forget(self: Replica, batch: object, frame: Frame, follow: Follow) -> None:
        is_first = unpack_position(frame.position)[1] == HEADER_BYTES
        if not (is_first and b"put/" in frame.payload):
            apply_one(self, batch, frame, follow)  # type: ignore[arg-type]
            return
        # Where the views end must still be told, or the journal would be taken for another store's.
        self.sequence, self.last_recorded_at = frame.sequence, frame.recorded_at
        follow.outcomes.append(Outcome(frame.ticket, self.revision + 1, None))

    Replica._apply_one = forget  # type: ignore[method-assign, assignment]


BUGS = {
    "acknowledge before commit": acknowledge_before_commit,
    "apply twice": apply_twice,
    "lose on growth": lose_on_growth,
}

if __name__ == "__main__":
    shrink()
    if len(sys.argv) > 4:
        BUGS[sys.argv[4]]()
    asyncio.run(main(sys.argv[1], sys.argv[2], [int(text) for text in sys.argv[3].split(",")]))
