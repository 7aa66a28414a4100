"""What the routes of one server share."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import Depends
from starlette.requests import HTTPConnection, Request

from nt_memory.apps.server.problems import refused
from nt_memory.errors import LockLostError, PermissionDeniedError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from nt_memory import MemorySystem
    from nt_memory.apps.server.callers import Caller, Door
    from nt_memory.apps.server.receipts import Receipts
    from nt_memory.apps.server.settings import ServerSettings
    from nt_memory.apps.server.telemetry import Telemetry
    from nt_memory.coordination.tokens import LockToken
    from nt_memory.embedders import Embedder

MAX_LARGE = 4

_T = TypeVar("_T")


class HeldLocks:
    """The tokens of the locks that were taken through this server, by resource and fence.

    A client cannot hold a token, only its fence; and the memory takes back the lock of a token that
    nobody holds only when its lease ends.
    """

    def __init__(self) -> None:
        self._tokens: dict[tuple[str, int], tuple[LockToken, str]] = {}
        self._prune_at = 64

    def __len__(self) -> int:
        return len(self._tokens)

    def add(self, token: LockToken, caller: Caller) -> None:
        """Keep the token of a grant."""
        self._tokens[token.resource, token.fence] = (token, caller.agent)
        if len(self._tokens) >= self._prune_at:
            self._tokens = {
                name: kept for name, kept in self._tokens.items() if kept[0].lost.left_s > 0.0
            }
            self._prune_at = max(64, 2 * len(self._tokens))

    def get(self, resource: str, fence: int, caller: Caller) -> LockToken:
        """The token of a grant.

        Raises:
            LockLostError: no grant with this fence is held through this server.
            PermissionDeniedError: it is another agent's.
        """
        token, agent = self._tokens.get((resource, fence), (None, ""))
        if token is None:
            raise LockLostError(f"lock {resource!r} is not held with fence {fence} here")
        if caller.agent not in {"", agent}:
            raise PermissionDeniedError(
                f"{caller.agent} does not hold lock {resource!r}",
                agent=caller.agent,
                right="lock",
                target=resource,
            )
        return token

    def drop(self, token: LockToken) -> None:
        """Forget a grant that is over."""
        self._tokens.pop((token.resource, token.fence), None)


@dataclass(slots=True, kw_only=True)
class House:
    """One server's parts.

    Attributes:
        memory: The whole memory.
        settings: Its settings.
        door: Who may come in.
        telemetry: Its metrics.
        embedder: What makes vectors of texts.
        receipts: Signs what advice was given.
        locks: Locks taken through it.
        closing: Set once it stops.
        streams: Open streams, by the agent that opened them.
        large: Held by each large response while it is made and sent.
    """

    memory: MemorySystem
    settings: ServerSettings
    door: Door
    telemetry: Telemetry
    embedder: Embedder[Sequence[str]]
    receipts: Receipts
    locks: HeldLocks = field(default_factory=HeldLocks)
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    streams: dict[str, int] = field(default_factory=dict)
    large: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_LARGE))

    def close(self) -> None:
        """End all streams and all waiting; requests that only have to be answered still are."""
        self.closing.set()


def house_of(connection: HTTPConnection) -> House:
    """The server that a request came to."""
    house: House = connection.app.state.house
    return house


async def _house(connection: HTTPConnection) -> House:
    return house_of(connection)  # async: see `callers._caller`


Here = Annotated[House, Depends(_house)]


async def while_connected(request: Request, house: House, wanted: Coroutine[Any, Any, _T]) -> _T:
    """Wait for something for as long as the client does, and the server stays.

    Raises:
        HTTPException: 503 if the server stops, 499 (which nobody gets) if the client has left.
    """
    task = asyncio.ensure_future(wanted)
    gone = asyncio.ensure_future(_gone(request))
    closing = asyncio.ensure_future(house.closing.wait())
    try:
        await asyncio.wait({task, gone, closing}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if closing.done():
            raise refused(503, "the server is stopping")
        raise refused(499, "the client left")
    finally:
        for one in (task, gone, closing):
            one.cancel()
        # The one that was asked for is waited for: what it gives back, it gives back now.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
