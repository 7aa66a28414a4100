"""A store with some of everything in it, and all that can be asked of it; for `test_damage`.

Every answer is one line of text under a name, so that two stores can be compared answer by answer.
Questions name the times and revisions they are about: an answer does not change because the store
was opened once more.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from nt_memory import ManualClock, MemorySystem, Proposal, Record, Trajectory, Vote
from nt_memory.clock import SystemClock, to_datetime
from nt_memory.errors import NtMemoryError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from typing import TextIO

AGENTS = ("alice", "bob")
DIM = 64
HEAD_ROWS = 33_000
"""Observations of alice's before the base: just enough of them for a graph to be built."""
SMALL_ROWS = 300
BIG_BYTES = 1_200_000
"""Of a value that is kept in a file of its own."""
TOP_K = 5
NEAR = 60
"""Among so many an approximate search finds its few."""


async def build(store: Path, unclean: Path, *, seed: int, with_graph: bool) -> dict[str, Any]:
    """Make a store at `store`, and beside it the same one as a killed process leaves it.

    Args:
        store: Where; closed cleanly.
        unclean: The same after the same entries, but nobody closed it.
        seed: Of everything in it.
        with_graph: With so many observations that an index is built and saved.

    Returns:
        What `answers` has to be told: times, revisions and names to ask about.
    """
    draw = np.random.default_rng(seed)
    clock = ManualClock(to_datetime(SystemClock().now_us()) - timedelta(hours=2))
    plan: dict[str, Any] = {"times": [], "revisions": [], "keys": {}, "queries": []}
    plan["queries"] = draw.normal(size=(4, DIM)).round(3).tolist()
    async with MemorySystem.open(store, clock=clock) as memory:
        await _past(memory, clock, draw, plan, HEAD_ROWS if with_graph else SMALL_ROWS)
        await memory.compact()
        plan["base"] = memory.revision
        for part in range(4):
            await _present(memory, clock, draw, plan, part)
            await asyncio.to_thread(memory._engine.opened.journal.begin_segment)
        await _last(memory, clock)
        plan["revision"] = memory.revision
        for agent in AGENTS:
            plan["keys"][agent] = sorted([record.key async for record in memory.scan(agent)])
        if with_graph:
            await asyncio.to_thread(memory._engine.vectors.wait_indexed, 60.0)
            await asyncio.to_thread(memory._engine.vectors.save)
        await memory.flush()
        shutil.copytree(store, unclean)
    return plan


async def _past(
    memory: MemorySystem, clock: ManualClock, draw: Any, plan: dict[str, Any], rows: int
) -> None:
    """What the base will hold."""
    for n in range(5):
        for agent in AGENTS:
            await asyncio.gather(
                *(memory.put(agent, f"key/{i}", {"n": n, "i": i}) for i in range(25))
            )
        clock.advance(30)
        plan["times"].append(clock.now().isoformat())
        clock.advance(30)
    keys = [f"o{n:05}" for n in range(rows)]
    for first in range(0, rows, 4_096):
        some = keys[first : first + 4_096]
        vectors = draw.normal(size=(len(some), DIM)).astype(np.float32)
        data = [{"n": first + n, "symbol": "AB"[n % 2]} for n in range(len(some))]
        await memory.observe_many("alice", vectors, data, keys=some)
    await memory.consensus.register_agent("alice")
    await memory.consensus.register_agent("bob", weight=2)
    await memory.put("bob", "weights", draw.bytes(BIG_BYTES))
    plan["fence"] = (await memory.acquire_lock("desk", lease=86_400.0)).fence


