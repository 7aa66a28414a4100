"""The same four operations on each store that several processes share: put, follow, publish, receive."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.apps.bench.coordinators.servers import HOST, Server, free_port, program
from nt_memory.apps.bench.loading import MissingError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

AGENT, PACED, TOPIC = "bench", "paced", "bench/paced"
POSTGRES_HOME = Path("/usr/lib/postgresql")


class Door(Protocol):
    """One process's way to a store. Numbers are stamps of when something was sent."""

    async def open(self, writers: int) -> None:
        """Connect; so many will write at once."""

    async def put(self, key: str, number: int) -> None:
        """Write, and return when it is acknowledged."""

    async def announce(self, number: int) -> None:
        """Write what `changes` of another process follows."""

    def changes(self) -> AsyncIterator[int]:
        """What others announced, each when it can be read here."""

    async def publish(self, number: int) -> None:
        """Send a message that nobody keeps."""

    def messages(self) -> AsyncIterator[int]:
        """Messages of others."""

    async def close(self) -> None:
        """Disconnect."""


class OurDoor:
    """nt-memory, embedded or in a cluster."""

    def __init__(self, **config: Any) -> None:
        self._config = MemoryConfig(**config)
        self.memory: Any = None

    async def open(self, writers: int) -> None:
        del writers
        self.memory = await MemorySystem.open(self._config)

    async def put(self, key: str, number: int) -> None:
        await self.memory.put(AGENT, key, {"stamp": number})

    async def announce(self, number: int) -> None:
        await self.put(PACED, number)

    async def changes(self) -> AsyncIterator[int]:
        pin = self.memory.pin(AGENT, PACED)
        async for _ in self.memory.watch(AGENT, PACED):
            yield pin.value["stamp"]

    async def publish(self, number: int) -> None:
        await self.memory.publish(TOPIC, number)

    async def messages(self) -> AsyncIterator[int]:
        async with await self.memory.subscribe(TOPIC) as received:
            async for message in received:
                yield message

    async def close(self) -> None:
        await self.memory.close()


class RedisDoor:
    """Redis: strings, keyspace notifications, PUBLISH."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._client: Any = None

    async def open(self, writers: int) -> None:
        import redis.asyncio as redis  # noqa: PLC0415 - of an extra

        pool = redis.BlockingConnectionPool(host=HOST, port=self._port, max_connections=writers + 2)
        self._client = redis.Redis(connection_pool=pool)
        await self._client.ping()

    async def put(self, key: str, number: int) -> None:
        await self._client.set(key, number)

    async def announce(self, number: int) -> None:
        await self._client.set(PACED, number)

    async def changes(self) -> AsyncIterator[int]:
        async for _ in self._heard(f"__keyspace@0__:{PACED}"):
            yield int(await self._client.get(PACED))

    async def publish(self, number: int) -> None:
        await self._client.publish(TOPIC, number)

    async def messages(self) -> AsyncIterator[int]:
        async for message in self._heard(TOPIC):
            yield int(message)

    async def _heard(self, channel: str) -> AsyncIterator[bytes]:
        async with self._client.pubsub() as heard:
            await heard.subscribe(channel)
            async for message in heard.listen():
                if message["type"] == "message":
                    yield message["data"]

    async def close(self) -> None:
        await self._client.aclose()


class PostgresDoor:
    """PostgreSQL: an upsert a put, NOTIFY and LISTEN."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._pool: Any = None

    async def open(self, writers: int) -> None:
        import asyncpg  # noqa: PLC0415 - of an extra

        self._pool = await asyncpg.create_pool(
            host=HOST, port=self._port, user="bench", database="postgres",
            min_size=1, max_size=writers + 1,
        )  # fmt: skip
        await self._pool.execute("CREATE TABLE IF NOT EXISTS kv (k text PRIMARY KEY, v bigint)")

    async def put(self, key: str, number: int) -> None:
        await self._pool.execute(
            "INSERT INTO kv VALUES ($1, $2) ON CONFLICT (k) DO UPDATE SET v = $2", key, number
        )

    async def announce(self, number: int) -> None:
        await self._pool.execute(
            "WITH written AS (INSERT INTO kv VALUES ($1, $2) ON CONFLICT (k) DO UPDATE SET v = $2"
            " RETURNING v) SELECT pg_notify('changed', $1) FROM written",
            PACED,
            number,
        )

    async def changes(self) -> AsyncIterator[int]:
        async for _ in self._heard("changed"):
            yield await self._pool.fetchval("SELECT v FROM kv WHERE k = $1", PACED)

    async def publish(self, number: int) -> None:
        await self._pool.execute("SELECT pg_notify('paced', $1)", str(number))

    async def messages(self) -> AsyncIterator[int]:
        async for message in self._heard("paced"):
            yield int(message)

    async def _heard(self, channel: str) -> AsyncIterator[str]:
        heard: asyncio.Queue[str] = asyncio.Queue()
        async with self._pool.acquire() as connection:
            await connection.add_listener(channel, lambda *said: heard.put_nowait(said[3]))
            while True:
                yield await heard.get()

    async def close(self) -> None:
        self._pool.terminate()  # listeners hold connections, for which `close` would wait


