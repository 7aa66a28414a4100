"""What the MCP server's tools promise beyond the calls they make, by a client in the same process."""

from __future__ import annotations

import asyncio
import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from mcp import Client, MCPError
from mcp_types import PromptReference

from nt_memory import MemoryConfig, MemorySystem, Policy, Trajectory
from nt_memory.apps.mcp import McpDoor
from nt_memory.apps.mcp.desk import MAILBOX_MESSAGES, MAX_ADVICES, MAX_MAILBOXES
from nt_memory.apps.mcp.tools import TOOLS
from nt_memory.embedders import HashingTextEmbedder

if TYPE_CHECKING:
    from collections.abc import Callable

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def at_desk(run: Any, store: Path) -> Callable[..., Any]:
    """`at_desk(body, agent=…, **config)`: run `await body(client, memory, door)`."""

    def start(body: Any, *, agent: str = "ann", clock: Any = None, **config: Any) -> Any:
        async def main() -> Any:
            settings = MemoryConfig(storage_path=store, **config)
            async with MemorySystem.open(settings, clock=clock) as memory:
                door = McpDoor(memory, agent=agent, embedder=HashingTextEmbedder(64))
                async with Client(door.server) as client:
                    found = await body(client, memory, door)
                await door.close()
                return found

        return run(main())

    return start


async def did(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return result.structured_content


async def refused(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result.content
    told = result.structured_content["error"]
    assert json.loads(result.content[0].text)["error"] == told
    return told


# --- what hosts are told ------------------------------------------------------------------------


def test_every_tool_says_what_it_takes_gives_and_does(at_desk: Any) -> None:
    """Schemas both ways, every argument explained or plain, and hints that fit the effect."""

    async def body(client: Client, *_: Any) -> Any:
        return (await client.list_tools()).tools

    tools = at_desk(body)
    assert [tool.name for tool in tools] == list(TOOLS)
    for tool in tools:
        assert tool.description
        assert tool.title
        assert tool.input_schema["type"] == tool.output_schema["type"] == "object"
        assert tool.input_schema["additionalProperties"] is False
        assert "null" not in json.dumps(tool.input_schema)
        assert tool.annotations.open_world_hint is False
        assert tool.annotations.read_only_hint is not None
    hints = {tool.name: tool.annotations for tool in tools}
    reading = {name for name, hint in hints.items() if hint.read_only_hint}
    assert reading == {
        *("recall", "list_keys", "history", "list_agents", "search", "list_trajectories"),
        *("advise", "list_patterns", "list_locks", "list_proposals", "await_decision"),
        *("calibration", "rank_agents", "uplift", "vote_weights"),
    }
    assert {name for name, hint in hints.items() if hint.destructive_hint} == {"forget"}


def test_every_tool_is_documented() -> None:
    """The reference names each tool, resource and prompt there is."""
    page = (DOCS / "reference" / "mcp.md").read_text()
    for name in (*TOOLS, "review_my_last_decisions", "before_i_decide", "nt-memory://agents"):
        assert f"`{name}" in page, name


# --- arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        ("recall", {"key": "x", "asof": 3}, "asof"),
        ("recall", {}, "key"),
        ("recall", {"key": "x", "as_of": "2026-03-02T16:00:00"}, "naive"),
        ("recall", {"key": "x", "as_of": "yesterday"}, "ISO 8601"),
        ("search", {"text": "x", "top_k": 1000}, "top_k"),
        ("list_keys", {"limit": 0}, "limit"),
        ("vote", {"proposal_id": "x", "approve": "perhaps"}, "approve"),
        ("observe", {"embedding": "not a list"}, "embedding"),
    ],
)
def test_arguments_that_do_not_fit_are_named(
    at_desk: Any, tool: str, arguments: dict[str, Any], says: str
) -> None:
    """An unknown, missing or malformed argument is refused by name; nothing is ignored."""

    async def body(client: Client, *_: Any) -> Any:
        return await refused(client, tool, **arguments)

    error = at_desk(body)
    assert error["type"] == "InvalidArguments"
    assert says in error["message"]


