"""Write transactions of the views: one at a time, and none that nobody ends can hold up the rest.

LMDB waits without end where another thread has one open. So what could wait is done by a daemon
thread: where it hangs the test fails, and the others go on.
"""

from __future__ import annotations

import threading

import lmdb
import pytest

from nt_memory.errors import StorageError
from nt_memory.tiers.cold import ColdTier

WAIT_S = 30.0


@pytest.fixture
def opened(tmp_path):
    """`opened(**settings)`: the views of the test, closed after it, beside the test in case they hang."""
    tiers = []

    def open_views(**settings):
        tiers.append(ColdTier(tmp_path / "views", max_map_bytes=1 << 24, **settings))
        return tiers[-1]

    open_views.tiers = tiers
    yield open_views
    for tier in tiers:
        elsewhere(tier.close)


def elsewhere(call):
    """What a call by another thread returns or raises; that thread has ended."""
    outcome = []

    def body():
        try:
            outcome.append((call(), None))
        except BaseException as error:  # noqa: BLE001 - raised again below
            outcome.append((None, error))

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(WAIT_S)
    assert outcome, "it hangs"
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def set_revision(tier, number):
    """In a transaction of its own."""
    batch = tier.begin()
    batch.put_number(b"revision", number)
    tier.commit(batch)


def revision(tier):
    snapshot = tier.snapshot()
    try:
        return snapshot.number(b"revision")
    finally:
        snapshot.close()


@pytest.mark.parametrize("by", [lambda call: call(), elsewhere], ids=["same thread", "another"])
def test_a_second_one_is_refused_at_once(opened, by):
    """Whoever begins it; the first goes on as if nothing had been, and then there can be another."""
    tier = opened()
    batch = tier.begin()
    batch.put_number(b"revision", 7)
    for _ in range(2):
        with pytest.raises(StorageError, match="open already"):
            by(tier.begin)
    tier.commit(batch)
    assert revision(tier) == 7
    set_revision(tier, 8)
    assert revision(tier) == 8


@pytest.mark.parametrize("times", [1, 2])
def test_one_that_was_dropped_makes_room(opened, times):
    """Closing it leaves no trace, and closing it again does not end that of somebody else."""
    tier = opened()
    batch = tier.begin()
    batch.put_number(b"revision", 7)
    for _ in range(times):
        batch.close()
    other = tier.begin()
    batch.close()
    with pytest.raises(StorageError, match="open already"):
        elsewhere(tier.begin)
    other.put_number(b"sequence", 1)
    tier.commit(other)
    assert revision(tier) is None


def test_one_that_could_not_be_written_makes_room(opened):
    """It is gone, whether it is closed or not."""

    class Full:
        def commit(self):
            raise lmdb.DiskError("mdb_txn_commit: No space left on device")

        def abort(self):
            real.abort()

    tier = opened()
    batch = tier.begin()
    real, batch.txn = batch.txn, Full()
    with pytest.raises(StorageError, match="No space"):
        tier.commit(batch)
    real.abort()
    set_revision(tier, 8)
    batch.close()
    set_revision(tier, 9)
    assert revision(tier) == 9


def test_one_that_could_not_be_begun_leaves_the_place_free(opened):
    """However often it is tried, the error says why, and is the store's own."""
    set_revision(opened(), 7)
    elsewhere(opened.tiers[-1].close)
    reader = opened(read_only=True)
    for _ in range(2):
        with pytest.raises(StorageError, match="read-only"):
            reader.begin()


def test_closing_drops_what_a_thread_that_ended_has_left(opened):
    """It does not wait for it, and the next to open finds nothing of it and can write."""
    tier = opened()
    set_revision(tier, 7)

    def leave():
        tier.begin().put_number(b"revision", 8)

    elsewhere(leave)
    elsewhere(tier.close)
    elsewhere(tier.close)
    tier = elsewhere(opened)
    assert revision(tier) == 7
    elsewhere(lambda: set_revision(tier, 9))
    assert revision(tier) == 9


def test_a_reader_that_stays_keeps_nobody_from_writing(opened):
    """Where the files stay open for it when their writer closes with a transaction open."""
    tier = opened()
    reader = opened(read_only=True)

    def leave():
        tier.begin().put_number(b"revision", 8)

    elsewhere(leave)
    elsewhere(tier.close)
    assert revision(reader) is None
    tier = opened()
    elsewhere(lambda: set_revision(tier, 9))
    assert revision(reader) == 9