async def _present(
    memory: MemorySystem, clock: ManualClock, draw: Any, plan: dict[str, Any], part: int
) -> None:
    """What one segment of the journal will hold."""
    clock.advance(60)
    for n in range(3):
        for agent in AGENTS:
            await asyncio.gather(
                *(memory.put(agent, f"key/{i}", {"part": part, "n": n}) for i in range(12))
            )
    late = clock.now() - timedelta(seconds=45)
    await memory.put("alice", f"key/{part}", "known before", known_at=late)
    await memory.put("alice", f"late/{part}", part, known_at=late)
    await memory.put("bob", f"brief/{part}", part, ttl=20.0)
    await memory.put("bob", f"lasting/{part}", part, ttl=864_000.0)
    await memory.put("bob", f"gone/{part}", part)
    await memory.delete("bob", f"gone/{part}")
    await memory.put("bob", f"text/{part}", "as it was " * 3_000)
    await memory.put("bob", f"noise/{part}", draw.bytes(20_000))
    if part == 1:
        await memory.put("bob", "weights", draw.bytes(BIG_BYTES))
    await memory.put("bob", f"series/{part}", draw.normal(size=(40, 50)))
    async with memory.transaction() as tx:
        tx.put("alice", "position", {"AAPL": part})
        tx.put("alice", "cash", 1000 - part)
    for n in range(20):
        key, tags = f"p{part}/{n:02}", ("calm",) if n % 3 else ("wild", "late")
        await memory.observe("alice", draw.normal(size=DIM), {"n": n}, key=key, tags=tags)
        await memory.observe("bob", draw.normal(size=DIM), {"n": n}, key=key)
    await memory.bank.define("buy", target="return", unit="fraction", horizon=timedelta(seconds=5))
    trajectory = Trajectory("alice", id=f"t{part}")
    trajectory.add_observation({"vix": 20 + part}, draw.normal(size=DIM))
    trajectory.add_action("buy", {"size": part}, 0.02, baseline=0.01)
    await memory.track_trajectory(trajectory.complete())
    clock.advance(10)
    await memory.record_outcome(trajectory.id, 0.01 * part)
    proposal = await memory.consensus.submit_proposal(Proposal("bob", {"buy": part}, id=f"b{part}"))
    await memory.consensus.vote(Vote(proposal, "alice", approve=True))
    await memory.put("alice", "once", part, request_id=f"r{part}")
    plan["times"].append(clock.now().isoformat())
    plan["revisions"].append(memory.revision)


async def _last(memory: MemorySystem, clock: ManualClock) -> None:
    clock.advance(30)
    await memory.put("alice", "key/0", "the last but two")
    await memory.put("bob", "key/0", "the last but one")
    await memory.put("alice", "key/1", "the last")


