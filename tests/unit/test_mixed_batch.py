"""One batch through `Replica.apply` with entries of every kind, accepted and refused, in disorder.

A refusal fails its own ticket only, takes no revision and writes nothing; a batch cut anywhere
gives the views, the results and the errors that one entry at a time gives.
"""

from __future__ import annotations

import random

import msgspec
import numpy as np
import pytest

from nt_memory import errors
from nt_memory.entries import (
    STATE,
    Acquire,
    Advance,
    CastVote,
    CleanUp,
    Configure,
    Entry,
    Fence,
    Propose,
    Register,
    Release,
    Renew,
    Retain,
    SetQuota,
    StartSession,
    Sweep,
    Tick,
    Withdraw,
    Write,
    WriteOp,
    encode_entry,
)
from nt_memory.replica import Replica
from nt_memory.tiers.cold import ColdTier
from nt_memory.tiers.tables import TABLES
from nt_memory.tiers.vectors import VectorFiles
from nt_memory.transport.ports import Frame

T0 = 1_700_000_000_000_000
S = 1_000_000
NEVER = 1 << 60


def half(*values):
    return np.array(values, dtype="<f2").tobytes()


def put(key, value=b"v", **options):
    return Write((WriteOp(STATE, "a", key, value, **options),))


def entries(timeline):
    """Every kind of entry, and the ways it is refused but for limits of number and size, with what
    is expected of each.
    """
    is_backtest = timeline == "backtest"
    look_ahead = errors.LookAheadError if is_backtest else errors.InvalidTimeError
    ok = None
    yield Configure("default", timeline, 2), ok
    yield Configure("default", timeline, 2), errors.InvalidInputError
    yield StartSession("s"), ok
    if is_backtest:
        yield put("early"), errors.LookAheadError
        yield Advance(T0), ok
        yield Advance(T0 - 1), errors.TimelineError
    else:
        yield Advance(T0), errors.TimelineError
    yield put("k"), ok
    yield put("k", expect=0), errors.ConflictError
    yield put("new", expect=0), ok
    yield put("k", known_at=T0 + 3600 * S), look_ahead
    yield put("k", known_at=-NEVER), errors.InvalidTimeError
    yield put("k", ttl_us=0), errors.InvalidInputError
    yield put("k", ttl_us=NEVER), errors.InvalidTimeError
    yield put("mortal", ttl_us=1), ok
    yield put("../k"), errors.InvalidInputError
    yield put("late", known_at=T0 - 5 * S), ok
    yield put("k", None), ok
    yield put("nothing", None), ok
    yield put("v1", vector=half(1, 0)), ok
    yield put("v2", vector=half(1, 0, 0)), errors.DimensionError
    yield (
        Write((WriteOp(STATE, "a", "x", b"1"), WriteOp(STATE, "a", "k", b"2", expect=99))),
        (errors.ConflictError),
    )
    yield Write((WriteOp(STATE, "a", "x", b"1"), WriteOp(STATE, "a", "y", b"2"))), ok
    yield SetQuota("a", max_keys=-1), errors.InvalidInputError
    yield SetQuota("b", max_keys=1), ok
    yield Write((WriteOp(STATE, "b", "one", b"1"),)), ok
    yield Write((WriteOp(STATE, "b", "two", b"2"),)), errors.QuotaError
    yield Retain("a", -1), errors.InvalidInputError
    yield Retain("a", None, 1), ok
    yield Sweep(NEVER, NEVER, 100), ok
    yield Acquire("r", "t1", "h1", "s", S, 0), ok
    yield Acquire("r", "t2", "h1", "s", S, S), errors.ReentrantLockError
    yield Acquire("r", "t3", "h2", "s", S, 0), errors.LockTimeoutError
    yield Acquire("r", "t4", "h3", "s", S, S), ok
    yield Acquire("r", "t5", "h3", "s", S, S), errors.ReentrantLockError
    yield Acquire("r", "t6", "h4", "s", 0, S), errors.InvalidInputError
    yield Renew("r", 1, S), errors.LockLostError
    yield Release("r", 1), errors.LockLostError
    yield Withdraw("r", "t4"), ok
    yield Write((WriteOp(STATE, "a", "k", b"f"),), Fence("r", 1)), errors.StaleFenceError
    yield Register("a", "1/1"), ok
    yield Register("b", "1"), errors.ProposalError
    yield CastVote("p", "a", approve=True), errors.UnknownProposalError
    yield Propose("p", "nobody", b"", "2/3"), errors.NotRegisteredError
    yield Propose("p", "a", b"", "3/2"), errors.ProposalError
    yield Propose("p", "a", b"", "2/3", deadline=T0 - S), errors.InvalidTimeError
    yield Propose("p", "a", b"", "2/3", weights=(("a", "0/1"),)), errors.ProposalError
    yield Propose("p", "a", b"", "2/3", weights=(("a", "1/1"), ("a", "1/1"))), errors.ProposalError
    yield Propose("p", "a", b"", "2/3"), ok
    yield Propose("p", "a", b"other", "2/3"), errors.ProposalError
    yield CastVote("p", "b", approve=True), errors.NotRegisteredError
    yield CastVote("p", "a", approve=True, weight="2/1"), errors.ProposalError
    yield CastVote("p", "a", approve=True), ok
    yield CastVote("p", "a", approve=False), ok  # too late to change anything
    yield Propose("q", "a", b"", "2/3", weights=(("a", "1/1"), ("c", "1/1"))), ok
    yield CastVote("q", "a", approve=True), ok
    yield CastVote("q", "a", approve=False), errors.VoteChangedError
    yield CastVote("q", "a", approve=True), ok
    yield CleanUp(0), ok
    yield Tick(), ok


