"""The demo on synthetic prices: its forecasts are the memory's, its book is the rule's."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nt_memory import Approved, AsOf, MemorySystem, ReasoningBank
from nt_memory.apps.demo.books import agrees, follow_rule
from nt_memory.apps.demo.figures import to_document
from nt_memory.apps.demo.run import STORE, plan_run, run_demo
from nt_memory.apps.demo.settings import CHOSEN
from nt_memory.apps.demo.swarm import BOOK_LOCK, COORDINATOR, FORECAST, trajectory_id
from nt_memory.apps.demo.target import ACTION_TYPE, HORIZON
from nt_memory.clock import to_datetime
from nt_memory.errors import (
    ForeignStoreError,
    InvalidInputError,
    StaleFenceError,
    StoreInUseError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

TOLERANCE = 1e-9
TIMINGS = ("latency_us", "memory", "seconds")


class NoAdviceError(Exception):
    """Raised by an `advise` that was taken away."""


def look(finished: Any, body: Callable[[MemorySystem], Awaitable[Any]]) -> Any:
    """Open the memory that a run left, and ask it."""

    async def opened() -> Any:
        async with MemorySystem.open(finished.store, read_only=True) as memory:
            return await body(memory)

    return asyncio.run(opened())


def figures(finished: Any) -> dict[str, Any]:
    """The JSON figures without what depends on the machine, but with the number of calls."""
    document = json.loads(json.dumps(to_document(finished.result), allow_nan=False))
    calls = {name: one["n"] for name, one in document["latency_us"].items()}
    return {name: one for name, one in document.items() if name not in TIMINGS} | {"calls": calls}


# --- forecasts are the memory's ---------------------------------------------------------------


def test_without_advise_there_is_no_demo(
    demo: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When `advise` raises, so does the demo: it has no other source of forecasts."""

    async def advise(*_: object, **__: object) -> None:
        raise NoAdviceError

    monkeypatch.setattr(ReasoningBank, "advise", advise)
    with pytest.raises(NoAdviceError):
        demo()


