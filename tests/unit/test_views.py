"""Reads and writes of the views, one transaction each, against a model: a dict of sorted lists.

The views are real, on a real disk. What they hold is small, so that every question there is about it
can be asked: each name, present or not, at each moment on both clocks.
"""

from __future__ import annotations

import bisect
import itertools
import random
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from nt_memory.errors import CorruptionError, TrimmedError
from nt_memory.tiers.cold import ColdTier
from nt_memory.tiers.layout import (
    FLOOR,
    Floor,
    LogRow,
    Version,
    decode_version,
    encode_row,
    name_of,
    parse_tail,
    version_key,
)
from nt_memory.tiers.sealing import seal
from nt_memory.timeline import Moment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nt_memory.tiers.views import Snapshot, WriteBatch

REVISIONS = 60
NAMES = [name_of("s", "a", key) for key in ("b", "ba", "c")]
# Before, between, after, and of another agent and space; none of them has a version.
ABSENT = [
    name_of(space, agent, key)
    for space, agent, key in [
        *(("s", "a", "a"), ("s", "a", "bb"), ("s", "a", "d"), ("s", "a", "b/x")),
        *(("s", "0", "b"), ("s", "z", "b"), ("A", "a", "b"), ("z", "a", "b")),
    ]
]

World = dict[bytes, list[tuple[int, int, Version]]]


@pytest.fixture
def tier(tmp_path) -> Iterator[ColdTier]:
    with closing(ColdTier(tmp_path / "views", max_map_bytes=1 << 26)) as opened:
        yield opened


def write(tier: ColdTier, fill) -> None:
    """Call `fill` with a write transaction, and commit it."""
    batch = tier.begin()
    try:
        fill(batch)
        tier.commit(batch)
    finally:
        batch.close()


def version_of(number: int, *, is_trimmed: bool = False) -> Version:
    return Version(str(number).encode(), number, is_trimmed_before=is_trimmed)


def now_us(revision: int) -> int:
    """Of a backtest that begins before 1970, so that times of both signs are told apart."""
    return 10 * revision - 300


@pytest.fixture
def world(tier) -> World:
    """Versions of `NAMES`, a third of them known long before they were recorded; the log of all."""
    rng = random.Random(11)  # noqa: S311 - a model, no secret
    model: World = {name: [] for name in NAMES}

    def fill(batch: WriteBatch) -> None:
        for revision in range(1, REVISIONS + 1):
            name = NAMES[revision % 7 % 3]
            known_at = now_us(revision) - (rng.randrange(300) if rng.random() < 0.4 else 0)
            version = version_of(revision)
            batch.put_version(name, known_at, revision, version)
            batch.append_log(revision, LogRow(revision, revision, now_us(revision)))
            bisect.insort(model[name], (known_at, revision, version), key=lambda row: row[:2])

    write(tier, fill)
    return model


@pytest.fixture
def views(tier, world) -> Iterator[Snapshot]:
    """What the world is read with."""
    with closing(tier.snapshot()) as snapshot:
        yield snapshot


# --- versions ---------------------------------------------------------------------------------


def test_the_current_version_is_the_latest_known(views, world) -> None:
    """The greatest (known_at, revision), whatever was recorded last; nothing of other names."""
    for name in NAMES:
        assert views.current(name) == world[name][-1]
    for name in ABSENT:
        assert views.current(name) is None


def test_every_moment_has_the_version_then_in_force(views, world) -> None:
    """Known by the time and recorded by the revision, the last of those; on any two clocks."""
    times = range(-620, now_us(REVISIONS) + 20, 7)
    for name, time_us, revision in itertools.product(NAMES, times, range(REVISIONS + 2)):
        known = [row for row in world[name] if row[0] <= time_us and row[1] <= revision]
        assert views.at(name, Moment(time_us, revision)) == (known[-1] if known else None)
    for name in ABSENT:
        assert views.at(name, Moment(0, REVISIONS)) is None


