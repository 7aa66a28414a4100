"""Who differs, since when, and who has to stop."""

from __future__ import annotations

import pytest

from nt_memory.replica.ledger import HELD, Ring
from nt_memory.system.auditing import Audit, Statement, Verdict, Voice, compare

ME = Voice("", "me")


def ring(count: int, *, first: int = 1, differs_from: int | None = None) -> Ring:
    """Digests of `count` entries from `first` on; from one on they are others than everybody's."""
    made = Ring()
    for sequence in range(first, first + count):
        is_other = differs_from is not None and sequence >= differs_from
        made.put(sequence, (sequence * 2 + is_other).to_bytes(8, "little"))
    return made


def statement(of: Ring, first: int | None = None, last: int | None = None) -> Statement:
    """What a node with such a ring states."""
    oldest, digests = of.span()
    start = oldest if first is None else first
    end = of.last if last is None else last
    return Statement(start, digests[start - oldest : end - oldest + 1])


@pytest.mark.parametrize("differs_from", [1, 2, 499, 500, 999, 1000])
def test_the_first_entry_that_differs_is_found(differs_from: int) -> None:
    """Wherever two replicas part, their whole ledgers name the very entry."""
    other = statement(ring(1000, differs_from=differs_from))
    assert compare(ring(1000), other) == Verdict(1000, differs_from, differs_from - 1)


def test_one_digest_tells_that_they_differ_and_not_since_when() -> None:
    """A statement of the newest entry alone is enough to find out; the place comes from the others."""
    mine, theirs = ring(1000), ring(900, differs_from=500)
    assert compare(mine, statement(theirs, first=900)) == Verdict(900, 900, 0)
    audit = Audit(mine, ME)
    audit.hear(Voice("", "a"), statement(theirs, first=900))
    assert audit.look() == [Voice("", "a")]
    assert audit.first_difference() == (900, 0)
    audit.hear(Voice("", "a"), statement(theirs))
    assert audit.look() == [Voice("", "a")]
    assert audit.first_difference() == (500, 499)


def test_nothing_in_common_is_no_difference() -> None:
    """What one has forgotten, or the other has not reached, is compared with nothing; what is not reached
    yet is compared once it is.
    """
    mine = ring(10, first=100)
    assert compare(mine, statement(ring(50))) is None
    assert compare(mine, statement(ring(10, first=200))) is None
    audit = Audit(mine, ME)
    audit.hear(Voice("", "a"), statement(ring(1, first=111, differs_from=1)))
    assert audit.look() == []
    for sequence in (110, 111):
        mine.put(sequence, (sequence * 2).to_bytes(8, "little"))
    assert audit.look() == [Voice("", "a")]


def test_the_ring_forgets_the_oldest_and_nothing_else() -> None:
    """A ring that went round holds the newest entries, each under its own sequence."""
    made = ring(HELD + 100)
    assert made.at(50) is None
    for sequence in (made.oldest, made.oldest + 1, made.last):
        assert made.at(sequence) == sequence * 2
    assert made.at(made.last + 1) is None
    oldest, digests = made.span()
    assert list(digests) == [n * 2 for n in range(oldest, made.last + 1)]
    made.put(made.last, b"\1" * 8)  # applied once more
    assert made.at(made.last) == int.from_bytes(b"\1" * 8, "little")


def judged(me: Voice, *others: tuple[Voice, bool]) -> bool:
    """Whether `me` has to stop when the others differ (True) or agree (False)."""
    audit = Audit(ring(100), me)
    for voice, differs in others:
        audit.hear(voice, statement(ring(100, differs_from=50 if differs else None)))
    assert audit.look()
    return audit.is_outvoted()


A, B, C = Voice("", "a"), Voice("", "b"), Voice("", "c")


def test_the_minority_stops() -> None:
    """Of three it is the one that two differ from; and not one of the two."""
    assert judged(ME, (A, True), (B, True))
    assert not judged(ME, (A, True), (B, False))
    assert judged(ME, (A, True), (B, False), (C, True))


def test_of_two_both_stop() -> None:
    """Nobody can tell which of two is wrong, and a wrong answer is worse than none."""
    assert judged(ME, (A, True))


def test_who_lags_behind_the_difference_has_no_say() -> None:
    """A node that stated its digest before the entry in question agrees with both sides."""
    audit = Audit(ring(100), ME)
    for voice in (A, B):
        audit.hear(voice, statement(ring(100, differs_from=50)))
    for session in "xyz":
        audit.hear(Voice("", session), statement(ring(40)))
    audit.look()
    assert audit.is_outvoted()


def test_an_agent_stops_nobody_else() -> None:
    """An agent has one voice whatever number of nodes it claims, and one alone stops only its own; the
    operator's stops an agent's.
    """
    liars = [(Voice("mallory", str(number)), True) for number in range(50)]
    assert not judged(ME, *liars)
    assert not judged(ME, *liars, (A, False))
    assert not judged(Voice("victim", "v"), *liars)
    assert judged(Voice("mallory", "me"), *liars[:1])
    assert judged(Voice("victim", "v"), (A, True))
    assert judged(ME, *liars, (Voice("other", "o"), True))  # two agents against one node


def test_what_an_agent_says_both_ways_counts_for_nothing() -> None:
    """Nodes of one agent that contradict each other are no voice."""
    mixed = [(Voice("agent", "1"), True), (Voice("agent", "2"), False)]
    assert not judged(ME, *mixed)
    assert judged(ME, *mixed, (A, True), (B, True))
