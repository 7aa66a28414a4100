"""The reading half of the ReasoningBank: trajectories as they were recorded, and receipts of advice."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from nt_memory.entries import TRAJECTORY
from nt_memory.errors import InvalidInputError, UnknownTrajectoryError
from nt_memory.namespace import check_agent
from nt_memory.reasoningbank.advice import Receipt
from nt_memory.reasoningbank.judging import Judge
from nt_memory.reasoningbank.memories import Memories
from nt_memory.reasoningbank.question import Rows
from nt_memory.reasoningbank.tracking import Tracker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nt_memory.reasoningbank.backing import Backing, StoredChange
    from nt_memory.reasoningbank.trajectory import Trajectory
    from nt_memory.timeline import AsOfLike, Moment


class Reading:
    """What was recorded, read back as it was; `Recording` adds what is written.

    Args:
        backing: Storage.
    """

    def __init__(self, backing: Backing) -> None:
        self._backing = backing
        self._memories = Memories(backing)
        self._tracker = Tracker(backing, self._memories)
        self._rows = Rows(self._memories)
        self._judge = Judge(self._memories)

    def follow(self, changes: Iterable[StoredChange]) -> None:
        """Take in what a batch made visible; changes of other spaces are ignored."""
        self._memories.follow(changes)

    async def _at(self, as_of: AsOfLike | None = None) -> Moment:
        await self._memories.ready()
        return self._backing.resolve(as_of)

    async def trajectory(
        self, trajectory_id: str, *, as_of: AsOfLike | None = None
    ) -> Trajectory | None:
        """A trajectory as it was known, or None. More can be added to it and tracked."""
        # Reads need no columns: whoever only looks at what was recorded does not wait for them.
        moment = self._backing.resolve(as_of)
        agent = self._tracker.owner(trajectory_id, moment)
        stored = None
        if agent:
            stored = self._backing.read(TRAJECTORY, agent, trajectory_id, moment)
        return None if stored is None else self._tracker.load(stored.agent, stored, moment)

    async def trajectories(
        self,
        agent: str,
        *,
        after: str = "",
        limit: int | None = None,
        as_of: AsOfLike | None = None,
    ) -> list[Trajectory]:
        """Trajectories of an agent, by id.

        Args:
            agent: Whose.
            after: The last id of the page before.
            limit: How many, >= 1; None: all.
            as_of: A time, a revision or `AsOf`; None for now.

        Raises:
            InvalidInputError: `limit` is less than 1.

        Cost: about 30 microseconds each of those returned, however many there are.
        """
        check_agent(agent)
        _check_limit(limit)
        moment = self._backing.resolve(as_of)
        found = self._backing.scan(TRAJECTORY, agent, moment, after=after)
        some = list(itertools.islice(found, limit))
        return [self._tracker.load(agent, stored, moment) for stored in some]

    async def trajectory_ids(
        self, agent: str, *, after: str = "", limit: int = 100, as_of: AsOfLike | None = None
    ) -> list[str]:
        """A page of the ids of an agent's trajectories, by id; none of them is read.

        Args:
            agent: Whose.
            after: The last id of the page before.
            limit: How many, >= 1.
            as_of: A time, a revision or `AsOf`; None for now.

        Raises:
            InvalidInputError: `limit` is less than 1.

        Cost: some microseconds an id of the page, however many there are.
        """
        check_agent(agent)
        _check_limit(limit)
        moment = self._backing.resolve(as_of)
        found = self._backing.scan(TRAJECTORY, agent, moment, after=after)
        return [stored.key for stored in itertools.islice(found, limit)]

    async def receipt(self, trajectory_id: str, action: int = 0) -> Receipt | None:
        """Receipt of the advice an action acted on, or None if it acted on none.

        Raises:
            UnknownTrajectoryError: no such trajectory or action.
        """
        trajectory = await self.trajectory(trajectory_id)
        if trajectory is None or not 0 <= action < len(trajectory.actions):
            raise UnknownTrajectoryError(f"no action {action} of {trajectory_id!r} is known")
        doc = trajectory.actions[action].doc.receipt
        return None if doc is None else Receipt.from_doc(doc, self._rows.resolve)


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise InvalidInputError(f"limit must be at least 1, not {limit}")
