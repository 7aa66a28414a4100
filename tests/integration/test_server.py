"""A real server on loopback: streams, shutdown, TLS, the command, and hostile clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trustme
import websockets

from nt_memory.apps.server.settings import ServerSettings
from nt_memory.apps.server.tokens import add_token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

DEADLINE_S = 20.0


class Events:
    """Reads server-sent events, each as (event, data, id)."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines

    async def next(self) -> tuple[str, Any, str]:
        """The next event; comments are passed over."""
        found = {"event": "", "data": "", "id": ""}
        async with asyncio.timeout(DEADLINE_S):
            async for line in self._lines:
                if line.startswith(":"):
                    continue
                if not line:
                    if found["event"]:
                        return found["event"], json.loads(found["data"]), found["id"]
                    continue
                name, _, text = line.partition(": ")
                found[name] = text
        raise EOFError


def raw(port: int, data: bytes, *, then: bytes = b"") -> bytes:
    """What a server answers to bytes, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as connection:
        parts = []
        try:
            connection.sendall(data)
            if then:
                connection.sendall(then)
            while part := connection.recv(65536):
                parts.append(part)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was turned away while it still sent
        return b"".join(parts)


# --- streams ----------------------------------------------------------------------------------


def test_messages_as_events(running, run):
    """From the first line on none is missed; a slow reader is told what it lost."""
    server = running()

    async def body():
        async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE_S) as client:
            params = {"pattern": "desk/*", "buffer": 4}
            async with client.stream("GET", "/v1/messages", params=params) as response:
                assert response.headers["content-type"].startswith("text/event-stream")
                lines = response.aiter_lines()
                assert await anext(lines) == ": open"
                events = Events(lines)
                for n in range(3):
                    sent = {"topic": "desk/a", "message": {"n": n, "text": "a\nb"}}
                    assert (await client.post("/v1/messages", json=sent)).json()["reached"] == 1
                for n in range(3):
                    kind, data, _ = await events.next()
                    assert (kind, data["topic"], data["message"]) == (
                        *("message", "desk/a"),
                        {"n": n, "text": "a\nb"},
                    )
                assert (await client.get("/v1/stats")).json()["server"]["streams"] == 1

    run(body())


def test_changes_go_on_where_a_client_left_off(running, run):
    """With `Last-Event-ID` none is missed and none comes twice, also within one revision."""
    server = running()

    async def body():
        async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE_S) as client:
            await client.put("/v1/state/a/k/0", json={"value": 0})
            operations = [
                {"op": "put", "agent": "a", "key": f"k/{n}", "value": n} for n in range(1, 5)
            ]
            seen: list[str] = []
            last = ""
            params = {"prefix": "k/", "after": 0}
            for wanted in (2, 2, 3):
                headers = {"Last-Event-ID": last} if last else {}
                async with client.stream(
                    "GET", "/v1/changes/a", params=params, headers=headers
                ) as response:
                    events = Events(response.aiter_lines())
                    if not seen:
                        await client.post("/v1/transactions", json={"operations": operations})
                        await client.delete("/v1/state/a/k/0")
                    if len(seen) == 4:
                        await client.put("/v1/state/a/other", json={"value": 1})
                        await client.put("/v1/state/a/k/9", json={"value": 9})
                    for _ in range(wanted):
                        kind, data, last = await events.next()
                        seen.append(f"{kind} {data['key']}")
            assert seen == [
                *(f"put k/{n}" for n in range(5)),
                "delete k/0",
                "put k/9",
            ]
            bad = await client.get("/v1/changes/a", headers={"Last-Event-ID": "x.y"})
            assert bad.status_code == 400

    run(body())


def test_large_values_are_left_out_of_changes_and_sent_in_messages(running, run):
    """A change says that there is more to get; a message cannot be got, so it is sent whole."""
    server = running()
    large = "x" * 400_000

    async def body():
        async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE_S) as client:
            async with (
                client.stream("GET", "/v1/changes/a") as changes,
                client.stream("GET", "/v1/messages", params={"pattern": "a"}) as messages,
            ):
                lines = changes.aiter_lines()
                more = messages.aiter_lines()
                assert [await anext(lines), await anext(more)] == [": open"] * 2
                await client.put("/v1/state/a/k", json={"value": large})
                await client.post("/v1/messages", json={"topic": "a", "message": large})
                _, data, _ = await Events(lines).next()
                assert (data["is_left_out"], data["value"]) == (True, None)
                assert (await Events(more).next())[1]["message"] == large
            assert (await client.get("/v1/state/a/k")).json()["value"] == large

    run(body())


def test_a_websocket_receives_and_publishes(running, run):
    """Both over one connection; a bad frame is answered and harms nothing."""
    server = running()

    async def body():
        url = server.url.replace("http", "ws") + "/v1/messages/ws?pattern=desk/*&pattern=news"
        async with websockets.connect(url) as talk:

            async def said() -> dict[str, Any]:
                return json.loads(await asyncio.wait_for(talk.recv(), DEADLINE_S))

            await talk.send(json.dumps({"topic": "desk/a", "message": {"$decimal": "1.5"}}))
            both = [await said(), await said()]
            assert sorted(one["type"] for one in both) == ["message", "published"]
            assert {"type": "published", "reached": 1} in both
            for frame in ("{", "[]", '{"topic": 5}', '{"topic": "a", "x": 1}', "[" * 5000):
                await talk.send(frame)
                assert (await said())["type"] == "error"
            await talk.send(json.dumps({"topic": "$own", "message": 1}))
            assert (await said())["title"] == "InvalidNameError"
            await talk.send(json.dumps({"topic": "news", "message": 2}))
            assert {(await said())["type"], (await said())["type"]} == {"message", "published"}
        async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE_S) as client:
            async with asyncio.timeout(DEADLINE_S):
                while (await client.get("/v1/stats")).json()["server"]["streams"]:
                    pass
            assert (await client.get("/v1/stats")).json()["stats"]["subscribers"] == 0

    run(body())


def test_a_websocket_is_refused_like_any_request(running, run, tmp_path):
    """Without a token, from another site's page, for another's topics: a status, not a connection."""
    tokens = tmp_path / "tokens"
    scout = add_token(tokens, "scout")
    server = running(ServerSettings(port=0, tokens=tokens))

    async def body():
        url = server.url.replace("http", "ws") + "/v1/messages/ws?pattern="
        mine = {"Authorization": f"Bearer {scout}"}
        for pattern, headers, status in (
            ("scout/*", {}, 401),
            ("scout/*", {**mine, "Origin": "https://evil.example"}, 403),
            ("trader/*", mine, 403),
            ("a//b", mine, 400),
        ):
            with pytest.raises(websockets.InvalidStatus) as refused:
                async with websockets.connect(url + pattern, additional_headers=headers):
                    pass
            assert refused.value.response.status_code == status, pattern
        async with websockets.connect(url + "scout/*", additional_headers=mine):
            pass

    run(body())


def test_a_revoked_token_ends_its_streams(running, run, tmp_path):
    """What was opened with it does not live on for ever."""
    tokens = tmp_path / "tokens"
    scout = add_token(tokens, "scout")
    server = running(ServerSettings(port=0, tokens=tokens, heartbeat_s=0.2))

    async def body():
        headers = {"Authorization": f"Bearer {scout}"}
        params = {"pattern": "scout/*"}
        async with (
            httpx.AsyncClient(base_url=server.url, headers=headers, timeout=DEADLINE_S) as client,
            client.stream("GET", "/v1/messages", params=params) as response,
        ):
            lines = response.aiter_lines()
            await anext(lines)
            tokens.write_text("")
            kind, _, _ = await Events(lines).next()
            assert kind == "end"

    run(body())


def test_streams_are_bounded_and_nobody_takes_all(running, run, tmp_path):
    """One agent has half of them at most, so others still get in; those that end make room."""
    tokens = tmp_path / "tokens"
    names = {name: add_token(tokens, name) for name in ("scout", "trader")}
    server = running(ServerSettings(port=0, tokens=tokens, max_streams=4))

    async def body():
        async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE_S) as client:

            async def opened(name: str) -> httpx.Response:
                request = client.build_request(
                    "GET",
                    "/v1/messages",
                    params={"pattern": f"{name}/*"},
                    headers={"Authorization": f"Bearer {names[name]}"},
                )
                return await client.send(request, stream=True)

            first, second = await opened("scout"), await opened("scout")
            third = await opened("scout")
            assert (third.status_code, third.headers["retry-after"]) == (429, "5")
            other = await opened("trader")
            assert other.status_code == 200
            for one in (first, second, third):
                await one.aclose()
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    again = await opened("scout")
                    await again.aclose()
                    if again.status_code == 200:
                        break
            await other.aclose()

    run(body())


# --- waiting ----------------------------------------------------------------------------------


def test_who_leaves_while_waiting_for_a_lock_leaves_the_line(running, run):
    """A client that is gone is granted nothing."""
    server = running()

    async def body():
        async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE_S) as client:
            held = (await client.post("/v1/locks/acquire", json={"resource": "book"})).json()
            patient = {"resource": "book", "timeout": 60, "holder": "impatient"}
            waiting = asyncio.ensure_future(client.post("/v1/locks/acquire", json=patient))

            async def waiters() -> list[str]:
                return (await client.get("/v1/locks/book")).json()["waiters"]

            async with asyncio.timeout(DEADLINE_S):
                while await waiters() != ["impatient"]:
                    pass
                waiting.cancel()
                while await waiters():
                    pass
            name = {"resource": "book", "fence": held["fence"]}
            await client.post("/v1/locks/release", json=name)
            assert (await client.get("/v1/locks/book")).json()["fence"] == 0

    run(body())


def test_a_decision_is_waited_for(running, run):
    """`wait` returns with the vote that decides, not when its time is over."""
    server = running()

    async def body():
        async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE_S) as client:
            put = {"proposer": "a", "data": 1, "id": "p", "quorum": 1, "weights": {"a": 1}}
            await client.post("/v1/proposals", json=put)
            waiting = asyncio.ensure_future(client.get("/v1/proposals/p?wait=60"))
            cast = {"proposal_id": "p", "voter": "a", "approve": True}
            await client.post("/v1/votes", json=cast)
            found = (await asyncio.wait_for(waiting, DEADLINE_S)).json()
            assert found["result"]["status"] == "approved"

    run(body())


# --- stopping ---------------------------------------------------------------------------------


def test_stopping_ends_streams_and_waiting_and_closes_the_store(running, run, tmp_path):
    """Streams end with a word, who waits gets a 503, and the store can be opened at once."""
    server = running()

    async def body():
        async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE_S) as client:
            await client.post("/v1/locks/acquire", json={"resource": "book"})
            patient = {"resource": "book", "timeout": 60, "holder": "patient"}
            waiting = asyncio.ensure_future(client.post("/v1/locks/acquire", json=patient))
            ws_url = server.url.replace("http", "ws") + "/v1/messages/ws?pattern=a"
            async with (
                client.stream("GET", "/v1/messages", params={"pattern": "a"}) as response,
                client.stream("GET", "/v1/changes/a") as changes,
                websockets.connect(ws_url) as talk,
            ):
                lines = response.aiter_lines()
                await anext(lines)
                more = changes.aiter_lines()
                await anext(more)
                async with asyncio.timeout(DEADLINE_S):
                    while not (await client.get("/v1/locks/book")).json()["waiters"]:
                        pass
                await client.put("/v1/state/a/k", json={"value": 1})
                server.ask_to_stop()
                assert (await Events(more).next())[0] == "put"
                assert (await Events(lines).next())[0] == "end"
                assert (await Events(more).next())[0] == "end"
                with pytest.raises(websockets.ConnectionClosed) as closed:
                    await asyncio.wait_for(talk.recv(), DEADLINE_S)
                assert closed.value.rcvd.code in {1001, 1012}
            refused = await waiting
            assert (refused.status_code, refused.json()["retryable"]) == (503, True)

    run(body())
    server.stop()

    async def reopened():
        from nt_memory import MemorySystem

        async with MemorySystem.open(tmp_path / "store") as memory:
            assert await memory.get("a", "k") == 1

    run(reopened())


# --- TLS and the command ----------------------------------------------------------------------


def test_tls(running, tmp_path):
    """Served with a certificate, it is asked by https, and by nothing else."""
    authority = trustme.CA()
    cert = authority.issue_cert("127.0.0.1")
    chain, key, root = (tmp_path / name for name in ("chain.pem", "key.pem", "root.pem"))
    cert.cert_chain_pems[0].write_to_path(chain)
    cert.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(root)
    server = running(ServerSettings(port=0, certfile=chain, keyfile=key))
    assert server.url.startswith("https://")
    import ssl

    context = ssl.create_default_context(cafile=str(root))
    assert (
        httpx.get(f"{server.url}/health", verify=context, timeout=DEADLINE_S).json()["status"]
        == "ok"
    )
    with pytest.raises(httpx.TransportError):
        httpx.get(server.url.replace("https", "http") + "/health", timeout=DEADLINE_S)


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Any]:
    """`command(*arguments)`: `nt-memory serve` as a process, and the URL that it says."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("NT_MEMORY_")}
        process = subprocess.Popen(
            [sys.executable, "-m", "nt_memory.apps.cli.main", "serve", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment,
        )
        processes.append(process)
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first.startswith("serving http"), process.communicate()[1]
        return process, first.split()[1].rstrip(",")

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_and_stops_at_a_signal(command, tmp_path, number):
    """It says where it is, logs JSON, stops cleanly, and leaves a store that is whole."""
    process, url = command("--store", "here")
    assert (
        httpx.put(f"{url}/v1/state/a/k", json={"value": 5}, timeout=DEADLINE_S).status_code == 200
    )
    process.send_signal(number)
    _, logged = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    events = [json.loads(line)["event"] for line in logged.splitlines()]
    assert events[0] == "serving"
    assert "request" in events
    assert events[-1] == "stopped"
    shown = subprocess.run(
        [sys.executable, "-m", "nt_memory.apps.cli.main", "get", "a", "k", "--store", "here"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert shown.stdout == "5\n"


def test_the_command_makes_tokens_that_the_server_takes(command, tmp_path):
    """`nt-memory token` prints one; the server lets in whoever has it."""
    made = subprocess.run(
        [sys.executable, "-m", "nt_memory.apps.cli.main", "token", "scout", "--tokens", "book"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    _, url = command("--tokens", "book")
    headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
    path = f"{url}/v1/state/scout/k"
    assert httpx.put(path, json={"value": 1}, timeout=DEADLINE_S).status_code == 401
    assert (
        httpx.put(path, json={"value": 1}, headers=headers, timeout=DEADLINE_S).status_code == 200
    )


def test_a_missing_extra_is_named(tmp_path):
    """Without the server's libraries the command says what to install, and others go on."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Nothing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'fastapi', 'uvicorn', 'prometheus_client'}:\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Nothing())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "nt_memory.apps.cli.main", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=environment,
            timeout=DEADLINE_S,
        )

    assert call("put", "a", "k", "1", "--store", "s").returncode == 0
    assert call("token", "scout").returncode == 0
    done = call("serve", "--store", "s")
    assert done.returncode == 8
    assert "pip install 'nt-memory[server]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_other_commands_do_not_import_the_servers_libraries():
    """What a shell waits for at each command stays small."""
    code = (
        "import sys, nt_memory.apps.cli.main\n"
        "print([name for name in ('fastapi', 'starlette', 'uvicorn', 'pydantic', "
        "'prometheus_client', 'websockets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# --- hostile clients --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (
            b"GET /v1/state/a/../b/k HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            b"400",
        ),
        (b"GET http://evil.example/v1/agents HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"403"),
        (b"GET /v1/agents HTTP/1.1\r\n\r\n", b"400"),
        (b"GARBAGE\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
        (b"PUT /v1/state/a/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", b"400"),
        (
            b"PUT /v1/state/a/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"400",
        ),
        (
            b"PUT /v1/state/a/k HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 99999999999999999999\r\n\r\n",
            b"400",
        ),
        (
            b"PUT /v1/state/a/k HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 999999999999\r\n\r\n",
            b"413",
        ),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 2_000_000, b"431"),
        (b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"431"),
        (
            b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
            b"431",
        ),
    ],
)
def test_a_malformed_request_gets_an_answer_and_no_more(running, sent, status):
    """A status that says what is wrong, the connection closed, and others served on."""
    server = running()
    answer = raw(server.port, sent)
    # A client that still sends when it is turned away may see nothing but the reset.
    assert answer.startswith(b"HTTP/1.1 " + status) or (not answer and len(sent) > 65_536)
    assert httpx.get(f"{server.url}/health", timeout=DEADLINE_S).status_code == 200


def test_headers_and_bodies_that_do_not_come_are_given_up(running):
    """A byte now and then holds no connection: 408 once the time is over."""
    server = running(
        ServerSettings(port=0, head_timeout_s=0.3, body_timeout_s=0.3, idle_timeout_s=1)
    )
    for sent in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\nX"):
        assert raw(server.port, sent).startswith(b"HTTP/1.1 408")
    head = b"PUT /v1/state/a/k HTTP/1.1\r\nHost: localhost\r\ncontent-type: application/json\r\n"
    assert raw(server.port, head + b"Content-Length: 100\r\n\r\n{").startswith(b"HTTP/1.1 408")
    chunked = head + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"va'
    assert raw(server.port, chunked).startswith(b"HTTP/1.1 408")
    # Between two requests too, also if what comes is no request yet.
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for more in (b"", b"\r\n", b"GET"):
        answer = raw(server.port, whole, then=more)
        assert answer.startswith(b"HTTP/1.1 200")


def test_who_does_not_read_what_it_asked_for_is_cut_off(running):
    """Large values nobody reads take neither memory without bound nor others' turn for long."""
    server = running(ServerSettings(port=0, write_timeout_s=1.0, idle_timeout_s=1.0))
    value = "x" * (12 << 20)
    assert (
        httpx.put(
            f"{server.url}/v1/state/a/k", json={"value": value}, timeout=DEADLINE_S
        ).status_code
        == 200
    )
    asking = b"GET /v1/state/a/k HTTP/1.1\r\nHost: localhost\r\n\r\n"
    deaf: list[socket.socket] = []
    for _ in range(12):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(asking)
        deaf.append(connection)
    asked = time.perf_counter()
    try:
        assert httpx.get(f"{server.url}/health", timeout=DEADLINE_S).status_code == 200
        for _ in range(20):
            found = httpx.get(f"{server.url}/v1/state/a/k", timeout=DEADLINE_S)
            if found.status_code == 200:
                break
            assert found.status_code == 503
        assert found.json()["value"] == value
        # Whoever began to read before the server's second is over would be served. The kernel tells a
        # client that does not read nothing of its end, so there is only the clock to go by.
        while time.perf_counter() < asked + 3.0:
            assert httpx.get(f"{server.url}/health", timeout=DEADLINE_S).status_code == 200
        for one in deaf:
            one.settimeout(DEADLINE_S)
            size = 0
            with contextlib.suppress(ConnectionResetError):
                while part := one.recv(1 << 20):
                    size += len(part)
            assert size < len(value)
    finally:
        for one in deaf:
            one.close()


def test_a_client_that_leaves_in_the_middle_harms_nobody(running):
    """Of a body, of a response, of a stream."""
    server = running()
    httpx.put(f"{server.url}/v1/state/a/k", json={"value": "x" * 1_000_000}, timeout=DEADLINE_S)
    head = b"PUT /v1/state/a/k HTTP/1.1\r\nHost: localhost\r\ncontent-type: application/json\r\n"
    for sent in (
        head + b"Content-Length: 100\r\n\r\n{",
        b"GET /v1/state/a/k HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/messages?pattern=a HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ):
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(sent)
    stats = httpx.get(f"{server.url}/v1/stats", timeout=DEADLINE_S).json()
    for _ in range(200):
        stats = httpx.get(f"{server.url}/v1/stats", timeout=DEADLINE_S).json()
        if not stats["server"]["streams"] and not stats["stats"]["subscribers"]:
            break
    assert stats["server"]["streams"] == 0
    assert stats["stats"]["subscribers"] == 0


def test_more_connections_than_allowed_get_a_clear_answer(running):
    """503 for those who ask, and served again once others have gone."""
    server = running(ServerSettings(port=0, max_connections=8))
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(8)]
    try:
        refused = httpx.get(f"{server.url}/health", timeout=DEADLINE_S)
        assert refused.status_code == 503
        more = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(12)]
        last = more[-1]
        last.settimeout(DEADLINE_S)
        assert last.recv(1000).startswith(b"HTTP/1.1 503")
        for one in more:
            one.close()
    finally:
        for one in idle:
            one.close()
    for _ in range(200):
        if httpx.get(f"{server.url}/health", timeout=DEADLINE_S).status_code == 200:
            return
    pytest.fail("the server did not recover")


def test_reads_are_answered_while_others_write(running):
    """Many threads at once, each seeing its own writes, none losing any."""
    server = running()

    def work(name: str, failures: list[str]) -> None:
        with httpx.Client(base_url=server.url, timeout=DEADLINE_S) as client:
            for n in range(30):
                client.put(f"/v1/state/{name}/k", json={"value": n})
                if client.get(f"/v1/state/{name}/k").json()["value"] != n:
                    failures.append(f"{name} {n}")

    failures: list[str] = []
    threads = [threading.Thread(target=work, args=(f"a{n}", failures)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(httpx.get(f"{server.url}/v1/agents", timeout=DEADLINE_S).json()["agents"]) == 8
