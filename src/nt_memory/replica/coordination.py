"""Locks and ballots as the replica holds them, and what one entry would change about them.

The rules are in `nt_memory.coordination`; this module keeps their states, finds what is due, and
holds an entry's changes back until the entry is accepted (`Draft`). Locks are few and asked for on
every fenced write, so they are mirrored in memory; proposals are read from the views.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from nt_memory.coordination import ballot_rules, lock_rules
from nt_memory.coordination.ballot_states import ElectorateState, ProposalState
from nt_memory.coordination.lock_states import LockState
from nt_memory.entries import (
    Acquire,
    CastVote,
    CleanUp,
    ForceRelease,
    Propose,
    Register,
    Release,
    Renew,
    Withdraw,
)
from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from nt_memory.coordination.ballot_states import BallotRuling
    from nt_memory.coordination.lock_states import Ruling
    from nt_memory.entries import Body, Fence, LockCommand
    from nt_memory.replica.follow import Follow
    from nt_memory.replica.writes import Now
    from nt_memory.tiers.views import Snapshot, WriteBatch

ELECTORATE_KEY = b"electorate"
MAX_KEY_BYTES = 511  # of LMDB
_decode_lock = msgspec.msgpack.Decoder(LockState).decode
_decode_electorate = msgspec.msgpack.Decoder(ElectorateState).decode
_decode_proposal = msgspec.msgpack.Decoder(ProposalState).decode
_encode = msgspec.msgpack.Encoder().encode


class DueTimes:
    """When each of some states is due next, with a lower bound that is cheap to ask.

    Extending a lease leaves the bound too low; it is made exact when it is reached.
    """

    def __init__(self) -> None:
        self._due: dict[str, int] = {}
        self.bound: int | None = None

    def set(self, name: str, due: int | None) -> None:
        """A state is due at `due`; None: never."""
        if due is None:
            self._due.pop(name, None)
            return
        self._due[name] = due
        self.bound = due if self.bound is None else min(self.bound, due)

    def by(self, now_us: int) -> list[str]:
        """Names due by `now_us`, in order of name."""
        if self.bound is None or self.bound > now_us:
            return []
        self.bound = min(self._due.values(), default=None)
        return sorted(name for name, due in self._due.items() if due <= now_us)


class Coordination:
    """The states in force."""

    def __init__(self) -> None:
        self.locks: dict[str, LockState] = {}
        self.electorate: ElectorateState | None = None
        self.lock_due: DueTimes = DueTimes()
        self.ballot_due: DueTimes = DueTimes()

    def load(self, views: Snapshot) -> None:
        """Read the states from the views."""
        for _, data in views.items(b"locks"):
            state = _decode_lock(data)
            self.locks[state.resource] = state
            self.lock_due.set(state.resource, lock_rules.due_us(state))
        registered = views.get(b"electorate", ELECTORATE_KEY)
        self.electorate = None if registered is None else _decode_electorate(registered)
        for _, data in views.items(b"proposals"):
            proposal = _decode_proposal(data)
            self.ballot_due.set(proposal.id, ballot_rules.due_us(proposal))

    def next_lapse_us(self, *, is_backtest: bool) -> int | None:
        """From when, in entry time, a tick may have something to do; None: never."""
        dues = [self.lock_due.bound]
        if not is_backtest:
            dues.append(self.ballot_due.bound)
        return min((due for due in dues if due is not None), default=None)

    def draft(self, views: Snapshot, now: Now) -> Draft:
        """Start on an entry: what ran out by its time has ended in the draft."""
        draft = Draft(self, views, now)
        if self.lock_due.bound is not None:
            draft.lapse_locks()
        if self.ballot_due.bound is not None and now.timeline_us is not None:
            draft.lapse_ballots(now.timeline_us)
        return draft

    def commit(self, draft: Draft, batch: WriteBatch, follow: Follow) -> None:
        """The entry was accepted."""
        if not draft.has_changes:
            return
        for resource, lock in draft.locks.items():
            key = resource.encode()
            if lock is None:
                self.locks.pop(resource, None)
                self.lock_due.set(resource, None)
                batch.delete(b"locks", key)
            else:
                self.locks[resource] = lock
                self.lock_due.set(resource, lock_rules.due_us(lock))
                batch.put(b"locks", key, _encode(lock))
        if draft.electorate is not None:
            self.electorate = draft.electorate
            batch.put(b"electorate", ELECTORATE_KEY, _encode(draft.electorate))
        for proposal_id, proposal in draft.proposals.items():
            key = proposal_id.encode()
            if proposal is None:
                self.ballot_due.set(proposal_id, None)
                batch.delete(b"proposals", key)
            else:
                self.ballot_due.set(proposal_id, ballot_rules.due_us(proposal))
                batch.put(b"proposals", key, _encode(proposal))
        follow.lock_events.extend(draft.lock_events)
        follow.ballot_events.extend(draft.ballot_events)


class Draft:
    """What one entry would change; nothing happens before `Coordination.commit`."""

    __slots__ = (
        "_now",
        "_states",
        "_views",
        "ballot_events",
        "electorate",
        "lock_events",
        "locks",
        "proposals",
    )

    def __init__(self, states: Coordination, views: Snapshot, now: Now) -> None:
        self._states = states
        self._views = views
        self._now = now
        self.locks: dict[str, LockState | None] = {}
        self.proposals: dict[str, ProposalState | None] = {}
        self.electorate: ElectorateState | None = None
        self.lock_events: list[Any] = []
        self.ballot_events: list[Any] = []

    @property
    def has_changes(self) -> bool:
        """Whether anything would change."""
        return bool(self.locks or self.proposals or self.electorate is not None)

    def lapse_locks(self) -> None:
        """End the leases that ran out and grant who waits."""
        now = self._now
        for resource in self._states.lock_due.by(now.recorded_at):
            ruling = lock_rules.lapse(
                self._states.locks[resource], now_us=now.recorded_at, revision=now.revision
            )
            if ruling is not None:
                self._take_lock(resource, ruling)

    def lapse_ballots(self, now_us: int) -> None:
        """Reject the proposals whose deadline was reached."""
        for proposal_id in self._states.ballot_due.by(now_us):
            proposal = self._proposal(proposal_id)
            if proposal is None:
                continue
            ruling = ballot_rules.lapse(proposal, now_us=now_us, revision=self._now.revision)
            if ruling is not None:
                self._take_ballot(proposal_id, ruling)

    def end_sessions(self, *, keep: str) -> None:
        """End the locks and waits of every other session."""
        now = self._now
        for resource in sorted(self._states.locks):
            state = self.lock(resource)
            if state is None:
                continue
            ruling = lock_rules.end_sessions(
                state, keep=keep, now_us=now.recorded_at, revision=now.revision
            )
            if ruling is not None:
                self._take_lock(resource, ruling)

    def is_current(self, fence: Fence) -> bool:
        """Whether a fence's grant is in force at entry time."""
        resources = [fence.resource] if fence.resource else list(self._states.locks)
        return any(
            lock_rules.is_current(self.lock(resource), fence.number, self._now.recorded_at)
            for resource in resources
        )

    def decide(self, body: Body, actor: str = "") -> Any:
        """Carry out a lock or ballot command that `actor` submitted, in the draft; its result.

        Raises:
            NtMemoryError: the command is refused.
        """
        match body:
            case Acquire() | Renew() | Release() | Withdraw() | ForceRelease():
                return self._decide_lock(body, actor)
            case Register():
                return self._register(body)
            case Propose():
                return self._propose(body)
            case CastVote():
                return self._vote(body)
            case CleanUp():
                return self._clean_up(body)
            case _:
                raise InvalidInputError(f"unknown command {type(body).__name__}")

    # --- commands ------------------------------------------------------------------------------

    def _decide_lock(self, command: LockCommand, actor: str) -> Any:
        state = self.lock(command.resource)
        ruling = lock_rules.decide(
            command,
            state,
            now_us=self._now.recorded_at,
            revision=self._now.revision,
            actor=actor,
        )
        if ruling.state != state or ruling.events:
            self._take_lock(command.resource, ruling)
        return ruling.result

    def _register(self, command: Register) -> Any:
        ruling = ballot_rules.register(
            command,
            self._states.electorate,
            now_us=self._now.timeline_us,
            revision=self._now.revision,
        )
        self.electorate = ruling.state
        return ruling.result

    def _propose(self, command: Propose) -> Any:
        ruling = ballot_rules.propose(
            command,
            self._proposal(command.id),
            self._states.electorate,
            now_us=self._now.timeline_us,
            revision=self._now.revision,
        )
        self._take_ballot(command.id, ruling)
        return ruling.result

    def _vote(self, command: CastVote) -> Any:
        ruling = ballot_rules.vote(
            command,
            self._proposal(command.proposal_id),
            now_us=self._now.timeline_us,
            revision=self._now.revision,
        )
        self._take_ballot(command.proposal_id, ruling)
        return ruling.result

    def _clean_up(self, command: CleanUp) -> int:
        removed = 0
        for _, data in self._views.items(b"proposals"):
            # As it was before this entry: what the entry's own time has just decided can be read after it.
            proposal = _decode_proposal(data)
            if ballot_rules.is_removable(proposal, command, now_us=self._now.timeline_us):
                self.proposals[proposal.id] = None
                removed += 1
        return removed

    # --- states -------------------------------------------------------------------------------

    def lock(self, resource: str) -> LockState | None:
        """A lock, as the entry leaves it so far."""
        if resource in self.locks:
            return self.locks[resource]
        return self._states.locks.get(resource)

    def _take_lock(self, resource: str, ruling: Ruling) -> None:
        self.locks[resource] = ruling.state
        self.lock_events.extend(ruling.events)

    def _proposal(self, proposal_id: str) -> ProposalState | None:
        if proposal_id in self.proposals:
            return self.proposals[proposal_id]
        key = proposal_id.encode("utf-8", "surrogatepass")
        data = self._views.get(b"proposals", key) if 0 < len(key) <= MAX_KEY_BYTES else None
        return None if data is None else _decode_proposal(data)

    def _take_ballot(self, proposal_id: str, ruling: BallotRuling) -> None:
        if ruling.state is not None:
            self.proposals[proposal_id] = ruling.state
        self.ballot_events.extend(ruling.events)
