"""Rules with one fault each, to be put in place of the right ones.

Each is what somebody could have written: a condition left out, a comparison that is off by the edge, a
time taken from somewhere else. They replace one function or one class, at the seam where the rules
look it up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from nt_memory.coordination import ballot_rules, lock_rules
from nt_memory.coordination.lock_rules import _Table
from nt_memory.entries import Renew
from nt_memory.errors import NotRegisteredError
from nt_memory.replica import requests
from nt_memory.replica.coordination import Coordination
from nt_memory.replica.replica import Replica

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    Plant = Callable[[pytest.MonkeyPatch], None]


def instead(owner: Any, name: str, make: Callable[[Any], Any]) -> Plant:
    """Replace `owner.name` by what is made of it."""
    return lambda patch: patch.setattr(owner, name, make(getattr(owner, name)))


def table(kind: type[_Table]) -> Plant:
    """Replace the table that locks are worked on."""
    return lambda patch: patch.setattr(lock_rules, "_Table", kind)


# --- locks: granting --------------------------------------------------------------------------


class GrantsTwice(_Table):
    """Does not look whether the lock is free."""

    def grant_next(self) -> None:
        held, self.grant = self.grant, None
        super().grant_next()
        self.grant = self.grant or held


class GrantsTheLast(_Table):
    """Last come, first served."""

    def grant_next(self) -> None:
        if self.grant is None and self.waiters:
            self.waiters.insert(0, self.waiters.pop())
        super().grant_next()


class LosesOne(_Table):
    """Takes two from the line for one grant."""

    def grant_next(self) -> None:
        waiting = len(self.waiters)
        super().grant_next()
        if len(self.waiters) < waiting:
            del self.waiters[:1]


def counts_fences(*, of: str = "") -> type[_Table]:
    """Fences are a number a lock, which is forgotten with it."""

    class Counts(_Table):
        def grant_next(self) -> None:
            before = self.fence
            super().grant_next()
            if self.resource.startswith(of):
                _refence(self, before + 1)

    return Counts


class GrantsAgainInTheSameEntry(_Table):
    """The second grant of one entry repeats the first one's fence."""

    def grant_next(self) -> None:
        if self.fence == self.revision:
            self.fence = 0
        super().grant_next()


def reuses_fence(*, after: str) -> type[_Table]:
    """After a grant that ended like this, the next one has its fence."""

    class Reuses(_Table):
        reused = 0

        def free(self, kind: Any) -> None:
            if self.grant is not None:
                is_over = self.grant.lease_until <= self.now_us
                how = "release" if kind == "released" else "expiry" if is_over else "force"
                self.reused = self.grant.fence if how == after else 0
            super().free(kind)

        def grant_next(self) -> None:
            super().grant_next()
            if self.reused:
                _refence(self, self.reused)

    return Reuses


def _refence(made: _Table, fence: int) -> None:
    if made.grant is not None and made.events and made.events[-1].kind == "granted":
        made.fence = fence
        made.grant = replace(made.grant, fence=fence)
        made.events[-1] = made.events[-1]._replace(fence=fence)


class LeasesFromTheWait(_Table):
    """Counts a lease from when the wait would have ended, which the asker chose."""

    def grant_next(self) -> None:
        head = self.waiters[0] if self.waiters else None
        super().grant_next()
        if self.grant is not None and head is not None and self.grant.ticket == head.ticket:
            until = head.wait_until + head.lease_us
            self.grant = replace(self.grant, lease_until=until)
            self.events[-1] = self.events[-1]._replace(lease_until=until)


# --- locks: what runs out ---------------------------------------------------------------------


class NeverEndsLeases(_Table):
    """Trusts holders to release."""

    def end_overdue(self) -> None:
        grant, self.grant = self.grant, None
        super().end_overdue()
        self.grant = grant


class EndsLeasesLate(_Table):
    """A lease is exclusive of its end; this one is not."""

    def end_overdue(self) -> None:
        grant = self.grant
        if grant is not None and grant.lease_until == self.now_us:
            self.grant = None
            super().end_overdue()
            self.grant = grant
        else:
            super().end_overdue()


class NeverEndsWaits(_Table):
    """Grants to who has stopped waiting."""

    def end_overdue(self) -> None:
        waiters, self.waiters = self.waiters, []
        super().end_overdue()
        self.waiters = waiters


