"""Commands beside a process that writes: reading goes on, writing says who is in the way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from nt_memory import MemorySystem

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from nt_memory import SyncMemory


@pytest.fixture
def writer(own: Path) -> Generator[SyncMemory]:
    """This process has the store open for writing."""
    with MemorySystem.open_sync(own) as memory:
        yield memory


def test_reading_works_beside_a_writer_and_writing_names_it(cli, own, writer, tmp_path):
    """Exit code 3 at once, with the process, its name and what to do; nothing is changed."""
    writer.put("desk_1", "fresh", 1)
    assert cli("get", "desk_1", "fresh", store=own).out == "1\n"
    (counted,) = cli.documents("stats", store=own)
    assert counted.writer == os.getpid()
    revision = writer.revision
    own_advice = {
        "put": (("desk_1", "fresh", "2"), "--wait SECONDS"),
        "repair": ((), "stop it first"),
        "compact": ((), "memory.compact()"),
        "snapshot": ((tmp_path / "copy",), "nt-memory export works beside it"),
        "lock": (("book", "--timeout", "0", "--", "true"), "nt-memory lock"),
    }
    for command, (arguments, advice) in own_advice.items():
        said = cli(command, *arguments, store=own)
        assert (said.code, said.out) == (3, ""), command
        assert f"process {os.getpid()} on" in said.err
        assert f"({_own_name()})" in said.err
        assert advice in said.err
        assert said.err.count("\n") == 1
    assert writer.revision == revision
    exported = cli("export", tmp_path / "e.jsonl", store=own)
    assert exported.code == 0
    assert cli("verify", store=own).code == 0


def _own_name() -> str:
    with open("/proc/self/comm") as file:  # noqa: PTH123 - one line of /proc
        return file.read().strip()


def test_a_writer_is_waited_for(cli, own, writer):
    """`--wait`: the write happens once the other process has closed the store."""
    waiting = cli.start("put", "desk_1", "late", "1", "--wait", "30", store=own)
    while not cli("stats", store=own).out:  # some time for it to find the store in use
        pass
    assert waiting.poll() is None
    writer.close()
    out, err = waiting.communicate(timeout=30)
    assert (waiting.returncode, err) == (0, "")
    assert int(out) > 0


def test_changes_and_entries_are_seen_as_they_come(cli, own, writer):
    """`watch` and `tail -f` follow the other process, one line for each, without a delay to fill."""
    watching = cli.start("watch", "desk_1", "live/", "--limit", 3, "--json", store=own)
    tailing = cli.start("tail", "-f", "-n", 1, "--json", store=own)
    assert json.loads(tailing.stdout.readline())["revision"] == writer.revision
    # It watches from the moment it is open, which only what it prints can tell.
    seen: list[dict[str, object]] = []
    reader = threading.Thread(
        target=lambda: seen.extend(json.loads(line) for line in watching.stdout)
    )
    reader.start()
    n = 0
    while reader.is_alive():
        writer.put("desk_1", f"live/{n}", n)
        n += 1
        assert json.loads(tailing.stdout.readline())["changes"][0]["key"] == f"live/{n - 1}"
        reader.join(0.02)
    first = seen[0]["record"]["value"]
    assert [one["record"]["value"] for one in seen] == [first, first + 1, first + 2]
    assert watching.wait(10) == 0
    tailing.send_signal(signal.SIGINT)
    assert tailing.wait(10) == 130
    assert tailing.stderr.read() == ""


def test_a_decision_of_another_process_is_waited_for(cli, own, writer):
    """`proposals --decided` ends once the vote falls there; in words and with exit code 0."""
    from nt_memory import Vote

    waiting = cli.start("proposals", "open-1", "--decided", "--timeout", 30, store=own)
    while not cli("stats", store=own).out:
        pass
    assert waiting.poll() is None
    writer.consensus.vote(Vote("open-1", "desk_2", True))
    out, _ = waiting.communicate(timeout=30)
    assert waiting.returncode == 0
    assert out.splitlines()[0] == "open-1: approved"
    assert "  desk_2 (2): yes" in out.splitlines()


def test_counters_are_streamed_live(cli, own, writer):
    """`stats --live --json` is one document a look, each of what is there by then."""
    process = cli.start("stats", "--live", "--json", "--interval", "0.05", store=own)
    rare = cli.start("stats", "--live", "--json", "--interval", "600", store=own)
    assert json.loads(rare.stdout.readline())["writer"] == os.getpid()  # not when a buffer is full
    first = json.loads(process.stdout.readline())
    revision = writer.put("desk_1", "live", 1)
    assert first["revision"] < revision
    while json.loads(process.stdout.readline())["revision"] < revision:
        pass
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143
    assert cli("stats", "--live", store=own).code == 2  # no terminal to draw on


def test_a_lock_is_seen_and_taken_by_another_process(cli, own):
    """Beside the holder it is seen; taking it needs the store, so the holder's process must go."""

    async def held() -> None:
        async with MemorySystem.open(own) as memory, memory.lock("book", holder="me", lease=60.0):
            found = await asyncio.to_thread(cli.documents, "lock", "book", store=own)
            assert (found[0].holder, found[0].fence > 0) == ("me", True)
            assert 0 < found[0].lease_left <= 60
            assert (await asyncio.to_thread(cli, "lock", "book", "--force", store=own)).code == 3

    asyncio.run(held())
    said = cli("lock", "book", "--force", "--reason", "nobody is there", store=own)
    assert said.code == 1  # opening the store has freed it already
    assert "nobody holds it" in said.err


