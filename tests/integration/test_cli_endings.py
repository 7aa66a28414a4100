"""How commands end: exit codes, pipes that close, Ctrl-C, and what Tab offers."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nt_memory import MemorySystem
from nt_memory.apps.cli.exits import Exit


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("get", "desk_1", "nothing"), 1, "desk_1 has no nothing"),
        (("delete", "desk_1", "nothing"), 1, "has no nothing"),
        (("put", "desk_1", "position", "1", "--expect", "0"), 1, "expected revision 0"),
        (("vote", "unknown", "desk_1", "yes"), 1, "no proposal"),
        (("proposals", "unknown"), 1, "no proposal"),
        (("get", "desk_1", ".."), 2, "'..'"),
        (("put", "desk_1", "k", "{"), 2, "--text"),
        (("search", "desk_1"), 2, "one of --vector, --text and --like"),
        (("search", "desk_1", "--vector", "[1]"), 2, "dimension 3, not 1"),
        (("search", "desk_1", "--like", "nothing"), 2, "has no observation nothing"),
        (("tail", "--after", "-1"), 2, "--after"),
        (("lock", "--force"), 2, "NAME"),
        (("lock", "a", "--fence", "3"), 2, "--force"),
        (("watch", "desk_1", "--timeout", "0.1"), 6, "nothing came within 0.1 s"),
        (("proposals", "open-1", "--decided", "--timeout", "0.1"), 6, "was not decided"),
        (("publish", "a//b", "1"), 2, "empty level"),
        (("get", "a", "b", "--store", "gopher://user:pass@host:1"), 2, "nats:// is wanted"),
        (("put", "desk_1", "k", "1", "--fence", "1"), 10, "fence"),
    ],
)
def test_failures_have_their_exit_codes(cli, written_to, arguments, code, message):
    """One line on stderr, nothing on stdout, and the code that the table promises."""
    said = cli(*arguments, store=written_to)
    assert (said.code, said.out) == (code, ""), said.err
    assert message in said.err
    assert said.err.count("\n") == 1 or code == 2
    assert "pass@" not in said.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("put", "desk_2", "k", "1", "--as", "guest"), 5, "guest"),
        (("get", "desk_1", "position", "--as", "guest"), 5, "guest"),
        (("publish", "a/b", "1"), 8, "nobody would get this one"),
        (("subscribe", "a/*"), 8, "tail -f all that is written"),
    ],
)
def test_failures_of_a_directory_have_theirs(cli, own, arguments, code, message):
    """What a server decides by its token, or does, and a directory by the command line, or does not."""
    said = cli(*arguments, store=own)
    assert (said.code, said.out) == (code, ""), said.err
    assert message in said.err
    assert "pass@" not in said.err


def test_stores_that_cannot_be_opened(cli, own, tmp_path):
    """7 where there is none, or another kind of thing; 4 where it is damaged; nothing is made."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    for command in (("get", "a", "b"), ("scan", "a"), ("compact",), ("verify",), ("tail",)):
        assert cli(*command, store=tmp_path / "nowhere").code == 7, command
        assert cli(*command, store=tmp_path / "other").code == 7, command
    assert not (tmp_path / "nowhere").exists()
    said = cli("get", "a", "b", store=own, env={"NT_MEMORY_TIMELINE": "backtest"})
    assert (said.code, "timeline" in said.err) == (7, True)
    assert cli("get", "a", "b", store=own, env={"NT_MEMORY_COLOUR": "red"}).code == 2
    (segment,) = (own / "journal").iterdir()
    data = bytearray(segment.read_bytes())
    data[500] ^= 1
    segment.write_bytes(data)
    said = cli("verify", store=own)
    assert (said.code, f"nt-memory repair --store {own}" in said.out) == (4, True)


