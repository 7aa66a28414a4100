"""Several processes and one swarm: what holds when connections, clients and servers go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import nkeys
import pytest
import trustme
from nats_server import NatsServer

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.clock import SystemClock, turn
from nt_memory.codec import encode
from nt_memory.entries import STATE, Entry, Tick, Write, WriteOp, encode_entry
from nt_memory.errors import (
    CorruptionError,
    DisconnectedError,
    FormatVersionError,
    PermissionDeniedError,
    StorageError,
    StorageFullError,
)
from nt_memory.system import joining
from nt_memory.transport.nats import follower, publishing
from nt_memory.transport.nats.client import ApiError
from nt_memory.transport.nats.follower import Follower, Stored
from nt_memory.transport.nats.journal import NatsJournal
from nt_memory.transport.nats.link import Link
from nt_memory.transport.nats.parcels import Parcel, encode_parcel
from nt_memory.transport.nats.rights import ALL
from nt_memory.transport.nats.servers.fleet import Fleet
from nt_memory.transport.nats.subjects import Subjects

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

CHILD = Path(__file__).with_name("cluster_child.py")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server of the test's own, which may be killed."""
    made = NatsServer(tmp_path / "server")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes give up after one second without a server."""
    monkeypatch.setattr(joining, "PATIENCE_S", 1.0)


def node(server: NatsServer, tmp_path: Path, **settings: Any) -> Any:
    """Open a node."""
    return MemorySystem.open(
        MemoryConfig(url=server.url, storage_path=tmp_path / "store", **settings)
    )


def child(server: NatsServer, tmp_path: Path, what: str, count: int) -> subprocess.Popen[str]:
    """Start a node in a process of its own."""
    return subprocess.Popen(
        [
            sys.executable,
            str(CHILD),
            server.url,
            str(tmp_path / "store"),
            "default",
            what,
            str(count),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )


async def store_raw(memory: Any, data: bytes, message_id: str, author: str = "") -> None:
    """Publish to the stream past the journal, as a hostile or broken client would."""
    link = memory._engine.journal.link
    headers = {"Nats-Msg-Id": message_id}
    storing = link.store(link.subjects.journal(author), data, headers, timeout_s=5.0)
    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(storing, link.loop))


async def ask_raw(memory: Any, what: str, body: dict[str, Any]) -> dict[str, Any]:
    """Ask JetStream's API past the journal."""
    link = memory._engine.journal.link
    asking = asyncio.run_coroutine_threadsafe(link.ask_api(what, body), link.loop)
    answer: dict[str, Any] = await asyncio.wrap_future(asking)
    return answer


async def test_nodes_see_each_other(server: NatsServer, tmp_path: Path) -> None:
    """What one node writes, another has after `sync`, pins and watchers included, at one revision."""
    async with node(server, tmp_path) as one, node(server, tmp_path) as other:
        pin = other.pin("agent_1", "k")
        watcher = other.watch("agent_1")
        revision = await one.put("agent_1", "k", {"x": 1})
        await other.sync()
        assert other.revision >= revision
        record = await other.get_record("agent_1", "k")
        assert (record.value, record.revision) == ({"x": 1}, revision)
        assert pin.value == {"x": 1}
        assert (await asyncio.wait_for(anext(watcher), 20.0)).revision == revision
        await other.observe("agent_1", [1.0, 0.5], {"n": 1})
        await one.sync()
        assert (await one.search_similar("agent_1", [1.0, 0.5]))[0].data == {"n": 1}
        assert one.revision == other.revision


async def test_messages_between_nodes(server: NatsServer, tmp_path: Path) -> None:
    """Messages, requests and their answers go from node to node, in order, with odd names too."""
    async with node(server, tmp_path) as one, node(server, tmp_path) as other:
        rx = await other.subscribe("desk.1/*/**")
        for i in range(200):
            await one.publish("desk.1/a > b/ü/x", i)
        await one.publish("desk.1/a", "not this one")
        assert [await rx.recv(timeout=20.0) for _ in range(200)] == list(range(200))
        asking = asyncio.ensure_future(one.request("desk.1/q/r", "ping", timeout=20.0))
        message = await rx.recv_message(timeout=20.0)
        assert message.value == "ping"
        await other.reply(message, "pong")
        assert await asking == "pong"
        assert rx.dropped == 0


