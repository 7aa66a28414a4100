"""The state API, one promise a test: put, get, delete, transaction, scan, history, watch, pin."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from datetime import UTC, datetime, timedelta, timezone

import pytest

from nt_memory import AsOf, Change, MemoryConfig, MemorySystem, Namespace, Record, thaw
from nt_memory.errors import (
    ClosedError,
    ConflictError,
    InvalidInputError,
    InvalidTimeError,
    ReadOnlyError,
    StaleFenceError,
    TrimmedError,
)

# --- opening ----------------------------------------------------------------------------------


def test_open_takes_a_path_and_works_with_async_with(store, run):
    """`async with MemorySystem.open("./data/memory")` is all it takes."""

    async def body():
        async with MemorySystem.open(str(store)) as memory:
            await memory.put("agent_1", "position", {"AAPL": 10})
            assert await memory.get("agent_1", "position") == {"AAPL": 10}

    run(body())


def test_open_takes_a_path_object(store, run):
    """A `pathlib.Path` is a path too."""

    async def body():
        async with MemorySystem.open(store) as memory:
            assert await memory.put("a", "k", 1) > 0

    run(body())
    assert store.is_dir()


def test_open_takes_a_config_and_can_be_awaited(store, run):
    """`memory = await MemorySystem.open(config)`, then `close`."""

    async def body():
        memory = await MemorySystem.open(MemoryConfig(storage_path=store))
        assert await memory.put("a", "k", 1) > 0
        await memory.close()

    run(body())


def test_open_without_target_uses_the_default_directory(tmp_path, monkeypatch, run):
    """The default target is the embedded store in ./data/memory."""
    monkeypatch.chdir(tmp_path)

    async def body():
        async with MemorySystem.open() as memory:
            await memory.put("a", "k", 1)

    run(body())
    assert (tmp_path / "data" / "memory").is_dir()


def test_contents_survive_reopening(live):
    """What was put is there after close and open, with the same revision and times."""

    async def write(memory):
        await memory.put("a", "k", {"x": [1, 2]})
        return await memory.get_record("a", "k")

    async def read(memory):
        return await memory.get_record("a", "k")

    assert live(write) == live(read)


def test_leaving_the_block_closes(store, run):
    """After `async with` every call raises ClosedError."""

    async def body():
        async with MemorySystem.open(store) as memory:
            await memory.put("a", "k", 1)
        with pytest.raises(ClosedError):
            await memory.put("a", "k", 2)
        with pytest.raises(ClosedError):
            await memory.get("a", "k")

    run(body())


def test_close_twice_is_harmless(store, run):
    """`close` is idempotent."""

    async def body():
        memory = await MemorySystem.open(store)
        await memory.close()
        await memory.close()

    run(body())


# --- put --------------------------------------------------------------------------------------


def test_put_returns_a_growing_revision(live):
    """Every put returns an int greater than any before, over all agents and keys."""

    async def body(memory):
        revisions = [
            await memory.put("a", "k", 1),
            await memory.put("b", "k", 1),
            await memory.put("a", "k", 1),
        ]
        assert all(type(revision) is int for revision in revisions)
        assert revisions == sorted(set(revisions))
        assert memory.revision >= revisions[-1]

    live(body)


def test_put_none_is_a_value(live):
    """None can be stored and is told apart from nothing."""

    async def body(memory):
        await memory.put("a", "k", None)
        assert await memory.get("a", "k", "default") is None
        assert (await memory.get_record("a", "k")).value is None

    live(body)


def test_put_with_ttl_expires_exactly_then(live, clock):
    """The value is there until just before `known_at + ttl` seconds and gone from then on."""

    async def body(memory):
        await memory.put("a", "k", 1, ttl=10.0)
        record = await memory.get_record("a", "k")
        assert record.expires_at == record.known_at + timedelta(seconds=10)
        clock.advance(9.999999)
        assert await memory.get("a", "k") == 1
        clock.advance(0.000001)
        assert await memory.get("a", "k", "gone") == "gone"
        assert await memory.get_record("a", "k") is None

    live(body)


def test_ttl_counts_from_known_at(live, later):
    """A late put has only what is left of its ttl."""

    async def body(memory):
        await memory.put("a", "long", 1, known_at=later(-60), ttl=61)
        await memory.put("a", "over", 1, known_at=later(-60), ttl=59)
        assert await memory.get("a", "long") == 1
        assert await memory.get("a", "over") is None

    live(body)


def test_an_expired_version_hides_older_ones(live, clock):
    """Expiry does not bring the previous value back."""

    async def body(memory):
        await memory.put("a", "k", "old")
        clock.advance(1)
        await memory.put("a", "k", "new", ttl=10)
        clock.advance(11)
        assert await memory.get("a", "k") is None

    live(body)


def test_put_after_expiry_is_seen(live, clock):
    """An expired key can be written again."""

    async def body(memory):
        await memory.put("a", "k", "old", ttl=10)
        clock.advance(11)
        await memory.put("a", "k", "new", expect=0)
        assert await memory.get("a", "k") == "new"

    live(body)


def test_put_without_ttl_lives_for_ever(live, clock):
    """A later put without ttl replaces one with."""

    async def body(memory):
        await memory.put("a", "k", 1, ttl=10)
        clock.advance(1)
        await memory.put("a", "k", 2)
        clock.advance(10 * 365 * 86_400)
        assert await memory.get("a", "k") == 2
        assert (await memory.get_record("a", "k")).expires_at is None

    live(body)


def test_known_at_defaults_to_now(live, clock):
    """Without `known_at` a put is known when it is recorded."""

    async def body(memory):
        clock.advance(5)
        await memory.put("a", "k", 1)
        record = await memory.get_record("a", "k")
        assert record.known_at == clock.now()
        assert record.recorded_at == clock.now()

    live(body)


def test_a_late_put_is_history_not_the_present(live, clock, later):
    """Current is the greatest known_at: a late put changes the past only."""

    async def body(memory):
        known_at = later(-30)
        await memory.put("a", "k", "present", known_at=later(-10))
        await memory.put("a", "k", "late", known_at=known_at)
        assert await memory.get("a", "k") == "present"
        assert await memory.get("a", "k", as_of=clock.now()) == "present"
        assert await memory.get("a", "k", as_of=known_at) == "late"

    live(body)


def test_equal_known_at_later_revision_wins(live, later):
    """Ties in known_at go to the later entry."""

    async def body(memory):
        known_at = later(-5)
        await memory.put("a", "k", "first", known_at=known_at)
        await memory.put("a", "k", "second", known_at=known_at)
        assert await memory.get("a", "k") == "second"

    live(body)


def test_known_at_in_another_zone_is_the_same_instant(live):
    """Any aware datetime will do."""

    async def body(memory):
        instant = datetime(2023, 12, 1, 12, tzinfo=UTC)
        tokyo = instant.astimezone(timezone(timedelta(hours=9)))
        await memory.put("a", "k", 1, known_at=tokyo)
        assert (await memory.get_record("a", "k")).known_at == instant
        assert await memory.get("a", "k", as_of=instant) == 1
        assert await memory.get("a", "k", as_of=instant - timedelta(microseconds=1)) is None

    live(body)


def test_known_at_may_not_lie_in_the_future(live, later):
    """A microsecond ahead of now is refused, and nothing is written."""

    async def body(memory):
        before = memory.revision
        with pytest.raises(InvalidTimeError):
            await memory.put("a", "k", 1, known_at=later(0.000001))
        assert memory.revision == before
        assert await memory.get("a", "k") is None

    live(body)


def test_expect_zero_means_must_not_exist(live):
    """`expect=0` creates, once."""

    async def body(memory):
        first = await memory.put("a", "k", 1, expect=0)
        with pytest.raises(ConflictError) as caught:
            await memory.put("a", "k", 2, expect=0)
        assert caught.value.current == first
        assert await memory.get("a", "k") == 1

    live(body)


def test_expect_revision_is_compare_and_set(live):
    """`expect=r` writes only while the key is still at revision r."""

    async def body(memory):
        first = await memory.put("a", "k", 1)
        second = await memory.put("a", "k", 2, expect=first)
        with pytest.raises(ConflictError) as caught:
            await memory.put("a", "k", 3, expect=first)
        assert caught.value.current == second
        assert await memory.get("a", "k") == 2

    live(body)


def test_expect_on_a_missing_key_reports_zero(live):
    """`ConflictError.current` is 0 if there is nothing."""

    async def body(memory):
        with pytest.raises(ConflictError) as caught:
            await memory.put("a", "k", 3, expect=7)
        assert caught.value.current == 0

    live(body)


def test_expect_treats_deleted_and_expired_as_missing(live, clock):
    """A deleted or expired key does not exist, so `expect=0` holds."""

    async def body(memory):
        await memory.put("a", "deleted", 1)
        await memory.delete("a", "deleted")
        await memory.put("a", "expired", 1, ttl=1)
        clock.advance(2)
        await memory.put("a", "deleted", 2, expect=0)
        await memory.put("a", "expired", 2, expect=0)

    live(body)


def test_expect_tests_the_current_revision_even_of_a_late_put(live, later):
    """A late put expects what is current now, not what was at its known_at."""

    async def body(memory):
        now = await memory.put("a", "k", "now")
        await memory.put("a", "k", "late", known_at=later(-60), expect=now)
        assert await memory.get("a", "k") == "now"

    live(body)


def test_of_many_racing_expects_one_wins(live):
    """Concurrent compare-and-set calls: exactly one succeeds."""

    async def body(memory):
        results = await asyncio.gather(
            *(memory.put("a", "k", n, expect=0) for n in range(20)), return_exceptions=True
        )
        winners = [n for n, result in enumerate(results) if isinstance(result, int)]
        assert len(winners) == 1
        assert sum(isinstance(result, ConflictError) for result in results) == 19
        assert await memory.get("a", "k") == winners[0]

    live(body)


def test_a_repeated_request_acts_once(live):
    """The same `request_id` returns the first result, whatever happened since."""

    async def body(memory):
        first = await memory.put("a", "k", 1, request_id="order-1")
        await memory.put("a", "k", 2)
        assert await memory.put("a", "k", 1, request_id="order-1") == first
        assert await memory.get("a", "k") == 2

    live(body)


def test_a_repeated_request_is_recognised_after_reopening(live):
    """Results of requests are as durable as what they did."""

    async def first(memory):
        return await memory.put("a", "k", 1, request_id="order-1", expect=0)

    assert live(first) == live(first)


def test_concurrent_repeats_of_a_request_act_once(live, collect):
    """Two copies of a request in flight at the same time are one request."""

    async def body(memory):
        revisions = await asyncio.gather(
            *(memory.put("a", "k", 1, request_id="order-1") for _ in range(5))
        )
        assert len(set(revisions)) == 1
        assert len(await collect(memory.history("a", "k"))) == 1

    live(body)


def test_a_refused_request_may_be_tried_again(live):
    """A rejection leaves nothing behind, its request id included."""

    async def body(memory):
        with pytest.raises(ConflictError):
            await memory.put("a", "k", 1, expect=99, request_id="order-1")
        assert await memory.put("a", "k", 1, request_id="order-1") > 0
        assert await memory.get("a", "k") == 1

    live(body)


def test_a_current_fence_is_accepted_and_an_old_one_refused(live):
    """`fence` takes a lock's token; once released, writes under it are refused."""

    async def body(memory):
        token = await memory.acquire_lock("book")
        await memory.put("a", "k", 1, fence=token)
        await memory.release_lock(token)
        with pytest.raises(StaleFenceError):
            await memory.put("a", "k", 2, fence=token)
        assert await memory.get("a", "k") == 1

    live(body)


