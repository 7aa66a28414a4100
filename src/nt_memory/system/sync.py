"""The memory without await, for scripts and notebooks: `MemorySystem.open_sync`.

There is no second API here: every class below has the public names of the one it mirrors. Their
types, for editors and checkers, are in `sync.pyi`, which `make fmt` writes from the same sources.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from nt_memory.coordination.consensus import Consensus
from nt_memory.coordination.elections import Campaign, Elections, Term
from nt_memory.coordination.lock_scope import LockScope
from nt_memory.coordination.receivers import Receiver
from nt_memory.coordination.tokens import LockToken, LossSignal
from nt_memory.reasoningbank import ReasoningBank
from nt_memory.system.agents import AgentMemory
from nt_memory.system.memory import MemorySystem
from nt_memory.system.mirroring import Iteration, Mirror, mirror
from nt_memory.system.portal import Portal
from nt_memory.system.timelines import TimelineHandle
from nt_memory.system.transaction import Transaction
from nt_memory.system.view import MemoryView
from nt_memory.system.watching import Tail, Watch

if TYPE_CHECKING:
    import os
    from contextlib import AbstractContextManager

    from nt_memory.clock import Clock
    from nt_memory.config import MemoryConfig

__all__ = [
    "Iteration",
    "SyncBank",
    "SyncCampaign",
    "SyncConsensus",
    "SyncElections",
    "SyncLockScope",
    "SyncLockToken",
    "SyncLossSignal",
    "SyncMemory",
    "SyncReceiver",
    "SyncTail",
    "SyncTerm",
    "SyncTimeline",
    "SyncTransaction",
    "SyncView",
    "SyncWatch",
    "open_sync",
]


@mirror(ReasoningBank, leave_out=frozenset({"follow", "situations"}))
class SyncBank(Mirror):
    """`ReasoningBank`, without await."""

    __slots__ = ()


@mirror(Consensus, leave_out=frozenset({"close", "follow"}))
class SyncConsensus(Mirror):
    """`Consensus`, without await."""

    __slots__ = ()


@mirror(TimelineHandle)
class SyncTimeline(Mirror):
    """The agents' now, and the way to move a backtest's, without await."""

    __slots__ = ()


@mirror(MemoryView, attributes=("as_of",))
class SyncView(Mirror):
    """`MemoryView`, without await."""

    __slots__ = ()


@mirror(
    Receiver,
    attributes=("pattern", "dropped"),
    leave_out=frozenset({"accept", "attach", "end"}),
    regret=Receiver.close,
)
class SyncReceiver(Mirror):
    """`Receiver`, read with `recv`, `recv_message` or `for`."""

    __slots__ = ()


@mirror(Watch, attributes=("revision",))
class SyncWatch(Mirror):
    """A plain iterator of `Change`; waits for the next."""

    __slots__ = ()


@mirror(Tail, attributes=("revision",))
class SyncTail(Mirror):
    """A plain iterator of `JournalEntry`; waits for the next."""

    __slots__ = ()


@mirror(Transaction, attributes=("revision",))
class SyncTransaction(Mirror):
    """`Transaction`, used by `with`."""

    __slots__ = ()


@mirror(LockScope)
class SyncLockScope(Mirror):
    """`LockScope`, used by `with`; renewed on the memory's own thread, whatever the block does.

    `cancel_on_loss` cannot stop a block of plain code: it raises `LockLostError` where it ends.
    """

    __slots__ = ()


@mirror(LossSignal, leave_out=frozenset({"end", "extend"}))
class SyncLossSignal(Mirror):
    """`LossSignal`, without await."""

    __slots__ = ()


@mirror(LockToken, attributes=("resource", "holder", "fence", "lease", "lost"))
class SyncLockToken(Mirror):
    """`LockToken`; every call that takes one takes this."""

    __slots__ = ()


@mirror(
    Term,
    attributes=("resource", "holder", "fence", "lease", "lost"),
    leave_out=frozenset({"locks", "name", "run"}),
)
class SyncTerm(Mirror):
    """`Term`; every call that takes a lock token takes this."""

    __slots__ = ()


@mirror(Campaign)
class SyncCampaign(Mirror):
    """`Campaign`, as a plain iterator; use it by `with`, so that leaving the loop resigns."""

    __slots__ = ()


@mirror(Elections)
class SyncElections(Mirror):
    """`Elections`, without await."""

    __slots__ = ()


@mirror(
    MemorySystem,
    attributes=("bank", "consensus", "elections", "timeline"),
    leave_out=frozenset({"open", "open_sync"}),
)
class SyncMemory(Mirror):
    """`MemorySystem` on an event loop of its own, called from plain threads, without await.

    Any thread may call; a call blocks it until the result is there. Pins need no call: `.value` is
    one attribute read, on any thread, of what was visible last.
    """

    __slots__ = ()

    def deadline(self, seconds: float) -> AbstractContextManager[None]:
        """`with memory.deadline(2.0):` calls of this thread end by then, or raise `TimeoutError`.

        A call that times out is cancelled: withdrawn, or it has happened all the same.
        """
        return self._portal.deadline(seconds)

    def close(self) -> None:
        """Finish what was submitted, release the directory, end the thread. Idempotent."""
        self._portal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@mirror(
    AgentMemory,
    attributes=("bank", "consensus", "elections", "timeline"),
    leave_out=frozenset({"agent", "open", "open_sync", "rights", "whole"}),
)
class SyncAgentMemory(SyncMemory):
    """`MemorySystem.as_agent`, without await. Closing it closes nothing."""

    __slots__ = ()

    def close(self) -> None:
        """Nothing: the memory goes on."""


def open_sync(
    target: MemoryConfig | str | os.PathLike[str] | None = None,
    *,
    clock: Clock | None = None,
    read_only: bool = False,
) -> SyncMemory:
    """See `MemorySystem.open_sync`."""
    portal = Portal()

    async def opening() -> MemorySystem:
        return await MemorySystem.open(target, clock=clock, read_only=read_only)

    try:
        return SyncMemory(portal, portal.open(opening))
    except BaseException:
        portal.close()
        raise