class Asking:
    """Asks one question after another and writes each answer down at once: this may be killed."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    async def ask(
        self, name: str, call: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any
    ) -> None:
        """Make a call and write down the answer, or the error."""
        try:
            answer = {"is": _text(await call(*args, **kwargs))}
        except NtMemoryError as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        except Exception as error:  # noqa: BLE001 - the parent judges it: it must be none of ours
            answer = {"crash": f"{type(error).__name__}: {error}"}
        self._out.write(json.dumps([name, answer]) + "\n")
        self._out.flush()


async def answers(store: Path, plan: dict[str, Any], out: TextIO) -> None:
    """Open the store and ask it everything."""
    asking = Asking(out)
    memories: list[MemorySystem] = []

    async def opened() -> str:
        memories.append(await MemorySystem.open(store))
        return "yes"

    await asking.ask("open", opened)
    for memory in memories:
        try:
            for agent in AGENTS:
                await _ask_state(asking, memory, plan, agent)
            await _ask_search(asking, memory, plan)
            await asking.ask("order", _ask_order, asking, memory, plan)
            await _ask_agreements(asking, memory, plan)
        finally:
            await asking.ask("close", memory.close)


async def _ask_state(
    asking: Asking, memory: MemorySystem, plan: dict[str, Any], agent: str
) -> None:
    await asking.ask(f"scan {agent}", _all, memory.scan, agent)
    for key in (*plan["keys"][agent][:70], *plan["keys"][agent][-9:], "gone/1", "never"):
        await asking.ask(f"get {agent} {key}", memory.get, agent, key)
        await asking.ask(f"history {agent} {key}", _all, memory.history, agent, key)
        for place, text in enumerate(plan["times"][::3]):
            when = datetime.fromisoformat(text)
            await asking.ask(f"at{place} {agent} {key}", memory.get, agent, key, as_of=when)
    for place, text in enumerate(plan["times"]):
        when = datetime.fromisoformat(text)
        await asking.ask(f"scan at{place} {agent}", _all, memory.scan, agent, "key/", as_of=when)
    for revision in plan["revisions"]:
        name = f"order: scan at {revision} {agent}"
        await asking.ask(name, _all, memory.scan, agent, "key/", as_of=revision)


async def _ask_search(asking: Asking, memory: MemorySystem, plan: dict[str, Any]) -> None:
    for place, query in enumerate(plan["queries"]):
        search, name = memory.search_similar, f"search {place}"
        await asking.ask(name, search, ["alice", "bob"], query, TOP_K, exact=True)
        await asking.ask(f"near {name}", search, "alice", query, NEAR, exact=True)
        await asking.ask(f"about {name}", search, "alice", query, TOP_K)
        await asking.ask(f"tags {name}", search, "alice", query, TOP_K, tags=["wild"])
        where = {"symbol": "A"}
        await asking.ask(f"where {name}", search, "alice", query, TOP_K, where=where, exact=True)
        when = datetime.fromisoformat(plan["times"][-2])
        await asking.ask(f"past {name}", search, "bob", query, TOP_K, as_of=when, exact=True)


async def _ask_order(asking: Asking, memory: MemorySystem, plan: dict[str, Any]) -> None:
    """What only the journal knows, entry by entry."""
    mark = await memory.put("alice", "mark", 1)
    await asking.ask("order: tail", _until, mark, memory.tail, after=plan["base"])
    last = plan["revisions"][-1]
    if last < mark:  # else it would wait for what is yet to come
        await asking.ask(f"order: tail after {last}", _until, mark, memory.tail, after=last)
    await asking.ask("order: watch", _until, mark, memory.watch, "alice", after=plan["base"])


async def _ask_agreements(asking: Asking, memory: MemorySystem, plan: dict[str, Any]) -> None:
    await asking.ask("trajectories", memory.bank.trajectories, "alice")
    for part in range(4):
        await asking.ask(f"trajectory {part}", memory.bank.trajectory, f"t{part}")
        await asking.ask(f"verdicts {part}", memory.bank.judge, f"t{part}")
        await asking.ask(f"proposal {part}", memory.consensus.get_proposal, f"b{part}")
        await asking.ask(f"result {part}", memory.consensus.get_result, f"b{part}")
    await asking.ask("proposals", memory.consensus.list_proposals)
    name = f"repeated at {plan['revisions'][-1]}"
    await asking.ask(name, memory.put, "alice", "once", "again", request_id="r3")
    await asking.ask("fence", _is_later, memory, plan["fence"])


async def _is_later(memory: MemorySystem, fence: int) -> bool:
    return (await memory.acquire_lock("desk", 0.0)).fence > fence


async def _all(method: Any, *args: Any, **kwargs: Any) -> list[Any]:
    return [one async for one in method(*args, **kwargs)]


async def _until(mark: int, method: Any, *args: Any, **kwargs: Any) -> list[Any]:
    """What came before the mark, but for what opening the store added."""
    found = []
    async for one in method(*args, **kwargs):
        if one.revision >= mark:
            break
        if getattr(one, "kind", "") not in {"session", "tick"}:
            found.append(one)
    return found


def _text(value: Any) -> str:
    if isinstance(value, list):
        return json.dumps([_text(one) for one in value])
    if isinstance(value, Record) and isinstance(value.value, bytes):
        return repr((_text(value.value), dataclasses.replace(value, value=None)))
    if isinstance(value, Trajectory):
        seen = [(one.data, one.embedding, one.at) for one in value.observations]
        done = [(one.doc, one.parameters, one.situation) for one in value.actions]
        return repr((value.id, value.agent_id, seen, done, value.outcomes, value.score()))
    if isinstance(value, bytes) and len(value) > BIG_BYTES // 2:
        return f"{len(value)} bytes: {crc32(value)}"
    with np.printoptions(threshold=1_000_000, floatmode="unique"):
        return repr(value)