def test_actor_is_the_configured_agent(live):
    """`Record.actor` is the `agent` of the configuration of who wrote it."""

    async def body(memory):
        await memory.put("a", "k", 1)
        return (await memory.get_record("a", "k")).actor

    assert live(body, agent="risk_desk") == "risk_desk"
    assert live(body) == ""


# --- get, get_many, get_record ----------------------------------------------------------------


def test_get_of_nothing_is_the_default(live):
    """None, or the default given; of a key, and of an agent never heard of."""

    async def body(memory):
        marker = object()
        assert await memory.get("a", "k") is None
        assert await memory.get("a", "k", marker) is marker
        assert await memory.get("nobody", "k", default=marker) is marker

    live(body)


def test_get_returns_a_read_only_value(live):
    """What `get` returns cannot be changed, at any depth."""

    async def body(memory):
        await memory.put("a", "k", {"legs": [1, {"qty": 2}]})
        value = await memory.get("a", "k")
        with pytest.raises(TypeError):
            value["legs"] = []
        with pytest.raises(TypeError):
            value["legs"].append(3)
        with pytest.raises(TypeError):
            value["legs"][1]["qty"] = 3
        assert await memory.get("a", "k") == {"legs": [1, {"qty": 2}]}

    live(body)


def test_get_many_returns_a_list_in_order(live):
    """One value a pair, in the order asked, None where there is nothing, repeats included."""

    async def body(memory):
        await memory.put("a", "x", 1)
        await memory.put("b", "y", 2)
        found = await memory.get_many([("b", "y"), ("a", "none"), ("a", "x"), ("b", "y")])
        assert found == [2, None, 1, 2]
        assert await memory.get_many([]) == []

    live(body)