def test_the_bounds_of_a_moment_belong_to_it(views, world) -> None:
    """What became known at the very time, by the very revision, is in force; a microsecond before
    it was not."""
    for name, (known_at, revision, version) in ((n, row) for n in NAMES for row in world[n]):
        assert views.at(name, Moment(known_at, revision)) == (known_at, revision, version)
        for earlier in (Moment(known_at - 1, revision), Moment(known_at, revision - 1)):
            found = views.at(name, earlier)
            assert found is None or found[1] != revision


def test_a_moment_before_the_log_is_read_by_walking(tier) -> None:
    """Where the log does not go back that far, the versions alone say what was in force."""
    name = NAMES[0]

    def fill(batch: WriteBatch) -> None:
        for revision in range(1, 30):
            batch.put_version(name, revision, revision, version_of(revision))

    write(tier, fill)
    with closing(tier.snapshot()) as views:
        for revision in range(1, 30):
            found = views.at(name, Moment(100, revision))
            assert found == (revision, revision, version_of(revision))
        assert views.at(name, Moment(100, 0)) is None


def test_an_early_revision_costs_few_steps(views, world) -> None:
    """What was recorded later is left out by one seek, not walked over."""
    name = max(NAMES, key=lambda one: len(world[one]))
    decoded: list[bytes] = []
    decode = views._decode
    views._decode = lambda key: decoded.append(key) or decode(key)  # type: ignore[method-assign,func-returns-value]
    for _, revision, _ in world[name]:
        decoded.clear()
        late = [row for row in world[name] if row[1] > revision and row[0] <= now_us(revision)]
        assert views.at(name, Moment(now_us(REVISIONS), revision)) is not None
        assert len(decoded) <= 5 + len(late)


def test_neighbours_are_the_versions_on_either_side(views, world) -> None:
    """A late put goes between two versions: the one before is told whole, the next by its place."""
    for name, known_at in itertools.product(NAMES, range(-620, now_us(REVISIONS) + 20, 3)):
        for revision in (0, REVISIONS + 1):
            rows = world[name]
            at = bisect.bisect_left(rows, (known_at, revision), key=lambda row: row[:2])
            before = rows[at - 1] if at else None
            after = rows[at][:2] if at < len(rows) else None
            assert views.neighbours(name, known_at, revision) == (before, after)
    for name in ABSENT:
        assert views.neighbours(name, 0, 5) == (None, None)


def test_histories_are_told_from_both_ends(views, world) -> None:
    """Newest first with their values, oldest first as keys, from either end by number."""
    for name in [*NAMES, *ABSENT]:
        rows = world.get(name, [])
        keys = [version_key(name, known_at, revision) for known_at, revision, _ in rows]
        assert list(views.versions(name)) == rows[::-1]
        assert views.version_keys(name) == keys
        for limit in (0, 1, 2, len(keys), len(keys) + 1):
            assert views.oldest_keys(name, limit) == keys[:limit]
        for number in range(len(keys) + 3):
            expected = keys[-1 - number] if number < len(keys) else None
            assert views.newest_key(name, number) == expected
    known_at, revision, version = world[NAMES[1]][3]
    assert views.version(version_key(NAMES[1], known_at, revision)) == version
    assert views.version(version_key(NAMES[1], known_at, revision + 1)) is None


def test_absence_is_told_of_many_names_at_once(views) -> None:
    """True only where none of them has a version, in any combination of present and absent."""
    for size in (0, 1, 2, 3):
        for names in itertools.combinations(sorted([*NAMES, *ABSENT]), size):
            assert views.are_absent(names) is not any(name in NAMES for name in names)
    assert views.are_absent(sorted(ABSENT))


