"""One proposal as a state machine, against a recount in plain fractions.

Each promise has the words that a failure says; `test_planted_bugs` holds them to that.
"""

from __future__ import annotations

from fractions import Fraction

import hypothesis.strategies as st
import msgspec
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nt_memory.coordination import ballot_rules
from nt_memory.coordination.ballot_states import BallotRuling, ElectorateState, ProposalState
from nt_memory.entries import CastVote, CleanUp, Propose, Register
from nt_memory.errors import NotRegisteredError, ProposalError, VoteChangedError

VOTERS = ["a", "b", "c", "d", "e"]
# Small numbers, so that tallies meet quorums and nows meet deadlines exactly.
WEIGHTS = st.sampled_from([Fraction(n, d) for n in range(3) for d in (1, 2, 3)])
QUORUMS = st.sampled_from([Fraction(1, 3), Fraction(1, 2), Fraction(2, 3), Fraction(1)])


class BallotMachine(RuleBasedStateMachine):
    """Votes in any order, repeated, changed, late and from strangers; time jumps; registrations."""

    def __init__(self) -> None:
        super().__init__()
        self.now: int | None = None
        self.revision = 0
        self.registered = ElectorateState()
        self.weights: dict[str, Fraction] = {}
        self.state: ProposalState | None = None
        self.cast: dict[str, bool] = {}
        self.decision: str | None = None
        self.deadline: int | None = None
        self.announced: list[str] = []

    @initialize(
        weights=st.lists(WEIGHTS, min_size=1, max_size=5).filter(any),
        quorum=QUORUMS,
        deadline=st.none() | st.integers(1, 6),
        now=st.none() | st.just(0),
    )
    def begin(
        self, weights: list[Fraction], quorum: Fraction, deadline: int | None, now: int | None
    ) -> None:
        self.now = now
        self.quorum, self.deadline = quorum, deadline
        self.weights = dict(zip(VOTERS, weights, strict=False))
        for agent, weight in self.weights.items():
            self._register(agent, weight)
        self.command = Propose("p", "a", b"x", ballot_rules.spell_fraction(quorum), deadline)
        ruling = ballot_rules.propose(
            self.command, None, self.registered, now_us=self.now, revision=self._next()
        )
        self._keep(ruling)

    def _next(self) -> int:
        self.revision += 1
        return self.revision

    def _keep(self, ruling: BallotRuling) -> None:
        if ruling.state is not None:
            assert self.decision is None, "a decided proposal changed"
            data = msgspec.msgpack.encode(ruling.state)
            self.state = msgspec.msgpack.decode(data, type=ProposalState)
        for event in ruling.events:
            self.announced.append(event.kind)
            self.decision = event.kind
        assert len(self.announced) <= 1, "decided twice"

    def _register(self, agent: str, weight: Fraction) -> None:
        command = Register(agent, ballot_rules.spell_fraction(weight))
        ruling = ballot_rules.register(
            command, self.registered, now_us=self.now, revision=self._next()
        )
        self.registered = ruling.state

    @rule(agent=st.sampled_from([*VOTERS, "stranger"]), weight=WEIGHTS)
    def register_later(self, agent: str, weight: Fraction) -> None:
        """Concerns later proposals only: the recount below keeps the first weights."""
        self._register(agent, weight)

    @rule(voter=st.sampled_from(VOTERS), approve=st.booleans(), named=st.booleans())
    def vote(self, voter: str, approve: bool, named: bool) -> None:
        self._vote(voter, approve, is_named=named)

    def _vote(self, voter: str, approve: bool, *, is_named: bool) -> None:
        weight = self.weights.get(voter)
        text = ballot_rules.spell_fraction(weight) if is_named and weight is not None else None
        command = CastVote("p", voter, approve, text)
        decision = self.decision
        is_late = self.now is not None and self.deadline is not None and self.now >= self.deadline
        try:
            ruling = ballot_rules.vote(command, self.state, now_us=self.now, revision=self._next())
        except NotRegisteredError:
            assert weight is None, "a voter was refused"
            return
        except VoteChangedError:
            assert self.cast.get(voter, approve) != approve, "a repeated vote was refused"
            assert decision is None, "a vote after the decision was refused"
            return
        assert weight is not None, "a stranger voted"
        if decision is None and not is_late:
            assert self.cast.setdefault(voter, approve) == approve, "a vote was changed"
        self._keep(ruling)
        is_too_late = is_late and decision is None
        assert not is_too_late or self.decision == "rejected", "a vote after the deadline counted"
        assert ruling.result.status == self.state.status, "told something else"
        if decision is not None:
            assert ruling.result.status == decision, "told another decision"

    @precondition(lambda self: self.cast)
    @rule(data=st.data(), is_changed=st.booleans())
    def vote_again(self, data: st.DataObject, is_changed: bool) -> None:
        """Who has voted votes the same once more, or the other way."""
        voter = data.draw(st.sampled_from(sorted(self.cast)))
        self._vote(voter, self.cast[voter] != is_changed, is_named=False)

    @precondition(lambda self: self.deadline is not None and self.decision is None)
    @rule(voter=st.sampled_from(VOTERS), approve=st.booleans(), edge=st.sampled_from([-1, 0]))
    def vote_at_the_deadline(self, voter: str, approve: bool, edge: int) -> None:
        """The last moment at which it counts, and the first at which it does not."""
        self.now = max(self.now or 0, (self.deadline or 0) + edge)
        self._vote(voter, approve, is_named=False)

    @rule(voter=st.sampled_from(VOTERS), weight=WEIGHTS)
    def vote_with_wrong_weight(self, voter: str, weight: Fraction) -> None:
        if voter in self.weights and weight != self.weights[voter]:
            command = CastVote("p", voter, True, ballot_rules.spell_fraction(weight))
            try:
                ballot_rules.vote(command, self.state, now_us=self.now, revision=self._next())
            except ProposalError:
                return
            raise AssertionError("a vote with another weight was counted")

    @rule()
    def propose_again(self) -> None:
        ruling = ballot_rules.propose(
            self.command, self.state, self.registered, now_us=self.now, revision=self._next()
        )
        assert ruling.state is None, "a proposal was put anew"
        assert ruling.result == "p"

    @rule(data=st.sampled_from([b"x", b"y"]), quorum=QUORUMS)
    def propose_something_else(self, data: bytes, quorum: Fraction) -> None:
        """Under the same id."""
        if (data, quorum) != (b"x", self.quorum):
            text = ballot_rules.spell_fraction(quorum)
            other, now, revision = (
                Propose("p", "a", data, text, self.deadline),
                self.now,
                self._next(),
            )
            try:
                ballot_rules.propose(
                    other, self.state, self.registered, now_us=now, revision=revision
                )
            except ProposalError:
                return
            raise AssertionError("another proposal has its id")

    @rule(span=st.integers(0, 3))
    def pass_time(self, span: int) -> None:
        self.now = (self.now or 0) + span

    @precondition(lambda self: self.state is not None)
    @rule()
    def tick(self) -> None:
        due = ballot_rules.due_us(self.state)
        ruling = ballot_rules.lapse(self.state, now_us=self.now, revision=self._next())
        is_over = self.deadline is not None and self.now is not None and self.now >= self.deadline
        assert due == (self.deadline if self.decision is None else None), "due when it is not"
        assert (ruling is not None) == (is_over and self.decision is None), "not when it is due"
        if ruling is not None:
            self._keep(ruling)
            assert self.state.status == "rejected"

    @rule(max_age=st.integers(0, 4))
    def would_clean_up(self, max_age: int) -> None:
        is_removable = ballot_rules.is_removable(self.state, CleanUp(max_age), now_us=self.now)
        if self.state.status == "pending":
            assert not is_removable, "an open proposal would be removed"
        elif self.now is not None and self.state.decided_at is not None:
            is_old = self.now - self.state.decided_at >= max_age
            assert is_removable == is_old, "removed at another age"

    @invariant()
    def tally_is_a_recount(self) -> None:
        if self.state is None:
            return
        total = sum(self.weights.values(), Fraction(0))
        approving = sum((self.weights[v] for v, yes in self.cast.items() if yes), Fraction(0))
        rejecting = sum((self.weights[v] for v, yes in self.cast.items() if not yes), Fraction(0))
        denominator = int(self.state.denominator)
        assert Fraction(int(self.state.approving), denominator) == approving, "no recount"
        assert Fraction(int(self.state.rejecting), denominator) == rejecting, "no recount"
        assert {c.voter: c.approve for c in self.state.votes} == self.cast, "other votes"
        standing = ballot_rules.standing(self.state)
        assert Fraction(standing.approving) == approving / total, "told another share"
        if self.state.status == "pending":
            assert approving < self.quorum * total, "not approved at its quorum"
            assert self.quorum * total <= total - rejecting, "not rejected, and it is hopeless"
            self._check_votes_needed(standing.votes_needed, self.quorum * total - approving)
        elif self.state.status == "approved":
            assert approving >= self.quorum * total, "approved below its quorum"
        else:
            reached = self.deadline is not None and self.now is not None
            is_late = reached and self.now >= self.deadline
            assert approving < self.quorum * total, "rejected at its quorum"
            is_hopeless = total - rejecting < self.quorum * total
            assert is_late or is_hopeless, "rejected too early"

    def _check_votes_needed(self, needed: int, missing: Fraction) -> None:
        left = sorted((w for v, w in self.weights.items() if v not in self.cast), reverse=True)
        assert sum(left[:needed], Fraction(0)) >= missing, "more votes are needed"
        assert sum(left[: needed - 1], Fraction(0)) < missing, "fewer votes are needed"

    @invariant()
    def decision_stays(self) -> None:
        if self.decision is not None:
            assert self.state.status == self.decision, "another decision than was announced"
