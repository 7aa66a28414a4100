"""A desk to look at: a store with something of everything, and agents that go on trading over HTTP.

For the browser tests, the screenshots and the measurement of the page. The prices are made up.
"""

from __future__ import annotations

import asyncio
import math
import random
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

from nt_memory import Proposal, Trajectory, Vote
from nt_memory.clock import SystemClock, to_datetime
from nt_memory.embedders import HashingTextEmbedder, aembed

if TYPE_CHECKING:
    import httpx

    from nt_memory import MemorySystem

AGENTS = (
    *("scout_us", "scout_eu", "vol_short", "vol_long", "pairs_tech", "pairs_energy"),
    *("carry_fx", "trend_fut", "hedger", "risk", "execution", "coordinator"),
)
TICKERS = ("AAPL", "MSFT", "XOM", "JPM", "NVDA", "CVX", "KO", "PG")
NEWS = (
    ("Central bank holds rates, hints at a cut in spring", "rates"),
    ("Oil falls four percent after inventories build", "energy"),
    ("Chip maker raises guidance on data centre demand", "tech"),
    ("Payrolls beat estimates, yields climb", "rates"),
    ("Refinery outage lifts crack spreads", "energy"),
    ("Regulator opens inquiry into app store fees", "tech"),
    ("Bank reports higher provisions for bad loans", "banks"),
    ("Consumer confidence slips for a third month", "macro"),
)
FORECASTS = 160


async def fill(memory: MemorySystem) -> None:
    """Something for every view."""
    chance = random.Random(7)  # noqa: S311
    now = SystemClock().now_us()
    for n, agent in enumerate(AGENTS):
        for step in range(4):
            at = to_datetime(now - (4 - step) * 900_000_000 - n * 40_000_000 * (n % 3))
            shares = {t: chance.randrange(-40, 60) * 10 for t in chance.sample(TICKERS, 3)}
            await memory.put(agent, "position", shares, known_at=at)
        await memory.put(agent, "cash", round(chance.uniform(1e4, 9e5), 2))
        await memory.put(agent, "limits/gross", 2_000_000)
    await _observe(memory, now)
    for agent, skill in (("vol_short", 0.8), ("vol_long", 0.5)):
        await _forecast(memory, agent, skill, now)
    await _vote(memory)


async def _observe(memory: MemorySystem, now: int) -> None:
    texts = [f"{text} ({n})" for n in range(12) for text, _ in NEWS]
    vectors = await aembed(HashingTextEmbedder(384), texts)
    times = [to_datetime(now - (len(texts) - n) * 600_000_000) for n in range(len(texts))]
    await memory.observe_many(
        "scout_us",
        np.asarray(vectors),
        [{"headline": text} for text in texts],
        keys=[f"news/{n:03}" for n in range(len(texts))],
        tags=[[NEWS[n % len(NEWS)][1]] for n in range(len(texts))],
        known_at=times,
    )


async def _forecast(memory: MemorySystem, agent: str, skill: float, now: int) -> None:
    """Forecasts of volatility in three regimes, an hour apart, with what came of all but the last."""
    chance = np.random.default_rng(3)
    await memory.bank.define(
        "volatility", target="next hour's volatility", unit="%", horizon=timedelta(hours=1)
    )
    level = 1.0
    for n in range(FORECASTS):
        at = to_datetime(now - (FORECASTS - n) * 3_600_000_000)
        level = float(np.clip(level + chance.normal(0, 0.12) + 0.06 * math.sin(n / 9), 0.3, 3.0))
        came = level * float(np.exp(chance.normal(0, 0.10)))
        guess = skill * came + (1 - skill) * level + float(chance.normal(0, 0.08))
        regime = np.eye(3)[min(2, int(level / 0.9))]
        seen = np.concatenate([regime, [level, math.sin(n / 9), math.cos(n / 9)]])
        built = Trajectory(agent, id=f"{agent}/{n:03}")
        built.add_observation({"level": round(level, 3)}, seen + chance.normal(0, 0.1, 6), at=at)
        built.add_action(
            "volatility",
            {"horizon": "1h"},
            guess,
            predicted_interval=(guess - 0.25, guess + 0.25),
            baseline=level,
            at=at,
        )
        await memory.track_trajectory(built)
        if n < FORECASTS - 3:
            known = at + timedelta(hours=1, minutes=5)
            await memory.record_outcome(built.id, came, known_at=min(known, to_datetime(now)))
    await memory.bank.distill(agent)


async def _vote(memory: MemorySystem) -> None:
    for agent in AGENTS[:9]:
        await memory.consensus.register_agent(agent)
    for name, data, ayes, noes in (
        ("halve-energy", {"action": "reduce", "sector": "energy", "by": "50 %"}, 6, 1),
        ("double-leverage", {"action": "leverage", "to": 2.0}, 1, 5),
        ("hedge-overnight", {"action": "hedge", "with": "index puts", "notional": 250_000}, 3, 1),
    ):
        await memory.consensus.submit_proposal(Proposal(AGENTS[8], data, id=name))
        for n, agent in enumerate(AGENTS[: ayes + noes]):
            await memory.consensus.vote(Vote(name, agent, n < ayes))


async def trade(client: httpx.AsyncClient, seconds: float, pause: float = 0.05) -> None:
    """What agents do, as requests to a server: positions, messages, searches, a lock with a queue."""
    chance = random.Random(11)  # noqa: S311
    clock = SystemClock()
    ends = clock.monotonic_ns() + round(seconds * 1e9)
    waiting = [
        asyncio.ensure_future(_hold(client, name)) for name in ("hedger", "risk", "vol_long")
    ]
    try:
        n = 0
        while clock.monotonic_ns() < ends:
            agent = chance.choice(AGENTS)
            shares = {t: chance.randrange(-40, 60) * 10 for t in chance.sample(TICKERS, 3)}
            await client.put(f"/v1/state/{agent}/position", json={"value": shares})
            for topic in ("signal", "fill", "quote")[: 1 + n % 3]:
                message = {
                    "ticker": chance.choice(TICKERS),
                    "price": round(chance.uniform(40, 400), 2),
                }
                await client.post(
                    "/v1/messages", json={"topic": f"{agent}/{topic}", "message": message}
                )
            if n % 4 == 0:
                query = {"agents": ["scout_us"], "text": chance.choice(NEWS)[0], "top_k": 3}
                await client.post("/v1/search", json=query)
            await client.get(f"/v1/state/{agent}/position")
            n += 1
            await clock.sleep(pause)
    finally:  # also when whoever takes pictures has enough
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _hold(client: httpx.AsyncClient, name: str) -> None:
    while True:
        body = {"resource": "book/rebalance", "holder": name, "timeout": 30, "lease": 20}
        found = await client.post("/v1/locks/acquire", json=body, timeout=40)
        if found.status_code != 200:
            continue
        await SystemClock().sleep(4)
        grant = {"resource": "book/rebalance", "fence": found.json()["fence"]}
        await client.post("/v1/locks/release", json=grant)