def test_a_lock_has_one_holder(server: NatsServer, tmp_path: Path) -> None:
    """Processes that count under one lock lose no count: it is never held twice."""
    children = [child(server, tmp_path, "count_under_lock", 15) for _ in range(3)]
    for one in children:
        one.communicate(timeout=80.0)
    assert [one.returncode for one in children] == [0, 0, 0]

    async def read() -> Any:
        async with node(server, tmp_path) as memory:
            return await memory.get("swarm", "number")

    assert asyncio.run(read()) == 45


def test_a_killed_client_loses_nothing(server: NatsServer, tmp_path: Path) -> None:
    """After `kill -9` of a node in mid-load all it said was acknowledged is there, and its replica
    opens again and goes on.
    """
    with child(server, tmp_path, "put_and_say", 10_000) as writing:
        assert writing.stdout is not None
        lines = [writing.stdout.readline() for _ in range(400)]
        writing.kill()
        lines += writing.stdout.readlines()
    said = dict(line.split() for line in lines[1:] if line.endswith("\n"))
    assert len(said) >= 390

    async def check() -> None:
        async with node(server, tmp_path) as memory:  # takes over the dead one's directory
            assert memory._engine.opened.directory.path.name == "0"
            for key, revision in said.items():
                record = await memory.get_record("child", key)
                assert (record.value, record.revision) == (int(key.split("/")[1]), int(revision))
            assert await memory.put("child", "more", 1) > max(map(int, said.values()))

    asyncio.run(check())


async def test_a_killed_server_loses_nothing(server: NatsServer, tmp_path: Path) -> None:
    """Writers that a server is killed under go on when it is back: nothing acknowledged is lost, and
    every write happened once, with or without a request id.
    """
    async with node(server, tmp_path) as one, node(server, tmp_path) as other:
        done: list[tuple[str, int]] = []

        async def write(memory: Any, writer: int) -> None:
            for i in range(60):
                key = f"{writer}/{i}"
                request = f"r{key}" if writer % 2 else None
                done.append((key, await memory.put("agent_1", key, i, request_id=request)))

        writing = [asyncio.ensure_future(write(one, 0)), asyncio.ensure_future(write(one, 1)),
                   asyncio.ensure_future(write(other, 2)), asyncio.ensure_future(write(other, 3))]  # fmt: skip
        for threshold in (40, 120):
            while len(done) < threshold:
                await SystemClock().sleep(0.005)
            server.kill()
            await SystemClock().sleep(0.1)
            server.start()
        await asyncio.wait_for(asyncio.gather(*writing), 60.0)
        assert len(done) == 240
        assert len({revision for _, revision in done}) == 240
        for memory in (one, other):
            await memory.sync()
            for key, revision in done:
                versions = [r.revision async for r in memory.history("agent_1", key)]
                assert versions == [revision]


async def test_reads_go_on_without_a_server(
    server: NatsServer, tmp_path: Path, impatient: None
) -> None:
    """Disconnected, reads and searches answer; writes fail retryably after the deadline, as do `sync`
    and messages; with a server again all goes on, and a repeated request acts once.
    """
    async with node(server, tmp_path) as memory:
        await memory.put("agent_1", "k", 1)
        await memory.observe("agent_1", [1.0, 0.5], {"n": 1})
        server.kill()
        with pytest.raises(DisconnectedError) as lost:
            await memory.put("agent_1", "k", 2, request_id="r")
        assert lost.value.retryable
        for call in (memory.sync(), memory.publish("a", 1)):
            with pytest.raises(DisconnectedError):
                await call
        assert await memory.get("agent_1", "k") == 1
        assert (await memory.search_similar("agent_1", [1.0, 0.5]))[0].data == {"n": 1}
        server.start()
        while True:
            with contextlib.suppress(DisconnectedError):
                await memory.put("agent_1", "k", 2, request_id="r")
                break
            await SystemClock().sleep(0.05)
        await memory.sync()
        assert len([r async for r in memory.history("agent_1", "k")]) == 2
        await memory.publish("a", 1)


