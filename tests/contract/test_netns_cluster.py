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
    """The leader of three servers is parted from the others by the kernel: a node in this process and one
    on a host of its own go on writing with the two. Held, nothing of the latter arrives. Healed, both go
    on, and all they were told of is there, once and in order, on a node that joins.
    """
    async with NetnsCluster(tmp_path / "servers", clients=["child"]) as cluster:
        config = cluster.config("child", storage_path=tmp_path / "child")
        async with MemorySystem.open(
            cluster.config("first", storage_path=tmp_path / "1")
        ) as memory:
            told = [await memory.put("agent_1", "k", 0)]
        parted = await cluster.leader()
        # Both by one of the others from the start: who is at the parted one's finds another after seconds.
        url = str(config.url).replace(f"{cluster.network.hosts[parted].address}:", "127.0.0.1:")
        cluster.wires_of("desk")[parted].cut()
        command = cluster.command(
            "child", sys.executable, str(CHILD), url, str(config.storage_path), "default",
            "put_and_say", "100000", str(config.nkey_file),
        )  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            try:
                said = await hear(child, 20)
                desk = cluster.config("desk", storage_path=tmp_path / "desk")
                async with MemorySystem.open(desk) as memory:
                    cluster.isolate(parted)
                    told += [await memory.put("agent_1", "k", n) for n in range(1, 10)]
                    assert await cluster.leader() != parted
                    await growing(memory)
                    cluster.hold("child")
                    await still(memory)
                    await cluster.heal()
                    await growing(memory)
                    told.append(await memory.put("agent_1", "k", 10))
            finally:
                child.kill()
            assert child.stdout is not None
            said += child.stdout.readlines()
        late = cluster.config("late", storage_path=tmp_path / "late")
        async with MemorySystem.open(late) as memory:
            await memory.sync()
            found = [(each.revision, each.value) async for each in memory.history("agent_1", "k")]
            assert found[::-1] == list(zip(told, range(11), strict=True))
            assert told == sorted(set(told))
            acknowledged = dict(line.split() for line in said[1:] if line.endswith("\n"))
            assert len(acknowledged) > 50
            for key, revision in acknowledged.items():
                record = await memory.get_record("child", key)
                assert (record.value, record.revision) == (int(key.split("/")[1]), int(revision))


async def hear(child: subprocess.Popen[str], count: int) -> list[str]:
    """What it says next."""
    assert child.stdout is not None
    return [await asyncio.to_thread(child.stdout.readline) for _ in range(count)]


async def growing(memory: Any) -> None:
    """Wait until others have written twenty times."""
    until = memory.revision + 20
    while memory.revision < until:
        await memory.sync()


async def still(memory: Any) -> None:
    """Wait until nothing has been written while this node asked a hundred times."""
    same = 0
    while same < 100:
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
