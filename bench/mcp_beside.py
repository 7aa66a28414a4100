"""`nt-memory mcp` beside AgentDB's MCP server, on the same texts, each over stdio by the official client.

    npm install --prefix DIR agentdb@1.6.1
    python bench/mcp_beside.py DIR [--memories 10000] [--calls 200]

Each server gets the same made-up texts, in batches; then one is stored and one searched for, one call at a time.
AgentDB embeds texts by a model from the internet, and by a mock of its own where it cannot have it; here both
embed by hashing, so what is compared is the memory and not a model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from _harness import duration, machine
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp_calls import AGENT, COMMAND, fill, texts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BATCH = 500


class Way(NamedTuple):
    """A server, and how it is asked."""

    name: str
    server: StdioServerParameters
    store: tuple[str, str]
    search: tuple[str, str]
    fills: bool = False
    """Through its own tool; else the store was filled before."""


@asynccontextmanager
async def opened(server: StdioServerParameters) -> AsyncIterator[Client]:
    async with Client(server, mode="legacy") as client:
        yield client


async def call(client: Client, tool: str, arguments: dict[str, Any]) -> None:
    result = await client.call_tool(tool, arguments)
    if result.is_error:
        raise RuntimeError(f"{tool}: {result.content}")


async def measure(way: Way, memories: int, calls: int) -> list[tuple[str, float, float, float]]:
    rows: list[tuple[str, float, float, float]] = []
    async with opened(way.server) as client:
        if way.fills:
            said = texts(memories)
            await call(client, "agentdb_init", {})
            began = time.perf_counter()
            for start in range(0, memories, BATCH):
                items = [{"text": one} for one in said[start : start + BATCH]]
                await call(client, "agentdb_insert_batch", {"items": items, "batch_size": BATCH})
            print(f"  filled in {time.perf_counter() - began:.1f} s", flush=True)
        asked = texts(calls + 20)
        for what, (tool, argument) in (("store", way.store), ("search", way.search)):
            seconds: list[float] = []
            for text in asked:
                arguments: dict[str, Any] = {argument: text}
                if tool == "observe":
                    arguments["data"] = {"said": text}
                began = time.perf_counter()
                await call(client, tool, arguments)
                seconds.append(time.perf_counter() - began)
            kept = np.array(seconds[20:])  # the first calls warm caches up
            median, high = np.percentile(kept, [50, 99])
            rows.append((what, float(median), float(high), len(kept) / float(kept.sum())))
    return rows


async def main(folder: Path, memories: int, calls: int) -> None:
    with tempfile.TemporaryDirectory() as work:
        print(json.dumps(machine(Path(work)), default=str))
        ours, theirs = Path(work) / "ours", Path(work) / "theirs"
        theirs.mkdir()
        await fill(ours, memories)
        script = folder / "node_modules" / "agentdb" / "dist" / "mcp" / "agentdb-mcp-server.js"
        version = json.loads((script.parents[2] / "package.json").read_text())["version"]
        ways = [
            Way(
                "nt-memory mcp",
                StdioServerParameters(
                    command=COMMAND, args=["mcp", "--store", str(ours), "--agent", AGENT]
                ),
                store=("observe", "text"),
                search=("search", "text"),
            ),
            Way(
                f"AgentDB {version}",
                StdioServerParameters(
                    command="node",
                    args=[str(script)],
                    env={**os.environ, "AGENTDB_PATH": str(theirs / "memory.db")},
                    cwd=str(theirs),
                ),
                store=("agentdb_insert", "text"),
                search=("agentdb_search", "query"),
                fills=True,
            ),
        ]
        print(f"{calls} calls, {memories:,} memories\n")
        print("| server | call | p50 | p99 | calls/s |\n|---|---|---|---|---|")
        for way in ways:
            for what, median, high, rate in await measure(way, memories, calls):
                print(
                    f"| {way.name} | {what} | {duration(median)} | {duration(high)} | {rate:,.0f} |"
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--memories", type=int, default=10_000)
    parser.add_argument("--calls", type=int, default=200)
    asked = parser.parse_args()
    asyncio.run(main(asked.folder, asked.memories, asked.calls))