@pytest.mark.parametrize(
    ("tool", "arguments", "kind"),
    [
        ("search", {}, "InvalidInputError"),
        ("search", {"text": "x", "embedding": [1.0]}, "InvalidInputError"),
        ("search", {"embedding": [0.0, 0.0]}, "EmbeddingError"),
        ("search", {"text": "x", "where": {"op": "like", "field": "a", "value": 1}}, "InvalidInputError"),
        ("record_decision", {"action_type": "a", "predicted_low": 1}, "InvalidInputError"),
        ("record_decision", {"action_type": "a", "predicted_outcome": 1}, "TrajectoryError"),
        ("record_decision", {"action_type": "a", "predicted_quantiles": {"x": 1}}, "InvalidInputError"),
        ("record_decision", {"action_type": "a", "advice_id": "gone"}, "InvalidInputError"),
        ("record_outcome", {"trajectory_id": "none", "value": 1}, "UnknownTrajectoryError"),
        ("define_action_type", {"action_type": "a", "target": "t", "unit": "u"}, "InvalidInputError"),
        ("define_action_type", {"action_type": "a", "target": "t", "unit": "u", "horizon_s": 1e300}, "InvalidInputError"),
        ("await_decision", {"proposal_id": "none"}, "UnknownProposalError"),
        ("propose", {"data": 1, "quorum": 2}, "InvalidInputError"),
        ("propose", {"data": 1}, "NotRegisteredError"),
        ("renew_lock", {"resource": "r", "fence": 7}, "LockLostError"),
        ("list_keys", {"cursor": "xyz"}, "InvalidInputError"),
        ("list_keys", {"cursor": "WzEsIDJd"}, "InvalidInputError"),
        ("list_trajectories", {"cursor": "WzAsICJhIl0="}, "InvalidInputError"),
        ("remember", {"key": "../x", "value": 1}, "InvalidNameError"),
        ("publish", {"topic": "a/*", "message": 1}, "InvalidNameError"),
    ],
)  # fmt: skip
def test_what_the_memory_refuses_is_told_as_it_is(
    at_desk: Any, tool: str, arguments: dict[str, Any], kind: str
) -> None:
    """As a tool's answer with the error's own name, never as a mistake of the server's."""

    async def body(client: Client, *_: Any) -> Any:
        return await refused(client, tool, **arguments)

    assert at_desk(body)["type"] == kind


def test_a_refusal_carries_what_helps(at_desk: Any) -> None:
    """The numbers that the next call needs, whether to try again, and what to do."""

    async def body(client: Client, memory: MemorySystem, _: Any) -> None:
        revision = (await did(client, "remember", key="x", value=1))["revision"]
        error = await refused(client, "remember", key="x", value=2, expect=0)
        assert error["type"] == "ConflictError"
        assert error["current"] == revision
        assert error["is_retryable"] is False
        assert "expect" in error["hint"]
        await did(client, "remember", key="x", value=2, expect=error["current"])
        await memory.set_quota("ann", max_keys=1)
        error = await refused(client, "remember", key="y", value=1)
        assert (error["limit"], error["maximum"]) == ("keys", 1)
        async with memory.lock("book", holder="bob"):
            error = await refused(client, "acquire_lock", resource="book", timeout_s=0)
        assert error["type"] == "LockTimeoutError"
        assert error["is_retryable"] is True
        assert "bob" in error["message"]
        await did(client, "observe", text="x", key="x")
        error = await refused(client, "search", embedding=[1.0, 2.0])
        assert (error["type"], error["expected"], error["got"]) == ("DimensionError", 64, 2)

    at_desk(body)


def test_lists_and_objects_may_come_as_text(at_desk: Any) -> None:
    """Some hosts send JSON in a string; a value that is a string stays one."""

    async def body(client: Client, memory: MemorySystem, _: Any) -> None:
        await did(
            client, "observe", embedding="[1, 0]", tags='["a", "b"]', data='{"s": 1}', key="k"
        )
        record = await memory.get_record("ann", "k")
        assert record is not None
        assert (record.value, record.tags) == ('{"s": 1}', ("a", "b"))
        await did(client, "observe", embedding=[0, 1], data={"s": 1}, key="l")
        hits = await did(client, "search", embedding="[1, 0]", where='{"s": 1}', agents='["ann"]')
        assert [hit["key"] for hit in hits["hits"]] == ["l"]
        at = memory.timeline.now.isoformat()
        assert (await did(client, "recall", key="k", as_of=at))["found"]
        assert not (await did(client, "recall", key="l", as_of=str(record.revision)))["found"]

    at_desk(body)


