"""Which store an engine runs on: an embedded one, or the replica of a node; and what was opened for nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nt_memory.errors import UnsupportedError
from nt_memory.system.ending import release_orphans
from nt_memory.system.opening import open_store
from nt_memory.timeline import Timeline

if TYPE_CHECKING:
    import asyncio

    from nt_memory.clock import StoreClock
    from nt_memory.config import MemoryConfig
    from nt_memory.system.opened import Opened
    from nt_memory.tiers.views import Snapshot


def open_target(config: MemoryConfig, clock: StoreClock, *, read_only: bool) -> Opened:
    """Open what a configuration names; see `MemorySystem.open` for the errors. Blocks."""
    release_orphans()
    if config.url is not None:
        if read_only:
            raise UnsupportedError("a node of a cluster follows it by writing; it is not read-only")
        try:
            from nt_memory.system.joining import open_node  # noqa: PLC0415 - an extra
        except ImportError as error:
            raise UnsupportedError("a cluster needs `pip install nt-memory[cluster]`") from error
        return open_node(config, clock)
    return open_store(config, clock, read_only=read_only)


def timeline_of(
    config: MemoryConfig, clock: StoreClock, opened: Opened, snapshot: Snapshot
) -> Timeline:
    """The timeline of a store, or of one that is being made, at the now of a snapshot."""
    replica = opened.replica
    is_backtest = replica.is_backtest if replica.is_configured else config.timeline == "backtest"
    timeline = Timeline(clock, is_backtest=is_backtest)
    now_us = snapshot.number(b"timeline_us")
    if now_us is not None:
        timeline.follow(now_us)
    return timeline


def abandon(opening: asyncio.Future[Opened]) -> None:
    """Close what was opened for a caller who did not wait for it."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().abandon()
