"""What credentials allow, tried by a hostile client over raw NATS, and by a whole memory."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("nats")

import nats

from nt_memory import MemoryConfig, MemorySystem, Policy, Proposal
from nt_memory.codec import encode
from nt_memory.entries import (
    STATE,
    Acquire,
    CastVote,
    Entry,
    ForceRelease,
    Propose,
    Register,
    SetPolicy,
    SetQuota,
    Write,
    WriteOp,
    encode_entry,
)
from nt_memory.errors import InvalidNameError, PermissionDeniedError
from nt_memory.transport.nats.parcels import Parcel, encode_parcel
from nt_memory.transport.nats.rights import ALL, rights_of
from nt_memory.transport.nats.servers.fleet import Fleet
from nt_memory.transport.nats.subjects import Subjects, name_of, token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

SWARM = "desk"
S = Subjects(SWARM)
WAIT_S = 20.0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A server that knows two nodes and a guest with few rights."""
    made = Fleet(tmp_path_factory.mktemp("servers") / "home", swarm=SWARM)
    made.enrol("mallory", publish=["mallory/**"], subscribe=["market/*"])
    made.enrol("victim", publish=ALL, subscribe=ALL)
    made.enrol("guest", "guest", publish=["guest/**"], subscribe=["market/*"])
    asyncio.run(made.start())
    yield made
    asyncio.run(made.stop())


def test_a_server_that_runs_is_not_configured_again(fleet: Fleet) -> None:
    """Launching one that runs changes nothing, its configuration included: it may be reading that."""
    node = fleet.nodes[0]
    path = fleet.directory / node.name / "server.conf"
    before = (path.stat().st_ino, path.stat().st_mtime_ns, fleet.pids)
    fleet.launch(node.name)
    assert (path.stat().st_ino, path.stat().st_mtime_ns, fleet.pids) == before


class Raw:
    """A client that does what it likes, and what the server said to it."""

    def __init__(self, client: Any, refusals: list[str]) -> None:
        self.client = client
        self.refusals = refusals

    async def settled(self) -> list[str]:
        """What was refused until now: the server answers a ping behind what came before it."""
        for _ in range(3):  # nats-py sends a ping ahead of what waits to be sent
            await self.client.flush()
        found, self.refusals[:] = list(self.refusals), []
        return found

    async def is_refused(self, publish_to: str, data: bytes = b"x", reply: str = "") -> bool:
        await self.client.publish(publish_to, data, reply=reply)
        return any("permissions violation for publish" in said for said in await self.settled())

    async def is_deaf_to(self, subject: str) -> bool:
        await self.client.subscribe(subject)
        return any("permissions violation for subscription" in s for s in await self.settled())


@pytest.fixture
def raw(fleet: Fleet) -> Callable[..., Any]:
    """`async with raw("agent") as r`: a plain nats-py client with that agent's credentials."""

    @asynccontextmanager
    async def connect(agent: str) -> AsyncIterator[Raw]:
        refusals: list[str] = []

        async def noted(error: Exception) -> None:
            refusals.append(str(error).lower())

        seed = fleet.directory / "keys" / "agents" / f"{agent}.nk" if agent else fleet.operator_seed
        client = await nats.connect(
            f"nats://127.0.0.1:{fleet.nodes[0].client}",
            nkeys_seed=str(seed),
            inbox_prefix=S.inbox(agent),
            allow_reconnect=False,
            error_cb=noted,
        )
        try:
            yield Raw(client, refusals)
        finally:
            await client.close()

    return connect


@pytest.fixture
def opened(fleet: Fleet, tmp_path: Path) -> Callable[..., Any]:
    """`opened("agent")`: a memory with that agent's credentials; "" is the operator."""

    def open_as(agent: str) -> Any:
        seed = fleet.directory / "keys" / "agents" / f"{agent}.nk" if agent else fleet.operator_seed
        return MemorySystem.open(
            MemoryConfig(
                url=f"nats://127.0.0.1:{fleet.nodes[0].client}",
                swarm=SWARM,
                agent=agent,
                nkey_file=seed,
                storage_path=tmp_path / (agent or "operator"),
            )
        )

    return open_as


