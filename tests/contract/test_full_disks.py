"""Disks of servers that are full: what a node is told, and who starts a server anew that has given up."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from nats_server import program

from nt_memory import MemorySystem
from nt_memory.apps.cli.doctor import network
from nt_memory.apps.cli.doctor.checks import Patient
from nt_memory.clock import SystemClock
from nt_memory.errors import DisconnectedError, StorageFullError
from nt_memory.system import joining
from nt_memory.testing.chaos import ChaosCluster

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from nt_memory.apps.cli.doctor.checks import Check

DISK = "size=160m,mode=700"
WITHIN_S = 60.0


class Disks:
    """A file system of its own for each server's streams, which can be filled up."""

    def __init__(self, cluster: ChaosCluster) -> None:
        self._places = {name: cluster.fleet.directory / name / "streams" for name in cluster.names}

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        with contextlib.ExitStack() as undo:
            for place in self._places.values():
                place.mkdir(parents=True)
                mount = ["mount", "-t", "tmpfs", "-o", DISK, "nt-memory-test", str(place)]
                try:
                    subprocess.run(mount, check=True, capture_output=True)
                except (OSError, subprocess.CalledProcessError):
                    pytest.skip("file systems cannot be mounted here")
                undo.callback(subprocess.run, ["umount", "-l", str(place)], check=True)
            yield

    def fill(self, *names: str) -> None:
        for name in names:
            filler = (self._places[name] / "filler").open("wb", buffering=0)
            with filler, contextlib.suppress(OSError):
                while True:
                    filler.write(bytes(1 << 16))

    def free(self, *names: str) -> None:
        for name in names:
            (self._places[name] / "filler").unlink()


@contextlib.asynccontextmanager
async def watched(tmp_path: Path) -> AsyncGenerator[tuple[ChaosCluster, Disks, list[str]]]:
    """Three servers with disks of their own, looked after as `nt-memory up` does, and what it says."""
    program()
    cluster = ChaosCluster(tmp_path / "servers")
    disks, told = Disks(cluster), list[str]()
    with disks.mounted():
        async with cluster:
            watching = asyncio.create_task(cluster.fleet.watch(told.append))
            try:
                yield cluster, disks, told
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)


async def eventually(holds: Callable[[], bool]) -> None:
    clock = SystemClock()
    async with asyncio.timeout(WITHIN_S):
        while not holds():
            await clock.sleep(0.05)


async def diagnosed(cluster: ChaosCluster) -> list[Check]:
    """What `nt-memory doctor` says of the servers, and of their copies of the journal."""
    patient = Patient(cluster.config("doctor"), Path(), Path(), cluster.url("doctor"))
    return [
        await asyncio.to_thread(check, patient)
        for check in (network.check_server, network.check_copies)
    ]


async def test_a_server_whose_disk_was_full_is_started_anew(tmp_path: Path) -> None:
    """The leader's disk is full: the others go on, whoever runs the servers is told, and once there is space
    it takes part again, which a write shows that needs it for a majority.
    """
    async with (
        watched(tmp_path) as (cluster, disks, told),
        MemorySystem.open(cluster.config("desk", storage_path=tmp_path / "desk")) as memory,
    ):
        await memory.put("agent_1", "k", 0)
        full = await cluster.leader()
        disks.fill(full)
        for n in range(1, 40):
            await memory.put("agent_1", "k", n)
        await eventually(lambda: bool(told))
        (line,) = told
        assert line.startswith(f"server {full} keeps nothing any more: 0 MiB are free where ")
        assert await cluster.leader() != full
        server, copies = await diagnosed(cluster)
        assert (server.status, copies.status) == ("warn", "warn")
        assert server.found.count("keeps no streams") == 1
        assert copies.found.startswith(f"{full} is ")
        disks.free(full)
        await eventually(lambda: len(told) > 1)
        assert told[1:] == [f"server {full} is started anew"]
        await memory.put("agent_1", "k", 40)
        others = {*cluster.names} - {full}
        await cluster.kill(min(others - {await cluster.leader()}))
        await memory.put("agent_1", "k", 41)
        assert cluster.fleet.servers[full].is_running
        found = [each.value async for each in memory.history("agent_1", "k")]
        assert found == list(range(41, -1, -1))


async def test_full_disks_of_all_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is stored and every write says why; once there is space writes go on by themselves, and what
    had been acknowledged is there.
    """
    async with watched(tmp_path) as (cluster, disks, told), contextlib.AsyncExitStack() as opened:
        desk = MemorySystem.open(cluster.config("desk", storage_path=tmp_path / "desk"))
        with monkeypatch.context() as hurried:
            hurried.setattr(joining, "PATIENCE_S", 3.0)
            memory = await opened.enter_async_context(desk)
        acknowledged = [await memory.put("agent_1", f"before/{n}", n) for n in range(20)]
        disks.fill(*cluster.names)
        refusals = list[DisconnectedError | StorageFullError]()

        async def refused() -> bool:
            try:
                acknowledged.append(
                    await memory.put("agent_1", f"full/{len(refusals)}", "x" * 9_000)
                )
            except (DisconnectedError, StorageFullError) as error:
                refusals.append(error)
            return bool(refusals) and "full" in str(refusals[-1])

        async with asyncio.timeout(WITHIN_S):
            while not await refused():
                pass
        assert all(error.retryable for error in refusals)
        await eventually(lambda: len(told) == len(cluster.names))
        disks.free(*cluster.names)
        async with asyncio.timeout(WITHIN_S):
            while True:
                with contextlib.suppress(DisconnectedError, StorageFullError):
                    last = await memory.put("agent_1", "after", 1)
                    break
        assert last > max(acknowledged)
        # Other streams may have no leader yet: an election takes a few seconds, so not in a hurry.
        late = cluster.config("late", storage_path=tmp_path / "late")
        async with MemorySystem.open(late) as other:
            await other.sync()
            assert [await other.get("agent_1", f"before/{n}") for n in range(20)] == list(range(20))
            assert await other.get("agent_1", "after") == 1
        await eventually(lambda: len(told) == 2 * len(cluster.names))
        assert sorted(told[3:]) == [f"server {name} is started anew" for name in cluster.names]
