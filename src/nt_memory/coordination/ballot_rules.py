"""The rules of consensus: who may vote, what a vote does, when a proposal is decided. Pure.

A proposal fixes its electorate, the weights and the quorum when it is submitted; votes are entries;
the tally is an exact fold over them. Weights are fractions. Within one proposal they are kept as
whole units of their common denominator, so that tallying is integer arithmetic: exact, and the
same on every machine.

With T the electorate's weight and q the quorum, a proposal is approved by the entry that brings the
approving weight to q T, and rejected by the entry that brings the disapproving weight above
(1 - q) T, or by the first entry whose timeline now has reached the deadline.

*Guarantees*

- Decided once: no command changes a proposal that is approved or rejected.
- The tally equals a recount of the votes, exactly.
- One vote a voter; what is registered later concerns later proposals only.

*Does not guarantee*: that a decision is acted upon, or only once; take a lock and write under its
fence for that.
"""

from __future__ import annotations

import re
from fractions import Fraction
from math import lcm
from typing import TYPE_CHECKING, Literal

import msgspec

from nt_memory.coordination.ballot_states import (
    BallotEvent,
    BallotRuling,
    CastState,
    ElectorateState,
    ProposalState,
    Standing,
    Status,
)
from nt_memory.errors import (
    InvalidTimeError,
    NotRegisteredError,
    ProposalError,
    UnknownProposalError,
    VoteChangedError,
)
from nt_memory.namespace import check_agent, check_label

if TYPE_CHECKING:
    from nt_memory.entries import CastVote, CleanUp, Propose, Register

MAX_VOTERS = 100_000
MAX_FRACTION_CHARS = 1_000
_MAX_UNITS_BITS = 10_000
_FRACTION = re.compile(r"(\d+)/(\d+)", re.ASCII)


def parse_fraction(text: str, what: str) -> Fraction:
    """The fraction spelled "n/d" in an entry.

    Raises:
        ProposalError: it is not two non-negative decimal numbers, the second above 0.
    """
    match = _FRACTION.fullmatch(text) if len(text) <= MAX_FRACTION_CHARS else None
    if match is None or int(match[2]) == 0:
        raise ProposalError(f"{what} {text[:80]!r} is not a fraction n/d")
    return Fraction(int(match[1]), int(match[2]))


def spell_fraction(fraction: Fraction) -> str:
    """The "n/d" that entries carry."""
    return f"{fraction.numerator}/{fraction.denominator}"


def register(
    command: Register, electorate: ElectorateState | None, *, now_us: int | None, revision: int
) -> BallotRuling:
    """Make an agent a voter of later proposals, or give it another weight in them.

    Returns:
        The ruling; its state is the `ElectorateState`, its result the revision.

    Raises:
        InvalidNameError: a malformed agent name.
        ProposalError: a malformed weight; or `MAX_VOTERS` are registered.
    """
    check_agent(command.agent)
    weight = spell_fraction(parse_fraction(command.weight, "weight"))
    weights = dict(electorate.weights) if electorate is not None else {}
    weights[command.agent] = weight
    if len(weights) > MAX_VOTERS:
        raise ProposalError(f"{MAX_VOTERS} voters are registered already")
    return BallotRuling(ElectorateState(tuple(sorted(weights.items()))), revision)


