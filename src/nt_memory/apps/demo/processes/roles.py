"""What each process does, day by day; all of them meet in the memory, and nowhere else.

A day has five steps, each of which waits for what the one before has written:

1. the coordinator moves the timeline to the close, trades what was approved, and says so (`DAY`);
2. the risk agent records what the forecasts of five days ago came to, in one entry (`LEARNED`);
3. every analyst asks the memory, tracks its decision and tells its forecast (`forecast`);
4. the risk agent reads them through its pins, and proposes or does not (`PROPOSED`);
5. analysts vote; the coordinator waits for the decision and keeps it (`DECIDED`).

So everything that a forecast rests on is the same on each day, whatever the order in which the agents of
a step come. Two things would depend on that order, and are therefore kept out of it: outcomes are one
entry a day, since which came first decides what advice samples to tell far from near; and on the first
day analysts write one after the other, since ties are ranked by when an agent first wrote.

Each step is known by its row, and is found done or not done by a process that was killed and started
again: nobody keeps anything that counts outside the memory.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from nt_memory.apps.demo.books import Holding, agrees, rebalance
from nt_memory.apps.demo.scoring import VarianceCorrection
from nt_memory.apps.demo.swarm import (
    BOOK_LOCK,
    COORDINATOR,
    FORECAST,
    RISK,
    Analyst,
    RiskAgent,
    trajectory_id,
)
from nt_memory.apps.demo.target import HORIZON
from nt_memory.coordination.proposals import Approved, Vote
from nt_memory.errors import LockLostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nt_memory.apps.demo.processes.brief import Brief
    from nt_memory.apps.demo.swarm import Shared
    from nt_memory.system import MemorySystem

DAY, LEARNED, PROPOSED, DECIDED = "day", "learned", "proposed", "decided"
LEASE_S = 5.0
"""Of the book's lock: as long as others wait for a coordinator that was killed while it traded."""
PATIENCE_S = 60.0


async def wait_until(
    memory: MemorySystem, agent: str, key: str, is_it: Callable[[Any], bool]
) -> Any:
    """A value that satisfies a condition, as soon as it is visible here."""
    # Watched from before it is read, so that no change falls between the two.
    changes = memory.watch(agent, key)
    value = await memory.get(agent, key)
    while value is None or not is_it(value):
        change = await anext(changes)
        if change.key == key and change.record is not None:
            value = change.record.value
    return value


async def wait_for_row(memory: MemorySystem, agent: str, key: str, row: int) -> Any:
    """A step's record of a row or a later one."""
    return await wait_until(memory, agent, key, lambda value: value["row"] >= row)


# --- analysts ---------------------------------------------------------------------------------


async def run_analyst(shared: Shared, brief: Brief, agent: str) -> None:
    """Forecast one ticker, and vote, on every day that is left."""
    memory = shared.memory
    analyst = Analyst(shared, agent)
    place = brief.agents.index(agent)
    told = await memory.get(agent, FORECAST)
    days = [brief.day(row) for row in range(brief.n_days)]
    first = 0 if told is None else days.index(told["day"])
    for row in range(first, brief.n_days):
        await wait_for_row(memory, RISK, LEARNED, row)
        if told is None or told["day"] != days[row]:
            if row == 0 and place > 0:
                before = brief.agents[place - 1]
                await wait_until(memory, before, FORECAST, lambda _: True)
            await _forecast(shared, brief, analyst, row)
        proposed = await wait_for_row(memory, RISK, PROPOSED, row)
        if proposed["row"] == row and proposed["id"]:
            await _vote(shared, brief, agent, proposed)


async def _forecast(shared: Shared, brief: Brief, analyst: Analyst, row: int) -> None:
    """Track and tell a day's forecast, or tell the one that was tracked before this process was."""
    day, place = brief.day(row), brief.agents.index(analyst.agent)
    tracked = await shared.memory.bank.trajectory(trajectory_id(analyst.agent, day))
    if tracked is not None:
        predicted = tracked.actions[0].doc.predicted
        await analyst.tell(day, math.nan if predicted is None else predicted)
        return
    situation = brief.situations[row, place]
    forecast = await analyst.forecast(situation, float(brief.base[row, place]))
    await analyst.commit(day, brief.close(row), situation, forecast)


async def _vote(shared: Shared, brief: Brief, agent: str, proposed: Any) -> None:
    """Vote by the forecast of the day, against that of the last day the book was resized."""
    memory = shared.memory
    row, since = proposed["row"], proposed["since"]
    latest = await _forecast_of(memory, brief, agent, row)
    before = math.nan if since < 0 else await _forecast_of(memory, brief, agent, since)
    approve = agrees(latest, before, is_more_risk=proposed["is_more_risk"])
    await shared.watch.time("vote", memory.consensus.vote(Vote(proposed["id"], agent, approve)))


async def _forecast_of(memory: MemorySystem, brief: Brief, agent: str, row: int) -> float:
    """What an analyst forecast on a traded day."""
    told = await memory.get(agent, FORECAST, as_of=brief.close(row))
    if told["day"] != brief.day(row):  # pragma: no cover - the steps of a day do not allow it
        raise RuntimeError(f"{agent} told nothing on {brief.day(row)}")
    return float(told["log_volatility"])


# --- the risk agent ---------------------------------------------------------------------------


