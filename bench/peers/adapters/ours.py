"""nt-memory, embedded, as it comes: every call returns when its change is on disk."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from nt_memory import MemorySystem, Trajectory
from peers.peer import Peer
from peers.workload import payload, symbol

DESK, BANK, ACTION = "desk", "bank", "trade"


class Ours(Peer):
    """One process, one directory."""

    name = "nt-memory"
    packages = ("nt-memory", "faiss-cpu", "lmdb", "numpy")
    used = "embedded, `MemorySystem.open(path)`, nothing configured"
    acknowledged = "on disk (fdatasync), in one order with all other changes"
    as_of: ClassVar = dict.fromkeys(("state", "search", "outcome"), "built in")

    async def open(self) -> None:
        self._memory = await MemorySystem.open(str(self.directory))
        await self._memory.bank.define(
            ACTION, target="gain", unit="1", horizon=timedelta(milliseconds=1)
        )
        self._inbox = await self._memory.subscribe("desk/*")
        self._got = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for _ in self._inbox:
            self._got.set()

    async def close(self) -> None:
        self._reader.cancel()
        with suppress(asyncio.CancelledError):
            await self._reader
        await self._memory.close()

    async def put(self, agent: str, value: dict[str, Any]) -> None:
        await self._memory.put(agent, "position", value)

    async def get(self, agent: str) -> Any:
        return await self._memory.get(agent, "position")

    async def load(self, first: int, stop: int, at: float) -> None:
        await self._memory.observe_many(
            DESK,
            self.workload.vectors[first:stop],
            [payload(row, at) for row in range(first, stop)],
            keys=[f"row/{row}" for row in range(first, stop)],
            tags=[[symbol(row)] for row in range(first, stop)],
        )

    async def settle(self) -> None:
        while self._memory.stats().l2_pending or not self._memory.stats().l2.is_idle:  # noqa: ASYNC110 - a thread's work
            await asyncio.sleep(0.01)

    async def observe(self, row: int, at: float) -> None:
        await self._memory.observe(
            DESK,
            self.workload.vectors[row],
            payload(row, at),
            key=f"row/{row}",
            tags=[symbol(row)],
        )

    async def holds(self, row: int) -> bool:
        return await self._memory.get(DESK, f"row/{row}") is not None

    async def search(self, number: int) -> list[int]:
        hits = await self._memory.search_similar(DESK, self.workload.queries[number])
        return [hit.data["row"] for hit in hits]

    async def search_symbol(self, number: int, symbol: str) -> list[int]:
        hits = await self._memory.search_similar(DESK, self.workload.queries[number], tags=[symbol])
        return [hit.data["row"] for hit in hits]

    async def decide(self, row: int, at: float) -> None:
        del at
        trajectory = Trajectory(BANK, id=f"t{row}")
        trajectory.add_observation({"symbol": symbol(row)}, self.workload.vectors[row])
        trajectory.add_action(ACTION, {"side": "buy"}, 0.5, baseline=0.4)
        await self._memory.track_trajectory(trajectory)

    async def outcome(self, row: int, value: float, at: float) -> None:
        del at
        await self._memory.record_outcome(f"t{row}", value)

    async def lessons(self, number: int) -> list[float]:
        """An advice: the recalled outcomes, and from them a forecast with an interval and a receipt."""
        query = self.workload.queries[number]
        advice = await self._memory.bank.advise(BANK, query, action_type=ACTION)
        return [memory.outcome for memory in advice.memories(10)]

    async def message(self, number: int) -> None:
        self._got.clear()
        await self._memory.publish("desk/orders", {"n": number})
        await self._got.wait()

    async def lock(self, number: int) -> None:
        del number
        token = await self._memory.acquire_lock("book")
        await self._memory.release_lock(token)

    async def get_as_of(self, agent: str, at: float) -> Any:
        return await self._memory.get(agent, "position", as_of=_time(at))

    async def search_as_of(self, number: int, at: float) -> list[int]:
        query = self.workload.queries[number]
        hits = await self._memory.search_similar(DESK, query, as_of=_time(at))
        return [hit.data["row"] for hit in hits]

    async def outcomes_as_of(self, row: int, at: float) -> list[float] | None:
        for one in await self._memory.bank.trajectories(BANK, as_of=_time(at)):
            if one.id == f"t{row}":
                return [outcome.value for outcome in one.outcomes]
        return None


def _time(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
