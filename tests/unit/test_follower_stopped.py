"""A read-only follower that was stopped for long: it catches up exactly or says why."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

import nt_memory
from nt_memory import MemorySystem
from nt_memory.system import engine as engine_module
from nt_memory.system import following

FOLLOWER = """
import asyncio, json, sys
from nt_memory import MemorySystem, NtMemoryError
async def main():
    async with MemorySystem.open(sys.argv[1], read_only=True) as memory:
        pin = memory.pin("a", "k0")
        loop = asyncio.get_running_loop()
        print("open", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            try:
                await memory.sync()
                found = {record.key: record.value async for record in memory.scan("a")}
                said = [memory.revision, found, pin.value]
            except NtMemoryError as error:
                said = str(error)
            print(json.dumps(said), flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize("is_compacted", [False, True])
def test_a_stopped_process_catches_up_or_says_why(store, run, is_compacted):
    """It is stopped by a signal while the writer overwrites a few keys many times. A compaction
    meanwhile gives the writer's file back to its size, whatever the stopped reader holds on to.
    """

    async def body():
        async with MemorySystem.open(store) as writer:
            await writer.put("a", "k0", 0)
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                FOLLOWER,
                str(store),
                env={**os.environ, "PYTHONPATH": str(Path(nt_memory.__file__).parent.parent)},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            assert await child.stdout.readline() == b"open\n"
            child.send_signal(signal.SIGSTOP)
            await writer.set_retention("a", max_versions=0)
            for n in range(200):
                async with writer.transaction() as tx:
                    for k in range(20):
                        tx.put("a", f"k{k}", n + k)
            await writer.delete("a", "k19")
            if is_compacted:
                grown = writer.stats().l3_bytes
                await writer.compact()
                assert writer.stats().l3_bytes < grown
                await writer.put("a", "k0", "last")
            child.send_signal(signal.SIGCONT)
            child.stdin.write(b"\n")
            said = json.loads(await child.stdout.readline())
            if isinstance(said, str):
                assert is_compacted, said
                assert "no longer reach back" in said
            else:
                expected = {record.key: record.value async for record in writer.scan("a")}
                assert said == [writer.revision, expected, expected["k0"]]
            child.stdin.close()
            assert await child.wait() == 0

    run(body())


def test_a_follower_far_behind_moves_exactly(store, run, monkeypatch):
    """What it reads on another thread it shows in one step: L1, pins, search, watchers. Nothing of
    the many values is decoded on the loop but what is pinned.
    """
    monkeypatch.setattr(engine_module, "NEAR_REVISIONS", 4)
    monkeypatch.setattr(following, "MANY_CHANGES", 16)
    decoded = []
    real = following.to_record
    monkeypatch.setattr(
        following, "to_record", lambda stored, *rest: decoded.append(1) or real(stored, *rest)
    )

    async def body():
        async with (
            MemorySystem.open(store) as writer,
            MemorySystem.open(store, read_only=True) as follower,
        ):
            for n in range(40):
                await writer.put("a", f"k{n}", "old")
            await follower.sync()
            assert await follower.get("a", "k7") == "old"
            pin, watch = follower.pin("a", "k3"), follower.watch("a")
            async with follower._engine._turn:  # it is stopped
                for n in range(40):
                    await writer.put("a", f"k{n}", n)
                await writer.delete("a", "k9")
                await writer.observe("a", np.ones(4), "seen", key="o")
                assert follower.peek("a", "k7") == "old"
                decoded.clear()
            await follower.sync()
            assert follower.revision == writer.revision
            assert len(decoded) <= 1
            assert pin.value == 3
            assert follower.peek("a", "k7", "not hot") == "not hot"
            values = {record.key: record.value async for record in writer.scan("a")}
            assert {record.key: record.value async for record in follower.scan("a")} == values
            assert [hit.key for hit in await follower.search_similar("a", np.ones(4), 3)] == ["o"]
            changes = [await anext(watch) for _ in range(42)]
            assert [change.key for change in changes[-2:]] == ["k9", "o"]

    run(body())


def test_a_follower_closed_while_it_catches_up(store, run, monkeypatch):
    """The files are not closed under the thread that reads them, and its transaction ends."""
    monkeypatch.setattr(engine_module, "NEAR_REVISIONS", 0)

    async def body():
        async with MemorySystem.open(store) as writer:
            for n in range(10):
                follower = await MemorySystem.open(store, read_only=True)
                for i in range(20):
                    await writer.put("a", f"{n}", i)
                catching_up = asyncio.ensure_future(follower.sync())
                await asyncio.wait([catching_up], timeout=0)
                await follower.close()
                await asyncio.gather(catching_up, return_exceptions=True)
            assert await writer.get("a", "9") == 19

    run(body())
