"""What calls of a memory once got wrong, kept right: feeds, transactions and odd arguments."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from nt_memory import Proposal
from nt_memory.clock import turn
from nt_memory.errors import InvalidInputError, InvalidNameError, InvalidTimeError, LookAheadError
from nt_memory.system import watching

# --- feeds ------------------------------------------------------------------------------------


def test_a_watch_decodes_only_what_is_taken(live, collect, monkeypatch):
    """However long the log behind it, a reader that stops costs nobody the rest of the values."""
    decoded = 0
    record_of = watching.record_of

    async def count(engine, stored):
        nonlocal decoded
        decoded += 1
        return await record_of(engine, stored)

    async def body(memory):
        await asyncio.gather(*(memory.put("a", f"k{n}", n) for n in range(300)))
        monkeypatch.setattr(watching, "record_of", count)
        changes = memory.watch("a", after=0)
        for taken in (1, 7, 300):
            found = await collect(changes, taken - decoded)
            assert found[-1].record.value == taken - 1
            assert decoded == taken

    live(body)


def test_a_watch_of_a_quiet_agent_lets_others_run(live, monkeypatch):
    """Looking for an agent's changes in a long log of others' does not hold up the loop."""
    monkeypatch.setattr(watching, "LOG_BATCH", 16)

    async def body(memory):
        await asyncio.gather(*(memory.put("a", f"k{n}", n) for n in range(320)))
        changes = memory.watch("nobody", after=0)
        reader = asyncio.ensure_future(anext(changes))
        turns = 0
        while changes.revision < memory.revision:
            await turn()
            turns += 1
        assert turns >= 320 // 16
        revision = await memory.put("nobody", "k", "found")
        change = await reader
        assert (change.revision, change.record.value) == (revision, "found")

    live(body)


# --- transactions -----------------------------------------------------------------------------


def test_a_transaction_is_used_once_and_inside_its_block(live):
    """Changes before or after the block, and a second block, are refused and change nothing."""

    async def body(memory):
        tx = memory.transaction()
        for outside in (lambda: tx.put("a", "early", 1), lambda: tx.delete("a", "k")):
            with pytest.raises(InvalidInputError):
                outside()
        async with tx:
            tx.put("a", "k", 1)
            with pytest.raises(InvalidInputError):
                await tx.__aenter__()
        for outside in (lambda: tx.put("a", "late", 1), lambda: tx.delete("a", "k")):
            with pytest.raises(InvalidInputError):
                outside()
        with pytest.raises(InvalidInputError):
            async with tx:
                tx.put("a", "again", 1)
        assert memory.revision == tx.revision
        assert [(r.key, r.value, r.revision) async for r in memory.scan("a")] == [
            ("k", 1, tx.revision)
        ]
        assert len([r async for r in memory.history("a", "k")]) == 1

    live(body)


def test_a_transaction_that_failed_is_over(live):
    """Left by an exception it wrote nothing, and cannot be entered to write it after all."""

    async def body(memory):
        revision = memory.revision
        tx = memory.transaction()
        with pytest.raises(ZeroDivisionError):
            async with tx:
                tx.put("a", "k", 1 // 0)
        with pytest.raises(InvalidInputError):
            async with tx:
                pass
        assert memory.revision == revision

    live(body)


def test_a_delete_removes_what_its_transaction_put_into_the_past(live, later):
    """A delete after a put of the same key counts, also where the put is known since earlier."""

    async def body(memory):
        async with memory.transaction() as tx:
            tx.put("a", "k", 1, known_at=later(-10))
            tx.delete("a", "k")
        assert await memory.get("a", "k") is None
        assert await memory.get("a", "k", as_of=later(-5)) == 1
        async with memory.transaction() as tx:
            tx.put("a", "again", 1, known_at=later(-10))
            tx.delete("a", "again", known_at=later(-5))
            tx.put("a", "again", 2)
        assert await memory.get("a", "again", as_of=later(-3)) is None
        assert await memory.get("a", "again") == 2

    live(body)


# --- arguments --------------------------------------------------------------------------------


def test_numpy_strings_are_names_like_any_other(live, collect):
    """Agents, keys, tags and ids from an array of strings work, and come back as plain `str`."""

    async def body(memory):
        agent, key, tag = np.array(["AAPL", "k", "t"])
        assert type(agent) is np.str_
        changes = memory.watch(agent)
        await memory.put(agent, key, 1, request_id=np.str_("R"))
        assert await memory.get("AAPL", "k") == await memory.get(agent, key) == 1
        record = await memory.get_record(agent, key)
        assert (type(record.agent), type(record.key)) == (str, str)
        (change,) = await collect(changes, 1)
        assert (type(change.agent), type(change.key)) == (str, str)
        seen = await memory.observe(agent, [1.0, 0.0], 2, key=np.str_("seen"), tags=[tag])
        assert (type(seen), seen) == (str, "seen")
        (hit,) = await memory.search_similar(agent, [1.0, 0.0], tags=[tag])
        assert (type(hit.agent), type(hit.key), hit.data) == (str, str, 2)
        async with memory.transaction() as tx:
            tx.put(agent, key, 3)
            tx.delete(agent, seen)
        assert await memory.get_many([(agent, key), (agent, seen)]) == [3, None]
        assert [type(r.key) async for r in memory.scan(agent, key)] == [str]
        assert memory.pin(agent, key).value == memory.peek(agent, key) == 3

    live(body)


def test_numpy_strings_name_many_observations(live):
    """An array of strings serves as the keys of a bulk load, and its items as agent and tags."""

    async def body(memory):
        agent, tag = np.array(["AAPL", "t"])
        names = await memory.observe_many(
            agent, np.eye(2), keys=np.array(["one", "two"]), tags=[[tag], [tag]]
        )
        assert [(type(name), name) for name in names] == [(str, "one"), (str, "two")]
        hits = await memory.search_similar(agent, [1.0, 0.5], tags=[tag])
        assert [(type(hit.key), hit.key) for hit in hits] == [(str, "one"), (str, "two")]

    live(body)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda memory: memory.put("a", "k", 1, expect=2**70), id="expect"),
        pytest.param(lambda memory: memory.put("a", "k", 1, expect=2**63), id="expect-64-bit"),
        pytest.param(lambda memory: memory.delete("a", "k", expect=2**70), id="delete"),
        pytest.param(lambda memory: memory.put("a", "k", 1, fence=2**70), id="fence"),
        pytest.param(lambda memory: memory.put("a", "k", 1, fence=2**63), id="fence-64-bit"),
        pytest.param(lambda memory: memory.observe("a", [1.0], fence=2**70), id="observe"),
        pytest.param(lambda memory: memory.wait_for("x"), id="wait_for"),
        pytest.param(lambda memory: memory.wait_for(2**70), id="wait_for-large"),
        pytest.param(lambda memory: anext(memory.tail(2**70)), id="tail-large"),
        pytest.param(lambda memory: anext(memory.tail("x")), id="tail"),
    ],
)
def test_numbers_that_are_no_revision_are_refused(live, call):
    """What cannot be a revision or a fence is an error of the caller, and changes nothing."""

    async def body(memory):
        revision = memory.revision
        with pytest.raises(InvalidInputError):
            await call(memory)
        assert await memory.put("a", "good", 1) == revision + 1

    live(body)


def test_a_request_that_did_nothing_is_not_taken_for_an_observation(live):
    """A repeated id returns the first result; where that would seem to store something, it is refused."""

    async def body(memory):
        assert await memory.delete("a", "nothing", request_id="R") is None
        with pytest.raises(InvalidInputError, match="delete that found nothing"):
            await memory.observe("a", [1.0, 0.0], 1, key="k", request_id="R")
        assert await memory.get("a", "k") is None
        assert await memory.observe("a", [1.0, 0.0], 1, key="k", request_id="S") == "k"
        assert await memory.observe("a", [1.0, 0.0], 2, key="other", request_id="S") == "k"
        assert await memory.get("a", "k") == 1

    live(body)


def test_a_life_past_the_calendar_is_refused(backtest, clock, later):
    """A value that would expire after the year 9999 is refused; the store goes on."""
    last = clock.now().replace(year=9990)

    async def body(memory):
        await memory.timeline.advance(last)
        revision = memory.revision
        for write in (
            lambda: memory.put("a", "k", 1, ttl=20 * 366 * 86_400),
            lambda: memory.observe("a", [1.0, 0.0], ttl=20 * 366 * 86_400),
        ):
            with pytest.raises(InvalidTimeError):
                await write()
        with pytest.raises(LookAheadError):
            await memory.put("a", "k", 1, known_at=last.replace(year=9991))
        assert await memory.put("a", "k", 2, ttl=366 * 86_400) == revision + 1
        record = await memory.get_record("a", "k")
        assert record.expires_at.year == 9991
        assert await memory.put("a", "k", 3, known_at=later(0), ttl=1) == revision + 2

    backtest(body)


WIDE = "\N{MATHEMATICAL SCRIPT CAPITAL X}"  # four bytes of UTF-8


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda memory, label: memory.acquire_lock(label), id="lock"),
        pytest.param(lambda memory, label: memory.acquire_lock("r", holder=label), id="holder"),
        pytest.param(lambda memory, label: memory.put("a", "k", 1, request_id=label), id="request"),
        pytest.param(lambda memory, label: memory.observe("a", [1.0], tags=[label]), id="tag"),
        pytest.param(
            lambda memory, label: memory.consensus.submit_proposal(
                Proposal("a", 1, "2/3", id=label)
            ),
            id="proposal",
        ),
        pytest.param(lambda memory, label: memory.consensus.get_result(label), id="result"),
    ],
)
def test_a_label_is_bounded_in_bytes_too(live, call):
    """A label too long for the views is refused by name, and the store goes on."""

    async def body(memory):
        await memory.consensus.register_agent("a")
        revision = memory.revision
        with pytest.raises(InvalidNameError):
            await call(memory, WIDE * 128)
        assert await memory.put("a", "good", 1) == revision + 1

    live(body)


def test_a_label_of_the_greatest_length_works(live):
    """256 bytes name a lock, a request, a tag and a proposal, whatever the letters."""
    label = WIDE * 64

    async def body(memory):
        await memory.consensus.register_agent("a")
        await memory.consensus.submit_proposal(Proposal("a", 1, "2/3", id=label))
        token = await memory.acquire_lock(label)
        await memory.put("a", "k", 1, request_id=label, fence=token)
        await memory.observe("a", [1.0], 1, key="seen", tags=[label])
        (hit,) = await memory.search_similar("a", [1.0], tags=[label])
        assert hit.key == "seen"
        assert await memory.consensus.get_result(label) is not None

    live(body)