def test_names_are_found_in_order(views) -> None:
    """Each name once, however many versions it has, and only those with the prefix."""

    def walk(prefix: bytes) -> list[bytes]:
        found: list[bytes] = []
        name = views.next_name(b"", prefix)
        while name is not None:
            found.append(name)
            name = views.next_name(name, prefix)
        return found

    assert walk(b"") == walk(b"s") == walk(b"sa\0") == NAMES
    assert walk(b"sa\0b") == NAMES[:2]
    assert walk(b"sa\0c") == NAMES[2:]
    for prefix in (b"sa\0bb", b"sb", b"A", b"z"):
        assert walk(prefix) == []
    assert views.first_name(NAMES[1], b"sa\0") == NAMES[1]
    assert views.first_name(b"", b"sa\0c") == NAMES[2]
    assert views.first_name(NAMES[2], b"sa\0b") is None
    assert views.first_name(b"t", b"") is None


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_versions_are_paged_in_order(views, world, limit) -> None:
    """Page after page gives every version under a prefix once, and no other."""
    for prefix in (b"", b"sa\0b", b"sa\0c\0", b"sa\0bb", b"z"):
        expected = [
            (version_key(name, known_at, revision), version)
            for name in NAMES
            if name.startswith(prefix)
            for known_at, revision, version in world[name]
        ]
        found: list[tuple[bytes, Version]] = []
        page = views.versions_after(b"", prefix, limit)
        while page:
            assert len(page) == min(limit, len(expected) - len(found))
            found += page
            page = views.versions_after(found[-1][0], prefix, limit)
        assert found == expected


def test_views_that_hold_nothing_say_so(tier) -> None:
    """A new store has no versions to seek from."""
    with closing(tier.snapshot()) as views:
        name = NAMES[0]
        assert views.current(name) is views.at(name, Moment(0, 0)) is None
        assert views.neighbours(name, 0, 0) == (None, None)
        assert list(views.versions(name)) == views.version_keys(name) == []
        assert views.oldest_keys(name, 3) == views.versions_after(b"", b"", 3) == []
        assert views.newest_key(name, 0) is views.newest_key(name, 1) is None
        assert views.first_name(b"", b"") is views.next_name(b"", b"") is None
        assert views.are_absent(NAMES)


# --- what was dropped -------------------------------------------------------------------------


def test_what_history_dropped_is_not_said_to_have_been_nothing(tier) -> None:
    """Before the oldest version that is left there was one: it is not there any more, and said so."""
    cut, whole = name_of("s", "a", "cut"), name_of("s", "a", "whole")

    def fill(batch: WriteBatch) -> None:
        for name in (cut, whole):
            for revision in range(3, 20):
                version = version_of(revision, is_trimmed=name == cut and revision == 3)
                batch.put_version(name, 10 * revision, revision, version)
        for revision in range(1, 20):
            batch.append_log(revision, LogRow(revision, revision, 10 * revision))

    write(tier, fill)
    with closing(tier.snapshot()) as views:
        for moment in (Moment(29, 19), Moment(30, 2), Moment(1000, 2), Moment(0, 0)):
            with pytest.raises(TrimmedError, match="a/cut: versions before revision 3") as refused:
                views.at(cut, moment)
            assert refused.value.oldest == 3
            assert views.at(whole, moment) is None
        for name in (cut, whole):
            assert views.at(name, Moment(30, 3)) is not None
            assert views.at(name, Moment(1000, 3)) is not None


def test_a_late_put_does_not_hide_what_history_dropped(tier) -> None:
    """A version known early and recorded late lies first, and still something was dropped."""
    name = NAMES[0]

    def fill(batch: WriteBatch) -> None:
        batch.put_version(name, 20, 9, version_of(9, is_trimmed=True))
        batch.put_version(name, 50, 5, version_of(5))

    write(tier, fill)
    with closing(tier.snapshot()) as views:
        for moment in (Moment(19, 9), Moment(49, 8), Moment(49, 5)):
            with pytest.raises(TrimmedError) as refused:
                views.at(name, moment)
            assert refused.value.oldest == 9
        assert views.at(name, Moment(50, 5)) == (50, 5, version_of(5))


