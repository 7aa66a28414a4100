"""Commands over `nt-memory serve`: what only a server has, and what can go wrong on the way to it.

That they do what they do over a directory is shown by the tests of every command, which run over both.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from nt_memory.apps.server.settings import ServerSettings
from nt_memory.apps.server.tokens import OPERATOR, add_token

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

FILES = {
    "verify": (),
    "repair": (),
    "compact": (),
    "snapshot": ("copy",),
    "export": ("all.jsonl",),
    "import": ("all.jsonl",),
    "import agentdb": ("agentdb.db",),
    "export agentdb": ("agentdb.db",),
    "mcp": (),
    "serve": (),
}


@pytest.fixture
def url(running, own):
    """A server of a store of this test's own."""
    return running(target=own).url


@pytest.mark.parametrize("command", FILES)
def test_what_is_about_files_says_what_to_do_instead(cli, looked_at_url, tmp_path, command):
    """Nothing is made or changed, nothing is printed, and the message names a way."""
    (tmp_path / "all.jsonl").write_text("")
    before = sorted(tmp_path.iterdir())
    said = cli(*command.split(), *FILES[command], store=looked_at_url, cwd=tmp_path)
    assert (said.code, said.out) == (8, "")
    ways = ("--store", "serve that", "--mcp")
    assert any(way in said.err for way in ways), said.err
    assert sorted(tmp_path.iterdir()) == before


# --- messages and feeds -----------------------------------------------------------------------


def test_messages_go_from_command_to_command(cli, url):
    """What one publishes others print, in order and with its topic; how many it reached is said."""
    hearing = cli.start("subscribe", "desk_1/*", "--limit", 3, "--json", store=url)
    in_words = cli.start("subscribe", "**", "--limit", 3, store=url)
    # They hear once they are subscribed, which only the count of those reached can tell.
    while cli("publish", "other/begin", "0", store=url).out != "1\n":
        pass
    for n in range(100):
        (sent,) = cli.documents("publish", "desk_1/fills", json.dumps({"n": n}), store=url)
        if sent.reached == 2:
            break
    cli("publish", "desk_1/fills", '{"n": "x"}', store=url)
    cli("publish", "desk_1/book", "-", store=url, stdin="[1.5]")
    lines = [json.loads(line) for line in hearing.communicate(timeout=30)[0].splitlines()]
    assert [one["message"] for one in lines][-2:] == [{"n": "x"}, [1.5]]
    assert [one["topic"] for one in lines] == ["desk_1/fills", "desk_1/fills", "desk_1/book"]
    assert {one["dropped"] for one in lines} == {0}
    assert in_words.communicate(timeout=30)[0].splitlines()[-1].startswith(("desk_1/", "other/"))
    assert (hearing.returncode, in_words.returncode) == (0, 0)
    assert cli("subscribe", "a/*", "--timeout", 0.1, store=url).code == 6
    assert cli("publish", "a//b", "1", store=url).code == 2


def test_changes_and_entries_are_seen_as_they_come(cli, url):
    """`watch` and `tail -f` follow what others write through the server, one line for each."""
    begun = cli("put", "desk_1", "live/begin", "0", store=url).out.strip()
    watching = cli.start("watch", "desk_1", "live/", "--after", begun, "--json", store=url)
    tailing = cli.start("tail", "-f", "--after", begun, "--json", store=url)
    for n in range(3):
        revision = int(cli("put", "desk_1", f"live/{n}", str(n), store=url).out)
        for line in (watching.stdout.readline(), tailing.stdout.readline()):
            assert json.loads(line)["revision"] == revision
    for process in (watching, tailing):
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == ("", "")
        assert process.returncode == 130


def test_a_value_too_large_for_an_event_is_got_by_itself(cli, url):
    """A watcher prints it whole, and of the version that was written then, not of a later one."""
    begun = cli("put", "desk_1", "big", "0", store=url).out.strip()
    for letter in "ab":
        given = json.dumps({"text": letter * 300_000})
        assert cli("put", "desk_1", "big", "-", store=url, stdin=given).code == 0
    for command in (("watch", "desk_1", "big"), ("tail",)):
        found = cli.documents(*command, "--after", begun, "--limit", 2, store=url)
        records = (
            [one.record or one.changes[0].record for one in found]
            if command[0] == "watch"
            else [one.changes[0].record for one in found]
        )
        assert [one.value["text"] for one in records] == ["a" * 300_000, "b" * 300_000]


def test_separators_of_lines_in_a_value_do_not_tear_an_event(cli, url):
    """U+2028 and its like are text in JSON, not ends of lines."""
    begun = cli("put", "desk_1", "odd", "0", store=url).out.strip()
    odd = "a\u2028b\u0085c\x0b\x1cd\r\n\n"
    cli("put", "desk_1", "odd", "-", "--text", store=url, stdin=odd)
    (found,) = cli.documents("watch", "desk_1", "--after", begun, "--limit", 1, store=url)
    assert found.record.value == cli.documents("get", "desk_1", "odd", store=url)[0].value
    assert found.record.value.startswith("a\u2028b\u0085c\x0b\x1cd")


