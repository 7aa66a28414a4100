"""HTTP: put, get and search of `nt-memory serve`, one client and many: `python bench/serving.py --help`.

The server is a process of its own, as an operator starts it. The clients are bare asyncio streams
that send bytes made beforehand and read as far as `content-length` says, so that what is measured is
the server and not a client library. Beside it, in the same run: a request that does nothing
(`/health`), which is what HTTP itself costs here, and the same calls in process. On two cores the
clients take their share of the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _harness import duration, machine, percentiles, subspace

from nt_memory import MemorySystem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

SERVE = [sys.executable, "-m", "nt_memory.apps.cli.main", "serve"]
VALUE = {f"field{n}": n * 1.5 for n in range(10)}


class Client:
    """One kept connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, port: int) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, request: bytes) -> bytes:
        """The body of the answer to a request."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(head.decode())
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return await self._reader.readexactly(length)

    def close(self) -> None:
        self._writer.close()


def spell(method: str, path: str, body: Any = None) -> bytes:
    """A request's bytes."""
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


def requests(vectors: np.ndarray, n: int) -> dict[str, Iterator[bytes]]:
    """What is asked, endlessly, by name."""
    queries = [row.tolist() for row in vectors[:200]]
    searches = [
        spell("POST", "/v1/search", {"agents": ["a"], "embedding": query, "top_k": 10})
        for query in queries
    ]
    contract = [
        spell("POST", "/collections/obs/search", {"collection": "obs", "embedding": query, "k": 10})
        for query in queries
    ]
    filtered = [
        spell(
            "POST",
            "/v1/search",
            {"agents": ["a"], "embedding": query, "top_k": 10, "where": {"symbol": "S7"}},
        )
        for query in queries
    ]
    gets = [spell("GET", f"/v1/state/a/k{number % n}") for number in range(1000)]
    puts = (
        spell("PUT", f"/v1/state/a/k{number % 1000}", {"value": VALUE})
        for number in itertools.count()
    )
    return {
        "health": itertools.repeat(spell("GET", "/health")),
        "get": itertools.cycle(gets),
        "put": puts,
        "search": itertools.cycle(searches),
        "search, where 2 %": itertools.cycle(filtered),
        "search, AgentDB contract": itertools.cycle(contract),
    }


async def timed(ask: Callable[[], Awaitable[Any]], seconds: float) -> tuple[list[float], float]:
    """How long each took, one after the other, and how long all of it."""
    taken: list[float] = []
    started = time.perf_counter()
    while (begun := time.perf_counter()) - started < seconds:
        await ask()
        taken.append(time.perf_counter() - begun)
    return taken, time.perf_counter() - started


async def warm(one: Client, wanted: Iterator[bytes]) -> None:
    """Some requests that do not count."""
    for _ in range(20):
        await one.send(next(wanted))


async def over_http(port: int, wanted: Iterator[bytes], clients: int, seconds: float) -> Any:
    """Latencies in seconds, and requests a second, of so many clients at once."""
    open_ones = [await Client.connect(port) for _ in range(clients)]
    # All at once: one that is left waiting for its first request is turned away after ten seconds.
    await asyncio.gather(*(warm(one, wanted) for one in open_ones))
    rounds = await asyncio.gather(
        *(timed(lambda one=one: one.send(next(wanted)), seconds) for one in open_ones)
    )
    for one in open_ones:
        one.close()
    taken = [second for some, _ in rounds for second in some]
    return {
        "n": len(taken),
        "a_second": len(taken) / max(whole for _, whole in rounds),
        **percentiles(taken),
    }


async def in_process(store: Path, vectors: np.ndarray, seconds: float) -> dict[str, Any]:
    """The same calls without HTTP."""
    numbers = itertools.count()
    async with MemorySystem.open(store) as memory:
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "get": lambda: memory.get("a", f"k{next(numbers) % 1000}"),
            "put": lambda: memory.put("a", f"k{next(numbers) % 1000}", VALUE),
            "search": lambda: memory.search_similar("a", vectors[next(numbers) % 200], 10),
        }
        found: dict[str, Any] = {}
        for name, call in calls.items():
            for _ in range(50):
                await call()
            taken, whole = await timed(call, seconds)
            found[name] = {"n": len(taken), "a_second": len(taken) / whole, **percentiles(taken)}
        return found


async def fill(store: Path, vectors: np.ndarray) -> None:
    """Observations of an agent, and the same as documents of a collection."""
    async with MemorySystem.open(store) as memory:
        data = [{"symbol": f"S{n % 50}", "n": n} for n in range(len(vectors))]
        config = {"name": "obs", "dimension": vectors.shape[1], "index_type": "hnsw"}
        await memory.put("agentdb.obs", "_collection", {**config, "metadata_schema": None})
        for first in range(0, len(vectors), 10_000):
            rows = vectors[first : first + 10_000]
            some = data[first : first + 10_000]
            keys = [f"{n:08x}" for n in range(first, first + len(rows))]
            await memory.observe_many("a", rows, some)
            await memory.observe_many("agentdb.obs", rows, some, keys=keys)
        for number in range(1000):
            await memory.put("a", f"k{number}", VALUE)
        await asyncio.to_thread(memory._engine.vectors.wait_indexed)  # noqa: SLF001


def measure(store: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Everything."""
    vectors = subspace(options.n, options.dim, seed=7)
    asyncio.run(fill(store, vectors))
    found: dict[str, Any] = {"in process": asyncio.run(in_process(store, vectors, options.seconds))}
    server = subprocess.Popen(
        [*SERVE, "--port", "0", "--store", str(store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        line = server.stdout.readline() if server.stdout else ""
        port = int(line.split()[1].rstrip(",").rpartition(":")[2])
        for clients in options.clients:
            name = f"{clients} client{'s' if clients > 1 else ''}"
            found[name] = {
                what: asyncio.run(over_http(port, wanted, clients, options.seconds))
                for what, wanted in requests(vectors, 1000).items()
            }
        found["server_anonymous_bytes"] = anonymous_bytes(server.pid)
    finally:
        server.terminate()
        server.wait(30)
    return found


def anonymous_bytes(pid: int) -> int:
    """Resident anonymous memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (found,) = [line for line in lines if line.startswith("RssAnon:")]
    return int(found.split()[1]) * 1024


def table(found: dict[str, Any]) -> str:
    """The figures, for people."""
    lines = ["| who | what | p50 | p99 | a second |", "|---|---|---|---|---|"]
    for who, figures in found.items():
        if isinstance(figures, dict) and who != "machine":
            for what, one in figures.items():
                cells = (who, what, duration(one["p50"]), duration(one["p99"]))
                lines.append(f"| {' | '.join(cells)} | {one['a_second']:,.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and leave the figures if told where."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100_000, help="observations")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each figure")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        found = measure(Path(directory) / "store", options)
        found["machine"] = machine(directory)
    print(table(found))
    anonymous = found["server_anonymous_bytes"] / 1e6
    print(f"\nthe server's anonymous memory at the end: {anonymous:,.0f} MB")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
