"""Fixtures shared by all tests, and the long Hypothesis profile.

Nothing here sleeps: time is a `ManualClock` that a test moves, and whatever must happen in the
background is awaited through the public API, under a deadline that only a failure reaches.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from nt_memory.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from datetime import datetime
    from pathlib import Path

# pytest --hypothesis-profile=long: for a night, not for every commit.
hypothesis.settings.register_profile(
    "long", deadline=None, max_examples=2_000, stateful_step_count=80, print_blob=True
)

# tools/mutation.py: a mutant must die of what a test asks, not of chance or of a busy machine.
hypothesis.settings.register_profile(
    "mutation", deadline=None, derandomize=True, database=None, max_examples=20
)

DEADLINE_S = 90.0
"""What no test takes on a machine that is busy with much else; it ends those that hang."""


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """`run(coroutine)`: run it on a new event loop, under a deadline."""

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run(asyncio.wait_for(coroutine, DEADLINE_S))

    return run


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where a store may be made; the directory does not exist yet."""
    return tmp_path / "store"


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still until the test moves it."""
    return ManualClock()


@pytest.fixture
def later(clock: ManualClock) -> Callable[[float], datetime]:
    """`later(seconds)`: that long after the clock's now; negative for the past."""
    return lambda seconds: clock.now() + timedelta(seconds=seconds)


@pytest.fixture
def live(store: Path, clock: ManualClock, run: Any) -> Callable[..., Any]:
    """`live(body, **settings)`: open the store, run `await body(memory)`, close it.

    May be called several times in a test: the store is the same one each time.
    """
    from nt_memory import MemoryConfig, MemorySystem

    def open_and_run(
        body: Callable[[Any], Awaitable[Any]], *, read_only: bool = False, **settings: Any
    ) -> Any:
        async def main() -> Any:
            config = MemoryConfig(storage_path=store, **settings)
            async with MemorySystem.open(config, clock=clock, read_only=read_only) as memory:
                return await body(memory)

        return run(main())

    return open_and_run


@pytest.fixture
def backtest(live: Any) -> Callable[..., Any]:
    """Like `live`, on a backtest timeline that has not started."""
    return lambda body, **settings: live(body, timeline="backtest", **settings)


@pytest.fixture
def asked(live: Any, clock: ManualClock) -> Callable[..., Any]:
    """`asked(body, settings=…)`: open the store, run `await body(client, memory)` over HTTP.

    The app is called in process, without a socket: a client buffers whole responses, so streams
    are for a real server. The memory is the operator's.
    """
    import httpx

    from nt_memory.apps.server.app import create_app

    def ask(
        body: Callable[[Any, Any], Awaitable[Any]],
        *,
        settings: Any = None,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> Any:
        async def served(memory: Any) -> Any:
            app = create_app(memory, settings, clock=clock)
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost:3000", headers=headers
            ) as client:
                client.app = app  # type: ignore[attr-defined]
                return await body(client, memory)

        return live(served, **options)

    return ask


@pytest.fixture
def drive(clock: ManualClock) -> Callable[..., Awaitable[Any]]:
    """`await drive(awaitable, step)`: move the clock by `step` seconds until it is done.

    Returns its result or raises its error. Between steps the loop runs freely, so whatever sleeps
    on the clock is registered before time passes it by.
    """

    async def drive(awaitable: Awaitable[Any], step: float = 0.25) -> Any:
        task = asyncio.ensure_future(awaitable)
        while not task.done():
            await asyncio.wait({task}, timeout=0.002)
            clock.advance(step)
        return task.result()

    return drive


@pytest.fixture
def collect() -> Callable[..., Awaitable[list[Any]]]:
    """`await collect(iterator)` takes all items, `await collect(iterator, n)` the next n."""

    async def collect(iterator: Any, count: int | None = None) -> list[Any]:
        if count is None:
            return [item async for item in iterator]
        async with asyncio.timeout(DEADLINE_S / 2):
            return [await anext(iterator) for _ in range(count)]

    return collect