def test_keys_and_names_of_any_kind_arrive(url, run):
    """What a URL would take for something else is a name like any other."""
    from nt_memory import Proposal
    from nt_memory.apps.cli.remote.address import address_of
    from nt_memory.apps.cli.remote.memory import RemoteMemory

    async def main() -> None:
        memory = await RemoteMemory.open(address_of(url))
        try:
            for key in ("a/b c", "100%", "q?x=1#y", "é/ü", "%2e%2e", "a+b", "key;v=1"):
                revision = await memory.put("desk_1", key, "here")
                found = await memory.get_record("desk_1", key)
                assert (found.key, found.value, found.revision) == (key, "here", revision)
                assert [one.revision async for one in memory.history("desk_1", key)] == [revision]
            for name in ("..", "a/../b", "half?", "#1"):
                await memory.consensus.submit_proposal(Proposal("desk_1", 1, id=name))
                assert (await memory.consensus.get_proposal(name)).id == name
                assert (await memory.inspect_lock(name)).resource == name
        finally:
            await memory.close()

    run(main())


def test_more_than_a_page_is_printed_whole(cli, running, own, monkeypatch):
    """Scan and history go on where a page of the server ends, in order, nothing twice."""
    from nt_memory import MemorySystem
    from nt_memory.apps.server.routes import state

    with MemorySystem.open_sync(own) as memory:
        for n in range(40):
            memory.put("many", f"k/{n:02}", n)
            memory.put("many", "one", n)
    monkeypatch.setattr(state, "PAGE_BYTES", 100)  # a page ends after a few values
    url = running(target=own).url
    assert [one.value for one in cli.documents("scan", "many", "k/", store=url)] == list(range(40))
    found = cli.documents("history", "many", "one", store=url)
    assert [one.value for one in found] == list(range(39, -1, -1))


# --- locks ------------------------------------------------------------------------------------


def test_a_command_runs_under_a_lock_of_the_server(cli, url):
    """Its writes go through the same server, fenced; the lock is given back; exit codes are passed on."""
    program = f'"{sys.executable}" -m nt_memory.apps.cli.main'
    script = f'echo "$NT_LOCK_FENCE"; {program} put desk_1 x 7; {program} lock night; exit 7'
    said = cli("lock", "night", "--lease", 5, "--holder", "me", "--", "sh", "-c", script, store=url)
    fence, _, seen = said.out.splitlines()
    assert said.code == 7, said.err
    assert seen.startswith(f"night\tme\t{fence}\t")
    (now,) = cli.documents("lock", "night", store=url)
    assert (now.holder, now.fence) == ("", 0)
    assert cli("put", "desk_1", "x", "8", "--fence", fence, store=url).code == 10
    assert cli("get", "desk_1", "x", store=url).out == "7\n"


def test_a_lock_is_renewed_waited_for_and_taken_away(cli, url):
    """It outlives its lease while its command runs; others wait; taken away, the command is told: 10."""
    script = "echo ready; trap 'echo told; exit 0' TERM; while :; do sleep 0.05; done"
    holding = cli.start("lock", "night", "--lease", 0.6, "--", "sh", "-c", script, store=url)
    assert holding.stdout.readline() == "ready\n"
    refused = cli("lock", "night", "--timeout", 1.5, "--", "true", store=url)  # beyond the lease
    assert refused.code == 6
    (held,) = cli.documents("lock", "night", store=url)
    waiting = cli.start("lock", "night", "--timeout", 30, "--", "echo", "mine", store=url)
    while not cli.documents("lock", "night", store=url)[0].waiters:
        pass
    taken = cli("lock", "night", "--force", "--fence", held.fence, "--reason", "test", store=url)
    assert taken.code == 0
    assert waiting.communicate(timeout=30)[0] == "mine\n"
    out, err = holding.communicate(timeout=30)
    assert (holding.returncode, out) == (10, "told\n")
    assert "lock 'night' was lost" in err


def test_ctrl_c_while_waiting_for_a_lock_leaves_the_line(cli, url):
    """130, and whoever comes next gets the lock at once."""
    holding = cli.start("lock", "night", "--", "cat", store=url)
    while not cli.documents("lock", "night", store=url)[0].holder:
        pass
    waiting = cli.start("lock", "night", "--timeout", 60, "--", "true", store=url)
    while not cli.documents("lock", "night", store=url)[0].waiters:
        pass
    waiting.send_signal(signal.SIGINT)
    assert waiting.communicate(timeout=20) == ("", "")
    assert waiting.returncode == 130
    while cli.documents("lock", "night", store=url)[0].waiters:
        pass
    holding.communicate("", timeout=20)
    assert cli("lock", "night", "--", "true", store=url).code == 0


