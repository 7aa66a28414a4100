"""What is left of acknowledged writes when a peer, and its server if it has one, is killed in mid-write.

The writer tells of each write after its call has returned, over a pipe, and the next one begins only then. The
one that watches kills the writer's whole group with SIGKILL; then another process opens what is there, and
counts. A machine that loses power is another matter, see `Peer.acknowledged`.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from peers.phases import awaited
from peers.workload import position

if TYPE_CHECKING:
    from collections.abc import Callable

    from peers.peer import Peer

    Report = Callable[..., None]

KEYS = 100_000


async def write(peer: Peer) -> None:
    """Put states and store situations in turn until killed; a line for each that was acknowledged."""
    await awaited(peer.open())
    has_state, has_search = "put" not in peer.without, "observe" not in peer.without
    print("ready", flush=True)
    rows = len(peer.workload.vectors)
    for number in range(KEYS):
        if has_state:
            await awaited(peer.put(key(number), position(number, time.time())))
            sys.stdout.write(f"state {number}\n")
        if has_search and number < rows:
            await awaited(peer.observe(number, time.time()))
            sys.stdout.write(f"row {number}\n")
        sys.stdout.flush()


async def count(peer: Peer, states: int, rows: int, report: Report) -> None:
    """Open what was left, and count which acknowledged writes are gone.

    Args:
        peer: Not open yet.
        states: States that were acknowledged, numbered from 0.
        rows: Situations that were.
        report: Takes the counts.
    """
    start = time.perf_counter()
    await awaited(peer.open())
    report(reopened_s=time.perf_counter() - start)
    lost_states = 0
    for number in range(states):
        found = await awaited(peer.get(key(number)))
        lost_states += not found or found["quantity"] != number
    lost_rows = 0
    for row in range(rows):
        lost_rows += not await awaited(peer.holds(row))
    report(states=states, rows=rows, lost_states=lost_states, lost_rows=lost_rows)
    await awaited(peer.close())


def key(number: int) -> str:
    """A state of its own for each write, so that each can be looked for."""
    return f"k{number:06}"
