"""What a call over MCP costs, beside the same call in Python.

    python bench/mcp_calls.py [--calls 300] [--memories 10000]

One client, one call at a time, on the loopback. Each way runs the same calls on a store of its own
that holds the same memories: in Python; by the official client over stdio, with the server in a
process of its own; and over streamable HTTP, with the server in a process of its own. "sessions" is the
protocol with a handshake (2025-11-25), "single" the one without (2026-07-28).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import uvicorn
from _harness import duration, machine
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from starlette.applications import Starlette

from nt_memory import MemorySystem
from nt_memory.apps.mcp import McpDoor
from nt_memory.embedders import HashingTextEmbedder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Call = Callable[[str, dict[str, Any]], Awaitable[Any]]

AGENT = "ann"
WORDS = [
    "rates",
    "banks",
    "oil",
    "rose",
    "fell",
    "calm",
    "storm",
    "earnings",
    "credit",
    "gold",
    "dollar",
    "jumped",
    "slid",
    "held",
]
COMMAND = str(Path(sys.executable).parent / "nt-memory")


def texts(count: int) -> list[str]:
    draw = np.random.default_rng(5)
    return [" ".join(draw.choice(WORDS, 8)) for _ in range(count)]


async def fill(store: Path, memories: int) -> None:
    embedder = HashingTextEmbedder()
    async with MemorySystem.open(store) as memory:
        await memory.put(AGENT, "position", {"AAPL": 10})
        said = texts(memories)
        for start in range(0, memories, 1_000):
            some = said[start : start + 1_000]
            await memory.observe_many(AGENT, embedder.embed(some), [{"said": one} for one in some])


async def directly(memory: MemorySystem, tool: str, arguments: dict[str, Any]) -> Any:
    if tool == "recall":
        return await memory.get_record(AGENT, arguments["key"])
    if tool == "remember":
        return await memory.put(AGENT, arguments["key"], arguments["value"])
    vector = (await asyncio.to_thread(HashingTextEmbedder().embed, [arguments["text"]]))[0]
    return await memory.search_similar(AGENT, vector, arguments["top_k"])


@asynccontextmanager
async def in_python(store: Path) -> AsyncIterator[Call]:
    async with MemorySystem.open(store) as memory:

        async def call(tool: str, arguments: dict[str, Any]) -> Any:
            return await directly(memory, tool, arguments)

        yield call


@asynccontextmanager
async def by_client(server: Any, era: Any) -> AsyncIterator[Call]:
    async with Client(server, mode=era) as client:

        async def call(tool: str, arguments: dict[str, Any]) -> Any:
            result = await client.call_tool(tool, arguments)
            if result.is_error:
                raise RuntimeError(result.content)
            return result

        yield call


def over_stdio(era: str) -> Any:
    def open_at(store: Path) -> Any:
        arguments = ["mcp", "--store", str(store), "--agent", AGENT]
        return by_client(StdioServerParameters(command=COMMAND, args=arguments), era)

    return open_at


def over_http(era: str) -> Any:
    @asynccontextmanager
    async def open_at(store: Path) -> AsyncIterator[Call]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--serve", str(store), stdout=subprocess.PIPE
        )
        url = (await process.stdout.readline()).decode().strip()  # type: ignore[union-attr]
        try:
            async with by_client(url, era) as call:
                yield call
        finally:
            process.terminate()
            await process.wait()

    return open_at


async def serve(store: Path) -> None:
    """The other side of `over_http`: says its URL, serves until it is told to stop."""
    async with MemorySystem.open(store) as memory:
        door = McpDoor(memory, agent=AGENT, embedder=HashingTextEmbedder())

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            async with door.running():
                yield

        app = Starlette(routes=[door.route("/mcp")], lifespan=lifespan)
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning")
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.wait({serving}, timeout=0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        print(f"http://127.0.0.1:{port}/mcp", flush=True)
        await serving


WAYS: dict[str, Any] = {
    "Python": in_python,
    "stdio, sessions": over_stdio("legacy"),
    "stdio, single": over_stdio("auto"),
    "HTTP, sessions": over_http("legacy"),
    "HTTP, single": over_http("auto"),
}


async def measure(way: str, store: Path, calls: int) -> dict[str, tuple[float, float, float]]:
    """Median, 99th percentile and rate of each kind of call."""
    said = texts(calls + 20)
    found: dict[str, tuple[float, float, float]] = {}
    async with WAYS[way](store) as call:
        for tool in ("recall", "remember", "search"):
            seconds: list[float] = []
            for number in range(calls + 20):
                arguments: dict[str, Any] = {"key": "position"}
                if tool == "remember":
                    arguments = {"key": "plan", "value": {"step": number}}
                if tool == "search":
                    arguments = {"text": said[number], "top_k": 10}
                began = time.perf_counter()
                await call(tool, arguments)
                seconds.append(time.perf_counter() - began)
            kept = np.array(seconds[20:])  # the first calls warm caches up
            median, high = np.percentile(kept, [50, 99])
            found[tool] = float(median), float(high), len(kept) / float(kept.sum())
    return found


async def main(calls: int, memories: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(machine(Path(folder)), default=str))
    print(f"{calls} calls, {memories:,} memories of 512 values\n")
    print("| way | call | p50 | p99 | calls/s | p50 over Python |")
    print("|---|---|---|---|---|---|")
    plain: dict[str, tuple[float, float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, way in enumerate(WAYS):
            store = Path(folder) / str(number)
            await fill(store, memories)
            found = await measure(way, store, calls)
            plain = plain or found
            for tool, (median, high, rate) in found.items():
                more = duration(max(0.0, median - plain[tool][0]))
                shown = f"{duration(median)} | {duration(high)} | {rate:,.0f} | {more}"
                print(f"| {way} | {tool} | {shown} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--memories", type=int, default=10_000)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asyncio.run(serve(asked.serve) if asked.serve else main(asked.calls, asked.memories))
