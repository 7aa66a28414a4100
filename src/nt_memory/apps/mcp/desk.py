"""What the door keeps for an agent between its calls: grants, mailboxes and advice.

The protocol's own sessions do not serve for it: newer hosts have none. So it belongs to the agent, whom
all connections in its name share, and is bounded.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict, deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from nt_memory.apps.mcp.tool import Tool
from nt_memory.embedders import aembed
from nt_memory.errors import InvalidInputError, LockLostError, NtMemoryError, ReceiveTimeoutError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from nt_memory import Advice, LockToken, MemorySystem
    from nt_memory.clock import Clock
    from nt_memory.coordination.receivers import Message, Receiver
    from nt_memory.embedders import Embedder

    Report = Callable[[float, float | None, str], Awaitable[None]]

_T = TypeVar("_T")

MAX_MAILBOXES = 16
MAILBOX_MESSAGES = 1_024
MAX_ADVICES = 256
PROGRESS_S = 1.0


class Mailbox:
    """A subscription that is read call by call.

    Args:
        receiver: The subscription.
    """

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self._taken: deque[Message] = deque()
        self._told_dropped = 0

    async def read(self, limit: int, wait_s: float) -> tuple[list[Message], int]:
        """The next messages, and how many were lost before them since the last call.

        Waits for the first only. A call that is cancelled loses none.
        """
        if not self._taken:
            with suppress(ReceiveTimeoutError):
                self._taken.append(await self.receiver.recv_message(wait_s))
        with suppress(ReceiveTimeoutError):
            while len(self._taken) < limit:
                self._taken.append(await self.receiver.recv_message(0.0))
        # From here to the return nothing waits, so nobody is interrupted.
        found = [self._taken.popleft() for _ in range(min(limit, len(self._taken)))]
        dropped = self.receiver.dropped - self._told_dropped
        self._told_dropped = self.receiver.dropped
        return found, dropped


class Desk:
    """What is kept for one agent.

    Args:
        memory: The memory, in the agent's name if it has one.
        agent: Whose; "" for connections in nobody's name.
    """

    def __init__(self, memory: MemorySystem, agent: str) -> None:
        self.memory = memory
        self.agent = agent
        self._grants: dict[tuple[str, int], LockToken] = {}
        self._mailboxes: dict[str, Mailbox] = {}
        self._advices: OrderedDict[str, Advice] = OrderedDict()

    def keep_grant(self, token: LockToken) -> None:
        """Remember a grant, and forget those that are over."""
        self._grants = {k: v for k, v in self._grants.items() if v.lost.left_s > 0.0}
        self._grants[token.resource, token.fence] = token

    def grant(self, resource: str, fence: int) -> LockToken:
        """The grant that a fence names.

        Raises:
            LockLostError: there is none, or it is over.
        """
        token = self._grants.get((resource, fence))
        if token is None or token.lost.left_s <= 0.0:
            self.drop_grant(resource, fence)
            raise LockLostError(f"lock {resource!r} is not held under fence {fence}")
        return token

    def drop_grant(self, resource: str, fence: int) -> None:
        """Forget a grant."""
        self._grants.pop((resource, fence), None)

    async def mailbox(self, pattern: str) -> tuple[Mailbox, bool]:
        """The mailbox of a pattern, and whether it was opened now.

        Raises:
            InvalidInputError: there are too many.
        """
        found = self._mailboxes.get(pattern)
        if found is not None:
            return found, False
        if len(self._mailboxes) >= MAX_MAILBOXES:
            raise InvalidInputError(
                f"at most {MAX_MAILBOXES} patterns can be read; close one with then_close: "
                + ", ".join(self._mailboxes)
            )
        receiver = await self.memory.subscribe(pattern, buffer=MAILBOX_MESSAGES)
        found = self._mailboxes.get(pattern)
        if found is not None:  # another call was first
            await receiver.close()
            return found, False
        self._mailboxes[pattern] = Mailbox(receiver)
        return self._mailboxes[pattern], True

    async def close_mailbox(self, pattern: str) -> None:
        """Stop a subscription; what is in it is forgotten."""
        found = self._mailboxes.pop(pattern, None)
        if found is not None:
            await found.receiver.close()

    def keep_advice(self, advice: Advice) -> str:
        """Remember an advice, so that a decision can say that it acted on it; its id."""
        advice_id = uuid.uuid4().hex[:12]
        self._advices[advice_id] = advice
        if len(self._advices) > MAX_ADVICES:
            self._advices.popitem(last=False)
        return advice_id

    def advice(self, advice_id: str) -> Advice:
        """A remembered advice.

        Raises:
            InvalidInputError: it is not remembered.
        """
        found = self._advices.get(advice_id)
        if found is None:
            raise InvalidInputError(
                f"advice {advice_id!r} is not known here any more: ask advise again, or leave it out"
            )
        return found

    async def close(self) -> None:
        """Give back what is held."""
        for token in self._grants.values():
            if token.lost.left_s > 0.0:
                with suppress(NtMemoryError):
                    await self.memory.release_lock(token)
        self._grants.clear()
        for pattern in list(self._mailboxes):
            await self.close_mailbox(pattern)


@dataclass(frozen=True)
class Turn:
    """One call of an agent.

    Attributes:
        desk: The agent's.
        embedder: Turns texts into vectors; None: there is none.
        clock: For waits.
        report: Tells the host how far it is: done, of how much, and in words.
    """

    desk: Desk
    embedder: Embedder[Sequence[str]] | None
    clock: Clock
    report: Report

    @property
    def memory(self) -> MemorySystem:
        """The memory, in the agent's name if it has one."""
        return self.desk.memory

    def whose(self, agent: str | None) -> str:
        """The agent that is meant: the one named, or who calls.

        Raises:
            InvalidInputError: neither is known.
        """
        name = agent or self.desk.agent
        if not name:
            raise InvalidInputError("say which agent: this connection acts in no agent's name")
        return name

    async def vector(
        self, tool: Tool, text: str | None, embedding: list[float] | None
    ) -> NDArray[np.floating[Any]] | list[float]:
        """The vector that is meant by a text or by numbers.

        Raises:
            InvalidInputError: not exactly one is given, or there is no embedder.
        """
        tool.check_one(text=text, embedding=embedding)
        if embedding is not None:
            return embedding
        if self.embedder is None:
            raise InvalidInputError("this server embeds no texts: give `embedding`")
        found: NDArray[np.floating[Any]] = (await aembed(self.embedder, [text or ""]))[0]
        return found

    async def wait(
        self, waited_for: Awaitable[_T], timeout_s: float, describe: Callable[[], str]
    ) -> _T:
        """Wait, and tell the host once a second that it is still waited.

        Args:
            waited_for: What ends by itself after `timeout_s`.
            timeout_s: Seconds.
            describe: What is waited for, as things are.
        """
        teller = asyncio.ensure_future(self._tell(timeout_s, describe))
        teller.add_done_callback(_look_at)  # a host that is gone needs no telling
        try:
            return await waited_for
        finally:
            teller.cancel()

    async def _tell(self, timeout_s: float, describe: Callable[[], str]) -> None:
        began = self.clock.monotonic_ns()
        while True:
            waited_s = (self.clock.monotonic_ns() - began) / 1e9
            await self.report(min(waited_s, timeout_s), timeout_s, describe())
            await self.clock.sleep(PROGRESS_S)


def _look_at(task: asyncio.Future[None]) -> None:
    if not task.cancelled():
        task.exception()