def test_values_that_json_cannot_spell_are_shown(at_desk: Any) -> None:
    """What Python agents stored comes out as JSON; NaN and infinity as text."""

    async def body(client: Client, memory: MemorySystem, _: Any) -> Any:
        value = {
            "at": datetime(2026, 1, 2, tzinfo=UTC),
            "x": math.nan,
            "w": np.array([1.5, math.inf]),
        }
        await memory.put("ann", "x", value)
        return (await did(client, "recall", key="x"))["entry"]["value"]

    assert at_desk(body) == {"at": "2026-01-02T00:00:00+00:00", "x": "nan", "w": [1.5, "inf"]}


def test_without_an_agent_one_has_to_be_named(at_desk: Any) -> None:
    """A connection in nobody's name works as the memory itself, and guesses no owner."""

    async def body(client: Client, memory: MemorySystem, _: Any) -> None:
        error = await refused(client, "remember", key="x", value=1)
        assert "which agent" in error["message"]
        await did(client, "remember", agent="bob", key="x", value=1)
        record = await memory.get_record("bob", "x")
        assert record is not None
        assert record.actor == ""
        assert (await did(client, "list_agents")) == {
            "you": None,
            "agents": ["bob"],
            "next_cursor": None,
        }
        assert "which agent" in (await refused(client, "search", text="x"))["message"]

    at_desk(body, agent="")


# --- pages ------------------------------------------------------------------------------------


async def pages(client: Client, tool: str, what: str, **arguments: Any) -> list[list[Any]]:
    found, cursor = [], None
    while True:
        page = await did(
            client, tool, **arguments, **({} if cursor is None else {"cursor": cursor})
        )
        found.append(page[what])
        cursor = page["next_cursor"]
        if cursor is None:
            return found


def test_pages_show_one_moment(at_desk: Any) -> None:
    """What changes between two pages neither hides a key nor shows it twice; as_of holds on all."""

    async def body(client: Client, memory: MemorySystem, _: Any) -> None:
        keys = [f"orders/{n:02}" for n in range(23)]
        for key in keys:
            await memory.put("ann", key, key)
        first = await did(client, "list_keys", prefix="orders/", limit=10)
        for key in keys[::2]:
            await memory.delete("ann", key)
        await memory.put("ann", "orders/05b", 1)
        second = await did(
            client, "list_keys", prefix="orders/", limit=10, cursor=first["next_cursor"]
        )
        third = await did(
            client, "list_keys", prefix="orders/", limit=10, cursor=second["next_cursor"]
        )
        told = [one["key"] for page in (first, second, third) for one in page["entries"]]
        assert told == keys
        assert third["next_cursor"] is None
        now = await pages(client, "list_keys", "entries", prefix="orders/", limit=6)
        assert [len(page) for page in now] == [6, 6]
        for number in range(5):
            await did(
                client,
                "record_decision",
                action_type="trade",
                parameters=number,
                trajectory_id=f"t{number}",
            )
        told = await pages(client, "list_trajectories", "decisions", limit=2)
        assert [one["parameters"] for page in told for one in page] == [4, 3, 2, 1, 0]
        await did(client, "register_voter")
        for number in range(5):
            await did(client, "propose", data=number)
        told = await pages(client, "list_proposals", "proposals", limit=2)
        assert [[one["data"] for one in page] for page in told] == [[4, 3], [2, 1], [0]]
        told = await pages(client, "list_agents", "agents", limit=1)
        assert told == [["ann"]]

    at_desk(body)


# --- what is kept between calls ---------------------------------------------------------------


def test_mailboxes_are_bounded_and_say_what_they_lost(at_desk: Any) -> None:
    """A mailbox keeps so many messages, tells how many it dropped, once, and there are so many."""

    async def body(client: Client, memory: MemorySystem, _: Any) -> None:
        await did(client, "read_messages", pattern="t")
        for number in range(MAILBOX_MESSAGES + 3):
            await memory.publish("t", number)
        read = await did(client, "read_messages", pattern="t", limit=2)
        assert [one["message"] for one in read["messages"]] == [3, 4]
        assert read["dropped"] == 3
        read = await did(client, "read_messages", pattern="t", limit=MAILBOX_MESSAGES)
        assert len(read["messages"]) == MAILBOX_MESSAGES - 2
        assert read["dropped"] == 0
        for number in range(MAX_MAILBOXES - 1):
            await did(client, "read_messages", pattern=f"more/{number}")
        error = await refused(client, "read_messages", pattern="one/too/many")
        assert "then_close" in error["message"]
        await did(client, "read_messages", pattern="t", then_close=True)
        assert (await did(client, "read_messages", pattern="one/too/many"))["opened_now"]
        assert memory.stats().subscribers == MAX_MAILBOXES

    at_desk(body)


