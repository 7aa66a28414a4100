"""Leader election: whoever holds an election's lock leads, for a term that is the lock's fence.

*Guarantees*

- One leader at a time as judged by entry time, and terms that grow, as of locks (see `lock_rules`).
- A candidate that loses its term is told, by `term.lost`; its loop then campaigns again.
- A loop that ends, by `break`, an error or cancellation, resigns: the next in line leads.

*Does not guarantee* that a leader that was paused knows it leads no more (see `locks`): what it writes
with `fence=term` is refused, and what it does elsewhere has to carry `term.fence`.

Source: Burrows 2006, section 4.1 (primaries elected through a lock service); the term as the fence
is that of Raft (Ongaro & Ousterhout 2014, section 5.1) with one vote, the journal's.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from nt_memory.acting import ActingAs, actor
from nt_memory.coordination.tokens import LockToken
from nt_memory.errors import LockLostError, LockTimeoutError, NtMemoryError
from nt_memory.namespace import check_label

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from nt_memory.coordination.lock_scope import LockScope
    from nt_memory.coordination.locks import Locks

ELECTION = "election/"
"""An election is the lock of this name; `inspect_lock` and `force_release` work on it as on any."""

_PATIENCE_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads.

    Attributes:
        candidate: Its name.
        term: Grows with each change of leader.
        lease_left: Seconds until it has to have renewed.
    """

    candidate: str
    term: int
    lease_left: float


@dataclass(frozen=True, slots=True, eq=False)
class Term(LockToken):
    """One term of office; a lock token, so it is itself what writes pass as `fence`.

    Attributes:
        locks: For `resign`.
        name: In whose name.
    """

    locks: Locks = field(repr=False)
    name: str | None = field(repr=False)

    async def resign(self) -> None:
        """Step down; the next in line leads. The loop goes on by campaigning again.

        Raises:
            LockLostError: the term was over already.
        """
        with ActingAs(self.name):
            await self.locks.release(self)

    async def run(self, work: Coroutine[Any, Any, Any]) -> bool:
        """Do something for as long as the term lasts.

        Args:
            work: A coroutine; cancelled if the term is lost or resigned, and waited for then. Not
                begun if it is already.

        Returns:
            True if it came to its end, False if it was cut short.

        Raises:
            Exception: what it raised.
        """
        if self.lost.left_s == 0.0:
            work.close()
            return False
        doing = asyncio.ensure_future(work)
        telling = asyncio.ensure_future(self.lost.wait())
        try:
            await asyncio.wait({doing, telling}, return_when=asyncio.FIRST_COMPLETED)
            is_cut_short = not doing.done()
        finally:
            telling.cancel()
            if not doing.done():
                doing.cancel()
                await asyncio.wait({doing})
        if is_cut_short and doing.cancelled():
            return False
        doing.result()
        return True


class Campaign:
    """Terms as they are won: `async for term in memory.elections.campaign("coordinator"):`."""

    def __init__(self, stand: Callable[[], AsyncGenerator[Term, None]]) -> None:
        self._stand = stand
        self._terms = stand()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Term:
        """Give up the term before, if it lasts; wait until the next is won.

        Cancelled, by a timeout say, the candidate leaves the line; asked again, it stands again.

        Raises:
            ClosedError: the memory was closed.
        """
        try:
            return await anext(self._terms)
        except asyncio.CancelledError:
            # Of the wait, not of the campaign; but a generator has ended with it.
            self._terms = self._stand()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Resign and stop. A loop that is left does so by itself, within a turn of the loop."""
        await self._terms.aclose()


class Elections:
    """The election calls of one memory.

    Args:
        locks: Its locks.
    """

    def __init__(self, locks: Locks) -> None:
        self._locks = locks

    def campaign(self, name: str, *, lease: float = 10.0, candidate: str = "") -> Campaign:
        """Stand for election, again and again.

        The block of the loop is one term, held by renewing it at a third of the lease. Where the
        block ends while the term lasts, the term is given up, and the candidate goes to the end of
        the line. Where the term is lost, `term.lost` is set and the block goes on until it ends;
        `await term.run(work())` cuts it short.

        Args:
            name: Of the election.
            lease: Seconds after which a leader that stopped renewing is replaced.
            candidate: Who stands; by default the session and the current task.

        Raises:
            InvalidNameError: a malformed name. From the loop:
            ReentrantLockError: this candidate stands already.
            InvalidInputError: a malformed lease.
            PermissionDeniedError: the agent may not lock `election/<name>`.

        Cost: an entry a term and one a renewal.
        """
        resource = _resource(name)
        return Campaign(partial(self._campaign, resource, lease, candidate, actor()))

    def leader(self, name: str) -> Leader | None:
        """Who leads as visible here, or None; a plain function, no entry."""
        info = self._locks.inspect(_resource(name))
        if not info.holder:
            return None
        return Leader(info.holder, info.fence, info.lease_left)

    async def _campaign(
        self, resource: str, lease: float, candidate: str, name: str | None
    ) -> AsyncGenerator[Term, None]:
        while True:
            with ActingAs(name):
                scope = self._locks.lock(
                    resource, timeout=_PATIENCE_S, lease=lease, holder=candidate
                )
            token = await _win(scope)
            if token is None:
                continue
            try:
                yield Term(
                    token.resource,
                    token.holder,
                    token.fence,
                    token.lease,
                    token.lost,
                    self._locks,
                    name,
                )
            except GeneratorExit:
                # The loop was left. Nobody is there to be told that it cannot be given back: then
                # the memory is closed, or the lease ends it.
                with contextlib.suppress(NtMemoryError):
                    await scope.__aexit__(None, None, None)
                raise
            await scope.__aexit__(None, None, None)


async def _win(scope: LockScope) -> LockToken | None:
    """The grant; None if there was none, so that another attempt is due."""
    try:
        return await scope.__aenter__()
    except (LockTimeoutError, LockLostError):
        return None


def _resource(name: str) -> str:
    return check_label(f"{ELECTION}{check_label(name, 'election')}", "election")
