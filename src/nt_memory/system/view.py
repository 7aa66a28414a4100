"""A read-only view of the memory as of one moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from nt_memory.clock import to_datetime
from nt_memory.records import AsOf

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from numpy.typing import ArrayLike

    from nt_memory.filters import Where
    from nt_memory.reasoningbank import Advice, Pattern
    from nt_memory.records import Explanation, Hit, Record
    from nt_memory.system.memory import MemorySystem
    from nt_memory.system.memory_map import MemoryMap
    from nt_memory.timeline import Moment


class MemoryView:
    """What was known at a moment: the same questions as `MemorySystem`, answered as of then.

    The moment is fixed when the view is made; what is recorded later never shows.

    Attributes:
        as_of: The moment, as both clocks.
    """

    def __init__(self, memory: MemorySystem, moment: Moment) -> None:
        self._memory = memory
        self.as_of: AsOf = AsOf(to_datetime(max(moment.time_us, _EARLIEST_US)), moment.revision)

    async def get(self, agent: str, key: str, default: Any = None) -> Any:
        """See `MemorySystem.get`."""
        return await self._memory.get(agent, key, default, as_of=self.as_of)

    async def get_record(self, agent: str, key: str) -> Record | None:
        """See `MemorySystem.get_record`."""
        return await self._memory.get_record(agent, key, as_of=self.as_of)

    def scan(self, agent: str, prefix: str = "", *, after: str = "") -> AsyncIterator[Record]:
        """See `MemorySystem.scan`."""
        return self._memory.scan(agent, prefix, after=after, as_of=self.as_of)

    async def search_similar(
        self,
        agent: str | Sequence[str],
        query_embedding: ArrayLike,
        top_k: int = 10,
        *,
        tags: Iterable[str] | None = None,
        where: Where | None = None,
        exact: bool = False,
    ) -> list[Hit]:
        """See `MemorySystem.search_similar`."""
        return await self._memory.search_similar(
            agent, query_embedding, top_k, as_of=self.as_of, tags=tags, where=where, exact=exact
        )

    async def map(
        self, agent: str, *, action_type: str | None = None, sample: int = 2_000, seed: int = 0
    ) -> MemoryMap:
        """See `MemorySystem.map`."""
        return await self._memory.map(
            agent, action_type=action_type, as_of=self.as_of, sample=sample, seed=seed
        )

    async def explain_similar(
        self,
        agent: str | Sequence[str],
        query_embedding: ArrayLike,
        top_k: int = 10,
        *,
        tags: Iterable[str] | None = None,
        where: Where | None = None,
        exact: bool = False,
    ) -> Explanation:
        """See `MemorySystem.explain_similar`."""
        return await self._memory.explain_similar(
            agent, query_embedding, top_k, as_of=self.as_of, tags=tags, where=where, exact=exact
        )

    async def search_many(
        self,
        agent: str | Sequence[str],
        query_embeddings: ArrayLike,
        top_k: int = 10,
        *,
        tags: Iterable[str] | None = None,
        where: Where | None = None,
        exact: bool = False,
    ) -> list[list[Hit]]:
        """See `MemorySystem.search_many`."""
        return await self._memory.search_many(
            agent, query_embeddings, top_k, as_of=self.as_of, tags=tags, where=where, exact=exact
        )

    async def patterns(self, agent: str) -> list[Pattern]:
        """See `ReasoningBank.patterns`."""
        return await self._memory.bank.patterns(agent, as_of=self.as_of)

    async def advise(
        self,
        agents: str | Sequence[str],
        embedding: ArrayLike,
        *,
        action_type: str | None = None,
        level: float = 0.8,
        withhold: float = 0.0,
        baseline: float | None = None,
        trajectory: str = "",
        k: int | None = None,
        functional: Literal["mean", "median"] | None = None,
        gamma: float | None = None,
        gain: float | None = None,
        exact: bool = False,
        from_patterns: bool = False,
    ) -> Advice:
        """See `ReasoningBank.advise`."""
        return await self._memory.bank.advise(
            agents,
            embedding,
            action_type=action_type,
            as_of=self.as_of,
            level=level,
            withhold=withhold,
            baseline=baseline,
            trajectory=trajectory,
            k=k,
            functional=functional,
            gamma=gamma,
            gain=gain,
            exact=exact,
            from_patterns=from_patterns,
        )


_EARLIEST_US = -62_135_596_800_000_000  # 0001-01-01, the earliest datetime
