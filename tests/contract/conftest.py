"""The implementations of the two ports, and memories over them; one real nats-server for all tests."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import threading
from typing import TYPE_CHECKING, Any

import pytest
from nats_server import NatsServer

from nt_memory import MemoryConfig, MemorySystem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_swarms = itertools.count()


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server that nobody kills."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def swarm() -> str:
    """A name that no other test uses."""
    return f"swarm{next(_swarms)}"


class Memories:
    """Opens memories of one store or swarm.

    Attributes:
        is_cluster: Whether several can be open at a time.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.is_cluster = "url" in config

    def open(self, **settings: Any) -> Any:
        return MemorySystem.open(MemoryConfig(**{**self.config, **settings}))


@pytest.fixture(params=["embedded", "cluster"])
def memories(request: pytest.FixtureRequest, tmp_path: Path, swarm: str) -> Memories:
    """Each kind in turn."""
    config: dict[str, Any] = {"storage_path": tmp_path / "store", "swarm": swarm}
    if request.param == "cluster":
        config["url"] = request.getfixturevalue("nats_server").url
    return Memories(config)


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run tests that are coroutines, each on a loop of its own, under a deadline."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in wanted}
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), 90.0))
    return True


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    """Whatever a test opened and closed has ended its threads."""
    before = set(threading.enumerate())
    yield
    left = [
        thread.name
        for thread in set(threading.enumerate()) - before
        if thread.name.startswith(("nt-memory-nats", "nt-memory-publisher", "nt-memory-journal"))
    ]
    assert left == []
