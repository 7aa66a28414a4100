"""A replica in memory for tests of coordination: entries in, rulings and events out.

It folds lock and ballot entries through the real rules, in order, and can hold them back and
repeat them, as a slow disk or a retrying network would.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from nt_memory.coordination import ballot_rules, lock_rules
from nt_memory.entries import (
    Acquire,
    Body,
    CastVote,
    CleanUp,
    ForceRelease,
    Propose,
    Register,
    Release,
    Renew,
    StartSession,
    Tick,
    Withdraw,
)
from nt_memory.errors import NtMemoryError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from nt_memory.clock import Clock
    from nt_memory.coordination.ballot_states import (
        BallotEvent,
        BallotRuling,
        ElectorateState,
        ProposalState,
    )
    from nt_memory.coordination.lock_states import LockEvent, LockState, Ruling


@dataclass(slots=True)
class _Pending:
    body: Body
    request_id: str | None
    done: asyncio.Future[Any]
    is_repeat: bool = False


@dataclass(slots=True)
class _Follow:
    locks: list[LockEvent] = field(default_factory=list["LockEvent"])
    ballots: list[BallotEvent] = field(default_factory=list["BallotEvent"])


class FakeReplica:
    """Applies coordination entries, one a revision, and tells handles what became visible.

    Results pass through msgpack, as remembered ones do, so that handles cannot rely on their type.

    Args:
        clock: Entry time, and the timeline's now.
        repeat: Apply every entry a second time, under its request id, right before the next one.

    Attributes:
        is_holding: While True, submissions wait for `apply_next` or `apply_all`.
        revision: Accepted entries.
        history: Bodies in the order they were applied, repeats and refused ones included.
        follow_locks: Called with each entry's lock events.
        follow_ballots: Called with each entry's ballot events.
    """

    def __init__(self, clock: Clock, *, repeat: bool = False) -> None:
        self._clock = clock
        self._repeat = repeat
        self._queue: deque[_Pending] = deque()
        self._late: _Pending | None = None
        self._remembered: dict[str, Any] = {}
        self.is_holding = False
        self.revision: int = 0
        self.history: list[Body] = []
        self.locks: dict[str, LockState] = {}
        self.electorate: ElectorateState | None = None
        self.ballots: dict[str, ProposalState] = {}
        self.follow_locks: Callable[[Sequence[LockEvent]], None] = lambda _: None
        self.follow_ballots: Callable[[Sequence[BallotEvent]], None] = lambda _: None

    async def submit(self, body: Body, request_id: str | None = None) -> Any:
        """Apply an entry and return its result, or raise its rejection.

        A cancelled call does not take the entry back.
        """
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.append(_Pending(body, request_id, done))
        if not self.is_holding:
            # Never within the call: a real entry becomes visible in a later turn of the loop.
            asyncio.get_running_loop().call_soon(self.apply_all)
        return await done

    @property
    def held(self) -> int:
        """Entries that wait to be applied."""
        return len(self._queue)

    def apply_all(self) -> None:
        """Apply everything that waits."""
        while self._queue:
            self.apply_next()

    def apply_next(self) -> None:
        """Apply the entry that has waited longest."""
        if self._repeat and self._late is not None:
            late, self._late = self._late, None
            self._apply(late)
        pending = self._queue.popleft()
        self._apply(pending)
        self._late = _Pending(pending.body, pending.request_id, pending.done, is_repeat=True)

    def tick(self) -> None:
        """Apply a `Tick`, as the memory does when something is due."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._apply(_Pending(Tick(), None, done))

    def start_session(self, session: str) -> None:
        """Apply a `StartSession`."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._apply(_Pending(StartSession(session), None, done))

    def read_lock(self, resource: str) -> LockState | None:
        """The state of a lock."""
        return self.locks.get(resource)

    def proposal(self, proposal_id: str) -> ProposalState | None:
        """The state of a proposal."""
        return self.ballots.get(proposal_id)

    def proposals(self) -> Iterable[ProposalState]:
        """The states of all proposals."""
        return self.ballots.values()

    def _apply(self, pending: _Pending) -> None:
        self.history.append(pending.body)
        request_id = pending.request_id
        follow = _Follow()
        try:
            if request_id is not None and request_id in self._remembered:
                result = self._remembered[request_id]
            else:
                result = self._accept(pending.body, follow)
        except NtMemoryError as error:
            if not pending.done.done():
                pending.done.set_exception(error)
            return
        if request_id is not None:
            self._remembered[request_id] = result
        self.follow_locks(follow.locks)
        self.follow_ballots(follow.ballots)
        if not pending.done.done():
            pending.done.set_result(result)

    def _accept(self, body: Body, follow: _Follow) -> Any:
        """What the entry does is kept only if it is accepted, what had lapsed by then included."""
        before = dict(self.locks), self.electorate, dict(self.ballots)
        self.revision += 1
        try:
            self._lapse(follow)
            result = self._decide(body, follow)
        except NtMemoryError:
            self.revision -= 1
            self.locks, self.electorate, self.ballots = before
            raise
        return msgspec.msgpack.decode(msgspec.msgpack.encode(result))

    def _lapse(self, follow: _Follow) -> None:
        now_us = self._clock.now_us()
        for lock in list(self.locks.values()):
            lock_ruling = lock_rules.lapse(lock, now_us=now_us, revision=self.revision)
            if lock_ruling is not None:
                self._keep_lock(lock.resource, lock_ruling, follow)
        for ballot in list(self.ballots.values()):
            ruling = ballot_rules.lapse(ballot, now_us=now_us, revision=self.revision)
            if ruling is not None:
                self._keep_ballot(ballot.id, ruling, follow)

    def _decide(self, body: Body, follow: _Follow) -> Any:
        now_us, revision = self._clock.now_us(), self.revision
        match body:
            case Acquire() | Renew() | Release() | Withdraw() | ForceRelease():
                ruling = lock_rules.decide(
                    body, self.locks.get(body.resource), now_us=now_us, revision=revision
                )
                return self._keep_lock(body.resource, ruling, follow)
            case Register():
                registered = ballot_rules.register(
                    body, self.electorate, now_us=now_us, revision=revision
                )
                self.electorate = registered.state
                return registered.result
            case Propose():
                proposed = ballot_rules.propose(
                    body, self.ballots.get(body.id), self.electorate,
                    now_us=now_us, revision=revision,
                )  # fmt: skip
                return self._keep_ballot(body.id, proposed, follow)
            case CastVote():
                state = self.ballots.get(body.proposal_id)
                voted = ballot_rules.vote(body, state, now_us=now_us, revision=revision)
                return self._keep_ballot(body.proposal_id, voted, follow)
            case _:
                return self._decide_rest(body, follow)

    def _decide_rest(self, body: Body, follow: _Follow) -> Any:
        now_us, revision = self._clock.now_us(), self.revision
        match body:
            case CleanUp():
                old = [
                    key
                    for key, state in self.ballots.items()
                    if ballot_rules.is_removable(state, body, now_us=now_us)
                ]
                for key in old:
                    del self.ballots[key]
                return len(old)
            case StartSession():
                for lock in list(self.locks.values()):
                    ruling = lock_rules.end_sessions(
                        lock, keep=body.session, now_us=now_us, revision=revision
                    )
                    if ruling is not None:
                        self._keep_lock(lock.resource, ruling, follow)
                return None
            case Tick():
                return None
            case _:
                raise UnsupportedError(f"FakeReplica does not apply {type(body).__name__}")

    def _keep_lock(self, resource: str, ruling: Ruling, follow: _Follow) -> Any:
        if ruling.state is None:
            self.locks.pop(resource, None)
        else:
            self.locks[resource] = _through_bytes(ruling.state)
        follow.locks.extend(ruling.events)
        return ruling.result

    def _keep_ballot(self, proposal_id: str, ruling: BallotRuling, follow: _Follow) -> Any:
        if ruling.state is not None:
            self.ballots[proposal_id] = _through_bytes(ruling.state)
        follow.ballots.extend(ruling.events)
        return ruling.result


def _through_bytes(state: Any) -> Any:
    """As the views would give it back."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=type(state))