def passes_on_nothing(right: Any) -> Any:
    """A rule that ends a grant and leaves the line alone."""

    def planted(made: _Table, command: Any) -> Any:
        made.grant_next = lambda: None  # type: ignore[method-assign]
        return right(made, command)

    return planted


def lapses_without_passing_on(_: Any) -> Any:
    """Ends the lease, and nobody is granted."""

    def planted(state: Any, *, now_us: int, revision: int) -> Any:
        if lock_rules.due_us(state) > now_us:
            return None
        made = _Table(state, now_us, revision)
        made.end_overdue()
        return made.ruling(None)

    return planted


def resurrects(right: Any) -> Any:
    """A renewal is judged by when it was sent."""

    def planted(command: Any, state: Any, *, now_us: int, **rest: Any) -> Any:
        if isinstance(command, Renew) and state is not None and state.grant is not None:
            now_us = min(now_us, state.grant.lease_until - 1)
        return right(command, state, now_us=now_us, **rest)

    return planted


def shortens(_: Any) -> Any:
    """A renewal sets the end of the lease, also to an earlier one."""

    def planted(made: _Table, command: Any) -> Any:
        grant = lock_rules._current(made, command.fence, "renewed")
        made.grant = replace(grant, lease_until=made.now_us + command.lease_us)
        return made.ruling(made.reply("renewed", grant.fence))

    return planted


def current_for_ever(_: Any) -> Any:
    """A fence is current as long as nobody else was granted."""

    def planted(state: Any, fence: int, now_us: int) -> bool:
        del now_us
        return state is not None and state.grant is not None and state.grant.fence == fence

    return planted


def any_fence(_: Any) -> Any:
    """Whoever comes with a fence is taken for the holder."""

    def planted(made: _Table, fence: int, deed: str) -> Any:
        del deed
        if made.grant is None:
            raise lock_rules.LockLostError(f"{fence}")
        return made.grant

    return planted


# --- locks: leaving, and asking ---------------------------------------------------------------


def keeps_what_won_the_race(right: Any) -> Any:
    """A withdrawal looks for its ticket in the line only."""

    def planted(made: _Table, command: Any) -> Any:
        if made.grant is not None and made.grant.ticket == command.ticket:
            made.grant_next()
            return made.ruling(made.reply("absent"))
        return right(made, command)

    return planted


def withdraws_the_first(right: Any) -> Any:
    """A withdrawal takes the head of the line out."""

    def planted(made: _Table, command: Any) -> Any:
        if any(waiter.ticket == command.ticket for waiter in made.waiters):
            command = replace(command, ticket=made.waiters[0].ticket)
        return right(made, command)

    return planted


def forgets_the_overtaken(right: Any) -> Any:
    """A withdrawal that comes before its acquire is not remembered."""

    def planted(made: _Table, command: Any) -> Any:
        found = right(made, command)
        state = found.state
        return found if state is None else found._replace(state=replace(state, overtaken=()))

    return planted


def takes_from_anybody(right: Any) -> Any:
    """A forced release does not look at the fence it was sent against."""
    return lambda made, command: right(made, replace(command, fence=None))


def takes_what_it_has_not_seen(_: Any) -> Any:
    """A forced release takes the grant that the end of a lease has made in the same entry."""

    def planted(made: _Table, command: Any) -> Any:
        grant = made.grant
        if grant is None or command.fence not in {None, grant.fence}:
            return made.ruling(made.reply("absent"))
        made.free("lost")
        made.grant_next()
        return made.ruling(made.reply("forced", grant.fence))

    return planted


def queues_a_try(_: Any) -> Any:
    """A try that does not wait is left in the line."""

    def planted(made: _Table, command: Any) -> Any:
        grant = made.grant
        is_ours = grant is not None and grant.ticket == command.ticket
        reply = made.reply("granted", grant.fence) if grant and is_ours else made.reply("queued")
        return made.ruling(reply)

    return planted


def queues_again(right: Any) -> Any:
    """A repeated acquire gets a second place."""

    def planted(made: _Table, command: Any, actor: str) -> Any:
        there = [waiter for waiter in made.waiters if waiter.ticket == command.ticket]
        made.waiters = [waiter for waiter in made.waiters if waiter.ticket != command.ticket]
        found = right(made, replace(command, holder=f"{command.holder}'"), actor)
        made.waiters += there
        return found if not there or made.grant is None else made.ruling(found.result)

    return planted