def test_a_node_does_all_it_may_with_its_own_credentials(run: Any, opened: Any) -> None:
    """What `rights_of` allows is enough for a whole memory: state, large values, locks, votes, messages."""

    async def main() -> None:
        async with opened("") as operator, opened("victim") as node, opened("mallory") as other:
            await operator.consensus.register_agent("victim")
            heard = await other.subscribe("market/*")
            large = b"\0" * 2_000_000 + bytes(range(256)) * 4_000
            await node.put("victim", "large", large)
            async with node.lock("book"):
                await node.put("victim", "k", 1)
            await node.publish("market/open", 1)
            assert await heard.recv(timeout=WAIT_S)
            await other.sync()
            assert await other.get("victim", "large") == large
            await other.observe("mallory", [1.0, 2.0], key="seen")
            await operator.sync()
            assert (await operator.get_record("victim", "k")).actor == "victim"

    run(main())


def test_nobody_speaks_in_anothers_name(run: Any, raw: Any, opened: Any) -> None:
    """The server refuses an entry, a message or a large value under another's name, or the operator's."""

    async def main() -> None:
        async with opened(""), raw("mallory") as mallory:
            for subject in (
                S.journal("victim"),
                S.journal(""),
                S.message("victim", "market/open"),
                S.message("mallory", "market/open"),  # its own name, but no topic of its policy
                S.value("victim", "d", "c", 0),
                Subjects("other").journal("mallory"),
                "$SYS.REQ.SERVER.PING",
            ):
                assert await mallory.is_refused(subject), subject
            assert not await mallory.is_refused(S.message("mallory", "mallory/said"))

    run(main())


def test_nobody_listens_beyond_its_patterns(run: Any, raw: Any) -> None:
    """The server refuses to let an agent hear entries, others' topics, answers or inboxes, or all."""

    async def main() -> None:
        for agent in ("mallory", "guest"):
            async with raw(agent) as client:
                for subject in (
                    ">",
                    "ntm.>",
                    S.journals,
                    S.messages("secret/**"),
                    S.messages("**"),
                    S.replies("victim"),
                    f"{S.inbox('victim')}.>",
                    "_INBOX.>",
                    "$JS.EVENT.>",
                    "$JS.API.>",
                ):
                    assert await client.is_deaf_to(subject), subject
                assert not await client.is_deaf_to(S.messages("market/*"))

    run(main())


def test_no_agent_changes_a_stream(run: Any, raw: Any, opened: Any) -> None:
    """Purging, deleting, updating, mirroring and listing are the operator's alone."""

    async def main() -> None:
        async with opened("") as memory, raw("mallory") as mallory:
            await memory.put("a", "kept", 1)
            for call in (
                f"STREAM.PURGE.{S.stream}",
                f"STREAM.DELETE.{S.stream}",
                f"STREAM.UPDATE.{S.stream}",
                f"STREAM.MSG.DELETE.{S.stream}",
                f"STREAM.SNAPSHOT.{S.stream}",
                "STREAM.CREATE.mine",
                "STREAM.NAMES",
                f"CONSUMER.NAMES.{S.stream}",
                f"CONSUMER.LIST.{S.stream}",
                f"CONSUMER.DURABLE.CREATE.{S.stream}.mine",
                f"CONSUMER.MSG.NEXT.{S.stream}.mine",
                f"DIRECT.GET.{S.stream}",
            ):
                assert await mallory.is_refused(f"$JS.API.{call}", b"{}"), call
            assert await memory.get("a", "kept") == 1

    run(main())


