"""Hosts in network namespaces: packets are lost as told, nothing else is touched, and nothing is left."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nt_memory.errors import InvalidInputError, UnsupportedError
from nt_memory.testing import netns
from nt_memory.testing.netns import Host, Network, refusal
from nt_memory.testing.wires import LOOPBACK, Wires

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PORT = 4000
DEADLINE_S = 60.0
CAPABILITIES_V3 = 0x20080522
linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="network namespaces are Linux's"
)


@pytest.fixture
def network() -> Iterator[Network]:
    """Two hosts, where the machine and the user have such."""
    if reason := refusal():
        pytest.skip(reason)
    with Network(["one", "two"]) as made:
        yield made


def aside(call: Callable[[], Any]) -> Any:
    """Call on a thread of its own, which may change what it may and where it is."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()


def on(host: Host, make: Callable[[], Any]) -> Any:
    """What is made on a host: a socket stays of its namespace."""

    def enter_and_make() -> Any:
        host.enter()
        return make()

    return aside(enter_and_make)


class Mail:
    """A socket for datagrams on each host."""

    def __init__(self, network: Network) -> None:
        self.hosts = network.hosts
        self.boxes = {name: on(host, lambda host=host: self._open(host)) for name, host in self.hosts.items()}  # fmt: skip

    def _open(self, host: Host) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((host.address, PORT))
        made.settimeout(DEADLINE_S)
        return made

    def send(self, sender: str, receiver: str, *texts: str) -> None:
        for text in texts:
            self.boxes[sender].sendto(text.encode(), (self.hosts[receiver].address, PORT))

    def until(self, receiver: str, last: str) -> list[str]:
        """What came, up to what is last in its sender's order."""
        came: list[str] = []
        while not came or came[-1] != last:
            came.append(self.boxes[receiver].recv(100).decode())
        return came

    def close(self) -> None:
        for box in self.boxes.values():
            box.close()


@pytest.fixture
def mail(network: Network) -> Iterator[Mail]:
    """Datagrams between the hosts; what is sent has come once a later one has."""
    made = Mail(network)
    yield made
    made.close()


def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition; only a failure reaches the deadline."""
    waiting = threading.Event()
    for _ in range(int(DEADLINE_S / 0.01)):
        if holds():
            return
        waiting.wait(0.01)
    raise AssertionError("it did not come about")


# --- what is lost -------------------------------------------------------------------------------


def test_packets_are_lost_one_way(network: Network, mail: Mail) -> None:
    """What one host sends another is lost, and neither is told; the other way arrives, and after mending
    both do, without what was lost.
    """
    network.lose("one", "two")
    mail.send("one", "two", "lost")
    mail.send("two", "one", "heard")
    assert mail.until("one", "heard") == ["heard"]
    network.lose("one", "two")  # said twice, it is undone once
    mail.send("one", "two", "lost too")
    network.mend()
    mail.send("one", "two", "arrives")
    assert mail.until("two", "arrives") == ["arrives"]


def test_hosts_are_parted_both_ways(network: Network, mail: Mail) -> None:
    """Parted hosts hear nothing of each other; a share of 0 mends one way of it."""
    network.part(["one"], ["two"])
    mail.send("one", "two", "lost")
    mail.send("two", "one", "lost")
    network.lose("one", "two", 0.0)
    mail.send("one", "two", "first")
    assert mail.until("two", "first") == ["first"]
    mail.send("two", "one", "lost as well")
    network.mend()
    mail.send("two", "one", "last")
    assert mail.until("one", "last") == ["last"]


def test_a_share_of_packets_is_lost(network: Network, mail: Mail) -> None:
    """Of a thousand packets about as many are lost as was asked for, and the others come in their order."""
    for share, least, most in ((0.3, 600, 800), (0.8, 100, 300)):
        network.lose("one", "two", share)
        numbers = list(map(str, range(1000)))
        came = []
        for start in range(0, 1000, 50):  # what a socket holds is less than a thousand
            mail.send("one", "two", *numbers[start : start + 50])
            network.lose("one", "two", 0.0)
            mail.send("one", "two", "mark")
            came += mail.until("two", "mark")[:-1]
            network.lose("one", "two", share)
        assert least < len(came) < most
        assert came == sorted(came, key=int)
        assert {int(each) // 250 for each in came} == {0, 1, 2, 3}


def test_what_a_network_refuses(network: Network) -> None:
    """Hosts that are none, a share that is none, names twice, and calls when it is closed."""
    for one, other in (("one", "three"), ("three", "one"), ("one", "one")):
        with pytest.raises(InvalidInputError, match="two of the hosts"):
            network.lose(one, other)
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(InvalidInputError, match="from 0 to 1"):
            network.lose("one", "two", share)
    for names in ([], ["one", "one"], list(map(str, range(netns.MOST_HOSTS + 1)))):
        with pytest.raises(InvalidInputError, match="different names"):
            Network(names)
    network.close()
    network.close()
    with pytest.raises(InvalidInputError, match="closed"):
        network.lose("one", "two")


# --- what is not touched ------------------------------------------------------------------------


def test_the_machine_is_left_as_it_is(network: Network) -> None:
    """No interface, route or named namespace is made outside; inside there is only the network, on which
    two networks may have the same addresses.
    """

    def seen() -> list[str]:
        names = [line.split(":")[0].strip() for line in Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]]  # fmt: skip
        return sorted(names)

    def named() -> list[str]:
        return sorted(path.name for path in Path("/run/netns").glob("*"))

    assert on(network.hosts["one"], seen) == ["eth0", "lo"]
    before = seen(), named(), Path("/proc/net/route").read_text()
    with Network(["one", "two"]) as again:
        assert (seen(), named(), Path("/proc/net/route").read_text()) == before
        assert again.hosts["one"].address == network.hosts["one"].address
        assert not any(name.startswith(("port", "bridge")) for name in seen())


def test_wires_lead_to_a_host(network: Network) -> None:
    """A port on this machine's loopback leads to what listens on a host, and only such a port does."""
    address = network.hosts["two"].address
    listening = on(network.hosts["two"], lambda: socket.create_server((address, PORT)))
    listening.settimeout(DEADLINE_S)
    board = Wires(network.hosts["one"].enter)
    try:
        wire = board.lead(PORT, host=address)
        with socket.create_connection((LOOPBACK, wire.port), timeout=DEADLINE_S) as asking:
            answering, (whence, _) = listening.accept()
            with answering:
                answering.sendall(b"here")
                assert asking.recv(4) == b"here"
                assert whence == network.hosts["one"].address
    finally:
        board.close()
        listening.close()


