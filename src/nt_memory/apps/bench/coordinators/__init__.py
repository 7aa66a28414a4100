"""Who is measured beside this memory: what hands over messages or locks, in a process or by a server.

Nothing in the product imports any of the peers; each is loaded by name when its turn comes, in a
process of its own, and is passed over with a word when it, or its server, is not installed.
"""

from __future__ import annotations

from nt_memory.apps.bench.coordinators.coordinator import (
    Coordinator,
    Locker,
    Messenger,
    Served,
    Threaded,
)
from nt_memory.apps.bench.coordinators.inprocess import Aiologic, Anyio, Asyncio, Blinker, Queues
from nt_memory.apps.bench.coordinators.networked import Nats, Redis
from nt_memory.apps.bench.coordinators.ours import Memory, RelaxedMemory

OURS, RELAXED = "nt-memory", "nt-memory relaxed"
FLOOR = "asyncio"
COORDINATORS: dict[str, type[Coordinator]] = {
    OURS: Memory,
    RELAXED: RelaxedMemory,
    FLOOR: Asyncio,
    "queue": Queues,
    "anyio": Anyio,
    "aiologic": Aiologic,
    "blinker": Blinker,
    "redis": Redis,
    "nats": Nats,
}
PEERS = tuple(name for name in COORDINATORS if name not in {OURS, RELAXED})

__all__ = [
    "COORDINATORS",
    "FLOOR",
    "OURS",
    "PEERS",
    "RELAXED",
    "Coordinator",
    "Locker",
    "Messenger",
    "Served",
    "Threaded",
]
