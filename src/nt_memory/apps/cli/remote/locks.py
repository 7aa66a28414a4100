"""A lock that is held on a server for as long as a block runs, and renewed by itself.

The server ends a grant with its lease, whatever this process believes. So what is believed here ends no
later: the lease is counted from before the request that began or renewed it was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

from nt_memory.apps.cli.exits import UnreachableError
from nt_memory.apps.cli.printing import note
from nt_memory.apps.cli.remote.reading import read
from nt_memory.clock import SystemClock
from nt_memory.coordination.tokens import LockToken, LossSignal
from nt_memory.errors import InvalidInputError, LockLostError, LockTimeoutError, NtMemoryError
from nt_memory.namespace import check_label

if TYPE_CHECKING:
    from types import TracebackType

    from nt_memory.apps.cli.remote.client import Client

MAX_WAIT_S = 60.0
"""What a server waits for a lock at most; whoever waits longer asks again, behind those in line."""
MAX_LEASE_S = 3_600.0
_RENEWALS = 3
_TRY_AGAIN_S = 0.2


class RemoteScope:
    """What `async with memory.lock(…)` enters; used once."""

    def __init__(
        self, client: Client, resource: str, timeout: float, lease: float, holder: str
    ) -> None:
        if not 0 < lease <= MAX_LEASE_S:
            raise InvalidInputError(
                f"over a server a lease is above 0 and at most {MAX_LEASE_S:g} s, not {lease!r}"
            )
        self._client = client
        self._clock = SystemClock()
        self._resource = check_label(resource, "resource")
        self._timeout, self._lease, self._holder = timeout, lease, holder
        self._token: LockToken | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> LockToken:
        """Take the lock and begin to renew it.

        Raises:
            LockTimeoutError: it was not granted in time.
        """
        sent_ns = self._clock.monotonic_ns()
        grant = await self._acquire()
        if (self._clock.monotonic_ns() - sent_ns) / 1e9 > self._lease / _RENEWALS:
            # How long ago it was granted is not known: from here on it is.
            sent_ns = self._clock.monotonic_ns()
            grant = await self._ask("renew", grant.fence)
        lost = LossSignal(self._clock, sent_ns + round(grant.lease * 1e9))
        token = LockToken(grant.resource, grant.holder, grant.fence, grant.lease, lost)
        self._token = token
        self._keeper = asyncio.ensure_future(self._keep_renewed(token))
        return token

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop renewing and give the lock back; unheard, it ends with its lease."""
        token, keeper = self._token, self._keeper
        if token is None or keeper is None:
            return
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeper
        if token.lost.is_set():
            return
        token.lost.end(is_lost=False)
        try:
            await self._ask("release", token.fence)
        except LockLostError:
            pass
        except UnreachableError as away:
            note(f"nt-memory: lock {self._resource!r} ends with its lease: {away}")

    async def _acquire(self) -> _Grant:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        while True:
            waits = min(max(deadline - loop.time(), 0.0), MAX_WAIT_S)
            body: dict[str, Any] = {
                "resource": self._resource,
                "timeout": waits,
                "lease": self._lease,
                "holder": self._holder,
            }
            try:
                answer = await self._client.ask("POST", "/locks/acquire", body, waits=waits)
            except LockTimeoutError:
                if loop.time() >= deadline:
                    raise
            else:
                return read(answer, _Grant)

    async def _keep_renewed(self, token: LockToken) -> None:
        pause_s = token.lease / _RENEWALS
        while not token.lost.is_set():
            await self._clock.sleep(pause_s)
            sent_ns = self._clock.monotonic_ns()
            try:
                await self._ask("renew", token.fence)
            except UnreachableError:
                pause_s = min(_TRY_AGAIN_S, token.lease / _RENEWALS)  # until the lease has run out
            except NtMemoryError:
                token.lost.end(is_lost=True)
            else:
                token.lost.extend(sent_ns + round(token.lease * 1e9))
                pause_s = token.lease / _RENEWALS

    async def _ask(self, what: str, fence: int) -> _Grant:
        body = {"resource": self._resource, "fence": fence}
        answer = await self._client.ask("POST", f"/locks/{what}", body)
        if what == "release":
            return _Grant(self._resource, "", 0, 0.0)
        return read(answer, _Grant)


class _Grant(msgspec.Struct):
    resource: str
    holder: str
    fence: int
    lease: float
