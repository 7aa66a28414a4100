"""Lock handles: they send lock entries, wait for the entry that grants, and watch the lease.

*Guarantees*

- One holder at a time, first come first served, as judged by entry time (see `lock_rules`).
- `token.lost` is set no later than the lease ends: it is counted on local monotonic time from
  before the acquire, or the renewal, was sent. Once set it stays set.
- A timeout or a cancellation leaves nothing behind: the place in the queue is withdrawn, and a
  grant that won the race is given back.
- `async with` renews at a third of the lease and stops when the block ends.

*Does not guarantee* that the holder is running. A lease cannot stop a paused process:

    holder A                     the journal                      holder B
    acquire  ------------------> r7: A holds, fence 7
    (paused: swap, debugger,                                      acquire: queued
     long computation)           A's lease runs out
                                 r8: B holds, fence 8 ----------> works, put(fence=8) -> r9
    wakes up, has not looked
    at its watch, put(fence=7) -> StaleFenceError: refused
    put(...) without a fence ---> r10: accepted, over B's work

So pass the token as `fence` with every write that the lock protects. For effects outside the
memory, send `token.fence` along and let the other side refuse smaller numbers than it has seen.

Locks are not re-entrant. A holder is by default the session and the current task.

Source: Burrows 2006 (Chubby); Kleppmann 2016, "How to do distributed locking", for the fence.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import weakref
from typing import TYPE_CHECKING, Any

import msgspec

from nt_memory.acting import actor
from nt_memory.coordination.errands import Errands
from nt_memory.coordination.holders import Holders
from nt_memory.coordination.lock_line import REQUESTED, Line
from nt_memory.coordination.lock_scope import LockScope
from nt_memory.coordination.lock_states import LockReply
from nt_memory.coordination.tokens import (
    LockInfo,
    LockToken,
    info_of,
    to_lease_us,
)
from nt_memory.entries import Acquire, ForceRelease, Release, Renew
from nt_memory.entries.requests import own_id
from nt_memory.errors import LockLostError, NtMemoryError, again
from nt_memory.namespace import check_label

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from nt_memory.clock import Clock
    from nt_memory.coordination.lock_states import LockEvent, LockState
    from nt_memory.entries import Body

    Submit = Callable[[Body, str | None], Awaitable[Any]]


class Locks:
    """The lock calls of one memory.

    Args:
        submit: Sends an entry's body under a request id, if any; returns its ruling's result once
            that is visible here, or raises the rejection.
        read: The state of a lock as visible here.
        clock: For timeouts and leases.
        session: Name of this opening of the memory.
    """

    def __init__(
        self,
        submit: Submit,
        read: Callable[[str], LockState | None],
        clock: Clock,
        session: str,
    ) -> None:
        self._submit = submit
        self._read = read
        self._clock = clock
        self._session = session
        self._tickets = itertools.count(1)
        self._holders = Holders(session)
        self._tokens: weakref.WeakValueDictionary[tuple[str, int], LockToken] = (
            weakref.WeakValueDictionary()
        )
        self._requested: weakref.WeakValueDictionary[str, LockToken] = weakref.WeakValueDictionary()
        self._errands = Errands()
        self._line = Line(submit, read, clock, self._errands)
        self._closed: NtMemoryError | None = None

    async def acquire(
        self,
        resource: str,
        timeout: float = 1.0,
        *,
        lease: float = 30.0,
        holder: str = "",
        request_id: str | None = None,
    ) -> LockToken:
        """Take a lock, waiting in line for it.

        Args:
            resource: Any name of 1 to 128 printable characters; need not exist.
            timeout: Seconds to wait at most; 0 tries once.
            lease: Seconds after which it is lost unless renewed, counted from the grant.
            holder: Who asks; by default the session and the current task.
            request_id: Repeated, it returns the grant of the first request, renewed, or takes up
                its place in the queue; it never becomes a second one.

        Raises:
            LockTimeoutError: not granted in time; the message names the holder and the lease left.
            ReentrantLockError: this holder holds it, or waits for it, already.
            LockLostError: the lease ran out before the grant was seen here; or what the first
                request with this id got is over.
            InvalidInputError: a malformed name, timeout or lease.

        Cost: one entry; two if it times out; one more with a `request_id`, which confirms.
        """
        resource = check_label(resource, "lock resource")
        wait_us = to_lease_us(timeout, "timeout", minimum=0)
        lease_us = to_lease_us(lease, "lease", minimum=1)
        holder = check_label(holder, "lock holder") if holder else self._holders.name()
        self._check_open()
        sent_ns = self._clock.monotonic_ns()
        await self._errands.done(resource)
        ticket = self._ticket(resource, request_id)
        held = self._requested.get(ticket)
        if held is not None and held.lost.left_s > 0.0:
            return held
        command = Acquire(resource, ticket, holder, self._session, lease_us, wait_us)
        token = await self._line.join(command, timeout, sent_ns)
        self._tokens[token.resource, token.fence] = token
        if request_id is not None:
            self._requested[ticket] = token
        return token

    def _ticket(self, resource: str, request_id: str | None) -> str:
        if request_id is None:
            return f"{self._session}.{next(self._tickets)}"
        check_label(request_id, "request_id")
        named = f"{actor() or ''}\0{request_id}\0{resource}".encode()
        return f"{REQUESTED}{hashlib.blake2b(named, digest_size=16).hexdigest()}"

    async def renew(self, token: LockToken) -> None:
        """Extend the lease to `token.lease` seconds from now.

        Raises:
            LockLostError: the lease has run out, or the lock was released; it stays lost.

        Cost: one entry.
        """
        self._check_open()
        if token.lost.left_s == 0.0:
            raise LockLostError(f"lock {token.resource!r} is not held any more: {token!r}")
        sent_ns = self._clock.monotonic_ns()
        command = Renew(token.resource, token.fence, round(token.lease * 1_000_000))
        try:
            reply = msgspec.convert(await self._submit(command, None), LockReply)
        except LockLostError:
            token.lost.end(is_lost=True)
            raise
        deadline_ns = sent_ns + (reply.lease_until - reply.entered_at) * 1000
        if not token.lost.extend(deadline_ns):
            # The holder may have been told already, so the renewed lease is given back.
            release = Release(token.resource, token.fence)
            self._errands.run(token.resource, self._submit(release, None))
            raise LockLostError(
                f"lock {token.resource!r}: the lease ran out while it was being renewed"
            )

    async def release(self, token: LockToken, *, request_id: str | None = None) -> None:
        """Give the lock back; the next in line gets it. Goes through even if cancelled.

        Args:
            token: What `acquire` returned.
            request_id: Repeated, it is no error that the lock was given back.

        Raises:
            LockLostError: the token is stale: lost, or released already. Nothing changes.

        Cost: one entry.
        """
        self._check_open()
        await asyncio.shield(self._errands.run(token.resource, self._release(token, request_id)))

    async def _release(self, token: LockToken, request_id: str | None) -> None:
        try:
            await self._submit(Release(token.resource, token.fence), request_id)
        except LockLostError:
            token.lost.end(is_lost=True)
            raise
        token.lost.end(is_lost=False)

    async def force_release(
        self,
        resource: str,
        *,
        fence: int | None = None,
        reason: str = "",
        request_id: str | None = None,
    ) -> bool:
        """Take a lock from whoever holds it, for an operator; the next in line gets it.

        The holder's fence is stale from then on and its `token.lost` is set. The entry says who did
        it and why.

        Args:
            resource: Which.
            fence: Only from the grant with this fence, as `inspect` showed it; None: from any.
            reason: At most 256 printable characters.
            request_id: A repeated id acts once.

        Returns:
            Whether a grant was ended.

        Raises:
            InvalidInputError: a malformed name or reason.

        Cost: one entry.
        """
        resource = check_label(resource, "lock resource")
        self._check_open()
        command = ForceRelease(resource, fence, reason)
        # A duplicate without an id would take the lock from whoever was next.
        request = own_id(self._ticket(resource, None)) if request_id is None else request_id
        reply = msgspec.convert(await self._submit(command, request), LockReply)
        return reply.kind == "forced"

    def lock(
        self,
        resource: str,
        *,
        timeout: float = 1.0,
        lease: float = 30.0,
        holder: str = "",
        cancel_on_loss: bool = False,
    ) -> LockScope:
        """`async with locks.lock("rebalance") as token:` holds the lock for the block.

        It renews by itself at a third of the lease. If the lease is lost all the same (the loop was
        blocked, the store does not answer), `token.lost` is set; the block goes on unless
        `cancel_on_loss`, which cancels it and raises `LockLostError` from the `async with`.
        Arguments and errors otherwise as for `acquire`.
        """
        return LockScope(
            self, self._clock, (resource, timeout, lease, holder), cancel_on_loss=cancel_on_loss
        )

    def inspect(self, resource: str) -> LockInfo:
        """Who holds the lock and who waits for it, as visible here; plain function, no entry."""
        self._check_open()
        state = self._read(check_label(resource, "lock resource"))
        return LockInfo(resource) if state is None else info_of(state, self._clock.now_us())

    @property
    def held(self) -> int:
        """Locks held through this memory by tokens that are still referenced."""
        return sum(token.lost.left_s > 0.0 for token in self._tokens.values())

    def follow(self, events: Iterable[LockEvent]) -> None:
        """What became visible: wake who was granted or refused, tell who lost."""
        for event in events:
            if event.kind in {"granted", "refused", "withdrawn"}:
                self._line.tell(event)
            elif event.kind == "lost":
                token = self._tokens.get((event.resource, event.fence))
                if token is not None:
                    token.lost.end(is_lost=True)

    def close(self, error: NtMemoryError) -> None:
        """Make every waiter and every later call raise `error`; set `lost` of tokens still held."""
        self._closed = error
        self._line.close(error)
        for token in list(self._tokens.values()):
            token.lost.end(is_lost=True)

    async def settle(self) -> None:
        """Wait until what was sent on behalf of cancelled callers is done. Before `close`."""
        await self._errands.settle()

    def _check_open(self) -> None:
        if self._closed is not None:
            raise again(self._closed)
