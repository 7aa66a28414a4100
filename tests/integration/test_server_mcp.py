"""MCP at the door of the HTTP server: the same tokens, the same rights."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from mcp import Client
from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client

from nt_memory.apps.server.settings import ServerSettings
from nt_memory.apps.server.tokens import add_token

DEADLINE_S = 30.0


async def called(url, token, tool, **arguments):
    """What a tool answers to the bearer of a token."""
    async with create_mcp_http_client(headers={"authorization": f"Bearer {token}"}) as http:
        transport = streamable_http_client(f"{url}/mcp", http_client=http)
        async with asyncio.timeout(DEADLINE_S), Client(transport) as client:
            return await client.call_tool(tool, arguments)


def test_a_host_acts_in_the_name_of_its_token(running, run, tmp_path):
    """What it writes is its agent's, what is another's is refused, and the operator may do either."""
    tokens = tmp_path / "tokens"
    scout, operator = add_token(tokens, "scout"), add_token(tokens, "*")
    server = running(ServerSettings(port=0, tokens=tokens), mcp=True)

    async def body():
        done = await called(server.url, scout, "remember", key="plan", value={"buy": 1})
        assert not done.is_error
        assert done.structured_content["agent"] == "scout"
        other = await called(server.url, scout, "remember", key="k", value=1, agent="other")
        assert other.is_error
        assert other.structured_content["error"]["type"] == "PermissionDeniedError"
        seen = await called(server.url, operator, "recall", agent="scout", key="plan")
        assert seen.structured_content["entry"]["value"] == {"buy": 1}

    run(body())
    state = httpx.get(
        f"{server.url}/v1/state/scout/plan",
        headers={"authorization": f"Bearer {scout}"},
        timeout=DEADLINE_S,
    )
    assert state.json()["value"] == {"buy": 1}


def test_nobody_comes_in_without_a_token(running, tmp_path):
    """The gate is before this door as well, and answers as everywhere."""
    tokens = tmp_path / "tokens"
    add_token(tokens, "scout")
    server = running(ServerSettings(port=0, tokens=tokens), mcp=True)
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    for headers in ({}, {"authorization": "Bearer ntm_000000000000_" + "x" * 43}):
        assert (
            httpx.post(
                f"{server.url}/mcp", json=asked, headers=headers, timeout=DEADLINE_S
            ).status_code
            == 401
        )


@pytest.mark.parametrize("mcp", [False, True])
def test_it_is_there_only_when_asked_for(running, mcp):
    """Without `--mcp` the path is unknown; other paths are as they were."""
    server = running(mcp=mcp)
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    assert (
        httpx.post(f"{server.url}/mcp", json=asked, timeout=DEADLINE_S).status_code == 404
    ) is not mcp
    assert httpx.get(f"{server.url}/health", timeout=DEADLINE_S).status_code == 200
