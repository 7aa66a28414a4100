"""A language model with a memory over MCP: it looks up what happened before, and acts under a lock.

The model decides which tools to call; this program only passes calls to the memory's MCP server, by the protocol's
official client, and answers back. The server is the real one, `nt-memory mcp`, in a process of its own. The model is
any endpoint that speaks OpenAI's chat completions with tools:

    pip install 'nt-memory[mcp,openai]'
    OPENAI_BASE_URL=http://127.0.0.1:11434/v1 MODEL=qwen3 python examples/llm_agent.py
    python examples/llm_agent.py

Without `OPENAI_BASE_URL` a script on the loopback plays the model, over the same HTTP: it reads what the tools
answered and decides by it. So this runs anywhere, and costs nothing. It leaves nothing behind.
"""

import asyncio
import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
from mcp import Client, StdioServerParameters

COMMAND = str(Path(sys.executable).parent / "nt-memory")
AGENT = "claude"
TOOLS = {"recall", "search", "acquire_lock", "remember", "release_lock", "record_decision"}
"""What the model is offered: all the memory's tools would be 26, and most of their text is for other tasks."""
MAX_TURNS = 12
TASK = (
    "You trade one stock. News: 'surprise rate rise, spreads widen'. Recall your position (key 'position'), search what you "
    "have learnt from similar news, and decide whether to halve it. Write the position only under the lock 'book', with "
    "its fence. Record the decision as action type 'resize'. Answer with one sentence."
)
LESSONS = (
    ("surprise rate rise, banks fall, spreads widen", {"did": "held", "loss": 0.08}),
    ("rates rise as expected, quiet tape", {"did": "held", "loss": 0.0}),
    ("oil falls after a large build in stocks", {"did": "cut", "loss": 0.01}),
)


async def called(client: Client, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Call a tool of the memory; a refusal is an answer the model can read, not an error of this program."""
    result = await client.call_tool(name, arguments)
    return result.structured_content or {}


async def converse(client: Client, model: httpx.AsyncClient) -> tuple[str, list[str]]:
    """Ask the model, do what it asks for, tell it what came of it, until it has its answer.

    Returns:
        What it said in the end, and which tools it called.
    """
    listed = await client.list_tools()
    tools = [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.input_schema,
            },
        }
        for tool in listed.tools
        if tool.name in TOOLS
    ]
    messages: list[dict[str, Any]] = [{"role": "user", "content": TASK}]
    used: list[str] = []
    for _ in range(MAX_TURNS):
        asked = {"model": os.environ.get("MODEL", "scripted"), "messages": messages, "tools": tools}
        reply = await model.post("chat/completions", json=asked)
        reply.raise_for_status()
        message = reply.json()["choices"][0]["message"]
        messages.append(message)
        calls = message.get("tool_calls") or []
        if not calls:
            return message["content"], used
        for call in calls:
            name = call["function"]["name"]
            used.append(name)
            # What a model writes is data: only the tools it was offered, whatever it asks for.
            answer = (
                await called(client, name, json.loads(call["function"]["arguments"]))
                if name in TOOLS
                else {"error": f"no such tool: {name}"}
            )
            told = {"role": "tool", "tool_call_id": call["id"], "content": json.dumps(answer)}
            messages.append(told)
    return "out of turns", used


def scripted(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The model that plays itself: the next message of the assistant, from what the tools have answered.

    It halves the position if the most similar lesson says that holding lost money, and holds it else.
    """
    answers = [json.loads(one["content"]) for one in messages if one["role"] == "tool"]
    step = len(answers)
    if step == 0:
        return calls("recall", {"key": "position"})
    if step == 1:
        return calls("search", {"text": "surprise rate rise, spreads widen", "top_k": 1})
    held = answers[0]["entry"]["value"]
    lesson = answers[1]["hits"][0]["data"]
    if lesson["did"] != "held" or lesson["loss"] <= 0:
        return {"role": "assistant", "content": "I hold: nothing similar ended badly."}
    halved = {symbol: size // 2 for symbol, size in held.items()}
    script = [
        ("acquire_lock", lambda: {"resource": "book"}),
        (
            "remember",
            lambda: {"key": "position", "value": halved, "fence": answers[2]["fence"]},
        ),
        ("record_decision", lambda: {"action_type": "resize", "parameters": {"to": halved}}),
        ("release_lock", lambda: {"resource": "book", "fence": answers[2]["fence"]}),
    ]
    if step - 2 < len(script):
        name, arguments = script[step - 2]
        return calls(name, arguments())
    said = f"I halved to {halved}: holding lost {lesson['loss']:.0%} the last time."
    return {"role": "assistant", "content": said}


def calls(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """A message that asks for one tool, as OpenAI's API spells it."""
    asked = {"name": name, "arguments": json.dumps(arguments)}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": f"call-{name}", "type": "function", "function": asked}],
    }


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """Chat completions, and nothing else."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/chat/completions"
        assert {tool["function"]["name"] for tool in asked["tools"]} == TOOLS
        body = json.dumps({"choices": [{"message": scripted(asked["messages"])}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Keep the terminal to the conversation."""


@contextmanager
def endpoint() -> Iterator[str]:
    """Where the model is: the one that was named, or the script on a free port of the loopback."""
    if "OPENAI_BASE_URL" in os.environ:
        yield os.environ["OPENAI_BASE_URL"]
        return
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def main() -> None:
    """Teach the memory something, let the model work, and look at what is left."""
    with tempfile.TemporaryDirectory() as directory, endpoint() as url:
        server = StdioServerParameters(
            command=COMMAND, args=["mcp", "--store", f"{directory}/memory", "--agent", AGENT]
        )
        key = os.environ.get("OPENAI_API_KEY", "none")
        headers = {"Authorization": f"Bearer {key}"}
        async with (
            Client(server) as client,
            httpx.AsyncClient(base_url=f"{url}/", headers=headers, timeout=120.0) as model,
        ):
            for text, lesson in LESSONS:
                await called(client, "observe", {"text": text, "data": lesson})
            resize = {"action_type": "resize", "target": "loss avoided", "unit": "1"}
            await called(client, "define_action_type", resize | {"horizon_sessions": 1})
            await called(client, "remember", {"key": "position", "value": {"AAPL": 100}})
            said, used = await converse(client, model)
            position = await called(client, "recall", {"key": "position"})
            decisions = await called(client, "list_trajectories", {})
    print(f"called {', '.join(used)}")
    print(f"said   {said}")
    print(f"holds  {position['entry']['value']}, {len(decisions['decisions'])} decision recorded")
    if "OPENAI_BASE_URL" not in os.environ:
        # The nearest lesson is the first: it held, and lost.
        assert position["entry"]["value"] == {"AAPL": 50}
        assert used[:3] == ["recall", "search", "acquire_lock"]
        assert len(decisions["decisions"]) == 1


if __name__ == "__main__":
    asyncio.run(main())
