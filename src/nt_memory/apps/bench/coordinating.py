"""Jobs of `coordination`: messages, locks and votes, measured in the process that runs them."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nt_memory import Approved, Proposal, Vote
from nt_memory.apps.bench.coordinators import COORDINATORS, Locker, Messenger, Served, Threaded
from nt_memory.apps.bench.coordinators.ours import Memory
from nt_memory.apps.bench.figures import percentiles
from nt_memory.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from nt_memory.apps.bench.child import Report
    from nt_memory.apps.bench.coordinators.coordinator import Message

WINDOW = 64
"""Messages under way at once while their rate is taken; less than any buffer."""
TURNS = 3
"""Of the loop between two messages, so that all receivers wait again; some give up a turn first."""
THREADS = 4
WARM_UP = 20
CONTENDED = 4
"""How much longer contention is watched than anything else: fairness takes time to show."""
LEAST = 20
"""Figures are taken from at least so many messages, sections or proposals."""
STUCK_S = 60.0
"""What takes longer than it should by so much is given up, with what is known by then."""
_now = time.perf_counter


def a_message(**more: Any) -> Message:
    """What is sent: small, as between agents, with the moment it was."""
    return {"symbol": "AAPL", "price": 187.25, "size": 100, "sent": _now()} | more


class _Arrivals:
    """Counts what receivers took, and says when all have."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self._missing = 0
        self._all: asyncio.Future[None] | None = None

    def expect(self, count: int) -> asyncio.Future[None]:
        """Begin to count; done when so many were taken."""
        self._missing = count
        self._all = asyncio.get_running_loop().create_future()
        return self._all

    def took(self, message: Message) -> None:
        """A receiver has a message in its hands."""
        self.latencies.append(_now() - message["sent"])
        self._missing -= 1
        if not self._missing and self._all is not None:
            self._all.set_result(None)


def messages(
    report: Report, directory: Path, *, who: str, receivers: list[int], seconds: float
) -> None:
    """From publish to receive, one message at a time; then as many a second as go through.

    Args:
        report: Takes the figures, by number of receivers.
        directory: The coordinator's own.
        who: Its name.
        receivers: How many, each.
        seconds: Of each figure.
    """
    asyncio.run(_messages(report, directory, who, receivers, seconds))


async def _messages(
    report: Report, directory: Path, who: str, receivers: list[int], seconds: float
) -> None:
    coordinator = COORDINATORS[who](directory)
    assert isinstance(coordinator, Messenger)  # noqa: S101 - chosen for it
    await coordinator.open()
    found: dict[str, Any] = {}
    for count in receivers:
        report(phase=f"with {count} receivers")
        arrivals = _Arrivals()
        await coordinator.subscribe(count, arrivals.took)
        try:
            async with asyncio.timeout(2 * seconds + STUCK_S):
                one = await _one_by_one(coordinator, arrivals, count, seconds)
                rate = await _at_once(coordinator, arrivals, count, seconds)
        finally:
            await coordinator.unsubscribe()
        found[str(count)] = one | {"messages_per_s": rate, "deliveries_per_s": rate * count}
        report(messages=found)
    report(server=coordinator.server if isinstance(coordinator, Served) else "")
    await coordinator.close()


async def _one_by_one(
    coordinator: Messenger, arrivals: _Arrivals, receivers: int, seconds: float
) -> dict[str, float]:
    """Each message to receivers that wait, and the next once all have it; over all receptions."""
    gc.collect()
    clock = SystemClock()
    sent, ends = -WARM_UP, float("inf")
    while sent < LEAST or _now() < ends:
        if sent == 0:
            arrivals.latencies.clear()
            ends = _now() + seconds
        everybody = arrivals.expect(receivers)
        await coordinator.publish([a_message()])
        await everybody
        for _ in range(TURNS):
            await clock.sleep(0)
        sent += 1
    return percentiles(arrivals.latencies) | {"max": max(arrivals.latencies)}


async def _at_once(
    coordinator: Messenger, arrivals: _Arrivals, receivers: int, seconds: float
) -> float:
    """Messages a second, a window under way at a time so that no buffer overflows."""
    gc.collect()
    sent, begun = 0, _now()
    while sent < WINDOW or _now() < begun + seconds:
        arrivals.latencies.clear()
        everybody = arrivals.expect(receivers * WINDOW)
        await coordinator.publish([a_message() for _ in range(WINDOW)])
        await everybody
        sent += WINDOW
    return sent / (_now() - begun)