def test_a_guest_has_nothing_of_the_journal(run: Any, raw: Any, opened: Any) -> None:
    """A guest can neither write entries, in its own name either, nor follow the stream."""

    async def main() -> None:
        async with opened(""), raw("guest") as guest:
            for subject in (
                S.journal("guest"),
                S.value("guest", "d", "c", 0),
                f"$JS.API.CONSUMER.CREATE.{S.stream}.c",
                f"$JS.API.STREAM.INFO.{S.stream}",
            ):
                assert await guest.is_refused(subject, b"{}"), subject
            assert not await guest.is_refused(S.message("guest", "guest/hello"))

    run(main())


def test_a_stored_piece_stays_what_it_was(run: Any, raw: Any, opened: Any, tmp_path: Path) -> None:
    """No answer that a server is made to send to a large value's subject takes its place: nodes that
    join later read what the author stored.
    """
    large = bytes(range(256)) * 9_000

    async def main() -> None:
        async with opened(""), opened("victim") as victim:
            await victim.put("victim", "large", large)
        shutil.rmtree(tmp_path / "operator.nodes")  # who joins has nothing yet
        async with raw("") as operator, raw("mallory") as mallory:
            info = await operator.client.jetstream().stream_info(S.values, subjects_filter=">")
            assert info.state.subjects
            for subject in info.state.subjects:
                await mallory.client.publish(S.journal("mallory"), b"x", reply=subject)
                await mallory.client.publish(f"$JS.API.STREAM.INFO.{S.stream}", reply=subject)
            await mallory.settled()
            # Its answer comes behind those that were sent elsewhere.
            await mallory.client.request(S.journal("mallory"), b"x", timeout=WAIT_S)
        async with opened("") as joining:
            await joining.sync()
            assert await joining.get("victim", "large") == large

    run(main())


def _parcel(number: int, *bodies: Any) -> bytes:
    """What a client of its own making publishes: entries in mallory's name."""
    entries = tuple(encode_entry(Entry(body, actor="mallory")) for body in bodies)
    return encode_parcel(Parcel("m" * 24, number, entries))


def test_raw_entries_do_not_pass_a_policy(run: Any, raw: Any, opened: Any) -> None:
    """Entries that an agent makes by hand and publishes in its own name, past this program, write, lock,
    take away locks, propose, vote, register and set policies no more than its policy allows, and nothing
    on behalf of another; every replica refuses them alike.
    """
    lease = 30_000_000
    refused = (
        Write((WriteOp(STATE, "victim", "cash", encode(0)),)),
        Write((WriteOp(STATE, "victim", "cash", None),)),
        Acquire("book", "t", "victim", "s", lease, 0),
        ForceRelease("vault", None, "mine"),
        Propose("mine", "mallory", encode(1), "1/2", None, None),
        Propose("theirs", "victim", encode(1), "1/2", None, None),
        CastVote("raise", "mallory", True, None),
        CastVote("raise", "victim", True, None),
        Register("mallory", "100"),
        SetPolicy("mallory", None),
        SetQuota("victim", 0, 0, 0),
    )

    async def main() -> None:
        async with opened("") as operator, opened("victim") as victim:
            await operator.set_policy("mallory", Policy(write=("mallory/**",), lock=("mallory/*",)))
            await operator.consensus.register_agent("victim")
            await victim.put("victim", "cash", 100)
            await operator.consensus.submit_proposal(
                Proposal("victim", 1, quorum="1/2", id="raise")
            )
            token = await victim.acquire_lock("vault", lease=600.0)
            await operator.sync()
            before = operator.revision
            async with raw("mallory") as mallory:
                for number, body in enumerate(refused, 1):
                    answer = await mallory.client.request(
                        S.journal("mallory"), _parcel(number, body), timeout=WAIT_S
                    )
                    assert "error" not in json.loads(answer.data), (
                        body
                    )  # the server knows no entries
                await operator.sync()
                assert operator.revision == before
                # What its policy allows goes through the same way: it was not refused for its form.
                allowed = Write((WriteOp(STATE, "mallory", "k", encode(1)),))
                await mallory.client.request(
                    S.journal("mallory"), _parcel(99, allowed), timeout=WAIT_S
                )
            for memory in (operator, victim):
                await memory.sync()
                assert await memory.get("mallory", "k") == 1
                assert await memory.get("victim", "cash") == 100
                assert memory.inspect_lock("book").holder == ""
                assert memory.inspect_lock("vault").fence == token.fence
                assert (await memory.consensus.get_proposal("raise")).votes == ()
                assert [p.id for p in await memory.consensus.list_proposals()] == ["raise"]
            await victim.release_lock(token)
            await operator.set_policy("mallory", None)  # the servers are other tests', too

    run(main())


