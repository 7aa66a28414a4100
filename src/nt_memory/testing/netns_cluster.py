"""A cluster whose servers are on hosts of their own, between which the kernel loses packets.

    async with NetnsCluster(directory, clients=["desk"]) as cluster:
        cluster.isolate(await cluster.leader())
        config = cluster.config("desk", storage_path=…)     # for a process that
        subprocess.Popen(cluster.command("desk", sys.executable, …))   # runs on a host of its own

Servers, and those clients that are named, each have a network namespace (`netns`); they reach each
other over a bridge, by TCP connections of their own kernel's making, with nothing of ours between. Lost
packets are sent again, later each time, and a server whose packets are lost one way hears the others
while they do not hear it. `chaos` cuts, slows and resets connections instead, and needs no rights.

Clients in this process, and tests, come by wires as in `chaos`: from a host of their own, which no
server is parted from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nt_memory.errors import InvalidInputError, UnsupportedError
from nt_memory.testing.chaos import ChaosCluster
from nt_memory.testing.netns import Network
from nt_memory.testing.wires import Wires
from nt_memory.transport.nats.servers.fleet import READY_S

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from nt_memory.testing.wires import Way, Wire
    from nt_memory.transport.nats.servers.configuration import Node

_OUTSIDE: Final = "outside"


class NetnsCluster(ChaosCluster):
    """A `ChaosCluster` that is parted by the kernel.

    Args:
        directory: Of the servers; made when missing.
        nodes: 1 or 3.
        swarm: The swarm's name.
        clients: Names of those that are to be processes on hosts of their own.

    Attributes:
        network: The hosts, by the names of servers and clients.

    Raises:
        UnsupportedError: no network namespaces can be made here; see `netns.refusal`.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        nodes: int = 3,
        swarm: str = "default",
        clients: Iterable[str] = (),
    ) -> None:
        self._hosted = tuple(clients)
        super().__init__(directory, nodes=nodes, swarm=swarm)

    def _connect(self) -> Wires:
        self.network: Network = Network([*self.names, *self._hosted, _OUTSIDE])
        hosts = self.network.hosts
        try:
            board = Wires(hosts[_OUTSIDE].enter)
            for node in self.fleet.nodes:
                # Whoever asks a server at its own port, on this machine's loopback, gets through.
                board.lead(node.client, host=hosts[node.name].address, port=node.client)
        except BaseException:
            self.network.close()
            raise
        self.fleet.house(
            {name: (hosts[name].address, hosts[name].command()) for name in self.names}
        )
        return board

    async def close(self) -> None:
        """Stop the servers and take the network down. Idempotent."""
        await super().close()
        self.network.close()

    # --- clients --------------------------------------------------------------------------------

    def url(self, client: str) -> str:
        """Where a client finds the servers: on their hosts, or, in this process, at wires of its own."""
        if client not in self._hosted:
            return super().url(client)
        servers = (f"{self.network.hosts[n.name].address}:{n.client}" for n in self.fleet.nodes)
        return f"nats://{','.join(servers)}/{self.fleet.swarm}"

    def command(self, client: str, *program: str) -> list[str]:
        """What starts a client's program on its host; see `netns.Host.command`.

        Raises:
            InvalidInputError: the client has no host.
        """
        if client not in self._hosted:
            raise InvalidInputError(f"{client!r} is none of the clients {self._hosted}")
        return self.network.hosts[client].command(*program)

    def wires_of(self, client: str) -> dict[str, Wire]:
        """Wires of a client in this process, by the servers they lead to.

        Raises:
            UnsupportedError: the client has a host, and no wires.
        """
        if client in self._hosted:
            raise UnsupportedError(
                f"between {client!r} and the servers packets are lost; nothing is reset"
            )
        return super().wires_of(client)

    def hold(self, client: str, way: Way = "both") -> None:
        """Let nothing through between a client and the servers; neither side is told.

        Args:
            client: On a host, or in this process.
            way: Of a client on a host, packets are lost that way, and with them the TCP's receipts for
                what comes the other way.
        """
        if client not in self._hosted:
            super().hold(client, way)
            return
        there = [(client, name) for name in self.names]
        back = [(name, client) for name in self.names]
        self.network.lose_all({"there": there, "back": back, "both": there + back}[way])

    # --- servers --------------------------------------------------------------------------------

    def isolate(self, name: str, *, cut: bool = False) -> None:
        """Part a server from the others: no packet comes through. Clients reach it still.

        Raises:
            UnsupportedError: `cut`: nothing is reset here.
        """
        if cut:
            raise UnsupportedError("packets are lost; connections are reset by ChaosCluster")
        self.lose(name)

    def mute(self, name: str) -> None:
        """Have the other servers hear nothing of one that hears them."""
        self.network.lose_all(self._out(name))

    def deafen(self, name: str) -> None:
        """Have one server hear nothing of the others, who hear it."""
        self.network.lose_all((other, one) for one, other in self._out(name))

    def lose(self, name: str, share: float = 1.0) -> None:
        """Have a share of the packets between a server and the others be lost, both ways."""
        out = self._out(name)
        self.network.lose_all([*out, *((other, one) for one, other in out)], share)

    def slow(self, name: str, delay_s: float) -> None:
        """Refused: not every kernel can delay packets (netem), and wires delay what connections carry.

        Raises:
            UnsupportedError: always.
        """
        del name, delay_s
        raise UnsupportedError(
            "packets are lost, not delayed; connections are slowed by ChaosCluster"
        )

    async def heal(self, within_s: float = READY_S) -> None:
        """Undo all: have all packets arrive, mend wires, wake and start servers; until they can write.

        Raises:
            StorageError: they could not, in time.
        """
        self.network.mend()
        await super().heal(within_s)

    def _out(self, name: str) -> list[tuple[str, str]]:
        (one,) = self._chosen([name])
        return [(one, other) for other in self.names if other != one]

    def _lead_to(self, node: Node) -> Wire:
        return self._board.lead(node.client, host=self.network.hosts[node.name].address)
