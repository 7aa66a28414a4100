"""Snapshots of a swarm: new nodes begin with them, the stream is trimmed behind them, and what is damaged
costs time and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from nats_server import NatsServer

from nt_memory import MemoryConfig, MemorySystem, Proposal, Vote, import_store
from nt_memory.errors import (
    CorruptionError,
    ForeignStoreError,
    InvalidInputError,
    StorageError,
    TrimmedError,
    UnsupportedError,
)
from nt_memory.system import beginning, founding, sharing
from nt_memory.transport.nats import follower

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nt_memory.transport.nats.catalogue import Manifest


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server of the test's own."""
    made = NatsServer(tmp_path / "server")
    made.start()
    yield made
    made.stop()


def node(server: NatsServer, path: Path, **settings: Any) -> Any:
    """Open a node whose replicas are at `path`."""
    return MemorySystem.open(MemoryConfig(url=server.url, storage_path=path, **settings))


async def ask(memory: Any, what: str, body: dict[str, Any]) -> dict[str, Any]:
    """Ask JetStream's API as an operator would, past the memory."""
    link = memory._engine.journal.link
    asking = link.ask_api(what, body)
    found: dict[str, Any] = await asyncio.wrap_future(
        asyncio.run_coroutine_threadsafe(asking, link.loop)
    )
    return found


async def store(memory: Any, subject: str, data: bytes) -> None:
    """Publish to a stream past the memory."""
    link = memory._engine.journal.link
    storing = link.store(subject, data, {}, timeout_s=5.0)
    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(storing, link.loop))


async def first_message(memory: Any) -> int:
    """The first message that the swarm's stream has."""
    stream = memory._engine.journal.link.subjects.stream
    found = await ask(memory, f"STREAM.INFO.{stream}", {})
    return int(found["state"]["first_seq"])


async def fill(memory: Any) -> None:
    """Something of every kind."""
    for i in range(20):
        await memory.put("agent_1", f"k/{i}", {"i": i})
    await memory.put("agent_1", "k/0", "again")
    await memory.put("agent_1", "large", np.arange(200_000, dtype=np.float64))
    await memory.delete("agent_1", "k/1")
    rows = np.random.default_rng(1).normal(size=(300, 8)).astype(np.float32)
    await memory.observe_many("agent_1", rows, [{"n": n} for n in range(300)])
    await memory.consensus.register_agent("agent_1")
    await memory.consensus.submit_proposal(Proposal("agent_1", {"buy": 1}, id="p"))


async def told(memory: Any) -> dict[str, Any]:
    """All that `fill` made, as it reads now."""
    records = [record async for record in memory.scan("agent_1", "k/")]
    large = await memory.get("agent_1", "large")
    hits = await memory.search_similar("agent_1", [1.0] * 8, top_k=20, exact=True)
    history = [(r.value, r.revision, r.known_at) async for r in memory.history("agent_1", "k/0")]
    return {
        "records": [(r.key, r.value, r.revision, r.recorded_at, r.actor) for r in records],
        "large": large.tobytes(),
        "hits": [(hit.key, hit.score, hit.data) for hit in hits],
        "history": history,
        "locks": sorted(lock.resource for lock in memory.list_locks()),
        "proposals": [p.id for p in await memory.consensus.list_proposals()],
        "revision": memory.revision,
    }


async def manifests(memory: Any) -> list[Manifest]:
    """The catalogue, as the servers have it."""
    from nt_memory.transport.nats.snapshots import Shelf

    shelf = Shelf(memory._engine.journal.link)
    return list((await asyncio.to_thread(shelf.listed)).snapshots)


async def damage(memory: Any, snapshot: Manifest, part: int = 0) -> None:
    """Remove one piece of a snapshot from the servers."""
    subjects = memory._engine.journal.link.subjects
    await ask(
        memory,
        f"STREAM.PURGE.{subjects.snapshots}",
        {"filter": subjects.snapshot(snapshot.id, part)},
    )