def test_a_store_keeps_the_settings_it_was_made_with(cli, tmp_path):
    """A backtest is opened as one, by its path and by the environment, without saying so."""
    from nt_memory import MemoryConfig, MemorySystem

    path = tmp_path / "memory"

    async def make() -> None:
        config = MemoryConfig(storage_path=path, timeline="backtest", swarm="paper")
        async with MemorySystem.open(config):
            pass

    asyncio.run(make())
    assert cli("stats", "--store", path).code == 0
    for env in ({"NT_MEMORY_STORAGE_PATH": str(path)}, {"NT_MEMORY_URL": str(path)}):
        assert cli("stats", env=env).code == 0
    said = cli("put", "a", "k", "1", store=path, env={"NT_MEMORY_AGENT": "robot"})
    assert said.code == 1  # a backtest that was never advanced has no now
    assert "advance" in said.err


def test_a_full_disk_is_told_apart(cli, looked_at):
    """9, whether it is the export or what a command prints that does not fit."""
    for command in (("export", "-"), ("scan", "desk_1")):
        with Path("/dev/full").open("w") as full:
            said = cli(*command, store=looked_at, stdout=full)
        assert said.code == 9, command
        assert "No space left" in said.err


def test_servers_out_of_reach(cli, looked_at, tmp_path):
    """Doctor names the server without its password, and ends with 11; one that answers is well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        said = cli("doctor", "--store", f"nats://me:secret@127.0.0.1:{port}", "--json")
    checks = {one["name"]: one for one in json.loads(said.out)["checks"]}
    assert said.code == 11
    assert checks["server"]["status"] == "fail"
    assert f"nats://127.0.0.1:{port} cannot be reached" in checks["server"]["found"]
    assert "secret" not in said.out + said.err
    with socket.create_server(("127.0.0.1", 0)) as server:
        process = cli.start("doctor", "--store", f"nats://127.0.0.1:{server.getsockname()[1]}")
        taken, _ = server.accept()
        taken.sendall(b'INFO {"jetstream":true}\r\n')
        gone, _ = server.accept()
        gone.close()
        out, _ = process.communicate(timeout=30)
        taken.close()
    assert process.returncode == 0
    assert "ok\tserver\t" in out
    assert "skip\tcredentials\t" in out
    assert "skip\tcopies\t" in out


def test_doctor_finds_what_is_wrong(cli, own, tmp_path):
    """What would keep a store from working fails, with advice; a healthy machine passes."""
    (well,) = cli.documents("doctor", store=own)
    assert well.is_healthy
    names = [check.name for check in well.checks]
    assert len(names) == len(set(names)) == 18
    assert not any(path.name.startswith(".nt-memory-doctor") for path in own.iterdir())
    (tmp_path / "file").write_text("")
    for path, name in ((tmp_path / "file", "permissions"), (tmp_path, "store")):
        said = cli("doctor", "--json", store=path)
        failed = {
            one["name"]: one for one in json.loads(said.out)["checks"] if one["status"] == "fail"
        }
        assert said.code == 1
        assert failed[name]["advice"]
    ahead = own / "views" / "STATE"
    ahead.unlink()
    (found,) = cli.documents("doctor", store=own)
    assert {c.name: c.status for c in found.checks}["store"] == "warn"


def test_doctor_says_when_an_agent_outgrows_one_graph(cli, tmp_path):
    """Searches of several graphs take longer: what memory would do for one is said."""
    rows = 66_000
    vectors = np.random.default_rng(3).standard_normal((rows, 2)).astype(np.float32)

    async def observe() -> None:
        async with MemorySystem.open(tmp_path / "store") as memory:
            for first in range(0, rows, 6_000):
                part = vectors[first : first + 6_000]
                await memory.observe_many("agent_1", part, [None] * len(part))

    asyncio.run(observe())
    found = {}
    for budget in (1 << 30, 1 << 20):
        cli.environment["NT_MEMORY_MAX_MEMORY_BYTES"] = str(budget)
        (said,) = cli.documents("doctor", store=tmp_path / "store")
        found[budget] = {check.name: check for check in said.checks}["embeddings"]
    assert found[1 << 30].status == "ok"
    few = found[1 << 20]
    assert few.status == "warn"
    assert "66,000 in one" in few.found
    assert "a graph holds 65,536" in few.found
    needed = int(few.advice.split("=")[1].split()[0])
    cli.environment["NT_MEMORY_MAX_MEMORY_BYTES"] = str(needed)
    (said,) = cli.documents("doctor", store=tmp_path / "store")
    assert {check.name: check for check in said.checks}["embeddings"].status == "ok"


def test_a_reader_that_goes_away_is_no_error(cli, written_to):
    """`| head -1`: silent, with the code of SIGPIPE, also while more is being written."""
    command = f"{sys.executable} -m nt_memory.apps.cli.main"
    script = f"set -o pipefail; {command} tail -n 1000 --json -f | head -1; exit $?"
    done = subprocess.run(
        ["bash", "-c", script],
        env={**cli.environment, "NT_MEMORY_URL": str(written_to)},
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert (done.returncode, done.stderr) == (Exit.PIPE, "")
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("feed", [("tail", "-f"), ("watch", "desk_1")])
def test_a_feed_notices_that_nobody_reads(cli, read_from, feed):
    """A quiet store sends no line that could fail: the command ends all the same, silently."""
    process = cli.start(*feed, "--json", store=read_from)
    if feed[0] == "tail":
        process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=20) == Exit.PIPE
    assert process.stderr.read() == ""


def test_help_into_a_closed_pipe_is_silent(cli):
    """So is `--help | head -1`."""
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m nt_memory.apps.cli.main --help | head -1"],
        env=cli.environment,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.stderr == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_feed_ends_with_a_signal(cli, read_from, number, code):
    """Silently; what was shown before is complete."""
    process = cli.start("tail", "-n", 3, "-f", "--json", store=read_from)
    lines = [process.stdout.readline() for _ in range(3)]
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (code, "", "")
    assert all(json.loads(line) for line in lines)


def complete(cli, store: Path | str, line: str) -> list[str]:
    """What bash is offered at the end of a line."""
    words = line.split(" ")
    env = {
        "_NT_MEMORY_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.argv[0] = 'nt-memory'; from nt_memory.apps.cli.main import main; main()",
        ],
        env={**cli.environment, **env, "NT_MEMORY_URL": str(store)},
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_tab_offers_commands_agents_keys_and_proposals(cli, read_from, tmp_path):
    """Of the store that is named, also by --store; where there is none it offers nothing."""
    looked_at = read_from
    assert complete(cli, looked_at, "nt-memory sc") == ["scan"]
    assert complete(cli, looked_at, "nt-memory get desk") == ["desk_1", "desk_2"]
    assert complete(cli, looked_at, "nt-memory get desk_1 seen/0") == [
        f"seen/{n:02}" for n in range(10)
    ]
    assert complete(cli, looked_at, "nt-memory get desk_1 n") == []  # deleted
    assert complete(cli, looked_at, "nt-memory vote o") == ["open-1"]
    assert complete(cli, looked_at, "nt-memory lock b") == ["book"]
    assert complete(cli, "http://127.0.0.1:1", "nt-memory get desk") == []
    assert complete(cli, tmp_path / "none", "nt-memory get desk") == []
    by_option = f"nt-memory get --store {looked_at} desk"
    assert complete(cli, tmp_path / "none", by_option) == ["desk_1", "desk_2"]


def test_help_and_completion_load_nothing_heavy(cli):
    """Neither numpy nor faiss nor LMDB nor asyncio is imported to print the help."""
    script = (
        "import sys\n"
        "from nt_memory.apps.cli.main import main\n"
        "sys.argv[1:] = ['lock', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'faiss', 'lmdb', 'asyncio', 'msgspec', 'nt_memory.system'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=cli.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Run a command under a lock" in done.stdout
    assert done.stderr == "[]\n"
