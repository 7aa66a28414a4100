"""Retention: how long superseded versions are kept, and the sweeps that drop them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from nt_memory.entries import Retain, Sweep
from nt_memory.errors import InvalidInputError
from nt_memory.namespace import check_agent
from nt_memory.records import Retention
from nt_memory.system.arguments import MAX_REVISION, to_ttl_us

if TYPE_CHECKING:
    from nt_memory.system.engine import Engine

SWEEP_LIMIT = 1024
"""Versions one sweep looks at: about 5 ms of the journal's thread."""


class _Swept(NamedTuple):
    dropped: int
    is_round: bool


class GoverningCalls:
    """The calls that set rules for the swarm; `MemorySystem` inherits them."""

    _engine: Engine

    async def set_retention(
        self,
        agent: str | None,
        *,
        max_age: float | timedelta | None = None,
        max_versions: int | None = None,
    ) -> int:
        """Say how long superseded versions of an agent's keys and observations are kept.

        A version may be dropped once it was not in force for `max_age`, or once there are
        `max_versions` newer superseded ones; a key that was deleted or ran out `max_age` ago is
        dropped as a whole. The current value of a key is never dropped. Reads as of a moment that
        would need what was dropped raise `TrimmedError`.

        Versions go in sweeps: on a live timeline about once a minute, and in `compact`, which also
        gives their space back. What an open view or scan may still ask for is kept for up to ten
        minutes.

        Args:
            agent: Whose; None sets the rule for all agents that have none of their own.
            max_age: Seconds or a timedelta, on the timeline; None: no limit.
            max_versions: Superseded versions kept a key, >= 0; None: no limit.

        Returns:
            The revision.

        Raises:
            InvalidNameError: a malformed agent.
            InvalidInputError, InvalidTimeError: a malformed limit.
        """
        if max_versions is not None and (isinstance(max_versions, bool) or max_versions < 0):
            raise InvalidInputError(f"max_versions must be >= 0 or None, not {max_versions!r}")
        rule = Retain("" if agent is None else check_agent(agent), to_ttl_us(max_age), max_versions)
        revision: int = await self._engine.submit(rule)
        return revision

    def retention(self, agent: str) -> Retention:
        """The rule in force for an agent's keys: its own, or else the one for all agents."""
        self._engine.check_usable()
        rule = self._engine.opened.replica.retention.rule(check_agent(agent))
        if rule is None:
            return Retention()
        age = None if rule.max_age_us is None else timedelta(microseconds=rule.max_age_us)
        return Retention(age, rule.max_versions)


async def sweep_all(engine: Engine) -> int:
    """Drop all that retention does not keep now; how many versions that was.

    Raises:
        StorageError: the journal failed.
    """
    if engine.opened.replica.retention.has_rules is False:
        return 0
    dropped = 0
    while True:
        hold = engine.holds.moment()
        entry = Sweep(
            MAX_REVISION if hold is None else hold.time_us,
            MAX_REVISION if hold is None else hold.revision,
            SWEEP_LIMIT,
        )
        swept = _Swept(*await engine.submit(entry))
        dropped += swept.dropped
        if swept.is_round:
            return dropped
