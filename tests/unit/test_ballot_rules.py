"""Consensus rules, one promise each; orders and interleavings are explored in tests/property."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import msgspec
import pytest

from nt_memory.coordination import ballot_rules
from nt_memory.coordination.ballot_states import ElectorateState, ProposalState, Standing
from nt_memory.entries import CastVote, CleanUp, Propose, Register
from nt_memory.errors import (
    InvalidNameError,
    InvalidTimeError,
    NotRegisteredError,
    ProposalError,
    UnknownProposalError,
    VoteChangedError,
)

THREE = (("a", "1/1"), ("b", "1/1"), ("c", "1/1"))


def propose(
    weights: tuple[tuple[str, str], ...] | None = THREE,
    *,
    quorum: str = "2/3",
    now_us: int | None = 0,
    **fields: Any,
) -> ProposalState:
    command = Propose("p", "a", b"data", quorum, weights=weights, **fields)
    return ballot_rules.propose(command, None, None, now_us=now_us, revision=1).state


def vote(
    state: ProposalState, voter: str, approve: bool = True, *, now_us: int | None = 1, **kw: Any
) -> tuple[ProposalState, Standing]:
    command = CastVote("p", voter, approve, **kw)
    ruling = ballot_rules.vote(command, state, now_us=now_us, revision=2)
    return ruling.state or state, ruling.result


def test_two_thirds_of_three_equal_voters_is_two() -> None:
    """Exactly the quorum approves: no float rounding in the way."""
    state, first = vote(propose(), "a")
    assert first == Standing("pending", "1/3", 1)
    state, second = vote(state, "b")
    assert (second.status, second.votes_needed) == ("approved", 0)
    assert (state.decided_at, state.decided_revision) == (1, 2)


def test_rejected_as_soon_as_the_quorum_is_out_of_reach() -> None:
    """Two of three against: the third cannot help."""
    state, first = vote(propose(), "a", False)
    assert first.status == "pending"
    assert vote(state, "b", False)[1].status == "rejected"


def test_unanimity_needs_everybody_and_one_no_ends_it() -> None:
    """A quorum of 1 is rejected by a single vote with weight."""
    assert vote(propose(quorum="1/1"), "c", False)[1].status == "rejected"


def test_tenths_add_up_exactly() -> None:
    """Ten weights of 1/10 are 1: a quorum of 1 is reached, where floats fall short of it."""
    names = [f"v{n}" for n in range(10)]
    state = propose(tuple((name, "1/10") for name in names), quorum="1/1")
    for name in names:
        state, standing = vote(state, name)
    assert standing.status == "approved"
    assert standing.approving == "1/1"


def test_votes_needed_counts_the_heaviest_first() -> None:
    """The smallest number of remaining voters that can approve it."""
    state = propose((("a", "1/1"), ("b", "5/1"), ("c", "2/1"), ("d", "0/1")), quorum="7/8")
    assert ballot_rules.standing(state).votes_needed == 2
    assert vote(state, "a")[1].votes_needed == 2
    assert vote(state, "b")[1].votes_needed == 1


def test_vote_after_the_decision_changes_nothing_and_returns_it() -> None:
    """Also the vote of one who has voted the other way."""
    state, _ = vote(vote(propose(), "a")[0], "b")
    for voter, approve in (("c", False), ("a", False)):
        ruling = ballot_rules.vote(CastVote("p", voter, approve), state, now_us=9, revision=9)
        assert (ruling.state, ruling.result.status, ruling.events) == (None, "approved", ())


def test_repeating_a_vote_is_harmless_and_changing_it_is_refused() -> None:
    """One vote a voter."""
    state, first = vote(propose(), "a")
    ruling = ballot_rules.vote(CastVote("p", "a", approve=True), state, now_us=2, revision=3)
    assert (ruling.state, ruling.result) == (None, first)
    with pytest.raises(VoteChangedError, match="already voted for"):
        vote(state, "a", False)


def test_strangers_and_wrong_weights_are_refused() -> None:
    """Only the electorate votes, with the weight it has; 2/2 is 1."""
    state = propose()
    with pytest.raises(NotRegisteredError):
        vote(state, "z")
    with pytest.raises(ProposalError, match="with weight 1, not 2/1"):
        vote(state, "a", weight="2/1")
    assert vote(state, "a", weight="2/2")[1].status == "pending"
    with pytest.raises(UnknownProposalError):
        ballot_rules.vote(CastVote("p", "a", approve=True), None, now_us=0, revision=1)


def test_deadline_rejects_at_its_instant_and_not_before() -> None:
    """A vote in the microsecond before the deadline counts; one at the deadline finds it decided."""
    state = propose(deadline=10)
    state, _ = vote(state, "a", now_us=9)
    assert ballot_rules.lapse(state, now_us=9, revision=3) is None
    late, standing = vote(state, "b", now_us=10)
    assert standing.status == "rejected"
    assert len(late.votes) == 1
    ruling = ballot_rules.lapse(state, now_us=10, revision=3)
    assert ruling.state.status == "rejected"
    assert [event.kind for event in ruling.events] == ["rejected"]
    assert ballot_rules.due_us(ruling.state) is None


def test_deadline_waits_for_a_backtest_to_start() -> None:
    """Before the first advance there is no now, so nothing is late."""
    state = propose(deadline=10, now_us=None)
    assert ballot_rules.lapse(state, now_us=None, revision=2) is None
    assert vote(state, "a", now_us=None)[1].status == "pending"


def test_deadline_must_lie_ahead() -> None:
    """A proposal that could only be rejected is refused."""
    with pytest.raises(InvalidTimeError):
        propose(deadline=5, now_us=5)


def test_registration_is_for_later_proposals() -> None:
    """The electorate is fixed at submission."""
    registered = ballot_rules.register(Register("a", "2/4"), None, now_us=0, revision=1).state
    command = Propose("p", "a", b"", "2/3")
    state = ballot_rules.propose(command, None, registered, now_us=0, revision=2).state
    assert registered == ElectorateState((("a", "1/2"),))
    later = ballot_rules.register(Register("b", "9/1"), registered, now_us=0, revision=3).state
    assert [agent for agent, _ in later.weights] == ["a", "b"]
    assert vote(state, "a")[1].status == "approved"


def test_proposer_must_be_registered_unless_weights_are_given() -> None:
    """Who names the electorate need not belong to it."""
    registered = ElectorateState((("b", "1/1"),))
    for voters in (registered, None):
        with pytest.raises(NotRegisteredError):
            ballot_rules.propose(Propose("p", "a", b"", "2/3"), None, voters, now_us=0, revision=1)
    given = Propose("p", "a", b"", "2/3", weights=(("b", "1/1"),))
    assert ballot_rules.propose(given, None, registered, now_us=0, revision=1).state is not None


def test_same_proposal_again_is_harmless_and_another_is_refused() -> None:
    """An id belongs to one content; fractions are compared by value."""
    state = propose()
    same = Propose("p", "a", b"data", "4/6", weights=tuple(reversed(THREE)))
    assert ballot_rules.propose(same, state, None, now_us=99, revision=5).state is None
    for change in (
        {"proposer": "b"}, {"data": b"other"}, {"quorum": "1/2"}, {"deadline": 5},
        {"weights": None}, {"weights": THREE[:2]},
    ):  # fmt: skip
        other = msgspec.structs.replace(same, **change)
        with pytest.raises(ProposalError, match="another proposal"):
            ballot_rules.propose(other, state, None, now_us=0, revision=5)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"id": ""}, InvalidNameError),
        ({"proposer": "no/slash"}, InvalidNameError),
        ({"quorum": "0/1"}, ProposalError),
        ({"quorum": "4/3"}, ProposalError),
        ({"quorum": "0.5"}, ProposalError),
        ({"quorum": "1/0"}, ProposalError),
        ({"weights": ()}, ProposalError),
        ({"weights": (("a", "0/1"), ("b", "0/3"))}, ProposalError),
        ({"weights": (("a", "-1/1"),)}, ProposalError),
        ({"weights": (("a", "nan"),)}, ProposalError),
        ({"weights": (("a", "1/1"), ("a", "2/1"))}, ProposalError),
        ({"weights": (("a b", "1/1"),)}, InvalidNameError),
        ({"weights": tuple((f"a{n}", f"1/{10**900 + n}") for n in range(9))}, ProposalError),
    ],
)
def test_malformed_proposals_are_refused(change: dict[str, Any], error: type[Exception]) -> None:
    """Quorums outside (0, 1], weights that are no fractions, electorates without weight."""
    command = msgspec.structs.replace(Propose("p", "a", b"", "2/3", weights=THREE), **change)
    with pytest.raises(error):
        ballot_rules.propose(command, None, None, now_us=0, revision=1)


def test_only_decided_and_old_proposals_are_removable() -> None:
    """`max_age` counts from the decision, on the timeline."""
    state = propose()
    assert not ballot_rules.is_removable(state, CleanUp(0), now_us=10**9)
    state, _ = vote(vote(state, "a")[0], "b", now_us=100)
    assert not ballot_rules.is_removable(state, CleanUp(50), now_us=149)
    assert ballot_rules.is_removable(state, CleanUp(50), now_us=150)


def test_state_survives_msgpack_with_weights_beyond_64_bits() -> None:
    """What the views store comes back equal."""
    state, _ = vote(propose((("a", f"{10**30}/7"), ("b", "1/3"))), "b")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=ProposalState) == state
    assert Fraction(int(state.total), int(state.denominator)) == Fraction(10**30, 7) + Fraction(
        1, 3
    )


def test_a_fraction_of_a_thousand_characters_is_read_and_no_longer_one() -> None:
    """The bound is on the text, before any number is made of it."""
    longest = "1" * 998 + "/9"
    assert ballot_rules.parse_fraction(longest, "weight").denominator in {1, 3, 9}
    with pytest.raises(ProposalError, match="weight '1111"):
        ballot_rules.parse_fraction("1" + longest, "weight")


def test_what_was_decided_before_a_backtest_began_goes_only_with_everything() -> None:
    """Without a now, an age of zero removes it, and the least age above keeps it."""
    state = propose(now_us=None)
    for voter in ("a", "b"):
        state, _ = vote(state, voter, now_us=None)
    assert state.status == "approved"
    assert ballot_rules.is_removable(state, CleanUp(0), now_us=None)
    assert not ballot_rules.is_removable(state, CleanUp(1), now_us=None)
    assert ballot_rules.is_removable(state, CleanUp(10**12), now_us=5)


def test_a_proposal_says_everything_it_was_submitted_with() -> None:
    """Electorate by weight, then name; weights as whole units of their common denominator."""
    weights = (("b", "1/3"), ("z", "1/2"), ("a", "1/3"), ("n", "0/1"))
    state = propose(weights, quorum="4/6", deadline=9, now_us=7)
    assert state == ProposalState(
        id="p",
        proposer="a",
        data=b"data",
        quorum="2/3",
        deadline=9,
        has_own_weights=True,
        denominator="6",
        electorate=(("z", "3"), ("a", "2"), ("b", "2"), ("n", "0")),
        total="7",
        needed="5",  # two thirds of seven, rounded up
        submitted_at=7,
        revision=1,
    )
    command = Propose("p", "a", b"", "1/1")
    registered = ElectorateState((("a", "1/2"), ("c", "1/1")))
    ruling = ballot_rules.propose(command, None, registered, now_us=None, revision=8)
    assert (ruling.result, ruling.state.revision, ruling.state.submitted_at) == ("p", 8, None)
    assert not ruling.state.has_own_weights
    assert ruling.state.electorate == (("c", "2"), ("a", "1"))


def test_every_command_says_by_which_entry_it_was_decided() -> None:
    """Votes, decisions and registrations carry the revision and the time that they came with."""
    state, _ = vote(propose(deadline=50), "b", False, now_us=4)
    (cast,) = state.votes
    assert (cast.voter, cast.approve, cast.at, cast.revision) == ("b", False, 4, 2)
    assert (state.decided_at, state.decided_revision) == (None, 0)
    lapsed = ballot_rules.lapse(state, now_us=60, revision=33)
    assert (lapsed.state.decided_at, lapsed.state.decided_revision) == (60, 33)
    assert lapsed.result == Standing("rejected", "0/1", 0)
    assert [(event.kind, event.proposal_id) for event in lapsed.events] == [("rejected", "p")]
    late = ballot_rules.vote(CastVote("p", "c", approve=True), state, now_us=60, revision=34)
    assert (late.state.decided_at, late.state.decided_revision) == (60, 34)
    ruling = ballot_rules.register(Register("a", "1/1"), None, now_us=None, revision=21)
    assert ruling.result == 21
    again = Propose("p", "a", b"data", "2/3", weights=THREE, deadline=50)
    ruling = ballot_rules.propose(again, state, None, now_us=60, revision=40)
    assert (ruling.state, ruling.result, ruling.events) == (None, "p", ())


@pytest.mark.parametrize("approve", [True, False])
def test_votes_of_both_kinds_are_counted_apart(approve: bool) -> None:
    """The approving share is of the whole electorate; who is against adds nothing to it."""
    state = propose((("a", "2/7"), ("b", "1/7"), ("c", "4/7")), quorum="1/1")
    state, standing = vote(state, "a", approve)
    counted = (state.approving, state.rejecting)
    assert counted == (("2", "0") if approve else ("0", "2"))
    assert standing.approving == ("2/7" if approve else "0/1")
    assert standing.status == ("pending" if approve else "rejected")
    if not approve:
        return
    with pytest.raises(VoteChangedError, match=r"'a' has already voted for proposal 'p'"):
        vote(state, "a", False)


def test_a_vote_against_is_named_as_one() -> None:
    """Who changes a vote is told what it was."""
    state, _ = vote(propose(), "a", False)
    with pytest.raises(VoteChangedError, match=r"'a' has already voted against proposal 'p'"):
        vote(state, "a")


def test_weights_are_compared_as_fractions_of_the_whole_electorate() -> None:
    """A vote says the weight that was registered, not the units it is counted in."""
    state = propose((("a", "1/2"), ("b", "1/3")), quorum="1/1")
    assert vote(state, "a", weight="1/2")[0].approving == "3"
    assert vote(state, "b", weight="2/6")[0].approving == "2"
    for weight in ("3/1", "3/6000", "1/3"):
        with pytest.raises(ProposalError, match=f"with weight 1/2, not {weight}"):
            vote(state, "a", weight=weight)


def test_the_same_weights_make_the_same_proposal() -> None:
    """Given weights are compared one by one, whatever units they are kept in."""
    weights = (("a", "1/2"), ("b", "1/3"))
    state = propose(weights)
    command = Propose("p", "a", b"data", "2/3", weights=(("b", "2/6"), ("a", "1/2")))
    assert ballot_rules.propose(command, state, None, now_us=0, revision=5).state is None
    for other in ((("a", "3/1"), ("b", "2/1")), (("a", "1/3"), ("b", "1/2")), (("a", "1/2"),)):
        command = Propose("p", "a", b"data", "2/3", weights=other)
        with pytest.raises(ProposalError, match="another proposal"):
            ballot_rules.propose(command, state, None, now_us=0, revision=5)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ballot_rules.register(Register("a", "x"), None, now_us=0, revision=1), "weight"),
        (lambda: propose(quorum="x"), "quorum"),
        (lambda: propose((("a", "x"),)), "weight"),
        (lambda: vote(propose(), "a", weight="x"), "weight"),
        (
            lambda: ballot_rules.propose(
                Propose("p", "a", b"", "1/1"),
                None,
                ElectorateState((("a", "x"),)),
                now_us=0,
                revision=1,
            ),
            "weight",
        ),
    ],
    ids=range(5),
)
def test_a_malformed_fraction_is_named(call, said: str) -> None:
    """The message says which of the numbers it was, and shows it."""
    with pytest.raises(ProposalError, match=f"^{said} 'x' is not a fraction n/d$"):
        call()


def test_a_malformed_id_is_named() -> None:
    """The message says what is no id."""
    with pytest.raises(InvalidNameError, match=r"^proposal id"):
        ballot_rules.propose(Propose("", "a", b"", "1/1"), None, None, now_us=0, revision=1)


def test_an_electorate_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly as many voters as may be, registered or given; the weight of one may still change."""
    monkeypatch.setattr(ballot_rules, "MAX_VOTERS", 2)
    state = None
    for agent in ("a", "b"):
        ruling = ballot_rules.register(Register(agent, "1/1"), state, now_us=0, revision=1)
        state = ruling.state
    ruling = ballot_rules.register(Register("b", "2/1"), state, now_us=0, revision=1)
    assert ruling.state.weights == (("a", "1/1"), ("b", "2/1"))
    with pytest.raises(ProposalError, match="2 voters are registered already"):
        ballot_rules.register(Register("c", "1/1"), state, now_us=0, revision=1)
    assert propose(THREE[:2]).total == "2"
    with pytest.raises(ProposalError, match="at most 2 voters"):
        propose(THREE)


