"""Two processes and one book, over `nt-memory up`: a fill counted twice, or lost, would show in the sum.

Each process is a node of the swarm: it follows the same stream into a replica of its own, so its reads are local.
Both take the same lock before they change the position, and write with its fence; each hears of the other's fills.

    pip install 'nt-memory[cluster]'
    python examples/two_processes.py

It starts a NATS server on a free port of the loopback, in a temporary directory, ends it, and leaves nothing behind.
"""

import asyncio
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from nt_memory import MemoryConfig, MemorySystem

COMMAND = str(Path(sys.executable).parent / "nt-memory")
TRADERS = ("momentum", "reversion")
FILLS = 10
TRADER = "trader"
"""The first argument of the processes that this program starts of itself."""


def opened(up: dict[str, str], name: str, directory: str) -> MemoryConfig:
    """How a process opens the swarm that `nt-memory up` told of."""
    url, _, swarm = up["url"].rpartition("/")
    return MemoryConfig(
        url=url,
        swarm=swarm,
        agent=name,
        nkey_file=up["nkey_file"],
        storage_path=f"{directory}/{name}",
    )


async def trade(up: dict[str, str], name: str, directory: str) -> None:
    """One process: ten fills of one share, each added to the desk's position under the lock."""
    async with MemorySystem.open(opened(up, name, directory)) as memory:
        opening = memory.watch("desk", "open")  # from now on, so nothing is missed
        await memory.publish("desk/ready", name)
        await anext(opening)  # both begin at once, or there would be nothing to contend for
        for number in range(FILLS):
            # Whoever waits gets the lock in turn, whichever process it is in.
            async with memory.lock("book", timeout=20.0, lease=20.0) as token:
                # What the other wrote before it gave the lock back is visible: the lock is an entry of the same order.
                position = await memory.get("desk", "position", {"AAPL": 0})
                async with memory.transaction(fence=token) as tx:  # both or neither
                    tx.put("desk", "position", {"AAPL": position["AAPL"] + 1})
                    tx.put(name, f"fills/{number:03}", {"AAPL": 1})
        await memory.publish("desk/done", name)


async def run(up: dict[str, str], directory: str) -> None:
    """Start both, hear from both, and add up."""
    async with MemorySystem.open(opened(up, "risk", directory)) as memory:
        async with (
            await memory.subscribe("desk/ready") as arrivals,
            await memory.subscribe("desk/done") as news,
        ):
            children = [
                await asyncio.create_subprocess_exec(
                    sys.executable, __file__, TRADER, json.dumps(up), name, directory
                )
                for name in TRADERS
            ]
            try:
                ready = {await arrivals.recv(timeout=30.0) for _ in TRADERS}
                await memory.put("desk", "open", value=True)
                codes = await asyncio.gather(*(child.wait() for child in children))
            finally:
                for child in children:
                    if child.returncode is None:
                        child.kill()
            assert codes == [0, 0]
            heard = {await news.recv(timeout=5.0) for _ in TRADERS}
        await memory.sync()  # all that was committed before this call is visible here
        position = await memory.get("desk", "position")
        fills = [record for name in TRADERS async for record in memory.scan(name, "fills/")]
        takers = [record.actor async for record in memory.history("desk", "position")]
    print(f"heard from {', '.join(sorted(heard))}")
    print(f"position {position['AAPL']}, fills {len(fills)}")
    print(f"the book changed hands {sum(a != b for a, b in itertools.pairwise(takers))} times")
    assert ready == heard == set(TRADERS)
    assert position["AAPL"] == len(fills) == FILLS * len(TRADERS)
    assert {takers.count(name) for name in TRADERS} == {FILLS}


def main() -> None:
    """A server for as long as this takes."""
    with tempfile.TemporaryDirectory() as directory:
        servers = f"{directory}/servers"
        start = [COMMAND, "up", "--detach", "--dir", servers, "--json"]
        said = subprocess.run(start, check=True, capture_output=True, text=True)  # noqa: S603
        try:
            asyncio.run(run(json.loads(said.stdout), directory))
        finally:
            stop = [COMMAND, "down", "--dir", servers]
            subprocess.run(stop, check=True, capture_output=True)  # noqa: S603


if __name__ == "__main__":
    if sys.argv[1:2] == [TRADER]:
        asyncio.run(trade(json.loads(sys.argv[2]), *sys.argv[3:]))
    else:
        main()