def test_a_floor_is_of_one_agent_and_one_time(tier) -> None:
    """Where whole keys were dropped, a key that is not there may have been one of them."""
    other = name_of("s", "b", "k")

    def fill(batch: WriteBatch) -> None:
        batch.put(b"policies", FLOOR + b"sa", encode_row(Floor(1_000_000, 7)))
        batch.put_version(NAMES[1], 2_000_000, 9, version_of(9))

    write(tier, fill)
    with closing(tier.snapshot()) as views:
        for ask in (
            lambda time_us: views.at(NAMES[0], Moment(time_us, 9)),
            lambda time_us: views.at(NAMES[2], Moment(time_us, 9)),
            lambda time_us: views.check_floor(NAMES[1], time_us),
            lambda time_us: views.check_floor(b"sa\0", time_us),
        ):
            with pytest.raises(TrimmedError, match=r"^a: .*before 1970-01-01 00:00:01") as refused:
                ask(999_999)
            assert refused.value.oldest == 7
            assert ask(1_000_000) is None
        assert views.at(NAMES[1], Moment(0, 9)) is None  # it has versions, and none was dropped
        assert views.at(other, Moment(0, 9)) is views.check_floor(other, 0) is None


# --- damage -----------------------------------------------------------------------------------


def damage(tier: ColdTier, key: bytes, became: bytes) -> None:
    """A bit of a key has flipped: its row lies under another one now, with what it had."""
    stored = seal(b"versions", key, encode_row(version_of(1)))
    write(tier, lambda batch: batch.txn.put(became, stored, db=batch._tables[b"versions"]))


