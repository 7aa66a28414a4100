"""A market maker that runs twice, and never quotes twice: fenced orders.

Two instances of one market maker stand by for each other. Whoever holds the lock of a symbol quotes it.
The one that stalls loses its lease, and what it does afterwards is refused twice over: by the memory, which
knows the fence, and by the exchange, which is told it with every order.

    python examples/market_maker.py

It works in a temporary directory and leaves nothing behind.
"""

import asyncio
import random
import tempfile
from dataclasses import dataclass, field

from nt_memory import LockToken, MemorySystem
from nt_memory.errors import LockLostError, StaleFenceError

SYMBOL = "AAPL"
LEASE = 0.2
ROUNDS = 12
HALF_SPREAD = 0.05
SKEW = 0.01
"""By how much the quotes move for each share held, so that the inventory goes back to zero."""


@dataclass
class Exchange:
    """A venue that fills about every other quote, and knows the newest generation of orders it has seen."""

    mid: float = 100.0
    generation: int = 0
    refused: int = 0
    dice: random.Random = field(default_factory=lambda: random.Random(7))  # noqa: S311 - a toy venue

    def quote(self, bid: float, ask: float, generation: int) -> list[tuple[int, float]]:
        """Replace both quotes; the fills since, as quantity (negative: sold) and price.

        Orders of an older generation than any seen before are refused, as a gateway would that
        keeps the greatest fence it was told.
        """
        if generation < self.generation:
            self.refused += 1
            return []
        self.generation = generation
        self.mid += self.dice.gauss(0, 0.04)
        fills: list[tuple[int, float]] = []
        if self.dice.random() < 0.5 + (bid - self.mid + HALF_SPREAD):
            fills.append((1, bid))
        if self.dice.random() < 0.5 - (ask - self.mid - HALF_SPREAD):
            fills.append((-1, ask))
        return fills


async def quote_once(memory: MemorySystem, exchange: Exchange, token: LockToken) -> None:
    """One round: quotes around the inventory, then position and cash, together or not at all."""
    book = await memory.get("market-maker", f"book/{SYMBOL}", {"position": 0, "cash": 0.0})
    middle = exchange.mid - SKEW * book["position"]
    bid, ask = round(middle - HALF_SPREAD, 2), round(middle + HALF_SPREAD, 2)
    # First what we are about to do, under the fence: whoever takes over knows what may be out there.
    await memory.put(
        "market-maker", f"quotes/{SYMBOL}", {"bid": bid, "ask": ask}, fence=token, ttl=60.0
    )
    fills = exchange.quote(bid, ask, generation=token.fence)
    position = book["position"] + sum(quantity for quantity, _ in fills)
    cash = book["cash"] - sum(quantity * price for quantity, price in fills)
    async with memory.transaction(fence=token) as tx:
        tx.put("market-maker", f"book/{SYMBOL}", {"position": position, "cash": cash})
        tx.put("market-maker", f"fills/{SYMBOL}", [list(fill) for fill in fills])


async def instance(
    name: str, memory: MemorySystem, exchange: Exchange, rounds: list[str], stalls_at: int
) -> None:
    """Quote whenever the lock is ours; at one point stall for longer than the lease."""
    while len(rounds) < ROUNDS:
        token = await memory.acquire_lock(f"quotes/{SYMBOL}", timeout=10.0, lease=LEASE)
        try:
            for _ in range(3):
                if token.lost.is_set() or len(rounds) >= ROUNDS:
                    break
                if len(rounds) == stalls_at:
                    print(f"{name} stalls while it holds fence {token.fence}")
                    await asyncio.sleep(1.5 * LEASE)
                    stalls_at = -1
                await quote_once(memory, exchange, token)
                rounds.append(name)
            await memory.release_lock(token)
        except (StaleFenceError, LockLostError):
            print(f"{name} comes back too late: its write is refused, nothing was sent")


async def main() -> None:
    """Two instances, one book."""
    with tempfile.TemporaryDirectory() as directory:
        async with MemorySystem.open(directory) as memory:
            exchange, rounds = Exchange(), []
            await asyncio.gather(
                instance("first", memory, exchange, rounds, stalls_at=7),
                instance("second", memory, exchange, rounds, stalls_at=-1),
            )
            # A stalled instance that skips the memory altogether meets the exchange's own check.
            exchange.quote(99.0, 101.0, generation=1)
            book = await memory.get("market-maker", f"book/{SYMBOL}")
            value = book["cash"] + book["position"] * exchange.mid
            print(
                f"{rounds.count('first')} rounds by the first, {rounds.count('second')} by the second"
            )
            print(f"position {book['position']:+d}, worth {value:+.2f} at {exchange.mid:.2f}")
            print(f"orders of an old generation refused by the exchange: {exchange.refused}")
            # What the book was after each round is still there, and nobody wrote it twice.
            versions = [record async for record in memory.history("market-maker", f"book/{SYMBOL}")]
            assert len(versions) == len(rounds)
            assert {"first", "second"} == set(rounds)


if __name__ == "__main__":
    asyncio.run(main())