def test_wires_say_that_they_cannot_enter(network: Network) -> None:
    """Where the network is closed, its wires are refused at once instead of leading elsewhere."""
    network.close()
    threads = threading.active_count()
    with pytest.raises(OSError, match="setns"):
        Wires(network.hosts["one"].enter)
    until(lambda: threading.active_count() <= threads)


# --- what is left -------------------------------------------------------------------------------

HELD = """
import os, subprocess, sys
from nt_memory.testing.netns import Network
network = Network(["one", "two"])
running = subprocess.Popen(network.hosts["one"].command("sleep", "1000"))
held = [os.fstat(number).st_ino for number in network._held]
print(running.pid, *held, flush=True)
sys.stdin.read()
"""


def test_nothing_is_left_after_kill_9(network: Network) -> None:
    """When whoever made a network is killed, what ran on its hosts ends, and no process holds them."""
    with subprocess.Popen(
        [sys.executable, "-c", HELD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as maker:
        assert maker.stdout is not None
        pid, *inodes = map(int, maker.stdout.readline().split())
        until(lambda: is_running(pid, "sleep"))
        assert len(inodes) == 3
        assert holders(inodes) >= {pid, maker.pid}
        maker.send_signal(signal.SIGKILL)
    until(lambda: not is_running(pid, "sleep"))
    until(lambda: not holders(inodes))


def test_a_program_does_not_outlive_a_parent_that_has_ended(network: Network) -> None:
    """Who started it may be killed before the kernel is told that it belongs together: it does not run."""
    command = network.hosts["one"].command("echo", "ran")
    parent = command.index(str(os.getpid()))
    command[parent] = str(
        os.getppid()
    )  # as it looks from the child's side: its parent is another one
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode != 0
    assert done.stdout == ""
    assert "has ended" in done.stderr


def is_running(pid: int, name: str) -> bool:
    """Whether a process is what it was to become, and has not ended; nobody may have buried it yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return f"({name})" in state and state.rpartition(")")[2].split()[0] not in {"Z", "X"}


def holders(inodes: list[int]) -> set[int]:
    """Pids of processes that run in one of the namespaces, or have it open."""
    wanted = {f"net:[{inode}]" for inode in inodes}
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = [process / "ns/net", *(process / "fd").iterdir()]
        except OSError:
            continue
        for link in links:
            try:
                if str(link.readlink()) in wanted:
                    found.add(int(process.name))
            except OSError:  # closed, or ended, meanwhile
                continue
    return found


# --- where there are none -----------------------------------------------------------------------


@linux
def test_without_the_right_it_is_refused() -> None:
    """Who may not make namespaces is told so, and what would help; the check says the same, and tests
    skip by it.
    """

    def refused() -> tuple[str, str]:
        give_up_capabilities()
        with pytest.raises(UnsupportedError) as caught:
            Network(["one"])
        return str(caught.value), refusal()

    said, reason = aside(refused)
    assert said == reason
    assert "CAP_SYS_ADMIN" in said
    assert "unshare --user" in said


@linux
def test_without_iproute2_it_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where a program is missing, the refusal says which, and what installs it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(netns, "_SBIN", str(tmp_path))
    assert refusal() == "no ip on PATH: apt-get install iproute2"
    (tmp_path / "ip").symlink_to("/bin/true")
    assert refusal() == "no tc on PATH: apt-get install iproute2"


def test_on_another_system_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere than on Linux nothing is tried."""
    monkeypatch.setattr(sys, "platform", "darwin")
    assert refusal() == "network namespaces are Linux's, and this is darwin"


def test_what_the_kernel_lacks_is_said(network: Network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    """What `tc` says of a filter that the kernel does not know comes with what is needed, and what was
    made until then is given back.
    """
    (tmp_path / "tc").write_text("#!/bin/sh\necho 'Error: TC classifier not found.' >&2\nexit 2\n")
    (tmp_path / "tc").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    opened = len(list(Path("/proc/self/fd").iterdir()))
    assert "TC classifier not found" in refusal()
    assert "NET_CLS_BPF" in refusal()
    assert len(list(Path("/proc/self/fd").iterdir())) <= opened


def give_up_capabilities() -> None:
    """Of the calling thread, and of those that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_V3, 0)
    assert libc.capset(header, (ctypes.c_uint32 * 6)()) == 0