def test_concurrent_reads_share_one_mailbox(at_desk: Any) -> None:
    """Calls at the same time open it once; each message goes to one of them."""

    async def body(client: Client, memory: MemorySystem, _: Any) -> None:
        calls = [
            asyncio.ensure_future(did(client, "read_messages", pattern="t", wait_s=20, limit=1))
            for _ in range(3)
        ]
        while memory.stats().subscribers < 1:
            await asyncio.wait(calls, timeout=0.005)
        for number in range(3):
            await memory.publish("t", number)
        read = await asyncio.gather(*calls)
        assert sorted(one["messages"][0]["message"] for one in read) == [0, 1, 2]
        assert memory.stats().subscribers == 1

    at_desk(body)


def test_advice_is_bounded_and_linked_to_the_decision(at_desk: Any) -> None:
    """The receipt of an advice goes into the decision that names it; the oldest are forgotten."""

    async def body(client: Client, memory: MemorySystem, _: Any) -> None:
        asked = {"text": "calm", "action_type": "trade"}
        first = (await did(client, "advise", **asked))["advice_id"]
        await did(
            client, "record_decision", action_type="trade", advice_id=first, trajectory_id="t"
        )
        assert await memory.bank.receipt("t") is not None
        for _ in range(MAX_ADVICES):
            await did(client, "advise", **asked)
        error = await refused(client, "record_decision", action_type="trade", advice_id=first)
        assert "ask advise again" in error["message"]

    at_desk(body)


def test_a_closed_door_holds_no_lock(run: Any, store: Path) -> None:
    """What an agent forgot to release is free once its server stops, before the lease ends."""

    async def body() -> None:
        async with MemorySystem.open(store) as memory:
            door = McpDoor(memory, agent="ann")
            async with Client(door.server) as client:
                await did(client, "acquire_lock", resource="book", lease_s=3600)
                await did(client, "read_messages", pattern="t")
            assert memory.inspect_lock("book").holder == "ann/mcp"
            await door.close()
            assert memory.inspect_lock("book").holder == ""
            assert memory.stats().subscribers == 0

    run(body())


# --- learning ---------------------------------------------------------------------------------


def test_advice_and_patterns_from_what_happened(at_desk: Any, clock: Any) -> None:
    """With a past to recall, advice has an interval and names its neighbours, and patterns are told."""

    async def body(client: Client, memory: MemorySystem, _: Any) -> None:
        draw = np.random.default_rng(3)
        await memory.bank.define("vol", target="volatility", unit="log", horizon=1)
        start = clock.now() - timedelta(days=400)
        made = []
        for day in range(120):
            at = start + timedelta(days=day)
            situation = draw.normal(size=64)
            one = Trajectory("ann", id=f"t{day}")
            one.add_observation({"day": day}, situation, at=at)
            one.add_action("vol", {}, float(situation[0]), baseline=0.0, at=at)
            one.add_outcome(float(situation[0]) + 0.1, at=at + timedelta(days=1))
            made.append(one.complete())
        await memory.track_many(made)
        advice = await did(
            client,
            "advise",
            embedding=made[7].observations[0].embedding.tolist(),
            action_type="vol",
        )
        assert not advice["is_abstaining"]
        assert advice["low"] < advice["expected"] < advice["high"]
        assert advice["nearest"][0]["trajectory_id"] == "t7"
        assert "volatility" in advice["said"]
        told: list[str] = []

        async def note(_: float, __: float | None, message: str | None) -> None:
            told.append(message or "")

        found = (await client.call_tool("distill", {}, progress_callback=note)).structured_content
        assert found["patterns"]
        assert told[-1] == f"{len(found['patterns'])} patterns"
        shown = await pages(client, "list_patterns", "patterns", limit=1)
        assert [one["id"] for page in shown for one in page] == sorted(
            one["id"] for one in found["patterns"]
        )
        assert all("centroid" not in page[0] for page in shown)
        await asked_of_records(client, memory, made[7].observations[0].embedding.tolist())
        prompt = await client.get_prompt("review_my_last_decisions", {"count": "3"})
        text = prompt.messages[0].content.text
        assert all(f'"t{day}"' in text for day in (119, 118, 117))
        assert '"t116"' not in text
        assert '"n": 120' in text
        whole = await client.read_resource("nt-memory://trajectories/t7")
        assert json.loads(whole.contents[0].text)["verdicts"][0]["actual"] is not None

    at_desk(body, clock=clock)