def test_a_lock_whose_server_goes_ends_its_command(cli, running, own):
    """The lease runs out unheard: the command is told, and the exit code is 10."""
    server = running(target=own)
    script = "echo ready; trap 'echo told; exit 0' TERM; while :; do sleep 0.05; done"
    holding = cli.start("lock", "night", "--lease", 1.0, "--", "sh", "-c", script, store=server.url)
    assert holding.stdout.readline() == "ready\n"
    server.stop()
    out, err = holding.communicate(timeout=30)
    assert (holding.returncode, out) == (10, "told\n"), err


# --- who asks ---------------------------------------------------------------------------------


@pytest.fixture
def guarded(running, own, tmp_path):
    """`(url, token of desk_1, token of the operator)`."""
    file = tmp_path / "tokens"
    agent, operator = add_token(file, "desk_1"), add_token(file, OPERATOR)
    return running(ServerSettings(port=0, tokens=file), target=own).url, agent, operator


def test_a_token_says_in_whose_name(cli, guarded, tmp_path):
    """From the environment, a file or the URL; without one, or beyond its rights, exit code 5."""
    url, agent, operator = guarded
    file = tmp_path / "token"
    file.write_text(f"{agent}\n")
    file.chmod(0o600)
    ways = (
        {"NT_MEMORY_TOKEN": agent},
        {"NT_MEMORY_TOKEN_FILE": str(file)},
        {"NT_MEMORY_URL": url.replace("://", f"://desk_1:{agent}@")},
    )
    for env in ways:
        said = cli("put", "desk_1", "mine", "1", store=url, env=env)
        assert said.code == 0, said.err
        assert cli("put", "desk_2", "k", "1", store=url, env=env).code == 5
    (found,) = cli.documents("get", "desk_1", "mine", store=url, env=ways[0])
    assert found.actor == "desk_1"
    assert cli("tail", store=url, env=ways[0]).code == 5
    assert cli("tail", store=url, env={"NT_MEMORY_TOKEN": operator}).code == 0
    for env in ({}, {"NT_MEMORY_TOKEN": "wrong"}):
        said = cli("get", "desk_1", "mine", store=url, env=env)
        assert (said.code, "NT_MEMORY_TOKEN" in said.err) == (5, True)
    said = cli("get", "desk_1", "mine", "--as", "desk_1", store=url, env=ways[0])
    assert (said.code, "the token says" in said.err) == (8, True)


def test_a_token_is_neither_shown_nor_sent_in_clear(cli, guarded, tmp_path):
    """Not on the command line, not in messages, not to other machines without TLS, not from a file that
    others can read."""
    url, agent, _ = guarded
    with_token = url.replace("://", f"://desk_1:{agent}@")
    shown = [cli("get", "desk_1", "k", "--store", with_token)]
    assert shown[0].code == 2
    shown.append(cli("stats", "--json", env={"NT_MEMORY_URL": with_token}))
    assert json.loads(shown[1].out)["path"] == url.replace("://", "://***@")
    shown.append(
        cli("get", "a", "b", store="http://192.0.2.1:3000", env={"NT_MEMORY_TOKEN": agent})
    )
    assert (shown[2].code, "https://" in shown[2].err) == (2, True)
    file = tmp_path / "open"
    file.write_text(agent)
    file.chmod(0o644)
    shown.append(cli("get", "a", "b", store=url, env={"NT_MEMORY_TOKEN_FILE": str(file)}))
    assert (shown[3].code, "chmod 600" in shown[3].err) == (5, True)
    closed = with_token.rpartition(":")[0] + ":1"
    shown.append(cli("get", "desk_1", "k", env={"NT_MEMORY_URL": closed}))
    assert shown[4].code == 11
    shown.append(cli("get", "a", "b", store=url, env={"NT_MEMORY_TOKEN": "two\nlines"}))
    assert shown[5].code == 2
    assert not any(agent in said.out + said.err for said in shown)


# --- the way there ----------------------------------------------------------------------------


