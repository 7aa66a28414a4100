import asyncio
import threading
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from nt_memory import clock as clock_module
from nt_memory.clock import EPOCH, ManualClock, SystemClock, to_datetime, to_us
from nt_memory.errors import InvalidTimeError


@pytest.mark.parametrize("us", [0, 1, -1, 1_700_000_000_123_456, -62_135_596_800_000_000])
def test_microseconds_and_datetimes_are_inverse(us):
    """Every microsecond from year 1 on converts exactly, both ways."""
    assert to_us(to_datetime(us)) == us
    assert to_datetime(us).tzinfo is UTC


def test_times_convert_from_any_zone():
    """The instant counts, not the zone it is written in."""
    expected = to_us(datetime(2024, 1, 2, 14, 30, tzinfo=UTC))
    assert to_us(datetime(2024, 1, 2, 9, 30, tzinfo=ZoneInfo("America/New_York"))) == expected
    assert to_us(datetime(2024, 1, 2, 20, 0, tzinfo=timezone(timedelta(hours=5.5)))) == expected


@pytest.mark.parametrize("moment", [datetime(2024, 1, 2), "2024-01-02", 0, None, EPOCH.date()])  # noqa: DTZ001
def test_a_naive_time_is_refused(moment):
    """A time without a zone, or what is no time, raises instead of being guessed at."""
    with pytest.raises(InvalidTimeError, match=r"aware|naive"):
        to_us(moment)


def test_system_clock_ignores_jumps_of_the_wall_clock(monkeypatch):
    """Now follows monotonic time from the start; a jump only shows in `jump_us`."""
    wall, mono = [5_000_000_000_000], [7_000_000]
    monkeypatch.setattr(clock_module.time, "time_ns", lambda: wall[0])
    monkeypatch.setattr(clock_module.time, "monotonic_ns", lambda: mono[0])
    clock = SystemClock()
    assert clock.now_us() == 5_000_000_000
    mono[0] += 2_000_000
    wall[0] += 2_000_000 - 3_600_000_000_000
    assert clock.now_us() == 5_000_002_000
    assert clock.jump_us() == -3_600_000_000
    assert clock.monotonic_ns() == 9_000_000


def test_system_clock_tells_wall_time():
    """Without jumps, now is the operating system's."""
    clock = SystemClock()
    assert abs(clock.jump_us()) < 1_000_000
    asyncio.run(clock.sleep(0))


def test_manual_clock_moves_only_when_told():
    """It stands at its start until advanced, by exactly what was said."""
    clock = ManualClock(datetime(2024, 3, 1, tzinfo=UTC))
    assert clock.now() == datetime(2024, 3, 1, tzinfo=UTC)
    clock.advance(1.5)
    assert clock.now() == datetime(2024, 3, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    assert clock.monotonic_ns() == clock.now_us() * 1000
    assert clock.jump_us() == 0


def test_manual_clock_wakes_sleepers_in_order_of_their_time():
    """Advancing wakes those whose time has come, earliest first, and no other."""

    async def run() -> list[float]:
        clock, woken = ManualClock(), []

        async def sleeper(seconds: float) -> None:
            await clock.sleep(seconds)
            woken.append(seconds)

        tasks = [asyncio.create_task(sleeper(s)) for s in (3, 1, 2, 0, 10)]
        await settle()
        assert woken == [0]
        clock.advance(0.999)
        await settle()
        assert woken == [0]
        clock.advance(2.001)
        await settle()
        tasks[-1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        clock.advance(100)
        return woken

    assert asyncio.run(run()) == [0, 1, 2, 3]


def test_manual_clock_may_be_advanced_from_another_thread():
    """A sleeper on the loop wakes when a test's thread moves the clock."""

    async def run() -> None:
        clock = ManualClock()
        sleeper = asyncio.create_task(clock.sleep(5))
        await settle()
        thread = threading.Thread(target=clock.advance, args=(5,))
        thread.start()
        await sleeper
        thread.join()

    asyncio.run(run())


def test_manual_clock_outlives_the_loop_of_a_sleeper():
    """A sleeper whose loop is closed does not keep the clock from moving."""
    clock = ManualClock()

    async def abandon() -> None:
        asyncio.ensure_future(clock.sleep(1))  # noqa: RUF006
        await settle()

    asyncio.run(abandon())
    clock.advance(2)
    assert clock.now() == to_datetime(clock.now_us())


async def settle() -> None:
    for _ in range(5):
        await clock_module.turn()