async def asked_of_records(client: Client, memory: MemorySystem, situation: list[float]) -> None:
    """The tools over records say what the calls of the bank say."""
    bank, name = memory.bank, "ann"
    (record,) = (await did(client, "calibration"))["calibration"]
    regimes = (await did(client, "calibration", by_regime=True))["calibration"]
    (known,) = await bank.calibration(name)
    assert (record["n"], record["regime"]) == (known.n, "")
    assert record["skill"]["value"] == known.skill.value
    assert sum(one["n"] for one in regimes) == known.n
    assert "" not in {one["regime"] for one in regimes}
    ranking = (await did(client, "rank_agents", embedding=situation, agents=[name, "none"]))[
        "ranking"
    ]
    assert [one["agent"] for one in ranking][0 if ranking[0]["score"] > 0 else -1] == name
    assert {one["n"] for one in ranking} == {50, 0}
    assert (await did(client, "uplift"))["value"] is None
    weights = await bank.vote_weights([name])
    assert (await did(client, "vote_weights"))["weights"] == weights
    told = await did(client, "list_trajectories", verdict="pending")
    assert told["decisions"] == []


def test_prompts_are_filled_and_checked(at_desk: Any) -> None:
    """A prompt carries what the memory knows, and says which argument does not fit."""

    async def body(client: Client, *_: Any) -> None:
        await did(client, "record_decision", action_type="trade", text="calm", trajectory_id="t/1")
        text = (await client.get_prompt("review_my_last_decisions", {})).messages[0].content.text
        assert '"t/1"' in text
        assert "no outcome yet" in text
        asked = {"situation": "calm before earnings", "action_type": "trade"}
        text = (await client.get_prompt("before_i_decide", asked)).messages[0].content.text
        assert "calm before earnings" in text
        for name, given, says in (
            ("before_i_decide", {}, "missing situation"),
            ("review_my_last_decisions", {"count": "0"}, "count"),
            ("review_my_last_decisions", {"counts": "1"}, "unknown counts"),
            ("nothing", {}, "there are review_my_last_decisions"),
        ):
            with pytest.raises(MCPError, match=says):
                await client.get_prompt(name, given)

    at_desk(body)


def test_resources_keep_to_rights(at_desk: Any) -> None:
    """What an agent may not read is refused in words, whichever way it asks."""

    async def body(client: Client, memory: MemorySystem, _: Any) -> None:
        await memory.put("bob", "x", 1)
        await memory.track_trajectory(Trajectory("bob", id="b").add_action("trade", {}))
        await memory.set_policy("ann", Policy(read=("ann/**",)))
        for uri in (
            "nt-memory://agents/bob",
            "nt-memory://agents/bob/trajectories",
            "nt-memory://agents/bob/patterns",
            "nt-memory://trajectories/b",
        ):
            with pytest.raises(MCPError, match="may not read"):
                await client.read_resource(uri)
        with pytest.raises(MCPError, match="no trajectory"):
            await client.read_resource("nt-memory://trajectories/none")

    at_desk(body)


def test_names_of_agents_are_completed(at_desk: Any) -> None:
    """Hosts can offer agents' names where one is asked for."""

    async def body(client: Client, memory: MemorySystem, _: Any) -> None:
        for agent in ("anna", "ann", "bob"):
            await memory.put(agent, "x", 1)
        ref = PromptReference(type="ref/prompt", name="review_my_last_decisions")
        found = await client.complete(ref, {"name": "agent", "value": "an"})
        assert found.completion.values == ["ann", "anna"]
        found = await client.complete(ref, {"name": "count", "value": ""})
        assert found.completion.values == []

    at_desk(body)
