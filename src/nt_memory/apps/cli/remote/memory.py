"""`MemorySystem` behind a server, as far as commands use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from nt_memory.apps.cli.remote.ballots import RemoteBallots
from nt_memory.apps.cli.remote.bank import RemoteBank, plain_vector
from nt_memory.apps.cli.remote.client import Client
from nt_memory.apps.cli.remote.locks import RemoteScope
from nt_memory.apps.cli.remote.paths import of_agent, of_key, of_name, spell_moment
from nt_memory.apps.cli.remote.reading import (
    ReadChange,
    ReadEntry,
    ReadHit,
    ReadPage,
    ReadRecord,
    read,
)
from nt_memory.apps.cli.remote.refusals import AbsentError
from nt_memory.codec.plain import from_plain, to_plain
from nt_memory.coordination.tokens import LockInfo
from nt_memory.namespace import check_agent, check_key, check_label, check_prefix
from nt_memory.records import MemoryStats, Policy, Usage
from nt_memory.topics import check_pattern, check_topic

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from nt_memory.apps.cli.asking import Moment
    from nt_memory.apps.cli.remote.address import Address
    from nt_memory.apps.cli.remote.client import Event
    from nt_memory.records import Change, Hit, Record
    from nt_memory.system.watching import JournalEntry

PAGE = 1_000
WAIT_S = 30.0


class Message(NamedTuple):
    """A message that came."""

    topic: str
    value: Any


class RemoteReceiver:
    """A subscription on the server.

    Attributes:
        dropped: How many messages were lost because they came too fast.
    """

    def __init__(self, events: AsyncGenerator[Event]) -> None:
        self._events = events
        self.dropped: int = 0

    async def recv_message(self) -> Message:
        """The next message."""
        while True:
            event = await anext(self._events)
            if event.kind == "message":
                found = read(event.content, _Message)
                return Message(found.topic, from_plain(found.message))
            if event.kind == "dropped":
                self.dropped = read(event.content, _Dropped).dropped

    async def close(self) -> None:
        """End it."""
        await self._events.aclose()


class RemoteMemory:
    """The memory of a server.

    Use `open`; then `close` it.

    Attributes:
        url: Where it is, without credentials.
        revision: The newest one that was heard of.
        bank: Decisions, and what they teach.
        consensus: Proposals and votes.
    """

    def __init__(self, client: Client, revision: int) -> None:
        self._client = client
        self.url: str = client.url
        self.revision: int = revision
        self.bank: RemoteBank = RemoteBank(client)
        self.consensus: RemoteBallots = RemoteBallots(client)

    @classmethod
    async def open(cls, address: Address, *, wait: float = 0.0) -> RemoteMemory:
        """Ask the server whether it is there, and whether it lets us in.

        Raises:
            UnreachableError: it is not there after `wait` seconds, or is no nt-memory server.
            PermissionDeniedError: it wants another token.
            UnsupportedError: httpx is not installed.
        """
        client = Client(address, wait=wait)
        try:
            found = read(await client.ask("GET", "/timeline"), _Now)
        except BaseException:
            await client.close()
            raise
        return cls(client, found.revision)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def wait_for(self, revision: int) -> None:
        """Wait until a revision is visible there."""
        while self.revision < revision:
            query = {"revision": revision, "wait": WAIT_S}
            answer = await self._client.ask("GET", "/timeline", query=query, waits=WAIT_S)
            self.revision = read(answer, _Now).revision

    # --- state --------------------------------------------------------------------------------

    async def get_record(
        self, agent: str, key: str, *, as_of: Moment | None = None
    ) -> Record | None:
        """The version in force, or None."""
        query = {"as_of": spell_moment(as_of)}
        try:
            answer = await self._client.ask("GET", of_key("state", agent, key), query=query)
        except AbsentError:
            return None
        return read(answer, ReadRecord).record()

    async def put(
        self,
        agent: str,
        key: str,
        value: Any,
        *,
        ttl: float | None = None,
        expect: int | None = None,
        fence: int | None = None,
    ) -> int:
        """Write a value; on the server's disk when it returns."""
        body = {"value": to_plain(value), "ttl": ttl, "expect": expect, "fence": fence}
        answer = await self._client.ask("PUT", of_key("state", agent, key), body)
        return read(answer, _Now).revision

    async def delete(
        self, agent: str, key: str, *, expect: int | None = None, fence: int | None = None
    ) -> int | None:
        """Remove a value; None if there was nothing."""
        query = {"expect": expect, "fence": fence}
        answer = await self._client.ask("DELETE", of_key("state", agent, key), query=query)
        return read(answer, _Deleted).revision

    async def scan(
        self, agent: str, prefix: str = "", *, as_of: Moment | None = None
    ) -> AsyncGenerator[Record]:
        """Records by key, all as of one moment."""
        path = of_agent("state", agent)
        query = {"prefix": check_prefix(prefix), "limit": PAGE, "as_of": spell_moment(as_of)}
        after: str | None = ""
        while after is not None:
            answer = await self._client.ask("GET", path, query={**query, "after": after})
            page = read(answer, ReadPage)
            query["as_of"] = query["as_of"] or str(page.revision)
            for one in page.records:
                yield one.record()
            after = page.next

    async def history(self, agent: str, key: str) -> AsyncGenerator[Record]:
        """Versions, newest first."""
        path = of_key("history", agent, key)
        after: str | None = ""
        while after is not None:
            query = {"limit": PAGE, "after": after}
            page = read(await self._client.ask("GET", path, query=query), ReadPage)
            for one in page.records:
                yield one.record()
            after = page.next

    # --- feeds --------------------------------------------------------------------------------

    async def watch(
        self, agent: str, prefix: str = "", *, after: int | None = None
    ) -> AsyncGenerator[Change]:
        """Changes as they become visible, none missed."""
        path = of_agent("changes", agent)
        query = {"prefix": check_prefix(prefix), "after": after}
        async for event in self._client.events(path, query):
            content = event.content
            record = content if event.kind == "put" and not content.get("is_left_out") else None
            change = read({**content, "kind": event.kind, "record": record}, ReadChange)
            yield await self._whole(change)

    async def tail(self, after: int = 0) -> AsyncGenerator[JournalEntry]:
        """The journal from a revision on."""
        async for event in self._client.events("/journal", {"after": after}):
            entry = read(event.content, ReadEntry)
            self.revision = max(self.revision, entry.revision)
            yield entry.entry(tuple([await self._whole(change) for change in entry.changes]))

    async def _whole(self, change: ReadChange) -> Change:
        """A change; a value that was too large for its event is got by itself."""
        if not change.is_left_out:
            return change.change(None if change.record is None else change.record.record())
        async for record in self.history(change.agent, change.key):
            if record.revision == change.revision:
                return change.change(record)
        return change.change(None)  # dropped meanwhile

    # --- similarity ---------------------------------------------------------------------------

    async def observe(
        self,
        agent: str,
        embedding: Any,
        data: Any = None,
        *,
        key: str | None = None,
        tags: Sequence[str] = (),
        ttl: float | None = None,
        fence: int | None = None,
    ) -> str:
        """Remember something with its situation; its key."""
        body = {
            "embedding": plain_vector(embedding),
            "data": to_plain(data),
            "key": None if key is None else check_key(key),
            "tags": list(tags),
            "ttl": ttl,
            "fence": fence,
        }
        return read(await self._client.ask("POST", of_agent("observations", agent), body), _Key).key

    async def search_similar(
        self,
        agent: Sequence[str],
        query_embedding: Any,
        top_k: int = 10,
        *,
        as_of: Moment | None = None,
        tags: Sequence[str] | None = None,
        where: Any = None,
        exact: bool = False,
    ) -> list[Hit]:
        """The most similar observations, best first."""
        body = {
            "agents": [check_agent(one) for one in agent],
            "embedding": plain_vector(query_embedding),
            "top_k": top_k,
            "as_of": spell_moment(as_of),
            "tags": None if tags is None else list(tags),
            "where": to_plain(where),
            "exact": exact,
        }
        found = read(await self._client.ask("POST", "/search", body), _Hits)
        return [one.hit() for one in found.hits]

    async def get_embedding(self, agent: str, key: str) -> list[float] | None:
        """The vector of an observation, or None."""
        try:
            answer = await self._client.ask("GET", of_key("embeddings", agent, key))
        except AbsentError:
            return None
        return read(answer, _Embedding).embedding

    # --- coordination -------------------------------------------------------------------------

    async def publish(self, topic: str, message: Any) -> int:
        """Send a message; how many subscriptions it reached."""
        body = {"topic": check_topic(topic), "message": to_plain(message)}
        return read(
            await self._client.ask("POST", "/messages", body, repeats=False), _Reached
        ).reached

    async def subscribe(self, pattern: str) -> RemoteReceiver:
        """Hear messages, from when the first one is waited for."""
        query = {"pattern": check_pattern(pattern)}
        return RemoteReceiver(self._client.events("/messages", query))

    def lock(
        self, resource: str, *, timeout: float = 1.0, lease: float = 30.0, holder: str = ""
    ) -> RemoteScope:
        """Hold a lock for a block."""
        return RemoteScope(self._client, resource, timeout, lease, holder)

    async def force_release(
        self, resource: str, *, fence: int | None = None, reason: str = ""
    ) -> bool:
        """Take a lock from its holder."""
        body = {"resource": check_label(resource, "resource"), "fence": fence, "reason": reason}
        answer = await self._client.ask("POST", "/locks/force_release", body)
        return read(answer, _Released).released

    async def list_locks(self) -> list[LockInfo]:
        """Locks that somebody holds or waits for."""
        return read(await self._client.ask("GET", "/locks"), _Locks).infos()

    async def inspect_lock(self, resource: str) -> LockInfo:
        """Who holds a lock."""
        path = of_name("locks", check_label(resource, "resource"))
        return read(await self._client.ask("GET", path), _Lock).info()

    # --- the swarm ----------------------------------------------------------------------------

    async def agents(self) -> list[str]:
        """Who has stored something."""
        return read(await self._client.ask("GET", "/agents"), _Agents).agents

    async def usage(self, agent: str) -> Usage:
        """What is stored under an agent's name."""
        return read(await self._client.ask("GET", of_agent("agents", agent)), _Agent).usage

    async def policy(self, agent: str) -> Policy | None:
        """What an agent may do; None: anything."""
        return read(await self._client.ask("GET", of_agent("agents", agent)), _Agent).policy

    async def stats(self) -> MemoryStats:
        """The counters of the memory there."""
        found = read(await self._client.ask("GET", "/stats"), _Stats).stats
        self.revision = max(self.revision, found.revision)
        return found


class _Now(msgspec.Struct):
    revision: int


class _Deleted(msgspec.Struct):
    revision: int | None


class _Key(msgspec.Struct):
    key: str


class _Hits(msgspec.Struct):
    hits: list[ReadHit]


class _Embedding(msgspec.Struct):
    embedding: list[float]


class _Reached(msgspec.Struct):
    reached: int


class _Dropped(msgspec.Struct):
    dropped: int


class _Message(msgspec.Struct):
    topic: str
    message: Any


class _Released(msgspec.Struct):
    released: bool


class _Lock(msgspec.Struct):
    resource: str
    holder: str
    fence: int
    lease_left: float
    waiters: tuple[str, ...]

    def info(self) -> LockInfo:
        return LockInfo(*msgspec.structs.astuple(self))


class _Locks(msgspec.Struct):
    locks: list[_Lock]

    def infos(self) -> list[LockInfo]:
        return [one.info() for one in self.locks]


class _Agents(msgspec.Struct):
    agents: list[str]


class _Agent(msgspec.Struct):
    usage: Usage
    policy: Policy | None


class _Stats(msgspec.Struct):
    stats: MemoryStats