def ends_the_dead_holder_only(_: Any) -> Any:
    """A new session leaves the waiters of earlier ones in line."""

    def planted(state: Any, *, keep: str, now_us: int, revision: int) -> Any:
        made = lock_rules._Table(state, now_us, revision)
        made.end_overdue()
        if made.grant is not None and made.grant.session != keep:
            made.free("lost")
        made.grant_next()
        return made.ruling(None)

    return planted


def ends_every_session(right: Any) -> Any:
    """A new session ends its own locks too."""
    return lambda state, *, keep, **rest: right(state, keep=f"{keep}'", **rest)


# --- ballots ----------------------------------------------------------------------------------


def counts_again(*, changed: bool) -> Callable[[Any], Any]:
    """A vote that was cast, the same or the other way, is counted once more."""

    def make(right: Any) -> Any:
        def planted(command: Any, state: Any, **rest: Any) -> Any:
            others = tuple(
                cast
                for cast in state.votes
                if cast.voter != command.voter or (cast.approve != command.approve) != changed
            )
            if state.status != "pending" or len(others) == len(state.votes):
                return right(command, state, **rest)
            return right(command, replace(state, votes=others), **rest)

        return planted

    return make


def votes_after_the_decision(right: Any) -> Any:
    """The decision is taken anew with every vote."""

    def planted(command: Any, state: Any, **rest: Any) -> Any:
        return right(command, replace(state, status="pending"), **rest)

    return planted


def votes_after_the_deadline(right: Any) -> Any:
    """The deadline is somebody else's business."""

    def planted(command: Any, state: Any, *, now_us: Any, revision: int) -> Any:
        due = state.deadline
        if due is not None and now_us is not None:
            now_us = min(now_us, due - 1)
        return right(command, state, now_us=now_us, revision=revision)

    return planted


def weighs_by_today_s_registry(patch: pytest.MonkeyPatch) -> None:
    """Who registers again has another weight in proposals that are open."""
    weights: dict[str, str] = {}
    register, unit_of, propose = (
        ballot_rules.register,
        ballot_rules._unit_of,
        ballot_rules.propose,
    )

    def registers(command: Any, *rest: Any, **options: Any) -> Any:
        weights[command.agent] = command.weight
        return register(command, *rest, **options)

    def proposes(*rest: Any, **options: Any) -> Any:
        return propose(*rest, **options)

    def weighs(command: Any, state: Any) -> int:
        unit = unit_of(command, state)
        now = ballot_rules.parse_fraction(weights[command.voter], "weight")
        found = now * int(state.denominator)
        return int(found) if found.denominator == 1 else unit

    patch.setattr(ballot_rules, "register", registers)
    patch.setattr(ballot_rules, "propose", proposes)
    patch.setattr(ballot_rules, "_unit_of", weighs)


def status_if(approves: Callable[[int, int], bool], is_hopeless: Callable[[int, int], bool]) -> Any:
    """Other comparisons of approving with needed, and of what is left with needed."""

    def planted(state: Any) -> str:
        needed = int(state.needed)
        if approves(int(state.approving), needed):
            return "approved"
        left = int(state.total) - int(state.rejecting)
        return "rejected" if is_hopeless(left, needed) else "pending"

    return lambda _: planted