def test_get_record_has_all_that_is_known(live, clock, later):
    """A Record carries names, value, revision, both times, end of life and actor."""

    async def body(memory):
        known_at = later(-7)
        revision = await memory.put("a", "k", [1], known_at=known_at, ttl=60)
        assert await memory.get_record("a", "k") == Record(
            agent="a",
            key="k",
            value=[1],
            revision=revision,
            known_at=known_at,
            recorded_at=clock.now(),
            expires_at=known_at + timedelta(seconds=60),
            actor="me",
        )
        assert await memory.get_record("a", "none") is None

    live(body, agent="me")


# --- as-of reads ------------------------------------------------------------------------------


def test_as_of_a_time_is_all_that_was_known_by_then(live, clock):
    """`known_at <= t`, the very instant included."""

    async def body(memory):
        before = clock.now()
        clock.advance(10)
        await memory.put("a", "k", 1)
        first = clock.now()
        clock.advance(10)
        await memory.put("a", "k", 2)
        tick = timedelta(microseconds=1)
        assert await memory.get("a", "k", as_of=before) is None
        assert await memory.get("a", "k", as_of=first - tick) is None
        assert await memory.get("a", "k", as_of=first) == 1
        assert await memory.get("a", "k", as_of=clock.now() - tick) == 1
        assert await memory.get("a", "k", as_of=clock.now()) == 2

    live(body)


def test_as_of_a_revision_is_the_state_right_after_it(live):
    """Every intermediate state can be read by its revision."""

    async def body(memory):
        revisions = [await memory.put("a", "k", n) for n in range(5)]
        for n, revision in enumerate(revisions):
            assert await memory.get("a", "k", as_of=revision) == n
        assert await memory.get("a", "k", as_of=revisions[0] - 1) is None

    live(body)


def test_as_of_a_revision_judges_expiry_as_of_then(live, clock):
    """A value that has expired since is still there in the state of its revision."""

    async def body(memory):
        revision = await memory.put("a", "k", 1, ttl=10)
        clock.advance(60)
        later = await memory.put("a", "other", 1)
        assert await memory.get("a", "k", as_of=revision) == 1
        assert await memory.get("a", "k", as_of=later) is None

    live(body)


def test_as_of_a_time_judges_expiry_as_of_then(live, clock):
    """A value that has expired since was there at a time before."""

    async def body(memory):
        await memory.put("a", "k", 1, ttl=10)
        put_at = clock.now()
        clock.advance(60)
        for seconds, expected in ((0, 1), (9.999999, 1), (10, None), (60, None)):
            as_of = put_at + timedelta(seconds=seconds)
            assert await memory.get("a", "k", as_of=as_of) == expected

    live(body)


def test_as_of_both_clocks_leaves_out_what_was_recorded_later(live, clock, later):
    """AsOf(time, revision): what was known by the time, as recorded by the revision."""

    async def body(memory):
        known_at = later(-60)
        first = await memory.put("a", "k", "as reported", known_at=known_at)
        await memory.put("a", "k", "as restated", known_at=known_at)
        assert await memory.get("a", "k", as_of=known_at) == "as restated"
        assert await memory.get("a", "k", as_of=AsOf(known_at, first)) == "as reported"
        early = known_at - timedelta(seconds=1)
        assert await memory.get("a", "k", as_of=AsOf(early, first)) is None

    live(body)


def test_get_and_get_as_of_now_agree(live, clock, later):
    """Also after late puts, deletes and expiry."""

    async def body(memory):
        await memory.put("a", "late", 2)
        await memory.put("a", "late", 1, known_at=later(-9))
        await memory.put("a", "deleted", 1)
        await memory.delete("a", "deleted")
        await memory.put("a", "expired", 1, ttl=1)
        clock.advance(5)
        for key in ("late", "deleted", "expired"):
            assert await memory.get("a", key) == await memory.get("a", key, as_of=clock.now())

    live(body)


