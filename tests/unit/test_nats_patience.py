"""When a server that is connected is of no use: what says so, and for how long it is put up with."""

from __future__ import annotations

import pytest

pytest.importorskip("nats")

from nt_memory.transport.nats.client import FORGET_S, MOVE_S, ApiError, Patience

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("code", "number", "is_of_no_use"),
    [
        (503, 10008, True),  # no leader
        (500, 0, True),
        (409, 10158, True),  # in process, as a leader says that a majority has left
        (503, 10077, False),  # the leader's own store
        (404, 10037, False),
        (400, 10071, False),
    ],
)
def test_which_refusals_mean_that_a_majority_may_be_missing(code, number, is_of_no_use):
    error = ApiError({"code": code, "err_code": number, "description": "no"})
    assert error.is_of_no_use is is_of_no_use


def test_a_server_is_left_once_it_has_failed_for_long():
    patience, most = Patience(), int(MOVE_S * SECOND)
    assert not patience.is_over(SECOND)
    assert not patience.is_over(SECOND + most)
    assert patience.is_over(SECOND + most + 1)
    assert not patience.is_over(SECOND + most + 2)  # the next one has as long


def test_what_takes_a_majority_renews_it():
    patience, most = Patience(), int(MOVE_S * SECOND)
    assert not patience.is_over(SECOND)
    patience.renew()
    assert not patience.is_over(2 * SECOND + most)


def test_failures_far_apart_do_not_add_up():
    """A node that only reads does nothing that takes a majority, and meets an election now and then."""
    patience = Patience()
    for hour in range(1, 5):
        assert not patience.is_over(hour * 3600 * SECOND)
    assert not patience.is_over(5 * SECOND + 4 * 3600 * SECOND)
    assert patience.is_over(int(FORGET_S * SECOND) + 4 * 3600 * SECOND)
