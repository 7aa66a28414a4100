"""A risk committee: five agents vote on cutting the book, one order is sent, whatever dies meanwhile.

The electorate and its weights are fixed when the proposal is made; votes are entries in the one order of
everything, so everybody sees the same decision. The order is sent under a name made from the proposal.

    python examples/risk_committee.py

It works in a temporary directory and leaves nothing behind.
"""

import asyncio
import tempfile
from datetime import UTC, datetime, timedelta
from typing import Any

from nt_memory import Approved, MemorySystem, Pending, Proposal, Rejected, Vote
from nt_memory.coordination.receivers import Receiver

WEIGHTS = {"volatility": 1.5, "liquidity": 1.0, "credit": 1.0, "momentum": 0.5, "news": 0.5}
LIMITS = {"volatility": 0.20, "liquidity": 0.15, "credit": 0.25, "momentum": 0.50, "news": 0.40}
"""From which drawdown on each member wants the book cut."""


async def member(memory: MemorySystem, name: str, proposals: Receiver) -> None:
    """Wait for proposals on the bus, and vote by this member's own limit."""
    async with proposals:
        async for proposal in proposals:
            approve = proposal["drawdown"] >= LIMITS[name]
            # Later than the decision is fine: such a vote changes nothing.
            await memory.consensus.vote(Vote(proposal["id"], name, approve=approve))


async def executor(memory: MemorySystem, proposal_id: str) -> str | None:
    """Carry a decision out. Any number of these may run; one of them does it."""
    result = await memory.consensus.wait(proposal_id, timeout=5.0)
    if not isinstance(result, Approved):
        return None
    async with memory.lock("book", timeout=5.0) as token:
        order = f"orders/{proposal_id}"
        if await memory.get("desk", order) is not None:
            return None  # somebody was here before
        position = await memory.get("desk", "position")
        async with memory.transaction(fence=token, request_id=f"execute/{proposal_id}") as tx:
            tx.put("desk", "position", {symbol: held // 2 for symbol, held in position.items()})
            tx.put("desk", order, {"halved": sorted(position)})
    return order


async def ask(memory: MemorySystem, drawdown: float) -> tuple[Any, list[str]]:
    """Put a question to the committee; how it ended, and which orders came of it."""
    proposal_id = await memory.consensus.submit_proposal(
        Proposal(
            "risk",
            {"action": "halve the book", "drawdown": drawdown},
            quorum="2/3",
            deadline=datetime.now(UTC) + timedelta(seconds=1.0),
            weights=WEIGHTS,
        )
    )
    executors = [asyncio.create_task(executor(memory, proposal_id)) for _ in range(3)]
    await memory.publish("committee/proposals", {"id": proposal_id, "drawdown": drawdown})
    result = await memory.consensus.wait(proposal_id, timeout=5.0)
    orders = [order for order in await asyncio.gather(*executors) if order is not None]
    return result, orders


async def main() -> None:
    """One question that passes, one that does not."""
    with tempfile.TemporaryDirectory() as directory:
        async with MemorySystem.open(directory) as memory:
            for name, weight in WEIGHTS.items():
                await memory.consensus.register_agent(name, weight=weight)
            await memory.put("desk", "position", {"AAPL": 40, "XOM": 24})
            members = [
                asyncio.create_task(
                    member(memory, name, await memory.subscribe("committee/proposals"))
                )
                for name in WEIGHTS
            ]

            result, orders = await ask(memory, drawdown=0.30)
            assert isinstance(result, Approved), result
            assert len(orders) == 1
            print("30 % drawdown:", type(result).__name__.lower(), "and carried out once:", orders)
            print("position now", await memory.get("desk", "position"))

            result, orders = await ask(memory, drawdown=0.08)
            assert isinstance(result, Rejected | Pending), result
            assert not orders
            print(" 8 % drawdown:", type(result).__name__.lower())
            for task in members:
                task.cancel()
            await asyncio.gather(*members, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())