async def test_a_new_node_begins_with_a_snapshot(server: NatsServer, tmp_path: Path) -> None:
    """After a snapshot was shared and the stream trimmed, a new node has all that there was: values
    and their files, vectors, history by time, locks, ballots; and goes on with what came later.
    """
    async with node(server, tmp_path / "one") as one:
        await fill(one)
        token = await one.acquire_lock("book", lease=600.0)
        assert await first_message(one) == 1
        done = await one.share_snapshot()
        assert done.snapshot.revision == one.revision
        assert done.trimmed > 20
        assert await first_message(one) == done.snapshot.message + 1
        await one.put("agent_1", "k/later", "yes", fence=token)
        async with node(server, tmp_path / "other") as other:
            opened = other._engine.opened
            assert opened.replica.origin.message > done.snapshot.message
            assert not (opened.directory.path / beginning.JOINING).exists()
            assert await told(other) == await told(one)
            assert await other.get("agent_1", "k/later") == "yes"
            moment = (await one.get_record("agent_1", "k/2")).known_at
            for memory in (one, other):
                assert await memory.get("agent_1", "k/2", as_of=moment) == {"i": 2}
            # What it did not see in order, it does not pretend to have seen.
            with pytest.raises(TrimmedError):
                await anext(other.tail(1))
            await other.put("agent_1", "k/here", 1)
            assert await other.consensus.vote(Vote("p", "agent_1", approve=True))
            await one.sync()
            assert await told(one) == await told(other)
        async with node(server, tmp_path / "other") as again:  # and it reopens like any other
            await again.sync()
            assert await told(again) == await told(one)


async def test_no_more_are_kept_than_told(server: NatsServer, tmp_path: Path) -> None:
    """`keep` snapshots are in the catalogue, newest first; the others' pieces are gone, and the stream
    begins behind the oldest that is kept.
    """
    async with node(server, tmp_path / "one") as one:
        made = []
        for i in range(4):
            await one.put("agent_1", "k", i)
            made.append((await one.share_snapshot(keep=2)).snapshot)
        listed = await one.shared_snapshots()
        assert [found.id for found in listed] == [made[3].id, made[2].id]
        assert await first_message(one) == made[2].message + 1
        stream = one._engine.journal.link.subjects.snapshots
        info = await ask(one, f"STREAM.INFO.{stream}", {"subjects_filter": ">"})
        assert {name.split(".")[-2] for name in info["state"]["subjects"]} == {
            found.id for found in listed
        }
        assert (await one.verify_snapshot(made[2].id)).revision == made[2].revision
        with pytest.raises(InvalidInputError):
            await one.verify_snapshot(made[0].id)
        with pytest.raises(InvalidInputError):
            await one.share_snapshot(keep=0)


@pytest.mark.parametrize("damaged", [1, 2])
async def test_a_damaged_snapshot_costs_time_and_nothing_else(
    server: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, damaged: int
) -> None:
    """With the newest snapshot damaged the next older is used, with all damaged the stream from its
    beginning, if it is there; each is said, and the replica is the same.
    """
    async with node(server, tmp_path / "one") as one:
        await fill(one)
        await one.share_snapshot()
        await one.put("agent_1", "k/later", 1)
        await one.share_snapshot()
        newest = await manifests(one)
        for snapshot in newest[:damaged]:
            await damage(one, snapshot)
            with pytest.raises(CorruptionError, match="piece 0 of 1 is missing"):
                await one.verify_snapshot(snapshot.id)
        with caplog.at_level(logging.WARNING, "nt_memory"):
            if damaged == 1:
                async with node(server, tmp_path / "other") as other:
                    assert await told(other) == await told(one)
            else:
                with pytest.raises(CorruptionError, match="no snapshot in between is good"):
                    await node(server, tmp_path / "other")
        for snapshot in newest[:damaged]:
            assert snapshot.id in caplog.text
        # What is good again, helps: nothing of the failed attempt stands in the way.
        await one.share_snapshot(keep=1)
        async with node(server, tmp_path / "other") as other:
            assert await told(other) == await told(one)


