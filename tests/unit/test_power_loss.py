"""The power fails: what was synced is there, what was not is not, in both durabilities.

The disk is a real one under a `VolatileFileSystem`, which says what would be left of each segment.
A store is made of that and nothing else: the views, which are never synced while they are written,
are gone with the boot.
"""

from __future__ import annotations

import asyncio
import shutil

import pytest

from nt_memory import MemoryConfig, MemorySystem, SystemClock
from nt_memory.system.verifying import verify
from nt_memory.testing.faults import VolatileFileSystem
from nt_memory.transport import segment_writer

BOUND_S = 0.05
# What a busy machine may take to wake a thread and to sync; the bound itself is checked to a tick
# in the contract tests of the journal.
SLACK_S = 2.0


@pytest.fixture
def files(monkeypatch):
    """The disk of the stores that the test opens."""
    made = VolatileFileSystem()
    monkeypatch.setattr(segment_writer, "OsFileSystem", lambda: made)
    yield made
    made.resume_sync()


def restart(store, image, target):
    """The store as the next boot finds it."""
    (target / "journal").mkdir(parents=True)
    shutil.copy(store / "FORMAT", target / "FORMAT")
    for name, data in image.items():
        (target / "journal" / name).write_bytes(data)


async def contents(path):
    async with MemorySystem.open(path) as memory:
        return [record.value async for record in memory.scan("a")]


async def write_until(memory, acknowledged, stop):
    """Put numbers one after another, noting each when it is acknowledged."""
    clock = SystemClock()
    n = 0
    while not stop():
        await memory.put("a", f"{n:06}", n)
        acknowledged.append(clock.monotonic_ns())
        n += 1


@pytest.mark.parametrize("durability", ["commit", "relaxed"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 1.0])
def test_a_power_loss_takes_what_its_durability_allows(
    store, tmp_path, files, run, durability, kept
):
    """With "commit" nothing acknowledged is lost; with "relaxed" what is younger than its bound, and never an
    older entry than one it keeps. The store opens by itself and verifies.
    """

    async def body():
        config = MemoryConfig(storage_path=store, durability=durability)
        acknowledged, images = [], []
        async with MemorySystem.open(config) as memory:

            def stop():
                if len(acknowledged) in {20, 60, 120}:
                    known = len(acknowledged)
                    now = SystemClock().monotonic_ns()
                    images.append((known, now, files.image(store / "journal", kept=kept)))
                return len(acknowledged) == 121

            await write_until(memory, acknowledged, stop)
        for number, (known, now, image) in enumerate(images):
            target = tmp_path / f"boot{number}"
            restart(store, image, target)
            found = await contents(target)
            assert found == list(range(len(found))), "a gap"
            if durability == "commit":
                assert len(found) >= known
            else:
                lost = acknowledged[len(found) : known]
                assert all(now - moment <= (BOUND_S + SLACK_S) * 1e9 for moment in lost)
            assert verify(target).is_ok

    run(body())


def test_relaxed_is_on_disk_by_itself_and_at_once_after_flush(store, tmp_path, files, run):
    """Nobody writes any more, and what was acknowledged becomes durable; `flush` waits for it."""

    async def body():
        config = MemoryConfig(storage_path=store, durability="relaxed")
        async with MemorySystem.open(config) as memory:
            await memory.flush()
            files.stall_sync()
            await memory.put("a", "k", 1)
            restart(store, files.image(store / "journal"), tmp_path / "before")
            assert await asyncio.to_thread(files.wait_stalled), "nobody asked, yet it is synced"
            files.resume_sync()
            await memory.put("a", "l", 2)
            await memory.flush()
            restart(store, files.image(store / "journal"), tmp_path / "after")

    run(body())
    before = asyncio.run(contents(tmp_path / "before"))
    assert before == [], "it was durable before it was synced: the disk does not forget"
    assert asyncio.run(contents(tmp_path / "after")) == [1, 2]


def test_an_acknowledgement_waits_for_the_sync(store, tmp_path, files, run):
    """With "commit", while the disk has not said so, nobody is told that a put succeeded."""

    async def body():
        async with MemorySystem.open(store) as memory:
            files.stall_sync()
            task = asyncio.ensure_future(memory.put("a", "k", 1))
            try:
                assert await asyncio.to_thread(files.wait_stalled)
                assert not task.done()
                assert memory.peek("a", "k") is None
            finally:
                files.resume_sync()
            await task
            restart(store, files.image(store / "journal"), tmp_path / "after")

    run(body())
    assert asyncio.run(contents(tmp_path / "after")) == [1]


def test_an_image_is_what_was_synced(tmp_path):
    """The checker's own disk: appended is not durable, synced is, cut is gone."""
    files = VolatileFileSystem()
    path = tmp_path / "f"
    with path.open("wb", buffering=0) as file:
        fd = file.fileno()
        files.append(fd, b"abcd")
        assert files.image(tmp_path) == {"f": bytes(4)}
        files.sync(fd)
        files.append(fd, b"efgh")
        assert files.image(tmp_path) == {"f": b"abcd" + bytes(4)}
        assert files.image(tmp_path, kept=0.5) == {"f": b"abcdef" + bytes(2)}
        files.truncate(fd, 2)
        assert files.image(tmp_path) == {"f": b"ab"}
