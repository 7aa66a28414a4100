"""Coordination as a whole: entries of several agents in a real replica, late, reordered and repeated.

What the rules of one lock and one proposal promise is explored in `lock_machine` and `ballot_machine`.
This is about what the replica makes of them: that a request acts once, that a fence is judged by the
time of the write's own entry, that what is due ends with whatever comes next, that a refusal leaves
nothing behind, and that what is stored is what holds. An entry that was sent may be delivered at any
later time, before or after others, and again. Time creeps, and jumps past what is remembered.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis.strategies as st
import msgspec
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nt_memory.codec import encode
from nt_memory.coordination.ballot_states import ProposalState
from nt_memory.entries import (
    STATE,
    Acquire,
    CastVote,
    CleanUp,
    Configure,
    Entry,
    Fence,
    ForceRelease,
    Propose,
    Register,
    Release,
    Renew,
    StartSession,
    Tick,
    Withdraw,
    Write,
    WriteOp,
    encode_entry,
)
from nt_memory.entries.requests import is_own, own_id
from nt_memory.errors import InvalidInputError, NtMemoryError, StaleFenceError
from nt_memory.replica import Replica
from nt_memory.tiers.cold import ColdTier
from nt_memory.tiers.vectors import VectorFiles
from nt_memory.transport.ports import Frame

START = 1_700_000_000_000_000
MINUTE = 60_000_000
# By the promise, not by the code: a day, and ten minutes for ids of the memory's own.
DAY, OWN = 24 * 60 * MINUTE, 10 * MINUTE
RESOURCES = st.sampled_from(["desk", "election/lead"])
AGENTS = st.sampled_from(["ann", "bob", "cyd"])
SESSIONS = st.sampled_from(["s1", "s2"])
PROPOSALS = st.sampled_from(["p1", "p2"])
# Few, so that they are used again, also for other kinds of calls.
IDS = st.none() | st.sampled_from(["x", "y"])
SPANS = st.sampled_from([0, 1, 2, 3, 5, OWN - 1, OWN, DAY - 1, DAY])
BACK = st.sampled_from([0, 0, 0, 1, 2])
LATE = st.sampled_from([False, False, True])
HALF = b"\x00\x3c\x00\x00"


class Holding(NamedTuple):
    """Who holds a lock, by what was announced."""

    ticket: str
    session: str
    fence: int
    until: int


class Answer(NamedTuple):
    """What a request was told the first time."""

    at: int
    kind: str
    result: bytes


class CoordinationMachine(RuleBasedStateMachine):
    """Locks, elections, votes and fenced writes of three agents, in one replica."""

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.TemporaryDirectory()
        self.cold = ColdTier(Path(self.place.name) / "views", max_map_bytes=1 << 24)
        self.files = VectorFiles(Path(self.place.name) / "vectors")
        self.replica = Replica(self.cold, self.files)
        self.now = START
        self.sequence = 0
        self.serial = 0
        self.sent: list[Entry] = []
        # The book.
        self.answers: dict[tuple[str, str], Answer] = {}
        self.holding: dict[str, Holding] = {}
        self.fences: dict[str, list[int]] = {}
        self.asked: dict[str, Acquire] = {}
        self.forced: tuple[str, int] | None = None
        self.keep = ""
        self.decided: dict[str, tuple[str, int]] = {}
        self.proposals: dict[str, ProposalState] = {}
        self._apply(Entry(Configure("s", "live", None)))

    # --- the journal --------------------------------------------------------------------------

    def _send(self, entry: Entry, *, is_late: bool = False) -> None:
        """Into the network; delivered at once unless it is late."""
        self.sent.append(entry)
        if isinstance(entry.body, Acquire):
            self.asked[entry.body.ticket] = entry.body
        if not is_late:
            self._deliver(entry)

    @precondition(lambda self: self.sent)
    @rule(back=st.integers(0, 8))
    def deliver_late_or_again(self, back: int) -> None:
        """One of the last that were sent, whether it came before or not."""
        self._deliver(self.sent[-1 - back % len(self.sent)])

    def _apply(self, entry: Entry) -> Any:
        self.sequence += 1
        frame = Frame(self.sequence, self.now, encode_entry(entry), self.sequence, self.sequence)
        follow = self.replica.apply([frame])
        snapshot = follow.snapshot
        assert snapshot is not None
        self.proposals = {
            key.decode(): msgspec.msgpack.decode(data, type=ProposalState)
            for key, data in snapshot.items(b"proposals")
        }
        snapshot.close()
        return follow

    def _deliver(self, entry: Entry) -> None:
        revision, proposals = self.replica.revision, self.proposals
        locks = dict(self.replica._coordination.locks)
        is_current = self._is_current(entry)
        self._expect(entry)
        follow = self._apply(entry)
        (outcome,) = follow.outcomes
        is_silent = not (follow.lock_events or follow.ballot_events or follow.changes)
        is_same = (locks, proposals) == (self.replica._coordination.locks, self.proposals)
        is_untouched = is_silent and is_same and self.replica.revision == revision
        answer = self._answer(entry)
        if answer is not None:
            assert is_untouched, "a request acted twice"
            if answer.kind == _kind(entry):
                assert outcome.error is None, "a repeated request was refused"
                told = msgspec.msgpack.encode(outcome.result)
                assert told == answer.result, "a repeated request was told something else"
            else:
                is_refused = isinstance(outcome.error, InvalidInputError)
                assert is_refused, "an id of another kind of call was accepted"
            return
        is_done = entry.request_id is None or self.replica.revision == revision + 1
        assert outcome.error is not None or is_done, "a request did nothing"
        if outcome.error is not None:
            assert isinstance(outcome.error, NtMemoryError)
            assert is_untouched, "a refusal left something behind"
        else:
            self._note(entry, outcome.result)
        self._check_fence(entry, outcome.error, is_current=is_current)
        self._observe(entry, follow, outcome.result)
        if self.replica.revision > revision:
            self._check_nothing_is_overdue()
        self._check_proposals(entry, proposals)

    # --- requests -----------------------------------------------------------------------------

    def _answer(self, entry: Entry) -> Answer | None:
        """What was told before, as long as that has to be remembered."""
        if entry.request_id is None:
            return None
        answer = self.answers.get((entry.actor, entry.request_id))
        memory = OWN if is_own(entry.request_id) else DAY
        return answer if answer is not None and self.now < answer.at + memory else None

    def _note(self, entry: Entry, result: Any) -> None:
        if entry.request_id is not None:
            told = msgspec.msgpack.encode(result)
            self.answers[entry.actor, entry.request_id] = Answer(self.now, _kind(entry), told)

    @rule(back=st.integers(0, 8), edge=st.sampled_from([-1, 0]))
    def repeat_at_the_edge_of_memory(self, back: int, edge: int) -> None:
        """The last moment at which the answer has to be remembered, and the first at which not."""
        found = [(one, answer) for one in self.sent if (answer := self._answer(one)) is not None]
        if found:
            entry, answer = found[-1 - back % len(found)]
            memory = OWN if is_own(entry.request_id or "") else DAY
            self.now = max(self.now, answer.at + memory + edge)
            self._deliver(entry)

    # --- locks --------------------------------------------------------------------------------

    def _expect(self, entry: Entry) -> None:
        """What may end a lease before its time."""
        body, self.forced, self.keep = entry.body, None, ""
        if isinstance(body, StartSession):
            self.keep = body.session
        if isinstance(body, ForceRelease) and body.resource in self.holding:
            self.forced = (body.resource, self.holding[body.resource].fence)

    def _observe(self, entry: Entry, follow: Any, result: Any) -> None:
        for event in follow.lock_events:
            holding = self.holding.get(event.resource)
            if event.kind == "granted":
                self._observe_grant(event, holding)
            elif event.kind in {"released", "lost"}:
                assert holding is not None, "ended, and nobody held it"
                assert holding.fence == event.fence, "another grant ended"
                if event.kind == "lost":
                    is_told = self.forced == (event.resource, event.fence)
                    is_ended = self.keep not in {"", holding.session}
                    is_due = holding.until <= self.now
                    assert is_due or is_told or is_ended, "a lease ended too early"
                del self.holding[event.resource]
        if isinstance(entry.body, Renew) and result is not None:
            held = self.holding[entry.body.resource]
            until = max(held.until, self.now + entry.body.lease_us)
            self.holding[entry.body.resource] = held._replace(until=until)
        for resource, state in self.replica._coordination.locks.items():
            grant, held = state.grant, self.holding.get(resource)
            said = None if held is None else (held.fence, held.until)
            there = None if grant is None else (grant.fence, grant.lease_until)
            assert said == there, "another holder than was announced"
        assert self.holding.keys() <= self.replica._coordination.locks.keys(), "a lost holder"

    def _observe_grant(self, event: Any, holding: Holding | None) -> None:
        assert holding is None, "two holders"
        fences = self.fences.setdefault(event.resource, [])
        grows = not fences or event.fence > fences[-1]
        assert grows, f"no greater {'term' if event.resource.startswith('election/') else 'fence'}"
        fences.append(event.fence)
        until = self.now + self.asked[event.ticket].lease_us
        assert event.lease_until == until, "a lease counts from its grant"
        self.holding[event.resource] = Holding(event.ticket, event.session, event.fence, until)

    def _is_current(self, entry: Entry) -> bool:
        """By the book: whether an entry's fence is, at its own time, if it has one."""
        fence = entry.body.fence if isinstance(entry.body, Write) else None
        if fence is None:
            return True
        named = [fence.resource] if fence.resource else list(self.holding)
        held = [self.holding[resource] for resource in named if resource in self.holding]
        return any(one.fence == fence.number and self.now < one.until for one in held)

    def _check_fence(self, entry: Entry, error: Exception | None, *, is_current: bool) -> None:
        if isinstance(entry.body, Write) and entry.body.fence is not None:
            assert is_current or isinstance(error, StaleFenceError), "a stale fence was accepted"
            assert not is_current or error is None, "a current fence was refused"

    def _check_nothing_is_overdue(self) -> None:
        overdue = [one for one in self.holding.values() if one.until <= self.now]
        assert not overdue, "a lease that ran out was left"
        if self.keep:
            dead = [one for one in self.holding.values() if one.session != self.keep]
            assert not dead, "a dead holder"
        for proposal in self.proposals.values():
            is_late = proposal.deadline is not None and proposal.deadline <= self.now
            assert not (is_late and proposal.status == "pending"), "an overdue proposal was left"

    @rule(
        resource=RESOURCES,
        holder=AGENTS,
        session=SESSIONS,
        lease=st.integers(1, 8) | st.just(2 * DAY),
        wait=st.sampled_from([0, 5, 2 * DAY]),
        name=IDS,
        is_late=LATE,
    )
    def acquire(
        self,
        resource: str,
        holder: str,
        session: str,
        lease: int,
        wait: int,
        name: str | None,
        is_late: bool,
    ) -> None:
        self.serial += 1
        ticket = f"t{self.serial}"
        command = Acquire(resource, ticket, holder, session, lease, wait)
        self._send(Entry(command, holder, name or own_id(ticket)), is_late=is_late)

    @rule(resource=RESOURCES, back=BACK, lease=st.integers(1, 8), is_late=LATE)
    def renew(self, resource: str, back: int, lease: int, is_late: bool) -> None:
        self._send(Entry(Renew(resource, self._fence(resource, back), lease)), is_late=is_late)

    @rule(resource=RESOURCES, back=BACK, name=IDS, is_late=LATE)
    def release(self, resource: str, back: int, name: str | None, is_late: bool) -> None:
        body = Release(resource, self._fence(resource, back))
        self._send(Entry(body, "ann", name), is_late=is_late)

    @precondition(lambda self: self.asked)
    @rule(back=st.integers(0, 3), is_late=LATE)
    def withdraw(self, back: int, is_late: bool) -> None:
        tickets = list(self.asked)
        command = self.asked[tickets[-1 - back % len(tickets)]]
        self._send(Entry(Withdraw(command.resource, command.ticket)), is_late=is_late)

    @rule(resource=RESOURCES, is_late=LATE)
    def force_release(self, resource: str, is_late: bool) -> None:
        self.serial += 1
        self._send(Entry(ForceRelease(resource), "ops", own_id(f"f{self.serial}")), is_late=is_late)

    @rule(session=SESSIONS)
    def start_session(self, session: str) -> None:
        self._send(Entry(StartSession(session)))

    def _fence(self, resource: str, back: int) -> int:
        """The latest fence, or an earlier one."""
        fences = self.fences.get(resource, [])
        return fences[-1 - back] if back < len(fences) else 0

    # --- writes -------------------------------------------------------------------------------

    @rule(
        kind=st.sampled_from(["put", "delete", "observe"]),
        resource=RESOURCES,
        back=st.none() | BACK,
        named=RESOURCES | st.just(""),
        name=IDS,
        is_late=LATE,
    )
    def write(
        self,
        kind: str,
        resource: str,
        back: int | None,
        named: str,
        name: str | None,
        is_late: bool,
    ) -> None:
        fence = None
        if back is not None:
            fence = Fence(named, self._fence(resource, back))
        self._send(self._write(kind, fence, name), is_late=is_late)

    def _write(self, kind: str, fence: Fence | None, name: str | None) -> Entry:
        self.serial += 1
        value = None if kind == "delete" else encode(self.serial)
        vector = HALF if kind == "observe" else None
        op = WriteOp(STATE, "ann", "k", value, vector=vector)
        return Entry(Write((op,), fence), "ann", name)

    @precondition(lambda self: self.holding)
    @rule(
        data=st.data(),
        kind=st.sampled_from(["put", "delete", "observe"]),
        named=RESOURCES | st.just(""),
        edge=st.sampled_from([-1, 0, 1]),
    )
    def write_at_the_end_of_a_lease(
        self, data: st.DataObject, kind: str, named: str, edge: int
    ) -> None:
        """Nothing else has come since it ran out."""
        held = self.holding[data.draw(st.sampled_from(sorted(self.holding)))]
        self.now = max(self.now, held.until + edge)
        self._send(self._write(kind, Fence(named, held.fence), None))

    # --- ballots ------------------------------------------------------------------------------

    @rule(agent=AGENTS, weight=st.sampled_from(["1/1", "2/1"]), name=IDS)
    def register(self, agent: str, weight: str, name: str | None) -> None:
        self._send(Entry(Register(agent, weight), "ann", name))

    @initialize(leases=st.lists(st.integers(1, 8), min_size=2, max_size=4))
    def crowd(self, leases: list[int]) -> None:
        """Begin with holders, and a line."""
        for number, lease in enumerate(leases):
            self.serial += 1
            ticket, session = f"t{self.serial}", f"s{number % 2 + 1}"
            resource = ("desk", "election/lead")[number % 2]
            command = Acquire(resource, ticket, f"early-{number}", session, lease, 2 * DAY)
            self._send(Entry(command, "ann", own_id(ticket)))

    @initialize()
    def register_all(self) -> None:
        for agent in ("ann", "bob", "cyd"):
            self._send(Entry(Register(agent, "1/1")))

    @rule(
        proposal=PROPOSALS,
        quorum=st.sampled_from(["1/2", "2/3"]),
        span=st.none() | st.integers(1, 5),
        name=IDS,
        is_late=LATE,
    )
    def propose(
        self, proposal: str, quorum: str, span: int | None, name: str | None, is_late: bool
    ) -> None:
        deadline = None if span is None else self.now + span
        body = Propose(proposal, "ann", b"x", quorum, deadline)
        self._send(Entry(body, "ann", name), is_late=is_late)

    @rule(proposal=PROPOSALS, voter=AGENTS, approve=st.booleans(), name=IDS, is_late=LATE)
    def vote(
        self, proposal: str, voter: str, approve: bool, name: str | None, is_late: bool
    ) -> None:
        self._send(Entry(CastVote(proposal, voter, approve), voter, name), is_late=is_late)

    @rule(age=st.integers(0, 3), is_late=LATE)
    def clean_up(self, age: int, is_late: bool) -> None:
        self._send(Entry(CleanUp(age), "ann"), is_late=is_late)

    def _check_proposals(self, entry: Entry, before: dict[str, ProposalState]) -> None:
        """Each is decided once, by an entry, and goes only when it was, and long enough ago."""
        for name, state in before.items():
            if name in self.proposals:
                continue
            assert state.status != "pending", "an open proposal was removed"
            assert isinstance(entry.body, CleanUp), "a proposal is gone"
            decided_at = state.decided_at or 0
            assert self.now - decided_at >= entry.body.max_age_us, "removed too early"
            self.decided.pop(name, None)
        for name, state in self.proposals.items():
            decision = self.decided.get(name)
            if state.status != "pending":
                said = (state.status, state.decided_revision)
                assert self.decided.setdefault(name, said) == said, "decided twice"
            else:
                assert decision is None, "decided, and open again"
            voters = [cast.voter for cast in state.votes]
            assert len(voters) == len(set(voters)), "a vote was counted twice"

    # --- time, and the process ----------------------------------------------------------------

    @rule(span=SPANS)
    def pass_time(self, span: int) -> None:
        self.now += span

    @rule()
    def tick(self) -> None:
        """After it a free lock has nobody waiting for it."""
        self._deliver(Entry(Tick()))
        self._check_nothing_is_overdue()
        for state in self.replica._coordination.locks.values():
            alive = [one for one in state.waiters if one.wait_until > self.now]
            assert state.grant is not None or not alive, "a lost waiter"

    @rule(edge=st.sampled_from([-1, 0, 1]))
    def something_else_comes_when_it_is_due(self, edge: int) -> None:
        """What has nothing to do with it ends it all the same."""
        due = self.replica.next_lapse_us
        if due is not None:
            self.now = max(self.now, due + edge)
            self._deliver(Entry(Register("dee", "1/1")))

    @rule()
    def restart(self) -> None:
        """What holds is what is stored: a replica that reads the views goes on from there."""
        before = self.replica._coordination
        self.replica = Replica(self.cold, self.files)
        after = self.replica._coordination
        assert (before.locks, before.electorate) == (after.locks, after.electorate), "not stored"

    @invariant()
    def a_tick_will_come_in_time(self) -> None:
        """Whatever ends by itself is asked for when it does."""
        ends = [one.until for one in self.holding.values()]
        ends += [
            one.deadline
            for one in self.proposals.values()
            if one.status == "pending" and one.deadline is not None
        ]
        due = self.replica.next_lapse_us
        assert not ends or (due is not None and due <= min(ends)), "nobody will see to it"

    def teardown(self) -> None:
        self.files.close()
        self.cold.close()
        self.place.cleanup()


def _kind(entry: Entry) -> str:
    return str(entry.body.__struct_config__.tag)
