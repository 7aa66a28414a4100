"""The public values of consensus, and how quorums and weights are read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from nt_memory.coordination.ballot_rules import MAX_FRACTION_CHARS
from nt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

Weight = int | float | Fraction | Decimal | str
"""A float or Decimal counts as the decimal it prints as; text is "n/d" or a decimal."""

# Keeps the spelling below MAX_FRACTION_CHARS: a digit has 3.3 bits.
_MAX_BITS = 3 * MAX_FRACTION_CHARS
# What people mean who write a third or two thirds with two digits.
_THIRDS = {0.66: Fraction(2, 3), 0.67: Fraction(2, 3), 0.33: Fraction(1, 3), 0.34: Fraction(1, 3)}


@dataclass(frozen=True, slots=True)
class Proposal:
    """Something to be decided.

    Attributes:
        proposer: The agent that puts it.
        data: Any value that the memory can store.
        quorum: Share of the electorate's weight that approves it, in (0, 1]. The floats 0.66 and
            0.67 are read as two thirds, 0.33 and 0.34 as one third; everything else exactly.
        deadline: When it is rejected if undecided, an aware time on the timeline; None: never.
        weights: The electorate, voter to weight; None: the registered agents.
        id: Its name; made up when empty.
    """

    proposer: str
    data: Any
    quorum: Weight = "2/3"
    deadline: datetime | None = None
    weights: Mapping[str, Weight] | None = None
    id: str = ""


@dataclass(frozen=True, slots=True)
class Vote:
    """One vote. `weight`, where given, must be the one the voter has in the proposal."""

    proposal_id: str
    voter: str
    approve: bool
    weight: Weight | None = None


@dataclass(frozen=True, slots=True)
class Approved:
    """The approving weight reached the quorum."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The quorum cannot be reached any more, or the deadline passed."""


@dataclass(frozen=True, slots=True)
class Pending:
    """Not decided yet.

    Attributes:
        approval_rate: Approving share of the whole electorate's weight, in [0, 1].
        votes_needed: Smallest number of voters, of those who have not voted, whose approval would
            approve it.
    """

    approval_rate: float
    votes_needed: int


Decision = Approved | Rejected


@dataclass(frozen=True, slots=True)
class VoteRecord:
    """One vote as it was counted. `at` is timeline time, None before a backtest has started."""

    voter: str
    approve: bool
    weight: Fraction
    at: datetime | None
    revision: int


@dataclass(frozen=True, slots=True)
class ProposalRecord:
    """A proposal with everything that bears on its decision.

    Attributes:
        id: Its name.
        proposer: The agent that put it.
        data: What is proposed, read-only.
        quorum: Share of the electorate's weight that approves it.
        deadline: When it is rejected if undecided.
        electorate: Voter to weight, fixed at submission.
        votes: The votes, in order.
        result: Where it stands.
        submitted_at: Timeline time; None before a backtest has started.
        decided_at: Timeline time of the decision; None while pending.
        revision: The entry that submitted it.
    """

    id: str
    proposer: str
    data: Any
    quorum: Fraction
    deadline: datetime | None
    electorate: Mapping[str, Fraction]
    votes: tuple[VoteRecord, ...]
    result: Decision | Pending
    submitted_at: datetime | None
    decided_at: datetime | None
    revision: int


def read_weight(weight: Weight) -> Fraction:
    """The exact weight that is meant.

    Raises:
        InvalidInputError: negative, infinite, NaN, or not a number.
    """
    return _read(weight, "weight")


def read_quorum(quorum: Weight) -> Fraction:
    """The exact share that is meant.

    Raises:
        InvalidInputError: not a number above 0 and at most 1.
    """
    if isinstance(quorum, float) and quorum in _THIRDS:
        return _THIRDS[quorum]
    share = _read(quorum, "quorum")
    if not 0 < share <= 1:
        raise InvalidInputError(f"quorum must be above 0 and at most 1, not {quorum!r}")
    return share


def _read(number: Weight, what: str) -> Fraction:
    if isinstance(number, bool) or not isinstance(number, (int, float, Fraction, Decimal, str)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInputError(f"{what} must be a number, not {type(number).__name__}")
    if isinstance(number, (float, Decimal)) and not math.isfinite(number):
        raise InvalidInputError(f"{what} must be finite, not {number!r}")
    if isinstance(number, (Decimal, str)) and _has_wild_exponent(number):
        raise InvalidInputError(f"{what} must have fewer digits than {str(number)[:40]!r}")
    try:
        # repr: 0.1 means one tenth, not the binary fraction nearest to it.
        fraction = Fraction(repr(float(number)) if isinstance(number, float) else number)
    except (ValueError, ZeroDivisionError):
        raise InvalidInputError(f"{what} {number!r} is not a number") from None
    if fraction < 0:
        raise InvalidInputError(f"{what} must not be negative, not {number!r}")
    if fraction.numerator.bit_length() + fraction.denominator.bit_length() > _MAX_BITS:
        raise InvalidInputError(f"{what} has too many digits")
    return fraction


def _has_wild_exponent(number: Decimal | str) -> bool:
    """Whether merely building the fraction would be costly."""
    if isinstance(number, str):
        return len(number) > MAX_FRACTION_CHARS or "e" in number.lower()
    return abs(number.adjusted()) > _MAX_BITS or len(number.as_tuple().digits) > _MAX_BITS
