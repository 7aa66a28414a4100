"""Peers behind a server on loopback: what several machines would use, here with all in one process.

Their messages are encoded and decoded with msgpack, each copy by who receives it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from nt_memory.apps.bench.coordinators.coordinator import (
    EXTRA,
    LEASE_S,
    LOCK,
    PATIENCE_S,
    TOPIC,
    About,
    module,
)
from nt_memory.apps.bench.coordinators.readers import Readers
from nt_memory.apps.bench.coordinators.servers import HOST, Server, free_port, program

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from nt_memory.apps.bench.coordinators.coordinator import Message, Receive, Took

MOST_CONNECTIONS = 2_000
SUBJECT = TOPIC.replace("/", ".")


class Redis:
    """A server that keeps nothing on disk, and redis-py with hiredis."""

    about: ClassVar[About] = About(
        "redis",
        "pub/sub, a `PubSub` and so a connection a receiver; several messages at once in a pipeline",
        f"`client.lock(timeout={LEASE_S:g})` of redis-py, which asks again every 0.1 s",
        "its lock has no queue, no fence and no renewal by itself, and is lost with the server, which "
        "keeps nothing on disk here; a receiver that is slow is cut off",
    )

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "redis"
        self.server: str = ""
        self._readers = Readers()
        self._subscriptions: list[Any] = []

    def _start(self) -> int:
        module("hiredis")  # redis-py uses it by itself once it is there
        path = program("redis-server", "apt-get install redis-server")
        port = free_port()
        command = [path, "--bind", HOST, "--port", str(port), "--save", "", "--appendonly", "no"]
        self._server = Server(command, self._directory)
        return port

    async def open(self) -> None:
        """Start a server and connect."""
        redis = module("redis.asyncio")
        port = self._start()
        await self._server.listening(port)
        # Its default is 100.
        self._client = redis.Redis(host=HOST, port=port, max_connections=MOST_CONNECTIONS)
        self.server = f"redis-server {(await self._client.info('server'))['redis_version']}"

    async def close(self) -> None:
        """Disconnect and end the server."""
        await self._client.aclose()
        self._server.stop()

    async def subscribe(self, receivers: int, took: Took) -> None:
        """A connection and a task each."""
        for _ in range(receivers):
            one = self._client.pubsub(ignore_subscribe_messages=True)
            self._subscriptions.append(one)
            await one.subscribe(TOPIC)
            await one.get_message(timeout=1.0)  # the server's answer, which is no message
            self._readers.start(_listen(one, took))

    async def publish(self, messages: list[Message]) -> None:
        """Each by a call, several by a pipeline, which is one round trip."""
        if len(messages) == 1:
            await self._client.publish(TOPIC, msgspec.msgpack.encode(messages[0]))
            return
        async with self._client.pipeline(transaction=False) as pipeline:
            for message in messages:
                pipeline.publish(TOPIC, msgspec.msgpack.encode(message))
            await pipeline.execute()

    async def unsubscribe(self) -> None:
        """End all receivers and their connections."""
        await self._readers.stop()
        for one in self._subscriptions:
            await one.aclose()
        self._subscriptions.clear()

    def lock(self) -> AbstractAsyncContextManager[object]:
        """A lock object each time, as it keeps the token of one holder."""
        return self._client.lock(  # type: ignore[no-any-return]
            LOCK, timeout=LEASE_S, blocking_timeout=PATIENCE_S, thread_local=False
        )

    def open_threads(self) -> None:
        """Start a server; no loop is there to wait with, so redis-py tries again until it answers."""
        redis = module("redis")
        retry = module("redis.retry").Retry(module("redis.backoff").ConstantBackoff(0.05), 100)
        port = self._start()
        self._client = redis.Redis(host=HOST, port=port, retry=retry)
        self.server = f"redis-server {self._client.info('server')['redis_version']}"

    def receiver(self) -> Receive:
        """A connection, read by a thread."""
        one = self._client.pubsub(ignore_subscribe_messages=True)
        one.subscribe(TOPIC)
        messages = one.listen()
        one.get_message(timeout=1.0)  # the server's answer, which is no message

        def receive() -> Message:
            return msgspec.msgpack.decode(next(messages)["data"])  # type: ignore[no-any-return]

        return receive

    def send(self, message: Message) -> None:
        """Publish it."""
        self._client.publish(TOPIC, msgspec.msgpack.encode(message))

    def close_threads(self) -> None:
        """Disconnect and end the server."""
        self._client.close()
        self._server.stop()


async def _listen(subscription: Any, took: Took) -> None:
    async for message in subscription.listen():
        took(msgspec.msgpack.decode(message["data"]))


class Nats:
    """A server without JetStream, and nats-py."""

    about: ClassVar[About] = About(
        "nats-py",
        "one connection, a subscription with a callback a receiver",
        "",
        "no lock or vote of its own; messages are kept nowhere, and a receiver that is slow drops new "
        "ones",
    )

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "nats"
        self.server: str = ""
        self._subscriptions: list[Any] = []
        self._failures: list[Exception] = []

    async def open(self) -> None:
        """Start a server and connect."""
        nats = module("nats")
        path = program("nats-server", f"pip install 'nt-memory[{EXTRA}]'")
        port = free_port()
        self._server = Server([path, "--addr", HOST, "--port", str(port)], self._directory)
        await self._server.listening(port)
        self._client = await nats.connect(f"nats://{HOST}:{port}", error_cb=self._failed)
        running = self._client.connected_server_version
        self.server = f"nats-server {running.major}.{running.minor}.{running.patch}"

    async def _failed(self, error: Exception) -> None:
        self._failures.append(error)

    async def close(self) -> None:
        """Disconnect and end the server.

        Raises:
            Exception: what the client reported meanwhile, such as messages it had to drop.
        """
        await self._client.close()
        self._server.stop()
        if self._failures:
            raise self._failures[0]

    async def subscribe(self, receivers: int, took: Took) -> None:
        """A callback each, which the client calls in a task of its own."""

        async def receive(message: Any) -> None:
            took(msgspec.msgpack.decode(message.data))

        for _ in range(receivers):
            self._subscriptions.append(await self._client.subscribe(SUBJECT, cb=receive))
        await self._settle()

    async def publish(self, messages: list[Message]) -> None:
        """Each by a call; the client sends what it has gathered at once by itself."""
        for message in messages:
            await self._client.publish(SUBJECT, msgspec.msgpack.encode(message))

    async def unsubscribe(self) -> None:
        """End all receivers."""
        for one in self._subscriptions:
            await one.unsubscribe()
        self._subscriptions.clear()
        await self._settle()

    async def _settle(self) -> None:
        for _ in range(2):  # the client sends a ping ahead of what waits to be sent
            await self._client.flush()
