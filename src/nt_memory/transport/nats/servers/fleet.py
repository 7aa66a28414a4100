"""One server, or three that form a cluster, on this machine and in one directory."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import signal
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nt_memory.clock import SystemClock
from nt_memory.errors import InvalidInputError, StorageError
from nt_memory.namespace import check_agent
from nt_memory.transport.nats.rights import rights_of
from nt_memory.transport.nats.servers.configuration import Account, Node, Settings, User, render
from nt_memory.transport.nats.servers.directory import ServersDirectory, write_private
from nt_memory.transport.nats.servers.keys import make_key, public_key
from nt_memory.transport.nats.servers.process import ServerProcess
from nt_memory.transport.nats.servers.program import find_program
from nt_memory.transport.nats.servers.revival import Revival
from nt_memory.transport.nats.servers.statements import are_ready, ask, leader_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from nt_memory.transport.nats.rights import Role

LOOPBACK = "127.0.0.1"
READY_S = 60.0
_SIZES = (1, 3)
_LOOK_EVERY_S = 0.1
_WATCH_EVERY_S = 1.0
_ASK_EVERY = 5  # looks


class Fleet:
    """Local servers that are started and stopped together. Names, ports and keys outlive them.

    Args:
        directory: Where all of it is kept; made when missing.
        nodes: 1, or 3 that keep every stream three times. Fixed when the directory is made.
        port: Of the first server's clients, the next for the others; 0: free ones. What was chosen
            when the directory was made stays, unless a port is given.
        swarm: Name of the account, and the swarm that agents' rights are about.
        host: Address to listen on.
        sync_always: See `configuration`.

    Raises:
        InvalidInputError: the directory's servers are another number, or of another swarm.
        ForeignStoreError: the directory holds something else.
        StoreInUseError: servers run there; `pid` says one of them.
        UnsupportedError: `nats-server` or the extra is not installed.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        nodes: int | None = None,
        port: int | None = None,
        swarm: str | None = None,
        host: str = LOOPBACK,
        sync_always: bool = True,
    ) -> None:
        self._program = find_program()
        self._place = ServersDirectory(directory)
        self._place.claim()
        try:
            chosen = self._choose(nodes, port, swarm)
            self.swarm: str = chosen["swarm"]
            self._settings = self._set(chosen, host, sync_always=sync_always)
            self.servers: dict[str, ServerProcess] = {
                node.name: self._server(node.name) for node in self._settings.nodes
            }
        except BaseException:
            self._place.let_go()
            raise

    @property
    def directory(self) -> Path:
        """Where it is kept."""
        return self._place.path

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The servers' names and ports."""
        return self._settings.nodes

    @property
    def operator_seed(self) -> Path:
        """The file by which its owner may do anything in the swarm."""
        return self._place.keys / "operator.nk"

    @property
    def url(self) -> str:
        """What nodes open, with all servers in it, and without any secret."""
        hosts = ",".join(f"{self._settings.host}:{node.client}" for node in self.nodes)
        return f"nats://{hosts}/{self.swarm}"

    @property
    def pids(self) -> list[int]:
        """Of the servers that run."""
        return [server.pid for server in self.servers.values() if server.is_running]

    def enrol(
        self, agent: str, role: Role = "node", *, publish: Iterable[str], subscribe: Iterable[str]
    ) -> Path:
        """Make credentials for an agent, or change what its earlier ones allow; the seed's file.

        Servers know them when they are started next, or `reload`ed. See `rights_of`.
        """
        rights_of(self.swarm, agent, role, publish=publish, subscribe=subscribe)  # or raise
        chosen = self._place.read() or {}
        chosen["agents"][agent] = [role, list(publish), list(subscribe)]
        seed = self._seed(agent)
        if not seed.exists():
            make_key(seed)
        self._keep(chosen)
        return seed

    def revoke(self, agent: str) -> None:
        """Have an agent's credentials count for nothing; its seed stays, and `enrol` lets it in again.

        Servers know it when they are started next, or `reload`ed: then they hang up on it.

        Raises:
            InvalidInputError: it has none.
        """
        chosen = self._place.read() or {}
        if chosen["agents"].pop(agent, None) is None:
            raise InvalidInputError(f"{self.directory} has no credentials for {agent!r}")
        self._keep(chosen)

    def reload(self) -> None:
        """Have the servers that run take their configuration anew, without waiting for it."""
        for node in self.nodes:
            if self.servers[node.name].is_running:
                self._configure(node)
                self.servers[node.name].send(signal.SIGHUP)

    def _keep(self, chosen: dict[str, Any]) -> None:
        self._place.write(chosen)
        settings = self._settings
        self._settings = replace(
            self._set(chosen, settings.host, sync_always=settings.sync_always),
            advertised=settings.advertised,
            hosts=settings.hosts,
        )

    def reach_by(self, advertised: Iterable[tuple[str, str, int]]) -> None:
        """Have servers reach each other by other ports than their own, such as proxies'.

        Servers do so when they are started next, and for as long as this object lives.

        Args:
            advertised: A server's name, another's, and where the first reaches the second.
        """
        self._settings = replace(self._settings, advertised=tuple(advertised))

    def house(self, places: Mapping[str, tuple[str, Sequence[str]]]) -> None:
        """Have servers run elsewhere on this machine, such as in network namespaces, from their next start.

        Args:
            places: By a server's name: the address that it listens on, and what stands before its
                command. This object asks it at its port on `host` still: something must lead there.
        """
        hosts = tuple((name, host) for name, (host, _) in places.items())
        self._settings = replace(self._settings, hosts=hosts)
        for name, (_, before) in places.items():
            self.servers[name].run_by(before)

    def launch(self, name: str) -> None:
        """Start one server, if it does not run, without waiting for anything."""
        if self.servers[name].is_running:
            return
        for node in self.nodes:
            if node.name == name:
                self._configure(node)
        self.servers[name].start()
        self._place.note(self.pids, owner=os.getpid())

    async def start(self, within_s: float = READY_S) -> None:
        """Start what does not run, and return when streams can be made and written.

        Raises:
            StorageError: a server ended, or they were not ready in time; says what one said last.
        """
        for node in self.nodes:
            self.launch(node.name)
        try:
            await self._ready(within_s)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop all servers, kindly at first, and give the directory back. Idempotent."""
        await asyncio.gather(*(server.stop() for server in self.servers.values()))
        self._place.let_go()

    async def watch(self, told: Callable[[str], object] = lambda _: None) -> None:
        """Wait until a server ends by itself; start those anew that have given up on a full disk.

        A server that could not write keeps no streams from then on, also when there is space again: of
        three, two would go on without anybody being told. See `Revival`.

        Args:
            told: Takes a line when a server keeps no streams any more, and when it is started anew.

        Raises:
            StorageError: one did; says which, and what it said last.
        """
        clock = SystemClock()
        revival = Revival(clock, told)
        for turn in itertools.count():
            self._check_running()
            if turn % _ASK_EVERY == 0:
                for name in revival.due(await self._ask(), self._streams):
                    await self.servers[name].stop()
                    self.launch(name)
            await clock.sleep(_WATCH_EVERY_S)

    def leave(self) -> list[int]:
        """Let them run on when this process ends; `ServersDirectory.stop_holders` stops them."""
        pids = self.pids
        self._place.note(pids)
        self._place.let_go()
        return pids

    async def meta_leader(self) -> str:
        """Name of the server that decides where streams lie; empty while there is none.

        Cost: a connection; up to a second.
        """
        answers = await self._ask()
        return next((leader for leader in map(leader_of, answers.values()) if leader), "")

    # --- what was chosen ----------------------------------------------------------------------

    def _choose(self, nodes: int | None, port: int | None, swarm: str | None) -> dict[str, Any]:
        """What is kept, or is kept from now on."""
        if nodes not in (None, *_SIZES):
            raise InvalidInputError(f"1 or 3 servers, not {nodes}: two cannot outvote one another")
        chosen: Any = self._place.read()
        if chosen is None:
            check_agent(swarm or "default")
            ports = _free_ports((nodes or 1) * 2)
            chosen = {
                "swarm": swarm or "default",
                "nodes": [
                    {"name": f"ntm-{n + 1}", "client": ports.pop(), "route": ports.pop()}
                    for n in range(nodes or 1)
                ],
                "agents": {},
            }
        found = len(chosen["nodes"])
        if nodes not in (None, found):
            raise InvalidInputError(f"{self.directory} is of {found} servers, not {nodes}")
        if swarm not in (None, chosen["swarm"]):
            raise InvalidInputError(f"{self.directory} is of swarm {chosen['swarm']}, not {swarm}")
        if port:
            for place, node in enumerate(chosen["nodes"]):
                node["client"] = port + place
        for node in chosen["nodes"]:
            _check_free(node["client"])
        self._place.write({key: value for key, value in chosen.items() if key != "format"})
        found_all: dict[str, Any] = chosen
        return found_all

    def _set(self, chosen: dict[str, Any], host: str, *, sync_always: bool) -> Settings:
        is_alone = len(chosen["nodes"]) == 1
        users = [User(self._public("operator"), None, "the operator")]
        for agent, (role, publish, subscribe) in sorted(chosen["agents"].items()):
            rights = rights_of(chosen["swarm"], agent, role, publish=publish, subscribe=subscribe)
            users.append(User(public_key(self._seed(agent)), rights, f"{role} {agent}"))
        return Settings(
            cluster=f"ntm-{chosen['swarm']}",
            host=host,
            nodes=tuple(
                Node(node["name"], node["client"], 0 if is_alone else node["route"])
                for node in chosen["nodes"]
            ),
            system=User(self._public("system"), None, "asks the servers about themselves"),
            accounts=(Account(f"swarm-{chosen['swarm']}", tuple(users)),),
            route_password=self._password(),
            sync_always=sync_always,
        )

    def _seed(self, agent: str) -> Path:
        return self._place.keys / "agents" / f"{agent}.nk"

    def _public(self, name: str) -> str:
        path = self._place.keys / f"{name}.nk"
        return public_key(path) if path.exists() else make_key(path)

    def _password(self) -> str:
        path = self.directory / "route.password"
        if not path.exists():
            write_private(path, secrets.token_urlsafe(32))
        return path.read_text()

    def _server(self, name: str) -> ServerProcess:
        home = self.directory / name
        home.mkdir(mode=0o700, exist_ok=True)
        return ServerProcess(
            self._program, home / "server.conf", home / "server.log", held=(self._place.lock_fd,)
        )

    def _configure(self, node: Node) -> None:
        home = self.directory / node.name
        streams = self._streams(node.name).absolute()
        write_private(home / "server.conf", render(self._settings, node, streams))

    def _streams(self, name: str) -> Path:
        return self.directory / name / "streams"

    # --- whether they are ready ---------------------------------------------------------------

    async def _ready(self, within_s: float) -> None:
        clock = SystemClock()
        end_ns = clock.monotonic_ns() + int(within_s * 1e9)
        while True:
            self._check_running()
            if are_ready(await self._ask(), len(self.nodes)):
                return
            if clock.monotonic_ns() > end_ns:
                said = "; ".join(name + each.last_words() for name, each in self.servers.items())
                raise StorageError(f"the servers were not ready within {within_s:g} s: {said}")
            await clock.sleep(_LOOK_EVERY_S)

    def _check_running(self) -> None:
        for name, server in self.servers.items():
            if not server.is_running:
                raise StorageError(f"server {name} ended{server.last_words()}")

    async def _ask(self) -> dict[str, dict[str, Any]]:
        return await ask(self._settings, self._place.keys / "system.nk")


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listened at a moment ago, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _check_free(port: int) -> None:
    """Refuse a port that somebody listens at: the server would say so only in its log."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise InvalidInputError(
                f"port {port} is taken ({error.strerror}); give another one"
            ) from None