def test_as_of_refuses_naive_times_and_nonsense(live):
    """A naive datetime, a string, a bool, a negative or unborn revision: each is refused."""

    async def body(memory):
        await memory.put("a", "k", 1)
        with pytest.raises(InvalidTimeError):
            await memory.get("a", "k", as_of=datetime(2024, 1, 1))  # noqa: DTZ001
        for nonsense in ("2024-01-01", True, 1.5, -1, memory.revision + 1):
            with pytest.raises(InvalidInputError):
                await memory.get("a", "k", as_of=nonsense)

    live(body)


# --- delete -----------------------------------------------------------------------------------


def test_delete_returns_its_revision_and_hides_the_key(live):
    """The key is gone for every read of the present."""

    async def body(memory):
        put = await memory.put("a", "k", 1)
        deleted = await memory.delete("a", "k")
        assert deleted > put
        assert await memory.get("a", "k") is None
        assert await memory.get_record("a", "k") is None
        assert [record async for record in memory.scan("a")] == []

    live(body)


def test_delete_of_nothing_returns_none_and_takes_no_revision(live):
    """Of a key that never was, and of one already deleted."""

    async def body(memory):
        assert await memory.delete("a", "k") is None
        await memory.put("a", "k", 1)
        await memory.delete("a", "k")
        before = memory.revision
        assert await memory.delete("a", "k") is None
        assert memory.revision == before

    live(body)


def test_delete_keeps_the_past(live, clock):
    """As-of reads before the delete still see the value, and a deleted version hides older ones."""

    async def body(memory):
        await memory.put("a", "k", "older")
        clock.advance(1)
        revision = await memory.put("a", "k", "newer")
        there = clock.now()
        clock.advance(1)
        await memory.delete("a", "k")
        assert await memory.get("a", "k") is None
        assert await memory.get("a", "k", as_of=there) == "newer"
        assert await memory.get("a", "k", as_of=revision) == "newer"

    live(body)


def test_a_late_delete_does_not_touch_the_present(live, clock, later):
    """A delete with an earlier known_at ends the version of that time only."""

    async def body(memory):
        await memory.put("a", "k", "old", known_at=later(-60))
        await memory.put("a", "k", "new", known_at=later(-20))
        assert await memory.delete("a", "k", known_at=later(-40)) is not None
        assert await memory.get("a", "k") == "new"
        assert await memory.get("a", "k", as_of=later(-50)) == "old"
        assert await memory.get("a", "k", as_of=later(-30)) is None

    live(body)


def test_delete_with_expect(live):
    """A delete too can be made conditional."""

    async def body(memory):
        first = await memory.put("a", "k", 1)
        second = await memory.put("a", "k", 2)
        with pytest.raises(ConflictError) as caught:
            await memory.delete("a", "k", expect=first)
        assert caught.value.current == second
        assert await memory.delete("a", "k", expect=second) > second

    live(body)


def test_delete_with_a_repeated_request_acts_once(live):
    """The second copy of a delete returns the first result and spares what was put since."""

    async def body(memory):
        await memory.put("a", "k", 1)
        first = await memory.delete("a", "k", request_id="d-1")
        await memory.put("a", "k", 2)
        assert await memory.delete("a", "k", request_id="d-1") == first
        assert await memory.get("a", "k") == 2

    live(body)


def test_delete_with_a_stale_fence_is_refused(live):
    """Deletes are fenced like puts."""

    async def body(memory):
        await memory.put("a", "k", 1)
        token = await memory.acquire_lock("book")
        await memory.release_lock(token)
        with pytest.raises(StaleFenceError):
            await memory.delete("a", "k", fence=token)
        assert await memory.get("a", "k") == 1

    live(body)


# --- transaction ------------------------------------------------------------------------------


def test_a_transaction_has_one_revision(live):
    """Position and cash move together, of several agents too."""

    async def body(memory):
        await memory.put("a", "old", 1)
        before = memory.revision
        async with memory.transaction() as tx:
            tx.put("a", "position", 10)
            tx.put("bank", "cash", -1000)
            tx.delete("a", "old")
        assert memory.revision == before + 1
        position = await memory.get_record("a", "position")
        cash = await memory.get_record("bank", "cash")
        assert position.revision == cash.revision == before + 1
        assert await memory.get("a", "old") is None
        assert await memory.get_many([("a", "position"), ("a", "old")]) == [10, None]
        assert await memory.get("a", "position", as_of=before) is None

    live(body)


def test_nothing_of_a_transaction_is_visible_before_it_ends(live):
    """Inside the block the store is as before."""

    async def body(memory):
        async with memory.transaction() as tx:
            tx.put("a", "k", 1)
            assert await memory.get("a", "k") is None
        assert await memory.get("a", "k") == 1

    live(body)


def test_an_error_in_the_block_undoes_the_transaction(live):
    """The error goes through, and nothing was written."""

    async def body(memory):
        async def fail():
            async with memory.transaction() as tx:
                tx.put("a", "k", 1)
                raise ZeroDivisionError

        before = memory.revision
        with pytest.raises(ZeroDivisionError):
            await fail()
        assert memory.revision == before
        assert await memory.get("a", "k") is None

    live(body)


def test_one_conflict_refuses_the_whole_transaction(live):
    """All or nothing: the operations before and after the refused one are undone too."""

    async def body(memory):
        async def fail():
            async with memory.transaction() as tx:
                tx.put("a", "first", 1)
                tx.put("a", "taken", 2, expect=0)
                tx.put("a", "last", 1)

        await memory.put("a", "taken", 1)
        before = memory.revision
        with pytest.raises(ConflictError):
            await fail()
        assert memory.revision == before
        assert await memory.get_many([("a", "first"), ("a", "last"), ("a", "taken")]) == [
            None,
            None,
            1,
        ]

    live(body)


