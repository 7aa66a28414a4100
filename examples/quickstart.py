"""State, time, similarity, a fenced trade and a vote, in one minute: `python examples/quickstart.py`.

It works in a temporary directory and leaves nothing behind.
"""

import asyncio
import tempfile

from nt_memory import Approved, MemorySystem, Proposal, Vote
from nt_memory.errors import StaleFenceError


async def remember(memory: MemorySystem) -> None:
    """What is known now, and what was known before."""
    first = await memory.put("trader", "position", {"AAPL": 10})
    await memory.put("trader", "position", {"AAPL": 25})
    print("now:   ", await memory.get("trader", "position"))
    print("before:", await memory.get("trader", "position", as_of=first))


async def recall(memory: MemorySystem) -> None:
    """Situations that looked like this one, and how they ended."""
    await memory.observe_many(
        "analyst",
        [[0.9, 0.1, 0.4], [0.1, 0.9, 0.2], [0.8, 0.2, 0.5]],
        [{"outcome": "fell"}, {"outcome": "rose"}, {"outcome": "fell"}],
        tags=[["2020"], ["2021"], ["2022"]],
    )
    for hit in await memory.search_similar("analyst", [1.0, 0.0, 0.5], top_k=2):
        print(f"similar {hit.score:.3f}: {hit.data['outcome']}")


async def trade(memory: MemorySystem) -> None:
    """Position and cash move together, and only while the lock is really held."""
    token = await memory.acquire_lock("book")
    async with memory.transaction(fence=token) as tx:
        tx.put("trader", "position", {"AAPL": 0})
        tx.put("trader", "cash", 4_700.0)
    await memory.release_lock(token)
    try:
        await memory.put("trader", "position", {"AAPL": 99}, fence=token)
    except StaleFenceError as error:
        print("refused:", error)


async def decide(memory: MemorySystem) -> None:
    """Two of three agree."""
    for agent in ("alice", "bob", "carol"):
        await memory.consensus.register_agent(agent)
    question = Proposal("alice", {"action": "de-risk"}, quorum="2/3")
    proposal = await memory.consensus.submit_proposal(question)
    await memory.consensus.vote(Vote(proposal, "alice", approve=True))
    result = await memory.consensus.vote(Vote(proposal, "bob", approve=True))
    print("approved:", isinstance(result, Approved))


async def main() -> None:
    """Run all of it."""
    with tempfile.TemporaryDirectory() as directory:
        async with MemorySystem.open(directory) as memory:
            await remember(memory)
            await recall(memory)
            await trade(memory)
            await decide(memory)


if __name__ == "__main__":
    asyncio.run(main())