def frames_of(listed):
    """One frame an entry, ten milliseconds apart; its ticket is its number."""
    return [
        Frame(n, T0 + n * 10_000, encode_entry(entry), n << 8, n)
        for n, entry in enumerate(listed, start=1)
    ]


class Views:
    """A replica over views of its own."""

    def __init__(self, path):
        path.mkdir()
        self.cold = ColdTier(path / "views", max_map_bytes=1 << 26)
        (path / "vectors").mkdir()
        self.files = VectorFiles(path / "vectors")
        self.replica = Replica(self.cold, self.files)

    def apply(self, frames):
        """Outcomes by ticket: `(result, kind and text of the error)`."""
        follow = self.replica.apply(frames)
        follow.snapshot.close()
        return {
            one.ticket: (
                msgspec.to_builtins(one.result) if one.error is None else None,
                None if one.error is None else (type(one.error), str(one.error)),
            )
            for one in follow.outcomes
        }

    def dump(self):
        snapshot = self.cold.snapshot()
        try:
            return {table: list(snapshot.items(table)) for table in TABLES}
        finally:
            snapshot.close()

    def revisions(self):
        snapshot = self.cold.snapshot()
        try:
            return [revision for revision, _ in snapshot.logs(0, None)]
        finally:
            snapshot.close()

    def close(self):
        self.files.close()
        self.cold.close()


@pytest.fixture
def views(tmp_path):
    """`views(name)`: fresh views, closed behind the test."""
    made = []

    def make(name):
        made.append(Views(tmp_path / name))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("timeline", ["live", "backtest"])
def test_each_refusal_fails_its_own_ticket_only(views, timeline):
    """All in one batch: each entry has the outcome expected of it, accepted ones number their
    revisions without a hole, and the views are those of the accepted entries alone.
    """
    listed = list(entries(timeline))
    frames = frames_of([Entry(body) for body, _ in listed])
    together = views("together")
    outcomes = together.apply(frames)
    assert outcomes.keys() == {frame.ticket for frame in frames}
    for frame, (body, expected) in zip(frames, listed, strict=True):
        _, error = outcomes[frame.ticket]
        if expected is None:
            assert error is None, (body, error)
        else:
            assert error is not None, body
            assert issubclass(error[0], expected), (body, error)
    revisions = together.revisions()
    assert revisions == list(range(1, len(revisions) + 1))
    assert together.replica.revision == len(revisions)

    accepted = views("accepted")
    accepted.apply([f for f, (_, expected) in zip(frames, listed, strict=True) if expected is None])
    found, wanted = together.dump(), accepted.dump()
    found.pop(b"meta"), wanted.pop(b"meta")  # how far the journal was read: further, if refused
    assert found == wanted


@pytest.mark.parametrize("timeline", ["live", "backtest"])
@pytest.mark.parametrize("seed", range(4))
def test_batches_cut_anywhere_give_the_same(views, timeline, seed):
    """Shuffled, repeated under request ids, in one batch, one at a time, or cut at random: the
    same outcomes, and the same bytes in every table.
    """
    rng = random.Random(seed)  # noqa: S311
    listed = [body for body, _ in entries(timeline)]
    first = listed[: 5 if timeline == "backtest" else 3]
    rest = listed[len(first) :] * 3
    rng.shuffle(rest)
    entries_ = [Entry(body) for body in first]
    entries_ += [
        Entry(body, "me", f"r{rng.randrange(40)}" if rng.random() < 0.3 else None) for body in rest
    ]
    frames = frames_of(entries_)
    together, single, cut = views("together"), views("single"), views("cut")
    outcomes = together.apply(frames)
    one_by_one = {}
    for frame in frames:
        one_by_one |= single.apply([frame])
    in_pieces = {}
    at = 0
    while at < len(frames):
        size = rng.randrange(1, 20)
        in_pieces |= cut.apply(frames[at : at + size])
        at += size
    assert outcomes == one_by_one == in_pieces
    assert together.dump() == single.dump() == cut.dump()
    assert together.revisions() == list(range(1, together.replica.revision + 1))