async def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server `open` fails in time, saying where it looked and no password."""
    from nt_memory.transport.nats import link

    monkeypatch.setattr(link, "CONNECT_S", 0.5)
    with pytest.raises(DisconnectedError, match=r"nats://127\.0\.0\.1:1") as error:
        await MemorySystem.open(
            MemoryConfig(url="nats://me:secret@127.0.0.1:1", storage_path=tmp_path / "store")
        )
    assert "secret" not in str(error.value)


async def test_a_message_stored_twice_acts_once(server: NatsServer, tmp_path: Path) -> None:
    """What a publisher has stored twice, under two message ids as after a long pause, is applied once,
    also by a node that joins later; and so is a late message of a publisher that has gone on.
    """
    entry = encode_entry(Entry(Write((WriteOp(STATE, "agent_1", "k", encode(1)),))))
    first, second = (encode_parcel(Parcel("s" * 24, n, (entry,))) for n in (1, 2))
    async with node(server, tmp_path) as memory:
        before = memory.revision
        for number, data in enumerate((first, first, second, first)):
            await store_raw(memory, data, f"id{number}")
        await memory.sync()
        assert memory.revision == before + 2
        async with node(server, tmp_path) as late:
            assert late.revision == before + 2
    async with node(server, tmp_path) as again:
        await store_raw(again, second, "id9")
        await again.sync()
        assert again.revision == before + 2


IN_PROCESS = {"code": 409, "err_code": 10158, "description": "duplicate message id is in process"}
CLOSED = {"code": 503, "err_code": 10077, "description": "store is closed"}
TOO_MANY = {"code": 429, "err_code": 10167, "description": "too many requests"}


@pytest.mark.parametrize("refusal", [IN_PROCESS, CLOSED, TOO_MANY])
@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_refusal_that_decides_nothing(
    server: NatsServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refusal: dict[str, Any],
    is_stored: bool,
) -> None:
    """Leaders refuse what they may have stored, or may store yet: it is tried again, under another id if
    they go on saying that it is in process, and happens once. The node goes on.
    """
    store, asked = Link.store, list[str]()

    async def refuse(link: Any, subject: str, data: bytes, headers: Any, **more: Any) -> None:
        asked.append(headers["Nats-Msg-Id"])
        if len(asked) > 3:
            await store(link, subject, data, headers, **more)
            return
        if is_stored and len(asked) == 1:
            await store(link, subject, data, headers, **more)
        raise ApiError(refusal)

    monkeypatch.setattr(publishing, "_STUCK_TRIES", 2)
    monkeypatch.setattr(publishing, "_RETRY_S", 0.01)
    async with node(server, tmp_path) as memory:
        monkeypatch.setattr(Link, "store", refuse)
        revision = await memory.put("agent_1", "k", 1)
        monkeypatch.setattr(Link, "store", store)
        assert await memory.put("agent_1", "k", 2) == revision + 1
        await memory.sync()
        assert len([r async for r in memory.history("agent_1", "k")]) == 2
        if not is_stored:
            assert len(set(asked)) == (2 if refusal is IN_PROCESS else 1)


async def test_a_full_stream_is_said_to_be_full(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that says that a stream has no room left is believed at once."""

    async def refuse(*_: Any, **__: Any) -> None:
        raise ApiError({"code": 503, "err_code": 10077, "description": "maximum bytes exceeded"})

    async with node(server, tmp_path) as memory:
        monkeypatch.setattr(Link, "store", refuse)
        with pytest.raises(StorageFullError, match="maximum bytes"):
            await memory.put("agent_1", "k", 1)