async def _captured_parcel(raw: Any, memory_put: Callable[[], Awaitable[Any]]) -> Any:
    """What a node publishes for a write, taken from the stream by the operator."""
    await memory_put()
    async with raw("") as operator:
        stream = operator.client.jetstream()
        return await stream.get_last_msg(S.stream, S.journals)


def test_nobody_but_the_operator_says_what_to_begin_with(
    run: Any, raw: Any, opened: Any, tmp_path: Path
) -> None:
    """An agent's node begins with the operator's snapshot; it can make none, and neither name one nor
    put a piece or a catalogue in one's place: not directly, and not by what servers answer or deliver.
    """

    async def body() -> None:
        async with opened("") as operator:
            await operator.put("desk", "k", [0.5] * 1000)
            made = (await operator.share_snapshot(keep=1)).snapshot
            async with opened("mallory") as node:
                assert await node.get("desk", "k") == [0.5] * 1000
                assert await node.shared_snapshots() == [made]
                with pytest.raises(PermissionDeniedError):
                    await node.share_snapshot()
            forged = b"\xb3\x01\x91\x90"  # a catalogue of nothing
            pieces = S.snapshot(made.id, 0), S.snapshot(made.id, 7), S.snapshot("f" * 16, 0)
            async with raw("mallory") as mallory:
                for subject in (S.catalogue, *pieces):
                    assert await mallory.is_refused(subject, forged)
                api = "$JS.API"
                for what in ("PURGE", "DELETE", "UPDATE", "MSG.DELETE"):
                    for stream in (S.stream, S.snapshots):
                        assert await mallory.is_refused(f"{api}.STREAM.{what}.{stream}", b"{}")
                # Its own bytes, delivered by a consumer: refused as a cycle.
                await mallory.client.publish(S.journal("mallory"), forged)
                for subject in (S.catalogue, pieces[1]):
                    config = {
                        "name": "c" + subject[-4:].replace(".", ""),
                        "deliver_subject": subject,
                        "deliver_policy": "all",
                        "filter_subject": S.journal("mallory"),
                        "ack_policy": "none",
                    }
                    await mallory.client.request(
                        f"{api}.CONSUMER.CREATE.{S.stream}.{config['name']}",
                        json.dumps(
                            {"stream_name": S.stream, "config": config, "action": "create"}
                        ).encode(),
                        timeout=WAIT_S,
                    )
                # And what servers answer.
                for subject in (S.catalogue, *pieces):
                    await mallory.client.publish(
                        f"{api}.STREAM.INFO.{S.stream}", b"{}", reply=subject
                    )
                await mallory.settled()
            await operator.sync()
            assert await operator.shared_snapshots() == [made]
            await operator.verify_snapshot(made.id)
            async with opened("victim") as node:
                assert await node.get("desk", "k") == [0.5] * 1000
                assert node._engine.opened.reader.oldest_sequence > 1

    run(body())


