"""Servers on hosts of their own, parted by the kernel: what a node is told, and what is there afterwards."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from nats_server import program

from nt_memory import MemorySystem
from nt_memory.clock import SystemClock
from nt_memory.errors import InvalidInputError, UnsupportedError
from nt_memory.testing import netns
from nt_memory.testing.netns_cluster import NetnsCluster
from nt_memory.transport.nats.servers.fleet import Fleet

CHILD = Path(__file__).with_name("cluster_child.py")


@pytest.fixture(autouse=True)
def allowed() -> None:
    """Both a server and namespaces, or skipped for the reason."""
    program()
    if reason := netns.refusal():
        pytest.skip(reason)


async def test_writes_go_on_while_the_leader_is_parted(tmp_path: Path) -> None:
    """The leader of three servers is parted from the others by the kernel: the two choose another one, with
    which a node goes on writing, and healed, all is there once and in order, on a node that joins as well.
    """
    async with NetnsCluster(tmp_path / "servers") as cluster:
        first = cluster.config("first", storage_path=tmp_path / "first")
        async with MemorySystem.open(first) as memory:
            told = [await memory.put("agent_1", "k", 0)]
        parted = await cluster.leader()
        # By one of the others from the start: who is at the parted one's finds another after some seconds.
        cluster.wires_of("desk")[parted].cut()
        desk = cluster.config("desk", storage_path=tmp_path / "desk")
        async with MemorySystem.open(desk) as memory:
            cluster.isolate(parted)
            while await cluster.leader() == parted:  # as two of three see it
                await SystemClock().sleep(0.1)
            told += [await memory.put("agent_1", "k", n) for n in range(1, 10)]
            await cluster.heal()
            told.append(await memory.put("agent_1", "k", 10))
        # The parted one hears of the healing only when TCP tries again, which it does ever more rarely.
        cluster.wires_of("late")[parted].cut()
        late = cluster.config("late", storage_path=tmp_path / "late")
        async with MemorySystem.open(late) as memory:
            await memory.sync()
            found = [(each.revision, each.value) async for each in memory.history("agent_1", "k")]
        assert found[::-1] == list(zip(told, range(11), strict=True))
        assert told == sorted(set(told))


async def test_a_client_on_a_host_of_its_own(tmp_path: Path) -> None:
    """A process that the cluster's command starts reaches the server over the network alone: held, nothing
    of it arrives; mended, it goes on; and all that it was told of is there.
    """
    async with NetnsCluster(tmp_path / "servers", nodes=1, clients=["child"]) as cluster:
        config = cluster.config("child", storage_path=tmp_path / "child")
        command = cluster.command(
            "child", sys.executable, str(CHILD), str(config.url), str(config.storage_path), "default",
            "put_and_say", "100000", str(config.nkey_file),
        )  # fmt: skip
        child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        try:
            desk = cluster.config("desk", storage_path=tmp_path / "desk")
            async with MemorySystem.open(desk) as memory:
                await growing(memory)
                cluster.hold("child")
                await still(memory)
                cluster.network.mend()
                await growing(memory)
                child.kill()
                said, _ = await child.communicate()
                await memory.sync()
                told = dict(line.split() for line in said.decode().splitlines(keepends=True)[1:] if line.endswith("\n"))  # fmt: skip
                assert len(told) > 30
                for key, revision in told.items():
                    record = await memory.get_record("child", key)
                    assert (record.value, record.revision) == (
                        int(key.split("/")[1]),
                        int(revision),
                    )
        finally:
            if child.returncode is None:
                child.kill()
                await child.communicate()


async def growing(memory: Any) -> None:
    """Wait until others have written twenty times."""
    until = memory.revision + 20
    while memory.revision < until:
        await memory.sync()


async def still(memory: Any) -> None:
    """Wait until nothing has been written while this node asked thirty times."""
    same = 0
    while same < 30:
        before = memory.revision
        await memory.sync()
        same = same + 1 if memory.revision == before else 0


async def test_what_a_parted_cluster_refuses(tmp_path: Path) -> None:
    """What only wires can do is refused with who can, and so is a client without a host."""
    cluster = NetnsCluster(tmp_path / "servers", clients=["child"])
    try:
        for refused in (
            lambda: cluster.isolate("ntm-1", cut=True),
            lambda: cluster.slow("ntm-1", 0.1),
            lambda: cluster.drop("child"),
        ):
            with pytest.raises(UnsupportedError):
                refused()
        with pytest.raises(InvalidInputError, match="none of the clients"):
            cluster.command("desk", "true")
        with pytest.raises(InvalidInputError, match="no server"):
            cluster.lose("ntm-4", 0.5)
    finally:
        await cluster.close()


def test_a_refused_network_gives_the_directory_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no namespaces can be made, the servers' directory is free for a cluster with wires."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UnsupportedError, match="Linux"):
        NetnsCluster(tmp_path / "servers")
    monkeypatch.undo()
    Fleet(tmp_path / "servers").leave()
