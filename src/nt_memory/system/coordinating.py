"""Coordination: locks, messages and votes, as calls of `MemorySystem`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from nt_memory.coordination.lock_states import LockState
from nt_memory.coordination.tokens import info_of

if TYPE_CHECKING:
    from typing import Literal

    from nt_memory.coordination.consensus import Consensus
    from nt_memory.coordination.elections import Elections
    from nt_memory.coordination.lock_scope import LockScope
    from nt_memory.coordination.locks import Locks
    from nt_memory.coordination.pubsub import PubSub
    from nt_memory.coordination.receivers import Message, Receiver
    from nt_memory.coordination.tokens import LockInfo, LockToken
    from nt_memory.system.engine import Engine


class CoordinationCalls:
    """The calls of section Coordination; `MemorySystem` inherits them."""

    _engine: Engine
    _locks: Locks
    _pubsub: PubSub
    consensus: Consensus
    elections: Elections

    async def publish(self, topic: str, message: Any) -> int:
        """Send a message to all who subscribe to its topic now; ephemeral.

        Args:
            topic: Levels separated by `/`, no wildcards.
            message: Any supported value; subscribers get it read-only.

        Returns:
            How many subscriptions here it reached.

        Raises:
            InvalidNameError: a malformed topic.
            CodecError: the message cannot be encoded. A message to nobody is not looked at.
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

    async def request(self, topic: str, message: Any, timeout: float | None = 1.0) -> Any:
        """Publish a message and wait for the first reply to it.

        Whoever is subscribed to the topic gets it with `recv_message` and answers with `reply`.

        Args:
            topic: Levels separated by `/`, no wildcards.
            message: Any supported value.
            timeout: Seconds to wait at most; None: without end.

        Returns:
            The reply's value, read-only.

        Raises:
            NoResponderError: nobody is subscribed to the topic; raised at once.
            RequestTimeoutError: nobody replied in time; somebody may have acted all the same.
            InvalidNameError: a malformed topic.
            CodecError: the message cannot be encoded.
        """
        self._engine.check_usable()
        return await self._pubsub.request(topic, message, timeout)

    async def reply(self, message: Message, value: Any) -> None:
        """Answer a request; of several replies the first counts, and one too late is dropped.

        Args:
            message: What `recv_message` returned.
            value: Any supported value.

        Raises:
            InvalidInputError: the message asks for no reply.
            CodecError: the value cannot be encoded.
        """
        self._engine.check_usable()
        await self._pubsub.reply(message, value)

    async def acquire_lock(
        self,
        resource: str,
        timeout: float = 1.0,
        *,
        lease: float = 30.0,
        holder: str = "",
        request_id: str | None = None,
    ) -> LockToken:
        """Take a lock, waiting in line for it; see `Locks.acquire`."""
        self._engine.check_usable()
        return await self._locks.acquire(
            resource, timeout, lease=lease, holder=holder, request_id=request_id
        )

    async def renew_lock(self, token: LockToken) -> None:
        """Extend a lease that still runs; see `Locks.renew`."""
        self._engine.check_usable()
        await self._locks.renew(token)

    async def release_lock(self, token: LockToken, *, request_id: str | None = None) -> None:
        """Give a lock back; see `Locks.release`."""
        self._engine.check_usable()
        await self._locks.release(token, request_id=request_id)

    async def force_release(
        self,
        resource: str,
        *,
        fence: int | None = None,
        reason: str = "",
        request_id: str | None = None,
    ) -> bool:
        """Take a lock from whoever holds it, for an operator; see `Locks.force_release`.

        `tail` reports it, with who did it and why.
        """
        self._engine.check_usable()
        return await self._locks.force_release(
            resource, fence=fence, reason=reason, request_id=request_id
        )

    def inspect_lock(self, resource: str) -> LockInfo:
        """Who holds a lock, its fence, the lease left, and who waits in line; no entry.

        Raises:
            InvalidNameError: a malformed resource.
        """
        self._engine.check_usable()
        return self._locks.inspect(resource)

    def list_locks(self) -> list[LockInfo]:
        """All locks that somebody holds or waits for, by name; as visible here, no entry."""
        self._engine.check_usable()
        states = (
            msgspec.msgpack.decode(data, type=LockState)
            for _, data in self._engine.snapshot.items(b"locks")
        )
        now_us = self._engine.clock.now_us()
        found = (info_of(state, now_us) for state in states)
        return [info for info in found if info.holder or info.waiters]

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
