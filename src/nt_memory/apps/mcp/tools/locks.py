"""Tools over locks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from mcp_types import ToolAnnotations
from pydantic import Field
from typing_extensions import override

from nt_memory.apps.mcp.tool import ADDS, READS, SETTLES, Answer, RequestId, Tool

if TYPE_CHECKING:
    from nt_memory.apps.mcp.desk import Turn

MAX_WAIT_S = 600.0

Resource = Annotated[str, Field(description="What is locked, such as book/AAPL.")]
FenceOfGrant = Annotated[int, Field(description="As acquire_lock returned it.")]


class Grant(Answer):
    """A lock that is held."""

    resource: str
    fence: Annotated[int, Field(description="Pass it as `fence` with what the lock protects.")]
    lease_s: float
    lease_left_s: float


class AcquireLock(Tool):
    """Take a lock, waiting in line for it. It ends by itself after lease_s unless it is renewed,
    so renew it before that, release it when done, and pass `fence` with every write it protects."""  # noqa: D205, D209

    called: ClassVar[str] = "acquire_lock"
    title: ClassVar[str] = "Acquire a lock"
    effect: ClassVar[ToolAnnotations] = ADDS
    answers: ClassVar[type[Answer]] = Grant

    resource: Resource
    timeout_s: Annotated[float, Field(ge=0, le=MAX_WAIT_S, description="How long to wait.")] = 10.0
    lease_s: Annotated[float, Field(gt=0, le=86_400, description="How long it lasts.")] = 60.0
    request_id: RequestId = None

    @override
    async def run(self, turn: Turn) -> Grant:
        def describe() -> str:
            info = turn.memory.inspect_lock(self.resource)
            return f"{info.holder or 'nobody'} holds {self.resource}, {len(info.waiters)} wait"

        asked = turn.memory.acquire_lock(
            self.resource,
            self.timeout_s,
            lease=self.lease_s,
            # All calls of an agent are one holder: a lock that it forgot it has is told at once.
            holder=f"{turn.desk.agent or 'mcp'}/mcp",
            request_id=self.request_id,
        )
        token = await turn.wait(asked, self.timeout_s, describe)
        turn.desk.keep_grant(token)
        return Grant(
            resource=token.resource,
            fence=token.fence,
            lease_s=token.lease,
            lease_left_s=token.lost.left_s,
        )


class RenewLock(Tool):
    """Keep a lock for its whole lease from now on."""

    called: ClassVar[str] = "renew_lock"
    title: ClassVar[str] = "Renew a lock"
    effect: ClassVar[ToolAnnotations] = SETTLES
    answers: ClassVar[type[Answer]] = Grant

    resource: Resource
    fence: FenceOfGrant

    @override
    async def run(self, turn: Turn) -> Grant:
        token = turn.desk.grant(self.resource, self.fence)
        await turn.memory.renew_lock(token)
        return Grant(
            resource=token.resource,
            fence=token.fence,
            lease_s=token.lease,
            lease_left_s=token.lost.left_s,
        )


class Released(Answer):
    """A lock that was given back."""

    resource: str
    fence: int


class ReleaseLock(Tool):
    """Give a lock back; whoever waits for it gets it."""

    called: ClassVar[str] = "release_lock"
    title: ClassVar[str] = "Release a lock"
    effect: ClassVar[ToolAnnotations] = SETTLES
    answers: ClassVar[type[Answer]] = Released

    resource: Resource
    fence: FenceOfGrant

    @override
    async def run(self, turn: Turn) -> Released:
        await turn.memory.release_lock(turn.desk.grant(self.resource, self.fence))
        turn.desk.drop_grant(self.resource, self.fence)
        return Released(resource=self.resource, fence=self.fence)


class Held(Answer):
    """One lock."""

    resource: str
    holder: str
    fence: int
    lease_left_s: float
    waiters: list[str]


class Locks(Answer):
    """Locks that somebody holds or waits for."""

    locks: list[Held]


class ListLocks(Tool):
    """Show who holds which lock, for how long still, and who waits for it."""

    called: ClassVar[str] = "list_locks"
    title: ClassVar[str] = "List locks"
    effect: ClassVar[ToolAnnotations] = READS
    answers: ClassVar[type[Answer]] = Locks

    resource: Annotated[str | None, Field(description="Only this one.")] = None

    @override
    async def run(self, turn: Turn) -> Locks:
        memory = turn.memory
        one = self.resource
        found = memory.list_locks() if one is None else [memory.inspect_lock(one)]
        return Locks(
            locks=[
                Held(
                    resource=info.resource,
                    holder=info.holder,
                    fence=info.fence,
                    lease_left_s=info.lease_left,
                    waiters=list(info.waiters),
                )
                for info in found
            ]
        )


TOOLS: tuple[type[Tool], ...] = (AcquireLock, RenewLock, ReleaseLock, ListLocks)
