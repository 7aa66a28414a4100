"""Disks that are full, read-only or too small: reads go on, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import os
import subprocess
from contextlib import contextmanager

import numpy as np
import pytest

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.errors import StorageError, StorageFullError, StorePermissionError
from nt_memory.system.verifying import verify
from nt_memory.transport import segment_writer


@pytest.fixture
def disk(tmp_path):
    """`disk(mib)`: the path of a small file system of its own, mounted for the test."""
    mounted = []

    def mount(mib):
        path = tmp_path / "disk"
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(path)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a file system takes root")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextmanager
def filled(path, leave=0):
    """Nothing, or `leave` bytes, is free while the block runs."""
    filler = path / "filler"
    free = os.statvfs(path)
    size = free.f_bavail * free.f_frsize - leave
    with filler.open("wb") as file:
        for _ in range(max(0, size) // 4096):
            file.write(bytes(4096))
    try:
        yield
    finally:
        filler.unlink()


async def contents(memory):
    return {record.key: record.value async for record in memory.scan("a")}


def test_a_full_disk_refuses_writes_and_takes_them_again(disk, run):
    """Reads, searches and messages go on meanwhile; refused writes leave no trace."""
    path = disk(64)

    async def body():
        async with MemorySystem.open(path / "store") as memory:
            for n in range(50):
                await memory.put("a", f"k{n}", n)
            await memory.observe("a", [1.0, 0.0], "seen", key="o")
            before, revision = await contents(memory), memory.revision
            with filled(path, leave=4 << 20):
                for _ in range(3):
                    with pytest.raises(StorageFullError) as full:
                        await memory.put("a", "refused", 1)
                    assert full.value.retryable
                await memory.compact()  # little is needed for it here, and it gives more back
                assert await contents(memory) == before
                assert (await memory.search_similar("a", [1.0, 0.0]))[0].key == "o"
                assert memory.revision == revision
            await memory.put("a", "after", 1)
            before = await contents(memory)
            await memory.compact()
        async with MemorySystem.open(path / "store") as memory:
            assert await contents(memory) == before
        assert verify(path / "store").is_ok

    run(body())


def test_writes_are_refused_while_the_views_have_no_space(store, run, monkeypatch):
    """The entry that is journalled already is applied once, as soon as it can be."""

    async def body():
        async with MemorySystem.open(store) as memory:
            token = await memory.acquire_lock("desk")
            cold = memory._engine.opened.cold
            commit, is_full = cold.commit, True

            def commit_if_there_is_space(batch):
                if is_full:
                    raise StorageFullError("no space left for the views")
                commit(batch)

            monkeypatch.setattr(cold, "commit", commit_if_there_is_space)
            held = asyncio.ensure_future(memory.put("a", "held", 1, fence=token))
            while memory._engine.writing.fullness is None:
                await asyncio.wait([held], timeout=0.01)
            with pytest.raises(StorageFullError) as full:
                await memory.put("a", "refused", 1)
            assert full.value.retryable
            assert await memory.get("a", "held") is None
            is_full = False
            revision = await held
            assert [record.revision async for record in memory.history("a", "held")] == [revision]
            assert await memory.put("a", "after", 1, fence=token) == revision + 1
            await memory.release_lock(token)

    run(body())


def test_views_that_run_out_of_space_catch_up_later(disk, run, monkeypatch):
    """What is journalled is applied once there is space; until then writes are refused."""
    monkeypatch.setattr(segment_writer, "RESERVE_BYTES", 0)
    monkeypatch.setattr(segment_writer, "_VIEWS_FACTOR", 0)
    path = disk(32)

    async def body():
        async with MemorySystem.open(path / "store") as memory:
            vectors = np.random.default_rng(1).normal(size=(200, 64)).astype(np.float32)
            await memory.observe_many("a", vectors)
            before = await contents(memory)
            # Room for the entries, and not for what they do to the views.
            with filled(path, leave=300_000):
                puts = [
                    asyncio.ensure_future(memory.put("a", f"late{n}", os.urandom(2000)))
                    for n in range(100)
                ]
                await asyncio.wait(puts, timeout=0.5, return_when=asyncio.FIRST_EXCEPTION)
                assert len(await contents(memory)) >= len(before)
            done = await asyncio.gather(*puts, return_exceptions=True)
            taken = [n for n, result in enumerate(done) if isinstance(result, int)]
            assert all(isinstance(r, int | StorageFullError) for r in done)
            assert taken, "some were journalled, and are applied now"
            now = await contents(memory)
            assert {key for key in now if key.startswith("late")} == {f"late{n}" for n in taken}
            await memory.put("a", "after", 1)
        async with MemorySystem.open(path / "store") as memory:
            assert {**now, "after": 1} == await contents(memory)
        assert verify(path / "store").is_ok

    run(body())


def test_closing_on_a_full_disk_loses_nothing(disk, run, monkeypatch):
    """It does not hang, and the next open goes on from the journal."""
    monkeypatch.setattr(segment_writer, "RESERVE_BYTES", 0)
    monkeypatch.setattr(segment_writer, "_VIEWS_FACTOR", 0)
    path = disk(32)

    async def body():
        memory = await MemorySystem.open(path / "store")
        acknowledged = {}
        with filled(path, leave=200_000):
            for n in range(200):
                try:
                    value = os.urandom(3000)
                    await asyncio.wait_for(memory.put("a", f"k{n}", value), 1)
                    acknowledged[f"k{n}"] = value
                except (StorageError, TimeoutError):
                    break
            await asyncio.wait_for(memory.close(), 10)
        assert acknowledged
        async with MemorySystem.open(path / "store") as memory:
            found = await contents(memory)
        assert {key: found.get(key) for key in acknowledged} == acknowledged
        assert verify(path / "store").is_ok

    run(body())


def test_a_read_only_file_system_is_read(disk, run):
    """Opening to write says what is wrong; a reader needs no lock there."""
    path = disk(64)

    async def body():
        async with MemorySystem.open(path / "store") as memory:
            await memory.put("a", "k", 1)
            await memory.observe("a", [1.0, 0.0], "seen", key="o")
        remount = ["mount", "-o", "remount,ro", str(path)]
        await asyncio.to_thread(subprocess.run, remount, check=True)
        with pytest.raises(StorePermissionError):
            await MemorySystem.open(path / "store")
        async with MemorySystem.open(path / "store", read_only=True) as memory:
            assert await memory.get("a", "k") == 1
            assert (await memory.search_similar("a", [1.0, 0.0]))[0].key == "o"
            assert [record.value async for record in memory.history("a", "k")] == [1]

    run(body())


def test_a_file_system_that_becomes_read_only(disk, run):
    """Writes fail and say so, reads go on, and what was acknowledged is there afterwards."""
    path = disk(64)

    async def body():
        memory = await MemorySystem.open(path / "store")
        await memory.put("a", "k", 1)
        # What is open for writing keeps a file system from becoming read-only, unless it is forced.
        memory._engine.opened.journal._writer._files = _ReadOnlyFiles()
        with pytest.raises(StorageError, match="Read-only"):
            await memory.put("a", "k", 2)
        with pytest.raises(StorageError):
            await memory.put("a", "k", 3)
        assert await memory.get("a", "k") == 1
        await memory.close()
        async with MemorySystem.open(path / "store") as memory:
            assert await memory.get("a", "k") == 1

    run(body())


class _ReadOnlyFiles:
    def free_bytes(self, fd):
        return 1 << 40

    def append(self, fd, data):
        import errno

        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def sync(self, fd):
        self.append(fd, b"")

    def reserve(self, fd, size):
        self.append(fd, b"")

    def start_sync(self, fd, start, size):
        self.append(fd, b"")

    def truncate(self, fd, size):
        self.append(fd, b"")


def test_a_map_that_is_too_small_is_said_to_be(store, run):
    """What was journalled is applied when it is reopened with a larger one."""

    async def body():
        small = MemoryConfig(storage_path=store, max_map_bytes=1 << 20, enable_compression=False)
        acknowledged = {}
        memory = await MemorySystem.open(small)

        async def fill():
            for n in range(500):
                value = os.urandom(4000)
                await memory.put("a", f"k{n}", value)
                acknowledged[f"k{n}"] = value

        with pytest.raises(StorageError, match="max_map_bytes"):
            await fill()
        assert await contents(memory) == acknowledged
        with pytest.raises(StorageError):
            await memory.put("a", "again", 1)
        await memory.close()
        async with MemorySystem.open(store) as memory:
            found = await contents(memory)
            assert {key: found.get(key) for key in acknowledged} == acknowledged
            await memory.put("a", "again", 1)
        assert verify(store).is_ok

    run(body())


def test_views_grow_under_readers(store, run):
    """A reader of before the growth reads on, in this process and in another instance."""

    async def body():
        async with (
            MemorySystem.open(store) as memory,
            MemorySystem.open(store, read_only=True) as follower,
        ):
            view = memory.at(memory.revision)
            size = memory.stats().l3_bytes
            reads = 0
            for n in range(300):
                revision = await memory.put("a", f"k{n}", os.urandom(20_000))
                assert await view.get("a", f"k{n}") is None
                if n % 50 == 0:
                    await follower.wait_for(revision)
                    assert len(await follower.get("a", f"k{n}")) == 20_000
                    reads += 1
            assert memory.stats().l3_bytes > size + 300 * 20_000
            assert reads == 6

    run(body())
