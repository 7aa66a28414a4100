"""A news agent: has this story been told before, and what did prices do then?

Headlines are remembered under their wording (no model to download) with what the price did in the days
after. A new headline is first compared with what came lately: a rewrite of a known story is not news.
Then with what came ever, as of now: the tenth of March sees nothing of the eleventh.

    python examples/news_agent.py

It works in a temporary directory and leaves nothing behind.
"""

import asyncio
import statistics
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from nt_memory import MemoryConfig, MemorySystem
from nt_memory.embedders import HashingTextEmbedder

AGENT = "news"
SAME_STORY = 0.55
"""Cosine similarity from which two headlines are one story told twice."""
ALIKE = 0.3
"""And from which they are of one kind. Both were found by looking at headlines, as yours must be."""
EARLIER = timedelta(days=4)

# When, about whom, what, and the return of the five days after (made up, like the companies).
PAST = [
    ("2024-02-05", "ACME", "Acme cuts full-year revenue forecast on weak demand", -0.061),
    ("2024-02-06", "ACME", "Acme lowers full year revenue forecast, citing weak demand", -0.057),
    ("2024-04-17", "BOLT", "Bolt Motors recalls 40,000 cars over brake fault", -0.032),
    ("2024-05-02", "ACME", "Acme announces 2 billion share buyback", 0.024),
    ("2024-07-30", "CORA", "Cora Health cuts revenue forecast after trial delay", -0.083),
    ("2024-09-12", "BOLT", "Bolt Motors to buy back shares worth 500 million", 0.017),
    ("2024-11-04", "CORA", "Cora Health drug wins approval", 0.122),
    ("2025-01-22", "DYNE", "Dyne cuts its annual revenue forecast on weak European demand", -0.044),
]
TODAY = [
    ("2025-03-10 13:30", "BOLT", "Bolt Motors cuts full-year revenue forecast on weak demand"),
    (
        "2025-03-10 13:41",
        "BOLT",
        "Bolt Motors lowers its full-year revenue forecast on weak demand",
    ),
    ("2025-03-10 15:00", "CORA", "Cora Health names new chief financial officer"),
]


class NewsAgent:
    """Remembers headlines, and says what similar ones were worth."""

    def __init__(self, memory: MemorySystem) -> None:
        self._memory = memory
        self._embedder = HashingTextEmbedder()

    async def read(self, at: datetime, symbol: str, headline: str) -> str:
        """Remember a headline under a key of its own; the key."""
        (vector,) = self._embedder.embed([headline])
        return await self._memory.observe(
            AGENT,
            vector,
            {"symbol": symbol, "headline": headline, "move": None},
            key=f"{at:%Y%m%dT%H%M}/{symbol}",
            tags=[symbol],
        )

    async def learn(self, key: str, move: float) -> None:
        """What the price did; known from now on, and not in any search as of an earlier time."""
        story = await self._memory.get(AGENT, key)
        (vector,) = self._embedder.embed([story["headline"]])
        await self._memory.observe(
            AGENT, vector, {**story, "move": move}, key=key, tags=[story["symbol"], "done"]
        )

    async def is_retold(self, now: datetime, symbol: str, headline: str) -> bool:
        """Whether the last days had this story already."""
        (vector,) = self._embedder.embed([headline])
        hits = await self._memory.search_similar(AGENT, vector, top_k=1, tags=[symbol])
        return bool(hits) and hits[0].score >= SAME_STORY and now - hits[0].known_at < EARLIER

    async def expect(self, headline: str) -> tuple[float, list[str]] | None:
        """The mean move after the most similar stories of anybody, and which those are."""
        (vector,) = self._embedder.embed([headline])
        hits = await self._memory.search_similar(AGENT, vector, top_k=3, tags=["done"])
        alike = [hit for hit in hits if hit.score >= ALIKE]
        if len(alike) < 2:
            return None
        return statistics.mean(hit.data["move"] for hit in alike), [hit.key for hit in alike]


async def live_through_the_past(memory: MemorySystem, agent: NewsAgent) -> None:
    """Each headline when it came, and each move five days later, in the order of time."""
    waiting: list[tuple[datetime, str, float]] = []
    for date, symbol, headline, move in PAST:
        at = datetime.fromisoformat(f"{date} 14:00+00:00")
        while waiting and waiting[0][0] <= at:
            due, key, known = waiting.pop(0)
            await memory.timeline.advance(due)
            await agent.learn(key, known)
        await memory.timeline.advance(at)
        key = await agent.read(at, symbol, headline)
        waiting.append((at + timedelta(days=5), key, move))
    for due, key, known in waiting:
        await memory.timeline.advance(due)
        await agent.learn(key, known)


async def main() -> None:
    """A year of headlines on a backtest timeline, then a day."""
    with tempfile.TemporaryDirectory() as directory:
        config = MemoryConfig(storage_path=Path(directory), timeline="backtest")
        async with MemorySystem.open(config) as memory:
            agent = NewsAgent(memory)
            await live_through_the_past(memory, agent)
            told: list[bool] = []
            for time, symbol, headline in TODAY:
                now = datetime.fromisoformat(f"{time}+00:00")
                await memory.timeline.advance(now)
                told.append(await agent.is_retold(now, symbol, headline))
                await agent.read(now, symbol, headline)
                print(f"{now:%H:%M} {symbol}: {headline}")
                if told[-1]:
                    print("      told before: ignored")
                elif expected := await agent.expect(headline):
                    move, keys = expected
                    print(f"      similar stories moved {move:+.1%} ({', '.join(keys)})")
                else:
                    print("      nothing like it is known: no opinion")
            assert told == [False, True, False]

            # In April 2024 only one such story had ended; a search as of then says the same today.
            (vector,) = HashingTextEmbedder().embed([TODAY[0][2]])
            april = datetime(2024, 4, 1, tzinfo=UTC)
            known = await memory.search_similar(AGENT, vector, tags=["done"], as_of=april)
            print("known in April 2024:", [hit.key for hit in known])
            assert {hit.data["symbol"] for hit in known} == {"ACME"}


if __name__ == "__main__":
    asyncio.run(main())
