from datetime import UTC, date, datetime, time, timedelta, timezone

import numpy as np
import pytest

from nt_memory.clock import ManualClock, to_us
from nt_memory.errors import InvalidInputError, InvalidTimeError, LookAheadError, TimelineError
from nt_memory.records import AsOf
from nt_memory.timeline import Moment, Timeline, session_close

NOON = datetime(2024, 1, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def live():
    return Timeline(ManualClock(NOON), is_backtest=False)


def backtest(now=NOON):
    timeline = Timeline(ManualClock(NOON + 9 * HOUR), is_backtest=True)
    if now is not None:
        timeline.follow(to_us(now))
    return timeline


def resolve(timeline, as_of, visible=10):
    return timeline.resolve(as_of, visible=visible, time_at=lambda revision: revision * 100)


def test_live_now_is_the_clock():
    """On a live timeline now moves with the clock."""
    clock = ManualClock(NOON)
    timeline = Timeline(clock, is_backtest=False)
    clock.advance(3600)
    assert timeline.now() == NOON + HOUR
    assert timeline.has_started


def test_backtest_now_moves_only_by_advance():
    """On a backtest timeline the wall clock does not count; before the first advance there is none."""
    timeline = backtest(None)
    assert not timeline.has_started
    for read in (timeline.now, timeline.now_us, lambda: resolve(timeline, None)):
        with pytest.raises(TimelineError, match="advance"):
            read()
    timeline.follow(to_us(NOON))
    assert timeline.has_started
    assert timeline.now() == NOON


@pytest.mark.parametrize("make", [live, backtest])
def test_as_of_is_resolved_on_both_clocks(make):
    """None is now; a time is all known by then; a revision the state after it; AsOf both."""
    timeline = make()
    assert resolve(timeline, None) == Moment(to_us(NOON), 10)
    assert resolve(timeline, NOON - HOUR) == Moment(to_us(NOON - HOUR), 10)
    assert resolve(timeline, 7) == Moment(700, 7)
    assert resolve(timeline, 10) == Moment(1000, 10)
    assert resolve(timeline, 0) == Moment(0, 0)
    assert resolve(timeline, AsOf(NOON - HOUR, 3)) == Moment(to_us(NOON - HOUR), 3)


def test_a_backtest_cannot_look_ahead():
    """A time past now is refused, alone or with a revision; now itself is not."""
    timeline = backtest()
    assert resolve(timeline, NOON) == Moment(to_us(NOON), 10)
    for ahead in (NOON + timedelta(microseconds=1), AsOf(NOON + HOUR, 3)):
        with pytest.raises(LookAheadError, match="past the backtest's now"):
            resolve(timeline, ahead)


def test_a_backtest_that_has_not_started_resolves_no_time():
    """Before the first advance there is no now to be before."""
    for as_of in (NOON, AsOf(NOON, 1)):
        with pytest.raises(TimelineError, match="advance"):
            resolve(backtest(None), as_of)


@pytest.mark.parametrize("as_of", [-1, 11, AsOf(NOON, 11), AsOf(NOON, -1)])
def test_a_revision_that_is_not_visible_is_refused(as_of):
    """Neither a negative revision nor one still to come has a state."""
    with pytest.raises(InvalidInputError, match="not visible"):
        resolve(live(), as_of)


@pytest.mark.parametrize(
    "as_of", [True, 1.5, "now", NOON.date(), AsOf(NOON, True), AsOf(NOON, "3")]
)
def test_what_names_no_point_in_time_is_refused(as_of):
    """Only a time, a revision or AsOf is accepted; True is no revision. What it was is said."""
    given = as_of.revision if isinstance(as_of, AsOf) else as_of
    with pytest.raises(InvalidInputError, match=f"not {type(given).__name__}"):
        resolve(live(), as_of)


@pytest.mark.parametrize("as_of", [NOON.replace(tzinfo=None), AsOf(NOON.replace(tzinfo=None), 1)])
def test_a_naive_time_is_refused(as_of):
    """A time without a zone is never guessed at."""
    with pytest.raises(InvalidTimeError, match="naive"):
        resolve(live(), as_of)


CLOSE = datetime(2024, 7, 2, 20, tzinfo=UTC)  # 16:00 in New York, in summer


@pytest.mark.parametrize(
    "dates",
    [
        [date(2024, 7, 2)],
        [datetime(2024, 7, 2)],  # noqa: DTZ001
        ["2024-07-02"],
        [np.datetime64("2024-07-02")],
        np.array(["2024-07-02"], "datetime64[D]"),
        np.array(["2024-07-02"], "datetime64[ns]"),
        (day for day in ["2024-07-02"]),
    ],
    ids=["date", "datetime", "text", "numpy", "array", "array of ns", "generator"],
)
def test_sessions_close_on_exchange_dates_of_any_kind(dates):
    """Whatever a price file holds; the time is the exchange's, in UTC, at 16:00 if nothing is said."""
    (close,) = session_close(dates, "America/New_York")
    assert close == CLOSE
    assert close.tzinfo is UTC


@pytest.mark.parametrize(
    ("tz", "at", "close"),
    [
        ("America/New_York", "13:00", CLOSE - timedelta(hours=3)),
        ("America/New_York", time(13, 0, 5), CLOSE - timedelta(hours=2, minutes=59, seconds=55)),
        (timezone(timedelta(hours=2)), "16:00", CLOSE - timedelta(hours=6)),
        (UTC, "20:00", CLOSE),
    ],
    ids=range(4),
)
def test_sessions_close_by_their_own_clock(tz, at, close):
    """A zone by name or as an object, a time as text or as an object."""
    assert session_close(["2024-07-02"], tz, at) == [close]


@pytest.mark.parametrize(
    ("day", "said"),
    [
        (NOON, "is a time"),
        (datetime(2024, 7, 2, tzinfo=UTC), "is a time"),
        (datetime(2024, 7, 2, 0, 0, 1), "is a time"),  # noqa: DTZ001
        (np.datetime64("NaT"), "is not a date"),
        (20240702, "is not a date"),
        (None, "is not a date"),
        ("2024-07-32", "session_close: "),
        (date(1, 1, 1), "session_close: "),
    ],
    ids=range(8),
)
def test_what_is_no_session_date_is_refused(day, said):
    """A time of day is never cut off, nor is anything else guessed at."""
    with pytest.raises(InvalidTimeError, match=said):
        session_close([day], timezone(timedelta(hours=20)), "16:00")


@pytest.mark.parametrize(("tz", "at"), [("Mars/Olympus", "16:00"), ("UTC", "25:00"), ("UTC", 16)])
def test_a_session_closes_at_a_time_in_a_zone(tz, at):
    """An unknown zone or a malformed time has one error."""
    with pytest.raises(InvalidTimeError, match="session_close: "):
        session_close(["2024-07-02"], tz, at)
