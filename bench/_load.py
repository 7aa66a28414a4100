"""Everything the store can do, each kind at a steady pace, over live data that stays the same.

Names are of two kinds: rings, whose names are written again and again, and streams, whose names are
new each time and are deleted or run out. Retention keeps four superseded versions a key and ten
seconds of the past, so what is live is constant after some seconds. What the store remembers for a day
by design does grow: request ids, which are not used here but by locks, for themselves; so locks are
rare, and twenty megabytes of data that nobody changes are there to measure growth by.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from _state import FLAT

from nt_memory import Approved, MemorySystem, Proposal, Vote
from nt_memory.errors import TrimmedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    Step = Callable[[int], Awaitable[object]]

AGENTS = ("agent_1", "agent_2", "agent_3", "agent_4")
RING = 200
FEW = 10
COLD_BYTES = 1_000
COLD = 20_000
OBSERVED = 1_000
DIM = 64
KEPT_S = 10.0
KEPT_VERSIONS = 4
VOTERS = ("voter_1", "voter_2", "voter_3")
A_FEW = 50


class Load:
    """The work, and how long each piece took since `take` was last called.

    Args:
        memory: The store.
        factor: How many times the usual pace.
        seed: Of everything that is chosen.
    """

    def __init__(self, memory: MemorySystem, factor: float, seed: int) -> None:
        self.counts: dict[str, int] = {}
        self._memory = memory
        self._factor = factor
        self._rng = random.Random(seed)  # noqa: S311 - chooses keys, hides nothing
        self._vectors = np.random.default_rng(seed).normal(size=(4_096, DIM)).astype(np.float32)
        self._took: dict[str, list[float]] = {}
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._changes = 0

    async def prepare(self) -> None:
        """Set the rules, write what is only read, or replaced, later, and fill what is bounded."""
        memory = self._memory
        await memory.set_retention(None, max_age=KEPT_S, max_versions=KEPT_VERSIONS)
        for start in range(0, COLD, 500):
            async with memory.transaction() as tx:
                for number in range(start, start + 500):
                    value = FLAT | {"note": self._rng.randbytes(COLD_BYTES)}
                    tx.put("agent_1", f"cold/{number:05}", value)
        keys = [f"obs/{number:04}" for number in range(OBSERVED)]
        for agent in AGENTS[:2]:
            await memory.observe_many(agent, self._vectors[:OBSERVED], [FLAT] * OBSERVED, keys=keys)
        for voter in VOTERS:
            await memory.consensus.register_agent(voter)
        # The last 65,536 names are remembered as well formed. New ones fill that in a quarter of an
        # hour, which would look like a leak, so it is filled before.
        for number in range(70_000):
            await memory.get("agent_1", f"no such name/{number}")

    def start(self, without: Collection[str] = ()) -> None:
        """Begin all of it, but for the kinds named in `without`.

        Raises:
            ValueError: one of them is no kind of work.
        """
        kinds: list[tuple[str, float, Step]] = [
            ("put", 200, self._put),
            ("put late", 20, self._put_late),
            ("put with ttl", 40, self._put_ttl),
            ("transaction", 20, self._transaction),
            ("put and delete", 20, self._put_delete),
            ("get hot", 400, lambda i: self._memory.get("agent_2", f"ring/{i % A_FEW}")),
            ("get cold", 200, self._get_cold),
            ("get as of a time", 50, self._get_as_of),
            ("scan as of a time", 2, self._scan),
            ("history", 5, self._history),
            ("observe", 10, self._observe),
            ("replace an observation", 20, self._replace),
            ("search", 20, self._search),
            ("search as of a time", 5, self._search_as_of),
            ("lock", 2, self._lock),
            ("proposal and votes", 2, self._vote),
            ("message", 100, self._message),
            ("pin", 50, self._pin),
            ("watch", 2, self._watch),
        ]
        unknown = set(without) - {name for name, *_ in kinds}
        if unknown:
            raise ValueError(f"no kinds of work: {', '.join(sorted(unknown))}")
        kinds = [kind for kind in kinds if kind[0] not in without]
        self._tasks = [asyncio.create_task(self._repeat(*kind)) for kind in kinds]
        self._tasks.append(asyncio.create_task(self._follow()))

    def take(self) -> dict[str, list[float]]:
        """Durations, in seconds, by kind, since the last call.

        Raises:
            Exception: whatever a piece of work raised.
        """
        for task in self._tasks:
            if task.done():
                task.result()
        took, self._took = self._took, {}
        return took

    async def stop(self) -> None:
        """End all of it, and raise what a piece of work raised."""
        self._stopping.set()
        *tasks, watcher = self._tasks
        await asyncio.gather(*tasks)
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher
        assert self._changes > 0, "the watcher saw nothing"  # noqa: S101 - it was at work

    async def _repeat(self, name: str, per_s: float, step: Step) -> None:
        gap = 1 / (per_s * self._factor)
        due = time.perf_counter() + gap * self._rng.random()
        for count in itertools.count():
            if self._stopping.is_set():
                return
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            start = time.perf_counter()
            await step(count)
            self._took.setdefault(name, []).append(time.perf_counter() - start)
            self.counts[name] = count + 1
            # What is more than a second late is given up, so that a stall is not followed by a rush.
            # Gaps vary, or all kinds would go on in step for ever after such a stall.
            due = max(due + gap * self._rng.uniform(0.5, 1.5), start - 1.0)

    def _agent(self, number: int) -> str:
        return AGENTS[number % len(AGENTS)]

    def _ago(self) -> datetime:
        """A moment of the last few seconds: kept for sure, unless the machine stood still."""
        return datetime.now(UTC) - timedelta(seconds=self._rng.uniform(0.1, KEPT_S / 4))

    async def _put(self, i: int) -> None:
        value = FLAT | {"order": i, "note": "n" * self._rng.randrange(800)}
        await self._memory.put(self._agent(i), f"ring/{i // 4 % RING}", value)

    async def _put_late(self, i: int) -> None:
        key = f"late/{i // 4 % FEW}"
        await self._memory.put(self._agent(i), key, FLAT | {"order": i}, known_at=self._ago())

    async def _put_ttl(self, i: int) -> None:
        await self._memory.put(self._agent(i), f"ttl/{i}", FLAT, ttl=self._rng.uniform(0.5, 3.0))

    async def _transaction(self, i: int) -> None:
        agent = self._agent(i)
        async with self._memory.transaction() as tx:
            tx.put(agent, "book/position", {"AAPL": i})
            tx.put(agent, "book/cash", -i)
        position, cash = await self._memory.get_many(
            [(agent, "book/position"), (agent, "book/cash")]
        )
        assert position["AAPL"] == -cash, "half a transaction"  # noqa: S101 - a promise

    async def _put_delete(self, i: int) -> None:
        await self._memory.put(self._agent(i), f"order/{i}", FLAT)
        await self._memory.delete(self._agent(i), f"order/{i}")

    async def _get_cold(self, _: int) -> None:
        assert await self._memory.get("agent_1", f"cold/{self._rng.randrange(COLD):05}")  # noqa: S101

    async def _get_as_of(self, i: int) -> None:
        with suppress(TrimmedError):
            await self._memory.get(self._agent(i), f"ring/{i % RING}", as_of=self._ago())

    async def _scan(self, i: int) -> None:
        with suppress(TrimmedError):
            async for _ in self._memory.at(self._ago()).scan(self._agent(i), "ring/"):
                pass

    async def _history(self, i: int) -> None:
        async for _ in self._memory.history(self._agent(i), f"ring/{i % RING}"):
            pass

    async def _observe(self, i: int) -> None:
        vector = self._vectors[self._rng.randrange(len(self._vectors))]
        key = await self._memory.observe("agent_3", vector, FLAT, tags=("new",))
        if i >= A_FEW:
            hits = await self._memory.search_similar("agent_3", vector, tags=("new",), top_k=1)
            await self._memory.delete("agent_3", hits[0].key if hits else key)

    async def _replace(self, i: int) -> None:
        vector = self._vectors[self._rng.randrange(len(self._vectors))]
        await self._memory.observe(AGENTS[i % 2], vector, FLAT, key=f"obs/{i // 2 % OBSERVED:04}")

    async def _search(self, _: int) -> None:
        vector = self._vectors[self._rng.randrange(len(self._vectors))]
        hits = await self._memory.search_similar(AGENTS[:2], vector)
        assert len(hits) == 10, "hits are missing"  # noqa: S101 - a promise

    async def _search_as_of(self, i: int) -> None:
        vector = self._vectors[self._rng.randrange(len(self._vectors))]
        with suppress(TrimmedError):
            await self._memory.search_similar(AGENTS[i % 2], vector, as_of=self._ago())

    async def _lock(self, i: int) -> None:
        async with self._memory.lock(f"book/{i % 8}", timeout=5.0) as token:
            await self._memory.put("agent_4", f"guarded/{i % 8}", i, fence=token)

    async def _vote(self, i: int) -> None:
        consensus = self._memory.consensus
        proposal = await consensus.submit_proposal(Proposal("voter_1", {"trade": i}))
        results = [await consensus.vote(Vote(proposal, voter, approve=True)) for voter in VOTERS]
        assert isinstance(results[-1], Approved), "not decided"  # noqa: S101 - a promise
        if i % 10 == 9:
            await consensus.cleanup_old(KEPT_S)

    async def _message(self, i: int) -> None:
        if i % 100 == 0:
            receiver = await self._memory.subscribe("agent_1/*")
            await self._memory.publish("agent_1/signal", FLAT)
            await receiver.recv(timeout=5.0)
            await receiver.close()
        else:
            await self._memory.publish("agent_2/signal", FLAT)

    async def _pin(self, i: int) -> None:
        pin = self._memory.pin(self._agent(i), f"ring/{i % RING}")
        await asyncio.sleep(0.01)
        _: Any = pin.value
        pin.release()

    async def _watch(self, i: int) -> None:
        """A watch that begins, sees one change and is dropped."""
        key = f"watched/{i % FEW}"
        changes = self._memory.watch("agent_4", key)
        await self._memory.put("agent_4", key, i)
        async for change in changes:
            assert change.record is not None  # noqa: S101 - it was a put
            break

    async def _follow(self) -> None:
        """A watch that goes on for the whole run."""
        async for _ in self._memory.watch("agent_2"):
            self._changes += 1