def propose(
    command: Propose,
    existing: ProposalState | None,
    electorate: ElectorateState | None,
    *,
    now_us: int | None,
    revision: int,
) -> BallotRuling:
    """Put a proposal to the registered voters as they are now, or to `command.weights`.

    Submitting a proposal again is harmless, also when it is decided or the registry has changed.

    Args:
        command: The proposal.
        existing: What is stored under its id.
        electorate: The registered voters.
        now_us: The timeline's now; None in a backtest that has not started.
        revision: The revision the entry takes if it is accepted.

    Returns:
        The ruling; its result is the id. Its state is None if the same proposal is there already.

    Raises:
        InvalidNameError: a malformed id or agent name.
        InvalidTimeError: the deadline does not lie after now.
        NotRegisteredError: the proposer is not registered and the electorate is not given.
        ProposalError: the id belongs to another proposal; the quorum is not in (0, 1]; a malformed
            weight or a voter named twice; the electorate has no weight.
    """
    check_label(command.id, "proposal id")
    check_agent(command.proposer)
    quorum = parse_fraction(command.quorum, "quorum")
    if not 0 < quorum <= 1:
        raise ProposalError(f"quorum {command.quorum} must be above 0 and at most 1")
    if existing is not None:
        _check_same(command, existing, quorum)
        return BallotRuling(None, command.id)
    if command.deadline is not None and now_us is not None and command.deadline <= now_us:
        raise InvalidTimeError(f"the deadline of proposal {command.id!r} does not lie after now")
    weights = _weights(command, electorate)
    units, denominator = _to_units(weights)
    total = sum(units.values())
    if total == 0:
        raise ProposalError("the electorate has no weight, so nothing can be decided")
    state = ProposalState(
        id=command.id,
        proposer=command.proposer,
        data=command.data,
        quorum=spell_fraction(quorum),
        deadline=command.deadline,
        has_own_weights=command.weights is not None,
        denominator=str(denominator),
        electorate=tuple(
            (agent, str(unit))
            for agent, unit in sorted(units.items(), key=lambda item: (-item[1], item[0]))
        ),
        total=str(total),
        needed=str(-(-quorum.numerator * total // quorum.denominator)),
        submitted_at=now_us,
        revision=revision,
    )
    return BallotRuling(state, command.id)


def vote(
    command: CastVote, state: ProposalState | None, *, now_us: int | None, revision: int
) -> BallotRuling:
    """Count one vote.

    A vote after the decision changes nothing and returns it, as does a vote that comes so late that
    the deadline decides.

    Returns:
        The ruling; its result is the `Standing` after the vote. Its state is None if nothing
        changed.

    Raises:
        UnknownProposalError: there is no such proposal.
        NotRegisteredError: the voter is not in its electorate.
        VoteChangedError: the voter has voted the other way, and the proposal is still open.
        ProposalError: the weight is malformed or not the registered one.
    """
    if state is None:
        raise UnknownProposalError(f"no proposal has the id {command.proposal_id!r}")
    unit = _unit_of(command, state)
    lapsed = lapse(state, now_us=now_us, revision=revision)
    if lapsed is not None:
        return lapsed
    if state.status != "pending":
        return BallotRuling(None, standing(state))
    earlier = next((cast for cast in state.votes if cast.voter == command.voter), None)
    if earlier is not None:
        if earlier.approve != command.approve:
            raise VoteChangedError(
                f"{command.voter!r} has already voted {'for' if earlier.approve else 'against'} "
                f"proposal {state.id!r}"
            )
        return BallotRuling(None, standing(state))
    cast = CastState(command.voter, command.approve, now_us, revision)
    field = "approving" if command.approve else "rejecting"
    counted = msgspec.structs.replace(
        state,
        votes=(*state.votes, cast),
        **{field: str(int(getattr(state, field)) + unit)},
    )
    status = _status(counted)
    if status == "pending":
        return BallotRuling(counted, standing(counted))
    return _decided(counted, status, now_us, revision)


def lapse(state: ProposalState, *, now_us: int | None, revision: int) -> BallotRuling | None:
    """Reject a proposal whose deadline was reached undecided; None if that is not so."""
    due = due_us(state)
    if due is None or now_us is None or now_us < due:
        return None
    return _decided(state, "rejected", now_us, revision)


def due_us(state: ProposalState) -> int | None:
    """Timeline time from which `lapse` has something to do; None if it never will."""
    return state.deadline if state.status == "pending" else None


def is_removable(state: ProposalState, command: CleanUp, *, now_us: int | None) -> bool:
    """Whether it was decided at least `command.max_age_us` ago.

    What was decided before a backtest started counts as older than anything after the start.
    """
    if state.status == "pending":
        return False
    if state.decided_at is None or now_us is None:
        return now_us is not None or command.max_age_us <= 0
    return now_us - state.decided_at >= command.max_age_us


def standing(state: ProposalState) -> Standing:
    """Where it stands.

    Cost: O(electorate) text comparisons, and integer additions up to the votes needed.
    """
    share = Fraction(int(state.approving), int(state.total))
    return Standing(state.status, spell_fraction(share), _votes_needed(state))


def _votes_needed(state: ProposalState) -> int:
    if state.status != "pending":
        return 0
    missing = int(state.needed) - int(state.approving)
    voted = {cast.voter for cast in state.votes}
    count = 0
    # Greatest weight first, so the first prefix that suffices is the shortest set that does.
    for agent, unit in state.electorate:
        if missing <= 0:
            break
        if agent not in voted:
            missing -= int(unit)
            count += 1
    return count


def _status(state: ProposalState) -> Status:
    needed = int(state.needed)
    if int(state.approving) >= needed:
        return "approved"
    if int(state.total) - int(state.rejecting) < needed:
        return "rejected"
    return "pending"


def _decided(
    state: ProposalState,
    status: Literal["approved", "rejected"],
    now_us: int | None,
    revision: int,
) -> BallotRuling:
    final = msgspec.structs.replace(
        state, status=status, decided_at=now_us, decided_revision=revision
    )
    return BallotRuling(final, standing(final), (BallotEvent(status, state.id),))


def _unit_of(command: CastVote, state: ProposalState) -> int:
    text = next((unit for agent, unit in state.electorate if agent == command.voter), None)
    if text is None:
        raise NotRegisteredError(
            f"{command.voter!r} is not in the electorate of proposal {state.id!r}"
        )
    unit = int(text)
    if command.weight is not None:
        registered = Fraction(unit, int(state.denominator))
        if parse_fraction(command.weight, "weight") != registered:
            raise ProposalError(
                f"{command.voter!r} votes on proposal {state.id!r} with weight {registered}, "
                f"not {command.weight}"
            )
    return unit


def _check_same(command: Propose, existing: ProposalState, quorum: Fraction) -> None:
    same = (
        command.proposer == existing.proposer
        and command.data == existing.data
        and quorum == parse_fraction(existing.quorum, "quorum")
        and command.deadline == existing.deadline
        and (command.weights is not None) == existing.has_own_weights
    )
    if same and command.weights is not None:
        denominator = int(existing.denominator)
        stored = {agent: Fraction(int(unit), denominator) for agent, unit in existing.electorate}
        same = _named_weights(command.weights) == stored
    if not same:
        raise ProposalError(f"the id {command.id!r} belongs to another proposal")


def _weights(command: Propose, electorate: ElectorateState | None) -> dict[str, Fraction]:
    if command.weights is not None:
        return _named_weights(command.weights)
    registered = electorate.weights if electorate is not None else ()
    weights = {agent: parse_fraction(weight, "weight") for agent, weight in registered}
    if command.proposer not in weights:
        raise NotRegisteredError(
            f"{command.proposer!r} is not registered, and the proposal names no weights"
        )
    return weights


def _named_weights(named: tuple[tuple[str, str], ...]) -> dict[str, Fraction]:
    weights = {check_agent(agent): parse_fraction(weight, "weight") for agent, weight in named}
    if len(weights) != len(named):
        raise ProposalError("a voter is named twice in the proposal's weights")
    if len(weights) > MAX_VOTERS:
        raise ProposalError(f"a proposal has at most {MAX_VOTERS} voters")
    return weights


def _to_units(weights: dict[str, Fraction]) -> tuple[dict[str, int], int]:
    denominator = 1
    for weight in weights.values():
        denominator = lcm(denominator, weight.denominator)
        # Also keeps every count below the 4300 digits that int() reads back.
        if denominator.bit_length() + weight.numerator.bit_length() > _MAX_UNITS_BITS:
            raise ProposalError("the weights are too fine to be counted exactly together")
    units = {
        agent: weight.numerator * (denominator // weight.denominator)
        for agent, weight in weights.items()
    }
    return units, denominator