def test_a_bad_operation_is_refused_where_it_is_written(live):
    """An invalid name or value raises at its own line, and nothing is written."""

    async def body(memory):
        async def attempt(agent, key, value):
            async with memory.transaction() as tx:
                tx.put("a", "fine", 1)
                with pytest.raises(InvalidInputError):
                    tx.put(agent, key, value)
                raise ZeroDivisionError

        before = memory.revision
        for agent, key, value in (("a", "../x", 1), ("a", "k", object()), ("", "k", 1)):
            with pytest.raises(ZeroDivisionError):
                await attempt(agent, key, value)
        assert memory.revision == before

    live(body)


def test_a_transaction_copies_values_when_they_are_put(live):
    """Changing an object between `tx.put` and the end of the block changes nothing."""

    async def body(memory):
        position = {"AAPL": 10}
        async with memory.transaction() as tx:
            tx.put("a", "k", position)
            position["AAPL"] = 99
        assert await memory.get("a", "k") == {"AAPL": 10}

    live(body)


def test_a_transaction_is_fenced_as_a_whole(live):
    """A stale fence refuses all of it."""

    async def body(memory):
        async def write(token, *keys):
            async with memory.transaction(fence=token) as tx:
                for key in keys:
                    tx.put("a", key, 1)

        token = await memory.acquire_lock("book")
        await write(token, "x")
        await memory.release_lock(token)
        with pytest.raises(StaleFenceError):
            await write(token, "x", "y")
        assert await memory.get_many([("a", "x"), ("a", "y")]) == [1, None]

    live(body)


def test_a_repeated_transaction_acts_once(live):
    """`request_id` covers the whole transaction."""

    async def body(memory):
        async def transfer():
            async with memory.transaction(request_id="t-1") as tx:
                tx.put("a", "cash", await memory.get("a", "cash", 0) - 10)
                tx.put("b", "cash", await memory.get("b", "cash", 0) + 10)

        await transfer()
        after = memory.revision
        await transfer()
        assert memory.revision == after
        assert await memory.get_many([("a", "cash"), ("b", "cash")]) == [-10, 10]

    live(body)


def test_a_transaction_acts_in_the_order_it_is_written(live, later):
    """A delete after a put in the same transaction deletes what was put, late or not."""

    async def body(memory):
        async with memory.transaction() as tx:
            tx.put("a", "late", 1, known_at=later(-10))
            tx.delete("a", "late")
            tx.put("a", "gone", 1)
            tx.delete("a", "gone")
            tx.delete("a", "back")
            tx.put("a", "back", 1)
            tx.put("a", "back", 2)
        keys = ("late", "gone", "back")
        assert await memory.get_many([("a", key) for key in keys]) == [None, None, 2]
        assert await memory.get("a", "late", as_of=later(-5)) == 1

    live(body)


def test_an_empty_transaction_does_nothing(live):
    """No operations, no entry."""

    async def body(memory):
        before = memory.revision
        async with memory.transaction():
            pass
        assert memory.revision == before

    live(body)


def test_operations_of_a_transaction_take_ttl_and_known_at(live, clock, later):
    """Each operation has its own times."""

    async def body(memory):
        known_at = later(-10)
        async with memory.transaction() as tx:
            tx.put("a", "late", 1, known_at=known_at)
            tx.put("a", "short", 1, ttl=5)
        assert (await memory.get_record("a", "late")).known_at == known_at
        clock.advance(5)
        assert await memory.get_many([("a", "late"), ("a", "short")]) == [1, None]

    live(body)


# --- scan and history -------------------------------------------------------------------------


def test_scan_is_in_key_order(live, collect):
    """By key, code point order, whatever the order of writing; Records with values."""

    async def body(memory):
        for key in ("b", "é", "a/x", "ab", "a", "B"):
            await memory.put("a", key, key)
        records = await collect(memory.scan("a"))
        assert [record.key for record in records] == ["B", "a", "a/x", "ab", "b", "é"]
        assert [record.value for record in records] == [record.key for record in records]
        assert all(isinstance(record, Record) for record in records)

    live(body)


def test_scan_keeps_to_agent_and_prefix(live, collect):
    """A prefix is a prefix of characters, not of levels; other agents do not show."""

    async def body(memory):
        for agent in ("a", "a2"):
            for key in ("pos/AAPL", "pos/MSFT", "position", "x"):
                await memory.put(agent, key, 1)
        keys = [record.key for record in await collect(memory.scan("a", "pos/"))]
        assert keys == ["pos/AAPL", "pos/MSFT"]
        keys = [record.key for record in await collect(memory.scan("a", "pos"))]
        assert keys == ["pos/AAPL", "pos/MSFT", "position"]
        assert await collect(memory.scan("a", "zz")) == []
        assert {record.agent for record in await collect(memory.scan("a"))} == {"a"}

    live(body)


def test_scan_leaves_out_deleted_and_expired(live, clock, collect):
    """Only what a get would return."""

    async def body(memory):
        await memory.put("a", "deleted", 1)
        await memory.delete("a", "deleted")
        await memory.put("a", "expired", 1, ttl=1)
        await memory.put("a", "there", 1)
        clock.advance(2)
        assert [record.key for record in await collect(memory.scan("a"))] == ["there"]

    live(body)


def test_scan_as_of(live, clock, collect):
    """A scan of the past sees the values and the keys of then."""

    async def body(memory):
        revision = await memory.put("a", "k", 1)
        then = clock.now()
        clock.advance(1)
        await memory.put("a", "k", 2)
        await memory.put("a", "later", 1)
        for as_of in (then, revision, AsOf(then, memory.revision)):
            records = await collect(memory.scan("a", as_of=as_of))
            assert [(record.key, record.value) for record in records] == [("k", 1)]

    live(body)


