"""This memory, through its public calls alone; every observation with a payload and a tag."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from nt_memory import MemorySystem
from nt_memory.apps.bench import observing
from nt_memory.apps.bench.contenders.contender import About, Placed
from nt_memory.apps.bench.figures import K

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from nt_memory import MemoryConfig

    Floats = NDArray[np.float32]


class Memory(Placed):
    """Durable, as-of, filtered; what a search returns are records, not numbers.

    Its process is killed rather than closed, so that opening it again is recovery.
    """

    about: ClassVar[About] = About(
        "nt-memory",
        "defaults; a payload of 100 bytes and tags with each, records returned",
        is_killed=True,
    )

    _memory: MemorySystem
    took: dict[str, float]
    memory_bytes: int = 1 << 30

    def __init__(self, directory: Path, dim: int, threads: int) -> None:
        super().__init__(directory, dim, threads)
        self.runner: asyncio.Runner = asyncio.Runner()

    @property
    def config(self) -> MemoryConfig:
        """What the store is opened with."""
        return observing.store_config(self.directory, self.memory_bytes)

    @property
    def memory(self) -> MemorySystem:
        """The open memory."""
        return self._memory

    def build(self, vectors: Floats) -> None:
        """Observed in batches; done when the graph has been built, measured and saved."""
        self.took = self.runner.run(self._build(vectors))

    async def _build(self, vectors: Floats) -> dict[str, float]:
        self._memory = await MemorySystem.open(self.config)
        return await observing.fill(self._memory, vectors)

    def search(self, query: Floats) -> Sequence[int]:
        """With the cost of entering the event loop."""
        hits = self.runner.run(self._memory.search_similar(observing.AGENT, query, K))
        return [int(hit.key[1:]) for hit in hits]

    def timed(self, queries: Floats, limit_s: float) -> tuple[list[float], list[list[int]]]:
        """From within the event loop, as a program would."""
        return self.runner.run(observing.searches(self._memory, queries, limit_s))

    def save(self) -> None:
        """Nothing to do: what was acknowledged is on disk."""

    def open(self) -> None:
        """After a crash, since the process before was killed."""
        self.runner.run(self._open())

    async def _open(self) -> None:
        self._memory = await MemorySystem.open(self.config)

    def settle(self) -> None:
        """Until the graph is whole again."""
        self.runner.run(observing.at_rest(self._memory))

    def close(self) -> None:
        """As a program would at its end."""
        self.runner.run(self._memory.close())
        self.runner.close()
