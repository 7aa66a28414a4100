"""What goes on, for a page that stays open: one stream, folded here so that its rate is the page's.

Each look takes counters, the newest entries and messages and what changed of the proposals, never all
that happened since the last: what a look costs does not depend on how fast the store is written.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Response

from nt_memory.apps.server.bodies import (
    PROBLEMS,
    Number,
    StrictRoute,
    bytes_of,
    spell_fields,
)
from nt_memory.apps.server.callers import Caller, Me
from nt_memory.apps.server.house import Here, House
from nt_memory.apps.server.permitted import Sight
from nt_memory.apps.server.routes.coordination import spell_proposal
from nt_memory.apps.server.streams import EVENTS, event, send_events
from nt_memory.apps.server.telemetry import TIMED
from nt_memory.clock import Clock, SystemClock, to_datetime, turn
from nt_memory.codec.plain import to_plain
from nt_memory.errors import (
    CodecError,
    NtMemoryError,
    ReceiveTimeoutError,
    TimelineError,
    TrimmedError,
)

if TYPE_CHECKING:
    from nt_memory import MemorySystem
    from nt_memory.coordination.proposals import ProposalRecord
    from nt_memory.coordination.receivers import Receiver
    from nt_memory.system.watching import JournalEntry

MAX_ENTRIES = 30
MAX_MESSAGES = 20
MAX_TOPICS = 50
MAX_LOCKS = 200
MAX_PROPOSALS = 50
MAX_SHOWN_BYTES = 2_000
"""Larger values are left out of a look; they can be got."""
_BUFFER = 10_000
_READS_A_TURN = 256
_RESTS = 20
"""Proposals are listed again after so many times as long as it took."""

router: APIRouter = APIRouter(
    prefix="/v1", tags=["live"], responses=PROBLEMS, route_class=StrictRoute
)


@router.get("/live", responses=EVENTS, response_class=Response)
async def live(
    me: Me,
    house: Here,
    interval: Annotated[
        Number, Query(ge=0.25, le=60.0, description="Seconds between two looks.")
    ] = 0.5,
) -> Response:
    """How things stand, again and again: `look` events with counters, locks, votes and what is new.

    A look has of everything what the caller may see. Of entries and messages it has the newest, with
    counts of all; of proposals those that changed since the look before.
    """
    watcher = Watcher(house, me, SystemClock())
    await watcher.subscribe()

    async def take() -> list[bytes]:
        await watcher.rest(interval)
        return [event("look", await watcher.look())]

    try:
        return send_events(house, me, "live", take, watcher.close)
    except HTTPException:
        await watcher.close()
        raise


class Watcher:
    """Takes the looks of one stream.

    Args:
        house: The server.
        caller: Who looks.
        clock: For rests between looks.
    """

    def __init__(self, house: House, caller: Caller, clock: Clock) -> None:
        self._house = house
        self._caller = caller
        self._clock = clock
        self._receivers: list[Receiver] = []
        self._looks = 0
        self._revision = -1
        self._proposals_at = -1
        self._list_again_ns = 0
        self._told: dict[str, tuple[int, str]] = {}

    @property
    def _memory(self) -> MemorySystem:
        return self._caller.memory

    async def subscribe(self) -> None:
        """Begin to count messages."""
        for pattern in Sight(self._caller).topics[:16]:
            self._receivers.append(await self._memory.subscribe(pattern, buffer=_BUFFER))

    async def close(self) -> None:
        """Stop counting messages."""
        for receiver in self._receivers:
            await receiver.close()

    async def rest(self, seconds: float) -> None:
        """Wait for the next look; the first comes at once."""
        if self._looks:
            await self._clock.sleep(seconds)
        self._looks += 1

    async def look(self) -> dict[str, Any]:
        """How things stand now.

        Cost: about a millisecond; 10 us more a message since the last, up to 10,000 of them.
        """
        memory = self._memory
        stats = memory.stats()
        found: dict[str, Any] = {
            "at": to_datetime(self._clock.now_us()),
            "stats": dataclasses.asdict(stats),
            "server": {"streams": sum(self._house.streams.values())},
            "timeline": _timeline(memory),
            "agents": len(await memory.agents()),
            "latencies": self._house.telemetry.latencies(TIMED),
            "messages": await self._messages(),
            "entries": await self._entries(stats.revision),
            "proposals": await self._proposals(stats.revision),
        }
        locks = memory.list_locks()
        found["locks"] = [spell_fields(one) for one in locks[:MAX_LOCKS]]
        found["locks_total"] = len(locks)
        self._revision = stats.revision
        return found

    async def _messages(self) -> dict[str, Any] | None:
        """What was published since the last look; None where nothing may be received."""
        if not self._receivers:
            return None
        counts: Counter[str] = Counter()
        newest: deque[dict[str, Any]] = deque(maxlen=MAX_MESSAGES)
        read = 0
        for receiver in self._receivers:
            for _ in range(_BUFFER):
                read += 1
                if read % _READS_A_TURN == 0:
                    await turn()
                try:
                    message = await receiver.recv_message(0)
                except ReceiveTimeoutError:
                    break
                except CodecError:
                    continue
                counts[message.topic] += 1
                newest.append({"topic": message.topic, "message": message.value})
        return {
            "total": counts.total(),
            "dropped": sum(one.dropped for one in self._receivers),
            "topics": counts.most_common(MAX_TOPICS),
            "newest": [{**one, **_shown(one.pop("message"), "message")} for one in newest],
        }

    async def _entries(self, until: int) -> list[dict[str, Any]] | None:
        """The newest entries since the last look, newest first; None where they may not be read."""
        if not Sight(self._caller).reads_all("**"):
            return None
        after = max(until - MAX_ENTRIES, self._revision, 0)
        try:
            found = await _between(self._memory, after, until)
        except TrimmedError as error:
            found = await _between(self._memory, max(after, error.oldest - 1), until)
        return [_spell_entry(one) for one in found[::-1]]

    async def _proposals(self, revision: int) -> list[dict[str, Any]]:
        """Those that have changed since they were last told, oldest first; at first the newest."""
        now = self._clock.monotonic_ns()
        if revision == self._proposals_at or now < self._list_again_ns:
            return []
        found = await self._memory.consensus.list_proposals()
        self._list_again_ns = now + _RESTS * (self._clock.monotonic_ns() - now)
        self._proposals_at = revision
        newest = found[-MAX_PROPOSALS:]
        changed = [one for one in newest if self._told.get(one.id) != _state(one)]
        self._told = {one.id: _state(one) for one in newest}
        return [spell_proposal(one) for one in changed]


def _state(one: ProposalRecord) -> tuple[int, str]:
    return len(one.votes), type(one.result).__name__


def _timeline(memory: MemorySystem) -> dict[str, Any]:
    try:
        now = memory.timeline.now
    except TimelineError:
        now = None
    return {"is_backtest": memory.timeline.is_backtest, "now": now}


async def _between(memory: MemorySystem, after: int, until: int) -> list[JournalEntry]:
    found: list[JournalEntry] = []
    if after >= until:
        return found
    async for entry in memory.tail(after):
        found.append(entry)
        if entry.revision >= until:
            break
    return found


def _spell_entry(entry: JournalEntry) -> dict[str, Any]:
    changes = [
        {
            "kind": one.kind,
            "agent": one.agent,
            "key": one.key,
            **({} if one.record is None else _shown(one.record.value, "value")),
        }
        for one in entry.changes[:4]
    ]
    return {
        "revision": entry.revision,
        "recorded_at": entry.recorded_at,
        "kind": entry.kind,
        "actor": entry.actor,
        "changes": changes,
        "changes_total": len(entry.changes),
        **_shown(dict(entry.detail), "detail"),
    }


def _shown(value: Any, name: str) -> dict[str, Any]:
    """A value as JSON, or that it is too large for a look."""
    if bytes_of(value) > MAX_SHOWN_BYTES:
        return {name: None, "is_left_out": True}
    try:
        return {name: to_plain(value)}
    except NtMemoryError:
        return {name: None, "is_left_out": True}
