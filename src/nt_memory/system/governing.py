"""Rules of the swarm: how long superseded versions are kept, and how much an agent may store."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from nt_memory.entries import Retain, SetPolicy, SetQuota, Sweep
from nt_memory.errors import InvalidInputError
from nt_memory.namespace import check_agent
from nt_memory.records import Policy, Quota, Retention, Usage
from nt_memory.replica import policies
from nt_memory.replica.quotas import rule_in, usage_in
from nt_memory.replica.retention import retention_in
from nt_memory.system.arguments import MAX_REVISION, check_request, to_ttl_us

if TYPE_CHECKING:
    from nt_memory.system.engine import Engine

SWEEP_LIMIT = 96
"""Versions a sweep looks at: about 1 ms of the journal's thread, for which a write may have to wait."""

SWEEP_LEAD = 2
"""While much is written a sweep looks at this many times what was written during the last one."""

MAX_SWEEP_LIMIT = 4096
"""About 40 ms: 2,000 writes that wait in one queue have waited longer for each other."""


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
        request_id: str | None = None,
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
            request_id: A repeated id acts once.

        Returns:
            The revision.

        Raises:
            InvalidNameError: a malformed agent.
            InvalidInputError, InvalidTimeError: a malformed limit.
        """
        if max_versions is not None and (isinstance(max_versions, bool) or max_versions < 0):
            raise InvalidInputError(f"max_versions must be >= 0 or None, not {max_versions!r}")
        rule = Retain("" if agent is None else check_agent(agent), to_ttl_us(max_age), max_versions)
        revision: int = await self._engine.submit(rule, check_request(request_id))
        return revision

    def retention(self, agent: str) -> Retention:
        """The rule in force for an agent's keys: its own, or else the one for all agents."""
        self._engine.check_usable()
        # Not the replica's rules: they may be ahead of what is durable, and a follower's stand still.
        rule = retention_in(self._engine.snapshot, check_agent(agent))
        if rule is None:
            return Retention()
        age = None if rule.max_age_us is None else timedelta(microseconds=rule.max_age_us)
        return Retention(age, rule.max_versions)

    async def set_quota(
        self,
        agent: str | None,
        *,
        max_keys: int | None = None,
        max_bytes: int | None = None,
        max_vectors: int | None = None,
        request_id: str | None = None,
    ) -> int:
        """Limit how much may be stored under an agent's name.

        What counts is what `usage` says: state, observations, and what the ReasoningBank keeps of
        the agent. A write after which the agent would have more of something than now, and more
        than its quota, raises `QuotaError` and changes nothing; of a transaction nothing is done.
        Deletes are always accepted, and so is an overwrite that needs no more. A quota below what
        is used takes nothing away: it refuses growth.

        Older versions count for as long as they are kept, so where `max_bytes` or `max_vectors` is
        set, `history` or `set_retention` is what makes room again: `history` at once, retention
        with the next sweep. A value in a file counts as long as its file, for each version.

        Args:
            agent: Whose; None sets the rule for all agents that have none of their own, each for
                itself.
            max_keys: Keys that show a value, >= 0; None: no limit.
            max_bytes: Bytes of all versions kept, >= 0; None: no limit.
            max_vectors: Versions kept that have an embedding, >= 0; None: no limit.
            request_id: A repeated id acts once.

        Returns:
            The revision.

        Raises:
            InvalidNameError: a malformed agent.
            InvalidInputError: a malformed limit.
        """
        for name, limit in (
            ("max_keys", max_keys),
            ("max_bytes", max_bytes),
            ("max_vectors", max_vectors),
        ):
            if limit is not None and not (type(limit) is int and 0 <= limit <= MAX_REVISION):
                raise InvalidInputError(f"{name} must be an int >= 0 or None, not {limit!r}")
        name = "" if agent is None else check_agent(agent)
        rule = SetQuota(name, max_keys, max_bytes, max_vectors)
        revision: int = await self._engine.submit(rule, check_request(request_id))
        return revision

    def quota(self, agent: str) -> Quota:
        """The quota in force for an agent: its own, or else the one for all agents."""
        self._engine.check_usable()
        rule = rule_in(self._engine.snapshot, check_agent(agent))
        return Quota() if rule is None else Quota(rule.max_keys, rule.max_bytes, rule.max_vectors)

    def usage(self, agent: str) -> Usage:
        """What is stored under an agent's name, as of the visible revision. Cost: one read."""
        self._engine.check_usable()
        row = usage_in(self._engine.snapshot, check_agent(agent))
        return Usage(row.keys, row.bytes, row.vectors)

    async def set_policy(
        self, agent: str | None, policy: Policy | None, *, request_id: str | None = None
    ) -> int:
        """Say what an agent may do: what the policy names, and nothing else.

        It holds for entries that the agent submits, on every node, and for all calls of its handle
        (`as_agent`). An agent without a policy, and whoever has no name, may do anything.

        Args:
            agent: Whose; None sets the policy for all agents that have none of their own.
            policy: What it may do; None takes the policy back.
            request_id: A repeated id acts once.

        Returns:
            The revision.

        Raises:
            InvalidNameError: a malformed agent or pattern.
            InvalidInputError: something that is no collection of patterns, or too many.
            PermissionDeniedError: who asks is held by a policy that does not allow `set_policy`.
        """
        name = "" if agent is None else check_agent(agent)
        rule = SetPolicy(name, None if policy is None else _spelled(policy))
        policies.check_rule(rule)
        revision: int = await self._engine.submit(rule, check_request(request_id))
        return revision

    def policy(self, agent: str) -> Policy | None:
        """The policy in force for an agent: its own, or else the one for all others; None: none."""
        self._engine.check_usable()
        rule = policies.rule_in(self._engine.snapshot, check_agent(agent))
        return None if rule is None else Policy(**dict(rule.rights or ()))


def _spelled(policy: Policy) -> tuple[tuple[str, tuple[str, ...]], ...]:
    found: list[tuple[str, tuple[str, ...]]] = []
    for right in policies.RIGHTS:
        patterns = getattr(policy, right)
        if isinstance(patterns, str) or not all(isinstance(one, str) for one in patterns):
            raise InvalidInputError(f"{right} must be a collection of patterns, not {patterns!r}")
        if patterns:
            found.append((right, tuple(str.__str__(one) for one in patterns)))
    return tuple(found)


async def sweep_all(engine: Engine) -> int:
    """Drop all that retention does not keep now; how many versions that was.

    What is superseded while it runs is the next one's, or it would have no end where agents write
    faster than one sweep after another drops. For the same reason a sweep takes more than usual
    when many writes shared the last one's batch: those have waited for each other already.

    Raises:
        StorageError: the journal failed.
    """
    if engine.opened.replica.retention.has_rules is False:
        return 0
    dropped, limit = 0, SWEEP_LIMIT
    until = engine.revision
    while True:
        hold, revision = engine.holds.moment(), engine.revision
        entry = Sweep(
            MAX_REVISION if hold is None else hold.time_us,
            until if hold is None else min(until, hold.revision),
            limit,
        )
        swept = _Swept(*await engine.submit(entry))
        written = engine.revision - revision
        limit = min(max(SWEEP_LIMIT, SWEEP_LEAD * written), MAX_SWEEP_LIMIT)
        dropped += swept.dropped
        if swept.is_round:
            return dropped