async def test_what_is_dropped_while_it_is_read_is_no_damage(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever verifies a snapshot that another node drops meanwhile is told that there is none, and not
    that it is damaged.
    """
    from nt_memory.system.sharing import verify_all
    from nt_memory.transport.nats.snapshots import Shelf

    real = Shelf.verify
    async with node(server, tmp_path / "one") as one:
        loop = asyncio.get_running_loop()

        def late(self: Any, snapshot: Any) -> None:
            monkeypatch.setattr(Shelf, "verify", real)
            asyncio.run_coroutine_threadsafe(replace(), loop).result(20)
            real(self, snapshot)

        async def replace() -> Any:
            await one.put("agent_1", "k", 1)
            return (await one.share_snapshot(keep=1)).snapshot

        first = await replace()
        monkeypatch.setattr(Shelf, "verify", late)
        with pytest.raises(InvalidInputError, match=f"no snapshot '{first.id}'"):
            await one.verify_snapshot(first.id)
        second = (await one.shared_snapshots())[0]
        monkeypatch.setattr(Shelf, "verify", late)
        link = one._engine.journal.link
        found = await asyncio.to_thread(verify_all, link, lambda *_: None)
        assert (found.damage, found.snapshots) == ([], [])
        assert found.warnings == [f"snapshot {second.id} was dropped while it was read"]
        found = await asyncio.to_thread(verify_all, link, lambda *_: None)
        assert (found.damage, found.warnings) == ([], [])
        assert found.snapshots == [(await one.shared_snapshots())[0].id]


async def test_a_changed_piece_is_found(
    server: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Bytes that are not what was stored are noticed by their digest, whoever put them there, and what
    is made of them is no replica.
    """
    async with node(server, tmp_path / "one") as one:
        await fill(one)
        await one.share_snapshot()
        (snapshot,) = await manifests(one)
        await damage(one, snapshot)
        subject = one._engine.journal.link.subjects.snapshot(snapshot.id, 0)
        await store(one, subject, bytes(snapshot.parts[0].size))
        with pytest.raises(CorruptionError, match="are not what was stored"):
            await one.verify_snapshot(snapshot.id)
        with pytest.raises(CorruptionError, match="no snapshot in between is good"):
            await node(server, tmp_path / "other")
        assert "it fails its checksum" in caplog.text
        assert not list((tmp_path / "other.nodes").glob("*/*/base/*"))


async def test_without_a_good_snapshot_the_stream_is_read(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the stream is whole, a node begins with its first message when nothing else helps."""
    from nt_memory.transport.nats.snapshots import Shelf

    async with node(server, tmp_path / "one") as one:
        await fill(one)
        with monkeypatch.context() as patch:
            patch.setattr(Shelf, "trim", lambda _: 0)
            await one.share_snapshot()
        await damage(one, (await manifests(one))[0])
        async with node(server, tmp_path / "other") as other:
            assert await told(other) == await told(one)
            assert [e.revision async for e in _first(other.tail(), 3)] == [1, 2, 3]


async def _first(feed: Any, count: int) -> Any:
    for _ in range(count):
        yield await anext(feed)


async def test_a_node_that_is_too_far_behind_begins_anew(
    server: NatsServer, tmp_path: Path
) -> None:
    """A node that was away while the stream was trimmed opens all the same, from a snapshot; what it
    had is removed. One whose replica reaches far enough keeps it.
    """
    async with node(server, tmp_path / "one") as one:
        async with node(server, tmp_path / "late") as late:
            await late.put("agent_1", "early", 1)
        for _ in range(3):
            await fill(one)
            await one.share_snapshot(keep=1)
        async with node(server, tmp_path / "late") as late:
            assert late._engine.opened.directory.path.name == "1"
            assert await told(late) == await told(one)
            root = late._engine.opened.directory.path.parent
            assert [path.name for path in root.iterdir()] == ["1"]
        await one.put("agent_1", "k/after", 1)
        async with node(server, tmp_path / "late") as late:
            assert late._engine.opened.directory.path.name == "1"
            assert await told(late) == await told(one)


async def test_a_follower_is_told_that_it_was_left_behind(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node at work that was cut off while the stream was trimmed stops, and says to reopen it."""
    monkeypatch.setattr(follower, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(follower, "SILENCE_S", 0.6)
    async with node(server, tmp_path / "one") as one, node(server, tmp_path / "late") as late:
        following = late._engine.journal._follower
        link = late._engine.journal.link

        async def hold_up() -> None:
            following._consumer = ""  # deaf, as one whose connection is dead

        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(hold_up(), link.loop))
        await fill(one)
        await one.share_snapshot(keep=1)
        with pytest.raises(StorageError, match="was trimmed and begins with"):
            await late.sync()


async def test_a_crash_while_joining_leaves_nothing_to_trust(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed anywhere between the first file and the last, a node begins anew with the next open."""
    async with node(server, tmp_path / "one") as one:
        await fill(one)
        await one.share_snapshot()
        for name in ("segment_path", "encode_header", "_fetch_values"):
            with monkeypatch.context() as patch:

                def crash(*_: object) -> None:
                    raise KeyboardInterrupt

                patch.setattr(beginning, name, crash)
                with pytest.raises(KeyboardInterrupt):
                    await asyncio.to_thread(_open_in_thread, server, tmp_path / "other")
            marker = list((tmp_path / "other.nodes").glob(f"*/*/{beginning.JOINING}"))
            assert len(marker) == 1
        async with node(server, tmp_path / "other") as other:
            assert await told(other) == await told(one)


def _open_in_thread(server: NatsServer, path: Path) -> None:
    from nt_memory.clock import StoreClock, SystemClock
    from nt_memory.system.joining import open_node

    config = MemoryConfig(url=server.url, storage_path=path)
    open_node(config, StoreClock(SystemClock()))


async def test_what_is_no_catalogue_is_none(server: NatsServer, tmp_path: Path) -> None:
    """Whatever else is stored under the catalogue's subject is passed over: a server's answer, bytes
    of no meaning. The newest real one counts, and the next is entered behind it.
    """
    async with node(server, tmp_path / "one") as one:
        await fill(one)
        await one.share_snapshot()
        first = (await one.shared_snapshots())[0]
        subject = one._engine.journal.link.subjects.catalogue
        for rubbish in (
            b'{"type":"io.nats"}',
            b"\xb3",
            b"\xb3\x01\xff",
            b"\xb2\x01\x93\xa1a\x01\x90",
        ):
            await store(one, subject, rubbish)
            await one.sync()
            assert await one.shared_snapshots() == [first]
        async with node(server, tmp_path / "other") as other:
            assert await told(other) == await told(one)
        second = (await one.share_snapshot()).snapshot
        assert await one.shared_snapshots() == [second, first]


async def test_two_share_at_once(server: NatsServer, tmp_path: Path) -> None:
    """Nodes that share at the same time lose neither's snapshot, nor a message behind the newest."""
    async with node(server, tmp_path / "one") as one, node(server, tmp_path / "other") as other:
        await fill(one)
        await other.sync()
        done = await asyncio.gather(*(m.share_snapshot(keep=3) for m in (one, other, one)))
        listed = await one.shared_snapshots()
        assert {found.id for found in listed} == {one.snapshot.id for one in done}
        for found in listed:
            await other.verify_snapshot(found.id)
        assert await first_message(one) <= listed[0].message + 1
        expected = await told(one)
    async with node(server, tmp_path / "new") as new:
        assert await told(new) == expected


async def test_no_snapshot_is_kept_without_the_messages_behind_it(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that enters its snapshot after another has trimmed the stream past it makes it anew: every
    snapshot in the catalogue has all messages that must follow it, and a node can begin with each.
    """
    async with node(server, tmp_path / "one") as one, node(server, tmp_path / "late") as late:
        await fill(one)
        await late.sync()
        loop, real = asyncio.get_running_loop(), sharing.enter

        def overtaken(*arguments: Any) -> Any:
            monkeypatch.setattr(sharing, "enter", real)
            asyncio.run_coroutine_threadsafe(overtake(), loop).result(30)
            return real(*arguments)

        async def overtake() -> None:
            await one.put("agent_1", "k/between", 1)
            await one.share_snapshot(keep=3)
            await one.put("agent_1", "k/after", 1)

        monkeypatch.setattr(sharing, "enter", overtaken)
        done = await late.share_snapshot(keep=3)
        newest, older = await manifests(one)
        assert newest.id == done.snapshot.id
        assert min(newest.needs, older.needs) >= await first_message(one) > 1
        await damage(one, newest)
        await one.sync()
        async with node(server, tmp_path / "new") as new:
            assert await told(new) == await told(one)


async def test_writers_go_on_while_it_is_shared(server: NatsServer, tmp_path: Path) -> None:
    """Writes under a snapshot that is being made are in it or behind it, each once."""
    async with node(server, tmp_path / "one") as one:
        await one.put("agent_1", "k", 0)
        stop = asyncio.Event()
        written = []

        async def write() -> None:
            while not stop.is_set():
                written.append(await one.put("agent_1", f"w/{len(written)}", len(written)))

        writing = asyncio.ensure_future(write())
        for _ in range(3):
            await one.share_snapshot(keep=1)
        async with node(server, tmp_path / "other") as other:
            stop.set()
            await writing
            await other.sync()
            found = [(r.value, r.revision) async for r in other.scan("agent_1", "w/")]
            assert sorted(found) == list(enumerate(written))


async def test_an_embedded_store_shares_nothing(tmp_path: Path) -> None:
    """Where there is no swarm, the calls say so."""
    async with MemorySystem.open(tmp_path / "store") as memory:
        for call in (
            memory.share_snapshot(),
            memory.shared_snapshots(),
            memory.verify_snapshot("x"),
        ):
            with pytest.raises(UnsupportedError, match="nats://"):
                await call


async def everything(memory: Any) -> dict[str, Any]:
    """What `told` says, and what else moves with a store."""
    found = await told(memory)
    del found["revision"]  # whoever opens an embedded store makes an entry
    agents = [r async for r in memory.scan("agent_1")]
    return {**found, "all": [(r.key, r.revision, r.known_at, r.recorded_at) for r in agents]}


async def test_a_store_moves_into_a_cluster_and_back(server: NatsServer, tmp_path: Path) -> None:
    """An embedded store's export begins a swarm, with its values, files, vectors, history, revisions and
    times; new revisions go on behind them, on every node alike; and the swarm's export makes an
    embedded store of it again.
    """
    async with MemorySystem.open(tmp_path / "store") as memory:
        await fill(memory)
        before, revision = await everything(memory), memory.revision
        await memory.export(tmp_path / "out.jsonl.zst")
    config = MemoryConfig(url=server.url, swarm="desk", storage_path=tmp_path / "mover")
    done = await asyncio.to_thread(import_store, tmp_path / "out.jsonl.zst", config)
    assert (done.revision, done.is_new) == (revision, True)
    assert not list((tmp_path / "mover.nodes").glob("*/*"))
    async with (
        node(server, tmp_path / "one", swarm="desk") as one,
        node(server, tmp_path / "other", swarm="desk") as other,
    ):
        assert await everything(one) == before
        assert await everything(other) == before
        written = await one.put("agent_1", "k/new", 1, expect=0)
        assert written > revision
        await other.sync()
        assert (await other.get_record("agent_1", "k/new")).revision == written
        rings = [m._engine.opened.replica.ledger.ring for m in (one, other)]
        common = min(ring.last for ring in rings)
        assert rings[0].at(common) == rings[1].at(common) is not None
        await one.share_snapshot(keep=1)
        async with node(server, tmp_path / "third", swarm="desk") as third:
            after = await everything(third)
            await third.export(tmp_path / "back.jsonl")
    async with node(server, tmp_path / "one", swarm="desk") as one:  # and it reopens
        assert await everything(one) == after
    await asyncio.to_thread(import_store, tmp_path / "back.jsonl", tmp_path / "again")
    async with MemorySystem.open(tmp_path / "again") as memory:
        assert await everything(memory) == after
        assert await memory.put("agent_1", "k/last", 1) > written
    # And what was in one cluster begins another.
    config = MemoryConfig(url=server.url, swarm="branch", storage_path=tmp_path / "mover")
    await asyncio.to_thread(import_store, tmp_path / "back.jsonl", config)
    async with node(server, tmp_path / "one", swarm="branch") as branch:
        assert await everything(branch) == after
        await branch.put("agent_1", "k/here", 1)


async def test_a_swarm_that_has_begun_takes_no_import(server: NatsServer, tmp_path: Path) -> None:
    """An import is a beginning or nothing: a swarm with entries is left as it is, also if its first
    entry came while the import was under way; and a node that saw the stream empty does not go on
    beside an import.
    """
    async with MemorySystem.open(tmp_path / "store") as memory:
        await memory.put("agent_1", "k", 1)
        await memory.export(tmp_path / "out.jsonl")
    config = MemoryConfig(url=server.url, storage_path=tmp_path / "mover")
    real = founding._send

    def overtaken(*arguments: Any) -> Any:
        made = real(*arguments)
        asyncio.run(_put(server, tmp_path / "fast"))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(founding, "_send", overtaken)
        with pytest.raises(ForeignStoreError, match="has begun already"):
            await asyncio.to_thread(import_store, tmp_path / "out.jsonl", config)
    with pytest.raises(ForeignStoreError, match="has begun already"):
        await asyncio.to_thread(import_store, tmp_path / "out.jsonl", config)
    async with node(server, tmp_path / "one") as one:
        assert await one.get("agent_1", "fast") == 1
        assert await one.get("agent_1", "k") is None
        assert await one.shared_snapshots() == []


async def _put(server: NatsServer, path: Path) -> None:
    async with node(server, path) as memory:
        await memory.put("agent_1", "fast", 1)


async def test_without_its_snapshot_an_imported_swarm_is_not_read(
    server: NatsServer, tmp_path: Path
) -> None:
    """The stream alone is not the swarm: a node that cannot have what was imported says so, and shows
    nothing of it.
    """
    async with MemorySystem.open(tmp_path / "store") as memory:
        await memory.put("agent_1", "k", 1)
        await memory.export(tmp_path / "out.jsonl")
    config = MemoryConfig(url=server.url, storage_path=tmp_path / "mover")
    await asyncio.to_thread(import_store, tmp_path / "out.jsonl", config)
    async with node(server, tmp_path / "one") as one:
        await damage(one, (await manifests(one))[0])
        with pytest.raises(StorageError, match="began with an import"):
            await node(server, tmp_path / "other")
        assert await one.put("agent_1", "k", 2)
        await one.share_snapshot(keep=1)
        async with node(server, tmp_path / "other") as other:
            assert await other.get("agent_1", "k") == 2
