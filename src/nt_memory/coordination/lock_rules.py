"""The rules of locks: who holds, who waits, and what an entry changes about it. Pure functions.

A lock is a lease with a queue. Every entry that names a lock first ends what ran out by its own
time, then does what it says, then grants the head of the queue if the lock is free. Time is entry
time and comes in as an argument; nothing here reads a clock, so every node that folds the same
entries names the same holder.

*Guarantees*

- One holder at a time, first come first served among those still waiting.
- The fence of a grant is the revision of the entry that made it, so it grows with every grant of a
  lock; one entry makes at most one grant per lock.
- Whoever withdrew, or whose wait ran out, is not granted the lock afterwards. A withdrawal that
  overtakes its own acquire is remembered for `OVERTAKEN_US`.

*Does not guarantee*: that a holder has noticed that its lease ran out; see `locks`.

Source: leases after Gray & Cheriton 1989; the queue and the sequencer (here: fence) after Burrows
2006, section 2.4 (Chubby). Unlike Chubby's sequencers, fences are checked by the store itself.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from nt_memory.coordination.lock_states import (
    Grant,
    LockEvent,
    LockEventKind,
    LockReply,
    LockReplyKind,
    LockState,
    Ruling,
    Waiter,
)
from nt_memory.entries import Acquire, ForceRelease, LockCommand, Release, Renew, Withdraw
from nt_memory.errors import (
    InvalidInputError,
    LockLostError,
    LockTimeoutError,
    ReentrantLockError,
)
from nt_memory.namespace import check_label

MAX_LEASE_US = 366 * 24 * 3600 * 1_000_000
MAX_WAIT_US = MAX_LEASE_US
MAX_WAITERS = 10_000
OVERTAKEN_US = 120_000_000
MAX_REASON_CHARS = 256


def decide(
    command: LockCommand, state: LockState | None, *, now_us: int, revision: int, actor: str = ""
) -> Ruling:
    """What `command` does to the lock it names.

    Calling `lapse` first is harmless but not needed: what ran out by `now_us` ends here too.

    Args:
        command: Acquire, Renew, Release, Withdraw or ForceRelease.
        state: The lock as stored; None if nothing is.
        now_us: Entry time.
        revision: The revision the entry takes if it is accepted; the fence of a grant.
        actor: Who submitted the entry; noted with a grant.

    Returns:
        The ruling; its result is a `LockReply`.

    Raises:
        InvalidInputError: a malformed name, lease, wait or reason.
        LockTimeoutError: an acquire that does not wait, and somebody holds it or waits for it; or
            `MAX_WAITERS` wait already.
        ReentrantLockError: the holder holds the lock, or waits for it, under another ticket.
        LockLostError: renew or release of a fence that is not current.
    """
    resource = check_label(command.resource, "lock resource")
    table = _Table(state or LockState(resource), now_us, revision)
    table.end_overdue()
    match command:
        case Acquire():
            return _acquire(table, command, actor)
        case Renew():
            return _renew(table, command)
        case Release():
            return _release(table, command)
        case Withdraw():
            return _withdraw(table, command)
        case ForceRelease():
            return _force_release(table, command)
        case _ as unreachable:  # pragma: no cover
            assert_never(unreachable)


def lapse(state: LockState, *, now_us: int, revision: int) -> Ruling | None:
    """End a lease that ran out by `now_us` and grant the next waiter; None if nothing is due."""
    if due_us(state) > now_us:
        return None
    table = _Table(state, now_us, revision)
    table.end_overdue()
    table.grant_next()
    return table.ruling(None)


def due_us(state: LockState) -> int:
    """Entry time from which `lapse` has something to do.

    A waiter whose wait ran out is not due by itself: it is skipped when its turn comes, and its
    own handle withdraws it.
    """
    if state.grant is not None:
        return state.grant.lease_until
    if state.waiters:
        # Freed by the very entry that had granted it: the next grant needs an entry of its own.
        return 0
    return max((until for _, until in state.overtaken), default=0)


def end_sessions(state: LockState, *, keep: str, now_us: int, revision: int) -> Ruling | None:
    """End the grants and waits of every session but `keep`; None if there are none."""
    grant = state.grant
    is_clean = (grant is None or grant.session == keep) and all(
        waiter.session == keep for waiter in state.waiters
    )
    if is_clean:
        return None
    table = _Table(state, now_us, revision)
    table.end_overdue()
    if table.grant is not None and table.grant.session != keep:
        table.free("lost")
    for waiter in [waiter for waiter in table.waiters if waiter.session != keep]:
        table.drop(waiter, "refused")
    table.grant_next()
    return table.ruling(None)


def is_current(state: LockState | None, fence: int, now_us: int) -> bool:
    """Whether `fence` belongs to the present grant and its lease still runs at `now_us`."""
    if state is None or state.grant is None:
        return False
    return state.grant.fence == fence and now_us < state.grant.lease_until


class _Table:
    """One lock while an entry is worked on it."""

    def __init__(self, state: LockState, now_us: int, revision: int) -> None:
        self.resource = state.resource
        self.fence = state.fence
        self.grant = state.grant
        self.waiters = list(state.waiters)
        self.overtaken = list(state.overtaken)
        self.now_us = now_us
        self.revision = revision
        self.events: list[LockEvent] = []

    def end_overdue(self) -> None:
        """End the lease, the waits and the memories that ran out."""
        if self.grant is not None and self.grant.lease_until <= self.now_us:
            self.free("lost")
        for waiter in [waiter for waiter in self.waiters if waiter.wait_until <= self.now_us]:
            self.drop(waiter, "refused")
        self.overtaken = [entry for entry in self.overtaken if entry[1] > self.now_us]

    def free(self, kind: LockEventKind) -> None:
        grant = self.grant
        if grant is None:
            return
        self.grant = None
        self.events.append(
            LockEvent(
                kind,
                self.resource,
                grant.ticket,
                grant.holder,
                grant.session,
                grant.fence,
                grant.lease_until,
            )
        )

    def drop(self, waiter: Waiter, kind: LockEventKind) -> None:
        self.waiters.remove(waiter)
        self.events.append(
            LockEvent(kind, self.resource, waiter.ticket, waiter.holder, waiter.session)
        )

    def grant_next(self) -> None:
        """Grant the head of the queue if the lock is free.

        A second grant at one revision would repeat the fence, so it is left to the next entry.
        """
        if self.grant is not None or not self.waiters or self.fence >= self.revision:
            return
        head = self.waiters.pop(0)
        self.fence = self.revision
        self.grant = Grant(
            head.ticket,
            head.holder,
            head.session,
            self.revision,
            self.now_us,
            self.now_us + head.lease_us,
            head.actor,
        )
        self.events.append(
            LockEvent(
                "granted",
                self.resource,
                head.ticket,
                head.holder,
                head.session,
                self.fence,
                self.grant.lease_until,
            )
        )

    def reply(self, kind: LockReplyKind, fence: int = 0) -> LockReply:
        if self.grant is None:
            return LockReply(kind, self.now_us, fence)
        return LockReply(kind, self.now_us, fence, self.grant.holder, self.grant.lease_until)

    def ruling(self, result: LockReply | None) -> Ruling:
        # A fence equal to this revision is kept with the state, so that nothing else in the same
        # entry can repeat it; a later revision is greater than any fence that is forgotten.
        is_empty = not (self.grant or self.waiters or self.overtaken)
        if is_empty and self.fence < self.revision:
            return Ruling(None, result, tuple(self.events))
        state = LockState(
            self.resource, self.fence, self.grant, tuple(self.waiters), tuple(self.overtaken)
        )
        return Ruling(state, result, tuple(self.events))

    def describe(self) -> str:
        """Who is in the way, for messages."""
        if self.grant is None:
            return "it is free, and others wait for it" if self.waiters else "it is free"
        left_s = (self.grant.lease_until - self.now_us) / 1_000_000
        return f"held by {self.grant.holder!r}, lease left {left_s:.3f} s"


def _acquire(table: _Table, command: Acquire, actor: str) -> Ruling:
    _check_acquire(command)
    grant = table.grant
    if grant is not None and grant.ticket == command.ticket:
        return table.ruling(table.reply("granted", grant.fence))
    if any(waiter.ticket == command.ticket for waiter in table.waiters):
        table.grant_next()
        return _outcome(table, command)
    if any(ticket == command.ticket for ticket, _ in table.overtaken):
        table.grant_next()
        return table.ruling(table.reply("withdrawn"))
    _check_reentrancy(table, command)
    if len(table.waiters) >= MAX_WAITERS:
        raise LockTimeoutError(
            f"lock {command.resource!r}: {MAX_WAITERS} wait already; {table.describe()}"
        )
    table.waiters.append(
        Waiter(
            command.ticket,
            command.holder,
            command.session,
            command.lease_us,
            # A try that does not wait is in the queue only while this entry is worked on.
            table.now_us + max(command.wait_us, 1),
            actor,
        )
    )
    table.grant_next()
    return _outcome(table, command)


def _outcome(table: _Table, command: Acquire) -> Ruling:
    grant = table.grant
    if grant is not None and grant.ticket == command.ticket:
        return table.ruling(table.reply("granted", grant.fence))
    if command.wait_us == 0:
        raise LockTimeoutError(
            f"lock {command.resource!r} was not granted at once: {table.describe()}"
        )
    return table.ruling(table.reply("queued"))


def _check_acquire(command: Acquire) -> None:
    check_label(command.ticket, "lock ticket")
    check_label(command.holder, "lock holder")
    check_label(command.session, "session")
    if not 0 < command.lease_us <= MAX_LEASE_US:
        raise InvalidInputError(
            f"lease must be over 0 and at most {MAX_LEASE_US} us, not {command.lease_us} us"
        )
    if not 0 <= command.wait_us <= MAX_WAIT_US:
        raise InvalidInputError(
            f"wait must be between 0 and {MAX_WAIT_US} us, not {command.wait_us} us"
        )


def _check_reentrancy(table: _Table, command: Acquire) -> None:
    if table.grant is not None and table.grant.holder == command.holder:
        raise ReentrantLockError(
            f"{command.holder!r} already holds lock {command.resource!r}; locks are not re-entrant"
        )
    if any(waiter.holder == command.holder for waiter in table.waiters):
        raise ReentrantLockError(f"{command.holder!r} already waits for lock {command.resource!r}")


def _renew(table: _Table, command: Renew) -> Ruling:
    if not 0 < command.lease_us <= MAX_LEASE_US:
        raise InvalidInputError(
            f"lease must be over 0 and at most {MAX_LEASE_US} us, not {command.lease_us} us"
        )
    grant = _current(table, command.fence, "renewed")
    # Never shortened: another renewal may already have told its caller of a later end.
    lease_until = max(grant.lease_until, table.now_us + command.lease_us)
    table.grant = msgspec.structs.replace(grant, lease_until=lease_until)
    return table.ruling(table.reply("renewed", grant.fence))


def _release(table: _Table, command: Release) -> Ruling:
    grant = _current(table, command.fence, "released")
    table.free("released")
    table.grant_next()
    return table.ruling(table.reply("released", grant.fence))


def _current(table: _Table, fence: int, deed: str) -> Grant:
    if table.grant is None or table.grant.fence != fence:
        raise LockLostError(
            f"lock {table.resource!r} cannot be {deed}: fence {fence} is no longer current "
            f"({table.describe()})"
        )
    return table.grant


def _force_release(table: _Table, command: ForceRelease) -> Ruling:
    if len(command.reason) > MAX_REASON_CHARS or not command.reason.isprintable():
        raise InvalidInputError(f"reason must be at most {MAX_REASON_CHARS} printable characters")
    grant = table.grant
    # A grant that the end of a lease made by this very entry is not what it was sent against.
    is_new = grant is not None and grant.fence == table.revision
    if grant is None or is_new or command.fence not in {None, grant.fence}:
        table.grant_next()
        return table.ruling(table.reply("absent"))
    table.free("lost")
    table.grant_next()
    return table.ruling(table.reply("forced", grant.fence))


def _withdraw(table: _Table, command: Withdraw) -> Ruling:
    check_label(command.ticket, "lock ticket")
    kind: LockReplyKind = "absent"
    fence = 0
    if table.grant is not None and table.grant.ticket == command.ticket:
        kind, fence = "given_back", table.grant.fence
        table.free("released")
    for waiter in [waiter for waiter in table.waiters if waiter.ticket == command.ticket]:
        kind = "withdrawn"
        table.drop(waiter, "withdrawn")
    has_ended = kind != "absent" or any(event.ticket == command.ticket for event in table.events)
    if not has_ended and all(ticket != command.ticket for ticket, _ in table.overtaken):
        table.overtaken.append((command.ticket, table.now_us + OVERTAKEN_US))
    table.grant_next()
    return table.ruling(table.reply(kind, fence))
