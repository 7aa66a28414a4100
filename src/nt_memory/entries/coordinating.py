"""Entries about locks and ballots."""

from __future__ import annotations

from nt_memory.entries.wire import Wire


class Acquire(Wire, frozen=True, tag="acquire"):
    """Ask for a lock. `ticket` names this attempt; `wait_us` 0 tries once."""

    resource: str
    ticket: str
    holder: str
    session: str
    lease_us: int
    wait_us: int


class Renew(Wire, frozen=True, tag="renew"):
    """Extend a lease that still runs, to `lease_us` from entry time."""

    resource: str
    fence: int
    lease_us: int


class Release(Wire, frozen=True, tag="release"):
    """Give a lock back."""

    resource: str
    fence: int


class Withdraw(Wire, frozen=True, tag="withdraw"):
    """Leave the queue, or give back the grant that won the race."""

    resource: str
    ticket: str


class ForceRelease(Wire, frozen=True, tag="force_release"):
    """An operator takes a lock from whoever holds it.

    Attributes:
        resource: Which.
        fence: Only from the grant with this fence; None: from any.
        reason: For whoever reads the journal.
    """

    resource: str
    fence: int | None = None
    reason: str = ""


class Register(Wire, frozen=True, tag="register"):
    """Make an agent a voter of later proposals. `weight` is an exact fraction, "n/d"."""

    agent: str
    weight: str


class Propose(Wire, frozen=True, tag="propose"):
    """Put a proposal to the electorate as it is now, or to `weights` where given."""

    id: str
    proposer: str
    data: bytes
    quorum: str
    deadline: int | None = None
    weights: tuple[tuple[str, str], ...] | None = None


class CastVote(Wire, frozen=True, tag="vote"):
    """One vote. `weight`, where given, must be the registered one."""

    proposal_id: str
    voter: str
    approve: bool
    weight: str | None = None


class CleanUp(Wire, frozen=True, tag="cleanup"):
    """Forget proposals decided at least `max_age_us` ago."""

    max_age_us: int