KEY = version_key(NAMES[1], 10, 1)
READS = {
    "current": lambda views: views.current(NAMES[1]),
    "at": lambda views: views.at(NAMES[1], Moment(10, 1)),
    "neighbours": lambda views: views.neighbours(NAMES[1], 20, 2),
    "are_absent": lambda views: views.are_absent([NAMES[1]]),
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("has_more", [False, True], ids=["alone", "among others"])
def test_a_version_whose_name_is_damaged_is_not_taken_for_absent(tier, read, has_more) -> None:
    """It lies beside where it would be looked for, and its checksum is of the name that it had."""
    damage(tier, KEY, KEY.replace(b"ba", b"b`"))
    if has_more:
        write(tier, lambda batch: batch.put_version(NAMES[2], 10, 1, version_of(1)))
        write(tier, lambda batch: batch.put_version(NAMES[0], 10, 1, version_of(1)))
    with closing(tier.snapshot()) as views, pytest.raises(CorruptionError, match="checksum"):
        READS[read](views)


@pytest.mark.parametrize("read", ["neighbours", "are_absent"])
@pytest.mark.parametrize("has_more", [False, True], ids=["alone", "among others"])
def test_so_is_one_that_moved_behind(tier, read, has_more) -> None:
    """What decides whether a name is new looks to both sides."""
    damage(tier, KEY, KEY.replace(b"ba", b"bc"))
    if has_more:
        write(tier, lambda batch: batch.put_version(NAMES[0], 10, 1, version_of(1)))
    with closing(tier.snapshot()) as views, pytest.raises(CorruptionError, match="checksum"):
        READS[read](views)


@pytest.mark.parametrize(
    "read",
    [
        *READS.values(),
        lambda views: list(views.versions(NAMES[1])),
        lambda views: views.version(KEY),
        lambda views: views.versions_after(b"", b"", 9),
        lambda views: views.neighbours(NAMES[1], 0, 0),
    ],
    ids=[*READS, "versions", "version", "versions_after", "neighbours, after"],
)
def test_a_damaged_version_is_never_returned(tier, read) -> None:
    """A row that is not what was sealed under its key is damage, whichever way it is read."""
    row = seal(b"versions", KEY, encode_row(version_of(1)))[:-1] + b"\xff"
    write(tier, lambda batch: batch.txn.put(KEY, row, db=batch._tables[b"versions"]))
    with closing(tier.snapshot()) as views, pytest.raises(CorruptionError, match="versions"):
        read(views)


# --- write batches ----------------------------------------------------------------------------


def test_a_batch_reads_what_it_has_written_and_others_only_after_it(tier) -> None:
    """Until it is committed nobody else sees anything of it; dropped, nobody ever does."""
    name = NAMES[0]
    with closing(tier.snapshot()) as before:
        batch = tier.begin()
        batch.put_version(name, 5, 1, version_of(1))
        batch.put(b"meta", b"word", b"x")
        batch.put_number(b"revision", 12)
        batch.append_log(1, LogRow(3, 4, 5))
        assert batch.current(name) == (5, 1, version_of(1))
        assert (batch.get(b"meta", b"word"), batch.number(b"revision")) == (b"x", 12)
        assert batch.log(1) == LogRow(3, 4, 5)
        with closing(tier.snapshot()) as beside:
            assert beside.current(name) is beside.number(b"revision") is None
        tier.commit(batch)
        assert before.current(name) is None
    with closing(tier.snapshot()) as after:
        assert after.current(name) == (5, 1, version_of(1))
        assert after.number(b"revision") == 12

    batch = tier.begin()
    assert batch.delete(b"meta", b"word") is True
    assert batch.delete(b"meta", b"word") is False
    assert batch.get(b"meta", b"word") is None
    batch.close()
    batch.close()
    with closing(tier.snapshot()) as views:
        assert views.get(b"meta", b"word") == b"x"


def test_what_ends_a_batch_is_told_once(tier) -> None:
    """By commit or close, whichever comes first: the next may begin after it, and only then."""
    ends: list[int] = []
    for end in ("commit", "close"):
        batch = tier.begin()
        told = batch._on_end
        assert told is not None
        batch._on_end = lambda told=told: (ends.append(1), told())  # type: ignore[misc]
        getattr(batch, end)()
        batch.close()
        assert len(ends) == 1
        ends.clear()
    tier.begin().close()


def test_a_trace_has_what_replicas_write_alike(tier) -> None:
    """Coordination and versions, with what was done to them; no number that is one replica's own."""

    def trace_of(act) -> list[bytes]:
        batch = tier.begin()
        batch.trace = []
        act(batch)
        trace = batch.trace
        batch.close()
        return trace

    for table in (b"locks", b"electorate", b"proposals"):
        put = trace_of(lambda batch, table=table: batch.put(table, b"k", b"v"))
        assert put == [table, b"k", b"v"]
        gone = trace_of(lambda batch, table=table: batch.delete(table, b"k"))
        assert b"k" in gone
        assert table in gone
        assert gone != put
    assert b"k" in trace_of(lambda batch: batch.delete(b"versions", b"k"))
    for table in (b"meta", b"rows", b"partitions", b"usage"):
        assert trace_of(lambda batch, table=table: batch.put(table, b"k", b"v")) == []
        assert trace_of(lambda batch, table=table: batch.delete(table, b"k")) == []
    assert trace_of(lambda batch: batch.append(b"log", b"k", b"v")) == []

    def several(batch: WriteBatch) -> None:
        batch.put(b"locks", b"k", b"v")
        batch.put_version(NAMES[0], 5, 1, version_of(1))
        batch.delete(b"locks", b"k")
        batch.put(b"locks", b"l", b"w")

    trace = trace_of(several)
    assert trace[:4] == [b"locks", b"k", b"v", NAMES[0]]
    assert trace[-3:] == [b"locks", b"l", b"w"]
    assert trace[5:-3] == trace_of(lambda batch: batch.delete(b"locks", b"k"))

    def of_version(known_at: int, revision: int, version: Version) -> list[bytes]:
        return trace_of(lambda batch: batch.put_version(NAMES[0], known_at, revision, version))

    one = of_version(5, 1, Version(b"x", 1, partition=3, row=8))
    assert one
    assert one[0] == NAMES[0]
    assert one == of_version(5, 1, Version(b"x", 1, partition=4, row=9))
    others = [(5, 1, Version(b"y", 1)), (6, 1, Version(b"x", 1)), (5, 2, Version(b"x", 1))]
    assert all(one != of_version(*other) for other in others)


def test_nothing_is_traced_where_nobody_asks(tier) -> None:
    """A batch has no trace until it is given one."""
    batch = tier.begin()
    batch.put(b"locks", b"k", b"v")
    batch.delete(b"locks", b"k")
    batch.put_version(NAMES[0], 5, 1, version_of(1))
    assert batch.trace is None
    batch.close()


def test_rows_are_put_behind_and_between_others(tier) -> None:
    """Many at once, of keys in order; they are read like those that were put one by one."""
    batch = tier.begin()
    batch.put_rows(b"rows", [])
    batch.put_rows(b"rows", [(b"k2", b"2"), (b"k4", b"4")])
    batch.put_rows(b"rows", [(b"k5", b"5"), (b"k6", b"6")])
    batch.put_rows(b"rows", [(b"k1", b"1"), (b"k3", b"3"), (b"k4", b"new")])
    assert list(batch.items(b"rows")) == [
        *((b"k1", b"1"), (b"k2", b"2"), (b"k3", b"3")),
        *((b"k4", b"new"), (b"k5", b"5"), (b"k6", b"6")),
    ]
    batch.put_rows(b"rows", [(b"k6", b"new"), (b"k7", b"7")])
    batch.put_rows(b"rows", [(b"k5", b"zzz"), (b"k8", b"8")])
    assert list(batch.items(b"rows"))[4:] == [
        *((b"k5", b"zzz"), (b"k6", b"new"), (b"k7", b"7"), (b"k8", b"8")),
    ]
    batch.put_rows(b"rows", [(b"k0", b"0")])
    assert next(batch.items(b"rows")) == (b"k0", b"0")
    batch.close()


def test_rows_of_a_base_are_loaded_as_they_lay(tier) -> None:
    """What `stored_rows` gave is read again without being sealed once more."""
    write(tier, lambda batch: batch.put_rows(b"rows", [(b"k1", b"1"), (b"k2", b"2" * 9000)]))
    with closing(tier.snapshot()) as views:
        (rows,) = views.stored_rows(b"rows")

    def reload(batch: WriteBatch) -> None:
        for key, _ in rows:
            batch.delete(b"rows", key)
        batch.load_rows(b"rows", rows)

    write(tier, reload)
    with closing(tier.snapshot()) as views:
        assert list(views.items(b"rows")) == [(b"k1", b"1"), (b"k2", b"2" * 9000)]


@pytest.mark.parametrize(
    "fill",
    [
        lambda batch, keys: [batch.append(b"log", key, bytes(400)) for key in keys],
        lambda batch, keys: [
            batch.put_rows(b"log", [(key, bytes(400)) for key in keys[n : n + 50]])
            for n in range(0, len(keys), 50)
        ],
        lambda batch, keys: batch.load_rows(b"log", [(key, bytes(404)) for key in keys]),
    ],
    ids=["append", "put_rows", "load_rows"],
)
def test_rows_that_come_in_order_fill_their_pages(tier, fill) -> None:
    """A log that is only ever appended to leaves no room in its pages: 1.08 times that of its rows."""
    keys = [number.to_bytes(8, "big") for number in range(4000)]
    write(tier, lambda batch: fill(batch, keys))
    with closing(tier.snapshot()) as views:
        stat = views.txn.stat(views._tables[b"log"])
    assert stat["entries"] == 4000
    assert stat["leaf_pages"] * stat["psize"] < 1.15 * 4000 * (8 + 8 + 404)


def test_a_version_is_stored_under_its_place(tier) -> None:
    """The key says when it was known and by which revision; the row is the version, sealed."""
    version = Version(b"x", 7, 9, "me", 2, 3, ("tag",), is_trimmed_before=True)
    write(tier, lambda batch: batch.put_version(NAMES[0], -5, 7, version))
    with closing(tier.snapshot()) as views:
        ((key, row),) = views.items(b"versions")
    assert key.startswith(NAMES[0])
    assert parse_tail(key) == (-5, 7)
    assert decode_version(row) == version