async def test_rubbish_in_the_stream(server: NatsServer, tmp_path: Path) -> None:
    """What is no parcel or no entry counts for nothing, and neither does an entry in another's name; the
    swarm goes on, and who joins later comes to the same.
    """
    body = Write((WriteOp(STATE, "agent_1", "k", encode(1)),))
    in_my_name = encode_entry(Entry(body, actor="mallory"))
    in_yours = encode_entry(Entry(body, actor="agent_1"))
    long = "x" * 10_000
    async with node(server, tmp_path) as memory:
        before = memory.revision
        rubbish = [
            b"\x00", b"rubbish", b"\x01\xff", b"\x02", encode_parcel(Parcel(long, 1, (in_my_name,))),
            encode_parcel(Parcel("m", 1, (b"no entry", b"\x07", in_yours, b"\x01\x93\x91\xa3new\xa0\xc0"))),
        ]  # fmt: skip
        for number, data in enumerate(rubbish):
            await store_raw(memory, data, f"id{number}", author="mallory")
        await memory.sync()
        assert memory.revision == before
        await store_raw(
            memory, encode_parcel(Parcel("m", 2, (in_my_name,))), "good", author="mallory"
        )
        await memory.sync()
        assert memory.revision == before + 1
        assert (await memory.get_record("agent_1", "k")).actor == "mallory"
        async with node(server, tmp_path) as late:
            assert late.revision == memory.revision


async def test_a_newer_kind_stops_an_older_node(server: NatsServer, tmp_path: Path) -> None:
    """An entry of a kind that this version does not know ends following, rather than be skipped: every
    call says so, and a node that joins says so too.
    """
    newer = b"\x01\x93\x91\xa5newer\xa0\xc0"
    async with node(server, tmp_path) as memory:
        await memory.put("agent_1", "k", 1)
        await store_raw(memory, encode_parcel(Parcel("n", 1, (newer,))), "id")
        with pytest.raises(StorageError, match="newer"):
            await asyncio.wait_for(memory.sync(), 20.0)
        await turn()
        with pytest.raises(StorageError, match="newer"):
            await memory.get("agent_1", "k")
    with pytest.raises(FormatVersionError, match="newer"):
        await node(server, tmp_path)


def test_a_leader_that_is_not_so_far_yet_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that ends too early is lost only if it still does some time later."""
    link: Any = SimpleNamespace(on_connected=[])
    nobody: Any = None
    made = Follower(link, "s", identity="", first=367, take=nobody, fail=nobody)
    for _ in range(2):
        with pytest.raises(DisconnectedError, match="so far"):
            made._check_end(364)
        made._check_end(366)
    with pytest.raises(DisconnectedError):
        made._check_end(364)
    monkeypatch.setattr(follower, "LOST_AFTER_S", 0.0)
    with pytest.raises(CorruptionError, match="lost what they acknowledged"):
        made._check_end(364)


async def test_a_stream_that_lost_messages(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that has applied more than the stream holds does not go on as if nothing had happened."""
    monkeypatch.setattr(follower, "LOST_AFTER_S", 1.0)
    async with node(server, tmp_path) as memory:
        for i in range(20):
            await memory.put("agent_1", "k", i)
        link = memory._engine.journal.link
        info = asyncio.run_coroutine_threadsafe(
            link.ask_api(f"STREAM.INFO.{link.subjects.stream}", {}), link.loop
        )
        config = (await asyncio.wrap_future(info))["config"]
        for what, body in (("DELETE", {}), ("CREATE", config)):
            asked = link.ask_api(f"STREAM.{what}.{link.subjects.stream}", body)
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asked, link.loop))
        with pytest.raises(StorageError, match=r"lost what they acknowledged|is gone"):
            await asyncio.wait_for(memory.sync(), 20.0)
    with pytest.raises(StorageError, match="lost what they acknowledged"):
        await node(server, tmp_path)