def threads(report: Report, directory: Path, *, who: str, seconds: float) -> None:
    """From publish in one thread to receive in four others, one message at a time.

    Args:
        report: Takes the figures.
        directory: The coordinator's own.
        who: Its name.
        seconds: To measure.
    """
    coordinator = COORDINATORS[who](directory)
    assert isinstance(coordinator, Threaded)  # noqa: S101 - chosen for it
    coordinator.open_threads()
    crossing = _Crossing(coordinator)
    for _ in range(WARM_UP):
        crossing.send()
    crossing.latencies.clear()
    sent, begun = 0, _now()
    while sent < LEAST or _now() < begun + seconds:
        crossing.send()
        sent += 1
    rate = sent / (_now() - begun)
    latencies = crossing.latencies
    report(
        threads=percentiles(latencies) | {"max": max(latencies), "messages_per_s": rate},
        server=coordinator.server if isinstance(coordinator, Served) else "",
    )
    crossing.end()
    coordinator.close_threads()


class _Crossing:
    """Threads that receive, and a way to send to all of them."""

    def __init__(self, coordinator: Threaded) -> None:
        self.latencies: list[float] = []
        self._coordinator = coordinator
        self._arrived = threading.Semaphore(0)
        self._threads = [
            threading.Thread(target=self._read, args=(coordinator.receiver(),), daemon=True)
            for _ in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, receive: Callable[[], Message]) -> None:
        is_last = False
        while not is_last:
            message = receive()
            self.latencies.append(_now() - message["sent"])
            is_last = message.get("is_last", False)
            self._arrived.release()

    def send(self, **more: Any) -> None:
        """Send a message, and wait until all threads have it.

        Raises:
            RuntimeError: one of them does not get it.
        """
        self._coordinator.send(a_message(**more))
        for _ in self._threads:
            if not self._arrived.acquire(timeout=STUCK_S):
                raise RuntimeError(f"a message did not reach all {THREADS} threads")

    def end(self) -> None:
        """Send a last one, after which the threads end."""
        self.send(is_last=True)
        for thread in self._threads:
            thread.join()


@dataclass
class Line:
    """Who waits for a lock, in the order of asking; how often each was overtaken.

    Attributes:
        most_overtaken: The most grants to others who had asked later, while one waited.
    """

    most_overtaken: int = 0
    _asked: int = 0
    _overtaken: dict[int, int] = field(default_factory=dict[int, int])

    def ask(self) -> int:
        """Stand in line; the place."""
        self._asked += 1
        self._overtaken[self._asked] = 0
        return self._asked

    def granted(self, place: int) -> None:
        """Leave the line, past whoever asked earlier and still waits."""
        del self._overtaken[place]
        for other in self._overtaken:
            if other > place:
                break  # in the order of asking
            self._overtaken[other] += 1
            self.most_overtaken = max(self.most_overtaken, self._overtaken[other])


def jain(counts: list[int]) -> float:
    """Jain's index of how even shares are: 1 if all are equal, 1/n if one has everything.

    Source: Jain, Chiu, Hawe 1984.
    """
    squares = sum(count * count for count in counts)
    return sum(counts) ** 2 / (len(counts) * squares) if squares else 0.0


@dataclass
class _Contention:
    """What contenders for one lock did; `counter` is what the lock protects."""

    waits: list[float] = field(default_factory=list[float])
    counts: list[int] = field(default_factory=list[int])
    line: Line = field(default_factory=Line)
    sections: int = 0
    counter: int = 0


def locks(report: Report, directory: Path, *, who: str, contenders: int, seconds: float) -> None:
    """Acquire and release, alone; then with others who want the same lock.

    Args:
        report: Takes the figures.
        directory: The coordinator's own.
        who: Its name.
        contenders: How many want the lock at once.
        seconds: Of each figure; `CONTENDED` times as long with others.
    """
    asyncio.run(_locks(report, directory, who, contenders, seconds))


