"""Redis with redis-py: state, messages and locks in a server; nothing alike is found in Debian's."""

from __future__ import annotations

import json
import queue
from typing import Any, ClassVar

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from peers.adapters.servers import HOST, Server, free_port, program, said
from peers.peer import Peer

NO_VECTORS = (
    "Debian's Redis 7.0 has no vector search: it came with Redis Stack and Redis 8, and Redis' "
    "agent-memory-server needs it too"
)


class Redis(Peer):
    """A server of its own, with both kinds of persistence, as its documentation advises."""

    name = "Redis"
    packages = ("redis", "hiredis")
    used = "redis-server on loopback, `appendonly yes`, `appendfsync everysec`, RDB as it comes; redis-py with hiredis, `Redis.lock`"
    acknowledged = "in the kernel (append-only file); on disk within a second"
    without: ClassVar = dict.fromkeys(
        ("load", "observe", "search", "search_symbol", "lessons"), NO_VECTORS
    )

    def version(self) -> str:
        return said([program("redis-server", "apt-get install redis-server"), "--version"]).split(
            " sha"
        )[0]

    def open(self) -> None:
        port = free_port()
        path = program("redis-server", "apt-get install redis-server")
        command = [path, "--bind", HOST, "--port", str(port), "--dir", str(self.directory)]
        command += ["--appendonly", "yes", "--appendfsync", "everysec"]
        self._server = Server(command, self.directory / "server.log", port)
        # While it reads its file it takes connections and refuses commands.
        patient = Retry(ConstantBackoff(0.05), 200)
        busy = [redis.BusyLoadingError, redis.ConnectionError]
        self._client = redis.Redis(host=HOST, port=port, retry=patient, retry_on_error=busy)
        self._client.ping()
        self._got: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._inbox = self._client.pubsub(ignore_subscribe_messages=True)
        self._inbox.subscribe(orders=lambda message: self._got.put(message["data"]))
        self._reader = self._inbox.run_in_thread(daemon=True)

    def close(self) -> None:
        self._reader.stop()
        self._reader.join()
        self._client.close()
        self._server.stop()

    def put(self, agent: str, value: dict[str, Any]) -> None:
        self._client.set(f"state:{agent}", json.dumps(value))

    def get(self, agent: str) -> Any:
        found = self._client.get(f"state:{agent}")
        return found and json.loads(found)

    def decide(self, row: int, at: float) -> None:
        self._client.hset(f"episode:{row}", mapping={"recorded_at": at, "side": "buy"})

    def outcome(self, row: int, value: float, at: float) -> None:
        self._client.hset(f"episode:{row}", mapping={"outcome": value, "outcome_at": at})

    def outcomes_as_of(self, row: int, at: float) -> list[float] | None:
        del at
        found = self._client.hgetall(f"episode:{row}")
        return [float(found[b"outcome"])] if b"outcome" in found else ([] if found else None)

    def message(self, number: int) -> None:
        self._client.publish("orders", json.dumps({"n": number}))
        self._got.get(timeout=5.0)

    def lock(self, number: int) -> None:
        del number
        with self._client.lock("book", timeout=30.0, blocking_timeout=1.0):
            pass