DOORS: dict[str, type] = {"ours": OurDoor, "redis": RedisDoor, "postgres": PostgresDoor}


@dataclass
class Peer:
    """A server that was started for the run, and how to open a door to it."""

    name: str
    version: str
    server: Server
    kind: str
    options: dict[str, Any]


def said_by(*command: str) -> str:
    """What a program says of its version."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


async def start_redis(directory: Path) -> Peer:
    """Redis that syncs before it acknowledges: an append-only file, fsync always.

    Raises:
        MissingError: it is not installed.
    """
    path = program("redis-server", "apt-get install redis-server")
    port = free_port()
    server = Server(
        [path, "--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "yes",
         "--appendfsync", "always", "--notify-keyspace-events", "K$"],
        directory,
    )  # fmt: skip
    await server.listening(port)
    words = said_by(path, "--version").split()
    version = next(word for word in words if word.startswith("v="))[2:]
    return Peer(
        "Redis, AOF, fsync always", f"redis-server {version}", server, "redis", {"port": port}
    )


async def start_postgres(directory: Path) -> Peer:
    """PostgreSQL as it comes: it syncs before it acknowledges.

    Raises:
        MissingError: it is not installed.
    """
    # It refuses to run as root; its Debian package brings a user of its own.
    user = "postgres" if os.geteuid() == 0 else None
    home = await asyncio.to_thread(_make_postgres, directory, user)
    port = free_port()
    server = Server(
        [str(home / "postgres"), "-D", str(directory / "data"), "-p", str(port), "-h", HOST,
         "-k", str(directory), "-c", "max_connections=200"],
        directory,
        user=user,
    )  # fmt: skip
    await server.listening(port)
    version = said_by(str(home / "postgres"), "--version").partition(") ")[2].split()[0]
    return Peer("PostgreSQL", f"PostgreSQL {version}", server, "postgres", {"port": port})


def _make_postgres(directory: Path, user: str | None) -> Path:
    """Make a database; where its programs are."""
    homes = sorted(POSTGRES_HOME.glob("*/bin"), key=lambda path: int(path.parent.name))
    found = shutil.which("initdb")
    if not homes and found is None:
        raise MissingError("no initdb: apt-get install postgresql")
    home = homes[-1] if homes else Path(found or "").parent
    directory.mkdir(parents=True)
    if user:
        shutil.chown(directory, user)
    subprocess.run(
        [home / "initdb", "-D", directory / "data", "-U", "bench", "-A", "trust", "--no-sync"],
        cwd=directory, user=user, check=True, capture_output=True,
    )  # fmt: skip
    return home
