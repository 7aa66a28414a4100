"""What commands ask of a memory, wherever it is: `MemorySystem` and `RemoteMemory` both answer.

In process some answers are there at once that a server has to be asked for; `arrived` takes either.
"""
# ruff: noqa: D102 - what a call does is said where it is done

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from nt_memory import (
        Change,
        Hit,
        LockToken,
        MemoryStats,
        Pattern,
        Policy,
        Proposal,
        Record,
        Trajectory,
        Usage,
        Verdict,
        Vote,
    )
    from nt_memory.coordination.proposals import Approved, Pending, ProposalRecord, Rejected
    from nt_memory.coordination.tokens import LockInfo
    from nt_memory.reasoningbank import Calibration, Ranked, RecentAction, Uplift
    from nt_memory.system.watching import JournalEntry

    Result = Approved | Rejected | Pending

Moment = datetime | int
"""What `--as-of` gives."""
VerdictKind = Literal["correct", "incorrect", "very_wrong", "insufficient", "pending"]
"""What `--verdict` gives."""
_T = TypeVar("_T")


async def arrived(answer: _T | Awaitable[_T]) -> _T:
    """An answer, once it is there."""
    if inspect.isawaitable(answer):
        found: _T = await answer
        return found
    return answer


class Told(Protocol):
    """Advice, as far as it is printed."""

    @property
    def as_of(self) -> datetime:
        """Known by when."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        ...

    def as_text(self, max_chars: int = 600) -> str:
        """In words."""
        ...


class Came(Protocol):
    """A message that came."""

    @property
    def topic(self) -> str: ...
    @property
    def value(self) -> Any: ...


class Receiving(Protocol):
    """A subscription; see `Receiver`."""

    @property
    def dropped(self) -> int: ...
    async def recv_message(self) -> Came: ...
    async def close(self) -> None: ...


class Bank(Protocol):
    """What was decided, and what it teaches; see `ReasoningBank`."""

    async def trajectories(
        self, agent: str, *, limit: int | None = None, as_of: Moment | None = None
    ) -> list[Trajectory]: ...
    async def trajectory(
        self, trajectory_id: str, *, as_of: Moment | None = None
    ) -> Trajectory | None: ...
    async def judge(self, trajectory: Trajectory) -> list[Verdict]: ...
    async def patterns(self, agent: str, *, as_of: Moment | None = None) -> list[Pattern]: ...
    async def distill(
        self,
        agent: str,
        *,
        as_of: Moment | None = None,
        look: bool = False,
        progress: Callable[[int, int], None] | None = None,
        request_id: str | None = None,
    ) -> list[Pattern]: ...
    async def advise(
        self,
        agents: Sequence[str],
        embedding: Any,
        *,
        action_type: str | None = None,
        as_of: Moment | None = None,
        level: float = 0.8,
        baseline: float | None = None,
        exact: bool = False,
    ) -> Told: ...
    async def recent(
        self,
        agent: str,
        limit: int = 20,
        *,
        skip: int = 0,
        action_type: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        verdict: VerdictKind | None = None,
        tag: str | None = None,
        as_of: Moment | None = None,
    ) -> list[RecentAction]: ...
    async def calibration(
        self,
        agent: str,
        *,
        action_type: str | None = None,
        level: float = 0.8,
        by_regime: bool = False,
        as_of: Moment | None = None,
    ) -> list[Calibration]: ...
    async def rank(
        self,
        agents: Sequence[str],
        embedding: Any,
        *,
        action_type: str | None = None,
        as_of: Moment | None = None,
    ) -> list[Ranked]: ...
    async def uplift(
        self, agent: str, *, action_type: str | None = None, as_of: Moment | None = None
    ) -> Uplift: ...
    async def vote_weights(
        self, agents: Sequence[str], *, as_of: Moment | None = None
    ) -> dict[str, float]: ...


class Ballots(Protocol):
    """Proposals and votes; see `Consensus`."""

    async def register_agent(self, agent: str, weight: str) -> int: ...
    async def submit_proposal(self, proposal: Proposal) -> str: ...
    async def vote(self, vote: Vote) -> Result: ...
    async def get_result(self, proposal_id: str) -> Result: ...
    async def get_proposal(self, proposal_id: str) -> ProposalRecord | None: ...
    async def list_proposals(self) -> list[ProposalRecord]: ...


class Memory(Protocol):
    """State, similarity, feeds, locks and counters; see `MemorySystem`."""

    @property
    def bank(self) -> Bank: ...
    @property
    def consensus(self) -> Ballots: ...
    @property
    def revision(self) -> int: ...
    async def wait_for(self, revision: int) -> None: ...

    async def get_record(
        self, agent: str, key: str, *, as_of: Moment | None = None
    ) -> Record | None: ...
    async def put(
        self,
        agent: str,
        key: str,
        value: Any,
        *,
        ttl: float | None = None,
        expect: int | None = None,
        fence: int | None = None,
    ) -> int: ...
    async def delete(
        self, agent: str, key: str, *, expect: int | None = None, fence: int | None = None
    ) -> int | None: ...
    def scan(
        self, agent: str, prefix: str = "", *, as_of: Moment | None = None
    ) -> AsyncIterator[Record]: ...
    def history(self, agent: str, key: str) -> AsyncIterator[Record]: ...
    def watch(
        self, agent: str, prefix: str = "", *, after: int | None = None
    ) -> AsyncIterator[Change]: ...
    def tail(self, after: int = 0) -> AsyncIterator[JournalEntry]: ...

    async def observe(
        self,
        agent: str,
        embedding: Any,
        data: Any = None,
        *,
        key: str | None = None,
        tags: Sequence[str] = (),
        ttl: float | None = None,
        fence: int | None = None,
    ) -> str: ...
    async def search_similar(
        self,
        agent: Sequence[str],
        query_embedding: Any,
        top_k: int = 10,
        *,
        as_of: Moment | None = None,
        tags: Sequence[str] | None = None,
        where: Any = None,
        exact: bool = False,
    ) -> list[Hit]: ...
    async def get_embedding(self, agent: str, key: str) -> Any: ...

    async def publish(self, topic: str, message: Any) -> int: ...
    async def subscribe(self, pattern: str) -> Receiving: ...

    def lock(
        self, resource: str, *, timeout: float = 1.0, lease: float = 30.0, holder: str = ""
    ) -> AbstractAsyncContextManager[LockToken]: ...
    async def force_release(
        self, resource: str, *, fence: int | None = None, reason: str = ""
    ) -> bool: ...
    def list_locks(self) -> list[LockInfo] | Awaitable[list[LockInfo]]: ...
    def inspect_lock(self, resource: str) -> LockInfo | Awaitable[LockInfo]: ...

    async def agents(self) -> list[str]: ...
    def usage(self, agent: str) -> Usage | Awaitable[Usage]: ...
    def policy(self, agent: str) -> Policy | Awaitable[Policy | None] | None: ...
    def stats(self) -> MemoryStats | Awaitable[MemoryStats]: ...
