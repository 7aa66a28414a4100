"""A stream's copies that differ: a server that goes on without a part of what it had."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from nt_memory import MemorySystem
from nt_memory.testing.chaos import ChaosCluster

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.stress, pytest.mark.timeout(600)]

BEFORE, AFTER, JOINERS = 200, 100, 12


def test_nodes_join_past_a_copy_with_a_hole(tmp_path: Path) -> None:
    """A server's disk loses what was written before its own log begins: it takes the rest from the others,
    and what comes first stays missing there. Every node that joins reads all of it, by the other copies.
    """

    async def main() -> None:
        async with ChaosCluster(tmp_path / "servers") as cluster:
            desk = cluster.config("desk", storage_path=tmp_path / "desk")
            async with MemorySystem.open(desk) as memory:
                for n in range(BEFORE):
                    await memory.put("agent_1", f"k{n}", n)
                leader = await cluster.leader()
                name = next(each for each in cluster.names if each != leader)
                # Stopped kindly, it keeps what it has in a snapshot, and its log begins behind that.
                await cluster.fleet.servers[name].stop()
                await cluster.heal()
                for n in range(BEFORE, BEFORE + AFTER):
                    await memory.put("agent_1", f"k{n}", n)
            await cluster.kill(name)
            damage(cluster.stream_files(name)[0])
            await cluster.heal()
            for number in range(JOINERS):
                joiner = cluster.config("joiner", storage_path=tmp_path / f"joiner{number}")
                async with MemorySystem.open(joiner) as memory:
                    await memory.sync()
                    assert (
                        len([record async for record in memory.scan("agent_1")]) == BEFORE + AFTER
                    )
            # Otherwise it was not tried.
            await cluster.kill()
            sizes = {each: sum(path.stat().st_size for path in cluster.stream_files(each)) for each in cluster.names}  # fmt: skip
            assert sizes[name] < 0.9 * max(sizes.values())

    asyncio.run(main())


def damage(path: Path) -> None:
    """Change bytes in the first third."""
    data = bytearray(path.read_bytes())
    place = len(data) // 3
    data[place : place + 64] = (byte ^ 0xFF for byte in data[place : place + 64])
    path.write_bytes(data)
