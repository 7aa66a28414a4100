"""The ReasoningBank's calls that `MemorySystem` offers directly."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from nt_memory.reasoningbank import ReasoningBank, Trajectory, Verdict


class BankCalls:
    """`MemorySystem` inherits them."""

    bank: ReasoningBank

    async def track_trajectory(
        self, trajectory: Trajectory, *, request_id: str | None = None
    ) -> int:
        """Remember a trajectory; see `ReasoningBank.track_trajectory`."""
        return await self.bank.track_trajectory(trajectory, request_id=request_id)

    async def track_many(
        self, trajectories: Iterable[Trajectory], *, request_id: str | None = None
    ) -> int:
        """Remember many; see `ReasoningBank.track_many`."""
        return await self.bank.track_many(trajectories, request_id=request_id)

    async def record_outcome(
        self,
        trajectory_id: str,
        value: float,
        *,
        action: int | None = None,
        known_at: datetime | None = None,
        revision_of: int | None = None,
        request_id: str | None = None,
    ) -> Verdict:
        """Record what came of an action; see `ReasoningBank.record_outcome`."""
        return await self.bank.record_outcome(
            trajectory_id,
            value,
            action=action,
            known_at=known_at,
            revision_of=revision_of,
            request_id=request_id,
        )

    async def record_outcomes(
        self,
        trajectory_ids: Sequence[str],
        values: Sequence[float],
        *,
        actions: Sequence[int] | None = None,
        known_at: datetime | Sequence[datetime] | None = None,
        revisions_of: Sequence[int | None] | None = None,
        request_id: str | None = None,
    ) -> list[Verdict]:
        """Record many; see `ReasoningBank.record_outcomes`."""
        return await self.bank.record_outcomes(
            trajectory_ids,
            values,
            actions=actions,
            known_at=known_at,
            revisions_of=revisions_of,
            request_id=request_id,
        )
