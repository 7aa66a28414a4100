"""Large values and entries that nothing needs any more go, and nothing goes that anybody needs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from nats_server import NatsServer
from test_snapshots import ask, node, store

from nt_memory import import_store
from nt_memory.config import MemoryConfig
from nt_memory.errors import CorruptionError, DisconnectedError, StorageError
from nt_memory.system import sharing
from nt_memory.transport.nats import blobs, leftovers, unpacking
from nt_memory.transport.nats.link import Link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server of the test's own."""
    made = NatsServer(tmp_path / "server")
    made.start()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies count as settled at once: nobody in these tests is a day late, unless it says so."""
    monkeypatch.setattr(leftovers, "SETTLED_US", 0)


ENTRY = np.random.default_rng(1).bytes(900_000)
"""Larger than a message, as it cannot be compressed, and smaller than what takes a file."""


def large(number: int) -> Any:
    """A value that takes a file of its own, in three pieces."""
    return np.full(180_000, number, np.float64)


async def stored(memory: Any) -> set[str]:
    """Author, digest and copy of all that is stored, as subjects spell them."""
    stream = memory._engine.journal.link.subjects.values
    info = await ask(memory, f"STREAM.INFO.{stream}", {"subjects_filter": ">"})
    subjects = info["state"].get("subjects") or {}
    return {name.split(".value.")[1].rpartition(".")[0] for name in subjects}


async def test_what_was_overwritten_goes_once_nothing_needs_it(
    server: NatsServer, tmp_path: Path
) -> None:
    """Pieces of versions that retention dropped, and entries of trimmed messages, are removed when a
    snapshot is shared; those of versions that a snapshot holds stay, so does the past, and a new
    node reads all of it.
    """
    async with node(server, tmp_path / "one") as one:
        await one.set_retention("brief", max_versions=0)
        for number in range(3):
            await one.put("brief", "last", large(number))
            await one.put("agent_1", "all", large(10 + number))
        moment = (await one.get_record("agent_1", "all")).known_at
        await one.put("agent_1", "all", large(20))
        await one.put("agent_1", "gone", large(30))
        await one.put("agent_1", "entry", ENTRY)
        assert len(await stored(one)) == 9
        await one.compact()
        done = await one.share_snapshot(keep=1)
        assert done.removed == 3  # two versions of "last", and the entry
        async with node(server, tmp_path / "new") as new:
            assert (await new.get("brief", "last"))[0] == 2
            assert [r.value[0] async for r in new.history("agent_1", "all")] == [20, 12, 11, 10]
            assert (await new.get("agent_1", "all", as_of=moment))[0] == 12
            assert await new.get("agent_1", "entry") == ENTRY
            # What was removed may come again.
            await new.put("brief", "last", large(0))
        async with node(server, tmp_path / "newer") as newer:
            assert (await newer.get("brief", "last"))[0] == 0
        assert (await one.share_snapshot(keep=1)).removed == 0


async def test_what_an_older_snapshot_needs_stays(server: NatsServer, tmp_path: Path) -> None:
    """As long as one snapshot that is kept has a version, its pieces are there; and whatever was
    stored since the oldest, for nodes that follow from there.
    """
    async with node(server, tmp_path / "one") as one:
        await one.set_retention("agent_1", max_versions=0)
        await one.put("agent_1", "k", large(1))
        await one.put("agent_1", "small", 1)
        await one.share_snapshot(keep=2)
        await one.put("agent_1", "k", large(2))
        await one.put("agent_1", "k", large(3))
        await one.compact()
        assert (await one.share_snapshot(keep=2)).removed == 0
        newest = (await one.shared_snapshots())[0]
        await ask_away(one, newest.id)
        async with node(server, tmp_path / "new") as new:  # begins with the older one
            assert (await new.get("agent_1", "k"))[0] == 3
        await one.put("agent_1", "small", 2)
        assert (await one.share_snapshot(keep=2)).removed == 2
        async with node(server, tmp_path / "newer") as newer:
            assert (await newer.get("agent_1", "k"))[0] == 3


async def ask_away(memory: Any, id_: str) -> None:
    """Remove a snapshot's first piece."""
    subjects = memory._engine.journal.link.subjects
    await ask(memory, f"STREAM.PURGE.{subjects.snapshots}", {"filter": subjects.snapshot(id_, 0)})


