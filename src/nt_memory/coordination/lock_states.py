"""What the views keep of a lock, and what the rules say about it: values without behaviour."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

LockEventKind = Literal["granted", "released", "lost", "withdrawn", "refused"]
LockReplyKind = Literal[
    "granted", "queued", "renewed", "released", "withdrawn", "given_back", "forced", "absent"
]


class _Wire(msgspec.Struct, frozen=True, array_like=True, gc=False):
    pass


class Waiter(_Wire, frozen=True):
    """One place in the queue. `wait_until` is entry time, exclusive; `actor` is who asked."""

    ticket: str
    holder: str
    session: str
    lease_us: int
    wait_until: int
    actor: str = ""


class Grant(_Wire, frozen=True):
    """Who holds the lock. It ends when entry time reaches `lease_until`; `actor` is who asked."""

    ticket: str
    holder: str
    session: str
    fence: int
    granted_at: int
    lease_until: int
    actor: str = ""


class LockState(_Wire, frozen=True):
    """All there is to know of one lock.

    Attributes:
        resource: Its name.
        fence: Fence of the latest grant, also when that one is over.
        grant: Who holds it, or None.
        waiters: Who waits, in order of arrival.
        overtaken: Tickets withdrawn before their acquire came, and until when to remember them.
    """

    resource: str
    fence: int = 0
    grant: Grant | None = None
    waiters: tuple[Waiter, ...] = ()
    overtaken: tuple[tuple[str, int], ...] = ()


class LockEvent(NamedTuple):
    """Something that handles want to know.

    `kind`: "granted" (now holds), "released" (gave it back), "lost" (lease ran out, session
    ended or an operator took it while holding), "withdrawn" (left the queue), "refused" (its wait ran out, or its session
    ended while waiting). `fence` and `lease_until` are 0 for those who never held.
    """

    kind: LockEventKind
    resource: str
    ticket: str
    holder: str
    session: str
    fence: int = 0
    lease_until: int = 0


def granted_event(resource: str, grant: Grant) -> LockEvent:
    """The event that announced a grant."""
    return LockEvent(
        "granted",
        resource,
        grant.ticket,
        grant.holder,
        grant.session,
        grant.fence,
        grant.lease_until,
    )


class LockReply(_Wire, frozen=True):
    """What a lock command returns to its caller; survives a trip through msgpack.

    Attributes:
        kind: What became of the command: "granted", "queued", "renewed", "released", "withdrawn",
            "given_back" (a withdrawal found its ticket holding), "forced" (taken from its holder)
            or "absent" (found nothing).
        entered_at: Entry time of the command.
        fence: Fence of the caller's grant; 0 if it has none.
        holder: Who holds the lock after the command; empty if nobody.
        lease_until: When that holder's lease ends; 0 if there is none.
    """

    kind: LockReplyKind
    entered_at: int
    fence: int = 0
    holder: str = ""
    lease_until: int = 0


class Ruling(NamedTuple):
    """A decision: the state to store (None: forget it), the caller's result, what to announce."""

    state: LockState | None
    result: Any
    events: tuple[LockEvent, ...]
