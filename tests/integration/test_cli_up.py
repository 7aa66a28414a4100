"""`nt-memory up`, `down` and `enrol`, as a user types them, with real servers."""

from __future__ import annotations

import json
import os
import signal
import stat
from typing import TYPE_CHECKING, Any

import pytest

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.apps.cli.exits import Exit

pytest.importorskip("nats")

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path, cli: Any) -> Iterator[Path]:
    """Where servers may run; what still runs is stopped."""
    place = tmp_path / "servers"
    yield place
    if place.exists():
        cli("down", "--dir", place)


def _config(said: Any, path: Path) -> MemoryConfig:
    url, _, swarm = said.url.rpartition("/")
    return MemoryConfig(url=url, swarm=swarm, nkey_file=said.nkey_file, storage_path=path)


def test_what_was_written_is_there_after_down_and_up(
    cli: Any, home: Path, tmp_path: Path, run: Any
) -> None:
    """Servers that are stopped and started over their directory keep their URL and their data."""

    async def put() -> None:
        async with MemorySystem.open(_config(first, tmp_path / "one")) as memory:
            await memory.put("a", "k", 1)

    async def get() -> object:
        async with MemorySystem.open(_config(again, tmp_path / "two")) as memory:
            await memory.sync()
            return await memory.get("a", "k")

    (first,) = cli.documents("up", "--detach", "--dir", home)
    run(put())
    (ended,) = cli.documents("down", "--dir", home)
    assert ended.pids == first.pids
    (again,) = cli.documents("up", "--detach", "--dir", home)
    assert again.url == first.url
    assert again.pids != first.pids
    assert run(get()) == 1


def test_a_directory_in_use_is_refused_by_name_of_the_process(cli: Any, home: Path) -> None:
    """A second `up` over the same directory changes nothing, and says who is there and what stops it."""
    (first,) = cli.documents("up", "--detach", "--dir", home)
    said = cli("up", "--detach", "--dir", home)
    assert said.code == Exit.IN_USE
    assert str(first.pids[0]) in said.err
    assert "nt-memory down" in said.err
    os.kill(first.pids[0], 0)


def test_three_servers_stop_with_ctrl_c(cli: Any, home: Path) -> None:
    """In the foreground Ctrl-C ends all three servers, and the command with exit code 0."""
    process = cli.start("up", "--nodes", "3", "--dir", home, "--json")
    said = json.loads(process.stdout.readline())
    assert len(said["pids"]) == 3
    assert said["url"].count(",") == 2
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0, process.stderr.read()
    for pid in said["pids"]:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_down_stops_servers_whose_owner_was_killed(cli: Any, home: Path) -> None:
    """After `kill -9` of `up` the directory is still in use, by the servers, and `down` ends them."""
    process = cli.start("up", "--dir", home, "--json")
    said = json.loads(process.stdout.readline())
    process.kill()
    process.wait(10)
    assert cli("up", "--dir", home).code == Exit.IN_USE
    (ended,) = cli.documents("down", "--dir", home)
    assert ended.pids == said["pids"]


def test_seeds_and_configurations_are_their_owners_alone(cli: Any, home: Path) -> None:
    """No other user can read a seed, the routes' password or a configuration; output has no secret."""
    cli.documents("up", "--detach", "--dir", home)
    cli.documents("down", "--dir", home)
    (made,) = cli.documents("enrol", "scout", "--dir", home)
    seed = (home / "keys" / "agents" / "scout.nk").read_text().strip()
    assert made.nkey_file.endswith("scout.nk")
    secret = [*home.glob("keys/**/*.nk"), *home.glob("*/server.conf"), home / "route.password"]
    assert len(secret) == 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}
    assert all(seed not in path.read_text() for path in home.glob("*/server.conf"))


def test_the_number_of_servers_is_kept(cli: Any, home: Path) -> None:
    """One server's directory is not made a cluster's, whose streams it could not take over."""
    cli.documents("up", "--detach", "--dir", home)
    cli.documents("down", "--dir", home)
    said = cli("up", "--nodes", "3", "--dir", home)
    assert said.code == Exit.USAGE
    assert "is of 1 servers, not 3" in said.err


def test_a_missing_program_says_what_installs_it(cli: Any, home: Path, tmp_path: Path) -> None:
    """Without `nats-server` the error names the command that brings it."""
    from nt_memory.errors import UnsupportedError
    from nt_memory.transport.nats.servers.program import find_program

    with pytest.raises(UnsupportedError, match=r"pip install 'nt-memory\[cluster\]'"):
        find_program("nats-server-that-is-nowhere")


def test_a_snapshot_of_a_cluster_is_what_new_nodes_begin_with(
    cli: Any, home: Path, tmp_path: Path, run: Any
) -> None:
    """`snapshot` without a target, over a cluster, shares one and trims; an agent may not, and the
    server's refusal is what the command says.
    """

    async def put() -> int:
        async with MemorySystem.open(_config(said, tmp_path / "one")) as memory:
            for i in range(50):
                await memory.put("a", f"k/{i}", i)
            return memory.revision

    async def look() -> tuple[object, int]:
        async with MemorySystem.open(_config(said, tmp_path / "new")) as memory:
            return await memory.get("a", "k/49"), memory._engine.opened.reader.oldest_sequence

    cli.documents("up", "--detach", "--dir", home)
    cli.documents("down", "--dir", home)
    (scout,) = cli.documents("enrol", "scout", "--dir", home)
    (said,) = cli.documents("up", "--detach", "--dir", home)
    revision = run(put())
    operator = {"NT_MEMORY_STORAGE_PATH": tmp_path / "cli", "NT_MEMORY_NKEY_FILE": said.nkey_file}
    (first,) = cli.documents("snapshot", "--store", said.url, env=operator)
    assert first.revision == revision
    assert (first.path, first.dropped) == (None, 0)
    assert first.trimmed >= 50
    (second,) = cli.documents("snapshot", "--store", said.url, "--keep", "1", env=operator)
    assert second.dropped == 1
    value, oldest = run(look())
    assert value == 49
    assert oldest > 50
    agent = {**operator, "NT_MEMORY_NKEY_FILE": scout.nkey_file, "NT_MEMORY_AGENT": "scout"}
    refused = cli("snapshot", "--store", said.url, env=agent)
    assert refused.code == Exit.DENIED
    assert "do not let this node" in refused.err
    for arguments in (("snapshot",), ("snapshot", tmp_path / "x", "--keep", "2")):
        assert cli(*arguments, "--store", tmp_path / "one").code == Exit.USAGE