def test_a_command_runs_under_a_lock(cli, own):
    """It sees the fence, its exit code is passed on, its output is its own, the lock is given back."""
    script = 'echo "$NT_LOCK_NAME $NT_LOCK_FENCE"; cat; exit 7'
    said = cli("lock", "night", "--", "sh", "-c", script, store=own, stdin="fed\n")
    name, fence = said.out.splitlines()[0].split()
    assert (said.code, name, said.out.splitlines()[1]) == (7, "night", "fed")
    (now,) = cli.documents("lock", "night", store=own)
    assert (now.holder, now.fence) == ("", 0)
    kinds = {
        one.revision: one.kind for one in cli.documents("tail", "--after", 0, "-n", 0, store=own)
    }
    assert kinds[int(fence)] == "acquire"
    assert "release" in [kind for revision, kind in kinds.items() if revision > int(fence)]
    # What was done under it is refused afterwards.
    stale = cli("put", "desk_1", "x", "1", "--fence", fence, store=own)
    assert stale.code == 10
    assert cli("lock", "n", "--", "no-such-command", store=own).code == 127
    assert cli("lock", "n", "--", "/", store=own).code == 126
    assert cli("lock", "n", "--", "sh", "-c", "kill -9 $$", store=own).code == 137


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_the_command_and_then_the_lock(cli, own, number, code):
    """It is passed on, and the lock is given back once the command has ended, not before."""
    script = f"trap 'echo got; exit {128 + number}' {int(number)}; echo ready; while :; do sleep 0.05; done"
    process = cli.start("lock", "night", "--", "sh", "-c", script, store=own)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (code, "got\n", "")
    (now,) = cli.documents("lock", "night", store=own)
    assert now.holder == ""


def test_a_command_whose_lock_is_lost_is_told_to_end(cli, own):
    """A holder that stood still past its lease comes back, ends the command and says so: 10."""
    script = (
        "trap 'echo told; exit 0' TERM; kill -STOP $PPID; sleep 0.6; kill -CONT $PPID;"
        " while :; do sleep 0.05; done"
    )
    said = cli("lock", "night", "--lease", "0.3", "--", "sh", "-c", script, store=own)
    assert (said.code, said.out) == (10, "told\n")
    assert "lock 'night' was lost" in said.err


def test_a_dashboard_is_drawn_on_a_terminal(cli, own, writer):
    """`stats --live` shows writer, revision, locks, proposals and what is written; Ctrl-C ends it."""
    import pty
    import select

    writer.put("desk_1", "shown", 1)
    with contextlib.ExitStack() as stack:
        master, slave = pty.openpty()
        stack.callback(os.close, master)
        env = {"COLUMNS": "150", "LINES": "40"}
        process = cli.start(
            "stats", "--live", "--interval", "0.1", store=own, stdin=slave, stdout=slave, env=env
        )
        os.close(slave)
        drawn = b""
        wanted = [
            f"written by process {os.getpid()}".encode(),
            b"put desk_1/shown",
            b"open-1",
            f"revision {writer.revision}".encode(),
        ]
        while not all(text in drawn for text in wanted):
            assert select.select([master], [], [], 20)[0], drawn.decode()
            drawn += os.read(master, 65_536)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # the terminal's other end is gone
            while chunk := os.read(master, 65_536):
                drawn += chunk
        assert process.wait(10) == 130
    assert b"\x1b[?1049l" in drawn  # the screen is given back