def test_the_forecast_is_what_advise_says(
    demo: Callable[..., Any], finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Advice moved by 1 moves forecast and interval by 1, on the days before outcomes answer."""
    said = ReasoningBank.advise

    async def advise(bank: ReasoningBank, *args: Any, **options: Any) -> Any:
        advice = await said(bank, *args, **options)
        assert advice.expected is not None
        assert advice.low is not None
        assert advice.high is not None
        return replace(
            advice, expected=advice.expected + 1, low=advice.low + 1, high=advice.high + 1
        )

    monkeypatch.setattr(ReasoningBank, "advise", advise)
    moved = demo().result
    usual = finished.result
    for ours, plain in (
        (moved.forecasts["memory"], usual.forecasts["memory"]),
        (moved.low, usual.low),
        (moved.high, usual.high),
    ):
        assert np.array_equal(ours[:HORIZON], plain[:HORIZON] + 1)
    assert not np.array_equal(moved.recalled[HORIZON:], usual.recalled[HORIZON:] + 1)


def ask(finished: Any, day: int, place: int) -> dict[str, Any]:
    """What the analyst of a ticker asked `advise` on a day, counted from the first traded one."""
    plan = finished.plan
    return {
        "embedding": plan.situations[plan.start + day, place],
        "action_type": ACTION_TYPE,
        "level": CHOSEN.level,
        "baseline": float(finished.result.base[day, place]),
        "k": CHOSEN.neighbours,
        "functional": CHOSEN.functional,
        "gamma": CHOSEN.gamma,
    }


def test_a_forecast_follows_from_its_receipt(finished: Any) -> None:
    """As of the moment in its receipt, the memory still says what was forecast then, exactly."""
    plan, result = finished.plan, finished.result

    async def body(memory: MemorySystem) -> None:
        for day in (0, 7, len(result.dates) - 1):
            for place, ticker in enumerate(plan.agents):
                receipt = await memory.bank.receipt(
                    trajectory_id(ticker, result.dates[day].isoformat())
                )
                assert receipt is not None
                then = AsOf(to_datetime(receipt.time_us), receipt.revision)
                again = await memory.bank.advise(
                    plan.agents, **ask(finished, day, place), as_of=then
                )
                assert again.expected == result.forecasts["memory"][day, place]
                assert (again.low, again.high) == (result.low[day, place], result.high[day, place])
                assert sorted(again.receipt.memories) == sorted(receipt.memories)

    look(finished, body)


def test_forgetting_the_receipts_memories_changes_the_forecast(demo: Callable[..., Any]) -> None:
    """Of the same question, once what its receipt names is forgotten, the answer is another."""
    finished = demo()
    agents, day = finished.plan.agents, len(finished.result.dates) - 1
    question = ask(finished, day, 0)

    async def body() -> None:
        async with MemorySystem.open(finished.store) as memory:
            before = await memory.bank.advise(agents, **question)
            again = await memory.bank.advise(agents, **question)
            assert again.expected == before.expected
            used = {ref.trajectory_id for ref in before.receipt.memories}
            assert len(used) == CHOSEN.neighbours
            await memory.bank.forget(used)
            after = await memory.bank.advise(agents, **question)
            assert used.isdisjoint(ref.trajectory_id for ref in after.receipt.memories)
            assert after.expected is not None
            assert before.expected is not None
            assert abs(after.expected - before.expected) > 1e-6
            assert after.known == before.known - len(used)

    asyncio.run(body())


def test_every_decision_is_in_the_memory(finished: Any) -> None:
    """Each forecast is tracked with interval, baseline and receipt, and its outcome once known."""
    plan, result = finished.plan, finished.result

    async def body(memory: MemorySystem) -> None:
        for place, ticker in enumerate(plan.agents):
            tracked = {one.id: one for one in await memory.bank.trajectories(ticker)}
            days = plan.panel.dates[plan.first_day :]
            assert set(tracked) == {trajectory_id(ticker, day.isoformat()) for day in days}
            for row, day in enumerate(result.dates):
                trajectory = tracked[trajectory_id(ticker, day.isoformat())]
                doc = trajectory.actions[0].doc
                assert doc.predicted == result.forecasts["memory"][row, place]
                assert (doc.low, doc.high) == (result.low[row, place], result.high[row, place])
                assert doc.baseline == result.base[row, place]
                assert doc.receipt is not None
                known = [outcome.value for outcome in trajectory.outcomes]
                actual = result.actual[row, place]
                assert known == ([] if np.isnan(actual) else [actual])

    look(finished, body)


# --- same seed, same numbers ------------------------------------------------------------------


def test_the_same_seed_and_prices_give_the_same_bytes(
    demo: Callable[..., Any], finished: Any
) -> None:
    """A second run differs in nothing but timings, memory in use and where it was written."""
    again = demo()
    assert b"".join(again.forecast_lines()) == b"".join(finished.forecast_lines())
    assert figures(again) == figures(finished)
    for name, one in finished.result.forecasts.items():
        assert again.result.forecasts[name].tobytes() == one.tobytes(), name
    for name, one in finished.result.books.items():
        assert again.result.books[name].equity.tobytes() == one.equity.tobytes(), name


def test_another_seed_changes_the_placebos_only(demo: Callable[..., Any], finished: Any) -> None:
    """Chance enters the placebos and nothing else."""
    other = demo(seed=8)
    assert other.forecast_lines() == finished.forecast_lines()
    ours, theirs = figures(other), figures(finished)
    for placebo in ("placebo_permuted", "placebo_random"):
        assert ours["forecast"].pop(placebo) != theirs["forecast"].pop(placebo)
        assert ours["ratio"].pop(placebo) != theirs["ratio"].pop(placebo)
    assert (ours["run"]["options"].pop("seed"), theirs["run"]["options"].pop("seed")) == (8, 7)
    assert ours == theirs


# --- the book ---------------------------------------------------------------------------------


def test_the_swarm_trades_the_rule(finished: Any) -> None:
    """Locks, votes and fenced transactions end up where the rule alone does, to 1e-9."""
    plan, result = finished.plan, finished.result
    end = plan.start + len(result.dates)
    expected = follow_rule(
        result.forecasts["memory"],
        result.actual,
        plan.panel.prices[plan.start : end],
        np.diff(np.log(plan.panel.prices[:end]), axis=0),
        result.rule,
        result.options.cost_bps,
    )
    book = result.books["memory"]
    assert np.abs(book.equity - expected.equity).max() < TOLERANCE
    assert np.abs(book.exposure - expected.exposure).max() < TOLERANCE
    assert np.abs(book.traded - expected.traded).max() < TOLERANCE
    # Not for want of trades and of refusals.
    assert result.counts["grants"] == np.count_nonzero(book.traded) > 5
    assert result.counts["rejected"] > 0


def test_equity_moves_by_positions_and_costs_only(finished: Any) -> None:
    """From close to close it changes by what was held, less the costs of what was traded."""
    plan, result = finished.plan, finished.result

    async def body(memory: MemorySystem) -> None:
        before = np.zeros(len(plan.agents))
        equity = 1.0
        for row in range(len(result.dates)):
            day = plan.start + row
            position = await memory.get_record(COORDINATOR, "position", as_of=plan.closes[day])
            cash = await memory.get_record(COORDINATOR, "cash", as_of=plan.closes[day])
            assert position is not None
            assert cash is not None
            assert position.revision == cash.revision
            shares = np.array([position.value[agent] for agent in plan.agents])
            prices, earlier = plan.panel.prices[day], plan.panel.prices[day - 1]
            costs = float(np.abs(shares - before) @ prices) * result.options.cost_bps / 10_000
            equity += float(before @ (prices - earlier)) - costs
            assert abs(cash.value + float(shares @ prices) - equity) < TOLERANCE
            assert abs(result.books["memory"].equity[row] - equity) < TOLERANCE
            before = shares

    look(finished, body)


def test_every_trade_was_proposed_voted_and_approved(finished: Any) -> None:
    """The book changes at the close after an approved proposal, to its exposure, at no other."""
    plan, result = finished.plan, finished.result
    closes = {
        close: row for row, close in enumerate(plan.closes[plan.start :]) if row < len(result.dates)
    }

    async def body(memory: MemorySystem) -> None:
        expected = {}
        latest = dict.fromkeys(plan.agents, math.nan)
        for proposal in await memory.consensus.list_proposals():
            assert proposal.submitted_at is not None
            row = closes[proposal.submitted_at]
            now = dict(zip(plan.agents, result.forecasts["memory"][row], strict=True))
            wants_more = proposal.data["to"] > proposal.data["from"]
            ballots = [
                agrees(now[agent], latest[agent], is_more_risk=wants_more) for agent in plan.agents
            ]
            # Votes after the decision change nothing and are not kept.
            assert [(vote.voter, vote.approve) for vote in proposal.votes] == list(
                zip(plan.agents, ballots, strict=True)
            )[: len(proposal.votes)]
            is_approved = isinstance(proposal.result, Approved)
            assert is_approved == (Fraction(sum(ballots), len(ballots)) >= proposal.quorum)
            if is_approved:
                latest = now
                expected[row + 1] = proposal.data["to"]
        exposure = result.books["memory"].exposure
        for row in range(len(result.dates)):
            held = exposure[row - 1] if row else 0.0
            assert exposure[row] == expected.get(row, held)
        trades = [record async for record in memory.history(COORDINATOR, "position")]
        days = sorted(closes[record.known_at] for record in trades[:-1])
        assert days == sorted(row for row in expected if row < len(result.dates))

    look(finished, body)


def test_a_trade_without_the_lock_is_refused(
    demo: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator's transaction is fenced: with a lock already given back nothing is traded."""
    acquire = MemorySystem.acquire_lock

    async def acquire_lock(memory: MemorySystem, resource: str, *args: Any, **options: Any) -> Any:
        token = await acquire(memory, resource, *args, **options)
        assert resource == BOOK_LOCK
        await memory.release_lock(token)
        return token

    monkeypatch.setattr(MemorySystem, "acquire_lock", acquire_lock)
    with pytest.raises(StaleFenceError):  # and not what giving it back once more would say
        demo()


# --- stopping ---------------------------------------------------------------------------------


def interrupt(phase: str, done: int) -> Callable[[str, int, int], None]:
    """A progress that presses Ctrl-C at a point of the run."""

    def progress(current: str, now: int, total: int) -> None:
        del total
        if (current, now) == (phase, done):
            os.kill(os.getpid(), signal.SIGINT)

    return progress


def test_an_interrupted_run_is_the_beginning_of_a_whole_one(
    demo: Callable[..., Any], finished: Any
) -> None:
    """Ctrl-C ends after the day it is in; what there is equals the whole run's first days."""
    partial = demo(progress=interrupt("trade", 20))
    result, whole = partial.result, finished.result
    assert (result.is_interrupted, whole.is_interrupted) == (True, False)
    days = len(result.dates)
    assert 20 <= days <= 21
    assert result.total_days == len(whole.dates)
    assert result.forecasts["memory"].tobytes() == whole.forecasts["memory"][:days].tobytes()
    for name, book in result.books.items():
        assert book.equity.tobytes() == whole.books[name].equity[:days].tobytes(), name
    assert figures(partial)["run"]["is_interrupted"]


def test_a_run_interrupted_before_the_first_day_has_nothing_to_say(
    demo: Callable[..., Any],
) -> None:
    """Ctrl-C while the past is remembered gives a result without days, not an error."""
    partial = demo(progress=interrupt("remember the past", 416))
    assert partial.result.is_interrupted
    assert partial.result.dates == ()
    assert len(partial.forecast_lines()) == 1
    assert figures(partial)["forecast"]["memory"]["n"] == 0


def test_a_second_ctrl_c_ends_at_once(demo: Callable[..., Any], tmp_path: Path) -> None:
    """It does not wait for the look back, and the memory can be opened again."""

    def progress(phase: str, done: int, total: int) -> None:
        del total
        if (phase, done) in {("trade", 3), ("look back", 0)}:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        demo(progress=progress, out=tmp_path)

    async def body() -> Any:
        async with MemorySystem.open(tmp_path / STORE) as memory:
            return await memory.get("AAA", FORECAST)

    assert asyncio.run(body()) is not None


# --- options ----------------------------------------------------------------------------------


def test_no_past_starts_with_an_empty_memory(demo: Callable[..., Any], finished: Any) -> None:
    """--no-past trades the same days, remembers nothing before, and abstains at first."""
    result = demo(no_past=True).result
    assert result.dates == finished.result.dates
    assert (result.memories[0], finished.result.memories[0]) == (0, 400)
    assert result.counts["abstained"] > 0 == finished.result.counts["abstained"]
    assert np.isnan(result.low[0]).all()
    assert result.forecasts["memory"][0].tolist() == result.base[0].tolist()
    assert np.isfinite(result.low[-1]).all()
    assert np.any(result.recalled[-1] != 0.0)
    with_past = result.forecasts["with_past"]
    assert with_past.tobytes() == finished.result.forecasts["memory"].tobytes()


def test_full_trades_all_years_from_an_empty_memory(
    demo: Callable[..., Any], synthetic: Any
) -> None:
    """--full begins where the first forecast can be made, with nothing remembered."""
    result = demo(full=True, progress=interrupt("trade", 40)).result
    days = synthetic.weekdays(synthetic.N_DAYS)[CHOSEN.first_day :]
    assert (result.start, result.total_days) == (CHOSEN.first_day, len(days))
    assert result.dates == tuple(days[: len(result.dates)])
    assert (result.memories[0], result.memories[39]) == (0, 35 * 4)
    assert np.isfinite(result.low[39]).all()


def test_quick_trades_one_year_and_remembers_three(
    demo: Callable[..., Any], synthetic: Any
) -> None:
    """--quick is the last year with at most 756 days before it, whatever --years says."""
    quick = demo(synthetic.prices(1_680), years=3, quick=True, progress=interrupt("trade", 1))
    assert quick.result.dates[0].isoformat() == "2007-01-01"
    assert quick.plan.start - quick.plan.first_day == 756 < quick.plan.start - CHOSEN.first_day
    assert quick.result.memories[0] == (756 - HORIZON + 1) * 4


def test_costs_are_paid(demo: Callable[..., Any], finished: Any) -> None:
    """--cost-bps 0 leaves the forecasts as they are and the books richer."""
    free = demo(cost_bps=0.0)
    assert free.forecast_lines() == finished.forecast_lines()
    for name, book in free.result.books.items():
        assert book.equity[-1] > finished.result.books[name].equity[-1], name


# --- directories ------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_memory_of_an_earlier_run_is_replaced(demo: Callable[..., Any]) -> None:
    """Running again with the same --out starts from nothing, and keeps what else is there."""
    first = demo(full=True, progress=interrupt("trade", 9))
    (first.options.out / "mine.txt").write_text("mine")
    again = replace(first.options, full=False)
    second = run_demo(again, interrupt("trade", 2))
    assert second.memories[0] == 400
    assert (first.options.out / "mine.txt").read_text() == "mine"

    async def body(memory: MemorySystem) -> list[str]:
        return [one.id for one in await memory.bank.trajectories("AAA")]

    plan = plan_run(again)
    days = plan.panel.dates[plan.first_day : plan.start + len(second.dates)]
    assert sorted(look(first, body)) == [trajectory_id("AAA", day.isoformat()) for day in days]


@pytest.mark.parametrize("name", ["notes.txt", "FORMAT", "journal/00000000000000000001.log"])
def test_a_directory_of_another_program_is_left_alone(
    demo: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    """What is at <out>/memory and is not a store, whatever its files are called, is refused."""
    foreign = tmp_path / STORE / name
    foreign.parent.mkdir(parents=True)
    foreign.write_text("theirs")
    before = contents(tmp_path)
    with pytest.raises((ForeignStoreError, InvalidInputError)):
        demo(out=tmp_path)
    assert contents(tmp_path) == before


def test_a_link_is_not_followed(demo: Callable[..., Any], finished: Any, tmp_path: Path) -> None:
    """A link at <out>/memory is refused: what it leads to may be somebody else's store."""
    (tmp_path / STORE).symlink_to(finished.store)
    before = contents(finished.store)
    with pytest.raises(InvalidInputError, match="link"):
        demo(out=tmp_path)
    assert contents(finished.store) == before


def test_a_memory_in_use_is_left_alone(demo: Callable[..., Any], tmp_path: Path) -> None:
    """A store that somebody has open is not removed under them."""

    async def body() -> None:
        async with MemorySystem.open(tmp_path / STORE) as memory:
            revision = await memory.put("agent_1", FORECAST, 1)
            with pytest.raises(StoreInUseError):
                await asyncio.to_thread(demo, out=tmp_path)
            assert await memory.put("agent_1", FORECAST, 2) == revision + 1

    asyncio.run(body())


def test_a_store_that_no_demo_made_is_left_alone(demo: Callable[..., Any], tmp_path: Path) -> None:
    """`--out data` must not cost anyone the default store, `data/memory`."""

    async def body(*, is_new: bool) -> Any:
        async with MemorySystem.open(tmp_path / STORE) as memory:
            if is_new:
                await memory.put("agent_1", "position", 1)
            return await memory.get("agent_1", "position")

    assert asyncio.run(body(is_new=True)) == 1
    with pytest.raises(InvalidInputError, match="no demo made"):
        demo(out=tmp_path)
    assert asyncio.run(body(is_new=False)) == 1


@pytest.mark.parametrize("left", [(), ("LOCK",), ("LOCK", "FORMAT.new")])
def test_a_run_killed_at_its_start_does_not_block_the_next(
    demo: Callable[..., Any], tmp_path: Path, left: tuple[str, ...]
) -> None:
    """A directory that a killed run had only begun to make is taken over."""
    (tmp_path / STORE).mkdir()
    for name in left:
        (tmp_path / STORE / name).touch()
    assert not demo(out=tmp_path, progress=interrupt("trade", 1)).result.books["memory"].traded[0]


def test_malformed_prices_leave_the_earlier_memory(demo: Callable[..., Any]) -> None:
    """Prices are read before anything is removed."""
    first = demo(progress=interrupt("trade", 1))
    assert first.options.prices is not None
    first.options.prices.write_text("Date,AAA,BBB\n2001-01-01,1,x\n")
    before = contents(first.options.out)
    with pytest.raises(InvalidInputError, match=r"line 2, column 3 \(BBB\)"):
        run_demo(first.options)
    assert contents(first.options.out) == before


def test_out_must_be_a_directory(demo: Callable[..., Any], tmp_path: Path) -> None:
    """A file given as --out is refused and kept."""
    (tmp_path / "report").write_text("a file")
    with pytest.raises(InvalidInputError, match="not a directory"):
        demo(out=tmp_path / "report")
    assert (tmp_path / "report").read_text() == "a file"


@pytest.mark.parametrize("name", ["risk", "coordinator"])
def test_a_ticker_may_not_take_an_agents_name(
    demo: Callable[..., Any], synthetic: Any, tmp_path: Path, name: str
) -> None:
    """A ticker called like the risk agent or the coordinator would share its memory."""
    path = synthetic.write_prices(tmp_path / "p.csv", synthetic.prices())
    path.write_text(path.read_text().replace("BBB", name, 1))
    with pytest.raises(InvalidInputError, match=f"column 3.*{name}"):
        demo(prices=path)
