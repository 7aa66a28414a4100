"""The checker of histories: it must pass what is possible and fail what is not."""

from __future__ import annotations

import random

import pytest

from nt_memory.testing.linearizability import UNKNOWN, Operation, check
from nt_memory.testing.models import KeyModel, LockModel


def history(*rows):
    """Rows `(call, result, called, returned)` on one object."""
    return [Operation("x", *row) for row in rows]


def is_possible(model, *rows):
    return not check(history(*rows), model)


def test_overlapping_calls_may_be_ordered_either_way():
    """What was called before the other returned may have come before or after it."""
    for seen in (None, (1, 5)):
        assert is_possible(KeyModel(), (("put", 1, None), 5, 0, 10), (("get",), seen, 1, 9))


def test_a_stale_read_is_found():
    """A read that begins after a write has returned must see it."""
    put = (("put", 1, None), 5, 0, 1)
    assert is_possible(KeyModel(), put, (("get",), (1, 5), 2, 3))
    assert not is_possible(KeyModel(), put, (("get",), None, 2, 3))


def test_two_readers_agree_on_the_order():
    """Once one has seen the new value, none that begins later sees the old one."""
    puts = (("put", 1, None), 5, 0, 1), (("put", 2, None), 6, 2, 20)
    new, old = (("get",), (2, 6), 3, 4), (("get",), (1, 5), 5, 6)
    assert not is_possible(KeyModel(), *puts, new, old)
    assert is_possible(KeyModel(), *puts, (("get",), (1, 5), 3, 4), (("get",), (2, 6), 5, 6))


def test_a_lost_update_is_found():
    """Two compare-and-sets on one revision cannot both succeed."""
    first = (("put", 1, 0), 5, 0, 1)
    both = (("put", 2, 5), 6, 2, 9), (("put", 3, 5), 7, 2, 9)
    assert not is_possible(KeyModel(), first, *both)
    told = (("put", 2, 5), 6, 2, 9), (("put", 3, 5), ("conflict", 6), 2, 9)
    assert is_possible(KeyModel(), first, *told)
    wrong = (("put", 2, 5), 6, 2, 9), (("put", 3, 5), ("conflict", 5), 2, 9)
    assert not is_possible(KeyModel(), first, *wrong)


def test_revisions_that_do_not_grow_are_found():
    """A later write has the greater revision."""
    assert not is_possible(KeyModel(), (("put", 1, None), 5, 0, 1), (("put", 2, None), 4, 2, 3))


def test_deletes():
    """A delete of nothing says so, and a deleted value is gone."""
    put, gone = (("put", 1, None), 5, 0, 1), (("delete", None), 6, 2, 3)
    assert is_possible(
        KeyModel(), put, gone, (("get",), None, 4, 5), (("delete", None), None, 6, 7)
    )
    assert not is_possible(KeyModel(), put, gone, (("get",), (1, 5), 4, 5))
    assert not is_possible(KeyModel(), put, (("delete", None), None, 2, 3))


@pytest.mark.parametrize("seen", [None, (2, 7)])
def test_what_nobody_knows_of_may_have_happened_or_not(seen):
    """A call that was cancelled explains both what shows it and what does not."""
    lost = (("put", 2, None), UNKNOWN, 2, 3)
    assert is_possible(KeyModel(), lost, (("get",), seen, 4, 5))


def test_what_nobody_knows_of_happens_once():
    """It cannot come and go."""
    lost = (("put", 2, None), UNKNOWN, 0, 1)
    other = (("put", 3, None), 9, 4, 5)
    reads = (("get",), (2, 7), 2, 3), (("get",), (3, 9), 6, 7), (("get",), (2, 7), 8, 9)
    assert is_possible(KeyModel(), lost, other, *reads[:2])
    assert not is_possible(KeyModel(), lost, other, *reads)


def test_two_holders_are_found():
    """A lock is granted once at a time, under growing fences."""
    grants = (("acquire",), 5, 0, 1), (("acquire",), 6, 2, 3)
    assert not is_possible(LockModel(), *grants)
    assert is_possible(
        LockModel(), grants[0], (("release", 5), True, 2, 9), (("acquire",), 6, 2, 9)
    )
    assert not is_possible(
        LockModel(), grants[0], (("release", 5), True, 1, 2), (("acquire",), 4, 3, 4)
    )


def test_a_timeout_needs_a_holder():
    """Nobody is turned away from a lock that was free all the time."""
    assert not is_possible(LockModel(), (("acquire",), ("timeout",), 0, 1))
    held = (("acquire",), 5, 0, 1), (("acquire",), ("timeout",), 2, 3), (("release", 5), True, 4, 5)
    assert is_possible(LockModel(), *held)
    assert not is_possible(LockModel(), *held, (("acquire",), ("timeout",), 6, 7))


def test_a_cancelled_acquire_may_have_held_it_for_a_while():
    """That explains another's timeout, and nothing else."""
    lost = (("acquire",), UNKNOWN, 0, 1), (("release", None), UNKNOWN, 0, 1)
    timeout, grant = (("acquire",), ("timeout",), 2, 3), (("acquire",), 5, 4, 5)
    assert is_possible(LockModel(), *lost, timeout, grant)
    assert not is_possible(LockModel(), *lost, grant, (("acquire",), 6, 6, 7))


def test_a_stale_token_is_refused():
    """What was released cannot be released again, and a current grant cannot be refused."""
    grant, release = (("acquire",), 5, 0, 1), (("release", 5), True, 2, 3)
    assert is_possible(LockModel(), grant, release, (("release", 5), False, 4, 5))
    assert not is_possible(LockModel(), grant, release, (("release", 5), True, 4, 5))
    assert not is_possible(LockModel(), grant, (("release", 5), False, 2, 3))


def test_objects_are_checked_apart():
    """A violation names its object; the others' operations do not hide it."""
    fine = [Operation(n, ("put", n, None), n + 1, 0, 9) for n in range(5)]
    broken = [Operation("b", ("get",), (1, 2), 0, 1)]
    (violation,) = check(fine + broken, KeyModel())
    assert violation.target == "b"
    assert violation.stuck == broken
    assert "('get',) -> (1, 2)" in violation.explain()


@pytest.mark.parametrize("seed", range(30))
def test_histories_of_a_real_register_pass_and_altered_ones_do_not(seed):
    """Random overlapping histories are made by giving each call an instant; then one read lies."""
    rng = random.Random(seed)  # noqa: S311 - a workload
    state, revision, rows = None, 0, []
    instants = sorted(rng.uniform(0, 100) for _ in range(80))
    for number, instant in enumerate(instants):
        begin, end = instant - rng.uniform(0, 2), instant + rng.uniform(0, 2)
        if rng.random() < 0.5:
            revision += 1
            state = (number, revision)
            rows.append((("put", number, None), revision, begin, end))
        else:
            rows.append((("get",), state, begin, end))
    assert is_possible(KeyModel(), *rows)
    last = max(n for n, row in enumerate(rows) if row[0] == ("get",))
    first = next(row for row in rows if row[0][0] == "put")
    lie = (("get",), (first[0][1], first[1]), 200, 201)
    assert not is_possible(KeyModel(), *rows[:last], *rows[last + 1 :], lie)
