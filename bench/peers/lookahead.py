"""Can a question as of `t` be answered with what was recorded after `t`?

Each peer gets the best its interface has: a question as of a time where there is one, else a filter on a time
that the caller stored beside each record, else a plain read. What comes back is judged alike for all.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from peers.phases import awaited
from peers.workload import position

if TYPE_CHECKING:
    from collections.abc import Callable

    from peers.peer import Peer

    Report = Callable[..., None]

APART_S = 0.02
DECIDED = 2
"""A row in whose situation was decided before `t`."""
GOOD = 0.875


async def look(peer: Peer, report: Report) -> None:
    """Record something, remember the time, record more, and ask as of that time."""
    await awaited(peer.open())
    # The best answer to the query becomes known after `t`, the second best before.
    late, early = (int(row) for row in peer.workload.truth(peer.workload.sizes.rows)[0][:2])

    async def told(kind: str, call: str, *given: Any) -> None:
        if kind not in peer.without:
            await awaited(getattr(peer, call)(*given, time.time()))

    if "put" not in peer.without:
        await awaited(peer.put("desk", position(10, time.time())))
    await told("search", "observe", early)
    await told("decide", "decide", DECIDED)
    await asyncio.sleep(APART_S)
    then = time.time()
    await asyncio.sleep(APART_S)
    if "put" not in peer.without:
        await awaited(peer.put("desk", position(25, time.time())))
    await told("search", "observe", late)
    await told("decide", "outcome", DECIDED, GOOD)
    await asyncio.sleep(APART_S)
    report(leaks=await _asked(peer, then, early, late))
    await awaited(peer.close())


async def _asked(peer: Peer, then: float, early: int, late: int) -> dict[str, str]:
    verdicts: dict[str, str] = {}
    if "put" not in peer.without:
        verdicts["state"] = _state(await awaited(peer.get_as_of("desk", then)))
    if "search" not in peer.without:
        verdicts["search"] = _rows(await awaited(peer.search_as_of(0, then)), early, late)
    if "decide" not in peer.without:
        verdicts["outcome"] = _outcomes(await awaited(peer.outcomes_as_of(DECIDED, then)))
    return verdicts


def _state(found: Any) -> str:
    if not found:
        return "gone"
    return {10: "held", 25: "leaks"}[found["quantity"]]


def _rows(found: list[int], early: int, late: int) -> str:
    if late in found:
        return "leaks"
    return "held" if early in found else "gone"


def _outcomes(found: list[float] | None) -> str:
    """A decision must be there as it was then: without the outcome."""
    if found is None:
        return "gone"
    return "leaks" if found else "held"