def rounds_the_quorum_down(right: Any) -> Any:
    """Two thirds of four are two."""

    def planted(command: Any, *rest: Any, **options: Any) -> Any:
        ruling = right(command, *rest, **options)
        if ruling.state is None:
            return ruling
        quorum = ballot_rules.parse_fraction(command.quorum, "quorum")
        needed = str(quorum.numerator * int(ruling.state.total) // quorum.denominator)
        return ruling._replace(state=replace(ruling.state, needed=needed))

    return planted


def counts_heads(right: Any) -> Any:
    """One agent, one vote."""

    def planted(command: Any, state: Any) -> int:
        right(command, state)
        return 1

    return planted


def lets_strangers_vote(right: Any) -> Any:
    """Who is not in the electorate has no weight, but a vote."""

    def planted(command: Any, state: Any) -> int:
        try:
            return int(right(command, state))
        except NotRegisteredError:
            return 0

    return planted


def takes_any_weight(right: Any) -> Any:
    """The weight that a vote names is not looked at."""
    return lambda command, state: right(replace(command, weight=None), state)


def is_due_though_decided(_: Any) -> Any:
    """The deadline decides once more."""
    return lambda state: state.deadline


def misses_the_deadline_itself(right: Any) -> Any:
    """At the deadline it is still open."""

    def planted(state: Any, *, now_us: Any, revision: int) -> Any:
        before = None if now_us is None else now_us - 1
        return right(state, now_us=before, revision=revision)

    return planted


def removes_open_ones(right: Any) -> Any:
    """Old is old."""

    def planted(state: Any, command: Any, *, now_us: Any) -> bool:
        return state.status == "pending" or right(state, command, now_us=now_us)

    return planted


def removes_early(right: Any) -> Any:
    """An age counts from one less."""
    return lambda state, command, *, now_us: right(
        state, command, now_us=None if now_us is None else now_us + 1
    )


def needs_the_smallest_first(right: Any) -> Any:
    """Says how many it could take, not how few."""
    return lambda state: right(replace(state, electorate=state.electorate[::-1]))


def puts_it_anew(right: Any) -> Any:
    """What is there already is not looked at."""
    return lambda command, _, electorate, **rest: right(command, None, electorate, **rest)


def takes_it_for_the_same(_: Any) -> Any:
    """An id is an id."""
    return lambda command, existing, quorum: None


# --- the replica ------------------------------------------------------------------------------


def forgets_early(*, own: bool) -> Callable[[Any], Any]:
    """A microsecond too early."""

    def make(right: Any) -> Any:
        return lambda name: right(name) - (requests.is_own(name) == own)

    return make


def remembers_nothing(_: Any) -> Any:
    """Results are thrown away."""
    return lambda *_: None


def remembers_for_good(right: Any) -> Any:
    """Until the row happens to be removed."""
    return lambda views, actor, name, kind, now_us: right(views, actor, name, kind, 0)


def takes_any_kind(right: Any) -> Any:
    """What was answered is the answer, whatever is asked."""

    def planted(views: Any, actor: str, name: str, kind: str, now_us: int) -> Any:
        for one in (kind, "write", "acquire", "release", "vote", "propose", "register"):
            try:
                return right(views, actor, name, one, now_us)
            except requests.InvalidInputError:
                continue
        return None

    return planted


def shares_ids(right: Any) -> Any:
    """An id is one request, whoever makes it."""
    return lambda actor, name: right("", name)


def fences_not(kind: str) -> Plant:
    """One kind of write does not look at its fence."""

    def make(right: Any) -> Any:
        def planted(self: Any, step: Any) -> Any:
            (op,) = step.entry.body.ops
            found = "delete" if op.value is None else "put" if op.vector is None else "observe"
            if found == kind:
                entry = replace(step.entry, body=replace(step.entry.body, fence=None))
                step = step._replace(entry=entry)
            return right(self, step)

        return planted

    return instead(Replica, "_write", make)


def fences_by_what_was(_: Any) -> Any:
    """A fence is judged by the locks as they were before the entry."""

    def planted(self: Any, fence: Any) -> bool:
        named = [fence.resource] if fence.resource else list(self._states.locks)
        grants = [self._states.locks[one].grant for one in named if one in self._states.locks]
        return any(grant is not None and grant.fence == fence.number for grant in grants)

    return planted


def fences_of_any_lock(right: Any) -> Any:
    """A fence counts for whichever lock it is of."""
    return lambda self, fence: right(self, replace(fence, resource=""))


def finds_nothing_due(_: Any) -> Any:
    """What runs out waits for somebody to ask."""
    return lambda self, now_us: []


def knows_no_time(patch: pytest.MonkeyPatch) -> None:
    """Nobody is told from when a tick has something to do."""
    patch.setattr(Coordination, "next_lapse_us", lambda self, *, is_backtest: None)


def does_nothing(_: Any) -> Any:
    """A step is left out."""
    return lambda *_, **__: None


class _Forgetful:
    """A batch that does not store locks."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def put(self, name: bytes, key: bytes, value: bytes) -> None:
        if name != b"locks":
            self._batch.put(name, key, value)


def stores_no_locks(right: Any) -> Any:
    """What holds is in memory only."""
    return lambda self, draft, batch, follow: right(self, draft, _Forgetful(batch), follow)


def changes_before_it_accepts(right: Any) -> Any:
    """What ran out has ended, also where the entry is refused then."""

    def planted(self: Any, resource: str, ruling: Any) -> None:
        right(self, resource, ruling)
        self._states.locks.pop(resource, None)
        if ruling.state is not None:
            self._states.locks[resource] = ruling.state

    return planted
