# mypy: disable-error-code="explicit-override"
"""`memory.as_agent("agent_1")`: the same calls, in an agent's name and within its rights.

Problem: writes are judged by the replica (`replica.policies`), on every node alike. Reads, messages
and subscriptions are no entries, so they are judged here, where they are called.

An agent's handle has the classes of what it stands for, and every public call of theirs is replaced:
by one that first claims the rights that the table below names, then calls the whole memory in the
agent's name. A call that no table names is refused, so that one that is added later is closed until
somebody has thought about it.

Rights are judged when a call is made. What it returns lives on by itself: a pin, a receiver, a watch,
a view's iteration go on when the right is taken back. They guard agents against each other's mistakes
and, behind a server, against each other; code in the same process can always reach around a handle.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from nt_memory.coordination.consensus import Consensus
from nt_memory.coordination.elections import Elections
from nt_memory.namespace import check_agent, check_key
from nt_memory.reasoningbank import ReasoningBank, Trajectory
from nt_memory.replica.policies import Claim
from nt_memory.system import rights
from nt_memory.system.memory import MemorySystem
from nt_memory.system.rights import Rights, whole_of
from nt_memory.system.timelines import TimelineHandle

_CONSENSUS: dict[str, rights.Claims] = dict.fromkeys(
    (
        "register_agent",
        "submit_proposal",
        "vote",
        "get_result",
        "get_proposal",
        "list_proposals",
        "wait",
        "cleanup_old",
    ),
    rights.free,
)
_BANK: dict[str, rights.Claims] = {
    **dict.fromkeys(
        (
            "define",
            "definition",
            "track_trajectory",
            "track_many",
            "record_outcome",
            "record_outcomes",
            "forget",
            "savings",  # counters
        ),
        rights.free,
    ),
    **dict.fromkeys(
        (
            "calibration",
            "uplift",
            "vote_weights",
            "distill",
            "patterns",
            "advise",
            "trajectories",
            "trajectory_ids",
            "situations",
            "recent",
            "rank",
        ),
        rights.agents,
    ),
    "frame": rights.everything,
}
_MEMORY: dict[str, rights.Claims] = {
    **dict.fromkeys(("get", "get_record", "get_embedding", "peek", "pin", "history"), rights.key),
    **dict.fromkeys(("scan", "watch"), rights.prefix),
    **dict.fromkeys(
        ("search_similar", "search_many", "explain_similar", "map", "usage", "reembed"),
        rights.agents,
    ),
    "agents": rights.free,  # names only
    "tail": rights.everything,
    **dict.fromkeys(("publish", "request"), rights.publishing),
    "subscribe": rights.subscribing,
    **{
        name: rights.operating(name) for name in ("snapshot", "share_snapshot", "export", "compact")
    },
    **dict.fromkeys(
        (
            "put",
            "delete",
            "transaction",
            "observe",
            "observe_many",
            "reply",
            "acquire_lock",
            "renew_lock",
            "release_lock",
            "force_release",
            "inspect_lock",
            "list_locks",
            "lock",
            "set_retention",
            "set_quota",
            "set_policy",
            "retention",
            "quota",
            "policy",
            "wait_for",
            "stats",
            "flush",
            "sync",
            "shared_snapshots",
            "verify_snapshot",
        ),
        rights.free,
    ),
}


@rights.of_agent(Consensus, _CONSENSUS)
class AgentConsensus(Consensus):
    """`Consensus` in an agent's name."""

    def __init__(self, whole: Consensus, claims: Rights, agent: str) -> None:
        self.whole: Consensus = whole
        self.rights: Rights = claims
        self.agent: str = agent


@rights.of_agent(Elections, dict.fromkeys(("campaign", "leader"), rights.free))
class AgentElections(Elections):
    """`Elections` in an agent's name."""

    def __init__(self, whole: Elections, claims: Rights, agent: str) -> None:
        self.whole: Elections = whole
        self.rights: Rights = claims
        self.agent: str = agent


