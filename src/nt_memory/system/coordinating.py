"""Coordination: locks, messages and votes, as calls of `MemorySystem`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Literal

    from nt_memory.coordination.consensus import Consensus
    from nt_memory.coordination.lock_scope import LockScope
    from nt_memory.coordination.locks import Locks
    from nt_memory.coordination.pubsub import PubSub, Receiver
    from nt_memory.coordination.tokens import LockToken
    from nt_memory.system.engine import Engine


class CoordinationCalls:
    """The calls of section Coordination; `MemorySystem` inherits them."""

    _engine: Engine
    _locks: Locks
    _pubsub: PubSub
    consensus: Consensus

    async def publish(self, topic: str, message: Any) -> int:
        """Send a message to all who subscribe to its topic now; ephemeral.

        Args:
            topic: Levels separated by `/`, no wildcards.
            message: Any supported value; subscribers get it read-only.

        Returns:
            How many subscriptions here it reached.

        Raises:
            InvalidNameError: a malformed topic.
            CodecError: the message cannot be encoded.
        """
        self._engine.check_usable()
        return await self._pubsub.publish(topic, message)

    async def subscribe(
        self,
        pattern: str,
        *,
        buffer: int = 1024,
        overflow: Literal["drop_oldest", "error"] = "drop_oldest",
    ) -> Receiver:
        """Receive what is published from now on under a pattern.

        Args:
            pattern: A topic; `*` stands for one level, a final `**` for the rest.
            buffer: Messages kept for a slow reader, >= 1.
            overflow: What happens when the buffer is full: "drop_oldest" counts what it drops in
                `rx.dropped`; "error" makes `recv` raise `BufferOverflowError`.

        Raises:
            InvalidNameError: a malformed pattern.
            InvalidInputError: a malformed buffer or overflow.
        """
        self._engine.check_usable()
        return await self._pubsub.subscribe(pattern, buffer=buffer, overflow=overflow)

    async def acquire_lock(
        self, resource: str, timeout: float = 1.0, *, lease: float = 30.0, holder: str = ""
    ) -> LockToken:
        """Take a lock, waiting in line for it; see `Locks.acquire`."""
        self._engine.check_usable()
        return await self._locks.acquire(resource, timeout, lease=lease, holder=holder)

    async def renew_lock(self, token: LockToken) -> None:
        """Extend a lease that still runs; see `Locks.renew`."""
        self._engine.check_usable()
        await self._locks.renew(token)

    async def release_lock(self, token: LockToken) -> None:
        """Give a lock back; see `Locks.release`."""
        self._engine.check_usable()
        await self._locks.release(token)

    def lock(
        self,
        resource: str,
        *,
        timeout: float = 1.0,
        lease: float = 30.0,
        holder: str = "",
        cancel_on_loss: bool = False,
    ) -> LockScope:
        """Hold a lock for a block, renewed by itself: `async with memory.lock(…) as token:`."""
        self._engine.check_usable()
        return self._locks.lock(
            resource, timeout=timeout, lease=lease, holder=holder, cancel_on_loss=cancel_on_loss
        )
