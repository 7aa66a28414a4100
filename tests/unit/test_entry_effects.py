"""What one entry does to the views and tells the loop, spelled out: a replica, and nothing above it.

Times are seconds after the start; entries are taken at the second they are given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nt_memory.clock import EARLIEST_US, LATEST_US
from nt_memory.codec import encode
from nt_memory.codec.filed import Reference, write_reference
from nt_memory.entries import (
    STATE,
    TRAJECTORY,
    AbandonEmbedding,
    Acquire,
    Advance,
    CastVote,
    CleanUp,
    Configure,
    Embed,
    Entry,
    Fence,
    ForceRelease,
    Mark,
    ObserveMany,
    Propose,
    Reembed,
    Register,
    Release,
    Renew,
    Retain,
    SetPolicy,
    SetQuota,
    StartSession,
    Stored,
    Sweep,
    SwitchEmbedding,
    Tick,
    Withdraw,
    Write,
    WriteOp,
    encode_entry,
)
from nt_memory.entries.requests import own_id
from nt_memory.errors import (
    ConflictError,
    DimensionError,
    InvalidInputError,
    InvalidNameError,
    InvalidTimeError,
    LockLostError,
    LookAheadError,
    PermissionDeniedError,
    QuotaError,
    StaleFenceError,
    UnknownProposalError,
)
from nt_memory.replica import Change, Replica
from nt_memory.replica.coordination import DueTimes
from nt_memory.replica.policies import Claim, Policies, claims, judge, patterns_of, rule_in
from nt_memory.replica.quotas import check_early, recount, usage_in
from nt_memory.replica.requests import OWN_MEMORY_US, REQUEST_MEMORY_US
from nt_memory.replica.writes import Now
from nt_memory.tiers.cold import ColdTier
from nt_memory.tiers.layout import (
    FLOOR,
    ChangeRow,
    Floor,
    UsageRow,
    decode_floor,
    decode_log,
    name_of,
    parse_expiry,
    unpack_row,
)
from nt_memory.tiers.vectors import NEVER, VectorFiles
from nt_memory.transport.ports import Frame

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECOND = 1_000_000
START = 1_700_000_000 * SECOND
FOREVER = (1 << 62) - 1
ONE, TWO = encode(1), encode("two")
EAST = np.array([1.0, 0.0], "<f2").tobytes()
NORTH = np.array([0.0, 1.0], "<f2").tobytes()


def us(second: float) -> int:
    return START + round(second * SECOND)


class World:
    """A replica over views of its own, entry by entry."""

    def __init__(self, place: Path, timeline: str = "live", history: int | None = None) -> None:
        place.mkdir()
        self.cold = ColdTier(place / "views", max_map_bytes=1 << 26)
        self.files = VectorFiles(place / "vectors")
        self.replica = Replica(self.cold, self.files)
        self.sequence = 0
        self.do(Configure("s", timeline, history), 0)

    def do(self, body: Any, at: float, actor: str = "me", request: str | None = None) -> Any:
        """Apply an entry; its result."""
        self.sequence += 1
        payload = encode_entry(Entry(body, actor, request))
        self.follow = self.replica.apply([Frame(self.sequence, us(at), payload, 7, 1)])
        assert self.follow.snapshot is not None
        self.follow.snapshot.close()
        (outcome,) = self.follow.outcomes
        if outcome.error is not None:
            assert self.follow.changes == []
            raise outcome.error
        return outcome.result

    def put(self, key: str, value: bytes | None = ONE, at: float = 0, **more: Any) -> Any:
        """Write one key of agent a, or another's; `known` and `ttl` in seconds."""
        known, ttl = more.pop("known", None), more.pop("ttl", None)
        actor, request = more.pop("actor", "me"), more.pop("request", None)
        fence = more.pop("fence", None)
        op = WriteOp(
            more.pop("space", STATE), more.pop("agent", "a"), key, value,
            None if known is None else us(known),
            None if ttl is None else round(ttl * SECOND), **more,
        )  # fmt: skip
        return self.do(Write((op,), fence), at, actor, request)

    def read(self, ask: Any) -> Any:
        snapshot = self.cold.snapshot()
        try:
            return ask(snapshot)
        finally:
            snapshot.close()

    def table(self, name: bytes) -> list[tuple[bytes, bytes]]:
        return self.read(lambda views: list(views.items(name)))

    def versions(self, key: str, agent: str = "a") -> list[tuple[int, int, bytes | None]]:
        """Time, revision and value of each version, oldest first."""
        name = name_of(STATE, agent, key)
        found = self.read(lambda views: list(views.versions(name)))
        return sorted((known, revision, one.value) for known, revision, one in found)

    def rows(self) -> list[tuple[int, int, int, int]]:
        return [tuple(unpack_row(data)[:4]) for _, data in self.table(b"rows")]

    def due(self) -> list[int]:
        rows = self.table(b"expiries")
        assert all(data == b"" for _, data in rows)
        return [parse_expiry(key)[0] for key, _ in rows]

    def logged(self) -> tuple[ChangeRow, ...]:
        """What the last entry's row in the log says changed."""
        return decode_log(self.table(b"log")[-1][1]).changes

    def usage(self, agent: str = "a") -> tuple[int, int, int]:
        row = self.read(lambda views: usage_in(views, agent))
        counted = self.read(recount)
        assert row == counted.get(agent, UsageRow())
        return row.keys, row.bytes, row.vectors

    def close(self) -> None:
        self.files.close()
        self.cold.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Any]:
    """`world(timeline, history)`: a fresh one."""
    made: list[World] = []

    def make(timeline: str = "live", history: int | None = None) -> World:
        made.append(World(tmp_path / str(len(made)), timeline, history))
        return made[-1]

    yield make
    for one in made:
        one.close()


# --- writes ---------------------------------------------------------------------------------------


def test_a_put_is_stored_logged_counted_and_told(world: Any) -> None:
    """With its times, its actor, its tags and its vector's row; and what is due about it."""
    w = world()
    assert w.put("k", TWO, 10, known=4, ttl=20, vector=EAST, tags=("x", "é"), actor="me") == 2
    stored = Stored(STATE, "a", "k", TWO, us(4), 2, us(10), us(24), "me", 0, 0, ("x", "é"))
    assert w.follow.changes == [Change("put", stored, 2, True)]
    assert w.logged() == (ChangeRow("put", STATE, "a", "k", us(4), 0, 0),)
    assert w.due() == [us(24)]
    assert w.rows() == [(us(4), us(24), 2, 2)]
    assert w.follow.new_partitions == [(b"a\0", 0)]
    assert w.usage() == (1, len(TWO) + 1 + 3, 1)
    name = name_of(STATE, "a", "k")
    known, revision, version = w.read(lambda views: views.current(name))
    assert (known, revision) == (us(4), 2)
    assert version.recorded_at == us(10)
    assert (version.expires_at, version.actor, version.tags) == (us(24), "me", ("x", "é"))
    assert (version.partition, version.row) == (0, 0)