async def test_a_value_that_comes_again_is_another_copy(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node counts on a copy for an hour, and then stores another: so one that is old can be removed
    while a value of the same bytes is on its way. Of several that are needed one stays.
    """
    async with node(server, tmp_path / "one") as one:
        await one.put("agent_1", "a", large(1))
        await one.put("agent_1", "b", large(1))
        assert len(await stored(one)) == 1
        monkeypatch.setattr(blobs, "REUSE_S", 0)
        await one.put("agent_1", "c", large(1))
        assert len(await stored(one)) == 2
        await one.put("agent_1", "k", 1)
        await one.share_snapshot(keep=1)
        await one.put("agent_1", "k", 2)
        await one.share_snapshot(keep=1)
        assert len(await stored(one)) == 1
        async with node(server, tmp_path / "new") as new:
            assert [(await new.get("agent_1", key))[0] for key in "abc"] == [1, 1, 1]


async def test_of_copies_the_one_that_stays_is_whole(server: NatsServer, tmp_path: Path) -> None:
    """A copy that somebody made up, or left incomplete, is not the one that is kept or read, though it
    comes first by name.
    """
    async with node(server, tmp_path / "one") as one:
        subjects = one._engine.journal.link.subjects
        await one.put("agent_1", "k", large(1))
        (name,) = await stored(one)
        author, digest, _ = name.split(".")
        assert author == "_operator"
        for part in range(3):
            await store(one, subjects.value("", digest, "0", part), b"made up")
        await store(one, subjects.value("", digest, "1", 0), b"incomplete")
        await store(one, subjects.value("", "f" * 64, "2", 0), b"of nothing")
        async with node(server, tmp_path / "early") as early:
            assert (await early.get("agent_1", "k"))[0] == 1
        await one.put("agent_1", "small", 1)
        await one.share_snapshot(keep=1)
        await one.put("agent_1", "small", 2)
        await one.share_snapshot(keep=1)
        assert await stored(one) == {name}
        async with node(server, tmp_path / "new") as new:
            assert (await new.get("agent_1", "k"))[0] == 1


async def test_what_is_young_stays(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy whose message has not come yet, as of a node that is paused in between, is not removed for
    a day, whatever is shared meanwhile.
    """
    monkeypatch.setattr(leftovers, "SETTLED_US", 24 * 3600 * 1_000_000)
    async with node(server, tmp_path / "one") as one:
        publishing = one._engine.journal._publishing
        payload = b"an entry that waits" * 50_000
        digest = blobs.digest_of(payload).hex()
        await asyncio.to_thread(publishing.blobs.put, "", digest, payload)
        for number in range(3):
            await one.put("agent_1", "k", number)
            assert (await one.share_snapshot(keep=1)).removed == 0
        assert len(await stored(one)) == 1


async def test_two_who_remove_at_once_leave_one(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes that look for leftovers at the same time, each before the other has removed any, leave
    every value that is needed.
    """
    monkeypatch.setattr(blobs, "REUSE_S", 0)
    async with node(server, tmp_path / "one") as one, node(server, tmp_path / "other") as other:
        for key in "abcd":
            await one.put("agent_1", key, large(1))
        await one.put("agent_1", "k", 1)
        assert len(await stored(one)) == 4
        both = asyncio.Barrier(2)
        loop = asyncio.get_running_loop()
        real = leftovers.Leftovers._stored

        def together(self: Any) -> Any:
            found = list(real(self))
            asyncio.run_coroutine_threadsafe(both.wait(), loop).result(20)
            return found

        monkeypatch.setattr(leftovers.Leftovers, "_stored", together)
        for _ in range(2):
            await one.put("agent_1", "k", 2)
            await other.sync()
            await asyncio.gather(one.share_snapshot(keep=1), other.share_snapshot(keep=1))
        assert len(await stored(one)) == 1
    async with node(server, tmp_path / "new") as new:
        assert [(await new.get("agent_1", key))[0] for key in "abcd"] == [1, 1, 1, 1]


async def test_who_is_overtaken_removes_by_the_newer_list(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot that another node drops, pieces and all, just when its list is to be read, is no damage:
    what the newer one needs stays, and the rest goes.
    """
    async with node(server, tmp_path / "one") as one, node(server, tmp_path / "other") as other:
        await one.set_retention("brief", max_versions=0)
        for number in range(3):
            await one.put("brief", "last", large(number))
        await one.put("agent_1", "k", 1)
        await one.compact()
        loop, real = asyncio.get_running_loop(), leftovers.Leftovers._needed

        async def overtake() -> None:
            await other.sync()
            await other.compact()
            with monkeypatch.context() as patch:
                patch.setattr(leftovers.Leftovers, "remove", lambda _: 0)
                await other.share_snapshot(keep=1)

        def late(self: Any, snapshots: Any) -> Any:
            monkeypatch.setattr(leftovers.Leftovers, "_needed", real)
            asyncio.run_coroutine_threadsafe(overtake(), loop).result(20)
            return real(self, snapshots)

        monkeypatch.setattr(leftovers.Leftovers, "_needed", late)
        assert (await one.share_snapshot(keep=1)).removed == 2
        async with node(server, tmp_path / "new") as new:
            assert (await new.get("brief", "last"))[0] == 2


async def test_a_list_that_is_damaged_removes_nothing(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a snapshot is kept whose list cannot be read, sharing says so, and all stays."""
    async with node(server, tmp_path / "one") as one:
        await one.set_retention("agent_1", max_versions=0)
        for number in range(2):
            await one.put("agent_1", "k", large(number))
        await one.compact()
        await one.share_snapshot(keep=2)
        before = await stored(one)
        first = (await one.shared_snapshots())[0]
        subjects = one._engine.journal.link.subjects
        pieces = subjects.pieces(first.id)
        await ask(one, f"STREAM.PURGE.{subjects.snapshots}", {"filter": pieces})
        await one.put("agent_1", "small", 1)
        with pytest.raises(CorruptionError, match=r"values: piece 0 of 1 is missing"):
            await one.share_snapshot(keep=2)
        assert await stored(one) == before


@pytest.mark.parametrize("value", [large(1), ENTRY], ids=["file", "entry"])
async def test_a_node_that_was_held_up_stops_rather_than_go_on_without(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    """A node that has a message, and reads what it names only after that was removed, does not take it
    for a message whose author stored nothing: it says that it was left behind, and reopens.
    """
    async with node(server, tmp_path / "one") as one:
        async with node(server, tmp_path / "late") as late:
            with monkeypatch.context() as patch:
                hold_up(patch, late, lambda: removed(one))
                await one.put("agent_1", "k", value)
                with pytest.raises(StorageError, match="before this node had read it"):
                    await late.sync()
        async with node(server, tmp_path / "late") as late:
            assert await late.get("agent_1", "k") == 2


def hold_up(patch: pytest.MonkeyPatch, late: Any, meanwhile: Callable[[], Any]) -> None:
    """Have something done before a node reads what its next message names."""
    loop, real = asyncio.get_running_loop(), unpacking.Unpacking.admitted
    mine = late._engine.journal._unpacking

    def after(self: Any, parcel: Any, *arguments: Any) -> Any:
        if self is mine and parcel.entries:
            patch.setattr(unpacking.Unpacking, "admitted", real)
            asyncio.run_coroutine_threadsafe(meanwhile(), loop).result(30)
        return real(self, parcel, *arguments)

    patch.setattr(unpacking.Unpacking, "admitted", after)


async def removed(one: Any) -> None:
    """Overwrite and share until what was put is gone from the servers."""
    await one.set_retention("agent_1", max_versions=0)
    while await stored(one):
        await one.put("agent_1", "k", 2)
        await one.compact()
        await one.share_snapshot(keep=1)


async def test_an_imports_values_stay(server: NatsServer, tmp_path: Path) -> None:
    """What an import brought is needed by the snapshot that it made, and by those after it."""
    async with node(server, tmp_path / "one", swarm="old") as one:
        await one.put("agent_1", "k", large(7))
        await one.export(tmp_path / "out.jsonl")
    config = MemoryConfig(url=server.url, swarm="desk", storage_path=tmp_path / "mover")
    await asyncio.to_thread(import_store, tmp_path / "out.jsonl", config)
    async with node(server, tmp_path / "two", swarm="desk") as two:
        for number in range(3):
            await two.put("agent_1", "small", number)
            assert (await two.share_snapshot(keep=1)).removed == 0
        async with node(server, tmp_path / "new", swarm="desk") as new:
            assert (await new.get("agent_1", "k"))[0] == 7


async def test_a_snapshot_that_does_not_say_what_it_needs_keeps_all(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a snapshot in the catalogue that has no list, as of an older version, nothing is removed."""
    async with node(server, tmp_path / "one") as one:
        await one.put("agent_1", "k", ENTRY)
        await one.put("agent_1", "small", 1)
        real = sharing.Shelf.put
        with monkeypatch.context() as patch:

            def without(self: Any, id_: str, files: dict[str, Path]) -> Any:
                return real(self, id_, {n: p for n, p in files.items() if n != leftovers.VALUES})

            patch.setattr(sharing.Shelf, "put", without)
            await one.share_snapshot(keep=2)
        await one.put("agent_1", "small", 2)
        assert (await one.share_snapshot(keep=2)).removed == 0
        await one.put("agent_1", "small", 3)
        assert (await one.share_snapshot(keep=2)).removed == 1


async def test_a_large_value_outlives_a_lost_connection(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is lost between two pieces costs an attempt, and the node goes on."""
    real, lost = Link.store, list[str]()

    async def lose_one(self: Any, subject: str, *arguments: Any, **more: Any) -> int:
        place = await real(self, subject, *arguments, **more)
        if ".value." in subject and not lost:
            lost.append(subject)
            raise DisconnectedError("the answer was lost")
        return place

    monkeypatch.setattr(Link, "store", lose_one)
    async with node(server, tmp_path / "one") as one:
        await one.put("agent_1", "k", large(1))
        await one.put("agent_1", "small", 1)
        assert lost
        async with node(server, tmp_path / "new") as new:
            assert (await new.get("agent_1", "k"))[0] == 1