async def run_risk(shared: Shared, brief: Brief) -> None:
    """Judge what has become known, and propose to resize the book, on every day that is left."""
    memory = shared.memory
    learned = await memory.get(RISK, LEARNED)
    proposed = await memory.get(RISK, PROPOSED)
    correction = VarianceCorrection() if learned is None else _correction(learned)
    risk = RiskAgent(shared, correction)
    done = -1 if learned is None else learned["row"]
    for row in range(0 if proposed is None else proposed["row"] + 1, brief.n_days):
        opened = await wait_for_row(memory, COORDINATOR, DAY, row)
        if row > done:
            await _judge(shared, brief, risk, row)
        await _wait_for_forecasts(memory, brief, brief.day(row))
        proposal = await risk.propose(brief.day(row), brief.moves(row), opened["held"])
        record = {"row": row, "id": None, "since": opened["since"]}
        if proposal is not None:
            name, wanted = proposal
            is_more = wanted > opened["held"]
            record |= {"id": name, "wanted": wanted, "is_more_risk": is_more}
        await memory.put(RISK, PROPOSED, record)


async def _wait_for_forecasts(memory: MemorySystem, brief: Brief, day: str) -> None:
    """Every analyst has told its forecast of a day."""
    for agent in brief.agents:
        await wait_until(memory, agent, FORECAST, lambda told: told["day"] == day)


def _correction(learned: Any) -> VarianceCorrection:
    return VarianceCorrection(learned["total"], learned["count"])


async def _judge(shared: Shared, brief: Brief, risk: RiskAgent, row: int) -> None:
    """Record the outcomes of five sessions ago. Done twice it changes nothing."""
    memory, past = shared.memory, row - HORIZON
    known, is_due = brief.outcomes[row], brief.has_forecast[row]
    places = np.flatnonzero(is_due).tolist()
    if places:
        ids = [trajectory_id(brief.agents[place], brief.day(past)) for place in places]
        verdicts = await shared.watch.time(
            "record_outcomes", memory.record_outcomes(ids, known[places].tolist())
        )
        shared.counts.verdicts += len(verdicts)
    if past >= 0:
        told = [await _forecast_of(memory, brief, agent, past) for agent in brief.agents]
        risk.learn((known - np.array(told)).tolist())
    state = risk.correction
    await memory.put(RISK, LEARNED, {"row": row, "total": state.total, "count": state.count})


# --- the coordinator --------------------------------------------------------------------------


async def start_book(shared: Shared) -> None:
    """Begin with one unit of cash and no shares."""
    await _write_book(shared, Holding(np.zeros(len(shared.agents)), 1.0), None, {})


async def run_coordinator(shared: Shared, brief: Brief, told: Callable[[int], None]) -> None:
    """Open every day that is left: move the time, trade what was approved, and keep what is decided.

    Args:
        shared: The memory.
        brief: The days.
        told: Called with each day's row when it is opened.
    """
    memory = shared.memory
    decided = await memory.get(COORDINATOR, DECIDED)
    for row in range(0 if decided is None else decided["row"] + 1, brief.n_days):
        opened = await memory.get(COORDINATOR, DAY)
        if opened is None or opened["row"] < row:
            if memory.timeline.now < brief.close(row):
                await shared.watch.time("advance", memory.timeline.advance(brief.close(row)))
            opened = await _open_day(shared, brief, row, opened)
        told(row)
        proposed = await wait_for_row(memory, RISK, PROPOSED, row)
        wanted = None
        if proposed["id"]:
            result = await memory.consensus.wait(proposed["id"])
            shared.counts.proposals += 1
            if isinstance(result, Approved):
                wanted = proposed["wanted"]
        await memory.put(COORDINATOR, DECIDED, {"row": row, "to": wanted})


async def _open_day(shared: Shared, brief: Brief, row: int, before: Any) -> dict[str, Any]:
    """Trade what was approved at the close before; the day's record, written with the trade."""
    memory = shared.memory
    decided = await memory.get(COORDINATOR, DECIDED)
    wanted = None if decided is None else decided["to"]
    held, since = (0.0, -1) if before is None else (before["held"], before["since"])
    if wanted is None:
        record = {"row": row, "held": held, "since": since}
        await memory.put(COORDINATOR, DAY, record)
        return record
    token = await shared.watch.time(
        "acquire_lock", memory.acquire_lock(BOOK_LOCK, timeout=PATIENCE_S, lease=LEASE_S)
    )
    shared.counts.grants += 1
    try:
        after, _ = rebalance(
            await holding_of(memory, brief.agents), brief.close_prices(row), wanted, brief.cost_bps
        )
        record = {"row": row, "held": wanted, "since": row - 1}
        await shared.watch.time("transaction", _write_book(shared, after, token, record))
    finally:
        with contextlib.suppress(LockLostError):
            await memory.release_lock(token)
    return record


async def holding_of(memory: MemorySystem, agents: Any, **options: Any) -> Holding:
    """The book as the memory has it, or had it."""
    shares = await memory.get(COORDINATOR, "position", **options)
    cash = await memory.get(COORDINATOR, "cash", **options)
    return Holding(np.array([shares[agent] for agent in agents]), cash)


async def _write_book(shared: Shared, holding: Holding, fence: Any, day: dict[str, Any]) -> None:
    shares = dict(zip(shared.agents, holding.shares.tolist(), strict=True))
    async with shared.memory.transaction(fence=fence) as tx:
        tx.put(COORDINATOR, "position", shares)
        tx.put(COORDINATOR, "cash", holding.cash)
        if day:
            tx.put(COORDINATOR, DAY, day)