def test_a_forged_actor_is_refused_by_every_replica(run: Any, raw: Any, opened: Any) -> None:
    """An entry that names another actor than its subject's changes nothing, and stops nobody."""

    async def main() -> None:
        async with opened("") as operator:
            sent = await _captured_parcel(raw, lambda: operator.put("victim", "cash", 100))
            async with raw("mallory") as mallory:
                # The operator's own write, word for word, from mallory's place.
                answer = await mallory.client.request(
                    S.journal("mallory"), sent.data, timeout=WAIT_S, headers={"Nats-Msg-Id": "m1"}
                )
                assert "error" not in json.loads(answer.data)
            before = operator.revision
            await operator.sync()
            assert operator.revision == before
            assert await operator.put("victim", "cash", 101) == before + 1

    run(main())


def test_answers_that_are_sent_elsewhere_are_not_taken_for_anothers(
    run: Any, raw: Any, opened: Any
) -> None:
    """A request that names another's journal or topic as its reply subject makes the server publish
    there; no replica takes it for an entry and no receiver for a message.
    """

    async def main() -> None:
        async with opened("") as operator, opened("victim") as victim:
            heard = await victim.subscribe("**")
            await operator.put("a", "k", 1)
            async with raw("mallory") as mallory:
                for reply in (S.journal("victim"), S.journal(""), S.message("victim", "market/x")):
                    for asked in (f"$JS.API.STREAM.INFO.{S.stream}", S.journal("mallory")):
                        await mallory.client.publish(asked, b"{}", reply=reply)
                config = {
                    "deliver_subject": S.message("victim", "market/x"),
                    "ack_policy": "none",
                    "deliver_policy": "all",
                }
                await mallory.client.publish(
                    f"$JS.API.CONSUMER.CREATE.{S.stream}.feed",
                    json.dumps({"stream_name": S.stream, "config": config}).encode(),
                    reply=f"{S.inbox('mallory')}.x",
                )
                # Into the stream itself: the server sees the cycle.
                config["deliver_subject"] = S.journal("victim")
                answer = await mallory.client.request(
                    f"$JS.API.CONSUMER.CREATE.{S.stream}.loop",
                    json.dumps({"stream_name": S.stream, "config": config}).encode(),
                    timeout=WAIT_S,
                )
                assert "cycle" in json.loads(answer.data)["error"]["description"]
                await mallory.settled()
            revision = await operator.put("a", "k", 2)
            await victim.wait_for(revision)
            assert await victim.get("a", "k") == 2
            await operator.publish("market/last", "end")
            assert await heard.recv(timeout=WAIT_S) == "end"

    run(main())


def test_a_write_that_the_server_refuses_is_said_at_the_call(
    run: Any, fleet: Fleet, tmp_path: Path
) -> None:
    """A node that names another agent than its credentials are of cannot write, and is told so."""

    async def main() -> None:
        config = MemoryConfig(
            url=f"nats://127.0.0.1:{fleet.nodes[0].client}",
            swarm=SWARM,
            agent="victim",
            nkey_file=fleet.directory / "keys" / "agents" / "mallory.nk",
            storage_path=tmp_path / "liar",
        )
        with pytest.raises(PermissionDeniedError, match="inbox"):
            async with MemorySystem.open(config) as memory:
                await memory.put("victim", "k", 1)

    run(main())


@pytest.mark.parametrize("name", ["a", "a.b", "a-b_c", "ü", "a*b", "$x", "a b", ">", "~2e"])
def test_a_name_has_one_spelling(name: str) -> None:
    """A name comes back from its token, which has no dot, wildcard or space."""
    assert name_of(token(name)) == name
    assert not set(token(name)) & set(".*> $")


@pytest.mark.parametrize("spelled", ["", "~", "~2", "~2E", "~61", "a.b", "*", "~ff"])
def test_what_spells_no_name_is_refused(spelled: str) -> None:
    """Another spelling of a name would be another subject, with other rights."""
    with pytest.raises(InvalidNameError):
        name_of(spelled)


def test_rights_are_about_one_swarm() -> None:
    """Nothing that one swarm's credentials allow names a subject or stream of another."""
    rights = rights_of("desk", "a")
    for subject in (*rights.publish, *rights.subscribe):
        assert "desk" in subject
