"""One lock as a state machine, against what an observer may conclude from the announcements alone.

Each promise has the words that a failure says; `test_planted_bugs` holds them to that.
"""

from __future__ import annotations

import sys

import hypothesis.strategies as st
import msgspec
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nt_memory.coordination import lock_rules
from nt_memory.coordination.lock_states import LockReply, LockState
from nt_memory.entries import Acquire, ForceRelease, LockCommand, Release, Renew, Withdraw
from nt_memory.errors import LockLostError, LockTimeoutError, ReentrantLockError

HOLDERS = st.sampled_from(["ann", "bob", "cyd", "dee", "eve"])
SESSIONS = st.sampled_from(["s1", "s2"])
# Small numbers, so that instants coincide.
SPANS = st.integers(1, 8)


class LockMachine(RuleBasedStateMachine):
    """One lock under any order of commands, duplicates, late arrivals and jumps of time."""

    def __init__(self) -> None:
        super().__init__()
        self.state: LockState | None = None
        self.now = 1_000
        self.revision = 0
        self.serial = 0
        # The observer's book: who holds, who waits since when and until when, who is done.
        self.holding: tuple[str, int] | None = None
        self.line: dict[str, int] = {}
        self.over: set[str] = set()
        self.granted: list[int] = []
        self.sent: dict[str, Acquire] = {}
        self.keep = ""
        self.until = 0
        self.forced: int | None = None

    @initialize(now=st.integers(0, 10**15))
    def begin(self, now: int) -> None:
        self.now = now

    def _observe(self, ruling: lock_rules.Ruling) -> None:
        for event in ruling.events:
            match event.kind:
                case "granted":
                    assert self.holding is None, "two holders"
                    assert all(event.fence > fence for fence in self.granted), "no greater fence"
                    assert event.fence == self.revision, "a fence is the revision of its grant"
                    assert self.line.get(event.ticket, 0) > self.now, "granted to who had left"
                    alive = [t for t, until in self.line.items() if until > self.now]
                    assert alive[0] == event.ticket, "not first come first served"
                    del self.line[event.ticket]
                    self.granted.append(event.fence)
                    self.holding = (event.ticket, event.fence)
                    self.until = self.now + self.sent[event.ticket].lease_us
                    assert event.lease_until == self.until, "a lease counts from its grant"
                case "released" | "lost":
                    assert self.holding == (event.ticket, event.fence), "another grant ended"
                    assert event.lease_until == self.until, "a lease ends when it was said to"
                    if event.kind == "lost":
                        is_due = event.lease_until <= self.now or self._is_ended(event.session)
                        assert is_due or self.forced == event.fence, "a lease ended too early"
                    self.holding = None
                    self.over.add(event.ticket)
                case "withdrawn":
                    del self.line[event.ticket]
                    self.over.add(event.ticket)
                case "refused":
                    until = self.line.pop(event.ticket)
                    assert until <= self.now or self._is_ended(event.session), "refused too early"
                    self.over.add(event.ticket)
        encoded = msgspec.msgpack.encode(ruling.state)
        self.state = msgspec.msgpack.decode(encoded, type=LockState | None)

    def _is_ended(self, session: str) -> bool:
        return self.keep not in {"", session}

    def _apply(self, command: LockCommand, *, lapse: bool) -> LockReply:
        """As a replica does: refused entries leave no trace and take no revision."""
        state, revision = self.state, self.revision + 1
        rulings = []
        if lapse and state is not None:
            lapsed = lock_rules.lapse(state, now_us=self.now, revision=revision)
            if lapsed is not None:
                rulings.append(lapsed)
                state = lapsed.state
        ruling = lock_rules.decide(command, state, now_us=self.now, revision=revision)
        self.revision = revision
        if isinstance(command, Acquire) and command.ticket not in self.over | self.sent.keys():
            self.line[command.ticket] = self.now + command.wait_us
            if command.wait_us == 0:
                self.line[command.ticket] = self.now + 1
        self.sent |= {command.ticket: command} if isinstance(command, Acquire) else {}
        for each in [*rulings, ruling]:
            self._observe(each)
        # The one excuse for a free lock with a line: this entry has granted once already.
        is_stuck = self.holding is None and any(until > self.now for until in self.line.values())
        assert not is_stuck or self.granted[-1] == self.revision, "the next in line was passed over"
        return ruling.result

    def _is_current(self, fence: int) -> bool:
        """By the book: whether the fence is the holder's, and its lease still runs."""
        is_current = self.holding is not None and self.holding[1] == fence and self.now < self.until
        said = lock_rules.is_current(self.state, fence, self.now)
        assert said == is_current, "a stale fence counts" if said else "a current fence does not"
        return is_current

    @initialize(waits=st.lists(st.integers(5, 40), max_size=4), lease=st.integers(1, 12))
    def crowd(self, waits: list[int], lease: int) -> None:
        """Begin with a line."""
        for number, wait in enumerate([5, *waits]):
            self.serial += 1
            ticket, holder = f"t{self.serial}", f"early-{number}"
            self._apply(
                Acquire("r", ticket, holder, f"s{number % 2 + 1}", lease, wait), lapse=False
            )

    @precondition(lambda self: self.holding is not None and self.line)
    @rule()
    def withdraw_what_the_same_entry_grants(self) -> None:
        """The lease ends, the head of the line is granted, and the entry withdraws it."""
        assert self.holding is not None
        self.now = max(self.now, self.until)
        alive = [ticket for ticket, until in self.line.items() if until > self.now]
        if alive:
            self._apply(Withdraw("r", alive[0]), lapse=True)
            assert self.holding is None, "a grant that won the race was not given back"
            assert self.granted[-1] == self.revision, "granted by another entry"

    @rule(
        holder=HOLDERS, session=SESSIONS, lease=SPANS, wait=st.integers(0, 20), lapse=st.booleans()
    )
    def acquire(self, holder: str, session: str, lease: int, wait: int, lapse: bool) -> None:
        self.serial += 1
        command = Acquire("r", f"t{self.serial}", holder, session, lease, wait)
        before = self.holding, dict(self.line)
        try:
            reply = self._apply(command, lapse=lapse)
        except ReentrantLockError:
            assert (self.holding, self.line) == before
            assert holder in self._holders(), "a stranger was taken for the holder"
            return
        except LockTimeoutError:
            assert (self.holding, self.line) == before
            assert self.holding is not None or self.line, "a free lock was refused"
            return
        if reply.kind == "granted":
            assert self.holding == (command.ticket, reply.fence), "not told who holds"
        else:
            assert (reply.kind, wait > 0) == ("queued", True), "a try that does not wait waits"
            assert command.ticket in self.line, "queued, and not in line"

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), lapse=st.booleans())
    def acquire_again(self, data: st.DataObject, lapse: bool) -> None:
        """A duplicate that arrives while its ticket waits or holds changes nothing."""
        live = [t for t in self.line if self.line[t] > self.now]
        if self.holding is not None and lock_rules.is_current(
            self.state, self.holding[1], self.now
        ):
            live.append(self.holding[0])
        if live:
            ticket = data.draw(st.sampled_from(live))
            grants = len(self.granted)
            self._apply(self.sent[ticket], lapse=lapse)
            assert len(self.granted) <= grants + 1, "granted twice"
            assert ticket not in self.over, "a repeated acquire ended the first"

    def _named(self, fence: int, *, lapse: bool, current: bool) -> int:
        """The fence that a caller names: the holder's, or any that it can know.

        That is any but the revision of its own entry: a fence that the entry's lapse may grant before
        the command is looked at, and that nobody has been told.
        """
        if current and self.holding is not None:
            return self.holding[1]
        return 0 if lapse and fence == self.revision + 1 else fence

    @rule(fence=st.integers(0, 20), lapse=st.booleans(), current=st.booleans())
    def release(self, fence: int, lapse: bool, current: bool) -> None:
        fence = self._named(fence, lapse=lapse, current=current)
        was_current = self._is_current(fence)
        try:
            self._apply(Release("r", fence), lapse=lapse)
        except LockLostError:
            assert not was_current, "a running lease was not released"
        else:
            assert was_current, "a lost lease was released"
            assert self.holding is None or self.holding[1] != fence, "not released"

    @rule(fence=st.integers(0, 20), lease=SPANS, lapse=st.booleans(), current=st.booleans())
    def renew(self, fence: int, lease: int, lapse: bool, current: bool) -> None:
        fence = self._named(fence, lapse=lapse, current=current)
        was_current = self._is_current(fence)
        try:
            reply = self._apply(Renew("r", fence, lease), lapse=lapse)
        except LockLostError:
            assert not was_current, "a running lease was not renewed"
        else:
            assert was_current, "a lost lease was resurrected"
            assert reply.lease_until >= max(self.until, self.now + lease), "a lease got shorter"
            self.until = reply.lease_until

    @rule(fence=st.none() | st.integers(0, 20), lapse=st.booleans(), current=st.booleans())
    def force_release(self, fence: int | None, lapse: bool, current: bool) -> None:
        """It ends the present grant, if that is the one it means, and nothing else."""
        if fence is not None or current:
            fence = self._named(fence or 0, lapse=lapse, current=current)
        holding, line = self.holding, list(self.line)
        is_meant = (
            holding is not None and fence in {None, holding[1]} and self._is_current(holding[1])
        )
        self.forced = holding[1] if is_meant and holding is not None else None
        reply = self._apply(ForceRelease("r", fence), lapse=lapse)
        if is_meant:
            assert (reply.kind, reply.fence) == ("forced", self.forced), "not taken away"
            assert self.holding != holding, "not taken away"
        else:
            # Nor does it touch what the end of a lease has granted by this very entry.
            assert reply.kind == "absent", "taken from somebody else"
        left = [ticket for ticket in line if ticket in self.line]
        assert left == list(self.line), "another line"
        self.forced = None

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), lapse=st.booleans())
    def withdraw(self, data: st.DataObject, lapse: bool) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.sent)))
        self._apply(Withdraw("r", ticket), lapse=lapse)
        assert self.holding is None or self.holding[0] != ticket, "who withdrew holds it"
        assert ticket not in self.line, "who withdrew is in line"

    @rule(holder=HOLDERS, lease=SPANS, lapse=st.booleans())
    def withdraw_overtakes_acquire(self, holder: str, lease: int, lapse: bool) -> None:
        """The acquire that comes after its own withdrawal is not granted, once or twice."""
        self.serial += 1
        ticket = f"t{self.serial}"
        self.over.add(ticket)
        self._apply(Withdraw("r", ticket), lapse=lapse)
        for _ in range(2):
            reply = self._apply(Acquire("r", ticket, holder, "s1", lease, 50), lapse=lapse)
            assert reply.kind == "withdrawn", "granted to who had left"

    @rule(keep=SESSIONS)
    def end_sessions(self, keep: str) -> None:
        self.keep = keep
        if self.state is not None:
            self.revision += 1
            ruling = lock_rules.end_sessions(
                self.state, keep=keep, now_us=self.now, revision=self.revision
            )
            if ruling is not None:
                self._observe(ruling)
            assert all(self.sent[ticket].session == keep for ticket in self.line), "a dead waiter"
            is_alive = self.holding is None or self.sent[self.holding[0]].session == keep
            assert is_alive, "a dead holder"
        self.keep = ""

    @rule(span=st.integers(0, 5))
    def pass_time(self, span: int) -> None:
        self.now += span

    @rule()
    def tick(self) -> None:
        """After a tick a free lock has nobody waiting for it, and nothing is overdue."""
        if self.state is None:
            return
        self.revision += 1
        ruling = lock_rules.lapse(self.state, now_us=self.now, revision=self.revision)
        if ruling is not None:
            self._observe(ruling)
        if self.state is not None:
            assert lock_rules.due_us(self.state) > self.now, "an overdue lease is left"
            alive = [t for t, until in self.line.items() if until > self.now]
            assert self.state.grant is not None or not alive, "a lost waiter"

    @invariant()
    def the_book_agrees(self) -> None:
        state = self.state or LockState("r")
        grant = None if state.grant is None else (state.grant.ticket, state.grant.fence)
        assert grant == self.holding, "another holder than was announced"
        assert [waiter.ticket for waiter in state.waiters] == list(self.line), "another line"
        assert self.holding is None or self.holding[0] not in self.over, "it was over"
        assert not self.over & self.line.keys(), "it was over"
        holders = self._holders()
        assert len(holders) == len(set(holders)), "a holder is there twice"

    def _holders(self) -> list[str]:
        """Who holds or waits."""
        there = [*self.line, *([] if self.holding is None else [self.holding[0]])]
        return [self.sent[ticket].holder for ticket in there]

    @invariant()
    def waiting_ends(self) -> None:
        """Whoever waits will be heard: something is due while the lock has a holder or a line."""
        if self.state is not None and (self.holding or self.line):
            is_due = lock_rules.due_us(self.state) <= max(self.now, self.until)
            assert is_due, "nobody will see to it when the lease ends"

    def teardown(self) -> None:
        """Everybody still in line is granted in the end, if leases run out one by one."""
        if sys.exc_info()[0] is not None:
            return  # what went wrong already says more than what follows from it
        self.keep = ""
        last = None
        while self.state is not None and (self.holding or self.line):
            due = lock_rules.due_us(self.state)
            self.now = max(self.now, due)
            self.revision += 1
            ruling = lock_rules.lapse(self.state, now_us=self.now, revision=self.revision)
            assert ruling is not None, "the queue stands still"
            self._observe(ruling)
            assert (self.state, self.now) != last, "the queue stands still"
            last = (self.state, self.now)
