"""What an engine does by itself: let time pass, and follow another process."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from nt_memory.entries import Tick
from nt_memory.errors import NtMemoryError, StorageError
from nt_memory.system.governing import sweep_all

if TYPE_CHECKING:
    from nt_memory.system.engine import Engine

TICK_S = 0.2
FOLLOW_S = 0.005
TICKS_A_SWEEP = 64
TICKS_A_ROUND = 300


async def keep_time(engine: Engine) -> None:
    """Submit a tick when something is due; look after the disk, L1 and readers that died."""
    ticks = 0
    while True:
        await engine.clock.sleep(TICK_S)
        ticks += 1
        with contextlib.suppress(NtMemoryError):
            # Again while anything is due: a tick does a bounded amount, and time passes under it.
            while _is_due(engine) and await engine.submit(Tick()) is not None:
                pass
        engine.maintenance.upkeep.look()
        if ticks % TICKS_A_SWEEP == 0:
            engine.hot.sweep()
            engine.opened.cold.check_readers()
        # A backtest drops versions only when it is told to, so that two runs take the same revisions.
        if ticks % TICKS_A_ROUND == 0 and not engine.timeline.is_backtest:
            with contextlib.suppress(NtMemoryError):
                await sweep_all(engine)


def _is_due(engine: Engine) -> bool:
    now = engine.clock.now_us()
    if engine.next_lapse_us is not None and engine.next_lapse_us <= now:
        return True
    if not engine.timeline.has_started:
        return False
    expiry = engine.snapshot.next_expiry()
    return expiry is not None and expiry <= engine.timeline.now_us()


async def keep_up(engine: Engine) -> None:
    """Follow the process that writes: a read-only instance's only source of news."""
    while True:
        await engine.clock.sleep(FOLLOW_S)
        try:
            await engine.catch_up()
        except Exception as error:  # noqa: BLE001 - whatever it is, reads must not go stale
            engine.give_up(StorageError(f"cannot follow the writer any more: {error}; reopen"))
            return