def test_a_copy_that_lacks_a_message_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a message is missing, other copies of the stream are tried for some time; the only one is not."""
    link: Any = SimpleNamespace(on_connected=[])
    nobody: Any = None
    made = Follower(link, "s", identity="", first=103, take=nobody, fail=nobody)
    made._check_gap(3)
    for _ in range(2):
        made._gap = 204
        with pytest.raises(DisconnectedError, match="a copy of"):
            made._check_gap(3)
        made._check_gap(3)  # the next consumer may be at another one
    made._gap = 204
    with pytest.raises(CorruptionError, match="204 where 103 must be"):
        made._check_gap(1)
    monkeypatch.setattr(follower, "LOST_AFTER_S", 0.0)
    made._gap = 204
    with pytest.raises(CorruptionError, match="204 where 103 must be"):
        made._check_gap(3)


async def test_a_consumer_that_stays_behind_is_made_anew(
    server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer that is heard every second and delivers nothing of what the stream has, as one on a server
    whose copy is not fed, is given up for another one: calls get their answers.
    """
    monkeypatch.setattr(follower, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(follower, "BEHIND_S", 0.3)
    async with node(server, tmp_path) as memory:
        await memory.put("agent_1", "k", 1)
        stream = memory._engine.journal.link.subjects.stream
        first = (await ask_raw(memory, f"CONSUMER.NAMES.{stream}", {}))["consumers"]
        for name in first:
            until = {"pause_until": "2999-01-01T00:00:00Z"}
            await ask_raw(memory, f"CONSUMER.PAUSE.{stream}.{name}", until)
        await memory.put("agent_1", "k", 2)
        later = (await ask_raw(memory, f"CONSUMER.NAMES.{stream}", {}))["consumers"]
        assert set(later) - set(first)
        assert [record.value async for record in memory.history("agent_1", "k")] == [2, 1]


async def test_two_nodes_make_a_swarm_at_once(server: NatsServer, tmp_path: Path) -> None:
    """Nodes that start a swarm together agree on its settings, each with a directory of its own."""
    opening = [asyncio.ensure_future(node(server, tmp_path).__aenter__()) for _ in range(4)]
    memories = await asyncio.gather(*opening)
    try:
        assert len({m._engine.opened.directory.path for m in memories}) == 4
        await asyncio.gather(*(m.put("agent_1", f"k{i}", i) for i, m in enumerate(memories)))
        for memory in memories:
            await memory.sync()
        assert len({memory.revision for memory in memories}) == 1
    finally:
        for memory in memories:
            await memory.close()


async def test_permissions(tmp_path: Path) -> None:
    """What a server refuses by subject raises `PermissionDeniedError` at the call, and changes nothing."""
    names = Subjects("default")
    api = f'"$JS.API.STREAM.INFO.*", "$JS.API.CONSUMER.CREATE.{names.stream}.>"'
    users = f"""
        authorization {{ users: [
          {{ user: root, password: root }}
          {{ user: agent_1, password: pw, permissions: {{
             publish: [{api}, "{names.journal("agent_1")}", "{names.message("agent_1", "mine/x")}"]
             subscribe: ["{names.inbox("agent_1")}.>", "{names.messages("news/**")}",
                         "{names.replies("agent_1")}"] }} }}
        ] }}
    """
    server = NatsServer(tmp_path / "server", extra=users)
    server.start()
    try:
        host = server.url.removeprefix("nats://")
        with pytest.raises(PermissionDeniedError):
            await MemorySystem.open(f"nats://agent_1:wrong@{host}")
        root = MemoryConfig(url=f"nats://root:root@{host}", storage_path=tmp_path / "store")
        mine = MemoryConfig(
            url=f"nats://agent_1:pw@{host}", storage_path=tmp_path / "store", agent="agent_1"
        )
        async with MemorySystem.open(root) as operator, MemorySystem.open(mine) as agent:
            await agent.put("agent_1", "k", 1)
            with pytest.raises(PermissionDeniedError):
                await agent.as_agent("agent_2").put("agent_2", "k", 1)
            await agent.put("agent_1", "k", 2)
            await agent.publish("mine/x", 1)
            with pytest.raises(PermissionDeniedError):
                await agent.publish("yours/x", 1)
            rx = await agent.subscribe("news/*")
            with pytest.raises(PermissionDeniedError):
                await agent.subscribe("secret/*")
            await operator.publish("secret/x", 1)
            await operator.publish("news/x", 2)
            assert await rx.recv(timeout=20.0) == 2
            await operator.sync()
            assert await operator.get("agent_1", "k") == 2
            assert await operator.get("agent_2", "k") is None
            assert (await operator.get_record("agent_1", "k")).actor == "agent_1"
    finally:
        server.stop()


def test_entries_of_others(server: NatsServer, tmp_path: Path) -> None:
    """Ticks of all nodes at once leave one expiry."""

    async def main() -> None:
        async with node(server, tmp_path) as one, node(server, tmp_path) as other:
            await one.put("agent_1", "k", 1, ttl=0.2)
            watcher = other.watch("agent_1", after=0)
            async with asyncio.timeout(10.0):
                kinds = [(await anext(watcher)).kind for _ in range(2)]
            assert kinds == ["put", "expire"]
            await asyncio.gather(one._engine.submit(Tick()), other._engine.submit(Tick()))
            await one.sync()
            await other.sync()
            assert one.revision == other.revision

    asyncio.run(main())


async def test_tls_and_nkeys(tmp_path: Path) -> None:
    """A node shows an nkey to servers whose certificate it checks; without either it is refused."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    (tmp_path / "seed").write_bytes(seed)
    public = nkeys.from_seed(bytearray(seed)).public_key.decode()
    extra = f"""
        tls {{ cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.pem" }}
        authorization {{ users: [ {{ nkey: {public} }} ] }}
    """
    server = NatsServer(tmp_path / "server", extra=extra)
    server.start()
    known: dict[str, Any] = {
        "url": server.url.replace("nats:", "tls:"),
        "storage_path": tmp_path / "store",
        "tls_ca_file": tmp_path / "ca.pem",
    }
    try:
        async with MemorySystem.open(MemoryConfig(**known, nkey_file=tmp_path / "seed")) as memory:
            await memory.put("agent_1", "k", 1)
        # The server may hang up before the client has read why: then all it knows is that.
        with pytest.raises((PermissionDeniedError, DisconnectedError)):
            await MemorySystem.open(MemoryConfig(**known))
    finally:
        server.stop()


async def test_a_replica_that_went_its_own_way(server: NatsServer, tmp_path: Path) -> None:
    """A node's directory that somebody opened by itself, and wrote to, is no replica any more."""
    async with node(server, tmp_path) as memory:
        await memory.put("agent_1", "k", 1)
        directory = memory._engine.opened.directory.path
    async with MemorySystem.open(directory) as alone:
        await alone.put("agent_1", "k", 2)
        assert alone._engine.opened.replica.origin is None
    async with MemorySystem.open(directory) as alone:
        assert alone._engine.opened.replica.origin is None
        assert await alone.get("agent_1", "k") == 2
    with pytest.raises(StorageError, match="give the node another one"):
        await node(server, tmp_path)


async def test_no_swarms_name_makes_its_streams_anothers(
    server: NatsServer, tmp_path: Path
) -> None:
    """Swarms `x`, `x_values` and `x_snapshots` on one server hold each what was written to it."""
    names = ("x_values", "x_snapshots", "x")
    for name in names:
        async with node(server, tmp_path, swarm=name) as memory:
            await memory.put("agent_1", "large", name * 300_000)
            await memory.share_snapshot()
    for name in names:
        async with node(server, tmp_path / "new", swarm=name) as memory:
            assert await memory.get("agent_1", "large") == name * 300_000


class Swarm(NamedTuple):
    """Servers that ask for keys, and two nodes: the operator's and an agent's."""

    fleet: Fleet
    desk: MemorySystem
    scout: MemorySystem


@contextlib.asynccontextmanager
async def desk_and_scout(tmp_path: Path) -> AsyncGenerator[Swarm]:
    """A swarm of the test's own."""
    fleet = Fleet(tmp_path / "servers", swarm="desk")
    seed = fleet.enrol("scout", publish=ALL, subscribe=ALL)
    await fleet.start()
    try:
        known: dict[str, Any] = {"url": fleet.url.rpartition("/")[0], "swarm": "desk"}
        own = MemoryConfig(**known, agent="scout", nkey_file=seed, storage_path=tmp_path / "a")
        operator = MemoryConfig(**known, nkey_file=fleet.operator_seed, storage_path=tmp_path / "b")
        async with MemorySystem.open(operator) as desk, MemorySystem.open(own) as scout:
            yield Swarm(fleet, desk, scout)
    finally:
        await fleet.stop()


async def test_a_node_that_was_shut_out_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While servers refuse a node, its calls say so and its reads go on; let in again, the same memory
    goes on by itself: what it missed comes, in order, and what it repeats is there once.
    """
    monkeypatch.setattr(publishing, "ATTEMPT_S", 0.5)  # of the put that is under way then
    async with desk_and_scout(tmp_path) as swarm:
        await _shut_out_and_back(swarm.fleet, swarm.scout, swarm.desk)


async def test_who_is_shut_out_is_told_of_what_was_stored_but_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The servers stored it and hung up before it came back: that is said at once, not when patience ends."""
    held = threading.Event()
    take = NatsJournal._take

    async def take_later(journal: NatsJournal, stored: Stored) -> None:
        while held.is_set():
            await SystemClock().sleep(0.01)
        await take(journal, stored)

    monkeypatch.setattr(NatsJournal, "_take", take_later)
    async with desk_and_scout(tmp_path) as (fleet, _, scout):
        await scout.put("scout", "k", 1)
        held.set()
        put = asyncio.create_task(scout.put("scout", "k", 2, request_id="once"))
        under_way = scout._engine.journal._publishing._under_way
        async with asyncio.timeout(10.0):
            while not any(sent.is_acknowledged for sent in under_way.values()):
                await SystemClock().sleep(0.01)
        fleet.revoke("scout")
        fleet.reload()
        try:
            with pytest.raises(PermissionDeniedError, match="repeat it then, under its request_id"):
                await asyncio.wait_for(put, publishing.PATIENCE_S / 2)
        finally:
            held.clear()
        fleet.enrol("scout", publish=ALL, subscribe=ALL)
        fleet.reload()
        await _put_until_let_in(scout, "once")
        assert [r.value async for r in scout.history("scout", "k")] == [2, 1]


async def _put_until_let_in(scout: MemorySystem, request_id: str) -> None:
    async with asyncio.timeout(20.0):
        while True:
            with contextlib.suppress(PermissionDeniedError, DisconnectedError):
                await scout.put("scout", "k", 2, request_id=request_id)
                return
            await SystemClock().sleep(0.05)


async def _put_on(scout: Any) -> None:
    async with asyncio.timeout(20.0):
        for n in range(1_000_000):
            await scout.put("scout", "n", n, request_id=f"r{n}")


async def _shut_out_and_back(fleet: Fleet, scout: Any, desk: Any) -> None:
    changes = scout.watch("desk")
    heard = await scout.subscribe("news")
    await scout.put("scout", "k", 1)
    fleet.revoke("scout")
    fleet.reload()
    with pytest.raises(PermissionDeniedError, match="refuse the credentials in"):
        await _put_on(scout)
    for call in (scout.sync(), scout.publish("market", 1), scout.acquire_lock("book")):
        with pytest.raises(PermissionDeniedError, match="refuse the credentials in"):
            await call
    assert await scout.get("scout", "k") == 1
    written = [await desk.put("desk", "k", n) for n in range(3)]
    fleet.enrol("scout", publish=ALL, subscribe=ALL)
    fleet.reload()
    await _put_until_let_in(scout, "again")
    assert await scout.put("scout", "k", 2, request_id="again") == scout.revision
    assert [(await anext(changes)).revision for _ in range(3)] == written
    await desk.publish("news", "hello")
    assert await heard.recv(timeout=10.0) == "hello"
    await desk.sync()
    for memory in (scout, desk):
        assert [r.value async for r in memory.history("scout", "k")] == [2, 1]
        numbers = [r.value async for r in memory.history("scout", "n")]
        assert numbers == sorted(numbers, reverse=True)
        assert len(numbers) == len(set(numbers))
