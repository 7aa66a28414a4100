"""Hosts on a network of their own, which loses packets as it is told: Linux network namespaces.

    with Network(["one", "two"]) as network:
        subprocess.Popen(network.hosts["one"].command("nats-server", "-a", network.hosts["one"].address))
        network.lose("one", "two")          # what one sends, two does not get; what two sends arrives
        network.lose("one", "two", 0.3)     # three packets in ten
        network.mend()

Each host is a namespace with a loopback and one interface, and its interface is a port of one bridge, in a
namespace that has nothing else. Packets are dropped by the kernel as they leave the bridge, by a filter on
whose they are and, for a share of them, on chance; neither side is told. (At the sender's own interface the
kernel would tell the sender's TCP.) Hosts know each other's Ethernet addresses from the start: if they
had to ask (ARP), a host whose answers are lost would not be sent anything either.

*Where*: Linux with iproute2, and a process that may make namespaces: root, or who has been made root of a
user namespace. `refusal` says what is missing.

*Of this machine nothing is changed.* No interface, route or name is made outside of the namespaces, and
nothing leads from them to it, so that addresses cannot collide, and servers inside are reached from
inside only, and by `wires` that were laid there. The namespaces have no names: they are held by open files of this process and by what runs in
them, and what `Host.command` starts is killed with its parent. After `kill -9` of it nothing is left.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeVar

from nt_memory.errors import InvalidInputError, UnsupportedError
from nt_memory.testing import entering

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Result = TypeVar("Result")

MOST_HOSTS: Final = 100
_PORT_LOOKS: Final = 1_000
_PORT_LOOK_S: Final = 0.005
_SBIN: Final = "/usr/sbin:/sbin"
"""Where iproute2 is, also if a user's PATH does not say so."""
_NETWORK: Final = "10.0.0"
_RANDOM: Final = 0xFFFFF000 + 56
"""SKF_AD_OFF + SKF_AD_RANDOM of linux/filter.h: loading from there gives 32 random bits."""
_DROP: Final = 2
_PASS: Final = 0xFFFFFFFF
"""TC_ACT_SHOT, and TC_ACT_UNSPEC: what other filters say."""


class Host:
    """A network namespace, and its place on the network; made by `Network`.

    Attributes:
        name: As the network knows it.
        address: Its IPv4 address, at which the other hosts reach it.
        number: Its place on the bridge.
        namespace: The file that holds it, while the network is open.
    """

    def __init__(self, name: str, number: int, namespace: int) -> None:
        self.name: str = name
        self.address: str = f"{_NETWORK}.{number}"
        self.number: int = number
        self.namespace: int = namespace

    def command(self, *program: str) -> list[str]:
        """What starts a program on this host: to be given to `subprocess`, on a thread that lives on.

        The process that is started becomes the program, with the same pid. It is killed when the
        thread that started it ends, so also with this process. Without a program, what is to stand
        before one.

        Cost: 20 ms for a Python that does nothing else.
        """
        script = str(Path(entering.__file__))
        held = f"/proc/{os.getpid()}/fd/{self.namespace}"
        return [sys.executable, "-I", "-S", script, str(os.getpid()), held, *program]

    def enter(self) -> None:
        """Move the calling thread to this host for good: sockets that it makes are of this host.

        Raises:
            OSError: this process may not, or the network is closed.
        """
        entering.enter(self.namespace)