def test_weights_are_as_fine_as_can_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is on the bits of a weight and of the common denominator together."""
    monkeypatch.setattr(ballot_rules, "_MAX_UNITS_BITS", 6)
    assert propose((("a", "7/7"), ("b", "1/8"))).total == "9"  # four bits and one
    assert propose((("a", "3/1"), ("b", "1/8"))).total == "25"
    assert propose((("a", "1/8"), ("b", "3/8"))).total == "4"
    for weights in ((("a", "7/8"),), (("a", "1/8"), ("b", "7/1")), (("a", "1/4"), ("b", "1/9"))):
        with pytest.raises(ProposalError, match="too fine"):
            propose(weights)


def test_a_deadline_a_microsecond_ahead_is_one() -> None:
    """Only what does not lie after now is refused; without a now nothing is."""
    assert propose(deadline=6, now_us=5).deadline == 6
    assert propose(deadline=-(10**9), now_us=None).deadline == -(10**9)
    for late in (4, 5):
        with pytest.raises(InvalidTimeError, match="'p' does not lie after now"):
            propose(deadline=late, now_us=5)


def test_votes_needed_leaves_out_who_has_voted() -> None:
    """Those against cannot be asked again; none is needed once it is decided."""
    state = propose((("a", "3/1"), ("b", "2/1"), ("c", "2/1"), ("d", "1/1")), quorum="1/2")
    assert ballot_rules.standing(state).votes_needed == 2
    state, standing = vote(state, "a", False)
    assert standing.votes_needed == 2
    state, standing = vote(state, "b")
    assert standing.votes_needed == 1
    state, standing = vote(state, "c")
    assert (standing.status, standing.votes_needed) == ("approved", 0)


@pytest.mark.parametrize("text", ["1/2", "0/1", "007/010"])
def test_fractions_are_two_numbers(text: str) -> None:
    """Decimal digits, a stroke, decimal digits."""
    numerator, denominator = text.split("/")
    assert ballot_rules.parse_fraction(text, "w") == Fraction(int(numerator), int(denominator))


@pytest.mark.parametrize("text", ["1/00", "/1", "1/", " 1/2", "1/2\n", "+1/2", "²/3", "1/2/3"])
def test_nothing_else_is_a_fraction(text: str) -> None:
    """No signs, spaces or other scripts' digits; no zero below."""
    with pytest.raises(ProposalError, match=r"^w "):
        ballot_rules.parse_fraction(text, "w")


def test_removal_counts_from_the_decision_to_now() -> None:
    """What was decided this instant has the age zero; an open one has none."""
    state = propose()
    assert not ballot_rules.is_removable(state, CleanUp(-1), now_us=None)
    state, _ = vote(vote(state, "a")[0], "b", now_us=100)
    assert ballot_rules.is_removable(state, CleanUp(0), now_us=100)
    assert not ballot_rules.is_removable(state, CleanUp(1), now_us=100)