def test_history_is_newest_first(live, clock, collect, later):
    """By known_at, then revision; a late put is sorted in where it belongs."""

    async def body(memory):
        await memory.put("a", "k", 1)
        clock.advance(10)
        await memory.put("a", "k", 2)
        await memory.put("a", "k", 3)
        await memory.put("a", "k", "late", known_at=later(-5))
        records = await collect(memory.history("a", "k"))
        assert [record.value for record in records] == [3, 2, "late", 1]
        assert await collect(memory.history("a", "other")) == []

    live(body)


def test_history_keeps_what_was_deleted_or_has_expired(live, clock, collect):
    """History is what was once written."""

    async def body(memory):
        await memory.put("a", "k", 1)
        clock.advance(1)
        await memory.delete("a", "k")
        clock.advance(1)
        await memory.put("a", "k", 2, ttl=1)
        clock.advance(5)
        records = await collect(memory.history("a", "k"))
        assert [record.value for record in records] == [2, 1]

    live(body)


def test_history_setting_limits_superseded_versions(live, clock, collect):
    """`history=2` keeps two versions behind the current one."""

    async def body(memory):
        for n in range(6):
            await memory.put("a", "k", n)
            clock.advance(1)
        assert [record.value for record in await collect(memory.history("a", "k"))] == [5, 4, 3]
        assert await memory.get("a", "k") == 5

    live(body, history=2)


def test_what_history_dropped_says_so(live, clock):
    """An as-of read before the oldest version kept raises TrimmedError, not a miss."""

    async def body(memory):
        start = clock.now()
        for n in range(4):
            clock.advance(1)
            await memory.put("a", "k", n)
        with pytest.raises(TrimmedError) as caught:
            await memory.get("a", "k", as_of=start + timedelta(seconds=2))
        assert caught.value.oldest > 0
        assert await memory.get("a", "k", as_of=start + timedelta(seconds=3)) == 2
        assert await memory.get("a", "k", as_of=clock.now()) == 3
        assert await memory.get("a", "other", as_of=start) is None

    live(body, history=1)


def test_watch_has_what_history_dropped(live, collect):
    """The journal still holds it."""

    async def body(memory):
        for n in range(5):
            await memory.put("a", "k", n)
        changes = await collect(memory.watch("a", after=0), 5)
        assert [change.record.value for change in changes] == list(range(5))

    live(body, history=0)


# --- watch ------------------------------------------------------------------------------------


def test_watch_sees_puts_and_deletes_in_order(live, collect):
    """One Change each, with its revision; the record comes with a put only."""

    async def body(memory):
        watcher = memory.watch("a")
        put = await memory.put("a", "k", 1)
        again = await memory.put("a", "k", 2)
        deleted = await memory.delete("a", "k")
        changes = await collect(watcher, 3)
        assert [(change.kind, change.key, change.revision) for change in changes] == [
            ("put", "k", put),
            ("put", "k", again),
            ("delete", "k", deleted),
        ]
        assert [change.record and change.record.value for change in changes] == [1, 2, None]
        assert all(isinstance(change, Change) and change.agent == "a" for change in changes)

    live(body)


def test_watch_begins_at_the_call_not_at_the_first_step(live, collect):
    """What is written between the call and the first `anext` is not missed; earlier is not told."""

    async def body(memory):
        await memory.put("a", "before", 1)
        watcher = memory.watch("a")
        await memory.put("a", "after", 1)
        (change,) = await collect(watcher, 1)
        assert change.key == "after"

    live(body)


def test_watch_tells_of_expiry_without_anyone_writing(live, clock, collect):
    """When a ttl runs out the watcher hears of it by itself."""

    async def body(memory):
        watcher = memory.watch("a")
        await memory.put("a", "k", 1, ttl=10)
        await collect(watcher, 1)
        waiting = asyncio.ensure_future(collect(watcher, 1))
        clock.advance(11)
        (change,) = await waiting
        assert (change.kind, change.key, change.record) == ("expire", "k", None)

    live(body)


def test_watch_tells_expiry_before_the_put_that_follows(live, clock, collect):
    """If a key is written again before the tick, its expiry still comes first, and once."""

    async def body(memory):
        watcher = memory.watch("a")
        await memory.put("a", "k", 1, ttl=10)
        clock.advance(10)
        await memory.put("a", "k", 2)
        await memory.put("a", "end", 0)
        changes = await collect(watcher, 4)
        assert [(change.kind, change.key) for change in changes] == [
            ("put", "k"),
            ("expire", "k"),
            ("put", "k"),
            ("put", "end"),
        ]

    live(body)


def test_a_replaced_value_does_not_expire(live, clock, collect):
    """Only what is current when its time is over is told to expire."""

    async def body(memory):
        watcher = memory.watch("a")
        await memory.put("a", "k", 1, ttl=10)
        clock.advance(1)
        await memory.put("a", "k", 2)
        clock.advance(20)
        await memory.put("a", "end", 0)
        kinds = [change.kind for change in await collect(watcher, 3)]
        assert kinds == ["put", "put", "put"]

    live(body)


def test_watch_keeps_to_agent_and_prefix(live, collect):
    """Other agents' and other keys' changes are not told."""

    async def body(memory):
        watcher = memory.watch("a", "pos/")
        for agent, key in (("b", "pos/x"), ("a", "cash"), ("a2", "pos/x"), ("a", "pos/x")):
            await memory.put(agent, key, 1)
        (change,) = await collect(watcher, 1)
        assert (change.agent, change.key) == ("a", "pos/x")

    live(body)


def test_watch_after_a_revision_reads_the_journal(live, collect):
    """`after` starts in the past, and goes on into the present."""

    async def body(memory):
        revisions = [await memory.put("a", "k", n) for n in range(5)]
        watcher = memory.watch("a", after=revisions[1])
        changes = await collect(watcher, 3)
        assert [change.revision for change in changes] == revisions[2:]
        revision = await memory.put("a", "k", 5)
        (change,) = await collect(watcher, 1)
        assert change.revision == revision

    live(body)