def test_a_replaced_observation_ends_where_its_successor_begins(world: Any) -> None:
    """Not if it had ended before; a late one ends where the next begins, or sooner by its ttl."""
    w = world()
    w.put("k", ONE, 10, vector=EAST)
    w.put("k", TWO, 20, vector=NORTH)
    assert w.rows() == [(us(10), us(20), 3, 2), (us(20), NEVER, 3, 3)]
    assert w.follow.ended == [(0, 0, us(20), 3)]
    assert w.logged() == (ChangeRow("put", STATE, "a", "k", us(20), 0, 1, ((0, 0),)),)
    w.put("k", ONE, 30, known=14, vector=NORTH)
    assert not w.follow.changes[-1].is_current
    assert w.rows()[0] == (us(10), us(14), 4, 2)
    assert w.rows()[2] == (us(14), us(20), 4, 4)
    w.put("k", ONE, 31, known=12, ttl=1, vector=NORTH)
    assert w.rows()[3] == (us(12), us(13), 5, 5)
    w.put("k", ONE, 32, known=13, ttl=50)
    assert w.follow.ended == []  # the one before had run out by then
    assert w.rows()[3] == (us(12), us(13), 5, 5)
    w.put("k", ONE, 33, vector=EAST)
    assert w.rows()[4] == (us(33), NEVER, 7, 7)
    w.put("k", ONE, 34, ttl=5)
    assert w.follow.ended == [(0, 4, us(34), 8)]
    assert w.usage()[2] == 5


