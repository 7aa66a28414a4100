"""`nt-memory up`, `down` and `enrol`, as a user types them, with real servers."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import stat
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.apps.cli.exits import Exit
from nt_memory.transport.nats.subjects import Subjects

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


def test_a_cluster_that_asks_for_keys_is_served_over_http(
    cli: Any, home: Path, tmp_path: Path
) -> None:
    """`serve` over a cluster's URL takes key and place of its replica from the environment."""
    (up,) = cli.documents("up", "--detach", "--dir", home, "--swarm", "desk")
    given = {
        "NT_MEMORY_NKEY_FILE": up.nkey_file,
        "NT_MEMORY_STORAGE_PATH": str(tmp_path / "door"),
    }
    process = cli.start("serve", "--port", "0", store=up.url, env=given, cwd=tmp_path)
    try:
        url = process.stdout.readline().split()[1].rstrip(",")
        with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:  # noqa: S310 - ours
            assert answer.status == 200
        assert (tmp_path / "door.nodes").is_dir()
    finally:
        process.terminate()
        process.wait(30)


def test_what_is_printed_lets_a_shell_in(cli: Any, home: Path, tmp_path: Path) -> None:
    """The line for the shell is all that a command needs. `doctor` looks at every server, one that is gone
    included, and at the key; without it, it says what is missing.
    """
    said = cli("up", "--detach", "--nodes", "3", "--dir", home)
    lines = dict(line.split("\t", 1) for line in said.out.splitlines())
    command, _, settings = lines["shell"].partition(" ")
    assert command == "export"
    given = dict(part.split("=", 1) for part in shlex.split(settings))
    given["NT_MEMORY_STORAGE_PATH"] = str(tmp_path / "replica")
    assert given["NT_MEMORY_NKEY_FILE"] == lines["nkey file"]
    assert cli("put", "agent_1", "k", "1", store=None, env=given).code == 0
    url = given.pop("NT_MEMORY_URL")
    first = url.replace("nats://", "").partition(",")[0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        some = url.replace(first, f"127.0.0.1:{free.getsockname()[1]}")
        out = cli("doctor", store=some, env=given).out
    lost = r"^warn\tserver\t\S+ cannot be reached[^;]*(; nats://[0-9.:]+ answers){2}\t"
    assert re.search(lost, out, re.MULTILINE), out
    assert re.search(r"^ok\tcredentials\t", out, re.MULTILINE)
    assert re.search(
        r"^ok\tcopies\tall of the journal: (ntm-[123](, )?){3}\t", out, re.MULTILINE
    ), out
    del given["NT_MEMORY_NKEY_FILE"]
    failed = cli("doctor", store=url, env=given)
    assert failed.code == Exit.FAILED
    assert re.search(r"^skip\tcopies\t", failed.out, re.MULTILINE), failed.out
    assert re.search(r"^fail\tcredentials\t.*NT_MEMORY_NKEY_FILE", failed.out, re.MULTILINE)


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
    """`snapshot` without a target, over a cluster, shares one and trims; over a directory it wants one.
    `verify` reads what is shared, and says what is damaged of it.
    """

    async def put() -> int:
        async with MemorySystem.open(_config(said, tmp_path / "one")) as memory:
            for i in range(50):
                await memory.put("a", f"k/{i}", i)
            return memory.revision

    async def look() -> tuple[object, int]:
        async with MemorySystem.open(_config(said, tmp_path / "new")) as memory:
            return await memory.get("a", "k/49"), memory._engine.opened.reader.oldest_sequence

    async def lose_a_piece() -> None:
        import nats

        client = await nats.connect(said.url.rpartition("/")[0], nkeys_seed=said.nkey_file)
        try:
            subject = Subjects("default").snapshot(second.id, 0)
            await client.jetstream().purge_stream("ntm_default~snapshots", subject=subject)
        finally:
            await client.close()

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
    (checked,) = cli.documents("verify", "--store", said.url, env=operator)
    assert (checked.is_ok, checked.snapshots) == (True, [second.id])
    assert (checked.revision, checked.snapshot_bytes) == (second.revision, second.bytes)
    run(lose_a_piece())
    damaged = cli("verify", "--store", said.url, env=operator)
    assert damaged.code == Exit.DAMAGED
    assert f"DAMAGED: snapshot {second.id}: base: piece 0 of 1 is missing" in damaged.out
    assert oldest > 50
    assert cli("snapshot", "--store", tmp_path / "one").code == Exit.USAGE


def test_a_store_moves_into_a_cluster_and_back(
    cli: Any, home: Path, tmp_path: Path, run: Any
) -> None:
    """`import` into a cluster's URL begins a swarm at the store's revisions, once; `export` of that URL
    makes the store of it again.
    """
    from nt_memory import export_store, import_store

    async def put(value: int, target: Any) -> int:
        async with MemorySystem.open(target) as memory:
            return await memory.put("a", "k", value)

    async def look() -> list[tuple[object, int]]:
        async with MemorySystem.open(tmp_path / "again") as memory:
            return [(r.value, r.revision) async for r in memory.history("a", "k")]

    first, second = (run(put(value, tmp_path / "store")) for value in (1, 2))
    export_store(tmp_path / "store", tmp_path / "out.jsonl")
    (said,) = cli.documents("up", "--detach", "--dir", home)
    env = {"NT_MEMORY_STORAGE_PATH": tmp_path / "cli", "NT_MEMORY_NKEY_FILE": said.nkey_file}
    moved = ("import", tmp_path / "out.jsonl", "--store", said.url)
    (done,) = cli.documents(*moved, env=env)
    assert done.revision == second
    again = cli(*moved, env=env)
    assert again.code != 0
    assert "has begun already" in again.err
    third = run(put(3, _config(said, tmp_path / "node")))
    assert third > second
    cli.documents("export", tmp_path / "back.jsonl", "--store", said.url, env=env)
    import_store(tmp_path / "back.jsonl", tmp_path / "again")
    assert run(look()) == [(3, third), (2, second), (1, first)]
