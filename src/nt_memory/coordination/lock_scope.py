"""`async with` over a lock: take it, keep it renewed, give it back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from nt_memory.acting import ActingAs, actor
from nt_memory.errors import InvalidInputError, LockLostError, NtMemoryError, PermissionDeniedError

if TYPE_CHECKING:
    from types import TracebackType

    from nt_memory.clock import Clock
    from nt_memory.coordination.locks import Locks
    from nt_memory.coordination.tokens import LockToken

_RENEWALS_PER_LEASE = 3


class LockScope:
    """What `async with locks.lock(...)` enters; used once."""

    def __init__(
        self,
        locks: Locks,
        clock: Clock,
        request: tuple[str, float, float, str],
        *,
        cancel_on_loss: bool,
    ) -> None:
        self._locks = locks
        self._clock = clock
        self._request = request
        self._cancel_on_loss = cancel_on_loss
        self._actor = actor()
        self._token: LockToken | None = None
        self._keepers: list[asyncio.Task[None]] = []
        self._was_cancelled = False
        self._cancelling = 0

    async def __aenter__(self) -> LockToken:
        """Take the lock and begin to renew it. Raises like `Locks.acquire`."""
        if self._token is not None:
            raise InvalidInputError("a lock scope is used once: call lock() again")
        resource, timeout, lease, holder = self._request
        loop = asyncio.get_running_loop()
        with ActingAs(self._actor):
            token = await self._locks.acquire(resource, timeout, lease=lease, holder=holder)
            self._keepers.append(loop.create_task(self._keep_renewed(token)))
        self._token = token
        body = asyncio.current_task()
        if self._cancel_on_loss and body is not None:
            self._cancelling = body.cancelling()
            self._keepers.append(loop.create_task(self._cancel_body(token, body)))
        return token

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop renewing and give the lock back.

        Raises:
            LockLostError: the block was cancelled because the lease was lost.
        """
        token = self._token
        if token is None:  # pragma: no cover - __aenter__ raised
            return
        for keeper in self._keepers:
            keeper.cancel()
        is_ours = self._take_back_cancellation()
        try:
            await self._give_back(token)
        except asyncio.CancelledError:
            # Ours, if it was not delivered before the block ended; the release goes on all the same.
            if not is_ours:
                raise
        except NtMemoryError:
            # What the block raised says more than a failed release.
            if error is None:
                raise
        if is_ours and kind in {None, asyncio.CancelledError}:
            raise LockLostError(
                f"lock {token.resource!r} was lost, and the block was cancelled"
            ) from error

    def _take_back_cancellation(self) -> bool:
        """Whether the block was cancelled by the loss and by nothing else (as in asyncio.timeout)."""
        body = asyncio.current_task()
        if not self._was_cancelled or body is None:
            return False
        return body.uncancel() <= self._cancelling

    async def _give_back(self, token: LockToken) -> None:
        try:
            with ActingAs(self._actor):
                await self._locks.release(token)
        except LockLostError:
            # The block was told through `token.lost`, and fenced writes were refused.
            return

    async def _keep_renewed(self, token: LockToken) -> None:
        while not token.lost.is_set():
            await self._clock.sleep(token.lease / _RENEWALS_PER_LEASE)
            try:
                await self._locks.renew(token)
            except (LockLostError, PermissionDeniedError):
                return  # a right that was taken back ends with the lease
            except NtMemoryError:
                # Perhaps the next attempt succeeds while the lease still runs.
                continue

    async def _cancel_body(self, token: LockToken, body: asyncio.Task[Any]) -> None:
        if await token.lost.wait():
            self._was_cancelled = True
            body.cancel()