def test_a_server_that_is_not_there_yet_is_waited_for(cli, running, own):
    """`--wait`: the write happens once the server is up; without it 11 at once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    assert cli("put", "desk_1", "late", "1", store=url).code == 11
    waiting = cli.start("put", "desk_1", "late", "1", "--wait", 30, store=url)
    running(ServerSettings(port=port), target=own)
    assert waiting.communicate(timeout=30)[1] == ""
    assert waiting.returncode == 0


def test_a_stream_that_breaks_off_says_so(cli, running, own):
    """11 once the server stops: what follows must not take the silence for peace."""
    server = running(target=own)
    watching = cli.start("watch", "desk_1", "--after", 0, store=server.url)
    assert watching.stdout.readline()
    server.stop()
    _, err = watching.communicate(timeout=30)
    assert watching.returncode == 11
    assert "ended the stream" in err or "broke" in err


def whole_request(line: socket.socket) -> bytes:
    """Head and body; empty if whoever connected has gone."""
    request = b""
    while b"\r\n\r\n" not in request:
        if not (part := line.recv(65_536)):
            return b""
        request += part
    head, _, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    while length and len(body) < int(length[1]):
        part = line.recv(65_536)
        body, request = body + part, request + part
    return request


@contextmanager
def answering(answer: Callable[[bytes, int], bytes | None]) -> Generator[str]:
    """A server that answers every connection's request with these bytes, None: hangs up."""
    listening = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        for number in range(1_000):
            try:
                taken, _ = listening.accept()
            except OSError:
                return
            with closing(taken):
                said = answer(whole_request(taken), number)
                if said is not None:
                    taken.sendall(said)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(10)


def reply(body: str, status: str = "200 OK", kind: str = "application/json") -> bytes:
    """A whole response."""
    data = body.encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(data)}\r\n"
    return f"{head}connection: close\r\n\r\n".encode() + data


@pytest.mark.parametrize(
    "answer",
    [
        reply("<html>", kind="text/html"),
        reply("[1, 2]"),
        reply('{"revision": "seven"}'),
        reply("{", "500 Internal Server Error"),
        reply("", "302 Found"),
        reply('{"a": ' * 50_000),
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
    ],
    ids=["html", "list", "type", "half", "redirect", "deep", "ssh", "nothing"],
)
def test_another_kind_of_server_is_told_apart(cli, answer):
    """One line and 11, whatever it answers."""
    with answering(lambda _request, _number: answer) as url:
        said = cli("get", "desk_1", "position", store=url)
    assert (said.code, said.out) == (11, ""), said.err
    assert said.err.count("\n") == 1


def test_what_a_server_says_does_not_reach_the_terminal_raw(cli):
    """A refusal with line breaks and escapes in it is one line of text."""
    problem = json.dumps({"title": "X", "status": 400, "detail": "a\n\x1b[2Jb" + "c" * 5_000})
    with answering(lambda *_: reply(problem, "400 Bad Request")) as url:
        said = cli("get", "desk_1", "position", store=url)
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert "\x1b" not in said.err


def test_a_write_whose_answer_was_lost_happens_once(cli, running, own):
    """The connection breaks after the server has acted: sent again under the same id, it acts once."""
    server = running(target=own)
    keys: list[bytes] = []

    def relay(request: bytes, number: int) -> bytes | None:
        with socket.create_connection(("127.0.0.1", server.port)) as line:
            line.sendall(request.replace(b"keep-alive", b"close"))
            parts = []
            while part := line.recv(65_536):
                parts.append(part)
        keys.extend(
            line for line in request.split(b"\r\n") if line.lower().startswith(b"idempotency-key")
        )
        return None if len(keys) == 1 else b"".join(parts)

    with answering(relay) as url:
        said = cli("put", "desk_1", "once", "1", "--expect", "0", store=url)
    assert said.code == 0, said.err  # acting twice would be a conflict
    assert len(keys) == 2
    assert keys[0] == keys[1]
    assert len(cli("history", "desk_1", "once", store=server.url).out.splitlines()) == 1


def test_without_its_extra_it_says_what_to_install(cli, looked_at_url, tmp_path):
    """8, and the command."""
    (tmp_path / "httpx.py").write_text("raise ImportError('httpx')\n")
    path = f"{tmp_path}{os.pathsep}{cli.environment['PYTHONPATH']}"
    said = cli("get", "desk_1", "position", store=looked_at_url, env={"PYTHONPATH": path})
    assert (said.code, "pip install 'nt-memory[client]'" in said.err) == (8, True)


def test_nats_is_passed_on(cli):
    """Where no server answers it says so, with the exit code of that; the password is not shown."""
    said = cli("get", "a", "b", env={"NT_MEMORY_URL": "nats://user:secret@127.0.0.1:1"})
    assert said.code == 11
    assert "nats://127.0.0.1:1" in said.err
    assert "secret" not in said.err


def test_a_dashboard_is_drawn_of_a_server(cli, url):
    """`stats --live` on a terminal, and as documents elsewhere."""
    process = cli.start("stats", "--live", "--json", "--interval", "0.05", store=url)
    first = json.loads(process.stdout.readline())
    revision = int(cli("put", "desk_1", "live", "1", store=url).out)
    assert first["revision"] < revision
    assert first["path"] == url
    while json.loads(process.stdout.readline())["revision"] < revision:
        pass
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