def test_watch_after_works_across_reopening(live, collect):
    """A watcher can go on where another process's lifetime ended."""

    async def first(memory):
        await memory.put("a", "k", 1)
        await memory.delete("a", "k")

    async def second(memory):
        await memory.put("a", "k", 2)
        watcher = memory.watch("a", after=0)
        changes = await collect(watcher, 3)
        assert [change.kind for change in changes] == ["put", "delete", "put"]
        assert changes[0].record.value == 1

    live(first)
    live(second)


def test_watch_reports_late_puts(live, later, collect):
    """A late put is a change, though not of the present."""

    async def body(memory):
        watcher = memory.watch("a")
        await memory.put("a", "k", "now")
        await memory.put("a", "k", "late", known_at=later(-60))
        changes = await collect(watcher, 2)
        assert changes[1].record.value == "late"
        assert changes[1].record.known_at == later(-60)

    live(body)


def test_watch_reports_all_operations_of_a_transaction(live, collect):
    """Each key its change, all with the one revision."""

    async def body(memory):
        watcher = memory.watch("a")
        async with memory.transaction() as tx:
            tx.put("a", "x", 1)
            tx.put("b", "x", 1)
            tx.put("a", "y", 2)
        changes = await collect(watcher, 2)
        assert {change.key for change in changes} == {"x", "y"}
        assert {change.revision for change in changes} == {memory.revision}

    live(body)


def test_a_slow_watcher_misses_nothing(live, collect):
    """Thousands of changes later it still gets every one."""

    async def body(memory):
        watcher = memory.watch("a")
        await asyncio.gather(*(memory.put("a", f"k{n}", n) for n in range(2000)))
        changes = await collect(watcher, 2000)
        assert [change.record.value for change in changes] == list(range(2000))

    live(body)


def test_closing_the_memory_ends_a_watch(live):
    """A reader that waits is told, not left waiting."""

    async def body(memory):
        watcher = memory.watch("a")
        waiting = asyncio.ensure_future(anext(watcher, "ended"))
        await memory.put("other", "k", 1)
        await memory.close()
        with contextlib.suppress(ClosedError):
            assert await asyncio.wait_for(waiting, 10) == "ended"

    live(body)


# --- peek and pin -----------------------------------------------------------------------------


def test_peek_returns_what_is_hot(live):
    """After a get a peek finds the value, without awaiting, and keeps up with changes."""

    async def body(memory):
        await memory.put("a", "k", 1)
        await memory.get("a", "k")
        assert memory.peek("a", "k") == 1
        await memory.put("a", "k", 2)
        assert memory.peek("a", "k") == 2
        await memory.delete("a", "k")
        assert memory.peek("a", "k", "default") == "default"

    live(body)


def test_peek_never_reads_the_disk(live):
    """What is not hot is the default, though a get would find it."""

    async def write(memory):
        await memory.put("a", "k", 1)

    async def read(memory):
        assert memory.peek("a", "k") is None
        assert memory.peek("a", "k", 7) == 7
        assert await memory.get("a", "k") == 1
        assert memory.peek("a", "k") == 1

    live(write)
    live(read)


def test_peek_does_not_show_what_has_expired(live, clock):
    """Also before the tick that tells watchers."""

    async def body(memory):
        await memory.put("a", "k", 1, ttl=10)
        assert await memory.get("a", "k") == 1
        clock.advance(10)
        assert memory.peek("a", "k", "gone") == "gone"

    live(body)


def test_a_pin_follows_every_change(live):
    """From nothing, through puts, a transaction and a delete, without a call."""

    async def body(memory):
        pin = memory.pin("a", "k")
        assert (pin.value, pin.record) == (None, None)
        revision = await memory.put("a", "k", {"AAPL": 10})
        assert pin.value == {"AAPL": 10}
        assert pin.record.revision == revision
        async with memory.transaction() as tx:
            tx.put("a", "k", {"AAPL": 11})
        assert pin.value == {"AAPL": 11}
        assert pin.record.revision == memory.revision
        await memory.delete("a", "k")
        assert (pin.value, pin.record) == (None, None)
        pin.release()

    live(body)


def test_a_new_pin_holds_what_is_there(live):
    """Also if it was never read since opening."""

    async def write(memory):
        await memory.put("a", "k", 1)

    async def read(memory):
        pin = memory.pin("a", "k")
        assert pin.value == 1
        assert pin.record == await memory.get_record("a", "k")

    live(write)
    live(read)


def test_a_pin_ignores_late_puts(live, later):
    """A pin shows the present."""

    async def body(memory):
        pin = memory.pin("a", "k")
        await memory.put("a", "k", "now")
        await memory.put("a", "k", "late", known_at=later(-60))
        assert pin.value == "now"

    live(body)


def test_a_pin_hears_of_expiry(live, clock, collect):
    """By the time a watcher is told, the pin is empty."""

    async def body(memory):
        pin = memory.pin("a", "k")
        watcher = memory.watch("a")
        await memory.put("a", "k", 1, ttl=10)
        await collect(watcher, 1)
        clock.advance(11)
        await collect(watcher, 1)
        assert (pin.value, pin.record) == (None, None)

    live(body)


def test_a_released_pin_is_counted_no_more(live):
    """Release, and dropping the last reference, both give the pin back."""

    async def body(memory):
        first, second = memory.pin("a", "k"), memory.pin("a", "k")
        assert memory.stats().pins == 2
        first.release()
        assert memory.stats().pins == 1
        await memory.put("a", "k", 1)
        assert second.value == 1
        del second
        gc.collect()
        await memory.put("a", "k", 2)
        assert memory.stats().pins == 0

    live(body)


