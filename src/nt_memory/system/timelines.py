"""`memory.timeline`: the agents' now, and the way to move a backtest's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nt_memory.clock import to_us
from nt_memory.entries import Advance
from nt_memory.system.arguments import check_request

if TYPE_CHECKING:
    from datetime import datetime

    from nt_memory.system.engine import Engine


class TimelineHandle:
    """The agents' now, and the way to move a backtest's."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def is_backtest(self) -> bool:
        """Whether now moves only by `advance`."""
        return self._engine.timeline.is_backtest

    @property
    def now(self) -> datetime:
        """The agents' now.

        Raises:
            TimelineError: a backtest that was never advanced.
        """
        return self._engine.timeline.now()

    async def advance(self, to: datetime, *, request_id: str | None = None) -> int:
        """Move a backtest's now forward to `to`; what runs out by then expires.

        Args:
            to: An aware time.
            request_id: A repeated id acts once and returns the first result.

        Returns:
            The revision.

        Raises:
            TimelineError: the timeline is live, or `to` lies before now.
            InvalidTimeError: a naive time.
        """
        request = check_request(request_id)
        revision: int = await self._engine.submit(Advance(to_us(to)), request)
        return revision