class Network:
    """Hosts that reach each other, until they do not. Closed by `close`, or with this process.

    Args:
        names: Of the hosts, all different, at most `MOST_HOSTS`.

    Attributes:
        hosts: By their names.

    Raises:
        UnsupportedError: this machine, or this user, has no network namespaces; says what is missing.
        InvalidInputError: names are not as above.

    Cost: 5 ms a host.
    """

    def __init__(self, names: Iterable[str]) -> None:
        chosen = list(names)
        if not 1 <= len(chosen) <= MOST_HOSTS or len(set(chosen)) < len(chosen):
            raise InvalidInputError(f"1 to {MOST_HOSTS} different names of hosts, not {chosen}")
        _check_programs()
        self._held: list[int] = []
        self._losing: set[tuple[str, str]] = set()
        self.hosts: dict[str, Host] = {}
        try:
            self._bridge = self._hold()
            for number, name in enumerate(chosen, start=1):
                self.hosts[name] = Host(name, number, self._hold())
            self._join()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it: what still runs on a host is alone from now on. Idempotent."""
        while self._held:
            os.close(self._held.pop())

    def lose(self, sender: str, receiver: str, share: float = 1.0) -> None:
        """From now on, packets that one host sends another are lost; the other way is as it was.

        Args:
            sender: Name of a host.
            receiver: Of another.
            share: Of the packets, whichever was asked for before; chosen by the kernel's own chance, which
                no seed repeats. 0 mends this way.

        Raises:
            InvalidInputError: there is no such host, or the share is not in [0, 1].
            UnsupportedError: the kernel has no such filters.

        Cost: 5 ms.
        """
        self.lose_all([(sender, receiver)], share)

    def lose_all(self, ways: Iterable[tuple[str, str]], share: float = 1.0) -> None:
        """Have packets lost on several ways, each from a sender to a receiver, within a few ms; see `lose`."""
        pairs = set(ways)
        if not 0.0 <= share <= 1.0:
            raise InvalidInputError(f"a share is from 0 to 1, not {share}")
        for pair in pairs:
            if pair[0] == pair[1] or not set(pair) <= self.hosts.keys():
                raise InvalidInputError(f"two of the hosts {list(self.hosts)}, not {pair}")
        # Most of the time no filter is there to be deleted, so it is known which are.
        stale = pairs & self._losing
        lines = [f"filter del {self._place(pair)}" for pair in stale]
        if share > 0.0:
            lines += [
                f"filter add {self._place(pair)} bpf da bytecode '{self._program(pair[0], share)}'"
                for pair in pairs
            ]
        self._run(self._bridge, "tc", lines)
        self._losing -= pairs
        self._losing |= pairs if share > 0.0 else set()

    def part(self, ones: Iterable[str], others: Iterable[str]) -> None:
        """Lose all packets between the ones and the others, both ways. Nobody is told."""
        between = list(itertools.product(ones, others))
        self.lose_all([*between, *((other, one) for one, other in between)])

    def mend(self) -> None:
        """Have all packets arrive again."""
        self.lose_all(list(self._losing), 0.0)

    # --- how it is made -------------------------------------------------------------------------

    def _hold(self) -> int:
        """A new namespace; the file that holds it."""
        try:
            held = _aside(entering.leave)
        except OSError as error:
            if error.errno != errno.EPERM:
                raise UnsupportedError(f"the kernel makes no network namespace: {error}") from None
            raise UnsupportedError(
                "network namespaces need root (CAP_SYS_ADMIN): run as root, or in a user namespace: "
                "unshare --user --map-root-user --net sh -c 'ip link set lo up; …'"
            ) from None
        self._held.append(held)
        return held

    def _join(self) -> None:
        """Give every host an interface, whose other end is a port of the bridge."""
        lines = ["link set lo up", "link add bridge type bridge mcast_snooping 0"]
        for host in self.hosts.values():
            where = f"/proc/{os.getpid()}/fd/{host.namespace}"
            lines += [
                f"link add {_port(host)} type veth peer name eth0 address {_mac(host)} netns {where}",
                f"link set {_port(host)} master bridge up",
            ]
        self._run(self._bridge, "ip", [*lines, "link set bridge up"])
        self._run(
            self._bridge, "tc",
            [f"qdisc add dev {_port(host)} clsact" for host in self.hosts.values()],
        )  # fmt: skip
        for host in self.hosts.values():
            up = ["link set lo up", f"addr add {host.address}/24 dev eth0", "link set eth0 up"]
            known = (
                f"neigh add {other.address} lladdr {_mac(other)} dev eth0 nud permanent"
                for other in self.hosts.values()
                if other is not host
            )
            self._run(host.namespace, "ip", [*up, *known])
        self._wait_for_ports()

    def _wait_for_ports(self) -> None:
        """A port lets nothing through until the kernel has seen that the other end is up."""
        waiting, shown = threading.Event(), ""
        for _ in range(_PORT_LOOKS):
            shown = self._run(
                self._bridge, "ip", ["link show master bridge"], "-details", "-oneline"
            )
            if shown.count("state forwarding") >= len(self.hosts):
                return
            waiting.wait(_PORT_LOOK_S)
        raise UnsupportedError(f"ports of the bridge let nothing through: {shown}")

    def _place(self, pair: tuple[str, str]) -> str:
        """Where the filter of a way is: at the receiver's port of the bridge, one for each sender."""
        sender, receiver = (self.hosts[name] for name in pair)
        return f"dev {_port(receiver)} egress protocol all pref {sender.number}"

    def _program(self, sender: str, share: float) -> str:
        """Classic BPF, as tc reads it: drop a share of what comes from a host's Ethernet address."""
        of_sender = int(_mac(self.hosts[sender]).replace(":", "")[-8:], 16)
        below = min(round(share * 2**32), 2**32 - 1)
        # ld rand; jge → pass
        chance = [f"32 0 0 {_RANDOM}", f"53 1 0 {below}"] if share < 1.0 else []
        code = [
            "32 0 0 8",  # ld [8]: the last four bytes of the sender's address
            f"21 0 {len(chance) + 1} {of_sender}",  # jeq, else → pass
            *chance,
            f"6 0 0 {_DROP}",
            f"6 0 0 {_PASS}",
        ]
        return ",".join([str(len(code)), *code])

    def _run(self, namespace: int, tool: str, lines: list[str], *options: str) -> str:
        """Have `ip` or `tc` do all that is in the lines, in a namespace; what it says."""
        if not self._held:
            raise InvalidInputError("the network is closed")
        if not lines:
            return ""

        def run() -> subprocess.CompletedProcess[str]:
            entering.enter(namespace)
            return subprocess.run(  # noqa: S603 - a program that was looked up by name
                [_find(tool), *options, "-batch", "-"],
                input="\n".join(lines) + "\n", capture_output=True, text=True, check=False,
            )  # fmt: skip

        done = _aside(run)
        if done.returncode != 0:
            raise UnsupportedError(
                f"{tool}: {' '.join(done.stderr.split())}; needed of the kernel: veth, bridge, "
                "NET_SCH_INGRESS, NET_CLS_BPF"
            )
        return done.stdout


def refusal() -> str:
    """Why this process can have no `Network`; empty if it can. Tries it.

    Cost: 20 ms.
    """
    try:
        with contextlib.closing(Network(["one", "two"])) as trial:
            trial.lose("one", "two", 0.5)
    except UnsupportedError as error:
        return str(error)
    return ""


def _check_programs() -> None:
    if not sys.platform.startswith("linux"):
        raise UnsupportedError(f"network namespaces are Linux's, and this is {sys.platform}")
    for tool in ("ip", "tc"):
        _find(tool)


def _find(tool: str) -> str:
    found = shutil.which(tool) or shutil.which(tool, path=_SBIN)
    if found is None:
        raise UnsupportedError(f"no {tool} on PATH: apt-get install iproute2")
    return found


def _aside(call: Callable[[], Result]) -> Result:
    """Call on a thread that ends then: it may have gone to another namespace."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()


def _port(host: Host) -> str:
    return f"port{host.number}"


def _mac(host: Host) -> str:
    """Locally administered, and ending with the IPv4 address."""
    return "02:00:" + ":".join(f"{int(byte):02x}" for byte in host.address.split("."))