def test_a_pin_outlives_eviction(live):
    """Pins live outside the cache: filling it does not empty them."""
    from nt_memory import CacheConfig

    async def body(memory):
        pin = memory.pin("a", "k")
        await memory.put("a", "k", 1)
        for n in range(50):
            await memory.put("a", f"x{n}", n)
            await memory.get("a", f"x{n}")
        assert pin.value == 1
        await memory.put("a", "k", 2)
        assert pin.value == 2
        assert memory.stats().l1.entries <= 10

    live(body, cache_config=CacheConfig(max_entries=10))


# --- revision, wait_for, thaw, flush ------------------------------------------------------------


def test_revision_is_what_is_visible(live):
    """It moves with every accepted change."""

    async def body(memory):
        before = memory.revision
        after = await memory.put("a", "k", 1)
        assert memory.revision == after == before + 1

    live(body)


def test_wait_for_returns_once_the_revision_is_visible(live):
    """At once for the past; for the future, when it has come."""

    async def body(memory):
        await memory.wait_for(memory.revision)
        target = memory.revision + 2
        waiting = asyncio.ensure_future(memory.wait_for(target))
        await memory.put("a", "k", 1)
        assert not waiting.done()
        await memory.put("a", "k", 2)
        await asyncio.wait_for(waiting, 10)
        assert memory.revision >= target

    live(body)


def test_thaw_gives_a_mutable_deep_copy(live):
    """Plain dicts and lists at every depth, independent of the stored value."""

    async def body(memory):
        await memory.put("a", "k", {"legs": [{"qty": 1}]})
        value = thaw(await memory.get("a", "k"))
        assert type(value) is dict
        assert type(value["legs"]) is list
        assert type(value["legs"][0]) is dict
        value["legs"][0]["qty"] = 2
        value["legs"].append({})
        assert await memory.get("a", "k") == {"legs": [{"qty": 1}]}

    live(body)


def test_relaxed_durability_is_visible_at_once(live):
    """With durability="relaxed" a write is readable when it returns, and kept after flush."""

    async def write(memory):
        await memory.put("a", "k", 1)
        assert await memory.get("a", "k") == 1
        await memory.flush()

    async def read(memory):
        return await memory.get("a", "k")

    live(write, durability="relaxed")
    assert live(read, durability="relaxed") == 1


def test_a_cancelled_put_leaves_the_store_usable(live):
    """Cancelling a caller never breaks the next; repeating under the same request id is safe."""

    async def body(memory):
        task = asyncio.ensure_future(memory.put("a", "k", 1, request_id="c-1"))
        await memory.put("b", "k", 1)
        task.cancel()
        await asyncio.wait({task})
        await memory.put("a", "k", 1, request_id="c-1")
        assert await memory.get("a", "k") == 1
        assert len([r async for r in memory.history("a", "k")]) == 1

    live(body)


def test_closing_while_writes_are_under_way_is_clean(store, run):
    """Each of them has either happened, and is there afterwards, or raises ClosedError."""

    async def write():
        memory = await MemorySystem.open(store)
        writes = [asyncio.ensure_future(memory.put("a", f"k{n}", n)) for n in range(200)]
        await asyncio.wait(writes[:1])
        await memory.close()
        return await asyncio.gather(*writes, return_exceptions=True)

    async def read():
        async with MemorySystem.open(store) as memory:
            return await memory.get_many([("a", f"k{n}") for n in range(200)])

    results = run(write())
    assert all(isinstance(result, (int, ClosedError)) for result in results)
    there = run(read())
    for n, (result, value) in enumerate(zip(results, there, strict=True)):
        assert value == (n if isinstance(result, int) else None)


# --- names ------------------------------------------------------------------------------------


def test_namespace_build_and_parse_are_inverse():
    """`swarm/<agent>/<key>` is the full form."""
    full = Namespace.build("agent_1", "book/AAPL")
    assert full == "swarm/agent_1/book/AAPL"
    assert Namespace.parse(full) == ("agent_1", "book/AAPL")
    assert Namespace.is_valid(full)


@pytest.mark.parametrize(
    "full",
    ["", "swarm", "swarm/a", "swarm/a/", "other/a/k", "swarm//k", "swarm/-a/k", "swarm/a/../k"],
)
def test_namespace_is_valid_refuses_the_rest(full):
    """Everything else is not a name."""
    assert not Namespace.is_valid(full)
    with pytest.raises(InvalidInputError):
        Namespace.parse(full)


@pytest.mark.parametrize("agent", ["a", "A9", "0", "a.b-c_d", "x" * 64])
@pytest.mark.parametrize("key", ["k", "a/b/c", "with space", "…", "é" * 128, "k" * 256, "a..b"])
def test_every_valid_name_can_be_stored(live, agent, key):
    """The longest, and the most unusual, too."""

    async def body(memory):
        await memory.put(agent, key, [agent, key])
        assert await memory.get(agent, key) == [agent, key]
        assert [record.key async for record in memory.scan(agent)] == [key]

    live(body)


# --- read-only views --------------------------------------------------------------------------


def test_a_read_only_instance_refuses_writes(live):
    """Every write raises ReadOnlyError."""

    async def write(memory):
        await memory.put("a", "k", 1)

    async def read(memory):
        assert await memory.get("a", "k") == 1
        with pytest.raises(ReadOnlyError):
            await memory.put("a", "k", 2)

    live(write)
    live(read, read_only=True)


def test_every_read_of_the_present_counts(live):
    """`get`, `get_record` and `get_many` count as a hit or a miss of L1 once each, as_of reads do not."""

    async def body(memory):
        revision = await memory.put("a", "k", 1)
        await memory.get("a", "k")
        before = memory.stats().l1
        assert await memory.get("a", "k") == 1
        assert (await memory.get_record("a", "k")).value == 1
        assert await memory.get_many([("a", "k")]) == [1]
        assert await memory.get("a", "k", as_of=revision) == 1
        assert await memory.get_record("a", "none") is None
        after = memory.stats().l1
        assert after.hits - before.hits == 3
        assert after.misses - before.misses == 1

    live(body)
