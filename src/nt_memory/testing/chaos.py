"""A cluster on this machine whose servers, connections and files can be made to fail.

    async with ChaosCluster(directory) as cluster:
        memory = await MemorySystem.open(cluster.config("desk", storage_path=...))
        await cluster.kill(await cluster.leader())

Between every two servers, and between every client and every server, lies a wire (`wires`). Wires need
no rights and work wherever Python does. What they cannot do: lose packets of a connection, so that
TCP sends them again, later and later. Where network namespaces may be made, `netns_cluster` does that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from typing import TYPE_CHECKING, Any, Final, Self

from nt_memory.clock import SystemClock
from nt_memory.config import MemoryConfig
from nt_memory.errors import InvalidInputError, StorageError
from nt_memory.testing.wires import LOOPBACK, Wires
from nt_memory.transport.nats.servers.fleet import READY_S, Fleet
from nt_memory.transport.nats.subjects import Subjects

if TYPE_CHECKING:
    import random
    from collections.abc import Generator, Iterable, Iterator
    from pathlib import Path

    from nt_memory.testing.wires import Way, Wire
    from nt_memory.transport.nats.servers.configuration import Node

_ASK_S: Final = 2
_LOOK_EVERY_S: Final = 0.1


class ChaosCluster:
    """Servers as `nt-memory up` starts them, with wires between all of them.

    Args:
        directory: Of the servers; made when missing.
        nodes: 1 or 3.
        swarm: The swarm's name.

    Attributes:
        fleet: The servers, by their own ports.
        wires: Between servers: `wires["ntm-1", "ntm-2"]` is how the first reaches the second.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, nodes: int = 3, swarm: str = "default"
    ) -> None:
        self.fleet: Fleet = Fleet(directory, nodes=nodes, swarm=swarm)
        self.wires: dict[tuple[str, str], Wire] = {}
        self._clients: dict[str, dict[str, Wire]] = {}
        self._clock = SystemClock()
        try:
            self._board = self._connect()
        except BaseException:
            self.fleet.leave()  # gives the directory back
            raise

    def _connect(self) -> Wires:
        """Lay what is between the servers."""
        board = Wires()
        servers = self.fleet.nodes
        self.wires = {
            (one.name, other.name): board.lead(other.route)
            for one in servers
            for other in servers
            if one != other
        }
        self.fleet.reach_by((*names, wire.port) for names, wire in self.wires.items())
        return board

    @property
    def names(self) -> list[str]:
        """Of the servers."""
        return [node.name for node in self.fleet.nodes]

    async def __aenter__(self) -> Self:
        await self.fleet.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop the servers and reset all connections. Idempotent."""
        await self.fleet.stop()
        self._board.close()

    # --- clients --------------------------------------------------------------------------------

    def config(self, client: str, *, agent: str = "", **settings: Any) -> MemoryConfig:
        """What a client opens: `MemorySystem.open(cluster.config("a", storage_path=…))`.

        Args:
            client: Names its wires; each client that is to fail by itself needs a name of its own.
            agent: Whose credentials it shows, made by `fleet.enrol` before servers were started; ""
                is the operator.
            settings: The rest of `MemoryConfig`.
        """
        seeds = self.fleet.directory / "keys"
        return MemoryConfig(
            url=self.url(client),
            swarm=self.fleet.swarm,
            agent=agent,
            nkey_file=seeds / "agents" / f"{agent}.nk" if agent else self.fleet.operator_seed,
            **settings,
        )

    def url(self, client: str) -> str:
        """Where a client finds the servers: at wires of its own."""
        ports = [wire.port for wire in self.wires_of(client).values()]
        return f"nats://{','.join(f'{LOOPBACK}:{port}' for port in ports)}/{self.fleet.swarm}"

    def wires_of(self, client: str) -> dict[str, Wire]:
        """A client's wires, by the servers they lead to."""
        if client not in self._clients:
            self._clients[client] = {node.name: self._lead_to(node) for node in self.fleet.nodes}
        return self._clients[client]

    def _lead_to(self, node: Node) -> Wire:
        return self._board.lead(node.client)

    def command(self, client: str, *program: str) -> list[str]:
        """What starts a program that is a client, for `subprocess`: here, the program itself."""
        del client
        return list(program)

    def drop(self, client: str) -> None:
        """Reset a client's connections; it may connect again at once."""
        for wire in self.wires_of(client).values():
            wire.drop()

    def hold(self, client: str, way: Way = "both") -> None:
        """Let nothing through between a client and the servers; neither side is told."""
        for wire in self.wires_of(client).values():
            wire.hold(way)

    # --- servers --------------------------------------------------------------------------------

    async def leader(self, within_s: float = READY_S) -> str:
        """Name of the server that leads the swarm's journal, as a majority sees it.

        Raises:
            StorageError: none did within `within_s`.
        """
        end_ns = self._clock.monotonic_ns() + int(within_s * 1e9)
        while self._clock.monotonic_ns() < end_ns:
            seen = await self._leaders()
            for name in self.names:
                if 2 * seen.count(name) > len(self.names):
                    return name
            await self._clock.sleep(_LOOK_EVERY_S)
        raise StorageError(f"no server led the journal of {self.fleet.swarm} within {within_s:g} s")

    async def kill(self, *names: str) -> None:
        """End servers at once, as a crash would; without names, all of them."""
        chosen = self._chosen(names)
        for name in chosen:  # all signals before any wait: a majority must not go on between two
            with contextlib.suppress(StorageError):
                self.fleet.servers[name].send(signal.SIGKILL)
        for name in chosen:
            await self.fleet.servers[name].kill()

    def start(self, *names: str) -> None:
        """Start servers that do not run, without waiting; without names, all of them."""
        for name in self._chosen(names):
            self.fleet.launch(name)

    def pause(self, *names: str) -> None:
        """Stop servers in mid-step, as a machine that hangs does; without names, all of them."""
        for name in self._chosen(names):
            self.fleet.servers[name].send(signal.SIGSTOP)

    def resume(self, *names: str) -> None:
        """Let paused servers go on."""
        for name in self._chosen(names):
            with contextlib.suppress(StorageError):
                self.fleet.servers[name].send(signal.SIGCONT)

    def isolate(self, name: str, *, cut: bool = False) -> None:
        """Part a server from the others. Clients reach it still: it is on their side.

        Args:
            name: Which.
            cut: Connections are reset; otherwise nothing comes through and nobody is told.
        """
        for wire in self._around(self._chosen([name])):
            if cut:
                wire.cut()
            else:
                wire.hold()

    def slow(self, name: str, delay_s: float) -> None:
        """Have all that goes between a server and the others arrive later, each way."""
        for wire in self._around(self._chosen([name])):
            wire.slow(delay_s)

    async def heal(self, within_s: float = READY_S) -> None:
        """Undo all: mend every wire, wake and start every server, and wait until they can write.

        Raises:
            StorageError: they could not, in time.
        """
        for wire in (*self.wires.values(), *self._all_clients()):
            wire.mend()
        self.start()
        self.resume()
        await self.leader(within_s)

    # --- files ----------------------------------------------------------------------------------

    def stream_files(self, name: str) -> list[Path]:
        """The files in which a server keeps the journal's messages, oldest first."""
        stream = Subjects(self.fleet.swarm).stream
        found = (self.fleet.directory / name / "streams").rglob(f"streams/{stream}/msgs/*.blk")
        return sorted(found, key=lambda path: int(path.stem))

    # --- the rest -------------------------------------------------------------------------------

    def _chosen(self, names: Iterable[str]) -> list[str]:
        chosen = list(names) or self.names
        for name in chosen:
            if name not in self.fleet.servers:
                raise InvalidInputError(f"there is no server {name!r}, only {self.names}")
        return chosen

    def _around(self, names: list[str]) -> Iterator[Wire]:
        return (wire for pair, wire in self.wires.items() if set(pair) & set(names))

    def _all_clients(self) -> Iterator[Wire]:
        return (wire for wires in self._clients.values() for wire in wires.values())

    async def _leaders(self) -> list[str]:
        """Who leads the journal, as each server that runs sees it; those that do not know say nothing."""
        ports = [
            node.client for node in self.fleet.nodes if self.fleet.servers[node.name].is_running
        ]
        return await asyncio.gather(*(self._leader_by(port) for port in ports))

    async def _leader_by(self, port: int) -> str:
        import nats  # noqa: PLC0415 - of an extra
        from nats.errors import Error  # noqa: PLC0415

        async def ignore(_error: Exception) -> None:
            pass

        try:
            client = await nats.connect(
                f"nats://{LOOPBACK}:{port}",
                nkeys_seed=str(self.fleet.operator_seed),
                allow_reconnect=False,
                connect_timeout=_ASK_S,
                error_cb=ignore,
            )
        except (Error, OSError, TimeoutError):
            return ""
        asked = f"$JS.API.STREAM.INFO.{Subjects(self.fleet.swarm).stream}"
        try:
            said = json.loads((await client.request(asked, b"", timeout=_ASK_S)).data)
        except (Error, OSError, TimeoutError):
            return ""
        finally:
            await client.close()
        return str((said.get("cluster") or {}).get("leader") or self.names[0] * ("config" in said))


@contextlib.contextmanager
def paused(pid: int) -> Generator[None]:
    """A process stands still for the block, as one that is swapped out, or whose machine hangs.

    Its clocks go on: a lease that it held may have run out when it wakes, and it has not noticed.
    """
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def corrupt(path: Path, rng: random.Random, *, size: int = 1) -> int:
    """Change bytes of a file in a random place, as a failing disk does; where.

    Args:
        path: Of a server that does not run, or it may be overwritten.
        rng: Chooses the place, and what is there afterwards.
        size: How many bytes.
    """
    data = path.read_bytes()
    if len(data) < size:
        raise InvalidInputError(f"{path} has {len(data)} bytes, not {size}")
    place = rng.randrange(len(data) - size + 1)
    changed = bytes(byte ^ rng.randrange(1, 256) for byte in data[place : place + size])
    with path.open("r+b") as file:
        file.seek(place)
        file.write(changed)
    return place