async def _locks(
    report: Report, directory: Path, who: str, contenders: int, seconds: float
) -> None:
    coordinator = COORDINATORS[who](directory)
    assert isinstance(coordinator, Locker)  # noqa: S101 - chosen for it
    await coordinator.open()
    report(phase="taking it alone")
    report(alone=await _alone(coordinator, seconds))
    report(phase=f"with {contenders} contenders")
    report(contended=await _contended(coordinator, contenders, CONTENDED * seconds))
    await coordinator.close()


async def _alone(coordinator: Locker, seconds: float) -> dict[str, float]:
    gc.collect()
    took: list[float] = []
    count, begun = -WARM_UP, _now()
    while count < LEAST or _now() < begun + seconds:
        if count == 0:
            took.clear()
            begun = _now()
        start = _now()
        async with coordinator.lock():
            pass
        took.append(_now() - start)
        count += 1
    return percentiles(took) | {"pairs_per_s": count / (_now() - begun)}


async def _contended(coordinator: Locker, contenders: int, seconds: float) -> dict[str, Any]:
    gc.collect()
    seen = _Contention(counts=[0] * contenders)
    clock, begun = SystemClock(), _now()

    async def contend(number: int) -> None:
        while _now() < begun + seconds:
            place, asked = seen.line.ask(), _now()
            async with coordinator.lock():
                seen.waits.append(_now() - asked)
                seen.line.granted(place)
                found = seen.counter  # read, let others run, write: lost if two are in here
                await clock.sleep(0)
                seen.counter = found + 1
            seen.sections += 1
            # Who got in after the end only empties the line.
            seen.counts[number] += _now() < begun + seconds

    await asyncio.gather(*(contend(number) for number in range(contenders)))
    return percentiles(seen.waits) | {
        "max": max(seen.waits),
        "sections_per_s": seen.sections / (_now() - begun),
        "jain": jain(seen.counts),
        "fewest": min(seen.counts),
        "most": max(seen.counts),
        "most_overtaken": seen.line.most_overtaken,
        "lost": seen.sections - seen.counter,
    }


def proposals(
    report: Report, directory: Path, *, who: str, voters: list[int], seconds: float
) -> None:
    """From a proposal's submission until its decision is known, everybody voting at once.

    Args:
        report: Takes the figures, by number of voters.
        directory: The store's own.
        who: Which memory.
        voters: How many, each.
        seconds: Of each figure.
    """
    asyncio.run(_proposals(report, directory, who, voters, seconds))


async def _proposals(
    report: Report, directory: Path, who: str, voters: list[int], seconds: float
) -> None:
    coordinator = COORDINATORS[who](directory)
    assert isinstance(coordinator, Memory)  # noqa: S101 - nobody else has votes
    await coordinator.open()
    found: dict[str, Any] = {}
    for count in voters:
        report(phase=f"with {count} voters")
        names = [f"agent_{number}" for number in range(count)]
        decided: list[float] = []
        acknowledged: list[float] = []
        gc.collect()
        begun = _now()
        while len(decided) < LEAST or _now() < begun + seconds:
            each = await _decided(coordinator, names)
            decided.append(each.decided)
            acknowledged.append(each.acknowledged)
        elapsed = _now() - begun
        found[str(count)] = percentiles(decided) | {
            "acknowledged": percentiles(acknowledged),
            "decisions_per_s": len(decided) / elapsed,
            "votes_per_s": len(decided) * count / elapsed,
        }
        report(proposals=found)
    await coordinator.close()


@dataclass(frozen=True)
class _Ballot:
    decided: float
    acknowledged: float


async def _decided(coordinator: Memory, names: list[str]) -> _Ballot:
    """Seconds until somebody who waits knows the decision, and until all votes are on disk."""
    consensus = coordinator.memory.consensus
    # The electorate is named with the proposal, so that it is of this size whoever is registered.
    proposal = Proposal(names[0], {"buy": "AAPL"}, weights=dict.fromkeys(names, 1.0))
    start = _now()
    number = await consensus.submit_proposal(proposal)
    known = 0.0

    async def wait() -> None:
        nonlocal known
        result = await consensus.wait(number, STUCK_S)
        known = _now()
        if result != Approved():
            raise RuntimeError(f"all approved, and the decision is {result!r}")

    votes: list[Coroutine[Any, Any, object]] = [
        consensus.vote(Vote(number, name, approve=True)) for name in names
    ]
    await asyncio.gather(wait(), *votes)
    return _Ballot(known - start, _now() - start)
