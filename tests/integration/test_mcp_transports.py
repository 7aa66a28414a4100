"""The MCP server by the official client, over stdio with a real process and over HTTP with a real server.

Each test runs in the protocol's handshake era ("legacy", with sessions) and in the one after it
("auto", where every request stands for itself): hosts of both are in use.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
import uvicorn
from mcp import Client, MCPError
from mcp.client.stdio import StdioServerParameters
from starlette.applications import Starlette

from nt_memory import MemorySystem, Policy
from nt_memory.apps.mcp import McpDoor
from nt_memory.embedders import HashingTextEmbedder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

COMMAND = str(Path(sys.executable).parent / "nt-memory")
DEADLINE_S = 30.0
ERAS = ("legacy", "auto")


@asynccontextmanager
async def over_stdio(store: Path, era: Any, *options: str) -> AsyncIterator[Client]:
    """A client of a process of its own."""
    arguments = ["mcp", "--store", str(store), *options]
    async with Client(StdioServerParameters(command=COMMAND, args=arguments), mode=era) as client:
        yield client


@asynccontextmanager
async def served(door: McpDoor) -> AsyncIterator[str]:
    """A door under a URL on the loopback."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with door.running():
            yield

    app = Starlette(routes=[door.route("/mcp")], lifespan=lifespan)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", ws="none")
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve())
    while not server.started:
        assert not serving.done(), "the server did not start"
        await asyncio.wait({serving}, timeout=0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/mcp"
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def over_http(store: Path, era: Any, *, agent: str = "") -> AsyncIterator[Client]:
    """A client of a server in this process."""
    async with MemorySystem.open(store) as memory:
        door = McpDoor(memory, agent=agent, embedder=HashingTextEmbedder())
        async with served(door) as url, Client(url, mode=era) as client:
            yield client


@asynccontextmanager
async def connected(transport: str, store: Path, era: str, agent: str) -> AsyncIterator[Client]:
    """A client over either transport, in an agent's name."""
    if transport == "stdio":
        async with over_stdio(store, era, "--agent", agent) as client:
            yield client
    else:
        async with over_http(store, era, agent=agent) as client:
            yield client


each = pytest.mark.parametrize(
    ("transport", "era"), [(way, era) for way in ("stdio", "http") for era in ERAS]
)


async def did(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """What a tool answers; it must not refuse. The client checks it against the tool's schema."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert json.loads(result.content[0].text) == result.structured_content
    return result.structured_content


async def refused(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """What a tool says when it refuses."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result.content
    assert "Traceback" not in result.content[0].text
    return result.structured_content["error"]


@each
def test_a_session_from_decision_to_verdict(
    run: Any, store: Path, transport: str, era: str
) -> None:
    """State, search, decisions, locks, votes and messages work over both transports and eras."""

    async def body() -> None:
        async with connected(transport, store, era, "alice") as client:
            assert client.server_info.name == "nt-memory"
            assert "advise" in client.instructions
            await _state(client)
            await _decisions(client)
            await _coordination(client)

    run(body())


async def _state(client: Client) -> None:
    first = await did(client, "remember", key="position", value={"AAPL": 10})
    assert first["agent"] == "alice"
    await did(client, "remember", key="position", value={"AAPL": 25})
    now = await did(client, "recall", key="position")
    assert now["entry"]["value"] == {"AAPL": 25}
    assert now["entry"]["actor"] == "alice"
    then = await did(client, "recall", key="position", as_of=first["revision"])
    assert then["entry"]["value"] == {"AAPL": 10}
    assert len((await did(client, "history", key="position"))["entries"]) == 2
    assert not (await did(client, "recall", key="nothing"))["found"]
    assert (await did(client, "forget", key="position"))["was_there"]
    assert not (await did(client, "forget", key="position"))["was_there"]
    assert not (await did(client, "recall", key="position"))["found"]
    await did(client, "observe", text="rates rose and banks fell", tags=["rates"])
    await did(client, "observe", text="an oil field burned", data={"symbol": "XOM"})
    hits = (await did(client, "search", text="banks fell as rates rose"))["hits"]
    assert hits[0]["data"] == "rates rose and banks fell"
    assert hits[0]["score"] > hits[1]["score"]
    where = {"op": "eq", "field": "symbol", "value": "XOM"}
    hits = (await did(client, "search", text="anything", where=where))["hits"]
    assert [hit["data"]["symbol"] for hit in hits] == ["XOM"]


async def _decisions(client: Client) -> None:
    await did(
        client,
        "define_action_type",
        action_type="vol/5d",
        target="volatility of the next five sessions",
        unit="log",
        horizon_sessions=5,
        tolerance="relative",
        baseline="last week",
    )
    advice = await did(client, "advise", text="calm before earnings", action_type="vol/5d")
    assert advice["is_abstaining"]
    decision = {
        "action_type": "vol/5d",
        "text": "calm before earnings",
        "predicted_outcome": 2.0,
        "predicted_low": 1.5,
        "predicted_high": 2.5,
        "baseline": 3.0,
        "advice_id": advice["advice_id"],
        "trajectory_id": "first",
    }
    recorded = await did(client, "record_decision", **decision)
    assert (await did(client, "record_decision", **decision))["revision"] == recorded["revision"]
    changed = {**decision, "predicted_outcome": 2.2}
    assert (await refused(client, "record_decision", **changed))["type"] == "TrajectoryError"
    verdict = await did(client, "record_outcome", trajectory_id="first", value=2.04)
    assert verdict["kind"] == "correct"
    assert verdict["is_covered"]
    assert verdict["skill"] > 0
    (shown,) = (await did(client, "list_trajectories"))["decisions"]
    assert shown["seen"] == "calm before earnings"
    assert shown["verdict"]["kind"] == "correct"
    assert (await did(client, "list_patterns"))["patterns"] == []


async def _coordination(client: Client) -> None:
    grant = await did(client, "acquire_lock", resource="book", lease_s=30)
    error = await refused(client, "acquire_lock", resource="book", timeout_s=0)
    assert error["type"] == "ReentrantLockError"
    await did(client, "remember", key="cash", value=1, fence=grant["fence"])
    renewed = await did(client, "renew_lock", resource="book", fence=grant["fence"])
    assert 29 < renewed["lease_left_s"] <= 30
    (held,) = (await did(client, "list_locks"))["locks"]
    assert held["holder"] == "alice/mcp"
    await did(client, "release_lock", resource="book", fence=grant["fence"])
    late = await refused(client, "remember", key="cash", value=2, fence=grant["fence"])
    assert late["type"] == "StaleFenceError"
    assert "acquire it again" in late["hint"]
    await did(client, "register_voter", weight=2)
    proposal = await did(client, "propose", data={"sell": "AAPL"}, quorum="1/2")
    assert proposal["status"] == "pending"
    assert proposal["votes_needed"] == 1
    voted = await did(client, "vote", proposal_id=proposal["proposal_id"], approve=True)
    assert voted["status"] == "approved"
    decided = await did(client, "await_decision", proposal_id=proposal["proposal_id"])
    assert decided["votes"] == [{"voter": "alice", "approve": True, "weight": "2"}]
    assert len((await did(client, "list_proposals", status="approved"))["proposals"]) == 1
    assert (await did(client, "read_messages", pattern="desk/*"))["opened_now"]
    assert (await did(client, "publish", topic="desk/a", message=[1]))["subscriptions"] == 1
    read = await did(client, "read_messages", pattern="desk/*", wait_s=5)
    assert read == {
        "messages": [{"topic": "desk/a", "message": [1]}],
        "dropped": 0,
        "opened_now": False,
    }


@each
def test_a_cancelled_read_takes_no_message(run: Any, store: Path, transport: str, era: str) -> None:
    """A host that gives up waiting ends the wait in the server too: what comes then is not lost."""

    async def body() -> None:
        async with connected(transport, store, era, "alice") as client:
            await did(client, "read_messages", pattern="desk/*")
            with anyio.move_on_after(0.3) as waited:
                await client.call_tool("read_messages", {"pattern": "desk/*", "wait_s": 20})
            assert waited.cancelled_caught
            await did(client, "publish", topic="desk/a", message="first")
            read = await did(client, "read_messages", pattern="desk/*")
            assert [one["message"] for one in read["messages"]] == ["first"]

    run(body())


@pytest.mark.parametrize("era", ERAS)
def test_a_cancelled_acquire_is_withdrawn(run: Any, store: Path, era: str) -> None:
    """Over HTTP, where two agents meet: the one that gave up is never granted the lock."""

    async def body() -> None:
        async with MemorySystem.open(store) as memory:
            door = McpDoor(memory, identify=lambda request: request.headers.get("x-agent"))
            async with (
                served(door) as url,
                as_agent(url, era, "ann") as ann,
                as_agent(url, era, "bob") as bob,
            ):
                grant = await did(ann, "acquire_lock", resource="book", lease_s=60)
                waiting = asyncio.ensure_future(
                    bob.call_tool("acquire_lock", {"resource": "book", "timeout_s": 20})
                )
                await queue_is(memory, ("bob/mcp",))
                waiting.cancel()
                await asyncio.wait({waiting})
                await queue_is(memory, ())
                await did(ann, "release_lock", resource="book", fence=grant["fence"])
                assert memory.inspect_lock("book").holder == ""
                assert (await did(bob, "acquire_lock", resource="book"))["fence"] > grant["fence"]

    run(body())


async def queue_is(memory: MemorySystem, wanted: tuple[str, ...]) -> None:
    """Wait until the lock's queue is that."""
    async with asyncio.timeout(DEADLINE_S / 3):
        while memory.inspect_lock("book").waiters != wanted:  # noqa: ASYNC110 - no event tells it
            await anyio.sleep(0.005)


@asynccontextmanager
async def as_agent(url: str, era: Any, name: str) -> AsyncIterator[Client]:
    """A client whose requests say whose they are."""
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    async with httpx2.AsyncClient(headers={"x-agent": name}, timeout=30) as http:
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, mode=era) as client:
            yield client


@pytest.mark.parametrize("era", ERAS)
def test_each_request_acts_in_its_agents_name(run: Any, store: Path, era: str) -> None:
    """Two agents on one server: own actor, own rights, own default; a request of nobody is refused."""

    async def body() -> None:
        async with MemorySystem.open(store) as memory:
            await memory.set_policy("bob", Policy(read=("bob/**",), write=("bob/**",)))
            door = McpDoor(memory, identify=lambda request: request.headers.get("x-agent"))
            async with served(door) as url:
                async with as_agent(url, era, "ann") as ann, as_agent(url, era, "bob") as bob:
                    assert (await did(ann, "list_agents"))["you"] == "ann"
                    await did(ann, "remember", key="x", value=1)
                    await did(bob, "remember", key="x", value=2)
                    error = await refused(bob, "recall", agent="ann", key="x")
                    assert error["type"] == "PermissionDeniedError"
                    assert error["right"] == "read"
                    error = await refused(bob, "publish", topic="t", message=1)
                    assert error["type"] == "PermissionDeniedError"
                    assert (await did(ann, "recall", agent="bob", key="x"))["entry"]["value"] == 2
                    record = await memory.get_record("bob", "x")
                    assert record is not None
                    assert record.actor == "bob"
                async with Client(url, mode=era) as nobody:
                    with pytest.raises(MCPError, match="no agent's name"):
                        await nobody.call_tool("list_agents", {})

    run(body())


@each
def test_waiting_tells_its_progress(run: Any, store: Path, transport: str, era: str) -> None:
    """A host that asks for progress hears of a wait while it lasts."""
    told: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    async def body() -> None:
        async with connected(transport, store, era, "alice") as client:
            arguments = {"pattern": "desk/*", "wait_s": 1.2}
            result = await client.call_tool("read_messages", arguments, progress_callback=note)
            assert result.structured_content["messages"] == []

    run(body())
    assert len(told) >= 2
    assert [one[0] for one in told] == sorted(one[0] for one in told)
    assert told[-1][1] == 1.2
    assert told[-1][2] == "nothing for desk/*"


@pytest.mark.parametrize("era", ERAS)
def test_pages_resources_and_prompts_over_http(run: Any, store: Path, era: str) -> None:
    """Resources are listed page by page to the last, each can be read, and prompts are filled."""

    async def body() -> None:
        async with over_http(store, era, agent="a07") as client:
            for number in range(60):
                await did(client, "remember", agent=f"a{number:02}", key="x", value=number)
            uris: list[str] = []
            cursor = None
            while True:
                page = await client.list_resources(cursor=cursor, cache_mode="bypass")
                uris += [resource.uri for resource in page.resources]
                cursor = page.next_cursor
                if cursor is None:
                    break
            assert len(uris) == len(set(uris)) == 1 + 60 * 3
            for uri in uris[:8]:
                contents = (await client.read_resource(uri, cache_mode="bypass")).contents
                assert json.loads(contents[0].text)
            templates = (await client.list_resource_templates()).resource_templates
            assert {one.uri_template for one in templates} == {
                "nt-memory://agents/{agent}",
                "nt-memory://agents/{agent}/trajectories",
                "nt-memory://agents/{agent}/patterns",
                "nt-memory://trajectories/{+trajectory_id}",
            }
            with pytest.raises(MCPError, match="no resource"):
                await client.read_resource("nt-memory://nowhere")
            names = [prompt.name for prompt in (await client.list_prompts()).prompts]
            assert names == ["review_my_last_decisions", "before_i_decide"]
            found = await client.get_prompt("review_my_last_decisions", {})
            assert "no decisions yet" in found.messages[0].content.text

    run(body())


def test_foreign_hosts_and_origins_are_kept_out(run: Any, store: Path) -> None:
    """A page in a browser cannot talk to the server on the loopback, by whatever name."""

    async def body() -> list[int]:
        async with MemorySystem.open(store) as memory:
            door = McpDoor(memory, allowed_hosts=["desk.example:*"])
            async with served(door) as url, httpx.AsyncClient() as http:
                found: list[int] = []
                for headers in (
                    {"host": "evil.example"},
                    {"origin": "https://evil.example"},
                    {"host": "desk.example:80"},
                ):
                    told = {
                        "accept": "application/json, text/event-stream",
                        "content-type": "application/json",
                        **headers,
                    }
                    body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
                    found.append((await http.post(url, json=body, headers=told)).status_code)
                return found

    foreign, origin, allowed = run(body())
    assert foreign in {403, 421}
    assert origin == 403
    assert allowed not in {403, 421}


# --- the process ------------------------------------------------------------------------------


def started(store: Path, *options: str, **more: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [COMMAND, "mcp", "--store", str(store), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **more,
    )


def hello(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The answer to a handshake, which says that the process serves."""
    parameters = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "0"},
    }
    asked = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": parameters}
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(asked).encode() + b"\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


@pytest.mark.parametrize("ending", ["eof", signal.SIGTERM, signal.SIGINT])
def test_the_process_ends_when_it_is_told(store: Path, ending: Any) -> None:
    """By the end of stdin or a signal: exit code 0, the store closed, nothing on stdout but messages."""
    process = started(store)
    assert hello(process)["result"]["serverInfo"]["name"] == "nt-memory"
    if ending == "eof":
        out, _ = process.communicate(timeout=DEADLINE_S)
    else:
        process.send_signal(ending)
        # stdin stays open: a host that sends the signal need not close it.
        assert process.wait(DEADLINE_S) == 0
        out = process.stdout.read()
        process.communicate()
    assert process.returncode == 0
    assert out == b""


def test_a_store_in_use_is_refused_in_words(store: Path, run: Any) -> None:
    """Exit code 3, one line on stderr, and nothing on stdout that a host would take for a message."""

    async def body() -> tuple[int, bytes, bytes]:
        async with MemorySystem.open(store):
            process = await asyncio.to_thread(started, store)
            out, err = await asyncio.to_thread(process.communicate, None, DEADLINE_S)
            return process.returncode, out, err

    code, out, err = run(body())
    assert code == 3
    assert out == b""
    assert err.count(b"\n") == 1
    assert b"nt-memory:" in err


@pytest.mark.parametrize(
    "wrong", [["--agent", "no/agent"], ["--embedder", "magic"], ["--embedder", "hashing:x"]]
)
def test_malformed_options_are_refused(store: Path, wrong: list[str]) -> None:
    """Exit code 2, before anything is served or made."""
    process = started(store, *wrong)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2, err
    assert out == b""
    assert not store.exists()


def test_a_reader_beside_the_writer(store: Path, run: Any) -> None:
    """--read-only follows a store that another process writes, and offers what changes nothing."""

    async def body() -> None:
        async with MemorySystem.open(store) as memory:
            await memory.put("ann", "x", 1)
            async with over_stdio(store, "auto", "--read-only", "--agent", "ann") as client:
                tools = {tool.name: tool for tool in (await client.list_tools()).tools}
                assert all(tool.annotations.read_only_hint for tool in tools.values())
                assert {"recall", "search", "advise", "list_locks"} <= tools.keys()
                assert not {"remember", "publish", "read_messages", "vote"} & tools.keys()
                assert (await did(client, "recall", key="x"))["entry"]["value"] == 1
                with pytest.raises(MCPError, match="no tool"):
                    await client.call_tool("remember", {"key": "x", "value": 2})

    run(body())


def test_what_the_server_says_besides_goes_to_stderr(store: Path, tmp_path: Path) -> None:
    """A mistake of ours is in the log with all of it, and the host hears that it happened."""
    broken = tmp_path / "broken"
    broken.mkdir()
    # A real mistake: an embedder that breaks, put in place as the process starts.
    (broken / "sitecustomize.py").write_text(
        "import nt_memory.embedders.hashing as h\n"
        "def embed(self, texts):\n"
        "    print('printed by mistake')\n"
        "    raise RuntimeError('the secret inside')\n"
        "h.HashingTextEmbedder.embed = embed\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(broken)}
    environ.pop("PYTHONUNBUFFERED", None)  # what is printed is written out late
    process = started(store, "--agent", "ann", env=environ)
    assert hello(process)["result"]
    asked = [
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {
            "jsonrpc": "2.0",
            "id": 2,
            "method": "tools/call",
            "params": {"name": "search", "arguments": {"text": "x"}},
        },
    ]
    lines = b"".join(json.dumps(one).encode() + b"\n" for one in asked)
    process.stdin.write(lines)
    process.stdin.flush()
    answer = json.loads(process.stdout.readline())
    out, err = process.communicate(timeout=DEADLINE_S)
    assert answer["result"]["isError"]
    assert answer["result"]["structuredContent"]["error"]["type"] == "InternalError"
    assert "secret" not in json.dumps(answer)
    assert out == b""
    assert b"the secret inside" in err
    assert b"Traceback" in err
    assert b"printed by mistake" in err