@rights.of_agent(TimelineHandle, {"advance": rights.free})
class AgentTimeline(TimelineHandle):
    """`TimelineHandle` in an agent's name."""

    def __init__(self, whole: TimelineHandle, claims: Rights, agent: str) -> None:
        self.whole: TimelineHandle = whole
        self.rights: Rights = claims
        self.agent: str = agent


@rights.of_agent(ReasoningBank, _BANK)
class AgentBank(ReasoningBank):
    """`ReasoningBank` in an agent's name; what is asked by a trajectory's id is its owner's to tell."""

    def __init__(self, whole: ReasoningBank, claims: Rights, agent: str) -> None:
        self.whole: ReasoningBank = whole
        self.rights: Rights = claims
        self.agent: str = agent

    async def trajectory(self, trajectory_id: str, **options: Any) -> Trajectory | None:
        """See `ReasoningBank.trajectory`."""
        found = await self.whole.trajectory(trajectory_id, **options)
        if found is not None:
            self.rights.claim(whole_of(found.agent_id))
        return found

    async def receipt(self, trajectory_id: str, action: int = 0) -> Any:
        """See `ReasoningBank.receipt`."""
        await self.trajectory(trajectory_id)
        return await self.whole.receipt(trajectory_id, action)

    async def judge(self, trajectory: Trajectory | str) -> Any:
        """See `ReasoningBank.judge`."""
        return (await self.judge_batch((trajectory,)))[0]

    async def judge_batch(self, trajectories: Iterable[Trajectory | str]) -> Any:
        """See `ReasoningBank.judge_batch`."""
        wanted = [one if isinstance(one, str) else one.id for one in trajectories]
        for one in wanted:
            await self.trajectory(one)
        return await self.whole.judge_batch(wanted)


@rights.of_agent(MemorySystem, _MEMORY)
class AgentMemory(MemorySystem):
    """A memory in an agent's name; made by `MemorySystem.as_agent`.

    Attributes:
        agent: Whose name.
        whole: The memory.
        rights: What the agent may do.
    """

    def __init__(self, whole: MemorySystem, agent: str) -> None:
        self.agent: str = check_agent(agent)
        self.whole: MemorySystem = whole
        self._engine = whole._engine  # noqa: SLF001
        claims = Rights(self._engine, agent)
        self.rights: Rights = claims
        self.consensus: Consensus = AgentConsensus(whole.consensus, claims, agent)
        self.elections: Elections = AgentElections(whole.elections, claims, agent)
        self.timeline: TimelineHandle = AgentTimeline(whole.timeline, claims, agent)
        self.bank: ReasoningBank = AgentBank(whole.bank, claims, agent)

    # Views are made over this handle, so that their reads are judged like its own; the bank's calls
    # that the memory offers go through the handle's bank. To a type checker they are inherited.
    if not TYPE_CHECKING:
        at = MemorySystem.at
        track_trajectory = MemorySystem.track_trajectory
        track_many = MemorySystem.track_many
        record_outcome = MemorySystem.record_outcome
        record_outcomes = MemorySystem.record_outcomes

    async def get_many(self, pairs: Iterable[tuple[str, str]]) -> list[Any]:
        """See `MemorySystem.get_many`; refused as a whole."""
        wanted = [(check_agent(agent), check_key(key)) for agent, key in pairs]
        for agent, key in wanted:
            self.rights.claim(Claim("read", f"{agent}/{key}"))
        return await self.whole.get_many(wanted)

    def as_agent(self, agent: str) -> MemorySystem:
        """Another agent's handle, for one that may operate `as_agent/<agent>`."""
        self.rights.claim(Claim("operate", f"as_agent/{check_agent(agent)}"))
        return AgentMemory(self.whole, agent)

    async def close(self) -> None:
        """Nothing: the memory is closed by whoever opened it."""

    def __repr__(self) -> str:
        return f"<{self.whole!r} as {self.agent}>"