def test_each_agent_and_partition_has_rows_of_its_own(world: Any) -> None:
    """Numbered in the order they came; the first vector fixes the dimension."""
    w = world()
    w.put("k", ONE, 1, vector=EAST)
    w.put("k", ONE, 1, vector=EAST, agent="b")
    w.put("l", ONE, 1, vector=EAST + NORTH, partition="wide")
    assert w.follow.new_partitions == [(b"a\0wide", 2)]
    w.put("l", ONE, 1, vector=NORTH, agent="b")
    assert w.follow.new_partitions == []
    (rows,) = w.follow.rows.values()
    assert (rows.partition, rows.dim, rows.first_row, rows.vectors) == (1, 2, 1, [NORTH])
    for vector in (EAST + NORTH, b"", EAST[:2]):
        with pytest.raises(DimensionError) as refused:
            w.put("m", ONE, 1, vector=vector)
        assert (refused.value.expected, refused.value.got) == (2, len(vector) // 2)
    two = [WriteOp(STATE, "new", key, ONE, vector=vector) for key, vector in
           (("k", EAST), ("l", EAST + NORTH))]  # fmt: skip
    with pytest.raises(DimensionError):
        w.do(Write(tuple(two)), 2)
    with pytest.raises(DimensionError):
        w.put("k", ONE, 2, vector=b"", agent="new")


def test_a_delete_is_a_version_without_a_value(world: Any) -> None:
    """Told and logged as one; of nothing it is nothing."""
    w = world()
    assert w.put("k", None, 1) is None
    w.put("k", ONE, 2, vector=EAST)
    assert w.put("k", None, 5) == 3
    assert w.logged() == (ChangeRow("delete", STATE, "a", "k", us(5), -1, -1, ((0, 0),)),)
    assert [change.kind for change in w.follow.changes] == ["delete"]
    assert w.versions("k") == [(us(2), 2, ONE), (us(5), 3, None)]
    assert w.usage() == (0, len(ONE) + 1, 1)
    assert w.put("k", None, 6) is None
    assert w.put("k", None, 6, known=2) == 4
    assert w.put("k", None, 7, known=1) is None
    assert w.put("gone", ONE, 7, ttl=1)
    assert w.put("gone", None, 8) is None
    assert w.put("gone", None, 8, known=7.5) is not None


def test_operations_of_one_entry_see_each_other(world: Any) -> None:
    """A delete of what the entry itself wrote; of one key and time the last counts."""
    w = world()

    def write(*steps: tuple[bytes | None, int, int | None]) -> Any:
        ops = [
            WriteOp(STATE, "a", "k", value, us(known), None if ttl is None else ttl * SECOND)
            for value, known, ttl in steps
        ]
        return w.do(Write(tuple(ops)), 50)

    assert write((ONE, 1, None), (None, 1, None)) == 2
    assert w.versions("k") == [(us(1), 2, None)]
    assert write((ONE, 10, 5), (None, 15, None)) == 3  # it has run out by then
    assert w.versions("k")[1:] == [(us(10), 3, ONE)]
    assert write((ONE, 20, 5), (None, 24, None)) == 4
    assert w.versions("k")[2:] == [(us(20), 4, ONE), (us(24), 4, None)]
    assert write((ONE, 30, None), (None, 29, None)) == 5
    assert w.versions("k")[4:] == [(us(30), 5, ONE)]
    assert write((None, 40, None), (None, 41, None)) == 6
    assert w.versions("k")[5:] == [(us(40), 6, None)]
    # What was stored lies later than what the entry wrote, so it is what the delete removes.
    assert write((ONE, 28, 1), (None, 35, None)) == 7
    assert (us(35), 7, None) in w.versions("k")


def test_a_value_that_ran_out_is_told_before_its_successor(world: Any) -> None:
    """Once: by the write or by the tick, whichever comes first; and only by one that is current."""
    w = world()
    w.put("k", ONE, 1, ttl=10)
    w.put("k", TWO, 11)
    assert [change.kind for change in w.follow.changes] == ["expire", "put"]
    assert w.logged() == (
        ChangeRow("expire", STATE, "a", "k", us(1)),
        ChangeRow("put", STATE, "a", "k", us(11)),
    )
    assert w.due() == []
    assert w.usage()[0] == 1
    w.put("l", ONE, 20, ttl=10)
    w.put("l", TWO, 29)
    assert [change.kind for change in w.follow.changes] == ["put"]
    assert w.usage()[0] == 2
    assert w.do(Tick(), 40) is None  # it was replaced in time: nothing to tell
    assert w.due() == []
    w.put("m", TWO, 50, ttl=10)
    w.put("m", ONE, 61, known=49, ttl=5)
    assert [change.kind for change in w.follow.changes] == ["put"]
    assert w.do(Tick(), 61) == 8
    stored = Stored(STATE, "a", "m", TWO, us(50), 6, us(50), us(60), "me")
    told = w.follow.changes
    assert [(change.kind, change.revision, change.is_current) for change in told] == [
        ("expire", 8, True)
    ]
    assert told[0].stored == stored
    assert w.logged() == (ChangeRow("expire", STATE, "a", "m", us(50)),)
    assert w.usage()[0] == 2
    w.put("m", ONE, 62)
    assert [change.kind for change in w.follow.changes] == ["put"]
    assert w.usage()[0] == 3


def test_history_drops_the_oldest_and_marks_what_is_left(world: Any) -> None:
    """With what is due about them and what they count; `history` superseded ones stay."""
    w = world(history=1)
    w.put("k", TWO, 1, ttl=100, vector=EAST)
    w.put("k", ONE, 2)
    assert len(w.versions("k")) == 2
    w.put("k", ONE, 3)
    assert w.versions("k") == [(us(2), 3, ONE), (us(3), 4, ONE)]
    assert w.due() == []
    assert w.usage() == (1, 2 * (len(ONE) + 1), 0)
    name = name_of(STATE, "a", "k")
    marks = {r: v.is_trimmed_before for _, r, v in w.read(lambda v: list(v.versions(name)))}
    assert marks == {3: True, 4: False}
    w.put("k", TWO, 4, known=1)
    assert w.versions("k") == [(us(2), 3, ONE), (us(3), 4, ONE)]


@pytest.mark.parametrize("history", [0, 2])
def test_history_counts_superseded_versions(world: Any, history: int) -> None:
    """None of them, or two; of a key that is gone, its delete is the current one."""
    w = world(history=history)
    for second in range(1, 6):
        w.put("k", ONE, second)
    assert len(w.versions("k")) == history + 1
    w.put("k", None, 6)
    assert len(w.versions("k")) == history + 1
    assert w.usage() == (0, history * (len(ONE) + 1), 0)


def test_times_are_bounded_by_now_and_by_the_calendar(world: Any) -> None:
    """Each bound is allowed, and a microsecond past it is not."""
    w = world()
    w.put("k", ONE, 1, known=1)
    second = 1 / SECOND
    with pytest.raises(InvalidTimeError):
        w.put("k", ONE, 1, known=1 + second)
    first = (EARLIEST_US - START) / SECOND
    assert w.do(Write((WriteOp(STATE, "a", "old", ONE, EARLIEST_US),)), 1)
    with pytest.raises(InvalidTimeError):
        w.do(Write((WriteOp(STATE, "a", "old", ONE, EARLIEST_US - 1),)), 1)
    assert first < 0
    assert w.do(Write((WriteOp(STATE, "a", "k", ONE, ttl_us=1),)), 2)
    left = LATEST_US - us(3)
    assert w.do(Write((WriteOp(STATE, "a", "k", ONE, ttl_us=left),)), 3)
    with pytest.raises(InvalidTimeError):
        w.do(Write((WriteOp(STATE, "a", "k", ONE, ttl_us=left + 1),)), 3)
    for ttl in (0, -1):
        with pytest.raises(InvalidInputError):
            w.do(Write((WriteOp(STATE, "a", "k", ONE, ttl_us=ttl),)), 3)


def test_a_backtest_is_judged_by_its_own_now(world: Any) -> None:
    """Nothing before it has begun, nothing past it; what runs out does when it is advanced."""
    w = world("backtest")
    with pytest.raises(LookAheadError):
        w.put("k", ONE, 100)
    w.do(Advance(us(5)), 200)
    w.put("k", ONE, 300, ttl=2)
    assert w.versions("k") == [(us(5), 3, ONE)]
    with pytest.raises(LookAheadError):
        w.put("k", ONE, 300, known=6)
    assert w.do(Tick(), 400) is None
    w.do(Advance(us(7)), 400)
    (told,) = w.follow.changes
    assert (told.kind, told.stored.known_at, told.revision) == ("expire", us(5), 4)
    assert w.logged() == (ChangeRow("expire", STATE, "a", "k", us(5)),)


def test_what_is_expected_is_the_current_revision(world: Any) -> None:
    """0 where nothing shows: never there, deleted, or run out at the very moment."""
    w = world()
    with pytest.raises(ConflictError) as refused:
        w.put("k", ONE, 1, expect=1)
    assert refused.value.current == 0
    assert w.put("k", ONE, 1, expect=0, ttl=5) == 2
    assert w.put("k", ONE, 5, known=3, expect=2) == 3
    with pytest.raises(ConflictError) as refused:
        w.put("k", ONE, 5, expect=2)
    assert refused.value.current == 3
    assert w.put("l", ONE, 5, expect=0, ttl=5) == 4
    with pytest.raises(ConflictError):
        w.put("l", ONE, 9.999999, expect=0)
    assert w.put("l", ONE, 10, expect=0) == 5
    w.put("l", None, 11)
    assert w.put("l", None, 12, expect=0) is None
    assert w.put("l", ONE, 12, expect=0) == 7


def test_names_are_checked_in_every_space(world: Any) -> None:
    """Of state as of keys; of others they need a space of one letter, an agent, and room."""
    w = world()
    for agent, key in (("", "k"), ("a/b", "k"), ("a", ""), ("a", "k\0"), ("a", "x" * 257)):
        with pytest.raises(InvalidNameError):
            w.put(key, ONE, 1, agent=agent)
    room = 400 - len("t" + "a" + "\0" + "\0")
    assert w.put("x" * room, ONE, 1, space=TRAJECTORY)
    assert w.put("", ONE, 1, space=TRAJECTORY)
    for space, agent, key in (
        (TRAJECTORY, "a", "x" * (room + 1)), ("tt", "a", "k"), ("", "a", "k"),
        (TRAJECTORY, "", "k"), (TRAJECTORY, "a", "k\0l"), (TRAJECTORY, "a\0b", "k"),
    ):  # fmt: skip
        with pytest.raises(InvalidInputError):
            w.put(key, ONE, 1, space=space, agent=agent)


def test_references_to_files_are_read_before_they_count(world: Any) -> None:
    """A malformed one is refused; a good one counts with its file."""
    w = world()
    good = write_reference(Reference(b"d" * 32, 12_345))
    w.put("k", good, 1)
    assert w.usage() == (1, len(good) + 1 + 12_345, 0)
    bad = good[:-9] + bytes([good[-9] ^ 1]) + good[-8:]
    with pytest.raises(InvalidInputError):
        w.put("k", bad, 2)
    w.put("k", b"\0" * len(good), 2)  # as long, and no reference


def test_only_the_current_grant_writes(world: Any) -> None:
    """A fence is judged at entry time: the lease's last microsecond counts, its end does not."""
    w = world()
    w.do(Acquire("r", "t", "h", "s", 10 * SECOND, 0), 1)
    granted = w.replica._coordination.locks["r"].grant
    assert granted is not None
    fence = Fence("r", granted.fence)
    assert w.put("k", ONE, 10.999999, fence=fence)
    assert w.put("k", ONE, 10.999999, fence=Fence("", granted.fence))
    for at, other in ((10.999999, Fence("r", granted.fence + 1)), (11, fence)):
        with pytest.raises(StaleFenceError):
            w.put("k", ONE, at, fence=other)


# --- observations by columns ----------------------------------------------------------------------


def test_columns_are_stored_one_by_one(world: Any) -> None:
    """Each with its time, value, tags and row, whatever the order of their keys."""
    w = world()
    body = ObserveMany(
        "a", ("z", "y"), (ONE, TWO), EAST + NORTH, (us(3), None), (("p",), ("q", "é")), (1, 0)
    )
    assert w.do(body, 5) == (2, "z", 2)
    (observed,) = w.follow.changes
    assert observed.changes() == [
        Change("put", Stored(STATE, "a", "z", ONE, us(3), 2, us(5), None, "me", 0, 0, ("q", "é")),
               2, True),
        Change("put", Stored(STATE, "a", "y", TWO, us(5), 2, us(5), None, "me", 0, 1, ("p",)),
               2, True),
    ]  # fmt: skip
    assert observed.rows_by_tag() == {"q": [0], "é": [0], "p": [1]}
    assert w.rows() == [(us(3), NEVER, 2, 2), (us(5), NEVER, 2, 2)]
    assert w.logged() == (
        ChangeRow("put", STATE, "a", "z", us(3), 0, 0),
        ChangeRow("put", STATE, "a", "y", us(5), 0, 1),
    )
    assert w.versions("z") == [(us(3), 2, ONE)]
    assert w.usage() == (2, len(ONE) + len(TWO) + 2 + 3 + 1, 2)
    current = w.read(lambda views: views.current(name_of(STATE, "a", "z")))[2]
    assert (current.recorded_at, current.actor, current.tags) == (us(5), "me", ("q", "é"))
    assert (current.partition, current.row, current.expires_at) == (0, 0, None)
    assert w.do(ObserveMany("a", ("x",), (ONE,), EAST, us(4), (("p",),)), 6) == (3, "x", 1)
    assert w.versions("x") == [(us(4), 3, ONE)]
    assert w.rows()[2] == (us(4), NEVER, 3, 3)
    assert w.usage() == (3, 2 * len(ONE) + len(TWO) + 3 + 4 + 1, 3)


def test_columns_are_refused_like_their_operations(world: Any) -> None:
    """As a whole, with the errors that single writes have."""
    w = world()
    w.do(ObserveMany("a", ("k",), (ONE,), EAST), 5)
    pairs = [
        (ObserveMany("a", ("l",), (ONE,), EAST, us(6)), InvalidTimeError),
        (ObserveMany("a", ("l", "m"), (ONE, ONE), EAST * 2, (us(5), us(6))), InvalidTimeError),
        (ObserveMany("a", ("l",), (ONE,), EAST, EARLIEST_US - 1), InvalidTimeError),
        (ObserveMany("a", ("l",), (ONE,), EAST + NORTH), DimensionError),
        (ObserveMany("a", ("l", "/"), (ONE, ONE), EAST * 2), InvalidNameError),
        (ObserveMany("a b", ("l",), (ONE,), EAST), InvalidNameError),
    ]
    for body, error in pairs:
        with pytest.raises(error):
            w.do(body, 5)
    assert w.do(ObserveMany("a", ("l",), (ONE,), EAST, EARLIEST_US), 5) == (3, "l", 1)
    # The same key twice, and one that is there: one version each, the last of one time.
    assert w.do(ObserveMany("a", ("k", "n", "n"), (TWO, ONE, TWO), EAST * 3), 6) == (4, "k", 3)
    assert w.versions("n") == [(us(6), 4, TWO)]
    assert w.versions("k") == [(us(5), 2, ONE), (us(6), 4, TWO)]
    assert w.usage() == (3, 2 * len(ONE) + 2 * len(TWO) + 4, 4)
    other = world("backtest")
    with pytest.raises(LookAheadError):
        other.do(ObserveMany("a", ("k",), (ONE,), EAST), 1)


# --- requests -------------------------------------------------------------------------------------


def test_a_request_is_remembered_for_a_day_and_an_own_one_for_ten_minutes(world: Any) -> None:
    """To the microsecond; each actor has its own, and a repetition does nothing."""
    for request, memory_us in (("r", REQUEST_MEMORY_US), (own_id("r"), OWN_MEMORY_US)):
        w = world()
        assert w.put("k", ONE, 1, request=request) == 2
        assert w.put("k", TWO, 2, request=request, actor="other") == 3
        last = 1 + memory_us / SECOND - 1 / SECOND
        assert w.put("k", TWO, last, request=request) == 2
        assert w.follow.changes == []
        assert w.put("k", TWO, last + 1 / SECOND, request=request) == 4
        assert w.put("k", TWO, last + 2, request=request) == 4
        # What was forgotten and made again leaves one row of each.
        assert len(w.table(b"requests")) == len(w.table(b"request_times")) == 2
    assert (REQUEST_MEMORY_US, OWN_MEMORY_US) == (86_400 * SECOND, 600 * SECOND)


def test_an_id_of_another_kind_of_request_is_refused(world: Any) -> None:
    """The result of a write means nothing to who takes a lock."""
    w = world()
    w.put("k", ONE, 1, request="r")
    with pytest.raises(InvalidInputError, match="another kind"):
        w.do(Tick(), 2, request="r")
    assert w.do(Tick(), 2, actor="other", request="r") is None
    assert w.put("none", None, 3, request="n") is None
    w.put("none", ONE, 3)
    assert w.put("none", None, 4, request="n") is None


def test_requests_that_are_old_enough_go_two_at_a_time(world: Any) -> None:
    """Whoever makes a request removes two that nobody can repeat, oldest first, and no others."""
    w = world()
    for number in range(5):
        w.put("k", ONE, 1 + number, request=f"r{number}")
    day = REQUEST_MEMORY_US / SECOND
    w.put("k", ONE, 3 + day, request="new")
    assert len(w.table(b"requests")) == len(w.table(b"request_times")) == 4
    w.put("k", ONE, 3 + day, request="newer")
    assert len(w.table(b"requests")) == len(w.table(b"request_times")) == 4
    w.put("k", ONE, 5 + day - 1 / SECOND, request="newest")
    assert len(w.table(b"requests")) == 4
    assert w.put("k", ONE, 5 + day - 1 / SECOND, request="r4") == 6
    w.put("k", ONE, 6 + day)
    assert len(w.table(b"requests")) == 4
    w.put("k", ONE, 6 + day, request=own_id("own"))
    assert len(w.table(b"requests")) == 4
    w.put("k", ONE, 6 + day + OWN_MEMORY_US / SECOND, request="z")
    assert len(w.table(b"requests")) == 4


# --- retention ------------------------------------------------------------------------------------


def test_a_sweep_stops_at_its_limit_and_goes_on_there(world: Any) -> None:
    """It counts the names it looks at and the versions it drops, and says when it is round."""
    w = world()
    for key in ("k", "l"):
        for second in range(1, 6):
            w.put(key, ONE, second)
    w.do(Retain("a", None, 1), 10)
    assert w.do(Sweep(FOREVER, FOREVER, 3), 11) == (2, False)
    assert [known for known, _, _ in w.versions("k")] == [us(3), us(4), us(5)]
    # One more of "k", and what is left of the limit for a look at "l", which always drops one.
    assert w.do(Sweep(FOREVER, FOREVER, 3), 11) == (2, False)
    assert [known for known, _, _ in w.versions("k")] == [us(4), us(5)]
    assert len(w.versions("l")) == 4
    assert w.do(Sweep(FOREVER, FOREVER, 100), 11) == (2, True)
    assert [known for known, _, _ in w.versions("l")] == [us(4), us(5)]
    revision = w.replica.revision
    assert w.do(Sweep(FOREVER, FOREVER, 100), 11) == (0, True)
    assert w.replica.revision == revision
    assert w.usage() == (2, 4 * (len(ONE) + 1), 0)
    name = name_of(STATE, "a", "k")
    marks = [v.is_trimmed_before for _, _, v in w.read(lambda v: sorted(v.versions(name)))]
    assert marks == [True, False]


def test_a_version_goes_by_when_its_successor_came(world: Any) -> None:
    """Exactly as old as the age is old enough; what a hold may ask for stays."""
    w = world()
    for second in (1, 5, 9):
        w.put("k", ONE, second)
    w.do(Retain("a", 10 * SECOND), 10)
    sweep = Sweep(FOREVER, FOREVER, 100)
    assert w.do(sweep, 14.999999) == (0, True)
    assert w.do(Sweep(us(5) - 1, FOREVER, 100), 15) == (0, True)
    assert w.do(Sweep(FOREVER, 2, 100), 15) == (0, True)
    assert w.do(Sweep(us(5), 3, 100), 15) == (1, True)
    assert w.do(sweep, 18.999999) == (0, True)
    assert w.do(sweep, 19) == (1, True)
    assert w.do(sweep, 1_000) == (0, True)
    assert w.versions("k") == [(us(9), 4, ONE)]


def test_dead_keys_go_as_a_whole_and_raise_the_floor(world: Any) -> None:
    """Exactly as long after their end as the age says; the floor is the latest of their ends."""
    w = world()
    w.put("deleted", ONE, 1)
    w.put("deleted", None, 5)
    w.put("late", ONE, 6, ttl=3)
    w.put("stays", ONE, 6)
    w.put("brief", ONE, 7, ttl=1)
    w.do(Retain("a", 10 * SECOND), 10)
    sweep = Sweep(FOREVER, FOREVER, 100)
    assert w.do(sweep, 14.999999) == (0, True)
    assert w.do(Sweep(us(5) - 1, FOREVER, 100), 15) == (0, True)
    assert w.do(Sweep(FOREVER, 2, 100), 15) == (0, True)
    assert w.do(sweep, 15) == (2, True)
    assert w.versions("deleted") == []

    def floor() -> Floor:
        return decode_floor(w.read(lambda views: views.get(b"policies", FLOOR + b"sa")))

    assert floor() == Floor(us(5), w.replica.revision)
    assert w.do(Sweep(us(9) - 1, FOREVER, 100), 19) == (1, True)  # "brief", at 8
    assert floor() == Floor(us(8), w.replica.revision)
    assert w.usage()[0] == 2
    assert w.do(sweep, 19) == (1, True)
    assert floor() == Floor(us(9), w.replica.revision)
    assert w.usage() == (1, len(ONE) + 5, 0)
    assert w.due() == []
    w.put("early", ONE, 20, known=2)
    w.put("early", None, 20, known=3)
    before = floor()
    assert w.do(sweep, 21) == (2, True)
    assert floor() == before


def test_rules_of_agents_stand_before_the_one_for_all(world: Any) -> None:
    """Also one that keeps everything, whose keys are passed over at once."""
    w = world()
    for agent in ("a", "b", "c"):
        for key in ("k", "l", "m"):
            for second in (1, 2):
                w.put(key, ONE, second, agent=agent)
    assert w.do(Sweep(FOREVER, FOREVER, 100), 3) == (0, True)
    w.do(Retain("", None, 0), 3)
    w.do(Retain("b"), 3)
    assert w.replica.retention.rule("b") == Retain("b")
    assert w.replica.retention.rule("c") == Retain("", None, 0)
    assert w.replica.retention.has_limits
    # Three keys of a with one version each to drop, one look at b, two keys of c.
    assert w.do(Sweep(FOREVER, FOREVER, 6 + 1 + 4), 4) == (5, False)
    assert [len(w.versions("k", agent)) for agent in "abc"] == [1, 2, 1]
    assert len(w.versions("m", "c")) == 2
    for bad in (Retain("a", -1), Retain("a", None, -1)):
        with pytest.raises(InvalidInputError):
            w.do(bad, 5)
    with pytest.raises(InvalidNameError):
        w.do(Retain("a/b", 1), 5)
    w.do(Retain("a", 0, 0), 5)
    w.do(Retain(""), 5)
    assert w.replica.retention.rule("c") is None
    assert w.replica.retention.has_limits
    again = Replica(w.cold, w.files)
    assert again.retention.rule("a") == Retain("a", 0, 0)
    assert again.retention.rule("b") == Retain("b")
    assert again.retention.rule("c") is None
    assert again.retention.has_limits
    w.do(Retain("a"), 6)
    assert not w.replica.retention.has_limits
    assert w.replica.retention.has_rules
    assert not Replica(w.cold, w.files).retention.has_limits


# --- quotas ---------------------------------------------------------------------------------------


def test_a_quota_is_reached_exactly(world: Any) -> None:
    """The last key, byte and vector that fit; an error that says how far it is."""
    w = world()
    w.do(SetQuota("a", 2, 40, 1), 1)
    w.put("k", ONE, 2, vector=EAST)
    with pytest.raises(QuotaError) as refused:
        w.put("l", ONE, 2, vector=EAST)
    error = refused.value
    assert (error.limit, error.used, error.wanted, error.maximum) == ("vectors", 1, 1, 1)
    w.put("l", ONE, 2)
    with pytest.raises(QuotaError) as refused:
        w.put("m", ONE, 2)
    assert (refused.value.limit, refused.value.used) == ("keys", 2)
    left = 40 - 2 * (len(ONE) + 1) - 1
    with pytest.raises(QuotaError) as refused:
        w.put("l", b"\1" * (left + 1), 3)
    assert refused.value.limit == "bytes"
    assert (refused.value.wanted, refused.value.agent) == (left + 2, "a")
    with pytest.raises(QuotaError):
        w.put("l", b"\1" * (left - 1), 3, tags=("é",))
    w.put("l", b"\1" * left, 3)
    assert w.usage() == (2, 40, 1)
    w.put("k", None, 4)
    w.put("zz", ONE, 5, agent="b")
    with pytest.raises(QuotaError):
        w.put("n", ONE, 5)


def test_a_write_is_judged_by_what_it_leaves(world: Any) -> None:
    """Several versions of a key are one; history is no key more; what is dropped makes room."""
    w = world(history=0)
    w.do(SetQuota("", 1, 3 * (len(ONE) + 1), 1), 1)
    w.put("k", ONE, 2, vector=EAST)
    w.put("k", ONE, 3, vector=NORTH)
    assert w.usage() == (1, len(ONE) + 1, 1)
    ops = [WriteOp(STATE, "a", "k", ONE, us(4 + n), vector=EAST) for n in range(5)]
    assert w.do(Write(tuple(ops)), 9)
    assert w.usage() == (1, len(ONE) + 1, 1)
    assert w.put("k", ONE, 10, known=1)
    swap = (WriteOp(STATE, "a", "k", None), WriteOp(STATE, "a", "l", ONE))
    w.do(Write(swap), 11)
    assert w.usage()[0] == 1
    for second in range(12, 15):  # what the swarm shares is nobody's
        w.put(str(second), ONE, second, space=TRAJECTORY, agent="*")
    two = (WriteOp(STATE, "b", "k", ONE), WriteOp(STATE, "c", "k", ONE),
           WriteOp(STATE, "c", "l", ONE))  # fmt: skip
    with pytest.raises(QuotaError) as refused:
        w.do(Write(two), 15)
    assert (refused.value.agent, refused.value.wanted) == ("c", 2)
    w.do(Write(two[:2]), 15)


def test_columns_are_held_to_the_quota_as_one(world: Any) -> None:
    """All that fit, or none."""
    w = world()
    w.do(SetQuota("a", 3, None, 4), 1)
    w.do(ObserveMany("a", ("a", "b"), (ONE, ONE), EAST * 2), 2)
    for keys, limit in ((("c", "d"), "keys"), (("c", "d", "e"), "keys")):
        with pytest.raises(QuotaError) as refused:
            w.do(ObserveMany("a", keys, (ONE,) * len(keys), EAST * len(keys)), 3)
        assert (refused.value.limit, refused.value.wanted) == (limit, len(keys))
    with pytest.raises(QuotaError) as refused:
        w.do(ObserveMany("a", ("a", "b", "c"), (ONE,) * 3, EAST * 3), 3)
    assert (refused.value.limit, refused.value.wanted) == ("vectors", 3)
    assert w.do(ObserveMany("a", ("c",), (ONE,), EAST), 3)
    assert w.usage() == (3, 3 * (len(ONE) + 1), 3)


def test_early_refusals_are_those_of_the_entry(world: Any) -> None:
    """What the replica would refuse by a quota; whatever else is wrong is left to it."""
    w = world()
    now = Now(us(5), us(5), 9, is_backtest=False)

    def early(body: Any, history: int | None = None) -> None:
        w.read(lambda views: check_early(views, body, now, history))

    many = ObserveMany("a", ("l", "m"), (ONE, ONE), EAST * 2)
    mixed = ObserveMany("a", ("k", "l", "m"), (ONE, ONE, ONE), EAST * 3)
    one = Write((WriteOp(STATE, "a", "l", ONE), WriteOp(STATE, "a", "m", ONE)))
    early(many)
    w.put("k", ONE, 1)
    w.do(SetQuota("a", 2), 1)
    for body in (many, mixed, one):
        with pytest.raises(QuotaError) as refused:
            early(body)
        assert (refused.value.agent, refused.value.limit) == ("a", "keys")
        assert (refused.value.used, refused.value.wanted) == (1, 2)
    early(Write((WriteOp(STATE, "b", "l", ONE), WriteOp(STATE, "a", "m", ONE))))
    early(Write((*one.ops, WriteOp(STATE, "a", "n", ONE, expect=77))))
    early(ObserveMany("b", ("l", "m", "n"), (ONE,) * 3, EAST * 3))
    w.do(SetQuota("a", None, len(ONE) + 1), 2)
    replaced = Write((WriteOp(STATE, "a", "k", ONE),))
    early(replaced, history=0)
    with pytest.raises(QuotaError):
        early(replaced)


def test_quotas_are_read_back(world: Any) -> None:
    """Rules and counts; the rule for all can be taken back, an agent's own stands before it."""
    w = world()
    w.do(SetQuota("", 1), 1)
    w.do(SetQuota("b"), 1)
    for bad in (SetQuota("a", -1), SetQuota("a", None, -1), SetQuota("a", None, None, -1)):
        with pytest.raises(InvalidInputError):
            w.do(bad, 1)
    with pytest.raises(InvalidNameError):
        w.do(SetQuota("a/b", 1), 1)
    for key in ("k", "l"):
        w.put(key, ONE, 2, agent="b")
    w.put("k", ONE, 2)
    w.replica = Replica(w.cold, w.files)
    assert w.replica.has_quotas
    with pytest.raises(QuotaError):
        w.put("l", ONE, 2)
    w.put("m", ONE, 2, agent="b")
    w.do(SetQuota("", 0, 0, 0), 3)
    with pytest.raises(QuotaError):
        w.put("k", ONE, 3, agent="c")
    w.do(SetQuota(""), 3)
    w.put("l", ONE, 4)
    assert w.usage("b")[0] == 3
    assert w.replica.has_quotas
    assert not Replica(world().cold, None).has_quotas


# --- policies -------------------------------------------------------------------------------------


def test_what_each_entry_claims() -> None:
    """Body by body, as its actor."""
    w, lock = Claim("write", "a/**", is_pattern=True), Claim("lock", "r")
    writes = Write((
        WriteOp(STATE, "a", "k", ONE),
        WriteOp(TRAJECTORY, "a", "t", ONE), WriteOp(TRAJECTORY, "*", "t", ONE),
        WriteOp(TRAJECTORY, "*", "u", ONE),
        WriteOp("p", "*", "t", ONE),
    ))  # fmt: skip
    shared = Claim("write", "*/**", is_pattern=True)
    table: list[tuple[Any, list[Claim]]] = [
        (writes, [Claim("write", "a/k"), w, shared, shared]),
        (ObserveMany("a", ("k", "l"), (ONE, ONE), EAST * 2),
         [Claim("write", "a/k"), Claim("write", "a/l")]),
        (Reembed("a", "t", 2), [w]), (Embed("a", "t", 0, EAST), [w]),
        (SwitchEmbedding("a", "t"), [w]), (AbandonEmbedding("a", "t"), [w]),
        (Acquire("r", "t", "h", "s", 1, 1), [lock]), (Renew("r", 1, 1), [lock]),
        (Propose("p", "me", b"", "1/2"), [Claim("propose", "p")]),
        (Propose("p", "you", b"", "1/2"), [Claim("propose", "p", is_other=True)]),
        (CastVote("p", "me", True), [Claim("vote", "p")]),
        (CastVote("p", "you", True), [Claim("vote", "p", is_other=True)]),
        (ForceRelease("r"), [Claim("operate", "force_release/r")]),
        (Register("a", "1"), [Claim("operate", "register_agent/a")]),
        (SetQuota("a"), [Claim("operate", "set_quota")]),
        (SetPolicy("a"), [Claim("operate", "set_policy")]),
        (Retain("a"), [Claim("operate", "set_retention")]),
        (CleanUp(1), [Claim("operate", "cleanup_old")]),
        (Advance(1), [Claim("operate", "advance")]),
        *((body, []) for body in (
            Release("r", 1), Withdraw("r", "t"), Tick(), Sweep(1, 1, 1),
            Configure("s", "live", None), StartSession("s"), Mark("s", 1, "", 0, 0),
        )),
    ]  # fmt: skip
    for body, wanted in table:
        assert list(claims(body, "me")) == wanted


def test_a_claim_is_judged_by_its_patterns() -> None:
    """The refusal says who, what, and what would be allowed, eight of it at most."""
    rule = SetPolicy("a", (("write", ("a/*", "b/**")), ("lock", ("r",))))
    judge(rule, "a", Claim("write", "a/k"))
    judge(rule, "a", Claim("write", "b/k/**", is_pattern=True))
    judge(rule, "a", Claim("lock", "r"))
    for claim in (
        Claim("write", "c/k"), Claim("write", "a/**", is_pattern=True), Claim("vote", "p"),
        Claim("lock", "r", is_other=True), Claim("write", "a/k", is_other=True),
    ):  # fmt: skip
        with pytest.raises(PermissionDeniedError) as refused:
            judge(rule, "a", claim)
        error = refused.value
        assert (error.agent, error.right, error.target) == ("a", claim.right, claim.target)
        assert tuple(error.patterns) == patterns_of(rule, claim.right)
    assert patterns_of(rule, "vote") == patterns_of(SetPolicy("a"), "write") == ()
    for number, tail in ((8, "p7"), (9, "p7, ...")):
        names = tuple(f"p{place}" for place in range(number))
        with pytest.raises(PermissionDeniedError) as refused:
            judge(SetPolicy("a", (("write", names),)), "a", Claim("write", "x"))
        assert str(refused.value).endswith(f"p6, {tail}")
    with pytest.raises(PermissionDeniedError, match="allows: nothing"):
        judge(SetPolicy("a", ()), "a", Claim("write", "x"))


def test_policies_hold_for_who_has_a_name(world: Any) -> None:
    """Its own, or the one for all others; taken back it is gone, also for who reads them anew."""
    w = world()
    w.do(SetPolicy("", (("write", ("shared/**",)),)), 1, actor="")
    w.do(SetPolicy("own", (("write", ("a/**",)),)), 1, actor="")
    with pytest.raises(PermissionDeniedError):
        w.do(SetPolicy("own"), 1, actor="own")
    w.put("k", ONE, 2, actor="own")
    w.put("k", ONE, 2, actor="")
    with pytest.raises(PermissionDeniedError):
        w.put("k", ONE, 2, actor="other")
    w.replica = Replica(w.cold, w.files)
    assert w.replica.has_policies
    with pytest.raises(PermissionDeniedError):
        w.put("k", ONE, 2, actor="other")
    w.put("k", ONE, 2, actor="other", agent="shared")
    own = w.read(lambda views: rule_in(views, "own"))
    assert own == SetPolicy("own", (("write", ("a/**",)),))
    assert w.read(lambda views: rule_in(views, "x")) == SetPolicy("", (("write", ("shared/**",)),))
    assert w.read(lambda views: rule_in(views, "")) is None
    w.do(SetPolicy(""), 3, actor="")
    w.put("k", ONE, 3, actor="other")
    assert w.read(lambda views: rule_in(views, "x")) is None
    w.do(SetPolicy("own"), 3, actor="")
    w.put("k", ONE, 3, agent="b", actor="own")
    assert not w.replica.has_policies
    assert not Replica(w.cold, w.files).has_policies
    fresh = Policies()
    fresh.check(Entry(Tick(), "own"), None)  # type: ignore[arg-type]


def test_a_lock_is_its_takers_where_a_policy_holds(world: Any) -> None:
    """To renew and to give back; who has no policy may, and a stale fence is refused as stale."""
    w = world()
    w.do(SetPolicy("a", (("lock", ("r",)),)), 1, actor="")
    w.do(Acquire("r", "t", "h", "s", 100 * SECOND, 0), 1, actor="b")
    fence = w.replica._coordination.locks["r"].grant.fence
    for body in (Renew("r", fence, SECOND), Release("r", fence)):
        with pytest.raises(PermissionDeniedError) as refused:
            w.do(body, 2, actor="a")
        assert (refused.value.agent, refused.value.right) == ("a", "lock")
        assert refused.value.target == "r"
    w.do(Renew("r", fence, 100 * SECOND), 2, actor="b")
    w.do(Release("r", fence), 3, actor="c")
    w.do(Acquire("r", "u", "h", "s", 100 * SECOND, 0), 4, actor="a")
    fence = w.replica._coordination.locks["r"].grant.fence
    w.do(Renew("r", fence, 100 * SECOND), 5, actor="a")
    w.do(Release("r", fence), 6, actor="a")
    with pytest.raises(LockLostError):
        w.do(Release("r", fence), 6, actor="a")


# --- locks and ballots ----------------------------------------------------------------------------


def test_due_times_have_a_bound_that_is_never_too_late() -> None:
    """Names come in order; one that was taken back or put off does not come."""
    due = DueTimes()
    assert due.bound is None
    assert due.by(10) == []
    due.set("b", 5)
    due.set("a", 7)
    assert due.bound == 5
    assert due.by(4) == []
    assert due.by(5) == ["b"]
    assert due.by(7) == ["a", "b"]
    due.set("b", 9)
    assert due.by(8) == ["a"]
    due.set("a", None)
    due.set("never", None)
    assert due.bound is not None
    assert due.bound <= 9
    assert due.by(8) == []
    assert due.bound == 9
    due.set("b", None)
    assert due.by(99) == []
    assert due.bound is None


def test_leases_end_and_waiters_are_granted_by_whatever_comes_next(world: Any) -> None:
    """At their end; the tick is asked for then, and what was read back does the same."""
    w = world()
    assert w.replica.next_lapse_us is None
    w.do(Acquire("r", "t", "h", "s", 10 * SECOND, 0), 1)
    w.do(Acquire("r", "u", "h2", "s2", 10 * SECOND, 60 * SECOND), 2)
    assert w.replica.next_lapse_us == us(11)
    assert w.do(Tick(), 10.999999) is None
    w.replica = Replica(w.cold, w.files)
    assert w.replica.next_lapse_us == us(11)
    assert w.do(Tick(), 11) == w.replica.revision
    assert w.follow.lock_events
    lock = w.replica._coordination.locks["r"]
    assert (lock.grant.holder, lock.grant.lease_until) == ("h2", us(21))
    assert w.do(Tick(), 12) is None
    assert w.replica.next_lapse_us == us(21)
    w.do(StartSession("s3"), 12)
    assert w.replica._coordination.locks == {}
    assert w.table(b"locks") == []
    assert w.do(Acquire("r", "v", "h3", "s3", 10 * SECOND, 0), 13)
    w.do(StartSession("s3"), 14)
    assert w.replica._coordination.locks["r"].grant.holder == "h3"


def told(w: World) -> list[tuple[str, str]]:
    return [(event.kind, event.proposal_id) for event in w.follow.ballot_events]


def test_ballots_are_kept_decided_and_cleaned_up(world: Any) -> None:
    """A deadline rejects; what is old and decided goes, once, and no more."""
    w = world()
    w.do(Register("a", "1/1"), 1)
    w.do(Register("b", "1/1"), 1)
    assert len(w.table(b"electorate")) == 1
    w.do(Propose("p", "a", b"x", "2/3", us(10)), 2)
    w.do(Propose("q", "a", b"x", "2/3"), 2)
    assert w.replica.next_lapse_us == us(10)
    w.replica = Replica(w.cold, w.files)
    assert w.replica.next_lapse_us == us(10)
    w.do(Propose("r", "a", b"x", "2/3"), 2)  # by the electorate that was read back
    assert w.do(CleanUp(0), 2) == 0
    w.do(CastVote("q", "a", True), 3)
    w.do(CastVote("q", "b", True), 4)
    assert told(w) == [("approved", "q")]
    assert w.do(Tick(), 9.999999) is None
    assert w.do(Tick(), 10) == w.replica.revision
    assert told(w) == [("rejected", "p")]
    assert [key for key, _ in w.table(b"proposals")] == [b"p", b"q", b"r"]
    assert w.do(CleanUp(6 * SECOND), 10) == 1
    assert [key for key, _ in w.table(b"proposals")] == [b"p", b"r"]
    revision = w.replica.revision
    assert w.do(CleanUp(6 * SECOND), 10) == 0
    assert w.replica.revision == revision
    assert w.do(CleanUp(0), 11) == 1
    assert [key for key, _ in w.table(b"proposals")] == [b"r"]
    for missing in ("p", "", "x" * 512):
        with pytest.raises(UnknownProposalError):
            w.do(CastVote(missing, "a", True), 12)


def test_what_an_entry_decides_it_does_not_remove(world: Any) -> None:
    """A deadline that was over when proposals are cleaned up decides first; whoever waits can read how."""
    w = world()
    w.do(Register("a", "1/1"), 1)
    w.do(Propose("p", "a", b"x", "2/3", us(10)), 2)
    assert w.do(CleanUp(0), 12) == 0
    assert told(w) == [("rejected", "p")]
    assert [key for key, _ in w.table(b"proposals")] == [b"p"]
    assert w.do(CleanUp(0), 12) == 1
    assert w.table(b"proposals") == []


def test_a_backtests_ballots_wait_for_its_own_time(world: Any) -> None:
    """No tick is asked for; advancing past the deadline decides."""
    w = world("backtest")
    w.do(Advance(us(1)), 1)
    w.do(Register("a", "1/1"), 1)
    w.do(Propose("p", "a", b"x", "1/2", us(10)), 2)
    assert w.replica.next_lapse_us is None
    w.do(Advance(us(9)), 50)
    assert told(w) == []
    w.do(Advance(us(10)), 50)
    assert told(w) == [("rejected", "p")]
